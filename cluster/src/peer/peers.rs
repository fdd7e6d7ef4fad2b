//! The handle to all links of a node.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::acceptor::{self, Register};
use super::caller::Caller;
use super::dialer::{self, DialError, Target};
use super::stop::Stop;
use super::{Handler, Kind, LinkView, PeerError, Secret};
use crate::env::net::Net;
use crate::env::{clock, tasks};
use crate::id::NodeId;
use crate::observer::Observer;
use crate::sync::lock;

/// What the tasks share.
pub(super) struct Inner {
    pub(super) net: Arc<dyn Net>,
    pub(super) me: NodeId,
    pub(super) secret: Secret,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) stop: Arc<Stop>,
    pub(super) register: Register,
    targets: Mutex<BTreeMap<NodeId, Arc<Target>>>,
    changes: watch::Sender<u64>,
}

impl Inner {
    fn targets(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Target>>> {
        lock(&self.targets)
    }

    /// Announces that a link's state changed.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// `node` is alive: dial it now if there is no link to it.
    pub(super) fn poke(&self, node: NodeId) {
        if let Some(target) = self.targets().get(&node) {
            target.poke();
        }
    }

    fn close(&self) {
        self.stop.set();
        for target in std::mem::take(&mut *self.targets()).into_values() {
            target.stop.set();
        }
        self.register.close();
        self.changed();
    }
}

/// Ends the tasks with the last handle.
struct Owner(Arc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// All links of this node. Clones share them; they end with [`Peers::close`] or the last clone.
/// To be used within a runtime.
#[derive(Clone)]
pub struct Peers {
    owner: Arc<Owner>,
}

impl Peers {
    /// No links yet.
    #[must_use]
    pub fn new(net: Arc<dyn Net>, me: NodeId, secret: Secret, observer: Arc<dyn Observer>) -> Self {
        let inner = Inner {
            net,
            me,
            secret,
            observer,
            stop: Arc::default(),
            register: Register::default(),
            targets: Mutex::default(),
            changes: watch::Sender::new(0),
        };
        Self { owner: Arc::new(Owner(Arc::new(inner))) }
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.owner.0
    }

    /// Accepts links on `addr` (`host:port`) and has `handler` answer what comes by them. Gives
    /// the address really bound.
    ///
    /// # Errors
    /// As [`Net::listen`].
    pub async fn listen(&self, addr: &str, handler: Arc<dyn Handler>) -> io::Result<SocketAddr> {
        let listener = self.inner().net.listen(addr).await?;
        let bound = listener.local_addr();
        tasks::spawn(acceptor::run(self.inner().clone(), listener, handler));
        Ok(bound)
    }

    /// The nodes to be linked to, and where they listen; this node itself is ignored. Links to
    /// others end, new ones are dialed at once; one whose address changed is dialed anew. Links
    /// that other nodes dialed are left alone.
    pub fn set_addresses(&self, addresses: BTreeMap<NodeId, String>) {
        let inner = self.inner();
        let mut targets = inner.targets();
        if inner.stop.is_set() {
            return;
        }
        let mut before = std::mem::take(&mut *targets);
        let mut changed = false;
        for (node, addr) in addresses.into_iter().filter(|(node, _)| *node != inner.me) {
            let target = match before.remove(&node) {
                Some(target) if target.addr == addr => target,
                other => {
                    if let Some(old) = other {
                        old.stop.set();
                    }
                    changed = true;
                    let target = Arc::new(Target::new(node, addr));
                    tasks::spawn(dialer::run(inner.clone(), target.clone()));
                    target
                }
            };
            targets.insert(node, target);
        }
        drop(targets);
        for target in before.values() {
            changed = true;
            target.stop.set();
        }
        if changed {
            inner.changed();
        }
    }

    /// Asks `to` and waits for the answer, at most until `deadline` from now. Calls of one task to
    /// one node leave in their order.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn request(&self, to: NodeId, kind: Kind, body: Bytes, deadline: Duration) -> Result<Bytes, PeerError> {
        let link = match self.inner().targets().get(&to) {
            Some(target) => target.link(),
            None => return Err(PeerError::Unknown(to)),
        };
        link.ok_or(PeerError::Down)?.request(kind, body, deadline).await
    }

    /// Tells `to`, without an answer. Dropped when there is no link, or no room on it: then it returns
    /// false; and silently when there is none at the other side.
    pub fn notify(&self, to: NodeId, kind: Kind, body: Bytes) -> bool {
        let link = self.inner().targets().get(&to).and_then(|target| target.link());
        link.is_some_and(|link| link.notify(kind, body))
    }

    /// Asks whoever listens at `addr` (`host:port`), over a link made for this one request. Gives
    /// the node that answered, too.
    ///
    /// # Errors
    /// See [`PeerError`]; [`PeerError::Refused`] says why a handshake failed.
    pub async fn request_addr(
        &self,
        addr: &str,
        kind: Kind,
        body: Bytes,
        deadline: Duration,
    ) -> Result<(NodeId, Bytes), PeerError> {
        let inner = self.inner();
        let until = clock::now() + deadline;
        let (conn, node) = match clock::timeout_at(until, dialer::attempt(inner, addr, None)).await {
            Ok(Ok(attempted)) => attempted,
            Ok(Err(DialError::Greet(error))) => return Err(PeerError::Refused(error.to_string())),
            Ok(Err(DialError::Refused | DialError::Connect(_) | DialError::Timeout)) => return Err(PeerError::Down),
            Err(clock::Elapsed) => return Err(PeerError::Deadline),
        };
        let link = Caller::new();
        let answer = tokio::select! {
            biased;
            answer = link.request(kind, body, until - clock::now()) => answer,
            _ = link.run(conn, &inner.stop) => Err(PeerError::Closed),
        };
        Ok((node, answer?))
    }

    /// All links to be kept, by node.
    #[must_use]
    pub fn links(&self) -> Vec<LinkView> {
        self.inner().targets().values().map(|target| target.view()).collect()
    }

    /// A counter that grows whenever a link's state changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner().changes.subscribe()
    }

    /// Ends all links and stops listening, for good. Requests under way fail with
    /// [`PeerError::Closed`].
    pub fn close(&self) {
        self.inner().close();
    }
}
