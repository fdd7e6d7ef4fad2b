//! The peer decoders against whatever a network can carry: no panic, no memory above the cap, and
//! what was sent is what comes out, however it was cut.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use cluster::id::NodeId;
use cluster::peer::frame::{Decoder, Frame, FrameError, FrameType, HEADER_BYTES};
use cluster::peer::handshake::{Accepting, Dialing, Refusal};
use cluster::peer::{Kind, Secret};
use proptest::prelude::*;

/// Notes the largest allocation of each thread.
struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(size: usize) {
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: hands everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// The largest single allocation, in bytes, that `act` makes, and its result.
fn largest<T>(act: impl FnOnce() -> T) -> (usize, T) {
    LARGEST.set(0);
    let result = act();
    (LARGEST.get(), result)
}

const CAP: usize = 300_000;

/// Feeds `wire` in pieces of the given sizes, over and over.
fn decode(decoder: &mut Decoder, wire: &[u8], pieces: &[usize]) -> (Vec<Frame>, Option<FrameError>) {
    let mut frames = Vec::new();
    let mut rest = wire;
    for size in pieces.iter().cycle() {
        let (mut piece, after) = rest.split_at((*size).min(rest.len()));
        rest = after;
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(piece.is_empty(), "the decoder left bytes behind without a frame");
        if rest.is_empty() {
            return (frames, None);
        }
    }
    unreachable!("there is at least one piece size")
}

fn frame_types() -> impl Strategy<Value = FrameType> {
    prop::sample::select(vec![
        FrameType::Request,
        FrameType::Response,
        FrameType::Error,
        FrameType::Notify,
        FrameType::Ping,
    ])
}

fn payloads() -> impl Strategy<Value = Bytes> {
    let small = prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let large = (60_000..CAP, any::<u8>()).prop_map(|(size, byte)| Bytes::from(vec![byte; size]));
    prop_oneof![6 => small, 1 => large]
}

fn frames() -> impl Strategy<Value = Frame> {
    let kind = any::<u8>().prop_map(Kind);
    (frame_types(), kind, any::<u64>(), payloads()).prop_map(|(frame_type, kind, id, payload)| Frame {
        frame_type,
        kind,
        id,
        payload,
    })
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1..4_usize, 1..100_usize, 1..70_000_usize], 1..20)
}

/// A header with a matching checksum and anything in it.
fn headers() -> impl Strategy<Value = Vec<u8>> {
    let cap = u32::try_from(CAP).expect("small");
    let lengths = prop_oneof![any::<u32>(), 0..1_000_u32, (cap - 2)..(cap + 2)];
    (lengths, any::<[u8; HEADER_BYTES - 8]>(), 0..8_u8).prop_map(|(length, rest, frame_type)| {
        let mut header = length.to_be_bytes().to_vec();
        header.extend(rest);
        header[4] = frame_type;
        let check = crc32fast::hash(&header);
        header.extend(check.to_be_bytes());
        header
    })
}

proptest! {
    #[test]
    fn frames_survive_any_cutting(sent in prop::collection::vec(frames(), 0..8), pieces in pieces()) {
        let mut wire = BytesMut::new();
        for frame in &sent {
            frame.encode(&mut wire);
        }
        prop_assert_eq!(wire.len(), sent.iter().map(Frame::wire_bytes).sum::<usize>());
        let (got, error) = decode(&mut Decoder::new(CAP), &wire, &pieces);
        prop_assert_eq!(error, None);
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(wire in prop::collection::vec(any::<u8>(), 0..2_000), pieces in pieces()) {
        let mut decoder = Decoder::new(CAP);
        let (most, (frames, _)) = largest(|| decode(&mut decoder, &wire, &pieces));
        prop_assert!(most < 4_096, "{} bytes allocated", most);
        prop_assert!(frames.is_empty(), "two checksums match by chance");
    }

    #[test]
    fn memory_follows_the_bytes_that_came(
        header in headers(),
        rest in prop_oneof![Just(0_usize), 0..2_000_usize, 0..CAP],
        pieces in pieces(),
    ) {
        let wire = [header, vec![0; rest]].concat();
        let mut decoder = Decoder::new(CAP);
        let (most, _) = largest(|| decode(&mut decoder, &wire, &pieces));
        prop_assert!(most <= CAP, "{} bytes allocated", most);
        prop_assert!(most <= (2 * wire.len()).max(1 << 16), "{} bytes allocated for {}", most, wire.len());
        prop_assert!(decoder.allocated() <= CAP);
    }

    #[test]
    fn a_damaged_frame_never_passes(
        frame in frames(),
        bit in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        pieces in pieces(),
    ) {
        let mut wire = BytesMut::new();
        frame.encode(&mut wire);
        let mut flipped = wire.clone();
        let bit = bit.index(wire.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        let (got, error) = decode(&mut Decoder::new(CAP), &flipped, &pieces);
        prop_assert!(got.is_empty() && error.is_some(), "{:?}", error);
        let (got, error) = decode(&mut Decoder::new(CAP), &wire[..cut.index(wire.len())], &pieces);
        prop_assert!(got.is_empty() && error.is_none());
    }
}

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

/// Most that any handshake message may make the decoder allocate at once, in bytes.
const HANDSHAKE_CAP: usize = 8_192;

/// The four messages of a handshake that works, and a refusal.
fn conversation(secret: &Secret) -> [Bytes; 5] {
    let (dialing, hello) = Dialing::start(secret, A, Some(B), [1; 32]);
    let (accepting, challenge) = Accepting::start(secret, B, [2; 32], &hello).expect("the secrets match");
    let (_, proof) = dialing.challenged(&challenge).expect("the secrets match");
    let (_, welcome) = accepting.proved(&proof).expect("the secrets match");
    [hello, challenge, proof, welcome, Refusal::Busy.message()]
}

/// Gives `message` to each state of either side. Whether any took it.
fn offer(secret: &Secret, message: &[u8]) -> bool {
    let [hello, challenge, ..] = conversation(secret);
    let (most, taken) = largest(|| {
        let (dialing, _) = Dialing::start(secret, A, Some(B), [1; 32]);
        let (proving, _) = Dialing::start(secret, A, Some(B), [1; 32]).0.challenged(&challenge).expect("as before");
        let (accepting, _) = Accepting::start(secret, B, [2; 32], &hello).expect("as before");
        [
            Accepting::start(secret, B, [2; 32], message).is_ok(),
            dialing.challenged(message).is_ok(),
            accepting.proved(message).is_ok(),
            proving.welcomed(message).is_ok(),
        ]
    });
    assert!(most <= HANDSHAKE_CAP, "{most} bytes allocated");
    taken.contains(&true)
}

/// Bytes, with those that begin a MessagePack array, map, string or number of announced size more
/// often.
fn markers() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), prop::sample::select(vec![0x81, 0x85, 0x91, 0xa5, 0xc0, 0xc6, 0xdb, 0xdd, 0xdf, 0xff])]
}

/// HMAC pads keys with zeros, so these are one key.
fn same_key(one: &[u8], other: &[u8]) -> bool {
    let trimmed = |key: &[u8]| key.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    one[..trimmed(one)] == other[..trimmed(other)]
}

proptest! {
    #[test]
    fn any_bytes_are_no_handshake(message in prop::collection::vec(any::<u8>(), 0..5_000)) {
        prop_assert!(!offer(&Secret::new("s"), &message));
    }

    /// What arbitrary bytes hardly ever hit: messages that are almost right, with lengths that
    /// announce what does not follow, deep nesting, wrong types.
    #[test]
    fn almost_messages_neither_panic_nor_allocate(
        which in 0..5_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), markers()), 1..6),
        tail in prop::collection::vec(markers(), 0..4_000),
    ) {
        let secret = Secret::new("s");
        let mut message = conversation(&secret)[which].to_vec();
        for (at, byte) in edits {
            let at = at.index(message.len());
            message[at] = byte;
        }
        message.extend(tail);
        offer(&secret, &message);
    }

    /// As above, cut off somewhere and filled up with openings of nested values.
    #[test]
    fn nesting_is_limited(
        which in 0..5_usize,
        cut in any::<prop::sample::Index>(),
        opening in prop::sample::select(vec![0x81_u8, 0x91, 0x9f, 0xdd, 0xdf]),
        depth in 0..4_000_usize,
    ) {
        let secret = Secret::new("s");
        let whole = &conversation(&secret)[which];
        let message = [&whole[..cut.index(whole.len())], &vec![opening; depth]].concat();
        offer(&secret, &message);
    }

    #[test]
    fn secrets_must_match(ours in any::<Vec<u8>>(), theirs in any::<Vec<u8>>()) {
        prop_assume!(!same_key(&ours, &theirs));
        let (ours, theirs) = (Secret::new(ours), Secret::new(theirs));
        let [hello, challenge, ..] = conversation(&ours);
        let (accepting, _) = Accepting::start(&theirs, B, [2; 32], &hello).expect("nothing proved yet");
        let (_, proof) = Dialing::start(&ours, A, Some(B), [1; 32]).0.challenged(&challenge).expect("as before");
        prop_assert!(accepting.proved(&proof).is_err());
    }
}
