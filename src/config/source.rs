//! The text of a file: the parts of it that must not be shown, and the line that is shown with a
//! problem.

use super::problem::{Problem, Snippet};
use super::tree::{Fault, Node, Scalar, Span, quoted, visible};
use std::borrow::Cow;
use std::path::Path;

/// Longest line that is shown, in characters; of a longer one the part around the mark.
const SHOWN_MAX: usize = 160;

/// A file, its lines, and the places in it that could be secrets.
pub(super) struct Source<'a> {
    file: &'a Path,
    lines: Vec<&'a str>,
    hidden: Vec<Span>,
    /// Whether there is a tree, so that `hidden` is complete.
    read: bool,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str, root: Option<&Node>) -> Source<'a> {
        let mut source = Source { file, lines: text.lines().collect(), hidden: Vec::new(), read: root.is_some() };
        if let Some(root) = root {
            source.hide(root, false, false);
        }
        source
    }

    /// The folder that names in the file are relative to.
    pub(super) fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// A scalar for a message: as written, so that the value of a variable is never shown.
    pub(super) fn quote(&self, scalar: &Scalar) -> String {
        if self.hidden.contains(&scalar.span) { "`***`".to_owned() } else { quoted(&without_password(&scalar.text)) }
    }

    /// The place of `token` in a scalar of one line, or the whole scalar.
    pub(super) fn find(&self, scalar: &Scalar, token: &str) -> Span {
        let span = scalar.span;
        let line = self.lines.get(span.line.saturating_sub(1)).copied().unwrap_or_default();
        let before: String = line.chars().take(span.column.saturating_sub(1)).collect();
        match line.strip_prefix(before.as_str()).and_then(|rest| rest.find(token).and_then(|at| rest.get(..at))) {
            Some(skipped) if span.line == span.end_line => {
                let column = span.column + skipped.chars().count();
                Span { column, end_column: column + token.chars().count(), ..span }
            }
            _ => span,
        }
    }

    pub(super) fn problem(&self, fault: Fault) -> Problem {
        let Fault { span, message, help } = fault;
        let snippet = self.snippet(span);
        Problem { file: self.file.to_owned(), line: span.line, column: span.column, message, help, snippet }
    }

    /// Notes every scalar that could be a secret: a value under a key that sounds like a secret,
    /// unless it is a reference, and a URL unless it clearly has no password.
    fn hide(&mut self, node: &Node, secret: bool, address: bool) {
        match node {
            Node::Scalar(scalar) => {
                if secret || address && may_hold_password(&scalar.text) {
                    self.hidden.push(scalar.span);
                }
            }
            Node::Sequence { items, .. } => items.iter().for_each(|item| self.hide(item, secret, address)),
            Node::Mapping { entries, .. } => {
                for entry in entries {
                    let name = entry.key.text.to_lowercase();
                    let reference =
                        secret && matches!(name.as_str(), "env" | "file") && matches!(entry.value, Node::Scalar(_));
                    let secret = !reference && (secret || sounds_secret(&name));
                    let address = name != "env" && name != "file" && (address || sounds_like_address(&name));
                    self.hide(&entry.value, secret, address);
                }
            }
        }
    }

    /// The line of the span with its secrets masked, and the mark moved accordingly.
    fn snippet(&self, span: Span) -> Option<Snippet> {
        let line: Vec<char> = self.lines.get(span.line.checked_sub(1)?)?.chars().collect();
        let end = if span.end_line == span.line { span.end_column } else { line.len() + 1 };
        let (from, to) = (span.column.saturating_sub(1), end.saturating_sub(1).min(line.len()));
        let masks = self.masks(span.line, &line);
        let first = from.saturating_sub(SHOWN_MAX / 2);
        let mut snippet = Snippet { text: String::new(), indent: 0, width: 0 };
        let mut shown = 0;
        for (at, character) in line.iter().enumerate().skip(first).take(SHOWN_MAX) {
            let piece: String = match masks.iter().find(|(start, end)| (*start..*end).contains(&at)) {
                // A mask is written once, at its start or where the shown part begins.
                Some((start, _)) if at == *start || at == first => "***".to_owned(),
                Some(_) => String::new(),
                None if *character == '\t' => " ".to_owned(),
                None => visible(*character).collect(),
            };
            let width = piece.chars().count();
            if at < from {
                snippet.indent = shown + width;
            } else if at < to {
                snippet.width += width;
            }
            snippet.text.push_str(&piece);
            shown += width;
        }
        snippet.text.truncate(snippet.text.trim_end().len());
        snippet.width = snippet.width.max(1);
        Some(snippet)
    }

    /// The parts of a line, as half-open ranges of characters, that must not be shown.
    fn masks(&self, number: usize, line: &[char]) -> Vec<(usize, usize)> {
        let mut masks: Vec<(usize, usize)> = Vec::new();
        for span in self.hidden.iter().filter(|span| (span.line..=span.end_line).contains(&number)) {
            let start = if span.line == number { span.column.saturating_sub(1) } else { 0 };
            let end = if span.end_line == number { span.end_column.saturating_sub(1) } else { line.len() };
            masks.push((start, end.min(line.len())));
        }
        let text: String = line.iter().collect();
        // A password inside any URL. The last `@` of the line, because a badly written password may
        // hold one itself.
        if let Some((before, rest)) = text.split_once("://")
            && let Some((password, _)) = rest.rsplit_once('@')
        {
            let start = before.chars().count() + 3;
            masks.push((start, start + password.chars().count()));
        }
        // Without a tree, values are not known: nothing is shown after the first name that sounds
        // like a secret.
        if !self.read && sounds_secret(&text.to_lowercase()) {
            let start = line.iter().position(|character| !character.is_whitespace()).unwrap_or(0);
            masks.push((start, line.len()));
        }
        masks
    }
}

/// The text with a mask where a URL in it has a user and a password.
fn without_password(text: &str) -> Cow<'_, str> {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, host)) => Cow::Owned(format!("{scheme}://***@{host}")),
        None => Cow::Borrowed(text),
    }
}

/// Whether a lower-case key, or any part of it, names a secret; also a slightly mistyped one.
fn sounds_secret(name: &str) -> bool {
    ["pass", "pwd", "secret", "digest", "token", "auth", "credential", "key.pem"].iter().any(|part| name.contains(part))
        || [("password", 3), ("digest", 2)]
            .iter()
            .any(|(word, typos)| strsim::damerau_levenshtein(name, word) <= *typos)
}

fn sounds_like_address(name: &str) -> bool {
    ["url", "uri", "connect", "address", "host", "registry"].iter().any(|word| name.contains(word))
        || ["url", "connect"].iter().any(|word| strsim::damerau_levenshtein(name, word) <= 1)
}

/// Whether an address is anything but hosts with numeric ports, a database and variables.
fn may_hold_password(text: &str) -> bool {
    let rest = match text.rsplit_once("://") {
        // With an `@` behind the scheme the mask of the line takes exactly the user and the
        // password.
        Some((_, rest)) if rest.contains('@') => return false,
        Some((_, rest)) => rest,
        None if text.contains("${") => return text.contains('@'),
        None => text,
    };
    let port_is_text = |behind: &str| {
        let digits = behind.trim_start_matches(|character: char| character.is_ascii_digit());
        !(digits.is_empty() || digits.starts_with(['/', ',', '?', '#', '}', ':']))
    };
    rest.contains('@') || !rest.contains('[') && rest.split(':').skip(1).any(port_is_text)
}
