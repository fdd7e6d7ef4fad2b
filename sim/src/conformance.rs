//! The simulated side of the seam, held to the suite of the real one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use async_trait::async_trait;
use cluster::env::conformance::{self, BlobsWorld, Case, KvWorld, NetWorld, StoreWorld, Victim};
use cluster::env::{Blobs, Kv, Net};
use madsim::runtime::{Handle, Runtime};
use tokio::sync::Notify;

use crate::disk::Disk;
use crate::net::{Host, Network, SimNet};
use crate::oracle::Journal;
use crate::time;
use crate::trace::Trace;

/// Seeds that each case runs under.
const SEEDS: u64 = 20;

/// Checks all cases; prints each, and returns how many failed.
pub fn run() -> usize {
    check("clock", conformance::clock_cases(), |_| Box::new(()) as Box<()>)
        + check("kv", conformance::kv_cases(), |seed| Box::new(OneDisk::new(seed)) as Box<KvWorld>)
        + check("blobs", conformance::blobs_cases(), |seed| Box::new(OneDisk::new(seed)) as Box<BlobsWorld>)
        + check("net", conformance::net_cases(), |seed| Box::new(TwoHosts::new(seed)) as Box<dyn NetWorld>)
}

fn check<W: ?Sized>(what: &str, cases: Vec<Case<W>>, world: impl Fn(u64) -> Box<W>) -> usize {
    let mut failed = 0;
    for case in cases {
        let holds = |seed: &u64| {
            let runtime = Runtime::with_seed_and_config(*seed, madsim::Config::default());
            let checked = AssertUnwindSafe(|| {
                runtime.block_on(async {
                    time::start();
                    let world = world(*seed);
                    (case.run)(&world).await;
                });
            });
            catch_unwind(checked).is_ok()
        };
        match (1..=SEEDS).find(|seed| !holds(seed)) {
            None => println!("{what}: {} ok", case.name),
            Some(seed) => {
                failed += 1;
                println!("{what}: {} FAILED at seed {seed}", case.name);
            }
        }
    }
    failed
}

/// A machine's disk, and nothing else of it.
struct OneDisk(Disk);

impl OneDisk {
    fn new(seed: u64) -> Self {
        Self(Disk::new(seed, "machine", Trace::default(), Journal::default()))
    }
}

#[async_trait]
impl StoreWorld<dyn Kv> for OneDisk {
    async fn open(&self) -> Arc<dyn Kv> {
        self.0.open().0
    }

    async fn reopen(&self, store: Arc<dyn Kv>) -> Arc<dyn Kv> {
        drop(store);
        self.0.open().0
    }

    async fn crash(&self, store: Arc<dyn Kv>) -> Arc<dyn Kv> {
        self.0.crash();
        assert!(store.get(b"").is_err(), "a dead process reads");
        self.0.open().0
    }
}

#[async_trait]
impl StoreWorld<dyn Blobs> for OneDisk {
    async fn open(&self) -> Arc<dyn Blobs> {
        self.0.open().1
    }

    async fn reopen(&self, store: Arc<dyn Blobs>) -> Arc<dyn Blobs> {
        drop(store);
        self.0.open().1
    }

    async fn crash(&self, store: Arc<dyn Blobs>) -> Arc<dyn Blobs> {
        self.0.crash();
        assert!(store.list().await.is_err(), "a dead process reads");
        self.0.open().1
    }
}

/// A machine that listens and one that dials.
struct TwoHosts {
    network: Network,
    server: Arc<SimNet>,
    client: Arc<SimNet>,
    any_port: String,
}

impl TwoHosts {
    fn new(seed: u64) -> Self {
        let network = Network::new(seed, Trace::default());
        let (server, addr) = network.add_host();
        let (client, _) = network.add_host();
        let (server, client) = (Arc::new(network.start(server)), Arc::new(network.start(client)));
        Self { network, server, client, any_port: format!("{addr}:0") }
    }
}

#[async_trait]
impl NetWorld for TwoHosts {
    fn server(&self) -> Arc<dyn Net> {
        self.server.clone()
    }

    fn client(&self) -> Arc<dyn Net> {
        self.client.clone()
    }

    fn any_port(&self) -> String {
        self.any_port.clone()
    }

    async fn victim(&self) -> Victim {
        let (host, ip): (Host, _) = self.network.add_host();
        let net = Arc::new(self.network.start(host));
        let node = Handle::current().create_node().name("victim").build();
        let id = node.id();
        let (addr, started) = (format!("{ip}:7"), Arc::new(Notify::new()));
        node.spawn({
            let (addr, started) = (addr.clone(), started.clone());
            async move { conformance::echo(net, &addr, |_| started.notify_one()).await }
        });
        started.notified().await;
        let network = self.network.clone();
        let kill = move || {
            network.kill(host);
            Handle::current().kill(id);
        };
        Victim { addr, kill: Box::new(kill) }
    }
}
