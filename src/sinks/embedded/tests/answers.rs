//! Whatever is asked, the store answers as a plain list of rows would: in memory, on disk, half and half, after a restart.

use super::*;
use crate::{fs::sim::CrashMode, sinks::contract};

pub(super) use crate::sinks::contract::TENANTS;

/// Asks `questions` random questions of each tenant and compares the answers.
pub(super) fn compare(bench: &Bench, log: &[Arc<DecidedSeal>], dice: &mut Dice, questions: usize, context: &str) {
    contract::compare(bench, log, dice, questions, context, &|scope, model, filter, sort, context| {
        pausing(bench, scope, model, filter, sort, context);
    });
}

/// A search that pauses whenever it may finds everything in the end, in order.
fn pausing(bench: &Bench, scope: &TenantScope, model: &Model, filter: &Filter, sort: Sort, context: &str) {
    let view = bench.store.0.inner.tenant(scope);
    let mut query = ListQuery {
        filter: filter.clone(),
        sort,
        limit: usize::MAX,
        may_pause: true,
        ..ListQuery::default()
    };
    let (want, ..) = model.list(&query);
    let control = Control {
        deadline: Instant::now() + Duration::from_secs(600),
        abandoned: Arc::default(),
    };
    let (mut found, mut calls) = (Vec::new(), 0);
    loop {
        let page = query::list::list(&view, &query, &control, Instant::now()).expect("lists");
        let last = page.entries.last().map(|e| Place {
            timestamp: e.entry().timestamp(),
            sequence: e.sequence.expect("numbered"),
        });
        found.extend(page.entries);
        (query.after, calls) = (page.reached.or(last), calls + 1);
        assert!(calls < 10_000, "{context}: it gets on");
        if !page.more {
            break;
        }
    }
    assert!(plain(&found) == plain(&want), "{context}: {sort:?}, {calls} calls");
}

#[test]
fn the_store_answers_as_a_plain_list_of_rows_does() {
    for seed in [11, 12] {
        println!("seed {seed}");
        let (mut sequencer, mut dice) = (Sequencer::new(seed), Dice::new(seed ^ 99));
        let mut bench = Bench::recover(SimFs::new(), quiet(), &[]);
        let grow = |bench: &Bench, sequencer: &mut Sequencer, seals: usize| {
            for _ in 0..seals {
                let seal = if sequencer.dice.chance(1) {
                    sequencer.gap(&["hot", "cold"])
                } else {
                    sequencer.seal(&["hot", "hot", "hot", "hot", "warm"], 100)
                };
                bench.store.apply(&seal).expect("applies");
            }
            let seal = sequencer.seal(&["cold"], 3);
            bench.store.apply(&seal).expect("applies");
            bench.store.expect(seal.seal.n);
        };
        grow(&bench, &mut sequencer, 120);
        compare(&bench, &sequencer.log, &mut dice, 30, &format!("seed {seed}, in memory"));
        bench.store.flush().expect("flushes");
        assert_eq!(bench.store.health().memtable_bytes, 0);
        compare(&bench, &sequencer.log, &mut dice, 30, &format!("seed {seed}, one part"));
        grow(&bench, &mut sequencer, 30);
        compare(&bench, &sequencer.log, &mut dice, 15, &format!("seed {seed}, a part and memory"));
        bench.store.flush().expect("flushes");
        grow(&bench, &mut sequencer, 20);
        bench.store.close();
        let fs = bench.fs.crash(seed, CrashMode::Lose);
        bench = Bench::recover(fs, quiet(), &sequencer.log);
        assert_eq!(bench.opened.damage, []);
        assert_eq!(bench.store.health().parts, 2);
        compare(&bench, &sequencer.log, &mut dice, 30, &format!("seed {seed}, after a restart"));
    }
}

#[test]
fn no_answer_holds_a_row_of_another_tenant() {
    let mut sequencer = Sequencer::new(5);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    for part in 0..3 {
        for _ in 0..5 {
            bench.store.apply(&sequencer.seal(&["a", "a-b", "b"], 20)).expect("applies");
        }
        if part < 2 {
            bench.store.flush().expect("flushes");
        }
    }
    let models = Model::of(&sequencer.log);
    for (name, model) in &models {
        let scope = TenantScope::new(name.clone());
        for (other, rows) in &models {
            for row in &rows.rows {
                let id = row.entry().id();
                let found = bench.ask(bench.store.get(&scope, id)).expect("gets");
                assert_eq!(found.is_some(), other == name, "{id} of {other} asked by {name}");
                let known = bench.store.lookup(&[(name.clone(), id)]).expect("looks up");
                assert_eq!(known[0].is_some(), other == name, "{id} of {other} looked up by {name}");
                let filter = Filter {
                    ids: vec![id],
                    ..Filter::default()
                };
                let query = StatsQuery {
                    filter,
                    ..StatsQuery::default()
                };
                let stats = bench.ask(bench.store.stats(&scope, query)).expect("counts");
                assert_eq!(stats.total, u64::from(other == name), "{id} of {other} counted by {name}");
            }
        }
        assert_eq!(bench.store.visible_head(&scope).head, model.head);
    }
    bench.check_rows(&sequencer.log, "three tenants");
    let stranger = scope("c");
    let page = bench
        .ask(bench.store.list(
            &stranger,
            ListQuery {
                limit: 10,
                count: Count::Exact,
                ..ListQuery::default()
            },
        ))
        .expect("lists");
    assert_eq!((page.entries.len(), page.total, page.as_of), (0, Some(0), 0));
    assert_eq!(
        bench.ask(bench.store.stats(&stranger, StatsQuery::default())).expect("counts"),
        Stats::default()
    );
}

#[test]
fn a_scan_that_pauses_says_how_far_it_looked_and_goes_on_from_there() {
    let mut sequencer = Sequencer::new(6);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    for _ in 0..4 {
        bench.store.apply(&sequencer.seal(&["a"], 50)).expect("applies");
        bench.store.flush().expect("flushes");
    }
    let (inner, model) = (&bench.store.0.inner, &Model::of(&sequencer.log)[&tenant("a")]);
    let view = inner.tenant(&scope("a"));
    let control = Control {
        deadline: Instant::now() + Duration::from_secs(600),
        abandoned: Arc::default(),
    };
    let (mut after, mut seen, mut calls) = (0, Vec::new(), 0);
    while after < model.head {
        let scan = query::scan::scan(&view, &Filter::default(), after, 10_000, &control, Instant::now()).expect("scans");
        assert!(scan.upto > after, "it gets on");
        assert!(scan.entries.iter().all(|e| e.sequence <= Some(scan.upto)));
        seen.extend(scan.entries);
        (after, calls) = (scan.upto, calls + 1);
    }
    assert!(plain(&seen) == plain(&model.rows));
    assert_eq!(calls, 4, "one part at a time, since it is past its time at once");
}

/// The most bytes of pages that one question holds at a time, whatever there is: a batch of each column that it looks at.
const PAGES: isize = 4 << 20;

#[test]
fn what_a_question_holds_does_not_grow_with_what_there_is() {
    let settings = StoreSettings { merge_parts: 2, ..quiet() };
    let (mut sequencer, bench) = (Sequencer::new(77), Bench::recover(SimFs::new(), settings, &[]));
    for _ in 0..12 {
        let pack = sequencer.pack(&tenant("hot"), 1_000);
        let seal = sequencer.seal_of(vec![pack], |_, _| false);
        bench.take(&seal);
        bench.store.flush().expect("flushes");
    }
    bench.store.compact().expect("merges");
    let scope = scope("hot");
    let view = bench.store.0.inner.tenant(&scope);
    assert!(view.parts.iter().any(|part| part.meta().rewrites > 0), "pages were copied");
    let control = Control {
        deadline: Instant::now() + Duration::from_secs(600),
        abandoned: Arc::default(),
    };
    let held = |what: &str, ask: &mut dyn FnMut() -> usize| {
        let (found, most, left) = part::pages::held::most_of(ask);
        assert!(found > 0 && most > 0, "{what}: it reads pages");
        assert!(most < PAGES && left == 0, "{what}: {most} bytes of pages at a time, {left} afterwards");
    };
    let ask = |query: ListQuery| query::list::list(&view, &query, &control, control.deadline).expect("lists").entries.len();
    for sort in [Sort::TimestampDesc, Sort::TimestampAsc, Sort::SequenceDesc, Sort::SequenceAsc] {
        let everything = ListQuery {
            sort,
            limit: usize::MAX,
            max_bytes: 64 << 20,
            ..ListQuery::default()
        };
        held("an export", &mut || ask(everything.clone()));
        held("a page far back", &mut || {
            ask(ListQuery {
                skip: 8_000,
                limit: 50,
                ..everything.clone()
            })
        });
    }
    let search = crate::search::parse("message:a OR -nowhere").expect("a search");
    let filter = Filter {
        search: Some(search),
        ..Filter::default()
    };
    held("a search", &mut || {
        ask(ListQuery {
            filter: filter.clone(),
            count: Count::Exact,
            ..ListQuery::default()
        })
    });
    held("statistics", &mut || {
        let query = StatsQuery {
            filter: filter.clone(),
            ..StatsQuery::default()
        };
        let stats = query::stats::stats(&view, &query, &control, |_| Helpers::none()).expect("counts");
        stats.total as usize
    });
}
