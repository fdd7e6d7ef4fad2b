//! Clients that keep to no rules. Whatever they do, others must not notice; and they are told what
//! the protocol says that they are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::env::clock;
use futures_util::future::join_all;
use im_gateway::auth::issue;
use madsim::runtime::Handle;
use serde_json::json;

use super::raw::{BINARY, Raw, Said};
use super::{EXPIRES_MS, Mix, STRANGER};
use crate::coverage;
use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::net::SimNet;
use crate::process::TOKEN_SECRET;
use crate::time;
use crate::world::World;

/// What nodes may always close with: they go down, cannot serve, or lost the client to themselves.
const ANY_TIME: [u16; 8] = [1000, 1001, 1012, 1013, 4001, 4002, 4004, 4502];

/// A kind of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// Acknowledges nothing.
    Mute,
    /// Says nothing after its hello, not even that it lives.
    Silent,
    /// Sends what is no frame.
    Malformed,
    /// Sends a frame that is too large.
    Oversize,
    /// Sends a binary frame.
    Binary,
    /// Acknowledges what is still to come.
    Prophet,
    /// Sends as fast as it can, and reads nothing.
    Flood,
    /// Comes with a token that has expired.
    Expired,
    /// Comes with a token that somebody else signed.
    Forged,
    /// Opens a WebSocket, and says nothing.
    Wordless,
    /// Sends any bytes.
    Noise,
    /// Sends any bytes, once a WebSocket is open.
    NoiseInside,
    /// Breaks no rule: watches whoever is there, by hand.
    Watcher,
    /// Many at once, who all want a session, and are gone.
    Storm(u64),
}

impl Stranger {
    const RUDE: [Self; 7] =
        [Self::Mute, Self::Silent, Self::Malformed, Self::Oversize, Self::Binary, Self::Prophet, Self::Flood];
    const HOSTILE: [Self; 5] = [Self::Expired, Self::Forged, Self::Wordless, Self::Noise, Self::NoiseInside];

    /// All of a mix.
    pub fn all(mix: &Mix) -> Vec<Self> {
        let rude = Self::RUDE.into_iter().cycle().take(mix.rude as usize);
        let hostile = Self::HOSTILE.into_iter().cycle().take(mix.hostile as usize);
        let storm = (mix.storm > 0).then_some(Self::Storm(mix.storm));
        let watcher = (mix.watches > 0).then_some(Self::Watcher);
        rude.chain(hostile).chain(storm).chain(watcher).collect()
    }

    /// Which of its kind comes when: chance shifts the order.
    fn shifted(self, by: u64) -> Self {
        let shift = |kinds: &[Self]| {
            let at = kinds.iter().position(|kind| *kind == self)?;
            Some(kinds[(at + by as usize) % kinds.len()])
        };
        shift(&Self::RUDE).or_else(|| shift(&Self::HOSTILE)).unwrap_or(self)
    }

    /// How nodes close it, besides [`ANY_TIME`]; anything, if there is no rule.
    fn expected(self) -> Option<&'static [u16]> {
        Some(match self {
            Self::Mute | Self::Silent | Self::Watcher | Self::Storm(_) => &[],
            Self::Malformed | Self::Prophet => &[4503],
            Self::Oversize => &[1009],
            Self::Binary => &[1003],
            Self::Expired => &[4501],
            Self::Forged => &[4500],
            Self::Wordless => &[4003],
            Self::Flood | Self::Noise | Self::NoiseInside => return None,
        })
    }
}

/// One stranger's surroundings.
struct Life {
    stranger: Stranger,
    user: String,
    net: Arc<SimNet>,
    addrs: Vec<String>,
    /// Whom the others are.
    others: Arc<Vec<String>>,
    ledger: Ledger,
    dice: Dice,
}

/// Comes again and again until the end of traffic.
pub async fn live(
    stranger: Stranger,
    n: usize,
    world: World,
    ledger: Ledger,
    others: Arc<Vec<String>>,
    dice: Dice,
    until: u64,
) {
    let stranger = stranger.shifted(dice.between(0, 100));
    let machine = Handle::current().create_node().name(format!("stranger {n}")).build();
    let user = format!("{STRANGER}rude{n}");
    let (net, addrs) = (world.client_net(), world.client_addrs());
    let mut life = Life { stranger, user, net, addrs, others, ledger: ledger.clone(), dice };
    let net = life.net.clone();
    let task = machine.spawn(async move {
        loop {
            time::sleep(Duration::from_millis(life.dice.between(100, 4_000))).await;
            let code = life.visit().await;
            world.trace().lazy("stranger", || json!({ "kind": format!("{stranger:?}"), "closed_with": code }));
            if code.is_some() {
                coverage::reached("a stranger was shown the door");
            }
            let expected = stranger.expected();
            let wrong =
                code.zip(expected).filter(|(code, expected)| !expected.contains(code) && !ANY_TIME.contains(code));
            if let Some((code, expected)) = wrong {
                ledger.complain(format!("protocol: {stranger:?} was closed with {code} instead of {expected:?}"));
            }
        }
    });
    time::sleep(Duration::from_nanos(until.saturating_sub(time::now()))).await;
    drop(task);
    net.kill();
    Handle::current().kill(machine.id());
}

impl Life {
    fn addr(&self) -> &str {
        &self.addrs[self.dice.between(0, self.addrs.len() as u64 - 1) as usize]
    }

    fn hello(&self, user: &str, secret: &str, expires_ms: u64) -> String {
        let token = issue(secret, user, None, expires_ms).expect("HS256 signs");
        json!({ "id": 1, "hello": { "token": token, "device": "x", "instance": user, "attempt": time::now() } })
            .to_string()
    }

    /// With a session.
    async fn welcome(&self) -> std::io::Result<Raw> {
        let mut raw = Raw::open(&self.net, self.addr()).await?;
        raw.text(&self.hello(&self.user, TOKEN_SECRET, EXPIRES_MS)).await?;
        loop {
            match raw.next().await? {
                Said::Text(text) if text.contains("welcome") => return Ok(raw),
                Said::Close(_) => return Err(std::io::ErrorKind::ConnectionRefused.into()),
                _ => {}
            }
        }
    }

    /// One connection; returns what the node closed it with, if it did.
    async fn visit(&mut self) -> Option<u16> {
        let patience = Duration::from_secs(60);
        clock::timeout(patience, self.act()).await.ok().flatten()
    }

    async fn act(&mut self) -> Option<u16> {
        match self.stranger {
            Stranger::Mute => self.mute().await,
            Stranger::Silent => self.welcome().await.ok()?.until_closed().await,
            Stranger::Malformed => self.insist(|raw| Box::pin(async { raw.text("{\"id\":1,").await })).await,
            Stranger::Oversize => {
                let huge = format!(
                    "{{\"id\":2,\"send\":{{\"to\":\"u0\",\"key\":\"k\",\"body\":\"{}\"}}}}",
                    "x".repeat(100_000)
                );
                let mut raw = self.welcome().await.ok()?;
                // It may close before it has taken all.
                let _ = raw.text(&huge).await;
                raw.until_closed().await
            }
            Stranger::Binary => {
                let mut raw = self.welcome().await.ok()?;
                raw.frame(BINARY, b"\x00\x01").await.ok()?;
                raw.until_closed().await
            }
            Stranger::Prophet => {
                let mut raw = self.welcome().await.ok()?;
                raw.text("{\"ack\":9007199254740000}").await.ok()?;
                raw.until_closed().await
            }
            Stranger::Flood => self.flood().await,
            Stranger::Expired => self.greet(TOKEN_SECRET, 1_000_000_000_000).await,
            Stranger::Forged => self.greet("another secret, of the same length", EXPIRES_MS).await,
            Stranger::Wordless => Raw::open(&self.net, self.addr()).await.ok()?.until_closed().await,
            Stranger::Noise => {
                let mut raw = Raw::connect(&self.net, self.addr()).await.ok()?;
                raw.bytes(&self.noise()).await.ok()?;
                None
            }
            Stranger::NoiseInside => {
                let mut raw = Raw::open(&self.net, self.addr()).await.ok()?;
                raw.bytes(&self.noise()).await.ok()?;
                raw.until_closed().await
            }
            Stranger::Watcher => self.watch().await,
            Stranger::Storm(count) => self.storm(count).await,
        }
    }

    fn noise(&self) -> Vec<u8> {
        (0..self.dice.between(1, 3_000)).map(|_| self.dice.between(0, 255) as u8).collect()
    }

    async fn greet(&self, secret: &str, expires_ms: u64) -> Option<u16> {
        let mut raw = Raw::open(&self.net, self.addr()).await.ok()?;
        raw.text(&self.hello(&self.user, secret, expires_ms)).await.ok()?;
        raw.until_closed().await
    }

    /// Reads for a while, and shows that it lives, and acknowledges nothing.
    async fn mute(&self) -> Option<u16> {
        let mut raw = self.welcome().await.ok()?;
        for _ in 0..self.dice.between(1, 20) {
            match clock::timeout(Duration::from_secs(1), raw.until_closed()).await {
                Ok(code) => return code,
                Err(_) => raw.text("{\"pong\":{}}").await.ok()?,
            }
        }
        None
    }

    /// Does something wrong until it is closed for it.
    async fn insist(
        &self,
        wrong: impl for<'a> Fn(&'a mut Raw) -> futures_util::future::BoxFuture<'a, std::io::Result<()>>,
    ) -> Option<u16> {
        let mut raw = self.welcome().await.ok()?;
        for _ in 0..20 {
            // It may be closed already; then the reason is still to be read.
            let _ = wrong(&mut raw).await;
        }
        raw.until_closed().await
    }

    /// Watches all, for a while. What the SDK would hide shows here: versions that go back on a connection.
    async fn watch(&self) -> Option<u16> {
        let mut raw = self.welcome().await.ok()?;
        raw.text(&json!({ "id": 2, "watch": { "users": *self.others } }).to_string()).await.ok()?;
        let mut versions: BTreeMap<String, u64> = BTreeMap::new();
        let until = time::now() + self.dice.between(1, 10) * 1_000_000_000;
        while time::now() < until {
            let Ok(said) = clock::timeout(Duration::from_secs(1), raw.next()).await else { continue };
            let text = match said.ok()? {
                Said::Text(text) => text,
                Said::Close(code) => return Some(code),
                Said::Other => continue,
            };
            let frame: serde_json::Value = serde_json::from_str(&text).ok()?;
            if frame.get("ping").is_some() {
                raw.text("{\"pong\":{}}").await.ok()?;
            }
            let (Some(user), Some(v)) = (frame["presence"]["user"].as_str(), frame["presence"]["v"].as_u64()) else {
                continue;
            };
            let before = versions.insert(user.to_owned(), v).unwrap_or(0);
            if v < before {
                self.ledger.complain(format!("G5: {user} was seen at {before} and then at {v}, on one connection"));
            }
        }
        None
    }

    async fn flood(&self) -> Option<u16> {
        let mut raw = self.welcome().await.ok()?;
        for n in 0..1_000 {
            let send = json!({ "id": n + 2, "send": { "to": self.user, "key": n.to_string(), "body": "flood" } });
            clock::timeout(Duration::from_secs(2), raw.text(&send.to_string())).await.ok()?.ok()?;
        }
        None
    }

    async fn storm(&self, count: u64) -> Option<u16> {
        let each = (0..count).map(|n| async move {
            let user = format!("{STRANGER}storm{n}");
            let mut raw = Raw::open(&self.net, self.addr()).await.ok()?;
            raw.text(&self.hello(&user, TOKEN_SECRET, EXPIRES_MS)).await.ok()?;
            clock::timeout(Duration::from_secs(1), raw.until_closed()).await.ok().flatten()
        });
        join_all(each).await;
        None
    }
}
