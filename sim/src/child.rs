//! Runs in processes of their own: a run's runtime is global to its process.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{env, fs, io, thread};

/// Real time that a run may take before it counts as spinning.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// How often a child is looked after.
const LOOK: Duration = Duration::from_millis(5);
/// Exit code of a run that did not end.
const SPINNING: i32 = 11;

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

/// Runs another program.
///
/// # Errors
/// When a process cannot be started.
pub fn run_command(command: &mut Command) -> io::Result<Done> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // To a file: a pipe that nobody empties would stop the child.
    let path = scratch(&format!("{}.out", NEXT.fetch_add(1, Ordering::Relaxed)));
    let out = fs::File::create(&path)?;
    let mut child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
    let code = wait(&mut child)?;
    let said = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    fs::remove_file(&path)?;
    Ok(Done { code, said })
}

fn wait(child: &mut Child) -> io::Result<i32> {
    let mut waited = Duration::ZERO;
    loop {
        if let Some(status) = child.try_wait()? {
            // Without a code it was killed by a signal.
            return Ok(status.code().unwrap_or(13));
        }
        if waited >= PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(SPINNING);
        }
        pause();
        waited += LOOK;
    }
}

#[allow(clippy::disallowed_methods)] // Outside of any run, in real time.
fn pause() {
    thread::sleep(LOOK);
}

/// A file for this process's own use.
pub fn scratch(name: &str) -> PathBuf {
    env::temp_dir().join(format!("im-gateway-sim-{}-{name}", std::process::id()))
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
