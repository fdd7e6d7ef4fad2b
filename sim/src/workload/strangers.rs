//! Clients that keep to no rules. Whatever they do, others must not notice; and they are told what
//! the protocol says that they are told, in the time that it names.

mod kinds;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use cluster::env::clock;
use futures_util::future::join_all;
use madsim::runtime::Handle;
use serde_json::json;

use super::raw::{BINARY, PONG, Raw, SWITCHED, Said, WELCOME};
use super::{EXPIRES_MS, STRANGER};
use crate::coverage;
use crate::dice::Dice;
use crate::ledger::{Ledger, Tolerated};
use crate::net::SimNet;
use crate::process::TOKEN_SECRET;
use crate::time;
use crate::world::World;
pub use kinds::{ANY_TIME, Stranger};

/// One connection, at most.
const VISIT: Duration = Duration::from_secs(60);
/// Beyond the time that the protocol names: for the way, and the node's clock.
const GRACE: Duration = Duration::from_secs(5);
/// What the protocol gives for a hello, and for the head of a request.
const HELLO: Duration = Duration::from_secs(5);
const HEAD: Duration = Duration::from_secs(10);
/// For so long a node takes a token that has ended: clocks differ.
const LEEWAY: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);
/// How a node closes that has as many connections as it may.
const OVERLOADED: u16 = 1013;

/// How a connection ended.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The node closed it, with this code.
    Closed(u16),
    /// The stranger got what it is to get.
    Treated,
    /// It is still open, and must not be.
    Open,
    /// It came about badly, broke, or was left.
    Over,
}

impl From<Option<u16>> for End {
    fn from(code: Option<u16>) -> Self {
        code.map_or(Self::Over, Self::Closed)
    }
}

/// What a node says to one of a storm.
enum Answer {
    /// It has a session.
    Session(Raw),
    /// It is to come again after this, and a part of it more.
    Later(Duration),
}

/// A stranger and its surroundings.
struct Visitor {
    stranger: Stranger,
    user: String,
    net: Arc<SimNet>,
    addrs: Vec<String>,
    /// After which silence it is given up, where that can be told.
    silence: Option<Duration>,
    world: World,
    ledger: Ledger,
    dice: Dice,
}

/// Comes again and again until the end of traffic; `silence` is its [`Visitor`]'s.
pub async fn live(
    stranger: Stranger,
    n: usize,
    world: World,
    ledger: Ledger,
    dice: Dice,
    silence: Option<Duration>,
    until: u64,
) {
    let machine = Handle::current().create_node().name(format!("stranger {n}")).build();
    let (net, addrs) = (world.client_net(), world.client_addrs());
    let user = format!("{STRANGER}rude{n}");
    let visitor = Visitor { stranger, user, net: net.clone(), addrs, silence, world, ledger, dice };
    let task = machine.spawn(async move {
        loop {
            time::sleep(Duration::from_millis(visitor.dice.between(100, 4_000))).await;
            visitor.visit().await;
        }
    });
    time::sleep(Duration::from_nanos(until.saturating_sub(time::now()))).await;
    drop(task);
    net.kill();
    Handle::current().kill(machine.id());
}

impl Visitor {
    fn any(&self) -> usize {
        self.dice.between(0, self.addrs.len() as u64 - 1) as usize
    }

    /// One connection, and what is to be said of it.
    async fn visit(&self) {
        let (node, from, stranger) = (self.any(), time::now(), self.stranger);
        let act = clock::timeout(VISIT, self.act(node)).await;
        let end = act.ok().and_then(Result::ok).unwrap_or(End::Over);
        let told = || json!({ "kind": format!("{stranger:?}"), "node": node, "end": format!("{end:?}") });
        self.world.trace().lazy("stranger", told);
        match end {
            End::Closed(code) => self.closed_with(code),
            End::Treated => coverage::reached(stranger.point()),
            End::Open => {
                let stranger = format!("{stranger:?}");
                self.ledger.tolerated(Tolerated { stranger, node, from, until: time::now() });
            }
            End::Over => {}
        }
    }

    fn closed_with(&self, code: u16) {
        let stranger = self.stranger;
        coverage::reached("a stranger was shown the door");
        if stranger.is_answer(code) {
            coverage::reached(stranger.point());
        }
        let wrong = stranger.expected().filter(|expected| !expected.contains(&code) && !ANY_TIME.contains(&code));
        if let Some(expected) = wrong {
            self.ledger.complain(format!("protocol: {stranger:?} was closed with {code} instead of {expected:?}"));
        }
    }

    async fn act(&self, node: usize) -> io::Result<End> {
        let addr = self.addrs[node].as_str();
        Ok(match self.stranger {
            Stranger::Mute => self.mute(addr).await?,
            Stranger::Silent => {
                let mut raw = self.session(addr).await?;
                self.closed_within(&mut raw, self.silence.unwrap_or(VISIT) + GRACE).await
            }
            Stranger::Malformed => self.malformed(addr).await?,
            Stranger::Oversize => {
                let body = "x".repeat(100_000);
                let huge = json!({ "id": 2, "send": { "to": "u0", "key": "k", "body": body } }).to_string();
                let mut raw = self.session(addr).await?;
                // It may close before it has taken all.
                let _ = raw.text(&huge).await;
                self.closed_within(&mut raw, GRACE).await
            }
            Stranger::Binary => {
                let mut raw = self.session(addr).await?;
                raw.frame(BINARY, b"\x00\x01").await?;
                self.closed_within(&mut raw, GRACE).await
            }
            Stranger::Prophet => {
                let mut raw = self.session(addr).await?;
                raw.text("{\"ack\":9007199254740000}").await?;
                self.closed_within(&mut raw, GRACE).await
            }
            Stranger::Flood => self.flood(addr).await?,
            Stranger::Expired => self.pretend(addr, TOKEN_SECRET, 1_000_000_000_000).await?,
            Stranger::Lapsing => self.lapse(node).await?,
            Stranger::Forged => self.pretend(addr, "another secret, of the same length", EXPIRES_MS).await?,
            Stranger::Wordless => {
                let mut raw = Raw::open(&self.net, addr).await?;
                self.closed_within(&mut raw, HELLO + GRACE).await
            }
            Stranger::Noise => self.noise_outside(addr).await?,
            Stranger::NoiseInside => {
                let mut raw = Raw::open(&self.net, addr).await?;
                // It may have heard enough before all is said.
                let _ = raw.bytes(&self.noise()).await;
                self.closed_within(&mut raw, HELLO + GRACE).await
            }
            Stranger::Storm(count) => self.storm(count).await,
        })
    }

    async fn session(&self, addr: &str) -> io::Result<Raw> {
        Raw::session(&self.net, addr, &self.user).await
    }

    async fn closed_within(&self, raw: &mut Raw, patience: Duration) -> End {
        clock::timeout(patience, self.until_closed(raw)).await.unwrap_or(End::Open)
    }

    async fn until_closed(&self, raw: &mut Raw) -> End {
        loop {
            match raw.next().await {
                Ok(Said::Close(code)) => return End::Closed(code),
                Ok(Said::Text(text)) if text.contains(WELCOME) && self.stranger.is_nobody() => {
                    self.ledger.complain(format!("protocol: {:?} was given a session", self.stranger));
                }
                // Who is to be closed for what it did must not be for its silence.
                Ok(Said::Text(text)) if text.contains("\"ping\"") && self.stranger != Stranger::Silent => {
                    let _ = raw.text(PONG).await;
                }
                Ok(_) => {}
                Err(_) => return End::Over,
            }
        }
    }

    /// Comes with a token that does not count.
    async fn pretend(&self, addr: &str, secret: &str, expires_ms: u64) -> io::Result<End> {
        let mut raw = Raw::open(&self.net, addr).await?;
        raw.hello(&self.user, secret, expires_ms).await?;
        Ok(self.closed_within(&mut raw, GRACE).await)
    }

    /// Comes with a token that ends soon by the node's clock.
    async fn lapse(&self, node: usize) -> io::Result<End> {
        let mut raw = Raw::open(&self.net, &self.addrs[node]).await?;
        let good = Duration::from_millis(self.dice.between(1_000, 6_000));
        let expires_ms = self.world.wall_ms(node) + u64::try_from(good.as_millis()).unwrap_or(0);
        raw.hello(&self.user, TOKEN_SECRET, expires_ms).await?;
        Ok(self.closed_within(&mut raw, good + LEEWAY + GRACE).await)
    }

    /// Reads for a while, and shows that it lives, and acknowledges nothing.
    async fn mute(&self, addr: &str) -> io::Result<End> {
        let mut raw = self.session(addr).await?;
        for _ in 0..self.dice.between(1, 20) {
            match clock::timeout(SECOND, raw.until_closed()).await {
                Ok(code) => return Ok(code.into()),
                Err(_) => raw.text(PONG).await?,
            }
        }
        Ok(End::Treated)
    }

    /// Does what is wrong more often than nodes bear.
    async fn malformed(&self, addr: &str) -> io::Result<End> {
        let mut raw = self.session(addr).await?;
        for _ in 0..20 {
            // It may be closed already; then the reason is still to be read.
            let _ = raw.text("{\"id\":1,").await;
        }
        Ok(self.closed_within(&mut raw, GRACE).await)
    }

    async fn flood(&self, addr: &str) -> io::Result<End> {
        let mut raw = self.session(addr).await?;
        for n in 0..1_000 {
            let send = json!({ "id": n + 2, "send": { "to": self.user, "key": n.to_string(), "body": "flood" } });
            match clock::timeout(Duration::from_secs(2), raw.text(&send.to_string())).await {
                Ok(sent) => sent?,
                Err(_) => return Ok(End::Over),
            }
        }
        clock::timeout(GRACE, first_answer(&mut raw)).await.unwrap_or(Ok(End::Over))
    }

    fn noise(&self) -> Vec<u8> {
        (0..self.dice.between(1, 3_000)).map(|_| self.dice.between(0, 255) as u8).collect()
    }

    async fn noise_outside(&self, addr: &str) -> io::Result<End> {
        let mut raw = Raw::connect(&self.net, addr).await?;
        let _ = raw.bytes(&self.noise()).await;
        Ok(match clock::timeout(HEAD + GRACE, raw.until_ended()).await {
            Ok(answer) if answer.starts_with(b"HTTP/1.1 4") => End::Treated,
            Ok(_) => End::Over,
            Err(_) => End::Open,
        })
    }

    async fn storm(&self, count: u64) -> End {
        let stayed = join_all((0..count).map(|n| self.arrive(n))).await;
        if stayed.into_iter().all(|stayed| stayed) { End::Treated } else { End::Over }
    }

    /// One of a storm: comes again whenever it is told to. Whether it had a session, and kept it.
    async fn arrive(&self, n: u64) -> bool {
        let user = format!("{STRANGER}storm{n}");
        let mut node = self.any();
        let arrival = self.ledger.arrived(node);
        loop {
            match clock::timeout(GRACE, self.attempt(&user, node, arrival)).await {
                Ok(Ok(Answer::Session(mut raw))) => {
                    return clock::timeout(SECOND, raw.until_closed()).await.is_err();
                }
                Ok(Ok(Answer::Later(wait))) => {
                    let part = self.dice.between(0, 1_000) as f64 / 1_000.0;
                    time::sleep(wait.mul_f64(1.0 + part)).await;
                    node = self.any();
                }
                Ok(Err(_)) | Err(_) => return false,
            }
        }
    }

    /// One attempt of one of a storm.
    async fn attempt(&self, user: &str, node: usize, arrival: usize) -> io::Result<Answer> {
        let (mut raw, head) = Raw::ask(&self.net, &self.addrs[node]).await?;
        if !head.starts_with(SWITCHED) {
            let wait = self.told_to_wait(&head).ok_or(ErrorKind::ConnectionRefused)?;
            return Ok(Answer::Later(wait));
        }
        self.ledger.admitted(arrival, node);
        raw.hello(user, TOKEN_SECRET, EXPIRES_MS).await?;
        match raw.until_welcome().await? {
            None => Ok(Answer::Session(raw)),
            Some(OVERLOADED) => Ok(Answer::Later(SECOND)),
            Some(_) => Err(ErrorKind::ConnectionRefused.into()),
        }
    }

    /// For how long to stay away, where a node has too many connections for now: it must say so.
    fn told_to_wait(&self, head: &str) -> Option<Duration> {
        let status = head.split(' ').nth(1).filter(|status| ["429", "503"].contains(status))?;
        let Some(wait) = retry_after(head) else {
            let text = format!("protocol: {status} instead of a WebSocket, and no Retry-After of a second or more");
            self.ledger.complain(text);
            return None;
        };
        coverage::reached("a storm was told to come later");
        Some(wait)
    }
}

/// After how long to come again, by the head of an answer; a second at least.
fn retry_after(head: &str) -> Option<Duration> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let (_, seconds) = fields.find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))?;
    let seconds = seconds.trim().parse::<u64>().ok()?;
    (seconds >= 1).then(|| Duration::from_secs(seconds))
}

/// Reads until a send is answered.
async fn first_answer(raw: &mut Raw) -> io::Result<End> {
    loop {
        match raw.next().await? {
            Said::Text(text) if text.contains("\"ok\"") => return Ok(End::Treated),
            Said::Close(code) => return Ok(End::Closed(code)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_when_to_come_again() {
        let head = |field: &str| format!("HTTP/1.1 503 Service Unavailable\r\n{field}content-length: 7\r\n\r\n");
        assert_eq!(retry_after(&head("Retry-After: 2\r\n")), Some(Duration::from_secs(2)));
        assert_eq!(retry_after(&head("retry-after:1\r\n")), Some(SECOND));
        for field in ["", "retry-after: 0\r\n", "retry-after: soon\r\n", "retry: 3\r\n"] {
            assert_eq!(retry_after(&head(field)), None, "{field}");
        }
    }
}
