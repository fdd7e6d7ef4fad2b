//! The gateway: what clients connect to.

pub mod auth;
pub mod client;
pub mod delivery;
pub mod drain;
pub mod duration;
#[cfg(feature = "sled")]
pub mod env;
pub mod gateway;
pub mod host;
pub mod http;
pub mod protocol;
pub mod request;
pub mod session;
pub mod telemetry;
