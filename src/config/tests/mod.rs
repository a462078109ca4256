//! The pipeline file: the sample of the contract, every error with its place, secrets, echo and
//! schema.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should say so at once")]

mod echoes;
mod errors;
mod examples;
mod kafka;
mod sample;
mod schema;
mod secrets;
mod yaml;

use super::*;
use std::path::Path;

/// The parts of a small file that is right, for tests that change one thing.
const STORES: &str =
    "stores:\n  zk: {zookeeper: {connect: \"zk1:2181\"}}\n  cache: {redis: {url: \"redis://cache\"}}\n";
const ROUTES: &str =
    "routes:\n  - name: settings\n    flow: zk <-> cache\n    match: {zk: /settings/**, cache: \"settings:**\"}\n";

fn no_env(_: &str) -> Option<String> {
    None
}

fn read(text: &str) -> Result<Pipeline, Problems> {
    parse(Path::new("test.yaml"), text, &no_env)
}

/// A right file with more lines in its only route, at the end of which they stand.
fn with_route(lines: &str) -> String {
    format!("version: 1\npipeline: p\n{STORES}{ROUTES}{lines}")
}

/// A right file with more at the top level.
fn with_top(lines: &str) -> String {
    format!("version: 1\npipeline: p\n{STORES}{ROUTES}{lines}")
}

/// A right file but for one replacement.
fn changed(from: &str, to: &str) -> String {
    let text = with_top("");
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

fn good(text: &str) -> Pipeline {
    read(text).unwrap_or_else(|problems| panic!("{problems}\n\n{text}"))
}

fn problems(text: &str) -> Vec<Problem> {
    match read(text) {
        Ok(_) => panic!("nothing is wrong with\n{text}"),
        Err(problems) => problems.into_iter().collect(),
    }
}

/// The only problem as `line:column message | help`.
fn problem(text: &str) -> String {
    let mut all: Vec<String> = problems(text).iter().map(short).collect();
    assert_eq!(all.len(), 1, "{all:#?}\n{text}");
    all.pop().unwrap()
}

fn short(problem: &Problem) -> String {
    let help = problem.help.as_ref().map(|help| format!(" | {help}")).unwrap_or_default();
    format!("{}:{} {}{help}", problem.line, problem.column, problem.message)
}
