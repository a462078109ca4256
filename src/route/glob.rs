//! Redis' own glob, over bytes: what `KEYS` and `SCAN … MATCH` understand, and so what `--key` does.
//!
//! `*` any bytes, `?` one byte, `[abc]` one of these, `[^a]` any other, `[a-z]` a range in either order, `\x` the byte
//! itself; a class that is not closed ends with the pattern. Redis' `stringmatchlen` (`src/util.c`) is recursive; this
//! one goes back to the last `*` only, which finds the same, as everything but `*` takes exactly one byte.

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<u8>);

impl std::str::FromStr for Glob {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Glob, Self::Err> {
        Ok(Glob(text.as_bytes().to_vec()))
    }
}

/// Whether the whole key matches the pattern.
#[must_use]
pub fn matches(pattern: &[u8], key: &[u8]) -> bool {
    Glob(pattern.to_vec()).matches(key)
}

impl Glob {
    /// The pattern as it was given.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// Whether the whole key matches.
    pub fn matches(&self, key: &[u8]) -> bool {
        let (mut pattern, mut rest): (&[u8], &[u8]) = (&self.0, key);
        // Where to go on when what follows the last `*` does not match here: one byte further.
        let mut retry: Option<(&[u8], &[u8])> = None;
        loop {
            if let Some(after) = pattern.strip_prefix(b"*") {
                pattern = after;
                retry = Some((pattern, rest));
                continue;
            }
            match rest.split_first() {
                None if pattern.is_empty() => return true,
                // Nothing left to match; going back only makes it less.
                None => return false,
                Some((byte, after)) => match one(pattern, *byte) {
                    Some(next) => (pattern, rest) = (next, after),
                    None => {
                        let Some((after_star, start)) = retry else { return false };
                        let Some((_, start)) = start.split_first() else { return false };
                        retry = Some((after_star, start));
                        (pattern, rest) = (after_star, start);
                    }
                },
            }
        }
    }
}

/// Matches one byte with what the pattern begins with; `Some` is the rest of the pattern.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', class @ ..] => class_matches(class, byte),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte).then_some(rest),
    }
}

/// Matches one byte with a class, which begins after its `[`.
fn class_matches(class: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut class) = class.strip_prefix(b"^").map_or((false, class), |class| (true, class));
    let mut found = false;
    let rest = loop {
        class = match class {
            [] => break class,
            [b']', rest @ ..] => break rest,
            [b'\\', literal, rest @ ..] => {
                found |= *literal == byte;
                rest
            }
            [low, b'-', high, rest @ ..] => {
                found |= (*low.min(high)..=*low.max(high)).contains(&byte);
                rest
            }
            [literal, rest @ ..] => {
                found |= *literal == byte;
                rest
            }
        };
    };
    (found != negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, key: &str) -> bool {
        Glob(pattern.as_bytes().to_vec()).matches(key.as_bytes())
    }

    #[test]
    fn a_star_takes_any_bytes_and_a_question_mark_one() {
        for (pattern, key) in [
            ("*", ""),
            ("*", "a:b"),
            ("a*", "a"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c*e", "abcde"),
            ("a**c", "abc"),
            ("a?c", "abc"),
            ("settings:**", "settings:a:b"),
            ("*a*b", "aab"),
            ("*ab", "aaab"),
            ("h*llo*", "heeeello"),
        ] {
            assert!(matches(pattern, key), "{pattern} {key}");
        }
        for (pattern, key) in
            [("a*", "ba"), ("a?c", "ac"), ("", "a"), ("a", ""), ("?", ""), ("*a", "ab"), ("a*c", "abcd")]
        {
            assert!(!matches(pattern, key), "{pattern} {key}");
        }
    }

    #[test]
    fn a_class_takes_one_byte_of_a_set_or_a_range() {
        for (pattern, key) in [
            ("h[ae]llo", "hello"),
            ("h[^e]llo", "hallo"),
            ("h[a-c]llo", "hbllo"),
            ("h[c-a]llo", "hbllo"),
            ("[\\]]", "]"),
            ("[a-]", "]"),
            ("[abc", "b"),
            ("[^a-c]", "d"),
            ("[a\\-z]", "-"),
            ("*[0-9]", "x1"),
        ] {
            assert!(matches(pattern, key), "{pattern} {key}");
        }
        for (pattern, key) in
            [("h[ae]llo", "hillo"), ("h[^e]llo", "hello"), ("[]", "a"), ("[a\\-z]", "m"), ("[abc", "d"), ("[a]", "ab")]
        {
            assert!(!matches(pattern, key), "{pattern} {key}");
        }
    }

    #[test]
    fn a_backslash_takes_the_next_byte_as_it_is() {
        assert!(matches("a\\*b", "a*b") && !matches("a\\*b", "axb"));
        assert!(matches("a\\", "a\\"));
        assert!(matches("\\[x]", "[x]"));
    }

    #[test]
    fn bytes_that_are_not_utf8_match() {
        assert!(Glob(b"k*".to_vec()).matches(&[b'k', 0xff, 0]));
        assert!(Glob(vec![b'k', 0xff]).matches(&[b'k', 0xff]));
    }

    #[test]
    fn many_stars_do_not_take_exponential_time() {
        let pattern = "a*".repeat(40) + "b";
        assert!(!matches(&pattern, &"a".repeat(5_000)));
    }
}
