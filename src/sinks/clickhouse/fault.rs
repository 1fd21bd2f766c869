//! What a failed request to ClickHouse means: by the number in its answer, or by how the connection ended.

use crate::sinks::{
    StoreError,
    retry::{Remedy, Symptom},
};
use clickhouse::error::Error;

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server said that it did not do it, and it may do so later (full, busy, read-only, too many parts).
    Later,
    /// Nobody knows whether it took effect: no answer, a cut connection, a failure while it was at work.
    Doubtful,
    /// The query ran past its time.
    Deadline,
    /// Too many queries at once.
    Busy,
    /// A query would need more memory or groups than it may have.
    TooMuch,
    /// Wrong credentials, a missing table or right, a query that it does not understand: somebody must act. Nothing was done.
    Settings,
}

/// The number in `Code: 241. DB::Exception: …`.
fn code(text: &str) -> Option<u32> {
    let digits = &text[text.find("Code: ")? + 6..];
    digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())].parse().ok()
}

/// What the failure means for a request that may write.
pub(super) fn fault(error: &Error) -> Fault {
    match error {
        Error::BadResponse(text) => match code(text) {
            Some(159 | 160) => Fault::Deadline,
            Some(202) => Fault::Busy,
            Some(158 | 241 | 396) => Fault::TooMuch,
            // Before anything is written: readonly, no such table or database, syntax, types, settings, rights, credentials.
            Some(6 | 16 | 27 | 36 | 43 | 46 | 47 | 53 | 60 | 62 | 70 | 81 | 115 | 117 | 164 | 192 | 193 | 194 | 195 | 291 | 452 | 457 | 497 | 516) => {
                Fault::Settings
            }
            // Too many parts, a table that is read-only, no space, a limit on parts or partitions: refused before the part is committed.
            Some(252 | 242 | 243 | 225 | 279 | 290 | 319) => Fault::Later,
            _ => Fault::Doubtful,
        },
        Error::InvalidParams(_) | Error::Unsupported(_) | Error::SchemaMismatch(_) | Error::InvalidColumnsHeader(_) => Fault::Settings,
        _ => Fault::Doubtful,
    }
}

/// The number and the name of a failure, without what the server repeats of the query: that may hold somebody's data.
pub(super) fn outline(error: &Error) -> String {
    let Error::BadResponse(text) = error else {
        return match error {
            Error::Network(_) | Error::TimedOut | Error::InvalidParams(_) => chain(error),
            _ => "the answer cannot be read".to_owned(),
        };
    };
    // `… (NAME) (version …)`: the last upper-case name in brackets.
    let name = text.rsplit('(').filter_map(|part| part.split(')').next()).find(|name| {
        let plain = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        !name.is_empty() && plain
    });
    match (code(text), name) {
        (Some(code), Some(name)) => format!("code {code} ({name})"),
        (Some(code), None) => format!("code {code}"),
        (None, _) => "an answer without a code".to_owned(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// What is done about it, by the table of all stores.
fn remedy(error: &Error) -> Remedy {
    match error {
        Error::BadResponse(text) => match code(text).and_then(|code| i32::try_from(code).ok()) {
            Some(code) => Symptom::ClickHouse(code).remedy(),
            None => Symptom::Unreadable.remedy(),
        },
        _ if fault(error) == Fault::Settings => Remedy::Hold,
        _ => Symptom::Broken.remedy(),
    }
}

/// The failure of a write, or of a read that is not the query's own fault. `what` says what was tried.
pub(super) fn unavailable(what: &str, error: &Error) -> StoreError {
    StoreError::Unavailable {
        what: format!("ClickHouse{what}: {}", outline(error)).into(),
        remedy: remedy(error),
    }
}

/// The failure of a read.
pub(super) fn read_failed(error: &Error) -> StoreError {
    match fault(error) {
        Fault::Deadline => StoreError::Deadline,
        Fault::Busy => StoreError::Busy,
        Fault::TooMuch => StoreError::TooManyGroups,
        Fault::Later | Fault::Doubtful | Fault::Settings => unavailable("", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(text: &str) -> Error {
        Error::BadResponse(text.to_owned())
    }

    #[test]
    fn failures_are_told_apart_by_their_number() {
        for (text, expected) in [
            ("Code: 252. DB::Exception: Too many parts (300). (TOO_MANY_PARTS) (version 26.9)", Fault::Later),
            ("Code: 242. DB::Exception: Table is in readonly mode", Fault::Later),
            ("Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space", Fault::Later),
            ("Code: 516. DB::Exception: default: Authentication failed", Fault::Settings),
            ("Code: 60. DB::Exception: Table x does not exist", Fault::Settings),
            ("Code: 164. DB::Exception: Cannot execute query in readonly mode", Fault::Settings),
            ("Code: 159. DB::Exception: Timeout exceeded", Fault::Deadline),
            ("Code: 202. DB::Exception: Too many simultaneous queries", Fault::Busy),
            ("Code: 158. DB::Exception: Limit for rows to GROUP BY exceeded", Fault::TooMuch),
            ("Code: 241. DB::Exception: Memory limit (total) exceeded", Fault::TooMuch),
            ("Code: 999. DB::Exception: Keeper lost its session", Fault::Doubtful),
            ("500 Internal Server Error", Fault::Doubtful),
            ("Code: ", Fault::Doubtful),
        ] {
            assert_eq!(fault(&bad(text)), expected, "{text}");
        }
        assert_eq!(fault(&Error::TimedOut), Fault::Doubtful);
        assert_eq!(fault(&Error::Network("reset".into())), Fault::Doubtful);
    }

    #[test]
    fn what_is_reported_holds_nothing_of_the_query() {
        let text = "Code: 62. DB::Exception: Syntax error: failed at position 8 ('secret (x)'). (SYNTAX_ERROR) (version 26.9.2.1 (official build))";
        assert_eq!(outline(&bad(text)), "code 62 (SYNTAX_ERROR)");
        assert_eq!(outline(&bad("<html>secret</html>")), "an answer without a code");
        assert_eq!(outline(&Error::Network("connection refused".into())), "network error: connection refused");
    }
}
