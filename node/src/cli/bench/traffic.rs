//! Pairs of users, one sending to the other.
//!
//! Coordinated omission: a message's latency counts from the moment that the schedule intended for
//! it, whether or not it could be sent then. A node that stalls is not spared the messages that
//! would have come meanwhile: they all come, late, with their waiting counted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use cluster::env::clock::{self, Instant};
use im_gateway::client::inbox::Inbox;
use im_gateway::client::outbox::{Next, Now, Outbox, Outgoing, Request};
use im_gateway::protocol::{ServerBody, ServerFrame};
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::super::failure::Failure;
use super::plan::{Plan, Seat, count, record};
use super::wire::{Welcome, Wire};

/// How long the last messages may take when no more are sent.
const DRAIN: Duration = Duration::from_secs(15);
/// Messages of a late sender that are made up for at once, per turn.
const BURST: usize = 256;

/// What a sender tells its recipient when it is done: how many messages there were, and which of
/// them need not arrive.
#[derive(Debug, Clone, Default)]
pub struct Done {
    sent: u64,
    optional: BTreeSet<u64>,
}

/// A message on its way: its number in the pair, and its intended moment.
type Ticket = (u64, Instant);

struct Sender {
    plan: Arc<Plan>,
    to: String,
    key: String,
    outbox: Outbox<Ticket>,
    sent: u64,
    /// The intended moment of the next message.
    due: Instant,
    /// Time between two messages; `None` sends whenever fewer than `inflight` have no answer.
    period: Option<Duration>,
    optional: BTreeSet<u64>,
}

/// Runs the sender of pair `nth`.
pub async fn send(plan: Arc<Plan>, nth: usize, done: watch::Sender<Option<Done>>) -> Result<(), Failure> {
    let nodes = plan.addresses.len();
    let mut seat = Seat::new(plan.login("s", nth)?, nth, nth % nodes);
    let period = plan.rate.map(|rate| Duration::from_secs_f64(plan.pairs as f64 / rate));
    // Pairs are spread over the period, so that they do not send in step.
    let phase = period.map_or(Duration::ZERO, |period| period.mul_f64(nth as f64 / plan.pairs as f64));
    let mut sender = Sender {
        to: plan.user("r", nth),
        key: format!("{:x}", rand::random::<u32>()),
        outbox: Outbox::default(),
        sent: 0,
        due: plan.start + phase,
        period,
        optional: BTreeSet::new(),
        plan: plan.clone(),
    };
    let deadline = plan.end + DRAIN;
    while let Some((mut wire, welcome)) = seat.connect(&plan, deadline).await {
        sender.outbox.connected(welcome.inflight, welcome.frame_bytes);
        match sender.run(&mut wire, welcome, deadline).await {
            Ok(()) => {
                wire.close().await;
                break;
            }
            Err(error) => seat.lose(&plan, &error),
        }
        sender.outbox.disconnected();
    }
    let open = sender.outbox.give_up();
    count(&plan.stats.unanswered, open.len() as u64);
    sender.optional.extend(open.into_iter().map(|((number, _), _)| number));
    // The recipient may have given up already.
    let _ = done.send(Some(Done { sent: sender.sent, optional: sender.optional }));
    Ok(())
}

fn now() -> Now {
    // Nothing here gets old enough to be given up by the wall clock.
    Now { monotonic: clock::now(), wall_ms: 0 }
}

impl Sender {
    /// Sends until the end of the run and the last answer, or until the connection breaks.
    async fn run(&mut self, wire: &mut Wire, welcome: Welcome, deadline: Instant) -> std::io::Result<()> {
        let limit = self.plan.inflight.min(welcome.inflight);
        loop {
            let now = clock::now();
            if now >= deadline || (now >= self.plan.end && self.outbox.is_empty()) {
                return Ok(());
            }
            self.generate(now, limit);
            let wake = if now >= self.plan.end { deadline } else { self.wake(now) };
            let mut timer = clock::sleep_until(wake);
            let turn = std::future::poll_fn(|cx| {
                let mut answered = false;
                let polled = wire.poll_frames(cx, |frame, _| {
                    answered |= self.answer(frame);
                    true
                });
                if let Err(error) = polled {
                    return Poll::Ready(Err(error));
                }
                if self.period.is_none() && answered {
                    self.generate(clock::now(), limit);
                }
                self.write(wire);
                wire.poll_flush(cx)?;
                let over = clock::now() >= self.plan.end && self.outbox.is_empty();
                if over || timer.as_mut().poll(cx).is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
            });
            turn.await?;
        }
    }

    fn wake(&self, now: Instant) -> Instant {
        match self.period {
            Some(_) => self.due.min(self.plan.end),
            None if now < self.plan.start => self.plan.start,
            None => self.plan.end,
        }
    }

    /// Queues the messages whose moment has come.
    fn generate(&mut self, now: Instant, limit: usize) {
        match self.period {
            Some(period) => {
                for _ in 0..BURST {
                    if self.due > now || self.due >= self.plan.end {
                        return;
                    }
                    self.push(self.due);
                    self.due += period;
                }
                // The rest at once after these.
            }
            None if now >= self.plan.start && now < self.plan.end => {
                while self.outbox.len() < limit {
                    self.push(now);
                }
            }
            None => {}
        }
    }

    fn push(&mut self, intended: Instant) {
        let number = self.sent;
        self.sent += 1;
        let mut body = format!("\"{number} {} ", intended.as_nanos());
        let filling = self.plan.size.saturating_sub(body.len() + 1);
        body.extend(std::iter::repeat_n('x', filling));
        body.push('"');
        let body = RawValue::from_string(body).expect("a string without escapes is JSON");
        let message = Outgoing { to: (&self.to).into(), key: format!("{}-{number}", self.key), body, trace: None };
        self.outbox.push(Request::Send(message), (number, intended), now());
        if self.plan.is_measured(intended) {
            count(&self.plan.stats.sent, 1);
        }
    }

    fn write(&mut self, wire: &mut Wire) {
        while !wire.is_choked() {
            match self.outbox.next(now()) {
                Next::Frame(text) => wire.output().text(&text),
                Next::TooLarge((number, _), _) => {
                    self.optional.insert(number);
                    count(&self.plan.stats.refused, 1);
                }
                Next::Idle => return,
            }
        }
    }

    /// Takes in an answer; whether it was one.
    fn answer(&mut self, frame: ServerFrame<'_>) -> bool {
        let Some((number, intended)) = frame.id.and_then(|id| self.outbox.answered(id)) else { return false };
        let stats = &self.plan.stats;
        match frame.body {
            ServerBody::Ok(_) => {
                if self.plan.is_measured(intended) {
                    count(&stats.stored, 1);
                    record(&stats.stored_us, intended.elapsed());
                }
            }
            ServerBody::Error(error) => {
                self.optional.insert(number);
                count(&stats.refused, 1);
                stats.note(format!("a message was refused: {:?} {}", error.code, error.message));
            }
            _ => {
                self.optional.insert(number);
                stats.note("a send got an answer that is none".to_owned());
            }
        }
        true
    }
}

struct Recipient {
    plan: Arc<Plan>,
    inbox: Inbox<()>,
    /// The number expected next.
    next: u64,
    /// Numbers that were passed over.
    missing: BTreeSet<u64>,
}

/// Runs the recipient of pair `nth`.
pub async fn receive(plan: Arc<Plan>, nth: usize, mut done: watch::Receiver<Option<Done>>) -> Result<(), Failure> {
    let nodes = plan.addresses.len();
    // Over the pairs, every combination of the sender's and the recipient's node.
    let mut seat = Seat::new(plan.login("r", nth)?, nth, (nth / nodes + nth + 1) % nodes);
    let mut recipient = Recipient { plan: plan.clone(), inbox: Inbox::new(0), next: 0, missing: BTreeSet::new() };
    let deadline = plan.end + DRAIN * 2;
    while let Some((mut wire, _)) = seat.connect(&plan, deadline).await {
        recipient.inbox.connected(None);
        match recipient.run(&mut wire, &mut done, deadline).await {
            Ok(()) => {
                wire.close().await;
                break;
            }
            Err(error) => seat.lose(&plan, &error),
        }
    }
    let done = done.borrow().clone().unwrap_or_default();
    count(&plan.stats.lost, recipient.wanting(&done).count() as u64);
    Ok(())
}

/// Runs a recipient that connects, and reads nothing until the run's end.
pub async fn stall(plan: Arc<Plan>, nth: usize) -> Result<(), Failure> {
    let mut seat = Seat::new(plan.login("r", nth)?, nth, nth + 1);
    let connected = seat.connect(&plan, plan.end).await;
    clock::sleep_until(plan.end).await;
    drop(connected);
    Ok(())
}

impl Recipient {
    /// Receives until all that was stored has come, or until the connection breaks.
    async fn run(
        &mut self,
        wire: &mut Wire,
        done: &mut watch::Receiver<Option<Done>>,
        deadline: Instant,
    ) -> std::io::Result<()> {
        let mut timer = clock::sleep_until(deadline);
        loop {
            let known = done.borrow_and_update().clone();
            let mut changed = Box::pin(done.changed());
            let is_over = std::future::poll_fn(|cx| {
                wire.poll_frames(cx, |frame, _| {
                    self.take(frame);
                    true
                })?;
                if let Some(seq) = self.inbox.ack() {
                    wire.output().text(&format!("{{\"ack\":{seq}}}"));
                }
                wire.poll_flush(cx)?;
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok::<_, std::io::Error>(true));
                }
                match &known {
                    Some(known) if self.wanting(known).next().is_none() => Poll::Ready(Ok(true)),
                    Some(_) => Poll::Pending,
                    // A sender that ended without a word ends us, too.
                    None => changed.as_mut().poll(cx).map(|changed| Ok(changed.is_err())),
                }
            })
            .await?;
            if is_over {
                return Ok(());
            }
        }
    }

    /// What was stored and has not come.
    fn wanting(&self, done: &Done) -> impl Iterator<Item = u64> {
        let numbers = self.missing.iter().copied().chain(self.next..done.sent);
        numbers.filter(|number| !done.optional.contains(number))
    }

    fn take(&mut self, frame: ServerFrame<'_>) {
        match frame.body {
            ServerBody::Msg(seq, message) if self.inbox.offer(seq, None, ()) => {
                self.inbox.take();
                let mut words = message.body.get().trim_matches('"').split(' ');
                let mut word = || words.next().and_then(|word| word.parse::<u64>().ok());
                match (word(), word()) {
                    (Some(number), Some(intended)) => self.arrived(number, Instant::from_nanos(intended)),
                    _ => self.plan.stats.note("a message arrived that this run did not send".to_owned()),
                }
            }
            ServerBody::Gap(seq, gap) if self.inbox.offer(seq, None, ()) => {
                self.inbox.take();
                self.plan.stats.note(format!("a device missed {} messages: {:?}", gap.lost, gap.reason));
            }
            _ => {}
        }
    }

    fn arrived(&mut self, number: u64, intended: Instant) {
        let stats = &self.plan.stats;
        if number < self.next {
            let known = if self.missing.remove(&number) { &stats.out_of_order } else { &stats.duplicated };
            count(known, 1);
            return;
        }
        self.missing.extend(self.next..number);
        self.next = number + 1;
        if self.plan.is_measured(intended) {
            count(&stats.delivered, 1);
            record(&stats.delivered_us, intended.elapsed());
        }
    }
}
