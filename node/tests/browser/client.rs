//! The protocol client of the page by itself, without the page: what it says, and what it tells its application.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cluster::env::clock;
use serde_json::{Value, json};

use crate::ONE_AT_A_TIME;
use crate::fake::{Fake, Socket};
use crate::webdriver::{Browser, Tab, browser};

const HOUR: Duration = Duration::from_secs(3_600);
const CALM_MS: u64 = 60_000;

/// Starts a client of these URLs. Its tokens are those given, in turn, and from then on the last one; what it tells
/// is in `told`.
const START: &str = "import('/im-gateway.js').then(({ ImGateway }) => { \
    const tokens = JSON.parse(arguments[1]); \
    const tell = (kind) => (what) => void told.push({ [kind]: what }); \
    window.told = []; \
    window.client = new ImGateway({ \
        urls: JSON.parse(arguments[0]), \
        token: async () => (tokens.length > 1 ? tokens.shift() : tokens[0]), \
        device: 'phone', \
        onMessage: tell('message'), \
        onState: tell('state'), \
        onGap: tell('gap'), \
        onPresence: tell('presence'), \
        onWatchRefused: tell('watchRefused'), \
        onRefreshRefused: tell('refreshRefused'), \
    }); \
    client.start(); \
})";
/// The newest of its kind that the client has told.
const LAST: &str = "told.findLast((news) => arguments[0] in news)?.[arguments[0]] ?? null";
/// The names of the states so far.
const STATES: &str = "told.filter((news) => news.state).map((news) => news.state.name)";
/// The addresses that it has tried so far while it had no connection.
const TRIED: &str = "told.filter(({ state }) => state?.name === 'connecting').map(({ state }) => state.url)";

/// The code of the error that a statement throws.
fn thrown(statement: &str) -> String {
    format!("(() => {{ try {{ {statement} }} catch ({{ code }}) {{ return code }} }})()")
}

async fn start<'a>(browser: &'a Browser, fake: &Fake, tokens: &[&str]) -> Tab<'a> {
    let tab = browser.tab(&fake.url).await;
    let urls = json!([fake.ws_url()]);
    tab.eval(START, &[&urls.to_string(), &json!(tokens).to_string()]).await;
    tab
}

/// The client's next frame, whatever it is.
async fn frame(socket: &mut Socket) -> Value {
    serde_json::from_str(&socket.text().await.expect("it is open")).expect("the client speaks JSON")
}

#[tokio::test]
async fn a_node_that_sends_it_away_is_left_only_for_one_that_takes_it() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let (mut here, mut there) = (Fake::start(HOUR).await, Fake::start(HOUR).await);
    let tab = start(&browser, &here, &["t"]).await;
    let (mut departing, _) = here.welcome(CALM_MS, 8).await;
    tab.until("client.state.name === 'online'", &[]).await;
    // Whatever is drawn is the least that can be.
    tab.eval("void (Math.random = () => 0)", &[]).await;
    there.refuse(3);
    let told_at = clock::now();
    departing.send(json!({"go_away": {"after_ms": 1_000, "url": there.ws_url()}})).await;
    let (hesitant, hello) = there.accept().await;
    assert!(told_at.elapsed() >= Duration::from_millis(400), "nodes spread their clients; they keep to it");
    assert!(hello["attempt"].as_u64() > Some(4), "three attempts were refused: {hello}");
    // Served where it was, and on its way again.
    departing.send(json!({"ping": {}})).await;
    assert_eq!(departing.receive().await, json!({"pong": {}}));
    hesitant.close(4001).await;
    // That the cluster ends the older session for one of its own, however late, is nothing to stop at.
    departing.close(4502).await;
    let (mut socket, hello) = there.accept().await;
    assert!(!tab.eval(STATES, &[]).await.as_array().expect("a list").contains(&json!("stopped")));
    socket.welcome(&hello, CALM_MS, 8).await;
    tab.until("client.state.name === 'online' && client.state.url === arguments[0]", &[&there.ws_url()]).await;

    // From here it gets away before anything is lost.
    let before = tab.eval(STATES, &[]).await;
    here.refuse(2);
    socket.send(json!({"go_away": {"after_ms": 1, "url": here.ws_url()}})).await;
    let (mut back, hello) = here.accept().await;
    back.welcome(&hello, CALM_MS, 8).await;
    assert!(socket.text().await.is_none(), "it is left");
    let states = tab.eval(STATES, &[]).await;
    let news = &states.as_array().expect("a list")[before.as_array().expect("a list").len()..];
    assert_eq!(news, [json!("online")], "the application notices nothing");
}

#[tokio::test]
async fn without_the_old_connection_it_is_not_online_before_the_new_one_stands() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let (mut here, mut there) = (Fake::start(HOUR).await, Fake::start(HOUR).await);
    let tab = start(&browser, &here, &["t"]).await;
    let (old, _) = here.welcome(CALM_MS, 8).await;
    tab.until("client.state.name === 'online'", &[]).await;
    tab.eval("client.moveTo(arguments[0])", &[&there.ws_url()]).await;
    let (mut new, hello) = there.accept().await;
    assert_eq!(tab.eval("client.state.name", &[]).await, "online");
    old.close(4001).await;
    let is_there = |name| format!("client.state.name === '{name}' && client.state.url === arguments[0]");
    tab.until(&is_there("connecting"), &[&there.ws_url()]).await;
    new.welcome(&hello, CALM_MS, 8).await;
    tab.until(&is_there("online"), &[&there.ws_url()]).await;
}

#[tokio::test]
async fn all_addresses_are_tried_in_an_order_of_its_own_before_one_is_tried_again() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let fake = Fake::start(HOUR).await;
    let tab = browser.tab(&fake.url).await;
    // What is put in order by numbers that fall is turned around.
    tab.eval("void (Math.random = ((n) => () => 1 / ++n)(1))", &[]).await;
    // Nothing is there.
    let urls = ["a", "b", "c"].map(|path| format!("{}/{path}", fake.ws_url()));
    tab.eval(START, &[&json!(urls).to_string(), &json!(["t"]).to_string()]).await;
    tab.until(&format!("{TRIED}.length >= 6"), &[]).await;
    let [a, b, c] = urls;
    assert_eq!(tab.eval(&format!("{TRIED}.slice(0, 6)"), &[]).await, json!([a, c, b, a, c, b]));
}

#[tokio::test]
async fn what_was_sent_too_long_ago_is_unknown_without_a_connection_too() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(HOUR).await;
    let tab = start(&browser, &fake, &["t"]).await;
    let (mut socket, _) = fake.welcome(CALM_MS, 8).await;
    tab.eval("void (window.fate = client.send('bob', 1).catch(({ code }) => code))", &[]).await;
    assert_eq!(frame(&mut socket).await["send"]["to"], "bob");
    fake.refuse(usize::MAX);
    socket.close(4001).await;
    tab.until("client.state.name !== 'online'", &[]).await;
    // By the clock that can be set: what an application sent before its page was loaded again.
    let sent_before = "client.send('bob', 2, { firstSentAt: Date.now() - 58 * 60_000 }).catch(({ code }) => code)";
    assert_eq!(tab.eval(sent_before, &[]).await, "unknown");
    // By the other one, whatever that says.
    tab.eval("void (performance.now = ((now) => () => now() + 58 * 60_000)(performance.now.bind(performance)))", &[])
        .await;
    assert_eq!(tab.eval("fate", &[]).await, "unknown");
}

#[tokio::test]
async fn what_came_before_the_end_is_told_before_it() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(HOUR).await;
    let tab = start(&browser, &fake, &["t"]).await;
    let (mut socket, _) = fake.welcome(CALM_MS, 8).await;
    for seq in 1..=3 {
        let message =
            json!({"mid": format!("{seq:032x}"), "from": "bob", "device": "d", "to": "alice", "ts": 1, "body": seq});
        socket.send(json!({"seq": seq, "msg": message})).await;
    }
    socket.close(4500).await;
    tab.until("client.state.name === 'stopped'", &[]).await;
    let news = tab.eval("told.slice(-4).map(({ message, state }) => message?.body ?? state.name)", &[]).await;
    assert_eq!(news, json!([1, 2, 3, "stopped"]));
}

#[tokio::test]
async fn an_expired_token_is_replaced_by_a_new_one_and_the_same_one_again_ends_it() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(HOUR).await;
    let tab = start(&browser, &fake, &["first", "second", "third"]).await;
    let (refused, hello) = fake.accept().await;
    assert_eq!(hello["token"], "first");
    refused.close(4501).await;
    let (expired, hello) = fake.welcome(CALM_MS, 8).await;
    assert_eq!(hello["token"], "second");
    expired.close(4501).await;
    let (refused, hello) = fake.accept().await;
    assert_eq!(hello["token"], "third");
    refused.close(4501).await;
    tab.until("client.state.name === 'stopped' && client.state.code === 4501", &[]).await;
    // Each of them was a loss as any other, after which it waits.
    let waits = "told.filter(({ state }) => state?.name === 'waiting' && state.code === 4501).length";
    assert_eq!(tab.eval(waits, &[]).await, json!(3));
    // Whoever starts it again means it.
    tab.eval("client.start()", &[]).await;
    let (_, hello) = fake.welcome(CALM_MS, 8).await;
    assert_eq!((&hello["token"], &hello["attempt"]), (&json!("third"), &json!(4)));
}

#[tokio::test]
async fn watches_keep_to_the_limit_and_those_that_are_refused_are_told() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(HOUR).await;
    let tab = start(&browser, &fake, &["t"]).await;
    let (mut socket, hello) = fake.accept().await;
    let limits = json!({"frame_bytes": 2_048, "send_per_s": 1_000, "inflight": 8, "watches": 2});
    tab.eval("client.watch('a', 'b', 'c')", &[]).await;
    socket.welcome_with(&hello, CALM_MS, &limits).await;
    let asked = frame(&mut socket).await;
    assert_eq!(asked["watch"], json!({"users": ["a", "b"]}));
    socket.send(json!({"id": asked["id"], "ok": {}})).await;
    let told = tab.until(LAST, &["watchRefused"]).await;
    assert_eq!((&told["users"], &told["code"]), (&json!(["c"]), &json!("too_many_watches")));

    tab.eval("void (client.unwatch('a', 'x'), client.watch('b', 'd', 'e', 'd'))", &[]).await;
    assert_eq!(frame(&mut socket).await["unwatch"], json!({"users": ["a"]}));
    let asked = frame(&mut socket).await;
    assert_eq!(asked["watch"], json!({"users": ["d"]}));
    assert_eq!(tab.eval(LAST, &["watchRefused"]).await["users"], json!(["e"]));
    let error = json!({"code": "bad_recipient", "message": "No."});
    socket.send(json!({"id": asked["id"], "error": error})).await;
    tab.until(&format!("({LAST}).code === 'bad_recipient'"), &["watchRefused"]).await;
    assert_eq!(tab.eval(LAST, &["watchRefused"]).await["users"], json!(["d"]));

    // What is no name takes nobody with it.
    for wrong in ["", "a\u{1}", &"x".repeat(129)] {
        let code = tab.eval(&thrown("client.watch('e', arguments[0])"), &[wrong]).await;
        assert_eq!(code, "bad_recipient", "{wrong:?}");
    }

    socket.close(4001).await;
    let (mut socket, hello) = fake.accept().await;
    socket.welcome_with(&hello, CALM_MS, &limits).await;
    assert_eq!(frame(&mut socket).await["watch"], json!({"users": ["b"]}), "nobody else is left");
}

#[tokio::test]
async fn of_another_log_no_old_place_counts() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(HOUR).await;
    let tab = start(&browser, &fake, &["t"]).await;
    let limits = json!({"frame_bytes": 2_048, "send_per_s": 1_000, "inflight": 8, "watches": 2});
    tab.eval("client.watch('bob')", &[]).await;
    let told = "JSON.stringify(told.flatMap(({ gap, presence }) => gap?.seq ?? presence?.v ?? []))";
    for (session, expected) in [(1_000, "[90,900]"), (2_000, "[90,900]"), (500, "[90,900,7,70]")] {
        let (mut socket, hello) = fake.accept().await;
        socket.welcome_as(session, &hello, CALM_MS, &limits).await;
        // A gap that was told already, and word from a node that lags; but by another log both are new.
        let (seq, v) = if session == 1_000 { (900, 90) } else { (70, 7) };
        socket.send(json!({"presence": {"user": "bob", "status": "online", "devices": 1, "v": v}})).await;
        socket.send(json!({"seq": seq, "gap": {"reason": "expired", "lost": 1}})).await;
        while frame(&mut socket).await.get("ack").is_none() {}
        assert_eq!(tab.eval(told, &[]).await, json!(expected), "session {session}");
        socket.close(4001).await;
    }
}

#[tokio::test]
async fn questions_are_asked_until_they_are_answered() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(HOUR).await;
    let exp = clock::wall_ms() / 1_000 + 2;
    let token = format!("e30.{}.x", BASE64_URL_SAFE_NO_PAD.encode(json!({"exp": exp}).to_string()));
    let tab = start(&browser, &fake, &["t", &token]).await;
    let (mut socket, _) = fake.welcome(CALM_MS, 8).await;
    tab.eval("void client.forget('old phone').then((ok) => told.push({ forgotten: ok }))", &[]).await;
    let asked = frame(&mut socket).await;
    assert_eq!(asked["forget"], json!({"device": "old phone"}));
    socket.send(json!({"id": asked["id"], "ok": {}})).await;
    tab.until(LAST, &["forgotten"]).await;

    tab.eval("void client.members('g1', 'bob').then((page) => told.push({ page }))", &[]).await;
    assert_eq!(frame(&mut socket).await["group"], json!({"members": "g1", "after": "bob"}));
    socket.close(4001).await;
    let (mut socket, _) = fake.welcome(4_000, 8).await;
    let asked = frame(&mut socket).await;
    assert_eq!(asked["group"], json!({"members": "g1", "after": "bob"}));
    let page = json!({"members": ["carol"], "more": true});
    socket.send(json!({"id": asked["id"], "ok": page})).await;
    assert_eq!(tab.until(LAST, &["page"]).await, page);
    tab.eval("void client.members('g2').catch(({ code }) => told.push({ code }))", &[]).await;
    let asked = frame(&mut socket).await;
    assert_eq!(asked["group"], json!({"members": "g2"}));
    socket.send(json!({"id": asked["id"], "error": {"code": "not_member", "message": "No."}})).await;
    assert_eq!(tab.until(LAST, &["code"]).await, "not_member");

    // What cannot be said is refused at once, and takes nobody's place.
    for wrong in ["client.send('bob', () => {})", "client.send({}, 1)", "client.group('join')", "client.forget()"] {
        let code = tab.eval(&format!("{wrong}.catch(({{ code }}) => code)"), &[]).await;
        assert_eq!(code, "not_json", "{wrong}");
    }
    for wrong in ["client.typing('x'.repeat(2_048))", "client.read('bob', 'x'.repeat(2_048))"] {
        assert_eq!(tab.eval(&thrown(wrong), &[]).await, "too_large", "{wrong}");
    }

    // Its token has two thirds of its life behind it.
    let asked = frame(&mut socket).await;
    assert_eq!(asked["refresh"], json!({"token": token}));
    socket.send(json!({"id": asked["id"], "error": {"code": "bad_token", "message": "Not this one."}})).await;
    let told = tab.until(LAST, &["refreshRefused"]).await;
    assert_eq!(told, json!({"code": "bad_token", "message": "Not this one."}));

    tab.eval("client.close()", &[]).await;
    for late in ["client.send('bob', 1)", "client.members('g1')"] {
        assert_eq!(tab.eval(&format!("{late}.catch(({{ code }}) => code)"), &[]).await, "closed", "{late}");
    }
}

#[tokio::test]
async fn what_was_said_to_be_read_is_not_remembered_without_end() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = browser().await else { return };
    let mut fake = Fake::start(HOUR).await;
    let tab = start(&browser, &fake, &["t"]).await;
    let (mut socket, _) = fake.welcome(CALM_MS, 8).await;
    tab.until("client.state.name === 'online'", &[]).await;
    let read = "(() => { for (let n = 0; n <= 1000; n++) client.read(`user ${n}`, 'm'); })()";
    tab.eval(read, &[]).await;
    tab.eval("void ['user 1000', 'user 0'].forEach((user) => client.read(user, 'm'))", &[]).await;
    socket.send(json!({"ping": {}})).await;
    let mut said = Vec::new();
    loop {
        let frame = frame(&mut socket).await;
        match frame["read"]["from"].as_str() {
            Some(user) => said.push(user.to_owned()),
            None => break assert_eq!(frame, json!({"pong": {}})),
        }
    }
    assert_eq!(said.len(), 1_002, "each once, and the one that was forgotten once more");
    assert_eq!(said.last().map(String::as_str), Some("user 0"));
}
