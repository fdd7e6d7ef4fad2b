//! Commands that work: a token, a status, a chat, and the node that runs when no command is given.

use std::process::Stdio;

use cluster::env::clock;
use im_gateway::auth::{AuthConfig, Masked, Verifier};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::common::{PATIENCE, SECRET, TestCluster, eventually, free_port, http};
use crate::{command, run};

#[tokio::test]
async fn token_prints_a_token_and_nothing_else() {
    let said = run(&mut command(["token", "--user", "alice", "--device", "phone", "--ttl", "90s"])).await;
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let token = said.out.strip_suffix('\n').expect("a line");
    let identity = Verifier::new(&AuthConfig::default()).expect("keys").verify(token).expect("one line, a good token");
    assert_eq!((identity.user.as_str(), identity.device.expect("bound").as_str()), ("alice", "phone"));
    let left_ms = identity.expires_ms.saturating_sub(clock::wall_ms());
    assert!((30_000..=100_000).contains(&left_ms), "{left_ms}");

    let said = run(command(["token", "--user", "alice"]).env("IMGW_JWT_SECRET", SECRET)).await;
    let auth = AuthConfig { secret: Some(Masked::new(SECRET)), ..AuthConfig::default() };
    Verifier::new(&auth).expect("keys").verify(said.out.trim_end()).expect("signed by the secret that was given");
}

#[tokio::test]
async fn status_tells_people_and_programs_how_the_cluster_is() {
    let cluster = TestCluster::start(1).await;
    let url = format!("http://{}", cluster.addr(0));
    let node = cluster.node_id(0).await;
    let said = run(&mut command(["status", "--json", "--url", &url])).await;
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let status: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!((&status["node"], &status["leader"]), (&node.as_str().into(), &node.as_str().into()));
    assert!(status["nodes"][0]["generation"].is_u64() && status["totals"]["sessions"].is_u64(), "{status}");
    let said = run(command(["status"]).env("IMGW_URL", &url)).await;
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    assert!(said.out.starts_with(&format!("node {node}: ready")), "{}", said.out);
    assert!(said.out.lines().any(|line| line.starts_with(&node) && line.contains("leader")), "{}", said.out);
}

/// What Ctrl-C does.
fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id().expect("it runs")).expect("a pid");
    // SAFETY: the process is our own child and has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
}

/// `im-gateway chat`, with pipes for a terminal.
struct Chat {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Chat {
    fn start(addr: &str, user: &str, to: &str) -> Self {
        let mut command = command(["chat", "--user", user, "--to", to, "--url", &format!("http://{addr}")]);
        let command = command.env("IMGW_JWT_SECRET", SECRET).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { input: child.stdin.take().expect("it is piped"), child, output }
    }

    /// Reads lines up to one with these words; those before it.
    async fn until(&mut self, words: &str) -> Vec<String> {
        let mut passed = Vec::new();
        while let Ok(Ok(Some(line))) = clock::timeout(PATIENCE, self.output.next_line()).await {
            if line.contains(words) {
                return passed;
            }
            passed.push(line);
        }
        panic!("no \"{words}\" in {passed:#?}");
    }

    async fn write(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.expect("it reads");
    }

    /// Ends the input; the exit code.
    async fn end(mut self) -> Option<i32> {
        drop(self.input);
        let status = clock::timeout(PATIENCE, self.child.wait()).await.expect("it ends in time");
        status.expect("the child is ours").code()
    }
}

#[tokio::test]
async fn two_chat_in_terminals() {
    let cluster = TestCluster::start(1).await;
    let mut alice = Chat::start(&cluster.addr(0), "alice", "bob");
    alice.until(&format!("at {}", cluster.addr(0))).await;
    alice.write("are you there?").await;
    alice.until("✓ 1 stored").await;
    let mut bob = Chat::start(&cluster.addr(0), "bob", "nobody");
    bob.until("alice: are you there?").await;
    alice.until("✓✓ 1 delivered to bob").await;
    bob.write("@alice yes").await;
    alice.until("bob: yes").await;
    bob.write("/quit").await;
    assert_eq!((bob.end().await, alice.end().await), (Some(0), Some(0)));
}

#[tokio::test]
async fn a_chat_that_reaches_nobody_says_so_once_and_ends_when_told_to() {
    let addr = format!("127.0.0.1:{}", free_port());
    let mut alice = Chat::start(&addr, "alice", "bob");
    alice.until(&format!("cannot connect to {addr}: ")).await;
    alice.write("are you there?").await;
    alice.write("/quit").await;
    // By then it has tried several times.
    let passed = alice.until("waiting up to 30s for what has no answer yet").await;
    assert!(!passed.iter().any(|line| line.contains("cannot connect")), "{passed:#?}");
    interrupt(&alice.child);
    assert_eq!(alice.end().await, Some(1));
}

#[tokio::test]
async fn without_a_command_a_single_node_shows_the_demo_page_and_tells_where() {
    let dir = tempfile::tempdir().expect("a folder");
    let (http, peer) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let mut command = command::<&str>([]);
    let command = command.current_dir(dir.path()).env("IMGW_HTTP", &http).env("IMGW_PEER", &peer);
    let mut node = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = BufReader::new(node.stdout.take().expect("it is piped")).lines();
    let mut told = String::new();
    while !told.contains("up\n") {
        let line = clock::timeout(PATIENCE, lines.next_line()).await.expect("it says something in time");
        told += &(line.expect("text").expect("more than this") + "\n");
    }
    assert!(told.contains(&format!("Open http://{http} in two tabs")), "{told}");
    eventually("the node is ready", async || {
        http::get(&http, "/ready").await.ok().filter(|answer| answer.status == 200)
    })
    .await;
    let page = http::get(&http, "/").await.expect("an answer");
    assert!(page.status == 200 && page.body.contains("<title>im-gateway demo</title>"), "{}", page.head);
    interrupt(&node);
    let output = clock::timeout(PATIENCE, node.wait_with_output()).await.expect("it ends in time").expect("its output");
    assert_eq!(output.status.code(), Some(0));
    // Nothing went wrong, so there is nothing to read.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
