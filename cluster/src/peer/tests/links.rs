//! Requests, answers, notices, and who is linked to whom.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::sync::{Barrier, mpsc};

use super::super::{PeerError, frame};
use super::*;

#[tokio::test(start_paused = true)]
async fn answers_and_reasons_come_back() {
    let net = MemNet::default();
    let answer = handler(|from, kind, body: Bytes| async move {
        if body.is_empty() { Err("nothing to say".into()) } else { Ok(format!("{from} {} {body:?}", kind.0).into()) }
    });
    let (a, _b) = pair(&net, answer).await;
    assert_eq!(a.ask(B, "hi").await.unwrap(), format!("{A} 100 b\"hi\""));
    assert_eq!(a.ask(B, "").await, Err(PeerError::Remote("nothing to say".into())));
    assert_eq!(a.ask(C, "hi").await, Err(PeerError::Unknown(C)));
    assert_eq!(a.ask(A, "hi").await, Err(PeerError::Unknown(A)));
    let huge = Bytes::from(vec![0; frame::MAX_PAYLOAD + 1]);
    assert_eq!(a.peers.request(B, ASK, huge, LONG).await, Err(PeerError::TooLarge(frame::MAX_PAYLOAD + 1)));
}

#[tokio::test(start_paused = true)]
async fn large_and_small_bodies_arrive_whole() {
    let net = MemNet::default();
    let (a, _b) = pair(&net, echo()).await;
    let sizes = [0, 1, 65_535, 65_536, 65_537, 1 << 20, 5 << 20];
    let bodies = sizes.map(|size| (0..size).map(|at| (at * 7 % 251) as u8).collect::<Bytes>());
    let asks = bodies.iter().map(|body| a.peers.request(B, ASK, body.clone(), LONG));
    for (answer, body) in join_all(asks).await.into_iter().zip(&bodies) {
        assert!(answer.unwrap() == *body, "a body of {} bytes came back changed", body.len());
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_pipelined_and_answers_find_their_own() {
    const REQUESTS: usize = 500;
    let net = MemNet::default();
    // No answer goes out before all requests are in.
    let all_in = Arc::new(Barrier::new(REQUESTS));
    let answer = handler(move |_, _, body| {
        let all_in = all_in.clone();
        async move {
            all_in.wait().await;
            Ok(body)
        }
    });
    let (a, _b) = pair(&net, answer).await;
    let asks = (0..REQUESTS).map(|n| a.peers.request(B, ASK, n.to_string().into(), LONG));
    for (n, answer) in join_all(asks).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), n.to_string());
    }
    assert_eq!(a.peers.links()[0].pending, 0);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_kept_and_a_late_answer_harms_nobody() {
    let net = MemNet::default();
    let answer = handler(|_, _, body: Bytes| async move {
        if body == "slow" {
            clock::sleep(Duration::from_secs(2)).await;
        }
        Ok(body)
    });
    let (a, _b) = pair(&net, answer).await;
    let began = clock::now();
    let slow = a.peers.request(B, ASK, "slow".into(), Duration::from_millis(700)).await;
    assert_eq!(slow, Err(PeerError::Deadline));
    assert!((700..750).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(a.peers.links()[0].pending, 0);
    clock::sleep(Duration::from_secs(3)).await;
    assert_eq!(a.ask(B, "quick").await.unwrap(), "quick");
    assert_eq!(net.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_leaves_nothing_behind() {
    let net = MemNet::default();
    let (a, _b) = pair(&net, handler(|_, _, _| std::future::pending())).await;
    let asked = clock::timeout(Duration::from_millis(10), a.ask(B, "never")).await;
    assert_eq!(asked, Err(clock::Elapsed));
    assert_eq!(a.peers.links()[0].pending, 0);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_handler_answers_so_and_harms_no_other() {
    let net = MemNet::default();
    let answer = handler(|_, _, body: Bytes| async move {
        assert!(body != "boom", "as asked");
        Ok(body)
    });
    let (a, _b) = pair(&net, answer).await;
    assert_eq!(a.ask(B, "boom").await, Err(PeerError::Remote("the handler failed".into())));
    let in_order = a.peers.request(B, Kind::APPEND, "boom".into(), LONG).await;
    assert_eq!(in_order, Err(PeerError::Remote("the handler failed".into())));
    assert_eq!(a.peers.request(B, Kind::APPEND, "still".into(), LONG).await.unwrap(), "still");
    assert_eq!(a.ask(B, "here").await.unwrap(), "here");
}

#[tokio::test(start_paused = true)]
async fn notices_arrive_and_are_dropped_without_a_link() {
    let net = MemNet::default();
    let (heard, mut notices) = mpsc::unbounded_channel();
    let (a, b) = pair(
        &net,
        handler(move |from, kind, body| {
            heard.send((from, kind, body)).unwrap();
            async { Ok("nobody wants this".into()) }
        }),
    )
    .await;
    a.peers.notify(B, Kind::DELIVERED, "news".into());
    assert_eq!(notices.recv().await.unwrap(), (A, Kind::DELIVERED, Bytes::from("news")));
    a.peers.notify(C, Kind::DELIVERED, "to nobody".into());
    b.peers.close();
    a.until(is_refused).await;
    a.peers.notify(B, Kind::DELIVERED, "into the void".into());
    assert!(notices.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_link_stays() {
    let net = MemNet::default();
    let (a, _b) = pair(&net, echo()).await;
    let changes = a.peers.changes();
    clock::sleep(Duration::from_secs(120)).await;
    assert!(!changes.has_changed().unwrap());
    assert_eq!(net.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn addresses_decide_who_is_linked() {
    let net = MemNet::default();
    let (a, b) = pair(&net, handler(|_, _, _| std::future::pending())).await;
    let c = node(&net, C, echo()).await;
    let others = [(A, a.addr), (C, c.addr)];
    let (asked, ()) = tokio::join!(a.ask(B, "hi"), a.link_to(&others));
    assert_eq!(asked, Err(PeerError::Closed));
    assert_eq!(a.ask(B, "hi").await, Err(PeerError::Unknown(B)));
    assert_eq!(a.ask(C, "hi").await.unwrap(), "hi");
    assert_eq!(a.peers.links().iter().map(|link| link.node).collect::<Vec<_>>(), [C]);
    // The same again changes nothing.
    let changes = a.peers.changes();
    a.dial(&[(C, c.addr)]);
    assert_eq!(a.ask(C, "again").await.unwrap(), "again");
    assert!(!changes.has_changed().unwrap());
    // C listens elsewhere too: the link moves there, though nothing is wrong with the old one.
    let elsewhere = c.peers.listen("127.0.0.1:0", echo()).await.unwrap();
    assert_eq!((net.streams(c.addr), net.streams(elsewhere)), (1, 0));
    a.link_to(&[(C, elsewhere)]).await;
    assert_eq!(a.ask(C, "there").await.unwrap(), "there");
    assert_eq!((net.streams(c.addr), net.streams(elsewhere)), (0, 1));
    let dials = net.dials();
    clock::sleep(Duration::from_secs(10)).await;
    assert_eq!(net.dials(), dials, "the old link is gone for good");
    // C moves.
    c.peers.close();
    a.until(is_refused).await;
    let c = node(&net, C, echo()).await;
    a.link_to(&[(C, c.addr)]).await;
    assert_eq!(a.ask(C, "moved").await.unwrap(), "moved");
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn close_ends_everything() {
    let net = MemNet::default();
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let (a, b) = pair(
        &net,
        handler(move |_, _, _| {
            count.fetch_add(1, Ordering::SeqCst);
            std::future::pending()
        }),
    )
    .await;
    b.link_to(&[(A, a.addr)]).await;
    let closing = async {
        while handled.load(Ordering::SeqCst) == 0 {
            clock::sleep(Duration::from_millis(1)).await;
        }
        a.peers.close();
    };
    let (asked, ()) = tokio::join!(a.ask(B, "hi"), closing);
    assert_eq!(asked, Err(PeerError::Closed));
    assert_eq!(a.ask(B, "hi").await, Err(PeerError::Unknown(B)));
    b.until(is_refused).await;
    a.dial(&[(B, b.addr)]);
    assert!(a.peers.links().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_ends_everything() {
    let net = MemNet::default();
    let (a, b) = pair(&net, echo()).await;
    b.link_to(&[(A, a.addr)]).await;
    let clone = a.peers.clone();
    drop(a);
    assert_eq!(clone.request(B, ASK, "hi".into(), LONG).await.unwrap(), "hi");
    drop(clone);
    b.until(is_refused).await;
}
