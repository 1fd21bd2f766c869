//! Looks at every part once a second: what health and metrics tell, and whether the process can go on.

use super::recovered;
use crate::{
    actors::{ActorWatch, broadcast::FeedHandle, sequencer::Phase as SequencerPhase},
    auth::{Authenticator, Fetching},
    catalog::Catalog,
    error::AppError,
    http::health::{Health, Phase},
    queue::{embedded::EmbeddedQueue, wal::Wal},
    sinks::embedded::EmbeddedStore,
    telemetry::metrics::{self, metrics},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle};

const EVERY: Duration = Duration::from_secs(1);

/// What is looked at.
pub struct Watched {
    pub auth: Arc<Authenticator>,
    pub health: Arc<Health>,
    pub actors: ActorWatch,
    pub queue: EmbeddedQueue,
    pub store: EmbeddedStore,
    pub feed: FeedHandle,
    pub catalog: Catalog,
    pub sequencer: watch::Receiver<SequencerPhase>,
    pub wal: Wal,
    /// Damage of the store that was reported already.
    pub damage_reported: usize,
    /// Budget of the packs in memory.
    pub memory_bytes: usize,
}

/// Starts looking. The receiver gets the reason when the process cannot go on.
pub fn start(watched: Watched) -> (JoinHandle<()>, watch::Receiver<Option<AppError>>) {
    let (failed, failure) = watch::channel(None);
    let task = tokio::spawn(async move {
        let log_failed = watched.wal.failed();
        let mut sequencer = watched.sequencer.clone();
        let halted = async move {
            match sequencer
                .wait_for(|phase| matches!(phase, SequencerPhase::Halted(_)))
                .await
                .map(|phase| phase.clone())
            {
                Ok(SequencerPhase::Halted(why)) => why,
                // Stopped in order.
                Ok(_) | Err(_) => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            () = look_for_ever(&watched) => return,
            () = log_failed => "the log cannot be written any more; the next start recovers it".to_owned(),
            why = halted => format!("the sequencer halted: {why}"),
        };
        failed.send_replace(Some(AppError::failed(why)));
        // Keeps the sender: whoever asks later hears it too.
        std::future::pending::<()>().await;
    });
    (task, failure)
}

async fn look_for_ever(watched: &Watched) {
    let mut ticks = tokio::time::interval(EVERY);
    let mut sequencer = watched.sequencer.clone();
    // What the start found was reported by it.
    let mut reported = watched.damage_reported;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // It runs as soon as the store shows everything that the log held.
            changed = sequencer.changed() => if changed.is_err() { return },
        }
        if *sequencer.borrow_and_update() == SequencerPhase::Running {
            watched.health.set_phase(Phase::Ready);
        }
        look(watched);
        let damage = watched.store.health().damage;
        damage
            .iter()
            .skip(reported)
            .for_each(|found| recovered::report(&watched.health, recovered::store_damage(found)));
        reported = reported.max(damage.len());
    }
}

fn look(watched: &Watched) {
    let (health, m) = (&watched.health, metrics());
    let actors = watched.actors.status();
    m.tenants(actors.live_tenants, actors.degraded_tenants);
    m.restarts(actors.restarts);
    m.credit_free(watched.memory_bytes.saturating_sub(actors.memory_in_use) as u64);
    health.set_degraded_tenants(actors.degraded_tenants);

    let (undecided_bytes, undecided_packs) = watched.queue.undecided();
    m.undecided_bytes(undecided_bytes);
    match watched.wal.check_room() {
        Ok(()) => health.set_dependency("queue", true, format!("{undecided_packs} packs wait to be decided")),
        Err(error) => health.set_dependency("queue", false, error.to_string()),
    }

    let store = watched.store.health();
    m.memtable_bytes(store.memtable_bytes as u64);
    match &store.flush_error {
        Some(error) => health.set_dependency("store", false, error.to_string()),
        None if store.blocked => health.set_dependency("store", true, "waiting for the disk; what arrives is kept in the log"),
        None => health.set_dependency(
            "store",
            true,
            format!("{} parts, {} KiB of memory for them", store.parts, store.parts_memory >> 10),
        ),
    }
    m.feed_sessions(watched.feed.sessions());
    look_at_issuers(watched.auth.fetching(), health);
    match watched.catalog.damaged() {
        _ if !watched.catalog.fresh() => {
            let detail = "the objects could not be read for 5 minutes, so that nobody is let in; see the log";
            health.set_dependency("catalog", false, detail);
        }
        0 => health.set_dependency("catalog", true, "everything can be read"),
        n => health.set_dependency(
            "catalog",
            false,
            format!("{n} objects cannot be read or are of a later version; their tenants, keys or users are unknown; the log names them"),
        ),
    }
    metrics::upkeep();
}

/// In numbers: an issuer's name may be that of a tenant. The log names it.
fn look_at_issuers(fetching: Fetching, health: &Health) {
    let Fetching { issuers, failing, without } = fetching;
    match (issuers, failing, without) {
        (0, ..) => {} // no dependency of this configuration
        (_, 0, 0) => health.set_dependency("issuers", true, format!("the keys of {issuers} issuers are in force")),
        (_, 0, _) => health.set_dependency("issuers", true, format!("the keys of {without} of {issuers} issuers are being fetched")),
        (_, _, 0) => {
            let detail = format!("the keys of {failing} of {issuers} issuers cannot be fetched; those of before stay in force");
            health.set_dependency("issuers", false, detail);
        }
        _ => {
            let detail = format!("the keys of {failing} of {issuers} issuers cannot be fetched; {without} have none yet, and their tokens are refused");
            health.set_dependency("issuers", false, detail);
        }
    }
}
