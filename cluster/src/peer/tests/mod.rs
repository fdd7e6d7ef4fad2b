//! The links over a network in memory, on a clock that jumps when all tasks wait.

mod faults;
mod handshake;
mod links;
mod order;
mod pressure;
mod strangers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::testing::MemNet;
use super::{Handler, Kind, LinkState, Peers, Secret};
use crate::env::clock;
use crate::id::NodeId;
use crate::observer::NoObserver;

const A: NodeId = NodeId(0xa);
const B: NodeId = NodeId(0xb);
const C: NodeId = NodeId(0xc);

const ASK: Kind = Kind(100);
const LONG: Duration = Duration::from_secs(600);

type Outcome = Result<Bytes, String>;

/// A handler made of a function.
struct Func<F>(F);

#[async_trait]
impl<F> Handler for Func<F>
where
    F: Fn(NodeId, Kind, Bytes) -> BoxFuture<'static, Outcome> + Send + Sync + 'static,
{
    async fn handle(&self, from: NodeId, kind: Kind, body: Bytes) -> Outcome {
        (self.0)(from, kind, body).await
    }
}

fn handler<F, R>(answer: F) -> Arc<dyn Handler>
where
    F: Fn(NodeId, Kind, Bytes) -> R + Send + Sync + 'static,
    R: Future<Output = Outcome> + Send + 'static,
{
    Arc::new(Func(move |from, kind, body| Box::pin(answer(from, kind, body)) as BoxFuture<'static, Outcome>))
}

fn echo() -> Arc<dyn Handler> {
    handler(|_, _, body| async move { Ok(body) })
}

fn secret() -> Secret {
    Secret::new("correct horse")
}

/// A node that listens.
struct Node {
    peers: Peers,
    addr: SocketAddr,
}

async fn node_at(net: &MemNet, id: NodeId, addr: &str, handler: Arc<dyn Handler>) -> Node {
    let peers = Peers::new(Arc::new(net.clone()), id, secret(), Arc::new(NoObserver));
    let addr = peers.listen(addr, handler).await.unwrap();
    Node { peers, addr }
}

async fn node(net: &MemNet, id: NodeId, handler: Arc<dyn Handler>) -> Node {
    node_at(net, id, "127.0.0.1:0", handler).await
}

impl Node {
    /// Makes this node dial the others, and waits until it reached all of them.
    async fn link_to(&self, others: &[(NodeId, SocketAddr)]) {
        self.dial(others);
        self.until(|states| states.iter().all(|state| *state == LinkState::Connected)).await;
    }

    fn dial(&self, others: &[(NodeId, SocketAddr)]) {
        let addresses: BTreeMap<_, _> = others.iter().map(|(id, addr)| (*id, addr.to_string())).collect();
        self.peers.set_addresses(addresses);
    }

    fn states(&self) -> Vec<LinkState> {
        self.peers.links().into_iter().map(|link| link.state).collect()
    }

    /// Waits for the links to be as wanted.
    async fn until(&self, wanted: impl Fn(&[LinkState]) -> bool) {
        let mut changes = self.peers.changes();
        let waiting = async {
            while !wanted(&self.states()) {
                changes.changed().await.unwrap();
            }
        };
        clock::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("links stay {:?}", self.states()));
    }

    async fn ask(&self, to: NodeId, body: &'static str) -> Result<Bytes, super::PeerError> {
        self.peers.request(to, ASK, Bytes::from_static(body.as_bytes()), LONG).await
    }
}

/// A asks B, who answers by `handler`.
async fn pair(net: &MemNet, handler: Arc<dyn Handler>) -> (Node, Node) {
    let a = node(net, A, echo()).await;
    let b = node(net, B, handler).await;
    a.link_to(&[(B, b.addr)]).await;
    (a, b)
}

fn is_refused(states: &[LinkState]) -> bool {
    matches!(states, [LinkState::Down { refused: true, .. }])
}

fn is_down_not_refused(states: &[LinkState]) -> bool {
    matches!(states, [LinkState::Down { refused: false, .. }])
}

fn is_connected(states: &[LinkState]) -> bool {
    matches!(states, [LinkState::Connected])
}
