//! Pairs of users over every combination of nodes, each sender sending every 10 ms whatever the answers.

#[path = "../../tests/common/mod.rs"]
pub mod common;

use std::sync::Arc;
use std::time::Duration;

use cluster::env::clock::{self, Instant};
use im_gateway::client::{Client, Event, Incoming};
use im_gateway::env::Tcp;

use common::{TestCluster, token};

pub const NODES: usize = 3;
/// Pairs for each combination of the sender's and the recipient's node.
const EACH: usize = 2;
const PERIOD: Duration = Duration::from_millis(10);

/// The sender's and the recipient's node of each pair.
pub fn nodes() -> impl Iterator<Item = [usize; 2]> {
    (0..NODES * NODES * EACH).map(|n| [n % NODES, n / NODES % NODES])
}

/// Connects a user to a node, where others are for when it dies.
pub async fn connect(cluster: &TestCluster, user: &str, node: usize) -> Client {
    let builder = Client::builder(Arc::new(Tcp), cluster.urls_from(node), Arc::new(token(user)), "bench");
    let client = builder.ephemeral(true).first(0).connect().expect("the URLs are good");
    while !matches!(client.next().await.expect("it goes on"), Event::Connected { .. }) {}
    client
}

/// Sends until the client ends; the body is the moment at which it was meant to be sent.
pub async fn send(client: Client, to: String) {
    let mut due = clock::now();
    loop {
        due += PERIOD;
        clock::sleep_until(due).await;
        if client.try_send(&to, None, &due.as_nanos()).is_err() {
            return;
        }
    }
}

/// When a message was meant to be sent.
pub fn meant(message: &Incoming) -> Instant {
    message.body.get().parse().map(Instant::from_nanos).expect("the body is its moment")
}
