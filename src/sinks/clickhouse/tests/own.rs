//! What is ClickHouse's own: the schema, the tables, deleting, the view for people.

use super::*;
use crate::{
    fs::sim::Dice,
    model::entry::Field,
    seal::erasure::ErasureKind::{Cleanup, Retention},
    sinks::contract::{BASE, Model, Sequencer, check, scope, tenant},
};

#[test]
fn a_schema_that_is_newer_is_refused_in_clear_words() {
    let Some(bench) = Bench::new() else { return };
    assert_eq!(bench.runtime.block_on(migrate(&bench.settings)), Ok(LATEST), "again: nothing to do");
    bench.run("INSERT INTO schema_version SELECT toUInt32(1000), now64(3), 'a test'");
    let refused = bench.runtime.block_on(ClickHouse::connect(&bench.settings, bench.view.clone())).map(drop);
    assert_eq!(refused, Err(ClickHouseError::Newer { found: 1000, known: LATEST }));
    let follower = ClickHouseFollower::start(&bench.settings, 0, bench.runtime.handle().clone());
    assert_eq!(
        bench.runtime.block_on(follower).map(drop).expect_err("refused").to_string(),
        "the ClickHouse schema has version 1000, and this binary knows up to 1: it was migrated by a newer Sluice; run that one"
    );
}

#[test]
fn a_table_without_a_deduplication_window_is_refused() {
    let Some(bench) = Bench::new() else { return };
    bench.run("ALTER TABLE packs MODIFY SETTING non_replicated_deduplication_window = 0");
    let refused = bench.runtime.block_on(ClickHouse::connect(&bench.settings, bench.view.clone())).map(drop);
    let Err(ClickHouseError::Table { name: "packs", fault }) = refused else {
        panic!("{refused:?}");
    };
    assert!(fault.contains("non_replicated_deduplication_window"), "{fault}");
}

#[test]
fn a_server_that_is_not_there_is_said_so() {
    let settings = ClickHouseSettings {
        url: "http://127.0.0.1:9".into(),
        ..ClickHouseSettings::default()
    };
    let refused = runtime().block_on(migrate(&settings));
    assert!(matches!(&refused, Err(ClickHouseError::Unavailable { .. })), "{refused:?}");
}

#[test]
fn a_seal_is_one_part_of_each_table() {
    let Some(bench) = Bench::new() else { return };
    let mut sequencer = Sequencer::new(3);
    let packs: Vec<_> = (0..3).map(|i| sequencer.pack(&tenant(["a", "b", "c"][i]), 700)).collect();
    bench.take(&sequencer.seal_of(packs, |_, _| false));
    for (table, rows) in [("logs", 2_100), ("entry_ids", 2_100), ("packs", 3)] {
        let inserted = format!(
            "SELECT count() FROM system.parts WHERE active AND table = '{table}' AND database = '{}'",
            bench.settings.database
        );
        assert_eq!(bench.count(&inserted), 1, "{table}");
        assert_eq!(
            bench.count(&format!("SELECT count() FROM {table} WHERE partition = 0 AND seal = 1")),
            rows,
            "{table}"
        );
    }
}

#[test]
fn texts_of_all_kinds_come_back_and_are_found() {
    let Some(bench) = Bench::new() else { return };
    let odd = [
        "it's",
        "back\\slash",
        "tab\there",
        "line\nbreak",
        "`tick`",
        "ünï ☃ 🦀",
        "{p0:String}",
        "' OR 1=1 --",
        "?",
        "%_",
        "",
        " ",
    ];
    let mut builder = crate::model::pack::PackBuilder::default();
    for (i, text) in odd.iter().enumerate() {
        let mut fields: [Option<&[u8]>; Field::COUNT] = [None; Field::COUNT];
        let required = if text.is_empty() { "x" } else { text };
        for field in [Field::Action, Field::ResourceType, Field::ResourceId] {
            fields[field as usize] = Some(required.as_bytes());
        }
        for field in [Field::UserId, Field::SessionId, Field::Email, Field::Message] {
            fields[field as usize] = Some(text.as_bytes());
        }
        let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, i as u8];
        fields[Field::IpAddress as usize] = Some(if i % 2 == 0 { &v6 } else { &v6[12..] });
        fields[Field::BeforeState as usize] = Some(br#"{ "a" : [1.50, "x\u0041"] }"#);
        builder.push(&crate::model::entry::NewEntry {
            id: Uuid::from_u128(i as u128 + 1),
            client_id: i % 2 == 0,
            hash: u128::MAX - i as u128,
            timestamp: BASE + i as i64,
            severity: crate::model::entry::Severity::ALL[i % 4],
            fields,
        });
    }
    let header = crate::model::pack::PackHeader {
        pack_id: Uuid::from_u128(77),
        tenant: tenant("a").access_log(),
        actor: "o'hara \\ \n".into(),
        request_id: "r".into(),
        received_at: BASE,
        part: (0, 1),
    };
    let mut sequencer = Sequencer::new(1);
    let pack = Arc::new(builder.finish(header).expect("entries"));
    bench.take(&sequencer.seal_of(vec![pack], |_, _| false));
    check(&bench, &sequencer.log, "odd texts");
    let (name, model) = (tenant("a").access_log(), &Model::of(&sequencer.log)[&tenant("a").access_log()]);
    let scope = TenantScope::new(name);
    for text in odd.iter().map(|text| (*text).to_owned()).chain(["nobody".into(), "nul\0".into()]) {
        let lower = text.to_lowercase();
        for filter in [
            Filter {
                user_id: vec![text.clone()],
                ..Filter::default()
            },
            Filter {
                resource_id: vec![text.clone()],
                ..Filter::default()
            },
            Filter {
                action: vec![lower.clone()],
                ..Filter::default()
            },
            Filter {
                actor: vec![text.clone(), "o'hara \\ \n".into()],
                email: vec![text.clone()],
                ..Filter::default()
            },
        ] {
            let query = ListQuery {
                filter,
                count: super::super::super::Count::Exact,
                ..ListQuery::default()
            };
            let page = bench.runtime.block_on(bench.store.list(&scope, query.clone())).expect("lists");
            assert_eq!(page.total, Some(model.list(&query).1), "{query:?}");
        }
    }
    for range in [
        "2001:db8::/32",
        "2001:db8::/64",
        "::/0",
        "1.2.3.0/24",
        "0.0.0.0/0",
        "1.2.3.1",
        "::ffff:1.2.3.0/120",
        "2001:db8::102:304",
    ] {
        let filter = Filter {
            ip_address: vec![crate::model::filter::IpRange::parse(range).expect("a range")],
            ..Filter::default()
        };
        let query = ListQuery {
            filter,
            ..ListQuery::default()
        };
        let page = bench.runtime.block_on(bench.store.list(&scope, query.clone())).expect("lists");
        assert_eq!(page.entries.len(), model.list(&query).0.len(), "{range}");
    }
}

#[test]
fn packs_and_orders_are_known_by_name() {
    let Some(bench) = Bench::new() else { return };
    let mut sequencer = Sequencer::new(4);
    bench.take(&sequencer.seal(&["a"], 5));
    bench.take(&sequencer.erase("a", Cleanup, BASE));
    let (pack, job) = (sequencer.log[0].seal.packs[0].pack_id, sequencer.log[1].seal.erasures[0].erasure.job);
    let known = bench.follower.lookup_packs(&[Uuid::from_u128(5), pack, job, Uuid::nil()]).expect("looks up");
    assert_eq!(known, [false, true, true, false]);
    assert!(bench.restarted().lookup_packs(&[]).expect("looks up").is_empty());
}

#[test]
fn the_ledger_of_a_restart_obeys_erasures_and_takes_thousands_of_ids() {
    let Some(bench) = Bench::new() else { return };
    let mut sequencer = Sequencer::new(6);
    let pack = sequencer.pack(&tenant("a"), 2_000);
    bench.take(&sequencer.seal_of(vec![pack], |_, _| false));
    bench.take(&sequencer.erase("a", Cleanup, BASE - 100));
    let model = &Model::of(&sequencer.log)[&tenant("a")];
    let keys: Vec<_> = (1..=3_100)
        .map(|id| (tenant(if id % 7 == 0 { "b" } else { "a" }), Uuid::from_u128(id)))
        .collect();
    let expected: Vec<_> = keys
        .iter()
        .map(|(name, id)| {
            let row = model.rows.iter().find(|row| *name == tenant("a") && row.entry().id() == *id);
            row.map(|row| row.entry().hash())
        })
        .collect();
    assert!(expected.iter().flatten().count() > 100 && !model.erased.is_empty());
    assert_eq!(bench.restarted().lookup(&keys).expect("looks up"), expected);
}

#[test]
fn erased_rows_are_deleted_for_many_tenants_at_once_only_after_they_were_counted() {
    let Some(bench) = Bench::new() else { return };
    let (mut sequencer, mut dice) = (Sequencer::new(7), Dice::new(1));
    let names = ["a", "b", "c"];
    for _ in 0..3 {
        let packs = names.iter().map(|name| sequencer.pack(&tenant(name), 10)).collect();
        bench.take(&sequencer.seal_of(packs, |_, _| false));
    }
    for name in names {
        bench.take(&sequencer.erase(name, Cleanup, BASE + 500 + dice.below(1_500) as i64));
    }
    let sweep_after = |purge_after| {
        let settings = ClickHouseSettings {
            purge_after,
            ..bench.settings.clone()
        };
        let db = Db::new(&settings).expect("a database");
        let swept = bench.runtime.block_on(sweep::run(&db, 0));
        swept.unwrap_or_else(|error| panic!("{}", fault::outline(&error)))
    };
    let sweep = || sweep_after(Duration::ZERO);
    sweep();
    assert_eq!(bench.count("SELECT count() FROM logs"), 90, "nothing was counted yet");
    for name in ["a", "b"] {
        let models = Model::of(&sequencer.log);
        let (job, rows) = models[&tenant(name)].removed[0];
        assert_eq!(bench.runtime.block_on(bench.store.count_erased(&scope(name), job)).expect("counts"), rows);
        bench.take(&sequencer.settle(name, job, rows));
    }
    assert_eq!(sweep_after(Duration::from_secs(86_400 * 36_500)), 2, "they wait");
    assert_eq!(bench.count("SELECT count() FROM logs"), 90, "a read that began before must not miss them");
    assert_eq!(sweep(), 0);
    let models = Model::of(&sequencer.log);
    let left = |name: &str| models[&tenant(name)].rows.len() as u64;
    assert!(left("a") < 30 && left("b") < 30);
    for table in ["logs", "entry_ids"] {
        assert_eq!(bench.count(&format!("SELECT count() FROM {table}")), left("a") + left("b") + 30, "{table}");
    }
    let mutations = format!(
        "SELECT count() FROM system.mutations WHERE table = 'logs' AND database = '{}'",
        bench.settings.database
    );
    assert_eq!(bench.count(&mutations), 1, "one for all of them");
    assert_eq!(sweep(), 0, "they are marked");
    assert_eq!(bench.count(&mutations), 1);
    check(&bench, &sequencer.log, "after the delete");
    // A seal that is applied again after that is known by its packs, and brings nothing back.
    let again = bench.restarted();
    sequencer.log.iter().for_each(|seal| again.apply(seal).expect("applies"));
    assert_eq!(bench.count("SELECT count() FROM logs"), left("a") + left("b") + 30);
    check(&bench, &sequencer.log, "applied again");
}

#[test]
fn what_is_there_and_not_yet_applied_is_in_no_answer() {
    let Some(bench) = Bench::new() else { return };
    let mut sequencer = Sequencer::new(25);
    let packs = [9, 5].map(|rows| sequencer.pack(&tenant("a"), rows));
    let hidden = packs[1].entry(0).id();
    let [shown, early] = packs.map(|pack| sequencer.seal_of(vec![pack], |_, _| false));
    bench.take(&shown);
    bench.follower.apply(&early).expect("applies");
    assert_eq!(bench.count("SELECT count() FROM logs"), 14);
    check(&bench, &sequencer.log[..1], "as of the view");
    let found = bench.runtime.block_on(bench.store.get(&scope("a"), hidden)).expect("gets");
    assert!(found.is_none());
    bench.view.fold(&early);
    check(&bench, &sequencer.log, "a little later");
}

#[test]
fn an_erasure_is_counted_when_all_rows_that_it_may_take_are_there() {
    let Some(bench) = Bench::new() else { return };
    let mut sequencer = Sequencer::new(26);
    let pack = sequencer.pack(&tenant("a"), 9);
    bench.take(&sequencer.seal_of(vec![pack], |_, _| false));
    let at = |head| Snapshot::new(&scope("a"), head, None);
    let removal = at(9).removal_of(Cleanup, i64::MAX);
    let count = |head| bench.runtime.block_on(erased::count(&bench.db(), &at(head), &removal));
    assert!(matches!(count(8), Err(StoreError::Starting)));
    assert_eq!(count(9).expect("counts"), 9);
    assert_eq!(count(12).expect("counts"), 9);
}

#[test]
fn a_row_belongs_to_one_erasure_and_is_in_no_answer_of_any_kind_after_it() {
    let Some(bench) = Bench::new() else { return };
    let mut sequencer = Sequencer::new(27);
    let pack = sequencer.pack(&tenant("a"), 90);
    bench.take(&sequencer.seal_of(vec![pack], |_, _| false));
    // What SQL does not decide alone, so that rows are counted here.
    let looked_at = Filter {
        user_agent: vec![vec!["linux".into()]],
        ..Filter::default()
    };
    let (mut before, mut counted) = (u64::MAX, 0);
    for (kind, cutoff) in [(Cleanup, BASE - 600), (Cleanup, BASE - 200), (Retention, i64::MAX)] {
        let would = bench
            .runtime
            .block_on(bench.store.count_would_erase(&scope("a"), kind, cutoff))
            .expect("counts");
        bench.take(&sequencer.erase("a", kind, cutoff));
        let model = &Model::of(&sequencer.log)[&tenant("a")];
        let (job, rows) = *model.removed.last().expect("erased");
        let found = bench.runtime.block_on(bench.store.count_erased(&scope("a"), job)).expect("counts");
        assert_eq!((would, found), (rows, rows), "{cutoff}");
        let query = StatsQuery {
            filter: looked_at.clone(),
            ..StatsQuery::default()
        };
        let stats = bench.runtime.block_on(bench.store.stats(&scope("a"), query.clone())).expect("counts");
        assert_eq!(stats, model.stats(&query), "{cutoff}");
        assert!(stats.total < before, "{cutoff}: {} after {before}", stats.total);
        (before, counted) = (stats.total, counted + rows);
        bench.take(&sequencer.settle("a", job, rows));
        check(&bench, &sequencer.log, "after an erasure");
    }
    assert_eq!(counted, 90);
}

#[test]
fn a_read_before_the_view_is_there_or_beyond_the_room_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let list = || bench.runtime.block_on(bench.store.list(&scope("a"), ListQuery::default())).map(drop);
    bench.view.starting.store(true, Ordering::SeqCst);
    assert!(matches!(list(), Err(StoreError::Starting)));
    bench.view.starting.store(false, Ordering::SeqCst);
    let places = bench.store.0.places.clone();
    let all = u32::try_from(places.available_permits()).expect("few");
    let held = places.try_acquire_many_owned(all).expect("free");
    assert!(matches!(list(), Err(StoreError::Busy)));
    drop(held);
    list().expect("lists");
}

#[test]
fn people_see_no_erased_rows() {
    let Some(bench) = Bench::new() else { return };
    let mut sequencer = Sequencer::new(8);
    let pack = sequencer.pack(&tenant("a"), 40);
    bench.take(&sequencer.seal_of(vec![pack], |_, _| false));
    let pack = sequencer.pack(&tenant("b").access_log(), 4);
    bench.take(&sequencer.seal_of(vec![pack], |_, _| false));
    bench.take(&sequencer.erase("a", Cleanup, BASE - 300));
    let left = Model::of(&sequencer.log)[&tenant("a")].rows.len() as u64;
    assert!(left > 0 && left < 40);
    assert_eq!(bench.count("SELECT count() FROM logs_flat WHERE tenant = 'a' AND log = 'audit'"), left);
    assert_eq!(
        bench.count("SELECT count() FROM logs_flat WHERE tenant = 'b' AND log = 'access' AND timestamp > '2020-01-01'"),
        4
    );
    assert_eq!(
        bench.count("SELECT uniqExact(severity) FROM logs_flat WHERE severity IN ('INFO', 'WARNING', 'ERROR', 'CRITICAL')"),
        4
    );
}
