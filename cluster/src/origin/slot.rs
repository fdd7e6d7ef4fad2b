//! One session, as its origin keeps it.

use std::collections::VecDeque;

use crate::id::{Epoch, Pos};
use crate::session::{Outgoing, SessionSpec};
use crate::state::{self, Registration};

/// An idle session keeps no larger send queue than this: memory per connection.
const IDLE_CAPACITY: usize = 16;

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Wants a registration, or has one in flight.
    Unregistered,
    /// Registered under this epoch, and applied here.
    Live(Epoch),
    /// Over; its owner was told.
    Ended,
}

impl Stage {
    pub fn epoch(self) -> Option<Epoch> {
        match self {
            Self::Live(epoch) => Some(epoch),
            Self::Unregistered | Self::Ended => None,
        }
    }
}

/// What one operation of the batch in flight did for its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Did {
    Register,
    Send(u64),
    Ack,
    Close,
}

pub struct Slot {
    pub spec: SessionSpec,
    pub stage: Stage,
    /// A registration is in flight.
    pub registering: bool,
    /// The last epoch this session had: a registration after a lost generation insists on it.
    pub last_epoch: Option<Epoch>,
    /// A registration's outcome was never learned: the device's last one may be ours.
    uncertain: bool,
    /// Sends without an answer, in order, with their tokens.
    pub sends: VecDeque<(u64, Outgoing)>,
    /// How many of them, from the front, are in flight.
    proposed: usize,
    /// The cursor move that waits.
    pub ack: Option<Pos>,
    /// The highest position that the client has acknowledged.
    acked: Pos,
    /// The owner is gone; `true` if it said goodbye.
    pub closing: Option<bool>,
    /// The close is in flight.
    pub close_proposed: bool,
    /// Stands in the origin's queue of ready sessions.
    pub ready: bool,
    /// Stands in the origin's queue of waiting cursor moves.
    pub lingers: bool,
}

impl Slot {
    pub fn new(spec: SessionSpec) -> Self {
        Self {
            spec,
            stage: Stage::Unregistered,
            registering: false,
            last_epoch: None,
            uncertain: false,
            sends: VecDeque::new(),
            proposed: 0,
            ack: None,
            acked: Pos::ZERO,
            closing: None,
            close_proposed: false,
            ready: false,
            lingers: false,
        }
    }

    /// Whether somebody still listens to it.
    pub fn open(&self) -> bool {
        self.closing.is_none() && self.stage != Stage::Ended
    }

    pub fn wants_turn(&self) -> bool {
        match self.stage {
            Stage::Unregistered => !self.registering,
            Stage::Live(_) => self.has_unproposed() || self.ack.is_some() || self.closing.is_some(),
            Stage::Ended => false,
        }
    }

    pub fn register(&mut self, epoch: Epoch) {
        self.stage = Stage::Live(epoch);
        self.registering = false;
        self.last_epoch = Some(epoch);
        self.uncertain = false;
        self.proposed = 0;
        if self.acked > Pos::ZERO {
            self.ack = Some(self.acked);
        }
    }

    /// Not live until registered again; true if it was live and its owner must know.
    pub fn suspend(&mut self) -> bool {
        let was_live = self.stage.epoch().is_some();
        if was_live {
            self.stage = Stage::Unregistered;
        }
        self.uncertain |= self.registering;
        self.registering = false;
        self.proposed = 0;
        was_live && self.closing.is_none()
    }

    /// The device's last epoch, as this session must find it: the first registration takes over
    /// from whoever is there, a later one only from itself.
    pub fn expect(&self, last: Option<Registration>) -> Epoch {
        let current = last.map_or(Pos::ZERO, |last| last.epoch);
        let is_ours = |last: Registration| (last.instance, last.attempt) == (self.spec.instance, self.spec.attempt);
        match self.last_epoch {
            Some(_) if self.uncertain && last.is_some_and(is_ours) => current,
            Some(own) => own,
            None => current,
        }
    }

    /// Notes a cumulative acknowledgement; false if it says nothing new.
    pub fn note_ack(&mut self, upto: Pos) -> bool {
        let news = upto > self.acked;
        if news {
            self.acked = upto;
            self.ack = Some(upto);
        }
        news
    }

    pub fn has_unproposed(&self) -> bool {
        self.proposed < self.sends.len()
    }

    /// The next send that is not in flight, marked as such.
    pub fn next_send(&mut self, epoch: Epoch) -> Option<(u64, state::Send)> {
        let (token, out) = self.sends.get(self.proposed)?;
        self.proposed += 1;
        let send = state::Send { epoch, mid: out.mid, to: out.to.clone(), ts_ms: out.ts_ms, body: out.body.clone() };
        Some((*token, send))
    }

    /// The oldest send has its answer; false if nobody waits for it any more.
    pub fn answer(&mut self, token: u64) -> bool {
        if self.sends.front().is_none_or(|&(front, _)| front != token) {
            return false;
        }
        self.sends.pop_front();
        self.proposed = self.proposed.saturating_sub(1);
        if self.sends.is_empty() && self.sends.capacity() > IDLE_CAPACITY {
            self.sends = VecDeque::new();
        }
        self.closing.is_none()
    }
}
