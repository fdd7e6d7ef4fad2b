//! The replicated log: openraft on this project's storage, checkpoints and links.

pub mod codec;
mod log;
mod runtime;
#[cfg(test)]
mod testing;
mod types;

pub use log::{LogReader, LogStore};
pub use runtime::ClockRuntime;
pub use types::{Applied, Entry, LeaderId, LogId, Member, Payload, SnapshotMeta, StoredMembership, TypeConfig, Vote};
