//! Searches in memory: merged runs get filters, which change what is looked through and never what is found.

use super::*;

const FULL: u64 = 8_192;

/// A memtable whose first run is full, and the rows that it holds.
fn filled(sequencer: &mut Sequencer) -> (Memtable, Model) {
    let memtable = Memtable::new();
    let mut bytes = 0;
    while sequencer.heads.get(&tenant("a")).copied().unwrap_or(0) < FULL + 300 {
        let seal = sequencer.seal(&["a"], 500);
        bytes += memtable.apply(&seal, |_| 0);
        assert!(bytes <= sequencer.log.iter().map(|s| Memtable::cost_of(s)).sum());
    }
    let model = Model::of(&sequencer.log).remove(&tenant("a")).expect("rows");
    (memtable, model)
}

fn searching(text: &str) -> Filter {
    Filter {
        search: Some(crate::search::parse(text).expect(text)),
        ..Filter::default()
    }
}

#[test]
fn the_second_search_of_a_full_run_makes_its_filter_and_all_find_the_same() {
    let mut sequencer = Sequencer::new(31);
    let (memtable, model) = filled(&mut sequencer);
    let visible = AtomicU64::new(u64::MAX);
    let view = memtable.view(&scope("a"), &visible).expect("a table");
    let full: Vec<bool> = view.runs().iter().map(|run| run.len() as u64 == FULL).collect();
    assert!(full[0] && full.contains(&false), "runs of both sorts");
    let found = |filter: &Filter| -> Vec<u64> {
        let mut found: Vec<u64> = Vec::new();
        for run in view.runs() {
            let places = view.select(run, 0..run.len() as u32, filter);
            found.extend(places.into_iter().map(|place| view.row(run, place).sequence));
        }
        found.sort_unstable();
        found
    };
    let has_filter = || view.runs().iter().map(|run| run.has_filter()).collect::<Vec<_>>();
    let expected = |filter: &Filter| -> Vec<u64> {
        let mut all: Vec<u64> = model.matching(filter).iter().filter_map(|e| e.sequence).collect();
        all.sort_unstable();
        all
    };
    // Nothing that a filter could help with makes one.
    for text in ["-nowhere", "nowhere*", "severity:ERROR", "from:2024-01-01 OR word1"] {
        for _ in 0..3 {
            assert_eq!(found(&searching(text)), expected(&searching(text)), "{text}");
        }
    }
    assert!(!has_filter().contains(&true));
    let rare = searching("\"word7 of 11\" -curl metadata:x7");
    assert_eq!(found(&rare), expected(&rare));
    assert!(!has_filter().contains(&true), "the first search only looks");
    // A piece of a run is not a second look at it.
    view.runs().iter().for_each(|run| drop(view.select(run, 0..100, &rare)));
    assert!(!has_filter().contains(&true));
    assert_eq!(found(&rare), expected(&rare));
    assert_eq!(has_filter(), full, "the second makes the filters of the full runs");
    for text in [
        "word7",
        "nowhere",
        "word7 nowhere",
        "word7 OR nowhere",
        "-word7",
        "user_id:u1 word3",
        "metadata.n:3 ändern",
        "wor* 7",
    ] {
        assert_eq!(found(&searching(text)), expected(&searching(text)), "{text}");
    }
    let other = Filter {
        resource_id: vec!["7".into()],
        ..Filter::default()
    };
    assert_eq!(found(&other), expected(&other));
}
