//! Who still lives: the heartbeat of one connection.
//!
//! Invariant: a client that can hear us hears something every period, and one that says nothing
//! for two periods, though it was asked, is given up. Pure.

use std::time::Duration;

use cluster::env::clock::Instant;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Nothing.
    Rest,
    /// A `ping`.
    Ping,
    /// The client is gone.
    Dead,
}

/// One connection's heartbeat.
#[derive(Debug, Clone, Copy)]
pub struct Heart {
    period: Duration,
    heard: Instant,
    said: Instant,
    /// A ping was sent since the client was last heard.
    asked: bool,
}

impl Heart {
    /// A connection on which both sides were just heard.
    #[must_use]
    pub fn new(period: Duration, now: Instant) -> Self {
        Self { period, heard: now, said: now, asked: false }
    }

    /// The client gave a sign of life, or we did not listen for one.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = false;
    }

    /// Something was sent.
    pub fn said(&mut self, now: Instant) {
        self.said = now;
    }

    /// What is due now. A ping counts as sent.
    pub fn beat(&mut self, now: Instant) -> Beat {
        if self.asked && now >= self.heard + self.period * 2 {
            return Beat::Dead;
        }
        if now < self.ping_at() {
            return Beat::Rest;
        }
        // Asked late (the process was stopped for a while): the client gets its time all the same.
        self.heard = self.heard.max(now - self.period);
        self.asked = true;
        self.said = now;
        Beat::Ping
    }

    fn ping_at(&self) -> Instant {
        let quiet = self.said + self.period;
        if self.asked { quiet } else { quiet.min(self.heard + self.period) }
    }

    /// When [`Heart::beat`] is due next.
    #[must_use]
    pub fn due(&self) -> Instant {
        if self.asked { self.ping_at().min(self.heard + self.period * 2) } else { self.ping_at() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(25);

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(1000 + seconds)
    }

    #[test]
    fn an_idle_client_is_pinged_and_then_given_up() {
        let mut heart = Heart::new(PERIOD, at(0));
        assert_eq!((heart.due(), heart.beat(at(24))), (at(25), Beat::Rest));
        assert_eq!(heart.beat(at(25)), Beat::Ping);
        assert_eq!((heart.beat(at(25)), heart.due()), (Beat::Rest, at(50)));
        assert_eq!(heart.beat(at(50)), Beat::Dead);
    }

    #[test]
    fn an_answer_is_life() {
        let mut heart = Heart::new(PERIOD, at(0));
        assert_eq!(heart.beat(at(25)), Beat::Ping);
        heart.heard(at(26));
        assert_eq!(heart.beat(at(49)), Beat::Rest);
        assert_eq!(heart.beat(at(50)), Beat::Ping, "nothing was said for a period");
        assert_eq!(heart.due(), at(75), "and the client has its time from then on");
    }

    #[test]
    fn a_silent_reader_of_many_messages_is_asked_too() {
        let mut heart = Heart::new(PERIOD, at(0));
        for second in 1..25 {
            heart.said(at(second));
            assert_eq!(heart.beat(at(second)), Beat::Rest);
        }
        assert_eq!(heart.beat(at(25)), Beat::Ping);
        for second in 26..50 {
            heart.said(at(second));
            assert_eq!(heart.beat(at(second)), Beat::Rest);
        }
        assert_eq!(heart.beat(at(50)), Beat::Dead);
    }

    #[test]
    fn a_late_timer_does_not_kill() {
        let mut heart = Heart::new(PERIOD, at(0));
        assert_eq!(heart.beat(at(500)), Beat::Ping);
        assert_eq!(heart.due(), at(525));
        assert_eq!(heart.beat(at(525)), Beat::Dead);
    }
}
