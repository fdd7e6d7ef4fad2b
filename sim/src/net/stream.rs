//! One end of a stream, as its process holds it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use cluster::env::net::Conn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Network;
use super::conn::Wait;
use crate::time::{NEVER, Timer, nanos, now};

/// See the module.
pub struct Stream {
    network: Network,
    id: u64,
    side: usize,
    peer: SocketAddr,
    /// When to look again, for what comes with time and not by anybody's doing.
    read_timer: Option<Pin<Box<Timer>>>,
    write_timer: Option<Pin<Box<Timer>>>,
}

impl Stream {
    /// End `side` of stream `id`.
    pub fn new(network: Network, id: u64, side: usize, peer: SocketAddr) -> Self {
        Self { network, id, side, peer, read_timer: None, write_timer: None }
    }
}

/// Waits for the moment, or looks again sooner; pending for ever, as far as time goes, if there is
/// none. A timer that is set already and rings sooner will do: timeouts are set anew with every
/// packet, and are hardly ever met.
fn poll_timer(timer: &mut Option<Pin<Box<Timer>>>, deadline: u64, cx: &mut Context<'_>) -> Poll<()> {
    if deadline == NEVER {
        return Poll::Pending;
    }
    let rings_sooner = |timer: &Pin<Box<Timer>>| (now() + 1..=deadline).contains(&timer.deadline());
    if !timer.as_ref().is_some_and(rings_sooner) {
        *timer = Some(Box::pin(Timer::at(deadline)));
    }
    timer.as_mut().map_or(Poll::Pending, |timer| timer.as_mut().poll(cx))
}

impl Conn for Stream {
    fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    fn abort_on_drop(&self) {
        self.network.with(|switch, _| {
            if let Ok(conn) = switch.conn(self.id, self.side) {
                conn.ends[self.side].abort_on_drop = true;
            }
        });
    }

    fn set_nodelay(&self, _: bool) -> io::Result<()> {
        self.network.with(|switch, _| switch.conn(self.id, self.side).map(drop))
    }

    fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.network.with(|switch, later| {
            let conn = switch.conn(self.id, self.side)?;
            conn.ends[self.side].user_timeout = nanos(timeout);
            // Whoever waits reckoned with another one.
            conn.ends[self.side].wake(later);
            Ok(())
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let found =
                this.network.with(|switch, later| switch.read(this.id, this.side, buf.remaining(), cx.waker(), later));
            match found? {
                Ok(bytes) => {
                    buf.put_slice(&bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(Wait(at)) => ready!(poll_timer(&mut this.read_timer, at, cx)),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            let wrote = this.network.with(|switch, later| switch.write(this.id, this.side, bytes, cx.waker(), later));
            match wrote? {
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(Wait(at)) => ready!(poll_timer(&mut this.write_timer, at, cx)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.network.with(|switch, later| switch.shutdown(self.id, self.side, later)))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.network.with(|switch, later| switch.close(self.id, self.side, later));
    }
}
