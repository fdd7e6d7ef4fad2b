//! What only the real side of the seam promises: locks, damage on disk, the files it leaves.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use cluster::env::kv::Write;
use cluster::env::{Blobs, Kv};
use im_gateway::env::{self, Files, OpenError, SledKv};

fn put(key: &str, value: impl Into<Bytes>) -> Write {
    Write::Put(Bytes::copy_from_slice(key.as_bytes()), value.into())
}

fn open_kv(dir: &Path) -> Result<SledKv, OpenError> {
    SledKv::open(&dir.join("records"), Arc::new(env::lock(dir)?))
}

#[tokio::test]
async fn a_directory_serves_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let held = env::open(dir.path()).unwrap();
    let Err(error) = env::open(dir.path()) else { panic!("opened twice") };
    assert!(matches!(&error, OpenError::InUse { pid, .. } if *pid == std::process::id().to_string()), "{error}");
    drop(held);
    drop(env::open(dir.path()).unwrap());
}

#[tokio::test]
async fn large_values_leave_no_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let kv = open_kv(dir.path()).unwrap();
    for round in 0..4_u8 {
        for n in 0..40 {
            let value = vec![round; 1 << (n % 22)];
            kv.write(&[put(&format!("{n:03}"), value), put(&format!("small-{n:03}"), vec![round; 16 << 10])]).unwrap();
        }
        kv.sync().await.unwrap();
    }
    assert_eq!(fs::read_dir(dir.path().join("records/blobs")).unwrap().count(), 0);
    for n in 0..40 {
        assert_eq!(kv.get(format!("{n:03}").as_bytes()).unwrap().unwrap(), vec![3; 1 << (n % 22)]);
    }
}

#[tokio::test]
async fn lost_records_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let kv = open_kv(dir.path()).unwrap();
    kv.write(&[put("a", "1")]).unwrap();
    kv.sync().await.unwrap();
    let db = dir.path().join("records/db");
    let old = fs::read(&db).unwrap();
    for n in 0..100 {
        kv.write(&[put(&format!("{n}"), vec![7; 1000])]).unwrap();
    }
    kv.sync().await.unwrap();
    drop(kv);

    fs::write(&db, &old).unwrap();
    let error = open_kv(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("join again as a new one"), "{error}");
}

/// Sled itself stops reading at a damaged place and goes on as if the rest had never been.
#[tokio::test]
async fn flipped_bits_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().join("records");
    let kv = open_kv(dir.path()).unwrap();
    for n in 0..500 {
        kv.write(&[put(&format!("{n:03}"), vec![b'x'; 500])]).unwrap();
    }
    kv.sync().await.unwrap();
    let good = copy(&records);
    drop(kv);

    restore(&records, &good);
    assert_eq!(open_kv(dir.path()).unwrap().range(b"", b"\xff", usize::MAX).unwrap().len(), 500);
    for at in (1_000..200_000).step_by(9_973) {
        restore(&records, &good);
        let mut bad = good["db"].clone();
        bad[at] ^= 0x10;
        fs::write(records.join("db"), &bad).unwrap();
        match open_kv(dir.path()) {
            Err(OpenError::Corrupt { .. }) => {}
            Err(other) => panic!("{other}"),
            Ok(kv) => {
                let error = kv.range(b"", b"\xff", usize::MAX).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
                assert_eq!(kv.get(b"000").unwrap_err().kind(), io::ErrorKind::InvalidData, "an error is for good");
            }
        }
    }
}

/// The plain files of a folder, as a crash of the process leaves them.
fn copy(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

fn restore(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    fs::remove_dir_all(dir).unwrap();
    fs::create_dir_all(dir).unwrap();
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Rounds of [`what_was_synced_survives_sigkill`]; more by the environment, for a soak.
fn rounds() -> u32 {
    std::env::var("IMGW_TEST_KILLS").map_or(8, |rounds| rounds.parse().unwrap())
}

#[test]
fn what_was_synced_survives_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let mut batches = 0;
    for round in 0..rounds() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture"])
            .env(WRITER, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let synced = lines.filter_map(|line| line.unwrap().strip_prefix("synced ").map(|n| n.parse::<u32>().unwrap()));
        // At another point of its work each time.
        let last = synced.take(5 + 7 * (round as usize % 9)).last().expect("it synced something");
        child.kill().unwrap();
        child.wait().unwrap();

        let kv = open_kv(dir.path()).unwrap();
        let found = kv.range(b"", b"\xff", usize::MAX).unwrap();
        batches = u32::try_from(found.len()).unwrap() / 3;
        assert!(batches > last, "round {round}: batch {last} was synced, {batches} are there");
        for (n, (key, value)) in (0..).zip(&found) {
            assert_eq!(*key, batch_key(n / 3, n % 3), "round {round}: no part of a batch alone");
            assert_eq!(*value, batch_value(n / 3, n % 3));
        }
    }
    assert!(batches > 0);
}

/// Set, to a data directory, for the process that is killed while it writes there.
const WRITER: &str = "IMGW_TEST_WRITER";

fn batch_key(n: u32, part: u32) -> Vec<u8> {
    [n.to_be_bytes(), part.to_be_bytes()].concat()
}

fn batch_value(n: u32, part: u32) -> Vec<u8> {
    vec![n as u8; [10, 1_000, 40_000][part as usize] + n as usize % 100]
}

/// Not a test of its own: the process that is killed. Elsewhere it does nothing.
#[tokio::test]
async fn writer() {
    let Some(dir) = std::env::var_os(WRITER) else { return };
    let kv = open_kv(Path::new(&dir)).unwrap();
    let first = u32::try_from(kv.range(b"", b"\xff", usize::MAX).unwrap().len()).unwrap() / 3;
    for n in first.. {
        let batch: Vec<_> =
            (0..3).map(|part| Write::Put(batch_key(n, part).into(), batch_value(n, part).into())).collect();
        kv.write(&batch).unwrap();
        if n % 3 == 0 {
            kv.sync().await.unwrap();
            println!("synced {n}");
        }
    }
}

#[tokio::test]
async fn unfinished_blobs_vanish() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blobs");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join(".put-0"), b"half").unwrap();
    let blobs = Files::open(&path, Arc::new(env::lock(dir.path()).unwrap())).unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    blobs.put("a", vec![Bytes::from_static(b"1"), Bytes::from_static(b"2")]).await.unwrap();
    assert_eq!(blobs.read("a", 0..2).await.unwrap(), "12");
    assert_eq!(blobs.list().await.unwrap(), ["a"]);
}
