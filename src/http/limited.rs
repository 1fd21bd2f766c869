//! Limits as clients meet them: what is asked before a request costs anything, and the 429 that says when to come back.

use super::{
    error::{Code, Problem},
    server::Peer,
};
use crate::{
    catalog::{RateLimit, Tenant},
    limits::{
        LimitSettings,
        addresses::{Addresses, Attempt},
        quota::{Quotas, Reservation},
        rates::{Admission, Refused, TenantRates},
    },
    model::tenant::TenantId,
    queue::Counters,
    telemetry::metrics::{Limit, metrics},
};
use serde::Serialize;
use std::{sync::Arc, time::Duration};

/// Room comes only when entries are erased, which nobody can foretell: a minute is not too often to ask.
const QUOTA_RETRY: Duration = Duration::from_secs(60);

/// The limits of the surface.
pub struct Limits {
    rates: Arc<TenantRates>,
    quotas: Arc<Quotas>,
    credentials: Addresses,
    logins: Addresses,
}

/// What a tenant may use and does use, as `usage` shows it.
#[derive(Debug, Serialize)]
pub struct Quota {
    /// Entries that it may have; `null`: no bound.
    pub limit: Option<u64>,
    /// Entries that it has: stored, not erased, and pending.
    pub used: u64,
    /// The rate in force; `null`: none.
    pub rate: Option<RateInForce>,
}

/// A rate in force: numbers in a second, and at once. `null`: no limit.
#[derive(Debug, Serialize)]
pub struct RateInForce {
    entries_per_second: Option<u64>,
    entries_burst: Option<u64>,
    bytes_per_second: Option<u64>,
    bytes_burst: Option<u64>,
}

/// Entries that a tenant has: what is to come is counted as if it were there.
fn rows(counters: &Counters) -> u64 {
    counters.stored.saturating_add(counters.pending).saturating_sub(counters.erased)
}

impl Limits {
    /// Nobody has come yet.
    pub fn new(settings: &LimitSettings) -> Self {
        Self {
            rates: TenantRates::new(settings),
            quotas: Quotas::new(settings.tenant_max_entries),
            credentials: Addresses::new(settings.unauthenticated_per_minute, settings.unauthenticated_burst),
            logins: Addresses::new(settings.logins_per_minute, settings.logins_per_minute),
        }
    }

    /// Admits a write of a tenant before its body is read. `own` is its setting, `announced` the body's length as far as it is known.
    pub fn admit(&self, tenant: &TenantId, own: Option<&RateLimit>, announced: u64) -> Result<Admission, Problem> {
        self.rates.admit(tenant, own, announced).map_err(over_rate)
    }

    /// Reserves room in the tenant's quota; keep the answer until the entries are durable or refused.
    pub fn reserve(&self, tenant: &TenantId, entries: u64, counters: impl FnOnce() -> Counters) -> Result<Reservation, Problem> {
        self.quotas.reserve(tenant, entries, || rows(&counters())).map_err(|over| {
            metrics().limited(Limit::Quota);
            let (most, room) = (over.most, over.room);
            let detail = match room {
                0 => format!("the tenant has as many entries as it may have, {most}; nothing was kept, there is room when some are erased"),
                room => format!("the tenant may have {most} entries and has room for {room}; nothing of this request was kept"),
            };
            refusal(Code::QuotaExceeded, Limit::Quota, detail, QUOTA_RETRY)
        })
    }

    /// What the tenant may use and does use; `None` when nothing bounds it.
    pub fn quota(&self, tenant: &Tenant, counters: &Counters) -> Option<Quota> {
        let rates = self.rates.in_force(tenant.settings.rate_limit.as_ref());
        let rate = (rates.entries.is_some() || rates.bytes.is_some()).then(|| RateInForce {
            entries_per_second: rates.entries.map(|rate| rate.tokens()),
            entries_burst: rates.entries.map(|rate| rate.burst()),
            bytes_per_second: rates.bytes.map(|rate| rate.tokens()),
            bytes_burst: rates.bytes.map(|rate| rate.burst()),
        });
        let limit = self.quotas.most();
        (limit.is_some() || rate.is_some()).then(|| Quota {
            limit,
            used: rows(counters),
            rate,
        })
    }

    /// Takes a token for looking at a credential that is not known yet: before any hash or signature is computed. Say
    /// [`Attempt::good`] when the credential is; dropped, it was none.
    pub fn credential(&self, peer: Peer) -> Result<Option<Attempt<'_>>, Problem> {
        let detail = "too many requests with bad credentials, or none, came from this address; credentials that were good lately still work";
        try_from(&self.credentials, peer, Limit::Unauthenticated, detail)
    }

    /// Takes a token for a login, before its password is hashed. Say [`Attempt::good`] when it succeeds.
    pub fn login(&self, peer: Peer) -> Result<Option<Attempt<'_>>, Problem> {
        try_from(&self.logins, peer, Limit::Login, "too many logins failed from this address")
    }
}

/// A request that came over no socket has no address, and no limit.
fn try_from<'a>(addresses: &'a Addresses, peer: Peer, limit: Limit, detail: &'static str) -> Result<Option<Attempt<'a>>, Problem> {
    if peer.0.ip().is_unspecified() {
        return Ok(None);
    }
    let attempt = addresses.attempt(peer.0.ip()).map_err(|after| {
        metrics().limited(limit);
        refusal(Code::RateLimited, limit, format!("{detail}; come back in {} s", after.as_secs()), after).leaving_the_body()
    })?;
    Ok(Some(attempt))
}

fn over_rate(refused: Refused) -> Problem {
    metrics().limited(refused.limit);
    let (limit, rate, seconds) = (refused.limit.as_str(), refused.per_second, refused.retry_after.as_secs());
    let detail = format!("the tenant's rate of {rate} {limit} a second is used up; nothing was kept, come back in {seconds} s");
    refusal(Code::RateLimited, refused.limit, detail, refused.retry_after)
}

fn refusal(code: Code, limit: Limit, detail: String, after: Duration) -> Problem {
    Problem::new(code, detail)
        .with("limit", limit.as_str())
        .with("retry_after", after.as_secs())
        .retry_after(after)
}
