//! The Raft oracle, red on doctored histories of disks.

use cluster::raft::{Member, Membership, Payload};

use super::super::testing::found;
use super::*;

/// Three nodes on the disks "0" to "2".
struct Cluster(Raft);

fn leader(term: u64, node: u64) -> LeaderId {
    LeaderId { term, node_id: NodeId(node) }
}

fn entry(leader_id: LeaderId, index: u64, text: &'static str) -> Step {
    let payload = EntryPayload::Normal(Payload(Bytes::from_static(text.as_bytes())));
    Step::Put(LogRecord::Entry(Entry { log_id: LogId { leader_id, index }, payload }))
}

fn vote(leader_id: LeaderId) -> Step {
    Step::Put(LogRecord::Vote(Vote { leader_id, committed: false }))
}

fn commit(leader_id: LeaderId, index: u64) -> Step {
    Step::Put(LogRecord::Committed(LogId { leader_id, index }))
}

impl Cluster {
    /// All have the membership, committed, and have durably elected node 0 in term 1.
    fn new() -> Self {
        let mut cluster = Self(Raft::default());
        let voters: BTreeSet<_> = (0..3).map(NodeId).collect();
        let nodes: BTreeMap<_, _> = voters.iter().map(|node| (*node, Member::default())).collect();
        let membership = Membership::new(vec![voters], nodes).expect("a membership");
        for n in 0..3 {
            cluster.0.disk(&n.to_string()).node = Some(NodeId(n));
            let payload = EntryPayload::Membership(membership.clone());
            let first = Entry { log_id: LogId { leader_id: leader(0, 0), index: 0 }, payload };
            cluster.write(n, Step::Put(LogRecord::Entry(first)), true);
            cluster.write(n, vote(leader(1, 0)), true);
        }
        cluster.write(0, commit(leader(0, 0), 0), true);
        cluster
    }

    fn write(&mut self, disk: u64, step: Step, sync: bool) {
        let disk = disk.to_string();
        self.0.written(&disk, vec![step]);
        if sync {
            let upto = self.0.disk(&disk).batches();
            self.0.synced(&disk, upto);
        }
    }

    fn texts(&self) -> Vec<String> {
        self.0.broken.iter().map(|violation| violation.text.clone()).collect()
    }
}

#[test]
fn a_good_history_is_good() {
    let mut cluster = Cluster::new();
    for n in 0..2 {
        cluster.write(n, entry(leader(1, 0), 1, "a"), true);
    }
    cluster.write(0, commit(leader(1, 0), 1), false);
    cluster.write(2, entry(leader(1, 0), 1, "a"), false);
    assert_eq!(cluster.texts(), Vec::<String>::new());
    assert_eq!(cluster.0.committed_upto(), 1);
    let last = cluster.0.fresh.last().map(|last| (last.index, last.command.as_deref()));
    assert_eq!(last, Some((1, Some(&b"a"[..]))));
}

#[test]
fn committed_before_a_quorum_has_it_on_disk() {
    let mut cluster = Cluster::new();
    cluster.write(0, entry(leader(1, 0), 1, "a"), true);
    cluster.write(1, entry(leader(1, 0), 1, "a"), false);
    cluster.write(0, commit(leader(1, 0), 1), false);
    found(&cluster.texts(), "which is only on the disks of [\"0\"]");
}

#[test]
fn a_leader_without_durable_votes() {
    let mut cluster = Cluster::new();
    cluster.write(1, vote(leader(2, 1)), true);
    cluster.write(2, vote(leader(2, 1)), false);
    cluster.write(1, entry(leader(2, 1), 1, "a"), true);
    found(&cluster.texts(), "leads by the durable votes of {\"1\"} only");
}

#[test]
fn a_vote_goes_back() {
    let mut cluster = Cluster::new();
    cluster.write(1, vote(leader(2, 1)), true);
    cluster.write(1, vote(leader(1, 2)), true);
    found(&cluster.texts(), "votes for");
    let mut cluster = Cluster::new();
    cluster.write(1, vote(leader(2, 1)), false);
    cluster.0.crashed("1", 1);
    cluster.write(1, vote(leader(1, 2)), true);
    assert_eq!(cluster.texts(), Vec::<String>::new());
}

#[test]
fn logs_do_not_match() {
    let mut cluster = Cluster::new();
    cluster.write(0, entry(leader(1, 0), 1, "a"), true);
    cluster.write(1, entry(leader(1, 0), 1, "b"), true);
    found(&cluster.texts(), "has another entry at 1");
}

#[test]
fn a_committed_entry_is_replaced_or_deleted() {
    let mut cluster = Cluster::new();
    for n in 0..2 {
        cluster.write(n, entry(leader(1, 0), 1, "a"), true);
    }
    cluster.write(0, commit(leader(1, 0), 1), true);
    for n in 1..3 {
        cluster.write(n, vote(leader(2, 2)), true);
    }
    cluster.write(2, entry(leader(2, 2), 1, "c"), true);
    found(&cluster.texts(), "where another one is committed");
    cluster.write(1, Step::Delete(1), true);
    found(&cluster.texts(), "1 deletes the committed entry 1");
    cluster.write(2, commit(leader(2, 2), 1), true);
    found(&cluster.texts(), "2 commits");
}

/// Seed 960: node 0's entry of term 1 reached one disk and was committed in term 5, by the leader that had it;
/// a leader of term 4, which had not, had written its own there meanwhile.
#[test]
fn a_leader_between_who_wrote_an_entry_and_who_committed_it() {
    let stale = |term: u64| {
        let mut cluster = Cluster::new();
        cluster.write(0, entry(leader(1, 0), 1, "a"), true);
        for earlier in 3..5 {
            for n in 1..3 {
                cluster.write(n, vote(leader(earlier, 1)), true);
            }
            if term.min(4) == earlier {
                cluster.write(1, entry(leader(earlier, 1), 1, "b"), true);
            }
        }
        for n in [0, 2] {
            cluster.write(n, vote(leader(5, 0)), true);
        }
        cluster.write(1, vote(leader(5, 0)), true);
        cluster.write(1, Step::Delete(1), true);
        cluster.write(1, entry(leader(1, 0), 1, "a"), true);
        for n in 0..2 {
            cluster.write(n, entry(leader(5, 0), 2, "c"), true);
        }
        cluster.write(0, commit(leader(5, 0), 2), true);
        // A fourth, which has promised nothing beyond term 4.
        cluster.write(3, vote(leader(4, 1)), true);
        cluster.write(3, entry(leader(term, 1), 1, "b"), true);
        cluster.texts()
    };
    assert_eq!(stale(4), Vec::<String>::new());
    // Seed 1284: what that leader has of an earlier one.
    assert_eq!(stale(3), Vec::<String>::new());
    found(&stale(5), "entry at 1, where another one is committed");
}

#[test]
fn a_replaced_leader_writes_to_who_knows_no_other() {
    let stale = |promised: LeaderId| {
        let mut cluster = Cluster::new();
        cluster.write(0, entry(leader(1, 0), 1, "a"), true);
        for n in 1..3 {
            cluster.write(n, vote(leader(2, 1)), true);
        }
        for n in 1..3 {
            cluster.write(n, entry(leader(2, 1), 1, "b"), true);
        }
        cluster.write(1, commit(leader(2, 1), 1), true);
        cluster.write(3, vote(promised), true);
        cluster.write(3, entry(leader(1, 0), 1, "a"), true);
        cluster.texts()
    };
    assert_eq!(stale(leader(1, 0)), Vec::<String>::new());
    found(&stale(leader(2, 1)), "entry at 1, where another one is committed");
}

#[test]
fn what_a_lost_disk_acknowledged_counts_for_the_node_that_it_was() {
    let commits_after_a_loss = |newcomer: Option<NodeId>| {
        let mut cluster = Cluster::new();
        for n in 0..2 {
            cluster.write(n, entry(leader(1, 0), 1, "a"), true);
        }
        cluster.0.replaced("1", Vec::new());
        cluster.0.disk("1").node = newcomer;
        cluster.write(0, commit(leader(1, 0), 1), true);
        cluster.texts()
    };
    assert_eq!(commits_after_a_loss(None), Vec::<String>::new());
    assert_eq!(commits_after_a_loss(Some(NodeId(7))), Vec::<String>::new(), "it acknowledged before it was lost");
    // What only the newcomer's disk holds is on no voter's.
    let mut cluster = Cluster::new();
    cluster.write(0, entry(leader(1, 0), 1, "a"), true);
    cluster.0.replaced("1", Vec::new());
    cluster.0.disk("1").node = Some(NodeId(7));
    cluster.write(1, entry(leader(1, 0), 1, "a"), true);
    cluster.write(0, commit(leader(1, 0), 1), true);
    found(&cluster.texts(), "which is only on the disks of");
}
