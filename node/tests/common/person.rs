//! Somebody who chats: a client on the SDK whose every message is in the ledger.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::env::clock;
use im_gateway::client::{Client, Event, Receipt, Stopped};
use im_gateway::env::Tcp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::ledger::{Arrival, Body, Ledger, Stream};
use super::{TestCluster, eventually, token};

/// One device of one user. When the last clone is dropped, it says goodbye.
#[derive(Clone)]
pub struct Person {
    pub name: String,
    pub device: String,
    client: Client,
    ledger: Arc<Ledger>,
    seen: Arc<Mutex<Seen>>,
    receipts: mpsc::UnboundedSender<(Stream, u64, Receipt)>,
    listener: Arc<Listener>,
}

/// The task that takes what comes; holds a handle of the client for as long as it runs.
struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a client was told beside messages.
#[derive(Debug, Default, Clone)]
struct Seen {
    /// The address of each node that it was connected to, the present one last.
    nodes: Vec<String>,
    /// Why each connection ended.
    ends: Vec<String>,
    connected: bool,
    stopped: Option<Stopped>,
    /// Messages of ours that a recipient has.
    delivered: u64,
}

/// Messages sent at a steady pace until it is stopped.
pub struct Talk {
    stop: watch::Sender<bool>,
    task: JoinHandle<u64>,
}

impl Person {
    /// Connects, to the first of these nodes if it can be had, and waits until it is welcome.
    pub async fn connect(
        cluster: &TestCluster,
        ledger: &Arc<Ledger>,
        name: &str,
        device: &str,
        nodes: &[usize],
    ) -> Self {
        let person = Self::begin(cluster, ledger, name, device, nodes);
        person.connected().await;
        person
    }

    /// As [`Person::connect`], without waiting.
    pub fn begin(cluster: &TestCluster, ledger: &Arc<Ledger>, name: &str, device: &str, nodes: &[usize]) -> Self {
        let urls = nodes.iter().map(|node| cluster.url(*node)).collect();
        let builder = Client::builder(Arc::new(Tcp), urls, Arc::new(token(name)), device);
        let client = builder.secure(cluster.secure_net()).first(0).connect().expect("the URLs are good");
        ledger.device(name, device);
        let (receipts, to_collect) = mpsc::unbounded_channel();
        let seen = Arc::new(Mutex::new(Seen::default()));
        tokio::spawn(collect(ledger.clone(), to_collect));
        let (name, device) = (name.to_owned(), device.to_owned());
        let note = note(name.clone(), device.clone(), ledger.clone(), seen.clone());
        let listener = Arc::new(Listener(tokio::spawn(listen(client.clone(), note))));
        Self { name, device, client, ledger: ledger.clone(), seen, receipts, listener }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().expect("nobody panics with the lock held").clone()
    }

    /// Waits until it is connected.
    pub async fn connected(&self) {
        eventually(&format!("{} connects", self.name), async || self.seen().connected.then_some(())).await;
    }

    /// Waits until it has connected `times` times in all, and still is.
    pub async fn connected_times(&self, times: usize) {
        eventually(&format!("{} connects again", self.name), async || {
            let seen = self.seen();
            (seen.connected && seen.nodes.len() >= times).then_some(())
        })
        .await;
    }

    /// `host:port` of the node that it was last connected to.
    pub fn node(&self) -> Option<String> {
        self.seen().nodes.last().cloned()
    }

    /// How often it was connected.
    pub fn connections(&self) -> usize {
        self.seen().nodes.len()
    }

    /// Why each of its connections ended so far.
    pub fn ends(&self) -> Vec<String> {
        self.seen().ends
    }

    /// Why it will not come back, if so.
    pub fn stopped(&self) -> Option<Stopped> {
        self.seen().stopped
    }

    /// How many of its messages it knows to have arrived.
    pub fn delivered(&self) -> u64 {
        self.seen().delivered
    }

    /// Sends one message; the ledger waits for its `ok`.
    pub async fn say(&self, to: &str) {
        self.say_padded(to, 0).await;
    }

    /// As [`Person::say`], with so many bytes more.
    pub async fn say_padded(&self, to: &str, bytes: usize) {
        let stream = Stream { from: self.name.clone(), device: self.device.clone(), to: to.to_owned() };
        let n = self.ledger.number(&stream);
        let body = Body { n, pad: "x".repeat(bytes) };
        let receipt = self.client.send(to, &body).await.expect("the client goes on");
        self.receipts.send((stream, n, receipt)).expect("the collector goes on");
    }

    /// Sends `count` messages.
    pub async fn say_many(&self, to: &str, count: usize) {
        for _ in 0..count {
            self.say(to).await;
        }
    }

    /// Sends a message every `pace` until it is stopped.
    pub fn talk(&self, to: &str, pace: Duration) -> Talk {
        let (stop, stopped) = watch::channel(false);
        let (person, to) = (self.clone(), to.to_owned());
        let task = tokio::spawn(async move {
            let mut beat = clock::interval(pace);
            let mut count = 0;
            while !*stopped.borrow() {
                person.say(&to).await;
                count += 1;
                beat.tick().await;
            }
            count
        });
        Talk { stop, task }
    }

    /// Says goodbye.
    pub async fn leave(self) {
        self.client.flush().await;
        self.client.close().await;
        drop(self.listener);
    }
}

impl Talk {
    /// Ends it; how many messages were sent.
    pub async fn stop(self) -> u64 {
        self.stop.send_replace(true);
        self.task.await.expect("it does not panic")
    }
}

/// Fates come in about the order of the messages, so waiting for one after the other is fine.
async fn collect(ledger: Arc<Ledger>, mut receipts: mpsc::UnboundedReceiver<(Stream, u64, Receipt)>) {
    while let Some((stream, n, receipt)) = receipts.recv().await {
        ledger.fate(&stream, n, &receipt.await);
    }
}

/// Writes down what a client says.
fn note(name: String, device: String, ledger: Arc<Ledger>, seen: Arc<Mutex<Seen>>) -> impl FnMut(Event) + Send {
    move |event| {
        let mut seen = seen.lock().expect("nobody panics with the lock held");
        match event {
            Event::Message(message) => {
                let to = message.to.clone().unwrap_or_default();
                let stream = Stream { from: message.from.clone(), device: message.device.clone(), to };
                let arrival = Arrival { seq: message.seq, mid: message.mid, stream, body: message.body.get() };
                ledger.arrived(&name, &device, &arrival);
            }
            Event::Gap { lost, .. } => ledger.gap(&name, &device, lost),
            Event::Typing { .. }
            | Event::Presence { .. }
            | Event::WatchRefused { .. }
            | Event::RefreshRefused { .. }
            | Event::Read { .. } => {}
            Event::Delivered { .. } => seen.delivered += 1,
            Event::Connected { address, .. } => {
                seen.nodes.push(address);
                seen.connected = true;
            }
            Event::Disconnected { reason } => {
                seen.ends.push(reason);
                seen.connected = false;
            }
            Event::Stopped(why) => seen.stopped = Some(why),
        }
    }
}

async fn listen(client: Client, mut note: impl FnMut(Event)) {
    while let Some(event) = client.next().await {
        note(event);
    }
}
