//! How two nodes make sure of each other before the first frame. Pure: messages in, messages out.
//!
//! ```text
//! dialer                                        acceptor
//!   hello { versions, node, want, nonce }    →
//!                                            ←  challenge { version, node, nonce }
//!   proof { HMAC("dialer",   hello, challenge) } →
//!                                            ←  welcome { HMAC("acceptor", hello, challenge) }
//! ```
//! Invariant: a link is established only between two holders of the cluster's secret that agree,
//! byte for byte, on everything said before: both nonces are fresh, so a recording proves nothing;
//! the two proofs are told apart by their labels, so none can be sent back; and a dialer that wanted
//! one node never ends up at another. Whoever dials proves itself first, so a stranger who finds the
//! port learns nothing that depends on the secret. Instead of its next message an acceptor may send
//! `refuse { reason }`.
//!
//! Messages are MessagePack maps, so that later versions can add fields.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use super::Secret;
use super::limits::MAX_HANDSHAKE_MESSAGE;
use crate::id::NodeId;

/// The version this code speaks, and the oldest that it still speaks.
pub const VERSION: u16 = 1;
const OLDEST: u16 = 1;

/// Nesting of a message that is still looked at; ours need two.
const MAX_DEPTH: usize = 8;

const DIALER: &[u8] = b"im-gateway peer dialer";
const ACCEPTOR: &[u8] = b"im-gateway peer acceptor";

/// Fresh random bytes, drawn for one handshake.
pub type Nonce = [u8; 32];

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Hello(Hello),
    Challenge(Challenge),
    Proof { proof: ByteArray<32> },
    Welcome { proof: ByteArray<32> },
    Refuse { reason: Refusal },
}

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    version: u16,
    oldest: u16,
    node: NodeId,
    /// `None`: whoever is there (a one-off link, to join).
    want: Option<NodeId>,
    nonce: ByteArray<32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Challenge {
    version: u16,
    node: NodeId,
    nonce: ByteArray<32>,
}

/// Why an acceptor refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// No common version.
    #[error("no common version of the link protocol")]
    Version,
    /// The proof does not match.
    #[error("the cluster secrets differ")]
    Secret,
    /// Another node than the wanted one listens there.
    #[error("another node listens at this address")]
    WrongNode,
    /// Both ends claim the same node id.
    #[error("both ends have the same node id")]
    SameNode,
    /// Too many links.
    #[error("too many links")]
    Busy,
    /// The message was not understood.
    #[error("the handshake was not understood")]
    Malformed,
    /// A reason that only a later version knows.
    #[error("for a reason that only a later version knows")]
    #[serde(other)]
    Other,
}

impl Refusal {
    /// The message that tells the dialer.
    #[must_use]
    pub fn message(self) -> Bytes {
        encode(&Message::Refuse { reason: self })
    }
}

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not a handshake message, or not the one that comes next.
    #[error("the other end does not speak the link protocol")]
    Malformed,
    /// No common version.
    #[error("the other end speaks versions {oldest} to {newest} of the link protocol, this one {OLDEST} to {VERSION}")]
    Version {
        /// The oldest version the other end speaks.
        oldest: u16,
        /// The newest version the other end speaks.
        newest: u16,
    },
    /// The other end's proof does not match.
    #[error("the other end does not know this cluster's secret")]
    Secret,
    /// The dialer wanted another node than the one it found.
    #[error("node {wanted} was wanted, and {found} found")]
    WrongNode {
        /// The node that was dialed.
        wanted: NodeId,
        /// The node that listens there.
        found: NodeId,
    },
    /// Both ends claim the same node id: a node that dialed itself, or a copied data directory.
    #[error("both ends have the same node id")]
    SameNode,
    /// The acceptor refused.
    #[error("the other end refused: {0}")]
    Refused(Refusal),
}

impl HandshakeError {
    /// What an acceptor that met this tells the dialer.
    #[must_use]
    pub const fn refusal(self) -> Refusal {
        match self {
            Self::Malformed => Refusal::Malformed,
            Self::Version { .. } => Refusal::Version,
            Self::Secret => Refusal::Secret,
            Self::WrongNode { .. } => Refusal::WrongNode,
            Self::SameNode => Refusal::SameNode,
            Self::Refused(refusal) => refusal,
        }
    }
}

/// What both ends know after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Established {
    /// The other end.
    pub node: NodeId,
    /// The version both speak.
    pub version: u16,
    /// Whether the dialer took whoever was there: not the lasting link between two nodes.
    pub one_off: bool,
}

/// The dialer's side, waiting for the challenge.
pub struct Dialing<'a> {
    secret: &'a Secret,
    me: NodeId,
    want: Option<NodeId>,
    hello: Bytes,
}

impl<'a> Dialing<'a> {
    /// Begins; the message is the first to send.
    #[must_use]
    pub fn start(secret: &'a Secret, me: NodeId, want: Option<NodeId>, nonce: Nonce) -> (Self, Bytes) {
        Self::start_as(secret, me, want, nonce, (OLDEST, VERSION))
    }

    /// Begins as one who speaks versions `oldest` to `version`.
    pub(super) fn start_as(
        secret: &'a Secret,
        me: NodeId,
        want: Option<NodeId>,
        nonce: Nonce,
        (oldest, version): (u16, u16),
    ) -> (Self, Bytes) {
        let hello = encode(&Message::Hello(Hello { version, oldest, node: me, want, nonce: nonce.into() }));
        (Self { secret, me, want, hello: hello.clone() }, hello)
    }

    /// Takes the acceptor's challenge; the message is the next to send.
    ///
    /// # Errors
    /// When the acceptor refused, is another node or speaks no common version.
    pub fn challenged(self, message: &[u8]) -> Result<(Proving<'a>, Bytes), HandshakeError> {
        let challenge = match decode(message)? {
            Message::Challenge(challenge) => challenge,
            Message::Refuse { reason } => return Err(HandshakeError::Refused(reason)),
            _ => return Err(HandshakeError::Malformed),
        };
        let found = valid(challenge.node)?;
        if !(OLDEST..=VERSION).contains(&challenge.version) {
            return Err(HandshakeError::Version { oldest: challenge.version, newest: challenge.version });
        }
        if found == self.me {
            return Err(HandshakeError::SameNode);
        }
        match self.want {
            Some(wanted) if wanted != found => return Err(HandshakeError::WrongNode { wanted, found }),
            _ => {}
        }
        let transcript = Transcript { hello: self.hello, challenge: Bytes::copy_from_slice(message) };
        let proof = transcript.prove(self.secret, DIALER);
        let established = Established { node: found, version: challenge.version, one_off: self.want.is_none() };
        Ok((Proving { secret: self.secret, transcript, established }, encode(&Message::Proof { proof })))
    }
}

/// The dialer's side, waiting for the acceptor's proof.
pub struct Proving<'a> {
    secret: &'a Secret,
    transcript: Transcript,
    established: Established,
}

impl Proving<'_> {
    /// Takes the acceptor's proof.
    ///
    /// # Errors
    /// When the acceptor refused or does not know the secret.
    pub fn welcomed(self, message: &[u8]) -> Result<Established, HandshakeError> {
        match decode(message)? {
            Message::Welcome { proof } if self.transcript.check(self.secret, ACCEPTOR, &proof) => Ok(self.established),
            Message::Welcome { .. } => Err(HandshakeError::Secret),
            Message::Refuse { reason } => Err(HandshakeError::Refused(reason)),
            _ => Err(HandshakeError::Malformed),
        }
    }
}

/// The acceptor's side, waiting for the dialer's proof.
pub struct Accepting<'a> {
    secret: &'a Secret,
    transcript: Transcript,
    established: Established,
}

impl<'a> Accepting<'a> {
    /// Takes the dialer's first message; the message is the next to send.
    ///
    /// # Errors
    /// When the dialer wants another node, is this node itself or speaks no common version: it is
    /// told [`HandshakeError::refusal`].
    pub fn start(
        secret: &'a Secret,
        me: NodeId,
        nonce: Nonce,
        message: &[u8],
    ) -> Result<(Self, Bytes), HandshakeError> {
        let Message::Hello(hello) = decode(message)? else { return Err(HandshakeError::Malformed) };
        let node = valid(hello.node)?;
        let version = hello.version.min(VERSION);
        if version < hello.oldest.max(OLDEST) {
            return Err(HandshakeError::Version { oldest: hello.oldest, newest: hello.version });
        }
        if node == me {
            return Err(HandshakeError::SameNode);
        }
        match hello.want {
            Some(wanted) if wanted != me => return Err(HandshakeError::WrongNode { wanted, found: me }),
            _ => {}
        }
        let challenge = encode(&Message::Challenge(Challenge { version, node: me, nonce: nonce.into() }));
        let transcript = Transcript { hello: Bytes::copy_from_slice(message), challenge: challenge.clone() };
        let established = Established { node, version, one_off: hello.want.is_none() };
        Ok((Self { secret, transcript, established }, challenge))
    }

    /// Takes the dialer's proof; the message is the last to send.
    ///
    /// # Errors
    /// When the dialer does not know the secret: it is told [`HandshakeError::refusal`].
    pub fn proved(self, message: &[u8]) -> Result<(Established, Bytes), HandshakeError> {
        let Message::Proof { proof } = decode(message)? else { return Err(HandshakeError::Malformed) };
        if !self.transcript.check(self.secret, DIALER, &proof) {
            return Err(HandshakeError::Secret);
        }
        let proof = self.transcript.prove(self.secret, ACCEPTOR);
        Ok((self.established, encode(&Message::Welcome { proof })))
    }
}

/// The first two messages, as they were on the wire: what the proofs are over.
struct Transcript {
    hello: Bytes,
    challenge: Bytes,
}

impl Transcript {
    fn prove(&self, secret: &Secret, label: &[u8]) -> ByteArray<32> {
        secret.sign(&[label, &self.hello, &self.challenge]).into()
    }

    fn check(&self, secret: &Secret, label: &[u8], proof: &ByteArray<32>) -> bool {
        secret.verify(&[label, &self.hello, &self.challenge], proof.as_ref())
    }
}

fn valid(node: NodeId) -> Result<NodeId, HandshakeError> {
    if (1..1 << 53).contains(&node.0) { Ok(node) } else { Err(HandshakeError::Malformed) }
}

fn encode(message: &Message) -> Bytes {
    rmp_serde::to_vec_named(message).expect("a handshake message has nothing that cannot be encoded").into()
}

fn decode(message: &[u8]) -> Result<Message, HandshakeError> {
    if message.len() > MAX_HANDSHAKE_MESSAGE {
        return Err(HandshakeError::Malformed);
    }
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(message);
    deserializer.set_max_depth(MAX_DEPTH);
    Message::deserialize(&mut deserializer).map_err(|_| HandshakeError::Malformed)
}
