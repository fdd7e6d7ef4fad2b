//! Accepts links from other nodes.
//!
//! Invariant: strangers cost at most [`MAX_HANDSHAKES`] small buffers for one handshake's
//! time each; an authenticated node has one lasting link, the newest, so a half-open one left behind by
//! a crash does not live beside its successor.

use crate::env::tasks;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Handler;
use super::greet::{self, GreetError};
use super::handshake::{Established, Refusal};
use super::limits::{MAX_HANDSHAKES, MAX_ONE_OFF};
use super::outbox::{Budget, Outbox};
use super::peers::Inner;
use super::serve::{self, Server};
use super::stop::Stop;
use super::wire::{self, LinkEnd};
use crate::env::clock::{self, Instant};
use crate::env::net::{BoxConn, Listener};
use crate::id::NodeId;
use crate::sync::lock;

/// Between attempts to accept after an error (out of file handles).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A refusal of the same host for the same reason is logged once in this time.
const QUIET: Duration = Duration::from_secs(60);

/// Hosts whose refusals are remembered for [`QUIET`].
const QUIET_HOSTS: usize = 256;

struct Accepted {
    node: NodeId,
    one_off: bool,
    stop: Arc<Stop>,
}

#[derive(Default)]
struct Books {
    last: u64,
    links: BTreeMap<u64, Accepted>,
    rooms: BTreeMap<NodeId, Budget>,
    refusals: BTreeMap<IpAddr, (GreetError, Instant)>,
}

/// The links accepted so far.
#[derive(Default)]
pub(super) struct Register {
    books: Mutex<Books>,
}

/// A place in the register, given up when dropped.
struct Entry<'a> {
    register: &'a Register,
    id: u64,
    stop: Arc<Stop>,
    room: Budget,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.register.books().links.remove(&self.id);
    }
}

impl Register {
    fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    /// Enters an authenticated link; a lasting one replaces its node's older one.
    fn enter(&self, link: &Established) -> Result<Entry<'_>, Refusal> {
        let mut books = self.books();
        if link.one_off {
            if books.links.values().filter(|accepted| accepted.one_off).count() >= MAX_ONE_OFF {
                return Err(Refusal::Busy);
            }
        } else {
            for older in books.links.values().filter(|older| older.node == link.node && !older.one_off) {
                older.stop.set();
            }
        }
        books.last += 1;
        let id = books.last;
        let stop = Arc::new(Stop::default());
        books.links.insert(id, Accepted { node: link.node, one_off: link.one_off, stop: stop.clone() });
        books.rooms.retain(|_, room| !room.is_idle());
        let room = books.rooms.entry(link.node).or_insert_with(serve::room).clone();
        Ok(Entry { register: self, id, stop, room })
    }

    /// Ends all links.
    pub(super) fn close(&self) {
        for link in self.books().links.values() {
            link.stop.set();
        }
    }

    /// Whether this refusal is worth a line: the first of its reason from its host for a while.
    fn is_news(&self, host: IpAddr, error: GreetError) -> bool {
        let now = clock::now();
        let mut books = self.books();
        if matches!(books.refusals.get(&host), Some((before, at)) if *before == error && now - *at < QUIET) {
            return false;
        }
        if books.refusals.len() >= QUIET_HOSTS {
            books.refusals.clear();
        }
        books.refusals.insert(host, (error, now));
        true
    }
}

/// Accepts until stopped.
pub(super) async fn run(inner: Arc<Inner>, mut listener: Box<dyn Listener>, handler: Arc<dyn Handler>) {
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let stop = inner.stop.clone();
    tokio::select! {
        biased;
        () = stop.wait() => {}
        () = async {
            let mut failing = false;
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                match listener.accept().await {
                    Ok(conn) => {
                        failing = false;
                        tasks::spawn(welcome(inner.clone(), conn, handler.clone(), place));
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(%error, "peer connections cannot be accepted");
                        }
                        clock::sleep(ACCEPT_RETRY).await;
                    }
                }
            }
        } => {}
    }
}

/// One connection's life.
async fn welcome(inner: Arc<Inner>, mut conn: BoxConn, handler: Arc<dyn Handler>, place: OwnedSemaphorePermit) {
    let addr = conn.peer_addr();
    wire::tune(&conn);
    let greeted = tokio::select! {
        biased;
        () = inner.stop.wait() => return,
        greeted = greet::accept(&mut conn, &inner.secret, inner.me, |link| inner.register.enter(link)) => greeted,
    };
    drop(place);
    match greeted {
        Ok((link, entry)) => serve_link(&inner, conn, &link, &entry, handler).await,
        Err(error) => refused(&inner, addr, error),
    }
}

fn refused(inner: &Inner, addr: SocketAddr, error: GreetError) {
    inner.observer.peer_refused(error.kind());
    if inner.register.is_news(addr.ip(), error) {
        tracing::warn!(%addr, reason = %error, "peer connection refused");
    } else {
        tracing::debug!(%addr, reason = %error, "peer connection refused again");
    }
}

async fn serve_link(inner: &Inner, conn: BoxConn, link: &Established, entry: &Entry<'_>, handler: Arc<dyn Handler>) {
    if inner.stop.is_set() {
        return;
    }
    if !link.one_off {
        inner.poke(link.node);
    }
    let addr = conn.peer_addr();
    tracing::debug!(peer = %link.node, %addr, one_off = link.one_off, "peer link accepted");
    let outbox = Arc::new(Outbox::default());
    let server = Server { from: link.node, handler, room: entry.room.clone(), outbox };
    let end = match server.run(conn, &entry.stop).await {
        LinkEnd::Stopped if !inner.stop.is_set() => LinkEnd::Replaced,
        end => end,
    };
    tracing::debug!(peer = %link.node, %addr, reason = %end, "an accepted peer link has ended");
}
