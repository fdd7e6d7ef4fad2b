//! How much of the machine this process may use: its control groups' limits, else the machine's.

use std::fs;
use std::path::Path;

/// CPU time that this process may use, in seconds for each second: cores, and parts of cores.
pub fn cpu_cores() -> f64 {
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    lowest(Path::new(ROOT), &own_group(), "cpu.max", cores).map_or(all, |quota| quota.min(all))
}

/// Memory that this process may use, in bytes; `None` when the system does not say.
pub fn memory_bytes() -> Option<f64> {
    let all = meminfo(&fs::read_to_string("/proc/meminfo").ok()?);
    let limit = lowest(Path::new(ROOT), &own_group(), "memory.max", |text| text.trim().parse().ok());
    all.into_iter().chain(limit).reduce(f64::min)
}

/// Where the control groups (version 2) are.
const ROOT: &str = "/sys/fs/cgroup";

/// This process's control group, such as `/system.slice/im-gateway.service`.
fn own_group() -> String {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned()
}

/// The lowest limit that `file` sets in `group` or any group that it is in.
fn lowest(root: &Path, group: &str, file: &str, parse: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let groups = Path::new(group.trim_start_matches('/')).ancestors().map(|group| root.join(group));
    groups.filter_map(|group| parse(&fs::read_to_string(group.join(file)).ok()?)).reduce(f64::min)
}

/// A quota and its period in microseconds; `max` is none.
fn cores(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
    (period > 0.0).then(|| quota / period)
}

/// The machine's memory.
fn meminfo(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a.slice/b.service");
        fs::create_dir_all(&inner).unwrap();
        let limit = || lowest(root.path(), "/a.slice/b.service", "cpu.max", cores);
        assert_eq!(limit(), None);
        fs::write(inner.join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(limit(), None);
        fs::write(root.path().join("a.slice/cpu.max"), "150000 100000\n").unwrap();
        assert_eq!(limit(), Some(1.5));
        fs::write(inner.join("cpu.max"), "50000 100000\n").unwrap();
        assert_eq!(limit(), Some(0.5));
        fs::write(inner.join("cpu.max"), "400000 100000\n").unwrap();
        assert_eq!(limit(), Some(1.5), "what is above limits, too");
        // In a container its own group is the root.
        fs::write(root.path().join("memory.max"), "1048576\n").unwrap();
        assert_eq!(lowest(root.path(), "/", "memory.max", |text| text.trim().parse().ok()), Some(1_048_576.0));
    }

    #[test]
    fn nonsense_is_no_limit() {
        assert_eq!((cores(""), cores("1"), cores("x 1"), cores("1 0")), (None, None, None, None));
        assert_eq!(meminfo("MemFree: 1 kB\nMemTotal:        2048 kB\n"), Some(2_097_152.0));
        assert_eq!(meminfo("MemTotal: many"), None);
    }

    #[test]
    fn this_machine_has_both() {
        assert!(cpu_cores() > 0.0);
        assert!(memory_bytes().unwrap() > 1e6);
    }
}
