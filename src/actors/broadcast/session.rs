//! One reader of the live feed.

use super::{
    Feed,
    catch_up::{self, Page, Reading},
    outbox::{Found, Outbox},
};
use crate::model::{
    feed::{FeedEnd, FeedItem},
    tenant::TenantScope,
};
use std::sync::Arc;

/// A subscription: entries of one tenant in strictly increasing `sequence` order, none missing (but for gap frames) and
/// none twice. Dropping it ends the subscription.
pub struct Session {
    feed: Arc<Feed>,
    scope: TenantScope,
    outbox: Arc<Outbox>,
    /// Every number up to here was handed out, or is none of this session's.
    dealt_with: u64,
    page: Page,
    /// Kept here and not in `next`, so that a cancelled `next` does not begin the page again.
    reading: Option<Reading>,
    /// The page, and what is read, are from after so many erasures.
    forgotten: u64,
}

impl Session {
    pub(super) fn new(feed: Arc<Feed>, scope: TenantScope, outbox: Arc<Outbox>, dealt_with: u64) -> Self {
        Self {
            feed,
            scope,
            outbox,
            dealt_with,
            page: Page::default(),
            reading: None,
            forgotten: 0,
        }
    }

    /// The next frame; waits for one. After [`FeedItem::Closed`] it is `Closed` again. Cancel-safe: a dropped call loses
    /// nothing, and the page that it was reading is gone on with.
    pub async fn next(&mut self) -> FeedItem {
        loop {
            self.forget_erased();
            if let Some(item) = self.next_of_page() {
                return item;
            }
            match self.outbox.take(self.dealt_with) {
                Found::Item(item) => {
                    self.dealt_with = last_number(&item).unwrap_or(self.dealt_with);
                    return item;
                }
                Found::Nothing { covered } => {
                    // Not backwards: frames of an announcement are taken while it is still being made.
                    self.dealt_with = self.dealt_with.max(covered);
                    self.outbox.changed().await;
                }
                Found::Behind { announced } => self.catch_up(announced).await,
                Found::Ended(why) => return FeedItem::Closed(why),
            }
        }
    }

    /// The last number that was dealt with: resuming `after` it misses and repeats nothing.
    pub fn position(&self) -> u64 {
        self.dealt_with
    }

    /// Drops what was read before an erasure. The outbox is behind since, so it is read again.
    fn forget_erased(&mut self) {
        let forgotten = self.outbox.forgotten();
        if forgotten != self.forgotten {
            (self.page, self.reading, self.forgotten) = (Page::default(), None, forgotten);
        }
    }

    fn next_of_page(&mut self) -> Option<FeedItem> {
        if self.page.upto() <= self.dealt_with {
            return None;
        }
        if let Some(why) = self.outbox.ended() {
            return Some(FeedItem::Closed(why));
        }
        match self.page.next(self.scope.tenant()) {
            Some((last, item)) => {
                self.dealt_with = last;
                Some(item)
            }
            None => {
                self.dealt_with = self.page.upto();
                None
            }
        }
    }

    async fn catch_up(&mut self, announced: u64) {
        let after = self.dealt_with;
        let reading = self.reading.get_or_insert_with(|| {
            let (authority, limit) = (self.feed.authority.clone(), self.feed.settings.page);
            catch_up::read(authority, self.scope.clone(), self.outbox.filter.clone(), after, limit)
        });
        let scan = tokio::select! {
            biased;
            () = self.outbox.until_ended() => return,
            scan = reading => scan,
        };
        self.reading = None;
        match scan {
            Ok(scan) if scan.upto <= after => {
                tracing::error!(after, announced, upto = scan.upto, "the store does not show a number that was announced");
                self.outbox.end(FeedEnd::StoreFailed("the store does not show what was announced".into()));
            }
            Ok(scan) => self.page = Page::new(scan, after),
            Err(error) => self.outbox.end(FeedEnd::StoreFailed(error.to_string().into())),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.feed.unsubscribe(self.scope.tenant(), &self.outbox);
    }
}

fn last_number(item: &FeedItem) -> Option<u64> {
    match item {
        FeedItem::Entry { sequence, .. } => Some(*sequence),
        FeedItem::Gap { to, .. } | FeedItem::Void { to, .. } => Some(*to),
        FeedItem::Closed(_) => None,
    }
}
