//! Reads the whole store and holds it against itself: `sluice verify-store`.
//!
//! Checked are both manifests, every byte of every part and sidecar, the order of rows, the id index, and for each tenant that
//! the numbers 1 to its head, as of the newest manifest, are each once a row, a void, or erased; and so that rows and
//! counters agree. Of a tenant that was deleted no row may be left that is not erased. Seals that are not flushed yet are in the log and are no matter of the store.

use super::{
    manifest::{self, Chosen, Manifest},
    part::{Part, data_file},
};
use crate::{fs::Fs, model::tenant::TenantId, sinks::StoreError};
use std::{collections::BTreeMap, path::Path};

/// What [`verify`] found.
#[derive(Debug, Default)]
pub struct Verified {
    /// The newest manifest, and the last seal that it covers.
    pub manifest: u64,
    /// The last seal that is flushed.
    pub flushed: u64,
    /// Parts that the newest manifest names.
    pub parts: usize,
    /// Their rows, those that are erased and still there included.
    pub rows: u64,
    /// Rows among them that are erased and may go.
    pub erased_rows: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Tenants that the manifest knows.
    pub tenants: usize,
    /// Tenants among them that were deleted.
    pub deleted: usize,
    /// What is wrong, one line each. Names tenants.
    pub faults: Vec<String>,
}

/// One tenant's rows, of all parts.
#[derive(Default)]
struct Numbers {
    /// Numbers of rows that are there, erased or not.
    present: Vec<u64>,
    /// Rows that are not erased, or whose erasure is not counted yet.
    kept: u64,
    /// Rows that a read would show.
    shown: u64,
}

/// Reads everything below the data folder `dir`, which nobody else uses. Changes nothing. Blocks for long; holds eight bytes for
/// each row. Damage is no error: see [`Verified::faults`].
pub fn verify(fs: &dyn Fs, dir: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Verified, StoreError> {
    let io = |e: std::io::Error| StoreError::Io(e.to_string().into());
    let Chosen {
        current,
        previous,
        unreadable,
        lost,
        ..
    } = manifest::choose(fs, &dir.join("manifest")).map_err(io)?;
    let mut found = Verified {
        manifest: current.number,
        flushed: current.flushed,
        parts: current.parts.len(),
        tenants: current.tenants.keys().filter(|tenant| !tenant.is_access_log()).count(),
        deleted: current.tenants.iter().filter(|(tenant, t)| t.retired && !tenant.is_access_log()).count(),
        ..Verified::default()
    };
    for bad in unreadable {
        found.faults.push(format!("manifest/{:020}: {}", bad.number, bad.reason));
    }
    if lost {
        found.faults.push("there were manifests, and none can be read".into());
    }
    let mut tenants: BTreeMap<TenantId, Numbers> = BTreeMap::new();
    for (i, meta) in current.parts.iter().enumerate() {
        progress(i, current.parts.len());
        found.rows += meta.rows;
        found.bytes += meta.bytes + meta.sidecar_bytes;
        let read = Part::open(fs, &dir.join("parts"), meta.clone()).and_then(|part| {
            part.verify()?;
            part.verify_rows(&mut |tenant, row| {
                let erasures = current.tenants.get(tenant).map(|t| &t.erasures);
                let is_hidden = erasures.is_some_and(|all| all.covers(row.timestamp, row.received_at, row.sequence));
                let is_gone = erasures.is_some_and(|all| all.settled_covers(row.timestamp, row.received_at, row.sequence));
                // A tenant's rows follow each other, so it is nearly always there.
                if !tenants.contains_key(tenant) {
                    tenants.insert(tenant.clone(), Numbers::default());
                }
                if let Some(numbers) = tenants.get_mut(tenant) {
                    numbers.present.push(row.sequence);
                    numbers.kept += u64::from(!is_gone);
                    numbers.shown += u64::from(!is_hidden);
                }
                found.erased_rows += u64::from(is_gone);
            })
        });
        if let Err(error) = read {
            found.faults.push(format!("parts/{}: {error}", data_file(&meta.name)));
        }
    }
    for name in previous
        .iter()
        .flat_map(|p| &p.parts)
        .filter(|old| !current.parts.iter().any(|p| p.name == old.name))
    {
        if let Err(error) = Part::open(fs, &dir.join("parts"), name.clone()) {
            found.faults.push(format!("parts/{} (of the manifest before): {error}", data_file(&name.name)));
        }
    }
    count(&current, tenants, &mut found.faults);
    Ok(found)
}

/// That each tenant's numbers are all accounted for.
fn count(manifest: &Manifest, mut tenants: BTreeMap<TenantId, Numbers>, faults: &mut Vec<String>) {
    for (tenant, entry) in &manifest.tenants {
        let Numbers { mut present, kept, shown } = tenants.remove(tenant).unwrap_or_default();
        let state = &entry.state;
        present.sort_unstable();
        if let Some(twice) = present.windows(2).find(|pair| pair[0] == pair[1]) {
            faults.push(format!("tenant `{tenant}`: number {} is there twice", twice[0]));
        }
        if let Some(last) = present.last().filter(|last| **last > state.head) {
            faults.push(format!("tenant `{tenant}`: number {last} is beyond its head {}", state.head));
        }
        if entry.retired && shown > 0 {
            faults.push(format!("tenant `{tenant}`: it was deleted, and {shown} of its rows are not erased"));
        }
        let is_void = |n: &u64| entry.voids.iter().any(|void| (void.0..=void.1).contains(n));
        if let Some(void) = present.iter().find(|n| is_void(n)) {
            faults.push(format!("tenant `{tenant}`: number {void} is a row and a void"));
        }
        let voids: u64 = entry.voids.iter().map(|void| void.1 - void.0 + 1).sum();
        if kept + state.erased + voids != state.head {
            faults.push(format!(
                "tenant `{tenant}`: {kept} rows, {} erased and {voids} void numbers do not make up its head {}",
                state.erased, state.head
            ));
        }
        if kept + state.erased != state.stored {
            faults.push(format!(
                "tenant `{tenant}`: {kept} rows and {} erased are not the {} that it has stored",
                state.erased, state.stored
            ));
        }
        if state.accepted != state.stored + state.duplicate + state.dead_lettered {
            faults.push(format!(
                "tenant `{tenant}`: {} accepted, but {} stored, {} duplicate and {} dead-lettered",
                state.accepted, state.stored, state.duplicate, state.dead_lettered
            ));
        }
    }
    for tenant in tenants.keys() {
        faults.push(format!("tenant `{tenant}`: it has rows, and the manifest does not know it"));
    }
}
