//! What the pure cores cost per operation, without disks and sockets: the floor under everything
//! else. Run with `cargo bench -p cluster`.

use std::time::Duration;

use bytes::Bytes;
use cluster::env::clock::Instant;
use cluster::id::{Boot, DeviceId, GroupId, MessageId, NodeId, Pos, UserId};
use cluster::origin::{Origin, Replica};
use cluster::session::{Outgoing, Request, SessionSpec};
use cluster::state::{
    Batch, Command, Destination, Effect, FEATURE_LEVEL, GroupAct, GroupOp, GroupSend, LastRegistration, NodeUp, Op,
    Outcome, Register, Send, State,
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const USERS: usize = 10_000;
/// Operations in one batch under load.
const BATCH: usize = 100;
const BODY_BYTES: usize = 200;
/// Later than any deadline of the origin.
const LATE: Instant = Instant::from_nanos(u64::MAX);
const NODE: NodeId = NodeId(1);
const REPLICA: Replica<fn(&UserId, &DeviceId) -> Option<LastRegistration>> =
    Replica { feature_level: FEATURE_LEVEL, last: |_, _| None };

fn user(number: usize) -> UserId {
    UserId::new(&format!("user-{number}")).expect("a valid name")
}

fn device() -> DeviceId {
    DeviceId::new("d").expect("a valid name")
}

struct Loaded {
    state: State,
    generation: Pos,
    epochs: Vec<Pos>,
    index: u64,
    seq: u64,
    sent: usize,
}

impl Loaded {
    /// A state with [`USERS`] live sessions.
    fn new() -> Self {
        let mut state = State::new();
        let boot = Boot { count: 1, nonce: 1 };
        let client_url = String::new();
        let up = NodeUp { node: NODE, boot, incarnation: 1, client_url, feature_level: FEATURE_LEVEL };
        state.apply(1, &Command::NodeUp(up), &mut Vec::new());
        let generation = state.node(NODE).and_then(|node| node.generation).expect("just up");
        let mut loaded = Self { state, generation, epochs: Vec::new(), index: 1, seq: 0, sent: 0 };
        for chunk in (0..USERS).collect::<Vec<_>>().chunks(1_000) {
            let register = |&number: &usize| {
                Op::Register(Register {
                    user: user(number),
                    device: device(),
                    instance: 1,
                    attempt: 1,
                    ephemeral: false,
                    expect: Pos::ZERO,
                })
            };
            let batch = loaded.batch(chunk.iter().map(register).collect());
            let mut effects = Vec::new();
            loaded.apply(&batch, &mut effects);
            for effect in effects {
                if let Effect::BatchApplied { outcomes, .. } = effect {
                    loaded.epochs.extend(outcomes.iter().map(|outcome| match outcome {
                        Outcome::Registered(epoch) => *epoch,
                        other => panic!("not registered: {other:?}"),
                    }));
                }
            }
        }
        loaded
    }

    fn batch(&mut self, ops: Vec<Op>) -> Command {
        self.seq += 1;
        Command::Batch(Batch { node: NODE, generation: self.generation, seq: self.seq, ops })
    }

    fn apply(&mut self, command: &Command, effects: &mut Vec<Effect>) {
        self.index += 1;
        self.state.apply(self.index, command, effects);
    }

    /// A batch of sends between neighbours, and the cursor moves that answer the one before.
    fn sends(&mut self) -> Command {
        let mut ops = Vec::with_capacity(2 * BATCH);
        for _ in 0..BATCH {
            let (from, to) = (self.sent % USERS, (self.sent + 1) % USERS);
            let body = Bytes::from(vec![b'x'; BODY_BYTES]);
            let mid = MessageId::direct(&user(from), &device(), &user(to), &self.sent.to_string(), &body);
            ops.push(Op::Send(Send { epoch: self.epochs[from], mid, to: user(to), ts_ms: 0, body }));
            ops.push(Op::Ack { epoch: self.epochs[to], upto: Pos::new(self.index, 0) });
            self.sent += 1;
        }
        self.batch(ops)
    }
}

fn apply(criterion: &mut Criterion) {
    let mut loaded = Loaded::new();
    let mut group = criterion.benchmark_group("state");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("apply 100 sends and acks, 10,000 users", |bencher| {
        bencher.iter_custom(|rounds| {
            let commands: Vec<Command> = (0..rounds).map(|_| loaded.sends()).collect();
            let started = cluster::env::clock::now();
            for command in &commands {
                loaded.apply(command, &mut Vec::new());
            }
            started.elapsed()
        });
    });
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    let mut loaded = Loaded::new();
    let command = loaded.sends();
    let bytes = command.encode();
    let mut group = criterion.benchmark_group("command");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("encode 100 sends and acks", |bencher| bencher.iter(|| command.encode()));
    group.bench_function("decode 100 sends and acks", |bencher| bencher.iter(|| Command::decode(&bytes)));
    group.finish();
}

fn origin(criterion: &mut Criterion) {
    let spec = SessionSpec { user: user(0), device: device(), instance: 1, attempt: 1, ephemeral: false };
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    let mid = MessageId::direct(&user(0), &device(), &user(1), "k", &body);
    let out =
        Outgoing { mid, to: Destination::User(user(1)), ts_ms: 0, body, arrived: Instant::default(), trace: None };
    let queued = || {
        let mut origin = Origin::new(NODE);
        origin.open(1, spec.clone());
        origin.on_node_up(Pos::new(1, 0));
        origin.cut(LATE, &REPLICA);
        origin.on_applied(Pos::new(1, 0), 1, &[Outcome::Registered(Pos::new(2, 0))], Instant::default());
        for token in 0..BATCH as u64 {
            origin.ask(1, token, Request::Send(out.clone()));
        }
        origin
    };
    let mut group = criterion.benchmark_group("origin");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("cut and settle a batch of 100 sends", |bencher| {
        bencher.iter_batched(
            queued,
            |mut origin| {
                origin.cut(LATE, &REPLICA).expect("a batch");
                let outcomes = vec![Outcome::Stored { mid, duplicate: false }; BATCH];
                origin.on_applied(Pos::new(1, 0), 2, &outcomes, Instant::default())
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// A group of all users, one of whom writes.
struct BusyGroup {
    loaded: Loaded,
    name: GroupId,
    writer: Pos,
}

impl BusyGroup {
    fn new() -> Self {
        let mut loaded = Loaded::new();
        let name = GroupId::new("everybody").expect("a valid name");
        let epochs = loaded.epochs.clone();
        for (number, chunk) in epochs.chunks(1_000).enumerate() {
            let op = |(place, &epoch): (usize, &Pos)| {
                let act = if (number, place) == (0, 0) { GroupAct::Create } else { GroupAct::Join };
                Op::Group(GroupOp { epoch, group: name.clone(), act })
            };
            let batch = loaded.batch(chunk.iter().enumerate().map(op).collect());
            loaded.apply(&batch, &mut Vec::new());
        }
        let writer = loaded.epochs[0];
        Self { loaded, name, writer }
    }

    fn send(&mut self) -> Command {
        let body = Bytes::from(vec![b'x'; BODY_BYTES]);
        self.loaded.sent += 1;
        let mid = MessageId::group(&user(0), &device(), &self.name, &self.loaded.sent.to_string(), &body);
        let (epoch, group) = (self.writer, self.name.clone());
        self.loaded.batch(vec![Op::GroupSend(GroupSend { epoch, mid, group, ts_ms: 0, body })])
    }

    fn waiting(&self) -> u64 {
        self.loaded.state.totals().inbox_messages
    }

    /// Every member acknowledges what was sent last.
    fn acks(&mut self) -> Vec<Command> {
        let upto = Pos::new(self.loaded.index, 0);
        let epochs = self.loaded.epochs.clone();
        let ack = |&epoch: &Pos| Op::Ack { epoch, upto };
        epochs.chunks(1_000).map(|chunk| self.loaded.batch(chunk.iter().map(ack).collect())).collect()
    }

    /// Applies; how long it took.
    fn timed(&mut self, command: &Command) -> Duration {
        let started = cluster::env::clock::now();
        self.loaded.apply(command, &mut Vec::new());
        started.elapsed()
    }
}

fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("group of 10,000");
    let mut busy = BusyGroup::new();
    group.bench_function("a message", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let send = busy.send();
                took += busy.timed(&send);
                if busy.waiting() == 1_000 {
                    for acks in busy.acks() {
                        busy.loaded.apply(&acks, &mut Vec::new());
                    }
                }
            }
            took
        });
    });
    let mut busy = BusyGroup::new();
    group.throughput(Throughput::Elements(USERS as u64));
    group.bench_function("all acknowledge a message", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let send = busy.send();
                busy.loaded.apply(&send, &mut Vec::new());
                for acks in busy.acks() {
                    took += busy.timed(&acks);
                }
            }
            took
        });
    });
    let mut busy = BusyGroup::new();
    group.bench_function("an eighth of the limit is lost to all", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let full = u64::from(busy.loaded.state.limits().inbox_messages);
                while busy.waiting() < full {
                    let send = busy.send();
                    busy.loaded.apply(&send, &mut Vec::new());
                }
                let send = busy.send();
                took += busy.timed(&send);
            }
            took
        });
    });
    group.finish();
}

criterion_group!(benches, apply, codec, origin, groups);
criterion_main!(benches);
