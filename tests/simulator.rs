//! Seeds of the simulator (`tests/simulator`): the shipped worker on doubles of ZooKeeper, Redis and the disk. Many more:
//! `cargo run --profile simulate --features failpoints --example simulate -- --seeds 1000000`.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking, and reads real files")]

use keepstep_simulator::plan::Plan;
use keepstep_simulator::planted::Planted;
use keepstep_simulator::play::play;
use keepstep_simulator::settings::Settings;
use keepstep_simulator::what::{Action, Side, What};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many seeds are played here.
const SEEDS: u64 = 1000;

/// What the sample must meet, all of it. A fault is counted where it had an effect.
const MARKS: &[&str] = &[
    "c1-hint-taken",
    "c4-observed",
    "c5-recorded",
    "c7-sidecars-written",
    "c7-znodes-written",
    "c8-keys-written",
    "c10-journal-completed",
    "c12-all-compared",
    "c16-watermark-advanced",
    "application: a key of another type",
    "application: a name that no znode can have",
    "application: a value that is too large",
    "application: deleted in mass, unseen",
    "command: approve done",
    "command: conflicts restore done",
    "command: deleted",
    "command: diff done",
    "command: killed",
    "command: deletes approved",
    "command: pause done",
    "command: quarantine drop done",
    "command: quarantine retry done",
    "command: reconcile done",
    "command: repair done",
    "command: replay --until done",
    "command: replay done",
    "command: resume done",
    "command: wrote",
    "diff: judged",
    "disk: full",
    "disk: sync refused",
    "handed over",
    "live",
    "machine: clock stepped",
    "machine: lost its power",
    "network: refused",
    "network: silent",
    "network: stalled",
    "operator: deposed the owner",
    "plan: agree",
    "plan: forget",
    "plan: keep apart",
    "plan: leave",
    "plan: lost",
    "plan: not ours",
    "plan: nothing",
    "plan: quarantine",
    "plan: to redis",
    "plan: to redis, conflict",
    "plan: to zookeeper",
    "plan: to zookeeper, conflict",
    "quarantined: conflict",
    "quarantined: lost",
    "quarantined: too_large",
    "quarantined: wrong_type",
    "pipelines: one worker owns several",
    "pipelines: several workers own them",
    "redis: an answer behind a later event",
    "redis: an event behind a later answer",
    "redis: answered BUSY",
    "redis: answered LOADING",
    "redis: answered MASTERDOWN",
    "redis: answered MISCONF",
    "redis: answered NOPERM",
    "redis: answered NOREPLICAS",
    "redis: answered NOSCRIPT",
    "redis: answered OOM",
    "redis: answered READONLY",
    "redis: answered TRYAGAIN",
    "redis: changed in silence",
    "redis: cut",
    "redis: databases swapped",
    "redis: evicted",
    "redis: failed over",
    "redis: failed over, values lost",
    "redis: flushed",
    "redis: lost a command",
    "redis: lost an answer",
    "redis: published",
    "redis: refused for the moment",
    "redis: restarted empty",
    "redis: restarted with an older copy",
    "redis: scripts flushed",
    "redis: restarted",
    "redis: something happened unheard",
    "redis: statistics reset",
    "rest",
    "rest: before all rights were given back",
    "snapshotting",
    "standby",
    "status: awaiting approval",
    "status: blocked",
    "status: connecting",
    "status: live",
    "status: paused",
    "status: snapshotting",
    "status: standby",
    "status: stopping",
    "status: waiting",
    "stopping",
    "store: away",
    "store: fenced",
    "store: not now",
    "waiting",
    "worker: frozen",
    "worker: a former one ended",
    "worker: a former one was killed",
    "worker: killed",
    "worker: other files",
    "worker: started beside a frozen one",
    "worker: started twice",
    "worker: stopped",
    "worker: waits for the stream of another",
    "zookeeper: a right is missing",
    "zookeeper: an answer behind a later event",
    "zookeeper: an event behind a later answer",
    "zookeeper: cut",
    "zookeeper: emptied",
    "zookeeper: ephemeral created",
    "zookeeper: ephemeral gone",
    "zookeeper: long ACL",
    "zookeeper: lost a request",
    "zookeeper: lost an answer",
    "zookeeper: restored from a copy",
    "zookeeper: session expired",
    "zookeeper: the leader changed",
];

/// Both sides of both pairs are written, so that there are conflicts, and then this happens.
fn with(seed: u64, workers: usize, happens: impl IntoIterator<Item = (u64, What)>) -> Plan {
    let mut actions: Vec<Action> = (0..12)
        .map(|number| {
            let side = if number % 3 == 0 { Side::Zookeeper } else { Side::Redis };
            let what = What::Set { side, pair: (number % 2) as usize, value: number + 1 };
            Action { at: Duration::from_millis(2000 + number * 170), what }
        })
        .collect();
    actions.extend(happens.into_iter().map(|(ms, what)| Action { at: Duration::from_millis(ms), what }));
    actions.sort_by_key(|action| action.at);
    Plan { settings: Settings::small(seed, workers), actions }
}

/// Plays each, and answers how many fail.
fn failing(plans: impl IntoIterator<Item = Plan>, planted: Option<Planted>) -> Vec<String> {
    keepstep::env::random::know_keys();
    let wrong = plans.into_iter().map(|plan| play(&plan, planted).wrong);
    wrong.filter(|wrong| !wrong.is_empty()).map(|wrong| wrong.join("\n")).collect()
}

#[test]
fn a_power_loss_at_any_moment_takes_no_conflict() {
    let lose = |ms| [(ms, What::PowerLoss { worker: 0 })];
    let plans = |step| (500..6000).step_by(step).map(move |ms| with(ms, 1, lose(ms)));
    assert_eq!(failing(plans(50), None), Vec::<String>::new());
    for fault in ["records are acknowledged unsynced", "only the innermost folder is durable"] {
        let is_seen = plans(50).any(|plan| !failing([plan], Some(Planted::Code(fault))).is_empty());
        assert!(is_seen, "the simulator does not see that {fault}");
    }
}

#[test]
fn a_worker_may_be_killed_at_any_poll_and_at_any_operation_of_its_disk() {
    let polls = (1..400).step_by(4).map(|polls| with(polls, 2, [(2100, What::KillAtPoll { worker: 0, polls })]));
    assert_eq!(failing(polls, None), Vec::<String>::new());
    let disk = |operations| [0, 1].map(|worker| (2100, What::KillAtDisk { worker, operations }));
    assert_eq!(failing((1..60).map(|operations| with(operations, 2, disk(operations))), None), Vec::<String>::new());
}

fn traces(seeds: u64) -> String {
    keepstep::env::random::know_keys();
    let trace = |seed| {
        let outcome = play(&Plan::of(seed), None);
        format!("{seed} {:032x} {} {:?}\n", outcome.trace, outcome.polls, outcome.marks)
    };
    (0..seeds).map(trace).collect()
}

/// Says what the other test reads, where that asks for it.
#[test]
fn traces_of_this_process() {
    if std::env::var_os("KEEPSTEP_SIMULATOR_TRACES").is_some() {
        println!("{}", traces(40));
    }
}

#[test]
fn the_same_seed_does_the_same_twice_in_one_process_and_in_two() {
    let here = traces(40);
    assert!(here.starts_with(&traces(10)), "in this process");
    let other = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "traces_of_this_process", "--nocapture"])
        .env("KEEPSTEP_SIMULATOR_TRACES", "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&other.stdout);
    for line in here.lines() {
        assert!(told.contains(line), "{line}\nis not in\n{told}");
    }
}

/// Plans that have failed, each in a file that says in its name what was wrong (`examples/simulate.rs` makes them: `--shrink`).
#[test]
fn a_story_that_has_failed_does_not_fail_any_more() {
    keepstep::env::random::know_keys();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulator/stories");
    let files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "no story in {}", folder.display());
    for file in files {
        let outcome = play(&fs::read_to_string(&file).unwrap().parse().unwrap(), None);
        let (told, wrong) = (outcome.told.join("\n"), outcome.wrong.join("\n"));
        assert!(outcome.wrong.is_empty(), "{}\n{told}\n{wrong}", file.display());
    }
}

#[test]
fn a_plan_is_text() {
    for seed in 0..2000 {
        let plan = Plan::of(seed);
        assert_eq!(plan.to_string().parse::<Plan>().unwrap(), plan);
    }
}

#[test]
fn no_seed_fails_and_together_they_meet_everything() {
    keepstep::env::random::know_keys();
    let next = AtomicU64::new(0);
    let (wrong, marks) = (Mutex::new(Vec::new()), Mutex::new(BTreeMap::<String, u64>::new()));
    let play_some = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return;
            }
            let outcome = play(&Plan::of(seed), None);
            if !outcome.wrong.is_empty() {
                wrong.lock().unwrap().push(format!("seed {seed}: {}", outcome.wrong.join("\n    ")));
            }
            let mut marks = marks.lock().unwrap();
            outcome.marks.into_iter().for_each(|(mark, count)| *marks.entry(mark).or_default() += count);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(play_some);
        }
    });
    let (wrong, marks) = (wrong.into_inner().unwrap(), marks.into_inner().unwrap());
    assert!(
        wrong.is_empty(),
        "{} failed; see examples/simulate.rs for `--play` and `--shrink`\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let missed: Vec<&&str> = MARKS.iter().filter(|mark| !marks.contains_key(**mark)).collect();
    assert!(missed.is_empty(), "{SEEDS} seeds have not met {missed:?}; they have met {marks:#?}");
}
