use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

use super::*;

/// A client's frame, as the library writes it.
fn frame(opcode: OpCode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader { is_final: fin, opcode, mask: Some([1, 2, 0xf3, 4]), ..FrameHeader::default() };
    let mut bytes = Vec::new();
    header.format(payload.len() as u64, &mut bytes).unwrap();
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    unmask(&mut bytes[start..], [1, 2, 0xf3, 4]);
    bytes
}

fn text(payload: &str) -> Vec<u8> {
    frame(OpCode::Data(Data::Text), true, payload.as_bytes())
}

fn decode_all(decoder: &mut Decoder, bytes: &mut [u8]) -> Result<Vec<String>, Violation> {
    let (mut seen, mut at) = (Vec::new(), 0);
    loop {
        let (taken, incoming) = decoder.decode(&mut bytes[at..])?;
        at += taken;
        match incoming {
            Some(incoming) => seen.push(format!("{incoming:?}")),
            None => return Ok(seen),
        }
    }
}

#[test]
fn reads_what_a_client_library_writes() {
    for len in [0, 1, 3, 125, 126, 127, 65_535, 65_536, 70_000] {
        let payload = "ü".repeat(len / 2) + if len % 2 == 1 { "x" } else { "" };
        let mut bytes = text(&payload);
        let whole = bytes.len();
        let mut decoder = Decoder::new(1 << 20);
        assert_eq!(decoder.decode(&mut bytes).unwrap(), (whole, Some(Incoming::Text(Cow::Owned(payload)))), "{len}");
    }
}

#[test]
fn needs_more_at_every_cut() {
    let whole = text(&"y".repeat(300));
    for cut in 0..whole.len() {
        let mut bytes = whole[..cut].to_vec();
        assert_eq!(Decoder::new(1000).decode(&mut bytes), Ok((0, None)));
        assert_eq!(bytes, whole[..cut], "an incomplete frame stays as it was");
    }
}

#[test]
fn puts_fragments_together_with_control_frames_between() {
    let mut bytes = frame(OpCode::Data(Data::Text), false, "grü".as_bytes());
    bytes.extend(frame(OpCode::Control(Control::Ping), true, b"p"));
    bytes.extend(frame(OpCode::Data(Data::Continue), false, b""));
    bytes.extend(frame(OpCode::Control(Control::Pong), true, b""));
    bytes.extend(frame(OpCode::Data(Data::Continue), true, b"n"));
    bytes.extend(text("next"));
    let mut decoder = Decoder::new(10);
    let seen = decode_all(&mut decoder, &mut bytes).unwrap();
    assert_eq!(seen, ["Part", "Ping([112])", "Part", "Pong", "Text(\"grün\")", "Text(\"next\")"]);
    assert!(decoder.partial.is_none(), "nothing is kept");
}

#[test]
fn refuses_violations() {
    let refused = |bytes: Vec<u8>| decode_all(&mut Decoder::new(10), &mut bytes.clone()).unwrap_err();
    let framing = |bytes: Vec<u8>| assert!(matches!(refused(bytes.clone()), Violation::Framing(_)), "{bytes:x?}");
    assert_eq!(refused(text("elevenbytes")), Violation::TooLarge);
    assert_eq!(refused(text("elevenbytes")[..2].to_vec()), Violation::TooLarge, "before the payload arrives");
    let mut parts = frame(OpCode::Data(Data::Text), false, b"123456");
    parts.extend(frame(OpCode::Data(Data::Continue), true, b"12345"));
    assert_eq!(refused(parts), Violation::TooLarge);
    assert_eq!(refused(vec![0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Violation::TooLarge);
    assert_eq!(refused(frame(OpCode::Data(Data::Text), true, &[0xff])), Violation::NotUtf8);
    framing(vec![0x81, 0x01, b'x']);
    framing(vec![0xc1, 0x80]);
    framing(vec![0x83, 0x80]);
    framing(vec![0x8b, 0x80]);
    framing(vec![0x81, 0xfe, 0, 5]);
    framing(vec![0x09, 0x80]);
    framing(vec![0x89, 0xfe]);
    framing(frame(OpCode::Data(Data::Continue), true, b"x"));
    let mut twice = frame(OpCode::Data(Data::Text), false, b"x");
    twice.extend(text("y"));
    framing(twice);
    for payload in [&[3][..], &1005u16.to_be_bytes(), &999u16.to_be_bytes(), &5000u16.to_be_bytes()] {
        framing(frame(OpCode::Control(Control::Close), true, payload));
    }
}

#[test]
fn reads_close_frames() {
    let mut decoder = Decoder::new(10);
    for (payload, code) in [(vec![], None), (vec![3, 0xe8], Some(1000)), (vec![0x0f, 0xa1, b'x'], Some(4001))] {
        let mut bytes = frame(OpCode::Control(Control::Close), true, &payload);
        let len = bytes.len();
        assert_eq!(decoder.decode(&mut bytes), Ok((len, Some(Incoming::Close(code)))));
    }
}

#[test]
fn a_client_library_reads_what_we_write() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
        let payload = "z".repeat(len);
        let mut bytes = b"before".to_vec();
        put_text(&mut bytes, |out| out.extend_from_slice(payload.as_bytes()));
        let mut cursor = std::io::Cursor::new(&bytes[6..]);
        let (header, parsed_len) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
        assert_eq!((parsed_len as usize, header.opcode), (len, OpCode::Data(Data::Text)));
        let read = Frame::from_payload(header, bytes[6 + cursor.position() as usize..].to_vec().into());
        assert_eq!(read.to_text().unwrap(), payload);
    }
    let mut bytes = Vec::new();
    put_close(&mut bytes, 4503, &"ü".repeat(100));
    assert_eq!(bytes.len(), 2 + 2 + 122, "cut at a character");
    bytes.clear();
    put_pong(&mut bytes, b"abc");
    put_bare_close(&mut bytes);
    assert_eq!(bytes, [0x8a, 3, b'a', b'b', b'c', 0x88, 0]);
}

#[test]
fn binary_messages_are_read_whole_where_they_are_wanted() {
    let mut bytes = frame(OpCode::Data(Data::Binary), true, &[1, 255]);
    bytes.extend(frame(OpCode::Data(Data::Binary), false, &[2]));
    bytes.extend(frame(OpCode::Control(Control::Ping), true, b"p"));
    bytes.extend(frame(OpCode::Data(Data::Continue), true, &[3]));
    bytes.extend(text("t"));
    let seen = decode_all(&mut Decoder::with_binary(100), &mut bytes.clone()).unwrap();
    assert_eq!(seen, ["Binary([1, 255])", "Part", "Ping([112])", "Binary([2, 3])", "Text(\"t\")"]);
    let (_, first) = Decoder::new(100).decode(&mut bytes).map(|(taken, first)| (taken, format!("{first:?}"))).unwrap();
    assert_eq!(first, "Some(Binary([]))", "elsewhere it is enough that one begins");
    let mut long = frame(OpCode::Data(Data::Binary), false, &[0; 60]);
    long.extend(frame(OpCode::Data(Data::Continue), true, &[0; 60]));
    assert_eq!(decode_all(&mut Decoder::with_binary(100), &mut long), Err(Violation::TooLarge));
}
