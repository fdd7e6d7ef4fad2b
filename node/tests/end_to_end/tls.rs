//! TLS, as operators, clients and strangers meet it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster::env::Net;
use cluster::env::net::Distrust;
use im_gateway::env::{Tcp, Tls};
use tokio::net::TcpStream;

use crate::common::certificates::Ca;
use crate::common::ledger::Ledger;
use crate::common::person::Person;
use crate::common::{FAR_YEAR, Options, TestCluster, eventually, http};

fn options() -> Options {
    Options { tls: true, ..Options::default() }
}

/// Runs `status` against a URL that it must fail for; what it says.
async fn status_fails(cluster: &TestCluster, url: &str, ca: Option<&Path>) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_im-gateway"));
    command.args(["status", "--url", url]).env_remove("IMGW_CA").current_dir(cluster.dir());
    if let Some(ca) = ca {
        command.arg("--ca").arg(ca);
    }
    let output = command.output().await.expect("the command starts");
    assert!(!output.status.success(), "{url}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[tokio::test]
async fn people_chat_over_tls_across_nodes_that_prove_themselves() {
    let cluster = TestCluster::start_with(2, options()).await;
    let ledger = Ledger::new();
    // Who says nothing keeps nobody from being accepted.
    let _silent = TcpStream::connect(cluster.addr(0)).await.expect("it accepts");
    let alice = Person::connect(&cluster, &ledger, "alice", "d", &[0]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "d", &[1]).await;
    alice.say_many("bob", 50).await;
    bob.say_many("alice", 50).await;
    ledger.settled().await;
    ledger.check();
    cluster.operator(0, &["status"]).await.expect("https with the CA's file");
    let status = cluster.status(0).await.expect("a status");
    let urls: Vec<_> = status["nodes"].as_array().into_iter().flatten().map(|node| &node["client_url"]).collect();
    assert!(urls.iter().all(|url| url.as_str().is_some_and(|url| url.starts_with("wss://"))), "{urls:?}");
    assert_eq!(
        cluster.metric(0, "im_gateway_certificate_expiry_timestamp_seconds", "clients").await,
        Some(4_102_444_800.0)
    );

    let url = |scheme: &str| format!("{scheme}://{}", cluster.addr(0));
    let said = status_fails(&cluster, &url("http"), None).await;
    assert!(said.contains("this port speaks TLS: use https:// or wss://"), "{said}");
    let other = Ca::new(cluster.dir(), "other");
    let said = status_fails(&cluster, &url("https"), Some(&other.file)).await;
    assert!(said.contains("is not signed by the CA that is trusted here"), "{said}");
    let refused = eventually("it is counted", async || {
        cluster.metric(0, "im_gateway_connection_errors_total", "tls_failed").await.filter(|count| *count >= 2.0)
    });
    refused.await;
    let answer = http::get(&cluster.peer_addr(0), "/").await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 0), "nobody speaks HTTP between nodes");
}

#[tokio::test]
async fn a_node_with_a_certificate_of_another_ca_is_no_node() {
    let mut cluster = TestCluster::start_with(1, options()).await;
    let own = cluster.ca().file.clone();
    let stranger = cluster.add_stopped();
    // It knows the secret and trusts the right CA, but another one has signed for it.
    Ca::new(cluster.dir(), "other").node(cluster.dir(), &format!("node-{stranger}"), FAR_YEAR);
    cluster.restart(stranger);
    assert!(own.exists());
    let refused = "the other end's certificate is not signed by the CA that is trusted here";
    eventually("the refusal is logged", async || {
        let log = cluster.log(0);
        log.lines().find(|line| line.contains("peer connection refused") && line.contains(refused)).map(drop)
    })
    .await;
    eventually("the stranger hears why", async || {
        cluster.log(stranger).contains("the other end does not trust the certificate of this one").then_some(())
    })
    .await;
    let counted = cluster.metric(0, "im_gateway_peer_refusals_total", "tls").await.expect("metrics");
    assert!(counted >= 1.0, "{counted}");
    let status = cluster.status(0).await.expect("a status");
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(1), "{status}");

    // In the clear it gets no further, secret or not.
    let mut plain = TcpStream::connect(cluster.peer_addr(0)).await.expect("it accepts");
    let gone = tokio::io::AsyncWriteExt::write_all(&mut plain, &[0; 64]).await;
    let mut rest = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut rest).await;
    assert!(rest.is_empty(), "{gone:?} {read:?} {rest:?}");
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections() {
    let cluster = TestCluster::start_with(1, options()).await;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "d", &[0]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "d", &[0]).await;
    let newer = Ca::new(cluster.dir(), "newer");
    let net = Tls::to_nodes(Arc::new(Tcp), Some(newer.file.clone())).expect("a good CA file");
    let health = async || {
        let stream = net.connect(&cluster.addr(0)).await?;
        http::get_over(stream, &cluster.addr(0), "/health").await
    };
    let before = health().await.map(|answer| answer.status).expect_err("not yet");
    assert!(Distrust::of(&before).is_some(), "{before}");

    // The certificate first, its key later: the node goes on with the old ones in between.
    let file = |kind: &str| cluster.dir().join(format!("node-0.{kind}"));
    let old_key = std::fs::read(file("key")).expect("a key");
    newer.node(cluster.dir(), "node-0", FAR_YEAR);
    let new_key = std::fs::read(file("key")).expect("a key");
    std::fs::write(file("key"), old_key).expect("written");
    eventually("the mismatch is logged", async || {
        cluster.log(0).contains("does not belong to the certificate").then_some(())
    })
    .await;
    assert!(health().await.is_err());
    std::fs::write(file("key"), new_key).expect("written");
    eventually("the new certificate is in force", async || health().await.ok()).await;

    alice.say_many("bob", 20).await;
    ledger.settled().await;
    ledger.check();
    assert_eq!((alice.connections(), bob.connections()), (1, 1), "{:?} {:?}", alice.ends(), bob.ends());
}

/// The whole way of it: both CAs are trusted, the nodes get certificates by the new one, the old one goes. No node
/// is restarted for it; what has connected stays.
#[tokio::test]
async fn nodes_move_to_another_ca_one_after_the_other() {
    const NODES: usize = 3;
    let mut cluster = TestCluster::start_with(NODES, options()).await;
    cluster.voters(NODES).await;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "d", &[0]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "d", &[2]).await;
    let talk = alice.talk("bob", Duration::from_millis(50));
    ledger.progress(5).await;

    let taken_up = |cluster: &TestCluster, index: usize| {
        let lines = |log: String| log.lines().filter(|line| line.contains("a new certificate is in force")).count();
        lines(cluster.log(index).lines().filter(|line| line.contains("\"nodes\"")).collect::<Vec<_>>().join("\n"))
    };
    let after = async |cluster: &TestCluster, step: usize, index: usize| {
        eventually("the files are read", async || (taken_up(cluster, index) == step).then_some(())).await;
    };
    let trusted = cluster.ca().file.clone();
    let old = std::fs::read_to_string(&trusted).expect("a CA");
    let newer = Ca::new(cluster.dir(), "newer");
    let new = std::fs::read_to_string(&newer.file).expect("a CA");
    let trust = |text: &str| {
        let next = trusted.with_extension("next");
        std::fs::write(&next, text).expect("written");
        std::fs::rename(next, &trusted).expect("renamed");
    };
    trust(&(old + &new));
    for index in 0..NODES {
        after(&cluster, 1, index).await;
    }
    for index in 0..NODES {
        newer.node(cluster.dir(), &format!("node-{index}"), FAR_YEAR);
        after(&cluster, 2, index).await;
    }
    trust(&new);
    for index in 0..NODES {
        after(&cluster, 3, index).await;
    }
    assert_eq!((alice.connections(), bob.connections()), (1, 1), "{:?} {:?}", alice.ends(), bob.ends());

    // Links that begin now go by the new certificates alone.
    cluster.kill(1);
    cluster.restart(1);
    cluster.ready(1).await;
    let carol = Person::connect(&cluster, &ledger, "carol", "d", &[1]).await;
    carol.say_many("bob", 20).await;
    talk.stop().await;
    ledger.settled().await;
    ledger.check();
}
