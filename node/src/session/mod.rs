//! A client's connection, from its first byte to its last.

mod answers;
mod control;
mod core;
mod echo;
mod ending;
mod groups;
mod handshake;
mod heart;
mod hooks;
mod limits;
mod link;
mod node;
mod run;
mod signals;
mod user_pace;
mod wire;
pub mod ws;

pub use control::{Connections, Control, Order, Place};
pub use echo::echo;
pub use hooks::TestHooks;
pub use limits::Limits;
pub use link::Link;
pub use node::{Node, Rules};
pub use run::{Opened, run};
pub use user_pace::UserPaces;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
