//! The cluster's handle over real sockets and disks: three nodes in one process, without a gateway.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster::env::clock;
use cluster::id::{DeviceId, MessageId, Pos, UserId};
use cluster::observer::NoObserver;
use cluster::peer::Secret;
use cluster::session::{Delivery, Event, Outgoing, Request, SessionSpec};
use cluster::state::{Destination, GroupLimits, Limits};
use cluster::{Cluster, ClusterConfig, Session};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid name")
}

fn device() -> DeviceId {
    DeviceId::new("d").expect("a valid name")
}

async fn node(dir: &TempDir, name: &str, port: u16, join: &[u16]) -> Cluster {
    let env = im_gateway::env::open(&dir.path().join(name)).expect("storage opens");
    let config = ClusterConfig {
        peer_listen: format!("127.0.0.1:{port}"),
        peer_advertise: None,
        client_url: String::new(),
        join: join.iter().map(|port| format!("127.0.0.1:{port}")).collect(),
        bootstrap: join.is_empty(),
        secret: Secret::new("a secret of this test's own"),
        voters: 3,
        limits: Limits::default(),
        groups: GroupLimits::default(),
        feature_level: cluster::state::FEATURE_LEVEL,
        log: cluster::config::LogKeeping::default(),
    };
    Cluster::start(env, config, Arc::new(NoObserver)).await.expect("the node starts")
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = clock::now() + PATIENCE;
    while !holds() {
        assert!(clock::now() < deadline, "gave up waiting: {what}");
        clock::sleep(Duration::from_millis(10)).await;
    }
}

async fn next(session: &Session) -> Event {
    clock::timeout(PATIENCE, session.next()).await.expect("an event")
}

async fn open(cluster: &Cluster, name: &str) -> Session {
    let spec = SessionSpec { user: user(name), device: device(), instance: 1, attempt: 1, ephemeral: false };
    let session = cluster.open(spec);
    assert!(matches!(next(&session).await, Event::Registered { .. }), "{name} is registered");
    session
}

fn outgoing(from: &str, to: &str, number: usize) -> Outgoing {
    let body = Bytes::from(format!("{{\"number\":{number},\"text\":\"{}\"}}", "x".repeat(170)));
    let mid = MessageId::direct(&user(from), &device(), &user(to), &number.to_string(), &body);
    Outgoing { mid, to: Destination::User(user(to)), ts_ms: clock::wall_ms(), body, arrived: clock::now(), trace: None }
}

/// Sends `count` messages with at most `window` unanswered.
async fn send_all(session: &Session, from: &str, to: &str, count: usize, window: usize) {
    let (mut sent, mut answered, mut delivered) = (0, 0, 0);
    while answered < count || delivered < count {
        while sent < count && sent - answered < window {
            session.ask(sent as u64, Request::Send(outgoing(from, to, sent)));
            sent += 1;
        }
        match next(session).await {
            Event::Sent { token, result } => {
                assert_eq!(token, answered as u64, "answers come in order");
                assert!(result.is_ok());
                answered += 1;
            }
            Event::Delivered { .. } => delivered += 1,
            _ => {}
        }
    }
}

/// Reads and acknowledges `count` messages, in order, each once.
async fn receive_all(session: &Session, count: usize) {
    let (mut after, mut seen) = (Pos::ZERO, 0);
    while seen < count {
        let page = session.read(after, 256, 1 << 20).await.expect("bodies can be read");
        for delivery in &page {
            let Delivery::Message { message, body } = delivery else { panic!("nothing is lost here") };
            assert!(message.pos > after, "positions grow");
            after = message.pos;
            let prefix = format!("{{\"number\":{seen},");
            assert!(body.starts_with(prefix.as_bytes()), "message {seen} comes in its place");
            seen += 1;
        }
        if page.is_empty() {
            next(session).await;
        } else {
            session.ack(after);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_deliver_in_order_and_tell_the_sender() {
    let dir = TempDir::new().expect("a temporary folder");
    let ports = [free_port(), free_port(), free_port()];
    let first = node(&dir, "1", ports[0], &[]).await;
    let second = node(&dir, "2", ports[1], &ports[..1]).await;
    let third = node(&dir, "3", ports[2], &ports[..1]).await;
    let nodes = [first, second, third];
    until("all are ready", || nodes.iter().all(|node| node.not_ready().is_empty())).await;
    let voters = || nodes[0].status().nodes.iter().filter(|node| node.role == "voter").count();
    until("three voters", || voters() == 3).await;

    let count = 5_000;
    let alice = open(&nodes[1], "alice").await;
    let bob = open(&nodes[2], "bob").await;
    let started = clock::now();
    let receive = tokio::spawn(async move { receive_all(&bob, count).await });
    send_all(&alice, "alice", "bob", count, 256).await;
    receive.await.expect("bob has everything");
    let rate = count as f64 / started.elapsed().as_secs_f64();
    println!("{rate:.0} messages/s with 256 in flight");

    until("the inbox is empty", || nodes[0].status().totals.inbox_messages == 0).await;
    until("the replicas agree", || {
        let hashes: Vec<_> = nodes.iter().map(Cluster::state_hash).collect();
        hashes.windows(2).all(|pair| pair[0] == pair[1])
    })
    .await;
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_in_good_order_is_no_failure() {
    let dir = TempDir::new().expect("a folder");
    let node = node(&dir, "only", free_port(), &[]).await;
    until("it is ready", || node.not_ready().is_empty()).await;
    node.stop().await;
    // Whoever watches the quorum looks several times a second.
    assert!(clock::timeout(Duration::from_secs(1), node.failed()).await.is_err());
}
