//! A client that keeps to all rules, and watches by hand. What the SDK would hide shows here: versions that go back on
//! a connection.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use cluster::env::clock;
use madsim::runtime::Handle;
use serde_json::{Value, json};

use super::STRANGER;
use super::raw::{PONG, Raw, Said};
use super::strangers::ANY_TIME;
use crate::coverage;
use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::net::SimNet;
use crate::time;
use crate::world::World;

/// One connection, at most.
const VISIT: Duration = Duration::from_secs(60);

/// Its surroundings.
struct Watcher {
    user: String,
    net: Arc<SimNet>,
    addrs: Vec<String>,
    /// Whom it watches.
    others: Arc<Vec<String>>,
    ledger: Ledger,
    dice: Dice,
}

/// Comes again and again until the end of traffic.
pub async fn live(world: World, ledger: Ledger, others: Arc<Vec<String>>, dice: Dice, until: u64) {
    let machine = Handle::current().create_node().name("watcher").build();
    let (net, addrs) = (world.client_net(), world.client_addrs());
    let user = format!("{STRANGER}watcher");
    let watcher = Watcher { user, net: net.clone(), addrs, others, ledger, dice };
    let task = machine.spawn(async move {
        loop {
            time::sleep(Duration::from_millis(watcher.dice.between(100, 4_000))).await;
            let visit = clock::timeout(VISIT, watcher.visit()).await;
            let code = visit.ok().and_then(Result::ok).flatten();
            world.trace().lazy("watcher", || json!({ "closed_with": code }));
            if let Some(code) = code.filter(|code| !ANY_TIME.contains(code)) {
                watcher.ledger.complain(format!("protocol: who watches by hand was closed with {code}"));
            }
        }
    });
    time::sleep(Duration::from_nanos(until.saturating_sub(time::now()))).await;
    drop(task);
    net.kill();
    Handle::current().kill(machine.id());
}

impl Watcher {
    /// Watches all, for a while; what the node closed it with, if it did.
    async fn visit(&self) -> io::Result<Option<u16>> {
        let addr = &self.addrs[self.dice.between(0, self.addrs.len() as u64 - 1) as usize];
        let mut raw = Raw::session(&self.net, addr, &self.user).await?;
        raw.text(&json!({ "id": 2, "watch": { "users": *self.others } }).to_string()).await?;
        let mut versions = BTreeMap::new();
        let until = time::now() + self.dice.between(1, 10) * 1_000_000_000;
        while time::now() < until {
            let Ok(said) = clock::timeout(Duration::from_secs(1), raw.next()).await else { continue };
            let frame: Value = match said? {
                Said::Text(text) => serde_json::from_str(&text)?,
                Said::Close(code) => return Ok(Some(code)),
                Said::Other => continue,
            };
            if frame.get("ping").is_some() {
                raw.text(PONG).await?;
            }
            self.saw(&frame["presence"], &mut versions);
        }
        Ok(None)
    }

    fn saw(&self, presence: &Value, versions: &mut BTreeMap<String, u64>) {
        let (Some(user), Some(v)) = (presence["user"].as_str(), presence["v"].as_u64()) else { return };
        coverage::reached("who watches by hand was told of somebody");
        let before = versions.insert(user.to_owned(), v).unwrap_or(0);
        if v < before {
            self.ledger.complain(format!("G5: {user} was seen at {before} and then at {v}, on one connection"));
        }
    }
}
