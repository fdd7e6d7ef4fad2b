//! The golden transcripts in `docs/protocol/`, played against a real node: what it says must be what
//! stands there. The format is described beside them.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use cluster::env::clock;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use common::raw::{Got, Raw};
use common::{SECRET, TestCluster, token};

const TRANSCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol");
/// What has no place in an order.
const NEWS: [&str; 4] = ["delivered", "presence", "typing", "read"];

#[tokio::test]
async fn a_node_says_what_the_transcripts_say() {
    let mut files: Vec<PathBuf> = fs::read_dir(TRANSCRIPTS)
        .expect("there are transcripts")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        play(&file).await;
    }
}

async fn play(file: &Path) {
    let text = fs::read_to_string(file).expect("a transcript");
    let cluster = TestCluster::start(1).await;
    cluster.knows_all_types().await;
    let mut scene = Scene { addr: cluster.addr(0), ..Scene::default() };
    for (number, line) in (1..).zip(text.lines()) {
        let said = scene.line(line).await;
        assert!(said.is_ok(), "{}:{number}: {}\n  {line}", file.display(), said.unwrap_err());
    }
    for (name, actor) in scene.actors {
        assert!(actor.early.is_empty(), "{}: {name} was also told {:?}", file.display(), actor.early);
    }
}

/// Who talks, and what was learned.
#[derive(Default)]
struct Scene {
    addr: String,
    actors: BTreeMap<String, Actor>,
    learned: BTreeMap<String, Value>,
}

struct Actor {
    raw: Raw,
    /// What came before its line.
    early: VecDeque<Value>,
}

impl Scene {
    async fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (name, does) = line.split_once(' ').ok_or("who does what?")?;
        if does == "opens" {
            let actor = Actor { raw: Raw::open(&self.addr).await, early: VecDeque::new() };
            self.actors.insert(name.to_owned(), actor);
            return Ok(());
        }
        if ["drops", "leaves"].contains(&does) {
            let actor = self.actors.remove(name).ok_or("there is no such connection")?;
            if let Some(news) = actor.early.front() {
                return Err(format!("it was told {news}, of which nothing stands here"));
            }
            if does == "leaves" {
                let rest = actor.raw.bye().await;
                return if rest.is_empty() { Ok(()) } else { Err(format!("it was also told {rest:?}")) };
            }
            return Ok(());
        }
        let said = does.strip_prefix("→ ").map(|said| self.fill(said));
        let actor = self.actors.get_mut(name).ok_or("there is no such connection")?;
        match said {
            Some(said) if said.starts_with("binary ") => {
                actor.raw.message(Message::binary(said.as_bytes()["binary ".len()..].to_vec())).await;
            }
            Some(said) => actor.raw.text(said.strip_prefix("text ").unwrap_or(&said)).await,
            None => {
                let expected = does.strip_prefix("← ").ok_or("neither →, ←, opens, drops nor leaves")?;
                match expected.strip_prefix("close ") {
                    Some(code) => actor.closed(code).await?,
                    None => actor.hears(&pattern(expected)?, &mut self.learned).await?,
                }
            }
        }
        Ok(())
    }

    /// What is to be sent, with what it leaves open.
    fn fill(&self, said: &str) -> String {
        let hour_ms = 3_600_000;
        let mut said = said.to_owned();
        for user in ["alice", "bob"] {
            let expired =
                im_gateway::auth::issue(SECRET, user, None, clock::wall_ms() - hour_ms).expect("it can be signed");
            said = said.replace(&format!("<expired token of {user}>"), &expired);
            said = said.replace(&format!("<token of {user}>"), &token(user));
        }
        for (name, value) in &self.learned {
            said = said.replace(&format!("\"<{name}>\""), &value.to_string());
            said = said.replace(&format!("<{name}>"), &value.to_string());
        }
        said
    }
}

impl Actor {
    async fn closed(&mut self, code: &str) -> Result<(), String> {
        match self.raw.next().await {
            Got::Closed(was) if was.to_string() == code => Ok(()),
            other => Err(format!("there came {other:?}")),
        }
    }

    /// Waits for a frame: for news wherever it comes, for another as the next of its kind.
    async fn hears(&mut self, expected: &Value, learned: &mut BTreeMap<String, Value>) -> Result<(), String> {
        let mut next = 0;
        loop {
            while let Some(frame) = self.early.get(next) {
                if let Some(more) = fits(expected, frame, learned) {
                    *learned = more;
                    self.early.remove(next);
                    return Ok(());
                }
                if kind(expected) == kind(frame) && kind(frame) != Kind::News {
                    return Err(format!("there came {frame}"));
                }
                next += 1;
            }
            match self.raw.next().await {
                Got::Frame(frame) => self.early.push_back(frame),
                other => return Err(format!("there came {other:?}, after {:?}", self.early)),
            }
        }
    }
}

/// Answers come in their order, so does what has a `seq`; of all else a node says when it likes.
#[derive(PartialEq)]
enum Kind {
    Answer,
    Inbox,
    News,
}

fn kind(frame: &Value) -> Kind {
    match frame {
        frame if !frame["seq"].is_null() => Kind::Inbox,
        frame if NEWS.iter().any(|news| frame[news].is_object()) => Kind::News,
        _ => Kind::Answer,
    }
}

/// An expected frame, with a string in the place of each value that is open.
fn pattern(text: &str) -> Result<Value, String> {
    let (mut json, mut quoted) = (String::new(), false);
    for char in text.chars() {
        quoted ^= char == '"';
        match char {
            '<' if !quoted => json.push_str("\"<"),
            '>' if !quoted => json.push_str(">\""),
            _ => json.push(char),
        }
    }
    serde_json::from_str(&json).map_err(|error| format!("no frame: {error}"))
}

/// What is learned, when this is what was expected.
fn fits(expected: &Value, found: &Value, learned: &BTreeMap<String, Value>) -> Option<BTreeMap<String, Value>> {
    let mut learned = learned.clone();
    fits_and_learns(expected, found, &mut learned).then_some(learned)
}

fn fits_and_learns(expected: &Value, found: &Value, learned: &mut BTreeMap<String, Value>) -> bool {
    match (expected, found) {
        (Value::String(text), _) if text.starts_with('<') && text.ends_with('>') => {
            let name = &text[1..text.len() - 1];
            learned.entry(name.to_owned()).or_insert_with(|| found.clone()) == found
        }
        (Value::Object(expected), Value::Object(found)) => {
            expected.len() == found.len()
                && expected
                    .iter()
                    .all(|(key, value)| found.get(key).is_some_and(|found| fits_and_learns(value, found, learned)))
        }
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len()
                && expected.iter().zip(found).all(|(value, found)| fits_and_learns(value, found, learned))
        }
        _ => expected == found,
    }
}
