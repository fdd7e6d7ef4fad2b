//! The gateway: what clients connect to.

pub mod auth;
#[cfg(feature = "real")]
pub mod env;
pub mod protocol;
