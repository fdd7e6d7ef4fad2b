//! A gateway that says what a test tells it to: the page's files, a token, and WebSockets of which
//! the test is the other end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cluster::env::clock;
use futures_util::{SinkExt, StreamExt};
use im_gateway::http::ASSETS;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::common::PATIENCE;

const NODE: &str = "0123456789abcd";

/// The server's side; the test accepts its WebSockets in the order in which they come.
pub struct Fake {
    /// Where the page is.
    pub url: String,
    sockets: mpsc::UnboundedReceiver<Socket>,
    /// So many of the next WebSockets are refused.
    refusals: Arc<AtomicUsize>,
}

/// One WebSocket of the page's client.
pub struct Socket(WebSocketStream<TcpStream>);

impl Fake {
    /// Tokens that it gives out live for `token_life`.
    pub async fn start(token_life: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let addr = listener.local_addr().expect("a listener has an address");
        let (tx, sockets) = mpsc::unbounded_channel();
        let refusals = Arc::new(AtomicUsize::new(0));
        let left = refusals.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, addr, token_life, tx.clone(), left.clone()));
            }
        });
        Self { url: format!("http://{addr}"), sockets, refusals }
    }

    /// Where its WebSockets are.
    pub fn ws_url(&self) -> String {
        format!("{}/ws", self.url.replace("http", "ws"))
    }

    /// Answers so many of the next requests for a WebSocket with 503.
    pub fn refuse(&self, count: usize) {
        self.refusals.store(count, Ordering::Relaxed);
    }

    /// The next WebSocket, and its `hello`.
    pub async fn accept(&mut self) -> (Socket, Value) {
        let socket = clock::timeout(PATIENCE, self.sockets.recv()).await.expect("the page connects in time");
        let mut socket = socket.expect("the server runs");
        let mut hello = socket.receive().await;
        assert_eq!(hello["id"], 1, "{hello}");
        (socket, hello["hello"].take())
    }

    /// The next WebSocket, welcomed.
    pub async fn welcome(&mut self, ping_ms: u64, inflight: u32) -> (Socket, Value) {
        let (mut socket, hello) = self.accept().await;
        socket.welcome(&hello, ping_ms, inflight).await;
        (socket, hello)
    }
}

impl Socket {
    /// Answers a `hello`.
    pub async fn welcome(&mut self, hello: &Value, ping_ms: u64, inflight: u32) {
        let limits = json!({"frame_bytes": 2048, "send_per_s": 1000, "inflight": inflight, "watches": 256});
        self.welcome_with(hello, ping_ms, &limits).await;
    }

    /// Answers a `hello`, with these limits, as a cluster that goes on.
    pub async fn welcome_with(&mut self, hello: &Value, ping_ms: u64, limits: &Value) {
        let session = hello["attempt"].as_u64().expect("a `hello` counts attempts") * 100_000;
        self.welcome_as(session, hello, ping_ms, limits).await;
    }

    /// As this session.
    pub async fn welcome_as(&mut self, session: u64, hello: &Value, ping_ms: u64, limits: &Value) {
        self.send(json!({"id": 1, "welcome": {
            "session": session.to_string(),
            "user": "alice",
            "device": hello["device"],
            "node": NODE,
            "ping_ms": ping_ms,
            "limits": limits,
        }}))
        .await;
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.expect("the page's socket is open");
    }

    /// The text of the page's next frame; none when it has closed.
    pub async fn text(&mut self) -> Option<String> {
        loop {
            match clock::timeout(PATIENCE, self.0.next()).await.expect("the page says something in time") {
                Some(Ok(Message::Text(text))) => return Some(text.as_str().to_owned()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// The page's next frame, other than whom it watches or not, that it types and what was read, which it says when it
    /// likes.
    pub async fn receive(&mut self) -> Value {
        loop {
            let text = self.text().await.expect("the page's socket is open");
            let frame: Value = serde_json::from_str(&text).expect("the page speaks JSON");
            if ["watch", "unwatch", "typing", "read"].iter().all(|kind| frame[kind].is_null()) {
                return frame;
            }
        }
    }

    /// Closes with this code, and waits until the page's side is closed as well.
    pub async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "".into() };
        _ = self.0.close(Some(frame)).await;
        while self.text().await.is_some() {}
    }
}

async fn serve(
    mut stream: TcpStream,
    addr: SocketAddr,
    token_life: Duration,
    sockets: mpsc::UnboundedSender<Socket>,
    refusals: Arc<AtomicUsize>,
) {
    let mut head = [0; 4096];
    let read = stream.peek(&mut head).await.unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..read]).into_owned();
    let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let fewer = |count: usize| count.checked_sub(1);
    if path == "/ws" && refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_err() {
        #[expect(clippy::result_large_err, reason = "the handshake's callback is defined so")]
        let choose = |_: &Request, mut response: Response| {
            response.headers_mut().insert("sec-websocket-protocol", "imgw.v1.json".parse().expect("a header's value"));
            Ok(response)
        };
        if let Ok(socket) = tokio_tungstenite::accept_hdr_async(stream, choose).await {
            _ = sockets.send(Socket(socket));
        }
        return;
    }
    let (kind, body) = answer(&path, addr, token_life);
    let status = match (path.as_str(), kind) {
        ("/ws", _) => "503 Service Unavailable",
        (_, "") => "404 Not Found",
        _ => "200 OK",
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    _ = stream.write_all(head.as_bytes()).await;
    _ = stream.shutdown().await;
    while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {}
}

fn answer(path: &str, addr: SocketAddr, token_life: Duration) -> (&'static str, String) {
    if path.starts_with("/dev/token?") {
        let exp = (clock::wall_ms() + token_life.as_millis() as u64) / 1000;
        let claims = BASE64_URL_SAFE_NO_PAD.encode(json!({"sub": "alice", "exp": exp}).to_string());
        return ("application/json", json!({"token": format!("e30.{claims}.x")}).to_string());
    }
    if path == "/admin/status" {
        let node = json!({"node": NODE, "client_url": format!("ws://{addr}/ws"), "up": true});
        return ("application/json", json!({"node": NODE, "nodes": [node]}).to_string());
    }
    let bare = path.split('?').next().unwrap_or_default();
    let found = ASSETS.into_iter().find(|asset| asset.path == bare);
    found.map_or(("", String::new()), |asset| (asset.content_type, asset.text.to_owned()))
}
