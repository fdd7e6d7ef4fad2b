//! The real side of the seam: TCP, TLS, sled, files, signals.
//!
//! Invariant: the only place of the gateway that touches the system's network, disk or processes.
//! It stands behind the feature `real`, which the simulator leaves out, but for the records on sled;
//! everything else reaches the outside through [`cluster::env`].

#[cfg(feature = "real")]
mod files;
mod packing;
mod panic;
#[cfg(feature = "real")]
mod process;
mod sled_kv;
#[cfg(feature = "real")]
mod tcp;
#[cfg(feature = "real")]
mod tls;

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
#[cfg(feature = "real")]
use std::sync::Arc;

#[cfg(feature = "real")]
pub use files::Files;
pub use panic::end_process_on_panic;
#[cfg(feature = "real")]
pub use process::{BLOCKING_THREADS, RESERVED_FILES, raise_file_limit, terminated};
pub use sled_kv::SledKv;
#[cfg(feature = "real")]
pub use tcp::Tcp;
#[cfg(feature = "real")]
pub use tls::{Tls, TlsError, TlsFiles};

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works in it.
    #[error("the data directory {} is in use by another node (process {pid}): stop it, or choose another directory", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// What the other process wrote into the lock file.
        pid: String,
    },
    /// Its records cannot be trusted.
    #[error(
        "the records in {} are corrupt ({detail}): move the whole data directory away, not only this part of it, and let \
         the node join again as a new one",
        dir.display()
    )]
    Corrupt {
        /// The data directory.
        dir: PathBuf,
        /// What sled says.
        detail: String,
    },
    /// The system refused.
    #[error("cannot open {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl OpenError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// How servers are reached that are no nodes, with TLS or in the clear: by the CAs that the system trusts.
///
/// # Errors
/// What the system trusts cannot be read.
#[cfg(feature = "real")]
pub fn outward(tls: bool) -> Result<Arc<dyn cluster::env::Net>, TlsError> {
    let net = Arc::new(Tcp);
    Ok(if tls { Arc::new(Tls::to_nodes(net, None)?) } else { net })
}

/// One node's real environment: TCP, and the data directory `dir`, which is created if absent and
/// locked until the last clone of the returned stores is dropped.
///
/// # Errors
/// When the directory is in use, corrupt or cannot be accessed.
#[cfg(feature = "real")]
pub fn open(dir: &Path) -> Result<cluster::env::Env, OpenError> {
    let lock = Arc::new(lock(dir)?);
    let kv = SledKv::open(&dir.join("records"), lock.clone())?;
    let blobs = Files::open(&dir.join("blobs"), lock)?;
    sync_dir(dir).map_err(|error| OpenError::io(dir, error))?;
    Ok(cluster::env::Env { net: Arc::new(Tcp), kv: Arc::new(kv), blobs: Arc::new(blobs) })
}

/// Holds a data directory for this process; the system lets go of it when the process dies.
#[derive(Debug)]
pub struct DirLock(#[expect(dead_code, reason = "open for as long as the lock is held")] File);

/// Locks a data directory, creating it if absent.
///
/// # Errors
/// [`OpenError::InUse`], [`OpenError::Io`].
pub fn lock(dir: &Path) -> Result<DirLock, OpenError> {
    fs::create_dir_all(dir).map_err(|error| OpenError::io(dir, error))?;
    let path = dir.join("lock");
    let io_error = |error| OpenError::io(&path, error);
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io_error)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The number is a hint for people; without it the message is still right.
            let _ = file.take(20).read_to_string(&mut pid);
            let pid = if pid.is_empty() { "unknown".to_owned() } else { pid };
            return Err(OpenError::InUse { dir: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(io_error(error)),
    }
    file.set_len(0).map_err(io_error)?;
    write!(file, "{}", std::process::id()).map_err(io_error)?;
    Ok(DirLock(file))
}

/// Makes created, renamed and removed names of `dir` durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
