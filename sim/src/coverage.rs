//! Rare things that a sweep must meet somewhere, or it proves little about them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use cluster::sync::lock;

/// All of them.
pub const POINTS: [&str; 55] = [
    "a leader was replaced",
    "a replica was sent a checkpoint",
    "a crash lost writes that were not synced",
    "an entry that was not committed was replaced",
    "a node's batch was fenced",
    "a node's batch was proposed twice",
    "a session was registered again by its node",
    "a repeated send was recognised",
    "a send was refused: inbox full",
    "a device was told of a gap",
    "a client was replaced by a newer one",
    "the fate of a message stayed unknown",
    "a stranger was shown the door",
    "a client that acknowledges nothing was kept",
    "a silent client was given up",
    "malformed frames ended a connection",
    "too large a frame ended a connection",
    "a binary frame ended a connection",
    "an acknowledgement of what was still to come ended a connection",
    "a flood was answered",
    "an expired token was refused",
    "a session ended with its token",
    "a forged token was refused",
    "a connection without a hello was ended",
    "noise was refused",
    "noise in a WebSocket ended a connection",
    "a whole storm had its sessions",
    "a storm was told to come later",
    "who watches by hand was told of somebody",
    "tokens were revoked",
    "a session by a revoked token was ended",
    "another device of the sender got a copy",
    "a device was forgotten on request",
    "a device was forgotten for its age",
    "a device came back that was forgotten",
    "the feature level was raised under traffic",
    "a message to a group was stored",
    "a user left a group",
    "a group lost messages for some of its members",
    "a group was full",
    "a user was in too many groups",
    "a sender was told of a delivery",
    "typing was told",
    "a read mark was told",
    "a watcher saw somebody come",
    "a watcher saw somebody go",
    "a request to connect got lost",
    "a cut held back what was sent",
    "a packet was lost and sent again",
    "a disk gave an error",
    "a flipped bit was read",
    "a message was stored while the breaker was open",
    "the breaker was closed on what it had held back",
    "a trace went from one node's send to another's ack",
    "a message was traced to who has it",
];

static REACHED: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

fn locked() -> MutexGuard<'static, BTreeMap<&'static str, u64>> {
    lock(&REACHED)
}

/// It happened.
///
/// # Panics
/// When it is none of [`POINTS`].
pub fn reached(point: &'static str) {
    assert!(POINTS.contains(&point), "{point:?} is not listed");
    *locked().entry(point).or_default() += 1;
}

/// How often each happened in this process.
pub fn counts() -> BTreeMap<&'static str, u64> {
    locked().clone()
}
