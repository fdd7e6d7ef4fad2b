//! Raft's messages over the peer links.
//!
//! Invariants: an unreachable node is an error, never a granted vote; every request has a deadline;
//! appends of one leader leave in order and are answered in order.

mod receive;
mod send;
mod serve;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::serve::serve_raft;
pub use self::wire::decode_append;
use self::wire::{decode, encode, encode_append};
use super::checkpoint::Checkpoint;
use super::types::{LeaderId, Member, TypeConfig, Vote};
use crate::id::NodeId;
use crate::peer::{Kind, PeerError, Peers};

/// Appends with entries wait this long for an answer. Not openraft's own budget (a heartbeat
/// interval): a slow disk on the other side is no reason to send the same entries again, and a dead
/// link fails at once.
const APPEND_DEADLINE: Duration = Duration::from_secs(1);
/// Appends to one node without an answer. Above one, so that an entry and the news of its commit do
/// not wait for the previous append's disk write; each holds at most a frame's bytes.
const APPENDS_IN_FLIGHT: usize = 8;

/// Reaches the other nodes by their links.
#[must_use]
pub fn network(peers: Peers) -> Network {
    Network { peers }
}

/// Makes the clients that openraft asks for.
#[derive(Clone)]
pub struct Network {
    peers: Peers,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, _node: &Member) -> Client {
        Client { peers: self.peers.clone(), target, append_deadline: Some(APPEND_DEADLINE) }
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _node: &Member) -> Client {
        Client { peers: self.peers.clone(), target, append_deadline: None }
    }
}

/// The way to one node.
pub struct Client {
    peers: Peers,
    target: NodeId,
    /// For appends; openraft's own when `None`.
    append_deadline: Option<Duration>,
}

fn rpc_error(error: PeerError) -> RPCError<TypeConfig> {
    match error {
        // Trying again at once may help: the link may be back, or the answer was only late.
        PeerError::Deadline | PeerError::Closed => NetworkError::new(&error).into(),
        _ => Unreachable::new(&error).into(),
    }
}

fn unreadable(error: impl std::error::Error + 'static) -> RPCError<TypeConfig> {
    Unreachable::new(&error).into()
}

impl Client {
    async fn ask<T: DeserializeOwned>(
        &self,
        kind: Kind,
        body: Bytes,
        deadline: Duration,
    ) -> Result<T, RPCError<TypeConfig>> {
        let answer = self.peers.request(self.target, kind, body, deadline).await.map_err(rpc_error)?;
        decode(&answer).map_err(unreadable)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        kind: Kind,
        request: &impl Serialize,
        option: &RPCOption,
    ) -> Result<T, RPCError<TypeConfig>> {
        self.ask(kind, encode(request), option.hard_ttl()).await
    }

    fn append_deadline(&self, option: &RPCOption) -> Duration {
        self.append_deadline.unwrap_or_else(|| option.hard_ttl())
    }
}

/// Whether the stream of appends goes on after this answer.
fn goes_on(rpc_last: Option<super::types::LogId>, answer: &StreamAnswer) -> bool {
    match answer {
        Ok(Ok(matching)) => *matching == rpc_last,
        _ => false,
    }
}

type StreamAnswer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Checkpoint;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Kind::APPEND, encode_append(&rpc), self.append_deadline(&option)).await
    }

    /// Pipelined: the next request leaves before the previous one is answered. The links keep the
    /// order, and a request that comes after one that was lost is a conflict, which ends the stream.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, StreamAnswer>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let this: &'s Self = self;
        let deadline = this.append_deadline(&option);
        let answers = input.map(move |rpc| {
            let prev = rpc.prev_log_id;
            let last = rpc.entries.last().map(|entry| entry.log_id).or(prev);
            let body = encode_append(&rpc);
            async move {
                let answer = this.ask::<AppendEntriesResponse<TypeConfig>>(Kind::APPEND, body, deadline).await;
                (last, answer.map(|answer| answer.into_stream_result(prev, last)))
            }
        });
        let answers = answers.buffered(APPENDS_IN_FLIGHT);
        let until_refused = stream::unfold(Some(answers), |answers| async move {
            let mut answers = answers?;
            let (last, answer) = answers.next().await?;
            let rest = goes_on(last, &answer).then_some(answers);
            Some((answer, rest))
        });
        Box::pin(async move { Ok(Box::pin(until_refused) as BoxStream<'s, StreamAnswer>) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Kind::VOTE, &rpc, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Kind::PRE_VOTE, &rpc, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<LeaderId, NodeId, Member, Checkpoint>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = send::Sending::new(&self.peers, self.target, &snapshot.snapshot, option.hard_ttl());
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = sending.run(vote) => Ok(SnapshotResponse::new(sent?)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Kind::TRANSFER, &request, &option).await
    }
}

/// A local failure to read what is to be sent.
fn reading(error: io::Error) -> StreamingError<TypeConfig> {
    use openraft::{ErrorSubject, ErrorVerb, StorageError};
    StorageError::from_io_error(ErrorSubject::Snapshot(None), ErrorVerb::Read, error).into()
}
