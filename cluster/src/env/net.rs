//! Byte streams, as TCP gives them: ordered, bounded, and silent when the other side is gone.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// Opens and accepts byte streams.
#[async_trait]
pub trait Net: Send + Sync + 'static {
    /// Listens on `addr` (`host:port`; port 0 picks a free one).
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`, `InvalidInput` for an address that does not parse.
    async fn listen(&self, addr: &str) -> io::Result<Box<dyn Listener>>;

    /// Connects to `addr` (`host:port`). May hang as long as the network does: callers bound it
    /// with [`super::clock::timeout`].
    ///
    /// # Errors
    /// `ConnectionRefused` when the host answers that nobody listens there.
    async fn connect(&self, addr: &str) -> io::Result<BoxConn>;
}

/// A bound address that accepts streams.
#[async_trait]
pub trait Listener: Send + Sync {
    /// The next stream. Errors are transient (out of file handles, a client gone before it was
    /// accepted): back off and call again.
    async fn accept(&mut self) -> io::Result<BoxConn>;

    /// The address it really listens on.
    fn local_addr(&self) -> SocketAddr;
}

/// One byte stream. `poll_shutdown` half-closes it: the peer reads the end, and may still write.
/// Dropping it closes both directions: the peer gets what was written, then the end. But when bytes
/// from the peer were still unread, TCP resets the stream, and what was written last may be lost.
pub trait Conn: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static {
    /// The other end's address.
    fn peer_addr(&self) -> SocketAddr;

    /// Makes the drop of this stream abort it (TCP: RST) instead of closing it in good order:
    /// what is still in buffers is discarded, and the peer gets an error, no end.
    fn abort_on_drop(&self);

    /// Sends small writes at once (TCP_NODELAY).
    ///
    /// # Errors
    /// When the stream is already dead.
    fn set_nodelay(&self, on: bool) -> io::Result<()>;

    /// Fails the stream with `TimedOut` when written data stays unacknowledged for `timeout`
    /// (TCP_USER_TIMEOUT), also because the peer's process reads nothing and its buffers are full:
    /// a timeout shorter than one's patience with slow readers cuts them off.
    ///
    /// # Errors
    /// When the stream is already dead or the system lacks the option.
    fn set_user_timeout(&self, timeout: Duration) -> io::Result<()>;
}

/// What an [`io::Error`] carries when a stream failed because one end did not trust the other or does
/// not speak as it does: a matter for operators, and none of the network's. Says what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Distrust(pub &'static str);

impl Distrust {
    /// What an error carries of it.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// An owned [`Conn`].
pub type BoxConn = Box<dyn Conn>;
