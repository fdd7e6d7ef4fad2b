//! How a connection comes about: the WebSocket, the hello, the welcome.

use std::sync::Arc;
use std::time::Duration;

use cluster::env::clock::{self, Instant};
use cluster::env::net::{BoxConn, Distrust};
use futures_util::{SinkExt, StreamExt};
use http::{Request, header};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::renewal::renewal_time;
use super::{Ended, HELLO_ID, Link, Session, broke};
use crate::client::route::Address;
use crate::client::shared::Shared;
use crate::protocol::{ClientBody, ClientFrame, Hello, SUBPROTOCOL, ServerBody, ServerFrame};

/// The largest frame that a node may send us: a message of the largest body that nodes can be
/// configured for, and some.
const FRAME_BYTES: usize = 1 << 20;
/// Data that the other end's machine does not confirm within this time: the connection is dead.
const UNCONFIRMED: Duration = Duration::from_secs(30);
/// A node that restarts without saying how long its clients may take to come back.
const RESTART: Duration = Duration::from_secs(1);
/// A node may ask for so much patience, not more.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

impl Link {
    /// Shakes hands over `stream`, says hello, and waits for the welcome.
    pub async fn open(
        stream: BoxConn,
        address: &Address,
        hello: Hello<'_>,
        shared: Arc<Shared>,
    ) -> Result<(Self, Session), Ended> {
        // Best effort: without them the connection is only slower to send, or to be found dead.
        let _ = stream.set_nodelay(true);
        let _ = stream.set_user_timeout(UNCONFIRMED);
        let request = Request::get(format!("ws://{}{}", address.authority, address.path))
            .header(header::HOST, &address.authority)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key())
            .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
            .body(())
            .map_err(|error| Ended::broken(format!("cannot ask for a WebSocket: {error}")))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(4 << 10)
            .write_buffer_size(8 << 10)
            .max_write_buffer_size(4 << 20)
            .max_message_size(Some(FRAME_BYTES))
            .max_frame_size(Some(FRAME_BYTES));
        let handshake = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        let (socket, _) = handshake.map_err(|error| refused(&error))?;
        let renew = hello.token.as_deref().and_then(renewal_time);
        let link = Self {
            socket,
            shared,
            token: hello.token.as_deref().unwrap_or_default().to_owned(),
            heard: clock::now(),
            pong_due: false,
            renewal: None,
            renewal_refused: false,
            leave: None,
            leave_within: RESTART,
        };
        link.greet(hello, renew).await
    }

    async fn greet(mut self, hello: Hello<'_>, renew: Option<Instant>) -> Result<(Self, Session), Ended> {
        let hello = ClientFrame { id: Some(HELLO_ID), body: ClientBody::Hello(hello) }.encode();
        let sent = self.socket.send(Message::text(hello)).await;
        sent.map_err(|error| broke(&error))?;
        loop {
            let message = match self.socket.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(broke(&error)),
                None => return Err(Ended::broken("the node closed the connection")),
            };
            match &message {
                Message::Close(frame) => return Err(self.end_of(frame.as_ref())),
                Message::Text(text) => match ServerFrame::decode(text).map(|frame| frame.body) {
                    Ok(ServerBody::Welcome(welcome)) => {
                        let session = Session {
                            name: welcome.session.clone().into_owned(),
                            user: welcome.user.clone().into_owned(),
                            node: welcome.node.clone().into_owned(),
                            inflight: welcome.limits.inflight as usize,
                            frame_bytes: welcome.limits.frame_bytes as usize,
                            epoch: welcome.session.parse().ok(),
                            ping: Duration::from_millis(welcome.ping_ms.max(100)),
                            renew,
                        };
                        self.heard = clock::now();
                        return Ok((self, session));
                    }
                    Ok(ServerBody::Error(error)) => tracing::debug!(code = ?error.code, "the hello was refused"),
                    // We go once we are welcome.
                    Ok(ServerBody::GoAway(go_away)) => self.go_away(go_away),
                    Ok(_) => {}
                    Err(error) => return Err(Ended::broken(format!("not a frame of ours: {error}"))),
                },
                _ => {}
            }
        }
    }
}

/// How long a node wants to be left alone, within reason.
fn retry_after(headers: &http::HeaderMap) -> Duration {
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(LONGEST_RETRY)
}

/// No WebSocket came about.
fn refused(error: &Error) -> Ended {
    match error {
        Error::Io(error) if Distrust::of(error).is_some() => Ended::broken(error.to_string()),
        Error::Http(answer) => {
            // At a time of our own: many were told the same.
            let wait = retry_after(answer.headers()).mul_f64(1.0 + rand::random::<f64>());
            Ended::Broken {
                welcome: None,
                reason: format!("no WebSocket: the node answered {}", answer.status()),
                wait,
                expired: None,
            }
        }
        error => Ended::broken(format!("no WebSocket: {error}")),
    }
}
