//! What a client asks, and what it is answered.

use cluster::id::{GroupId, MessageId, UserId};
use cluster::session::Event;
use cluster::signal::News;
use cluster::state::{Destination, GroupAct, GroupRefusal, SendRefusal};
use tokio::io::AsyncWriteExt;

use super::{SECOND, id_of, send};
use crate::session::node::Rules;
use crate::session::testing::{Client, INFLIGHT, rules};

#[tokio::test(start_paused = true)]
async fn sends_are_answered_in_order() {
    let mut client = Client::welcomed(rules()).await;
    client.say(&send(1)).await;
    client.say(r#"{"id":2,"send":{"to":"bob","key":"","body":1}}"#).await;
    client.say(r#"{"id":3,"send":{"to":"bob","group":"g","key":"k","body":1}}"#).await;
    client.say(&send(4)).await;
    client.script.until("two sends", |played| played.sent.len() == 2).await;
    client.silent(SECOND).await;
    let sent = client.script.lock().sent.clone();
    assert_eq!((sent[0].0, &sent[0].1.body[..]), (0, &br#"{"n": 1}"#[..]));
    assert_eq!(sent[0].1.to, Destination::User(UserId::new("bob").unwrap()));
    let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
    let device = cluster::id::DeviceId::new("d1").unwrap();
    assert_eq!(sent[0].1.mid, MessageId::direct(&alice, &device, &bob, "k1", br#"{"n": 1}"#));
    client.script.ok(0);
    assert_eq!(client.hear().await, format!(r#"{{"id":1,"ok":{{"mid":"{}"}}}}"#, "00".repeat(16)));
    assert!(client.hear().await.starts_with(r#"{"id":2,"error":{"code":"bad_key""#));
    assert!(client.hear().await.starts_with(r#"{"id":3,"error":{"code":"bad_recipient""#));
    client.script.tell(Event::Sent { token: 1, result: Err(SendRefusal::InboxFull) });
    assert!(client.hear().await.starts_with(r#"{"id":4,"error":{"code":"inbox_full""#));
    client.say(r#"{"id":5,"send":{"group":"g","key":"k","body":1}}"#).await;
    client.script.until("a send to a group", |played| played.sent.len() == 3).await;
    client.script.tell(Event::Sent { token: 2, result: Err(SendRefusal::UnknownGroup) });
    assert!(client.hear().await.starts_with(r#"{"id":5,"error":{"code":"unknown_group""#));
    client.script.tell(Event::Delivered { mid: MessageId([9; 16]), by: bob, latency: None, trace: None });
    assert_eq!(client.hear().await, format!(r#"{{"delivered":{{"mid":"{}","by":"bob"}}}}"#, "09".repeat(16)));
}

#[tokio::test(start_paused = true)]
async fn no_more_than_inflight_sends_are_taken() {
    let mut client = Client::welcomed(rules()).await;
    for id in 1..=10 {
        client.say(&send(id)).await;
    }
    client.silent(SECOND).await;
    assert_eq!(client.script.lock().sent.len(), INFLIGHT as usize);
    let metrics = client.node.metrics.render("n");
    assert!(metrics.contains(&format!("im_gateway_send_queue{{node=\"n\"}} {INFLIGHT}\n")), "{metrics}");
    for token in 0..10 {
        client.script.ok(token);
        assert_eq!(id_of(&client.hear().await), token + 1);
    }
    assert_eq!(client.script.lock().sent.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_kept_by_reading_slowly() {
    let mut client = Client::welcomed(Rules { send_per_s: 2, ..rules() }).await;
    let start = cluster::env::clock::now();
    for id in 1..=8 {
        client.say(&send(id)).await;
    }
    for token in 0..8 {
        client.script.until("a send", |played| played.sent.len() > token).await;
        client.script.ok(token as u64);
        client.hear().await;
    }
    assert!(start.elapsed() >= SECOND * 3 && start.elapsed() < SECOND * 4, "{:?}", start.elapsed());
    let metrics = client.node.metrics.render("n");
    let held = metrics
        .lines()
        .find_map(|line| line.strip_prefix("im_gateway_held_back_total{node=\"n\",rate=\"connection\"} "));
    assert!(held.is_some_and(|count| count != "0"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_new_is_read_no_faster() {
    for idle in [r#"{"ack":0}"#, r#"{"pong":{}}"#, r#"{"watch":{"users":[]}}"#] {
        let mut client = Client::welcomed(Rules { send_per_s: 2, ..rules() }).await;
        let start = cluster::env::clock::now();
        for _ in 0..8 {
            client.say(idle).await;
        }
        client.say(&send(9)).await;
        client.script.until("the send", |played| !played.sent.is_empty()).await;
        assert!(start.elapsed() >= SECOND * 3, "{idle}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn parts_of_messages_are_read_no_faster_than_whole_ones() {
    let mut client = Client::welcomed(Rules { send_per_s: 2, ..rules() }).await;
    let start = cluster::env::clock::now();
    // A message begins with nothing, goes on with nothing, and comes at last; the masks are zeros.
    let mut bytes = vec![0x01_u8, 0x80, 0, 0, 0, 0];
    bytes.extend([0_u8, 0x80, 0, 0, 0, 0].repeat(7));
    let text = send(9);
    bytes.extend([0x80_u8, 0x80 | text.len() as u8, 0, 0, 0, 0]);
    bytes.extend(text.as_bytes());
    client.socket.get_mut().write_all(&bytes).await.unwrap();
    client.script.until("the send", |played| !played.sent.is_empty()).await;
    assert!(start.elapsed() >= SECOND * 3, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn groups_are_asked_for_in_turn_and_their_members_told_at_once() {
    let mut client = Client::welcomed(rules()).await;
    client.say(r#"{"id":1,"group":{"create":"g"}}"#).await;
    client.say(r#"{"id":2,"group":{"join":"g","leave":"g"}}"#).await;
    client.say(r#"{"id":3,"group":{"join":"h"}}"#).await;
    client.say(r#"{"id":4,"group":{"members":"g"}}"#).await;
    let members = r#"{"id":4,"ok":{"members":["alice","bob"],"more":true}}"#;
    assert_eq!(client.hear().await, members, "it waits for nothing");
    client.say(r#"{"id":5,"group":{"members":"g","after":"bob"}}"#).await;
    assert_eq!(client.hear().await, r#"{"id":5,"ok":{"members":["carol"],"more":false}}"#);
    let grouped = client.script.lock().grouped.clone();
    let group = |name| GroupId::new(name).unwrap();
    assert_eq!(grouped, [(0, group("g"), GroupAct::Create), (1, group("h"), GroupAct::Join)]);
    client.script.tell(Event::Done { token: 0, result: Ok(()) });
    assert_eq!(client.hear().await, r#"{"id":1,"ok":{}}"#);
    assert!(client.hear().await.starts_with(r#"{"id":2,"error":{"code":"bad_frame""#), "in its turn");
    client.script.tell(Event::Done { token: 1, result: Err(GroupRefusal::Full) });
    assert!(client.hear().await.starts_with(r#"{"id":3,"error":{"code":"group_full""#));
    for (name, code) in [("unknown", "unknown_group"), ("others", "not_member"), ("", "bad_recipient")] {
        client.say(&format!(r#"{{"id":6,"group":{{"members":"{name}"}}}}"#)).await;
        let expected = format!(r#"{{"id":6,"error":{{"code":"{code}""#);
        assert!(client.hear().await.starts_with(&expected), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_of_groups_while_some_node_knows_none() {
    let mut client = Client::welcomed(rules()).await;
    client.script.lock().no_groups = true;
    for frame in
        [r#""group":{"create":"g"}"#, r#""group":{"members":"g"}"#, r#""send":{"group":"g","key":"k","body":1}"#]
    {
        client.say(&format!("{{\"id\":1,{frame}}}")).await;
        assert!(client.hear().await.starts_with(r#"{"id":1,"error":{"code":"unknown_type""#));
    }
    assert!(client.script.lock().sent.is_empty() && client.script.lock().grouped.is_empty());
}

#[tokio::test(start_paused = true)]
async fn typing_and_read_marks_go_to_and_fro() {
    let mut client = Client::welcomed(rules()).await;
    let mid = MessageId([9; 16]);
    client.say(r#"{"typing":{"to":"bob"}}"#).await;
    client.say(&format!(r#"{{"id":4,"read":{{"from":"bob","mid":"{mid}"}}}}"#)).await;
    assert_eq!(client.hear().await, r#"{"id":4,"ok":{}}"#);
    assert_eq!(client.script.lock().signals, [("bob".to_owned(), None), ("bob".to_owned(), Some(mid))]);
    client.say(r#"{"id":5,"read":{"from":"bob","mid":"no id"}}"#).await;
    assert!(client.hear().await.starts_with(r#"{"id":5,"error":{"code":"bad_frame""#));
    client.say(r#"{"id":6,"typing":{"to":""}}"#).await;
    assert!(client.hear().await.starts_with(r#"{"id":6,"error":{"code":"bad_recipient""#));
    let from = UserId::new("bob").unwrap();
    client.script.tell(Event::Signal { from: from.clone(), news: News::Typing });
    assert_eq!(client.hear().await, r#"{"typing":{"from":"bob"}}"#);
    client.script.tell(Event::Signal { from, news: News::Read(mid) });
    assert_eq!(client.hear().await, format!(r#"{{"read":{{"by":"bob","mid":"{mid}"}}}}"#));
}

#[tokio::test(start_paused = true)]
async fn another_device_is_forgotten_on_request() {
    let mut client = Client::welcomed(rules()).await;
    client.say(r#"{"id":1,"forget":{"device":"old"}}"#).await;
    client.say(r#"{"id":2,"forget":{"device":"d1"}}"#).await;
    client.script.until("it is asked for", |played| !played.forgotten.is_empty()).await;
    let old = cluster::id::DeviceId::new("old").unwrap();
    assert_eq!(client.script.lock().forgotten, [(0, old)]);
    client.script.tell(Event::Done { token: 0, result: Ok(()) });
    assert_eq!(client.hear().await, r#"{"id":1,"ok":{}}"#);
    assert!(client.hear().await.starts_with(r#"{"id":2,"error":{"code":"bad_recipient""#), "not itself");
}

#[tokio::test(start_paused = true)]
async fn what_a_drill_lets_fail_is_asked_of_the_log_as_such() {
    let mut client = Client::welcomed(rules()).await;
    client.node.hooks.as_ref().unwrap().set_failure_rate(1.0);
    client.say(&send(4)).await;
    client.say(r#"{"id":5,"send":{"group":"g","key":"k","body":1}}"#).await;
    client.script.until("both are asked", |played| played.sent.len() + played.refused.len() == 2).await;
    assert_eq!(client.script.lock().refused.len(), 1, "groups are left alone");
    client.script.tell(Event::Sent { token: 0, result: Err(SendRefusal::InboxFull) });
    assert!(client.hear().await.contains("inbox_full"));
}
