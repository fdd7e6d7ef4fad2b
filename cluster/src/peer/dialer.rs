//! Keeps the link to one node: dials, runs the link, dials again.
//!
//! Invariant: the state that others see changes only here, and each change is announced once and
//! logged once, whatever the number of attempts between.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::caller::Caller;
use super::greet::{self, GreetError};
use super::limits::{BACKOFF, CONNECT_TIMEOUT, STABLE_AFTER};
use super::peers::Inner;
use super::stop::Stop;
use super::wire::{self, LinkEnd};
use super::{LinkState, LinkView};
use crate::env::clock;
use crate::env::net::BoxConn;
use crate::id::NodeId;
use crate::sync::lock;

/// Why an attempt gave no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DialError {
    #[error("connection refused")]
    Refused,
    #[error("could not connect: {0}")]
    Connect(io::ErrorKind),
    #[error("no connection in time")]
    Timeout,
    #[error("{0}")]
    Greet(#[from] GreetError),
}

impl DialError {
    /// See [`GreetError::is_distrust`].
    const fn is_distrust(self) -> bool {
        matches!(self, Self::Greet(error) if error.is_distrust())
    }
}

/// Connects and shakes hands.
pub(super) async fn attempt(inner: &Inner, addr: &str, want: Option<NodeId>) -> Result<(BoxConn, NodeId), DialError> {
    let mut conn = match clock::timeout(CONNECT_TIMEOUT, inner.net.connect(addr)).await {
        Ok(Ok(conn)) => conn,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(DialError::Refused),
        Ok(Err(error)) => return Err(DialError::Connect(error.kind())),
        Err(clock::Elapsed) => return Err(DialError::Timeout),
    };
    wire::tune(&conn);
    let established = greet::dial(&mut conn, &inner.secret, inner.me, want).await?;
    Ok((conn, established.node))
}

/// What was logged last, so that only news is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Connected,
    Lost(LinkEnd),
    Failed(DialError),
}

struct Standing {
    state: LinkState,
    link: Option<Arc<Caller>>,
    said: Said,
}

/// One node to be linked to.
pub(super) struct Target {
    node: NodeId,
    pub(super) addr: String,
    pub(super) stop: Stop,
    /// The node showed life (it has dialed this one): dial now.
    alive: Notify,
    standing: Mutex<Standing>,
}

impl Target {
    pub(super) fn new(node: NodeId, addr: String) -> Self {
        let standing = Standing { state: LinkState::Connecting, link: None, said: Said::Nothing };
        Self { node, addr, stop: Stop::default(), alive: Notify::new(), standing: Mutex::new(standing) }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        lock(&self.standing)
    }

    /// The link, if there is one.
    pub(super) fn link(&self) -> Option<Arc<Caller>> {
        self.standing().link.clone()
    }

    /// Tells that the node is there: worth an attempt without further delay.
    pub(super) fn poke(&self) {
        if self.standing().link.is_none() {
            self.alive.notify_one();
        }
    }

    pub(super) fn view(&self) -> LinkView {
        let standing = self.standing();
        let (queued, pending) = standing.link.as_ref().map_or((0, 0), |link| link.depth());
        LinkView { node: self.node, addr: self.addr.clone(), state: standing.state, queued, pending }
    }

    fn connected(&self, link: &Arc<Caller>) {
        let mut standing = self.standing();
        standing.state = LinkState::Connected;
        standing.link = Some(link.clone());
        standing.said = Said::Connected;
        drop(standing);
        tracing::info!(peer = %self.node, addr = %self.addr, "peer connected");
    }

    fn lost(&self, end: LinkEnd) {
        let mut standing = self.standing();
        standing.state = LinkState::Down { refused: false, since: clock::now() };
        standing.link = None;
        standing.said = Said::Lost(end);
        drop(standing);
        if end == LinkEnd::Stopped {
            tracing::info!(peer = %self.node, addr = %self.addr, "peer link ended");
        } else {
            tracing::warn!(peer = %self.node, addr = %self.addr, reason = %end, "peer lost");
        }
    }

    /// Notes a failed attempt; whether that changed the state.
    fn failed(&self, error: DialError) -> bool {
        let refused = error == DialError::Refused;
        let mut standing = self.standing();
        let changed = !matches!(standing.state, LinkState::Down { refused: before, .. } if before == refused);
        if changed {
            standing.state = LinkState::Down { refused, since: clock::now() };
        }
        let news = std::mem::replace(&mut standing.said, Said::Failed(error)) != Said::Failed(error);
        drop(standing);
        match error {
            _ if !news => tracing::debug!(peer = %self.node, addr = %self.addr, reason = %error, "peer still down"),
            DialError::Refused => tracing::warn!(peer = %self.node, addr = %self.addr, "peer refused the connection"),
            _ if error.is_distrust() => {
                tracing::error!(peer = %self.node, addr = %self.addr, reason = %error, "peer authentication failed");
            }
            _ => tracing::warn!(peer = %self.node, addr = %self.addr, reason = %error, "peer not reached"),
        }
        changed
    }
}

/// Dials until stopped.
pub(super) async fn run(inner: Arc<Inner>, target: Arc<Target>) {
    let mut backoff = BACKOFF;
    while !target.stop.is_set() {
        let attempted = tokio::select! {
            biased;
            () = target.stop.wait() => return,
            attempted = attempt(&inner, &target.addr, Some(target.node)) => attempted,
        };
        match attempted {
            Ok((conn, _)) => {
                let link = Arc::new(Caller::new());
                target.connected(&link);
                inner.changed();
                let began = clock::now();
                let end = link.run(conn, &target.stop).await;
                target.lost(end);
                inner.changed();
                if began.elapsed() >= STABLE_AFTER {
                    backoff.reset();
                }
            }
            Err(error) => {
                if target.failed(error) {
                    inner.changed();
                }
            }
        }
        let delay = backoff.next(rand::random());
        tokio::select! {
            biased;
            () = target.stop.wait() => return,
            () = target.alive.notified() => backoff.reset(),
            () = clock::sleep(delay) => {}
        }
    }
}
