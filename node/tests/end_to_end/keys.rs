//! Public keys that a server gives out: taken at the start, and when a token names a new one.

use std::io;
use std::sync::{Arc, Mutex};

use cluster::env::clock;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::raw::Raw;
use crate::common::{Options, TestCluster, eventually};

/// Gives out a key set, or does not.
#[derive(Clone)]
struct KeyServer {
    url: String,
    /// The body of a good answer.
    gives: Arc<Mutex<Option<String>>>,
}

impl KeyServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/realm/jwks?v=1", listener.local_addr().expect("it is bound"));
        let server = Self { url, gives: Arc::default() };
        let ours = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, ours.clone()));
            }
        });
        server
    }

    fn give(&self, keys: &[&Value]) {
        *self.gives.lock().unwrap() = Some(json!({ "keys": keys }).to_string());
    }

    fn fail(&self) {
        *self.gives.lock().unwrap() = None;
    }
}

async fn answer(mut stream: TcpStream, server: KeyServer) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let asked = String::from_utf8_lossy(&request).starts_with("GET /realm/jwks?v=1 HTTP/1.1\r\n");
    let gives = server.gives.lock().unwrap().clone().filter(|_| asked);
    let (status, body) = gives.map_or(("503 Out", String::new()), |keys| ("200 OK", keys));
    stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await
}

/// What a node says first to a client with this token.
async fn said_to(addr: &str, token: &str) -> Value {
    let mut raw = Raw::open(addr).await;
    raw.send(json!({"id": 1, "hello": {"token": token, "device": "phone"}})).await;
    raw.frame().await
}

#[tokio::test]
async fn keys_come_from_a_server_and_new_ones_are_looked_for() {
    let testdata = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/auth/testdata");
    let pem = |name: &str| std::fs::read(testdata.join(name)).expect("a key");
    let set: Value = serde_json::from_slice(&pem("jwks.json")).expect("JSON");
    let claims = json!({"sub": "alice", "exp": clock::wall_ms() / 1_000 + 600});
    let token = |algorithm, kid: &str, key: &EncodingKey| {
        let header = Header { kid: Some(kid.into()), ..Header::new(algorithm) };
        jsonwebtoken::encode(&header, &claims, key).expect("it signs")
    };
    let by_rsa = token(Algorithm::RS256, "r", &EncodingKey::from_rsa_pem(&pem("rsa.pem")).expect("a key"));
    let by_ec = token(Algorithm::ES256, "e", &EncodingKey::from_ec_pem(&pem("ec.pem")).expect("a key"));

    let server = KeyServer::start().await;
    server.give(&[&set["keys"][0]]);
    let auth = Some(format!("jwks = {:?}", server.url));
    let mut cluster = TestCluster::start_with(1, Options { auth, ..Options::default() }).await;
    let addr = cluster.addr(0);
    assert_eq!(said_to(&addr, &by_rsa).await["welcome"]["user"], "alice");
    assert_eq!(said_to(&addr, &by_ec).await["error"]["code"], "bad_token");

    let mut stays = Raw::open(&addr).await;
    stays.send(json!({"id": 1, "hello": {"token": by_rsa, "device": "tablet"}})).await;
    stays.frame_with("welcome").await;

    // The other key replaces it. Whoever comes with a token by it need not wait for the next minute.
    server.give(&[&set["keys"][1]]);
    eventually("a token is renewed by it", async || {
        stays.send(json!({"id": 2, "refresh": {"token": by_ec}})).await;
        stays.answer(2).await.get("ok").map(drop)
    })
    .await;
    eventually("the new key is known", async || said_to(&addr, &by_ec).await.get("welcome").map(drop)).await;
    assert_eq!(said_to(&addr, &by_rsa).await["error"]["code"], "bad_token");
    // While the server fails, what it gave last stays in force.
    server.fail();
    eventually("the server was asked again", async || {
        said_to(&addr, &by_rsa).await;
        cluster.log(0).contains("the keys for tokens stay as they were").then_some(())
    })
    .await;
    assert_eq!(said_to(&addr, &by_ec).await["welcome"]["user"], "alice");
    let log = cluster.log(0);
    assert!(log.contains("it answers 503"), "{log}");

    // A node does not begin without keys.
    cluster.kill(0);
    cluster.restart(0);
    assert_eq!(cluster.ended(0).await, Some(1));
    let log = cluster.log(0);
    let last = log.lines().last().unwrap_or_default();
    let (url, _) = server.url.split_once('?').expect("a query");
    assert!(last.contains(url) && !last.contains("v=1") && last.contains("check auth.jwks"), "{last}");
}
