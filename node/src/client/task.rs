//! The client's task: one connection after another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::env::net::BoxConn;
use cluster::env::{Net, clock, tasks};

use super::link::{Ended, Link, Pause, Session};
use super::route::{Address, Route};
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
    /// For addresses that want TLS; there if any does.
    pub secure: Option<Arc<dyn Net>>,
    pub tokens: Arc<dyn Tokens>,
    pub device: String,
    pub ephemeral: bool,
    /// Names this client; random.
    pub instance: String,
    /// Connections tried so far.
    pub attempt: u64,
    /// The last token that a node has found expired.
    pub expired: Option<String>,
    pub route: Route,
    pub shared: Arc<Shared>,
}

/// A connection that stands.
type Opened = (Link, Session);

impl Task {
    pub async fn run(mut self) {
        let why = loop {
            if self.shared.state().closing {
                break Stopped::Closed;
            }
            let wait = match self.connections().await {
                Ended::Closed => break Stopped::Closed,
                Ended::Refused(why) => break why,
                Ended::Broken { welcome, reason, wait, expired } => {
                    self.expired = expired.or(self.expired.take());
                    let pause = match welcome {
                        Some(at) => self.route.lost(at.elapsed(), rand::random::<f64>),
                        None => self.route.failed(rand::random()),
                    };
                    self.shared.tell(Event::Disconnected { reason });
                    pause.max(wait)
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

    /// A connection and those that follow it without a gap, to the end of the last.
    async fn connections(&mut self) -> Ended {
        let mut opened = match self.open().await {
            Ok(opened) => opened,
            Err(ended) => return ended,
        };
        loop {
            let welcome = clock::now();
            let (link, session) = &mut opened;
            self.shared.connected(session.inflight, session.frame_bytes, session.epoch);
            self.shared.tell(Event::Connected {
                user: session.user.clone(),
                node: session.node.clone(),
                address: self.route.current().authority.clone(),
                session: session.name.clone(),
            });
            let next = match link.run(session, self.tokens.as_ref()).await {
                Pause::Leave { url } => self.change(&mut opened, url.as_deref()).await,
                Pause::Ended(ended) => Err(ended),
            };
            self.shared.disconnected();
            match next {
                Ok(next) => drop(tasks::spawn(std::mem::replace(&mut opened, next).0.leave())),
                Err(Ended::Broken { reason, wait, expired, .. }) => {
                    return Ended::Broken { welcome: Some(welcome), reason, wait, expired };
                }
                Err(ended) => return ended,
            }
        }
    }

    /// Connects elsewhere while the old connection goes on: its session ends only where the new one
    /// begins, so the application notices nothing.
    ///
    /// # Errors
    /// How the old connection ended, when no new one stands by then.
    async fn change(&mut self, (old, session): &mut Opened, url: Option<&str>) -> Result<Opened, Ended> {
        match url {
            Some(url) => self.route.prefer(url),
            None => self.route.advance(),
        }
        let mut greeted = false;
        // Until when a node that refused us is not asked again; meanwhile others are.
        let mut refused = BTreeMap::new();
        loop {
            self.attempt += 1;
            let dialed = beside(old, session, &*self.tokens, self.dial()).await;
            let opened = match dialed.map_err(|ended| unless_ours(ended, greeted))? {
                Err(error) => Err(error),
                Ok((token, stream)) => {
                    // From here on the node may have ended the old session on behalf of the new one.
                    greeted = true;
                    let mut greeting = std::pin::pin!(self.greet(&token, stream));
                    match beside(old, session, &*self.tokens, &mut greeting).await {
                        Ok(opened) => opened,
                        Err(Ended::Closed) => return Err(Ended::Closed),
                        Err(_) => return unless_closing(&self.shared, greeting).await,
                    }
                }
            };
            match opened {
                Ok(opened) => return Ok(opened),
                Err(Ended::Refused(why)) => return Err(Ended::Refused(why)),
                Err(ended) => {
                    if let Ended::Broken { wait, expired, .. } = ended {
                        self.expired = expired.or(self.expired.take());
                        refused.insert(self.route.current().authority.clone(), clock::now() + wait);
                    }
                    let pause = clock::now() + self.route.failed(rand::random());
                    let until = refused.get(&self.route.current().authority).map_or(pause, |until| pause.max(*until));
                    let waited = beside(old, session, &*self.tokens, clock::sleep_until(until)).await;
                    waited.map_err(|ended| unless_ours(ended, greeted))?;
                }
            }
        }
    }

    /// Connects and says hello; the application may lose interest at any moment.
    async fn open(&mut self) -> Result<Opened, Ended> {
        self.attempt += 1;
        let shared = self.shared.clone();
        let opening = Box::pin(async {
            let (token, stream) = self.dial().await?;
            self.greet(&token, stream).await
        });
        unless_closing(&shared, opening).await
    }

    /// A token, and a stream to the node whose turn it is.
    async fn dial(&self) -> Result<(String, BoxConn), Ended> {
        let token = clock::timeout(TOKEN, self.tokens.token()).await.map_err(|_| late("getting a token", TOKEN))?;
        let token = token.map_err(|error| Ended::broken(format!("no token: {error}")))?;
        if self.expired.as_ref() == Some(&token) {
            let (code, reason) = (CloseCode::TokenExpired.code(), CloseCode::TokenExpired.text().to_owned());
            return Err(Ended::Refused(Stopped::Refused { code, reason }));
        }
        let Address { authority, tls, .. } = self.route.current();
        let net = self.secure.as_ref().filter(|_| *tls).unwrap_or(&self.net);
        let stream = clock::timeout(CONNECT, net.connect(authority)).await.map_err(|_| late("connecting", CONNECT))?;
        let stream = stream.map_err(|error| Ended::broken(format!("cannot connect to {authority}: {error}")))?;
        Ok((token, stream))
    }

    async fn greet(&self, token: &str, stream: BoxConn) -> Result<Opened, Ended> {
        let hello = Hello {
            token: Some(token.into()),
            device: Some(self.device.as_str().into()),
            instance: Some(self.instance.as_str().into()),
            attempt: self.attempt,
            ephemeral: self.ephemeral,
        };
        let opening = Link::open(stream, self.route.current(), hello, self.shared.clone());
        clock::timeout(WELCOME, opening).await.map_err(|_| late("the welcome", WELCOME))?
    }
}

fn late(what: &str, limit: Duration) -> Ended {
    Ended::broken(format!("{what} took longer than {limit:?}"))
}

/// The output of `work`, while a connection goes on; how that ended, if it did first.
async fn beside<T>(
    link: &mut Link,
    session: &Session,
    tokens: &dyn Tokens,
    work: impl Future<Output = T>,
) -> Result<T, Ended> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            pause = link.run(session, tokens) => match pause {
                // It is being left already.
                Pause::Leave { .. } => {}
                Pause::Ended(ended) => return Err(ended),
            },
        }
    }
}

/// How the old connection ended while a new one is on its way: an end on behalf of a session of ours, which stood
/// although we never heard of it, is no reason to stop.
fn unless_ours(ended: Ended, greeted: bool) -> Ended {
    match ended {
        Ended::Refused(Stopped::Refused { code, reason }) if greeted && code == CloseCode::Superseded.code() => {
            Ended::broken(reason)
        }
        ended => ended,
    }
}

/// A new connection, unless the application loses interest.
async fn unless_closing(
    shared: &Shared,
    opening: impl Future<Output = Result<Opened, Ended>>,
) -> Result<Opened, Ended> {
    let closing = async {
        while !shared.state().closing {
            shared.work.notified().await;
        }
    };
    tokio::select! {
        biased;
        opened = opening => opened,
        () = closing => Err(Ended::Closed),
    }
}

/// What a close code means for this client, whose connection had this token.
pub(super) fn closed(code: u16, reason: &str, leave_within: Duration, token: &str) -> Ended {
    let text = CloseCode::from_code(code).map_or("", CloseCode::text);
    let reason = if reason.is_empty() { text } else { reason };
    let expired = (code == CloseCode::TokenExpired.code()).then(|| token.to_owned());
    if expired.is_none() && !CloseCode::reconnect(code) {
        return Ended::Refused(Stopped::Refused { code, reason: reason.to_owned() });
    }
    let wait = match CloseCode::from_code(code) {
        Some(CloseCode::Restart) => leave_within.mul_f64(rand::random()),
        Some(CloseCode::Overload) => Duration::from_secs(1).mul_f64(rand::random::<f64>() + 0.5),
        _ => Duration::ZERO,
    };
    Ended::Broken { welcome: None, reason: format!("closed by the node: {code} {reason}"), wait, expired }
}
