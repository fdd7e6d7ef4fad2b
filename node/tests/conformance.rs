//! The real side of the seam keeps what the traits promise.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cluster::env::conformance::{self, BlobsWorld, Case, NetWorld, StoreWorld, Victim};
use cluster::env::{Blobs, Kv, Net};
use im_gateway::env::{self, Files, SledKv, Tcp};

/// Set for the process that this test starts only to kill it.
const VICTIM: &str = "IMGW_TEST_VICTIM";

async fn check<W: ?Sized>(cases: Vec<Case<W>>, world: impl Fn() -> Box<W>) {
    for case in cases {
        eprintln!("{}", case.name);
        let world = world();
        (case.run)(&world).await;
    }
}

#[tokio::test]
async fn clock() {
    check(conformance::clock_cases(), || Box::new(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sled() {
    check(conformance::kv_cases(), || Box::new(Disk::new()) as Box<KvWorld>).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files() {
    check(conformance::blobs_cases(), || Box::new(Disk::new()) as Box<BlobsWorld>).await;
}

#[tokio::test]
async fn tcp() {
    check(conformance::net_cases(), || Box::new(Loopback) as Box<dyn NetWorld>).await;
}

type KvWorld = conformance::KvWorld;

/// A disk whose stores crash by being copied while they are open: what a killed process leaves.
struct Disk {
    root: tempfile::TempDir,
    current: Mutex<PathBuf>,
    copies: AtomicU32,
}

impl Disk {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let current = Mutex::new(root.path().join("0"));
        Self { root, current, copies: AtomicU32::new(0) }
    }

    fn current(&self) -> PathBuf {
        self.current.lock().unwrap().clone()
    }

    /// Goes on with a copy of the directory as it is now.
    fn crash(&self) {
        let from = self.current();
        let to = self.root.path().join(format!("{}", self.copies.fetch_add(1, Ordering::Relaxed) + 1));
        copy(&from, &to);
        *self.current.lock().unwrap() = to;
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut entries: Vec<_> = fs::read_dir(from).unwrap().map(|entry| entry.unwrap()).collect();
    // Sled's threads may still be writing to `db`, so what speaks about it is copied before it.
    entries.sort_by_key(|entry| entry.file_name() == "db");
    for entry in entries {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            match fs::copy(entry.path(), target) {
                Ok(_) => {}
                // A temporary file that went away meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn sole<S: ?Sized>(store: Arc<S>) {
    assert_eq!(Arc::strong_count(&store), 1, "the case keeps a handle of its store");
}

#[async_trait]
impl StoreWorld<dyn Kv> for Disk {
    async fn open(&self) -> Arc<dyn Kv> {
        let dir = self.current();
        Arc::new(SledKv::open(&dir.join("records"), Arc::new(env::lock(&dir).unwrap())).unwrap())
    }

    async fn reopen(&self, store: Arc<dyn Kv>) -> Arc<dyn Kv> {
        sole(store);
        StoreWorld::<dyn Kv>::open(self).await
    }

    async fn crash(&self, store: Arc<dyn Kv>) -> Arc<dyn Kv> {
        Disk::crash(self);
        sole(store);
        StoreWorld::<dyn Kv>::open(self).await
    }
}

#[async_trait]
impl StoreWorld<dyn Blobs> for Disk {
    async fn open(&self) -> Arc<dyn Blobs> {
        let dir = self.current();
        Arc::new(Files::open(&dir.join("blobs"), Arc::new(env::lock(&dir).unwrap())).unwrap())
    }

    async fn reopen(&self, store: Arc<dyn Blobs>) -> Arc<dyn Blobs> {
        sole(store);
        StoreWorld::<dyn Blobs>::open(self).await
    }

    async fn crash(&self, store: Arc<dyn Blobs>) -> Arc<dyn Blobs> {
        Disk::crash(self);
        sole(store);
        StoreWorld::<dyn Blobs>::open(self).await
    }
}

struct Loopback;

#[async_trait]
impl NetWorld for Loopback {
    fn server(&self) -> Arc<dyn Net> {
        Arc::new(Tcp)
    }

    fn client(&self) -> Arc<dyn Net> {
        Arc::new(Tcp)
    }

    fn any_port(&self) -> String {
        "127.0.0.1:0".into()
    }

    async fn victim(&self) -> Victim {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(VICTIM, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let child = Reaped(child);
        let addr = lines
            .find_map(|line| line.unwrap().split_once("listening on ").map(|(_, addr)| addr.to_owned()))
            .expect("the victim says where it listens");
        Victim { addr, kill: Box::new(move || drop(child)) }
    }
}

/// A child process that does not outlive its handle.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Not a test of its own: the process that `tcp` kills. Elsewhere it does nothing.
#[tokio::test]
async fn victim() {
    if std::env::var_os(VICTIM).is_some() {
        let echo = conformance::echo(Arc::new(Tcp), "127.0.0.1:0", |addr| println!("listening on {addr}"));
        echo.await.unwrap();
    }
}
