//! The simulated network: machines, links between them, streams over the links.
//!
//! Invariant: a stream behaves as TCP does, its failures included. Nothing is lost or reordered
//! within it; a dead process's streams are closed by its system; a machine without power says
//! nothing at all, and its peers find out by their own timeouts, or when it is back and does not
//! know them.

mod conn;
mod links;
mod pipe;
mod stream;
mod switch;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use cluster::env::Net;
use cluster::env::net::{BoxConn, Listener};
use cluster::sync::lock;

use crate::dice::Dice;
use crate::time;
use crate::trace::Trace;
pub use links::Weakness;
use stream::Stream;
use switch::{Asked, Buffers, Listening, Switch};

/// A machine's number.
pub type Host = usize;

/// One life of a process on a machine. What belongs to an earlier one is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation {
    /// The machine.
    pub host: Host,
    /// Which of its processes.
    pub number: u64,
}

/// The network of a run.
#[derive(Clone)]
pub struct Network {
    switch: Arc<Mutex<Switch>>,
}

/// Wakers to be called once the network's lock is free: they may drop streams.
#[derive(Default)]
pub(crate) struct Later(Vec<Waker>);

impl Later {
    fn wake(&mut self, waker: &mut Option<Waker>) {
        self.0.extend(waker.take());
    }
}

impl Network {
    /// A network without machines.
    pub fn new(seed: u64, trace: Trace) -> Self {
        let switch = Switch::new(Dice::new(seed, "network"), trace);
        Self { switch: Arc::new(Mutex::new(switch)) }
    }

    /// Gives streams that are opened from now on tiny buffers.
    pub fn make_buffers_tiny(&self) {
        self.with(|switch, _| switch.buffers = Buffers::TINY);
    }

    /// Adds a machine, powered, and tells its address.
    pub fn add_host(&self) -> (Host, IpAddr) {
        self.with(|switch, _| switch.add_host())
    }

    /// How many streams there are of which a process holds an end.
    pub fn streams(&self) -> usize {
        self.with(|switch, _| switch.streams())
    }

    /// How many streams a machine's process has with other machines.
    pub fn streams_of(&self, host: Host) -> usize {
        self.with(|switch, _| switch.streams_of(host))
    }

    /// How much the way from one machine to another was given so far, weak or not, that such a weakness would have to
    /// do with.
    pub fn given(&self, from: Host, to: Host, weakness: Weakness) -> u64 {
        self.with(|switch, _| switch.given(from, to, weakness))
    }

    /// How many weaknesses the ways between machines have.
    pub fn weaknesses(&self) -> usize {
        self.with(|switch, _| switch.weaknesses())
    }

    /// How many machines there are.
    pub fn hosts(&self) -> usize {
        self.with(|switch, _| switch.hosts())
    }

    /// Starts a process on a machine; an earlier one must have been killed.
    pub fn start(&self, host: Host) -> SimNet {
        let process = self.with(|switch, later| switch.start(host, later));
        SimNet { network: self.clone(), process }
    }

    /// Kills a machine's process: its system closes its streams and refuses new ones.
    pub fn kill(&self, host: Host) {
        self.with(|switch, later| switch.kill(host, later));
    }

    /// Cuts a machine's power: silence.
    pub fn power_off(&self, host: Host) {
        self.with(|switch, later| switch.power_off(host, later));
    }

    /// Weakens the way from one machine to another, or ends that. Through a cut, what was under way
    /// arrives, and what is sent meanwhile waits.
    pub fn set_way(&self, from: Host, to: Host, weakness: Weakness, on: bool) {
        self.with(|switch, later| switch.set_way(from, to, weakness, on, later));
    }

    /// Resets all streams between two machines, as a box on the way does that forgot them.
    pub fn reset_between(&self, one: Host, other: Host) {
        self.with(|switch, later| switch.reset_between(one, other, later));
    }

    /// All streams between two machines fall silent for good, as through a box on the way that forgot
    /// them and drops what belongs to none that it knows.
    pub fn forget_between(&self, one: Host, other: Host) {
        self.with(|switch, later| switch.forget_between(one, other, later));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Switch, &mut Later) -> T) -> T {
        let mut later = Later::default();
        let result = work(&mut lock(&self.switch), &mut later);
        later.0.into_iter().for_each(Waker::wake);
        result
    }
}

/// One process's way to the network.
pub struct SimNet {
    network: Network,
    process: Incarnation,
}

impl SimNet {
    /// Kills this process, as its machine's system sees it.
    pub fn kill(&self) {
        self.network.kill(self.process.host);
    }
}

#[async_trait]
impl Net for SimNet {
    async fn listen(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        let addr = parse(addr)?;
        let addr = self.network.with(|switch, _| switch.listen(self.process, addr))?;
        Ok(Box::new(Accepting { network: self.network.clone(), process: self.process, addr }))
    }

    async fn connect(&self, addr: &str) -> io::Result<BoxConn> {
        let addr = parse(addr)?;
        let mut pause = SYN_AGAIN;
        loop {
            if let Some(delay) = self.network.with(|switch, _| switch.way(self.process, addr))? {
                time::sleep(delay).await;
                match self.network.with(|switch, later| switch.ask(self.process, addr, later))? {
                    Asked::Opened(id, delay) => {
                        let stream = Stream::new(self.network.clone(), id, 0, addr);
                        time::sleep(delay).await;
                        return Ok(Box::new(stream));
                    }
                    Asked::Refused(delay) => {
                        time::sleep(delay).await;
                        return Err(ErrorKind::ConnectionRefused.into());
                    }
                    Asked::Lost => {}
                }
            }
            // No answer: TCP asks again, ever more slowly.
            time::sleep(pause).await;
            pause = (pause * 2).min(SYN_AT_LEAST_EVERY);
        }
    }
}

/// The first pause before an unanswered request to connect is repeated, and the longest.
const SYN_AGAIN: Duration = Duration::from_secs(1);
const SYN_AT_LEAST_EVERY: Duration = Duration::from_secs(64);

fn parse(addr: &str) -> io::Result<SocketAddr> {
    addr.parse().map_err(|_| io::Error::new(ErrorKind::InvalidInput, format!("{addr:?} is no address")))
}

/// The address of machine `host`.
fn ip(host: Host) -> IpAddr {
    let [_, _, high, low] = u32::try_from(host + 1).expect("few machines").to_be_bytes();
    Ipv4Addr::new(10, 0, high, low).into()
}

/// The machine whose address this would be.
fn host_of(ip: IpAddr) -> Option<Host> {
    let IpAddr::V4(ip) = ip else { return None };
    let [10, 0, high, low] = ip.octets() else { return None };
    Host::from(u16::from_be_bytes([high, low])).checked_sub(1)
}

struct Accepting {
    network: Network,
    process: Incarnation,
    addr: SocketAddr,
}

#[async_trait]
impl Listener for Accepting {
    async fn accept(&mut self) -> io::Result<BoxConn> {
        let (id, peer) = std::future::poll_fn(|cx| self.poll_accept(cx)).await?;
        Ok(Box::new(Stream::new(self.network.clone(), id, 1, peer)))
    }

    fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Accepting {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(u64, SocketAddr)>> {
        self.network.with(|switch, _| match switch.accept(self.process, self.addr) {
            Ok(Some(accepted)) => Poll::Ready(Ok(accepted)),
            Ok(None) => {
                switch.wait_accept(self.addr, cx.waker().clone());
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        })
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.network.with(|switch, later| switch.unlisten(self.process, self.addr, later));
    }
}

type Listeners = BTreeMap<SocketAddr, Listening>;
