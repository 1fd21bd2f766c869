//! The follower on virtual time, with a log, cursors, a store and an authority that do as they are told and write down what they were asked.

use super::*;
use crate::{queue::SealReadError, sinks::contract::Sequencer};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard},
};

/// What happened, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    /// The store was asked where it is.
    Asked(u64),
    /// It took these seals.
    Took(Vec<u64>),
    /// It did not take them.
    Refused(Vec<u64>),
    /// A cursor was saved.
    Saved(String, u64),
    /// A cursor was removed.
    Removed(String),
    /// Everything was copied from the authority, or not.
    Copied(bool),
    /// The store was told that it has everything up to here.
    Rebuilt(u64),
}

use Event::{Asked, Copied as CopiedAll, Rebuilt, Refused, Removed, Saved, Took};

/// Everything around a follower. Cheap to clone.
#[derive(Clone)]
struct World(Arc<Mutex<State>>, watch::Sender<u64>);

#[derive(Default)]
struct State {
    seals: Vec<Arc<DecidedSeal>>,
    /// Seals up to here are gone.
    trimmed: u64,
    /// Reads of a seal that fail, how often.
    unreadable: HashMap<u64, usize>,
    /// Saves that fail.
    unsaved: usize,
    cursors: HashMap<String, u64>,
    /// What comes of the next applications; then they work.
    faults: VecDeque<Remedy>,
    /// What the store says that it has, when it is asked next.
    has: Option<u64>,
    /// What the authority has; it gets on while it is copied.
    authority: u64,
    /// Copies that fail.
    uncopied: usize,
    events: Vec<Event>,
}

impl World {
    /// A log of so many seals.
    fn new(seals: usize) -> Self {
        let mut sequencer = Sequencer::new(1);
        for _ in 0..seals {
            sequencer.seal(&["a"], 3);
        }
        let state = State {
            seals: sequencer.log,
            ..State::default()
        };
        Self(Arc::new(Mutex::new(state)), watch::Sender::new(seals as u64))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("whole")
    }

    /// Follows from here on, with a rebuild or without one.
    fn follow(&self, settings: FollowSettings, rebuilds: bool) -> Following {
        let parts = FollowParts {
            partition: 0,
            seals: Arc::new(self.clone()),
            cursors: Arc::new(self.clone()),
            follower: Arc::new(self.clone()),
            rebuild: rebuilds.then(|| Arc::new(self.clone()) as Arc<dyn Rebuild>),
        };
        Following::start(parts, settings)
    }

    fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// Seals that the store took, one after the other.
    fn taken(&self) -> Vec<u64> {
        let took = |event: Event| if let Took(seals) = event { seals } else { Vec::new() };
        self.events().into_iter().flat_map(took).collect()
    }
}

fn ready<T: Send + 'static>(value: T) -> BoxFuture<'static, T> {
    Box::pin(std::future::ready(value))
}

fn failed<T>() -> Result<T, SealReadError> {
    Err(SealReadError("made for a test".into()))
}

impl SealReader for World {
    fn read(&self, n: u64) -> BoxFuture<'static, Result<Found, SealReadError>> {
        let mut state = self.lock();
        if let Some(left) = state.unreadable.get_mut(&n).filter(|left| **left > 0) {
            *left -= 1;
            return ready(failed());
        }
        let next = state.seals.iter().find(|seal| seal.seal.n >= n);
        ready(Ok(match next {
            _ if n <= state.trimmed => Found::Trimmed,
            Some(seal) => Found::Seal(seal.clone()),
            None => Found::NotYet,
        }))
    }

    fn tip(&self) -> watch::Receiver<u64> {
        self.1.subscribe()
    }
}

impl CursorStore for World {
    fn load(&self, store: &str) -> BoxFuture<'static, Result<u64, SealReadError>> {
        ready(Ok(self.lock().cursors.get(store).copied().unwrap_or(0)))
    }

    fn save(&self, store: &str, n: u64) -> BoxFuture<'static, Result<(), SealReadError>> {
        let mut state = self.lock();
        if state.unsaved > 0 {
            state.unsaved -= 1;
            return ready(failed());
        }
        state.cursors.insert(store.to_owned(), n);
        state.events.push(Saved(store.to_owned(), n));
        ready(Ok(()))
    }

    fn remove(&self, store: &str) -> BoxFuture<'static, Result<(), SealReadError>> {
        let mut state = self.lock();
        state.cursors.remove(store);
        state.events.push(Removed(store.to_owned()));
        ready(Ok(()))
    }
}

fn broken(remedy: Remedy) -> StoreError {
    StoreError::Unavailable {
        what: "made for a test".into(),
        remedy,
    }
}

impl Follower for World {
    fn name(&self) -> &'static str {
        "search"
    }

    fn apply(&self, partition: u32, seal: Arc<DecidedSeal>) -> BoxFuture<'static, Result<(), StoreError>> {
        let own = self.clone();
        Box::pin(async move { own.apply_all(partition, vec![seal]).await })
    }

    fn apply_all(&self, _: u32, seals: Vec<Arc<DecidedSeal>>) -> BoxFuture<'_, Result<(), StoreError>> {
        let mut state = self.lock();
        let numbers = seals.iter().map(|seal| seal.seal.n).collect();
        let fault = state.faults.pop_front();
        state.events.push(if fault.is_some() { Refused(numbers) } else { Took(numbers) });
        ready(fault.map_or(Ok(()), |remedy| Err(broken(remedy))))
    }

    fn applied(&self, _: u32, kept: u64) -> BoxFuture<'_, Result<u64, StoreError>> {
        let mut state = self.lock();
        state.events.push(Asked(kept));
        ready(Ok(state.has.take().unwrap_or(kept)))
    }

    fn rebuilt(&self, _: u32, n: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        self.lock().events.push(Rebuilt(n));
        ready(Ok(()))
    }
}

impl Rebuild for World {
    fn authority_has(&self, _: u32) -> BoxFuture<'_, Result<u64, StoreError>> {
        ready(Ok(self.lock().authority))
    }

    fn copy<'a>(&'a self, _: u32, _: &'a (dyn Fn(Progress) + Send + Sync)) -> BoxFuture<'a, Result<(), StoreError>> {
        let mut state = self.lock();
        state.authority += 1;
        let fails = state.uncopied > 0;
        state.uncopied = state.uncopied.saturating_sub(1);
        state.events.push(CopiedAll(!fails));
        ready(if fails { Err(broken(Remedy::Again)) } else { Ok(()) })
    }
}

fn saved(n: u64) -> Event {
    Saved("search".into(), n)
}

fn pinned(n: u64) -> Event {
    Saved("search_rebuild".into(), n)
}

fn in_batches_of(batch_seals: usize) -> FollowSettings {
    FollowSettings {
        batch_seals,
        ..FollowSettings::default()
    }
}

async fn until(following: &Following, what: impl Fn(&FollowState) -> bool) -> FollowState {
    let mut state = following.state();
    let reached = timeout(Duration::from_secs(3_600), state.wait_for(|state| what(state))).await;
    reached.expect("within an hour of virtual time").expect("it runs").clone()
}

#[tokio::test(start_paused = true)]
async fn seals_are_applied_in_order_and_only_then_the_cursor_moves() {
    let world = World::new(5);
    let following = world.follow(in_batches_of(2), false);
    until(&following, |state| state.applied == 5).await;
    following.stop().await;
    let events = world.events();
    assert_eq!(world.taken(), [1, 2, 3, 4, 5]);
    let mut applied = 0;
    for event in events {
        match event {
            Took(seals) => applied = *seals.last().expect("some"),
            Saved(_, n) => assert!(n <= applied, "{n} was saved when {applied} was applied"),
            _ => (),
        }
    }
    assert_eq!(world.lock().cursors["search"], 5);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_bounded_by_seals_and_by_bytes() {
    for (settings, first) in [
        (in_batches_of(2), vec![1, 2]),
        (
            FollowSettings {
                batch_bytes: 1,
                ..FollowSettings::default()
            },
            vec![1],
        ),
        (FollowSettings::default(), vec![1, 2, 3, 4, 5]),
    ] {
        let world = World::new(5);
        let following = world.follow(settings, false);
        until(&following, |state| state.applied == 5).await;
        assert_eq!(world.events()[1], Took(first));
        following.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_looks_for_seals_that_nobody_told_it_of_and_passes_over_skipped_numbers() {
    let world = World::new(4);
    let mut later = world.lock().seals.split_off(2);
    let following = world.follow(FollowSettings::default(), false);
    until(&following, |state| state.applied == 2).await;
    for seal in &mut later {
        Arc::get_mut(seal).expect("nobody else has it").seal.n += 10;
    }
    world.lock().seals.extend(later);
    let began = Instant::now();
    until(&following, |state| state.applied == 14).await;
    assert!(began.elapsed() <= LOOK_EVERY);
    assert_eq!(world.taken(), [1, 2, 13, 14]);
    following.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_is_told_and_the_same_seals_are_asked_again_after_a_pause() {
    let world = World::new(3);
    world.lock().faults.extend([Remedy::Again, Remedy::Slower, Remedy::Hold]);
    let (began, following) = (Instant::now(), world.follow(FollowSettings::default(), false));
    let state = until(&following, |state| matches!(&state.fault, Some((Remedy::Hold, _)))).await;
    assert!(state.applied == 0 && state.tip == 3, "{state:?}");
    let state = until(&following, |state| state.applied == 3).await;
    assert_eq!((state.phase, state.fault), (Phase::Following, None));
    let all = || vec![1, 2, 3];
    assert_eq!(
        world.events()[..7],
        [Asked(0), Refused(all()), Asked(0), Refused(all()), Asked(0), Refused(all()), Asked(0)]
    );
    assert_eq!(world.events()[7], Took(all()));
    // At least half of 100 ms, of 2 s, of 30 s.
    assert!(began.elapsed() >= Duration::from_millis(16_050), "{:?}", began.elapsed());
    following.stop().await;
    assert_eq!(world.lock().cursors["search"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_down_for_long_is_tried_with_one_seal() {
    let world = World::new(3);
    world.lock().faults.extend([Remedy::Again; 6]);
    let following = world.follow(FollowSettings::default(), false);
    until(&following, |state| state.phase == Phase::Faulty).await;
    until(&following, |state| state.applied == 3).await;
    let asked: Vec<Event> = world.events().into_iter().filter(|event| matches!(event, Took(_) | Refused(_))).collect();
    let all = || Refused(vec![1, 2, 3]);
    assert_eq!(asked, [all(), all(), all(), all(), all(), Refused(vec![1]), Took(vec![1]), Took(vec![2, 3])]);
    following.stop().await;
}

#[tokio::test(start_paused = true)]
async fn it_begins_where_the_store_is_and_never_beyond_its_cursor() {
    for (kept, has, first) in [(3, None, 4), (3, Some(1), 2), (3, Some(0), 1), (3, Some(5), 4)] {
        let world = World::new(5);
        world.lock().cursors.insert("search".into(), kept);
        world.lock().has = has;
        let following = world.follow(FollowSettings::default(), false);
        until(&following, |state| state.applied == 5).await;
        assert_eq!(world.taken(), (first..=5).collect::<Vec<_>>(), "{has:?}");
        following.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lost_its_data_gets_its_seals_again() {
    let world = World::new(5);
    world.lock().seals.truncate(4);
    let following = world.follow(in_batches_of(2), false);
    until(&following, |state| state.applied == 4).await;
    {
        let fifth = World::new(5).lock().seals[4].clone();
        let mut state = world.lock();
        state.seals.push(fifth);
        state.faults.push_back(Remedy::Again);
        state.has = Some(1);
    }
    until(&following, |state| state.applied == 5).await;
    assert_eq!(world.taken(), [1, 2, 3, 4, 2, 3, 4, 5]);
    following.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_read_is_asked_again_and_no_seal_is_passed_over() {
    let world = World::new(4);
    world.lock().unreadable.extend([(1, 3), (3, 2)]);
    let following = world.follow(FollowSettings::default(), false);
    until(&following, |state| state.applied == 4).await;
    assert_eq!(world.taken(), [1, 2, 3, 4]);
    following.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_is_not_saved_is_only_late() {
    let world = World::new(3);
    world.lock().unsaved = 2;
    let following = world.follow(FollowSettings::default(), false);
    until(&following, |state| state.applied == 3).await;
    let saved = || world.lock().cursors.get("search").copied();
    while saved().is_none() {
        tokio::time::advance(LOOK_EVERY).await;
    }
    assert_eq!(saved(), Some(3));
    following.stop().await;
    let again = world.follow(FollowSettings::default(), false);
    until(&again, |state| state.applied == 3).await;
    again.stop().await;
    assert_eq!(world.taken(), [1, 2, 3], "it went on behind the cursor");
}

#[tokio::test(start_paused = true)]
async fn an_orderly_end_saves_the_cursor() {
    let world = World::new(3);
    world.lock().unsaved = usize::MAX;
    let following = world.follow(FollowSettings::default(), false);
    until(&following, |state| state.applied == 3).await;
    world.lock().unsaved = 0;
    following.stop().await;
    assert_eq!(world.lock().cursors.get("search"), Some(&3));
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_is_filled_from_the_authority_between_a_pin_and_the_cursor() {
    let world = World::new(8);
    {
        let mut state = world.lock();
        (state.trimmed, state.authority, state.uncopied) = (4, 5, 1);
    }
    let following = world.follow(FollowSettings::default(), true);
    until(&following, |state| matches!(state.phase, Phase::Rebuilding(_))).await;
    let state = until(&following, |state| state.applied == 8).await;
    assert_eq!((state.phase, state.fault), (Phase::Following, None));
    following.stop().await;
    let pin = || Removed("search_rebuild".into());
    let copied = [Asked(0), pinned(5), CopiedAll(false), pinned(6), CopiedAll(true), Rebuilt(6), saved(6), pin()];
    assert_eq!(
        world.events()[..8],
        copied,
        "a copy that failed begins anew; what the authority got meanwhile is applied"
    );
    assert_eq!(world.taken(), [7, 8]);
}

#[tokio::test(start_paused = true)]
async fn seals_that_go_away_while_it_follows_are_noticed() {
    let world = World::new(6);
    let rest = world.lock().seals.split_off(2);
    let following = world.follow(FollowSettings::default(), true);
    until(&following, |state| state.applied == 2).await;
    {
        let mut state = world.lock();
        state.seals.extend(rest);
        (state.trimmed, state.authority) = (4, 5);
    }
    until(&following, |state| state.applied == 6).await;
    assert_eq!(world.taken(), [1, 2, 6]);
    assert!(world.events().contains(&Rebuilt(5)));
    following.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_an_authority_it_says_that_it_is_detached_and_moves_nothing() {
    let world = World::new(4);
    world.lock().trimmed = 2;
    let following = world.follow(FollowSettings::default(), false);
    until(&following, |state| state.phase == Phase::Detached).await;
    let state = following.state();
    following.stop().await;
    assert_eq!(state.borrow().phase, Phase::Stopped);
    assert_eq!(world.events(), [Asked(0)]);
}
