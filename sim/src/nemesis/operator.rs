//! What people and service managers do: restart what ended, replace what is lost, add, remove.
//!
//! Invariant: every step is one that the documentation tells operators to take, by the commands that
//! it names; and a node that ends by itself has an excuse, and says what is the matter.

use std::future::Future;
use std::time::Duration;

use cluster::id::UserId;
use cluster::status::{NodeStatus, Status};
use cluster::{Admin, Cluster};
use madsim::runtime::Handle;
use serde_json::json;
use tokio::sync::mpsc;

use super::model::Situation;
use crate::disk::asks_to_begin_anew;
use crate::evidence::{self, Undergone};
use crate::process::End;
use crate::time;
use crate::world::{Ended, World};

/// How long the service manager waits before it starts an ended process again (`RestartSec`).
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How often an operator looks, or tries again.
const LOOK: Duration = Duration::from_millis(200);
/// How long an operator waits for one command.
const COMMAND: Duration = Duration::from_secs(20);
/// How long an operator waits for a restarted node, before the next step.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts whatever ends by itself again, for as long as the run lasts.
pub async fn supervise(world: World, mut ends: mpsc::UnboundedReceiver<Ended>) {
    while let Some(ended) = ends.recv().await {
        let n = ended.machine;
        // Before it is forgotten with the process.
        let excuses = world.machine(n).disk.excuses();
        if !world.bury(&ended) {
            continue;
        }
        let End::Failed(words) = ended.end else { continue };
        if !excuses.iter().any(|excuse| excuse.is_named_by(&words)) {
            let name = &world.machine(n).name;
            world.violated(format!("{name} ended by itself, with the excuses {excuses:?} and the words: {words}"));
        }
        let world = world.clone();
        tokio::spawn(async move {
            if asks_to_begin_anew(&words) {
                replace(&world, n).await;
            } else {
                time::sleep(RESTART_AFTER).await;
                world.boot(n);
            }
        });
    }
}

/// Empties machine `n`'s disk and gives its place to the new node that begins there.
pub async fn replace(world: &World, n: usize) {
    world.set_replacing(n, true);
    world.kill(n, false);
    let old = world.wipe(n);
    world.boot(n);
    while world.ask(n, Cluster::not_ready).is_none_or(|reasons| !reasons.is_empty()) {
        time::sleep(LOOK).await;
    }
    if let Some(old) = old {
        remove(world, &old).await;
    }
    world.set_replacing(n, false);
}

/// Removes a node from the cluster, however often that takes.
pub async fn remove(world: &World, node: &str) {
    let Ok(id) = node.parse() else { return };
    loop {
        let (leader, status) = leader_status(world).await;
        if status.nodes.iter().all(|member| member.node != node) {
            return;
        }
        command(world, leader, Admin::Remove(id)).await;
        time::sleep(LOOK).await;
    }
}

/// Moves leadership to another voter, if there is a leader.
pub async fn transfer(world: &World) -> bool {
    evidence::note(Undergone::Command);
    let Some((leader, _)) = leader(world) else { return false };
    command(world, leader, Admin::TransferLeader(None)).await
}

/// Opens the breaker for a while, if there is a leader for it, and closes it, however often that takes.
pub async fn breaker(world: &World, open_for: Duration) {
    evidence::note(Undergone::Command);
    let end = time::now() + time::nanos(open_for);
    while time::now() < end {
        if let Some((leader, _)) = leader(world)
            && command(world, leader, Admin::SetBreaker { open: true }).await
        {
            break;
        }
        time::sleep(LOOK).await;
    }
    time::sleep(Duration::from_nanos(end.saturating_sub(time::now()))).await;
    loop {
        let (leader, _) = leader_status(world).await;
        // One that was to open it and had no answer may come through later.
        if command(world, leader, Admin::SetBreaker { open: false }).await
            && world.ask(leader, |cluster| cluster.status().breaker) == Some("closed")
        {
            return;
        }
        time::sleep(LOOK).await;
    }
}

/// Revokes a user's tokens that were issued before a time, on machine `n`.
pub async fn revoke(world: &World, n: usize, user: &str, before_ms: u64) -> bool {
    let user = UserId::new(user).expect("the simulator's users have good names");
    command(world, n, Admin::Revoke { user, before_ms }).await
}

/// Carries out an operator's command on machine `n`; whether that was reported to be done.
async fn command(world: &World, n: usize, command: Admin) -> bool {
    let text = format!("{command:?}");
    let name = world.machine(n).name.clone();
    let done = on_node(world, n, |cluster| async move { cluster.admin(command).await }).await;
    let said = match &done {
        None => "no answer".to_owned(),
        Some(Ok(())) => "done".to_owned(),
        Some(Err(error)) => error.to_string(),
    };
    world.trace().event("operator", json!({ "node": name, "command": text, "answer": said }));
    matches!(done, Some(Ok(())))
}

/// Runs something within the process on machine `n`; `None` when it is not up, dies or takes long.
async fn on_node<F>(world: &World, n: usize, work: impl FnOnce(Cluster) -> F) -> Option<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (id, cluster) = world.node(n)?;
    let running = Handle::current().get_node(id)?.spawn(work(cluster));
    tokio::select! {
        biased;
        done = running => done.ok(),
        () = time::sleep(COMMAND) => None,
    }
}

/// Waits for machine `n`'s node to be ready, but not for ever.
pub async fn until_ready(world: &World, n: usize) {
    let deadline = time::now() + time::nanos(PATIENCE);
    while time::now() < deadline && world.ask(n, Cluster::not_ready).is_none_or(|reasons| !reasons.is_empty()) {
        time::sleep(LOOK).await;
    }
}

async fn leader_status(world: &World) -> (usize, Status) {
    loop {
        if let Some(found) = leader(world) {
            return found;
        }
        time::sleep(LOOK).await;
    }
}

/// Who leads, of all who think so the one with the highest term, and what it says.
pub fn leader(world: &World) -> Option<(usize, Status)> {
    let all = (0..world.len()).filter_map(|n| Some((n, world.ask(n, Cluster::status)?)));
    all.filter(|(_, status)| status.role == "leader").max_by_key(|(_, status)| status.term)
}

/// The cluster as a fault on machine `hit` finds it.
pub fn situation(world: &World, hit: usize) -> Situation {
    let leader = leader(world);
    let nodes = leader.map(|(_, status)| status.nodes).unwrap_or_default();
    let voters: Vec<&NodeStatus> = nodes.iter().filter(|node| node.role == "voter").collect();
    let machine = |voter: &NodeStatus| (0..world.len()).find(|&n| world.identity(n).as_ref() == Some(&voter.node));
    let is_lost = |voter: &NodeStatus| machine(voter).is_none_or(|n| n != hit && world.machine(n).disk.is_spoilt());
    let hits_voter = voters.iter().any(|voter| machine(voter) == Some(hit));
    let spoilt = voters.iter().filter(|voter| is_lost(voter)).count();
    Situation {
        voters: voters.len(),
        spoilt,
        replacing: world.is_replacing(),
        hits_voter,
        calm: is_calm(world, &world.wanted()),
    }
}

/// Whether these machines are up, ready and at the same entry, one of them leading.
pub fn is_calm(world: &World, machines: &[usize]) -> bool {
    let ask = |&n: &usize| world.ask(n, |cluster| (cluster.not_ready().is_empty(), cluster.status()));
    let all: Vec<_> = machines.iter().map(ask).collect();
    let first = all.iter().flatten().map(|(_, status)| status.last_log_index).next();
    all.iter().flatten().any(|(_, status)| status.role == "leader")
        && all
            .iter()
            .all(|one| one.as_ref().is_some_and(|(ready, status)| *ready && Some(status.last_log_index) == first))
}

/// What the cluster has not mended yet: nodes that are not ready, replicas that differ, members that
/// should not be there.
pub fn unmended(world: &World) -> Vec<String> {
    let mut missing = Vec::new();
    let mut at = Vec::new();
    let wanted = world.wanted();
    for &n in &wanted {
        let name = &world.machine(n).name;
        match world.ask(n, |cluster| (cluster.not_ready(), cluster.applied())) {
            None => missing.push(format!("{name} has not started")),
            Some((reasons, index)) => {
                at.push(index);
                if !reasons.is_empty() {
                    missing.push(format!("{name} is not ready: {reasons:?}"));
                }
            }
        }
    }
    if at.iter().any(|&index| index != at[0]) {
        missing.push(format!("the replicas are at the entries {at:?}"));
    }
    if let Some((n, status)) = leader(world) {
        if status.breaker != "closed" {
            missing.push("the breaker is open".to_owned());
        }
        let mut members: Vec<_> = status.nodes.into_iter().map(|node| node.node).collect();
        let mut identities: Vec<_> = wanted.iter().filter_map(|&n| world.identity(n)).collect();
        members.sort_unstable();
        identities.sort_unstable();
        if members != identities {
            let name = &world.machine(n).name;
            missing.push(format!("the members are {members:?} says {name}, the nodes that run {identities:?}"));
        }
    }
    missing
}
