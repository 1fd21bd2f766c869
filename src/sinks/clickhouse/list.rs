//! One entry by id; and pages: rows in the order of the page, batch by batch behind the last place that was looked at.
//!
//! Where SQL decides the whole filter a page is one query of its size. Otherwise larger and larger batches of what SQL leaves are
//! looked through here. A batch is streamed, and the stream is dropped when the page is full.

use super::{
    conditions::{self, Snapshot},
    db::Db,
    fault,
    rows::columns,
    sql::Sql,
};
use crate::{
    model::{
        entry::StoredEntry,
        filter::{Filter, Surroundings},
    },
    sinks::{Count, ListPage, ListQuery, Place, Sort, StoreError},
};
use tokio::time::Instant;
use uuid::Uuid;

/// Rows of the first batch that is looked through here; each further one is four times as large.
const FIRST_BATCH: usize = 512;
/// Rows of a batch at the most.
const LARGEST_BATCH: usize = 32_768;

/// The entry with this id.
pub(super) async fn get(db: &Db, at: &Snapshot, id: Uuid) -> Result<Option<StoredEntry>, StoreError> {
    let mut sql = at.select(&columns(|_| true), "logs");
    at.has_id(&mut sql, &[id]);
    let mut rows = db.rows(&sql).map_err(|e| fault::read_failed(&e))?;
    rows.next().await
}

/// One page. Where it may pause it does so at `pause_at`.
pub(super) async fn list(db: &Db, at: &Snapshot, query: &ListQuery, pause_at: Instant) -> Result<ListPage, StoreError> {
    let started = Instant::now();
    let mut pinned = at.clone();
    pinned.head = query.upto.map_or(at.head, |upto| upto.min(at.head));
    let mut walk = Walk {
        db,
        at: &pinned,
        query,
        residual: conditions::is_residual(&query.filter),
        place: query.after,
        skip: query.skip,
        entries: Vec::new(),
        bytes: 0,
        matches: 0,
        end: End::Exhausted,
    };
    walk.find(query.may_pause.then_some(pause_at)).await?;
    let counted = walk.count(started).await?;
    let reached = walk.place.filter(|_| walk.end == End::Paused);
    Ok(ListPage {
        more: walk.end != End::Exhausted,
        reached,
        entries: walk.entries,
        total: counted.map(|(total, _)| total),
        total_is_exact: counted.is_some_and(|(_, exact)| exact),
        as_of: pinned.head,
    })
}

/// Why a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// There is nothing behind.
    Exhausted,
    /// The page is full, and there is a match behind it.
    Full,
    /// It took too long; what is behind the place was not looked at.
    Paused,
}

/// A page in the making.
struct Walk<'a> {
    db: &'a Db,
    at: &'a Snapshot,
    query: &'a ListQuery,
    residual: bool,
    /// The last row that was looked at.
    place: Option<Place>,
    /// Matches still to pass over.
    skip: usize,
    entries: Vec<StoredEntry>,
    bytes: usize,
    /// Matches so far, those passed over included.
    matches: u64,
    end: End,
}

impl Walk<'_> {
    /// Fills the page.
    async fn find(&mut self, pause_at: Option<Instant>) -> Result<(), StoreError> {
        let mut size = FIRST_BATCH;
        loop {
            // Without a residual SQL passes over what is skipped, which then has been counted.
            let (batch, offset) = if self.residual {
                (size, 0)
            } else {
                let left = self.query.limit.saturating_sub(self.entries.len()).saturating_add(1);
                (left.min(LARGEST_BATCH), std::mem::take(&mut self.skip))
            };
            if self.batch(batch, offset).await? {
                return Ok(());
            }
            if pause_at.is_some_and(|at| Instant::now() >= at) {
                self.end = End::Paused;
                return Ok(());
            }
            size = (size * 4).min(LARGEST_BATCH);
        }
    }

    /// Looks through one batch; true when the walk is over.
    async fn batch(&mut self, batch: usize, offset: usize) -> Result<bool, StoreError> {
        let sql = self.ordered(&columns(|_| true), batch, offset);
        let mut rows = self.db.rows(&sql).map_err(|e| fault::read_failed(&e))?;
        let mut seen = 0;
        while let Some(row) = rows.next().await? {
            seen += 1;
            let place = place_of(&row);
            if self.residual && !is_match(&self.query.filter, &row) {
                self.place = Some(place);
                continue;
            }
            if self.skip > 0 {
                self.skip -= 1;
                (self.place, self.matches) = (Some(place), self.matches + 1);
                continue;
            }
            let shown = self.query.filter.mask.as_ref().map_or_else(|| row.clone(), |mask| mask.entry(&row));
            let bytes = self.bytes.saturating_add(shown.record.len());
            if self.entries.len() == self.query.limit || (bytes > self.query.max_bytes && !self.entries.is_empty()) {
                self.end = End::Full;
                return Ok(true);
            }
            (self.place, self.bytes, self.matches) = (Some(place), bytes, self.matches + 1);
            self.entries.push(shown);
        }
        Ok(seen < batch)
    }

    /// The rows behind the place that SQL does not rule out, in order.
    fn ordered(&self, columns: &str, limit: usize, offset: usize) -> Sql {
        let sort = self.query.sort;
        let order = match sort {
            Sort::TimestampDesc => " ORDER BY timestamp DESC, sequence DESC",
            Sort::TimestampAsc => " ORDER BY timestamp, sequence",
            Sort::SequenceDesc => " ORDER BY sequence DESC",
            Sort::SequenceAsc => " ORDER BY sequence",
        };
        let conditions = |sql: &mut Sql| {
            self.at.narrow(sql, &self.query.filter);
            if let Some(place) = self.place {
                conditions::behind(sql, sort, place);
            }
            sql.push(order).push(" LIMIT ").number(limit as u64).push(" OFFSET ").number(offset as u64);
        };
        let mut sql = self.at.select(columns, "logs");
        conditions(&mut sql);
        sql
    }

    /// The number of matches wherever the page begins, as far as is asked for, and whether these are all.
    async fn count(&self, started: Instant) -> Result<Option<(u64, bool)>, StoreError> {
        let wanted = self.query.skip.saturating_add(self.query.limit) as u64;
        let (most, until) = match self.query.count {
            Count::None => return Ok(None),
            Count::Exact => (u64::MAX, None),
            Count::Bounded { beyond, within } => (beyond.saturating_add(wanted), started.checked_add(within)),
        };
        let filter = &self.query.filter;
        if !self.residual {
            return count_in_sql(self.db, self.at, filter, most).await.map(Some);
        }
        // From where the page ended, unless it did not begin at the beginning.
        let (known, from) = match self.query.after {
            None => (self.matches, self.place),
            Some(_) => (0, None),
        };
        if self.query.after.is_none() && self.end == End::Exhausted {
            return Ok(Some((known, true)));
        }
        let narrow = columns(|field| conditions::looks_at(filter, field));
        let (mut total, mut place, mut size) = (known, from, FIRST_BATCH);
        loop {
            if total >= most || until.is_some_and(|until| Instant::now() >= until) {
                return Ok(Some((total, false)));
            }
            let rest = Walk {
                place,
                entries: Vec::new(),
                ..*self
            };
            let mut rows = self.db.rows(&rest.ordered(&narrow, size, 0)).map_err(|e| fault::read_failed(&e))?;
            let mut seen = 0;
            while let Some(row) = rows.next().await? {
                seen += 1;
                place = Some(place_of(&row));
                total += u64::from(is_match(filter, &row));
            }
            if seen < size {
                return Ok(Some((total, true)));
            }
            size = (size * 4).min(LARGEST_BATCH);
        }
    }
}

/// Counts what SQL decides alone, up to `most`.
async fn count_in_sql(db: &Db, at: &Snapshot, filter: &Filter, most: u64) -> Result<(u64, bool), StoreError> {
    if most == u64::MAX {
        let mut sql = at.select("count()", "logs");
        at.narrow(&mut sql, filter);
        let total = db.one::<u64>(&sql).await.map_err(|e| fault::read_failed(&e))?;
        return Ok((total, true));
    }
    let mut inner = at.select("1", "logs");
    at.narrow(&mut inner, filter);
    inner.push(" LIMIT ").number(most.saturating_add(1)).push(")");
    let sql = inner.within("SELECT count() FROM (");
    let total = db.one::<u64>(&sql).await.map_err(|e| fault::read_failed(&e))?;
    Ok(if total > most { (most, false) } else { (total, true) })
}

/// Where a row stands.
pub(super) fn place_of(row: &StoredEntry) -> Place {
    Place {
        timestamp: row.entry().timestamp(),
        sequence: row.sequence.unwrap_or_default(),
    }
}

/// Whether the filter takes the row.
pub(super) fn is_match(filter: &Filter, row: &StoredEntry) -> bool {
    let around = Surroundings {
        sequence: row.sequence.unwrap_or_default(),
        actor: &row.actor,
    };
    filter.matches(&row.entry(), around)
}
