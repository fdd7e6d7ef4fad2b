//! Whom a client watches: some at the beginning, and others later, in their place.

use std::sync::Arc;
use std::time::Duration;

use im_gateway::client::Client;
use tokio::sync::watch;

use crate::dice::Dice;
use crate::ledger::{ClientId, Ledger};
use crate::time;

/// See the module.
#[derive(Clone)]
pub struct Watching {
    /// How many at a time.
    pub count: u64,
    /// Of whom.
    pub users: Arc<Vec<String>>,
    pub dice: Dice,
}

impl Watching {
    /// Watches for as long as others send, and those of then from there on.
    pub async fn live(self, client: Client, id: ClientId, ledger: Ledger, mut sending: watch::Receiver<bool>) {
        if self.count == 0 {
            return;
        }
        let mut watched: Vec<String> = Vec::new();
        while watched.len() < self.count.min(self.users.len() as u64) as usize {
            self.one_more(&client, id, &ledger, &mut watched);
        }
        if !self.dice.one_in(3) {
            return;
        }
        while sending.wait_for(|&sending| sending).await.is_ok() {
            time::sleep(Duration::from_millis(self.dice.between(500, 6_000))).await;
            let gone = watched.remove(self.dice.between(0, watched.len() as u64 - 1) as usize);
            client.unwatch([gone.as_str()]);
            ledger.unwatch(id, &gone);
            time::sleep(Duration::from_millis(self.dice.between(0, 1_000))).await;
            self.one_more(&client, id, &ledger, &mut watched);
        }
    }

    fn one_more(&self, client: &Client, id: ClientId, ledger: &Ledger, watched: &mut Vec<String>) {
        loop {
            let user = &self.users[self.dice.between(0, self.users.len() as u64 - 1) as usize];
            if !watched.contains(user) {
                watched.push(user.clone());
                ledger.watch(id, user);
                return client.watch([user.as_str()]);
            }
        }
    }
}
