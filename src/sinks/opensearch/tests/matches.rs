//! Searches of texts that an index could take otherwise than we mean them, each compared with [`Filter::matches`].

use super::*;
use crate::model::{
    entry::{Field, NewEntry, Severity},
    filter::LeafFilter,
    mask::Mask,
    pack::{Pack, PackBuilder, PackHeader},
};
use crate::sinks::Count;

/// A pack of entries by their message and metadata.
pub(super) fn pack(rows: &[(&str, &str)]) -> Arc<Pack> {
    let mut builder = PackBuilder::default();
    for (i, (message, metadata)) in rows.iter().enumerate() {
        let mut fields = [None; Field::COUNT];
        fields[Field::Action as usize] = Some(&b"ACT"[..]);
        fields[Field::ResourceType as usize] = Some(b"thing");
        fields[Field::ResourceId as usize] = Some(b"1");
        fields[Field::Message as usize] = Some(message.as_bytes());
        if !metadata.is_empty() {
            fields[Field::Metadata as usize] = Some(metadata.as_bytes());
        }
        builder.push(&NewEntry {
            id: Uuid::now_v7(),
            client_id: true,
            hash: i as u128,
            timestamp: 1_700_000_000_000 + i as i64,
            severity: Severity::Info,
            fields,
        });
    }
    let header = PackHeader {
        pack_id: Uuid::now_v7(),
        tenant: tenant("hot"),
        actor: "svc".into(),
        request_id: "r".into(),
        received_at: 1_700_000_100_000,
        part: (0, 1),
    };
    Arc::new(builder.finish(header).expect("entries"))
}

fn searching(text: &str) -> Filter {
    Filter {
        search: Some(crate::search::parse(text).expect(text)),
        ..Filter::default()
    }
}

fn leaf(path: &[&str], value: &str) -> Filter {
    Filter {
        metadata: vec![LeafFilter {
            path: path.iter().map(|key| (*key).to_owned()).collect(),
            values: vec![value.to_owned()],
        }],
        ..Filter::default()
    }
}

#[test]
fn every_text_is_found_as_the_definition_says() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let long_word = "x".repeat(300);
    let many = format!("{{{}}}", (0..400).map(|i| format!("\"k{i}\":\"v{i}\"")).collect::<Vec<_>>().join(","));
    let long_leaf = format!("{{\"long\":\"{}\"}}", "y z".repeat(800));
    let rows: Vec<(&str, &str)> = vec![
        ("the DISK is full", r#"{"a":{"b":"One Two"},"c":["three","four"]}"#),
        ("disk\u{2013}full", r#"{"a.b":"one","a":{"b":"two"}}"#),
        ("the end", r#"{"x":"first last","y":"next"}"#),
        (&long_word, r#"{"k=v":"w","k":"v=w"}"#),
        ("Straße ΣΑΣ \u{212a}elvin \u{130}stanbul 日本語 テスト", ""),
        ("mail ann@example.com now", r#"{"mail":"bob@example.com now"}"#),
        ("many", &many),
        ("long", &long_leaf),
        ("", r#"{"empty":"","n":1.50,"big":12345678901234567890,"t":true,"z":null}"#),
        ("a b a c", r#"{"e":"a\\b\"c"}"#),
    ];
    let mut sequencer = Sequencer::new(1);
    let seal = sequencer.seal_of(vec![pack(&rows)], |_, _| false);
    bench.apply(&seal).expect("applies");
    let model = &Model::of(&sequencer.log)[&tenant("hot")];
    let cut = format!("\"{}\"", "x".repeat(256));
    let texts = [
        "disk",
        "\"disk is\"",
        "\"disk full\"",
        "\"is full\" -end",
        "full one",
        "\"full one\"",
        "\"two three\"",
        "\"one two\"",
        "\"last next\"",
        "\"first last\"",
        "straße",
        "σας",
        "kelvin",
        "thing i*",
        "日本",
        "thing 日本*",
        "\"日本語 テスト\"",
        &cut,
        &long_word,
        "xxx*",
        "-disk",
        "-(disk OR many)",
        "message:full",
        "metadata:two",
        "-metadata:two",
        "message:\"end\" OR metadata:four",
        "metadata.a.b:two",
        "metadata.a\\.b:one",
        "metadata.a.b:One*",
        "thing metadata.k:v*",
        "thing -metadata.k:v*",
        "metadata.k300:v300",
        "-metadata.k300:v300",
        "metadata.long:\"y zy\"",
        "\"zy zy\"",
        "ann",
        "example.com",
        "\"ann example\"",
        "\"a b a c\"",
        "\"b a b\"",
        "12345678901234567890",
        "metadata.n:1.50",
        "metadata.n:1.5",
        "metadata.z:null",
        "action:act*",
        "action:ACT many",
        "thing id:0*",
        "severity:INFO disk",
        "-severity:INFO",
        "from:2023-11-14 disk",
        "actor:s* end",
        "resource_id:1 -resource_type:thi*",
    ];
    let masks = [None, Some("pattern:email"), Some("metadata.a"), Some("message")];
    let mut filters: Vec<Filter> = texts.iter().map(|text| searching(text)).collect();
    filters.extend([
        leaf(&["a", "b"], "One Two"),
        leaf(&["a.b"], "one"),
        leaf(&["k=v"], "w"),
        leaf(&["k"], "v=w"),
        leaf(&["k399"], "v399"),
        leaf(&["empty"], ""),
        leaf(&["long"], &"y z".repeat(800)),
        leaf(&["e"], "a\\b\"c"),
    ]);
    for mask in masks {
        let mask = mask.map(|path| Arc::new(Mask::compile(&[path.to_owned()]).expect("a mask")));
        for filter in &filters {
            let filter = filter.clone().through(mask.clone());
            let seen = mask.as_ref().map(|mask| model.seen_through(mask));
            let expected: Vec<Option<u64>> = seen.as_ref().unwrap_or(model).matching(&filter).iter().map(|row| row.sequence).collect();
            let query = ListQuery {
                filter: filter.clone(),
                sort: crate::sinks::Sort::SequenceAsc,
                count: Count::Exact,
                ..ListQuery::default()
            };
            let page = bench.list("hot", query).expect("lists");
            let found: Vec<Option<u64>> = page.entries.iter().map(|row| row.sequence).collect();
            assert_eq!(found, expected, "{filter:?}");
            assert_eq!((page.total, page.total_is_exact), (Some(expected.len() as u64), true), "{filter:?}");
        }
    }
}

#[test]
fn more_conditions_than_the_engine_takes_are_looked_at_here() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut sequencer = Sequencer::new(2);
    bench.apply(&sequencer.seal(&["hot"], 60)).expect("applies");
    let model = &Model::of(&sequencer.log)[&tenant("hot")];
    let filter = Filter {
        timestamps: (0..2_000).map(|i| (i * 7, i * 7 + 1)).chain([(0, i64::MAX)]).collect(),
        user_agent: (0..600).map(|i| vec![format!("no{i}"), "none".into()]).chain([vec!["linux".into()]]).collect(),
        ..Filter::default()
    };
    let page = bench
        .list(
            "hot",
            ListQuery {
                filter: filter.clone(),
                limit: 1_000,
                ..ListQuery::default()
            },
        )
        .expect("lists");
    assert_eq!(page.entries.len(), model.matching(&filter).len());
    let words: Vec<String> = (0..250).map(|i| format!("w{i}")).collect();
    let broad = searching(&format!("word1 OR {}", words.join(" OR ")));
    let page = bench
        .list(
            "hot",
            ListQuery {
                filter: broad.clone(),
                limit: 1_000,
                ..ListQuery::default()
            },
        )
        .expect("lists");
    assert_eq!(page.entries.len(), model.matching(&broad).len());
}
