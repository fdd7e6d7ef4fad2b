//! What goes wrong with machines and ways, and what streams make of it.

use std::net::SocketAddr;
use std::time::Duration;

use super::Switch;
use crate::evidence::{self, Undergone};
use crate::net::conn::{End, Standing};
use crate::net::links::Weakness;
use crate::net::{Host, Later};
use crate::time::{nanos, now};

/// A machine that is back hears again within this from those who still send to it.
const RETRANSMIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));

impl Switch {
    /// How many streams a machine's process has with other machines.
    pub fn streams_of(&self, host: Host) -> usize {
        let ends = self.open_ends(host).into_iter();
        ends.filter(|&(id, side)| self.conns[&id].ends[1 - side].process.host != host).count()
    }

    pub fn weaknesses(&self) -> usize {
        self.links.weaknesses()
    }

    /// How much a way was given so far that such a weakness would have to do with.
    pub fn given(&self, from: Host, to: Host, weakness: Weakness) -> u64 {
        self.links.given(from, to, weakness)
    }

    /// A machine is back and knows nothing of its streams: it resets those that have sent to it.
    pub(super) fn forget_lost(&mut self, host: Host, later: &mut Later) {
        let (low, high) = RETRANSMIT;
        let soon = now() + self.dice.between(nanos(low), nanos(high));
        for conn in self.conns.values_mut().filter(|conn| !conn.forgotten) {
            for side in [0, 1] {
                if conn.ends[side].process.host == host && conn.ends[side].standing == Standing::Lost {
                    conn.ends[side].standing = Standing::Closed;
                    if !conn.pipes[1 - side].is_empty() || conn.pipes[1 - side].is_ended() {
                        conn.reset(1 - side, soon);
                        conn.ends[1 - side].wake(later);
                    }
                }
            }
        }
    }

    pub fn kill(&mut self, host: Host, later: &mut Later) {
        self.machines[host].running = false;
        let ids = self.open_ends(host);
        for (id, side) in ids {
            self.close(id, side, later);
        }
        self.drop_listeners(host, later);
    }

    pub fn power_off(&mut self, host: Host, later: &mut Later) {
        self.machines[host].running = false;
        self.machines[host].powered = false;
        for (id, side) in self.open_ends(host) {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.ends[side].standing = Standing::Lost;
                evidence::note(Undergone::PowerCut);
            }
        }
        self.drop_listeners(host, later);
        self.conns.retain(|_, conn| !conn.is_over());
    }

    fn open_ends(&self, host: Host) -> Vec<(u64, usize)> {
        let open = |end: &End| end.process.host == host && end.standing == Standing::Open;
        self.conns
            .iter()
            .flat_map(|(&id, conn)| {
                [0, 1].into_iter().filter(move |&side| open(&conn.ends[side])).map(move |side| (id, side))
            })
            .collect()
    }

    fn drop_listeners(&mut self, host: Host, later: &mut Later) {
        let addrs: Vec<_> =
            self.listeners.iter().filter(|(_, at)| at.process.host == host).map(|(&addr, _)| addr).collect();
        for addr in addrs {
            self.remove_listener(addr, later);
        }
    }

    pub(super) fn remove_listener(&mut self, addr: SocketAddr, later: &mut Later) {
        let Some(mut listening) = self.listeners.remove(&addr) else { return };
        later.wake(&mut listening.accepter);
        for (id, _) in listening.queue {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.ends[1].abort_on_drop = true;
            }
            self.close(id, 1, later);
        }
    }

    /// Weakens a way for as long as a fault lasts, or ends that. What a cut held back is sent again
    /// some time after it ends.
    pub fn set_way(&mut self, from: Host, to: Host, weakness: Weakness, on: bool, later: &mut Later) {
        let was_cut = self.links.is_cut(from, to);
        self.links.set(from, to, weakness, on);
        if !was_cut || self.links.is_cut(from, to) {
            return;
        }
        for conn in self.conns.values_mut().filter(|conn| !conn.forgotten) {
            for side in [0, 1] {
                if conn.ends[side].process.host != from || conn.ends[1 - side].process.host != to {
                    continue;
                }
                let Some(since) = conn.pipes[side].held_since() else { continue };
                let arrives = self.links.retry_after_cut(since);
                conn.pipes[side].release(arrives);
                if conn.ends[1 - side].standing == Standing::Closed && !conn.pipes[side].is_empty() {
                    conn.reset(side, arrives + self.links.latency(to, from));
                    conn.ends[side].wake(later);
                }
                conn.ends[1 - side].wake(later);
            }
        }
    }

    /// Something on the way resets all streams between two machines.
    pub fn reset_between(&mut self, one: Host, other: Host, later: &mut Later) {
        for conn in self.conns.values_mut() {
            let hosts = [conn.ends[0].process.host, conn.ends[1].process.host];
            if hosts != [one, other] && hosts != [other, one] {
                continue;
            }
            for side in [0, 1] {
                conn.reset(side, now() + self.links.latency(hosts[1 - side], hosts[side]));
                conn.ends[side].wake(later);
            }
            evidence::note(Undergone::Streams);
        }
    }

    /// Something on the way forgets all streams between two machines, and drops what belongs to them.
    pub fn forget_between(&mut self, one: Host, other: Host, later: &mut Later) {
        for conn in self.conns.values_mut() {
            let hosts = [conn.ends[0].process.host, conn.ends[1].process.host];
            if hosts == [one, other] || hosts == [other, one] {
                conn.forget(now());
                // Whoever waits for what was on its way waits for more.
                conn.ends.iter_mut().for_each(|end| end.wake(later));
                evidence::note(Undergone::Streams);
            }
        }
    }
}
