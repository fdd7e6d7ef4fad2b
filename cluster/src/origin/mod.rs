//! What this node's sessions want from the log, in order: the origin's side of G1–G4.
//!
//! Pure: inputs are what sessions ask and what this replica has applied, outputs are batches to
//! propose and events for sessions. Invariants:
//!
//! * One batch is in flight at a time, and it stays the same bytes until it was applied or its
//!   generation ended. With the replicated batch number that makes each operation happen exactly
//!   once, in order, across leader changes.
//! * A session's sends are answered in the order they were made, and only by what was applied.
//! * A session acts only under an epoch that this replica has applied; one that was registered anew only
//!   after its owner has looked whether it still may.
//!
//! Whenever the fate of a batch cannot be learned (the generation was fenced, a checkpoint was
//! installed over it), the origin asks for a new generation, registers every session anew and
//! proposes what has no answer again; the replicated dedup ring makes the repeats one.

mod cut;
mod slot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::env::clock::Instant;
use crate::id::{Epoch, Generation, NodeId, Pos};
use crate::session::{Event, Refusal, Request, SessionSpec};
use crate::state::{BatchRefusal, Outcome, RegisterRefusal};
pub use cut::{ACK_LINGER, CUT_EVERY, Replica};
use slot::{Did, Slot, Stage};

/// A session on this node, for the life of its process.
pub type Key = u64;

/// What sessions are to be told.
pub type Events = Vec<(Key, Event)>;

/// The origin's send queue; see the module.
pub struct Origin {
    node: NodeId,
    generation: Option<Generation>,
    /// Counts the generations that were asked for; no `NodeUp` is proposed with the same one after a doubt.
    incarnation: u32,
    next_seq: u64,
    last_cut: Instant,
    in_flight: Option<InFlight>,
    slots: BTreeMap<Key, Slot>,
    by_epoch: BTreeMap<Epoch, Key>,
    /// Epochs that ended before we heard of them: in the batch that began them, whose outcomes come last.
    stillborn: BTreeSet<Epoch>,
    /// Sessions with something to propose now, each at most once.
    ready: VecDeque<Key>,
    /// Sessions with nothing but a cursor move, in the order they began to wait.
    lingering: VecDeque<(Instant, Key)>,
}

/// The batch whose outcome is awaited, as (session, what it did) for each operation.
struct InFlight {
    seq: u64,
    did: Vec<(Key, Did)>,
}

impl Origin {
    /// An origin without sessions and, so far, without a generation.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            generation: None,
            incarnation: 1,
            next_seq: 1,
            last_cut: Instant::default(),
            in_flight: None,
            slots: BTreeMap::new(),
            by_epoch: BTreeMap::new(),
            stillborn: BTreeSet::new(),
            ready: VecDeque::new(),
            lingering: VecDeque::new(),
        }
    }

    /// The generation under which batches are cut; `None` when a `NodeUp` is wanted.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.generation
    }

    /// The incarnation to ask for while there is no generation.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// The number of the batch in flight.
    #[must_use]
    pub fn in_flight(&self) -> Option<u64> {
        self.in_flight.as_ref().map(|batch| batch.seq)
    }

    /// The epoch under which a session may act now.
    #[must_use]
    pub fn live(&self, key: Key) -> Option<Epoch> {
        self.slots.get(&key).and_then(|slot| slot.stage.epoch())
    }

    /// Begins a session; the answer is `Registered`, `Refused` or, where the device moves on first, `Superseded`.
    pub fn open(&mut self, key: Key, spec: SessionSpec) {
        let before = self.slots.insert(key, Slot::new(spec));
        assert!(before.is_none(), "session keys are used once");
        self.make_ready(key);
    }

    /// Queues a request; answered by one `Sent` or `Done`, in order.
    pub fn ask(&mut self, key: Key, token: u64, request: Request) {
        if let Some(slot) = self.slots.get_mut(&key)
            && slot.open()
        {
            slot.asked.push_back((token, request));
            if slot.stage.epoch().is_some() {
                self.make_ready(key);
            }
        }
    }

    /// Moves the device's cursor, a little later.
    pub fn ack(&mut self, key: Key, upto: Pos, now: Instant) {
        if let Some(slot) = self.slots.get_mut(&key)
            && slot.open()
            && slot.note_ack(upto)
            && !slot.lingers
        {
            slot.lingers = true;
            self.lingering.push_back((now, key));
        }
    }

    /// Ends a session after what it has queued. Nothing is told to it any more.
    pub fn close(&mut self, key: Key, clean: bool) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        match slot.stage {
            Stage::Ended => self.forget(key),
            Stage::Unregistered if !slot.registering => self.forget(key),
            Stage::Unregistered | Stage::Live(_) => {
                slot.closing = Some(clean);
                self.make_ready(key);
            }
        }
    }

    /// The batch in flight was applied here.
    pub fn on_applied(&mut self, generation: Generation, seq: u64, outcomes: &[Outcome], now: Instant) -> Events {
        if self.generation != Some(generation) || self.in_flight() != Some(seq) {
            return Vec::new();
        }
        let Some(batch) = self.in_flight.take() else { return Vec::new() };
        assert_eq!(batch.did.len(), outcomes.len(), "a batch has one outcome for each operation");
        let mut events = Vec::new();
        for ((key, did), outcome) in batch.did.into_iter().zip(outcomes) {
            self.settle(key, did, outcome, now, &mut events);
        }
        self.stillborn.clear();
        events
    }

    /// A batch of this node was not applied. A repeat of an old one means nothing; else the origin
    /// and the state disagree about what is next, and a new generation settles it.
    pub fn on_refused(&mut self, generation: Generation, seq: u64, refusal: BatchRefusal) -> Events {
        let repeated = refusal == BatchRefusal::Repeated && self.in_flight() != Some(seq);
        if self.generation != Some(generation) || repeated { Vec::new() } else { self.rejoin() }
    }

    /// A session of this node was superseded.
    pub fn on_superseded(&mut self, epoch: Epoch) -> Events {
        match self.by_epoch.remove(&epoch) {
            Some(key) => self.end(key, Event::Superseded).into_iter().collect(),
            None => {
                self.stillborn.insert(epoch);
                Vec::new()
            }
        }
    }

    /// A session of this node ended, and has no successor (the user's tokens were revoked): it begins again, for its
    /// token may be a newer one.
    pub fn on_ended(&mut self, epoch: Epoch) -> Events {
        let Some(key) = self.by_epoch.remove(&epoch) else { return Vec::new() };
        let Some(slot) = self.slots.get_mut(&key) else { return Vec::new() };
        if slot.closing.is_some() {
            self.forget(key);
            return Vec::new();
        }
        slot.suspend();
        self.make_ready(key);
        vec![(key, Event::Suspended)]
    }

    /// The owner of a session that was registered anew lets it go on.
    pub fn confirm(&mut self, key: Key) {
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.confirmed = true;
            if slot.wants_turn() {
                self.make_ready(key);
            }
        }
    }

    /// This node's new incarnation was applied: every open session registers anew.
    pub fn on_node_up(&mut self, generation: Generation) -> Events {
        let events = self.rejoin();
        self.generation = Some(generation);
        self.next_seq = 1;
        let keys: Vec<Key> = self.slots.iter().filter(|(_, slot)| slot.wants_turn()).map(|(&key, _)| key).collect();
        for key in keys {
            self.make_ready(key);
        }
        events
    }

    /// A generation of this node was declared down.
    pub fn on_node_down(&mut self, generation: Generation) -> Events {
        if self.generation == Some(generation) { self.rejoin() } else { Vec::new() }
    }

    /// Ends the current generation on our side: what was in flight is unknown, no session is live.
    pub fn rejoin(&mut self) -> Events {
        self.generation = None;
        self.incarnation += 1;
        self.in_flight = None;
        self.by_epoch.clear();
        self.stillborn.clear();
        let mut events = Vec::new();
        self.slots.retain(|&key, slot| {
            if slot.suspend() {
                events.push((key, Event::Suspended));
            }
            // A session that was only closing is ended by the generation's end.
            slot.closing.is_none()
        });
        events
    }

    /// The quorum is out of reach: every open session is sent away.
    pub fn abandon(&mut self) -> Events {
        let keys: Vec<Key> = self.slots.iter().filter(|(_, slot)| slot.open()).map(|(&key, _)| key).collect();
        keys.into_iter().map(|key| (key, Event::Unavailable)).collect()
    }

    fn make_ready(&mut self, key: Key) {
        if let Some(slot) = self.slots.get_mut(&key)
            && !slot.ready
        {
            slot.ready = true;
            self.ready.push_back(key);
        }
    }

    fn settle(&mut self, key: Key, did: Did, outcome: &Outcome, now: Instant, events: &mut Events) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        match (did, outcome) {
            (Did::Register, Outcome::Registered(epoch)) if self.stillborn.contains(epoch) => {
                slot.registering = false;
                events.extend(self.end(key, Event::Superseded));
            }
            (Did::Register, Outcome::Registered(epoch)) => {
                slot.register(*epoch);
                self.by_epoch.insert(*epoch, key);
                if slot.open() {
                    events.push((key, Event::Registered { epoch: *epoch }));
                }
                if slot.wants_turn() {
                    self.make_ready(key);
                }
            }
            (Did::Register, Outcome::RegisterRefused(refusal)) => {
                slot.registering = false;
                events.extend(self.register_refused(key, *refusal));
            }
            (Did::Ask(token), outcome) if *outcome != Outcome::Fenced => {
                let Some(request) = slot.answer(token) else { return };
                if matches!(&request, Request::Send(out) if out.trace.is_some()) {
                    events.push((key, Event::Decided { proposed: self.last_cut, applied: now }));
                }
                events.extend(answer(token, outcome).map(|event| (key, event)));
            }
            (Did::Close, _) => self.forget(key),
            // The session ended under us without a successor.
            (Did::Ask(_) | Did::Ack, Outcome::Fenced) => {
                if let Some(epoch) = slot.stage.epoch() {
                    events.extend(self.on_ended(epoch));
                }
            }
            (Did::Register | Did::Ask(_) | Did::Ack, _) => {}
        }
    }

    fn register_refused(&mut self, key: Key, refusal: RegisterRefusal) -> Option<(Key, Event)> {
        let slot = self.slots.get(&key)?;
        match refusal {
            RegisterRefusal::Conflict { .. } if slot.closing.is_some() => {
                self.forget(key);
                None
            }
            // Once registered, a session yields to any newer one; at its first registration it looks again.
            RegisterRefusal::Conflict { .. } if slot.last_epoch.is_some() => self.end(key, Event::Superseded),
            RegisterRefusal::Conflict { .. } => {
                self.make_ready(key);
                None
            }
            RegisterRefusal::Replaced => self.end(key, Event::Superseded),
            RegisterRefusal::OlderAttempt => self.end(key, Event::Refused(Refusal::OlderAttempt)),
            RegisterRefusal::TooManyDevices => self.end(key, Event::Refused(Refusal::TooManyDevices)),
            RegisterRefusal::TooManyForgotten => self.end(key, Event::Refused(Refusal::TooManyForgotten)),
        }
    }

    /// The session is over, but its owner has not let go of it yet.
    fn end(&mut self, key: Key, event: Event) -> Option<(Key, Event)> {
        let slot = self.slots.get_mut(&key)?;
        slot.stage = Stage::Ended;
        slot.asked.clear();
        if slot.closing.is_some() {
            self.forget(key);
            return None;
        }
        Some((key, event))
    }

    fn forget(&mut self, key: Key) {
        if let Some(slot) = self.slots.remove(&key)
            && let Some(epoch) = slot.stage.epoch()
        {
            self.by_epoch.remove(&epoch);
        }
    }
}

/// What the session is told of an outcome of its request.
fn answer(token: u64, outcome: &Outcome) -> Option<Event> {
    match outcome {
        Outcome::Stored { mid, .. } => Some(Event::Sent { token, result: Ok(*mid) }),
        Outcome::SendRefused { refusal, .. } => Some(Event::Sent { token, result: Err(*refusal) }),
        Outcome::Done => Some(Event::Done { token, result: Ok(()) }),
        Outcome::GroupRefused(refusal) => Some(Event::Done { token, result: Err(*refusal) }),
        Outcome::Registered(_) | Outcome::RegisterRefused(_) | Outcome::Fenced => None,
    }
}
