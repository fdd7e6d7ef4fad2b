//! How well-meaning clients behave.

use std::sync::Arc;
use std::time::Duration;

use im_gateway::client::{Client, Event, Fate, Receipt, SendError, Stopped};
use tokio::sync::watch;

use super::groups::{Groups, address};
use super::signals::Signals;
use super::watching::Watching;
use super::{ClientSetup, FORGOTTEN, SINK};
use crate::dice::Dice;
use crate::ledger::{ClientId, Ledger, Name};
use crate::time;

/// How long a slow consumer takes for a message.
const SLOW: Duration = Duration::from_secs(1);
/// How long a listener takes for a message, at most, ms: some none, some so long that they lag.
const LISTEN_MS: [u64; 3] = [0, 30, 300];
/// Most bytes that a flood's messages have.
const LARGE: u64 = 60_000;
/// Pause before a full queue is tried again.
const FULL: Duration = Duration::from_millis(50);

/// A client, connected or trying to be.
pub struct Bot {
    pub(super) setup: ClientSetup,
    pub(super) client: Client,
    pub(super) recipients: Arc<Vec<String>>,
    pub(super) groups: Groups,
    pub(super) watching: Watching,
    pub(super) signals: Signals,
    pub(super) sending: watch::Receiver<bool>,
    pub(super) pause: Duration,
    /// Most bytes that are added to a message.
    pub(super) padding: u64,
}

impl Bot {
    /// Sends, and takes whatever comes.
    pub async fn chat(self) {
        let (client, id, ledger) = (self.client.clone(), self.setup.id, self.setup.ledger.clone());
        tokio::spawn(self.groups.clone().live(self.client.clone(), self.sending.clone()));
        tokio::spawn(self.watching.clone().live(client.clone(), id, ledger.clone(), self.sending.clone()));
        tokio::spawn(self.signals.clone().live(client.clone(), id, ledger.clone(), self.sending.clone()));
        tokio::spawn(self.send_until_ended());
        report(&client, id, &ledger, || Duration::ZERO).await;
    }

    /// First sends again what earlier clients of its device left without an answer: same key, same
    /// body, on whatever node.
    pub async fn resume(self) {
        for (name, to) in self.setup.ledger.unanswered(self.setup.id) {
            let body = body(name, self.padding);
            let Ok(receipt) = self.give(name, &to, &body).await else { return };
            self.await_fate(name, receipt);
        }
        self.chat().await;
    }

    /// Chats, and forgets its user's other device now and then, wherever that is and whether it is there or not.
    pub async fn forget_other(self) {
        let (client, mut sending) = (self.client.clone(), self.sending.clone());
        let dice = Dice::new(self.setup.dice.between(0, u64::MAX - 1), "forgets");
        tokio::spawn(async move {
            while sending.wait_for(|&sending| sending).await.is_ok() {
                time::sleep(Duration::from_millis(dice.between(1_000, 6_000))).await;
                let Ok(receipt) = client.forget(FORGOTTEN).await else { return };
                receipt.await;
            }
        });
        self.chat().await;
    }

    /// Writes large messages to a user of its own, as fast as it is let.
    pub async fn flood(self) {
        let sink = self.setup.start.device.user.replace("flood", SINK);
        let (client, id, ledger) = (self.client.clone(), self.setup.id, self.setup.ledger.clone());
        let bot = Self { recipients: Arc::new(vec![sink]), pause: Duration::ZERO, padding: LARGE, ..self };
        tokio::spawn(bot.send_until_ended());
        report(&client, id, &ledger, || Duration::ZERO).await;
    }

    /// Takes a message a second while others send, and all there is afterwards.
    pub async fn dawdle(self) {
        let (sending, id) = (self.sending.clone(), self.setup.id);
        tokio::spawn(self.groups.clone().live(self.client.clone(), sending.clone()));
        let pace = || if *sending.borrow() { SLOW } else { Duration::ZERO };
        report(&self.client, id, &self.setup.ledger, pace).await;
    }

    /// Takes whatever comes, and says nothing; slowly while others send, if its application takes its time.
    pub async fn listen(self) {
        let slowest = if self.setup.start.slow { self.setup.dice.pick(&LISTEN_MS) } else { 0 };
        let pace = || {
            let slowest = if *self.sending.borrow() { slowest } else { 0 };
            Duration::from_millis(self.setup.dice.between(0, slowest))
        };
        report(&self.client, self.setup.id, &self.setup.ledger, pace).await;
    }

    async fn send_until_ended(mut self) {
        loop {
            if self.sending.wait_for(|&sending| sending).await.is_err() {
                return;
            }
            let longest = u64::try_from(self.pause.as_micros()).unwrap_or(u64::MAX);
            time::sleep(Duration::from_micros(self.setup.dice.between(0, longest))).await;
            if !*self.sending.borrow() {
                continue;
            }
            let user = &self.recipients[self.setup.dice.between(0, self.recipients.len() as u64 - 1) as usize];
            let to = self.groups.pick().unwrap_or_else(|| user.clone());
            let name = self.setup.ledger.sent(self.setup.id, &to);
            let Ok(receipt) = self.give(name, &to, &body(name, self.padding)).await else {
                // Replaced by a newer client of its device.
                self.setup.ledger.fate(self.setup.id, name, Fate::NotSent);
                return;
            };
            self.await_fate(name, receipt);
        }
    }

    /// Gives a message to the SDK, under the key that is its name.
    async fn give(&self, name: Name, to: &str, body: &str) -> Result<Receipt, SendError> {
        loop {
            match self.client.try_send(address(to), Some(&name.to_string()), &body) {
                Err(SendError::Full) => time::sleep(FULL).await,
                given => return given,
            }
        }
    }

    fn await_fate(&self, name: Name, receipt: Receipt) {
        let (ledger, id) = (self.setup.ledger.clone(), self.setup.id);
        tokio::spawn(async move { ledger.fate(id, name, receipt.await) });
    }
}

/// A message's body: the same whoever sends it again.
fn body(name: Name, padding: u64) -> String {
    let len = (name.number as u64 * 7_919 + name.client as u64 * 104_729) % (padding + 1);
    format!("{name} {}", "x".repeat(usize::try_from(len).unwrap_or(0)))
}

/// Writes down whatever a client is told; takes so long for each message.
pub(super) async fn report(client: &Client, id: ClientId, ledger: &Ledger, pace: impl Fn() -> Duration) {
    while let Some(event) = client.next().await {
        let is_message = matches!(event, Event::Message(_));
        note(id, ledger, event);
        if is_message {
            let pause = pace();
            if !pause.is_zero() {
                time::sleep(pause).await;
            }
        }
    }
}

/// Writes down one thing that a client is told.
pub(super) fn note(id: ClientId, ledger: &Ledger, event: Event) {
    match event {
        Event::Message(message) => ledger.received(id, message),
        Event::Gap { seq, lost, .. } => ledger.gap(id, seq, lost),
        Event::Presence { user, devices, version } => ledger.saw(id, &user, devices, version),
        Event::WatchRefused { users, code } => ledger.complain(format!("G5: {users:?} are not watched: {code:?}")),
        Event::Typing { from } => ledger.was_marked(id, from, None),
        Event::Read { by, mid } => ledger.was_marked(id, by, Some(mid)),
        Event::RefreshRefused { message } => ledger.complain(format!("a good token was not renewed: {message}")),
        Event::Delivered { mid, by } => ledger.told(id, mid, by),
        Event::Connected { address, session, .. } => ledger.connected(id, &address, &session),
        Event::Disconnected { reason } => ledger.disconnected(id, &reason),
        Event::Stopped(Stopped::Refused { code, .. }) => ledger.refused(id, code),
        Event::Stopped(Stopped::Closed) => ledger.closed(id),
    }
}
