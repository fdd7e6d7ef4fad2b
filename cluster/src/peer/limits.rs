//! Every limit of a peer link, and why it is what it is.

use std::time::Duration;

use crate::backoff::Backoff;

/// A payload's polite size (1 MiB): at 1 Gbit/s it delays a heartbeat behind it by 8 ms. Senders
/// cut larger things into pieces; [`super::frame::MAX_PAYLOAD`] is only the point of refusal.
pub const POLITE_PAYLOAD: usize = 1 << 20;

/// Requests without an answer on one link; the next ones wait for room, within their deadline.
pub const MAX_PENDING: usize = 4096;

/// Bytes of requests without an answer on one link: one frame of the largest size.
pub const MAX_PENDING_BYTES: usize = super::frame::MAX_PAYLOAD;

/// One-way frames queued on one link; the next ones are dropped.
pub const MAX_NOTIFIES: usize = 4096;

/// Typing and read marks among them, which have this room of their own.
pub const MAX_SIGNALS: usize = 1024;

/// Bytes of one-way frames queued on one link, signals apart; the next ones are dropped.
pub const MAX_NOTIFY_BYTES: usize = 8 << 20;

/// Requests of one node being handled at once; beyond that its link is not read.
pub const MAX_HANDLERS: usize = 1024;

/// Bytes of one node's requests being handled at once; beyond that its link is not read.
pub const MAX_HANDLER_BYTES: usize = super::frame::MAX_PAYLOAD;

/// Longest reason text sent with a failed request, in bytes.
pub const MAX_REASON: usize = 4096;

/// Between two signs of life on an otherwise quiet link.
pub const PING_EVERY: Duration = Duration::from_millis(250);

/// Pings' worth of silence after which a link is dead: 1.5 s. Counted in ticks of this side's own
/// timer, so a process that was itself stopped for long does not blame its peers.
pub const SILENT_TICKS: u32 = 6;

/// The system fails a stream whose written data stays unacknowledged this long. Silence is found
/// sooner; this is for what the system still tries to send after a link was closed. Well above what
/// back-pressure may take, because Linux counts a closed window as well.
pub const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// For a connect to succeed; in a partition it would hang for minutes.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// For a whole handshake, on either side.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest handshake message, in bytes: all that is allocated for a stranger.
pub const MAX_HANDSHAKE_MESSAGE: usize = 4096;

/// Connections in their handshake at once; the next ones wait in the listener's backlog.
pub const MAX_HANDSHAKES: usize = 128;

/// One-off links (joins) served at once; the next ones are refused as busy.
pub const MAX_ONE_OFF: usize = 64;

/// Before dialing again.
pub(crate) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));

/// A link that lived this long makes the next delay the first one again.
pub const STABLE_AFTER: Duration = Duration::from_secs(1);

/// Bytes read, and small frames gathered for a write, per system call.
pub const IO_BYTES: usize = 64 << 10;
