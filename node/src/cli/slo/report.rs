//! What a month's samples come to: achievement, budgets, incidents. Pure.
//!
//! Invariant: everything is a sum over the same samples, so what incidents cost is a part of what was consumed.

/// A minute's means, per second: what was bad, and what there was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Minute {
    /// Its end, in seconds since the Unix epoch.
    pub at_s: i64,
    /// For how much of it there are samples, in seconds.
    pub seen_s: f64,
    pub bad: f64,
    pub total: f64,
}

/// Seconds of a [`Minute`].
pub const MINUTE_S: i64 = 60;
/// Bad minutes with fewer than so many good ones between them are one incident.
const JOIN_MINUTES: i64 = 5;

/// What is bad, in a word; as in the label `slo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slo {
    Availability,
    Latency,
    Success,
}

impl Slo {
    pub const ALL: [Self; 3] = [Self::Availability, Self::Latency, Self::Success];

    /// Its label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Availability => "availability",
            Self::Latency => "latency",
            Self::Success => "success",
        }
    }

    /// The share that must be good.
    pub fn objective(self) -> f64 {
        match self {
            Self::Availability => 0.9995,
            Self::Latency => 0.99,
            Self::Success => 0.9999,
        }
    }

    /// Whether more was bad in it than the objective allows.
    fn is_bad(self, minute: &Minute) -> bool {
        minute.total > 0.0 && minute.bad / minute.total > 1.0 - self.objective()
    }
}

/// A time in which more was bad than the objective allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Incident {
    pub slo: Slo,
    /// From when, in seconds since the Unix epoch.
    pub from_s: i64,
    pub until_s: i64,
    /// What was bad in it: minutes of all nodes, or messages.
    pub bad: f64,
    /// The part of the month's budget that this is.
    pub share: f64,
}

/// An objective's month.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub slo: Slo,
    /// The share that was good, of what was observed; none where nothing was there to be good.
    pub achieved: Option<f64>,
    /// The budget and what was consumed of it: minutes of all nodes, or messages.
    pub budget: f64,
    pub consumed: f64,
    /// Minutes of which there are samples.
    pub observed_minutes: f64,
    pub incidents: Vec<Incident>,
}

impl Kept {
    /// An objective's minutes, of a month that has so many. A budget of time is the whole month's, one of messages
    /// grows with them.
    pub fn of(slo: Slo, minutes: &[Minute], minutes_of_month: f64) -> Self {
        let unit_s = if slo == Slo::Availability { MINUTE_S as f64 } else { 1.0 };
        let amount = |minute: &Minute, rate: f64| rate * minute.seen_s / unit_s;
        let consumed = minutes.iter().fold(0.0, |sum, minute| sum + amount(minute, minute.bad));
        let total = minutes.iter().fold(0.0, |sum, minute| sum + amount(minute, minute.total));
        let observed_minutes = minutes.iter().fold(0.0, |sum, minute| sum + minute.seen_s) / MINUTE_S as f64;
        let of = if slo == Slo::Availability { minutes_of_month } else { total };
        let budget = (1.0 - slo.objective()) * of;
        let achieved = (total > 0.0).then(|| 1.0 - consumed / total);
        let mut kept = Self { slo, achieved, budget, consumed, observed_minutes, incidents: Vec::new() };
        for minute in minutes.iter().filter(|minute| slo.is_bad(minute)) {
            kept.add(minute, amount(minute, minute.bad));
        }
        for incident in &mut kept.incidents {
            incident.share = if budget > 0.0 { incident.bad / budget } else { 0.0 };
        }
        kept
    }

    fn add(&mut self, minute: &Minute, bad: f64) {
        let from_s = minute.at_s - MINUTE_S;
        match self.incidents.last_mut() {
            Some(last) if from_s - last.until_s < JOIN_MINUTES * MINUTE_S => {
                last.until_s = minute.at_s;
                last.bad += bad;
            }
            _ => self.incidents.push(Incident { slo: self.slo, from_s, until_s: minute.at_s, bad, share: 0.0 }),
        }
    }

    /// Whether the budget has sufficed (so far); that of a month without traffic has.
    pub fn is_met(&self) -> bool {
        // Rounding must not make the exact objective a missed one.
        self.consumed <= self.budget * (1.0 + 1e-9)
    }

    /// The share of the whole month that was good, if nothing bad was or will be in what was not observed; of
    /// messages that is the same as what was achieved.
    pub fn of_the_month(&self) -> f64 {
        1.0 - self.consumed_share() * (1.0 - self.slo.objective())
    }

    /// The part of the budget that is consumed: 1 is all of it.
    pub fn consumed_share(&self) -> f64 {
        if self.budget > 0.0 { self.consumed / self.budget } else { 0.0 }
    }

    /// What is left of the budget; below 0 where it was overdrawn.
    pub fn left(&self) -> f64 {
        self.budget - self.consumed
    }
}

/// The value below which `share` of a histogram's samples lie: `buckets` are upper edges with how many samples are at
/// or below each, the last of them infinite. As Prometheus' `histogram_quantile`, linear within a bucket.
pub fn quantile(share: f64, buckets: &[(f64, f64)]) -> Option<f64> {
    let (_, all) = *buckets.last()?;
    if all <= 0.0 {
        return None;
    }
    let rank = share * all;
    let at = buckets.iter().position(|(_, below)| *below >= rank)?;
    let (edge, below) = buckets[at];
    let (lower, before) = at.checked_sub(1).map_or((0.0, 0.0), |before| buckets[before]);
    if edge.is_infinite() {
        return Some(lower);
    }
    Some(if below > before { lower + (edge - lower) * (rank - before) / (below - before) } else { edge })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 30 days.
    const MINUTES: f64 = 43_200.0;

    fn minutes(count: i64, bad: impl Fn(i64) -> f64, total: f64) -> Vec<Minute> {
        (0..count).map(|n| Minute { at_s: (n + 1) * MINUTE_S, seen_s: 60.0, bad: bad(n), total }).collect()
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9 * b.abs().max(1.0)
    }

    #[test]
    fn three_minutes_of_one_of_three_nodes_are_one_minute() {
        let down = minutes(43_200, |n| if (100..103).contains(&n) { 1.0 / 3.0 } else { 0.0 }, 1.0);
        let kept = Kept::of(Slo::Availability, &down, MINUTES);
        assert!(close(kept.budget, 21.6) && close(kept.consumed, 1.0) && close(kept.left(), 20.6), "{kept:?}");
        assert!(close(kept.achieved.expect("observed"), 1.0 - 1.0 / 43_200.0) && kept.is_met());
        let [incident] = kept.incidents[..] else { panic!("{:?}", kept.incidents) };
        assert_eq!((incident.from_s, incident.until_s), (100 * 60, 103 * 60));
        assert!(close(incident.share, 1.0 / 21.6));
    }

    #[test]
    fn the_guides_month() {
        // 99.97 %: 12.96 minutes, 60 % of the budget; 8.64 are left.
        let kept = Kept::of(Slo::Availability, &minutes(43_200, |_| 0.0003, 1.0), MINUTES);
        assert!(close(kept.consumed, 12.96) && close(kept.consumed_share(), 0.6) && close(kept.left(), 8.64));
        assert!(kept.is_met() && kept.incidents.is_empty(), "a trickle within the objective is no incident");
    }

    #[test]
    fn messages_are_counted() {
        // 10 a second for 1,000 minutes, of which in ten a tenth fails.
        let failing = minutes(1_000, |n| if (500..510).contains(&n) { 1.0 } else { 0.0 }, 10.0);
        let kept = Kept::of(Slo::Success, &failing, MINUTES);
        assert!(close(kept.consumed, 600.0) && close(kept.budget, 60.0), "{kept:?}");
        assert!(close(kept.consumed_share(), 10.0) && close(kept.left(), -540.0) && !kept.is_met());
        assert!(close(kept.achieved.expect("traffic"), 0.999));
        assert!(close(kept.incidents[0].bad, 600.0) && close(kept.incidents[0].share, 10.0));
    }

    #[test]
    fn what_belongs_together_is_one_incident() {
        let bad = |n| f64::from([10, 11, 14, 30].contains(&n));
        let kept = Kept::of(Slo::Availability, &minutes(60, bad, 1.0), MINUTES);
        let times: Vec<_> =
            kept.incidents.iter().map(|incident| (incident.from_s / 60, incident.until_s / 60)).collect();
        assert_eq!(times, [(10, 15), (30, 31)]);
        let all: f64 = kept.incidents.iter().map(|incident| incident.bad).sum();
        assert!(close(all, kept.consumed));
    }

    #[test]
    fn nothing_is_neither_good_nor_bad() {
        let kept = Kept::of(Slo::Latency, &minutes(10, |_| 0.0, 0.0), MINUTES);
        assert_eq!((kept.achieved, kept.consumed_share(), kept.incidents.len()), (None, 0.0, 0));
        assert!(kept.is_met());
        assert_eq!(Kept::of(Slo::Availability, &[], MINUTES).achieved, None);
    }

    #[test]
    fn a_minute_counts_for_what_was_seen_of_it() {
        let mut down = minutes(60, |n| f64::from(n == 10), 1.0);
        down[10].seen_s = 15.0;
        let kept = Kept::of(Slo::Availability, &down, MINUTES);
        assert!(close(kept.consumed, 0.25) && close(kept.observed_minutes, 59.25), "{kept:?}");
        assert!(close(kept.incidents[0].bad, 0.25));
        let mut failing = minutes(60, |n| f64::from(n == 10), 10.0);
        failing[10].seen_s = 30.0;
        let kept = Kept::of(Slo::Success, &failing, MINUTES);
        assert!(close(kept.consumed, 30.0) && close(kept.achieved.expect("traffic"), 1.0 - 30.0 / 35_700.0));
    }

    #[test]
    fn a_month_that_runs_is_judged_by_its_budget() {
        let kept = Kept::of(Slo::Availability, &minutes(5, |n| f64::from(n == 2), 1.0), MINUTES);
        assert!(close(kept.achieved.expect("observed"), 0.8) && kept.is_met(), "{kept:?}");
        assert!(close(kept.of_the_month(), 1.0 - 1.0 / 43_200.0));
        let kept = Kept::of(Slo::Availability, &minutes(50, |n| f64::from(n < 22), 1.0), MINUTES);
        assert!(kept.left() < 0.0 && kept.of_the_month() < 0.9995 && !kept.is_met());
    }

    #[test]
    fn quantiles_are_prometheus_own() {
        let buckets = [(0.1, 90.0), (0.2, 98.0), (0.5, 100.0), (f64::INFINITY, 100.0)];
        assert!(close(quantile(0.99, &buckets).expect("samples"), 0.35));
        assert!(close(quantile(0.5, &buckets).expect("samples"), 0.1 * 50.0 / 90.0));
        assert_eq!(quantile(0.99, &[(0.1, 0.0), (f64::INFINITY, 5.0)]), Some(0.1), "no further than the last edge");
        assert_eq!(quantile(0.99, &[(0.1, 0.0), (f64::INFINITY, 0.0)]), None);
        assert_eq!(quantile(0.99, &[]), None);
    }
}
