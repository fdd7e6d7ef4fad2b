//! The client side of one node, in this process: HTTP routes, and a session over real sockets.

mod common;

use std::sync::Arc;

use cluster::config::LogKeeping;
use cluster::peer::Secret;
use cluster::raft::CheckpointEvery;
use cluster::state::{GroupLimits, Limits};
use cluster::{Cluster, ClusterConfig};
use im_gateway::auth::{AuthConfig, Masked};
use im_gateway::gateway::{Gateway, GatewayConfig, GatewayError};
use im_gateway::telemetry::Metrics;
use serde_json::{Value, json};
use tempfile::TempDir;

use common::raw::{Raw, refused};
use common::{SECRET, http};

struct Node {
    _dir: TempDir,
    cluster: Cluster,
    gateway: Gateway,
    addr: String,
}

async fn start_cluster(dir: &TempDir, metrics: Arc<Metrics>) -> (cluster::env::Env, Cluster) {
    let env = im_gateway::env::open(&dir.path().join("node")).expect("storage opens");
    let env = metrics.watch_disk(env);
    let config = ClusterConfig {
        peer_listen: "127.0.0.1:0".into(),
        peer_advertise: None,
        client_url: "ws://127.0.0.1:1/ws".into(),
        join: Vec::new(),
        bootstrap: true,
        secret: Secret::new("a secret of this test's own"),
        voters: 3,
        limits: Limits::default(),
        groups: GroupLimits::default(),
        // A checkpoint of every little thing: bodies are read from there as well.
        feature_level: cluster::state::FEATURE_LEVEL,
        log: LogKeeping { checkpoint: CheckpointEvery { entries: 1, bytes: 1 }, ..LogKeeping::default() },
    };
    let cluster = Cluster::start(env.clone(), config, metrics).await.expect("the node starts");
    (env, cluster)
}

fn config() -> GatewayConfig {
    let auth = AuthConfig { secret: Some(Masked::new(SECRET)), ..AuthConfig::default() };
    GatewayConfig {
        listen: "127.0.0.1:0".into(),
        auth,
        admin_token: Some(Masked::new("the admin token")),
        ..Default::default()
    }
}

async fn node(config: GatewayConfig) -> Node {
    let dir = TempDir::new().expect("a temporary folder");
    let metrics = Arc::new(Metrics::new());
    let (env, cluster) = start_cluster(&dir, metrics.clone()).await;
    let gateway = Gateway::start(env, cluster.clone(), config, metrics).await.expect("the gateway starts");
    let addr = gateway.local_addr().to_string();
    common::eventually("the node is ready", async || {
        let answer = http::get(&addr, "/ready").await.expect("an answer");
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(body["ready"], json!(answer.status == 200), "{body}");
        assert!(answer.status == 200 || answer.status == 503 && body["reasons"][0].is_string(), "{body}");
        (answer.status == 200).then_some(())
    })
    .await;
    Node { _dir: dir, cluster, gateway, addr }
}

async fn get_with(addr: &str, path: &str, headers: &str) -> http::Answer {
    let text = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n{headers}\r\n");
    http::request(addr, &text).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_goes_from_socket_to_socket() {
    let node = node(config()).await;
    let mut alice = Raw::welcome(&node.addr, "alice", "phone").await;
    let mut bob = Raw::welcome(&node.addr, "bob", "laptop").await;
    alice.text(r#"{"id":2,"send":{"to":"bob","key":"k1","body":{ "text" : "hi" }}}"#).await;
    let ok = alice.frame_with("ok").await;
    let msg = bob.frame_with("msg").await;
    assert_eq!((&ok["id"], &ok["ok"]["mid"]), (&json!(2), &msg["msg"]["mid"]));
    assert_eq!(
        (&msg["msg"]["from"], &msg["msg"]["device"], &msg["msg"]["to"]),
        (&json!("alice"), &json!("phone"), &json!("bob"))
    );
    assert_eq!(msg["msg"]["body"], json!({"text": "hi"}));
    bob.send(json!({"ack": msg["seq"]})).await;
    let delivered = alice.frame_with("delivered").await;
    assert_eq!(delivered["delivered"], json!({"mid": ok["ok"]["mid"], "by": "bob"}));
    // The cursor's move is in the log a moment later.
    let name = node.cluster.node_id();
    let counted = format!("im_gateway_messages_delivered_total{{node=\"{name}\",type=\"direct\"}} 1");
    common::eventually("the delivery is counted", async || {
        let metrics = http::get(&node.addr, "/metrics").await.expect("an answer");
        metrics.body.lines().any(|line| line == counted).then_some(())
    })
    .await;
    // The same key again is the same message: nobody sees it twice.
    alice.text(r#"{"id":3,"send":{"to":"bob","key":"k1","body":{ "text" : "hi" }}}"#).await;
    assert_eq!(alice.frame_with("ok").await["ok"]["mid"], ok["ok"]["mid"]);
    alice.text(r#"{"id":4,"send":{"to":"bob","key":"k2","body":2}}"#).await;
    assert_eq!(bob.frame_with("msg").await["msg"]["body"], 2);
    // The newer session of a device wins.
    let _again = Raw::welcome(&node.addr, "bob", "laptop").await;
    assert_eq!(bob.closed().await.0, 4502);
    // Who was absent when a message came gets it late, and that is no measure of our speed.
    alice.text(r#"{"id":5,"send":{"to":"carol","key":"k","body":3}}"#).await;
    assert!(alice.answer(5).await["ok"].is_object());
    let mut carol = Raw::welcome(&node.addr, "carol", "phone").await;
    let late = carol.frame_with("msg").await;
    carol.send(json!({"ack": late["seq"]})).await;
    alice.frame_with("delivered").await;
    let no_checkpoint = format!("im_gateway_checkpoint_seconds_count{{node=\"{name}\"}} 0");
    let metrics = common::eventually("a checkpoint is counted", async || {
        let metrics = http::get(&node.addr, "/metrics").await.expect("an answer");
        (!metrics.body.lines().any(|line| line == no_checkpoint)).then_some(metrics)
    })
    .await;
    let value = |name: &str| {
        let name = format!("{name}{{node=\"{}\"}} ", node.cluster.node_id());
        let line = metrics.body.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("{name} is missing in\n{}", metrics.body)).parse::<f64>().expect("a number")
    };
    for name in [
        "im_gateway_network_receive_bytes_total",
        "im_gateway_network_transmit_bytes_total",
        "im_gateway_checkpoint_seconds_count",
        "im_gateway_disk_sync_seconds_count",
        "im_gateway_cpu_cores",
        "im_gateway_memory_limit_bytes",
    ] {
        assert!(value(name) > 0.0, "{name}");
    }
    assert_eq!((value("im_gateway_send_queue"), value("im_gateway_late_deliveries_total")), (0.0, 1.0));
    assert!(value("im_gateway_presence_staleness_seconds") < 2.0, "it is ready, so it has heard of a quorum");
    let has = |line: &str| metrics.body.lines().any(|found| found.starts_with(line));
    for line in [
        format!("im_gateway_active_connections{{node=\"{name}\"}} "),
        format!("im_gateway_message_duplication_total{{node=\"{name}\"}} 1"),
        format!("im_gateway_message_delivery_latency_seconds_count{{node=\"{name}\",type=\"direct\"}} 1"),
        format!("im_gateway_connections_closed_total{{node=\"{name}\",reason=\"superseded\"}} "),
        format!("im_gateway_raft_role{{node=\"{name}\",role=\"leader\"}} 1"),
        format!("im_gateway_ready{{node=\"{name}\"}} 1"),
        "process_resident_memory_bytes ".into(),
        "process_cpu_seconds_total ".into(),
    ] {
        assert!(has(&line), "{line} is missing in\n{}", metrics.body);
    }
    // The end of the node is the end of its sessions, in good order.
    let (gateway, closed) = tokio::join!(node.gateway.stop(), alice.closed());
    let ((), (code, frames)) = (gateway, closed);
    assert_eq!(code, 1012);
    assert!(frames.iter().any(|frame| frame["go_away"]["after_ms"].is_u64()), "{frames:?}");
    node.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_answer_as_documented() {
    let node = node(config()).await;
    let health = http::get(&node.addr, "/health").await.expect("an answer");
    let body: Value = serde_json::from_str(&health.body).expect("JSON");
    assert_eq!((health.status, &body["status"]), (200, &json!("ok")));
    for (path, status) in [("/", 404), ("/dev/token?user=a", 404), ("/test/echo", 404), ("/nowhere", 404)] {
        let answer = http::get(&node.addr, path).await.expect("an answer");
        assert_eq!(answer.status, status, "{path}");
        assert!(serde_json::from_str::<Value>(&answer.body).expect("JSON")["error"]["code"].is_string());
    }
    assert_eq!(http::post(&node.addr, "/health").await.expect("an answer").status, 405);
    // Plain requests to the WebSocket's address.
    let plain = http::get(&node.addr, "/ws").await.expect("an answer");
    assert_eq!(plain.status, 426);
    assert!(plain.head.to_lowercase().contains("upgrade: websocket"), "{}", plain.head);
    let bearer = format!("authorization: Bearer {}\r\n", common::token("alice"));
    assert_eq!(get_with(&node.addr, "/ws", &bearer).await.status, 426);
    assert_eq!(get_with(&node.addr, "/ws", "authorization: Bearer a.b.c\r\n").await.status, 401);
    assert_eq!(refused(&node.addr, "authorization: Basic YTpi\r\n").await.status, 401);
    assert_eq!(refused(&node.addr, "sec-websocket-protocol: imgw.v9\r\n").await.status, 400);
    // What is for operators.
    assert_eq!(http::get(&node.addr, "/admin/status").await.expect("an answer").status, 403);
    assert_eq!(get_with(&node.addr, "/admin/status", "authorization: Bearer x\r\n").await.status, 401);
    let admin = "authorization: Bearer the admin token\r\n";
    let status = get_with(&node.addr, "/admin/status", admin).await;
    let body: Value = serde_json::from_str(&status.body).expect("JSON");
    assert_eq!(body["node"], json!(node.cluster.node_id().to_string()));
    assert_eq!(body["nodes"][0]["up"], true);
    let promote = format!("POST /admin/members/zzz/promote HTTP/1.1\r\nhost: x\r\n{admin}connection: close\r\n\r\n");
    assert_eq!(http::request(&node.addr, &promote).await.expect("an answer").status, 400);
    let unknown = format!("DELETE /admin/members/abc HTTP/1.1\r\nhost: x\r\n{admin}connection: close\r\n\r\n");
    assert_eq!(http::request(&node.addr, &unknown).await.expect("an answer").status, 409, "there is no such node");
    // Heads that are too large end the connection.
    let large = get_with(&node.addr, "/health", &format!("x-large: {}\r\n", "x".repeat(40_000))).await;
    assert_eq!(large.status, 431);
    node.gateway.stop().await;
    node.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn development_mode_is_for_this_machine() {
    let node = node(GatewayConfig { dev: true, admin_token: None, ..config() }).await;
    let page = http::get(&node.addr, "/").await.expect("an answer");
    assert_eq!(page.status, 200);
    assert!(page.head.to_lowercase().contains("content-security-policy"), "{}", page.head);
    for path in ["/app.js", "/style.css", "/admin/status"] {
        assert_eq!(http::get(&node.addr, path).await.expect("an answer").status, 200, "{path}");
    }
    let token = http::get(&node.addr, "/dev/token?user=carol").await.expect("an answer");
    let token: Value = serde_json::from_str(&token.body).expect("JSON");
    let mut raw = Raw::open_with(&node.addr, token["token"].as_str().expect("a token")).await;
    raw.send(json!({"id": 1, "hello": {"device": "tab"}})).await;
    assert_eq!(raw.frame_with("welcome").await["welcome"]["user"], "carol");
    assert_eq!(http::get(&node.addr, "/dev/token?user=").await.expect("an answer").status, 400);
    // Pages of this machine may read the answers, others may not even ask.
    let local = "origin: http://127.0.0.1:8099\r\n";
    let allowed = get_with(&node.addr, "/dev/token?user=carol", local).await;
    assert_eq!(allowed.status, 200);
    assert!(allowed.head.contains("access-control-allow-origin: http://127.0.0.1:8099"), "{}", allowed.head);
    let foreign = "origin: http://evil.example\r\n";
    for path in ["/dev/token?user=carol", "/admin/status"] {
        let refused = get_with(&node.addr, path, foreign).await;
        assert_eq!(refused.status, 403, "{path}");
        assert!(!refused.head.contains("access-control-allow-origin"), "{}", refused.head);
        let rebound = format!("GET {path} HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n");
        assert_eq!(http::request(&node.addr, &rebound).await.expect("an answer").status, 403, "{path}");
    }
    node.gateway.stop().await;
    node.cluster.stop().await;
}

#[tokio::test]
async fn the_published_secret_is_for_loopback_only() {
    let dir = TempDir::new().expect("a temporary folder");
    let metrics = Arc::new(Metrics::new());
    let (env, cluster) = start_cluster(&dir, metrics.clone()).await;
    for (dev, secret) in [(false, None), (true, Some(Masked::new(SECRET)))] {
        let auth = AuthConfig { secret, ..AuthConfig::default() };
        let config = GatewayConfig { listen: "0.0.0.0:0".into(), dev, auth, ..GatewayConfig::default() };
        let refused = Gateway::start(env.clone(), cluster.clone(), config, metrics.clone()).await.err();
        let refused = refused.expect("it must not start");
        assert!(matches!(refused, GatewayError::Exposed { .. } | GatewayError::DevelopmentExposed { .. }), "{refused}");
    }
    cluster.stop().await;
}
