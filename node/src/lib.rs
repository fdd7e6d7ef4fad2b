//! The gateway: what clients connect to.

pub mod auth;
pub mod client;
#[cfg(feature = "real")]
pub mod env;
pub mod protocol;
