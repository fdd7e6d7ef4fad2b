//! The client protocol and its WebSocket frames, under arbitrary bytes: nothing panics, nothing is
//! read that was not said, and what was said is read, however it is cut.

use std::borrow::Cow;

use im_gateway::protocol::{
    ClientBody, ClientFrame, ErrorCode, Hello, Refresh, SUBPROTOCOL, Send, ServerBody, ServerFrame,
};
use im_gateway::session::ws::{self, Decoder, Incoming};
use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;

/// Frames as a confused, careless or hostile client might write them.
fn nearly_a_frame() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("{}".to_owned()),
        Just("[]".to_owned()),
        Just("\"x\"".to_owned()),
        Just("1e999".to_owned()),
        Just("{\"token\":\"a.b.c\",\"device\":\"d\",\"attempt\":1}".to_owned()),
        Just("{\"to\":\"bob\",\"key\":\"k\",\"body\":{\"a\":[1,2]}}".to_owned()),
        Just("{\"to\":\"\\ud800\",\"key\":\"k\",\"body\":\"\\ud800\"}".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
    ];
    let name = prop_oneof![
        Just("id"),
        Just("seq"),
        Just("hello"),
        Just("send"),
        Just("ack"),
        Just("ping"),
        Just("pong"),
        Just("refresh"),
        Just("msg"),
        Just("ok"),
        Just("gap"),
        Just("welcome"),
        Just("error"),
        Just("other"),
    ];
    let fields = prop::collection::vec((name, value), 0..4);
    (fields, 0..40_usize, any::<bool>()).prop_map(|(fields, cut, cuts)| {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let mut text = format!("{{{}}}", fields.join(","));
        if cuts {
            let mut cut = cut.min(text.len());
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            text.truncate(cut);
        }
        text
    })
}

fn json(depth: u32) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(depth, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".*", inner, 0..4).prop_map(Value::from_iter),
        ]
    })
}

/// A client's WebSocket frame.
fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Feeds `bytes` in pieces, as a socket would, and notes what comes out.
fn decode_in_pieces(bytes: &[u8], pieces: &[usize], limit: usize) -> (Vec<String>, Option<ws::Violation>) {
    let (mut decoder, mut buffer, mut seen) = (Decoder::new(limit), Vec::new(), Vec::new());
    let mut rest = bytes;
    let mut sizes = pieces.iter().copied().chain(std::iter::repeat(usize::MAX));
    loop {
        loop {
            match decoder.decode(&mut buffer) {
                Ok((taken, Some(incoming))) => {
                    seen.push(format!("{incoming:?}"));
                    buffer.drain(..taken);
                }
                Ok((taken, None)) => {
                    buffer.drain(..taken);
                    break;
                }
                Err(violation) => return (seen, Some(violation)),
            }
        }
        if rest.is_empty() {
            return (seen, None);
        }
        let (piece, after) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
        buffer.extend_from_slice(piece);
        rest = after;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_text_panics(text in ".*") {
        let _ = ClientFrame::decode(&text);
        let _ = ServerFrame::decode(&text);
    }

    #[test]
    fn what_is_nearly_a_frame_is_read_or_refused(text in nearly_a_frame()) {
        match ClientFrame::decode(&text) {
            Ok(frame) => {
                let again = frame.encode();
                let frame = ClientFrame::decode(&again).expect("what we write we can read");
                prop_assert_eq!(frame.encode(), again);
            }
            Err(error) => prop_assert!(matches!(error.code, ErrorCode::BadFrame | ErrorCode::UnknownType)),
        }
        if let Ok(frame) = ServerFrame::decode(&text) {
            prop_assert!(ServerFrame::decode(&frame.encode()).is_ok());
        }
    }

    #[test]
    fn a_body_keeps_its_bytes(id in any::<u64>(), to in ".*", key in ".*", body in json(3), pretty in any::<bool>()) {
        let body = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) };
        let raw = RawValue::from_string(body.unwrap()).unwrap();
        let send = Send { to: Some(to.as_str().into()), group: None, key: key.as_str().into(), body: &raw, trace: None };
        let text = ClientFrame { id: Some(id), body: ClientBody::Send(send) }.encode();
        let frame = ClientFrame::decode(&text).expect("a good frame");
        prop_assert_eq!(frame.id, Some(id));
        let ClientBody::Send(send) = frame.body else { panic!("another type") };
        prop_assert_eq!(send.to, Some(Cow::from(to)));
        prop_assert_eq!(send.key, key);
        prop_assert_eq!(send.body.get(), raw.get());
    }

    #[test]
    fn hellos_and_refreshes_come_through(token in ".*", device in ".*", attempt in any::<u64>(), ephemeral in any::<bool>()) {
        let hello = Hello {
            token: Some(token.as_str().into()),
            device: Some(device.as_str().into()),
            instance: None,
            attempt,
            ephemeral,
        };
        let text = ClientFrame { id: None, body: ClientBody::Hello(hello) }.encode();
        let ClientBody::Hello(hello) = ClientFrame::decode(&text).unwrap().body else { panic!("another type") };
        prop_assert_eq!((hello.token.as_deref(), hello.device.as_deref()), (Some(token.as_str()), Some(device.as_str())));
        prop_assert_eq!((hello.attempt, hello.ephemeral), (attempt, ephemeral));
        let text = ClientFrame { id: None, body: ClientBody::Refresh(Refresh { token: token.as_str().into() }) }.encode();
        let ClientBody::Refresh(refresh) = ClientFrame::decode(&text).unwrap().body else { panic!("another type") };
        prop_assert_eq!(refresh.token, token);
    }

    #[test]
    fn no_bytes_break_the_websocket_decoder(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        pieces in prop::collection::vec(1..50_usize, 0..20),
    ) {
        let whole = decode_in_pieces(&bytes, &[], 100);
        prop_assert_eq!(decode_in_pieces(&bytes, &pieces, 100), whole, "the cuts make no difference");
    }

    #[test]
    fn messages_come_out_however_they_are_cut(
        messages in prop::collection::vec(("(?s).{0,40}", prop::collection::vec(0..40_usize, 0..4), any::<[u8; 4]>()), 0..6),
        pieces in prop::collection::vec(1..30_usize, 0..40),
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (text, cuts, mask) in &messages {
            // The same message in fragments, a ping after each.
            let mut rest = text.as_bytes();
            let mut opcode = 1;
            for cut in cuts {
                let (fragment, after) = rest.split_at((*cut).min(rest.len()));
                bytes.extend(masked(opcode, fragment, *mask));
                expected.push(format!("{:?}", Incoming::Part));
                bytes.extend(masked(0x89, b"?", *mask));
                expected.push(format!("{:?}", Incoming::Ping(b"?")));
                (rest, opcode) = (after, 0);
            }
            bytes.extend(masked(0x80 | opcode, rest, *mask));
            expected.push(format!("{:?}", Incoming::Text(text.as_str().into())));
        }
        prop_assert_eq!(decode_in_pieces(&bytes, &pieces, 1000), (expected, None));
    }

    #[test]
    fn what_we_write_is_a_frame(text in "(?s).{0,300}", long in prop_oneof![Just(0_usize), 100..200_usize, 65_400..65_700_usize]) {
        let text = text + &"x".repeat(long);
        let mut out = Vec::new();
        ws::put_text(&mut out, |out| out.extend_from_slice(text.as_bytes()));
        // Ours to a client are unmasked; masked they must be what a client would have written.
        let header = match text.len() { 0..126 => 2, 126..0x1_0000 => 4, _ => 10 };
        let frame = masked(0x81, text.as_bytes(), [0; 4]);
        prop_assert_eq!(out[0], frame[0]);
        prop_assert_eq!(out[1] | 0x80, frame[1]);
        prop_assert_eq!(&out[2..header], &frame[2..header]);
        prop_assert_eq!(&out[header..], text.as_bytes());
    }
}

#[test]
fn the_name_is_the_contracts() {
    assert_eq!(SUBPROTOCOL, "imgw.v1.json");
    let presence = ServerFrame::decode(r#"{"presence":{"user":"bob","status":"online","v":91}}"#).unwrap();
    assert!(matches!(presence.body, ServerBody::Presence(_)));
    let unknown = ServerFrame::decode(r#"{"brand_new":{"user":"bob"}}"#).unwrap();
    assert!(matches!(unknown.body, ServerBody::Unknown));
}
