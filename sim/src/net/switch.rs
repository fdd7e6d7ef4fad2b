//! What the network knows and does, under one lock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use super::conn::{Conn, End, Standing, Wait};
use super::{Host, Later, Life, Listeners, ip};
use crate::dice::Dice;
use crate::time::{NEVER, nanos, now};
use crate::trace::Trace;

/// Requests to connect that wait to be accepted.
const BACKLOG: usize = 4096;
/// First port for those that ask for any.
const FIRST_PORT: u16 = 32_768;
/// Latency within a machine, one way.
const LOCAL: Duration = Duration::from_micros(20);
/// Fixed part of a link's latency, one way: at least and at most.
const LINK: (Duration, Duration) = (Duration::from_micros(100), Duration::from_micros(800));
/// Most that one packet takes longer; one in [`TAIL_ONE_IN`] takes up to [`TAIL`] longer.
const JITTER: Duration = Duration::from_micros(200);
const TAIL: Duration = Duration::from_millis(10);
const TAIL_ONE_IN: u64 = 500;
/// After a cut ends, TCP tries again within this.
const RETRANSMIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));
/// One write in so many is taken, one read in so many given, only in part.
const PARTIAL_ONE_IN: u64 = 8;

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
    latency: BTreeMap<(Host, Host), u64>,
    cut: BTreeSet<(Host, Host)>,
    listeners: Listeners,
    conns: BTreeMap<u64, Conn>,
    next_conn: u64,
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
            latency: BTreeMap::new(),
            cut: BTreeSet::new(),
            listeners: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            dice,
            trace,
        }
    }

    pub fn add_host(&mut self) -> (Host, IpAddr) {
        let host = self.machines.len();
        self.machines.push(Machine { powered: true, life: 0, running: false, next_port: FIRST_PORT });
        for other in 0..host {
            for way in [(host, other), (other, host)] {
                self.latency.insert(way, self.dice.between(nanos(LINK.0), nanos(LINK.1)));
            }
        }
        self.latency.insert((host, host), nanos(LOCAL));
        (host, ip(host))
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
        for conn in self.conns.values_mut() {
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

    pub fn set_cut(&mut self, from: Host, to: Host, cut: bool, later: &mut Later) {
        if cut {
            self.cut.insert((from, to));
            return;
        }
        self.cut.remove(&(from, to));
        let (low, high) = RETRANSMIT;
        for conn in self.conns.values_mut() {
            for side in [0, 1] {
                if conn.ends[side].life.host == from && conn.ends[1 - side].life.host == to {
                    let arrives = now() + self.dice.between(nanos(low), nanos(high));
                    conn.pipes[side].release(arrives);
                    if conn.ends[1 - side].standing == Standing::Closed && !conn.pipes[side].is_empty() {
                        conn.reset(side, arrives + self.latency[&(to, from)]);
                        conn.ends[side].wake(later);
                    }
                    conn.ends[1 - side].wake(later);
                }
            }
        }
    }

    fn alive(&self, life: Life) -> io::Result<()> {
        let machine = &self.machines[life.host];
        if machine.running && machine.life == life.number { Ok(()) } else { Err(dead()) }
    }

    /// How long a packet takes, in nanoseconds.
    fn latency(&self, from: Host, to: Host) -> u64 {
        let fixed = self.latency[&(from, to)];
        if from == to {
            return fixed;
        }
        let tail = if self.dice.one_in(TAIL_ONE_IN) { self.dice.between(0, nanos(TAIL)) } else { 0 };
        fixed + self.dice.between(0, nanos(JITTER)) + tail
    }

    /// When something sent now arrives; [`NEVER`] while the way is cut.
    fn arrival(&self, from: Host, to: Host) -> u64 {
        if self.cut.contains(&(from, to)) { NEVER } else { now() + self.latency(from, to) }
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
        (0..self.machines.len()).find(|&host| ip(host) == addr.ip())
    }

    /// How long a request to connect to `addr` takes; `None` while it gets no answer.
    pub fn way(&mut self, life: Life, addr: SocketAddr) -> io::Result<Option<Duration>> {
        self.alive(life)?;
        let Some(host) = self.host_at(life, addr) else { return Ok(None) };
        let silent = !self.machines[host].powered
            || [(life.host, host), (host, life.host)].iter().any(|way| self.cut.contains(way));
        Ok((!silent).then(|| Duration::from_nanos(self.latency(life.host, host))))
    }

    /// A request to connect arrives.
    pub fn ask(&mut self, life: Life, addr: SocketAddr, later: &mut Later) -> io::Result<Asked> {
        if self.way(life, addr)?.is_none() {
            return Ok(Asked::Lost);
        }
        let Some(host) = self.host_at(life, addr) else { return Ok(Asked::Lost) };
        let back = Duration::from_nanos(self.latency(host, life.host));
        let client = SocketAddr::new(ip(life.host), self.free_port(life.host));
        let Some(listening) = self.listeners.get_mut(&SocketAddr::new(ip(host), addr.port())) else {
            return Ok(Asked::Refused(back));
        };
        if listening.queue.len() >= BACKLOG {
            return Ok(Asked::Lost);
        }
        let id = self.next_conn;
        self.next_conn += 1;
        self.conns.insert(id, Conn::new(End::new(life), End::new(listening.life)));
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
        let len = self.part(room.min(bytes.len()));
        let bytes = Bytes::copy_from_slice(&bytes[..len]);
        self.trace.detail("write", &[id, side as u64], &bytes);
        let arrives = self.arrival(from, to);
        // A reset is not repeated: what a cut stops is lost.
        let answered = if peer == Standing::Closed { arrives.max(self.arrival(to, from)) } else { NEVER };
        let answered = if answered == NEVER { NEVER } else { answered + self.latency(to, from) };
        let conn = self.conn(id, side)?;
        if peer == Standing::Closed && arrives != NEVER {
            conn.reset(side, answered);
            conn.ends[side].wake(later);
        } else {
            conn.pipes[side].push(now, arrives, bytes);
            later.wake(&mut conn.ends[1 - side].reader);
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
        let limit = self.part(limit);
        let conn = self.conn(id, side)?;
        let found = conn.read(side, now(), limit, later)?;
        if found.is_err() {
            conn.ends[side].reader = Some(waker.clone());
        }
        Ok(found)
    }

    /// Some of `len`, mostly all of it.
    fn part(&self, len: usize) -> usize {
        if len > 1 && self.dice.one_in(PARTIAL_ONE_IN) { self.dice.between(1, len as u64) as usize } else { len }
    }

    pub fn shutdown(&mut self, id: u64, side: usize, later: &mut Later) -> io::Result<()> {
        let conn = self.conn(id, side)?;
        let (from, to) = (conn.ends[side].life.host, conn.ends[1 - side].life.host);
        let arrives = self.arrival(from, to);
        let conn = self.conn(id, side)?;
        if !conn.pipes[side].is_ended() {
            conn.pipes[side].finish(arrives);
            conn.ends[1 - side].wake(later);
        }
        Ok(())
    }

    /// An end is dropped, by its process or with it.
    pub fn close(&mut self, id: u64, side: usize, later: &mut Later) {
        let Ok(conn) = self.conn(id, side) else { return };
        let (from, to) = (conn.ends[side].life.host, conn.ends[1 - side].life.host);
        let (there, back) = (self.arrival(from, to), self.latency(to, from));
        self.trace.detail("close", &[id, side as u64], b"");
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.close(side, now(), there, back, later);
        if conn.is_over() {
            self.conns.remove(&id);
        }
    }
}
