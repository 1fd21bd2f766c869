//! Quantiles, and the raw probe that figures are compared with.

use std::{
    io,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

/// Latencies of one kind of request.
#[derive(Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn push(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The q-quantile in milliseconds; 0 without samples.
    pub fn quantile(&mut self, q: f64) -> f64 {
        self.0.sort_unstable();
        let at = ((self.0.len() as f64 * q) as usize).min(self.0.len().saturating_sub(1));
        self.0.get(at).map_or(0.0, |d| d.as_secs_f64() * 1e3)
    }
}

/// Median of writing `bytes` into preallocated space and `fdatasync`, in milliseconds, on the server's own volume.
pub fn raw_sync_p50(folder: &Path, bytes: usize) -> io::Result<f64> {
    const TIMES: usize = 200;
    let path = folder.join("raw-sync-probe");
    let file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let step = bytes.next_multiple_of(4096);
    file.write_all_at(&vec![0; step * TIMES], 0)?;
    file.sync_all()?;
    let (block, mut latencies) = (vec![7; step], Latencies::default());
    for i in 0..TIMES {
        let started = Instant::now();
        file.write_all_at(&block, (i * step) as u64)?;
        file.sync_data()?;
        latencies.push(started.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(latencies.quantile(0.5))
}
