//! `keepstep quarantine`: the pairs that cannot be synchronized, each with its reason.

use super::args::{Global, Remote};
use super::confirmation::Confirmation;
use super::exit::{Exit, Failure};
use super::output::{Colour, Output, Paint};
use super::{control, stream_position, text};
use crate::assembly::{self, Network};
use crate::change::{Pair, Side};
use crate::codec::json::{StoreNames, text as shown_bytes};
use crate::config::{self, Pipeline, Secrets};
use crate::env::disk;
use crate::history::Found;
use crate::http::client::{self, ClientError, Target};
use crate::http::rows;
use crate::pipeline::control::Quarantined;
use crate::route::glob::Glob;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long `show` waits for a store. What the worker knows is shown in any case.
const LOOK: Duration = Duration::from_secs(3);
/// How many pairs `show` reads from the stores: it is meant for a few, not for ten thousand.
const SHOWN_MAX: usize = 200;

/// Shows and handles the pairs that cannot be synchronized. All other pairs flow.
#[derive(Debug, clap::Args)]
pub(super) struct Quarantine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the pairs, one line each; works with and without a running worker
    List(Which),
    /// Show each pair in full, with its values in both stores; works with and without a running
    /// worker
    Show(Which),
    /// Check the pairs again now
    Retry(Which),
    /// Leave both sides of the pairs as they are until either changes
    Drop(Drop),
}

#[derive(Debug, clap::Args)]
struct Drop {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    confirmation: Confirmation,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only keys that match this glob, as MATCH does in Redis: * ? [abc] [^a] [a-z] \x (paths, for
    /// a pair without a key)
    #[arg(long, env = "KEEPSTEP_KEY", value_name = "GLOB")]
    key: Option<Glob>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(args: Quarantine, global: &Global) -> Result<Exit, Failure> {
    match args.verb {
        Verb::List(which) => show(&which, global, false).await,
        Verb::Show(which) => show(&which, global, true).await,
        Verb::Retry(which) => send("retry", &which, global).await,
        Verb::Drop(drop) => {
            if drop.which.key.is_none() {
                const QUESTION: &str = "Leave both sides of every quarantined pair as they are until either changes?";
                drop.confirmation.check(QUESTION)?;
                if !drop.confirmation.yes && is_empty(&drop.which, global).await? {
                    return print("drop", &drop.which, "no pair is quarantined", global);
                }
                drop.confirmation.ask(QUESTION)?;
            }
            send("drop", &drop.which, global).await
        }
    }
}

async fn send(verb: &str, which: &Which, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load_with(&which.file, Secrets::None)?;
    let target = which.remote.target(&global.data_dir, &pipeline.name)?;
    let key = which.key.as_ref().map(Glob::text);
    let parameter = key.as_deref().map(|key| ("key", key));
    let sentence = control::send(&target, &format!("quarantine/{verb}"), &pipeline.name, parameter.as_slice()).await?;
    print(verb, which, &sentence, global)
}

fn print(verb: &str, which: &Which, sentence: &str, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load_with(&which.file, Secrets::None)?.name;
    let key = which.key.as_ref().map(Glob::text);
    let mut out = Output::new(global.format);
    let row = json!({ "pipeline": pipeline, "command": format!("quarantine {verb}"), "key": key, "done": sentence });
    out.row(&row, |row, _| text::field(row, "done"))?;
    out.flush()?;
    Ok(Exit::Done)
}

/// Whether the owner lists no pair.
async fn is_empty(which: &Which, global: &Global) -> Result<bool, Failure> {
    let pipeline = config::load_with(&which.file, Secrets::None)?;
    let target = which.remote.target(&global.data_dir, &pipeline.name)?;
    let (_, body) = client::request(&target, "GET", &list_path(&pipeline)).await?;
    Ok(owned(&body, false).is_some_and(|rows| rows.is_empty()))
}

fn list_path(pipeline: &Pipeline) -> String {
    format!("/quarantine?pipeline={}", client::encode(&pipeline.name))
}

async fn show(which: &Which, global: &Global, in_full: bool) -> Result<Exit, Failure> {
    let pipeline = config::load_with(&which.file, if in_full { Secrets::All } else { Secrets::None })?;
    let names = assembly::names(&pipeline);
    let mut rows = match rows_of(which, &pipeline, &names, global).await? {
        Some(rows) => rows,
        None => return Err(stream_position::no_folder(&pipeline, &global.data_dir)),
    };
    if let Some(key) = &which.key {
        rows.retain(|row| name_bytes(row, &names).is_some_and(|name| key.matches(&name)));
    }
    if in_full {
        add_states(&mut rows, &pipeline, &names, &global.network).await;
    }
    let mut out = Output::new(global.format);
    if out.json() || in_full {
        for row in &rows {
            out.row(row, block)?;
        }
    } else {
        out.raw(&text::columns(&rows.iter().map(cells).collect::<Vec<_>>()))?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// The rows of the worker that owns the pipeline, if it runs here or `--url` names it; else those
/// in the file of the last worker. `None` if no worker has run here.
async fn rows_of(
    which: &Which,
    pipeline: &Pipeline,
    names: &StoreNames,
    global: &Global,
) -> Result<Option<Vec<Value>>, Failure> {
    let target = which.remote.target(&global.data_dir, &pipeline.name)?;
    let elsewhere = matches!(target, Target::Url { .. });
    let answer = match client::request(&target, "GET", &list_path(pipeline)).await {
        Err(ClientError::NoWorker(_) | ClientError::Failed(_)) if !elsewhere => None,
        Err(error) => return Err(error.into()),
        Ok((200, body)) => owned(&body, elsewhere),
        Ok((code, _)) if elsewhere => return Err(Failure::Failed(format!("the worker at {target} answers {code}"))),
        Ok(_) => None,
    };
    match answer {
        Some(rows) => Ok(Some(rows)),
        None if elsewhere => {
            Err(Failure::Unreachable(format!("the worker at {target} does not own the pipeline {}", pipeline.name)))
        }
        None => {
            let rows = from_file(&global.data_dir, &pipeline.name)?;
            Ok(rows.map(|rows| rows.iter().map(|row| rows::quarantined(row, names)).collect()))
        }
    }
}

/// The quarantine in the file of the last worker; `None` if no worker has run here.
fn from_file(data_dir: &Path, pipeline: &str) -> Result<Option<Vec<Quarantined>>, Failure> {
    let folder = data_dir.join(pipeline);
    let path = folder.join("quarantine.json");
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", path.display()));
    let text = match disk::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(disk::is_dir(&folder).then(Vec::new)),
        Err(error) => return Err(failed(error)),
    };
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(row) => rows.push(row),
            Err(error) => {
                tracing::warn!(path = %path.display(), line = index + 1, %error, "a line of the quarantine file cannot be read and is skipped")
            }
        }
    }
    Ok(Some(rows))
}

/// The keys of all quarantined pairs.
pub(super) async fn keys(pipeline: &Pipeline, global: &Global) -> Result<Vec<Vec<u8>>, Failure> {
    let names = assembly::names(pipeline);
    let remote = Remote { url: None, token_file: None };
    let which = Which { file: pipeline.file.clone(), key: None, remote };
    let rows = rows_of(&which, pipeline, &names, global).await?.unwrap_or_default();
    Ok(rows.iter().filter_map(|row| name_bytes(row, &names)).collect())
}

/// The rows in the answer of an owner; `None` for a standby, which has none, and for a worker that may have owned nothing yet.
fn owned(body: &[u8], elsewhere: bool) -> Option<Vec<Value>> {
    let mut answer: Value = serde_json::from_slice(body).ok()?;
    let pipeline = answer.get_mut("pipelines")?.get_mut(0)?;
    let state = pipeline.get("state")?.as_str()?.to_owned();
    match (state.as_str(), pipeline.get_mut("quarantine")?.take()) {
        ("standby" | "connecting", _) => None,
        // The list of a worker that was the owner is in its file as well; the file of one elsewhere cannot be read.
        ("waiting", Value::Array(rows)) if rows.is_empty() && !elsewhere => None,
        (_, Value::Array(rows)) => Some(rows),
        _ => None,
    }
}

/// The key of a row, or the path if it has no key.
fn name_bytes(row: &Value, names: &StoreNames) -> Option<Vec<u8>> {
    name_of(row, &names.redis).or_else(|| name_of(row, &names.zookeeper))
}

/// The pair's name in one store.
fn name_of(row: &Value, store: &Option<String>) -> Option<Vec<u8>> {
    match row.get("pair")?.get(store.as_deref()?)? {
        Value::String(text) => Some(text.clone().into_bytes()),
        other => STANDARD.decode(other.get("base64")?.as_str()?).ok(),
    }
}

/// Adds what both stores hold now, and what to do. The state in a store that is away is shown as
/// not known.
async fn add_states(rows: &mut [Value], pipeline: &Pipeline, names: &StoreNames, network: &Network) {
    if rows.is_empty() {
        return;
    }
    let sides = [(Side::Zookeeper, &names.zookeeper), (Side::Redis, &names.redis)];
    for (side, name) in sides {
        let Some(name) = name else { continue };
        let stores = assembly::open_stores(pipeline, &[side], LOOK, network).await.unwrap_or_default();
        let client = stores.client(side);
        for row in rows.iter_mut().take(SHOWN_MAX) {
            let pair = Pair {
                zookeeper: name_of(row, &names.zookeeper).and_then(|name| String::from_utf8(name).ok()),
                redis: name_of(row, &names.redis),
            };
            let found = match &client {
                Some(client) => client.look(&[&pair], true).await.ok().and_then(|mut found| found.pop()),
                None => None,
            };
            if let Some(row) = row.as_object_mut() {
                row.insert(name.clone(), Value::from(state(found.as_ref())));
            }
        }
        stores.close().await;
    }
    for row in rows {
        let help = help(&text::field(row, "reason"));
        if let Some(row) = row.as_object_mut() {
            row.insert("help".to_owned(), Value::from(help));
        }
    }
}

fn state(found: Option<&Found>) -> String {
    match found {
        None => "not known: the store does not answer".to_owned(),
        Some(Found::Nothing) => "absent".to_owned(),
        Some(Found::Znode { data, stat }) => {
            let value = text::value(&shown_bytes(data));
            format!("{value}, {} bytes, version {}, mzxid {}", data.len(), stat.version, stat.mzxid)
        }
        Some(Found::Key { bytes, .. }) => {
            let bytes = bytes.as_deref().unwrap_or_default();
            format!("{}, {} bytes", text::value(&shown_bytes(bytes)), bytes.len())
        }
        Some(Found::Unsupported(_, detail)) => detail.clone(),
    }
}

/// What an operator can do about it.
fn help(reason: &str) -> &'static str {
    match reason {
        "too_large" => {
            "make the value at most 1,000,000 bytes or the name shorter and less deep, as the detail says, or exclude the pair from its route"
        }
        "wrong_type" => "make the key a value of the kind that the route carries, or exclude the pair",
        "no_permission" => "grant the user the permission that the detail names",
        "conflict" => "make both sides equal, by hand or with `keepstep repair FILE --prefer STORE --key KEY`",
        "ephemeral" => "remove the key: ephemeral znodes flow only from ZooKeeper to Redis",
        "ephemeral_parent" => "an ephemeral znode cannot have children: move the parent or the child",
        "lost" => "write the value again, or bring it back with `keepstep replay FILE --to STORE --key KEY`",
        "quota" => "raise the quota of the subtree",
        _ => {
            "remove the cause: the pair then recovers by itself, and `keepstep quarantine retry FILE` checks it at once"
        }
    }
}

fn cells(row: &Value) -> Vec<String> {
    vec![
        text::time_of(row, "since_ms"),
        text::field(row, "route"),
        text::pair(row),
        text::field(row, "reason"),
        text::field(row, "detail"),
    ]
}

fn block(row: &Value, paint: Paint) -> String {
    let mut block = paint.with(Colour::Strong, &text::pair(row));
    for (name, value) in [
        ("route", text::field(row, "route")),
        ("reason", paint.with(Colour::Bad, &text::field(row, "reason"))),
        ("detail", text::field(row, "detail")),
        ("since", text::time_of(row, "since_ms")),
    ] {
        block.push_str(&format!("\n  {name:<8}{value}"));
    }
    const SHOWN: [&str; 6] = ["route", "pair", "reason", "detail", "since_ms", "help"];
    let states = row.as_object().into_iter().flatten().filter(|(name, _)| !SHOWN.contains(&name.as_str()));
    for (store, state) in states {
        block.push_str(&format!("\n  {:<8}{}", text::printable(store), state.as_str().unwrap_or_default()));
    }
    if row.get("help").is_some() {
        block.push_str(&format!("\n  {:<8}{}", "to do", text::field(row, "help")));
    }
    block
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;

    fn names() -> StoreNames {
        StoreNames { zookeeper: Some("zk".to_owned()), redis: Some("cache".to_owned()) }
    }

    #[test]
    fn a_pipeline_that_never_ran_here_has_no_quarantine_and_one_that_did_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(from_file(folder.path(), "p").unwrap(), None);
        std::fs::create_dir(folder.path().join("p")).unwrap();
        assert_eq!(from_file(folder.path(), "p").unwrap(), Some(Vec::new()));
    }

    #[test]
    fn the_quarantine_is_read_line_by_line_and_a_torn_line_skipped() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("p")).unwrap();
        let row = Quarantined {
            route: "settings".to_owned(),
            zookeeper: Some("/a".to_owned()),
            redis: Some(vec![0xff]),
            reason: "too_large".to_owned(),
            detail: "big".to_owned(),
            since_ms: 1,
        };
        let text = format!("{}\n{{\"route\":", serde_json::to_string(&row).unwrap());
        std::fs::write(folder.path().join("p/quarantine.json"), text).unwrap();
        assert_eq!(from_file(folder.path(), "p").unwrap(), Some(vec![row]));
    }

    #[test]
    fn a_row_is_matched_by_its_key_or_by_its_path() {
        let row = |pair: Value| json!({ "pair": pair });
        assert_eq!(name_bytes(&row(json!({"zk": "/a", "cache": "a"})), &names()), Some(b"a".to_vec()));
        assert_eq!(name_bytes(&row(json!({"zk": "/a", "cache": {"base64": "/w=="}})), &names()), Some(vec![0xff]));
        assert_eq!(name_bytes(&row(json!({"zk": "/a", "cache": null})), &names()), Some(b"/a".to_vec()));
    }

    #[test]
    fn a_standby_is_not_believed_and_a_worker_that_waits_has_no_list_of_its_own() {
        let answer =
            |state: &str| json!({"pipelines": [{"pipeline": "p", "state": state, "quarantine": []}]}).to_string();
        assert_eq!(owned(answer("live").as_bytes(), false), Some(Vec::new()));
        assert_eq!(owned(answer("standby").as_bytes(), false), None);
        assert_eq!(owned(answer("waiting").as_bytes(), false), None);
        assert_eq!(owned(answer("waiting").as_bytes(), true), Some(Vec::new()));
        assert_eq!(owned(b"{\"pipelines\":[]}", false), None);
    }

    #[test]
    fn a_block_shows_reason_and_detail() {
        let row = json!({"route": "r", "pair": {"zk": "/a", "cache": "a"}, "reason": "too_large", "detail": "big", "since_ms": 0});
        let expected = "/a = a\n  route   r\n  reason  too_large\n  detail  big\n  since   1970-01-01T00:00:00.000Z";
        assert_eq!(block(&row, Paint::OFF), expected);
    }
}
