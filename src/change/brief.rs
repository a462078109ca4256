//! Texts for people, shortened: a name may have half a megabyte, and no error and no line of the log is longer than 1 kB.

use std::borrow::Cow;

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
    fn a_name_that_is_not_utf_8_is_short_too() {
        for length in [10, NAME_BYTES, NAME_BYTES + 1, 10_000] {
            let brief = name(&vec![0xff; length]);
            assert!(brief.len() <= TEXT_BYTES, "{length}: {}", brief.len());
        }
    }
}
