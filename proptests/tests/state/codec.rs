//! What is read from disk or from the log is either exactly what was written, or refused; never a
//! panic.

use std::collections::BTreeMap;

use bytes::Bytes;
use cluster::id::{Boot, MessageId, NodeId, Pos};
use cluster::state::{
    Batch, Command, DecodeError, FEATURE_LEVEL, GroupLimits, GroupOp, GroupSend, Limits, NodeUp, Op, Register,
    RestoreError, Send, Shard, State,
};
use cluster::trace::{SpanId, TraceContext, TraceId};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::log::{act, any_log, device, group, group_limits, limits, user};

fn pos() -> impl Strategy<Value = Pos> {
    any::<u64>().prop_map(Pos)
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<u64>().prop_map(NodeId)
}

fn trace() -> impl Strategy<Value = TraceContext> {
    let ids = (any::<[u8; 16]>(), any::<std::num::NonZeroU64>());
    ids.prop_map(|(trace, span)| TraceContext { trace: TraceId(trace), span: SpanId(span) })
}

fn op() -> impl Strategy<Value = Op> {
    let user = || any::<u8>().prop_map(user);
    let device = || any::<u8>().prop_map(device);
    prop_oneof![
        (user(), device(), any::<u64>(), any::<u64>(), any::<bool>(), pos()).prop_map(
            |(user, device, instance, attempt, ephemeral, expect)| Op::Register(Register {
                user,
                device,
                instance,
                attempt,
                ephemeral,
                expect
            })
        ),
        (pos(), any::<[u8; 16]>(), user(), any::<u64>(), vec(any::<u8>(), 0..100)).prop_map(
            |(epoch, mid, to, ts_ms, body)| Op::Send(Send {
                epoch,
                mid: MessageId(mid),
                to,
                ts_ms,
                body: Bytes::from(body)
            })
        ),
        (pos(), any::<[u8; 16]>(), user(), any::<u8>().prop_map(group), trace()).prop_flat_map(
            |(epoch, mid, to, group, trace)| {
                let (mid, body, ts_ms) = (MessageId(mid), Bytes::from_static(b"1"), 7);
                let direct = Op::TracedSend(Send { epoch, mid, to, ts_ms, body: body.clone() }, trace);
                let group = Op::TracedGroupSend(GroupSend { epoch, mid, group, ts_ms, body }, trace);
                prop_oneof![Just(direct), Just(group)]
            }
        ),
        (pos(), pos()).prop_map(|(epoch, upto)| Op::Ack { epoch, upto }),
        (pos(), any::<bool>()).prop_map(|(epoch, clean)| Op::Close { epoch, clean }),
        (pos(), any::<[u8; 16]>()).prop_map(|(epoch, mid)| Op::Refuse { epoch, mid: MessageId(mid) }),
        (user(), device()).prop_map(|(user, device)| Op::Forget { user, device }),
        (pos(), device()).prop_map(|(epoch, device)| Op::ForgetBy { epoch, device }),
        (pos(), any::<u8>().prop_map(group), act()).prop_map(|(epoch, group, act)| Op::Group(GroupOp {
            epoch,
            group,
            act
        })),
        (pos(), any::<[u8; 16]>(), any::<u8>().prop_map(group), any::<u64>(), vec(any::<u8>(), 0..100)).prop_map(
            |(epoch, mid, group, ts_ms, body)| {
                let (mid, body) = (MessageId(mid), Bytes::from(body));
                Op::GroupSend(GroupSend { epoch, mid, group, ts_ms, body })
            }
        ),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let batch = (node(), pos(), any::<u64>(), vec(op(), 0..8));
    let up = (node(), any::<(u64, u64)>(), any::<u32>(), ".{0,40}", any::<u32>());
    prop_oneof![
        4 => batch.prop_map(|(node, generation, seq, ops)| Command::Batch(Batch { node, generation, seq, ops })),
        1 => up.prop_map(|(node, (count, nonce), incarnation, client_url, feature_level)| {
            let boot = Boot { count, nonce };
            Command::NodeUp(NodeUp { node, boot, incarnation, client_url, feature_level })
        }),
        1 => (node(), pos()).prop_map(|(node, generation)| Command::NodeDown { node, generation }),
        1 => node().prop_map(|node| Command::NodeForgotten { node }),
        1 => any::<u64>().prop_map(|advance_ms| Command::Tick { advance_ms }),
        1 => limits().prop_map(Command::SetLimits),
        1 => (0..=FEATURE_LEVEL).prop_map(Command::SetFeatureLevel),
        1 => group_limits().prop_map(Command::SetGroupLimits),
        1 => any::<bool>().prop_map(|open| Command::SetBreaker { open }),
        1 => (any::<u8>().prop_map(user), any::<u64>())
            .prop_map(|(user, before_ms)| Command::Revoke { user, before_ms }),
    ]
}

/// Overwrites, cuts and lengthens.
fn damage(bytes: &[u8], at: usize, to: u8, cut: Option<usize>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let len = bytes.len();
    bytes[at % len] = to;
    match cut {
        Some(cut) if cut % 2 == 0 => bytes.truncate(cut % len),
        Some(_) => bytes.push(to),
        None => {}
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn commands_are_read_as_written(command in command()) {
        prop_assert_eq!(Command::decode(&command.encode()).unwrap(), command);
    }

    #[test]
    fn any_bytes_are_a_command_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(command) = Command::decode(&bytes) {
            prop_assert_eq!(Command::decode(&command.encode()).unwrap(), command);
        }
        let known: Vec<u8> = [&[1], bytes.as_slice()].concat();
        let _ = Command::decode(&known);
    }

    /// Bytes that are a command after all can be applied, whatever they say.
    #[test]
    fn a_damaged_command_is_refused_or_applied(
        commands in vec(command(), 1..8), at in any::<usize>(), to in any::<u8>(), cut in prop::option::of(any::<usize>())
    ) {
        let mut state = State::new();
        for command in commands {
            let damaged = damage(&command.encode(), at, to, cut);
            for bytes in [&damaged[..], &command.encode()] {
                if let Ok(command) = Command::decode(bytes) {
                    state.apply(state.applied() + 1, &command, &mut Vec::new());
                }
            }
        }
        prop_assert_eq!(state.audit(), Ok(()));
    }

    #[test]
    fn any_bytes_are_a_checkpoint_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        let known: Vec<u8> = [&[1], bytes.as_slice()].concat();
        let with_groups: Vec<u8> = [&[2], bytes.as_slice()].concat();
        for bytes in [&bytes, &known, &with_groups] {
            let shard = Shard::decode(bytes).into_iter().map(|shard| (0, shard));
            let _ = State::restore(bytes, shard.collect());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever a damaged section still says, a state that comes from it holds its invariants.
    #[test]
    fn a_damaged_checkpoint_is_refused_or_sound(
        log in any_log(40), places in vec((any::<usize>(), any::<u8>(), prop::option::weighted(0.2, any::<usize>())), 20)
    ) {
        let mut state = State::new();
        for entry in &log.0 {
            entry.apply(&mut state);
        }
        let frozen = state.freeze();
        for (at, to, cut) in places {
            let head = if at % 3 == 0 { damage(&frozen.head, at, to, cut) } else { frozen.head.to_vec() };
            let sections = frozen.shards.iter().map(|(id, shard)| (*id, shard.encode(&Default::default())));
            let damaged = sections.map(|(id, section)| (id, damage(&section, at / 3, to, cut)));
            let shards = damaged.map(|(id, section)| Shard::decode(&section).map(|shard| (id, shard)));
            let Ok(shards) = shards.collect::<Result<Vec<_>, _>>() else { continue };
            if let Ok(restored) = State::restore(&head, shards) {
                prop_assert_eq!(restored.audit(), Ok(()));
            }
        }
    }
}

#[test]
fn a_batch_holds_so_many_operations_as_have_positions() {
    let op = || Op::Close { epoch: Pos(1), clean: true };
    let batch = |count| {
        let ops = std::iter::repeat_with(op).take(count).collect();
        Command::Batch(Batch { node: NodeId(1), generation: Pos(1), seq: 1, ops })
    };
    assert!(Command::decode(&batch(Pos::MAX_OPS).encode()).is_ok());
    assert!(Command::decode(&batch(Pos::MAX_OPS + 1).encode()).is_err());
}

#[test]
fn what_a_newer_cluster_holds_is_refused() {
    let raised = Command::SetFeatureLevel(FEATURE_LEVEL + 1);
    assert!(matches!(Command::decode(&raised.encode()), Err(DecodeError::Level(_))));
    let mut state = State::new();
    state.apply(1, &raised, &mut Vec::new());
    assert!(matches!(State::restore(&state.freeze().head, Vec::new()), Err(RestoreError::Level(_))));
}

#[test]
fn limits_may_be_forever() {
    let mut state = State::new();
    let forever = Limits {
        message_ttl_ms: u64::MAX,
        device_ttl_ms: u64::MAX,
        ephemeral_ttl_ms: u64::MAX,
        ring_ttl_ms: u64::MAX,
        ..Limits::default()
    };
    state.apply(1, &Command::SetLimits(forever), &mut Vec::new());
    for index in 2..20 {
        state.apply(index, &Command::Tick { advance_ms: u64::MAX }, &mut Vec::new());
    }
    assert_eq!(state.time_ms(), 18 * Command::MAX_TICK_MS);
}

/// A build without groups reads the checkpoints of a cluster that has none yet.
#[test]
fn the_format_changes_with_the_first_group_only() {
    let mut state = State::new();
    assert_eq!(state.freeze().head[0], 1);
    assert_eq!(Shard::default().encode(&BTreeMap::new())[0], 1);
    let limits = GroupLimits { members: 3, per_user: 4 };
    state.apply(1, &Command::SetGroupLimits(limits.clone()), &mut Vec::new());
    let frozen = state.freeze();
    assert_eq!(frozen.head[0], 2);
    let restored = State::restore(&frozen.head, Vec::new()).unwrap();
    assert!(restored.has_groups() && restored.group_limits() == limits && restored.hash() == state.hash());
    // So does one without a breaker, unless it is open.
    state.apply(2, &Command::SetBreaker { open: true }, &mut Vec::new());
    let frozen = state.freeze();
    assert_eq!(frozen.head[0], 3);
    let restored = State::restore(&frozen.head, Vec::new()).unwrap();
    assert!(restored.breaker_open() && restored.group_limits() == limits && restored.hash() == state.hash());
    state.apply(3, &Command::SetBreaker { open: false }, &mut Vec::new());
    assert!(state.freeze().head[0] == 2 && state.hash() != restored.hash());
}
