//! What a tenant actor decides, without a clock, a channel or actix: `on(now, input)` gives effects.
//!
//! Packs leave in batches, in the order in which they came. Batching arises from backpressure and not from waiting: while
//! the sequencer has nothing of the tenant, a pack is handed over at once; while it has, packs gather until the batch is
//! full or has lingered, and then use the next of the few places in flight.
//!
//! ```text
//! Serving ──idle, or told to retire──▶ Leaving ──the lane ended──▶ Ended ──nothing queued, nothing in flight──▶ Stop
//! ```
//! Leaving still serves what borrowed handles send.

use crate::model::{
    batch::{Batch, Work},
    tenant::TenantId,
};
use smallvec::SmallVec;
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// The limits of one tenant's batches.
#[derive(Debug, Clone, Copy)]
pub struct CoreSettings {
    /// A batch takes no further pack once it would exceed this, bytes; a single larger pack is a batch by itself.
    pub batch_bytes: usize,
    /// Most packs in a batch.
    pub batch_packs: usize,
    /// How long a pack may wait for company while another batch is in flight.
    pub linger: Duration,
    /// Most batches that the sequencer may have of this tenant.
    pub in_flight: usize,
    /// Idle for this long, the actor retires.
    pub idle_after: Duration,
}

/// What happens to the actor.
#[derive(Debug)]
pub enum Input {
    /// A pack was admitted.
    Work(Work),
    /// The sequencer is done with one batch.
    Settled,
    /// A deadline has come, maybe.
    Tick,
    /// Somebody wants it to end.
    Retire,
    /// The lane has ended: no pack will come any more.
    Ended,
}

/// What the shell has to do, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Hand this to the sequencer; answer with [`Input::Settled`].
    Submit(Batch),
    /// Leave the directory, so that the lane ends.
    Leave,
    /// Stop the actor.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Leaving,
    Ended,
}

/// The state of one tenant actor: only what redelivery can rebuild.
#[derive(Debug)]
pub struct Core {
    tenant: TenantId,
    settings: CoreSettings,
    queue: VecDeque<(Instant, Work)>,
    queued_bytes: usize,
    in_flight: usize,
    last_active: Instant,
    phase: Phase,
}

impl Core {
    /// An actor that has just started.
    pub fn new(tenant: TenantId, settings: CoreSettings, now: Instant) -> Self {
        Self {
            tenant,
            settings,
            queue: VecDeque::new(),
            queued_bytes: 0,
            in_flight: 0,
            last_active: now,
            phase: Phase::Serving,
        }
    }

    /// One step.
    pub fn on(&mut self, now: Instant, input: Input) -> SmallVec<[Effect; 2]> {
        let mut effects = SmallVec::new();
        match input {
            Input::Work(work) => {
                self.queued_bytes += bytes_of(&work);
                self.queue.push_back((now, work));
                self.last_active = now;
            }
            Input::Settled => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.last_active = now;
            }
            Input::Tick => {}
            Input::Retire => self.leave(&mut effects),
            Input::Ended => self.phase = Phase::Ended,
        }
        while self.is_due(now) {
            effects.push(Effect::Submit(self.close()));
        }
        if self.is_empty() {
            match self.phase {
                Phase::Serving if now >= self.last_active + self.settings.idle_after => self.leave(&mut effects),
                Phase::Ended => effects.push(Effect::Stop),
                Phase::Serving | Phase::Leaving => {}
            }
        }
        effects
    }

    /// When [`Input::Tick`] is worth giving, if nothing else comes first.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.queue.front() {
            Some((since, _)) if self.in_flight < self.settings.in_flight => Some(*since + self.settings.linger),
            None if self.in_flight == 0 && self.phase == Phase::Serving => Some(self.last_active + self.settings.idle_after),
            Some(_) | None => None,
        }
    }

    /// Packs that wait, their bytes, and batches in flight.
    pub fn holds(&self) -> (usize, usize, usize) {
        (self.queue.len(), self.queued_bytes, self.in_flight)
    }

    fn leave(&mut self, effects: &mut SmallVec<[Effect; 2]>) {
        if self.phase == Phase::Serving {
            self.phase = Phase::Leaving;
            effects.push(Effect::Leave);
        }
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.in_flight == 0
    }

    fn is_due(&self, now: Instant) -> bool {
        let Some((since, _)) = self.queue.front() else { return false };
        let full = self.queued_bytes >= self.settings.batch_bytes || self.queue.len() >= self.settings.batch_packs;
        let lingered = now >= *since + self.settings.linger;
        self.in_flight < self.settings.in_flight && (self.in_flight == 0 || full || lingered || self.phase == Phase::Ended)
    }

    fn close(&mut self) -> Batch {
        let mut bytes = 0;
        let mut take = 0;
        for (_, work) in self.queue.iter().take(self.settings.batch_packs.max(1)) {
            if take > 0 && bytes + bytes_of(work) > self.settings.batch_bytes {
                break;
            }
            bytes += bytes_of(work);
            take += 1;
        }
        let works = self.queue.drain(..take).map(|(_, work)| work).collect();
        if self.queue.is_empty() {
            self.queue.shrink_to(16); // a burst must not hold its memory until the tenant is idle
        }
        self.queued_bytes -= bytes;
        self.in_flight += 1;
        Batch {
            tenant: self.tenant.clone(),
            works,
            bytes,
            refusal: None,
        }
    }
}

fn bytes_of(work: &Work) -> usize {
    work.delivery.pack.bytes().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::testing::delivery;

    const MS: Duration = Duration::from_millis(1);

    fn core(now: Instant, batch_packs: usize) -> Core {
        let settings = CoreSettings {
            batch_bytes: usize::MAX,
            batch_packs,
            linger: 2 * MS,
            in_flight: 2,
            idle_after: 1000 * MS,
        };
        Core::new(TenantId::parse("a").expect("a tenant"), settings, now)
    }

    fn work(id: u128) -> Input {
        let (delivery, _) = delivery("a", id);
        Input::Work(Work { delivery, credit: None })
    }

    /// Effects as text: `3` submits a batch of three packs.
    fn show(effects: impl IntoIterator<Item = Effect>) -> String {
        let one = |effect| match effect {
            Effect::Submit(batch) => batch.works.len().to_string(),
            Effect::Leave => "leave".into(),
            Effect::Stop => "stop".into(),
        };
        effects.into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_idle_sequencer_gets_a_pack_at_once_and_a_busy_one_gets_batches() {
        let t = Instant::now();
        let mut core = core(t, 100);
        assert_eq!(show(core.on(t, work(1))), "1");
        assert_eq!(show(core.on(t, work(2))), "", "one is in flight: it waits for company");
        assert_eq!(show(core.on(t + MS, work(3))), "");
        assert_eq!(core.next_deadline(), Some(t + 2 * MS));
        assert_eq!(show(core.on(t + 2 * MS, Input::Tick)), "2", "it has lingered");
        for id in 4..10 {
            assert_eq!(show(core.on(t + 9 * MS, work(id))), "", "no place in flight, however long it waits");
        }
        assert_eq!((core.next_deadline(), core.holds().0), (None, 6));
        assert_eq!(show(core.on(t + 20 * MS, Input::Settled)), "6");
        assert_eq!(core.holds(), (0, 0, 2));
    }

    #[test]
    fn a_batch_is_bounded_by_packs_and_by_bytes_and_keeps_the_order() {
        let t = Instant::now();
        let mut by_packs = core(t, 3);
        by_packs.on(t, work(0));
        let mut got = Vec::new();
        for id in 1..=7 {
            by_packs.on(t, work(id)).into_iter().for_each(|e| got.push(e));
        }
        for _ in 0..3 {
            got.extend(by_packs.on(t, Input::Settled));
        }
        let ids: Vec<Vec<u128>> = got
            .into_iter()
            .map(|effect| match effect {
                Effect::Submit(batch) => {
                    assert_eq!(batch.bytes, batch.works.iter().map(bytes_of).sum::<usize>());
                    batch.works.iter().map(|w| w.delivery.pack.entry(0).id().as_u128()).collect()
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ids, [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);

        let mut by_bytes = core(t, 100);
        let Input::Work(sample) = work(0) else { unreachable!() };
        by_bytes.settings.batch_bytes = 2 * bytes_of(&sample);
        by_bytes.on(t, work(0));
        assert_eq!(show([1, 2, 3, 4, 5].into_iter().flat_map(|id| by_bytes.on(t, work(id)))), "2");
        assert_eq!(show(by_bytes.on(t, Input::Settled)), "2");
        by_bytes.settings.batch_bytes = 1;
        assert_eq!(show(by_bytes.on(t, Input::Settled)), "1", "a pack above the limit goes alone");
    }

    #[test]
    fn it_leaves_only_when_idle_and_stops_only_when_all_is_settled() {
        let t = Instant::now();
        let mut core = core(t, 100);
        assert_eq!(core.next_deadline(), Some(t + 1000 * MS));
        core.on(t + 900 * MS, work(1));
        assert_eq!(show(core.on(t + 5000 * MS, Input::Tick)), "", "something is in flight");
        assert_eq!(show(core.on(t + 5000 * MS, Input::Settled)), "");
        assert_eq!(show(core.on(t + 5999 * MS, Input::Tick)), "");
        assert_eq!(show(core.on(t + 6000 * MS, Input::Tick)), "leave");
        assert_eq!(core.next_deadline(), None);
        assert_eq!(show(core.on(t + 6001 * MS, work(2))), "1", "late work is served");
        assert_eq!(show(core.on(t + 6001 * MS, work(3))), "");
        assert_eq!(show(core.on(t + 6001 * MS, Input::Ended)), "1", "what is left does not linger");
        assert_eq!(show(core.on(t + 6002 * MS, Input::Settled)), "");
        assert_eq!(show(core.on(t + 6003 * MS, Input::Settled)), "stop");
    }
}
