//! Configuration as an operator meets it: the annotated example, and what `serve --print-config` makes of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::{command, run};

const SECRETS: [(&str, &str); 3] = [
    ("IMGW_JWT_SECRET", "one secret of this test"),
    ("IMGW_CLUSTER_SECRET", "another secret of this test"),
    ("IMGW_ADMIN_TOKEN", "a third secret of this test"),
];

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/node.toml")
}

/// What a node that is given this file, and the secrets by the environment, would run with.
async fn print_config(file: &Path) -> String {
    let said = run(command(["serve", "--print-config", "--config"]).arg(file).envs(SECRETS)).await;
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    for (name, secret) in SECRETS {
        assert!(!said.out.contains(secret), "{name} is shown in\n{}", said.out);
    }
    said.out
}

/// The paths of all keys.
fn keys(table: &Table, prefix: &str, into: &mut BTreeSet<String>) {
    for (key, value) in table {
        match value {
            Value::Table(table) => keys(table, &format!("{prefix}{key}."), into),
            _ => drop(into.insert(format!("{prefix}{key}"))),
        }
    }
}

/// The example with every key that it only mentions switched on.
fn with_all_keys(text: &str) -> String {
    let mentions = |line: &&str| {
        let key = line.strip_prefix('#').and_then(|line| line.split_once(" = ")).map(|(key, _)| key);
        key.is_some_and(|key| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
    };
    let lines = text.lines().map(|line| if mentions(&line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn secrets_are_masked() {
    let printed = print_config(&example()).await;
    let table: Table = printed.parse().expect("TOML");
    for (section, key) in [("auth", "secret"), ("cluster", "secret"), ("admin", "token")] {
        assert_eq!(table[section][key].as_str(), Some("***"), "{printed}");
    }
}

#[tokio::test]
async fn the_example_names_every_key_and_shows_its_default() {
    let text = std::fs::read_to_string(example()).expect("the example is there");
    let all = with_all_keys(&text);
    let printed: Table = print_config(&example()).await.parse().expect("TOML");
    let (mut there, mut named) = (BTreeSet::new(), BTreeSet::new());
    keys(&printed, "", &mut there);
    keys(&all.parse().expect("the mentioned keys are TOML as well"), "", &mut named);
    // Keys that are not printed, because they name files, or a collector, that the example does not have.
    for key in
        ["auth.jwks", "otlp.endpoint", "tls.http.cert", "tls.http.key", "tls.peer.cert", "tls.peer.key", "tls.peer.ca"]
    {
        assert!(there.insert(key.to_owned()));
    }
    assert_eq!(named, there);

    // What is mentioned is the default: switched on, it changes nothing.
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("all.toml");
    let names_another =
        |line: &&str| ["jwks = ", "endpoint = ", "cert = ", "key = ", "ca = "].iter().any(|key| line.starts_with(key));
    let without_others: Vec<_> = all.lines().filter(|line| !names_another(line)).collect();
    std::fs::write(&file, without_others.join("\n")).expect("written");
    assert_eq!(print_config(&file).await.parse::<Table>().expect("TOML"), printed);
}
