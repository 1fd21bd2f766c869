//! How much a tenant may write, and how often an address may fail to say who it is.
//!
//! * [`bucket`]: the one mechanism, a bucket of tokens that may be overdrawn;
//! * [`rates`]: entries and bytes a second of each tenant, by its setting `rate_limit` or the defaults of the configuration;
//! * [`quota`]: the entries that a tenant may have at once;
//! * [`addresses`]: failed credentials and logins of each address.
//!
//! Guarantees: what one tenant or address uses up is never another's; memory is bounded; a refusal says truly when to come
//! back, and costs a look-up. Nothing here waits, and nothing is written to disk: after a restart every bucket is full.
//!
//! Not here: memory of request bodies (`http::memory`), undecided bytes (the queue), turns of queries (the store).

pub mod addresses;
pub mod bucket;
pub mod quota;
pub mod rates;

use crate::catalog::RateLimit;

/// What may be chosen about limits. Zero is no limit.
#[derive(Debug, Clone)]
pub struct LimitSettings {
    /// The rates of tenants without a `rate_limit` of their own.
    pub tenant: RateLimit,
    /// Whether a tenant's own rates can only be lower than `tenant`.
    pub ceiling: bool,
    /// Entries that a tenant may have at once.
    pub tenant_max_entries: u64,
    /// Failed credentials of one address in a minute.
    pub unauthenticated_per_minute: u64,
    /// Failed credentials of one address at once.
    pub unauthenticated_burst: u64,
    /// Failed logins of one address in a minute, and at once.
    pub logins_per_minute: u64,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            tenant: RateLimit::default(),
            ceiling: false,
            tenant_max_entries: 0,
            unauthenticated_per_minute: 3000,
            unauthenticated_burst: 3000,
            logins_per_minute: 30,
        }
    }
}
