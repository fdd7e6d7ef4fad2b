use std::collections::BTreeSet;

use bytes::Bytes;
use cluster::id::{DeviceId, GroupId, MessageId, NodeId, Pos, UserId};
use cluster::state::{Body, Destination, GroupAct, Message, Told};
use cluster::trace::Mark;

use super::*;

fn body(text: &str) -> ClientBody<'_> {
    ClientFrame::decode(text).expect("a good frame").body
}

fn code(text: &str) -> (Option<u64>, ErrorCode) {
    let error = ClientFrame::decode(text).expect_err("a bad frame");
    (error.id, error.code)
}

#[test]
fn reads_the_contracts_frames() {
    let text = r#"{"id":1,"hello":{"token":"a.b.c","device":"d1","instance":"x","attempt":3,"ephemeral":true}}"#;
    let frame = ClientFrame::decode(text).unwrap();
    assert_eq!(frame.id, Some(1));
    let ClientBody::Hello(hello) = &frame.body else { panic!("{frame:?}") };
    assert_eq!((hello.token.as_deref(), hello.device.as_deref()), (Some("a.b.c"), Some("d1")));
    assert_eq!((hello.instance.as_deref(), hello.attempt, hello.ephemeral), (Some("x"), 3, true));
    assert_eq!(frame.encode(), text);

    let text = r#"{"id":2,"send":{"to":"bob","key":"k\n","body": { "a" : [1.0e5,"\ud83d"] } }}"#;
    let ClientBody::Send(send) = body(text) else { panic!() };
    assert_eq!((send.to.as_deref(), send.group, send.key.as_ref()), (Some("bob"), None, "k\n"));
    assert_eq!(send.body.get(), r#"{ "a" : [1.0e5,"\ud83d"] }"#, "the bytes as sent");

    assert!(matches!(body(r#"{"ack":813}"#), ClientBody::Ack(813)));
    assert!(matches!(body(r#"{"pong":{}}"#), ClientBody::Pong));
    assert!(matches!(body(r#"{"ping":{},"more":[1]}"#), ClientBody::Ping));
    assert!(matches!(body(r#"{"id":6,"refresh":{"token":"t"}}"#), ClientBody::Refresh(_)));
    let ClientBody::Send(send) = body(r#"{"id":3,"send":{"group":"g","key":"k","body":null,"x":1}}"#) else { panic!() };
    assert_eq!((send.group.as_deref(), send.body.get()), (Some("g"), "null"));
    let ClientBody::Hello(hello) = body(r#"{"hello":{}}"#) else { panic!() };
    assert_eq!(hello.attempt, 1);
}

#[test]
fn tells_bad_frames_from_unknown_ones() {
    let bad = |id| (id, ErrorCode::BadFrame);
    for text in ["", "{", "null", "[]", "7", "{}", "{\"ack\":813}x", "[1,null,null,5]"] {
        assert_eq!(code(text), bad(None), "{text}");
    }
    for text in [r#"{"send":["bob",null,"k",1]}"#, r#"{"id":1.5,"ack":1}"#, r#"{"ack":-1}"#, r#"{"ack":null}"#] {
        assert_eq!(code(text), bad(None), "{text}");
    }
    assert_eq!(code(r#"{"id":1}"#), bad(Some(1)));
    assert_eq!(code(r#"{"id":1,"seq":2}"#), bad(Some(1)));
    assert_eq!(code(r#"{"id":9,"send":{"to":"bob","key":"k"}}"#), bad(Some(9)));
    assert_eq!(code(r#"{"send":{"to":"bob","key":5,"body":1},"id":9}"#), bad(Some(9)));
    assert_eq!(code(r#"{"id":9,"ack":1,"ack":2}"#), bad(Some(9)));
    assert_eq!(code(r#"{"id":9,"ack":1,"ping":{}}"#), bad(Some(9)));
    assert_eq!(code(r#"{"id":9,"hello":null}"#), bad(Some(9)));
    assert_eq!(code(r#"{"id":9,"dance":{}}"#), (Some(9), ErrorCode::UnknownType));
}

#[test]
fn secrets_and_bodies_stay_out_of_debug_output() {
    let shown = format!(
        "{:?} {:?} {:?}",
        body(r#"{"hello":{"token":"SECRET"}}"#),
        body(r#"{"refresh":{"token":"SECRET"}}"#),
        body(r#"{"send":{"to":"b","key":"k","body":"SECRET"}}"#)
    );
    assert!(!shown.contains("SECRET"), "{shown}");
}

#[test]
fn writes_the_contracts_answers() {
    let mid = MessageId([0xab; 16]);
    let hex = mid.to_string();
    let frames = [
        (
            ServerFrame { id: Some(2), body: ServerBody::Ok(Ok { mid: Some(mid), ..Ok::default() }) },
            format!(r#"{{"id":2,"ok":{{"mid":"{hex}"}}}}"#),
        ),
        (ServerFrame { id: Some(6), body: ServerBody::Ok(Ok::default()) }, r#"{"id":6,"ok":{}}"#.into()),
        (
            ServerFrame { id: None, body: ServerBody::Delivered(Delivered { mid, by: "bob".into() }) },
            format!(r#"{{"delivered":{{"mid":"{hex}","by":"bob"}}}}"#),
        ),
        (
            ServerFrame { id: None, body: ServerBody::Gap(900, Gap { reason: GapReason::InboxLimit, lost: 12 }) },
            r#"{"seq":900,"gap":{"reason":"inbox_limit","lost":12}}"#.into(),
        ),
        (ServerFrame { id: None, body: ServerBody::Ping }, r#"{"ping":{}}"#.into()),
        (
            ServerFrame {
                id: Some(2),
                body: ServerBody::Error(ErrorBody { code: ErrorCode::InboxFull, message: "m".into() }),
            },
            r#"{"id":2,"error":{"code":"inbox_full","message":"m"}}"#.into(),
        ),
        (
            ServerFrame { id: None, body: ServerBody::GoAway(GoAway { after_ms: 8200, url: Some("ws://x".into()) }) },
            r#"{"go_away":{"after_ms":8200,"url":"ws://x"}}"#.into(),
        ),
    ];
    for (frame, text) in frames {
        assert_eq!(frame.encode(), text);
        assert_eq!(ServerFrame::decode(&text).unwrap().encode(), text);
    }
    assert!(matches!(ServerFrame::decode(r#"{"brand_new":{"user":"b"}}"#).unwrap().body, ServerBody::Unknown));
    let error = ServerFrame::decode(r#"{"id":1,"error":{"code":"brand_new"}}"#).unwrap();
    assert!(matches!(error.body, ServerBody::Error(ErrorBody { code: ErrorCode::Other, .. })));
}

#[test]
fn a_written_message_reads_back() {
    let message = Message {
        pos: Pos(813),
        mid: MessageId([7; 16]),
        from: UserId::new("al\"ice").unwrap(),
        device: DeviceId::new("d7").unwrap(),
        to: Destination::User(UserId::new("bob").unwrap()),
        origin: NodeId(1),
        ts_ms: 1_767_225_600_123,
        stored_at_ms: 0,
        body: Body::Memory(Bytes::new()),
        told: Told::default(),
        trace: Mark::default(),
    };
    let mut out = Vec::new();
    write_msg(&mut out, &message, b"{ \"x\": 1 }");
    let text = String::from_utf8(out).unwrap();
    let frame = ServerFrame::decode(&text).unwrap();
    let ServerBody::Msg(813, msg) = &frame.body else { panic!("{text}") };
    assert_eq!((msg.from.as_ref(), msg.to.as_deref(), msg.ts), ("al\"ice", Some("bob"), message.ts_ms));
    assert_eq!((msg.mid, msg.body.get()), (message.mid, "{ \"x\": 1 }"));
    assert_eq!(frame.encode(), text, "both ways to write a message agree");
}

#[test]
fn close_codes_say_what_to_do() {
    for code in CloseCode::ALL {
        assert_eq!(CloseCode::from_code(code.code()), Some(code));
    }
    assert!(CloseCode::reconnect(4001) && CloseCode::reconnect(1012) && CloseCode::reconnect(1006));
    assert!(!CloseCode::reconnect(4502) && !CloseCode::reconnect(4777));
}

#[test]
fn a_groups_message_names_the_group() {
    let message = Message {
        pos: Pos(5),
        mid: MessageId([7; 16]),
        from: UserId::new("alice").unwrap(),
        device: DeviceId::new("d7").unwrap(),
        to: Destination::Group(GroupId::new("g1").unwrap()),
        origin: NodeId(1),
        ts_ms: 6,
        stored_at_ms: 0,
        body: Body::Memory(Bytes::new()),
        told: Told::default(),
        trace: Mark::default(),
    };
    let mut text = Vec::new();
    write_msg(&mut text, &message, b"1");
    let mid = "07".repeat(16);
    let expected =
        format!(r#"{{"seq":5,"msg":{{"mid":"{mid}","from":"alice","device":"d7","group":"g1","ts":6,"body":1}}}}"#);
    assert_eq!(String::from_utf8(text).unwrap(), expected);
}

#[test]
fn group_frames() {
    let frame = |text: &str| match ClientFrame::decode(text).unwrap().body {
        ClientBody::Group(group) => (group.join.map(|name| name.into_owned()), group.after.is_some()),
        other => panic!("{other:?}"),
    };
    assert_eq!(frame(r#"{"id":1,"group":{"join":"g"}}"#), (Some("g".into()), false));
    assert_eq!(frame(r#"{"id":1,"group":{"members":"g","after":"a"}}"#), (None, true));
    let text = ClientFrame { id: Some(5), body: ClientBody::Group(Group::act(GroupAct::Create, "g1")) }.encode();
    assert_eq!(text, r#"{"id":5,"group":{"create":"g1"}}"#);
    let ok = ServerFrame::decode(r#"{"id":5,"ok":{"members":["a","b"],"more":true}}"#).unwrap();
    assert!(
        matches!(ok.body, ServerBody::Ok(Ok { members: Some(members), more: Some(true), mid: None }) if members.len() == 2)
    );
}

#[test]
fn every_documented_error_code_is_known_by_its_name() {
    let page = include_str!("../../../docs/protocol.md");
    let (_, table) = page.split_once("## Error codes").expect("a section of them");
    let (table, _) = table.split_once("\n## ").expect("and of something else");
    let documented = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(documented.collect::<BTreeSet<_>>(), ErrorCode::ALL.iter().map(|code| code.name()).collect());
    for code in ErrorCode::ALL {
        assert_eq!(serde_json::to_value(code).unwrap(), code.name());
    }
}
