//! The tasks that take packs from the backlog to the router and hear what became of them.
//!
//! The lane to the router is bounded in packs and in bytes. A pack whose ticket was dropped is delivered again after a
//! pause; one that was dropped five times goes to the sequencer past the actors, to be refused entry by entry.

use super::Shared;
use crate::{
    model::{
        batch::{Batch, Delivery, Work},
        pack::Pack,
        tenant::TenantId,
        ticket::{Ticket, Verdict},
    },
    queue::{Decider, PackReadError},
    seal::Refusal,
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// A pack is delivered to its actor at most this often.
pub const MAX_ATTEMPTS: u32 = 5;
/// Packs in the lane to the router.
const LANE_SLOTS: usize = 256;

/// A delivery that is under way.
pub(super) struct UnderWay {
    tenant: TenantId,
    pack_id: Uuid,
    attempt: u32,
    verdict: oneshot::Receiver<Verdict>,
}

/// The lane to the router. What stands in it is the last that was sent, so its bytes are known from the lengths sent.
struct Lane {
    sender: mpsc::Sender<Delivery>,
    bytes: usize,
    sent: VecDeque<usize>,
}

impl Lane {
    /// Waits until all that is in the lane, with `delivery`, is within `bytes` (or the lane is empty). `Err` when the router
    /// is gone.
    async fn send(&mut self, delivery: Delivery) -> Result<(), ()> {
        let (slots, len) = (self.sender.max_capacity(), delivery.pack.bytes().len());
        let mut free = self.bytes.saturating_sub(len);
        let may_stay = self.sent.iter().rev().take_while(|len| {
            let fits = **len <= free;
            free = free.saturating_sub(**len);
            fits
        });
        let need = slots - may_stay.count().min(slots - 1);
        let mut room = self.sender.reserve_many(need).await.map_err(|_| ())?;
        room.next().ok_or(())?.send(delivery);
        self.sent.push_back(len);
        if self.sent.len() > slots {
            self.sent.pop_front();
        }
        Ok(())
    }
}

/// Starts both tasks; they end with the shared token, or when the router drops the lane.
pub(super) fn start(shared: &Arc<Shared>, lane_bytes: usize, decider: Arc<dyn Decider>) -> mpsc::Receiver<Delivery> {
    let (sender, deliveries) = mpsc::channel(LANE_SLOTS);
    // Bounded by the backlog, which lets a bounded number of packs be under way.
    let (under_way, tickets) = mpsc::unbounded_channel();
    let lane = Lane {
        sender,
        bytes: lane_bytes,
        sent: VecDeque::new(),
    };
    let (feeding, hearing) = (shared.clone(), shared.clone());
    let feed = async move {
        tokio::select! {
            () = feeding.stop.cancelled() => {}
            () = feed(&feeding, lane, under_way, decider) => {}
        }
    };
    shared.runtime.spawn(feed);
    shared.runtime.spawn(async move {
        tokio::select! {
            () = hearing.stop.cancelled() => {}
            () = hear(&hearing, tickets) => {}
        }
    });
    deliveries
}

async fn feed(shared: &Arc<Shared>, mut lane: Lane, under_way: mpsc::UnboundedSender<UnderWay>, decider: Arc<dyn Decider>) {
    loop {
        let next = shared.book().backlog.pop();
        let Some((tenant, item)) = next else {
            shared.work.notified().await;
            continue;
        };
        let position = {
            let mut book = shared.book();
            let position = book.positions(item.pack_id).last().copied().filter(|_| book.is_undecided(item.pack_id));
            if position.is_none() {
                book.backlog.settled(&tenant, item.pack_id, item.attempt, false);
            }
            position
        };
        let Some(position) = position else { continue };
        let (ticket, verdict) = Ticket::new();
        let pack = match item.pack {
            Some(pack) => Ok(pack),
            None => shared.clone().read(position).await,
        };
        let note = UnderWay {
            tenant: tenant.clone(),
            pack_id: item.pack_id,
            attempt: item.attempt,
            verdict,
        };
        if under_way.send(note).is_err() {
            return;
        }
        let pack: Arc<Pack> = match pack {
            Ok(pack) => pack,
            Err(PackReadError(why)) => {
                tracing::error!(segment = position.segment, offset = position.offset, %why, "an accepted pack cannot be read from the log");
                continue; // the dropped ticket asks for it again, later
            }
        };
        let delivery = Delivery {
            pack,
            position,
            attempt: item.attempt,
            ticket,
        };
        if item.attempt > MAX_ATTEMPTS {
            let batch = poison(tenant, delivery);
            shared.runtime.spawn(decider.submit(batch));
        } else if lane.send(delivery).await.is_err() {
            return;
        }
    }
}

/// A batch of one pack whose entries are all refused.
pub(in crate::queue) fn poison(tenant: TenantId, delivery: Delivery) -> Batch {
    tracing::error!(
        attempts = MAX_ATTEMPTS,
        entries = delivery.pack.len(),
        "a pack was never decided; its entries become dead letters"
    );
    Batch {
        tenant,
        bytes: delivery.pack.bytes().len(),
        works: vec![Work { delivery, credit: None }],
        refusal: Some(Refusal::Poison),
    }
}

async fn hear(shared: &Arc<Shared>, mut tickets: mpsc::UnboundedReceiver<UnderWay>) {
    let mut under_way = FuturesUnordered::new();
    let mut open = true;
    while open || !under_way.is_empty() {
        tokio::select! {
            next = tickets.recv(), if open => match next {
                Some(delivery) => under_way.push(outcome(delivery)),
                None => open = false,
            },
            Some((tenant, pack_id, attempt, verdict)) = under_way.next(), if !under_way.is_empty() => {
                let mut book = shared.book();
                let again = verdict == Verdict::Redeliver && book.is_undecided(pack_id);
                book.backlog.settled(&tenant, pack_id, attempt, again);
                drop(book);
                shared.work.notify_one();
            }
        }
    }
}

/// Resolves when the delivery is settled, or after a pause when it is to be repeated.
async fn outcome(delivery: UnderWay) -> (TenantId, Uuid, u32, Verdict) {
    let verdict = delivery.verdict.await.unwrap_or(Verdict::Redeliver);
    if verdict == Verdict::Redeliver {
        tokio::time::sleep(Duration::from_millis(20 << delivery.attempt.min(8))).await;
    }
    (delivery.tenant, delivery.pack_id, delivery.attempt, verdict)
}
