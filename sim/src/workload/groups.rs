//! The groups that a client's user is in.
//!
//! Every client that chats makes or joins all groups, and writes to one for every third message. Some
//! come and go. A user writes to a group only after it was told that it is in it, so a refusal is a lie
//! where nobody of that user's clients ever left.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::state::GroupAct;
use cluster::sync::lock;
use im_gateway::client::{Client, Fate, To};
use im_gateway::protocol::ErrorCode;
use tokio::sync::watch;

use crate::dice::Dice;
use crate::ledger::{ClientId, Ledger};
use crate::time;

/// Begins the name of a group where users' names can stand as well.
pub const GROUP: &str = "#";

/// Pause before something that could not be done yet is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// To whom a message goes that is for `to` in the book.
pub fn address(to: &str) -> To {
    match to.strip_prefix(GROUP) {
        Some(group) => To::Group(group.to_owned()),
        None => to.into(),
    }
}

/// See the module.
#[derive(Clone)]
pub struct Groups {
    names: Arc<Vec<String>>,
    /// Those that the user is in, as far as this client was told.
    joined: Arc<Mutex<Vec<String>>>,
    dice: Dice,
    id: ClientId,
    ledger: Ledger,
}

impl Groups {
    pub fn new(count: u64, dice: Dice, id: ClientId, ledger: Ledger) -> Self {
        let names = (0..count).map(|n| format!("g{n}")).collect();
        Self { names: Arc::new(names), joined: Arc::default(), dice, id, ledger }
    }

    /// Where the next message goes, if it is to a group.
    pub fn pick(&self) -> Option<String> {
        let joined = lock(&self.joined);
        if joined.is_empty() || !self.dice.one_in(3) {
            return None;
        }
        let at = self.dice.between(0, joined.len() as u64 - 1) as usize;
        Some(format!("{GROUP}{}", joined[at]))
    }

    /// Joins all, and goes on as this client does.
    pub async fn live(self, client: Client, mut sending: watch::Receiver<bool>) {
        for name in self.names.iter() {
            if !self.enter(&client, name).await {
                return;
            }
        }
        if self.names.is_empty() || !self.dice.one_in(3) {
            return;
        }
        while sending.wait_for(|&sending| sending).await.is_ok() {
            let name = &self.names[self.dice.between(0, self.names.len() as u64 - 1) as usize];
            time::sleep(Duration::from_millis(self.dice.between(500, 5_000))).await;
            lock(&self.joined).retain(|joined| joined != name);
            if self.ask(&client, GroupAct::Leave, name).await.is_none() {
                return;
            }
            time::sleep(Duration::from_millis(self.dice.between(0, 2_000))).await;
            if !self.enter(&client, name).await {
                return;
            }
        }
    }

    /// Makes or joins a group, if there is room; false when the client has ended.
    async fn enter(&self, client: &Client, name: &str) -> bool {
        let mut act = GroupAct::Join;
        loop {
            match self.ask(client, act, name).await {
                None => return false,
                Some(Fate::Done) => break,
                Some(Fate::Refused { code: ErrorCode::UnknownGroup, .. }) => act = GroupAct::Create,
                Some(Fate::Refused { code: ErrorCode::GroupExists, .. }) => act = GroupAct::Join,
                Some(Fate::Refused { code: code @ (ErrorCode::GroupFull | ErrorCode::TooManyGroups), .. }) => {
                    self.ledger.not_joined(self.id, name, code);
                    return true;
                }
                // The cluster has just begun, or nobody answered in time.
                Some(_) => time::sleep(AGAIN).await,
            }
        }
        lock(&self.joined).push(name.to_owned());
        true
    }

    async fn ask(&self, client: &Client, act: GroupAct, name: &str) -> Option<Fate> {
        Some(client.group(act, name).await.ok()?.await)
    }
}
