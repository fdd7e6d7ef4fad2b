//! From a node's death to delivery restored, over many deaths:
//! `cargo bench -p im-gateway --bench failover -- [kills]`, 50 if nothing else is said.
//!
//! Three real processes and [`pairs`] of users. One node is killed, the leader and a follower by turns. A pair is
//! restored when the first message arrives that was meant to be sent after the death: messages of
//! a pair arrive in order, so all before it are there too. Users are *elsewhere* when neither was at
//! the dead node, and its *own* when either was.

mod pairs;

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::env::clock::{self, Instant};
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use im_gateway::client::{Client, Event};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use pairs::common::{TestCluster, eventually};
use pairs::{NODES, connect, meant, send};

/// Traffic before a death.
const CALM: Duration = Duration::from_secs(1);
const KILLS: usize = 50;

/// A sender and a recipient.
struct Pair {
    nodes: [usize; 2],
    /// When the first message meant for after the death has arrived.
    restored: Arc<Mutex<Option<Instant>>>,
    clients: [Client; 2],
    tasks: [JoinHandle<()>; 2],
}

impl Pair {
    /// Both connect, and the talk begins. `died` is when the node died, once it has.
    async fn start(
        cluster: &TestCluster,
        name: &str,
        nodes: [usize; 2],
        died: watch::Receiver<Option<Instant>>,
    ) -> Self {
        let to = format!("{name}-to");
        let clients =
            [connect(cluster, &format!("{name}-from"), nodes[0]).await, connect(cluster, &to, nodes[1]).await];
        let restored = Arc::new(Mutex::new(None));
        let tasks = [
            tokio::spawn(send(clients[0].clone(), to)),
            tokio::spawn(receive(clients[1].clone(), died, restored.clone())),
        ];
        Self { nodes, restored, clients, tasks }
    }

    fn restored(&self) -> Option<Instant> {
        *self.restored.lock().expect("nobody panics while holding it")
    }

    async fn end(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        join_all(self.clients.iter().map(Client::close)).await;
    }
}

async fn receive(client: Client, died: watch::Receiver<Option<Instant>>, restored: Arc<Mutex<Option<Instant>>>) {
    while let Some(event) = client.next().await {
        let Event::Message(message) = event else { continue };
        if died.borrow().is_some_and(|died| meant(&message) >= died) {
            restored.lock().expect("nobody panics while holding it").get_or_insert_with(clock::now);
        }
    }
}

/// Times of one kind of death, of one kind of users.
struct Times {
    /// Of each pair.
    pairs: Histogram<u64>,
    /// Of the last pair of each death.
    deaths: Histogram<u64>,
}

impl Times {
    fn new() -> Result<Self, Box<dyn Error>> {
        Ok(Self { pairs: Histogram::new(3)?, deaths: Histogram::new(3)? })
    }

    fn add(&mut self, times: &[Duration]) -> Result<(), Box<dyn Error>> {
        let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        for time in times {
            self.pairs.record(ms(time))?;
        }
        if let Some(last) = times.iter().max() {
            self.deaths.record(ms(last))?;
        }
        Ok(())
    }

    fn print(&self, of: &str) {
        let row = |what: &str, times: &Histogram<u64>| {
            let at = |quantile| times.value_at_quantile(quantile);
            println!("{of:<22} {what:<14} {:>6} {:>6} {:>6} {:>6}", times.len(), at(0.5), at(0.99), times.max());
        };
        row("each pair", &self.pairs);
        row("the last pair", &self.deaths);
    }
}

/// Kills the node `victim` under traffic; the times of users elsewhere, and of its own.
async fn round(cluster: &mut TestCluster, number: usize, victim: usize) -> [Vec<Duration>; 2] {
    let (death, died) = watch::channel(None);
    let mut starting = Vec::new();
    for (n, nodes) in pairs::nodes().enumerate() {
        let (cluster, died) = (&*cluster, died.clone());
        starting.push(async move { Pair::start(cluster, &format!("round{number}-{n}"), nodes, died).await });
    }
    let pairs = join_all(starting).await;
    clock::sleep(CALM).await;
    let at = clock::now();
    death.send_replace(Some(at));
    cluster.kill(victim);
    eventually("delivery is restored", async || pairs.iter().all(|pair| pair.restored().is_some()).then_some(())).await;
    let mut times = [Vec::new(), Vec::new()];
    for pair in &pairs {
        let restored = pair.restored().expect("it is by now");
        times[usize::from(pair.nodes.contains(&victim))].push(restored - at);
    }
    join_all(pairs.into_iter().map(Pair::end)).await;
    cluster.restart(victim);
    cluster.ready(victim).await;
    times
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let kills = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(KILLS);
    let mut cluster = TestCluster::start(NODES).await;
    let mut leaders = [Times::new()?, Times::new()?];
    let mut followers = [Times::new()?, Times::new()?];
    for number in 0..kills {
        let leader = cluster.leader().await;
        let leads = number % 2 == 0;
        let victim = if leads { leader } else { (leader + 1 + number / 2 % (NODES - 1)) % NODES };
        let times = round(&mut cluster, number, victim).await;
        let into = if leads { &mut leaders } else { &mut followers };
        for (into, times) in into.iter_mut().zip(&times) {
            into.add(times)?;
        }
        eprintln!("{}/{kills}: {} died", number + 1, if leads { "the leader" } else { "a follower" });
    }
    println!("{:<22} {:<14} {:>6} {:>6} {:>6} {:>6}", "ms until restored", "", "count", "P50", "P99", "max");
    leaders[0].print("leader, elsewhere");
    leaders[1].print("leader, its own");
    followers[0].print("follower, elsewhere");
    followers[1].print("follower, its own");
    Ok(())
}
