//! The pipeline file: YAML to plain data, with spans for errors.
//!
//! ```text
//! text ──tree──> nodes with spans ──reader: pipeline, stores, routes, worker──> Pipeline
//!                                     │ variables and secrets, one scalar at a time
//!                                     └──faults──> source: mask secrets, cut the line out ──> Problems
//! ```
//!
//! - Variables are replaced inside scalars *after* parsing, so that a value can never change the
//!   file's structure.
//! - A fault never ends the walk: all problems of a file, and of all files, are reported together.
//! - Errors quote the text of the file, never the content of a variable or a secret. A text that
//!   could be a secret written inline is also masked in the line that is shown.
//! - A feature that the contract describes and this version lacks is refused with "not supported
//!   yet", never ignored.

mod address;
mod echo;
mod kafka;
mod keys;
pub mod model;
mod problem;
mod quantity;
mod reader;
mod routes;
mod scratch;
mod secret;
mod source;
mod stores;
mod tree;
mod variables;
mod worker;

#[cfg(test)]
mod tests;

pub use echo::{echo, echo_json};
pub use model::*;
pub use problem::{Problem, Problems, Snippet};
pub use scratch::with_store_at;

use crate::route::RouteMap;
use reader::{Fields, Reader, Value};
use source::Source;
use std::path::{Path, PathBuf};
use tree::{Node, Span};

/// JSON Schema (2020-12) of the pipeline file, as `keepstep schema pipeline` prints it.
pub const SCHEMA: &str = include_str!("../../schemas/pipeline.v1.schema.json");

/// Largest pipeline file, in bytes. A thousand routes take a fifth of it.
const FILE_BYTES_MAX: usize = 1 << 20;

/// The form of the name of a pipeline or a route, for errors.
const NAME_FORM: &str = "allowed: a letter from a to z or a digit, then letters, digits and `-`, 63 at most";

/// Reads a pipeline file, with variables and secrets from the environment of the process.
///
/// # Errors
/// All problems of the file.
pub fn load(path: &Path) -> Result<Pipeline, Problems> {
    load_with(path, Secrets::All)
}

/// Which secrets a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// It opens stores.
    All,
    /// It reads the stream and opens no store.
    OfStream,
    /// It opens neither.
    None,
}

/// [`load`] without the secrets that the command does not need; these are empty. A user who only
/// asks a worker for its status need not have them.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, secrets: Secrets) -> Result<Pipeline, Problems> {
    let text = read_file(path)?;
    parse_knowing(path, &text, &environment, &[], secrets).map_err(Problems::new)
}

/// Reads pipeline files. Two pipelines of one name are a problem of the second.
///
/// # Errors
/// All problems of all files.
pub fn load_all(paths: &[PathBuf]) -> Result<Vec<Pipeline>, Problems> {
    let mut pipelines: Vec<Pipeline> = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        let text = match read_file(path) {
            Ok(text) => text,
            Err(unreadable) => {
                problems.extend(unreadable);
                continue;
            }
        };
        match parse_knowing(path, &text, &environment, &pipelines, Secrets::All) {
            Ok(pipeline) => pipelines.push(pipeline),
            Err(wrong) => problems.extend(wrong),
        }
    }
    if problems.is_empty() { Ok(pipelines) } else { Err(Problems::new(problems)) }
}

/// Reads the text of a pipeline file. Errors name `file`, and files of secrets are relative to its
/// folder; `env` gives the value of a variable.
///
/// # Errors
/// All problems of the file.
pub fn parse(file: &Path, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Pipeline, Problems> {
    parse_knowing(file, text, env, &[], Secrets::All).map_err(Problems::new)
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn read_file(path: &Path) -> Result<String, Problems> {
    let unreadable = |message: String| Err(Problems::of_file(path, message));
    if crate::env::disk::is_dir(path) {
        return unreadable("a folder of pipeline files is not supported yet: give the files in it".to_owned());
    }
    let bytes = match crate::env::disk::read_at_most(path, FILE_BYTES_MAX + 1) {
        Ok(bytes) => bytes,
        Err(error) => return unreadable(format!("the pipeline file cannot be read: {error}")),
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        // A file that is too large may have been cut inside a character. Its size is the problem
        // then.
        Err(error) if error.as_bytes().len() > FILE_BYTES_MAX => unreadable(too_large()),
        Err(error) => {
            let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
            let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
            unreadable(format!("the pipeline file is not UTF-8: see line {line}"))
        }
    }
}

fn too_large() -> String {
    format!("a pipeline file has at most {} KiB", FILE_BYTES_MAX >> 10)
}

/// Like [`parse`], with the pipelines that are known already.
fn parse_knowing(
    file: &Path,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    known: &[Pipeline],
    secrets: Secrets,
) -> Result<Pipeline, Vec<Problem>> {
    let start = Span::at(1, 1);
    if text.len() > FILE_BYTES_MAX {
        return Err(Problems::of_file(file, too_large()).into_iter().collect());
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (root, faults) = match control_character(text) {
        Some(fault) => (None, vec![fault]),
        None => tree::read(text),
    };
    let mut reader = Reader::new(Source::new(file, text, root.as_ref()), env, faults);
    let Some(root) = &root else {
        if reader.is_clean() {
            reader.fault(start, "the file is empty", "a pipeline file begins with `version: 1`".to_owned());
        }
        return reader.finish(None);
    };
    let whole = Value { node: root, place: String::new(), span: start };
    let pipeline = match root {
        Node::Mapping { .. } => reader.fields(&whole, keys::PIPELINE),
        other => {
            let message = format!("the file is {}, expected a mapping", other.kind());
            reader.fault(other.span(), message, problem::allowed(keys::PIPELINE, None));
            None
        }
    };
    let pipeline = pipeline.and_then(|fields| read_pipeline(&mut reader, file, &fields, known, secrets));
    reader.finish(pipeline)
}

/// YAML takes NUL as the end, and no editor shows the other control characters: a file with one may
/// mean less than it shows.
fn control_character(text: &str) -> Option<tree::Fault> {
    text.lines().enumerate().find_map(|(line, content)| {
        let column = content.chars().position(|character| character.is_control() && character != '\t')?;
        let span = Span::at(line + 1, column + 1);
        Some(tree::Fault { span, message: "a control character".to_owned(), help: None })
    })
}

fn read_pipeline(
    reader: &mut Reader<'_>,
    file: &Path,
    fields: &Fields<'_>,
    known: &[Pipeline],
    secrets: Secrets,
) -> Option<Pipeline> {
    if let Some(value) = reader.required(fields, "version")
        && let Some(text) = reader.text(&value, "a number")
        && text.text != "1"
    {
        reader.bad(&text, "a version of the file format", "allowed: `1`".to_owned());
    }
    let name = read_name(reader, fields, known);
    reader.reads_secrets = secrets == Secrets::All;
    let stores = reader.required(fields, "stores").map(|value| stores::read(reader, &value)).unwrap_or_default();
    reader.reads_secrets = secrets != Secrets::None;
    let stream = worker::read_stream(reader, fields, name.as_deref().unwrap_or_default());
    let routes = reader.required(fields, "routes").map(|value| routes::read(reader, &value, &stores));
    let worker = worker::read_worker(reader, fields);
    let pipeline = Pipeline {
        file: file.to_owned(),
        name: name?,
        zookeeper: stores.zookeeper,
        redis: stores.redis,
        stream,
        routes: routes?,
        worker,
    };
    // Every pattern was checked in its place. This check guarantees that a pipeline always has its
    // map.
    if reader.is_clean()
        && let Err(error) = RouteMap::new(&pipeline.route_specs())
    {
        reader.fault(Span::at(1, 1), error.to_string(), None);
    }
    Some(pipeline)
}

fn read_name(reader: &mut Reader<'_>, fields: &Fields<'_>, known: &[Pipeline]) -> Option<String> {
    let value = reader.required(fields, "pipeline")?;
    let text = reader.text(&value, "the name of the pipeline")?;
    if !is_name(&text.text) {
        reader.bad(&text, "a name of a pipeline", NAME_FORM.to_owned());
        return None;
    }
    if let Some(other) = known.iter().find(|other| other.name == text.text) {
        let message = format!("a second pipeline is called {}", reader.source.quote(text.scalar));
        reader.fault(text.scalar.span, message, format!("the first is {}", other.file.display()));
    }
    Some(text.text)
}

/// `[a-z0-9][a-z0-9-]{0,62}`.
fn is_name(name: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(rest)
}
