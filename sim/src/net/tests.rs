//! The network's part of the fault table: what each fault is to those who talk through it, in virtual time.

mod ends;
mod streams;
mod ways;

use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use cluster::env::Net;
use cluster::env::net::{BoxConn, Listener};
use madsim::runtime::Runtime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Host, Network, SimNet};
use crate::time;
use crate::trace::Trace;

/// Seeds that each test runs under.
const SEEDS: u64 = 20;
const SERVER: Host = 0;
const CLIENT: Host = 1;
/// There and back takes no longer on healthy ways, with all bad luck.
const SOON: Duration = Duration::from_millis(25);
/// Whatever is to come has come by then.
const HOUR: Duration = Duration::from_secs(3_600);

/// Two machines with a process each, of which one listens and one dials.
struct Two {
    network: Network,
    client: SimNet,
    listener: Box<dyn Listener>,
    addr: String,
}

impl Two {
    async fn new(seed: u64) -> Self {
        let network = Network::new(seed, Trace::default());
        let (server, ip) = network.add_host();
        let (client, _) = network.add_host();
        assert_eq!((server, client), (SERVER, CLIENT));
        let (server, client) = (network.start(server), network.start(client));
        let addr = format!("{ip}:7");
        let listener = server.listen(&addr).await.unwrap();
        Self { network, client, listener, addr }
    }

    /// A new stream: the client's end, and the server's.
    async fn pair(&mut self) -> (BoxConn, BoxConn) {
        let (client, server) = tokio::join!(self.client.connect(&self.addr), self.listener.accept());
        (client.unwrap(), server.unwrap())
    }

    /// How connecting fails, at once.
    async fn refusal(&self) -> ErrorKind {
        let connected = within(SOON, self.client.connect(&self.addr)).await.expect("an answer");
        connected.err().expect("a refusal").kind()
    }
}

/// Runs a test under each seed, in a fresh network.
fn under_seeds(test: impl AsyncFn(Two)) {
    for seed in 1..=SEEDS {
        let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.block_on(async {
            time::start();
            test(Two::new(seed).await).await;
        });
    }
}

/// What comes of it in this time; `None` if nothing does.
async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = time::sleep(limit) => None,
    }
}

/// How long it takes, and what comes of it.
async fn timed<F: Future>(future: F) -> (Duration, F::Output) {
    let began = time::now();
    let output = future.await;
    (Duration::from_nanos(time::now() - began), output)
}

/// Whether it took so long, a packet's time aside.
fn is_about(took: Duration, expected: Duration) -> bool {
    took.abs_diff(expected) < SOON
}

/// Whether an end has nothing to read, for so long.
async fn is_silent(conn: &mut BoxConn, limit: Duration) -> bool {
    within(limit, conn.read(&mut [0; 8])).await.is_none()
}

/// How reading fails, in this time.
async fn failure(conn: &mut BoxConn, limit: Duration) -> ErrorKind {
    let read = within(limit, conn.read(&mut [0; 8])).await.expect("something to read");
    read.expect_err("a failure").kind()
}

/// Sends a byte, and waits for it; how long it takes.
async fn pass(from: &mut BoxConn, to: &mut BoxConn) -> Duration {
    let (took, ()) = timed(async {
        from.write_all(b"x").await.unwrap();
        to.read_exact(&mut [0]).await.unwrap();
    })
    .await;
    took
}

/// `len` bytes that are not all the same.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8)) as u8).collect()
}
