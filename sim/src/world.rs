//! Machines that run nodes: booted, killed, stopped, cut off, emptied and booted again.
//!
//! Invariant: faults may overlap. A machine boots when nothing keeps it down any more, and each
//! fault takes back only what it did itself.

mod deaths;
mod machine;

use std::sync::{Arc, Mutex, MutexGuard};

use cluster::config::LogKeeping;
use cluster::env::Env;
use cluster::raft::CheckpointEvery;
use cluster::state::FEATURE_LEVEL;
use cluster::sync::lock;
use cluster::{Cluster, ClusterConfig};
use madsim::runtime::Handle;
use madsim::task::NodeId;
use serde_json::json;
use tokio::sync::{Notify, mpsc};

use crate::evidence::{self, Undergone};
use crate::net::{Network, SimNet};
use crate::oracle::Journal;
use crate::plan::Plan;
use crate::process::{self, End};
use crate::span_sink::Spans;
use crate::time;
use crate::trace::Trace;
pub use machine::Machine;
use machine::{Process, State};

/// Where nodes listen for each other.
const PEER_PORT: u16 = 7000;
/// Where nodes listen for clients.
pub const CLIENT_PORT: u16 = 8080;
/// What links between nodes authenticate with.
const PEER_SECRET: &str = "the simulated cluster's secret";

/// A cluster of machines, and the network that clients share with them.
#[derive(Clone)]
pub struct World {
    shared: Arc<Shared>,
}

struct Shared {
    network: Network,
    trace: Trace,
    journal: Journal,
    machines: Vec<Machine>,
    /// How many of them the cluster begins with.
    founders: usize,
    voters: usize,
    log: LogKeeping,
    limits: cluster::state::Limits,
    groups: cluster::state::GroupLimits,
    /// What nodes say to understand in their first life, where that is an older build's level.
    old_level: Option<u32>,
    ping_ms: u64,
    tiny: bool,
    admit_per_s: u32,
    ends: mpsc::UnboundedSender<Ended>,
    /// For whoever restarts what ended.
    ended: Mutex<Option<mpsc::UnboundedReceiver<Ended>>>,
    violations: Mutex<Vec<String>>,
    spans: Spans,
}

/// A process ended by itself.
pub struct Ended {
    /// On which machine.
    pub machine: usize,
    /// How.
    pub end: End,
    process: NodeId,
}

impl World {
    /// The plan's machines, none of which runs yet.
    pub fn new(plan: &Plan, trace: Trace, journal: Journal) -> Self {
        let network = Network::new(plan.seed, trace.clone());
        if plan.tiny {
            network.make_buffers_tiny();
        }
        let machine = |n| Machine::new(plan, n, &network, &trace, &journal);
        let machines = (0..plan.machines()).map(machine).collect();
        let checkpoint = CheckpointEvery { entries: plan.checkpoint_entries, ..CheckpointEvery::default() };
        let log = LogKeeping { checkpoint, kept_entries: plan.kept_entries, kept_bytes: plan.kept_bytes };
        let (ends, ended) = mpsc::unbounded_channel();
        let shared = Shared {
            network,
            trace,
            journal,
            machines,
            founders: plan.nodes,
            voters: plan.voters,
            log,
            limits: plan.limits.clone(),
            groups: plan.groups.clone(),
            old_level: plan.old_level,
            ping_ms: plan.ping_ms,
            tiny: plan.tiny,
            admit_per_s: plan.admit_per_s,
            ends,
            ended: Mutex::new(Some(ended)),
            violations: Mutex::default(),
            spans: Spans::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// How many machines there are, those included that have no place in the cluster now.
    pub fn len(&self) -> usize {
        self.shared.machines.len()
    }

    /// The machines that have a place in the cluster.
    pub fn wanted(&self) -> Vec<usize> {
        (0..self.len()).filter(|&n| self.state(n).wanted).collect()
    }

    /// The trace.
    pub fn trace(&self) -> &Trace {
        &self.shared.trace
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    /// Machine `n`.
    pub fn machine(&self, n: usize) -> &Machine {
        &self.shared.machines[n]
    }

    fn state(&self, n: usize) -> MutexGuard<'_, State> {
        lock(&self.machine(n).state)
    }

    /// The URLs of all nodes, for clients.
    pub fn urls(&self) -> Vec<String> {
        self.shared.machines.iter().map(|machine| machine.url()).collect()
    }

    /// A machine for a client.
    pub fn client_net(&self) -> Arc<SimNet> {
        let (host, _) = self.shared.network.add_host();
        Arc::new(self.shared.network.start(host))
    }

    /// What nodes told of traced messages.
    pub fn spans(&self) -> &Spans {
        &self.shared.spans
    }

    /// Whether machine `n` runs a process.
    pub fn is_up(&self, n: usize) -> bool {
        self.state(n).process.is_some()
    }

    /// What machine `n`'s wall clock shows, ms since the Unix epoch.
    pub fn wall_ms(&self, n: usize) -> u64 {
        self.machine(n).clock.wall_now_ms()
    }

    /// Starts a node on machine `n`, unless one runs there, or something keeps it down.
    pub fn boot(&self, n: usize) {
        let machine = self.machine(n);
        let mut state = self.state(n);
        if state.process.is_some() || state.holds > 0 || !state.wanted {
            return;
        }
        self.shared.trace.event("boot", json!({ "node": machine.name }));
        let net = Arc::new(self.shared.network.start(machine.host));
        let (kv, blobs) = machine.disk.open();
        let env = Env { net, kv, blobs };
        let old = !std::mem::replace(&mut state.booted, true) && n < self.shared.founders;
        let feature_level = self.shared.old_level.filter(|_| old).unwrap_or(FEATURE_LEVEL);
        let config = ClusterConfig { feature_level, ..self.config(n) };
        // Each process has a name of its own, by which its tasks are counted.
        let name = process_name(&machine.name, time::now());
        let listen = format!("{}:{CLIENT_PORT}", machine.ip);
        let spans = self.shared.spans.of(name.clone());
        let (ping_ms, tiny, admit_per_s) = (self.shared.ping_ms, self.shared.tiny, self.shared.admit_per_s);
        let gateway = process::gateway_config(listen, ping_ms, tiny, admit_per_s, spans);
        let node = Handle::current().create_node().name(name).build();
        time::set_clock(node.id(), machine.clock.clone());
        let stop = Arc::new(Notify::new());
        state.process = Some(Process {
            node: node.id(),
            cluster: None,
            since: time::now(),
            committed: self.shared.journal.committed(),
            stop: stop.clone(),
            stalls: 0,
        });
        let (world, id) = (self.clone(), node.id());
        node.spawn(async move {
            let started = |cluster: &Cluster| world.started(n, id, cluster);
            let end = process::run(env, config, gateway, started, stop.notified()).await;
            // Nobody listens once the run is over.
            let _ = world.shared.ends.send(Ended { machine: n, end, process: id });
        });
    }

    fn started(&self, n: usize, id: NodeId, cluster: &Cluster) {
        let mut state = self.state(n);
        if let Some(process) = state.process.as_mut().filter(|process| process.node == id) {
            process.cluster = Some(cluster.clone());
            self.shared.journal.identify(&self.machine(n).name, cluster.node_id());
            state.identity = Some(cluster.node_id().to_string());
        }
    }

    fn config(&self, n: usize) -> ClusterConfig {
        let machine = self.machine(n);
        // A founder waits for the word of everybody whom it could join: only those that start with it.
        let others = self.shared.machines[..self.shared.founders].iter().filter(|other| other.name != machine.name);
        ClusterConfig {
            peer_listen: machine.peer_addr(),
            peer_advertise: None,
            client_url: machine.url(),
            join: others.map(Machine::peer_addr).collect(),
            // Also when its disk was wiped: it must find the cluster that stands.
            bootstrap: n == 0,
            secret: cluster::peer::Secret::new(PEER_SECRET),
            voters: self.shared.voters,
            limits: self.shared.limits.clone(),
            groups: self.shared.groups.clone(),
            feature_level: FEATURE_LEVEL,
            log: self.shared.log.clone(),
        }
    }

    // Places in the cluster.

    /// Gives machine `n` a place in the cluster, or takes it away.
    pub fn set_wanted(&self, n: usize, wanted: bool) {
        self.state(n).wanted = wanted;
        if wanted {
            evidence::note(Undergone::Place);
        }
    }

    /// Notes that the operator is giving machine `n`'s place to a new node, or has done so.
    pub fn set_replacing(&self, n: usize, replacing: bool) {
        self.state(n).replacing = replacing;
    }

    /// Whether any machine's place is being given to a new node.
    pub fn is_replacing(&self) -> bool {
        (0..self.len()).any(|n| self.state(n).replacing)
    }

    /// Whom machine `n`'s disk belongs to, as far as that was seen.
    pub fn identity(&self, n: usize) -> Option<String> {
        self.state(n).identity.clone()
    }

    /// Empties machine `n`'s disk; returns whom it belonged to. No process runs there.
    pub fn wipe(&self, n: usize) -> Option<String> {
        self.shared.trace.event("wipe", json!({ "node": self.machine(n).name }));
        self.machine(n).disk.wipe();
        self.state(n).identity.take()
    }

    // Looking.

    /// What the node on machine `n` says, by its own clock; `None` unless it has started.
    pub fn ask<T>(&self, n: usize, question: impl FnOnce(&Cluster) -> T) -> Option<T> {
        let (id, cluster) = self.node(n)?;
        Some(time::seen_by(id, || question(&cluster)))
    }

    /// The process on machine `n`, once it has started.
    pub fn node(&self, n: usize) -> Option<(NodeId, Cluster)> {
        let state = self.state(n);
        let process = state.process.as_ref()?;
        Some((process.node, process.cluster.clone()?))
    }

    /// The process on machine `n`, once it has started: its node id, since when it runs, in ns, and
    /// up to which index the log was committed then.
    pub fn process(&self, n: usize) -> Option<(cluster::id::NodeId, u64, u64)> {
        let state = self.state(n);
        let process = state.process.as_ref()?;
        Some((process.cluster.as_ref()?.node_id(), process.since, process.committed))
    }

    /// Where clients reach the nodes, `host:port`.
    pub fn client_addrs(&self) -> Vec<String> {
        self.shared.machines.iter().map(|machine| format!("{}:{CLIENT_PORT}", machine.ip)).collect()
    }

    /// The name and cluster of every node that has started. Whatever depends on time must be asked
    /// by [`Self::ask`].
    pub fn clusters(&self) -> Vec<(String, Cluster)> {
        let started = |n| Some((self.machine(n).name.clone(), self.node(n)?.1));
        (0..self.len()).filter_map(started).collect()
    }

    /// What keeps machines, links and disks from working, when no fault does any more.
    pub fn unhealed(&self) -> Vec<String> {
        let mut left = Vec::new();
        for n in 0..self.len() {
            let (machine, state) = (self.machine(n), self.state(n));
            let stalls = state.process.as_ref().map_or(0, |process| process.stalls);
            let troubles = machine.disk.troubles();
            if state.holds + stalls + troubles > 0 {
                let (name, holds) = (&machine.name, state.holds);
                left.push(format!("{name} has {holds} holds, {stalls} stalls and {troubles} troubles of its disk"));
            }
        }
        match self.network().weaknesses() {
            0 => {}
            weak => left.push(format!("{weak} ways are weak")),
        }
        left
    }

    /// Notes something that never may happen.
    pub fn violated(&self, text: String) {
        lock(&self.shared.violations).push(text);
    }

    /// What happened that never may.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.shared.violations).clone()
    }
}

/// What the runtime calls the process that was started on a machine at this moment, in ns.
pub fn process_name(machine: &str, since: u64) -> String {
    format!("{machine} since {since}")
}
