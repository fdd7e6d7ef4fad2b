//! Who sent what, and what came of it.
//!
//! Senders number their messages, per sender device and recipient. The ledger notes each number's
//! fate and each arrival, and holds them against what the gateway promises: every message that got
//! its `ok` arrives at every device of its recipient once and in order, nothing unknown does, and
//! all devices of a user see one order.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::env::clock;
use cluster::id::MessageId;
use im_gateway::client::Fate;
use serde::{Deserialize, Serialize};

use super::PATIENCE;

/// One sender device's messages to one user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream {
    pub from: String,
    pub device: String,
    pub to: String,
}

impl Stream {
    /// Whether a device gets it: as the addressee's, or a copy, as another one of the sender's.
    fn is_for(&self, user: &str, device: &str) -> bool {
        self.to == user || (self.from == user && self.device != device)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} → {}", self.from, self.device, self.to)
    }
}

/// What the messages say.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Body {
    /// The message's number in its stream, from 1.
    pub n: u64,
    /// To make it larger.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pad: String,
}

/// An arrival at a device.
pub struct Arrival<'a> {
    pub seq: u64,
    pub mid: MessageId,
    pub stream: Stream,
    pub body: &'a str,
}

/// The ledger of one test.
#[derive(Default)]
pub struct Ledger(Mutex<Books>);

#[derive(Default)]
struct Books {
    /// Each message's id once it is stored, by number − 1.
    streams: BTreeMap<Stream, Vec<Option<MessageId>>>,
    /// By user and device.
    devices: BTreeMap<(String, String), Device>,
    /// Each user's order, as its devices saw it.
    orders: BTreeMap<String, BTreeMap<u64, MessageId>>,
    /// Anything that happened: stands still when nothing moves any more.
    moves: u64,
    faults: Vec<String>,
}

#[derive(Default)]
struct Device {
    last_seq: u64,
    /// The last number that came from each stream, and how many came.
    came: BTreeMap<Stream, Came>,
    total: u64,
    lost: u64,
}

#[derive(Default, Clone, Copy)]
struct Came {
    last: u64,
    count: u64,
}

impl Ledger {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on this device is to get everything that its user is sent.
    pub fn device(&self, user: &str, device: &str) {
        self.books().devices.entry((user.to_owned(), device.to_owned())).or_default();
    }

    /// The next number of a stream.
    pub fn number(&self, stream: &Stream) -> u64 {
        let mut books = self.books();
        let numbers = books.streams.entry(stream.clone()).or_default();
        numbers.push(None);
        numbers.len() as u64
    }

    /// The fate of a number. Anything but `ok` is a fault.
    pub fn fate(&self, stream: &Stream, n: u64, fate: &Fate) {
        let mut books = self.books();
        books.moves += 1;
        match fate {
            Fate::Stored(mid) => {
                books.streams.get_mut(stream).expect("it was numbered")[n as usize - 1] = Some(*mid);
            }
            other => books.faults.push(format!("{stream} #{n} was not stored: {other:?}")),
        }
    }

    /// A message came to a device.
    pub fn arrived(&self, user: &str, device: &str, arrival: &Arrival<'_>) {
        let mut books = self.books();
        if let Err(fault) = books.arrive(user, device, arrival) {
            books.faults.push(format!("{user}/{device} at seq {}: {fault}", arrival.seq));
        }
    }

    /// A device was told that it missed messages.
    pub fn gap(&self, user: &str, device: &str, lost: u64) {
        let mut books = self.books();
        books.moves += 1;
        books.devices.entry((user.to_owned(), device.to_owned())).or_default().lost += lost;
    }

    /// Messages that came to a device so far.
    pub fn count(&self, user: &str, device: &str) -> u64 {
        let key = (user.to_owned(), device.to_owned());
        self.books().devices.get(&key).map_or(0, |device| device.total)
    }

    /// Messages lost to gaps of a device so far.
    pub fn lost(&self, user: &str, device: &str) -> u64 {
        let key = (user.to_owned(), device.to_owned());
        self.books().devices.get(&key).map_or(0, |device| device.lost)
    }

    /// Messages that got their `ok` so far.
    pub fn stored(&self) -> u64 {
        self.books().streams.values().flatten().flatten().count() as u64
    }

    /// Messages to one user that got their `ok` so far.
    pub fn stored_for(&self, user: &str) -> u64 {
        let books = self.books();
        let streams = books.streams.iter().filter(|(stream, _)| stream.to == user);
        streams.flat_map(|(_, mids)| mids).flatten().count() as u64
    }

    /// Waits until every message has its `ok` and has come to every device.
    ///
    /// # Panics
    /// At the first fault, and when nothing moves for [`PATIENCE`] though something is missing.
    pub async fn settled(&self) {
        let (mut moves, mut since) = (0, clock::now());
        loop {
            let missing = {
                let books = self.books();
                books.check();
                if books.moves != moves {
                    (moves, since) = (books.moves, clock::now());
                }
                books.missing()
            };
            if missing.is_empty() {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "nothing moves, but there are still missing: {}", missing.join("; "));
            clock::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// What is still to come, for people; empty when nothing is.
    pub fn missing(&self) -> Vec<String> {
        self.books().missing()
    }

    /// Waits until `count` more messages have got their `ok`.
    pub async fn progress(&self, count: u64) {
        let target = self.stored() + count;
        super::eventually("traffic goes on", async || {
            self.check();
            (self.stored() >= target).then_some(())
        })
        .await;
    }

    /// # Panics
    /// When anything went wrong so far.
    pub fn check(&self) {
        self.books().check();
    }
}

impl Books {
    fn arrive(&mut self, user: &str, device: &str, arrival: &Arrival<'_>) -> Result<(), String> {
        self.moves += 1;
        let Arrival { seq, mid, stream, body } = arrival;
        let Body { n, .. } = serde_json::from_str(body).map_err(|error| format!("not a body of ours: {error}"))?;
        let sent = self.streams.get(stream).map_or(0, Vec::len) as u64;
        if !stream.is_for(user, device) || n == 0 || n > sent {
            return Err(format!("{stream} #{n} was never sent, only {sent}"));
        }
        match self.streams[stream][n as usize - 1] {
            Some(stored) if stored != *mid => return Err(format!("{stream} #{n} has another id than its ok")),
            _ => {}
        }
        let ordered = self.orders.entry(user.to_owned()).or_default().entry(*seq).or_insert(*mid);
        if ordered != mid {
            return Err(format!("{stream} #{n}: another device got another message there"));
        }
        let device = self.devices.entry((user.to_owned(), device.to_owned())).or_default();
        if *seq <= device.last_seq {
            return Err(format!("{stream} #{n} came after seq {}", device.last_seq));
        }
        device.last_seq = *seq;
        device.total += 1;
        let came = device.came.entry(stream.clone()).or_default();
        if n <= came.last {
            return Err(format!("{stream} #{n} came after #{}", came.last));
        }
        *came = Came { last: n, count: came.count + 1 };
        Ok(())
    }

    fn check(&self) {
        let shown = self.faults.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
        assert!(self.faults.is_empty(), "{} faults, the first:\n{shown}", self.faults.len());
    }

    /// What is still to come. Numbers come in order, so that as many as there are means all of them.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (stream, numbers) in &self.streams {
            let waiting = numbers.iter().filter(|mid| mid.is_none()).count();
            if waiting > 0 {
                missing.push(format!("{waiting} oks of {stream}"));
            }
        }
        for ((user, name), device) in &self.devices {
            let streams = self.streams.iter().filter(|(stream, _)| stream.is_for(user, name));
            let sent: usize = streams.map(|(_, numbers)| numbers.len()).sum();
            let came: u64 = device.came.values().map(|came| came.count).sum::<u64>() + device.lost;
            if came < sent as u64 {
                missing.push(format!("{} messages at {user}/{name}", sent as u64 - came));
            } else if came > sent as u64 {
                missing.push(format!("{} too many at {user}/{name}", came - sent as u64));
            }
        }
        missing
    }
}
