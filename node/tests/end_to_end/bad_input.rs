//! Whatever is thrown at a node gets its documented answer; nothing panics, and the node serves on.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cluster::env::clock;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::common::http;
use crate::common::raw::{Raw, refused};
use crate::common::{Options, SECRET, TestCluster, token};

/// A node alone, and its process.
async fn node() -> (TestCluster, u32) {
    let cluster = TestCluster::start(1).await;
    let pid = cluster.pid(0);
    (cluster, pid)
}

/// The node is the same process as ever, serves, and has nothing to hide in its log.
async fn serves_on(mut cluster: TestCluster, pid: u32) {
    let mut raw = Raw::welcome(&cluster.addr(0), "afterwards", "phone").await;
    raw.send(json!({"id": 2, "send": {"to": "afterwards", "key": "k", "body": "still here"}})).await;
    assert_eq!(raw.frame_with("msg").await["msg"]["body"], "still here");
    assert_eq!(http::get(&cluster.addr(0), "/health").await.expect("it answers").status, 200);
    assert!(!cluster.log(0).contains("panicked"), "{}", cluster.log(0));
    assert_eq!(cluster.pid(0), pid);
    cluster.signal(0, libc::SIGTERM);
    assert_eq!(cluster.ended(0).await, Some(0), "it ends in good order");
}

#[tokio::test]
async fn malformed_frames() {
    let (cluster, pid) = node().await;
    let addr = cluster.addr(0);
    let long_key = format!(r#"{{"id":4,"send":{{"to":"bob","key":"{}","body":1}}}}"#, "k".repeat(65));
    let long_name = format!(r#"{{"id":4,"send":{{"to":"{}","key":"k","body":1}}}}"#, "u".repeat(129));
    let deep = format!(r#"{{"id":4,"send":{{"to":"bob","key":"k","body":{}1"#, "[".repeat(60_000));
    let cases: [(&str, &str, Value); 29] = [
        ("", "bad_frame", Value::Null),
        ("{", "bad_frame", Value::Null),
        ("null", "bad_frame", Value::Null),
        ("[]", "bad_frame", Value::Null),
        ("7", "bad_frame", Value::Null),
        ("\"send\"", "bad_frame", Value::Null),
        ("{}", "bad_frame", Value::Null),
        ("\u{feff}{}", "bad_frame", Value::Null),
        (r#"{"id":4}"#, "bad_frame", json!(4)),
        (r#"{"id":-1,"ping":{}}"#, "bad_frame", Value::Null),
        (r#"{"id":"4","ping":{}}"#, "bad_frame", Value::Null),
        (r#"{"id":4,"id":5,"ping":{}}"#, "bad_frame", json!(5)),
        (r#"{"id":4,"ack":-1}"#, "bad_frame", json!(4)),
        (r#"{"id":4,"ack":"1"}"#, "bad_frame", json!(4)),
        (r#"{"id":4,"ack":1e300}"#, "bad_frame", json!(4)),
        (r#"{"id":4,"send":7}"#, "bad_frame", json!(4)),
        (r#"{"id":4,"send":{}}"#, "bad_frame", json!(4)),
        (r#"{"id":4,"send":{"to":"bob","key":"k"}}"#, "bad_frame", json!(4)),
        (r#"{"id":4,"send":{"to":"bob","key":7,"body":1}}"#, "bad_frame", json!(4)),
        (r#"{"id":4,"send":{"to":"bob","key":"k","body":1},"ack":1}"#, "bad_frame", json!(4)),
        (&deep, "bad_frame", Value::Null),
        (r#"{"id":4,"fly":{}}"#, "unknown_type", json!(4)),
        (r#"{"id":4,"send":{"to":"bob","key":"","body":1}}"#, "bad_key", json!(4)),
        (&long_key, "bad_key", json!(4)),
        (r#"{"id":4,"send":{"key":"k","body":1}}"#, "bad_recipient", json!(4)),
        (r#"{"id":4,"send":{"to":"","key":"k","body":1}}"#, "bad_recipient", json!(4)),
        (r#"{"id":4,"send":{"to":"a\u0000b","key":"k","body":1}}"#, "bad_recipient", json!(4)),
        (&long_name, "bad_recipient", json!(4)),
        (r#"{"id":4,"send":{"to":"bob","group":"g","key":"k","body":1}}"#, "bad_recipient", json!(4)),
    ];
    for (index, (text, code, id)) in cases.iter().enumerate() {
        let shown: String = text.chars().take(80).collect();
        let mut raw = Raw::welcome(&addr, "mallory", &format!("device-{}", index % 8)).await;
        raw.text(text).await;
        let answer = raw.frame().await;
        assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(code), id), "{shown}: {answer}");
        // One is forgiven.
        raw.text(r#"{"id":9,"ping":{}}"#).await;
        assert!(raw.frame().await["pong"].is_object(), "{shown}");
        raw.leave().await;
    }
    // Repeated, it is too much.
    let mut raw = Raw::welcome(&addr, "mallory", "phone").await;
    for _ in 0..100 {
        raw.text("{").await;
    }
    let (code, frames) = raw.closed().await;
    assert_eq!(code, 4503);
    assert!(frames.iter().all(|frame| frame["error"]["code"] == "bad_frame"), "{frames:?}");
    serves_on(cluster, pid).await;
}

#[tokio::test]
async fn protocol_violations() {
    let (cluster, pid) = node().await;
    let addr = cluster.addr(0);
    // An acknowledgement of what was never sent.
    let mut raw = Raw::welcome(&addr, "mallory", "phone").await;
    raw.send(json!({"ack": 1_000_000})).await;
    assert_eq!(raw.closed().await.0, 4503);
    // A binary frame, before the hello and after.
    let mut raw = Raw::open(&addr).await;
    raw.message(Message::binary(vec![0, 1, 2])).await;
    assert_eq!(raw.closed().await.0, 1003);
    let mut raw = Raw::welcome(&addr, "mallory", "phone").await;
    raw.message(Message::binary(vec![0, 1, 2])).await;
    assert_eq!(raw.closed().await.0, 1003);
    // A frame of the largest size passes, one byte more does not.
    let mut raw = Raw::open(&addr).await;
    raw.hello("mallory", "phone").await;
    let limits = raw.frame_with("welcome").await["welcome"]["limits"].clone();
    let largest = limits["frame_bytes"].as_u64().expect("a number") as usize;
    let empty = r#"{"id":2,"send":{"to":"mallory","key":"k","body":""}}"#;
    let full = empty.replace(r#""body":"""#, &format!(r#""body":"{}""#, "x".repeat(largest - empty.len())));
    assert_eq!(full.len(), largest);
    raw.text(&full).await;
    assert!(raw.answer(2).await["ok"].is_object());
    let msg = raw.frame_with("msg").await;
    assert_eq!(msg["msg"]["body"].as_str().map(str::len), Some(largest - empty.len()));
    raw.text(&full.replace(r#""id":2"#, r#""id":22"#)).await;
    assert_eq!(raw.closed().await.0, 1009);
    let mut raw = Raw::open(&addr).await;
    raw.text(&"x".repeat(largest + 1)).await;
    assert_eq!(raw.closed().await.0, 1009, "before the hello, too");
    serves_on(cluster, pid).await;
}

#[tokio::test]
async fn broken_websockets() {
    let (cluster, pid) = node().await;
    let addr = cluster.addr(0);
    let masked = |first: u8, payload: &[u8]| {
        let mut frame = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    };
    let cases: [(&str, Vec<u8>, u16); 9] = [
        ("text that is not UTF-8", masked(0x81, &[0xff, 0xfe]), 1007),
        ("an unmasked frame", vec![0x81, 2, b'{', b'}'], 1002),
        ("a reserved bit", masked(0xc1, b"{}"), 1002),
        ("a reserved opcode", masked(0x83, b"{}"), 1002),
        ("a fragmented ping", masked(0x09, b""), 1002),
        ("a long ping", vec![0x89, 0xfe, 0, 126, 0, 0, 0, 0], 1002),
        ("a continuation of nothing", masked(0x80, b"{}"), 1002),
        ("half a close code", masked(0x88, &[3]), 1002),
        ("a frame of eight exbibytes", vec![0x81, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0], 1009),
    ];
    for (what, bytes, code) in cases {
        let mut raw = Raw::welcome(&addr, "mallory", "phone").await;
        raw.bytes(&bytes).await;
        assert_eq!(raw.closed().await, (code, vec![]), "{what}");
        let mut raw = Raw::open(&addr).await;
        raw.bytes(&bytes).await;
        assert_eq!(raw.closed().await, (code, vec![]), "{what}, before the hello");
    }
    // Connections that end in the middle of anything.
    let hello = json!({"hello": {"token": token("mallory"), "device": "phone"}}).to_string();
    for cut in [0, 1, 10] {
        let mut raw = Raw::open(&addr).await;
        raw.bytes(&masked(0x81, b"{\"id\":1}")[..cut]).await;
        drop(raw);
        let mut raw = Raw::open(&addr).await;
        raw.text(&hello[..hello.len() - cut]).await;
        drop(raw);
    }
    serves_on(cluster, pid).await;
}

#[tokio::test]
async fn bad_hellos() {
    let (cluster, pid) = node().await;
    let addr = cluster.addr(0);
    let silent = tokio::spawn({
        let addr = addr.clone();
        async move { Raw::open(&addr).await.closed().await }
    });
    let good = token("mallory");
    let bound = im_gateway::auth::issue(SECRET, "mallory", Some("phone"), clock::wall_ms() + 60_000).expect("signed");
    let cases = [
        ("{".into(), "bad_frame", 4503),
        (r#"{"id":1,"ping":{}}"#.into(), "bad_frame", 4503),
        (r#"{"id":1,"send":{"to":"bob","key":"k","body":1}}"#.into(), "bad_frame", 4503),
        (r#"{"id":1,"fly":{}}"#.into(), "unknown_type", 4503),
        (r#"{"id":1,"hello":{"device":"d"}}"#.into(), "bad_token", 4500),
        (json!({"hello": {"token": "", "device": "d"}}).to_string(), "bad_token", 4500),
        (json!({"hello": {"token": "a.b.c", "device": "d"}}).to_string(), "bad_token", 4500),
        (json!({"hello": {"token": good}}).to_string(), "bad_frame", 4503),
        (json!({"hello": {"token": good, "device": ""}}).to_string(), "bad_frame", 4503),
        (json!({"hello": {"token": good, "device": "a\u{0}"}}).to_string(), "bad_frame", 4503),
        (json!({"hello": {"token": good, "device": 7}}).to_string(), "bad_frame", 4503),
        (json!({"hello": {"token": good, "device": "d", "attempt": -1}}).to_string(), "bad_frame", 4503),
        (json!({"hello": {"token": bound, "device": "laptop"}}).to_string(), "bad_token", 4500),
    ];
    for (text, error, code) in cases {
        let mut raw = Raw::open(&addr).await;
        raw.text(&text).await;
        let (closed, frames) = raw.closed().await;
        assert_eq!(closed, code, "{text}");
        assert!(frames.len() == 1 && frames[0]["error"]["code"] == error, "{text}: {frames:?}");
    }
    // A second hello.
    let mut raw = Raw::welcome(&addr, "mallory", "phone").await;
    raw.hello("mallory", "phone").await;
    assert_eq!(raw.frame().await["error"]["code"], "bad_frame");
    assert_eq!(silent.await.expect("it does not panic"), (4003, vec![]), "no hello at all");
    serves_on(cluster, pid).await;
}

#[tokio::test]
async fn bad_requests() {
    let (cluster, pid) = node().await;
    let addr = cluster.addr(0);
    let protocol = "sec-websocket-protocol: imgw.v1.json\r\n";
    let unknown = refused(&addr, "sec-websocket-protocol: imgw.v9.cbor\r\n").await;
    assert_eq!(unknown.status, 400, "{}", unknown.head);
    is_error(&unknown, "unknown_subprotocol");
    let bad = refused(&addr, &format!("{protocol}authorization: Bearer a.b.c\r\n")).await;
    assert_eq!(bad.status, 401, "{}", bad.head);
    assert!(bad.head.to_lowercase().contains("content-type: application/json"), "{}", bad.head);
    is_error(&bad, "bad_token");
    let old = im_gateway::auth::issue(SECRET, "mallory", None, clock::wall_ms() - 60_000).expect("signed");
    let expired = refused(&addr, &format!("{protocol}authorization: Bearer {old}\r\n")).await;
    assert_eq!(expired.status, 401, "{}", expired.head);
    assert_eq!(expired.body, r#"{"error":{"code":"bad_token","message":"the token has expired"}}"#);
    let get = |headers: String| {
        let text = format!("GET /ws HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n{headers}\r\n");
        let addr = addr.clone();
        async move { http::request(&addr, &text).await.expect("an answer") }
    };
    let plain = get(format!("authorization: Bearer {}\r\n", token("alice"))).await;
    assert_eq!(plain.status, 426, "{}", plain.head);
    is_error(&plain, "upgrade_required");
    assert_eq!(get("authorization: Bearer a.b.c\r\n".into()).await.status, 401, "the token comes first");
    for path in ["/nowhere", "/test/latency?delay=1ms", "/ws/../../etc/passwd"] {
        let answer = http::get(&addr, path).await.expect("an answer");
        assert_eq!(answer.status, 404, "{path}");
        is_error(&answer, "not_found");
    }
    assert_eq!(http::post(&addr, "/ready").await.expect("an answer").status, 405);
    // Not HTTP at all. Whatever the answer, the connection ends.
    for text in ["GET\r\n\r\n", "\u{0}\u{1}\u{2}\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        let answer = clock::timeout(crate::common::PATIENCE, http::request(&addr, text)).await.expect("an end");
        assert!(answer.map_or(0, |answer| answer.status) != 200, "{text:?}");
    }
    // A token in the header is as good as one in the hello.
    let mut raw = Raw::open_with(&addr, &token("alice")).await;
    raw.send(json!({"id": 1, "hello": {"device": "phone"}})).await;
    assert_eq!(raw.frame_with("welcome").await["welcome"]["user"], "alice");
    serves_on(cluster, pid).await;
}

/// The body is a JSON error of the documented form: a code, and a sentence for people.
fn is_error(answer: &http::Answer, code: &str) {
    let body: Value = serde_json::from_str(&answer.body).expect("a JSON error");
    let message = body["error"]["message"].as_str().expect("a sentence");
    assert!(!message.is_empty());
    assert_eq!(body, json!({"error": {"code": code, "message": message}}));
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn signed(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).expect("it can be signed")
}

/// Each of these tokens is refused with its code, in the hello and in the header.
async fn all_refused(addr: &str, tokens: &[(&str, String, u16)]) {
    for (what, token, code) in tokens {
        let mut raw = Raw::open(addr).await;
        raw.send(json!({"id": 1, "hello": {"token": token, "device": "phone"}})).await;
        let (closed, frames) = raw.closed().await;
        assert_eq!(closed, *code, "{what}");
        assert!(frames.len() == 1 && frames[0]["error"]["code"] == "bad_token", "{what}: {frames:?}");
        let answer = refused(addr, &format!("authorization: Bearer {token}\r\n")).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.head);
    }
}

#[tokio::test]
async fn bad_tokens() {
    let (cluster, pid) = node().await;
    let now = clock::wall_ms() / 1_000;
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let claims = json!({"sub": "mallory", "exp": now + 600});
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        signed(Algorithm::HS256, &secret, &claims)
    };
    let good = signed(Algorithm::HS256, &secret, &claims);
    let parts: Vec<&str> = good.split('.').collect();
    let root = encoded(&json!({"sub": "root", "exp": now + 600}));
    let none = |alg: &str| encoded(&json!({"alg": alg, "typ": "JWT"}));
    let tokens = [
        ("another secret", signed(Algorithm::HS256, &EncodingKey::from_secret(b"another secret"), &claims), 4500),
        ("another algorithm", signed(Algorithm::HS512, &secret, &claims), 4500),
        ("other claims", format!("{}.{root}.{}", parts[0], parts[2]), 4500),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), 4500),
        ("alg none", format!("{}.{root}.", none("none")), 4500),
        ("alg None", format!("{}.{root}.", none("None")), 4500),
        ("alg none with a signature", format!("{}.{}.{}", none("none"), parts[1], parts[2]), 4500),
        ("no alg", format!("{}.{root}.{}", encoded(&json!({"typ": "JWT"})), parts[2]), 4500),
        ("two parts", format!("{}.{}", parts[0], parts[1]), 4500),
        ("expired", with("exp", json!(now - 60)), 4501),
        ("no expiry", signed(Algorithm::HS256, &secret, &json!({"sub": "mallory"})), 4500),
        ("not yet", with("nbf", json!(now + 600)), 4500),
        ("no name", with("sub", json!("")), 4500),
        ("a name with a line break", with("sub", json!("mallory\nroot")), 4500),
        ("a long name", with("sub", json!("m".repeat(129))), 4500),
    ];
    all_refused(&cluster.addr(0), &tokens).await;
    assert!(tokens.iter().all(|(_, token, _)| token.len() < 20 || !cluster.log(0).contains(token.as_str())));
    serves_on(cluster, pid).await;
}

#[tokio::test]
async fn confused_keys() {
    let keys = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/auth/testdata");
    let auth = Some(format!("jwks = {:?}", keys.join("jwks.json")));
    let cluster = TestCluster::start_with(1, Options { auth, ..Options::default() }).await;
    let addr = cluster.addr(0);
    let claims = json!({"sub": "mallory", "exp": clock::wall_ms() / 1_000 + 600});
    let pem = |name: &str| std::fs::read(keys.join(name)).expect("a key");
    let rsa = EncodingKey::from_rsa_pem(&pem("rsa.pem")).expect("a key");
    let ec = EncodingKey::from_ec_pem(&pem("ec.pem")).expect("a key");
    let ed = EncodingKey::from_ed_pem(&pem("ed.pem")).expect("a key");
    for (algorithm, key) in [(Algorithm::RS256, &rsa), (Algorithm::ES256, &ec), (Algorithm::EdDSA, &ed)] {
        let mut raw = Raw::open(&addr).await;
        let token = signed(algorithm, key, &claims);
        raw.send(json!({"id": 1, "hello": {"token": token, "device": "phone"}})).await;
        assert_eq!(raw.frame_with("welcome").await["welcome"]["user"], "mallory", "{algorithm:?}");
    }
    // An HMAC whose secret is what everybody may know: the public keys, in their spellings.
    let public = String::from_utf8(pem("jwks.json")).expect("text");
    let set: Value = serde_json::from_str(&public).expect("JSON");
    let hmac = |secret: &str| signed(Algorithm::HS256, &EncodingKey::from_secret(secret.as_bytes()), &claims);
    let mut tokens = vec![
        ("the key set as a secret", hmac(&public), 4500),
        ("the development secret", hmac(im_gateway::auth::DEV_SECRET), 4500),
        ("an empty secret", hmac(""), 4500),
        ("RS384", signed(Algorithm::RS384, &rsa, &claims), 4500),
        ("PS256", signed(Algorithm::PS256, &rsa, &claims), 4500),
        ("alg none", format!("{}.{}.", encoded(&json!({"alg": "none"})), encoded(&claims)), 4500),
    ];
    for key in set["keys"].as_array().expect("a list of keys") {
        tokens.push(("a public key as a secret", hmac(&key.to_string()), 4500));
        for part in ["n", "x", "kid"].iter().filter_map(|name| key[name].as_str()) {
            tokens.push(("a part of a public key as a secret", hmac(part), 4500));
        }
    }
    all_refused(&addr, &tokens).await;
    assert_eq!(http::get(&addr, "/health").await.expect("it answers").status, 200);
    assert!(!cluster.log(0).contains("panicked"));
}
