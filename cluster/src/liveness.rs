//! Who is there: nodes report to the leader, and learn from its answer whether a quorum stands behind it.
//!
//! Invariant: a node that has had no word of a quorum for [`UNREACHED_AFTER`] says so, and sends its
//! clients away well within the five seconds of G6.

use crate::env::tasks;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};

use crate::env::clock::{self, Instant};
use crate::handle::Inner;
use crate::id::{Boot, Generation, NodeId};
use crate::identity;
use crate::membership::is_member;
use crate::peer::Kind;
use crate::serve::{decode, encode};
use crate::sync::lock;

/// How often a node reports to the leader.
pub const REPORT_EVERY: Duration = Duration::from_millis(100);

/// A leader must have heard from a quorum this recently to vouch for it.
const VOUCH_WITHIN: Duration = Duration::from_secs(1);

/// Without word of a quorum for this long, a node is not ready.
const UNREACHED_AFTER: Duration = Duration::from_secs(2);

/// Without word of a quorum for this long, a node sends its clients elsewhere.
const ABANDON_AFTER: Duration = Duration::from_secs(3);

/// When this node last had word that a leader with a quorum answers it.
pub struct Quorum {
    started: Instant,
    last: Mutex<Option<Instant>>,
}

impl Quorum {
    /// Without any word so far.
    pub fn new() -> Self {
        Self { started: clock::now(), last: Mutex::default() }
    }

    fn note(&self, at: Instant) {
        let mut last = self.last();
        *last = Some(last.map_or(at, |last| last.max(at)));
    }

    fn last(&self) -> MutexGuard<'_, Option<Instant>> {
        lock(&self.last)
    }

    /// Time since the last word, or since the start.
    pub fn silence(&self) -> Duration {
        self.last().unwrap_or(self.started).elapsed()
    }

    /// Whether the quorum is reached now.
    pub fn reached(&self) -> bool {
        self.ever_reached() && self.silence() < UNREACHED_AFTER
    }

    /// Whether it was ever reached since the start.
    pub fn ever_reached(&self) -> bool {
        self.last().is_some()
    }
}

/// When the leader last heard from each generation.
#[derive(Default)]
pub struct Liveness {
    heard: Mutex<BTreeMap<NodeId, Heard>>,
}

struct Heard {
    generation: Option<Generation>,
    at: Instant,
    draining: bool,
}

impl Liveness {
    /// When `generation` of `node` last reported here.
    pub fn heard(&self, node: NodeId, generation: Generation) -> Option<Instant> {
        self.lock().get(&node).filter(|heard| heard.generation == Some(generation)).map(|heard| heard.at)
    }

    /// Which nodes drain, as far as they have reported here.
    fn draining(&self) -> BTreeSet<NodeId> {
        self.lock().iter().filter(|(_, heard)| heard.draining).map(|(node, _)| *node).collect()
    }

    fn note(&self, node: NodeId, report: &Report) {
        let Report { generation, draining, .. } = *report;
        self.lock().insert(node, Heard { generation, at: clock::now(), draining });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Heard>> {
        lock(&self.heard)
    }
}

/// Which nodes take no new clients, because they are about to stop.
#[derive(Default)]
pub struct Draining {
    own: AtomicBool,
    others: Mutex<BTreeSet<NodeId>>,
}

impl Draining {
    /// This node drains from now on.
    pub fn begin(&self) {
        self.own.store(true, Ordering::Relaxed);
    }

    /// Whether this node does.
    pub fn is_own(&self) -> bool {
        self.own.load(Ordering::Relaxed)
    }

    /// Whether another node does, as of the last word of the leader.
    pub fn includes(&self, node: NodeId) -> bool {
        lock(&self.others).contains(&node)
    }

    fn note_others(&self, others: BTreeSet<NodeId>) {
        *lock(&self.others) = others;
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    generation: Option<Generation>,
    #[serde(default)]
    boot: Option<Boot>,
    /// It takes no new clients any more, and wants to lead no more.
    #[serde(default)]
    draining: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Reply {
    /// The answering node leads, and heard from a quorum this long ago.
    quorum_age_ms: Option<u64>,
    /// The boot that the cluster has seen, when it shows that the reporting one is of an old copy.
    #[serde(default)]
    later_boot: Option<u64>,
    /// What the reporting node has stored for the answering leader: that one's term, and an index.
    #[serde(default)]
    stored: Option<(u64, u64)>,
    /// The nodes that drain.
    #[serde(default)]
    draining: BTreeSet<NodeId>,
}

/// Reports to the leader and watches the quorum, for the life of the node.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut every = clock::interval(REPORT_EVERY);
    let mut last_term = None;
    loop {
        every.tick().await;
        let (running, term) = {
            let metrics = inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.running_state.clone(), metrics.current_term)
        };
        inner.observer.elections(term.saturating_sub(last_term.replace(term).unwrap_or(term)));
        if let Err(error) = running {
            if !inner.is_stopping() {
                inner.fail(format!("the replicated log stopped: {error}"));
            }
            return;
        }
        report(&inner).await;
        if inner.quorum.silence() >= ABANDON_AFTER && inner.router.sessions() > 0 {
            tracing::warn!("no quorum: sending clients elsewhere");
            inner.router.abandon();
        }
    }
}

async fn report(inner: &Arc<Inner>) {
    let leader = inner.current_leader();
    match leader {
        None => {}
        Some(leader) if leader == inner.me => {
            if let Some(age) = quorum_age(inner) {
                inner.quorum.note(clock::now() - age);
            }
            inner.draining.note_others(inner.liveness.draining());
        }
        Some(leader) => {
            let generation = inner.router.lock().origin.generation();
            let report = Report { generation, boot: Some(inner.boot), draining: inner.draining.is_own() };
            let Ok(body) = encode(&report) else { return };
            let asked = clock::now();
            // Apart, so that a slow answer does not hold up the next report.
            let inner = inner.clone();
            tasks::spawn(async move {
                let answer = inner.peers.request(leader, Kind::REPORT, body, VOUCH_WITHIN).await;
                let Some(reply) = answer.ok().and_then(|body| decode::<Reply>(&body).ok()) else { return };
                if let Some(age) = reply.quorum_age_ms {
                    inner.quorum.note(asked - Duration::from_millis(age));
                    inner.draining.note_others(reply.draining.clone());
                }
                if let Some(why) = is_old_copy(&inner, &reply) {
                    refuse_old_copy(&inner, &why).await;
                }
            });
        }
    }
}

/// A node's report, answered. There is no quorum for who was taken out of the cluster: it sends its
/// clients away.
pub(crate) fn reported(inner: &Inner, from: NodeId, report: &Report) -> Reply {
    if !is_member(inner, from) {
        return Reply { quorum_age_ms: None, later_boot: None, stored: None, draining: BTreeSet::new() };
    }
    inner.liveness.note(from, report);
    let mut draining = inner.liveness.draining();
    if inner.draining.is_own() {
        draining.insert(inner.me);
    }
    let age = quorum_age(inner).filter(|age| *age < VOUCH_WITHIN);
    let known = inner.state().node(from).map(|record| record.boot);
    let is_later = |known: &Boot| report.boot.is_some_and(|boot| known.count >= boot.count && *known != boot);
    Reply {
        quorum_age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        later_boot: known.filter(is_later).map(|known| known.count),
        stored: stored_by(inner, from),
        draining,
    }
}

/// What `node` has acknowledged to this leader: the term in which this node leads, and an index.
fn stored_by(inner: &Inner, node: NodeId) -> Option<(u64, u64)> {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let at = metrics.replication.as_ref()?.get(&node)?.as_ref()?;
    (metrics.current_leader == Some(inner.me)).then_some((metrics.current_term, at.index))
}

/// How an answer shows that this data directory is an old copy: the cluster has seen a later boot of
/// it, or it once stored what it does not have. Such a log is never mended by replication, for the
/// leader reckons with what was acknowledged, so the node would not learn it from the log.
fn is_old_copy(inner: &Inner, reply: &Reply) -> Option<String> {
    if let Some(known) = reply.later_boot {
        return Some(format!("it is at boot {}, the cluster has seen boot {known}", inner.boot.count));
    }
    let (term, stored) = reply.stored?;
    // In this order: a later leader, who may shorten the log, makes the term a later one first.
    let last = inner.log.last().map_or(0, |last| last.index);
    (last < stored && inner.log.term() == term)
        .then(|| format!("its log ends at {last}, and it had stored it up to {stored}"))
}

/// Ends this node for good: its data directory is an old copy.
pub(crate) async fn refuse_old_copy(inner: &Inner, why: &str) {
    let words = format!(
        "this data directory is an old copy of node {}: {why}; start with an empty data directory to join as a new node",
        inner.me
    );
    if let Err(error) = identity::refuse(&*inner.blobs, inner.me, inner.boot, &words).await {
        tracing::warn!(%error, "the next start will not know that this data directory was refused");
    }
    inner.fail(words);
}

/// How long ago a quorum acknowledged this node as its leader; `None` if it does not lead.
pub(crate) fn quorum_age(inner: &Inner) -> Option<Duration> {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    if metrics.current_leader != Some(inner.me) {
        return None;
    }
    // A cluster of one is its own quorum.
    let alone = metrics.membership_config.membership().voter_ids().count() == 1;
    let acked = if alone { Some(clock::now()) } else { metrics.last_quorum_acked.map(|at| *at) };
    acked.map(Instant::elapsed)
}
