//! The cluster's shared secret.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// What all nodes of a cluster share and nobody else knows. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Takes a secret. How long it must be is the configuration's business.
    #[must_use]
    pub fn new(secret: impl AsRef<[u8]>) -> Self {
        Self(secret.as_ref().into())
    }

    /// HMAC-SHA256 over `parts`, each preceded by its length so that no two lists of parts
    /// give the same input.
    pub(super) fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Whether `proof` is [`Secret::sign`] of `parts`, in constant time.
    pub(super) fn verify(&self, parts: &[&[u8]], proof: &[u8]) -> bool {
        self.mac(parts).verify_slice(proof).is_ok()
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(***)");
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let secret = Secret::new("s");
        assert_ne!(secret.sign(&[b"ab", b"c"]), secret.sign(&[b"a", b"bc"]));
        assert!(secret.verify(&[b"a"], &secret.sign(&[b"a"])));
        assert!(!secret.verify(&[b"a"], &secret.sign(&[b"a"])[..31]));
        assert!(!Secret::new("t").verify(&[b"a"], &secret.sign(&[b"a"])));
    }
}
