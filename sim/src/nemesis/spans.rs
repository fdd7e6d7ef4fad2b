//! Faults as the trace tells them: from when until when each happened.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::trace::Recorded;

/// A fault, from its beginning to its end, in ns.
#[derive(Debug, Clone)]
pub struct FaultSpan {
    /// Which kind.
    pub kind: String,
    /// Of which machines.
    pub nodes: Vec<String>,
    /// From when.
    pub from: u64,
    /// Until when; the run's end, if it never ended.
    pub until: u64,
}

/// The faults among these events of a run that took so long, in ns.
pub fn fault_spans(events: &[Recorded], took: u64) -> Vec<FaultSpan> {
    let mut spans: Vec<FaultSpan> = Vec::new();
    let mut open: BTreeMap<String, usize> = BTreeMap::new();
    for event in events.iter().filter(|event| event.event == "fault") {
        let id = event.of["id"].to_string();
        match event.of["phase"].as_str() {
            Some("begin") => {
                let nodes = event.of["nodes"].as_array().into_iter().flatten();
                let nodes = nodes.filter_map(Value::as_str).map(str::to_owned).collect();
                let kind = event.of["kind"].as_str().unwrap_or("?").to_owned();
                open.insert(id, spans.len());
                spans.push(FaultSpan { kind, nodes, from: event.at, until: took });
            }
            Some("end") => {
                if let Some(at) = open.remove(&id) {
                    spans[at].until = event.at;
                }
            }
            _ => {}
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn from_beginning_to_end() {
        let told = |at: u64, id: u64, kind: &str, phase: &str| {
            let of = json!({ "id": id, "kind": kind, "nodes": ["n1"], "phase": phase });
            Recorded { at, event: "fault".to_owned(), of }
        };
        let events = [
            told(10, 0, "kill", "begin"),
            told(20, 2, "wipe", "skipped"),
            told(30, 1, "loss", "begin"),
            told(40, 0, "kill", "end"),
        ];
        let spans = fault_spans(&events, 100);
        let of: Vec<_> = spans.iter().map(|span| (span.kind.as_str(), span.from, span.until)).collect();
        assert_eq!(of, [("kill", 10, 40), ("loss", 30, 100)]);
        assert_eq!(spans[0].nodes, ["n1"]);
    }
}
