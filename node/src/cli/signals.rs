//! How a command that runs until it is interrupted learns of that.

use std::task::Poll;

use futures_util::future::poll_fn;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::{Failure, failed};

/// Ctrl-C, a service manager's SIGTERM, the end of the terminal.
pub struct Signals(Signal, Signal, Signal);

impl Signals {
    /// Takes them from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).or_else(|error| failed(format!("cannot listen for signals: {error}")));
        Ok(Self(listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?))
    }

    /// Ready when we are told to stop. Cancel-safe.
    pub async fn stop(&mut self) {
        poll_fn(|cx| {
            let quiet = self.0.poll_recv(cx).is_pending() & self.1.poll_recv(cx).is_pending();
            if quiet & self.2.poll_recv(cx).is_pending() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}
