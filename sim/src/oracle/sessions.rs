//! G4 and G5 in the log: sessions begin and end as it says, and only a live one has its way.
//!
//! An account of our own, kept from the log and what the state machine answers to it (whose counts property tests
//! hold against a model: `proptests/tests/state`): a session lives from its registration until its close, a newer one
//! of its device, its device's forgetting, a revocation of its user's tokens or the end of its node's generation.
//! The state machine, from which replicas take their routes, must know the same ones.

use std::collections::BTreeMap;

use cluster::id::{NodeId, Pos};
use cluster::state::{Batch, Command, ENDING_LEVEL, Effect, Op, Outcome, Register};

use super::{Violation, safety};
use crate::ledger::Device;

/// See the module.
#[derive(Debug, Default)]
pub struct Sessions {
    live: BTreeMap<u64, (Device, NodeId)>,
    by_device: BTreeMap<Device, u64>,
    /// The living generation of each node.
    generations: BTreeMap<NodeId, u64>,
    /// Revocations end sessions.
    revocations_end: bool,
}

impl Sessions {
    /// Takes in what an entry did, by the state machine's word; says what it may not have done.
    pub fn entry(&mut self, index: u64, command: &Command, effects: &[Effect]) -> Vec<Violation> {
        let mut broken = Vec::new();
        for effect in effects {
            match effect {
                Effect::NodeUp { node, .. } => {
                    self.end_generation(*node);
                    self.generations.insert(*node, Pos::new(index, 0).0);
                }
                Effect::BatchApplied { outcomes, .. } => {
                    if let Command::Batch(batch) = command {
                        self.batch(index, batch, outcomes, &mut broken);
                    }
                }
                _ => {}
            }
        }
        match command {
            Command::NodeDown { node, generation } if self.generations.get(node) == Some(&generation.0) => {
                self.end_generation(*node);
            }
            Command::NodeForgotten { node } => self.end_generation(*node),
            Command::SetFeatureLevel(level) => self.revocations_end |= *level >= ENDING_LEVEL,
            Command::Revoke { user, .. } if self.revocations_end => {
                let devices = self.by_device.keys().filter(|device| device.user == user.as_str());
                devices.cloned().collect::<Vec<_>>().iter().for_each(|device| self.end_device(device));
            }
            _ => {}
        }
        broken
    }

    /// How the sessions that the state machine knows differ: `count` there are, and `node` tells where
    /// one is.
    pub fn compare(&self, count: u64, node: impl Fn(u64) -> Option<NodeId>) -> Option<Violation> {
        let ended = self.live.iter().find(|(epoch, (_, at))| node(**epoch) != Some(*at));
        let text = match ended {
            Some((epoch, (device, _))) => format!("G4: the session of {device} at {epoch} ended by nobody's doing"),
            None if count != self.live.len() as u64 => {
                format!("G5: the log says that {} sessions live, and {count} are known", self.live.len())
            }
            None => return None,
        };
        Some(safety(text))
    }

    /// How many live.
    #[cfg(test)]
    fn count(&self) -> u64 {
        self.live.len() as u64
    }

    fn batch(&mut self, index: u64, batch: &Batch, outcomes: &[Outcome], broken: &mut Vec<Violation>) {
        let node = batch.node;
        if self.generations.get(&node) != Some(&batch.generation.0) {
            broken.push(safety(format!("G4: entry {index} is a batch of {node}'s generation that had ended")));
        }
        for (offset, (op, outcome)) in batch.ops.iter().zip(outcomes).enumerate() {
            let epoch = match op {
                Op::Register(register) => {
                    self.register(Pos::new(index, offset).0, node, register, outcome, broken);
                    continue;
                }
                Op::Forget { user, device } => {
                    self.end_device(&Device::new(user.as_str(), device.as_str()));
                    continue;
                }
                Op::Send(send) | Op::TracedSend(send, _) => send.epoch.0,
                Op::GroupSend(send) | Op::TracedGroupSend(send, _) => send.epoch.0,
                Op::Group(op) => op.epoch.0,
                Op::Ack { epoch, .. }
                | Op::Close { epoch, .. }
                | Op::Refuse { epoch, .. }
                | Op::ForgetBy { epoch, .. } => epoch.0,
            };
            let lives = self.live.get(&epoch).is_some_and(|(_, at)| *at == node);
            if lives == (*outcome == Outcome::Fenced) {
                let what = if lives { "lives and was fenced" } else { "is over and had its way" };
                broken.push(safety(format!("G4: a session at {epoch} {what} in entry {index}")));
            }
            match op {
                Op::Close { .. } if lives => self.end(epoch),
                Op::ForgetBy { device, .. } if lives => {
                    let (by, _) = &self.live[&epoch];
                    self.end_device(&Device::new(&by.user, device.as_str()));
                }
                _ => {}
            }
        }
    }

    fn register(
        &mut self,
        place: u64,
        node: NodeId,
        register: &Register,
        outcome: &Outcome,
        broken: &mut Vec<Violation>,
    ) {
        let Outcome::Registered(epoch) = outcome else { return };
        if epoch.0 != place {
            broken.push(safety(format!("G4: a session registered at {place} has the epoch {}", epoch.0)));
        }
        let device = Device::new(register.user.as_str(), register.device.as_str());
        self.end_device(&device);
        self.by_device.insert(device.clone(), epoch.0);
        self.live.insert(epoch.0, (device, node));
    }

    fn end(&mut self, epoch: u64) {
        if let Some((device, _)) = self.live.remove(&epoch) {
            self.by_device.remove(&device);
        }
    }

    fn end_device(&mut self, device: &Device) {
        if let Some(epoch) = self.by_device.get(device).copied() {
            self.end(epoch);
        }
    }

    fn end_generation(&mut self, node: NodeId) {
        self.generations.remove(&node);
        let epochs: Vec<_> = self.live.iter().filter(|(_, (_, at))| *at == node).map(|(epoch, _)| *epoch).collect();
        epochs.into_iter().for_each(|epoch| self.end(epoch));
    }
}

#[cfg(test)]
mod tests {
    use cluster::id::{DeviceId, UserId};

    use super::super::testing::found;
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    /// Node A came up at entry 1 and node B at entry 2; at entry 3, A registers a session of u/a.
    fn begun() -> Sessions {
        let mut sessions = Sessions::default();
        for (index, node) in [(1, A), (2, B)] {
            let effect = Effect::NodeUp { node, generation: Pos::new(index, 0), nonce: 0 };
            assert!(sessions.entry(index, &Command::Tick { advance_ms: 0 }, &[effect]).is_empty());
        }
        assert_eq!(texts(&mut sessions, 3, A, register(), Outcome::Registered(Pos::new(3, 0))), Vec::<String>::new());
        sessions
    }

    fn register() -> Op {
        Op::Register(Register {
            user: UserId::new("u").expect("a user"),
            device: DeviceId::new("a").expect("a device"),
            instance: 1,
            attempt: 1,
            ephemeral: false,
            expect: Pos::ZERO,
        })
    }

    fn ack(epoch: Pos) -> Op {
        Op::Ack { epoch, upto: Pos::new(9, 0) }
    }

    fn texts(sessions: &mut Sessions, index: u64, node: NodeId, op: Op, outcome: Outcome) -> Vec<String> {
        let generation = Pos::new(if node == A { 1 } else { 2 }, 0);
        let outcomes = vec![outcome];
        let effect = Effect::BatchApplied { node, generation, seq: 1, outcomes };
        let batch = Command::Batch(Batch { node, generation, seq: 1, ops: vec![op] });
        sessions.entry(index, &batch, &[effect]).into_iter().map(|broken| broken.text).collect()
    }

    #[test]
    fn a_superseded_session_has_its_way() {
        let (mut sessions, old) = (begun(), Pos::new(3, 0));
        assert_eq!(texts(&mut sessions, 4, A, ack(old), Outcome::Done), Vec::<String>::new());
        let newer = Outcome::Registered(Pos::new(5, 0));
        assert_eq!(texts(&mut sessions, 5, B, register(), newer), Vec::<String>::new());
        assert_eq!(texts(&mut sessions, 6, A, ack(old), Outcome::Fenced), Vec::<String>::new());
        found(&texts(&mut sessions, 7, A, ack(old), Outcome::Done), "is over and had its way");
    }

    #[test]
    fn a_session_of_another_node_or_fenced_without_reason() {
        let (mut sessions, epoch) = (begun(), Pos::new(3, 0));
        found(&texts(&mut sessions, 4, B, ack(epoch), Outcome::Done), "is over and had its way");
        found(&texts(&mut sessions, 5, A, ack(epoch), Outcome::Fenced), "lives and was fenced");
    }

    #[test]
    fn a_generation_that_had_ended() {
        let (mut sessions, epoch) = (begun(), Pos::new(3, 0));
        let down = Command::NodeDown { node: A, generation: Pos::new(1, 0) };
        assert!(sessions.entry(4, &down, &[]).is_empty());
        assert_eq!(sessions.count(), 0);
        found(&texts(&mut sessions, 5, A, ack(epoch), Outcome::Fenced), "generation that had ended");
    }

    #[test]
    fn a_session_that_a_revocation_ended() {
        for (level, lives) in [(ENDING_LEVEL - 1, 1), (ENDING_LEVEL, 0)] {
            let (mut sessions, epoch) = (begun(), Pos::new(3, 0));
            let user = UserId::new("u").expect("a user");
            for (index, command) in [(4, Command::SetFeatureLevel(level)), (5, Command::Revoke { user, before_ms: 9 })]
            {
                assert!(sessions.entry(index, &command, &[]).is_empty());
            }
            assert_eq!(sessions.count(), lives);
            let has_its_way = texts(&mut sessions, 6, A, ack(epoch), Outcome::Done);
            assert_eq!(has_its_way.len(), 1 - lives as usize, "{has_its_way:?}");
        }
    }

    #[test]
    fn an_epoch_that_is_no_place_in_the_log() {
        let registered = Outcome::Registered(Pos::new(2, 0));
        found(&texts(&mut begun(), 4, B, register(), registered), "has the epoch");
    }

    #[test]
    fn routes_that_are_gone_or_too_many() {
        let sessions = begun();
        assert!(sessions.compare(1, |_| Some(A)).is_none());
        let said = |count, node| sessions.compare(count, |_| node).expect("they differ").text;
        assert!(said(0, None).contains("ended by nobody's doing"));
        assert!(said(1, Some(B)).contains("ended by nobody's doing"));
        assert!(said(2, Some(A)).contains("2 are known"));
    }
}
