//! Users whose tokens are revoked again and again while they chat with themselves.
//!
//! Invariant: an exile uses a token until a node says that it counts no more, and only then gets another
//! one; everything that it is told by each token is written down.

use std::sync::Arc;
use std::time::Duration;

use cluster::env::clock;
use im_gateway::auth::issue;
use im_gateway::protocol::Hello;
use madsim::runtime::Handle;
use serde_json::{Value, json};

use super::raw::{Raw, Said};
use super::{EXPIRES_MS, STRANGER};
use crate::dice::Dice;
use crate::ledger::{Got, Ledger};
use crate::nemesis::operator::revoke;
use crate::net::SimNet;
use crate::process::TOKEN_SECRET;
use crate::time;
use crate::world::World;

/// Between two messages to itself.
const PACE: Duration = Duration::from_millis(300);
/// Between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(200);
/// A connection that is silent for so long is given up.
const SILENT: Duration = Duration::from_secs(60);

/// One exile's surroundings.
struct Exile {
    user: String,
    net: Arc<SimNet>,
    addrs: Vec<String>,
    dice: Dice,
    ledger: Ledger,
    until: u64,
}

/// A token in use.
struct Token {
    text: String,
    /// Its number in the book.
    number: usize,
    instance: String,
}

/// Lives until the end of the run; its tokens are revoked until `until`, and so are old ones of others.
pub async fn live(n: usize, world: World, ledger: Ledger, others: Arc<Vec<String>>, dice: Dice, until: u64) {
    let user = format!("{STRANGER}exile{n}");
    let machine = Handle::current().create_node().name(format!("exile {n}")).build();
    let (net, addrs) = (world.client_net(), world.client_addrs());
    let own = Dice::new(dice.between(0, u64::MAX - 1), "exile");
    let exile = Exile { user: user.clone(), net, addrs, dice: own, ledger: ledger.clone(), until };
    machine.spawn(exile.live());
    loop {
        time::sleep(Duration::from_millis(dice.between(1_000, 6_000))).await;
        if time::now() >= until {
            return;
        }
        let Some(issued_ms) = ledger.last_issued(&user) else { continue };
        let on = dice.between(0, world.len() as u64 - 1) as usize;
        revoke(&world, on, &user, issued_ms + 1_000).await;
        // Somebody whose tokens are all newer notices nothing.
        if dice.one_in(2) {
            revoke(&world, on, &others[dice.between(0, others.len() as u64 - 1) as usize], 1).await;
        }
    }
}

impl Exile {
    async fn live(self) {
        while time::now() < self.until {
            let token = self.log_in();
            while !self.visit(&token).await.unwrap_or(false) {
                time::sleep(AGAIN).await;
                if time::now() >= self.until {
                    break;
                }
            }
            // A token of the second up to which others are revoked would be taken for one of them.
            time::sleep(Duration::from_secs(2)).await;
        }
    }

    fn log_in(&self) -> Token {
        // As the token says it, in whole seconds.
        let issued_ms = clock::wall_ms() / 1_000 * 1_000;
        let text = issue(TOKEN_SECRET, &self.user, None, EXPIRES_MS).expect("HS256 signs");
        let instance = format!("{} {issued_ms}", self.user);
        let number = self.ledger.exile(&self.user, Hello::instance_hash(&instance), issued_ms);
        Token { text, number, instance }
    }

    /// One connection; whether it was told that its token counts no more.
    async fn visit(&self, token: &Token) -> std::io::Result<bool> {
        let addr = &self.addrs[self.dice.between(0, self.addrs.len() as u64 - 1) as usize];
        let mut raw = match clock::timeout(SILENT, Raw::open(&self.net, addr)).await {
            Ok(opened) => opened?,
            Err(_) => return Ok(false),
        };
        let hello = json!({ "token": token.text, "device": "x", "instance": token.instance, "attempt": time::now() });
        raw.text(&json!({ "id": 1, "hello": hello }).to_string()).await?;
        let (mut welcome, mut next_id, mut heard) = (false, 2, time::now());
        loop {
            match clock::timeout(PACE, raw.next()).await {
                Ok(said) => {
                    heard = time::now();
                    match said? {
                        Said::Close(code) => {
                            if code == 4500 {
                                self.ledger.exile_got(token.number, Got::Refusal);
                            }
                            return Ok(code == 4500);
                        }
                        Said::Text(text) => {
                            welcome |= text.contains("\"welcome\"");
                            self.take(&mut raw, token, &text).await?;
                        }
                        Said::Other => {}
                    }
                }
                Err(_) if time::now() > heard + time::nanos(SILENT) => return Ok(false),
                Err(_) if welcome && time::now() < self.until => {
                    let key = format!("{} {next_id}", token.instance);
                    let send = json!({ "to": self.user, "key": key, "body": next_id });
                    raw.text(&json!({ "id": next_id, "send": send }).to_string()).await?;
                    next_id += 1;
                }
                Err(_) => {}
            }
        }
    }

    async fn take(&self, raw: &mut Raw, token: &Token, text: &str) -> std::io::Result<()> {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        if let Some(epoch) = frame["welcome"]["session"].as_str().and_then(|epoch| epoch.parse().ok()) {
            self.ledger.exile_got(token.number, Got::Welcome(epoch));
        } else if let Some(mid) = frame["ok"]["mid"].as_str() {
            self.ledger.exile_got(token.number, Got::Ok(mid.to_owned()));
        } else if let Some(seq) = frame["seq"].as_u64() {
            self.ledger.exile_got(token.number, Got::Item(seq));
            raw.text(&json!({ "ack": seq }).to_string()).await?;
        } else if !frame["ping"].is_null() {
            raw.text("{\"pong\":{}}").await?;
        }
        Ok(())
    }
}
