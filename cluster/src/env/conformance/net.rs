//! What [`Net`] promises.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Case, Dice, cases};
use crate::env::Net;
use crate::env::clock;
use crate::env::net::{BoxConn, Listener};

/// Longest that a case waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// No progress for this long is a stall.
const STALL: Duration = Duration::from_millis(300);
/// Most bytes that may be on their way to somebody who does not read: buffers of both ends.
const MOST_BUFFERED: usize = 64 << 20;

/// Two machines and a network between them.
#[async_trait]
pub trait NetWorld: Send + Sync {
    /// The machine that listens.
    fn server(&self) -> Arc<dyn Net>;
    /// The machine that dials.
    fn client(&self) -> Arc<dyn Net>;
    /// Any free port of the server's machine (`host:0`).
    fn any_port(&self) -> String;
    /// Starts a process of its own on the server's machine that runs [`echo`].
    async fn victim(&self) -> Victim;
}

/// A process that will die.
pub struct Victim {
    /// Where it listens.
    pub addr: String,
    /// Kills it, as SIGKILL does.
    pub kill: Box<dyn FnOnce() + Send>,
}

/// All cases.
#[must_use]
pub fn cases() -> Vec<Case<dyn NetWorld>> {
    cases![
        both_ends_know_each_other,
        bytes_arrive_in_order,
        many_connections_do_not_mix,
        connections_wait_to_be_accepted,
        a_connect_that_was_given_up_leaves_nothing,
        an_address_has_one_listener,
        an_address_must_parse,
        nobody_listening_refuses,
        a_dropped_listener_refuses_and_its_address_is_free,
        a_half_close_leaves_the_other_half,
        a_drop_delivers_what_was_written,
        a_drop_with_unread_bytes_resets,
        an_abort_resets,
        writing_to_a_closed_end_fails,
        a_reader_that_does_not_read_holds_the_writer_back,
        a_user_timeout_ends_a_stuck_stream,
        small_writes_need_no_company,
        a_killed_process_closes_its_streams,
    ]
}

/// Accepts on `addr` and sends everything back until the end, for ever; tells where it listens.
///
/// # Errors
/// Those of [`Net::listen`].
pub async fn echo(net: Arc<dyn Net>, addr: &str, listening: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let mut listener = net.listen(addr).await?;
    listening(listener.local_addr());
    loop {
        // A connection that failed before it was accepted is the client's loss.
        let Ok(mut conn) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let mut buffer = vec![0; 8192];
            // An echo has nobody to tell about a broken stream.
            while let Ok(len @ 1..) = conn.read(&mut buffer).await {
                if conn.write_all(&buffer[..len]).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// The future's output; panics when it takes for ever.
async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match clock::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("still waiting: {what}"),
    }
}

async fn listen(world: &dyn NetWorld) -> Box<dyn Listener> {
    world.server().listen(&world.any_port()).await.unwrap()
}

/// The client's end, and the server's.
async fn pair(world: &dyn NetWorld) -> (BoxConn, BoxConn) {
    let mut listener = listen(world).await;
    pair_at(world, &mut *listener).await
}

async fn pair_at(world: &dyn NetWorld, listener: &mut dyn Listener) -> (BoxConn, BoxConn) {
    let net = world.client();
    let addr = listener.local_addr().to_string();
    let (client, server) = soon("connect", async { tokio::join!(net.connect(&addr), listener.accept()) }).await;
    (client.unwrap(), server.unwrap())
}

async fn connect_error(world: &dyn NetWorld, addr: &str) -> ErrorKind {
    match soon("refusal", world.client().connect(addr)).await {
        Ok(_) => panic!("connected to {addr}"),
        Err(error) => error.kind(),
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
}

async fn both_ends_know_each_other(world: &dyn NetWorld) {
    let mut listener = listen(world).await;
    let addr = listener.local_addr();
    assert_ne!(addr.port(), 0);
    let (client, server) = pair_at(world, &mut *listener).await;
    assert_eq!(client.peer_addr(), addr);
    assert_ne!(server.peer_addr().port(), 0);
    let (_, other) = pair_at(world, &mut *listener).await;
    assert_ne!(server.peer_addr(), other.peer_addr());
}

async fn bytes_arrive_in_order(world: &dyn NetWorld) {
    const LEN: usize = 6 << 20;
    fn at(n: usize) -> u8 {
        (n ^ (n >> 8) ^ (n >> 16)) as u8
    }
    async fn write(mut end: impl tokio::io::AsyncWrite + Unpin, mut dice: Dice) {
        let mut sent = 0;
        while sent < LEN {
            let len = [1, 100, 5000, 100_000][dice.roll(4)].min(LEN - sent);
            let bytes: Vec<u8> = (sent..sent + len).map(at).collect();
            end.write_all(&bytes).await.unwrap();
            sent += len;
        }
        end.flush().await.unwrap();
        end.shutdown().await.unwrap();
    }
    async fn read(mut end: impl tokio::io::AsyncRead + Unpin, mut dice: Dice) {
        let mut buffer = vec![0; 70_000];
        let mut got = 0;
        loop {
            let room = 1 + dice.roll(70_000);
            let len = end.read(&mut buffer[..room]).await.unwrap();
            if len == 0 {
                break;
            }
            assert!(buffer[..len].iter().zip(got..).all(|(&byte, n)| byte == at(n)), "after {got} bytes");
            got += len;
        }
        assert_eq!(got, LEN);
    }
    let (client, server) = pair(world).await;
    let (client_read, client_write) = tokio::io::split(client);
    let (server_read, server_write) = tokio::io::split(server);
    let all = async {
        tokio::join!(
            write(client_write, Dice(1)),
            read(client_read, Dice(2)),
            write(server_write, Dice(3)),
            read(server_read, Dice(4)),
        )
    };
    soon("all bytes both ways", all).await;
}

async fn many_connections_do_not_mix(world: &dyn NetWorld) {
    let mut listener = listen(world).await;
    let mut pairs = Vec::new();
    for _ in 0..20 {
        pairs.push(pair_at(world, &mut *listener).await);
    }
    for (n, (client, _)) in pairs.iter_mut().enumerate() {
        client.write_all(&[n as u8; 10]).await.unwrap();
    }
    for (n, (_, server)) in pairs.iter_mut().enumerate().rev() {
        let mut got = [0; 10];
        soon("its bytes", server.read_exact(&mut got)).await.unwrap();
        assert_eq!(got, [n as u8; 10]);
    }
}

async fn connections_wait_to_be_accepted(world: &dyn NetWorld) {
    let mut listener = listen(world).await;
    let addr = listener.local_addr().to_string();
    let mut clients = Vec::new();
    for n in 0..10_u8 {
        let mut client = soon("connect without accept", world.client().connect(&addr)).await.unwrap();
        client.write_all(&[n]).await.unwrap();
        clients.push(client);
    }
    for n in 0..10_u8 {
        // An accept that was given up loses no connection.
        let mut server = match clock::timeout(Duration::ZERO, listener.accept()).await {
            Ok(accepted) => accepted.unwrap(),
            Err(_) => soon("accept", listener.accept()).await.unwrap(),
        };
        assert_eq!(soon("the byte sent before", server.read_u8()).await.unwrap(), n);
    }
}

async fn a_connect_that_was_given_up_leaves_nothing(world: &dyn NetWorld) {
    let mut listener = listen(world).await;
    let addr = listener.local_addr().to_string();
    for wait_us in 0..20 {
        let _ = clock::timeout(Duration::from_micros(100 * wait_us), world.client().connect(&addr)).await;
    }
    // Whoever comes is gone already.
    while let Ok(accepted) = clock::timeout(STALL, listener.accept()).await {
        let Ok(mut conn) = accepted else { continue };
        match soon("the end", conn.read(&mut [0; 8])).await {
            Ok(len) => assert_eq!(len, 0, "bytes from nobody"),
            Err(error) => assert!(is_reset(&error), "{error}"),
        }
    }
    pair_at(world, &mut *listener).await;
}

async fn an_address_has_one_listener(world: &dyn NetWorld) {
    let listener = listen(world).await;
    let again = world.server().listen(&listener.local_addr().to_string()).await;
    assert_eq!(again.err().expect("listened twice").kind(), ErrorKind::AddrInUse);
}

async fn an_address_must_parse(world: &dyn NetWorld) {
    for bad in ["", "nonsense", "127.0.0.1", "127.0.0.1:70000", "127.0.0.1:x"] {
        let listened = world.server().listen(bad).await;
        assert_eq!(listened.err().expect(bad).kind(), ErrorKind::InvalidInput, "{bad:?}");
        assert_eq!(connect_error(world, bad).await, ErrorKind::InvalidInput, "{bad:?}");
    }
}

async fn nobody_listening_refuses(world: &dyn NetWorld) {
    let listener = listen(world).await;
    let addr = listener.local_addr().to_string();
    drop(listener);
    assert_eq!(connect_error(world, &addr).await, ErrorKind::ConnectionRefused);
}

async fn a_dropped_listener_refuses_and_its_address_is_free(world: &dyn NetWorld) {
    let mut listener = listen(world).await;
    let addr = listener.local_addr().to_string();
    let (mut client, mut server) = pair_at(world, &mut *listener).await;
    drop(listener);
    assert_eq!(connect_error(world, &addr).await, ErrorKind::ConnectionRefused);
    // What was accepted goes on.
    client.write_all(b"x").await.unwrap();
    assert_eq!(soon("a byte", server.read_u8()).await.unwrap(), b'x');
    // A restarted node finds its address free, whatever its predecessor's streams are doing.
    drop(server);
    let mut listener = world.server().listen(&addr).await.unwrap();
    pair_at(world, &mut *listener).await;
}

async fn a_half_close_leaves_the_other_half(world: &dyn NetWorld) {
    let (mut client, mut server) = pair(world).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    soon("the end", server.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"question");
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0, "the end stays the end");
    server.write_all(&vec![b'a'; 100_000]).await.unwrap();
    server.shutdown().await.unwrap();
    let mut got = Vec::new();
    soon("the answer", client.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got.len(), 100_000);
    assert!(client.write_all(b"more").await.is_err(), "wrote after the shutdown");
}

async fn a_drop_delivers_what_was_written(world: &dyn NetWorld) {
    let (mut client, mut server) = pair(world).await;
    client.write_all(&[7; 20_000]).await.unwrap();
    drop(client);
    let mut got = Vec::new();
    soon("the end", server.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, [7; 20_000]);
}

async fn a_drop_with_unread_bytes_resets(world: &dyn NetWorld) {
    let (mut client, mut server) = pair(world).await;
    server.write_all(b"unread").await.unwrap();
    // It is there once the first byte is.
    assert_eq!(soon("a byte", client.read_u8()).await.unwrap(), b'u');
    drop(client);
    let error = soon("a reset", server.read_u8()).await.unwrap_err();
    assert!(is_reset(&error), "{error}");
}

async fn an_abort_resets(world: &dyn NetWorld) {
    for aborter_is_client in [true, false] {
        let (client, server) = pair(world).await;
        let (mut aborter, mut peer) = if aborter_is_client { (client, server) } else { (server, client) };
        aborter.write_all(&[7; 1000]).await.unwrap();
        aborter.abort_on_drop();
        drop(aborter);
        let mut got = Vec::new();
        let error = soon("a reset", peer.read_to_end(&mut got)).await.expect_err("an end in good order");
        assert!(is_reset(&error), "{error}");
        assert!(got.len() <= 1000);
        let error = soon("a failing write", write_for_ever(&mut peer)).await;
        assert!(is_reset(&error), "{error}");
    }
}

async fn writing_to_a_closed_end_fails(world: &dyn NetWorld) {
    let (client, mut server) = pair(world).await;
    drop(client);
    let error = soon("a failing write", write_for_ever(&mut server)).await;
    assert!(is_reset(&error), "{error}");
}

/// Writes until it fails.
async fn write_for_ever(conn: &mut BoxConn) -> io::Error {
    loop {
        if let Err(error) = conn.write_all(&[0; 1000]).await {
            return error;
        }
        clock::sleep(Duration::from_millis(1)).await;
    }
}

/// Writes until nothing more goes; how much went.
async fn fill(conn: &mut BoxConn) -> usize {
    let chunk = vec![7; 64 << 10];
    let mut sent = 0;
    while let Ok(written) = clock::timeout(STALL, conn.write(&chunk)).await {
        sent += written.unwrap();
        assert!(sent <= MOST_BUFFERED, "{sent} bytes to somebody who does not read");
    }
    sent
}

async fn a_reader_that_does_not_read_holds_the_writer_back(world: &dyn NetWorld) {
    let (mut client, mut server) = pair(world).await;
    let sent = fill(&mut client).await;
    assert!(sent > 0);
    // The other direction is not held back.
    server.write_all(b"x").await.unwrap();
    assert_eq!(soon("a byte", client.read_u8()).await.unwrap(), b'x');
    // And when the reader reads, the writer goes on; nothing is lost.
    let more = async {
        client.write_all(&vec![8; 1 << 20]).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let ((), read) = soon("the rest", async { tokio::join!(more, server.read_to_end(&mut got)) }).await;
    read.unwrap();
    assert_eq!(got.len(), sent + (1 << 20));
    assert!(got[..sent].iter().all(|&byte| byte == 7) && got[sent..].iter().all(|&byte| byte == 8));
}

async fn a_user_timeout_ends_a_stuck_stream(world: &dyn NetWorld) {
    let (mut client, _server) = pair(world).await;
    client.set_user_timeout(Duration::from_millis(500)).unwrap();
    fill(&mut client).await;
    let error = soon("the timeout", client.write_all(&[7; 1 << 20])).await.expect_err("written to a stuck stream");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

async fn small_writes_need_no_company(world: &dyn NetWorld) {
    let (mut client, mut server) = pair(world).await;
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    for n in 0..50_u8 {
        client.write_all(&[n]).await.unwrap();
        client.write_all(&[n]).await.unwrap();
        assert_eq!(soon("two bytes", server.read_u16()).await.unwrap(), u16::from_be_bytes([n, n]));
        server.write_u8(n).await.unwrap();
        assert_eq!(soon("a byte", client.read_u8()).await.unwrap(), n);
    }
}

async fn a_killed_process_closes_its_streams(world: &dyn NetWorld) {
    let victim = world.victim().await;
    let mut conn = soon("connect", world.client().connect(&victim.addr)).await.unwrap();
    conn.write_all(b"x").await.unwrap();
    assert_eq!(soon("the echo", conn.read_u8()).await.unwrap(), b'x');
    (victim.kill)();
    match soon("its end", conn.read(&mut [0; 8])).await {
        Ok(len) => assert_eq!(len, 0, "bytes from a dead process"),
        Err(error) => assert!(is_reset(&error), "{error}"),
    }
    assert_eq!(connect_error(world, &victim.addr).await, ErrorKind::ConnectionRefused);
}
