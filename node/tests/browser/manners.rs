//! What the protocol demands of a client, seen from the server's side.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fake::{Fake, Socket};
use crate::webdriver::browser;
use crate::{MARK, ONE_AT_A_TIME, ONLINE, TEXTS};

const HOUR: Duration = Duration::from_secs(3_600);
const CALM_MS: u64 = 60_000;

/// Reads the next frame that is a `send`; what else may come at any time is passed over.
async fn receive_send(socket: &mut Socket) -> (Value, String) {
    loop {
        let text = socket.text().await.expect("the page's socket is open");
        let frame: Value = serde_json::from_str(&text).expect("the page speaks JSON");
        if frame.get("send").is_some() {
            // All but the `id`, byte for byte.
            let (_, bytes) = text.split_once("\"send\":").expect("the frame was a send");
            return (frame.clone(), bytes.to_owned());
        }
    }
}

async fn ok(socket: &mut Socket, send: &Value, mid: u32) {
    socket.send(json!({"id": send["id"], "ok": {"mid": format!("{mid:032x}")}})).await;
}

fn message(seq: u64, mid: u32, text: &str) -> Value {
    let mid = format!("{mid:032x}");
    json!({"seq": seq, "msg": {"mid": mid, "from": "bob", "device": "d", "to": "alice", "ts": 1, "body": {"text": text}}})
}

#[tokio::test]
async fn repeats_what_had_no_ok_in_order_before_anything_new() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(HOUR).await;
    let tab = browser.tab(&format!("{}/?user=alice&to=bob", fake.url)).await;
    let (mut first, hello) = fake.welcome(CALM_MS, 2).await;
    assert_eq!((&hello["attempt"], &hello["ephemeral"]), (&json!(1), &json!(true)));
    for text in ["one\n", "two \u{e9} \"quoted\"\n", "three\n"] {
        tab.type_into("#text", text).await;
    }
    let (one, one_bytes) = receive_send(&mut first).await;
    let (two, two_bytes) = receive_send(&mut first).await;
    assert_eq!(two["send"]["body"], json!({"text": "two \u{e9} \"quoted\""}));
    // `inflight` is 2: the third waits for an `ok`, else it would come before the `pong`.
    tab.until("document.querySelectorAll('.message').length === 3", &[]).await;
    first.send(json!({"ping": {}})).await;
    assert_eq!(first.receive().await, json!({"pong": {}}));
    ok(&mut first, &one, 1).await;
    let (_, three_bytes) = receive_send(&mut first).await;
    tab.until("document.querySelector('.message')?.dataset.state === 'stored'", &[]).await;
    first.close(4001).await;

    let (mut second, again) = fake.welcome(CALM_MS, 2).await;
    assert_eq!((&again["attempt"], &again["instance"]), (&json!(2), &hello["instance"]));
    assert_eq!(again["device"], hello["device"]);
    tab.until(ONLINE, &[]).await;
    tab.type_into("#text", "four\n").await;
    let (two, bytes) = receive_send(&mut second).await;
    assert_eq!(bytes, two_bytes);
    let (three, bytes) = receive_send(&mut second).await;
    assert_eq!(bytes, three_bytes);
    assert_ne!(one_bytes, two_bytes);
    // News of the delivery may overtake the `ok`.
    second.send(json!({"delivered": {"mid": format!("{:032x}", 2), "by": "bob"}})).await;
    ok(&mut second, &two, 2).await;
    ok(&mut second, &three, 3).await;
    let (four, _) = receive_send(&mut second).await;
    assert_eq!(four["send"]["body"], json!({"text": "four"}));
    second.send(json!({"id": four["id"], "error": {"code": "inbox_full", "message": "The inbox is full."}})).await;
    tab.until(MARK, &["failed"]).await;
    let marks = tab.eval("[...document.querySelectorAll('.message')].map((item) => item.dataset.state)", &[]).await;
    assert_eq!(marks, json!(["stored", "delivered", "stored", "failed"]));
    assert_eq!(tab.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn surfaces_a_message_once_and_acknowledges_all() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(HOUR).await;
    let tab = browser.tab(&format!("{}/?user=alice&to=bob", fake.url)).await;
    let (mut socket, _) = fake.welcome(CALM_MS, 8).await;
    for frame in [message(10, 1, "a <b>bold</b> word"), message(12, 2, "b"), message(13, 1, "a <b>bold</b> word")] {
        socket.send(frame).await;
    }
    socket.send(json!({"seq": 20, "gap": {"reason": "inbox_limit", "lost": 12}})).await;
    socket.send(json!({"a_type_of_the_future": {"x": 1}})).await;
    acknowledged(&mut socket, 20).await;
    tab.until("document.querySelector('.notice')?.textContent.includes('12 messages')", &[]).await;
    assert_eq!(tab.eval(TEXTS, &[]).await, json!(["a <b>bold</b> word", "b"]));

    // Another connection, and then another page of the same tab: neither shows them again.
    socket.close(1012).await;
    let (mut socket, _) = fake.welcome(CALM_MS, 8).await;
    socket.send(message(12, 2, "b")).await;
    socket.send(json!({"seq": 20, "gap": {"reason": "inbox_limit", "lost": 12}})).await;
    acknowledged(&mut socket, 20).await;
    assert_eq!(tab.eval("document.querySelectorAll('.notice').length", &[]).await, json!(1));
    let (old, ((mut socket, _), ())) = (socket, futures_util::join!(fake.welcome(CALM_MS, 8), tab.reload()));
    drop(old);
    socket.send(message(12, 2, "b")).await;
    socket.send(message(21, 3, "c")).await;
    acknowledged(&mut socket, 21).await;
    assert_eq!(tab.eval(TEXTS, &[]).await, json!(["a <b>bold</b> word", "b", "c"]));
}

/// Reads acks, which grow, until this one.
async fn acknowledged(socket: &mut Socket, seq: u64) {
    let mut last = 0;
    while last < seq {
        let frame = socket.receive().await;
        let ack = frame["ack"].as_u64().expect("only acks are expected");
        assert!(ack > last && ack <= seq, "ack {ack} after {last}");
        last = ack;
    }
}

#[tokio::test]
async fn typing_is_told_now_and_then_and_reading_once_for_the_newest_message() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(HOUR).await;
    let tab = browser.tab(&format!("{}/?user=alice&to=bob", fake.url)).await;
    let (mut socket, _) = fake.welcome(CALM_MS, 8).await;
    tab.until(ONLINE, &[]).await;
    // Much faster than it is told.
    let keys = "for (let n = 0; n < 50; n++) { text.value += 'x'; text.dispatchEvent(new Event('input')); }";
    tab.eval(&format!("(() => {{ const text = document.getElementById('text'); {keys} }})()"), &[]).await;
    assert_eq!(signals(&mut socket).await, [json!({"typing": {"to": "bob"}})]);
    for (seq, mid) in [(10, 1), (11, 2)] {
        socket.send(message(seq, mid, "words")).await;
    }
    tab.until("document.querySelectorAll('.message').length === 2", &[]).await;
    let read = |mid: u32| json!({"read": {"from": "bob", "mid": format!("{mid:032x}")}});
    assert_eq!(signals(&mut socket).await, [read(1), read(2)]);
    // Opened anew there is nothing new to say.
    tab.click("#peers [data-peer=\"bob\"]").await;
    assert_eq!(signals(&mut socket).await, Vec::<Value>::new());
    // What is told of the other one is shown, and forgotten when a message comes.
    let does = "document.getElementById('peer-does').textContent === arguments[0]";
    socket.send(json!({"typing": {"from": "bob"}})).await;
    tab.until(does, &["is writing"]).await;
    socket.send(message(12, 3, "more")).await;
    tab.until(does, &[""]).await;
    tab.type_into("#text", "\n").await;
    let (send, _) = receive_send(&mut socket).await;
    ok(&mut socket, &send, 9).await;
    tab.until(MARK, &["stored"]).await;
    socket.send(json!({"read": {"by": "bob", "mid": format!("{:032x}", 9)}})).await;
    tab.until(does, &["has read it"]).await;
    assert_eq!(tab.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn it_watches_the_open_conversation_and_the_latest_as_many_as_it_may() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(HOUR).await;
    let tab = browser.tab(&format!("{}/?user=alice&to=bob", fake.url)).await;
    let (mut socket, hello) = fake.accept().await;
    let limits = json!({"frame_bytes": 2_048, "send_per_s": 1_000, "inflight": 8, "watches": 2});
    socket.welcome_with(&hello, CALM_MS, &limits).await;
    let mut watched = BTreeSet::new();
    for (n, from) in (1..).zip(["carol", "dave", "erin", "dave"]) {
        let mut frame = message(10 * u64::from(n), n, "words");
        frame["msg"]["from"] = json!(from);
        socket.send(frame).await;
        tab.until(
            "document.querySelectorAll('#peers .badge').length === Math.min(Number(arguments[0]), 3)",
            &[&n.to_string()],
        )
        .await;
        watching(&mut socket, &mut watched).await;
        assert_eq!(watched, BTreeSet::from(["bob".to_owned(), from.to_owned()]));
        let presence = json!({"user": from, "status": "online", "devices": 1, "v": n});
        socket.send(json!({"presence": presence})).await;
        // Of nobody else it is told.
        tab.until("[...document.querySelectorAll('#peers .here')].map((word) => word.closest('button').dataset.peer).join() === arguments[0]", &[from]).await;
    }
    tab.click("#peers [data-peer=\"carol\"]").await;
    watching(&mut socket, &mut watched).await;
    assert_eq!(watched, BTreeSet::from(["carol".to_owned(), "dave".to_owned()]));
    assert_eq!(tab.console().await, Vec::<String>::new());
}

/// Follows whom the page watches; it is never more than two.
async fn watching(socket: &mut Socket, watched: &mut BTreeSet<String>) {
    socket.send(json!({"ping": {}})).await;
    loop {
        let text = socket.text().await.expect("it is open");
        let mut frame: Value = serde_json::from_str(&text).expect("the page speaks JSON");
        let mut users =
            |kind: &str| -> Vec<String> { serde_json::from_value(frame[kind]["users"].take()).unwrap_or_default() };
        users("unwatch").iter().for_each(|user| assert!(watched.remove(user), "{user} was not watched"));
        watched.extend(users("watch"));
        assert!(watched.len() <= 2, "{watched:?}");
        if frame["pong"].is_object() {
            return;
        }
    }
}

/// What the page has said so far of typing and reading.
async fn signals(socket: &mut Socket) -> Vec<Value> {
    socket.send(json!({"ping": {}})).await;
    let mut said = Vec::new();
    loop {
        let frame: Value =
            serde_json::from_str(&socket.text().await.expect("it is open")).expect("the page speaks JSON");
        match &frame {
            frame if frame["pong"].is_object() => return said,
            frame if frame["typing"].is_object() || frame["read"].is_object() => said.push(frame.clone()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn answers_pings_refreshes_its_token_and_leaves_a_silent_or_departing_node() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(Duration::from_secs(6)).await;
    let tab = browser.tab(&format!("{}/?user=alice&to=bob", fake.url)).await;
    let (mut silent, _) = fake.welcome(1_000, 8).await;
    silent.send(json!({"ping": {}})).await;
    assert_eq!(silent.receive().await, json!({"pong": {}}));
    // Nothing for 2 × ping_ms: the client is gone, and back on a new connection.
    let (mut departing, hello) = fake.welcome(CALM_MS, 8).await;
    assert_eq!(hello["attempt"], 2);
    assert!(silent.text().await.is_none());

    // It moves before it leaves. That the cluster ends the older session first is nothing to stop at.
    departing.send(json!({"go_away": {"after_ms": 1}})).await;
    let (mut socket, hello) = fake.accept().await;
    assert_eq!(hello["attempt"], 3);
    departing.close(4502).await;
    socket.welcome(&hello, 3_000, 8).await;
    tab.until(ONLINE, &[]).await;

    let frame = socket.receive().await;
    assert!(frame["refresh"]["token"].is_string(), "{frame}");
    socket.send(json!({"id": frame["id"], "ok": {}})).await;
}

#[tokio::test]
async fn stops_when_its_device_is_open_elsewhere_and_says_so() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(HOUR).await;
    let tab = browser.tab(&format!("{}/?user=alice&to=bob", fake.url)).await;
    let (socket, hello) = fake.welcome(CALM_MS, 8).await;
    socket.close(4502).await;
    tab.until("document.querySelector('.notice.bad')?.textContent.includes('open elsewhere')", &[]).await;
    tab.until("document.getElementById('chat').dataset.state === 'stopped'", &[]).await;
    // It came back only when asked to: the attempt is the second.
    tab.click(".notice.bad button").await;
    let (socket, again) = fake.welcome(CALM_MS, 8).await;
    assert_eq!((&again["attempt"], &again["device"]), (&json!(2), &hello["device"]));
    socket.close(4500).await;
    tab.until("document.querySelector('.notice.bad')?.textContent.includes('token')", &[]).await;
    // A message over `frame_bytes` fails in the client.
    tab.click(".notice.bad button").await;
    let (mut socket, _) = fake.welcome(CALM_MS, 8).await;
    tab.until(ONLINE, &[]).await;
    tab.type_into("#text", &format!("{}\n", "x".repeat(2_100))).await;
    tab.until(MARK, &["failed"]).await;
    tab.type_into("#text", "short\n").await;
    let (frame, _) = receive_send(&mut socket).await;
    assert_eq!(frame["send"]["body"]["text"], "short");
    // Its next node takes less than was already sent: whether the first one stored it nobody can say.
    socket.close(1001).await;
    let (mut socket, hello) = fake.accept().await;
    let limits = json!({"frame_bytes": 64, "send_per_s": 1_000, "inflight": 8, "watches": 2});
    socket.welcome_with(&hello, CALM_MS, &limits).await;
    tab.until(MARK, &["unknown"]).await;
    assert_eq!(tab.console().await, Vec::<String>::new());
}
