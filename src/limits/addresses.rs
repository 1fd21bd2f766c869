//! How often an address may fail to say who it is.
//!
//! Each try takes a token before anything is computed for it, and gives it back when it was a good one. An address is an IPv4
//! address, or the 64 bits of an IPv6 address that its owner cannot choose freely. It is the socket's peer: behind a proxy all
//! clients are one address, so who has a credential that is known already must be let through without a try.
//!
//! Memory is bounded: addresses live in two generations, of which the older is dropped when the newer is full or as old as a
//! bucket takes to fill. Whoever has more addresses than that has more tries too; against such a crowd no limit by address helps.

use super::bucket::{Bucket, Rate};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Addresses of a generation: some 100 bytes each.
const GENERATION: usize = 32_768;

/// An address as far as it is told apart: the upper half of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Address {
    V4(u32),
    V6(u64),
}

impl Address {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((Ipv6Addr::to_bits(v6) >> 64) as u64),
        }
    }
}

/// The buckets of all addresses.
#[derive(Debug)]
pub struct Addresses {
    rate: Option<Rate>,
    /// A bucket that nobody touches is full after this time.
    fills_in: Duration,
    state: Mutex<Generations>,
}

#[derive(Debug)]
struct Generations {
    newer: HashMap<Address, Bucket>,
    older: HashMap<Address, Bucket>,
    /// When `newer` began.
    since: Instant,
}

impl Addresses {
    /// So many failures in a minute, at most `burst` at once; no limit if `per_minute` is 0.
    pub fn new(per_minute: u64, burst: u64) -> Self {
        let rate = (per_minute > 0).then(|| Rate::per_minute(per_minute, burst));
        let fills_in = rate.map_or(0.0, |rate| rate.burst() as f64 * 60.0 / rate.tokens() as f64);
        Self {
            rate,
            // A day is longer than anybody's patience, and no sum of it overflows.
            fills_in: Duration::from_secs_f64(fills_in.clamp(1.0, 86_400.0)),
            state: Mutex::new(Generations {
                newer: HashMap::new(),
                older: HashMap::new(),
                since: Instant::now(),
            }),
        }
    }

    /// Takes a token for a try; or says after how many whole seconds there is one again.
    pub fn attempt(&self, address: IpAddr) -> Result<Attempt<'_>, Duration> {
        let Some(rate) = self.rate else {
            return Ok(Attempt {
                addresses: self,
                address: None,
            });
        };
        let (address, now) = (Address::of(address), Instant::now());
        let mut state = self.state();
        let bucket = state.bucket(address, rate, self.fills_in, now);
        match bucket.retry_after(now) {
            Some(after) => Err(after),
            None => {
                bucket.charge(1, now);
                Ok(Attempt {
                    addresses: self,
                    address: Some(address),
                })
            }
        }
    }

    /// How many addresses have a bucket.
    pub fn len(&self) -> usize {
        let state = self.state();
        state.newer.len() + state.older.len()
    }

    /// Whether nobody has failed lately.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn state(&self) -> MutexGuard<'_, Generations> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn bucket(&mut self, address: Address, rate: Rate, fills_in: Duration, now: Instant) -> &mut Bucket {
        // What was not touched for a whole generation is full, unless the generation was cut short by a crowd.
        if self.newer.len() >= GENERATION || now.saturating_duration_since(self.since) >= fills_in {
            self.older = std::mem::take(&mut self.newer);
            self.since = now;
        }
        let older = &mut self.older;
        let known = || older.remove(&address).unwrap_or_else(|| Bucket::full(rate, now));
        self.newer.entry(address).or_insert_with(known)
    }
}

/// A try. It has cost a token, unless it turns out to be [`Attempt::good`].
#[derive(Debug)]
#[must_use]
pub struct Attempt<'a> {
    addresses: &'a Addresses,
    /// `None`: there is no limit.
    address: Option<Address>,
}

impl Attempt<'_> {
    /// It was a good one: it costs nothing.
    pub fn good(self) {
        let Some(address) = self.address else { return };
        let (mut state, now) = (self.addresses.state(), Instant::now());
        let Generations { newer, older, .. } = &mut *state;
        for generation in [newer, older] {
            if let Some(bucket) = generation.get_mut(&address) {
                bucket.give_back(1, now);
                if bucket.is_full(now) {
                    generation.remove(&address);
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// A failed try: how long to wait, if it was refused.
    fn fail(addresses: &Addresses, from: &str) -> Option<u64> {
        addresses.attempt(address(from)).err().map(|after| after.as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_fails_so_often_and_is_told_truly_when_to_come_back() {
        let addresses = Addresses::new(6, 3);
        for _ in 0..3 {
            assert_eq!(fail(&addresses, "192.0.2.1"), None);
        }
        assert_eq!(fail(&addresses, "192.0.2.1"), Some(10));
        assert_eq!(fail(&addresses, "::ffff:192.0.2.1"), Some(10), "the same one");
        assert_eq!(fail(&addresses, "192.0.2.2"), None);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(fail(&addresses, "192.0.2.1"), Some(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((fail(&addresses, "192.0.2.1"), fail(&addresses, "192.0.2.1")), (None, Some(10)));
        let unlimited = Addresses::new(0, 5);
        assert!((0..1_000).all(|_| fail(&unlimited, "192.0.2.1").is_none()) && unlimited.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_is_one_address() {
        let addresses = Addresses::new(60, 2);
        assert_eq!(fail(&addresses, "2001:db8:0:1::1"), None);
        assert_eq!(fail(&addresses, "2001:db8:0:1:ffff::7"), None);
        assert_eq!(fail(&addresses, "2001:db8:0:1:1:2:3:4"), Some(1));
        assert_eq!(fail(&addresses, "2001:db8:0:2::1"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_good_costs_nothing_and_leaves_nothing() {
        let addresses = Addresses::new(60, 2);
        for _ in 0..10 {
            addresses.attempt(address("192.0.2.1")).expect("it never fails").good();
        }
        assert!(addresses.is_empty());
        assert_eq!(fail(&addresses, "192.0.2.1"), None);
        addresses.attempt(address("192.0.2.1")).expect("one is left").good();
        assert_eq!((fail(&addresses, "192.0.2.1"), fail(&addresses, "192.0.2.1")), (None, Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn tries_at_once_are_no_more_than_tokens() {
        let addresses = Addresses::new(60, 2);
        let both = [(); 2].map(|()| addresses.attempt(address("192.0.2.1")).expect("a token"));
        assert_eq!(fail(&addresses, "192.0.2.1"), Some(1));
        for attempt in both {
            attempt.good();
        }
        assert_eq!(fail(&addresses, "192.0.2.1"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_nobody_is_forgiven_by_waiting_less_than_it_takes() {
        let addresses = Addresses::new(60, 60);
        for _ in 0..60 {
            assert_eq!(fail(&addresses, "2001:db8::1"), None);
        }
        for _ in 0..119 {
            tokio::time::advance(Duration::from_millis(500)).await;
            let _ = fail(&addresses, "192.0.2.1"); // lets generations pass
        }
        let left = (0..60).take_while(|_| fail(&addresses, "2001:db8::1").is_none()).count();
        assert_eq!(left, 59, "as many tokens as seconds, and no fresh bucket");
        for i in 0..5 * GENERATION as u32 {
            let crowd = IpAddr::from(std::net::Ipv4Addr::from_bits(i));
            assert!(addresses.attempt(crowd).is_ok());
        }
        assert!(addresses.len() <= 2 * GENERATION, "{}", addresses.len());
    }
}
