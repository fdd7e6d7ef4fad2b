//! The chat as a whole: people in tabs, a cluster of real processes, and the death of one of them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::common::TestCluster;
use crate::webdriver::{Browser, Tab, browser};
use crate::{MARK, ONE_AT_A_TIME, ONLINE, TEXTS};

/// Writes a message as a person does, only faster.
const WRITE: &str = "(document.getElementById('text').value = arguments[0], \
                      document.getElementById('compose').requestSubmit())";
/// What others wrote, in the order shown.
const THEIRS: &str =
    "[...document.querySelectorAll('.message:not(.mine) .bubble')].map((bubble) => bubble.textContent)";
/// What the page's own user wrote, in the order shown.
const MINE: &str = "[...document.querySelectorAll('.message.mine .bubble')].map((bubble) => bubble.textContent)";
/// The last of what others wrote is this.
const LAST_OF_THEIRS: &str =
    "[...document.querySelectorAll('.message:not(.mine) .bubble')].at(-1)?.textContent === arguments[0]";
/// The page says that its user's last message has this mark, in a word for people.
const MARK_IN_WORDS: &str =
    "[...document.querySelectorAll('.message.mine .mark')].at(-1)?.textContent === arguments[0]";
/// The page is connected to this node, and says so: its id, its address, and its button.
const SERVED_BY: &str = "document.getElementById('chat').dataset.node === arguments[0] \
    && document.getElementById('state-detail').textContent === `served by node ${arguments[0]} at ${arguments[1]}` \
    && document.querySelector('#nodes [aria-pressed=\"true\"]')?.textContent === `${arguments[1]} serves you`";
/// The page is connected, to another node than this one.
const ONLINE_ELSEWHERE: &str = "document.getElementById('chat').dataset.state === 'online' \
                                && document.getElementById('chat').dataset.node !== arguments[0]";
/// The page knows that the node at this address is gone.
const KNOWS_DEAD: &str =
    "[...document.querySelectorAll('#nodes button')].some((node) => node.textContent === `${arguments[0]} is down`)";

/// The page says that whom its user writes to is there.
const PEER_ONLINE: &str = "document.getElementById('peer-here').textContent === 'online'";

/// Messages that each writes at most while a node is away: the page shows no more than its last 300.
const MOST_MEANWHILE: usize = 80;

/// A person in a tab, and what they wrote to their only friend.
struct Writer<'a> {
    name: &'a str,
    tab: Tab<'a>,
    written: Vec<String>,
}

impl<'a> Writer<'a> {
    async fn open(browser: &'a Browser, addr: &str, name: &'a str, to: &str) -> Self {
        let tab = browser.tab(&format!("http://{addr}/?user={name}&to={to}")).await;
        tab.until(ONLINE, &[]).await;
        Self { name, tab, written: Vec::new() }
    }

    async fn write(&mut self) {
        self.written.push(format!("{} {}", self.name, self.written.len() + 1));
        self.tab.eval(WRITE, &[self.written.last().expect("it was just put there")]).await;
    }

    /// The last word of this conversation, and what must hold once the other has it: everything of
    /// both sides is there once and in order, and nothing is left without its mark.
    async fn end_with(&mut self, other: &Writer<'_>) {
        self.write().await;
        self.tab.until(MARK, &["delivered"]).await;
        other.tab.until(LAST_OF_THEIRS, &[&self.written[self.written.len() - 1]]).await;
        assert_eq!(other.tab.eval(THEIRS, &[]).await, json!(self.written), "what {} sees", other.name);
        assert_eq!(self.tab.eval(MINE, &[]).await, json!(self.written), "what {} sees of their own", self.name);
        let marks = "[...document.querySelectorAll('.message.mine')].map((item) => item.dataset.state)";
        let marks = self.tab.eval(marks, &[]).await;
        let settled = |mark: &Value| mark == "stored" || mark == "delivered";
        assert!(marks.as_array().expect("a list").iter().all(settled), "{}'s marks: {marks}", self.name);
        // The browser itself complains of the lost connection; the page's code has nothing to say.
        let console = self.tab.console().await;
        assert!(!console.iter().any(|line| line.contains("Uncaught")), "{console:?}");
    }
}

#[tokio::test]
async fn a_conversation_outlives_the_node_that_serves_one_of_them() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut cluster = TestCluster::start(3).await;
    let mut alice = Writer::open(&browser, &cluster.addr(0), "alice", "bob").await;
    let mut bob = Writer::open(&browser, &cluster.addr(1), "bob", "alice").await;
    let doomed = cluster.node_id(1).await;
    alice.tab.until(SERVED_BY, &[&cluster.node_id(0).await, &cluster.addr(0)]).await;
    bob.tab.until(SERVED_BY, &[&doomed, &cluster.addr(1)]).await;
    for writer in [&alice, &bob] {
        writer.tab.until(PEER_ONLINE, &[]).await;
    }
    // By the keyboard, as people do; the rest of the conversation is faster.
    for writer in [&mut alice, &mut bob] {
        writer.written.push("Hello \u{1f44b} <b>\"you\"</b>".to_owned());
        writer.tab.type_into("#text", &format!("{}\n", writer.written[0])).await;
        writer.tab.until(MARK_IN_WORDS, &["delivered"]).await;
    }
    for _ in 0..10 {
        alice.write().await;
        bob.write().await;
    }

    // The node dies with messages of bob's that it took and never answered.
    cluster.signal(1, libc::SIGSTOP);
    for _ in 0..3 {
        bob.write().await;
        alice.write().await;
    }
    assert_eq!(bob.tab.eval(MARK, &["sending"]).await, json!(true));
    cluster.kill(1);
    for _ in 0..MOST_MEANWHILE {
        alice.write().await;
        bob.write().await;
        if bob.tab.eval(ONLINE_ELSEWHERE, &[&doomed]).await == json!(true) {
            break;
        }
    }
    bob.tab.until(ONLINE_ELSEWHERE, &[&doomed]).await;
    let nodes = [(cluster.node_id(0).await, cluster.addr(0)), (cluster.node_id(2).await, cluster.addr(2))];
    let now = bob.tab.eval("document.getElementById('chat').dataset.node", &[]).await;
    let (node, addr) = nodes.iter().find(|(node, _)| now == *node).expect("it is a node that lives");
    bob.tab.until(SERVED_BY, &[node, addr]).await;
    bob.tab.until(KNOWS_DEAD, &[&cluster.addr(1)]).await;
    bob.tab.until(PEER_ONLINE, &[]).await;
    for _ in 0..10 {
        alice.write().await;
        bob.write().await;
    }
    alice.end_with(&bob).await;
    bob.end_with(&alice).await;
    // Nobody but bob had to move.
    assert_eq!(alice.tab.eval(ONLINE_ELSEWHERE, &[&nodes[0].0]).await, json!(false));
}

#[tokio::test]
async fn the_list_shows_who_is_online() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let cluster = TestCluster::start(1).await;
    let alice = Writer::open(&browser, &cluster.addr(0), "alice", "carol").await;
    let mut bob = Writer::open(&browser, &cluster.addr(0), "bob", "alice").await;
    bob.write().await;
    alice.tab.until("document.querySelector('[data-peer=bob] .here')?.textContent === 'online'", &[]).await;
    assert_eq!(alice.tab.eval(PEER_ONLINE, &[]).await, json!(false), "nobody is carol");
    bob.tab.eval("void location.assign('about:blank')", &[]).await;
    let gone = "document.querySelector('[data-peer=bob]') && !document.querySelector('[data-peer=bob] .here')";
    alice.tab.until(gone, &[]).await;
    assert_eq!(alice.tab.eval(ONLINE, &[]).await, json!(true), "she is still there to know");
}

#[tokio::test]
async fn a_message_is_stored_first_and_delivered_when_somebody_comes_for_it() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let cluster = TestCluster::start(1).await;
    // By the forms, as somebody does who was given no link.
    let alice = browser.tab(&format!("http://{}/", cluster.addr(0))).await;
    alice.type_into("#join-name", "alice").await;
    alice.type_into("#join-peer", "carol\n").await;
    alice.until(ONLINE, &[]).await;
    alice.type_into("#text", "for when you come\n").await;
    alice.until(MARK, &["stored"]).await;
    assert_eq!(alice.eval(MARK_IN_WORDS, &["stored"]).await, json!(true));
    // A reload is the same device, and shows what there was.
    let before = device(&alice).await;
    alice.reload().await;
    alice.until(ONLINE, &[]).await;
    assert_eq!(device(&alice).await, before);
    assert_eq!(alice.eval(TEXTS, &[]).await, json!(["for when you come"]));

    let carol = browser.tab(&format!("http://{}/?user=carol", cluster.addr(0))).await;
    // Who writes appears in the list, and is opened by a click.
    carol
        .until("document.querySelector('#peers [data-peer=\"alice\"] .badge')?.textContent.startsWith('1')", &[])
        .await;
    carol.click("#peers [data-peer=\"alice\"]").await;
    assert_eq!(carol.eval(TEXTS, &[]).await, json!(["for when you come"]));
    alice.until(MARK_IN_WORDS, &["delivered"]).await;
}

#[tokio::test]
async fn a_group_is_opened_by_its_name_and_read_by_all_in_it() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let cluster = TestCluster::start(3).await;
    cluster.knows_all_types().await;
    let group = "%23hikers";
    let mut alice = Writer::open(&browser, &cluster.addr(0), "alice", group).await;
    alice.write().await;
    // Stored: so the group is there.
    alice.tab.until(MARK, &["stored"]).await;
    let bob = Writer::open(&browser, &cluster.addr(1), "bob", group).await;
    let carol = Writer::open(&browser, &cluster.addr(2), "carol", group).await;
    for reader in [&bob, &carol] {
        // Who has come in sees what is written from then on.
        while reader.tab.eval(THEIRS, &[]).await == json!([]) {
            alice.write().await;
        }
    }
    alice.write().await;
    let last = alice.written.last().expect("it was written").clone();
    for reader in [&bob, &carol] {
        reader.tab.until(LAST_OF_THEIRS, &[&last]).await;
    }
    alice.tab.until(MARK, &["delivered"]).await;
    assert_eq!(alice.tab.eval(MINE, &[]).await, json!(alice.written), "her own come back, and are shown once");
}

#[tokio::test]
async fn each_tab_is_a_device_of_its_own() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let cluster = TestCluster::start(1).await;
    let first = Writer::open(&browser, &cluster.addr(0), "alice", "bob").await;
    let mut bob = Writer::open(&browser, &cluster.addr(0), "bob", "alice").await;
    bob.write().await;
    first.tab.until(LAST_OF_THEIRS, &["bob 1"]).await;
    let second = Writer::open(&browser, &cluster.addr(0), "alice", "bob").await;
    // A duplicate begins with a copy of all that the first tab remembers, its device too.
    let copy = first.tab.duplicate().await;
    copy.until(ONLINE, &[]).await;
    assert_eq!(copy.eval(TEXTS, &[]).await, json!(["bob 1"]));
    let mut devices = BTreeSet::new();
    for tab in [&first.tab, &second.tab, &copy] {
        devices.insert(device(tab).await);
    }
    assert_eq!(devices.len(), 3, "{devices:?}");

    bob.write().await;
    for tab in [&first.tab, &second.tab, &copy] {
        tab.until(LAST_OF_THEIRS, &["bob 2"]).await;
        // None was told that it is open elsewhere.
        assert_eq!(tab.eval("document.querySelectorAll('.notice').length", &[]).await, json!(0));
    }
    // What came before a second device is the first one's.
    assert_eq!(second.tab.eval(TEXTS, &[]).await, json!(["bob 2"]));
    assert_eq!(first.tab.eval(TEXTS, &[]).await, json!(["bob 1", "bob 2"]));
}

#[tokio::test]
async fn what_a_user_writes_in_one_tab_shows_in_the_other() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let cluster = TestCluster::start(3).await;
    cluster.knows_all_types().await;
    let mut first = Writer::open(&browser, &cluster.addr(0), "alice", "bob").await;
    let second = Writer::open(&browser, &cluster.addr(1), "alice", "carol").await;
    let mut bob = Writer::open(&browser, &cluster.addr(2), "bob", "alice").await;
    first.write().await;
    first.tab.until(MARK, &["delivered"]).await;
    // Where it was written to, as her own and nothing to read.
    let row = "document.querySelector('#peers [data-peer=\"bob\"] .last')?.textContent === 'You: alice 1'";
    second.tab.until(row, &[]).await;
    assert_eq!(second.tab.eval("document.querySelectorAll('#peers .badge').length", &[]).await, json!(0));
    second.tab.click("#peers [data-peer=\"bob\"]").await;
    bob.write().await;
    first.write().await;
    for tab in [&first.tab, &second.tab] {
        tab.until(LAST_OF_THEIRS, &["bob 1"]).await;
        tab.until("document.querySelectorAll('.message.mine').length === 2", &[]).await;
        assert_eq!(tab.eval(MINE, &[]).await, json!(["alice 1", "alice 2"]), "once in each");
    }
    // Nor does a reload show them again.
    second.tab.reload().await;
    second.tab.until(ONLINE, &[]).await;
    bob.write().await;
    second.tab.until(LAST_OF_THEIRS, &["bob 2"]).await;
    assert_eq!(second.tab.eval(MINE, &[]).await, json!(["alice 1", "alice 2"]));
}

/// The name of the device that a page says it is.
async fn device(tab: &Tab<'_>) -> String {
    let device = tab.until("document.getElementById('my-device').textContent", &[]).await;
    device.as_str().expect("text").to_owned()
}
