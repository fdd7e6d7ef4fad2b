//! One node's process.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cluster::env::clock;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use super::super::failure::{Failure, failed};
use super::plan::Node;
use im_gateway::auth::Masked;

/// How long a node may take to stop before it is killed: less than a drain of many clients takes, because all nodes
/// stop together, so that clients have nowhere to go.
const STOP: Duration = Duration::from_secs(10);

/// How all nodes of the cluster are started.
pub struct Launch {
    pub executable: std::path::PathBuf,
    pub secret: Masked,
    pub voters: usize,
    /// With faults on request.
    pub test_hooks: bool,
    /// Peer addresses of all nodes.
    pub peers: Vec<String>,
}

/// A node's process, for as long as it lives.
pub struct Process {
    child: Child,
    pub pid: u32,
}

impl Launch {
    /// For these nodes.
    pub fn new(executable: std::path::PathBuf, secret: Masked, nodes: &[Node], test_hooks: bool) -> Self {
        let peers = nodes.iter().map(|node| format!("127.0.0.1:{}", node.peer_port)).collect();
        Self { executable, secret, voters: if nodes.len() < 5 { 3 } else { 5 }, test_hooks, peers }
    }

    /// The arguments that start `node`.
    pub fn arguments(&self, node: &Node, bootstrap: bool) -> Vec<String> {
        let peer = format!("127.0.0.1:{}", node.peer_port);
        let others: Vec<_> = self.peers.iter().filter(|other| **other != peer).cloned().collect();
        let mut arguments = vec!["serve".to_owned(), "--dev".to_owned()];
        let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        flag("http", format!("127.0.0.1:{}", node.http_port));
        flag("peer", peer);
        flag("data", node.data.display().to_string());
        flag("voters", self.voters.to_string());
        if !others.is_empty() {
            flag("join", others.join(","));
        }
        if self.test_hooks {
            arguments.push("--test-hooks".to_owned());
        }
        if bootstrap {
            arguments.push("--bootstrap".to_owned());
        }
        arguments
    }

    /// Starts `node`. To be called from the main thread: the kernel ties the child's life to the
    /// thread that made it.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub fn start(&self, node: &Node, bootstrap: bool) -> Result<Process, Failure> {
        let log = File::options().create(true).append(true).open(&node.log);
        let log = log.and_then(|log| Ok((log.try_clone()?, log)));
        let (out, err) = log
            .or_else(|error| failed(format!("cannot write {}: {error}; choose another --data", node.log.display())))?;
        let child = Command::new(&self.executable)
            .args(self.arguments(node, bootstrap))
            .args(["--supervisor", &std::process::id().to_string()])
            .env("IMGW_CLUSTER_SECRET", self.secret.reveal())
            // A Ctrl-C on the terminal is for us; we tell the nodes, in our order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            .spawn();
        let child = child.or_else(|error| failed(format!("cannot start {}: {error}", self.executable.display())))?;
        let pid = child.id().expect("a process that was not waited for has an id");
        Ok(Process { child, pid })
    }
}

impl Process {
    /// Ready when the process has ended, and how. Cancel-safe.
    pub async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => describe(status),
            Err(error) => format!("ended, {error}"),
        }
    }

    /// Kills the process.
    pub async fn kill(mut self) {
        let _ = self.child.kill().await;
    }

    /// Asks the process to stop.
    pub fn ask_to_stop(&self) {
        // The id is ours until `wait` has returned, so no other process can be hit.
        if self.child.id().is_some()
            && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }

    /// Waits until the process has ended; one that takes too long is killed.
    pub async fn stopped(mut self) {
        if clock::timeout(STOP, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Why a node ended, in its own words, if it had any.
pub fn last_words(node: &Node) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    const TAIL_BYTES: u64 = 4_096;
    let mut file = File::open(&node.log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    said_last(&String::from_utf8_lossy(&tail))
}

/// The last line of a log, if it says why the process ended: JSON once the node has begun to log, before that text.
fn said_last(log: &str) -> Option<String> {
    let line = log.lines().last()?;
    if let Some(words) = line.strip_prefix("im-gateway: ") {
        return Some(words.to_owned());
    }
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line["level"] == "FATAL").then(|| line["message"].as_str().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::said_last;

    #[test]
    fn last_words_are_known_in_both_forms_of_a_log() {
        let port = Some("the port is taken".to_owned());
        assert_eq!(said_last("{\"level\":\"INFO\"}\nim-gateway: the port is taken\n"), port);
        assert_eq!(said_last("x\n{\"level\":\"FATAL\",\"message\":\"the port is taken\"}\n"), port);
        for none in ["", "\n", "{\"level\":\"INFO\",\"message\":\"serving clients\"}", "Killed"] {
            assert_eq!(said_last(none), None, "{none}");
        }
    }
}
