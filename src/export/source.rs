//! The matches of an export, in portions.

use crate::{
    model::{entry::StoredEntry, filter::Filter, tenant::TenantScope},
    sinks::{Authority, Count, ListQuery, Place, Sort, StoreError},
};
use std::sync::Arc;

/// Most entries of a portion.
const BATCH_ROWS: usize = 8_192;
/// Most bytes of records of a portion, but for a single entry.
const BATCH_BYTES: usize = 4 << 20;

/// Reads every match, in order, as of one number. Between portions it holds nothing of the store.
pub struct Source {
    authority: Arc<dyn Authority>,
    scope: TenantScope,
    filter: Filter,
    sort: Sort,
    upto: Option<u64>,
    after: Option<Place>,
    portion: usize,
    /// Whether rows were known to be missing when it began.
    degraded: bool,
    done: bool,
}

impl Source {
    /// From the first match on; the first portion fixes up to which number.
    pub fn new(authority: Arc<dyn Authority>, scope: TenantScope, filter: Filter, sort: Sort) -> Self {
        Self {
            degraded: authority.condition(filter.search.is_some()).lacks_rows,
            authority,
            scope,
            filter,
            sort,
            upto: None,
            after: None,
            portion: BATCH_ROWS,
            done: false,
        }
    }

    /// In portions of at most so many entries.
    pub fn in_portions_of(mut self, entries: usize) -> Self {
        self.portion = entries;
        self
    }

    /// From behind a place on, up to the number that was fixed before.
    pub fn resumed(mut self, upto: Option<u64>, after: Option<Place>) -> Self {
        (self.upto, self.after) = (upto, after);
        self
    }

    /// Whether it was known from the start that the store has lost rows. When it finds that out on the way it fails: what it
    /// has given would not be told from a whole.
    pub fn degraded(&self) -> bool {
        self.degraded
    }

    /// Up to which number it reads; `None` before the first portion.
    pub fn upto(&self) -> Option<u64> {
        self.upto
    }

    /// Behind which place the next portion begins.
    pub fn after(&self) -> Option<Place> {
        self.after
    }

    /// The next entries, never none of them; `None` at the end. Where matches are rare this takes as long as it takes. After an
    /// error the same portion may be asked for again. Dropping the future abandons the read and loses nothing.
    pub async fn next(&mut self) -> Result<Option<Vec<StoredEntry>>, StoreError> {
        while !self.done {
            let entries = self.look().await?;
            if !entries.is_empty() {
                return Ok(Some(entries));
            }
        }
        Ok(None)
    }

    /// The entries that are found in one go, perhaps none though there are more behind.
    async fn look(&mut self) -> Result<Vec<StoredEntry>, StoreError> {
        let query = ListQuery {
            filter: self.filter.clone(),
            sort: self.sort,
            skip: 0,
            limit: self.portion,
            count: Count::None,
            after: self.after,
            upto: self.upto,
            max_bytes: BATCH_BYTES,
            may_pause: true,
        };
        let page = self.authority.list(&self.scope, query).await?;
        // That it is late is no lack: the export is as of a number that it shows.
        if !self.degraded && self.authority.condition(self.filter.search.is_some()).lacks_rows {
            return Err(StoreError::Damaged("a part was left out while it was exported".into()));
        }
        self.upto.get_or_insert(page.as_of);
        self.done = !page.more;
        let last = page.entries.last().map(|last| Place {
            timestamp: last.entry().timestamp(),
            sequence: last.sequence.unwrap_or_default(),
        });
        self.after = page.reached.or(last).or(self.after);
        Ok(page.entries)
    }
}
