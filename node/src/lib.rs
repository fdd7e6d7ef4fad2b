//! The gateway: what clients connect to.

#[cfg(feature = "real")]
pub mod env;
pub mod protocol;
