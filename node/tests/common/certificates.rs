//! Certificate authorities and certificates, made on the spot.

use std::fs;
use std::path::{Path, PathBuf};

use im_gateway::env::TlsFiles;
use rcgen::date_time_ymd;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// A certificate authority, with its certificate in a file.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub file: PathBuf,
}

impl Ca {
    /// A new one; its certificate goes to `<name>.pem` in `dir`.
    pub fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let file = dir.join(format!("{name}.pem"));
        fs::write(&file, params.self_signed(&key).expect("it signs itself").pem()).expect("written");
        Self { issuer: Issuer::new(params, key), file }
    }

    /// A certificate for a node on this machine that ends in that year, and its key, in `dir`.
    pub fn node(&self, dir: &Path, name: &str, ends: i32) -> TlsFiles {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("good names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = date_time_ymd(ends, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let (cert, key_file) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        let signed = params.signed_by(&key, &self.issuer).expect("it is signed");
        // As careful operators do it: whoever reads in between sees the old or the new, whole.
        for (file, text) in [(&cert, signed.pem()), (&key_file, key.serialize_pem())] {
            let new = file.with_extension("new");
            fs::write(&new, text).expect("written");
            fs::rename(new, file).expect("renamed");
        }
        TlsFiles { cert, key: key_file, ca: Some(self.file.clone()) }
    }
}
