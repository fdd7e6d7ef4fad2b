//! Whole Rafts on stores and a network in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, EntryPayload, RaftMetrics};

use super::script::Script;
use super::{MemBlobs, MemKv, NoSink};
use crate::env::{Env, clock};
use crate::id::NodeId;
use crate::observer::NoObserver;
use crate::peer::testing::MemNet;
use crate::peer::{Handler, Kind, Peers, Secret};
use crate::raft::{
    Bodies, CheckpointEvery, Entry, LogStore, Member, Payload, Raft, Storage, TypeConfig, network, open, serve_raft,
};
use crate::state::State;

#[derive(Default)]
struct Serve(OnceLock<Raft>);

#[async_trait]
impl Handler for Serve {
    async fn handle(&self, _from: NodeId, kind: Kind, body: Bytes) -> Result<Bytes, String> {
        let raft = self.0.get().ok_or("not there yet")?;
        serve_raft(raft, kind, body).await
    }
}

/// One node.
pub(crate) struct TestNode {
    pub id: NodeId,
    pub raft: Raft,
    pub log: LogStore,
    pub state: Arc<RwLock<State>>,
    pub bodies: Bodies,
    pub kv: Arc<MemKv>,
    pub blobs: Arc<MemBlobs>,
    pub peers: Peers,
    pub addr: SocketAddr,
}

impl TestNode {
    pub fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    pub fn hash(&self) -> [u8; 32] {
        self.state.read().expect("whole").hash()
    }

    /// As the state has it: Raft's metrics say so a little later.
    pub fn applied(&self) -> u64 {
        self.state.read().expect("whole").applied()
    }
}

/// How the nodes are set up.
#[derive(Clone)]
pub(crate) struct Setup {
    pub config: Config,
    pub every: CheckpointEvery,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: crate::raft::config(&crate::config::LogKeeping::default()).expect("valid"),
            every: CheckpointEvery::default(),
        }
    }
}

impl Setup {
    /// Checkpoints every `entries`, and hardly any log kept behind them.
    pub fn aggressive(entries: u64) -> Self {
        let config = Config {
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(entries),
            max_in_snapshot_log_to_keep: 0,
            purge_batch_size: 1,
            ..Self::default().config
        };
        Self { config, every: CheckpointEvery { entries: 1, bytes: 1 } }
    }
}

/// Some nodes; the first one forms the cluster.
pub(crate) struct TestCluster {
    pub net: MemNet,
    pub setup: Setup,
    pub nodes: Vec<TestNode>,
}

impl TestCluster {
    /// `count` voters, with a leader.
    pub async fn start(count: u64, setup: Setup) -> Self {
        let mut cluster = Self { net: MemNet::default(), setup, nodes: Vec::new() };
        for id in 1..=count {
            let node = cluster.open(NodeId(id), MemKv::new(), MemBlobs::new()).await;
            cluster.nodes.push(node);
        }
        cluster.connect();
        let members: BTreeMap<_, _> =
            cluster.nodes.iter().map(|node| (node.id, Member { peer_addr: node.addr.to_string() })).collect();
        cluster.nodes[0].raft.initialize(members).await.expect("a new cluster");
        cluster.leader().await;
        cluster
    }

    pub async fn open(&self, id: NodeId, kv: Arc<MemKv>, blobs: Arc<MemBlobs>) -> TestNode {
        let env = Env { net: Arc::new(self.net.clone()), kv: kv.clone(), blobs: blobs.clone() };
        let Storage { log, machine, state, bodies } =
            open(&env, Arc::new(NoSink), self.setup.every).await.expect("opens");
        let peers = Peers::new(env.net, id, Secret::new("a secret for tests"), Arc::new(NoObserver));
        let serve = Arc::new(Serve::default());
        let addr = peers.listen("127.0.0.1:0", serve.clone()).await.expect("listens");
        let config = Arc::new(self.setup.config.clone());
        let raft = Raft::new(id, config, network(peers.clone()), log.clone(), machine).await.expect("starts");
        assert!(serve.0.set(raft.clone()).is_ok(), "set once");
        TestNode { id, raft, log, state, bodies, kv, blobs, peers, addr }
    }

    pub fn connect(&self) {
        let addresses: BTreeMap<_, _> = self.nodes.iter().map(|node| (node.id, node.addr.to_string())).collect();
        for node in &self.nodes {
            node.peers.set_addresses(addresses.clone());
        }
    }

    /// Cuts the node at `at` off from the others, or heals that.
    pub fn isolate(&self, at: usize, isolated: bool) {
        let node = &self.nodes[at];
        // Nobody gets through to it, and it dials nobody.
        self.net.hang(node.addr, isolated);
        if isolated {
            node.peers.set_addresses(BTreeMap::new());
            self.net.cut(node.addr);
        } else {
            self.connect();
        }
    }

    /// Waits for a leader that a majority of the nodes agree on; gives its place.
    pub async fn leader(&self) -> usize {
        loop {
            let leaders: Vec<_> = self.nodes.iter().filter_map(|node| node.metrics().current_leader).collect();
            for (at, node) in self.nodes.iter().enumerate() {
                let votes = leaders.iter().filter(|leader| **leader == node.id).count();
                if votes * 2 > self.nodes.len() && node.metrics().state.is_leader() {
                    return at;
                }
            }
            clock::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all of `places` have applied what the node at `of` has.
    pub async fn settle(&self, of: usize, places: impl IntoIterator<Item = usize>) {
        let target = self.nodes[of].applied();
        for at in places {
            let node = &self.nodes[at];
            let wait = node.raft.wait(Some(Duration::from_secs(60)));
            wait.applied_index_at_least(Some(target), "settle").await.expect("applied");
        }
    }
}

/// Writes a script's entries through one node's Raft.
pub(crate) struct Writer {
    pub raft: Raft,
    pub script: Script,
}

impl Writer {
    /// Begins with the node's arrival.
    pub async fn new(raft: Raft) -> Self {
        let blank = raft.write_blank().await.expect("written");
        let (script, up) = Script::starting(blank.log_id.index + 1);
        let mut writer = Self { raft, script };
        writer.write(up).await;
        writer
    }

    pub async fn write(&mut self, entry: Entry) {
        let EntryPayload::Normal(Payload(bytes)) = entry.payload else { panic!("a command") };
        let written = self.raft.client_write(Payload(bytes)).await.expect("written");
        assert_eq!(written.log_id.index, entry.log_id.index, "nobody else writes");
    }
}
