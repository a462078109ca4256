//! The problems of a pipeline file, shown as a compiler shows errors.

use crate::change::brief::printable;
use serde::{Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};

/// One problem of a pipeline file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as it was named.
    #[serde(serialize_with = "as_text")]
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The problem, with the wrong text unless that could be a secret.
    pub message: String,
    /// What is allowed instead, and the nearest name.
    pub help: Option<String>,
    /// The line with a mark under the wrong text, secrets masked. `None` if the file could not be
    /// read.
    #[serde(skip)]
    pub snippet: Option<Snippet>,
}

/// A line of the file and the marked part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    /// The line, safe for a terminal.
    pub text: String,
    /// Characters before the mark.
    pub indent: usize,
    /// Characters of the mark, at least 1.
    pub width: usize,
}

/// All problems, in the order of the files and of their lines. Never empty when it is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Sorts them by file, in the order in which files first appear, then by line and column.
    pub(super) fn new(mut problems: Vec<Problem>) -> Problems {
        let mut files: Vec<PathBuf> = Vec::new();
        for problem in &problems {
            if !files.contains(&problem.file) {
                files.push(problem.file.clone());
            }
        }
        problems
            .sort_by_key(|problem| (files.iter().position(|file| *file == problem.file), problem.line, problem.column));
        Problems(problems)
    }

    /// A problem without a place in the file, such as a missing file.
    pub(super) fn of_file(file: &Path, message: String) -> Problems {
        Problems(vec![Problem { file: file.to_owned(), line: 1, column: 1, message, help: None, snippet: None }])
    }

    /// One after the other.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// The number of problems.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no problem.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for Problem {}
impl std::error::Error for Problems {}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gutter = self.line.to_string().len();
        let file = printable(&self.file.display().to_string());
        writeln!(out, "error: {}", printable(&self.message))?;
        write!(out, "{:gutter$}--> {file}:{}:{}", "", self.line, self.column)?;
        if let Some(snippet) = &self.snippet {
            writeln!(out, "\n{:gutter$} |", "")?;
            writeln!(out, "{} | {}", self.line, snippet.text)?;
            write!(out, "{:gutter$} | {:indent$}{}", "", "", "^".repeat(snippet.width), indent = snippet.indent)?;
        }
        if let Some(help) = &self.help {
            write!(out, "\n{:gutter$} = help: {help}", "")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problems {
    /// Without a line end after the last line.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                out.write_str("\n\n")?;
            }
            problem.fmt(out)?;
        }
        Ok(())
    }
}

fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// `allowed: …`, with the allowed word nearest to the given one.
pub(super) fn allowed<T: AsRef<str>>(names: &[T], written: Option<&str>) -> String {
    let list: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    let mut help = format!("allowed: {}", list.join(", "));
    if let Some(name) = written.and_then(|written| nearest(written, names)) {
        help.push_str(&format!("; did you mean `{name}`?"));
    }
    help
}

/// The name that was most likely intended: at most a third of it mistyped, or equal except for case
/// and dashes.
pub(super) fn nearest<'a, T: AsRef<str>>(written: &str, names: &'a [T]) -> Option<&'a str> {
    let written = written.trim().to_lowercase().replace('-', "_");
    if written.is_empty() || written.len() > 64 {
        return None;
    }
    let names = names.iter().map(AsRef::as_ref);
    let distances =
        names.map(|name| (strsim::damerau_levenshtein(&written, &name.to_lowercase().replace('-', "_")), name));
    let (distance, name) = distances.min_by_key(|(distance, _)| *distance)?;
    let near = distance <= (name.chars().count() / 3).max(1) || strsim::jaro_winkler(&written, name) > 0.85;
    near.then_some(name)
}
