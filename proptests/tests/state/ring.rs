//! G2: the ring knows the last `inflight` distinct sends of a device, and what became of them; across
//! connections, forgetting and returning, until its time is over.

use std::collections::VecDeque;

use bytes::Bytes;
use cluster::id::{Boot, MessageId, Pos, UserId};
use cluster::state::{Batch, Command, Effect, Limits, NodeUp, Op, Outcome, Register, Send, SendRefusal, State};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::log::{device, node, user};

const INBOX: usize = 5;
const RING_TTL_MS: u64 = 1_000;

#[derive(Debug, Clone)]
enum Step {
    Send {
        key: u8,
    },
    Inflight(u32),
    /// The connection ends and another one begins, `away_ms` later.
    Reconnect {
        clean: bool,
        ephemeral: bool,
        forget: bool,
        away_ms: u64,
    },
    NodeRestarts,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..12_u8).prop_map(|key| Step::Send { key }),
        1 => (0..8_u32).prop_map(Step::Inflight),
        3 => (any::<bool>(), any::<bool>(), any::<bool>(), prop_oneof![4 => 0..400_u64, 1 => 900..1_100_u64])
            .prop_map(|(clean, ephemeral, forget, away_ms)| Step::Reconnect { clean, ephemeral, forget, away_ms }),
        1 => Just(Step::NodeRestarts),
    ]
}

struct World {
    state: State,
    boots: u64,
    ephemeral: bool,
}

impl World {
    fn apply(&mut self, command: Command) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.state.apply(self.state.applied() + 1, &command, &mut effects);
        effects
    }

    fn up(&mut self) {
        self.boots += 1;
        let boot = Boot { count: self.boots, nonce: self.boots };
        let up = NodeUp { node: node(0), boot, incarnation: 1, client_url: String::new(), feature_level: 1 };
        self.apply(Command::NodeUp(up));
    }

    fn op(&mut self, op: Op) -> Outcome {
        let record = self.state.node(node(0)).unwrap();
        let (generation, seq) = (record.generation.unwrap(), record.next_seq);
        let effects = self.apply(Command::Batch(Batch { node: node(0), generation, seq, ops: vec![op] }));
        let Some(Effect::BatchApplied { outcomes, .. }) = effects.last() else { panic!("{effects:?}") };
        outcomes[0].clone()
    }

    fn epoch(&self) -> Pos {
        self.state.device(&user(0), &device(0)).map_or(Pos::ZERO, |view| view.last_epoch)
    }

    fn register(&mut self) {
        let (instance, attempt, ephemeral, expect) = (1, 1, self.ephemeral, self.epoch());
        let register = Register { user: user(0), device: device(0), instance, attempt, ephemeral, expect };
        assert!(matches!(self.op(Op::Register(register)), Outcome::Registered(_)));
    }

    fn send(&mut self, key: u8) -> (MessageId, Outcome) {
        // Half of the messages go to an inbox that is full soon: refusals are remembered too.
        let to = UserId::new(if key.is_multiple_of(2) { "full" } else { "drained" }).unwrap();
        let body = Bytes::from(vec![key]);
        let mid = MessageId::direct(&user(0), &device(0), &to, "key", &body);
        let outcome = self.op(Op::Send(Send { epoch: self.epoch(), mid, to, ts_ms: 0, body }));
        (mid, outcome)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_ring_is_exact(steps in vec(step(), 0..80)) {
        let mut world = World { state: State::new(), boots: 0, ephemeral: false };
        let mut limits = Limits {
            inflight: 4, inbox_messages: INBOX as u32, ring_ttl_ms: RING_TTL_MS, ephemeral_ttl_ms: 300, ..Limits::default()
        };
        world.apply(Command::SetLimits(limits.clone()));
        world.up();
        world.register();
        let mut ring: VecDeque<(MessageId, Result<(), SendRefusal>)> = VecDeque::new();
        let (mut full, mut drained) = (0, 0);
        for step in steps {
            match step {
                Step::Send { key } => {
                    let (mid, outcome) = world.send(key);
                    let known = ring.iter().find(|(known, _)| *known == mid).copied();
                    let inbox = if key.is_multiple_of(2) { &mut full } else { &mut drained };
                    let (_, result) = known.unwrap_or_else(|| {
                        let result = if *inbox < INBOX { Ok(()) } else { Err(SendRefusal::InboxFull) };
*inbox += usize::from(result.is_ok());
                        ring.push_back((mid, result));
                        while ring.len() > limits.inflight as usize {
                            ring.pop_front();
                        }
                        (mid, result)
                    });
                    let duplicate = known.is_some();
                    let expected = match result {
                        Ok(()) => Outcome::Stored { mid, duplicate },
                        Err(refusal) => Outcome::SendRefused { mid, refusal, duplicate },
                    };
                    prop_assert_eq!(outcome, expected);
                }
                Step::Inflight(inflight) => {
                    limits.inflight = inflight;
                    world.apply(Command::SetLimits(limits.clone()));
                    // The ring shrinks with the next send only: until then it knows more than it must.
                }
                Step::Reconnect { clean, ephemeral, forget, away_ms } => {
                    let epoch = world.epoch();
                    if forget {
                        world.op(Op::Forget { user: user(0), device: device(0) });
                    } else {
                        world.op(Op::Close { epoch, clean });
                    }
                    world.apply(Command::Tick { advance_ms: away_ms });
                    if away_ms >= RING_TTL_MS {
                        ring.clear();
                    }
                    world.ephemeral = ephemeral;
                    world.register();
                }
                Step::NodeRestarts => {
                    world.up();
                    world.register();
                }
            }
            prop_assert_eq!(world.state.audit(), Ok(()));
        }
    }
}
