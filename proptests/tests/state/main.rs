//! Properties of the replicated state machine.
//!
//! Logs are made by [`log`], as Raft and several nodes could make them and worse; each module holds
//! the machine against one promise.

mod against_model;
mod bounds;
mod checkpoint;
mod codec;
mod copies;
mod delivery;
mod determinism;
mod ledger;
mod log;
mod model;
mod model_groups;
mod model_user;
mod ring;
mod seen;
mod time;
