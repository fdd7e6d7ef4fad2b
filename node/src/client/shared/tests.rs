use super::*;

#[tokio::test(start_paused = true)]
async fn typing_is_told_now_and_then_to_each() {
    let shared = Shared::new(0);
    let typed = |to: &str| {
        let mut state = shared.state();
        state.typing(to);
        state.signals.drain(..).count()
    };
    assert_eq!(["bob", "bob", "carol"].map(typed), [1, 0, 1]);
    clock::sleep(TYPING_EVERY).await;
    assert_eq!(["bob", "bob"].map(typed), [1, 0]);
    assert_eq!(shared.state().typed.len(), 1, "who was told long ago is forgotten");
}

fn receive(shared: &Shared, frame: &str) {
    shared.received(ServerFrame::decode(frame).expect("a frame"));
}

#[tokio::test]
async fn why_it_ended_is_told_after_all_else_and_nothing_after_it() {
    let shared = Shared::new(256);
    shared.connected(1, 1_024, None);
    shared.watch(["bob".to_owned()].into_iter());
    let mid = "0".repeat(32);
    let message = format!(r#""msg":{{"mid":"{mid}","from":"bob","device":"d","to":"alice","ts":1,"body":1}}"#);
    receive(&shared, &format!(r#"{{"seq":10,{message}}}"#));
    receive(&shared, r#"{"seq":20,"gap":{"reason":"expired","lost":1}}"#);
    receive(&shared, r#"{"presence":{"user":"bob","status":"online","devices":1,"v":7}}"#);
    assert_eq!(shared.next_frame().as_deref(), Some(r#"{"ack":20}"#));
    let disconnected = || Event::Disconnected { reason: String::new() };
    shared.tell(disconnected());
    shared.stop(Stopped::Closed);
    shared.tell(disconnected());
    shared.watch([String::new()].into_iter());
    let mut told = Vec::new();
    while let Some(event) = shared.next_event().await {
        told.push(event);
    }
    let [Event::Disconnected { .. }, Event::Presence { .. }, items @ .., Event::Stopped(Stopped::Closed)] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert!(matches!(items, [Event::Message(Incoming { seq: 10, .. }), Event::Gap { seq: 20, .. }]), "{items:?}");
}

#[test]
fn no_name_makes_a_frame_too_large_for_any_node() {
    let shared = Shared::new(0);
    shared.connected(1, 1_024, None);
    let mut state = shared.state();
    // The longest that passes for a name; each byte is escaped.
    let name = "\"".repeat(128);
    drop(state.ask_members(&name, Some(name.as_str())));
    state.typing(&name);
    let mut frames = 0;
    while let Some(frame) = state.next_frame() {
        // The least that a node can be configured to take.
        assert!(frame.len() <= 1_024, "{}", frame.len());
        frames += 1;
    }
    assert_eq!(frames, 2);
}
