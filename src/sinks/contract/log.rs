//! A log of random seals as a sequencer makes them, and the plain model that answers every question about it.

use crate::{
    fs::sim::Dice,
    model::{
        entry::{Field, NewEntry, Severity, StoredEntry},
        filter::{Filter, Surroundings},
        mask::Mask,
        pack::{Pack, PackBuilder, PackHeader},
        tenant::{TenantId, TenantScope},
    },
    seal::{
        DecidedSeal, Decision, Seal, SealErasure, SealPack, SealRemoved, SealTenant,
        erasure::{Erasure, ErasureKind},
    },
    sinks::{ListQuery, Sort},
};
use smallvec::smallvec;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use uuid::Uuid;

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant")
}

pub(crate) fn scope(name: &str) -> TenantScope {
    TenantScope::new(tenant(name))
}

pub(crate) const BASE: i64 = 1_700_000_000_000;
pub(crate) const ACTIONS: [&str; 5] = ["LOGIN", "login", "CREATE", "Delete", "ÄNDERN"];
pub(crate) const USERS: [&str; 7] = ["u0", "u1", "u2", "u3", "u4", "", "user with words"];

/// Makes packs and seals as the sequencer does, and keeps every seal, as a log does that is never trimmed.
pub(crate) struct Sequencer {
    pub(crate) dice: Dice,
    pub(crate) heads: HashMap<TenantId, u64>,
    pub(crate) crc: u32,
    pub(crate) log: Vec<Arc<DecidedSeal>>,
    pub(crate) next_id: u128,
    /// Ids from `next_id` on are sent with other contents, where it is not 0.
    pub(crate) salt: u128,
}

impl Sequencer {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            heads: HashMap::new(),
            crc: 0,
            log: Vec::new(),
            next_id: 1,
            salt: 0,
        }
    }

    pub(crate) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.dice.below(from.len() as u64) as usize]
    }

    /// A pack of random entries; ids ascend from `next_id`.
    pub(crate) fn pack(&mut self, tenant: &TenantId, len: usize) -> Arc<Pack> {
        let mut builder = PackBuilder::default();
        let now = BASE + self.log.len() as i64 * 1_000;
        for _ in 0..len {
            let d = &mut self.dice;
            let late = if d.chance(10) { d.below(50_000) as i64 } else { d.below(900) as i64 };
            let (word, number) = (d.below(40), d.below(12));
            let message = format!("word{word} of {number} in a message");
            let metadata = format!(r#"{{"n":{number},"deep":{{"list":["x{word}","y"]}},"ok":true}}"#);
            let ip = [10, 0, d.below(3) as u8, d.below(4) as u8];
            let (with_user, with_ip, with_metadata) = (d.chance(80), d.chance(50), d.chance(70));
            let severity = Severity::ALL[[0, 0, 0, 0, 1, 1, 2, 3][d.below(8) as usize]];
            let (action, user) = (self.pick(&ACTIONS), self.pick(&USERS));
            let (kind, agent) = (self.pick(&["doc", "Doc", "session"]), self.pick(&["curl/8 linux", "Mozilla linux"]));
            let resource = self.dice.below(30).to_string();
            let email = format!("{user}@example.org");
            let mut fields: [Option<Vec<u8>>; Field::COUNT] = Default::default();
            let mut set = |field: Field, text: &[u8]| fields[field as usize] = Some(text.to_vec());
            set(Field::Action, action.as_bytes());
            set(Field::ResourceType, kind.as_bytes());
            set(Field::ResourceId, resource.as_bytes());
            set(Field::Message, message.as_bytes());
            set(Field::UserAgent, agent.as_bytes());
            if with_user {
                set(Field::UserId, user.as_bytes());
                set(Field::Email, email.as_bytes());
            }
            if with_ip {
                set(Field::IpAddress, &ip);
            }
            if with_metadata {
                set(Field::Metadata, metadata.as_bytes());
            }
            let fields: [Option<&[u8]>; Field::COUNT] = std::array::from_fn(|i| fields[i].as_deref());
            builder.push(&NewEntry {
                id: Uuid::from_u128(self.next_id),
                client_id: true,
                hash: self.next_id * 7 + self.salt,
                timestamp: now - late,
                severity,
                fields,
            });
            self.next_id += 1;
        }
        let header = PackHeader {
            pack_id: Uuid::from_u128(self.next_id << 64),
            tenant: tenant.clone(),
            actor: ["alice", "bob"][self.dice.below(2) as usize].into(),
            request_id: "r".into(),
            received_at: now + 7,
            part: (0, 1),
        };
        Arc::new(builder.finish(header).expect("entries"))
    }

    /// Seals packs whose entries are all new but for those that `repeats` says.
    pub(crate) fn seal_of(&mut self, packs: Vec<Arc<Pack>>, repeat: impl Fn(usize, usize) -> bool) -> Arc<DecidedSeal> {
        let mut tenants: Vec<SealTenant> = Vec::new();
        let mut decided = Vec::new();
        for (p, pack) in packs.iter().enumerate() {
            let head = self.heads.entry(pack.tenant().clone()).or_default();
            let at = tenants.iter().position(|t| t.tenant == *pack.tenant()).unwrap_or_else(|| {
                tenants.push(change(pack.tenant(), *head));
                tenants.len() - 1
            });
            let decisions: Vec<Decision> = (0..pack.len())
                .map(|i| if repeat(p, i) { Decision::Duplicate } else { Decision::New })
                .collect();
            let new = decisions.iter().filter(|d| **d == Decision::New).count() as u64;
            let first_sequence = if new == 0 { 0 } else { *head + 1 };
            *head += new;
            let tenant = &mut tenants[at];
            tenant.head = *head;
            tenant.stored += new;
            tenant.duplicate += pack.len() as u64 - new;
            tenant.accepted += pack.len() as u64;
            tenant.bytes += pack.bytes().len() as u64;
            decided.push(SealPack {
                pack_id: pack.id(),
                tenant: at as u32,
                positions: smallvec![],
                decisions,
                refusal: None,
                first_sequence,
            });
        }
        self.append(tenants, decided, packs, false)
    }

    /// A seal of random packs of some of the tenants; a tenth of the packs holds repeats too.
    pub(crate) fn seal(&mut self, tenants: &[&str], entries: u64) -> Arc<DecidedSeal> {
        let packs: Vec<_> = (0..1 + self.dice.below(4))
            .map(|_| {
                let name = tenant(self.pick(tenants));
                let len = 1 + self.dice.below(entries) as usize;
                self.pack(&name, len)
            })
            .collect();
        let repeats = self.dice.chance(10);
        self.seal_of(packs, |p, i| repeats && p == 0 && i % 2 == 0)
    }

    /// A seal after a damage: the heads of these tenants jump.
    pub(crate) fn gap(&mut self, tenants: &[&str]) -> Arc<DecidedSeal> {
        let changes = tenants.iter().map(|name| {
            let head = self.heads.entry(tenant(name)).or_default();
            *head += 1 << 20;
            SealTenant {
                void: Some((*head - (1 << 20) + 1, *head)),
                ..change(&tenant(name), *head)
            }
        });
        let changes = changes.collect();
        self.append(changes, vec![], vec![], true)
    }

    /// A seal that erases what the tenant has until now.
    pub(crate) fn erase(&mut self, name: &str, kind: ErasureKind, cutoff: i64) -> Arc<DecidedSeal> {
        let head = self.heads.get(&tenant(name)).copied().unwrap_or(0);
        let job = Uuid::from_u128(u128::MAX - self.log.len() as u128);
        let erasure = Erasure { job, kind, cutoff, head };
        let seal = self.next_seal(vec![change(&tenant(name), head)], vec![], false);
        let erasures = vec![SealErasure { tenant: 0, erasure }];
        self.push(Seal { erasures, ..seal }, vec![])
    }

    /// A seal that says how many rows an erasure removed.
    pub(crate) fn settle(&mut self, name: &str, job: Uuid, rows: u64) -> Arc<DecidedSeal> {
        let head = self.heads.get(&tenant(name)).copied().unwrap_or(0);
        let seal = self.next_seal(vec![change(&tenant(name), head)], vec![], false);
        let removed = vec![SealRemoved { tenant: 0, job, rows }];
        self.push(Seal { removed, ..seal }, vec![])
    }

    pub(crate) fn append(&mut self, tenants: Vec<SealTenant>, packs: Vec<SealPack>, bytes: Vec<Arc<Pack>>, chain_break: bool) -> Arc<DecidedSeal> {
        let seal = self.next_seal(tenants, packs, chain_break);
        self.push(seal, bytes)
    }

    pub(crate) fn next_seal(&self, tenants: Vec<SealTenant>, packs: Vec<SealPack>, chain_break: bool) -> Seal {
        Seal {
            n: self.log.len() as u64 + 1,
            previous_crc: self.crc,
            owner: Uuid::nil(),
            sealed_at: 0,
            chain_break,
            tenants,
            packs,
            erasures: Vec::new(),
            removed: Vec::new(),
            retired: Vec::new(),
            sources: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, seal: Seal, bytes: Vec<Arc<Pack>>) -> Arc<DecidedSeal> {
        self.crc = self.crc.wrapping_add(1);
        let sealed = Arc::new(DecidedSeal {
            seal,
            crc: self.crc,
            packs: bytes,
            encoded_len: 100,
        });
        self.log.push(sealed.clone());
        sealed
    }
}

pub(crate) fn change(tenant: &TenantId, head: u64) -> SealTenant {
    SealTenant {
        tenant: tenant.clone(),
        head,
        void: None,
        stored: 0,
        duplicate: 0,
        dead_lettered: 0,
        accepted: 0,
        bytes: 0,
    }
}

/// The rows and voids of one tenant, in sequence order.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) rows: Vec<StoredEntry>,
    pub(crate) voids: Vec<(u64, u64)>,
    pub(crate) head: u64,
    /// What was erased.
    pub(crate) erased: Vec<StoredEntry>,
    /// How many rows each erasure removed.
    pub(crate) removed: Vec<(Uuid, u64)>,
}

impl Model {
    /// What the seals of a log say about each tenant.
    pub(crate) fn of(log: &[Arc<DecidedSeal>]) -> BTreeMap<TenantId, Model> {
        let mut all: BTreeMap<TenantId, Model> = BTreeMap::new();
        for sealed in log {
            for entry in sealed.entries().filter(|e| e.sequence.is_some()) {
                let header = entry.pack.header();
                all.entry(header.tenant.clone()).or_default().rows.push(StoredEntry {
                    record: entry.pack.record(entry.index),
                    received_at: header.received_at,
                    actor: header.actor.clone(),
                    sequence: entry.sequence,
                });
            }
            for change in &sealed.seal.tenants {
                let model = all.entry(change.tenant.clone()).or_default();
                model.voids.extend(change.void);
                model.head = change.head;
            }
            for SealErasure { tenant, erasure } in &sealed.seal.erasures {
                let model = all.entry(sealed.seal.tenants[*tenant as usize].tenant.clone()).or_default();
                let goes = |row: &mut StoredEntry| erasure.covers(row.entry().timestamp(), row.received_at, row.sequence.unwrap_or(0));
                let gone: Vec<StoredEntry> = model.rows.extract_if(.., goes).collect();
                model.removed.push((erasure.job, gone.len() as u64));
                model.voids.extend(gone.iter().filter_map(|row| row.sequence.map(|number| (number, number))));
                model.erased.extend(gone);
            }
        }
        all.values_mut().for_each(Model::join_voids);
        all
    }

    /// Puts the voids in order and joins those that touch.
    pub(crate) fn join_voids(&mut self) {
        self.voids.sort_unstable();
        self.voids.dedup_by(|next, before| {
            let touches = next.0 == before.1 + 1;
            if touches {
                before.1 = next.1;
            }
            touches
        });
    }

    /// The same log as the mask shows it.
    pub(crate) fn seen_through(&self, mask: &Mask) -> Self {
        Self {
            rows: self.rows.iter().map(|row| mask.entry(row)).collect(),
            voids: self.voids.clone(),
            head: self.head,
            erased: Vec::new(),
            removed: Vec::new(),
        }
    }

    pub(crate) fn matching(&self, filter: &Filter) -> Vec<&StoredEntry> {
        let matches = |row: &&StoredEntry| {
            let around = Surroundings {
                sequence: row.sequence.unwrap_or(0),
                actor: &row.actor,
            };
            filter.matches(&row.entry(), around)
        };
        self.rows.iter().filter(matches).collect()
    }

    /// The page as its sentences say it, the number of matches, and whether there are more behind the page.
    pub(crate) fn list(&self, query: &ListQuery) -> (Vec<StoredEntry>, u64, bool) {
        let mut rows = self.matching(&query.filter);
        rows.retain(|r| query.upto.is_none_or(|upto| r.sequence <= Some(upto)));
        let total = rows.len() as u64;
        if let Some(place) = query.after {
            let (time, number) = (place.timestamp, Some(place.sequence));
            rows.retain(|r| match query.sort {
                Sort::TimestampDesc => (r.entry().timestamp(), r.sequence) < (time, number),
                Sort::TimestampAsc => (r.entry().timestamp(), r.sequence) > (time, number),
                Sort::SequenceDesc => r.sequence < number,
                Sort::SequenceAsc => r.sequence > number,
            });
        }
        match query.sort {
            Sort::TimestampDesc => rows.sort_by_key(|r| std::cmp::Reverse((r.entry().timestamp(), r.sequence))),
            Sort::TimestampAsc => rows.sort_by_key(|r| (r.entry().timestamp(), r.sequence)),
            Sort::SequenceDesc => rows.sort_by_key(|r| std::cmp::Reverse(r.sequence)),
            Sort::SequenceAsc => rows.sort_by_key(|r| r.sequence),
        }
        let mut bytes = 0;
        let mut page: Vec<StoredEntry> = rows.iter().skip(query.skip).take(query.limit).map(|r| (*r).clone()).collect();
        let fits = |e: &StoredEntry| {
            bytes += e.record.len();
            bytes <= query.max_bytes
        };
        let fitting = page.iter().map(fits).take_while(|fits| *fits).count();
        page.truncate(fitting.max(1));
        let more = query.skip.saturating_add(page.len()) < rows.len();
        (page, total, more)
    }
}

/// What of an entry is compared.
pub(crate) fn plain(entries: &[StoredEntry]) -> Vec<(Option<u64>, Vec<u8>, i64, String)> {
    let one = |e: &StoredEntry| (e.sequence, e.record.to_vec(), e.received_at, e.actor.to_string());
    entries.iter().map(one).collect()
}
