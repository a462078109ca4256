//! Patterns of keys and channels, as `stringmatchlen` of Redis matches them.

/// Whether the text matches the pattern as a whole.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return text.is_empty() };
    match first {
        b'*' => (0..=text.len()).any(|skipped| matches(rest, &text[skipped..])),
        b'?' => !text.is_empty() && matches(rest, &text[1..]),
        b'[' => {
            let Some(letter) = text.first() else { return false };
            let (is_in, rest) = class(rest, *letter);
            is_in && matches(rest, &text[1..])
        }
        b'\\' if !rest.is_empty() => text.first() == rest.first() && matches(&rest[1..], &text[1..]),
        letter => text.first() == Some(letter) && matches(rest, &text[1..]),
    }
}

/// Whether the letter is in the class whose `[` was read, and what follows the class.
fn class(mut pattern: &[u8], letter: u8) -> (bool, &[u8]) {
    let is_negated = pattern.first() == Some(&b'^');
    if is_negated {
        pattern = &pattern[1..];
    }
    let mut is_in = false;
    loop {
        match pattern {
            [] => break,
            [b']', rest @ ..] => {
                pattern = rest;
                break;
            }
            [b'\\', escaped, rest @ ..] => {
                is_in |= *escaped == letter;
                pattern = rest;
            }
            [low, b'-', high, rest @ ..] => {
                is_in |= (*low.min(high)..=*low.max(high)).contains(&letter);
                pattern = rest;
            }
            [one, rest @ ..] => {
                is_in |= *one == letter;
                pattern = rest;
            }
        }
    }
    (is_in != is_negated, pattern)
}
