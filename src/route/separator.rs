//! Separators: what `/` becomes in a key, and the involution that lets the two change places.
//!
//! For one byte, `/` and the separator simply change places. A longer separator `S` may overlap itself: with `::`, both
//! `a:` + `/` + `b` and `a/` + `:b` would become `a:::b`. It can only go wrong where a `/` stands behind a prefix `p`
//! of `S` for which `p` + `S` begins with `S` again (`:` for `::`; there is none for `->`). Exactly there nothing
//! changes places: `a:/b` stays `a:/b`. Read from the left, a string then has the tokens `S`, `/`, `p/` and single
//! bytes, swapping the first two leaves every token where it was, and so the swap undoes itself for every separator
//! without `/`.

use super::error::PatternError;

/// Longest separator, in bytes. Long enough for every habit seen in the wild (`:`, `.`, `::`, `->`), short enough to
/// scan.
const SEPARATOR_BYTES_MAX: usize = 8;

/// Says why a separator cannot be used, if it cannot.
///
/// # Errors
/// [`PatternError::Separator`] for an empty one, more than 8 bytes, a control character, `/`, `*` or `%`.
pub fn check_separator(text: &str) -> Result<(), PatternError> {
    let reason = if text.is_empty() {
        "a separator cannot be empty"
    } else if text.len() > SEPARATOR_BYTES_MAX {
        "a separator has at most 8 bytes"
    } else if text.chars().any(char::is_control) {
        "a separator has no control characters"
    } else if text.contains(['/', '*', '%']) {
        "a separator holds none of `/`, `*` and `%`"
    } else {
        return Ok(());
    };
    Err(PatternError::Separator(reason))
}

/// A separator, ready to swap.
#[derive(Debug, Clone)]
pub(super) struct Separator {
    bytes: Vec<u8>,
    /// Lengths of the prefixes `p` behind which a `/` stays.
    overlaps: Vec<usize>,
}

impl Separator {
    /// Of a text that [`check_separator`] takes.
    pub(super) fn new(text: &str) -> Result<Separator, PatternError> {
        check_separator(text)?;
        let bytes = text.as_bytes().to_vec();
        let overlaps = (1..bytes.len())
            .filter(|length| bytes.get(*length..).is_some_and(|suffix| bytes.starts_with(suffix)))
            .collect();
        Ok(Separator { bytes, overlaps })
    }

    /// The byte, if it is a single one: then a key can be read where it lies.
    pub(super) fn single(&self) -> Option<u8> {
        match self.bytes.as_slice() {
            [byte] => Some(*byte),
            _ => None,
        }
    }

    /// `text` with `/` and the separator in each other's place. Applied twice it changes nothing.
    pub(super) fn swap(&self, mut text: Vec<u8>) -> Vec<u8> {
        if let Some(single) = self.single() {
            for byte in &mut text {
                if *byte == b'/' {
                    *byte = single;
                } else if *byte == single {
                    *byte = b'/';
                }
            }
            return text;
        }
        let mut out = Vec::with_capacity(text.len() + self.bytes.len() * 4);
        let mut rest = text.as_slice();
        while let Some((byte, behind)) = rest.split_first() {
            if *byte == b'/' {
                out.extend_from_slice(&self.bytes);
                rest = behind;
            } else if let Some(behind) = rest.strip_prefix(self.bytes.as_slice()) {
                out.push(b'/');
                rest = behind;
            } else if let Some(length) = self.overlap(rest) {
                let (kept, behind) = rest.split_at_checked(length + 1).unwrap_or((rest, &[]));
                out.extend_from_slice(kept);
                rest = behind;
            } else {
                out.push(*byte);
                rest = behind;
            }
        }
        out
    }

    /// Length of the prefix of the separator that `text` begins with, if a `/` follows that has to stay.
    fn overlap(&self, text: &[u8]) -> Option<usize> {
        self.overlaps.iter().copied().find(|length| {
            text.get(*length) == Some(&b'/') && text.get(..*length).is_some_and(|prefix| self.bytes.starts_with(prefix))
        })
    }
}
