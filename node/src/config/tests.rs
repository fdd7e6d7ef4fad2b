//! Precedence, masking, and errors that say what to do.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use cluster::state::GroupLimits;

use super::*;

#[path = "../../tests/common/certificates.rs"]
mod certificates;

struct Case {
    sources: Sources,
    _file: tempfile::NamedTempFile,
}

impl Case {
    fn new(toml: &str, environment: &[(&str, &str)]) -> Self {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(toml.as_bytes()).expect("written");
        let environment: BTreeMap<_, _> =
            environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let sources = Sources { file: Some(file.path().to_owned()), environment, flags: Overrides::default() };
        Self { sources, _file: file }
    }

    fn config(&self) -> Config {
        load(&Config::default(), &self.sources).expect("loads").0
    }

    /// The error of loading or checking, with the temporary file's name as `FILE`.
    fn error(&self) -> String {
        let error =
            load(&Config::default(), &self.sources).and_then(|(config, _)| config.check()).expect_err("refused");
        let file = self.sources.file.as_ref().expect("a file").display().to_string();
        error.to_string().replace(&file, "FILE")
    }
}

const REAL: &str = "a secret long enough to be one";

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_defaults() {
    let toml = "data = 'f'\n[listen]\nhttp = '127.0.0.1:1'\npeer = '127.0.0.1:1'\n[limits]\nsend_per_s = 1";
    let mut case = Case::new(toml, &[("IMGW_LISTEN_PEER", "127.0.0.1:2"), ("IMGW_HTTP", "127.0.0.1:2")]);
    case.sources.flags.set("listen.http", Some("127.0.0.1:3"));
    case.sources.flags.set("cluster.voters", None::<u64>);
    let config = case.config();
    assert_eq!(config.listen.http, "127.0.0.1:3");
    assert_eq!(config.listen.peer, "127.0.0.1:2");
    assert_eq!((config.data, config.limits.send_per_s), (PathBuf::from("f"), 1));
    assert_eq!(config.limits.ping_ms, Limits::default().ping_ms);
    assert_eq!(config.cluster.voters, 3);
}

#[test]
fn the_environment_is_read_by_the_kind_of_each_key() {
    let case = Case::new(
        "",
        &[
            ("IMGW_JWT_SECRET", "1234567890123456"),
            ("IMGW_CLUSTER_JOIN", "a:1, b:2,"),
            ("IMGW_CLUSTER_BOOTSTRAP", "true"),
            ("IMGW_CLUSTER_LIMITS_INBOX_MESSAGES", "7"),
            ("IMGW_LOG_FORMAT", "json"),
            ("HOME", "/x"),
        ],
    );
    let config = case.config();
    assert_eq!(config.auth.secret, Some(Masked::new("1234567890123456")));
    assert_eq!(config.cluster.join, ["a:1", "b:2"]);
    assert!(config.cluster.bootstrap);
    assert_eq!((config.cluster.limits.inbox_messages, config.log.format), (7, LogFormat::Json));
}

#[test]
fn variables_that_mean_nothing_are_named() {
    let case = Case::new("", &[("IMGW_PORT", "tcp://10.0.0.1"), ("IMGW_URL", "x"), ("IMGW_DEV", "true")]);
    let (config, strange) = load(&Config::default(), &case.sources).expect("loads");
    assert!(config.dev);
    assert_eq!(strange, ["IMGW_PORT"]);
}

#[test]
fn errors_name_the_key_and_the_place() {
    let error = |toml, environment: &[_]| Case::new(toml, environment).error();
    let text = error("[listen]\nhtp = 'x'", &[]);
    assert_eq!(text, "FILE: there is no key `htp` in [listen]; known there: http, peer");
    assert!(error("lsten = 1", &[]).starts_with("FILE: there is no key `lsten` at the top level; known there: dev,"));
    let text = error("[limits]\nping_ms = 'soon'", &[]);
    assert_eq!(text, "FILE: `limits.ping_ms`: invalid type: found string \"soon\", expected u64");
    let text = error("", &[("IMGW_LIMITS_PING_MS", "soon")]);
    assert!(text.starts_with("environment variable IMGW_LIMITS_PING_MS: `limits.ping_ms`: "), "{text}");
    assert!(error("data = ", &[]).starts_with("FILE: TOML parse error at line 1"));
    assert!(error("[log]\nformat = 'xml'", &[]).contains("found \"xml\", expected one of auto, json, text"));
    assert!(error("[cluster]\nvoters = 4", &[]).contains("set it to 3 or 5"));
    assert!(error("[cluster]\njoin = ['nowhere']", &[]).contains("\"nowhere\" is not host:port"));
    assert!(error("[auth]\nsecret = ''", &[]).contains("`auth.secret` is empty"));
    assert!(error("[auth]\nsecret = 's'\njwks = 'f'", &[]).contains("both"));
    let missing = Sources { file: Some("/nonexistent/x.toml".into()), ..Sources::default() };
    let error = load(&Config::default(), &missing).expect_err("refused").to_string();
    assert!(error.contains("/nonexistent/x.toml"), "{error}");
}

#[test]
fn limits_with_which_nothing_would_work_are_refused() {
    for (bytes, good) in [(0, false), (1023, false), (1024, true), (921_600, true), (921_601, false)] {
        let case = Case::new(&format!("[limits]\nframe_bytes = {bytes}"), &[]);
        if good {
            assert_eq!(case.config().check().expect("fine").limits.frame_bytes, bytes);
        } else {
            let expected = format!("`limits.frame_bytes` = {bytes} : set it to 1024 to 921600 (bytes)");
            assert_eq!(case.error(), expected);
        }
    }
    // Every other limit, whatever it is called: none of them can be 0.
    let limits = [
        ("limits", toml::to_string(&Limits::default()), "frame_bytes"),
        ("cluster.limits", toml::to_string(&Replicated::default()), ""),
        ("cluster.groups", toml::to_string(&GroupLimits::default()), ""),
    ];
    for (section, keys, checked_above) in limits {
        let keys = keys.expect("representable in TOML");
        for key in keys.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
            if key == checked_above {
                continue;
            }
            // Checked below.
            let least = if key == "ring_ttl_ms" { 3_600_000 } else { 1 };
            let error = Case::new(&format!("[{section}]\n{key} = 0"), &[]).error();
            assert!(error.starts_with(&format!("`{section}.{key}` = 0 : ")) && !error.contains('\n'), "{error}");
            Case::new(&format!("[{section}]\n{key} = {least}"), &[]).config().check().expect("it is little, but works");
        }
    }
    let error = Case::new("[cluster.limits]\nring_ttl_ms = 3599999", &[]).error();
    assert!(error.contains("set it to 3600000 or more"), "{error}");
}

#[test]
fn secrets_are_masked() {
    let case = Case::new("", &[("IMGW_JWT_SECRET", REAL), ("IMGW_CLUSTER_SECRET", REAL), ("IMGW_ADMIN_TOKEN", REAL)]);
    let config = case.config().check().expect("fine");
    assert!(!config.print().contains(REAL) && config.print().contains("secret = \"***\""));
    assert!(!config.print().contains("development"));
    assert!(!format!("{config:?}").contains(REAL));
    assert_eq!(config.auth.secret.expect("set").reveal(), REAL);
}

#[test]
fn what_is_printed_can_be_read_back() {
    let config = Config::default();
    let case = Case::new(&config.print(), &[]);
    assert_eq!(case.config(), config);
    let checked = config.check().expect("fine");
    assert!(checked.print().starts_with("# public development secret, good on loopback only: auth.secret, "));
}

#[test]
fn development_secrets_stay_on_the_loopback() {
    let refused = |toml: &str, environment: &[_]| Case::new(toml, environment).error();
    let text = refused("[listen]\nhttp = '0.0.0.0:8080'", &[]);
    assert!(text.contains("IMGW_JWT_SECRET") && text.contains("0.0.0.0:8080"), "{text}");
    let public = refused("[listen]\nhttp = '192.0.2.1:8080'", &[("IMGW_JWT_SECRET", DEV_SECRET)]);
    assert!(public.contains("IMGW_JWT_SECRET"), "{public}");
    let text = refused("[listen]\npeer = '192.0.2.1:9080'", &[("IMGW_JWT_SECRET", REAL)]);
    assert!(text.contains("IMGW_CLUSTER_SECRET"), "{text}");
    let both = [("IMGW_JWT_SECRET", REAL), ("IMGW_CLUSTER_SECRET", REAL)];
    assert!(refused("dev = true\n[listen]\nhttp = '[::]:8080'", &both).contains("development mode"));
    assert!(refused("[listen]\npeer = '0.0.0.0:9080'", &both).contains("advertise.peer"));
    let fine = "[listen]\nhttp = '0.0.0.0:8080'\npeer = '0.0.0.0:9080'\n[advertise]\npeer = 'n1.example:9080'";
    let config = Case::new(fine, &both).config().check().expect("fine");
    assert_eq!(config.advertise.http.as_deref(), Some("ws://n1.example:8080/ws"));
}

#[test]
fn certificates_are_looked_at_before_anything_is_opened() {
    let dir = tempfile::tempdir().expect("a folder");
    let ca = certificates::Ca::new(dir.path(), "ca");
    let (good, late) = (ca.node(dir.path(), "good", 2100), ca.node(dir.path(), "late", 2001));
    let peer = |cert: &PathBuf, key: &PathBuf| {
        let ca = ca.file.clone();
        Case::new(&format!("[tls.peer]\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}"), &[])
    };
    let case = Case::new(&format!("[tls.http]\ncert = {:?}\nkey = {:?}", good.cert, good.key), &[]);
    let config = case.config().check().expect("good files");
    assert_eq!(config.advertise.http.as_deref(), Some("wss://127.0.0.1:8080/ws"));
    peer(&good.cert, &good.key).config().check().expect("good files");

    let nowhere = dir.path().join("nowhere");
    for (case, words) in [
        (peer(&nowhere, &good.key), "[tls.peer]: cannot read the certificate"),
        (peer(&good.cert, &nowhere), "[tls.peer]: cannot read the key"),
        (peer(&good.cert, &late.key), "does not belong to the certificate"),
        (peer(&late.cert, &late.key), "late.pem has expired: put a valid one there"),
        (peer(&good.key, &good.key), "holds no certificate in PEM form"),
        (peer(&good.cert, &good.cert), "holds no private key in PEM form"),
        (Case::new(&format!("[tls.http]\ncert = {:?}", good.cert), &[]), "[tls.http] lacks key"),
        (Case::new("", &[("IMGW_TLS_PEER_CA", "x")]), "[tls.peer] lacks cert and key"),
        (Case::new("[tls.http]\nca = 'x'", &[]), "`tls.http.ca`"),
    ] {
        let error = case.error();
        assert!(error.contains(words), "no \"{words}\" in {error}");
    }
}
