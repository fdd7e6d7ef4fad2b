//! Stand-in until network.rs lands: delete this file, and the two lines in mod.rs, then.
use super::*;
use crate::id::NodeId;
use crate::peer::{Kind, PeerError, Peers};
use bytes::Bytes;
use openraft::errors::*;
use openraft::network::*;

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
pub struct Factory(Peers);
pub fn network(p: Peers) -> Factory {
    Factory(p)
}
pub struct Client {
    peers: Peers,
    to: NodeId,
}
impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Client;
    async fn new_client(&mut self, to: NodeId, _n: &Member) -> Client {
        Client { peers: self.0.clone(), to }
    }
}
impl Client {
    async fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
        &self,
        kind: Kind,
        q: &Q,
        option: &RPCOption,
    ) -> Result<A, RPCError<TypeConfig>> {
        let body = postcard::to_stdvec(q).map_err(|e| RPCError::Network(NetworkError::new(&e)))?;
        match self.peers.request(self.to, kind, body.into(), option.hard_ttl()).await {
            Ok(b) => postcard::from_bytes(&b).map_err(|e| RPCError::Network(NetworkError::new(&e))),
            Err(e @ (PeerError::Down | PeerError::Unknown(_))) => Err(RPCError::Unreachable(Unreachable::new(&e))),
            Err(e) => Err(RPCError::Network(NetworkError::new(&e))),
        }
    }
}
impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Checkpoint;
    async fn append_entries(
        &mut self,
        r: AppendEntriesRequest<TypeConfig>,
        o: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Kind::APPEND, &r, &o).await
    }
    async fn vote(
        &mut self,
        r: VoteRequest<TypeConfig>,
        o: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Kind::VOTE, &r, &o).await
    }
    async fn pre_vote(
        &mut self,
        r: VoteRequest<TypeConfig>,
        o: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Kind::PRE_VOTE, &r, &o).await
    }
    async fn transfer_leader(
        &mut self,
        r: TransferLeaderRequest<TypeConfig>,
        o: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Kind::TRANSFER, &r, &o).await
    }
    async fn full_snapshot(
        &mut self,
        _v: Vote,
        _s: openraft::type_config::alias::SnapshotOf<TypeConfig, Checkpoint>,
        _c: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _o: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(StreamingError::Unreachable(Unreachable::new(&AnyError::error("later"))))
    }
}
pub async fn serve_raft(raft: &Raft, kind: Kind, body: Bytes) -> Result<Bytes, String> {
    fn enc<T: serde::Serialize, E: std::fmt::Display>(r: Result<T, E>) -> Result<Bytes, String> {
        let t = r.map_err(|e| e.to_string())?;
        postcard::to_stdvec(&t).map(Bytes::from).map_err(|e| e.to_string())
    }
    let bad = |e: postcard::Error| e.to_string();
    match kind {
        Kind::APPEND => enc(raft.append_entries(postcard::from_bytes(&body).map_err(bad)?).await),
        Kind::VOTE => enc(raft.vote(postcard::from_bytes(&body).map_err(bad)?).await),
        Kind::PRE_VOTE => enc(raft.pre_vote(postcard::from_bytes(&body).map_err(bad)?).await),
        Kind::TRANSFER => enc(raft.handle_transfer_leader(postcard::from_bytes(&body).map_err(bad)?).await),
        _ => Err("later".into()),
    }
}
pub fn config() -> Result<openraft::Config, String> {
    openraft::Config {
        cluster_name: "im-gateway".into(),
        heartbeat_interval: 50,
        election_timeout_min: 250,
        election_timeout_max: 450,
        enable_pre_vote: Some(true),
        purge_batch_size: 256,
        max_in_snapshot_log_to_keep: 20_000,
        replication_lag_threshold: 100_000,
        snapshot_policy: openraft::SnapshotPolicy::Never,
        ..Default::default()
    }
    .validate()
    .map_err(|e| e.to_string())
}
