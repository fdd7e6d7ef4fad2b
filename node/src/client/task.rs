//! The client's task: one connection after another.

use std::sync::Arc;
use std::time::Duration;

use cluster::env::{Net, clock};

use super::link::{Ended, Link, Session};
use super::route::Route;
use super::shared::Shared;
use super::{Event, Stopped, Tokens};
use crate::protocol::{CloseCode, Hello};

/// A token that takes longer to come by counts as a failure to connect.
const TOKEN: Duration = Duration::from_secs(10);
/// A node that does not take the connection by then is passed over.
const CONNECT: Duration = Duration::from_secs(3);
/// A node that does not welcome us by then is passed over. Long enough for an election, and for
/// the crowd of a whole node's clients.
const WELCOME: Duration = Duration::from_secs(15);
/// How often messages that wait while there is no connection are looked at, to give them up.
const EXPIRY: Duration = Duration::from_secs(10);

pub(super) struct Task {
    pub net: Arc<dyn Net>,
    pub tokens: Arc<dyn Tokens>,
    pub device: String,
    pub ephemeral: bool,
    /// Names this client; random.
    pub instance: String,
    /// Connections tried so far.
    pub attempt: u64,
    pub route: Route,
    pub shared: Arc<Shared>,
}

impl Task {
    pub async fn run(mut self) {
        let why = loop {
            if self.shared.state().closing {
                break Stopped::Closed;
            }
            let wait = match self.connection().await {
                Ended::Closed => break Stopped::Closed,
                Ended::Refused(why) => break why,
                Ended::Broken { welcome, reason, wait } => {
                    let random = rand::random();
                    let pause = match welcome {
                        Some(at) => self.route.lost(at.elapsed(), random),
                        None => self.route.failed(random),
                    };
                    self.shared.tell(Event::Disconnected { reason });
                    pause.max(wait)
                }
                Ended::Moved { url } => {
                    if let Some(url) = &url {
                        self.route.prefer(url);
                    } else {
                        self.route.lost(Duration::MAX, 0.0);
                    }
                    self.shared.tell(Event::Disconnected { reason: "the node asked to go elsewhere".into() });
                    Duration::ZERO
                }
            };
            self.pause(wait).await;
        };
        self.shared.stop(why);
    }

    /// Waits, unless the application is done meanwhile.
    async fn pause(&self, wait: Duration) {
        let end = clock::now() + wait;
        while !self.shared.state().closing && clock::now() < end {
            let until = end.min(clock::now() + EXPIRY);
            // The permit of `work` is taken, but a new connection looks at everything anyway.
            let _ = clock::timeout_at(until, self.shared.work.notified()).await;
            self.shared.expire();
        }
    }

    /// One connection, from the first byte to the last.
    async fn connection(&mut self) -> Ended {
        let (mut link, session) = match self.open().await {
            Ok(opened) => opened,
            Err(ended) => return ended,
        };
        let welcome = clock::now();
        self.shared.connected(session.inflight, session.frame_bytes, session.epoch);
        self.shared.tell(Event::Connected {
            node: session.node.clone(),
            address: self.route.current().authority.clone(),
            session: session.name.clone(),
        });
        let ended = link.run(&session, self.tokens.as_ref()).await;
        self.shared.disconnected();
        match ended {
            Ended::Broken { reason, wait, .. } => Ended::Broken { welcome: Some(welcome), reason, wait },
            ended => ended,
        }
    }

    /// Connects and says hello; the application may lose interest at any moment.
    async fn open(&mut self) -> Result<(Link, Session), Ended> {
        self.attempt += 1;
        let shared = self.shared.clone();
        let opening = Box::pin(self.hello());
        tokio::select! {
            biased;
            opened = opening => opened,
            () = closing(&shared) => Err(Ended::Closed),
        }
    }

    async fn hello(&self) -> Result<(Link, Session), Ended> {
        let late = |what: &str, limit: Duration| Ended::broken(format!("{what} took longer than {limit:?}"));
        let token = clock::timeout(TOKEN, self.tokens.token()).await.map_err(|_| late("getting a token", TOKEN))?;
        let token = token.map_err(|error| Ended::broken(format!("no token: {error}")))?;
        let address = self.route.current();
        let connecting = self.net.connect(&address.authority);
        let stream = clock::timeout(CONNECT, connecting).await.map_err(|_| late("connecting", CONNECT))?;
        let stream =
            stream.map_err(|error| Ended::broken(format!("cannot connect to {}: {error}", address.authority)))?;
        let hello = Hello {
            token: Some(token.as_str().into()),
            device: Some(self.device.as_str().into()),
            instance: Some(self.instance.as_str().into()),
            attempt: self.attempt,
            ephemeral: self.ephemeral,
        };
        let opening = Link::open(stream, address, hello, self.shared.clone());
        clock::timeout(WELCOME, opening).await.map_err(|_| late("the welcome", WELCOME))?
    }
}

/// Ready once the application is done with the client.
async fn closing(shared: &Shared) {
    while !shared.state().closing {
        shared.work.notified().await;
    }
}

/// What a close code means for this client.
pub(super) fn closed(code: u16, reason: &str, leave_within: Duration) -> Ended {
    let text = CloseCode::from_code(code).map_or("", CloseCode::text);
    let reason = if reason.is_empty() { text } else { reason };
    if matches!(code, 1003 | 1009 | 4500..=4999) {
        return Ended::Refused(Stopped::Refused { code, reason: reason.to_owned() });
    }
    let wait = match code {
        1012 => leave_within.mul_f64(rand::random()),
        1013 => Duration::from_secs(1).mul_f64(rand::random::<f64>() + 0.5),
        _ => Duration::ZERO,
    };
    Ended::Broken { welcome: None, reason: format!("closed by the node: {code} {reason}"), wait }
}
