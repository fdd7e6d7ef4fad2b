//! The answering side of a link.
//!
//! Invariant: what one node can make this one hold is bounded, over all links it ever had: requests
//! count, by number and bytes, until they are handled and the answer was handed to the system. At
//! the bound the link is not read; one-way frames are dropped.

use crate::env::tasks;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use super::frame::{Frame, FrameType, MAX_PAYLOAD};
use super::limits::{MAX_HANDLER_BYTES, MAX_HANDLERS, MAX_REASON};
use super::outbox::{Budget, Hold, Outbox};
use super::stop::Stop;
use super::wire::{self, FrameReader, LinkEnd, Pulse};
use super::{Handler, Kind};
use crate::env::net::BoxConn;
use crate::id::NodeId;

/// The budget of one node's requests.
pub(super) fn room() -> Budget {
    Budget::new(MAX_HANDLERS, MAX_HANDLER_BYTES)
}

/// One accepted link.
pub(super) struct Server {
    pub(super) from: NodeId,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) room: Budget,
    pub(super) outbox: Arc<Outbox>,
}

impl Server {
    /// Runs the link until it ends. What is being handled goes on; its answers are dropped.
    pub(super) async fn run(&self, conn: BoxConn, stop: &Stop) -> LinkEnd {
        let (mut reading, mut writing) = tokio::io::split(conn);
        let pulse = Pulse::default();
        let end = tokio::select! {
            biased;
            () = stop.wait() => LinkEnd::Stopped,
            end = self.read_requests(FrameReader::new(&mut reading, &pulse), &pulse) => end,
            end = wire::write_frames(&mut writing, &self.outbox, &pulse) => end,
            end = wire::keep_alive(&self.outbox, &pulse) => end,
        };
        if end.is_abrupt() {
            reading.unsplit(writing).abort_on_drop();
        }
        self.outbox.close();
        end
    }

    async fn read_requests<R: AsyncRead + Unpin>(&self, mut frames: FrameReader<'_, R>, pulse: &Pulse) -> LinkEnd {
        // Bounded by the room that each job in it holds.
        let (in_order, jobs) = mpsc::unbounded_channel();
        tasks::spawn(run_in_order(jobs));
        loop {
            let frame = match frames.next().await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            let Some(hold) = (match frame.frame_type {
                FrameType::Ping => continue,
                FrameType::Request => self.admit(frame.payload.len(), pulse).await,
                FrameType::Notify => self.room.try_hold(frame.payload.len()),
                FrameType::Response | FrameType::Error => return LinkEnd::Unexpected,
            }) else {
                continue;
            };
            let in_turn = frame.kind == Kind::APPEND;
            let job = self.job(frame, hold);
            if in_turn {
                // Fails only when the runtime is being torn down.
                let _ = in_order.send(job);
            } else {
                tasks::spawn(job.run());
            }
        }
    }

    /// Waits for room. Meanwhile the link is not read.
    async fn admit(&self, bytes: usize, pulse: &Pulse) -> Option<Hold> {
        if let Some(hold) = self.room.try_hold(bytes) {
            return Some(hold);
        }
        pulse.pause(true);
        let hold = self.room.hold(bytes).await;
        pulse.pause(false);
        hold
    }

    fn job(&self, frame: Frame, hold: Hold) -> Job {
        let reply = Reply {
            outbox: self.outbox.clone(),
            kind: frame.kind,
            id: frame.id,
            hold: Some(Arc::new(hold)),
            wanted: frame.frame_type == FrameType::Request,
        };
        Job { handler: self.handler.clone(), from: self.from, kind: frame.kind, body: frame.payload, reply }
    }
}

/// One request to handle.
struct Job {
    handler: Arc<dyn Handler>,
    from: NodeId,
    kind: Kind,
    body: Bytes,
    reply: Reply,
}

impl Job {
    async fn run(self) {
        let outcome = self.handler.handle(self.from, self.kind, self.body).await;
        self.reply.send(outcome);
    }
}

/// Runs jobs side by side, starting them in the order they come: a new one is polled, up to its
/// first wait, before the next is taken. Without a budget: one that had to wait for that would take its place in
/// Raft's queue behind later ones.
async fn run_in_order(mut jobs: mpsc::UnboundedReceiver<Job>) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = running.next() => {}
            job = jobs.recv() => match job {
                // A panic must not take the others along; dropping the job has answered it.
                Some(job) => running.push(tasks::unconstrained(AssertUnwindSafe(job.run()).catch_unwind())),
                None => break,
            },
        }
    }
    while running.next().await.is_some() {}
}

/// The duty to answer one request. Dropped unanswered (the handler panicked), it says so.
struct Reply {
    outbox: Arc<Outbox>,
    kind: Kind,
    id: u64,
    hold: Option<Arc<Hold>>,
    wanted: bool,
}

impl Reply {
    fn send(mut self, outcome: Result<Bytes, String>) {
        self.push(outcome);
    }

    fn push(&mut self, outcome: Result<Bytes, String>) {
        let Some(hold) = self.hold.take().filter(|_| self.wanted) else { return };
        let (frame_type, payload) = match outcome {
            Ok(body) if body.len() <= MAX_PAYLOAD => (FrameType::Response, body),
            Ok(body) => (FrameType::Error, format!("an answer of {} bytes is above the cap", body.len()).into()),
            Err(mut reason) => {
                reason.truncate(reason.floor_char_boundary(MAX_REASON));
                (FrameType::Error, reason.into())
            }
        };
        self.outbox.push(Frame { frame_type, kind: self.kind, id: self.id, payload }, Some(hold));
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.push(Err("the handler failed".into()));
    }
}
