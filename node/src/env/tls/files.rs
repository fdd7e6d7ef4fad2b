//! Certificates and keys from files, and what the library is told with them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

/// The files of one port, all PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFiles {
    /// This node's certificate first, then those between it and the CA.
    pub cert: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
    /// Certificates of the CAs that the other ends' certificates must come from.
    pub ca: Option<PathBuf>,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The system refused.
    #[error("cannot read {what} {}: {error}", path.display())]
    Read {
        /// Which kind of file.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Not the right kind of PEM.
    #[error("{what} {} holds no {wanted} in PEM form", path.display())]
    Empty {
        /// Which kind of file.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
    },
    /// The certificate's key is another one.
    #[error("the key {} does not belong to the certificate {}: give the key that it was made for", key.display(), cert.display())]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Its time is over or has not come.
    #[error("the certificate {} {problem}: put a valid one there", path.display())]
    Time {
        /// Where.
        path: PathBuf,
        /// What is wrong with its time.
        problem: &'static str,
    },
    /// No CA to check nodes against.
    #[error("the system trusts no CA that could be found; give the CA's file by --ca")]
    NoRoots,
    /// The library finds a fault.
    #[error("{what} {} cannot be used: {error}", path.display())]
    Unusable {
        /// Which kind of file.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        error: String,
    },
}

const CERT: &str = "the certificate";
const KEY: &str = "the key";
const CA: &str = "the CA file";

/// A file's bytes.
pub(super) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::Read { what, path: path.to_owned(), error })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl TlsFiles {
    /// What is in all of them.
    pub(super) fn contents(&self) -> Result<Vec<u8>, TlsError> {
        let mut contents = read(CERT, &self.cert)?;
        contents.extend(read(KEY, &self.key)?);
        if let Some(ca) = &self.ca {
            contents.extend(read(CA, ca)?);
        }
        Ok(contents)
    }

    /// Refuses files that cannot be used as of `now_s`, in seconds since the Unix epoch.
    ///
    /// # Errors
    /// What is wrong with which.
    pub fn check(&self, now_s: u64) -> Result<(), TlsError> {
        if self.ca.is_some() { self.mutual(now_s).map(drop) } else { self.server(now_s).map(drop) }
    }

    /// For accepting anybody, and when the certificate ends.
    pub(super) fn server(&self, now_s: u64) -> Result<(ServerConfig, u64), TlsError> {
        let (chain, key, expires_s) = self.own(now_s)?;
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.expect("the provider has the ciphers of these versions").with_no_client_auth();
        let mut config = builder.with_single_cert(chain, key).map_err(|error| self.fault(error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((config, expires_s))
    }

    /// For accepting and dialing nodes that the CA knows, and when the certificate ends. Sessions are
    /// not resumed: each link is checked by what the files say when it begins.
    pub(super) fn mutual(&self, now_s: u64) -> Result<(ServerConfig, ClientConfig, u64), TlsError> {
        let (chain, key, expires_s) = self.own(now_s)?;
        let ca = self.ca.as_deref().unwrap_or(Path::new(""));
        let roots = Arc::new(roots(ca)?);
        let unusable = |error: String| TlsError::Unusable { what: CA, path: ca.to_owned(), error };
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build();
        let verifier = verifier.map_err(|error| unusable(error.to_string()))?;
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.expect("the provider has the ciphers of TLS 1.3").with_client_cert_verifier(verifier);
        let mut server = builder.with_single_cert(chain.clone(), key.clone_key()).map_err(|error| self.fault(error))?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.expect("the provider has the ciphers of TLS 1.3").with_root_certificates(roots);
        let mut client = builder.with_client_auth_cert(chain, key).map_err(|error| self.fault(error))?;
        client.resumption = Resumption::disabled();
        Ok((server, client, expires_s))
    }

    /// The chain, its key, and when the certificate ends.
    fn own(&self, now_s: u64) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, u64), TlsError> {
        let chain = certificates(CERT, &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&read(KEY, &self.key)?);
        let empty = |_| TlsError::Empty { what: KEY, path: self.key.clone(), wanted: "private key" };
        let key = key.map_err(empty)?;
        let (_, first) = x509_parser::parse_x509_certificate(&chain[0]).map_err(|error| TlsError::Unusable {
            what: CERT,
            path: self.cert.clone(),
            error: error.to_string(),
        })?;
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let (begins_s, ends_s) = (seconds(first.validity().not_before), seconds(first.validity().not_after));
        let time = |problem| Err(TlsError::Time { path: self.cert.clone(), problem });
        if now_s > ends_s {
            return time("has expired");
        }
        if now_s < begins_s {
            return time("is not valid yet");
        }
        Ok((chain, key, ends_s))
    }

    fn fault(&self, error: rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { cert: self.cert.clone(), key: self.key.clone() },
            error => TlsError::Unusable { what: CERT, path: self.cert.clone(), error: error.to_string() },
        }
    }
}

/// For dialing nodes by the CAs in `ca`, or else by those of the system.
pub(super) fn trusting(ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let roots = match ca {
        Some(ca) => roots(ca)?,
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsError::NoRoots);
            }
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has the ciphers of these versions");
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let empty = || TlsError::Empty { what, path: path.to_owned(), wanted: "certificate" };
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(what, path)?).collect();
    let all = all.map_err(|_| empty())?;
    if all.is_empty() { Err(empty()) } else { Ok(all) }
}

fn roots(ca: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CA, ca)? {
        let unusable =
            |error: rustls::Error| TlsError::Unusable { what: CA, path: ca.to_owned(), error: error.to_string() };
        roots.add(certificate).map_err(unusable)?;
    }
    Ok(roots)
}
