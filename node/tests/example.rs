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

#[tokio::test]
async fn the_echo_bot_answers_though_its_node_dies() {
    let mut cluster = TestCluster::start(3).await;
    let dir = TempDir::new().expect("a temporary folder");
    let file = dir.path().join("token");
    fs::write(&file, token("echo") + "\n").expect("it can be written");
    let bot = Command::new(example("echo_bot")).arg(&file).args(cluster.urls_from(1)).spawn();
    let _bot = Running(bot.expect("the example runs"));

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
