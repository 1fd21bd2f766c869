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

/// Seals kept as they are, bytes: a few full ones, since a store that follows is a few behind while everything is busy.
const RECENT: usize = 32 << 20;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fs::sim::SimFs,
        model::{pack::tests::pack_of, tenant::TenantId},
        queue::{
            Producer,
            embedded::{QueueSettings, recover_keeping},
            wal::WalSettings,
        },
        seal::{Decision, SealPack, SealTenant, state::SealState},
    };
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::runtime::Handle;

    /// A seal of one pack of two entries, as the sequencer would make it.
    fn seal(n: u64, previous_crc: u32, pack: Uuid, positions: SmallVec<[Position; 1]>) -> Seal {
        Seal {
            n,
            previous_crc,
            owner: Uuid::nil(),
            sealed_at: 1,
            chain_break: false,
            tenants: vec![SealTenant {
                tenant: TenantId::parse("acme").expect("a tenant"),
                head: 2 * n,
                void: None,
                stored: 2,
                duplicate: 0,
                dead_lettered: 0,
                accepted: 2,
                bytes: 10,
            }],
            packs: vec![SealPack {
                pack_id: pack,
                tenant: 0,
                positions,
                decisions: vec![Decision::New; 2],
                refusal: None,
                first_sequence: 2 * n - 1,
            }],
            erasures: vec![],
            removed: vec![],
            retired: vec![],
            sources: vec![],
        }
    }

    fn open(fs: &SimFs, above: u64) -> (EmbeddedQueue, BTreeMap<u64, Position>, u64, u64) {
        let settings = WalSettings {
            segment_bytes: 1 << 20,
            ..WalSettings::default()
        };
        let found = recover_keeping(Arc::new(fs.clone()), "/wal".into(), settings, SealState::default(), 0, above).expect("the log opens");
        let (state, first) = (found.folded.start.state.n, found.folded.first);
        let queue = EmbeddedQueue::new(found.wal, found.folded.start, QueueSettings::default(), Handle::current());
        (queue, found.folded.places, first.map_or(state, |first| first - 1), state)
    }

    async fn found(seals: &LogSeals, n: u64) -> Option<(u64, Vec<Uuid>)> {
        match seals.read(n).await.expect("it can be read") {
            Found::Seal(seal) => Some((seal.seal.n, seal.packs.iter().map(|pack| pack.id()).collect())),
            Found::NotYet => None,
            Found::Trimmed => panic!("seal {n} is gone"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn seals_are_read_by_number_while_they_are_new_and_after_a_restart() {
        let fs = SimFs::new();
        let (mut crc, mut packs) = (0, Vec::new());
        let told = Arc::new(AtomicU64::new(0));
        {
            let (queue, places, floor, tip) = open(&fs, 0);
            let heard = told.clone();
            let seals = LogSeals::new(
                queue.clone(),
                places,
                floor,
                tip,
                Box::new(move |seal, _| heard.store(seal.n, Ordering::SeqCst)),
            );
            for n in 1..=3 {
                let pack = pack_of("acme", &[u128::from(10 * n), u128::from(10 * n + 1)]);
                let id = pack.id();
                queue.accept(pack, None).await.expect("there is room");
                let made = seal(n, crc, id, queue.positions(id));
                let encoded = Bytes::from(codec::encode(&made));
                crc = codec::crc_of(&encoded);
                let (log, loaded) = (seals.clone(), queue.load(&made).expect("it stands there"));
                let packs_of: Vec<_> = loaded.into_iter().flatten().collect();
                let appended = tokio::task::spawn_blocking(move || log.append(&made, encoded, &packs_of))
                    .await
                    .expect("no panic");
                appended.expect("durable");
                assert_eq!(
                    (told.load(Ordering::SeqCst), *seals.tip().borrow()),
                    (n, n),
                    "a view hears of it before anybody else"
                );
                packs.push(id);
            }
            assert_eq!(found(&seals, 2).await, Some((2, vec![packs[1]])));
            assert_eq!(found(&seals, 4).await, None);
            seals.applied(2);
            assert!(matches!(seals.read(2).await, Ok(Found::Trimmed)), "nobody asks for it again");
            assert_eq!(found(&seals, 3).await, Some((3, vec![packs[2]])));
            tokio::task::spawn_blocking(move || queue.close()).await.expect("no panic");
        }
        // The other store has seal 1 only.
        let (queue, places, floor, tip) = open(&fs, 1);
        assert_eq!((places.keys().copied().collect::<Vec<_>>(), floor, tip), (vec![1, 2, 3], 0, 3));
        let seals = LogSeals::new(queue.clone(), places, floor, tip, Box::new(|_, _| {}));
        for n in 1..=3 {
            assert_eq!(found(&seals, n).await, Some((n, vec![packs[n as usize - 1]])), "read from its segment");
        }
        tokio::task::spawn_blocking(move || queue.close()).await.expect("no panic");
    }
}
