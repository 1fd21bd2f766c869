//! What one message of a remote queue holds: packs of several tenants, and orders.
//!
//! # Envelope, version 1 (all integers little endian)
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 4 | magic `SLMQ` |
//! | 4 | 1 | version, 1 |
//! | 5 | 1 | flags: bit 0 the items are one zstd frame |
//! | 6 | 2 | 0 |
//! | 8 | 4 | partition that it was made for |
//! | 12 | 4 | number of items, n ≥ 1 |
//! | 16 | 4 | length of the items before compression, ≤ [`MAX_ITEMS_BYTES`] |
//! | 20 | … | the items |
//! | end − 4 | 4 | CRC32C of everything before it |
//!
//! | item | size | what |
//! |---|---|---|
//! | 0 | 1 + 3 | kind: 1 pack, 2 order; 0 0 0 |
//! | 4 | 4 | length of the body |
//! | 8 | … | a pack ([`crate::model::pack`]), or an order |
//!
//! | order | size | what |
//! |---|---|---|
//! | 0 | 16 | id (UUIDv7) |
//! | 16 | 1 | what: 1 erase by `timestamp`, 2 erase by `received_at`, 3 retire |
//! | 17 | 1 | length of the tenant |
//! | 18 | 6 | 0 |
//! | 24 | 8 | cutoff, signed milliseconds since 1970 (0 when retiring) |
//! | 32 | … | tenant |
//!
//! In SQS, whose messages are text, the envelope travels as base64 (standard alphabet, padded).
//!
//! A reader takes the whole message or nothing of it: a message is written by one of our processes under a checksum, so what cannot
//! be read is not ours, or damaged as a whole. A **newer version** is told apart: it is left in the queue for a newer process.

use super::{Ordered, RemoteOrder};
use crate::{
    model::{
        pack::{Pack, PackError},
        tenant::TenantId,
    },
    seal::erasure::ErasureKind,
};
use bytes::Bytes;
use std::sync::Arc;
use uuid::Uuid;

/// Items of one envelope, bytes before compression: what a reader needs for one message at most.
pub const MAX_ITEMS_BYTES: usize = 4 << 20;
/// Header and checksum of an envelope.
pub const OVERHEAD: usize = 24;
/// Header of an item.
pub const ITEM_OVERHEAD: usize = 8;

const MAGIC: &[u8; 4] = b"SLMQ";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 20;
const ZSTD: u8 = 1;
const PACK: u8 = 1;
const ORDER: u8 = 2;
const ORDER_LEN: usize = 32;
const RETIRE: u8 = 3;
/// Fast: the messages live for seconds.
const LEVEL: i32 = 1;
/// Below it compression is not tried.
const WORTH_IT: usize = 512;

/// What travels in a message.
#[derive(Debug, Clone)]
pub enum Item {
    /// Entries.
    Pack(Arc<Pack>),
    /// Something for the sequencer.
    Order(RemoteOrder),
}

/// A message, read.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Which partition it was made for.
    pub partition: u32,
    /// What it holds, in the order of sending. The packs share one buffer.
    pub items: Vec<Item>,
    /// Length of that buffer.
    pub items_bytes: usize,
}

/// Why bytes are no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// It does not begin as one does.
    #[error("no envelope begins here")]
    Magic,
    /// Written by a newer process, for newer processes.
    #[error("envelope version `{0}` is not known to this build")]
    Version(u8),
    /// The checksum does not fit.
    #[error("the checksum of the envelope does not fit")]
    Checksum,
    /// The checksum fits, the contents do not.
    #[error("the envelope is malformed: {0}")]
    Malformed(&'static str),
    /// An item is a pack that cannot be read.
    #[error("a pack of the envelope cannot be read: {0}")]
    Pack(PackError),
}

impl EnvelopeError {
    /// Whether a newer build can read it.
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Version(version) if *version > VERSION) || matches!(self, Self::Pack(PackError::Version(_)))
    }
}

impl Item {
    /// Its name: what makes a repeated delivery known.
    pub fn id(&self) -> Uuid {
        match self {
            Self::Pack(pack) => pack.id(),
            Self::Order(order) => order.id,
        }
    }

    /// Whose it is.
    pub fn tenant(&self) -> &TenantId {
        match self {
            Self::Pack(pack) => pack.tenant(),
            Self::Order(order) => &order.tenant,
        }
    }

    /// Bytes that it takes in an envelope before compression, its header included.
    pub fn len(&self) -> usize {
        ITEM_OVERHEAD
            + match self {
                Self::Pack(pack) => pack.bytes().len(),
                Self::Order(order) => ORDER_LEN + order.tenant.as_str().len(),
            }
    }

    /// Never: an item has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self {
            Self::Pack(_) => PACK,
            Self::Order(_) => ORDER,
        };
        out.extend_from_slice(&[kind, 0, 0, 0]);
        out.extend_from_slice(&((self.len() - ITEM_OVERHEAD) as u32).to_le_bytes());
        match self {
            Self::Pack(pack) => out.extend_from_slice(pack.bytes()),
            Self::Order(order) => encode_order(order, out),
        }
    }
}

/// Encodes an envelope. Its items are at least one, and at most [`MAX_ITEMS_BYTES`]; the result is no longer than they are plus
/// [`OVERHEAD`].
pub fn encode<'a>(partition: u32, items: impl IntoIterator<Item = &'a Item, IntoIter: Clone>) -> Bytes {
    let items = items.into_iter();
    let (mut raw, mut count) = (Vec::with_capacity(items.clone().map(Item::len).sum()), 0u32);
    for item in items {
        item.encode(&mut raw);
        count += 1;
    }
    debug_assert!(count > 0 && raw.len() <= MAX_ITEMS_BYTES);
    let compressed = (raw.len() >= WORTH_IT)
        .then(|| zstd::bulk::compress(&raw, LEVEL).ok())
        .flatten()
        .filter(|compressed| compressed.len() < raw.len());
    let (flags, body) = compressed.as_ref().map_or((0, &raw), |compressed| (ZSTD, compressed));
    let mut out = Vec::with_capacity(body.len() + OVERHEAD);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, flags, 0, 0]);
    out.extend_from_slice(&partition.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out.into()
}

/// Reads and checks a whole envelope, its packs included.
pub fn decode(bytes: &Bytes) -> Result<Envelope, EnvelopeError> {
    if bytes.len() < OVERHEAD || &bytes[..4] != MAGIC {
        return Err(EnvelopeError::Magic);
    }
    if bytes[4] != VERSION {
        return Err(EnvelopeError::Version(bytes[4]));
    }
    let end = bytes.len() - 4;
    if crc32c::crc32c(&bytes[..end]) != u32_at(bytes, end) {
        return Err(EnvelopeError::Checksum);
    }
    let (partition, count, len) = (u32_at(bytes, 8), u32_at(bytes, 12) as usize, u32_at(bytes, 16) as usize);
    if len > MAX_ITEMS_BYTES {
        return Err(EnvelopeError::Malformed("its items are longer than allowed"));
    }
    let body = bytes.slice(HEADER_LEN..end);
    let raw = match bytes[5] {
        0 => body,
        ZSTD => zstd::bulk::decompress(&body, len)
            .map_err(|_| EnvelopeError::Malformed("its items do not decompress"))?
            .into(),
        _ => return Err(EnvelopeError::Malformed("unknown flags")),
    };
    if raw.len() != len {
        return Err(EnvelopeError::Malformed("its items have another length"));
    }
    let items = decode_items(&raw)?;
    if items.is_empty() || items.len() != count {
        return Err(EnvelopeError::Malformed("another number of items"));
    }
    Ok(Envelope {
        partition,
        items,
        items_bytes: len,
    })
}

fn decode_items(raw: &Bytes) -> Result<Vec<Item>, EnvelopeError> {
    let (mut items, mut at) = (Vec::new(), 0);
    while at < raw.len() {
        let header = raw.get(at..at + ITEM_OVERHEAD).ok_or(EnvelopeError::Malformed("an item is cut off"))?;
        let (kind, len) = (header[0], u32_at(header, 4) as usize);
        let start = at + ITEM_OVERHEAD;
        if raw.len() - start < len {
            return Err(EnvelopeError::Malformed("an item is cut off"));
        }
        let body = raw.slice(start..start + len);
        items.push(match kind {
            PACK => Item::Pack(Arc::new(Pack::decode(body).map_err(EnvelopeError::Pack)?)),
            ORDER => Item::Order(decode_order(&body).ok_or(EnvelopeError::Malformed("an order does not fit"))?),
            _ => return Err(EnvelopeError::Malformed("an item of unknown kind")),
        });
        at = start + len;
    }
    Ok(items)
}

fn encode_order(order: &RemoteOrder, out: &mut Vec<u8>) {
    let tenant = order.tenant.as_str();
    let (what, cutoff) = match order.what {
        Ordered::Erase { kind, cutoff } => (kind as u8, cutoff),
        Ordered::Retire => (RETIRE, 0),
    };
    out.extend_from_slice(order.id.as_bytes());
    out.extend_from_slice(&[what, tenant.len() as u8, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&cutoff.to_le_bytes());
    out.extend_from_slice(tenant.as_bytes());
}

fn decode_order(body: &[u8]) -> Option<RemoteOrder> {
    let tenant = body.get(ORDER_LEN..).filter(|tenant| tenant.len() == usize::from(body[17]))?;
    let cutoff = i64::from_le_bytes(body[24..32].try_into().expect("8 bytes"));
    let what = match body[16] {
        RETIRE => Ordered::Retire,
        kind => Ordered::Erase {
            kind: ErasureKind::from_number(kind)?,
            cutoff,
        },
    };
    Some(RemoteOrder {
        id: Uuid::from_bytes(body[..16].try_into().expect("16 bytes")),
        tenant: TenantId::decode(std::str::from_utf8(tenant).ok()?).ok()?,
        what,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pack::tests::pack_of;

    fn order(what: Ordered) -> Item {
        Item::Order(RemoteOrder {
            id: Uuid::now_v7(),
            tenant: TenantId::decode("acme.access").expect("a log"),
            what,
        })
    }

    fn some() -> Vec<Item> {
        let (kind, cutoff) = (ErasureKind::Retention, -5);
        vec![
            Item::Pack(Arc::new(pack_of("acme", &[1, 2, 3]))),
            order(Ordered::Erase { kind, cutoff }),
            Item::Pack(Arc::new(pack_of("other", &(10..40).collect::<Vec<_>>()))),
            order(Ordered::Retire),
        ]
    }

    #[test]
    fn an_envelope_reads_back_as_written_compressed_or_not() {
        let items = some();
        for (upto, zstd) in [(1, false), (4, true)] {
            let bytes = encode(7, &items[..upto]);
            assert_eq!(bytes[5] == ZSTD, zstd, "of {upto} items");
            let raw: usize = items[..upto].iter().map(Item::len).sum();
            assert!(bytes.len() <= raw + OVERHEAD);
            let read = decode(&bytes).expect("well formed");
            assert_eq!((read.partition, read.items.len(), read.items_bytes), (7, upto, raw));
            for (read, written) in read.items.iter().zip(&items) {
                match (read, written) {
                    (Item::Pack(read), Item::Pack(written)) => assert_eq!(read.bytes(), written.bytes()),
                    (Item::Order(read), Item::Order(written)) => assert_eq!(read, written),
                    _ => panic!("another kind"),
                }
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = encode(0, &some()).to_vec();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(decode(&bad.into()).is_err(), "byte {at}");
            assert!(decode(&good[..at].to_vec().into()).is_err(), "cut at {at}");
        }
    }

    /// With a checksum that fits, so that what is behind it is reached.
    fn forged(mut bytes: Vec<u8>) -> Bytes {
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&crc);
        bytes.into()
    }

    #[test]
    fn what_is_malformed_under_a_good_checksum_is_an_error_and_never_a_panic() {
        let good = encode(0, &some()[..2]).to_vec();
        assert_eq!(good[5], 0, "too short to be compressed");
        for at in 4..good.len() - 4 {
            for value in [0, 1, 2, 3, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = decode(&forged(bad)); // any answer, but no panic
            }
        }
        let mut huge = good.clone();
        huge[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode(&forged(huge)), Err(EnvelopeError::Malformed(_))), "nothing is allocated for it");
        let mut fewer = good.clone();
        fewer[12] = 1;
        assert!(matches!(decode(&forged(fewer)), Err(EnvelopeError::Malformed(_))));
    }

    #[test]
    fn a_newer_version_is_told_apart_from_rubbish() {
        let mut newer = encode(0, &some()).to_vec();
        newer[4] = VERSION + 1;
        assert!(decode(&newer.into()).expect_err("unknown").is_newer());
        assert!(!decode(&Bytes::from_static(b"{\"action\":\"CREATE\",\"a\":1}")).expect_err("json").is_newer());
    }
}
