//! The only way into a tenant actor: a bounded lane for packs, each with the credit for its memory.

use super::{
    TenantActor,
    messages::{Retire, Snapshot, TenantSnapshot},
};
use crate::model::{
    batch::{Delivery, Work},
    credit::{Budget, Credit},
};
use actix::Addr;
use std::sync::{Arc, OnceLock};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

/// What a pack in memory costs besides its bytes: the structs and channels that carry it.
pub const PACK_OVERHEAD: usize = 256;

/// From this delivery on a pack travels alone. When an actor panics, all packs that it holds are delivered again, and
/// nobody knows which one did it; alone, the guilty one takes no innocent ones with it to the dead letters.
pub const SUSPECT_ATTEMPT: u32 = 3;

/// The way into one incarnation of a tenant actor. Cheap to clone; holding one keeps the lane open.
#[derive(Clone)]
pub struct TenantHandle(Arc<Inner>);

struct Inner {
    generation: u64,
    // Boxed: tokio allocates 32 slots per lane at once, and there are thousands of lanes.
    data: mpsc::Sender<Box<Work>>,
    budget: Budget,
    share: usize,
    control: Control,
}

/// Filled in when the actor runs; the lane is open before.
pub(crate) type Control = Arc<OnceLock<Addr<TenantActor>>>;

/// Why a pack was not taken at once; it is given back.
#[derive(Debug)]
pub enum Refused {
    /// No credit or no slot now.
    Full(Delivery),
    /// This incarnation has ended: look up again.
    Gone(Delivery),
}

/// This incarnation has ended: look up again with the work, which is given back.
#[derive(Debug)]
pub struct Gone(pub Work);

impl TenantHandle {
    /// A handle and the other end of its lane. `share` is the budget's size for this tenant, bytes.
    pub(crate) fn new(generation: u64, slots: usize, budget: Budget, share: usize) -> (Self, mpsc::Receiver<Box<Work>>, Control) {
        let (data, lane) = mpsc::channel(slots.max(1));
        let control = Control::default();
        let inner = Inner {
            generation,
            data,
            budget,
            share,
            control: control.clone(),
        };
        (Self(Arc::new(inner)), lane, control)
    }

    /// Which incarnation this leads to.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// Takes the pack if there is credit and a slot right now. Never waits.
    pub fn try_append(&self, delivery: Delivery) -> Result<(), Refused> {
        if delivery.attempt >= SUSPECT_ATTEMPT {
            return Err(Refused::Full(delivery));
        }
        let slot = match self.0.data.try_reserve() {
            Ok(slot) => slot,
            Err(TrySendError::Full(())) => return Err(Refused::Full(delivery)),
            Err(TrySendError::Closed(())) => return Err(Refused::Gone(delivery)),
        };
        match self.0.budget.try_reserve(self.charge(delivery.pack.bytes().len())) {
            Some(credit) => {
                slot.send(Box::new(Work {
                    delivery,
                    credit: Some(credit),
                }));
                Ok(())
            }
            None => Err(Refused::Full(delivery)),
        }
    }

    /// Waits for the credit of a pack of `bytes`; a suspect one waits until it is alone. Cancel-safe.
    pub async fn reserve(&self, bytes: usize, attempt: u32) -> Credit {
        let charge = self.charge(bytes);
        if attempt >= SUSPECT_ATTEMPT {
            self.0.budget.reserve_alone(charge).await
        } else {
            self.0.budget.reserve(charge).await
        }
    }

    /// Waits for a slot. Cancel-safe in that nothing is handed over before the slot is held; a dropped future drops `work`,
    /// which redelivers it.
    pub async fn append(&self, work: Work) -> Result<(), Gone> {
        match self.0.data.reserve().await {
            Ok(slot) => {
                slot.send(Box::new(work));
                Ok(())
            }
            Err(_closed) => Err(Gone(work)),
        }
    }

    /// What the actor holds; `None` when it does not run (yet, or any more).
    pub async fn snapshot(&self) -> Option<TenantSnapshot> {
        let (reply, answer) = oneshot::channel();
        self.0.control.get()?.do_send(Snapshot { reply });
        answer.await.ok()
    }

    /// Asks the actor to end when what it has is settled; nothing when it does not run.
    pub fn retire(&self) {
        if let Some(addr) = self.0.control.get() {
            addr.do_send(Retire);
        }
    }

    /// A pack larger than the tenant's whole share takes all of it and so travels alone; else it would wait for ever.
    fn charge(&self, bytes: usize) -> usize {
        (bytes + PACK_OVERHEAD).min(self.0.share)
    }
}
