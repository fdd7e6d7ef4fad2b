//! The command line.

use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::{Parser, Subcommand};

use im_gateway::duration;

use crate::config::Overrides;

/// A clustered chat gateway. Without a command: a single development node on 127.0.0.1:8080.
#[derive(Debug, Parser)]
#[command(name = "im-gateway", version, max_term_width = 110)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node
    Serve(Box<ServeArgs>),
    /// Run a local cluster of several nodes, each a process of its own
    Up(UpArgs),
    /// Print a signed token for a user
    Token(TokenArgs),
    /// Chat from the terminal
    Chat(ChatArgs),
    /// Show the cluster as one node sees it
    Status(StatusArgs),
    /// Show what happened lately to a message, on all nodes
    Trace(TraceArgs),
    /// Stop deliveries in the whole cluster while messages are stored, or let them go on
    #[command(subcommand, arg_required_else_help = false)]
    Breaker(BreakerCommand),
    /// Send a node's clients elsewhere and hand leadership over, so that it can be stopped
    Drain(DrainArgs),
    /// Show or change what a node logs, until it ends
    LogLevel(LogLevelArgs),
    /// Change who belongs to the cluster
    #[command(subcommand, arg_required_else_help = false)]
    Member(MemberCommand),
    /// Make a user's tokens count no more, on all nodes
    Revoke(RevokeArgs),
    /// Change who leads
    #[command(subcommand, arg_required_else_help = false)]
    Leader(LeaderCommand),
    /// Break a local cluster of its own, and see that the alert comes and ends
    Drill(DrillArgs),
    /// See how the service level objectives were kept
    #[command(subcommand, arg_required_else_help = false)]
    Slo(SloCommand),
    /// Put load on a cluster and measure it
    Bench(Box<BenchArgs>),
}

/// Flags of `serve`. What is not given here comes from `IMGW_*` variables, the file, or the defaults.
#[derive(Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// Configuration file, TOML
    #[arg(long, env = "IMGW_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the resulting configuration, secrets masked, and end
    #[arg(long)]
    pub print_config: bool,
    /// Development mode: the demo page, and administration from the loopback without a token
    #[arg(long)]
    pub dev: bool,
    /// Allow faults on request (/test/…), for drills
    #[arg(long)]
    pub test_hooks: bool,
    /// Folder of this node's data
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// Address for clients
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Address for the other nodes
    #[arg(long, value_name = "HOST:PORT")]
    pub peer: Option<String>,
    /// URL by which clients reach this node, if it is not where it listens
    #[arg(long, value_name = "URL")]
    pub advertise_http: Option<String>,
    /// Address by which other nodes reach this one, if it is not where it listens
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_peer: Option<String>,
    /// Found a new cluster if the data folder is empty
    #[arg(long)]
    pub bootstrap: bool,
    /// Peer address of a node to join, several separated by commas
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub join: Vec<String>,
    /// How many nodes vote, 3 or 5
    #[arg(long, value_name = "N")]
    pub voters: Option<u64>,
    /// What to log: error, warn, info, debug, trace, or a filter
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// How to log: auto, json, text
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// End when the process of this id, the parent, has ended
    #[arg(long, hide = true, value_name = "PID")]
    pub supervisor: Option<i32>,
}

impl ServeArgs {
    /// What the flags set, by configuration key.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        let mut set = Overrides::default();
        set.set("dev", self.dev.then_some(true));
        set.set("test_hooks", self.test_hooks.then_some(true));
        set.set("data", self.data.clone());
        set.set("listen.http", self.http.clone());
        set.set("listen.peer", self.peer.clone());
        set.set("advertise.http", self.advertise_http.clone());
        set.set("advertise.peer", self.advertise_peer.clone());
        set.set("cluster.bootstrap", self.bootstrap.then_some(true));
        set.set("cluster.join", (!self.join.is_empty()).then(|| self.join.clone()));
        set.set("cluster.voters", self.voters);
        set.set("log.level", self.log.clone());
        set.set("log.format", self.log_format.clone());
        set
    }
}

#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=15))]
    pub nodes: u16,
    /// Port of the first node for clients; the others follow it
    #[arg(long, default_value_t = 8080, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub http_port: u16,
    /// Folder of the cluster's data; the same cluster comes back from it
    #[arg(long, default_value = "data/up", value_name = "DIR")]
    pub data: PathBuf,
    /// Start a node again when its process ends
    #[arg(long)]
    pub restart: bool,
    /// Allow faults on request (/test/…) on all nodes, for drills
    #[arg(long)]
    pub test_hooks: bool,
}

#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    /// The user, as `sub`
    #[arg(long)]
    pub user: String,
    /// Bind the token to one device
    #[arg(long)]
    pub device: Option<String>,
    /// How long the token is good, such as 90s, 30m, 1h, 7d
    #[arg(long, default_value = "1h", value_parser = duration::parse)]
    pub ttl: std::time::Duration,
    /// Take secret, issuer and audience from this configuration file
    #[arg(long, env = "IMGW_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// How a client command reaches the cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// A node's URL; several separated by commas
    #[arg(long, env = "IMGW_URL", default_value = "http://127.0.0.1:8080", value_delimiter = ',')]
    pub url: Vec<String>,
    /// PEM file of the CA that signed the nodes' certificates, for https:// and wss://; without it, the
    /// system's are trusted
    #[arg(long, env = "IMGW_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// How an administrative command reaches a node.
#[derive(Debug, Clone, clap::Args)]
pub struct AdminTarget {
    /// The node's URL
    #[arg(long, env = "IMGW_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// The admin token; not needed on the loopback in development mode
    #[arg(long, env = "IMGW_ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
    /// PEM file of the CA that signed the nodes' certificates, for https:// and wss://; without it, the
    /// system's are trusted
    #[arg(long, env = "IMGW_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct ChatArgs {
    /// Who you are
    #[arg(long)]
    pub user: String,
    /// Whom to write to; without it begin each line with @name
    #[arg(long)]
    pub to: Option<String>,
    /// Which group to write to; join or make it with /join and /create
    #[arg(long, conflicts_with = "to")]
    pub group: Option<String>,
    #[command(flatten)]
    pub target: Target,
    /// This device's name; a fixed one gets what waited for it
    #[arg(long, default_value = "terminal")]
    pub device: String,
    /// A token; without one it is signed with IMGW_JWT_SECRET or the development secret
    #[arg(long, env = "IMGW_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub target: AdminTarget,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct TraceArgs {
    /// The message's id, as its sender's `ok` has it
    pub mid: String,
    #[command(flatten)]
    pub target: AdminTarget,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    #[command(flatten)]
    pub target: AdminTarget,
    /// Also where no other node could take its clients: they stay until it stops
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, clap::Args)]
pub struct LogLevelArgs {
    /// What to log from now on: error, warn, info, debug, trace, or a filter such as info,cluster=debug
    pub filter: Option<String>,
    #[command(flatten)]
    pub target: AdminTarget,
}

#[derive(Debug, Subcommand)]
pub enum BreakerCommand {
    /// Store messages, and deliver none
    Open(AdminTarget),
    /// Deliver again, what was stored first
    Close(AdminTarget),
}

#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Take a node out of the cluster for good, such as one whose disk is lost
    Remove(MemberArgs),
    /// Make a learner that has caught up a voter
    Promote(MemberArgs),
}

#[derive(Debug, clap::Args)]
pub struct MemberArgs {
    /// The node's id, as `status` prints it
    pub node: String,
    #[command(flatten)]
    pub target: AdminTarget,
}

#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// Whose tokens
    #[arg(long)]
    pub user: String,
    /// Only those issued before this time, in seconds since the Unix epoch as in `iat`; without it, up to now
    #[arg(long, value_name = "TIME")]
    pub before: Option<u64>,
    #[command(flatten)]
    pub target: AdminTarget,
}

#[derive(Debug, Subcommand)]
pub enum LeaderCommand {
    /// Hand leadership over
    Transfer(TransferArgs),
}

#[derive(Debug, clap::Args)]
pub struct TransferArgs {
    /// The node that shall lead; without it, the most up-to-date voter
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
    #[command(flatten)]
    pub target: AdminTarget,
}

#[derive(Debug, clap::Args)]
pub struct DrillArgs {
    /// Which drill; `all` plays one after the other
    #[arg(value_parser = super::drill::names())]
    pub name: String,
    /// How many times faster than in production alerts and windows are; each drill has a factor of its own
    #[arg(long, value_name = "F", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub speed_up: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub enum SloCommand {
    /// Print the report of a month, as Markdown
    Report(SloReportArgs),
}

#[derive(Debug, clap::Args)]
pub struct SloReportArgs {
    /// Which month (UTC), such as 2026-10
    #[arg(long, value_name = "YYYY-MM")]
    pub month: super::slo::Month,
    /// Where Prometheus answers
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    pub prometheus: String,
}

#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub target: Target,
    /// Pairs of users, one sending to the other, over all nodes
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub pairs: usize,
    /// Messages per second in all, on a schedule that waits for no answer
    #[arg(long, default_value_t = 1_000.0, value_name = "PER_S")]
    pub rate: f64,
    /// No schedule: every sender keeps --inflight messages without an answer
    #[arg(long, conflicts_with = "rate")]
    pub saturate: bool,
    /// Most messages of one sender without an answer; the node's limit holds as well
    #[arg(long, default_value_t = 256, default_value_if("saturate", "true", "16"), value_name = "N")]
    pub inflight: usize,
    /// Bytes of a message's body
    #[arg(long, default_value_t = 200, value_name = "BYTES")]
    pub size: usize,
    /// How long to measure; with --idle, how long to hold on after that
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub duration: std::time::Duration,
    /// How long to send before measuring
    #[arg(long, default_value = "2s", value_parser = duration::parse)]
    pub warmup: std::time::Duration,
    /// Further pairs whose recipients connect and read nothing; how the others fare is measured
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub stalled: usize,
    /// Connections that do nothing, instead of messages: what memory they take
    #[arg(long, value_name = "N", conflicts_with_all = ["pairs", "rate", "saturate", "stalled"])]
    pub idle: Option<usize>,
    /// Break all idle connections at once, and see how fast they are back
    #[arg(long, requires = "idle")]
    pub storm: bool,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64).map(usize::from))]
    pub threads: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Take the tokens' secret, issuer and audience from this configuration file
    #[arg(long, env = "IMGW_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
