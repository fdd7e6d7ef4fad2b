//! A WebSocket client that does exactly what it is told, for what the SDK would never do.

use std::collections::VecDeque;
use std::time::Duration;

use ::http::Request;
use ::http::request::Builder;
use cluster::env::clock::{self, Instant};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::http::{self, Answer};
use super::{PATIENCE, token};

/// One connection.
pub struct Raw {
    socket: WebSocketStream<TcpStream>,
    /// Frames that came while another was waited for.
    passed: VecDeque<Value>,
}

/// What comes from the node.
#[derive(Debug, PartialEq)]
pub enum Got {
    /// A frame, other than the node's `ping`, which is answered.
    Frame(Value),
    /// The connection was closed with this code.
    Closed(u16),
    /// The connection ended without a word.
    Broken(String),
}

impl Raw {
    /// Opens a WebSocket; says nothing.
    pub async fn open(addr: &str) -> Self {
        Self::request(addr, Request::builder()).await.expect("the node takes a WebSocket")
    }

    /// As [`Raw::open`], with a token in the header.
    pub async fn open_with(addr: &str, token: &str) -> Self {
        let request = Request::builder().header("authorization", format!("Bearer {token}"));
        Self::request(addr, request).await.expect("the node takes a WebSocket")
    }

    /// Opens a WebSocket of another path than the clients'.
    pub async fn open_at(addr: &str, path: &str) -> Self {
        Self::request_at(addr, path, Request::builder()).await.expect("the node takes a WebSocket")
    }

    /// As [`Raw::open`], where the node may refuse.
    pub async fn try_open(addr: &str) -> Result<Self, Error> {
        Self::request(addr, Request::builder()).await
    }

    /// As [`Raw::try_open`], as a proxy does it for this address.
    pub async fn open_for(addr: &str, client: &str) -> Result<Self, Error> {
        Self::request(addr, Request::builder().header("x-forwarded-for", client)).await
    }

    async fn request(addr: &str, request: Builder) -> Result<Self, Error> {
        Self::request_at(addr, "/ws", request).await
    }

    async fn request_at(addr: &str, path: &str, request: Builder) -> Result<Self, Error> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let request = request
            .uri(format!("ws://{addr}{path}"))
            .header("host", addr)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", im_gateway::protocol::SUBPROTOCOL)
            .body(())
            .expect("a good request");
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        Ok(Self { socket, passed: VecDeque::new() })
    }

    /// Opens a WebSocket and says hello; waits for the welcome.
    pub async fn welcome(addr: &str, user: &str, device: &str) -> Self {
        let mut raw = Self::open(addr).await;
        raw.hello(user, device).await;
        let frame = raw.frame().await;
        assert!(frame["welcome"].is_object(), "no welcome: {frame}");
        raw
    }

    /// Says hello.
    pub async fn hello(&mut self, user: &str, device: &str) {
        self.send(json!({"id": 1, "hello": {"token": token(user), "device": device}})).await;
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: Value) {
        self.text(&frame.to_string()).await;
    }

    /// Sends a text message. That the node has gone is seen when reading.
    pub async fn text(&mut self, text: &str) {
        let _ = self.socket.send(Message::text(text)).await;
    }

    /// Sends any WebSocket message.
    pub async fn message(&mut self, message: Message) {
        let _ = self.socket.send(message).await;
    }

    /// What comes next, as it is.
    pub async fn raw_message(&mut self) -> Message {
        let next = clock::timeout(PATIENCE, self.socket.next()).await;
        next.expect("something comes").expect("the stream goes on").expect("a message")
    }

    /// Sends bytes beneath the WebSocket.
    pub async fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.socket.get_mut().write_all(bytes).await;
    }

    /// What comes next.
    pub async fn next(&mut self) -> Got {
        self.next_within(PATIENCE).await.expect("something comes")
    }

    /// What comes next, unless nothing does for so long.
    pub async fn next_within(&mut self, limit: Duration) -> Option<Got> {
        match self.passed.pop_front() {
            Some(frame) => Some(Got::Frame(frame)),
            None => self.read(clock::now() + limit).await,
        }
    }

    async fn read(&mut self, deadline: Instant) -> Option<Got> {
        loop {
            let message = match clock::timeout_at(deadline, self.socket.next()).await {
                Err(_) => return None,
                Ok(None) => return Some(Got::Broken("end of stream".into())),
                Ok(Some(Err(error))) => return Some(Got::Broken(error.to_string())),
                Ok(Some(Ok(message))) => message,
            };
            match message {
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(&text).expect("a node speaks JSON");
                    if frame["ping"].is_object() {
                        self.send(json!({"pong": {}})).await;
                    } else {
                        return Some(Got::Frame(frame));
                    }
                }
                Message::Close(frame) => return Some(Got::Closed(frame.map_or(1005, |frame| frame.code.into()))),
                Message::Binary(_) => panic!("a node sends no binary frames"),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Value {
        match self.next().await {
            Got::Frame(frame) => frame,
            other => panic!("a frame was to come, not {other:?}"),
        }
    }

    /// The next frame that has this field; others are kept for later.
    pub async fn frame_with(&mut self, field: &str) -> Value {
        self.frame_where(&format!("a frame with `{field}`"), |frame| !frame[field].is_null()).await
    }

    /// The next frame with this id; others are kept for later.
    pub async fn answer(&mut self, id: u64) -> Value {
        self.frame_where(&format!("an answer to {id}"), |frame| frame["id"] == id).await
    }

    async fn frame_where(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(frame) = self.passed.iter().position(&fits).and_then(|index| self.passed.remove(index)) {
            return frame;
        }
        let deadline = clock::now() + PATIENCE;
        loop {
            match self.read(deadline).await {
                Some(Got::Frame(frame)) if fits(&frame) => return frame,
                Some(Got::Frame(frame)) => self.passed.push_back(frame),
                other => panic!("{what} was to come, not {other:?}; before it {:?}", self.passed),
            }
        }
    }

    /// The code with which the node closes; the frames before it.
    pub async fn closed(&mut self) -> (u16, Vec<Value>) {
        let mut frames = Vec::new();
        loop {
            match self.next().await {
                Got::Frame(frame) => frames.push(frame),
                Got::Closed(code) => return (code, frames),
                Got::Broken(error) => panic!("a close frame was to come, not {error}; before it {frames:?}"),
            }
        }
    }

    /// Answers the node's pings until `stop` is ready, or something else comes: that.
    pub async fn quiet_until(mut self, stop: impl Future<Output = ()>) -> Option<Got> {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return None,
                Some(got) = self.next_within(PATIENCE) => return Some(got),
                else => {}
            }
        }
    }

    /// Says goodbye; all frames that were not asked for yet, up to the node's answer.
    pub async fn bye(mut self) -> Vec<Value> {
        let _ = self.socket.close(None).await;
        let mut frames = Vec::new();
        while let Got::Frame(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }

    /// Says goodbye and waits for the answer.
    pub async fn leave(mut self) {
        let _ = self.socket.close(None).await;
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

/// Asks for a WebSocket with more `headers`, each ended by `\r\n`, where the answer is to be a refusal.
pub async fn refused(addr: &str, headers: &str) -> Answer {
    let text = format!(
        "GET /ws HTTP/1.1\r\nhost: {addr}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    let asking = http::request(addr, &text);
    clock::timeout(PATIENCE, asking).await.expect("an answer, and the end of the connection").expect("an answer")
}
