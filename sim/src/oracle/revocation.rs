//! Revoked tokens: what a session is told by one was committed before the revocation, and so was what it sent, since
//! all nodes know that sessions end with it; in the end no session is left that began with one; nobody is refused whose token was not revoked.

use super::facts::{self, Facts, Revoked};
use super::{History, Live, Violation, safety};
use crate::ledger::{Exile, Got};

/// The entries that revoked a token.
fn all_revoked<'a>(facts: &'a Facts, exile: &'a Exile) -> impl Iterator<Item = &'a Revoked> {
    facts.revoked.iter().filter(|revoked| revoked.user == exile.user && revoked.before_ms > exile.issued_ms)
}

/// The entry that revoked a token first, if one did.
fn revoked(facts: &Facts, exile: &Exile) -> Option<u64> {
    all_revoked(facts, exile).map(|revoked| revoked.index).min()
}

/// What was told by tokens that are revoked, or refused to ones that are not.
pub fn check(history: &History, broken: &mut Vec<Violation>) {
    for exile in &history.book.exiles {
        let entry = revoked(history.facts, exile);
        for (at, got) in &exile.got {
            let user = &exile.user;
            let pos = match got {
                Got::Welcome(pos) | Got::Item(pos) => Some(*pos),
                Got::Ok(mid) => {
                    let stored = history.facts.stored.iter().find(|stored| stored.mid.to_string() == *mid);
                    stored.map(|stored| stored.pos)
                }
                Got::Refusal => None,
            };
            let text = match (got, entry) {
                (Got::Refusal, None) => format!("revocation: {user} was refused, and its token is not revoked"),
                (_, Some(entry)) if pos.is_some_and(|pos| facts::index(pos) > entry) => {
                    format!("revocation: {user} got {got:?} by a token that was revoked at entry {entry}")
                }
                _ => continue,
            };
            broken.push(safety(text).at(*at));
        }
        let ended = all_revoked(history.facts, exile).filter(|revoked| revoked.ends).map(|revoked| revoked.index).min();
        let Some(entry) = ended else { continue };
        let by_it = history.facts.stored.iter().filter(|stored| stored.instance == exile.instance);
        for stored in by_it.filter(|stored| facts::index(stored.pos) > entry) {
            let (user, pos) = (&exile.user, stored.pos);
            broken.push(safety(format!(
                "revocation: {user} sent what is stored at {pos} by a token that was revoked at entry {entry}"
            )));
        }
    }
}

/// Sessions of revoked tokens that live still.
pub fn missing(history: &History, live: &[Live]) -> Vec<String> {
    let exiles = history.book.exiles.iter().filter(|exile| revoked(history.facts, exile).is_some());
    let left = exiles.filter(|exile| live.iter().any(|live| live.instance == exile.instance));
    left.map(|exile| format!("revocation: {} has a session by a revoked token", exile.user)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NODE, Scene, found, pos};
    use super::*;
    use crate::ledger::Device;

    fn scene(got: Got) -> Scene {
        let mut scene = Scene::good();
        scene.book.exiles.push(Exile { user: "x".into(), instance: 77, issued_ms: 1_000, got: vec![(9, got)] });
        scene.facts.revoked.push(Revoked { index: 5, user: "x".into(), before_ms: 2_000, ends: true });
        scene
    }

    #[test]
    fn only_what_was_there_before() {
        for got in [Got::Welcome(pos(4)), Got::Item(pos(5)), Got::Refusal] {
            assert_eq!(scene(got).broken_by(check), Vec::<String>::new());
        }
        for got in [Got::Welcome(pos(6)), Got::Item(pos(6))] {
            found(&scene(got).broken_by(check), "by a token that was revoked at entry 5");
        }
        let mut stored = scene(Got::Ok(scene(Got::Refusal).facts.stored[1].mid.to_string()));
        assert_eq!(stored.broken_by(check), Vec::<String>::new());
        stored.facts.stored[1].pos = pos(6);
        found(&stored.broken_by(check), "by a token that was revoked at entry 5");
    }

    #[test]
    fn what_is_sent_by_a_revoked_token_is_not_stored() {
        let mut scene = scene(Got::Refusal);
        scene.facts.stored[1].instance = 77;
        assert_eq!(scene.broken_by(check), Vec::<String>::new());
        scene.facts.stored[1].pos = pos(6);
        found(&scene.broken_by(check), "x sent what is stored at 24576 by a token that was revoked at entry 5");
        scene.facts.revoked[0].ends = false;
        assert_eq!(scene.broken_by(check), Vec::<String>::new(), "an older node may not have known it");
    }

    #[test]
    fn newer_tokens_count() {
        let mut scene = scene(Got::Item(pos(6)));
        scene.book.exiles[0].issued_ms = 2_000;
        assert_eq!(scene.broken_by(check), Vec::<String>::new());
        scene.book.exiles[0].got.push((9, Got::Refusal));
        found(&scene.broken_by(check), "its token is not revoked");
    }

    #[test]
    fn no_session_is_left() {
        let live = [Live { epoch: pos(4), device: Device::new("x", "x"), instance: 77, node: NODE }];
        found(&missing(&scene(Got::Refusal).history(), &live), "has a session by a revoked token");
        assert_eq!(missing(&scene(Got::Refusal).history(), &[]), Vec::<String>::new());
    }
}
