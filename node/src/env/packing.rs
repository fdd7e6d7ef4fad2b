//! How records are laid out in sled's one tree.
//!
//! Invariant: nothing stored is larger than [`CHUNK`]. Sled moves what is larger than a quarter of
//! its segments, whole leaves included, to files of their own that it never syncs; a power cut would
//! leave pointers to nothing. So large values are split, and the tree stays in the one file that
//! [`super::SledKv`] syncs.
//!
//! ```text
//! 'r' key           0 value                    a record
//! 'r' key           1 id:u64 len:u32           a record whose value is in chunks
//! 'c' id:u64 n:u32  bytes                      its n-th chunk
//! ```

use std::io;

use bytes::{BufMut, Bytes, BytesMut};

/// Longest key, in bytes.
pub const MAX_KEY: usize = 256;
/// Longest value, in bytes.
pub const MAX_VALUE: usize = 16 << 20;
/// Longest stored value, in bytes. A leaf holds up to about 20, an object up to [`SEGMENT`] / 4.
pub const CHUNK: usize = 16 << 10;
/// Sled's segments, in bytes.
pub const SEGMENT: usize = 2 << 20;

const RECORD: u8 = b'r';
const PART: u8 = b'c';
const INLINE: u8 = 0;
const SPLIT: u8 = 1;

/// Where a record is.
pub fn record_key(key: &[u8]) -> Vec<u8> {
    [&[RECORD], key].concat()
}

/// The caller's key of a stored record.
pub fn caller_key(stored: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&stored[1..])
}

/// Where chunk `n` of value `id` is.
pub fn part_key(id: u64, n: u32) -> [u8; 13] {
    let mut key = [PART; 13];
    key[1..9].copy_from_slice(&id.to_be_bytes());
    key[9..].copy_from_slice(&n.to_be_bytes());
    key
}

/// The id in a chunk's key; `None` for other keys.
pub fn part_id(stored: &[u8]) -> Option<u64> {
    let (&tag, rest) = stored.split_first()?;
    (tag == PART).then(|| rest.first_chunk().map(|id| u64::from_be_bytes(*id)))?
}

/// A value in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Names its chunks.
    pub id: u64,
    /// Its length, in bytes.
    pub len: u32,
}

impl Split {
    /// How many chunks it has.
    pub fn parts(self) -> u32 {
        self.len.div_ceil(CHUNK as u32)
    }

    /// What the record says.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(13);
        out.put_u8(SPLIT);
        out.put_u64(self.id);
        out.put_u32(self.len);
        out
    }
}

/// What a record holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// The value itself.
    Inline(&'a [u8]),
    /// The place of its chunks.
    Split(Split),
}

/// A record that holds its value itself.
pub fn inline(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + value.len());
    out.put_u8(INLINE);
    out.put_slice(value);
    out
}

/// Reads a record.
///
/// # Errors
/// `InvalidData` when it was not written by this module.
pub fn decode(stored: &[u8]) -> io::Result<Record<'_>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a stored record is damaged");
    match stored.split_first() {
        Some((&INLINE, value)) => Ok(Record::Inline(value)),
        Some((&SPLIT, rest)) if rest.len() == 12 => {
            let (id, len) = rest.split_at(8);
            let id = u64::from_be_bytes(id.try_into().map_err(|_| damaged())?);
            let len = u32::from_be_bytes(len.try_into().map_err(|_| damaged())?);
            if len as usize > MAX_VALUE {
                return Err(damaged());
            }
            Ok(Record::Split(Split { id, len }))
        }
        _ => Err(damaged()),
    }
}

/// Puts a value together from its chunks, read by `part`.
///
/// # Errors
/// Those of `part`; `InvalidData` when a chunk is missing or their lengths do not add up.
pub fn join(split: Split, mut part: impl FnMut(u32) -> io::Result<Option<Bytes>>) -> io::Result<Bytes> {
    let mut value = BytesMut::with_capacity(split.len as usize);
    for n in 0..split.parts() {
        if let Some(bytes) = part(n)? {
            value.extend_from_slice(&bytes);
        }
    }
    if value.len() != split.len as usize {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a stored value lacks some of its chunks"));
    }
    Ok(value.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back() {
        assert_eq!(decode(&inline(b"")).unwrap(), Record::Inline(b""));
        assert_eq!(decode(&inline(b"abc")).unwrap(), Record::Inline(b"abc"));
        let split = Split { id: 7, len: CHUNK as u32 + 1 };
        assert_eq!(split.parts(), 2);
        assert_eq!(decode(&split.encode()).unwrap(), Record::Split(split));
        assert_eq!(part_id(&part_key(7, 3)), Some(7));
        assert_eq!(part_id(&record_key(b"c")), None);
        assert_eq!(caller_key(&record_key(b"key")), "key");
    }

    #[test]
    fn damage_is_an_error() {
        for stored in [&b""[..], &[2, 1], &[SPLIT, 0, 0], &[SPLIT; 13]] {
            assert_eq!(decode(stored).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let split = Split { id: 7, len: 10 };
        assert_eq!(join(split, |_| Ok(None)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
