/**
 * What the tab's conversations look like: their list, and the messages of the one that is open.
 */
import { $, button, element, replaceKeepingFocus, time } from "./dom.js";
import { lastOf, peer, save, tab } from "./tab.js";

const SHOWN_LIMIT = 300;

/** Word and picture of what became of an own message. */
const MARKS = {
  sending: ["sending", "M12 6v6l4 2M12 2a10 10 0 1 0 0 20a10 10 0 1 0 0-20"],
  stored: ["stored", "M5 13l5 5L20 7"],
  delivered: ["delivered", "M1 13l5 5L15 7M12 17l1 1L23 7"],
  failed: ["not sent", "M6 6l12 12M18 6L6 18"],
  unknown: ["unknown", "M8 9a4 4 0 1 1 5 4c-1 .4-1 1-1 2M12 19v.1"],
};

let sendAgain = () => {};
let opened = () => {};

/** `write` is called with the text of a message that somebody wants to send a second time. */
export function onSendAgain(write) {
  sendAgain = write;
}

/** `tell` is called with the name of a conversation that is opened. */
export function onOpen(tell) {
  opened = tell;
}

/** Who is there, of those whom the connection watches: a word by name. Nothing, where it is not known. */
const here = new Map();

/** Tells whether somebody is there. */
export function setHere(name, devices) {
  here.set(name, devices ? "online" : "offline");
  showPeers();
}

/** Tells that this is not known any more, of one or of all. */
export function forgetHere(name) {
  if (name === undefined) here.clear();
  else here.delete(name);
  showPeers();
}

/** How long somebody is said to be writing after the last word of it. */
const TYPING_FOR_MS = 5_000;
/** Who is writing: when that is forgotten, by name. */
const typing = new Map();

/** Tells whether somebody is writing. */
export function setTyping(name, does) {
  clearTimeout(typing.get(name));
  typing.delete(name);
  if (does) typing.set(name, setTimeout(() => setTyping(name, false), TYPING_FOR_MS));
  showDoing();
}

/** Tells that somebody has read an own message, and all before it. */
export function setRead(name, mid) {
  const message = Object.hasOwn(tab.peers, name) && peer(name).messages.find((message) => message.mine && message.mid === mid);
  if (!message) return;
  message.read = true;
  save();
  showDoing();
}

function showDoing() {
  const last = tab?.open && peer(tab.open).messages.findLast((message) => message.mine);
  $("peer-does").textContent = typing.has(tab?.open) ? "is writing" : last?.read ? "has read it" : "";
}

// ---- the list ----

export function showPeers() {
  const names = Object.keys(tab.peers).sort((a, b) => (lastOf(b)?.tick ?? 0) - (lastOf(a)?.tick ?? 0));
  const items = names.map((name) => {
    const { unread, messages } = peer(name);
    const last = messages.at(-1);
    const row = button("", () => openPeer(name));
    row.dataset.peer = name;
    row.ariaCurrent = String(name === tab.open);
    const words = element("span", "grow");
    const title = element("span", "name");
    title.append(element("bdi", "", name));
    if (here.get(name) === "online") title.append(" ", element("span", "here small", "online"));
    words.append(title, element("span", "last soft small", last ? `${last.mine ? "You: " : ""}${last.text}` : "No messages yet"));
    row.append(words);
    if (unread) {
      const badge = element("span", "badge", String(unread));
      badge.append(element("span", "hidden", " unread"));
      row.append(badge);
    }
    const item = element("li");
    item.append(row);
    return item;
  });
  replaceKeepingFocus($("peers"), items, (old, _, rows) => rows.find((row) => row.dataset.peer === old.dataset.peer));
  $("no-peers").hidden = names.length > 0;
  const unread = names.reduce((sum, name) => sum + peer(name).unread, 0);
  $("peer-here").textContent = here.get(tab.open) ?? "";
  showDoing();
  document.title = `${unread ? `(${unread}) ` : ""}${tab.user} · im-gateway`;
  $("elsewhere").hidden = !unread;
  $("elsewhere").textContent = String(unread);
}

export function openPeer(name, focus = true) {
  tab.open = name;
  opened(name);
  peer(name).unread = 0;
  save();
  $("chat").classList.add("talking");
  $("peer-name").textContent = name;
  $("log").replaceChildren();
  $("newer").hidden = true;
  $("nothing").hidden = false;
  $("nothing").textContent = `Nothing here yet. Write to ${name}; they get it when they come.`;
  peer(name).messages.forEach((message, place, messages) => showMessage(message, messages[place - 1]));
  if (loss) showLoss(loss);
  toEnd();
  showPeers();
  if (focus) $("text").focus();
}

function closePeer() {
  const was = tab.open;
  tab.open = null;
  save();
  $("chat").classList.remove("talking");
  showPeers();
  [...$("peers").querySelectorAll("button")].find((row) => row.dataset.peer === was)?.focus();
}

// ---- the open conversation ----

export function showMessage(message, before) {
  const atEnd = isAtEnd();
  const day = new Date(message.at).toDateString();
  if (!before || new Date(before.at).toDateString() !== day) {
    const today = day === new Date().toDateString();
    $("log").append(element("li", "day", today ? "Today" : new Date(message.at).toLocaleDateString()));
  }
  const follows = before && !before.mine === !message.mine && before.from === message.from && message.at - before.at < 60_000;
  const item = element("li", `message${message.mine ? " mine" : ""}${follows ? " follows" : ""}`);
  item.dataset.tick = message.tick;
  const bubble = element("div", "bubble", message.text);
  if (message.from && !follows) item.append(element("bdi", "soft small", message.from));
  bubble.dir = "auto";
  item.append(element("span", "hidden", message.mine ? "You: " : `${message.from ?? tab.open}: `), bubble, element("div", "meta"));
  $("log").append(item);
  $("nothing").hidden = true;
  showMark(message, item);
  while ($("log").children.length > SHOWN_LIMIT) $("log").firstChild.remove();
  if (atEnd || message.mine) toEnd();
  else $("newer").hidden = false;
}

function showMark(message, item) {
  const meta = item.querySelector(".meta");
  meta.replaceChildren(element("time", "", time(message.at)));
  if (!message.mine) return;
  item.dataset.state = message.state;
  const [word, path] = MARKS[message.state];
  const mark = element("span", "mark");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  svg.append(line);
  mark.append(svg, word);
  meta.append(mark);
  if (message.error) meta.append(element("span", "", message.error));
  if (message.again) {
    meta.append(button("Send again", () => sendAgain(message.text)));
  }
}

export function setMark(message, state) {
  message.state = state;
  save();
  const item = message.to === tab.open && document.querySelector(`#log [data-tick="${message.tick}"]`);
  if (item) showMark(message, item);
}

/** What is told of a connection's loss while none stands, and the line that tells it. */
let loss = "";
let lossLine = null;

/** Tells between the messages of whatever conversation is open that the connection was lost. */
export function showLoss(words) {
  loss = words;
  if (tab.open) showEvent("event lost", `${loss} What you write is kept until a node answers.`);
}

/** Tells who serves us now: where the loss was told, if it was. */
export function showServing(words) {
  if (tab.open) showEvent("event", `${loss} ${words}`);
  forgetLoss();
}

export function forgetLoss() {
  loss = "";
  lossLine = null;
}

function showEvent(className, text) {
  const atEnd = isAtEnd();
  const line = element("li", className, text);
  if (lossLine?.isConnected) lossLine.replaceWith(line);
  else $("log").append(line);
  lossLine = line;
  if (atEnd) toEnd();
}

/** Whether the newest message was in view before the view changed its size, for a keyboard say. */
let wasAtEnd = true;
const isAtEnd = () => $("log-scroll").scrollHeight - $("log-scroll").scrollTop - $("log-scroll").clientHeight < 60;

function toEnd() {
  $("log-scroll").scrollTop = $("log-scroll").scrollHeight;
  $("newer").hidden = true;
  wasAtEnd = true;
}

$("log-scroll").addEventListener("scroll", () => {
  wasAtEnd = isAtEnd();
  if (wasAtEnd) $("newer").hidden = true;
});
new ResizeObserver(() => wasAtEnd && toEnd()).observe($("log-scroll"));
$("newer").addEventListener("click", toEnd);
$("back").addEventListener("click", closePeer);
