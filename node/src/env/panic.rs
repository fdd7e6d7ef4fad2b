//! What a panic means for this process.
//!
//! Invariant: no node goes on with a part of it dead. A task that panicked would be missed by nobody
//! (its neighbours only wait for it), so the process ends, and its supervisor and the other nodes
//! see what they know how to handle: a node that is gone.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::process;

/// The exit code of a process that a panic ended.
const FAILED: i32 = 1;

thread_local! {
    /// Somebody on this thread waits for the panic, and knows what to do about it.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic on any thread is logged in one line, after Rust's own report, and ends the
/// process with exit code 1; but for those in [`catch`].
pub fn end_process_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        if !EXPECTED.get() {
            log(info);
            crate::telemetry::logs::finish();
            let why = format!("a part of this node panicked, which is a bug of im-gateway: {}", text(info));
            crate::telemetry::logs::last_word(&why);
            process::exit(FAILED);
        }
    }));
}

fn text<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    info.payload_as_str().unwrap_or("it gave no reason")
}

fn log(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    tracing::error!(
        event = "panicked",
        error = text(info),
        location = info.location().map(tracing::field::display),
        thread = thread.name().unwrap_or("unnamed"),
        "this node ends because a part of it panicked: that is a bug of im-gateway, start it again and report this"
    );
}

/// Runs `call`, and makes of a panic in it an error for the caller: what it says.
///
/// # Errors
/// The panic's text.
pub fn catch<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let outer = EXPECTED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    EXPECTED.set(outer);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("it panicked").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::telemetry::logs::{Format, Tap, init};

    /// Tells this test's program, run anew, what it is to do.
    const ROLE: &str = "IMGW_PANIC_TEST";

    /// Does in this process what would end it.
    fn play(role: &str) {
        init("info", Format::Json, Tap::default()).unwrap();
        end_process_on_panic();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        match role {
            "task" => drop(runtime.spawn(async { panic!("the {} is broken", "cable") })),
            "blocking" => drop(runtime.spawn_blocking(|| panic!("the cable is broken"))),
            "caught" => {
                assert_eq!(catch(|| -> u8 { panic!("the cable is broken") }), Err("the cable is broken".into()));
                assert_eq!(catch(|| 7), Ok(7));
                process::exit(7);
            }
            other => unreachable!("{other}"),
        }
        // As the node's main thread does: it waits for something else.
        runtime.block_on(std::future::pending())
    }

    /// The exit code of this program in a role, and what it wrote to stderr.
    fn run(role: &str) -> (Option<i32>, String) {
        if let Ok(role) = std::env::var(ROLE) {
            play(&role);
        }
        let this = std::env::current_exe().unwrap();
        let test = std::thread::current().name().expect("tests have names").to_owned();
        let output = Command::new(this)
            .args([&test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn ends_the_process(role: &str) {
        let (code, stderr) = run(role);
        assert_eq!(code, Some(1), "{stderr}");
        let logged: Vec<serde_json::Value> =
            stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(logged.len(), 2, "a line in the log, and the last word: {stderr}");
        assert_eq!(logged[1]["level"], "FATAL");
        assert_eq!((&logged[0]["event"], &logged[0]["level"]), (&"panicked".into(), &"ERROR".into()));
        assert_eq!(logged[0]["error"], "the cable is broken");
        assert!(logged[0]["location"].as_str().unwrap().contains("panic.rs:"), "{stderr}");
        assert!(stderr.contains("panicked at"), "Rust's own report is there too: {stderr}");
    }

    #[test]
    fn a_panic_in_a_task_ends_the_process() {
        ends_the_process("task");
    }

    #[test]
    fn a_panic_of_blocking_work_ends_the_process() {
        ends_the_process("blocking");
    }

    #[test]
    fn a_panic_that_somebody_waits_for_does_not() {
        assert_eq!(run("caught").0, Some(7));
    }
}
