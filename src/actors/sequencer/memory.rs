//! What the sequencer remembers besides heads: rows that the store does not show yet ([`Window`]), ids that a server-made
//! id could collide with ([`Recent`]), and packs that are decided ([`KnownPacks`]). All bounded; none of it is a guess:
//! where a memory does not reach back far enough, it says so, and the ledger is asked.

use crate::{
    model::{entry::ContentHash, tenant::TenantId},
    seal::DecidedSeal,
};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use uuid::Uuid;

/// The rows of one tenant by id.
pub type Rows = HashMap<Uuid, ContentHash>;

/// Bytes that one row of the window takes: 32 of data, its seat in the table, its share of the tenant's table, its id again.
const ROW_BYTES: usize = 112;

/// A new row of a seal. What the sequencer needs of it is read from its pack once: by then a pack has left the caches of the
/// core, and each look into it would wait for memory.
#[derive(Debug, Clone, Copy)]
pub struct NewRow {
    /// Place of its tenant in the seal.
    pub tenant: u32,
    /// Its id.
    pub id: Uuid,
    /// Hash of what the client sent.
    pub hash: ContentHash,
    /// Whether the client chose the id.
    pub client_id: bool,
}

/// The rows in runs of one tenant each.
fn by_tenant<'a>(seal: &'a DecidedSeal, rows: &'a [NewRow]) -> impl Iterator<Item = (&'a TenantId, &'a [NewRow])> {
    let runs = rows.chunk_by(|a, b| a.tenant == b.tenant);
    runs.map(|run| (&seal.seal.tenants[run[0].tenant as usize].tenant, run))
}

fn rows_of<'a>(tenants: &'a mut HashMap<TenantId, Rows>, tenant: &TenantId) -> &'a mut Rows {
    if !tenants.contains_key(tenant) {
        tenants.insert(tenant.clone(), Rows::default());
    }
    tenants.get_mut(tenant).expect("it was just made")
}

/// The new rows of a seal, in runs of one tenant each.
pub type SealRows = Vec<(TenantId, Vec<(Uuid, ContentHash)>)>;

/// The ids of a seal's new rows, in runs of one tenant each.
type SealIds = Vec<(TenantId, Vec<Uuid>)>;

/// Rows of seals that are durable and that the store does not show yet.
#[derive(Debug, Default)]
pub struct Window {
    tenants: HashMap<TenantId, Rows>,
    seals: VecDeque<(u64, SealIds)>,
    rows: usize,
}

impl Window {
    /// Adds the new rows of a seal that has just become durable.
    pub fn add(&mut self, seal: &DecidedSeal, rows: &[NewRow]) {
        let mut ids = Vec::new();
        for (tenant, run) in by_tenant(seal, rows) {
            rows_of(&mut self.tenants, tenant).extend(run.iter().map(|row| (row.id, row.hash)));
            ids.push((tenant.clone(), run.iter().map(|row| row.id).collect()));
        }
        self.rows += rows.len();
        self.seals.push_back((seal.seal.n, ids));
    }

    /// Adds the new rows of a seal of the last owner.
    pub fn add_rows(&mut self, n: u64, rows: SealRows) {
        let mut ids = Vec::new();
        for (tenant, rows) in rows {
            self.rows += rows.len();
            ids.push((tenant.clone(), rows.iter().map(|(id, _)| *id).collect()));
            rows_of(&mut self.tenants, &tenant).extend(rows);
        }
        self.seals.push_back((n, ids));
    }

    /// The rows of `tenant`.
    pub fn tenant(&self, tenant: &TenantId) -> Option<&Rows> {
        self.tenants.get(tenant)
    }

    /// The store shows every seal up to `n`: their rows are found in the ledger from now on.
    pub fn applied(&mut self, n: u64) {
        while let Some((_, ids)) = self.seals.pop_front_if(|(seal, _)| *seal <= n) {
            for (tenant, ids) in ids {
                self.rows -= ids.len();
                if let Some(rows) = self.tenants.get_mut(&tenant) {
                    for id in ids {
                        rows.remove(&id);
                    }
                    if rows.is_empty() {
                        self.tenants.remove(&tenant);
                    }
                }
            }
        }
    }

    /// Bytes in memory, about. The packs themselves are accounted for by the queue of the follower.
    pub fn bytes(&self) -> usize {
        self.rows * ROW_BYTES
    }
}

/// Clocks of one machine may jump this much between the making of an id and a seal, and clocks of two may differ by it, milliseconds;
/// unless the configuration says otherwise.
pub const SKEW_MS: i64 = 60_000;
/// How many ids one generation holds at most: 8 MiB.
const GENERATION_IDS: usize = 1 << 17;

/// Client-made ids of the last minutes that a server could have made: UUIDv7 that carry a recent millisecond.
///
/// Why: a server-made id is looked up in the ledger only if it is old, for it was made by us a moment ago. But the client
/// may have been told the id (504) and resent it itself, as *its* id, and that pack may be decided before the first one.
/// Such a repeat was sealed after the millisecond that the id carries; it is in here unless [`Recent::covers`] says no.
#[derive(Debug)]
pub struct Recent {
    generations: [Generation; 2],
    latest: i64,
    skew: i64,
    /// When rows of a tenant were last erased, as long as it matters: ids sealed before that are not remembered.
    erased: HashMap<TenantId, i64>,
}

#[derive(Debug, Default)]
struct Generation {
    since: i64,
    ids: usize,
    tenants: HashMap<TenantId, Rows>,
}

impl Recent {
    /// Empty: it covers ids made from `now` on.
    pub fn new(now: i64) -> Self {
        let generation = || Generation {
            since: now,
            ..Generation::default()
        };
        Self {
            generations: [generation(), generation()],
            latest: now,
            skew: SKEW_MS,
            erased: HashMap::new(),
        }
    }

    /// Clocks may differ by this, milliseconds. Before anything is added.
    pub fn set_skew(&mut self, skew: i64) {
        self.skew = skew;
    }

    /// How long one generation grows, milliseconds.
    fn generation_ms(&self) -> i64 {
        2 * self.skew
    }

    /// Adds the client-made ids among the new rows of a seal that has just become durable.
    pub fn add(&mut self, seal: &DecidedSeal, rows: &[NewRow]) {
        let now = seal.seal.sealed_at.max(self.latest);
        self.latest = now;
        let generation_ms = self.generation_ms();
        if now - self.generations[0].since >= generation_ms || self.generations[0].ids >= GENERATION_IDS {
            self.generations.swap(0, 1);
            self.generations[0] = Generation {
                since: now,
                ..Generation::default()
            };
            let since = self.generations[1].since;
            self.erased.retain(|_, at| *at > since);
        }
        let current = &mut self.generations[0];
        let is_recent = |row: &&NewRow| row.client_id && made_at(row.id).is_some_and(|ms| ms >= now - generation_ms);
        for (tenant, run) in by_tenant(seal, rows) {
            let mut recent = run.iter().filter(is_recent).peekable();
            if recent.peek().is_some() {
                let rows = rows_of(&mut current.tenants, tenant);
                let before = rows.len();
                rows.extend(recent.map(|row| (row.id, row.hash)));
                current.ids += rows.len() - before;
            }
        }
    }

    /// Rows of `tenant` are erased at `now`: which of its ids are still taken, only the ledger knows.
    pub fn erased(&mut self, tenant: &TenantId, now: i64) {
        for generation in &mut self.generations {
            generation.ids -= generation.tenants.remove(tenant).map_or(0, |rows| rows.len());
        }
        self.latest = self.latest.max(now);
        self.erased.insert(tenant.clone(), self.latest);
    }

    /// The recent rows of `tenant`.
    pub fn tenant(&self, tenant: &TenantId) -> [Option<&Rows>; 2] {
        [&self.generations[0], &self.generations[1]].map(|generation| generation.tenants.get(tenant))
    }

    /// Whether a server-made id of `tenant` that is not in here (nor in the window) is certainly new: everything sealed since
    /// the millisecond it carries, minus skew, is remembered. After a step of the clock, or in the first minute after a start
    /// or an erasure, it is not.
    pub fn covers(&self, tenant: &TenantId, id: Uuid, now: i64) -> bool {
        let now = now.max(self.latest);
        let since = self
            .erased
            .get(tenant)
            .map_or(self.generations[1].since, |at| (*at).max(self.generations[1].since));
        made_at(id).is_some_and(|ms| ms - self.skew >= since && (now - self.skew..=now + self.skew).contains(&ms))
    }
}

/// The millisecond that a UUIDv7 carries.
pub(super) fn made_at(id: Uuid) -> Option<i64> {
    (id.get_version_num() == 7).then(|| (id.as_u128() >> 80) as i64)
}

/// How many packs a memory remembers that can ask a ledger for older ones: about 40 MiB.
const MOST_KNOWN: usize = 1 << 19;

/// Packs that a seal has decided, by the last segment that holds them. A pack of a trimmed segment cannot be delivered
/// again, so it is forgotten with its segment.
///
/// Where packs come from another process they may come again at any time, and a segment is a seal. Then the memory has a beginning
/// ([`KnownPacks::since`]): a pack received later, and not known, is new; for an earlier one the ledger must be asked. What the ledger
/// has may be forgotten, oldest first, and moves the beginning.
#[derive(Debug, Default)]
pub struct KnownPacks {
    ids: HashSet<Uuid>,
    by_segment: BTreeMap<u64, Run>,
    /// Seals that are not read, and not made by us, were made before this.
    begin: Option<i64>,
    skew: i64,
}

/// Packs of one segment.
#[derive(Debug, Default)]
struct Run {
    ids: Vec<Uuid>,
    /// When the last of them was sealed.
    sealed_at: i64,
}

impl FromIterator<(Uuid, u64)> for KnownPacks {
    /// From the decided packs found in the log, and the last segment that holds each.
    fn from_iter<T: IntoIterator<Item = (Uuid, u64)>>(packs: T) -> Self {
        let mut known = Self::default();
        for (id, segment) in packs {
            known.add(id, segment);
        }
        known
    }
}

impl KnownPacks {
    /// A memory that begins at `begin`: before the seals were read. Clocks differ by at most `skew`; both milliseconds.
    pub fn since(begin: i64, skew: i64) -> Self {
        Self {
            begin: Some(begin),
            skew,
            ..Self::default()
        }
    }

    /// Whether it has a beginning.
    pub fn begins_somewhere(&self) -> bool {
        self.begin.is_some()
    }

    /// Remembers a decided pack; `segment` is the largest that holds it.
    pub fn add(&mut self, id: Uuid, segment: u64) {
        self.add_at(id, segment, 0);
    }

    /// Remembers a pack, or an order, that seal `n` decided.
    pub fn add_sealed(&mut self, id: Uuid, n: u64, sealed_at: i64) {
        self.add_at(id, n, sealed_at);
    }

    /// Remembers a decided pack, and when it was sealed.
    pub fn add_at(&mut self, id: Uuid, segment: u64, sealed_at: i64) {
        if self.ids.insert(id) {
            let run = self.by_segment.entry(segment).or_default();
            run.ids.push(id);
            run.sealed_at = run.sealed_at.max(sealed_at);
        }
    }

    /// Whether the pack is decided, as far as this memory goes.
    pub fn contains(&self, id: Uuid) -> bool {
        self.ids.contains(&id)
    }

    /// Whether a pack that was received then may have been decided by a seal that is not remembered.
    pub fn is_uncertain(&self, id: Uuid, received_at: i64) -> bool {
        self.begin.is_some_and(|begin| received_at < begin.saturating_add(self.skew)) && !self.contains(id)
    }

    /// The ledger has the packs of every seal up to `n`: they may be forgotten.
    pub fn applied(&mut self, n: u64) {
        let Some(begin) = &mut self.begin else { return };
        while self.ids.len() > MOST_KNOWN && self.by_segment.first_key_value().is_some_and(|(seal, _)| *seal <= n) {
            let Some((_, run)) = self.by_segment.pop_first() else { break };
            *begin = (*begin).max(run.sealed_at);
            for id in &run.ids {
                self.ids.remove(id);
            }
        }
    }

    /// Every segment below `segment` is gone.
    pub fn trimmed(&mut self, segment: u64) {
        while let Some((_, run)) = self
            .by_segment
            .first_key_value()
            .is_some_and(|(s, _)| *s < segment)
            .then(|| self.by_segment.pop_first())
            .flatten()
        {
            for id in run.ids {
                self.ids.remove(&id);
            }
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::pack::tests::pack_of,
        seal::{Decision, Seal, SealPack, SealTenant},
    };
    use smallvec::SmallVec;
    use std::sync::Arc;

    /// A UUIDv7 of this millisecond.
    fn made(ms: i64, n: u128) -> Uuid {
        Uuid::from_u128((ms as u128) << 80 | 7 << 76 | 2 << 62 | n)
    }

    fn remembers(recent: &Recent, tenant: &TenantId, id: Uuid) -> bool {
        recent.tenant(tenant).into_iter().flatten().any(|rows| rows.contains_key(&id))
    }

    /// A seal of new client-made entries, and its rows.
    fn sealed(at: i64, ids: &[Uuid]) -> (DecidedSeal, Vec<NewRow>) {
        let row = |id: &Uuid| NewRow {
            tenant: 0,
            id: *id,
            hash: 1,
            client_id: true,
        };
        let rows = ids.iter().map(row).collect();
        let ids: Vec<u128> = ids.iter().map(Uuid::as_u128).collect();
        let pack = Arc::new(pack_of("a", &ids));
        let tenant = SealTenant {
            tenant: pack.tenant().clone(),
            head: ids.len() as u64,
            void: None,
            stored: ids.len() as u64,
            duplicate: 0,
            dead_lettered: 0,
            accepted: ids.len() as u64,
            bytes: 1,
        };
        let decided = SealPack {
            pack_id: pack.id(),
            tenant: 0,
            positions: SmallVec::new(),
            decisions: vec![Decision::New; ids.len()],
            refusal: None,
            first_sequence: 1,
        };
        let seal = Seal {
            n: 1,
            previous_crc: 0,
            owner: Uuid::nil(),
            sealed_at: at,
            chain_break: false,
            tenants: vec![tenant],
            packs: vec![decided],
            erasures: Vec::new(),
            removed: Vec::new(),
            retired: Vec::new(),
            sources: Vec::new(),
        };
        let seal = DecidedSeal {
            seal,
            crc: 0,
            packs: vec![pack],
            encoded_len: 0,
        };
        (seal, rows)
    }

    #[test]
    fn a_server_made_id_is_certain_only_within_the_skew_and_the_memory() {
        const START: i64 = 1_700_000_000_000;
        let (recent, tenant) = (Recent::new(START), TenantId::parse("a").expect("a tenant"));
        let now = START + 10 * SKEW_MS;
        for (made_at, certain) in [
            (now, true),
            (now - SKEW_MS, true),
            (now - SKEW_MS - 1, false), // older: another process may have sealed it before this memory's ids
            (now + SKEW_MS, true),
            (now + SKEW_MS + 1, false), // newer: a clock has stepped
        ] {
            assert_eq!(recent.covers(&tenant, made(made_at, 1), now), certain, "{} ms from now", made_at - now);
        }
        // In the first minute the memory does not reach back by the skew.
        assert!(!recent.covers(&tenant, made(START + SKEW_MS - 1, 1), START + SKEW_MS - 1));
        assert!(recent.covers(&tenant, made(START + SKEW_MS, 1), START + SKEW_MS));
        assert!(!recent.covers(&tenant, Uuid::from_u128(5), now), "no UUIDv7");
    }

    #[test]
    fn an_id_that_was_resent_by_its_client_is_remembered_as_long_as_it_counts() {
        const START: i64 = 1_700_000_000_000;
        let (mut recent, tenant) = (Recent::new(START), TenantId::parse("a").expect("a tenant"));
        let mut now = START + SKEW_MS;
        // Seals go on for ten generations: what is not remembered must not be certain.
        let mut ids = Vec::new();
        while now < START + 20 * SKEW_MS {
            let id = made(now, now as u128 & 0xffff);
            let (seal, rows) = sealed(now, &[id]);
            recent.add(&seal, &rows);
            ids.push(id);
            for id in &ids {
                assert!(
                    remembers(&recent, &tenant, *id) || !recent.covers(&tenant, *id, now),
                    "forgotten and taken for new at {now}"
                );
            }
            now += 7_000;
        }
        let remembered = ids.iter().filter(|id| remembers(&recent, &tenant, **id)).count();
        assert!(remembered < ids.len() / 2, "old ids are forgotten");
        let other = TenantId::parse("b").expect("a tenant");
        assert!(!remembers(&recent, &other, ids[ids.len() - 1]), "another tenant's");
    }

    #[test]
    fn after_an_erasure_only_the_ledger_knows_which_ids_are_taken() {
        const START: i64 = 1_700_000_000_000;
        let [a, b] = ["a", "b"].map(|name| TenantId::parse(name).expect("a tenant"));
        let (mut recent, now) = (Recent::new(START), START + 4 * SKEW_MS);
        let (before, later) = (made(now, 1), made(now + 2 * SKEW_MS, 2));
        let (seal, rows) = sealed(now, &[before]);
        recent.add(&seal, &rows);
        recent.erased(&a, now + 1);
        assert!(!remembers(&recent, &a, before) && recent.generations[0].ids == 0, "its row may be gone");
        assert!(!recent.covers(&a, before, now + 1), "and it may be there");
        assert!(recent.covers(&b, before, now + 1), "other tenants are as they were");
        assert!(recent.covers(&a, later, now + 2 * SKEW_MS), "what is sealed from now on is remembered");
        for k in 1..4 {
            let (seal, rows) = sealed(now + 2 * k * SKEW_MS, &[Uuid::from_u128(k as u128)]);
            recent.add(&seal, &rows);
        }
        assert!(recent.erased.is_empty(), "the erasure is older than the memory");
    }

    #[test]
    fn a_known_pack_is_forgotten_with_its_last_segment_and_not_before() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut known: KnownPacks = [(one, 3), (two, 5)].into_iter().collect();
        known.trimmed(3);
        assert!(known.contains(one) && known.contains(two));
        known.trimmed(4);
        assert!(!known.contains(one) && known.contains(two));
        assert_eq!(known.len(), 1);
    }
}
