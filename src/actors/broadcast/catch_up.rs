//! Reading the store for a session that resumes or was too slow: pages in sequence order, void ranges between the entries.

use crate::{
    model::{
        entry::StoredEntry,
        feed::FeedItem,
        filter::Filter,
        render,
        tenant::{TenantId, TenantScope},
    },
    sinks::{Authority, Scan, StoreError},
};
use futures_util::future::BoxFuture;
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// How often a page is tried again when the store is busy.
const RETRIES: u32 = 5;
const FIRST_DELAY: Duration = Duration::from_millis(50);

/// A page that is being read.
pub(super) type Reading = BoxFuture<'static, Result<Scan, StoreError>>;

/// Reads the page after `after`. A store that is busy is asked again a few times.
pub(super) fn read(authority: Arc<dyn Authority>, scope: TenantScope, filter: Filter, after: u64, limit: usize) -> Reading {
    Box::pin(async move {
        let mut delay = FIRST_DELAY;
        for _ in 0..RETRIES {
            match authority.scan(&scope, filter.clone(), after, limit).await {
                Err(StoreError::Busy | StoreError::Starting | StoreError::Behind | StoreError::Deadline) => {
                    tokio::time::sleep(delay).await;
                    delay *= 2;
                }
                other => return other,
            }
        }
        authority.scan(&scope, filter, after, limit).await
    })
}

/// A page that was read and is handed out item by item; an entry is rendered when it is its turn.
#[derive(Default)]
pub(super) struct Page {
    entries: VecDeque<StoredEntry>,
    voids: VecDeque<(u64, u64)>,
    upto: u64,
}

impl Page {
    /// Takes what `scan` found after the number `after`.
    pub(super) fn new(scan: Scan, after: u64) -> Self {
        let mut voids: Vec<_> = scan
            .voids
            .into_iter()
            .map(|(from, to)| (from.max(after + 1), to.min(scan.upto)))
            .filter(|(from, to)| from <= to)
            .collect();
        voids.sort_unstable();
        let new = |entry: &StoredEntry| entry.sequence.is_some_and(|n| n > after);
        Self {
            entries: scan.entries.into_iter().filter(new).collect(),
            voids: voids.into(),
            upto: scan.upto.max(after),
        }
    }

    /// The next item and the last number that it deals with.
    pub(super) fn next(&mut self, tenant: &TenantId) -> Option<(u64, FeedItem)> {
        let entry = self.entries.front().and_then(|entry| entry.sequence);
        match (entry, self.voids.front().copied()) {
            (entry, Some((from, to))) if entry.is_none_or(|n| from < n) => {
                self.voids.pop_front();
                Some((to, FeedItem::Void { from, to }))
            }
            (Some(sequence), _) => {
                let entry = self.entries.pop_front()?;
                Some((
                    sequence,
                    FeedItem::Entry {
                        sequence,
                        json: render_entry(tenant, &entry),
                    },
                ))
            }
            (None, _) => None,
        }
    }

    /// Every number up to here is dealt with once the page is empty.
    pub(super) fn upto(&self) -> u64 {
        self.upto
    }
}

/// The JSON of an entry as the HTTP contract has it.
pub(super) fn render_entry(tenant: &TenantId, entry: &StoredEntry) -> bytes::Bytes {
    let mut json = Vec::with_capacity(512 + entry.record.len());
    render::write_entry(&mut json, tenant, entry);
    json.shrink_to_fit(); // it is shared and queued: its memory is what is counted
    json.into()
}
