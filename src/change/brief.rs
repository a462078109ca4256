//! Texts for people, shortened: a name may have half a megabyte, and no error and no line of the log is longer than 1 kB.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Bytes of a name in a text. Two names, a sentence, and what a line of the log begins with are below 1 kB.
pub const NAME_BYTES: usize = 200;

/// Bytes of a whole text: what a line of the log adds to it leaves the line below 1 kB.
pub const TEXT_BYTES: usize = 800;

/// A path or a key for a text: with its beginning, its end and its length if it is long.
#[must_use]
pub fn name(name: &(impl AsRef<[u8]> + ?Sized)) -> String {
    let name = name.as_ref();
    if name.len() <= NAME_BYTES {
        return text(&String::from_utf8_lossy(name)).into_owned();
    }
    // What is not UTF-8 grows to three times its length.
    let (head, tail) = (name.get(..NAME_BYTES / 2), name.get(name.len() - NAME_BYTES / 6..));
    let [head, tail] = [head, tail].map(|part| String::from_utf8_lossy(part.unwrap_or_default()).into_owned());
    format!("{}…{} ({} bytes)", head.trim_end_matches('\u{fffd}'), tail.trim_start_matches('\u{fffd}'), name.len())
}

/// A text without its middle if it is long.
#[must_use]
pub fn text(text: &str) -> Cow<'_, str> {
    shortened(text, TEXT_BYTES)
}

/// A text without its middle if it has more than so many bytes.
#[must_use]
pub fn shortened(text: &str, bytes: usize) -> Cow<'_, str> {
    const MARK: &str = " … ";
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let left = bytes.saturating_sub(MARK.len());
    let mut head = left / 2;
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    let mut tail = text.len() - left.div_ceil(2);
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    let (head, tail) = (text.get(..head).unwrap_or_default(), text.get(tail..).unwrap_or_default());
    Cow::Owned([head, MARK, tail].concat())
}

/// A number with the word for one or for many: `1 pair`, `2 pairs`.
#[must_use]
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A text without control characters, ends of lines included, and without those that nobody sees or that change the direction of
/// writing: each is escaped. What others write (a server's error, a name, a file's name) is shown by this alone.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || is_format(letter) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(letter));
        } else {
            out.push(letter);
        }
    }
    out
}

/// The general categories Cf, Zl and Zp of Unicode.
fn is_format(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0001}'..='\u{e007f}')
}

/// A text of others as one line below 1 kB.
#[must_use]
pub fn line(text: &str) -> String {
    // What is far too long is cut first: escaping makes it longer.
    shortened(&printable(&shortened(text, LINE_BYTES)), LINE_BYTES).into_owned()
}

/// Bytes of such a line.
const LINE_BYTES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_stay_and_long_ones_lose_their_middle() {
        assert_eq!(name("/settings/a"), "/settings/a");
        let long = format!("/s/{}é", "x".repeat(530_000));
        let brief = name(&long);
        assert!(brief.starts_with("/s/xxx") && brief.contains("xé (530005 bytes)"), "{brief}");
        assert!(brief.len() <= NAME_BYTES, "{}", brief.len());
        assert_eq!(text("a sentence"), "a sentence");
        for text in ["é".repeat(5000), format!("a{}", "€".repeat(5000)), "x".repeat(TEXT_BYTES + 1)] {
            let brief = self::text(&text);
            assert!(brief.len() <= TEXT_BYTES && brief.len() > TEXT_BYTES - 8, "{}", brief.len());
            assert!(brief.contains(" … "));
        }
    }

    #[test]
    fn nothing_of_others_steers_a_terminal_or_hides() {
        assert_eq!(printable("a\u{1b}[31mb\u{9b}c\u{202e}d"), "a\\u{1b}[31mb\\u{9b}c\\u{202e}d");
        for hidden in ['\n', '\r', '\u{7f}', '\u{2028}', '\u{61c}', '\u{200b}', '\u{200d}', '\u{feff}', '\u{e0041}'] {
            assert!(!printable(&format!("a{hidden}b")).contains(hidden), "{hidden:?}");
        }
        assert_eq!(printable("größe 大 🦀"), "größe 大 🦀");
        let line = line(&"\u{1b}[31mx\n".repeat(20_000));
        assert!(line.len() <= LINE_BYTES && !line.contains(['\u{1b}', '\n']), "{}", line.len());
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_short_too() {
        for length in [10, NAME_BYTES, NAME_BYTES + 1, 10_000] {
            let brief = name(&vec![0xff; length]);
            assert!(brief.len() <= TEXT_BYTES, "{length}: {}", brief.len());
        }
    }
}
