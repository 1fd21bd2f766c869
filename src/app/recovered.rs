//! What the last run left, read back: the store's manifest and parts, then the log on top of it.

use crate::{
    actors::sequencer::{Start as SequencerStart, core::Gap, memory::KnownPacks},
    catalog::Catalog,
    config::Settings,
    error::AppError,
    fs::Fs,
    http::health::{Damage, Health},
    model::tenant::Log,
    queue::{
        embedded::{Recovered, book, recover},
        wal::{self, Wal, WalSettings},
    },
    sinks::embedded::{EmbeddedStore, StoreDamage, StoreSettings},
};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::watch;

/// Everything that goes on where the last run ended.
pub struct Opened {
    pub store: EmbeddedStore,
    pub wal: Wal,
    pub book: book::Start,
    pub sequencer: SequencerStart,
}

/// Opens store and log, and reports every damage found to health and log.
pub async fn open(
    fs: Arc<dyn Fs>,
    settings: &Settings,
    catalog: &Catalog,
    dead_letters_settled: watch::Receiver<u64>,
    health: &Health,
) -> Result<Opened, AppError> {
    let volume = fs
        .space(&settings.data_dir)
        .map_err(|e| AppError::cannot_start(format!("the data folder's volume cannot be asked for its room: {e}")))?;
    let (data_dir, store_settings, wal_settings) = (settings.data_dir.clone(), store_settings(settings, volume.total), wal_settings(settings));
    let read = tokio::task::spawn_blocking(move || {
        let (store, opened) = EmbeddedStore::open(fs.clone(), data_dir.clone(), store_settings, dead_letters_settled).map_err(AppError::failed)?;
        let recovered = recover(fs, data_dir.join("wal"), wal_settings, opened.checkpoint.clone(), opened.rebuild_from).map_err(AppError::failed)?;
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

    let folded = recovered.folded;
    store.expect(folded.start.state.n);
    let gap = (recovered.seal_may_be_lost || opened.lost).then(|| Gap {
        largest_seal_named: recovered.largest_seal_named,
        complete_upto: folded.complete_upto,
        tenants: catalog
            .list()
            .iter()
            .map(|t| t.tenant_id.clone())
            .chain(catalog.retired().into_iter().map(|t| t.tenant_id))
            .flat_map(|id| [Log::Audit, Log::Access].map(|log| log.of(&id)))
            .chain(folded.start.undecided.iter().map(|p| p.tenant.clone()))
            .collect::<BTreeSet<_>>(),
    });
    let mut known = KnownPacks::default();
    for (pack, segment) in folded.decided {
        known.add(pack, segment);
    }
    tracing::info!(
        seal = folded.start.state.n,
        to_apply = folded.seals.len(),
        undecided = folded.start.undecided.len(),
        segments = recovered.report.segments,
        torn_bytes = recovered.report.torn_bytes,
        "the log was read"
    );
    Ok(Opened {
        store,
        wal: recovered.wal,
        sequencer: SequencerStart {
            state: folded.start.state.clone(),
            known,
            gap,
            replay: folded.seals,
            window: None,
        },
        book: folded.start,
    })
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
