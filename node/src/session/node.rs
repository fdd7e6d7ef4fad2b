//! What all sessions of a node share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::hooks::TestHooks;
use super::user_pace::UserPaces;
use crate::auth::{AuthError, Verifier};
use crate::delivery::WindowLimits;
use crate::telemetry::{ConnectionError, Metrics, Sampler, Seldom, Tracer, Trail};

/// What clients must keep to, and what they can expect.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The heartbeat.
    pub ping: Duration,
    /// The first frame must come within this.
    pub hello_timeout: Duration,
    /// A message unacknowledged for longer is counted.
    pub ack_timeout: Duration,
    /// Largest message of a client, in bytes.
    pub frame_bytes: u32,
    /// Frames, acknowledgements of something new aside, that a client may send per second.
    pub send_per_s: u32,
    /// Users that a client may watch.
    pub watches: u32,
    /// What may be written and unacknowledged.
    pub window: WindowLimits,
}

/// A node, as its sessions see it.
pub struct Node {
    /// Its id.
    pub name: String,
    /// What clients must keep to.
    pub rules: Rules,
    /// Checks tokens.
    pub verifier: Arc<Verifier>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Which deliveries are logged.
    pub deliveries: Sampler,
    /// Which messages are traced.
    pub tracer: Tracer,
    /// What happened lately to messages.
    pub trail: Trail,
    /// Faults on request, where the operator allows them.
    pub hooks: Option<TestHooks>,
    /// How fast users may send.
    pub users: Arc<UserPaces>,
    /// Which ACK timeouts are logged.
    pub unacknowledged: Seldom,
}

impl Node {
    /// A token was refused.
    pub fn auth_failed(&self, from: Option<SocketAddr>, error: &AuthError) {
        self.metrics.connection_error(ConnectionError::Auth);
        let remote_addr = from.map(|addr| addr.ip().to_string());
        tracing::warn!(event = "auth_failed", remote_addr, error = %error, "a token was refused");
    }
}
