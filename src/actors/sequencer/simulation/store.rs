//! The store of the simulation: parts, memtable and manifests as lists, with the real erasures.
//!
//! Flush and compaction take two steps each: what they write is made from the view of the first, and committed in the second
//! on top of the newest manifest. Both drop rows whose erasure is settled by then; every read hides what is erased.

use super::Mistake;
use crate::{
    fs::sim::Dice,
    model::{entry::ContentHash, tenant::TenantId},
    seal::{DecidedSeal, erasure::Erasures, state::SealState},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};
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

impl Row {
    /// The new rows of a seal.
    pub fn all_of(seal: &DecidedSeal) -> Vec<Self> {
        let row = |entry: crate::seal::DecidedEntry<'_>| {
            Some(Self {
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

    pub fn is<T>(&self, erasures: &HashMap<TenantId, Arc<Erasures>>, what: impl Fn(&Erasures, i64, i64, u64) -> T) -> Option<T> {
        let erasures = erasures.get(&self.tenant)?;
        Some(what(erasures, self.timestamp, self.received_at, self.sequence))
    }
}

/// What a flush or a compaction makes durable.
#[derive(Clone, Default)]
pub struct Manifest {
    pub state: SealState,
    pub parts: Vec<Vec<Row>>,
}

pub type Manifests = [Manifest; 2];

/// What is lost in a crash.
pub struct Store {
    /// The seals that the manifest does not cover, and their rows.
    memory: BTreeMap<u64, (Arc<DecidedSeal>, Vec<Row>)>,
    erasures: HashMap<TenantId, Arc<Erasures>>,
    retired: HashSet<TenantId>,
    pub applied: u64,
    flushing: Option<(u64, Vec<Row>)>,
    compacting: Option<(usize, Vec<Row>, Vec<Vec<Row>>)>,
    mistake: Option<Mistake>,
}

impl Store {
    pub fn open(manifest: &Manifest, mistake: Option<Mistake>) -> Self {
        Self {
            memory: BTreeMap::new(),
            erasures: manifest.state.erasures.clone(),
            retired: manifest.state.retired.clone(),
            applied: manifest.state.n,
            flushing: None,
            compacting: None,
            mistake,
        }
    }

    fn plants(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// As of the last seal applied.
    pub fn erasures(&self) -> &HashMap<TenantId, Arc<Erasures>> {
        &self.erasures
    }

    /// Likewise.
    pub fn retired(&self) -> &HashSet<TenantId> {
        &self.retired
    }

    /// Every row that is not gone, erased or not; oldest first.
    fn all<'a>(&'a self, disk: &'a Manifests) -> impl Iterator<Item = &'a Row> {
        let flushed = disk[1].state.n;
        let in_memory = self.memory.range(flushed + 1..).flat_map(|(_, (_, rows))| rows);
        disk[1].parts.iter().flatten().chain(in_memory)
    }

    /// What a query sees.
    pub fn rows<'a>(&'a self, disk: &'a Manifests) -> impl Iterator<Item = &'a Row> {
        let hides = |row: &&Row| row.is(&self.erasures, Erasures::covers) != Some(true);
        self.all(disk).filter(move |row| self.plants(Mistake::NoStaircase) || hides(row))
    }

    /// The ledger.
    pub fn find(&self, disk: &Manifests, tenant: &TenantId, id: Uuid) -> Option<ContentHash> {
        let is = |row: &&Row| row.tenant == *tenant && row.id == id;
        if self.plants(Mistake::LedgerStopsAtFirst) {
            let first = self.all(disk).find(is)?;
            return (first.is(&self.erasures, Erasures::covers) != Some(true)).then_some(first.hash);
        }
        self.rows(disk).find(is).map(|row| row.hash)
    }

    /// How many rows a pending erasure removed.
    pub fn count_erased(&self, disk: &Manifests, tenant: &TenantId, job: Uuid) -> u64 {
        let own = self.all(disk).filter(|row| row.tenant == *tenant);
        let counts = |erasures: &Erasures, t, r, s| match self.mistake {
            Some(Mistake::CountWhatOthersErased) => erasures.pending().iter().any(|e| e.job == job && e.covers(t, r, s)),
            _ => erasures.counted_by(job, t, r, s),
        };
        own.filter(|row| row.is(&self.erasures, counts) == Some(true)).count() as u64
    }

    /// Applies a seal, or applies it again.
    pub fn apply(&mut self, disk: &mut Manifests, seal: &Arc<DecidedSeal>) {
        for made in &seal.seal.erasures {
            let tenant = &seal.seal.tenants[made.tenant as usize].tenant;
            let mut erasure = made.erasure;
            if self.plants(Mistake::ErasureTouchesLaterRows) {
                erasure.head = u64::MAX;
            }
            Arc::make_mut(self.erasures.entry(tenant.clone()).or_default()).add(&erasure);
        }
        self.retired.extend(seal.seal.retires().cloned());
        for result in &seal.seal.removed {
            let tenant = &seal.seal.tenants[result.tenant as usize].tenant;
            Arc::make_mut(self.erasures.entry(tenant.clone()).or_default()).settle(result.job);
        }
        if self.plants(Mistake::NoStaircase) {
            // Rows are taken away where they are now, once.
            let gone = |row: &Row| row.is(&self.erasures, Erasures::settled_covers) == Some(true);
            disk[1].parts.iter_mut().for_each(|part| part.retain(|row| !gone(row)));
            self.memory.values_mut().for_each(|(_, rows)| rows.retain(|row| !gone(row)));
        }
        self.memory.insert(seal.seal.n, (seal.clone(), Row::all_of(seal)));
        self.applied = seal.seal.n;
    }

    /// Whether the bytes of a row must be kept.
    fn keeps(&self, row: &Row) -> bool {
        let gone = match self.mistake {
            Some(Mistake::DropPending) => row.is(&self.erasures, Erasures::covers),
            _ => row.is(&self.erasures, Erasures::settled_covers),
        };
        gone != Some(true)
    }

    /// Begins a flush, or commits the one that was begun.
    pub fn flush(&mut self, disk: &mut Manifests, dice: &mut Dice) {
        match self.flushing.take() {
            None => {
                let flushed = disk[1].state.n;
                let waiting: Vec<u64> = self.memory.range(flushed + 1..).map(|(n, _)| *n).collect();
                if !waiting.is_empty() {
                    let upto = waiting[dice.below(waiting.len() as u64) as usize];
                    let rows = self.memory.range(flushed + 1..=upto).flat_map(|(_, (_, rows))| rows);
                    let part = rows.filter(|row| self.keeps(row)).cloned().collect();
                    self.flushing = Some((upto, part));
                }
            }
            Some((upto, part)) => {
                let mut next = disk[1].clone();
                for (_, (seal, _)) in self.memory.range(..=upto) {
                    next.state.fold(&seal.seal, seal.crc);
                }
                if self.plants(Mistake::ForgetErasures) {
                    next.state.erasures.clone_from(&disk[1].state.erasures);
                }
                if self.plants(Mistake::ForgetRetired) {
                    next.state.retired.clone_from(&disk[1].state.retired);
                }
                next.parts.push(part);
                *disk = [disk[1].clone(), next];
                self.memory.retain(|n, _| *n > upto);
            }
        }
    }

    /// Begins to merge a part with its neighbour, or commits that.
    pub fn compact(&mut self, disk: &mut Manifests, dice: &mut Dice) {
        match self.compacting.take() {
            None if disk[1].parts.len() > 1 => {
                let at = dice.below(disk[1].parts.len() as u64 - 1) as usize;
                let merged = disk[1].parts[at..at + 2].iter().flatten();
                let merged = merged.filter(|row| self.keeps(row)).cloned().collect();
                self.compacting = Some((at, merged, disk[1].parts.clone()));
            }
            None => (),
            Some((at, merged, began_with)) => {
                // Flushes only add parts behind, so the place is still the same.
                let mut next = disk[1].clone();
                if self.plants(Mistake::StaleManifest) {
                    next.parts = began_with;
                }
                next.parts.splice(at..at + 2, [merged]);
                *disk = [disk[1].clone(), next];
            }
        }
    }

    /// Tenants with an erasure that waits for its number: the first of each.
    pub fn pending(&self) -> BTreeSet<(TenantId, Uuid)> {
        let first = |(tenant, all): (&TenantId, &Arc<Erasures>)| Some((tenant.clone(), all.pending().first()?.job));
        self.erasures.iter().filter_map(first).collect()
    }
}
