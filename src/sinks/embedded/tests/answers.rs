//! Whatever is asked, the store answers as a plain list of rows would: in memory, on disk, half and half, after a restart.

use super::*;
use crate::fs::sim::CrashMode;

pub(super) const TENANTS: [&str; 3] = ["hot", "warm", "cold"];

fn some<T>(dice: &mut Dice, percent: u64, make: impl FnOnce(&mut Dice) -> T) -> Option<T> {
    dice.chance(percent).then(|| make(dice))
}

/// One or two values of a list, or one that nothing has.
fn texts(dice: &mut Dice, from: &[&str]) -> Vec<String> {
    let n = 1 + dice.below(2);
    let pick = |dice: &mut Dice| {
        if dice.chance(10) {
            "nobody"
        } else if dice.chance(8) {
            MASKED
        } else {
            from[dice.below(from.len() as u64) as usize]
        }
    };
    (0..n).map(|_| pick(dice).to_owned()).collect()
}

/// A random filter; mostly few conditions, so that something matches.
pub fn filter(dice: &mut Dice, model: &Model) -> Filter {
    let (span, head) = (200_000, model.head.min(40_000));
    let time = |dice: &mut Dice| BASE - 60_000 + dice.below(span) as i64;
    let id = |dice: &mut Dice| {
        model
            .rows
            .get(dice.below(model.rows.len() as u64 + 2) as usize)
            .map_or(Uuid::nil(), |r| r.entry().id())
    };
    let numbers: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let lower = |list: Vec<String>| list.into_iter().map(|t| t.to_lowercase()).collect();
    Filter {
        from: some(dice, 20, time),
        to: some(dice, 20, time),
        timestamps: some(dice, 6, |d| (0..2).map(|_| time(d)).map(|t| (t, t + 30_000)).collect()).unwrap_or_default(),
        ids: some(dice, 6, |d| vec![id(d), id(d)]).unwrap_or_default(),
        user_id: some(dice, 12, |d| texts(d, &USERS)).unwrap_or_default(),
        email: some(dice, 5, |d| texts(d, &["u1@example.org", "u2@example.org"])).unwrap_or_default(),
        session_id: some(dice, 2, |d| texts(d, &["s"])).unwrap_or_default(),
        resource_id: some(dice, 8, |d| texts(d, &numbers)).unwrap_or_default(),
        request_id: Vec::new(),
        actor: some(dice, 10, |d| texts(d, &["alice", "bob"])).unwrap_or_default(),
        action: some(dice, 12, |d| lower(texts(d, &ACTIONS))).unwrap_or_default(),
        resource_type: some(dice, 8, |d| lower(texts(d, &["doc", "session"]))).unwrap_or_default(),
        severity: some(dice, 20, |d| vec![Severity::ALL[d.below(4) as usize], Severity::ALL[d.below(4) as usize]]).unwrap_or_default(),
        ip_address: some(dice, 8, |d| {
            let addr = std::net::IpAddr::from([10, 0, d.below(3) as u8, d.below(5) as u8]);
            vec![IpRange {
                addr,
                prefix: [8, 23, 24, 31, 32][d.below(5) as usize],
            }]
        })
        .unwrap_or_default(),
        user_agent: some(dice, 6, |d| vec![texts(d, &["curl", "linux", "mozilla"])]).unwrap_or_default(),
        min_sequence: some(dice, 12, |d| d.below(head + 3)),
        max_sequence: some(dice, 12, |d| d.below(head + 3)),
        metadata: some(dice, 10, |d| {
            let word = format!("x{}", d.below(40));
            let deep = LeafFilter {
                path: vec!["deep".into(), "list".into()],
                values: vec![word],
            };
            let flat = LeafFilter {
                path: vec!["n".into()],
                values: vec![d.below(12).to_string(), d.below(12).to_string()],
            };
            if d.chance(50) { vec![deep] } else { vec![flat] }
        })
        .unwrap_or_default(),
        search: some(dice, 20, |d| {
            let n = d.below(40);
            let text = match d.below(8) {
                0 => format!("word{n}"),
                1 => format!("word{n} -curl"),
                2 => format!("\"word{n} of\" OR user:words OR x{n}").replace("user:", "user_id:"),
                3 => format!("metadata.n:{n} OR ÄNDERN"),
                4 => format!("word{}* message", n % 10),
                5 => format!("-(login OR u{} OR metadata:x{n})", n % 5),
                6 => format!("action:LOG* user_agent:linux {n}"),
                _ => format!("email:u{}@example.org severity:ERROR,INFO", n % 5),
            };
            crate::search::parse(&text).expect("well formed")
        }),
        mask: None,
    }
}

/// Masks that hide some of what the rows hold, in every way.
pub(super) fn mask(dice: &mut Dice) -> Arc<Mask> {
    const MASKS: [&[&str]; 14] = [
        &["email"],
        &["pattern:email"],
        &["pattern:email", "pattern:phone", "pattern:card", "pattern:iban", "pattern:secret_keys"],
        &["user_id", "metadata.deep"],
        &["message", "metadata.n"],
        &["actor"],
        &["action", "resource_type"],
        &["ip_address", "user_agent", "resource_id"],
        &["metadata"],
        &["metadata.deep.*"],
        &["metadata.*.list.*"],
        &["metadata.*"],
        &["user_id", "action", "message", "email", "actor", "metadata"],
        &["session_id", "before_state.x"],
    ];
    let paths: Vec<String> = MASKS[dice.below(14) as usize].iter().map(|p| (*p).to_owned()).collect();
    Arc::new(Mask::compile(&paths).expect("a mask"))
}

/// Asks `questions` random questions of each tenant and compares the answers.
pub(super) fn compare(bench: &Bench, log: &[Arc<DecidedSeal>], dice: &mut Dice, questions: usize, context: &str) {
    let models = Model::of(log);
    for name in TENANTS {
        let (scope, model) = (scope(name), &models[&tenant(name)]);
        for round in 0..questions {
            // Under a mask the store answers as one whose rows are the masked ones.
            let mask = dice.chance(35).then(|| mask(dice));
            let masked = mask.as_ref().map(|mask| model.seen_through(mask));
            let (filter, model) = (filter(dice, model).through(mask), masked.as_ref().unwrap_or(model));
            let context = format!("{context}, {name}, question {round}, {filter:?}");
            let sort = [Sort::TimestampDesc, Sort::TimestampAsc, Sort::SequenceDesc, Sort::SequenceAsc][dice.below(4) as usize];
            let query = ListQuery {
                filter: filter.clone(),
                sort,
                skip: [0, 0, 7, 2_000][dice.below(4) as usize],
                limit: [1, 50, 1_000][dice.below(3) as usize],
                count: if dice.chance(50) { Count::Exact } else { Count::None },
                after: dice.chance(30).then(|| {
                    let row = &model.rows[dice.below(model.rows.len() as u64) as usize];
                    let (nudge, of) = ([-1, 0, 0, 0, 1][dice.below(5) as usize], row.sequence.expect("numbered"));
                    Place {
                        timestamp: row.entry().timestamp() + nudge,
                        sequence: of,
                    }
                }),
                upto: dice.chance(30).then(|| dice.below(model.head + 5)),
                may_pause: false,
                max_bytes: [usize::MAX, usize::MAX, 1, 5_000, 300_000][dice.below(5) as usize],
            };
            let page = bench.ask(bench.store.list(&scope, query.clone())).expect("lists");
            let (entries, total, more) = model.list(&query);
            let context = format!("{context}: {query:?}");
            assert!(plain(&page.entries) == plain(&entries), "{context} of {total}");
            assert_eq!(page.more, more, "{context}");
            let counts = query.count == Count::Exact;
            assert_eq!((page.total, page.total_is_exact), (counts.then_some(total), counts), "{context}");
            assert_eq!(page.as_of, query.upto.unwrap_or(u64::MAX).min(model.head), "{context}");
            bounded(bench, &scope, &query, total, dice, &context);
            if round % 4 == 0 {
                pausing(bench, &scope, model, &filter, sort, &context);
            }
            if round % 3 == 0 {
                let query = stats::question(dice, filter.clone());
                let answer = bench.ask(bench.store.stats(&scope, query.clone())).expect("counts");
                assert_eq!(answer, model.stats(&query), "{context}, {query:?}");
            }
            if round % 3 == 1 {
                walk(bench, &scope, model, &filter, dice, &context);
            }
        }
        gets(bench, &scope, model, dice, context);
    }
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

/// Counting that is bounded gives the same page, and no more than there is.
fn bounded(bench: &Bench, scope: &TenantScope, query: &ListQuery, total: u64, dice: &mut Dice, context: &str) {
    let beyond = [0, 40, 3_000][dice.below(3) as usize];
    let hurry = dice.chance(30);
    let within = if hurry { Duration::ZERO } else { Duration::from_secs(600) };
    let query = ListQuery {
        count: Count::Bounded { beyond, within },
        max_bytes: usize::MAX,
        ..query.clone()
    };
    let page = bench.ask(bench.store.list(scope, query.clone())).expect("lists");
    let known = page.total.expect("counted");
    assert!(known <= total && (known == total || !page.total_is_exact), "{context}: {known} of {total}");
    if query.after.is_none() {
        assert!(known >= total.min((query.skip + page.entries.len()) as u64), "{context}: {known} of {total}");
    }
    if !hurry {
        let least = (query.skip + query.limit) as u64 + beyond;
        assert!(
            known >= total.min(least) && (page.total_is_exact || known >= least),
            "{context}: {known} of {total}"
        );
    }
}

/// Follows the log from some number on to its end.
fn walk(bench: &Bench, scope: &TenantScope, model: &Model, filter: &Filter, dice: &mut Dice, context: &str) {
    let start = dice.below(model.head.min(12_000) + 2);
    let limit = [3, 500, 9_000][dice.below(3) as usize];
    let (mut after, mut entries, mut voids) = (start, Vec::new(), Vec::new());
    for _ in 0..12 {
        let scan = bench.ask(bench.store.scan(scope, filter.clone(), after, limit)).expect("scans");
        assert!(scan.entries.len() <= limit && scan.upto >= after, "{context}");
        assert!(
            scan.entries.iter().all(|e| e.sequence > Some(after) && e.sequence <= Some(scan.upto)),
            "{context}"
        );
        entries.extend(scan.entries);
        voids.extend(scan.voids);
        after = scan.upto;
        if after >= model.head {
            break;
        }
    }
    let complete = after >= model.head;
    let expected: Vec<StoredEntry> = model
        .matching(filter)
        .into_iter()
        .filter(|r| r.sequence > Some(start) && r.sequence <= Some(after))
        .cloned()
        .collect();
    assert!(plain(&entries) == plain(&expected), "{context}: walk from {start} by {limit} to {after}");
    let passed: u64 = voids.iter().map(|v| v.1 - v.0 + 1).sum();
    let there: u64 = model.voids.iter().map(|v| (v.1 + 1).saturating_sub(v.0.max(start + 1))).sum();
    assert!(!complete || passed == there, "{context}: voids {voids:?} from {start}");
    assert!(voids.is_sorted_by(|a, b| a.1 < b.0), "{context}: voids ascend");
    let is_void = |v: &(u64, u64)| model.voids.iter().any(|m| m.0 <= v.0 && v.1 <= m.1);
    assert!(voids.iter().all(is_void), "{context}: voids {voids:?}");
}

fn gets(bench: &Bench, scope: &TenantScope, model: &Model, dice: &mut Dice, context: &str) {
    for _ in 0..10.min(model.rows.len()) {
        let row = &model.rows[dice.below(model.rows.len() as u64) as usize];
        let id = row.entry().id();
        let found = bench.ask(bench.store.get(scope, id)).expect("gets").expect("is there");
        assert!(plain(&[found]) == plain(std::slice::from_ref(row)), "{context}: {id}");
        let key = (scope.tenant().clone(), id);
        assert_eq!(bench.store.lookup(&[key]).expect("looks up"), [Some(row.entry().hash())], "{context}");
    }
    assert!(bench.ask(bench.store.get(scope, Uuid::nil())).expect("gets").is_none(), "{context}");
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
