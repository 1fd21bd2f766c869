use super::*;
use crate::{
    fs::sim::SimFs,
    model::pack::tests::{pack_of, pack_with},
    objects::{Key, Objects, folder::FolderObjects},
    queue::{
        Counters, Decided, Producer,
        remote::{
            Decisions, Limits, Ordered, Transport,
            envelope::Item,
            producer::{ProducerSettings, RemoteProducer},
            testing::{MemoryQueue, Noted, SendFault, until},
            trials,
        },
        seals::tests::Flaky,
    },
};
use std::{collections::HashSet, path::PathBuf};

struct Bench {
    queue: Arc<MemoryQueue>,
    noted: Arc<Noted>,
    objects: Arc<dyn Objects>,
    consumer: RemoteConsumer,
    deliveries: mpsc::Receiver<Delivery>,
}

fn memory() -> Arc<dyn Objects> {
    Arc::new(FolderObjects::open(Arc::new(SimFs::new()), PathBuf::from("/objects")).expect("a folder"))
}

fn start_with(queue: Arc<MemoryQueue>, settings: ConsumerSettings) -> Bench {
    start_on(queue, memory(), settings)
}

fn start_on(queue: Arc<MemoryQueue>, objects: Arc<dyn Objects>, settings: ConsumerSettings) -> Bench {
    let noted = Arc::new(Noted::default());
    let quarantine = Quarantine::new(objects.clone(), settings.partition);
    let (consumer, deliveries) = RemoteConsumer::start(queue.clone(), noted.clone(), quarantine, settings, Handle::current());
    Bench {
        queue,
        noted,
        objects,
        consumer,
        deliveries,
    }
}

fn start() -> Bench {
    start_with(MemoryQueue::new(), ConsumerSettings::default())
}

fn message(partition: u32, items: &[Item]) -> Bytes {
    envelope::encode(partition, items)
}

fn pack(tenant: &str, id: u128) -> Item {
    Item::Pack(Arc::new(pack_of(tenant, &[id])))
}

impl Bench {
    async fn next(&mut self) -> Delivery {
        let next = timeout(Duration::from_secs(3600), self.deliveries.recv()).await;
        next.expect("something is delivered").expect("the lane is open")
    }

    fn done(&self) -> usize {
        self.queue.counts().2
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_acknowledged_when_all_its_items_are_sealed_and_not_before() {
    let mut bench = start();
    bench.queue.put(message(0, &[pack("a", 1), pack("b", 2)]));
    let (first, second) = (bench.next().await, bench.next().await);
    let read = bench.consumer.read(first.position).await.expect("it is under way");
    assert_eq!(read.id(), first.pack.id());
    first.ticket.settle(Verdict::Done);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((bench.done(), bench.consumer.status().messages), (0, 1));
    second.ticket.settle(Verdict::Done);
    until("it is acknowledged", || bench.done() == 1).await;
    assert_eq!(bench.consumer.status(), ConsumerStatus::default());
}

#[tokio::test(start_paused = true)]
async fn what_is_delivered_twice_is_decided_once_and_acknowledged_twice() {
    let mut bench = start();
    let one = message(0, &[pack("a", 1)]);
    for _ in 0..3 {
        bench.queue.put(one.clone());
    }
    let first = bench.next().await;
    until("all are received", || bench.consumer.status().messages == 3).await;
    first.ticket.settle(Verdict::Done);
    until("all are acknowledged", || bench.done() == 3).await;
    assert!(bench.deliveries.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_unsettled_ticket_is_delivered_again_and_the_sixth_time_refused() {
    let mut bench = start();
    bench.queue.put(message(0, &[pack("a", 1)]));
    for attempt in 1..=MAX_ATTEMPTS {
        let delivery = bench.next().await;
        assert_eq!(delivery.attempt, attempt);
        drop(delivery);
    }
    until("it is acknowledged", || bench.done() == 1).await;
    assert_eq!(bench.noted.poison.lock().expect("unpoisoned").len(), 1);
    assert_eq!(bench.queue.calls().give_back, 0, "the queue knows nothing of it");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_goes_to_the_quarantine_and_stops_nobody() {
    let mut bench = start();
    let json = Bytes::from_static(br#"{"action":"CREATE","somebody":"else's"}"#);
    bench.queue.put(json.clone());
    let mut damaged = message(0, &[pack("a", 1)]).to_vec();
    damaged[30] ^= 1;
    bench.queue.put(damaged.into());
    bench.queue.put(message(0, &[pack("a", 2)]));
    bench.next().await.ticket.settle(Verdict::Done);
    until("all three are gone", || bench.done() == 3).await;
    assert_eq!(bench.consumer.status().unreadable, 2);
    let kept = bench.objects.list("quarantine").await.expect("readable");
    assert_eq!(kept.len(), 2);
    let key = Key::parse("quarantine/0/1.bin").expect("a name");
    let (found, _) = bench.objects.get(&key).await.expect("readable").expect("kept");
    assert_eq!(found, json, "as it came");
}

/// The process that has this in hand ends: what it held is handed out again.
async fn dies(bench: Bench) {
    bench.consumer.0.end.cancel(); // nothing is acknowledged, held or given back from here on
    bench.consumer.stop_delivery();
    bench.consumer.0.pulling.wait().await;
    bench.queue.hand_out_again();
}

#[tokio::test(start_paused = true)]
async fn a_message_of_the_dead_letter_queue_that_ends_five_processes_is_kept_unopened_and_its_neighbours_are_decided() {
    let (queue, objects) = (MemoryQueue::new(), memory());
    queue.is_of_dead_letters();
    let (bad, good) = (message(0, &[pack("a", 1)]), message(0, &[pack("a", 2)]));
    queue.put(bad.clone());
    queue.put(good);
    let mut opened = 0;
    for _ in 0..40 {
        let mut bench = start_on(queue.clone(), objects.clone(), ConsumerSettings::default());
        let settled = async {
            until("both are done", || bench.queue.counts().2 == 2).await;
            None
        };
        let delivered = async {
            loop {
                let delivery = bench.deliveries.recv().await.expect("the lane is open");
                if delivery.pack.entry(0).id() == Uuid::from_u128(1) {
                    return Some(delivery); // whoever decides it ends
                }
                delivery.ticket.settle(Verdict::Done);
            }
        };
        let outcome = tokio::select! {
            none = settled => none,
            delivery = delivered => delivery,
        };
        let Some(deadly) = outcome else { break };
        opened += 1;
        drop(deadly);
        dies(bench).await;
    }
    assert_eq!((opened, queue.counts()), (trials::NEVER, (0, 0, 2)));
    let kept = objects.list("quarantine/0").await.expect("readable");
    let (found, _) = objects.get(&kept[0]).await.expect("readable").expect("kept");
    assert_eq!((kept.len(), found), (1, bad), "as it came");
}

#[tokio::test(start_paused = true)]
async fn what_the_dead_letter_queue_holds_after_outages_and_restarts_is_decided_however_often_it_came() {
    let (queue, objects) = (MemoryQueue::new(), memory());
    queue.is_of_dead_letters();
    let mut newer = message(0, &[pack("a", 9)]).to_vec();
    newer[4] = 9;
    queue.put(newer.into());
    queue.put(message(0, &[pack("a", 1)]));
    for _ in 0..3 * trials::NEVER {
        let mut bench = start_on(queue.clone(), objects.clone(), ConsumerSettings::default());
        drop(bench.next().await);
        bench.consumer.close().await; // a stop in order, while a store is down
        queue.hand_out_again();
    }
    let mut bench = start_on(queue.clone(), objects.clone(), ConsumerSettings::default());
    bench.next().await.ticket.settle(Verdict::Done);
    until("it is done", || bench.queue.counts().2 == 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (book, _) = objects
        .get(&Key::parse("trials/0.json").expect("a name"))
        .await
        .expect("readable")
        .expect("there");
    let book: serde_json::Value = serde_json::from_slice(&book).expect("JSON");
    assert_eq!(book["opened"], serde_json::json!({}), "nothing is held against any of them");
    assert!(objects.list("quarantine").await.expect("readable").is_empty());
    assert_eq!(bench.queue.counts().1, 1, "and what a newer build has sent is left to it");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_kept_now_stays_in_the_queue_and_what_cannot_be_noted_now_is_not_opened() {
    for of_dead_letters in [false, true] {
        let (queue, flaky) = (MemoryQueue::new(), Flaky::default());
        flaky.refused.store(usize::MAX, Ordering::SeqCst);
        let body = match of_dead_letters {
            false => Bytes::from_static(b"what is it"),
            true => message(0, &[pack("a", 1)]),
        };
        if of_dead_letters {
            queue.is_of_dead_letters();
        }
        queue.put(body);
        let mut bench = start_on(queue, Arc::new(flaky.clone()), ConsumerSettings::default());
        until("it was received", || bench.queue.counts().1 == 1).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(bench.done(), 0, "it comes again and again");
        assert!(bench.deliveries.try_recv().is_err());
        flaky.refused.store(0, Ordering::SeqCst);
        if of_dead_letters {
            bench.next().await.ticket.settle(Verdict::Done);
        }
        until("it is done", || bench.done() == 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_version_and_another_partition_are_left_in_the_queue() {
    let mut bench = start();
    let mut newer = message(0, &[pack("a", 1)]).to_vec();
    newer[4] = 9;
    bench.queue.put(newer.into());
    bench.queue.put(message(1, &[pack("a", 2)]));
    bench.queue.put(message(0, &[pack("a", 3)]));
    let ours = bench.next().await;
    assert_eq!(ours.pack.entry(0).id(), Uuid::from_u128(3));
    ours.ticket.settle(Verdict::Done);
    until("ours is done", || bench.done() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(bench.deliveries.try_recv().is_err(), "nothing else is decided here");
    assert_eq!(bench.queue.counts(), (0, 2, 1), "the others are still there");
    assert!(bench.objects.list("quarantine").await.expect("readable").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_order_is_carried_out_once_and_again_after_a_failure() {
    let bench = start();
    *bench.noted.fails.lock().expect("unpoisoned") = 2;
    let order = RemoteOrder {
        id: Uuid::now_v7(),
        tenant: TenantId::parse("a").expect("good"),
        what: Ordered::Retire,
    };
    for _ in 0..2 {
        bench.queue.put(message(0, &[Item::Order(order.clone())]));
    }
    until("it is acknowledged", || bench.done() == 2).await;
    assert_eq!(bench.noted.orders.lock().expect("unpoisoned")[..], [order]);
}

#[tokio::test(start_paused = true)]
async fn received_bytes_stay_within_the_credit_and_receiving_goes_on_when_something_is_done() {
    let credit = 3 * RESERVE;
    let settings = ConsumerSettings {
        credit,
        ..ConsumerSettings::default()
    };
    let mut bench = start_with(MemoryQueue::new(), settings);
    // Each message holds about a mebibyte when it is read, and much less as it travels.
    let ids: Vec<u128> = (1..=8000).collect();
    let messages = 40;
    for i in 0..messages {
        let pack = pack_of(&format!("t{i}"), &ids);
        assert!(pack.bytes().len() > 700_000);
        bench.queue.put(message(0, &[Item::Pack(Arc::new(pack))]));
    }
    let mut open = Vec::new();
    tokio::time::sleep(Duration::from_secs(60)).await;
    while let Ok(delivery) = bench.deliveries.try_recv() {
        open.push(delivery);
        assert!(bench.consumer.status().bytes <= credit);
        tokio::task::yield_now().await;
    }
    let status = bench.consumer.status();
    assert!(status.bytes <= credit && status.bytes > credit - 2 * RESERVE, "{status:?}");
    assert!(status.messages < messages, "the rest waits in the queue");
    let calls = bench.queue.calls().receive;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.queue.calls().receive, calls, "nothing is asked for that there is no room for");
    for _ in 0..messages {
        let delivery = if open.is_empty() { bench.next().await } else { open.swap_remove(0) };
        delivery.ticket.settle(Verdict::Done);
    }
    until("all are done", || bench.done() == messages).await;
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_fails_is_told_again() {
    let mut bench = start();
    bench.queue.telling_fails(3);
    bench.queue.put(message(0, &[pack("a", 1)]));
    bench.next().await.ticket.settle(Verdict::Done);
    until("it is acknowledged", || bench.done() == 1).await;
    assert!(bench.queue.calls().done >= 4);
}

#[tokio::test(start_paused = true)]
async fn what_is_worked_on_for_long_is_held_and_not_handed_out_again() {
    let mut bench = start();
    bench.queue.put(message(0, &[pack("a", 1)]));
    let delivery = bench.next().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(bench.queue.calls().extend > 30);
    assert!(bench.deliveries.try_recv().is_err());
    assert_eq!(bench.consumer.status().messages, 1, "it came once");
    delivery.ticket.settle(Verdict::Done);
    until("it is acknowledged", || bench.done() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_acknowledges_what_is_sealed_and_gives_the_rest_back_at_once() {
    let mut bench = start();
    for i in 0..3 {
        bench.queue.put(message(0, &[pack("a", i)]));
    }
    let (first, second) = (bench.next().await, bench.next().await);
    bench.consumer.stop_delivery();
    first.ticket.settle(Verdict::Done);
    drop(second);
    while let Some(delivery) = bench.deliveries.recv().await {
        drop(delivery); // the router's end
    }
    let began = Instant::now();
    bench.consumer.close().await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(bench.queue.counts(), (2, 0, 1), "two wait for the next owner");
    bench.queue.put(message(0, &[pack("a", 9)]));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.queue.counts().0, 3, "nothing is received any more");
}

#[tokio::test(start_paused = true)]
async fn what_the_call_in_hand_brings_when_it_stops_is_given_back_at_once() {
    let settings = ConsumerSettings {
        last_call: Duration::from_secs(21),
        ..ConsumerSettings::default()
    };
    let bench = start_with(MemoryQueue::new(), settings);
    until("a call waits", || bench.queue.calls().receive == 1).await;
    bench.consumer.stop_delivery();
    bench.queue.put(message(0, &[pack("a", 1)]));
    bench.consumer.close().await;
    assert_eq!(
        (bench.queue.counts(), bench.queue.calls().give_back),
        ((1, 0, 0), 1),
        "the next owner has it now"
    );
}

/// Knows nothing.
struct Nothing;

impl Decisions for Nothing {
    fn decided(&self, _: Uuid, _: Duration) -> BoxFuture<'static, Option<Decided>> {
        Box::pin(std::future::ready(None))
    }

    fn counters(&self, _: &crate::model::tenant::TenantScope) -> Counters {
        Counters::default()
    }
}

/// Settles what it is given every half second, as seals do, until so many entries are there; tells which ids it saw.
async fn seal(deliveries: &mut mpsc::Receiver<Delivery>, entries: usize) -> HashSet<Uuid> {
    let mut ids = HashSet::new();
    let mut open: Vec<Delivery> = Vec::new();
    let mut seals = tokio::time::interval(Duration::from_millis(500));
    while ids.len() < entries {
        tokio::select! {
            Some(delivery) = deliveries.recv() => open.push(delivery),
            _ = seals.tick() => for delivery in open.drain(..) {
                ids.extend(delivery.pack.entries().map(|entry| entry.id()));
                delivery.ticket.settle(Verdict::Done);
            },
        }
    }
    ids
}

/// Requests per thousand entries, all kinds together, at 10,000 entries a second for ten seconds.
async fn requests_per_thousand(pack_entries: usize) -> f64 {
    let mut bench = start();
    let producer = RemoteProducer::start(
        vec![bench.queue.clone() as Arc<dyn Transport>],
        Arc::new(Nothing),
        ProducerSettings::default(),
        &Handle::current(),
    );
    let (entries, per_second) = (if pack_entries < 10 { 60_000 } else { 100_000 }, 10_000);
    let packs = entries / pack_entries;
    let every = Duration::from_secs(1) * pack_entries as u32 / per_second as u32;
    let flood = async {
        let mut tick = tokio::time::interval(every);
        let mut accepted = FuturesUnordered::new();
        for i in 0..packs {
            tick.tick().await;
            let first = (i * pack_entries) as u128;
            let ids: Vec<u128> = (0..pack_entries as u128)
                .map(|j| xxhash_rust::xxh3::xxh3_128(&(first + j).to_le_bytes()))
                .collect();
            let (producer, pack) = (producer.clone(), pack_with(&format!("t{}", i % 1000), &ids, true));
            accepted.push(tokio::spawn(async move { producer.accept(pack, None).await }));
        }
        while let Some(accepted) = accepted.next().await {
            accepted.expect("no panic").expect("taken");
        }
    };
    let (ids, ()) = tokio::join!(seal(&mut bench.deliveries, entries), flood);
    assert_eq!(ids.len(), entries);
    until("everything is acknowledged", || bench.queue.counts().0 + bench.queue.counts().1 == 0).await;
    let calls = bench.queue.calls();
    println!("packs of {pack_entries}: {calls:?} for {entries} entries");
    calls.sum() as f64 / (entries / 1000) as f64
}

#[tokio::test(start_paused = true)]
async fn at_ten_thousand_entries_a_second_a_thousand_cost_one_request_at_most() {
    for pack_entries in [1, 10, 100, 1000] {
        let requests = requests_per_thousand(pack_entries).await;
        assert!(requests <= 1.0, "packs of {pack_entries}: {requests} requests for a thousand entries");
    }
}

#[tokio::test(start_paused = true)]
async fn everything_accepted_arrives_however_the_queue_behaves() {
    let limits = Limits {
        message_bytes: 4000,
        batch_bytes: 12_000,
        batch_messages: 5,
        buckets: 1,
    };
    let mut bench = start_with(MemoryQueue::with(limits, Duration::from_secs(20)), ConsumerSettings::default());
    let producer = RemoteProducer::start(
        vec![bench.queue.clone() as Arc<dyn Transport>],
        Arc::new(Nothing),
        ProducerSettings::default(),
        &Handle::current(),
    );
    let faults = [
        SendFault::Throttled,
        SendFault::AnswerLost,
        SendFault::Half,
        SendFault::RequestLost,
        SendFault::Twice,
    ];
    bench.queue.faults(&faults.repeat(20));
    bench.queue.telling_fails(5);
    let accept = async {
        let mut accepted = HashSet::new();
        for i in 0..100u128 {
            let ids: Vec<u128> = (i * 50 + 1..=i * 50 + 50).collect();
            if producer.accept(pack_of(&format!("t{}", i % 7), &ids), None).await.is_ok() {
                accepted.extend(ids.into_iter().map(Uuid::from_u128));
            }
        }
        accepted
    };
    let decide = async {
        let mut decided = HashSet::new();
        let mut n = 0u32;
        let idle = Duration::from_secs(300);
        while let Ok(Some(delivery)) = tokio::time::timeout(idle, bench.deliveries.recv()).await {
            n += 1;
            // Every seventh is lost on its way, as when an actor crashes.
            if n.is_multiple_of(7) {
                continue;
            }
            decided.extend(delivery.pack.entries().map(|entry| entry.id()));
            delivery.ticket.settle(Verdict::Done);
        }
        decided
    };
    let (accepted, decided) = tokio::join!(accept, decide);
    assert!(accepted.len() > 4000, "{}", accepted.len());
    assert!(accepted.is_subset(&decided), "what was acknowledged was decided");
    assert_eq!((bench.queue.counts().0, bench.queue.counts().1), (0, 0), "and the queue is empty");
}
