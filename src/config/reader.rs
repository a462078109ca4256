//! Walks the tree of a file and collects all faults. A fault never ends the walk.

use super::problem::{Problem, Problems, allowed};
use super::quantity::{self, DURATION_FORM, SIZE_FORM};
use super::secret::{self, Secret};
use super::source::Source;
use super::tree::{Entry, Fault, Node, Scalar, Span, quoted};
use super::{keys, variables};
use std::ops::RangeInclusive;
use std::time::Duration;

/// The walk: the file, the environment and the faults so far.
pub(super) struct Reader<'a> {
    pub(super) source: Source<'a>,
    /// Whether secrets are read here; otherwise each is empty.
    pub(super) reads_secrets: bool,
    env: &'a dyn Fn(&str) -> Option<String>,
    faults: Vec<Fault>,
}

/// A node and the name of its place, such as `worker.batch`.
#[derive(Debug, Clone)]
pub(super) struct Value<'n> {
    pub(super) node: &'n Node,
    pub(super) place: String,
    /// Where errors point when something is missing in it: its key.
    pub(super) span: Span,
}

/// A mapping whose keys were checked.
#[derive(Debug, Clone)]
pub(super) struct Fields<'n> {
    entries: &'n [Entry],
    place: String,
    span: Span,
}

/// A scalar after variables are replaced. Errors quote `scalar`.
#[derive(Debug, Clone)]
pub(super) struct Text<'n> {
    pub(super) text: String,
    pub(super) scalar: &'n Scalar,
}

impl Text<'_> {
    /// Whether it holds variables, so that no part of it may be quoted.
    pub(super) fn has_variables(&self) -> bool {
        self.text != self.scalar.text
    }
}

impl<'n> Fields<'n> {
    pub(super) fn get(&self, key: &str) -> Option<Value<'n>> {
        let entry = self.entries.iter().find(|entry| entry.key.text == key)?;
        Some(self.value(entry))
    }

    /// The name of its place.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// All values with their keys, in the order of the file.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'n Scalar, Value<'n>)> {
        self.entries.iter().map(|entry| (&entry.key, self.value(entry)))
    }

    fn value(&self, entry: &'n Entry) -> Value<'n> {
        let dot = if self.place.is_empty() { "" } else { "." };
        Value { node: &entry.value, place: format!("{}{dot}{}", self.place, entry.key.text), span: entry.key.span }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: Source<'a>, env: &'a dyn Fn(&str) -> Option<String>, faults: Vec<Fault>) -> Reader<'a> {
        Reader { source, reads_secrets: true, env, faults }
    }

    /// The result of the walk: nothing was wrong and there is a value, or the problems.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Problem>> {
        let Reader { source, faults, .. } = self;
        match value {
            Some(value) if faults.is_empty() => Ok(value),
            _ => Err(Problems::new(faults.into_iter().map(|fault| source.problem(fault)).collect())
                .into_iter()
                .collect()),
        }
    }

    /// Whether nothing was wrong so far.
    pub(super) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn fault(&mut self, span: Span, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.faults.push(Fault { span, message: message.into(), help: help.into() });
    }

    /// A feature of a later version. It is refused rather than ignored.
    pub(super) fn unsupported(&mut self, span: Span, what: &str, instead: &str) {
        self.fault(span, format!("`{what}` is not supported yet"), format!("allowed for now: {instead}"));
    }

    /// A value of the wrong shape.
    pub(super) fn unexpected(&mut self, value: &Value<'_>, expected: &str) {
        let found = value.node.kind();
        let span = if found == "nothing" { value.span } else { value.node.span() };
        self.fault(span, format!("`{}` is {found}, expected {expected}", value.place), None);
    }

    /// A scalar with a wrong value.
    pub(super) fn bad(&mut self, text: &Text<'_>, is_not: &str, help: impl Into<Option<String>>) {
        let message = format!("{} is not {is_not}", self.source.quote(text.scalar));
        self.fault(text.scalar.span, message, help);
    }

    /// A mapping with these keys and no others; `None` if the value is no mapping.
    pub(super) fn fields<'n>(&mut self, value: &Value<'n>, keys: &[&str]) -> Option<Fields<'n>> {
        let fields = self.entries(value, "a mapping")?;
        for (key, _) in fields.all() {
            if !keys.contains(&key.text.as_str()) {
                let place = if fields.place.is_empty() { String::new() } else { format!(" in `{}`", fields.place) };
                let message = format!("unknown key {}{place}", quoted(&key.text));
                self.fault(key.span, message, allowed(keys, Some(&key.text)));
            }
        }
        Some(fields)
    }

    /// A mapping whose keys are names that the file chooses.
    pub(super) fn entries<'n>(&mut self, value: &Value<'n>, expected: &str) -> Option<Fields<'n>> {
        match value.node {
            Node::Mapping { entries, .. } => Some(Fields { entries, place: value.place.clone(), span: value.span }),
            _ => {
                self.unexpected(value, expected);
                None
            }
        }
    }

    /// An optional mapping. If it is absent or empty, all defaults apply.
    pub(super) fn optional_fields<'n>(&mut self, fields: &Fields<'n>, key: &str, keys: &[&str]) -> Option<Fields<'n>> {
        let value = fields.get(key)?;
        match value.node {
            Node::Scalar(scalar) if scalar.is_null() => None,
            _ => self.fields(&value, keys),
        }
    }

    /// A required key.
    pub(super) fn required<'n>(&mut self, fields: &Fields<'n>, key: &str) -> Option<Value<'n>> {
        let value = fields.get(key);
        if value.is_none() {
            let place = if fields.place.is_empty() { String::new() } else { format!(" in `{}`", fields.place) };
            self.fault(fields.span, format!("the key `{key}` is missing{place}"), None);
        }
        value
    }

    pub(super) fn items<'n>(&mut self, value: &Value<'n>, expected: &str) -> Option<Vec<Value<'n>>> {
        match value.node {
            Node::Sequence { items, .. } => {
                let item = |(at, node): (usize, &'n Node)| Value {
                    node,
                    place: format!("{}[{at}]", value.place),
                    span: Span { end_line: node.span().line, end_column: node.span().column + 1, ..node.span() },
                };
                Some(items.iter().enumerate().map(item).collect())
            }
            _ => {
                self.unexpected(value, expected);
                None
            }
        }
    }

    /// A scalar with its variables replaced.
    pub(super) fn text<'n>(&mut self, value: &Value<'n>, expected: &str) -> Option<Text<'n>> {
        let Node::Scalar(scalar) = value.node else {
            self.unexpected(value, expected);
            return None;
        };
        if scalar.is_null() {
            self.unexpected(value, expected);
            return None;
        }
        match variables::resolve(&scalar.text, self.env) {
            Ok(text) => Some(Text { text, scalar }),
            Err(faults) => {
                for fault in faults {
                    let span = self.source.find(scalar, &fault.token);
                    self.fault(span, fault.message, fault.help);
                }
                None
            }
        }
    }

    /// One of a few words; the default if the key is absent or the value is wrong.
    pub(super) fn choice<T: Copy>(&mut self, fields: &Fields<'_>, key: &str, words: &[(&str, T)], default: T) -> T {
        let Some(value) = fields.get(key) else { return default };
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let Some(text) = self.text(&value, "a word") else { return default };
        match words.iter().find(|(word, _)| *word == text.text) {
            Some((_, chosen)) => *chosen,
            None => {
                let help = allowed(&names, Some(&text.text));
                self.bad(&text, &format!("a value of `{}`", value.place), help);
                default
            }
        }
    }

    pub(super) fn duration(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(value) = fields.get(key) else { return default };
        let Some(text) = self.text(&value, "a duration such as `10s`") else { return default };
        let bounds = (quantity::show_duration(*range.start()), quantity::show_duration(*range.end()));
        match quantity::duration(text.text.trim()) {
            Some(duration) if range.contains(&duration) => duration,
            Some(_) => {
                self.out_of_bounds(&text, &value.place, &bounds);
                default
            }
            None => {
                self.bad(&text, "a duration", format!("allowed: {DURATION_FORM}"));
                default
            }
        }
    }

    pub(super) fn size(&mut self, fields: &Fields<'_>, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(value) = fields.get(key) else { return default };
        let Some(text) = self.text(&value, "a size such as `64MiB`") else { return default };
        let bounds = (quantity::show_size(*range.start()), quantity::show_size(*range.end()));
        match quantity::size(text.text.trim()) {
            Some(size) if range.contains(&size) => size,
            Some(_) => {
                self.out_of_bounds(&text, &value.place, &bounds);
                default
            }
            None => {
                self.bad(&text, "a size", format!("allowed: {SIZE_FORM}"));
                default
            }
        }
    }

    pub(super) fn count(&mut self, fields: &Fields<'_>, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(value) = fields.get(key) else { return default };
        let Some(text) = self.text(&value, "a whole number") else { return default };
        let digits = text.text.bytes().all(|byte| byte.is_ascii_digit()) && !text.text.is_empty();
        match text.text.parse::<u64>() {
            Ok(number) if digits && range.contains(&number) => number,
            _ if digits => {
                let bounds = (range.start().to_string(), range.end().to_string());
                self.out_of_bounds(&text, &value.place, &bounds);
                default
            }
            _ => {
                self.bad(&text, "a whole number", None);
                default
            }
        }
    }

    fn out_of_bounds(&mut self, text: &Text<'_>, place: &str, (least, most): &(String, String)) {
        let message = format!("`{place}` cannot be {}", self.source.quote(text.scalar));
        self.fault(text.scalar.span, message, format!("allowed: from {least} to {most}"));
    }

    /// A secret: `{env: NAME}` or `{file: PATH}`. A text is an error that does not quote it.
    pub(super) fn secret(&mut self, value: &Value<'_>) -> Option<Secret> {
        const FORM: &str = "allowed: `{env: NAME}`, `{file: PATH}`";
        let Node::Mapping { .. } = value.node else {
            let span = match value.node {
                Node::Scalar(scalar) if scalar.is_null() => value.span,
                node => node.span(),
            };
            let message = format!("`{}` is a secret and must not be in the file itself", value.place);
            self.fault(span, message, FORM.to_owned());
            return None;
        };
        let fields = self.fields(value, keys::SECRET)?;
        match (fields.get("env"), fields.get("file")) {
            (Some(_), None) | (None, Some(_)) if !self.reads_secrets => Some(Secret::new(String::new())),
            (Some(name), None) => self.secret_from_env(&name),
            (None, Some(path)) => self.secret_from_file(&path),
            _ => {
                self.fault(value.span, format!("`{}` must come from one place", value.place), FORM.to_owned());
                None
            }
        }
    }

    fn secret_from_env(&mut self, value: &Value<'_>) -> Option<Secret> {
        let name = self.text(value, "the name of an environment variable")?;
        let secret = (self.env)(&name.text).filter(|secret| !secret.is_empty());
        if secret.is_none() {
            let message = format!("the variable {} has no value", self.source.quote(name.scalar));
            self.fault(name.scalar.span, message, None);
        }
        secret.map(Secret::new)
    }

    fn secret_from_file(&mut self, value: &Value<'_>) -> Option<Secret> {
        let path = self.text(value, "the path of a file")?;
        let file = self.source.folder().join(&path.text);
        let reason = match secret::in_file(&file) {
            Ok(text) => return Some(Secret::from_file(text, file)),
            Err(reason) => reason,
        };
        let message = format!("the secret file {} {reason}", self.source.quote(path.scalar));
        self.fault(path.scalar.span, message, "a path is relative to the pipeline file".to_owned());
        None
    }
}
