//! G1 and G3 as a book-keeper sees them, who knows only what was stored and what can be read: every
//! message stored since a device is known is passed, waits for it in order, or is counted in a gap.

use std::collections::BTreeMap;

use cluster::id::{DeviceId, MessageId, Pos, UserId};
use cluster::state::{Body, Command, Destination, Effect, Item, Op, Outcome, State};
use proptest::prelude::*;

use crate::log::{Entry, devices, plain_log, users};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_stored_message_waits_or_is_counted(log in plain_log(150)) {
        let mut state = State::new();
        let mut ledger = Ledger::default();
        for entry in &log.0 {
            let effects = entry.apply(&mut state);
            ledger.note(entry, &effects);
            for user in users() {
                ledger.check(&state, &user)?;
            }
            // Nobody's inbox is over the limits, which stay in this log.
            prop_assert!(state.totals().inbox_messages <= u64::from(state.limits().inbox_messages) * users().count() as u64);
        }
    }
}

#[derive(Default)]
struct Ledger {
    stored: BTreeMap<UserId, BTreeMap<Pos, (MessageId, Vec<u8>)>>,
    /// From where on each known device is owed messages.
    since: BTreeMap<UserId, BTreeMap<DeviceId, Pos>>,
    /// From where on the next device is owed them; several if several devices went at once.
    heir: BTreeMap<UserId, Vec<Pos>>,
}

impl Ledger {
    fn note(&mut self, entry: &Entry, effects: &[Effect]) {
        let Some(Command::Batch(batch)) = &entry.command else { return };
        let Some(Effect::BatchApplied { outcomes, .. }) = effects.last() else { return };
        for (offset, (op, outcome)) in batch.ops.iter().zip(outcomes).enumerate() {
            if let (Op::Send(send) | Op::TracedSend(send, _), Outcome::Stored { duplicate: false, .. }) = (op, outcome)
            {
                let of = self.stored.entry(send.to.clone()).or_default();
                of.insert(Pos::new(entry.index, offset), (send.mid, send.body.to_vec()));
            }
        }
    }

    fn check(&mut self, state: &State, user: &UserId) -> Result<(), TestCaseError> {
        let since = self.since.entry(user.clone()).or_default();
        let heir = self.heir.entry(user.clone()).or_insert_with(|| vec![Pos::ZERO]);
        let stored = self.stored.entry(user.clone()).or_default();
        let known = |id: &DeviceId| state.device(user, id).filter(|view| view.known);

        let gone: Vec<_> = since.extract_if(.., |id, _| known(id).is_none()).map(|(_, since)| since).collect();
        if since.is_empty() && !gone.is_empty() {
            *heir = gone;
        }
        for id in devices() {
            let Some(view) = known(&id) else { continue };
            let waiting = state.inbox(user, &id, Pos::ZERO, usize::MAX, usize::MAX);
            if !since.contains_key(&id) {
                let fits = |from: &Pos| owed(stored, *from) == accounted(&waiting);
                let from = if since.is_empty() { heir.iter().copied().find(fits) } else { Some(view.last_epoch) };
                prop_assert!(from.is_some(), "{user} {id} inherited something else: {waiting:?}");
                since.insert(id.clone(), from.unwrap());
            }
            let from = since.get_mut(&id).unwrap();
            *from = view.cursor.max(*from);
            if view.lapsed {
                prop_assert_eq!(view.session, None);
                prop_assert!(waiting.is_empty());
                continue;
            }
            prop_assert_eq!(owed(stored, *from), accounted(&waiting), "{} {}", user, id);
            for item in &waiting {
                let Item::Message(message) = item else { continue };
                let (mid, body) = &stored[&message.pos];
                prop_assert_eq!((&message.mid, &message.to), (mid, &Destination::User(user.clone())));
                prop_assert_eq!(&message.body, &Body::Memory(body.clone().into()));
            }
            page(state, user, &id, &waiting)?;
        }
        Ok(())
    }
}

/// How many messages are owed behind `from`, and the last of them.
fn owed(stored: &BTreeMap<Pos, (MessageId, Vec<u8>)>, from: Pos) -> (u64, Option<Pos>) {
    let behind = stored.range(from..).filter(|(pos, _)| **pos > from);
    (behind.clone().count() as u64, behind.map(|(pos, _)| *pos).next_back())
}

/// How many are accounted for, and the last of them. Order and gaps are checked on the way.
fn accounted(items: &[Item]) -> (u64, Option<Pos>) {
    assert!(items.is_sorted_by(|a, b| a.seq() < b.seq()), "out of order");
    assert!(items.iter().skip(1).all(|item| matches!(item, Item::Message(_))), "a gap behind a message");
    let count = items.iter().map(|item| if let Item::Gap { lost, .. } = item { *lost } else { 1 }).sum();
    (count, items.last().map(Item::seq))
}

/// Reading page by page brings the same as reading at once.
fn page(state: &State, user: &UserId, id: &DeviceId, whole: &[Item]) -> Result<(), TestCaseError> {
    for (count, bytes) in [(1, usize::MAX), (2, 30), (usize::MAX, 0)] {
        let mut pages = Vec::new();
        let mut after = Pos::ZERO;
        loop {
            let page = state.inbox(user, id, after, count, bytes);
            let Some(last) = page.last() else { break };
            after = last.seq();
            prop_assert!(page.len() <= count);
            let size = |item: &Item| if let Item::Message(message) = item { message.body.len() } else { 0 };
            prop_assert!(page.len() == 1 || page.iter().map(size).sum::<usize>() <= bytes);
            pages.extend(page);
        }
        prop_assert_eq!(&pages, whole);
    }
    Ok(())
}
