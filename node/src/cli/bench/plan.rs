//! What a run is to do, and what all its connections share.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::env::clock::{self, Instant};
use hdrhistogram::Histogram;
use im_gateway::client::Address;

use super::super::args::BenchArgs;
use super::super::dial::Dial;
use super::super::failure::Failure;
use super::super::token::Signer;
use super::wire::{Login, Welcome, Wire};

/// Pause before a node is tried again that refused.
const RETRY: Duration = Duration::from_millis(50);
/// Tokens are good for longer than any run.
const TOKEN_TTL: Duration = Duration::from_secs(7 * 86_400);

/// What is measured. Times are in microseconds.
pub struct Stats {
    /// From a message's intended moment to its `ok`.
    pub stored_us: Mutex<Histogram<u64>>,
    /// From a message's intended moment to its arrival at the recipient.
    pub delivered_us: Mutex<Histogram<u64>>,
    /// From a connection's end to the welcome on the next one.
    pub outage_us: Mutex<Histogram<u64>>,
    pub sent: AtomicU64,
    pub stored: AtomicU64,
    pub delivered: AtomicU64,
    pub refused: AtomicU64,
    pub unanswered: AtomicU64,
    pub lost: AtomicU64,
    pub duplicated: AtomicU64,
    pub out_of_order: AtomicU64,
    pub connections_lost: AtomicU64,
    /// The last reason why a connection ended or failed.
    pub trouble: Mutex<Option<String>>,
}

impl Stats {
    fn new() -> Self {
        let histogram = || Mutex::new(Histogram::new_with_bounds(1, MAX_US, 3).expect("within its limits"));
        let zero = || AtomicU64::new(0);
        Self {
            stored_us: histogram(),
            delivered_us: histogram(),
            outage_us: histogram(),
            sent: zero(),
            stored: zero(),
            delivered: zero(),
            refused: zero(),
            unanswered: zero(),
            lost: zero(),
            duplicated: zero(),
            out_of_order: zero(),
            connections_lost: zero(),
            trouble: Mutex::new(None),
        }
    }

    pub fn note(&self, trouble: String) {
        *self.trouble.lock().expect("nobody panics while holding it") = Some(trouble);
    }
}

/// Adds to a counter.
pub fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// The longest time that is told apart from longer ones, in microseconds. Fixed bounds, because a
/// histogram that grows by itself clamps what is recorded with saturation.
const MAX_US: u64 = 600_000_000;

/// Adds a time to a histogram.
pub fn record(histogram: &Mutex<Histogram<u64>>, time: Duration) {
    let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    histogram.lock().expect("nobody panics while holding it").saturating_record(us);
}

/// A run.
pub struct Plan {
    pub dial: Dial,
    pub addresses: Vec<Address>,
    signer: Signer,
    /// Random per run: begins the names of its users.
    prefix: String,
    pub pairs: usize,
    /// Further pairs, in a run of their own beside this one, whose recipients read nothing.
    pub stalled: usize,
    /// Messages per second over all pairs; `None` for as many as go.
    pub rate: Option<f64>,
    pub inflight: usize,
    pub size: usize,
    /// Users connect before it; messages begin with it.
    pub start: Instant,
    /// Messages intended before it are sent, but not measured.
    pub measure: Instant,
    /// No message is intended after it.
    pub end: Instant,
    pub stats: Stats,
}

impl Plan {
    /// Reads the command line. The clock starts with [`Plan::begin`].
    pub fn new(args: &BenchArgs) -> Result<Self, Failure> {
        let addresses = args.target.url.iter().map(|url| Address::parse(url)).collect::<Result<Vec<_>, _>>();
        let addresses = addresses.map_err(|error| Failure::Usage(format!("--url: {error}")))?;
        let now = clock::now();
        Ok(Self {
            dial: Dial::new(&args.target.url, args.target.ca.as_deref())?,
            addresses,
            signer: Signer::from_environment(args.config.as_deref())?,
            prefix: format!("bench-{:08x}", rand::random::<u32>()),
            pairs: args.pairs,
            stalled: args.stalled,
            rate: (!args.saturate).then_some(args.rate),
            inflight: args.inflight,
            size: args.size,
            start: now,
            measure: now,
            end: now,
            stats: Stats::new(),
        })
    }

    /// The stalled pairs' run, of the same times and pace, with users and figures of its own.
    pub fn beside(&self, args: &BenchArgs) -> Result<Self, Failure> {
        let pairs = self.stalled;
        let rate = self.rate.map(|rate| rate * pairs as f64 / self.pairs as f64);
        Ok(Self { pairs, rate, start: self.start, measure: self.measure, end: self.end, ..Self::new(args)? })
    }

    /// Sets the run's times, from now on.
    pub fn begin(&mut self, lead: Duration, warmup: Duration, duration: Duration) {
        self.start = clock::now() + lead;
        self.measure = self.start + warmup;
        self.end = self.measure + duration;
    }

    /// Whether a message of this intended moment is measured.
    pub fn is_measured(&self, intended: Instant) -> bool {
        intended >= self.measure && intended < self.end
    }

    /// The name of the `nth` user of a kind.
    pub fn user(&self, kind: &str, nth: usize) -> String {
        format!("{}-{kind}{nth}", self.prefix)
    }

    /// How the `nth` user of a kind logs in.
    pub fn login(&self, kind: &str, nth: usize) -> Result<Login, Failure> {
        let token = self.signer.sign(&self.user(kind, nth), None, TOKEN_TTL)?;
        Ok(Login { token, device: "bench".into(), instance: format!("{:016x}", rand::random::<u64>()), attempt: 0 })
    }
}

/// Where one user is connected, and how it gets back there.
pub struct Seat {
    login: Login,
    nth: usize,
    node: usize,
    /// When the last connection ended.
    lost: Option<Instant>,
}

impl Seat {
    /// The seat of the user that begins at the node of this index.
    pub fn new(login: Login, nth: usize, node: usize) -> Self {
        Self { login, nth, node, lost: None }
    }

    /// Connects, to the next node whenever one fails, until it is welcome or `deadline` has passed.
    pub async fn connect(&mut self, plan: &Plan, deadline: Instant) -> Option<(Wire, Welcome)> {
        let mut tried = 0;
        while clock::now() < deadline {
            let address = &plan.addresses[self.node % plan.addresses.len()];
            self.login.attempt += 1;
            match clock::timeout_at(deadline, Wire::open(&plan.dial, address, &self.login, self.nth)).await {
                Ok(Ok(opened)) => {
                    if let Some(lost) = self.lost.take() {
                        record(&plan.stats.outage_us, lost.elapsed());
                    }
                    return Some(opened);
                }
                Ok(Err(error)) => plan.stats.note(format!("{}: {error}", address.authority)),
                Err(_) => return None,
            }
            self.node += 1;
            tried += 1;
            if tried % plan.addresses.len() == 0 {
                // Not in step with the others.
                clock::sleep(RETRY.mul_f64(0.5 + rand::random::<f64>())).await;
            }
        }
        None
    }

    /// We broke the connection off ourselves, and go back where we were.
    pub fn leave(&mut self) {
        self.lost = Some(clock::now());
    }

    /// The connection has ended.
    pub fn lose(&mut self, plan: &Plan, why: &std::io::Error) {
        count(&plan.stats.connections_lost, 1);
        let address = &plan.addresses[self.node % plan.addresses.len()];
        plan.stats.note(format!("{}: {why}", address.authority));
        self.lost = Some(clock::now());
        self.node += 1;
    }
}
