//! One node's part in the cluster: what the gateway holds.
//!
//! The gateway sees sessions, readiness and status, never Raft: another way of replicating could
//! stand behind these methods.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, RwLock, RwLockReadGuard};

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use crate::config::{ClusterConfig, LogKeeping};
use crate::env::{Blobs, Env, tasks};
use crate::id::{Boot, MessageId, NodeId, UserId};
use crate::liveness::{Draining, Liveness, Quorum};
use crate::observer::Observer;
use crate::peer::{LinkState, Peers};
use crate::raft::{Bodies, LogStore, Raft, StateMachine};
use crate::router::{Router, Tables};
use crate::session::SessionSpec;
use crate::session_handle::Session;
use crate::state::{Destination, Limits, State, Whereabouts};
use crate::status::Status;
use crate::sync::read;
use crate::{identity, membership, proposer, serve};

/// A node's part in the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

/// What the tasks of one node share.
pub(crate) struct Inner {
    pub me: NodeId,
    pub boot: Boot,
    pub config: ClusterConfig,
    /// Where other nodes are told to dial.
    pub peer_addr: String,
    pub raft: Raft,
    pub log: LogStore,
    pub blobs: Arc<dyn Blobs>,
    state: Arc<RwLock<State>>,
    pub bodies: Bodies,
    pub peers: Peers,
    pub router: Arc<Router>,
    pub observer: Arc<dyn Observer>,
    pub quorum: Quorum,
    pub liveness: Liveness,
    pub draining: Draining,
    /// It is to end: that Raft does is no failure.
    stopping: AtomicBool,
    fatal: watch::Sender<Option<String>>,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Storage cannot be opened.
    #[error("{0}")]
    Storage(String),
    /// The identity cannot be read or written.
    #[error("cannot read or write this node's identity: {0}")]
    Identity(#[source] io::Error),
    /// The peer address cannot be listened on.
    #[error("cannot listen for other nodes on {addr}: {error}; is another node running there?")]
    Listen {
        /// The address.
        addr: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Raft refused to start.
    #[error("the replicated log cannot start: {0}")]
    Raft(String),
    /// A fresh node that neither begins a cluster nor joins one.
    #[error(
        "this data directory is fresh: give the address of a cluster to join, or let this node bootstrap a new one"
    )]
    Alone,
}

/// Why an operator's command was not carried out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AdminError(pub String);

impl Cluster {
    /// Opens storage, listens for other nodes and takes up its place; returns once that is under
    /// way. [`Cluster::not_ready`] tells when it serves.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(env: Env, config: ClusterConfig, observer: Arc<dyn Observer>) -> Result<Self, StartError> {
        let (me, boot) = identity::boot(&env).await.map_err(StartError::Identity)?;
        let router = Arc::new(Router::new(me, boot.nonce, observer.clone()));
        let storage = crate::raft::open(&env, router.clone(), config.log.checkpoint)
            .await
            .map_err(|error| StartError::Storage(error.to_string()))?;
        let peers = Peers::new(env.net.clone(), me, config.secret.clone(), observer.clone());
        let state = storage.state.clone();
        let (bodies, log) = (storage.bodies.clone(), storage.log.clone());
        let raft = start_raft(me, &peers, storage, &config.log).await?;
        let initialized = raft.is_initialized().await.map_err(|error| StartError::Raft(error.to_string()))?;
        if !initialized && !config.bootstrap && config.join.is_empty() {
            return Err(StartError::Alone);
        }
        let handler = Arc::new(serve::Served::default());
        let listening = peers.listen(&config.peer_listen, handler.clone()).await;
        let bound = listening.map_err(|error| StartError::Listen { addr: config.peer_listen.clone(), error })?;
        let inner = Arc::new(Inner {
            me,
            boot,
            peer_addr: config.peer_advertise.clone().unwrap_or_else(|| bound.to_string()),
            config,
            raft,
            log,
            blobs: env.blobs,
            state,
            bodies,
            peers,
            router,
            observer,
            quorum: Quorum::new(),
            liveness: Liveness::default(),
            draining: Draining::default(),
            stopping: AtomicBool::new(false),
            fatal: watch::Sender::new(None),
        });
        handler.serve(&inner);
        tracing::info!(node = %me, boot = boot.count, peer_addr = %inner.peer_addr, initialized, "node started");
        tasks::spawn(membership::join::run(inner.clone()));
        tasks::spawn(membership::addresses::run(inner.clone()));
        tasks::spawn(membership::leader::run(inner.clone()));
        tasks::spawn(crate::liveness::run(inner.clone()));
        tasks::spawn(proposer::run(inner.clone()));
        tasks::spawn(crate::presence::run(inner.clone()));
        let kept = inner.config.log.kept_bytes;
        tasks::spawn(crate::raft::keep_log_bounded(inner.raft.clone(), inner.log.clone(), kept));
        Ok(Self { inner })
    }

    /// This node's id, kept in its data directory.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.inner.me
    }

    /// The replicated limits as of now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.inner.state().limits().clone()
    }

    /// Tokens of this user that were issued before this time do not count, as this replica knows, ms since
    /// the Unix epoch.
    #[must_use]
    pub fn revoked_before(&self, user: &UserId) -> Option<u64> {
        self.inner.state().revoked_before(user)
    }

    /// Where a message waits that went to `to`, as this replica knows; `None` when it is not, or no more.
    #[must_use]
    pub fn whereabouts(&self, to: &Destination, mid: &MessageId) -> Option<Whereabouts> {
        self.inner.state().whereabouts(to, mid)
    }

    /// Begins a session.
    #[must_use]
    pub fn open(&self, spec: SessionSpec) -> Session {
        let (key, mailbox) = self.inner.router.open(spec.clone());
        Session::new(self.inner.clone(), key, spec, mailbox)
    }

    /// Why this node should get no new clients; empty when it is ready.
    #[must_use]
    pub fn not_ready(&self) -> Vec<&'static str> {
        let inner = &self.inner;
        let starting = inner.router.lock().origin.generation().is_none() && inner.quorum.reached();
        let reasons = [
            (inner.failure().is_some(), "failed"),
            (inner.draining.is_own(), "draining"),
            (starting || !inner.quorum.ever_reached(), "starting"),
            (inner.quorum.ever_reached() && !inner.quorum.reached(), "no_quorum"),
        ];
        reasons.into_iter().filter_map(|(applies, reason)| applies.then_some(reason)).collect()
    }

    /// The cluster as this node sees it.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::of(&self.inner, self.not_ready())
    }

    /// Index of the last log entry that this replica has applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.inner.state().applied()
    }

    /// Raft's term here, and whether this node leads in it, as far as it knows.
    #[must_use]
    pub fn leadership(&self) -> (u64, bool) {
        let term = self.inner.raft.server_metrics().borrow_watched().vote.leader_id.term;
        (term, self.inner.leads())
    }

    /// A hash over this replica's state and the log index it is the state at.
    #[must_use]
    pub fn state_hash(&self) -> (u64, [u8; 32]) {
        let state = self.inner.state();
        (state.applied(), state.hash())
    }

    /// Carries out an operator's command, wherever the leader is.
    ///
    /// # Errors
    /// When there is no leader, or the leader refuses; says why.
    pub async fn admin(&self, command: membership::admin::Admin) -> Result<(), AdminError> {
        membership::admin::run(&self.inner, command).await.map_err(AdminError)
    }

    /// Resolves when this node cannot go on; the process must end with these words.
    pub async fn failed(&self) -> String {
        let mut fatal = self.inner.fatal.subscribe();
        loop {
            if let Some(why) = fatal.borrow_and_update().clone() {
                return why;
            }
            if fatal.changed().await.is_err() {
                return "the node stopped".into();
            }
        }
    }

    /// This node takes no new clients from now on, and leads no more if another voter can.
    pub async fn drain(&self) {
        self.inner.draining.begin();
        membership::admin::step_down(&self.inner).await;
    }

    /// Where clients can connect instead of here: the URLs of other nodes that are up, do not drain, and that
    /// this node has a link to.
    #[must_use]
    pub fn elsewhere(&self) -> Vec<String> {
        let links = self.inner.peers.links();
        let linked = |node| links.iter().any(|link| link.node == node && link.state == LinkState::Connected);
        let stays = |node| linked(node) && !self.inner.draining.includes(node);
        let state = self.inner.state();
        let nodes = state.nodes().filter(|(node, record)| record.generation.is_some() && stays(*node));
        nodes.map(|(_, record)| record.client_url.clone()).filter(|url| !url.is_empty()).collect()
    }

    /// Hands leadership over, then leaves the network and closes storage. Sessions should be closed before.
    pub async fn stop(&self) {
        self.drain().await;
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.peers.close();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop in order");
        }
    }
}

async fn start_raft(
    me: NodeId,
    peers: &Peers,
    storage: crate::raft::Storage,
    keeping: &LogKeeping,
) -> Result<Raft, StartError> {
    let config = crate::raft::config(keeping).map_err(StartError::Raft)?;
    let network = crate::raft::network(peers.clone());
    let machine: StateMachine = storage.machine;
    Raft::new(me, Arc::new(config), network, storage.log, machine)
        .await
        .map_err(|error| StartError::Raft(error.to_string()))
}

impl Inner {
    /// Who leads, as far as this node knows.
    pub fn current_leader(&self) -> Option<NodeId> {
        self.raft.server_metrics().borrow_watched().current_leader
    }

    /// Whether this node leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.current_leader() == Some(self.me)
    }

    /// The replicated state, read-locked. Never held across an await, nor while the router's lock is
    /// taken: who needs both takes them by [`Inner::router_and_state`].
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        read(&self.state)
    }

    /// Both locks, in the one order in which they may be taken.
    pub fn router_and_state(&self) -> (MutexGuard<'_, Tables>, RwLockReadGuard<'_, State>) {
        (self.router.lock(), self.state())
    }

    /// Ends this node's part for good.
    pub fn fail(&self, why: String) {
        tracing::error!(error = why, "this node cannot go on");
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            fatal.get_or_insert(why);
            first
        });
    }

    /// Whether it was told to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Why this node cannot go on.
    pub fn failure(&self) -> Option<String> {
        self.fatal.borrow().clone()
    }
}
