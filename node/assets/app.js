/**
 * The demo page: names, conversations and marks around the protocol client of im-gateway.js.
 *
 * A message is in the tab's storage before the client acknowledges it. Nothing that came from
 * somebody else is ever parsed as HTML.
 */
import { askForNodes, askForToken, forgetToken, hostOf, nodes, setServedBy, urls } from "./cluster.js";
import { ImGateway } from "./im-gateway.js";
import { allMessages, begin, end, lastOf, newDevice, peer, randomHex, remember, resume, save, tab } from "./tab.js";

const EVENTS_LIMIT = 100;
const SHOWN_LIMIT = 300;
const MIDS_LIMIT = 2_000;
const STATUS_EVERY_MS = 15_000;

const $ = (id) => document.getElementById(id);

let client = null;
/** Own stored messages by id, and the ids for which `delivered` came before `ok`. */
const sentByMid = new Map();
const deliveredEarly = new Set();

// ---- messages ----

function connect() {
  client = new ImGateway({
    urls: urls(),
    token: () => askForToken(tab.user),
    device: tab.device,
    ephemeral: true,
    seen: allMessages().filter((message) => !message.mine).map((message) => message.mid),
    onMessage: receive,
    onDelivered: delivered,
    onGap: tellGap,
    onState: showState,
  });
  for (const message of allMessages()) if (message.mine && message.mid) sentByMid.set(message.mid, message);
  const waiting = allMessages().filter((message) => message.state === "sending");
  waiting.sort((a, b) => a.tick - b.tick).forEach((message) => transmit(message, message.at));
  client.start();
}

function receive({ mid, from, ts, body }) {
  const text = typeof body === "string" ? body : typeof body?.text === "string" ? body.text : JSON.stringify(body);
  const message = remember(from, { mid, text, at: ts });
  const looking = from === tab.open && !document.hidden;
  if (!looking) peer(from).unread++;
  save();
  if (from === tab.open) showMessage(message, peer(from).messages.at(-2));
  showPeers();
  if (!looking) speak(`New message from ${from}`);
}

function delivered({ mid }) {
  const message = sentByMid.get(mid);
  if (message) setMark(message, "delivered");
  else bounded(deliveredEarly.add(mid));
}

function tellGap({ reason, lost }) {
  const why = { inbox_limit: "too many were waiting", expired: "they had waited too long" }[reason] ?? reason;
  notice(`${lost} ${lost === 1 ? "message" : "messages"} did not reach this device: ${why}.`);
}

function write(text) {
  const message = remember(tab.open, { mine: true, to: tab.open, key: randomHex(12), text, at: Date.now(), state: "sending" });
  save();
  showMessage(message, peer(tab.open).messages.at(-2));
  showPeers();
  transmit(message);
}

function bounded(collection) {
  if (collection.size > MIDS_LIMIT) collection.delete(collection.keys().next().value);
}

async function transmit(message, firstSentAt = 0) {
  const by = client;
  try {
    const { mid } = await by.send(message.to, { text: message.text }, { key: message.key, firstSentAt });
    message.mid = mid;
    bounded(sentByMid.set(mid, message));
    setMark(message, deliveredEarly.delete(mid) ? "delivered" : "stored");
  } catch (error) {
    if (by !== client) return;
    message.error = error.message;
    setMark(message, error.code === "unknown" ? "unknown" : "failed");
  }
}

// ---- showing: small helpers ----

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(text, onClick, className) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

const time = (ms, seconds) =>
  new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", ...(seconds && { second: "2-digit" }) });

function speak(text) {
  $("spoken").textContent = text;
}

function log(text) {
  const line = element("li");
  line.append(element("time", "", time(Date.now(), true)), text);
  $("events").prepend(line);
  if ($("events").children.length > EVENTS_LIMIT) $("events").lastChild.remove();
}

function notice(text, { bad = false, id = "", actions = [] } = {}) {
  const box = element("div", bad ? "notice bad" : "notice");
  box.dataset.notice = id;
  if (!actions.length) actions = [["Dismiss", () => {}]];
  const buttons = element("div", "actions");
  buttons.append(...actions.map(([label, act]) => button(label, () => (box.remove(), act()))));
  box.append(element("p", "", text), buttons);
  $("notices").append(box);
  log(text);
}

// ---- showing: the connection ----

const WORDS = { online: "Online", connecting: "Connecting", waiting: "Reconnecting", stopped: "Not connected" };
let lastNode = "";

function showState(state) {
  $("chat").dataset.state = state.name;
  $("state-text").textContent = WORDS[state.name];
  document.querySelectorAll('[data-notice="stopped"]').forEach((box) => box.remove());
  if (state.name === "online") {
    $("state-detail").textContent = `served by node ${state.node} at ${hostOf(state.url)}`;
    $("state-short").textContent = hostOf(state.url);
    log(`${lastNode && lastNode !== state.node ? "Moved" : "Connected"} to node ${state.node} at ${hostOf(state.url)}.`);
    if (lastNode) speak(`Connected to ${hostOf(state.url)}`);
    lastNode = state.node;
    $("chat").dataset.node = state.node;
    setServedBy(state.url);
    refreshNodes();
  } else {
    $("state-short").textContent = WORDS[state.name];
    const next = state.next ?? state.url;
    $("state-detail").textContent = state.name === "waiting" ? `${state.reason} Trying ${hostOf(next)}.` : next ? hostOf(next) : state.reason;
    if (state.name === "waiting") log(`${state.reason} Trying ${hostOf(next)}.`);
    if (state.name === "stopped" && state.code !== 1000) showStopped(state);
  }
  showNodes();
}

function showStopped({ code, reason, detail }) {
  forgetToken();
  const again = ["Try again", () => client.start()];
  const actions = {
    4502: [["Use it here", () => client.start()], ["Go on as a new device", goOnAsNewDevice]],
    4504: [again, ["Leave", leave]],
    0: [again, ["Leave", leave]],
  }[code] ?? [again];
  const more = detail && code !== 4502 ? ` (${code}: ${detail})` : code ? ` (${code})` : "";
  notice(reason + more, { bad: true, id: "stopped", actions });
}

function goOnAsNewDevice() {
  stopClient();
  newDevice();
  enter();
}

async function refreshNodes() {
  await askForNodes();
  client?.setUrls(urls());
  showNodes();
}

function showNodes() {
  const { name, url } = client?.state ?? {};
  const items = nodes.map((node) => {
    const serving = name === "online" && hostOf(node.url) === hostOf(url);
    const word = serving ? " serves you" : node.up ? "" : " is down";
    const chip = button(hostOf(node.url) + word, () => serving || client.moveTo(node.url));
    chip.title = `Node ${node.node}`;
    chip.ariaPressed = String(serving);
    const item = element("li");
    item.append(chip);
    return item;
  });
  $("nodes-title").hidden = nodes.length < 2;
  replaceKeepingFocus($("nodes"), items);
}

/** Puts new items into a list; the button that had the focus, by its place, has it again. */
function replaceKeepingFocus(list, items, same = (old, place, rows) => rows[place]) {
  const old = list.contains(document.activeElement) ? document.activeElement : null;
  const place = [...list.querySelectorAll("button")].indexOf(old);
  list.replaceChildren(...items);
  if (old) same(old, place, [...list.querySelectorAll("button")])?.focus();
}

// ---- showing: conversations ----

function showPeers() {
  const names = Object.keys(tab.peers).sort((a, b) => (lastOf(b)?.tick ?? 0) - (lastOf(a)?.tick ?? 0));
  const items = names.map((name) => {
    const { unread, messages } = peer(name);
    const last = messages.at(-1);
    const row = button("", () => openPeer(name));
    row.dataset.peer = name;
    row.ariaCurrent = String(name === tab.open);
    const words = element("span", "grow");
    const title = element("bdi", "name", name);
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
  document.title = `${unread ? `(${unread}) ` : ""}${tab.user} · im-gateway`;
  $("elsewhere").hidden = !unread;
  $("elsewhere").textContent = String(unread);
}

function openPeer(name, focus = true) {
  tab.open = name;
  peer(name).unread = 0;
  save();
  $("chat").classList.add("talking");
  $("peer-name").textContent = name;
  $("log").replaceChildren();
  $("newer").hidden = true;
  $("nothing").hidden = false;
  $("nothing").textContent = `Nothing here yet. Write to ${name}; they get it when they come.`;
  peer(name).messages.forEach((message, place, messages) => showMessage(message, messages[place - 1]));
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

// ---- showing: messages ----

const MARKS = {
  sending: ["sending", "M12 6v6l4 2M12 2a10 10 0 1 0 0 20a10 10 0 1 0 0-20"],
  stored: ["stored", "M5 13l5 5L20 7"],
  delivered: ["delivered", "M1 13l5 5L15 7M12 17l1 1L23 7"],
  failed: ["not sent", "M6 6l12 12M18 6L6 18"],
  unknown: ["unknown", "M8 9a4 4 0 1 1 5 4c-1 .4-1 1-1 2M12 19v.1"],
};

function showMessage(message, before) {
  const atEnd = isAtEnd();
  const day = new Date(message.at).toDateString();
  if (!before || new Date(before.at).toDateString() !== day) {
    const today = day === new Date().toDateString();
    $("log").append(element("li", "day", today ? "Today" : new Date(message.at).toLocaleDateString()));
  }
  const follows = before && !before.mine === !message.mine && message.at - before.at < 60_000;
  const item = element("li", `message${message.mine ? " mine" : ""}${follows ? " follows" : ""}`);
  item.dataset.tick = message.tick;
  const bubble = element("div", "bubble", message.text);
  bubble.dir = "auto";
  item.append(element("span", "hidden", message.mine ? "You: " : `${tab.open}: `), bubble, element("div", "meta"));
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
  if (message.state === "failed" || message.state === "unknown") {
    meta.append(button("Send again", () => write(message.text)));
  }
}

function setMark(message, state) {
  message.state = state;
  save();
  const item = message.to === tab.open && document.querySelector(`#log [data-tick="${message.tick}"]`);
  if (item) showMark(message, item);
}

/** Whether the newest message was in view before the view changed its size, for a keyboard say. */
let wasAtEnd = true;
const isAtEnd = () => $("log-scroll").scrollHeight - $("log-scroll").scrollTop - $("log-scroll").clientHeight < 60;

function toEnd() {
  $("log-scroll").scrollTop = $("log-scroll").scrollHeight;
  $("newer").hidden = true;
  wasAtEnd = true;
}

// ---- coming and going ----

function nameTrouble(name) {
  if (!name) return "Give a name.";
  if (/[\u0000-\u001f\u007f-\u009f]/.test(name)) return "A name has no control characters.";
  if (new TextEncoder().encode(name).length > 128) return "The name is too long.";
  return "";
}

async function enter() {
  $("join").hidden = true;
  $("chat").hidden = false;
  $("my-name").textContent = tab.user;
  $("my-device").textContent = tab.device;
  $("second-tab").href = `/?to=${encodeURIComponent(tab.user)}`;
  showPeers();
  if (tab.open) openPeer(tab.open, matchMedia("(min-width: 720px)").matches);
  await refreshNodes();
  connect();
}

function stopClient() {
  client?.close();
  forgetToken();
  client = null;
  sentByMid.clear();
  deliveredEarly.clear();
}

function leave() {
  stopClient();
  end();
  lastNode = "";
  $("notices").replaceChildren();
  $("events").replaceChildren();
  $("chat").hidden = true;
  $("chat").classList.remove("talking");
  history.replaceState(null, "", "/");
  document.title = "im-gateway demo";
  showJoin("", "");
}

function join(user, to) {
  begin(user);
  tab.open = to || null;
  enter();
}

function showJoin(user, to) {
  $("join").hidden = false;
  $("join-name").value = user;
  $("join-peer").value = to;
  (user ? $("join-peer") : $("join-name")).focus();
}

$("join-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const [user, to] = [$("join-name").value.trim(), $("join-peer").value.trim()];
  const trouble = nameTrouble(user) || (to && nameTrouble(to));
  $("join-error").textContent = trouble;
  if (!trouble) join(user, to);
});

$("open-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("open-name").value.trim();
  if (nameTrouble(name)) return notice(nameTrouble(name));
  $("open-name").value = "";
  openPeer(name);
});

$("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || !tab.open || !client) return;
  $("text").value = "";
  write(text);
});

$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("compose").requestSubmit();
});

$("log-scroll").addEventListener("scroll", () => {
  wasAtEnd = isAtEnd();
  if (wasAtEnd) $("newer").hidden = true;
});
new ResizeObserver(() => wasAtEnd && toEnd()).observe($("log-scroll"));
$("newer").addEventListener("click", toEnd);
$("back").addEventListener("click", closePeer);
$("leave").addEventListener("click", leave);
addEventListener("online", () => client?.retryNow());
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !tab || !client) return;
  client.retryNow();
  if (tab.open && peer(tab.open).unread) {
    peer(tab.open).unread = 0;
    save();
    showPeers();
  }
});
setInterval(() => !document.hidden && client && refreshNodes(), STATUS_EVERY_MS);

const asked = new URLSearchParams(location.search);
const [user, to] = [asked.get("user")?.trim() ?? "", asked.get("to")?.trim() ?? ""];
if (await resume(user)) enter();
else if (user && !nameTrouble(user)) join(user, to);
else showJoin(user, to);
