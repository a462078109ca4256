//! What the program of commit 8d3aaec left behind, in its data folder and in both stores, is taken over by the program of today: without a
//! migration, nothing lost, nothing deleted. `tests/fixtures/8d3aaec` says what that is and how it was made.

use crate::support::{Keepstep, LIVE, Redis, Znodes, ZooKeeper, eventually, eventually_is};
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The four pipelines that ran, each in a file of its own.
const PIPELINES: [&str; 4] = ["both", "to-redis", "to-zookeeper", "watched"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/8d3aaec").join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// A copy of a folder of the fixture.
fn copy_of(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture(name), folder.path());
    folder
}

/// The lines that a command of the old program printed.
fn said(how: &str, command: &str) -> Vec<Value> {
    let text = fs::read_to_string(fixture(&format!("{how}.says/{command}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Both stores and a worker's data folder, as the old program left them.
struct Left {
    /// How it ended: `stopped` or `killed`.
    how: &'static str,
    _redis: Redis,
    _zookeeper: ZooKeeper,
    znodes: Znodes,
    client: MultiplexedConnection,
    /// One a pipeline; the first runs the worker of all.
    programs: Vec<Keepstep>,
}

impl Left {
    async fn new(how: &'static str) -> Left {
        let (mut zookeeper, mut redis) = tokio::join!(ZooKeeper::start(), Redis::start());
        zookeeper.restart_from(&copy_of(&format!("{how}/zookeeper"))).await;
        redis.restart_from(&copy_of(&format!("{how}/redis"))).await;
        let text = |name: &str| fs::read_to_string(fixture(&format!("pipelines/{name}.yaml"))).unwrap();
        let first = Keepstep::new(text(PIPELINES[0]))
            .variable("ZOOKEEPER", zookeeper.connect_string())
            .variable("REDIS", redis.url());
        copy(&fixture(&format!("{how}/data")), first.data());
        let others: Vec<Keepstep> = PIPELINES[1..].iter().map(|name| first.with_file(text(name))).collect();
        let programs = std::iter::once(first).chain(others).collect();
        let (znodes, client) = tokio::join!(zookeeper.client(), redis.client());
        Left { how, _redis: redis, _zookeeper: zookeeper, znodes, client, programs }
    }

    fn program(&self, pipeline: &str) -> &Keepstep {
        let at = PIPELINES.iter().position(|name| *name == pipeline).unwrap();
        &self.programs[at]
    }

    async fn start(&mut self) {
        let others: Vec<String> =
            self.programs[1..].iter().map(|program| program.file().to_str().unwrap().to_owned()).collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        self.programs[0].start_with(&others);
        self.programs[0].wait_ready().await;
    }

    /// What the old program recorded and put aside reads as it read for the old program.
    async fn reads_as_before(&self) {
        for name in PIPELINES {
            let old = said(self.how, &format!("{name}.tail"));
            assert!(old.len() > 3, "{name}: the fixture has records");
            assert_eq!(self.program(name).changes().await, old, "{name}");
        }
        let both = self.program("both");
        assert_eq!(both.json("conflicts", &[]).await, said(self.how, "both.conflicts"));
        assert_eq!(both.json("quarantine list", &[]).await, said(self.how, "both.quarantine"));
    }

    /// `(op, pair, after)` of what was recorded since, sorted, markers aside; and that all before it reads as it did.
    async fn news(&self, pipeline: &str) -> Vec<(String, Value, Value)> {
        let old = said(self.how, &format!("{pipeline}.tail"));
        let now = self.program(pipeline).changes().await;
        // Of a pair that has a newer record, and where history is short, an old one may have been compacted away.
        let last = old.last().unwrap()["position"].as_u64();
        let (kept, new): (Vec<Value>, Vec<Value>) =
            now.into_iter().partition(|change| change["position"].as_u64() <= last);
        if pipeline != "to-zookeeper" {
            assert_eq!(kept, old, "{pipeline}");
        }
        assert!(kept.iter().all(|change| old.contains(change)), "{pipeline}: {kept:?}");
        let mut news: Vec<(String, Value, Value)> = new
            .into_iter()
            .filter(|change| change["op"] != "m")
            .map(|change| {
                let name = if change["pair"]["cache"].is_null() { "zk" } else { "cache" };
                let op = change["op"].as_str().unwrap().to_owned();
                (op, change["pair"][name].clone(), change["after"].clone())
            })
            .collect();
        news.sort_by_key(|(op, pair, _)| (pair.to_string(), op.clone()));
        news
    }

    /// Two more comparisons of each pipeline find nothing to write.
    async fn rests(&self) {
        let worker = &self.programs[0];
        let compared =
            async |name: &str| worker.metric("keepstep_comparisons_total", &format!("pipeline=\"{name}\"")).await;
        for attempt in 0..10 {
            let written = worker.metric("keepstep_writes_total", "").await;
            let changes = worker.metric("keepstep_changes_total", "").await;
            for name in PIPELINES {
                let before = compared(name).await;
                eventually(format!("two comparisons of {name}"), LIVE, async || {
                    let now = compared(name).await;
                    if now >= before + 2.0 { Ok(()) } else { Err(format!("{now}, from {before}")) }
                })
                .await;
            }
            let now =
                (worker.metric("keepstep_writes_total", "").await, worker.metric("keepstep_changes_total", "").await);
            if now == (written, changes) {
                return;
            }
            assert!(attempt < 9, "it never comes to rest: {written} writes and {changes} changes, then {now:?}");
        }
    }

    /// All user keys: strings by their value, others by their type.
    async fn keys(&self) -> BTreeMap<String, String> {
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut self.client.clone()).await.unwrap();
        let mut found = BTreeMap::new();
        for key in keys.into_iter().filter(|key| !key.starts_with(b"_keepstep:")) {
            let client = &mut self.client.clone();
            let kind: String = redis::cmd("TYPE").arg(&key).query_async(client).await.unwrap();
            let value: Vec<u8> = match kind.as_str() {
                "string" => redis::cmd("GET").arg(&key).query_async(client).await.unwrap(),
                other => format!("a {other}").into_bytes(),
            };
            found.insert(key.escape_ascii().to_string(), value.escape_ascii().to_string());
        }
        found
    }

    /// All user znodes.
    async fn tree(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for root in ["/settings", "/rates", "/held", "/seen", "/watched"] {
            let tree = self.znodes.tree(root).await;
            found.extend(tree.into_iter().map(|(path, data)| (path, data.escape_ascii().to_string())));
        }
        found
    }

    /// Names of pairs that have a base beside them.
    async fn bases(&self) -> Vec<String> {
        let buckets: Vec<Vec<u8>> =
            redis::cmd("KEYS").arg("_keepstep:*{*}").query_async(&mut self.client.clone()).await.unwrap();
        let mut names = Vec::new();
        for bucket in buckets {
            let fields: Vec<Vec<u8>> =
                redis::cmd("HKEYS").arg(bucket).query_async(&mut self.client.clone()).await.unwrap();
            names.extend(fields.iter().map(|field| field.escape_ascii().to_string()));
        }
        names
    }
}

fn text(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The keys that the old program left, but for one that has expired since.
fn old_keys() -> BTreeMap<String, String> {
    let mut keys = text(&[
        ("settings:db:host", "second"),
        ("settings:db:port", "5432"),
        ("settings:a::b", "an empty name"),
        ("settings:a/b", "a slash in a name"),
        ("settings:\\xff", "not UTF-8: \\xfe"),
        ("settings:empty", ""),
        ("settings:session", "expires in 2100"),
        ("settings:100%", "percent"),
        ("settings:contested", "from-zookeeper"),
        ("settings:list", "a list"),
        ("settings:dropped", "a list"),
        ("rates:eur", "1.09"),
        ("rates:usd", "1"),
        ("held:a", "held"),
        ("seen:1", "12"),
    ]);
    keys.extend((1..=12).map(|number| (format!("seen:more:{number}"), number.to_string())));
    keys
}

/// The znodes that the old program left, but for that of the pair whose key has expired since.
fn old_tree() -> BTreeMap<String, String> {
    let mut tree = text(&[
        ("/settings/db", ""),
        ("/settings/db/host", "second"),
        ("/settings/db/port", "5432"),
        ("/settings/a", ""),
        ("/settings/a/%", ""),
        ("/settings/a/%/b", "an empty name"),
        ("/settings/a:b", "a slash in a name"),
        ("/settings/%FF", "not UTF-8: \\xfe"),
        ("/settings/empty", ""),
        ("/settings/session", "expires in 2100"),
        ("/settings/100%", "percent"),
        ("/settings/contested", "from-zookeeper"),
        ("/rates/eur", "1.09"),
        ("/rates/usd", "1"),
        ("/held/a", "held"),
        ("/seen/1", "12"),
        ("/seen/more", ""),
        ("/watched/a", "two"),
    ]);
    tree.extend((1..=12).map(|number| (format!("/seen/more/{number}"), number.to_string())));
    tree
}

fn news(op: &str, pair: &str, after: Option<&str>) -> (String, Value, Value) {
    (op.to_owned(), json!(pair), json!(after))
}

/// A pair whose key expired while nothing ran: an expiry counts as a delete.
fn expired() -> (String, Value, Value) {
    news("d", "settings:brief", None)
}

#[tokio::test]
async fn what_it_left_when_it_was_stopped_is_taken_over_and_changes_made_while_nothing_ran_are_carried_over() {
    let mut left = Left::new("stopped").await;
    left.reads_as_before().await;

    // What was changed in both stores before the new program ran for the first time.
    for (path, value) in [
        ("/settings/db/port", "5433"),
        ("/settings/made", "in ZooKeeper"),
        ("/settings/contested", "in ZooKeeper since"),
        ("/rates/eur", "1.10"),
        ("/held/a", "held since"),
        ("/watched/a", "three"),
    ] {
        left.znodes.put(path, value).await;
    }
    left.znodes.delete("/settings/100%").await;
    left.znodes.delete("/rates/usd").await;
    for (key, value) in [
        ("settings:db:host", "third"),
        ("settings:made:too", "in Redis"),
        ("settings:contested", "in Redis since"),
        ("seen:1", "13"),
    ] {
        redis::cmd("SET").arg(key).arg(value).exec_async(&mut left.client.clone()).await.unwrap();
    }

    left.start().await;
    let mut keys = old_keys();
    let mut tree = old_tree();
    keys.extend(text(&[
        ("settings:db:port", "5433"),
        ("settings:made", "in ZooKeeper"),
        ("settings:contested", "in ZooKeeper since"),
        ("rates:eur", "1.10"),
        ("held:a", "held since"),
        ("settings:db:host", "third"),
        ("settings:made:too", "in Redis"),
        ("seen:1", "13"),
    ]));
    keys.remove("settings:100%");
    keys.remove("rates:usd");
    tree.extend(text(&[
        ("/settings/db/port", "5433"),
        ("/settings/made", "in ZooKeeper"),
        ("/settings/made/too", "in Redis"),
        ("/settings/contested", "in ZooKeeper since"),
        ("/settings/db/host", "third"),
        ("/rates/eur", "1.10"),
        ("/held/a", "held since"),
        ("/seen/1", "13"),
        ("/watched/a", "three"),
    ]));
    tree.remove("/settings/100%");
    tree.remove("/rates/usd");
    eventually_is("the znodes", LIVE, tree, async || left.tree().await).await;
    eventually_is("the keys", LIVE, keys, async || left.keys().await).await;
    left.rests().await;

    // Nothing was recorded but what changed.
    let both = vec![
        news("d", "settings:100%", None),
        expired(),
        news("u", "settings:contested", Some("in ZooKeeper since")),
        news("u", "settings:db:host", Some("third")),
        news("u", "settings:db:port", Some("5433")),
        news("r", "settings:made", Some("in ZooKeeper")),
        news("r", "settings:made:too", Some("in Redis")),
    ];
    assert_eq!(left.news("both").await, both);
    let to_redis =
        [news("u", "held:a", Some("held since")), news("u", "rates:eur", Some("1.10")), news("d", "rates:usd", None)];
    assert_eq!(left.news("to-redis").await, to_redis);
    assert_eq!(left.news("to-zookeeper").await, [news("u", "seen:1", Some("13"))]);
    assert_eq!(left.news("watched").await, [news("u", "/watched/a", Some("three"))]);

    // The old conflict and the new one; the pair in quarantine, and not the one that was dropped.
    let both = left.program("both");
    let conflicts = both.json("conflicts", &[]).await;
    assert_eq!(conflicts[..1], said("stopped", "both.conflicts")[..]);
    let values: Vec<(&Value, &Value)> = conflicts[1..].iter().map(|row| (&row["zk"], &row["cache"])).collect();
    assert_eq!(values, [(&json!("in ZooKeeper since"), &json!("in Redis since"))]);
    let quarantined = both.json("quarantine list", &[]).await;
    assert_eq!(quarantined.len(), 1, "{quarantined:?}");
    assert_eq!(quarantined[0]["pair"]["cache"], "settings:list");
}

#[tokio::test]
async fn what_it_had_on_its_way_when_it_was_killed_is_completed_and_recorded_once() {
    let mut left = Left::new("killed").await;
    left.reads_as_before().await;
    let name = "settings:on-its-way";
    assert_eq!(left.znodes.text("/settings/on-its-way").await.as_deref(), Some("written to ZooKeeper"));
    let bases = left.bases().await;
    assert!(bases.iter().any(|base| base == "settings:db:host"), "bases are found where they are: {bases:?}");
    assert!(!bases.iter().any(|base| base == name), "the journal alone has the base: {bases:?}");

    left.start().await;
    let (mut keys, mut tree) = (old_keys(), old_tree());
    keys.insert(name.to_owned(), "written to ZooKeeper".to_owned());
    tree.insert("/settings/on-its-way".to_owned(), "written to ZooKeeper".to_owned());
    eventually_is("the znodes", LIVE, tree, async || left.tree().await).await;
    eventually_is("the keys", LIVE, keys, async || left.keys().await).await;
    left.rests().await;
    assert!(left.bases().await.iter().any(|base| base == name), "its base is beside it now");
    assert_eq!(left.news("both").await, [expired()], "it was recorded before it was written");
    for name in &PIPELINES[1..] {
        assert_eq!(left.news(name).await, [], "{name}");
    }
}

#[tokio::test]
async fn its_stream_is_replayed_to_its_end_and_to_a_position_before() {
    let left = Left::new("stopped").await;
    let both = left.program("both");
    for (until, contested, host) in [("10", "base", "first"), ("15", "from-zookeeper", "second")] {
        let scratch = Redis::start().await;
        let rows = both.json("replay", &["--to", "cache", "--url", &scratch.url(), "--until", until]).await;
        assert_eq!(rows.last().unwrap()["failed"], 0, "{rows:?}");
        let get = async |key: &str| scratch.run::<Option<String>>(&format!("GET {key}")).await;
        assert_eq!(get("settings:contested").await.as_deref(), Some(contested));
        assert_eq!(get("settings:db:host").await.as_deref(), Some(host));
        assert_eq!(get("settings:gone").await.is_some(), until == "10");
        assert_eq!(get("settings:a::b").await.as_deref(), Some("an empty name"));
    }
    left.reads_as_before().await;
}
