//! One session's decisions: what a frame, an event or a passing deadline means.
//!
//! Pure but for the calls to its [`Link`](super::link::Link): the shell in [`super::run`] reads, writes and waits.
//! Invariants: sends are answered in their order, each once; at most `inflight` are unanswered;
//! nothing is delivered before the session is registered, nor while it is suspended (G4); every
//! buffer that a client can make grow has a limit (G7).

mod events;
mod frames;
mod inbox;
mod presence;
mod requests;
mod token;
mod traces;

use std::sync::Arc;

use cluster::env::clock::Instant;
use cluster::id::{DeviceId, UserId};

pub use presence::PRESENCES;
pub use traces::Sending;

use self::inbox::Held;
use self::traces::Unacked;
use super::answers::Answers;
use super::ending::End;
use super::heart::{Beat, Heart};
use super::node::Node;
use super::user_pace::UserPace;
use super::ws;
use crate::auth::Identity;
use crate::delivery::{Pace, Window};
use crate::protocol::{CloseCode, ServerBody, ServerFrame};
use crate::telemetry::{Part, Rate, What};

/// While more than this waits to be written, in bytes, no frames are taken from the client, and
/// `delivered` marks, which are news and no promise, are left out.
pub const OUT_HIGH_BYTES: usize = 128 << 10;

/// When something happens, by this node's clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Monotonic.
    pub now: Instant,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not welcomed yet.
    Registering,
    Live,
    Suspended,
}

/// One session's state.
pub struct Core {
    node: Arc<Node>,
    user: UserId,
    device: DeviceId,
    identity: Identity,
    hello_id: Option<u64>,
    stage: Stage,
    inflight: usize,
    answers: Answers,
    /// What this session adds to the node's messages without an answer.
    unanswered: Part,
    pace: Pace,
    user_pace: Option<UserPace>,
    window: Window,
    /// The inbox may hold something after the window.
    inbox: bool,
    /// There may be news of who is there.
    presence: bool,
    held: Option<Box<Held>>,
    heart: Heart,
    bad_frames: u8,
    /// When it was welcomed.
    since: Instant,
    /// Traced messages that were written to it.
    unacked: Unacked,
}

impl Core {
    /// A session that was asked for by the hello frame `hello_id`, of a client that may have
    /// `inflight` sends without an answer.
    pub fn new(
        node: Arc<Node>,
        identity: &Identity,
        device: DeviceId,
        hello_id: Option<u64>,
        inflight: u32,
        now: Instant,
    ) -> Self {
        let rules = &node.rules;
        Self {
            pace: Pace::new(rules.send_per_s),
            user_pace: node.users.enter(&identity.user),
            window: Window::new(rules.window),
            heart: Heart::new(rules.ping, now),
            user: identity.user.clone(),
            device,
            identity: identity.clone(),
            hello_id,
            stage: Stage::Registering,
            inflight: inflight.max(1) as usize,
            answers: Answers::default(),
            unanswered: Part::of_send_queue(node.metrics.clone()),
            inbox: false,
            presence: false,
            held: None,
            bad_frames: 0,
            since: now,
            unacked: Unacked::default(),
            node,
        }
    }

    /// Whether the client's next frame may be taken: not before it is welcome, not while it has too
    /// many sends unanswered, is over its rate, or does not read what we write.
    pub fn may_take(&self, now: Instant, waiting_out: usize) -> bool {
        !self.holding(now) && waiting_out < OUT_HIGH_BYTES
    }

    /// Whether it is we who keep the client waiting. Its silence does not count meanwhile.
    fn holding(&self, now: Instant) -> bool {
        self.stage == Stage::Registering || self.answers.len() >= self.inflight || self.pace_ready_at() > now
    }

    /// From when on the next frame may be taken, as far as rates go.
    fn pace_ready_at(&self) -> Instant {
        let user = self.user_pace.as_ref().map_or(Instant::default(), UserPace::ready_at);
        self.pace.ready_at().max(user)
    }

    /// A frame counts towards the rates.
    fn spend(&mut self, now: Instant) {
        self.pace.take(now);
        if !self.pace.ready(now) {
            self.node.metrics.held_back(Rate::Connection);
        }
        if let Some(user) = &self.user_pace {
            user.take(now);
            if user.ready_at() > now {
                self.node.metrics.held_back(Rate::User);
            }
        }
    }

    /// The client gave a sign of life: bytes came from it, or it took some that had to wait.
    pub fn heard(&mut self, now: Instant) {
        self.heart.heard(now);
    }

    /// Does what is due. `stuck`: bytes wait for the client to take them.
    ///
    /// # Errors
    /// How the connection ends.
    pub fn tick(&mut self, at: Moment, stuck: bool, out: &mut Vec<u8>) -> Result<(), End> {
        if at.wall_ms >= self.identity.expires_ms {
            return Err(End::Close(CloseCode::TokenExpired));
        }
        self.release(at, out);
        let late = self.window.late(at.now, self.node.rules.ack_timeout);
        if late > 0 {
            self.node.metrics.ack_timeouts(late);
            if self.node.unacknowledged.hit() {
                let (user_id, device_id) = (self.user.as_str(), self.device.as_str());
                tracing::warn!(
                    event = "ack_timeout",
                    user_id,
                    device_id,
                    count = late,
                    "a client does not acknowledge"
                );
            }
        }
        if self.holding(at.now) {
            self.heart.heard(at.now);
        }
        match self.heart.beat(at.now) {
            Beat::Rest => Ok(()),
            Beat::Ping => {
                self.say(None, ServerBody::Ping, at, out);
                Ok(())
            }
            Beat::Dead if stuck => Err(End::Close(CloseCode::Slow)),
            Beat::Dead => Err(End::Close(CloseCode::PingTimeout)),
        }
    }

    /// When [`Core::tick`] is due, and when a client over its rate may go on if its frames `wait`.
    pub fn due(&self, at: Moment, wait: bool) -> Instant {
        // The wall clock can jump: it is looked at again at least once in a heartbeat.
        let left_ms = self.identity.expires_ms.saturating_sub(at.wall_ms);
        let expiry = at.now + std::time::Duration::from_millis(left_ms);
        let mut due = self.heart.due().min(expiry);
        if let Some(late) = self.window.late_at(self.node.rules.ack_timeout) {
            due = due.min(late);
        }
        if let Some(release) = self.release_at() {
            due = due.min(release);
        }
        if wait && self.pace_ready_at() > at.now {
            due = due.min(self.pace_ready_at());
        }
        due
    }

    /// For whoever asks after a message.
    fn note(&self, ts_ms: u64, what: What) {
        self.node.trail.note(ts_ms, &self.user, &self.device, what);
    }

    fn say(&mut self, id: Option<u64>, body: ServerBody<'_>, at: Moment, out: &mut Vec<u8>) {
        if let ServerBody::Error(error) = &body {
            self.node.metrics.answered_with(error.code);
        }
        put_frame(out, &ServerFrame { id, body });
        self.heart.said(at.now);
    }
}

/// Appends a frame to what is to be written.
pub fn put_frame(out: &mut Vec<u8>, frame: &ServerFrame<'_>) {
    ws::put_text(out, |out| {
        serde_json::to_writer(out, frame).expect("a frame of strings and numbers is always JSON");
    });
}
