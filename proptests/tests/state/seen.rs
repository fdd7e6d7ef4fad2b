//! Effects in a form and order in which two machines can be compared.

use cluster::id::{Epoch, MessageId, NodeId, Pos, UserId};
use cluster::state::{Effect, GapReason};

/// An effect, in comparable form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    Lapsed(UserId, Option<NodeId>, u64),
    Superseded(NodeId, Epoch),
    Ended(NodeId, Epoch),
    Acked(NodeId, u64, u64, Vec<MessageId>),
    Expired(u64),
    /// Whether by age, who counts, how many.
    GroupLost(bool, Option<NodeId>, u64),
    WakeGroup(Vec<UserId>),
    Wake(UserId),
    Breaker(bool),
    NodeUp(NodeId, Pos),
    NodeRefused(NodeId, u64),
    NodeDown(NodeId, Pos),
    Revoked(UserId, u64),
    Batch(NodeId, u64, String),
}

/// Effects in comparable form and order.
pub fn seen(effects: &[Effect]) -> Vec<Seen> {
    let lost = effects.iter().filter_map(|effect| match effect {
        Effect::GroupLost { reason, lost } => Some((*reason == GapReason::Expired, lost)),
        _ => None,
    });
    let lost = lost.flat_map(|(old, lost)| lost.iter().map(move |(node, count)| Seen::GroupLost(old, *node, *count)));
    let lost: Vec<Seen> = lost.collect();
    // Whom presence names is held against the sessions themselves, and who is forgotten against the devices: see
    // `determinism.rs`. The model traces nothing.
    let elsewhere = |effect: &&Effect| {
        matches!(effect, Effect::GroupLost { .. } | Effect::Presence(_) | Effect::Traced(_) | Effect::Forgotten { .. })
    };
    let rest = effects.iter().filter(|effect| !elsewhere(effect));
    let see = |effect: &Effect| match effect {
        Effect::GroupLost { .. } | Effect::Presence(_) | Effect::Traced(_) | Effect::Forgotten { .. } => unreachable!(),
        Effect::WakeGroup(members) => Seen::WakeGroup(members.keys().cloned().collect()),
        Effect::BatchApplied { node, seq, outcomes, .. } => Seen::Batch(*node, *seq, format!("{outcomes:?}")),
        Effect::BatchRefused { node, seq, refusal, .. } => Seen::Batch(*node, *seq, format!("{refusal:?}")),
        Effect::Wake(user) => Seen::Wake(user.clone()),
        Effect::Superseded { node, epoch } => Seen::Superseded(*node, *epoch),
        Effect::Ended { node, epoch } => Seen::Ended(*node, *epoch),
        Effect::Lapsed { user, lost, node } => Seen::Lapsed(user.clone(), *node, *lost),
        Effect::Acked { node, epoch: _, count, group, first } => {
            Seen::Acked(*node, *count, *group, first.iter().map(|first| first.message.mid).collect())
        }
        Effect::Expired { count, .. } => Seen::Expired(*count),
        Effect::Breaker { open } => Seen::Breaker(*open),
        Effect::NodeUp { node, generation, .. } => Seen::NodeUp(*node, *generation),
        Effect::NodeRefused { node, boot, .. } => Seen::NodeRefused(*node, *boot),
        Effect::Revoked { user, before_ms } => Seen::Revoked(user.clone(), *before_ms),
        Effect::NodeDown { node, generation } => Seen::NodeDown(*node, *generation),
    };
    in_order(rest.map(see).chain(lost).collect())
}

/// Sorted, each wake once, what was lost summed up.
pub fn in_order(effects: Vec<Seen>) -> Vec<Seen> {
    let expired = effects.iter().map(|seen| if let Seen::Expired(count) = seen { *count } else { 0 }).sum();
    let mut rest: Vec<_> = effects.into_iter().filter(|seen| !matches!(seen, Seen::Expired(_))).collect();
    if expired > 0 {
        rest.push(Seen::Expired(expired));
    }
    rest.sort();
    rest.dedup_by(|later, sum| match (later, sum) {
        (Seen::Lapsed(user, node, more), Seen::Lapsed(of, at, count)) if (&*user, &*node) == (&*of, &*at) => {
            *count += *more;
            true
        }
        (Seen::GroupLost(a, b, more), Seen::GroupLost(c, d, count)) if (*a, *b) == (*c, *d) => {
            *count += *more;
            true
        }
        _ => false,
    });
    rest.dedup_by(|a, b| a == b && matches!(a, Seen::Wake(_)));
    rest
}
