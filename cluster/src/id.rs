//! The names of things. Newtypes, so that no number is taken for another.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A node, for the life of its data directory. Drawn at random once; a wiped disk is a new node,
/// so state that was lost can never vote. Below 2^53, never 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:014x}", self.0)
    }
}

impl std::str::FromStr for NodeId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match u64::from_str_radix(text, 16) {
            Ok(id) if id > 0 && id < 1 << 53 => Ok(Self(id)),
            _ => Err(InvalidName("a node id is up to 14 hexadecimal digits, as `status` prints them")),
        }
    }
}

/// One start of a node's process. `count` grows by one each boot and is kept in the data directory;
/// `nonce` is random, so that a restored copy of an old data directory shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Boots of this data directory so far, this one included.
    pub count: u64,
    /// Random per boot.
    pub nonce: u64,
}

/// A position in the replicated log: entry index and offset in its batch, packed below 2^53 so
/// that it is exact in a JSON number. Session epochs, generations and `seq` are positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pos(pub u64);

impl Pos {
    /// Bits of the offset.
    const OFFSET_BITS: u32 = 12;
    /// Most operations in one entry.
    pub const MAX_OPS: usize = 1 << Self::OFFSET_BITS;
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// The position of operation `offset` of the entry at `index`.
    ///
    /// # Panics
    /// When either is out of range: 2^41 entries, [`Pos::MAX_OPS`] operations.
    #[must_use]
    pub fn new(index: u64, offset: usize) -> Self {
        assert!(index < 1 << 41 && offset < Self::MAX_OPS, "position out of range");
        Self((index << Self::OFFSET_BITS) | offset as u64)
    }

    /// The log entry's index.
    #[must_use]
    pub fn index(self) -> u64 {
        self.0 >> Self::OFFSET_BITS
    }
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A session's epoch: the position of its registration. Later registrations have higher epochs.
pub type Epoch = Pos;

/// One incarnation of a node in the cluster: the position of its `NodeUp`.
pub type Generation = Pos;

/// A name that breaks its rules; says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(pub &'static str);

fn checked(name: &str, rule: &'static str) -> Result<Arc<str>, InvalidName> {
    if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
        return Err(InvalidName(rule));
    }
    Ok(name.into())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// When it is empty, longer than 128 bytes or holds control characters.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                checked(name, $rule).map(Self)
            }

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A user: 1–128 bytes of UTF-8 without control characters.
    UserId, "a user is 1 to 128 bytes without control characters"
}
name! {
    /// A device of a user: 1–128 bytes of UTF-8 without control characters.
    DeviceId, "a device is 1 to 128 bytes without control characters"
}
name! {
    /// A group: 1–128 bytes of UTF-8 without control characters.
    GroupId, "a group is 1 to 128 bytes without control characters"
}

/// A message's id: a hash of who sent what where under which key, so that any node derives the
/// same id for a retry (G2). 128 bits of SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId(pub [u8; 16]);

impl MessageId {
    /// The id of a direct message. `body` is the JSON text exactly as the client sent it.
    #[must_use]
    pub fn direct(from: &UserId, device: &DeviceId, to: &UserId, key: &str, body: &[u8]) -> Self {
        Self::of(b"direct", [from.as_str(), device.as_str(), to.as_str(), key], body)
    }

    /// The id of a message to a group.
    #[must_use]
    pub fn group(from: &UserId, device: &DeviceId, group: &GroupId, key: &str, body: &[u8]) -> Self {
        Self::of(b"group", [from.as_str(), device.as_str(), group.as_str(), key], body)
    }

    fn of(kind: &[u8], names: [&str; 4], body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        for part in std::iter::once(kind).chain(names.map(str::as_bytes)).chain([body]) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::str::FromStr for MessageId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map_err(|_| InvalidName("a message id is 32 hexadecimal digits"))?;
        Ok(Self(id))
    }
}
