//! How a session begins, is kept up and ends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use cluster::env::clock;
use cluster::env::net::Conn;
use cluster::id::Pos;
use cluster::session::{Event, Refusal};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::{SECOND, send};
use crate::protocol::CloseCode;
use crate::session::control::Connections;
use crate::session::run::{Opened, run};
use crate::session::testing::{Client, FakeLink, Memory, hello, rules, token};

#[tokio::test(start_paused = true)]
async fn registers_and_welcomes() {
    let mut client = Client::open(rules()).await;
    client.say(&hello(60_000)).await;
    client.silent(SECOND).await;
    client.script.tell(Event::Registered { epoch: Pos(9) });
    let welcome = client.hear().await;
    assert!(
        welcome.starts_with(
            r#"{"id":1,"welcome":{"session":"9","user":"alice","device":"d1","node":"n1","ping_ms":25000,"#
        )
    );
    assert!(
        welcome.ends_with(r#""limits":{"frame_bytes":4096,"send_per_s":100,"inflight":4,"watches":3}}}"#),
        "{welcome}"
    );
    let spec = client.script.lock().spec.clone().unwrap();
    assert_eq!((spec.user.as_str(), spec.device.as_str(), spec.attempt), ("alice", "d1", 1));
    client.script.tell(Event::Suspended);
    client.script.tell(Event::Registered { epoch: Pos(11) });
    client.silent(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn closes_whoever_does_not_say_hello() {
    assert_eq!(Client::open(rules()).await.closed().await, 4003);
    let mut other = Client::open(rules()).await;
    other.say(r#"{"id":5,"ack":1}"#).await;
    assert_eq!(
        other.hear().await,
        r#"{"id":5,"error":{"code":"bad_frame","message":"the first frame must be a hello"}}"#
    );
    assert_eq!(other.closed().await, 4503);
    let mut expired = Client::open(rules()).await;
    expired.say(&hello(0)).await;
    assert!(expired.hear().await.contains("bad_token"));
    assert_eq!(expired.closed().await, 4501);
    let mut forged = Client::open(rules()).await;
    forged.say(r#"{"hello":{"token":"e30.e30.AA","device":"d"}}"#).await;
    assert!(forged.hear().await.contains("bad_token"));
    assert_eq!(forged.closed().await, 4500);
}

#[tokio::test(start_paused = true)]
async fn refusals_have_their_close_codes() {
    for (event, code) in [
        (Event::Refused(Refusal::OlderAttempt), 4005),
        (Event::Refused(Refusal::TooManyDevices), 4504),
        (Event::Refused(Refusal::TooManyForgotten), 1013),
        (Event::Unavailable, 4001),
    ] {
        let mut client = Client::open(rules()).await;
        client.say(&hello(60_000)).await;
        client.script.tell(event);
        assert_eq!(client.closed().await, code);
    }
    let client = Client::welcomed(rules()).await;
    client.script.tell(Event::Superseded);
    assert_eq!(client.closed().await, 4502);
    let full = Client::open_with(rules(), 4096, Connections::new(0)).await;
    assert_eq!(full.closed().await, 1013);
}

#[tokio::test(start_paused = true)]
async fn who_says_no_hello_gives_way_to_others() {
    let connections = Connections::new(3);
    let mute = Client::open_with(rules(), 4096, connections.clone()).await;
    cluster::env::clock::sleep(SECOND).await;
    let mut other = Client::open_with(rules(), 4096, connections).await;
    other.greet().await;
    drop(other.socket);
    (&mut other.task).await.unwrap();
    assert_eq!(mute.closed().await, 1013);
}

/// Masked WebSocket pings of the largest size, `bytes` or a little less in all.
fn pings(bytes: usize) -> Vec<u8> {
    let mut ping = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
    ping.resize(ping.len() + 125, b'p');
    ping.repeat(bytes / ping.len())
}

#[tokio::test(start_paused = true)]
async fn pings_before_the_hello_fill_no_memory() {
    const FLOOD: usize = 4 << 20;
    let flood = pings(FLOOD);
    let mut deaf = Client::open(rules()).await;
    let wrote = cluster::env::clock::timeout(SECOND, deaf.socket.get_mut().write_all(&flood)).await;
    assert!(wrote.is_err(), "{FLOOD} bytes of pings were taken from a client that reads no pong");
    (&mut deaf.task).await.unwrap();
    let metrics = deaf.node.metrics.render("n");
    assert!(metrics.contains(r#"closed_total{node="n",reason="hello_timeout"} 1"#), "{metrics}");
    // Who reads is answered all of them, and is as welcome as anybody.
    let mut client = Client::open(rules()).await;
    let mut pongs = vec![0; flood.len() - flood.len() / 131 * 4];
    let (mut from, mut to) = tokio::io::split(client.socket.get_mut());
    let (sent, heard) = tokio::join!(to.write_all(&flood), from.read_exact(&mut pongs));
    sent.unwrap();
    heard.unwrap();
    assert!(pongs.chunks(127).all(|pong| pong[..3] == [0x8a, 125, b'p']));
    client.greet().await;
}

#[tokio::test(start_paused = true)]
async fn bad_frames_are_told_and_then_too_many() {
    let mut client = Client::welcomed(rules()).await;
    for _ in 0..20 {
        client.say(r#"{"id":1,"newfangled":{}}"#).await;
        assert!(client.hear().await.starts_with(r#"{"id":1,"error":{"code":"unknown_type""#));
    }
    for _ in 0..8 {
        client.say("{").await;
        assert!(client.hear().await.starts_with(r#"{"error":{"code":"bad_frame""#));
    }
    assert_eq!(client.closed().await, 4503);
}

#[tokio::test(start_paused = true)]
async fn websocket_level_violations() {
    let mut binary = Client::welcomed(rules()).await;
    binary.socket.send(Frame::binary(vec![1])).await.unwrap();
    assert_eq!(binary.closed().await, 1003);
    let mut large = Client::welcomed(rules()).await;
    large.say(&"x".repeat(4097)).await;
    assert_eq!(large.closed().await, 1009);
    let mut pinged = Client::welcomed(rules()).await;
    pinged.socket.send(Frame::Ping("p".into())).await.unwrap();
    assert_eq!(pinged.socket.next().await.unwrap().unwrap(), Frame::Pong("p".into()));
    pinged.say(r#"{"ping":{}}"#).await;
    assert_eq!(pinged.hear().await, r#"{"pong":{}}"#);
}

#[tokio::test(start_paused = true)]
async fn silence_is_pinged_and_then_closed() {
    let mut client = Client::welcomed(rules()).await;
    let start = cluster::env::clock::now();
    assert_eq!(client.hear().await, r#"{"ping":{}}"#);
    assert_eq!(start.elapsed().as_secs(), 25);
    client.say(r#"{"pong":{}}"#).await;
    assert_eq!(client.hear().await, r#"{"ping":{}}"#);
    assert_eq!(client.closed().await, 4002);
    assert_eq!(start.elapsed().as_secs(), 75);
}

/// A stream that takes bytes and, once it `holds`, passes none on: as TLS does whose other end does not read.
struct Holding {
    below: Memory,
    holds: Arc<AtomicBool>,
}

impl AsyncRead for Holding {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_read(cx, buf)
    }
}

impl AsyncWrite for Holding {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.holds.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.below).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.holds.load(Ordering::Relaxed) { Poll::Pending } else { Pin::new(&mut self.below).poll_flush(cx) }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_shutdown(cx)
    }
}

impl Conn for Holding {
    fn peer_addr(&self) -> SocketAddr {
        self.below.peer_addr()
    }
    fn abort_on_drop(&self) {}
    fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.below.set_nodelay(on)
    }
    fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.below.set_user_timeout(timeout)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_holds_back_the_client_has_not_taken() {
    // The node's own pings, or also something that waited before them.
    for waits in [false, true] {
        let (ours, theirs) = tokio::io::duplex(4096);
        let holds = Arc::new(AtomicBool::new(false));
        let conn = Holding { below: Memory(theirs), holds: holds.clone() };
        let mut client = Client::open_on(rules(), ours, Box::new(conn), Connections::new(1)).await;
        client.greet().await;
        holds.store(true, Ordering::Relaxed);
        if waits {
            client.socket.send(Frame::Ping("x".into())).await.unwrap();
        }
        let end = clock::timeout(rules().ping * 4, &mut client.task).await;
        end.expect("it is not taken for alive").unwrap();
        let metrics = client.node.metrics.render("n");
        assert!(metrics.contains(r#"connections_closed_total{node="n",reason="slow_consumer"} 1"#), "{metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn goodbyes() {
    for (frame, clean) in [
        (None, true),
        (Some(CloseFrame { code: 1000.into(), reason: "".into() }), true),
        (Some(CloseFrame { code: 1001.into(), reason: "".into() }), true),
        (Some(CloseFrame { code: 4000.into(), reason: "".into() }), false),
    ] {
        let mut client = Client::welcomed(rules()).await;
        client.say(&send(1)).await;
        client.socket.close(frame).await.unwrap();
        while client.socket.next().await.is_some() {}
        (&mut client.task).await.unwrap();
        let played = client.script.lock();
        assert_eq!((played.closed, played.sent.len()), (Some(clean), 1));
    }
    let mut lost = Client::welcomed(rules()).await;
    drop(lost.socket);
    (&mut lost.task).await.unwrap();
    assert_eq!(lost.script.lock().closed, Some(false));
}

#[tokio::test(start_paused = true)]
async fn tokens_expire_and_are_refreshed() {
    let mut client = Client::open(rules()).await;
    client.say(&hello(1000)).await;
    client.script.tell(Event::Registered { epoch: Pos(1) });
    client.hear().await;
    client.say(&format!(r#"{{"id":2,"refresh":{{"token":"{}"}}}}"#, token("mallory", 60_000))).await;
    assert!(client.hear().await.starts_with(r#"{"id":2,"error":{"code":"bad_token""#));
    client.say(&format!(r#"{{"id":3,"refresh":{{"token":"{}"}}}}"#, token("alice", 60_000))).await;
    assert_eq!(client.hear().await, r#"{"id":3,"ok":{}}"#);
    let metrics = client.node.metrics.render("n");
    for outcome in ["ok", "refused"] {
        let line = format!("im_gateway_token_refreshes_total{{node=\"n\",outcome=\"{outcome}\"}} 1\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[tokio::test]
async fn an_expired_token_ends_the_session() {
    // Not on paused time: tokens run on the wall clock.
    let mut client = Client::open(rules()).await;
    client.say(&hello(1100)).await;
    client.script.tell(Event::Registered { epoch: Pos(1) });
    client.hear().await;
    assert_eq!(client.closed().await, 4501);
}

#[tokio::test(start_paused = true)]
async fn a_restart_sends_everybody_away() {
    let mut client = Client::welcomed(rules()).await;
    client.connections.end(500);
    assert_eq!(client.hear().await, r#"{"go_away":{"after_ms":500}}"#);
    assert_eq!(client.closed().await, 1012);
}

#[tokio::test]
async fn an_idle_connection_is_small() {
    let client = Client::open(rules()).await;
    let place = client.connections.enter();
    let opened = Opened {
        conn: Box::new(Memory(tokio::io::duplex(1).0)),
        early: bytes::Bytes::new(),
        identity: None,
        peer: ([127, 0, 0, 1], 7).into(),
    };
    let open = |_, _: &_| -> Result<(FakeLink, u32), _> { Err(CloseCode::Unavailable) };
    let future = run(client.node.clone(), opened, place, open);
    assert!(size_of_val(&future) < 2048, "{} bytes", size_of_val(&future));
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_token() {
    let now_ms = cluster::env::clock::wall_ms();
    let mut client = Client::welcomed(rules()).await;
    client.script.tell(Event::Revoked { before_ms: now_ms - 60_000 });
    client.silent(SECOND).await;
    client.script.tell(Event::Revoked { before_ms: now_ms + 60_000 });
    assert_eq!(client.closed().await, 4500, "issued before");

    // Revoked while it was not registered, as a node is that was sent a checkpoint.
    let client = Client::welcomed(rules()).await;
    client.script.tell(Event::Suspended);
    client.script.lock().revoked_before = Some(now_ms + 60_000);
    client.script.tell(Event::Registered { epoch: Pos(9) });
    assert_eq!(client.closed().await, 4500);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_gets_no_session_and_refreshes_none() {
    let now_ms = cluster::env::clock::wall_ms();
    let mut client = Client::open(rules()).await;
    client.script.lock().revoked_before = Some(now_ms + 60_000);
    client.say(&hello(60_000)).await;
    assert!(client.hear().await.contains(r#""code":"bad_token""#));
    assert!(client.script.lock().spec.is_none(), "it evicts nobody");
    assert_eq!(client.closed().await, 4500);

    let mut client = Client::welcomed(rules()).await;
    client.script.lock().revoked_before = Some(now_ms + 60_000);
    client.say(&format!(r#"{{"id":5,"refresh":{{"token":"{}"}}}}"#, token("alice", 90_000))).await;
    let answer = client.hear().await;
    assert!(answer.contains(r#"{"id":5,"error":{"code":"bad_token""#), "{answer}");
}
