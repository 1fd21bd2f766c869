//! One message from its queue into the tenants' own: decoded, accepted by the [`Producer`], its rest written to the dead letters.
//!
//! Everything here may be done again for the same message, and then has no further effect: packs and letters have names that come
//! from the message. It says [`Fate::Done`] only when every pack was accepted and every letter is durable.

use super::{
    decode::{Decoded, Message, Refused, Rules, decode},
    known::KnownPacks,
    names,
    unassigned::{Unassigned, UnassignedPart},
};
use crate::{
    catalog::Catalog,
    model::{pack::Pack, tenant::TenantId},
    queue::{AcceptError, Producer},
    sinks::dead_letter::{DeadLetters, ForeignLetter, ForeignMessage},
    telemetry::metrics::{ForeignOutcome, metrics},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A message whose tenant has no room is put back after this time, where the queue can do that: others are not to wait for it.
const TENANT_FULL: Duration = Duration::from_secs(30);

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is decided and may be forgotten by its queue.
    Done,
    /// A tenant of it takes nothing now: it is to come again later.
    Later,
}

/// See the module.
pub(super) struct Forwarder {
    pub(super) producer: Arc<dyn Producer>,
    pub(super) catalog: Catalog,
    pub(super) dead_letters: DeadLetters,
    pub(super) unassigned: Unassigned,
    pub(super) rules: Rules,
    pub(super) known: Mutex<KnownPacks>,
    /// Whether messages can be put back.
    pub(super) can_wait: bool,
}

impl Forwarder {
    /// Brings one message to its end; waits as long as nobody takes it. Dropping the future leaves the message undecided.
    pub(super) async fn forward(&self, message: &Message) -> Fate {
        let decoded = self.decode(message).await;
        let mut known = !decoded.packs.is_empty();
        for pack in decoded.packs {
            match self.accept(pack).await {
                Accepting::Known => {}
                Accepting::Accepted => known = false,
                Accepting::NoRoom => return Fate::Later,
            }
        }
        let outcome = match (known, decoded.refused.is_empty()) {
            (_, false) => ForeignOutcome::Refused,
            (true, true) => ForeignOutcome::Known,
            (false, true) => ForeignOutcome::Forwarded,
        };
        self.bury(message, decoded.id, decoded.refused).await;
        metrics().foreign(outcome, 1);
        Fate::Done
    }

    /// A tenant that is not known may have been made by another process a moment ago, so the catalog is read first:
    /// a look of before the message came would not do, because the message is acknowledged by what it says.
    async fn decode(&self, message: &Message) -> Decoded {
        let look_up = |id: &TenantId| self.catalog.get(id);
        let mut decoded = decode(message, &self.rules, &look_up);
        let mut pause = FIRST_PAUSE;
        while decoded.unknown_tenant {
            match self.catalog.look().await {
                Ok(()) => return decode(message, &self.rules, &look_up),
                Err(error) => {
                    tracing::warn!(%error, "whether a tenant exists cannot be found out; the message waits");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            decoded = decode(message, &self.rules, &look_up);
        }
        decoded
    }

    async fn accept(&self, pack: Pack) -> Accepting {
        let id = pack.id();
        if self.known().contains(id) {
            return Accepting::Known;
        }
        let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            let wait = match self.producer.accept(pack.clone(), None).await {
                Ok(_) => {
                    self.known().add(id);
                    return Accepting::Accepted;
                }
                Err(AcceptError::TenantFull { .. }) if self.can_wait && begun.elapsed() >= TENANT_FULL => return Accepting::NoRoom,
                Err(AcceptError::TenantFull { retry_after } | AcceptError::Unavailable { retry_after, .. }) => retry_after,
                // The same pack again: it has the same name, so it is decided once.
                Err(AcceptError::Unknown) => Duration::ZERO,
            };
            tokio::time::sleep(pause.max(wait.min(LONGEST_PAUSE))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, KnownPacks> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner) // adding an id leaves it whole
    }

    /// Writes what was refused, for as long as it takes.
    async fn bury(&self, message: &Message, id: uuid::Uuid, refused: Vec<Refused>) {
        if refused.is_empty() {
            return;
        }
        tracing::warn!(queue = %self.rules.queue, message = %message.key, refused = refused.len(), first = %refused[0].detail, "a foreign message is not, or not all, entries; the rest becomes dead letters");
        let mut by_tenant: BTreeMap<Option<TenantId>, Vec<Refused>> = BTreeMap::new();
        for part in refused {
            by_tenant.entry(part.tenant.clone()).or_default().push(part);
        }
        for (tenant, parts) in by_tenant {
            let mut pause = FIRST_PAUSE;
            while let Err(error) = self.write(message, id, tenant.as_ref(), &parts).await {
                tracing::warn!(%error, "what a foreign queue brought cannot be written to the dead letters; it is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    async fn write(&self, message: &Message, id: uuid::Uuid, tenant: Option<&TenantId>, parts: &[Refused]) -> Result<(), crate::objects::ObjectError> {
        let Some(tenant) = tenant else {
            let part = |part: &Refused| UnassignedPart {
                index: part.index,
                detail: part.detail.clone(),
                original: String::from_utf8_lossy(&part.original).into_owned(),
            };
            return self.unassigned.write(&self.rules, message, id, parts.iter().map(part).collect()).await;
        };
        let letter = |part: &Refused| ForeignLetter {
            index: part.index,
            entry_id: names::entry(id, part.index),
            original: part.original.clone(),
            detail: part.detail.clone(),
        };
        let of = ForeignMessage {
            id,
            sent_at: message.sent_at,
            actor: &self.rules.actor,
        };
        self.dead_letters.write_foreign(tenant, of, parts.iter().map(letter).collect()).await
    }
}

enum Accepting {
    Accepted,
    Known,
    NoRoom,
}
