//! A real OTLP receiver: what nodes export, decoded by the published types.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A span that was received.
#[derive(Debug, Clone)]
pub struct Span {
    /// The node that made it.
    pub node: String,
    pub trace: String,
    pub id: String,
    /// Empty at the root of a trace.
    pub parent: String,
    pub name: String,
    pub kind: i32,
    pub start_ns: u64,
    pub end_ns: u64,
    pub attributes: BTreeMap<String, String>,
}

/// A log record that was received.
#[derive(Debug, Clone)]
pub struct Record {
    pub node: String,
    pub trace: String,
    pub span: String,
    pub severity: String,
    pub body: String,
    pub target: String,
    pub attributes: BTreeMap<String, String>,
}

#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    records: Vec<Record>,
    /// What requests are answered with; 0: 200.
    status: u16,
    requests: usize,
}

/// The receiver, for as long as its runtime lives.
#[derive(Clone)]
pub struct Collector {
    pub addr: String,
    received: Arc<Mutex<Received>>,
}

impl Collector {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("it is bound").to_string();
        let received = Arc::new(Mutex::new(Received::default()));
        let ours = received.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, ours.clone()));
            }
        });
        Self { addr, received }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Answers with this status from now on.
    pub fn answer(&self, status: u16) {
        self.received.lock().unwrap().status = status;
    }

    pub fn requests(&self) -> usize {
        self.received.lock().unwrap().requests
    }

    pub fn spans(&self) -> Vec<Span> {
        self.received.lock().unwrap().spans.clone()
    }

    pub fn records(&self) -> Vec<Record> {
        self.received.lock().unwrap().records.clone()
    }
}

async fn serve(mut stream: TcpStream, received: Arc<Mutex<Received>>) -> io::Result<()> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).expect("a length");
            break (head.clone(), end + 4 + length.trim().parse::<usize>().expect("a number"));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    while bytes.len() < length {
        stream.read_buf(&mut bytes).await?;
    }
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    let status = take(&head, &bytes[length - body_length(&head)..length], &mut received.lock().unwrap());
    let answer = format!("HTTP/1.1 {status} \r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(answer.as_bytes()).await
}

fn body_length(head: &str) -> usize {
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).expect("a length");
    length.trim().parse().expect("a number")
}

fn take(head: &str, body: &[u8], received: &mut Received) -> u16 {
    received.requests += 1;
    if received.status != 0 {
        return received.status;
    }
    if head.starts_with("post /v1/traces ") {
        let request = ExportTraceServiceRequest::decode(body).expect("spans");
        for of_node in request.resource_spans {
            let node = node(of_node.resource.as_ref());
            for span in of_node.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                received.spans.push(Span {
                    node: node.clone(),
                    trace: hex::encode(span.trace_id),
                    id: hex::encode(span.span_id),
                    parent: hex::encode(span.parent_span_id),
                    name: span.name,
                    kind: span.kind,
                    start_ns: span.start_time_unix_nano,
                    end_ns: span.end_time_unix_nano,
                    attributes: attributes(&span.attributes),
                });
            }
        }
    } else if head.starts_with("post /v1/logs ") {
        let request = ExportLogsServiceRequest::decode(body).expect("log records");
        for of_node in request.resource_logs {
            let node = node(of_node.resource.as_ref());
            for scope in of_node.scope_logs {
                let target = scope.scope.map(|scope| scope.name).unwrap_or_default();
                for record in scope.log_records {
                    received.records.push(Record {
                        node: node.clone(),
                        trace: hex::encode(record.trace_id),
                        span: hex::encode(record.span_id),
                        severity: record.severity_text,
                        body: record.body.map(|body| text(body.value)).unwrap_or_default(),
                        target: target.clone(),
                        attributes: attributes(&record.attributes),
                    });
                }
            }
        }
    } else {
        return 404;
    }
    200
}

fn node(resource: Option<&Resource>) -> String {
    let attributes = attributes(&resource.expect("a resource").attributes);
    assert_eq!(attributes["service.name"], "im-gateway-service");
    attributes["service.instance.id"].clone()
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let pairs = pairs.iter().map(|pair| (pair.key.clone(), text(pair.value.clone().and_then(|value| value.value))));
    pairs.collect()
}

fn text(value: Option<any_value::Value>) -> String {
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::BoolValue(value)) => value.to_string(),
        Some(any_value::Value::IntValue(value)) => value.to_string(),
        Some(any_value::Value::DoubleValue(value)) => value.to_string(),
        other => format!("{other:?}"),
    }
}
