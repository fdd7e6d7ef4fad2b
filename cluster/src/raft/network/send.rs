//! Sending a checkpoint to a replica that lags.
//!
//! The manifest goes first; the receiver tells which blobs it lacks, and gets those, piece by piece;
//! then it installs. Invariant: no piece is larger than a link's polite frame, each is asked for an
//! answer within its deadline, and a transfer that was interrupted goes on with the blobs that came.

use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{NetworkError, StreamingError};

use super::wire::{SnapshotCall, SnapshotReply, decode, encode_with};
use super::{reading, rpc_error, unreadable};
use crate::id::NodeId;
use crate::peer::limits::POLITE_PAYLOAD;
use crate::peer::{Kind, Peers};
use crate::raft::checkpoint::{Checkpoint, blob_name};
use crate::raft::types::{TypeConfig, Vote};

/// Bytes of one piece. Half of a polite frame, so that heartbeats pass between two.
pub(super) const CHUNK_BYTES: u64 = POLITE_PAYLOAD as u64 / 2;
/// For the answer to one piece. The receiver may have to sync a whole blob before it.
const CHUNK_DEADLINE: Duration = Duration::from_secs(10);

type Failure = StreamingError<TypeConfig>;

/// One attempt.
pub(super) struct Sending<'a> {
    peers: &'a Peers,
    target: NodeId,
    checkpoint: &'a Checkpoint,
    /// For the answer to the last request: the receiver loads the state before it.
    install_deadline: Duration,
    transfer: u64,
}

/// What one step came to.
enum Step {
    Reply(SnapshotReply),
    /// There is nothing more to send.
    Done(Vote),
}

fn interrupted(why: &str) -> Failure {
    NetworkError::from_string(why).into()
}

impl<'a> Sending<'a> {
    pub(super) fn new(
        peers: &'a Peers,
        target: NodeId,
        checkpoint: &'a Checkpoint,
        install_deadline: Duration,
    ) -> Self {
        Self { peers, target, checkpoint, install_deadline, transfer: rand::random() }
    }

    /// Sends the checkpoint; gives the vote that the receiver holds afterwards.
    pub(super) async fn run(&self, vote: Vote) -> Result<Vote, Failure> {
        let transfer = self.transfer;
        let manifest = self.checkpoint.manifest.encode();
        let (len, crc) = (manifest.len() as u64, crc32fast::hash(&manifest));
        if let Step::Done(vote) = self.step(&SnapshotCall::Begin { transfer, vote, len, crc }).await? {
            return Ok(vote);
        }
        if let Some(vote) = self.object(None, len, &manifest).await? {
            return Ok(vote);
        }
        let missing = match self.step(&SnapshotCall::Missing { transfer }).await? {
            Step::Done(vote) => return Ok(vote),
            Step::Reply(SnapshotReply::Missing(missing)) => missing,
            Step::Reply(_) => return Err(interrupted("an answer that does not fit")),
        };
        for id in missing {
            let Some(blob) = self.checkpoint.manifest.blobs.get(&id) else {
                return Err(interrupted("a blob was asked for that is none of the checkpoint's"));
            };
            // The receiver would refuse what is damaged, again and again, and nobody else would learn of it.
            self.checkpoint.check(id, blob).await.map_err(reading)?;
            if let Some(vote) = self.object(Some(id), blob.len, &Bytes::new()).await? {
                return Ok(vote);
            }
        }
        match self.ask(&SnapshotCall::End { transfer }, &[], self.install_deadline).await? {
            Step::Done(vote) => Ok(vote),
            Step::Reply(_) => Err(interrupted("an answer that does not fit")),
        }
    }

    /// Sends the manifest (`None`, whose bytes are given) or a blob.
    async fn object(&self, blob: Option<u64>, len: u64, manifest: &Bytes) -> Result<Option<Vote>, Failure> {
        let mut offset = 0;
        let mut stuck = 0;
        while offset < len {
            let end = len.min(offset + CHUNK_BYTES);
            let piece = match blob {
                None => manifest.slice(offset as usize..end as usize),
                Some(id) => self.checkpoint.blobs.read(&blob_name(id), offset..end).await.map_err(reading)?,
            };
            let call = SnapshotCall::Chunk { transfer: self.transfer, blob, offset };
            let at = match self.ask(&call, &piece, CHUNK_DEADLINE).await? {
                Step::Done(vote) => return Ok(Some(vote)),
                Step::Reply(SnapshotReply::At(at)) => at,
                Step::Reply(_) => return Err(interrupted("an answer that does not fit")),
            };
            // The receiver may be elsewhere when an answer was lost, but not again and again.
            stuck = if at > offset { 0 } else { stuck + 1 };
            if at > len || stuck > 3 {
                return Err(interrupted("the receiver makes no progress"));
            }
            offset = at;
        }
        Ok(None)
    }

    async fn step(&self, call: &SnapshotCall) -> Result<Step, Failure> {
        self.ask(call, &[], CHUNK_DEADLINE).await
    }

    async fn ask(&self, call: &SnapshotCall, piece: &[u8], deadline: Duration) -> Result<Step, Failure> {
        let request = encode_with(call, piece);
        let answer = self.peers.request(self.target, Kind::SNAPSHOT, request, deadline).await.map_err(rpc_error)?;
        match decode(&answer).map_err(unreadable)? {
            SnapshotReply::Done(vote) => Ok(Step::Done(vote)),
            SnapshotReply::Unknown => Err(interrupted("the receiver has given up the transfer")),
            reply => Ok(Step::Reply(reply)),
        }
    }
}
