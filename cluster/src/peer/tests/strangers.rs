//! What comes in from those who are no peers, and from peers that misbehave.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::frame::{Frame, FrameType, MAX_PAYLOAD};
use super::super::greet::{self, GreetError};
use super::super::handshake::{Established, HandshakeError, Refusal};
use super::super::limits::{HANDSHAKE_TIMEOUT, MAX_HANDSHAKES, MAX_ONE_OFF};
use super::super::{PeerError, Peers};
use super::*;
use crate::env::Net;
use crate::env::net::BoxConn;

async fn connect(net: &MemNet, addr: SocketAddr) -> BoxConn {
    net.connect(&addr.to_string()).await.unwrap()
}

/// A bare link, as node `me`.
async fn raw(net: &MemNet, addr: SocketAddr, me: NodeId, want: Option<NodeId>) -> Result<BoxConn, GreetError> {
    let mut conn = connect(net, addr).await;
    greet::dial(&mut conn, &secret(), me, want).await?;
    Ok(conn)
}

/// Reads to the end, which must come within `limit`.
async fn ends_within(conn: &mut BoxConn, limit: Duration) -> Duration {
    let began = clock::now();
    let mut rest = Vec::new();
    let _ = clock::timeout(limit, conn.read_to_end(&mut rest)).await.expect("the stream goes on");
    began.elapsed()
}

fn frame(frame_type: FrameType, payload: &'static [u8]) -> BytesMut {
    let mut wire = BytesMut::new();
    Frame { frame_type, kind: ASK, id: 1, payload: Bytes::from_static(payload) }.encode(&mut wire);
    wire
}

fn counting() -> (Arc<dyn Handler>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let counting = handler(move |_, _, body| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { Ok(body) }
    });
    (counting, count)
}

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_never_gets_in() {
    let net = MemNet::default();
    let (counting, count) = counting();
    let b = node(&net, B, counting).await;
    let wrong = Peers::new(Arc::new(net.clone()), A, Secret::new("guess"), Arc::new(NoObserver));
    wrong.set_addresses([(B, b.addr.to_string())].into());
    let a = Node { peers: wrong, addr: b.addr };
    a.until(is_down_not_refused).await;
    clock::sleep(Duration::from_secs(10)).await;
    assert!(is_down_not_refused(&a.states()));
    assert_eq!(a.ask(B, "hi").await, Err(PeerError::Down));
    let asked = a.peers.request_addr(&b.addr.to_string(), ASK, "hi".into(), LONG).await;
    assert_eq!(asked, Err(PeerError::Refused("the other end refused: the cluster secrets differ".into())));
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_link_goes_to_the_wanted_node_or_nowhere() {
    let net = MemNet::default();
    let a = node(&net, A, echo()).await;
    let b = node(&net, B, echo()).await;
    a.dial(&[(C, b.addr)]);
    a.until(is_down_not_refused).await;
    assert_eq!(a.ask(C, "hi").await, Err(PeerError::Down));
}

#[tokio::test(start_paused = true)]
async fn a_one_off_link_asks_whoever_is_there() {
    let net = MemNet::default();
    let (a, b) = pair(&net, handler(|from, _, _| async move { Ok(from.to_string().into()) })).await;
    let ask = |addr: String| async { a.peers.request_addr(&{ addr }, ASK, "hi".into(), Duration::from_secs(5)).await };
    assert_eq!(ask(b.addr.to_string()).await, Ok((B, A.to_string().into())));
    assert_eq!(ask("127.0.0.1:1".into()).await, Err(PeerError::Down));
    assert_eq!(ask("nonsense".into()).await, Err(PeerError::Down));
    let own = ask(a.addr.to_string()).await;
    assert_eq!(own, Err(PeerError::Refused("the other end refused: both ends have the same node id".into())));
    net.hang(b.addr, true);
    let began = clock::now();
    let asked = a.peers.request_addr(&b.addr.to_string(), ASK, "hi".into(), Duration::from_millis(300)).await;
    assert_eq!(asked, Err(PeerError::Deadline));
    assert!((300..350).contains(&began.elapsed().as_millis()));
    // The lasting link was left alone.
    assert!(is_connected(&a.states()));
    assert_eq!(a.ask(B, "hi").await.unwrap(), A.to_string());
}

#[tokio::test(start_paused = true)]
async fn one_off_links_are_limited() {
    let net = MemNet::default();
    let b = node(&net, B, echo()).await;
    let mut open = Vec::new();
    for _ in 0..MAX_ONE_OFF {
        open.push(raw(&net, b.addr, A, None).await.unwrap());
    }
    let busy = GreetError::Handshake(HandshakeError::Refused(Refusal::Busy));
    assert_eq!(raw(&net, b.addr, A, None).await.err(), Some(busy));
    assert!(raw(&net, b.addr, A, Some(B)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn silent_strangers_are_shown_the_door() {
    let net = MemNet::default();
    let b = node(&net, B, echo()).await;
    let mut stranger = connect(&net, b.addr).await;
    let took = ends_within(&mut stranger, LONG).await;
    assert!((HANDSHAKE_TIMEOUT..HANDSHAKE_TIMEOUT * 2).contains(&took), "{took:?}");
    // A byte now and then buys no time.
    let mut dribbler = connect(&net, b.addr).await;
    let began = clock::now();
    while dribbler.write_all(&[0]).await.is_ok() {
        assert!(began.elapsed() < HANDSHAKE_TIMEOUT * 2);
        clock::sleep(Duration::from_millis(700)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_strangers_delays_a_peer_by_no_more_than_one_handshake() {
    let net = MemNet::default();
    let a = node(&net, A, echo()).await;
    let b = node(&net, B, echo()).await;
    let mut crowd = Vec::new();
    for _ in 0..MAX_HANDSHAKES {
        crowd.push(connect(&net, b.addr).await);
    }
    let began = clock::now();
    a.link_to(&[(B, b.addr)]).await;
    assert!(began.elapsed() < HANDSHAKE_TIMEOUT * 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn established_links_take_no_place_from_handshakes() {
    let net = MemNet::default();
    let b = node(&net, B, echo()).await;
    let began = clock::now();
    let mut links = Vec::new();
    for id in 0..=MAX_HANDSHAKES as u64 {
        links.push(raw(&net, b.addr, NodeId(1000 + id), Some(B)).await.unwrap());
    }
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn other_protocols_are_cut_short() {
    let net = MemNet::default();
    let b = node(&net, B, echo()).await;
    // The last one announces a message just above the cap.
    let junk: [&[u8]; 5] = [b"GET / HTTP/1.1\r\n\r\n", &[0xff; 64], b"\0\0\0\x03abc", b"\0\0\0\0", b"\0\0\x10\x01"];
    for bytes in junk {
        let mut stranger = connect(&net, b.addr).await;
        stranger.write_all(bytes).await.unwrap();
        assert!(ends_within(&mut stranger, LONG).await < Duration::from_millis(10), "{bytes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn bad_frames_end_the_link() {
    let net = MemNet::default();
    let (counting, count) = counting();
    let b = node(&net, B, counting).await;
    let mut flipped = frame(FrameType::Request, b"payload");
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    // A header in good order that announces one byte too many.
    let mut oversize = BytesMut::new();
    oversize.put_u32(u32::try_from(MAX_PAYLOAD).unwrap() + 1);
    oversize.put_slice(&frame(FrameType::Request, b"")[4..18]);
    oversize.put_u32(crc32fast::hash(&oversize));
    for wire in [flipped, oversize, frame(FrameType::Response, b""), frame(FrameType::Error, b"")] {
        let mut conn = raw(&net, b.addr, A, Some(B)).await.unwrap();
        conn.write_all(&wire).await.unwrap();
        assert!(ends_within(&mut conn, LONG).await < Duration::from_millis(10), "{wire:?}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
    let mut conn = raw(&net, b.addr, A, Some(B)).await.unwrap();
    conn.write_all(&frame(FrameType::Request, b"fine")).await.unwrap();
    let mut answer = frame(FrameType::Response, b"fine");
    conn.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, frame(FrameType::Response, b"fine"));
}

#[tokio::test(start_paused = true)]
async fn an_acceptor_that_asks_is_dropped() {
    let net = MemNet::default();
    let a = node(&net, A, echo()).await;
    let mut listener = net.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    a.dial(&[(B, addr)]);
    let mut conn = listener.accept().await.unwrap();
    let admit = |link: &Established| Ok(link.node);
    let (established, admitted) = greet::accept(&mut conn, &secret(), B, admit).await.unwrap();
    assert_eq!((established.node, admitted), (A, A));
    a.until(is_connected).await;
    let began = clock::now();
    conn.write_all(&frame(FrameType::Request, b"do this")).await.unwrap();
    a.until(is_down_not_refused).await;
    assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_recorded_link_opens_nothing() {
    let net = MemNet::default();
    let (counting, count) = counting();
    let (a, b) = pair(&net, counting).await;
    a.ask(B, "pay me").await.unwrap();
    let recorded = net.dialed_bytes(b.addr).remove(0);
    assert!(recorded.windows(6).any(|window| window == b"pay me"));
    let mut replayer = connect(&net, b.addr).await;
    replayer.write_all(&recorded).await.unwrap();
    assert!(ends_within(&mut replayer, LONG).await < Duration::from_millis(10));
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert!(is_connected(&a.states()));
}

#[tokio::test(start_paused = true)]
async fn the_newest_lasting_link_of_a_node_replaces_the_older() {
    let net = MemNet::default();
    let b = node(&net, B, echo()).await;
    let mut older = raw(&net, b.addr, A, Some(B)).await.unwrap();
    let mut other = raw(&net, b.addr, C, Some(B)).await.unwrap();
    let mut one_off = raw(&net, b.addr, A, None).await.unwrap();
    let mut newer = raw(&net, b.addr, A, Some(B)).await.unwrap();
    assert!(ends_within(&mut older, LONG).await < Duration::from_millis(10));
    for conn in [&mut newer, &mut other, &mut one_off] {
        conn.write_all(&frame(FrameType::Request, b"still here")).await.unwrap();
        let mut answer = frame(FrameType::Response, b"still here");
        conn.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, frame(FrameType::Response, b"still here"));
    }
}
