//! What the cluster tells, and what the client is told of it.

use cluster::id::{MessageId, Pos};
use cluster::session::{Event, Refusal};
use cluster::state::SendRefusal;

use super::inbox::DELIVERY_HIGH_BYTES;
use super::{Core, Moment, OUT_HIGH_BYTES, Stage};
use crate::protocol::{self, CloseCode, ErrorBody, ErrorCode, ServerBody};
use crate::session::ending::End;
use crate::session::link::Link;
use crate::session::{groups, signals};
use crate::telemetry::{What, ids, whole_ms};

impl Core {
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
    pub(super) fn answer_refused(&mut self, at: Moment, out: &mut Vec<u8>) {
        while let Some((id, code, message)) = self.answers.next_refused() {
            self.say(id, ServerBody::Error(ErrorBody { code, message: message.into() }), at, out);
        }
    }
}
