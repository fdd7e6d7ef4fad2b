//! A black-box probe: from outside, like a user. It connects, sends itself a message, receives it,
//! and leaves; whether and how fast is the availability that users see.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::env::clock;
use cluster::sync::lock;
use im_gateway::client::{Event, Stopped};
use madsim::runtime::Handle;
use serde_json::json;

use super::{ClientSetup, Start, bots};
use crate::dice::Dice;
use crate::ledger::{ClientId, Ledger};
use crate::net::SimNet;
use crate::time;
use crate::world::World;

/// A probe that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// One probe.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// When it began, in ns.
    pub at: u64,
    /// How long it took to have a session and to have its message back, in ns; none if it failed.
    pub took: Option<(u64, u64)>,
}

/// Probes all the time. Clones are the same.
#[derive(Clone)]
pub struct Prober {
    world: World,
    ledger: Ledger,
    seed: u64,
    net: Arc<SimNet>,
    probes: Arc<Mutex<Vec<Probe>>>,
}

impl Prober {
    /// On a machine of its own.
    pub fn new(world: World, ledger: Ledger, seed: u64) -> Self {
        let net = world.client_net();
        Self { world, ledger, seed, net, probes: Arc::default() }
    }

    /// Probes every `period`.
    pub fn start(&self, period: Duration) {
        let machine = Handle::current().create_node().name("prober").build();
        let each = self.clone();
        machine.spawn(async move {
            loop {
                let next = time::now() + time::nanos(period);
                each.probe().await;
                time::sleep(Duration::from_nanos(next.saturating_sub(time::now()))).await;
            }
        });
    }

    /// What came of all probes.
    pub fn probes(&self) -> Vec<Probe> {
        lock(&self.probes).clone()
    }

    async fn probe(&self) {
        let start = Start { ephemeral: true, ..Start::of("probe", "p") };
        let id = self.ledger.start(start.device.clone(), true, false);
        let dice = Dice::new(self.seed, &format!("probe {id}"));
        let (net, urls, ledger) = (self.net.clone(), self.world.urls(), self.ledger.clone());
        let setup = ClientSetup { id, start, net, urls, ledger, dice, tokens_ms: 0 };
        let at = time::now();
        let client = setup.client();
        let whole = clock::timeout(PATIENCE, self.round(&client, id, at)).await;
        let took = whole.ok().flatten();
        self.world.trace().lazy("probe", || json!({ "ok": took.is_some(), "took": took.map(|(c, m)| [c, m]) }));
        lock(&self.probes).push(Probe { at, took });
        self.ledger.closed(id);
        client.close().await;
        // What it was told while it left.
        while let Some(event) = client.next().await {
            self.note(id, event);
        }
    }

    /// Returns how long it took to be welcomed, and from sending to receiving.
    async fn round(&self, client: &im_gateway::client::Client, id: ClientId, at: u64) -> Option<(u64, u64)> {
        let (mut welcomed, mut sent) = (None, None);
        loop {
            let event = client.next().await?;
            if matches!(event, Event::Connected { .. }) && sent.is_none() {
                welcomed = Some(time::now() - at);
                let name = self.ledger.sent(id, "probe");
                let receipt = client.try_send("probe", Some(&name.to_string()), &name.to_string()).ok()?;
                let ledger = self.ledger.clone();
                tokio::spawn(async move { ledger.fate(id, name, receipt.await) });
                sent = Some((name, time::now()));
            }
            let ours = sent.filter(|(name, _)| {
                matches!(&event, Event::Message(message) if crate::ledger::Name::of_body(message.body.get()) == Some(*name))
            });
            self.note(id, event);
            if let Some((_, sent_at)) = ours {
                return Some((welcomed?, time::now() - sent_at));
            }
        }
    }

    fn note(&self, id: ClientId, event: Event) {
        // Of its delivery to itself it knows anyway, and its end is written down when it begins to leave.
        if !matches!(event, Event::Delivered { .. } | Event::Stopped(Stopped::Closed)) {
            bots::note(id, &self.ledger, event);
        }
    }
}
