//! Copies of what a user sent, for the user's other devices, case by case; `against_model.rs` has any case.

use std::collections::BTreeMap;

use cluster::id::Pos;
use cluster::state::{COPIES_LEVEL, Item, Limits, Shard, State};

use crate::log::{Fate, Maker, OpStep, Step, device, user};

const SENDER: u8 = 0;
const OTHER: u8 = 1;

fn register(device: u8) -> OpStep {
    OpStep::Register { user: SENDER, device, instance: device + 1, attempt: 1, ephemeral: false, expect: None }
}

/// The sender's how manieth session sends.
fn send(session: u8, to: u8, key: u8) -> OpStep {
    OpStep::Send { session, to, key }
}

fn batch(maker: &mut Maker, ops: impl Into<Vec<OpStep>>) {
    maker.step(&Step::Batch { node: 0, fate: Fate::Applied, ops: ops.into() });
}

/// The sender has sessions with devices 0 and 1.
fn begun(limits: Limits, level: u32) -> Maker {
    let mut maker = Maker::new();
    maker.step(&Step::Limits(limits));
    maker.step(&Step::FeatureLevel(level));
    maker.step(&Step::NodeUp { node: 0, reboot: false, again: None });
    batch(&mut maker, [register(0), register(1)]);
    maker
}

/// To whom what a device of the sender has to read went, in its order; of a gap, how many it counts.
fn reads(state: &State, of: u8) -> Vec<String> {
    let items = state.inbox(&user(SENDER), &device(of), Pos::ZERO, usize::MAX, usize::MAX);
    let told = items.iter().map(|item| match item {
        Item::Message(message) => format!("{:?} from {}", message.to, message.device),
        Item::Gap { lost, .. } => format!("gap of {lost}"),
    });
    told.collect()
}

fn copy(to: u8, from: u8) -> String {
    format!("User({:?}) from {}", user(to), device(from))
}

#[test]
fn only_the_other_devices_get_one_and_none_is_to_oneself() {
    let mut maker = begun(Limits::default(), COPIES_LEVEL);
    batch(&mut maker, [send(0, OTHER, 0), send(1, SENDER, 1), send(1, OTHER, 2)]);
    assert_eq!(reads(&maker.state, 0), [copy(SENDER, 1), copy(OTHER, 1)]);
    assert_eq!(reads(&maker.state, 1), [copy(OTHER, 0), copy(SENDER, 1)]);
}

#[test]
fn there_is_none_before_all_nodes_know_them() {
    let mut maker = begun(Limits::default(), COPIES_LEVEL - 1);
    batch(&mut maker, [send(0, OTHER, 0)]);
    assert!(reads(&maker.state, 1).is_empty());
    maker.step(&Step::FeatureLevel(COPIES_LEVEL));
    batch(&mut maker, [send(0, OTHER, 1)]);
    assert_eq!(reads(&maker.state, 1), [copy(OTHER, 0)]);
}

#[test]
fn at_the_limit_who_lags_is_told_and_nothing_is_refused() {
    let mut maker = begun(Limits { inbox_messages: 3, ..Limits::default() }, COPIES_LEVEL);
    // What others sent has its room for itself.
    batch(&mut maker, (0..3).map(|key| send(0, SENDER, key)).collect::<Vec<_>>());
    let far = (0..5).map(|key| send(0, 1 + key % 2, key)).collect::<Vec<_>>();
    batch(&mut maker, far);
    let own = vec![copy(SENDER, 0); 3];
    assert_eq!(reads(&maker.state, 0), own);
    let lagging = reads(&maker.state, 1);
    assert_eq!(lagging[..3], own);
    assert_eq!(lagging[3..], ["gap of 2".to_owned(), copy(1, 0), copy(2, 0), copy(1, 0)]);
}

#[test]
fn the_last_device_leaves_them_to_the_next_one_but_not_what_that_had_sent() {
    let mut maker = begun(Limits::default(), COPIES_LEVEL);
    batch(&mut maker, [send(0, 1, 0), send(0, 2, 1)]);
    for gone in 0..2 {
        batch(&mut maker, [OpStep::Forget { user: SENDER, device: gone }]);
    }
    for (next, expected) in [(2, vec![copy(1, 0), copy(2, 0)]), (0, Vec::new())] {
        let mut after = Maker::new();
        after.state = restored(&mut maker.state);
        batch(&mut after, [register(next)]);
        assert_eq!(reads(&after.state, next), expected);
        assert_eq!(after.state.audit(), Ok(()));
    }
}

/// The state as a checkpoint brings it.
fn restored(state: &mut State) -> State {
    (0..State::SHARDS).for_each(|shard| state.mark_dirty(shard));
    let frozen = state.freeze();
    let sections = frozen.shards.iter().map(|(id, shard)| (*id, shard.encode(&BTreeMap::new())));
    let shards = sections.map(|(id, section)| (id, Shard::decode(&section).unwrap())).collect();
    let restored = State::restore(&frozen.head, shards).unwrap();
    assert_eq!(restored.hash(), state.hash());
    restored
}

/// Builds that know no copies read the checkpoints of a cluster in which none waits.
#[test]
fn the_format_of_a_shard_changes_with_the_first_copy_only() {
    let formats = |maker: &mut Maker| {
        let shards = maker.state.freeze().shards.into_iter();
        shards.map(|(_, shard)| shard.encode(&BTreeMap::new())[0]).collect::<Vec<_>>()
    };
    let mut maker = begun(Limits::default(), COPIES_LEVEL);
    batch(&mut maker, [send(0, SENDER, 0)]);
    assert_eq!(formats(&mut maker), [1]);
    batch(&mut maker, [send(0, OTHER, 1)]);
    let mut both = formats(&mut maker);
    both.sort_unstable();
    assert_eq!(both, [1, 4]);
    assert_eq!(reads(&restored(&mut maker.state), 1), reads(&maker.state, 1));
}
