//! The keys that tokens are checked with.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use super::config::Masked;

/// Keys, each for exactly one algorithm.
#[derive(Default)]
pub(super) struct Keys(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Keys {
    pub(super) fn of_secret(secret: &Masked) -> Self {
        let key = DecodingKey::from_secret(secret.reveal().as_bytes());
        Self(vec![Key { id: None, algorithm: Algorithm::HS256, key }])
    }

    pub(super) fn has_algorithm(&self, algorithm: Algorithm) -> bool {
        self.0.iter().any(|key| key.algorithm == algorithm)
    }

    /// The keys that may have signed a token: of its algorithm, and of its key id. A key without
    /// an id may have signed any; so may each key of the algorithm, where the token names none.
    pub(super) fn candidates<'a>(
        &'a self,
        algorithm: Algorithm,
        id: Option<&'a str>,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        let fits = move |key: &&Key| match (key.id.as_deref(), id) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        self.0.iter().filter(move |key| key.algorithm == algorithm).filter(fits).map(|key| &key.key)
    }

    /// Reads a key set. Keys that are not for signatures, or of types that we do not take, are left
    /// out; a symmetric key is a mistake that must not pass unseen.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_str(text).map_err(|error| format!("it is no key set: {error}"))?;
        let mut keys = Vec::new();
        for value in set.keys {
            if value.get("kty").and_then(|kty| kty.as_str()) == Some("oct") {
                return Err("it holds a symmetric key; an HS256 secret is configured as such".into());
            }
            // A type or curve that the library does not know is not an error: others may use it.
            let Ok(jwk) = serde_json::from_value::<Jwk>(value) else { continue };
            let Some(algorithm) = algorithm(&jwk) else { continue };
            let key = DecodingKey::from_jwk(&jwk).map_err(|error| format!("one of its keys is malformed: {error}"))?;
            keys.push(Key { id: jwk.common.key_id, algorithm, key });
        }
        if keys.is_empty() {
            return Err("it holds no key for RS256, ES256 or EdDSA signatures".into());
        }
        Ok(Self(keys))
    }
}

/// What a public key of a set is for, if we take it.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    // `alg` narrows what its type allows; it never widens it.
    match jwk.common.key_algorithm {
        Some(named) if named.to_string() != format!("{algorithm:?}") => None,
        _ => Some(algorithm),
    }
}
