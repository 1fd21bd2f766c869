//! A feed outlives the request that opened it, but not its credential.
//!
//! It ends when the credential expires, and within a few seconds of its end by other means: the key or the user was removed, the
//! issuer's key is gone, the tenant was deleted, the roles are others.

use crate::{
    auth::{Authenticator, Principal, issuer::LEEWAY},
    http::state::App,
    model::time::now_ms,
};
use std::{future::pending, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// How often the credential is looked at.
const EVERY: Duration = Duration::from_secs(2);
/// A timer cannot be set for the end of time; a year is longer than any connection.
const YEAR_MS: i64 = 365 * 86_400_000;

/// The credential of a session.
pub struct Watch {
    /// `None`: there is none yet.
    caller: Option<(Arc<Authenticator>, Principal)>,
    ends: Option<Instant>,
    next: Instant,
}

impl Watch {
    /// Watches the credential of a caller.
    pub fn new(app: &App, caller: &Principal) -> Self {
        Self {
            caller: Some((app.services.auth.clone(), caller.clone())),
            ends: caller.expires_at.map(end_of),
            next: Instant::now() + EVERY,
        }
    }

    /// Nothing to watch yet.
    pub fn nobody() -> Self {
        Self {
            caller: None,
            ends: None,
            next: Instant::now(),
        }
    }

    /// Resolves, with the reason, when the session must end. Cancel-safe.
    pub async fn over(&mut self) -> &'static str {
        let Some((auth, caller)) = &self.caller else { return pending().await };
        loop {
            sleep_until(self.ends.map_or(self.next, |ends| ends.min(self.next))).await;
            if self.ends.is_some_and(|ends| ends <= Instant::now()) {
                return "the credential has expired";
            }
            if !auth.still_good(caller) {
                return "the credential is not valid any more";
            }
            self.next = Instant::now() + EVERY;
        }
    }
}

/// When a credential ends that ends at this second. One that was taken although its time has passed (clocks differ) lives
/// until the leeway ends.
fn end_of(expires_at: i64) -> Instant {
    let left = |at: i64| at.saturating_mul(1000).saturating_sub(now_ms());
    let ms = match left(expires_at) {
        ms if ms > 0 => ms,
        _ => left(expires_at.saturating_add(LEEWAY)).max(0),
    };
    Instant::now() + Duration::from_millis(ms.min(YEAR_MS).unsigned_abs())
}
