//! The disk's part of the fault table: what each fault is to a process, in virtual time.

use std::cell::Cell;
use std::future::Future;

use cluster::env::kv::Write;
use madsim::runtime::Runtime;

use super::*;

/// Seeds that each test runs under.
const SEEDS: u64 = 20;
/// The system's number for an error of a device.
const EIO: Option<i32> = Some(5);
/// Syncs and reads of a test: by so many, chance has shown what it does.
const MANY: usize = 20;

/// Runs a test under each seed, with an empty disk.
fn under_seeds(test: impl AsyncFn(Disk)) {
    for seed in 1..=SEEDS {
        let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.block_on(async {
            time::start();
            test(Disk::new(seed, "machine", Trace::default(), Journal::default())).await;
        });
    }
}

fn put(key: &'static str, value: &'static str) -> [Write; 1] {
    [Write::Put(Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()))]
}

fn parts(text: &'static str) -> Vec<Bytes> {
    vec![Bytes::from_static(text.as_bytes())]
}

/// A disk with a record and an object, both durable, and its process's stores.
async fn filled(disk: &Disk) -> (Arc<dyn Kv>, Arc<dyn Blobs>) {
    let (kv, blobs) = disk.open();
    kv.write(&put("a", "record")).unwrap();
    kv.sync().await.unwrap();
    blobs.put("x", parts("object")).await.unwrap();
    (kv, blobs)
}

async fn timed<F: Future>(future: F) -> (Duration, F::Output) {
    let began = time::now();
    let output = future.await;
    (Duration::from_nanos(time::now() - began), output)
}

fn bits_apart(one: &[u8], other: &[u8]) -> u32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one ^ other).count_ones()).sum()
}

fn flip_any(disk: &Disk) {
    while disk.flip_bit().is_none() {}
}

#[test]
fn a_crash_drops_the_last_of_what_was_not_synced_or_nothing() {
    let dropped = Cell::new(0);
    under_seeds(async |disk: Disk| {
        let (kv, _) = filled(&disk).await;
        kv.write(&put("b", "1")).unwrap();
        kv.write(&put("c", "2")).unwrap();
        disk.crash();
        assert!(kv.get(b"a").is_err(), "its process is dead");
        let (kv, blobs) = disk.open();
        assert_eq!(kv.get(b"a").unwrap().unwrap(), "record");
        assert_eq!(blobs.read("x", 0..6).await.unwrap(), "object");
        let (earlier, last) = (kv.get(b"b").unwrap(), kv.get(b"c").unwrap());
        assert!(earlier.is_some() || last.is_none(), "one from the middle is gone");
        dropped.set(dropped.get() + u64::from(last.is_none()));
    });
    assert!((1..SEEDS).contains(&dropped.get()), "{} of {SEEDS}", dropped.get());
}

#[test]
fn a_failing_disk_fails_whatever_touches_it_and_the_store_for_good() {
    under_seeds(async |disk: Disk| {
        let (kv, blobs) = filled(&disk).await;
        disk.begin_trouble(Trouble::Fails);
        assert_eq!(kv.get(b"a").unwrap_err().raw_os_error(), EIO);
        assert_eq!(blobs.read("x", 0..6).await.unwrap_err().raw_os_error(), EIO);
        assert_eq!(blobs.put("y", parts("more")).await.unwrap_err().raw_os_error(), EIO);
        assert!(disk.end_trouble(Trouble::Fails), "it was met");
        assert!(kv.get(b"a").is_err(), "nobody knows what a failed operation left behind");
        assert_eq!(blobs.read("x", 0..6).await.unwrap(), "object", "files recover");
        assert_eq!(disk.excuses(), [Excuse::Failed]);
        disk.crash();
        let (kv, _) = disk.open();
        assert_eq!(kv.get(b"a").unwrap().unwrap(), "record");
        assert!(disk.excuses().is_empty());
    });
}

#[test]
fn a_failing_sync_fails_the_store_and_no_write() {
    under_seeds(async |disk: Disk| {
        let (kv, blobs) = filled(&disk).await;
        disk.begin_trouble(Trouble::SyncFails);
        kv.write(&put("b", "1")).unwrap();
        assert_eq!(kv.sync().await.unwrap_err().raw_os_error(), EIO);
        assert_eq!(blobs.put("y", parts("more")).await.unwrap_err().raw_os_error(), EIO);
        disk.end_trouble(Trouble::SyncFails);
        assert!(kv.sync().await.is_err() && kv.write(&put("b", "2")).is_err(), "a sync is not tried again");
    });
}

#[test]
fn a_full_disk_can_be_read_and_emptied() {
    under_seeds(async |disk: Disk| {
        let (kv, blobs) = filled(&disk).await;
        disk.begin_trouble(Trouble::Full);
        assert_eq!(kv.get(b"a").unwrap().unwrap(), "record");
        assert_eq!(kv.write(&put("b", "1")).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(blobs.put("y", parts("more")).await.unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(blobs.list().await.unwrap(), ["x"], "nothing of it is there");
        assert_eq!(blobs.read("x", 0..6).await.unwrap(), "object");
        blobs.delete("x").await.unwrap();
        assert_eq!(disk.excuses(), [Excuse::Full]);
    });
}

#[test]
fn syncs_take_their_time_and_on_a_slow_disk_long() {
    under_seeds(async |disk: Disk| {
        let (kv, _) = disk.open();
        for _ in 0..MANY {
            let (took, synced) = timed(kv.sync()).await;
            synced.unwrap();
            assert!(took >= SYNC.0 && took <= SLOW + SYNC.0, "{took:?}");
        }
        let slowest = Duration::from_secs(1);
        disk.begin_trouble(Trouble::SlowMs(1_000));
        let mut most = Duration::ZERO;
        for _ in 0..MANY {
            most = most.max(timed(kv.sync()).await.0);
        }
        assert!(most > slowest / 4 && most <= slowest + SYNC.0, "{most:?}");
        assert!(disk.end_trouble(Trouble::SlowMs(1_000)));
    });
}

#[test]
fn looking_into_a_file_takes_its_time_and_on_a_slow_disk_long() {
    under_seeds(async |disk: Disk| {
        let (_, blobs) = filled(&disk).await;
        for _ in 0..MANY {
            let (took, read) = timed(blobs.read("x", 0..6)).await;
            assert_eq!(read.unwrap(), "object");
            assert!(took >= SEEK.0 && took <= SEEK.1 * 2, "{took:?}");
        }
        disk.begin_trouble(Trouble::SlowMs(1_000));
        let (mut reading, mut asking) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..MANY {
            reading = reading.max(timed(blobs.read("x", 0..6)).await.0);
            asking = asking.max(timed(blobs.len("x")).await.0);
        }
        for most in [reading, asking] {
            assert!(most > Duration::from_millis(250) && most <= Duration::from_millis(1_001), "{most:?}");
        }
    });
}

#[test]
fn a_trouble_that_nobody_meets_is_told_so() {
    under_seeds(async |disk: Disk| {
        let (kv, _) = filled(&disk).await;
        for trouble in [Trouble::Fails, Trouble::SyncFails, Trouble::Full, Trouble::SlowMs(9)] {
            disk.begin_trouble(trouble);
            time::sleep(Duration::from_secs(9)).await;
            assert!(!disk.end_trouble(trouble), "{trouble:?}");
        }
        assert_eq!(disk.troubles(), 0);
        assert_eq!(kv.get(b"a").unwrap().unwrap(), "record");
    });
}

#[test]
fn a_flipped_bit_of_a_record_is_found_or_read() {
    let found = Cell::new(0);
    under_seeds(async |disk: Disk| {
        let (kv, _) = disk.open();
        kv.write(&put("a", "record")).unwrap();
        kv.sync().await.unwrap();
        assert!(!disk.is_spoilt());
        flip_any(&disk);
        assert!(disk.is_spoilt() && disk.excuses().contains(&Excuse::Damaged));
        match kv.get(b"a") {
            Ok(value) => assert_eq!(bits_apart(&value.expect("it is there"), b"record"), 1),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidData);
                assert!(kv.get(b"b").is_err(), "the store has failed");
                found.set(found.get() + 1);
            }
        }
        disk.crash();
        let (kv, _) = disk.open();
        kv.write(&put("a", "anew")).unwrap();
        assert_eq!(kv.get(b"a").unwrap().unwrap(), "anew", "what is overwritten is whole");
    });
    assert!((1..SEEDS).contains(&found.get()), "{} of {SEEDS}", found.get());
}

#[test]
fn a_flipped_bit_of_an_object_is_read() {
    under_seeds(async |disk: Disk| {
        let (_, blobs) = disk.open();
        blobs.put("x", parts("object")).await.unwrap();
        flip_any(&disk);
        assert_eq!(bits_apart(&blobs.read("x", 0..6).await.unwrap(), b"object"), 1);
        assert_eq!(disk.excuses(), [Excuse::Damaged]);
    });
}

#[test]
fn an_old_copy_holds_what_was_there_and_nothing_since() {
    under_seeds(async |disk: Disk| {
        let (kv, blobs) = filled(&disk).await;
        let copy = disk.copy();
        kv.write(&put("a", "newer")).unwrap();
        kv.write(&put("b", "1")).unwrap();
        kv.sync().await.unwrap();
        blobs.put("x", parts("newer")).await.unwrap();
        blobs.put("y", parts("more")).await.unwrap();
        disk.crash();
        disk.restore(copy);
        let (kv, blobs) = disk.open();
        assert_eq!((kv.get(b"a").unwrap().unwrap(), kv.get(b"b").unwrap()), ("record".into(), None));
        assert_eq!(blobs.list().await.unwrap(), ["x"]);
        assert_eq!(blobs.read("x", 0..6).await.unwrap(), "object");
        assert!(disk.is_spoilt());
        assert_eq!(disk.excuses(), [Excuse::OldCopy]);
        disk.trust();
        assert!(!disk.is_spoilt());
    });
}

#[test]
fn a_half_of_a_disk_is_lost_where_there_are_two() {
    under_seeds(async |disk: Disk| {
        let (_, blobs) = filled(&disk).await;
        assert!(disk.lose(Half::Records));
        assert!(disk.open().0.get(b"a").unwrap().is_none());
        assert_eq!(blobs.read("x", 0..6).await.unwrap(), "object");
        assert!(!disk.lose(Half::Objects), "it is the only one left");
        assert_eq!(disk.excuses(), [Excuse::Damaged]);
        disk.wipe();
        assert!(!disk.is_spoilt());
        let (kv, blobs) = filled(&disk).await;
        assert!(disk.lose(Half::Objects));
        assert_eq!(blobs.len("x").await.unwrap(), None);
        assert_eq!(kv.get(b"a").unwrap().unwrap(), "record");
    });
}

#[test]
fn a_disk_on_real_sled_begins_anew_when_it_is_wiped() {
    twin::start();
    let journal = Journal::default();
    // Made and dropped outside of the runtime, which allows sled no threads.
    let disk = Disk::new(1, "wiped", Trace::default(), journal.clone()).on_sled();
    Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
        time::start();
        let _ = filled(&disk).await;
        disk.crash();
        disk.wipe();
        let (kv, blobs) = disk.open();
        assert_eq!((kv.get(b"a").unwrap(), blobs.len("x").await.unwrap()), (None, None));
        kv.write(&put("b", "1")).unwrap();
        kv.sync().await.unwrap();
        disk.crash();
        let (kv, _) = disk.open();
        assert_eq!((kv.get(b"a").unwrap(), kv.get(b"b").unwrap()), (None, Some("1".into())));
    });
    let broken = journal.take_broken();
    assert!(broken.is_empty(), "sled and the simulated disk agree: {broken:?}");
    drop(disk);
    twin::clear();
}
