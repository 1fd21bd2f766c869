//! The flusher: one thread that turns a full memtable into a part and makes it valid by a manifest.
//!
//! ```text
//! idle ──due──▶ freeze ──▶ write parts ──▶ dead letters settled? ──▶ commit the manifest ──▶ drop the memtable ──▶ idle
//!                              └───────────── any error: remove what was written, back off, again ─────────────┘
//! ```
//!
//! A flush covers exactly the seals (`flushed`, L], L being the last one applied when the memtable was frozen. Nothing is
//! dropped from memory before the manifest is durable. It writes at most two parts: rows whose event is older than two months, as
//! an import brings them, go into one of their own, so that recent parts stay narrow in time. While a flush is at
//! work, or fails again and again, a new memtable takes seals; when both exceed `memtable_bytes`, applying blocks, and the
//! seals wait in the log. Retries go on for ever, with growing pauses up to 30 s; health says why.

use super::{
    Inner, State, StoreSettings,
    manifest::{Manifest, TenantEntry},
    memtable::{Memtable, TableView},
    part::{self, Part, PartError, PartMeta, RowIn},
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
    ops::Range,
    sync::{Arc, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;
use uuid::Uuid;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Runs until the store is closed.
pub(super) fn run(inner: &Inner) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        inner.note_failure("the flusher has no runtime to wait with");
        return;
    };
    let mut flusher = Flusher { inner, runtime };
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
    fn until_done(&self, frozen: &Frozen) -> Option<()> {
        let contents = frozen.memtable.contents();
        let (mut pause, mut parts) = (FIRST_PAUSE, None);
        loop {
            match self.attempt(frozen, &contents, &mut parts) {
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

    /// `parts` is what an earlier attempt wrote; a flush without rows writes none.
    fn attempt(&self, frozen: &Frozen, contents: &[(TenantId, TableView)], parts: &mut Option<Vec<Arc<Part>>>) -> Result<(), Failure> {
        let began = Instant::now();
        let written = match parts {
            Some(written) => written.clone(),
            None => parts.insert(self.write_parts(&frozen.state, contents)?).clone(),
        };
        self.wait_for_dead_letters(frozen.state.n)?;
        let manifest = self.inner.commit(
            |next| advance(next, frozen, contents, &written),
            |view| {
                view.parts = view.parts.iter().chain(&written).cloned().collect();
                view.frozen = None;
            },
        )?;
        let mut state = self.inner.state();
        (state.frozen_bytes, state.flushed, state.flush_error) = (0, manifest.flushed, None);
        drop(state);
        self.inner.changed.notify_all();
        metrics().flushed(manifest.flushed, began.elapsed());
        tracing::debug!(manifest = manifest.number, flushed = manifest.flushed, "flushed");
        Ok(())
    }

    /// The parts of what the erasures as of `state` leave: one of old rows, one of recent ones, or none, since a seal may hold
    /// nothing but repeats.
    fn write_parts(&self, state: &SealState, contents: &[(TenantId, TableView)]) -> Result<Vec<Arc<Part>>, Failure> {
        let seals = (self.inner.commit.current().flushed + 1, state.n);
        let begin = recent_from(&self.inner.settings);
        let mut parts = Vec::new();
        for times in [i64::MIN..begin, begin..i64::MAX] {
            let name = part_name("p", seals);
            match self.write_part(&name, seals, state, contents, &times) {
                Ok(part) => parts.extend(part.map(Arc::new)),
                Err(error) => {
                    parts.iter().for_each(|part| self.inner.clear(&part.meta().name));
                    self.inner.clear(&name);
                    return Err(Failure::Failed(error.to_string()));
                }
            }
        }
        Ok(parts)
    }

    fn write_part(
        &self,
        name: &str,
        seals: (u64, u64),
        state: &SealState,
        contents: &[(TenantId, TableView)],
        times: &Range<i64>,
    ) -> Result<Option<Part>, PartError> {
        let (fs, dir) = (&*self.inner.fs, &self.inner.parts);
        let mut rows = contents.iter().flat_map(|(tenant, table)| {
            let erasures = state.erasures_of(tenant).map(|all| &**all);
            let rows = if table.overlaps(times) { table.sorted_rows(erasures) } else { Vec::new() };
            rows.into_iter().filter(|row| times.contains(&row.timestamp)).map(move |row| RowIn {
                tenant,
                sequence: row.sequence,
                received_at: row.received_at(),
                actor: row.actor(),
                entry: row.entry(),
            })
        });
        let Some(first) = rows.next() else { return Ok(None) };
        let meta = part::write(fs, dir, name, seals, &mut std::iter::once(first).chain(rows))?;
        let meta = PartMeta { erased_upto: state.n, ..meta };
        Part::open(fs, dir, meta).map(Some)
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
}

/// Makes the manifest that follows a flush.
fn advance(next: &mut Manifest, frozen: &Frozen, contents: &[(TenantId, TableView)], parts: &[Arc<Part>]) {
    (next.flushed, next.seal_crc, next.log_segment) = (frozen.state.n, frozen.state.crc, frozen.state.segment);
    next.parts.extend(parts.iter().map(|part| part.meta().clone()));
    for (tenant, state) in &frozen.state.tenants {
        next.tenants.entry(tenant.clone()).or_default().state = *state;
    }
    for (tenant, erasures) in &frozen.state.erasures {
        next.tenants.entry(tenant.clone()).or_default().erasures = Erasures::clone(erasures);
    }
    for tenant in &frozen.state.retired {
        next.tenants.entry(tenant.clone()).or_default().retired = true;
    }
    for (tenant, table) in contents {
        next.tenants.entry(tenant.clone()).or_default().voids.extend(&table.voids);
    }
}

/// Rows of this time or later are recent: those of the last two months, by event time.
pub(super) fn recent_from(settings: &StoreSettings) -> i64 {
    const TWO_MONTHS_MS: i64 = 61 * 24 * 3600 * 1000;
    (settings.now)().saturating_sub(TWO_MONTHS_MS)
}

/// `p` for a flush, `m` for a merge. Unique: a part that a crash left over must not be in the way of the next attempt.
pub(super) fn part_name(kind: &str, seals: (u64, u64)) -> String {
    format!("{kind}-{:016x}-{:016x}-{:08x}", seals.0, seals.1, Uuid::new_v4().as_fields().0)
}

/// Whether a file is one of a part.
pub(super) fn is_part_file(file: &str) -> bool {
    file.starts_with("p-") || file.starts_with("m-")
}

/// Whether a manifest must have been there before the file: a merge works on committed parts, and a second flush follows a
/// first.
pub(super) fn follows_a_manifest(file: &str) -> bool {
    let first_seal = |rest: &str| u64::from_str_radix(rest.get(..16)?, 16).ok();
    file.starts_with("m-") || file.strip_prefix("p-").and_then(first_seal).is_some_and(|first| first > 1)
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
        metrics().parts(next.parts.len());
        *current = Arc::new(next);
        out
    }

    /// Removes the files of a part that no manifest may name; what cannot be removed is an orphan for the next clean start.
    pub(super) fn clear(&self, name: &str) {
        for file in self.fs.list(&self.parts).unwrap_or_default().iter().filter(|file| is_file_of(file, name)) {
            let _ = self.fs.remove(&self.parts.join(file));
        }
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
