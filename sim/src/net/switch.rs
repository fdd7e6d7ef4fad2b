//! What the network knows and does, under one lock.

mod faults;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use super::conn::{Conn, End, Standing, Wait};
use super::links::Links;
use super::pipe::{TINY_WINDOW, WINDOW};
use super::{Host, Incarnation, Later, Listeners, host_of, ip};
use crate::dice::Dice;
use crate::time::{NEVER, now, wake_at};
use crate::trace::Trace;

/// Requests to connect that wait to be accepted.
const BACKLOG: usize = 4096;
/// First port for those that ask for any.
const FIRST_PORT: u16 = 32_768;
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
    process: Incarnation,
    /// Streams not yet accepted, and by whom they were opened.
    queue: VecDeque<(u64, SocketAddr)>,
    accepter: Option<Waker>,
}

/// A machine, as its links have it.
struct HostState {
    powered: bool,
    /// Its current process, or its last one.
    process: u64,
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
    machines: Vec<HostState>,
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
        self.machines.push(HostState { powered: true, process: 0, running: false, next_port: FIRST_PORT });
        self.links.add_host();
        (host, ip(host))
    }

    pub fn streams(&self) -> usize {
        self.conns.len()
    }

    pub fn hosts(&self) -> usize {
        self.machines.len()
    }

    pub fn start(&mut self, host: Host, later: &mut Later) -> Incarnation {
        let machine = &mut self.machines[host];
        assert!(!machine.running, "machine {host} already runs a process");
        machine.process += 1;
        machine.running = true;
        let process = Incarnation { host, number: machine.process };
        if !std::mem::replace(&mut machine.powered, true) {
            self.forget_lost(host, later);
        }
        process
    }

    fn alive(&self, process: Incarnation) -> io::Result<()> {
        let machine = &self.machines[process.host];
        if machine.running && machine.process == process.number { Ok(()) } else { Err(dead()) }
    }

    // Listening and connecting.

    pub fn listen(&mut self, process: Incarnation, mut addr: SocketAddr) -> io::Result<SocketAddr> {
        self.alive(process)?;
        if addr.ip().is_unspecified() || addr.ip().is_loopback() {
            addr.set_ip(ip(process.host));
        }
        if addr.ip() != ip(process.host) {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        if addr.port() == 0 {
            addr.set_port(self.free_port(process.host));
        }
        if self.listeners.contains_key(&addr) {
            return Err(ErrorKind::AddrInUse.into());
        }
        self.listeners.insert(addr, Listening { process, queue: VecDeque::new(), accepter: None });
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

    pub fn unlisten(&mut self, process: Incarnation, addr: SocketAddr, later: &mut Later) {
        if self.listeners.get(&addr).is_some_and(|listening| listening.process == process) {
            self.remove_listener(addr, later);
        }
    }

    pub fn accept(&mut self, process: Incarnation, addr: SocketAddr) -> io::Result<Option<(u64, SocketAddr)>> {
        self.alive(process)?;
        Ok(self.listeners.get_mut(&addr).ok_or_else(dead)?.queue.pop_front())
    }

    pub fn wait_accept(&mut self, addr: SocketAddr, waker: Waker) {
        if let Some(listening) = self.listeners.get_mut(&addr) {
            listening.accepter = Some(waker);
        }
    }

    fn host_at(&self, process: Incarnation, addr: SocketAddr) -> Option<Host> {
        if addr.ip().is_loopback() {
            return Some(process.host);
        }
        host_of(addr.ip()).filter(|&host| host < self.machines.len())
    }

    /// How long a request to connect to `addr` takes; `None` when it gets no answer.
    pub fn way(&mut self, process: Incarnation, addr: SocketAddr) -> io::Result<Option<Duration>> {
        self.alive(process)?;
        let Some(host) = self.host_at(process, addr) else { return Ok(None) };
        let silent = !self.machines[host].powered
            || self.links.loses_connects(process.host, host)
            || self.links.loses_connects(host, process.host)
            || self.links.loses_one(process.host, host);
        Ok((!silent).then(|| Duration::from_nanos(self.links.latency(process.host, host))))
    }

    /// A request to connect arrives.
    pub fn ask(&mut self, process: Incarnation, addr: SocketAddr, later: &mut Later) -> io::Result<Asked> {
        if self.way(process, addr)?.is_none() {
            return Ok(Asked::Lost);
        }
        let Some(host) = self.host_at(process, addr) else { return Ok(Asked::Lost) };
        let back = Duration::from_nanos(self.links.latency(host, process.host));
        let client = SocketAddr::new(ip(process.host), self.free_port(process.host));
        let Some(listening) = self.listeners.get_mut(&SocketAddr::new(ip(host), addr.port())) else {
            return Ok(Asked::Refused(back));
        };
        if listening.queue.len() >= BACKLOG {
            return Ok(Asked::Lost);
        }
        let id = self.next_conn;
        self.next_conn += 1;
        self.conns.insert(id, Conn::new(End::new(process), End::new(listening.process), self.buffers.window));
        listening.queue.push_back((id, client));
        later.wake(&mut listening.accepter);
        self.trace.detail("connect", &[id, process.host as u64, host as u64], b"");
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
        let (from, to, peer) =
            (conn.ends[side].process.host, conn.ends[1 - side].process.host, conn.ends[1 - side].standing);
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
        let (from, to) = (conn.ends[side].process.host, conn.ends[1 - side].process.host);
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
        let (from, to) = (conn.ends[side].process.host, conn.ends[1 - side].process.host);
        let (there, back) = (self.arrival(id, from, to, 0), self.links.latency(to, from));
        self.trace.detail("close", &[id, side as u64], b"");
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.close(side, now(), there, back, later);
        if conn.is_over() {
            self.conns.remove(&id);
        }
    }
}
