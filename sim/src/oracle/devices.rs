//! Which devices are known when, by the log and what the state machine answers to it (whose counts property tests hold
//! against a model: `proptests/tests/state`): from a registration on until they are forgotten, on request, at an
//! ephemeral one's goodbye, or for their age. What each is owed follows from that.

use std::collections::BTreeMap;

use cluster::id::{DeviceId, NodeId, Pos};
use cluster::observer::Forgotten;
use cluster::state::{Batch, Command, Effect, Limits, Op, Outcome, Register};

use super::facts::Stored;
use crate::coverage;
use crate::ledger::Device;

/// A time for which a device was known.
#[derive(Debug, Clone, Default)]
pub struct KnownSpan {
    /// What forgot it.
    pub until: Option<u64>,
    /// What is stored behind this position it is owed: its own beginning, or, where it is its user's only device,
    /// what the one before had acknowledged when it was forgotten.
    pub owed_from: u64,
    /// What of that it is not owed all the same.
    pub pardons: Vec<Pardon>,
}

/// What a user's only device is not owed of what the one before left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pardon {
    /// Copies of what that one had sent itself, up to here: it held none of them.
    Sent { device: Device, upto: u64 },
    /// What lies between: it expired, and nobody came for its gap in a device's time of grace; or it is the device's
    /// own of an earlier span, and went with that one, because others were still there.
    Span { after: u64, upto: u64 },
}

impl Pardon {
    /// Whether a message is none that is owed.
    pub fn covers(&self, stored: &Stored) -> bool {
        match self {
            Self::Sent { device, upto } => stored.pos <= *upto && stored.copied_from.as_ref() == Some(device),
            Self::Span { after, upto } => (after + 1..=*upto).contains(&stored.pos),
        }
    }
}

/// What a user's last device left when it was forgotten.
#[derive(Debug, Clone, Default)]
struct Left {
    acked: u64,
    /// When, by replicated time.
    at_ms: u64,
    pardons: Vec<Pardon>,
}

impl KnownSpan {
    /// Whether a place can be this span's.
    pub fn holds(&self, pos: u64) -> bool {
        self.owed_from < pos && self.until.is_none_or(|until| pos <= until)
    }
}

/// All of all devices, in the order of their beginnings.
pub type KnownSpans = BTreeMap<Device, Vec<KnownSpan>>;

/// A device that is known now.
#[derive(Debug)]
struct Known {
    ephemeral: bool,
    session: Option<u64>,
    acked: u64,
    /// When it is forgotten if it does not come back, by replicated time.
    due_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Devices {
    known: BTreeMap<Device, Known>,
    sessions: BTreeMap<u64, (Device, NodeId)>,
    /// Of each user without a device who had one.
    left: BTreeMap<String, Left>,
    /// What each device had acknowledged when it was forgotten last.
    gone: BTreeMap<Device, u64>,
    time_ms: u64,
    /// The last position of each replicated time.
    times: BTreeMap<u64, u64>,
    limits: Limits,
}

impl Devices {
    /// Takes in what an entry did.
    pub fn entry(&mut self, index: u64, command: &Command, effects: &[Effect], spans: &mut KnownSpans) {
        for effect in effects {
            match effect {
                Effect::NodeDown { node, .. } => {
                    let ended: Vec<_> = self.sessions.iter().filter(|(_, (_, at))| at == node).collect();
                    let ended: Vec<u64> = ended.into_iter().map(|(epoch, _)| *epoch).collect();
                    ended.into_iter().for_each(|epoch| drop(self.disconnect(epoch)));
                }
                Effect::Ended { epoch, .. } => drop(self.disconnect(epoch.0)),
                Effect::BatchApplied { node, outcomes, .. } => {
                    if let Command::Batch(batch) = command {
                        self.batch(index, *node, batch, outcomes, spans);
                    }
                }
                _ => {}
            }
        }
        match command {
            Command::SetLimits(limits) => self.limits = limits.clone(),
            Command::Tick { advance_ms } => {
                self.times.insert(self.time_ms, Pos::new(index, 0).0);
                self.time_ms += advance_ms.min(&Command::MAX_TICK_MS);
                let due =
                    self.known.iter().filter(|(_, known)| known.session.is_none() && known.due_ms <= self.time_ms);
                let mut due: Vec<_> = due.map(|(device, known)| (known.due_ms, device.clone())).collect();
                due.sort();
                // A tick does so much and no more; the others wait for the next one, in this order.
                let aged = |effect: &&Effect| matches!(effect, Effect::Forgotten { why: Forgotten::Age, .. });
                due.truncate(effects.iter().filter(aged).count());
                for (_, device) in due {
                    coverage::reached("a device was forgotten for its age");
                    self.forget(Pos::new(index, 0).0, &device, spans);
                }
            }
            _ => {}
        }
    }

    fn batch(&mut self, index: u64, node: NodeId, batch: &Batch, outcomes: &[Outcome], spans: &mut KnownSpans) {
        for (offset, (op, outcome)) in batch.ops.iter().zip(outcomes).enumerate() {
            let pos = Pos::new(index, offset).0;
            match (op, outcome) {
                (Op::Register(register), Outcome::Registered(_)) => self.register(pos, node, register, spans),
                (Op::Ack { epoch, upto }, Outcome::Done) => {
                    if let Some((device, _)) = self.sessions.get(&epoch.0)
                        && let Some(known) = self.known.get_mut(device)
                    {
                        known.acked = known.acked.max(upto.0);
                    }
                }
                (Op::Close { epoch, clean }, Outcome::Done) => {
                    if let Some(device) = self.disconnect(epoch.0)
                        && *clean
                        && self.known[&device].ephemeral
                    {
                        self.forget(pos, &device, spans);
                    }
                }
                (Op::Forget { user, device }, _) => self.request(pos, user.as_str(), device, spans),
                (Op::ForgetBy { epoch, device }, Outcome::Done) => {
                    if let Some((by, _)) = self.sessions.get(&epoch.0).cloned() {
                        self.request(pos, &by.user, device, spans);
                    }
                }
                _ => {}
            }
        }
    }

    fn request(&mut self, pos: u64, user: &str, device: &DeviceId, spans: &mut KnownSpans) {
        let device = Device::new(user, device.as_str());
        if self.known.contains_key(&device) {
            coverage::reached("a device was forgotten on request");
        }
        self.forget(pos, &device, spans);
    }

    fn register(&mut self, pos: u64, node: NodeId, register: &Register, spans: &mut KnownSpans) {
        let device = Device::new(register.user.as_str(), register.device.as_str());
        if let Some(before) = self.known.get(&device).and_then(|known| known.session) {
            self.sessions.remove(&before);
        }
        if !self.known.contains_key(&device) {
            let alone = self.known.keys().all(|other| other.user != device.user);
            let span = if alone { self.heir(&device) } else { KnownSpan { owed_from: pos, ..KnownSpan::default() } };
            let acked = span.owed_from;
            let of_device = spans.entry(device.clone()).or_default();
            if !of_device.is_empty() && !register.ephemeral {
                coverage::reached("a device came back that was forgotten");
            }
            of_device.push(span);
            let known = Known { ephemeral: false, session: None, acked, due_ms: 0 };
            self.known.insert(device.clone(), known);
        }
        let known = self.known.get_mut(&device).expect("it was just put there");
        (known.ephemeral, known.session) = (register.ephemeral, Some(pos));
        self.sessions.insert(pos, (device, node));
    }

    /// The span of a user's only device that begins now.
    fn heir(&self, device: &Device) -> KnownSpan {
        let Left { acked, at_ms, mut pardons } = self.left.get(&device.user).cloned().unwrap_or_default();
        if let Some(&after) = self.gone.get(device).filter(|own| **own < acked) {
            pardons.push(Pardon::Span { after, upto: acked });
        }
        let grace_ms = self.limits.device_ttl_ms;
        if at_ms.saturating_add(grace_ms) <= self.time_ms
            && let Some(long_ago_ms) = self.time_ms.checked_sub(self.limits.message_ttl_ms.saturating_add(grace_ms))
            && let Some((_, upto)) = self.times.range(..=long_ago_ms).next_back()
        {
            pardons.push(Pardon::Span { after: acked, upto: *upto });
        }
        KnownSpan { until: None, owed_from: acked, pardons }
    }

    fn disconnect(&mut self, epoch: u64) -> Option<Device> {
        let (device, _) = self.sessions.remove(&epoch)?;
        let known = self.known.get_mut(&device)?;
        let ttl_ms = if known.ephemeral { self.limits.ephemeral_ttl_ms } else { self.limits.device_ttl_ms };
        (known.session, known.due_ms) = (None, self.time_ms.saturating_add(ttl_ms));
        Some(device)
    }

    fn forget(&mut self, pos: u64, device: &Device, spans: &mut KnownSpans) {
        let Some(known) = self.known.remove(device) else { return };
        known.session.map(|epoch| self.sessions.remove(&epoch));
        let span = spans.get_mut(device).and_then(|spans| spans.last_mut()).expect("it began");
        span.until = Some(pos);
        self.gone.insert(device.clone(), known.acked);
        if self.known.keys().all(|other| other.user != device.user) {
            let mut pardons = span.pardons.clone();
            pardons.push(Pardon::Sent { device: device.clone(), upto: pos });
            self.left.insert(device.user.clone(), Left { acked: known.acked, at_ms: self.time_ms, pardons });
        }
    }
}

#[cfg(test)]
mod tests {
    use cluster::id::UserId;

    use super::*;

    const NODE: NodeId = NodeId(1);

    struct Log {
        devices: Devices,
        spans: KnownSpans,
        index: u64,
    }

    impl Log {
        fn op(&mut self, op: Op, outcome: Outcome) -> u64 {
            self.index += 1;
            let outcomes = vec![outcome];
            let effect = Effect::BatchApplied { node: NODE, generation: Pos(1), seq: 1, outcomes };
            let batch = Command::Batch(Batch { node: NODE, generation: Pos(1), seq: 1, ops: vec![op] });
            self.devices.entry(self.index, &batch, &[effect], &mut self.spans);
            Pos::new(self.index, 0).0
        }

        fn register(&mut self, device: &str) -> u64 {
            let (user, device) = (UserId::new("u").expect("a user"), DeviceId::new(device).expect("a device"));
            let register = Register { user, device, instance: 1, attempt: 1, ephemeral: false, expect: Pos::ZERO };
            let epoch = Pos::new(self.index + 1, 0);
            self.op(Op::Register(register), Outcome::Registered(epoch))
        }

        fn forget(&mut self, device: &str) -> u64 {
            let (user, device) = (UserId::new("u").expect("a user"), DeviceId::new(device).expect("a device"));
            self.op(Op::Forget { user, device }, Outcome::Done)
        }

        /// A tick that forgets so many devices for their age.
        fn tick(&mut self, advance_ms: u64, forgotten: usize) {
            self.index += 1;
            let effects = vec![Effect::Forgotten { why: Forgotten::Age, node: None }; forgotten];
            self.devices.entry(self.index, &Command::Tick { advance_ms }, &effects, &mut self.spans);
        }

        /// Behind what a device is owed messages in each span, and up to where.
        fn of(&self, device: &str) -> Vec<(u64, Option<u64>)> {
            let spans = self.spans.get(&Device::new("u", device)).into_iter().flatten();
            spans.map(|span| (span.owed_from, span.until)).collect()
        }
    }

    fn log() -> Log {
        let limits = Limits { device_ttl_ms: 1_000, ..Limits::default() };
        let devices = Devices { limits, ..Devices::default() };
        Log { devices, spans: KnownSpans::new(), index: 0 }
    }

    #[test]
    fn one_of_two_begins_afresh() {
        let mut log = log();
        log.register("a");
        let b = log.register("b");
        let gone = log.forget("b");
        let again = log.register("b");
        assert_eq!(log.of("a"), [(0, None)]);
        assert_eq!(log.of("b"), [(b, Some(gone)), (again, None)]);
    }

    #[test]
    fn the_last_one_leaves_what_it_had_not_acknowledged() {
        let mut log = log();
        let a = log.register("a");
        log.op(Op::Ack { epoch: Pos(a), upto: Pos(77) }, Outcome::Done);
        let gone = log.forget("a");
        log.register("b");
        assert_eq!((log.of("a"), log.of("b")), (vec![(0, Some(gone))], vec![(77, None)]));
    }

    #[test]
    fn age_counts_while_it_is_away() {
        let mut log = log();
        let a = log.register("a");
        log.tick(5_000, 0);
        assert_eq!(log.of("a"), [(0, None)]);
        log.op(Op::Close { epoch: Pos(a), clean: true }, Outcome::Done);
        log.tick(999, 0);
        assert_eq!(log.of("a"), [(0, None)]);
        log.tick(1, 1);
        assert_eq!(log.of("a"), [(0, Some(Pos::new(log.index, 0).0))]);
    }

    /// Seed 3895.
    #[test]
    fn who_is_due_in_a_tick_that_has_too_much_to_do_may_come_back_before_the_next() {
        let mut log = log();
        let sessions = [log.register("a"), log.register("b")];
        for epoch in sessions {
            log.op(Op::Close { epoch: Pos(epoch), clean: true }, Outcome::Done);
        }
        log.tick(2_000, 1);
        log.register("b");
        log.tick(1, 0);
        assert!(log.of("a")[0].1.is_some());
        assert_eq!(log.of("b"), [(sessions[1], None)]);
    }

    #[test]
    fn an_heir_is_not_owed_what_the_last_one_sent_nor_what_expired_long_ago() {
        let mut log = log();
        let limits = Limits { message_ttl_ms: 10, device_ttl_ms: 5, ..Limits::default() };
        log.devices.entry(0, &Command::SetLimits(limits), &[], &mut log.spans);
        log.register("a");
        log.register("b");
        log.forget("a");
        let gone = log.forget("b");
        log.register("c");
        let sent = Pardon::Sent { device: Device::new("u", "b"), upto: gone };
        assert_eq!(log.spans[&Device::new("u", "c")][0].pardons, std::slice::from_ref(&sent));
        let again = log.forget("c");
        for _ in 0..4 {
            log.tick(5, 0);
        }
        log.register("d");
        let expired = Pardon::Span { after: Pos::new(2, 0).0, upto: Pos::new(log.index - 3, 0).0 };
        let sent_later = Pardon::Sent { device: Device::new("u", "c"), upto: again };
        assert_eq!(log.spans[&Device::new("u", "d")][0].pardons, [sent, sent_later, expired]);
    }

    #[test]
    fn what_went_with_a_device_is_not_owed_to_it_by_the_one_that_outlived_it() {
        let mut log = log();
        let (a, b) = (log.register("a"), log.register("b"));
        log.op(Op::Ack { epoch: Pos(a), upto: Pos(b + 5) }, Outcome::Done);
        log.forget("b");
        let gone = log.forget("a");
        log.register("b");
        let span = Pardon::Span { after: b, upto: b + 5 };
        let sent = Pardon::Sent { device: Device::new("u", "a"), upto: gone };
        let known = &log.spans[&Device::new("u", "b")][1];
        assert_eq!((known.owed_from, &known.pardons[..]), (b + 5, &[sent, span][..]));
    }
}
