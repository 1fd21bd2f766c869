//! Points in time as signed milliseconds since 1970 (UTC), and their RFC 3339 texts.
//!
//! Written by hand, because every entry passes here twice and a date library costs several times as much; the tests
//! compare it with `chrono`.

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = DAY_MS;
/// A day, milliseconds.
pub const DAY_MS: i64 = 24 * 60 * MINUTE;

/// The wall clock.
pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Reads an RFC 3339 time with a zone, years 0000 to 9999. Digits beyond milliseconds are cut off, not rounded.
///
/// `T` and `Z` may be in lower case, and a space may stand for the `T`. A leap second (23:59:60 UTC) is the second that
/// follows it, as in POSIX time; `:60` anywhere else is no time.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let days = days_of(bytes)?;
    let time = bytes.get(10..19)?;
    if !matches!(time[0], b'T' | b't' | b' ') || time[3] != b':' || time[6] != b':' {
        return None;
    }
    let (hour, minute, second) = (two(&time[1..3], 23)?, two(&time[4..6], 59)?, two(&time[7..9], 60)?);
    let mut rest = &bytes[19..];
    let mut millis = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for i in 0..3 {
            millis = 10 * millis + fraction[..digits].get(i).map_or(0, |b| i64::from(b - b'0'));
        }
        rest = &fraction[digits..];
    }
    let offset = match rest {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), zone @ ..] if zone.len() == 5 && zone[2] == b':' => {
            let minutes = 60 * two(&zone[..2], 23)? + two(&zone[3..], 59)?;
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    let minute = days * DAY + (60 * hour + minute - offset) * MINUTE;
    if second == 60 && minute.rem_euclid(DAY) != DAY - MINUTE {
        return None;
    }
    Some(minute + second * SECOND + millis)
}

/// Reads a date (`2024-01-31`): midnight UTC at its start.
pub fn parse_date(text: &str) -> Option<i64> {
    (text.len() == 10).then(|| days_of(text.as_bytes()))?.map(|days| days * DAY)
}

/// Appends `2024-01-31T00:00:00.000Z`. Years outside 0000–9999 get a sign, as in ISO 8601.
pub fn write_rfc3339(ms: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(ms.div_euclid(DAY));
    let of_day = ms.rem_euclid(DAY);
    if (0..=9999).contains(&year) {
        push_digits(out, year, 4);
    } else {
        out.extend_from_slice(format!("{year:+05}").as_bytes());
    }
    for (before, n, width) in [
        (b'-', month, 2),
        (b'-', day, 2),
        (b'T', of_day / (60 * MINUTE), 2),
        (b':', of_day / MINUTE % 60, 2),
        (b':', of_day / SECOND % 60, 2),
        (b'.', of_day % SECOND, 3),
    ] {
        out.push(before);
        push_digits(out, n, width);
    }
    out.push(b'Z');
}

/// The text of [`write_rfc3339`].
pub fn rfc3339(ms: i64) -> String {
    let mut out = Vec::with_capacity(24);
    write_rfc3339(ms, &mut out);
    String::from_utf8(out).expect("digits and signs are ASCII")
}

fn push_digits(out: &mut Vec<u8>, n: i64, width: u32) {
    out.extend((0..width).rev().map(|i| b'0' + (n / 10i64.pow(i) % 10) as u8));
}

fn two(bytes: &[u8], max: i64) -> Option<i64> {
    number(bytes).filter(|n| *n <= max)
}

fn number(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| 10 * n + i64::from(b - b'0')))
}

/// Days since 1970 of the `YYYY-MM-DD` that `bytes` starts with.
fn days_of(bytes: &[u8]) -> Option<i64> {
    let date = bytes.get(..10).filter(|d| d[4] == b'-' && d[7] == b'-')?;
    let (year, month, day) = (number(&date[..4])?, number(&date[5..7])?, number(&date[8..])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) {
        return None;
    }
    // Years begin in March here, so that the leap day is the last one; an era is 400 years.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// Year, month and day of a day since 1970; the inverse of [`days_of`].
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_with_a_zone_are_read_and_cut_to_milliseconds() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.999999999Z", 999),
            ("1969-12-31T23:59:59.9999Z", -1),
            ("1969-12-31T23:59:59.0009Z", -1000),
            ("2024-02-29T12:00:00.5Z", 1_709_208_000_500),
            ("2024-02-29t12:00:00z", 1_709_208_000_000),
            ("2024-02-29 12:00:00+00:00", 1_709_208_000_000),
            ("2024-02-29T17:30:00.123+05:30", 1_709_208_000_123),
            ("2024-02-29T00:00:00-12:00", 1_709_208_000_000),
            ("2024-02-29T12:00:00-00:00", 1_709_208_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000),
            ("2017-01-01T05:29:60.25+05:30", 1_483_228_800_250),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ] {
            assert_eq!(parse_rfc3339(text), Some(ms), "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_time() {
        for text in [
            "",
            "now",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+0100",
            "2024-01-01T00:00:00+1",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00+01:60",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:61Z",
            "2024-01-01T00:00:60Z",
            "2024-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "+2024-01-01T00:00:00Z",
            "12024-01-01T00:00:00Z",
            "2024-01-01T00:00:00Zé",
            "2024-01-01T00:00:00é",
            "２024-01-01T00:00:00Z",
            "2024-01-01T00:00:00Z ",
            "1704067200",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn dates_are_midnight() {
        assert_eq!(parse_date("2024-02-29"), Some(1_709_164_800_000));
        assert_eq!(parse_date("1970-01-01"), Some(0));
        for bad in ["", "2024-2-9", "2024-02-30", "2024-02-29Z", "2024-02-29T00:00:00Z", "20240229", "aaaa-bb-cc"] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn years_of_more_than_four_digits_are_written_with_a_sign() {
        assert_eq!(rfc3339(253_402_300_800_000), "+10000-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(-62_167_219_200_001), "-0001-12-31T23:59:59.999Z");
        rfc3339(i64::MAX);
        rfc3339(i64::MIN);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn written_times_agree_with_chrono_and_read_back(ms in -62_167_219_200_000i64..=253_402_300_799_999) {
            let text = rfc3339(ms);
            let chrono = chrono::DateTime::from_timestamp_millis(ms).expect("in range");
            prop_assert_eq!(&text, &chrono.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
            prop_assert_eq!(parse_rfc3339(&text), Some(ms));
        }

        #[test]
        fn read_times_agree_with_chrono(text in "(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|z|[+-][0-2][0-9]:[0-6][0-9])") {
            let ours = parse_rfc3339(&text);
            let chrono = chrono::DateTime::parse_from_rfc3339(&text).ok().map(|t| t.timestamp_millis());
            prop_assert_eq!(ours, chrono);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = (parse_rfc3339(&text), parse_date(&text));
        }
    }
}
