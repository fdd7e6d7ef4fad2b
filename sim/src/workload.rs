//! Clients: users with devices, who chat through the SDK over the simulated network.

use std::sync::Arc;
use std::time::Duration;

use im_gateway::auth::issue;
use im_gateway::client::{Client, Event, Fate, Stopped};
use madsim::runtime::Handle;
use tokio::sync::watch;

use crate::dice::Dice;
use crate::ledger::{ClientId, Device, Ledger};
use crate::plan::Plan;
use crate::process::TOKEN_SECRET;
use crate::time;
use crate::world::World;

/// The user who is absent until most was sent.
const LATE: &str = "late";
/// Expiry of tokens, ms since the Unix epoch: after every run.
const EXPIRES_MS: u64 = 4_000_000_000_000;

/// All clients of a run.
pub struct Workload {
    world: World,
    ledger: Ledger,
    seed: u64,
    /// Users who chat from the beginning; the first one has two devices.
    users: u64,
    /// Longest pause between two messages of a sender.
    pause: Duration,
    /// Whether senders send.
    sending: watch::Sender<bool>,
}

impl Workload {
    /// The devices that are there from the beginning, connecting.
    pub fn start(world: World, ledger: Ledger, plan: &Plan) -> Self {
        let (seed, users, pause) = (plan.seed, plan.users, plan.pause());
        let workload = Self { world, ledger, seed, users, pause, sending: watch::Sender::new(false) };
        for n in 0..users {
            workload.connect(&format!("u{n}"), "a");
        }
        workload.connect("u0", "b");
        workload
    }

    /// Lets senders send, for as long as `traffic`; late comers come meanwhile.
    pub async fn chat(&self, traffic: Duration) {
        self.sending.send_replace(true);
        time::sleep(traffic.mul_f64(0.4)).await;
        // A new device of a user who has some: it gets what is sent from now on.
        self.connect("u0", "c");
        // The same device once more, elsewhere: the newer one wins.
        self.connect("u1", "a");
        time::sleep(traffic.mul_f64(0.3)).await;
        // The first device of a user to whom others have been writing: it gets everything.
        self.connect(LATE, "a");
        time::sleep(traffic.mul_f64(0.3)).await;
        self.sending.send_replace(false);
    }

    /// Starts a client on a machine of its own.
    fn connect(&self, user: &str, device: &str) {
        let device = Device { user: user.to_owned(), device: device.to_owned() };
        let id = self.ledger.start(device.clone());
        let machine = Handle::current().create_node().name(format!("{device}@{id}")).build();
        let (net, urls) = (self.world.client_net(), self.world.urls());
        let dice = Dice::new(self.seed, &format!("client {id}"));
        let first = dice.between(0, urls.len() as u64 - 1) as usize;
        let (ledger, users, pause) = (self.ledger.clone(), self.users, self.pause);
        let sender = Sender { id, ledger, users, pause, dice, sending: self.sending.subscribe() };
        machine.spawn(async move {
            let token = issue(TOKEN_SECRET, &device.user, None, EXPIRES_MS).expect("HS256 signs");
            let builder = Client::builder(net, urls, Arc::new(token), &device.device);
            let client = builder.first(first).connect().expect("the URLs are well-formed");
            let ledger = sender.ledger.clone();
            tokio::spawn(sender.run(client.clone()));
            report(client, id, ledger).await;
        });
    }
}

/// Writes down whatever a client is told.
async fn report(client: Client, id: ClientId, ledger: Ledger) {
    while let Some(event) = client.next().await {
        match event {
            Event::Message(message) => ledger.received(id, message),
            Event::Gap { lost, .. } => ledger.gap(id, lost),
            Event::Delivered { .. } => {}
            Event::Connected { address, session, .. } => ledger.connected(id, &address, &session),
            Event::Disconnected { reason } => ledger.disconnected(id, &reason),
            Event::Stopped(Stopped::Refused { code, .. }) => ledger.refused(id, code),
            Event::Stopped(Stopped::Closed) => {}
        }
    }
}

/// One client's sending.
struct Sender {
    id: ClientId,
    ledger: Ledger,
    users: u64,
    pause: Duration,
    dice: Dice,
    sending: watch::Receiver<bool>,
}

impl Sender {
    async fn run(mut self, client: Client) {
        for number in 0.. {
            if self.sending.wait_for(|&sending| sending).await.is_err() {
                return;
            }
            let longest = u64::try_from(self.pause.as_micros()).unwrap_or(u64::MAX);
            time::sleep(Duration::from_micros(self.dice.between(0, longest))).await;
            let to = match self.dice.between(0, self.users) {
                n if n == self.users => LATE.to_owned(),
                n => format!("u{n}"),
            };
            let name = self.ledger.sent(self.id, &to, number);
            let Ok(receipt) = client.send(&to, &name).await else {
                // Replaced by a newer client of its device.
                self.ledger.fate(&name, Fate::NotSent);
                return;
            };
            let ledger = self.ledger.clone();
            tokio::spawn(async move { ledger.fate(&name, receipt.await) });
        }
    }
}
