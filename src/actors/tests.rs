//! The pipeline from deliveries to a sequencer.

use super::{
    ActorSettings, Actors,
    tenant::handle::PACK_OVERHEAD,
    testing::{End, Queue, Sequencer, Sink, on_virtual_time, pack, tenant, until},
};
use crate::{actors::runtime::Shards, model::pack::Pack};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;

fn start(settings: &ActorSettings) -> (Actors, Queue, Arc<Sequencer>) {
    let (queue, deliveries) = Queue::new();
    let sequencer = Sequencer::new();
    let sink = Arc::new(Sink(sequencer.clone()));
    let actors = Actors::start_on(Shards::current(), settings, deliveries, queue.log.clone(), sink);
    (actors, queue, sequencer)
}

fn one(of: &str, id: u128) -> Pack {
    pack(of, "r", &[(id, "CREATE")])
}

async fn ends(packs: Vec<JoinHandle<End>>) -> Vec<End> {
    let mut ends = Vec::new();
    for pack in packs {
        ends.push(pack.await.expect("the queue goes on"));
    }
    ends
}

fn all(ends: &[End], wanted: End) -> bool {
    ends.iter().all(|end| *end == wanted)
}

#[test]
fn ten_thousand_tenants_live_inside_the_budget_and_leave_when_idle() {
    on_virtual_time(async {
        let settings = ActorSettings {
            memory_bytes: 1 << 20,
            tenant_bytes: 1 << 16,
            ..ActorSettings::default()
        };
        let (actors, queue, sequencer) = start(&settings);
        let names: Vec<_> = (0..10_000).map(|i| format!("t{i:05}")).collect();
        let mut sent = Vec::new();
        for round in 0..2 {
            for (i, name) in names.iter().enumerate() {
                sent.push(queue.send(&one(name, 2 * i as u128 + round)).await);
                assert!(actors.status().memory_in_use <= settings.memory_bytes);
            }
        }
        assert!(all(&ends(sent).await, End::Done));
        assert_eq!(actors.status().live_tenants, 10_000);
        for (i, name) in names.iter().enumerate() {
            let i = 2 * i as u128;
            assert_eq!(sequencer.decided.lock().unwrap()[&tenant(name)], [i, i + 1], "{name}");
        }
        let first = actors.snapshot(&tenant("t00000")).await.expect("it lives").generation;

        tokio::time::sleep(settings.idle_after + Duration::from_secs(1)).await;
        until(|| actors.status().live_tenants == 0).await;
        let again = queue.send(&one("t00000", 99_999)).await;
        assert_eq!(again.await.unwrap(), End::Done, "an idle tenant comes back");
        assert!(actors.snapshot(&tenant("t00000")).await.expect("it lives").generation > first);
        assert_eq!((actors.status().live_tenants, actors.status().memory_in_use), (1, 0));
        actors.stop().await;
    });
}

#[test]
fn a_crashing_tenant_troubles_neither_calm_ones_nor_its_own_innocent_packs() {
    on_virtual_time(async {
        let (actors, queue, sequencer) = start(&ActorSettings::default());
        let mut calm = Vec::new();
        let (mut innocent, mut guilty) = (Vec::new(), Vec::new());
        for i in 0..50 {
            for name in ["calm-1", "calm-2", "calm-3"] {
                calm.push(queue.send(&one(name, i)).await);
            }
            innocent.push(queue.send(&one("wild", i)).await);
            if i % 25 == 5 {
                guilty.push(queue.send(&pack("wild", super::testing::CRASH, &[(1000 + i, "X")])).await);
            }
        }
        assert!(all(&ends(calm).await, End::Done));
        for name in ["calm-1", "calm-2", "calm-3"] {
            assert_eq!(sequencer.decided.lock().unwrap()[&tenant(name)], (0..50).collect::<Vec<_>>());
        }
        assert!(all(&ends(guilty).await, End::Poison));
        assert!(all(&ends(innocent).await, End::Done), "innocent packs go alone before they run out of attempts");
        let status = actors.status();
        assert!(status.degraded_tenants == 1 && status.restarts >= 6, "{status:?}");
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(actors.status().degraded_tenants, 0, "a calm minute heals");
        actors.stop().await;
    });
}

#[test]
fn behind_a_blocked_sequencer_memory_is_the_budget_and_everything_resumes_in_order() {
    on_virtual_time(async {
        let charge = one("t00", 0).bytes().len() + PACK_OVERHEAD;
        let settings = ActorSettings {
            tenant_bytes: 4 * charge,
            memory_bytes: 32 * charge,
            ..ActorSettings::default()
        };
        let (actors, queue, sequencer) = start(&settings);
        let names: Vec<_> = (0..20).map(|i| format!("t{i:02}")).collect();
        sequencer.shut(names.iter().map(|name| tenant(name)));
        let mut sent = Vec::new();
        for i in 0..100 {
            for name in &names {
                sent.push(queue.send(&one(name, i)).await);
            }
        }
        until(|| actors.status().parked_packs == sent.len() - 32).await;
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(actors.status().memory_in_use, settings.memory_bytes, "to the byte");
        assert_eq!(queue.log.in_memory(), 32, "parked packs are in the log only");

        sequencer.open();
        assert!(all(&ends(sent).await, End::Done));
        for name in &names {
            assert_eq!(sequencer.decided.lock().unwrap()[&tenant(name)], (0..100).collect::<Vec<_>>(), "{name}");
        }
        let status = actors.status();
        assert_eq!((status.memory_in_use, status.parked_packs), (0, 0));
        actors.stop().await;
    });
}

#[test]
fn a_tenant_that_floods_a_full_lane_holds_up_nobody_else() {
    on_virtual_time(async {
        let (actors, queue, sequencer) = start(&ActorSettings {
            tenant_bytes: 2000,
            memory_bytes: 1 << 20,
            ..ActorSettings::default()
        });
        sequencer.shut([tenant("loud")]);
        let mut loud = Vec::new();
        for i in 0..200 {
            loud.push(queue.send(&one("loud", i)).await);
            let quiet = queue.send(&one("quiet", i)).await;
            assert_eq!(quiet.await.unwrap(), End::Done);
        }
        assert!(loud.iter().all(|end| !end.is_finished()));
        assert!(actors.status().memory_in_use <= 2000);
        sequencer.open();
        assert!(all(&ends(loud).await, End::Done));
        actors.stop().await;
    });
}

#[test]
fn the_next_incarnation_waits_for_the_exit_of_the_one_before() {
    on_virtual_time(async {
        let (actors, queue, sequencer) = start(&ActorSettings::default());
        sequencer.shut([tenant("a")]);
        let before = queue.send(&one("a", 1)).await;
        until(|| !sequencer.batches.lock().unwrap().is_empty()).await;
        let first = actors.directory.lane(&tenant("a")).expect("open");
        let generation = first.generation();
        first.retire();
        drop(first);
        until(|| actors.directory.existing(&tenant("a")).is_none()).await;
        let after = queue.send(&one("a", 2)).await;
        until(|| actors.directory.existing(&tenant("a")).is_some()).await;
        actors.directory.leave(&tenant("a"), generation);
        assert!(
            actors.directory.existing(&tenant("a")).is_some(),
            "an old incarnation cannot put out its successor"
        );
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(actors.snapshot(&tenant("a")).await, None, "its lane is open, its actor does not run");
        assert_eq!(sequencer.batches.lock().unwrap().len(), 1);
        sequencer.open();
        assert_eq!(ends(vec![before, after]).await, [End::Done, End::Done]);
        assert_eq!(sequencer.decided.lock().unwrap()[&tenant("a")], [1, 2]);
        actors.stop().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_a_tenant_reach_the_sequencer_in_order() {
    let (queue, deliveries) = Queue::new();
    let sequencer = Sequencer::new();
    let settings = ActorSettings {
        batch_packs: 1,
        batches_in_flight: 4,
        ..ActorSettings::default()
    };
    let actors = Actors::start(&settings, deliveries, queue.log.clone(), Arc::new(Sink(sequencer.clone())));
    let mut sent = Vec::new();
    for i in 0..3000 {
        sent.push(queue.send(&one("a", i)).await);
    }
    assert!(all(&ends(sent).await, End::Done));
    actors.stop().await;
    assert_eq!(sequencer.decided.lock().unwrap()[&tenant("a")], (0..3000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_stop_hands_over_what_actors_hold_and_lets_the_rest_redeliver() {
    let (queue, deliveries) = Queue::new();
    let sequencer = Sequencer::new();
    let settings = ActorSettings {
        shards: 3,
        tenant_bytes: 2000,
        memory_bytes: 100_000,
        ..ActorSettings::default()
    };
    let actors = Actors::start(&settings, deliveries, queue.log.clone(), Arc::new(Sink(sequencer.clone())));
    let names: Vec<_> = (0..20).map(|i| format!("t{i:02}")).collect();
    sequencer.shut(names.iter().map(|name| tenant(name)));
    let mut sent = Vec::new();
    for i in 0..20 {
        for name in &names {
            sent.push(queue.send(&one(name, i)).await);
        }
    }
    until(|| actors.status().parked_packs > 0 && sequencer.batches.lock().unwrap().len() >= names.len()).await;
    let directory = actors.directory.clone();
    let stop = tokio::spawn(actors.stop());
    until(|| directory.lane(&tenant("t00")).is_none()).await;
    assert!(!stop.is_finished() && directory.live() == 20, "it waits for the sequencer");
    sequencer.open();
    stop.await.expect("stopped");
    assert_eq!(directory.live(), 0);
    assert_eq!(directory.memory_in_use(), 0);
    let ends = ends(sent).await;
    let done = ends.iter().filter(|end| **end == End::Done).count();
    assert_eq!(done, sequencer.decided.lock().unwrap().values().map(Vec::len).sum::<usize>());
    assert!(done > 0 && ends.contains(&End::Undecided));
    assert!(!ends.contains(&End::Poison));
    for (name, ids) in &*sequencer.decided.lock().unwrap() {
        assert_eq!(*ids, (0..ids.len() as u128).collect::<Vec<_>>(), "{name}: a prefix, in order");
    }
}
