//! `up`: a cluster of child processes, and what becomes of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use cluster::env::clock;
use tempfile::TempDir;
use tokio::process::Child;

use crate::common::{PATIENCE, eventually, free_port, http};
use crate::{command, fails};

/// `im-gateway up`, and its folder.
struct Up {
    child: Child,
    dir: TempDir,
    http_port: u16,
}

/// The first of `count` free ports in a row.
fn free_ports(count: u16) -> u16 {
    loop {
        let first = free_port();
        if (1..count).all(|offset| free_port() == first + offset) {
            return first;
        }
    }
}

/// A process's state as the kernel shows it; none when it is gone, or dead and only not waited for.
fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name stands in brackets and may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: it is the id of our child, or of one of its children that the caller knows to live.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "{pid}");
}

impl Up {
    fn start(nodes: u16, more: &[&str]) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        Self::start_in(dir, nodes, free_ports(nodes), more)
    }

    fn start_in(dir: TempDir, nodes: u16, http_port: u16, more: &[&str]) -> Self {
        let (nodes, port) = (nodes.to_string(), http_port.to_string());
        let mut command = command(["up", "--nodes", &nodes, "--http-port", &port, "--data", "cluster"]);
        let out = File::create(dir.path().join("out")).expect("a file");
        let err = File::create(dir.path().join("err")).expect("a file");
        let command = command.args(more).current_dir(dir.path()).stdout(out).stderr(err);
        Self { child: command.spawn().expect("the program starts"), dir, http_port }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id().expect("it runs")).expect("a pid")
    }

    fn data(&self) -> PathBuf {
        self.path().join("cluster")
    }

    /// All that it has printed so far.
    fn printed(&self) -> String {
        fs::read_to_string(self.path().join("out")).expect("its output")
    }

    /// Waits for a line with these words.
    async fn line(&mut self, words: &str) -> String {
        eventually(&format!("`up` says \"{words}\""), async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                let err = fs::read_to_string(self.path().join("err")).expect("its errors");
                panic!("no \"{words}\", but {status}\n{}{err}", self.printed());
            }
            self.printed().lines().find(|line| line.contains(words)).map(str::to_owned)
        })
        .await
    }

    /// The pids in the table, once it is there.
    async fn pids(&mut self) -> Vec<i32> {
        self.line("Ctrl-C ends all nodes").await;
        let printed = self.printed();
        let rows = printed.lines().filter(|line| line.ends_with("ready")).map(|row| {
            let cells: Vec<_> = row.split_whitespace().collect();
            (cells[1].to_owned(), cells[2].parse::<i32>().expect("a pid"))
        });
        let (urls, pids): (Vec<_>, Vec<_>) = rows.unzip();
        let expected: Vec<_> =
            (0..urls.len()).map(|index| format!("http://127.0.0.1:{}", usize::from(self.http_port) + index)).collect();
        assert_eq!(urls, expected);
        assert!(pids.iter().all(|pid| is_alive(*pid)), "{printed}");
        pids
    }

    async fn ended(&mut self) -> ExitStatus {
        let status = clock::timeout(PATIENCE, self.child.wait()).await;
        status.expect("it ends in time").expect("the child is ours")
    }
}

async fn all_gone(pids: &[i32]) {
    eventually("no child is left", async || pids.iter().all(|pid| !is_alive(*pid)).then_some(())).await;
}

#[tokio::test]
async fn up_shows_the_death_of_a_node_and_leaves_none_behind_when_interrupted() {
    let mut up = Up::start(3, &[]);
    let pids = up.pids().await;
    assert_eq!(pids.len(), 3);
    // The same folder, and the same ports, are this one's.
    let data = up.data();
    let port = up.http_port.to_string();
    let again = ["up", "--http-port", &port, "--data"];
    fails(command(again).arg(&data), up.path(), 1, "another `im-gateway up` is using").await;
    fails(command(again).arg("other"), up.path(), 1, &format!("port {port} is in use")).await;

    signal(pids[1], libc::SIGKILL);
    up.line("node 2 was killed by signal 9").await;
    let hint = up.line("start it again:").await;
    up.line("or let `up --restart` do so").await;
    for node in [0, 2] {
        let addr = format!("127.0.0.1:{}", up.http_port + node);
        assert_eq!(http::get(&addr, "/ready").await.expect("the others serve").status, 200);
    }
    // What it says is good for a shell: the node comes back by it.
    let (_, line) = hint.split_once("start it again:").expect("it was just found");
    let mut shell = tokio::process::Command::new("sh");
    let shell = shell.args(["-c", &format!("exec env {}", line.trim())]).stdin(Stdio::null());
    let mut by_hand = shell.stderr(Stdio::null()).kill_on_drop(true).spawn().expect("a shell");
    let addr = format!("127.0.0.1:{}", up.http_port + 1);
    eventually("the node is back", async || {
        assert!(matches!(by_hand.try_wait(), Ok(None)), "it ended");
        http::get(&addr, "/ready").await.ok().filter(|answer| answer.status == 200)
    })
    .await;

    signal(up.pid(), libc::SIGINT);
    assert_eq!(up.ended().await.code(), Some(0));
    assert!(!pids.iter().any(|pid| is_alive(*pid)), "it ended before its children");
    assert!(!up.printed().contains("was started again"), "{}", up.printed());
    by_hand.kill().await.expect("it is ours");
}

#[tokio::test]
async fn up_restarts_nodes_only_when_asked_to_and_they_die_with_it() {
    let mut up = Up::start(1, &["--restart"]);
    let pids = up.pids().await;
    signal(pids[0], libc::SIGKILL);
    up.line("node 1 was killed by signal 9").await;
    let line = up.line("node 1 was started again, pid ").await;
    let pid = line.rsplit(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid");
    up.line("node 1 is ready again").await;
    assert!(pid != pids[0] && is_alive(pid));
    // Even when it has no chance to say anything to them.
    signal(up.pid(), libc::SIGKILL);
    up.ended().await;
    all_gone(&[pids[0], pid]).await;
}

#[tokio::test]
async fn up_comes_back_with_what_it_had_and_ends_when_all_nodes_have() {
    let mut up = Up::start(1, &[]);
    let pids = up.pids().await;
    let node = http::get(&format!("127.0.0.1:{}", up.http_port), "/ready").await.expect("an answer").body;
    signal(up.pid(), libc::SIGTERM);
    assert_eq!(up.ended().await.code(), Some(0));
    all_gone(&pids).await;

    let mut up = Up::start_in(up.dir, 1, up.http_port, &[]);
    let pids = up.pids().await;
    let again = http::get(&format!("127.0.0.1:{}", up.http_port), "/ready").await.expect("an answer").body;
    assert_eq!(again, node, "it is the same node");
    signal(pids[0], libc::SIGKILL);
    assert_eq!(up.ended().await.code(), Some(1));
}
