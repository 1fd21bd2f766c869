//! Reads seals, and says what is known of a partition. The read-only side, for any process.

use super::{
    ANALYTICS, DEAD_LETTERS, SealsSettings, checkpoint,
    checkpoint::Checkpoint,
    cursor::{CursorStore, ObjectCursors},
    floor_key,
    number::Number,
    object::{self, Header, SealHead},
    seal_key,
};
use crate::{
    objects::Objects,
    queue::{Found, SealReadError, SealReader},
    seal::DecidedSeal,
};
use futures_util::future::BoxFuture;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// What a reader of a head asks for at first: most heads are shorter, and need no second request.
const FIRST_READ: u64 = 64 << 10;
/// Seals of more bytes than this are decoded on a thread where that may take its time: checksums and ids of a full seal are milliseconds.
const LARGE: usize = 256 << 10;

/// The head that stands under a number.
#[derive(Debug, Clone)]
pub enum FoundHead {
    /// The head.
    Head(Box<SealHead>),
    /// No such seal yet.
    NotYet,
    /// It was trimmed.
    Trimmed,
}

/// The seals of one partition as any process may read them. Cheap to clone; clones share the memory of recent seals.
#[derive(Clone)]
pub struct Seals(Arc<Shared>);

struct Shared {
    objects: Arc<dyn Objects>,
    partition: u32,
    settings: SealsSettings,
    cursors: ObjectCursors,
    floor: Number,
    tip: watch::Sender<u64>,
    recent: Mutex<Recent>,
}

/// Recent seals in memory, oldest first; all of them were above the floor when they were read or made, and so are what they are.
#[derive(Default)]
struct Recent {
    seals: VecDeque<(Arc<DecidedSeal>, usize)>,
    bytes: usize,
}

impl Seals {
    /// The seals of partition `partition`. Reads nothing yet.
    pub fn open(objects: Arc<dyn Objects>, partition: u32, settings: SealsSettings) -> Self {
        Self(Arc::new(Shared {
            cursors: ObjectCursors::new(objects.clone(), partition),
            floor: Number::new(objects.clone(), floor_key(partition)),
            objects,
            partition,
            settings,
            tip: watch::Sender::new(0),
            recent: Mutex::default(),
        }))
    }

    /// Which partition.
    pub fn partition(&self) -> u32 {
        self.0.partition
    }

    /// Its settings.
    pub fn settings(&self) -> &SealsSettings {
        &self.0.settings
    }

    pub(super) fn objects(&self) -> &Arc<dyn Objects> {
        &self.0.objects
    }

    pub(super) fn floor_number(&self) -> &Number {
        &self.0.floor
    }

    /// Where the stores of this partition keep their cursors.
    pub fn cursors(&self) -> Arc<dyn CursorStore> {
        Arc::new(self.0.cursors.clone())
    }

    /// How far a store has applied the seals; 0 when it has none.
    pub async fn cursor(&self, store: &str) -> Result<u64, SealReadError> {
        self.0.cursors.load(store).await
    }

    /// Seals up to this one are trimmed.
    pub async fn floor(&self) -> Result<u64, SealReadError> {
        self.0.floor.load().await
    }

    /// What the seals add up to, as it was last written down; the default when it never was.
    pub async fn checkpoint(&self) -> Result<Checkpoint, SealReadError> {
        Ok(checkpoint::load(&*self.0.objects, self.0.partition).await?.unwrap_or_default())
    }

    /// The largest seal that analytics and dead letters both have: what a new owner hands to them again begins after it.
    pub(super) async fn settled(&self) -> Result<u64, SealReadError> {
        Ok(self.cursor(ANALYTICS).await?.min(self.cursor(DEAD_LETTERS).await?))
    }

    /// The head of seal `n`, read without its packs.
    pub async fn head(&self, n: u64) -> Result<FoundHead, SealReadError> {
        let Some(bytes) = self.read_head(n).await? else {
            return Ok(if n <= self.floor().await? { FoundHead::Trimmed } else { FoundHead::NotYet });
        };
        let head = object::decode_head(&bytes).map_err(|error| damaged(n, &error))?;
        if n <= self.floor().await? {
            return Ok(FoundHead::Trimmed); // what stands there may be a zombie's
        }
        if head.seal.n != n {
            return Err(damaged(n, &"it is another seal"));
        }
        self.reached(n);
        Ok(FoundHead::Head(Box::new(head)))
    }

    /// The bytes of header and head section, as they stand there.
    async fn read_head(&self, n: u64) -> Result<Option<bytes::Bytes>, SealReadError> {
        let key = seal_key(self.0.partition, n);
        let Some(bytes) = self.0.objects.get_range(&key, 0..FIRST_READ).await? else {
            return Ok(None);
        };
        let header = Header::read(&bytes).map_err(|error| damaged(n, &error))?;
        if header.head_end() <= bytes.len() as u64 {
            return Ok(Some(bytes));
        }
        Ok(self.0.objects.get_range(&key, 0..header.head_end()).await?)
    }

    /// The header of what stands under `n`, floor or not.
    pub(super) async fn header(&self, n: u64) -> Result<Option<Header>, SealReadError> {
        let found = self.0.objects.get_range(&seal_key(self.0.partition, n), 0..object::HEADER_LEN as u64).await?;
        found.map(|bytes| Header::read(&bytes).map_err(|error| damaged(n, &error))).transpose()
    }

    /// Seal `n` is durable and above the floor.
    pub(super) fn reached(&self, n: u64) {
        self.0.tip.send_if_modified(|tip| {
            let grown = n > *tip;
            *tip = n.max(*tip);
            grown
        });
    }

    pub(super) fn remember(&self, seal: Arc<DecidedSeal>) {
        let bytes = seal.encoded_len + seal.packs.iter().map(|pack| pack.bytes().len()).sum::<usize>();
        let mut recent = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.seals.iter().any(|(known, _)| known.seal.n == seal.seal.n) {
            return;
        }
        recent.seals.push_back((seal, bytes));
        recent.bytes += bytes;
        while recent.bytes > self.0.settings.cache_bytes {
            let Some((_, bytes)) = recent.seals.pop_front() else { break };
            recent.bytes -= bytes;
        }
    }

    fn recall(&self, n: u64) -> Option<Arc<DecidedSeal>> {
        let recent = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.seals.iter().rev().find(|(seal, _)| seal.seal.n == n).map(|(seal, _)| seal.clone())
    }

    /// Seal `n` with its packs; see [`SealReader::read`].
    pub async fn find(&self, n: u64) -> Result<Found, SealReadError> {
        if let Some(seal) = self.recall(n) {
            return Ok(Found::Seal(seal));
        }
        let Some((bytes, _)) = self.0.objects.get(&seal_key(self.0.partition, n)).await? else {
            return Ok(if n <= self.floor().await? { Found::Trimmed } else { Found::NotYet });
        };
        let seal = decode(n, bytes).await?;
        if n <= self.floor().await? {
            return Ok(Found::Trimmed); // what stands there may be a zombie's
        }
        if seal.seal.n != n {
            return Err(damaged(n, &"it is another seal"));
        }
        let seal = Arc::new(seal);
        self.remember(seal.clone());
        self.reached(n);
        Ok(Found::Seal(seal))
    }
}

impl SealReader for Seals {
    fn read(&self, n: u64) -> BoxFuture<'static, Result<Found, SealReadError>> {
        let this = self.clone();
        Box::pin(async move { this.find(n).await })
    }

    fn tip(&self) -> watch::Receiver<u64> {
        self.0.tip.subscribe()
    }
}

async fn decode(n: u64, bytes: bytes::Bytes) -> Result<DecidedSeal, SealReadError> {
    let is_large = bytes.len() > LARGE;
    let decode = move || object::decode(&bytes).map_err(|error| damaged(n, &error));
    match is_large {
        false => decode(),
        true => tokio::task::spawn_blocking(decode).await.unwrap_or_else(|error| Err(damaged(n, &error))),
    }
}

pub(super) fn damaged(n: u64, why: &dyn std::fmt::Display) -> SealReadError {
    SealReadError(format!("seal `{n}` is damaged: {why}").into())
}
