//! A checkpoint plus the rest of the log equals the whole log, bodies included: checkpoints that
//! failed, incremental ones, bodies evicted, restarts from any of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cluster::id::Pos;
use cluster::state::{Body, Command, Effect, Frozen, Item, Op, Shard, State, Stored};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::log::{Entry, GROUPS, Log, USERS, any_log, devices, users};

/// What happens to the replica after a log entry.
#[derive(Debug, Clone, Copy)]
enum Event {
    Nothing,
    /// A checkpoint is made. Bodies are evicted from memory, or not yet; those of its shards that are
    /// stored already stay where they are, or move to the new blob.
    Checkpoint {
        evict: bool,
        rewrite: bool,
    },
    /// The disk fails while a checkpoint is written.
    FailedCheckpoint,
    /// A checkpoint is frozen now and written only after the next entries.
    SlowCheckpoint,
    /// Some shard's blob is to be rewritten.
    MarkDirty {
        user: u8,
    },
    Restart,
}

fn events(count: usize) -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        12 => Just(Event::Nothing),
        4 => any::<(bool, bool)>().prop_map(|(evict, rewrite)| Event::Checkpoint { evict, rewrite }),
        1 => Just(Event::FailedCheckpoint),
        2 => Just(Event::SlowCheckpoint),
        1 => (0..3_u8).prop_map(|user| Event::MarkDirty { user }),
        2 => Just(Event::Restart),
    ];
    vec(event, count)
}

/// What is on disk: blobs of bodies, and of each shard the newest section.
#[derive(Default)]
struct Disk {
    head: Option<(u64, Bytes)>,
    blobs: Vec<Vec<u8>>,
    sections: BTreeMap<usize, Bytes>,
}

type Written = Vec<(usize, Vec<(Pos, Stored)>)>;

impl Disk {
    /// Writes a checkpoint; says where each shard's bodies are now.
    fn write(&mut self, frozen: &Frozen, rewrite: bool) -> Written {
        let mut blob = Vec::new();
        let mut written = Written::new();
        for (id, shard) in &frozen.shards {
            let mut stored = BTreeMap::new();
            let old = shard
                .stored_bodies()
                .into_iter()
                .filter(|_| rewrite)
                .map(|(pos, at)| (pos, self.read(&Body::Stored(at)).into()));
            for (pos, bytes) in shard.memory_bodies().into_iter().chain(old) {
                let (offset, len) = (blob.len() as u64, bytes.len() as u32);
                stored.insert(pos, Stored { blob: self.blobs.len() as u64, offset, len });
                blob.extend_from_slice(&bytes);
            }
            self.sections.insert(*id, shard.encode(&stored));
            written.push((*id, stored.into_iter().collect()));
        }
        self.blobs.push(blob);
        self.head = Some((frozen.index, frozen.head.clone()));
        written
    }

    fn restore(&self) -> State {
        let Some((_, head)) = &self.head else { return State::new() };
        let shards = self.sections.iter().map(|(id, section)| (*id, Shard::decode(section).unwrap()));
        State::restore(head, shards.collect()).unwrap()
    }

    /// The ranges that the sections refer to, so that blobs nobody needs can be deleted.
    fn needed(&self) -> BTreeSet<(u64, u64)> {
        let shards = self.sections.values().map(|section| Shard::decode(section).unwrap());
        let stored = shards.flat_map(|shard| shard.stored_bodies());
        stored.map(|(_, at)| (at.blob, at.offset)).collect()
    }

    fn read(&self, body: &Body) -> Vec<u8> {
        match body {
            Body::Memory(bytes) => bytes.to_vec(),
            Body::Stored(Stored { blob, offset, len }) => {
                self.blobs[*blob as usize][*offset as usize..][..*len as usize].to_vec()
            }
        }
    }
}

struct Replica {
    state: State,
    disk: Disk,
    slow: Option<Frozen>,
    /// The users in whose shards a command may have changed something since the last freeze.
    touched: u64,
}

impl Replica {
    fn happens(&mut self, event: Event, log: &[Entry]) {
        match event {
            Event::Nothing => {}
            Event::Checkpoint { evict, rewrite } => {
                let frozen = self.freeze();
                let written = self.disk.write(&frozen, rewrite);
                drop(frozen);
                for (shard, bodies) in written.iter().filter(|_| evict) {
                    self.state.evict(*shard, bodies);
                }
            }
            Event::FailedCheckpoint => {
                let frozen = self.freeze();
                frozen.shards.iter().for_each(|(id, _)| self.state.mark_dirty(*id));
                self.touched += frozen.shards.len() as u64;
            }
            Event::SlowCheckpoint => {
                self.finish();
                self.slow = Some(self.freeze());
            }
            Event::MarkDirty { user } => {
                self.state.mark_dirty(usize::from(user) * 300);
                self.touched += 1;
            }
            Event::Restart => {
                self.slow = None;
                self.touched = 0;
                self.state = self.disk.restore();
                let from = self.disk.head.as_ref().map_or(0, |(index, _)| *index);
                assert_eq!(self.state.applied(), from);
                for entry in log.iter().filter(|entry| entry.index > from) {
                    self.touch(entry);
                    entry.apply(&mut self.state);
                }
            }
        }
    }

    /// The checkpoint that was frozen a while ago is written and evicts its bodies.
    fn finish(&mut self) {
        if let Some(frozen) = self.slow.take() {
            let written = self.disk.write(&frozen, false);
            for (shard, bodies) in written {
                self.state.evict(shard, &bodies);
            }
        }
    }

    fn freeze(&mut self) -> Frozen {
        self.finish();
        let frozen = self.state.freeze();
        assert!(frozen.shards.len() as u64 <= self.touched, "an unchanged shard was written again");
        self.touched = 0;
        frozen
    }

    fn touch(&mut self, entry: &Entry) {
        self.touched += match &entry.command {
            Some(Command::Batch(batch)) => {
                // A user's groups learn of its devices and cursors; at its limit, a group's members of that.
                let shards = |op: &Op| match op {
                    Op::Send(_) | Op::TracedSend(..) | Op::Group(_) => 2,
                    Op::Refuse { .. } => 1,
                    Op::GroupSend(_) | Op::TracedGroupSend(..) => 1 + u64::from(GROUPS) + u64::from(USERS),
                    Op::Register(_) | Op::Ack { .. } | Op::Close { .. } | Op::Forget { .. } | Op::ForgetBy { .. } => {
                        1 + u64::from(GROUPS)
                    }
                };
                batch.ops.iter().map(shards).sum()
            }
            Some(Command::NodeUp(_) | Command::NodeDown { .. } | Command::NodeForgotten { .. }) => 3,
            Some(Command::Revoke { .. }) => 1,
            Some(Command::Tick { .. }) => u64::from(USERS) + u64::from(GROUPS),
            _ => 0,
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_checkpoint_and_the_rest_equal_the_log(log in any_log(70), events in events(80)) {
        let Log(log) = log;
        let mut whole = State::new();
        let mut replica =
            Replica { state: State::new(), disk: Disk::default(), slow: None, touched: 0 };
        for (at, entry) in log.iter().enumerate() {
            let expected = entry.apply(&mut whole);
            replica.touch(entry);
            let mut effects = entry.apply(&mut replica.state);
            // A message in an effect may have its body on disk here, and in memory there.
            effects.iter_mut().for_each(|effect| to_memory(effect, &replica.disk));
            prop_assert_eq!(effects, expected);
            prop_assert_eq!(replica.state.hash(), whole.hash());
            replica.happens(events[at % events.len()], &log[..=at]);
            prop_assert_eq!(replica.state.hash(), whole.hash());
            prop_assert_eq!(replica.state.audit(), Ok(()));
        }
        compare_bodies(&replica, &whole)?;
        // Lastly all is on disk.
        replica.happens(Event::Checkpoint { evict: true, rewrite: true }, &log);
        replica.happens(Event::Restart, &log);
        prop_assert_eq!(replica.state.totals().memory_bytes, 0);
        prop_assert_eq!(replica.state.hash(), whole.hash());
        let used = compare_bodies(&replica, &whole)?;
        prop_assert!(used.is_subset(&replica.disk.needed()));
    }
}

fn to_memory(effect: &mut Effect, disk: &Disk) {
    if let Effect::Acked { first, .. } = effect {
        for first in first {
            let mut message = first.message.as_ref().clone();
            message.body = Body::Memory(disk.read(&message.body).into());
            first.message = message.into();
        }
    }
}

fn compare_bodies(replica: &Replica, whole: &State) -> Result<BTreeSet<(u64, u64)>, TestCaseError> {
    let mut blobs = BTreeSet::new();
    for (user, device) in users().flat_map(|user| devices().map(move |device| (user.clone(), device))) {
        let one = replica.state.inbox(&user, &device, Pos::ZERO, usize::MAX, usize::MAX);
        let other = whole.inbox(&user, &device, Pos::ZERO, usize::MAX, usize::MAX);
        prop_assert_eq!(one.len(), other.len());
        for (one, other) in one.iter().zip(&other) {
            match (one, other) {
                (Item::Message(one), Item::Message(other)) => {
                    prop_assert_eq!(Body::Memory(replica.disk.read(&one.body).into()), other.body.clone());
                    if let Body::Stored(stored) = &one.body {
                        blobs.insert((stored.blob, stored.offset));
                    }
                }
                _ => prop_assert_eq!(one, other),
            }
        }
    }
    Ok(blobs)
}
