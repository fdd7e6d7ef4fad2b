use std::time::Duration;

use cluster::id::UserId;
use cluster::presence::{Count, Presence};
use cluster::session::Event;

use crate::session::control::Connections;
use crate::session::testing::{Client, rules};

fn presence(user: &str, devices: u32, version: u64) -> Presence {
    Presence { user: UserId::new(user).unwrap(), count: Count { devices, version } }
}

#[tokio::test(start_paused = true)]
async fn watches_are_passed_on_and_bounded() {
    let mut client = Client::welcomed(rules()).await;
    client.say(r#"{"id":3,"watch":{"users":["bob","bob","carol"]}}"#).await;
    assert_eq!(client.hear().await, r#"{"id":3,"ok":{}}"#);
    client.say(r#"{"id":4,"watch":{"users":["dave","eve"]}}"#).await;
    assert!(client.hear().await.starts_with(r#"{"id":4,"error":{"code":"too_many_watches","#));
    client.say(r#"{"id":5,"unwatch":{"users":["bob","nobody"]}}"#).await;
    assert_eq!(client.hear().await, r#"{"id":5,"ok":{}}"#);
    client.say(r#"{"watch":{"users":["dave","eve"]}}"#).await;
    assert_eq!(client.hear().await, r#"{"ok":{}}"#);
    client.say(r#"{"id":6,"watch":{"users":[]}}"#).await;
    assert_eq!(client.hear().await, r#"{"id":6,"ok":{}}"#);
    client.say(r#"{"id":7,"watch":{"users":["\n"]}}"#).await;
    assert!(client.hear().await.starts_with(r#"{"id":7,"error":{"code":"bad_recipient","#));
    client.say(r#"{"id":8,"watch":{}}"#).await;
    assert!(client.hear().await.starts_with(r#"{"id":8,"error":{"code":"bad_frame","#));
    let watched: Vec<String> = client.script.lock().watched.iter().map(ToString::to_string).collect();
    assert_eq!(watched, ["carol", "dave", "eve"]);
}

#[tokio::test(start_paused = true)]
async fn news_are_told_and_not_while_suspended() {
    let mut client = Client::welcomed(rules()).await;
    client.script.lock().presences.extend([presence("bob", 0, 5), presence("carol", 2, 7)]);
    client.script.tell(Event::Presence);
    assert_eq!(client.hear().await, r#"{"presence":{"user":"bob","status":"offline","devices":0,"v":5}}"#);
    assert_eq!(client.hear().await, r#"{"presence":{"user":"carol","status":"online","devices":2,"v":7}}"#);
    client.script.tell(Event::Suspended);
    client.script.lock().presences.push_back(presence("bob", 1, 9));
    client.script.tell(Event::Presence);
    client.silent(Duration::from_secs(1)).await;
    client.script.tell(Event::Registered { epoch: cluster::id::Pos(11) });
    assert_eq!(client.hear().await, r#"{"presence":{"user":"bob","status":"online","devices":1,"v":9}}"#);
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_client_has_no_room_for_waits_outside() {
    let mut client = Client::open_with(rules(), 4096, Connections::new(10)).await;
    client.greet().await;
    let all = 2_000;
    client.script.lock().presences.extend((0..all).map(|version| presence("bob", 1, version)));
    client.script.tell(Event::Presence);
    cluster::env::clock::sleep(Duration::from_secs(1)).await;
    assert!(client.script.lock().presences.len() > 1_000, "so that later news can take its place");
    for version in 0..all {
        assert!(client.hear().await.ends_with(&format!("\"v\":{version}}}}}")));
    }
}
