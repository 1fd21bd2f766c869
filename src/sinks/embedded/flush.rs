//! The flusher: one thread that turns a full memtable into a part and makes it valid by a manifest.
//!
//! ```text
//! idle ──due──▶ freeze ──▶ write the part ──▶ dead letters settled? ──▶ commit the manifest ──▶ drop the memtable ──▶ idle
//!                              └───────────── any error: remove what was written, back off, again ─────────────┘
//! ```
//!
//! A flush covers exactly the seals (`flushed`, L], L being the last one applied when the memtable was frozen. Nothing is
//! dropped from memory before the manifest is durable, and the manifest is made from the one before it. While a flush is at
//! work, or fails again and again, a new memtable takes seals; when both exceed `memtable_bytes`, applying blocks, and the
//! seals wait in the log. Retries go on for ever, with growing pauses up to 30 s; health says why.

use super::{
    Inner, State,
    manifest::{Manifest, TenantEntry, path},
    memtable::{Memtable, TableView},
    part::{self, Part, PartMeta, RowIn},
    view::{Flushed, View},
};
use crate::{
    model::tenant::TenantId,
    seal::{erasure::Erasures, state::SealState},
    sinks::StoreError,
    telemetry::metrics::metrics,
};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;
use uuid::Uuid;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Runs until the store is closed. `current` is the manifest that the store was opened with, `last_number` the largest
/// number that a manifest has.
pub(super) fn run(inner: &Inner, current: Manifest, last_number: u64) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        inner.note_failure("the flusher has no runtime to wait with");
        return;
    };
    let mut flusher = Flusher {
        inner,
        runtime,
        current,
        last_number,
    };
    while let Some(frozen) = flusher.next() {
        if flusher.until_done(&frozen).is_none() {
            return;
        }
    }
}

/// A memtable to which nothing is applied any more, and what the seals up to its last one add up to.
struct Frozen {
    memtable: Arc<Memtable>,
    state: SealState,
}

/// Why a flush was given up.
enum Failure {
    Closing,
    Failed(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

struct Flusher<'a> {
    inner: &'a Inner,
    /// Only waits for dead letters.
    runtime: tokio::runtime::Runtime,
    current: Manifest,
    last_number: u64,
}

impl Flusher<'_> {
    /// Waits until a flush is due and freezes the memtable; `None` when the store closes.
    fn next(&mut self) -> Option<Frozen> {
        let mut state = self.inner.state();
        while !state.closing {
            match state.due_in(&self.inner.settings) {
                Some(Duration::ZERO) => return Some(self.freeze(state)),
                Some(pause) => state = self.inner.wait_for(state, pause),
                None => state = self.inner.wait(state),
            }
        }
        None
    }

    /// No seal is half applied here: the state's lock is held while one is.
    fn freeze(&self, mut state: MutexGuard<'_, State>) -> Frozen {
        state.frozen_bytes = std::mem::take(&mut state.active_bytes);
        (state.log_bytes, state.oldest) = (0, None);
        let memtable = self.inner.change_view(|view| {
            let frozen = std::mem::replace(&mut view.active, Arc::new(Memtable::new()));
            view.frozen = Some(frozen.clone());
            frozen
        });
        Frozen {
            memtable,
            state: state.seals.clone(),
        }
    }

    /// Tries until it is done; `None` when the store closes before. A part is written once: a manifest whose writing failed
    /// may yet turn out to be durable, and what it names must be there.
    fn until_done(&mut self, frozen: &Frozen) -> Option<()> {
        let contents = frozen.memtable.contents();
        let (mut pause, mut part) = (FIRST_PAUSE, None);
        loop {
            match self.attempt(frozen, &contents, &mut part) {
                Ok(()) => return Some(()),
                Err(Failure::Closing) => return None,
                Err(Failure::Failed(reason)) => {
                    tracing::warn!(%reason, pause_ms = pause.as_millis() as u64, "a flush failed and will be tried again");
                    self.inner.note_failure(&reason);
                    self.pause(pause)?;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// `None` when the store closes meanwhile. Somebody who asks for a flush ends the pause.
    fn pause(&self, pause: Duration) -> Option<()> {
        let (until, mut state) = (Instant::now() + pause, self.inner.state());
        let asked = state.asked;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.closing {
                return None;
            }
            if left.is_zero() || state.asked != asked {
                return Some(());
            }
            state = self.inner.wait_for(state, left);
        }
    }

    /// `part` is what an earlier attempt wrote; the inner `None` is a flush without rows.
    fn attempt(&mut self, frozen: &Frozen, contents: &[(TenantId, TableView)], part: &mut Option<Option<Arc<Part>>>) -> Result<(), Failure> {
        let began = Instant::now();
        let written = match part {
            Some(written) => written.clone(),
            None => part.insert(self.write_part(&frozen.state, contents)?).clone(),
        };
        self.wait_for_dead_letters(frozen.state.n)?;
        let next = self.next_manifest(frozen, contents, written.as_ref().map(|p| p.meta().clone()));
        next.write(&*self.inner.fs, &self.inner.manifests)?;
        self.committed(next, written);
        metrics().flushed(self.current.flushed, began.elapsed(), self.current.parts.len());
        Ok(())
    }

    /// No part when no row is new, since a seal may hold nothing but repeats, or none is left by the erasures as of `state`.
    fn write_part(&self, state: &SealState, contents: &[(TenantId, TableView)]) -> Result<Option<Arc<Part>>, Failure> {
        let seals = (self.current.flushed + 1, state.n);
        let (fs, dir, name) = (&*self.inner.fs, &self.inner.parts, part_name(seals));
        let mut rows = contents.iter().flat_map(|(tenant, table)| {
            let erasures = state.erasures_of(tenant).map(|all| &**all);
            table.sorted_rows(erasures).into_iter().map(move |row| RowIn {
                tenant,
                sequence: row.sequence,
                received_at: row.received_at(),
                actor: row.actor(),
                entry: row.entry(),
            })
        });
        let Some(first) = rows.next() else { return Ok(None) };
        let written = part::write(fs, dir, &name, seals, &mut std::iter::once(first).chain(rows)).and_then(|meta| {
            let meta = PartMeta { erased_upto: state.n, ..meta };
            Part::open(fs, dir, meta)
        });
        written.map(|part| Some(Arc::new(part))).map_err(|error| {
            self.clear(&name);
            Failure::Failed(error.to_string())
        })
    }

    fn wait_for_dead_letters(&self, upto: u64) -> Result<(), Failure> {
        let (mut settled, mut closing) = (self.inner.dead_letters.clone(), self.inner.closing.subscribe());
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                reached = settled.wait_for(|n| *n >= upto) => match reached {
                    Ok(_) => Ok(()),
                    Err(_) => Err(Failure::Failed("the dead letters are gone".into())),
                },
                _ = closing.wait_for(|closing| *closing) => Err(Failure::Closing),
            }
        })
    }

    fn next_manifest(&self, frozen: &Frozen, contents: &[(TenantId, TableView)], part: Option<PartMeta>) -> Manifest {
        let mut next = Manifest {
            number: self.last_number + 1,
            previous: self.current.number,
            flushed: frozen.state.n,
            seal_crc: frozen.state.crc,
            log_segment: frozen.state.segment,
            parts: self.current.parts.clone(),
            tenants: self.current.tenants.clone(),
        };
        next.parts.extend(part);
        for (tenant, state) in &frozen.state.tenants {
            next.tenants.entry(tenant.clone()).or_default().state = *state;
        }
        for (tenant, erasures) in &frozen.state.erasures {
            next.tenants.entry(tenant.clone()).or_default().erasures = Erasures::clone(erasures);
        }
        for (tenant, table) in contents {
            next.tenants.entry(tenant.clone()).or_default().voids.extend(&table.voids);
        }
        next
    }

    /// The manifest is durable: readers go over to the part, and the memory is free.
    fn committed(&mut self, next: Manifest, part: Option<Arc<Part>>) {
        let flushed = Arc::new(flushed_of(&next));
        self.inner.change_view(|view| {
            view.parts = view.parts.iter().cloned().chain(part).collect();
            view.flushed = flushed;
            view.frozen = None;
        });
        self.last_number = next.number;
        let before = std::mem::replace(&mut self.current, next);
        if before.previous > 0 {
            // Failing to delete an old manifest harms nobody; a clean start deletes what is left.
            let _ = self.inner.fs.remove(&path(&self.inner.manifests, before.previous));
        }
        self.inner.trimmable.send_replace(before.flushed);
        let mut state = self.inner.state();
        (state.frozen_bytes, state.flushed, state.flush_error) = (0, self.current.flushed, None);
        drop(state);
        self.inner.changed.notify_all();
        tracing::debug!(manifest = self.current.number, flushed = self.current.flushed, "flushed");
    }

    /// Removes what a failed attempt left; what cannot be removed is an orphan for the next clean start.
    fn clear(&self, name: &str) {
        let (fs, dir) = (&*self.inner.fs, &self.inner.parts);
        for file in fs.list(dir).unwrap_or_default().iter().filter(|file| is_file_of(file, name)) {
            let _ = fs.remove(&dir.join(file));
        }
    }
}

/// Unique: a part that a crash left over must not be in the way of the next attempt.
fn part_name(seals: (u64, u64)) -> String {
    format!("p-{:016x}-{:016x}-{:08x}", seals.0, seals.1, Uuid::new_v4().as_fields().0)
}

/// The first seal of a part by the name of one of its files.
pub(super) fn first_seal_of(file: &str) -> Option<u64> {
    u64::from_str_radix(file.strip_prefix("p-")?.get(..16)?, 16).ok()
}

/// Whether a file belongs to the part.
pub(super) fn is_file_of(file: &str, part: &str) -> bool {
    file.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What readers need of a manifest's tenants.
pub(super) fn flushed_of(manifest: &Manifest) -> HashMap<TenantId, Flushed> {
    let flushed = |entry: &TenantEntry| Flushed {
        head: entry.state.head,
        voids: entry.voids.clone(),
    };
    manifest.tenants.iter().map(|(tenant, entry)| (tenant.clone(), flushed(entry))).collect()
}

impl Inner {
    pub(super) fn change_view<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        let mut current = self.view.write().expect("nothing panics while it holds the view");
        let mut next = View::clone(&current);
        let out = change(&mut next);
        *current = Arc::new(next);
        out
    }

    /// Tells health and whoever waits for a flush.
    fn note_failure(&self, reason: &str) {
        let mut state = self.state();
        state.failures += 1;
        state.flush_error = Some(StoreError::Io(reason.into()));
        drop(state);
        self.changed.notify_all();
    }
}
