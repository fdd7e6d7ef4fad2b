//! What the system promises, shown on real processes, sockets and disks.
//!
//! One binary, so that its tests share the turns that keep the number of clusters small.

#[path = "../common/mod.rs"]
mod common;

mod admission;
mod bad_input;
mod breaker;
mod checker;
mod crash;
mod delivery;
mod drain;
mod fatal;
mod files;
mod groups;
mod hooks;
mod keys;
mod leader;
mod limits;
mod log_level;
mod membership;
mod otlp;
mod presence;
mod profiles;
mod quorum;
mod revocation;
mod sessions;
mod signals;
mod time;
mod tls;
mod trace;
