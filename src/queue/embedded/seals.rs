//! The log's seals, read back by their numbers: for a store of its own that follows them beside, or behind, the authority.
//!
//! It is the queue's [`SealLog`] with two things added: whoever keeps a view of the seals hears of each when it is durable and before any
//! store applies it; and where each seal stands is kept (some 40 bytes) until the store that follows has it ([`LogSeals::applied`]). The
//! newest seals are kept as they are, up to [`RECENT`] bytes; older ones are read from their segments.
//!
//! It does not hold back trimming: what is gone is [`Found::Trimmed`].

use super::EmbeddedQueue;
use crate::{
    model::pack::Pack,
    queue::{
        Found, Position, SealLog, SealLogError, SealReadError, SealReader,
        wal::{RecordKind, WalError},
    },
    seal::{DecidedSeal, Seal, codec},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use smallvec::SmallVec;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;
use uuid::Uuid;

/// Seals kept as they are, bytes.
const RECENT: usize = 8 << 20;

/// Hears of a durable seal and its CRC.
pub type Told = Box<dyn Fn(&Seal, u32) + Send + Sync>;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct LogSeals(Arc<Inner>);

struct Inner {
    queue: EmbeddedQueue,
    told: Told,
    state: Mutex<State>,
    tip: watch::Sender<u64>,
}

struct State {
    places: BTreeMap<u64, Position>,
    recent: VecDeque<Arc<DecidedSeal>>,
    bytes: usize,
    /// Seals up to here are not to be had.
    floor: u64,
}

impl LogSeals {
    /// Over a log that was recovered: `places` says where the seals stand that may still be asked for, `floor` that those up to it are gone,
    /// and `tip` is the last.
    pub fn new(queue: EmbeddedQueue, places: BTreeMap<u64, Position>, floor: u64, tip: u64, told: Told) -> Self {
        let state = State {
            places,
            recent: VecDeque::new(),
            bytes: 0,
            floor,
        };
        Self(Arc::new(Inner {
            queue,
            told,
            state: Mutex::new(state),
            tip: watch::Sender::new(tip),
        }))
    }

    /// The store that follows has every seal up to `n`: they are not asked for again.
    pub fn applied(&self, n: u64) {
        let mut state = self.0.state();
        state.places = state.places.split_off(&n.saturating_add(1));
        state.floor = state.floor.max(n);
    }

    /// How many segments of the log hold seals that the store does not have.
    pub fn backlog(&self) -> u64 {
        let state = self.0.state();
        match (state.places.first_key_value(), state.places.last_key_value()) {
            (Some((_, first)), Some((_, last))) => last.segment - first.segment,
            _ => 0,
        }
    }
}

fn size(seal: &DecidedSeal) -> usize {
    seal.encoded_len + seal.packs.iter().map(|pack| pack.bytes().len()).sum::<usize>()
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner) // changed by single insertions and removals
    }

    fn made(&self, at: Position, seal: DecidedSeal) {
        let mut state = self.state();
        state.places.insert(seal.seal.n, at);
        state.bytes += size(&seal);
        state.recent.push_back(Arc::new(seal));
        while state.bytes > RECENT && state.recent.len() > 1 {
            let oldest = state.recent.pop_front().expect("there are several");
            state.bytes -= size(&oldest);
        }
    }

    /// Seal `n`, or the next one where numbers were skipped. Blocks.
    fn find(&self, n: u64) -> Result<Found, SealReadError> {
        let at = {
            let state = self.state();
            if n > *self.tip.borrow() {
                return Ok(Found::NotYet);
            }
            if n <= state.floor {
                return Ok(Found::Trimmed);
            }
            if let Some(seal) = state.recent.iter().find(|seal| seal.seal.n >= n)
                && state.recent.front().is_some_and(|first| first.seal.n <= n)
            {
                return Ok(Found::Seal(seal.clone()));
            }
            match state.places.range(n..).next() {
                Some((_, at)) => *at,
                None => return Ok(Found::NotYet),
            }
        };
        let failed = |why: &dyn std::fmt::Display| SealReadError(why.to_string().into());
        let bytes = match self.queue.shared.wal.read(at) {
            Ok((RecordKind::Seal, bytes)) => bytes,
            Ok((RecordKind::Pack, _)) => return Err(failed(&"a pack stands in its place")),
            Err(WalError::NotHere { .. }) => return Ok(Found::Trimmed),
            Err(error) => return Err(failed(&error)),
        };
        let encoded_len = bytes.len();
        let (mut seal, crc) = codec::decode(&bytes).map_err(|error| failed(&error))?;
        let loaded = self.queue.load(&seal).map_err(|error| failed(&error))?;
        // Packs that cannot be read any more have no row in any store; the sequencer's follower reports them.
        let (kept, packs) = seal.packs.drain(..).zip(loaded).filter_map(|(of, pack)| Some((of, pack?))).unzip();
        seal.packs = kept;
        Ok(Found::Seal(Arc::new(DecidedSeal { seal, crc, packs, encoded_len })))
    }
}

impl SealReader for LogSeals {
    fn read(&self, n: u64) -> BoxFuture<'static, Result<Found, SealReadError>> {
        let inner = self.0.clone();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || inner.find(n)).await;
            read.unwrap_or_else(|error| Err(SealReadError(error.to_string().into())))
        })
    }

    fn tip(&self) -> watch::Receiver<u64> {
        self.0.tip.subscribe()
    }
}

impl SealLog for LogSeals {
    fn append(&self, seal: &Seal, encoded: Bytes, packs: &[Arc<Pack>]) -> Result<Position, SealLogError> {
        let (crc, encoded_len) = (codec::crc_of(&encoded), encoded.len());
        let at = self.0.queue.append(seal, encoded, packs)?;
        (self.0.told)(seal, crc);
        let decided = DecidedSeal {
            seal: seal.clone(),
            crc,
            packs: packs.to_vec(),
            encoded_len,
        };
        self.0.made(at, decided);
        self.0.tip.send_replace(seal.n);
        Ok(at)
    }

    fn positions(&self, pack: Uuid) -> SmallVec<[Position; 1]> {
        self.0.queue.positions(pack)
    }

    fn sealed(&self, seal: &Seal, at: Position) {
        self.0.queue.sealed(seal, at);
    }

    fn applied(&self, seal: &DecidedSeal) {
        SealLog::applied(&self.0.queue, seal);
    }

    fn known(&self, packs: &[Uuid]) {
        self.0.queue.known(packs);
    }

    fn copy_forward(&self) -> Result<(), SealLogError> {
        self.0.queue.copy_forward()
    }

    fn first_segment(&self) -> u64 {
        self.0.queue.first_segment()
    }

    fn load(&self, seal: &Seal) -> Result<Vec<Option<Arc<Pack>>>, SealLogError> {
        self.0.queue.load(seal)
    }
}
