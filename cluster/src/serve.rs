//! What this node answers to other nodes.

use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::handle::Inner;
use crate::id::NodeId;
use crate::peer::{Handler, Kind};
use crate::router::Notice;
use crate::{liveness, membership, proposer};

/// Answers other nodes from the moment the node is assembled.
#[derive(Default)]
pub(crate) struct Served {
    inner: OnceLock<Weak<Inner>>,
}

impl Served {
    pub fn serve(&self, inner: &Arc<Inner>) {
        let first = self.inner.set(Arc::downgrade(inner)).is_ok();
        assert!(first, "a node is assembled once");
    }
}

#[async_trait]
impl Handler for Served {
    async fn handle(&self, from: NodeId, kind: Kind, body: Bytes) -> Result<Bytes, String> {
        let inner = self.inner.get().and_then(Weak::upgrade).ok_or("this node is starting or stopping")?;
        match kind {
            Kind::APPEND | Kind::VOTE | Kind::PRE_VOTE | Kind::SNAPSHOT | Kind::TRANSFER => {
                crate::raft::serve_raft(&inner.raft, kind, body).await
            }
            Kind::PROPOSE => proposer::asked(&inner, from, body).await.map(|()| Bytes::new()),
            Kind::REPORT => encode(&liveness::reported(&inner, from, &decode(&body)?)),
            Kind::JOIN => encode(&membership::join::asked(&inner, from, decode(&body)?).await),
            Kind::ADMIN => encode(&membership::admin::asked(&inner, decode(&body)?).await),
            Kind::DELIVERED => {
                let notices: Vec<Notice> = postcard::from_bytes(&body).map_err(|error| error.to_string())?;
                notices.iter().for_each(|notice| inner.router.noticed(notice));
                Ok(Bytes::new())
            }
            Kind::SIGNAL => {
                inner.router.signalled(&decode(&body)?);
                Ok(Bytes::new())
            }
            Kind(unknown) => Err(format!("this build does not know requests of kind {unknown}")),
        }
    }
}

/// Control messages between nodes are maps with names, so that versions may differ by fields.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Bytes, String> {
    rmp_serde::to_vec_named(message).map(Bytes::from).map_err(|error| error.to_string())
}

/// See [`encode`].
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    rmp_serde::from_slice(bytes).map_err(|error| error.to_string())
}
