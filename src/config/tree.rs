//! YAML text to a small tree in which every node has its place in the text.
//!
//! Only what a pipeline file needs: one document of mappings, lists and scalars. Anchors, aliases,
//! tags and merge keys are refused, so each part of a file has its meaning in one place, and a file
//! cannot expand beyond its size.

use crate::env::Map;
use saphyr_parser::{Event, Parser, ScalarStyle};

/// Deepest nesting. The deepest key of the contract lies at 7.
const DEPTH_MAX: usize = 32;

/// A part of the text. Lines and columns count from 1, columns in characters; the end is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub line: usize,
    pub column: usize,
    pub end_line: usize,
    pub end_column: usize,
}

impl Span {
    /// One character.
    pub(super) fn at(line: usize, column: usize) -> Span {
        Span { line, column, end_line: line, end_column: column + 1 }
    }
}

impl From<saphyr_parser::Span> for Span {
    fn from(span: saphyr_parser::Span) -> Span {
        let (start, end) = (span.start, span.end);
        Span { line: start.line(), column: start.col() + 1, end_line: end.line(), end_column: end.col() + 1 }
    }
}

/// A fault that is not yet tied to a file and its lines.
#[derive(Debug)]
pub(super) struct Fault {
    pub span: Span,
    pub message: String,
    pub help: Option<String>,
}

/// A scalar: a text, as YAML reads it.
#[derive(Debug)]
pub(super) struct Scalar {
    pub text: String,
    /// Whether it is written without quotes.
    pub plain: bool,
    pub span: Span,
}

impl Scalar {
    /// Whether it means no value: empty, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub key: Scalar,
    pub value: Node,
}

#[derive(Debug)]
pub(super) enum Node {
    Scalar(Scalar),
    Sequence { items: Vec<Node>, span: Span },
    Mapping { entries: Vec<Entry>, span: Span },
}

impl Node {
    pub(super) fn span(&self) -> Span {
        match self {
            Node::Scalar(scalar) => scalar.span,
            Node::Sequence { span, .. } | Node::Mapping { span, .. } => *span,
        }
    }

    /// Its name in messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Node::Scalar(scalar) if scalar.is_null() => "nothing",
            Node::Scalar(_) => "a text",
            Node::Sequence { .. } => "a list",
            Node::Mapping { .. } => "a mapping",
        }
    }
}

/// A collection that is still open.
enum Open {
    Sequence { items: Vec<Node>, span: Span },
    Mapping { entries: Vec<Entry>, key: Option<Key>, seen: Map<String, usize>, span: Span },
}

/// A key that waits for its value. `Unusable` was a collection; the fault is recorded and the value
/// is dropped.
enum Key {
    Name(Scalar),
    Unusable,
}

struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    faults: Vec<Fault>,
}

/// Reads one document. `None` if there is none or it is not YAML; faults that leave a tree come
/// with the tree.
pub(super) fn read(text: &str) -> (Option<Node>, Vec<Fault>) {
    let mut builder = Builder { open: Vec::new(), root: None, faults: Vec::new() };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok((event, span)) => (event, Span::from(span)),
            Err(error) => {
                let (line, column) = (error.marker().line(), error.marker().col());
                let help = syntax_help(text.lines().nth(line.saturating_sub(1)).unwrap_or_default(), error.info());
                let message = format!("this is not YAML: {}", error.info());
                builder.faults.push(Fault { span: Span::at(line, column + 1), message, help });
                return (None, builder.faults);
            }
        };
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
            if documents > 1 {
                builder.fault(span, "a pipeline file is one YAML document, and a second one begins here".to_owned());
                break;
            }
        }
        builder.take(event, span);
        if builder.open.len() > DEPTH_MAX {
            builder.fault(span, format!("this is nested more than {DEPTH_MAX} deep"));
            return (None, builder.faults);
        }
    }
    (builder.root, builder.faults)
}

/// The most likely fault of the line: two parts of a pipeline file have a special meaning in YAML.
fn syntax_help(line: &str, info: &str) -> Option<String> {
    if info.contains("anchor") || info.contains("alias") {
        return Some("a text that begins with `*` or `&` needs quotes, as in `\"**\"`".to_owned());
    }
    // `{a: ${B}}` reads as a `$` and a second mapping.
    line.contains("${").then(|| "quote a variable inside `{ }` and `[ ]`: `\"${NAME}\"`".to_owned())
}

impl Builder {
    fn fault(&mut self, span: Span, message: String) {
        self.faults.push(Fault { span, message, help: None });
    }

    fn refuse(&mut self, span: Span, what: &str) {
        let message = format!("{what} not part of a pipeline file");
        self.faults.push(Fault { span, message, help: Some("write the value out in each place".to_owned()) });
    }

    fn take(&mut self, event: Event<'_>, span: Span) {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.check(anchor, tag.is_some(), span);
                let scalar = Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain, span };
                self.place(Node::Scalar(scalar));
            }
            Event::SequenceStart(anchor, tag) => {
                self.check(anchor, tag.is_some(), span);
                self.open.push(Open::Sequence { items: Vec::new(), span });
            }
            Event::MappingStart(anchor, tag) => {
                self.check(anchor, tag.is_some(), span);
                self.open.push(Open::Mapping { entries: Vec::new(), key: None, seen: Map::default(), span });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::Sequence { items, span }) => self.place(Node::Sequence { items, span }),
                Some(Open::Mapping { entries, span, .. }) => self.place(Node::Mapping { entries, span }),
                None => {}
            },
            Event::Alias(_) => {
                self.refuse(span, "aliases (`*name`) are");
                self.place(Node::Scalar(Scalar { text: String::new(), plain: false, span }));
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
        }
    }

    fn check(&mut self, anchor: usize, tagged: bool, span: Span) {
        if anchor != 0 {
            self.refuse(span, "anchors (`&name`) are");
        }
        if tagged {
            self.refuse(span, "tags (`!name`) are");
        }
    }

    /// Puts a complete node into its parent.
    fn place(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::Sequence { items, .. }) => items.push(node),
            Some(Open::Mapping { entries, key, seen, .. }) => match key.take() {
                Some(Key::Name(name)) => {
                    if let Some(line) = seen.get(&name.text) {
                        let message = format!("duplicate key {}", quoted(&name.text));
                        let help = Some(format!("it is already in line {line}"));
                        self.faults.push(Fault { span: name.span, message, help });
                    } else {
                        seen.insert(name.text.clone(), name.span.line);
                        entries.push(Entry { key: name, value: node });
                    }
                }
                Some(Key::Unusable) => {}
                None => match node {
                    Node::Scalar(name) if name.plain && name.text == "<<" => {
                        *key = Some(Key::Unusable);
                        self.refuse(name.span, "merge keys (`<<`) are");
                    }
                    Node::Scalar(name) => *key = Some(Key::Name(name)),
                    Node::Sequence { span, .. } | Node::Mapping { span, .. } => {
                        *key = Some(Key::Unusable);
                        let help = "quote a text that contains braces or brackets inside `{ }` and `[ ]`".to_owned();
                        self.faults.push(Fault { span, message: "a key must be a name".to_owned(), help: Some(help) });
                    }
                },
            },
        }
    }
}

/// The text in backticks, without control characters and not longer than a line takes.
pub(super) fn quoted(text: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    let mut shown: String = text.chars().take(CHARACTERS_MAX).flat_map(visible).collect();
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// A character in a form that is safe for a terminal: a control character, or one that changes the
/// direction of the text, is escaped.
pub(super) fn visible(character: char) -> impl Iterator<Item = char> {
    let hostile = character.is_control()
        || matches!(character, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let escaped = hostile.then(|| character.escape_unicode());
    escaped.into_iter().flatten().chain((!hostile).then_some(character))
}
