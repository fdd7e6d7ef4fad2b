//! `Net` over TCP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use cluster::env::Net;
use cluster::env::net::{BoxConn, Conn, Listener};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, lookup_host};

/// Connections that the system may hold until they are accepted: a whole node's clients come back
/// at once after another node's death. The system cuts it to its own limit (`somaxconn`).
const BACKLOG: i32 = 16_384;

/// The system's TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

#[async_trait]
impl Net for Tcp {
    async fn listen(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        let mut last = None;
        for addr in lookup_host(addr).await? {
            match bind(addr) {
                Ok(listener) => {
                    let addr = listener.local_addr()?;
                    return Ok(Box::new(Accepting { listener, addr }));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| no_address(addr)))
    }

    async fn connect(&self, addr: &str) -> io::Result<BoxConn> {
        let mut last = None;
        for addr in lookup_host(addr).await? {
            match TcpStream::connect(addr).await {
                Ok(stream) => return Ok(Box::new(Stream { stream, peer: addr })),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| no_address(addr)))
    }
}

impl Tcp {
    /// A stream that was opened in a way of its own.
    #[must_use]
    pub fn wrap(stream: TcpStream, peer: SocketAddr) -> BoxConn {
        Box::new(Stream { stream, peer })
    }
}

fn no_address(addr: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{addr} has no address"))
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    // A restarted node must not wait for its predecessor's connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

struct Accepting {
    listener: TcpListener,
    addr: SocketAddr,
}

#[async_trait]
impl Listener for Accepting {
    async fn accept(&mut self) -> io::Result<BoxConn> {
        let (stream, peer) = self.listener.accept().await?;
        Ok(Box::new(Stream { stream, peer }))
    }

    fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

struct Stream {
    stream: TcpStream,
    peer: SocketAddr,
}

impl Conn for Stream {
    fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    fn abort_on_drop(&self) {
        // Lingering for zero seconds is how TCP spells "reset". It fails on a dead stream only,
        // and that one has nothing left to abort.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.stream.set_nodelay(on)
    }

    #[cfg(target_os = "linux")]
    fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        SockRef::from(&self.stream).set_tcp_user_timeout(Some(timeout))
    }

    #[cfg(not(target_os = "linux"))]
    fn set_user_timeout(&self, _: Duration) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
