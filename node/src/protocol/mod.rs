//! The client protocol `imgw.v1.json`: one JSON object per WebSocket text frame.
//!
//! Shared by the gateway and the client SDK, so that the two cannot drift apart. Invariant: pure;
//! decoding looks at nothing but the text, never panics, and keeps the bytes of a message's `body`
//! as its sender wrote them, because message ids are hashes over them.

mod client;
mod codes;
mod server;
mod traceparent;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

pub use client::{ClientBody, ClientFrame, Forget, Group, Hello, Read, Refresh, Send, Typing, Watch};
pub use codes::{CloseCode, ErrorCode};
pub use server::{
    Delivered, ErrorBody, Gap, GapReason, GoAway, Limits, Msg, Ok, Presence, ReadBy, ServerBody, ServerFrame, Status,
    TypedBy, Welcome, write_msg,
};
pub use traceparent::Traceparent;

/// The WebSocket subprotocol's name.
pub const SUBPROTOCOL: &str = "imgw.v1.json";

/// Longest `key` of a send, in bytes; the shortest has one.
pub const MAX_KEY_BYTES: usize = 64;

/// A frame that is not one of the protocol's. What to answer: an `error` with this code, tied to
/// `id` where the frame had a readable one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// The frame's `id`, if it could be made out.
    pub id: Option<u64>,
    /// `bad_frame` or `unknown_type`.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

/// What serde reports for a frame's text, turned into an answer: a second, lenient look finds the
/// `id` and tells an unknown type from a malformed frame.
fn decode_error(text: &str, known: &[&str], error: Option<serde_json::Error>) -> DecodeError {
    let names = serde_json::from_str::<Object<Names<'_>>>(text).map(|names| names.0).unwrap_or_default();
    let bad = |message: String| DecodeError { id: names.id, code: ErrorCode::BadFrame, message };
    match (error, &names.first) {
        (Some(error), _) => bad(format!("not a frame: {error}")),
        (None, None) => bad("the frame has no type: beside `id` and `seq` it needs one field".into()),
        (None, Some(name)) if known.contains(&name.as_ref()) => bad(format!("the frame's `{name}` is unreadable")),
        (None, Some(name)) => {
            let name: String = name.chars().take(40).collect();
            DecodeError {
                id: names.id,
                code: ErrorCode::UnknownType,
                message: format!("this node knows no frame of type `{name}`"),
            }
        }
    }
}

/// The names of a frame's fields, whatever they hold.
#[derive(Default)]
struct Names<'a> {
    id: Option<u64>,
    /// The first field beside `id` and `seq`.
    first: Option<Cow<'a, str>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Names<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamesVisitor;
        impl<'de> Visitor<'de> for NamesVisitor {
            type Value = Names<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names<'de>, A::Error> {
                let mut names = Names::default();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    match key.as_ref() {
                        "id" => names.id = map.next_value::<serde_json::Value>()?.as_u64(),
                        "seq" => _ = map.next_value::<IgnoredAny>()?,
                        _ => {
                            names.first.get_or_insert(key);
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(names)
            }
        }
        deserializer.deserialize_map(NamesVisitor)
    }
}

/// `T` from a JSON object only; serde's derived structs would take an array as well.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// For `deserialize_with` on a frame's type field: an object, and not null.
fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Object::deserialize(deserializer).map(|object| Some(object.0))
}

/// For `deserialize_with`: the field is there, whatever it holds.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// Writes `{"id":…,"seq":…,"<name>":<value>}`.
fn write_frame<S: Serializer>(
    serializer: S,
    id: Option<u64>,
    seq: Option<u64>,
    name: &str,
    value: &impl Serialize,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    if let Some(id) = id {
        map.serialize_entry("id", &id)?;
    }
    if let Some(seq) = seq {
        map.serialize_entry("seq", &seq)?;
    }
    map.serialize_entry(name, value)?;
    map.end()
}

/// `{}`.
#[derive(serde::Serialize)]
struct Empty {}

/// Message ids as hexadecimal text, for `serde(with)`.
mod hex_id {
    use std::borrow::Cow;

    use cluster::id::MessageId;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(id: &MessageId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MessageId, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// As [`hex_id`], where there may be none.
mod hex_id_option {
    use cluster::id::MessageId;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(id: &Option<MessageId>, serializer: S) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => super::hex_id::serialize(id, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MessageId>, D::Error> {
        super::hex_id::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests;
