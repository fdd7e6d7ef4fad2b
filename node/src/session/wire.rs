//! One WebSocket's bytes: a stream with just the buffers that are in use.
//!
//! Invariant: an idle connection holds no buffer; what was read and not yet taken is bounded by
//! the reader's caller, what is to be written by the writer's.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use cluster::env::net::BoxConn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ws::{Decoder, Incoming, Violation};

/// Most that is read at once, in bytes.
const READ_BYTES: usize = 16 << 10;

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
