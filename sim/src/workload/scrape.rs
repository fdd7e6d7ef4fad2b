//! A monitoring system: asks each node for its metrics, as Prometheus would, over the network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::env::clock;
use cluster::sync::lock;
use madsim::runtime::Handle;

use super::http;
use crate::alerts::scrapes::{Keep, Sample};
use crate::net::SimNet;
use crate::oracle::{Journal, Scrape, ScrapedProcess};
use crate::slo::openmetrics;
use crate::time;
use crate::world::World;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// By machine and start.
type Processes = BTreeMap<(usize, u64), (ScrapedProcess, String)>;

/// See the module. Clones are the same.
#[derive(Clone)]
pub struct Scraper {
    world: World,
    journal: Journal,
    net: Arc<SimNet>,
    /// The last answer of each process, and its text, which is not read before it is known to be the last.
    processes: Arc<Mutex<Processes>>,
    keep: Keep,
    /// What is kept.
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Scraper {
    /// Asks every node, every `period`, from a machine of its own, and keeps what is wanted of the answers.
    pub fn start(world: World, journal: Journal, period: Duration, keep: Keep) -> Self {
        let net = world.client_net();
        let scraper = Self { world, journal, net, processes: Arc::default(), keep, samples: Arc::default() };
        let machine = Handle::current().create_node().name("scraper").build();
        for n in 0..scraper.world.len() {
            let scraper = scraper.clone();
            machine.spawn(async move {
                let began = time::now();
                for number in 0.. {
                    // To the moment, however long an answer takes.
                    let due = began + time::nanos(period) * number;
                    time::sleep(Duration::from_nanos(due.saturating_sub(time::now()))).await;
                    let text = scraper.ask(n).await;
                    scraper.keep(Sample { number: number as usize, machine: n, text });
                }
            });
        }
        scraper
    }

    /// Asks the node on machine `n` now; what it answered.
    pub async fn ask(&self, n: usize) -> Option<String> {
        let (node, since, committed) = self.world.process(n)?;
        let asked_at = time::now();
        let text = clock::timeout(PATIENCE, self.get(n)).await.ok()??;
        // It may have been another process that answered.
        if self.world.process(n).is_none_or(|(_, now_since, _)| now_since != since) {
            return Some(text);
        }
        let installed = self.journal.was_sent_a_checkpoint(&self.world.machine(n).name, since);
        let (at, committed_now) = (time::now(), self.journal.committed());
        let scrape = Scrape { asked_at, at, committed: committed_now, values: BTreeMap::new() };
        let process = ScrapedProcess { machine: n, node, since, committed, installed, scrape };
        lock(&self.processes).insert((n, since), (process, text.clone()));
        Some(text)
    }

    fn keep(&self, mut sample: Sample) {
        match self.keep {
            Keep::Nothing => return,
            Keep::Everything => {}
            Keep::Objectives => sample.text = sample.text.as_deref().map(openmetrics::read_by_rules),
        }
        lock(&self.samples).push(sample);
    }

    /// What was kept so far; nothing is left.
    pub fn samples(&self) -> Vec<Sample> {
        std::mem::take(&mut lock(&self.samples))
    }

    async fn get(&self, n: usize) -> Option<String> {
        http::get(&self.net, &self.world.client_addrs()[n], "/metrics", None).await
    }

    /// The last answer of each process.
    pub fn processes(&self) -> Vec<ScrapedProcess> {
        let processes = lock(&self.processes);
        let read = |(process, text): &(ScrapedProcess, String)| {
            let mut process = process.clone();
            process.scrape.values = Scrape::parse(text);
            process
        };
        processes.values().map(read).collect()
    }
}
