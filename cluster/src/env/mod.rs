//! The seam between the gateway and the outside.
//!
//! Invariant: everything this project does to a network, a disk or a clock goes through the traits
//! of this module, each of which has a real implementation (`im_gateway::env`) and a simulated one
//! (`sim`), held to one [`conformance`] suite. The event log (Kafka) will join them here.

pub mod blobs;
pub mod clock;
pub mod conformance;
pub mod kv;
pub mod net;
pub mod tasks;

use std::sync::Arc;

pub use blobs::Blobs;
pub use kv::Kv;
pub use net::Net;

/// One node's view of the outside.
#[derive(Clone)]
pub struct Env {
    /// Byte streams to other machines.
    pub net: Arc<dyn Net>,
    /// Small ordered records: the Raft log and vote.
    pub kv: Arc<dyn Kv>,
    /// Large immutable objects: checkpoints, identity.
    pub blobs: Arc<dyn Blobs>,
}
