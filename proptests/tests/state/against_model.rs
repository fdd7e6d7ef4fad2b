//! The machine agrees with the naive one on all outcomes, effects and reads, whatever the log:
//! batches repeated, late, lost, after gaps, from fenced generations; G2 to G4 with them.

use cluster::id::Pos;
use cluster::state::{Item, SessionView, State, Totals};
use proptest::prelude::*;

use crate::log::{any_log, devices, users};
use crate::model::Model;
use crate::seen::seen;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_the_naive_machine(log in any_log(90)) {
        let mut state = State::new();
        let mut model = Model::default();
        for entry in &log.0 {
            let effects = entry.apply(&mut state);
            let expected = entry.command.as_ref().map(|command| model.apply(entry.index, command));
            prop_assert_eq!(seen(&effects), expected.unwrap_or_default(), "effects of {:?}", entry);
            compare(&state, &mut model)?;
            prop_assert_eq!(state.audit(), Ok(()));
        }
    }
}

fn compare(state: &State, model: &mut Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(state.time_ms(), model.time_ms);
    prop_assert_eq!(state.limits(), &model.limits);
    prop_assert_eq!(state.breaker_open(), model.breaker_open);
    let nodes: Vec<_> = state.nodes().map(|(id, node)| (id, node.generation, node.next_seq)).collect();
    let expected: Vec<_> = model.nodes.iter().map(|(id, node)| (*id, node.generation, node.next_seq)).collect();
    prop_assert_eq!(nodes, expected);

    let mut totals = Totals::default();
    let names: Vec<_> = model.groups.keys().cloned().collect();
    for group in &names {
        let waiting = model.waiting_in(group);
        let of = &model.groups[group];
        let bytes: u64 = waiting.iter().map(|pos| of.messages[pos].len).sum();
        totals.groups += u64::from(!of.members.is_empty() || !waiting.is_empty());
        totals.memberships += of.members.len() as u64;
        totals.inbox_messages += waiting.len() as u64;
        totals.inbox_bytes += bytes;
        totals.memory_bytes += bytes;
        let members = of.members.iter().cloned().collect::<Vec<_>>();
        let expected = (!members.is_empty()).then_some((members, false));
        prop_assert_eq!(state.members(group, None, usize::MAX), expected);
    }
    for (name, user) in &mut model.users {
        let waiting = user.waiting();
        let copies = user.copies_waiting();
        totals.inbox_messages += copies.len() as u64;
        totals.inbox_bytes += user.copies_bytes(&copies);
        totals.memory_bytes += user.copies_bytes(&copies);
        totals.users += u64::from(user.remembered());
        totals.devices += user.devices.len() as u64;
        totals.retired_devices += user.gone.len() as u64;
        totals.absent_users += u64::from(user.remembered() && user.devices.is_empty());
        totals.sessions += user.devices.values().filter(|device| device.node.is_some()).count() as u64;
        totals.inbox_messages += waiting.len() as u64;
        totals.inbox_bytes += user.bytes(&waiting);
        totals.memory_bytes += user.bytes(&waiting);
        for id in devices() {
            let view = state.device(name, &id);
            let known = user.devices.get(&id);
            prop_assert_eq!(view.is_some_and(|view| view.known), known.is_some());
            let last = known.map(|device| device.last).or(user.gone.get(&id).map(|gone| gone.last));
            prop_assert_eq!(view.map(|view| view.last_epoch), last.map(|(_, _, epoch)| epoch));
            let Some((view, device)) = view.zip(known) else { continue };
            let session = device.node.map(|node| SessionView { epoch: device.last.2, node });
            prop_assert_eq!(view.session, session);
            prop_assert_eq!(view.cursor, device.share.cursor);
            prop_assert_eq!(view.lapsed, device.lapsed.is_some());
            if let Some(session) = session {
                prop_assert_eq!(state.session(session.epoch), Some((name, &id, session.node)));
            }
            let gap = device.share.gap.iter().map(|&(seq, lost, reason)| (seq, Some((lost, reason))));
            let scattered = device.share.scattered_gap.iter().map(|&(seq, lost, reason)| (seq, Some((lost, reason))));
            let owed = device.share.owed.iter().chain(&device.share.copies_owed);
            let owed = owed.chain(device.share.group_owed.iter().map(|(_, pos)| pos));
            let mut expected: Vec<_> = gap.chain(scattered).chain(owed.map(|pos| (*pos, None))).collect();
            expected.sort_by_key(|(pos, _)| *pos);
            if view.lapsed {
                expected.clear();
            }
            let items = state.inbox(name, &id, Pos::ZERO, usize::MAX, usize::MAX);
            let items = items.iter().map(|item| match item {
                Item::Gap { seq, reason, lost } => (*seq, Some((*lost, *reason))),
                Item::Message(message) => (message.pos, None),
            });
            let items: Vec<_> = items.collect();
            prop_assert_eq!(items, expected);
        }
    }
    totals.revocations = model.revoked.len() as u64;
    prop_assert_eq!(state.totals(), totals);
    for name in users() {
        prop_assert_eq!(state.revoked_before(&name), model.revoked.get(&name).map(|(before_ms, _)| *before_ms));
    }
    for (_, node) in state.nodes() {
        prop_assert!(node.generation.is_some() || node.sessions == 0);
    }
    prop_assert!(
        users()
            .all(|name| model.users.contains_key(&name) || state.device(&name, &devices().next().unwrap()).is_none())
    );
    Ok(())
}
