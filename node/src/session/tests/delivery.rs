//! What comes for a client, and when it is written.

use std::io::ErrorKind;
use std::time::Duration;

use cluster::id::{MessageId, Pos, UserId};
use cluster::session::{Delivery, Event};
use cluster::state::GapReason;

use super::{SECOND, send};
use crate::session::control::Connections;
use crate::session::testing::{Client, hello, rules};

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

#[tokio::test(start_paused = true)]
async fn the_welcome_comes_first() {
    let mut client = Client::open(rules()).await;
    client.say(&hello(60_000)).await;
    client.script.until("it is asked for", |played| played.spec.is_some()).await;
    // News of what an earlier session of the device sent.
    client.script.tell(Event::Delivered {
        mid: MessageId([9; 16]),
        by: UserId::new("bob").unwrap(),
        latency: None,
        trace: None,
    });
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
