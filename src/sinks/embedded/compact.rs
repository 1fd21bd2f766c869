//! The compactor: one thread of low priority that keeps the parts few, and takes out rows that are erased.
//!
//! ```text
//! something changed ──▶ plan ──▶ merge ──▶ verify ──▶ commit ──▶ plan …
//!                         └─ nothing due: let go of the files of merged parts, then wait
//! ```
//!
//! Parts fall in two *ages*: those of which every event is older than two months, and the others. Within an age the parts stand
//! in the order of their seals, and only neighbours of the same *rung* are merged: a flush writes rung 0, a merge of rung r
//! writes rung r + 1. Parts of rung 2 stay as they are, and so do those of a quarter of the largest size, whatever their rung:
//! so a row is rewritten at most twice, and only once where data comes fast. A merge takes 8 parts that make such a part
//! together, or 12 of any size; with 12 the rung is full, and more than that means that merges are behind: then they take a
//! core, else a fifth of one. Rows that grew old meanwhile are split off into a part of their own age.
//!
//! Erased rows are left out of every merge once they are counted ([`Erasures::settled_covers`]). Besides, a part of which all
//! rows are erased is unlinked unread, and a part is rewritten alone when three tenths of it are erased, or half a day after
//! the first of its rows was. Erasures are taken from the newest manifest, so that they are durable before a row is gone.
//!
//! A damaged part stays where it is, and no merge passes over it. Merges stop first when the volume fills: they leave
//! `disk.reserve` free. Nothing that a query could miss depends on this thread: merged or not, the answers are the same.

use super::{
    Inner, StoreSettings,
    flush::{part_name, recent_from},
    manifest::Manifest,
    part::{Interrupted, Keep, Limits, Merge, Part, PartError, PartMeta, name_of},
    view::View,
};
use crate::{
    model::tenant::{TenantId, TenantScope},
    seal::erasure::{Cover, Erasures},
    sinks::StoreError,
    telemetry::metrics::metrics,
};
use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// Parts of this rung are not merged.
const LAST_RUNG: u8 = 2;
/// A part with this many erased rows in a hundred is rewritten.
const DEAD_PERCENT: u64 = 30;
/// A part with any erased row is rewritten after this time: within 24 hours, a restart included.
const DEAD_FOR: Duration = Duration::from_secs(12 * 3600);
/// How long the files of merged parts stay when no flush comes, so that the newest manifest can still be given up.
const KEEP_FOR: Duration = Duration::from_secs(60);
/// Without anything new it looks again after this time.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Work without a pause.
const BREATHE_EVERY: Duration = Duration::from_millis(20);

/// Runs until the store is closed.
pub(super) fn run(inner: &Inner) {
    #[cfg(target_os = "linux")] // of the thread there, of the whole process elsewhere
    if let Err(error) = rustix::process::setpriority_process(None, 10) {
        tracing::debug!(%error, "merges run at normal priority");
    }
    let mut compactor = Compactor {
        inner,
        erasures: Arc::default(),
        dead: HashMap::new(),
        opened: Instant::now(),
        merged: None,
    };
    let mut pause = Duration::from_millis(100);
    loop {
        let (asked, flushed) = {
            let state = inner.state();
            if state.closing {
                return;
            }
            (state.merges_asked > state.merges_done)
                .then_some(state.merges_asked)
                .map_or((None, state.flushed), |n| (Some(n), state.flushed))
        };
        match compactor.step(asked.is_some()) {
            Ok(Step::Did) => pause = Duration::from_millis(100),
            Ok(Step::Nothing) => inner.rest(asked, flushed, LOOK_EVERY, None),
            Ok(Step::NoRoom) => inner.rest(asked, flushed, LOOK_EVERY, Some("merges wait for room on the disk")),
            Err(Failure::Closing) => return,
            Err(Failure::Damaged) => (), // the part is out of the view: plan again
            Err(Failure::Failed(reason)) => {
                tracing::warn!(%reason, "a merge failed and will be tried again");
                inner.merge_failed(&reason);
                inner.rest(None, flushed, pause, Some(&reason));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

enum Step {
    Did,
    Nothing,
    NoRoom,
}

enum Failure {
    Closing,
    /// A part is damaged and left out of the view now.
    Damaged,
    Failed(String),
}

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
enum Job {
    /// All rows are erased.
    Drop(String),
    /// Write it without its erased rows.
    Rewrite(String),
    /// Neighbours.
    Merge(Vec<String>),
}

/// A part as the plan sees it.
#[derive(Debug, Clone)]
struct Candidate {
    meta: PartMeta,
    /// Whether it can be read as far as is known.
    good: bool,
    /// Erased rows that may go, and how long ago the first of them was seen.
    dead: (u64, Duration),
}

/// What is due first. `parts` stand in the order of their seals.
fn plan(parts: &[Candidate], settings: &StoreSettings) -> Option<Job> {
    let name = |p: &Candidate| p.meta.name.clone();
    if let Some(gone) = parts.iter().find(|p| p.good && p.dead.0 == p.meta.rows) {
        return Some(Job::Drop(name(gone)));
    }
    let is_due = |p: &&Candidate| p.good && p.dead.0 > 0 && (p.dead.0 * 100 >= p.meta.rows * DEAD_PERCENT || p.dead.1 >= DEAD_FOR);
    if let Some(due) = parts.iter().find(is_due) {
        return Some(Job::Rewrite(name(due)));
    }
    let full = runs(parts, settings).into_iter().find(|run| {
        let bytes: u64 = run.iter().map(|p| p.meta.bytes).sum();
        run.len() >= full_rung(settings) || run.len() >= settings.merge_parts && bytes >= large(settings)
    })?;
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for part in full {
        // Enough for a large part, and enough parts: the rest is for the next merge.
        if taken.len() >= settings.merge_parts && bytes >= large(settings) || taken.len() >= full_rung(settings) {
            break;
        }
        bytes += part.meta.bytes;
        taken.push(name(part));
    }
    Some(Job::Merge(taken))
}

/// Parts of one rung that are merged whatever their size: 12 where 8 are merged at least.
fn full_rung(settings: &StoreSettings) -> usize {
    (settings.merge_parts + settings.merge_parts / 2).max(2)
}

/// A part of this size is not merged any more.
fn large(settings: &StoreSettings) -> u64 {
    settings.part_bytes / 4
}

/// Neighbours of one age and rung that could be merged.
fn runs<'p>(parts: &'p [Candidate], settings: &StoreSettings) -> Vec<Vec<&'p Candidate>> {
    let begin = recent_from(settings);
    let mut runs = Vec::new();
    for old in [false, true] {
        let of_age = parts.iter().filter(|p| (p.meta.max_timestamp < begin) == old);
        let mut run: Vec<&Candidate> = Vec::new();
        for part in of_age {
            let fits = part.good && part.meta.rewrites < LAST_RUNG && part.meta.bytes < large(settings);
            if !fits || run.first().is_some_and(|first| first.meta.rewrites != part.meta.rewrites) {
                runs.push(std::mem::take(&mut run));
            }
            if fits {
                run.push(part);
            }
        }
        runs.push(run);
    }
    runs.retain(|run| run.len() > 1);
    runs
}

/// Which rows of a merge go into a result.
struct Kept {
    erasures: Arc<BTreeMap<TenantId, Erasures>>,
    times: Range<i64>,
}

impl Keep for Kept {
    fn block(&self, tenant: &TenantId, timestamps: (i64, i64), received: (i64, i64), sequences: (u64, u64)) -> Option<bool> {
        let cover = self
            .erasures
            .get(tenant)
            .map_or(Cover::None, |all| all.settled_may_cover(timestamps, received, sequences));
        if cover == Cover::All || timestamps.1 < self.times.start || timestamps.0 >= self.times.end {
            return Some(false);
        }
        let all = cover == Cover::None && self.times.start <= timestamps.0 && timestamps.1 < self.times.end;
        all.then_some(true)
    }

    fn row(&self, tenant: &TenantId, timestamp: i64, received_at: i64, sequence: u64) -> bool {
        self.times.contains(&timestamp)
            && !self
                .erasures
                .get(tenant)
                .is_some_and(|all| all.settled_covers(timestamp, received_at, sequence))
    }
}

struct Compactor<'i> {
    inner: &'i Inner,
    /// What may be left out, as of the manifest that was looked at last.
    erasures: Arc<BTreeMap<TenantId, Erasures>>,
    /// Erased rows of the parts, and when they were first seen.
    dead: HashMap<String, (u64, Instant)>,
    opened: Instant,
    /// When the last merge was committed.
    merged: Option<Instant>,
}

impl Compactor<'_> {
    /// Does the first thing that is due.
    fn step(&mut self, asked: bool) -> Result<Step, Failure> {
        let (manifest, view) = self.inner.newest();
        let parts = self.candidates(&manifest, &view)?;
        let Some(job) = plan(&parts, &self.inner.settings) else {
            return self.let_go(asked);
        };
        let behind = runs(&parts, &self.inner.settings).iter().any(|run| run.len() > full_rung(&self.inner.settings));
        match job {
            Job::Drop(name) => {
                self.replace(&HashSet::from([name]), &[])?;
                Ok(Step::Did)
            }
            Job::Rewrite(name) => self.rewrite(&[name], &manifest, &view, asked || behind),
            Job::Merge(names) => self.rewrite(&names, &manifest, &view, asked || behind),
        }
    }

    fn candidates(&mut self, manifest: &Manifest, view: &View) -> Result<Vec<Candidate>, Failure> {
        let erasures = manifest.tenants.iter().filter(|(_, t)| !t.erasures.is_empty());
        let erasures: BTreeMap<TenantId, Erasures> = erasures.map(|(tenant, t)| (tenant.clone(), t.erasures.clone())).collect();
        if *self.erasures != erasures {
            self.erasures = Arc::new(erasures);
            self.dead.retain(|_, (rows, _)| *rows > 0); // these keep their time, and are counted again below
            self.dead.values_mut().for_each(|(rows, _)| *rows = u64::MAX);
        }
        self.dead.retain(|name, _| manifest.parts.iter().any(|p| p.name == *name));
        let mut candidates = Vec::with_capacity(manifest.parts.len());
        for meta in &manifest.parts {
            let part = view.parts.iter().find(|p| p.meta().name == meta.name);
            let dead = part.map_or(Ok((0, Duration::ZERO)), |part| self.dead_rows(part))?;
            candidates.push(Candidate {
                meta: meta.clone(),
                good: part.is_some(),
                dead,
            });
        }
        Ok(candidates)
    }

    /// How many rows of the part may go, and how long that is known. Reads what the sidecar cannot tell, once for each part and
    /// state of the erasures.
    fn dead_rows(&mut self, part: &Part) -> Result<(u64, Duration), Failure> {
        let known = self.dead.get(&part.meta().name).copied();
        let (rows, since) = match known {
            Some((rows, since)) if rows != u64::MAX => (rows, since),
            _ => {
                let rows = count_dead(part, &self.erasures).map_err(|e| self.unreadable(&e))?;
                // What a start finds may have waited for long already.
                let since = known.map_or(if self.opened.elapsed() < LOOK_EVERY { None } else { Some(Instant::now()) }, |k| Some(k.1));
                (rows, since.or(self.opened.checked_sub(DEAD_FOR)).unwrap_or(self.opened))
            }
        };
        self.dead.insert(part.meta().name.clone(), (rows, since));
        Ok((rows, since.elapsed()))
    }

    /// Writes the rows of some parts anew, but for those that are erased, and puts the results in the place of the parts.
    fn rewrite(&mut self, names: &[String], manifest: &Manifest, view: &View, hurried: bool) -> Result<Step, Failure> {
        let began = Instant::now();
        let parts: Vec<Arc<Part>> = view.parts.iter().filter(|p| names.contains(&p.meta().name)).cloned().collect();
        let bytes = |meta: &PartMeta| meta.bytes + meta.sidecar_bytes;
        if !self.inner.has_room(parts.iter().map(|p| bytes(p.meta())).sum()) {
            return Ok(Step::NoRoom);
        }
        let mut written = Vec::new();
        let outcome = self.write(&parts, manifest, hurried, &mut written);
        if let Err(failure) = outcome {
            written.iter().for_each(|name| self.inner.clear(name));
            return match failure {
                Failure::Failed(reason) if reason == NO_ROOM => Ok(Step::NoRoom),
                other => Err(other),
            };
        }
        let mut results = Vec::new();
        for part in outcome.into_iter().flatten() {
            results.push(Arc::new(part));
        }
        self.replace(&names.iter().cloned().collect(), &results)?;
        self.merged = Some(Instant::now());
        let bytes: u64 = results.iter().map(|p| bytes(p.meta())).sum();
        self.inner.merges.count.fetch_add(1, Ordering::Relaxed);
        self.inner.merges.bytes.fetch_add(bytes, Ordering::Relaxed);
        metrics().compacted(bytes, began.elapsed());
        tracing::debug!(parts = parts.len(), results = results.len(), bytes, "merged");
        Ok(Step::Did)
    }

    /// Writes and verifies the results. `written` is told every name before it is used.
    fn write(&self, parts: &[Arc<Part>], manifest: &Manifest, hurried: bool, written: &mut Vec<String>) -> Result<Vec<Part>, Failure> {
        let inner = self.inner;
        let begin = recent_from(&inner.settings);
        let all = i64::MIN..i64::MAX;
        let is_mixed = parts.iter().any(|p| p.meta().min_timestamp < begin) && parts.iter().any(|p| p.meta().max_timestamp >= begin);
        let passes = if is_mixed { vec![i64::MIN..begin, begin..i64::MAX] } else { vec![all] };
        let rewrites = parts.iter().map(|p| p.meta().rewrites).max().unwrap_or(0) + u8::from(parts.len() > 1);
        let (mut results, mut rows) = (Vec::new(), 0);
        let breath = Breath::new(inner, hurried);
        let between = || breath.take();
        let limits = Limits {
            bytes: inner.settings.part_bytes,
            between: &between,
        };
        let (erasures, total) = (self.erasures.clone(), parts.iter().map(|p| p.meta().rows).sum::<u64>());
        let mut dead = 0;
        for times in &passes {
            let keep = Kept {
                erasures: erasures.clone(),
                times: times.clone(),
            };
            let mut merge = Merge::new(parts, &keep).map_err(|e| self.unreadable(&e))?;
            while !merge.is_done().map_err(|e| self.unreadable(&e))? {
                let seals = parts.iter().map(|p| p.meta().seals).fold((u64::MAX, 0), |s, p| (s.0.min(p.0), s.1.max(p.1)));
                let name = part_name("m", seals);
                written.push(name.clone());
                let meta = merge.next_part(&*inner.fs, &inner.parts, &name, &limits).map_err(|e| self.unreadable(&e))?;
                let Some(meta) = meta else { return Err(breath.reason()) };
                let meta = PartMeta {
                    erased_upto: manifest.flushed,
                    rewrites,
                    ..meta
                };
                let part = Part::open(&*inner.fs, &inner.parts, meta).and_then(|part| part.verify().map(|()| part));
                let part = part.map_err(|e| Failure::Failed(e.to_string()))?;
                rows += part.meta().rows;
                results.push(part);
            }
            dead += merge.rows().1;
        }
        // Each pass leaves out what is the other's: what is written and what is left out by all of them must be everything.
        let left_out = dead - (passes.len() as u64 - 1) * total;
        if rows + left_out == total {
            Ok(results)
        } else {
            Err(Failure::Failed(format!("a merge of {total} rows wrote {rows} and left out {left_out}")))
        }
    }

    /// Commits the results in the place of the parts, however often that takes: they are named by a manifest that may be
    /// durable, and stay.
    fn replace(&self, names: &HashSet<String>, results: &[Arc<Part>]) -> Result<(), Failure> {
        let mut pause = Duration::from_millis(100);
        loop {
            let done = self.inner.commit(
                |next| {
                    next.parts.retain(|part| !names.contains(&part.name));
                    next.parts.extend(results.iter().map(|part| part.meta().clone()));
                },
                |view| {
                    let is_other = |part: &&Arc<Part>| !names.contains(&part.meta().name);
                    let at = view.parts.iter().position(|part| names.contains(&part.meta().name));
                    let at = at.map_or(view.parts.len(), |at| view.parts[..at].iter().filter(is_other).count());
                    let mut parts: Vec<Arc<Part>> = view.parts.iter().filter(is_other).cloned().collect();
                    parts.splice(at..at, results.iter().cloned());
                    view.parts = parts.into();
                    view.quarantined = view.quarantined.iter().filter(is_other).cloned().collect();
                },
            );
            match done {
                Ok(_) => {
                    let mut state = self.inner.state();
                    state.merge_error = None;
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(%error, "a merge cannot be committed yet");
                    self.inner.merge_failed(&error.to_string());
                    if !self.inner.pause_merges(pause) {
                        return Err(Failure::Closing);
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Nothing is due. When the manifest before the newest keeps files of merged parts, it is given up, so that they can go:
    /// at once if somebody asked, else after a while.
    fn let_go(&mut self, asked: bool) -> Result<Step, Failure> {
        let is_time = self.merged.is_none_or(|at| at.elapsed() >= KEEP_FOR);
        if (asked || is_time) && self.inner.commit.keeps_more() {
            self.replace(&HashSet::new(), &[])?;
            return Ok(Step::Did);
        }
        Ok(Step::Nothing)
    }

    /// A part that is merged cannot be read: it is left out from now on. Other errors are those of the machine.
    fn unreadable(&self, error: &PartError) -> Failure {
        match error {
            PartError::Damaged { file, .. } if self.inner.quarantine(name_of(file), &error.to_string()) => Failure::Damaged,
            _ => Failure::Failed(error.to_string()),
        }
    }
}

/// Rows of the part that may go.
fn count_dead(part: &Part, erasures: &BTreeMap<TenantId, Erasures>) -> Result<u64, PartError> {
    let mut dead = 0;
    for (tenant, all) in erasures {
        let Some(rows) = part.tenant(&TenantScope::new(tenant.clone())) else {
            continue;
        };
        for block in rows.blocks() {
            match all.settled_may_cover(block.timestamps, block.received, block.sequences) {
                Cover::None => (),
                Cover::All => dead += block.rows.len() as u64,
                Cover::Some => {
                    let times = rows.times(block.rows.clone())?;
                    dead += times.iter().filter(|t| all.settled_covers(t.timestamp, t.received_at, t.sequence)).count() as u64;
                }
            }
        }
    }
    Ok(dead)
}

const NO_ROOM: &str = "no room";

/// Keeps a merge to its share of a core, and ends it when the store closes or the disk fills.
struct Breath<'i> {
    inner: &'i Inner,
    hurried: bool,
    /// When work began after the last pause.
    since: Cell<Instant>,
    closing: Cell<bool>,
}

impl<'i> Breath<'i> {
    fn new(inner: &'i Inner, hurried: bool) -> Self {
        Self {
            inner,
            hurried,
            since: Cell::new(Instant::now()),
            closing: Cell::new(false),
        }
    }

    fn take(&self) -> Result<(), Interrupted> {
        let worked = self.since.get().elapsed();
        if worked < BREATHE_EVERY {
            return Ok(());
        }
        let share = self.inner.settings.merge_share.clamp(0.01, 1.0);
        let pause = if self.hurried { Duration::ZERO } else { worked.mul_f64(1.0 / share - 1.0) };
        self.closing.set(!self.inner.pause_merges(pause));
        self.since.set(Instant::now());
        if self.closing.get() || !self.inner.has_room(0) {
            Err(Interrupted)
        } else {
            Ok(())
        }
    }

    fn reason(&self) -> Failure {
        if self.closing.get() {
            Failure::Closing
        } else {
            Failure::Failed(NO_ROOM.into())
        }
    }
}

impl Inner {
    /// Whether the volume keeps its reserve, and a quarter more, after `bytes` are written.
    fn has_room(&self, bytes: u64) -> bool {
        let reserve = self.settings.reserve;
        match self.fs.space(&self.parts) {
            Ok(space) => space.available >= reserve.saturating_add(reserve / 4).saturating_add(bytes),
            Err(_) => false,
        }
    }

    /// Waits; `false` when the store closes. Somebody who asks for merges ends it.
    fn pause_merges(&self, pause: Duration) -> bool {
        let (until, mut state) = (Instant::now() + pause, self.state());
        let asked = state.merges_asked;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.closing || left.is_zero() || state.merges_asked != asked {
                return !state.closing;
            }
            state = self.wait_for(state, left);
        }
    }

    /// Answers who asked, then waits until there may be something to do.
    fn rest(&self, asked: Option<u64>, flushed: u64, most: Duration, why: Option<&str>) {
        let (until, mut state) = (Instant::now() + most, self.state());
        if let Some(asked) = asked {
            state.merges_done = state.merges_done.max(asked);
            self.changed.notify_all();
        }
        state.merge_error = why.map(|why| StoreError::Io(why.into()));
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.closing || left.is_zero() || state.merges_asked > state.merges_done || state.flushed != flushed {
                return;
            }
            state = self.wait_for(state, left);
        }
    }

    /// Tells health and whoever waits for merges.
    fn merge_failed(&self, reason: &str) {
        metrics().store_fault();
        let mut state = self.state();
        state.merge_failures += 1;
        state.merge_error = Some(StoreError::Io(reason.into()));
        drop(state);
        self.changed.notify_all();
    }
}
