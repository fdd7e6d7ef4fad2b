//! An election interrupts nobody.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::common::ledger::Ledger;
use crate::common::person::Person;
use crate::common::raw::Raw;
use crate::common::{TestCluster, eventually};

const ROUNDS: u32 = 30;
const PACE: Duration = Duration::from_millis(10);

#[tokio::test]
async fn the_leader_dies_thirty_times() {
    let mut cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    cluster.lead(0).await;
    // Each of them has one node only: a socket that closes could not be hidden by another.
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[1]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[2]).await;
    // And one that has nothing to say but its answers to pings.
    let silent = Raw::welcome(&cluster.addr(1), "silent", "phone").await;
    let (stop, stopped) = oneshot::channel::<()>();
    let silent = tokio::spawn(silent.quiet_until(async { drop(stopped.await) }));
    let talks = [alice.talk("bob", PACE), bob.talk("alice", PACE)];
    for round in 1..=ROUNDS {
        ledger.progress(20).await;
        cluster.kill(0);
        let next = cluster.leader().await;
        assert_ne!(next, 0);
        ledger.progress(20).await;
        cluster.restart(0);
        cluster.ready(0).await;
        cluster.lead(0).await;
        let ends = (alice.ends(), bob.ends());
        assert_eq!(ends, (vec![], vec![]), "round {round}: a socket closed");
    }
    let mut sent = 0;
    for talk in talks {
        sent += talk.stop().await;
    }
    ledger.settled().await;
    assert_eq!((alice.ends(), bob.ends()), (vec![], vec![]));
    drop(stop);
    assert_eq!(silent.await.expect("it does not panic"), None, "the silent connection stands");
    let elections = cluster.metric(1, "im_gateway_raft_elections_total", "").await.expect("a number");
    assert!(elections >= f64::from(ROUNDS), "{elections} elections were seen");
    eventually("every delivery is told", async || (alice.delivered() + bob.delivered() == sent).then_some(())).await;
}
