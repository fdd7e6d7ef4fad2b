//! The client's shell against a node that says what a test tells it to: which connections it makes,
//! what it repeats on them, and when it stops.

mod node;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cluster::env::clock;
use cluster::id::MessageId;
use futures_util::StreamExt;
use im_gateway::client::{Client, Event, Fate, Stopped, Tokens};
use im_gateway::env::Tcp;
use im_gateway::protocol::ErrorCode;
use serde_json::{Value, json};

use node::{MID, Node, soon};

fn client(nodes: &[&Node], ahead: usize) -> Client {
    let urls = nodes.iter().map(|node| node.url()).collect();
    let tokens: Arc<dyn Tokens> = Arc::new("h.e30.s".to_owned());
    Client::builder(Arc::new(Tcp), urls, tokens, "d").first(0).ahead(ahead).connect().expect("good URLs")
}

/// The next event that is a message's, skipping news of connections.
async fn next_message(client: &Client) -> u64 {
    loop {
        match soon("a message", client.next()).await.expect("an event") {
            Event::Message(message) => return message.seq,
            Event::Connected { .. } | Event::Disconnected { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// As [`next_message`], of a client whose application saw no connection end.
async fn undisturbed_message(client: &Client) -> u64 {
    loop {
        match soon("a message", client.next()).await.expect("an event") {
            Event::Message(message) => return message.seq,
            Event::Connected { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn stopped(client: &Client) -> Stopped {
    loop {
        if let Event::Stopped(why) = soon("the end", client.next()).await.expect("an event") {
            return why;
        }
    }
}

#[tokio::test]
async fn what_has_no_answer_is_repeated_elsewhere_before_anything_new() {
    let (first, second) = (Node::start().await, Node::start().await);
    let client = client(&[&first, &second], 256);
    let (mut socket, hello) = first.welcome(25_000, 2, 1).await;
    assert_eq!((&hello["token"], &hello["device"], &hello["attempt"]), (&"h.e30.s".into(), &"d".into(), &1.into()));
    let mut receipts = Vec::new();
    for number in 0..4 {
        receipts.push(client.send("bob", &number).await.expect("taken"));
    }
    let texts = [socket.text().await, socket.text().await];
    let quiet = clock::timeout(Duration::from_millis(50), socket.0.next()).await;
    assert!(quiet.is_err(), "no more than two go without an answer");
    drop(socket);

    let (mut socket, again) = second.welcome(25_000, 2, 2).await;
    assert_eq!((&again["instance"], &again["attempt"]), (&hello["instance"], &2.into()));
    assert_eq!([socket.text().await, socket.text().await], texts, "the same bytes in the same order");
    let id = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["id"].as_u64().expect("an id");
    socket.ok(id(&texts[0])).await;
    let (number, third) = socket.sent().await;
    assert_eq!(number, 2);
    let refusal = json!({"code": "inbox_full", "message": "full"});
    socket.send(json!({"id": id(&texts[1]), "error": refusal})).await;
    let (number, fourth) = socket.sent().await;
    assert_eq!(number, 3);
    socket.ok(third).await;
    socket.ok(fourth).await;
    let mut fates = Vec::new();
    for receipt in receipts {
        fates.push(soon("a fate", receipt).await);
    }
    assert!(matches!(fates[0], Fate::Stored(mid) if mid.to_string() == MID));
    assert!(matches!(&fates[1], Fate::Refused { message, .. } if message == "full"));
    assert!(matches!(fates[2..], [Fate::Stored(_), Fate::Stored(_)]));
    soon("all answered", client.flush()).await;
}

#[tokio::test]
async fn messages_are_surfaced_once_and_acknowledged_when_taken() {
    let node = Node::start().await;
    let client = client(&[&node], 0);
    let (mut socket, _) = node.welcome(25_000, 8, 1_000).await;
    socket.message(10, 1).await;
    socket.message(20, 2).await;
    assert_eq!(next_message(&client).await, 10);
    assert_eq!(socket.frame().await, json!({"ack": 10}));
    drop(socket);
    let (mut socket, _) = node.welcome(25_000, 8, 2_000).await;
    socket.message(20, 2).await;
    socket.message(30, 3).await;
    assert_eq!(next_message(&client).await, 20);
    assert_eq!(socket.frame().await, json!({"ack": 20}));
    socket.send(json!({"seq": 40, "gap": {"reason": "inbox_limit", "lost": 7}})).await;
    assert_eq!(next_message(&client).await, 30);
    let gap = soon("a gap", client.next()).await;
    assert!(matches!(gap, Some(Event::Gap { seq: 40, lost: 7, .. })), "{gap:?}");
    client.close().await;
    assert_eq!(soon("the end", stopped(&client)).await, Stopped::Closed);
}

#[tokio::test]
async fn what_is_too_large_keeps_nobody_waiting() {
    let node = Node::start().await;
    let client = client(&[&node], 256);
    let (_socket, _) = node.welcome(25_000, 8, 1).await;
    assert!(matches!(soon("it stands", client.next()).await, Some(Event::Connected { .. })));
    let flushed = client.clone();
    let fate = client.send("bob", &"x".repeat(1 << 20)).await.expect("taken");
    soon("nothing waits", flushed.flush()).await;
    assert!(matches!(soon("a fate", fate).await, Fate::TooLarge { .. }));
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_here() {
    let node = Node::start().await;
    let client = client(&[&node], 256);
    let (mut socket, _) = node.welcome(25_000, 8, 1).await;
    assert!(matches!(soon("it stands", client.next()).await, Some(Event::Connected { .. })));
    let long = "x".repeat(1 << 20);
    assert!(client.typing(&long).is_err() && client.read(&long, MessageId([5; 16])).is_err());
    for (group, after) in [(long.as_str(), None), ("g", Some(long.as_str()))] {
        let members = soon("a refusal", client.members(group, after)).await;
        assert_eq!(members, Err(Some(ErrorCode::BadRecipient)));
    }
    client.watch([long.as_str(), "bob"]);
    let refused = soon("it is told", client.next()).await;
    let Some(Event::WatchRefused { users, code: ErrorCode::BadRecipient }) = refused else { panic!("{refused:?}") };
    assert_eq!(users, [long]);
    assert_eq!(socket.frame().await, json!({"id": 4, "watch": {"users": ["bob"]}}));
    client.typing("bob").expect("a name");
    assert_eq!(socket.frame().await, json!({"typing": {"to": "bob"}}));
}

#[tokio::test]
async fn a_close_code_of_4500_or_more_ends_it() {
    let node = Node::start().await;
    let client = client(&[&node], 256);
    let (mut socket, _) = node.welcome(25_000, 1, 1).await;
    let written = client.send("bob", &1).await.expect("taken");
    let waiting = client.send("bob", &2).await.expect("taken");
    socket.sent().await;
    socket.close(4502, "replaced").await;
    assert_eq!(stopped(&client).await, Stopped::Refused { code: 4502, reason: "replaced".into() });
    assert_eq!((soon("a fate", written).await, soon("a fate", waiting).await), (Fate::Unknown, Fate::NotSent));
    assert!(client.next().await.is_none());
    assert!(client.send("bob", &3).await.is_err());
}

#[tokio::test]
async fn other_close_codes_mean_to_come_back() {
    let node = Node::start().await;
    let _client = client(&[&node], 256);
    for code in [1001, 4001, 4002, 4005, 4499] {
        let (mut socket, _) = node.welcome(25_000, 1, 1).await;
        socket.close(code, "").await;
    }
    node.welcome(25_000, 1, 1).await;
}

#[tokio::test]
async fn a_silent_node_is_left_and_pings_are_answered() {
    let (first, second) = (Node::start().await, Node::start().await);
    let _client = client(&[&first, &second], 256);
    let (mut socket, _) = first.welcome(100, 1, 1).await;
    let began = clock::now();
    socket.send(json!({"ping": {}})).await;
    assert_eq!(socket.frame().await, json!({"pong": {}}));
    second.welcome(25_000, 1, 2).await;
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_node_can_send_its_clients_elsewhere() {
    let (first, second) = (Node::start().await, Node::start().await);
    let client = client(&[&first], 256);
    let (mut socket, _) = first.welcome(25_000, 1, 1).await;
    socket.message(10, 1).await;
    assert_eq!(undisturbed_message(&client).await, 10);
    assert_eq!(socket.frame().await, json!({"ack": 10}));
    socket.send(json!({"go_away": {"after_ms": 100, "url": second.url()}})).await;
    let (mut next, _) = second.welcome(25_000, 1, 15).await;
    assert_eq!(socket.closed().await, Some(1000), "the old one is left once the new one stands");
    next.message(20, 2).await;
    assert_eq!(undisturbed_message(&client).await, 20);
}

#[tokio::test]
async fn a_node_can_send_its_clients_elsewhere_before_it_welcomes_them() {
    let (first, second) = (Node::start().await, Node::start().await);
    let client = client(&[&first], 256);
    let (mut socket, _) = first.accept().await;
    socket.send(json!({"go_away": {"after_ms": 100, "url": second.url()}})).await;
    socket.welcome(25_000, 1, 1).await;
    let (mut next, _) = second.welcome(25_000, 1, 2).await;
    assert_eq!(socket.closed().await, Some(1000), "the old one is left once the new one stands");
    next.message(10, 1).await;
    assert_eq!(undisturbed_message(&client).await, 10);
}

#[tokio::test]
async fn the_old_connection_serves_until_the_new_one_stands() {
    let (first, second) = (Node::start().await, Node::start().await);
    let client = client(&[&first], 256);
    let (mut socket, _) = first.welcome(25_000, 1, 1).await;
    socket.send(json!({"go_away": {"after_ms": 100, "url": second.url()}})).await;
    let (mut hesitant, _) = second.accept().await;
    socket.message(10, 1).await;
    assert_eq!(undisturbed_message(&client).await, 10);
    assert_eq!(socket.frame().await, json!({"ack": 10}));
    hesitant.close(4001, "").await;
    // It tries those that it knows, this one included, and is still served where it was.
    socket.message(20, 2).await;
    assert_eq!(undisturbed_message(&client).await, 20);
    assert_eq!(socket.frame().await, json!({"ack": 20}));
    // What the node says to the old session because of the new one ends nothing.
    let (mut again, _) = first.accept().await;
    socket.close(4502, "replaced").await;
    again.welcome(25_000, 1, 25).await;
    again.message(30, 3).await;
    assert_eq!(undisturbed_message(&client).await, 30);
}

#[tokio::test]
async fn on_its_way_it_asks_a_node_again_no_sooner_than_it_is_told_to() {
    let (first, second) = (Node::start().await, Node::start().await);
    let client = client(&[&first], 256);
    let (mut socket, _) = first.welcome(25_000, 1, 1).await;
    socket.send(json!({"go_away": {"after_ms": 100, "url": second.url()}})).await;
    second.refuse("503 Service Unavailable", "retry-after: 1\r\n").await;
    let refused = clock::now();
    socket.message(10, 1).await;
    assert_eq!(undisturbed_message(&client).await, 10, "and is served meanwhile");
    // So long no test waits: what one node says holds for that one alone.
    first.refuse("503 Service Unavailable", "retry-after: 60\r\n").await;
    let (_next, _) = second.welcome(25_000, 1, 20).await;
    assert!(refused.elapsed() >= Duration::from_secs(1), "{:?}", refused.elapsed());
}

#[tokio::test]
async fn an_end_on_behalf_of_its_own_newer_session_stops_nothing_however_late() {
    let (first, second) = (Node::start().await, Node::start().await);
    let client = client(&[&first], 256);
    let (mut socket, _) = first.welcome(25_000, 1, 1).await;
    socket.send(json!({"go_away": {"after_ms": 100, "url": second.url()}})).await;
    let (mut hesitant, _) = second.accept().await;
    hesitant.close(4001, "").await;
    // The session of that attempt stood all the same. By now the client waits, or is on its way again.
    hesitant.closed().await;
    socket.close(4502, "replaced").await;
    let (mut again, _) = first.welcome(25_000, 1, 3).await;
    again.message(10, 1).await;
    assert_eq!(next_message(&client).await, 10);
}

#[tokio::test]
async fn dropping_it_says_goodbye_after_the_last_acknowledgement() {
    let node = Node::start().await;
    let client = client(&[&node], 256);
    let (mut socket, _) = node.welcome(25_000, 1, 1).await;
    socket.message(10, 1).await;
    assert_eq!(socket.frame().await, json!({"ack": 10}));
    drop(client);
    assert_eq!(socket.closed().await, Some(1000));
}

/// Tokens that live for two seconds, numbered.
struct Short(AtomicUsize);

#[async_trait]
impl Tokens for Short {
    async fn token(&self) -> Result<String, String> {
        let exp = clock::wall_ms() / 1_000 + 2;
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Ok(format!("{number}.{}.s", BASE64_URL_SAFE_NO_PAD.encode(json!({"exp": exp}).to_string())))
    }
}

#[tokio::test]
async fn a_token_is_renewed_on_the_connection() {
    let node = Node::start().await;
    let builder = Client::builder(Arc::new(Tcp), vec![node.url()], Arc::new(Short(AtomicUsize::new(0))), "d");
    let client = builder.connect().expect("a good URL");
    let (mut socket, hello) = node.welcome(25_000, 1, 1).await;
    assert!(hello["token"].as_str().expect("a token").starts_with("0."));
    let refresh = socket.frame().await;
    assert!(refresh["refresh"]["token"].as_str().expect("a token").starts_with("1."), "{refresh}");
    socket.send(json!({"id": refresh["id"], "error": {"code": "bad_token", "message": "not this one"}})).await;
    assert!(matches!(soon("it stands", client.next()).await, Some(Event::Connected { .. })));
    let refused = soon("it is told", client.next()).await;
    assert!(matches!(&refused, Some(Event::RefreshRefused { message }) if message == "not this one"), "{refused:?}");
}

/// Tokens of which each is another one.
struct Numbered(AtomicUsize);

#[async_trait]
impl Tokens for Numbered {
    async fn token(&self) -> Result<String, String> {
        Ok(self.0.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

#[tokio::test]
async fn an_expired_token_is_replaced_by_a_new_one_ever_more_patiently() {
    let node = Node::start().await;
    let tokens = Arc::new(Numbered(AtomicUsize::new(0)));
    let client = Client::builder(Arc::new(Tcp), vec![node.url()], tokens, "d").connect().expect("a good URL");
    let (mut socket, hello) = node.welcome(25_000, 1, 1).await;
    assert_eq!(hello["token"], "0");
    socket.close(4501, "").await;
    let began = clock::now();
    for number in 1..=5 {
        let (mut socket, hello) = node.accept().await;
        assert_eq!(hello["token"], number.to_string());
        socket.close(4501, "").await;
    }
    let (mut socket, _) = node.welcome(25_000, 1, 2).await;
    // A quarter of what it waits at most, at least, doubled each time.
    assert!(began.elapsed() >= Duration::from_millis(25 + 50 + 100 + 200 + 400 + 800), "{:?}", began.elapsed());
    socket.message(10, 1).await;
    assert_eq!(next_message(&client).await, 10);
}

#[tokio::test]
async fn the_same_token_again_after_it_expired_ends_it() {
    let node = Node::start().await;
    let client = client(&[&node], 256);
    let (mut socket, _) = node.welcome(25_000, 1, 1).await;
    socket.close(4501, "").await;
    assert_eq!(
        soon("the end", stopped(&client)).await,
        Stopped::Refused { code: 4501, reason: "the token expired".into() }
    );
    let again = clock::timeout(Duration::from_millis(50), node.0.accept()).await;
    assert!(again.is_err(), "no node is asked once more");
}
