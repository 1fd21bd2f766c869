//! SQL text with its values beside it: a value never becomes part of the text. Each is a parameter that the server substitutes
//! after it has parsed the query, `{p0:String}`.
//!
//! The server reads parameters in its escaped form. Texts that need escaping are sent in hexadecimal instead, so that nothing
//! depends on who unescapes how often.

use clickhouse::{Client, query::Query};
use std::fmt::Write;
use uuid::Uuid;

/// The oldest and the youngest instant of a `DateTime64(3)`: from 1900 to 2299.
const TIMES: (i64, i64) = (-2_208_988_800_000, 10_413_791_999_999);

/// A query under construction.
#[derive(Debug, Clone, Default)]
pub(super) struct Sql {
    text: String,
    params: Vec<String>,
}

impl Sql {
    /// Begins with fixed text.
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            params: Vec::new(),
        }
    }

    /// Appends fixed text.
    pub fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends `value` as a `String`.
    pub fn text(&mut self, value: &str) -> &mut Self {
        let plain = value.bytes().all(|b| b >= b' ' && b != b'\\' && b != b'\'' && b != b'`' && b != 0x7f);
        if plain {
            return self.param("String", value.to_owned());
        }
        let hex = value.bytes().fold(String::with_capacity(2 * value.len()), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}"); // writing to a string does not fail
            hex
        });
        self.push("unhex(").param("String", hex).push(")")
    }

    /// Appends `value` as an `Int64`.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.param("Int64", value.to_string())
    }

    /// Appends `value` as a `UInt64`.
    pub fn number(&mut self, value: u64) -> &mut Self {
        self.param("UInt64", value.to_string())
    }

    /// Appends the values as an `Array(UUID)`. At most a few thousand: the server takes 128 KiB for one parameter.
    pub fn uuids(&mut self, values: &[Uuid]) -> &mut Self {
        let quoted: Vec<String> = values.iter().map(|id| format!("'{id}'")).collect();
        self.param("Array(UUID)", format!("[{}]", quoted.join(",")))
    }

    /// Appends the values as an `Array(Int64)`.
    pub fn ints(&mut self, values: &[i64]) -> &mut Self {
        self.array("Array(Int64)", values)
    }

    /// Appends the values as an `Array(UInt64)`.
    pub fn numbers(&mut self, values: &[u64]) -> &mut Self {
        self.array("Array(UInt64)", values)
    }

    /// Appends an instant, which is within [`TIMES`], as a `DateTime64(3)`.
    fn time(&mut self, ms: i64) -> &mut Self {
        self.push("fromUnixTimestamp64Milli(").int(ms.clamp(TIMES.0, TIMES.1)).push(", 'UTC')")
    }

    /// Appends that the column of times is exactly `ms`, which was stored the same way.
    pub fn time_is(&mut self, column: &str, ms: i64) -> &mut Self {
        self.push(column).push(" = ").time(ms)
    }

    /// Appends that the column of times is before `ms`, any number.
    pub fn before(&mut self, column: &str, ms: i64) -> &mut Self {
        match ms {
            _ if ms > TIMES.1 => self.push("1"),
            _ if ms <= TIMES.0 => self.push("0"),
            _ => self.push(column).push(" < ").time(ms),
        }
    }

    /// Appends that the column of times is `ms`, any number, or later.
    pub fn since(&mut self, column: &str, ms: i64) -> &mut Self {
        match ms {
            _ if ms > TIMES.1 => self.push("0"),
            _ if ms <= TIMES.0 => self.push("1"),
            _ => self.push(column).push(" >= ").time(ms),
        }
    }

    /// Appends the items, each written by `each`, with `between` in between.
    pub fn list<T>(&mut self, between: &str, items: impl IntoIterator<Item = T>, mut each: impl FnMut(&mut Self, T)) -> &mut Self {
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.push(between);
            }
            each(self, item);
        }
        self
    }

    /// The same with fixed text before it.
    pub fn within(mut self, before: &str) -> Self {
        self.text.insert_str(0, before);
        self
    }

    /// The query, to be sent by `client`.
    pub fn query(&self, client: &Client) -> Query {
        let query = client.query_raw(&self.text);
        self.params
            .iter()
            .enumerate()
            .fold(query, |query, (i, value)| query.with_setting(format!("param_p{i}"), value))
    }

    fn array<T: ToString>(&mut self, kind: &str, values: &[T]) -> &mut Self {
        let texts: Vec<String> = values.iter().map(T::to_string).collect();
        self.param(kind, format!("[{}]", texts.join(",")))
    }

    fn param(&mut self, kind: &str, value: String) -> &mut Self {
        let at = self.params.len();
        self.params.push(value);
        let _ = write!(self.text, "{{p{at}:{kind}}}"); // writing to a string does not fail
        self
    }
}

/// An instant as a column of times holds it.
pub(super) fn stored_time(ms: i64) -> i64 {
    ms.clamp(TIMES.0, TIMES.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_part_of_the_text() {
        let mut sql = Sql::new("SELECT ");
        sql.text("it's; DROP TABLE logs")
            .push(", ")
            .text("plain")
            .push(", ")
            .int(-5)
            .push(", ")
            .uuids(&[Uuid::nil()]);
        assert_eq!(sql.text, "SELECT unhex({p0:String}), {p1:String}, {p2:Int64}, {p3:Array(UUID)}");
        assert_eq!(sql.params[1..], ["plain", "-5", "['00000000-0000-0000-0000-000000000000']"]);
        assert!(sql.params[0].bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[test]
    fn instants_that_no_column_can_hold_are_before_or_after_all() {
        let text = |write: fn(&mut Sql, i64), ms| {
            let mut sql = Sql::default();
            write(&mut sql, ms);
            sql.text
        };
        let before = |sql: &mut Sql, ms| {
            sql.before("t", ms);
        };
        let since = |sql: &mut Sql, ms| {
            sql.since("t", ms);
        };
        assert_eq!((text(before, i64::MAX), text(before, i64::MIN)), ("1".into(), "0".into()));
        assert_eq!((text(since, i64::MAX), text(since, i64::MIN)), ("0".into(), "1".into()));
        assert_eq!(text(before, 0), "t < fromUnixTimestamp64Milli({p0:Int64}, 'UTC')");
    }
}
