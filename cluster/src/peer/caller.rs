//! The requesting side of a link.
//!
//! Invariant: a request is in at most three places, each bounded by its budget: waiting for room,
//! queued, waiting for its answer. Whatever ends it (answer, deadline, cancellation, death of the
//! link) takes it out of all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::oneshot;

use super::frame::{Frame, FrameType, MAX_PAYLOAD};
use super::limits::{MAX_NOTIFIES, MAX_NOTIFY_BYTES, MAX_PENDING, MAX_PENDING_BYTES, MAX_SIGNALS};
use super::outbox::{Budget, Hold, Outbox};
use super::stop::Stop;
use super::wire::{self, FrameReader, LinkEnd, Pulse};
use super::{Kind, PeerError};
use crate::env::clock;
use crate::env::net::BoxConn;
use crate::sync::lock;

type Answer = Result<Bytes, String>;

#[derive(Default)]
struct Pending {
    last_id: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    /// Requesters without room.
    in_line: usize,
    closed: bool,
}

/// What requesters share of one established link.
pub(super) struct Caller {
    outbox: Outbox,
    requests: Budget,
    notifies: Budget,
    /// Typing and read marks have room of their own, so that a flood of them costs nobody news of deliveries.
    signals: Budget,
    pending: Mutex<Pending>,
    turn: tokio::sync::Mutex<()>,
}

impl Caller {
    pub(super) fn new() -> Self {
        Self {
            outbox: Outbox::default(),
            requests: Budget::new(MAX_PENDING, MAX_PENDING_BYTES),
            notifies: Budget::new(MAX_NOTIFIES, MAX_NOTIFY_BYTES),
            signals: Budget::new(MAX_SIGNALS, MAX_NOTIFY_BYTES),
            pending: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }

    /// Frames queued and requests not ended.
    pub(super) fn depth(&self) -> (usize, usize) {
        (self.outbox.len(), self.requests.held())
    }

    /// Sends a request and waits for its answer. Requests leave in the order of the first polls.
    pub(super) async fn request(&self, kind: Kind, body: Bytes, deadline: Duration) -> Result<Bytes, PeerError> {
        if body.len() > MAX_PAYLOAD {
            return Err(PeerError::TooLarge(body.len()));
        }
        let until = clock::now() + deadline;
        let mut sent = match self.send_now(kind, &body) {
            Some(sent) => sent?,
            None => {
                clock::timeout_at(until, self.send_in_turn(kind, body)).await.map_err(|_| PeerError::Deadline)??
            }
        };
        match clock::timeout_at(until, &mut sent.answer).await {
            Ok(Ok(Ok(body))) => Ok(body),
            Ok(Ok(Err(reason))) => Err(PeerError::Remote(reason)),
            Ok(Err(_)) => Err(PeerError::Closed),
            Err(clock::Elapsed) => Err(PeerError::Deadline),
        }
    }

    /// Sends a one-way frame, or drops it when there is no room; whether it was sent.
    pub(super) fn notify(&self, kind: Kind, body: Bytes) -> bool {
        let budget = if kind == Kind::SIGNAL { &self.signals } else { &self.notifies };
        let Some(hold) = budget.try_hold(body.len()) else { return false };
        let frame = Frame { frame_type: FrameType::Notify, kind, id: 0, payload: body };
        self.outbox.push(frame, Some(Arc::new(hold)));
        true
    }

    /// Sends if there is room and nobody waits for it.
    fn send_now(&self, kind: Kind, body: &Bytes) -> Option<Result<Sent<'_>, PeerError>> {
        let pending = self.pending();
        if pending.in_line > 0 {
            return None;
        }
        let hold = self.requests.try_hold(body.len())?;
        Some(self.send(pending, kind, body.clone(), hold))
    }

    /// Sends after those who came before. One at a time waits for room, the others for their turn:
    /// many waiting at the budget itself could be woken by several threads, out of order.
    async fn send_in_turn(&self, kind: Kind, body: Bytes) -> Result<Sent<'_>, PeerError> {
        let _place = Place::take(self);
        let _turn = self.turn.lock().await;
        let hold = self.requests.hold(body.len()).await.ok_or(PeerError::Down)?;
        self.send(self.pending(), kind, body, hold)
    }

    fn send(
        &self,
        mut pending: MutexGuard<'_, Pending>,
        kind: Kind,
        body: Bytes,
        hold: Hold,
    ) -> Result<Sent<'_>, PeerError> {
        // Shared with the frame: as long as it is queued, it counts.
        let hold = Arc::new(hold);
        let id = pending.last_id + 1;
        let frame = Frame { frame_type: FrameType::Request, kind, id, payload: body };
        if pending.closed || !self.outbox.push(frame, Some(hold.clone())) {
            return Err(PeerError::Down);
        }
        pending.last_id = id;
        let (sender, answer) = oneshot::channel();
        pending.waiting.insert(id, sender);
        Ok(Sent { caller: self, id, answer, _hold: hold })
    }

    /// Runs the link until it ends; all requests have failed when this returns.
    pub(super) async fn run(&self, conn: BoxConn, stop: &Stop) -> LinkEnd {
        let (mut reading, mut writing) = tokio::io::split(conn);
        let pulse = Pulse::default();
        let end = tokio::select! {
            biased;
            () = stop.wait() => LinkEnd::Stopped,
            end = self.read_answers(FrameReader::new(&mut reading, &pulse)) => end,
            end = wire::write_frames(&mut writing, &self.outbox, &pulse) => end,
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
        self.signals.close();
    }
}

/// A request under way, given up when dropped.
struct Sent<'a> {
    caller: &'a Caller,
    id: u64,
    answer: oneshot::Receiver<Answer>,
    _hold: Arc<Hold>,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.caller.pending().waiting.remove(&self.id);
    }
}

/// A place among those who wait for room.
struct Place<'a>(&'a Caller);

impl<'a> Place<'a> {
    fn take(caller: &'a Caller) -> Self {
        caller.pending().in_line += 1;
        Self(caller)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.pending().in_line -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::poll;

    use super::*;

    const KIND: Kind = Kind(1);
    const LONG: Duration = Duration::from_secs(60);

    async fn written(caller: &Caller) -> Vec<Bytes> {
        let mut queued = VecDeque::new();
        caller.outbox.take(&mut queued).await;
        queued.into_iter().map(|queued| queued.frame.payload).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_overtakes_those_who_wait_for_room() {
        let caller = Caller::new();
        let mut under_way = Vec::new();
        for _ in 0..MAX_PENDING {
            let mut request = Box::pin(caller.request(KIND, Bytes::new(), LONG));
            assert!(poll!(&mut request).is_pending());
            under_way.push(request);
        }
        let mut early = Box::pin(caller.request(KIND, "early".into(), LONG));
        assert!(poll!(&mut early).is_pending());
        assert_eq!(written(&caller).await.len(), MAX_PENDING);
        // Room for both, and the later one is polled first.
        under_way.truncate(MAX_PENDING - 2);
        let mut late = Box::pin(caller.request(KIND, "late".into(), LONG));
        assert!(poll!(&mut late).is_pending());
        assert!(poll!(&mut early).is_pending());
        assert!(poll!(&mut late).is_pending());
        assert_eq!(written(&caller).await, ["early", "late"]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_leaves_nothing_behind() {
        let caller = Caller::new();
        let asked = caller.request(KIND, Bytes::new(), Duration::from_millis(1)).await;
        assert_eq!(asked, Err(PeerError::Deadline));
        let mut cancelled = Box::pin(caller.request(KIND, Bytes::new(), LONG));
        assert!(poll!(&mut cancelled).is_pending());
        drop(cancelled);
        assert!(caller.pending().waiting.is_empty());
        assert_eq!(written(&caller).await.len(), 2);
        assert_eq!(caller.depth(), (0, 0));
    }

    #[test]
    fn a_flood_of_signals_leaves_room_for_other_news() {
        let caller = Caller::new();
        let sent = |kind, count| (0..count).filter(|_| caller.notify(kind, Bytes::new())).count();
        assert_eq!(sent(Kind::SIGNAL, MAX_NOTIFIES), MAX_SIGNALS);
        assert_eq!(caller.depth(), (MAX_SIGNALS, 0));
        assert_eq!(sent(Kind::DELIVERED, MAX_NOTIFIES + 1), MAX_NOTIFIES);
        assert_eq!(caller.depth(), (MAX_SIGNALS + MAX_NOTIFIES, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_end_nothing_is_sent_and_nobody_waits() {
        let caller = Caller::new();
        let mut under_way = Vec::new();
        for _ in 0..=MAX_PENDING {
            let mut request = Box::pin(caller.request(KIND, Bytes::new(), LONG));
            assert!(poll!(&mut request).is_pending());
            under_way.push(request);
        }
        caller.close();
        let waiting = under_way.pop().expect("one more than there is room for");
        assert_eq!(waiting.await, Err(PeerError::Down));
        for request in under_way {
            assert_eq!(request.await, Err(PeerError::Closed));
        }
        assert_eq!(caller.request(KIND, Bytes::new(), LONG).await, Err(PeerError::Down));
        caller.notify(KIND, Bytes::new());
        assert_eq!(caller.depth(), (0, 0));
    }
}
