//! The replicated state machine: sessions, devices, presence, inboxes, dedup, node generations.
//!
//! Invariant: pure. `apply` looks at nothing but the state and the command, so replicas that
//! applied the same log are equal, and every guarantee that says "replicated" rests on this module.

mod command;
mod effect;
mod limits;
mod message;

pub use command::{Batch, Command, DecodeError, FEATURE_LEVEL, NodeUp, Op, Register, Send};
pub use effect::{BatchRefusal, Effect, FirstAck, Outcome, RegisterRefusal, SendRefusal};
pub use limits::Limits;
pub use message::{Body, Message, Stored};
