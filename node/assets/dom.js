/**
 * Making and changing what the page shows, whatever it is about: elements, lists, notices, the
 * connection log. Nothing here parses HTML.
 */
const EVENTS_LIMIT = 100;

export const $ = (id) => document.getElementById(id);

export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function button(text, onClick, className) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

export const time = (ms, seconds) =>
  new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", ...(seconds && { second: "2-digit" }) });

/** Says something to those who do not see the page. */
export function speak(text) {
  $("spoken").textContent = text;
}

/** Adds a line to the connection log. */
export function log(text) {
  const line = element("li");
  line.append(element("time", "", time(Date.now(), true)), text);
  $("events").prepend(line);
  if ($("events").children.length > EVENTS_LIMIT) $("events").lastChild.remove();
}

/** Shows a notice until it is dismissed, or until one of its `actions`, `[[label, act]]`, is taken. */
export function notice(text, { bad = false, id = "", actions = [] } = {}) {
  const box = element("div", bad ? "notice bad" : "notice");
  box.dataset.notice = id;
  if (!actions.length) actions = [["Dismiss", () => {}]];
  const buttons = element("div", "actions");
  buttons.append(...actions.map(([label, act]) => button(label, () => (box.remove(), act()))));
  box.append(element("p", "", text), buttons);
  $("notices").append(box);
  log(text);
}

/** Puts new items into a list; the button that had the focus, by its place, has it again. */
export function replaceKeepingFocus(list, items, same = (old, place, rows) => rows[place]) {
  const old = list.contains(document.activeElement) ? document.activeElement : null;
  const place = [...list.querySelectorAll("button")].indexOf(old);
  list.replaceChildren(...items);
  if (old) same(old, place, [...list.querySelectorAll("button")])?.focus();
}
