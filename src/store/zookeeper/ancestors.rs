//! Which ancestor of a path is the nearest that exists: a znode exists only below one that does, so
//! halving finds it.
//!
//! Everything here is by the length of an ancestor's path: a path of a thousand levels is in memory
//! once, not once for each level.

use crate::env::Map;

/// The ancestors of a path, and what is known of them. The root is the first, the parent the last.
pub(super) struct Ancestors<'a> {
    path: &'a str,
    /// Bytes of each ancestor's path.
    ends: Vec<usize>,
    /// So many of them exist, and those from `missing` on do not.
    exist: usize,
    missing: usize,
}

impl<'a> Ancestors<'a> {
    /// Nothing is known yet.
    pub(super) fn of(path: &'a str) -> Ancestors<'a> {
        let slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at.max(1));
        let ends: Vec<usize> = if path.len() > 1 { slashes.collect() } else { Vec::new() };
        Ancestors { path, exist: 0, missing: ends.len(), ends }
    }

    fn get(&self, nth: usize) -> Option<&'a str> {
        self.path.get(..*self.ends.get(nth)?)
    }

    /// All of them, the parent first.
    pub(super) fn nearest_first(&self) -> impl Iterator<Item = (usize, &'a str)> + use<'a, '_> {
        (0..self.ends.len()).rev().filter_map(|nth| Some((nth, self.get(nth)?)))
    }

    /// The one to be asked about next: the parent, which mostly is there, then the one in the
    /// middle of what is left. `None` when all is known.
    pub(super) fn next(&self) -> Option<(usize, &'a str)> {
        if self.exist == self.missing {
            return None;
        }
        let is_first = self.missing == self.ends.len();
        let nth = if is_first { self.missing - 1 } else { usize::midpoint(self.exist, self.missing) };
        Some((nth, self.get(nth)?))
    }

    /// Notes whether this one exists.
    pub(super) fn note(&mut self, nth: usize, exists: bool) {
        if exists {
            self.exist = self.exist.max(nth + 1).min(self.missing);
        } else {
            self.missing = self.missing.min(nth).max(self.exist);
        }
    }

    /// The nearest one that exists, when all is known.
    pub(super) fn nearest(&self) -> Option<&'a str> {
        self.get(self.exist.checked_sub(1)?)
    }

    /// The bytes of the paths of those that are missing, top first. The root cannot be created.
    pub(super) fn missing(&self) -> Vec<usize> {
        self.ends.get(self.missing.max(1)..).unwrap_or_default().to_vec()
    }
}

/// Tells all of them what was found so far, and answers what they have to ask next, each path once.
/// Nothing: all is known.
pub(super) fn unknown<'a: 'b, 'b, T>(
    all: impl Iterator<Item = &'b mut Ancestors<'a>>,
    found: &Map<&'a str, Option<T>>,
) -> Vec<&'a str> {
    let mut ask: Vec<&str> = Vec::new();
    for ancestors in all {
        while let Some((nth, path)) = ancestors.next() {
            let Some(known) = found.get(path) else {
                ask.push(path);
                break;
            };
            ancestors.note(nth, known.is_some());
        }
    }
    ask.sort_unstable();
    ask.dedup();
    ask
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finds the nearest of the ancestors that exist; with how many questions.
    fn search<'a>(path: &'a str, exists: &dyn Fn(&str) -> bool) -> (Option<&'a str>, Vec<&'a str>, usize) {
        let mut ancestors = Ancestors::of(path);
        let mut asked = 0;
        while let Some((nth, ancestor)) = ancestors.next() {
            asked += 1;
            ancestors.note(nth, exists(ancestor));
        }
        let missing = ancestors.missing().into_iter().filter_map(|end| path.get(..end)).collect();
        (ancestors.nearest(), missing, asked)
    }

    #[test]
    fn the_nearest_ancestor_is_found_wherever_it_is() {
        for levels in 1..40 {
            let path = "/ab".repeat(levels);
            for there in 0..levels {
                let nearest = if there == 0 { "/" } else { path.get(..3 * there).unwrap_or_default() };
                let (found, missing, _) = search(&path, &|ancestor| ancestor.len() <= nearest.len());
                assert_eq!(found, Some(nearest), "{path}");
                let expected: Vec<&str> = (there + 1..levels).filter_map(|level| path.get(..3 * level)).collect();
                assert_eq!(missing, expected, "{path}");
            }
        }
    }

    #[test]
    fn a_parent_that_exists_takes_one_question_and_thirty_thousand_levels_take_few() {
        assert_eq!(search("/a/b/c", &|_| true), (Some("/a/b"), Vec::new(), 1));
        let deep = "/x".repeat(30_000);
        let (nearest, missing, asked) = search(&deep, &|ancestor| ancestor.len() <= 2);
        assert_eq!((nearest, missing.len()), (Some("/x"), 29_998));
        assert!(asked < 20, "{asked} questions");
    }

    #[test]
    fn a_root_that_is_missing_and_a_path_without_ancestors_come_to_an_end() {
        assert_eq!(search("/a/b", &|_| false), (None, vec!["/a"], 2));
        assert_eq!(search("/", &|_| true), (None, Vec::new(), 0));
        assert_eq!(search("/a", &|_| true), (Some("/"), Vec::new(), 1));
    }
}
