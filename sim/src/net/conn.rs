//! A stream's state: two pipes and what each end knows.

use std::io::{self, ErrorKind};
use std::task::Waker;

use bytes::Bytes;

use super::pipe::{Found, Pipe};
use super::{Incarnation, Later};
use crate::time::NEVER;

/// A stream. End `i` writes to pipe `i` and reads from the other one.
pub struct Conn {
    pub pipes: [Pipe; 2],
    pub ends: [End; 2],
    /// A box on the way has forgotten it: nothing passes any more, and nobody is told.
    pub forgotten: bool,
}

/// What an end is to its system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A process has it.
    Open,
    /// Closed: whatever still comes is answered with a reset.
    Closed,
    /// The machine lost power: silence.
    Lost,
}

/// One end.
pub struct End {
    pub process: Incarnation,
    pub standing: Standing,
    /// When a reset by the other end arrives.
    pub reset_at: u64,
    /// How it failed; for good.
    pub failed: Option<ErrorKind>,
    pub abort_on_drop: bool,
    /// In nanoseconds; [`NEVER`] for none.
    pub user_timeout: u64,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
}

/// Not now; look again at this moment, or when woken.
#[derive(Debug, PartialEq, Eq)]
pub struct Wait(pub u64);

impl End {
    pub fn new(process: Incarnation) -> Self {
        Self {
            process,
            standing: Standing::Open,
            reset_at: NEVER,
            failed: None,
            abort_on_drop: false,
            user_timeout: NEVER,
            reader: None,
            writer: None,
        }
    }

    pub fn wake(&mut self, later: &mut Later) {
        later.wake(&mut self.reader);
        later.wake(&mut self.writer);
    }
}

impl Conn {
    /// With so many bytes of buffer at either end of each direction.
    pub fn new(client: End, server: End, window: usize) -> Self {
        Self { pipes: [Pipe::new(window), Pipe::new(window)], ends: [client, server], forgotten: false }
    }

    /// Whether no process will look at it again.
    pub fn is_over(&self) -> bool {
        self.ends.iter().all(|end| end.standing != Standing::Open)
    }

    /// Fails an end whose time has come; when that would be, else.
    fn check(&mut self, side: usize, now: u64, later: &mut Later) -> Result<u64, ErrorKind> {
        let waiting = self.pipes[side].waiting_since(now);
        let end = &mut self.ends[side];
        if let Some(kind) = end.failed {
            return Err(kind);
        }
        let patience = waiting.map_or(NEVER, |since| since.saturating_add(end.user_timeout));
        let kind = match now {
            _ if end.reset_at <= now => ErrorKind::ConnectionReset,
            _ if patience <= now => ErrorKind::TimedOut,
            _ => return Ok(patience.min(end.reset_at)),
        };
        end.failed = Some(kind);
        end.wake(later);
        Err(kind)
    }

    /// What end `side` may write: how many bytes, at least one.
    pub fn room(&mut self, side: usize, now: u64, later: &mut Later) -> io::Result<Result<usize, Wait>> {
        let next = self.check(side, now, later)?;
        if self.pipes[side].is_ended() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        Ok(match self.pipes[side].room() {
            0 => Err(Wait(next)),
            room => Ok(room),
        })
    }

    /// What end `side` reads, within a `limit`; no bytes at the end.
    pub fn read(
        &mut self,
        side: usize,
        now: u64,
        limit: impl FnOnce() -> usize,
        later: &mut Later,
    ) -> io::Result<Result<Bytes, Wait>> {
        let next = self.check(side, now, later)?;
        let peer = 1 - side;
        Ok(match self.pipes[peer].pop(now, limit) {
            Found::Bytes(bytes) => {
                later.wake(&mut self.ends[peer].writer);
                Ok(bytes)
            }
            Found::End => Ok(Bytes::new()),
            Found::Nothing(at) => Err(Wait(at.min(next))),
        })
    }

    /// End `side` is closed by its process or its system. `there` is when something sent now arrives
    /// at the other end ([`NEVER`]: held back by a cut), `back` how long a packet from there takes.
    pub fn close(&mut self, side: usize, now: u64, there: u64, back: u64, later: &mut Later) {
        let peer = 1 - side;
        self.ends[side].standing = Standing::Closed;
        let inbound = &mut self.pipes[peer];
        let (unread, coming) = (inbound.has_unread(now), !inbound.is_empty());
        inbound.clear();
        if self.ends[side].abort_on_drop || unread {
            self.pipes[side].clear();
            self.reset(peer, there);
        } else {
            if !self.pipes[side].is_ended() {
                self.pipes[side].finish(now, there);
            }
            if coming {
                // It will arrive at a closed end.
                self.reset(peer, there.saturating_add(back));
            }
        }
        self.ends[peer].wake(later);
    }

    /// Nothing that was sent and has not arrived will, nor anything sent from now on.
    pub fn forget(&mut self, now: u64) {
        self.forgotten = true;
        self.pipes.iter_mut().for_each(|pipe| pipe.lose(now));
        self.ends.iter_mut().for_each(|end| end.reset_at = NEVER);
    }

    /// A reset arrives at end `side`; a reset that a cut holds back is lost.
    pub fn reset(&mut self, side: usize, at: u64) {
        let end = &mut self.ends[side];
        end.reset_at = end.reset_at.min(at);
    }
}
