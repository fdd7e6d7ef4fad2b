//! The replicated state machine: sessions, devices, presence, inboxes, groups, dedup, node generations.
//!
//! Invariant: pure. `apply` looks at nothing but the state and the command, so replicas that
//! applied the same log are equal, and every guarantee that says "replicated" rests on this module.

mod audit;
mod checkpoint;
mod command;
mod copies;
mod device;
mod effect;
mod group;
mod groups;
mod held;
mod inbox;
mod lapse;
mod limits;
mod machine;
mod message;
mod nodes;
mod read;
mod revocation;
mod ring;
mod shard;
mod store;
mod time;
mod user;
mod wire;

pub use checkpoint::{Frozen, RestoreError};
pub use command::{
    BREAKER_LEVEL, Batch, COPIES_LEVEL, Command, DecodeError, ENDING_LEVEL, FEATURE_LEVEL, FORGET_LEVEL, GROUPS_LEVEL,
    GroupAct, GroupOp, GroupSend, NodeUp, OUTCASTS_LEVEL, Op, REVOCATION_LEVEL, Register, SHARES_LEVEL, Send,
    TRACES_LEVEL,
};
pub use device::{GapReason, Registration};
pub use effect::{BatchRefusal, Effect, FirstAck, GroupRefusal, Outcome, RegisterRefusal, SendRefusal};
pub use group::Members;
pub use limits::{GroupLimits, Limits};
pub use machine::State;
pub use message::{Body, Destination, Message, Stored, Told};
pub use nodes::NodeRecord;
pub use read::{DeviceView, Item, LastRegistration, SessionView, Whereabouts};
pub use revocation::{KEPT_MS as REVOCATION_KEPT_MS, MAX_REVOKED};
pub use shard::Shard;
pub use store::Totals;
