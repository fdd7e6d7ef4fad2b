//! Limits that every replica must agree on, so they are replicated themselves.

use serde::{Deserialize, Serialize};

/// Replicated limits. All times run on replicated time (see [`super::Command::Tick`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Sends a client may have without a received `ok`; also the length of the dedup ring.
    pub inflight: u32,
    /// Messages that wait in one inbox.
    pub inbox_messages: u32,
    /// Bytes of bodies that wait in one inbox.
    pub inbox_bytes: u64,
    /// Devices that one user can have.
    pub devices_per_user: u32,
    /// An undelivered message expires after this, ms.
    pub message_ttl_ms: u64,
    /// A device without a session is forgotten after this, ms.
    pub device_ttl_ms: u64,
    /// An ephemeral device whose connection was lost is forgotten after this, ms.
    pub ephemeral_ttl_ms: u64,
    /// A dedup ring outlives its device's last session by this, ms.
    pub ring_ttl_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MINUTE_MS: u64 = 60_000;
        const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
        Self {
            inflight: 256,
            inbox_messages: 20_000,
            inbox_bytes: 32 << 20,
            devices_per_user: 16,
            message_ttl_ms: 30 * DAY_MS,
            device_ttl_ms: 30 * DAY_MS,
            ephemeral_ttl_ms: 10 * MINUTE_MS,
            ring_ttl_ms: 60 * MINUTE_MS,
        }
    }
}

/// Replicated limits of groups. What waits in a group is limited as one inbox is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupLimits {
    /// Members of one group: at its limits a group looks at each of them in one step of the log.
    pub members: u32,
    /// Groups that one user is in: each acknowledgement and each reading looks at all of them.
    pub per_user: u32,
}

impl Default for GroupLimits {
    fn default() -> Self {
        Self { members: 10_000, per_user: 100 }
    }
}
