//! Every queue has an end, and what happens there.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::super::PeerError;
use super::super::limits::{MAX_HANDLER_BYTES, MAX_HANDLERS, MAX_NOTIFIES, MAX_PENDING, MAX_PENDING_BYTES};
use super::*;

/// A handler that counts the requests it has and answers as permits are given.
#[derive(Clone)]
struct Gate {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    total: Arc<AtomicUsize>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { running: Arc::default(), most: Arc::default(), total: Arc::default(), open: Arc::new(Semaphore::new(0)) }
    }

    fn handler(&self) -> Arc<dyn Handler> {
        let gate = self.clone();
        handler(move |_, _, body| {
            let gate = gate.clone();
            async move {
                gate.total.fetch_add(1, Ordering::SeqCst);
                gate.most.fetch_max(gate.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                gate.open.acquire().await.unwrap().forget();
                gate.running.fetch_sub(1, Ordering::SeqCst);
                Ok(body)
            }
        })
    }

    fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }
}

/// Long enough for everything to be as stuck as it gets, and for silence to be noticed.
const SETTLE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_node_has_so_many_handlers_and_no_more() {
    let net = MemNet::default();
    let gate = Gate::new();
    let (a, b) = pair(&net, gate.handler()).await;
    let c = node(&net, C, echo()).await;
    c.link_to(&[(B, b.addr)]).await;
    let asks = (0..MAX_HANDLERS + 500).map(|n| a.peers.request(B, ASK, n.to_string().into(), LONG));
    let opening = async {
        clock::sleep(SETTLE).await;
        assert_eq!(gate.running(), MAX_HANDLERS);
        // Another node is served as ever.
        let asking = clock::timeout(Duration::from_secs(1), c.ask(B, "mine"));
        let serving = async {
            clock::sleep(Duration::from_millis(100)).await;
            gate.running()
        };
        assert_eq!(tokio::join!(asking, serving), (Err(clock::Elapsed), MAX_HANDLERS + 1));
        gate.open.add_permits(MAX_HANDLERS * 2);
    };
    let (answers, ()) = tokio::join!(join_all(asks), opening);
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), n.to_string());
    }
    assert_eq!(gate.most.load(Ordering::SeqCst), MAX_HANDLERS + 1);
    assert_eq!(net.dials(), 2, "a link that is not read for a while stays alive");
}

#[tokio::test(start_paused = true)]
async fn handlers_are_bounded_by_bytes_too() {
    let net = MemNet::default();
    let gate = Gate::new();
    let (a, _b) = pair(&net, gate.handler()).await;
    let body = Bytes::from(vec![3; MAX_HANDLER_BYTES / 4]);
    // Not together, or the requester's own bound would hold them back.
    let late = clock::timeout(SETTLE / 2, join_all((0..3).map(|_| a.peers.request(B, ASK, body.clone(), LONG))));
    assert!(late.await.is_err());
    let asks = join_all((0..4).map(|_| a.peers.request(B, ASK, body.clone(), LONG)));
    let opening = async {
        clock::sleep(SETTLE).await;
        assert_eq!(gate.running(), 4);
        gate.open.add_permits(MAX_HANDLERS);
    };
    let (answers, ()) = tokio::join!(asks, opening);
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(gate.total.load(Ordering::SeqCst), 7);
}

#[tokio::test(start_paused = true)]
async fn handlers_of_a_dead_link_count_for_the_next_one() {
    let net = MemNet::default();
    let gate = Gate::new();
    let (a, b) = pair(&net, gate.handler()).await;
    for _ in 0..3 {
        let asks = join_all((0..MAX_HANDLERS / 2).map(|_| a.ask(B, "hi")));
        let cutting = async {
            clock::sleep(SETTLE).await;
            net.cut(b.addr);
        };
        let (answers, ()) = tokio::join!(asks, cutting);
        assert!(answers.iter().all(|answer| *answer == Err(PeerError::Closed)));
        a.until(is_connected).await;
    }
    assert_eq!(gate.running(), MAX_HANDLERS);
    gate.open.add_permits(MAX_HANDLERS * 2);
    assert_eq!(a.ask(B, "at last").await.unwrap(), "at last");
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_room_within_their_deadline() {
    let net = MemNet::default();
    let gate = Gate::new();
    let (a, _b) = pair(&net, gate.handler()).await;
    let asks = join_all((0..MAX_PENDING + 10).map(|_| a.ask(B, "hi")));
    let watching = async {
        clock::sleep(SETTLE).await;
        assert_eq!(a.peers.links()[0].pending, MAX_PENDING);
        let began = clock::now();
        let asked = a.peers.request(B, ASK, "impatient".into(), Duration::from_secs(1)).await;
        assert_eq!(asked, Err(PeerError::Deadline));
        assert!((1000..1050).contains(&began.elapsed().as_millis()));
        gate.open.add_permits(MAX_PENDING * 2);
    };
    let (answers, ()) = tokio::join!(asks, watching);
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(gate.total.load(Ordering::SeqCst), MAX_PENDING + 10, "the impatient one was never sent");
    assert_eq!(a.peers.links()[0].pending, 0);
}

#[tokio::test(start_paused = true)]
async fn requests_are_bounded_by_bytes_too_and_expired_ones_still_count_while_queued() {
    const PIECE: usize = 1 << 20;
    let net = MemNet::default();
    let (a, b) = pair(&net, echo()).await;
    net.freeze(b.addr, true);
    let body = Bytes::from(vec![5; PIECE]);
    let short = Duration::from_millis(400);
    for _ in 0..3 {
        let asks = (0..MAX_PENDING_BYTES / PIECE).map(|_| a.peers.request(B, ASK, body.clone(), short));
        assert!(join_all(asks).await.iter().all(|answer| *answer == Err(PeerError::Deadline)));
        assert_eq!(a.peers.links()[0].pending, MAX_PENDING_BYTES / PIECE);
    }
    net.freeze(b.addr, false);
    assert_eq!(a.ask(B, "through").await.unwrap(), "through");
    assert_eq!(net.dials(), 1);
    assert_eq!(a.peers.links()[0].pending, 0);
}

#[tokio::test(start_paused = true)]
async fn notices_are_dropped_where_they_pile_up() {
    let net = MemNet::default();
    let gate = Gate::new();
    let (a, b) = pair(&net, gate.handler()).await;
    gate.open.add_permits(MAX_NOTIFIES * 4);
    net.freeze(b.addr, true);
    let taken = (0..MAX_NOTIFIES * 3).filter(|_| a.peers.notify(B, Kind::DELIVERED, "news".into())).count();
    assert_eq!(taken, MAX_NOTIFIES);
    clock::sleep(Duration::from_millis(300)).await;
    assert!(a.peers.links()[0].queued <= MAX_NOTIFIES + 1);
    let asking = async { a.ask(B, "urgent").await };
    let thawing = async {
        clock::sleep(Duration::from_millis(100)).await;
        net.freeze(b.addr, false);
    };
    assert_eq!(tokio::join!(asking, thawing).0.unwrap(), "urgent");
    let handled = gate.total.load(Ordering::SeqCst);
    assert!((2..=MAX_NOTIFIES + 1).contains(&handled), "{handled}");
}

#[tokio::test(start_paused = true)]
async fn a_busy_node_drops_notices_rather_than_wait_for_room() {
    let net = MemNet::default();
    let gate = Gate::new();
    let (a, _b) = pair(&net, gate.handler()).await;
    let asks = join_all((0..MAX_HANDLERS).map(|_| a.ask(B, "hi")));
    let telling = async {
        clock::sleep(SETTLE).await;
        a.peers.notify(B, Kind::DELIVERED, "news".into());
        clock::sleep(SETTLE).await;
        gate.open.add_permits(MAX_HANDLERS * 2);
    };
    let (answers, ()) = tokio::join!(asks, telling);
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(a.ask(B, "next").await.unwrap(), "next");
    assert_eq!(gate.total.load(Ordering::SeqCst), MAX_HANDLERS + 1, "the notice was dropped");
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_delays_nobody_else() {
    let net = MemNet::default();
    let slow = handler(|_, _, body: Bytes| async move {
        if body == "slow" {
            clock::sleep(Duration::from_secs(60)).await;
        }
        Ok(body)
    });
    let (a, _b) = pair(&net, slow).await;
    let began = clock::now();
    let quick = async {
        for kind in [ASK, Kind::APPEND] {
            for _ in 0..100 {
                a.peers.request(B, kind, "quick".into(), LONG).await.unwrap();
            }
        }
        began.elapsed()
    };
    let append = a.peers.request(B, Kind::APPEND, "slow".into(), LONG);
    let (ask, append, took) = tokio::join!(a.ask(B, "slow"), append, quick);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(ask.is_ok() && append.is_ok() && began.elapsed() >= Duration::from_secs(60));
}
