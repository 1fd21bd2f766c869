//! Housekeeping of a partition: writes checkpoints, raises the floor, deletes what is at or below it. It may be done by anybody, a
//! zombie too: checkpoints and floor only grow, and what it reads to compute them was true.

use super::{ANALYTICS, DEAD_LETTERS, checkpoint, cursor, log::Writer, seal_key};
use crate::queue::SealReadError;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// See the module.
pub(super) struct Keeper {
    writer: Arc<Writer>,
    /// A checkpoint of at least this seal is durable, since when.
    checkpointed: (u64, i64),
    /// Everything up to here is deleted, but for what [`Keeper::sweep`] finds.
    deleted: Option<u64>,
    /// Where a store stands, and the bytes of all seals up to there.
    places: HashMap<String, (u64, u64)>,
    /// Stores that were detached, so that it is said once.
    detached: HashSet<String>,
}

impl Keeper {
    pub(super) fn new(writer: Arc<Writer>) -> Self {
        Self {
            writer,
            checkpointed: (0, 0),
            deleted: None,
            places: HashMap::new(),
            detached: HashSet::new(),
        }
    }

    /// Deletes what an owner left that died between raising the floor and deleting, or a zombie. The only listing.
    pub(super) async fn sweep(&self) {
        let (seals, left) = (self.writer.seals(), self.leftovers().await);
        for key in left {
            if let Err(error) = seals.objects().delete(&key).await {
                tracing::warn!(%error, "a trimmed seal was not deleted; the next owner tries again");
            }
        }
    }

    async fn leftovers(&self) -> Vec<crate::objects::Key> {
        let seals = self.writer.seals();
        let p = seals.partition();
        let (floor, found) = match (seals.floor().await, seals.objects().list(&format!("seal/{p}")).await) {
            (Ok(floor), Ok(found)) => (floor, found),
            (Err(error), _) => return skipped(&error),
            (_, Err(error)) => return skipped(&error),
        };
        let last = seal_key(p, floor);
        found.into_iter().filter(|key| *key <= last).collect()
    }

    /// One look. `last`: the owner stops, so that a checkpoint is due if there is anything new.
    pub(super) async fn turn(&mut self, now: i64, last: bool) -> Result<(), SealReadError> {
        self.check_point(now, last).await?;
        let seals = self.writer.seals();
        let floor = seals.floor().await?;
        let deleted = *self.deleted.get_or_insert(floor);
        let (n, settings) = (self.writer.reached().0, seals.settings().clone());
        let upto = self.lowest(floor).await?.min(n.saturating_sub(settings.keep));
        let floor = if upto >= floor + settings.trim_seals.max(1) {
            self.writer.seals().floor_number().raise(upto).await?
        } else {
            floor
        };
        // Never above the floor that is durable by now.
        for n in deleted + 1..=floor {
            let seals = self.writer.seals();
            seals.objects().delete(&seal_key(seals.partition(), n)).await?;
            self.deleted = Some(n);
        }
        Ok(())
    }

    async fn check_point(&mut self, now: i64, last: bool) -> Result<(), SealReadError> {
        let (seals, (covered, since)) = (self.writer.seals(), self.checkpointed);
        let (n, settings) = (self.writer.reached().0, seals.settings());
        let late = now - since >= settings.checkpoint_every.as_millis() as i64;
        if n > covered && (last || late || n >= covered + settings.checkpoint_seals) {
            let checkpoint = self.writer.checkpoint();
            checkpoint::save(&**seals.objects(), seals.partition(), &checkpoint).await?;
            self.checkpointed = (checkpoint.state.n, now);
        }
        Ok(())
    }

    /// The lowest of the checkpoint and what the stores have.
    async fn lowest(&mut self, floor: u64) -> Result<u64, SealReadError> {
        let seals = self.writer.seals().clone();
        let mut low = self.checkpointed.0.min(seals.cursor(ANALYTICS).await?).min(seals.cursor(DEAD_LETTERS).await?);
        for store in &seals.settings().followers {
            let (cursor, pin) = (seals.cursor(store).await?, seals.cursor(&cursor::pin(store)).await?);
            if self.holds(store, cursor, floor).await? {
                low = low.min(cursor);
            }
            if pin > 0 && self.holds(&cursor::pin(store), pin, floor).await? {
                low = low.min(pin);
            }
        }
        Ok(low)
    }

    /// Whether a store that stands at `cursor` holds back trimming: not if it is detached, or is to be.
    async fn holds(&mut self, store: &str, cursor: u64, floor: u64) -> Result<bool, SealReadError> {
        let (n, bytes) = self.writer.reached();
        let seals = self.writer.seals();
        let behind = match self.places.get(store) {
            _ if cursor < floor || cursor >= n => 0,
            Some((at, before)) if *at == cursor => bytes - before,
            _ => match seals.header(cursor + 1).await? {
                Some(next) => {
                    self.places.insert(store.to_owned(), (cursor, next.bytes_before));
                    bytes.saturating_sub(next.bytes_before)
                }
                None => 0, // trimmed meanwhile: seen at the next look
            },
        };
        if cursor >= floor && behind <= seals.settings().max_backlog {
            self.detached.remove(store);
            return Ok(true);
        }
        if self.detached.insert(store.to_owned()) {
            tracing::warn!(
                partition = seals.partition(),
                store,
                cursor,
                floor,
                behind,
                "a store is too far behind and is detached: it must be rebuilt"
            );
        }
        Ok(false)
    }
}

fn skipped<T: Default>(error: &dyn std::fmt::Display) -> T {
    tracing::warn!(%error, "trimmed seals that an owner may have left are not looked for");
    T::default()
}
