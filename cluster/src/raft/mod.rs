//! The replicated log: openraft on this project's storage, checkpoints and links.

mod runtime;
mod types;

pub use runtime::ClockRuntime;
pub use types::{Applied, Entry, LeaderId, LogId, Member, Payload, SnapshotMeta, StoredMembership, TypeConfig, Vote};
