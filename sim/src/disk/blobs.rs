//! Large objects in memory.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::env::Blobs;
use cluster::env::blobs::check_name;

use super::User;
use super::faults::Operation;
use crate::coverage;
use crate::dice::Dice;
use crate::evidence::{self, Undergone};

/// The objects of a disk.
#[derive(Default)]
pub struct Objects {
    visible: BTreeMap<String, Bytes>,
    /// Being put; a crash decides whether they arrived.
    coming: BTreeMap<u64, (String, Bytes)>,
    /// Deleted, perhaps not durably so.
    going: BTreeMap<String, Bytes>,
    /// Where a bit was flipped, last.
    flipped: BTreeMap<String, u64>,
    next: u64,
}

impl Objects {
    pub fn is_empty(&self) -> bool {
        self.visible.is_empty()
    }

    fn begin(&mut self, name: &str, bytes: Bytes) -> u64 {
        self.next += 1;
        self.coming.insert(self.next, (name.to_owned(), bytes));
        self.next
    }

    fn complete(&mut self, put: u64) {
        if let Some((name, bytes)) = self.coming.remove(&put) {
            // Syncs the folder, with all that happened to it before.
            self.going.clear();
            self.flipped.remove(&name);
            self.visible.insert(name, bytes);
        }
    }

    fn delete(&mut self, name: &str) {
        if let Some(bytes) = self.visible.remove(name) {
            self.flipped.remove(name);
            self.going.insert(name.to_owned(), bytes);
        }
    }

    /// What a copy of the disk holds.
    pub fn copy(&self) -> Self {
        Self { visible: self.visible.clone(), flipped: self.flipped.clone(), ..Self::default() }
    }

    /// Flips a bit of some object; says of which. No checksum finds it here.
    pub fn flip_bit(&mut self, dice: &Dice) -> Option<String> {
        let at = dice.between(0, (self.visible.len() as u64).checked_sub(1)?);
        let (name, bytes) = self.visible.iter_mut().nth(at as usize)?;
        if bytes.is_empty() {
            return None;
        }
        self.flipped.insert(name.clone(), flip(bytes, dice));
        Some(name.clone())
    }

    /// Decides what became of the unfinished.
    pub fn crash(&mut self, dice: &Dice) {
        for (name, bytes) in std::mem::take(&mut self.going) {
            if dice.one_in(2) {
                self.visible.entry(name).or_insert(bytes);
            }
        }
        for (name, bytes) in std::mem::take(&mut self.coming).into_values() {
            if dice.one_in(2) {
                self.flipped.remove(&name);
                self.visible.insert(name, bytes);
            }
        }
    }
}

/// Flips one bit of bytes that are not empty; says of which.
pub fn flip(bytes: &mut Bytes, dice: &Dice) -> u64 {
    let mut flipped = bytes.to_vec();
    let at = dice.between(0, flipped.len() as u64 - 1) as usize;
    flipped[at] ^= 1 << dice.between(0, 7);
    *bytes = flipped.into();
    evidence::note(Undergone::Flip);
    at as u64
}

/// `Blobs` of one process.
pub struct SimBlobs(pub User);

/// A put that its caller may give up: the disk finishes it all the same, unless the process dies.
struct Put<'a> {
    user: &'a User,
    number: u64,
}

impl Drop for Put<'_> {
    fn drop(&mut self) {
        if self.user.alive().is_ok() {
            self.user.disk.objects().complete(self.number);
        }
    }
}

#[async_trait]
impl Blobs for SimBlobs {
    async fn put(&self, name: &str, parts: Vec<Bytes>) -> io::Result<()> {
        check_name(name)?;
        self.0.meet(Operation::Write)?;
        let bytes = Bytes::from(parts.concat());
        self.0.disk.shared.trace.detail("put", &[bytes.len() as u64], name.as_bytes());
        let number = self.0.disk.objects().begin(name, bytes);
        let put = Put { user: &self.0, number };
        self.0.spin().await;
        if let Err(error) = self.0.meet(Operation::Sync) {
            // It may still be there after a crash.
            std::mem::forget(put);
            return Err(error);
        }
        drop(put);
        Ok(())
    }

    async fn read(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        check_name(name)?;
        self.0.seek().await;
        self.0.meet(Operation::Read)?;
        let bytes = self.0.disk.objects().visible.get(name).cloned().ok_or(ErrorKind::NotFound)?;
        if range.end > bytes.len() as u64 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if range.start > range.end {
            return Err(ErrorKind::InvalidInput.into());
        }
        if self.0.disk.objects().flipped.get(name).is_some_and(|at| range.contains(at)) {
            coverage::reached("a flipped bit was read");
        }
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }

    async fn len(&self, name: &str) -> io::Result<Option<u64>> {
        check_name(name)?;
        self.0.seek().await;
        self.0.meet(Operation::Read)?;
        Ok(self.0.disk.objects().visible.get(name).map(|bytes| bytes.len() as u64))
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        self.0.seek().await;
        self.0.meet(Operation::Read)?;
        Ok(self.0.disk.objects().visible.keys().cloned().collect())
    }

    async fn delete(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.0.seek().await;
        // A full disk lets one delete.
        self.0.meet(Operation::Read)?;
        self.0.disk.objects().delete(name);
        Ok(())
    }
}
