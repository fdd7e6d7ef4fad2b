//! Clients of a drill: those who chat, and those who do not behave.

use std::sync::Arc;
use std::time::Duration;

use cluster::env::clock;
use futures_util::future::join_all;
use im_gateway::client::{Client, Event, Fate};
use im_gateway::env::Tcp;
use tokio::task::JoinHandle;

use super::super::failure::{Failure, failed};
use super::super::token::Signer;

/// Longer than any drill.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3_600);

/// Makes clients of the cluster.
#[derive(Clone)]
pub struct Clients {
    signer: Signer,
    urls: Vec<String>,
}

/// A task that ends with this.
pub struct Running(JoinHandle<()>);

impl Running {
    /// Begins it.
    pub fn of(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Clients {
    /// Of the cluster whose nodes have these URLs.
    ///
    /// # Errors
    /// A configuration that cannot sign tokens.
    pub fn new(urls: Vec<String>) -> Result<Self, Failure> {
        Ok(Self { signer: Signer::from_environment(None)?, urls })
    }

    /// A client of `user`, on the `first`th node to begin with. `ahead`: how many messages it acknowledges that
    /// nobody has taken.
    fn client(&self, user: &str, first: usize, ahead: usize) -> Result<Client, Failure> {
        let token = Arc::new(self.signer.sign(user, None, TOKEN_TTL)?);
        let builder = Client::builder(Arc::new(Tcp), self.urls.clone(), token, "drill");
        let builder = builder.first(first % self.urls.len()).ahead(ahead);
        builder.connect().or_else(|error| failed(error.to_string()))
    }

    /// A client of `user`, once it has a session.
    async fn connected(&self, user: &str, first: usize, ahead: usize) -> Result<Client, Failure> {
        let client = self.client(user, first, ahead)?;
        while let Some(event) = client.next().await {
            match event {
                Event::Connected { .. } => return Ok(client),
                Event::Stopped(why) => return failed(format!("a client of the drill was turned away: {why}")),
                _ => {}
            }
        }
        failed("a client of the drill has ended")
    }

    /// Pairs who write to each other over all nodes, each one `every` so often, until this is dropped.
    ///
    /// # Errors
    /// Clients that cannot connect.
    pub async fn chat(&self, pairs: usize, every: Duration) -> Result<Vec<Running>, Failure> {
        let mut running = Vec::new();
        for pair in 0..pairs {
            let (alice, bob) = (format!("alice-{pair}"), format!("bob-{pair}"));
            let reader = self.connected(&bob, pair + 1, 256).await?;
            let writer = self.connected(&alice, pair, 256).await?;
            running.push(drain(reader));
            running.push(write(writer.clone(), bob, every));
            running.push(drain(writer));
        }
        Ok(running)
    }

    /// One who takes nothing and acknowledges nothing, and one who writes to it. The first begins to take what
    /// comes when it is given to [`drain`].
    ///
    /// # Errors
    /// Clients that cannot connect.
    pub async fn mute(&self, every: Duration) -> Result<(Client, Vec<Running>), Failure> {
        let mute = self.connected("mute", 1, 0).await?;
        let writer = self.connected("writer", 0, 256).await?;
        Ok((mute, vec![write(writer.clone(), "mute".to_owned(), every), drain(writer)]))
    }

    /// Sends `count` messages to a user who is not there; returns when all are stored.
    ///
    /// # Errors
    /// Messages that are not stored.
    pub async fn flood(&self, user: &str, count: usize) -> Result<(), Failure> {
        let writer = self.connected("flooder", 0, 256).await?;
        let mut receipts = Vec::with_capacity(count);
        for n in 0..count {
            receipts.push(writer.send(user, &n).await.or_else(|error| failed(error.to_string()))?);
        }
        let fates = join_all(receipts).await;
        writer.close().await;
        match fates.iter().find(|fate| !matches!(fate, Fate::Stored(_))) {
            None => Ok(()),
            Some(fate) => failed(format!("a message of the drill was not stored: {fate:?}")),
        }
    }

    /// The user comes, and reads until this is dropped.
    ///
    /// # Errors
    /// A client that cannot connect.
    pub async fn reader(&self, user: &str) -> Result<Running, Failure> {
        Ok(drain(self.connected(user, 0, 256).await?))
    }

    /// So many connections to the first node that do nothing.
    ///
    /// # Errors
    /// Clients that cannot connect.
    pub async fn idle(&self, count: usize) -> Result<Vec<Client>, Failure> {
        let first = Self { urls: self.urls[..1].to_vec(), ..self.clone() };
        let mut clients = Vec::with_capacity(count);
        for n in 0..count {
            clients.push(first.connected(&format!("idle-{n}"), 0, 256).await?);
        }
        Ok(clients)
    }
}

/// Takes what comes.
pub fn drain(client: Client) -> Running {
    Running::of(async move { while client.next().await.is_some() {} })
}

fn write(client: Client, to: String, every: Duration) -> Running {
    Running::of(async move {
        let mut beat = clock::interval(every);
        loop {
            beat.tick().await;
            if client.send(to.as_str(), &"drill").await.is_err() {
                return;
            }
        }
    })
}
