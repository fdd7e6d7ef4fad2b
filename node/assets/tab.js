/**
 * What this tab is and has: its user, its device, its conversations.
 *
 * All of it is kept in sessionStorage, so that a reload is the same device, shows the same
 * conversations, and can repeat what had no answer yet. A device belongs to one tab: a duplicated
 * tab, which starts with a copy of the storage, becomes a device of its own.
 */
const STORE = "im-gateway";
const HISTORY_LIMIT = 300;
/** How long a tab waits for the lock on its device before it takes itself for a duplicate. */
const LOCK_MS = 1_000;

/** `{user, device, peers: {name: {unread, messages}}, open, tick}`; null before a name was chosen. */
export let tab = null;

export function begin(user) {
  tab = { user, device: "", peers: {}, open: null, tick: 0 };
  newDevice();
}

/** Takes up what the tab was before a reload; false if it was nothing, or somebody else. */
export async function resume(user) {
  try {
    tab = JSON.parse(sessionStorage.getItem(STORE));
  } catch {
    tab = null;
  }
  if (!tab || (user && user !== tab.user)) return false;
  if (!(await lockDevice())) newDevice();
  return true;
}

export function end() {
  tab = null;
  sessionStorage.removeItem(STORE);
}

export function save() {
  try {
    sessionStorage.setItem(STORE, JSON.stringify(tab));
  } catch {
    // The storage is full or forbidden: the tab goes on, only a reload will not know of this.
  }
}

export function newDevice() {
  tab.device = `tab-${randomHex(4)}`;
  lockDevice();
  // The other device will answer for these.
  for (const message of allMessages()) if (message.state === "sending") Object.assign(message, { state: "unknown", again: true });
  save();
}

/** Holds a lock on the device until the page is gone. False: another tab has it. */
function lockDevice() {
  if (!navigator.locks) return Promise.resolve(true);
  // The page that is reloaded may still hold it for a moment, but nobody else can.
  const reloaded = performance.getEntriesByType("navigation")[0]?.type === "reload";
  const options = reloaded ? {} : { signal: AbortSignal.timeout(LOCK_MS) };
  return new Promise((resolve) => {
    if (reloaded) resolve(true);
    const hold = () => {
      resolve(true);
      return new Promise(() => {});
    };
    navigator.locks.request(`${STORE}-${tab.device}`, options, hold).catch(() => resolve(false));
  });
}

export function peer(name) {
  if (!Object.hasOwn(tab.peers, name)) tab.peers[name] = { unread: 0, messages: [] };
  return tab.peers[name];
}

/** Adds a message to a conversation; `tick` tells it from all others of this tab. */
export function remember(name, message) {
  const { messages } = peer(name);
  messages.push({ ...message, tick: ++tab.tick });
  if (messages.length > HISTORY_LIMIT) messages.shift();
  return messages.at(-1);
}

export const lastOf = (name) => peer(name).messages.at(-1);

export const allMessages = () => Object.values(tab.peers).flatMap((peer) => peer.messages);

export function randomHex(bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
