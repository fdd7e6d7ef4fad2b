//! How many devices of a user are said to be there, so that a short absence is not told: a pure core.
//!
//! Invariants: what is told is always what the log says at the version told with it; a rise is told at
//! once, a fall when it has lasted for [`LINGER`]; the version never goes back.

use std::time::Duration;

use crate::env::clock::Instant;

/// A device counts as there for so long after its session ended. A client whose node died, or that changes its
/// network, or whose page is loaded again, is back within a second or two: the SDK's first attempts take 0.2 s, and
/// an election or a full round of addresses not much more than 1 s. On top of the 0.5 s in which the cluster learns
/// of a death this is still less than what people call "just now".
pub const LINGER: Duration = Duration::from_secs(3);

/// So many devices of a user, as the log says at an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Live sessions, each of another device.
    pub devices: u32,
    /// Index of the entry.
    pub version: u64,
}

#[derive(Debug)]
struct Level {
    count: Count,
    /// When it is told no more, because there were fewer from [`LINGER`] before on; `None`: it is as many now.
    until: Option<Instant>,
}

/// One user's count. See the module.
#[derive(Debug)]
pub struct Damped {
    /// Ever fewer devices at ever higher versions; the last one is how it is now, the first one what is told.
    levels: Vec<Level>,
    /// Nothing is told while nobody is there, until then: somebody has just left, and may be back.
    hold: Option<Instant>,
}

impl Damped {
    /// Looked at for the first time. `just_left`: a session has ended so short a time ago that who asks may
    /// still take the user for present, from elsewhere.
    #[must_use]
    pub fn new(now_is: Count, just_left: bool, now: Instant) -> Self {
        let hold = (just_left && now_is.devices == 0).then(|| now + LINGER);
        Self { levels: vec![Level { count: now_is, until: None }], hold }
    }

    /// Looked at again. What is older than what was seen is ignored.
    pub fn observe(&mut self, now_is: Count, now: Instant) {
        let last = self.levels.last_mut().expect("there is always how it is now");
        if now_is.version >= last.count.version {
            if now_is.devices < last.count.devices {
                last.until = Some(now + LINGER);
            } else {
                while self.levels.last().is_some_and(|level| level.count.devices <= now_is.devices) {
                    self.levels.pop();
                }
            }
            if self.levels.last().is_none_or(|level| level.count.devices > now_is.devices) {
                self.levels.push(Level { count: now_is, until: None });
            }
        }
        let over = self.levels.iter().take_while(|level| level.until.is_some_and(|until| until <= now)).count();
        self.levels.drain(..over);
        if now_is.devices > 0 || self.hold.is_some_and(|hold| hold <= now) {
            self.hold = None;
        }
    }

    /// What watchers are told; nothing, while it is not yet known whether who has just left comes back.
    #[must_use]
    pub fn told(&self) -> Option<Count> {
        self.hold.is_none().then(|| self.levels[0].count)
    }

    /// When what is told changes by time alone.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.hold.or(self.levels[0].until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn count(devices: u32, version: u64) -> Count {
        Count { devices, version }
    }

    #[test]
    fn a_rise_is_told_at_once_and_a_fall_when_it_has_lasted() {
        let mut damped = Damped::new(count(0, 5), false, at(0));
        assert_eq!((damped.told(), damped.due()), (Some(count(0, 5)), None));
        damped.observe(count(1, 7), at(10));
        assert_eq!(damped.told(), Some(count(1, 7)));
        damped.observe(count(0, 9), at(1_000));
        assert_eq!((damped.told(), damped.due()), (Some(count(1, 7)), Some(at(4_000))));
        damped.observe(count(0, 11), at(3_999));
        assert_eq!(damped.told(), Some(count(1, 7)));
        damped.observe(count(0, 11), at(4_000));
        assert_eq!((damped.told(), damped.due()), (Some(count(0, 11)), None));
    }

    #[test]
    fn a_short_absence_is_not_told() {
        let mut damped = Damped::new(count(2, 5), false, at(0));
        damped.observe(count(1, 6), at(100));
        damped.observe(count(0, 7), at(1_000));
        damped.observe(count(1, 8), at(2_000));
        assert_eq!(damped.told(), Some(count(2, 5)));
        damped.observe(count(1, 8), at(3_100));
        assert_eq!((damped.told(), damped.due()), (Some(count(1, 8)), None), "there was one, but for a moment");
        damped.observe(count(0, 9), at(5_000));
        damped.observe(count(1, 12), at(6_000));
        assert_eq!((damped.told(), damped.due()), (Some(count(1, 12)), None));
    }

    #[test]
    fn who_has_just_left_is_waited_for() {
        let mut damped = Damped::new(count(0, 5), true, at(0));
        assert_eq!((damped.told(), damped.due()), (None, Some(at(3_000))));
        damped.observe(count(1, 6), at(1_000));
        assert_eq!((damped.told(), damped.due()), (Some(count(1, 6)), None));
        let mut gone = Damped::new(count(0, 5), true, at(0));
        gone.observe(count(0, 5), at(3_000));
        assert_eq!((gone.told(), gone.due()), (Some(count(0, 5)), None));
        assert_eq!(Damped::new(count(1, 5), true, at(0)).told(), Some(count(1, 5)));
    }

    #[test]
    fn what_is_older_is_ignored() {
        let mut damped = Damped::new(count(1, 9), false, at(0));
        damped.observe(count(0, 8), at(10));
        damped.observe(count(0, 8), at(9_000));
        assert_eq!((damped.told(), damped.due()), (Some(count(1, 9)), None));
    }
}
