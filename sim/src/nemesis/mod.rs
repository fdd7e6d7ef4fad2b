//! Makes a plan's faults happen, and undoes each after its time.
//!
//! Invariant: what a fault began it ends itself, and nothing of it is left then but what production
//! code has to mend. Each is told to the trace when it begins and ends, or why it was left out.

mod draw;
mod kind;
mod links;
mod model;
pub mod operator;

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
pub use kind::Kind;
use links::Ways;
use model::Ward;

/// How long a fault waits for leave to begin, if the model says not now.
const LEAVE_WITHIN: Duration = Duration::from_secs(20);
/// How long an old copy may take to be refused and replaced, or to catch up.
const REFUSED_WITHIN: Duration = Duration::from_secs(60);
/// How often one who waits looks.
const LOOK: Duration = Duration::from_millis(100);

/// Makes all faults of a plan happen; returns when the last is over.
pub async fn run(world: &World, plan: &Plan) {
    let ward = Arc::new(Mutex::new(Ward::default()));
    let all = plan.faults.iter().enumerate().map(|(id, fault)| {
        let dice = Dice::new(plan.seed, &format!("fault {id}"));
        Running { world: world.clone(), fault: fault.clone(), id, dice, ward: ward.clone() }.run()
    });
    join_all(all).await;
}

/// One fault.
struct Running {
    world: World,
    fault: Fault,
    id: usize,
    dice: Dice,
    ward: Arc<Mutex<Ward>>,
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
        self.happen(n).await;
        self.tell("end", &nodes, None);
        self.ward(|ward| ward.over(self.id));
    }

    fn ward<T>(&self, work: impl FnOnce(&mut Ward) -> T) -> T {
        work(&mut lock(&self.ward))
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
            let n = if self.fault.kind == Kind::AddNode { self.spare() } else { self.aim() };
            let admitted = match n {
                None => Err("there is nobody to hit"),
                Some(n) => {
                    let situation = operator::situation(&self.world, n);
                    self.ward(|ward| ward.admit(self.id, self.fault.kind, situation)).map(|()| n)
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
        let leader = operator::leader(&self.world).map(|(n, _)| n).filter(|n| wanted.contains(n));
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
            Kind::KillAll | Kind::PowerCutAll | Kind::RollingRestart | Kind::Ring | Kind::Swizzle => {
                self.world.wanted()
            }
            Kind::CutLink => vec![n, links::neighbour(&self.world, n)],
            Kind::Partition => links::side(&self.world, n, self.fault.count()),
            _ => vec![n],
        }
    }

    async fn happen(&self, n: usize) {
        let (world, fault) = (&self.world, &self.fault);
        let amount = fault.count();
        match fault.kind {
            Kind::Kill => self.down(&[n], false).await,
            Kind::PowerCut => self.down(&[n], true).await,
            Kind::KillAll => self.down(&world.wanted(), false).await,
            Kind::PowerCutAll => self.down(&world.wanted(), true).await,
            Kind::CrashLoop => self.crash_loop(n).await,
            Kind::Pause => self.pause(n).await,
            Kind::SlowCpu => self.slow_cpu(n).await,
            Kind::Drain => {
                world.hold(n);
                world.drain(n).await;
                time::sleep(fault.lasts()).await;
                world.release(n);
            }
            Kind::RollingRestart => self.rolling_restart().await,
            Kind::Wipe => self.wipe(n).await,
            Kind::Isolate => self.weaken(Ways::of_host(world, n), Weakness::Cut).await,
            Kind::CutOut => self.weaken(Ways::out_of(world, n), Weakness::Cut).await,
            Kind::CutIn => self.weaken(Ways::into(world, n), Weakness::Cut).await,
            Kind::CutLink => {
                let other = links::neighbour(world, n);
                self.weaken(Ways::between(world, &[n], &[other]), Weakness::Cut).await;
            }
            Kind::Partition => self.weaken(Ways::partition(world, n, amount), Weakness::Cut).await,
            Kind::Ring => self.weaken(Ways::ring(world), Weakness::Cut).await,
            Kind::Swizzle => links::swizzle(world, &self.dice, fault.lasts()).await,
            Kind::HangingConnects => self.weaken(Ways::into(world, n), Weakness::HangingConnects).await,
            Kind::Reset => links::reset(world, n),
            Kind::Forget => links::forget(world, n),
            Kind::SlowLinks => self.weaken(Ways::of_host(world, n), Weakness::SlowMs(amount)).await,
            Kind::Loss => self.weaken(Ways::of_host(world, n), Weakness::LossPercent(amount)).await,
            Kind::Narrow => self.weaken(Ways::of_host(world, n), Weakness::KibPerS(amount)).await,
            Kind::FsyncError => self.trouble(n, Trouble::SyncFails).await,
            Kind::DiskError => self.trouble(n, Trouble::Fails).await,
            Kind::DiskFull => self.trouble(n, Trouble::Full).await,
            Kind::SlowDisk => self.trouble(n, Trouble::SlowMs(amount)).await,
            Kind::BitFlip => self.flip_bits(n).await,
            Kind::OldCopy => self.old_copy(n).await,
            Kind::LostHalf => self.lost_half(n).await,
            Kind::ClockJump => world.machine(n).clock.jump(fault.amount),
            Kind::TransferLeader => drop(operator::transfer(world).await),
            Kind::LeaderChurn => self.leader_churn().await,
            Kind::AddNode => {
                world.set_wanted(n, true);
                world.boot(n);
                operator::until_ready(world, n).await;
            }
            Kind::RemoveNode => self.remove(n).await,
            Kind::Breaker => operator::breaker(world, fault.lasts()).await,
        }
    }

    // Processes.

    async fn down(&self, machines: &[usize], power: bool) {
        for &n in machines {
            self.world.hold(n);
            self.world.kill(n, power);
        }
        time::sleep(self.fault.lasts()).await;
        machines.iter().for_each(|&n| self.world.release(n));
    }

    async fn crash_loop(&self, n: usize) {
        let end = time::now() + time::nanos(self.fault.lasts());
        while time::now() < end {
            self.world.kill(n, false);
            self.world.boot(n);
            time::sleep(Duration::from_millis(self.dice.between(1, self.fault.count().max(1)))).await;
        }
    }

    /// The machine stands still, and its system with it: it answers nothing.
    async fn pause(&self, n: usize) {
        self.world.hold(n);
        let stalled = self.world.stall(n);
        self.weaken(Ways::of_host(&self.world, n), Weakness::Cut).await;
        if let Some(process) = stalled {
            self.world.unstall(n, process);
        }
        self.world.release(n);
    }

    async fn slow_cpu(&self, n: usize) {
        let end = time::now() + time::nanos(self.fault.lasts());
        let a_while = || Duration::from_millis(self.dice.between(1, self.fault.count().max(1)));
        while time::now() < end {
            let stalled = self.world.stall(n);
            time::sleep(a_while()).await;
            if let Some(process) = stalled {
                self.world.unstall(n, process);
            }
            time::sleep(a_while()).await;
        }
    }

    async fn rolling_restart(&self) {
        for n in self.world.wanted() {
            self.world.hold(n);
            self.world.drain(n).await;
            time::sleep(Duration::from_millis(self.dice.between(10, 1_000))).await;
            self.world.release(n);
            operator::until_ready(&self.world, n).await;
        }
    }

    async fn leader_churn(&self) {
        let end = time::now() + time::nanos(self.fault.lasts());
        while time::now() < end {
            operator::transfer(&self.world).await;
            time::sleep(Duration::from_millis(self.fault.count())).await;
        }
    }

    // Places.

    async fn wipe(&self, n: usize) {
        self.world.set_replacing(n, true);
        self.world.hold(n);
        self.world.kill(n, true);
        time::sleep(self.fault.lasts()).await;
        self.world.release_only(n);
        let world = self.world.clone();
        // Apart: what takes long is judged when faults are over.
        tokio::spawn(async move { operator::replace(&world, n).await });
    }

    async fn remove(&self, n: usize) {
        let world = &self.world;
        world.set_replacing(n, true);
        world.set_wanted(n, false);
        world.drain(n).await;
        if let Some(old) = world.wipe(n) {
            operator::remove(world, &old).await;
        }
        if self.fault.lasts_ms > 0 {
            time::sleep(self.fault.lasts()).await;
            world.set_wanted(n, true);
            world.boot(n);
        }
        world.set_replacing(n, false);
    }

    // Disks.

    async fn trouble(&self, n: usize, trouble: Trouble) {
        let disk = &self.world.machine(n).disk;
        disk.set_trouble(trouble, true);
        time::sleep(self.fault.lasts()).await;
        disk.set_trouble(trouble, false);
    }

    async fn flip_bits(&self, n: usize) {
        for _ in 0..self.fault.count() {
            let at = self.world.machine(n).disk.flip_bit();
            self.world.trace().event("bit_flip", json!({ "node": self.world.machine(n).name, "at": at }));
        }
        time::sleep(self.fault.lasts()).await;
        self.world.kill(n, false);
        self.world.boot(n);
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
        while !operator::is_calm(world, &others) {
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
            if operator::is_calm(world, &world.wanted()) {
                // No later boot was known, so it is as if it had only been away.
                world.machine(n).disk.trust();
                return;
            }
        }
    }

    async fn lost_half(&self, n: usize) {
        let half = if self.fault.amount == 0 { Half::Records } else { Half::Objects };
        self.world.hold(n);
        self.world.kill(n, true);
        self.world.machine(n).disk.lose(half);
        time::sleep(self.fault.lasts()).await;
        self.world.release(n);
    }

    // Links.

    async fn weaken(&self, ways: Ways, weakness: Weakness) {
        ways.set(&self.world, weakness, true);
        time::sleep(self.fault.lasts()).await;
        ways.set(&self.world, weakness, false);
    }
}
