//! Seals of random entries, for the benches of the store.

use sluice::{
    model::{
        entry::{Field, NewEntry, Severity},
        pack::{Pack, PackBuilder, PackHeader},
        parse::{Sent, content_hash},
        tenant::TenantId,
    },
    seal::{DecidedSeal, Decision, Seal, SealPack, SealTenant},
};
use std::sync::Arc;
use uuid::Uuid;

/// Entries of a pack; a seal has eight packs.
pub const PACK: u64 = 25;
/// Time in the first ids, milliseconds.
const FIRST_ID_MS: u64 = 1_700_000_000_000;

/// Makes seals of eight packs of eight tenants.
pub struct Sealer {
    n: u64,
    /// The largest number of each tenant.
    pub heads: Vec<u64>,
    /// Their names.
    pub tenants: Vec<TenantId>,
}

impl Sealer {
    /// For `tenant-0` and so on.
    pub fn new(tenants: u64) -> Self {
        let name = |i| TenantId::parse(&format!("tenant-{i}")).expect("a tenant");
        Self {
            n: 0,
            heads: vec![0; tenants as usize],
            tenants: (0..tenants).map(name).collect(),
        }
    }

    fn pack(&self, tenant: usize, first: u64) -> Pack {
        let mut builder = PackBuilder::default();
        for i in first..first + PACK {
            let spread = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let texts: [(Field, String); 10] = [
                (
                    Field::Action,
                    ["CREATE", "READ", "UPDATE", "DELETE", "LOGIN"][(spread >> 8) as usize % 5].into(),
                ),
                (Field::ResourceType, ["document", "user", "session"][(spread >> 16) as usize % 3].into()),
                (Field::ResourceId, format!("res-{}", spread % 10_000)),
                (Field::UserId, format!("user-{}", (spread >> 20) % 500)),
                (Field::SessionId, format!("{spread:032x}")),
                (Field::RequestId, format!("req-{tenant}-{i}")),
                (Field::Email, format!("user-{}@example.org", (spread >> 20) % 500)),
                (Field::UserAgent, format!("Mozilla/5.0 (X11; Linux x86_64) Chrome/{}.0", 90 + spread % 40)),
                (
                    Field::Message,
                    format!("request {spread} took {} ms and touched {} rows of the table", spread % 977, spread % 31),
                ),
                (
                    Field::Metadata,
                    format!(
                        r#"{{"region":"eu-{}","attempt":{},"trace":"{spread:x}","note":"as usual"}}"#,
                        spread % 7,
                        spread % 4
                    ),
                ),
            ];
            let mut fields = [None; Field::COUNT];
            texts.iter().for_each(|(field, text)| fields[*field as usize] = Some(text.as_bytes()));
            let timestamp = 1_700_000_000_000 + (self.n * 10) as i64 + (spread % 3_000) as i64;
            let severity = Severity::ALL[if spread % 10 < 7 { 0 } else { spread as usize % 4 }];
            let sent = Sent {
                fields,
                severity: Some(severity),
                timestamp: Some(timestamp),
            };
            builder.push(&NewEntry {
                id: id(tenant, i),
                client_id: true,
                hash: content_hash(&sent, &mut Vec::new()),
                timestamp,
                severity,
                fields,
            });
        }
        let header = PackHeader {
            pack_id: Uuid::from_u64_pair(self.n, tenant as u64),
            tenant: self.tenants[tenant].clone(),
            actor: "bench".into(),
            request_id: "r".into(),
            received_at: 1_700_000_000_000 + (self.n * 10) as i64,
            part: (0, 1),
        };
        builder.finish(header).expect("entries")
    }

    /// The next seal.
    pub fn seal(&mut self) -> Arc<DecidedSeal> {
        self.n += 1;
        let (mut tenants, mut decided, mut packs) = (Vec::new(), Vec::new(), Vec::new());
        for k in 0..8 {
            let at = ((self.n * 8 + k) % self.tenants.len() as u64) as usize;
            let pack = self.pack(at, self.heads[at] + 1);
            decided.push(SealPack {
                pack_id: pack.id(),
                tenant: k as u32,
                positions: Default::default(),
                decisions: vec![Decision::New; PACK as usize],
                refusal: None,
                first_sequence: self.heads[at] + 1,
            });
            self.heads[at] += PACK;
            tenants.push(SealTenant {
                tenant: self.tenants[at].clone(),
                head: self.heads[at],
                void: None,
                stored: PACK,
                duplicate: 0,
                dead_lettered: 0,
                accepted: PACK,
                bytes: pack.bytes().len() as u64,
            });
            packs.push(Arc::new(pack));
        }
        let seal = Seal {
            n: self.n,
            previous_crc: self.n as u32 - 1,
            owner: Uuid::nil(),
            sealed_at: 0,
            chain_break: false,
            tenants,
            packs: decided,
            erasures: Vec::new(),
            removed: Vec::new(),
            retired: Vec::new(),
            sources: Vec::new(),
        };
        Arc::new(DecidedSeal {
            seal,
            crc: self.n as u32,
            packs,
            encoded_len: 1_000,
        })
    }
}

/// The id of row `i` of a tenant: of version 7, made a millisecond after the one before, and known again.
pub fn id(tenant: usize, i: u64) -> Uuid {
    let low = (tenant as u64 + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ i.wrapping_mul(0xA076_1D64_78BD_642F);
    Uuid::from_u64_pair((FIRST_ID_MS + i) << 16 | 7 << 12, 1 << 63 | low >> 2)
}
