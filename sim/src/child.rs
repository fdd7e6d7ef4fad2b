//! Runs in processes of their own: a run's runtime is global to its process.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{env, fs, io, thread};

use rustix::process::Signal;

use crate::oracle::{Violation, ViolationKind, harness, liveness, safety};
use crate::summary::Summary;
use crate::watchdog;

/// Real time that a process may take; a run ends itself before.
const PATIENCE: Duration = watchdog::LONGEST.saturating_add(Duration::from_secs(60));
/// How often a child is looked after.
const LOOK: Duration = Duration::from_millis(5);
/// Signals by which a program ends itself.
const OWN_SIGNALS: [Signal; 6] = [Signal::ABORT, Signal::BUS, Signal::FPE, Signal::ILL, Signal::SEGV, Signal::TRAP];

/// What came of one process.
pub struct Done {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub said: String,
}

/// Runs this program with other arguments.
///
/// # Errors
/// When a process cannot be started.
pub fn run(args: &[&str]) -> io::Result<Done> {
    run_command(Command::new(env::current_exe()?).args(args))
}

/// Makes the run that `args` ask for; what it came to as well, if it ended.
///
/// # Errors
/// When a process cannot be started.
pub fn run_summarized(mut args: Vec<String>) -> io::Result<(Done, Option<Summary>)> {
    let path = numbered("json");
    args.extend(["--summary".to_owned(), path.to_string_lossy().into_owned()]);
    let done = run_command(Command::new(env::current_exe()?).args(&args))?;
    let summary = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    // A run that did not end wrote none.
    let _ = fs::remove_file(&path);
    Ok((done, summary))
}

/// Runs another program.
///
/// # Errors
/// When a process cannot be started.
pub fn run_command(command: &mut Command) -> io::Result<Done> {
    // To a file: a pipe that nobody empties would stop the child.
    let path = numbered("out");
    let out = fs::File::create(&path)?;
    let mut child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
    let ended = wait(&mut child)?;
    let mut said = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    fs::remove_file(&path)?;
    let code = ended.unwrap_or_else(|violation| {
        said += &format!("{violation}\n");
        violation.kind.exit_code().into()
    });
    Ok(Done { code, said })
}

/// Waits for its exit code. What has none did not end as it should.
fn wait(child: &mut Child) -> io::Result<Result<i32, Violation>> {
    let mut waited = Duration::ZERO;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code().ok_or_else(|| killed(status)));
        }
        if waited >= PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(Err(liveness(format!("the process was not over after {} s", PATIENCE.as_secs()))));
        }
        pause();
        waited += LOOK;
    }
}

/// A stack overflow and an abort are panics of another kind; other signals come from outside.
fn killed(status: ExitStatus) -> Violation {
    let text = format!("the process died of {status}");
    let own = OWN_SIGNALS.iter().any(|signal| status.signal() == Some(signal.as_raw()));
    if own { safety(text) } else { harness(text) }
}

/// The most telling kind of failure among exit codes. One that no run ends with is the simulator's fault.
pub fn worst(codes: impl IntoIterator<Item = i32>) -> Option<ViolationKind> {
    let kinds = [ViolationKind::Determinism, ViolationKind::Safety, ViolationKind::Liveness];
    let of = |code: i32| {
        kinds.into_iter().find(|kind| i32::from(kind.exit_code()) == code).unwrap_or(ViolationKind::Harness)
    };
    codes.into_iter().filter(|code| *code != 0).map(of).min()
}

/// What a process said, below a line of ours.
pub fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |all, line| all + "  " + line + "\n")
}

#[allow(clippy::disallowed_methods)] // Outside of any run, in real time.
fn pause() {
    thread::sleep(LOOK);
}

/// A file for this process's own use.
pub fn scratch(name: &str) -> PathBuf {
    env::temp_dir().join(format!("im-gateway-sim-{}-{name}", std::process::id()))
}

/// Such a file, for one child.
fn numbered(ending: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    scratch(&format!("{}.{ending}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Processor time that this process has taken.
pub fn cpu_time() -> Duration {
    let taken = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(taken.tv_sec.unsigned_abs(), taken.tv_nsec.unsigned_abs().try_into().unwrap_or(0))
}

/// Real time that passes.
pub struct Watch(std::time::Instant);

impl Watch {
    /// From now on.
    #[allow(clippy::disallowed_methods)] // Outside of any run, in real time.
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Since it was started.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_telling_kind_counts() {
        assert_eq!(worst([0, 0]), None);
        assert_eq!(worst([13, 0, 11]), Some(ViolationKind::Liveness));
        assert_eq!(worst([11, 10, 13]), Some(ViolationKind::Safety));
        assert_eq!(worst([10, 12]), Some(ViolationKind::Determinism));
        assert_eq!(worst([1]), Some(ViolationKind::Harness));
    }

    #[test]
    fn a_process_that_ends_itself_broke_a_promise() {
        let died_of = |signal: &str| {
            run_command(Command::new("sh").args(["-c", &format!("ulimit -c 0; kill -{signal} $$")]))
                .expect("there is a shell")
        };
        let aborted = died_of("ABRT");
        assert_eq!(aborted.code, 10, "{}", aborted.said);
        assert!(aborted.said.starts_with("Safety: "), "{}", aborted.said);
        assert_eq!(died_of("TERM").code, 13);
    }
}
