//! The accepting side of a remote queue: an accepted pack is in the queue's hands before its client hears so.
//!
//! ```text
//! accept ─▶ room? ─▶ split ─▶ lane of the partition ─▶ gather ─▶ encode ─▶ Transport ─┬─▶ all parts taken: 201
//!                                                                ▲ retry what may be   ├─▶ none taken, none in doubt: 503
//!                                                                └─────────────────────┴─▶ else: 504
//! ```
//!
//! - Nothing of a pack is answered before every part of it has an answer. A part that was once in doubt stays in doubt until a
//!   repetition of the very same message is taken (a pack that is delivered twice is known the second time).
//! - A caller that goes away changes nothing: what it began is sent all the same.
//! - Bounded: what is not taken yet by [`Room`], requests under way by `sends`, the time that a pack may take by `give_up`.
//! - While a partition takes nothing, callers hear 503 before their body is read, except one a second that tries.

use super::{
    Decisions, Limits, Message, RemoteOrder, SendError, Transport,
    envelope::{self, Item, MAX_ITEMS_BYTES},
    gather::{Gather, Group, Linger},
    room::{Place, Room},
    split::split,
};
use crate::{
    model::{
        entry::StoredEntry,
        pack::Pack,
        tenant::{TenantId, TenantScope},
    },
    queue::{AcceptError, Accepted, Counters, Decided, Producer},
    telemetry::metrics::{AccessOutcome, Outcome, metrics},
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// Items above this size are encoded on a thread for blocking work, bytes.
const ENCODE_HERE: usize = 64 << 10;
/// A partition that has taken nothing for so long is taken for down.
const DOWN_AFTER: Duration = Duration::from_secs(3);
/// How often somebody may try a partition that is down.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// Sizes of the accepting side.
#[derive(Debug, Clone, Copy)]
pub struct ProducerSettings {
    /// How long items gather.
    pub linger: Linger,
    /// Packs that no queue has taken yet, bytes, of all partitions.
    pub room: usize,
    /// Requests under way, per partition.
    pub sends: usize,
    /// How long a message is tried.
    pub give_up: Duration,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            linger: Linger::default(),
            room: 64 << 20,
            sends: 8,
            give_up: Duration::from_secs(10),
        }
    }
}

/// What became of one item.
type Taken = Result<(), SendError>;

/// An item on its way, with who waits for it.
type Waiting = (Item, (Place, oneshot::Sender<Taken>));

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct RemoteProducer(Arc<Inner>);

struct Inner {
    partitions: Vec<Partition>,
    decisions: Arc<dyn Decisions>,
    room: Room,
    closing: CancellationToken,
}

struct Partition {
    limits: Limits,
    /// Bounded by the room.
    lane: mpsc::UnboundedSender<Waiting>,
    health: Arc<Mutex<Health>>,
}

/// Whether a partition takes anything.
#[derive(Debug, Default)]
struct Health {
    failing: Option<(Instant, Arc<str>)>,
    tried: Option<Instant>,
}

impl Health {
    /// Since when nothing was taken, if that is long.
    fn is_down(&self, now: Instant) -> bool {
        self.failing
            .as_ref()
            .is_some_and(|(since, _)| now.saturating_duration_since(*since) >= DOWN_AFTER)
    }

    /// Whether somebody may try now.
    fn may_try(&mut self, now: Instant) -> bool {
        let free = !self.is_down(now) || self.tried.is_none_or(|at| now.saturating_duration_since(at) >= TRY_EVERY);
        if free {
            self.tried = Some(now);
        }
        free
    }

    fn saw(&mut self, results: &[Taken], now: Instant) {
        if results.iter().any(Result::is_ok) {
            self.failing = None;
        } else if let Some(error) = results.iter().find_map(|result| result.as_ref().err()) {
            let since = self.failing.as_ref().map_or(now, |(since, _)| *since);
            self.failing = Some((since, error.text.clone()));
        }
    }
}

impl RemoteProducer {
    /// Starts one task for each partition; they end when every clone is gone. `partitions` in the order of their numbers, at
    /// least one.
    pub fn start(partitions: Vec<Arc<dyn Transport>>, decisions: Arc<dyn Decisions>, settings: ProducerSettings, runtime: &Handle) -> Self {
        assert!(!partitions.is_empty(), "a queue has partitions");
        let start = |(number, transport): (usize, Arc<dyn Transport>)| {
            let (limits, health) = (transport.limits(), Arc::default());
            let (lane, waiting) = mpsc::unbounded_channel();
            let sender = Sender {
                partition: number as u32,
                transport,
                limits,
                give_up: settings.give_up,
                health: Arc::clone(&health),
            };
            runtime.spawn(gather(sender, waiting, settings));
            Partition { limits, lane, health }
        };
        Self(Arc::new(Inner {
            partitions: partitions.into_iter().enumerate().map(start).collect(),
            decisions,
            room: Room::new(settings.room),
            closing: CancellationToken::new(),
        }))
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> u32 {
        self.0.partitions.len() as u32
    }

    /// Orders something of the tenant's sequencer. Durable in the queue when it returns `Ok`; on `Unknown` it may be ordered again
    /// under the same id.
    pub async fn order(&self, order: RemoteOrder) -> Result<(), AcceptError> {
        self.send(order.tenant.clone(), vec![Item::Order(order)])?.await
    }

    /// What keeps a partition from taking anything, if something does: for health.
    pub fn failing(&self) -> Option<Arc<str>> {
        let now = Instant::now();
        self.0.partitions.iter().find_map(|partition| {
            let health = partition.health();
            health.failing.as_ref().filter(|_| health.is_down(now)).map(|(_, why)| why.clone())
        })
    }

    /// Refuses packs from here on (503). Those under way are finished.
    pub fn stop_accepting(&self) {
        self.0.closing.cancel();
    }

    /// Resolves when nothing is under way any more. Bounded by `give_up` once [`RemoteProducer::stop_accepting`] was called. Cancel-safe.
    pub async fn drained(&self) {
        self.0.room.emptied().await;
    }

    /// Bytes of packs that the queue has not taken yet.
    pub fn held(&self) -> usize {
        self.0.room.held()
    }

    fn partition(&self, tenant: &TenantId) -> &Partition {
        &self.0.partitions[partition_of(tenant, self.partitions()) as usize]
    }

    /// Puts the items into the partition's lane, at once; the future only waits for what became of them.
    fn send(&self, tenant: TenantId, items: Vec<Item>) -> Result<impl Future<Output = Result<(), AcceptError>> + Send + use<>, AcceptError> {
        if self.0.closing.is_cancelled() {
            return Err(stopping());
        }
        let partition = self.partition(&tenant);
        let hash = tenant.stable_hash();
        let bytes = items.iter().map(Item::len).sum();
        let mut room = self.0.room.take(hash, bytes)?;
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            let place = room.part(item.len());
            let (reply, answer) = oneshot::channel();
            answers.push(answer);
            if partition.lane.send((item, (place, reply))).is_err() {
                return Err(stopping());
            }
        }
        Ok(async move {
            let lost = |_| Err(in_doubt("the sending task ended".into()));
            let taken = join_all(answers).await.into_iter().map(|answer| answer.unwrap_or_else(lost));
            verdict(&taken.collect::<Vec<_>>())
        })
    }
}

/// Which partition of so many has the tenant's logs.
pub fn partition_of(tenant: &TenantId, partitions: u32) -> u32 {
    (tenant.owner().stable_hash() % u64::from(partitions.max(1))) as u32
}

impl Partition {
    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the parts of a request add up to: 503 promises that nothing happened.
fn verdict(taken: &[Taken]) -> Result<(), AcceptError> {
    if taken.iter().all(Result::is_ok) {
        Ok(())
    } else if taken.iter().all(|taken| taken.as_ref().is_err_and(|error| error.definite)) {
        Err(not_taken())
    } else {
        Err(AcceptError::Unknown)
    }
}

fn unavailable(reason: &'static str) -> AcceptError {
    AcceptError::Unavailable {
        reason,
        retry_after: Duration::from_secs(1),
    }
}

fn not_taken() -> AcceptError {
    unavailable("the queue takes no messages now")
}

fn stopping() -> AcceptError {
    unavailable("the server is stopping")
}

fn in_doubt(text: Arc<str>) -> SendError {
    SendError {
        definite: false,
        retry: false,
        text,
    }
}

impl Producer for RemoteProducer {
    fn accept(&self, pack: Pack, wait: Option<Duration>) -> BoxFuture<'_, Result<Accepted, AcceptError>> {
        Box::pin(async move {
            let (tenant, entries, bytes) = (pack.tenant().clone(), pack.len() as u64, pack.bytes().len() as u64);
            let most = (self.partition(&tenant).limits.message_bytes - envelope::OVERHEAD).min(MAX_ITEMS_BYTES) - envelope::ITEM_OVERHEAD;
            let parts = split(pack, most).map_err(|_| unavailable("an entry is larger than a message of the queue"))?;
            let listening: Vec<_> = wait
                .into_iter()
                .flat_map(|wait| parts.iter().map(move |part| (part.id(), wait)))
                .map(|(part, wait): (Uuid, Duration)| self.0.decisions.decided(part, wait))
                .collect();
            let ids: Vec<_> = parts.iter().map(Pack::id).collect();
            self.send(tenant.clone(), parts.into_iter().map(|part| Item::Pack(Arc::new(part))).collect())?
                .await?;
            self.0.decisions.acknowledged(&tenant, &ids);
            if tenant.is_access_log() {
                metrics().access(AccessOutcome::Accepted, entries);
            } else {
                metrics().entries(Outcome::Accepted, entries);
                metrics().accepted_bytes(bytes);
            }
            let decided = match wait {
                Some(_) => sum(join_all(listening).await),
                None => None,
            };
            Ok(Accepted { decided })
        })
    }

    /// Always `None`: what is in a queue of other machines cannot be looked up.
    fn pending(&self, _: &TenantScope, _: Uuid) -> Option<StoredEntry> {
        None
    }

    fn room(&self, tenant: &TenantId) -> Result<(), AcceptError> {
        if self.0.closing.is_cancelled() {
            return Err(stopping());
        }
        if !self.partition(tenant).health().may_try(Instant::now()) {
            return Err(not_taken());
        }
        self.0.room.check(tenant.stable_hash(), 1)
    }

    fn counters(&self, scope: &TenantScope) -> Counters {
        self.0.decisions.counters(scope)
    }

    fn knows_pending(&self) -> bool {
        false
    }

    fn until_decided<'a>(&'a self, scope: &'a TenantScope, within: Duration) -> BoxFuture<'a, ()> {
        self.0.decisions.until_decided(scope.tenant(), within)
    }
}

/// The sum over all parts; `None` when one of them is not decided in time.
fn sum(parts: Vec<Option<Decided>>) -> Option<Decided> {
    parts.into_iter().try_fold(Decided::default(), |sum, part| {
        let part = part?;
        Some(Decided {
            stored: sum.stored + part.stored,
            duplicate: sum.duplicate + part.duplicate,
            dead_lettered: sum.dead_lettered + part.dead_lettered,
        })
    })
}

/// What one partition's requests are made with.
#[derive(Clone)]
struct Sender {
    partition: u32,
    transport: Arc<dyn Transport>,
    limits: Limits,
    give_up: Duration,
    health: Arc<Mutex<Health>>,
}

/// Encoded, with who waits for what is in it.
struct Outgoing {
    message: Message,
    waiting: Vec<Waiting>,
    doubt: Option<SendError>,
}

/// The task of one partition: gathers, and sends what is due. Ends when the lane does, after what is under way.
async fn gather(sender: Sender, mut lane: mpsc::UnboundedReceiver<Waiting>, settings: ProducerSettings) {
    let mut waiting = Gather::new(sender.limits, settings.linger);
    let (encoded_of, mut encoded) = mpsc::unbounded_channel();
    let (tracker, mut open) = (TaskTracker::new(), true);
    let free = Arc::new(tokio::sync::Semaphore::new(settings.sends.max(1)));
    while open || waiting.bytes() > 0 {
        let due = waiting.due(Instant::now());
        tokio::select! {
            next = lane.recv(), if open => match next {
                Some((item, with)) => waiting.push(item, with, Instant::now()),
                None => open = false,
            },
            Some((items, bytes)) = encoded.recv() => waiting.encoded(items, bytes),
            permit = turn(&free, due), if due.is_some() => {
                let (sender, encoded_of) = (sender.clone(), encoded_of.clone());
                let groups = waiting.take(Instant::now());
                tracker.spawn(async move {
                    let _permit = permit;
                    for batch in sender.encode(groups, &encoded_of).await {
                        sender.deliver(batch).await;
                    }
                });
            }
        }
    }
    tracker.close();
    tracker.wait().await;
}

/// Waits until it is time, and until another request may be under way.
async fn turn(free: &Arc<tokio::sync::Semaphore>, due: Option<Instant>) -> tokio::sync::OwnedSemaphorePermit {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
    free.clone().acquire_owned().await.expect("the semaphore is never closed")
}

impl Sender {
    /// Makes messages of groups, and of these what goes with one request each.
    async fn encode(&self, groups: Vec<Group<(Place, oneshot::Sender<Taken>)>>, seen: &mpsc::UnboundedSender<(usize, usize)>) -> Vec<Vec<Outgoing>> {
        let (partition, limit) = (self.partition, self.limits.message_bytes);
        let items_bytes: usize = groups.iter().flat_map(|group| &group.items).map(|(item, _)| item.len()).sum();
        let work = move || groups.into_iter().flat_map(|group| messages(partition, limit, group)).collect::<Vec<_>>();
        let messages = if items_bytes > ENCODE_HERE {
            match tokio::task::spawn_blocking(work).await {
                Ok(messages) => messages,
                Err(_) => return Vec::new(), // it panicked: who waits hears of doubt
            }
        } else {
            work()
        };
        // Nobody listens any more when the task has ended.
        let _ = seen.send((items_bytes, messages.iter().map(|message| message.message.body.len()).sum()));
        requests(messages, &self.limits)
    }

    /// Sends until every message is taken, refused for good, or given up; then answers.
    async fn deliver(&self, mut batch: Vec<Outgoing>) {
        let deadline = Instant::now() + self.give_up;
        for attempt in 0.. {
            let sent = batch.iter().map(|outgoing| outgoing.message.clone()).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            let results = tokio::time::timeout(left.max(Duration::from_millis(100)), self.transport.send(sent)).await;
            let results = results.unwrap_or_else(|_| vec![Err(in_doubt("no answer in time".into())); batch.len()]);
            self.health.lock().unwrap_or_else(PoisonError::into_inner).saw(&results, Instant::now());
            let pause = pause(attempt);
            let time_left = Instant::now() + pause < deadline;
            batch = settle(batch, results, time_left);
            if batch.is_empty() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Answers what has an end, and gives back what is to be sent again.
fn settle(batch: Vec<Outgoing>, results: Vec<Taken>, time_left: bool) -> Vec<Outgoing> {
    let mut again = Vec::new();
    // A result that is missing says nothing.
    let results = results
        .into_iter()
        .chain(std::iter::repeat_with(|| Err(in_doubt("the queue did not say".into()))));
    for (mut outgoing, result) in batch.into_iter().zip(results) {
        let answer = match result {
            Ok(()) => Ok(()),
            Err(error) => {
                if !error.definite {
                    outgoing.doubt.get_or_insert(error.clone());
                }
                if error.retry && time_left {
                    tracing::debug!(%error, "a message was not taken; it is sent again");
                    again.push(outgoing);
                    continue;
                }
                tracing::warn!(%error, definite = outgoing.doubt.is_none(), "a message was not taken");
                Err(outgoing.doubt.take().unwrap_or(error))
            }
        };
        for (_, (_, reply)) in outgoing.waiting {
            let _ = reply.send(answer.clone()); // who waited may have gone away
        }
    }
    again
}

/// 20 ms, doubling to 1 s, and up to half as much again so that many do not come back at once.
pub(super) fn pause(attempt: u32) -> Duration {
    let pause = Duration::from_millis(20 << attempt.min(6)).min(Duration::from_secs(1));
    pause.mul_f64(1.0 + rand::random::<f64>() / 2.0)
}

/// One message of the group, or two of its halves where it does not fit.
fn messages(partition: u32, limit: usize, group: Group<(Place, oneshot::Sender<Taken>)>) -> Vec<Outgoing> {
    let body: Bytes = envelope::encode(partition, group.items.iter().map(|(item, _)| item));
    let (key, mut items) = (group.key, group.items);
    if body.len() <= limit || items.len() == 1 {
        let message = Message { key, body };
        return vec![Outgoing {
            message,
            waiting: items,
            doubt: None,
        }];
    }
    let rest = items.split_off(items.len() / 2);
    let halves = [items, rest].into_iter().flat_map(|items| messages(partition, limit, Group { key, items }));
    halves.collect()
}

/// Messages by request: each within the limits of one.
fn requests(messages: Vec<Outgoing>, limits: &Limits) -> Vec<Vec<Outgoing>> {
    let (mut requests, mut bytes) = (Vec::<Vec<Outgoing>>::new(), 0);
    for message in messages {
        let len = message.message.body.len();
        match requests.last_mut() {
            Some(request) if request.len() < limits.batch_messages && bytes + len <= limits.batch_bytes => {
                request.push(message);
                bytes += len;
            }
            _ => {
                requests.push(vec![message]);
                bytes = len;
            }
        }
    }
    requests
}

#[cfg(test)]
mod tests;
