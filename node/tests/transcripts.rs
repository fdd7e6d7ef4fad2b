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
use common::{Options, PATIENCE, SECRET, TestCluster, http, token};

const TRANSCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol");
/// What has no place in an order.
const NEWS: [&str; 5] = ["delivered", "presence", "typing", "read", "go_away"];

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
    let (nodes, options) = stage(&text);
    let cluster = TestCluster::start_with(nodes, options).await;
    cluster.knows_all_types().await;
    if nodes > 1 {
        // Nobody waits for an election when the first one goes.
        cluster.lead(1).await;
    }
    let mut scene = Scene { addr: cluster.addr(0), ..Scene::default() };
    for (number, line) in (1..).zip(text.lines()) {
        let said = match line {
            "the node drains" => {
                cluster.signal(0, libc::SIGTERM);
                Ok(())
            }
            line => scene.line(line).await,
        };
        assert!(said.is_ok(), "{}:{number}: {}\n  {line}", file.display(), said.unwrap_err());
    }
    for (name, actor) in scene.actors {
        assert!(actor.early.is_empty(), "{}: {name} was also told {:?}", file.display(), actor.early);
    }
}

/// How many nodes a transcript plays on, and what they are told: its lines that begin with `with`.
fn stage(text: &str) -> (usize, Options) {
    let (mut nodes, mut options) = (1, Options::default());
    for with in text.lines().filter_map(|line| line.strip_prefix("with ")) {
        if let Some(count) = with.strip_suffix(" nodes") {
            nodes = count.parse().expect("a number of nodes");
            continue;
        }
        let (name, value) = with.split_once(" = ").expect("a setting");
        let (section, key) = name.rsplit_once('.').expect("a setting in a section");
        let lines = match section {
            "limits" => &mut options.limits,
            "admission" => &mut options.admission,
            "cluster.limits" => &mut options.replicated_limits,
            other => panic!("no transcript needs [{other}] so far"),
        };
        lines.push_str(&format!("{key} = {value}\n"));
    }
    (nodes, options)
}

/// Who talks, and what was learned.
#[derive(Default)]
struct Scene {
    addr: String,
    actors: BTreeMap<String, Actor>,
    /// What they were answered who asked for a WebSocket, or for something else.
    answers: BTreeMap<String, http::Answer>,
    learned: BTreeMap<String, Value>,
}

struct Actor {
    raw: Raw,
    /// What came before its line.
    early: VecDeque<Value>,
}

impl Scene {
    async fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() || ["#", "with "].iter().any(|passed| line.starts_with(passed)) {
            return Ok(());
        }
        let (name, does) = line.split_once(' ').ok_or("who does what?")?;
        if let Some(at) = does.strip_prefix("opens") {
            let addr = self.addr(at.trim()).ok_or("it names no node")?;
            let actor = Actor { raw: Raw::open(&addr).await, early: VecDeque::new() };
            self.actors.insert(name.to_owned(), actor);
            return Ok(());
        }
        if let Some(request) = does.strip_prefix("asks ") {
            return self.asks(name, request).await;
        }
        if let Some(answer) = self.answers.remove(name) {
            return self.answered(does.strip_prefix("← ").ok_or("it waits for its answer")?, &answer);
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

    /// The first node's address, or that in a URL that was learned.
    fn addr(&self, name: &str) -> Option<String> {
        if name.is_empty() {
            return Some(self.addr.clone());
        }
        let url = self.learned.get(name.strip_prefix('<')?.strip_suffix('>')?)?.as_str()?;
        Some(url.strip_prefix("ws://")?.strip_suffix("/ws")?.to_owned())
    }

    /// Asks by HTTP, and keeps the answer for its line. Who asks `until` it is refused asks as often.
    async fn asks(&mut self, name: &str, request: &str) -> Result<(), String> {
        let (again, request) =
            request.strip_prefix("until refused ").map_or((false, request), |request| (true, request));
        let request = self.fill(request).replace(" | ", "\r\n");
        let text = format!("{request}\r\nHost: {}\r\n\r\n", self.addr);
        let deadline = clock::now() + PATIENCE;
        loop {
            let answer = clock::timeout_at(deadline, http::request(&self.addr, &text)).await;
            let answer = answer.map_err(|_| "no answer in time")?.map_err(|error| error.to_string())?;
            if !again || answer.status != 101 {
                self.answers.insert(name.to_owned(), answer);
                return Ok(());
            }
        }
    }

    /// Compares an answer with `STATUS | Field: value | {body}`.
    fn answered(&mut self, expected: &str, answer: &http::Answer) -> Result<(), String> {
        let mut parts: Vec<&str> = expected.split(" | ").collect();
        let body = pattern(parts.pop().unwrap_or_default())?;
        let found = serde_json::from_str(&answer.body).map_err(|error| format!("{error}: {}", answer.body))?;
        let head = answer.head.to_ascii_lowercase();
        let as_expected = parts.iter().enumerate().all(|(place, part)| match place {
            0 => *part == answer.status.to_string(),
            _ => head.lines().any(|line| line == part.to_ascii_lowercase()),
        });
        self.learned = fits(&body, &found, &self.learned)
            .filter(|_| as_expected)
            .ok_or_else(|| format!("there came {}\n{}", answer.head, answer.body))?;
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
