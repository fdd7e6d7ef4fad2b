//! `trace`: what each node of the cluster remembers of a message.

use cluster::id::MessageId;
use futures_util::future::join_all;
use http::Method;
use im_gateway::client::Address;
use serde_json::{Value, json};

use super::admin::ask;
use super::args::{AdminTarget, TraceArgs};
use super::failure::{Failure, failed};
use super::process::{local_runtime, print};

/// Asks all nodes after a message, and shows its steps in the order of their times.
///
/// # Errors
/// A node that does not answer, or a message that none remembers.
pub fn run(args: &TraceArgs) -> Result<(), Failure> {
    let mid: MessageId = args.mid.parse().map_err(|rule| Failure::Usage(format!("{}: {rule}", args.mid)))?;
    local_runtime()?.block_on(async {
        let status = read(&args.target, "/admin/status").await?;
        let others = status["nodes"].as_array().into_iter().flatten().filter(|node| node["node"] != status["node"]);
        let others = others.filter_map(|node| Some((node["node"].as_str()?, node["client_url"].as_str()?)));
        // The admin token leaves TLS for nobody.
        let tls = |url: &str| Address::parse(url).map(|address| address.tls).ok();
        let (same, unlike): (Vec<_>, Vec<_>) =
            others.filter(|(_, url)| !url.is_empty()).partition(|(_, url)| tls(url) == tls(&args.target.url));
        let targets = same.into_iter().map(|(node, url)| {
            let target = AdminTarget { url: url.to_owned(), ..args.target.clone() };
            (node.to_owned(), target)
        });
        let asked: Vec<_> = std::iter::once((String::new(), args.target.clone())).chain(targets).collect();
        let path = format!("/admin/trace?mid={mid}");
        let mut told = Told::by(&asked, &path).await?;
        if let Some(seq) = told.seq() {
            // Who only told a gap knows now that it may count this one.
            told = Told::by(&asked, &format!("{path}&seq={seq}")).await?;
        }
        let Told { mut steps, waits, mut silent } = told;
        silent.extend(unlike.into_iter().map(|(node, url)| format!("{node} at {url}: ask it by --url")));
        // Nodes' clocks differ: what a node says stays in its own order where times are equal.
        steps.sort_by_key(|step| step["ts_ms"].as_u64());
        if args.json {
            let told = json!({ "mid": mid.to_string(), "steps": steps, "waits": waits, "silent": silent });
            return print(&told.to_string());
        }
        if steps.is_empty() {
            return failed(format!("no node remembers {mid}{}; each keeps the last 65,536 steps", unasked(&silent)));
        }
        let lines: Vec<_> = steps.iter().map(line).chain(waits.as_ref().map(waiting)).collect();
        print(&format!("{}{}", lines.join("\n"), unasked(&silent)))
    })
}

/// What all nodes said.
struct Told {
    steps: Vec<Value>,
    /// Where it waits, if it does.
    waits: Option<Value>,
    /// Nodes that did not answer.
    silent: Vec<String>,
}

impl Told {
    /// Asks each; the first, which has no name, must answer.
    async fn by(asked: &[(String, AdminTarget)], path: &str) -> Result<Self, Failure> {
        let answers = join_all(asked.iter().map(|(_, target)| read(target, path))).await;
        let mut told = Self { steps: Vec::new(), waits: None, silent: Vec::new() };
        for ((node, _), answer) in asked.iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    told.steps.extend(steps_of(&answer));
                    told.waits = told.waits.or_else(|| Some(answer["waits"].clone()).filter(Value::is_object));
                }
                Err(error) if node.is_empty() => return Err(error),
                Err(_) => told.silent.push(node.clone()),
            }
        }
        Ok(told)
    }

    /// The message's place, as far as anybody knows.
    fn seq(&self) -> Option<u64> {
        let sent = self.steps.iter().find(|step| step["step"] == "sent");
        self.waits.as_ref().or(sent).and_then(|told| told["seq"].as_u64())
    }
}

async fn read(target: &AdminTarget, path: &str) -> Result<Value, Failure> {
    let answer = ask(target, Method::GET, path).await?;
    serde_json::from_slice(&answer.body).or_else(|error| failed(format!("{} answered no JSON: {error}", target.url)))
}

fn steps_of(answer: &Value) -> Vec<Value> {
    let steps = answer["steps"].as_array().cloned().unwrap_or_default();
    let named = steps.into_iter().map(|mut step| {
        step["node"] = answer["node"].clone();
        step
    });
    named.collect()
}

fn unasked(silent: &[String]) -> String {
    if silent.is_empty() { String::new() } else { format!("\n(unreachable, or not asked: {})", silent.join(", ")) }
}

/// A step for people.
fn line(step: &Value) -> String {
    let text = |name: &str| step[name].as_str().unwrap_or("?").to_owned();
    let device = format!("{}/{}", text("user"), text("device"));
    let what = match step["step"].as_str() {
        Some("received") => {
            let to = step["group"].as_str().map_or_else(|| text("to"), |group| format!("group {group}"));
            format!("received from {device} to {to}, {} bytes", step["bytes"])
        }
        Some("stored") => format!("stored on a quorum; {device} was told ok"),
        Some("refused") => format!("refused: {device} was told {}", text("code")),
        Some("sent") => format!("sent to {device} at {}", step["seq"]),
        Some("acked") => format!("acked by {device} up to {}", step["seq"]),
        Some("gap") => {
            format!("may be one of {} that {device} missed ({}) up to {}", step["lost"], text("reason"), step["seq"])
        }
        _ => step.to_string(),
    };
    format!("{}  {}  {what}", time(step["ts_ms"].as_u64().unwrap_or(0)), text("node"))
}

/// Where a message waits, for people.
fn waiting(waits: &Value) -> String {
    let devices: Vec<_> = waits["devices"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let by = if devices.is_empty() { String::new() } else { format!(", not acked by {}", devices.join(", ")) };
    format!("waits at {} for whoever has not acked it yet{by}", waits["seq"])
}

/// The time of day, UTC.
fn time(ts_ms: u64) -> String {
    let (seconds, ms) = (ts_ms / 1_000, ts_ms % 1_000);
    format!("{:02}:{:02}:{:02}.{ms:03}Z", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_in_words() {
        let step = json!({"ts_ms": 43_201_005, "node": "n", "user": "alice", "device": "d", "step": "received",
                          "to": "bob", "bytes": 7});
        assert_eq!(line(&step), "12:00:01.005Z  n  received from alice/d to bob, 7 bytes");
        let step = json!({"ts_ms": 0, "node": "n", "user": "bob", "device": "d", "step": "sent", "seq": 4096});
        assert_eq!(line(&step), "00:00:00.000Z  n  sent to bob/d at 4096");
        let waits = json!({"seq": 4096, "devices": ["phone", "tab"]});
        assert_eq!(waiting(&waits), "waits at 4096 for whoever has not acked it yet, not acked by phone, tab");
        let newer = json!({"step": "folded"});
        assert!(line(&newer).contains("folded"), "what only newer nodes know is shown as it is");
    }
}
