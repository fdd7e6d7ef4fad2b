//! Requests per second over one peer link on loopback TCP, both ends in this process.
//!
//! `cargo run --release --example peer_throughput -- [in flight] [body bytes] [seconds]`
//!
//! Without arguments it measures a few pairs for a second each. Each request is answered with an
//! empty body by a handler that does nothing: what is left is the cost of the link.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::env::clock;
use cluster::id::NodeId;
use cluster::observer::NoObserver;
use cluster::peer::{Handler, Kind, LinkState, Peers, Secret};
use hdrhistogram::Histogram;
use im_gateway::env::Tcp;

struct Nothing;

#[async_trait]
impl Handler for Nothing {
    async fn handle(&self, _: NodeId, _: Kind, _: Bytes) -> Result<Bytes, String> {
        Ok(Bytes::new())
    }
}

/// Asks one request after the other until the time is over.
async fn ask(peers: Peers, to: NodeId, kind: Kind, body: Bytes, time: Duration) -> Result<Histogram<u64>, String> {
    let mut latencies = Histogram::new(3).map_err(|error| error.to_string())?;
    let began = clock::now();
    while began.elapsed() < time {
        let asked = clock::now();
        let answer = peers.request(to, kind, body.clone(), Duration::from_secs(10)).await;
        answer.map_err(|error| error.to_string())?;
        latencies.record(asked.elapsed().as_nanos() as u64).map_err(|error| error.to_string())?;
    }
    Ok(latencies)
}

async fn measure(
    peers: &Peers,
    to: NodeId,
    kind: Kind,
    in_flight: usize,
    bytes: usize,
    time: Duration,
) -> Result<(), Box<dyn Error>> {
    let body = Bytes::from(vec![7; bytes]);
    let began = clock::now();
    let asking: Vec<_> =
        (0..in_flight).map(|_| tokio::spawn(ask(peers.clone(), to, kind, body.clone(), time))).collect();
    let mut all = Histogram::<u64>::new(3)?;
    for task in asking {
        all.add(task.await??)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = all.len() as f64 / seconds;
    let micros = |quantile| all.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{:>6} {in_flight:>9} {bytes:>10} {rate:>12.0} {:>10.1} {:>10.0} {:>10.0}",
        kind.0,
        rate * bytes as f64 / 1e6,
        micros(0.5),
        micros(0.99)
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = Vec::new();
    for argument in std::env::args().skip(1) {
        numbers.push(argument.parse::<usize>()?);
    }
    let secret = Secret::new("measure");
    let (from, to) = (NodeId(1), NodeId(2));
    let answering = Peers::new(Arc::new(Tcp), to, secret.clone(), Arc::new(NoObserver));
    let addr = answering.listen("127.0.0.1:0", Arc::new(Nothing)).await?;
    let asking = Peers::new(Arc::new(Tcp), from, secret, Arc::new(NoObserver));
    let mut changes = asking.changes();
    asking.set_addresses(BTreeMap::from([(to, addr.to_string())]));
    while asking.links()[0].state != LinkState::Connected {
        changes.changed().await?;
    }
    println!("  kind in flight body bytes   requests/s       MB/s     p50 µs     p99 µs");
    let time = Duration::from_secs(numbers.get(2).copied().unwrap_or(1) as u64);
    let pairs = match numbers[..] {
        [in_flight, bytes, ..] => vec![(in_flight, bytes)],
        [in_flight] => vec![(in_flight, 200)],
        [] => vec![(1, 200), (16, 200), (64, 200), (512, 200), (64, 4_096), (16, 65_536), (4, 1 << 20)],
    };
    for (in_flight, bytes) in pairs {
        for kind in [Kind::PROPOSE, Kind::APPEND] {
            measure(&asking, to, kind, in_flight, bytes, time).await?;
        }
    }
    Ok(())
}
