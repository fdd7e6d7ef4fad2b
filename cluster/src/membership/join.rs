//! How a node comes into a cluster: by any member's address, or by beginning one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};

use super::View;
use crate::env::clock;
use crate::handle::Inner;
use crate::id::NodeId;
use crate::peer::{Kind, PeerError};
use crate::proposer::commit;
use crate::raft::Member;
use crate::serve::{decode, encode};
use crate::state::{Command, Limits};

/// How long one node gets to answer a wish to join.
const ASK_DEADLINE: Duration = Duration::from_secs(3);

/// Longest pause between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(500);

/// Pause before a founder asks those again who did not answer.
const FOUND_PAUSE: Duration = Duration::from_millis(50);

/// Pause between two looks at whether a cluster can be founded.
const FOUND_EVERY: Duration = Duration::from_millis(10);

/// A node wishes to be a member under this address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Join {
    node: NodeId,
    peer_addr: String,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It is a member now.
    Member,
    /// The leader is there.
    Leader(String),
    /// The asked node is in no cluster.
    NoCluster,
    /// Not now.
    Later(String),
}

/// Runs until this node is a member under its address.
pub(crate) async fn run(inner: Arc<Inner>) {
    let join = Join { node: inner.me, peer_addr: inner.peer_addr.clone() };
    let fresh = !inner.raft.is_initialized().await.unwrap_or(true);
    if fresh && inner.config.bootstrap && !cluster_exists(&inner, &join).await {
        begin(&inner).await;
    }
    let (mut told, mut refusals) = (false, BTreeMap::new());
    while !has_joined(&inner) {
        if !told && !super::is_member(&inner, inner.me) {
            tracing::info!(addresses = ?inner.config.join, "joining");
            told = true;
        }
        ask_around(&inner, &join, &mut refusals).await;
        clock::sleep(PAUSE.mul_f64(rand::random_range(0.2..1.0))).await;
    }
}

/// Whether this node is a member under its address, and no change of leader takes that back: one that is not
/// committed yet may never be, and then nobody would tell this node.
fn has_joined(inner: &Inner) -> bool {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let of = &metrics.membership_config;
    let member = of.membership().get_node(&inner.me);
    *of.log_id() <= metrics.last_applied && member.is_some_and(|member| member.peer_addr == inner.peer_addr)
}

/// Whether there is a cluster already. Every address must have said that it knows none before this
/// node believes it: a founder whose disk was lost would else found a second one.
async fn cluster_exists(inner: &Inner, join: &Join) -> bool {
    let mut unheard = inner.config.join.clone();
    let mut told = false;
    loop {
        let mut silent = Vec::new();
        for addr in unheard {
            match ask(inner, &addr, join).await {
                Ok(Answer::NoCluster) => {}
                Ok(_) => return true,
                Err(_) => silent.push(addr),
            }
        }
        if silent.is_empty() {
            return false;
        }
        unheard = silent;
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                addresses = ?unheard,
                "a new cluster begins when these have said that they are in none; start them, or take them out of `join`"
            );
        }
        clock::sleep(FOUND_PAUSE).await;
    }
}

async fn begin(inner: &Inner) {
    let member = Member { peer_addr: inner.peer_addr.clone() };
    if let Err(error) = inner.raft.initialize(BTreeMap::from([(inner.me, member)])).await {
        inner.fail(format!("a new cluster cannot begin: {error}"));
        return;
    }
    tracing::info!(node = %inner.me, "began a new cluster");
}

/// Sets a new cluster's limits, before any node is up: nobody is ever served under others, also
/// when the founder dies in between. Returns at once where a node was up before.
pub(crate) async fn found(inner: &Inner) {
    if !inner.config.bootstrap || inner.config.limits == Limits::default() {
        return;
    }
    let entry = Command::SetLimits(inner.config.limits.clone()).encode();
    while inner.state().nodes().next().is_none() {
        // Only the founder can lead a cluster in which no node was ever up: nobody joins until then.
        if applied_as_leader(inner) && commit(inner, entry.clone()).await.is_ok() {
            return;
        }
        clock::sleep(FOUND_EVERY).await;
    }
}

/// Whether this node leads and has applied all that its predecessors committed.
fn applied_as_leader(inner: &Inner) -> bool {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let term = metrics.last_applied.map(|applied| applied.leader_id.term);
    metrics.current_leader == Some(inner.me) && term == Some(metrics.current_term)
}

/// Asks the leader if it is known, and unless it says yes everybody at `join`, following one hint each: who led last
/// may lead no more.
async fn ask_around(inner: &Inner, join: &Join, refusals: &mut BTreeMap<String, String>) {
    let leader = inner.current_leader();
    if let Some(leader) = leader {
        if leader == inner.me {
            let answer = asked(inner, inner.me, join.clone()).await;
            tracing::debug!(?answer, "changed this leader's own address");
            return;
        }
        if let Ok(body) = encode(join) {
            let answer = inner.peers.request(leader, Kind::JOIN, body, ASK_DEADLINE).await;
            let answer = answer.ok().and_then(|body| decode::<Answer>(&body).ok());
            tracing::debug!(?answer, "asked the leader");
            if matches!(answer, Some(Answer::Member)) {
                return;
            }
        }
    }
    for addr in &inner.config.join {
        let mut answer = ask(inner, addr, join).await;
        if let Ok(Answer::Leader(leader)) = &answer {
            answer = ask(inner, leader, join).await;
        }
        match answer {
            Ok(Answer::Member) => return,
            Ok(answer) => tracing::debug!(addr, ?answer, "asked to join"),
            // A secret or a certificate is for the operator to mend; told once for each reason.
            Err(PeerError::Refused(reason)) if refusals.get(addr) != Some(&reason) => {
                tracing::warn!(addr, reason, "cannot ask to join");
                refusals.insert(addr.clone(), reason);
            }
            Err(error) => tracing::debug!(addr, %error, "asked to join"),
        }
    }
}

async fn ask(inner: &Inner, addr: &str, join: &Join) -> Result<Answer, PeerError> {
    let body = encode(join).map_err(PeerError::Remote)?;
    let (_, body) = inner.peers.request_addr(addr, Kind::JOIN, body, ASK_DEADLINE).await?;
    decode(&body).map_err(PeerError::Remote)
}

/// A node's wish, answered.
pub(crate) async fn asked(inner: &Inner, from: NodeId, join: Join) -> Answer {
    if from != join.node {
        return Answer::Later("a node can only join as itself".into());
    }
    let view = View::of(inner);
    if view.addresses.is_empty() {
        return Answer::NoCluster;
    }
    let leader = inner.current_leader();
    match leader {
        None => Answer::Later("there is no leader now".into()),
        Some(leader) if leader != inner.me => match view.addresses.get(&leader) {
            Some(addr) => Answer::Leader(addr.clone()),
            None => Answer::Later("the leader is just changing".into()),
        },
        Some(_) if inner.router.lock().origin.generation().is_none() => {
            Answer::Later("the leader is not up itself".into())
        }
        Some(_) => admit(inner, &view, join).await,
    }
}

async fn admit(inner: &Inner, view: &View, join: Join) -> Answer {
    let member = Member { peer_addr: join.peer_addr.clone() };
    let result = match view.addresses.get(&join.node) {
        Some(known) if *known == join.peer_addr => return Answer::Member,
        Some(known) => {
            tracing::info!(node = %join.node, from = %known, to = %join.peer_addr, "a member moves");
            let change = ChangeMembers::SetNodes(BTreeMap::from([(join.node, member)]));
            inner.raft.change_membership(change, true).await.map(|_| ())
        }
        None => {
            tracing::info!(node = %join.node, addr = %join.peer_addr, "a node joins");
            inner.raft.add_learner(join.node, member, false).await.map(|_| ())
        }
    };
    result.map_or_else(|error| Answer::Later(error.to_string()), |()| Answer::Member)
}

/// Voters that the cluster should have, given `wanted`, those it has, and caught-up learners: an
/// odd number, grown in one step.
pub(crate) fn voters_to_add(wanted: usize, voters: &BTreeSet<NodeId>, ready: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let possible = wanted.min(voters.len() + ready.len());
    let target = if possible.is_multiple_of(2) { possible.saturating_sub(1) } else { possible };
    ready.iter().copied().take(target.saturating_sub(voters.len())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
        ids.into_iter().map(NodeId).collect()
    }

    #[test]
    fn voters_grow_to_an_odd_number_at_once() {
        let grown = |wanted, voters, ready| voters_to_add(wanted, &ids(voters), &ids(ready)).len();
        assert_eq!(grown(3, vec![1], vec![]), 0);
        assert_eq!(grown(3, vec![1], vec![2]), 0, "two voters tolerate no more failures than one");
        assert_eq!(grown(3, vec![1], vec![2, 3]), 2);
        assert_eq!(grown(3, vec![1, 2, 3], vec![4, 5]), 0, "further nodes stay learners");
        assert_eq!(grown(5, vec![1, 2, 3], vec![4]), 0);
        assert_eq!(grown(5, vec![1, 2, 3], vec![4, 5]), 2);
        assert_eq!(grown(3, vec![1, 2], vec![4]), 1, "an even number is mended");
    }
}
