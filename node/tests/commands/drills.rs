//! `drill`: the fault, the alert, the mending and the end of it, with real Prometheus and Alertmanager.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Stdio;
use std::time::Duration;

use cluster::env::clock;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::common::eventually;
use crate::common::tools::installed;
use crate::{command, run};

/// A drill waits for several rounds of rules and routes, on machines that do other things as well.
const DRILL: Duration = Duration::from_secs(300);

fn ready() -> bool {
    ["prometheus", "prometheus-alertmanager"].into_iter().all(|program| installed(program, "live drills").is_some())
}

async fn passes(name: &'static str, alert: &'static str) {
    if !ready() {
        return;
    }
    let temporary = TempDir::new().expect("a folder");
    let mut drill = command(["drill", name]);
    let output = clock::timeout(DRILL, drill.env("TMPDIR", temporary.path()).output()).await;
    let output = output.expect("the drill ends").expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let order = ["times faster", "FAULT", "ALERT", alert, "MEND", "RESOLVED", alert, "time to detect"];
    let mut rest = text.as_str();
    for words in order {
        let at = rest.find(words).unwrap_or_else(|| panic!("no \"{words}\" in its place in {text}"));
        rest = &rest[at + words.len()..];
    }
    assert_eq!(fs::read_dir(temporary.path()).expect("it is there").count(), 0, "its folder is gone");
}

/// So many at once: they wait most of the time, but each is a cluster, Prometheus and Alertmanager.
const AT_ONCE: usize = 4;

#[tokio::test]
async fn every_fault_is_told_of_and_mended() {
    let drills = [
        ("service-down", "IMGatewayServiceDown"),
        ("message-loss", "HighMessageLossRate"),
        ("high-latency", "HighMessageDeliveryLatency"),
        ("ack-timeout", "HighAckTimeoutRate"),
        ("connection-errors", "HighConnectionErrorRate"),
        ("offline-backlog", "HighOfflineQueueBacklog"),
        ("too-many-connections", "TooManyActiveConnections"),
        ("error-budget", "ErrorBudget"),
    ];
    let mut running = JoinSet::new();
    for (name, alert) in drills {
        running.spawn(passes(name, alert));
        if running.len() == AT_ONCE {
            running.join_next().await.expect("one runs").unwrap_or_else(|failed| panic!("{failed}"));
        }
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap_or_else(|failed| panic!("{failed}"));
    }
}

fn children(pid: u32) -> BTreeSet<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[tokio::test]
async fn interrupted_it_leaves_nothing_behind() {
    if !ready() {
        return;
    }
    let temporary = TempDir::new().expect("a folder");
    let out = temporary.path().join("out");
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let folder = TempDir::new().expect("a folder");
        let mut drill = command(["drill", "service-down"]);
        let stdout = File::create(&out).expect("a file");
        let mut drill =
            drill.env("TMPDIR", folder.path()).stdout(stdout).stderr(Stdio::null()).spawn().expect("it starts");
        let pid = drill.id().expect("it runs");
        eventually("everything runs", async || {
            fs::read_to_string(&out).expect("its output").contains("watch them").then_some(())
        })
        .await;
        let children = children(pid);
        assert!(children.len() >= 4, "two nodes at least, Prometheus and Alertmanager: {children:?}");
        // SAFETY: it is our own child, and was not waited for.
        assert_eq!(unsafe { libc::kill(i32::try_from(pid).expect("a pid"), signal) }, 0);
        let status = drill.wait().await.expect("it ends");
        assert_eq!(status.code(), (signal == libc::SIGINT).then_some(1));
        eventually("all that it started is gone", async || {
            children.iter().all(|child| !is_alive(*child)).then_some(())
        })
        .await;
        if signal == libc::SIGINT {
            assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0, "its folder is gone");
        }
    }
}

#[tokio::test]
async fn without_its_programs_it_says_what_to_install() {
    let folder = TempDir::new().expect("a folder");
    let said = run(command(["drill", "service-down"]).env("PATH", folder.path()).env("TMPDIR", folder.path())).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("is not in the search path; install it"), "{said:?}");
    let said = run(&mut command(["drill", "earthquake"])).await;
    assert!(said.code == Some(2) && said.err.contains("service-down"), "{said:?}");
}
