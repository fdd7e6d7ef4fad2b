//! G1, G2, G3: what clients were told and shown fits the log, message by message.
//!
//! Each device gets the log's messages to its user, to the groups that the user is in at their place, and
//! those that other devices of its user sent, one after the other, for as long as it is known
//! (a user's only device: from where the one before had come); what it does not get, a gap counts.

use std::collections::{BTreeMap, HashMap, HashSet};

use im_gateway::client::Fate;
use im_gateway::protocol::ErrorCode;

use super::devices::{KnownSpan, KnownSpans, Pardon};
use super::facts::{self, Stored};
use super::members::Members;
use super::{History, Violation, safety};
use crate::ledger::{Book, Client, ClientId, Device, Name, Received, Sent, Surfaced};

/// The log, for looking up.
struct Index<'a> {
    by_user: HashMap<&'a str, Vec<&'a Stored>>,
    by_name: HashMap<Name, &'a Stored>,
    known: &'a KnownSpans,
    members: Members<'a>,
}

impl<'a> Index<'a> {
    fn of(history: &History<'a>) -> Self {
        let mut index = Self {
            by_user: HashMap::new(),
            by_name: HashMap::new(),
            known: &history.facts.known,
            members: Members::of(history.facts),
        };
        let mut devices: HashMap<&str, usize> = HashMap::new();
        index.known.keys().for_each(|device| *devices.entry(&device.user).or_default() += 1);
        for stored in &history.facts.stored {
            if stored.to.starts_with('#') {
                for member in index.members.at(&stored.to, stored.pos) {
                    index.by_user.entry(member).or_default().push(stored);
                }
            } else {
                index.by_user.entry(&stored.to).or_default().push(stored);
            }
            if let Some(from) = stored.copied_from.as_ref().filter(|from| devices.get(from.user.as_str()) > Some(&1)) {
                index.by_user.entry(&from.user).or_default().push(stored);
            }
            if let Some(name) = stored.name {
                index.by_name.entry(name).or_insert(stored);
            }
        }
        index
    }

    /// The messages to a device, in log order.
    fn to(&self, device: &Device) -> Vec<&'a Stored> {
        let of_user = self.by_user.get(device.user.as_str()).into_iter().flatten();
        of_user.filter(|stored| stored.copied_from.as_ref() != Some(device)).copied().collect()
    }
}

/// Checks all that holds at any time.
pub fn check(history: &History, broken: &mut Vec<Violation>) {
    let index = Index::of(history);
    check_stored(history, broken);
    for (name, sent) in history.book.all_sent() {
        check_fate(history, &index, name, sent, broken);
    }
    for (id, client) in history.book.clients.iter().enumerate() {
        let who = history.book.client(id);
        let messages = index.to(&client.device);
        for got in &client.received {
            check_received(history, &messages, &who, got, broken);
        }
    }
    for ((device, ephemeral), clients) in devices(history.book) {
        let messages = index.to(device);
        if ephemeral.is_some() {
            walk(history, &messages, &Share::of_forgotten(&clients), &clients, broken);
            continue;
        }
        let spans = index.known.get(device).map_or(&[][..], Vec::as_slice);
        for share in Share::of_spans(spans) {
            walk(history, &messages, &share, &clients, broken);
        }
        for (id, got) in clients.iter().flat_map(|(id, client)| client.received.iter().map(move |got| (id, got))) {
            if !spans.iter().any(|span| span.holds(got.seq)) {
                let text = format!("G4: {} got {}, of a time when it was not known", history.book.client(*id), got.seq);
                broken.push(safety(text).at(got.at));
            }
        }
    }
}

/// G2 and G3 in the log itself: each message once, each sender's in order. Strangers repeat what
/// they like, and get what they ask for.
fn check_stored(history: &History, broken: &mut Vec<Violation>) {
    let mut first: HashMap<Name, u64> = HashMap::new();
    let mut last: HashMap<ClientId, usize> = HashMap::new();
    for stored in &history.facts.stored {
        let Some(name) = stored.name else { continue };
        let called = || history.book.message(name);
        let Some(sent) = history.book.sent(name) else {
            broken.push(safety(format!("G1: {}, which nobody sent, is in the log", called())));
            continue;
        };
        if sent.to != stored.to {
            broken.push(safety(format!("G1: {} is for {} and in the log for {}", called(), sent.to, stored.to)));
        }
        if let Some(before) = first.insert(name, stored.pos) {
            if !was_shared(history, name.client, before, stored.pos) {
                let text = format!("G2: {} is in the log twice, at {before} and {}", called(), stored.pos);
                broken.push(safety(text).at(sent.at));
            }
            continue;
        }
        if let Some(before) = last.insert(name.client, name.number).filter(|before| *before >= name.number) {
            let text = format!("G3: {} is in the log after its sender's message {before}", called());
            broken.push(safety(text).at(sent.at));
        }
    }
}

/// Whether another client had this one's device in between, and so much was sent by the device that
/// the cluster's memory of its sends no longer held this one. Against the protocol, two of them ran.
fn was_shared(history: &History, client: ClientId, from: u64, until: u64) -> bool {
    let device = &history.book.clients[client].device;
    let between = history.facts.registered.iter().filter(|registered| (from..until).contains(&registered.epoch));
    let mut instances: Vec<_> = between.filter(|of| of.device == *device).map(|of| of.instance).collect();
    instances.dedup();
    let handled = history.facts.handled.get(device).map_or(&[][..], Vec::as_slice);
    let pushed = handled.iter().filter(|at| (from + 1..until).contains(at)).count();
    // This one's own last registration is among them.
    instances.len() > 1 && pushed >= history.inflight
}

/// G1: an `ok` is never a lie; a refusal is final; what is unknown may be either.
fn check_fate(history: &History, index: &Index, name: Name, sent: &Sent, broken: &mut Vec<Violation>) {
    let stored = index.by_name.get(&name);
    let called = || history.book.message(name);
    let text = match (&sent.fate, stored) {
        (Some(Fate::Stored(_)), None) => format!("G1: {} was ok'd and is not in the log", called()),
        (Some(Fate::Stored(mid)), Some(stored)) if *mid != stored.mid => {
            format!("G2: {} was ok'd under another id than the log has", called())
        }
        (Some(Fate::Stored(_)), Some(stored)) if sent.durable < facts::index(stored.pos) => {
            format!("G1: {} was ok'd at {} when only {} was durable", called(), stored.pos, sent.durable)
        }
        // A repeat after another client of the device filled its memory is a new send.
        (Some(Fate::Refused { .. }), Some(stored)) if was_shared(history, name.client, stored.pos, u64::MAX) => return,
        (Some(fate @ (Fate::Refused { .. } | Fate::NotSent | Fate::TooLarge { .. })), Some(_)) => {
            format!("G1: {} is in the log, and its sender was told {fate:?}", called())
        }
        (Some(Fate::Refused { code: ErrorCode::NotMember | ErrorCode::UnknownGroup, .. }), None)
            if !index.members.always(&sent.to, &history.book.clients[name.client].device.user) =>
        {
            return;
        }
        (Some(Fate::Refused { code, .. }), None) if !history.tight || sent.to.starts_with('#') => {
            format!("G1: {} was refused ({code:?}) far from any limit", called())
        }
        _ => return,
    };
    broken.push(safety(text).at(sent.answered_at));
}

/// G1, G2: what a client is shown is in the log, durable, as it was sent and for it.
fn check_received(history: &History, sent_to_us: &[&Stored], who: &str, got: &Received, broken: &mut Vec<Violation>) {
    let mut wrong = |text: String| broken.push(safety(text).at(got.at));
    if got.durable < facts::index(got.seq) {
        wrong(format!("G1: {who} was shown {}, when only the entries up to {} were durable", got.seq, got.durable));
    }
    let Surfaced::Message { name, mid, from, to } = &got.what else {
        if !history.tight {
            wrong(format!("G1: {who} was told of a gap far from any limit"));
        }
        return;
    };
    let place = sent_to_us.binary_search_by_key(&got.seq, |stored| stored.pos);
    match place.map(|at| sent_to_us[at]) {
        Ok(stored) if stored.mid == *mid && stored.name == *name => {}
        Ok(stored) => wrong(format!("G3: {who} got {mid} at {}, where the log has {}", got.seq, stored.mid)),
        Err(_) => wrong(format!("G1: {who} got {mid} at {}, where the log has nothing for it", got.seq)),
    }
    if place.is_ok_and(|at| to.as_deref() != Some(sent_to_us[at].to.as_str())) {
        wrong(format!("G1: {who} got {mid}, which says it is for {to:?}"));
    }
    let Some(name) = name else { return };
    match history.book.clients.get(name.client) {
        Some(sender) if sender.device == *from => {}
        _ => wrong(format!("G1: {who} got {} as if from {from}", history.book.message(*name))),
    }
}

/// Clients, each with its number.
type Clients<'a> = Vec<(ClientId, &'a Client)>;

/// Clients by device. A device that is forgotten when it leaves is another one each time.
fn devices(book: &Book) -> BTreeMap<(&Device, Option<ClientId>), Clients<'_>> {
    let mut devices: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (id, client) in book.clients.iter().enumerate() {
        devices.entry((&client.device, client.ephemeral.then_some(id))).or_default().push((id, client));
    }
    devices
}

/// The part of its user's messages that a device is owed.
struct Share {
    /// Behind this one.
    after: u64,
    /// Up to this one.
    until: u64,
    /// What came before it may be its own too.
    inherits: bool,
    /// The device was forgotten, and did not come back for what it left. A gap is told behind the last message that it
    /// counts, and what comes from groups before that: such a device may never have heard of one. What its own inbox
    /// had lost it was told before anything newer from there.
    given_up: bool,
    /// What of it is not owed.
    pardons: Vec<Pardon>,
}

impl Share {
    fn of(span: &KnownSpan) -> Self {
        let (after, until, given_up) = (span.owed_from, span.until.unwrap_or(u64::MAX), span.until.is_some());
        Self { after, until, inherits: false, given_up, pardons: span.pardons.clone() }
    }

    /// Of each span of a device; spans of which one inherits what the one before left are one.
    fn of_spans(spans: &[KnownSpan]) -> Vec<Self> {
        let mut shares: Vec<Self> = Vec::new();
        for share in spans.iter().map(Self::of) {
            match shares.last_mut().filter(|before| share.after < before.until) {
                Some(before) => {
                    (before.until, before.given_up) = (share.until, share.given_up);
                    before.pardons.extend(share.pardons);
                }
                None => shares.push(share),
            }
        }
        shares
    }

    /// Of a device that is forgotten when it leaves: it inherits what is left, but need not, for others may have
    /// passed it.
    fn of_forgotten(clients: &Clients) -> Self {
        let first = clients.iter().find_map(|(_, client)| client.sessions.first());
        let after = first.map_or(u64::MAX, |session| session.epoch);
        // Where its goodbye is lost, the next one is told.
        let given_up = clients.iter().all(|(_, client)| !client.is_running());
        Self { after, until: u64::MAX, inherits: true, given_up, pardons: Vec::new() }
    }

    fn holds(&self, seq: u64) -> bool {
        (self.inherits || self.after < seq) && seq <= self.until
    }

    fn owes(&self, stored: &Stored) -> bool {
        !self.pardons.iter().any(|pardon| pardon.covers(stored))
    }

    /// What a client surfaced of it.
    fn of_client<'a>(&self, client: &'a Client) -> impl Iterator<Item = &'a Received> + use<'a, '_> {
        client.received.iter().filter(|got| self.holds(got.seq))
    }
}

/// Follows a device through its share of its user's messages: nothing twice, nothing skipped but by a gap or
/// because another client of the device had it. Returns the first that it has neither seen nor was told of, and
/// how many there are from there on.
fn walk<'a>(
    history: &History,
    messages: &[&'a Stored],
    share: &Share,
    clients: &[(usize, &Client)],
    broken: &mut Vec<Violation>,
) -> Option<(&'a Stored, usize)> {
    let messages = &messages[..messages.partition_point(|stored| stored.pos <= share.until)];
    let mut covered = vec![false; messages.len()];
    let begins = messages.partition_point(|stored| stored.pos <= share.after);
    covered[..begins].fill(true);
    let user = clients.first().map_or("", |(_, client)| &client.device.user);
    let given_up = share.given_up && history.tight;
    let direct = |stored: &Stored| stored.to == user;
    let owed = |stored: &Stored| share.owes(stored) && (direct(stored) || !given_up);
    // A second copy is nothing new, and not surfaced.
    let mut mids = HashSet::new();
    for (covered, stored) in covered.iter_mut().zip(messages) {
        *covered |= !mids.insert(stored.mid) || !owed(stored);
    }
    // What came is no part of what a gap counts: of several groups, only some may have lost messages.
    let got = clients.iter().flat_map(|(_, client)| share.of_client(client));
    let got = got.filter(|got| matches!(got.what, Surfaced::Message { .. }));
    let came: HashSet<u64> = got.map(|got| got.seq).collect();
    let mut furthest: Option<(usize, usize, &Received)> = None;
    let mut earlier: Vec<(u64, Vec<usize>)> = Vec::new();
    for (id, client) in clients {
        let mut before = 0;
        // A gap for the user's inbox and one for groups may overlap, and each counts its own. What an
        // earlier client was told is told again only where that did not acknowledge it: then what
        // comes here begins no later than that gap.
        let received: Vec<_> = share.of_client(client).collect();
        let begins = received.first().map_or(0, |got| got.seq);
        let mut told: HashSet<usize> =
            earlier.iter().filter(|(seq, _)| *seq < begins).flat_map(|(_, told)| told).copied().collect();
        for got in received {
            let end = messages.partition_point(|stored| stored.pos <= got.seq);
            match got.what {
                Surfaced::Message { .. } if end <= before => {
                    let text = format!("G2: {} got {} twice, or out of order", history.book.client(*id), got.seq);
                    broken.push(safety(text).at(got.at));
                    continue;
                }
                Surfaced::Message { .. } => covered[end.saturating_sub(1)..end].fill(true),
                Surfaced::Gap { lost } => {
                    let open = |at: &usize| {
                        let stored = messages[*at];
                        !told.contains(at) && !came.contains(&stored.pos) && owed(stored)
                    };
                    let behind: Vec<_> = (0..end).rev().filter(open).take(lost as usize).collect();
                    behind.iter().for_each(|at| covered[*at] = true);
                    told.extend(&behind);
                    earlier.push((got.seq, behind));
                }
            }
            before = before.max(end);
            if furthest.is_none_or(|(_, furthest, _)| end > furthest) {
                furthest = Some((*id, end, got));
            }
        }
    }
    if given_up {
        let newest = (0..messages.len()).rev().find(|at| came.contains(&messages[*at].pos) && direct(messages[*at]));
        for (at, covered) in covered.iter_mut().enumerate() {
            *covered |= newest.is_none_or(|newest| at > newest);
        }
    }
    let seen = covered.iter().position(|covered| !covered).unwrap_or(messages.len());
    if let Some((id, end, got)) = furthest.filter(|(_, end, _)| seen < *end) {
        let missed = covered[seen..end].iter().filter(|covered| !**covered).count();
        let (who, first) = (history.book.client(id), called(history.book, messages[seen]));
        let text = format!("G1: {who} went on to {} without {missed} messages, from {first} on", got.seq);
        broken.push(safety(text).at(got.at));
    }
    messages.get(seen).map(|first| (*first, messages.len() - seen))
}

/// A message, for people.
fn called(book: &Book, stored: &Stored) -> String {
    stored.name.map_or_else(|| stored.mid.to_string(), |name| book.message(name))
}

/// What is still missing: answers, sessions, and messages that a running client has not seen.
pub fn missing(history: &History) -> Vec<String> {
    let book = history.book;
    let unanswered = book.all_sent().filter(|(_, sent)| sent.fate.is_none());
    let mut missing: Vec<_> = unanswered.map(|(name, _)| format!("{} has no answer", book.message(name))).collect();
    let index = Index::of(history);
    for ((device, ephemeral), clients) in devices(book) {
        if !clients.iter().any(|(_, client)| client.is_running()) {
            continue;
        }
        if clients.iter().all(|(_, client)| client.sessions.is_empty()) {
            missing.push(format!("{device} never got a session"));
            continue;
        }
        let span = index.known.get(device).and_then(|spans| spans.last());
        let share = match span.filter(|_| ephemeral.is_none()) {
            Some(span) => Share::of(span),
            None => Share::of_forgotten(&clients),
        };
        if let Some((first, left)) = walk(history, &index.to(device), &share, &clients, &mut Vec::new()) {
            missing.push(format!("{device} did not get {left} messages from {} on", called(book, first)));
        }
    }
    missing
}

#[cfg(test)]
mod tests;
