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
pub mod raft;
pub mod session;
pub mod state;

pub use config::ClusterConfig;
