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
    let search = OpenSearch::connect(settings.clone(), plain.view.clone()).expect("settings");
    plain.runtime.block_on(search.applied(0, 0)).expect("begins");
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
}

#[test]
fn a_write_that_is_not_answered_is_an_error_and_is_applied_again() {
    let Some((bench, proxy)) = behind(|s| s.timeout = Duration::from_secs(3)) else {
        return;
    };
    let mut sequencer = Sequencer::new(2);
    bench.apply(&sequencer.seal_of(vec![pack(&some_rows(1))], |_, _| false)).expect("applies");
    let seal = sequencer.seal_of(vec![pack(&some_rows(2))], |_, _| false);
    proxy.play(|_, request| if is_bulk(request) { Act::Answer(503, "") } else { Act::Pass });
    assert_eq!(Bench::remedy(bench.apply(&seal)), Some(Remedy::Slower));
    assert_eq!(bench.rows("hot").len(), 1, "what is not applied is not shown");
    proxy.play(|_, _| Act::Pass);
    bench.apply(&seal).expect("applies");
    check(&bench, &sequencer, "after the outage");
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
fn a_read_is_whole_or_an_error() {
    let Some((bench, proxy)) = behind(|s| s.timeout = Duration::from_secs(4)) else {
        return;
    };
    let mut sequencer = Sequencer::new(3);
    bench.apply(&sequencer.seal_of(vec![pack(&some_rows(4))], |_, _| false)).expect("applies");
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
    let seal = sequencer.seal_of(vec![pack(&some_rows(2)), with_address("good")], |_, _| false);
    let held = bench.apply(&seal);
    assert_eq!(Bench::remedy(held), Some(Remedy::Hold));
    assert_eq!(bench.runtime.block_on(bench.search().refused()).expect("asks"), 0);
}
