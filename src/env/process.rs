//! Who this process is among the others of the machine, and whether another one lives.
#![expect(clippy::disallowed_methods, reason = "here the system is asked, and nowhere else")]

use super::world;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// The number of this process.
#[must_use]
pub fn id() -> u32 {
    world::here().map_or_else(std::process::id, |world| world.process().id)
}

/// The machine's name; `localhost` where it is not told.
#[must_use]
pub fn host_name() -> String {
    if let Some(world) = world::here() {
        return world.process().host;
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    if host.is_empty() { "localhost".to_owned() } else { host.to_owned() }
}

/// Names this boot of this machine and the space of its process numbers (containers have their own); empty where either is not
/// told.
#[must_use]
pub fn machine() -> String {
    if let Some(world) = world::here() {
        return world.process().machine;
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default();
    let (boot, space) = (boot.trim(), space.trim());
    if boot.is_empty() || space.is_empty() { String::new() } else { format!("{boot} {space}") }
}

/// Whether there is no process of that number in this space of process numbers. Only the kernel's word counts: what `/proc` shows
/// depends on who asks (`hidepid`).
#[must_use]
pub fn is_gone(pid: i32) -> bool {
    if let Some(world) = world::here() {
        return world.is_gone(pid);
    }
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}
