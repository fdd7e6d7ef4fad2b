//! Draws a plan from a seed, by *swarm*: each seed has a random subset of kinds, so that each pair
//! of kinds is often seen without the noise of all others.

use cluster::state::{BREAKER_LEVEL, FEATURE_LEVEL};

use super::FaultKind;
use crate::dice::Dice;
use crate::plan::{Fault, Plan, Target};
use crate::workload::{Mix, draw_group_limits, draw_limits};

/// Faults of one plan, at most.
const MOST_FAULTS: u64 = 12;
/// Faults of one plan that spoil a disk, at most: each takes long to mend.
const MOST_SPOILT: usize = 2;
/// The largest storm at doors that let few in at once: more cost much and meet nothing else.
const MOST_STORM: u64 = 150;
/// A day, in ms.
const DAY_MS: f64 = 86_400_000.0;
/// How long an outage lasts that outlasts every timeout, ms.
const OUTAGE_MS: (u64, u64) = (15_000, 40_000);

impl Plan {
    /// The plan of `seed`.
    pub fn draw(seed: u64) -> Self {
        let dice = Dice::new(seed, "plan");
        let nodes = dice.pick(&[3, 3, 5]);
        let mut plan = Self {
            seed,
            nodes,
            voters: if dice.one_in(8) { 3 } else { nodes },
            traffic_ms: dice.between(10_000, 20_000),
            pause_ms: dice.between(20, 200),
            // Small mostly, so that lagging replicas are sent checkpoints, and restarts begin from one.
            checkpoint_entries: dice.pick(&[5, 50, 300, 10_000]),
            kept_entries: dice.pick(&[0, 20, 200, 20_000]),
            kept_bytes: Dice::new(seed, "log").pick(&[128 << 10, 512 << 20]),
            tiny: dice.one_in(5),
            clock_offset_ms: dice.pick(&[0, 0, 50, 5_000, 600_000]),
            clock_drift_ppm: dice.pick(&[0, 0, 100, 1_000, 20_000]),
            ..Self::default()
        };
        let clients = Dice::new(seed, "clients");
        (plan.users, plan.limits) = (clients.between(2, 8), draw_limits(&clients));
        plan.clients = Mix::draw(&clients);
        plan.groups = draw_group_limits(&Dice::new(seed, "limits of groups"));
        let forgetting = Dice::new(seed, "forgetting");
        plan.clients.forgetful = if forgetting.one_in(2) { forgetting.between(1, 2) } else { 0 };
        if forgetting.one_in(8) {
            plan.limits.device_ttl_ms = forgetting.between(2_000, 8_000);
        }
        if forgetting.one_in(8) {
            plan.limits.ephemeral_ttl_ms = forgetting.between(500, 5_000);
        }
        let outcasts = Dice::new(seed, "outcasts");
        plan.clients.outcasts = if outcasts.one_in(2) { outcasts.between(1, 3) } else { 0 };
        plan.clients.neighbours = if Dice::new(seed, "neighbours").one_in(2) { nodes as u64 } else { 0 };
        let heartbeat = Dice::new(seed, "heartbeat");
        if heartbeat.one_in(3) {
            // So short that silence shows within a run.
            plan.ping_ms = heartbeat.between(2_000, 4_000);
        }
        let exiles = Dice::new(seed, "exiles");
        plan.clients.exiles = if exiles.one_in(3) { exiles.between(1, 2) } else { 0 };
        plan.admit_few(&Dice::new(seed, "admission"));
        let kinds = swarm(&dice);
        for n in 0..dice.between(1, MOST_FAULTS) {
            // The first is a death in the middle of traffic: what everything is built for.
            let kind = if n == 0 { FaultKind::Kill } else { dice.pick(&kinds) };
            let spoilt = plan.faults.iter().filter(|fault| fault.kind.spoils_disk()).count();
            if !kind.spoils_disk() || spoilt < MOST_SPOILT {
                let fault = draw(&dice, kind, &plan);
                plan.faults.push(fault);
            }
        }
        let tokens = Dice::new(seed, "tokens");
        // By a clock that is far off they have all ended.
        let in_time = plan.clock_offset_ms <= 50 && plan.faults.iter().all(|fault| fault.kind != FaultKind::ClockJump);
        if in_time && tokens.one_in(2) {
            (plan.clients.tokens_ms, plan.clients.lapsing) = (tokens.between(6_000, 20_000), tokens.between(0, 2));
        }
        let operator = Dice::new(seed, "breaker");
        if operator.one_in(3) {
            for _ in 0..operator.between(1, 2) {
                plan.faults.push(draw(&operator, FaultKind::Breaker, &plan));
            }
        }
        plan.upgrade(&Dice::new(seed, "upgrade"));
        plan.faults.sort_by_key(|fault| fault.at_ms);
        plan
    }

    /// Sometimes nodes let few in at once, and then mostly a storm comes that is too much for them.
    fn admit_few(&mut self, dice: &Dice) {
        if dice.one_in(6) {
            self.admit_per_s = dice.between(10, 60) as u32;
            if dice.one_in(2) {
                let too_many = u64::from(self.admit_per_s) * self.nodes as u64 * 5 / 4;
                self.clients.storm = self.clients.storm.max(too_many.min(MOST_STORM));
            }
        }
    }

    /// Sometimes nodes begin as older builds, and are replaced by newer ones, one after the other.
    fn upgrade(&mut self, dice: &Dice) {
        if dice.one_in(4) {
            // The operator is told of no breaker by a build that has none.
            let breaker = self.faults.iter().any(|fault| fault.kind == FaultKind::Breaker);
            self.old_level =
                Some(if breaker { BREAKER_LEVEL } else { dice.between(1, u64::from(FEATURE_LEVEL) - 1) as u32 });
            let fault = draw(dice, FaultKind::RollingRestart, self);
            self.faults.push(fault);
        }
    }

    /// With the faults that its rates come to under its seed.
    pub fn with_chance(mut self) -> Self {
        let dice = Dice::new(self.seed, "rates");
        for rate in std::mem::take(&mut self.rates) {
            let mean_pause_ms = DAY_MS / rate.per_day;
            let mut at_ms = 0.0;
            loop {
                // Independent of each other: pauses are exponential.
                let uniform = (dice.between(1, 1 << 53) as f64) / (1_u64 << 53) as f64;
                at_ms += -uniform.ln() * mean_pause_ms;
                if at_ms >= self.traffic_ms as f64 {
                    break;
                }
                let target = any(&dice, &self);
                let lasts_ms = dice.between(rate.lasts_ms.0, rate.lasts_ms.1);
                let amount = draw_amount(&dice, rate.amount);
                self.faults.push(Fault { kind: rate.kind, target, at_ms: at_ms as u64, lasts_ms, amount });
            }
        }
        self.faults.sort_by_key(|fault| fault.at_ms);
        self
    }
}

fn any(dice: &Dice, plan: &Plan) -> Target {
    Target::Node(dice.between(0, plan.nodes as u64 - 1) as usize)
}

fn draw_amount(dice: &Dice, (low, high): (i64, i64)) -> i64 {
    low + i64::try_from(dice.between(0, high.abs_diff(low))).expect("amounts are small")
}

/// The kinds of one seed.
fn swarm(dice: &Dice) -> Vec<FaultKind> {
    let percent = dice.pick(&[5, 15, 30, 60]);
    let mut kinds: Vec<_> = FaultKind::ALL.into_iter().filter(|_| dice.percent(percent)).collect();
    if kinds.is_empty() {
        kinds.push(dice.pick(&FaultKind::ALL));
    }
    kinds
}

fn draw(dice: &Dice, kind: FaultKind, plan: &Plan) -> Fault {
    let range = kind.range();
    let outage = matches!(kind, FaultKind::Kill | FaultKind::PowerCut | FaultKind::Isolate) && dice.one_in(8);
    let (low, high) = if outage { OUTAGE_MS } else { range.lasts_ms };
    let amount = range.amount.map_or(0, |bounds| draw_amount(dice, bounds));
    Fault {
        kind,
        target: match dice.between(0, 5) {
            0 | 1 => Target::Leader,
            2 => Target::Follower,
            _ => any(dice, plan),
        },
        at_ms: dice.between(1_000, plan.traffic_ms - 1_000),
        lasts_ms: dice.between(low, high),
        amount,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::plan::Rate;

    #[test]
    fn seeds_differ_and_all_kinds_come() {
        let plans: Vec<_> = (0..300).map(Plan::draw).collect();
        let kinds: BTreeSet<_> = plans.iter().flat_map(|plan| &plan.faults).map(|fault| fault.kind).collect();
        assert_eq!(kinds.len(), FaultKind::ALL.len() + 1, "{kinds:?}");
        assert!(plans.iter().any(|plan| plan.nodes == 5) && plans.iter().any(|plan| plan.nodes == 3));
        let short = plans.iter().filter(|plan| plan.ping_ms < 5_000).count();
        assert!((60..140).contains(&short), "{short} of 300 have a short heartbeat");
        let few: Vec<_> = plans.iter().filter(|plan| plan.admit_per_s > 0).collect();
        assert!((25..80).contains(&few.len()), "{} of 300 let few in", few.len());
        // A crowd has the better part of a second's worth at once.
        let stormed = |plan: &&&Plan| plan.clients.storm > u64::from(plan.admit_per_s) * plan.nodes as u64;
        assert!(few.iter().filter(stormed).count() >= 3);
        assert_eq!(Plan::draw(7), Plan::draw(7));
    }

    #[test]
    fn rates_come_to_as_many_faults() {
        let rate =
            Rate { kind: FaultKind::Kill, per_day: 24.0, lasts_ms: (1, 9), amount: (0, 0), reason: String::new() };
        let plan = Plan { traffic_ms: 864_000_000, rates: vec![rate], ..Plan::default() }.with_chance();
        assert!((200..280).contains(&plan.faults.len()), "{} in ten days", plan.faults.len());
        assert!(plan.faults.iter().all(|fault| fault.at_ms < plan.traffic_ms) && plan.rates.is_empty());
    }
}
