/**
 * A client of im-gateway for browsers: the protocol `imgw.v1.json` without any user interface.
 *
 * It keeps one connection to any of several nodes, moves to another one when that is lost, and
 * keeps these promises:
 *
 *  - A message that was sent stays in the outbox until its fate is known. After a reconnect,
 *    what had no answer is repeated first, in order, with the same key and the same bytes, so
 *    that the cluster recognises it.
 *  - A message is handed to `onMessage` once and acknowledged after that has returned. If it
 *    throws, the message is not acknowledged, and comes again.
 *
 *     const client = new ImGateway({
 *       urls: ["ws://127.0.0.1:8080/ws", "ws://127.0.0.1:8081/ws"],
 *       token: async () => (await fetch("/token")).text(),
 *       device: "phone-1",
 *       onMessage: (message) => console.log(message.from, message.body),
 *     });
 *     client.start();
 *     const { mid } = await client.send("bob", { text: "hello" });   // stored on a quorum
 *     client.watch("bob");   // told by onPresence, until unwatch("bob")
 *     client.typing("bob");  // at each key; told every few seconds
 *     client.read("bob", mid);   // the newest of bob's that was read
 *     await client.group("join", "g1");
 *     await client.send({ group: "g1" }, { text: "hello, all" });
 *     const { members, more } = await client.members("g1");
 */

const PROTOCOL = "imgw.v1.json";
/** How long a node may take from the first byte to `welcome`. */
const CONNECT_TIMEOUT_MS = 10_000;
/** The first delay before a reconnect is drawn below this, later ones below twice as much … */
const FIRST_DELAY_MS = 200;
/** … up to this. */
const LONGEST_DELAY_MS = 8_000;
/** A connection that held this long lets the delays start over. */
const STEADY_AFTER_MS = 5_000;
/** The cluster recognises a repeated message for an hour, later a repeat could be a second one; some room is left. */
const REPEAT_FOR_MS = 58 * 60_000;
/** How often messages that are older are looked for, with a connection or without. */
const GIVE_UP_EVERY_MS = 10_000;
/** Acks are spared, not delayed: one at once, the next ones together. */
const ACK_EVERY_MS = 50;
/** How long after a new token could not be had it is asked for again. */
const REFRESH_AGAIN_MS = 30_000;
/** How many message ids are remembered in order to hand none of them out twice. */
const SEEN_LIMIT = 4_096;
/** Typing is told to the same user again after this, however fast somebody types. */
const TYPING_EVERY_MS = 3_000;
/** Of how many users it is remembered which message was said to be read. */
const READ_LIMIT = 1_000;
/** How many messages may wait in the outbox, and how many questions for their answer. */
const OUTBOX_LIMIT = 1_000;
/** Until a node tells its own. */
const DEFAULT_LIMITS = { frame_bytes: 65_536, inflight: 256, watches: 256 };

/** Close codes after which a client must not come back by itself, and what they mean. */
const FINAL_CODES = {
  1000: "The node said goodbye.",
  1003: "The node refuses binary frames.",
  1009: "A message was larger than the node takes.",
  4500: "The node does not accept the token.",
  4502: "This device is open elsewhere, or was forgotten.",
  4503: "The node says that this client broke the protocol.",
  4504: "This user has as many devices as allowed.",
};

/** Close codes after which it does, in a person's words; after 4501 only with another token. */
const PASSING_CODES = {
  1001: "The node went away.",
  1006: "The connection was lost.",
  1012: "The node restarts.",
  1013: "The node is overloaded.",
  4001: "The node is not ready, or cannot reach the rest of its cluster.",
  4002: "The node heard nothing from here for too long.",
  4003: "The node got no hello in time.",
  4005: "A newer connection of this client is already there.",
  4501: "The token has expired.",
};

/** What 1006 means where no connection ever stood. */
const NO_ANSWER = "The node does not answer.";

/** Why something was not sent: `code` is the node's error code, or `too_large`,
 * `not_json`, `outbox_full`, `closed`, or `unknown`. */
export class SendError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "SendError";
    this.code = code;
  }
}

export class ImGateway {
  /** One client among all, for as long as this object lives. */
  #instance = randomHex(16);
  /** Grows with each connection, so that the cluster can tell the newer one. */
  #attempt = 0;
  /** Messages without an answer, oldest first. The first `#link.sent` of them are on the wire. */
  #outbox = [];
  /** What is asked and answered at once, not in turn with the outbox. */
  #questions = new Set();
  /** The application has closed it, and not started it again. */
  #closed = false;
  /** The connection that has its welcome, and the one that is being made. Usually there is one of the two. */
  #link = null;
  #dialing = null;
  #state = { name: "stopped", code: 0, reason: "Not started." };
  /** Users who are watched, and the newest version known of each. */
  #watched = new Map();
  /** When typing was told last, oldest first, and which message was said to be read, by user. */
  #typedAt = new Map();
  #read = new Map();
  #seen;
  #gapSeq = 0;
  /** The highest place in the cluster's log that was heard of: a session's or a message's. */
  #newest = 0;
  #urls = [];
  #limits = DEFAULT_LIMITS;
  #failures = 0;
  #retryTimer = 0;
  #giveUpTimer = 0;
  /** The token that a node has found expired. */
  #expired = null;
  /** The last `go_away.after_ms`: the span over which clients of a restarting node spread. */
  #spreadMs = 1_000;

  /**
   * @param {object} options
   * @param {string[]} options.urls WebSocket addresses of nodes; the first is tried first, others in random order.
   * @param {() => Promise<string>} options.token asked for a JWT at each connection, and before one expires. If it
   *   throws an error with `final: true`, the client stops, else it tries again. It stops also where it is given again
   *   the token that a node has found expired.
   * @param {string} options.device this device; no other running client of the user may have it.
   * @param {boolean} [options.ephemeral] forget the device at `close()`.
   * @param {Iterable<string>} [options.seen] ids of messages that the application has already.
   * @param {(message: {mid, from, device, to, group, ts, seq, body}) => void} options.onMessage
   * @param {(delivered: {mid: string, by: string}) => void} [options.onDelivered] a device of
   *   `by` has the message. This may come before `send` has resolved.
   * @param {(gap: {seq: number, reason: string, lost: number}) => void} [options.onGap]
   *   messages that this device missed for good.
   * @param {(typing: {from: string}) => void} [options.onTyping] somebody writes to us.
   * @param {(read: {by: string, mid: string}) => void} [options.onRead] `by` has read this message of ours, or, where
   *   `by` is our own user, another device of ours one of somebody else.
   * @param {(presence: {user: string, status: string, devices: number, v: number}) => void} [options.onPresence]
   *   somebody who is watched is there, or not; never anything older after something newer.
   * @param {(refused: {users: string[], code: string, message: string}) => void} [options.onWatchRefused] these are not
   *   watched, or not any more: they are more than `limits.watches`, say.
   * @param {(refused: {code: string, message: string}) => void} [options.onRefreshRefused] a node did not take the new
   *   token. The old one counts until it expires; the next one is asked for soon.
   * @param {(state: {name: "connecting"|"online"|"waiting"|"stopped"}) => void} [options.onState]
   */
  constructor(options) {
    const ignore = { onDelivered() {}, onGap() {}, onPresence() {}, onTyping() {}, onRead() {}, onWatchRefused() {}, onRefreshRefused() {}, onState() {} };
    this.options = { ephemeral: false, ...ignore, ...options };
    this.#seen = new Set(options.seen);
    this.#urls = options.urls.slice(0, 1);
    this.setUrls(options.urls);
  }

  /** What the connection is doing, as last told to `onState`. */
  get state() {
    return this.#state;
  }

  /** What the node allows, by its `welcome`; without one yet, what nodes do unless told otherwise. */
  get limits() {
    return this.#limits;
  }

  /** Replaces the addresses; a connection that stands is left alone. */
  setUrls(urls) {
    const known = this.#urls.filter((url) => urls.includes(url));
    this.#urls = [...known, ...shuffled(urls.filter((url) => !known.includes(url)))];
  }

  /** Connects, and stays connected until `close`, or until a node says that it makes no sense. */
  start() {
    this.#closed = false;
    this.#giveUpTimer ||= setInterval(() => this.#giveUpOld(), GIVE_UP_EVERY_MS);
    if (this.#state.name === "stopped") {
      this.#failures = 0;
      this.#expired = null;
      this.#dial(this.#urls[0]);
    }
  }

  /** Cuts a wait for the next attempt short: the network is back, or somebody looks at the page again. */
  retryNow() {
    if (this.#state.name === "waiting") this.#dial(this.#urls[0]);
  }

  /** Moves to another node. The connection that stands is used until the other one is there. */
  moveTo(url) {
    if (this.#state.name !== "stopped" && this.#link?.url !== url) this.#dial(url);
  }

  /** Leaves for good. What is in the outbox is given up; it may have been stored or not. */
  close() {
    this.#closed = true;
    clearInterval(this.#giveUpTimer);
    this.#giveUpTimer = 0;
    this.#stop(1000, "Closed.");
    for (const entry of this.#outbox.splice(0)) {
      entry.reject(new SendError(entry.firstSent ? "unknown" : "closed", "The client was closed."));
    }
    for (const question of this.#questions) question.reject(new SendError("closed", "The client was closed."));
    this.#questions.clear();
  }

  /**
   * Sends a message to a user, or to `{group}`. Resolves with `{mid}` once it is stored on a quorum: then it will be
   * delivered. Rejects with a `SendError`: with code `unknown` nobody can say whether it was
   * stored; with any other nobody has seen it or will.
   *
   * An application that outlives this object (a page that is reloaded) can repeat a message of
   * the same device under the `key` that it had, before any new one; `firstSentAt` is then the
   * time of its first sending, in ms since the Unix epoch.
   */
  send(to, body, { key = randomHex(16), firstSentAt = 0 } = {}) {
    const where = typeof to === "string" ? [["to", to]] : [["group", to?.group]];
    // Bytes matter: the id of the message is a hash over the body as it is on the wire.
    return this.#request("send", [...where, ["key", key], ["body", body ?? null]], firstSentAt);
  }

  /**
   * Does something with a group, in order with what is sent: `act` is `create`, `join` or `leave`. Doing it
   * twice is as doing it once. Resolves when it is done, rejects as `send` does.
   */
  group(act, name) {
    return this.#request("group", [[act, name]], 0);
  }

  /**
   * Forgets another device of our user, in order with what is sent; a session that it has ends. Resolves and rejects
   * as `group` does.
   */
  forget(device) {
    return this.#request("forget", [["device", device]], 0);
  }

  /**
   * Members of a group in the order of their names, behind the name `after`, if it is given: resolves with
   * `{members, more}`, where `more` says whether there are others behind these. Rejects with a `SendError`.
   */
  members(name, after) {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new SendError("closed", "The client was closed."));
      if (this.#questions.size >= OUTBOX_LIMIT) {
        return reject(new SendError("outbox_full", "Too many questions wait for their answer."));
      }
      const question = { frame: `"group":${JSON.stringify({ members: name, after })}`, resolve, reject };
      this.#questions.add(question);
      if (this.#link) this.#askQuestion(this.#link, question);
    });
  }

  #askQuestion(link, question) {
    this.#ask(link, question.frame, (ok, error) => {
      this.#questions.delete(question);
      if (ok) question.resolve(ok);
      else question.reject(new SendError(error.code, error.message));
    });
  }

  /**
   * Tells a user that ours is writing: at once, and again every few seconds while this is called. Lost without a
   * connection. Throws a `SendError` where it is larger than the node takes.
   */
  typing(to) {
    const frame = this.#signalFrame({ typing: { to } });
    const now = performance.now();
    for (const [user, at] of this.#typedAt) {
      if (now - at < TYPING_EVERY_MS) break;
      this.#typedAt.delete(user);
    }
    if (!this.#link || this.#typedAt.has(to)) return;
    this.#typedAt.set(to, now);
    this.#link.ws.send(frame);
  }

  /**
   * Tells the sender of a message, and our other devices, that it was read, with all before it: so only the newest is
   * told, and once. Lost without a connection. Throws as `typing` does.
   */
  read(from, mid) {
    const frame = this.#signalFrame({ read: { from, mid } });
    if (!this.#link || this.#read.get(from) === mid) return;
    this.#read.set(from, mid);
    if (this.#read.size > READ_LIMIT) this.#read.delete(this.#read.keys().next().value);
    this.#link.ws.send(frame);
  }

  #signalFrame(signal) {
    const frame = JSON.stringify(signal);
    const [bytes, limit] = [bytesOf(frame), this.#limits.frame_bytes];
    if (bytes > limit) throw tooLarge(bytes, limit);
    return frame;
  }

  /**
   * Tells `onPresence` from now on who of these users is there, besides those watched already; on all connections to
   * come. At most `limits.watches` are watched: `onWatchRefused` tells who is not. Throws a `SendError` with code
   * `bad_recipient`, and watches none of them, where one is no user's name: a node would refuse all in its frame.
   */
  watch(...users) {
    users.forEach(checkName);
    const added = [...new Set(users)].filter((user) => !this.#watched.has(user));
    for (const user of added) this.#watched.set(user, 0);
    const refused = new Set(this.#keepWatchLimit());
    if (this.#link?.watches) this.#tellWatches(this.#link, "watch", added.filter((user) => !refused.has(user)));
  }

  /** Tells it of these no more. */
  unwatch(...users) {
    const gone = users.filter((user) => this.#watched.delete(user));
    if (this.#link?.watches) this.#tellWatches(this.#link, "unwatch", gone);
  }

  /** Who was added last is too many, and returned. */
  #keepWatchLimit() {
    const users = [...this.#watched.keys()].slice(this.#limits.watches);
    if (users.length) this.#refuseWatches(users, "too_many_watches", `${this.#limits.watches} users may be watched.`);
    return users;
  }

  #refuseWatches(users, code, message) {
    const refused = users.filter((user) => this.#watched.delete(user));
    if (refused.length) this.options.onWatchRefused({ users: refused, code, message });
  }

  #tellWatches(link, type, users) {
    // A name has at most 128 bytes, each of which may have to be escaped, two quotes, and a comma.
    const fit = Math.max(1, Math.floor((this.#limits.frame_bytes - 64) / (2 * 128 + 3)));
    for (let at = 0; at < users.length; at += fit) {
      const some = users.slice(at, at + fit);
      this.#ask(link, `"${type}":${JSON.stringify({ users: some })}`, (ok, error) => {
        // A node that knows no watches refuses nobody: the next one may.
        if (type === "watch" && error && error.code !== "unknown_type") this.#refuseWatches(some, error.code, error.message);
      });
    }
  }

  /** Asks what is answered at once; `answered` is called with `ok`, or with nothing and the error. */
  #ask(link, frame, answered) {
    const [bytes, limit] = [requestBytes(frame), this.#limits.frame_bytes];
    if (bytes > limit) return answered(undefined, tooLarge(bytes, limit));
    const id = link.nextId++;
    link.asked.set(id, answered);
    link.ws.send(requestFrame(id, frame));
  }

  #tellPresence(presence) {
    const known = this.#watched.get(presence.user);
    if (known === undefined || presence.v < known) return;
    this.#watched.set(presence.user, presence.v);
    this.options.onPresence(presence);
  }

  /** Asks for something of `fields`, name by name; it waits in the outbox until it is answered. */
  #request(type, fields, firstSentAt) {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new SendError("closed", "The client was closed."));
      let parts;
      try {
        parts = fields.map(([name, value]) => [JSON.stringify(name), JSON.stringify(value)]);
      } catch (error) {
        return reject(new SendError("not_json", `Not JSON: ${error.message}`));
      }
      // What JSON has no word for: a function, a symbol, a name that is missing.
      if (parts.flat().includes(undefined)) return reject(new SendError("not_json", "What is sent must be JSON."));
      const frame = `"${type}":{${parts.map((part) => part.join(":")).join(",")}}`;
      const firstSent = firstSentAt ? moment(Math.max(0, Date.now() - firstSentAt)) : null;
      const entry = { frame, bytes: requestBytes(frame), firstSent, resolve, reject };
      if (this.#refuseTooLarge(entry)) return;
      if (this.#outbox.length >= OUTBOX_LIMIT) {
        return reject(new SendError("outbox_full", "Too many messages are waiting to be sent."));
      }
      this.#outbox.push(entry);
      this.#transmit();
    });
  }

  // ---- the connection ----

  async #dial(url) {
    clearTimeout(this.#retryTimer);
    if (this.#dialing) this.#discard(this.#dialing);
    const link = { url, ws: null, token: null, sent: 0, nextId: 2, waiting: new Map(), asked: new Map(), watches: false, seq: 0, acked: 0, ackedAt: -Infinity, goals: null, rivalled: false };
    this.#dialing = link;
    if (!this.#link) this.#setState({ name: "connecting", url });
    link.deadline = setTimeout(() => this.#lost(link, 0, "The node did not answer in time."), CONNECT_TIMEOUT_MS);
    let token;
    try {
      token = await this.options.token();
    } catch (error) {
      if (this.#dialing === link) {
        if (error.final) this.#stop(0, error.message);
        else this.#lost(link, 0, error.message);
      }
      return;
    }
    if (this.#dialing !== link) return;
    if (token === this.#expired) return this.#stop(4501, PASSING_CODES[4501]);
    const { device, ephemeral } = this.options;
    const hello = { token, device, instance: this.#instance, attempt: ++this.#attempt, ephemeral };
    link.token = token;
    link.refreshAt = refreshTime(token);
    const ws = (link.ws = new WebSocket(url, PROTOCOL));
    ws.onopen = () => {
      ws.send(JSON.stringify({ id: 1, hello }));
      if (this.#link) this.#link.rivalled = true;
    };
    ws.onmessage = (event) => this.#receive(link, event.data);
    ws.onclose = (event) => this.#lost(link, event.code, event.reason);
  }

  #welcome(link, welcome) {
    clearTimeout(link.deadline);
    const old = this.#link;
    this.#link = link;
    this.#dialing = null;
    if (old) this.#discard(old);
    this.#limits = { ...DEFAULT_LIMITS, ...welcome.limits };
    link.steady = setTimeout(() => this.#startOver(), STEADY_AFTER_MS);
    link.watchdog = setInterval(() => this.#watch(link, 2 * welcome.ping_ms), welcome.ping_ms / 4);
    this.#keepToTheLog(Number(welcome.session));
    this.#setState({ name: "online", url: link.url, node: welcome.node, session: welcome.session });
    this.#transmit();
    for (const question of this.#questions) this.#askQuestion(link, question);
    this.#keepWatchLimit();
    link.watches = true;
    this.#tellWatches(link, "watch", [...this.#watched.keys()]);
    // Told to leave before it was welcome, and its time may be over.
    if (link.goals) this.#moveIn(link, Math.random() * FIRST_DELAY_MS);
  }

  /** A session has a higher place than all before it, or else the cluster's log began anew and old places mean nothing. */
  #keepToTheLog(session) {
    if (session < this.#newest) {
      this.#newest = this.#gapSeq = 0;
      for (const user of this.#watched.keys()) this.#watched.set(user, 0);
    }
    this.#newest = Math.max(this.#newest, session || 0);
  }

  #startOver() {
    this.#failures = 0;
    // Each client in an order of its own: else all that a node had would go to the same next one.
    this.#urls = shuffled(this.#urls);
  }

  /** A node that says nothing for two heartbeats is gone, whatever the operating system believes. */
  #watch(link, silenceMs) {
    if (performance.now() - link.heardAt > silenceMs) this.#lost(link, 0, "The node has fallen silent.");
    else if (Date.now() > link.refreshAt) this.#refresh(link);
  }

  /** The node gets a new token while the old one has a third of its life left. */
  async #refresh(link) {
    link.refreshAt = Infinity;
    try {
      const token = await this.options.token();
      if (link !== this.#link) return;
      link.refreshAt = refreshTime(token);
      this.#ask(link, `"refresh":${JSON.stringify({ token })}`, (ok, error) => {
        if (ok) return;
        link.refreshAt = Date.now() + REFRESH_AGAIN_MS;
        this.options.onRefreshRefused({ code: error.code, message: error.message });
      });
    } catch {
      link.refreshAt = Date.now() + REFRESH_AGAIN_MS;
    }
  }

  /** A connection, or an attempt at one, has ended. */
  #lost(link, code, reason) {
    const wasInUse = link === this.#link;
    if (!wasInUse && link !== this.#dialing) return;
    if (wasInUse) this.#link = null;
    else this.#dialing = null;
    this.#discard(link);
    if (code === 4501) this.#expired = link.token;
    // Where we move, it may be our own newer connection that replaces the older one.
    const final = code in FINAL_CODES || (code >= 4500 && code <= 4999 && code !== 4501);
    if (final && !(code === 4502 && link.rivalled)) return this.#stop(code, FINAL_CODES[code] ?? reason, reason);
    if (this.#link?.goals) return this.#moveAgain(code);
    if (this.#link) return;
    // Every other address comes before this one again.
    this.#urls = [...this.#urls.filter((url) => url !== link.url), link.url].filter((url) => this.#urls.includes(url));
    if (this.#dialing) return this.#setState({ name: "connecting", url: this.#dialing.url });
    const why = code === 1006 && !wasInUse ? NO_ANSWER : PASSING_CODES[code];
    // Whom a node has sent away goes where it was sent, though it may know other addresses.
    this.#retryLater(code, why ?? (reason || `The connection was closed (${code}).`), link.goals?.[0]);
  }

  #retryLater(code, reason, url = this.#urls[0]) {
    const backoffMs = this.#backoffMs(code);
    const delayMs = Math.random() * (code === 1012 ? Math.max(this.#spreadMs, backoffMs) : backoffMs);
    this.#retryTimer = setTimeout(() => this.#dial(url), delayMs);
    this.#setState({ name: "waiting", code, reason, delayMs, next: url });
  }

  /** Below this the next delay is drawn: longer after each round of failures. */
  #backoffMs(code) {
    const round = Math.floor(this.#failures++ / this.#urls.length) + (code === 1013 ? 2 : 0);
    return Math.min(FIRST_DELAY_MS * 2 ** round, LONGEST_DELAY_MS);
  }

  #stop(code, reason, detail = "") {
    clearTimeout(this.#retryTimer);
    for (const link of [this.#link, this.#dialing]) if (link) this.#discard(link, code === 1000);
    this.#link = this.#dialing = null;
    this.#setState({ name: "stopped", code, reason, detail });
  }

  /** Lets go of a socket. Only code 1000 tells the node that this device is done. */
  #discard(link, done = false) {
    clearTimeout(link.deadline);
    clearTimeout(link.steady);
    clearTimeout(link.ackTimer);
    clearInterval(link.watchdog);
    if (!link.ws) return;
    link.ws.onopen = link.ws.onmessage = link.ws.onclose = null;
    if (done) {
      this.#ack(link);
      link.ws.close(1000);
    } else {
      link.ws.close(3000, "moving on");
    }
  }

  #setState(state) {
    this.#state = state;
    this.options.onState(state);
  }

  // ---- frames ----

  #receive(link, text) {
    link.heardAt = performance.now();
    const frame = JSON.parse(text);
    if (frame.welcome) this.#welcome(link, frame.welcome);
    else if (frame.msg) this.#deliver(link, frame.seq, () => this.#surface(frame.seq, frame.msg));
    else if (frame.gap) this.#deliver(link, frame.seq, () => this.#tellGap(frame.seq, frame.gap));
    else if (frame.ok || frame.error) this.#answer(link, frame);
    else if (frame.delivered) this.options.onDelivered(frame.delivered);
    else if (frame.presence) this.#tellPresence(frame.presence);
    else if (frame.typing) this.options.onTyping(frame.typing);
    else if (frame.read) this.options.onRead(frame.read);
    else if (frame.ping) link.ws.send('{"pong":{}}');
    else if (frame.go_away) this.#leave(link, frame.go_away);
    // Types that only newer nodes know are none of our business.
  }

  /** What carries a `seq` is handed over in order and acknowledged when the application has it. */
  #deliver(link, seq, handOver) {
    try {
      handOver();
    } catch (error) {
      this.#lost(link, 0, "The application could not take a message.");
      throw error;
    }
    link.seq = Math.max(link.seq, seq);
    this.#newest = Math.max(this.#newest, seq);
    if (performance.now() - link.ackedAt >= ACK_EVERY_MS) this.#ack(link);
    else link.ackTimer ||= setTimeout(() => this.#ack(link), ACK_EVERY_MS);
  }

  #surface(seq, message) {
    if (this.#seen.has(message.mid)) return;
    this.options.onMessage({ seq, ...message });
    this.#seen.add(message.mid);
    if (this.#seen.size > SEEN_LIMIT) this.#seen.delete(this.#seen.values().next().value);
  }

  #tellGap(seq, gap) {
    if (seq <= this.#gapSeq) return;
    this.options.onGap({ seq, ...gap });
    this.#gapSeq = seq;
  }

  #ack(link) {
    clearTimeout(link.ackTimer);
    link.ackTimer = 0;
    if (link.seq <= link.acked || link.ws.readyState !== WebSocket.OPEN) return;
    link.ws.send(`{"ack":${link.seq}}`);
    link.acked = link.seq;
    link.ackedAt = performance.now();
  }

  #leave(link, { after_ms: afterMs, url }) {
    this.#spreadMs = afterMs;
    const goals = [url, ...this.#urls].filter((goal, place, all) => goal && goal !== link.url && all.indexOf(goal) === place);
    link.goals = goals.length ? goals : [link.url];
    // Not at once, so that those who were given more time come later, and with room for the way.
    this.#moveIn(link, afterMs * (0.4 + 0.4 * Math.random()));
  }

  /** The node to move to did not take us: the next one in turn, as long as the connection stands that is to be left. */
  #moveAgain(code) {
    const link = this.#link;
    link.goals.push(link.goals.shift());
    this.#moveIn(link, Math.random() * this.#backoffMs(code));
  }

  #moveIn(link, delayMs) {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.#link === link && !this.#dialing && this.#dial(link.goals[0]), delayMs);
  }

  // ---- the outbox ----

  /** Puts on the wire, oldest first, as much as may be unanswered at a time. */
  #transmit() {
    this.#giveUpOld();
    const link = this.#link;
    if (!link) return;
    while (link.sent < Math.min(this.#outbox.length, this.#limits.inflight)) {
      const entry = this.#outbox[link.sent];
      if (this.#refuseTooLarge(entry)) {
        this.#forget(link, entry);
        continue;
      }
      link.sent++;
      const id = link.nextId++;
      entry.firstSent ??= moment();
      link.waiting.set(id, entry);
      link.ws.send(requestFrame(id, entry.frame));
    }
  }

  /** The limit may become known, or smaller, while a message waits. */
  #refuseTooLarge(entry) {
    const limit = this.#limits.frame_bytes;
    if (entry.bytes <= limit) return false;
    // An earlier node, which takes more, may have stored it.
    entry.reject(entry.firstSent ? new SendError("unknown", "It may have been stored: this node takes no frame so large.") : tooLarge(entry.bytes, limit));
    return true;
  }

  #answer(link, { id, ok, error }) {
    const answered = link.asked.get(id);
    if (answered) {
      link.asked.delete(id);
      return answered(ok, error);
    }
    const entry = link.waiting.get(id);
    if (!entry) return;
    link.waiting.delete(id);
    this.#forget(link, entry);
    if (ok) entry.resolve(ok);
    else entry.reject(new SendError(error.code, error.message));
    this.#transmit();
  }

  /** A repeat might be taken for a new message by now: the fate of these stays unknown. */
  #giveUpOld() {
    for (const entry of this.#outbox.filter(({ firstSent }) => firstSent && msSince(firstSent) >= REPEAT_FOR_MS)) {
      this.#forget(this.#link, entry);
      entry.reject(new SendError("unknown", "No answer for an hour: it may have been stored or not."));
    }
  }

  #forget(link, entry) {
    const place = this.#outbox.indexOf(entry);
    if (place < 0) return;
    this.#outbox.splice(place, 1);
    if (link && place < link.sent) link.sent--;
  }
}

function requestFrame(id, frame) {
  return `{"id":${id},${frame}}`;
}

/** How large it is at most, whatever its id. */
function requestBytes(frame) {
  return bytesOf(requestFrame(Number.MAX_SAFE_INTEGER, frame));
}

function bytesOf(text) {
  return new TextEncoder().encode(text).length;
}

function tooLarge(bytes, limit) {
  return new SendError("too_large", `The message is too long: ${bytes} bytes, ${limit} are allowed.`);
}

function checkName(name) {
  // Half a surrogate pair is no character, and cannot be sent.
  if (typeof name === "string" && name && bytesOf(name) <= 128 && !/[\p{Cc}\p{Cs}]/u.test(name)) return;
  throw new SendError("bad_recipient", "A user's name has 1 to 128 bytes, and no control characters.");
}

/** So long ago, on both clocks: the steady one may stand still while a machine sleeps, the other can be set. */
function moment(agoMs = 0) {
  return { steady: performance.now() - agoMs, wall: Date.now() - agoMs };
}

/** Whichever clock says that more time has passed is believed. */
function msSince({ steady, wall }) {
  return Math.max(performance.now() - steady, Date.now() - wall);
}

/** When two thirds of a JWT's remaining life are over; never, if it does not say. */
function refreshTime(token) {
  try {
    const { exp } = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    const now = Date.now();
    return Number.isFinite(exp) ? now + ((exp * 1000 - now) * 2) / 3 : Infinity;
  } catch {
    return Infinity;
  }
}

function shuffled(list) {
  return list.map((item) => [Math.random(), item]).sort(([a], [b]) => a - b).map(([, item]) => item);
}

function randomHex(bytes) {
  const random = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
