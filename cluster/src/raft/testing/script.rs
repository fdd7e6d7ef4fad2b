//! The log of one node on which users send each other messages.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use openraft::EntryPayload;

use crate::id::{Boot, DeviceId, Generation, MessageId, NodeId, Pos, UserId};
use crate::raft::types::{Entry, LeaderId, LogId, Payload};
use crate::state::{Batch, Command, NodeUp, Op, Register, Send};

/// Makes entries, one after the other.
pub(crate) struct Script {
    /// The index of the next entry.
    pub(crate) next: u64,
    seq: u64,
    generation: Generation,
    epochs: BTreeMap<UserId, Pos>,
}

pub(crate) const NODE: NodeId = NodeId(1);

pub(crate) fn user(number: u64) -> UserId {
    UserId::new(&format!("user-{number}")).expect("a name")
}

pub(crate) fn device() -> DeviceId {
    DeviceId::new("phone").expect("a name")
}

fn body(mid: u64, len: usize) -> Bytes {
    mid.to_le_bytes().iter().copied().cycle().take(len).collect()
}

impl Script {
    /// Begins at entry 1, with the node's arrival.
    pub(crate) fn new() -> (Self, Entry) {
        Self::starting(1)
    }

    /// Begins at entry `next`, with the node's arrival.
    pub(crate) fn starting(next: u64) -> (Self, Entry) {
        let mut script = Self { next, seq: 0, generation: Pos::new(next, 0), epochs: BTreeMap::new() };
        let up = NodeUp {
            node: NODE,
            boot: Boot { count: 1, nonce: 1 },
            incarnation: 1,
            client_url: String::new(),
            feature_level: 1,
        };
        let entry = script.entry(&Command::NodeUp(up));
        (script, entry)
    }

    pub(crate) fn entry(&mut self, command: &Command) -> Entry {
        let index = self.next;
        self.next += 1;
        let log_id = LogId { leader_id: LeaderId { term: 1, node_id: NODE }, index };
        Entry { log_id, payload: EntryPayload::Normal(Payload(command.encode())) }
    }

    fn batch(&mut self, ops: Vec<Op>) -> Entry {
        self.seq += 1;
        let batch = Batch { node: NODE, generation: self.generation, seq: self.seq, ops };
        self.entry(&Command::Batch(batch))
    }

    /// Begins the users' first sessions.
    pub(crate) fn register(&mut self, users: Range<u64>) -> Entry {
        let index = self.next;
        let mut ops = Vec::new();
        for (offset, number) in users.enumerate() {
            self.epochs.insert(user(number), Pos::new(index, offset));
            ops.push(Op::Register(Register {
                user: user(number),
                device: device(),
                instance: 1,
                attempt: 1,
                ephemeral: false,
                expect: Pos::ZERO,
            }));
        }
        self.batch(ops)
    }

    /// From each of `senders` a message of `len` bytes to `to`.
    pub(crate) fn send(&mut self, senders: Range<u64>, to: u64, len: usize) -> Entry {
        let index = self.next;
        let ops = senders.map(|from| {
            let number = index << 20 | from;
            let mut mid = [0; 16];
            mid[..8].copy_from_slice(&number.to_le_bytes());
            Op::Send(Send {
                epoch: self.epochs[&user(from)],
                mid: MessageId(mid),
                to: user(to),
                ts_ms: 0,
                body: body(number, len),
            })
        });
        let ops = ops.collect();
        self.batch(ops)
    }

    /// `who` acknowledges all it was sent.
    pub(crate) fn ack(&mut self, who: u64) -> Entry {
        let epoch = self.epochs[&user(who)];
        let upto = Pos::new(self.next, 0);
        self.batch(vec![Op::Ack { epoch, upto }])
    }

    /// Whether `body` is that of the message `mid`.
    pub(crate) fn is_body_of(mid: &MessageId, found: &Bytes) -> bool {
        let mut number = [0; 8];
        number.copy_from_slice(&mid.0[..8]);
        *found == body(u64::from_le_bytes(number), found.len())
    }
}
