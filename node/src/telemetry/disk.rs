//! How the disk does: the node's storage, with its calls timed and counted.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::env::kv::Write;
use cluster::env::{Blobs, Env, Kv, clock};
use prometheus::{Histogram, IntCounterVec};

use super::metrics::{Maker, Metrics};

/// Upper edges of the buckets of the time that a sync takes, in seconds.
const SYNC_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0];

/// Values of the label `operation`.
const OPERATIONS: [&str; 6] = ["read", "write", "sync", "blob_read", "blob_write", "blob_delete"];

/// Metrics of the disk.
pub(super) struct Disk {
    sync: Histogram,
    errors: IntCounterVec,
}

impl Disk {
    pub fn new(make: &Maker<'_>) -> Self {
        let disk = Self {
            sync: make.histogram(
                "im_gateway_disk_sync_seconds",
                "From asking for the log's records to be durable until they are",
                SYNC_BUCKETS.to_vec(),
            ),
            errors: make.counters(
                "im_gateway_disk_errors_total",
                "Operations on the data directory that failed",
                &["operation"],
            ),
        };
        for operation in OPERATIONS {
            disk.errors.with_label_values(&[operation]);
        }
        disk
    }
}

impl Metrics {
    /// The same environment, with its disk's calls in these metrics.
    #[must_use]
    pub fn watch_disk(self: &Arc<Self>, env: Env) -> Env {
        Env {
            net: env.net,
            kv: Arc::new(Watched { inner: env.kv, metrics: self.clone() }),
            blobs: Arc::new(Watched { inner: env.blobs, metrics: self.clone() }),
        }
    }
}

struct Watched<T: ?Sized> {
    metrics: Arc<Metrics>,
    inner: Arc<T>,
}

impl<T: ?Sized> Watched<T> {
    fn noted<V>(&self, operation: &'static str, result: io::Result<V>) -> io::Result<V> {
        if let Err(error) = &result
            // That there is no such blob is an answer.
            && error.kind() != io::ErrorKind::NotFound
        {
            self.metrics.disk.errors.with_label_values(&[operation]).inc();
            tracing::error!(event = "database_error", operation, %error, "the disk failed");
        }
        result
    }
}

#[async_trait]
impl Kv for Watched<dyn Kv> {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.noted("read", self.inner.get(key))
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        self.noted("read", self.inner.range(from, to, limit))
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
        self.noted("read", self.inner.last(from, to))
    }

    fn write(&self, batch: &[Write]) -> io::Result<()> {
        self.noted("write", self.inner.write(batch))
    }

    async fn sync(&self) -> io::Result<()> {
        let asked = clock::now();
        let result = self.inner.sync().await;
        self.metrics.disk.sync.observe(asked.elapsed().as_secs_f64());
        self.noted("sync", result)
    }
}

#[async_trait]
impl Blobs for Watched<dyn Blobs> {
    async fn put(&self, name: &str, parts: Vec<Bytes>) -> io::Result<()> {
        self.noted("blob_write", self.inner.put(name, parts).await)
    }

    async fn read(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        self.noted("blob_read", self.inner.read(name, range).await)
    }

    async fn len(&self, name: &str) -> io::Result<Option<u64>> {
        self.noted("blob_read", self.inner.len(name).await)
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        self.noted("blob_read", self.inner.list().await)
    }

    async fn delete(&self, name: &str) -> io::Result<()> {
        self.noted("blob_delete", self.inner.delete(name).await)
    }
}
