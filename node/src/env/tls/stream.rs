//! One stream: the handshake within its first use, then bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use cluster::env::net::{BoxConn, Conn, Distrust};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{FallibleAccept, FallibleConnect, TlsAcceptor, TlsConnector, TlsStream};

use super::explain::{NOT_TLS, explained, told};

/// The first byte of TLS: a handshake record.
const HANDSHAKE: u8 = 22;
/// Told to who speaks HTTP without TLS.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n\
    content-length: 98\r\n\r\n\
    {\"error\":{\"code\":\"tls_required\",\"message\":\"this port speaks TLS: use https:// or wss:// instead\"}}";
/// Bytes read from an end that is being turned away, so that it gets our last words.
const PARTING_BYTES: usize = 64 << 10;

/// Which end of the handshake is ours.
pub(super) enum Side {
    Serve { config: Arc<ServerConfig>, explains_itself: bool },
    Dial { config: Arc<ClientConfig>, name: ServerName<'static> },
}

/// A stream that is secured, or about to be.
pub(super) struct Stream {
    peer: SocketAddr,
    state: State,
    abort: AtomicBool,
    /// The library holds bytes that the stream below has not taken.
    unflushed: bool,
}

enum State {
    Fresh(BoxConn, Side),
    Accepting(Box<FallibleAccept<Raw>>),
    Dialing(Box<FallibleConnect<Raw>>),
    Open(Box<TlsStream<Raw>>),
    Parting(Parting),
    /// No bytes will pass any more.
    Over(Option<Distrust>),
}

/// The stream below, with what was read of it to see what it is.
struct Raw {
    first: Option<u8>,
    conn: BoxConn,
}

/// An end that is turned away: it is told why, and then has the time to read that.
struct Parting {
    conn: BoxConn,
    words: &'static [u8],
    shut: bool,
    passed: usize,
    why: Distrust,
}

impl Stream {
    pub(super) fn new(conn: BoxConn, side: Side) -> Self {
        let peer = conn.peer_addr();
        Self { peer, state: State::Fresh(conn, side), abort: AtomicBool::new(false), unflushed: false }
    }

    /// The stream below, unless it is in the middle of the handshake.
    fn below(&self) -> Option<&BoxConn> {
        match &self.state {
            State::Fresh(conn, _) => Some(conn),
            State::Open(tls) => Some(&tls.get_ref().0.conn),
            State::Parting(parting) => Some(&parting.conn),
            State::Accepting(_) | State::Dialing(_) | State::Over(_) => None,
        }
    }

    /// Brings the handshake to its end.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut TlsStream<Raw>>> {
        loop {
            let next = match &mut self.state {
                State::Open(_) => break,
                State::Over(why) => {
                    return Poll::Ready(Err(why.map_or_else(|| io::ErrorKind::NotConnected.into(), told)));
                }
                State::Fresh(..) => ready!(self.poll_begin(cx))?,
                State::Accepting(accepting) => match ready!(Pin::new(accepting).poll(cx)) {
                    Ok(tls) => State::Open(Box::new(tls.into())),
                    Err((error, raw)) => part(raw.conn, error)?,
                },
                State::Dialing(dialing) => match ready!(Pin::new(dialing).poll(cx)) {
                    Ok(tls) => State::Open(Box::new(tls.into())),
                    Err((error, raw)) => part(raw.conn, error)?,
                },
                State::Parting(parting) => {
                    ready!(parting.poll(cx));
                    State::Over(Some(parting.why))
                }
            };
            self.state = next;
            if self.abort.load(Ordering::Relaxed)
                && let Some(conn) = self.below()
            {
                conn.abort_on_drop();
            }
        }
        let State::Open(tls) = &mut self.state else { unreachable!("the loop ends with it") };
        Poll::Ready(Ok(tls))
    }

    /// Looks at the first byte, where the other end sends it.
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<State>> {
        let State::Fresh(conn, side) = &mut self.state else { unreachable!("it was just looked at") };
        let mut byte = [0];
        if let Side::Serve { .. } = side {
            let mut buffer = ReadBuf::new(&mut byte);
            ready!(Pin::new(conn).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let State::Fresh(conn, side) = std::mem::replace(&mut self.state, State::Over(None)) else {
            unreachable!("it was just looked at")
        };
        Poll::Ready(Ok(match side {
            Side::Dial { config, name } => {
                let dialing = TlsConnector::from(config).connect(name, Raw { first: None, conn });
                State::Dialing(Box::new(dialing.into_fallible()))
            }
            Side::Serve { config, .. } if byte[0] == HANDSHAKE => {
                let accepting = TlsAcceptor::from(config).accept(Raw { first: Some(byte[0]), conn });
                State::Accepting(Box::new(accepting.into_fallible()))
            }
            Side::Serve { explains_itself, .. } => {
                let http = explains_itself && byte[0].is_ascii_uppercase();
                State::Parting(Parting::new(conn, if http { PLAIN_HTTP } else { b"" }, NOT_TLS))
            }
        }))
    }
}

/// What follows a failed handshake: nothing, where the stream itself failed.
fn part(conn: BoxConn, error: io::Error) -> io::Result<State> {
    let error = explained(error);
    match Distrust::of(&error) {
        Some(why) => Ok(State::Parting(Parting::new(conn, b"", why))),
        None => Err(error),
    }
}

impl Parting {
    fn new(conn: BoxConn, words: &'static [u8], why: Distrust) -> Self {
        Self { conn, words, shut: false, passed: 0, why }
    }

    /// Says its words, and reads until the other end is done: what is unread when a stream is closed
    /// makes it a reset, which may overtake the words.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.words.is_empty() {
            match ready!(Pin::new(&mut self.conn).poll_write(cx, self.words)) {
                Ok(count @ 1..) => self.words = &self.words[count..],
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        if !self.shut {
            let _ = ready!(Pin::new(&mut self.conn).poll_shutdown(cx));
            self.shut = true;
        }
        let mut scratch = [0; 1024];
        while self.passed < PARTING_BYTES {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.conn).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => self.passed += buffer.filled().len(),
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl Conn for Stream {
    fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    fn abort_on_drop(&self) {
        self.abort.store(true, Ordering::Relaxed);
        if let Some(conn) = self.below() {
            conn.abort_on_drop();
        }
    }

    fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.below().ok_or(io::ErrorKind::NotConnected)?.set_nodelay(on)
    }

    fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.below().ok_or(io::ErrorKind::NotConnected)?.set_user_timeout(timeout)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_open(cx))?;
        let State::Open(tls) = &mut this.state else { unreachable!("it was just opened") };
        if this.unflushed {
            // As TCP does, it sends what it took without being asked again.
            this.unflushed = Pin::new(&mut *tls).poll_flush(cx)?.is_pending();
        }
        match ready!(Pin::new(tls).poll_read(cx, buf)) {
            // Whether all has come is for the layers above to know: their messages have lengths.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            other => Poll::Ready(other.map_err(explained)),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let tls = ready!(self.poll_open(cx))?;
        let written = ready!(Pin::new(tls).poll_write(cx, buf)).map_err(explained)?;
        self.unflushed = true;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tls = ready!(self.poll_open(cx))?;
        ready!(Pin::new(tls).poll_flush(cx)).map_err(explained)?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.state {
            State::Fresh(conn, _) => Pin::new(conn).poll_shutdown(cx),
            State::Open(tls) => Pin::new(tls).poll_shutdown(cx),
            State::Accepting(_) | State::Dialing(_) | State::Parting(_) | State::Over(_) => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Raw {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buf.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.conn).poll_read(cx, buf)
    }
}

impl AsyncWrite for Raw {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.conn).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.conn).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.conn.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_shutdown(cx)
    }
}
