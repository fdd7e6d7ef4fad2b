//! Links that die, and how they come back.

use tokio::sync::mpsc;

use super::super::limits::{PING_EVERY, SILENT_TICKS};
use super::super::{PeerError, greet};
use super::*;
use crate::env::Net;

/// A handler that tells when it has begun, and never answers.
fn silent() -> (Arc<dyn Handler>, mpsc::UnboundedReceiver<Bytes>) {
    let (began, begun) = mpsc::unbounded_channel();
    let never = handler(move |_, _, body| {
        began.send(body).unwrap();
        std::future::pending()
    });
    (never, begun)
}

#[tokio::test(start_paused = true)]
async fn a_link_killed_in_the_middle_of_a_request_fails_it_at_once() {
    let net = MemNet::default();
    let (never, mut begun) = silent();
    let (a, b) = pair(&net, never).await;
    let killing = async {
        begun.recv().await.unwrap();
        net.cut(b.addr);
        clock::now()
    };
    let (asked, killed) = tokio::join!(a.ask(B, "hi"), killing);
    assert_eq!(asked, Err(PeerError::Closed));
    assert!(killed.elapsed() < Duration::from_millis(10), "{:?}", killed.elapsed());
    assert_eq!(a.ask(B, "hi").await, Err(PeerError::Down));
    a.until(is_connected).await;
    assert!(killed.elapsed() < Duration::from_millis(50), "{:?}", killed.elapsed());
    assert_eq!(net.dials(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dead_process_shows_as_refused_and_is_found_again() {
    let net = MemNet::default();
    let (a, b) = pair(&net, echo()).await;
    let killed = clock::now();
    b.peers.close();
    a.until(is_refused).await;
    assert!(killed.elapsed() < Duration::from_millis(50), "evidence took {:?}", killed.elapsed());
    let first = a.states();
    let [LinkState::Down { since, .. }] = first[..] else { panic!("{first:?}") };
    assert!(since >= killed);

    let changes = a.peers.changes();
    clock::sleep(Duration::from_secs(30)).await;
    assert_eq!(a.states(), first, "a row of refusals keeps its beginning");
    assert!(!changes.has_changed().unwrap());
    assert!((20..60).contains(&net.dials()), "{} attempts in 30 s", net.dials());

    let b = node_at(&net, B, &b.addr.to_string(), echo()).await;
    a.until(is_connected).await;
    assert_eq!(a.ask(B, "back").await.unwrap(), "back");
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_is_dialed_at_once() {
    let net = MemNet::default();
    let (a, b) = pair(&net, echo()).await;
    b.peers.close();
    a.until(is_refused).await;
    // Long enough for the delays to have grown to their limit, at a moment between attempts.
    clock::sleep(Duration::from_secs(30)).await;
    let attempts = net.dials();
    while net.dials() == attempts {
        clock::sleep(Duration::from_millis(5)).await;
    }
    let b = node_at(&net, B, &b.addr.to_string(), echo()).await;
    let back = clock::now();
    b.link_to(&[(A, a.addr)]).await;
    a.until(is_connected).await;
    assert!(back.elapsed() < Duration::from_millis(50), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn links_that_never_last_are_dialed_ever_more_slowly() {
    let net = MemNet::default();
    let a = node(&net, A, echo()).await;
    let mut listener = net.listen("127.0.0.1:0").await.unwrap();
    a.dial(&[(B, listener.local_addr())]);
    let dropping = async {
        loop {
            let mut conn = listener.accept().await.unwrap();
            greet::accept(&mut conn, &secret(), B, |_| Ok(())).await.unwrap();
        }
    };
    assert!(clock::timeout(Duration::from_secs(30), dropping).await.is_err());
    assert!((20..60).contains(&net.dials()), "{} attempts in 30 s", net.dials());
}

#[tokio::test(start_paused = true)]
async fn silence_is_death() {
    let net = MemNet::default();
    let (never, mut begun) = silent();
    let (a, b) = pair(&net, never).await;
    let asking = a.ask(B, "hi");
    let freezing = async {
        begun.recv().await.unwrap();
        net.hang(b.addr, true);
        net.freeze(b.addr, true);
        clock::now()
    };
    let (asked, frozen) = tokio::join!(asking, freezing);
    assert_eq!(asked, Err(PeerError::Closed));
    let (least, most) = (PING_EVERY * (SILENT_TICKS - 1), PING_EVERY * (SILENT_TICKS + 1));
    assert!((least..=most).contains(&frozen.elapsed()), "{:?}", frozen.elapsed());
    // A network that swallows everything is no evidence of a dead process.
    a.until(is_down_not_refused).await;
    clock::sleep(Duration::from_secs(10)).await;
    assert!(is_down_not_refused(&a.states()), "{:?}", a.states());
    net.hang(b.addr, false);
    a.until(is_connected).await;
}

#[tokio::test(start_paused = true)]
async fn a_network_that_hangs_for_less_than_the_limit_loses_nothing() {
    let net = MemNet::default();
    let (a, b) = pair(&net, echo()).await;
    net.freeze(b.addr, true);
    let thawing = async {
        clock::sleep(PING_EVERY * (SILENT_TICKS - 2)).await;
        net.freeze(b.addr, false);
    };
    let (asked, ()) = tokio::join!(a.ask(B, "patience"), thawing);
    assert_eq!(asked.unwrap(), "patience");
    assert_eq!(net.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn refused_is_told_apart_from_hanging_also_when_one_follows_the_other() {
    let net = MemNet::default();
    let (a, b) = pair(&net, echo()).await;
    b.peers.close();
    a.until(is_refused).await;
    net.hang(b.addr, true);
    a.until(is_down_not_refused).await;
    let hanging = clock::now();
    net.hang(b.addr, false);
    a.until(is_refused).await;
    let states = a.states();
    let [LinkState::Down { since, .. }] = states[..] else { panic!("{states:?}") };
    assert!(since >= hanging, "the row of refusals began anew");
}

#[tokio::test(start_paused = true)]
async fn requests_that_expired_in_the_queue_are_never_sent() {
    let net = MemNet::default();
    let (heard, mut bodies) = mpsc::unbounded_channel();
    let (a, b) = pair(
        &net,
        handler(move |_, _, body| {
            heard.send(body).unwrap();
            async { Ok(Bytes::new()) }
        }),
    )
    .await;
    net.freeze(b.addr, true);
    // The first fills the stream, so the second has to queue behind it.
    let filler = Bytes::from(vec![1; 1 << 20]);
    let short = Duration::from_millis(100);
    let asks = tokio::join!(
        a.peers.request(B, ASK, filler.clone(), LONG),
        async {
            clock::sleep(Duration::from_millis(10)).await;
            a.peers.request(B, ASK, "expired".into(), short).await
        },
        async {
            clock::sleep(Duration::from_millis(500)).await;
            net.freeze(b.addr, false);
            a.peers.request(B, ASK, "last".into(), LONG).await
        }
    );
    assert_eq!(asks, (Ok(Bytes::new()), Err(PeerError::Deadline), Ok(Bytes::new())));
    assert_eq!(bodies.recv().await.unwrap(), filler);
    assert_eq!(bodies.recv().await.unwrap(), "last");
    assert!(bodies.try_recv().is_err());
}
