//! One session's decisions: what a frame, an event or a passing deadline means.
//!
//! Pure but for the calls to its [`Link`]: the shell in [`super::run`] reads, writes and waits.
//! Invariants: sends are answered in their order, each once; at most `inflight` are unanswered;
//! nothing is delivered before the session is registered, nor while it is suspended (G4); every
//! buffer that a client can make grow has a limit (G7).

mod inbox;
mod presence;
mod requests;
mod traces;

use std::sync::Arc;

use cluster::env::clock::Instant;
use cluster::id::{DeviceId, MessageId, Pos, UserId};
use cluster::session::{Event, Refusal};
use cluster::state::SendRefusal;

pub use presence::PRESENCES;
pub use traces::Sending;

use self::inbox::{DELIVERY_HIGH_BYTES, Held};
use self::traces::Unacked;
use super::answers::Answers;
use super::ending::End;
use super::groups;
use super::heart::{Beat, Heart};
use super::link::Link;
use super::node::Node;
use super::signals;
use super::user_pace::UserPace;
use super::ws::{self, Incoming};
use crate::auth::{AuthError, Identity};
use crate::delivery::{Pace, Window};
use crate::protocol::{
    self, ClientBody, ClientFrame, CloseCode, DecodeError, ErrorBody, ErrorCode, ServerBody, ServerFrame,
};
use crate::telemetry::{Part, Rate, What, ids, whole_ms};

/// While more than this waits to be written, in bytes, no frames are taken from the client, and
/// `delivered` marks, which are news and no promise, are left out.
pub const OUT_HIGH_BYTES: usize = 128 << 10;
/// Malformed frames that a client may send before it is closed.
const MAX_BAD_FRAMES: u8 = 8;

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

    /// Takes a frame.
    ///
    /// # Errors
    /// How the connection ends.
    pub fn frame(
        &mut self,
        incoming: Incoming<'_>,
        at: Moment,
        out: &mut Vec<u8>,
        link: &impl Link,
    ) -> Result<(), End> {
        match incoming {
            Incoming::Text(text) => match ClientFrame::decode(&text) {
                Ok(frame) => self.client_frame(&frame, at, out, link),
                Err(error) => self.bad_frame(error, at, out),
            },
            Incoming::Binary(_) => Err(End::Close(CloseCode::Binary)),
            Incoming::Ping(payload) => {
                self.spend(at.now);
                ws::put_pong(out, payload);
                Ok(())
            }
            // Each part of a message costs as much as a whole one: there may be any number, of no bytes at all.
            Incoming::Pong | Incoming::Part => {
                self.spend(at.now);
                Ok(())
            }
            Incoming::Close(code) => Err(End::Left(code)),
        }
    }

    fn client_frame(
        &mut self,
        frame: &ClientFrame<'_>,
        at: Moment,
        out: &mut Vec<u8>,
        link: &impl Link,
    ) -> Result<(), End> {
        match &frame.body {
            ClientBody::Ack(upto) => match self.window.ack(Pos(*upto)) {
                Ok(true) => {
                    self.note(at.wall_ms, What::Acked { seq: Pos(*upto) });
                    self.acked_traces(Pos(*upto), at);
                    link.ack(Pos(*upto));
                }
                // One that says nothing new; the others are bounded by what was delivered.
                Ok(false) => self.spend(at.now),
                Err(_) => return Err(End::Close(CloseCode::Protocol)),
            },
            ClientBody::Pong => self.spend(at.now),
            ClientBody::Send(send) => {
                self.spend(at.now);
                self.send(frame.id, send, at, out, link);
            }
            ClientBody::Group(group) => {
                self.spend(at.now);
                self.group(frame.id, group, at, out, link);
            }
            ClientBody::Ping => {
                self.spend(at.now);
                self.say(None, ServerBody::Pong, at, out);
            }
            ClientBody::Forget(forget) => {
                self.spend(at.now);
                self.forget(frame.id, &forget.device, at, out, link);
            }
            ClientBody::Typing(typing) => {
                self.spend(at.now);
                self.typing(frame.id, &typing.to, at, out, link);
            }
            ClientBody::Read(read) => {
                self.spend(at.now);
                self.read(frame.id, read, at, out, link);
            }
            ClientBody::Watch(watch) => {
                self.spend(at.now);
                self.watch(frame.id, watch, at, out, link);
            }
            ClientBody::Unwatch(watch) => {
                self.spend(at.now);
                self.unwatch(frame.id, watch, at, out, link);
            }
            ClientBody::Refresh(refresh) => {
                self.spend(at.now);
                self.refresh(frame.id, &refresh.token, at, out, link);
            }
            ClientBody::Hello(_) => {
                let message = "this connection has said hello before".to_owned();
                return self.bad_frame(DecodeError { id: frame.id, code: ErrorCode::BadFrame, message }, at, out);
            }
        }
        Ok(())
    }

    fn refresh(&mut self, id: Option<u64>, token: &str, at: Moment, out: &mut Vec<u8>, link: &impl Link) {
        let checked = self.node.verifier.verify_at(token, at.wall_ms).and_then(|identity| {
            if identity.user != self.user {
                return Err(AuthError::OtherUser);
            }
            identity.device(Some(&self.device))?;
            if identity.is_revoked(link.revoked_before()) { Err(AuthError::Revoked) } else { Ok(identity) }
        });
        self.node.metrics.token_refreshed(checked.is_ok());
        let answer = match checked {
            Ok(identity) => {
                self.identity = identity;
                ServerBody::Ok(protocol::Ok::default())
            }
            Err(error) => {
                self.node.auth_failed(None, &error);
                if error.is_about_keys() {
                    self.node.verifier.look_soon();
                }
                ServerBody::Error(ErrorBody { code: ErrorCode::BadToken, message: error.to_string().into() })
            }
        };
        self.say(id, answer, at, out);
    }

    fn bad_frame(&mut self, error: DecodeError, at: Moment, out: &mut Vec<u8>) -> Result<(), End> {
        self.spend(at.now);
        let code = error.code;
        self.say(error.id, ServerBody::Error(ErrorBody { code, message: error.message.into() }), at, out);
        // A type that a newer client knows and we don't is no violation.
        self.bad_frames += u8::from(code == ErrorCode::BadFrame);
        if self.bad_frames >= MAX_BAD_FRAMES { Err(End::Close(CloseCode::Protocol)) } else { Ok(()) }
    }

    /// Takes what the cluster tells.
    ///
    /// # Errors
    /// How the connection ends.
    pub fn event(&mut self, event: Event, at: Moment, out: &mut Vec<u8>, link: &impl Link) -> Result<(), End> {
        match event {
            Event::Registered { epoch } => {
                // Whatever was revoked before it was registered, or while it was not, is known by now.
                self.check_revoked(link.revoked_before())?;
                link.confirm();
                if self.stage == Stage::Registering {
                    self.welcome(epoch, at, out);
                }
                self.stage = Stage::Live;
                self.inbox = true;
            }
            Event::Suspended => {
                if self.stage == Stage::Live {
                    self.stage = Stage::Suspended;
                }
            }
            Event::Inbox => self.inbox = true,
            Event::Presence => self.presence = true,
            Event::Decided { proposed, applied } => self.decided(proposed, applied),
            Event::Sent { token, result } => self.sent(token, result, at, out),
            Event::Done { token, result } => self.answer(token, groups::answer(result), at, out),
            // What must go goes first: these only where nothing waits to be written.
            Event::Signal { from, news } => {
                let told = self.stage == Stage::Live && out.len() < DELIVERY_HIGH_BYTES;
                if told {
                    self.say(None, signals::frame(&from, news), at, out);
                }
                self.node.metrics.signal(news, told);
            }
            Event::Delivered { mid, by, latency, trace } => {
                if trace.is_some() || self.node.deliveries.hit() {
                    let (trace_id, span_id) = ids(trace.as_deref());
                    let (event, user_id) = ("message_delivered", by.as_str());
                    let latency_ms = latency.map(whole_ms);
                    tracing::info!(event, trace_id, span_id, user_id, msg_id = %mid, latency_ms, "delivered");
                }
                // A session that is still registering hears of what earlier ones of its device sent.
                if self.stage != Stage::Registering && out.len() < OUT_HIGH_BYTES {
                    let by = by.as_str().into();
                    self.say(None, ServerBody::Delivered(protocol::Delivered { mid, by }), at, out);
                }
            }
            Event::Refused(Refusal::OlderAttempt) => return Err(End::Close(CloseCode::OlderAttempt)),
            Event::Refused(Refusal::TooManyForgotten) => return Err(End::Close(CloseCode::Overload)),
            Event::Refused(Refusal::TooManyDevices) => return Err(End::Close(CloseCode::TooManyDevices)),
            Event::Revoked { before_ms } => self.check_revoked(Some(before_ms))?,
            Event::Superseded => return Err(End::Close(CloseCode::Superseded)),
            Event::Unavailable => return Err(End::Close(CloseCode::Unavailable)),
        }
        Ok(())
    }

    /// Ends the session if its token is one that was issued before this time.
    ///
    /// # Errors
    /// How the connection ends.
    pub fn check_revoked(&self, before_ms: Option<u64>) -> Result<(), End> {
        if !self.identity.is_revoked(before_ms) {
            return Ok(());
        }
        self.node.auth_failed(None, &AuthError::Revoked);
        self.node.metrics.session_revoked();
        Err(End::Close(CloseCode::BadToken))
    }

    fn welcome(&mut self, epoch: Pos, at: Moment, out: &mut Vec<u8>) {
        let node = self.node.clone();
        let (user, device) = (self.user.clone(), self.device.clone());
        let welcome = protocol::Welcome {
            session: epoch.to_string().into(),
            user: user.as_str().into(),
            device: device.as_str().into(),
            node: node.name.as_str().into(),
            ping_ms: u64::try_from(node.rules.ping.as_millis()).unwrap_or(u64::MAX),
            limits: protocol::Limits {
                frame_bytes: node.rules.frame_bytes,
                send_per_s: node.rules.send_per_s,
                inflight: u32::try_from(self.inflight).unwrap_or(u32::MAX),
                watches: node.rules.watches,
            },
        };
        self.say(self.hello_id, ServerBody::Welcome(welcome), at, out);
        self.since = at.now;
        // Registering took its time, and the client could not say anything meanwhile.
        self.heart.heard(at.now);
    }

    /// The cluster's answer to a send.
    fn sent(&mut self, token: u64, result: Result<MessageId, SendRefusal>, at: Moment, out: &mut Vec<u8>) {
        let body = match result {
            Ok(mid) => ServerBody::Ok(protocol::Ok { mid: Some(mid), ..protocol::Ok::default() }),
            Err(SendRefusal::InboxFull) => {
                let user = self.user.as_str();
                let mid = self.answers.oldest().map(|mid| mid.to_string());
                let (trace_id, span_id) = ids(self.answers.oldest_trace().map(|send| &send.context));
                tracing::error!(
                    event = "message_delivery_failed",
                    trace_id,
                    span_id,
                    user_id = user,
                    msg_id = mid,
                    error = "inbox_full",
                    "refused"
                );
                groups::refusal(ErrorCode::InboxFull, "the recipient's inbox is full")
            }
            Err(SendRefusal::UnknownGroup) => groups::refusal(ErrorCode::UnknownGroup, "there is no such group"),
            Err(SendRefusal::NotMember) => groups::refusal(ErrorCode::NotMember, "only members write to a group"),
        };
        if let Some(mid) = self.answers.oldest() {
            let refused = match &body {
                ServerBody::Error(error) => Some(error.code),
                _ => None,
            };
            self.note(at.wall_ms, refused.map_or(What::Stored { mid }, |code| What::Refused { mid, code }));
            self.answered_trace(refused, at);
        }
        self.answer(token, body, at, out);
    }

    /// Says the cluster's answer to the oldest request that awaits one.
    fn answer(&mut self, token: u64, body: ServerBody<'_>, at: Moment, out: &mut Vec<u8>) {
        let id = self.answers.answered(token);
        self.say(id, body, at, out);
        self.answer_refused(at, out);
        self.unanswered.set(self.answers.len());
    }

    /// Says what is known already, up to the first send whose answer is not.
    fn answer_refused(&mut self, at: Moment, out: &mut Vec<u8>) {
        while let Some((id, code, message)) = self.answers.next_refused() {
            self.say(id, ServerBody::Error(ErrorBody { code, message: message.into() }), at, out);
        }
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
