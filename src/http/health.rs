//! How the process is: one shared object that the application updates and that both listeners show.
//!
//! Ready is 503 while starting, draining or broken, and 200 otherwise; a degraded tenant is a count and leaves it at 200.
//! Nothing here ever names a tenant. Reading and writing never block for longer than a copy.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Recovery has not shown everything yet.
    Starting,
    /// Everything works.
    Ready,
    /// It is stopping.
    Draining,
    /// Something that it cannot work without has failed.
    Broken,
}

/// Something that was lost or could not be read, found at the start or later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// `segment`, `part`, `manifest`, …
    pub what: String,
    /// Its file name, without folders.
    pub name: String,
    /// First and last byte.
    pub bytes: Option<(u64, u64)>,
    /// First and last seal.
    pub seals: Option<(u64, u64)>,
    /// How many bytes or rows are missing.
    pub count: Option<u64>,
    /// What happened and what was done, without paths.
    pub message: String,
}

/// The state of the process. Shared by reference; every method takes `&self`.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    dependencies: BTreeMap<&'static str, Dependency>,
    damage: Vec<Damage>,
    degraded_tenants: usize,
}

#[derive(Debug, Clone, Serialize)]
struct Dependency {
    status: &'static str,
    detail: String,
}

/// Damage beyond this many reports is only counted: the answer stays small however bad the disk is.
const DAMAGE_SHOWN: usize = 100;

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A process that is starting.
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State {
                phase: Phase::Starting,
                dependencies: BTreeMap::new(),
                damage: Vec::new(),
                degraded_tenants: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// Moves on. Draining and broken are final, except that a draining process may still break.
    pub fn set_phase(&self, phase: Phase) {
        let mut state = self.state();
        match (state.phase, phase) {
            (Phase::Broken, _) | (Phase::Draining, Phase::Starting | Phase::Ready) => {}
            _ => state.phase = phase,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.state().phase
    }

    /// Says how a dependency is (`queue`, `store`, `objects`, …): usable or not, and a text without paths or tenants.
    pub fn set_dependency(&self, name: &'static str, ok: bool, detail: impl Into<String>) {
        let status = if ok { "ok" } else { "failing" };
        let detail = detail.into();
        self.state().dependencies.insert(name, Dependency { status, detail });
    }

    /// Reports damage.
    pub fn report_damage(&self, damage: Damage) {
        self.state().damage.push(damage);
    }

    /// Everything that was reported, oldest first.
    pub fn damage(&self) -> Vec<Damage> {
        self.state().damage.clone()
    }

    /// How many tenants are degraded.
    pub fn set_degraded_tenants(&self, tenants: usize) {
        self.state().degraded_tenants = tenants;
    }

    /// The answer to one of the health paths.
    pub fn answer(&self, probe: Probe) -> Response {
        #[derive(Serialize)]
        struct Json<'a> {
            status: Phase,
            version: &'static str,
            dependencies: &'a BTreeMap<&'static str, Dependency>,
            damage: &'a [Damage],
            damage_total: usize,
            degraded_tenants: usize,
        }
        let state = self.state();
        let status = match (probe, state.phase) {
            (Probe::Live, _) | (_, Phase::Ready) | (Probe::Report, Phase::Starting | Phase::Draining) => StatusCode::OK,
            (Probe::Ready, Phase::Starting | Phase::Draining) | (_, Phase::Broken) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let body = serde_json::to_vec(&Json {
            status: state.phase,
            version: env!("CARGO_PKG_VERSION"),
            dependencies: &state.dependencies,
            damage: &state.damage[..state.damage.len().min(DAMAGE_SHOWN)],
            damage_total: state.damage.len(),
            degraded_tenants: state.degraded_tenants,
        })
        .expect("plain data always serialises");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// Which question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// The whole report: 503 only when broken.
    Report,
    /// Does the process answer at all: always 200.
    Live,
    /// Should it get requests: 503 while starting, draining or broken.
    Ready,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_503_while_starting_draining_or_broken_and_degraded_tenants_leave_it_at_200() {
        for (phase, report, live, ready) in [
            (Phase::Starting, 200, 200, 503),
            (Phase::Ready, 200, 200, 200),
            (Phase::Draining, 200, 200, 503),
            (Phase::Broken, 503, 200, 503),
        ] {
            let health = Health::new();
            health.set_degraded_tenants(3);
            health.set_phase(phase);
            let status = |probe| health.answer(probe).status().as_u16();
            assert_eq!(
                (status(Probe::Report), status(Probe::Live), status(Probe::Ready)),
                (report, live, ready),
                "{phase:?}"
            );
        }
    }

    #[test]
    fn a_stopping_process_never_says_ready_again() {
        let health = Health::new();
        health.set_phase(Phase::Draining);
        health.set_phase(Phase::Ready);
        assert_eq!(health.phase(), Phase::Draining);
        health.set_phase(Phase::Broken);
        health.set_phase(Phase::Draining);
        assert_eq!(health.phase(), Phase::Broken);
    }
}
