//! What the last run left, read back: the store's manifest and parts, then the log on top of it.

use crate::{
    actors::sequencer::{Start as SequencerStart, core::Gap, memory::KnownPacks},
    catalog::Catalog,
    config::Settings,
    error::AppError,
    fs::Fs,
    http::health::{Damage, Health},
    model::tenant,
    queue::{
        Position,
        embedded::{Recovered, book, recover_keeping},
        wal::{self, Wal, WalSettings},
    },
    seal::{FoundSeal, state::SealState},
    sinks::embedded::{EmbeddedStore, StoreDamage, StoreSettings},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::sync::watch;

/// A store in the data folder and the log, where the last run ended.
pub struct Opened {
    pub store: EmbeddedStore,
    pub log: Log,
}

/// The log where the last run ended.
pub struct Log {
    pub wal: Wal,
    pub book: book::Start,
    pub sequencer: SequencerStart,
    /// Seals that another store may lack, and where they stand.
    pub later: Vec<FoundSeal>,
    pub places: BTreeMap<u64, Position>,
    /// Seals up to this one are not in the log any more.
    pub floor: u64,
}

/// What a store says the log goes on from.
struct From {
    checkpoint: SealState,
    /// Seals above it are applied again.
    rebuild_from: u64,
    /// Something of the store's state is lost.
    lost: bool,
    /// Another store may lack seals above this one.
    keep_above: u64,
}

/// Opens store and log, and reports every damage found to health and log. `keep_above`: another store may lack the seals above it.
pub async fn open(
    fs: Arc<dyn Fs>,
    settings: &Settings,
    catalog: &Catalog,
    dead_letters_settled: watch::Receiver<u64>,
    health: &Health,
    keep_above: u64,
) -> Result<Opened, AppError> {
    let volume = volume(&fs, settings)?;
    let (data_dir, store_settings, wal_settings) = (settings.data_dir.clone(), store_settings(settings, volume), wal_settings(settings));
    let read = tokio::task::spawn_blocking(move || {
        let (store, opened) = EmbeddedStore::open(fs.clone(), data_dir.clone(), store_settings, dead_letters_settled).map_err(AppError::failed)?;
        let (wal, checkpoint) = (data_dir.join("wal"), opened.checkpoint.clone());
        let recovered = recover_keeping(fs, wal, wal_settings, checkpoint, opened.rebuild_from, keep_above).map_err(AppError::failed)?;
        Ok::<_, AppError>((store, opened, recovered))
    });
    let (store, opened, recovered) = read.await.map_err(AppError::failed)??;
    for damage in &opened.damage {
        report(health, store_damage(damage));
    }
    report_log(health, &recovered);
    if opened.lost && recovered.folded.missing.is_some() {
        return Err(AppError::failed(
            "no manifest can be read and the log no longer holds every seal, so numbers could be given out twice; restore the folder `manifest` from a backup",
        ));
    }
    if opened.damage.is_empty() && recovered.report.damage.is_empty() {
        let orphans = store.remove_orphans();
        tracing::debug!(orphans, "files that no manifest names were removed");
    }
    store.expect(recovered.folded.start.state.n);
    let from = From {
        checkpoint: opened.checkpoint,
        rebuild_from: opened.rebuild_from,
        lost: opened.lost,
        keep_above,
    };
    Ok(Opened {
        store,
        log: log(recovered, from, catalog),
    })
}

/// Opens the log before a store of its own, as of `checkpoint`, which is 0 and empty at the first start.
pub async fn open_log(
    fs: Arc<dyn Fs>,
    settings: &Settings,
    catalog: &Catalog,
    health: &Health,
    checkpoint: SealState,
    keep_above: u64,
) -> Result<Log, AppError> {
    volume(&fs, settings)?;
    let (dir, wal_settings, start) = (settings.data_dir.join("wal"), wal_settings(settings), checkpoint.clone());
    let n = checkpoint.n;
    let read = tokio::task::spawn_blocking(move || recover_keeping(fs, dir, wal_settings, start, n, keep_above));
    let recovered = read.await.map_err(AppError::failed)?.map_err(AppError::failed)?;
    report_log(health, &recovered);
    if let Some((first, last)) = recovered.folded.missing {
        return Err(AppError::failed(format!(
            "the log no longer holds the seals {first} to {last}, and the checkpoint in `objects.url` is older: numbers could be given out twice; restore the \
             objects, or begin with an empty data folder and an empty database"
        )));
    }
    let from = From {
        rebuild_from: checkpoint.n,
        checkpoint,
        lost: false,
        keep_above,
    };
    Ok(log(recovered, from, catalog))
}

fn volume(fs: &Arc<dyn Fs>, settings: &Settings) -> Result<u64, AppError> {
    let volume = fs
        .space(&settings.data_dir)
        .map_err(|e| AppError::cannot_start(format!("the data folder's volume cannot be asked for its room: {e}")))?;
    Ok(volume.total)
}

fn log(recovered: Recovered, from: From, catalog: &Catalog) -> Log {
    let folded = recovered.folded;
    let gap = (recovered.seal_may_be_lost || from.lost).then(|| Gap {
        largest_seal_named: recovered.largest_seal_named,
        complete_upto: folded.complete_upto,
        tenants: catalog
            .list()
            .iter()
            .map(|t| t.tenant_id.clone())
            .chain(catalog.retired().into_iter().map(|t| t.tenant_id))
            .flat_map(|id| [tenant::Log::Audit, tenant::Log::Access].map(|log| log.of(&id)))
            .chain(folded.start.undecided.iter().map(|p| p.tenant.clone()))
            .collect::<BTreeSet<_>>(),
    });
    let mut known = KnownPacks::default();
    for (pack, segment) in folded.decided {
        known.add(pack, segment);
    }
    let later: Vec<_> = folded.seals.iter().filter(|found| found.seal.n > from.keep_above).cloned().collect();
    let replay: Vec<_> = folded.seals.into_iter().filter(|found| found.seal.n > from.rebuild_from).collect();
    tracing::info!(
        seal = folded.start.state.n,
        checkpoint = from.checkpoint.n,
        to_apply = replay.len(),
        undecided = folded.start.undecided.len(),
        segments = recovered.report.segments,
        torn_bytes = recovered.report.torn_bytes,
        "the log was read"
    );
    Log {
        wal: recovered.wal,
        sequencer: SequencerStart {
            state: folded.start.state.clone(),
            known,
            gap,
            replay,
            window: None,
        },
        floor: folded.first.map_or(folded.start.state.n, |first| first - 1),
        book: folded.start,
        later,
        places: folded.places,
    }
}

/// Tells health and log.
pub fn report(health: &Health, damage: Damage) {
    tracing::error!(what = %damage.what, name = %damage.name, bytes = ?damage.bytes, seals = ?damage.seals, count = ?damage.count, "damage: {}", damage.message);
    health.report_damage(damage);
}

/// As health shows it.
pub fn store_damage(damage: &StoreDamage) -> Damage {
    let what = if damage.file.starts_with("manifest") { "manifest" } else { "part" };
    let suffix = if damage.rebuilt { "; the log has all of it" } else { "" };
    Damage {
        what: what.into(),
        name: damage.file.clone(),
        bytes: None,
        seals: damage.seals,
        count: damage.rows,
        message: format!("{}{suffix}", damage.what),
    }
}

fn report_log(health: &Health, recovered: &Recovered) {
    for damage in &recovered.report.damage {
        let bytes = (damage.range.start, damage.range.end.max(damage.range.start + 1) - 1);
        report(
            health,
            Damage {
                what: "segment".into(),
                name: damage.segment.to_string(),
                bytes: Some(bytes),
                seals: None,
                count: Some(damage.range.end - damage.range.start),
                message: format!("{}; what is valid around it was kept", damage.kind),
            },
        );
    }
    for discarded in &recovered.report.discarded {
        tracing::warn!(segment = discarded.segment, bytes = ?discarded.range, "a write that nobody was told of was cut short and is dropped");
    }
    for broken in &recovered.folded.breaks {
        let seals = Some((broken.last + 1, broken.found.saturating_sub(1).max(broken.last + 1)));
        report(
            health,
            Damage {
                what: "seals".into(),
                name: "log".into(),
                bytes: None,
                seals,
                count: None,
                message: "seals are missing; their packs are decided again, under numbers after a gap".into(),
            },
        );
    }
    for bad in &recovered.folded.bad {
        let at = u64::from(bad.at.offset);
        report(
            health,
            Damage {
                what: "record".into(),
                name: bad.at.segment.to_string(),
                bytes: Some((at, at)),
                seals: None,
                count: None,
                message: bad.why.clone(),
            },
        );
    }
    if let Some(seals) = recovered.folded.missing {
        report(
            health,
            Damage {
                what: "seals".into(),
                name: "log".into(),
                bytes: None,
                seals: Some(seals),
                count: None,
                message: "the store needs these seals and the log no longer has them".into(),
            },
        );
    }
}

/// However small the volume or its reserve, merges write parts of up to this many bytes.
const SMALLEST_PART: u64 = 1 << 20;

/// On a small volume the log is flushed, and so trimmed, before it fills the volume: what is flushed takes a few times less.
fn store_settings(settings: &Settings, volume: u64) -> StoreSettings {
    let (s, usual) = (&settings.store, StoreSettings::default());
    let reserve = wal::reserve(volume, settings.disk.reserve);
    StoreSettings {
        flush_log_bytes: usual.flush_log_bytes.min(volume / 8),
        reserve,
        // A merge needs room for what it writes before it can free what it read.
        part_bytes: usual.part_bytes.min(reserve / 4).max(SMALLEST_PART),
        memtable_bytes: s.memtable_bytes,
        flush_after: s.flush_after,
        queries: s.queries,
        queries_of_tenant: s.queries_of_tenant,
        query_timeout: s.query_timeout,
        ..usual
    }
}

fn wal_settings(settings: &Settings) -> WalSettings {
    WalSettings {
        segment_bytes: settings.wal.segment_bytes,
        group_bytes: settings.wal.group_bytes,
        reserve: settings.disk.reserve,
        ..WalSettings::default()
    }
}
