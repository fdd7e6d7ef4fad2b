//! Groups: one order for all their members, whoever comes, goes, sleeps or crashes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::env::clock;
use cluster::id::MessageId;
use cluster::state::{FEATURE_LEVEL, GroupAct};
use futures_util::{StreamExt, stream};
use im_gateway::client::{Client, Event, Fate, Receipt, To};
use im_gateway::env::Tcp;
use im_gateway::protocol::ErrorCode;
use serde_json::json;

use crate::common::raw::Raw;
use crate::common::{Options, TestCluster, eventually, token};

/// A client of the SDK and what it was shown, in order.
struct Member {
    client: Client,
    shown: Arc<Mutex<Shown>>,
}

#[derive(Default)]
struct Shown {
    /// Place, id, and text.
    messages: Vec<(u64, MessageId, String)>,
    lost: u64,
}

impl Member {
    async fn connect(cluster: &TestCluster, name: &str, device: &str, nodes: &[usize]) -> Self {
        let urls = nodes.iter().map(|node| cluster.url(*node)).collect();
        let builder = Client::builder(Arc::new(Tcp), urls, Arc::new(token(name)), device);
        let client = builder.first(0).connect().expect("the URLs are good");
        let shown = Arc::new(Mutex::new(Shown::default()));
        let (listener, writes) = (client.clone(), shown.clone());
        tokio::spawn(async move {
            while let Some(event) = listener.next().await {
                let mut shown = writes.lock().expect("nobody panics with the lock held");
                match event {
                    Event::Message(message) => {
                        let text = format!("{} {}", message.group.unwrap_or_default(), message.body.get());
                        shown.messages.push((message.seq, message.mid, text));
                    }
                    Event::Gap { lost, .. } => shown.lost += lost,
                    _ => {}
                }
            }
        });
        Self { client, shown }
    }

    async fn group(&self, act: GroupAct, name: &str) -> Fate {
        self.client.group(act, name).await.expect("the client goes on").await
    }

    /// Makes a group. A cluster that has just begun may not know yet that all of its nodes know groups.
    async fn create(&self, name: &str) {
        eventually(&format!("{name} is made"), async || match self.group(GroupAct::Create, name).await {
            Fate::Done => Some(()),
            Fate::Refused { code: ErrorCode::UnknownType, .. } => None,
            other => panic!("{other:?}"),
        })
        .await;
    }

    async fn say(&self, group: &str, text: &str) -> Receipt {
        self.client.send(To::Group(group.into()), &text).await.expect("the client goes on")
    }

    async fn stored(&self, group: &str, text: &str) {
        let fate = self.say(group, text).await.await;
        assert!(matches!(fate, Fate::Stored(_)), "{text}: {fate:?}");
    }

    /// Says `count` things, and waits until all are stored.
    async fn talk(&self, group: &str, what: &str, count: usize, pace: Duration) {
        let mut receipts = Vec::new();
        for n in 0..count {
            receipts.push(self.say(group, &format!("{what} {n}")).await);
            clock::sleep(pace).await;
        }
        for receipt in receipts {
            assert!(matches!(receipt.await, Fate::Stored(_)));
        }
    }

    fn messages(&self) -> Vec<(u64, MessageId, String)> {
        self.shown.lock().expect("nobody panics with the lock held").messages.clone()
    }

    fn texts(&self) -> Vec<String> {
        self.messages().into_iter().map(|(_, _, text)| text).collect()
    }

    async fn has(&self, count: usize) {
        eventually(&format!("{count} messages come"), async || (self.messages().len() >= count).then_some(())).await;
    }

    async fn leave_for_now(self) {
        self.client.flush().await;
        self.client.close().await;
    }
}

async fn code(receipt: Fate) -> ErrorCode {
    match receipt {
        Fate::Refused { code, .. } => code,
        other => panic!("not refused: {other:?}"),
    }
}

/// Three members on three nodes, all in one group.
async fn three(cluster: &TestCluster) -> Vec<Member> {
    let mut members = Vec::new();
    for (node, name) in ["alice", "bob", "carol"].into_iter().enumerate() {
        let nodes = [node, (node + 1) % 3, (node + 2) % 3];
        members.push(Member::connect(cluster, name, "phone", &nodes).await);
    }
    members[0].create("g").await;
    for member in &members[1..] {
        assert_eq!(member.group(GroupAct::Join, "g").await, Fate::Done);
    }
    members
}

#[tokio::test]
async fn all_members_see_one_order_and_their_own_messages_in_it() {
    const COUNT: usize = 300;
    let cluster = TestCluster::start(3).await;
    let members = three(&cluster).await;
    let [alice, bob, carol] = &members[..] else { panic!("three") };
    tokio::join!(
        alice.talk("g", "alice", COUNT, Duration::ZERO),
        bob.talk("g", "bob", COUNT, Duration::ZERO),
        carol.talk("g", "carol", COUNT, Duration::ZERO),
    );
    for member in &members {
        member.has(3 * COUNT).await;
    }
    let order = alice.messages();
    assert_eq!(order.len(), 3 * COUNT, "each once");
    assert!(order.is_sorted_by_key(|(seq, ..)| *seq));
    assert!(bob.messages() == order && carol.messages() == order, "one order, at the same places");
    for name in ["alice", "bob", "carol"] {
        let own: Vec<_> = order.iter().filter(|(.., text)| text.starts_with(&format!("g \"{name} "))).collect();
        let expected: Vec<String> = (0..COUNT).map(|n| format!("g \"{name} {n}\"")).collect();
        assert!(own.iter().map(|(.., text)| text).eq(&expected), "in the order sent");
    }
    eventually("the counters agree", async || {
        let mut count = 0.0;
        for node in 0..3 {
            count += cluster.metric(node, "im_gateway_messages_delivered_total", "group").await?;
        }
        (count == 9.0 * COUNT as f64).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_killed_in_mid_stream_costs_a_group_nothing() {
    const COUNT: usize = 200;
    let mut cluster = TestCluster::start(3).await;
    let members = three(&cluster).await;
    let leader = cluster.leader().await;
    let pace = Duration::from_millis(5);
    let crash = async {
        members[0].has(COUNT / 2).await;
        cluster.kill(leader);
        members[(leader + 1) % 3].has(COUNT).await;
        cluster.restart(leader);
    };
    let [alice, bob, carol] = &members[..] else { panic!("three") };
    tokio::join!(
        alice.talk("g", "alice", COUNT, pace),
        bob.talk("g", "bob", COUNT, pace),
        carol.talk("g", "carol", COUNT, pace),
        crash,
    );
    for member in &members {
        member.has(3 * COUNT).await;
        assert!(member.messages().len() == 3 * COUNT && member.messages() == alice.messages());
    }
}

#[tokio::test]
async fn who_joins_later_leaves_or_sleeps_gets_what_is_theirs() {
    let mut cluster = TestCluster::start(3).await;
    let alice = Member::connect(&cluster, "alice", "phone", &[0]).await;
    let bob = Member::connect(&cluster, "bob", "phone", &[1]).await;
    let sleeper = Member::connect(&cluster, "sleeper", "phone", &[2]).await;
    let leaver = Member::connect(&cluster, "leaver", "phone", &[2]).await;
    alice.create("g").await;
    for member in [&sleeper, &leaver] {
        assert_eq!(member.group(GroupAct::Join, "g").await, Fate::Done);
    }
    alice.stored("g", "first").await;
    leaver.has(1).await;
    sleeper.has(1).await;
    sleeper.leave_for_now().await;
    alice.stored("g", "before bob").await;
    assert_eq!(bob.group(GroupAct::Join, "g").await, Fate::Done);
    assert_eq!(bob.group(GroupAct::Join, "g").await, Fate::Done, "once more is as once");
    alice.stored("g", "before the leave").await;
    assert_eq!(leaver.group(GroupAct::Leave, "g").await, Fate::Done);
    assert_eq!(leaver.group(GroupAct::Leave, "g").await, Fate::Done, "once more is as once");
    assert_eq!(code(leaver.say("g", "from outside").await.await).await, ErrorCode::NotMember);
    alice.stored("g", "after the leave").await;
    // A device that is new gets what comes from now on.
    let tablet = Member::connect(&cluster, "bob", "tablet", &[0]).await;
    assert_eq!(tablet.group(GroupAct::Join, "g").await, Fate::Done, "bob is a member already");
    // All of it survives a restart of everything.
    for node in 0..3 {
        cluster.kill(node);
    }
    for node in 0..3 {
        cluster.restart(node);
    }
    alice.stored("g", "last").await;
    let sleeper = Member::connect(&cluster, "sleeper", "phone", &[1]).await;
    let texts = |texts: &[&str]| texts.iter().map(|text| format!("g {}", json!(text))).collect::<Vec<_>>();
    let all = ["first", "before bob", "before the leave", "after the leave", "last"];
    let cases =
        [(&alice, &all[..]), (&sleeper, &all[1..]), (&bob, &all[2..]), (&tablet, &all[4..]), (&leaver, &all[..3])];
    for (member, expected) in cases {
        member.has(expected.len()).await;
    }
    alice.stored("g", "the very last").await;
    bob.has(4).await;
    for (member, expected) in cases {
        let mut expected = texts(expected);
        let mut got = member.texts();
        if got.last().is_some_and(|last| last.contains("the very last")) {
            got.pop();
        }
        assert_eq!(got, std::mem::take(&mut expected));
    }
    assert!(leaver.texts().iter().all(|text| !text.contains("the very last")), "who left gets nothing more");
    let members = alice.client.members("g", None).await.expect("a member may know");
    assert_eq!(members, (["alice", "bob", "sleeper"].map(str::to_owned).to_vec(), false));
}

#[tokio::test]
async fn each_limit_and_each_mistake_has_its_answer() {
    let options = Options { groups: "members = 2\nper_user = 2".into(), ..Options::default() };
    let cluster = TestCluster::start_with(3, options).await;
    let alice = Member::connect(&cluster, "alice", "phone", &[0]).await;
    let bob = Member::connect(&cluster, "bob", "phone", &[1]).await;
    let carol = Member::connect(&cluster, "carol", "phone", &[2]).await;
    alice.create("g1").await;
    assert_eq!(alice.group(GroupAct::Create, "g1").await, Fate::Done, "its maker's repeat");
    assert_eq!(code(bob.group(GroupAct::Create, "g1").await).await, ErrorCode::GroupExists);
    assert_eq!(code(bob.group(GroupAct::Join, "g2").await).await, ErrorCode::UnknownGroup);
    assert_eq!(code(bob.say("g2", "anybody?").await.await).await, ErrorCode::UnknownGroup);
    assert_eq!(code(bob.say("g1", "let me in").await.await).await, ErrorCode::NotMember);
    assert_eq!(bob.client.members("g1", None).await, Err(Some(ErrorCode::NotMember)));
    assert_eq!(bob.client.members("g2", None).await, Err(Some(ErrorCode::UnknownGroup)));
    assert_eq!(bob.group(GroupAct::Join, "g1").await, Fate::Done);
    assert_eq!(code(carol.group(GroupAct::Join, "g1").await).await, ErrorCode::GroupFull);
    assert_eq!(alice.group(GroupAct::Create, "g2").await, Fate::Done);
    assert_eq!(code(alice.group(GroupAct::Create, "g3").await).await, ErrorCode::TooManyGroups);
    let refused = cluster.metric(0, "im_gateway_error_answers_total", "code=\"too_many_groups\"").await;
    assert_eq!(refused, Some(1.0));
    assert_eq!(alice.client.members("g1", None).await, Ok((vec!["alice".into(), "bob".into()], false)));
    assert_eq!(alice.client.members("g1", Some("alice")).await, Ok((vec!["bob".into()], false)));
    // The last to leave ends it, and the name is free.
    assert_eq!(alice.group(GroupAct::Leave, "g2").await, Fate::Done);
    assert_eq!(code(alice.say("g2", "anybody?").await.await).await, ErrorCode::UnknownGroup);
    assert_eq!(carol.group(GroupAct::Create, "g2").await, Fate::Done);
    // A repeat of a refused send is refused again, whatever has changed.
    let mut raw = Raw::welcome(&cluster.addr(0), "dave", "phone").await;
    let send = json!({"id": 7, "send": {"group": "g2", "key": "k", "body": 1}});
    raw.send(send.clone()).await;
    assert_eq!(raw.answer(7).await["error"]["code"], "not_member");
    raw.send(json!({"id": 8, "group": {"join": "g2"}})).await;
    assert_eq!(raw.answer(8).await["ok"], json!({}));
    raw.send(send).await;
    assert_eq!(raw.answer(7).await["error"]["code"], "not_member");
    raw.send(json!({"id": 9, "group": {"create": "g9", "join": "g9"}})).await;
    assert_eq!(raw.answer(9).await["error"]["code"], "bad_frame");
}

#[tokio::test]
async fn who_lags_behind_a_busy_group_is_told_how_much_is_lost() {
    let left = lags_behind("inbox_messages = 16", 100, 0).await;
    assert!((13..=16).contains(&left), "an eighth of 16 is dropped at once: {left}");
}

/// Where few large messages fill the log, it is not emptied.
#[tokio::test]
async fn who_lags_behind_a_group_of_large_messages_keeps_most_of_what_there_is_room_for() {
    let left = lags_behind("inbox_bytes = 1048576", 60, 60_000).await;
    assert!((14..=17).contains(&left), "an eighth of 17 is dropped at once: {left}");
}

/// How many messages of so many bytes, of so many sent, wait for a member who was away.
async fn lags_behind(limit: &str, count: usize, padding: usize) -> usize {
    let cluster = TestCluster::start_with(3, Options { replicated_limits: limit.into(), ..Options::default() }).await;
    let alice = Member::connect(&cluster, "alice", "phone", &[0]).await;
    let sleeper = Member::connect(&cluster, "sleeper", "phone", &[1]).await;
    alice.create("g").await;
    assert_eq!(sleeper.group(GroupAct::Join, "g").await, Fate::Done);
    eventually("all nodes know all features", async || {
        (cluster.status(0).await?["feature_level"] == FEATURE_LEVEL).then_some(())
    })
    .await;
    sleeper.leave_for_now().await;
    for n in 0..count {
        alice.stored("g", &format!("{n}{}", " ".repeat(padding))).await;
    }
    alice.has(count).await;
    let sleeper = Member::connect(&cluster, "sleeper", "phone", &[2]).await;
    eventually("all is accounted for", async || {
        let shown = sleeper.shown.lock().expect("nobody panics with the lock held");
        (shown.lost as usize + shown.messages.len() == count).then_some(())
    })
    .await;
    assert_eq!(sleeper.messages().last(), alice.messages().last());
    let mut failed = 0.0;
    for node in 0..3 {
        let name = "im_gateway_messages_failed_total";
        failed += cluster.metric(node, name, "type=\"group\"").await.unwrap_or_default();
    }
    let lost = sleeper.shown.lock().expect("nobody panics with the lock held").lost;
    assert!(failed >= lost as f64, "{failed} counted, {lost} told");
    sleeper.messages().len()
}

/// Whose last device is forgotten stays a member, and the next device gets what was sent meanwhile.
#[tokio::test]
async fn a_member_whose_devices_are_forgotten_stays_one() {
    let cluster = TestCluster::start(3).await;
    let alice = Member::connect(&cluster, "alice", "phone", &[0]).await;
    alice.create("g").await;
    let urls = vec![cluster.url(1)];
    let builder = Client::builder(Arc::new(Tcp), urls, Arc::new(token("guest")), "tab");
    let guest = builder.ephemeral(true).connect().expect("the URL is good");
    assert_eq!(guest.group(GroupAct::Join, "g").await.expect("it goes on").await, Fate::Done);
    guest.close().await;
    eventually("the tab is forgotten", async || (cluster.status(0).await?["totals"]["devices"] == 1).then_some(()))
        .await;
    alice.stored("g", "for whoever comes").await;
    let guest = Member::connect(&cluster, "guest", "phone", &[2]).await;
    guest.has(1).await;
    assert_eq!(guest.messages(), alice.messages());
    let (members, more) = guest.client.members("g", None).await.expect("only members know");
    assert_eq!((members, more), (vec!["alice".to_owned(), "guest".to_owned()], false));
    // What its next device has taken, nobody waits for any more.
    guest.stored("g", "here I am").await;
    alice.has(2).await;
}

/// As large as groups can be.
#[tokio::test]
async fn ten_thousand_members() {
    const MEMBERS: usize = 10_000;
    const AT_ONCE: usize = 200;
    const MESSAGES: usize = 100;
    let cluster = TestCluster::start_with(3, Options { admission: "per_s = 0".into(), ..Options::default() }).await;
    let alice = Member::connect(&cluster, "alice", "phone", &[0]).await;
    alice.create("all").await;
    let joins = (1..MEMBERS).map(|n| {
        let addr = cluster.addr(n % 3);
        async move {
            let mut raw = Raw::welcome(&addr, &format!("user-{n:05}"), "phone").await;
            raw.send(json!({"id": 2, "group": {"join": "all"}})).await;
            assert!(raw.answer(2).await["ok"].is_object(), "user {n}");
            // A few stay, the others will find what waits for them.
            if n % 1_000 == 1 {
                Some(raw)
            } else {
                raw.leave().await;
                None
            }
        }
    });
    let here: Vec<Raw> = stream::iter(joins).buffer_unordered(AT_ONCE).filter_map(async |raw| raw).collect().await;
    let late = Member::connect(&cluster, "late", "phone", &[1]).await;
    let refused = late.group(GroupAct::Join, "all").await;
    assert!(matches!(refused, Fate::Refused { code: ErrorCode::GroupFull, .. }), "{refused:?}");

    let mut names = Vec::new();
    loop {
        let (page, more) = alice.client.members("all", names.last().map(String::as_str)).await.expect("a member asks");
        names.extend(page);
        if !more {
            break;
        }
    }
    assert_eq!(names.len(), MEMBERS);
    assert!(names.is_sorted(), "each once, in order");

    let entries = async || cluster.metric(0, "im_gateway_raft_index", "applied").await.expect("a metric");
    let before = entries().await;
    for n in 0..MESSAGES {
        alice.stored("all", &n.to_string()).await;
    }
    let each = (entries().await - before) / MESSAGES as f64;
    assert!(each < 10.0, "{each} entries of the log for a message, and what {} members do meanwhile", here.len());
    for mut raw in here {
        for n in 0..MESSAGES {
            let frame = raw.frame_with("msg").await;
            assert_eq!(frame["msg"]["body"], n.to_string(), "{frame}");
            raw.send(json!({"ack": frame["seq"]})).await;
        }
    }
    // One who was away reads the same, on a node of its own choice.
    let mut raw = Raw::welcome(&cluster.addr(2), "user-00777", "phone").await;
    for n in 0..MESSAGES {
        assert_eq!(raw.frame_with("msg").await["msg"]["body"], n.to_string());
    }
}
