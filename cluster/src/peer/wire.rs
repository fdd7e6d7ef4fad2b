//! One link's bytes: gathering writes, reading frames, noticing silence.
//!
//! Invariant: each of these ends only with the link, and says why. All three run in one task per
//! link, so the halves of its stream never contend.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{Decoder, Frame, FrameError, FrameType};
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

/// What the reader and the writer tell the keeper of silence.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    reads: AtomicU64,
    /// Something other than a ping was written since the last tick.
    wrote: AtomicBool,
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
pub(super) async fn write_frames<W: AsyncWrite + Unpin>(mut stream: W, outbox: &Outbox, pulse: &Pulse) -> LinkEnd {
    let mut queued = VecDeque::new();
    let mut buffer = Vec::with_capacity(IO_BYTES);
    loop {
        outbox.take(&mut queued).await;
        if queued.iter().any(|queued| queued.frame.frame_type != FrameType::Ping) {
            pulse.wrote.store(true, Ordering::Relaxed);
        }
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
        // Whatever is queued shows life as well, or is stuck, and then a ping would be too. What was
        // written since the last tick has shown it, so the other end hears something at every second
        // tick at least.
        if !pulse.wrote.swap(false, Ordering::Relaxed) && outbox.len() == 0 {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::DuplexStream;

    use super::super::Kind;
    use super::*;

    /// The next frame, and after how many ticks it comes.
    async fn next(frames: &mut FrameReader<'_, DuplexStream>) -> (FrameType, u128) {
        let began = clock::now();
        let frame = frames.next().await.expect("the link lives");
        (frame.frame_type, began.elapsed().as_millis() / PING_EVERY.as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_quiet_link_is_pinged() {
        let (here, there) = tokio::io::duplex(IO_BYTES);
        let (outbox, pulse, far) = (Outbox::default(), Pulse::default(), Pulse::default());
        pulse.pause(true);
        let talk = async {
            let mut frames = FrameReader::new(there, &far);
            assert_eq!(next(&mut frames).await, (FrameType::Ping, 1));
            assert_eq!(next(&mut frames).await, (FrameType::Ping, 1), "a ping does not stand for the next one");
            for _ in 0..10 {
                let frame = Frame { frame_type: FrameType::Notify, kind: Kind(1), id: 0, payload: Bytes::new() };
                outbox.push(frame, None);
                assert_eq!(next(&mut frames).await, (FrameType::Notify, 0), "no ping comes between");
                clock::sleep(PING_EVERY / 2).await;
            }
            let (frame_type, ticks) = next(&mut frames).await;
            assert!(frame_type == FrameType::Ping && ticks <= 2, "{frame_type:?} after {ticks} ticks");
        };
        tokio::select! {
            end = write_frames(here, &outbox, &pulse) => panic!("{end}"),
            end = keep_alive(&outbox, &pulse) => panic!("{end}"),
            () = talk => {}
        }
    }
}
