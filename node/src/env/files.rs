//! `Blobs` as files of one folder.
//!
//! Invariant: a name appears only by renaming a file whose bytes are already durable, so it holds
//! a whole object at every instant. Unfinished files begin with a dot, which no blob's name does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cluster::env::Blobs;
use cluster::env::blobs::check_name;

use super::{DirLock, OpenError, sync_dir};

/// Blobs in files.
#[derive(Debug, Clone)]
pub struct Files {
    folder: Arc<Folder>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Numbers unfinished files.
    next: AtomicU64,
    _lock: Arc<DirLock>,
}

impl Files {
    /// Opens the folder `path`, creating it if absent, and removes unfinished files.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn open(path: &Path, lock: Arc<DirLock>) -> Result<Self, OpenError> {
        prepare(path).map_err(|error| OpenError::io(path, error))?;
        Ok(Self { folder: Arc::new(Folder { path: path.to_owned(), next: AtomicU64::new(0), _lock: lock }) })
    }

    /// Runs file work where it may block.
    async fn run<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Folder) -> io::Result<T> + Send + 'static,
    {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || work(&folder)).await.map_err(io::Error::other)?
    }
}

fn prepare(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            fs::remove_file(entry.path())?;
        }
    }
    sync_dir(path)
}

#[async_trait]
impl Blobs for Files {
    async fn put(&self, name: &str, parts: Vec<Bytes>) -> io::Result<()> {
        check_name(name)?;
        let name = name.to_owned();
        self.run(move |folder| folder.put(&name, &parts)).await
    }

    async fn read(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        check_name(name)?;
        let name = name.to_owned();
        self.run(move |folder| folder.read(&name, range)).await
    }

    async fn len(&self, name: &str) -> io::Result<Option<u64>> {
        check_name(name)?;
        let name = name.to_owned();
        self.run(move |folder| present(fs::metadata(folder.path.join(name))).map(|found| found.map(|file| file.len())))
            .await
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        self.run(|folder| {
            let mut names = Vec::new();
            for entry in fs::read_dir(&folder.path)? {
                if let Ok(name) = entry?.file_name().into_string()
                    && check_name(&name).is_ok()
                {
                    names.push(name);
                }
            }
            names.sort_unstable();
            Ok(names)
        })
        .await
    }

    async fn delete(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let name = name.to_owned();
        self.run(move |folder| present(fs::remove_file(folder.path.join(name))).map(drop)).await
    }
}

/// Absence is an answer, not an error.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Folder {
    fn put(&self, name: &str, parts: &[Bytes]) -> io::Result<()> {
        let unfinished = self.path.join(format!(".put-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        let written = write_durably(&unfinished, parts)
            .and_then(|()| fs::rename(&unfinished, self.path.join(name)))
            .and_then(|()| sync_dir(&self.path));
        if written.is_err() {
            // Best effort: what stays is removed at the next start.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    fn read(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        let file = File::open(self.path.join(name))?;
        // Before anything is allocated: the range may come from a damaged record.
        if range.end > file.metadata()?.len() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the blob {name} is shorter than {} bytes", range.end),
            ));
        }
        let len = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok());
        let len =
            len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a range that ends before its start"))?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes.into())
    }
}

fn write_durably(path: &Path, parts: &[Bytes]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}
