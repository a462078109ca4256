//! The files of the project, and what their code names: comments and texts left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One Rust file, with its path below the project.
pub struct Source {
    pub path: String,
    pub text: String,
}

pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below the folder with that extension.
pub fn files(folder: &str, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open = vec![project().join(folder)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|own| own == extension) {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(project()).unwrap().to_str().unwrap().to_owned();
            found.push(Source { path, text });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

pub fn rust_files() -> Vec<Source> {
    ["src", "tests", "benches", "examples"].iter().flat_map(|folder| files(folder, "rs")).collect()
}

/// `src/store/redis/sink.rs` is `["store", "redis", "sink"]`, `src/store/mod.rs` is `["store"]`, the roots are `[]`.
pub fn module(path: &str) -> Vec<String> {
    let mut parts: Vec<String> =
        PathBuf::from(path).with_extension("").iter().skip(1).map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || parts.len() == 1 && (last == "lib" || last == "main")) {
        parts.pop();
    }
    parts
}

/// The code without comments and without what stands in strings and characters.
pub fn code_only(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let at = |index: usize| bytes.get(index).copied().unwrap_or('\0');
    let mut code = String::new();
    let mut index = 0;
    while index < bytes.len() {
        let before_is_name = code.chars().last().is_some_and(|last| last.is_alphanumeric() || last == '_');
        match at(index) {
            '/' if at(index + 1) == '/' => {
                while index < bytes.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            '/' if at(index + 1) == '*' => {
                let mut depth = 1;
                index += 2;
                while index < bytes.len() && depth > 0 {
                    match (at(index), at(index + 1)) {
                        ('/', '*') => (depth, index) = (depth + 1, index + 2),
                        ('*', '/') => (depth, index) = (depth - 1, index + 2),
                        _ => index += 1,
                    }
                }
            }
            'r' if !before_is_name && raw_hashes(&bytes[index + 1..]).is_some() => {
                let hashes = raw_hashes(&bytes[index + 1..]).unwrap();
                index += 2 + hashes;
                while index < bytes.len() && !(at(index) == '"' && (1..=hashes).all(|next| at(index + next) == '#')) {
                    index += 1;
                }
                index += 1 + hashes;
                code.push_str("\"\"");
            }
            '"' => {
                index += 1;
                while index < bytes.len() && at(index) != '"' {
                    index += if at(index) == '\\' { 2 } else { 1 };
                }
                index += 1;
                code.push_str("\"\"");
            }
            // A character, not a lifetime: it ends with a quote.
            '\'' if at(index + 1) == '\\' || at(index + 2) == '\'' => {
                index += if at(index + 1) == '\\' { 3 } else { 2 };
                while index < bytes.len() && at(index) != '\'' {
                    index += 1;
                }
                index += 1;
                code.push_str("' '");
            }
            other => {
                code.push(other);
                index += 1;
            }
        }
    }
    code
}

/// The number of `#` between an `r` and the quote of a raw string; `None` if it is no raw string.
pub fn raw_hashes(after_r: &[char]) -> Option<usize> {
    let hashes = after_r.iter().take_while(|next| **next == '#').count();
    (after_r.get(hashes) == Some(&'"')).then_some(hashes)
}

/// Every path that the code names, with the groups of its `use` lines written out: `a::{b, c::d}` is `a::b`, `a::c::d`.
pub fn paths(code: &str) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let mut tokens = Vec::new();
    let mut name = String::new();
    for character in code.chars().chain([' ']) {
        if character.is_alphanumeric() || character == '_' {
            name.push(character);
            continue;
        }
        if !name.is_empty() {
            tokens.push(std::mem::take(&mut name));
        }
        if !character.is_whitespace() {
            tokens.push(character.to_string());
        }
    }
    let mut stack: Vec<Vec<String>> = Vec::new();
    let mut current: Vec<String> = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let token = tokens[index].as_str();
        let joined = |at: usize| {
            tokens.get(at).is_some_and(|next| next == ":") && tokens.get(at + 1).is_some_and(|next| next == ":")
        };
        if joined(index) {
            // `a::{`: what follows up to the closing brace continues `a`.
            if tokens.get(index + 2).is_some_and(|next| next == "{") {
                stack.push(std::mem::take(&mut current));
                current = stack.last().unwrap().clone();
                index += 1;
            }
            index += 2;
            continue;
        }
        if token.chars().all(|character| character.is_alphanumeric() || character == '_') {
            let continues = index >= 2 && tokens[index - 1] == ":" && tokens[index - 2] == ":";
            let opens = index >= 1 && (tokens[index - 1] == "{" || tokens[index - 1] == ",") && !stack.is_empty();
            if !continues && !opens {
                current = Vec::new();
            }
            current.push(token.to_owned());
            if !joined(index + 1) {
                found.insert(current.clone());
            }
        } else if let Some(prefix) = stack.last() {
            match token {
                "," => current = prefix.clone(),
                "}" => {
                    stack.pop();
                    current = stack.last().cloned().unwrap_or_default();
                }
                _ => {}
            }
        }
        index += 1;
    }
    found
}

/// The path from the root of the crate (`crate::store::redis`) or from another crate (`redis::Client`).
pub fn resolved(path: &[String], module: &[String]) -> Vec<String> {
    let mut home = module.to_vec();
    let mut rest = path;
    match path.first().map(String::as_str) {
        Some("self") => rest = &path[1..],
        Some("super") => {
            while rest.first().is_some_and(|first| first == "super") {
                home.pop();
                rest = &rest[1..];
            }
        }
        _ => return path.to_vec(),
    }
    [vec!["crate".to_owned()], home, rest.to_vec()].concat()
}
