//! Taking over a partition: reads the checkpoint, the cursors and the seals after them, and says where the sequencer goes on.
//!
//! Only the heads of seals are read. Those above the checkpoint give the state; those above what analytics and dead letters have
//! are handed to them again, and their rows are the window until then; the packs of all of them are known. What came before that
//! is asked of the ledger, if it was received before this memory begins.

use super::{ANALYTICS, Checkpoint, FoundHead, ObjectSealLog, SealHead, Seals, log::Writer};
use crate::{
    actors::sequencer::{SealRows, Start, memory::KnownPacks},
    model::time::now_ms,
    queue::SealReadError,
    seal::{Decision, FoundSeal, state::BrokenChain},
};
use futures_util::future;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Heads asked for at a time.
const AT_ONCE: u64 = 16;
/// How often the reading begins again because a living owner trimmed meanwhile.
const TRIES: usize = 5;

/// Why a partition cannot be taken over now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TakeError {
    /// Something cannot be read now.
    #[error(transparent)]
    Read(#[from] SealReadError),
    /// A seal that the state or a store needs is gone. If it stays so, somebody deleted seals: a store must be rebuilt, or the objects
    /// restored from a copy.
    #[error("seal `{0}` is needed and is not there")]
    Missing(u64),
    /// The seals do not belong together.
    #[error("the seals are damaged: {0}")]
    Broken(#[from] BrokenChain),
}

/// A partition that was taken over.
pub struct Taken {
    /// Its log, for the sequencer.
    pub log: Arc<ObjectSealLog>,
    /// Where the sequencer goes on.
    pub start: Start,
}

impl ObjectSealLog {
    /// Takes the partition over: whoever holds its lease calls this. If another owner is alive all the same, one of the two is
    /// fenced at its next seal. Must be called inside a tokio runtime.
    pub async fn take(seals: &Seals) -> Result<Taken, TakeError> {
        let (after, start) = read(seals, &now_ms).await?;
        tracing::info!(
            partition = seals.partition(),
            seal = after.state.n,
            to_apply = start.replay.len(),
            known = start.known.len(),
            "the partition was taken over"
        );
        let log = Arc::new(Self::start(Writer::new(seals.clone(), after), Handle::current()));
        Ok(Taken { log, start })
    }
}

/// Where a partition stands; see the module. `now` is the clock.
pub(super) async fn read(seals: &Seals, now: &(dyn Fn() -> i64 + Sync)) -> Result<(Checkpoint, Start), TakeError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match attempt(seals, now).await {
            Err(TakeError::Missing(_)) if tries < TRIES => {}
            outcome => return outcome,
        }
    }
}

async fn attempt(seals: &Seals, now: &(dyn Fn() -> i64 + Sync)) -> Result<(Checkpoint, Start), TakeError> {
    // The cursors come first: a checkpoint, and seals, that are read later are at least as far.
    let (shown, settled) = (seals.cursor(ANALYTICS).await?, seals.settled().await?);
    let mut after = seals.checkpoint().await?;
    let base = after.state.n.min(settled);
    // Only now: a pack of a seal up to `base` was received before this, however long the reading took until here.
    let begin = now();
    let mut known = KnownPacks::since(begin, seals.settings().clock_skew.as_millis() as i64);
    let (mut replay, mut window) = (Vec::new(), Vec::new());
    let mut at = base;
    'reading: loop {
        let heads = future::join_all((at + 1..=at + AT_ONCE).map(|n| seals.head(n))).await;
        for found in heads {
            let n = at + 1;
            let head = match found? {
                FoundHead::Head(head) => head,
                FoundHead::NotYet if n > after.state.n.max(settled) => break 'reading,
                FoundHead::NotYet | FoundHead::Trimmed => return Err(TakeError::Missing(n)),
            };
            at = n;
            if n > after.state.n {
                after.state.check_next(&head.seal)?;
                after.state.fold(&head.seal, head.crc);
                after.bytes = head.bytes_before + head.object_len;
            } else if n == after.state.n && head.crc != after.state.crc {
                return Err(TakeError::Broken(BrokenChain { last: n, found: n }));
            }
            for pack in &head.seal.packs {
                known.add_sealed(pack.pack_id, n, head.seal.sealed_at);
            }
            for made in &head.seal.erasures {
                known.add_sealed(made.erasure.job, n, head.seal.sealed_at);
            }
            if n > shown {
                window.push((n, rows_of(&head)));
            }
            if n > settled {
                replay.push(FoundSeal {
                    seal: head.seal,
                    crc: head.crc,
                    encoded_len: head.encoded_len,
                });
            }
        }
    }
    let start = Start {
        state: after.state.clone(),
        known,
        gap: None,
        replay,
        window: Some(window),
    };
    Ok((after, start))
}

/// The new rows of a seal by tenant.
fn rows_of(head: &SealHead) -> SealRows {
    let (mut rows, mut by_tenant) = (&head.rows[..], SealRows::new());
    for pack in &head.seal.packs {
        let new = pack.decisions.iter().filter(|d| **d == Decision::New).count();
        let (own, rest) = rows.split_at(new); // as many as the decisions say, which the format checks
        rows = rest;
        if new > 0 {
            by_tenant.push((head.seal.tenants[pack.tenant as usize].tenant.clone(), own.to_vec()));
        }
    }
    by_tenant
}
