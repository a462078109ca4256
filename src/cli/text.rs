//! Names, values and times as text for people. A terminal shows the text and is never controlled by
//! it.

pub(super) use crate::change::brief::{count, printable};
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

/// Characters of a value that the text form shows; `--format json` shows all.
const VALUE_CHARACTERS_MAX: usize = 200;

/// A store's or a pair's name: as it is, or `base64:…`.
pub(super) fn name(name: &Value) -> String {
    match name {
        Value::String(text) => printable(text),
        Value::Object(object) => match object.get("base64") {
            Some(Value::String(encoded)) => format!("base64:{encoded}"),
            _ => printable(&name.to_string()),
        },
        other => printable(&other.to_string()),
    }
}

/// A pair: both names, or the only one.
pub(super) fn pair(row: &Value) -> String {
    let names = row.get("pair").and_then(Value::as_object);
    let known: Vec<String> =
        names.into_iter().flat_map(|names| names.values()).filter(|it| !it.is_null()).map(name).collect();
    known.join(" = ")
}

/// A value: quoted and shortened, or `absent`.
pub(super) fn value(value: &Value) -> String {
    let full = match value {
        Value::Null => return "absent".to_owned(),
        Value::Object(object) if object.len() == 1 && object.get("base64").is_some_and(Value::is_string) => name(value),
        other => printable(&other.to_string()),
    };
    match full.char_indices().nth(VALUE_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}… ({} characters)", full.get(..end).unwrap_or_default(), full.chars().count()),
        None => full,
    }
}

/// A field as text; empty if it is absent.
pub(super) fn field(row: &Value, name: &str) -> String {
    match row.get(name) {
        Some(Value::String(text)) => printable(text),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// Milliseconds since the epoch as RFC 3339 with milliseconds.
pub(super) fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| format!("{time:.3}"))
}

/// The field's milliseconds as RFC 3339.
pub(super) fn time_of(row: &Value, name: &str) -> String {
    row.get(name).and_then(Value::as_i64).map_or_else(String::new, time)
}

/// How long ago `ms` was.
pub(super) fn ago(ms: i64, now_ms: i64) -> String {
    let seconds = now_ms.saturating_sub(ms).max(0) / 1000;
    match seconds {
        0..=119 => format!("{seconds} s ago"),
        120..=7199 => format!("{} min ago", seconds / 60),
        7200..=172_799 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// A duration as a pipeline file writes it: in the largest unit that divides it, except that one
/// minute is `60s` and one hour `60m`.
pub(super) fn duration(duration: std::time::Duration) -> String {
    let ms = duration.as_millis();
    for (unit, size, least) in [("d", 86_400_000, 1), ("h", 3_600_000, 2), ("m", 60_000, 2), ("s", 1000, 1)] {
        if ms >= least * size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

/// A wider cell does not widen its column: it moves the rest of its own row. A cell is never cut.
const CELL_WIDTH_MAX: usize = 60;

/// Columns that a terminal needs for the text: two for a wide character (as in Chinese), none for a
/// combining one.
pub(super) fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// The cell, followed by spaces up to this width. (A width in a format string ends at 65,535, and
/// names may be longer.)
pub(super) fn padded(cell: &str, to: usize) -> String {
    let blanks = to.saturating_sub(width(cell));
    let mut out = String::with_capacity(cell.len() + blanks);
    out.push_str(cell);
    out.extend(std::iter::repeat_n(' ', blanks));
    out
}

/// Rows in columns, each as wide as its widest cell (60 at most). The last column is not padded.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let wide = width(cell).min(CELL_WIDTH_MAX);
            match widths.get_mut(column) {
                Some(width) => *width = (*width).max(wide),
                None => widths.push(wide),
            }
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, to) in row.iter().zip(&widths) {
            line.push_str(&padded(cell, *to));
            line.push_str("  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn a_value_cannot_control_a_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\u{9b}c\u{202e}d"), "a\\u{1b}[31mb\\u{9b}c\\u{202e}d");
        assert!(!value(&json!("\u{1b}]0;x\u{7}")).contains('\u{1b}'));
    }

    #[test]
    fn a_name_longer_than_any_screen_moves_its_own_row_only() {
        let long = "n".repeat(70_000);
        let rows = vec![vec![long.clone(), "x".to_owned()], vec!["short".to_owned(), "y".to_owned()]];
        assert_eq!(columns(&rows), format!("{long}  x\n{:<60}  y\n", "short"));
    }

    #[test]
    fn a_long_value_is_shortened_and_says_so() {
        let text = value(&json!("ä".repeat(1000)));
        assert!(text.ends_with("… (1002 characters)"), "{text}");
    }

    #[test]
    fn a_name_that_is_not_utf8_is_shown_as_base64() {
        assert_eq!(pair(&json!({"pair": {"zk": "/a", "cache": {"base64": "/w=="}}})), "/a = base64:/w==");
        assert_eq!(pair(&json!({"pair": {"zk": "/a", "cache": null}})), "/a");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(columns(&rows), "a    bb\nccc  d\n");
    }

    #[test]
    fn columns_line_up_by_the_width_that_a_terminal_shows() {
        let rows = [
            vec!["設定".to_owned(), "x".to_owned()],
            vec!["ab".to_owned(), "y".to_owned()],
            vec!["e\u{301}".to_owned(), "z".to_owned()],
        ];
        assert_eq!(columns(&rows), "設定  x\nab    y\ne\u{301}     z\n");
    }

    #[test]
    fn times_read_as_people_write_them() {
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(duration(Duration::from_secs(7 * 86_400)), "7d");
        assert_eq!(duration(Duration::from_millis(5)), "5ms");
        assert_eq!(duration(Duration::from_secs(60)), "60s");
        assert_eq!(duration(Duration::from_secs(90)), "90s");
        assert_eq!(ago(0, 3_600_000), "60 min ago");
    }
}
