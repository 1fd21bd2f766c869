use super::*;
use crate::{
    model::pack::tests::pack_of,
    queue::remote::{
        Ordered,
        testing::{MemoryQueue, SendFault},
    },
};
use std::collections::HashSet;

/// Decides every pack as three stored entries.
struct Three;

impl Decisions for Three {
    fn decided(&self, _: Uuid, _: Duration) -> BoxFuture<'static, Option<Decided>> {
        Box::pin(std::future::ready(Some(Decided {
            stored: 3,
            ..Decided::default()
        })))
    }

    fn counters(&self, _: &TenantScope) -> Counters {
        Counters::default()
    }
}

fn small() -> Arc<MemoryQueue> {
    let limits = Limits {
        message_bytes: 2000,
        batch_bytes: 20_000,
        batch_messages: 10,
        buckets: 1,
    };
    MemoryQueue::with(limits, Duration::from_secs(120))
}

fn producer(queues: &[Arc<MemoryQueue>]) -> RemoteProducer {
    let partitions = queues.iter().map(|queue| queue.clone() as Arc<dyn Transport>).collect();
    RemoteProducer::start(partitions, Arc::new(Three), ProducerSettings::default(), &Handle::current())
}

/// A pack that takes several messages of [`small`] even when compressed.
fn large() -> Pack {
    pack_of(
        "acme",
        &(1..=300)
            .map(|i| u128::wrapping_mul(i, 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834))
            .collect::<Vec<_>>(),
    )
}

fn items(queue: &MemoryQueue) -> Vec<Item> {
    let bodies = queue.bodies();
    bodies.iter().flat_map(|body| envelope::decode(body).expect("ours").items).collect()
}

fn entries(items: &[Item]) -> HashSet<Uuid> {
    let packs = items.iter().filter_map(|item| match item {
        Item::Pack(pack) => Some(pack),
        Item::Order(_) => None,
    });
    packs.flat_map(|pack| pack.entries().map(|entry| entry.id()).collect::<Vec<_>>()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_pack_is_in_the_queue_before_its_client_hears_so() {
    let queue = small();
    let producer = producer(std::slice::from_ref(&queue));
    let accepted = producer.accept(pack_of("acme", &[1, 2]), None).await.expect("taken");
    assert_eq!(accepted, Accepted { decided: None });
    assert_eq!(entries(&items(&queue)).len(), 2);
    assert_eq!(producer.held(), 0, "its place is free again");
}

#[tokio::test(start_paused = true)]
async fn a_pack_larger_than_a_message_travels_in_parts_and_waits_for_all_of_them() {
    let queue = small();
    let producer = producer(std::slice::from_ref(&queue));
    let accepted = producer.accept(large(), Some(Duration::from_secs(1))).await.expect("taken");
    let items = items(&queue);
    assert!(items.len() > 3);
    assert_eq!(entries(&items).len(), 300);
    let stored = accepted.decided.map(|decided| decided.stored);
    assert_eq!(stored, Some(3 * items.len() as u64), "the sum over all parts");
}

#[tokio::test(start_paused = true)]
async fn nothing_taken_is_503_and_any_doubt_is_504() {
    for (fault, large_pack, expected) in [
        (SendFault::Refused, false, "503"),
        (SendFault::Throttled, false, "503"),
        (SendFault::AnswerLost, false, "504"),
        (SendFault::RequestLost, false, "504"),
        (SendFault::Refused, true, "503"),
        (SendFault::HalfRefused, true, "504"),
        (SendFault::AnswerLost, true, "504"),
    ] {
        let queue = small();
        let producer = producer(std::slice::from_ref(&queue));
        queue.always(Some(fault));
        let pack = if large_pack { large() } else { pack_of("acme", &[1]) };
        let outcome = match producer.accept(pack, None).await {
            Err(AcceptError::Unavailable { .. }) => "503",
            Err(AcceptError::Unknown) => "504",
            other => panic!("{fault:?}: {other:?}"),
        };
        assert_eq!(outcome, expected, "{fault:?}, in parts: {large_pack}");
        if expected == "503" {
            assert!(items(&queue).is_empty(), "503 promises that nothing was kept");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn doubt_stays_doubt_even_if_the_repetition_is_refused() {
    let queue = small();
    let producer = producer(std::slice::from_ref(&queue));
    queue.faults(&[SendFault::AnswerLost, SendFault::Refused]);
    assert!(matches!(producer.accept(pack_of("acme", &[1]), None).await, Err(AcceptError::Unknown)));
    assert_eq!(items(&queue).len(), 1, "it was taken after all");
}

#[tokio::test(start_paused = true)]
async fn what_may_work_later_is_sent_again_under_the_same_pack_id() {
    let queue = small();
    let producer = producer(std::slice::from_ref(&queue));
    queue.faults(&[SendFault::Throttled, SendFault::AnswerLost, SendFault::RequestLost]);
    assert!(producer.accept(pack_of("acme", &[1]), None).await.is_ok());
    let ids: Vec<_> = items(&queue).iter().map(Item::id).collect();
    assert_eq!((ids.len(), ids[0]), (2, ids[1]), "once before the answer was lost, once after");
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_only_what_failed_is_sent_again() {
    let queue = small();
    let producer = producer(std::slice::from_ref(&queue));
    queue.faults(&[SendFault::Half, SendFault::Half]);
    assert!(producer.accept(large(), None).await.is_ok());
    let ids: Vec<_> = items(&queue).iter().map(Item::id).collect();
    assert_eq!(ids.len(), ids.iter().collect::<HashSet<_>>().len(), "nothing was sent twice");
    assert_eq!(entries(&items(&queue)).len(), 300);
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_began_goes_on_when_it_goes_away() {
    let queue = small();
    let producer = producer(std::slice::from_ref(&queue));
    let mut begun = producer.accept(large(), None);
    assert!(futures_util::poll!(&mut begun).is_pending());
    drop(begun);
    producer.stop_accepting();
    producer.drained().await;
    assert_eq!(entries(&items(&queue)).len(), 300);
    assert!(matches!(
        producer.accept(pack_of("acme", &[1]), None).await,
        Err(AcceptError::Unavailable { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_and_its_access_log_have_one_partition_and_tenants_are_spread() {
    let queues = [small(), small(), small()];
    let producer = producer(&queues);
    for tenant in 0..20 {
        let tenant = format!("tenant-{tenant}");
        let access = TenantId::parse(&tenant).expect("good").access_log();
        for name in [tenant.as_str(), access.as_str()] {
            assert!(producer.accept(pack_of(name, &[1]), None).await.is_ok());
        }
    }
    let mut seen: HashSet<TenantId> = HashSet::new();
    for (number, queue) in queues.iter().enumerate() {
        let here: HashSet<_> = items(queue).iter().map(|item| item.tenant().owner()).collect();
        assert!(!here.is_empty() && here.iter().all(|tenant| partition_of(tenant, 3) as usize == number));
        for body in queue.bodies() {
            assert_eq!(envelope::decode(&body).expect("ours").partition as usize, number);
        }
        seen.extend(here);
    }
    assert_eq!(seen.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn an_order_travels_like_a_pack() {
    let queue = small();
    let producer = producer(std::slice::from_ref(&queue));
    let order = RemoteOrder {
        id: Uuid::now_v7(),
        tenant: TenantId::parse("acme").expect("good"),
        what: Ordered::Retire,
    };
    producer.order(order.clone()).await.expect("taken");
    assert!(matches!(&items(&queue)[..], [Item::Order(found)] if *found == order));
    queue.always(Some(SendFault::AnswerLost));
    assert!(matches!(producer.order(order).await, Err(AcceptError::Unknown)));
}

#[tokio::test(start_paused = true)]
async fn while_a_partition_takes_nothing_callers_hear_so_early_and_one_a_second_tries() {
    let queue = small();
    let producer = producer(std::slice::from_ref(&queue));
    let acme = TenantId::parse("acme").expect("good");
    queue.always(Some(SendFault::Throttled));
    assert!(producer.room(&acme).is_ok() && producer.failing().is_none());
    assert!(producer.accept(pack_of("acme", &[1]), None).await.is_err());
    assert!(producer.failing().is_some());
    tokio::time::advance(TRY_EVERY).await;
    assert!(producer.room(&acme).is_ok(), "one may try");
    assert!(matches!(producer.room(&acme), Err(AcceptError::Unavailable { .. })), "the others hear at once");
    queue.always(None);
    assert!(producer.accept(pack_of("acme", &[2]), None).await.is_ok());
    assert!(producer.room(&acme).is_ok() && producer.failing().is_none());
}

#[tokio::test(start_paused = true)]
async fn one_send_carries_what_came_together() {
    let queue = MemoryQueue::new();
    let producer = producer(std::slice::from_ref(&queue));
    let packs = (0..200).map(|i| pack_of(&format!("tenant-{}", i % 50), &[i]));
    let accepted = join_all(packs.map(|pack| producer.accept(pack, None))).await;
    assert!(accepted.iter().all(Result::is_ok));
    assert_eq!(queue.calls().send, 1);
    assert_eq!(items(&queue).len(), 200);
}
