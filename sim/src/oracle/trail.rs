//! Trails: what nodes say of a message, for whoever looks for it (`im-gateway trace`), is what happened.
//!
//! What is said must be so by the log: who sent it and to whom, where it stands, and for whom that is. And what clients
//! took and sent must be said by the node of their session, if its process has been the same since. A message that
//! stands behind a client's latest registration it can have had by no earlier session, however late it learned of that
//! one. A node remembers so much and no more: where there was more, nothing is missed.

use std::collections::{BTreeMap, BTreeSet};

use cluster::id::{MessageId, NodeId};
use im_gateway::client::Fate;
use serde_json::Value;

use super::facts::{self, Facts, Stored};
use super::members::Members;
use super::{Violation, liveness, safety};
use crate::coverage;
use crate::ledger::{Book, Client, Device, Name, Received, Session, Surfaced};

/// Messages that came to a node and went from it, beyond which it may have forgotten some: each makes two steps,
/// 65,536 are kept, and strangers to whom the same is sent again and again have their part in them.
const MANY: usize = 10_000;

/// A message that is asked after.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Its name.
    pub name: Name,
    /// Its id.
    pub mid: MessageId,
    /// Its place, if that is told.
    pub seq: Option<u64>,
}

/// What a process said of it.
#[derive(Debug)]
pub struct Trail {
    /// On which machine.
    pub machine: usize,
    /// As which node.
    pub node: NodeId,
    /// Index up to which the log was committed when the process was started.
    pub committed: u64,
    /// When it was asked, in ns.
    pub asked_at: u64,
    /// After which message.
    pub asked: Asked,
    /// Its answer, if there was one.
    pub told: Option<Value>,
}

/// Something that is said to have happened to the message.
struct Step<'a> {
    kind: &'a str,
    device: Device,
    told: &'a Value,
}

impl<'a> Step<'a> {
    fn read(told: &'a Value) -> Self {
        let text = |field: &'static str| told[field].as_str().unwrap_or("?");
        Self { kind: text("step"), device: Device::new(text("user"), text("device")), told }
    }

    /// To whom it was sent, as in the book.
    fn to(&self) -> Option<String> {
        let group = self.told["group"].as_str().map(|group| format!("#{group}"));
        group.or_else(|| self.told["to"].as_str().map(str::to_owned))
    }
}

/// What the log says of the messages that are asked after, and of those who had to do with them.
struct Log<'a> {
    facts: &'a Facts,
    /// Where each message stands.
    places: BTreeMap<MessageId, Vec<&'a Stored>>,
    /// Which devices had sessions with each node.
    devices: BTreeMap<NodeId, BTreeSet<&'a Device>>,
    members: Members<'a>,
}

/// What nodes say that is not so, and do not say that is.
pub fn check(facts: &Facts, book: &Book, trails: &[Trail]) -> Vec<Violation> {
    if trails.is_empty() {
        return Vec::new();
    }
    let log = Log::of(facts, trails);
    let mut forgetful = BTreeMap::new();
    let mut broken = Vec::new();
    for trail in trails {
        let (n, at, message) = (trail.machine, trail.asked_at, book.message(trail.asked.name));
        let Some(told) = &trail.told else {
            broken.push(liveness(format!("trail: n{n} does not answer what it knows of {message}")).at(at));
            continue;
        };
        let steps: Vec<_> = told["steps"].as_array().into_iter().flatten().map(Step::read).collect();
        let lies = steps.iter().enumerate().filter_map(|(k, step)| log.lie(book, trail, step, &steps[..k]));
        let lies = lies.chain(log.misplaced(book, trail, &told["waits"]));
        broken.extend(lies.map(|lie| safety(format!("trail: n{n} says of {message}: {lie}")).at(at)));
        if !*forgetful.entry((n, trail.node)).or_insert_with(|| may_forget(facts, book, trail)) {
            let missing = log.missing(book, trail, &steps).into_iter();
            broken.extend(missing.map(|of| safety(format!("trail: n{n} does not say of {message}: {of}")).at(at)));
        }
    }
    broken
}

impl<'a> Log<'a> {
    fn of(facts: &'a Facts, trails: &[Trail]) -> Self {
        let mut places: BTreeMap<MessageId, Vec<&'a Stored>> =
            trails.iter().map(|trail| (trail.asked.mid, Vec::new())).collect();
        for stored in &facts.stored {
            if let Some(places) = places.get_mut(&stored.mid) {
                places.push(stored);
            }
        }
        let mut devices: BTreeMap<NodeId, BTreeSet<&'a Device>> = BTreeMap::new();
        for registered in &facts.registered {
            devices.entry(registered.node).or_default().insert(&registered.device);
        }
        Self { facts, places, devices, members: Members::of(facts) }
    }

    /// Where a message stands: once, but for devices that two clients shared.
    fn places(&self, mid: MessageId) -> &[&'a Stored] {
        self.places.get(&mid).map_or(&[][..], Vec::as_slice)
    }

    fn is_for(&self, stored: &Stored, device: &Device) -> bool {
        let copy = stored.copied_from.as_ref().is_some_and(|from| from.user == device.user && from != device);
        let member = || self.members.at(&stored.to, stored.pos).into_iter().any(|member| member == device.user);
        copy || stored.to == device.user || member()
    }

    /// What is not so of a step; `before`: those said before it.
    fn lie(&self, book: &Book, trail: &Trail, step: &Step, before: &[Step]) -> Option<String> {
        let Asked { name, mid, .. } = trail.asked;
        let (places, seq) = (self.places(mid), step.told["seq"].as_u64().unwrap_or(0));
        let Step { kind, device, .. } = step;
        let sender = book.clients.get(name.client).map(|client| &client.device);
        let sent_to = || before.iter().any(|sent| sent.kind == "sent" && sent.device == *device);
        let why = match *kind {
            _ if !self.devices.get(&trail.node).is_some_and(|devices| devices.contains(device)) => {
                "which had no session with it"
            }
            "received" | "stored" | "refused" if sender != Some(device) => "which did not send it",
            "received" if step.to().as_deref() != book.sent(name).map(|sent| sent.to.as_str()) => "to somebody else",
            "stored" if places.is_empty() => "which the log has not",
            "sent" => match places.iter().find(|stored| stored.pos == seq) {
                None => "from another place than the log's",
                Some(stored) if !self.is_for(stored, device) => "which it is not for",
                Some(_) => return None,
            },
            "acked" if !sent_to() => "which it was not sent to",
            "acked" | "gap" if places.iter().all(|stored| stored.pos > seq) => "up to a place before it",
            "received" | "stored" | "refused" | "acked" | "gap" => return None,
            _ => "which is nothing that happens to messages",
        };
        Some(format!("`{kind}` of {device}, {why}"))
    }

    /// What is not so of where it is said to wait.
    fn misplaced(&self, book: &Book, trail: &Trail, waits: &Value) -> Option<String> {
        if waits.is_null() {
            return None;
        }
        let seq = waits["seq"].as_u64();
        if !self.places(trail.asked.mid).iter().any(|stored| Some(stored.pos) == seq) {
            return Some("it waits at another place than the log's".to_owned());
        }
        let to = &book.sent(trail.asked.name)?.to;
        let devices = waits["devices"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut devices = devices.map(|device| Device::new(to, device));
        let unknown = devices.find(|device| !self.facts.known.contains_key(device))?;
        Some(format!("it waits for {unknown}, which never was known"))
    }

    /// What is so and was not said.
    fn missing(&self, book: &Book, trail: &Trail, steps: &[Step]) -> Vec<String> {
        let Asked { name, mid, .. } = trail.asked;
        let up = self.facts.up(trail.node, trail.committed);
        let said = |kind: &str, device: &Device| steps.iter().any(|step| step.kind == kind && step.device == *device);
        let mut missing = Vec::new();
        // A slow application learns of its sessions late.
        for client in book.clients.iter().filter(|client| !client.slow) {
            let Some(session) = latest(client, trail, up) else { continue };
            let time = session.at..trail.asked_at;
            let had_it = self.places(mid).iter().any(|stored| {
                let got = surfaced(client, stored).filter(|_| stored.pos > session.epoch);
                got.is_some_and(|got| time.contains(&got.at))
            });
            if had_it {
                coverage::reached("a message was traced to who has it");
                if !said("sent", &client.device) {
                    missing.push(format!("`sent` of {}, which has it from there", client.device));
                }
            }
        }
        if let Some(sender) = book.clients.get(name.client).filter(|sender| !sender.slow)
            && let Some(sent) = book.sent(name)
            && let Some(session) = latest(sender, trail, up)
            && sent.fate == Some(Fate::Stored(mid))
            && session.at <= sent.at
            && sent.answered_at < session.ended_at.unwrap_or(u64::MAX).min(trail.asked_at)
        {
            let unsaid = ["received", "stored"].into_iter().filter(|&kind| !said(kind, &sender.device));
            missing.extend(unsaid.map(|kind| format!("`{kind}` of {}, which sent it there", sender.device)));
        }
        missing
    }
}

/// A client's latest session, if it was with this process, which came up by the entry `up`.
fn latest<'a>(client: &'a Client, trail: &Trail, up: u64) -> Option<&'a Session> {
    // By its place in the log: the news of an earlier process's session may come late.
    let ours = |session: &&Session| session.node == trail.machine && facts::index(session.epoch) > up;
    client.sessions.last().filter(ours)
}

/// What a client surfaced of a place, if that was the message there.
fn surfaced<'a>(client: &'a Client, stored: &Stored) -> Option<&'a Received> {
    let at = client.received.binary_search_by_key(&stored.pos, |got| got.seq).ok()?;
    let got = &client.received[at];
    matches!(&got.what, Surfaced::Message { mid, .. } if *mid == stored.mid).then_some(got)
}

/// Whether the process may have had more to remember than it can.
fn may_forget(facts: &Facts, book: &Book, trail: &Trail) -> bool {
    let here = |client: &Client, at: u64| {
        let session = client.sessions.iter().rfind(|session| session.at <= at);
        session.is_some_and(|session| session.node == trail.machine)
    };
    let by_client = book.clients.iter().map(|client| client.received.iter().filter(|got| here(client, got.at)).count());
    let stored = facts.stored.iter().filter(|stored| stored.node == trail.node).count();
    let repeated = facts.duplicates.iter().filter(|counted| counted.node == trail.node).map(|counted| counted.count);
    by_client.sum::<usize>() + stored + repeated.sum::<u64>() as usize > MANY
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::facts::Counted;
    use super::super::testing::{NODE, Scene, found, pos};
    use super::*;

    /// The node came up at entry 1, before both had their sessions; it is asked after the first message.
    fn scene() -> Scene {
        let mut scene = Scene::good();
        scene.facts.ups.push(Counted { index: 1, node: NODE, count: 1 });
        scene.book.clients[0].sessions[0].epoch = pos(2);
        scene
    }

    fn good() -> Value {
        json!({
            "node": NODE.to_string(),
            "steps": [
                { "ts_ms": 1, "user": "u", "device": "a", "step": "received", "to": "w", "bytes": 5 },
                { "ts_ms": 2, "user": "u", "device": "a", "step": "stored" },
                { "ts_ms": 3, "user": "w", "device": "a", "step": "sent", "seq": pos(3) },
                { "ts_ms": 4, "user": "w", "device": "a", "step": "acked", "seq": pos(4) }
            ],
            "waits": null
        })
    }

    fn said_of(scene: &Scene, told: Option<Value>) -> Vec<String> {
        let asked = Asked { name: Name { client: 0, number: 0 }, mid: MessageId([1; 16]), seq: None };
        let trail = Trail { machine: 0, node: NODE, committed: 0, asked_at: 90, asked, told };
        check(&scene.facts, &scene.book, &[trail]).into_iter().map(|violation| violation.text).collect()
    }

    /// What is said of an answer that was changed.
    fn changed(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut told = good();
        change(&mut told);
        said_of(&scene(), Some(told))
    }

    fn without(step: usize) -> Vec<String> {
        changed(|told| drop(told["steps"].as_array_mut().expect("steps").remove(step)))
    }

    #[test]
    fn what_happened() {
        let none = Vec::<String>::new();
        assert_eq!(changed(|_| {}), none);
        assert_eq!(without(3), none, "its acknowledgement may be another node's");
        assert_eq!(changed(|told| told["waits"] = json!({ "seq": pos(3), "devices": ["a"] })), none);
        let gap = json!({ "ts_ms": 5, "user": "u", "device": "a", "step": "gap", "seq": pos(3), "lost": 1 });
        assert_eq!(changed(|told| told["steps"].as_array_mut().expect("steps").push(gap)), none);
        assert!(check(&scene().facts, &scene().book, &[]).is_empty());
    }

    #[test]
    fn what_did_not_happen() {
        let wrong = |step: usize, field: &str, value: Value| changed(|told| told["steps"][step][field] = value);
        found(&wrong(0, "user", json!("w")), "`received` of w/a, which did not send it");
        found(&wrong(0, "to", json!("v")), "`received` of u/a, to somebody else");
        found(&wrong(1, "user", json!("w")), "`stored` of w/a, which did not send it");
        found(&wrong(2, "user", json!("u")), "`sent` of u/a, which it is not for");
        found(&wrong(2, "seq", json!(pos(4))), "`sent` of w/a, from another place than the log's");
        found(&wrong(2, "device", json!("b")), "`sent` of w/b, which had no session with it");
        found(&wrong(3, "user", json!("u")), "`acked` of u/a, which it was not sent to");
        found(&wrong(3, "seq", json!(pos(2))), "`acked` of w/a, up to a place before it");
        found(&wrong(3, "step", json!("seen")), "`seen` of w/a, which is nothing that happens");
        found(&changed(|told| told["waits"] = json!({ "seq": pos(4), "devices": [] })), "it waits at another place");
        let waits = json!({ "seq": pos(3), "devices": ["a", "z"] });
        found(&changed(|told| told["waits"] = waits), "it waits for w/z, which never was known");
        let mut lost = scene();
        lost.facts.stored.remove(0);
        found(&said_of(&lost, Some(good())), "`stored` of u/a, which the log has not");
        found(&said_of(&scene(), None), "does not answer");
    }

    #[test]
    fn copies_and_messages_of_groups() {
        let mut scene = scene();
        let told = json!({ "steps": [{ "user": "v", "device": "a", "step": "sent", "seq": pos(3) }] });
        scene.client("v", 2);
        found(&said_of(&scene, Some(told.clone())), "`sent` of v/a, which it is not for");
        let not_for = |scene: &Scene| said_of(scene, Some(told.clone())).iter().any(|text| text.contains("not for"));
        scene.facts.stored[0].copied_from = Some(Device::new("v", "b"));
        assert!(!not_for(&scene));
        scene.facts.stored[0].copied_from = Some(Device::new("v", "a"));
        assert!(not_for(&scene), "not for the sending device");
        scene.facts.stored[0].to = "#g".into();
        assert!(not_for(&scene));
        let joined = super::super::facts::Grouped { pos: pos(2), group: "#g".into(), user: "v".into(), left: false };
        scene.facts.grouped.push(joined);
        assert!(!not_for(&scene));
    }

    #[test]
    fn what_is_not_said() {
        found(&without(0), "does not say of u/a@0#0: `received` of u/a");
        found(&without(1), "does not say of u/a@0#0: `stored` of u/a");
        found(&without(2), "does not say of u/a@0#0: `sent` of w/a");
    }

    #[test]
    fn what_need_not_be_said() {
        let excused = |excuse: fn(&mut Scene)| {
            let mut scene = scene();
            excuse(&mut scene);
            said_of(&scene, Some(json!({ "node": NODE.to_string(), "steps": [], "waits": null })))
        };
        assert_eq!(excused(|_| {}).len(), 3);
        let excuses: [fn(&mut Scene); 6] = [
            |scene| scene.facts.ups[0].index = 2,
            |scene| scene.facts.duplicates.push(Counted { index: 5, node: NODE, count: 10_000 }),
            |scene| scene.book.clients.iter_mut().for_each(|client| client.slow = true),
            |scene| scene.book.clients.iter_mut().for_each(|client| client.sessions[0].node = 1),
            // They came back, after all that.
            |scene| {
                for client in &mut scene.book.clients {
                    let again = Session { at: 60, epoch: pos(6), ..client.sessions[0] };
                    client.sessions.push(again);
                }
            },
            // It was asked too early.
            |scene| {
                scene.book.clients[0].sent[0].answered_at = 95;
                scene.book.clients[1].received[0].at = 95;
            },
        ];
        for (k, excuse) in excuses.into_iter().enumerate() {
            assert_eq!(excused(excuse), Vec::<String>::new(), "excuse {k}");
        }
    }
}
