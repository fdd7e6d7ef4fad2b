//! What users notice of a rolling restart:
//! `cargo bench -p im-gateway --bench rolling -- [stops]`, 12 if nothing else is said.
//!
//! Three real processes and [`pairs`] of users. The nodes are stopped in good order, one after the other, and started
//! anew. A pair's interruption by a stop is the longest time from the moment at which a message was
//! meant to be sent to its arrival. A machine's own hiccups count, too: see the calm rounds, in which
//! nothing is stopped.

mod pairs;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::env::clock;
use hdrhistogram::Histogram;
use im_gateway::client::{Client, Event};

use pairs::common::TestCluster;
use pairs::{NODES, connect, meant, send};

/// Traffic before and after a stop, and in a calm round.
const CALM: Duration = Duration::from_secs(2);
const STOPS: usize = 12;

/// A sender and a recipient.
struct Pair {
    /// The longest way of a message since it was asked last, in nanoseconds.
    longest: Arc<AtomicU64>,
    /// Connections that ended before there was another.
    ends: Arc<AtomicU64>,
}

impl Pair {
    async fn start(cluster: &TestCluster, name: &str, [from, to]: [usize; 2]) -> Self {
        let pair = Self { longest: Arc::default(), ends: Arc::default() };
        let recipient = format!("{name}-to");
        let sending = connect(cluster, &format!("{name}-from"), from).await;
        let receiving = connect(cluster, &recipient, to).await;
        tokio::spawn(send(sending.clone(), recipient));
        for client in [sending, receiving] {
            tokio::spawn(listen(client, pair.longest.clone(), pair.ends.clone()));
        }
        pair
    }

    fn longest_ms(&self) -> u64 {
        self.longest.swap(0, Ordering::Relaxed) / 1_000_000
    }
}

async fn listen(client: Client, longest: Arc<AtomicU64>, ends: Arc<AtomicU64>) {
    while let Some(event) = client.next().await {
        match event {
            Event::Message(message) => {
                let took = meant(&message).elapsed().as_nanos();
                longest.fetch_max(u64::try_from(took).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            Event::Disconnected { .. } => drop(ends.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let stops = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(STOPS);
    let mut cluster = TestCluster::start(NODES).await;
    let mut pairs = Vec::new();
    for (n, nodes) in pairs::nodes().enumerate() {
        pairs.push(Pair::start(&cluster, &format!("pair{n}"), nodes).await);
    }
    let (mut calm, mut stopped) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    let note = |times: &mut Histogram<u64>| pairs.iter().try_for_each(|pair| times.record(pair.longest_ms()));
    for number in 0..stops {
        clock::sleep(CALM).await;
        note(&mut calm)?;
        let node = number % NODES;
        cluster.signal(node, libc::SIGTERM);
        cluster.ended(node).await;
        clock::sleep(CALM).await;
        note(&mut stopped)?;
        cluster.restart(node);
        cluster.ready(node).await;
        eprintln!("{}/{stops}", number + 1);
    }
    println!("{:<34} {:>6} {:>6} {:>6} {:>6}", "ms, a pair's longest way", "count", "P50", "P99", "max");
    for (of, times) in [("while nothing was stopped", &calm), ("while a node was stopped", &stopped)] {
        let at = |quantile| times.value_at_quantile(quantile);
        println!("{of:<34} {:>6} {:>6} {:>6} {:>6}", times.len(), at(0.5), at(0.99), times.max());
    }
    let ends: u64 = pairs.iter().map(|pair| pair.ends.load(Ordering::Relaxed)).sum();
    println!("connections that ended before there was another: {ends}");
    Ok(())
}
