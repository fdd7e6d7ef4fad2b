//! One connection: the to and fro until it ends. How it comes about is in `opening`.

mod opening;
mod renewal;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cluster::env::clock::{self, Instant, Sleep};
use cluster::env::net::BoxConn;
use futures_util::{Sink, SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use self::renewal::renewal_time;
use super::shared::Shared;
use super::task::closed;
use super::{Stopped, Tokens};
use crate::protocol::{ClientBody, ClientFrame, GoAway, Refresh, ServerBody, ServerFrame};

/// Frames read before something is written, so that neither side waits for the other's end.
const READS: usize = 64;
/// How long a good-bye may take.
const CLOSE: Duration = Duration::from_secs(2);
/// The ids of the frames that are no sends.
const HELLO_ID: u64 = 1;
pub(super) const REFRESH_ID: u64 = 2;
/// The pause before a failed attempt to renew the token is made again.
const RENEW_AGAIN: Duration = Duration::from_secs(15);

/// A token on its way.
type Token<'a> = Pin<Box<dyn Future<Output = Result<String, String>> + Send + 'a>>;

/// How a connection ended.
pub(super) enum Ended {
    /// It broke, or never came about: try again after at least `wait`.
    Broken {
        welcome: Option<Instant>,
        reason: String,
        wait: Duration,
        /// The token of its hello, where the node has found it expired.
        expired: Option<String>,
    },
    /// The node does not want us back.
    Refused(Stopped),
    /// The application is done.
    Closed,
}

impl Ended {
    pub fn broken(reason: impl Into<String>) -> Self {
        Self::Broken { welcome: None, reason: reason.into(), wait: Duration::ZERO, expired: None }
    }
}

/// Why a connection is not carried on for the moment.
pub(super) enum Pause {
    /// The node wants us to go elsewhere, now; it serves us until we have.
    Leave { url: Option<String> },
    /// There is no more of it.
    Ended(Ended),
}

/// What the node said in its welcome.
pub(super) struct Session {
    pub name: String,
    pub user: String,
    pub node: String,
    pub inflight: usize,
    pub frame_bytes: usize,
    /// The session's position in the log, where its name tells it.
    pub epoch: Option<u64>,
    ping: Duration,
    /// When the token should be renewed.
    renew: Option<Instant>,
}

pub(super) struct Link {
    socket: WebSocketStream<BoxConn>,
    shared: Arc<Shared>,
    /// Of its hello.
    token: String,
    /// When the node was last heard of.
    heard: Instant,
    /// Control frames of ours that wait to be written.
    pong_due: bool,
    renewal: Option<String>,
    /// The node did not take it.
    renewal_refused: bool,
    /// The node's request to leave: when we do, and where to.
    leave: Option<(Sleep, Option<String>)>,
    /// The time that the node gave to all of its clients.
    leave_within: Duration,
}

impl Link {
    /// Carries everything to and fro until the connection ends or is to be left. Cancel-safe, and
    /// goes on when called again.
    pub async fn run(&mut self, session: &Session, tokens: &dyn Tokens) -> Pause {
        let mut silence = clock::sleep_until(self.heard + session.ping * 2);
        let mut renew_at = session.renew.map(clock::sleep_until);
        let mut renewing: Option<Token<'_>> = None;
        loop {
            if self.shared.state().closing {
                return Pause::Ended(self.say_goodbye().await);
            }
            let turn = self.turn(session, &mut silence, &mut renew_at, &mut renewing).await;
            match turn {
                Turn::Again => {}
                Turn::Leave(url) => return Pause::Leave { url },
                Turn::Ended(ended) => return Pause::Ended(ended),
                Turn::Renew => renewing = Some(Box::pin(tokens.token())),
                Turn::Renewed(token) => {
                    renewing = None;
                    let token = token.inspect_err(|error| tracing::debug!(%error, "the token was not renewed"));
                    let next = token.as_deref().ok().and_then(renewal_time);
                    renew_at = Some(clock::sleep_until(next.unwrap_or_else(|| clock::now() + RENEW_AGAIN)));
                    self.renewal = token.ok();
                }
            }
        }
    }

    /// Reads and writes until there is something to decide.
    async fn turn(
        &mut self,
        session: &Session,
        silence: &mut Sleep,
        renew_at: &mut Option<Sleep>,
        renewing: &mut Option<Token<'_>>,
    ) -> Turn {
        let shared = self.shared.clone();
        let mut work = std::pin::pin!(shared.work.notified());
        poll_fn(|cx| {
            let mut again = work.as_mut().poll(cx).is_ready();
            match self.read(cx) {
                Ok(more) => again |= more,
                Err(ended) => return Poll::Ready(Turn::Ended(ended)),
            }
            if let Err(error) = self.write(cx) {
                return Poll::Ready(Turn::Ended(broke(&error)));
            }
            if let Some((at, _)) = &mut self.leave
                && at.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Turn::Leave(self.leave.take().and_then(|(_, url)| url)));
            }
            if silence.as_mut().poll(cx).is_ready() {
                let deadline = self.heard + session.ping * 2;
                if clock::now() >= deadline {
                    return Poll::Ready(Turn::Ended(Ended::broken("the node fell silent")));
                }
                *silence = clock::sleep_until(deadline);
                again = true;
                self.shared.expire();
            }
            if let Some(Poll::Ready(token)) = renewing.as_mut().map(|renewing| renewing.as_mut().poll(cx)) {
                return Poll::Ready(Turn::Renewed(token));
            }
            if std::mem::take(&mut self.renewal_refused) {
                *renew_at = Some(clock::sleep(RENEW_AGAIN));
                again = true;
            }
            if renewing.is_none() && renew_at.as_mut().is_some_and(|at| at.as_mut().poll(cx).is_ready()) {
                *renew_at = None;
                return Poll::Ready(Turn::Renew);
            }
            if again { Poll::Ready(Turn::Again) } else { Poll::Pending }
        })
        .await
    }

    /// Reads what is there; whether there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        for _ in 0..READS {
            if self.shared.state().inbox.is_full() {
                // It is we who do not listen.
                self.heard = clock::now();
                return Ok(false);
            }
            let message = match self.socket.poll_next_unpin(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(None) => return Err(Ended::broken("the connection was closed")),
                Poll::Ready(Some(Err(error))) => return Err(broke(&error)),
                Poll::Ready(Some(Ok(message))) => message,
            };
            self.heard = clock::now();
            match message {
                Message::Text(text) => self.frame(&text)?,
                Message::Close(frame) => return Err(self.end_of(frame.as_ref())),
                Message::Binary(_) => return Err(Ended::broken("the node sent a binary frame")),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        Ok(true)
    }

    fn frame(&mut self, text: &str) -> Result<(), Ended> {
        let frame =
            ServerFrame::decode(text).map_err(|error| Ended::broken(format!("not a frame of ours: {error}")))?;
        match frame.body {
            ServerBody::Ping => self.pong_due = true,
            ServerBody::GoAway(go_away) => self.go_away(go_away),
            body => {
                self.renewal_refused |= frame.id == Some(REFRESH_ID) && matches!(body, ServerBody::Error(_));
                self.shared.received(ServerFrame { id: frame.id, body });
            }
        }
        Ok(())
    }

    fn go_away(&mut self, go_away: GoAway<'_>) {
        self.leave_within = Duration::from_millis(go_away.after_ms);
        // At a moment of our own within that time, with room for the way; not at once, so that those
        // who were given more time come later.
        let at = self.leave_within.mul_f64(0.4 + 0.4 * rand::random::<f64>());
        self.leave = Some((clock::sleep(at), go_away.url.map(std::borrow::Cow::into_owned)));
    }

    fn end_of(&self, frame: Option<&CloseFrame>) -> Ended {
        frame.map_or_else(
            || Ended::broken("the node closed the connection"),
            |frame| closed(frame.code.into(), &frame.reason, self.leave_within, &self.token),
        )
    }

    /// Writes as much as there is room for.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        while Pin::new(&mut self.socket).poll_ready(cx)?.is_ready() {
            let Some(text) = self.next_frame() else { break };
            Pin::new(&mut self.socket).start_send(Message::text(text))?;
        }
        // Pending: the socket wakes us when it has room.
        let _ = Pin::new(&mut self.socket).poll_flush(cx)?;
        Ok(())
    }

    fn next_frame(&mut self) -> Option<String> {
        if std::mem::take(&mut self.pong_due) {
            return Some(ClientFrame { id: None, body: ClientBody::Pong }.encode());
        }
        if let Some(token) = self.renewal.take() {
            let refresh = Refresh { token: token.into() };
            return Some(ClientFrame { id: Some(REFRESH_ID), body: ClientBody::Refresh(refresh) }.encode());
        }
        self.shared.next_frame()
    }

    /// Leaves a connection whose place another has taken. What is to be acknowledged, that one does.
    pub async fn leave(mut self) {
        self.exchange_closes(None).await;
    }

    /// Closes in good order: what may be acknowledged is, then the close frames are exchanged.
    async fn say_goodbye(&mut self) -> Ended {
        let ack = self.shared.state().inbox.ack();
        self.exchange_closes(ack).await;
        Ended::Closed
    }

    async fn exchange_closes(&mut self, ack: Option<u64>) {
        let goodbye = async {
            if let Some(seq) = ack {
                let ack = ClientFrame { id: None, body: ClientBody::Ack(seq) }.encode();
                self.socket.send(Message::text(ack)).await?;
            }
            self.socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await?;
            while self.socket.next().await.is_some_and(|message| message.is_ok()) {}
            Ok::<_, Error>(())
        };
        // A node that does not answer loses nothing by our going.
        let _ = clock::timeout(CLOSE, goodbye).await;
    }
}

/// What a turn of reading and writing came to.
enum Turn {
    Again,
    Leave(Option<String>),
    Ended(Ended),
    Renew,
    Renewed(Result<String, String>),
}

/// A connection that ended without a close frame; how exactly is for experts, as long as it is the
/// network's doing.
fn broke(error: &Error) -> Ended {
    match error {
        Error::Io(error) => Ended::broken(format!("the connection was lost: {error}")),
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ended::broken("the connection was lost"),
        error => Ended::broken(format!("the connection broke: {error}")),
    }
}
