//! What is replicated, and how nodes talk.
//!
//! Nothing in this crate opens a socket, starts a thread or touches a file: the outside is reached
//! through [`env`] only, so the simulator can run these very lines.

pub mod config;
pub mod env;
pub mod id;
pub mod observer;
pub mod origin;
pub mod peer;
pub mod presence;
pub mod raft;
pub mod session;
pub mod signal;
pub mod state;
pub mod status;
pub mod sync;
pub mod trace;

mod backoff;
mod handle;
mod identity;
mod liveness;
mod membership;
mod proposer;
mod router;
mod serve;
mod session_handle;

pub use config::ClusterConfig;
pub use handle::{AdminError, Cluster, StartError};
pub use membership::admin::Admin;
pub use session_handle::Session;
