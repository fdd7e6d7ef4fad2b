//! What people and service managers do: restart what ended, replace what is lost, add, remove.
//!
//! Invariant: every step is one that the documentation tells operators to take, by the commands that
//! it names; and a node that ends by itself has an excuse, and says what is the matter.

use std::future::Future;
use std::time::Duration;

use cluster::id::UserId;
use cluster::status::Status;
use cluster::{Admin, Cluster};
use madsim::runtime::Handle;
use serde_json::json;
use tokio::sync::mpsc;

use super::observe::leader;
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

/// Moves leadership to another voter; whether there was a leader that answered.
pub async fn transfer(world: &World) -> bool {
    let Some((leader, _)) = leader(world) else { return false };
    command(world, leader, Admin::TransferLeader(None)).await.is_some()
}

/// Opens the breaker for a while, if there is a leader for it, and closes it, however often that takes.
pub async fn breaker(world: &World, open_for: Duration) {
    let end = time::now() + time::nanos(open_for);
    while time::now() < end {
        if let Some((leader, _)) = leader(world)
            && command(world, leader, Admin::SetBreaker { open: true }).await == Some(true)
        {
            break;
        }
        time::sleep(LOOK).await;
    }
    time::sleep(Duration::from_nanos(end.saturating_sub(time::now()))).await;
    loop {
        let (leader, _) = leader_status(world).await;
        // One that was to open it and had no answer may come through later.
        if command(world, leader, Admin::SetBreaker { open: false }).await == Some(true)
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
    command(world, n, Admin::Revoke { user, before_ms }).await == Some(true)
}

/// Carries out an operator's command on machine `n`; whether that was reported to be done, if there was an answer.
async fn command(world: &World, n: usize, command: Admin) -> Option<bool> {
    let text = format!("{command:?}");
    let name = world.machine(n).name.clone();
    let is_fault = matches!(command, Admin::TransferLeader(_) | Admin::SetBreaker { .. });
    let done = on_node(world, n, move |cluster| async move {
        let answer = cluster.admin(command).await;
        if is_fault {
            evidence::note(Undergone::Command);
        }
        answer
    });
    let done = done.await;
    let said = match &done {
        None => "no answer".to_owned(),
        Some(Ok(())) => "done".to_owned(),
        Some(Err(error)) => error.to_string(),
    };
    world.trace().event("operator", json!({ "node": name, "command": text, "answer": said }));
    done.map(|done| done.is_ok())
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
