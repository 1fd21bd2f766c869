//! The checkpoint of a partition: what its seals add up to, so that a start reads few of them.
//!
//! # Checkpoint, version 1 (little endian)
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 4 | magic `SLCP` |
//! | 4 | 2 | version, 1 |
//! | 6 | 2 | 0 |
//! | 8 | 4 | length of the JSON text, bytes |
//! | 12 | 4 | CRC32C of bytes 0 to 12 and of what follows |
//! | 16 | … | zstd of the JSON text: the serde form of `Form` |
//!
//! It is written after the seal that it covers is durable, by compare and swap, and never for a smaller seal than the one that stands
//! there: a zombie writes an older one and is refused.

use super::checkpoint_key;
use crate::{
    model::tenant::TenantId,
    objects::{ObjectError, Objects, Precondition},
    queue::SealReadError,
    seal::{
        erasure::Erasures,
        source::SourceCheckpoints,
        state::{SealState, TenantState},
    },
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

const MAGIC: &[u8; 4] = b"SLCP";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 16;
/// No checkpoint is larger: ten million tenants.
const MOST_BYTES: usize = 2 << 30;

/// What the seals of a partition add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// After seal `state.n`.
    pub state: SealState,
    /// Bytes of all seal objects up to it, trimmed ones included.
    pub bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    n: u64,
    crc: u32,
    bytes: u64,
    tenants: BTreeMap<String, TenantState>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    erasures: BTreeMap<String, Erasures>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retired: Vec<String>,
    #[serde(default, skip_serializing_if = "SourceCheckpoints::is_empty")]
    sources: SourceCheckpoints,
    /// Of a log in the data folder: the largest segment that a seal names.
    #[serde(default, skip_serializing_if = "is_zero")]
    segment: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Checkpoint {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let Self { state, bytes } = self;
        let mut retired: Vec<_> = state.retired.iter().map(ToString::to_string).collect();
        retired.sort_unstable();
        let form = Form {
            n: state.n,
            crc: state.crc,
            bytes: *bytes,
            tenants: state.tenants.iter().map(|(tenant, state)| (tenant.to_string(), *state)).collect(),
            erasures: state.erasures.iter().map(|(tenant, all)| (tenant.to_string(), (**all).clone())).collect(),
            retired,
            sources: state.sources.clone(),
            segment: state.segment,
        };
        let json = serde_json::to_vec(&form).expect("a checkpoint is plain data with text keys");
        let packed = zstd::bulk::compress(&json, 1).expect("memory takes what is written to it");
        let mut out = Vec::with_capacity(HEADER_LEN + packed.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&(json.len() as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &packed);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&packed);
        out
    }

    /// Reads and checks one.
    pub fn decode(bytes: &[u8]) -> Result<Self, SealReadError> {
        Self::read(bytes).map_err(|why| SealReadError(format!("the checkpoint is damaged: {why}").into()))
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let (header, packed) = bytes.split_at_checked(HEADER_LEN).ok_or("it is cut short")?;
        if &header[..4] != MAGIC {
            return Err("it does not begin as one".into());
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version != VERSION {
            return Err(format!("version `{version}` is not known to this build"));
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), packed);
        if header[12..] != crc.to_le_bytes() {
            return Err("its checksum does not fit".into());
        }
        let len = u32::from_le_bytes(header[8..12].try_into().expect("4 bytes")) as usize;
        if len > MOST_BYTES {
            return Err("it is too large".into());
        }
        let json = zstd::bulk::decompress(packed, len).map_err(|error| error.to_string())?;
        let form: Form = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
        let tenant = |text: &String| TenantId::decode(text).map_err(|_| "a tenant is no tenant id".to_owned());
        let mut state = SealState {
            n: form.n,
            crc: form.crc,
            segment: form.segment,
            sources: form.sources,
            ..SealState::default()
        };
        for (name, of) in &form.tenants {
            state.tenants.insert(tenant(name)?, *of);
        }
        for (name, all) in form.erasures {
            state.erasures.insert(tenant(&name)?, Arc::new(all));
        }
        for name in &form.retired {
            state.retired.insert(tenant(name)?);
        }
        Ok(Self { state, bytes: form.bytes })
    }
}

/// The checkpoint of a partition, if one was written.
pub async fn load(objects: &dyn Objects, partition: u32) -> Result<Option<Checkpoint>, SealReadError> {
    let found = objects.get(&checkpoint_key(partition)).await?;
    found.map(|(bytes, _)| Checkpoint::decode(&bytes)).transpose()
}

/// Writes it unless one of the same or a later seal stands there. `Ok`: one of this seal or a later one is durable.
pub async fn save(objects: &dyn Objects, partition: u32, checkpoint: &Checkpoint) -> Result<(), SealReadError> {
    let key = checkpoint_key(partition);
    loop {
        let when = match objects.get(&key).await? {
            None => Precondition::Absent,
            Some((bytes, _)) if Checkpoint::decode(&bytes)?.state.n >= checkpoint.state.n => return Ok(()),
            Some((_, version)) => Precondition::Version(version),
        };
        match objects.put(&key, Bytes::from(checkpoint.encode()), when).await {
            Ok(_) => return Ok(()),
            Err(ObjectError::Conflict) => {} // somebody else wrote one: n has grown, so this ends
            Err(error) => return Err(error.into()),
        }
    }
}
