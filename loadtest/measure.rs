//! Latencies, and the raw probes that figures are compared with.

use hdrhistogram::Histogram;
use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Latencies of one kind of request: three digits, from a microsecond to ten minutes.
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are right"))
    }
}

impl Latencies {
    pub fn push(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros().clamp(1, u128::from(u64::MAX)) as u64);
    }

    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the bounds are the same");
    }

    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// The q-quantile in milliseconds, the largest for 1; 0 without samples.
    pub fn quantile(&self, q: f64) -> f64 {
        if self.0.is_empty() {
            return 0.0;
        }
        self.0.value_at_quantile(q) as f64 / 1e3
    }
}

/// Writes `bytes` into preallocated space and calls `fdatasync`, on the server's own volume, forty times a second until
/// `stop` hangs up: what an acknowledgement costs at least, while the machine does what it does.
fn raw_syncs(folder: &Path, bytes: usize, stop: &Receiver<()>) -> io::Result<Latencies> {
    const PLACES: u64 = 64;
    let path = folder.join("raw-sync-probe");
    let file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let step = bytes.next_multiple_of(4096);
    for place in 0..PLACES {
        file.write_all_at(&vec![0; step], place * step as u64)?;
    }
    file.sync_all()?;
    let (block, mut latencies) = (vec![7; step], Latencies::default());
    for i in 0.. {
        if stop.recv_timeout(Duration::from_millis(25)) != Err(RecvTimeoutError::Timeout) {
            break;
        }
        let started = Instant::now();
        file.write_all_at(&block, i % PLACES * step as u64)?;
        file.sync_data()?;
        latencies.push(started.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(latencies)
}

/// The probe on a thread of its own.
pub struct RawSync {
    stop: Sender<()>,
    thread: JoinHandle<io::Result<Latencies>>,
}

impl RawSync {
    pub fn start(folder: &Path, bytes: usize) -> Self {
        let ((stop, stopped), folder) = (channel(), folder.to_owned());
        Self {
            stop,
            thread: std::thread::spawn(move || raw_syncs(&folder, bytes, &stopped)),
        }
    }

    /// Ends it.
    pub fn finish(self) -> anyhow::Result<Latencies> {
        drop(self.stop);
        let done = self.thread.join().map_err(|_| anyhow::anyhow!("the probe panicked"))?;
        Ok(done?)
    }
}

/// What the machine itself does, measured after a run: copying memory, and a loopback round trip of one byte.
pub fn raw() -> anyhow::Result<String> {
    const COPIES: usize = 32;
    let (from, mut to) = (vec![1u8; 64 << 20], vec![2u8; 64 << 20]);
    let started = Instant::now();
    for _ in 0..COPIES {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&to);
    }
    let copied = (COPIES * from.len()) as f64 / started.elapsed().as_secs_f64() / 1e9;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut ours = TcpStream::connect(listener.local_addr()?)?;
    let (mut theirs, _) = listener.accept()?;
    for socket in [&ours, &theirs] {
        socket.set_nodelay(true)?;
    }
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        while theirs.read_exact(&mut byte).and_then(|()| theirs.write_all(&byte)).is_ok() {}
    });
    let mut trips = Latencies::default();
    for _ in 0..2_000 {
        let started = Instant::now();
        ours.write_all(&[7])?;
        ours.read_exact(&mut [0])?;
        trips.push(started.elapsed());
    }
    drop(ours);
    echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))?;
    let trip = trips.quantile(0.5) * 1e3;
    Ok(format!("raw: memcpy_gb/s={copied:.1} loopback_echo_p50_us={trip:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), 0.0);
        (1..=1_000).for_each(|ms| latencies.push(Duration::from_millis(ms)));
        for (q, ms) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1_000.0)] {
            let seen = latencies.quantile(q);
            assert!((seen / ms - 1.0).abs() < 0.002, "{q}: {seen} instead of {ms}");
        }
        let mut longer = Latencies::default();
        longer.push(Duration::from_secs(3_600));
        latencies.merge(&longer);
        assert_eq!(latencies.len(), 1_001);
        assert!(
            (latencies.quantile(1.0) / 600_000.0 - 1.0).abs() < 0.01,
            "what is off the scale counts as its end"
        );
    }

    #[test]
    fn a_stall_is_in_the_latency_of_all_that_were_due_in_it() {
        // 1,000 requests a second for ten seconds, each answered at once, but for a second in which nothing is: a closed loop would see one slow
        // answer in 9,000. By the times they were due, a tenth of all waited, the first of them for a second.
        let mut latencies = Latencies::default();
        for due in 0..10_000u64 {
            let answered = if (4_000..5_000).contains(&due) { 5_000 } else { due };
            latencies.push(Duration::from_millis(answered - due));
        }
        assert!(latencies.quantile(0.89) < 1.0);
        assert!((latencies.quantile(0.95) - 500.0).abs() < 5.0, "{}", latencies.quantile(0.95));
        assert!((latencies.quantile(1.0) - 1_000.0).abs() < 5.0);
    }

    #[test]
    fn the_raw_sync_is_measured_until_it_is_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let probe = RawSync::start(folder.path(), 5_000);
        while !folder.path().join("raw-sync-probe").exists() {
            std::thread::yield_now();
        }
        probe.finish().expect("it ends");
        assert!(!folder.path().join("raw-sync-probe").exists(), "it leaves nothing behind");
    }
}
