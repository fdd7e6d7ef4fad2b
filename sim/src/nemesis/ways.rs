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

    /// How much they were given so far that such a weakness would have to do with.
    pub fn given(&self, world: &World, weakness: Weakness) -> u64 {
        self.0.iter().map(|&(from, to)| world.network().given(from, to, weakness)).sum()
    }

    /// Weakens all of them, or ends that.
    pub fn set(&self, world: &World, weakness: Weakness, on: bool) {
        for &(from, to) in &self.0 {
            world.network().set_way(from, to, weakness, on);
        }
    }
}

/// Resets all streams of a machine; whether it had any.
pub fn reset(world: &World, n: usize) -> bool {
    let host = world.machine(n).host;
    let had = world.network().streams_of(host) > 0;
    others(world, n).into_iter().for_each(|other| world.network().reset_between(host, other));
    had
}

/// Makes all streams of a machine fall silent; whether it had any.
pub fn forget(world: &World, n: usize) -> bool {
    let host = world.machine(n).host;
    let had = world.network().streams_of(host) > 0;
    others(world, n).into_iter().for_each(|other| world.network().forget_between(host, other));
    had
}

/// Cuts the nodes off from each other one by one, and joins them in another order; whether anything was sent where
/// it was cut.
pub async fn swizzle(world: &World, dice: &Dice, lasts: Duration) -> bool {
    let all = world.wanted();
    let mut hit = false;
    let mut pending: Vec<_> = all.iter().map(|&n| (Ways::between(world, &[n], &all), 0)).collect();
    let pause = || {
        let most = time::nanos(lasts) / (2 * all.len() as u64);
        Duration::from_nanos(dice.between(0, 2 * most))
    };
    let mut cut = Vec::new();
    for on in [true, false] {
        let mut from = std::mem::take(if on { &mut pending } else { &mut cut });
        while !from.is_empty() {
            let (ways, before) = from.swap_remove(dice.between(0, from.len() as u64 - 1) as usize);
            ways.set(world, Weakness::Cut, on);
            let given = ways.given(world, Weakness::Cut);
            if on {
                cut.push((ways, given));
            } else {
                hit |= given > before;
            }
            time::sleep(pause()).await;
        }
    }
    hit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Journal;
    use crate::plan::Plan;
    use crate::trace::Trace;

    fn world(nodes: usize) -> World {
        World::new(&Plan { nodes, ..Plan::default() }, Trace::default(), Journal::default())
    }

    #[test]
    fn a_ring_leaves_each_node_its_two_neighbours() {
        let Ways(cut) = Ways::ring(&world(5));
        for n in 0..5 {
            let lost: Vec<_> = cut.iter().filter(|(from, _)| *from == n).map(|&(_, to)| to).collect();
            assert_eq!(lost.len(), 2, "n{n}: {lost:?}");
            assert!(!lost.contains(&((n + 1) % 5)) && !lost.contains(&((n + 4) % 5)), "n{n}: {lost:?}");
            assert!(lost.iter().all(|&to| cut.contains(&(to, n))), "both ways");
        }
        assert!(Ways::ring(&world(3)).0.is_empty(), "of three each is every other's neighbour");
    }

    #[test]
    fn a_partition_cuts_a_side_off_and_leaves_each_side_whole() {
        let Ways(mut cut) = Ways::partition(&world(5), 4, 2);
        cut.sort_unstable();
        let apart = |(from, to): &(Host, Host)| [0, 4].contains(from) != [0, 4].contains(to);
        let all = (0..5).flat_map(|from| (0..5).map(move |to| (from, to)));
        assert_eq!(cut, all.filter(apart).collect::<Vec<_>>(), "n4 and the next one, n0");
    }
}
