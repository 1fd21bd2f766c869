//! The task that reads a partition: the seals after the last one, then the cursors.
//!
//! A look is complete when it found that there is no further seal, and has read the cursors after that: then everything that was
//! durable when it began is in the state. Heads are read in growing numbers at once while there are more. If a seal that comes next is trimmed,
//! or does not follow, the process is too far behind (or has read what a zombie left): it takes up the checkpoint.

use super::{
    Inner,
    partition::{Partition, Shown, State},
};
use crate::{
    model::time::now_ms,
    queue::{
        SealReadError, SealReader,
        seals::{FoundHead, SealHead, Seals},
    },
    seal::view::{Heads, Rewind},
};
use futures_util::future::join_all;
use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Heads that are read at once, at most.
const AT_ONCE: u64 = 16;
/// How often the floor is read for its own sake.
const FLOOR_EVERY: Duration = Duration::from_secs(5);
/// The rest after a look that failed, at first.
const FIRST_REST: Duration = Duration::from_millis(50);

/// Looks until it is dropped.
pub(super) async fn run(inner: Arc<Inner>, partition: Arc<Partition>) {
    let settings = inner.settings;
    let (mut rest, mut failing, mut floor_at) = (settings.poll, FIRST_REST, None);
    let mut tip = partition.seals.tip();
    loop {
        let began = (Instant::now(), now_ms());
        match look(&inner, &partition, &mut floor_at).await {
            Ok(news) => {
                partition.polled.send_replace(Some(began));
                failing = FIRST_REST;
                rest = if news || partition.is_awaited() {
                    settings.poll
                } else {
                    (rest * 2).min(settings.idle)
                };
            }
            Err(error) => {
                tracing::warn!(partition = partition.seals.partition(), %error, "the seals cannot be read; it is tried again");
                sleep(failing).await;
                failing = (failing * 2).min(settings.idle);
                continue;
            }
        }
        let last = partition.read(|state| state.seals.n).unwrap_or(0);
        tokio::select! {
            () = sleep(rest) => {}
            () = partition.nudge.notified() => {}
            // A sequencer of this process has made one.
            true = async { tip.wait_for(|tip| *tip > last).await.is_ok() } => {}
        }
    }
}

/// One look; whether there was anything new.
async fn look(inner: &Arc<Inner>, partition: &Arc<Partition>, floor_at: &mut Option<Instant>) -> Result<bool, SealReadError> {
    let mut news = false;
    if partition.read(|_| ()).is_none() {
        let state = state(inner, &partition.seals, 0).await?;
        install(inner, partition, state);
        news = true;
    }
    let mut width = 1;
    loop {
        let last = partition.read(|state| state.seals.n).unwrap_or(0);
        let heads = join_all((last + 1..=last + width).map(|n| partition.seals.head(n))).await;
        let mut there_are_more = true;
        for found in heads {
            match found? {
                FoundHead::Head(head) => match fold(inner, partition, &head) {
                    ControlFlow::Continue(()) => news = true,
                    ControlFlow::Break(why) => {
                        leap(inner, partition, &why).await?;
                        break;
                    }
                },
                FoundHead::NotYet => {
                    there_are_more = false;
                    break;
                }
                FoundHead::Trimmed => {
                    leap(inner, partition, "seals that come next are trimmed").await?;
                    break;
                }
            }
        }
        if !there_are_more {
            break;
        }
        width = (width * 2).min(AT_ONCE);
    }
    if floor_at.is_none_or(|at| at.elapsed() > FLOOR_EVERY) {
        partition.floor.fetch_max(partition.seals.floor().await?, Ordering::Relaxed);
        *floor_at = Some(Instant::now());
    }
    let news = cursors(inner, partition).await? || news;
    if news {
        // Views first, then the feed.
        inner.tell_views();
        if let Some(publishing) = &partition.publishing {
            publishing.shown(*partition.shown.borrow());
        }
    }
    Ok(news)
}

/// Takes the next seal into the state, and tells who waits for what is in it. Breaks if it does not follow.
fn fold(inner: &Inner, partition: &Partition, head: &SealHead) -> ControlFlow<String> {
    let seal = &head.seal;
    let folded = partition.change(|state| {
        let folded = state.fold(seal, head.crc);
        if folded.is_ok() {
            // Before anybody is told that the seal was folded in.
            inner.packs.sealed(partition.index, seal);
            inner.jobs.sealed(seal);
        }
        folded
    });
    if let Some(Err(broken)) = folded {
        return ControlFlow::Break(broken.to_string());
    }
    if let Some(publishing) = &partition.publishing {
        publishing.sealed(seal);
    }
    ControlFlow::Continue(())
}

/// Reads the cursors of stores that do not show everything; whether one has moved.
async fn cursors(inner: &Inner, partition: &Partition) -> Result<bool, SealReadError> {
    let behind = |state: &State| -> Vec<_> {
        let late = state
            .stores
            .iter()
            .enumerate()
            .filter(|(_, store)| store.detached || store.heads.upto() < state.seals.n);
        late.map(|(at, store)| (at, store.name)).collect()
    };
    let late = partition.read(behind).unwrap_or_default();
    if late.is_empty() {
        return Ok(false);
    }
    let found = join_all(late.iter().map(|(_, name)| partition.seals.cursor(name))).await;
    let found = found.into_iter().collect::<Result<Vec<_>, _>>()?;
    let floor = partition.floor.load(Ordering::Relaxed);
    let mut attached = false;
    let moved = partition.change(|state| {
        let mut moved = false;
        for ((at, name), cursor) in late.iter().zip(found) {
            let store = &mut state.stores[*at];
            let before = store.heads.upto();
            match (store.detached, cursor < floor) {
                (false, true) => {
                    tracing::error!(
                        store = name,
                        cursor,
                        floor,
                        "the store lacks seals that are trimmed; it is not read until it is rebuilt"
                    );
                    store.detached = true;
                }
                (true, false) => attached = true,
                (true, true) => {}
                (false, false) => moved |= store.heads.applied(cursor) > before,
            }
        }
        moved
    });
    if attached {
        // What a store that came back shows is not known here: the state is made again.
        let last = partition.read(|state| state.seals.n).unwrap_or(0);
        let state = state(inner, &partition.seals, last).await?;
        install(inner, partition, state);
    }
    Ok(moved.unwrap_or(false) || attached)
}

/// Takes up the checkpoint in the middle of the work. What was in between was not seen.
async fn leap(inner: &Inner, partition: &Partition, why: &str) -> Result<(), SealReadError> {
    let (last, from) = (partition.read(|state| state.seals.n).unwrap_or(0), partition.seals.partition());
    let state = state(inner, &partition.seals, 0).await?;
    if state.seals.n <= last {
        return Err(SealReadError(format!("{why}, and the checkpoint is not beyond seal `{last}`").into()));
    }
    tracing::warn!(
        partition = from,
        from = last,
        to = state.seals.n,
        why,
        "this process was too far behind; it goes on from the checkpoint"
    );
    install(inner, partition, state);
    Ok(())
}

/// Puts a state that was made anew in its place. If it is beyond the last seal that was seen, what is in between was not.
fn install(inner: &Inner, partition: &Partition, state: State) {
    let skipped = partition.read(|before| before.seals.n < state.seals.n).unwrap_or(false);
    if skipped {
        inner.packs.skipped();
        inner.jobs.skipped(&state.seals);
    }
    partition.replace(state);
    inner.tell_views();
    if let Some(publishing) = partition.publishing.as_ref().filter(|_| skipped) {
        publishing.skipped();
    }
}

/// The state as of the checkpoint, or of seal `upto` if that is later, with what each store shows of it.
async fn state(inner: &Inner, seals: &Seals, upto: u64) -> Result<State, SealReadError> {
    let (checkpoint, floor) = (seals.checkpoint().await?.state, seals.floor().await?);
    let mut stores = Vec::with_capacity(inner.stores.len());
    for (name, _) in &inner.stores {
        let cursor = seals.cursor(name).await?;
        let detached = cursor < floor;
        let at = if detached { checkpoint.n } else { cursor.min(checkpoint.n) };
        let heads = Heads::rewind(&checkpoint, at);
        stores.push(Rewound {
            name,
            detached,
            cursor,
            at,
            heads,
        });
    }
    let mut n = stores.iter().map(|store| store.at).min().unwrap_or(checkpoint.n);
    while n < checkpoint.n {
        let to = checkpoint.n.min(n + AT_ONCE);
        for head in heads(seals, n, to).await? {
            let lacking = stores.iter_mut().filter(|store| store.at < head.seal.n);
            lacking.for_each(|store| store.heads.pass(&head.seal));
        }
        n = to;
    }
    let shown = stores.into_iter().map(
        |Rewound {
             name, detached, cursor, heads, ..
         }| {
            let mut heads = heads.finish();
            heads.applied(cursor);
            Shown { name, heads, detached }
        },
    );
    let mut state = State::new(checkpoint, shown.collect());
    while state.seals.n < upto {
        let to = upto.min(state.seals.n + AT_ONCE);
        for head in heads(seals, state.seals.n, to).await? {
            state.fold(&head.seal, head.crc).map_err(|broken| SealReadError(broken.to_string().into()))?;
        }
    }
    Ok(state)
}

/// A store while the state is made.
struct Rewound {
    name: &'static str,
    detached: bool,
    cursor: u64,
    /// The seal as of which its heads begin.
    at: u64,
    heads: Rewind,
}

/// The heads after seal `from` up to `to`, all of which are there.
async fn heads(seals: &Seals, from: u64, to: u64) -> Result<Vec<SealHead>, SealReadError> {
    let found = join_all((from + 1..=to).map(|n| seals.head(n))).await;
    let there = |found| match found? {
        FoundHead::Head(head) => Ok(*head),
        FoundHead::NotYet | FoundHead::Trimmed => Err(SealReadError("seals were trimmed while they were read".into())),
    };
    found.into_iter().map(there).collect()
}
