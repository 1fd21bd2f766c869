//! The log's group commit against the bare disk: append + sync of one group's worth of packs, beside one `pwrite` +
//! `fdatasync` of the same bytes into a preallocated, zero-filled file. The ratio of the two is what the log costs; the table of
//! `make bench` has it.
//!
//! Run: `make bench ARGS="--bench wal"`; the folder is the one of temporary files (`TMPDIR=/some/disk` for another disk).

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice::{
    fs::{File, Fs, real::RealFs},
    queue::wal::{RecordKind, Wal, WalSettings},
};
use std::{
    hint::black_box,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Packs at once × bytes of each: one small request, 32 bulk requests, a full group.
const SHAPES: [(usize, usize); 3] = [(1, 800), (32, 80_000), (50, 80_000)];
const PROBE_BYTES: u64 = 64 << 20;

fn zeroed(path: &Path) -> Arc<dyn File> {
    let file = RealFs.create(path).expect("the folder is new");
    let zeros = vec![0; 1 << 20];
    for at in (0..PROBE_BYTES).step_by(zeros.len()) {
        file.write_at(&zeros, at).expect("the disk has room");
    }
    file.sync().expect("the disk syncs");
    file
}

fn group_commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("wal");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    for (packs, bytes) in SHAPES {
        let name = format!("{packs} × {bytes} bytes");
        let body = Bytes::from(vec![7; bytes]);
        group.throughput(Throughput::Bytes((packs * bytes) as u64));

        let dir = tempfile::tempdir().expect("a temporary folder");
        let probe = zeroed(&dir.path().join("probe"));
        let block = vec![7; (packs * bytes).next_multiple_of(4096)];
        group.bench_function(BenchmarkId::new("floor: write and fdatasync", &name), |b| {
            let mut at = 0;
            b.iter(|| {
                at = if at + 2 * block.len() as u64 > PROBE_BYTES {
                    0
                } else {
                    at + block.len() as u64
                };
                probe.write_at(black_box(&block), at).expect("the disk writes");
                probe.sync().expect("the disk syncs");
            });
        });

        let settings = WalSettings {
            reserve: Some(0),
            ..Default::default()
        };
        let (wal, _) = Wal::open(Arc::new(RealFs), dir.path().join("log"), settings, &mut |_, _, _| {}).expect("a new log opens");
        group.bench_function(BenchmarkId::new("append and group commit", &name), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let started = Instant::now();
                    let appends: Vec<_> = (0..packs as u64).map(|lane| wal.append(RecordKind::Pack, lane, None, body.clone())).collect();
                    let last = appends.into_iter().map(|append| append.wait().expect("the disk has room")).max();
                    spent += started.elapsed();
                    // Outside the clock: what a flush would allow to be deleted.
                    wal.trim(last.map_or(0, |at| at.segment.saturating_sub(2))).expect("the disk deletes");
                }
                spent
            });
        });
        wal.close();
    }
    group.finish();
}

criterion_group!(benches, group_commit);
criterion_main!(benches);
