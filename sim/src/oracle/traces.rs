//! Traces: what nodes tell of a traced message is one well-formed trace.
//!
//! Each step stands in its message's trace, once, and behind the step that it follows, if that was told: a node
//! that dies tells nothing of what it had begun. Times are compared on one node only.

use std::collections::{BTreeMap, BTreeSet};

use cluster::trace::SpanId;
use im_gateway::telemetry::{Span, Step};

use super::{Violation, safety};
use crate::coverage;

/// What is wrong with these spans, each with the process that told it.
pub fn check(spans: &[(String, Span)]) -> Vec<Violation> {
    let mut told: BTreeMap<SpanId, &(String, Span)> = BTreeMap::new();
    let mut broken = Vec::new();
    for one in spans {
        if told.insert(one.1.context.span, one).is_some() {
            broken.push(wrong(one, "has the id of another step"));
        }
    }
    let mut acked = BTreeSet::new();
    for one in spans {
        let parent = one.1.parent.and_then(|parent| told.get(&parent).copied());
        broken.extend(fault(&one.1, parent, &one.0).map(|fault| wrong(one, fault)));
        if let Step::Ack { seq } = one.1.step {
            // One process writes a message to a device once, unless it comes back.
            if !acked.insert(one.1.parent) {
                broken.push(wrong(one, &format!("acknowledges {seq} a second time")));
            }
            let deliver = parent.and_then(|(_, deliver)| deliver.parent).and_then(|send| told.get(&send));
            if deliver.is_some_and(|(process, _)| *process != one.0) {
                coverage::reached("a trace went from one node's send to another's ack");
            }
        }
    }
    broken
}

fn wrong((process, span): &(String, Span), what: &str) -> Violation {
    let (name, mid) = (span.step.name(), span.mid);
    safety(format!("traces: the step {name} of {mid} on {process} {what}"))
}

/// What is wrong with one span, whose parent may not have been told.
fn fault(span: &Span, parent: Option<&(String, Span)>, process: &str) -> Option<&'static str> {
    if span.start_ns == 0 || span.start_ns > span.end_ns {
        return Some("ends before it begins");
    }
    // Nobody here asks for traces: nodes name them by the message.
    if span.context.trace.0 != span.mid.0 {
        return Some("is in another message's trace");
    }
    let (their_process, parent) = match (&span.step, span.parent, parent) {
        (Step::Send { .. }, parent, _) => return parent.is_some().then_some("follows something"),
        (_, None, _) => return Some("follows nothing"),
        // The process that was asked to send died before it answered, or the client had gone.
        (Step::Store | Step::Deliver { .. }, Some(_), None) => return None,
        (Step::Ack { .. }, Some(_), None) => return Some("follows a delivery that nobody made"),
        (_, Some(_), Some((process, parent))) => (process, parent),
    };
    if (parent.mid, parent.context.trace) != (span.mid, span.context.trace) {
        return Some("follows a step of another trace");
    }
    match (&span.step, &parent.step) {
        (Step::Store, Step::Send { .. }) if their_process != process => Some("is not where it was sent"),
        (Step::Store, Step::Send { .. }) => {
            let within = parent.start_ns <= span.start_ns && span.end_ns <= parent.end_ns;
            (!within).then_some("is not within its send")
        }
        (Step::Deliver { .. }, Step::Send { refused, .. }) => refused.is_some().then_some("delivers what was refused"),
        (Step::Ack { seq }, Step::Deliver { seq: delivered, .. }) => {
            let same = (seq, &span.device) == (delivered, &parent.device) && their_process == process;
            let wrong = if same { "comes before its delivery" } else { "is of another delivery" };
            (!same || span.start_ns < parent.end_ns).then_some(wrong)
        }
        _ => Some("follows a step that it cannot follow"),
    }
}

#[cfg(test)]
mod tests {
    use cluster::id::{DeviceId, MessageId, Pos, UserId};
    use cluster::state::Destination;
    use cluster::trace::{TraceContext, TraceId};

    use super::*;

    fn id(n: u64) -> SpanId {
        SpanId(n.try_into().expect("not 0"))
    }

    fn span(n: u64, parent: Option<u64>, (start_ns, end_ns): (u64, u64), step: Step) -> Span {
        let context = TraceContext { trace: TraceId([7; 16]), span: id(n) };
        let user = UserId::new("bob").expect("a name");
        let device = Some((user, DeviceId::new("d").expect("a name")));
        Span { context, parent: parent.map(id), start_ns, end_ns, mid: MessageId([7; 16]), device, step }
    }

    /// Sent and stored on one node, delivered and acknowledged on another, whose clock is behind.
    fn good() -> Vec<(String, Span)> {
        let to = Destination::User(UserId::new("bob").expect("a name"));
        let seq = Pos(9);
        vec![
            ("a".into(), span(2, Some(1), (110, 120), Step::Store)),
            ("a".into(), span(1, None, (100, 130), Step::Send { to, bytes: 1, refused: None })),
            ("b".into(), span(3, Some(1), (20, 30), Step::Deliver { seq, waited: false })),
            ("b".into(), span(4, Some(3), (30, 40), Step::Ack { seq })),
        ]
    }

    fn broken(change: impl FnOnce(&mut Vec<(String, Span)>)) -> String {
        let mut spans = good();
        change(&mut spans);
        let broken: Vec<_> = check(&spans).iter().map(|broken| broken.text.clone()).collect();
        broken.join("; ")
    }

    #[test]
    fn a_whole_trace_and_one_without_its_beginning_are_good() {
        assert_eq!(broken(|_| {}), "");
        assert_eq!(broken(|spans| drop(spans.remove(1))), "");
        assert_eq!(broken(|spans| spans.truncate(2)), "");
    }

    #[test]
    fn whatever_is_out_of_place_shows() {
        let shows = |text: String, words: &str| assert!(text.contains(words), "no \"{words}\" in {text:?}");
        shows(broken(|spans| spans[0].1.end_ns = 109), "ends before it begins");
        shows(broken(|spans| spans[0].1.end_ns = 131), "is not within its send");
        shows(broken(|spans| spans[0].0 = "b".into()), "is not where it was sent");
        shows(broken(|spans| spans[0].1.parent = None), "follows nothing");
        shows(broken(|spans| spans[1].1.parent = Some(id(9))), "follows something");
        shows(broken(|spans| spans[2].1.context.trace = TraceId([8; 16])), "another message's trace");
        shows(broken(|spans| spans[2].1.parent = Some(id(2))), "cannot follow");
        shows(broken(|spans| spans[3].1.start_ns = 29), "comes before its delivery");
        shows(broken(|spans| spans[3].1.step = Step::Ack { seq: Pos(8) }), "another delivery");
        shows(broken(|spans| drop(spans.remove(2))), "a delivery that nobody made");
        shows(broken(|spans| spans[3].1.context.span = id(3)), "the id of another step");
        shows(
            broken(|spans| {
                let mut again = spans[3].clone();
                again.1.context.span = id(5);
                spans.push(again);
            }),
            "a second time",
        );
    }
}
