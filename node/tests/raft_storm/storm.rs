//! Three Rafts in one process, on sled, files and sockets, under a storm: as many writes as go, a
//! checkpoint and a purge every moment, followers cut off again and again so that they need a
//! checkpoint sent while the log races on, and leadership handed around.
//!
//! What it looks for: a panic or any other end of a Raft (openraft's issue 2116 among them), and
//! replicas that differ afterwards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::env::clock;
use cluster::id::{MessageId, NodeId, Pos, UserId};
use cluster::observer::NoObserver;
use cluster::peer::{Handler, Kind, Peers, Secret};
use cluster::raft::{ApplySink, CheckpointEvery, LogId, Member, Payload, Raft, Storage, network, open, serve_raft};
use cluster::state::{Batch, Command, Effect, Op, Send, State};
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, SnapshotPolicy};
use rand::RngExt;

/// How hard.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// For how long.
    pub length: Duration,
    /// Tasks that write, each one entry at a time.
    pub writers: usize,
    /// Bytes of an entry.
    pub entry_bytes: usize,
    /// Entries between two checkpoints.
    pub checkpoint_entries: u64,
}

/// What it came to.
#[derive(Debug, Default)]
pub struct Figures {
    /// Entries that were committed.
    pub written: u64,
    /// Writes that failed, mostly for want of a leader.
    pub failed: u64,
    /// Checkpoints that a replica took over from another.
    pub installed: u64,
    /// Followers cut off.
    pub cuts: u64,
    /// Leaders asked to hand over.
    pub transfers: u64,
    /// The last entry.
    pub applied: u64,
    /// How a Raft ended, if one did.
    pub ended: Option<String>,
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    failed: AtomicU64,
    installed: AtomicU64,
    stop: AtomicBool,
}

struct Sink(Arc<Counts>);

impl ApplySink for Sink {
    fn applied(&self, _at: &LogId, _effects: Vec<Effect>) {}
    fn installed(&self, _index: u64) {
        self.0.installed.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Serve(OnceLock<Raft>);

#[async_trait]
impl Handler for Serve {
    async fn handle(&self, _from: NodeId, kind: Kind, body: Bytes) -> Result<Bytes, String> {
        serve_raft(self.0.get().ok_or("not there yet")?, kind, body).await
    }
}

struct Node {
    id: NodeId,
    raft: Raft,
    state: Arc<RwLock<State>>,
    peers: Peers,
    addr: SocketAddr,
}

impl Node {
    async fn open(id: NodeId, dir: &Path, storm: &Storm, counts: &Arc<Counts>) -> Self {
        let env = im_gateway::env::open(dir).expect("opens");
        let every = CheckpointEvery { entries: 1, bytes: 1 };
        let Storage { log, machine, state, .. } =
            open(&env, Arc::new(Sink(counts.clone())), every).await.expect("opens");
        let peers = Peers::new(env.net, id, Secret::new("a secret for the storm"), Arc::new(NoObserver));
        let serve = Arc::new(Serve::default());
        let addr = peers.listen("127.0.0.1:0", serve.clone()).await.expect("listens");
        let config = Config {
            snapshot_policy: SnapshotPolicy::LogsSinceLast(storm.checkpoint_entries),
            max_in_snapshot_log_to_keep: 0,
            purge_batch_size: 1,
            ..cluster::raft::config(&cluster::config::LogKeeping::default()).expect("valid")
        };
        let raft = Raft::new(id, Arc::new(config), network(peers.clone()), log, machine).await.expect("starts");
        assert!(serve.0.set(raft.clone()).is_ok(), "set once");
        Self { id, raft, state, peers, addr }
    }

    /// Why this Raft has ended, if it has.
    fn ended(&self) -> Option<String> {
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        state.err().map(|error| format!("node {}: {error}", self.id))
    }

    fn applied(&self) -> u64 {
        self.raft.metrics().borrow_watched().last_applied.map_or(0, |log_id| log_id.index)
    }
}

/// A command that is refused when applied: it loads the log, not the state.
fn ballast(bytes: usize) -> Payload {
    let user = UserId::new("nobody").expect("a name");
    let body = vec![7; bytes].into();
    let send = Send { epoch: Pos::ZERO, mid: MessageId([7; 16]), to: user, ts_ms: 0, body };
    let batch = Batch { node: NodeId(9), generation: Pos::ZERO, seq: 1, ops: vec![Op::Send(send)] };
    Payload(Command::Batch(batch).encode())
}

async fn write(nodes: Arc<Vec<Node>>, counts: Arc<Counts>, payload: Payload) {
    let mut at = 0;
    while !counts.stop.load(Ordering::Relaxed) {
        let leader = nodes[at].raft.server_metrics().borrow_watched().current_leader;
        at =
            leader.and_then(|leader| nodes.iter().position(|node| node.id == leader)).unwrap_or((at + 1) % nodes.len());
        let write = nodes[at].raft.client_write(payload.clone());
        match clock::timeout(Duration::from_secs(5), write).await {
            Ok(Ok(_)) => drop(counts.written.fetch_add(1, Ordering::Relaxed)),
            _ => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                clock::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Runs the storm in `dir`.
pub async fn run(dir: &Path, storm: Storm) -> Figures {
    let counts = Arc::new(Counts::default());
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(Node::open(NodeId(id), &dir.join(id.to_string()), &storm, &counts).await);
    }
    let addresses: BTreeMap<_, _> = nodes.iter().map(|node| (node.id, node.addr.to_string())).collect();
    for node in &nodes {
        node.peers.set_addresses(addresses.clone());
    }
    let member = |node: &Node| (node.id, Member { peer_addr: node.addr.to_string() });
    let members: BTreeMap<_, _> = nodes.iter().map(member).collect();
    nodes[0].raft.initialize(members).await.expect("a new cluster");

    let nodes = Arc::new(nodes);
    let payload = ballast(storm.entry_bytes);
    let writers: Vec<_> =
        (0..storm.writers).map(|_| tokio::spawn(write(nodes.clone(), counts.clone(), payload.clone()))).collect();
    let mut figures = Figures::default();
    let end = clock::now() + storm.length;
    while clock::now() < end && figures.ended.is_none() {
        disturb(&nodes, &addresses, &mut figures).await;
        figures.ended = nodes.iter().find_map(Node::ended);
    }
    counts.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("no panic in a writer");
    }
    if figures.ended.is_none() {
        settle(&nodes, &mut figures).await;
    }
    figures.written = counts.written.load(Ordering::Relaxed);
    figures.failed = counts.failed.load(Ordering::Relaxed);
    figures.installed = counts.installed.load(Ordering::Relaxed);
    for node in nodes.iter() {
        node.peers.close();
        let _ = node.raft.shutdown().await;
    }
    figures
}

/// Cuts somebody off for a moment, or has the leader hand over.
async fn disturb(nodes: &[Node], addresses: &BTreeMap<NodeId, String>, figures: &mut Figures) {
    let (victim, cut_ms, calm_ms, transfer) = {
        let mut rng = rand::rng();
        (
            rng.random_range(0..nodes.len()),
            rng.random_range(20..400),
            rng.random_range(100..600),
            rng.random_ratio(1, 8),
        )
    };
    if transfer {
        figures.transfers += 1;
        for node in nodes {
            let _ = node.raft.trigger().transfer_leader(nodes[victim].id).await;
        }
    } else {
        figures.cuts += 1;
        // It gets nothing; what it says is still heard, as with a network that fails one way.
        let id = nodes[victim].id;
        let others: BTreeMap<_, _> =
            addresses.iter().filter(|(node, _)| **node != id).map(|(node, addr)| (*node, addr.clone())).collect();
        for node in nodes.iter().filter(|node| node.id != id) {
            node.peers.set_addresses(others.clone());
        }
        clock::sleep(Duration::from_millis(cut_ms)).await;
        for node in nodes {
            node.peers.set_addresses(addresses.clone());
        }
    }
    clock::sleep(Duration::from_millis(calm_ms)).await;
}

/// Waits until all have applied the same, and compares.
async fn settle(nodes: &[Node], figures: &mut Figures) {
    let patience = clock::now() + Duration::from_secs(60);
    loop {
        figures.ended = nodes.iter().find_map(Node::ended);
        let applied: Vec<_> = nodes.iter().map(Node::applied).collect();
        let led = nodes[0].raft.server_metrics().borrow_watched().current_leader.is_some();
        if figures.ended.is_some() {
            return;
        }
        if led && applied.iter().all(|one| *one == applied[0]) {
            figures.applied = applied[0];
            break;
        }
        assert!(clock::now() < patience, "the replicas do not come together: {applied:?}");
        clock::sleep(Duration::from_millis(20)).await;
    }
    let hashes: Vec<_> = nodes.iter().map(|node| node.state.read().expect("whole").hash()).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "the replicas differ");
}
