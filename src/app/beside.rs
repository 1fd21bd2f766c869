//! A search store of its own beside the log of this process: it follows the log's seals behind its cursor, and holds back trimming unless
//! it is too far behind.

use super::{
    base::Base,
    recovered::Log,
    stores::{self, Refill, Search},
};
use crate::{
    error::AppError,
    model::{
        entry::StoredEntry,
        pack::Pack,
        tenant::{TenantId, TenantScope},
    },
    queue::{
        AcceptError, Accepted, Counters, Producer, SealReader,
        embedded::{EmbeddedQueue, seals::LogSeals},
        seals::{CursorStore, ObjectCursors, SEARCH},
    },
    seal::view::{AppliedView, SealView},
    sinks::{
        Authority,
        follow::{FollowParts, FollowSettings, FollowState, Following},
    },
};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use uuid::Uuid;

/// Where the search store stands, before the log is read.
pub struct Cursor {
    cursors: Arc<dyn CursorStore>,
    /// The last seal that it has.
    pub at: u64,
}

impl Cursor {
    /// Reads it.
    pub async fn read(base: &Base<'_>) -> Result<Self, AppError> {
        let cursors: Arc<dyn CursorStore> = Arc::new(ObjectCursors::new(base.objects.clone(), 0));
        let at = cursors.load(SEARCH).await.map_err(AppError::failed)?;
        Ok(Self { cursors, at })
    }
}

/// The search store, when the log was read.
pub struct Beside {
    cursor: Cursor,
    /// What it shows.
    pub view: Arc<AppliedView>,
    /// The store.
    pub search: Search,
}

impl Beside {
    /// Reaches the store. It shows what the seals up to its cursor say.
    pub async fn open(base: &Base<'_>, cursor: Cursor, log: &Log) -> Result<Self, AppError> {
        let view = Arc::new(AppliedView::new(log.sequencer.state.clone(), &log.later));
        let search = stores::search(base.settings, &base.passwords, view.clone())?.ok_or_else(|| AppError::usage("there is no search store"))?;
        search.watch(&base.health).await?;
        Ok(Self { cursor, view, search })
    }

    /// Begins to follow. What `trimmable` says of the authority is cut to what the search store has.
    pub fn follow(self, seals: LogSeals, authority: Arc<dyn Authority>, trimmable: watch::Receiver<u64>, base: &Base<'_>) -> Follows {
        let (settings, visible) = (base.settings, authority.visible());
        let refill = Refill {
            copy: self.search.copy,
            authority,
            catalog: base.catalog.clone(),
            has: Arc::new(move || Box::pin(std::future::ready(Ok(*visible.borrow())))),
            partitions: 1,
        };
        let parts = FollowParts {
            partition: 0,
            seals: Arc::new(seals.clone()),
            cursors: self.cursor.cursors,
            rebuild: Some(Arc::new(refill)),
            follower: self.search.follower,
        };
        let most_segments = (settings.seal.max_backlog / settings.wal.segment_bytes).max(1);
        Follows::start(parts, seals, self.view, trimmable, most_segments)
    }
}

/// A search store that follows. [`Follows::stop`] it.
pub struct Follows {
    following: Following,
    /// Up to which seal the log may be trimmed.
    pub trimmable: watch::Receiver<u64>,
    link: JoinHandle<()>,
}

impl Follows {
    /// Follows `seals`, tells `view` of what is applied, and cuts `authority`, what that lets be trimmed, while the search store needs it.
    fn start(parts: FollowParts, seals: LogSeals, view: Arc<AppliedView>, authority: watch::Receiver<u64>, most_segments: u64) -> Self {
        let following = Following::start(parts, FollowSettings::default());
        let (tell, both) = watch::channel(0);
        let link = Link {
            state: following.state(),
            view,
            seals,
            authority,
            most_segments,
            tell,
        };
        Self {
            following,
            trimmable: both,
            link: tokio::spawn(link.run()),
        }
    }

    /// Saves its cursor and ends.
    pub async fn stop(self) {
        self.following.stop().await;
        self.link.abort();
    }
}

/// Tells view, log and trimming how far the store is.
struct Link {
    state: watch::Receiver<FollowState>,
    view: Arc<AppliedView>,
    seals: LogSeals,
    authority: watch::Receiver<u64>,
    most_segments: u64,
    tell: watch::Sender<u64>,
}

impl Link {
    async fn run(mut self) {
        loop {
            let applied = self.state.borrow_and_update().applied;
            let trimmable = *self.authority.borrow_and_update();
            if applied > 0 {
                self.view.applied(applied);
                self.seals.applied(applied);
            }
            let detached = self.seals.backlog() > self.most_segments;
            let upto = if detached { trimmable } else { trimmable.min(applied) };
            self.tell.send_if_modified(|told| upto > std::mem::replace(told, upto.max(*told)));
            let ended = tokio::select! {
                changed = self.state.changed() => changed.is_err(),
                changed = self.authority.changed() => changed.is_err(),
            };
            if ended {
                return;
            }
        }
    }
}

/// The queue, where `wait=stored` waits for the search store too.
pub struct Searchable {
    /// The queue.
    pub queue: EmbeddedQueue,
    /// Its seals.
    pub seals: LogSeals,
    /// What the search store shows.
    pub view: Arc<AppliedView>,
}

impl Producer for Searchable {
    fn accept(&self, pack: Pack, wait: Option<Duration>) -> BoxFuture<'_, Result<Accepted, AcceptError>> {
        let Some(within) = wait else { return self.queue.accept(pack, None) };
        let deadline = Instant::now() + within;
        Box::pin(async move {
            let mut accepted = self.queue.accept(pack, wait).await?;
            if accepted.decided.is_some() {
                // The pack's seal is among them.
                let tip = *self.seals.tip().borrow();
                let mut visible = self.view.visible();
                let shown = tokio::time::timeout_at(deadline, visible.wait_for(|upto| *upto >= tip)).await;
                if !matches!(shown, Ok(Ok(_))) {
                    accepted.decided = None;
                }
            }
            Ok(accepted)
        })
    }

    fn pending(&self, scope: &TenantScope, id: Uuid) -> Option<StoredEntry> {
        self.queue.pending(scope, id)
    }

    fn room(&self, tenant: &TenantId) -> Result<(), AcceptError> {
        self.queue.room(tenant)
    }

    fn counters(&self, scope: &TenantScope) -> Counters {
        self.queue.counters(scope)
    }
}

#[cfg(test)]
mod tests;
