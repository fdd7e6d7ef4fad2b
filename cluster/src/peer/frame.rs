//! The frames of an established link, as a pure codec: bytes in, frames out, no I/O.
//!
//! Invariant: nothing a sender writes makes the decoder panic or hold more memory than
//! the cap it was made with; a header is believed only after its own checksum matched, so a flipped bit
//! in a length cannot make a link wait for bytes that never come.
//!
//! ```text
//! u32 payload length | u8 type | u8 kind | u64 id | u32 crc of payload | u32 crc of the 18 bytes before | payload
//! ```
//! Numbers are big-endian; checksums are CRC-32 (IEEE).

use bytes::{BufMut, Bytes};

use super::Kind;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 22;

/// Most bytes of payload in one frame (64 MiB). Senders should stay at or below
/// [`super::limits::POLITE_PAYLOAD`], or small frames wait behind theirs.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// What is allocated for a payload before any of it has come; doubled as it comes.
const FIRST_ALLOCATION: usize = 64 << 10;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameType {
    /// Wants an answer with the same id.
    Request = 1,
    /// The answer to a request.
    Response = 2,
    /// The request with this id failed at the other side; the payload is a UTF-8 reason.
    Error = 3,
    /// Wants no answer.
    Notify = 4,
    /// Shows life. Either side sends it; nobody answers it.
    Ping = 5,
}

impl FrameType {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Error,
            4 => Self::Notify,
            5 => Self::Ping,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub frame_type: FrameType,
    /// What the payload is; meaningless in a ping.
    pub kind: Kind,
    /// Ties an answer to its request; 0 where there is none.
    pub id: u64,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Bytes,
}

impl Frame {
    /// A ping.
    #[must_use]
    pub const fn ping() -> Self {
        Self { frame_type: FrameType::Ping, kind: Kind(0), id: 0, payload: Bytes::new() }
    }

    /// Bytes on the wire.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// The header; the payload follows it on the wire as it is.
    ///
    /// # Panics
    /// When the payload is longer than [`MAX_PAYLOAD`]: the callers refuse that first.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        assert!(self.payload.len() <= MAX_PAYLOAD, "frame payload above the cap");
        let mut header = [0; HEADER_BYTES];
        let mut out = &mut header[..];
        out.put_u32(u32::try_from(self.payload.len()).expect("the cap is below 4 GiB"));
        out.put_u8(self.frame_type as u8);
        out.put_u8(self.kind.0);
        out.put_u64(self.id);
        out.put_u32(crc32fast::hash(&self.payload));
        let check = crc32fast::hash(&header[..HEADER_BYTES - 4]);
        header[HEADER_BYTES - 4..].copy_from_slice(&check.to_be_bytes());
        header
    }

    /// Appends the whole frame.
    ///
    /// # Panics
    /// As [`Frame::header`].
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.header());
        out.put_slice(&self.payload);
    }
}

/// Why bytes are not frames. The link they came by cannot be trusted further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header's checksum does not match.
    #[error("frame header with a wrong checksum")]
    Header,
    /// The payload's checksum does not match.
    #[error("frame payload with a wrong checksum")]
    Payload,
    /// A type this version does not know.
    #[error("frame of unknown type {0}")]
    Type(u8),
    /// The payload would be longer than the decoder's cap.
    #[error("frame of {0} bytes is above the cap")]
    TooLarge(u32),
}

/// A frame whose payload is still coming.
#[derive(Debug)]
struct Partial {
    frame_type: FrameType,
    kind: Kind,
    id: u64,
    length: usize,
    check: u32,
    payload: Vec<u8>,
}

/// Takes bytes in any pieces and gives frames. One copy per payload byte, into an allocation of
/// exactly the payload's size, so that a small payload kept for long pins nothing else.
#[derive(Debug)]
pub struct Decoder {
    cap: usize,
    header: [u8; HEADER_BYTES],
    have: usize,
    partial: Option<Partial>,
    failed: Option<FrameError>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(MAX_PAYLOAD)
    }
}

impl Decoder {
    /// A decoder that refuses payloads above `cap` bytes.
    #[must_use]
    pub const fn new(cap: usize) -> Self {
        Self { cap, header: [0; HEADER_BYTES], have: 0, partial: None, failed: None }
    }

    /// Bytes allocated for a payload that is not complete yet; never above the cap.
    #[must_use]
    pub fn allocated(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.payload.capacity())
    }

    /// Takes bytes off the front of `input` until a frame is complete or the input is used up
    /// (`None`). Call again with the rest.
    ///
    /// # Errors
    /// When the bytes are not frames; every later call says the same.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.step(input).inspect_err(|error| {
            self.failed = Some(*error);
            self.partial = None;
        })
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        if self.partial.is_none() {
            let taken = take(input, HEADER_BYTES - self.have);
            self.header[self.have..self.have + taken.len()].copy_from_slice(taken);
            self.have += taken.len();
            if self.have < HEADER_BYTES {
                return Ok(None);
            }
            self.have = 0;
            self.partial = Some(parse(&self.header, self.cap)?);
        }
        let Some(partial) = self.partial.as_mut() else { return Ok(None) };
        partial.fill(input);
        if partial.payload.len() < partial.length {
            return Ok(None);
        }
        let Some(partial) = self.partial.take() else { return Ok(None) };
        if crc32fast::hash(&partial.payload) != partial.check {
            return Err(FrameError::Payload);
        }
        let payload = Bytes::from(partial.payload);
        Ok(Some(Frame { frame_type: partial.frame_type, kind: partial.kind, id: partial.id, payload }))
    }
}

impl Partial {
    /// Takes what belongs to this payload, growing by doubling: memory follows the bytes that
    /// really came, not the length that was announced.
    fn fill(&mut self, input: &mut &[u8]) {
        while !input.is_empty() && self.payload.len() < self.length {
            if self.payload.len() == self.payload.capacity() {
                let missing = self.length - self.payload.len();
                self.payload.reserve_exact(missing.min(self.payload.len().max(FIRST_ALLOCATION)));
            }
            let room = self.payload.capacity().min(self.length) - self.payload.len();
            self.payload.extend_from_slice(take(input, room));
        }
    }
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

fn parse(header: &[u8; HEADER_BYTES], cap: usize) -> Result<Partial, FrameError> {
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if crc32fast::hash(&header[..HEADER_BYTES - 4]) != word(HEADER_BYTES - 4) {
        return Err(FrameError::Header);
    }
    let frame_type = FrameType::from_byte(header[4]).ok_or(FrameError::Type(header[4]))?;
    let length = word(0) as usize;
    if length > cap {
        return Err(FrameError::TooLarge(word(0)));
    }
    let id = u64::from(word(6)) << 32 | u64::from(word(10));
    let payload = Vec::with_capacity(length.min(FIRST_ALLOCATION));
    Ok(Partial { frame_type, kind: Kind(header[5]), id, length, check: word(14), payload })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn frame(payload: &'static [u8]) -> Frame {
        Frame {
            frame_type: FrameType::Request,
            kind: Kind::APPEND,
            id: 0x0102_0304_0506_0708,
            payload: Bytes::from_static(payload),
        }
    }

    fn encoded(frame: &Frame) -> BytesMut {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        out
    }

    #[test]
    fn byte_by_byte() {
        let frames = [frame(b"one"), Frame::ping(), frame(b"")];
        let mut wire = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut wire);
        }
        let mut decoder = Decoder::default();
        let mut got = Vec::new();
        for byte in wire.chunks(1) {
            let mut input = byte;
            got.extend(decoder.next(&mut input).unwrap());
        }
        assert_eq!(got, frames);
    }

    #[test]
    fn layout_is_fixed() {
        let wire = encoded(&frame(b"abc"));
        assert_eq!(wire.len(), HEADER_BYTES + 3);
        assert_eq!(wire[..14], [0, 0, 0, 3, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(wire[14..18], crc32fast::hash(b"abc").to_be_bytes());
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let wire = encoded(&frame(b"payload"));
        for bit in 0..wire.len() * 8 {
            let mut bad = wire.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = Decoder::default().next(&mut &bad[..]).unwrap_err();
            let expected = if bit < HEADER_BYTES * 8 { FrameError::Header } else { FrameError::Payload };
            assert_eq!(error, expected, "bit {bit}");
        }
    }

    #[test]
    fn refuses_what_is_above_the_cap_and_stays_failed() {
        let wire = encoded(&frame(b"12345"));
        let mut decoder = Decoder::new(4);
        assert_eq!(decoder.next(&mut &wire[..]), Err(FrameError::TooLarge(5)));
        assert_eq!(decoder.next(&mut &encoded(&frame(b"1"))[..]), Err(FrameError::TooLarge(5)));
    }

    #[test]
    fn refuses_unknown_types() {
        let mut wire = encoded(&frame(b""));
        wire[4] = 9;
        let check = crc32fast::hash(&wire[..HEADER_BYTES - 4]);
        wire[HEADER_BYTES - 4..].copy_from_slice(&check.to_be_bytes());
        assert_eq!(Decoder::default().next(&mut &wire[..]), Err(FrameError::Type(9)));
    }

    #[test]
    fn memory_follows_what_came_not_what_was_announced() {
        const SIZE: usize = 5_000_000;
        let big = Frame { payload: Bytes::from(vec![7; SIZE]), ..frame(b"") };
        let wire = encoded(&big);
        let mut decoder = Decoder::default();
        assert_eq!(decoder.next(&mut &wire[..HEADER_BYTES + 1]), Ok(None));
        assert_eq!(decoder.allocated(), FIRST_ALLOCATION);
        for piece in wire[HEADER_BYTES + 1..wire.len() - 1].chunks(10_000) {
            assert_eq!(decoder.next(&mut &piece[..]), Ok(None));
            assert!(decoder.allocated() <= SIZE);
        }
        assert_eq!(decoder.next(&mut &wire[wire.len() - 1..]), Ok(Some(big)));
        assert_eq!(decoder.allocated(), 0);
    }
}
