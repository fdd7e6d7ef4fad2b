//! G7: what anybody can make the state remember has an end, and who meets it is told what is true.

use std::ops::Range;

use bytes::Bytes;
use cluster::id::{Boot, DeviceId, GroupId, MessageId, Pos, UserId};
use cluster::state::{
    Batch, Command, Effect, FEATURE_LEVEL, GroupAct, GroupLimits, GroupOp, GroupSend, NodeUp, Op, Outcome,
    REVOCATION_KEPT_MS, Register, RegisterRefusal, SHARES_LEVEL, Send, SendRefusal, State,
};

use crate::log::{node, user};

/// Users without a device for whom something waits.
const ABSENT: usize = 100_000;
const ABSENT_OF_ONE: usize = 10_000;
/// Forgotten devices of a user that are remembered.
const FORGOTTEN: usize = 256;

struct World(State);

impl World {
    /// A cluster of this level, whose one node is up.
    fn new(level: u32) -> Self {
        let mut world = Self(State::new());
        world.apply(Command::SetFeatureLevel(level));
        let boot = Boot { count: 1, nonce: 1 };
        let up = NodeUp { node: node(0), boot, incarnation: 1, client_url: String::new(), feature_level: level };
        world.apply(Command::NodeUp(up));
        world
    }

    fn apply(&mut self, command: Command) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.0.apply(self.0.applied() + 1, &command, &mut effects);
        effects
    }

    fn ops(&mut self, ops: Vec<Op>) -> Vec<Outcome> {
        let record = self.0.node(node(0)).unwrap();
        let (generation, seq) = (record.generation.unwrap(), record.next_seq);
        let effects = self.apply(Command::Batch(Batch { node: node(0), generation, seq, ops }));
        let outcomes = effects.into_iter().find_map(|effect| match effect {
            Effect::BatchApplied { outcomes, .. } => Some(outcomes),
            _ => None,
        });
        outcomes.expect("the batch was applied")
    }

    fn write_to_absent(&mut self, epoch: Pos, names: Range<usize>) {
        for first in names.clone().step_by(1_000) {
            let names = first..(first + 1_000).min(names.end);
            let to_all = names.map(|n| send(epoch, &format!("nobody-{n}"), n as u64)).collect();
            assert!(!self.ops(to_all).iter().any(is_refused));
        }
    }

    fn register(&mut self, user: &UserId, device: &str) -> Result<Pos, RegisterRefusal> {
        let (device, expect) = (DeviceId::new(device).unwrap(), Pos::ZERO);
        let register = Register { user: user.clone(), device, instance: 1, attempt: 1, ephemeral: true, expect };
        match self.ops(vec![Op::Register(register)]).remove(0) {
            Outcome::Registered(epoch) => Ok(epoch),
            Outcome::RegisterRefused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }
}

fn mid(key: u64) -> MessageId {
    let mut mid = [0; 16];
    mid[..8].copy_from_slice(&key.to_le_bytes());
    MessageId(mid)
}

fn send(epoch: Pos, to: &str, key: u64) -> Op {
    let to = UserId::new(to).unwrap();
    Op::Send(Send { epoch, mid: mid(key), to, ts_ms: 0, body: Bytes::from_static(b"1") })
}

fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::SendRefused { refusal: SendRefusal::InboxFull, .. })
}

#[test]
fn users_who_never_come_are_not_without_number() {
    for (level, bounded) in [(SHARES_LEVEL, true), (SHARES_LEVEL - 1, true), (SHARES_LEVEL - 2, false)] {
        let mut world = World::new(level);
        let epoch = world.register(&user(0), "d").expect("there is room");
        world.register(&user(1), "d").expect("there is room");
        let share = if level < SHARES_LEVEL { ABSENT } else { ABSENT_OF_ONE };
        for (number, first) in (0..ABSENT).step_by(share).enumerate() {
            let by = world.register(&UserId::new(&format!("sender-{number}")).unwrap(), "d").expect("there is room");
            world.write_to_absent(by, first..first + share);
            if level >= SHARES_LEVEL {
                let further = world.ops(vec![send(by, "one-more", 1 << 35)]);
                assert!(is_refused(&further[0]), "no one sender has all the room");
            }
        }
        assert_eq!(world.0.totals().absent_users, ABSENT as u64);
        let (here, known) = (send(epoch, user(1).as_str(), 1 << 32), send(epoch, "nobody-7", 1 << 33));
        let outcomes = world.ops(vec![send(epoch, "somebody-else", 1 << 34), here, known]);
        assert_eq!(outcomes.iter().map(is_refused).collect::<Vec<_>>(), [bounded, false, false]);
        let again = world.ops(vec![send(epoch, "somebody-else", 1 << 34)]);
        assert_eq!(is_refused(&again[0]), bounded, "the answer stays as it was");
    }
}

#[test]
fn whoever_comes_makes_room_for_one_more() {
    let mut world = World::new(FEATURE_LEVEL);
    let epoch = world.register(&user(0), "d").expect("there is room");
    world.write_to_absent(epoch, 0..ABSENT_OF_ONE);
    let one_more = |n: u64| vec![send(epoch, &format!("late-{n}"), (1 << 36) + n)];
    assert!(is_refused(&world.ops(one_more(0))[0]));
    world.register(&UserId::new("nobody-5").unwrap(), "d").expect("there is room");
    assert!(!is_refused(&world.ops(one_more(1))[0]));
    assert!(is_refused(&world.ops(one_more(2))[0]));
    assert_eq!(world.0.audit(), Ok(()), "what is counted is what there is");
}

#[test]
fn a_group_at_its_limit_of_bytes_loses_an_eighth() {
    const BODY: usize = 64 << 10;
    for level in [SHARES_LEVEL, SHARES_LEVEL - 1] {
        let mut world = World::new(level);
        world.apply(Command::SetGroupLimits(GroupLimits { members: 10, per_user: 10 }));
        let epoch = world.register(&user(0), "d").expect("there is room");
        let absent = world.register(&user(1), "d").expect("there is room");
        let group = GroupId::new("g").unwrap();
        let join = |epoch, act| Op::Group(GroupOp { epoch, group: group.clone(), act });
        world.ops(vec![join(epoch, GroupAct::Create), join(absent, GroupAct::Join)]);
        let (limit, mut fewest) = (world.0.limits().inbox_bytes as usize / BODY, usize::MAX);
        for n in 0..limit + 5 {
            let body = Bytes::from(vec![0; BODY]);
            let mid = mid(n as u64);
            world.ops(vec![Op::GroupSend(GroupSend { epoch, mid, group: group.clone(), ts_ms: 0, body })]);
            if n >= limit {
                fewest = fewest.min(world.0.totals().inbox_messages as usize);
            }
        }
        let left = if level >= SHARES_LEVEL { limit - limit / 8 } else { 0 };
        assert!((left..left + 3).contains(&fewest), "{fewest} of {limit} are left at level {level}");
    }
}

#[test]
fn who_forgets_too_many_devices_is_not_taken_for_one_with_too_many() {
    let mut world = World::new(FEATURE_LEVEL);
    for n in 0..FORGOTTEN {
        let epoch = world.register(&user(0), &format!("tab-{n}")).expect("there is room");
        world.ops(vec![send(epoch, "bob", n as u64), Op::Close { epoch, clean: true }]);
    }
    assert_eq!(world.register(&user(0), "phone"), Err(RegisterRefusal::TooManyForgotten));
    world.apply(Command::Tick { advance_ms: Command::MAX_TICK_MS });
    let hour = world.0.limits().ring_ttl_ms / Command::MAX_TICK_MS;
    (0..hour).for_each(|_| drop(world.apply(Command::Tick { advance_ms: Command::MAX_TICK_MS })));
    world.register(&user(0), "phone").expect("they are remembered no more");
}

#[test]
fn a_revocation_is_forgotten_when_every_token_from_before_has_ended() {
    let mut world = World::new(FEATURE_LEVEL);
    world.apply(Command::Revoke { user: user(0), before_ms: 1 });
    let ticks = REVOCATION_KEPT_MS / Command::MAX_TICK_MS;
    (1..ticks).for_each(|_| drop(world.apply(Command::Tick { advance_ms: Command::MAX_TICK_MS })));
    assert_eq!(world.0.revoked_before(&user(0)), Some(1));
    world.apply(Command::Tick { advance_ms: Command::MAX_TICK_MS });
    assert_eq!((world.0.revoked_before(&user(0)), world.0.totals().revocations), (None, 0));
}

#[test]
fn only_a_session_that_lives_has_devices_forgotten() {
    let mut world = World::new(FEATURE_LEVEL);
    let thief = world.register(&user(0), "stolen").unwrap();
    world.register(&user(0), "phone").unwrap();
    let forget = |epoch| Op::ForgetBy { epoch, device: DeviceId::new("phone").unwrap() };
    world.apply(Command::Revoke { user: user(0), before_ms: 1 });
    assert_eq!(world.ops(vec![forget(thief)]), [Outcome::Fenced]);
    assert_eq!(world.0.totals().devices, 2);
    let own = world.register(&user(0), "tablet").unwrap();
    assert_eq!(world.ops(vec![forget(own)]), [Outcome::Done]);
    assert_eq!((world.0.totals().devices, world.0.totals().retired_devices), (2, 1));
}
