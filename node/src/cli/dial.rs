//! How client commands reach nodes: in the clear or by TLS, as a URL says.

use std::io;
use std::path::Path;
use std::sync::Arc;

use cluster::env::Net;
use cluster::env::net::BoxConn;
use im_gateway::client::Address;
use im_gateway::env::{Tcp, Tls};

use super::failure::Failure;

/// Opens streams to nodes.
#[derive(Clone, Default)]
pub struct Dial {
    tls: Option<Arc<Tls>>,
}

impl Dial {
    /// For nodes of these `urls`; certificates are checked by `ca`, or by what the system trusts.
    ///
    /// # Errors
    /// A CA file that cannot be used, or that no URL asks for.
    pub fn new<'a>(urls: impl IntoIterator<Item = &'a String>, ca: Option<&Path>) -> Result<Self, Failure> {
        let secured = urls.into_iter().any(|url| Address::parse(url).is_ok_and(|address| address.tls));
        if !secured {
            return match ca {
                Some(_) => Err(Failure::Usage("--ca is for https:// and wss:// only; check --url".into())),
                None => Ok(Self::default()),
            };
        }
        let tls = Tls::to_nodes(Arc::new(Tcp), ca.map(Path::to_owned));
        Ok(Self { tls: Some(Arc::new(tls.map_err(|error| Failure::Usage(error.to_string()))?)) })
    }

    /// What secures streams, for URLs that ask for it.
    pub fn secure_net(&self) -> Option<Arc<dyn Net>> {
        self.tls.clone().map(|tls| tls as Arc<dyn Net>)
    }

    /// Connects.
    ///
    /// # Errors
    /// As [`Net::connect`].
    pub async fn connect(&self, address: &Address) -> io::Result<BoxConn> {
        let conn = Tcp.connect(&address.authority).await?;
        self.secure(conn, address)
    }

    /// Secures a stream to a node, if its URL asks for that.
    ///
    /// # Errors
    /// A host that no certificate can name.
    pub fn secure(&self, conn: BoxConn, address: &Address) -> io::Result<BoxConn> {
        match &self.tls {
            Some(tls) if address.tls => tls.secure(conn, &address.authority),
            None if address.tls => Err(io::ErrorKind::Unsupported.into()),
            _ => Ok(conn),
        }
    }
}
