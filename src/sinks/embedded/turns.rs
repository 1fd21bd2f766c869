//! Whose query runs next: tenants in turn, and none of them has more than its share of the turns.
//!
//! A turn is one query at work. There are `all` of them; one tenant holds at most `share` at once, so that a flood of its
//! heavy queries leaves processors and turns to the others. Who gets no turn waits: within a tenant in the order of arrival,
//! between tenants round robin. The waiting room is bounded; when it is full, the tenant that waits most loses the query
//! that came last, so a crowd of one tenant keeps no other out.
//!
//! Pure but for the wake-up of those who wait; nothing here knows the time.

use crate::model::tenant::TenantId;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// The turns. Cheap to clone.
#[derive(Clone)]
pub struct Turns(Arc<Inner>);

struct Inner {
    all: usize,
    share: usize,
    waiting_room: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Turns that are taken, those of helpers too.
    taken: usize,
    /// Queries that wait.
    waiting: usize,
    /// Tenants that run or wait.
    lanes: HashMap<TenantId, Lane>,
    /// Tenants that wait and are below their share, in the order of their turns.
    ring: VecDeque<TenantId>,
}

#[derive(Default)]
struct Lane {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    in_ring: bool,
}

/// There is no room to wait.
#[derive(Debug, PartialEq, Eq)]
pub struct Crowded;

impl Turns {
    /// So many turns, of which one tenant has at most `share`, and so many that may wait. Zeros are taken as one.
    pub fn new(all: usize, share: usize, waiting_room: usize) -> Self {
        let all = all.max(1);
        Self(Arc::new(Inner {
            all,
            share: share.clamp(1, all),
            waiting_room: waiting_room.max(1),
            state: Mutex::default(),
        }))
    }

    /// A turn, when it is the tenant's. Cancel-safe: dropped, the place in the waiting room is free.
    pub async fn turn(&self, tenant: &TenantId) -> Result<Turn, Crowded> {
        let ticket = {
            let mut state = self.state();
            let lane = state.lanes.entry(tenant.clone()).or_default();
            if lane.running < self.0.share && lane.waiting.is_empty() && state.taken < self.0.all {
                return Ok(self.give(&mut state, tenant));
            }
            self.join(&mut state, tenant)?
        };
        ticket.await.map_err(|_sent_away| Crowded)
    }

    /// At most `wanted` further turns for one query that works on several threads; none when there are none. They are no tenant's.
    pub fn spare(&self, wanted: usize) -> Spare {
        let mut state = self.state();
        let count = (self.0.all - state.taken).min(wanted);
        state.taken += count;
        Spare { turns: self.clone(), count }
    }

    /// How many turns there are.
    pub fn all(&self) -> usize {
        self.0.all
    }

    /// How many turns are taken.
    pub fn taken(&self) -> usize {
        self.state().taken
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, state: &mut State, tenant: &TenantId) -> Turn {
        state.taken += 1;
        state.lanes.entry(tenant.clone()).or_default().running += 1;
        Turn(Some((self.clone(), tenant.clone())))
    }

    fn give_back(&self, state: &mut State, tenant: &TenantId) {
        state.taken -= 1;
        if let Some(lane) = state.lanes.get_mut(tenant) {
            lane.running -= 1;
        }
        state.enter_ring(tenant, self.0.share);
        state.tidy(tenant);
    }

    /// A place in the waiting room.
    fn join(&self, state: &mut State, tenant: &TenantId) -> Result<oneshot::Receiver<Turn>, Crowded> {
        if state.waiting >= self.0.waiting_room {
            state.forget_who_left();
        }
        if state.waiting >= self.0.waiting_room && !state.send_one_away(tenant) {
            state.tidy(tenant);
            return Err(Crowded);
        }
        let (give, ticket) = oneshot::channel();
        state.waiting += 1;
        state.lanes.entry(tenant.clone()).or_default().waiting.push_back(give);
        state.enter_ring(tenant, self.0.share);
        self.hand_out(state);
        Ok(ticket)
    }

    /// Gives free turns to those who wait.
    fn hand_out(&self, state: &mut State) {
        while state.taken < self.0.all
            && let Some(tenant) = state.ring.pop_front()
        {
            let Some(lane) = state.lanes.get_mut(&tenant) else { continue };
            lane.in_ring = false;
            let Some(next) = lane.waiting.pop_front() else {
                state.tidy(&tenant);
                continue;
            };
            state.waiting -= 1;
            let turn = self.give(state, &tenant);
            if let Err(mut turn) = next.send(turn) {
                // It does not wait any more. The turn must not come back by itself: the lock is held.
                turn.0 = None;
                self.give_back(state, &tenant);
            }
            state.enter_ring(&tenant, self.0.share);
        }
    }
}

impl State {
    /// Puts a tenant that waits and is below its share behind the others.
    fn enter_ring(&mut self, tenant: &TenantId, share: usize) {
        if let Some(lane) = self.lanes.get_mut(tenant)
            && !lane.in_ring
            && !lane.waiting.is_empty()
            && lane.running < share
        {
            lane.in_ring = true;
            self.ring.push_back(tenant.clone());
        }
    }

    /// Forgets a tenant that neither runs nor waits.
    fn tidy(&mut self, tenant: &TenantId) {
        if self
            .lanes
            .get(tenant)
            .is_some_and(|lane| lane.running == 0 && lane.waiting.is_empty() && !lane.in_ring)
        {
            self.lanes.remove(tenant);
        }
    }

    /// Gives the places free of those who have gone without a word.
    fn forget_who_left(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.waiting.retain(|ticket| !ticket.is_closed());
        }
        self.waiting = self.lanes.values().map(|lane| lane.waiting.len()).sum();
    }

    /// Sends away the last of the tenant that waits most, if that is not the one that asks.
    fn send_one_away(&mut self, asking: &TenantId) -> bool {
        let own = self.lanes.get(asking).map_or(0, |lane| lane.waiting.len());
        let longest = self.lanes.values_mut().max_by_key(|lane| lane.waiting.len());
        match longest.filter(|lane| lane.waiting.len() > own + 1) {
            Some(lane) => {
                lane.waiting.pop_back();
                self.waiting -= 1;
                true
            }
            None => false,
        }
    }
}

/// A query at work, until this is dropped.
pub struct Turn(Option<(Turns, TenantId)>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((turns, tenant)) = self.0.take() {
            let mut state = turns.state();
            turns.give_back(&mut state, &tenant);
            turns.hand_out(&mut state);
        }
    }
}

/// Turns of helpers, until this is dropped.
pub struct Spare {
    turns: Turns,
    count: usize,
}

impl Spare {
    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        state.taken -= self.count;
        self.turns.hand_out(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a tenant")
    }

    /// Somebody who has asked: a turn, when it is theirs.
    type Asking = std::pin::Pin<Box<dyn Future<Output = Result<Turn, Crowded>>>>;

    fn ask(turns: &Turns, name: &str) -> Asking {
        let (turns, tenant) = (turns.clone(), tenant(name));
        let mut asking: Asking = Box::pin(async move { turns.turn(&tenant).await });
        // Asked once, it stands in the queue.
        match asking.as_mut().now_or_never() {
            Some(done) => Box::pin(std::future::ready(done)),
            None => asking,
        }
    }

    fn has(asking: &mut Asking) -> Option<Turn> {
        asking.as_mut().now_or_never().map(|turn| turn.expect("there is room"))
    }

    #[test]
    fn a_flood_takes_its_share_and_the_others_go_at_once() {
        let turns = Turns::new(8, 3, 1_000);
        let mut flood: Vec<_> = (0..100).map(|_| ask(&turns, "flood")).collect();
        let running: Vec<_> = flood.iter_mut().map_while(has).collect();
        assert_eq!((running.len(), turns.taken()), (3, 3), "its share, though turns are free");
        let acme = has(&mut ask(&turns, "acme")).expect("at once");
        drop(acme);
        drop(running);
        let next: Vec<_> = flood[3..].iter_mut().map_while(has).collect();
        assert_eq!(next.len(), 3, "in the order of arrival");
    }

    #[test]
    fn when_all_turns_are_taken_tenants_go_round_robin() {
        let turns = Turns::new(2, 2, 1_000);
        let mut flood: Vec<_> = (0..50).map(|_| ask(&turns, "flood")).collect();
        let mut running: Vec<_> = flood.iter_mut().map_while(has).collect();
        assert_eq!(running.len(), 2);
        let (mut acme, mut globex) = (ask(&turns, "acme"), ask(&turns, "globex"));
        assert!(has(&mut acme).is_none() && has(&mut globex).is_none());
        drop(running.pop());
        let acme = has(&mut acme).expect("whoever has waited, one turn of the flood is the most that comes first");
        assert!(has(&mut globex).is_none());
        drop(acme);
        let globex = has(&mut globex).expect("then the next");
        drop(globex);
        assert!(has(&mut flood[2]).is_some(), "then the flood again");
    }

    #[test]
    fn a_full_waiting_room_sends_away_who_fills_it() {
        let turns = Turns::new(1, 1, 10);
        let mut flood: Vec<_> = (0..11).map(|_| ask(&turns, "flood")).collect();
        let running = has(&mut flood[0]).expect("the first");
        assert_eq!(
            ask(&turns, "flood").now_or_never().map(|t| t.err()),
            Some(Some(Crowded)),
            "the flood itself is refused"
        );
        let mut acme = ask(&turns, "acme");
        assert!(has(&mut acme).is_none(), "waits");
        assert!(matches!(flood[10].as_mut().now_or_never(), Some(Err(Crowded))), "in place of the flood's last");
        // Who goes away without a word makes room.
        flood.truncate(5);
        assert!((0..5).map(|_| ask(&turns, "globex")).all(|mut asking| has(&mut asking).is_none()));
        drop(running);
        drop(has(&mut acme).expect("the flood has just had one"));
        assert!(has(&mut flood[1]).is_some());
    }

    #[test]
    fn spare_turns_are_those_that_are_free() {
        let turns = Turns::new(4, 4, 10);
        let acme = has(&mut ask(&turns, "acme")).expect("free");
        let spare = turns.spare(9);
        assert_eq!((spare.count(), turns.taken(), turns.spare(1).count()), (3, 4, 0));
        let mut waiting = ask(&turns, "globex");
        assert!(has(&mut waiting).is_none());
        drop(spare);
        assert!(has(&mut waiting).is_some());
        drop(acme);
    }

    #[test]
    fn whatever_happens_no_turn_is_lost_and_no_share_is_passed() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let (all, share) = (random.random_range(1..6), random.random_range(1..6));
            let turns = Turns::new(all, share, random.random_range(1..20));
            let names = ["a", "b", "c"];
            let mut asking: Vec<(usize, Asking)> = Vec::new();
            let mut running: Vec<(usize, Turn)> = Vec::new();
            let mut spare = Vec::new();
            for _ in 0..400 {
                match random.random_range(0..6) {
                    0..=2 => {
                        let who = random.random_range(0..names.len());
                        asking.push((who, ask(&turns, names[who])));
                    }
                    3 if !asking.is_empty() => drop(asking.swap_remove(random.random_range(0..asking.len()))),
                    4 if !running.is_empty() => drop(running.swap_remove(random.random_range(0..running.len()))),
                    5 => match spare.pop() {
                        Some(some) => drop::<Spare>(some),
                        None => spare.push(turns.spare(random.random_range(0..3))),
                    },
                    _ => {}
                }
                for i in (0..asking.len()).rev() {
                    if let Some(done) = asking[i].1.as_mut().now_or_never() {
                        let (who, _) = asking.swap_remove(i);
                        running.extend(done.ok().map(|turn| (who, turn)));
                    }
                }
                let helpers: usize = spare.iter().map(Spare::count).sum();
                assert_eq!(turns.taken(), running.len() + helpers, "seed {seed}");
                assert!(turns.taken() <= all);
                for (who, name) in names.iter().enumerate() {
                    let own = running.iter().filter(|(w, _)| *w == who).count();
                    assert!(own <= share.min(all));
                    let starves = turns.taken() < all && own < share.min(all) && asking.iter().any(|(w, _)| *w == who);
                    assert!(!starves, "seed {seed}: {name} waits though there are turns");
                }
            }
            drop((asking, running, spare));
            let state = turns.state();
            assert_eq!(
                (state.taken, state.lanes.values().map(|lane| lane.running).sum::<usize>()),
                (0, 0),
                "seed {seed}"
            );
            drop(state);
            for name in names {
                assert!(has(&mut ask(&turns, name)).is_some(), "seed {seed}: all is free");
            }
            assert!(turns.state().lanes.is_empty(), "seed {seed}: and nothing is kept of those who have gone");
        }
    }
}
