//! A cluster of real processes, for tests that see it as a user does.
//!
//! Everything listens on loopback; every child is ended by its own pid; waiting is for conditions.
//! At most [`CLUSTERS`] clusters run at once in a test process, however many tests do.

#![allow(dead_code)] // Each test binary uses its part.

pub mod certificates;
pub mod collector;
pub mod http;
pub mod ledger;
pub mod person;
pub mod raw;
pub mod tools;

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use certificates::Ca;
use cluster::env::{Net, clock};
use im_gateway::env::{Tcp, Tls};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a condition may take before a test gives up. Generous: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Clusters at once: more would only starve each other, and then fail their clocks.
pub const CLUSTERS: usize = 2;

/// The secret that the nodes' tokens are signed with.
pub const SECRET: &str = "a secret that only these tests know";

/// The secret that the nodes of these clusters share.
pub const CLUSTER_SECRET: &str = "a secret that only these nodes know";

/// When certificates end that are to last.
pub const FAR_YEAR: i32 = 2100;

static TURNS: Semaphore = Semaphore::const_new(CLUSTERS);

/// Several nodes and the folder they live in.
pub struct TestCluster {
    _turn: SemaphorePermit<'static>,
    dir: TempDir,
    nodes: Vec<TestNode>,
    options: Options,
    /// Knows the nodes, where they speak TLS.
    ca: Option<Ca>,
}

/// What differs between tests.
#[derive(Clone, Default)]
pub struct Options {
    /// Lines of the `[cluster.limits]` section.
    pub replicated_limits: String,
    /// Lines of the `[cluster.groups]` section.
    pub groups: String,
    /// Lines of the `[limits]` section.
    pub limits: String,
    /// Lines of the `[admission]` section.
    pub admission: String,
    /// Lines of the `[auth]` section, instead of the one that sets [`SECRET`].
    pub auth: Option<String>,
    /// The `[trace]` and `[otlp]` sections.
    pub telemetry: String,
    /// Faults on request.
    pub test_hooks: bool,
    /// Files that a node may have open.
    pub files: Option<u64>,
    /// Both ports of every node speak TLS, with certificates made for this cluster.
    pub tls: bool,
    /// The founder is told to bootstrap also when its disk was wiped.
    pub founder_for_ever: bool,
}

struct TestNode {
    child: Option<Child>,
    http: u16,
    peer: u16,
    data: PathBuf,
    wiped: usize,
}

/// A port that is free, and that no outgoing connection takes while its node is down: it lies below
/// the range from which systems choose those.
pub fn free_port() -> u16 {
    const LOWEST: u16 = 12_000;
    const COUNT: u16 = 18_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes begin at different places, so that they do not take each other's.
    let start = std::process::id().wrapping_mul(97) % u32::from(COUNT);
    for _ in 0..COUNT {
        let offset = (start + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(COUNT);
        let port = LOWEST + u16::try_from(offset).expect("it is below COUNT");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port")
}

/// A token for `user`, good for an hour.
pub fn token(user: &str) -> String {
    im_gateway::auth::issue(SECRET, user, None, clock::wall_ms() + 3_600_000).expect("it can be signed")
}

/// Polls until `check` gives something.
///
/// # Panics
/// With `what`, when it takes longer than [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = clock::now() + PATIENCE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(clock::now() < deadline, "gave up waiting: {what}");
        clock::sleep(Duration::from_millis(20)).await;
    }
}

impl TestCluster {
    /// Starts `nodes` nodes and waits until all are ready.
    pub async fn start(nodes: usize) -> Self {
        Self::start_with(nodes, Options::default()).await
    }

    /// As [`TestCluster::start`], with other limits.
    pub async fn start_with(nodes: usize, options: Options) -> Self {
        let turn = TURNS.acquire().await.expect("the semaphore is never closed");
        let dir = TempDir::new().expect("a temporary folder");
        let ca = options.tls.then(|| Ca::new(dir.path(), "ca"));
        let mut cluster = Self { _turn: turn, dir, nodes: Vec::new(), options, ca };
        for _ in 0..nodes {
            cluster.add();
        }
        for index in 0..nodes {
            cluster.ready(index).await;
        }
        if nodes >= 3 {
            cluster.voters(3).await;
        }
        cluster
    }

    /// Waits until all types of frames are known: a cluster that has just begun may not know yet that all
    /// of its nodes know them.
    pub async fn knows_all_types(&self) {
        let mut raw = raw::Raw::welcome(&self.addr(0), "nobody", "nothing").await;
        eventually("groups are known", async || {
            raw.send(json!({"id": 2, "group": {"create": "nobody's"}})).await;
            raw.answer(2).await["ok"].is_object().then_some(())
        })
        .await;
        raw.leave().await;
    }

    /// Starts one more node; does not wait for it.
    pub fn add(&mut self) -> usize {
        let index = self.add_stopped();
        self.restart(index);
        index
    }

    /// Prepares one more node, which [`TestCluster::restart`] starts.
    pub fn add_stopped(&mut self) -> usize {
        let index = self.nodes.len();
        let (http, peer) = (free_port(), free_port());
        let data = self.dir.path().join(format!("node-{index}"));
        self.nodes.push(TestNode { child: None, http, peer, data, wiped: 0 });
        if let Some(ca) = &self.ca {
            ca.node(self.dir.path(), &format!("node-{index}"), FAR_YEAR);
        }
        index
    }

    /// Starts a node that is down, on its data.
    pub fn restart(&mut self, index: usize) {
        assert!(self.nodes[index].child.is_none(), "node {index} runs");
        let config = self.write_config(index);
        let log = fs::File::options().create(true).append(true).open(self.log_path(index)).expect("a log file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_im-gateway"));
        if let Some(files) = self.options.files {
            let limit = libc::rlimit { rlim_cur: files, rlim_max: files };
            let lower = move || match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            };
            // SAFETY: between fork and exec it makes one system call and touches no memory of others.
            unsafe { command.pre_exec(lower) };
        }
        let child = command
            .args(["serve", "--config"])
            .arg(config)
            .env_remove("IMGW_JWT_SECRET")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the node starts");
        self.nodes[index].child = Some(child);
    }

    fn log_path(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("node-{index}.log"))
    }

    /// What a node has logged so far.
    pub fn log(&self, index: usize) -> String {
        fs::read_to_string(self.log_path(index)).unwrap_or_default()
    }

    /// The first line of a node's log that holds these words, once there is one: a thread of its own writes it.
    pub async fn logged(&self, index: usize, words: &str) -> String {
        let line = async || self.log(index).lines().find(|line| line.contains(words)).map(str::to_owned);
        eventually(&format!("node {index} logs {words:?}"), line).await
    }

    fn write_config(&self, index: usize) -> PathBuf {
        let node = &self.nodes[index];
        let auth = self.options.auth.clone().unwrap_or_else(|| format!("secret = {SECRET:?}"));
        let others: Vec<String> = (0..self.nodes.len())
            .filter(|other| *other != index)
            .map(|other| format!("\"127.0.0.1:{}\"", self.nodes[other].peer))
            .collect();
        let text = format!(
            "dev = true\ntest_hooks = {test_hooks}\ndata = {data:?}\n\
             [listen]\nhttp = \"127.0.0.1:{http}\"\npeer = \"127.0.0.1:{peer}\"\n\
             [log]\nlevel = \"info\"\nformat = \"json\"\n\
             [auth]\n{auth}\n[limits]\n{limits}\n[admission]\n{admission}\n\
             [cluster]\nsecret = {CLUSTER_SECRET:?}\nbootstrap = {bootstrap}\njoin = [{others}]\n\
             [cluster.limits]\n{replicated}\n[cluster.groups]\n{groups}\n{telemetry}{tls}",
            data = node.data,
            http = node.http,
            peer = node.peer,
            test_hooks = self.options.test_hooks,
            limits = self.options.limits,
            admission = self.options.admission,
            bootstrap = index == 0 && (node.wiped == 0 || self.options.founder_for_ever),
            others = others.join(","),
            replicated = self.options.replicated_limits,
            groups = self.options.groups,
            telemetry = self.options.telemetry,
            tls = self.ca.as_ref().map_or_else(String::new, |_| {
                let file = |kind| self.dir.path().join(format!("node-{index}.{kind}"));
                let own = format!("cert = {:?}\nkey = {:?}\n", file("pem"), file("key"));
                let ca = self.dir.path().join("ca.pem");
                format!("[tls.http]\n{own}[tls.peer]\n{own}ca = {ca:?}\n")
            }),
        );
        let path = self.dir.path().join(format!("node-{index}.toml"));
        fs::write(&path, text).expect("a configuration file");
        path
    }

    /// SIGKILL: what a crash of the process is.
    pub fn kill(&mut self, index: usize) {
        let mut child = self.nodes[index].child.take().expect("the node runs");
        child.kill().expect("the child is ours");
        child.wait().expect("the child has ended");
    }

    /// Sends a signal to a node's process (SIGSTOP, SIGCONT, SIGTERM).
    pub fn signal(&self, index: usize, signal: i32) {
        let pid = i32::try_from(self.pid(index)).expect("a pid");
        // SAFETY: the process is our own child and has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        if signal == libc::SIGSTOP {
            // Only then none of its threads runs any more.
            let mut status = 0;
            // SAFETY: as above; `status` is a valid place for the answer.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) }, pid);
            assert!(libc::WIFSTOPPED(status), "node {index} ended instead of stopping: {status}");
        }
    }

    /// The process id of a node that runs.
    pub fn pid(&self, index: usize) -> u32 {
        self.nodes[index].child.as_ref().expect("the node runs").id()
    }

    /// Files, sockets included, that a node has open.
    pub fn open_files(&self, index: usize) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid(index))).expect("the node runs").count()
    }

    /// Resident memory of a node, in bytes.
    pub fn resident_bytes(&self, index: usize) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid(index))).expect("the node runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line on resident memory");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB");
        kib << 10
    }

    /// Runs an operator's command, such as `["member", "remove", id]`, against a node; what it says.
    pub async fn operator(&self, index: usize, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_im-gateway"));
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        command.args(args).args(["--url", &format!("{scheme}://{}", self.addr(index))]).stdin(Stdio::null());
        if let Some(ca) = &self.ca {
            command.arg("--ca").arg(&ca.file);
        }
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it does not panic");
        let output = output.expect("the command starts");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
    }

    /// Moves leadership to a node and waits until it leads.
    pub async fn lead(&self, index: usize) {
        let node = self.node_id(index).await;
        self.command(index, &["leader", "transfer", "--to", &node]).await;
        eventually("the new leader is known", async || (self.leader().await == index).then_some(())).await;
    }

    /// As [`TestCluster::operator`], again and again until it is done: commands are refused while an
    /// election is on, or while a node lags.
    pub async fn command(&self, index: usize, args: &[&str]) {
        let deadline = clock::now() + PATIENCE;
        while let Err(error) = self.operator(index, args).await {
            assert!(clock::now() < deadline, "{args:?}: {error}");
            clock::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A node's id.
    pub async fn node_id(&self, index: usize) -> String {
        let status = eventually("a status", async || self.status(index).await).await;
        status["node"].as_str().expect("status names the node").to_owned()
    }

    /// Waits for a node's process to end; its exit code.
    pub async fn ended(&mut self, index: usize) -> Option<i32> {
        let mut child = self.nodes[index].child.take().expect("the node runs");
        eventually("the process ends", async || child.try_wait().expect("the child is ours")).await.code()
    }

    /// Deletes the data of a node that is down.
    pub fn wipe(&mut self, index: usize) {
        assert!(self.nodes[index].child.is_none(), "node {index} runs");
        fs::remove_dir_all(&self.nodes[index].data).expect("the data folder");
        self.nodes[index].wiped += 1;
    }

    /// Nodes ever started.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A node's data folder.
    pub fn data(&self, index: usize) -> &Path {
        &self.nodes[index].data
    }

    /// `127.0.0.1:port` of a node's client side.
    pub fn addr(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[index].http)
    }

    /// `127.0.0.1:port` of a node's side towards the others.
    pub fn peer_addr(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[index].peer)
    }

    /// The WebSocket URL of a node.
    pub fn url(&self, index: usize) -> String {
        format!("{}://{}/ws", if self.ca.is_some() { "wss" } else { "ws" }, self.addr(index))
    }

    /// The WebSocket URLs of all nodes, this one first.
    pub fn urls_from(&self, first: usize) -> Vec<String> {
        (0..self.nodes.len()).map(|offset| self.url((first + offset) % self.nodes.len())).collect()
    }

    /// Waits until a node is ready.
    pub async fn ready(&mut self, index: usize) {
        let deadline = clock::now() + PATIENCE;
        loop {
            if self.get(index, "/ready").await.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            if let Some(child) = &mut self.nodes[index].child
                && let Ok(Some(status)) = child.try_wait()
            {
                panic!("node {index} ended with {status}:\n{}", self.log(index));
            }
            assert!(clock::now() < deadline, "node {index} is not ready:\n{}", self.log(index));
            clock::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The folder that everything of this cluster is in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What signed the nodes' certificates.
    pub fn ca(&self) -> &Ca {
        self.ca.as_ref().expect("this cluster speaks TLS")
    }

    /// What clients reach the nodes by, where they speak TLS.
    pub fn secure_net(&self) -> Option<Arc<dyn Net>> {
        let tls = |ca: &Ca| Tls::to_nodes(Arc::new(Tcp), Some(ca.file.clone())).expect("a good CA file");
        self.ca.as_ref().map(|ca| Arc::new(tls(ca)) as Arc<dyn Net>)
    }

    /// `GET path` of a node.
    pub async fn get(&self, index: usize, path: &str) -> io::Result<http::Answer> {
        let addr = self.addr(index);
        match self.secure_net() {
            None => http::get(&addr, path).await,
            Some(net) => http::get_over(net.connect(&addr).await?, &addr, path).await,
        }
    }

    /// `/admin/status` of a node.
    pub async fn status(&self, index: usize) -> Option<Value> {
        let answer = self.get(index, "/admin/status").await.ok()?;
        (answer.status == 200).then(|| serde_json::from_str(&answer.body).expect("status is JSON"))
    }

    /// The sum of a metric's series on a node that have this label, such as `type="direct"`.
    pub async fn metric(&self, index: usize, name: &str, label: &str) -> Option<f64> {
        let answer = self.get(index, "/metrics").await.ok()?;
        let series = answer.body.lines().filter_map(|line| line.strip_prefix(name)).filter(|line| line.contains(label));
        series.map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until the cluster has `count` voters.
    pub async fn voters(&self, count: usize) {
        eventually("enough voters", async || {
            let status = self.status(self.running().next()?).await?;
            let voters = status["nodes"].as_array()?.iter().filter(|node| node["role"] == "voter").count();
            (voters == count).then_some(())
        })
        .await;
    }

    /// Which node leads.
    pub async fn leader(&self) -> usize {
        eventually("a leader", async || {
            for index in self.running() {
                let status = self.status(index).await?;
                if status["role"] == "leader" && status["not_ready"].as_array().is_some_and(Vec::is_empty) {
                    return Some(index);
                }
            }
            None
        })
        .await
    }

    /// Nodes whose process was not ended by the test.
    pub fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].child.is_some())
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            for index in 0..self.nodes.len() {
                let log = self.log(index);
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                eprintln!("-- node {index}, its last lines, newest first --\n{}", tail.join("\n"));
            }
        }
    }
}
