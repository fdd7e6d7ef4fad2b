use std::io::ErrorKind;
use std::time::Duration;

use cluster::id::{GroupId, MessageId, Pos, UserId};
use cluster::session::{Delivery, Event, Refusal};
use cluster::signal::News;
use cluster::state::{Destination, GapReason, GroupAct, GroupRefusal, SendRefusal};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::control::Connections;
use super::node::Rules;
use super::testing::{Client, INFLIGHT, hello, rules, token};
use crate::protocol::CloseCode;

const SECOND: Duration = Duration::from_secs(1);

fn send(id: u64) -> String {
    format!(r#"{{"id":{id},"send":{{"to":"bob","key":"k{id}","body":{{"n": {id}}}}}}}"#)
}

fn id_of(text: &str) -> u64 {
    crate::protocol::ServerFrame::decode(text).unwrap().id.unwrap()
}

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
    client.script.tell(Event::Delivered { mid: MessageId([9; 16]), by: bob, trace: None });
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
}

#[tokio::test(start_paused = true)]
async fn delivers_in_a_window() {
    let mut client = Client::welcomed(rules()).await;
    for pos in 1..=20 {
        client.script.arrive(pos * 10, "{ \"x\" : 1 }");
    }
    for pos in 1..=8 {
        let text = client.hear().await;
        assert!(text.starts_with(&format!(r#"{{"seq":{},"msg":{{"#, pos * 10)), "{text}");
        assert!(text.ends_with(r#","from":"bob","device":"b1","to":"alice","ts":5,"body":{ "x" : 1 }}}"#), "{text}");
    }
    client.silent(SECOND).await;
    client.say(r#"{"ack":30}"#).await;
    for pos in 9..=11 {
        assert!(client.hear().await.starts_with(&format!(r#"{{"seq":{},"#, pos * 10)));
    }
    client.silent(SECOND).await;
    assert_eq!(client.script.lock().acked, [Pos(30)]);
    client.say(r#"{"ack":30}"#).await;
    client.say(r#"{"ack":20}"#).await;
    client.say(r#"{"ack":111}"#).await;
    assert_eq!(client.closed().await, 4503);
}

#[tokio::test(start_paused = true)]
async fn gaps_and_the_ack_timeout() {
    let mut client = Client::welcomed(rules()).await;
    client.script.lock().inbox.push(Delivery::Gap { seq: Pos(40), reason: GapReason::InboxLimit, lost: 3 });
    client.script.arrive(50, "1");
    assert_eq!(client.hear().await, r#"{"seq":40,"gap":{"reason":"inbox_limit","lost":3}}"#);
    client.hear().await;
    client.silent(SECOND * 6).await;
    let metrics = client.node.metrics.render("n1");
    assert!(metrics.contains("im_gateway_ack_timeout_total{node=\"n1\"} 2"), "{metrics}");
    client.say(r#"{"ack":50}"#).await;
    client.script.until("the ack", |played| played.acked == [Pos(50)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_left_between_two_reads_is_looked_for_again() {
    let mut client = Client::welcomed(rules()).await;
    client.script.lock().failing_reads = Some((3, ErrorKind::NotFound));
    client.script.arrive(10, "1");
    assert!(client.hear().await.starts_with(r#"{"seq":10,"#));
    for (times, kind) in [(usize::MAX, ErrorKind::NotFound), (1, ErrorKind::InvalidData)] {
        let client = Client::welcomed(rules()).await;
        client.script.lock().failing_reads = Some((times, kind));
        client.script.arrive(10, "1");
        assert_eq!(client.closed().await, 4001, "{times} × {kind}");
    }
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
async fn the_welcome_comes_first() {
    let mut client = Client::open(rules()).await;
    client.say(&hello(60_000)).await;
    client.script.until("it is asked for", |played| played.spec.is_some()).await;
    // News of what an earlier session of the device sent.
    client.script.tell(Event::Delivered { mid: MessageId([9; 16]), by: UserId::new("bob").unwrap(), trace: None });
    client.silent(SECOND).await;
    client.script.tell(Event::Registered { epoch: Pos(7) });
    assert!(client.hear().await.contains(r#""welcome""#));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_delivered_while_suspended() {
    let mut client = Client::welcomed(rules()).await;
    client.script.tell(Event::Suspended);
    client.script.arrive(10, "1");
    client.say(&send(1)).await;
    client.silent(SECOND).await;
    assert_eq!(client.script.lock().sent.len(), 1, "a send waits in the cluster's queue");
    client.script.tell(Event::Registered { epoch: Pos(8) });
    assert!(client.hear().await.starts_with(r#"{"seq":10,"#));
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

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_cut() {
    let mut client = Client::open_with(rules(), 256, Connections::new(1)).await;
    client.greet().await;
    for pos in 1..=8 {
        client.script.arrive(pos, &format!("\"{}\"", "x".repeat(1000)));
    }
    cluster::env::clock::sleep(SECOND).await;
    let node = client.node.clone();
    let waiting = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix(r#"im_gateway_writer_queue{node="n"} "#)).unwrap();
        line.parse::<u64>().unwrap()
    };
    assert!((7_000..9_000).contains(&waiting(node.metrics.render("n"))), "of 8 × 1,000 bytes the pipe took 256");
    (&mut client.task).await.unwrap();
    let metrics = node.metrics.render("n");
    assert!(metrics.contains(r#"connections_closed_total{node="n",reason="slow_consumer"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"connection_duration_seconds_count{node="n"} 1"#), "{metrics}");
    assert_eq!(waiting(metrics), 0);
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
    let opened = super::Opened {
        conn: Box::new(super::testing::Memory(tokio::io::duplex(1).0)),
        early: bytes::Bytes::new(),
        identity: None,
        peer: ([127, 0, 0, 1], 7).into(),
    };
    let open = |_, _: &_| -> Result<(super::testing::FakeLink, u32), _> { Err(CloseCode::Unavailable) };
    let future = super::run(client.node.clone(), opened, place, open);
    assert!(size_of_val(&future) < 2048, "{} bytes", size_of_val(&future));
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
async fn what_a_drill_holds_back_comes_late_and_in_order() {
    let mut client = Client::welcomed(rules()).await;
    let hooks = client.node.hooks.as_ref().unwrap();
    hooks.set_delay(SECOND);
    client.script.arrive(20, "1");
    client.script.arrive(21, "2");
    client.silent(SECOND - Duration::from_millis(10)).await;
    assert!(client.hear().await.starts_with(r#"{"seq":20,"#));
    client.script.arrive(22, "3");
    client.node.hooks.as_ref().unwrap().set_delay(Duration::ZERO);
    // Read together with the first, or with the third: in order whichever.
    assert!(client.hear().await.starts_with(r#"{"seq":21,"#));
    assert!(client.hear().await.starts_with(r#"{"seq":22,"#));
    // What is held back is not written while the session is not live.
    client.node.hooks.as_ref().unwrap().set_delay(SECOND);
    client.script.arrive(23, "4");
    client.silent(SECOND / 2).await;
    client.script.tell(Event::Suspended);
    client.silent(SECOND * 3).await;
    client.script.tell(Event::Registered { epoch: Pos(30) });
    assert!(client.hear().await.starts_with(r#"{"seq":23,"#));
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
