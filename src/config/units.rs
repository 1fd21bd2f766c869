//! Sizes and spans of time as people write them: `64MiB`, `250ms`.

use std::time::Duration;

/// Units of size, largest first. Binary ones only: `MB` would leave open what is meant.
const SIZES: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// Units of time, largest first, in milliseconds.
const SPANS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a size: a whole number and a unit (any case), or a plain number of bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = if unit.is_empty() { 1 } else { factor_of(unit, &SIZES)? };
    number.checked_mul(factor)
}

/// Reads a span of time: a whole number and a unit (`ms`, `s`, `m`, `h`, `d`).
pub fn parse_span(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    number.checked_mul(factor_of(unit, &SPANS)?).map(Duration::from_millis)
}

/// Writes a size in its largest whole unit.
pub fn size(bytes: u64) -> String {
    whole(bytes, &SIZES)
}

/// Writes a span of whole milliseconds in its largest whole unit.
pub fn span(span: Duration) -> String {
    whole(span.as_millis() as u64, &SPANS)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn factor_of(unit: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor)
}

fn whole(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |factor: u64| value >= factor && value.is_multiple_of(factor);
    let smallest = units.last().expect("there are units");
    let (name, factor) = units.iter().find(|(_, factor)| fits(*factor)).unwrap_or(smallest);
    format!("{}{name}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_read_as_people_write_them() {
        for (text, bytes) in [("0", 0), ("10", 10), ("7B", 7), ("64MiB", 64 << 20), (" 2 gib ", 2 << 30), ("1TiB", 1 << 40)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_span(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "MiB",
            "-1",
            "1.5MiB",
            "1MB",
            "1 Mi B",
            "99999999999999999999",
            "18446744073709551615KiB",
            "1e3",
            "0x10",
            "١",
        ] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
        for bad in ["", "1", "s", "-1s", "1.5s", "1min", "1 week", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_span(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1025, 64 << 20, (64 << 20) + 1, 3 << 40, u64::MAX] {
            assert_eq!(parse_size(&size(bytes)), Some(bytes));
        }
        for millis in [0, 1, 999, 1000, 60_000, 90_000, 3_600_000, 86_400_000] {
            let value = Duration::from_millis(millis);
            assert_eq!(parse_span(&span(value)), Some(value));
        }
        assert_eq!((size(64 << 20), span(Duration::from_secs(90))), ("64MiB".to_owned(), "90s".to_owned()));
    }
}
