//! The log's decoders against whatever a disk or a link can carry: no panic, and what was written is
//! what is read back, or an error.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cluster::id::NodeId;
use cluster::raft::codec::{decode_entry, encode_entry, entry_record, read_entry_record};
use cluster::raft::{Entry, LeaderId, LogId, Member, Payload, decode_append};
use openraft::{EntryPayload, Membership};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

fn payloads() -> impl Strategy<Value = EntryPayload<Payload, NodeId, Member>> {
    let membership = (btree_set(1..9_u64, 1..4), "[a-z.:0-9]{0,20}").prop_map(|(ids, peer_addr)| {
        let voters: BTreeSet<_> = ids.into_iter().map(NodeId).collect();
        let nodes: BTreeMap<_, _> = voters.iter().map(|id| (*id, Member { peer_addr: peer_addr.clone() })).collect();
        EntryPayload::Membership(Membership::new(vec![voters], nodes).expect("voters that are members"))
    });
    prop_oneof![
        Just(EntryPayload::Blank),
        vec(any::<u8>(), 0..300).prop_map(|bytes| EntryPayload::Normal(Payload(bytes.into()))),
        membership,
    ]
}

fn entries() -> impl Strategy<Value = Entry> {
    (any::<u64>(), any::<u64>(), any::<u64>(), payloads()).prop_map(|(term, node, index, payload)| {
        let leader_id = LeaderId { term, node_id: NodeId(node) };
        Entry { log_id: LogId { leader_id, index }, payload }
    })
}

/// What a link or a disk may do to bytes.
#[derive(Debug, Clone)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
}

impl Damage {
    fn any() -> impl Strategy<Value = Self> {
        let at = any::<prop::sample::Index>;
        prop_oneof![
            (at(), 0..8_u8).prop_map(|(at, bit)| Self::Flip(at, bit)),
            at().prop_map(Self::Cut),
            (at(), vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Self::Insert(at, bytes)),
        ]
    }

    fn apply(&self, bytes: &[u8]) -> Bytes {
        let mut bytes = bytes.to_vec();
        match self {
            Self::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Insert(at, more) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, more.iter().copied());
            }
        }
        bytes.into()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_bytes_are_no_log_record(bytes in vec(any::<u8>(), 0..400), index: u64) {
        let bytes = Bytes::from(bytes);
        // By the checksum: one in 2^32 would pass.
        prop_assert!(read_entry_record(index, &bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_that_are_an_entry_are_so_exactly(kind in 0..4_u8, rest in vec(any::<u8>(), 0..400)) {
        let bytes: Bytes = [vec![1, kind], rest].concat().into();
        if let Ok(entry) = decode_entry(&bytes) {
            let mut again = Vec::new();
            encode_entry(&entry, &mut again);
            let back = decode_entry(&again.into());
            prop_assert_eq!(back.ok(), Some(entry));
        }
    }

    #[test]
    fn a_record_comes_back(entry in entries()) {
        let index = entry.log_id.index;
        prop_assert_eq!(read_entry_record(index, &entry_record(&entry)).ok(), Some(entry.clone()));
        prop_assert!(read_entry_record(index ^ 1, &entry_record(&entry)).is_err());
    }

    #[test]
    fn a_damaged_record_is_refused(entry in entries(), damage in Damage::any()) {
        let record = entry_record(&entry);
        let damaged = damage.apply(&record);
        prop_assume!(damaged != record);
        prop_assert!(read_entry_record(entry.log_id.index, &damaged).is_err());
    }

    #[test]
    fn arbitrary_bytes_break_no_append(bytes in vec(any::<u8>(), 0..400), start in prop::bool::ANY) {
        let bytes = if start { [vec![1], bytes].concat() } else { bytes };
        if let Ok(append) = decode_append(&bytes.into()) {
            let follow = append.entries.windows(2).all(|two| two[0].log_id.index + 1 == two[1].log_id.index);
            prop_assert!(follow, "entries that do not follow each other");
        }
    }
}
