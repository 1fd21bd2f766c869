//! The bytes of seal objects and checkpoints.

use super::*;
use crate::seal::{
    erasure::{Erasure, ErasureKind, Erasures},
    state::{SealState, TenantState},
};

async fn object() -> Bytes {
    let memory = MemoryObjects::default();
    let mut owner = Owner::take(&open(&(Arc::new(memory.clone()) as Arc<dyn Objects>))).await;
    owner.seal(&[1, 2, 1]).await.expect("sealed");
    memory.get_now(&seal_key(0, 1)).expect("there").0
}

#[tokio::test]
async fn head_and_whole_say_the_same() {
    let bytes = object().await;
    let (head, whole) = (object::decode_head(&bytes).expect("a head"), object::decode(&bytes).expect("a seal"));
    assert_eq!((&head.seal, head.crc, head.encoded_len), (&whole.seal, whole.crc, whole.encoded_len));
    let new = whole.entries().filter(|entry| entry.sequence.is_some());
    assert_eq!(head.rows, new.map(|entry| (entry.entry.id(), entry.entry.hash())).collect::<Vec<_>>());
    assert_eq!((head.rows.len(), head.bytes_before, head.object_len), (2, 0, bytes.len() as u64));
    let header = object::Header::read(&bytes).expect("a header");
    let cut = object::decode_head(&bytes[..header.head_end() as usize]).expect("the head is enough");
    assert_eq!(cut, head);
    let again = object::encode(&whole.seal, &codec::encode(&whole.seal), &whole.packs, 0).expect("small");
    assert_eq!(again, bytes, "made again it is the same");
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_of_a_seal_is_noticed() {
    let good = object().await.to_vec();
    assert_eq!((&good[..4], good[4], good[8]), (&b"SLSO"[..], 1, 1));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(object::decode(&bad).is_err(), "byte {at}");
        assert!(object::decode(&good[..at]).is_err(), "cut at {at}");
    }
    let longer = [&good[..], b"x"].concat();
    assert!(object::decode(&longer).is_err());
}

fn checkpoint() -> Checkpoint {
    let [a, b] = ["a", "b.access"].map(|name| crate::model::tenant::TenantId::decode(name).expect("a log"));
    let mut state = SealState {
        n: 7,
        crc: 9,
        ..SealState::default()
    };
    let tenant = TenantState {
        head: 1 << 60,
        accepted: 5,
        ..TenantState::default()
    };
    state.tenants.insert(a.clone(), tenant);
    let mut erasures = Erasures::default();
    erasures.add(&Erasure {
        job: Uuid::from_u128(3),
        kind: ErasureKind::Cleanup,
        cutoff: -5,
        head: 4,
    });
    state.erasures.insert(a, Arc::new(erasures));
    state.retired.insert(b);
    state.sources.fold(&crate::seal::source::SealSource {
        name: crate::seal::source::ShardName {
            source: "s".into(),
            shard: "x".into(),
        },
        at: Some(crate::seal::source::ShardAt::End),
    });
    Checkpoint { state, bytes: 12345 }
}

#[test]
fn a_checkpoint_reads_back_and_every_flipped_bit_and_cut_is_noticed() {
    let good = checkpoint().encode();
    assert_eq!(Checkpoint::decode(&good).expect("as written"), checkpoint());
    assert_eq!(Checkpoint::decode(&Checkpoint::default().encode()).expect("as written"), Checkpoint::default());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(Checkpoint::decode(&bad).is_err(), "byte {at}");
        assert!(Checkpoint::decode(&good[..at]).is_err(), "cut at {at}");
    }
}

#[tokio::test]
async fn an_older_checkpoint_never_replaces_a_later_one() {
    let objects = MemoryObjects::default();
    let at = |n| Checkpoint {
        state: SealState { n, ..SealState::default() },
        bytes: 0,
    };
    for (written, then) in [(5, 5), (3, 5), (6, 6), (6, 6)] {
        checkpoint::save(&objects, 0, &at(written)).await.expect("saved");
        let found = checkpoint::load(&objects, 0).await.expect("read").expect("there");
        assert_eq!(found.state.n, then);
    }
}
