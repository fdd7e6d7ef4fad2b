//! How a client is made and started.

use std::sync::Arc;

use cluster::env::{Net, tasks};

use super::route::{BadUrl, Route};
use super::shared::Shared;
use super::{Client, Handle, Tokens, task};

/// How a client is made.
pub struct Builder {
    net: Arc<dyn Net>,
    secure: Option<Arc<dyn Net>>,
    urls: Vec<String>,
    tokens: Arc<dyn Tokens>,
    device: String,
    ephemeral: bool,
    first: Option<usize>,
    ahead: usize,
    queue_messages: usize,
    queue_bytes: usize,
}

impl Builder {
    pub(super) fn new(net: Arc<dyn Net>, urls: Vec<String>, tokens: Arc<dyn Tokens>, device: &str) -> Self {
        Self {
            net,
            secure: None,
            urls,
            tokens,
            device: device.to_owned(),
            ephemeral: false,
            first: None,
            ahead: 256,
            queue_messages: 1_024,
            queue_bytes: 8 << 20,
        }
    }

    /// Which of the URLs to begin with, by its place in the list: any, if nothing else is said, so
    /// that clients spread over the cluster. The others follow in random order.
    #[must_use]
    pub fn first(mut self, index: usize) -> Self {
        self.first = Some(index);
        self
    }

    /// What addresses that ask for TLS (`wss://`, `https://`) are reached by.
    #[must_use]
    pub fn secure(mut self, net: Option<Arc<dyn Net>>) -> Self {
        self.secure = net;
        self
    }

    /// Forget the device when it closes, or ten minutes after it was lost.
    #[must_use]
    pub fn ephemeral(mut self, ephemeral: bool) -> Self {
        self.ephemeral = ephemeral;
        self
    }

    /// How many messages are acknowledged before the application has taken them: 256, if nothing
    /// else is said. With 0 a message that the application did not take before a crash comes again.
    #[must_use]
    pub fn ahead(mut self, messages: usize) -> Self {
        self.ahead = messages;
        self
    }

    /// How many messages may wait for their answer before `send` waits: 1024 of 8 MiB in all, if
    /// nothing else is said.
    #[must_use]
    pub fn queue(mut self, messages: usize, bytes: usize) -> Self {
        (self.queue_messages, self.queue_bytes) = (messages.max(1), bytes.max(1));
        self
    }

    /// Starts the client. It connects by itself, and goes on until it is closed, dropped, or told by
    /// a node to stop.
    ///
    /// # Errors
    /// A URL that is none, or that asks for TLS where nothing speaks it.
    pub fn connect(self) -> Result<Client, BadUrl> {
        let first = self.first.unwrap_or_else(|| rand::random_range(0..self.urls.len().max(1)));
        let mut route = Route::new(&self.urls, first)?;
        // In the list's own order all who begin at a dead node would go on to the same one.
        route.shuffle(rand::random::<f64>);
        if let (Some(address), None) = (route.secured(), &self.secure) {
            return Err(BadUrl::Tls(address.base()));
        }
        let shared = Arc::new(Shared::new(self.ahead));
        let task = task::Task {
            net: self.net,
            secure: self.secure,
            tokens: self.tokens,
            device: self.device,
            ephemeral: self.ephemeral,
            instance: format!("{:032x}", rand::random::<u128>()),
            attempt: 0,
            expired: None,
            route,
            shared: shared.clone(),
        };
        tasks::spawn(task.run());
        let keys = format!("{:016x}", rand::random::<u64>());
        let handle = Handle { shared, keys, queue_messages: self.queue_messages, queue_bytes: self.queue_bytes };
        Ok(Client(Arc::new(handle)))
    }
}
