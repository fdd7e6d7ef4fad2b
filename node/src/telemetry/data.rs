//! The file system that the data folder is on.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cluster::env::clock;
use prometheus::IntGauge;
use rustix::fs::statvfs;

use super::metrics::{Maker, Metrics};

/// How often it is looked at: sooner than anybody scrapes.
const EVERY: Duration = Duration::from_secs(5);

/// Metrics of the data folder's file system.
pub(super) struct Data {
    free: IntGauge,
    size: IntGauge,
}

impl Data {
    pub fn new(make: &Maker<'_>) -> Self {
        Self {
            free: make.gauge(
                "im_gateway_data_free_bytes",
                "What this process may still write to the file system of its data folder",
            ),
            size: make.gauge("im_gateway_data_size_bytes", "Size of the file system of the data folder"),
        }
    }
}

impl Metrics {
    /// Looks at the file system of `folder` now.
    ///
    /// # Errors
    /// As statvfs(3).
    pub fn see_data(&self, folder: &std::path::Path) -> io::Result<()> {
        let found = statvfs(folder)?;
        let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(found.f_frsize)).unwrap_or(i64::MAX);
        self.data.free.set(bytes(found.f_bavail));
        self.data.size.set(bytes(found.f_blocks));
        Ok(())
    }

    /// Looks at it again and again. Where it hangs, a thread for such things hangs, and the values stay.
    pub async fn watch_data(self: Arc<Self>, folder: PathBuf) {
        loop {
            let (metrics, at) = (self.clone(), folder.clone());
            match tokio::task::spawn_blocking(move || metrics.see_data(&at)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "the data folder's file system does not say its size"),
                Err(_) => return,
            }
            clock::sleep(EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_a_file_system() {
        let metrics = Metrics::new();
        metrics.see_data(&std::env::temp_dir()).unwrap();
        let (free, size) = (metrics.data.free.get(), metrics.data.size.get());
        assert!(0 < size && (0..=size).contains(&free), "{free} of {size}");
        assert!(metrics.see_data("/nowhere/at/all".as_ref()).is_err());
        assert_eq!(metrics.data.size.get(), size, "it stays as it was");
    }
}
