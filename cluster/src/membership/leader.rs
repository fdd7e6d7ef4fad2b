//! What only the leader does: declare silent nodes down, move replicated time, grow the voters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;

use super::View;
use super::join::voters_to_add;
use crate::env::clock::{self, Instant};
use crate::handle::Inner;
use crate::id::{Generation, NodeId};
use crate::liveness::REPORT_EVERY;
use crate::peer::LinkState;
use crate::proposer::commit;
use crate::state::{Command, GROUPS_LEVEL};

/// How often the leader looks around.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A generation silent for this long is declared down, whatever the reason.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// A generation whose link closed, whose address refuses us and whose report is this late is gone.
const LATE_AFTER: Duration = Duration::from_millis(150);

/// A look that comes this late means that we were stalled ourselves: others' silence proves nothing.
const STALLED_AFTER: Duration = Duration::from_millis(500);

/// How often replicated time moves.
const TICK_EVERY: Duration = Duration::from_secs(5);

/// A learner this many entries behind the leader's log has caught up.
const CAUGHT_UP_WITHIN: u64 = 500;

/// How long one change may take before the next look.
const CHANGE_DEADLINE: Duration = Duration::from_secs(5);

/// Timers of one time as leader.
struct Term {
    /// When this node first looked around as the leader.
    began: Instant,
    /// Silence counts from here.
    since: Instant,
    last_look: Instant,
    last_tick: Instant,
    /// When each living generation was first seen: no report of it can have been due before.
    seen: BTreeMap<NodeId, (Generation, Instant)>,
}

impl Term {
    fn new(now: Instant) -> Self {
        Self { began: now, since: now, last_look: now, last_tick: now, seen: BTreeMap::new() }
    }

    /// Since when a generation can have been silent, if it was not heard.
    fn expected_since(&mut self, node: NodeId, generation: Generation, now: Instant) -> Instant {
        let (seen, at) = self.seen.entry(node).or_insert((generation, now));
        if *seen != generation {
            (*seen, *at) = (generation, now);
        }
        self.since.max(*at)
    }
}

/// Runs for the life of the node; idles while it does not lead.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut every = clock::interval(LOOK_EVERY);
    let mut term: Option<Term> = None;
    loop {
        every.tick().await;
        let leads = inner.leads();
        if !leads {
            term = None;
            continue;
        }
        let now = clock::now();
        let current = term.get_or_insert_with(|| Term::new(now));
        if now - current.last_look > STALLED_AFTER {
            current.since = now;
        }
        for command in look(&inner, current, now) {
            let change = commit(&inner, command.encode());
            if !matches!(clock::timeout(CHANGE_DEADLINE, change).await, Ok(Ok(()))) {
                break;
            }
            if let Command::NodeDown { node, .. } = command {
                tracing::warn!(%node, "declared a node down: it was silent, or its address refuses connections");
            }
        }
        let _ = clock::timeout(CHANGE_DEADLINE, grow(&inner)).await;
        current.last_look = clock::now();
    }
}

fn look(inner: &Inner, term: &mut Term, now: Instant) -> Vec<Command> {
    let mut changes = gone(inner, term, now);
    if now - term.last_tick >= TICK_EVERY {
        let advance = now - term.last_tick;
        term.last_tick = now;
        changes.push(Command::Tick { advance_ms: u64::try_from(advance.as_millis()).unwrap_or(u64::MAX) });
    }
    changes.extend(feature_level(inner));
    changes.extend(group_limits(inner));
    changes
}

/// The level that every member's build understands, when it is above the cluster's.
fn feature_level(inner: &Inner) -> Option<Command> {
    let state = inner.state();
    let common = state.nodes().map(|(_, record)| record.feature_level).min()?;
    (common > state.feature_level()).then_some(Command::SetFeatureLevel(common))
}

/// What the first leader of a cluster whose members all know groups says of them.
fn group_limits(inner: &Inner) -> Option<Command> {
    let state = inner.state();
    let wanted = state.feature_level() >= GROUPS_LEVEL && !state.has_groups();
    wanted.then(|| Command::SetGroupLimits(inner.config.groups.clone()))
}

/// Generations to declare down, and records of nodes that left.
fn gone(inner: &Inner, term: &mut Term, now: Instant) -> Vec<Command> {
    let members = View::of(inner).addresses;
    let records: Vec<(NodeId, Option<Generation>)> =
        inner.state().nodes().map(|(node, record)| (node, record.generation)).collect();
    let links = inner.peers.links();
    let mut changes = Vec::new();
    for (node, generation) in records {
        if node == inner.me {
            continue;
        }
        if !members.contains_key(&node) {
            // Its sessions end with its record.
            changes.push(Command::NodeForgotten { node });
        } else if let Some(generation) = generation {
            let since = term.expected_since(node, generation, now);
            let heard = inner.liveness.heard(node, generation);
            let silence = now - heard.map_or(since, |heard| heard.max(since));
            let refused = links.iter().find_map(|link| match link.state {
                LinkState::Down { refused: true, since } if link.node == node => Some(now - since),
                _ => None,
            });
            // Refusals are evidence of their own: a new leader, to whom no report was due before, need
            // not wait for one. It must if it was stalled, or knows the generation only since.
            let old_news = since == term.began && heard.is_none_or(|heard| now - heard > LATE_AFTER);
            let gone = |refused| silence > LATE_AFTER || (old_news && refused > LATE_AFTER);
            if silence > SILENT_AFTER || refused.is_some_and(gone) {
                changes.push(Command::NodeDown { node, generation });
            }
        }
    }
    changes
}

/// Makes caught-up learners voters, up to the wanted number.
async fn grow(inner: &Inner) {
    let View { voters, .. } = View::of(inner);
    if voters.len() >= inner.config.voters {
        return;
    }
    let add = voters_to_add(inner.config.voters, &voters, &ready_learners(inner));
    if add.is_empty() {
        return;
    }
    tracing::info!(?add, "learners become voters");
    if let Err(error) = inner.raft.change_membership(ChangeMembers::AddVoterIds(add), true).await {
        tracing::warn!(%error, "the voters could not be changed");
    }
}

/// Learners that are up and have caught up.
pub(crate) fn ready_learners(inner: &Inner) -> BTreeSet<NodeId> {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let Some(replication) = &metrics.replication else { return BTreeSet::new() };
    let last = metrics.last_log_index.unwrap_or(0);
    let state = inner.state();
    let up = |node: NodeId| state.node(node).is_some_and(|record| record.generation.is_some());
    let near = |node| replication.get(&node).is_some_and(|at| at.is_some_and(|at| at.index + CAUGHT_UP_WITHIN >= last));
    metrics.membership_config.membership().learner_ids().filter(|node| up(*node) && near(*node)).collect()
}

/// A report must have been due twice before a refused link counts.
const _: () = assert!(LATE_AFTER.as_millis() > REPORT_EVERY.as_millis());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Pos;

    #[test]
    fn silence_counts_from_when_a_report_can_have_been_due() {
        let began = clock::now();
        let later = |ms| began + Duration::from_millis(ms);
        let (node, first, second) = (NodeId(2), Pos::new(5, 0), Pos::new(9, 0));
        let mut term = Term::new(began);
        assert_eq!(term.expected_since(node, first, later(10)), later(10));
        assert_eq!(term.expected_since(node, first, later(5_000)), later(10), "the same one is not given more time");
        // A restarted node under a leader of long standing.
        assert_eq!(term.expected_since(node, second, later(6_000)), later(6_000));
        // A leader that was stalled itself begins anew.
        term.since = later(7_000);
        assert_eq!(term.expected_since(node, second, later(7_100)), later(7_000));
    }
}
