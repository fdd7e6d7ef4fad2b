//! Machines that run nodes: booted, killed, cut off and booted again.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::config::LogKeeping;
use cluster::env::Env;
use cluster::raft::CheckpointEvery;
use cluster::{Cluster, ClusterConfig};
use madsim::runtime::Handle;
use madsim::task::NodeId;
use serde_json::json;

use crate::disk::Disk;
use crate::net::{Host, Network, SimNet};
use crate::plan::Plan;
use crate::process;
use crate::trace::Trace;

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
    machines: Vec<Machine>,
    log: LogKeeping,
    /// What nodes said when they could not go on.
    failures: Mutex<Vec<String>>,
}

/// A machine of the cluster.
struct Machine {
    name: String,
    host: Host,
    ip: IpAddr,
    disk: Disk,
    process: Mutex<Option<Process>>,
}

/// A running node.
struct Process {
    node: NodeId,
    /// Once it has started; for oracles to look into.
    cluster: Option<Cluster>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// The plan's machines, none of which runs yet.
    pub fn new(seed: u64, plan: &Plan, trace: Trace) -> Self {
        let network = Network::new(seed, trace.clone());
        let machines = (0..plan.nodes).map(|n| {
            let name = format!("n{n}");
            let (host, ip) = network.add_host();
            let disk = Disk::new(seed, &name, trace.clone());
            Machine { name, host, ip, disk, process: Mutex::new(None) }
        });
        let machines = machines.collect();
        let checkpoint = CheckpointEvery { entries: plan.checkpoint_entries, ..CheckpointEvery::default() };
        let log = LogKeeping { checkpoint, kept_entries: plan.kept_entries };
        Self { shared: Arc::new(Shared { network, trace, machines, log, failures: Mutex::default() }) }
    }

    /// How many machines there are.
    pub fn len(&self) -> usize {
        self.shared.machines.len()
    }

    /// The trace.
    pub fn trace(&self) -> &Trace {
        &self.shared.trace
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

    /// Whether machine `n` runs a process.
    pub fn is_up(&self, n: usize) -> bool {
        lock(&self.shared.machines[n].process).is_some()
    }

    /// Starts a node on machine `n`, if none runs there.
    pub fn boot(&self, n: usize) {
        if self.is_up(n) {
            return;
        }
        let machine = &self.shared.machines[n];
        self.shared.trace.event("boot", json!({ "node": machine.name }));
        let net = Arc::new(self.shared.network.start(machine.host));
        let (kv, blobs) = machine.disk.open();
        let env = Env { net, kv, blobs };
        let config = self.config(n);
        let listen = format!("{}:{CLIENT_PORT}", machine.ip);
        let node = Handle::current().create_node().name(&machine.name).build();
        *lock(&machine.process) = Some(Process { node: node.id(), cluster: None });
        let (world, id) = (self.clone(), node.id());
        node.spawn(async move {
            let started = |cluster: &Cluster| world.started(n, id, cluster);
            let why = process::run(env, config, &listen, started).await;
            world.failed(n, &why);
        });
    }

    fn started(&self, n: usize, id: NodeId, cluster: &Cluster) {
        if let Some(process) = lock(&self.shared.machines[n].process).as_mut().filter(|process| process.node == id) {
            process.cluster = Some(cluster.clone());
        }
    }

    fn failed(&self, n: usize, why: &str) {
        let name = &self.shared.machines[n].name;
        self.shared.trace.event("failed", json!({ "node": name, "why": why }));
        lock(&self.shared.failures).push(format!("{name} ended by itself: {why}"));
    }

    fn config(&self, n: usize) -> ClusterConfig {
        let machine = &self.shared.machines[n];
        let others = self.shared.machines.iter().filter(|other| other.name != machine.name);
        ClusterConfig {
            peer_listen: machine.peer_addr(),
            peer_advertise: None,
            client_url: machine.url(),
            join: others.map(Machine::peer_addr).collect(),
            bootstrap: n == 0,
            secret: cluster::peer::Secret::new(PEER_SECRET),
            voters: 3,
            limits: cluster::state::Limits::default(),
            log: self.shared.log.clone(),
        }
    }

    /// Kills machine `n`'s process, as SIGKILL does, or by cutting the machine's power.
    pub fn kill(&self, n: usize, power: bool) {
        let machine = &self.shared.machines[n];
        let Some(process) = lock(&machine.process).take() else { return };
        self.shared.trace.event("kill", json!({ "node": machine.name, "power": power }));
        // Nothing that the dying tasks still do reaches the outside.
        if power {
            self.shared.network.power_off(machine.host);
        } else {
            self.shared.network.kill(machine.host);
        }
        machine.disk.crash();
        Handle::current().kill(process.node);
    }

    /// Cuts machine `n` off from everybody, or joins it again.
    pub fn set_isolated(&self, n: usize, isolated: bool) {
        let machine = &self.shared.machines[n];
        self.shared.trace.event("isolate", json!({ "node": machine.name, "isolated": isolated }));
        for other in (0..self.shared.network.hosts()).filter(|&other| other != machine.host) {
            self.shared.network.set_cut(machine.host, other, isolated);
            self.shared.network.set_cut(other, machine.host, isolated);
        }
    }

    /// The name and cluster of every node that has started.
    pub fn clusters(&self) -> Vec<(String, Cluster)> {
        let started =
            |machine: &Machine| Some((machine.name.clone(), lock(&machine.process).as_ref()?.cluster.clone()?));
        self.shared.machines.iter().filter_map(started).collect()
    }

    /// What nodes said that could not go on.
    pub fn failures(&self) -> Vec<String> {
        lock(&self.shared.failures).clone()
    }
}

impl Machine {
    fn peer_addr(&self) -> String {
        format!("{}:{PEER_PORT}", self.ip)
    }

    fn url(&self) -> String {
        format!("ws://{}:{CLIENT_PORT}/ws", self.ip)
    }
}
