//! Frames from clients to the node.

use std::borrow::Cow;
use std::fmt;

use cluster::id::MessageId;
use cluster::state::GroupAct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{DecodeError, Empty, Object, decode_error, object, present, write_frame};

/// One frame from a client.
#[derive(Debug, Clone)]
pub struct ClientFrame<'a> {
    /// Ties the answer to this frame.
    pub id: Option<u64>,
    /// What it says.
    pub body: ClientBody<'a>,
}

/// What a client can say.
#[derive(Debug, Clone)]
pub enum ClientBody<'a> {
    /// The first frame.
    Hello(Hello<'a>),
    /// Store and deliver a message.
    Send(Send<'a>),
    /// All up to this `seq` was received in order.
    Ack(u64),
    /// Answers the node's `ping`.
    Pong,
    /// Asks for a `pong`.
    Ping,
    /// A new token, before the old one expires.
    Refresh(Refresh<'a>),
    /// Make, join or leave a group, or ask who is in it.
    Group(Group<'a>),
    /// Forget another device of the user.
    Forget(Forget<'a>),
    /// The user is writing.
    Typing(Typing<'a>),
    /// The user has read a message.
    Read(Read<'a>),
    /// Tell who of these users is there, from now on.
    Watch(Watch<'a>),
    /// Tell it of these no more.
    Unwatch(Watch<'a>),
}

/// Users to watch, or to watch no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch<'a> {
    /// Their names.
    #[serde(borrow)]
    pub users: Vec<Cow<'a, str>>,
}

/// Forget another device of the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget<'a> {
    /// Which.
    #[serde(borrow)]
    pub device: Cow<'a, str>,
}

/// The user is writing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Typing<'a> {
    /// To whom.
    #[serde(borrow)]
    pub to: Cow<'a, str>,
}

/// The user has read a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read<'a> {
    /// Who sent it.
    #[serde(borrow)]
    pub from: Cow<'a, str>,
    /// Its id.
    #[serde(with = "super::hex_id")]
    pub mid: MessageId,
}

/// What is wanted of a group: exactly one of the first four.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group<'a> {
    /// Make this group.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub create: Option<Cow<'a, str>>,
    /// Join this group.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Cow<'a, str>>,
    /// Leave this group.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub leave: Option<Cow<'a, str>>,
    /// Who is in this group.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Cow<'a, str>>,
    /// Only members whose names come behind this one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Cow<'a, str>>,
}

impl<'a> Group<'a> {
    /// To do something with a group of this name.
    #[must_use]
    pub fn act(act: GroupAct, name: &'a str) -> Self {
        let name = Some(name.into());
        match act {
            GroupAct::Create => Self { create: name, ..Self::default() },
            GroupAct::Join => Self { join: name, ..Self::default() },
            GroupAct::Leave => Self { leave: name, ..Self::default() },
        }
    }
}

/// The client introduces itself.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Hello<'a> {
    /// The JWT; optional if the HTTP header carried one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Cow<'a, str>>,
    /// The device's name; optional if the token names one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Cow<'a, str>>,
    /// Random per client process. Without one, each connection counts as a client of its own.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Cow<'a, str>>,
    /// Grows with each connection of the instance.
    #[serde(default = "first_attempt")]
    pub attempt: u64,
    /// Forget the device when it closes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
}

const fn first_attempt() -> u64 {
    1
}

impl Hello<'_> {
    /// What the cluster calls a client instance of this name.
    #[must_use]
    pub fn instance_hash(name: &str) -> u64 {
        let digest = Sha256::digest(name.as_bytes());
        u64::from_be_bytes(digest[..8].try_into().expect("a digest is longer than 8 bytes"))
    }
}

/// Tokens never reach a log.
impl fmt::Debug for Hello<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("device", &self.device)
            .field("instance", &self.instance)
            .field("attempt", &self.attempt)
            .field("ephemeral", &self.ephemeral)
            .finish()
    }
}

/// A message to store and deliver.
#[derive(Clone, Serialize, Deserialize)]
pub struct Send<'a> {
    /// The recipient; or else `group`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Cow<'a, str>>,
    /// The group; or else `to`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Cow<'a, str>>,
    /// Tells this message from others of its sender: a repeat carries the same.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// Any JSON; the bytes as sent.
    #[serde(borrow)]
    pub body: &'a RawValue,
    /// A W3C `traceparent`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Cow<'a, str>>,
}

/// Bodies never reach a log.
impl fmt::Debug for Send<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Send")
            .field("to", &self.to)
            .field("group", &self.group)
            .field("key", &self.key)
            .field("body_bytes", &self.body.get().len())
            .finish_non_exhaustive()
    }
}

/// A new token for the same user and device.
#[derive(Clone, Serialize, Deserialize)]
pub struct Refresh<'a> {
    /// The JWT.
    #[serde(borrow)]
    pub token: Cow<'a, str>,
}

/// Tokens never reach a log.
impl fmt::Debug for Refresh<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refresh")
    }
}

const NAMES: [&str; 12] =
    ["hello", "send", "ack", "pong", "ping", "refresh", "group", "typing", "read", "forget", "watch", "unwatch"];

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(default)]
    id: Option<u64>,
    #[serde(borrow, default, deserialize_with = "object")]
    hello: Option<Hello<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    send: Option<Send<'a>>,
    #[serde(default)]
    ack: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    pong: bool,
    #[serde(default, deserialize_with = "present")]
    ping: bool,
    #[serde(borrow, default, deserialize_with = "object")]
    refresh: Option<Refresh<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    group: Option<Group<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    typing: Option<Typing<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    read: Option<Read<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    forget: Option<Forget<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    watch: Option<Watch<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    unwatch: Option<Watch<'a>>,
}

impl<'a> ClientFrame<'a> {
    /// Reads a frame. Fields that it does not know are ignored.
    ///
    /// # Errors
    /// `bad_frame` when the text is not a JSON object with exactly one known type field of the
    /// right shape; `unknown_type` when all it has are fields of other names.
    pub fn decode(text: &'a str) -> Result<Self, DecodeError> {
        let raw = match serde_json::from_str::<Object<Raw<'a>>>(text) {
            Ok(raw) => raw.0,
            Err(error) => return Err(decode_error(text, &NAMES, Some(error))),
        };
        let id = raw.id;
        let mut bodies = [
            raw.hello.map(ClientBody::Hello),
            raw.send.map(ClientBody::Send),
            raw.ack.map(ClientBody::Ack),
            raw.pong.then_some(ClientBody::Pong),
            raw.ping.then_some(ClientBody::Ping),
            raw.refresh.map(ClientBody::Refresh),
            raw.group.map(ClientBody::Group),
            raw.typing.map(ClientBody::Typing),
            raw.read.map(ClientBody::Read),
            raw.forget.map(ClientBody::Forget),
            raw.watch.map(ClientBody::Watch),
            raw.unwatch.map(ClientBody::Unwatch),
        ]
        .into_iter()
        .flatten();
        match (bodies.next(), bodies.next()) {
            (Some(body), None) => Ok(Self { id, body }),
            (None, _) => Err(decode_error(text, &NAMES, None)),
            (Some(_), Some(_)) => Err(DecodeError {
                id,
                code: super::ErrorCode::BadFrame,
                message: "the frame has more than one type".into(),
            }),
        }
    }

    /// The frame's text.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("a frame of strings and numbers is always JSON")
    }
}

impl Serialize for ClientFrame<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = self.id;
        match &self.body {
            ClientBody::Hello(hello) => write_frame(serializer, id, None, "hello", hello),
            ClientBody::Send(send) => write_frame(serializer, id, None, "send", send),
            ClientBody::Ack(seq) => write_frame(serializer, id, None, "ack", seq),
            ClientBody::Pong => write_frame(serializer, id, None, "pong", &Empty {}),
            ClientBody::Ping => write_frame(serializer, id, None, "ping", &Empty {}),
            ClientBody::Typing(typing) => write_frame(serializer, id, None, "typing", typing),
            ClientBody::Forget(forget) => write_frame(serializer, id, None, "forget", forget),
            ClientBody::Read(read) => write_frame(serializer, id, None, "read", read),
            ClientBody::Group(group) => write_frame(serializer, id, None, "group", group),
            ClientBody::Watch(watch) => write_frame(serializer, id, None, "watch", watch),
            ClientBody::Unwatch(watch) => write_frame(serializer, id, None, "unwatch", watch),
            ClientBody::Refresh(refresh) => write_frame(serializer, id, None, "refresh", refresh),
        }
    }
}
