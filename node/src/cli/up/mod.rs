//! `up`: a local cluster, each node a process of its own.
//!
//! Invariant: no child outlives this process, whichever way it ends. On Ctrl-C they are told to
//! stop and waited for; should this process be killed outright, the kernel kills them.

mod child;
mod plan;

use std::time::Duration;

use cluster::env::clock;
use futures_util::future::{join_all, select_all};
use http::Method;

use super::args::UpArgs;
use super::dial::Dial;
use super::failure::{Failure, failed};
use super::http::Endpoint;
use super::process::{print, program, quote};
use super::signals::Signals;
use child::last_words;

pub use child::{Launch, Process};
pub use plan::{Folder, Node};

/// A cluster that is not ready by then is given up.
const READY: Duration = Duration::from_secs(60);
/// How often a starting node is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);
/// Pause before a node is started again; doubled each time that it dies young, up to 16 times.
const RESTART: Duration = Duration::from_millis(250);
/// A node that lived this long has not died young.
const YOUNG: Duration = Duration::from_secs(10);

/// Runs a local cluster until interrupted.
///
/// # Errors
/// Ports that are taken, a folder in use, a node that does not come up.
pub fn run(args: &UpArgs) -> Result<(), Failure> {
    // One thread, because a child is killed when the very thread that made it ends.
    super::process::local_runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let mut up = Up::new(args)?;
        let outcome = up.run(&mut signals).await;
        up.stop().await;
        outcome
    })
}

struct Member {
    node: Node,
    process: Option<Process>,
    started: clock::Instant,
    /// When to start it again, and how often it died young in a row.
    again: Option<clock::Instant>,
    young_deaths: u32,
    /// Whether it is yet to be announced as ready.
    announce: bool,
}

impl Member {
    /// The id of its process; 0 when it has none.
    fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, |process| process.pid)
    }
}

struct Up {
    folder: Folder,
    launch: Launch,
    members: Vec<Member>,
    restart: bool,
}

impl Up {
    fn new(args: &UpArgs) -> Result<Self, Failure> {
        let executable =
            std::env::current_exe().or_else(|error| failed(format!("cannot find the program's own file: {error}")))?;
        let folder = Folder::open(&args.data)?;
        let nodes = folder.nodes(args.nodes, args.http_port)?;
        let launch = Launch::new(executable, folder.secret()?, &nodes, args.test_hooks);
        let member =
            |node| Member { node, process: None, started: clock::now(), again: None, young_deaths: 0, announce: false };
        Ok(Self { folder, launch, members: nodes.into_iter().map(member).collect(), restart: args.restart })
    }

    async fn run(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        let fresh = !self.folder.founded();
        for index in 0..self.members.len() {
            self.start(index, fresh && index == 0)?;
        }
        tokio::select! {
            biased;
            () = signals.stop() => return Ok(()),
            outcome = self.all_ready() => outcome?,
        }
        self.folder.set_founded()?;
        self.print_table()?;
        tokio::select! {
            biased;
            () = signals.stop() => Ok(()),
            outcome = self.watch() => outcome,
        }
    }

    fn start(&mut self, index: usize, bootstrap: bool) -> Result<(), Failure> {
        let member = &mut self.members[index];
        member.process = Some(self.launch.start(&member.node, bootstrap)?);
        member.started = clock::now();
        member.again = None;
        Ok(())
    }

    /// Returns once every node says it is ready.
    async fn all_ready(&mut self) -> Result<(), Failure> {
        let deadline = clock::now() + READY;
        let mut waiting: Vec<usize> = (0..self.members.len()).collect();
        let mut reason = String::new();
        while let Some(index) = waiting.first().copied() {
            let member = &mut self.members[index];
            match is_ready(&member.node).await {
                Ok(()) => drop(waiting.remove(0)),
                Err(text) => reason = text,
            }
            for member in &mut self.members {
                let process = member.process.as_mut().expect("was started");
                if let Ok(how) = clock::timeout(Duration::ZERO, process.ended()).await {
                    return failed(lost(&member.node, &how));
                }
            }
            if clock::now() > deadline {
                let node = &self.members[index].node;
                return failed(format!(
                    "node {} was not ready within {READY:?} ({reason}); see {}",
                    node.number,
                    node.log.display()
                ));
            }
            if !waiting.is_empty() {
                clock::sleep(POLL).await;
            }
        }
        Ok(())
    }

    fn print_table(&self) -> Result<(), Failure> {
        print("node  url                     pid       state")?;
        for member in &self.members {
            print(&format!("{:<4}  {:<22}  {:<8}  ready", member.node.number, url(&member.node), member.pid()))?;
        }
        let urls: Vec<_> = self.members.iter().map(|member| url(&member.node)).collect();
        let (pid, program) = (self.members[0].pid(), program());
        print(&format!(
            "\nChat in a browser:   {} in one tab, {} in another\n\
             Chat in a terminal:  {program} chat --user alice --to bob --url {}\n\
             See the cluster:     {program} status --url {}\n\
             Kill a node:         kill -9 {pid}\n\
             Data and logs:       {}\n\
             Ctrl-C ends all nodes. All is in the clear, without TLS: for this machine only.\n",
            urls[0],
            urls[urls.len() - 1],
            urls.join(","),
            urls[0],
            self.folder.path().display(),
        ))
    }

    /// Shows deaths, and starts nodes again if asked to. Returns when no node is left.
    async fn watch(&mut self) -> Result<(), Failure> {
        loop {
            let (index, event) = next_event(&mut self.members).await;
            match event {
                Event::Ended(how) => self.bury(index, &how)?,
                Event::Due => {
                    self.start(index, false)?;
                    let member = &mut self.members[index];
                    member.announce = true;
                    print(&format!("node {} was started again, pid {}", member.node.number, member.pid()))?;
                }
                Event::Ready => {
                    self.members[index].announce = false;
                    print(&format!("node {} is ready again", self.members[index].node.number))?;
                }
            }
            if !self.restart && self.members.iter().all(|member| member.process.is_none()) {
                return failed("all nodes have ended; run `im-gateway up` again to bring the cluster back");
            }
        }
    }

    /// Tells of a death and what to do about it.
    fn bury(&mut self, index: usize, how: &str) -> Result<(), Failure> {
        let member = &mut self.members[index];
        member.process = None;
        member.announce = false;
        print(&lost(&member.node, how))?;
        if self.restart {
            member.young_deaths = if member.started.elapsed() < YOUNG { member.young_deaths + 1 } else { 0 };
            member.again = Some(clock::now() + RESTART * (1 << member.young_deaths.min(4)));
            return Ok(());
        }
        let command = self.launch.arguments(&member.node, false).iter().map(|word| quote(word)).collect::<Vec<_>>();
        print(&format!(
            "  start it again:  IMGW_CLUSTER_SECRET=$(cat {}) {} {}\n  or let `up --restart` do so",
            quote(&self.folder.secret_file().display().to_string()),
            quote(&self.launch.executable.display().to_string()),
            command.join(" ")
        ))
    }

    async fn stop(&mut self) {
        let processes: Vec<Process> = self.members.iter_mut().filter_map(|member| member.process.take()).collect();
        processes.iter().for_each(Process::ask_to_stop);
        join_all(processes.into_iter().map(Process::stopped)).await;
    }
}

/// Where clients reach a node.
pub fn url(node: &Node) -> String {
    format!("http://127.0.0.1:{}", node.http_port)
}

fn lost(node: &Node, how: &str) -> String {
    let words = last_words(node).map(|words| format!(": {words}")).unwrap_or_default();
    format!("node {} {how}{words} (log: {})", node.number, node.log.display())
}

/// Whether a node takes clients, or why not.
///
/// # Errors
/// A node that takes none, in its words.
pub async fn is_ready(node: &Node) -> Result<(), String> {
    let answer = Endpoint::new(&url(node), None, &Dial::default())
        .map_err(|error| error.to_string())?
        .request(Method::GET, "/ready")
        .await?;
    if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
}

/// What can happen to a node.
enum Event {
    /// Its process ended, so.
    Ended(String),
    /// It is time to start it again.
    Due,
    /// It serves, after it was started again.
    Ready,
}

/// The next thing to happen to any node. Cancel-safe.
async fn next_event(members: &mut [Member]) -> (usize, Event) {
    let waits = members.iter_mut().enumerate().map(|(index, member)| {
        Box::pin(async move {
            let Member { node, process, again, announce, .. } = member;
            let event = match (process, again) {
                (Some(process), _) if *announce => tokio::select! {
                    biased;
                    how = process.ended() => Event::Ended(how),
                    () = becomes_ready(node) => Event::Ready,
                },
                (Some(process), _) => Event::Ended(process.ended().await),
                (None, Some(when)) => {
                    clock::sleep_until(*when).await;
                    Event::Due
                }
                (None, None) => std::future::pending().await,
            };
            (index, event)
        })
    });
    select_all(waits).await.0
}

async fn becomes_ready(node: &Node) {
    while is_ready(node).await.is_err() {
        clock::sleep(POLL).await;
    }
}
