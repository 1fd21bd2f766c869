//! A segment of the log with bytes of it overwritten, read as a start reads it.

/// [`crate::queue::wal`]'s recovery and what the queue makes of it.
pub mod log {
    use super::super::formats::records;
    use crate::{
        fs::sim::SimFs,
        queue::{
            embedded::recovery::Fold,
            wal::{self, RecordKind, Wal, WalSettings},
        },
        seal::state::SealState,
    };
    use std::{
        path::Path,
        sync::{Arc, LazyLock},
    };

    const DIR: &str = "/wal";
    const SEGMENT: &str = "/wal/00000000000000000001.seg";

    /// A segment that holds two packs and two seals.
    static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let (fs, settings) = (
            SimFs::new(),
            WalSettings {
                segment_bytes: 1 << 20,
                group_bytes: 64 << 10,
                reserve: Some(0),
                min_ordinal: 0,
            },
        );
        let (wal, _) = Wal::open(Arc::new(fs.clone()), DIR.into(), settings, &mut |_, _, _| {}).expect("an empty disk");
        let [pack, seal] = records();
        for n in 1..=2 {
            let written = wal.append(RecordKind::Pack, 0, None, pack.clone()).wait();
            written.expect("there is room");
            let written = wal.append(RecordKind::Seal, 0, Some(n), seal.clone()).wait();
            written.expect("there is room");
        }
        wal.close();
        fs.bytes(Path::new(SEGMENT))
    });

    /// Three bytes at a time: where, and what stands there then.
    pub fn run(data: &[u8]) {
        let mut bytes = WHOLE.clone();
        for edit in data.chunks_exact(3) {
            let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % bytes.len();
            bytes[at] = edit[2];
        }
        let same = bytes == *WHOLE;
        let fs = SimFs::new();
        fs.set_bytes(Path::new(SEGMENT), &bytes);
        let (mut fold, mut found) = (Fold::new(SealState::default(), 0), 0);
        let read = wal::look(&fs, Path::new(DIR), &mut |at, kind, body| {
            found += 1;
            match kind {
                RecordKind::Pack => fold.pack(at, body),
                RecordKind::Seal => fold.seal(at, body),
            }
        });
        let _ = fold.finish();
        assert!(!same || read.is_ok() && found == 4, "{found} records of a whole segment");
    }

    pub fn examples() -> Vec<Vec<u8>> {
        let header = [0x00, 0x10, 0xff]; // of the first group
        vec![Vec::new(), header.to_vec(), [header, [0x60, 0x20, 0]].concat()]
    }
}
