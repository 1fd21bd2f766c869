//! A store of the simulation: rows, ids, pack names and erasures; every write may come again, and much later.

use super::Mistake;
use crate::{
    model::{entry::ContentHash, tenant::TenantId},
    seal::{DecidedEntry, DecidedSeal, erasure::Erasures},
};
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;

/// An entry that has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub tenant: TenantId,
    pub id: Uuid,
    pub hash: ContentHash,
    pub sequence: u64,
    pub timestamp: i64,
    pub received_at: i64,
}

/// The new rows of a seal.
pub fn rows_of(seal: &DecidedSeal) -> Vec<Row> {
    let row = |entry: DecidedEntry<'_>| {
        Some(Row {
            tenant: entry.pack.tenant().clone(),
            id: entry.entry.id(),
            hash: entry.entry.hash(),
            sequence: entry.sequence?,
            timestamp: entry.entry.timestamp(),
            received_at: entry.pack.header().received_at,
        })
    };
    seal.entries().filter_map(row).collect()
}

/// See the module.
#[derive(Default)]
pub struct Store {
    pub rows: BTreeMap<(TenantId, u64), Row>,
    pub packs: HashSet<Uuid>,
    pub erasures: HashMap<TenantId, Erasures>,
    /// It has every seal up to here.
    pub applied: u64,
}

impl Store {
    fn is<T>(&self, row: &Row, what: impl Fn(&Erasures, i64, i64, u64) -> T) -> Option<T> {
        let erasures = self.erasures.get(&row.tenant)?;
        Some(what(erasures, row.timestamp, row.received_at, row.sequence))
    }

    /// What a query sees.
    pub fn visible(&self, mistake: Option<Mistake>) -> Vec<&Row> {
        let hidden = |row: &&Row| mistake != Some(Mistake::NoStaircase) && self.is(row, Erasures::covers) == Some(true);
        self.rows.values().filter(|row| !hidden(row)).collect()
    }

    /// The ledger: an id belongs to its row, and the staircase applies to it too.
    pub fn find(&self, tenant: &TenantId, id: Uuid) -> Option<ContentHash> {
        let is = |row: &&Row| row.tenant == *tenant && row.id == id && self.is(row, Erasures::covers) != Some(true);
        self.rows.values().find(is).map(|row| row.hash)
    }

    /// How many rows a pending erasure removed.
    pub fn count_erased(&self, tenant: &TenantId, job: Uuid) -> u64 {
        let counts = |erasures: &Erasures, t, r, s| erasures.counted_by(job, t, r, s);
        let own = self.rows.values().filter(|row| row.tenant == *tenant);
        own.filter(|row| self.is(row, counts) == Some(true)).count() as u64
    }

    /// One row arrives. `false` when another one has its number.
    pub fn insert(&mut self, row: &Row) -> bool {
        let key = (row.tenant.clone(), row.sequence);
        self.rows.entry(key).or_insert_with(|| row.clone()) == row
    }

    /// The rest of a seal.
    pub fn record(&mut self, seal: &DecidedSeal) {
        let seal = &seal.seal;
        self.packs.extend(seal.packs.iter().map(|pack| pack.pack_id));
        self.packs.extend(seal.erasures.iter().map(|made| made.erasure.job));
        if seal.n <= self.applied {
            return; // erasures are recorded for ever, and once
        }
        for made in &seal.erasures {
            let tenant = &seal.tenants[made.tenant as usize].tenant;
            self.erasures.entry(tenant.clone()).or_default().add(&made.erasure);
        }
        for result in &seal.removed {
            let tenant = &seal.tenants[result.tenant as usize].tenant;
            self.erasures.entry(tenant.clone()).or_default().settle(result.job);
        }
        self.applied = seal.n;
    }

    /// Deletes some of the rows that may go.
    pub fn purge(&mut self, mut chance: impl FnMut() -> bool) {
        let gone: Vec<_> = self
            .rows
            .values()
            .filter(|row| self.is(row, Erasures::settled_covers) == Some(true))
            .cloned()
            .collect();
        for row in gone {
            if chance() {
                self.rows.remove(&(row.tenant, row.sequence));
            }
        }
    }
}
