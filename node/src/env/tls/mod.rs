//! `Net` over TLS: a layer over another `Net`'s byte streams, so that nothing above it knows.
//!
//! Invariants: a stream carries no byte of what is above before the other end has proved what it must;
//! accepting waits for no handshake, which takes place within the stream's first read or write and
//! thus within the deadlines that streams in the clear have; certificates are taken up anew when
//! their files change, for streams that begin from then on.

mod explain;
mod files;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use cluster::env::Net;
use cluster::env::clock;
use cluster::env::net::{BoxConn, Listener};
use cluster::sync::{read, write};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

use crate::host;
pub use files::{TlsError, TlsFiles};
use stream::{Side, Stream};

/// How often it is looked whether the files have changed. A timer rather than a signal: it needs
/// nobody to send one, and mounted secrets are replaced without any.
const FILES_EVERY: Duration = Duration::from_secs(10);

/// What is in force at a moment.
struct Terms {
    server: Option<Arc<ServerConfig>>,
    client: Option<Arc<ClientConfig>>,
}

/// A network whose streams are secured.
pub struct Tls {
    below: Arc<dyn Net>,
    source: Source,
    terms: Arc<RwLock<Terms>>,
    /// The files' contents as they were last looked at.
    seen: RwLock<Vec<u8>>,
    expires_s: RwLock<Option<u64>>,
}

/// Where the terms come from.
enum Source {
    /// Clients are accepted; they need no certificate.
    Clients(TlsFiles),
    /// Nodes accept and dial each other: both ends prove that the same CA knows them.
    Peers(TlsFiles),
    /// Nodes are dialed; the file holds whom to trust, or else the system says.
    Nodes(Option<PathBuf>),
}

impl Tls {
    /// For a node's client port.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn for_clients(below: Arc<dyn Net>, files: TlsFiles) -> Result<Self, TlsError> {
        Self::new(below, Source::Clients(files))
    }

    /// For the links between nodes. `files` must name a CA.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn for_peers(below: Arc<dyn Net>, files: TlsFiles) -> Result<Self, TlsError> {
        Self::new(below, Source::Peers(files))
    }

    /// For whoever dials nodes: trusts the CAs in `ca`, a PEM file, or those of the system.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn to_nodes(below: Arc<dyn Net>, ca: Option<PathBuf>) -> Result<Self, TlsError> {
        Self::new(below, Source::Nodes(ca))
    }

    fn new(below: Arc<dyn Net>, source: Source) -> Result<Self, TlsError> {
        let seen = source.contents()?;
        let (terms, expires_s) = source.load()?;
        Ok(Self {
            below,
            source,
            terms: Arc::new(RwLock::new(terms)),
            seen: RwLock::new(seen),
            expires_s: RwLock::new(expires_s),
        })
    }

    /// When our own certificate ends, in seconds since the Unix epoch.
    #[must_use]
    pub fn expires_s(&self) -> Option<u64> {
        *read(&self.expires_s)
    }

    /// Takes up changed files; true if there are any. On an error all stays as it was.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let contents = self.source.contents()?;
        if *read(&self.seen) == contents {
            return Ok(false);
        }
        let (terms, expires_s) = self.source.load()?;
        *write(&self.terms) = terms;
        *write(&self.seen) = contents;
        *write(&self.expires_s) = expires_s;
        Ok(true)
    }

    /// Secures a stream to `addr`, `host:port`; the other end must prove that it is this host.
    ///
    /// # Errors
    /// A host that is neither a name nor an IP address.
    pub fn secure(&self, conn: BoxConn, addr: &str) -> io::Result<BoxConn> {
        let config = read(&self.terms).client.clone();
        let config = config.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        let host = host::of(addr).to_owned();
        let name = ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Box::new(Stream::new(conn, Side::Dial { config, name })))
    }

    /// Takes up changed files for ever; `on_change` is told when the certificate in force ends.
    pub async fn watch(self: Arc<Self>, what: &'static str, on_change: impl Fn(u64)) {
        let mut failed = None;
        loop {
            on_change(self.expires_s().unwrap_or(0));
            clock::sleep(FILES_EVERY).await;
            match self.reload() {
                Ok(changed) => {
                    failed = None;
                    if changed {
                        tracing::info!(port = what, "a new certificate is in force for connections from now on");
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if failed.as_ref() != Some(&error) {
                        tracing::error!(port = what, %error, "the certificate stays as it was");
                    }
                    failed = Some(error);
                }
            }
        }
    }
}

impl Source {
    /// All that the terms depend on.
    fn contents(&self) -> Result<Vec<u8>, TlsError> {
        match self {
            Self::Clients(files) | Self::Peers(files) => files.contents(),
            Self::Nodes(Some(ca)) => files::read("the CA file", ca),
            Self::Nodes(None) => Ok(Vec::new()),
        }
    }

    /// The terms, and when our certificate ends.
    fn load(&self) -> Result<(Terms, Option<u64>), TlsError> {
        let now_s = clock::wall_ms() / 1000;
        Ok(match self {
            Self::Clients(files) => {
                let (server, expires_s) = files.server(now_s)?;
                (Terms { server: Some(Arc::new(server)), client: None }, Some(expires_s))
            }
            Self::Peers(files) => {
                let (server, client, expires_s) = files.mutual(now_s)?;
                (Terms { server: Some(Arc::new(server)), client: Some(Arc::new(client)) }, Some(expires_s))
            }
            Self::Nodes(ca) => {
                let client = files::trusting(ca.as_deref())?;
                (Terms { server: None, client: Some(Arc::new(client)) }, None)
            }
        })
    }
}

#[async_trait]
impl Net for Tls {
    async fn listen(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        let below = self.below.listen(addr).await?;
        Ok(Box::new(Accepting {
            below,
            terms: self.terms.clone(),
            explains_itself: matches!(self.source, Source::Clients(_)),
        }))
    }

    async fn connect(&self, addr: &str) -> io::Result<BoxConn> {
        let conn = self.below.connect(addr).await?;
        self.secure(conn, addr)
    }
}

struct Accepting {
    below: Box<dyn Listener>,
    terms: Arc<RwLock<Terms>>,
    /// Whether who speaks HTTP without TLS is told so in HTTP.
    explains_itself: bool,
}

#[async_trait]
impl Listener for Accepting {
    async fn accept(&mut self) -> io::Result<BoxConn> {
        let conn = self.below.accept().await?;
        let config = read(&self.terms).server.clone();
        let config = config.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        Ok(Box::new(Stream::new(conn, Side::Serve { config, explains_itself: self.explains_itself })))
    }

    fn local_addr(&self) -> SocketAddr {
        self.below.local_addr()
    }
}
