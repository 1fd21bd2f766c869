//! Who should do something.

use super::*;
use tokio::time::advance;

const TTL: Duration = Duration::from_secs(15);

fn candidate(objects: &Arc<dyn Objects>) -> Lease {
    Lease::new(objects.clone(), "partition-0", TTL, "test").expect("a name")
}

/// Virtual time, in small steps, so that tasks run.
async fn pass(time: Duration) {
    for _ in 0..time.as_millis() / 250 {
        advance(Duration::from_millis(250)).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_candidates_one_holds_the_lease_as_long_as_it_renews() {
    let objects: Arc<dyn Objects> = Arc::new(MemoryObjects::default());
    let (mut one, mut two) = (candidate(&objects), candidate(&objects));
    let held = one.try_take().await.expect("asked").expect("it is free");
    for _ in 0..10 {
        assert!(two.try_take().await.expect("asked").is_none());
        pass(TTL / 2).await;
    }
    assert!(!held.lost().is_cancelled());
    held.release().await;
    let held = two.try_take().await.expect("asked").expect("it was given back");
    assert!(one.try_take().await.expect("asked").is_none() && !held.lost().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_knows_it_before_another_takes_the_lease() {
    let flaky = Flaky::default();
    let objects: Arc<dyn Objects> = Arc::new(flaky.clone());
    let other: Arc<dyn Objects> = Arc::new(flaky.memory.clone());
    let (mut one, mut two) = (candidate(&objects), candidate(&other));
    let held = one.try_take().await.expect("asked").expect("it is free");
    flaky.refused.store(usize::MAX, Ordering::SeqCst);
    assert!(two.try_take().await.expect("asked").is_none());
    let mut waited = Duration::ZERO;
    let taken = loop {
        pass(TTL / 15).await;
        waited += TTL / 15;
        match two.try_take().await.expect("asked") {
            Some(taken) => break taken,
            None => assert!(waited < 2 * TTL),
        }
    };
    assert!(waited >= TTL && held.lost().is_cancelled() && !taken.lost().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_was_lost_is_recognised() {
    let flaky = Flaky::default();
    let objects: Arc<dyn Objects> = Arc::new(flaky.clone());
    let held = candidate(&objects).try_take().await.expect("asked").expect("it is free");
    for _ in 0..5 {
        flaky.lost.store(1, Ordering::SeqCst);
        pass(TTL / 2).await;
        assert_eq!(flaky.lost.load(Ordering::SeqCst), 0, "it renews");
    }
    pass(2 * TTL).await;
    assert!(!held.lost().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_slept_finds_that_another_took_the_lease() {
    let objects: Arc<dyn Objects> = Arc::new(MemoryObjects::default());
    let held = candidate(&objects).try_take().await.expect("asked").expect("it is free");
    let key = Key::parse("lease/partition-0.json").expect("a name");
    let foreign = r#"{"nonce":"00000000-0000-0000-0000-000000000001","count":9,"ttl_ms":15000,"free":false,"holder":"x"}"#;
    objects.put(&key, foreign.into(), Precondition::Any).await.expect("written");
    let lost = held.lost();
    tokio::time::timeout(TTL, lost.cancelled()).await.expect("it is told at the next renewal");
    held.release().await;
    assert_eq!(
        objects.get(&key).await.expect("read").expect("there").0,
        foreign,
        "what is lost is not given back"
    );
}
