//! The kernel's figures of this process, under the usual names of Prometheus clients.

use super::names::{self, stem};
use crate::env::disk;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::path::Path;
use std::sync::atomic::AtomicU64;

/// Clock ticks a second in `/proc`: `USER_HZ` is 100 on every architecture that Linux runs on
/// today.
const TICKS: f64 = 100.0;

/// Adds the figures that can be read. If a file is missing, its metrics are left out: a wrong zero
/// would be worse.
pub fn register(registry: &mut Registry) {
    let gauge = |value: f64| {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        gauge
    };
    if let Some(times) = times() {
        let cpu = Counter::<f64, AtomicU64>::default();
        cpu.inc_by(times.cpu_seconds);
        registry.register(stem(names::PROCESS_CPU_SECONDS_TOTAL), "User and system CPU time in seconds", cpu);
        if let Some(boot) = boot_seconds() {
            let started = gauge(boot + times.started_after_boot);
            registry.register(names::PROCESS_START_TIME_SECONDS, "Start time in seconds since the epoch", started);
        }
    }
    if let Ok(status) = disk::read_to_string(Path::new("/proc/self/status")) {
        if let Some(bytes) = kilobytes(&status, "VmRSS:") {
            registry.register(names::PROCESS_RESIDENT_MEMORY_BYTES, "Resident memory in bytes", gauge(bytes));
        }
        if let Some(bytes) = kilobytes(&status, "VmSize:") {
            registry.register(names::PROCESS_VIRTUAL_MEMORY_BYTES, "Virtual memory in bytes", gauge(bytes));
        }
    }
    if let Ok(open) = disk::list(Path::new("/proc/self/fd")) {
        registry.register(names::PROCESS_OPEN_FDS, "Open file descriptors", gauge(open.len() as f64));
    }
    if let Some(most) = disk::read_to_string(Path::new("/proc/self/limits")).ok().as_deref().and_then(max_fds) {
        registry.register(names::PROCESS_MAX_FDS, "Limit of open file descriptors", gauge(most));
    }
}

struct Times {
    cpu_seconds: f64,
    started_after_boot: f64,
}

/// `utime`, `stime` and `starttime` are fields 14, 15 and 22 of `/proc/self/stat` (proc(5)); the
/// second field is the program's name in parentheses and may hold anything, so fields are counted
/// from the last `)`.
fn times() -> Option<Times> {
    let stat = disk::read_to_string(Path::new("/proc/self/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let field = |number: usize| rest.split_whitespace().nth(number.checked_sub(3)?)?.parse::<f64>().ok();
    Some(Times { cpu_seconds: (field(14)? + field(15)?) / TICKS, started_after_boot: field(22)? / TICKS })
}

fn boot_seconds() -> Option<f64> {
    let stat = disk::read_to_string(Path::new("/proc/stat")).ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn kilobytes(status: &str, name: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}

fn max_fds(limits: &str) -> Option<f64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(kilobytes("Name:\tx\nVmRSS:\t   2048 kB\n", "VmRSS:"), Some(2_097_152.0));
        assert_eq!(kilobytes("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024   4096   files\n";
        assert_eq!(max_fds(limits), Some(1024.0));
    }

    #[test]
    fn this_process_has_a_start_time_and_cpu_time() {
        let times = times();
        assert!(times.is_some_and(|times| times.cpu_seconds >= 0.0 && times.started_after_boot > 0.0));
        assert!(boot_seconds().is_some_and(|boot| boot > 1_000_000_000.0));
    }
}
