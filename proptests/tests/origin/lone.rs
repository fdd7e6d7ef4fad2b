//! Cases by hand: one node's origin, whose batches are applied as they are cut.

use bytes::Bytes;
use cluster::env::clock::Instant;
use cluster::id::{DeviceId, Pos, UserId};
use cluster::origin::{Events, Origin, Replica};
use cluster::session::{Event, Outgoing, Request, SessionSpec};
use cluster::state::{Batch, Command, FEATURE_LEVEL, Op, State};

use crate::{device, message, node_id, node_up, react, user};

/// A node's origin and replica, whose batches are applied as they are cut.
struct Lone(Origin, State);

impl Lone {
    fn new() -> Self {
        let mut lone = Self(Origin::new(node_id(0)), State::new());
        lone.apply(&Command::SetFeatureLevel(FEATURE_LEVEL));
        lone.apply(&node_up(node_id(0), 1, 1));
        lone
    }

    fn apply(&mut self, command: &Command) -> Events {
        let mut effects = Vec::new();
        self.1.apply(self.1.applied() + 1, command, &mut effects);
        effects.into_iter().flat_map(|effect| react(&mut self.0, node_id(0), effect)).collect()
    }

    /// Applies a command behind the origin's back, as a checkpoint does.
    fn checkpoint(&mut self, command: &Command) {
        self.1.apply(self.1.applied() + 1, command, &mut Vec::new());
    }

    fn cut(&mut self) -> Command {
        let last = |user: &UserId, device: &DeviceId| self.1.last_registration(user, device);
        let replica = Replica { feature_level: FEATURE_LEVEL, last };
        Command::Batch(self.0.cut(Instant::from_nanos(u64::MAX), &replica).expect("something to propose"))
    }

    fn round(&mut self) -> Events {
        let batch = self.cut();
        self.apply(&batch)
    }
}

#[test]
fn a_session_that_ends_in_the_batch_that_began_it_is_told_so() {
    let spec = |device| SessionSpec { device: DeviceId::new(device).expect("a valid name"), ..session("alice") };
    let mut node = Lone::new();
    node.0.open(1, spec("laptop"));
    node.round();
    node.0.open(2, spec("phone"));
    node.0.ask(1, 1, Request::Forget(spec("phone").device));
    let events = node.round();
    assert!(
        matches!(events[..], [(2, Event::Superseded), (1, Event::Done { token: 1, result: Ok(()) })]),
        "{events:?}"
    );
    assert_eq!(node.0.live(2), None);
    node.0.close(2, true);
    // Of this device nothing is in the way of the next session.
    node.0.open(3, spec("phone"));
    let events = node.round();
    assert!(matches!(events[..], [(3, Event::Registered { .. })]), "{events:?}");
}

#[test]
fn no_session_goes_on_over_its_devices_forgetting() {
    for uncertain in [false, true] {
        let mut node = Lone::new();
        node.0.open(1, session("alice"));
        node.round();
        node.0.rejoin();
        if uncertain {
            node.apply(&node_up(node_id(0), 1, 2));
            let again = node.cut();
            node.checkpoint(&again);
            node.0.rejoin();
        }
        node.checkpoint(&node_up(node_id(1), 1, 1));
        let generation = node.1.node(node_id(1)).and_then(|record| record.generation).expect("it is up");
        let forget = Op::Forget { user: user("alice"), device: device() };
        let batch = Batch { node: node_id(1), generation, seq: 1, ops: vec![forget] };
        node.checkpoint(&Command::Batch(batch));
        node.apply(&node_up(node_id(0), 1, 3));
        let events = node.round();
        assert!(matches!(events[..], [(1, Event::Superseded)]), "{events:?}");
        // Nothing is in the way of one that begins anew.
        node.0.open(2, session("alice"));
        let events = node.round();
        assert!(matches!(events[..], [(2, Event::Registered { .. })]), "{events:?}");
    }
}

fn session(name: &str) -> SessionSpec {
    SessionSpec { user: user(name), device: device(), instance: 7, attempt: 1, ephemeral: false }
}

#[test]
fn who_sends_much_delays_nobody() {
    let mut node = Lone::new();
    for (key, name) in [(1, "bulk"), (2, "alice"), (3, "reader")] {
        node.0.open(key, session(name));
    }
    node.round();
    let large = |number: u64| Outgoing { body: Bytes::from(vec![b'x'; 60_000]), ..message(0, number) };
    (0..256).for_each(|number| node.0.ask(1, number, Request::Send(large(number))));
    node.0.ask(2, 1, Request::Send(message(1, 1)));
    node.0.open(4, session("newcomer"));
    node.0.ack(3, Pos::new(1, 0), Instant::default());
    let events = node.round();
    let served = |events: &Events, key| events.iter().filter(|(other, _)| *other == key).count();
    assert!((1..10).contains(&served(&events, 1)), "a batch does not hold all of it");
    assert_eq!((served(&events, 2), served(&events, 4)), (1, 1), "and holds what the others wait for");
    // However many send, those who only receive move on.
    let many = 5..200;
    many.clone().for_each(|key| node.0.open(key, session(&format!("bulk-{key}"))));
    node.round();
    many.for_each(|key| (0..9).for_each(|number| node.0.ask(key, number, Request::Send(large(number)))));
    node.0.ack(3, Pos::new(2, 0), Instant::default());
    let Command::Batch(batch) = node.cut() else { panic!("an origin cuts batches") };
    assert!(batch.ops.iter().any(|op| matches!(op, Op::Ack { upto, .. } if *upto == Pos::new(2, 0))));
}
