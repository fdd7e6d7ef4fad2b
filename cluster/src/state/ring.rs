//! The dedup ring: the last sends of one device with their results.
//!
//! Invariant (G2): it holds the last `limits.inflight` distinct sends of its device, stored or
//! refused. A client has never more than so many without an answer, so a repeat is always found.

use std::collections::VecDeque;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::effect::SendRefusal;
use crate::id::MessageId;

/// How a send ended.
pub(super) type SendResult = Result<(), SendRefusal>;

/// 17 bytes an entry; nothing is allocated before the first send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ring(VecDeque<Entry>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    mid: MessageId,
    refused: Option<SendRefusal>,
}

/// Bytes of an encoded entry: the id and a code of the result.
const ENTRY_BYTES: usize = 17;

impl Ring {
    /// The first result of this message, if it is among the last ones.
    pub fn find(&self, mid: &MessageId) -> Option<SendResult> {
        let entry = self.0.iter().rev().find(|entry| entry.mid == *mid)?;
        Some(entry.refused.map_or(Ok(()), Err))
    }

    /// Remembers a result, and only the last `inflight` ones.
    pub fn push(&mut self, mid: MessageId, result: SendResult, inflight: u32) {
        self.0.push_back(Entry { mid, refused: result.err() });
        while self.0.len() > inflight as usize {
            self.0.pop_front();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn code(refused: Option<SendRefusal>) -> u8 {
    match refused {
        None => 0,
        Some(SendRefusal::InboxFull) => 1,
        Some(SendRefusal::UnknownGroup) => 2,
        Some(SendRefusal::NotMember) => 3,
    }
}

impl Serialize for Ring {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(self.0.len() * ENTRY_BYTES);
        for entry in &self.0 {
            bytes.extend_from_slice(&entry.mid.0);
            bytes.push(code(entry.refused));
        }
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Ring {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(D::Error::custom("a ring with half an entry"));
        }
        let read = |[mid @ .., code]: &[u8; ENTRY_BYTES]| {
            let refused = match code {
                0 => None,
                1 => Some(SendRefusal::InboxFull),
                2 => Some(SendRefusal::UnknownGroup),
                3 => Some(SendRefusal::NotMember),
                _ => return Err(D::Error::custom("a ring with an unknown result")),
            };
            Ok(Entry { mid: MessageId(*mid), refused })
        };
        entries.iter().map(read).collect::<Result<_, _>>().map(Self)
    }
}
