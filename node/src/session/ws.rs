//! WebSocket frames (RFC 6455), the server's side.
//!
//! Why not a library's stream: an idle connection must cost next to nothing, so nothing here owns a
//! buffer unless a message is under way, and frames are unmasked where they lie. Invariant: pure,
//! never panics on any bytes, and holds at most `limit` bytes of a fragmented message.

use std::borrow::Cow;

/// Longest payload of a control frame, in bytes.
const MAX_CONTROL_BYTES: usize = 125;
/// Longest header of a client's frame: 2 bytes, a length of 8, a mask of 4.
const MAX_HEADER_BYTES: usize = 14;

/// What a client's frame is, or completes.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text message.
    Text(Cow<'a, str>),
    /// A binary message; where binary messages are of no interest, one that begins, without its payload.
    Binary(Cow<'a, [u8]>),
    /// To be answered by a pong with the same payload.
    Ping(&'a [u8]),
    /// A sign of life.
    Pong,
    /// One more part of a message, and not the last.
    Part,
    /// The client closes, with this code if it gave one.
    Close(Option<u16>),
}

/// Not what a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Longer than the limit (1009).
    #[error("message too long")]
    TooLarge,
    /// Text that is not UTF-8 (1007).
    #[error("text that is not UTF-8")]
    NotUtf8,
    /// Anything else (1002).
    #[error("{0}")]
    Framing(&'static str),
}

/// Decodes a client's frames.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// Binary messages are read whole, as text is.
    binary: bool,
    /// The beginning of a fragmented message, and what kind it is of.
    partial: Option<(u8, Vec<u8>)>,
}

/// A frame's header.
struct Header {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    header_len: usize,
    payload_len: usize,
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

impl Decoder {
    /// `limit`: longest message, in bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, binary: false, partial: None }
    }

    /// As [`Decoder::new`], for who takes binary messages as well.
    #[must_use]
    pub fn with_binary(limit: usize) -> Self {
        Self { binary: true, ..Self::new(limit) }
    }

    /// Takes the frame at the start of `bytes`, unmasking it there. How many bytes were taken, and
    /// what was found; nothing when more bytes are needed, and then they are as they were.
    ///
    /// # Errors
    /// When the client broke the WebSocket protocol. The connection must be closed then.
    pub fn decode<'a>(&mut self, bytes: &'a mut [u8]) -> Result<(usize, Option<Incoming<'a>>), Violation> {
        let Some(header) = self.header(bytes)? else { return Ok((0, None)) };
        let end = header.header_len + header.payload_len;
        if bytes.len() < end {
            return Ok((0, None));
        }
        let payload = &mut bytes[header.header_len..end];
        unmask(payload, header.mask);
        let incoming = match header.opcode {
            PING => Incoming::Ping(payload),
            PONG => Incoming::Pong,
            CLOSE => Incoming::Close(close_code(payload)?),
            BINARY if !self.binary => Incoming::Binary(Cow::Borrowed(&[])),
            BINARY if header.fin => Incoming::Binary(Cow::Borrowed(payload)),
            TEXT if header.fin => Incoming::Text(Cow::Borrowed(utf8(payload)?)),
            opcode => self.fragment(opcode, payload, header.fin)?,
        };
        Ok((end, Some(incoming)))
    }

    /// Adds to a fragmented message; all of it if this was the last of it.
    fn fragment(&mut self, opcode: u8, payload: &[u8], fin: bool) -> Result<Incoming<'static>, Violation> {
        let (_, partial) = self.partial.get_or_insert_with(|| (opcode, Vec::new()));
        partial.extend_from_slice(payload);
        if !fin {
            return Ok(Incoming::Part);
        }
        let (opcode, whole) = self.partial.take().unwrap_or_default();
        if opcode == BINARY {
            return Ok(Incoming::Binary(Cow::Owned(whole)));
        }
        let text = String::from_utf8(whole).map_err(|_| Violation::NotUtf8)?;
        Ok(Incoming::Text(Cow::Owned(text)))
    }

    /// The header at the start of `bytes`, checked as far as it is there; `None` if more is needed.
    fn header(&self, bytes: &[u8]) -> Result<Option<Header>, Violation> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        if first & 0x70 != 0 {
            return Err(Violation::Framing("a reserved bit is set"));
        }
        if second & 0x80 == 0 {
            return Err(Violation::Framing("the frame is not masked"));
        }
        let short = usize::from(second & 0x7f);
        self.check_opcode(opcode, fin, short)?;
        let (length, length_len) = match (short, rest) {
            (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 2),
            (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 8),
            (126 | 127, _) => return Ok(None),
            (short, _) => (short as u64, 0),
        };
        if (length_len == 2 && length < 126) || (length_len == 8 && length <= 0xffff) {
            return Err(Violation::Framing("the length is not in its shortest form"));
        }
        let room = self.limit - self.partial.as_ref().map_or(0, |(_, partial)| partial.len()).min(self.limit);
        let payload_len = usize::try_from(length).unwrap_or(usize::MAX);
        if opcode < CLOSE && payload_len > room {
            return Err(Violation::TooLarge);
        }
        let header_len = 2 + length_len + 4;
        debug_assert!(header_len <= MAX_HEADER_BYTES);
        let Some(mask) = bytes.get(2 + length_len..header_len) else { return Ok(None) };
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        Ok(Some(Header { fin, opcode, mask, header_len, payload_len }))
    }

    fn check_opcode(&self, opcode: u8, fin: bool, short_len: usize) -> Result<(), Violation> {
        match opcode {
            CLOSE | PING | PONG if !fin => Err(Violation::Framing("a control frame is fragmented")),
            CLOSE | PING | PONG if short_len > MAX_CONTROL_BYTES => {
                Err(Violation::Framing("a control frame is too long"))
            }
            CONTINUATION if self.partial.is_none() => Err(Violation::Framing("nothing to continue")),
            TEXT | BINARY if self.partial.is_some() => Err(Violation::Framing("the message before is not complete")),
            CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG => Ok(()),
            _ => Err(Violation::Framing("unknown opcode")),
        }
    }
}

fn utf8(payload: &[u8]) -> Result<&str, Violation> {
    std::str::from_utf8(payload).map_err(|_| Violation::NotUtf8)
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u32::from_ne_bytes(mask);
    let mut chunks = payload.chunks_exact_mut(4);
    for chunk in &mut chunks {
        let word = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(Violation::Framing("a close frame with half a code")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            utf8(reason)?;
            match code {
                1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(Some(code)),
                _ => Err(Violation::Framing("a close code that must not be sent")),
            }
        }
    }
}

/// Appends a binary frame to `out`.
pub fn put_binary(out: &mut Vec<u8>, payload: &[u8]) {
    put_message(out, BINARY, |out| out.extend_from_slice(payload));
}

/// Appends a text frame to `out`; `write` appends the text.
pub fn put_text(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    put_message(out, TEXT, write);
}

fn put_message(out: &mut Vec<u8>, opcode: u8, write: impl FnOnce(&mut Vec<u8>)) {
    const GUESS: usize = 4;
    let start = out.len();
    out.extend_from_slice(&[0x80 | opcode, 126, 0, 0]);
    write(out);
    let len = out.len() - start - GUESS;
    if len < 126 {
        out[start + 1] = len as u8;
        out.drain(start + 2..start + GUESS);
    } else if let Ok(short) = u16::try_from(len) {
        out[start + 2..start + GUESS].copy_from_slice(&short.to_be_bytes());
    } else {
        out[start + 1] = 127;
        out.splice(start + 2..start + GUESS, (len as u64).to_be_bytes());
    }
}

/// Appends a pong to `out`. `payload` is a ping's, so at most 125 bytes.
pub fn put_pong(out: &mut Vec<u8>, payload: &[u8]) {
    put_control(out, PONG, payload);
}

/// Appends a close frame to `out`; `reason` is cut to what fits.
pub fn put_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let mut end = reason.len().min(MAX_CONTROL_BYTES - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    put_control(out, CLOSE, &payload);
}

/// Appends a close frame without a code to `out`, the answer to one without.
pub fn put_bare_close(out: &mut Vec<u8>) {
    put_control(out, CLOSE, &[]);
}

fn put_control(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let len = payload.len().min(MAX_CONTROL_BYTES);
    out.extend_from_slice(&[0x80 | opcode, len as u8]);
    out.extend_from_slice(&payload[..len]);
}

#[cfg(test)]
mod tests;
