//! The cluster that a drill breaks: three nodes of this machine, in a folder that goes with them.

use std::path::Path;
use std::time::Duration;

use cluster::env::clock;
use futures_util::future::join_all;
use http::Method;

use super::super::dial::Dial;
use super::super::failure::{Failure, failed};
use super::super::http::{Answer, Endpoint};
use super::super::up::{Folder, Launch, Node, Process, is_ready, url};

const NODES: u16 = 3;
/// How long nodes may take to serve.
const READY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Tries to find as many free ports in a row.
const PORT_TRIES: u32 = 50;

/// See the module.
pub struct Nodes {
    _folder: Folder,
    launch: Launch,
    nodes: Vec<Node>,
    processes: Vec<Option<Process>>,
}

impl Nodes {
    /// Starts the cluster and waits until it serves.
    ///
    /// # Errors
    /// When a node does not come up.
    pub async fn start(path: &Path) -> Result<Self, Failure> {
        let executable =
            std::env::current_exe().or_else(|error| failed(format!("cannot find the program's own file: {error}")))?;
        let folder = Folder::open(path)?;
        let nodes = free_nodes(&folder)?;
        let launch = Launch::new(executable, folder.secret()?, &nodes, true);
        let processes = nodes.iter().map(|_| None).collect();
        let mut cluster = Self { _folder: folder, launch, nodes, processes };
        for index in 0..cluster.nodes.len() {
            cluster.processes[index] = Some(cluster.launch.start(&cluster.nodes[index], index == 0)?);
        }
        for index in 0..cluster.nodes.len() {
            cluster.ready(index).await?;
        }
        Ok(cluster)
    }

    /// Where clients reach the nodes.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(url).collect()
    }

    /// `host:port` of each node.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.http_port)).collect()
    }

    /// Kills a node outright; its process's id.
    pub async fn kill(&mut self, index: usize) -> u32 {
        let Some(process) = self.processes[index].take() else { return 0 };
        let pid = process.pid;
        process.kill().await;
        pid
    }

    /// Starts a node again, and waits until it serves.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self, index: usize) -> Result<(), Failure> {
        self.processes[index] = Some(self.launch.start(&self.nodes[index], false)?);
        self.ready(index).await
    }

    async fn ready(&self, index: usize) -> Result<(), Failure> {
        let deadline = clock::now() + READY;
        while let Err(reason) = is_ready(&self.nodes[index]).await {
            if clock::now() > deadline {
                return failed(format!("node {} was not ready within {READY:?}: {reason}", index + 1));
            }
            clock::sleep(POLL).await;
        }
        Ok(())
    }

    /// Asks a node for something.
    ///
    /// # Errors
    /// When it does not do it.
    pub async fn post(&self, index: usize, path: &str) -> Result<Answer, Failure> {
        let endpoint = Endpoint::new(&url(&self.nodes[index]), None, &Dial::default())
            .or_else(|error| failed(error.to_string()))?;
        match endpoint.request(Method::POST, path).await {
            Ok(answer) if answer.status < 300 => Ok(answer),
            Ok(answer) => failed(format!("POST {path}: {}: {}", answer.status, answer.message())),
            Err(error) => failed(error),
        }
    }

    /// Asks all nodes for something.
    ///
    /// # Errors
    /// When one does not do it.
    pub async fn post_all(&self, path: &str) -> Result<(), Failure> {
        for index in 0..self.nodes.len() {
            self.post(index, path).await?;
        }
        Ok(())
    }

    /// Ends all nodes, and waits for it.
    pub async fn stop(&mut self) {
        let processes: Vec<Process> = self.processes.iter_mut().filter_map(Option::take).collect();
        processes.iter().for_each(Process::ask_to_stop);
        join_all(processes.into_iter().map(Process::stopped)).await;
    }
}

/// Nodes on ports that nobody uses, below those that systems choose for outgoing connections.
fn free_nodes(folder: &Folder) -> Result<Vec<Node>, Failure> {
    let mut last = failed("no free ports");
    for _ in 0..PORT_TRIES {
        last = folder.nodes(NODES, rand::random_range(12_000..30_000));
        if last.is_ok() {
            break;
        }
    }
    last
}
