//! Streams under TLS, beyond what the processes' tests show. They are no case of the conformance suite: there a
//! stream can be written to before the other end has looked at it, and a handshake needs both.

#[path = "common/certificates.rs"]
mod certificates;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use certificates::Ca;
use cluster::env::Net;
use cluster::env::clock;
use cluster::env::net::{BoxConn, Distrust};
use im_gateway::env::{Tcp, Tls};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    clock::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("still waiting: {what}"))
}

fn net(dir: &TempDir) -> Tls {
    Tls::for_peers(Arc::new(Tcp), Ca::new(dir.path(), "ca").node(dir.path(), "node", 2100)).expect("good files")
}

/// Both ends, once they have shaken hands.
async fn pair() -> (BoxConn, BoxConn) {
    let dir = tempfile::tempdir().expect("a folder");
    let net = net(&dir);
    let mut listener = net.listen("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().to_string();
    let (client, server) = tokio::join!(net.connect(&addr), listener.accept());
    let (mut client, mut server) = (client.expect("connects"), server.expect("accepts"));
    assert_eq!(client.peer_addr().to_string(), addr);
    let shaken = async { tokio::join!(client.write_u8(7), server.read_u8()) };
    let (written, read) = soon("the handshake", shaken).await;
    written.expect("written");
    assert_eq!(read.expect("read"), 7);
    (client, server)
}

#[tokio::test]
async fn bytes_go_both_ways_at_once() {
    const LEN: usize = 6 << 20;
    async fn write(mut end: impl tokio::io::AsyncWrite + Unpin) {
        let bytes: Vec<u8> = (0..LEN).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect();
        for part in bytes.chunks(70_001) {
            end.write_all(part).await.expect("written");
        }
        end.shutdown().await.expect("an end");
    }
    async fn read(mut end: impl tokio::io::AsyncRead + Unpin) {
        let mut got = Vec::new();
        end.read_to_end(&mut got).await.expect("read");
        assert!(got.len() == LEN && got.iter().enumerate().all(|(n, byte)| *byte == (n ^ (n >> 8) ^ (n >> 16)) as u8));
    }
    let (client, server) = pair().await;
    let (client_read, client_write) = tokio::io::split(client);
    let (server_read, server_write) = tokio::io::split(server);
    let all = async { tokio::join!(write(client_write), read(client_read), write(server_write), read(server_read)) };
    soon("all bytes", all).await;
}

#[tokio::test]
async fn streams_end_as_they_do_in_the_clear() {
    let (mut client, mut server) = pair().await;
    client.write_all(b"question").await.expect("written");
    client.shutdown().await.expect("half closed");
    let mut got = Vec::new();
    soon("the end", server.read_to_end(&mut got)).await.expect("read");
    assert_eq!(got, b"question");
    server.write_all(b"answer").await.expect("the other half is open");
    drop(server);
    let mut got = Vec::new();
    soon("the end", client.read_to_end(&mut got)).await.expect("an end without a farewell is one as well");
    assert_eq!(got, b"answer");

    let (mut client, server) = pair().await;
    server.abort_on_drop();
    drop(server);
    let error = soon("a reset", client.read_u8()).await.expect_err("no end in good order");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[tokio::test]
async fn who_does_not_read_holds_the_writer_back_and_loses_nothing() {
    let (mut client, mut server) = pair().await;
    let chunk = vec![7; 64 << 10];
    let mut sent = 0;
    while let Ok(written) = clock::timeout(Duration::from_millis(300), client.write(&chunk)).await {
        sent += written.expect("written");
        assert!(sent < 64 << 20, "{sent} bytes to somebody who does not read");
    }
    server.write_all(b"x").await.expect("the other direction is free");
    server.flush().await.expect("sent");
    assert_eq!(soon("a byte", client.read_u8()).await.expect("read"), b'x');
    // What the layer holds goes by itself when there is room, as long as somebody looks at the stream.
    let mut got = vec![0; sent];
    let waiting = async {
        tokio::select! {
            byte = client.read_u8() => panic!("{byte:?}"),
            read = server.read_exact(&mut got) => drop(read.expect("read")),
        }
    };
    soon("the rest", waiting).await;
    assert!(got.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn accepting_waits_for_no_handshake_and_reasons_are_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let nodes = net(&dir);
    let mut listener = nodes.listen("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().to_string();
    let _silent = TcpStream::connect(&addr).await.expect("connects");
    soon("the silent one", listener.accept()).await.expect("accepted");

    let reason = |error: &io::Error| Distrust::of(error).map(|why| why.0);
    // A client that trusts the CA and shows no certificate of its own is no node.
    let client = Tls::to_nodes(Arc::new(Tcp), Some(dir.path().join("ca.pem"))).expect("a CA");
    let (dialed, accepted) = tokio::join!(client.connect(&addr), listener.accept());
    let (mut dialed, mut accepted) = (dialed.expect("connects"), accepted.expect("accepts"));
    let told = async {
        // The one end keeps its ear open until the other, which has heard why, hangs up.
        tokio::join!(accepted.read_u8(), async move {
            dialed.write_all(b"hello").await?;
            dialed.read_u8().await
        })
    };
    let (server, client_side) = soon("the refusal", told).await;
    assert_eq!(reason(&server.expect_err("refused")), Some("the other end gave no certificate"));
    let told = client_side.expect_err("refused");
    assert_eq!(reason(&told), Some("the other end wants a certificate and got none"), "{told}");

    // Where nobody speaks TLS.
    let plain = Tcp.listen("127.0.0.1:0").await.expect("a port");
    let addr = plain.local_addr().to_string();
    let speaking = tokio::spawn(async move {
        let mut plain = plain;
        let mut conn = plain.accept().await.expect("accepts");
        let _ = conn.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = conn.read(&mut [0; 1024]).await;
    });
    let mut dialed = nodes.connect(&addr).await.expect("connects");
    let error = soon("the answer", dialed.read_u8()).await.expect_err("no TLS");
    assert_eq!(reason(&error), Some("the other end speaks no TLS"), "{error}");
    speaking.await.expect("it does not panic");
}
