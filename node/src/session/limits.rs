//! What operators can limit about connections.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::node::Rules;
use crate::delivery::WindowLimits;

/// Limits of connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most open WebSockets; further ones are closed with 1013.
    pub connections: usize,
    /// Largest frame of a client, in bytes; told in `welcome`.
    pub frame_bytes: u32,
    /// Frames, acknowledgements of something new aside, that a client may send per second; the node reads no faster.
    /// Told in `welcome`.
    pub send_per_s: u32,
    /// Users that a connection may watch; told in `welcome`. Each costs its node some 100 to 200 bytes.
    pub watches: u32,
    /// The heartbeat when nothing else was sent, ms; told in `welcome`.
    pub ping_ms: u64,
    /// `hello` must come within this, ms.
    pub hello_timeout_ms: u64,
    /// A message that was not acknowledged for so long is counted, ms.
    pub ack_timeout_ms: u64,
    /// Messages that may be written to a client and not acknowledged.
    pub window_messages: usize,
    /// Bytes that may be written to a client and not acknowledged.
    pub window_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 200_000,
            frame_bytes: 64 << 10,
            send_per_s: 1000,
            watches: 256,
            ping_ms: 25_000,
            hello_timeout_ms: 5_000,
            ack_timeout_ms: 5_000,
            window_messages: 256,
            window_bytes: 256 << 10,
        }
    }
}

impl Limits {
    /// The limits as sessions keep them. A configuration with a zero is refused, so none is.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            ping: Duration::from_millis(self.ping_ms),
            hello_timeout: Duration::from_millis(self.hello_timeout_ms),
            ack_timeout: Duration::from_millis(self.ack_timeout_ms),
            frame_bytes: self.frame_bytes,
            send_per_s: self.send_per_s,
            watches: self.watches,
            window: WindowLimits { messages: self.window_messages, bytes: self.window_bytes },
        }
    }
}
