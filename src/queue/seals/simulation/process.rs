//! The processes of the simulation: an owner of the partition, and a follower of its seals.

use super::{
    Item, Mistake, World,
    hostile::pause,
    store::{Store, rows_of},
};
use crate::{
    actors::sequencer::core::{Core, Draft, Order, Undecided},
    queue::{
        Found, SealLogError,
        seals::{ANALYTICS, DEAD_LETTERS, SEARCH, cursor::CursorStore, keeper::Keeper, log::Writer, take},
    },
    seal::codec,
};
use bytes::Bytes;
use smallvec::smallvec;
use std::sync::{Arc, atomic::Ordering};

/// A sequencer. Whether it holds a lease is nothing that it could rely on.
pub async fn owner(world: World) {
    let (seals, blind) = world.connect();
    let (offset, name) = world.note(|inner| (inner.offset(), inner.uuid()));
    let now = || world.note(|inner| inner.clock(offset));
    // Before anything is read, as this mistake has it.
    let early = now();
    let clock = || if world.plants(Mistake::MemoryBeginsEarly) { early } else { now() };
    let Ok((after, mut start)) = take::read(&seals, &clock).await else { return };
    let checkpoint = seals.checkpoint().await.map_or(0, |checkpoint| checkpoint.state.n);
    if world.plants(Mistake::HeadsFromRows) {
        for (tenant, state) in &mut start.state.tenants {
            let rows = world.note(|inner| inner.analytics.rows.keys().filter(|(t, _)| t == tenant).map(|(_, n)| *n).max());
            state.head = rows.unwrap_or(0);
        }
    }
    let mut window = start.window.take().expect("a remote log knows its window");
    if world.plants(Mistake::WindowFromCheckpoint) {
        window.retain(|(n, _)| *n > checkpoint);
    }
    let erases = start
        .replay
        .iter()
        .filter(|found| !found.seal.erasures.is_empty() || !found.seal.removed.is_empty());
    let erasing = erases.map(|found| found.seal.n).max().unwrap_or(0);
    let skew = seals.settings().clock_skew.as_millis() as i64;
    let mut core = Core::new(name, start.state, start.known, None, now()).with_clock_skew(skew);
    core.resume(window, erasing);
    let writer = Arc::new(Writer::new(seals, after));
    let mut keeper = Keeper::new(writer.clone());
    keeper.sweep().await;
    loop {
        pause(&world).await;
        let applied = world.note(|inner| inner.analytics.applied);
        core.applied(applied);
        if core.must_show() > applied && !world.plants(Mistake::DecideBeforeErasureShows) {
            hand_back().await;
            continue;
        }
        let got = receive(&world);
        let (packs, mut orders) = sort(&world, &got);
        if applied >= core.must_show() {
            orders.extend(counted(&world, &core));
        }
        if got.is_empty() && orders.is_empty() {
            hand_back().await;
            let _ = keeper.turn(now(), world.chance(20)).await;
            if world.is_quiet() && world.chance(5) {
                return; // it has lost its lease: one that slept, and has nothing to seal, would not notice another owner
            }
            continue;
        }
        let mut early = world.plants(Mistake::AckFirst);
        for draft in [decide(&world, &core, packs, now()).await, None] {
            let draft = match draft {
                Some(draft) => Some(draft),
                None if orders.is_empty() => None,
                None => obey(&world, &core, std::mem::take(&mut orders), now()).await,
            };
            if std::mem::take(&mut early) {
                acknowledge(&world, &got).await;
            }
            let Some(draft) = draft else { continue };
            let encoded = Bytes::from(codec::encode(&draft.seal));
            if !create(&world, &writer, &blind, &draft, &encoded).await {
                return; // it steps down, or it gives up: the next owner finds out
            }
            core.adopt(draft, &encoded);
        }
        acknowledge(&world, &got).await;
        if world.chance(30) {
            let _ = keeper.turn(now(), world.chance(20)).await;
        }
    }
}

/// Lets others go on.
async fn hand_back() {
    let mut handed = false;
    std::future::poll_fn(|_| match std::mem::replace(&mut handed, true) {
        true => std::task::Poll::Ready(()),
        false => std::task::Poll::Pending,
    })
    .await;
}

type Got = Vec<(u64, Item)>;

/// Some of the messages that are visible, in any order.
fn receive(world: &World) -> Got {
    world.note(|inner| {
        let tick = inner.tick;
        let mut ready: Vec<_> = inner
            .queue
            .iter()
            .filter(|(_, message)| inner.quiet || message.visible_at <= tick)
            .map(|(name, _)| *name)
            .collect();
        let mut got = Vec::new();
        for _ in 0..inner.dice.below(5) {
            if ready.is_empty() {
                break;
            }
            let name = ready.swap_remove(inner.dice.below(ready.len() as u64) as usize);
            let hold = [2, 10, 60][inner.dice.below(3) as usize];
            if let Some(message) = inner.queue.get_mut(&name) {
                message.visible_at = tick + hold;
                got.push((name, message.item.clone()));
            }
        }
        got
    })
}

fn sort(world: &World, got: &Got) -> (Vec<Undecided>, Vec<Order>) {
    let (mut packs, mut orders) = (Vec::new(), Vec::new());
    for (_, item) in got {
        match item {
            Item::Pack(pack) => packs.push(Undecided {
                pack: pack.clone(),
                refusal: None,
            }),
            Item::Order(order) => orders.push(order.clone()),
        }
    }
    // The other lane of the sequencer: known jobs are dropped in the core, which this mistake goes around.
    if world.plants(Mistake::ForgetOrders) {
        for order in &mut orders {
            if let Order::Erase { tenant, job, .. } = order {
                let pending = world.note(|inner| {
                    inner
                        .analytics
                        .erasures
                        .get(tenant)
                        .is_some_and(|all| all.pending().iter().any(|e| e.job == *job))
                });
                if !pending {
                    *job = world.note(super::Inner::uuid);
                }
            }
        }
    }
    (packs, orders)
}

/// The results of erasures that the authority shows.
fn counted(world: &World, core: &Core) -> Vec<Order> {
    world.note(|inner| {
        let first = |tenant: &_| Some(core.state().erasures_of(tenant)?.pending().first()?.job);
        let pending = super::tenants().into_iter().filter_map(|tenant| Some((first(&tenant)?, tenant)));
        let count = |(job, tenant)| Order::Removed {
            rows: inner.analytics.count_erased(&tenant, job),
            tenant,
            job,
        };
        pending.filter(|_| inner.quiet || inner.dice.chance(20)).map(count).collect()
    })
}

async fn decide(world: &World, core: &Core, mut packs: Vec<Undecided>, now: i64) -> Option<Draft> {
    let uncertain = core.uncertain(&packs);
    pause(world).await;
    if !world.plants(Mistake::NoPackLedger) {
        world.note(|inner| packs.retain(|item| !uncertain.contains(&item.pack.id()) || !inner.analytics.packs.contains(&item.pack.id())));
    }
    let trusted: Vec<_> = packs
        .iter()
        .flat_map(|item| item.pack.entries().filter(|entry| !entry.client_id()).map(|entry| entry.id()))
        .collect();
    let plan = core.plan(packs, now);
    if plan.is_empty() {
        return None;
    }
    pause(world).await;
    let trusts = |id| world.plants(Mistake::ServerIdsTrusted) && trusted.contains(&id);
    let answers: Vec<_> = world.note(|inner| {
        let look = |(tenant, id): &(_, _)| if trusts(*id) { None } else { inner.analytics.find(tenant, *id) };
        plan.lookups.iter().map(look).collect()
    });
    pause(world).await;
    let segment = core.state().n + 1;
    Some(core.decide(plan, &answers, now, &mut |_| smallvec![crate::queue::Position { segment, offset: 0 }]))
}

async fn obey(world: &World, core: &Core, mut orders: Vec<Order>, now: i64) -> Option<Draft> {
    let uncertain = core.uncertain_orders(&orders);
    pause(world).await;
    world.note(|inner| {
        orders.retain(|order| match order {
            Order::Erase { job, .. } | Order::Retire { job, .. } => !uncertain.contains(job) || !inner.analytics.packs.contains(job),
            Order::Removed { .. } => true,
        });
    });
    core.erasing_seal(&orders, now)
}

async fn create(world: &World, writer: &Writer, blind: &std::sync::atomic::AtomicBool, draft: &Draft, encoded: &Bytes) -> bool {
    for _ in 0..6 {
        blind.store(world.plants(Mistake::NoFloorCheck), Ordering::Relaxed);
        let outcome = writer.create(&draft.seal, encoded, draft.packs()).await;
        blind.store(false, Ordering::Relaxed);
        match outcome {
            Ok(()) => return true,
            Err(SealLogError::Fenced) => return false,
            Err(SealLogError::Doubtful(_)) if world.plants(Mistake::DoubtIsDone) => return true,
            Err(SealLogError::Doubtful(_)) => pause(world).await,
            Err(error) => {
                world.fault(error.to_string());
                return false;
            }
        }
    }
    false
}

/// Each message apart; some answers do not arrive.
async fn acknowledge(world: &World, got: &Got) {
    for (name, _) in got {
        pause(world).await;
        world.note(|inner| {
            if inner.quiet || inner.dice.chance(90) {
                inner.acked.extend(inner.queue.remove(name).map(|message| (*name, message)));
            }
        });
    }
}

/// Applies seals to one store, in order, in steps that may be far apart.
pub async fn follower(world: World, authority: bool) {
    let (seals, blind) = world.connect();
    blind.store(world.plants(Mistake::ReadBelowFloor), Ordering::Relaxed);
    let cursors = seals.cursors();
    let names: &[&str] = if authority { &[DEAD_LETTERS, ANALYTICS] } else { &[SEARCH] };
    let change = |change: &mut dyn FnMut(&mut Store)| {
        world.note(|inner| change(if authority { &mut inner.analytics } else { &mut inner.search }));
    };
    let mut next = None;
    loop {
        pause(&world).await;
        let at = match next {
            Some(at) => at,
            None => match seals.cursor(names[names.len() - 1]).await {
                Ok(cursor) => *next.insert(cursor + 1),
                Err(_) => continue,
            },
        };
        let seal = match seals.find(at).await {
            Ok(Found::Seal(seal)) => seal,
            Ok(Found::NotYet) | Err(_) => {
                hand_back().await;
                continue;
            }
            Ok(Found::Trimmed) => {
                next = None; // another follower of this store is further, or it is lost
                hand_back().await;
                continue;
            }
        };
        if world.plants(Mistake::CursorFirst) {
            save(&*cursors, names, at).await;
        }
        let mut rows = rows_of(&seal);
        while !rows.is_empty() {
            let row = rows.swap_remove(world.dice(|dice| dice.below(rows.len() as u64)) as usize);
            pause(&world).await;
            let mut good = true;
            change(&mut |store| good = store.insert(&row));
            if !good {
                world.fault(format!("seal {at}: a number is given twice"));
            }
        }
        pause(&world).await;
        change(&mut |store| store.record(&seal));
        pause(&world).await;
        save(&*cursors, names, at).await;
        next = Some(at + 1);
    }
}

/// Late is harmless, and so is a failure.
async fn save(cursors: &dyn CursorStore, names: &[&str], n: u64) {
    for name in names {
        let _ = cursors.save(name, n).await;
    }
}
