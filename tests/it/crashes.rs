//! The crash matrix: the worker ends at a named point, once for each kind of change and direction, and is started again.
//!
//! Points are places in the source (`src/failpoint.rs`). Each test is one point: ten pipelines, each with its own worker,
//! work on the one pair of servers of all points; each worker is brought to a state, armed, and shown one change; it must abort there.
//! Then it is started again, and what both sides hold, the stream and the conflict log are looked at.

use crate::support::{Keepstep, Pipeline, Redis, Scene, Znodes, ZooKeeper, eventually, eventually_is};
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Far more than a worker needs; a machine that builds beside us is slow.
const SOON: Duration = Duration::from_secs(40);

/// Which side the application changes; in a conflict, which side wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Zookeeper,
    Redis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Set,
    Delete,
    Create,
    Recreate,
    Conflict,
}

const FROMS: [From; 2] = [From::Zookeeper, From::Redis];
const OPS: [Op; 5] = [Op::Set, Op::Delete, Op::Create, Op::Recreate, Op::Conflict];

/// When the worker comes to the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// While it carries the change.
    Live,
    /// While it carries the change, followed by another so large that the stream begins a new segment.
    Rolling,
    /// At its next start; the change was made while it was down.
    AtStart,
    /// At its next start, after it had ended at this other point with the change on its way.
    AfterEndingAt(&'static str),
}

/// Whether a worker with this change comes to the point at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Yes,
    /// It does not; `points!` says why.
    No,
    /// In a conflict: if it met the side that loses first, it tried to write it, and was refused.
    Perhaps,
}

/// Towards which store the point lies, if it lies on the way to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Both,
    /// Only a write to Redis, whole or of a sidecar, comes here: both directions do.
    Redis,
    /// Only the write of a key comes here: what flows to ZooKeeper does not.
    ToRedis,
    /// Only the write of a znode comes here: what flows to Redis does not.
    ToZookeeper,
}

struct Point {
    name: &'static str,
    when: When,
    way: Way,
    /// Writes to user keys and znodes that the next life of the worker must still make, where only one is possible.
    left: RangeInclusive<u64>,
}

macro_rules! points {
    ($($test:ident: $name:literal, $when:expr, $way:expr, $left:expr;)*) => {
        const POINTS: &[Point] = &[$(Point { name: $name, when: $when, way: $way, left: $left }),*];

        $(
            #[tokio::test]
            async fn $test() {
                let point = POINTS.iter().find(|point| point.name == $name).expect("it is in the table");
                matrix(point).await;
            }
        )*
    };
}

points! {
    c1_a_hint_was_taken: "c1-hint-taken", When::Live, Way::Both, 1..=1;
    c2_half_of_the_record_was_written: "c2-half-written", When::Live, Way::Both, 1..=1;
    c2_the_record_was_written_and_not_synced: "c2-written-not-synced", When::Live, Way::Both, 1..=1;
    c3_the_record_was_synced_and_not_answered: "c3-synced-not-answered", When::Live, Way::Both, 1..=1;
    c4_the_pair_was_observed: "c4-observed", When::Live, Way::Both, 1..=1;
    c5_the_change_was_recorded: "c5-recorded", When::Live, Way::Both, 1..=1;
    c6_a_script_was_under_way: "c6-sent-to-redis", When::Live, Way::Redis, 0..=1;
    c6_a_multi_was_under_way: "c6-sent-to-zookeeper", When::Live, Way::ToZookeeper, 0..=1;
    c7_znodes_were_written: "c7-znodes-written", When::Live, Way::ToZookeeper, 0..=0;
    c7_sidecars_were_written: "c7-sidecars-written", When::Live, Way::ToZookeeper, 0..=0;
    c7_slots_were_marked: "c7-slots-marked", When::Live, Way::ToZookeeper, 0..=0;
    c8_keys_were_written: "c8-keys-written", When::Live, Way::ToRedis, 0..=0;
    c10_the_ensemble_was_looked_at: "c10-found-in-zookeeper", When::AfterEndingAt("c7-znodes-written"), Way::Both, 0..=1;
    c10_zookeeper_was_fenced: "c10-fenced-in-zookeeper", When::AfterEndingAt("c7-znodes-written"), Way::Both, 0..=1;
    c10_redis_was_begun: "c10-begun-in-redis", When::AfterEndingAt("c7-znodes-written"), Way::Both, 0..=1;
    c10_the_journal_was_completed: "c10-journal-completed", When::AfterEndingAt("c7-znodes-written"), Way::Both, 0..=1;
    c11_a_segment_was_begun: "c11-segment-begun", When::Rolling, Way::Both, 0..=1;
    c11_a_segment_was_copied: "c11-segment-copied", When::Rolling, Way::Both, 0..=1;
    c11_a_segment_was_replaced: "c11-segment-replaced", When::Rolling, Way::Both, 0..=1;
    c12_half_a_comparison_was_done: "c12-znodes-compared", When::AtStart, Way::Both, 0..=1;
    c12_a_comparison_was_not_concluded: "c12-all-compared", When::AtStart, Way::Both, 0..=1;
    c16_the_watermark_was_advanced: "c16-watermark-advanced", When::Live, Way::Both, 0..=1;
}

impl Way {
    fn reached(self, from: From, op: Op) -> Reached {
        let passes = match self {
            Way::Both | Way::Redis => true,
            Way::ToRedis => from == From::Zookeeper,
            Way::ToZookeeper => from == From::Redis,
        };
        match (passes, op) {
            (true, _) => Reached::Yes,
            (false, Op::Conflict) => Reached::Perhaps,
            (false, _) => Reached::No,
        }
    }
}

/// One cell of the matrix: a pipeline with its worker and its pair.
struct Cell {
    from: From,
    op: Op,
    name: String,
    keepstep: Keepstep,
    znodes: Znodes,
    client: MultiplexedConnection,
    /// What makes values so large that two of them do not fit into one segment.
    padding: String,
}

impl Cell {
    fn new(stores: &Stores, point: &Point, from: From, op: Op) -> Cell {
        // All points share the servers.
        let name = format!("{}-{op:?}-{from:?}", point.name).to_lowercase();
        let winner = if from == From::Zookeeper { "zk" } else { "cache" };
        let mut pipeline = Pipeline::two_way(stores.zookeeper.connect_string(), stores.redis.url())
            .name(&name)
            .matches(&format!("{{zk: /{name}/**, cache: \"{name}:**\"}}"))
            .route(&format!("on_conflict: prefer {winner}"));
        let mut padding = String::new();
        if point.when == When::Rolling {
            pipeline = pipeline.embedded("{retention: {age: 1h, size: 1MiB}}");
            padding = "-".repeat(600_000);
        }
        let (znodes, client) = (stores.znodes.clone(), stores.client.clone());
        Cell { from, op, name, keepstep: Keepstep::new(pipeline), znodes, client, padding }
    }

    fn value(&self, text: &str) -> String {
        format!("{text}{}", self.padding)
    }

    async fn write(&self, side: From, name: &str, value: Option<&str>) {
        let (path, key) = (format!("/{}/{name}", self.name), format!("{}:{name}", self.name));
        let mut client = self.client.clone();
        match (side, value) {
            (From::Zookeeper, Some(value)) => self.znodes.put(&path, value).await,
            (From::Zookeeper, None) => self.znodes.delete(&path).await,
            (From::Redis, Some(value)) => redis::cmd("SET").arg(key).arg(value).exec_async(&mut client).await.unwrap(),
            (From::Redis, None) => redis::cmd("DEL").arg(key).exec_async(&mut client).await.unwrap(),
        }
    }

    async fn held(&self, name: &str) -> [Option<String>; 2] {
        let key = format!("{}:{name}", self.name);
        let held = redis::cmd("GET").arg(key).query_async(&mut self.client.clone()).await.unwrap();
        [self.znodes.text(&format!("/{}/{name}", self.name)).await, held]
    }

    async fn become_equal(&self, name: &str, wanted: Option<String>) {
        let (what, short) = (format!("{}: {name}", self.name), |held: &Option<String>| {
            held.as_ref().map(|text| text.chars().take(40).collect::<String>())
        });
        eventually(what, SOON, async || match self.held(name).await {
            held if held == [wanted.clone(), wanted.clone()] => Ok(()),
            [znode, key] => {
                Err(format!("znode {:?}, key {:?}, wanted {:?}", short(&znode), short(&key), short(&wanted)))
            }
        })
        .await;
    }

    /// A worker is there, and so is the state from which the change starts.
    async fn prepare(&mut self) {
        self.keepstep.start();
        self.keepstep.wait_ready().await;
        if self.op != Op::Create {
            let before = self.value("before");
            self.write(self.from, "pair", Some(&before)).await;
            self.become_equal("pair", Some(before)).await;
        }
        // Carried after everything else, so that nothing of the preparation comes to the point once it is armed: first to
        // ZooKeeper, until the journal's slots are marked; then to Redis, until the worker has looked at the answer.
        for side in [From::Redis, From::Zookeeper] {
            let settled = self.value(&format!("{side:?}"));
            self.write(side, "settled", Some(&settled)).await;
            self.become_equal("settled", Some(settled)).await;
            let name = self.name.clone();
            eventually_is(format!("{name}: slots are marked"), SOON, true, async || self.slots_are_marked().await)
                .await;
        }
        let writes = if self.op == Op::Create { 2 } else { 3 };
        eventually_is(format!("{}: writes", self.name), SOON, writes, async || self.written().await).await;
    }

    /// Whether Redis says of each slot of the journal that its sidecars are written.
    async fn slots_are_marked(&self) -> bool {
        let mut client = self.client.clone();
        for slot in 0..16 {
            let path = format!("/_keepstep/{}/journal/{slot:02}", self.name);
            let version = self.znodes.stat(&path).await.version;
            let mut ask = redis::cmd("HGET");
            ask.arg(format!("_keepstep:{}", self.name)).arg(format!("slot:{slot}"));
            let marked: Option<i32> = ask.query_async(&mut client).await.unwrap();
            if version > 0 && marked != Some(version) {
                return false;
            }
        }
        true
    }

    fn other_side(&self) -> From {
        if self.from == From::Zookeeper { From::Redis } else { From::Zookeeper }
    }

    /// What the application does.
    async fn change(&mut self) {
        let after = self.value("after");
        if matches!(self.op, Op::Delete | Op::Recreate) {
            self.write(self.from, "pair", None).await;
        }
        if self.op == Op::Conflict {
            let loser = self.value("loser");
            self.write(self.other_side(), "pair", Some(&loser)).await;
        }
        if self.op != Op::Delete {
            self.write(self.from, "pair", Some(&after)).await;
        }
    }

    /// The change under the eyes of a worker. Both sides of a conflict change before it looks.
    async fn change_live(&mut self) {
        if self.op == Op::Conflict {
            self.keepstep.freeze();
            self.change().await;
            self.keepstep.thaw();
        } else {
            self.change().await;
        }
    }

    fn wanted(&self) -> Option<String> {
        (self.op != Op::Delete).then(|| self.value("after"))
    }

    /// Waits for the worker's end at the point, if it gets there.
    async fn end(&mut self, reached: Reached) -> bool {
        match reached {
            Reached::Yes => self.keepstep.abort(SOON).await,
            Reached::No | Reached::Perhaps => {
                let name = format!("{}: in step or ended", self.name);
                let wanted = [self.wanted(), self.wanted()];
                eventually(name, SOON, async || match self.held("pair").await {
                    held if held == wanted || !self.keepstep.runs() => Ok(()),
                    held => Err(format!("{held:?}")),
                })
                .await;
                let runs = self.keepstep.runs();
                assert!(runs || reached == Reached::Perhaps, "{}: it was said not to get there", self.name);
                if runs {
                    return false;
                }
                self.keepstep.abort(SOON).await;
            }
        }
        true
    }

    /// From the arming to the next life of the worker; answers whether it ended at the point.
    async fn crash(&mut self, point: &Point) -> bool {
        let reached = point.way.reached(self.from, self.op);
        let ended = match point.when {
            When::Live | When::Rolling => {
                self.keepstep.arm(point.name);
                self.change_live().await;
                if point.when == When::Rolling {
                    let filler = self.value("filler");
                    self.write(self.from, "filler", Some(&filler)).await;
                }
                self.end(reached).await
            }
            When::AtStart => {
                self.keepstep.kill9();
                self.change().await;
                self.keepstep.arm(point.name);
                self.keepstep.start();
                self.end(Reached::Yes).await
            }
            When::AfterEndingAt(first) => {
                self.keepstep.arm(first);
                self.change_live().await;
                if !self.end(Way::ToZookeeper.reached(self.from, self.op)).await {
                    self.keepstep.kill9();
                }
                self.keepstep.arm(point.name);
                self.keepstep.start();
                self.end(Reached::Yes).await
            }
        };
        self.keepstep.arm("");
        if ended {
            self.keepstep.restart().await;
        }
        ended
    }

    /// Nothing lost, nothing invented, and no write more than needed.
    async fn verify(&self, point: &Point, ended: bool) {
        let name = format!("{} at {}", self.name, point.name);
        self.become_equal("pair", self.wanted()).await;
        let key = format!("{}:pair", self.name);
        let flags = ["--from", "earliest", "--no-follow", "--key", &key];
        let changes = self.keepstep.json("tail", &flags).await;
        let last = changes.last().unwrap_or_else(|| panic!("{name}: the stream has nothing"));
        assert_eq!(text(&last["after"]), self.wanted(), "{name}: what the stream says last");
        let conflicts = self.keepstep.json("conflicts", &["--key", &key]).await;
        let loser = if self.other_side() == From::Zookeeper { "zk" } else { "cache" };
        let losers: BTreeSet<_> = conflicts.iter().map(|row| text(&row[loser])).collect();
        match self.op {
            Op::Conflict => assert_eq!(losers, BTreeSet::from([Some(self.value("loser"))]), "{name}: conflict log"),
            _ => assert!(conflicts.is_empty(), "{name}: a conflict that nobody made: {}", shown(&conflicts)),
        }
        let quarantined = self.keepstep.json("quarantine list", &[]).await;
        assert!(quarantined.is_empty(), "{name}: {quarantined:?}");
        if ended {
            let is_certain = matches!(self.op, Op::Set | Op::Delete | Op::Create);
            let left = if is_certain { point.left.clone() } else { 0..=1 };
            let fillers = u64::from(point.when == When::Rolling);
            let written = self.written().await;
            let (least, most) = (*left.start(), left.end() + fillers);
            assert!((least..=most).contains(&written), "{name}: {written} writes, not {least} to {most}");
        }
    }

    async fn written(&self) -> u64 {
        let written = self.keepstep.metric("keepstep_writes_total", "").await;
        format!("{written:.0}").parse().unwrap()
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn shown(rows: &[Value]) -> String {
    rows.iter().map(|row| row.to_string().chars().take(600).collect::<String>() + "\n").collect()
}

/// The servers of all points, started once.
static SERVERS: tokio::sync::OnceCell<(ZooKeeper, Redis)> = tokio::sync::OnceCell::const_new();

struct Stores {
    zookeeper: &'static ZooKeeper,
    redis: &'static Redis,
    znodes: Znodes,
    client: MultiplexedConnection,
}

/// One point at a time: it has ten workers already.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn matrix(point: &'static Point) {
    let _turn = TURN.lock().await;
    let (zookeeper, redis) =
        SERVERS.get_or_init(async || tokio::join!(ZooKeeper::start_shared(), Redis::start())).await;
    let (znodes, client) = tokio::join!(zookeeper.client(), redis.client());
    let stores = Stores { zookeeper, redis, znodes, client };
    let cells = FROMS.into_iter().flat_map(|from| OPS.into_iter().map(move |op| (from, op)));
    let runs = cells.map(|(from, op)| {
        let mut cell = Cell::new(&stores, point, from, op);
        async move {
            cell.prepare().await;
            let ended = cell.crash(point).await;
            cell.verify(point, ended).await;
            (cell, ended)
        }
    });
    let done = futures::future::join_all(runs).await;
    let ended = done.iter().filter(|(_, ended)| *ended).count();
    println!("{}: {ended} of {} cells ended there, all came back whole", point.name, done.len());
    // In step and left alone, nobody writes any more.
    let mut before = Vec::new();
    for (cell, _) in &done {
        before.push(cell.written().await);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for ((cell, _), before) in done.iter().zip(before) {
        assert_eq!(cell.written().await, before, "{} at {}: it goes on writing", cell.name, point.name);
    }
}

/// The names that follow this call anywhere in the source.
fn named(text: &str, call: &str) -> Vec<String> {
    let after = text.split(call).skip(1);
    after.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next()).map(str::to_owned).collect()
}

#[test]
fn every_crash_point_of_the_source_is_in_the_matrix() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut open: Vec<PathBuf> = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path != root.join("failpoint.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.extend(named(&text, "crash_point!("));
            found.extend(named(&text, "crash_in_flight!("));
        }
    }
    let unique: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(unique.len(), found.len(), "a name stands for one place: {found:?}");
    let tested: BTreeSet<&str> = POINTS.iter().map(|point| point.name).collect();
    assert_eq!(unique, tested, "points of the source, and points of the matrix");
}

/// A fault of ours in a round or in a comparison is told, ends neither, and its pairs are looked at again.
#[tokio::test]
async fn a_round_that_panics_gives_its_pairs_back_and_says_so() {
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 1s")).await;
    scene.settle().await;
    scene.keepstep.arm("c4-observed panic");
    for number in 0..20 {
        scene.set(format!("settings:{number}"), "1").await;
        scene.znodes.put(&format!("/settings/z{number}"), "1").await;
    }
    eventually("a panic is told", SOON, async || {
        let log = scene.keepstep.log();
        let is_told = log.contains("a round ended by a panic") && log.contains("a batch ended early");
        if is_told { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(scene.znodes.text("/settings/0").await.is_none(), "the fault had its effect");
    scene.keepstep.arm("");
    scene.in_step(SOON).await;
    assert_eq!(scene.znodes.text("/settings/19").await.as_deref(), Some("1"));
    eventually("nothing is under way", SOON, async || {
        let pending = scene.keepstep.json("status", &[]).await[0]["routes"][0]["pending"].clone();
        if pending == 0 { Ok(()) } else { Err(pending.to_string()) }
    })
    .await;
    scene.settle().await;
}
