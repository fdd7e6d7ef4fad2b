//! The client: a conversation with a cluster that outlives connections and nodes.
//!
//! Invariant: a message given to [`Client::send`] is stored once or not at all, in the order given,
//! and its [`Receipt`] never says `Stored` when it is not; a message for this device is surfaced once
//! and in order, or a gap says that it is lost. Connections come and go beneath. The cores
//! ([`outbox`], [`inbox`], [`route`]) are pure; [`link`] and [`task`] do what they say over
//! [`cluster::env`], so the simulator runs these very lines.

pub mod inbox;
mod link;
pub mod outbox;
pub mod route;
mod shared;
mod task;
pub mod watches;

use cluster::env::tasks;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use cluster::env::Net;
use cluster::id::MessageId;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

pub use crate::protocol::Traceparent;
use crate::protocol::{ClientBody, ClientFrame, ErrorCode, GapReason, MAX_KEY_BYTES, Read, Typing};
use cluster::state::GroupAct;
pub use outbox::To;
use outbox::{Outgoing, Request};
use route::Route;
pub use route::{Address, BadUrl};
use shared::Shared;

/// Where a client's tokens come from. Asked at every connection and before a token expires.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// A token that is valid now. An error is shown to the application, and asked again later.
    async fn token(&self) -> Result<String, String>;
}

/// One and the same token for ever.
#[async_trait]
impl Tokens for String {
    async fn token(&self) -> Result<String, String> {
        Ok(self.clone())
    }
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Stored on a quorum under this id: it will be delivered.
    Stored(MessageId),
    /// Done, of something with a group, or a device that was to be forgotten.
    Done,
    /// Refused: nobody has seen it or will.
    Refused {
        /// Why.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// Not sent: its frame is larger than the node takes, in bytes.
    TooLarge {
        /// The largest frame that the node takes.
        frame_bytes: usize,
    },
    /// It was sent, but no answer came before the client gave up or was closed: it may be delivered
    /// or not.
    Unknown,
    /// It was never sent: nobody has it.
    NotSent,
}

/// The future of one message's [`Fate`]. May be dropped; the message goes its way all the same.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Fate>);

impl Future for Receipt {
    type Output = Fate;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Fate> {
        // The sending half answers whatever happens, unless the whole runtime goes down around it.
        Pin::new(&mut self.0).poll(cx).map(|fate| fate.unwrap_or(Fate::Unknown))
    }
}

/// A message for this device. One that another device of its own user sent to somebody else comes as a copy:
/// `from` is its user then, and `to` is not.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Its place in this device's order; grows, not by ones.
    pub seq: u64,
    /// Its id.
    pub mid: MessageId,
    /// The sender.
    pub from: String,
    /// The sender's device.
    pub device: String,
    /// The recipient, of a direct message.
    pub to: Option<String>,
    /// The group, of a group's.
    pub group: Option<String>,
    /// When it reached its first node, ms since the Unix epoch.
    pub ts_ms: u64,
    /// The JSON that its sender wrote.
    pub body: Box<RawValue>,
}

/// What waits in the inbox.
#[derive(Debug)]
enum Item {
    Message(Incoming),
    Gap { seq: u64, reason: GapReason, lost: u64 },
}

/// What a client tells its application.
#[derive(Debug, Clone)]
pub enum Event {
    /// A message, once and in order.
    Message(Incoming),
    /// This device missed messages.
    Gap {
        /// The place of the last one missed.
        seq: u64,
        /// Why.
        reason: GapReason,
        /// How many.
        lost: u64,
    },
    /// The first of the recipient's devices has a message of ours.
    Delivered {
        /// The message.
        mid: MessageId,
        /// The recipient.
        by: String,
    },
    /// Somebody is writing to us.
    Typing {
        /// Who.
        from: String,
    },
    /// Somebody has read a message; on another device of ours, we have.
    Read {
        /// Who.
        by: String,
        /// The message.
        mid: MessageId,
    },
    /// Somebody whom we watch is there, or not. Told again now and then though nothing has changed.
    Presence {
        /// Who.
        user: String,
        /// With how many devices; 0: offline.
        devices: u32,
        /// Grows with what changes, whatever node tells it.
        version: u64,
    },
    /// These are not watched.
    WatchRefused {
        /// Who.
        users: Vec<String>,
        /// Why.
        code: ErrorCode,
    },
    /// A session stands.
    Connected {
        /// The node that serves it.
        node: String,
        /// Its address, `host:port`.
        address: String,
        /// The session's name.
        session: String,
    },
    /// The session is gone, or could not be had; the client goes on trying.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The last event: the client has ended.
    Stopped(Stopped),
}

/// Why a client ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The application closed it.
    #[error("closed")]
    Closed,
    /// The node closed the connection with a code that says not to come back.
    #[error("the node ended the session: {code} {reason}")]
    Refused {
        /// The close code.
        code: u16,
        /// What the node said.
        reason: String,
    },
}

/// Why [`Client::send`] took no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The client has ended.
    #[error("the client has ended")]
    Stopped,
    /// [`Client::try_send`] found the queue full.
    #[error("too many messages wait for their answer")]
    Full,
    /// A key has 1 to 64 bytes.
    #[error("a key has 1 to {MAX_KEY_BYTES} bytes")]
    BadKey,
    /// The body is not JSON.
    #[error("the body cannot be written as JSON")]
    BadBody,
}

/// How a client is made.
pub struct Builder {
    net: Arc<dyn Net>,
    secure: Option<Arc<dyn Net>>,
    urls: Vec<String>,
    tokens: Arc<dyn Tokens>,
    device: String,
    ephemeral: bool,
    first: Option<usize>,
    ahead: usize,
    queue_messages: usize,
    queue_bytes: usize,
}

impl Builder {
    /// Which of the URLs to begin with, by its place in the list: any, if nothing else is said, so
    /// that clients spread over the cluster.
    #[must_use]
    pub fn first(mut self, index: usize) -> Self {
        self.first = Some(index);
        self
    }

    /// What addresses that ask for TLS (`wss://`, `https://`) are reached by.
    #[must_use]
    pub fn secure(mut self, net: Option<Arc<dyn Net>>) -> Self {
        self.secure = net;
        self
    }

    /// Forget the device when it closes, or ten minutes after it was lost.
    #[must_use]
    pub fn ephemeral(mut self, ephemeral: bool) -> Self {
        self.ephemeral = ephemeral;
        self
    }

    /// How many messages are acknowledged before the application has taken them: 256, if nothing
    /// else is said. With 0 a message that the application did not take before a crash comes again.
    #[must_use]
    pub fn ahead(mut self, messages: usize) -> Self {
        self.ahead = messages;
        self
    }

    /// How many messages may wait for their answer before `send` waits: 1024 of 8 MiB in all, if
    /// nothing else is said.
    #[must_use]
    pub fn queue(mut self, messages: usize, bytes: usize) -> Self {
        (self.queue_messages, self.queue_bytes) = (messages.max(1), bytes.max(1));
        self
    }

    /// Starts the client. It connects by itself, and goes on until it is closed, dropped, or told by
    /// a node to stop.
    ///
    /// # Errors
    /// A URL that is none, or that asks for TLS where nothing speaks it.
    pub fn connect(self) -> Result<Client, BadUrl> {
        let first = self.first.unwrap_or_else(|| rand::random_range(0..self.urls.len().max(1)));
        let route = Route::new(&self.urls, first)?;
        if let (Some(address), None) = (route.secured(), &self.secure) {
            return Err(BadUrl::Tls(address.base()));
        }
        let shared = Arc::new(Shared::new(self.ahead));
        let task = task::Task {
            net: self.net,
            secure: self.secure,
            tokens: self.tokens,
            device: self.device,
            ephemeral: self.ephemeral,
            instance: format!("{:032x}", rand::random::<u128>()),
            attempt: 0,
            route,
            shared: shared.clone(),
        };
        tasks::spawn(task.run());
        let keys = format!("{:016x}", rand::random::<u64>());
        let handle = Handle { shared, keys, queue_messages: self.queue_messages, queue_bytes: self.queue_bytes };
        Ok(Client(Arc::new(handle)))
    }
}

struct Handle {
    shared: Arc<Shared>,
    /// Begins every key that is made here.
    keys: String,
    queue_messages: usize,
    queue_bytes: usize,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.work.notify_one();
    }
}

/// A device's conversation with a cluster. Clones are the same client; when the last one is
/// dropped, the connection is closed.
#[derive(Clone)]
pub struct Client(Arc<Handle>);

impl Client {
    /// A client of the cluster whose nodes have these `urls`, for the user that `tokens` name, as
    /// `device`. A device id belongs to one running client.
    pub fn builder(net: Arc<dyn Net>, urls: Vec<String>, tokens: Arc<dyn Tokens>, device: &str) -> Builder {
        Builder {
            net,
            secure: None,
            urls,
            tokens,
            device: device.to_owned(),
            ephemeral: false,
            first: None,
            ahead: 256,
            queue_messages: 1_024,
            queue_bytes: 8 << 20,
        }
    }

    /// Sends `body` to a user or a group. Waits while too many messages are without an answer; then the message
    /// is on its way, and the receipt tells its fate.
    ///
    /// # Errors
    /// A body that is not JSON, a client that has ended.
    pub async fn send(&self, to: impl Into<To>, body: &impl Serialize) -> Result<Receipt, SendError> {
        self.request(self.message(to.into(), None, body, None)?).await
    }

    /// As [`Client::send`], as a part of a trace: if `trace` is sampled, the nodes record what they do with the
    /// message, under that trace.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send_traced(
        &self,
        to: impl Into<To>,
        body: &impl Serialize,
        trace: Traceparent,
    ) -> Result<Receipt, SendError> {
        self.request(self.message(to.into(), None, body, Some(trace))?).await
    }

    /// Makes, joins or leaves a group, in order with what is sent. Doing it twice is as doing it once,
    /// so it is repeated as messages are.
    ///
    /// # Errors
    /// A client that has ended.
    pub async fn group(&self, act: GroupAct, name: &str) -> Result<Receipt, SendError> {
        self.request(Request::Group(act, name.to_owned())).await
    }

    /// Forgets another device of the user, in order with what is sent; its session ends. Repeated as messages are,
    /// so a device that comes back meanwhile may be forgotten once more.
    ///
    /// # Errors
    /// A client that has ended.
    pub async fn forget(&self, device: &str) -> Result<Receipt, SendError> {
        self.request(Request::Forget(device.to_owned())).await
    }

    /// Tells a user that we are writing. Lost where there is no connection, or much to do.
    pub fn typing(&self, to: &str) {
        self.signal(ClientBody::Typing(Typing { to: to.into() }));
    }

    /// Tells a message's sender, and our other devices, that it was read. Lost like [`Client::typing`].
    pub fn read(&self, from: &str, mid: MessageId) {
        self.signal(ClientBody::Read(Read { from: from.into(), mid }));
    }

    /// Tells from now on who of these users is there, and how it is now, besides those watched already: as
    /// [`Event::Presence`], across all connections to come.
    pub fn watch<'a>(&self, users: impl IntoIterator<Item = &'a str>) {
        self.0.shared.state().watches.watch(users.into_iter().map(str::to_owned));
        self.0.shared.work.notify_one();
    }

    /// Tells it of these no more.
    pub fn unwatch<'a>(&self, users: impl IntoIterator<Item = &'a str>) {
        self.0.shared.state().watches.unwatch(users.into_iter().map(str::to_owned));
        self.0.shared.work.notify_one();
    }

    fn signal(&self, body: ClientBody<'_>) {
        self.0.shared.state().signal(ClientFrame { id: None, body }.encode());
        self.0.shared.work.notify_one();
    }

    /// Members of a group in the order of their names, behind `after`, and whether there are more
    /// behind them: as the node knows them when the question comes, whatever is still under way.
    ///
    /// # Errors
    /// What the node refused it with; `None` when the client has ended.
    pub async fn members(&self, group: &str, after: Option<&str>) -> Result<(Vec<String>, bool), Option<ErrorCode>> {
        let answer = self.0.shared.state().ask_members(group, after);
        self.0.shared.work.notify_one();
        answer.await.map_err(|_| None)?.map_err(Some)
    }

    async fn request(&self, mut request: Request) -> Result<Receipt, SendError> {
        loop {
            let room = self.0.shared.room.notified();
            match self.push(request) {
                Ok(receipt) => return Ok(receipt),
                Err((SendError::Full, refused)) => request = refused,
                Err((error, _)) => return Err(error),
            }
            room.await;
        }
    }

    /// As [`Client::send`], without waiting; `key`, if given, makes it the same message as another of
    /// this device with the same key, recipient and body.
    ///
    /// # Errors
    /// As [`Client::send`]; too many messages without an answer; a key that is too short or long.
    pub fn try_send(&self, to: impl Into<To>, key: Option<&str>, body: &impl Serialize) -> Result<Receipt, SendError> {
        self.push(self.message(to.into(), key, body, None)?).map_err(|(error, _)| error)
    }

    fn message(
        &self,
        to: To,
        key: Option<&str>,
        body: &impl Serialize,
        trace: Option<Traceparent>,
    ) -> Result<Request, SendError> {
        if key.is_some_and(|key| key.is_empty() || key.len() > MAX_KEY_BYTES) {
            return Err(SendError::BadKey);
        }
        let body = serde_json::value::to_raw_value(body).map_err(|_| SendError::BadBody)?;
        let key = key.map_or_else(|| format!("{}{:016x}", self.0.keys, rand::random::<u64>()), str::to_owned);
        Ok(Request::Send(Outgoing { to, key, body, trace }))
    }

    fn push(&self, request: Request) -> Result<Receipt, (SendError, Request)> {
        let shared = &self.0.shared;
        let mut state = shared.state();
        if state.stopped || state.closing {
            return Err((SendError::Stopped, request));
        }
        let room = state.outbox.len() < self.0.queue_messages && state.outbox.bytes() < self.0.queue_bytes;
        if !room {
            return Err((SendError::Full, request));
        }
        let fate = state.push(request);
        drop(state);
        shared.work.notify_one();
        Ok(Receipt(fate))
    }

    /// The next event; `None` when the client has ended and all was told. Cancel-safe.
    pub async fn next(&self) -> Option<Event> {
        self.0.shared.next_event().await
    }

    /// Waits until every message has its answer, or the client has ended.
    pub async fn flush(&self) {
        loop {
            let room = self.0.shared.room.notified();
            if self.0.shared.state().outbox.is_empty() {
                return;
            }
            room.await;
        }
    }

    /// Closes the connection in good order and waits until it is closed. What has no answer by then
    /// is reported as unknown; [`Client::flush`] first avoids that.
    pub async fn close(&self) {
        self.0.shared.state().closing = true;
        self.0.shared.work.notify_one();
        loop {
            let room = self.0.shared.room.notified();
            if self.0.shared.state().stopped {
                return;
            }
            room.await;
        }
    }
}
