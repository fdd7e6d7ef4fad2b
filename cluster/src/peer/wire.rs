//! One link's bytes: gathering writes, reading frames, noticing silence.
//!
//! Invariant: each of these ends only with the link, and says why. All three run in one task per
//! link, so the halves of its stream never contend.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{Decoder, Frame, FrameError};
use super::limits::{IO_BYTES, PING_EVERY, SILENT_TICKS, USER_TIMEOUT};
use super::outbox::{Outbox, Queued};
use crate::env::clock;
use crate::env::net::BoxConn;

/// Why a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkEnd {
    #[error("closed by the other end")]
    Closed,
    #[error("{0}")]
    Io(io::ErrorKind),
    #[error("silent for too long")]
    Silent,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("a frame that does not belong on this side of a link")]
    Unexpected,
    #[error("replaced by a newer link")]
    Replaced,
    #[error("ended by this node")]
    Stopped,
}

impl LinkEnd {
    /// Whether the stream is to be cut off rather than closed in good order.
    pub(super) const fn is_abrupt(self) -> bool {
        matches!(self, Self::Silent | Self::Frame(_) | Self::Unexpected | Self::Replaced)
    }
}

impl From<io::Error> for LinkEnd {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            kind => Self::Io(kind),
        }
    }
}

/// What the reader tells the keeper of silence.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    reads: AtomicU64,
    paused: AtomicBool,
}

impl Pulse {
    /// While this side does not read, silence is its own doing.
    pub(super) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }
}

/// Frames from a stream.
pub(super) struct FrameReader<'a, R> {
    stream: R,
    pulse: &'a Pulse,
    decoder: Decoder,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<'a, R: AsyncRead + Unpin> FrameReader<'a, R> {
    pub(super) fn new(stream: R, pulse: &'a Pulse) -> Self {
        Self { stream, pulse, decoder: Decoder::default(), buffer: vec![0; IO_BYTES], start: 0, end: 0 }
    }

    /// The next frame.
    pub(super) async fn next(&mut self) -> Result<Frame, LinkEnd> {
        loop {
            let mut input = &self.buffer[self.start..self.end];
            let frame = self.decoder.next(&mut input)?;
            self.start = self.end - input.len();
            if let Some(frame) = frame {
                return Ok(frame);
            }
            let read = self.stream.read(&mut self.buffer).await?;
            if read == 0 {
                return Err(LinkEnd::Closed);
            }
            self.pulse.reads.fetch_add(1, Ordering::Relaxed);
            (self.start, self.end) = (0, read);
        }
    }
}

/// Writes what the outbox gets, as many frames as are there per system call.
pub(super) async fn write_frames<W: AsyncWrite + Unpin>(mut stream: W, outbox: &Outbox) -> LinkEnd {
    let mut queued = VecDeque::new();
    let mut buffer = Vec::with_capacity(IO_BYTES);
    loop {
        outbox.take(&mut queued).await;
        if let Err(error) = write_batch(&mut stream, &mut queued, &mut buffer).await {
            return error.into();
        }
    }
}

async fn write_batch<W: AsyncWrite + Unpin>(
    stream: &mut W,
    queued: &mut VecDeque<Queued>,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let mut holds = Vec::with_capacity(queued.len());
    while let Some(next) = queued.pop_front() {
        if next.abandoned() {
            continue;
        }
        let Queued { frame, hold } = next;
        holds.extend(hold);
        if frame.payload.len() < IO_BYTES {
            frame.encode(buffer);
        } else {
            // Too large to be worth a copy.
            buffer.extend_from_slice(&frame.header());
            stream.write_all(buffer).await?;
            buffer.clear();
            stream.write_all(&frame.payload).await?;
        }
        if buffer.len() >= IO_BYTES {
            stream.write_all(buffer).await?;
            buffer.clear();
            holds.clear();
        }
    }
    if !buffer.is_empty() {
        stream.write_all(buffer).await?;
        buffer.clear();
    }
    stream.flush().await
}

/// Shows life, and ends when the other end shows none.
pub(super) async fn keep_alive(outbox: &Outbox, pulse: &Pulse) -> LinkEnd {
    let mut ticks = clock::interval(PING_EVERY);
    let (mut seen, mut silent) = (0, 0);
    loop {
        ticks.tick().await;
        // Whatever is queued shows life as well, or is stuck, and then a ping would be too.
        if outbox.len() == 0 {
            outbox.push(Frame::ping(), None);
        }
        let reads = pulse.reads.load(Ordering::Relaxed);
        if reads != seen || pulse.paused.load(Ordering::Relaxed) {
            (seen, silent) = (reads, 0);
            continue;
        }
        silent += 1;
        if silent >= SILENT_TICKS {
            return LinkEnd::Silent;
        }
    }
}

/// Sets what a link wants of its stream. Not all systems have a user timeout, and the pings find a
/// dead link without it, only later.
pub(super) fn tune(conn: &BoxConn) {
    if let Err(error) = conn.set_nodelay(true) {
        tracing::debug!(%error, "no-delay could not be set");
    }
    if let Err(error) = conn.set_user_timeout(USER_TIMEOUT) {
        tracing::debug!(%error, "user timeout could not be set");
    }
}
