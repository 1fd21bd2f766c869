//! What a failed request to ClickHouse means: by the number in its answer, or by how the connection ended.

use crate::sinks::{
    StoreError,
    retry::{Remedy, Symptom},
};
use clickhouse::error::Error;

/// The number in `Code: 241. DB::Exception: …`.
fn code(text: &str) -> Option<i32> {
    let digits = &text[text.find("Code: ")? + 6..];
    digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())].parse().ok()
}

/// What was seen of it, for the table of all stores.
fn symptom(error: &Error) -> Symptom<'static> {
    match error {
        Error::BadResponse(text) => code(text).map_or(Symptom::Unreadable, Symptom::ClickHouse),
        Error::InvalidParams(_) | Error::Unsupported(_) | Error::SchemaMismatch(_) | Error::InvalidColumnsHeader(_) => Symptom::Foreign,
        _ => Symptom::Broken,
    }
}

/// What is done about it.
pub(super) fn remedy(error: &Error) -> Remedy {
    symptom(error).remedy()
}

/// Whether a write may have taken effect.
pub(super) fn is_doubtful(error: &Error) -> bool {
    !symptom(error).is_definite()
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

/// The failure of a write, or of a read that is not the query's own fault. `what` says what was tried.
pub(super) fn unavailable(what: &str, error: &Error) -> StoreError {
    StoreError::Unavailable {
        what: format!("ClickHouse{what}: {}", outline(error)).into(),
        remedy: remedy(error),
    }
}

/// The failure of a read. Some are not the store's: the query ran past its time, or there is no room for it now.
pub(super) fn read_failed(error: &Error) -> StoreError {
    match symptom(error) {
        Symptom::ClickHouse(159 | 160) => StoreError::Deadline,
        Symptom::ClickHouse(202 | 241) => StoreError::Busy,
        _ => unavailable("", error),
    }
}

/// The failure of a count, which is the only read that needs more memory the more it finds.
pub(super) fn count_failed(error: &Error) -> StoreError {
    match symptom(error) {
        Symptom::ClickHouse(158 | 241 | 396) => StoreError::TooManyGroups,
        _ => read_failed(error),
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
        let (definite, doubtful) = (false, true);
        for (text, remedy_of, doubt) in [
            (
                "Code: 252. DB::Exception: Too many parts (300). (TOO_MANY_PARTS) (version 26.9)",
                Remedy::Slower,
                definite,
            ),
            ("Code: 242. DB::Exception: Table is in readonly mode", Remedy::Hold, definite),
            (
                "Code: 774. DB::Exception: Table is in readonly mode. (TABLE_IS_PERMANENTLY_READ_ONLY)",
                Remedy::Hold,
                definite,
            ),
            ("Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space", Remedy::Hold, definite),
            ("Code: 516. DB::Exception: default: Authentication failed", Remedy::Hold, definite),
            ("Code: 60. DB::Exception: Table x does not exist", Remedy::Hold, definite),
            ("Code: 319. DB::Exception: Unknown status of insert", Remedy::Again, doubtful),
            ("Code: 999. DB::Exception: Keeper lost its session", Remedy::Again, doubtful),
            ("500 Internal Server Error", Remedy::Again, doubtful),
            ("Code: ", Remedy::Again, doubtful),
            ("Code: 99999999999. DB::Exception", Remedy::Again, doubtful),
        ] {
            assert_eq!((remedy(&bad(text)), is_doubtful(&bad(text))), (remedy_of, doubt), "{text}");
        }
        for error in [Error::TimedOut, Error::Network("reset".into())] {
            assert_eq!((remedy(&error), is_doubtful(&error)), (Remedy::Again, doubtful), "{error}");
        }
        assert_eq!(remedy(&Error::InvalidParams("x".into())), Remedy::Hold);
    }

    #[test]
    fn a_read_that_asked_too_much_is_no_fault_of_the_store() {
        let error = |code: u32| bad(&format!("Code: {code}. DB::Exception: x"));
        let (read, count) = (|code| read_failed(&error(code)), |code| count_failed(&error(code)));
        assert!(
            [159, 160]
                .iter()
                .all(|code| matches!((read(*code), count(*code)), (StoreError::Deadline, StoreError::Deadline)))
        );
        assert!(matches!((read(202), count(202)), (StoreError::Busy, StoreError::Busy)));
        assert!([158, 241, 396].iter().all(|code| matches!(count(*code), StoreError::TooManyGroups)));
        assert!(matches!(read(241), StoreError::Busy), "a page has no groups: the server is short of memory");
        assert!(matches!(read(999), StoreError::Unavailable { remedy: Remedy::Again, .. }));
    }

    #[test]
    fn what_is_reported_holds_nothing_of_the_query() {
        let text = "Code: 62. DB::Exception: Syntax error: failed at position 8 ('secret (x)'). (SYNTAX_ERROR) (version 26.9.2.1 (official build))";
        assert_eq!(outline(&bad(text)), "code 62 (SYNTAX_ERROR)");
        assert_eq!(outline(&bad("<html>secret</html>")), "an answer without a code");
        assert_eq!(outline(&Error::Network("connection refused".into())), "network error: connection refused");
    }
}
