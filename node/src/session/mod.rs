//! A client's connection, from its first byte to its last.

mod control;
mod core;
mod handshake;
mod heart;
mod link;
mod node;
mod run;
mod wire;
pub mod ws;

pub use control::{Connections, Control, Place};
pub use link::Link;
pub use node::{Node, Rules};
pub use run::{Opened, run};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
