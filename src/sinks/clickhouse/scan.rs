//! Entries and voids in sequence order, for readers that follow the log.
//!
//! The store has every row up to the tenant's head, so a number up to there without a visible row never had one or lost it: it is
//! void. The scan goes window by window of numbers; in each it reads the matches, and where the filter hides some of what is
//! there, counts what is. Only where that is less than the window are the missing numbers looked for. A window without any row
//! leads to the next number that has one, so that a gap of millions is one step.

use super::{
    conditions::{self, Snapshot},
    db::Db,
    fault,
    list::is_match,
    rows::columns,
    sql::Sql,
};
use crate::{
    model::{entry::StoredEntry, filter::Filter},
    sinks::{Scan, StoreError},
};
use tokio::time::Instant;

/// Numbers of the first window.
const FIRST_WINDOW: u64 = 1_024;
/// Numbers of a window at the most.
const LARGEST_WINDOW: u64 = 1 << 18;
/// The same where every row of it is looked at here.
const LARGEST_LOOKED_AT: u64 = 1 << 14;

/// The next `limit` matches after number `after`. When matches are rare it stops at `pause_at` with what it has looked through.
pub(super) async fn scan(db: &Db, at: &Snapshot, filter: &Filter, after: u64, limit: usize, pause_at: Instant) -> Result<Scan, StoreError> {
    if limit == 0 || after >= at.head {
        return Ok(Scan {
            upto: after,
            ..Scan::default()
        });
    }
    let mut walk = Walk {
        db,
        at,
        filter,
        limit,
        entries: Vec::new(),
        voids: Vec::new(),
    };
    let residual = conditions::is_residual(filter);
    let largest = if residual { LARGEST_LOOKED_AT } else { LARGEST_WINDOW };
    let (mut upto, mut window) = (after, FIRST_WINDOW.max(limit as u64).min(largest));
    while upto < at.head {
        let last = at.head.min(upto.saturating_add(window));
        upto = if filter.is_empty() {
            walk.everything(upto, last).await?
        } else {
            walk.matching(upto, last, residual).await?
        };
        if walk.entries.len() == limit || Instant::now() >= pause_at {
            break;
        }
        window = (window * 4).min(largest);
    }
    Ok(Scan {
        entries: walk.entries,
        voids: walk.voids,
        upto,
    })
}

/// A scan under way.
struct Walk<'a> {
    db: &'a Db,
    at: &'a Snapshot,
    filter: &'a Filter,
    limit: usize,
    entries: Vec<StoredEntry>,
    voids: Vec<(u64, u64)>,
}

impl Walk<'_> {
    /// Takes every row above `after` up to `last`: what is between them is void. Says up to where it came.
    async fn everything(&mut self, after: u64, last: u64) -> Result<u64, StoreError> {
        let room = self.limit - self.entries.len();
        let mut rows = self.rows(after, last, room)?;
        let mut upto = after;
        while let Some(row) = rows.next().await? {
            let number = row.sequence.unwrap_or_default();
            self.void(upto + 1, number.saturating_sub(1));
            upto = number;
            self.take(row);
            if self.entries.len() == self.limit {
                return Ok(upto);
            }
        }
        if upto > after {
            self.void(upto + 1, last);
            return Ok(last);
        }
        self.leap(after).await
    }

    /// Takes the matches above `after` up to `last`, then asks which numbers have no row.
    async fn matching(&mut self, after: u64, last: u64, residual: bool) -> Result<u64, StoreError> {
        let room = if residual { usize::MAX } else { self.limit - self.entries.len() };
        let mut rows = self.rows(after, last, room)?;
        let mut upto = last;
        while let Some(row) = rows.next().await? {
            if residual && !is_match(self.filter, &row) {
                continue;
            }
            let number = row.sequence.unwrap_or_default();
            self.take(row);
            if self.entries.len() == self.limit {
                upto = number;
                break;
            }
        }
        drop(rows);
        let there = self.count(after, upto).await?;
        if there == upto - after {
            return Ok(upto);
        }
        if there == 0 {
            return self.leap(after).await;
        }
        self.missing(after, upto).await?;
        Ok(upto)
    }

    fn take(&mut self, row: StoredEntry) {
        self.entries.push(match &self.filter.mask {
            Some(mask) => mask.entry(&row),
            None => row,
        });
    }

    /// Rows of the window that SQL does not rule out.
    fn rows(&self, after: u64, last: u64, limit: usize) -> Result<super::rows::Rows, StoreError> {
        let mut sql = self.window(&columns(|_| true), after, last);
        self.at.narrow(&mut sql, self.filter);
        sql.push(" ORDER BY sequence LIMIT ").number((limit as u64).min(last - after));
        self.db.rows(&sql).map_err(|e| fault::read_failed(&e))
    }

    fn window(&self, columns: &str, after: u64, last: u64) -> Sql {
        let mut sql = self.at.select(columns, "logs");
        sql.push(" AND sequence > ").number(after).push(" AND sequence <= ").number(last);
        sql
    }

    async fn count(&self, after: u64, last: u64) -> Result<u64, StoreError> {
        let counted = self.db.one(&self.window("count()", after, last)).await;
        counted.map_err(|e| fault::read_failed(&e))
    }

    /// There is no row in the window after `after`: everything up to before the next row is void.
    async fn leap(&mut self, after: u64) -> Result<u64, StoreError> {
        let next = self.db.one::<u64>(&self.window("min(sequence)", after, self.at.head)).await;
        let upto = match next.map_err(|e| fault::read_failed(&e))? {
            0 => self.at.head,
            next => next - 1,
        };
        self.void(after + 1, upto);
        Ok(upto)
    }

    /// Finds the numbers of the window that have no row.
    async fn missing(&mut self, after: u64, last: u64) -> Result<(), StoreError> {
        let mut sql = self.window("sequence", after, last);
        sql.push(" ORDER BY sequence");
        let mut numbers = self.db.stream::<u64>(&sql).map_err(|e| fault::read_failed(&e))?;
        let mut upto = after;
        while let Some(number) = numbers.next().await.map_err(|e| fault::read_failed(&e))? {
            self.void(upto + 1, number.saturating_sub(1));
            upto = number;
        }
        self.void(upto + 1, last);
        Ok(())
    }

    /// Adds a range, joined to the one before it.
    fn void(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        match self.voids.last_mut() {
            Some(before) if before.1 + 1 == first => before.1 = last,
            _ => self.voids.push((first, last)),
        }
    }
}
