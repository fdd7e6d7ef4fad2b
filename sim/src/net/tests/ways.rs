//! Ways that are cut, slow, lossy or narrow, and boxes on them that break streams.

use std::cell::Cell;

use super::*;
use crate::net::Weakness;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn connecting_hangs_whichever_way_is_cut() {
    under_seeds(async |two: Two| {
        for (from, to) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
            two.network.set_way(from, to, Weakness::Cut, true);
            assert!(within(HOUR, two.client.connect(&two.addr)).await.is_none(), "from {from} to {to}");
            two.network.set_way(from, to, Weakness::Cut, false);
            within(SOON, two.client.connect(&two.addr)).await.expect("an answer").unwrap();
        }
    });
}

#[test]
fn where_requests_to_connect_get_lost_open_streams_go_on() {
    under_seeds(async |mut two: Two| {
        let (mut client, mut server) = two.pair().await;
        two.network.set_way(CLIENT, SERVER, Weakness::HangingConnects, true);
        assert!(within(HOUR, two.client.connect(&two.addr)).await.is_none());
        assert!(pass(&mut client, &mut server).await < SOON);
        two.network.set_way(CLIENT, SERVER, Weakness::HangingConnects, false);
        within(SOON, two.client.connect(&two.addr)).await.expect("an answer").unwrap();
    });
}

#[test]
fn what_a_short_cut_held_back_comes_after_it() {
    under_seeds(async |mut two: Two| {
        let (mut client, mut server) = two.pair().await;
        two.network.set_way(CLIENT, SERVER, Weakness::Cut, true);
        client.write_all(b"held").await.unwrap();
        assert!(is_silent(&mut server, SECOND).await);
        two.network.set_way(CLIENT, SERVER, Weakness::Cut, false);
        let mut got = [0; 4];
        let (took, read) = timed(server.read_exact(&mut got)).await;
        read.unwrap();
        assert_eq!(&got, b"held");
        // TCP's pauses double, so the last one was no longer than the cut.
        assert!(took >= Duration::from_millis(1) && took <= SECOND + SOON, "{took:?}");
        assert!(pass(&mut client, &mut server).await < SOON, "the stream goes on");
        assert!(pass(&mut server, &mut client).await < SOON);
    });
}

#[test]
fn a_stream_dies_of_a_cut_that_outlasts_its_user_timeout() {
    under_seeds(async |mut two: Two| {
        let patience = Duration::from_secs(5);
        let (mut client, mut server) = two.pair().await;
        client.set_user_timeout(patience).unwrap();
        two.network.set_way(CLIENT, SERVER, Weakness::Cut, true);
        assert!(is_silent(&mut client, HOUR).await, "nothing waits for an answer");
        client.write_all(b"x").await.unwrap();
        let (took, failed) = timed(failure(&mut client, HOUR)).await;
        assert_eq!(failed, ErrorKind::TimedOut);
        assert!(is_about(took, patience), "{took:?}");
        assert!(is_silent(&mut server, HOUR).await, "the other end does not know");
        two.network.set_way(CLIENT, SERVER, Weakness::Cut, false);
        assert_eq!(failure(&mut client, SOON).await, ErrorKind::TimedOut, "for good");
        assert!(client.write_all(b"x").await.is_err());
    });
}

#[test]
fn a_way_that_is_cut_leaves_the_way_back() {
    under_seeds(async |mut two: Two| {
        let (mut client, mut server) = two.pair().await;
        two.network.set_way(CLIENT, SERVER, Weakness::Cut, true);
        client.write_all(b"x").await.unwrap();
        for _ in 0..10 {
            assert!(pass(&mut server, &mut client).await < SOON);
        }
        assert!(is_silent(&mut server, HOUR).await);
    });
}

#[test]
fn each_way_has_a_latency_of_its_own() {
    let unlike = Cell::new(0);
    under_seeds(async |mut two: Two| {
        let (mut client, mut server) = two.pair().await;
        let (mut there, mut back) = (SECOND, SECOND);
        for _ in 0..50 {
            there = there.min(pass(&mut client, &mut server).await);
            back = back.min(pass(&mut server, &mut client).await);
        }
        for least in [there, back] {
            assert!(least >= Duration::from_micros(100) && least <= Duration::from_millis(1), "{least:?}");
        }
        unlike.set(unlike.get() + u64::from(there.abs_diff(back) > Duration::from_micros(20)));
    });
    assert!(unlike.get() > SEEDS / 2, "{} of {SEEDS}", unlike.get());
}

#[test]
fn on_a_slow_way_streams_overtake_each_other_and_bytes_do_not() {
    under_seeds(async |mut two: Two| {
        let (mut first, mut first_server) = two.pair().await;
        let (mut second, mut second_server) = two.pair().await;
        two.network.set_way(CLIENT, SERVER, Weakness::SlowMs(400), true);
        let (mut overtaken, mut slowest) = (0, Duration::ZERO);
        for _ in 0..30 {
            let one = pass(&mut first, &mut first_server);
            let (one, other) = tokio::join!(one, pass(&mut second, &mut second_server));
            overtaken += usize::from(other < one);
            slowest = slowest.max(one).max(other);
        }
        assert!((1..30).contains(&overtaken), "the second came first {overtaken} times");
        assert!(slowest > Duration::from_millis(100) && slowest < Duration::from_millis(400) + SOON, "{slowest:?}");
        let sent = bytes(100);
        for byte in &sent {
            first.write_u8(*byte).await.unwrap();
        }
        let mut got = vec![0; sent.len()];
        first_server.read_exact(&mut got).await.unwrap();
        assert_eq!(got, sent, "in order");
        assert!(pass(&mut first_server, &mut first).await < SOON, "the way back is not slow");
    });
}

#[test]
fn what_is_lost_comes_later_and_nothing_is_missing() {
    under_seeds(async |mut two: Two| {
        let (mut client, mut server) = two.pair().await;
        two.network.set_way(CLIENT, SERVER, Weakness::LossPercent(30), true);
        let mut late = 0;
        for _ in 0..200 {
            // TCP's first pause.
            late += usize::from(pass(&mut client, &mut server).await >= Duration::from_millis(200));
        }
        assert!((20..100).contains(&late), "{late} of 200");
        let sent = bytes(100_000);
        let mut got = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(client.write_all(&sent), server.read_exact(&mut got));
        wrote.unwrap();
        read.unwrap();
        assert_eq!(got, sent);
    });
}

#[test]
fn a_narrow_way_holds_the_writer_back() {
    under_seeds(async |mut two: Two| {
        let (mut client, mut server) = two.pair().await;
        two.network.set_way(CLIENT, SERVER, Weakness::KibPerS(64), true);
        let sent = bytes(1 << 20);
        let mut got = vec![0; sent.len()];
        let writing = timed(client.write_all(&sent));
        let reading = timed(server.read_exact(&mut got));
        let ((wrote_for, wrote), (read_for, read)) = tokio::join!(writing, reading);
        wrote.unwrap();
        read.unwrap();
        assert_eq!(got, sent);
        // 1 MiB at 64 KiB a second, of which two seconds' worth is in buffers when the writer is done.
        assert!(read_for >= 16 * SECOND && read_for < 18 * SECOND, "{read_for:?}");
        assert!(wrote_for >= 13 * SECOND && wrote_for < read_for, "{wrote_for:?}");
    });
}

#[test]
fn a_box_that_resets_streams_tells_both_ends() {
    under_seeds(async |mut two: Two| {
        let (mut client, mut server) = two.pair().await;
        two.network.reset_between(CLIENT, SERVER);
        assert_eq!(failure(&mut client, SOON).await, ErrorKind::ConnectionReset);
        assert_eq!(failure(&mut server, SOON).await, ErrorKind::ConnectionReset);
        let (mut client, mut server) = two.pair().await;
        assert!(pass(&mut client, &mut server).await < SOON, "new ones work");
    });
}

#[test]
fn a_box_that_forgets_streams_tells_nobody() {
    under_seeds(async |mut two: Two| {
        let (mut client, mut server) = two.pair().await;
        two.network.forget_between(CLIENT, SERVER);
        client.write_all(b"x").await.unwrap();
        server.write_all(b"x").await.unwrap();
        assert!(is_silent(&mut client, HOUR).await && is_silent(&mut server, HOUR).await);
        drop(client);
        assert!(is_silent(&mut server, HOUR).await, "not even of the end");
        let (mut client, mut server) = two.pair().await;
        assert!(pass(&mut client, &mut server).await < SOON, "new ones work");
    });
}
