//! Faults: of the real engine where it can be brought to them, else by a proxy before it. After each of them every row is there
//! once, or is written down as one that the engine would not take.

use super::{
    matches::pack,
    proxy::{Act, Proxy, Request},
    *,
};
use crate::{
    model::{
        entry::{Field, NewEntry, Severity},
        pack::{Pack, PackBuilder, PackHeader},
    },
    sinks::Sort,
};

/// A store behind a proxy.
fn behind(change: impl FnOnce(&mut OpenSearchSettings)) -> Option<(Bench, Proxy)> {
    let address = engines::address("SLUICE_TEST_OPENSEARCH")?;
    let plain = Bench::empty(change)?;
    let proxy = plain.runtime.block_on(Proxy::start(&address));
    let settings = OpenSearchSettings {
        url: proxy.address.clone(),
        ..plain.settings.clone()
    };
    // What takes long on a busy machine is done before, by one that has time.
    let patient = OpenSearchSettings {
        timeout: Duration::from_secs(120),
        ..plain.settings.clone()
    };
    let patient = OpenSearch::connect(patient, plain.view.clone()).expect("settings");
    plain.runtime.block_on(patient.applied(0, 0)).expect("begins");
    let search = OpenSearch::connect(settings.clone(), plain.view.clone()).expect("settings");
    let begun = (0..20).any(|_| plain.runtime.block_on(search.applied(0, 0)).is_ok());
    assert!(begun);
    Some((replaced(plain, search, settings), proxy))
}

/// The bench with another way to its store.
fn replaced(mut bench: Bench, search: OpenSearch, settings: OpenSearchSettings) -> Bench {
    bench.joined.search = search;
    bench.settings = settings;
    bench
}

fn is_bulk(request: &Request) -> bool {
    request.line.contains("/_bulk")
}

fn rows_of(request: &Request) -> usize {
    let lines = request.body.split(|b| *b == b'\n');
    lines.filter(|line| line.starts_with(b"{\"create\"") || line.starts_with(b"{\"index\"")).count()
}

fn some_rows(n: usize) -> Vec<(&'static str, &'static str)> {
    vec![("a message", r#"{"k":"v"}"#); n]
}

fn check(bench: &Bench, sequencer: &Sequencer, context: &str) {
    let model = &Model::of(&sequencer.log)[&tenant("hot")];
    let rows = bench.rows("hot");
    assert_eq!(rows.len(), model.rows.len(), "{context}");
    assert!(plain(&rows) == plain(&model.rows), "{context}");
}

#[test]
fn whatever_becomes_of_a_bulk_every_row_is_there_once() {
    let Some((bench, proxy)) = behind(|_| ()) else { return };
    let mut sequencer = Sequencer::new(1);
    // Every request of more than two items is too large: an empty 413, as the engine gives.
    proxy.play(|_, request| {
        if is_bulk(request) && rows_of(request) > 2 {
            Act::Answer(413, "")
        } else {
            Act::Pass
        }
    });
    let seal = sequencer.seal_of(vec![pack(&some_rows(9))], |_, _| false);
    bench.apply(&seal).expect("halved until it fits");
    assert!(proxy.count("/_bulk") > 8);
    check(&bench, &sequencer, "413");

    // The whole request is refused for a while.
    proxy.play(|n, request| {
        if is_bulk(request) && n < 2 {
            Act::Answer(429, r#"{"error":{"type":"rejected_execution_exception"},"status":429}"#)
        } else {
            Act::Pass
        }
    });
    let seal = sequencer.seal_of(vec![pack(&some_rows(3))], |_, _| false);
    bench.apply(&seal).expect("asked again");
    check(&bench, &sequencer, "429");

    // The connection breaks in the middle of the answer: it took effect, and what is asked again is a 409.
    proxy.play(|n, request| if is_bulk(request) && n == 0 { Act::Break } else { Act::Pass });
    let seal = sequencer.seal_of(vec![pack(&some_rows(3))], |_, _| false);
    bench.apply(&seal).expect("asked again");
    assert_eq!(proxy.count("/_bulk"), 2);
    check(&bench, &sequencer, "a reset");

    // An item is too much for the engine's queue, though it was there: only that one is asked again.
    proxy.play(|n, request| {
        if is_bulk(request) && n == 0 {
            Act::Change("\"status\":201", "\"status\":429")
        } else {
            Act::Pass
        }
    });
    let seal = sequencer.seal_of(vec![pack(&some_rows(5))], |_, _| false);
    bench.apply(&seal).expect("asked again");
    let bulks: Vec<usize> = proxy.seen.lock().expect("whole").iter().filter(|r| is_bulk(r)).map(rows_of).collect();
    assert_eq!(bulks, [6, 1], "five rows and a note, then one row");
    check(&bench, &sequencer, "a partial failure");

    // Answers to another question, and no answers at all.
    proxy.play(|n, request| match n {
        0 if is_bulk(request) => Act::Answer(200, r#"{"items":[]}"#),
        1 if is_bulk(request) => Act::Answer(502, "<html>"),
        _ => Act::Pass,
    });
    let seal = sequencer.seal_of(vec![pack(&some_rows(2))], |_, _| false);
    bench.apply(&seal).expect("asked again");
    check(&bench, &sequencer, "strange answers");

    // The note about how far it is does not get in: nobody's row is to blame, and without the note a loss would not be noticed.
    proxy.play(|_, request| {
        if is_bulk(request) {
            Act::Change("\"status\":200", "\"status\":400")
        } else {
            Act::Pass
        }
    });
    let seal = sequencer.seal_of(vec![pack(&some_rows(2))], |_, _| false);
    assert_eq!(Bench::remedy(bench.apply(&seal)), Some(Remedy::Hold));
    proxy.play(|_, _| Act::Pass);
    bench.apply(&seal).expect("asked again");
    check(&bench, &sequencer, "a note");
    assert_eq!(bench.runtime.block_on(bench.search().refused()).expect("asks"), 0);
}

#[test]
fn a_write_that_is_not_answered_is_an_error_and_is_applied_again() {
    let Some((bench, proxy)) = behind(|s| s.timeout = Duration::from_secs(8)) else {
        return;
    };
    let mut sequencer = Sequencer::new(2);
    let seal = sequencer.seal_of(vec![pack(&some_rows(1))], |_, _| false);
    assert!((0..20).any(|_| bench.apply(&seal).is_ok()));
    let seal = sequencer.seal_of(vec![pack(&some_rows(2))], |_, _| false);
    proxy.play(|_, request| if is_bulk(request) { Act::Answer(503, "") } else { Act::Pass });
    assert_eq!(Bench::remedy(bench.apply(&seal)), Some(Remedy::Slower));
    assert_eq!(bench.rows("hot").len(), 1, "what is not applied is not shown");
    proxy.play(|_, _| Act::Pass);
    assert!((0..20).any(|_| bench.apply(&seal).is_ok()));
    check(&bench, &sequencer, "after the outage");
    // It takes effect and is never answered: what is asked again is a 409.
    proxy.play(|n, request| if is_bulk(request) && n == 0 { Act::Silence } else { Act::Pass });
    let seal = sequencer.seal_of(vec![pack(&some_rows(2))], |_, _| false);
    let worked = (0..20).any(|_| bench.apply(&seal).is_ok());
    assert!(worked && proxy.count("/_bulk") > 1);
    check(&bench, &sequencer, "a time-out");
    // A refresh that one shard did not do: not readable, so not applied.
    proxy.play(|_, request| {
        if request.line.contains("_refresh") {
            Act::Change("\"failed\":0", "\"failed\":1")
        } else {
            Act::Pass
        }
    });
    let seal = sequencer.seal_of(vec![pack(&some_rows(1))], |_, _| false);
    assert!(bench.apply(&seal).is_err());
}

#[test]
fn what_is_written_and_not_yet_applied_is_in_no_answer() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut sequencer = Sequencer::new(8);
    bench.apply(&sequencer.seal_of(vec![pack(&some_rows(4))], |_, _| false)).expect("applies");
    let early = sequencer.seal_of(vec![pack(&some_rows(3))], |_, _| false);
    bench.runtime.block_on(bench.search().apply(0, early.clone())).expect("applies");
    let query = ListQuery {
        count: crate::sinks::Count::Exact,
        ..ListQuery::default()
    };
    let page = bench.list("hot", query.clone()).expect("lists");
    assert_eq!((page.entries.len(), page.total, page.as_of), (4, Some(4), 4));
    let stats = SearchStore::stats(bench.search(), &scope("hot"), StatsQuery::default());
    assert_eq!(bench.runtime.block_on(stats).expect("counts").total, 4);
    let scan = SearchStore::scan(bench.search(), &scope("hot"), Filter::default(), 0, 100);
    let scan = bench.runtime.block_on(scan).expect("scans");
    assert_eq!((scan.entries.len(), scan.upto), (4, 4));
    bench.view.show(&early);
    assert_eq!(bench.list("hot", query).expect("lists").total, Some(7));
}

#[test]
fn wrong_credentials_hold_everything_and_no_secret_is_told() {
    let Some((bench, proxy)) = behind(|s| (s.user, s.password) = (Some("sluice".into()), Some("hunter2".into()))) else {
        return;
    };
    let mut sequencer = Sequencer::new(9);
    bench.apply(&sequencer.seal_of(vec![pack(&some_rows(1))], |_, _| false)).expect("applies");
    for (status, text) in [
        (401, r#"{"error":{"type":"security_exception","reason":"wrong password hunter2"},"status":401}"#),
        (403, r#"{"error":{"type":"security_exception","reason":"sluice may not write"},"status":403}"#),
        (401, "Unauthorized"),
    ] {
        proxy.play(move |_, _| Act::Answer(status, text));
        let again = OpenSearch::connect(bench.settings.clone(), bench.view.clone()).expect("settings");
        let refused = bench.runtime.block_on(again.check()).expect_err("refused");
        assert_eq!(refused.remedy(), Remedy::Hold, "{status}");
        assert!(
            refused.to_string().contains(&status.to_string()) && !refused.to_string().contains("hunter2"),
            "{refused}"
        );
        let seal = sequencer.seal_of(vec![pack(&some_rows(2))], |_, _| false);
        assert_eq!(Bench::remedy(bench.apply(&seal)), Some(Remedy::Hold), "{status}");
        proxy.play(|_, _| Act::Pass);
        bench.apply(&seal).expect("applies");
    }
    check(&bench, &sequencer, "let in again");
    assert_eq!(bench.runtime.block_on(bench.search().refused()).expect("asks"), 0);
}

#[test]
fn an_index_that_goes_away_under_a_running_process_is_made_anew_and_found() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut sequencer = Sequencer::new(10);
    bench.apply(&sequencer.seal_of(vec![pack(&some_rows(2))], |_, _| false)).expect("applies");
    let index = bench.search().0.schema.index(&tenant("hot"), 1_700_000_100_000);
    // As an engine is that nobody has told otherwise: a bulk makes what is not there.
    let makes = |what: serde_json::Value| {
        let settings = json!({ "transient": { "action.auto_create_index": what } });
        bench.raw(Method::Put, "/_cluster/settings", settings).expect("sets");
    };
    makes(format!("+{}-logs-*", bench.settings.index_prefix).into());
    bench.raw(Method::Delete, &format!("/{index}"), serde_json::Value::Null).expect("deletes");
    let seal = sequencer.seal_of(vec![pack(&some_rows(3))], |_, _| false);
    let worked = (0..5).any(|_| bench.apply(&seal).is_ok());
    makes(serde_json::Value::Null);
    assert!(worked);
    let numbers: Vec<_> = bench.rows("hot").iter().map(|row| row.sequence).collect();
    assert_eq!(numbers, [Some(3), Some(4), Some(5)]);
}

#[test]
fn erased_rows_are_in_no_answer_while_their_bytes_are_there_and_a_sweep_takes_no_others() {
    // Nothing sweeps here: that begins with `applied`.
    let Some(bench) = Bench::empty(|_| ()) else { return };
    let mut sequencer = Sequencer::new(12);
    let packs = ["hot", "warm"].map(|name| sequencer.pack(&tenant(name), 60));
    bench.apply(&sequencer.seal_of(packs.to_vec(), |_, _| false)).expect("applies");
    bench
        .apply(&sequencer.erase("hot", ErasureKind::Cleanup, crate::sinks::contract::BASE - 400))
        .expect("applies");
    let docs = |name: &str| {
        let query = json!({ "query": { "term": { "tenant_id": name } } });
        let found = bench.raw(Method::Post, &format!("/{}-logs/_count", bench.settings.index_prefix), query);
        found.expect("counts")["count"].as_u64().expect("a number")
    };
    assert_eq!((docs("hot"), docs("warm")), (60, 60));
    let left = Model::of(&sequencer.log)[&tenant("hot")].rows.len();
    assert!(left > 0 && left < 60, "{left}");
    let query = ListQuery {
        limit: 100,
        count: crate::sinks::Count::Exact,
        ..ListQuery::default()
    };
    let page = bench.list("hot", query).expect("lists");
    assert_eq!((page.entries.len(), page.total), (left, Some(left as u64)));
    let stats = SearchStore::stats(bench.search(), &scope("hot"), StatsQuery::default());
    assert_eq!(bench.runtime.block_on(stats).expect("counts").total, left as u64);
    let scan = SearchStore::scan(bench.search(), &scope("hot"), Filter::default(), 0, 100);
    let scan = bench.runtime.block_on(scan).expect("scans");
    let voids: u64 = scan.voids.iter().map(|(first, last)| last - first + 1).sum();
    assert_eq!((scan.entries.len(), voids), (left, 60 - left as u64));
    bench.runtime.block_on(erase::sweep(&bench.search().0)).expect("sweeps");
    assert_eq!((docs("hot"), docs("warm")), (left as u64, 60));
}

#[test]
fn a_read_is_whole_or_an_error() {
    let Some((bench, proxy)) = behind(|s| s.timeout = Duration::from_secs(10)) else {
        return;
    };
    let mut sequencer = Sequencer::new(3);
    let seal = sequencer.seal_of(vec![pack(&some_rows(4))], |_, _| false);
    assert!((0..20).any(|_| bench.apply(&seal).is_ok()));
    let is_search = |request: &Request| request.line.contains("/_search");
    let ask = || bench.list("hot", ListQuery::default());
    assert_eq!(ask().expect("lists").entries.len(), 4);
    proxy.play(move |_, request| {
        if is_search(request) {
            Act::Change("\"failed\":0", "\"failed\":1")
        } else {
            Act::Pass
        }
    });
    assert_eq!(Bench::remedy(ask()), Some(Remedy::Slower), "a failed shard");
    proxy.play(move |_, request| {
        if is_search(request) {
            Act::Change("\"timed_out\":false", "\"timed_out\":true")
        } else {
            Act::Pass
        }
    });
    assert_eq!(Bench::remedy(ask()), Some(Remedy::Slower), "it ran out of time there");
    proxy.play(move |n, request| if is_search(request) && n == 0 { Act::Break } else { Act::Pass });
    assert_eq!(ask().expect("once more").entries.len(), 4);
    proxy.play(move |_, request| {
        if is_search(request) {
            Act::Answer(404, r#"{"error":{"type":"search_context_missing_exception"},"status":404}"#)
        } else {
            Act::Pass
        }
    });
    assert_eq!(Bench::remedy(ask()), Some(Remedy::Hold));
    proxy.play(move |_, request| if is_search(request) { Act::Silence } else { Act::Pass });
    let answer = ask();
    assert!(matches!(answer, Err(StoreError::Deadline)), "{:?}", answer.err());
    proxy.play(move |_, request| {
        if is_search(request) {
            Act::Answer(401, r#"{"error":{"type":"security_exception"},"status":401}"#)
        } else {
            Act::Pass
        }
    });
    assert_eq!(Bench::remedy(ask()), Some(Remedy::Hold));
}

#[test]
fn an_index_that_is_read_only_holds_everything_until_it_is_not() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut sequencer = Sequencer::new(4);
    bench.apply(&sequencer.seal_of(vec![pack(&some_rows(1))], |_, _| false)).expect("applies");
    let settings = format!("/{}-logs/_settings", bench.settings.index_prefix);
    let block = |on: serde_json::Value| {
        bench
            .raw(Method::Put, &settings, json!({ "index.blocks.read_only_allow_delete": on }))
            .expect("sets")
    };
    block(true.into());
    let seal = sequencer.seal_of(vec![pack(&some_rows(3))], |_, _| false);
    assert_eq!(Bench::remedy(bench.apply(&seal)), Some(Remedy::Hold));
    assert_eq!(bench.runtime.block_on(bench.search().refused()).expect("asks"), 0, "nobody's row is to blame");
    block(serde_json::Value::Null);
    bench.apply(&seal).expect("applies");
    check(&bench, &sequencer, "after the block");
}

/// An index of the month of the rows, made before ours, in which a row with an address is refused: by its mapping.
fn spoil(bench: &Bench, meta: u64) {
    let index = bench.search().0.schema.index(&tenant("hot"), 1_700_000_100_000);
    bench.runtime.block_on(bench.search().check()).expect("lays out");
    let mapping = json!({ "mappings": { "_meta": { "sluice": meta }, "properties": { "x_ip": { "type": "ip" } } } });
    bench.raw(Method::Put, &format!("/{index}"), mapping).expect("makes");
}

fn with_address(message: &str) -> Arc<Pack> {
    let mut fields = [None; Field::COUNT];
    fields[Field::Action as usize] = Some(&b"ACT"[..]);
    fields[Field::Message as usize] = Some(message.as_bytes());
    fields[Field::IpAddress as usize] = Some(&[10, 0, 0, 1]);
    let mut builder = PackBuilder::default();
    builder.push(&NewEntry {
        id: Uuid::now_v7(),
        client_id: true,
        hash: 1,
        timestamp: 1_700_000_000_000,
        severity: Severity::Info,
        fields,
    });
    let header = PackHeader {
        pack_id: Uuid::now_v7(),
        tenant: tenant("hot"),
        actor: "svc".into(),
        request_id: "r".into(),
        received_at: 1_700_000_100_000,
        part: (0, 1),
    };
    Arc::new(builder.finish(header).expect("an entry"))
}

#[test]
fn one_poison_row_among_ten_thousand_is_written_down_and_the_others_are_found() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    spoil(&bench, schema::VERSION);
    let mut sequencer = Sequencer::new(5);
    let packs = vec![pack(&some_rows(6_000)), with_address("poison"), pack(&some_rows(3_999))];
    let seal = sequencer.seal_of(packs, |_, _| false);
    bench.apply(&seal).expect("applies");
    assert_eq!(bench.runtime.block_on(bench.search().refused()).expect("asks"), 1);
    assert!(bench.search().condition().lacks_rows, "readers are told");
    let query = ListQuery {
        sort: Sort::SequenceDesc,
        limit: 1,
        count: crate::sinks::Count::Exact,
        ..ListQuery::default()
    };
    assert_eq!(bench.list("hot", query).expect("lists").total, Some(9_999));
    let note = format!("/{}-meta/_doc/refused-hot:6001", bench.settings.index_prefix);
    let note = bench.raw(Method::Get, &note, serde_json::Value::Null).expect("is written down");
    assert_eq!(
        (&note["_source"]["sequence"], &note["_source"]["error"]),
        (&6_001.into(), &"mapper_parsing_exception".into())
    );
    assert!(!note.to_string().contains("poison"), "what it holds is with the authority alone");
    // Applying it again changes nothing.
    bench.apply(&seal).expect("applies");
    assert_eq!(bench.runtime.block_on(bench.search().refused()).expect("asks"), 1);
}

#[test]
fn an_index_that_is_mapped_by_others_refuses_no_row_but_holds() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    spoil(&bench, 77);
    let mut sequencer = Sequencer::new(6);
    let seal = sequencer.seal_of(vec![pack(&some_rows(2))], |_, _| false);
    assert_eq!(Bench::remedy(bench.apply(&seal)), Some(Remedy::Hold), "also what it would take");
    let seal = sequencer.seal_of(vec![pack(&some_rows(2)), with_address("good")], |_, _| false);
    let held = bench.apply(&seal);
    assert_eq!(Bench::remedy(held), Some(Remedy::Hold));
    assert_eq!(bench.runtime.block_on(bench.search().refused()).expect("asks"), 0);
}

#[test]
fn an_index_that_others_put_in_the_place_of_ours_refuses_no_row_but_holds() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut sequencer = Sequencer::new(11);
    bench.apply(&sequencer.seal_of(vec![pack(&some_rows(1))], |_, _| false)).expect("applies");
    let index = bench.search().0.schema.index(&tenant("hot"), 1_700_000_100_000);
    bench.raw(Method::Delete, &format!("/{index}"), serde_json::Value::Null).expect("deletes");
    spoil(&bench, 77);
    let seal = sequencer.seal_of(vec![with_address("good")], |_, _| false);
    assert_eq!(Bench::remedy(bench.apply(&seal)), Some(Remedy::Hold));
    assert_eq!(bench.runtime.block_on(bench.search().refused()).expect("asks"), 0);
}
