//! The deciding side of one partition of a remote queue.
//!
//! ```text
//!            credit?                                      lane to the router
//! Receive ─▶ pull ─▶ decode ─▶ flight ─▶ feed ─▶ Delivery + Ticket ─▶ … ─▶ sealed ─▶ hear ─▶ acknowledge ─▶ Receive::done
//!              ▲                 │  orders ─▶ Orders::order ─────────────────────────▶ │        by batches, failures again
//!              │                 └─ hold: Receive::extend while something is open
//!              └── one call, more while calls come back full; a pause after one that does not
//! ```
//!
//! - Memory: received and not done ≤ `credit`. A call reserves what its messages could need before it is made; so a stuck sequencer ends
//!   the receiving, and the queue keeps the rest.
//! - A message is acknowledged when everything in it is sealed, and never before. Its acknowledgement may be lost: it comes again, and
//!   is known.
//! - What is not sealed is delivered again here, and the fifth time refused as poison; the queue's own count of receptions does not matter,
//!   for a store that is down is no poison.
//! - A message that cannot be read goes to the [`Quarantine`]; one of a newer build, or of another partition, is left in the queue. Neither
//!   stops the others. One that ended five processes is not opened any more ([`trials`](super::trials)).
//!
//! It does not keep an order between messages, and it does not know which packs are decided: the sequencer does.

use super::{
    Orders, Receipt, Receive, ReceiveError, Received, Reception, RemoteOrder,
    envelope::{self, Envelope, EnvelopeError, MAX_ITEMS_BYTES},
    flight::Flight,
    producer::pause,
    quarantine::Quarantine,
    trials::{Trial, Trials},
};
use crate::{
    model::{
        batch::Delivery,
        pack::Pack,
        tenant::TenantId,
        ticket::{Ticket, Verdict},
        time::now_ms,
    },
    objects::ObjectError,
    queue::{
        PackReadError, PackReader, Position,
        embedded::delivery::{MAX_ATTEMPTS, poison},
    },
    telemetry::metrics::{QueueEvent, metrics},
};
use bytes::Bytes;
use futures_util::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// What one message may need while it is received and decoded, bytes: its items, and the envelope.
pub const RESERVE: usize = MAX_ITEMS_BYTES + (1 << 20);
/// Packs in the lane to the router. They are in memory anyway.
const LANE_SLOTS: usize = 256;
/// So many acknowledgements go at once.
const ACK_BATCH: usize = 10;
/// An acknowledgement that fails so often is left: the message comes again, and is known.
const ACK_TRIES: u32 = 8;
/// How long tasks may take to end.
const END: Duration = Duration::from_secs(5);
/// How often a failure that a person must mend is tried.
const LASTING: Duration = Duration::from_secs(10);

/// Sizes of the deciding side.
#[derive(Debug, Clone, Copy)]
pub struct ConsumerSettings {
    /// Which partition it is.
    pub partition: u32,
    /// Received and not done, bytes; at least one message.
    pub credit: usize,
    /// Acknowledgements gather for so long.
    pub ack_linger: Duration,
    /// How long a call in hand may still take when the consumer ends: a long poll that is abandoned takes messages all the same, and
    /// they rest until their hold has run out.
    pub last_call: Duration,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            partition: 0,
            credit: 64 << 20,
            ack_linger: Duration::from_secs(2),
            last_call: Duration::from_secs(1),
        }
    }
}

/// How a consumer is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerStatus {
    /// Messages that are not done.
    pub messages: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// Messages that could not be read, since it started.
    pub unreadable: u64,
    /// Why nothing can be received, if so.
    pub failing: Option<Arc<str>>,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct RemoteConsumer(Arc<Shared>);

struct Shared {
    source: Arc<dyn Receive>,
    decider: Arc<dyn Orders>,
    quarantine: Quarantine,
    settings: ConsumerSettings,
    reception: Reception,
    runtime: Handle,
    flight: Mutex<Flight>,
    trials: Trials,
    /// Messages of the dead-letter queue in hand, by their names; `None` before there was one.
    on_trial: Mutex<Option<HashMap<Receipt, Arc<str>>>>,
    /// One call at a time decides which of them it opens.
    opening: tokio::sync::Mutex<()>,
    /// Reserved by calls under way, bytes.
    reserved: AtomicUsize,
    unreadable: AtomicU64,
    failing: Mutex<Option<Arc<str>>>,
    /// Something waits for delivery.
    work: Notify,
    /// Something was done.
    room: Notify,
    acks: mpsc::UnboundedSender<Ack>,
    /// Nothing is received or delivered from here on.
    stop: CancellationToken,
    /// Nothing is held or acknowledged from here on.
    end: CancellationToken,
    pulling: TaskTracker,
    hearing: TaskTracker,
    tasks: TaskTracker,
}

/// A delivery that is under way.
struct UnderWay {
    tenant: TenantId,
    pack: Uuid,
    attempt: u32,
    verdict: oneshot::Receiver<Verdict>,
}

enum Ack {
    Done(Vec<Receipt>),
    Flush(oneshot::Sender<()>),
}

impl RemoteConsumer {
    /// Starts to receive. The router takes the deliveries; the lane ends after [`RemoteConsumer::stop_delivery`].
    pub fn start(
        source: Arc<dyn Receive>,
        decider: Arc<dyn Orders>,
        quarantine: Quarantine,
        settings: ConsumerSettings,
        runtime: Handle,
    ) -> (Self, mpsc::Receiver<Delivery>) {
        // Both are bounded by what is under way.
        let (acks, to_acknowledge) = mpsc::unbounded_channel();
        let (under_way, verdicts) = mpsc::unbounded_channel();
        let (lane, deliveries) = mpsc::channel(LANE_SLOTS);
        let shared = Arc::new(Shared {
            reception: source.reception(),
            source,
            decider,
            trials: quarantine.trials(),
            quarantine,
            settings,
            runtime,
            flight: Mutex::default(),
            on_trial: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            reserved: AtomicUsize::new(0),
            unreadable: AtomicU64::new(0),
            failing: Mutex::default(),
            work: Notify::new(),
            room: Notify::new(),
            acks,
            stop: CancellationToken::new(),
            end: CancellationToken::new(),
            pulling: TaskTracker::new(),
            hearing: TaskTracker::new(),
            tasks: TaskTracker::new(),
        });
        let until = |token: &CancellationToken, task: BoxFuture<'static, ()>| {
            let token = token.clone();
            async move {
                tokio::select! {
                    () = token.cancelled() => {}
                    () = task => {}
                }
            }
        };
        let (stop, end) = (&shared.stop, &shared.end);
        shared.pulling.spawn_on(pull(shared.clone()), &shared.runtime);
        shared.pulling.close();
        let feed = until(stop, Box::pin(feed(shared.clone(), lane, under_way)));
        shared.tasks.spawn_on(feed, &shared.runtime);
        shared.hearing.spawn_on(until(end, Box::pin(hear(shared.clone(), verdicts))), &shared.runtime);
        shared
            .tasks
            .spawn_on(until(end, Box::pin(acknowledge(shared.clone(), to_acknowledge))), &shared.runtime);
        if let Some(hold) = shared.reception.hold {
            shared.tasks.spawn_on(until(end, Box::pin(keep_hold(shared.clone(), hold))), &shared.runtime);
        }
        (Self(shared), deliveries)
    }

    /// Receives and delivers nothing from here on; the router's lane ends. What is under way is still heard and acknowledged.
    pub fn stop_delivery(&self) {
        self.0.stop.cancel();
    }

    /// Acknowledges what is sealed, gives back what is not, and ends. After the sequencer has ended, for whatever reason: what it has
    /// not sealed by then goes to the next owner at once. Bounded in time.
    pub async fn close(&self) {
        let shared = &self.0;
        self.stop_delivery();
        shared.hearing.close();
        let _ = timeout(END, shared.hearing.wait()).await; // every ticket was answered; a lost answer means a redelivery
        let (flushed, flush) = oneshot::channel();
        if shared.acks.send(Ack::Flush(flushed)).is_ok() {
            let _ = timeout(END, flush).await;
        }
        let (receipts, bytes) = {
            let mut flight = shared.flight();
            let bytes = flight.bytes();
            (flight.end(), bytes)
        };
        metrics().queue_in_flight(-(bytes as f64));
        if !receipts.is_empty() {
            let _ = timeout(END, shared.source.give_back(receipts)).await;
        }
        shared.pulling.wait().await;
        shared.end.cancel();
        shared.tasks.close();
        let _ = timeout(END, shared.tasks.wait()).await;
        let had_some = shared.on_trial().take().is_some();
        if had_some {
            crossed_out(timeout(END, shared.trials.leave()).await);
        }
    }

    /// How it is doing.
    pub fn status(&self) -> ConsumerStatus {
        let (messages, bytes) = {
            let flight = self.0.flight();
            (flight.messages(), flight.bytes())
        };
        ConsumerStatus {
            messages,
            bytes,
            unreadable: self.0.unreadable.load(Ordering::Relaxed),
            failing: self.0.failing().clone(),
        }
    }
}

impl PackReader for RemoteConsumer {
    fn read(&self, at: Position) -> BoxFuture<'static, Result<Arc<Pack>, PackReadError>> {
        let pack = self.0.flight().read(at);
        Box::pin(std::future::ready(pack.ok_or_else(|| PackReadError("it is not under way any more".into()))))
    }
}

impl Shared {
    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failing(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_trial(&self) -> MutexGuard<'_, Option<HashMap<Receipt, Arc<str>>>> {
        self.on_trial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a call: how many messages it may bring. Whoever holds nothing may always have one.
    fn reserve(&self) -> Option<usize> {
        let used = self.flight().bytes() + self.reserved.load(Ordering::Acquire);
        let fit = self.settings.credit.saturating_sub(used) / RESERVE;
        let messages = fit.max(usize::from(used == 0)).min(self.reception.messages);
        (messages > 0).then(|| {
            self.reserved.fetch_add(messages * RESERVE, Ordering::AcqRel);
            messages
        })
    }

    fn release(&self, messages: usize) {
        self.reserved.fetch_sub(messages * RESERVE, Ordering::AcqRel);
    }

    /// These messages were opened, and nothing happened.
    fn survived(self: &Arc<Self>, receipts: &[Receipt]) {
        let survived: Vec<_> = match &mut *self.on_trial() {
            None => return,
            Some(on_trial) => receipts.iter().filter_map(|receipt| on_trial.remove(receipt)).collect(),
        };
        if !survived.is_empty() {
            let this = self.clone();
            let end = async move { crossed_out(timeout(END, this.trials.end(&survived)).await) };
            self.tasks.spawn_on(end, &self.runtime);
        }
    }

    /// Something of these messages was settled.
    fn done(self: &Arc<Self>, receipts: Vec<Receipt>, freed: usize) {
        if !receipts.is_empty() {
            self.survived(&receipts);
            metrics().queue_in_flight(-(freed as f64));
            let _ = self.acks.send(Ack::Done(receipts)); // when the consumer has ended, it comes again and is known
            self.room.notify_one();
        }
    }
}

/// Receives while there is credit.
async fn pull(shared: Arc<Shared>) {
    let mut calls = FuturesUnordered::new();
    let (mut wanted, mut failures, mut not_before) = (1, 0, Instant::now());
    while !shared.stop.is_cancelled() {
        while calls.len() < wanted && Instant::now() >= not_before {
            let Some(messages) = shared.reserve() else { break };
            calls.push(call(shared.clone(), messages));
        }
        tokio::select! {
            () = shared.stop.cancelled() => {}
            Some(outcome) = calls.next(), if !calls.is_empty() => match outcome {
                Ok(true) => (wanted, failures) = ((wanted + 1).min(shared.reception.receivers.max(1)), 0),
                Ok(false) => (wanted, failures, not_before) = (1, 0, Instant::now() + shared.reception.pause),
                Err(error) => {
                    let wait = if error.lasting { LASTING } else { pause(failures) };
                    tracing::warn!(%error, "nothing can be received; it is tried again");
                    (wanted, failures, not_before) = (1, failures + 1, Instant::now() + wait);
                }
            },
            () = tokio::time::sleep_until(not_before), if calls.len() < wanted && Instant::now() < not_before => {}
            () = shared.room.notified() => {}
        }
    }
    // What a call brings now is given back.
    let _ = timeout(shared.settings.last_call, async { while calls.next().await.is_some() {} }).await;
}

/// One call; whether it came back as full as it could.
async fn call(shared: Arc<Shared>, messages: usize) -> Result<bool, ReceiveError> {
    let _reserved = Reserved(&shared, messages);
    let received = shared.source.receive(messages).await;
    *shared.failing() = received.as_ref().err().map(|error| error.text.clone());
    let received = received?;
    let full = received.len() >= messages;
    if received.is_empty() {
        return Ok(false);
    }
    if shared.stop.is_cancelled() {
        shared.source.give_back(received.into_iter().map(|message| message.receipt).collect()).await;
        return Ok(false);
    }
    metrics().queue_events(QueueEvent::Received, received.len() as u64);
    let oldest = received.iter().map(|message| message.sent_at).min().unwrap_or_default();
    metrics().queue_age(Duration::from_millis(now_ms().saturating_sub(oldest).max(0) as u64));
    let received = try_carefully(&shared, received).await;
    let decode = move || received.into_iter().map(decoded).collect::<Vec<_>>();
    let decoded = shared.runtime.spawn_blocking(decode).await;
    for (message, envelope) in decoded.map_err(|_| ReceiveError {
        lasting: false,
        text: "a message could not be decoded".into(),
    })? {
        admit(&shared, message, envelope);
    }
    Ok(full)
}

/// What may be opened of what was received: messages of a dead-letter queue only after that was written down.
async fn try_carefully(shared: &Arc<Shared>, received: Vec<Received>) -> Vec<Received> {
    let (suspects, mut may): (Vec<_>, Vec<_>) = received.into_iter().partition(|message| message.set_aside);
    if suspects.is_empty() {
        return may;
    }
    let _alone = shared.opening.lock().await;
    let names: Vec<_> = suspects.iter().map(|message| message.id.clone()).collect();
    let open: Vec<_> = shared.on_trial().get_or_insert_default().values().cloned().collect();
    let trials = match shared.trials.begin(&names, &open).await {
        Ok(trials) => trials,
        Err(error) => {
            tracing::warn!(%error, "messages of the dead-letter queue are left for later");
            return may; // they come again when their hold has run out
        }
    };
    for (message, trial) in suspects.into_iter().zip(trials) {
        match trial {
            Trial::Open => {
                let (receipt, name) = (message.receipt.clone(), message.id.clone());
                shared.on_trial().get_or_insert_default().insert(receipt, name);
                may.push(message);
            }
            Trial::Later => {}
            Trial::Never => {
                tracing::error!(message = %message.id, "a message has ended every process that opened it; it goes to the quarantine unopened");
                let body = message.body.unwrap_or_else(|body| body);
                put_away(shared, message.id, message.receipt, body);
            }
        }
    }
    may
}

fn crossed_out(outcome: Result<Result<(), ObjectError>, tokio::time::error::Elapsed>) {
    if !matches!(outcome, Ok(Ok(()))) {
        tracing::warn!(?outcome, "it was not noted that messages of the dead-letter queue came to their end");
    }
}

/// Gives the reservation of a call back.
struct Reserved<'a>(&'a Shared, usize);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.0.release(self.1);
    }
}

/// A message, and what is in it: `Err` with its bytes where nobody can say.
type Decoded = (Received, Result<Envelope, (EnvelopeError, Bytes)>);

fn decoded(mut message: Received) -> Decoded {
    let body = std::mem::replace(&mut message.body, Ok(Bytes::new()));
    let envelope = match body {
        Ok(body) => envelope::decode(&body).map_err(|error| (error, body)),
        Err(body) => Err((EnvelopeError::Magic, body)),
    };
    (message, envelope)
}

fn admit(shared: &Arc<Shared>, message: Received, envelope: Result<Envelope, (EnvelopeError, Bytes)>) {
    let (id, receptions) = (message.id, message.receptions);
    match envelope {
        Ok(envelope) if envelope.partition != shared.settings.partition => {
            tracing::error!(message = %id, partition = envelope.partition, "a message of another partition is left in the queue");
            shared.survived(&[message.receipt]);
            metrics().queue_events(QueueEvent::Unreadable, 1);
        }
        Ok(envelope) => {
            let (admitted, grown) = {
                let mut flight = shared.flight();
                let before = flight.bytes();
                (flight.admit(message.receipt, envelope, Instant::now()), flight.bytes() - before)
            };
            metrics().queue_in_flight(grown as f64);
            if receptions > 1 {
                tracing::debug!(message = %id, receptions, "a message came again");
                metrics().queue_events(QueueEvent::Redelivered, 1);
            }
            for order in admitted.orders {
                shared.tasks.spawn_on(obey(shared.clone(), order), &shared.runtime);
            }
            shared.work.notify_one();
        }
        Err((error, _)) if error.is_newer() => {
            tracing::error!(message = %id, %error, "a message is left in the queue for a newer build");
            shared.survived(&[message.receipt]);
            metrics().queue_events(QueueEvent::Unreadable, 1);
        }
        Err((error, body)) => {
            tracing::error!(message = %id, %error, bytes = body.len(), "a message cannot be read; it goes to the quarantine");
            put_away(shared, id, message.receipt, body);
        }
    }
}

/// Keeps a message that cannot be opened, and acknowledges it then.
fn put_away(shared: &Arc<Shared>, message: Arc<str>, receipt: Receipt, body: Bytes) {
    shared.unreadable.fetch_add(1, Ordering::Relaxed);
    metrics().queue_events(QueueEvent::Unreadable, 1);
    let this = shared.clone();
    let keep = async move {
        match this.quarantine.keep(&message, body).await {
            Ok(()) => this.done(vec![receipt], 0),
            Err(error) => tracing::error!(%message, %error, "a message cannot be put into quarantine; it stays in the queue"),
        }
    };
    shared.tasks.spawn_on(keep, &shared.runtime);
}

/// Has an order sealed, and says when it is.
async fn obey(shared: Arc<Shared>, order: RemoteOrder) {
    for attempt in 0.. {
        let outcome = tokio::select! {
            () = shared.end.cancelled() => return,
            outcome = shared.decider.order(order.clone()) => outcome,
        };
        if outcome.is_ok() {
            let (receipts, freed) = close(&shared, |flight| flight.ordered(order.id));
            return shared.done(receipts, freed);
        }
        tokio::select! {
            () = shared.stop.cancelled() => return, // it comes again, elsewhere
            () = tokio::time::sleep(pause(attempt)) => {}
        }
    }
}

/// Settles something, and says how many bytes that freed.
fn close(shared: &Shared, settle: impl FnOnce(&mut Flight) -> Vec<Receipt>) -> (Vec<Receipt>, usize) {
    let mut flight = shared.flight();
    let before = flight.bytes();
    let receipts = settle(&mut flight);
    (receipts, before - flight.bytes())
}

/// Takes packs from the backlog to the router.
async fn feed(shared: Arc<Shared>, lane: mpsc::Sender<Delivery>, under_way: mpsc::UnboundedSender<UnderWay>) {
    loop {
        let next = shared.flight().pop();
        let Some(next) = next else {
            shared.work.notified().await;
            continue;
        };
        let (ticket, verdict) = Ticket::new();
        let (pack, attempt) = (next.pack.id(), next.attempt);
        let tenant = next.tenant.clone();
        if under_way
            .send(UnderWay {
                tenant,
                pack,
                attempt,
                verdict,
            })
            .is_err()
        {
            return;
        }
        let delivery = Delivery {
            pack: next.pack,
            position: next.position,
            attempt,
            ticket,
        };
        if attempt > MAX_ATTEMPTS {
            shared.tasks.spawn_on(shared.decider.submit(poison(next.tenant, delivery)), &shared.runtime);
        } else if lane.send(delivery).await.is_err() {
            return;
        }
    }
}

/// Hears what became of deliveries.
async fn hear(shared: Arc<Shared>, mut verdicts: mpsc::UnboundedReceiver<UnderWay>) {
    let (mut under_way, mut open) = (FuturesUnordered::new(), true);
    while open || !under_way.is_empty() {
        tokio::select! {
            next = verdicts.recv(), if open => match next {
                Some(delivery) => under_way.push(outcome(&shared.stop, delivery)),
                None => open = false,
            },
            Some((delivery, verdict)) = under_way.next(), if !under_way.is_empty() => match verdict {
                Verdict::Done => {
                    let (receipts, freed) = close(&shared, |flight| flight.settled(&delivery.tenant, delivery.pack, delivery.attempt));
                    shared.done(receipts, freed);
                    shared.work.notify_one();
                }
                Verdict::Redeliver => {
                    shared.flight().dropped(&delivery.tenant, delivery.pack, delivery.attempt);
                    shared.work.notify_one();
                }
            },
        }
    }
}

/// Resolves when the delivery is settled, or after a pause when it is to be repeated.
async fn outcome(stop: &CancellationToken, mut delivery: UnderWay) -> (UnderWay, Verdict) {
    let verdict = (&mut delivery.verdict).await.unwrap_or(Verdict::Redeliver);
    if verdict == Verdict::Redeliver {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(20 << delivery.attempt.min(8))) => {}
        }
    }
    (delivery, verdict)
}

/// Tells the engine what is done, by batches.
async fn acknowledge(shared: Arc<Shared>, mut acks: mpsc::UnboundedReceiver<Ack>) {
    let mut tries: HashMap<Receipt, u32> = HashMap::new();
    let mut due: Option<Instant> = None;
    loop {
        let mut flushed = None;
        tokio::select! {
            ack = acks.recv() => match ack {
                Some(Ack::Done(receipts)) => {
                    tries.extend(receipts.into_iter().map(|receipt| (receipt, 0)));
                    due.get_or_insert(Instant::now() + shared.settings.ack_linger);
                    if tries.len() < ACK_BATCH {
                        continue;
                    }
                }
                Some(Ack::Flush(reply)) => flushed = Some(reply),
                None => return,
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        if !tries.is_empty() {
            let again = shared.source.done(tries.keys().cloned().collect()).await;
            let told = tries.len() - again.len().min(tries.len());
            metrics().queue_events(QueueEvent::Done, told as u64);
            let before = std::mem::take(&mut tries);
            tries = again
                .into_iter()
                .filter_map(|receipt| {
                    let n = before.get(&receipt).copied().unwrap_or_default() + 1;
                    (n < ACK_TRIES).then_some((receipt, n))
                })
                .collect();
        }
        due = tries.values().max().map(|tries| Instant::now() + pause(*tries));
        if let Some(flushed) = flushed {
            let _ = flushed.send(()); // who asked may have gone on
        }
    }
}

/// Keeps what is open from being handed to others.
async fn keep_hold(shared: Arc<Shared>, hold: Duration) {
    loop {
        tokio::time::sleep(hold / 8).await;
        let mut receipts = shared.flight().hold(hold / 2, Instant::now());
        for attempt in 0..3 {
            if receipts.is_empty() {
                break;
            }
            if attempt > 0 {
                tokio::time::sleep(pause(attempt)).await;
            }
            receipts = shared.source.extend(receipts).await;
        }
    }
}

#[cfg(test)]
mod tests;
