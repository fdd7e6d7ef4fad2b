//! What the cluster counts, for whoever shows it.

use std::time::Duration;

/// Told of what happens, as it happens, from any thread. Must not block.
pub trait Observer: Send + Sync + 'static {
    /// Devices of sessions on this node acknowledged `count` messages for the first time.
    fn delivered(&self, _count: u64) {}
    /// `count` messages will not reach a device, or were refused.
    fn failed(&self, _reason: &'static str, _count: u64) {}
    /// `count` sends were repeats of stored messages.
    fn duplicate(&self, _count: u64) {}
    /// From a send's arrival to a recipient device's first acknowledgement.
    fn delivery_latency(&self, _latency: Duration) {}
    /// From cutting a batch of `ops` operations to applying it here.
    fn proposal(&self, _ops: usize, _latency: Duration) {}
}

/// Counts nothing.
pub struct NoObserver;

impl Observer for NoObserver {}
