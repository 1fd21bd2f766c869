//! What comes late: a pack that is delivered ten minutes after it was received, to the owner that decided it, to one that did not, and
//! for the first time.

use super::*;
use crate::{actors::sequencer::memory::SKEW_MS, model::pack::tests::pack_with};

/// When the packs of tests were received.
const RECEIVED: i64 = 1_700_000_000_500;
const TEN_MINUTES: i64 = 600_000;

fn undecided(pack: &Arc<Pack>) -> Vec<Undecided> {
    vec![Undecided {
        pack: pack.clone(),
        refusal: None,
    }]
}

/// An owner that takes over at this time.
async fn take_at(objects: &Arc<dyn Objects>, now: i64) -> Core {
    let (_, start) = take::read(&open(objects), &|| now).await.expect("taken");
    let mut core = Core::new(Uuid::new_v4(), start.state, start.known, None, now);
    core.resume(start.window.expect("it is known"), 0);
    core
}

#[tokio::test]
async fn a_pack_that_comes_again_after_ten_minutes_is_known_or_asked_of_the_ledger() {
    let objects: Arc<dyn Objects> = Arc::new(MemoryObjects::default());
    let seals = open(&objects);
    let (mut owner, now) = (Owner::take(&seals).await, RECEIVED + TEN_MINUTES);
    let late = Arc::new(pack_of("a", &[1, 2]));
    let (draft, encoded) = owner.draft(std::slice::from_ref(&late));
    owner.writer.create(&draft.seal, &encoded, draft.packs()).await.expect("sealed");
    owner.core.adopt(draft, &encoded);

    // To the same owner, and to one that reads the seal: they know it, whatever the ledger says.
    let plan = owner.core.plan(undecided(&late), now);
    assert_eq!((plan.is_empty(), &plan.known[..]), (true, &[late.id()][..]));
    assert!(take_at(&objects, now).await.plan(undecided(&late), now).is_empty());

    // To one that need not read it any more: its memory begins after the pack was received, so the ledger is asked.
    for store in [ANALYTICS, DEAD_LETTERS, SEARCH] {
        seals.cursors().save(store, 1).await.expect("saved");
    }
    owner.keeper.turn(now, true).await.expect("kept");
    let later = take_at(&objects, now).await;
    assert!(!later.plan(undecided(&late), now).is_empty(), "its memory alone does not know it");
    assert_eq!(later.uncertain(&undecided(&late)), [late.id()]);
}

#[tokio::test]
async fn a_memory_that_began_before_a_pack_by_more_than_clocks_differ_need_not_ask() {
    let pack = Arc::new(pack_of("a", &[1]));
    for (began, asks) in [(RECEIVED - SKEW_MS, false), (RECEIVED - SKEW_MS + 1, true)] {
        let core = take_at(&(Arc::new(MemoryObjects::default()) as Arc<dyn Objects>), began).await;
        assert_eq!(!core.uncertain(&undecided(&pack)).is_empty(), asks, "{began}");
    }
}

#[tokio::test]
async fn a_pack_that_comes_for_the_first_time_after_ten_minutes_is_decided_and_its_ids_are_asked_of_the_ledger() {
    let made_at = |ms: i64| (ms as u128) << 80 | 7 << 76 | 2 << 62 | 1;
    let now = RECEIVED + TEN_MINUTES;
    let core = take_at(&(Arc::new(MemoryObjects::default()) as Arc<dyn Objects>), now).await;
    for (ms, asked) in [(now + SKEW_MS, 0), (now + SKEW_MS - 1, 1)] {
        let fresh = Arc::new(pack_with("a", &[made_at(ms)], false));
        assert_eq!(
            core.plan(undecided(&fresh), ms).lookups.len(),
            asked,
            "what was made since is remembered, as far as clocks differ"
        );
    }
    let late = Arc::new(pack_with("a", &[made_at(RECEIVED)], false));
    let plan = core.plan(undecided(&late), now);
    assert_eq!(plan.lookups.len(), 1, "a client that was told this id may have sent it again since");
    let draft = core.decide(plan, &[None], now, &mut |_| smallvec![crate::queue::Position { segment: 1, offset: 0 }]);
    assert_eq!((draft.seal.packs[0].pack_id, draft.seal.tenants[0].stored), (late.id(), 1));
    assert_eq!(draft.packs()[0].header().received_at, RECEIVED, "it keeps the time of its acceptance");
}
