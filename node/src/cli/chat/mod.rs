//! `chat`: a conversation in the terminal, on the client SDK.

mod show;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cluster::env::clock;
use cluster::id::{GroupId, MessageId, UserId};
use cluster::state::GroupAct;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use http::Method;
use im_gateway::client::{Address, Client, Event, Fate, Receipt, To, Tokens};
use im_gateway::env::Tcp;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use self::show::{untold, visible};
use super::args::ChatArgs;
use super::dial::Dial;
use super::failure::{Failure, failed, usage};
use super::http::Endpoint;
use super::token::Signer;

/// Life of the tokens that are signed here; the client renews them in time.
const TOKEN_TTL: Duration = Duration::from_secs(3_600);
/// How long a node may take to tell which others there are. Nothing depends on it.
const DISCOVERY: Duration = Duration::from_secs(1);
/// How long the last messages may take to be stored when the input has ended.
const FLUSH: Duration = Duration::from_secs(30);
/// From then on a wait for that says so.
const FLUSH_TELLS: Duration = Duration::from_secs(1);
/// How long a node may take to tell who is in a group.
const MEMBERS: Duration = Duration::from_secs(5);
/// Lines without an answer before no more are read; fewer than the client's own queue takes.
const UNANSWERED: usize = 512;

const HELP: &str = "write a line to send it; begin with @name to write to somebody else, \
                    /to name to change whom you write to, /group name to write to a group, \
                    /create, /join and /leave name for its membership, /members name, /quit to end";

/// Signs a new token whenever one is asked for.
struct Signing {
    signer: Signer,
    user: String,
    device: String,
}

#[async_trait]
impl Tokens for Signing {
    async fn token(&self) -> Result<String, String> {
        self.signer.sign(&self.user, Some(&self.device), TOKEN_TTL).map_err(|failure| failure.to_string())
    }
}

/// Chats until the input ends.
///
/// # Errors
/// Bad names or URLs; a node that ends the session for good.
pub fn run(args: &ChatArgs) -> Result<(), Failure> {
    let runtime = super::process::local_runtime()?;
    let outcome = runtime.block_on(async { Chat::new(args).await?.run().await });
    // The thread that reads standard input can only be left behind.
    runtime.shutdown_background();
    outcome
}

struct Chat {
    client: Client,
    user: String,
    device: String,
    to: Option<To>,
    lines: Lines<BufReader<Stdin>>,
    sent: u64,
    waiting: FuturesUnordered<Waiting>,
    stored: VecDeque<(MessageId, u64, clock::Instant)>,
    /// Dim and normal, on a terminal.
    style: (&'static str, &'static str),
    troubled: bool,
    /// Whether the one to whom we write was there when that was told last.
    online: Option<bool>,
    /// Why connecting failed so far, since the last time that it did not.
    obstacles: Vec<String>,
}

type Waiting = Pin<Box<dyn Future<Output = (u64, clock::Instant, Fate)> + Send>>;

impl Chat {
    async fn new(args: &ChatArgs) -> Result<Self, Failure> {
        for (flag, name) in [("--user", Some(&args.user)), ("--to", args.to.as_ref())] {
            if let Some(Err(rule)) = name.map(|name| UserId::new(name)) {
                return usage(format!("{flag}: {rule}"));
            }
        }
        if let Some(Err(rule)) = args.group.as_ref().map(|name| GroupId::new(name)) {
            return usage(format!("--group: {rule}"));
        }
        let tokens: Arc<dyn Tokens> = match &args.token {
            Some(token) => Arc::new(token.clone()),
            None => {
                let (user, device) = (args.user.clone(), args.device.clone());
                let signing = Signing { signer: Signer::from_environment(None)?, user, device };
                signing.signer.sign(&signing.user, Some(&signing.device), TOKEN_TTL)?;
                Arc::new(signing)
            }
        };
        let dial = Dial::new(&args.target.url, args.target.ca.as_deref())?;
        let urls = discover(&args.target.url, &dial).await;
        let first = rand::random_range(0..args.target.url.len().max(1));
        let client = Client::builder(Arc::new(Tcp), urls, tokens, &args.device).secure(dial.secure_net());
        let client = client.first(first).connect();
        let mut chat = Self {
            client: client.map_err(|error| Failure::Usage(format!("--url: {error}")))?,
            user: args.user.clone(),
            device: args.device.clone(),
            to: None,
            lines: BufReader::new(tokio::io::stdin()).lines(),
            sent: 0,
            waiting: FuturesUnordered::new(),
            stored: VecDeque::new(),
            style: if std::io::stdout().is_terminal() { ("\x1b[2m", "\x1b[0m") } else { ("", "") },
            troubled: false,
            online: None,
            obstacles: Vec::new(),
        };
        chat.write_to(args.group.clone().map(To::Group).or_else(|| args.to.clone().map(To::User)));
        Ok(chat)
    }

    /// From now on lines go there; whether a user is online is shown.
    fn write_to(&mut self, to: Option<To>) {
        if let Some(To::User(user)) = &self.to {
            self.client.unwatch([user.as_str()]);
        }
        if let Some(To::User(user)) = &to {
            self.client.watch([user.as_str()]);
        }
        (self.to, self.online) = (to, None);
    }

    async fn run(mut self) -> Result<(), Failure> {
        let mut interrupted = std::pin::pin!(im_gateway::env::terminated());
        self.note(HELP)?;
        loop {
            tokio::select! {
                biased;
                _ = &mut interrupted => return self.end().await,
                Some((number, since, fate)) = self.waiting.next(), if !self.waiting.is_empty() => {
                    self.show_fate(number, since, fate)?;
                }
                event = self.client.next() => match event {
                    Some(event) => self.show(event)?,
                    None => return Ok(()),
                },
                // Lines wait in the pipe while too many have no answer.
                line = self.lines.next_line(), if self.waiting.len() < UNANSWERED => match line {
                    Ok(Some(line)) if line.trim() != "/quit" => self.line(line.trim()).await?,
                    Ok(_) => {
                        self.flush(interrupted).await?;
                        return self.end().await;
                    }
                    Err(error) => return failed(format!("cannot read standard input: {error}")),
                },
            }
        }
    }

    /// Waits until the last messages have found their place, or nobody wants to wait any longer.
    async fn flush(&mut self, mut interrupted: Pin<&mut impl Future>) -> Result<(), Failure> {
        let start = clock::now();
        let (mut until, mut told) = (start + FLUSH_TELLS, false);
        while !self.waiting.is_empty() {
            tokio::select! {
                biased;
                _ = &mut interrupted => return Ok(()),
                Some((number, since, fate)) = self.waiting.next() => self.show_fate(number, since, fate)?,
                () = clock::sleep_until(until) => {
                    if told {
                        return Ok(());
                    }
                    self.note(&format!("waiting up to {FLUSH:?} for what has no answer yet; Ctrl-C ends at once"))?;
                    (until, told) = (start + FLUSH, true);
                }
            }
        }
        Ok(())
    }

    /// Ends the conversation.
    async fn end(mut self) -> Result<(), Failure> {
        let unanswered = self.waiting.len();
        self.client.close().await;
        // What is acknowledged comes nowhere else.
        while let Some(event) = self.client.next().await {
            if matches!(event, Event::Message(_) | Event::Gap { .. }) {
                self.show(event)?;
            }
        }
        if unanswered > 0 {
            return failed(format!("without an answer: {unanswered} of your messages; they may be delivered or not"));
        }
        if self.troubled { failed("not every message was stored; see above") } else { Ok(()) }
    }

    async fn line(&mut self, line: &str) -> Result<(), Failure> {
        if let Some((command, name)) = line.split_once(char::is_whitespace).filter(|_| line.starts_with('/')) {
            return self.command(command, name.trim()).await;
        }
        if line.is_empty() || line.starts_with('/') {
            return if line.is_empty() {
                Ok(())
            } else {
                self.note(&format!("{line}: no such command, or without its name; {HELP}"))
            };
        }
        let (to, text) = match line.strip_prefix('@').and_then(|rest| rest.split_once(char::is_whitespace)) {
            Some((to, text)) => (To::User(to.to_owned()), text.trim()),
            None => match &self.to {
                Some(to) => (to.clone(), line),
                None => return self.note("to whom? begin the line with @name, or set one with /to name"),
            },
        };
        let since = clock::now();
        match self.client.send(to, &json!({ "text": text })).await {
            Ok(receipt) => self.watch(since, receipt),
            Err(error) => self.note(&format!("not sent: {error}")),
        }
    }

    async fn command(&mut self, command: &str, name: &str) -> Result<(), Failure> {
        let rule = match command {
            "/to" => UserId::new(name).err(),
            _ => GroupId::new(name).err(),
        };
        if let Some(rule) = rule {
            return self.note(&rule.to_string());
        }
        let act = match command {
            "/to" | "/group" => {
                let to = name.to_owned();
                self.write_to(Some(if command == "/to" { To::User(to) } else { To::Group(to) }));
                return self.note(&format!("writing to {name}"));
            }
            "/members" => return self.members(name).await,
            "/create" => GroupAct::Create,
            "/join" => GroupAct::Join,
            "/leave" => GroupAct::Leave,
            _ => return self.note(&format!("no command {}; {HELP}", visible(command))),
        };
        let since = clock::now();
        match self.client.group(act, name).await {
            Ok(receipt) => self.watch(since, receipt),
            Err(error) => self.note(&format!("not done: {error}")),
        }
    }

    /// Says who is in a group, up to a screenful.
    async fn members(&self, group: &str) -> Result<(), Failure> {
        match clock::timeout(MEMBERS, self.client.members(group, None)).await {
            Ok(Ok((members, more))) => {
                let names: Vec<String> = members.iter().map(|name| visible(name)).collect();
                self.note(&format!("{}{}", names.join(", "), if more { ", …" } else { "" }))
            }
            Ok(Err(Some(code))) => self.note(&format!("not told: {}", untold(code))),
            Ok(Err(None)) => Ok(()),
            Err(_) => self.note("no answer so far"),
        }
    }

    fn watch(&mut self, since: clock::Instant, receipt: Receipt) -> Result<(), Failure> {
        self.sent += 1;
        let number = self.sent;
        self.waiting.push(Box::pin(async move { (number, since, receipt.await) }));
        Ok(())
    }
}

/// The given URLs, and those of the other nodes as far as a node tells them, so that a conversation
/// outlives the node that it began with.
async fn discover(given: &[String], dial: &Dial) -> Vec<String> {
    let ask = |url: &String| {
        let endpoint = Endpoint::new(url, None, dial);
        async move {
            let answer =
                clock::timeout(DISCOVERY, endpoint.ok()?.request(Method::GET, "/admin/status")).await.ok()?.ok()?;
            let status: Value = serde_json::from_slice(&answer.body).ok()?;
            let nodes = status["nodes"].as_array()?.iter();
            Some(nodes.filter_map(|node| node["client_url"].as_str()).map(str::to_owned).collect::<Vec<_>>())
        }
    };
    let mut urls = given.to_vec();
    let address = |url: &str| Address::parse(url).ok().map(|address| (address.authority, address.tls));
    // A node's word brings nobody from TLS into the clear, nor the other way.
    let tls = dial.secure_net().is_some();
    for url in join_all(given.iter().map(ask)).await.into_iter().flatten().flatten() {
        let new = address(&url)
            .is_some_and(|new| new.1 == tls && urls.iter().all(|known| address(known).as_ref() != Some(&new)));
        if new {
            urls.push(url);
        }
    }
    urls
}
