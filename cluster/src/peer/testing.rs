//! A network in memory, for tests: listeners by address, bounded buffers, and faults on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{Notify, mpsc};

use crate::env::Net;
use crate::env::net::{BoxConn, Conn, Listener};

/// Bytes a stream holds in each direction before its writer waits.
pub(crate) const STREAM_BYTES: usize = 64 << 10;

#[derive(Default)]
struct World {
    listeners: BTreeMap<SocketAddr, mpsc::UnboundedSender<BoxConn>>,
    /// Live streams, by the address that was dialed.
    lines: Vec<(SocketAddr, Arc<Line>)>,
    hanging: BTreeSet<SocketAddr>,
}

/// A shared network; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct MemNet {
    world: Arc<Mutex<World>>,
    dials: Arc<AtomicUsize>,
    ports: Arc<AtomicU16>,
    healed: Arc<Notify>,
}

impl MemNet {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn each_line(&self, addr: SocketAddr, act: impl Fn(&Line)) {
        let mut world = self.world();
        world.lines.retain(|(_, line)| Arc::strong_count(line) > 1);
        for (_, line) in world.lines.iter().filter(|(dialed, _)| *dialed == addr) {
            act(line);
        }
    }

    /// Resets every stream that was dialed to `addr`.
    pub(crate) fn cut(&self, addr: SocketAddr) {
        self.each_line(addr, |line| line.set(|faults| faults.cut = true));
    }

    /// Stops (or starts again) the flow of bytes on every stream that was dialed to `addr`, without
    /// either end being told.
    pub(crate) fn freeze(&self, addr: SocketAddr, frozen: bool) {
        self.each_line(addr, |line| line.set(|faults| faults.frozen = frozen));
    }

    /// Makes connecting to `addr` hang, or stop hanging.
    pub(crate) fn hang(&self, addr: SocketAddr, hanging: bool) {
        if hanging {
            self.world().hanging.insert(addr);
        } else {
            self.world().hanging.remove(&addr);
            self.healed.notify_waiters();
        }
    }

    /// Streams to `addr` of which an end is still held.
    pub(crate) fn streams(&self, addr: SocketAddr) -> usize {
        self.each_line(addr, |_| {});
        self.world().lines.iter().filter(|(dialed, _)| *dialed == addr).count()
    }

    /// How often anybody has dialed.
    pub(crate) fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    /// What the dialers wrote first on the live streams to `addr`, oldest first.
    pub(crate) fn dialed_bytes(&self, addr: SocketAddr) -> Vec<Vec<u8>> {
        let world = self.world();
        let lines = world.lines.iter().filter(|(dialed, _)| *dialed == addr);
        lines.map(|(_, line)| line.dialed.lock().unwrap().clone()).collect()
    }
}

fn parse(addr: &str) -> io::Result<SocketAddr> {
    addr.parse().map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[async_trait]
impl Net for MemNet {
    async fn listen(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        let mut addr = parse(addr)?;
        if addr.port() == 0 {
            addr.set_port(20_000 + self.ports.fetch_add(1, Ordering::SeqCst));
        }
        let (sender, streams) = mpsc::unbounded_channel();
        let mut world = self.world();
        if world.listeners.get(&addr).is_some_and(|listener| !listener.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        world.listeners.insert(addr, sender);
        Ok(Box::new(MemListener { addr, streams }))
    }

    async fn connect(&self, addr: &str) -> io::Result<BoxConn> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        let addr = parse(addr)?;
        loop {
            let healed = self.healed.notified();
            if !self.world().hanging.contains(&addr) {
                break;
            }
            healed.await;
        }
        let (near, far) = tokio::io::duplex(STREAM_BYTES);
        let line = Arc::new(Line::default());
        let accepted = MemConn::boxed(far, line.clone(), 1, ([127, 0, 0, 1], 9).into());
        let mut world = self.world();
        let listener = world.listeners.get(&addr).ok_or(io::ErrorKind::ConnectionRefused)?;
        listener.send(accepted).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        world.lines.push((addr, line.clone()));
        Ok(MemConn::boxed(near, line, 0, addr))
    }
}

struct MemListener {
    addr: SocketAddr,
    streams: mpsc::UnboundedReceiver<BoxConn>,
}

#[async_trait]
impl Listener for MemListener {
    async fn accept(&mut self) -> io::Result<BoxConn> {
        // The network keeps no sender of a replaced listener: then nobody ever comes.
        match self.streams.recv().await {
            Some(conn) => Ok(conn),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Faults {
    cut: bool,
    frozen: bool,
}

/// What both ends of a stream share.
#[derive(Debug, Default)]
struct Line {
    faults: Mutex<Faults>,
    readers: [AtomicWaker; 2],
    writers: [AtomicWaker; 2],
    /// The first bytes written by the dialer.
    dialed: Mutex<Vec<u8>>,
}

impl Line {
    fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock().unwrap());
        for waker in self.readers.iter().chain(&self.writers) {
            waker.wake();
        }
    }
}

struct MemConn {
    stream: DuplexStream,
    line: Arc<Line>,
    end: usize,
    peer: SocketAddr,
    abort: AtomicBool,
}

impl MemConn {
    fn boxed(stream: DuplexStream, line: Arc<Line>, end: usize, peer: SocketAddr) -> BoxConn {
        Box::new(Self { stream, line, end, peer, abort: AtomicBool::new(false) })
    }

    fn check(&self, waker: &AtomicWaker, cx: &Context<'_>) -> Poll<io::Result<()>> {
        waker.register(cx.waker());
        let faults = *self.line.faults.lock().unwrap();
        match faults {
            // A frozen line does not carry a reset either.
            Faults { frozen: true, .. } => Poll::Pending,
            Faults { cut: true, .. } => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for MemConn {
    fn drop(&mut self) {
        if self.abort.load(Ordering::SeqCst) {
            self.line.set(|faults| faults.cut = true);
        }
    }
}

impl Conn for MemConn {
    fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    fn abort_on_drop(&self) {
        self.abort.store(true, Ordering::SeqCst);
    }

    fn set_nodelay(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn set_user_timeout(&self, _: Duration) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl AsyncRead for MemConn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.check(&self.line.readers[self.end], cx))?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for MemConn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.check(&self.line.writers[self.end], cx))?;
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        if self.end == 0 {
            let mut dialed = self.line.dialed.lock().unwrap();
            let room = STREAM_BYTES.saturating_sub(dialed.len());
            dialed.extend_from_slice(&buf[..written.min(room)]);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
