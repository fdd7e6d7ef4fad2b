//! The handshake over a stream: messages with a length in front, within a deadline.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Secret;
use super::handshake::{Accepting, Dialing, Established, HandshakeError, Nonce, Refusal};
use super::limits::{HANDSHAKE_TIMEOUT, MAX_HANDSHAKE_MESSAGE};
use crate::env::clock;
use crate::env::net::{BoxConn, Distrust};
use crate::id::NodeId;

/// Why no link came of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum GreetError {
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    #[error("the handshake took too long")]
    Deadline,
    #[error("the other end closed the connection in the handshake")]
    Closed,
    #[error("{0}")]
    Distrust(#[from] Distrust),
    #[error("{0} in the handshake")]
    Io(io::ErrorKind),
}

impl GreetError {
    /// Whether one side doubts the other: something an operator must look at.
    pub(super) const fn is_distrust(self) -> bool {
        match self {
            Self::Handshake(HandshakeError::Refused(refusal)) => !matches!(refusal, Refusal::Busy),
            Self::Handshake(_) | Self::Distrust(_) => true,
            Self::Deadline | Self::Closed | Self::Io(_) => false,
        }
    }

    /// Of which kind it is, as a metric's label.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Distrust(_) => "tls",
            Self::Handshake(_) => "handshake",
            Self::Deadline | Self::Closed | Self::Io(_) => "connection",
        }
    }
}

impl From<io::Error> for GreetError {
    fn from(error: io::Error) -> Self {
        match (Distrust::of(&error), error.kind()) {
            (Some(why), _) => Self::Distrust(why),
            (None, io::ErrorKind::UnexpectedEof) => Self::Closed,
            (None, kind) => Self::Io(kind),
        }
    }
}

/// The dialer's part.
pub(super) async fn dial(
    conn: &mut BoxConn,
    secret: &Secret,
    me: NodeId,
    want: Option<NodeId>,
) -> Result<Established, GreetError> {
    within(async {
        let (dialing, hello) = Dialing::start(secret, me, want, nonce());
        write(conn, &hello).await?;
        let (proving, proof) = dialing.challenged(&read(conn).await?)?;
        write(conn, &proof).await?;
        Ok(proving.welcomed(&read(conn).await?)?)
    })
    .await
}

/// The acceptor's part. `admit` has the last word about an authenticated dialer.
pub(super) async fn accept<T>(
    conn: &mut BoxConn,
    secret: &Secret,
    me: NodeId,
    admit: impl FnOnce(&Established) -> Result<T, Refusal>,
) -> Result<(Established, T), GreetError> {
    within(async {
        let outcome = async {
            let (accepting, challenge) = Accepting::start(secret, me, nonce(), &read(conn).await?)?;
            write(conn, &challenge).await?;
            let (established, welcome) = accepting.proved(&read(conn).await?)?;
            let admitted = admit(&established).map_err(HandshakeError::Refused)?;
            write(conn, &welcome).await?;
            Ok((established, admitted))
        }
        .await;
        if let Err(GreetError::Handshake(error)) = outcome {
            // The dialer's log is where the operator looks; if it can't be told, ours has it too.
            let _ = write(conn, &error.refusal().message()).await;
            let _ = conn.shutdown().await;
        }
        outcome
    })
    .await
}

async fn within<T>(greeting: impl Future<Output = Result<T, GreetError>>) -> Result<T, GreetError> {
    clock::timeout(HANDSHAKE_TIMEOUT, greeting).await.unwrap_or(Err(GreetError::Deadline))
}

fn nonce() -> Nonce {
    rand::random()
}

async fn write(conn: &mut BoxConn, message: &[u8]) -> io::Result<()> {
    let mut framed = Vec::with_capacity(4 + message.len());
    framed.extend_from_slice(&u32::try_from(message.len()).map_err(io::Error::other)?.to_be_bytes());
    framed.extend_from_slice(message);
    conn.write_all(&framed).await?;
    conn.flush().await
}

async fn read(conn: &mut BoxConn) -> Result<Bytes, GreetError> {
    let length = conn.read_u32().await? as usize;
    if length > MAX_HANDSHAKE_MESSAGE {
        return Err(HandshakeError::Malformed.into());
    }
    let mut message = vec![0; length];
    conn.read_exact(&mut message).await?;
    Ok(message.into())
}
