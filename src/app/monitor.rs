//! Looks at every part once a second: what health and metrics tell, and whether the process can go on.

use crate::{
    actors::{ActorWatch, broadcast::FeedHandle},
    auth::{Authenticator, Fetching},
    catalog::Catalog,
    error::AppError,
    http::health::{Health, Phase},
    telemetry::metrics::{self, metrics},
};
use futures_util::{FutureExt, future::BoxFuture};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle};

const EVERY: Duration = Duration::from_secs(1);

/// Looks at one part and tells health and metrics.
pub type Look = Box<dyn FnMut(&Health) + Send>;

/// What is looked at.
pub struct Watched {
    pub health: Arc<Health>,
    pub catalog: Catalog,
    /// `None` where no requests are taken.
    pub auth: Option<Arc<Authenticator>>,
    /// Likewise.
    pub feed: Option<FeedHandle>,
    /// What this arrangement of engines has.
    pub looks: Vec<Look>,
    /// Resolves when the process is ready.
    pub ready: BoxFuture<'static, ()>,
    /// Resolves with the reason when the process cannot go on.
    pub fatal: BoxFuture<'static, String>,
}

/// Starts looking. The receiver gets the reason when the process cannot go on.
pub fn start(watched: Watched) -> (JoinHandle<()>, watch::Receiver<Option<AppError>>) {
    let (failed, failure) = watch::channel(None);
    let task = tokio::spawn(async move {
        let why = look_for_ever(watched).await;
        failed.send_replace(Some(AppError::failed(why)));
        // Keeps the sender: whoever asks later hears it too.
        std::future::pending::<()>().await;
    });
    (task, failure)
}

/// Looks until the process cannot go on, and says why.
async fn look_for_ever(mut watched: Watched) -> String {
    let mut ticks = tokio::time::interval(EVERY);
    let mut ready = watched.ready.fuse();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut ready => watched.health.set_phase(Phase::Ready),
            why = &mut watched.fatal => return why,
        }
        watched.looks.iter_mut().for_each(|look| look(&watched.health));
        if let Some(feed) = &watched.feed {
            metrics().feed_sessions(feed.sessions());
        }
        if let Some(auth) = &watched.auth {
            look_at_issuers(auth.fetching(), &watched.health);
        }
        look_at_catalog(&watched.catalog, &watched.health);
        metrics().tasks(tokio::runtime::Handle::current().metrics().num_alive_tasks());
        metrics::upkeep();
    }
}

/// The tenant actors, of all partitions together. `memory_bytes` is the budget of the packs in memory, for each.
pub fn look_at_actors(actors: &[ActorWatch], memory_bytes: usize, health: &Health) {
    let m = metrics();
    let all: Vec<_> = actors.iter().map(ActorWatch::status).collect();
    let degraded = all.iter().map(|one| one.degraded_tenants).sum();
    m.tenants(all.iter().map(|one| one.live_tenants).sum(), degraded);
    m.restarts(all.iter().map(|one| one.restarts).sum());
    m.credit_free(all.iter().map(|one| memory_bytes.saturating_sub(one.memory_in_use) as u64).sum());
    health.set_degraded_tenants(degraded);
}

fn look_at_catalog(catalog: &Catalog, health: &Health) {
    match catalog.damaged() {
        _ if !catalog.fresh() => {
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
