//! No number of clients takes from a node the file handles that it needs itself: without them it could
//! not write a checkpoint, and would have to end.

use im_gateway::env::RESERVED_FILES;
use tokio::net::TcpStream;

use crate::common::raw::{Got, Raw};
use crate::common::{Options, TestCluster, eventually, http, token};

/// What is left for clients: an eighth for HTTP, the rest for WebSockets.
const STREAMS: usize = 64;
const HTTP: usize = STREAMS / 8;

#[tokio::test]
async fn clients_are_bounded_by_what_the_system_allows() {
    let files = RESERVED_FILES + STREAMS as u64;
    let cluster = TestCluster::start_with(1, Options { files: Some(files), ..Options::default() }).await;
    let addr = cluster.addr(0);
    let own = cluster.open_files(0);
    let mut inside = Vec::new();
    // More than all handles that the process may have.
    for n in 0..files {
        let mut raw = Raw::open(&addr).await;
        raw.hello(&format!("user-{n}"), "phone").await;
        match raw.next().await {
            Got::Frame(frame) => {
                assert!(frame["welcome"].is_object(), "{frame}");
                inside.push(raw);
            }
            other => assert_eq!(other, Got::Closed(1013)),
        }
    }
    assert_eq!(inside.len(), STREAMS - HTTP);
    // Nor do those count for nothing that never become a WebSocket.
    let mut mute = Vec::new();
    for _ in 0..4 * HTTP {
        mute.push(TcpStream::connect(&addr).await.expect("the system takes it"));
    }
    eventually("no more HTTP connections", async || cluster.log(0).contains("no more HTTP connections").then_some(()))
        .await;
    let open = cluster.open_files(0);
    assert!(open <= own + STREAMS + 32, "{open} files are open, {own} of the node's own");
    // They keep nobody out: who asks nothing gives way.
    assert_eq!(http::get(&addr, "/ready").await.expect("an answer").status, 200);
    let overload = cluster.metric(0, "im_gateway_connection_errors_total", "overload").await.expect("metrics");
    assert!(overload >= (4 * HTTP - HTTP) as f64, "{overload} were ended for others");
    drop(mute);
    cluster.logged(0, "the limit on open files allows fewer").await;
    cluster.logged(0, "no more connections").await;
    let log = cluster.log(0);
    assert!(!log.contains("accept_failed"), "{log}");
    // A place that is given back is given to the next.
    inside.pop().expect("somebody is there").leave().await;
    eventually("the place is free", async || {
        let mut raw = Raw::open(&addr).await;
        raw.hello("next", "phone").await;
        matches!(raw.next().await, Got::Frame(_)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_says_no_hello_keeps_nobody_out() {
    let files = RESERVED_FILES + STREAMS as u64;
    let limits = "hello_timeout_ms = 600000".into();
    let cluster = TestCluster::start_with(1, Options { files: Some(files), limits, ..Options::default() }).await;
    let addr = cluster.addr(0);
    // A token in the head is no hello: one user with one of them could take every place.
    let token = token("mallory");
    let mut silent = Vec::new();
    for _ in 0..STREAMS - HTTP {
        silent.push(Raw::open_with(&addr, &token).await);
    }
    eventually("a newcomer is let in", async || {
        let mut raw = Raw::open(&addr).await;
        raw.hello("alice", "phone").await;
        matches!(raw.next().await, Got::Frame(_)).then_some(())
    })
    .await;
    assert_eq!(silent[0].next().await, Got::Closed(1013), "who came first gave way");
}
