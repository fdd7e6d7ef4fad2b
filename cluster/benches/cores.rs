//! What the pure cores cost per operation, without disks and sockets: the floor under everything
//! else. Run with `cargo bench -p cluster`.

use bytes::Bytes;
use cluster::env::clock::Instant;
use cluster::id::{Boot, DeviceId, MessageId, NodeId, Pos, UserId};
use cluster::origin::Origin;
use cluster::session::{Outgoing, Request, SessionSpec};
use cluster::state::{Batch, Command, Destination, Effect, FEATURE_LEVEL, NodeUp, Op, Outcome, Register, Send, State};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const USERS: usize = 10_000;
/// Operations in one batch under load.
const BATCH: usize = 100;
const BODY_BYTES: usize = 200;
/// Later than any deadline of the origin.
const LATE: Instant = Instant::from_nanos(u64::MAX);
const NODE: NodeId = NodeId(1);

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
    let out = Outgoing { mid, to: Destination::User(user(1)), ts_ms: 0, body, arrived: Instant::default() };
    let queued = || {
        let mut origin = Origin::new(NODE);
        origin.open(1, spec.clone());
        origin.on_node_up(Pos::new(1, 0));
        origin.cut(LATE, |_, _| None);
        origin.on_applied(Pos::new(1, 0), 1, &[Outcome::Registered(Pos::new(2, 0))]);
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
                origin.cut(LATE, |_, _| None).expect("a batch");
                let outcomes = vec![Outcome::Stored { mid, duplicate: false }; BATCH];
                origin.on_applied(Pos::new(1, 0), 2, &outcomes)
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, apply, codec, origin);
criterion_main!(benches);
