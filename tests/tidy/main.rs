//! The laws of the house that no compiler knows: who may import whom, how a file begins and ends, what is never written.
#![expect(clippy::disallowed_methods, reason = "a test reads real files")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod source;

use source::{Source, code_only, files, module, paths, resolved, rust_files};
use std::collections::BTreeSet;

/// Rooms, and what they must never name: `crate::…` is a module of ours, anything else a crate.
struct Rule {
    rooms: &'static [&'static str],
    never: &'static [&'static [&'static str]],
}

/// The crates that speak to a server.
const CLIENTS: &[&str] = &["redis", "zookeeper_client", "rdkafka", "hyper", "hyper_util"];
/// What lies below `change`, `plan` and `route`, in reading order.
const BELOW: &[&str] = &[
    "crate::codec",
    "crate::stream",
    "crate::store",
    "crate::pipeline",
    "crate::history",
    "crate::config",
    "crate::telemetry",
    "crate::http",
    "crate::cli",
    "crate::assembly",
];

/// The table of the house, line by line.
const RULES: &[Rule] = &[
    Rule { rooms: &["change", "plan", "route"], never: &[&["tokio"], CLIENTS, BELOW] },
    Rule { rooms: &["codec"], never: &[&["tokio", "crate::store", "crate::stream"]] },
    Rule { rooms: &["env"], never: &[CLIENTS, &["crate::change", "crate::plan", "crate::route"], BELOW] },
    Rule {
        rooms: &["store::zookeeper"],
        never: &[&["redis", "crate::store::redis", "crate::stream", "crate::pipeline", "crate::config"]],
    },
    Rule {
        rooms: &["store::redis"],
        never: &[&["zookeeper_client", "crate::store::zookeeper", "crate::stream", "crate::pipeline", "crate::config"]],
    },
    Rule {
        rooms: &["stream::embedded"],
        never: &[&["crate::stream::kafka", "crate::store", "crate::pipeline", "crate::config"]],
    },
    Rule {
        rooms: &["stream::kafka"],
        never: &[&["crate::stream::embedded", "crate::store", "crate::pipeline", "crate::config"]],
    },
    Rule {
        rooms: &["pipeline"],
        never: &[
            CLIENTS,
            &["crate::config"],
            &["crate::store::zookeeper", "crate::store::redis", "crate::stream::embedded", "crate::stream::kafka"],
        ],
    },
    Rule {
        rooms: &["history"],
        never: &[
            CLIENTS,
            &["crate::config", "crate::http", "crate::cli", "crate::assembly"],
            &["crate::store::zookeeper", "crate::store::redis", "crate::stream::embedded", "crate::stream::kafka"],
        ],
    },
    Rule {
        rooms: &["telemetry"],
        never: &[
            CLIENTS,
            &["crate::store", "crate::stream", "crate::pipeline", "crate::history", "crate::config"],
            &["crate::http", "crate::cli", "crate::assembly"],
        ],
    },
    Rule {
        rooms: &["http"],
        never: &[
            &[
                "redis",
                "zookeeper_client",
                "rdkafka",
                "crate::config",
                "crate::history",
                "crate::cli",
                "crate::assembly",
            ],
            &["crate::store::zookeeper", "crate::store::redis", "crate::stream::embedded", "crate::stream::kafka"],
        ],
    },
    Rule {
        rooms: &["config"],
        never: &[
            &["tokio"],
            CLIENTS,
            &["crate::codec", "crate::stream", "crate::store", "crate::pipeline"],
            &["crate::history", "crate::telemetry", "crate::http", "crate::cli", "crate::assembly"],
        ],
    },
];

/// A room whose client crate is called by one adapter; another file may name the crate's plain data.
struct Seam {
    room: &'static str,
    client: &'static str,
    adapter: &'static str,
    seam: &'static str,
    plain: &'static [&'static str],
}

const SEAMS: &[Seam] = &[
    Seam {
        room: "src/store/redis/",
        client: "redis",
        adapter: "src/store/redis/client.rs",
        seam: "src/store/redis/line.rs",
        plain: &["Arg", "Cmd", "ErrorKind", "PushInfo", "PushKind", "RedisError", "ServerErrorKind", "Value", "cmd"],
    },
    Seam {
        room: "src/",
        client: "zookeeper_client",
        adapter: "src/store/zookeeper/client.rs",
        seam: "src/store/zookeeper/session.rs",
        plain: &[
            "Acl",
            "AuthId",
            "CreateMode",
            "Error",
            "EventType",
            "MultiReadResult",
            "MultiWriteError",
            "MultiWriteResult",
            "Permission",
            "SessionState",
            "Stat",
            "WatchedEvent",
        ],
    },
];

const LINES_MAX: usize = 600;
/// Written in code, each of these is a defect. (Strings and comments are not code.)
const NEVER_WRITTEN: &[&str] =
    &["todo!", "unimplemented!", "dbg!", "#[allow(", "#![allow(", "#[ignore", "std::thread::sleep", "thread::sleep("];

/// What the file names although its room must not.
fn forbidden_imports(source: &Source) -> Vec<String> {
    let module = module(&source.path);
    let code = code_only(&source.text);
    let named = paths(&code);
    let inside = |room: &str| {
        let room: Vec<&str> = room.split("::").collect();
        module.len() >= room.len() && room.iter().zip(&module).all(|(a, b)| a == b)
    };
    let mut breaches = Vec::new();
    for rule in RULES.iter().filter(|rule| rule.rooms.iter().any(|room| inside(room))) {
        for never in rule.never.iter().copied().flatten() {
            let target: Vec<&str> = never.split("::").collect();
            for path in &named {
                let full = resolved(path, &module);
                if full.len() < target.len() || target.iter().zip(&full).any(|(a, b)| a != b) {
                    continue;
                }
                // A bare word is a path only in a `use` line; as a name of something else it says nothing.
                let said = path.len() > 1 || code.contains(&format!("use {};", path[0]));
                let own = code.contains(&format!("mod {};", target[0]));
                if said && !own {
                    breaches.push(format!("{}: `{}` must not name {never}", source.path, path.join("::")));
                }
            }
        }
    }
    breaches
}

/// What the file names of a client crate that only the adapter of its room may name.
fn beside_the_seam(source: &Source) -> Vec<String> {
    let mut breaches = Vec::new();
    for seam in SEAMS.iter().filter(|seam| source.path.starts_with(seam.room) && source.path != seam.adapter) {
        for path in paths(&code_only(&source.text)) {
            let is_plain =
                source.path == seam.seam && path.get(1).is_some_and(|name| seam.plain.contains(&name.as_str()));
            if path[0] == seam.client && path.len() > 1 && !is_plain {
                breaches.push(format!("{}: only {} may name `{}`", source.path, seam.adapter, path.join("::")));
            }
        }
    }
    breaches
}

/// Files of the pipeline that may name the contracts of stores and stream: all others ask through them. The last four find out whether
/// the stores are the pipeline's own, or hand the stream's opening on.
const DOORS: &[&str] = &["doors", "stores", "identity", "own_stores", "captured_store", "owner"];

/// Names of a contract in a file of the pipeline that is no door.
fn beside_the_doors(source: &Source) -> Vec<String> {
    let Some(file) = source.path.strip_prefix("src/pipeline/").and_then(|file| file.strip_suffix(".rs")) else {
        return Vec::new();
    };
    if DOORS.contains(&file) {
        return Vec::new();
    }
    let code = code_only(&source.text);
    let words: Vec<&str> = code.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
    let contracts = ["Znodes", "Keyspace"].iter().filter(|name| words.contains(name)).copied();
    let stream = (code.contains("dyn Stream") || code.contains("stream::Stream;")).then_some("Stream");
    let breach = |name: &str| format!("{}: only {DOORS:?} may name `{name}`", source.path);
    contracts.chain(stream).map(breach).collect()
}

/// What is wrong with the file as a file.
fn bad_form(source: &Source) -> Vec<String> {
    let mut breaches = Vec::new();
    let lines = source.text.lines().count();
    if !source.text.starts_with("//! ") {
        breaches.push(format!("{}: its first line is not a `//!` sentence that says what it owns", source.path));
    }
    if lines > LINES_MAX {
        breaches.push(format!("{}: {lines} lines are more than {LINES_MAX}", source.path));
    }
    let code = code_only(&source.text);
    for never in NEVER_WRITTEN.iter().filter(|never| code.contains(**never)) {
        breaches.push(format!("{}: {never} is never written here", source.path));
    }
    breaches
}

/// Every circle of files, by the name of its first file.
fn circles(sources: &[Source]) -> Vec<Vec<String>> {
    let modules: Vec<Vec<String>> = sources.iter().map(|source| module(&source.path)).collect();
    let at = |full: &[String]| {
        let names = full.get(1..).unwrap_or_default();
        (0..=names.len()).rev().find_map(|len| modules.iter().position(|module| module[..] == names[..len]))
    };
    let names: Vec<Vec<usize>> = sources
        .iter()
        .zip(&modules)
        .enumerate()
        .map(|(own, (source, module))| {
            let code = code_only(source.text.split("#[cfg(test)]").next().unwrap());
            let from_root = |path: &Vec<String>| {
                let child = [vec!["crate".to_owned()], module.clone(), path.clone()].concat();
                let is_child = modules.contains(&child[1..=module.len() + 1].to_vec());
                if is_child { child } else { resolved(path, module) }
            };
            let named = paths(&code).iter().filter(|path| path.len() > 1).map(from_root).collect::<Vec<_>>();
            let ours = named.iter().filter(|full| full[0] == "crate");
            ours.filter_map(|full| at(full)).filter(|other| *other != own).collect()
        })
        .collect();
    let reached = |from: usize| {
        let (mut met, mut open) = (BTreeSet::new(), names[from].clone());
        while let Some(next) = open.pop() {
            if met.insert(next) {
                open.extend(&names[next]);
            }
        }
        met
    };
    let reach: Vec<BTreeSet<usize>> = (0..sources.len()).map(reached).collect();
    let in_circle = |one: usize, other: usize| reach[one].contains(&other) && reach[other].contains(&one);
    let circle = |at: usize| (0..sources.len()).filter(|other| in_circle(at, *other)).collect::<Vec<_>>();
    let found: BTreeSet<Vec<usize>> = (0..sources.len()).map(circle).collect();
    let named = found.into_iter().filter(|circle| circle.len() > 1);
    named.map(|circle| circle.into_iter().map(|file| modules[file].join("::")).collect()).collect()
}

/// Which branch of a `select!` is looked at first is said, and not left to chance.
fn unbiased(source: &Source) -> Vec<String> {
    let code = code_only(&source.text);
    let opened = code.match_indices("select! {").filter(|(at, _)| {
        let inside = code[at + "select! {".len()..].trim_start();
        !inside.starts_with("biased;")
    });
    opened.map(|_| format!("{}: a `select!` does not begin with `biased;`", source.path)).collect()
}

fn names_backoff(source: &Source) -> bool {
    paths(&code_only(&source.text)).iter().any(|path| path[0] == "backoff" && path.len() > 1)
}

fn none(breaches: &[String]) {
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn no_room_names_what_the_table_of_the_house_forbids() {
    none(&files("src", "rs").iter().flat_map(forbidden_imports).collect::<Vec<_>>());
}

#[test]
fn only_the_adapter_of_a_seam_calls_the_client_crate() {
    none(&files("src", "rs").iter().flat_map(beside_the_seam).collect::<Vec<_>>());
    let seen = |path: &str, text: &str| beside_the_seam(&Source { path: path.to_owned(), text: text.to_owned() }).len();
    assert_eq!(seen("src/store/redis/state.rs", "use redis::{Cmd, aio::ConnectionManager};"), 2);
    assert_eq!(seen("src/store/redis/line.rs", "use redis::{Cmd, Client};"), 1);
    assert_eq!(seen("src/store/redis/client.rs", "use redis::{Cmd, Client};"), 0);
    assert_eq!(seen("src/store/redis/state.rs", "use crate::store::redis::line::Cmd;\nuse super::line;"), 0);
    let in_tests = "#[cfg(test)]\nmod tests {\n    use zookeeper_client::Client;\n}";
    assert_eq!(seen("src/store/zookeeper/sink.rs", in_tests), 1);
    assert_eq!(seen("src/store/zookeeper/session.rs", "pub use zookeeper_client::{Client, Stat};"), 1);
}

#[test]
fn only_the_doors_of_a_pipeline_name_the_contracts_of_stores_and_stream() {
    none(&files("src/pipeline", "rs").iter().flat_map(beside_the_doors).collect::<Vec<_>>());
    let seen =
        |path: &str, text: &str| beside_the_doors(&Source { path: path.to_owned(), text: text.to_owned() }).len();
    assert_eq!(seen("src/pipeline/settle.rs", "use crate::store::{Keyspace, Znodes};"), 2);
    assert_eq!(seen("src/pipeline/round/write.rs", "fn f(stream: &dyn Stream) {}"), 1);
    assert_eq!(seen("src/pipeline/doors.rs", "use crate::store::{Keyspace, Znodes};"), 0);
    assert_eq!(seen("src/pipeline/settle.rs", "use crate::store::{KeyspaceFacts, Znode}; // Znodes"), 0);
}

#[test]
fn every_file_opens_with_a_sentence_ends_in_time_and_leaves_nothing_undone() {
    none(&rust_files().iter().flat_map(bad_form).collect::<Vec<_>>());
}

/// A part of a room's file behind `#[cfg(test)]` does not count.
#[test]
fn files_import_each_other_in_no_circle() {
    let sources = files("src", "rs").into_iter().filter(|source| source.path != "src/main.rs").collect::<Vec<_>>();
    none(&circles(&sources).iter().map(|circle| format!("a circle: {circle:?}")).collect::<Vec<_>>());
}

#[test]
fn a_circle_is_seen() {
    let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let sources = [
        source("src/a/mod.rs", "mod one;\nmod two;\npub use two::Two;\n"),
        source("src/a/one.rs", "use super::two::Two;\nuse crate::b::B;\n"),
        source("src/a/two.rs", "use crate::a::one::{One, Other};\n"),
        source("src/b.rs", "pub struct B;\n#[cfg(test)]\nmod tests {\n    use crate::a::one::One;\n}\n"),
    ];
    assert_eq!(circles(&sources), [["a::one", "a::two"]]);
}

#[test]
fn no_select_leaves_its_order_to_chance() {
    none(&files("src", "rs").iter().flat_map(unbiased).collect::<Vec<_>>());
    let one = |text: &str| unbiased(&Source { path: "src/a.rs".to_owned(), text: text.to_owned() }).len();
    assert_eq!(one("tokio::select! {\n    () = a() => {}\n}"), 1);
    assert_eq!(one("tokio::select! {\n    biased;\n    () = a() => {}\n}"), 0);
}

#[test]
fn backoff_is_confined_to_one_file() {
    let naming: Vec<_> = files("src", "rs").into_iter().filter(names_backoff).map(|source| source.path).collect();
    assert_eq!(naming, ["src/pipeline/retry.rs"]);
}

#[test]
fn the_table_of_the_pipelines_files_has_each_of_them() {
    let text = std::fs::read_to_string("src/pipeline/mod.rs").unwrap();
    let table: String = text.lines().filter(|line| line.starts_with("//! | ")).collect();
    let named: BTreeSet<&str> = table.split('`').skip(1).step_by(2).map(|file| file.trim_end_matches('/')).collect();
    let files = text.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    let files: BTreeSet<&str> = files.collect();
    let in_one_only: Vec<&&str> = named.symmetric_difference(&files).collect();
    assert!(in_one_only.is_empty(), "{in_one_only:?}");
}

#[test]
fn every_example_pipeline_is_named_by_a_test() {
    let tests: Vec<Source> = rust_files()
        .into_iter()
        .filter(|source| source.path.starts_with("tests") || source.text.contains("#[cfg(test)]"))
        .collect();
    let unnamed: Vec<String> = files("pipelines", "yaml")
        .into_iter()
        .map(|example| example.path)
        .filter(|path| !tests.iter().any(|test| test.text.contains(path.rsplit('/').next().unwrap())))
        .map(|path| format!("{path}: no test names it"))
        .collect();
    none(&unnamed);
}

fn breach(path: &str, text: &str) -> Vec<String> {
    let source = Source { path: path.to_owned(), text: format!("//! A file.\n{text}\n") };
    [forbidden_imports(&source), bad_form(&source)].concat()
}

#[test]
fn a_breach_of_each_rule_is_seen() {
    for (path, text) in [
        ("src/plan/mod.rs", "use tokio::time::sleep;"),
        ("src/plan/mod.rs", "use tokio;"),
        ("src/route/codec/hash.rs", "use crate::{change::Side, store::Sink};"),
        ("src/route/codec/hash.rs", "use super::super::super::config::Route;"),
        ("src/change/mod.rs", "fn f() -> redis::Value { g() }"),
        (
            "src/change/mod.rs",
            "use std::{fmt, time::Duration};\nuse crate::{\n  change::{Op, Side},\n  stream::Stream,\n};",
        ),
        ("src/codec/mod.rs", "use crate::stream::Stream;"),
        ("src/env/clock.rs", "use crate::store::clock::steady_ms;"),
        ("src/store/redis/sink.rs", "use super::super::zookeeper::Connection;"),
        ("src/store/zookeeper/source.rs", "fn f(x: &crate::store::redis::Sink) {}"),
        ("src/stream/embedded/mod.rs", "use crate::stream::kafka::Producer;"),
        ("src/pipeline/worker.rs", "use crate::{change::Op, stream::embedded::Log};"),
        ("src/pipeline/worker.rs", "let x = crate::config::Pipeline::default();"),
        ("src/config/mod.rs", "use crate::pipeline::Control;"),
        ("src/history/fold.rs", "use crate::stream::embedded::EmbeddedStream;"),
        ("src/plan/mod.rs", "#[cfg(test)]\nmod tests {\n    use tokio::test;\n}"),
        ("src/plan/mod.rs", "fn f() { todo!() }"),
        ("tests/it/a.rs", "#[allow(dead_code)]\nfn f() {}"),
        ("tests/it/a.rs", "#[ignore = \"slow\"]\nfn f() {}"),
        ("tests/it/a.rs", &"\n".repeat(LINES_MAX)),
        ("src/main.rs", "fn main() { dbg!(1); }"),
    ] {
        assert!(!breach(path, text).is_empty(), "not seen in {path}: {text}");
    }
    let headless = Source { path: "src/a.rs".to_owned(), text: "use std::fmt;\n".to_owned() };
    assert_eq!(bad_form(&headless).len(), 1);
    let other = Source { path: "src/a.rs".to_owned(), text: "use backoff::ExponentialBackoff;".to_owned() };
    assert!(names_backoff(&other));
}

#[test]
fn what_is_allowed_is_not_a_breach() {
    for (path, text) in [
        (
            "src/plan/mod.rs",
            "use crate::change::{Op, Side};\n// use tokio::time;\nconst S: &str = \"crate::store::x\";",
        ),
        (
            "src/plan/mod.rs",
            "/* tokio::x /* dbg!() */ */ const R: &str = r#\"tokio::\"todo!\" \"#; const C: char = '\"';",
        ),
        ("src/plan/mod.rs", "struct Named<'a> { tokio: &'a str, redis: &'a str }"),
        (
            "src/store/redis/client.rs",
            "use redis::Client;\nuse crate::store::Sink;\nuse super::connection::Connection;",
        ),
        ("src/pipeline/worker.rs", "use crate::stream::{Position, Stream};\nuse tokio::sync::watch;"),
        ("src/store/mod.rs", "pub mod redis;\npub mod zookeeper;"),
        ("src/config/mod.rs", "use crate::{change::Side, plan::Policy, route::Pattern};"),
    ] {
        assert_eq!(breach(path, text), Vec::<String>::new(), "{path}: {text}");
    }
    let named = Source { path: "src/a.rs".to_owned(), text: "let backoff = 1; // backoff::x".to_owned() };
    assert!(!names_backoff(&named));
}
