//! The client: a conversation with a cluster that outlives connections and nodes.
//!
//! Invariant: a message given to [`Client::send`] is stored once or not at all, in the order given,
//! and its [`Receipt`] never says `Stored` when it is not; a message for this device is surfaced once
//! and in order, or a gap says that it is lost. Connections come and go beneath. The cores
//! ([`outbox`], [`inbox`], [`route`]) are pure; [`link`] and [`task`] do what they say over
//! [`cluster::env`], so the simulator runs these very lines.

mod builder;
mod event;
pub mod inbox;
mod link;
pub mod outbox;
pub mod route;
mod shared;
mod task;
pub mod watches;

use std::sync::Arc;

use async_trait::async_trait;
use cluster::env::Net;
use cluster::id::{GroupId, InvalidName, MessageId, UserId};
use serde::Serialize;

pub use crate::protocol::Traceparent;
use crate::protocol::{ClientBody, ClientFrame, ErrorCode, MAX_KEY_BYTES, Read};
pub use builder::Builder;
use cluster::state::GroupAct;
use event::Item;
pub use event::{Event, Fate, Incoming, Receipt, SendError, Stopped};
pub use outbox::To;
use outbox::{Outgoing, Request};
pub use route::{Address, BadUrl};
use shared::Shared;

/// Where a client's tokens come from. Asked at every connection and before a token expires. A client that is given the
/// same token again after a node has found it expired ends.
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
        Builder::new(net, urls, tokens, device)
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

    /// Tells a user that we are writing; call it at every key, it is told every three seconds. Lost where there is no
    /// connection, or much to do.
    ///
    /// # Errors
    /// A name that is none.
    pub fn typing(&self, to: &str) -> Result<(), InvalidName> {
        UserId::new(to)?;
        self.0.shared.state().typing(to);
        self.0.shared.work.notify_one();
        Ok(())
    }

    /// Tells a message's sender, and our other devices, that it was read. Lost like [`Client::typing`].
    ///
    /// # Errors
    /// A name that is none.
    pub fn read(&self, from: &str, mid: MessageId) -> Result<(), InvalidName> {
        UserId::new(from)?;
        let frame = ClientFrame { id: None, body: ClientBody::Read(Read { from: from.into(), mid }) };
        self.0.shared.state().signal(frame.encode());
        self.0.shared.work.notify_one();
        Ok(())
    }

    /// Tells from now on who of these users is there, and how it is now, besides those watched already: as
    /// [`Event::Presence`], across all connections to come. Of those whose names are none it tells at once, as
    /// [`Event::WatchRefused`].
    pub fn watch<'a>(&self, users: impl IntoIterator<Item = &'a str>) {
        self.0.shared.watch(users.into_iter().map(str::to_owned));
    }

    /// Tells it of these no more.
    pub fn unwatch<'a>(&self, users: impl IntoIterator<Item = &'a str>) {
        self.0.shared.state().watches.unwatch(users.into_iter().map(str::to_owned));
        self.0.shared.work.notify_one();
    }

    /// Members of a group in the order of their names, behind `after`, and whether there are more
    /// behind them: as the node knows them when the question comes, whatever is still under way.
    ///
    /// # Errors
    /// What the node refused it with, or would: a name that is none is not asked for. `None` when the client has ended.
    pub async fn members(&self, group: &str, after: Option<&str>) -> Result<(Vec<String>, bool), Option<ErrorCode>> {
        if GroupId::new(group).is_err() || after.is_some_and(|after| UserId::new(after).is_err()) {
            return Err(Some(ErrorCode::BadRecipient));
        }
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
    /// is reported as unknown; [`Client::flush`] first avoids that. What came before is still there to
    /// be taken, up to [`Event::Stopped`]: it was acknowledged, and does not come again.
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
