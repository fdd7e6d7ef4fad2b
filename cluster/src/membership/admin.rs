//! What operators may ask of the cluster, on any node.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};

use super::View;
use super::leader::ready_learners;
use crate::env::clock;
use crate::handle::Inner;
use crate::id::{NodeId, UserId};
use crate::peer::Kind;
use crate::proposer::commit;
use crate::serve::{decode, encode};
use crate::state::{BREAKER_LEVEL, Command, MAX_REVOKED, REVOCATION_LEVEL};

/// How long a command may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// How long a leader waits for its successor when it stops.
const STEP_DOWN_WITHIN: Duration = Duration::from_secs(3);

/// A command; carried out by the leader.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Admin {
    /// Takes a node out. A voter's place goes to a caught-up learner where there is one.
    Remove(NodeId),
    /// Makes a caught-up learner a voter.
    Promote(NodeId),
    /// Moves leadership, to this voter or to the one that is furthest.
    TransferLeader(Option<NodeId>),
    /// Opens the breaker, or closes it: while it is open messages are stored, and delivered to nobody.
    SetBreaker {
        /// Whether it is to be open.
        open: bool,
    },
    /// Makes a user's tokens that were issued before a time count no more, on all nodes.
    Revoke {
        /// The user.
        user: UserId,
        /// The time, ms since the Unix epoch.
        before_ms: u64,
    },
}

/// Carries a command to the leader.
pub(crate) async fn run(inner: &Inner, command: Admin) -> Result<(), String> {
    let Ok(leader) = clock::timeout(DEADLINE, inner.leader()).await else {
        return Err("there is no leader: a quorum of the voters must be up".into());
    };
    if leader == inner.me {
        return asked(inner, command).await;
    }
    let answer = inner.peers.request(leader, Kind::ADMIN, encode(&command)?, DEADLINE).await;
    decode::<Result<(), String>>(&answer.map_err(|error| format!("the leader {leader}: {error}"))?)?
}

/// Carries out a command as the leader.
pub(crate) async fn asked(inner: &Inner, command: Admin) -> Result<(), String> {
    let done = clock::timeout(DEADLINE, async {
        match command {
            Admin::Remove(node) => remove(inner, node).await,
            Admin::Promote(node) => promote(inner, node).await,
            Admin::TransferLeader(to) => transfer(inner, to).await,
            Admin::SetBreaker { open } => set_breaker(inner, open).await,
            Admin::Revoke { user, before_ms } => revoke(inner, user, before_ms).await,
        }
    });
    done.await.unwrap_or_else(|_| Err("no answer in time; look at `status` before you repeat it".into()))
}

async fn remove(inner: &Inner, node: NodeId) -> Result<(), String> {
    let View { voters, addresses } = View::of(inner);
    if !addresses.contains_key(&node) {
        return Err(format!("{node} is not a member; `status` lists the members"));
    }
    if node == inner.me {
        return Err(format!("{node} leads: move leadership first (`im-gateway leader transfer`)"));
    }
    if voters.contains(&node) {
        let mut next: BTreeSet<NodeId> = voters.iter().copied().filter(|voter| *voter != node).collect();
        if next.is_empty() {
            return Err("the last voter cannot be removed".into());
        }
        if let Some(learner) = ready_learners(inner).into_iter().find(|learner| *learner != node) {
            next.insert(learner);
        }
        change(inner, ChangeMembers::ReplaceAllVoters(next)).await?;
    }
    if super::is_member(inner, node) {
        change(inner, ChangeMembers::RemoveNodes(BTreeSet::from([node]))).await?;
    }
    Ok(())
}

async fn promote(inner: &Inner, node: NodeId) -> Result<(), String> {
    if View::of(inner).voters.contains(&node) {
        return Ok(());
    }
    if !ready_learners(inner).contains(&node) {
        return Err(format!("{node} is not a learner that is up and has caught up; see `status`"));
    }
    change(inner, ChangeMembers::AddVoterIds(BTreeSet::from([node]))).await
}

async fn revoke(inner: &Inner, user: UserId, before_ms: u64) -> Result<(), String> {
    {
        let state = inner.state();
        if state.feature_level() < REVOCATION_LEVEL {
            return Err("a node of the cluster runs a build that cannot revoke tokens; upgrade all nodes first".into());
        }
        if !state.has_room_to_revoke(&user) {
            return Err(format!("tokens of {MAX_REVOKED} users are revoked already; change the key that signs them"));
        }
    }
    commit(inner, Command::Revoke { user, before_ms }.encode()).await
}

async fn change(inner: &Inner, change: ChangeMembers<NodeId, crate::raft::Member>) -> Result<(), String> {
    inner.raft.change_membership(change, true).await.map(|_| ()).map_err(|error| error.to_string())
}

async fn transfer(inner: &Inner, to: Option<NodeId>) -> Result<(), String> {
    let to = match to {
        Some(to) if to == inner.me => return Ok(()),
        Some(to) if View::of(inner).voters.contains(&to) => to,
        Some(to) => return Err(format!("{to} is not a voter")),
        None => successor(inner).ok_or("there is no other voter that answers")?,
    };
    inner.raft.trigger().transfer_leader(to).await.map_err(|error| error.to_string())?;
    inner.leader_other_than(inner.me).await;
    Ok(())
}

async fn set_breaker(inner: &Inner, open: bool) -> Result<(), String> {
    if inner.state().feature_level() < BREAKER_LEVEL {
        return Err("not all nodes of this cluster know the breaker yet: run the newer build on all of them".into());
    }
    commit(inner, Command::SetBreaker { open }.encode()).await
}

/// The other voter that has most of the log, of those that do not drain.
fn successor(inner: &Inner) -> Option<NodeId> {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let replication = metrics.replication.as_ref()?;
    let voters: BTreeSet<NodeId> = metrics.membership_config.membership().voter_ids().collect();
    let can = |node: &NodeId| *node != inner.me && voters.contains(node) && !inner.draining.includes(*node);
    let others = replication.iter().filter(|(node, _)| can(node));
    others.max_by_key(|(_, at)| at.map(|at| at.index)).map(|(node, _)| *node)
}

/// Hands leadership over if this node leads and another voter can take it that does not drain itself.
pub(crate) async fn step_down(inner: &Inner) {
    let leads = inner.leads();
    if leads && View::of(inner).voters.len() > 1 {
        match clock::timeout(STEP_DOWN_WITHIN, transfer(inner, None)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "leadership was not handed over"),
            Err(_) => tracing::warn!("no other voter took leadership in time"),
        }
    }
}
