//! Patterns of znodes and keys: literals, `*` for one name, `**` at the end for one or more.

use super::error::PatternError;
use super::name;
use super::separator::Separator;
use crate::change::Side;

/// One segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// Exactly this name.
    Literal {
        /// As it lies in the text that is matched.
        text: Vec<u8>,
        /// The name that it stands for.
        name: Vec<u8>,
    },
    /// `*`: any one name.
    One,
    /// `**`: one or more names.
    Rest,
}

/// A pattern of one side.
#[derive(Debug, Clone)]
pub struct Pattern {
    side: Side,
    pub(super) segments: Vec<Segment>,
}

impl Pattern {
    /// Reads a pattern of znodes (`/settings/**`).
    ///
    /// # Errors
    /// If it does not start with `/`, has a wildcard that is not a whole segment or a `**` that is not last, or a
    /// segment that no znode can be called.
    pub fn of_znodes(text: &str) -> Result<Pattern, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let names = text.strip_prefix('/').ok_or(PatternError::NotAbsolute)?;
        if names.is_empty() {
            return Err(PatternError::Root);
        }
        let literal = |segment: &[u8]| {
            if !name::legal(segment) {
                return Err(PatternError::IllegalName(readable(segment)));
            }
            let mut decoded = Vec::new();
            name::decode_into(&mut decoded, segment);
            Ok(Segment::Literal { text: segment.to_vec(), name: decoded })
        };
        Pattern::read(Side::Zookeeper, names.as_bytes(), literal, readable)
    }

    /// Reads a pattern of keys (`settings:**`).
    ///
    /// # Errors
    /// If the separator cannot be used, a wildcard is not a whole segment or a `**` is not last.
    pub fn of_keys(text: &str, separator: &str) -> Result<Pattern, PatternError> {
        Pattern::of_keys_with(text, &Separator::new(separator)?)
    }

    pub(super) fn of_keys_with(text: &str, separator: &Separator) -> Result<Pattern, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let as_written = |segment: &[u8]| separator.swap(segment.to_vec());
        let literal = |segment: &[u8]| {
            // A key is matched where it lies if the separator is one byte, else in its swapped form.
            let text = if separator.single().is_some() { as_written(segment) } else { segment.to_vec() };
            Ok(Segment::Literal { text, name: segment.to_vec() })
        };
        let swapped = separator.swap(text.as_bytes().to_vec());
        Pattern::read(Side::Redis, &swapped, literal, |segment| readable(&as_written(segment)))
    }

    fn read(
        side: Side,
        names: &[u8],
        literal: impl Fn(&[u8]) -> Result<Segment, PatternError>,
        readable: impl Fn(&[u8]) -> String,
    ) -> Result<Pattern, PatternError> {
        let mut segments = Vec::new();
        for segment in names.split(|byte| *byte == b'/') {
            if segments.last() == Some(&Segment::Rest) {
                return Err(PatternError::RestNotLast);
            }
            segments.push(match segment {
                b"*" => Segment::One,
                b"**" => Segment::Rest,
                other if other.contains(&b'*') => return Err(PatternError::PartialWildcard(readable(other))),
                other => literal(other)?,
            });
        }
        Ok(Pattern { side, segments })
    }

    /// Says whether the pattern lies in what is never mapped: `/zookeeper`, a znode `_keepstep` at any depth (a pipeline in a chroot
    /// keeps its own data there) and keys with `_keepstep:`.
    ///
    /// # Errors
    /// [`PatternError::Reserved`] with the name of it.
    pub fn check_reserved(&self, separator: &str) -> Result<(), PatternError> {
        let is_called =
            |segment: &Segment, name: &[u8]| matches!(segment, Segment::Literal { text, .. } if text == name);
        match (self.side, self.segments.first()) {
            (Side::Zookeeper, Some(first)) if is_called(first, b"zookeeper") => {
                Err(PatternError::Reserved("/zookeeper"))
            }
            (Side::Zookeeper, _) if self.segments.iter().any(|segment| is_called(segment, OURS)) => {
                Err(PatternError::Reserved("/_keepstep"))
            }
            (Side::Redis, _) if is_reserved_key(&self.key_prefix(&Separator::new(separator)?)) => {
                Err(PatternError::Reserved("_keepstep:"))
            }
            _ => Ok(()),
        }
    }

    /// Whether `text` matches, `delimiter` standing between its segments.
    pub(super) fn matches(&self, text: &[u8], delimiter: u8) -> bool {
        let mut rest = Some(text);
        for segment in &self.segments {
            let Some(here) = rest else { return false };
            if *segment == Segment::Rest {
                return true;
            }
            let (name, behind) = cut(here, delimiter);
            if matches!(segment, Segment::Literal { text, .. } if text != name) {
                return false;
            }
            rest = behind;
        }
        rest.is_none()
    }

    /// Whether something that matches may lie below `text`.
    pub(super) fn reaches_below(&self, text: &[u8], delimiter: u8) -> bool {
        let mut rest = Some(text);
        for segment in &self.segments {
            let Some(here) = rest else { return true };
            if *segment == Segment::Rest {
                return true;
            }
            let (name, behind) = cut(here, delimiter);
            if matches!(segment, Segment::Literal { text, .. } if text != name) {
                return false;
            }
            rest = behind;
        }
        false
    }

    /// Whether everything below `text` matches.
    pub(super) fn covers_below(&self, text: &[u8], delimiter: u8) -> bool {
        let mut rest = Some(text);
        for segment in &self.segments {
            if *segment == Segment::Rest {
                return true;
            }
            let Some(here) = rest else { return false };
            let (name, behind) = cut(here, delimiter);
            if matches!(segment, Segment::Literal { text, .. } if text != name) {
                return false;
            }
            rest = behind;
        }
        false
    }

    /// What the wildcards stand for in a text that matches, in order; what `**` stands for still has its delimiters.
    pub(super) fn captures<'a>(&'a self, text: &'a [u8], delimiter: u8) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = Some(text);
        self.segments.iter().filter_map(move |segment| {
            let here = rest?;
            if *segment == Segment::Rest {
                return Some(here);
            }
            let (name, behind) = cut(here, delimiter);
            rest = behind;
            (*segment == Segment::One).then_some(name)
        })
    }

    /// The literal path that every match is or lies below: `/` if the pattern begins with a wildcard.
    pub(super) fn root(&self) -> String {
        let mut root = String::new();
        for segment in &self.segments {
            let Segment::Literal { text, .. } = segment else { break };
            root.push('/');
            root.push_str(&String::from_utf8_lossy(text));
        }
        if root.is_empty() { "/".to_owned() } else { root }
    }

    /// The bytes that every match begins with; the whole key if the pattern has no wildcard.
    pub(super) fn key_prefix(&self, separator: &Separator) -> Vec<u8> {
        let mut prefix = Vec::new();
        for (at, segment) in self.segments.iter().enumerate() {
            if at > 0 {
                prefix.push(b'/');
            }
            let Segment::Literal { name, .. } = segment else { break };
            prefix.extend_from_slice(name);
        }
        separator.swap(prefix)
    }

    fn wildcards(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| matches!(segment, Segment::One | Segment::Rest))
    }
}

/// Whether two patterns have the same wildcards in the same order, without which no names could be carried over.
#[must_use]
pub fn same_wildcards(one: &Pattern, other: &Pattern) -> bool {
    one.wildcards().eq(other.wildcards())
}

/// What is Keepstep's own below this name.
const OURS: &[u8] = b"_keepstep";

/// Whether the key is Keepstep's own.
pub(super) fn is_reserved_key(key: &[u8]) -> bool {
    key.starts_with(b"_keepstep:")
}

/// Whether the path, given without its first `/`, is ZooKeeper's or Keepstep's own. Keepstep's may be in the middle: there is a
/// pipeline in a chroot.
pub(super) fn is_reserved_path(names: &[u8]) -> bool {
    cut(names, b'/').0 == b"zookeeper" || names.split(|byte| *byte == b'/').any(|name| name == OURS)
}

/// The first segment, and what follows the delimiter if there is one.
pub(super) fn cut(text: &[u8], delimiter: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| *byte == delimiter).and_then(|at| text.split_at_checked(at)) {
        Some((name, behind)) => (name, behind.get(1..)),
        None => (text, None),
    }
}

fn readable(segment: &[u8]) -> String {
    String::from_utf8_lossy(segment).into_owned()
}
