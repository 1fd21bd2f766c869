//! The writing side: [`Writer`] creates seals and knows what is in doubt, [`ObjectSealLog`] is the log of a sequencer's threads around it.

use super::{
    ANALYTICS, Checkpoint, Seals,
    cursor::{self, CursorStore},
    keeper::Keeper,
    object, seal_key,
};
use crate::{
    model::{pack::Pack, time::now_ms},
    objects::Precondition,
    queue::{Found, Position, SealLog, SealLogError},
    seal::{DecidedSeal, Seal, codec},
};
use bytes::Bytes;
use smallvec::{SmallVec, smallvec};
use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{runtime::Handle, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often the keeper looks.
const KEEPING: Duration = Duration::from_secs(5);
/// How long a stop may take for the last cursor and checkpoint: late is harmless, lost too.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Creates the seals of a partition, one after the other.
pub(super) struct Writer {
    seals: Seals,
    made: Mutex<Made>,
}

struct Made {
    /// After the last seal that is known to be ours or was found.
    after: Checkpoint,
    /// The object whose creation was begun and not answered.
    trying: Option<(u64, u32, Bytes)>,
}

impl Writer {
    pub(super) fn new(seals: Seals, after: Checkpoint) -> Self {
        let made = Mutex::new(Made { after, trying: None });
        Self { seals, made }
    }

    pub(super) fn seals(&self) -> &Seals {
        &self.seals
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last seal, and the bytes of all of them.
    pub(super) fn reached(&self) -> (u64, u64) {
        let made = self.made();
        (made.after.state.n, made.after.bytes)
    }

    /// What the seals add up to.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        self.made().after.clone()
    }

    fn object(&self, seal: &Seal, encoded: &[u8], packs: &[Arc<Pack>]) -> Result<Bytes, SealLogError> {
        let (mut made, crc) = (self.made(), codec::crc_of(encoded));
        if let Some((n, known, object)) = &made.trying {
            if (*n, *known) == (seal.n, crc) {
                return Ok(object.clone());
            }
            // Two contents of one number, and the first may be durable.
            return Err(SealLogError::Failed("another seal was begun and is in doubt".into()));
        }
        let object = object::encode(seal, encoded, packs, made.after.bytes).map_err(|error| SealLogError::Failed(error.to_string().into()))?;
        made.trying = Some((seal.n, crc, object.clone()));
        Ok(object)
    }

    /// One try to create the seal. [`SealLogError::Doubtful`]: it may be durable; try the same seal again. Dropping the future leaves it in
    /// doubt.
    pub(super) async fn create(&self, seal: &Seal, encoded: &[u8], packs: &[Arc<Pack>]) -> Result<(), SealLogError> {
        let (n, object) = (seal.n, self.object(seal, encoded, packs)?);
        let (key, len) = (seal_key(self.seals.partition(), n), object.len() as u64);
        if let Err(error) = self.seals.objects().put(&key, object, Precondition::Absent).await {
            // A conflict may be with our own try before this one, and any other error says nothing.
            match self.seals.header(n).await {
                Ok(Some(found)) if found.owner == seal.owner && found.seal_crc == codec::crc_of(encoded) => {}
                Ok(Some(_)) => return Err(SealLogError::Fenced),
                Ok(None) if self.floor().await? >= n => return Err(SealLogError::Fenced),
                Ok(None) => return Err(SealLogError::Doubtful(error.to_string().into())),
                Err(unread) => return Err(SealLogError::Doubtful(unread.0)),
            }
        }
        // It stands there; but below the floor anything can be created, and says nothing.
        if self.floor().await? >= n {
            return Err(SealLogError::Fenced);
        }
        let crc = codec::crc_of(encoded);
        let mut made = self.made();
        made.trying = None;
        made.after.state.fold(seal, crc);
        made.after.bytes += len;
        drop(made);
        self.seals.remember(Arc::new(DecidedSeal {
            seal: seal.clone(),
            crc,
            packs: packs.to_vec(),
            encoded_len: encoded.len(),
        }));
        self.seals.reached(n);
        Ok(())
    }

    async fn floor(&self) -> Result<u64, SealLogError> {
        self.seals.floor().await.map_err(|error| SealLogError::Doubtful(error.0))
    }
}

/// The log of a partition's owner. It ends when it is dropped or closed; a seal that is in doubt then is found by the next owner.
///
/// Its [`SealLog`] methods block on requests; positions are synthetic (`segment` is the number of the seal to come).
pub struct ObjectSealLog {
    writer: Arc<Writer>,
    runtime: Handle,
    applied: watch::Sender<u64>,
    closed: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl ObjectSealLog {
    pub(super) fn start(writer: Writer, runtime: Handle) -> Self {
        let (writer, closed) = (Arc::new(writer), CancellationToken::new());
        let this = Self {
            applied: watch::Sender::new(0),
            tasks: Mutex::default(),
            writer,
            runtime,
            closed,
        };
        this.save_cursor(ANALYTICS, this.applied.subscribe());
        this.spawn(keep(Keeper::new(this.writer.clone()), this.closed.clone()));
        this
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn_on(task, &self.runtime);
    }

    /// The seals, for readers in this process: what was just made is in memory.
    pub fn seals(&self) -> &Seals {
        self.writer.seals()
    }

    /// Saves `progress` of a store as its cursor whenever it grows, until the log is closed. That of the authority is saved
    /// already; [`DEAD_LETTERS`](super::DEAD_LETTERS) must be given.
    pub fn save_cursor(&self, store: &'static str, progress: watch::Receiver<u64>) {
        self.spawn(save(self.seals().cursors(), store, progress, self.closed.clone()));
    }

    /// Ends its tasks, with the last cursors and a last checkpoint if they can be written within 5 s. After the sequencer's stop. A
    /// seal that is being created is left in doubt.
    pub async fn close(&self) {
        self.closed.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = tokio::time::timeout(LAST_WORDS, async { while tasks.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!(
                partition = self.seals().partition(),
                "the last cursors and checkpoint were not written; the next owner does more"
            );
        }
    }
}

impl Drop for ObjectSealLog {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

async fn keep(mut keeper: Keeper, closed: CancellationToken) {
    keeper.sweep().await;
    loop {
        let last = tokio::time::timeout(KEEPING, closed.cancelled()).await.is_ok();
        if let Err(error) = keeper.turn(now_ms(), last).await {
            tracing::warn!(%error, "seals are not trimmed now; it is tried again");
        }
        if last {
            return;
        }
    }
}

/// Saves a cursor whenever `progress` grows.
async fn save(cursors: Arc<dyn CursorStore>, store: &'static str, mut progress: watch::Receiver<u64>, closed: CancellationToken) {
    let mut saved = 0;
    loop {
        let last = closed.is_cancelled();
        let n = *progress.borrow_and_update();
        let done = n <= saved || {
            let outcome = cursors.save(store, n).await;
            if let Err(error) = &outcome {
                tracing::warn!(store, seal = n, %error, "a cursor was not saved; it is tried again");
            }
            outcome.is_ok()
        };
        if done {
            saved = saved.max(n);
        }
        if last {
            return;
        }
        let pause = async {
            match done {
                true => progress.changed().await.is_err(),
                false => {
                    tokio::time::sleep(cursor::RETRY).await;
                    false
                }
            }
        };
        tokio::select! {
            () = closed.cancelled() => {}
            gone = pause => if gone { return },
        }
    }
}

impl SealLog for ObjectSealLog {
    fn append(&self, seal: &Seal, encoded: Bytes, packs: &[Arc<Pack>]) -> Result<Position, SealLogError> {
        // Made inside: a timer needs the runtime, and the sequencer's thread is none of its threads.
        let outcome = self.runtime.block_on(async {
            let attempt = tokio::time::timeout(self.seals().settings().put_timeout, self.writer.create(seal, &encoded, packs));
            tokio::select! {
                biased;
                () = self.closed.cancelled() => Err(SealLogError::Closed),
                outcome = attempt => outcome.unwrap_or_else(|_| Err(SealLogError::Doubtful("no answer in time".into()))),
            }
        });
        outcome.map(|()| Position { segment: seal.n, offset: 0 })
    }

    fn positions(&self, _: Uuid) -> SmallVec<[Position; 1]> {
        let segment = self.writer.reached().0 + 1;
        smallvec![Position { segment, offset: 0 }]
    }

    fn sealed(&self, _: &Seal, _: Position) {}

    fn applied(&self, seal: &DecidedSeal) {
        self.applied.send_replace(seal.seal.n);
    }

    fn copy_forward(&self) -> Result<(), SealLogError> {
        Ok(()) // the queue keeps what is undecided
    }

    fn first_segment(&self) -> u64 {
        0
    }

    fn load(&self, seal: &Seal) -> Result<Vec<Option<Arc<Pack>>>, SealLogError> {
        let found = self.runtime.block_on(async {
            let read = tokio::time::timeout(self.seals().settings().put_timeout, self.seals().find(seal.n));
            tokio::select! {
                biased;
                () = self.closed.cancelled() => Err(SealLogError::Closed),
                found = read => Ok(found),
            }
        })?;
        match found {
            Ok(Ok(Found::Seal(found))) if found.seal == *seal => Ok(found.packs.iter().cloned().map(Some).collect()),
            Ok(Ok(_)) => Err(SealLogError::Failed(format!("seal `{}` is no longer what it was", seal.n).into())),
            Ok(Err(error)) => Err(SealLogError::Doubtful(error.0)),
            Err(_) => Err(SealLogError::Doubtful("no answer in time".into())),
        }
    }

    fn settles_at_seal(&self) -> bool {
        true
    }
}
