//! What users tell each other that is worth little a moment later: never stored, and dropped first.
//!
//! Invariant: a signal travels once, straight to the nodes that hold sessions of its addressee as this
//! replica knows them, and waits nowhere: where there is no room, or no link, it is gone.

use serde::{Deserialize, Serialize};

use crate::handle::Inner;
use crate::id::{DeviceId, MessageId, NodeId, UserId};
use crate::peer::Kind;
use crate::serve::encode;

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// Somebody is writing.
    Typing,
    /// Somebody has read a message.
    Read(MessageId),
}

/// A signal on its way to one user's sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Whose sessions are told.
    pub to: UserId,
    /// But not that of this device.
    pub except: Option<DeviceId>,
    /// Who does it.
    pub from: UserId,
    /// What.
    pub news: News,
}

impl Inner {
    /// Sends a signal on its way.
    pub(crate) fn signal(&self, signal: &Signal) {
        let mut nodes: Vec<NodeId> = self.state().sessions_of(&signal.to).map(|(_, node)| node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            if node == self.me {
                self.router.signalled(signal);
            } else if let Ok(body) = encode(signal)
                && !self.peers.notify(node, Kind::SIGNAL, body)
            {
                self.observer.signal_dropped(signal.news);
            }
        }
    }
}
