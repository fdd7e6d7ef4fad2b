//! An operator who looks for messages: asks all nodes what they know of some, as `im-gateway trace` does.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::env::clock;
use im_gateway::client::Fate;
use serde_json::{Value, json};

use super::http;
use crate::ledger::{Book, Ledger, Name, Surfaced};
use crate::net::SimNet;
use crate::oracle::{Asked, Trail};
use crate::process::ADMIN_TOKEN;
use crate::time;
use crate::world::World;

/// How many messages are looked for: of all, and once more of the latest.
const MESSAGES: usize = 20;
/// The latest are one in so many.
const LATEST: usize = 10;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What each node that runs says of some messages.
pub async fn trace_some(world: &World, ledger: &Ledger) -> Vec<Trail> {
    let some = choose(&ledger.book());
    let net = world.client_net();
    let mut trails = Vec::new();
    for asked in some {
        for n in 0..world.len() {
            trails.extend(ask(world, &net, n, asked).await);
        }
    }
    trails
}

/// What the node on machine `n` says, if one runs there.
async fn ask(world: &World, net: &SimNet, n: usize, asked: Asked) -> Option<Trail> {
    let (node, since, committed) = world.process(n)?;
    let asked_at = time::now();
    let addr = &world.client_addrs()[n];
    let place = asked.seq.map_or_else(String::new, |seq| format!("&seq={seq}"));
    let path = format!("/admin/trace?mid={}{place}", asked.mid);
    let answer = clock::timeout(PATIENCE, http::get(net, addr, &path, Some(ADMIN_TOKEN))).await.ok().flatten();
    // It may have been another process that answered.
    if world.process(n).is_none_or(|(_, now_since, _)| now_since != since) {
        return None;
    }
    let told: Option<Value> = answer.and_then(|text| serde_json::from_str(&text).ok());
    let (name, mid) = (&world.machine(n).name, asked.mid);
    world.trace().lazy("trail", || json!({ "node": name, "mid": mid.to_string(), "told": told }));
    Some(Trail { machine: n, node, committed, asked_at, asked, told })
}

/// Messages whose ids clients know: some of all, and as many of those that they know last, of which sessions and
/// processes are left.
fn choose(book: &Book) -> Vec<Asked> {
    let mut known: Vec<(u64, Asked)> = Vec::new();
    for (name, sent) in book.all_sent() {
        if let Some(Fate::Stored(mid)) = &sent.fate {
            known.push((sent.answered_at, Asked { name, mid: *mid, seq: None }));
        }
    }
    for got in book.clients.iter().flat_map(|client| &client.received) {
        if let Surfaced::Message { name: Some(name), mid, .. } = &got.what
            && book.sent(*name).is_some()
        {
            known.push((got.at, Asked { name: *name, mid: *mid, seq: Some(got.seq) }));
        }
    }
    known.sort_by_key(|(at, _)| *at);
    let latest = known.len() - known.len() / LATEST;
    let mut some: BTreeMap<Name, Asked> = BTreeMap::new();
    for asked in spread(&known).chain(spread(&known[latest..])) {
        some.entry(asked.name).or_insert(asked);
    }
    some.into_values().collect()
}

/// Some, at even distances.
fn spread(known: &[(u64, Asked)]) -> impl Iterator<Item = Asked> {
    let step = known.len().div_ceil(MESSAGES).max(1);
    known.iter().rev().step_by(step).map(|(_, asked)| *asked)
}

#[cfg(test)]
mod tests {
    use cluster::id::MessageId;

    use super::*;
    use crate::ledger::{Client, Device, Received, Sent};

    fn mid(number: usize) -> MessageId {
        MessageId((number as u128).to_be_bytes())
    }

    #[test]
    fn some_of_all_and_of_the_latest() {
        let mut sender = Client::new(Device::new("u", "a"), false, 0);
        let mut taker = Client::new(Device::new("w", "a"), false, 0);
        for number in 0..1_000 {
            let at = number as u64;
            let fate = Some(Fate::Stored(mid(number)));
            sender.sent.push(Sent { to: "w".into(), at, fate, answered_at: at, durable: 0 });
            let name = Some(Name { client: 0, number });
            let what = Surfaced::Message { name, mid: mid(number), from: Device::new("u", "a"), to: Some("w".into()) };
            taker.received.push(Received { at, durable: 0, seq: at, what });
        }
        // Of a stranger, and one whose fate is open and that nobody has.
        sender.sent.push(Sent { to: "w".into(), at: 1_000, fate: None, answered_at: 0, durable: 0 });
        let what = Surfaced::Message { name: None, mid: mid(2_000), from: Device::new("x", "x"), to: None };
        taker.received.push(Received { at: 1_001, durable: 0, seq: 1_001, what });
        let some = choose(&Book { clients: vec![sender, taker], ..Book::default() });
        assert!((MESSAGES..=2 * MESSAGES).contains(&some.len()), "{}", some.len());
        assert!(some.iter().all(|asked| asked.name.client == 0 && asked.mid == mid(asked.name.number)));
        assert!(some.iter().any(|asked| asked.name.number == 999));
        assert!(some.iter().any(|asked| asked.name.number < 100));
        let late = some.iter().filter(|asked| asked.name.number >= 900).count();
        assert!(late >= MESSAGES / 2, "{late}");
        assert!(choose(&Book::default()).is_empty());
    }
}
