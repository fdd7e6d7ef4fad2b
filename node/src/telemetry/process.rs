//! What the system says about this process, under the names that every Prometheus exporter uses.

use prometheus::{Counter, Gauge, IntCounter, IntGauge};

use super::metrics::Maker;
use super::{logs, quota};

/// The process' own metrics.
pub(super) struct Process {
    cpu: Counter,
    resident: IntGauge,
    virtual_memory: IntGauge,
    open_files: IntGauge,
    max_files: IntGauge,
    threads: IntGauge,
    started: Gauge,
    tasks: IntGauge,
    log_lines_dropped: IntCounter,
    cores: Gauge,
    memory_limit: Gauge,
}

impl Process {
    pub fn new(make: &Maker<'_>) -> Self {
        let process = Self {
            cpu: make.real_counter("process_cpu_seconds_total", "CPU time used, in seconds"),
            resident: make.gauge("process_resident_memory_bytes", "Resident memory"),
            virtual_memory: make.gauge("process_virtual_memory_bytes", "Virtual memory"),
            open_files: make.gauge("process_open_fds", "Open file handles"),
            max_files: make.gauge("process_max_fds", "Most file handles that may be open"),
            threads: make.gauge("process_threads", "Threads of the system"),
            started: make.real_gauge("process_start_time_seconds", "When it started, in seconds since the Unix epoch"),
            cores: make
                .real_gauge("im_gateway_cpu_cores", "CPU cores that the process may use, parts of cores included"),
            memory_limit: make.real_gauge("im_gateway_memory_limit_bytes", "Memory that the process may use"),
            tasks: make.gauge("im_gateway_runtime_tasks", "Tasks of the asynchronous runtime that serves clients"),
            log_lines_dropped: make.counter(
                "im_gateway_log_lines_dropped_total",
                "Log lines that were dropped, because nobody took those before them",
            ),
        };
        // The uptime is that of the metrics, which are made first of all.
        process.started.set(cluster::env::clock::wall_ms() as f64 / 1000.0);
        process
    }

    /// Reads the values anew. What cannot be read stays as it was.
    pub fn show(&self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.tasks.set(runtime.metrics().num_alive_tasks() as i64);
        }
        self.log_lines_dropped.inc_by(logs::dropped_lines().saturating_sub(self.log_lines_dropped.get()));
        self.cores.set(quota::cpu_cores());
        if let Some(bytes) = quota::memory_bytes() {
            self.memory_limit.set(bytes);
        }
        if let Some(stat) = Stat::read() {
            self.cpu.inc_by((stat.cpu_seconds - self.cpu.get()).max(0.0));
            self.resident.set(stat.resident_bytes);
            self.virtual_memory.set(stat.virtual_bytes);
            self.threads.set(stat.threads);
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.open_files.set(files.count() as i64);
        }
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid rlimit for the call to fill in.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
            self.max_files.set(i64::try_from(limit.rlim_cur).unwrap_or(i64::MAX));
        }
    }
}

struct Stat {
    cpu_seconds: f64,
    threads: i64,
    virtual_bytes: i64,
    resident_bytes: i64,
}

impl Stat {
    fn read() -> Option<Self> {
        // SAFETY: both calls only read constants of the system.
        let (tick, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
        Self::parse(&std::fs::read_to_string("/proc/self/stat").ok()?, tick as f64, page)
    }

    /// See proc(5): the fields after the program's name, which may hold anything but ends at the last `)`.
    fn parse(text: &str, ticks_per_s: f64, page_bytes: i64) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
        let (user, system) = (field(14)?, field(15)?);
        Some(Self {
            cpu_seconds: (user + system) as f64 / ticks_per_s,
            threads: field(20)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line() {
        let line = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 9 0 100 4096000 300 18446744073709551615";
        let stat = Stat::parse(line, 100.0, 4096).unwrap();
        assert!((stat.cpu_seconds - 4.0).abs() < 1e-9);
        assert_eq!((stat.threads, stat.virtual_bytes, stat.resident_bytes), (9, 4_096_000, 300 * 4096));
        assert!(Stat::parse("nonsense", 100.0, 4096).is_none());
        assert!(Stat::read().unwrap().resident_bytes > 0);
    }
}
