//! Cuts packs that are larger than a message into parts that are packs themselves, each decided by itself.
//!
//! A part's id follows from the pack's id and from which entries it holds. So the same pack cut again in the same way (a foreign
//! message that is delivered twice) gives the same parts, and cut in another way (another limit) gives other ones: a part that is
//! known can never hide entries of a part that is not.

use crate::model::pack::{PACK_OVERHEAD, Pack, PackBuilder, PackHeader};
use std::ops::Range;
use uuid::Uuid;

/// The pack has an entry that no message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry is larger than a message of the queue")]
pub struct TooLarge;

/// The pack in parts of at most `max` bytes each, in order: itself if it fits. Copies what it cuts.
pub fn split(pack: Pack, max: usize) -> Result<Vec<Pack>, TooLarge> {
    if pack.bytes().len() <= max {
        return Ok(vec![pack]);
    }
    let cuts = cuts(&pack, max)?;
    let of = u16::try_from(cuts.len()).map_err(|_| TooLarge)?;
    let parts = cuts.into_iter().zip(0..of).map(|(entries, part)| {
        let header = PackHeader {
            pack_id: part_id(pack.id(), &entries),
            part: (part, of),
            ..pack.header().clone()
        };
        let mut builder = PackBuilder::with_capacity(max);
        for i in entries {
            builder.push_record(pack.entry(i));
        }
        builder.finish(header).expect("a part has an entry")
    });
    Ok(parts.collect())
}

/// Which entries go into which part: as many as fit, in order.
fn cuts(pack: &Pack, max: usize) -> Result<Vec<Range<usize>>, TooLarge> {
    let header = pack.header();
    let fixed = PACK_OVERHEAD + header.tenant.as_str().len() + header.actor.len() + header.request_id.len();
    let (mut cuts, mut from, mut bytes) = (Vec::new(), 0, fixed);
    for (i, entry) in pack.entries().enumerate() {
        let len = 4 + entry.as_bytes().len();
        if fixed + len > max {
            return Err(TooLarge);
        }
        if bytes + len > max {
            cuts.push(from..i);
            (from, bytes) = (i, fixed);
        }
        bytes += len;
    }
    cuts.push(from..pack.len());
    Ok(cuts)
}

fn part_id(pack: Uuid, entries: &Range<usize>) -> Uuid {
    let mut name = [0; 32];
    name[..16].copy_from_slice(pack.as_bytes());
    name[16..24].copy_from_slice(&(entries.start as u64).to_le_bytes());
    name[24..].copy_from_slice(&(entries.end as u64).to_le_bytes());
    Uuid::new_v8(xxhash_rust::xxh3::xxh3_128(&name).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pack::tests::pack_of;
    use std::collections::HashSet;

    #[test]
    fn parts_fit_and_hold_every_entry_once_in_order() {
        let pack = pack_of("acme", &(1..=100).collect::<Vec<_>>());
        for max in [600, 1000, 4096] {
            let parts = split(pack.clone(), max).expect("entries are small");
            assert!(parts.len() > 1 && parts.iter().all(|part| part.bytes().len() <= max));
            let entries: Vec<_> = parts.iter().flat_map(|part| part.entries().map(|e| e.as_bytes().to_vec())).collect();
            assert_eq!(entries, pack.entries().map(|e| e.as_bytes().to_vec()).collect::<Vec<_>>());
            let (of, ids): (u16, HashSet<_>) = (parts.len() as u16, parts.iter().map(Pack::id).collect());
            assert_eq!(ids.len(), parts.len());
            for (k, part) in parts.iter().enumerate() {
                let again = Pack::decode(part.bytes().clone()).expect("well formed");
                assert_eq!((again.header().part, again.tenant()), ((k as u16, of), pack.tenant()));
                assert_eq!(again.header().received_at, pack.header().received_at);
            }
        }
    }

    #[test]
    fn the_same_cut_gives_the_same_ids_and_another_one_others() {
        let pack = pack_of("acme", &(1..=100).collect::<Vec<_>>());
        let ids = |max| split(pack.clone(), max).expect("small").iter().map(Pack::id).collect::<HashSet<_>>();
        assert_eq!(ids(1000), ids(1000));
        assert!(ids(1000).is_disjoint(&ids(1500)), "a part of other entries is another pack");
        assert_eq!(ids(1 << 20), HashSet::from([pack.id()]), "what fits stays as it is");
    }

    #[test]
    fn an_entry_that_no_message_holds_is_told() {
        assert_eq!(split(pack_of("acme", &[1, 2]), 100).map(|parts| parts.len()), Err(TooLarge));
    }
}
