//! Quantiles, and the raw probe that figures are compared with.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
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

/// Writes `bytes` into preallocated space and calls `fdatasync`, on the server's own volume, twenty times a second until
/// `stop` hangs up: what an acknowledgement costs at least, while the machine does what it does. The median in milliseconds.
fn raw_sync_p50(folder: &Path, bytes: usize, stop: &Receiver<()>) -> io::Result<f64> {
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
        if stop.recv_timeout(Duration::from_millis(50)) != Err(RecvTimeoutError::Timeout) {
            break;
        }
        let started = Instant::now();
        file.write_all_at(&block, i % PLACES * step as u64)?;
        file.sync_data()?;
        latencies.push(started.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(latencies.quantile(0.5))
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

/// The probe on a thread of its own.
pub struct RawSync {
    stop: Sender<()>,
    thread: JoinHandle<io::Result<f64>>,
}

impl RawSync {
    pub fn start(folder: &Path, bytes: usize) -> Self {
        let ((stop, stopped), folder) = (channel(), folder.to_owned());
        Self {
            stop,
            thread: std::thread::spawn(move || raw_sync_p50(&folder, bytes, &stopped)),
        }
    }

    /// Ends it; the median in milliseconds.
    pub fn finish(self) -> anyhow::Result<f64> {
        drop(self.stop);
        let done = self.thread.join().map_err(|_| anyhow::anyhow!("the probe panicked"))?;
        Ok(done?)
    }
}
