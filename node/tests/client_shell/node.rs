//! A node that says what a test tells it to.

use std::time::Duration;

use cluster::env::clock;
use futures_util::{SinkExt, StreamExt};
use im_gateway::protocol::SUBPROTOCOL;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// No step here takes long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of every message that a client sends.
pub const MID: &str = "000102030405060708090a0b0c0d0e0f";

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    clock::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("gave up waiting: {what}"))
}

pub struct Node(pub TcpListener);

/// One connection, as the node sees it.
pub struct Socket(pub WebSocketStream<TcpStream>);

impl Node {
    pub async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a free port"))
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.0.local_addr().expect("bound"))
    }

    /// The next connection, and its `hello`.
    pub async fn accept(&self) -> (Socket, Value) {
        let (stream, _) = soon("a connection", self.0.accept()).await.expect("accepted");
        #[allow(clippy::result_large_err)] // The library's own type.
        let choose = |_: &Request, mut response: Response| {
            response.headers_mut().insert("Sec-WebSocket-Protocol", SUBPROTOCOL.parse().expect("a header"));
            Ok(response)
        };
        let socket = soon("a handshake", tokio_tungstenite::accept_hdr_async(stream, choose)).await;
        let mut socket = Socket(socket.expect("a good handshake"));
        let hello = socket.frame().await["hello"].take();
        (socket, hello)
    }

    /// Answers the next connection's request with this status and these headers, each with its line's end.
    pub async fn refuse(&self, status: &str, headers: &str) {
        let (mut stream, _) = soon("a connection", self.0.accept()).await.expect("accepted");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            soon("a request", stream.read_buf(&mut request)).await.expect("it asks");
        }
        let answer = format!("HTTP/1.1 {status}\r\n{headers}content-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.expect("it listens");
    }

    /// As [`Node::accept`], and welcomes the client.
    pub async fn welcome(&self, ping_ms: u64, inflight: u64, epoch: u64) -> (Socket, Value) {
        let (mut socket, hello) = self.accept().await;
        socket.welcome(ping_ms, inflight, epoch).await;
        (socket, hello)
    }
}

impl Socket {
    pub async fn welcome(&mut self, ping_ms: u64, inflight: u64, epoch: u64) {
        let limits = json!({"frame_bytes": 65536, "send_per_s": 1000, "inflight": inflight});
        let welcome = json!({"session": epoch.to_string(), "user": "alice", "device": "d", "node": "n", "ping_ms": ping_ms, "limits": limits});
        self.send(json!({"id": 1, "welcome": welcome})).await;
    }

    pub async fn send(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.expect("the client listens");
    }

    pub async fn message(&mut self, seq: u64, mid: u8) {
        let mid = format!("{mid:032x}");
        let message = json!({"mid": mid, "from": "bob", "device": "d", "to": "alice", "ts": 1, "body": seq});
        self.send(json!({"seq": seq, "msg": message})).await;
    }

    /// The text of the client's next frame.
    pub async fn text(&mut self) -> String {
        match soon("a frame", self.0.next()).await.expect("a frame").expect("a good frame") {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("not a text frame: {other:?}"),
        }
    }

    pub async fn frame(&mut self) -> Value {
        serde_json::from_str(&self.text().await).expect("JSON")
    }

    /// The number of the next message sent, and its answer's id.
    pub async fn sent(&mut self) -> (u64, u64) {
        let frame = self.frame().await;
        (frame["send"]["body"].as_u64().expect("a number"), frame["id"].as_u64().expect("an id"))
    }

    pub async fn ok(&mut self, id: u64) {
        self.send(json!({"id": id, "ok": {"mid": MID}})).await;
    }

    pub async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.0.close(Some(frame)).await.expect("the client listens");
    }

    /// The close code by which the client ends the connection; `None` when it just goes.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            match soon("the end", self.0.next()).await {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }
}
