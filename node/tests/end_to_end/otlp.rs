//! Traces and logs at a real OTLP receiver.

use serde_json::{Value, json};

use crate::common::collector::{Collector, Span};
use crate::common::raw::Raw;
use crate::common::{Options, TestCluster, eventually};

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
    assert_eq!((&record.attributes["event"], &record.attributes["msg_id"]), (&"message_delivered".into(), &mid));
    assert!(!record.attributes.contains_key("trace_id"), "{record:?}");
    let line = cluster.log(0).lines().find(|line| line.contains(TRACE)).map(str::to_owned).expect("a line");
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&line["trace_id"], &line["span_id"]), (&TRACE.into(), &send.id.as_str().into()));
    assert_eq!((&line["event"], &line["msg_id"]), (&"message_delivered".into(), &mid.into()));

    // What was exported is counted; nothing that an export causes is exported.
    assert_eq!(cluster.metric(0, "im_gateway_otlp_exported_total", "traces").await, Some(2.0));
    assert!(collector.records().iter().all(|record| !record.target.contains("otlp")));
}
