//! When requests are due and whose they are: arrival processes, and tenants by Zipf's law.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use serde::Deserialize;
use std::{os::fd::OwnedFd, time::Duration};
use tokio::{io::unix::AsyncFd, sync::Mutex, time::Instant};

/// How requests of a fixed rate are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// As those of many clients who know nothing of each other: exponential gaps.
    #[default]
    Poisson,
    /// One after the other in equal steps.
    Even,
}

/// The times of requests since a start, without end.
pub struct Schedule {
    arrivals: Arrivals,
    /// Seconds.
    gap: f64,
    made: u64,
    at: f64,
    rng: StdRng,
}

impl Schedule {
    /// Of so many requests a second. The same seed gives the same times.
    pub fn new(arrivals: Arrivals, rate: f64, seed: u64) -> Self {
        Self {
            arrivals,
            gap: 1.0 / rate,
            made: 0,
            at: 0.0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// The next one.
    pub fn next(&mut self) -> Duration {
        self.made += 1;
        self.at = match self.arrivals {
            Arrivals::Even => self.gap * self.made as f64,
            // 1 - u is in (0, 1], whose logarithm is finite.
            Arrivals::Poisson => self.at - self.gap * (1.0 - self.rng.random::<f64>()).ln(),
        };
        Duration::from_secs_f64(self.at)
    }
}

/// Numbers below `n`, the k-th in proportion to 1 / k^exponent; with 0 each as often as any other.
pub struct Zipf(Vec<f64>);

impl Zipf {
    /// Prepares the table of sums.
    pub fn new(n: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=n).map(|k| {
            sum += (k as f64).powf(-exponent);
            sum
        });
        Self(sums.collect())
    }

    /// One of them.
    pub fn pick(&self, rng: &mut StdRng) -> usize {
        let all = self.0.last().copied().unwrap_or(0.0);
        let at = rng.random::<f64>() * all;
        self.0.partition_point(|sum| *sum <= at).min(self.0.len().saturating_sub(1))
    }
}

/// Tells many connections when the next request is due.
pub enum Pace {
    /// At fixed times, whatever became of those before: an open loop.
    Open(Box<Mutex<Open>>),
    /// As soon as a connection has its answer, until then: a closed loop.
    Closed(Instant),
}

/// The next time and what waits for it.
pub struct Open {
    schedule: Schedule,
    start: Instant,
    end: Instant,
    /// As precise as the kernel's timers are; those of tokio are late by up to a millisecond, which is longer than an acknowledgement.
    timer: AsyncFd<OwnedFd>,
}

impl Pace {
    /// Requests that are due between `start` and `end`.
    pub fn open(schedule: Schedule, start: Instant, end: Instant) -> anyhow::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[allow(
            deprecated,
            reason = "what comes after it is `unsafe` because `T` may lie about its handle, which an `OwnedFd` does not"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self::Open(Box::new(Mutex::new(Open { schedule, start, end, timer }))))
    }

    /// Waits for the next request and says when it was due; `None` when there are no more. Those that wait are served in turn, so all
    /// connections are used alike. When all of them are busy, a request waits, and what it waits is part of its latency.
    pub async fn next(&self) -> anyhow::Result<Option<Instant>> {
        match self {
            Self::Closed(end) => Ok(Some(Instant::now()).filter(|now| now < end)),
            Self::Open(open) => {
                let mut open = open.lock().await;
                let due = open.start + open.schedule.next();
                if due >= open.end {
                    return Ok(None);
                }
                open.wait(due).await?;
                Ok(Some(due))
            }
        }
    }

    /// How many requests were due and nobody asked for, which ends it.
    pub async fn unsent(&self) -> u64 {
        let Self::Open(open) = self else { return 0 };
        let mut open = open.lock().await;
        let mut unsent = 0;
        while open.start + open.schedule.next() < open.end {
            unsent += 1;
        }
        unsent
    }
}

impl Open {
    async fn wait(&self, due: Instant) -> anyhow::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec {
            it_interval: zero,
            it_value: Timespec::try_from(left)?,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.timer.readable().await?;
            let rung = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?));
            if let Ok(rung) = rung {
                rung?;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(arrivals: Arrivals, n: usize) -> Vec<f64> {
        let mut schedule = Schedule::new(arrivals, 1_000.0, 7);
        (0..n).map(|_| schedule.next().as_secs_f64()).collect()
    }

    #[test]
    fn even_arrivals_come_in_equal_steps() {
        for (i, at) in times(Arrivals::Even, 100_000).into_iter().enumerate() {
            assert!((at - (i + 1) as f64 / 1_000.0).abs() < 1e-8, "{i}: {at}");
        }
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_independent_clients() {
        let at = times(Arrivals::Poisson, 100_000);
        assert_eq!(at, times(Arrivals::Poisson, 100_000), "the same seed gives the same times");
        let gaps: Vec<f64> = at.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(gaps.iter().all(|gap| *gap >= 0.0));
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 1_000.0 - 1.0).abs() < 0.02, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "exponential gaps spread as far as they are long");
    }

    #[test]
    fn zipf_gives_the_first_what_its_law_says() {
        let (zipf, mut rng, mut counts) = (Zipf::new(1_000, 1.0), StdRng::seed_from_u64(3), vec![0u32; 1_000]);
        for _ in 0..200_000 {
            counts[zipf.pick(&mut rng)] += 1;
        }
        let all: f64 = (1..=1_000).map(|k| 1.0 / f64::from(k)).sum();
        for k in [1usize, 2, 10] {
            let expected = 200_000.0 / k as f64 / all;
            assert!(
                (f64::from(counts[k - 1]) / expected - 1.0).abs() < 0.1,
                "{k}: {} instead of {expected}",
                counts[k - 1]
            );
        }
        assert!(counts[900..].iter().sum::<u32>() > 0, "the last come too");
        let (even, mut seen) = (Zipf::new(4, 0.0), [0u32; 4]);
        (0..40_000).for_each(|_| seen[even.pick(&mut rng)] += 1);
        assert!(seen.iter().all(|n| (9_000..11_000).contains(n)), "{seen:?}");
        assert_eq!(Zipf::new(1, 1.2).pick(&mut rng), 0);
    }

    #[tokio::test]
    async fn an_open_loop_is_due_by_the_clock_and_not_by_the_answers() {
        let start = Instant::now();
        let pace = Pace::open(Schedule::new(Arrivals::Even, 200.0, 1), start, start + Duration::from_millis(101)).expect("a timer");
        let first = pace.next().await.expect("a time").expect("one");
        assert!(Instant::now() >= first);
        // An answer that takes long: what was due meanwhile keeps its time.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let asked = Instant::now();
        let mut due = vec![first];
        while let Some(next) = pace.next().await.expect("a time") {
            due.push(next);
        }
        assert_eq!(due.len(), 20);
        assert!(due[1] < asked - Duration::from_millis(30), "the second was due long before it was asked for");
        for (i, due) in due.iter().enumerate() {
            assert_eq!((*due - start).as_micros() as usize, 5_000 * (i + 1));
        }
        assert_eq!(pace.unsent().await, 0);
    }

    #[tokio::test]
    async fn what_was_due_and_nobody_sent_is_counted() {
        let start = Instant::now();
        let pace = Pace::open(Schedule::new(Arrivals::Even, 1_000.0, 1), start - Duration::from_secs(1), start).expect("a timer");
        assert!(pace.next().await.expect("a time").is_some());
        assert_eq!(pace.unsent().await, 998);
        assert!(pace.next().await.expect("a time").is_none());
    }
}
