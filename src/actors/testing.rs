//! What several tests of the actors share.

use crate::{
    model::{
        batch::Delivery,
        pack::{Pack, tests::pack_of},
        ticket::{Ticket, Verdict},
    },
    queue::{PackReadError, PackReader, Position},
};
use futures_util::future::BoxFuture;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use tokio::sync::oneshot;

/// A pack with this request id makes the actor that gets it panic.
pub(crate) const CRASH: &str = "crash-the-actor";

/// A delivery of a pack with one entry, at the position `id`, and where its verdict arrives.
pub(crate) fn delivery(tenant: &str, id: u128) -> (Delivery, oneshot::Receiver<Verdict>) {
    deliver(Arc::new(pack_of(tenant, &[id])), id as u32, 1)
}

/// A delivery of `pack`.
pub(crate) fn deliver(pack: Arc<Pack>, offset: u32, attempt: u32) -> (Delivery, oneshot::Receiver<Verdict>) {
    let (ticket, verdict) = Ticket::new();
    let position = Position { segment: 1, offset };
    let delivery = Delivery {
        pack,
        position,
        attempt,
        ticket,
    };
    (delivery, verdict)
}
