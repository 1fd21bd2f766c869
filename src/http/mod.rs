//! The HTTP surface: writing, reading, the live feed, tenants, health, documentation.
//!
//! ```text
//! server ─▶ layers ─▶ dispatch ─▶ access (who) ─▶ query (what) ─▶ ingest | reads | export | stream | tenants | letters | health | docs
//!           ids,      routes: the one table            │
//!           problems                                   └─▶ Producer · Authority · FeedHandle · Catalog · DeadLetters
//! ```
//!
//! It guarantees: a 2xx to a write means that the pack is durable; a 4xx or 503 that nothing was kept; bodies in flight stay
//! inside a byte budget; every read is restricted to the tenant of the credential by a `TenantScope`; a parameter is never
//! ignored; no answer and no log line holds a credential, a query string or an internal.

mod access;
mod body;
mod cleanup;
pub(crate) mod cursor;
mod dispatch;
mod docs;
mod error;
mod export;
mod export_jobs;
mod fields;
pub(crate) mod filter;
mod guarded;
pub mod health;
mod ingest;
mod keys;
mod layers;
mod leftover;
mod letters;
mod limited;
mod login;
mod memory;
mod openapi;
pub mod origin;
pub(crate) mod query;
mod ranges;
mod reads;
mod recording;
mod replay;
mod routes;
mod safety;
mod search;
pub mod server;
pub mod settings;
mod state;
mod stats;
mod stream;
mod tenants;
pub mod tls;
mod users;

#[cfg(test)]
mod tests;

pub use self::{
    cursor::CursorKey,
    export_jobs::compile as compile_export,
    health::Health,
    routes::BASE,
    server::{Drain, serve},
    settings::HttpSettings,
    state::Services,
};

use self::{error::Problem, health::Probe, safety::Safety, state::App};
use axum::{
    Router,
    http::{HeaderValue, header},
    response::IntoResponse,
    routing::get,
};
use std::sync::Arc;

/// What a listener answers.
pub type Routes = Router;

/// Everything that the main listener answers.
pub fn router(services: Services) -> Routes {
    let safety = Safety::of(&services.settings);
    layers::around(dispatch::routes(App::new(services)), safety)
}

/// Everything that the admin listener answers: health, and the metrics that `render` writes in Prometheus' text format.
pub fn admin_router(health: Arc<Health>, render: Arc<dyn Fn() -> String + Send + Sync>) -> Routes {
    let metrics = get(move || async move {
        let mut response = render().into_response();
        let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        response
    });
    only(with_health(Router::new().route("/metrics", metrics), &health))
}

/// What the main listener answers of a process that takes no requests: its health.
pub fn health_router(health: &Arc<Health>) -> Routes {
    only(with_health(Router::new(), health))
}

fn with_health(mut routes: Router, health: &Arc<Health>) -> Router {
    for (path, probe) in [
        ("/health", Probe::Report),
        ("/healthz", Probe::Report),
        ("/health/live", Probe::Live),
        ("/health/ready", Probe::Ready),
    ] {
        for base in ["", BASE] {
            let health = health.clone();
            routes = routes.route(&format!("{base}{path}"), get(move || async move { health.answer(probe) }));
        }
    }
    routes
}

fn only(routes: Router) -> Router {
    layers::around(routes.fallback(|| async { Problem::not_found() }), Safety::default())
}
