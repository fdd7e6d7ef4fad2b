//! What the application's side and the connection's task have in common.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use cluster::env::clock::{self, Instant};
use tokio::sync::{Notify, oneshot};

use super::inbox::Inbox;
use super::link::REFRESH_ID;
use super::outbox::{Next, Now, Outbox, Request};
use super::watches::{Seen, WATCH_ID, Watches};
use super::{Event, Fate, Incoming, Item, Stopped};
use crate::protocol::{ClientBody, ClientFrame, ErrorCode, Gap, Group, Msg, ServerBody, ServerFrame, Typing};

/// News that the application has not taken; beyond it the oldest marks are dropped. Messages and
/// gaps are never among them.
const NEWS: usize = 1_024;

/// Typing and read marks that wait to be written; more are dropped.
const SIGNALS: usize = 16;

/// Typing is told to the same user again after this, however fast somebody types.
const TYPING_EVERY: Duration = Duration::from_secs(3);

/// The id of the question who is in a group; one is under way at a time.
const MEMBERS_ID: u64 = 3;

/// Members of a group, and whether there are more.
type Members = Result<(Vec<String>, bool), ErrorCode>;

/// Somebody wants to know who is in a group.
struct Question {
    group: String,
    after: Option<String>,
    reply: oneshot::Sender<Members>,
}

/// Shared by the handles and the task of one client.
pub(super) struct Shared {
    state: Mutex<State>,
    /// For the task: there is something to do.
    pub work: Notify,
    /// For whoever waits for events.
    pub arrived: Notify,
    /// For whoever waits to send, or for everything to be answered.
    pub room: Notify,
}

/// The state behind the lock, which is never held across an await.
pub(super) struct State {
    pub outbox: Outbox<oneshot::Sender<Fate>>,
    pub inbox: Inbox<Item>,
    pub watches: Watches,
    news: VecDeque<Event>,
    questions: VecDeque<Question>,
    /// Typing and read marks that were not written yet, as frames.
    signals: VecDeque<String>,
    /// When it was told last that we write, by user: none from before [`TYPING_EVERY`].
    typed: BTreeMap<String, Instant>,
    /// The first question was written to the present connection.
    asked: bool,
    /// The application is done with this client.
    pub closing: bool,
    /// The client has ended.
    pub stopped: bool,
    /// Why, until that is told: the last of all, or what was acknowledged would be lost with an application that
    /// ends at it.
    why: Option<Stopped>,
    /// The last node's largest frame, bytes.
    frame_bytes: usize,
}

pub(super) fn now() -> Now {
    Now { monotonic: clock::now(), wall_ms: clock::wall_ms() }
}

impl Shared {
    pub fn new(ahead: usize) -> Self {
        Self {
            state: Mutex::new(State {
                outbox: Outbox::default(),
                inbox: Inbox::new(ahead),
                watches: Watches::default(),
                news: VecDeque::new(),
                questions: VecDeque::new(),
                signals: VecDeque::new(),
                typed: BTreeMap::new(),
                asked: false,
                closing: false,
                stopped: false,
                why: None,
                frame_bytes: 0,
            }),
            work: Notify::new(),
            arrived: Notify::new(),
            room: Notify::new(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds this lock")
    }

    /// The next event; `None` when there will be no more.
    pub async fn next_event(&self) -> Option<Event> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut state = self.state();
                let lags = state.inbox.lags();
                if let Some(event) = state.take_event() {
                    if lags {
                        self.work.notify_one();
                    }
                    return Some(event);
                }
                if state.stopped {
                    return None;
                }
            }
            arrived.await;
        }
    }

    pub fn tell(&self, event: Event) {
        self.state().push_news(event);
        self.arrived.notify_waiters();
    }

    /// Ends the client: every message without an answer learns its fate.
    pub fn stop(&self, why: Stopped) {
        let mut state = self.state();
        (state.stopped, state.why) = (true, Some(why));
        state.questions.clear();
        for (reply, written) in state.outbox.give_up() {
            resign(reply, written);
        }
        drop(state);
        self.arrived.notify_waiters();
        self.room.notify_waiters();
    }

    /// Watches users from now on; those whose names are none are refused, as a node would.
    pub fn watch(&self, users: impl Iterator<Item = String>) {
        let mut state = self.state();
        let users = state.watches.watch(users);
        if !users.is_empty() {
            state.push_news(Event::WatchRefused { users, code: ErrorCode::BadRecipient });
            self.arrived.notify_waiters();
        }
        drop(state);
        self.work.notify_one();
    }

    /// A connection stands.
    pub fn connected(&self, inflight: usize, frame_bytes: usize, epoch: Option<u64>) {
        let mut state = self.state();
        state.outbox.connected(inflight, frame_bytes);
        let log_began_anew = state.inbox.connected(epoch);
        state.watches.connected(log_began_anew);
        state.frame_bytes = frame_bytes;
        state.asked = false;
    }

    /// The connection is gone. Also the place where messages are given up at last.
    pub fn disconnected(&self) {
        let mut state = self.state();
        state.outbox.disconnected();
        state.signals.clear();
        drop(state);
        self.expire();
    }

    /// Reports messages that waited too long.
    pub fn expire(&self) {
        let expired = self.state().outbox.expire(now());
        if !expired.is_empty() {
            expired.into_iter().for_each(|(reply, written)| resign(reply, written));
            self.room.notify_waiters();
        }
    }

    /// The next frame of ours to write, if any.
    pub fn next_frame(&self) -> Option<String> {
        let mut state = self.state();
        let waiting = state.outbox.len();
        let frame = state.next_frame();
        if state.outbox.len() < waiting {
            // What is too large to be sent waits no more.
            self.room.notify_waiters();
        }
        frame
    }

    /// Takes in what came from the node.
    pub fn received(&self, frame: ServerFrame<'_>) {
        let mut state = self.state();
        match (frame.body, frame.id) {
            (ServerBody::Ok(ok), Some(MEMBERS_ID)) => {
                let members = ok.members.unwrap_or_default().into_iter().map(std::borrow::Cow::into_owned).collect();
                state.answer_question(Ok((members, ok.more.unwrap_or_default())));
                self.work.notify_one();
            }
            (ServerBody::Error(error), Some(MEMBERS_ID)) => {
                state.answer_question(Err(error.code));
                self.work.notify_one();
            }
            (ServerBody::Ok(_), Some(WATCH_ID)) => drop(state.watches.answered(None)),
            (ServerBody::Error(error), Some(WATCH_ID)) => {
                let users = state.watches.answered(Some(error.code));
                if !users.is_empty() {
                    state.push_news(Event::WatchRefused { users, code: error.code });
                    self.arrived.notify_waiters();
                }
            }
            (ServerBody::Presence(presence), _) => {
                state.watches.told(&presence);
                self.arrived.notify_waiters();
            }
            (ServerBody::Ok(ok), Some(id)) => {
                if let Some(reply) = state.outbox.answered(id) {
                    let _ = reply.send(ok.mid.map_or(Fate::Done, Fate::Stored));
                    self.room.notify_waiters();
                }
            }
            (ServerBody::Error(error), Some(REFRESH_ID)) => {
                state.push_news(Event::RefreshRefused { message: error.message.into_owned() });
                self.arrived.notify_waiters();
            }
            (ServerBody::Error(error), Some(id)) => {
                if let Some(reply) = state.outbox.answered(id) {
                    let _ = reply.send(Fate::Refused { code: error.code, message: error.message.into_owned() });
                    self.room.notify_waiters();
                }
            }
            (ServerBody::Msg(seq, message), _) => {
                state.inbox.offer(seq, Some(message.mid), Item::Message(incoming(seq, &message)));
                self.arrived.notify_waiters();
            }
            (ServerBody::Gap(seq, Gap { reason, lost }), _) => {
                state.inbox.offer(seq, None, Item::Gap { seq, reason, lost });
                self.arrived.notify_waiters();
            }
            (ServerBody::Delivered(delivered), _) => {
                state.push_news(Event::Delivered { mid: delivered.mid, by: delivered.by.into_owned() });
                self.arrived.notify_waiters();
            }
            (ServerBody::Typing(typing), _) => {
                state.push_news(Event::Typing { from: typing.from.into_owned() });
                self.arrived.notify_waiters();
            }
            (ServerBody::Read(read), _) => {
                state.push_news(Event::Read { by: read.by.into_owned(), mid: read.mid });
                self.arrived.notify_waiters();
            }
            _ => {}
        }
    }
}

impl State {
    /// The next frame of ours to write, if any: an acknowledgement or a message.
    pub fn next_frame(&mut self) -> Option<String> {
        if let Some(seq) = self.inbox.ack() {
            return Some(format!("{{\"ack\":{seq}}}"));
        }
        if !self.asked
            && let Some(question) = self.questions.front()
        {
            self.asked = true;
            let (members, after) = (Some(question.group.as_str().into()), question.after.as_deref().map(Into::into));
            let body = ClientBody::Group(Group { members, after, ..Group::default() });
            return Some(ClientFrame { id: Some(MEMBERS_ID), body }.encode());
        }
        loop {
            match self.outbox.next(now()) {
                Next::Frame(text) => return Some(text),
                Next::TooLarge(reply, false) => drop(reply.send(Fate::TooLarge { frame_bytes: self.frame_bytes })),
                Next::TooLarge(reply, true) => resign(reply, true),
                // What is stored goes first.
                Next::Idle => {
                    let frame_bytes = self.frame_bytes;
                    return self.watches.next_frame(frame_bytes).or_else(|| self.signals.pop_front());
                }
            }
        }
    }

    /// Says something that is worth little a moment later.
    pub fn signal(&mut self, frame: String) {
        if self.signals.len() < SIGNALS {
            self.signals.push_back(frame);
        }
    }

    /// Tells `to` that we write, unless that was told a moment ago.
    pub fn typing(&mut self, to: &str) {
        let now = clock::now();
        self.typed.retain(|_, at| now - *at < TYPING_EVERY);
        if !self.typed.contains_key(to) {
            self.typed.insert(to.to_owned(), now);
            self.signal(ClientFrame { id: None, body: ClientBody::Typing(Typing { to: to.into() }) }.encode());
        }
    }

    /// Asks who is in a group.
    pub fn ask_members(&mut self, group: &str, after: Option<&str>) -> oneshot::Receiver<Members> {
        let (reply, answer) = oneshot::channel();
        if !self.stopped {
            let (group, after) = (group.to_owned(), after.map(str::to_owned));
            self.questions.push_back(Question { group, after, reply });
        }
        answer
    }

    fn answer_question(&mut self, members: Members) {
        if let Some(question) = self.questions.pop_front().filter(|_| self.asked) {
            // A receiver that was dropped does not want to know.
            let _ = question.reply.send(members);
        }
        self.asked = false;
    }

    pub fn push(&mut self, request: Request) -> oneshot::Receiver<Fate> {
        let (reply, fate) = oneshot::channel();
        if self.stopped {
            resign(reply, false);
        } else {
            self.outbox.push(request, reply, now());
        }
        fate
    }

    fn take_event(&mut self) -> Option<Event> {
        // News of the connection first: they are few, and bounded in number.
        let news = self.news.pop_front().or_else(|| {
            let (user, Seen { devices, version }) = self.watches.take()?;
            Some(Event::Presence { user, devices, version })
        });
        let event = news.or_else(|| {
            self.inbox.take().map(|item| match item {
                Item::Message(message) => Event::Message(message),
                Item::Gap { seq, reason, lost } => Event::Gap { seq, reason, lost },
            })
        });
        event.or_else(|| self.why.take().map(Event::Stopped))
    }

    fn push_news(&mut self, event: Event) {
        // Nothing is told after why it ended.
        if self.stopped {
            return;
        }
        if self.news.len() >= NEWS {
            self.news.pop_front();
        }
        self.news.push_back(event);
    }
}

/// Tells that a message's fate will not be learned here; that nobody has it, if it never left.
fn resign(reply: oneshot::Sender<Fate>, written: bool) {
    // A receiver that was dropped does not want to know.
    let _ = reply.send(if written { Fate::Unknown } else { Fate::NotSent });
}

fn incoming(seq: u64, message: &Msg<'_>) -> Incoming {
    Incoming {
        seq,
        mid: message.mid,
        from: message.from.clone().into_owned(),
        device: message.device.clone().into_owned(),
        to: message.to.clone().map(std::borrow::Cow::into_owned),
        group: message.group.clone().map(std::borrow::Cow::into_owned),
        ts_ms: message.ts,
        body: message.body.to_owned(),
    }
}

#[cfg(test)]
mod tests;
