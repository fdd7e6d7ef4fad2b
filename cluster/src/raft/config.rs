//! openraft's settings, and why they are what they are.

use openraft::{Config, SnapshotPolicy};

use crate::config::LogKeeping;

/// How often openraft asks the state machine for a checkpoint, at most, in entries.
const ASK_EVERY: u64 = 256;

/// The settings.
///
/// # Errors
/// When they contradict each other.
pub fn config(keeping: &LogKeeping) -> Result<Config, String> {
    let config = Config {
        cluster_name: "im-gateway".into(),
        // A follower stands for election when it heard nothing for `election_timeout_max` (the
        // lease, in which nobody votes for anybody else) and then for a time drawn between the two:
        // for 275 to 350 ms. That is five heartbeats, so a machine that runs a test-suite beside the
        // node does not elect leaders all day; and a leader's death costs about 350 ms, well below
        // the 500 ms that deliveries may pause.
        heartbeat_interval: 50,
        election_timeout_min: 100,
        election_timeout_max: 175,
        // Who was cut off asks whether it could win before it raises the term.
        enable_pre_vote: Some(true),
        // A restarted leader is elected anew: what it had committed may not have reached its disk.
        enable_leader_restore: Some(false),
        // By count; the reader bounds an AppendEntries by bytes.
        max_payload_entries: 1024,
        // How often the state machine is asked; it decides by its own counts, see `CheckpointEvery`.
        snapshot_policy: SnapshotPolicy::LogsSinceLast(keeping.checkpoint.entries.min(ASK_EVERY)),
        max_in_snapshot_log_to_keep: keeping.kept_entries,
        purge_batch_size: 1_000,
        // Only the judgement whether a new learner has caught up. Sending a checkpoint depends on
        // what was purged.
        replication_lag_threshold: 1_000,
        // For loading a checkpoint that was sent, ms; sending has deadlines of its own.
        install_snapshot_timeout: 60_000,
        // Requests to a node without a link fail at once, so trying again soon is cheap.
        backoff: "20ms 40ms 80ms ..200ms".into(),
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_settings_are_consistent() {
        let config = super::config(&crate::config::LogKeeping::default()).expect("valid");
        let backoff: Vec<_> = config.build_backoff().take(5).map(|delay| delay.as_millis()).collect();
        assert_eq!(backoff, [20, 40, 80, 160, 200]);
    }
}
