//! A machine, and the process that runs on it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use cluster::Cluster;
use madsim::runtime::Handle;
use madsim::task::NodeId;
use tokio::sync::Notify;

use super::{CLIENT_PORT, PEER_PORT};
use crate::dice::Dice;
use crate::disk::Disk;
use crate::net::{Host, Network};
use crate::oracle::Journal;
use crate::plan::Plan;
use crate::time::MachineClock;
use crate::trace::Trace;

/// A machine of the cluster.
pub struct Machine {
    pub name: String,
    pub host: Host,
    pub disk: Disk,
    pub clock: MachineClock,
    pub(super) ip: IpAddr,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Whether it has a place in the cluster.
    pub wanted: bool,
    /// How many faults keep it down.
    pub holds: usize,
    /// Whether a process has run here.
    pub booted: bool,
    /// Whether the operator is giving its place to a new node.
    pub replacing: bool,
    /// Whom its disk belongs to, as far as that was seen.
    pub identity: Option<String>,
    /// The last process that stopped in good order.
    pub stopped: Option<NodeId>,
    pub process: Option<Process>,
}

/// A running node.
pub(super) struct Process {
    pub node: NodeId,
    /// Once it has started; for oracles to look into.
    pub cluster: Option<Cluster>,
    /// When it was started, in ns.
    pub since: u64,
    /// Index up to which the log was committed then.
    pub committed: u64,
    pub stop: Arc<Notify>,
    /// How many faults make it stand still.
    pub stalls: usize,
}

impl Process {
    pub(super) fn die(self) {
        if self.stalls > 0 {
            // Its tasks are dropped where their clock is known.
            Handle::current().resume(self.node);
        }
        Handle::current().kill(self.node);
    }
}

impl Machine {
    /// The plan's machine `n`, with an empty disk.
    pub(super) fn new(plan: &Plan, n: usize, network: &Network, trace: &Trace, journal: &Journal) -> Self {
        let name = format!("n{n}");
        let (host, ip) = network.add_host();
        let disk = Disk::new(plan.seed, &name, trace.clone(), journal.clone());
        let disk = if plan.sled { disk.on_sled() } else { disk };
        let state = Mutex::new(State { wanted: n < plan.nodes, ..State::default() });
        Self { host, ip, disk, clock: clock(plan, &name), state, name }
    }

    pub(super) fn peer_addr(&self) -> String {
        format!("{}:{PEER_PORT}", self.ip)
    }

    pub(super) fn url(&self) -> String {
        format!("ws://{}:{CLIENT_PORT}/ws", self.ip)
    }
}

/// A machine's clock, as wrong as the plan allows.
fn clock(plan: &Plan, name: &str) -> MachineClock {
    let dice = Dice::new(plan.seed, &format!("clock of {name}"));
    let around = |most: u64| i64::try_from(dice.between(0, 2 * most)).unwrap_or(0) - i64::try_from(most).unwrap_or(0);
    MachineClock::new(dice.between(0, 1 << 50), around(plan.clock_drift_ppm), around(plan.clock_offset_ms))
}
