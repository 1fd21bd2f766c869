//! The rates of tenants: for each two buckets, of entries and of bytes.
//!
//! A request is admitted before its body is read, by both buckets or not at all, and leaves a deposit: one entry, and the
//! length that it announces. So many requests at once cannot all see the same last token. When its bytes are known
//! (decompressed, before parsing) and its entries are (after it, accepted or not), each is charged what it is; what a request
//! that breaks off has left as a deposit is given back.
//!
//! A tenant without a rate has no bucket. Buckets that are full again are dropped now and then, so there are at most about
//! twice as many as tenants that wrote lately.

use super::{
    LimitSettings,
    bucket::{Bucket, Rate},
};
use crate::{catalog::RateLimit, model::tenant::TenantId, telemetry::metrics::Limit};
use dashmap::DashMap;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Fewer buckets are never looked through for those that are full.
const SWEEP_FROM: usize = 1024;

/// The rates in force for a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Of entries.
    pub entries: Option<Rate>,
    /// Of bytes.
    pub bytes: Option<Rate>,
}

impl Rates {
    /// What a setting means. `burst` is a number of entries, of bytes where only these are limited; without it a second's worth.
    /// Where both are, bytes have as many seconds saved up as entries, at least one.
    pub fn of(limit: &RateLimit) -> Self {
        let entries = limit.entries_per_second.map(|n| Rate::per_second(n, limit.burst.unwrap_or(n)));
        let bytes = limit.bytes_per_second.map(|n| {
            let burst = match (limit.entries_per_second, limit.burst) {
                (_, None) => n,
                (None, Some(burst)) => burst,
                (Some(entries), Some(burst)) => {
                    let as_long = u128::from(n) * u128::from(burst) / u128::from(entries.max(1));
                    u64::try_from(as_long).unwrap_or(u64::MAX).max(n)
                }
            };
            Rate::per_second(n, burst)
        });
        Self { entries, bytes }
    }

    /// The lower of both, of everything that is limited at all.
    fn at_most(self, other: Self) -> Self {
        let lower = |a: Option<Rate>, b: Option<Rate>| match (a, b) {
            (Some(a), Some(b)) => Some(Rate::per_second(a.tokens().min(b.tokens()), a.burst().min(b.burst()))),
            (one, None) | (None, one) => one,
        };
        Self {
            entries: lower(self.entries, other.entries),
            bytes: lower(self.bytes, other.bytes),
        }
    }
}

/// Why a request is not admitted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Which limit makes it wait longest.
    pub limit: Limit,
    /// The rate of it: tokens a second.
    pub per_second: u64,
    /// After so many whole seconds it is admitted, if nobody else of the tenant was.
    pub retry_after: Duration,
}

/// Of entries, and of bytes.
const LIMITS: [Limit; 2] = [Limit::Entries, Limit::Bytes];
const ENTRIES: usize = 0;
const BYTES: usize = 1;

#[derive(Debug, Default)]
struct Buckets([Option<Bucket>; 2]);

impl Buckets {
    /// Goes by these rates from now on. A bucket that is new is full.
    fn follow(&mut self, rates: [Option<Rate>; 2], now: Instant) {
        for (bucket, rate) in self.0.iter_mut().zip(rates) {
            match (bucket.as_mut(), rate) {
                (Some(bucket), Some(rate)) => bucket.change(rate, now),
                (None, Some(rate)) => *bucket = Some(Bucket::full(rate, now)),
                (_, None) => *bucket = None,
            }
        }
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.0.iter_mut().flatten().all(|bucket| bucket.is_full(now))
    }

    /// The limit that makes wait longest, if one does.
    fn refusal(&mut self, now: Instant) -> Option<Refused> {
        let refused = |(bucket, limit): (&mut Option<Bucket>, Limit)| {
            let bucket = bucket.as_mut()?;
            let retry_after = bucket.retry_after(now)?;
            let per_second = bucket.rate().tokens();
            Some(Refused {
                limit,
                per_second,
                retry_after,
            })
        };
        self.0.iter_mut().zip(LIMITS).filter_map(refused).max_by_key(|refused| refused.retry_after)
    }

    /// Charges `is` instead of what was charged before.
    fn settle(&mut self, which: usize, is: u64, was: u64, now: Instant) {
        if let Some(bucket) = &mut self.0[which] {
            match is.checked_sub(was) {
                Some(more) => bucket.charge(more, now),
                None => bucket.give_back(was - is, now),
            }
        }
    }
}

/// The buckets of all tenants.
#[derive(Debug)]
pub struct TenantRates {
    default: RateLimit,
    ceiling: bool,
    buckets: DashMap<TenantId, Buckets>,
    /// As many buckets were left when they were looked through last.
    swept: AtomicUsize,
}

impl TenantRates {
    /// No tenant has written yet.
    pub fn new(settings: &LimitSettings) -> Arc<Self> {
        Arc::new(Self {
            default: settings.tenant,
            ceiling: settings.ceiling,
            buckets: DashMap::new(),
            swept: AtomicUsize::new(0),
        })
    }

    /// The rates of a tenant with this setting.
    pub fn in_force(&self, own: Option<&RateLimit>) -> Rates {
        let default = || Rates::of(&self.default);
        match own {
            None => default(),
            Some(own) if self.ceiling => Rates::of(own).at_most(default()),
            Some(own) => Rates::of(own),
        }
    }

    /// Admits a request that announces so many bytes, and takes a deposit; or says when to come back. `own` is the tenant's
    /// setting as it is now: a change holds from the next request on.
    pub fn admit(self: &Arc<Self>, tenant: &TenantId, own: Option<&RateLimit>, announced: u64) -> Result<Admission, Refused> {
        let rates = self.in_force(own);
        if rates == Rates::default() {
            if !self.buckets.is_empty() {
                self.buckets.remove(tenant);
            }
            return Ok(Admission(None));
        }
        let now = Instant::now();
        let mut buckets = match self.buckets.get_mut(tenant) {
            Some(buckets) => buckets,
            None => {
                self.sweep(now);
                self.buckets.entry(tenant.clone()).or_default()
            }
        };
        buckets.follow([rates.entries, rates.bytes], now);
        if let Some(refused) = buckets.refusal(now) {
            return Err(refused);
        }
        let deposit = [1, announced];
        buckets.settle(ENTRIES, deposit[ENTRIES], 0, now);
        buckets.settle(BYTES, deposit[BYTES], 0, now);
        Ok(Admission(Some(Charged {
            rates: self.clone(),
            tenant: tenant.clone(),
            tokens: deposit,
            is_deposit: [true; 2],
        })))
    }

    /// How many tenants have a bucket.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether no tenant has a bucket.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Drops what is full, when there are twice as many as the last time: a constant part of the cost of those that came.
    fn sweep(&self, now: Instant) {
        let bound = 2 * self.swept.load(Ordering::Relaxed).max(SWEEP_FROM / 2);
        if self.buckets.len() >= bound {
            self.buckets.retain(|_, buckets| !buckets.is_full(now));
            self.swept.store(self.buckets.len(), Ordering::Relaxed);
        }
    }
}

/// A request that was admitted. Dropped before its cost is known, it costs nothing.
#[derive(Debug)]
#[must_use]
pub struct Admission(Option<Charged>);

#[derive(Debug)]
struct Charged {
    rates: Arc<TenantRates>,
    tenant: TenantId,
    tokens: [u64; 2],
    /// What is a deposit is given back in the end.
    is_deposit: [bool; 2],
}

impl Admission {
    /// The request has so many bytes. Said again, the last word counts.
    pub fn bytes(&mut self, bytes: u64) {
        self.cost(BYTES, bytes);
    }

    /// The request has so many entries.
    pub fn entries(&mut self, entries: u64) {
        self.cost(ENTRIES, entries);
    }

    fn cost(&mut self, which: usize, is: u64) {
        if let Some(charged) = &mut self.0 {
            charged.settle(which, is);
            charged.is_deposit[which] = false;
        }
    }
}

impl Charged {
    fn settle(&mut self, which: usize, is: u64) {
        // Without a bucket the limit was lifted meanwhile.
        if let Some(mut buckets) = self.rates.buckets.get_mut(&self.tenant) {
            buckets.settle(which, is, self.tokens[which], Instant::now());
        }
        self.tokens[which] = is;
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        for which in [ENTRIES, BYTES] {
            if self.is_deposit[which] {
                self.settle(which, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a tenant")
    }

    fn limit(entries: impl Into<Option<u64>>, bytes: impl Into<Option<u64>>, burst: impl Into<Option<u64>>) -> RateLimit {
        RateLimit {
            entries_per_second: entries.into(),
            bytes_per_second: bytes.into(),
            burst: burst.into(),
        }
    }

    fn rates(settings: LimitSettings) -> Arc<TenantRates> {
        TenantRates::new(&settings)
    }

    /// A request of so many entries and bytes: how long to wait, if it is refused.
    fn send(rates: &Arc<TenantRates>, name: &str, own: &RateLimit, entries: u64, bytes: u64) -> Option<(Limit, u64)> {
        match rates.admit(&tenant(name), Some(own), bytes) {
            Ok(mut admission) => {
                admission.bytes(bytes);
                admission.entries(entries);
                None
            }
            Err(refused) => Some((refused.limit, refused.retry_after.as_secs())),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_is_true_and_the_longer_wait_is_told() {
        let rates = rates(LimitSettings::default());
        let own = limit(10, 1000, 20);
        for (entries, bytes, told) in [
            (500, 10, (Limit::Entries, 49)),
            (1, 100_000, (Limit::Bytes, 99)),
            (500, 100_000, (Limit::Bytes, 99)),
            (2_000, 100_000, (Limit::Entries, 199)),
        ] {
            let name = format!("t-{entries}-{bytes}");
            assert_eq!(send(&rates, &name, &own, entries, bytes), None);
            let refused = send(&rates, &name, &own, 1, 1);
            assert_eq!(refused, Some(told), "{entries} entries, {bytes} bytes");
            tokio::time::advance(Duration::from_secs(told.1 - 1)).await;
            assert_eq!(send(&rates, &name, &own, 1, 1), Some((told.0, 1)), "a second too early");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(send(&rates, &name, &own, 1, 1), None, "then it is");
        }
        assert_eq!(send(&rates, "other", &own, 1, 1), None, "each has its own");
    }

    #[tokio::test(start_paused = true)]
    async fn in_the_long_run_the_rate_holds_however_large_the_requests_are() {
        for size in [1, 7, 100, 10_000] {
            let rates = rates(LimitSettings::default());
            let own = limit(100, None, 200);
            let (mut entries, mut step) = (0, 0);
            while step < 1_000 * 100 {
                match send(&rates, "acme", &own, size, 1) {
                    None => entries += size,
                    Some(_) => {
                        tokio::time::advance(Duration::from_millis(10)).await;
                        step += 1;
                    }
                }
            }
            let most = 200 + 100 * 1_000 + size;
            assert!(
                entries <= most && entries + 2 * size >= 100 * 1_000,
                "{entries} of at most {most} in requests of {size}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_at_once_do_not_share_one_token_and_a_broken_one_costs_nothing() {
        let rates = rates(LimitSettings::default());
        let (acme, own) = (tenant("acme"), limit(3, 1_000, 3));
        let held: Vec<_> = (0..3).map(|_| rates.admit(&acme, Some(&own), 100).expect("a token for each")).collect();
        assert!(rates.admit(&acme, Some(&own), 100).is_err());
        drop(held);
        let large = rates.admit(&acme, Some(&own), 5_000).expect("all was given back");
        assert_eq!(rates.admit(&acme, Some(&own), 0).expect_err("announced").limit, Limit::Bytes);
        drop(large);
        let mut twice = rates.admit(&acme, Some(&own), 10).expect("nothing came of it");
        twice.bytes(10); // as received
        twice.bytes(1_000); // as decompressed
        drop(twice);
        let refused = rates.admit(&acme, Some(&own), 0).expect_err("what was received stays charged");
        assert_eq!((refused.limit, refused.per_second, refused.retry_after.as_secs()), (Limit::Bytes, 1_000, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_setting_holds_at_once() {
        let rates = rates(LimitSettings::default());
        let slow = limit(1, None, 1);
        assert_eq!(send(&rates, "acme", &slow, 100, 1), None);
        assert_eq!(send(&rates, "acme", &slow, 1, 1), Some((Limit::Entries, 100)));
        assert_eq!(
            send(&rates, "acme", &limit(50, None, None), 1, 1),
            Some((Limit::Entries, 2)),
            "the debt is paid back faster"
        );
        let mut under_way = rates.admit(&tenant("globex"), Some(&slow), 1).expect("the first");
        assert_eq!(send(&rates, "globex", &limit(None, None, None), 1_000, 1), None);
        under_way.entries(1_000_000);
        drop(under_way);
        assert_eq!(send(&rates, "acme", &limit(None, None, None), 1_000, 1), None);
        assert!(rates.is_empty(), "without a limit nothing is kept");
        assert_eq!(send(&rates, "acme", &slow, 1, 1), None, "and a new one begins full");
    }

    #[test]
    fn rates_in_force_are_the_own_ones_or_the_defaults_or_the_lower_of_both() {
        let own = |own: Option<RateLimit>, ceiling| {
            let tenant = limit(100, 1_000, None);
            let rates = rates(LimitSettings {
                tenant,
                ceiling,
                ..LimitSettings::default()
            });
            let of = |rate: Option<Rate>| rate.map(|rate| (rate.tokens(), rate.burst()));
            let Rates { entries, bytes } = rates.in_force(own.as_ref());
            (of(entries), of(bytes))
        };
        assert_eq!(own(None, false), (Some((100, 100)), Some((1_000, 1_000))));
        assert_eq!(own(Some(limit(None, None, None)), false), (None, None));
        assert_eq!(own(Some(limit(500, None, 9)), false), (Some((500, 9)), None));
        assert_eq!(own(Some(limit(500, None, 9)), true), (Some((100, 9)), Some((1_000, 1_000))));
        assert_eq!(own(Some(limit(None, None, None)), true), own(None, false));
        assert_eq!(
            own(Some(limit(None, 5, 50)), false),
            (None, Some((5, 50))),
            "of bytes where only these are limited"
        );
        assert_eq!(own(Some(limit(10, 5, 50)), false), (Some((10, 50)), Some((5, 25))), "as many seconds of each");
        assert_eq!(own(Some(limit(10, 5, 1)), false), (Some((10, 1)), Some((5, 5))), "one at least");
        let most = u64::MAX;
        assert_eq!(own(Some(limit(1, most, most)), false), (Some((1, most)), Some((most, most))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_full_again_is_dropped() {
        let rates = rates(LimitSettings::default());
        let own = limit(10, 1_000, 10);
        assert_eq!(send(&rates, "in-debt", &own, 100_000, 1), None);
        for i in 0..20 * SWEEP_FROM {
            assert_eq!(send(&rates, &format!("t-{i}"), &own, 1, 1), None);
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!(rates.len() <= 2 * SWEEP_FROM, "{}", rates.len());
        assert!(send(&rates, "in-debt", &own, 1, 1).is_some(), "a debt is not forgotten");
    }
}
