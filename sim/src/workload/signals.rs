//! Typing and read marks, to and of anybody.

use std::sync::Arc;
use std::time::Duration;

use im_gateway::client::Client;
use tokio::sync::watch;

use crate::dice::Dice;
use crate::ledger::{ClientId, Ledger};
use crate::time;

/// See the module.
#[derive(Clone)]
pub struct Signals {
    /// Longest pause between two of them, ms; 0: there are none.
    pub pause_ms: u64,
    pub users: Arc<Vec<String>>,
    pub dice: Dice,
}

impl Signals {
    /// Goes on for as long as others send.
    pub async fn live(self, client: Client, id: ClientId, ledger: Ledger, mut sending: watch::Receiver<bool>) {
        while self.pause_ms > 0 && sending.wait_for(|&sending| sending).await.is_ok() {
            time::sleep(Duration::from_millis(self.dice.between(0, self.pause_ms))).await;
            if let Some((from, mid)) = ledger.latest(id).filter(|_| self.dice.one_in(2)) {
                ledger.marked(id, &from, Some(mid));
                client.read(&from, mid).expect("a name");
            } else {
                let to = &self.users[self.dice.between(0, self.users.len() as u64 - 1) as usize];
                ledger.marked(id, to, None);
                client.typing(to).expect("a name");
            }
        }
    }
}
