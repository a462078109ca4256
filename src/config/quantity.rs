//! Durations and sizes as a pipeline file writes them.

use std::time::Duration;

/// Units of time with their milliseconds, the longest name first so that `ms` is not read as `m`.
const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Units of size with their bytes.
const SIZE_UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// What a duration looks like, for errors.
pub(super) const DURATION_FORM: &str = "a whole number with a unit, `ms`, `s`, `m`, `h` or `d`, such as `10s`";

/// What a size looks like, for errors.
pub(super) const SIZE_FORM: &str =
    "a whole number of bytes or with a unit, `KiB`, `MiB`, `GiB`, `TiB`, `KB`, `MB`, `GB` or `TB`, such as `64MiB`";

/// Reads `5ms`, `10s`, `2m`, `1h`, `7d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let (_, factor) = TIME_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor).map(Duration::from_millis)
}

/// Reads `512KiB`, `1GiB`, `10MB`, `4096`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// The number and the unit after it; a space between them is allowed.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

/// Writes a duration: in days or hours if that is exact, else in seconds (`60s`, as the contract
/// has it), else in milliseconds.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let fitting = [("d", 86_400_000), ("h", 3_600_000), ("s", 1_000)];
    match fitting.iter().find(|(_, factor)| millis > 0 && millis.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", millis / factor),
        None => format!("{millis}ms"),
    }
}

/// Writes a size in the largest binary unit that is exact.
pub(super) fn show_size(bytes: u64) -> String {
    let fitting = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match fitting.iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_show() {
        for (text, millis, shown) in [
            ("5ms", 5, "5ms"),
            ("10s", 10_000, "10s"),
            ("60s", 60_000, "60s"),
            ("2m", 120_000, "120s"),
            ("1h", 3_600_000, "1h"),
            ("7d", 604_800_000, "7d"),
            ("0s", 0, "0ms"),
            ("1500ms", 1_500, "1500ms"),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(show_duration(Duration::from_millis(millis)), shown);
        }
        for text in
            ["", "10", "s", "-1s", "1.5s", "10 seconds", "10S", "1w", "99999999999999999999s", "99999999999999999d"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_read_and_show() {
        for (text, bytes, shown) in [
            ("0", 0, "0"),
            ("4096", 4096, "4KiB"),
            ("512KiB", 524_288, "512KiB"),
            ("64MiB", 67_108_864, "64MiB"),
            ("1GiB", 1_073_741_824, "1GiB"),
            ("1KB", 1_000, "1000"),
            ("1 GB", 1_000_000_000, "1000000000"),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
            assert_eq!(show_size(bytes), shown);
        }
        for text in ["", "KiB", "1kib", "1K", "-1", "1.5GiB", "99999999999TiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
