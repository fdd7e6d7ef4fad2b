//! One WebSocket's bytes: a stream with just the buffers that are in use, to its last word.
//!
//! Invariant: an idle connection holds no buffer; what was read and not yet taken is bounded by
//! the reader's caller, what is to be written by the writer's.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cluster::env::clock;
use cluster::env::net::BoxConn;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::core::OUT_HIGH_BYTES;
use super::ending::End;
use super::node::Node;
use super::ws::{self, Decoder, Incoming, Violation};
use crate::protocol::CloseCode;
use crate::telemetry::{Metrics, Part};

/// Most that is read at once, in bytes.
const READ_BYTES: usize = 16 << 10;
/// How long a close frame may take to go out, and the client to answer it.
const FAREWELL: Duration = Duration::from_secs(2);

thread_local! {
    /// Where sockets are read into: one for each thread, not one for each connection.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// What was read and not yet taken.
#[derive(Debug)]
pub struct Reader {
    decoder: Decoder,
    bytes: Vec<u8>,
    taken: usize,
}

impl Reader {
    /// Messages of at most `limit` bytes; `early` was read already.
    pub fn new(limit: usize, early: &[u8]) -> Self {
        Self { decoder: Decoder::new(limit), bytes: early.to_vec(), taken: 0 }
    }

    /// As [`Reader::new`], for who takes binary messages as well.
    pub fn with_binary(limit: usize, early: &[u8]) -> Self {
        Self { decoder: Decoder::with_binary(limit), ..Self::new(limit, early) }
    }

    /// The next frame, if all of it is there.
    ///
    /// # Errors
    /// When the client broke the WebSocket protocol.
    pub fn next(&mut self) -> Result<Option<Incoming<'_>>, Violation> {
        let (len, incoming) = self.decoder.decode(&mut self.bytes[self.taken..])?;
        self.taken += len;
        Ok(incoming)
    }

    /// Bytes that were read and not yet taken.
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Reads what there is, but not endlessly much. How many bytes; 0 at the stream's end.
    pub fn poll_fill(&mut self, conn: &mut BoxConn, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.forget_taken();
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(conn).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => {
                    self.bytes.extend_from_slice(buffer.filled());
                    Poll::Ready(Ok(buffer.filled().len()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        })
    }

    /// Throws away what was read, and what comes. Ready at the stream's end.
    pub fn poll_drain(&mut self, conn: &mut BoxConn, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.taken = self.bytes.len();
            match self.poll_fill(conn, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn forget_taken(&mut self) {
        if self.waiting() == 0 {
            self.bytes = Vec::new();
        } else {
            self.bytes.drain(..self.taken);
        }
        self.taken = 0;
    }
}

/// What is to be written. Frames are appended to `out`.
#[derive(Debug, Default)]
pub struct Writer {
    /// Frames in the order in which they are written.
    pub out: Vec<u8>,
    written: usize,
}

impl Writer {
    /// Bytes that the stream has not taken yet.
    pub fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes as much as the stream takes: how many bytes, and ready once nothing waits any more.
    pub fn poll_flush(&mut self, conn: &mut BoxConn, cx: &mut Context<'_>) -> (usize, Poll<io::Result<()>>) {
        let before = self.written;
        while self.written < self.out.len() {
            match Pin::new(&mut *conn).poll_write(cx, &self.out[self.written..]) {
                Poll::Ready(Ok(0)) => return (0, Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(len)) => self.written += len,
                Poll::Ready(Err(error)) => return (self.written - before, Poll::Ready(Err(error))),
                Poll::Pending => {
                    let progress = self.written - before;
                    self.forget_written();
                    return (progress, Poll::Pending);
                }
            }
        }
        let progress = self.written - before;
        if !self.out.is_empty() {
            self.out = Vec::new();
            self.written = 0;
        }
        (progress, Pin::new(conn).poll_flush(cx))
    }

    /// Moving what waits to the front costs as much as it has bytes, so it must have become less.
    fn forget_written(&mut self) {
        if self.written >= self.waiting() {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }
}

/// What came of reading or writing.
#[derive(Debug)]
pub enum Progress {
    /// Bytes came.
    Read,
    /// Waiting bytes were written; `freed`: the client had not taken any for a while.
    Room { freed: bool },
    /// The stream has ended; or failed.
    Ended(Option<io::ErrorKind>),
}

/// A connection's stream, and what waits on either side of it.
pub struct Wire {
    conn: BoxConn,
    pub reader: Reader,
    pub writer: Writer,
    /// See [`Wire::is_stuck`].
    stuck: bool,
    /// The stream took less than it was given the last time.
    refused: bool,
    pub metrics: Arc<Metrics>,
    /// What this connection adds to the node's bytes that wait to be written.
    unwritten: Part,
}

impl Wire {
    pub fn new(conn: BoxConn, reader: Reader, node: &Node) -> Self {
        Self {
            conn,
            reader,
            writer: Writer::default(),
            stuck: false,
            refused: false,
            metrics: node.metrics.clone(),
            unwritten: Part::of_writer_queue(node.metrics.clone()),
        }
    }

    /// So much waits to be written that nothing more is taken which would be answered.
    pub fn full(&self) -> bool {
        self.writer.waiting() >= OUT_HIGH_BYTES
    }

    /// Bytes wait for the client to take them, here or where the stream keeps what it took from here, as TLS does.
    pub fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Writes what waits. Ready when the stream failed, or when bytes went that had to wait and
    /// somebody waits for that.
    pub fn poll_flush(&mut self, wants_room: bool, cx: &mut Context<'_>) -> Poll<Progress> {
        if self.writer.waiting() == 0 && !self.stuck {
            return Poll::Pending;
        }
        let (was_stuck, was_refused) = (self.stuck, self.refused);
        let (written, flushed) = self.writer.poll_flush(&mut self.conn, cx);
        self.metrics.sent(written);
        self.unwritten.set(self.writer.waiting());
        match flushed {
            Poll::Ready(Err(error)) => return Poll::Ready(Progress::Ended(Some(error.kind()))),
            Poll::Ready(Ok(())) => self.stuck = false,
            Poll::Pending => self.stuck = true,
        }
        self.refused = self.writer.waiting() > 0;
        // What a stream takes that has taken all so far may be in a buffer of its own: nothing of the client's doing.
        let freed = was_stuck && (!self.stuck || (written > 0 && was_refused));
        if freed || (written > 0 && wants_room) { Poll::Ready(Progress::Room { freed }) } else { Poll::Pending }
    }

    /// Reads what there is.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        self.reader.poll_fill(&mut self.conn, cx).map(|read| match read {
            Ok(0) => Progress::Ended(None),
            Ok(bytes) => {
                self.metrics.received(bytes);
                Progress::Read
            }
            Err(error) => Progress::Ended(Some(error.kind())),
        })
    }

    /// Writes, and reads while there is room for answers. Ready when there is more of one or the other; an
    /// error when none will come.
    pub fn poll_answering(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let full = self.full();
        let flushed = self.poll_flush(full, cx);
        match if full || flushed.is_ready() { flushed } else { self.poll_read(cx) } {
            Poll::Ready(Progress::Ended(kind)) => Poll::Ready(Err(End::Lost(kind))),
            Poll::Ready(_) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Closes the stream so that the client learns why.
    pub async fn farewell(mut self, end: End) {
        match end {
            End::Lost(_) => return,
            // It takes nothing any more: what waits in buffers would only be kept for nobody.
            End::Close(CloseCode::Slow) => return self.conn.abort_on_drop(),
            End::Close(code) => ws::put_close(&mut self.writer.out, code.code(), code.text()),
            End::GivesWay => {
                let code = CloseCode::Overload;
                ws::put_close(&mut self.writer.out, code.code(), code.text());
            }
            End::Left(Some(code)) => ws::put_close(&mut self.writer.out, code, ""),
            End::Left(None) => ws::put_bare_close(&mut self.writer.out),
        }
        let close = async {
            poll_fn(|cx| self.writer.poll_flush(&mut self.conn, cx).1).await?;
            self.conn.shutdown().await?;
            if matches!(end, End::Close(_)) {
                // A stream that is dropped with unread bytes in it is reset, and the close frame lost.
                poll_fn(|cx| self.reader.poll_drain(&mut self.conn, cx)).await?;
            }
            io::Result::Ok(())
        };
        // Who waits for its place must not wait for a farewell.
        let within = if end == End::GivesWay { Duration::ZERO } else { FAREWELL };
        // Whether the client heard the last word or not, the connection is over.
        let _ = clock::timeout(within, close).await;
    }
}
