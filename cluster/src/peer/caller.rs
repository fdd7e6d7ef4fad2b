//! The requesting side of a link.
//!
//! Invariant: a request is in at most three places, each bounded by its budget: waiting for room,
//! queued, waiting for its answer. Whatever ends it (answer, deadline, cancellation, death of the
//! link) takes it out of all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::oneshot;

use super::frame::{Frame, FrameType, MAX_PAYLOAD};
use super::limits::{MAX_NOTIFIES, MAX_NOTIFY_BYTES, MAX_PENDING, MAX_PENDING_BYTES};
use super::outbox::{Budget, Outbox};
use super::stop::Stop;
use super::wire::{self, FrameReader, LinkEnd, Pulse};
use super::{Kind, PeerError};
use crate::env::clock;
use crate::env::net::BoxConn;

type Answer = Result<Bytes, String>;

#[derive(Default)]
struct Pending {
    last_id: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    closed: bool,
}

/// What requesters share of one established link.
pub(super) struct Caller {
    outbox: Outbox,
    requests: Budget,
    notifies: Budget,
    pending: Mutex<Pending>,
}

impl Caller {
    pub(super) fn new() -> Self {
        Self {
            outbox: Outbox::default(),
            requests: Budget::new(MAX_PENDING, MAX_PENDING_BYTES),
            notifies: Budget::new(MAX_NOTIFIES, MAX_NOTIFY_BYTES),
            pending: Mutex::default(),
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frames queued and requests not ended.
    pub(super) fn depth(&self) -> (usize, usize) {
        (self.outbox.len(), self.requests.held())
    }

    /// Sends a request and waits for its answer. If there is room, the request is queued before
    /// the first wait, so that calls of one task leave in their order.
    pub(super) async fn request(&self, kind: Kind, body: Bytes, deadline: Duration) -> Result<Bytes, PeerError> {
        if body.len() > MAX_PAYLOAD {
            return Err(PeerError::TooLarge(body.len()));
        }
        let until = clock::now() + deadline;
        let hold = match self.requests.try_hold(body.len()) {
            Some(hold) => hold,
            None => match clock::timeout_at(until, self.requests.hold(body.len())).await {
                Ok(Some(hold)) => hold,
                Ok(None) => return Err(PeerError::Down),
                Err(clock::Elapsed) => return Err(PeerError::Deadline),
            },
        };
        // Shared with the frame: as long as the frame is queued, it counts.
        let hold = Arc::new(hold);
        let mut expected = self.expect().ok_or(PeerError::Down)?;
        let frame = Frame { frame_type: FrameType::Request, kind, id: expected.id, payload: body };
        if !self.outbox.push(frame, Some(hold.clone())) {
            return Err(PeerError::Down);
        }
        match clock::timeout_at(until, &mut expected.answer).await {
            Ok(Ok(Ok(body))) => Ok(body),
            Ok(Ok(Err(reason))) => Err(PeerError::Remote(reason)),
            Ok(Err(_)) => Err(PeerError::Closed),
            Err(clock::Elapsed) => Err(PeerError::Deadline),
        }
    }

    /// Sends a one-way frame, or drops it when there is no room.
    pub(super) fn notify(&self, kind: Kind, body: Bytes) {
        if let Some(hold) = self.notifies.try_hold(body.len()) {
            let frame = Frame { frame_type: FrameType::Notify, kind, id: 0, payload: body };
            self.outbox.push(frame, Some(Arc::new(hold)));
        }
    }

    fn expect(&self) -> Option<Expected<'_>> {
        let (sender, answer) = oneshot::channel();
        let mut pending = self.pending();
        if pending.closed {
            return None;
        }
        pending.last_id += 1;
        let id = pending.last_id;
        pending.waiting.insert(id, sender);
        Some(Expected { caller: self, id, answer })
    }

    /// Runs the link until it ends; all requests have failed when this returns.
    pub(super) async fn run(&self, conn: BoxConn, stop: &Stop) -> LinkEnd {
        let (mut reading, mut writing) = tokio::io::split(conn);
        let pulse = Pulse::default();
        let end = tokio::select! {
            biased;
            () = stop.wait() => LinkEnd::Stopped,
            end = self.read_answers(FrameReader::new(&mut reading, &pulse)) => end,
            end = wire::write_frames(&mut writing, &self.outbox) => end,
            end = wire::keep_alive(&self.outbox, &pulse) => end,
        };
        if end.is_abrupt() {
            reading.unsplit(writing).abort_on_drop();
        }
        self.close();
        end
    }

    async fn read_answers<R: AsyncRead + Unpin>(&self, mut frames: FrameReader<'_, R>) -> LinkEnd {
        loop {
            let frame = match frames.next().await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            let answer = match frame.frame_type {
                FrameType::Ping => continue,
                FrameType::Response => Ok(frame.payload),
                FrameType::Error => Err(String::from_utf8_lossy(&frame.payload).into_owned()),
                FrameType::Request | FrameType::Notify => return LinkEnd::Unexpected,
            };
            // An answer whose requester has given up is nobody's.
            let waiting = self.pending().waiting.remove(&frame.id);
            if let Some(sender) = waiting {
                let _ = sender.send(answer);
            }
        }
    }

    /// Fails all requests, and those to come.
    pub(super) fn close(&self) {
        let waiting = {
            let mut pending = self.pending();
            pending.closed = true;
            std::mem::take(&mut pending.waiting)
        };
        drop(waiting);
        self.outbox.close();
        self.requests.close();
        self.notifies.close();
    }
}

/// A place among those who wait for an answer, given up when dropped.
struct Expected<'a> {
    caller: &'a Caller,
    id: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.caller.pending().waiting.remove(&self.id);
    }
}
