//! Replicated time moves by ticks only, and what is due by it is done: bounded per tick, and all of
//! it in the end.

use std::collections::BTreeSet;

use bytes::Bytes;
use cluster::id::{Boot, MessageId, Pos, UserId};
use cluster::state::{Batch, Command, Effect, Limits, NodeUp, Op, Register, Send, State, Totals};
use proptest::prelude::*;

use crate::log::{Maker, any_log, device, groups, node, user};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn only_ticks_move_time(log in any_log(60)) {
        let mut state = State::new();
        let mut time_ms = 0;
        for entry in &log.0 {
            let effects = entry.apply(&mut state);
            if let Some(Command::Tick { advance_ms }) = entry.command {
                time_ms += advance_ms.min(Command::MAX_TICK_MS);
            } else {
                let expired = effects.iter().any(|effect| matches!(effect, Effect::Expired { .. }));
                prop_assert!(!expired, "messages expired without a tick");
            }
            prop_assert_eq!(state.time_ms(), time_ms);
        }
    }

    /// Nothing stays forever, no user, device, ring, message or gap, but who is in which group. (Revocations
    /// outlast all of it.)
    #[test]
    fn what_nobody_comes_for_is_forgotten(log in any_log(60)) {
        let mut state = State::new();
        for entry in &log.0 {
            entry.apply(&mut state);
        }
        let up: Vec<_> = state.nodes().filter_map(|(id, node)| Some((id, node.generation?))).collect();
        let mut index = state.applied();
        let mut apply = |command| {
            index += 1;
            state.apply(index, &command, &mut Vec::new());
        };
        for (node, generation) in up {
            apply(Command::NodeDown { node, generation });
        }
        // The longest chain: a message expires, then its gap is forgotten; 60 s each are plenty.
        for _ in 0..3 {
            apply(Command::Tick { advance_ms: u64::MAX });
        }
        let members = groups().filter_map(|group| state.members(&group, None, usize::MAX));
        let members: Vec<_> = members.map(|(members, _)| members).collect();
        let users = members.iter().flatten().collect::<BTreeSet<_>>().len() as u64;
        let revocations = state.totals().revocations;
        let (groups, memberships) = (members.len() as u64, members.iter().flatten().count() as u64);
        let expected = Totals { users, absent_users: users, groups, memberships, revocations, ..Totals::default() };
        prop_assert_eq!(state.totals(), expected);
        prop_assert_eq!(state.audit(), Ok(()));
    }
}

/// A log of one node and one session that sends.
fn sender(limits: Limits) -> (Maker, Pos) {
    let mut maker = Maker::new();
    maker.append(Some(Command::SetLimits(limits)));
    let boot = Boot { count: 1, nonce: 1 };
    let up = NodeUp { node: node(0), boot, incarnation: 1, client_url: String::new(), feature_level: 1 };
    maker.append(Some(Command::NodeUp(up)));
    let (instance, attempt, ephemeral, expect) = (1, 1, false, Pos::ZERO);
    batch(
        &mut maker,
        vec![Op::Register(Register { user: user(0), device: device(0), instance, attempt, ephemeral, expect })],
    );
    let epoch = maker.state.device(&user(0), &device(0)).unwrap().last_epoch;
    (maker, epoch)
}

fn batch(maker: &mut Maker, ops: Vec<Op>) -> Vec<Effect> {
    let record = maker.state.node(node(0)).unwrap();
    let (generation, seq) = (record.generation.unwrap(), record.next_seq);
    maker.append(Some(Command::Batch(Batch { node: node(0), generation, seq, ops })))
}

fn send(epoch: Pos, to: UserId, n: u32) -> Op {
    let body = Bytes::from(n.to_string());
    let mid = MessageId::direct(&user(0), &device(0), &to, "", &body);
    Op::Send(Send { epoch, mid, to, ts_ms: 0, body })
}

#[test]
fn a_tick_does_a_bounded_amount_of_work_oldest_first() {
    const DAY_MS: u64 = 24 * 60 * 60_000;
    let (mut maker, epoch) = sender(Limits { message_ttl_ms: 5_000, device_ttl_ms: DAY_MS, ..Limits::default() });
    for n in 0..2_500 {
        let to = UserId::new(&format!("nobody{}", n % 50)).unwrap();
        batch(&mut maker, vec![send(epoch, to, n)]);
        if n % 100 == 0 {
            maker.append(Some(Command::Tick { advance_ms: 1 }));
        }
    }
    let mut left = vec![maker.state.totals().inbox_messages];
    maker.append(Some(Command::Tick { advance_ms: 10_000 }));
    left.push(maker.state.totals().inbox_messages);
    while left.last() != Some(&0) {
        assert!(left.len() < 8, "work is not done: {left:?}");
        maker.append(Some(Command::Tick { advance_ms: 0 }));
        left.push(maker.state.totals().inbox_messages);
    }
    assert!(left.is_sorted_by(|a, b| a - b <= 1_000 && a - b > 0), "too much or nothing at once: {left:?}");
    assert_eq!(left[1], 1_500, "a tick does what it may");
    assert_eq!(maker.state.audit(), Ok(()));
}
