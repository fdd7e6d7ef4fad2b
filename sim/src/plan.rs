//! What will happen in a run: data, drawn from a seed or read from a file before it begins.
//!
//! Invariant: a plan says all that a run does besides the code under test. What it leaves to chance
//! follows from its seed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, thread};

use cluster::state::{GroupLimits, Limits};
use im_gateway::session::Limits as ConnectionLimits;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::alerts::Ring;
use crate::nemesis::FaultKind;
use crate::workload::Mix;

/// Where the scenarios are.
pub const SCENARIOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
/// Where all plans are that are kept.
const KEPT: [&str; 2] = [SCENARIOS, concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")];

/// A run's course.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// What it is for, or what it found.
    pub about: String,
    /// What the plan leaves to chance follows from it.
    pub seed: u64,
    /// Machines that run nodes from the beginning.
    pub nodes: usize,
    /// Voters that the cluster grows to: 1, 3 or 5.
    pub voters: usize,
    /// For how long clients send, ms.
    pub traffic_ms: u64,
    /// Pause between two messages of one sender: at most, ms.
    pub pause_ms: u64,
    /// Users who chat from the beginning, two at least.
    pub users: u64,
    /// Entries between two checkpoints of a node.
    pub checkpoint_entries: u64,
    /// Entries kept behind a checkpoint.
    pub kept_entries: u64,
    /// Bytes kept behind a checkpoint, about.
    pub kept_bytes: u64,
    /// The heartbeat that nodes tell clients, ms; whoever says nothing for two of them is given up.
    pub ping_ms: u64,
    /// Windows and buffers are so small that whatever can wait does.
    pub tiny: bool,
    /// WebSockets that a node opens in a second; 0: as shipped.
    pub admit_per_s: u32,
    /// Records are kept by real sled as well; then how much a crash loses does not follow from the seed.
    pub sled: bool,
    /// Machines' clocks are off by up to so many ms at the start.
    pub clock_offset_ms: u64,
    /// Machines' clocks go wrong by up to so many parts per million.
    pub clock_drift_ppm: u64,
    /// Which other clients there are.
    pub clients: Mix,
    /// Limits that the cluster begins with.
    pub limits: Limits,
    /// Of groups.
    pub groups: GroupLimits,
    /// What nodes say to understand until they are started anew: the feature level of an older build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_level: Option<u32>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Nobody may notice anything: no client is without a connection, and no message takes longer, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unnoticed_ms: Option<u64>,
    /// Which alerts must ring, all others being silent; see [`crate::alerts`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alerts: Option<BTreeMap<String, Ring>>,
    /// What goes wrong by chance besides; becomes faults when the plan is loaded under a seed.
    pub rates: Vec<Rate>,
    /// It is kept for its faults: each must begin.
    #[serde(skip)]
    pub kept: bool,
}

/// A kind of fault that comes by chance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// What.
    pub kind: FaultKind,
    /// How often in a day of traffic, on average.
    pub per_day: f64,
    /// For how long, ms: at least and at most.
    pub lasts_ms: (u64, u64),
    /// How strongly: at least and at most; see [`FaultKind`].
    #[serde(default)]
    pub amount: (i64, i64),
    /// Why so often.
    pub reason: String,
}

/// Something that goes wrong, for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// Whose machine, where the kind concerns one.
    #[serde(default)]
    pub target: Target,
    /// When, after traffic began, ms.
    pub at_ms: u64,
    /// For how long, ms.
    #[serde(default)]
    pub lasts_ms: u64,
    /// How strongly; see [`FaultKind`].
    #[serde(default)]
    pub amount: i64,
}

/// Whom a fault hits; found out when it begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// Whoever leads.
    #[default]
    Leader,
    /// The first node that is up and does not lead.
    Follower,
    /// A machine, by its number.
    Node(usize),
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("leader"),
            Self::Follower => f.write_str("follower"),
            Self::Node(n) => write!(f, "n{n}"),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "leader" => Ok(Self::Leader),
            "follower" => Ok(Self::Follower),
            other => {
                let number = other.strip_prefix('n').and_then(|number| number.parse().ok());
                number.map(Self::Node).ok_or_else(|| format!("a target is leader, follower or n0, n1 …, not {other:?}"))
            }
        }
    }
}

impl Default for Plan {
    /// Three nodes and some talk; nothing goes wrong.
    fn default() -> Self {
        Self {
            about: String::new(),
            seed: 0,
            nodes: 3,
            voters: 3,
            traffic_ms: 15_000,
            pause_ms: 100,
            users: 5,
            checkpoint_entries: 10_000,
            kept_entries: 20_000,
            kept_bytes: 512 << 20,
            ping_ms: ConnectionLimits::default().ping_ms,
            tiny: false,
            admit_per_s: 0,
            sled: false,
            clock_offset_ms: 0,
            clock_drift_ppm: 0,
            clients: Mix::default(),
            limits: Limits::default(),
            groups: GroupLimits::default(),
            old_level: None,
            unnoticed_ms: None,
            faults: Vec::new(),
            alerts: None,
            rates: Vec::new(),
            kept: false,
        }
    }
}

impl Plan {
    /// The plans in a folder, and their files, in the files' order.
    ///
    /// # Errors
    /// A folder or a file that cannot be read.
    pub fn all_in(folder: &str) -> io::Result<Vec<(PathBuf, Self)>> {
        let files: io::Result<Vec<_>> = fs::read_dir(folder)?.map(|file| Ok(file?.path())).collect();
        let mut files: Vec<_> =
            files?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
        files.sort();
        files.into_iter().map(|path| Ok((path.clone(), Self::read(&path).map_err(io::Error::other)?))).collect()
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// A file that cannot be read, or is no plan; says why.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
        // In a thread of its own: the seeds of this one's hash maps must be the run's, and so must not
        // have been drawn before it.
        let parse = || toml::from_str::<Self>(&text);
        let parsed = thread::scope(|scope| scope.spawn(parse).join().expect("parsing does not panic"));
        let plan = parsed.map_err(|error| failed(&error))?;
        plan.check().map_err(|error| failed(&error))?;
        // What chance alone makes of it may be too much at once.
        let kept = plan.rates.is_empty() && is_kept(path);
        Ok(Self { kept, ..plan })
    }

    /// The scenario of this name, or the plan in this file, under `seed`.
    ///
    /// # Errors
    /// As [`Plan::read`].
    pub fn load(name: &str, seed: u64) -> Result<Self, String> {
        let path = Path::new(SCENARIOS).join(format!("{name}.toml"));
        let plan = Self::read(if path.exists() { &path } else { Path::new(name) })?;
        Ok(Self { seed, ..plan }.with_chance())
    }

    /// With real sled beside the simulated disks, and without what cannot be done to it.
    pub fn on_sled(mut self) -> Self {
        self.sled = true;
        self.faults.retain(|fault| !fault.kind.tampers());
        self
    }

    /// As it stands in a file.
    ///
    /// # Panics
    /// Never: all of it has a form in TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a plan is numbers, strings and tables")
    }

    /// For the trace.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// For how long clients send.
    pub fn traffic(&self) -> Duration {
        Duration::from_millis(self.traffic_ms)
    }

    /// Pause between two messages of one sender, at most.
    pub fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms)
    }

    /// How long it takes at least, from the beginning of traffic.
    pub fn lasts(&self) -> Duration {
        let faults = self.faults.iter().map(|fault| fault.at() + fault.lasts());
        faults.max().unwrap_or_default().max(self.traffic())
    }

    /// Machines of the cluster in all, those that join later included.
    pub fn machines(&self) -> usize {
        self.nodes + self.faults.iter().filter(|fault| fault.kind == FaultKind::AddNode).count()
    }

    fn check(&self) -> Result<(), String> {
        if self.nodes == 0 || self.users < 2 {
            return Err("a run needs a node and two users".into());
        }
        if self.sled && self.faults.iter().any(|fault| fault.kind.tampers()) {
            return Err("real sled's files are not tampered with in a run: leave such faults out, or sled".into());
        }
        for fault in &self.faults {
            if let Target::Node(n) = fault.target
                && n >= self.machines()
            {
                return Err(format!("a fault aims at n{n}, and there are {} machines", self.machines()));
            }
        }
        Ok(())
    }
}

/// Whether a file is one of the plans that are kept.
fn is_kept(file: &Path) -> bool {
    let Ok(file) = file.canonicalize() else { return false };
    KEPT.iter().any(|kept| Path::new(kept).canonicalize().is_ok_and(|kept| file.parent() == Some(&*kept)))
}

impl Fault {
    /// When it begins, after traffic began.
    pub fn at(&self) -> Duration {
        Duration::from_millis(self.at_ms)
    }

    /// How long it lasts.
    pub fn lasts(&self) -> Duration {
        Duration::from_millis(self.lasts_ms)
    }

    /// Its strength as a count.
    pub fn count(&self) -> u64 {
        self.amount.max(0).unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_the_same_after_a_file() {
        for seed in 0..200 {
            let plan = Plan::draw(seed);
            assert_eq!(toml::from_str(&plan.to_toml()), Ok(plan), "seed {seed}");
        }
    }

    #[test]
    fn all_that_is_kept_can_be_read() {
        for folder in KEPT {
            let all = Plan::all_in(folder).expect("all can be read");
            assert!(!all.is_empty() && all.iter().all(|(_, plan)| plan.kept == plan.rates.is_empty()));
        }
        assert!(!Plan::draw(1).kept);
    }

    #[test]
    fn on_real_sled_disks_are_lost_but_not_tampered_with() {
        let kinds =
            [FaultKind::Wipe, FaultKind::BitFlip, FaultKind::OldCopy, FaultKind::LostHalf, FaultKind::RemoveNode];
        let fault = |kind| Fault { kind, target: Target::Leader, at_ms: 0, lasts_ms: 0, amount: 0 };
        let plan = Plan { faults: kinds.map(fault).into(), ..Plan::default() }.on_sled();
        assert!(plan.check().is_ok());
        let left: Vec<_> = plan.faults.iter().map(|fault| fault.kind).collect();
        assert_eq!(left, [FaultKind::Wipe, FaultKind::RemoveNode]);
    }

    #[test]
    fn a_wrong_target_is_refused() {
        assert!(Plan::draw(1).check().is_ok());
        let far = Fault { kind: FaultKind::Kill, target: Target::Node(9), at_ms: 0, lasts_ms: 0, amount: 0 };
        assert!(Plan { faults: vec![far], ..Plan::default() }.check().is_err());
        assert!(Target::try_from("node".to_owned()).is_err());
    }
}
