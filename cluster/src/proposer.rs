//! Brings this node's batches into the log, whoever leads.
//!
//! The shell around [`crate::origin::Origin`]: one batch at a time is proposed again and again, to
//! whoever seems to lead, until this replica has applied it. Repeats are harmless: the state
//! machine takes each batch number once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;

use crate::backoff::Backoff;
use crate::env::clock;
use crate::handle::Inner;
use crate::id::NodeId;
use crate::membership::is_member;
use crate::origin::Replica;
use crate::peer::Kind;
use crate::raft::Payload;
use crate::state::{Batch, Command, NodeUp};

/// How long a leader gets to commit a batch before it is proposed anew. Long, because a repeat
/// under load is more load; a change of leader is noticed at once.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(3);

/// Between two proposals that failed at once. Short at first: a new leader takes none before a quorum
/// has answered it, which is a matter of a round trip.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(100));

enum Next {
    Rejoin(u32),
    Propose(Batch),
    Wait,
}

/// Runs for the life of the node.
pub async fn run(inner: Arc<Inner>) {
    crate::membership::join::found(&inner).await;
    loop {
        match next(&inner) {
            Next::Rejoin(incarnation) => rejoin(&inner, incarnation).await,
            Next::Propose(batch) => propose_batch(&inner, batch).await,
            Next::Wait => wait(&inner).await,
        }
    }
}

fn next(inner: &Inner) -> Next {
    let (mut router, state) = inner.router_and_state();
    if router.origin.generation().is_none() {
        return Next::Rejoin(router.origin.incarnation());
    }
    let last = |user: &_, device: &_| state.last_registration(user, device);
    let replica = Replica { feature_level: state.feature_level(), last };
    router.origin.cut(clock::now(), &replica).map_or(Next::Wait, Next::Propose)
}

async fn wait(inner: &Inner) {
    let deadline = inner.router.lock().origin.next_deadline();
    match deadline {
        None => inner.router.work.notified().await,
        Some(deadline) => {
            let _ = clock::timeout_at(deadline, inner.router.work.notified()).await;
        }
    }
}

async fn rejoin(inner: &Inner, incarnation: u32) {
    let command = Command::NodeUp(NodeUp {
        node: inner.me,
        boot: inner.boot,
        incarnation,
        client_url: inner.config.client_url.clone(),
        feature_level: inner.config.feature_level,
    });
    drive(inner, command.encode(), || {
        let router = inner.router.lock();
        let superseded = router.origin.incarnation() != incarnation;
        superseded || router.origin.generation().is_some() || inner.router.refused().is_some()
    })
    .await;
    if let Some((boot, known)) = inner.router.refused() {
        let why = format!("it is at boot {boot}, the cluster has seen boot {known}");
        crate::liveness::refuse_old_copy(inner, &why).await;
        std::future::pending::<()>().await;
    }
}

async fn propose_batch(inner: &Inner, batch: Batch) {
    let (cut_at, seq, generation, ops) = (clock::now(), batch.seq, batch.generation, batch.ops.len());
    drive(inner, Command::Batch(batch).encode(), || {
        let router = inner.router.lock();
        router.origin.in_flight() != Some(seq) || router.origin.generation() != Some(generation)
    })
    .await;
    inner.observer.proposal(ops, cut_at.elapsed());
}

/// Proposes `entry` until `done`.
async fn drive(inner: &Inner, entry: Bytes, done: impl Fn() -> bool) {
    let settled = async {
        while !done() {
            inner.router.settled.notified().await;
        }
    };
    tokio::pin!(settled);
    let mut backoff = BACKOFF;
    loop {
        let attempt = async {
            let leader = inner.leader().await;
            let proposal = race(inner.leader_other_than(leader), propose(inner, leader, entry.clone()));
            match proposal.await {
                // Committed: this replica applies it within the deadline, unless something is wrong with us.
                Some(Ok(())) => clock::sleep(PROPOSE_DEADLINE).await,
                Some(Err(error)) => {
                    tracing::debug!(%leader, error, "proposal failed");
                    let pause = clock::sleep(backoff.next(rand::random()));
                    if race(inner.leader_other_than(leader), pause).await.is_none() {
                        backoff.reset();
                    }
                }
                None => backoff.reset(),
            }
        };
        tokio::select! {
            biased;
            () = &mut settled => return,
            () = attempt => {}
        }
    }
}

/// The output of `work`, unless `stop` comes first.
async fn race<T>(stop: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        output = work => Some(output),
        () = stop => None,
    }
}

async fn propose(inner: &Inner, leader: NodeId, entry: Bytes) -> Result<(), String> {
    if leader == inner.me {
        return commit(inner, entry).await;
    }
    let sent = inner.peers.request(leader, Kind::PROPOSE, entry, PROPOSE_DEADLINE).await;
    sent.map(|_| ()).map_err(|error| error.to_string())
}

/// Another node's proposal. What is written into the log every node must be able to apply, so it is
/// looked at before.
pub async fn asked(inner: &Inner, from: NodeId, entry: Bytes) -> Result<(), String> {
    if !is_member(inner, from) {
        return Err("only members propose".into());
    }
    proposable(from, &entry)?;
    commit(inner, entry).await
}

/// Whether another node may have this written.
fn proposable(from: NodeId, entry: &[u8]) -> Result<(), String> {
    let author = match Command::decode(entry).map_err(|error| error.to_string())? {
        Command::Batch(batch) => Some(batch.node),
        Command::NodeUp(up) => Some(up.node),
        _ => None,
    };
    if author != Some(from) {
        return Err("a node proposes its own batches and incarnations".into());
    }
    Ok(())
}

/// Writes an entry as the leader; returns when it is committed and applied here.
///
/// # Errors
/// When this node does not lead, or ceased to; the entry may be committed all the same.
pub async fn commit(inner: &Inner, entry: Bytes) -> Result<(), String> {
    inner.raft.client_write(Payload(entry)).await.map(|_| ()).map_err(|error| error.to_string())
}

impl Inner {
    /// Whoever seems to lead, as soon as somebody does.
    pub(crate) async fn leader(&self) -> NodeId {
        self.leader_matching(|leader| leader).await
    }

    /// Ready when somebody other than `old`, or nobody, seems to lead.
    pub(crate) async fn leader_other_than(&self, old: NodeId) {
        self.leader_matching(|leader| (leader != Some(old)).then_some(())).await;
    }

    async fn leader_matching<T>(&self, pick: impl Fn(Option<NodeId>) -> Option<T>) -> T {
        let mut metrics = self.raft.server_metrics();
        loop {
            let leader = metrics.borrow_watched().current_leader;
            if let Some(picked) = pick(leader) {
                return picked;
            }
            if metrics.changed().await.is_err() {
                // Raft has stopped; the process is about to end.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Boot;
    use crate::state::FEATURE_LEVEL;

    const ME: NodeId = NodeId(1);

    fn up(node: NodeId) -> Bytes {
        let boot = Boot { count: 1, nonce: 7 };
        let (client_url, feature_level) = (String::new(), FEATURE_LEVEL);
        Command::NodeUp(NodeUp { node, boot, incarnation: 0, client_url, feature_level }).encode()
    }

    #[test]
    fn only_what_every_node_can_apply_is_written_for_another() {
        assert_eq!(proposable(ME, &up(ME)), Ok(()));
        assert!(proposable(ME, &up(NodeId(2))).is_err());
        assert!(proposable(ME, &Command::Tick { advance_ms: 1 }.encode()).is_err());
        assert!(proposable(ME, b"").is_err());
        assert!(proposable(ME, b"\x63 of the future").is_err());
        let whole = up(ME);
        assert!(proposable(ME, &whole[..whole.len() - 1]).is_err());
    }
}
