//! What the network knows and does, under one lock.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use super::conn::{Conn, End, Standing, Wait};
use super::links::{Links, Weakness};
use super::pipe::{TINY_WINDOW, WINDOW};
use super::{Host, Later, Life, Listeners, host_of, ip};
use crate::dice::Dice;
use crate::evidence::{self, Undergone};
use crate::time::{NEVER, nanos, now, wake_at};
use crate::trace::Trace;

/// Requests to connect that wait to be accepted.
const BACKLOG: usize = 4096;
/// First port for those that ask for any.
const FIRST_PORT: u16 = 32_768;
/// A machine that is back hears again within this from those who still send to it.
const RETRANSMIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));
/// What streams have to do with.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    /// Bytes at either end.
    window: usize,
    /// One write in so many is taken, one read in so many given, only in part.
    partial_one_in: u64,
}

impl Buffers {
    /// As systems have them.
    pub const USUAL: Self = Self { window: WINDOW, partial_one_in: 8 };
    /// So small that whatever can wait does.
    pub const TINY: Self = Self { window: TINY_WINDOW, partial_one_in: 2 };

    /// Some of `len`, mostly all of it.
    fn part(self, len: usize, dice: &Dice) -> usize {
        if len > 1 && dice.one_in(self.partial_one_in) { dice.between(1, len as u64) as usize } else { len }
    }
}

/// A listening address.
pub struct Listening {
    life: Life,
    /// Streams not yet accepted, and by whom they were opened.
    queue: VecDeque<(u64, SocketAddr)>,
    accepter: Option<Waker>,
}

struct Machine {
    powered: bool,
    /// Its current process, or its last one.
    life: u64,
    running: bool,
    next_port: u16,
}

/// The answer to a request to connect.
pub enum Asked {
    /// A stream; the answer arrives after this long.
    Opened(u64, Duration),
    /// Nobody listens; the answer arrives after this long.
    Refused(Duration),
    /// No answer.
    Lost,
}

/// See the module.
pub struct Switch {
    machines: Vec<Machine>,
    links: Links,
    listeners: Listeners,
    conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    pub buffers: Buffers,
    dice: Dice,
    trace: Trace,
}

fn dead() -> io::Error {
    io::Error::new(ErrorKind::NotConnected, "this process is dead")
}

impl Switch {
    pub fn new(dice: Dice, trace: Trace) -> Self {
        Self {
            machines: Vec::new(),
            links: Links::new(dice.clone()),
            listeners: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            buffers: Buffers::USUAL,
            dice,
            trace,
        }
    }

    pub fn add_host(&mut self) -> (Host, IpAddr) {
        let host = self.machines.len();
        self.machines.push(Machine { powered: true, life: 0, running: false, next_port: FIRST_PORT });
        self.links.add_host();
        (host, ip(host))
    }

    pub fn streams(&self) -> usize {
        self.conns.len()
    }

    pub fn weaknesses(&self) -> usize {
        self.links.weaknesses()
    }

    pub fn hosts(&self) -> usize {
        self.machines.len()
    }

    pub fn start(&mut self, host: Host, later: &mut Later) -> Life {
        let machine = &mut self.machines[host];
        assert!(!machine.running, "machine {host} already runs a process");
        machine.life += 1;
        machine.running = true;
        let life = Life { host, number: machine.life };
        if !std::mem::replace(&mut machine.powered, true) {
            self.forget_lost(host, later);
        }
        life
    }

    /// A machine is back and knows nothing of its streams: it resets those that have sent to it.
    fn forget_lost(&mut self, host: Host, later: &mut Later) {
        let (low, high) = RETRANSMIT;
        let soon = now() + self.dice.between(nanos(low), nanos(high));
        for conn in self.conns.values_mut().filter(|conn| !conn.forgotten) {
            for side in [0, 1] {
                if conn.ends[side].life.host == host && conn.ends[side].standing == Standing::Lost {
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
            }
        }
        self.drop_listeners(host, later);
        self.conns.retain(|_, conn| !conn.is_over());
    }

    fn open_ends(&self, host: Host) -> Vec<(u64, usize)> {
        let open = |end: &End| end.life.host == host && end.standing == Standing::Open;
        self.conns
            .iter()
            .flat_map(|(&id, conn)| {
                [0, 1].into_iter().filter(move |&side| open(&conn.ends[side])).map(move |side| (id, side))
            })
            .collect()
    }

    fn drop_listeners(&mut self, host: Host, later: &mut Later) {
        let addrs: Vec<_> =
            self.listeners.iter().filter(|(_, at)| at.life.host == host).map(|(&addr, _)| addr).collect();
        for addr in addrs {
            self.remove_listener(addr, later);
        }
    }

    fn remove_listener(&mut self, addr: SocketAddr, later: &mut Later) {
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
                if conn.ends[side].life.host != from || conn.ends[1 - side].life.host != to {
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
        evidence::note(Undergone::Streams);
        for conn in self.conns.values_mut() {
            let hosts = [conn.ends[0].life.host, conn.ends[1].life.host];
            if hosts != [one, other] && hosts != [other, one] {
                continue;
            }
            for side in [0, 1] {
                conn.reset(side, now() + self.links.latency(hosts[1 - side], hosts[side]));
                conn.ends[side].wake(later);
            }
        }
    }

    /// Something on the way forgets all streams between two machines, and drops what belongs to them.
    pub fn forget_between(&mut self, one: Host, other: Host, later: &mut Later) {
        evidence::note(Undergone::Streams);
        for conn in self.conns.values_mut() {
            let hosts = [conn.ends[0].life.host, conn.ends[1].life.host];
            if hosts == [one, other] || hosts == [other, one] {
                conn.forget(now());
                // Whoever waits for what was on its way waits for more.
                conn.ends.iter_mut().for_each(|end| end.wake(later));
            }
        }
    }

    fn alive(&self, life: Life) -> io::Result<()> {
        let machine = &self.machines[life.host];
        if machine.running && machine.life == life.number { Ok(()) } else { Err(dead()) }
    }

    // Listening and connecting.

    pub fn listen(&mut self, life: Life, mut addr: SocketAddr) -> io::Result<SocketAddr> {
        self.alive(life)?;
        if addr.ip().is_unspecified() || addr.ip().is_loopback() {
            addr.set_ip(ip(life.host));
        }
        if addr.ip() != ip(life.host) {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        if addr.port() == 0 {
            addr.set_port(self.free_port(life.host));
        }
        if self.listeners.contains_key(&addr) {
            return Err(ErrorKind::AddrInUse.into());
        }
        self.listeners.insert(addr, Listening { life, queue: VecDeque::new(), accepter: None });
        Ok(addr)
    }

    fn free_port(&mut self, host: Host) -> u16 {
        loop {
            let machine = &mut self.machines[host];
            let port = machine.next_port;
            machine.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.listeners.contains_key(&SocketAddr::new(ip(host), port)) {
                return port;
            }
        }
    }

    pub fn unlisten(&mut self, life: Life, addr: SocketAddr, later: &mut Later) {
        if self.listeners.get(&addr).is_some_and(|listening| listening.life == life) {
            self.remove_listener(addr, later);
        }
    }

    pub fn accept(&mut self, life: Life, addr: SocketAddr) -> io::Result<Option<(u64, SocketAddr)>> {
        self.alive(life)?;
        Ok(self.listeners.get_mut(&addr).ok_or_else(dead)?.queue.pop_front())
    }

    pub fn wait_accept(&mut self, addr: SocketAddr, waker: Waker) {
        if let Some(listening) = self.listeners.get_mut(&addr) {
            listening.accepter = Some(waker);
        }
    }

    fn host_at(&self, life: Life, addr: SocketAddr) -> Option<Host> {
        if addr.ip().is_loopback() {
            return Some(life.host);
        }
        host_of(addr.ip()).filter(|&host| host < self.machines.len())
    }

    /// How long a request to connect to `addr` takes; `None` when it gets no answer.
    pub fn way(&mut self, life: Life, addr: SocketAddr) -> io::Result<Option<Duration>> {
        self.alive(life)?;
        let Some(host) = self.host_at(life, addr) else { return Ok(None) };
        let silent = !self.machines[host].powered
            || self.links.loses_connects(life.host, host)
            || self.links.loses_connects(host, life.host)
            || self.links.loses_one(life.host, host);
        Ok((!silent).then(|| Duration::from_nanos(self.links.latency(life.host, host))))
    }

    /// A request to connect arrives.
    pub fn ask(&mut self, life: Life, addr: SocketAddr, later: &mut Later) -> io::Result<Asked> {
        if self.way(life, addr)?.is_none() {
            return Ok(Asked::Lost);
        }
        let Some(host) = self.host_at(life, addr) else { return Ok(Asked::Lost) };
        let back = Duration::from_nanos(self.links.latency(host, life.host));
        let client = SocketAddr::new(ip(life.host), self.free_port(life.host));
        let Some(listening) = self.listeners.get_mut(&SocketAddr::new(ip(host), addr.port())) else {
            return Ok(Asked::Refused(back));
        };
        if listening.queue.len() >= BACKLOG {
            return Ok(Asked::Lost);
        }
        let id = self.next_conn;
        self.next_conn += 1;
        self.conns.insert(id, Conn::new(End::new(life), End::new(listening.life), self.buffers.window));
        listening.queue.push_back((id, client));
        later.wake(&mut listening.accepter);
        self.trace.detail("connect", &[id, life.host as u64, host as u64], b"");
        Ok(Asked::Opened(id, back))
    }

    // Streams.

    /// The stream, if this end of it is still its process's.
    pub fn conn(&mut self, id: u64, side: usize) -> io::Result<&mut Conn> {
        self.conns.get_mut(&id).filter(|conn| conn.ends[side].standing == Standing::Open).ok_or_else(dead)
    }

    pub fn write(
        &mut self,
        id: u64,
        side: usize,
        bytes: &[u8],
        waker: &Waker,
        later: &mut Later,
    ) -> io::Result<Result<usize, Wait>> {
        let now = now();
        let conn = self.conn(id, side)?;
        let room = match conn.room(side, now, later)? {
            Ok(room) => room,
            Err(wait) => {
                conn.ends[side].writer = Some(waker.clone());
                return Ok(Err(wait));
            }
        };
        let (from, to, peer) = (conn.ends[side].life.host, conn.ends[1 - side].life.host, conn.ends[1 - side].standing);
        let len = self.buffers.part(room.min(bytes.len()), &self.dice);
        let bytes = Bytes::copy_from_slice(&bytes[..len]);
        self.trace.detail("write", &[id, side as u64], &bytes);
        let arrives = self.arrival(id, from, to, len);
        // A reset is not repeated: what a cut stops is lost.
        let answered = match peer {
            Standing::Closed if arrives != NEVER && !self.links.is_cut(to, from) => {
                arrives + self.links.latency(to, from)
            }
            _ => NEVER,
        };
        let conn = self.conn(id, side)?;
        if peer == Standing::Closed && arrives != NEVER {
            conn.reset(side, answered);
            conn.ends[side].wake(later);
        } else {
            // Whoever waits for what was sent before looks again anyway.
            let is_first = conn.pipes[side].is_empty();
            let arrives = conn.pipes[side].push(now, arrives, bytes);
            if let Some(reader) = conn.ends[1 - side].reader.as_ref().filter(|_| is_first && arrives != NEVER) {
                wake_at(arrives, reader);
            }
        }
        Ok(Ok(len))
    }

    pub fn read(
        &mut self,
        id: u64,
        side: usize,
        limit: usize,
        waker: &Waker,
        later: &mut Later,
    ) -> io::Result<Result<Bytes, Wait>> {
        let (buffers, dice) = (self.buffers, self.dice.clone());
        let conn = self.conn(id, side)?;
        let found = conn.read(side, now(), || buffers.part(limit, &dice), later)?;
        if found.is_err() {
            conn.ends[side].reader = Some(waker.clone());
        }
        Ok(found)
    }

    /// When `len` bytes sent now on this stream arrive.
    fn arrival(&mut self, id: u64, from: Host, to: Host, len: usize) -> u64 {
        match self.conns.get(&id) {
            Some(conn) if conn.forgotten => NEVER,
            _ => self.links.arrival(from, to, len),
        }
    }

    pub fn shutdown(&mut self, id: u64, side: usize, later: &mut Later) -> io::Result<()> {
        let conn = self.conn(id, side)?;
        let (from, to) = (conn.ends[side].life.host, conn.ends[1 - side].life.host);
        let arrives = self.arrival(id, from, to, 0);
        let conn = self.conn(id, side)?;
        if !conn.pipes[side].is_ended() {
            conn.pipes[side].finish(now(), arrives);
            conn.ends[1 - side].wake(later);
        }
        Ok(())
    }

    /// An end is dropped, by its process or with it.
    pub fn close(&mut self, id: u64, side: usize, later: &mut Later) {
        let Ok(conn) = self.conn(id, side) else { return };
        let (from, to) = (conn.ends[side].life.host, conn.ends[1 - side].life.host);
        let (there, back) = (self.arrival(id, from, to, 0), self.links.latency(to, from));
        self.trace.detail("close", &[id, side as u64], b"");
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.close(side, now(), there, back, later);
        if conn.is_over() {
            self.conns.remove(&id);
        }
    }
}
