//! For tests: a queue in memory that can be told to misbehave, a sequencer that decides what it is told to, and the contract that every
//! [`Transport`] with its [`Receive`] keeps, whatever the engine.

use super::{Limits, Message, NotOrdered, Orders, Receipt, Receive, ReceiveError, Received, Reception, RemoteOrder, SendError, Transport};
use crate::{model::batch::Batch, model::ticket::Verdict, queue::Decider, seal::Refusal};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

/// What happens to one send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendFault {
    /// Not taken, and it never will be.
    Refused,
    /// Not taken now.
    Throttled,
    /// Taken; the answer is lost.
    AnswerLost,
    /// Not taken; nobody knows.
    RequestLost,
    /// Every second message is taken, the others are throttled.
    Half,
    /// Every second message is taken, the others are refused for good.
    HalfRefused,
    /// Taken, and there twice.
    Twice,
}

/// Requests by kind, as SQS would count them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub send: usize,
    pub receive: usize,
    pub done: usize,
    pub extend: usize,
    pub give_back: usize,
}

impl Calls {
    pub fn sum(&self) -> usize {
        self.send + self.receive + self.done + self.extend + self.give_back
    }
}

#[derive(Debug, Clone)]
struct Stored {
    id: u64,
    body: Bytes,
    receptions: u32,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Stored>,
    hidden: BTreeMap<u64, (Stored, Instant)>,
    next: u64,
    calls: Calls,
    sends: VecDeque<SendFault>,
    always: Option<SendFault>,
    done_fails: usize,
    /// It plays a dead-letter queue.
    dead_letters: bool,
    /// Acknowledged messages by id.
    done: HashSet<u64>,
}

/// See the module.
pub(crate) struct MemoryQueue {
    state: Mutex<State>,
    changed: Notify,
    limits: Limits,
    reception: Reception,
}

impl MemoryQueue {
    pub fn new() -> Arc<Self> {
        let limits = Limits {
            message_bytes: 786_432,
            batch_bytes: 786_400,
            batch_messages: 10,
            buckets: 1,
        };
        Self::with(limits, Duration::from_secs(120))
    }

    pub fn with(limits: Limits, hold: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Notify::new(),
            limits,
            reception: Reception {
                messages: 10,
                receivers: 4,
                pause: Duration::from_millis(300),
                hold: Some(hold),
            },
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds it")
    }

    /// What happens to the next sends, in order; then they work.
    pub fn faults(&self, faults: &[SendFault]) {
        self.state().sends.extend(faults);
    }

    /// What happens to every send from now on.
    pub fn always(&self, fault: Option<SendFault>) {
        self.state().always = fault;
    }

    /// So many calls of `done` and `extend` do nothing.
    pub fn telling_fails(&self, calls: usize) {
        self.state().done_fails = calls;
    }

    /// What is received from now on comes from a dead-letter queue.
    pub fn is_of_dead_letters(&self) {
        self.state().dead_letters = true;
    }

    /// Whoever had messages in hand is gone: they are handed out again.
    pub fn hand_out_again(&self) {
        let mut state = self.state();
        let hidden = std::mem::take(&mut state.hidden);
        state.ready.extend(hidden.into_values().map(|(stored, _)| stored));
        drop(state);
        self.changed.notify_waiters();
    }

    pub fn calls(&self) -> Calls {
        self.state().calls
    }

    /// Messages that wait, are handed out, and are done.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.state();
        (state.ready.len(), state.hidden.len(), state.done.len())
    }

    /// Puts bytes in as they are.
    pub fn put(&self, body: Bytes) {
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        state.ready.push_back(Stored { id, body, receptions: 0 });
        drop(state);
        self.changed.notify_waiters();
    }

    /// Every message that is not done, read.
    pub fn bodies(&self) -> Vec<Bytes> {
        let state = self.state();
        state.ready.iter().map(|stored| stored.body.clone()).collect()
    }

    fn take(&self, max: usize) -> Vec<Received> {
        let (mut state, now) = (self.state(), Instant::now());
        let late: Vec<u64> = state.hidden.iter().filter(|(_, (_, until))| *until <= now).map(|(handle, _)| *handle).collect();
        for handle in late {
            let (stored, _) = state.hidden.remove(&handle).expect("it was just there");
            state.ready.push_back(stored);
        }
        let mut received = Vec::new();
        while received.len() < max.min(self.reception.messages) {
            let Some(mut stored) = state.ready.pop_front() else { break };
            stored.receptions += 1;
            state.next += 1;
            let handle = state.next;
            received.push(Received {
                receipt: Receipt {
                    source: 0,
                    handle: handle.to_string().into(),
                },
                id: stored.id.to_string().into(),
                body: Ok(stored.body.clone()),
                receptions: stored.receptions,
                sent_at: crate::model::time::now_ms(),
                set_aside: state.dead_letters,
            });
            state.hidden.insert(handle, (stored, now + self.reception.hold.expect("it has one")));
        }
        received
    }
}

fn error(definite: bool, retry: bool) -> SendError {
    SendError {
        definite,
        retry,
        text: "as scripted".into(),
    }
}

impl Transport for MemoryQueue {
    fn send(&self, messages: Vec<Message>) -> BoxFuture<'_, Vec<Result<(), SendError>>> {
        Box::pin(async move {
            assert!(!messages.is_empty() && messages.len() <= self.limits.batch_messages);
            assert!(messages.iter().all(|message| message.body.len() <= self.limits.message_bytes));
            assert!(messages.iter().map(|message| message.body.len()).sum::<usize>() <= self.limits.batch_bytes.max(messages[0].body.len()));
            let fault = {
                let mut state = self.state();
                state.calls.send += 1;
                state.sends.pop_front().or(state.always)
            };
            let outcome = |i: usize| match fault {
                None => (1, Ok(())),
                Some(SendFault::Twice) => (2, Ok(())),
                Some(SendFault::Refused) => (0, Err(error(true, false))),
                Some(SendFault::Throttled) => (0, Err(error(true, true))),
                Some(SendFault::AnswerLost) => (1, Err(error(false, true))),
                Some(SendFault::RequestLost) => (0, Err(error(false, true))),
                Some(SendFault::Half | SendFault::HalfRefused) if i.is_multiple_of(2) => (1, Ok(())),
                Some(SendFault::Half) => (0, Err(error(true, true))),
                Some(SendFault::HalfRefused) => (0, Err(error(true, false))),
            };
            let mut results = Vec::new();
            for (i, message) in messages.into_iter().enumerate() {
                let (times, result) = outcome(i);
                (0..times).for_each(|_| self.put(message.body.clone()));
                results.push(result);
            }
            results
        })
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

impl Receive for MemoryQueue {
    fn receive(&self, max: usize) -> BoxFuture<'_, Result<Vec<Received>, ReceiveError>> {
        Box::pin(async move {
            self.state().calls.receive += 1;
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                let changed = self.changed.notified();
                let received = self.take(max);
                if !received.is_empty() {
                    return Ok(received);
                }
                let next = self.state().hidden.values().map(|(_, until)| *until).min().unwrap_or(deadline).min(deadline);
                tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(next) => {}
                }
                if Instant::now() >= deadline {
                    return Ok(Vec::new());
                }
            }
        })
    }

    fn done(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Vec<Receipt>> {
        let mut state = self.state();
        state.calls.done += receipts.len().div_ceil(10);
        let again = if state.done_fails > 0 {
            state.done_fails -= 1;
            receipts
        } else {
            for receipt in receipts {
                let handle = receipt.handle.parse().expect("ours");
                if let Some((stored, _)) = state.hidden.remove(&handle) {
                    state.done.insert(stored.id);
                }
            }
            Vec::new()
        };
        Box::pin(std::future::ready(again))
    }

    fn extend(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Vec<Receipt>> {
        let mut state = self.state();
        state.calls.extend += receipts.len().div_ceil(10);
        let again = if state.done_fails > 0 {
            state.done_fails -= 1;
            receipts
        } else {
            let until = Instant::now() + self.reception.hold.expect("it has one");
            for receipt in receipts {
                let handle = receipt.handle.parse().expect("ours");
                if let Some((_, at)) = state.hidden.get_mut(&handle) {
                    *at = until;
                }
            }
            Vec::new()
        };
        Box::pin(std::future::ready(again))
    }

    fn give_back(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()> {
        let mut state = self.state();
        state.calls.give_back += receipts.len().div_ceil(10);
        for receipt in receipts {
            let handle = receipt.handle.parse().expect("ours");
            if let Some((stored, _)) = state.hidden.remove(&handle) {
                state.ready.push_back(stored);
            }
        }
        drop(state);
        self.changed.notify_waiters();
        Box::pin(std::future::ready(()))
    }

    fn reception(&self) -> Reception {
        self.reception
    }
}

/// A sequencer for what goes past the actors: it notes what it is given.
#[derive(Default)]
pub(crate) struct Noted {
    pub orders: Mutex<Vec<RemoteOrder>>,
    pub poison: Mutex<Vec<Uuid>>,
    /// So many orders fail first.
    pub fails: Mutex<usize>,
}

impl Decider for Noted {
    fn submit(&self, batch: Batch) -> BoxFuture<'static, ()> {
        assert_eq!(batch.refusal, Some(Refusal::Poison));
        for work in batch.works {
            self.poison.lock().expect("unpoisoned").push(work.delivery.pack.id());
            work.delivery.ticket.settle(Verdict::Done);
        }
        Box::pin(std::future::ready(()))
    }

    fn copy_forward(&self) {}
}

impl Orders for Noted {
    fn order(&self, order: RemoteOrder) -> BoxFuture<'static, Result<(), NotOrdered>> {
        let mut fails = self.fails.lock().expect("unpoisoned");
        let outcome = if *fails > 0 {
            *fails -= 1;
            Err(NotOrdered)
        } else {
            self.orders.lock().expect("unpoisoned").push(order);
            Ok(())
        };
        Box::pin(std::future::ready(outcome))
    }
}

/// Waits for a condition, with a bound that no machine is too slow for.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3600), wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// Bytes that do not compress, different for each number.
pub(crate) fn noise(number: u64, len: usize) -> Bytes {
    let words = (0..len as u64)
        .step_by(8)
        .flat_map(|i| xxhash_rust::xxh3::xxh3_64_with_seed(&i.to_le_bytes(), number).to_le_bytes());
    words.take(len).collect::<Vec<_>>().into()
}

/// Receives until so many messages came, in any order.
async fn receive(receive: &dyn Receive, count: usize) -> Vec<Received> {
    let mut all = Vec::new();
    for _ in 0..200 {
        if all.len() >= count {
            return all;
        }
        all.extend(receive.receive(10).await.expect("it can be received"));
    }
    panic!("only {} of {count} messages came", all.len());
}

fn receipts(received: &[Received]) -> Vec<Receipt> {
    received.iter().map(|message| message.receipt.clone()).collect()
}

/// The contract. `make` gives a new, empty queue each time, as a transport and as what receives from it; messages that are not done are
/// handed out again after `Reception::hold`, where there is one (a few seconds, for the test's sake).
pub(crate) async fn contract(make: impl AsyncFn() -> Made) {
    everything_arrives_whole(&make().await).await;
    the_largest_message_and_the_largest_batch_are_taken(&make().await).await;
    what_is_given_back_comes_again_and_what_is_done_does_not(&make().await).await;
    what_is_not_done_comes_again_when_it_is_not_held(&make().await).await;
    telling_what_is_known_is_harmless(&make().await).await;
}

/// A queue, by both ends.
pub(crate) type Made = (Arc<dyn Transport>, Arc<dyn Receive>);

async fn send(transport: &Arc<dyn Transport>, bodies: &[Bytes]) {
    let messages = bodies.iter().map(|body| Message { key: 0, body: body.clone() }).collect();
    let results = transport.send(messages).await;
    assert_eq!(results.len(), bodies.len(), "a result for each");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

async fn everything_arrives_whole((transport, source): &Made) {
    let limits = transport.limits();
    let bodies: Vec<Bytes> = (0..23).map(|i| noise(i, 1 + 997 * i as usize)).collect();
    for batch in bodies.chunks(limits.batch_messages.min(10)) {
        send(transport, batch).await;
    }
    let received = receive(&**source, bodies.len()).await;
    let came: HashSet<Bytes> = received.iter().map(|message| message.body.clone().expect("ours")).collect();
    assert_eq!(came, bodies.into_iter().collect(), "byte by byte");
    assert!(received.iter().all(|message| message.receptions >= 1 && message.sent_at > 1_600_000_000_000));
    let again = source.done(receipts(&received)).await;
    assert!(again.is_empty(), "{again:?}");
}

async fn the_largest_message_and_the_largest_batch_are_taken((transport, source): &Made) {
    let limits = transport.limits();
    let largest = noise(1, limits.message_bytes);
    send(transport, std::slice::from_ref(&largest)).await;
    let received = receive(&**source, 1).await;
    assert_eq!(received[0].body.as_ref().expect("ours"), &largest);
    assert!(source.done(receipts(&received)).await.is_empty());
    let messages = limits.batch_messages.min(10);
    let each = (limits.batch_bytes / messages).min(limits.message_bytes);
    let bodies: Vec<_> = (0..messages).map(|i| noise(i as u64, each)).collect();
    send(transport, &bodies).await;
    let received = receive(&**source, bodies.len()).await;
    assert!(source.done(receipts(&received)).await.is_empty());
}

async fn what_is_given_back_comes_again_and_what_is_done_does_not((transport, source): &Made) {
    if source.reception().hold.is_none() {
        return;
    }
    send(transport, &[noise(1, 10), noise(2, 10)]).await;
    let first = receive(&**source, 2).await;
    source.give_back(receipts(&first)).await;
    let second = receive(&**source, 2).await;
    let ids = |list: &[Received]| list.iter().map(|message| message.id.clone()).collect::<HashSet<_>>();
    assert_eq!(ids(&first), ids(&second), "a message keeps its name");
    assert!(second.iter().all(|message| message.receptions == 2));
    assert!(source.done(receipts(&second[..1])).await.is_empty());
    source.give_back(receipts(&second[1..])).await;
    let third = receive(&**source, 1).await;
    assert_eq!(third[0].id, second[1].id, "the other is done");
    assert!(source.done(receipts(&third)).await.is_empty());
}

async fn what_is_not_done_comes_again_when_it_is_not_held((transport, source): &Made) {
    let Some(hold) = source.reception().hold else { return };
    send(transport, &[noise(1, 10)]).await;
    let first = receive(&**source, 1).await;
    tokio::time::sleep(hold / 2).await;
    let held_at = Instant::now();
    assert!(source.extend(receipts(&first)).await.is_empty());
    tokio::time::sleep(hold / 2 + hold / 8).await;
    // Without the extension it would be there now. (On a machine that is too slow, nothing is said.)
    let early = source.receive(1).await.expect("it can be received");
    if held_at.elapsed() < hold {
        assert!(early.is_empty(), "it was held");
    }
    let again = if early.is_empty() { receive(&**source, 1).await } else { early };
    assert_eq!(again[0].id, first[0].id);
    assert!(again[0].receptions > 1);
    assert!(source.done(receipts(&again)).await.is_empty());
}

async fn telling_what_is_known_is_harmless((transport, source): &Made) {
    send(transport, &[noise(1, 10)]).await;
    let first = receive(&**source, 1).await;
    for _ in 0..2 {
        assert!(source.done(receipts(&first)).await.is_empty(), "deleted is deleted");
    }
    assert!(source.extend(receipts(&first)).await.is_empty());
    source.give_back(receipts(&first)).await;
}

mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_keeps_the_contract() {
        contract(async || {
            let queue = MemoryQueue::with(MemoryQueue::new().limits, Duration::from_secs(4));
            (queue.clone() as Arc<dyn Transport>, queue as Arc<dyn Receive>)
        })
        .await;
    }
}
