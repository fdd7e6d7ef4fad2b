//! What this process spends its time and memory on, in [pprof]'s format and under the paths of Go's
//! `net/http/pprof`, so that `pprof`, Grafana and the like open them.
//!
//! [pprof]: https://github.com/google/pprof/blob/main/proto/profile.proto

use std::sync::{Arc, Once};
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use cluster::env::tasks::Place;
use cluster::env::{clock, tasks};
use http::{StatusCode, header};
use jemalloc_pprof::PROF_CTL;
use pprof::protos::{Function, Line, Location, Message, Profile, Sample, ValueType};
use pprof::{ProfilerGuard, ProfilerGuardBuilder};
use serde::Deserialize;

use super::guard::Operator;
use super::{App, answer};

/// Samples a second of CPU time: a prime, so that they do not keep step with timers.
const SAMPLES_PER_S: i32 = 97;
const DEFAULT_SECONDS: u64 = 30;
const MOST_SECONDS: u64 = 300;

/// The paths.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/debug/pprof/profile", get(cpu))
        .route("/debug/pprof/heap", get(heap))
        .route("/debug/pprof/goroutine", get(running))
}

/// See [`cpu`].
#[derive(Deserialize)]
struct Span {
    seconds: Option<String>,
}

/// Stacks that used the CPU in the next so many seconds.
async fn cpu(_: Operator, Query(Span { seconds }): Query<Span>) -> Response {
    let seconds = seconds.map_or(Some(DEFAULT_SECONDS), |text| text.parse().ok());
    let Some(seconds) = seconds.filter(|seconds| (1..=MOST_SECONDS).contains(seconds)) else {
        let message = format!("give whole seconds from 1 to {MOST_SECONDS}, such as ?seconds={DEFAULT_SECONDS}");
        return answer::error(StatusCode::BAD_REQUEST, "bad_seconds", &message);
    };
    let guard = match begin() {
        Ok(guard) => guard,
        Err(pprof::Error::Running) => {
            return answer::error(StatusCode::CONFLICT, "refused", "another profile is being taken: wait for its end");
        }
        Err(error) => return failed(&error),
    };
    clock::sleep(Duration::from_secs(seconds)).await;
    let encoded = tokio::task::spawn_blocking(move || {
        let profile = guard.report().build()?.pprof()?;
        Ok::<_, pprof::Error>(profile.write_to_bytes().expect("a profile in memory can be encoded"))
    });
    match encoded.await.expect("encoding does not panic") {
        Ok(bytes) => file("profile", bytes),
        Err(error) => failed(&error),
    }
}

/// Starts to sample.
fn begin() -> pprof::Result<ProfilerGuard<'static>> {
    static FIRST: Once = Once::new();
    let guard = ProfilerGuardBuilder::default().frequency(SAMPLES_PER_S).build()?;
    FIRST.call_once(|| {
        // The first sample of a process loads the tables for unwinding and allocates for it, which must
        // not happen inside of an allocation. So it is taken here, where there is none.
        // SAFETY: the handler is in place, and this thread is in no allocator and holds no lock.
        unsafe { libc::raise(libc::SIGPROF) };
    });
    Ok(guard)
}

/// What is allocated, by the stacks that did it; sampled since the start.
async fn heap(_: Operator) -> Response {
    let Some(control) = PROF_CTL.as_ref() else {
        let message = "this process was started with an allocator that takes no profiles";
        return answer::error(StatusCode::CONFLICT, "refused", message);
    };
    let mut control = control.clone().lock_owned().await;
    match tokio::task::spawn_blocking(move || control.dump_pprof()).await.expect("encoding does not panic") {
        Ok(bytes) => file("heap", bytes),
        Err(error) => failed(&*error),
    }
}

/// How many tasks are alive, by the line that started them: what goroutines are to Go.
async fn running(_: Operator) -> Response {
    let alive = tasks::alive();
    let bytes = of_tasks(&alive).write_to_bytes().expect("a profile in memory can be encoded");
    file("goroutine", bytes)
}

fn of_tasks(alive: &[(Place, usize)]) -> Profile {
    let mut strings = vec![String::new()];
    let mut string = |text: String| {
        strings.push(text);
        strings.len() as i64 - 1
    };
    let mut profile = Profile::new();
    let unit = ValueType { ty: string("goroutine".into()), unit: string("count".into()), ..ValueType::default() };
    for (id, (place, count)) in (1..).zip(alive) {
        let (file, line) = (crate_path(place.file), i64::from(place.line));
        let name = string(format!("{file}:{line}"));
        let filename = string(file.to_owned());
        profile.function.push(Function { id, name, system_name: name, filename, ..Function::default() });
        let line = Line { function_id: id, line, ..Line::default() };
        profile.location.push(Location { id, line: vec![line], ..Location::default() });
        profile.sample.push(Sample { location_id: vec![id], value: vec![*count as i64], ..Sample::default() });
    }
    profile.sample_type.push(unit.clone());
    profile.period_type = Some(unit).into();
    profile.period = 1;
    profile.time_nanos = i64::try_from(clock::wall_ms()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    profile.string_table = strings;
    profile
}

/// A file's path from its crate's name on, without the folders of the machine that built it.
fn crate_path(file: &str) -> &str {
    match file.split_once("/registry/src/") {
        Some((_, rest)) => rest.split_once('/').map_or(rest, |(_, path)| path),
        None => file,
    }
}

fn file(name: &str, bytes: Vec<u8>) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    (headers, bytes).into_response()
}

fn failed(error: &dyn std::fmt::Display) -> Response {
    tracing::warn!(%error, "no profile could be taken");
    let message = format!("no profile could be taken: {error}");
    answer::error(StatusCode::INTERNAL_SERVER_ERROR, "internal", &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_of_tasks_names_their_places() {
        let alive = [
            (Place { file: "node/src/http/accept.rs", line: 73 }, 5),
            (Place { file: "/home/me/.cargo/registry/src/index-1/openraft-0.10.0/src/core.rs", line: 9 }, 1),
        ];
        let bytes = of_tasks(&alive).write_to_bytes().unwrap();
        let read = Profile::parse_from_bytes(&bytes).unwrap();
        let name = |id: u64| {
            let function = read.function.iter().find(|function| function.id == id).unwrap();
            read.string_table[usize::try_from(function.name).unwrap()].as_str()
        };
        let line = |sample: &Sample| {
            let location = read.location.iter().find(|location| location.id == sample.location_id[0]).unwrap();
            (name(location.line[0].function_id), sample.value[0])
        };
        let lines: Vec<_> = read.sample.iter().map(line).collect();
        assert_eq!(lines, [("node/src/http/accept.rs:73", 5), ("openraft-0.10.0/src/core.rs:9", 1)]);
        assert!(read.string_table[0].is_empty());
    }
}
