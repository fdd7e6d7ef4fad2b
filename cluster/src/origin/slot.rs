//! One session, as its origin keeps it.

use std::collections::VecDeque;

use crate::id::{Epoch, Pos};
use crate::session::{Request, SessionSpec};
use crate::state::{Destination, FORGET_LEVEL, GroupOp, GroupSend, LastRegistration, Op, Send};

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
    /// The session's request of this token.
    Ask(u64),
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
    /// Its owner has let it go on since it was registered.
    pub confirmed: bool,
    /// Requests without an answer, in order, with their tokens.
    pub asked: VecDeque<(u64, Request)>,
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
            confirmed: false,
            asked: VecDeque::new(),
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
            Stage::Live(_) => {
                let wants = self.has_unproposed() || self.ack.is_some();
                (wants && self.confirmed) || self.closing.is_some()
            }
            Stage::Ended => false,
        }
    }

    pub fn register(&mut self, epoch: Epoch) {
        self.stage = Stage::Live(epoch);
        // At first there is nothing that it could have asked for.
        self.confirmed = self.last_epoch.is_none();
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
    /// from whoever is there, a later one only from itself, and not over the device's forgetting.
    pub fn expect(&self, last: Option<LastRegistration>) -> Epoch {
        let current = last.map_or(Pos::ZERO, |last| last.of.epoch);
        let is_ours = |LastRegistration { of, known }| {
            known && (of.instance, of.attempt) == (self.spec.instance, self.spec.attempt)
        };
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
        self.proposed < self.asked.len()
    }

    /// The next request that is not in flight, marked as such, and the bytes of its body; as a cluster of this level
    /// understands it.
    pub fn next_op(&mut self, epoch: Epoch, feature_level: u32) -> Option<(u64, Op, usize)> {
        let (token, request) = self.asked.get(self.proposed)?;
        self.proposed += 1;
        let (op, bytes) = match request {
            Request::Send(out) => {
                let (mid, ts_ms, body) = (out.mid, out.ts_ms, out.body.clone());
                let op = match out.to.clone() {
                    Destination::User(to) => {
                        let send = Send { epoch, mid, to, ts_ms, body };
                        if let Some(trace) = out.trace { Op::TracedSend(send, trace) } else { Op::Send(send) }
                    }
                    Destination::Group(group) => {
                        let send = GroupSend { epoch, mid, group, ts_ms, body };
                        if let Some(trace) = out.trace { Op::TracedGroupSend(send, trace) } else { Op::GroupSend(send) }
                    }
                };
                (op, out.body.len())
            }
            Request::Refuse(mid) => (Op::Refuse { epoch, mid: *mid }, 0),
            Request::Forget(device) if feature_level >= FORGET_LEVEL => {
                (Op::ForgetBy { epoch, device: device.clone() }, 0)
            }
            Request::Forget(device) => (Op::Forget { user: self.spec.user.clone(), device: device.clone() }, 0),
            Request::Group { group, act } => (Op::Group(GroupOp { epoch, group: group.clone(), act: *act }), 0),
        };
        Some((*token, op, bytes))
    }

    /// The oldest request has its answer; `None` if nobody waits for it any more.
    pub fn answer(&mut self, token: u64) -> Option<Request> {
        if self.asked.front().is_none_or(|&(front, _)| front != token) {
            return None;
        }
        let (_, request) = self.asked.pop_front()?;
        self.proposed = self.proposed.saturating_sub(1);
        if self.asked.is_empty() && self.asked.capacity() > IDLE_CAPACITY {
            self.asked = VecDeque::new();
        }
        self.closing.is_none().then_some(request)
    }
}
