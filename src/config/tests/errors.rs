//! Errors: their place, the offending text, what is allowed, the nearest name, and all of a file at
//! once.

use super::super::*;
use super::{ROUTES, STORES, changed, good, no_env, problem, problems, read, short, with_route, with_top};
use crate::change::Side;

#[test]
fn an_error_looks_like_a_compilers() {
    let text = "version: 1\npipeline: p\nstores:\n  zk:\n    zookeeper:\n      connect: zk1:2181\n      sesion_timeout: 10s\nroutes:\n  \
                - {name: a, flow: zk, match: {zk: /a/**}}\n";
    let shown = read(text).unwrap_err().to_string();
    let expected = "error: unknown key `sesion_timeout` in `stores.zk.zookeeper`
 --> test.yaml:7:7
  |
7 |       sesion_timeout: 10s
  |       ^^^^^^^^^^^^^^
  = help: allowed: `connect`, `source`, `session_timeout`, `auth`, `tls`; did you mean `session_timeout`?";
    assert_eq!(shown, expected);
}

#[test]
fn the_json_form_has_file_line_column_message_and_help() {
    let found = problems(&changed("name: settings", "nam: settings"));
    let json: Vec<serde_json::Value> = found.iter().map(|problem| serde_json::to_value(problem).unwrap()).collect();
    let keys: Vec<&String> = json.first().unwrap().as_object().unwrap().keys().collect();
    assert_eq!(keys, ["file", "line", "column", "message", "help"]);
    assert_eq!(json.first().unwrap().get("file").unwrap(), "test.yaml");
}

#[test]
fn all_errors_of_a_file_come_in_one_go_and_in_its_order() {
    let text = "version: 2\npipeline: Settings\nstores:\n  zk: {zookeeper: {connect: nowhere, session_timeout: 10}}\n  \
                cache: {redis: {url: \"http://cache\", sourc: keyspace}}\nroutes:\n  - name: a_b\n    flow: zk <-> cash\n    \
                match: {zk: settings/**, cache: \"settings:**\"}\n    on_delete: kep\n    publish:\n  - flow: zk\n    match: {}\n\
                worker: {reconcile: 1ms}\nextra: 1\n";
    let found: Vec<String> =
        problems(text).iter().map(|problem| format!("{}:{}", problem.line, problem.column)).collect();
    assert_eq!(
        found,
        [
            "1:10", "2:11", "4:29", "4:55", "5:24", "5:40", "7:11", "8:18", "9:17", "10:16", "11:5", "12:5", "13:5",
            "14:21", "15:1"
        ]
    );
}

#[test]
fn a_wrong_key_or_value_says_what_is_allowed_and_offers_the_nearest() {
    for (from, to, expected) in [
        ("version: 1", "version: 2", "1:10 `2` is not a version of the file format | allowed: `1`"),
        ("version: 1", "version: one", "1:10 `one` is not a version of the file format | allowed: `1`"),
        ("version: 1\n", "", "1:1 the key `version` is missing"),
        ("pipeline: p\n", "", "1:1 the key `pipeline` is missing"),
        (
            "pipeline: p",
            "pipeline: My_Pipe",
            "2:11 `My_Pipe` is not a name of a pipeline | allowed: a letter from a to z or a digit, then letters, digits and `-`, 63 at most",
        ),
        ("pipeline: p", "pipeline: [p]", "2:11 `pipeline` is a list, expected the name of the pipeline"),
        ("pipeline: p", "pipeline:", "2:1 `pipeline` is nothing, expected the name of the pipeline"),
        ("pipeline: p", "pipeline: p\npipeline: q", "3:1 duplicate key `pipeline` | it is already in line 2"),
        (
            "pipeline: p",
            "pipeline: p\nwrker: {}",
            "3:1 unknown key `wrker` | allowed: `version`, `pipeline`, `stores`, `stream`, `routes`, `worker`; did you mean `worker`?",
        ),
        (
            "{zookeeper:",
            "{zookeper:",
            "4:8 unknown key `zookeper` in `stores.zk` | allowed: `zookeeper`, `redis`; did you mean `zookeeper`?",
        ),
        ("connect: \"zk1:2181\"", "source: watch", "4:8 the key `connect` is missing in `stores.zk.zookeeper`"),
        (
            "\"zk1:2181\"",
            "zk1",
            "4:29 `zk1` is not a connect string: every host needs a port | allowed: `host:port[,host:port…][/chroot]`",
        ),
        (
            "\"zk1:2181\"",
            "\"zk1:2181\", source: wach",
            "4:49 `wach` is not a value of `stores.zk.zookeeper.source` | allowed: `watch`, `observer`; did you mean `watch`?",
        ),
        (
            "\"zk1:2181\"",
            "\"zk1:2181\", session_timeout: 1h",
            "4:58 `stores.zk.zookeeper.session_timeout` cannot be `1h` | allowed: from 100ms to 600s",
        ),
        (
            "\"zk1:2181\"",
            "\"zk1:2181\", session_timeout: 10",
            "4:58 `10` is not a duration | allowed: a whole number with a unit, `ms`, `s`, `m`, `h` or `d`, such as `10s`",
        ),
        (
            "\"redis://cache\"",
            "\"http://cache\"",
            "5:24 this is not a Redis URL: it must begin with `redis://` | allowed: `redis://[[user]:password@]host[:port][/database]`",
        ),
        (
            "\"redis://cache\"",
            "\"redis://cache\", topology: clustr",
            "5:51 `clustr` is not a value of `stores.cache.redis.topology` | allowed: `standalone`, `cluster`, `sentinel`; did you mean `cluster`?",
        ),
        (
            "\"redis://cache\"",
            "\"redis://cache\", username: me",
            "5:41 a user needs a password | allowed: `password: {env: NAME}`, `password: {file: PATH}`",
        ),
        (
            "name: settings",
            "name: Settings",
            "7:11 `Settings` is not a name of a route | allowed: a letter from a to z or a digit, then letters, digits and `-`, 63 at most",
        ),
        ("  - name: settings\n    flow", "  - flow", "7:5 the key `name` is missing in `routes[0]`"),
        (
            "zk <-> cache",
            "zk <-> cach",
            "8:18 there is no store `cach` | allowed: `zk -> cache`, `cache -> zk`, `zk <-> cache`, `zk`, `cache`; did you mean `cache`?",
        ),
        (
            "zk <-> cache",
            "zk <> cache",
            "8:11 `zk <> cache` is not a flow between declared stores | allowed: `zk -> cache`, `cache -> zk`, `zk <-> cache`, `zk`, `cache`",
        ),
        (
            "zk <-> cache",
            "zk -> zk",
            "8:11 `zk -> zk` is not a flow: it joins the ZooKeeper store and the Redis store | allowed: `zk -> cache`, `cache -> zk`, `zk <-> cache`, `zk`, `cache`",
        ),
        ("{zk: /settings/**, cache: \"settings:**\"}", "{zk: /settings/**}", "9:5 `match` has no pattern for `cache`"),
        (
            "{zk: /settings/**, cache: \"settings:**\"}",
            "/settings/**",
            "9:12 `routes[0].match` is a text, expected a mapping from stores to patterns",
        ),
        (
            "zk: /settings/**",
            "zk: settings/**",
            "9:17 `settings/**` is not a pattern: a pattern of znodes starts with `/` | allowed: `*` for exactly one segment, `**` as the last one for one or more, and literal segments",
        ),
        (
            "zk: /settings/**",
            "zk: /settings/a*/**",
            "9:17 `/settings/a*/**` is not a pattern: a wildcard is a whole segment, so `a*` means nothing | allowed: `*` for exactly one segment, `**` as the last one for one or more, and literal segments",
        ),
        (
            "zk: /settings/**",
            "zk: /settings/**/a",
            "9:17 `/settings/**/a` is not a pattern: `**` must be the last segment | allowed: `*` for exactly one segment, `**` as the last one for one or more, and literal segments",
        ),
        (
            "zk: /settings/**",
            "zk: /settings/*",
            "9:37 `settings:**`: both patterns of a route must have the same wildcards in the same order | allowed: `*` for exactly one segment, `**` as the last one for one or more, and literal segments",
        ),
        (
            "\"settings:**\"",
            "settings/**",
            "9:38 `settings/**` is not a pattern: a wildcard is a whole segment, so `settings/**` means nothing | allowed: `*` for exactly one segment, `**` as the last one for one or more, and literal segments; the separator between segments is `:`",
        ),
        (
            "zk: /settings/**",
            "zk: /_keepstep/**",
            "9:17 `/_keepstep` is never mapped | ZooKeeper's and Keepstep's own znodes and keys are never mapped",
        ),
        (
            "zk: /settings/**",
            "zk: /zookeeper/**",
            "9:17 `/zookeeper` is never mapped | ZooKeeper's and Keepstep's own znodes and keys are never mapped",
        ),
        (
            "\"settings:**\"",
            "\"_keepstep:**\"",
            "9:38 `_keepstep:` is never mapped | ZooKeeper's and Keepstep's own znodes and keys are never mapped",
        ),
        (
            "{zk: /settings/**,",
            "{zk: /settings/**, cahe: x,",
            "9:31 there is no store `cahe` | allowed: `zk`, `cache`; did you mean `cache`?",
        ),
    ] {
        assert_eq!(problem(&changed(from, to)), expected, "{to}");
    }
}

#[test]
fn a_wrong_line_of_a_route_points_at_itself() {
    for (line, expected) in [
        (
            "separator: /",
            "10:16 `/` is not a separator: a separator holds none of `/`, `*` and `%` | allowed: 1 to 8 bytes without `/`, `*`, `%` and control characters",
        ),
        (
            "separator: \"\"",
            "10:16 `` is not a separator: a separator cannot be empty | allowed: 1 to 8 bytes without `/`, `*`, `%` and control characters",
        ),
        (
            "value: strng",
            "10:12 `strng` is not a value of `routes[0].value` | allowed: `string`, `hash`, `list`, `set`, `zset`, `children`, `config`; did you mean `string`?",
        ),
        (
            "on_conflict: prefer zkk",
            "10:18 `prefer zkk` is not a rule for conflicts | allowed: `prefer zk`, `prefer cache`, `latest`, `higher_version`, `quarantine`; did you mean `prefer zk`?",
        ),
        (
            "on_conflict: newest",
            "10:18 `newest` is not a rule for conflicts | allowed: `prefer zk`, `prefer cache`, `latest`, `higher_version`, `quarantine`",
        ),
        (
            "on_delete: kep",
            "10:16 `kep` is not a value of `routes[0].on_delete` | allowed: `propagate`, `keep`; did you mean `keep`?",
        ),
        ("on_expire: true", "10:16 `true` is not a value of `routes[0].on_expire` | allowed: `propagate`, `keep`"),
        ("ephemeral: {}", "10:16 `routes[0].ephemeral` is a mapping, expected a word"),
        (
            "acl: opn",
            "10:10 `opn` is not a value of `routes[0].acl` | allowed: `parent`, `open`, `creator`; did you mean `open`?",
        ),
        ("publish:", "10:5 `routes[0].publish` is nothing, expected the name of a Redis channel"),
        ("publish: \"\"", "10:14 `` is not a name of a channel | allowed: 1 to 512 bytes"),
        ("exclude: [/a]", "10:14 `routes[0].exclude` is a list, expected a mapping from stores to lists of patterns"),
        ("exclude: {zk: /a/**}", "10:19 `routes[0].exclude.zk` is a text, expected a list of patterns"),
        (
            "exclude: {zk: [a]}",
            "10:20 `a` is not a pattern: a pattern of znodes starts with `/` | allowed: `*` for exactly one segment, `**` as the last one for one or more, and literal segments",
        ),
        (
            "flo: zk",
            "10:5 unknown key `flo` in `routes[0]` | allowed: `name`, `flow`, `match`, `exclude`, `separator`, `value`, `on_conflict`, `on_delete`, `on_expire`, `ephemeral`, `acl`, `publish`; did you mean `flow`?",
        ),
    ] {
        assert_eq!(problem(&with_route(&format!("    {line}\n"))), expected, "{line}");
    }
}

#[test]
fn a_wrong_worker_or_stream_points_at_itself() {
    for (lines, expected) in [
        ("worker: 5", "10:9 `worker` is a text, expected a mapping"),
        ("worker: {batch: {changes: many}}", "10:27 `many` is not a whole number"),
        ("worker: {batch: {changes: -1}}", "10:27 `-1` is not a whole number"),
        ("worker: {batch: {changes: 0}}", "10:27 `worker.batch.changes` cannot be `0` | allowed: from 1 to 100000"),
        ("worker: {batch: {bytes: 1GiB}}", "10:25 `worker.batch.bytes` cannot be `1GiB` | allowed: from 1KiB to 64MiB"),
        (
            "worker: {batch: {wait: 5}}",
            "10:24 `5` is not a duration | allowed: a whole number with a unit, `ms`, `s`, `m`, `h` or `d`, such as `10s`",
        ),
        (
            "worker: {queue: {bytes: lots}}",
            "10:25 `lots` is not a size | allowed: a whole number of bytes or with a unit, `KiB`, `MiB`, `GiB`, `TiB`, `KB`, `MB`, `GB` or `TB`, such as `64MiB`",
        ),
        ("worker: {reconcile: 500ms}", "10:21 `worker.reconcile` cannot be `500ms` | allowed: from 1s to 1d"),
        ("worker: {limit: {writes: none}}", "10:26 `none` is not a whole number"),
        (
            "worker: {delete_guard: of}",
            "10:24 `of` is not a value of `worker.delete_guard` | allowed: `on`, `off`, `true`, `false`; did you mean `on`?",
        ),
        (
            "stream: {embeded: {}}",
            "10:10 unknown key `embeded` in `stream` | allowed: `embedded`, `kafka`; did you mean `embedded`?",
        ),
        (
            "stream: {embedded: {retention: {age: 7 days}}}",
            "10:38 `7 days` is not a duration | allowed: a whole number with a unit, `ms`, `s`, `m`, `h` or `d`, such as `10s`",
        ),
        (
            "stream: {embedded: {retention: {size: 1GB5}}}",
            "10:39 `1GB5` is not a size | allowed: a whole number of bytes or with a unit, `KiB`, `MiB`, `GiB`, `TiB`, `KB`, `MB`, `GB` or `TB`, such as `64MiB`",
        ),
    ] {
        assert_eq!(problem(&with_top(lines)), expected, "{lines}");
    }
}

#[test]
fn a_store_is_not_called_like_a_key_of_the_rows_that_commands_print() {
    for name in ["route", "pair", "position", "winner", "rule", "reason", "ts_ms", "state", "stream"] {
        let text = changed("  zk:", &format!("  {name}:")).replace("zk <-> cache", &format!("{name} <-> cache"));
        let text = text.replace("{zk:", &format!("{{{name}:"));
        let found: Vec<String> = problems(&text).iter().map(short).collect();
        assert!(
            found.iter().any(|problem| problem.contains(&format!("a store cannot be called `{name}`"))),
            "{found:?}"
        );
    }
}

#[test]
fn stores_are_at_most_one_of_each_kind_and_flows_need_theirs() {
    let second = STORES.replace("stores:\n", "stores:\n  zk2: {zookeeper: {connect: \"b:1\"}}\n");
    let text = format!("version: 1\npipeline: p\n{second}{ROUTES}");
    assert!(problem(&text).starts_with("5:3 `zk` is a second ZooKeeper store"), "{}", problem(&text));
    let only = "stores:\n  zk: {zookeeper: {connect: \"zk1:2181\"}}\n";
    let text = format!("version: 1\npipeline: p\n{only}{ROUTES}");
    assert_eq!(
        problems(&text).iter().map(short).collect::<Vec<_>>(),
        ["7:18 there is no store `cache` | allowed: `zk`", "8:31 there is no store `cache` | allowed: `zk`"]
    );
    assert!(
        problem(&changed("{zookeeper: {connect: \"zk1:2181\"}}", "{}"))
            .starts_with("4:3 the store `zk` is neither `zookeeper` nor `redis`")
    );
    let capital = problems(&changed("  zk:", "  Zk:"));
    assert_eq!(
        capital.iter().map(short).next().unwrap(),
        "4:3 `Zk` is not a name of a store | allowed: a letter from a to z, then letters, digits, `_` and `-`, 63 at most"
    );
    let both = changed("{zookeeper: {connect: \"zk1:2181\"}}", "{zookeeper: {connect: \"a:1\"}, redis: {}}");
    assert!(problem(&both).starts_with("4:37 the store `zk` cannot be both"), "{}", problem(&both));
    assert_eq!(
        problem(&format!("version: 1\npipeline: p\nstores: {{}}\n{ROUTES}")),
        "3:1 no store is declared | a pipeline joins one ZooKeeper store and one Redis store, or captures one of them"
    );
    assert_eq!(problem(&format!("version: 1\npipeline: p\n{ROUTES}")), "1:1 the key `stores` is missing");
}

#[test]
fn routes_are_at_least_one_and_have_names_of_their_own() {
    assert!(problem(&format!("version: 1\npipeline: p\n{STORES}routes: []\n")).starts_with("6:1 `routes` is empty"));
    assert_eq!(
        problem(&format!("version: 1\npipeline: p\n{STORES}routes: {{}}\n")),
        "6:9 `routes` is a mapping, expected a list of routes"
    );
    let second = "  - {name: settings, flow: zk -> cache, match: {zk: /b/**, cache: \"b:**\"}}\n";
    assert!(problem(&with_route(second)).starts_with("10:12 a second route is called `settings`"));
    let capture = problem(&with_route("  - {name: b, flow: zk, match: {zk: /b/**}}\n"));
    assert!(capture.contains("the flow of `b` cannot be in one pipeline with that of `settings`"), "{capture}");
    let text = with_route("  - {name: b, flow: zk, match: {zk: /b/**, cache: \"b:**\"}, exclude: {cache: []}}\n");
    assert_eq!(
        problems(&text).iter().map(short).collect::<Vec<_>>(),
        [
            "10:5 the flow of `b` cannot be in one pipeline with that of `settings` | a pipeline joins two stores, or captures one of \
             them: give this route a pipeline of its own",
            "10:44 the flow of this route does not touch `cache` | allowed: `zk`",
            "10:70 the flow of this route does not touch `cache` | allowed: `zk`"
        ]
    );
}

#[test]
fn every_flow_reads() {
    for (flow, expected, prefers) in [
        ("zk <-> cache", Flow::Both(Side::Zookeeper), "prefer zk"),
        ("cache <-> zk", Flow::Both(Side::Redis), "prefer cache"),
        ("zk -> cache", Flow::From(Side::Zookeeper), "prefer zk"),
        ("cache->zk", Flow::From(Side::Redis), "prefer cache"),
    ] {
        let pipeline = good(&changed("zk <-> cache", flow));
        let route = pipeline.routes.first().unwrap();
        assert_eq!((route.flow, route.on_conflict_text.as_str()), (expected, prefers));
    }
    let capture = |flow: &str, pattern: &str| {
        let text = changed("zk <-> cache", flow).replace("{zk: /settings/**, cache: \"settings:**\"}", pattern);
        good(&text).routes.pop().unwrap()
    };
    let route = capture("zk", "{zk: /a/**}");
    assert_eq!((route.flow, route.match_redis), (Flow::Capture(Side::Zookeeper), None));
    let route = capture("cache", "{cache: \"a:**\"}");
    assert_eq!((route.flow, route.match_zookeeper), (Flow::Capture(Side::Redis), None));
}

#[test]
fn every_rule_for_conflicts_reads() {
    for (rule, expected) in [
        ("prefer cache", OnConflict::Prefer(Side::Redis)),
        ("prefer zk", OnConflict::Prefer(Side::Zookeeper)),
        ("latest", OnConflict::Latest),
        ("higher_version", OnConflict::HigherVersion),
        ("quarantine", OnConflict::Quarantine),
    ] {
        let pipeline = good(&with_route(&format!("    on_conflict: {rule}\n")));
        let route = pipeline.routes.first().unwrap();
        assert_eq!((route.on_conflict, route.on_conflict_text.as_str()), (expected, rule));
    }
}

#[test]
fn an_empty_optional_section_stands_for_its_defaults() {
    let expected = echo(&good(&with_top("")));
    for lines in [
        "worker:\n",
        "worker:\n  batch:\n  limit: ~\n",
        "stream:\n",
        "stream:\n  embedded:\n",
        "stream: {embedded: {retention: }}\n",
    ] {
        assert_eq!(echo(&good(&with_top(lines))), expected, "{lines}");
    }
    assert_eq!(echo(&good(&with_route("    exclude:\n"))), expected);
}

#[test]
fn a_variable_without_a_value_is_an_error_at_its_place() {
    let with_variable = changed("\"zk1:2181\"", "\"${ZK_HOST}:2181\"");
    assert_eq!(
        problem(&with_variable),
        "4:30 the variable `ZK_HOST` has no value | set it, or give a default: `${ZK_HOST:-default}`"
    );
    let text = changed("pipeline: p", "pipeline: ${A:?name the pipeline}");
    assert_eq!(problem(&text), "2:11 the variable `A` has no value: name the pipeline");
    let text = changed("pipeline: p", "pipeline: a-${B}-${C}");
    let found: Vec<String> =
        problems(&text).iter().map(|problem| format!("{}:{}", problem.line, problem.column)).collect();
    assert_eq!(found, ["2:13", "2:18"]);
    assert!(
        problem(&changed("name: settings", "name: cost$")).starts_with("7:15 a `$` that does not begin a variable")
    );
}

#[test]
fn the_value_of_a_variable_is_not_quoted_back() {
    let env = |name: &str| (name == "CANARY").then(|| "s3cr3t canary*".to_owned());
    for (from, to) in [
        ("version: 1", "version: ${CANARY}"),
        ("pipeline: p", "pipeline: ${CANARY}"),
        ("\"zk1:2181\"", "\"${CANARY}\""),
        ("\"redis://cache\"", "\"${CANARY}\""),
        ("\"redis://cache\"", "\"redis://${CANARY}\""),
        ("name: settings", "name: ${CANARY}"),
        ("zk <-> cache", "${CANARY}"),
        ("zk <-> cache", "zk -> ${CANARY}"),
        ("zk: /settings/**", "zk: \"/${CANARY}/**\""),
        ("\"settings:**\"", "\"${CANARY}:**\""),
        ("name: settings", "name: settings\n    on_conflict: prefer ${CANARY}"),
        ("name: settings", "name: settings\n    separator: ${CANARY}"),
        ("name: settings", "name: settings\n    value: ${CANARY}"),
        ("name: settings", "name: settings\n    acl: ${CANARY}"),
        (
            "routes:",
            "worker: {reconcile: \"${CANARY}\", queue: {bytes: \"${CANARY}\"}, batch: {changes: \"${CANARY}\"}}\nroutes:",
        ),
    ] {
        let found = parse(Path::new("test.yaml"), &changed(from, to), &env).unwrap_err();
        let shown = format!("{found}\n{found:?}\n{}", serde_json::to_string(&found).unwrap());
        assert!(!shown.contains("s3cr3t") && !shown.contains("canary"), "{shown}");
    }
}

#[test]
fn files_that_cannot_be_read_are_problems_of_their_first_place() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.yaml");
    let shown = load(&missing).unwrap_err().to_string();
    assert!(
        shown.starts_with("error: the pipeline file cannot be read: ") && shown.ends_with("missing.yaml:1:1"),
        "{shown}"
    );
    assert!(load(folder.path()).unwrap_err().to_string().contains("not supported yet"), "a folder");
    let binary = folder.path().join("binary.yaml");
    std::fs::write(&binary, b"version: 1\nname: \xff\n").unwrap();
    assert!(load(&binary).unwrap_err().to_string().contains("the pipeline file is not UTF-8: see line 2"));
    let large = folder.path().join("large.yaml");
    std::fs::write(&large, "é".repeat(700_000)).unwrap();
    assert!(load(&large).unwrap_err().to_string().contains("a pipeline file has at most 1024 KiB"));
}

#[test]
fn several_files_are_told_all_their_problems_and_have_names_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let one = put("one.yaml", &with_top(""));
    let two = put("two.yaml", &changed("pipeline: p", "pipeline: q"));
    let same = put("a.yaml", &with_top(""));
    let bad = put("bad.yaml", &changed("pipeline: p", "pipeline: _"));
    let missing = folder.path().join("0.yaml");
    let names: Vec<String> = load_all(&[one.clone(), two]).unwrap().into_iter().map(|pipeline| pipeline.name).collect();
    assert_eq!(names, ["p", "q"]);
    let found = load_all(&[one, same, bad, missing]).unwrap_err();
    let found: Vec<String> = found.iter().map(|problem| problem.message.chars().take(29).collect()).collect();
    assert_eq!(
        found,
        ["a second pipeline is called `", "`_` is not a name of a pipeli", "the pipeline file cannot be r"]
    );
}

#[test]
fn hostile_text_is_shown_without_its_control_characters() {
    let text = changed("name: settings", "name: \"a\\e[31m\\u202e\"");
    let shown = parse(Path::new("test.yaml"), &text, &no_env).unwrap_err().to_string();
    assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown}");
    let long = changed("name: settings", &format!("name: {}", "x".repeat(5_000)));
    assert!(problem(&long).len() < 300);
    assert!(read(&long).unwrap_err().to_string().len() < 900);
}
