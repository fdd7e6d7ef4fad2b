//! What is replicated, and how nodes talk.
//!
//! Nothing in this crate opens a socket, starts a thread or touches a file: the outside is reached
//! through [`env`] only, so the simulator can run these very lines.

pub mod env;
pub mod id;
pub mod raft;
pub mod peer;
pub mod state;
