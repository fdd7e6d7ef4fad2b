//! Faults of the ways between machines.

use std::time::Duration;

use crate::dice::Dice;
use crate::net::{Host, Weakness};
use crate::time;
use crate::world::World;

/// Some ways between machines, each from one to another.
pub struct Ways(Vec<(Host, Host)>);

/// The next machine of the cluster after `n`.
pub fn neighbour(world: &World, n: usize) -> usize {
    let wanted = world.wanted();
    wanted.iter().copied().find(|&other| other > n).or(wanted.first().copied()).unwrap_or(n)
}

/// `count` machines from `n` on, never all of them.
pub fn side(world: &World, n: usize, count: u64) -> Vec<usize> {
    let most = world.wanted().len().saturating_sub(1).max(1);
    let mut side = vec![n];
    while side.len() < most.min(count.max(1) as usize) {
        side.push(neighbour(world, side[side.len() - 1]));
    }
    side
}

fn others(world: &World, n: usize) -> Vec<Host> {
    let host = world.machine(n).host;
    (0..world.network().hosts()).filter(|&other| other != host).collect()
}

impl Ways {
    /// From a machine to all others, clients included.
    pub fn out_of(world: &World, n: usize) -> Self {
        Self(others(world, n).into_iter().map(|other| (world.machine(n).host, other)).collect())
    }

    /// From all others, clients included, to a machine.
    pub fn into(world: &World, n: usize) -> Self {
        Self(others(world, n).into_iter().map(|other| (other, world.machine(n).host)).collect())
    }

    /// Both.
    pub fn of_host(world: &World, n: usize) -> Self {
        Self([Self::out_of(world, n).0, Self::into(world, n).0].concat())
    }

    /// Between each of some nodes and each of some others, both ways.
    pub fn between(world: &World, some: &[usize], others: &[usize]) -> Self {
        let host = |n: usize| world.machine(n).host;
        let pairs = some.iter().flat_map(|&one| others.iter().map(move |&other| (one, other)));
        let pairs = pairs.filter(|(one, other)| one != other);
        Self(pairs.flat_map(|(one, other)| [(host(one), host(other)), (host(other), host(one))]).collect())
    }

    /// Between `count` nodes from `n` on and the rest.
    pub fn partition(world: &World, n: usize, count: u64) -> Self {
        let side = side(world, n, count);
        let rest: Vec<_> = world.wanted().into_iter().filter(|other| !side.contains(other)).collect();
        Self::between(world, &side, &rest)
    }

    /// Between all nodes that are no neighbours in a ring.
    pub fn ring(world: &World) -> Self {
        let all = world.wanted();
        let mut ways = Vec::new();
        for (at, &one) in all.iter().enumerate() {
            for (other_at, &other) in all.iter().enumerate().skip(at + 2) {
                if (other_at + 1) % all.len() != at {
                    ways.extend(Self::between(world, &[one], &[other]).0);
                }
            }
        }
        Self(ways)
    }

    /// Weakens all of them, or ends that.
    pub fn set(&self, world: &World, weakness: Weakness, on: bool) {
        for &(from, to) in &self.0 {
            world.network().set_way(from, to, weakness, on);
        }
    }
}

/// Resets all streams of a machine.
pub fn reset(world: &World, n: usize) {
    for other in others(world, n) {
        world.network().reset_between(world.machine(n).host, other);
    }
}

/// Makes all streams of a machine fall silent.
pub fn forget(world: &World, n: usize) {
    for other in others(world, n) {
        world.network().forget_between(world.machine(n).host, other);
    }
}

/// Cuts the nodes off from each other one by one, and joins them in another order.
pub async fn swizzle(world: &World, dice: &Dice, lasts: Duration) {
    let all = world.wanted();
    let mut pending: Vec<_> = all.iter().map(|&n| Ways::between(world, &[n], &all)).collect();
    let pause = || {
        let most = time::nanos(lasts) / (2 * all.len() as u64);
        Duration::from_nanos(dice.between(0, 2 * most))
    };
    let mut cut = Vec::new();
    for on in [true, false] {
        let mut from = std::mem::take(if on { &mut pending } else { &mut cut });
        while !from.is_empty() {
            let ways = from.swap_remove(dice.between(0, from.len() as u64 - 1) as usize);
            ways.set(world, Weakness::Cut, on);
            if on {
                cut.push(ways);
            }
            time::sleep(pause()).await;
        }
    }
}
