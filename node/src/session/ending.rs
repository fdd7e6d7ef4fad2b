//! How connections end, and how that is counted.
//!
//! Invariant: every connection that was counted as established is counted as closed, once.

use std::net::SocketAddr;

use cluster::env::clock::{self, Instant};

use super::node::Node;
use super::ws::Violation;
use crate::protocol::CloseCode;
use crate::telemetry::{CONNECTION_LOST, ConnectionError};

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// We close it.
    Close(CloseCode),
    /// We close it (1013) before its client has said hello: others need its place.
    GivesWay,
    /// The client closed it, with this code if it gave one.
    Left(Option<u16>),
    /// The stream ended without a close frame, or failed.
    Lost(Option<std::io::ErrorKind>),
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        Self::Close(match violation {
            Violation::TooLarge => CloseCode::TooLarge,
            Violation::NotUtf8 => CloseCode::NotUtf8,
            Violation::Framing(_) => CloseCode::Framing,
        })
    }
}

impl End {
    /// The word for it in metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Close(code) => code.reason(),
            Self::GivesWay => CloseCode::Overload.reason(),
            // Other codes are what nodes say.
            Self::Left(Some(1001)) => CloseCode::GoingAway.reason(),
            Self::Left(_) => CloseCode::Normal.reason(),
            Self::Lost(_) => CONNECTION_LOST,
        }
    }
}

/// Counts a connection, also when its task is torn down.
pub struct Counted<'a> {
    node: &'a Node,
    since: Instant,
    reason: &'static str,
}

impl<'a> Counted<'a> {
    /// The connection is open.
    pub fn new(node: &'a Node) -> Self {
        node.metrics.connection_opened();
        Self { node, since: clock::now(), reason: CONNECTION_LOST }
    }

    /// The connection has ended.
    pub fn ended(&mut self, end: End, peer: SocketAddr) {
        self.reason = end.reason();
        let error = match end {
            End::Close(CloseCode::HelloTimeout) => ConnectionError::HelloTimeout,
            End::Close(
                CloseCode::Framing | CloseCode::NotUtf8 | CloseCode::Binary | CloseCode::TooLarge | CloseCode::Protocol,
            ) => ConnectionError::Protocol,
            End::Close(CloseCode::PingTimeout) => ConnectionError::PingTimeout,
            End::Close(CloseCode::Slow) => ConnectionError::Slow,
            End::Close(CloseCode::Unavailable) => ConnectionError::Unavailable,
            End::Close(CloseCode::Overload) | End::GivesWay => ConnectionError::Overload,
            End::Lost(Some(_)) => ConnectionError::Io,
            _ => return,
        };
        self.node.metrics.connection_error(error);
        tracing::warn!(event = "connection_error", error_type = error.label(), remote_addr = %peer.ip(), "connection failed");
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.node.metrics.connection_closed(self.reason, self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_code_is_no_word_of_the_nodes() {
        assert_eq!(End::Left(Some(1001)).reason(), "going_away");
        for code in [None, Some(1000), Some(4001), Some(4500), Some(77)] {
            assert_eq!(End::Left(code).reason(), "client_disconnect", "{code:?}");
        }
        assert_eq!(End::Close(CloseCode::Unavailable).reason(), "unavailable");
    }
}
