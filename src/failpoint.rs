//! Crash points: named places at which a test build ends as if it had been killed there.
//!
//! They exist only with the feature `failpoints`, which `./check` turns on for its tests and a release does not have:
//! without it the macros leave nothing behind, not even the names. A test writes the name of a point into the file that
//! `KEEPSTEP_FAILPOINTS` names; the worker aborts when it next comes to that point. An empty file arms nothing, so a
//! worker can be brought to any state first. What each point stands for is in `docs/reliability-faults.md`.
//! With ` stop` and a number behind the name the worker is frozen there (SIGSTOP) until it is thawed, so that a test can do
//! something between two steps of it. With ` panic` the task that comes there panics, as long as the file says so.
//!
//! `KEEPSTEP_SWITCH_OFF=caches` switches off what only spares work, to show that nothing else depends on it;
//! `KEEPSTEP_WORKER_NAME` names this worker, as the same container on another machine would be named.

/// A place that a test may make the last. With a second argument: what still happens before the end, if it is armed.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::reach($name);
    };
    ($name:literal, $last:expr) => {
        #[cfg(feature = "failpoints")]
        if $crate::failpoint::is_armed($name) {
            let _ = $last;
            $crate::failpoint::die($name);
        }
    };
}

/// A place that a simulator counts, to tell what its seeds have met. Costs a worker nothing.
macro_rules! mark {
    ($name:expr) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::note($name);
    };
}

/// Whether a simulator has planted this fault, to see whether its judge finds it.
macro_rules! planted {
    ($fault:literal) => {{
        #[cfg(feature = "failpoints")]
        let is_planted = $crate::failpoint::is_planted($fault);
        #[cfg(not(feature = "failpoints"))]
        let is_planted = false;
        is_planted
    }};
}

/// Awaits a request; if the point is armed, the end comes while the request is under way.
macro_rules! crash_in_flight {
    ($name:literal, $request:expr) => {{
        #[cfg(feature = "failpoints")]
        let answer = $crate::failpoint::in_flight($name, $request).await;
        #[cfg(not(feature = "failpoints"))]
        let answer = $request.await;
        answer
    }};
}

pub(crate) use {crash_in_flight, crash_point, mark, planted};

/// Whether what only spares work shall not be used.
#[inline]
pub(crate) fn caches_are_off() -> bool {
    #[cfg(feature = "failpoints")]
    let are_off = {
        static OFF: std::sync::LazyLock<bool> =
            std::sync::LazyLock::new(|| std::env::var("KEEPSTEP_SWITCH_OFF").is_ok_and(|what| what == "caches"));
        *OFF
    };
    #[cfg(not(feature = "failpoints"))]
    let are_off = false;
    are_off
}

/// What this worker is called, where a test says so.
pub(crate) fn worker_name() -> Option<String> {
    #[cfg(feature = "failpoints")]
    let name = std::env::var("KEEPSTEP_WORKER_NAME").ok();
    #[cfg(not(feature = "failpoints"))]
    let name = None;
    name
}

#[cfg(feature = "failpoints")]
pub(crate) use armed::{die, in_flight, is_armed, is_planted, note, reach};

#[cfg(feature = "failpoints")]
mod armed {
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("KEEPSTEP_FAILPOINTS").map(PathBuf::from));

    /// Long enough for a request to leave, and on an idle machine for it to be served: either is a case.
    const IN_FLIGHT: Duration = Duration::from_millis(1);

    /// What the file says now.
    fn armed() -> Option<String> {
        FILE.as_ref().and_then(|file| crate::env::disk::read_to_string(file).ok())
    }

    pub(crate) fn is_armed(name: &str) -> bool {
        armed().is_some_and(|armed| armed.trim() == name)
    }

    /// Tells a simulator.
    pub(crate) fn note(name: &'static str) {
        if let Some(world) = crate::env::world::here() {
            world.reached(name);
        }
    }

    pub(crate) fn is_planted(fault: &str) -> bool {
        crate::env::world::here().is_some_and(|world| world.has_planted(fault))
    }

    /// Ends the process, or freezes it, if the point is armed.
    pub(crate) fn reach(name: &'static str) {
        if let Some(world) = crate::env::world::here() {
            return world.reached(name);
        }
        match armed() {
            Some(armed) if armed.trim() == name => die(name),
            Some(armed) if armed.strip_prefix(name).is_some_and(|rest| rest.starts_with(" stop")) => freeze(&armed),
            Some(armed) if armed.strip_prefix(name).is_some_and(|rest| rest.trim() == "panic") => panic_at(name),
            _ => {}
        }
    }

    #[expect(clippy::panic, reason = "a test asked for it")]
    fn panic_at(name: &str) -> ! {
        panic!("crash point {name}")
    }

    /// Freezes the process, and goes on when it is thawed and the file says something else. Whoever comes here meanwhile waits
    /// with it: one signal for one arming.
    fn freeze(stop: &str) {
        static FREEZING: AtomicBool = AtomicBool::new(false);
        if !FREEZING.swap(true, Ordering::SeqCst) {
            // By a program, as this crate has no unsafe code and no other use for a signal of its own.
            let _ = std::process::Command::new("kill").args(["-STOP", &crate::env::process::id().to_string()]).status();
        }
        while armed().as_deref() == Some(stop) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        FREEZING.store(false, Ordering::SeqCst);
    }

    /// Ends the process: no destructor runs, nothing is flushed.
    pub(crate) fn die(name: &str) -> ! {
        eprintln!("crash point {name}");
        std::process::abort()
    }

    /// Ends the process while the request is under way, if the point is armed.
    pub(crate) async fn in_flight<F: Future>(name: &str, request: F) -> F::Output {
        if !is_armed(name) {
            return request.await;
        }
        let _ = crate::env::timeout(IN_FLIGHT, request).await;
        die(name)
    }
}
