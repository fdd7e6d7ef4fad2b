//! The handshake, message by message.

use super::super::handshake::{Accepting, Dialing, Established, HandshakeError, Refusal, VERSION};
use super::*;

/// Both sides, with `tamper` between them: it sees the number of the message (0 to 3) and may
/// change it. What each side ends with.
fn shake(
    dialer: &Secret,
    acceptor: &Secret,
    want: Option<NodeId>,
    mut tamper: impl FnMut(usize, &mut Vec<u8>),
) -> (Result<Established, HandshakeError>, Result<Established, HandshakeError>) {
    let mut carry = |number, message: Bytes| {
        let mut message = message.to_vec();
        tamper(number, &mut message);
        message
    };
    let refused = |error: HandshakeError| error.refusal().message();
    let (dialing, hello) = Dialing::start(dialer, A, want, [1; 32]);
    let (accepting, challenge) = match Accepting::start(acceptor, B, [2; 32], &carry(0, hello)) {
        Ok(started) => started,
        Err(error) => return (dialing.challenged(&refused(error)).map(|_| unreachable!()), Err(error)),
    };
    let (proving, proof) = match dialing.challenged(&carry(1, challenge)) {
        Ok(challenged) => challenged,
        Err(error) => return (Err(error), Err(HandshakeError::Malformed)),
    };
    match accepting.proved(&carry(2, proof)) {
        Ok((established, welcome)) => (proving.welcomed(&carry(3, welcome)), Ok(established)),
        Err(error) => (proving.welcomed(&refused(error)), Err(error)),
    }
}

fn intact(_: usize, _: &mut Vec<u8>) {}

#[test]
fn two_holders_of_the_secret_agree() {
    let (dialer, acceptor) = shake(&secret(), &secret(), Some(B), intact);
    assert_eq!(dialer, Ok(Established { node: B, version: VERSION, one_off: false }));
    assert_eq!(acceptor, Ok(Established { node: A, version: VERSION, one_off: false }));
    let (dialer, acceptor) = shake(&secret(), &secret(), None, intact);
    assert!(dialer.unwrap().one_off && acceptor.unwrap().one_off);
}

#[test]
fn another_secret_is_refused() {
    let (dialer, acceptor) = shake(&Secret::new("guess"), &secret(), Some(B), intact);
    assert_eq!(acceptor, Err(HandshakeError::Secret));
    assert_eq!(dialer, Err(HandshakeError::Refused(Refusal::Secret)));
}

#[test]
fn an_acceptor_without_the_secret_is_found_out() {
    let (stranger, secret) = (Secret::new("guess"), secret());
    let (dialing, hello) = Dialing::start(&secret, A, Some(B), [1; 32]);
    let (_, challenge) = Accepting::start(&stranger, B, [2; 32], &hello).unwrap();
    let (proving, _) = dialing.challenged(&challenge).unwrap();
    // It pretends to be content with the proof it cannot check, and makes up its own.
    let (own, own_hello) = Dialing::start(&stranger, A, Some(B), [1; 32]);
    let (accepting, own_challenge) = Accepting::start(&stranger, B, [2; 32], &own_hello).unwrap();
    let (_, own_proof) = own.challenged(&own_challenge).unwrap();
    let (_, welcome) = accepting.proved(&own_proof).unwrap();
    assert_eq!(proving.welcomed(&welcome), Err(HandshakeError::Secret));
}

#[test]
fn another_node_is_refused() {
    let (dialer, acceptor) = shake(&secret(), &secret(), Some(C), intact);
    assert_eq!(acceptor, Err(HandshakeError::WrongNode { wanted: C, found: B }));
    assert_eq!(dialer, Err(HandshakeError::Refused(Refusal::WrongNode)));
    // One that answers although it was not wanted.
    let secret = secret();
    let (dialing, _) = Dialing::start(&secret, A, Some(C), [1; 32]);
    let (_, hello) = Dialing::start(&secret, A, Some(B), [1; 32]);
    let (_, challenge) = Accepting::start(&secret, B, [2; 32], &hello).unwrap();
    assert_eq!(dialing.challenged(&challenge).err(), Some(HandshakeError::WrongNode { wanted: C, found: B }));
}

#[test]
fn a_node_does_not_link_to_itself() {
    let secret = secret();
    let (dialing, hello) = Dialing::start(&secret, B, None, [1; 32]);
    assert_eq!(Accepting::start(&secret, B, [2; 32], &hello).err(), Some(HandshakeError::SameNode));
    let (_, other) = Dialing::start(&secret, A, None, [1; 32]);
    let (_, challenge) = Accepting::start(&secret, B, [2; 32], &other).unwrap();
    assert_eq!(dialing.challenged(&challenge).err(), Some(HandshakeError::SameNode));
}

#[test]
fn invalid_node_ids_are_refused() {
    let secret = secret();
    for id in [0, 1 << 53, u64::MAX] {
        let (_, hello) = Dialing::start(&secret, NodeId(id), None, [1; 32]);
        assert_eq!(Accepting::start(&secret, B, [2; 32], &hello).err(), Some(HandshakeError::Malformed));
    }
}

#[test]
fn versions_meet_or_part() {
    let secret = secret();
    let newer = |range| Dialing::start_as(&secret, A, Some(B), [1; 32], range);
    let (_, hello) = newer((VERSION + 1, VERSION + 2));
    let error = Accepting::start(&secret, B, [2; 32], &hello).err().unwrap();
    assert_eq!(error, HandshakeError::Version { oldest: VERSION + 1, newest: VERSION + 2 });
    let (dialing, _) = newer((VERSION + 1, VERSION + 2));
    let told = dialing.challenged(&error.refusal().message()).err();
    assert_eq!(told, Some(HandshakeError::Refused(Refusal::Version)));
    // One that still speaks ours: both end at ours.
    let (dialing, hello) = newer((VERSION, VERSION + 7));
    let (accepting, challenge) = Accepting::start(&secret, B, [2; 32], &hello).unwrap();
    let (proving, proof) = dialing.challenged(&challenge).unwrap();
    let (established, welcome) = accepting.proved(&proof).unwrap();
    assert_eq!((established.version, proving.welcomed(&welcome).unwrap().version), (VERSION, VERSION));
    // A range that is none.
    let (_, hello) = newer((VERSION, VERSION - 1));
    assert!(matches!(Accepting::start(&secret, B, [2; 32], &hello).err(), Some(HandshakeError::Version { .. })));
}

#[test]
fn a_recording_proves_nothing() {
    let secret = secret();
    let (dialing, hello) = Dialing::start(&secret, A, Some(B), [1; 32]);
    let (first, challenge) = Accepting::start(&secret, B, [2; 32], &hello).unwrap();
    let (_, proof) = dialing.challenged(&challenge).unwrap();
    let (_, welcome) = first.proved(&proof).unwrap();
    // The dialer's messages again, to an acceptor with its next nonce.
    let (second, _) = Accepting::start(&secret, B, [3; 32], &hello).unwrap();
    assert_eq!(second.proved(&proof).err(), Some(HandshakeError::Secret));
    // The acceptor's messages again, to a dialer with its next nonce.
    let (dialing, _) = Dialing::start(&secret, A, Some(B), [4; 32]);
    let (proving, _) = dialing.challenged(&challenge).unwrap();
    assert_eq!(proving.welcomed(&welcome), Err(HandshakeError::Secret));
}

#[test]
fn a_proof_sent_back_proves_nothing() {
    let secret = secret();
    let (dialing, hello) = Dialing::start(&secret, A, Some(B), [1; 32]);
    let (_, challenge) = Accepting::start(&secret, B, [2; 32], &hello).unwrap();
    let (proving, proof) = dialing.challenged(&challenge).unwrap();
    let as_welcome = replace(&proof, b"\xa5proof", b"\xa7welcome");
    assert_eq!(proving.welcomed(&as_welcome), Err(HandshakeError::Secret));
}

/// Replaces the first `from`, a map's key, by `to`.
fn replace(message: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = message.windows(from.len()).position(|window| window == from).expect("the key is there");
    [&message[..at], to, &message[at + from.len()..]].concat()
}

#[test]
fn any_change_on_the_way_is_found() {
    let mut lengths = [0; 4];
    let (dialer, _) = shake(&secret(), &secret(), Some(B), |number, message| lengths[number] = message.len());
    assert!(dialer.is_ok());
    for (number, length) in lengths.into_iter().enumerate() {
        for bit in 0..length * 8 {
            let (dialer, _) = shake(&secret(), &secret(), Some(B), |at, message| {
                if at == number {
                    message[bit / 8] ^= 1 << (bit % 8);
                }
            });
            assert!(dialer.is_err(), "message {number}, bit {bit}");
        }
        let (dialer, _) = shake(&secret(), &secret(), Some(B), |at, message| {
            if at == number {
                message.truncate(length - 1);
            }
        });
        assert!(dialer.is_err(), "message {number} cut short");
    }
}

#[test]
fn fields_of_later_versions_are_ignored_and_unknown_reasons_understood() {
    let secret = secret();
    // A hello with one field more than this version knows: MessagePack maps of 5 and 6 entries.
    let (_, hello) = Dialing::start(&secret, A, Some(B), [1; 32]);
    let longer = replace(&hello, b"\xa5hello\x85", b"\xa5hello\x86\xa4zone\xa2eu");
    assert!(Accepting::start(&secret, B, [2; 32], &longer).is_ok());
    let (dialing, _) = Dialing::start(&secret, A, Some(B), [1; 32]);
    let refusal = replace(&Refusal::Busy.message(), b"\xa4busy", b"\xa4lazy");
    assert_eq!(dialing.challenged(&refusal).err(), Some(HandshakeError::Refused(Refusal::Other)));
}

#[test]
fn messages_out_of_place_are_refused() {
    let secret = secret();
    let (dialing, hello) = Dialing::start(&secret, A, Some(B), [1; 32]);
    assert_eq!(dialing.challenged(&hello).err(), Some(HandshakeError::Malformed));
    assert_eq!(Accepting::start(&secret, B, [2; 32], b"").err(), Some(HandshakeError::Malformed));
    let (accepting, challenge) = Accepting::start(&secret, B, [2; 32], &hello).unwrap();
    assert_eq!(Accepting::start(&secret, B, [2; 32], &challenge).err(), Some(HandshakeError::Malformed));
    assert_eq!(accepting.proved(&hello).err(), Some(HandshakeError::Malformed));
}
