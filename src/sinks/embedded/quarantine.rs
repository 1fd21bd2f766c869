//! Parts that turn out to be damaged while the store is at work.
//!
//! A damaged part is left out of the view from then on, whoever finds it (a query, the ledger, a merge): a query that met it
//! runs again on the rest, and [`Condition`](crate::sinks::Condition) says that rows are missing. Its
//! files and its place in the manifest stay, so that every start reports it until somebody puts it right; no merge touches
//! it or passes over it. The ledger goes on asking what of it can be read.

use super::{
    Inner, StoreDamage,
    part::{PartError, data_file},
    query,
};
use crate::{sinks::StoreError, telemetry::metrics::metrics};
use std::sync::{Arc, MutexGuard, PoisonError, atomic::Ordering};

/// Damage that reads have found is remembered up to this number.
const DAMAGE_NOTED: usize = 100;

impl Inner {
    pub(super) fn damage(&self) -> MutexGuard<'_, Vec<StoreDamage>> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until no part of the view that `read` takes is damaged. Ends: each round takes a part out of the newest view, or
    /// finds that another reader has done so.
    pub(super) fn without_bad_parts<T>(&self, read: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut gone: Option<Arc<str>> = None;
        loop {
            match read() {
                Err(StoreError::BadPart { part, what }) => {
                    if !self.quarantine(&part, &what) && gone.as_ref() == Some(&part) {
                        return Err(StoreError::Damaged(what)); // it was not in the view that this round took
                    }
                    gone = Some(part);
                }
                Err(StoreError::Damaged(what)) => {
                    self.note_damage(StoreDamage {
                        what: what.to_string(),
                        file: "parts".into(),
                        seals: None,
                        rows: None,
                        rebuilt: false,
                    });
                    return Err(StoreError::Damaged(what));
                }
                done => return done,
            }
        }
    }

    /// Leaves the part out of the answers. `false`: it is not in the newest view any more.
    pub(super) fn quarantine(&self, part: &str, what: &str) -> bool {
        self.degraded.store(true, Ordering::Release);
        let taken = self.change_view(|view| {
            let bad = view.parts.iter().find(|p| p.meta().name == part).cloned()?;
            view.parts = view.parts.iter().filter(|p| p.meta().name != part).cloned().collect();
            view.quarantined = view.quarantined.iter().cloned().chain([bad.clone()]).collect();
            Some(bad)
        });
        if let Some(bad) = &taken {
            metrics().part_quarantined();
            self.note_damage(StoreDamage {
                what: format!("a part cannot be read: {what}; it is left where it is, and its rows are missing in all answers until it is restored"),
                file: format!("parts/{}", data_file(part)),
                seals: Some(bad.meta().seals),
                rows: Some(bad.meta().rows),
                rebuilt: false,
            });
        }
        taken.is_some()
    }

    /// The ledger met a row that it cannot read, and takes it for none: the entry is stored again if it was sent again.
    pub(super) fn ledger_row_unreadable(&self, error: &PartError) {
        metrics().ledger_unreadable();
        if let StoreError::BadPart { part, what } = query::unreadable(error) {
            self.quarantine(&part, &what);
        }
    }

    /// Remembers damage that was found since the start, once and within a bound.
    fn note_damage(&self, found: StoreDamage) {
        let mut damage = self.damage();
        if damage.len() < DAMAGE_NOTED && !damage.iter().any(|known| known.what == found.what) {
            damage.push(found);
        }
    }
}
