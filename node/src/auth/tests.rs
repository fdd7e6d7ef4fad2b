use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::*;

const NOW_MS: u64 = 1_767_225_600_000;
const NOW_S: u64 = NOW_MS / 1000;
const SECRET: &str = "a secret of thirty-two bytes or more";

fn hs256() -> Verifier {
    Verifier::new(&AuthConfig { secret: Some(Masked::new(SECRET)), ..AuthConfig::default() }).unwrap()
}

fn testdata(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/auth/testdata").join(name)
}

fn public_keys() -> Verifier {
    Verifier::new(&AuthConfig { jwks: Some(Jwks::File(testdata("jwks.json"))), ..AuthConfig::default() }).unwrap()
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(testdata(name)).unwrap()
}

fn good() -> Value {
    json!({"sub": "alice", "exp": NOW_S + 60})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

fn sign(claims: &Value, algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

fn hs(claims: &Value) -> String {
    sign(claims, Algorithm::HS256, None, &EncodingKey::from_secret(SECRET.as_bytes()))
}

fn encoded(value: &Value) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
}

#[test]
fn a_good_token_names_its_user() {
    let identity = hs256().verify_at(&hs(&good()), NOW_MS).unwrap();
    assert_eq!((identity.user.as_str(), &identity.device), ("alice", &None));
    assert_eq!(identity.expires_ms, NOW_MS + 65_000, "leeway included");
    let issued = issue(SECRET, "bob", Some("d1"), NOW_MS + 1000).unwrap();
    let identity = hs256().verify_at(&issued, NOW_MS).unwrap();
    assert_eq!((identity.user.as_str(), identity.device.unwrap().as_str()), ("bob", "d1"));
    assert!(hs256().verify_at(&hs(&with("exp", json!(NOW_S as f64 + 0.5))), NOW_MS).is_ok(), "fractions are allowed");
}

#[test]
fn refuses_what_it_must() {
    let at = |claims: Value| hs256().verify_at(&hs(&claims), NOW_MS).unwrap_err();
    assert_eq!(at(with("exp", json!(NOW_S - 5))), AuthError::Expired);
    assert_eq!(at(with("exp", json!(-1))), AuthError::Expired);
    assert_eq!(at(with("nbf", json!(NOW_S + 6))), AuthError::NotYet);
    assert!(hs256().verify_at(&hs(&with("nbf", json!(NOW_S + 5))), NOW_MS).is_ok());
    assert_eq!(at(json!({"sub": "alice"})), AuthError::Malformed, "exp is required");
    assert_eq!(at(with("exp", json!("soon"))), AuthError::Malformed);
    assert_eq!(at(json!({"exp": NOW_S + 60})), AuthError::Subject);
    assert_eq!(at(with("sub", json!(""))), AuthError::Subject);
    assert_eq!(at(with("sub", json!("a\nb"))), AuthError::Subject);
    assert_eq!(at(with("sub", json!("x".repeat(129)))), AuthError::Subject);
    assert_eq!(at(with("device", json!(""))), AuthError::Device);
    for text in ["", "a", "a.b", "a.b.c", "a.b.c.d", "..", "é.é.é"] {
        assert!(hs256().verify_at(text, NOW_MS).is_err(), "{text}");
    }
    assert_eq!(hs256().verify_at(&"x".repeat(9000), NOW_MS), Err(AuthError::Malformed));
}

#[test]
fn refuses_wrong_signatures_and_algorithms() {
    let other = EncodingKey::from_secret(b"another secret");
    assert_eq!(hs256().verify_at(&sign(&good(), Algorithm::HS256, None, &other), NOW_MS), Err(AuthError::Signature));
    let longer = EncodingKey::from_secret(SECRET.as_bytes());
    assert_eq!(hs256().verify_at(&sign(&good(), Algorithm::HS512, None, &longer), NOW_MS), Err(AuthError::Algorithm));
    let mut tampered = hs(&good());
    let dot = tampered.find('.').unwrap();
    tampered.replace_range(dot + 1..tampered.rfind('.').unwrap(), &encoded(&with("sub", json!("root"))));
    assert_eq!(hs256().verify_at(&tampered, NOW_MS), Err(AuthError::Signature));
    for alg in ["none", "None", "NONE", "nOnE", "hs256", ""] {
        for signature in ["", "AA"] {
            let token = format!("{}.{}.{signature}", encoded(&json!({"alg": alg, "typ": "JWT"})), encoded(&good()));
            assert_eq!(hs256().verify_at(&token, NOW_MS), Err(AuthError::Algorithm), "{alg}");
            assert_eq!(public_keys().verify_at(&token, NOW_MS), Err(AuthError::Algorithm), "{alg}");
        }
    }
}

#[test]
fn takes_public_keys_and_refuses_to_mix_them_up() {
    let rsa = EncodingKey::from_rsa_pem(&pem("rsa.pem")).unwrap();
    let ec = EncodingKey::from_ec_pem(&pem("ec.pem")).unwrap();
    let ed = EncodingKey::from_ed_pem(&pem("ed.pem")).unwrap();
    let verifier = public_keys();
    for (algorithm, kid, key) in
        [(Algorithm::RS256, "r", &rsa), (Algorithm::ES256, "e", &ec), (Algorithm::EdDSA, "d", &ed)]
    {
        for kid in [Some(kid), None] {
            assert!(verifier.verify_at(&sign(&good(), algorithm, kid, key), NOW_MS).is_ok(), "{algorithm:?} {kid:?}");
        }
        let unknown = sign(&good(), algorithm, Some("nobody"), key);
        assert_eq!(verifier.verify_at(&unknown, NOW_MS), Err(AuthError::UnknownKey));
        assert_eq!(hs256().verify_at(&sign(&good(), algorithm, None, key), NOW_MS), Err(AuthError::Algorithm));
    }
    // A key id of another key's algorithm.
    assert_eq!(
        verifier.verify_at(&sign(&good(), Algorithm::RS256, Some("e"), &rsa), NOW_MS),
        Err(AuthError::UnknownKey)
    );
    // RS384 and PS256 would verify with the same key; they are not configured.
    assert_eq!(verifier.verify_at(&sign(&good(), Algorithm::RS384, None, &rsa), NOW_MS), Err(AuthError::Algorithm));
    // The classic confusion: an HMAC whose secret is the public key, in each of its spellings.
    let jwks = std::fs::read_to_string(testdata("jwks.json")).unwrap();
    let set: Value = serde_json::from_str(&jwks).unwrap();
    for spelling in [jwks.as_bytes(), set["keys"][0]["n"].as_str().unwrap().as_bytes(), b""] {
        let token = sign(&good(), Algorithm::HS256, Some("r"), &EncodingKey::from_secret(spelling));
        assert_eq!(verifier.verify_at(&token, NOW_MS), Err(AuthError::Algorithm));
    }
}

#[test]
fn checks_audience_and_issuer_where_configured() {
    let config = AuthConfig {
        secret: Some(Masked::new(SECRET)),
        audience: vec!["chat".into()],
        issuer: vec!["https://id.example".into()],
        ..AuthConfig::default()
    };
    let verifier = Verifier::new(&config).unwrap();
    let mut claims = good();
    assert_eq!(verifier.verify_at(&hs(&claims), NOW_MS), Err(AuthError::Audience));
    claims["aud"] = json!(["mail", "chat"]);
    assert_eq!(verifier.verify_at(&hs(&claims), NOW_MS), Err(AuthError::Issuer));
    claims["iss"] = json!("https://id.example");
    assert!(verifier.verify_at(&hs(&claims), NOW_MS).is_ok());
    claims["aud"] = json!("mail");
    assert_eq!(verifier.verify_at(&hs(&claims), NOW_MS), Err(AuthError::Audience));
}

#[test]
fn a_token_may_bind_a_device() {
    let (phone, tablet) = (DeviceId::new("phone").unwrap(), DeviceId::new("tablet").unwrap());
    let bound =
        Identity { user: UserId::new("a").unwrap(), device: Some(phone.clone()), expires_ms: 0, issued_ms: None };
    assert_eq!(bound.device(None), Ok(Some(phone.clone())));
    assert_eq!(bound.device(Some(&phone)), Ok(Some(phone.clone())));
    assert_eq!(bound.device(Some(&tablet)), Err(AuthError::Device));
    let free = Identity { device: None, ..bound };
    assert_eq!(free.device(Some(&tablet)), Ok(Some(tablet)));
    assert_eq!(free.device(None), Ok(None));
}

#[test]
fn the_configuration_must_make_sense() {
    let jwks = Some(Jwks::File(testdata("jwks.json")));
    let both = AuthConfig { secret: Some(Masked::new("x")), jwks: jwks.clone(), ..AuthConfig::default() };
    assert!(matches!(Verifier::new(&both), Err(AuthConfigError::Both)));
    let empty = AuthConfig { secret: Some(Masked::new("")), ..AuthConfig::default() };
    assert!(matches!(Verifier::new(&empty), Err(AuthConfigError::EmptySecret)));
    let missing = AuthConfig { jwks: Some(Jwks::File("/nonexistent/jwks.json".into())), ..AuthConfig::default() };
    assert!(matches!(Verifier::new(&missing), Err(AuthConfigError::Read { .. })));
    let default = Verifier::new(&AuthConfig::default()).unwrap();
    assert!(default.has_development_secret() && !hs256().has_development_secret());
    assert!(default.verify(&issue(DEV_SECRET, "a", None, clock::wall_ms() + 60_000).unwrap()).is_ok());
    assert_eq!(format!("{:?}", hs256().secret().unwrap()), "***");
    assert_eq!(serde_json::to_string(&Masked::new("x")).unwrap(), "\"***\"");
    assert!(Masked::new("x").matches("x") && !Masked::new("x").matches("y") && !Masked::new("x").matches(""));
}

#[tokio::test]
async fn a_changed_key_file_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let set: Value = serde_json::from_slice(&pem("jwks.json")).unwrap();
    let write = |keys: &[&Value], mtime_s: u64| {
        std::fs::write(&path, json!({"keys": keys}).to_string()).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime_s);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    };
    write(&[&set["keys"][0]], 1000);
    let verifier =
        Verifier::new(&AuthConfig { jwks: Some(Jwks::File(path.clone())), ..AuthConfig::default() }).unwrap();
    let ec = EncodingKey::from_ec_pem(&pem("ec.pem")).unwrap();
    let token = sign(&good(), Algorithm::ES256, Some("e"), &ec);
    assert_eq!(verifier.verify_at(&token, NOW_MS), Err(AuthError::Algorithm));
    assert!(!verifier.reload().await.unwrap());
    write(&[&set["keys"][1]], 2000);
    assert!(verifier.reload().await.unwrap());
    assert!(verifier.verify_at(&token, NOW_MS).is_ok());
    write(&[&json!({"kty": "oct", "k": "AA"})], 3000);
    assert!(matches!(verifier.reload().await, Err(AuthConfigError::Keys { .. })));
    assert!(verifier.verify_at(&token, NOW_MS).is_ok(), "the old keys stay");
}

#[test]
fn a_key_set_is_a_file_or_comes_unchanged() {
    let read = |text: &str| Jwks::try_from(text.to_owned());
    assert_eq!(read("keys/jwks.json"), Ok(Jwks::File("keys/jwks.json".into())));
    for (url, authority, target) in [
        ("https://id.example/realm/jwks?v=1", "id.example:443", "/realm/jwks?v=1"),
        ("https://id.example:8443", "id.example:8443", "/"),
        ("http://127.0.0.1:9000/jwks", "127.0.0.1:9000", "/jwks"),
        ("http://localhost/jwks", "localhost:80", "/jwks"),
        ("http://[::1]:9000/jwks", "[::1]:9000", "/jwks"),
    ] {
        let Ok(Jwks::Url(read)) = read(url) else { panic!("{url} is no URL") };
        assert_eq!((read.address.authority.as_str(), read.target()), (authority, target));
    }
    assert!(read("http://id.example/jwks").is_err_and(|why| why.contains("https://")));
    assert!(read("http://localhost.id.example/jwks").is_err());
    assert!(read("ftp://id.example/jwks").is_err_and(|why| why.contains("neither a file nor a URL")));
    let url = AuthConfig { jwks: read("https://id.example").ok(), ..AuthConfig::default() };
    assert!(matches!(Verifier::new(&url), Err(AuthConfigError::Fetch { .. })), "nothing to reach it by");
}

#[test]
fn revoked_are_those_from_before_and_those_that_do_not_say() {
    let identity = |claims: Value| hs256().verify_at(&hs(&claims), NOW_MS).unwrap();
    let dated = identity(with("iat", json!(NOW_S - 10)));
    assert_eq!(dated.issued_ms, Some(NOW_MS - 10_000));
    assert!(!dated.is_revoked(None) && !dated.is_revoked(Some(NOW_MS - 10_000)));
    assert!(dated.is_revoked(Some(NOW_MS - 9_999)), "within the second of its issue it is taken for older");
    let undated = identity(good());
    assert!(!undated.is_revoked(None) && undated.is_revoked(Some(1)));
    let issued = hs256().verify_at(&issue(SECRET, "bob", None, NOW_MS + 1000).unwrap(), NOW_MS).unwrap();
    assert!(issued.issued_ms.is_some(), "ours say it");
}
