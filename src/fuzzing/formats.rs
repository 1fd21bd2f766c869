//! What processes write for each other and for later: packs, envelopes, seals, objects, checkpoints, manifests. Lengths and checksums are
//! put right before each is read.

use crate::{
    model::{
        entry::{EntryRef, Field, NewEntry, Severity},
        pack::{Pack, PackBuilder, PackHeader},
        tenant::TenantId,
    },
    queue::Position,
    seal::{Decision, Seal, SealPack, SealTenant},
};
use bytes::Bytes;
use uuid::Uuid;

/// Reads everything of an entry.
pub(super) fn look_at(entry: EntryRef<'_>) {
    let _ = (
        entry.id(),
        entry.client_id(),
        entry.hash(),
        entry.timestamp(),
        entry.severity(),
        entry.ip(),
        entry.texts(),
    );
    assert_eq!(EntryRef::check(entry.as_bytes()).map(|same| same.as_bytes()), Some(entry.as_bytes()));
}

fn a_pack(entries: u128) -> Pack {
    let mut builder = PackBuilder::default();
    for id in 1..=entries {
        let mut fields = [None; Field::COUNT];
        fields[Field::Action as usize] = Some(&b"LOGIN"[..]);
        fields[Field::Message as usize] = Some("é".as_bytes());
        fields[Field::Metadata as usize] = Some(br#"{"a":1}"#);
        builder.push(&NewEntry {
            id: Uuid::from_u128(id),
            client_id: id % 2 == 0,
            hash: id * 31,
            timestamp: 1_700_000_000_000,
            severity: Severity::Info,
            fields,
        });
    }
    let header = PackHeader {
        pack_id: Uuid::from_u128(9),
        tenant: TenantId::parse("acme").expect("a tenant"),
        actor: "x".into(),
        request_id: "r".into(),
        received_at: 1_700_000_000_000,
        part: (0, 1),
    };
    builder.finish(header).expect("it has entries")
}

fn word(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(to) = bytes.get_mut(at..at + 4) {
        to.copy_from_slice(&value.to_le_bytes());
    }
}

/// Appends the checksum of all before it.
fn checked(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Puts the length and the checksum of a format right that has its length at byte 8 and ends with its checksum.
fn mended(data: &[u8], magic: &[u8]) -> Vec<u8> {
    let mut bytes = data[..data.len().max(4) - 4].to_vec();
    bytes.iter_mut().zip(magic).for_each(|(to, from)| *to = *from);
    let len = bytes.len() as u32 + 4;
    word(&mut bytes, 8, len);
    checked(bytes)
}

/// [`Pack::decode`].
pub mod pack {
    use super::*;

    pub fn run(data: &[u8]) {
        let bytes = a_pack(1).bytes().slice(..6);
        let Ok(pack) = Pack::decode(mended(data, &bytes).into()) else { return };
        pack.entries().for_each(look_at);
        let mut builder = PackBuilder::default();
        pack.entries().for_each(|entry| builder.push_record(entry));
        let copy = builder.finish(pack.header().clone()).expect("it has entries");
        let again = Pack::decode(copy.bytes().clone()).expect("what is written can be read");
        assert_eq!(format!("{:?}", again.header()), format!("{:?}", pack.header()));
        assert_eq!(again.len(), pack.len());
        assert!(again.entries().map(|e| e.as_bytes()).eq(pack.entries().map(|e| e.as_bytes())));
    }

    pub fn examples() -> Vec<Vec<u8>> {
        [1, 3].map(|n| a_pack(n).bytes().to_vec()).into()
    }
}

/// [`crate::queue::remote::envelope::decode`]: the input is the number of items and the items.
pub mod envelope {
    use super::*;
    use crate::queue::remote::{
        Ordered, RemoteOrder,
        envelope::{Item, decode, encode},
    };

    pub fn run(data: &[u8]) {
        let Some((count, items)) = data.split_first() else { return };
        let mut bytes = b"SLMQ\x01\0\0\0\x07\0\0\0".to_vec();
        bytes.extend_from_slice(&u32::from(*count).to_le_bytes());
        bytes.extend_from_slice(&(items.len() as u32).to_le_bytes());
        bytes.extend_from_slice(items);
        let Ok(envelope) = decode(&checked(bytes).into()) else { return };
        assert_eq!((envelope.partition, envelope.items.len()), (7, usize::from(*count)));
        let again = decode(&encode(7, &envelope.items)).expect("what is written can be read");
        assert_eq!(format!("{:?}", again.items), format!("{:?}", envelope.items));
    }

    pub fn examples() -> Vec<Vec<u8>> {
        let order = RemoteOrder {
            id: Uuid::from_u128(5),
            tenant: TenantId::parse("acme").expect("a tenant"),
            what: Ordered::Retire,
        };
        let items = [Item::Pack(a_pack(1).into()), Item::Order(order)];
        let plain = |items: &[Item]| {
            let whole = encode(7, items); // small ones are not compressed
            [&[items.len() as u8], &whole[20..whole.len() - 4]].concat()
        };
        vec![plain(&items[..1]), plain(&items[1..]), plain(&items)]
    }
}

fn a_seal(packs: &[Pack]) -> Seal {
    let decided = |pack: &Pack| SealPack {
        pack_id: pack.id(),
        tenant: 0,
        positions: [Position { segment: 1, offset: 8_256 }].into_iter().collect(),
        decisions: vec![Decision::New; pack.len()],
        refusal: None,
        first_sequence: 1,
    };
    let stored = packs.iter().map(|pack| pack.len() as u64).sum();
    Seal {
        n: 3,
        previous_crc: 4,
        owner: Uuid::from_u128(6),
        sealed_at: 1_700_000_000_000,
        chain_break: false,
        tenants: vec![SealTenant {
            tenant: TenantId::parse("acme").expect("a tenant"),
            head: stored,
            void: None,
            stored,
            duplicate: 0,
            dead_lettered: 0,
            accepted: stored,
            bytes: packs.iter().map(|pack| pack.bytes().len() as u64).sum(),
        }],
        packs: packs.iter().map(decided).collect(),
        erasures: Vec::new(),
        removed: Vec::new(),
        retired: Vec::new(),
        sources: Vec::new(),
    }
}

/// [`crate::seal::codec::decode`].
pub mod seal {
    use super::*;
    use crate::seal::codec::{crc_of, decode, encode};

    pub fn run(data: &[u8]) {
        let bytes = mended(data, b"SLSE");
        let Ok((seal, crc)) = decode(&bytes) else { return };
        let encoded = encode(&seal);
        assert_eq!(&encoded[..], &bytes[..], "there is one encoding of a seal");
        assert_eq!(crc, crc_of(&encoded));
    }

    pub fn examples() -> Vec<Vec<u8>> {
        vec![encode(&a_seal(&[a_pack(2)])).to_vec(), encode(&a_seal(&[])).to_vec()]
    }
}

/// [`crate::queue::seals::object::decode`]: the input is the length of the head, and both sections unpacked.
pub mod seal_object {
    use super::*;
    use crate::queue::seals::object::{HEADER_LEN, decode, decode_head};

    /// The object of these sections, under good checksums.
    fn object(head: &[u8], packs: &[u8]) -> Vec<u8> {
        let mut head = head.to_vec();
        // The seal in it, whose length stands before it.
        let len = head.first_chunk().map_or(0, |len| u32::from_le_bytes(*len) as usize);
        if let Some(seal) = head.get(4..4usize.saturating_add(len)) {
            let seal = mended(seal, b"SLSE");
            head.splice(4..4 + len, seal);
        }
        let pack = |section: &[u8]| zstd::bulk::compress(section, 1).expect("memory takes what is written to it");
        let field = |from: usize, to: usize| head.get(4 + from..4 + to).unwrap_or_default().to_vec();
        let (packed_head, packed_packs) = (pack(&head), pack(packs));
        let mut out = b"SLSO\x01\0\0\0".to_vec();
        out.extend_from_slice(&field(12, 20));
        out.extend_from_slice(&field(24, 40));
        out.resize(32, 0);
        out.extend_from_slice(&[0; 8]);
        let seal_crc = field(len.saturating_sub(4), len);
        out.extend_from_slice(&seal_crc);
        out.resize(44, 0);
        for n in [packed_head.len(), head.len(), packed_packs.len(), packs.len()] {
            out.extend_from_slice(&(n as u32).to_le_bytes());
        }
        for section in [&packed_head, &packed_packs] {
            out.extend_from_slice(&crc32c::crc32c(section).to_le_bytes());
        }
        out = checked(out);
        assert_eq!(out.len(), HEADER_LEN);
        [out, packed_head, packed_packs].concat()
    }

    pub fn run(data: &[u8]) {
        let Some((len, rest)) = data.split_first_chunk() else { return };
        let (head, packs) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
        let bytes = object(head, packs);
        let found = decode_head(&bytes);
        let Ok(whole) = decode(&bytes) else { return };
        assert_eq!(found.expect("the head of a good object is good").seal, whole.seal);
        assert!(whole.entries().all(|entry| entry.pack.len() > entry.index), "an entry of no pack");
    }

    pub fn examples() -> Vec<Vec<u8>> {
        let packs = [a_pack(2)];
        let seal = crate::seal::codec::encode(&a_seal(&packs));
        let mut head = (seal.len() as u32).to_le_bytes().to_vec();
        head.extend_from_slice(&seal);
        head.extend_from_slice(&2u32.to_le_bytes());
        for entry in packs[0].entries() {
            head.extend_from_slice(entry.id().as_bytes());
            head.extend_from_slice(&entry.hash().to_le_bytes());
        }
        let body = packs[0].bytes();
        let parts: [&[u8]; 4] = [&(head.len() as u16).to_le_bytes(), &head, &(body.len() as u32).to_le_bytes(), body];
        let whole = parts.concat();
        assert!(decode(&object(&head, &whole[2 + head.len()..])).is_ok(), "the example is good");
        vec![whole]
    }
}

/// [`crate::queue::seals::checkpoint::Checkpoint::decode`]: the input is its JSON.
pub mod checkpoint {
    use super::*;
    use crate::queue::seals::checkpoint::Checkpoint;

    pub fn run(data: &[u8]) {
        let packed = zstd::bulk::compress(data, 1).expect("memory takes what is written to it");
        let mut bytes = b"SLCP\x01\0\0\0".to_vec();
        bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &packed);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&packed);
        let Ok(checkpoint) = Checkpoint::decode(&bytes) else { return };
        assert_eq!(Checkpoint::decode(&checkpoint.encode()).expect("what is written can be read"), checkpoint);
    }

    pub fn examples() -> Vec<Vec<u8>> {
        let mut checkpoint = Checkpoint::default();
        let tenant = TenantId::parse("acme").expect("a tenant");
        checkpoint.state.tenants.insert(tenant.clone(), Default::default());
        checkpoint.state.retired.insert(tenant);
        let bytes = checkpoint.encode();
        let len = u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes"));
        vec![zstd::bulk::decompress(&bytes[16..], len as usize).expect("just packed")]
    }
}

/// The store's manifest: the input is its JSON.
pub mod manifest {
    use super::*;
    use crate::sinks::embedded::manifest::Manifest;

    pub fn run(data: &[u8]) {
        for version in 1..=3 {
            let mut bytes = format!("sluice-manifest {version} crc32c={:08x} bytes={}\n", crc32c::crc32c(data), data.len()).into_bytes();
            bytes.extend_from_slice(data);
            let Ok(manifest) = Manifest::decode(&bytes, 1) else { continue };
            let _ = manifest.state();
            assert_eq!(Manifest::decode(&manifest.encode(), 1), Ok(manifest), "what is written can be read");
        }
    }

    pub fn examples() -> Vec<Vec<u8>> {
        let mut manifest = Manifest {
            number: 1,
            flushed: 7,
            ..Manifest::default()
        };
        manifest.tenants.insert(TenantId::parse("acme").expect("a tenant"), Default::default());
        let bytes = manifest.encode();
        let line = bytes.iter().position(|byte| *byte == b'\n').expect("a first line");
        vec![bytes[line + 1..].to_vec()]
    }
}

/// Bytes of the log's records.
pub(super) fn records() -> [Bytes; 2] {
    [a_pack(2).bytes().clone(), crate::seal::codec::encode(&a_seal(&[a_pack(2)])).to_vec().into()]
}
