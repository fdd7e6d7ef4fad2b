//! Makes a plan's faults happen, and undoes each after its time.
//!
//! Invariant: what a fault began it ends itself, and nothing of it is left then but what production
//! code has to mend. Each is told to the trace when it begins and ends, or why it was left out; and at its end,
//! if so, that there was nothing it could hit: of all others something must have been undergone ([`crate::evidence`]).

mod draw;
mod kind;
mod model;
pub mod observe;
pub mod operator;
mod spans;
mod ways;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::sync::lock;
use futures_util::future::join_all;
use serde_json::json;

use crate::dice::Dice;
use crate::disk::{Half, Trouble};
use crate::net::Weakness;
use crate::plan::{Fault, Plan, Target};
use crate::time;
use crate::world::World;
pub use kind::FaultKind;
use model::ActiveFaults;
pub use spans::{FaultSpan, fault_spans};
use ways::Ways;

/// How long a fault waits for leave to begin, if the model says not now.
const LEAVE_WITHIN: Duration = Duration::from_secs(20);
/// How long an old copy may take to be refused and replaced, or to catch up.
const REFUSED_WITHIN: Duration = Duration::from_secs(60);
/// How often one who waits looks.
const LOOK: Duration = Duration::from_millis(100);

/// Makes all faults of a plan happen; returns when the last is over.
pub async fn run(world: &World, plan: &Plan) {
    let active = Arc::new(Mutex::new(ActiveFaults::default()));
    let all = plan.faults.iter().enumerate().map(|(id, fault)| {
        let dice = Dice::new(plan.seed, &format!("fault {id}"));
        Running { world: world.clone(), fault: fault.clone(), id, dice, active: active.clone() }.run()
    });
    join_all(all).await;
}

/// One fault.
struct Running {
    world: World,
    fault: Fault,
    id: usize,
    dice: Dice,
    active: Arc<Mutex<ActiveFaults>>,
}

impl Running {
    async fn run(self) {
        time::sleep(self.fault.at()).await;
        let n = match self.admitted().await {
            Ok(n) => n,
            Err(why) => {
                self.tell("skipped", &[], Some(why));
                return;
            }
        };
        let nodes = self.concerned(n);
        self.tell("begin", &nodes, None);
        let hit = self.happen(n).await;
        self.tell("end", &nodes, (!hit).then_some("there was nothing to hit"));
        self.with_active(|active| active.over(self.id));
    }

    fn with_active<T>(&self, work: impl FnOnce(&mut ActiveFaults) -> T) -> T {
        work(&mut lock(&self.active))
    }

    fn tell(&self, phase: &str, nodes: &[usize], why: Option<&str>) {
        let nodes: Vec<_> = nodes.iter().map(|&n| &self.world.machine(n).name).collect();
        let kind = self.fault.kind;
        let mut of = json!({ "id": self.id, "kind": kind.name(), "nodes": nodes, "phase": phase });
        if let Some(why) = why {
            of["why"] = why.into();
        }
        self.world.trace().event("fault", of);
    }

    /// The machine that is hit, once the model lets the fault begin.
    async fn admitted(&self) -> Result<usize, &'static str> {
        let deadline = time::now() + time::nanos(LEAVE_WITHIN);
        loop {
            let n = if self.fault.kind == FaultKind::AddNode { self.spare() } else { self.aim() };
            let admitted = match n {
                None => Err("there is nobody to hit"),
                Some(n) => {
                    let situation = observe::situation(&self.world, n);
                    self.with_active(|active| active.admit(self.id, self.fault.kind, situation)).map(|()| n)
                }
            };
            if admitted.is_ok() || time::now() >= deadline {
                return admitted;
            }
            time::sleep(LOOK).await;
        }
    }

    /// Whom the fault aims at, among the machines that have a place in the cluster.
    fn aim(&self) -> Option<usize> {
        let wanted = self.world.wanted();
        let leader = observe::leader(&self.world).map(|(n, _)| n).filter(|n| wanted.contains(n));
        match self.fault.target {
            Target::Leader => leader.or(wanted.first().copied()),
            Target::Follower => wanted.iter().copied().find(|&n| Some(n) != leader && self.world.is_up(n)),
            Target::Node(n) => wanted.contains(&n).then_some(n),
        }
    }

    /// A machine that has no place yet.
    fn spare(&self) -> Option<usize> {
        let wanted = self.world.wanted();
        (0..self.world.len()).rev().find(|n| !wanted.contains(n) && self.world.identity(*n).is_none())
    }

    fn concerned(&self, n: usize) -> Vec<usize> {
        match self.fault.kind {
            FaultKind::KillAll
            | FaultKind::PowerCutAll
            | FaultKind::RollingRestart
            | FaultKind::Ring
            | FaultKind::Swizzle => self.world.wanted(),
            FaultKind::CutLink => vec![n, ways::neighbour(&self.world, n)],
            FaultKind::Partition => ways::side(&self.world, n, self.fault.count()),
            _ => vec![n],
        }
    }

    /// Whether there was anything to hit.
    async fn happen(&self, n: usize) -> bool {
        let (world, fault) = (&self.world, &self.fault);
        let amount = fault.count();
        match fault.kind {
            FaultKind::Kill => self.down(&[n], false).await,
            FaultKind::PowerCut => self.down(&[n], true).await,
            FaultKind::KillAll => self.down(&world.wanted(), false).await,
            FaultKind::PowerCutAll => self.down(&world.wanted(), true).await,
            FaultKind::CrashLoop => self.crash_loop(n).await,
            FaultKind::Pause => self.pause(n).await,
            FaultKind::SlowCpu => self.slow_cpu(n).await,
            FaultKind::Drain => {
                world.hold(n);
                let stopped = world.drain(n).await;
                time::sleep(fault.lasts()).await;
                world.release(n);
                stopped
            }
            FaultKind::RollingRestart => self.rolling_restart().await,
            FaultKind::Wipe => self.wipe(n).await,
            FaultKind::Isolate => self.weaken(Ways::of_host(world, n), Weakness::Cut).await,
            FaultKind::CutOut => self.weaken(Ways::out_of(world, n), Weakness::Cut).await,
            FaultKind::CutIn => self.weaken(Ways::into(world, n), Weakness::Cut).await,
            FaultKind::CutLink => {
                let other = ways::neighbour(world, n);
                self.weaken(Ways::between(world, &[n], &[other]), Weakness::Cut).await
            }
            FaultKind::Partition => self.weaken(Ways::partition(world, n, amount), Weakness::Cut).await,
            FaultKind::Ring => self.weaken(Ways::ring(world), Weakness::Cut).await,
            FaultKind::Swizzle => ways::swizzle(world, &self.dice, fault.lasts()).await,
            FaultKind::HangingConnects => self.weaken(Ways::into(world, n), Weakness::HangingConnects).await,
            FaultKind::Reset => ways::reset(world, n),
            FaultKind::Forget => ways::forget(world, n),
            FaultKind::SlowLinks => self.weaken(Ways::of_host(world, n), Weakness::SlowMs(amount)).await,
            FaultKind::Loss => self.weaken(Ways::of_host(world, n), Weakness::LossPercent(amount)).await,
            FaultKind::Narrow => self.weaken(Ways::of_host(world, n), Weakness::KibPerS(amount)).await,
            FaultKind::FsyncError => self.trouble(n, Trouble::SyncFails).await,
            FaultKind::DiskError => self.trouble(n, Trouble::Fails).await,
            FaultKind::DiskFull => self.trouble(n, Trouble::Full).await,
            FaultKind::SlowDisk => self.trouble(n, Trouble::SlowMs(amount)).await,
            FaultKind::BitFlip => self.flip_bits(n).await,
            FaultKind::OldCopy => {
                self.old_copy(n).await;
                true
            }
            FaultKind::LostHalf => self.lost_half(n).await,
            FaultKind::ClockJump => {
                world.machine(n).clock.jump(fault.amount);
                true
            }
            FaultKind::TransferLeader => operator::transfer(world).await,
            FaultKind::LeaderChurn => self.leader_churn().await,
            FaultKind::AddNode => {
                world.set_wanted(n, true);
                world.boot(n);
                operator::until_ready(world, n).await;
                true
            }
            FaultKind::RemoveNode => self.remove(n).await,
            FaultKind::Breaker => {
                operator::breaker(world, fault.lasts()).await;
                true
            }
        }
    }

    // Processes.

    async fn down(&self, machines: &[usize], power: bool) -> bool {
        let mut hit = false;
        for &n in machines {
            self.world.hold(n);
            hit |= self.world.kill(n, power);
        }
        time::sleep(self.fault.lasts()).await;
        machines.iter().for_each(|&n| self.world.release(n));
        hit
    }

    async fn crash_loop(&self, n: usize) -> bool {
        let end = time::now() + time::nanos(self.fault.lasts());
        let mut hit = false;
        while time::now() < end {
            hit |= self.world.kill(n, false);
            self.world.boot(n);
            time::sleep(Duration::from_millis(self.dice.between(1, self.fault.count().max(1)))).await;
        }
        hit
    }

    /// The machine stands still, and its system with it: it answers nothing.
    async fn pause(&self, n: usize) -> bool {
        self.world.hold(n);
        let stalled = self.world.stall(n);
        self.weaken(Ways::of_host(&self.world, n), Weakness::Cut).await;
        if let Some(process) = stalled {
            self.world.unstall(n, process);
        }
        self.world.release(n);
        stalled.is_some()
    }

    async fn slow_cpu(&self, n: usize) -> bool {
        let end = time::now() + time::nanos(self.fault.lasts());
        let mut hit = false;
        let a_while = || Duration::from_millis(self.dice.between(1, self.fault.count().max(1)));
        while time::now() < end {
            let stalled = self.world.stall(n);
            hit |= stalled.is_some();
            time::sleep(a_while()).await;
            if let Some(process) = stalled {
                self.world.unstall(n, process);
            }
            time::sleep(a_while()).await;
        }
        hit
    }

    async fn rolling_restart(&self) -> bool {
        let mut hit = false;
        for n in self.world.wanted() {
            self.world.hold(n);
            hit |= self.world.drain(n).await;
            time::sleep(Duration::from_millis(self.dice.between(10, 1_000))).await;
            self.world.release(n);
            operator::until_ready(&self.world, n).await;
        }
        hit
    }

    async fn leader_churn(&self) -> bool {
        let end = time::now() + time::nanos(self.fault.lasts());
        let mut hit = false;
        while time::now() < end {
            hit |= operator::transfer(&self.world).await;
            time::sleep(Duration::from_millis(self.fault.count())).await;
        }
        hit
    }

    // Places.

    async fn wipe(&self, n: usize) -> bool {
        self.world.set_replacing(n, true);
        self.world.hold(n);
        let hit = self.world.kill(n, true);
        time::sleep(self.fault.lasts()).await;
        self.world.release_only(n);
        let world = self.world.clone();
        // Apart: what takes long is judged when faults are over.
        tokio::spawn(async move { operator::replace(&world, n).await });
        hit
    }

    async fn remove(&self, n: usize) -> bool {
        let world = &self.world;
        world.set_replacing(n, true);
        world.set_wanted(n, false);
        let stopped = world.drain(n).await;
        if let Some(old) = world.wipe(n) {
            operator::remove(world, &old).await;
        }
        if self.fault.lasts_ms > 0 {
            time::sleep(self.fault.lasts()).await;
            world.set_wanted(n, true);
            world.boot(n);
        }
        world.set_replacing(n, false);
        stopped
    }

    // Disks.

    async fn trouble(&self, n: usize, trouble: Trouble) -> bool {
        let disk = &self.world.machine(n).disk;
        disk.begin_trouble(trouble);
        time::sleep(self.fault.lasts()).await;
        disk.end_trouble(trouble)
    }

    async fn flip_bits(&self, n: usize) -> bool {
        let mut hit = false;
        for _ in 0..self.fault.count() {
            let at = self.world.machine(n).disk.flip_bit();
            hit |= at.is_some();
            self.world.trace().event("bit_flip", json!({ "node": self.world.machine(n).name, "at": at }));
        }
        time::sleep(self.fault.lasts()).await;
        self.world.kill(n, false);
        self.world.boot(n);
        hit
    }

    /// See [`model`]: the others know all that was committed, and lead, before the copy is there.
    async fn old_copy(&self, n: usize) {
        let world = &self.world;
        let copy = world.machine(n).disk.copy();
        for _ in 0..self.fault.count() {
            world.kill(n, false);
            world.boot(n);
            operator::until_ready(world, n).await;
        }
        time::sleep(self.fault.lasts()).await;
        world.hold(n);
        world.kill(n, true);
        let others: Vec<_> = world.wanted().into_iter().filter(|&other| other != n).collect();
        while !observe::is_calm(world, &others) {
            time::sleep(LOOK).await;
        }
        world.machine(n).disk.restore(copy);
        world.release(n);
        let deadline = time::now() + time::nanos(REFUSED_WITHIN);
        while time::now() < deadline {
            time::sleep(LOOK).await;
            if !world.machine(n).disk.is_spoilt() && !world.is_replacing() {
                // It was refused, and a new node is in its place.
                return;
            }
            if observe::is_calm(world, &world.wanted()) {
                // No later boot was known, so it is as if it had only been away.
                world.machine(n).disk.trust();
                return;
            }
        }
    }

    async fn lost_half(&self, n: usize) -> bool {
        let half = if self.fault.amount == 0 { Half::Records } else { Half::Objects };
        self.world.hold(n);
        self.world.kill(n, true);
        let hit = self.world.machine(n).disk.lose(half);
        time::sleep(self.fault.lasts()).await;
        self.world.release(n);
        hit
    }

    // Links.

    async fn weaken(&self, ways: Ways, weakness: Weakness) -> bool {
        let before = ways.given(&self.world, weakness);
        ways.set(&self.world, weakness, true);
        time::sleep(self.fault.lasts()).await;
        ways.set(&self.world, weakness, false);
        ways.given(&self.world, weakness) > before
    }
}
