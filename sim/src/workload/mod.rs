//! Clients: users with devices, who chat through the SDK over the simulated network; and strangers
//! who do not keep to any rules.

mod bots;
mod exiles;
mod groups;
mod http;
mod mix;
mod probe;
mod raw;
mod scrape;
mod signals;
mod strangers;
mod tracer;
mod watcher;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cluster::env::clock;
use futures_util::future::join_all;
use im_gateway::auth::issue;
use im_gateway::client::{Client, Tokens};
use madsim::runtime::Handle;
use tokio::sync::watch;

pub use groups::GROUP;
pub use mix::{Mix, draw_group_limits, draw_limits, is_tight};
pub use probe::{Probe, Prober};
pub use scrape::Scraper;
pub use tracer::trace_some;

use crate::dice::Dice;
use crate::ledger::{ClientId, Device, Ledger};
use crate::net::SimNet;
use crate::plan::Plan;
use crate::process::TOKEN_SECRET;
use crate::time;
use crate::world::World;
use bots::Bot;
use groups::Groups;
use signals::Signals;
use strangers::Stranger;
use watching::Watching;

/// The user who is absent until most was sent.
const LATE: &str = "late";
/// Users to whom a flood goes begin with this: how long that takes is no measure.
pub const SINK: &str = "sink";
/// Users of whom no oracle expects anything begin with this.
pub const STRANGER: &str = "x-";
/// The device that a forgetful user forgets.
const FORGOTTEN: &str = "b";
/// Who goes stays away for so long, ms, at most: mostly, and sometimes.
const SHORT_MS: u64 = 1_000;
const LONG_MS: u64 = 8_000;
/// How often it is looked whether a node is up.
const NOTICED: Duration = Duration::from_millis(20);
/// Expiry of tokens, ms since the Unix epoch: after every run.
const EXPIRES_MS: u64 = 4_000_000_000_000;

/// All clients of a run.
#[derive(Clone)]
pub struct Workload {
    world: World,
    ledger: Ledger,
    seed: u64,
    mix: Mix,
    /// Longest pause between two messages of a sender.
    pause: Duration,
    /// After which silence nodes give up a client; none with tiny buffers: what waited and goes on is life as well.
    silence: Option<Duration>,
    /// To whom senders write.
    recipients: Arc<Vec<String>>,
    /// Whether senders send.
    sending: Arc<watch::Sender<bool>>,
}

/// How a client begins.
#[derive(Clone)]
struct Start {
    device: Device,
    ephemeral: bool,
    /// It acknowledges nothing before that was taken: what it has acknowledged ahead, nobody gets when it dies.
    careful: bool,
    /// Its application takes its time.
    slow: bool,
    /// The node that it connects to first; any, if none.
    first: Option<usize>,
}

impl Start {
    fn of(user: &str, device: &str) -> Self {
        Self { device: Device::new(user, device), ephemeral: false, careful: false, slow: false, first: None }
    }

    /// Acknowledges what it has taken, and nothing ahead.
    fn slow(user: &str, device: &str) -> Self {
        Self { careful: true, slow: true, ..Self::of(user, device) }
    }
}

/// What a client's machine is given.
struct ClientSetup {
    id: ClientId,
    start: Start,
    net: Arc<SimNet>,
    urls: Vec<String>,
    ledger: Ledger,
    dice: Dice,
    /// See [`Mix::tokens_ms`].
    tokens_ms: u64,
}

/// Whoever gives a user tokens.
struct Issuer {
    user: String,
    good_ms: u64,
}

#[async_trait]
impl Tokens for Issuer {
    async fn token(&self) -> Result<String, String> {
        let expires_ms = if self.good_ms == 0 { EXPIRES_MS } else { clock::wall_ms() + self.good_ms };
        issue(TOKEN_SECRET, &self.user, None, expires_ms).map_err(|error| error.to_string())
    }
}

impl ClientSetup {
    /// Connects; on the client's own machine.
    fn client(&self) -> Client {
        let Start { device, ephemeral, careful, first, .. } = &self.start;
        let any = self.dice.between(0, self.urls.len() as u64 - 1) as usize;
        let first = first.unwrap_or(any);
        let tokens = Issuer { user: device.user.clone(), good_ms: self.tokens_ms };
        let builder = Client::builder(self.net.clone(), self.urls.clone(), Arc::new(tokens), &device.device);
        let mut builder = builder.first(first).ephemeral(*ephemeral);
        if *careful {
            builder = builder.ahead(0);
        }
        builder.connect().expect("the URLs are well-formed")
    }
}

fn named(kind: &str, count: u64) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("{kind}{n}"))
}

impl Workload {
    /// The devices that are there from the beginning, connecting.
    pub fn start(world: World, ledger: Ledger, plan: &Plan) -> Self {
        let (seed, mix) = (plan.seed, plan.clients.clone());
        let mut recipients: Vec<_> = named("u", plan.users).collect();
        recipients.push(LATE.to_owned());
        recipients.extend(named("roamer", mix.roamers));
        recipients.extend(named("guest", mix.ephemeral));
        recipients.extend(named("slow", mix.slow));
        recipients.extend(named("dozer", mix.dozers));
        recipients.extend(named("twin", mix.twins));
        recipients.extend(named("forgetful", mix.forgetful));
        recipients.extend(named("outcast", mix.outcasts));
        recipients.extend(named("neighbour", mix.neighbours));
        recipients.extend(named("x-rude", mix.rude));
        let (recipients, sending) = (Arc::new(recipients), Arc::new(watch::Sender::new(false)));
        let silence = (!plan.tiny).then(|| Duration::from_millis(2 * plan.ping_ms));
        let workload = Self { world, ledger, seed, mix, pause: plan.pause(), silence, recipients, sending };
        for (n, user) in named("u", plan.users).enumerate() {
            workload.chatting(Start::of(&user, "a"));
            if (n as u64) < workload.mix.multi_device_users {
                workload.chatting(Start::of(&user, "b"));
            }
        }
        for user in named("slow", workload.mix.slow) {
            workload.bot(Start::slow(&user, "a"), Bot::dawdle);
        }
        for user in named("dozer", workload.mix.dozers) {
            workload.bot(Start::of(&user, "a"), Bot::listen);
        }
        for (flood, sink) in named("flood", workload.mix.floods).zip(named(SINK, workload.mix.floods)) {
            workload.bot(Start::of(&sink, "a"), Bot::listen);
            workload.bot(Start::of(&flood, "a"), Bot::flood);
        }
        workload
    }

    /// Lets senders send, for as long as `traffic`; late comers come meanwhile.
    pub async fn chat(&self, traffic: Duration) {
        self.sending.send_replace(true);
        let others = self.others(traffic);
        let regulars = async {
            time::sleep(traffic.mul_f64(0.4)).await;
            // A new device of a user who has some: it gets what is sent from now on.
            self.chatting(Start::of("u0", "c"));
            // The same device once more, elsewhere: the newer one wins.
            self.chatting(Start::of("u1", "a"));
            time::sleep(traffic.mul_f64(0.3)).await;
            // The first device of a user to whom others have been writing: it gets everything.
            self.chatting(Start::of(LATE, "a"));
            time::sleep(traffic.mul_f64(0.3)).await;
            self.sending.send_replace(false);
        };
        tokio::join!(regulars, others);
    }

    /// Those who come and go, and strangers, until `traffic` is over.
    async fn others(&self, traffic: Duration) {
        let until = time::now() + time::nanos(traffic);
        let roamers =
            named("roamer", self.mix.roamers).map(|user| self.roam(Start::of(&user, "a"), Bot::resume, until));
        let roamers = join_all(roamers);
        let guests = named("guest", self.mix.ephemeral)
            .map(|user| self.roam(Start { ephemeral: true, ..Start::of(&user, "tab") }, Bot::resume, until));
        let guests = join_all(guests);
        let dozers = named("dozer", self.mix.dozers);
        let dozers = join_all(dozers.map(|user| self.roam(Start::slow(&user, "b"), Bot::dawdle, until)));
        let twins = join_all(named("twin", self.mix.twins).map(|user| self.double(Start::slow(&user, "a"), until)));
        let forgetful = named("forgetful", self.mix.forgetful).map(|user| async move {
            self.bot(Start::of(&user, "a"), Bot::forget_other);
            self.roam(Start::of(&user, FORGOTTEN), Bot::resume, until).await;
        });
        let forgetful = join_all(forgetful);
        let outcasts = named("outcast", self.mix.outcasts).map(|user| async move {
            self.bot(Start::of(&user, "a"), Bot::forget_other);
            self.stay(Start::of(&user, FORGOTTEN), until).await;
        });
        let outcasts = join_all(outcasts);
        let neighbours = named("neighbour", self.mix.neighbours).enumerate();
        let neighbours = join_all(neighbours.map(|(n, user)| self.live_beside(n, Start::of(&user, "a"), until)));
        let kinds = Stranger::all(&self.mix, &Dice::new(self.seed, "strangers"));
        let strangers = kinds.into_iter().enumerate().map(|(n, stranger)| {
            let dice = Dice::new(self.seed, &format!("stranger {n}"));
            strangers::live(stranger, n, self.world.clone(), self.ledger.clone(), dice, self.silence, until)
        });
        let watcher = async {
            if self.mix.watches > 0 {
                let (world, ledger, others) = (self.world.clone(), self.ledger.clone(), self.recipients.clone());
                watcher::live(world, ledger, others, Dice::new(self.seed, "watcher"), until).await;
            }
        };
        let exiles = (0..self.mix.exiles as usize).map(|n| {
            let dice = Dice::new(self.seed, &format!("exile {n}"));
            exiles::live(n, self.world.clone(), self.ledger.clone(), self.recipients.clone(), dice, until)
        });
        let comers = async { tokio::join!(roamers, guests, dozers, twins, forgetful, outcasts, neighbours) };
        tokio::join!(comers, join_all(strangers), join_all(exiles), watcher);
    }

    /// A client that sends and takes whatever comes.
    fn chatting(&self, start: Start) {
        self.bot(start, Bot::chat);
    }

    /// Starts a client on a machine of its own; returns its number and that machine.
    fn bot<F>(&self, start: Start, behave: fn(Bot) -> F) -> (ClientId, ClientHost)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let id = self.ledger.start(start.device.clone(), start.ephemeral, start.slow);
        let node = Handle::current().create_node().name(format!("{}@{id}", start.device)).build();
        let net = self.world.client_net();
        let machine = ClientHost { node: node.id(), net: net.clone() };
        let dice = Dice::new(self.seed, &format!("client {id}"));
        let (urls, ledger, tokens_ms) = (self.world.urls(), self.ledger.clone(), self.mix.tokens_ms);
        let setup = ClientSetup { id, start, net, urls, ledger, dice, tokens_ms };
        let (recipients, sending) = (self.recipients.clone(), self.sending.subscribe());
        let dice = Dice::new(self.seed, &format!("groups of client {id}"));
        let groups = Groups::new(self.mix.groups, dice, id, self.ledger.clone());
        let dice = Dice::new(self.seed, &format!("watches of client {id}"));
        let watching = Watching { count: self.mix.watches, users: recipients.clone(), dice };
        let dice = Dice::new(self.seed, &format!("signals of client {id}"));
        let signals = Signals { pause_ms: self.mix.signals_ms, users: recipients.clone(), dice };
        let (pause, padding) = (self.pause, self.mix.padding);
        node.spawn(async move {
            let client = setup.client();
            behave(Bot { setup, client, recipients, groups, watching, signals, sending, pause, padding }).await;
        });
        (id, machine)
    }

    /// A device whose client dies, or leaves, again and again, and is back elsewhere soon. What had
    /// no answer is sent again under its key by the next one.
    async fn roam<F>(&self, start: Start, behave: fn(Bot) -> F, until: u64)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let dice = Dice::new(self.seed, &format!("life of {}", start.device));
        let start = Start { careful: true, ..start };
        loop {
            let (id, machine) = self.bot(start.clone(), behave);
            time::sleep(Duration::from_millis(dice.between(500, 5_000))).await;
            if time::now() >= until {
                return;
            }
            self.ledger.closed(id);
            machine.kill();
            let longest = if dice.one_in(4) { LONG_MS } else { SHORT_MS };
            time::sleep(Duration::from_millis(dice.between(0, longest))).await;
        }
    }

    /// A device whose clients stay until they are sent away, one after the other.
    async fn stay(&self, start: Start, until: u64) {
        let dice = Dice::new(self.seed, &format!("life of {}", start.device));
        let start = Start { careful: true, ..start };
        while time::now() < until {
            let (id, _) = self.bot(start.clone(), Bot::resume);
            while self.ledger.book().clients[id].is_running() && time::now() < until {
                time::sleep(NOTICED).await;
            }
            time::sleep(Duration::from_millis(dice.between(0, SHORT_MS))).await;
        }
    }

    /// A user whose client is beside a node, and loses its network whenever that goes down: so it is the cluster that
    /// ends the session, and the user stays away for long enough to be missed.
    async fn live_beside(&self, node: usize, start: Start, until: u64) {
        let dice = Dice::new(self.seed, &format!("life of {}", start.device));
        let start = Start { careful: true, first: Some(node), ..start };
        loop {
            let (id, machine) = self.bot(start.clone(), Bot::resume);
            while self.world.is_up(node) && time::now() < until {
                time::sleep(NOTICED).await;
            }
            if time::now() >= until {
                return;
            }
            self.ledger.closed(id);
            machine.kill();
            time::sleep(Duration::from_millis(dice.between(SHORT_MS, LONG_MS))).await;
            while !self.world.is_up(node) && time::now() < until {
                time::sleep(NOTICED).await;
            }
        }
    }

    /// A device that is started anew elsewhere again and again, while its last client still has it.
    async fn double(&self, start: Start, until: u64) {
        let dice = Dice::new(self.seed, &format!("lives of {}", start.device));
        while time::now() < until {
            self.bot(start.clone(), Bot::listen);
            time::sleep(Duration::from_millis(dice.between(200, 5_000))).await;
        }
    }
}

/// A client's machine.
struct ClientHost {
    node: madsim::task::NodeId,
    net: Arc<SimNet>,
}

impl ClientHost {
    /// The process dies without a word; its system closes what it had open.
    fn kill(&self) {
        self.net.kill();
        Handle::current().kill(self.node);
    }
}
