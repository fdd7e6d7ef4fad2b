/**
 * The demo page: what happens between the protocol client of im-gateway.js, the tab's memory and
 * what is shown.
 *
 * A message is in the tab's storage before the client acknowledges it. Nothing that came from
 * somebody else is ever parsed as HTML.
 */
import { askForNodes, askForToken, forgetToken, hostOf, nodes, setServedBy, urls } from "./cluster.js";
import { forgetHere, forgetLoss, onOpen, onSendAgain, openPeer, setHere, setMark, setRead, setTyping, showLoss, showMessage, showPeers, showServing } from "./conversations.js";
import { $, button, element, log, notice, replaceKeepingFocus, speak } from "./dom.js";
import { ImGateway } from "./im-gateway.js";
import { allMessages, begin, end, lastOf, newDevice, peer, randomHex, remember, resume, save, tab } from "./tab.js";

/** Begins the name of a conversation that is a group's. */
const GROUP = "#";
const MIDS_LIMIT = 2_000;
const STATUS_EVERY_MS = 3_000;

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
    seen: allMessages().filter((message) => !message.key).map((message) => message.mid),
    onMessage: receive,
    onDelivered: delivered,
    onGap: tellGap,
    onPresence: ({ user, devices }) => setHere(user, devices),
    onTyping: ({ from }) => setTyping(from, true),
    onRead: readBy,
    onWatchRefused: ({ users, message }) => {
      users.forEach((name) => forgetHere(name));
      log(`${users.join(", ")}: not watched. ${message}`);
    },
    onRefreshRefused: ({ message }) => {
      forgetToken();
      log(`The node did not take the new token: ${message}`);
    },
    onState: showState,
  });
  for (const message of allMessages()) if (message.key && message.mid) sentByMid.set(message.mid, message);
  const waiting = allMessages().filter((message) => message.state === "sending");
  waiting.sort((a, b) => a.tick - b.tick).forEach((message) => transmit(message, message.at));
  watched = [];
  watchPeers();
  client.start();
  if (tab.open?.startsWith(GROUP)) enterGroup(tab.open.slice(GROUP.length));
}

function receive({ mid, from, device, to, group, ts, body }) {
  // A group's messages come back to who wrote them; this tab has shown its own.
  if (group && from === tab.user && device === tab.device) return;
  const text = typeof body === "string" ? body : typeof body?.text === "string" ? body.text : JSON.stringify(body);
  // What this user wrote in another tab belongs to the one it was written to.
  const mine = from === tab.user && device !== tab.device;
  const where = group ? GROUP + group : mine ? to : from;
  const said = { mid, text, at: ts };
  const message = remember(where, mine ? { ...said, mine, to: where, state: "stored" } : group ? { ...said, from } : said);
  const looking = mine || (where === tab.open && !document.hidden);
  if (!looking) peer(where).unread++;
  setTyping(where, false);
  save();
  watchPeers();
  if (where === tab.open) showMessage(message, peer(where).messages.at(-2));
  showPeers();
  if (looking) tellRead();
  else speak(`New message from ${from}`);
}

/** Whoever wrote the open conversation's newest message is told that it was read, while somebody looks at it. */
function tellRead() {
  if (document.hidden || !tab.open || tab.open.startsWith(GROUP)) return;
  const newest = peer(tab.open).messages.findLast((message) => !message.mine);
  if (newest) client?.read(tab.open, newest.mid);
}

function readBy({ by, mid }) {
  if (by !== tab.user) return setRead(by, mid);
  // In another tab of ours: then it is no news here.
  const name = Object.keys(tab.peers).find((name) => peer(name).messages.some((message) => !message.mine && message.mid === mid));
  if (!name) return;
  peer(name).unread = 0;
  save();
  showPeers();
}

let watched = [];

/** Whoever has a conversation here is watched: of too many the one that is open, and those with the newest words. */
function watchPeers() {
  if (!client) return;
  const latest = (name) => (name === tab.open ? Infinity : (lastOf(name)?.tick ?? 0));
  const names = Object.keys(tab.peers).filter((name) => !name.startsWith(GROUP) && !nameTrouble(name));
  const wanted = names.sort((a, b) => latest(b) - latest(a)).slice(0, client.limits.watches);
  const gone = watched.filter((name) => !wanted.includes(name));
  watched = wanted;
  client.unwatch(...gone);
  gone.forEach((name) => forgetHere(name));
  client.watch(...wanted);
}

/** A group is joined when its conversation is opened, and made if there is none. */
async function enterGroup(name) {
  try {
    await client.group("join", name);
  } catch (error) {
    if (error.code !== "unknown_group") return notice(`${GROUP}${name}: ${error.message}`);
    client.group("create", name).catch((error) => notice(`${GROUP}${name}: ${error.message}`));
  }
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
    const to = message.to.startsWith(GROUP) ? { group: message.to.slice(GROUP.length) } : message.to;
    const { mid } = await by.send(to, { text: message.text }, { key: message.key, firstSentAt });
    message.mid = mid;
    bounded(sentByMid.set(mid, message));
    setMark(message, deliveredEarly.delete(mid) ? "delivered" : "stored");
  } catch (error) {
    if (by !== client) return;
    message.error = error.message;
    message.again = error.code !== "too_large";
    setMark(message, error.code === "unknown" ? "unknown" : "failed");
  }
}

// ---- showing: the connection ----

const WORDS = { online: "Online", connecting: "Connecting", waiting: "Reconnecting", stopped: "Not connected" };
/** The address of the node that serves us, or did last. */
let lastHost = "";

function showState(state) {
  const wasOnline = $("chat").dataset.state === "online";
  $("chat").dataset.state = state.name;
  $("state-text").textContent = WORDS[state.name];
  // Without a connection nobody tells who is there.
  if (wasOnline && state.name !== "online") forgetHere();
  if (state.code === 4501) forgetToken();
  document.querySelectorAll('[data-notice="stopped"]').forEach((box) => box.remove());
  if (state.name === "online") {
    showOnline(state);
  } else {
    $("state-short").textContent = WORDS[state.name];
    const next = state.next ?? state.url;
    $("state-detail").textContent = state.name === "waiting" ? `${state.reason} Trying ${hostOf(next)}.` : next ? hostOf(next) : state.reason;
    if (state.name === "waiting" && wasOnline) tellLoss(state);
    if (state.name === "stopped" && state.code !== 1000) showStopped(state);
  }
  showNodes();
}

function showOnline({ node, url }) {
  const host = hostOf(url);
  $("state-detail").textContent = `served by node ${node} at ${host}`;
  $("state-short").textContent = host;
  log(`Connected to node ${node} at ${host}.`);
  if (lastHost) showServing(`${host} serves you now.`);
  if (lastHost && !tab.open) speak(`${host} serves you now.`);
  lastHost = host;
  $("chat").dataset.node = node;
  setServedBy(url);
  refreshNodes();
  // This node may allow fewer, or more.
  watchPeers();
  tellRead();
}

function tellLoss({ code, reason }) {
  const words = code === 1006 ? `The connection to ${lastHost} was lost.` : `${lastHost}: ${reason}`;
  log(words);
  showLoss(words);
  if (!tab.open) speak(words);
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
    if (!serving && !node.up) chip.className = "down";
    const item = element("li");
    item.append(chip);
    return item;
  });
  $("nodes-title").hidden = nodes.length < 2;
  replaceKeepingFocus($("nodes"), items);
}

// ---- coming and going ----

function nameTrouble(name) {
  if (!name) return "Give a name.";
  if (/[\p{Cc}\p{Cs}]/u.test(name)) return "A name has no control characters.";
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
  lastHost = "";
  forgetLoss();
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
  if (trouble) $(nameTrouble(user) ? "join-name" : "join-peer").focus();
  else join(user, to);
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

$("text").addEventListener("input", () => {
  if ($("text").value && tab?.open && !tab.open.startsWith(GROUP)) client?.typing(tab.open);
});

$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("compose").requestSubmit();
});

onSendAgain(write);
onOpen((name) => {
  // The conversation is among the tab's once it has been asked for.
  peer(name);
  watchPeers();
  tellRead();
  if (name.startsWith(GROUP) && name !== GROUP && client) enterGroup(name.slice(GROUP.length));
});
$("leave").addEventListener("click", leave);
addEventListener("online", () => client?.retryNow());
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !tab || !client) return;
  client.retryNow();
  refreshNodes();
  tellRead();
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
