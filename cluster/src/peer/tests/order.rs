//! APPENDs keep their order, on real threads.

use std::sync::Mutex;

use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::*;

const APPENDS: u32 = 5_000;

/// As Raft's core does: each handler hands its request to one small queue, then waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_reach_a_queue_behind_the_handler_in_order() {
    let net = MemNet::default();
    let (queue, mut taken) = mpsc::channel::<(u32, tokio::sync::oneshot::Sender<()>)>(4);
    let core = tokio::spawn(async move {
        let mut order = Vec::new();
        while let Some((number, done)) = taken.recv().await {
            order.push(number);
            let _ = done.send(());
            if order.len() == APPENDS as usize {
                break;
            }
        }
        order
    });
    let append = handler(move |_, _, body: Bytes| {
        let queue = queue.clone();
        async move {
            let (done, finished) = tokio::sync::oneshot::channel();
            let number = u32::from_be_bytes(body[..].try_into().unwrap());
            queue.send((number, done)).await.map_err(|error| error.to_string())?;
            finished.await.map_err(|error| error.to_string())?;
            Ok(body)
        }
    });
    let (a, _b) = pair(&net, append).await;
    let asks = (0..APPENDS).map(|n| a.peers.request(B, Kind::APPEND, n.to_be_bytes().to_vec().into(), LONG));
    for (n, answer) in (0..).zip(join_all(asks).await) {
        assert_eq!(answer.unwrap(), u32::to_be_bytes(n)[..]);
    }
    let order = core.await.unwrap();
    assert!(order.iter().copied().eq(0..APPENDS), "out of order: {order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_start_in_order_and_overtake_each_other_only_later() {
    let net = MemNet::default();
    let started = Arc::new(Mutex::new(Vec::new()));
    let starts = started.clone();
    let append = handler(move |_, _, body: Bytes| {
        let starts = starts.clone();
        async move {
            let number = u32::from_be_bytes(body[..].try_into().unwrap());
            starts.lock().unwrap().push(number);
            for _ in 0..number % 5 {
                tokio::task::yield_now().await;
            }
            Ok(body)
        }
    });
    let (a, _b) = pair(&net, append).await;
    let asks = (0..APPENDS).map(|n| a.peers.request(B, Kind::APPEND, n.to_be_bytes().to_vec().into(), LONG));
    assert!(join_all(asks).await.iter().all(Result::is_ok));
    assert!(started.lock().unwrap().iter().copied().eq(0..APPENDS));
}
