//! What [`Kv`] promises.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;

use super::{Case, Dice, KvWorld, cases};
use crate::env::Kv;
use crate::env::kv::Write;

const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 16 << 20;
/// After every key of these cases.
const END: &[u8] = &[0xff; 8];

type Records = Vec<(Bytes, Bytes)>;

/// All cases.
#[must_use]
pub fn cases() -> Vec<Case<KvWorld>> {
    cases![
        an_empty_store_holds_nothing,
        a_write_is_visible_at_once,
        a_batch_is_applied_in_order,
        a_range_is_ordered_and_bounded,
        last_is_the_last_below_its_bound,
        keys_and_values_of_any_allowed_size,
        beyond_the_limits_nothing_is_applied,
        readers_see_whole_batches,
        synced_batches_survive_a_crash,
        a_crash_drops_a_suffix_of_whole_batches,
        syncs_at_the_same_time_all_return,
        a_closed_store_opens_again,
        it_agrees_with_a_model_through_crashes,
    ]
}

fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Write {
    Write::Put(Bytes::copy_from_slice(key.as_ref()), Bytes::copy_from_slice(value.as_ref()))
}

fn delete(key: impl AsRef<[u8]>) -> Write {
    Write::Delete(Bytes::copy_from_slice(key.as_ref()))
}

fn all(kv: &dyn Kv) -> Records {
    kv.range(b"", END, usize::MAX).unwrap()
}

fn pairs(records: &[(&str, &str)]) -> Records {
    records
        .iter()
        .map(|(key, value)| (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes())))
        .collect()
}

async fn an_empty_store_holds_nothing(world: &KvWorld) {
    let kv = world.open().await;
    assert_eq!(kv.get(b"a").unwrap(), None);
    assert_eq!(all(&*kv), []);
    assert_eq!(kv.last(b"", END).unwrap(), None);
    kv.write(&[]).unwrap();
    kv.sync().await.unwrap();
    assert_eq!(all(&*kv), []);
}

async fn a_write_is_visible_at_once(world: &KvWorld) {
    let kv = world.open().await;
    kv.write(&[put("a", "1"), put("b", "")]).unwrap();
    assert_eq!(kv.get(b"a").unwrap().unwrap(), "1");
    assert_eq!(kv.get(b"b").unwrap().unwrap(), "");
    assert_eq!(kv.get(b"").unwrap(), None);
    kv.write(&[put("a", "2"), delete("b")]).unwrap();
    assert_eq!(all(&*kv), pairs(&[("a", "2")]));
}

async fn a_batch_is_applied_in_order(world: &KvWorld) {
    let kv = world.open().await;
    kv.write(&[put("a", "1"), put("a", "2"), put("b", "1"), delete("b"), delete("c"), put("c", "3"), delete("absent")])
        .unwrap();
    assert_eq!(all(&*kv), pairs(&[("a", "2"), ("c", "3")]));
    // A value in many pieces, replaced within the batch that brings it.
    let large = vec![7; 1 << 20];
    kv.write(&[put("a", &large), put("a", "small"), put("c", "small"), put("c", &large)]).unwrap();
    assert_eq!(kv.get(b"a").unwrap().unwrap(), "small");
    assert_eq!(kv.get(b"c").unwrap().unwrap(), large);
}

async fn a_range_is_ordered_and_bounded(world: &KvWorld) {
    let kv = world.open().await;
    let keys: [&[u8]; 9] = [b"", &[0], &[0, 0], &[0, 1], b"a", b"aa", b"b", &[0xfe], &[0xfe, 0xff]];
    for key in keys.iter().rev() {
        kv.write(&[put(key, key)]).unwrap();
    }
    let found = |from: &[u8], to: &[u8], limit| -> Vec<Bytes> {
        kv.range(from, to, limit)
            .unwrap()
            .into_iter()
            .map(|(key, value)| {
                assert_eq!(key, value);
                key
            })
            .collect()
    };
    assert_eq!(found(b"", END, usize::MAX), keys);
    assert_eq!(found(b"a", b"b", 100), [&b"a"[..], b"aa"]);
    assert_eq!(found(&[0], &[0, 0, 0], 100), [&[0][..], &[0, 0]]);
    assert_eq!(found(b"a\0", END, 2), [&b"aa"[..], b"b"]);
    assert_eq!(found(b"", END, 1), [&b""[..]]);
    for (from, to, limit) in [(&b"a"[..], &b"b"[..], 0), (b"a", b"a", 9), (b"b", b"a", 9), (b"b\0", b"c", 9)] {
        assert_eq!(found(from, to, limit), [&b""[..]; 0]);
    }
}

async fn last_is_the_last_below_its_bound(world: &KvWorld) {
    let kv = world.open().await;
    for n in 0..300_u32 {
        kv.write(&[put((n * 2).to_be_bytes(), n.to_le_bytes())]).unwrap();
    }
    let last = |from: u32, to: u32| {
        kv.last(&from.to_be_bytes(), &to.to_be_bytes()).unwrap().map(|(key, value)| {
            let key = u32::from_be_bytes(key.as_ref().try_into().unwrap());
            assert_eq!(value.as_ref(), (key / 2).to_le_bytes());
            key
        })
    };
    assert_eq!(last(0, u32::MAX), Some(598));
    assert_eq!(last(0, 598), Some(596));
    assert_eq!(last(0, 597), Some(596));
    assert_eq!(last(100, 101), Some(100));
    for (from, to) in [(99, 100), (100, 100), (101, 102), (200, 100), (599, u32::MAX)] {
        assert_eq!(last(from, to), None);
    }
    for n in (100..300_u32).rev() {
        kv.write(&[delete((n * 2).to_be_bytes())]).unwrap();
        assert_eq!(last(0, u32::MAX), Some(n * 2 - 2));
    }
}

async fn keys_and_values_of_any_allowed_size(world: &KvWorld) {
    let kv = world.open().await;
    let sizes = [0, 1, 255, 4095, 16 << 10, (16 << 10) + 1, 128 << 10, 1 << 20, MAX_VALUE];
    let value = |n: usize| -> Bytes { (0..sizes[n]).map(|at| (at * 31 + n) as u8).collect() };
    let key = |n: usize| vec![b'k'; MAX_KEY - n];
    for n in 0..sizes.len() {
        kv.write(&[put(key(n), value(n))]).unwrap();
    }
    kv.sync().await.unwrap();
    let kv = world.crash(kv).await;
    for (n, size) in sizes.iter().enumerate() {
        assert_eq!(kv.get(&key(n)).unwrap().unwrap(), value(n), "a value of {size} bytes");
    }
    assert_eq!(kv.range(b"", END, usize::MAX).unwrap().len(), sizes.len());
    kv.write(&[put(key(0), value(8)), put(key(8), value(0)), delete(key(7))]).unwrap();
    assert_eq!(kv.get(&key(0)).unwrap().unwrap(), value(8));
    assert_eq!(kv.get(&key(8)).unwrap().unwrap(), "");
    assert_eq!(kv.get(&key(7)).unwrap(), None);
}

async fn beyond_the_limits_nothing_is_applied(world: &KvWorld) {
    let kv = world.open().await;
    kv.write(&[put("a", "1")]).unwrap();
    for bad in [put(vec![0; MAX_KEY + 1], ""), delete(vec![0; MAX_KEY + 1]), put("b", vec![0; MAX_VALUE + 1])] {
        let error = kv.write(&[put("a", "2"), bad]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    // The caller's mistake is no failure of the store.
    assert_eq!(all(&*kv), pairs(&[("a", "1")]));
    kv.write(&[put("a", "3")]).unwrap();
    kv.sync().await.unwrap();
}

async fn readers_see_whole_batches(world: &KvWorld) {
    let kv = world.open().await;
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (kv, done) = (kv.clone(), done.clone());
        async move {
            while !done.load(Ordering::Acquire) {
                let found = all(&*kv);
                assert!(found.is_empty() || found.len() == 40, "a part of a batch: {} records", found.len());
                assert!(found.windows(2).all(|two| two[0].1 == two[1].1), "parts of two batches");
                tokio::task::yield_now().await;
            }
        }
    });
    for round in 0..200_u32 {
        let batch: Vec<_> = (0..40_u32).map(|n| put(n.to_be_bytes(), round.to_be_bytes())).collect();
        kv.write(&batch).unwrap();
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::Release);
    reader.await.unwrap();
}

async fn synced_batches_survive_a_crash(world: &KvWorld) {
    let mut kv = world.open().await;
    let mut expected = Records::new();
    for round in 0..5 {
        for n in 0..20 {
            let (key, value) = (format!("{round}-{n:02}"), vec![n; 100 * usize::from(n)]);
            kv.write(&[put(&key, &value), put("gone", "1")]).unwrap();
            expected.push((key.into(), value.into()));
        }
        kv.write(&[delete("gone")]).unwrap();
        kv.sync().await.unwrap();
        kv = world.crash(kv).await;
        assert_eq!(all(&*kv), expected, "after crash {round}");
    }
}

async fn a_crash_drops_a_suffix_of_whole_batches(world: &KvWorld) {
    let mut kv = world.open().await;
    let mut durable = 0;
    for _ in 0..8 {
        for n in durable..durable + 30_u32 {
            let batch: Vec<_> =
                (0..3_u32).map(|part| put([n.to_be_bytes(), part.to_be_bytes()].concat(), vec![7; 3000])).collect();
            kv.write(&batch).unwrap();
            if n == durable + 10 {
                kv.sync().await.unwrap();
            }
        }
        kv = world.crash(kv).await;
        let found: Vec<_> = all(&*kv).into_iter().map(|(key, _)| key).collect();
        let batches = u32::try_from(found.len() / 3).unwrap();
        let whole: Vec<_> = (0..batches)
            .flat_map(|n| (0..3_u32).map(move |part| Bytes::from([n.to_be_bytes(), part.to_be_bytes()].concat())))
            .collect();
        assert_eq!(found, whole, "only whole batches, none missing in between");
        assert!(batches > durable + 10, "{batches} batches, {} were synced", durable + 11);
        durable = batches;
        kv.sync().await.unwrap();
    }
}

async fn syncs_at_the_same_time_all_return(world: &KvWorld) {
    let kv = world.open().await;
    let writers = (0..32_u32).map(|n| {
        let kv = kv.clone();
        async move {
            for round in 0..5_u32 {
                kv.write(&[put(n.to_be_bytes(), round.to_be_bytes())]).unwrap();
                kv.sync().await.unwrap();
            }
        }
    });
    join_all(writers).await;
    // Who stops waiting disturbs nobody.
    drop(kv.sync());
    let kv = world.crash(kv).await;
    let expected: Records = (0..32_u32)
        .map(|n| (Bytes::copy_from_slice(&n.to_be_bytes()), Bytes::copy_from_slice(&4_u32.to_be_bytes())))
        .collect();
    assert_eq!(all(&*kv), expected);
}

async fn a_closed_store_opens_again(world: &KvWorld) {
    let mut kv = world.open().await;
    for round in 0..3 {
        kv.write(&[put(format!("{round}"), "x")]).unwrap();
        kv.sync().await.unwrap();
        kv = world.reopen(kv).await;
        assert_eq!(all(&*kv).len(), round + 1);
    }
}

async fn it_agrees_with_a_model_through_crashes(world: &KvWorld) {
    let mut dice = Dice(1);
    let mut kv = world.open().await;
    // States after each batch since the last sync; the first one is durable.
    let mut states: Vec<BTreeMap<Vec<u8>, Vec<u8>>> = vec![BTreeMap::new()];
    for step in 0..400 {
        let mut state = states.last().cloned().unwrap_or_default();
        let mut batch = Vec::new();
        for _ in 0..dice.roll(12) {
            let key = vec![b'k'; 1 + dice.roll(3)].into_iter().chain([dice.roll(40) as u8]).collect::<Vec<u8>>();
            if dice.roll(3) == 0 {
                state.remove(&key);
                batch.push(delete(&key));
            } else {
                let largest = [10, 1000, 40_000][dice.roll(3)];
                let value = vec![step as u8; dice.roll(largest)];
                batch.push(put(&key, &value));
                state.insert(key, value);
            }
        }
        kv.write(&batch).unwrap();
        states.push(state);
        match dice.roll(20) {
            0..3 => {
                kv.sync().await.unwrap();
                states.drain(..states.len() - 1);
            }
            3 => {
                kv = world.crash(kv).await;
                let survived = model(&*kv);
                let at = states.iter().rposition(|state| *state == survived);
                assert!(at.is_some(), "step {step}: what survived is no state since the last sync");
                states = vec![survived];
                // What came back may still be unsynced in a store that counts that way.
                kv.sync().await.unwrap();
            }
            _ => check_reads(&*kv, states.last().unwrap(), &mut dice),
        }
    }
}

fn model(kv: &dyn Kv) -> BTreeMap<Vec<u8>, Vec<u8>> {
    all(kv).into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

fn check_reads(kv: &dyn Kv, state: &BTreeMap<Vec<u8>, Vec<u8>>, dice: &mut Dice) {
    let from = vec![b'k', dice.roll(128) as u8];
    let to = vec![b'k', dice.roll(128) as u8, 1];
    let inside = |key: &&Vec<u8>| **key >= from && **key < to;
    let expected: Vec<_> = state.keys().filter(inside).collect();
    let found = kv.range(&from, &to, 1000).unwrap();
    assert_eq!(found.iter().map(|(key, _)| key.to_vec()).collect::<Vec<_>>().iter().collect::<Vec<_>>(), expected);
    assert!(found.iter().all(|(key, value)| state[key.as_ref()] == *value));
    let last = kv.last(&from, &to).unwrap().map(|(key, _)| key.to_vec());
    assert_eq!(last.as_ref(), expected.last().copied());
}
