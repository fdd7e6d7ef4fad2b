//! The kinds of faults: what each does, and how strongly.

use serde::{Deserialize, Serialize};

/// A kind of fault. Where it says so, a fault's `amount` tells how strong it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The process is killed, and started again when the fault ends.
    Kill,
    /// All processes are killed at once.
    KillAll,
    /// The process is killed again and again; each life lasts up to `amount` ms.
    CrashLoop,
    /// The machine's power is cut, and comes back when the fault ends.
    PowerCut,
    /// The power of all machines is cut at once.
    PowerCutAll,
    /// The machine stands still, as a virtual one does while it is moved; its clock jumps.
    Pause,
    /// The process gets no time for up to `amount` ms, then some for as long, and so on.
    SlowCpu,
    /// The process stops in good order, and is started again when the fault ends.
    Drain,
    /// One node after the other is stopped in good order and started again.
    RollingRestart,
    /// Power is cut and the disk lost. The machine comes back as a new node, and the operator
    /// removes the old one.
    Wipe,

    /// The machine is cut off from all others, clients included.
    Isolate,
    /// What the machine sends to others gets lost, from clients and nodes alike.
    CutOut,
    /// What others send to the machine gets lost.
    CutIn,
    /// Two nodes cannot reach each other; both reach all others.
    CutLink,
    /// `amount` nodes are cut off from the other ones. Clients reach all.
    Partition,
    /// Each node reaches only two others, its neighbours.
    Ring,
    /// Nodes are cut off from each other one by one, and joined in another order.
    Swizzle,
    /// Requests to connect to the machine get lost; streams that are open go on.
    HangingConnects,
    /// All streams of the machine are reset at once.
    Reset,
    /// All streams of the machine fall silent for good: a box on the way forgot them, and tells nobody.
    /// New ones work.
    Forget,
    /// Packets to and from the machine take up to `amount` ms longer.
    SlowLinks,
    /// `amount` of 100 packets to and from the machine are lost.
    Loss,
    /// `amount` KiB pass in a second between the machine and each other one.
    Narrow,

    /// Syncs fail.
    FsyncError,
    /// Whatever touches the disk fails.
    DiskError,
    /// The disk is full.
    DiskFull,
    /// A sync, and whatever else waits for the disk, takes up to `amount` ms.
    SlowDisk,
    /// `amount` bits are flipped on the disk; when the fault ends the process is killed and reads
    /// what it finds. When it refuses that, the operator empties the disk.
    BitFlip,
    /// When the fault ends the process is killed and its disk replaced by a copy made when the fault
    /// began, `amount` boots ago. When the node is refused, the operator empties the disk.
    OldCopy,
    /// The machine's power is cut, and it comes back with a half of its disk when the fault ends: without the records
    /// if `amount` is 0, without the rest if it is 1. The node refuses that, and the operator empties the disk.
    LostHalf,

    /// The machine's wall clock jumps by `amount` ms.
    ClockJump,

    /// Leadership is moved to another voter.
    TransferLeader,
    /// Leadership is moved every `amount` ms.
    LeaderChurn,
    /// One more machine joins.
    AddNode,
    /// A node is stopped in good order and removed from the cluster. Its machine comes back empty
    /// when the fault ends; with a length of 0, never.
    RemoveNode,
    /// The breaker is opened, and closed when the fault ends.
    Breaker,
}

/// What a kind takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// How long it lasts, in ms, at least and at most, where chance draws it.
    pub lasts_ms: (u64, u64),
    /// How strong it is, at least and at most; see [`FaultKind`].
    pub amount: Option<(i64, i64)>,
}

/// An hour, in ms.
const HOUR: i64 = 3_600_000;

impl FaultKind {
    /// All that swarms are drawn from; [`Self::Breaker`] is no fault of the system: it comes beside any swarm.
    /// Kept by hand, and new ones come last: what a seed draws depends on the order.
    pub const ALL: [Self; 35] = [
        Self::Kill,
        Self::KillAll,
        Self::CrashLoop,
        Self::PowerCut,
        Self::PowerCutAll,
        Self::Pause,
        Self::SlowCpu,
        Self::Drain,
        Self::RollingRestart,
        Self::Wipe,
        Self::Isolate,
        Self::CutOut,
        Self::CutIn,
        Self::CutLink,
        Self::Partition,
        Self::Ring,
        Self::Swizzle,
        Self::HangingConnects,
        Self::Reset,
        Self::SlowLinks,
        Self::Loss,
        Self::Narrow,
        Self::FsyncError,
        Self::DiskError,
        Self::DiskFull,
        Self::SlowDisk,
        Self::BitFlip,
        Self::OldCopy,
        Self::LostHalf,
        Self::ClockJump,
        Self::TransferLeader,
        Self::LeaderChurn,
        Self::AddNode,
        Self::RemoveNode,
        Self::Forget,
    ];

    /// What it takes.
    pub fn range(self) -> Range {
        let (lasts_ms, amount) = match self {
            Self::Kill | Self::PowerCut | Self::Drain => ((50, 6_000), None),
            Self::KillAll | Self::PowerCutAll => ((50, 3_000), None),
            Self::CrashLoop => ((1_000, 8_000), Some((20, 1_500))),
            Self::Pause => ((100, 8_000), None),
            Self::SlowCpu => ((1_000, 8_000), Some((2, 200))),
            Self::RollingRestart => ((1, 1), None),
            Self::Wipe => ((50, 5_000), None),
            Self::Isolate | Self::CutOut | Self::CutIn | Self::CutLink | Self::Ring => ((100, 12_000), None),
            Self::Partition => ((100, 12_000), Some((1, 2))),
            Self::Swizzle => ((1_000, 10_000), None),
            Self::HangingConnects => ((1_000, 10_000), None),
            Self::Reset | Self::Forget => ((1, 1), None),
            Self::SlowLinks => ((1_000, 10_000), Some((5, 400))),
            Self::Loss => ((1_000, 10_000), Some((1, 30))),
            Self::Narrow => ((1_000, 10_000), Some((8, 1_000))),
            Self::FsyncError | Self::DiskError => ((10, 3_000), None),
            Self::DiskFull => ((100, 8_000), None),
            Self::SlowDisk => ((1_000, 10_000), Some((20, 1_500))),
            Self::BitFlip => ((10, 3_000), Some((1, 3))),
            Self::OldCopy => ((500, 8_000), Some((0, 2))),
            Self::LostHalf => ((50, 5_000), Some((0, 1))),
            Self::ClockJump => ((1, 1), Some((-HOUR, HOUR))),
            Self::TransferLeader | Self::AddNode => ((1, 1), None),
            Self::LeaderChurn => ((1_000, 8_000), Some((200, 2_000))),
            Self::RemoveNode => ((100, 5_000), None),
            Self::Breaker => ((100, 10_000), None),
        };
        Range { lasts_ms, amount }
    }

    /// Whether it takes a disk that others may have to do without: see [`super::model`].
    pub fn spoils_disk(self) -> bool {
        matches!(self, Self::Wipe | Self::BitFlip | Self::OldCopy | Self::LostHalf | Self::RemoveNode)
    }

    /// Whether it changes what is stored where its store does not see it: real sled's files are left as they are.
    pub fn tampers(self) -> bool {
        matches!(self, Self::BitFlip | Self::OldCopy | Self::LostHalf)
    }

    /// As in plans and traces.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }
}
