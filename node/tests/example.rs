//! The example of the client SDK, run as its head says.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use serde_json::json;
use tempfile::TempDir;

use common::raw::Raw;
use common::{TestCluster, token};

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where `cargo test` puts examples: beside the folder of its tests.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("a test is a file");
    let path = tests.ancestors().nth(2).expect("in a folder of a folder").join("examples").join(name);
    assert!(path.exists(), "{} is not built; `cargo build -p im-gateway --examples` does it", path.display());
    path
}

/// The bot, with a token in this folder.
fn echo_bot(dir: &TempDir, urls: Vec<String>) -> Running {
    let file = dir.path().join("token");
    fs::write(&file, token("echo") + "\n").expect("it can be written");
    let bot = Command::new(example("echo_bot")).arg(&file).args(urls).spawn();
    Running(bot.expect("the example runs"))
}

#[tokio::test]
async fn the_echo_bot_answers_though_its_node_dies() {
    let mut cluster = TestCluster::start(3).await;
    let dir = TempDir::new().expect("a temporary folder");
    let _bot = echo_bot(&dir, cluster.urls_from(1));

    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    for (n, body) in (2..).zip([json!({"text": "Hello"}), json!("again")]) {
        alice.send(json!({"id": n, "send": {"to": "echo", "key": format!("k-{n}"), "body": body}})).await;
        let answer = alice.frame_with("msg").await;
        assert_eq!((&answer["msg"]["from"], &answer["msg"]["body"]), (&json!("echo"), &body));
        alice.send(json!({"ack": answer["seq"]})).await;
        if n == 2 {
            cluster.kill(1);
        }
    }
}

#[tokio::test]
async fn the_echo_bot_does_not_answer_what_its_own_user_writes() {
    let cluster = TestCluster::start(1).await;
    cluster.knows_all_types().await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    // The bot is a second device beside this one, and gets copies of what it writes.
    let mut phone = Raw::welcome(&cluster.addr(0), "echo", "phone").await;
    let dir = TempDir::new().expect("a temporary folder");
    let _bot = echo_bot(&dir, cluster.urls_from(0));
    alice.send(json!({"id": 2, "watch": {"users": ["echo"]}})).await;
    while alice.frame_with("presence").await["presence"]["devices"] != 2 {}

    for (n, to) in [(2, "alice"), (3, "echo")] {
        phone.send(json!({"id": n, "send": {"to": to, "key": format!("k-{n}"), "body": "mine"}})).await;
        assert!(phone.answer(n).await["ok"].is_object());
    }
    alice.send(json!({"id": 3, "send": {"to": "echo", "key": "k-1", "body": "hers"}})).await;
    // It takes them in their order, so an answer to its own would come before the one to alice's.
    let mut came = Vec::new();
    for _ in 0..3 {
        let message = phone.frame_with("msg").await["msg"].take();
        came.push(format!("{} to {}: {}", message["from"], message["to"], message["body"]).replace('"', ""));
    }
    assert_eq!(came, ["echo to echo: mine", "alice to echo: hers", "echo to alice: hers"]);
}
