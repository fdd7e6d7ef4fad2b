//! What a node logs is changed while it runs.

use std::process::Stdio;

use cluster::env::clock;

use crate::common::{PATIENCE, TestCluster, eventually, free_port, http};

fn debug_lines(cluster: &TestCluster) -> usize {
    cluster.log(0).lines().filter(|line| line.contains("\"level\":\"DEBUG\"")).count()
}

#[tokio::test]
async fn debug_lines_begin_and_end_without_a_restart() {
    let cluster = TestCluster::start(1).await;
    let pid = cluster.pid(0);
    let said = async |args: &[&str]| {
        let args = [&["log-level"], args].concat();
        cluster.operator(0, &args).await
    };
    assert!(said(&[]).await.expect("an answer").contains(" logs info"));
    assert_eq!(debug_lines(&cluster), 0);

    assert!(said(&["debug"]).await.expect("a level").contains(" logs debug"));
    // No HTTP: the node's word on that is a debug line.
    let noise = async || drop(http::request(&cluster.addr(0), "nonsense\r\n\r\n").await.expect("an answer"));
    eventually("debug lines", async || {
        noise().await;
        (debug_lines(&cluster) > 0).then_some(())
    })
    .await;
    assert!(!cluster.log(0).contains("\"target\":\"openraft"), "libraries stay damped");

    let bad = said(&["debgu"]).await.expect_err("that is none");
    assert!(bad.contains("`debgu` is no log filter") && bad.lines().count() == 1, "{bad}");
    let answer = http::post(&cluster.addr(0), "/admin/log-level").await.expect("an answer");
    assert_eq!((answer.status, answer.body.contains("?filter=")), (400, true), "{}", answer.body);
    let answer = http::get(&cluster.addr(0), "/admin/log-level").await.expect("an answer");
    assert!(answer.body.contains("\"filter\":\"debug\""), "what was refused changed nothing: {}", answer.body);

    let filter = "info,im_gateway::nothing=debug";
    assert!(said(&[filter]).await.expect("a filter").contains(filter));
    // What was under way may still be written.
    let before = eventually("no more debug lines", async || {
        let before = debug_lines(&cluster);
        noise().await;
        (debug_lines(&cluster) == before).then_some(before)
    })
    .await;
    for _ in 0..5 {
        noise().await;
    }
    assert_eq!((debug_lines(&cluster), cluster.pid(0)), (before, pid));
}

/// Whoever reads the log has stopped: the pipe is full after some hundred lines, and nobody here waits for that.
#[tokio::test]
async fn a_log_that_nobody_reads_stops_no_node() {
    const REFUSALS: usize = 1_500;
    let dir = tempfile::tempdir().expect("a folder");
    let addr = format!("127.0.0.1:{}", free_port());
    let mut node = tokio::process::Command::new(env!("CARGO_BIN_EXE_im-gateway"))
        .args(["serve", "--bootstrap", "--http", &addr, "--peer", "127.0.0.1:0"])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the node starts");
    let _unread = node.stderr.take();
    eventually("it listens", async || http::get(&addr, "/health").await.ok()).await;
    let bad = format!("GET /ws HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer x\r\nconnection: close\r\n\r\n");
    for _ in 0..REFUSALS {
        let answer = clock::timeout(PATIENCE, http::request(&addr, &bad)).await.expect("it goes on");
        assert_eq!(answer.expect("an answer").status, 401);
    }
    assert_eq!(http::get(&addr, "/health").await.expect("an answer").status, 200);
}
