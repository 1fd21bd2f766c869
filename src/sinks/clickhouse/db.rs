//! The connection: settings, requests within their time, inserts with their token.

use super::{
    fault,
    rows::{LogRow, Rows},
    sql::Sql,
};
use crate::sinks::retry::Remedy;
use clickhouse::{
    Client, RowOwned, RowRead,
    error::{Error, Result},
    insert_formatted::BufInsertFormatted,
};
use std::{fmt, time::Duration};
use tokio::time::timeout;

/// A seal's rows are one block: no limit that makes two of them.
const WHOLE_ROWS: &str = "1000000000";
const WHOLE_BYTES: &str = "1099511627776";
/// Plain bytes of a compressed frame.
const FRAME: usize = 256 << 10;
/// Groups of one query at the most, so that a count by something with many values ends.
const MOST_GROUPS: &str = "1000000";

/// How ClickHouse is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct ClickHouseSettings {
    /// `http://host:8123` or `https://…`.
    pub url: String,
    /// Empty: the server's default user.
    pub user: String,
    /// Empty: none.
    pub password: String,
    /// Letters, digits and `_`.
    pub database: String,
    /// A query or an insert that takes longer is given up.
    pub timeout: Duration,
    /// Reads at once.
    pub queries: usize,
    /// How long after an erasure is settled its rows stay on the disk: longer than any read takes.
    pub purge_after: Duration,
}

impl Default for ClickHouseSettings {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8123".to_owned(),
            user: String::new(),
            password: String::new(),
            database: "sluice".to_owned(),
            timeout: Duration::from_secs(30),
            queries: 16,
            purge_after: Duration::from_secs(120),
        }
    }
}

impl fmt::Debug for ClickHouseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseSettings")
            .field("url", &self.url)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Why ClickHouse cannot be used. The texts are for who runs the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClickHouseError {
    /// The name of the database is none.
    #[error("`clickhouse.database` is `{0}` and may hold letters, digits and `_` only")]
    Database(String),
    /// The server does not answer, or cannot do it now.
    #[error("ClickHouse at `{url}` cannot be used now: {what}")]
    Unavailable {
        /// Where.
        url: String,
        /// What happened.
        what: String,
    },
    /// The server refuses: credentials, rights, a full or read-only disk, or a version that does not know what is asked.
    #[error(
        "ClickHouse at `{url}` refuses: {what}; check `clickhouse.user`, `clickhouse.password`, the user's rights on the database, and that the server may write"
    )]
    Refused {
        /// Where.
        url: String,
        /// What it said.
        what: String,
    },
    /// The schema was made by a newer Sluice.
    #[error("the ClickHouse schema has version {found}, and this binary knows up to {known}: it was migrated by a newer Sluice; run that one")]
    Newer {
        /// What is there.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// The user's settings make a repeated insert a second one.
    #[error(
        "the ClickHouse setting `deduplicate_insert` is `disable`: a repeated insert would be stored twice; set it to `enable` in the profile of `clickhouse.user`"
    )]
    NoDeduplication,
    /// A table is not as it must be.
    #[error("the ClickHouse table `{name}` cannot be used: {fault}")]
    Table {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        fault: String,
    },
}

/// A failed request, and where.
pub(super) struct Failed {
    url: String,
    error: Error,
}

impl From<Failed> for ClickHouseError {
    fn from(Failed { url, error }: Failed) -> Self {
        let what = fault::outline(&error);
        match fault::remedy(&error) {
            Remedy::Hold => Self::Refused { url, what },
            Remedy::Again | Remedy::Slower | Remedy::Isolate | Remedy::Refuse => Self::Unavailable { url, what },
        }
    }
}

impl std::ops::Deref for Failed {
    type Target = Error;

    fn deref(&self) -> &Error {
        &self.error
    }
}

/// A client of one database. Cheap to clone.
#[derive(Clone)]
pub(super) struct Db {
    /// Knows the database.
    inside: Client,
    settings: ClickHouseSettings,
}

impl Db {
    /// Connects when the first request is made.
    pub fn new(settings: &ClickHouseSettings) -> std::result::Result<Self, ClickHouseError> {
        let name = &settings.database;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(ClickHouseError::Database(name.clone()));
        }
        let mut client = Client::default().with_url(&settings.url);
        if !settings.user.is_empty() {
            client = client.with_user(&settings.user);
        }
        if !settings.password.is_empty() {
            client = client.with_password(&settings.password);
        }
        Ok(Self {
            inside: client.with_database(name),
            settings: settings.clone(),
        })
    }

    /// The same server without a database, for making it.
    pub fn outside(&self) -> Self {
        let mut outside = self.clone();
        outside.inside = outside.inside.with_database("default");
        outside
    }

    /// The same with more time for a request.
    pub fn patient(&self, timeout: Duration) -> Self {
        let mut patient = self.clone();
        patient.settings.timeout = timeout;
        patient
    }

    /// Its name.
    pub fn database(&self) -> &str {
        &self.settings.database
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// See [`ClickHouseSettings::purge_after`].
    pub fn purge_after(&self) -> Duration {
        self.settings.purge_after
    }

    /// Runs a statement that answers nothing.
    pub async fn run(&self, sql: &Sql) -> std::result::Result<(), Failed> {
        self.within(sql.query(&self.inside).execute()).await
    }

    /// The only row of the answer.
    pub async fn one<T: RowOwned + RowRead>(&self, sql: &Sql) -> std::result::Result<T, Failed> {
        self.within(sql.query(&self.reader()).fetch_one()).await
    }

    /// All rows of an answer that is known to be small.
    pub async fn all<T: RowOwned + RowRead>(&self, sql: &Sql) -> std::result::Result<Vec<T>, Failed> {
        self.within(sql.query(&self.reader()).fetch_all()).await
    }

    /// The rows of an answer, one after the other. The caller bounds the time.
    pub fn stream<T: clickhouse::Row>(&self, sql: &Sql) -> Result<clickhouse::query::RowCursor<T>> {
        sql.query(&self.reader()).fetch()
    }

    /// Whole entries, one after the other. The caller bounds the time.
    pub fn rows(&self, sql: &Sql) -> Result<Rows> {
        Ok(Rows::new(self.stream::<LogRow<'static>>(sql)?))
    }

    /// Begins the insert of one block. Nothing is stored before [`BufInsertFormatted::end`] returned.
    pub fn insert(&self, into: &str, token: &str) -> BufInsertFormatted {
        let client = [
            ("async_insert", "0"),
            ("wait_for_async_insert", "1"),
            ("insert_deduplicate", "1"),
            ("insert_deduplication_token", token),
            ("max_insert_block_size", WHOLE_ROWS),
            ("min_insert_block_size_rows", WHOLE_ROWS),
            ("min_insert_block_size_bytes", WHOLE_BYTES),
        ]
        .into_iter()
        .fold(self.inside.clone(), |client, (name, value)| client.with_setting(name, value));
        let most = Some(self.timeout());
        client
            .insert_formatted_with(format!("INSERT INTO {into} FORMAT RowBinary"))
            .with_timeouts(most, most)
            .buffered_with_capacity(FRAME)
    }

    /// For reads: they end in time on the server too, and when the connection is closed.
    fn reader(&self) -> Client {
        let seconds = self.settings.timeout.as_secs().max(1).to_string();
        self.inside
            .clone()
            .with_setting("max_execution_time", seconds)
            .with_setting("cancel_http_readonly_queries_on_client_close", "1")
            .with_setting("max_rows_to_group_by", MOST_GROUPS)
            .with_setting("group_by_overflow_mode", "throw")
            .with_setting("select_sequential_consistency", "1")
    }

    async fn within<T>(&self, request: impl Future<Output = Result<T>>) -> std::result::Result<T, Failed> {
        let done = timeout(self.settings.timeout, request).await.unwrap_or(Err(Error::TimedOut));
        done.map_err(|error| Failed {
            url: self.settings.url.clone(),
            error,
        })
    }
}

/// Bytes after which rows are sent on.
pub(super) const SEND_AT: usize = FRAME;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_a_plain_name_and_a_password_is_not_shown() {
        for bad in ["", "a b", "a`b", "a.b", "ä"] {
            let settings = ClickHouseSettings {
                database: bad.into(),
                ..ClickHouseSettings::default()
            };
            assert!(matches!(Db::new(&settings), Err(ClickHouseError::Database(_))), "{bad}");
        }
        let settings = ClickHouseSettings {
            password: "secret".into(),
            ..ClickHouseSettings::default()
        };
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
