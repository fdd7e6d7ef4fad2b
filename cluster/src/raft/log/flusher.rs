//! Group commit: one `sync` for all who wait at the moment.
//!
//! Invariant: a waiter is told "durable" only after a `sync` that began after its write had
//! returned. After a failed `sync` nobody is ever told so again.

use crate::env::tasks;
use std::io;
use std::sync::Arc;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use crate::env::Kv;
use crate::raft::types::TypeConfig;

/// Most waiters in the queue; appending waits when it is full.
const QUEUE: usize = 4096;

enum Waiter {
    Append(IOFlushed<TypeConfig>),
    Call(oneshot::Sender<io::Result<()>>),
}

impl Waiter {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Append(callback) => callback.io_completed(result),
            Self::Call(sender) => drop(sender.send(result)),
        }
    }
}

/// The way to the task that syncs. The task ends when the last of these is dropped.
#[derive(Clone)]
pub(super) struct Flusher(mpsc::Sender<Waiter>);

impl Flusher {
    pub(super) fn start(kv: Arc<dyn Kv>) -> Self {
        let (sender, waiters) = mpsc::channel(QUEUE);
        tasks::spawn(run(kv, waiters));
        Self(sender)
    }

    /// Calls `callback` once everything written so far is durable, or with the error.
    pub(super) async fn notify(&self, callback: IOFlushed<TypeConfig>) {
        if let Err(mpsc::error::SendError(waiter)) = self.0.send(Waiter::Append(callback)).await {
            waiter.tell(Err(gone()));
        }
    }

    /// Returns once everything written so far is durable.
    pub(super) async fn sync(&self) -> io::Result<()> {
        let (sender, done) = oneshot::channel();
        self.0.send(Waiter::Call(sender)).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

fn gone() -> io::Error {
    io::Error::other("the log's flusher has ended")
}

async fn run(kv: Arc<dyn Kv>, mut waiters: mpsc::Receiver<Waiter>) {
    let mut failed: Option<io::Error> = None;
    let mut group = Vec::new();
    while waiters.recv_many(&mut group, QUEUE).await > 0 {
        if failed.is_none()
            && let Err(error) = kv.sync().await
        {
            tracing::error!(%error, "the log cannot be made durable");
            failed = Some(error);
        }
        for waiter in group.drain(..) {
            waiter.tell(failed.as_ref().map_or(Ok(()), |error| {
                Err(io::Error::new(error.kind(), format!("the log cannot be made durable: {error}")))
            }));
        }
    }
}
