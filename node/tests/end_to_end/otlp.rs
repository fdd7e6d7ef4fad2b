//! Traces and logs at a real OTLP receiver.

use std::sync::Arc;

use im_gateway::client::{Client, Fate, Traceparent};
use im_gateway::env::Tcp;
use serde_json::{Value, json};

use crate::common::collector::{Collector, Record, Span};
use crate::common::raw::Raw;
use crate::common::{Options, TestCluster, eventually, free_port, http, token};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn options(endpoint: &str, one_in: u64) -> Options {
    let telemetry = format!("[trace]\none_in = {one_in}\n[otlp]\nendpoint = {endpoint:?}\nlogs = true\n");
    Options { telemetry, test_hooks: true, ..Options::default() }
}

async fn send(alice: &mut Raw, id: u64, to: &str, trace: Option<&str>) -> String {
    let mut send = json!({"to": to, "key": format!("k{id}"), "body": id});
    if let Some(trace) = trace {
        send["trace"] = trace.into();
    }
    alice.send(json!({"id": id, "send": send})).await;
    let ok = alice.answer(id).await;
    ok["ok"]["mid"].as_str().expect("it is stored").to_owned()
}

async fn take(bob: &mut Raw) -> String {
    let message = bob.frame_with("msg").await;
    bob.send(json!({"ack": message["seq"]})).await;
    message["msg"]["mid"].as_str().expect("an id").to_owned()
}

/// The spans of a message, when so many have come.
async fn spans(collector: &Collector, mid: &str, count: usize) -> Vec<Span> {
    eventually(&format!("{count} spans of {mid}"), async || {
        let of = |span: &Span| span.attributes["messaging.message.id"] == mid;
        let spans: Vec<_> = collector.spans().into_iter().filter(of).collect();
        (spans.len() >= count).then_some(spans)
    })
    .await
}

fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut named = spans.iter().filter(|span| span.name == name);
    let span = named.next().unwrap_or_else(|| panic!("no {name} in {spans:#?}"));
    assert!(named.next().is_none(), "one {name} in {spans:#?}");
    assert!(span.start_ns > 0 && span.start_ns <= span.end_ns, "{span:?}");
    span
}

#[tokio::test]
async fn a_trace_goes_from_send_to_ack_over_two_nodes() {
    let collector = Collector::start().await;
    let cluster = TestCluster::start_with(3, options(&collector.url(), 0)).await;
    let (origin, other) = (cluster.node_id(0).await, cluster.node_id(1).await);
    eventually("all nodes know traces", async || {
        (cluster.status(0).await?["feature_level"].as_u64()? >= 4).then_some(())
    })
    .await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let mut bob = Raw::welcome(&cluster.addr(1), "bob", "laptop").await;

    let unwanted = [None, Some("00-nonsense-01"), Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")];
    let mut untraced = Vec::new();
    for (id, trace) in (2..).zip(unwanted) {
        untraced.push(send(&mut alice, id, "bob", trace).await);
        assert_eq!(take(&mut bob).await, untraced[untraced.len() - 1], "it is delivered all the same");
    }
    let mid = send(&mut alice, 9, "bob", Some(&format!("00-{TRACE}-{PARENT}-01"))).await;
    assert_eq!(take(&mut bob).await, mid);
    alice.frame_with("delivered").await;

    let spans = spans(&collector, &mid, 4).await;
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    let [send, store, deliver, ack] = ["send", "store", "deliver", "ack"].map(|name| one(&spans, name));
    assert_eq!([&send.node, &store.node, &deliver.node, &ack.node], [&origin, &origin, &other, &other]);
    assert_eq!(
        [&*send.parent, &*store.parent, &*deliver.parent, &*ack.parent],
        [PARENT, &send.id, &send.id, &deliver.id]
    );
    // On one node, in order.
    assert!(send.start_ns <= store.start_ns && store.end_ns <= send.end_ns, "{spans:#?}");
    assert!(deliver.end_ns <= ack.start_ns, "{spans:#?}");
    assert_eq!((&*send.attributes["user.id"], &*send.attributes["messaging.destination.name"]), ("alice", "bob"));
    assert_eq!((&*ack.attributes["user.id"], &*ack.attributes["messaging.client.id"]), ("bob", "laptop"));
    assert_eq!(collector.spans().len(), 4, "nothing of {untraced:?} is traced: {:#?}", collector.spans());

    let record = eventually("a log record of the trace", async || {
        collector.records().into_iter().find(|record| record.trace == TRACE)
    })
    .await;
    assert_eq!((&record.node, &record.span, &*record.severity), (&origin, &send.id, "INFO"));
    assert_eq!(record.attributes["event"], "message_delivered");
    let line = cluster.logged(0, TRACE).await;
    let without_time = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        line["timestamp"].take();
        line
    };
    let line = without_time(&line);
    assert_eq!(without_time(&record.body), line, "one query finds both");
    assert_eq!(line["user_id"], "bob");
    assert!(line["latency_ms"].is_u64(), "{line}");
    assert_eq!((&line["trace_id"], &line["span_id"]), (&TRACE.into(), &send.id.as_str().into()));
    assert_eq!((&line["event"], &line["msg_id"]), (&"message_delivered".into(), &mid.into()));

    eventually("what was exported is counted", async || {
        (cluster.metric(0, "im_gateway_otlp_exported_total", "traces").await? == 2.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_chooses_messages_and_each_device_has_its_steps() {
    let collector = Collector::start().await;
    let cluster = TestCluster::start_with(1, options(&collector.url(), 1)).await;
    let mut phone = Raw::welcome(&cluster.addr(0), "bob", "phone").await;
    let mut laptop = Raw::welcome(&cluster.addr(0), "bob", "laptop").await;
    let tokens = Arc::new(token("alice"));
    let client = Client::builder(Arc::new(Tcp), vec![cluster.url(0)], tokens, "desk").connect().expect("a URL");
    let receipt = client.send("bob", &"Hello").await.expect("it is taken");
    let Fate::Stored(mid) = receipt.await else { panic!("it is stored") };
    let mid = mid.to_string();
    assert_eq!([take(&mut phone).await, take(&mut laptop).await], [mid.clone(), mid.clone()]);
    let spans = spans(&collector, &mid, 6).await;
    let send = one(&spans, "send");
    assert_eq!((&send.trace, &*send.parent), (&mid, ""), "the trace is named by the message");
    for device in ["phone", "laptop"] {
        let of: Vec<_> = spans
            .iter()
            .filter(|span| span.attributes.get("messaging.client.id").is_some_and(|id| id == device))
            .cloned()
            .collect();
        let (deliver, ack) = (one(&of, "deliver"), one(&of, "ack"));
        assert_eq!((&deliver.parent, &ack.parent), (&send.id, &deliver.id));
    }

    let asked = Traceparent::parse(&format!("00-{TRACE}-{PARENT}-01")).expect("well-formed");
    let receipt = client.send_traced("bob", &"Hello again", asked).await.expect("it is taken");
    let Fate::Stored(mid) = receipt.await else { panic!("it is stored") };
    let mid = mid.to_string();
    assert_eq!([take(&mut phone).await, take(&mut laptop).await], [mid.clone(), mid.clone()]);
    let spans = self::spans(&collector, &mid, 6).await;
    assert_eq!((&*one(&spans, "send").trace, &*one(&spans, "send").parent), (TRACE, PARENT));
}

#[tokio::test]
async fn a_refused_message_says_why_in_its_trace_and_its_line() {
    let collector = Collector::start().await;
    let cluster = TestCluster::start_with(1, options(&collector.url(), 0)).await;
    let hook = http::post(&cluster.addr(0), "/test/failure-rate?rate=1").await.expect("an answer");
    assert_eq!(hook.status, 200, "{}", hook.body);
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let trace = format!("00-{TRACE}-{PARENT}-01");
    alice.send(json!({"id": 2, "send": {"to": "bob", "key": "k", "body": 1, "trace": trace}})).await;
    assert_eq!(alice.answer(2).await["error"]["code"], "inbox_full");
    let send = eventually("its span", async || collector.spans().into_iter().find(|span| span.trace == TRACE)).await;
    assert_eq!((&*send.name, &*send.attributes["error.type"]), ("send", "inbox_full"));
    let of = |record: &Record| record.trace == TRACE && record.severity == "ERROR";
    let failed = eventually("its line", async || collector.records().into_iter().find(of)).await;
    assert_eq!((&*failed.attributes["event"], &failed.span), ("message_delivery_failed", &send.id));
}

#[tokio::test]
async fn a_collector_that_takes_nothing_slows_nobody_and_gets_what_comes_later() {
    let collector = Collector::start().await;
    collector.answer(400);
    let mut cluster = TestCluster::start_with(1, options(&collector.url(), 1)).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let mut bob = Raw::welcome(&cluster.addr(0), "bob", "phone").await;
    let lost = send(&mut alice, 2, "bob", None).await;
    assert_eq!(take(&mut bob).await, lost);
    eventually("what is lost is counted", async || {
        let lost = cluster.metric(0, "im_gateway_otlp_dropped_total", "reason=\"export\",signal=\"traces\"").await?;
        (lost >= 4.0).then_some(())
    })
    .await;
    cluster.logged(0, "telemetry is not taken").await;
    let said = || cluster.log(0).lines().filter(|line| line.contains("telemetry is not taken")).count();
    assert_eq!((said(), collector.spans().len()), (1, 0), "said seldom");
    assert!(collector.requests() > 1);

    collector.answer(0);
    let mid = send(&mut alice, 3, "bob", None).await;
    assert_eq!(take(&mut bob).await, mid);
    alice.frame_with("delivered").await;
    // What waits when the node ends still comes.
    cluster.signal(0, libc::SIGTERM);
    assert_eq!(cluster.ended(0).await, Some(0));
    let spans = spans(&collector, &mid, 4).await;
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let said = |words: &str| collector.records().iter().any(|record| record.body.contains(words));
    assert!(said("\"message\":\"stopping\""), "{:#?}", collector.records());
}

#[tokio::test]
async fn what_a_node_says_before_it_runs_and_why_it_cannot_is_exported() {
    let collector = Collector::start().await;
    let mut cluster = TestCluster::start_with(1, options(&collector.url(), 0)).await;
    let first = eventually("its first line", async || collector.records().into_iter().next()).await;
    assert_eq!(first.node, cluster.node_id(0).await);
    cluster.kill(0);
    let nobodys = std::net::TcpListener::bind(cluster.addr(0)).expect("the port is free");
    cluster.restart(0);
    assert_eq!(cluster.ended(0).await, Some(1));
    drop(nobodys);
    let records = collector.records();
    let last = records.iter().find(|record| record.severity == "FATAL").expect("its last word");
    let line: Value = serde_json::from_str(&last.body).expect("JSON");
    let why = line["message"].as_str().expect("words");
    assert!(why.contains("cannot listen for clients"), "{why}");
    let log = cluster.log(0);
    let last: Value = serde_json::from_str(log.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["level"], &last["message"]), (&"FATAL".into(), &line["message"]));
}

#[tokio::test]
async fn without_a_collector_messages_flow_and_the_node_ends_in_time() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let mut cluster = TestCluster::start_with(1, options(&nobody, 1)).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let mut bob = Raw::welcome(&cluster.addr(0), "bob", "phone").await;
    for id in 2..100 {
        let mid = send(&mut alice, id, "bob", None).await;
        assert_eq!(take(&mut bob).await, mid);
    }
    eventually("what is lost is counted", async || {
        let lost = cluster.metric(0, "im_gateway_otlp_dropped_total", "reason=\"export\",signal=\"traces\"").await?;
        (lost > 0.0).then_some(())
    })
    .await;
    cluster.logged(0, "Connection refused").await;
    cluster.signal(0, libc::SIGTERM);
    assert_eq!(cluster.ended(0).await, Some(0));
}
