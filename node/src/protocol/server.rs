//! Frames from the node to clients.

use std::borrow::Cow;
use std::fmt;

use cluster::id::MessageId;
use cluster::state::Destination;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{DecodeError, Empty, ErrorCode, Object, decode_error, object, present, write_frame};

/// One frame from the node.
#[derive(Debug, Clone)]
pub struct ServerFrame<'a> {
    /// The request that this answers.
    pub id: Option<u64>,
    /// What it says.
    pub body: ServerBody<'a>,
}

/// What a node can say.
#[derive(Debug, Clone)]
pub enum ServerBody<'a> {
    /// The session is registered.
    Welcome(Welcome<'a>),
    /// Done; of a send: stored on a quorum, it will be delivered.
    Ok(Ok<'a>),
    /// Final: not done, nor will be.
    Error(ErrorBody<'a>),
    /// A message, at its place in the recipient's order.
    Msg(u64, Msg<'a>),
    /// Messages that this device missed, at their place in its order.
    Gap(u64, Gap),
    /// The first of the recipient's devices has a message of ours.
    Delivered(Delivered<'a>),
    /// Somebody is writing to us.
    Typing(TypedBy<'a>),
    /// Somebody has read a message.
    Read(ReadBy<'a>),
    /// Whether somebody whom we watch is there.
    Presence(Presence<'a>),
    /// The node's heartbeat.
    Ping,
    /// Answers a client's `ping`.
    Pong,
    /// Reconnect soon.
    GoAway(GoAway<'a>),
    /// A type that only newer builds know; to be ignored.
    Unknown,
}

/// The session is registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome<'a> {
    /// The session's name, for logs.
    #[serde(borrow)]
    pub session: Cow<'a, str>,
    /// Whom the token names.
    #[serde(borrow)]
    pub user: Cow<'a, str>,
    /// The device.
    #[serde(borrow)]
    pub device: Cow<'a, str>,
    /// The node.
    #[serde(borrow)]
    pub node: Cow<'a, str>,
    /// The node's heartbeat, ms without other traffic.
    pub ping_ms: u64,
    /// What the client must keep to.
    pub limits: Limits,
}

/// What a client must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest frame, in bytes.
    pub frame_bytes: u32,
    /// Sends per second; beyond it the node reads more slowly.
    pub send_per_s: u32,
    /// Sends without a received `ok`.
    pub inflight: u32,
    /// Users that a connection may watch. 0 of a node that knows no watches.
    #[serde(default)]
    pub watches: u32,
}

/// Done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ok<'a> {
    /// The stored message's id.
    #[serde(default, with = "super::hex_id_option", skip_serializing_if = "Option::is_none")]
    pub mid: Option<MessageId>,
    /// Members of a group, by name.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<Cow<'a, str>>>,
    /// Whether there are more behind them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<bool>,
}

/// Not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody<'a> {
    /// Why.
    pub code: ErrorCode,
    /// For people.
    #[serde(borrow, default)]
    pub message: Cow<'a, str>,
}

/// A message.
#[derive(Clone, Serialize, Deserialize)]
pub struct Msg<'a> {
    /// Its id.
    #[serde(with = "super::hex_id")]
    pub mid: MessageId,
    /// Who sent it.
    #[serde(borrow)]
    pub from: Cow<'a, str>,
    /// From which device.
    #[serde(borrow)]
    pub device: Cow<'a, str>,
    /// To whom; or else to which `group`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Cow<'a, str>>,
    /// To which group; or else `to`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Cow<'a, str>>,
    /// When it reached its first node, ms since the Unix epoch.
    pub ts: u64,
    /// The JSON text as its sender wrote it.
    #[serde(borrow)]
    pub body: &'a RawValue,
}

/// Bodies never reach a log.
impl fmt::Debug for Msg<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msg").field("mid", &self.mid.to_string()).finish_non_exhaustive()
    }
}

/// Messages that a device missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// How many.
    pub lost: u64,
}

/// Why a device missed messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The inbox was at its limit.
    InboxLimit,
    /// They were too old.
    Expired,
    /// A reason that only newer builds know.
    #[serde(other)]
    Other,
}

impl From<cluster::state::GapReason> for GapReason {
    fn from(reason: cluster::state::GapReason) -> Self {
        match reason {
            cluster::state::GapReason::InboxLimit => Self::InboxLimit,
            cluster::state::GapReason::Expired => Self::Expired,
        }
    }
}

/// The first of the recipient's devices acknowledged a message of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered<'a> {
    /// The message.
    #[serde(with = "super::hex_id")]
    pub mid: MessageId,
    /// The recipient.
    #[serde(borrow)]
    pub by: Cow<'a, str>,
}

/// Somebody is writing to us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypedBy<'a> {
    /// Who.
    #[serde(borrow)]
    pub from: Cow<'a, str>,
}

/// Somebody has read a message: of ours, or, on another device, ourselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBy<'a> {
    /// Who.
    #[serde(borrow)]
    pub by: Cow<'a, str>,
    /// The message.
    #[serde(with = "super::hex_id")]
    pub mid: MessageId,
}

/// Whether a user is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence<'a> {
    /// Who.
    #[serde(borrow)]
    pub user: Cow<'a, str>,
    /// Whether they are.
    pub status: Status,
    /// With how many devices; a client must not need it to know whether they are there.
    #[serde(default)]
    pub devices: u32,
    /// Grows with what changes: an older one of the same user is to be dropped.
    pub v: u64,
}

/// See [`Presence`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// A device is connected, or was a moment ago.
    Online,
    /// None is.
    Offline,
    /// A status that only newer builds know.
    #[serde(other)]
    Other,
}

impl<'a> From<&'a cluster::presence::Presence> for Presence<'a> {
    fn from(presence: &'a cluster::presence::Presence) -> Self {
        let count = presence.count;
        let status = if count.devices > 0 { Status::Online } else { Status::Offline };
        Self { user: presence.user.as_str().into(), status, devices: count.devices, v: count.version }
    }
}

/// Reconnect within `after_ms`; this socket stays until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoAway<'a> {
    /// How long, in ms.
    pub after_ms: u64,
    /// Where to, if not to any of the addresses that the client knows.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Cow<'a, str>>,
}

const NAMES: [&str; 12] =
    ["welcome", "ok", "error", "msg", "gap", "delivered", "ping", "pong", "go_away", "typing", "read", "presence"];

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(default)]
    id: Option<u64>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(borrow, default, deserialize_with = "object")]
    msg: Option<Msg<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    ok: Option<Ok<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    delivered: Option<Delivered<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    welcome: Option<Welcome<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    error: Option<ErrorBody<'a>>,
    #[serde(default, deserialize_with = "object")]
    gap: Option<Gap>,
    #[serde(default, deserialize_with = "present")]
    ping: bool,
    #[serde(default, deserialize_with = "present")]
    pong: bool,
    #[serde(borrow, default, deserialize_with = "object")]
    go_away: Option<GoAway<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    typing: Option<TypedBy<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    read: Option<ReadBy<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    presence: Option<Presence<'a>>,
}

impl<'a> ServerFrame<'a> {
    /// Reads a frame. Fields that it does not know are ignored, and so should be a frame of a
    /// type that it does not know: [`ServerBody::Unknown`].
    ///
    /// # Errors
    /// `bad_frame` when the text is not a frame.
    pub fn decode(text: &'a str) -> Result<Self, DecodeError> {
        let raw = match serde_json::from_str::<Object<Raw<'a>>>(text) {
            Result::Ok(raw) => raw.0,
            Err(error) => return Err(decode_error(text, &NAMES, Some(error))),
        };
        let (id, seq) = (raw.id, raw.seq);
        let body = [
            raw.msg.zip(seq).map(|(msg, seq)| ServerBody::Msg(seq, msg)),
            raw.gap.zip(seq).map(|(gap, seq)| ServerBody::Gap(seq, gap)),
            raw.ok.map(ServerBody::Ok),
            raw.delivered.map(ServerBody::Delivered),
            raw.error.map(ServerBody::Error),
            raw.welcome.map(ServerBody::Welcome),
            raw.ping.then_some(ServerBody::Ping),
            raw.pong.then_some(ServerBody::Pong),
            raw.go_away.map(ServerBody::GoAway),
            raw.typing.map(ServerBody::Typing),
            raw.read.map(ServerBody::Read),
            raw.presence.map(ServerBody::Presence),
        ]
        .into_iter()
        .flatten()
        .next();
        match body {
            Some(body) => Result::Ok(Self { id, body }),
            None => match decode_error(text, &NAMES, None) {
                DecodeError { code: ErrorCode::UnknownType, .. } => Result::Ok(Self { id, body: ServerBody::Unknown }),
                error => Err(error),
            },
        }
    }

    /// The frame's text. For messages on their way to a socket [`write_msg`] is cheaper.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("a frame of strings and numbers is always JSON")
    }
}

impl Serialize for ServerFrame<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = self.id;
        match &self.body {
            ServerBody::Welcome(welcome) => write_frame(serializer, id, None, "welcome", welcome),
            ServerBody::Ok(ok) => write_frame(serializer, id, None, "ok", ok),
            ServerBody::Error(error) => write_frame(serializer, id, None, "error", error),
            ServerBody::Msg(seq, msg) => write_frame(serializer, id, Some(*seq), "msg", msg),
            ServerBody::Gap(seq, gap) => write_frame(serializer, id, Some(*seq), "gap", gap),
            ServerBody::Delivered(delivered) => write_frame(serializer, id, None, "delivered", delivered),
            ServerBody::Typing(typing) => write_frame(serializer, id, None, "typing", typing),
            ServerBody::Read(read) => write_frame(serializer, id, None, "read", read),
            ServerBody::Presence(presence) => write_frame(serializer, id, None, "presence", presence),
            ServerBody::Ping => write_frame(serializer, id, None, "ping", &Empty {}),
            ServerBody::Pong => write_frame(serializer, id, None, "pong", &Empty {}),
            ServerBody::GoAway(go_away) => write_frame(serializer, id, None, "go_away", go_away),
            ServerBody::Unknown => write_frame(serializer, id, None, "unknown", &Empty {}),
        }
    }
}

/// Appends the text of a `msg` frame to `out`. `body` must be the JSON text that a decoded `send`
/// had: it is copied as it is.
pub fn write_msg(out: &mut Vec<u8>, message: &cluster::state::Message, body: &[u8]) {
    /// Everything of a frame but its end and its body.
    #[derive(Serialize)]
    struct Head<'a> {
        #[serde(with = "super::hex_id")]
        mid: MessageId,
        from: &'a str,
        device: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        group: Option<&'a str>,
        ts: u64,
    }
    let (to, group) = match &message.to {
        Destination::User(to) => (Some(to.as_str()), None),
        Destination::Group(group) => (None, Some(group.as_str())),
    };
    let head = Head {
        mid: message.mid,
        from: message.from.as_str(),
        device: message.device.as_str(),
        to,
        group,
        ts: message.ts_ms,
    };
    out.reserve(body.len() + 160);
    out.extend_from_slice(b"{\"seq\":");
    out.extend_from_slice(message.pos.to_string().as_bytes());
    out.extend_from_slice(b",\"msg\":");
    serde_json::to_writer(&mut *out, &head).expect("writing to memory cannot fail");
    out.pop();
    out.extend_from_slice(b",\"body\":");
    out.extend_from_slice(body);
    out.extend_from_slice(b"}}");
}
