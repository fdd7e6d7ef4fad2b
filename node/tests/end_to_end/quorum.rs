//! A node that cannot reach the quorum says so, promises nothing, and heals by itself.

use std::time::Duration;

use cluster::env::clock;
use serde_json::json;

use crate::common::http;
use crate::common::ledger::Ledger;
use crate::common::person::Person;
use crate::common::raw::Raw;
use crate::common::{TestCluster, eventually};

/// Within this time a node without a quorum sends its clients away: promised by the contract.
const WITHIN: Duration = Duration::from_secs(5);

/// The node that is left alone.
const ALONE: usize = 2;

/// How the others are lost, and come back.
#[derive(Clone, Copy)]
enum Loss {
    Killed,
    /// They neither answer nor close their connections.
    Frozen,
}

impl Loss {
    fn begin(self, cluster: &mut TestCluster) {
        for other in 0..ALONE {
            match self {
                Self::Killed => cluster.kill(other),
                Self::Frozen => cluster.signal(other, libc::SIGSTOP),
            }
        }
    }

    fn end(self, cluster: &mut TestCluster) {
        for other in 0..ALONE {
            match self {
                Self::Killed => cluster.restart(other),
                Self::Frozen => cluster.signal(other, libc::SIGCONT),
            }
        }
    }
}

async fn without_quorum(loss: Loss, alone_leads: bool) {
    let mut cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    cluster.lead(if alone_leads { ALONE } else { 0 }).await;
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[ALONE]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[ALONE]).await;
    let mut raw = Raw::welcome(&cluster.addr(ALONE), "raw", "phone").await;
    let talk = alice.talk("bob", Duration::from_millis(20));
    ledger.progress(20).await;

    loss.begin(&mut cluster);
    let lost = clock::now();
    let unsure = json!({"id": 7, "send": {"to": "raw", "key": "unsure", "body": 7}});
    raw.send(unsure.clone()).await;
    let (code, frames) = raw.closed().await;
    assert_eq!((code, frames), (4001, vec![]), "neither ok nor error comes first");
    assert!(lost.elapsed() <= WITHIN, "sent away after {:?}", lost.elapsed());
    let addr = cluster.addr(ALONE);
    eventually("the node says that it has no quorum", async || {
        let answer = http::get(&addr, "/ready").await.ok()?;
        (answer.status == 503 && answer.body.contains("no_quorum")).then_some(())
    })
    .await;
    assert!(lost.elapsed() <= WITHIN, "it said so after {:?}", lost.elapsed());
    assert_eq!(http::get(&addr, "/health").await.expect("it answers").status, 200);
    let stored = ledger.stored();
    // Whoever comes now is sent away as well.
    let mut late = Raw::open(&addr).await;
    late.hello("late", "phone").await;
    assert_eq!(late.closed().await, (4001, vec![]));
    let sent_away = async || alice.ends().iter().any(|end| end.contains("4001")).then_some(());
    eventually("alice is sent away", sent_away).await;
    assert_eq!(ledger.stored(), stored, "no ok");

    loss.end(&mut cluster);
    for index in 0..3 {
        cluster.ready(index).await;
    }
    let mut raw = Raw::welcome(&addr, "raw", "phone").await;
    raw.send(unsure).await;
    let ok = raw.frame_with("ok").await;
    assert!(ok["id"] == 7 && ok["ok"]["mid"].is_string(), "{ok}");
    let msg = raw.frame_with("msg").await;
    assert_eq!((&msg["msg"]["mid"], &msg["msg"]["body"]), (&ok["ok"]["mid"], &json!(7)));
    ledger.progress(20).await;
    talk.stop().await;
    ledger.settled().await;
    // The repeated message came once: the next one follows at once.
    raw.send(json!({"id": 8, "send": {"to": "raw", "key": "next", "body": 8}})).await;
    let next = raw.frame_with("msg").await;
    assert_eq!(next["msg"]["body"], json!(8));
    assert!(raw.bye().await.iter().all(|frame| frame["msg"].is_null()), "and nothing else");
    drop(bob);
}

#[tokio::test]
async fn a_leader_whose_followers_die() {
    without_quorum(Loss::Killed, true).await;
}

#[tokio::test]
async fn a_leader_whose_followers_freeze() {
    without_quorum(Loss::Frozen, true).await;
}

#[tokio::test]
async fn a_follower_whose_leader_freezes_with_another() {
    without_quorum(Loss::Frozen, false).await;
}
