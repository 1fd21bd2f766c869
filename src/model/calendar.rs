//! Buckets of time: where the bucket of an instant begins and ends, in a zone.
//!
//! An *edge* is an instant at which a bucket begins; a bucket is what lies between two edges that follow each other.
//!
//! * `s`, `m`, `h`, up to a day: edges are where the local clock shows a multiple of the width, counted from local midnight of 1970-01-01.
//!   When the clock jumps, the bucket around the jump is shorter or longer than others (6 h from midnight, on the day when
//!   02:00 becomes 03:00, are five hours), and an hour that the clock shows twice has its edges twice.
//! * `d`, `w`, `M`: edges are the first instants of local days: every N-th day counted from 1970-01-01, every N-th Monday
//!   from 1969-12-29, the first of every N-th month from January 1970.
//!
//! Zones are those of the IANA database built into the binary, or fixed offsets. Instants beyond what calendars can say
//! (years ±262,000) make edges without meaning. Plain arithmetic: nothing here blocks or fails.

use chrono::{DateTime, Datelike, Days, MappedLocalTime, Months, NaiveDate, NaiveDateTime, Offset, TimeZone, Utc};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// The longest width, so that no sum overflows: ten thousand years.
const LONGEST: i64 = 3_652_425 * DAY;

/// Whose clock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Always this far ahead of UTC, milliseconds.
    Fixed(i64),
    /// By the rules of a place.
    Named(chrono_tz::Tz),
}

impl Default for Zone {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl Zone {
    /// Reads an IANA name (`Europe/Vienna`, `UTC`), `Z`, or an offset `±HH:MM` of less than a day.
    pub fn parse(text: &str) -> Option<Self> {
        if matches!(text, "Z" | "UTC") {
            return Some(Self::Fixed(0));
        }
        if let Some(rest) = text.strip_prefix(['+', '-']) {
            let number = |part: &str, most: i64| -> Option<i64> {
                let plain = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
                plain.then(|| part.parse().ok()).flatten().filter(|n| *n <= most)
            };
            let (hours, minutes) = rest.split_once(':')?;
            let ahead = number(hours, 23)? * HOUR + number(minutes, 59)? * MINUTE;
            return Some(Self::Fixed(if text.starts_with('-') { -ahead } else { ahead }));
        }
        text.parse().ok().map(Self::Named)
    }

    /// Every name that [`Zone::parse`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name())
    }

    /// How far its clock is ahead of UTC at an instant, milliseconds.
    fn ahead(&self, at: i64) -> i64 {
        match (self, DateTime::<Utc>::from_timestamp_millis(at)) {
            (Self::Fixed(ahead), _) => *ahead,
            (Self::Named(zone), Some(at)) => seconds(zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()),
            (Self::Named(_), None) => 0,
        }
    }

    /// The first instant in (`low`, `high`] at which its clock is no longer as far ahead as at `low`. There is one, and the
    /// clock is set at most once between the two.
    fn jump(&self, low: i64, high: i64) -> i64 {
        let before = self.ahead(low);
        let (mut low, mut high) = (low, high);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.ahead(middle) == before {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }

    /// The first instant of a local day: midnight, or where the clock jumped over it the first moment after.
    fn begin(&self, day: NaiveDate) -> i64 {
        let midnight: NaiveDateTime = day.and_time(chrono::NaiveTime::MIN);
        let wall = midnight.and_utc().timestamp_millis();
        let Self::Named(zone) = self else { return wall - self.ahead(wall) };
        match zone.offset_from_local_datetime(&midnight) {
            MappedLocalTime::Single(offset) | MappedLocalTime::Ambiguous(offset, _) => wall - seconds(offset.fix().local_minus_utc()),
            // No zone is a day or more ahead, and none sets its clock twice in two days.
            MappedLocalTime::None => self.jump(wall - DAY, wall + DAY),
        }
    }

    /// What its clock shows, as if that were UTC.
    fn wall(&self, at: i64) -> i64 {
        at.saturating_add(self.ahead(at))
    }
}

fn seconds(n: i32) -> i64 {
    i64::from(n) * SECOND
}

/// What widths are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Milliseconds on the clock.
    Clock,
    /// Days; weeks are seven of them that begin on a Monday.
    Days {
        from: i64,
    },
    Months,
}

/// The width of buckets, and the zone whose clock they follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    unit: Unit,
    n: i64,
    zone: Zone,
}

impl Interval {
    /// What [`Interval::parse`] takes, for people.
    pub const SYNTAX: &'static str =
        "a whole number and one of s, m, h, d, w, M (months), like 30s, 5m, 1h, 1d, 1w or 1M; hours and less make up a day at most";

    /// Reads a width like `5m`.
    pub fn parse(text: &str, zone: Zone) -> Option<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, name) = text.split_at(digits);
        let n: i64 = number.parse().ok().filter(|n| *n >= 1)?;
        let (unit, n, length) = match name {
            "s" => (Unit::Clock, n.checked_mul(SECOND)?, 1),
            "m" => (Unit::Clock, n.checked_mul(MINUTE)?, 1),
            "h" => (Unit::Clock, n.checked_mul(HOUR)?, 1),
            "d" => (Unit::Days { from: 0 }, n, DAY),
            "w" => (Unit::Days { from: -3 }, n.checked_mul(7)?, DAY), // 1969-12-29 was a Monday
            "M" => (Unit::Months, n, 31 * DAY),
            _ => return None,
        };
        let longest = if unit == Unit::Clock { DAY } else { LONGEST };
        (n.checked_mul(length)? <= longest).then_some(Self { unit, n, zone })
    }

    /// The last edge at or before an instant.
    pub fn start_of(&self, at: i64) -> i64 {
        let zone = self.zone;
        match self.unit {
            Unit::Clock => {
                let edge = |at: i64| floor(zone.wall(at), self.n).saturating_sub(zone.ahead(at));
                let start = edge(at);
                if zone.ahead(start) == zone.ahead(at) {
                    return start;
                }
                // The clock was set in between, and shows no multiple since: the bucket began before.
                let jump = zone.jump(start, at);
                let after = ceil(zone.wall(jump), self.n) - zone.ahead(jump);
                if after <= at { after } else { edge(jump - 1) }
            }
            Unit::Days { from } => match date(zone.wall(at)) {
                Some(day) => self.day(floor(days(day) - from, self.n) + from).unwrap_or(at),
                None => at,
            },
            Unit::Months => match date(zone.wall(at)) {
                Some(day) => self.month(floor(months(day), self.n)).unwrap_or(at),
                None => at,
            },
        }
    }

    /// The first edge after an instant.
    pub fn next(&self, at: i64) -> i64 {
        let zone = self.zone;
        let next = match self.unit {
            Unit::Clock => {
                let next = floor(zone.wall(at), self.n).saturating_add(self.n).saturating_sub(zone.ahead(at));
                if zone.ahead(next) == zone.ahead(at) {
                    Some(next)
                } else {
                    let jump = zone.jump(at, next);
                    Some(ceil(zone.wall(jump), self.n) - zone.ahead(jump))
                }
            }
            Unit::Days { from } => date(zone.wall(at)).and_then(|day| self.day(floor(days(day) - from, self.n) + self.n + from)),
            Unit::Months => date(zone.wall(at)).and_then(|day| self.month(floor(months(day), self.n) + self.n)),
        };
        next.unwrap_or(i64::MAX).max(at.saturating_add(1))
    }

    /// The first instant of a day since 1970-01-01.
    fn day(&self, day: i64) -> Option<i64> {
        let date = match u64::try_from(day) {
            Ok(after) => EPOCH.checked_add_days(Days::new(after)),
            Err(_) => EPOCH.checked_sub_days(Days::new(day.unsigned_abs())),
        };
        date.map(|date| self.zone.begin(date))
    }

    /// The first instant of a month since January 1970.
    fn month(&self, month: i64) -> Option<i64> {
        let n = u32::try_from(month.unsigned_abs()).ok()?;
        let date = if month < 0 {
            EPOCH.checked_sub_months(Months::new(n))
        } else {
            EPOCH.checked_add_months(Months::new(n))
        };
        date.map(|date| self.zone.begin(date))
    }

    /// The first of [`Interval::LADDER`] of which `span` milliseconds take at most `most` buckets.
    pub fn that_fits(span: i64, most: i64) -> &'static str {
        // Two more: the span need not begin or end at an edge.
        let fits = |width: &&(&str, i64)| span / width.1 + 2 <= most;
        Self::LADDER.iter().find(fits).map_or("100M", |rung| rung.0)
    }

    /// Widths that people use, and their lengths (the shortest, for months).
    const LADDER: [(&'static str, i64); 16] = [
        ("1s", SECOND),
        ("5s", 5 * SECOND),
        ("15s", 15 * SECOND),
        ("30s", 30 * SECOND),
        ("1m", MINUTE),
        ("5m", 5 * MINUTE),
        ("15m", 15 * MINUTE),
        ("30m", 30 * MINUTE),
        ("1h", HOUR),
        ("3h", 3 * HOUR),
        ("6h", 6 * HOUR),
        ("12h", 12 * HOUR),
        ("1d", DAY),
        ("1w", 7 * DAY),
        ("1M", 28 * DAY),
        ("12M", 365 * DAY),
    ];
}

const EPOCH: NaiveDate = NaiveDate::from_ymd_opt(1970, 1, 1).expect("a date");

fn date(wall: i64) -> Option<NaiveDate> {
    DateTime::from_timestamp_millis(wall).map(|at| at.date_naive())
}

fn days(date: NaiveDate) -> i64 {
    date.signed_duration_since(EPOCH).num_days()
}

fn months(date: NaiveDate) -> i64 {
    (i64::from(date.year()) - 1970) * 12 + i64::from(date.month0())
}

/// The largest multiple of `n` that is at most `value`.
fn floor(value: i64, n: i64) -> i64 {
    value.saturating_sub(value.rem_euclid(n))
}

/// The smallest multiple of `n` that is at least `value`.
fn ceil(value: i64, n: i64) -> i64 {
    -floor(-value, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::{parse_rfc3339, rfc3339};
    use proptest::prelude::*;

    fn interval(width: &str, zone: &str) -> Interval {
        let zone = Zone::parse(zone).unwrap_or_else(|| panic!("{zone}"));
        Interval::parse(width, zone).unwrap_or_else(|| panic!("{width}"))
    }

    fn at(text: &str) -> i64 {
        parse_rfc3339(text).unwrap_or_else(|| panic!("{text}"))
    }

    /// The edges from the bucket of `from` on.
    fn edges(width: &str, zone: &str, from: &str, n: usize) -> Vec<String> {
        let interval = interval(width, zone);
        let all = std::iter::successors(Some(interval.start_of(at(from))), |edge| Some(interval.next(*edge)));
        all.take(n).map(|edge| rfc3339(edge)[..16].to_owned()).collect()
    }

    #[test]
    fn buckets_follow_the_local_clock_also_where_it_jumps() {
        for (width, zone, from, expected) in [
            (
                "1d",
                "UTC",
                "2024-02-28T05:00:00Z",
                &["2024-02-28T00:00", "2024-02-29T00:00", "2024-03-01T00:00"][..],
            ),
            ("1d", "+05:30", "2024-01-01T18:29:59Z", &["2023-12-31T18:30", "2024-01-01T18:30"]),
            ("1d", "-03:30", "2024-01-01T03:30:00Z", &["2024-01-01T03:30", "2024-01-02T03:30"]),
            // 2024-03-31: 02:00 becomes 03:00; 2024-10-27: 03:00 becomes 02:00.
            (
                "1d",
                "Europe/Vienna",
                "2024-03-30T23:00:00Z",
                &["2024-03-30T23:00", "2024-03-31T22:00", "2024-04-01T22:00"],
            ),
            (
                "1d",
                "Europe/Vienna",
                "2024-10-27T22:59:59Z",
                &["2024-10-26T22:00", "2024-10-27T23:00", "2024-10-28T23:00"],
            ),
            (
                "1h",
                "Europe/Vienna",
                "2024-03-31T00:30:00Z",
                &["2024-03-31T00:00", "2024-03-31T01:00", "2024-03-31T02:00"],
            ),
            (
                "1h",
                "Europe/Vienna",
                "2024-10-27T00:10:00Z",
                &["2024-10-27T00:00", "2024-10-27T01:00", "2024-10-27T02:00"],
            ),
            (
                "6h",
                "Europe/Vienna",
                "2024-03-31T03:59:59Z",
                &["2024-03-30T23:00", "2024-03-31T04:00", "2024-03-31T10:00"],
            ),
            (
                "6h",
                "Europe/Vienna",
                "2024-10-27T04:30:00Z",
                &["2024-10-26T22:00", "2024-10-27T05:00", "2024-10-27T11:00"],
            ),
            // Here the clock jumps by half an hour.
            (
                "1h",
                "Australia/Lord_Howe",
                "2024-10-05T14:40:00Z",
                &["2024-10-05T14:30", "2024-10-05T16:00", "2024-10-05T17:00"],
            ),
            // Midnight does not exist: 00:00 becomes 01:00.
            ("1d", "America/Sao_Paulo", "2018-11-04T12:00:00Z", &["2018-11-04T03:00", "2018-11-05T02:00"]),
            // The last hour of a day is there twice: 24:00 becomes 23:00.
            ("1d", "America/Sao_Paulo", "2018-02-17T12:00:00Z", &["2018-02-17T02:00", "2018-02-18T03:00"]),
            // Midnight is there twice: 01:00 becomes 00:00.
            ("1d", "America/Havana", "2024-11-03T12:00:00Z", &["2024-11-03T04:00", "2024-11-04T05:00"]),
            // A whole day is left out.
            (
                "1d",
                "Pacific/Apia",
                "2011-12-30T05:00:00Z",
                &["2011-12-29T10:00", "2011-12-30T10:00", "2011-12-31T10:00"],
            ),
            ("1w", "UTC", "2024-01-03T00:00:00Z", &["2024-01-01T00:00", "2024-01-08T00:00"]),
            ("1w", "America/New_York", "2024-03-10T12:00:00Z", &["2024-03-04T05:00", "2024-03-11T04:00"]),
            (
                "1M",
                "UTC",
                "2024-02-29T00:00:00Z",
                &["2024-02-01T00:00", "2024-03-01T00:00", "2024-04-01T00:00"],
            ),
            ("3M", "Europe/Vienna", "2024-05-05T00:00:00Z", &["2024-03-31T22:00", "2024-06-30T22:00"]),
            ("2d", "UTC", "1969-12-31T00:00:00Z", &["1969-12-30T00:00", "1970-01-01T00:00"]),
            ("5m", "UTC", "1969-12-31T23:59:59.999Z", &["1969-12-31T23:55", "1970-01-01T00:00"]),
        ] {
            assert_eq!(edges(width, zone, from, expected.len()), expected, "{width} in {zone} from {from}");
        }
    }

    #[test]
    fn widths_and_zones_that_make_no_sense_are_refused() {
        for bad in [
            "",
            "1",
            "h",
            "0m",
            "-1h",
            "+1h",
            "1.5h",
            "1 h",
            "1H",
            "1y",
            "1min",
            "99999999999999999999s",
            "9223372036854775807d",
            "3652426d",
            "120001M",
            "25h",
            "86401s",
        ] {
            assert_eq!(Interval::parse(bad, Zone::default()), None, "{bad}");
        }
        for bad in [
            "",
            "+1:00",
            "+01",
            "+0100",
            "+24:00",
            "+01:60",
            "-+1:00",
            "Mars/Phobos",
            "europe/vienna",
            "+é1:00",
        ] {
            assert_eq!(Zone::parse(bad), None, "{bad}");
        }
        assert_eq!(Zone::parse("-01:30"), Some(Zone::Fixed(-90 * MINUTE)));
        assert!(Zone::names().any(|name| name == "Asia/Kolkata"));
    }

    #[test]
    fn the_width_that_fits_does_fit() {
        for span in [0, 1, 9_998 * SECOND, 9_999 * SECOND, 40 * DAY, 365 * DAY, 3_652_425 * DAY] {
            let width = interval(Interval::that_fits(span, 10_000), "Europe/Vienna");
            for first in [0, 1, 1_711_846_800_000] {
                let (mut edge, mut n) = (width.start_of(first), 0);
                while edge <= first + span {
                    (edge, n) = (width.next(edge), n + 1);
                }
                assert!(n <= 10_000, "{span}: {n}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn every_instant_lies_in_exactly_one_bucket(
            at in prop_oneof![Just(i64::MIN), Just(i64::MAX), any::<i64>(), -62_167_219_200_000i64..253_402_300_800_000, 1_500_000_000_000i64..1_800_000_000_000],
            width in prop::sample::select(vec!["1s", "7m", "30m", "1h", "5h", "6h", "24h", "1d", "3d", "1w", "1M", "7M", "10000d"]),
            zone in prop::sample::select(vec!["UTC", "+05:45", "-11:30", "Europe/Vienna", "America/Sao_Paulo", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "Antarctica/Troll"]),
        ) {
            let interval = interval(width, zone);
            let (start, next) = (interval.start_of(at), interval.next(at));
            if at.unsigned_abs() < 8_000_000_000_000_000 {
                prop_assert!(start <= at && at < next, "{} {} {}", start, at, next);
                prop_assert_eq!(interval.start_of(start), start);
                prop_assert_eq!(interval.next(start), next);
                prop_assert_eq!(interval.start_of(next), next);
                prop_assert_eq!(interval.start_of(next - 1), start);
                prop_assert_eq!(interval.next(next - 1), next);
            }
        }
    }
}
