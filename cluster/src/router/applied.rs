//! What was applied, as far as it concerns this node's sessions.

use std::time::Duration;

use super::awaited::{Awaited, Awaiting, Early};
use super::{Router, Tables};
use crate::env::clock;
use crate::id::{Epoch, NodeId};
use crate::observer::Audience;
use crate::raft::{ApplySink, LogId};
use crate::state::{Effect, FirstAck, GapReason, Outcome, SendRefusal};
use crate::sync::lock;

impl ApplySink for Router {
    fn applied(&self, at: &LogId, effects: Vec<Effect>) {
        let mut tables = self.lock();
        for effect in effects {
            self.apply(&mut tables, at.leader_id.node_id, effect);
        }
        drop(tables);
        self.work.notify_one();
    }

    fn checkpointed(&self, took: Duration) {
        self.observer.checkpoint(took);
    }

    fn installed(&self, _index: u64) {
        let mut tables = self.lock();
        let events = tables.origin.rejoin();
        tables.dispatch(events);
        drop(tables);
        self.desk.all_changed();
        self.settled.notify_one();
        self.work.notify_one();
    }
}

impl Router {
    fn apply(&self, tables: &mut Tables, author: NodeId, effect: Effect) {
        match effect {
            Effect::Traced(traced) => traced.stored(clock::now()),
            Effect::Presence(users) => self.desk.changed(&users),
            Effect::Wake(user) => tables.wake(&user),
            Effect::WakeGroup(members) => members.keys().for_each(|member| tables.wake(member)),
            Effect::Revoked { user, before_ms } => tables.revoked(&user, before_ms),
            Effect::Breaker { open } => breaker(tables, open),
            Effect::Superseded { node, epoch } if node == self.node => {
                let events = tables.origin.on_superseded(epoch);
                tables.dispatch(events);
            }
            Effect::Ended { node, epoch } if node == self.node => {
                let events = tables.origin.on_ended(epoch);
                tables.dispatch(events);
            }
            Effect::Superseded { .. } | Effect::Ended { .. } => {}
            Effect::BatchApplied { .. }
            | Effect::BatchRefused { .. }
            | Effect::NodeUp { .. }
            | Effect::NodeDown { .. }
            | Effect::NodeRefused { .. } => self.proposed(tables, effect),
            Effect::GroupLost { .. }
            | Effect::Lapsed { .. }
            | Effect::Acked { .. }
            | Effect::Forgotten { .. }
            | Effect::Expired { .. } => self.told(tables, author, effect),
        }
    }

    /// What became of what this node proposed: its batches, and its generations.
    fn proposed(&self, tables: &mut Tables, effect: Effect) {
        let events = match effect {
            Effect::BatchApplied { node, generation, seq, outcomes } if node == self.node => {
                if tables.counting {
                    self.count(&mut tables.awaited, &outcomes);
                }
                tables.origin.on_applied(generation, seq, &outcomes, clock::now())
            }
            Effect::BatchRefused { node, generation, seq, refusal } if node == self.node => {
                tables.origin.on_refused(generation, seq, refusal)
            }
            Effect::NodeUp { node, generation, nonce } if node == self.node && nonce == self.boot_nonce => {
                tables.counting = true;
                tables.origin.on_node_up(generation)
            }
            Effect::NodeDown { node, generation } if node == self.node => tables.origin.on_node_down(generation),
            Effect::NodeRefused { node, boot, nonce, known } if node == self.node && nonce == self.boot_nonce => {
                *lock(&self.refused) = Some((boot, known));
                Vec::new()
            }
            _ => return,
        };
        tables.dispatch(events);
        self.settled.notify_one();
    }

    /// What became of messages and devices: one node counts it, and says what there is to say.
    fn told(&self, tables: &mut Tables, author: NodeId, effect: Effect) {
        match effect {
            Effect::GroupLost { reason, lost } => {
                for (node, count) in lost {
                    if self.counts(tables, node.unwrap_or(author)) {
                        self.observer.failed(Audience::Group, reason_name(reason), count, None);
                    }
                }
            }
            Effect::Lapsed { user, lost, node } => {
                tables.wake(&user);
                if self.counts(tables, node.unwrap_or(author)) {
                    self.observer.failed(Audience::Direct, reason_name(GapReason::InboxLimit), lost, Some(&user));
                }
            }
            Effect::Acked { node, count, group, first, epoch } => {
                if self.counts(tables, node) {
                    self.observer.delivered(Audience::Direct, count);
                    self.observer.delivered(Audience::Group, group);
                }
                for ack in first {
                    self.first_ack(tables, &ack, epoch);
                }
            }
            Effect::Forgotten { why, node } if self.counts(tables, node.unwrap_or(author)) => {
                self.observer.forgotten(why);
            }
            Effect::Expired { user, count } if self.counts(tables, author) => {
                self.observer.failed(Audience::Direct, reason_name(GapReason::Expired), count, Some(&user));
            }
            _ => {}
        }
    }

    /// Whether what `node` counts is for this process to count. What concerns no session is counted
    /// by the leader that wrote the entry: every replica agrees on which that is, and on no other
    /// "leader" while one is elected.
    fn counts(&self, tables: &Tables, node: NodeId) -> bool {
        tables.counting && node == self.node
    }

    fn count(&self, awaited: &mut Awaited, outcomes: &[Outcome]) {
        let (mut duplicates, mut refused) = (0, 0);
        for outcome in outcomes {
            if let Outcome::Stored { mid, duplicate } = outcome
                && let Some((sent, Early { by, latency, waited })) = awaited.stored(mid, *duplicate)
            {
                self.measured(mid, &by, &sent, latency, waited);
            }
            match outcome {
                Outcome::Stored { duplicate: true, .. } | Outcome::SendRefused { duplicate: true, .. } => {
                    duplicates += 1
                }
                // A sender who is no member, or names no group, has made a mistake: nothing has failed.
                Outcome::SendRefused { refusal: SendRefusal::InboxFull, .. } => refused += 1,
                _ => {}
            }
        }
        if duplicates > 0 {
            self.observer.duplicate(duplicates);
        }
        if refused > 0 {
            self.observer.failed(Audience::Direct, "inbox_full", refused, None);
        }
    }

    fn first_ack(&self, tables: &mut Tables, ack: &FirstAck, epoch: Epoch) {
        let message = &ack.message;
        let trace = message.trace.context().map(Box::new);
        let latency = match tables.awaited.settle(&message.mid) {
            Some(Awaiting { told: true, .. }) => return,
            Some(mut sent) => {
                // Ours would be known by now to be stored: this is the repeat of what another process stored.
                sent.measured |= !sent.stored;
                sent.trace.clone_from(&trace);
                let (latency, waited) = (sent.arrived.elapsed(), epoch >= message.pos);
                self.measured(&message.mid, &ack.by, &sent, latency, waited);
                (!waited).then_some(latency)
            }
            None => None,
        };
        let sender = (&message.from, &message.device);
        tables.tell_sender(sender, message.mid, &ack.by, latency, trace);
    }
}

/// What is stored is held back from now on, or goes out again.
fn breaker(tables: &Tables, open: bool) {
    if tables.counting {
        tracing::warn!(open, "the breaker was switched; while it is open, messages are stored and not delivered");
    }
    if !open {
        tables.wake_all();
    }
}

/// The label of what was lost.
fn reason_name(reason: GapReason) -> &'static str {
    match reason {
        GapReason::InboxLimit => "inbox_limit",
        GapReason::Expired => "expired",
    }
}
