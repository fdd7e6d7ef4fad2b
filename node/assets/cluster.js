/**
 * What the page asks of the nodes over HTTP, in development mode: which other nodes there are, and
 * a token for the name that was chosen. It goes on working while the node that served the page is
 * away, because any other node answers as well.
 */
const FETCH_TIMEOUT_MS = 2_000;
const TOKEN_FRESH_MS = 300_000;

/** The nodes of the cluster, `[{node, url, up}]`, as last heard. */
export let nodes = [];
let servedBy = null;
let token = null;
let tokenAt = -Infinity;

/** The node of this URL serves us, and is asked first. */
export function setServedBy(url) {
  servedBy = url;
}

/** The next token is a new one: another user, or the last one was refused. */
export function forgetToken() {
  token = null;
  tokenAt = -Infinity;
}

const homeUrl = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;
/** The node that served this page, then the others. */
export const urls = () => [homeUrl, ...nodes.map((node) => node.url).filter((url) => url !== homeUrl)];
export const hostOf = (url) => new URL(url).host;

function clientUrl(text) {
  const url = new URL(text);
  url.protocol = url.protocol.replace("http", "ws");
  if (url.pathname === "/") url.pathname = "/ws";
  return url.href;
}

/** Asks the node that serves us, then that of the page, then any other. Throws if none answers. */
async function ask(path) {
  const bases = [servedBy, ...urls()].filter(Boolean).map((url) => new URL(url.replace("ws", "http")).origin);
  let trouble;
  for (const base of new Set(bases)) {
    try {
      return await fetch(base + path, { signal: AbortSignal.timeout(FETCH_TIMEOUT_MS) });
    } catch (error) {
      trouble = error;
    }
  }
  throw trouble;
}

/** Learns which nodes there are, and whether they are up. */
export async function askForNodes() {
  try {
    const response = await ask("/admin/status");
    if (!response.ok) return;
    const status = await response.json();
    const known = status.nodes.filter((node) => node.client_url);
    nodes = known.map(({ node, client_url: url, up }) => ({ node, up, url: hostOf(clientUrl(url)) === location.host ? homeUrl : clientUrl(url) }));
    nodes.sort((a, b) => a.url.localeCompare(b.url));
  } catch {
    // Nobody answers; the nodes that we know of are all there is.
  }
}

/** A token for the user. A recent one is used again: a node that dies is not asked for another first. */
export async function askForToken(user) {
  if (Date.now() - tokenAt < TOKEN_FRESH_MS) return token;
  let response;
  try {
    response = await ask(`/dev/token?user=${encodeURIComponent(user)}`);
  } catch {
    if (token) return token;
    throw new Error("No node answers.");
  }
  if (response.ok) {
    token = (await response.json()).token;
    tokenAt = Date.now();
    return token;
  }
  if (response.status >= 500) {
    if (token) return token;
    throw new Error(`The node gave no token (status ${response.status}).`);
  }
  const why = response.status === 400
    ? `The node does not accept this name: ${(await response.json()).error.message}.`
    : `The node gives out no tokens (status ${response.status}). It does so in development mode only, and only to browsers on its own machine.`;
  throw Object.assign(new Error(why), { final: true });
}
