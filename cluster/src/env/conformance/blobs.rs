//! What [`Blobs`](crate::env::Blobs) promises.

use std::io::ErrorKind;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{BlobsWorld, Case, cases};

/// All cases.
#[must_use]
pub fn cases() -> Vec<Case<BlobsWorld>> {
    cases![
        what_was_put_is_read,
        ranges_are_exact,
        absence_is_told,
        names_are_checked,
        names_are_listed_in_order,
        a_put_replaces,
        a_delete_removes,
        a_put_is_durable_when_it_returns,
        a_crash_in_a_put_leaves_the_old_or_the_new,
        puts_at_the_same_time_leave_one_whole_object,
    ]
}

fn bytes(byte: u8, len: usize) -> Bytes {
    vec![byte; len].into()
}

async fn what_was_put_is_read(world: &BlobsWorld) {
    let blobs = world.open().await;
    blobs.put("empty", vec![]).await.unwrap();
    assert_eq!(blobs.len("empty").await.unwrap(), Some(0));
    assert_eq!(blobs.read("empty", 0..0).await.unwrap(), "");
    let parts = vec![Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"two")];
    blobs.put("parts", parts).await.unwrap();
    assert_eq!(blobs.read("parts", 0..6).await.unwrap(), "onetwo");
    let large: Vec<_> = (0..9).map(|n| bytes(n, 1 << 20)).collect();
    blobs.put("large", large.clone()).await.unwrap();
    assert_eq!(blobs.len("large").await.unwrap(), Some(9 << 20));
    assert_eq!(blobs.read("large", 0..9 << 20).await.unwrap(), large.concat());
}

async fn ranges_are_exact(world: &BlobsWorld) {
    let blobs = world.open().await;
    blobs.put("a", vec![Bytes::from_static(b"0123456789")]).await.unwrap();
    assert_eq!(blobs.read("a", 3..7).await.unwrap(), "3456");
    assert_eq!(blobs.read("a", 9..10).await.unwrap(), "9");
    assert_eq!(blobs.read("a", 10..10).await.unwrap(), "");
    for range in [0..11, 10..11, 11..11, 20..30, 0..u64::MAX] {
        let error = blobs.read("a", range.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{range:?}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is the case")]
    let error = blobs.read("a", 5..4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

async fn absence_is_told(world: &BlobsWorld) {
    let blobs = world.open().await;
    assert_eq!(blobs.len("a").await.unwrap(), None);
    assert_eq!(blobs.read("a", 0..0).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(blobs.list().await.unwrap(), [""; 0]);
    blobs.delete("a").await.unwrap();
}

async fn names_are_checked(world: &BlobsWorld) {
    let blobs = world.open().await;
    let longest = "x".repeat(64);
    for good in ["a", "0", "a.b", "a_b-c.0", &longest] {
        blobs.put(good, vec![]).await.unwrap();
    }
    let too_long = "x".repeat(65);
    for bad in ["", ".", "..", ".a", "-a", "A", "a/b", "../a", "a b", "ä", "a\0", &too_long] {
        let invalid = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}");
        invalid(blobs.put(bad, vec![]).await.unwrap_err());
        invalid(blobs.read(bad, 0..0).await.unwrap_err());
        invalid(blobs.len(bad).await.unwrap_err());
        invalid(blobs.delete(bad).await.unwrap_err());
    }
    assert_eq!(blobs.list().await.unwrap().len(), 5);
}

async fn names_are_listed_in_order(world: &BlobsWorld) {
    let blobs = world.open().await;
    for name in ["b", "a", "a.1", "a-1", "10", "9", "ab"] {
        blobs.put(name, vec![]).await.unwrap();
    }
    assert_eq!(blobs.list().await.unwrap(), ["10", "9", "a", "a-1", "a.1", "ab", "b"]);
}

async fn a_put_replaces(world: &BlobsWorld) {
    let blobs = world.open().await;
    for len in [100, 10, 0, 1000] {
        blobs.put("a", vec![bytes(len as u8, len)]).await.unwrap();
        assert_eq!(blobs.len("a").await.unwrap(), Some(len as u64));
        assert_eq!(blobs.read("a", 0..len as u64).await.unwrap(), bytes(len as u8, len));
    }
    assert_eq!(blobs.list().await.unwrap(), ["a"]);
}

async fn a_delete_removes(world: &BlobsWorld) {
    let blobs = world.open().await;
    blobs.put("a", vec![bytes(1, 10)]).await.unwrap();
    blobs.put("b", vec![bytes(2, 10)]).await.unwrap();
    blobs.delete("a").await.unwrap();
    assert_eq!(blobs.len("a").await.unwrap(), None);
    assert_eq!(blobs.read("a", 0..1).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(blobs.list().await.unwrap(), ["b"]);
    blobs.put("a", vec![bytes(3, 5)]).await.unwrap();
    assert_eq!(blobs.read("a", 0..5).await.unwrap(), bytes(3, 5));
    // After a crash it may be there again, but only whole.
    blobs.delete("a").await.unwrap();
    let blobs = world.crash(blobs).await;
    if let Some(len) = blobs.len("a").await.unwrap() {
        assert_eq!(blobs.read("a", 0..len).await.unwrap(), bytes(3, 5));
    }
}

async fn a_put_is_durable_when_it_returns(world: &BlobsWorld) {
    let mut blobs = world.open().await;
    for round in 0..4_u8 {
        let name = format!("{round}");
        blobs.put(&name, vec![bytes(round, 100_000)]).await.unwrap();
        blobs.put("same", vec![bytes(round, 1000)]).await.unwrap();
        blobs = world.crash(blobs).await;
        assert_eq!(blobs.read("same", 0..1000).await.unwrap(), bytes(round, 1000));
        for earlier in 0..=round {
            assert_eq!(blobs.read(&format!("{earlier}"), 0..100_000).await.unwrap(), bytes(earlier, 100_000));
        }
    }
    let blobs = world.reopen(blobs).await;
    assert_eq!(blobs.list().await.unwrap(), ["0", "1", "2", "3", "same"]);
}

async fn a_crash_in_a_put_leaves_the_old_or_the_new(world: &BlobsWorld) {
    let mut blobs = world.open().await;
    blobs.put("a", vec![bytes(0, 300_000)]).await.unwrap();
    for round in 1..10_u8 {
        let put = tokio::spawn({
            let blobs = blobs.clone();
            async move { blobs.put("a", vec![bytes(round, 300_000 + usize::from(round)); 2]).await }
        });
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        put.abort();
        // Done with it, one way or the other: the crash wants the only handle.
        let _ = put.await;
        blobs = world.crash(blobs).await;
        let len = blobs.len("a").await.unwrap().expect("neither the old nor the new");
        let found = blobs.read("a", 0..len).await.unwrap();
        let writer = found[0];
        let whole = if writer == 0 { 300_000 } else { 2 * (300_000 + usize::from(writer)) };
        assert_eq!(found, bytes(writer, whole));
        assert_eq!(blobs.list().await.unwrap(), ["a"]);
    }
}

async fn puts_at_the_same_time_leave_one_whole_object(world: &BlobsWorld) {
    let blobs = world.open().await;
    let puts = (1..9_u8).map(|n| blobs.put("a", vec![bytes(n, 50_000), bytes(n, 50_000)]));
    for result in join_all(puts).await {
        result.unwrap();
    }
    let found = blobs.read("a", 0..100_000).await.unwrap();
    assert_eq!(found, bytes(found[0], 100_000));
    assert_eq!(blobs.len("a").await.unwrap(), Some(100_000));
}
