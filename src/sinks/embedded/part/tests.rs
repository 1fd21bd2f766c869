//! Properties of whole parts: what was written is read, what matches is selected, nothing of another tenant is reached.

use super::{read::Rows, sidecar::IdKey, write::Shape, *};
use crate::{
    fs::{Fs, real::RealFs},
    model::{
        entry::{FIXED_LEN, Field, NewEntry, Severity},
        filter::{Filter, IpRange, LeafFilter, Surroundings},
        tenant::TenantScope,
    },
    search::{self, Search},
};
use proptest::prelude::*;
use std::{fs, sync::Arc};
use tempfile::TempDir;
use uuid::Uuid;

/// A small deterministic generator (SplitMix64), so that a failing seed says it all.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    fn of<'t, T>(&mut self, list: &'t [T]) -> &'t T {
        &list[self.below(list.len() as u64) as usize]
    }
}

struct Row {
    tenant: TenantId,
    sequence: u64,
    received_at: i64,
    actor: String,
    record: Vec<u8>,
}

impl Row {
    fn entry(&self) -> EntryRef<'_> {
        EntryRef::check(&self.record).expect("a record")
    }

    fn matches(&self, filter: &Filter) -> bool {
        filter.matches(
            &self.entry(),
            Surroundings {
                sequence: self.sequence,
                actor: &self.actor,
            },
        )
    }
}

// One text has a telling word, and lower case that depends on what follows it.
const TEXTS: [&str; 9] = [
    "Doc-A12345 ΟΔΟΣ'Α",
    "",
    "bob",
    "Bob",
    "LOGIN",
    "Straße ÄÖ",
    "bob@example.com",
    "x\u{0}\"\\\n",
    "日本語",
];
const ADDRESSES: [&[u8]; 7] = [
    &[10, 0, 0, 1],
    &[10, 0, 1, 200],
    &[10, 9, 0, 1],
    &[192, 168, 0, 1],
    &[0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1],
    &[],
];
const OBJECTS: [&str; 8] = [
    r#"{"t":"Req 0a1B2c3D","a":["Doc-A12345",7]}"#,
    "{}",
    r#"{"a":1.50,"b":{"c":"bob"}}"#,
    r#"{"a":"1.50","b":[{"c":null},{"c":true}]}"#,
    r#"{"b":{"c":"B\u00f6b"},"x.y":"z"}"#,
    r#"{"deep":[[["bob"]]]}"#,
    r#"{"a":"","":"a"}"#,
    r#"{"text":"The quick brown fox"}"#,
];
const AGENTS: [&str; 4] = ["Mozilla/5.0 (X11; Linux)", "curl/8.5.0", "", "MOZILLA straße"];

/// Of odd numbers it is of version 7, in their order; of others of version 4.
fn id_of(n: u64) -> Uuid {
    let version = if n % 2 == 1 { 7 } else { 4 };
    Uuid::from_u64_pair(n << 16 | version << 12, 0x8000_0000_0000_0000)
}

fn random_row(dice: &mut Dice, tenant: &str, sequence: u64) -> Row {
    let wide: String = format!("{{\"list\":[{}]}}", (0..300).map(|i| format!("\"v{i}\"")).collect::<Vec<_>>().join(","));
    let mut fields: [Option<&[u8]>; Field::COUNT] = [None; Field::COUNT];
    for field in Field::ALL {
        if dice.below(4) == 0 {
            continue;
        }
        fields[field as usize] = Some(match field {
            Field::IpAddress => *dice.of::<&[u8]>(&ADDRESSES),
            Field::UserAgent => dice.of::<&str>(&AGENTS).as_bytes(),
            Field::Metadata if dice.below(500) == 0 => wide.as_bytes(),
            f if f.is_object() => dice.of::<&str>(&OBJECTS).as_bytes(),
            _ => dice.of(&TEXTS).as_bytes(),
        });
    }
    let mut record = Vec::new();
    let (timestamp, severity) = (dice.below(100) as i64 - 20, *dice.of(&Severity::ALL));
    let hashed = super::sent::Hashed { fields, severity, timestamp };
    NewEntry {
        id: id_of(sequence),
        client_id: dice.below(2) == 0,
        // Most follow from the row.
        hash: match dice.below(12) as u8 {
            bits @ 0..8 => hashed.hash(bits, &mut Vec::new()),
            _ => u128::from(dice.roll()) << 64 | u128::from(dice.roll()),
        },
        timestamp,
        severity,
        fields,
    }
    .encode(&mut record);
    Row {
        tenant: TenantId::parse(tenant).unwrap(),
        sequence,
        received_at: dice.below(1_000) as i64,
        actor: (*dice.of(&TEXTS)).to_owned(),
        record,
    }
}

/// Rows of each tenant, as many as it says, in the order of a part.
fn random_rows(seed: u64, tenants: &[(&str, u64)]) -> Vec<Row> {
    let mut dice = Dice(seed);
    let mut rows: Vec<Row> = tenants
        .iter()
        .flat_map(|(tenant, n)| (1..=*n).map(|sequence| random_row(&mut dice, tenant, sequence)).collect::<Vec<_>>())
        .collect();
    rows.sort_by(|a, b| (&a.tenant, a.entry().timestamp(), a.sequence).cmp(&(&b.tenant, b.entry().timestamp(), b.sequence)));
    rows
}

fn random_filter(dice: &mut Dice, rows: u64) -> Filter {
    let mut filter = Filter::default();
    let text = |dice: &mut Dice| (*dice.of(&TEXTS)).to_owned();
    let texts = |dice: &mut Dice| (0..1 + dice.below(2)).map(|_| text(dice)).collect::<Vec<_>>();
    for _ in 0..1 + dice.below(3) {
        match dice.below(22) {
            0 => filter.from = Some(dice.below(100) as i64 - 20),
            1 => filter.to = Some(dice.below(100) as i64 - 20),
            2 => {
                let at = dice.below(100) as i64 - 20;
                filter.timestamps = vec![(at, at + 1), (at + 3, at + 9), (500, 400)];
            }
            3 => filter.ids = vec![id_of(dice.below(2 * rows)), id_of(dice.below(rows)), Uuid::nil()],
            4 => filter.user_id = texts(dice),
            5 => filter.email = texts(dice),
            6 => filter.session_id = texts(dice),
            7 => filter.resource_id = texts(dice),
            8 => filter.request_id = texts(dice),
            9 => filter.actor = texts(dice),
            10 => filter.action = texts(dice).iter().map(|t| t.to_lowercase()).collect(),
            11 => filter.resource_type = texts(dice).iter().map(|t| t.to_lowercase()).collect(),
            12 => filter.severity = vec![*dice.of(&Severity::ALL), *dice.of(&Severity::ALL)],
            13 => {
                let range = [
                    "10.0.0.1",
                    "10.0.0.0/16",
                    "0.0.0.0/0",
                    "11.0.0.0/7",
                    "10.0.1.128/25",
                    "2001:db8::/30",
                    "2001:db8:1::/48",
                    "::ffff:10.0.0.1",
                ];
                filter.ip_address = vec![IpRange::parse(dice.of::<&str>(&range)).expect("a range")];
            }
            14 => {
                let words = [vec!["mozilla"], vec!["curl", "8"], vec!["straße"], vec![], vec!["5", "linux", "absent"]];
                filter.user_agent = vec![dice.of(&words).iter().map(|w| (*w).to_owned()).collect()];
            }
            15 => filter.min_sequence = Some(dice.below(rows + 5)),
            16 => filter.max_sequence = Some(dice.below(rows + 5)),
            17..21 => filter.search = Some(random_search(dice, rows)),
            _ => {
                let paths = [
                    vec!["t"],
                    vec!["a"],
                    vec!["b", "c"],
                    vec!["x.y"],
                    vec!["deep"],
                    vec![""],
                    vec!["list"],
                    vec!["absent"],
                ];
                let values = ["Req 0a1B2c3D", "Doc-A12345", "1.50", "bob", "Böb", "null", "z", "", "a", "v299", "v3"];
                filter.metadata.push(LeafFilter {
                    path: dice.of(&paths).iter().map(|k| (*k).to_owned()).collect(),
                    values: vec![(*dice.of(&values)).to_owned(), (*dice.of(&values)).to_owned()],
                });
            }
        }
    }
    let masks: [&[&str]; 6] = [
        &["user_id", "message", "actor"],
        &["metadata.b", "before_state", "action"],
        &["ip_address", "metadata.*", "resource_id"],
        &["pattern:email", "pattern:phone", "pattern:card", "pattern:iban", "pattern:secret_keys"],
        &["pattern:email", "metadata.list.*", "user_agent"],
        &["metadata", "email", "resource_type", "pattern:card"],
    ];
    let mask = |dice: &mut Dice| {
        let paths: Vec<String> = dice.of(&masks).iter().map(|p| (*p).to_owned()).collect();
        std::sync::Arc::new(crate::model::mask::Mask::compile(&paths).expect("a mask"))
    };
    let mask = (dice.below(3) == 0).then(|| mask(dice));
    filter.through(mask)
}

/// What a person may type, about what the rows hold and what they do not.
fn random_search(dice: &mut Dice, rows: u64) -> Search {
    const TERMS: [&str; 47] = [
        "metadata.t:\"Req 0a1B2c3D\"",
        "user_id:\"Doc-A12345 ΟΔΟΣ'Α\"",
        "οδοσ a12345",
        "bob",
        "login",
        "BÖB",
        "straße",
        "äö",
        "日本語",
        "日本*",
        "str* x",
        "bo* fox",
        "quick",
        "\"quick brown\"",
        "\"brown quick\"",
        "\"bob example\"",
        "example.com",
        "linux",
        "mozilla",
        "\"5 0\"",
        "v3",
        "v299",
        "v29*",
        "null",
        "true",
        "50",
        "absent",
        "\"the quick brown fox\"",
        "lis*",
        "text",
        "metadata:bob",
        "metadata:v3",
        "before_state:\"quick brown\"",
        "after_state:bob",
        "message:bob",
        "message:str*",
        "user_agent:linux",
        "severity:ERROR",
        "severity:info,CRITICAL",
        "user_id:bob",
        "user_id:b*",
        "action:LOG*",
        "metadata.b.c:bob",
        "metadata.b.c:B*",
        "ip_address:10.0.0.0/16",
        "ip_address:10.0.*",
        "actor:bob@*",
    ];
    let term = |dice: &mut Dice| match dice.below(12) {
        0 => format!("min_sequence:{}", dice.below(rows)),
        1 => format!("id:{}", id_of(dice.below(rows))),
        2 => format!("id:{}*", &id_of(dice.below(rows)).to_string()[..dice.below(5) as usize + 12]),
        // Ids count in their third group.
        3 => format!("{:04x}", dice.below(rows))[..3].to_owned() + "*",
        4 => format!("{:04x}", dice.below(rows)),
        5 => format!("\"0000 {:04x} 8000\"", dice.below(rows)),
        _ => (*dice.of(&TERMS)).to_owned(),
    };
    loop {
        let mut text = String::new();
        for _ in 0..1 + dice.below(4) {
            let (before, after) = *dice.of(&[("", " "), ("", " "), ("-", " "), ("", " OR "), ("(", " "), ("NOT (", ") ")]);
            text += &format!("{before}{}{after}", term(dice));
        }
        text += &term(dice);
        text += &")".repeat(text.matches('(').count().saturating_sub(text.matches(')').count()));
        if let Ok(search) = search::parse(&text) {
            return search;
        }
    }
}

/// Small pieces, so that little data has many blocks, batches and row groups.
const SMALL: Shape = Shape {
    batch: (50, 1 << 20),
    block: (128, 1 << 20),
    group: (300, 1 << 20),
    own: (260, 1 << 20),
    ..Shape::DEFAULT
};

struct Fixture {
    dir: TempDir,
    part: Part,
}

fn row_in(row: &Row) -> RowIn<'_> {
    RowIn {
        tenant: &row.tenant,
        sequence: row.sequence,
        received_at: row.received_at,
        actor: &row.actor,
        entry: row.entry(),
    }
}

fn write_part(rows: &[Row], shape: Shape) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let mut iter = rows.iter().map(row_in);
    let meta = super::write::write_with(&RealFs, dir.path(), "p", (3, 9), &mut iter, shape).expect("written");
    let part = Part::open_with(&RealFs, dir.path(), meta, shape.id_key).expect("opened");
    Fixture { dir, part }
}

fn scope(tenant: &str) -> TenantScope {
    TenantScope::new(TenantId::parse(tenant).unwrap())
}

fn reopen(fixture: &Fixture) -> Result<Part, PartError> {
    Part::open(&RealFs, fixture.dir.path(), fixture.part.meta().clone())
}

/// Record, `received_at`, actor and sequence.
type Read = (Vec<u8>, i64, Arc<str>, Option<u64>);

/// Everything that can be read, of every tenant.
fn read_all(part: &Part, tenants: &[&str]) -> Result<Vec<Read>, PartError> {
    let mut all = Vec::new();
    for tenant in tenants {
        let Some(rows) = part.tenant(&scope(tenant)) else { continue };
        let list: Vec<u32> = rows.rows.clone().collect();
        for entry in rows.read(&list)? {
            all.push((entry.record.to_vec(), entry.received_at, entry.actor.clone(), entry.sequence));
        }
    }
    Ok(all)
}

#[test]
fn every_field_reads_back_byte_for_byte() {
    let tenants = [("a", 700), ("b", 1), ("c", 450)];
    let rows = random_rows(1, &tenants);
    for shape in [Shape::DEFAULT, SMALL] {
        let Fixture { dir, part } = write_part(&rows, shape);
        part.verify().expect("good");
        let read = read_all(&part, &["a", "b", "c", "nobody"]).unwrap();
        assert_eq!(read.len(), rows.len());
        for (row, (record, received_at, actor, sequence)) in rows.iter().zip(&read) {
            assert!(*record == row.record, "{}", row.sequence);
            assert_eq!((*received_at, &**actor, *sequence), (row.received_at, row.actor.as_str(), Some(row.sequence)));
        }
        let meta = part.meta();
        assert_eq!((meta.rows, meta.seals, meta.erased_upto), (1151, (3, 9), 0));
        let times = rows.iter().map(|r| r.entry().timestamp());
        assert_eq!((Some(meta.min_timestamp), Some(meta.max_timestamp)), (times.clone().min(), times.max()));
        let files: Vec<String> = RealFs.list(dir.path()).unwrap();
        assert_eq!(files, ["p.idx", "p.parquet"], "no temporary files are left");
        assert!(part.memory() > 0 && part.memory() < 4 << 20);
    }
}

#[test]
fn an_absent_field_and_an_empty_one_differ_and_extremes_survive() {
    let mut rows = Vec::new();
    for (sequence, timestamp) in [(0, i64::MIN), (1, -1), (u64::MAX, i64::MAX)] {
        for filled in [None, Some(&b""[..])] {
            let mut record = Vec::new();
            NewEntry {
                id: Uuid::from_u128(u128::MAX - u128::from(sequence)),
                client_id: filled.is_some(),
                hash: u128::MAX - 1,
                timestamp,
                severity: Severity::Critical,
                fields: [filled; Field::COUNT],
            }
            .encode(&mut record);
            assert_eq!(record.len(), FIXED_LEN);
            rows.push(Row {
                tenant: TenantId::parse("t").unwrap(),
                sequence,
                received_at: timestamp,
                actor: String::new(),
                record,
            });
        }
    }
    let part = write_part(&rows, Shape::DEFAULT).part;
    let read = read_all(&part, &["t"]).unwrap();
    for (row, (record, received_at, _, sequence)) in rows.iter().zip(&read) {
        assert!(*record == row.record);
        assert_eq!((*received_at, *sequence), (row.received_at, Some(row.sequence)));
    }
}

#[test]
fn blocks_hold_one_tenant_and_their_numbers_are_true() {
    let rows = random_rows(2, &[("a", 700), ("b", 1), ("c", 450), ("d", 63), ("e", 64)]);
    let part = write_part(&rows, SMALL).part;
    let mut at = 0u32;
    for tenant in ["a", "b", "c", "d", "e"] {
        let of = part.tenant(&scope(tenant)).expect("rows");
        assert_eq!(of.rows.start, at);
        for block in of.blocks() {
            assert_eq!(block.rows.start, at);
            assert!(block.rows.len() <= 128);
            let here = &rows[block.rows.start as usize..block.rows.end as usize];
            assert!(here.iter().all(|r| r.tenant.as_str() == tenant));
            let range = |f: &dyn Fn(&Row) -> i64| (here.iter().map(f).min().unwrap(), here.iter().map(f).max().unwrap());
            assert_eq!(block.timestamps, range(&|r| r.entry().timestamp()));
            assert_eq!(block.received, range(&|r| r.received_at));
            assert_eq!((block.sequences.0 as i64, block.sequences.1 as i64), range(&|r| r.sequence as i64));
            for s in Severity::ALL {
                assert_eq!(block.severities[s as usize] as usize, here.iter().filter(|r| r.entry().severity() == s).count());
            }
            let keys: Vec<(i64, u64)> = here.iter().map(|r| (r.entry().timestamp(), r.sequence)).collect();
            assert_eq!(of.keys(block.rows.clone()).unwrap(), keys);
            for row in block.rows.clone() {
                assert_eq!(of.block_of(row).as_ref(), Some(&block));
            }
            at = block.rows.end;
        }
        assert_eq!(of.rows.end, at);
        assert_eq!((of.block_of(of.rows.end), of.block_of(of.rows.start.wrapping_sub(1))), (None, None));
    }
    assert_eq!(at as usize, rows.len());
}

#[test]
fn a_search_prunes_by_the_words_that_must_be_there() {
    let rows = random_rows(13, &[("a", 128)]);
    let part = write_part(&rows, Shape::DEFAULT).part;
    let of = part.tenant(&scope("a")).unwrap();
    let block = of.blocks().next().unwrap();
    let here = || rows.iter().map(|row| (row.actor.as_str(), row.entry()));
    let (in_memory, none) = (MemoryFilter::build(here(), 1 << 20), MemoryFilter::build(here(), 64));
    // Filters are wrong once in 256 times about what is absent; these words were chosen so that they are not.
    for (text, may, helps) in [
        ("bob", true, true),
        ("nowhere", false, true),
        ("bob nowhere", false, true),
        ("bob OR nowhere", true, true),
        ("elsewhere OR nowhere", false, true),
        ("\"bob nowhere\"", false, true),
        ("-nowhere", true, false),
        ("-bob", true, false),
        ("NOT (bob nowhere)", true, false),
        ("nowhere*", true, false),
        ("message:nowhere", false, true),
        ("user_id:nowhere", false, true),
        ("metadata.b.c:nowhere", false, true),
        ("user_id:nowhere*", true, false),
        ("bob -nowhere", true, true),
        ("bob OR nowhere*", true, false),
    ] {
        let filter = Filter {
            search: Some(search::parse(text).expect(text)),
            ..Filter::default()
        };
        assert_eq!(of.may_match(&block, &filter), may, "{text}");
        assert_eq!((in_memory.may_match(&filter), MemoryFilter::helps(&filter)), (may, helps), "{text}");
        assert!(none.may_match(&filter), "a filter that would be too large rules out nothing");
    }
    let early = Filter {
        search: Some(search::parse("bob to:1900-01-01").expect("a search")),
        ..Filter::default()
    };
    assert!(!of.may_match(&block, &early), "a condition in the search prunes like one beside it");
}

#[test]
fn a_filter_is_written_from_64_rows_on_and_prunes() {
    let rows = random_rows(3, &[("few", 63), ("many", 64)]);
    let part = write_part(&rows, Shape::DEFAULT).part;
    let filter = Filter {
        user_id: vec!["nobody has this name".into()],
        ..Filter::default()
    };
    for (tenant, pruned) in [("few", false), ("many", true)] {
        let of = part.tenant(&scope(tenant)).unwrap();
        let block = of.blocks().next().unwrap();
        assert_eq!(!of.may_match(&block, &filter), pruned, "{tenant}");
        assert_eq!(of.select(&block, &filter).unwrap(), Vec::<u32>::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// `select` is `matches`, and `may_match` rules out no match, for every kind of condition.
    #[test]
    fn selection_agrees_with_the_definition(seed in any::<u64>()) {
        let tenants = [("a", 900), ("b", 20), ("c", 200)];
        let rows = random_rows(seed, &tenants);
        let part = write_part(&rows, SMALL).part;
        let each: Vec<_> = tenants.iter().map(|(tenant, _)| part.tenant(&scope(tenant)).expect("rows")).collect();
        let blocks = each.iter().flat_map(|of| of.blocks().map(move |block| (of, block)));
        let blocks: Vec<_> = blocks
            .map(|(of, block)| {
                let here = rows[block.rows.start as usize..block.rows.end as usize].iter().map(|row| (row.actor.as_str(), row.entry()));
                (of, block, MemoryFilter::build(here, 1 << 20))
            })
            .collect();
        let mut dice = Dice(seed ^ 0xf117);
        for _ in 0..60 {
            let filter = random_filter(&mut dice, 900);
            for (of, block, in_memory) in &blocks {
                let expected: Vec<u32> = block.rows.clone().filter(|row| rows[*row as usize].matches(&filter)).collect();
                prop_assert!(expected.is_empty() || of.may_match(block, &filter), "{:?} rules out {:?}", filter, expected);
                prop_assert_eq!(of.select(block, &filter).unwrap(), &*expected, "{:?}", &filter);
                let mut piece = block.clone();
                piece.rows = block.rows.start + dice.below(block.rows.len() as u64) as u32..block.rows.end - dice.below(2) as u32;
                let inside: Vec<u32> = expected.iter().copied().filter(|row| piece.rows.contains(row)).collect();
                prop_assert_eq!(of.select(&piece, &filter).unwrap(), inside, "{:?} in {:?}", &filter, piece.rows);
                prop_assert!(expected.is_empty() || in_memory.may_match(&filter), "{:?}", &filter);
            }
        }
    }

    #[test]
    fn any_rows_read_as_themselves(seed in any::<u64>()) {
        let rows = random_rows(seed, &[("a", 300), ("b", 500)]);
        let part = write_part(&rows, SMALL).part;
        let of = part.tenant(&scope("b")).expect("rows");
        let mut dice = Dice(seed);
        let list: Vec<u32> = of.rows.clone().filter(|_| dice.below(7) == 0).collect();
        let read = of.read(&list).unwrap();
        prop_assert_eq!(read.len(), list.len());
        for (row, entry) in list.iter().zip(&read) {
            prop_assert!(entry.record == rows[*row as usize].record);
        }
        let keys = of.keys(&list).unwrap();
        let wanted = [StatColumn::Field(Field::UserId), StatColumn::Timestamp, StatColumn::Field(Field::Action), StatColumn::Severity];
        let (mut times, mut texts) = (Vec::new(), [const { Vec::new() }; 4]);
        let taken = of.columns(&wanted, &list, &mut |batch| {
            times.extend_from_slice(batch.times(1)?);
            for at in [0, 2, 3] {
                let (mut values, mut codes) = (Vec::new(), Vec::new());
                batch.codes(at, &mut codes, |text| {
                    values.push(text.map(str::to_owned));
                    values.len() as u32 - 1
                })?;
                texts[at].extend(codes.into_iter().map(|code| values[code as usize].clone()));
            }
            batch.texts(0, |text| texts[1].push(text.map(str::to_owned)))
        });
        prop_assert!(taken.is_ok());
        for (i, row) in list.iter().map(|row| &rows[*row as usize]).enumerate() {
            let text = |field| row.entry().text(field).map(str::to_owned);
            prop_assert_eq!(keys[i], (row.entry().timestamp(), row.sequence));
            prop_assert_eq!(times[i], row.entry().timestamp());
            prop_assert_eq!(&texts[0][i], &text(Field::UserId));
            prop_assert_eq!(&texts[1][i], &text(Field::UserId));
            prop_assert_eq!(&texts[2][i], &text(Field::Action));
            prop_assert_eq!(texts[3][i].as_deref(), Some(row.entry().severity().as_str()));
        }
    }
}

/// The real key, all ids the same key, and a key that many share.
const ID_KEYS: [IdKey; 3] = [super::sidecar::ID_KEY, |_, _| 7, |tenant, id| id.as_u128() as u64 % 3 + tenant.len() as u64];

#[test]
fn every_id_is_found_whatever_collides_and_only_by_its_tenant() {
    let rows = random_rows(4, &[("a", 90), ("b", 150)]);
    for id_key in ID_KEYS {
        let part = write_part(&rows, Shape { id_key, ..SMALL }).part;
        for (i, row) in rows.iter().enumerate() {
            let found = part.find(&TenantScope::new(row.tenant.clone()), row.entry().id()).unwrap();
            assert_eq!(found.as_slice(), [(i as u32, row.entry().hash())]);
        }
        // Ids 91..150 are only b's.
        assert_eq!(part.find(&scope("a"), id_of(120)).unwrap().len(), 0);
        assert_eq!(part.find(&scope("nobody"), id_of(1)).unwrap().len(), 0);
        assert_eq!(part.find(&scope("b"), id_of(151)).unwrap().len(), 0);
        let of = part.tenant(&scope("b")).unwrap();
        let filter = Filter {
            ids: vec![id_of(120), id_of(500)],
            ..Filter::default()
        };
        let selected: Vec<u32> = of.blocks().flat_map(|block| of.select(&block, &filter).unwrap()).collect();
        assert_eq!(selected.len(), 1);
        assert_eq!(rows[selected[0] as usize].entry().id(), id_of(120));
    }
}

#[test]
fn ids_are_asked_of_a_part_only_within_its_bounds() {
    let rows = random_rows(4, &[("a", 90), ("b", 150)]);
    for id_key in ID_KEYS {
        let part = write_part(&rows, Shape { id_key, ..SMALL }).part;
        let asked = |tenant: &str, ids: &[Uuid]| part.may_have(&scope(tenant), ids, &IdRange::of(ids.iter().copied())).to_vec();
        for (tenant, last) in [("a", 90), ("b", 150)] {
            let (all, one): (Vec<Uuid>, Vec<Uuid>) = ((1..=last).map(id_of).collect(), (1..=last).step_by(7).map(id_of).collect());
            assert_eq!(asked(tenant, &all), Vec::from_iter(0..all.len()));
            assert!(one.iter().all(|id| asked(tenant, &[*id]) == [0]));
            let mut mixed: Vec<Uuid> = (1_000..1_100).map(id_of).collect();
            mixed[77] = id_of(last);
            assert!(asked(tenant, &mixed).contains(&77));
        }
    }
    // Every key is the same: what is not passed over is found.
    let part = write_part(&rows, Shape { id_key: |_, _| 7, ..SMALL }).part;
    let asked = |tenant: &str, numbers: &[u64]| {
        let ids: Vec<Uuid> = numbers.iter().copied().map(id_of).collect();
        part.may_have(&scope(tenant), &ids, &IdRange::of(ids.iter().copied())).len()
    };
    let odd = |from: u64| Vec::from_iter((from..from + 20).filter(|n| n % 2 == 1));
    assert_eq!(asked("a", &odd(1_001)), 0, "later than everything");
    assert_eq!(asked("a", &[1_000]), 1, "of no time");
    assert_eq!(asked("a", &odd(101)), 0, "b has such ones, a has not");
    assert_eq!(asked("b", &odd(101)), 10);
    assert_eq!(asked("nobody", &odd(1)), 0);
}

/// Keeps what is not older than this, and of `a` only even numbers.
struct Younger(i64);

impl Keep for Younger {
    fn block(&self, tenant: &TenantId, timestamps: (i64, i64), _: (i64, i64), _: (u64, u64)) -> Option<bool> {
        if timestamps.1 < self.0 {
            Some(false)
        } else {
            (timestamps.0 >= self.0 && tenant.as_str() != "a").then_some(true)
        }
    }

    fn row(&self, tenant: &TenantId, timestamp: i64, _: i64, sequence: u64) -> bool {
        timestamp >= self.0 && (tenant.as_str() != "a" || sequence.is_multiple_of(2))
    }
}

/// Deals the rows out to parts.
fn dealt(dir: &TempDir, rows: &[Row], parts: u64, runs: u64, seed: u64, shape: Shape) -> Vec<Arc<Part>> {
    let (mut dice, mut dealt) = (Dice(seed), vec![Vec::new(); parts as usize]);
    let mut at = 0;
    for row in rows {
        if dice.below(runs) == 0 {
            at = dice.below(parts) as usize;
        }
        dealt[at].push(row);
    }
    let dealt = dealt.into_iter().filter(|rows| !rows.is_empty()).enumerate();
    dealt
        .map(|(i, rows)| {
            let name = format!("source-{i}");
            let mut rows = rows.iter().map(|row| row_in(row));
            let meta = write::write_with(&RealFs, dir.path(), &name, (i as u64 + 1, i as u64 + 1), &mut rows, shape).unwrap();
            Arc::new(Part::open(&RealFs, dir.path(), meta).unwrap())
        })
        .collect()
}

/// Merges the parts and gives the results, and the rows that were kept and left out.
fn merge(dir: &TempDir, sources: &[Arc<Part>], keep: &dyn Keep, bytes: u64, own: (usize, usize), name: &str) -> (Vec<Arc<Part>>, (u64, u64)) {
    let mut merge = Merge::with_own(sources, keep, own).unwrap();
    let between = || Ok(());
    let (limits, mut results) = (Limits { bytes, between: &between }, Vec::new());
    while !merge.is_done().unwrap() {
        let meta = merge
            .next_part(&RealFs, dir.path(), &format!("{name}-{}", results.len()), &limits)
            .unwrap()
            .unwrap();
        let part = Part::open(&RealFs, dir.path(), meta).unwrap();
        part.verify().unwrap();
        part.verify_rows(&mut |_, _| ()).unwrap();
        results.push(Arc::new(part));
    }
    (results, merge.rows())
}

/// Blocks of at most this many rows in the parts that are merged.
const SOURCE: Shape = Shape {
    block: (1_000, 1 << 20),
    group: (3_000, 1 << 20),
    ..Shape::DEFAULT
};

#[test]
fn a_merge_has_every_row_that_is_kept_once_and_finds_what_a_fresh_part_finds() {
    let tenants = [("a", 9_000), ("b", 70), ("c", 2_500), ("d", 1)];
    for (seed, parts, runs, oldest, bytes) in [
        (1, 3, 1, i64::MIN, u64::MAX),
        (2, 8, 40, i64::MIN, u64::MAX),
        (3, 5, 7, 30, u64::MAX),
        (4, 9, 1_000, 10, 40_000),
        (5, 1, 1, 50, u64::MAX),
    ] {
        let rows = random_rows(seed, &tenants);
        let keep = Younger(oldest);
        let kept: Vec<&Row> = rows
            .iter()
            .filter(|r| keep.row(&r.tenant, r.entry().timestamp(), r.received_at, r.sequence))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        // Nothing is copied here.
        let own = (usize::MAX, usize::MAX);
        let sources = dealt(&dir, &rows, parts, runs, seed, Shape { own, ..SOURCE });
        let (results, counts) = merge(&dir, &sources, &keep, bytes, own, "result");
        assert!(results.iter().all(|part| part.meta().seals == (1, sources.len() as u64)));
        assert_eq!(counts, (kept.len() as u64, (rows.len() - kept.len()) as u64), "seed {seed}");
        assert_eq!(results.len() > 1, bytes < u64::MAX, "seed {seed}");
        // Results follow each other in the order of their rows.
        let read: Vec<Read> = tenants
            .iter()
            .flat_map(|(name, _)| results.iter().flat_map(move |part| read_all(part, &[name]).unwrap()))
            .collect();
        let expected: Vec<Read> = kept
            .iter()
            .map(|r| (r.record.clone(), r.received_at, r.actor.as_str().into(), Some(r.sequence)))
            .collect();
        assert!(read == expected, "seed {seed}");
        finds_what_is_kept(&results, &kept, &tenants, seed, 60);
    }
}

/// Filters and ids find in the parts what they find among the rows.
fn finds_what_is_kept(results: &[Arc<Part>], kept: &[&Row], tenants: &[(&str, u64)], seed: u64, filters: usize) {
    let mut dice = Dice(seed);
    for _ in 0..filters {
        let filter = random_filter(&mut dice, 9_000);
        for (name, _) in tenants {
            let wanted = kept.iter().filter(|r| r.tenant.as_str() == *name && r.matches(&filter)).count();
            let mut found = 0;
            for of in results.iter().filter_map(|part| part.tenant(&scope(name))) {
                for block in of.blocks() {
                    found += of.select(&block, &filter).unwrap().len();
                }
            }
            assert_eq!(found, wanted, "seed {seed}: {name} {filter:?}");
        }
    }
    for row in kept.iter().step_by(97) {
        let found = results
            .iter()
            .any(|part| !part.find(&TenantScope::new(row.tenant.clone()), row.entry().id()).unwrap().is_empty());
        assert!(found, "seed {seed}: {}", row.sequence);
    }
    // The ledger passes over no part that has an id, by the bounds of few neighbours: those in order of time, and the others.
    for (name, _) in tenants {
        for version in [4, 7] {
            let ids = kept.iter().filter(|r| r.tenant.as_str() == *name).map(|r| r.entry().id());
            let mut ids: Vec<Uuid> = ids.filter(|id| id.get_version_num() == version).collect();
            ids.sort_unstable();
            for few in ids.chunks(8) {
                let asked = IdRange::of(few.iter().copied());
                let places = results.iter().flat_map(|part| part.may_have(&scope(name), few, &asked));
                let known: std::collections::BTreeSet<usize> = places.collect();
                assert_eq!(known.len(), few.len(), "seed {seed}: {name} {few:?}");
            }
        }
    }
}

/// Everything that can be read of the parts, by tenant and number.
fn read_sorted(parts: &[Arc<Part>], tenants: &[(&str, u64)]) -> Vec<Read> {
    let of_tenant = |name: &str| {
        let mut of: Vec<Read> = parts.iter().flat_map(|part| read_all(part, &[name]).unwrap()).collect();
        of.sort_by_key(|read| read.3);
        of
    };
    tenants.iter().flat_map(|(name, _)| of_tenant(name)).collect()
}

#[test]
fn row_groups_of_large_tenants_are_copied_and_what_is_kept_of_them_is_found() {
    let tenants = [("a", 3_000), ("b", 70), ("c", 2_500), ("d", 1), ("e", 1_200)];
    let everything = Younger(i64::MIN);
    for (seed, parts, runs, oldest, bytes) in [
        (1, 4, 1, 5, u64::MAX),
        (2, 7, 300, 40, u64::MAX),
        (3, 3, 1, 30, 60_000),
        (4, 1, 1, 20, u64::MAX),
    ] {
        let rows = random_rows(seed, &tenants);
        let (dir, own) = (tempfile::tempdir().unwrap(), (200, usize::MAX));
        let sources = dealt(&dir, &rows, parts, runs, seed, Shape { own, ..SOURCE });
        // `a` is never copied; its blocks, and those of what is copied and overlaps, are read in lanes by the second merge.
        let (first, counts) = merge(&dir, &sources, &everything, bytes, own, "first");
        let of_a = rows.iter().filter(|r| r.tenant.as_str() == "a" && r.sequence % 2 == 1).count();
        assert_eq!(counts, ((rows.len() - of_a) as u64, of_a as u64), "seed {seed}");
        let keep = Younger(oldest);
        let (second, _) = merge(&dir, &first, &keep, bytes, own, "second");
        for (results, keep) in [(&first, &everything), (&second, &keep)] {
            let is_kept = |r: &&Row| keep.row(&r.tenant, r.entry().timestamp(), r.received_at, r.sequence);
            let mut kept: Vec<&Row> = rows.iter().filter(is_kept).collect();
            finds_what_is_kept(results, &kept, &tenants, seed, 15);
            kept.sort_by(|a, b| (&a.tenant, a.sequence).cmp(&(&b.tenant, b.sequence)));
            let expected: Vec<Read> = kept
                .iter()
                .map(|r| (r.record.clone(), r.received_at, r.actor.as_str().into(), Some(r.sequence)))
                .collect();
            assert!(read_sorted(results, &tenants) == expected, "seed {seed}");
        }
    }
}

#[test]
fn a_copied_row_group_is_the_same_bytes_and_keeps_its_filter() {
    let rows = random_rows(7, &[("b", 50), ("c", 700), ("d", 40)]);
    let (dir, own) = (tempfile::tempdir().unwrap(), (200, usize::MAX));
    let sources = dealt(&dir, &rows, 1, 1, 7, Shape { own, ..SOURCE });
    let (results, _) = merge(&dir, &sources, &Younger(i64::MIN), u64::MAX, own, "result");
    let (from, to) = (&sources[0], &results[0]);
    assert_eq!((from.groups(), to.groups()), (3, 3), "those of `c`, and those before and behind");
    let middle = |part: &Part| {
        let blocks: Vec<Block> = part.blocks_within(&part.group_rows(1)).collect();
        let filters: Vec<Vec<u8>> = blocks.iter().map(|b| part.sidecar().filter(b).to_vec()).collect();
        assert!(!filters.concat().is_empty());
        (filters, blocks.iter().map(|b| b.rows.clone()).collect::<Vec<_>>())
    };
    assert_eq!(middle(from), middle(to));
    // Other readers see the same rows, in the order of the file.
    use arrow_array::{Array, cast::AsArray, types::UInt64Type};
    let file = fs::File::open(dir.path().join(data_file(&to.meta().name))).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    let mut seen = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let sequences = batch.column_by_name("sequence").unwrap().as_primitive::<UInt64Type>();
        let requests = batch.column_by_name("request_id").unwrap().as_string::<i32>();
        seen.extend((0..batch.num_rows()).map(|i| (sequences.value(i), requests.is_valid(i).then(|| requests.value(i).to_owned()))));
    }
    let expected = rows.iter().map(|r| (r.sequence, r.entry().text(Field::RequestId).map(str::to_owned)));
    assert!(expected.eq(seen));
    // What is copied is checked first, and damage is the source's.
    let file = dir.path().join("source-0.parquet");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let damaged = Arc::new(Part::open(&RealFs, dir.path(), from.meta().clone()).unwrap());
    let keep = Younger(i64::MIN);
    let between = || Ok(());
    let limits = Limits {
        bytes: u64::MAX,
        between: &between,
    };
    let mut merge = Merge::with_own(&[damaged], &keep, own).unwrap();
    let error = merge.next_part(&RealFs, dir.path(), "bad", &limits).unwrap_err();
    assert!(matches!(&error, PartError::Damaged { file, .. } if file == "source-0.parquet"), "{error}");
}

#[test]
fn what_a_read_holds_does_not_grow_with_its_rows() {
    let rows = random_rows(31, &[("c", 9_000)]);
    let dir = tempfile::tempdir().unwrap();
    let sources = dealt(
        &dir,
        &rows,
        9,
        2_000,
        31,
        Shape {
            block: (500, 1 << 20),
            ..SOURCE
        },
    );
    let (results, _) = merge(&dir, &sources, &Younger(i64::MIN), u64::MAX, Shape::DEFAULT.own, "result");
    let of = results[0].tenant(&scope("c")).unwrap();
    let held = |rows: u32| {
        let rows: Vec<u32> = (0..rows).collect();
        let (read, most, left) = pages::held::most_of(|| of.read(&rows).unwrap().len());
        assert_eq!((read, left), (rows.len(), 0), "nothing is held afterwards");
        most
    };
    let (few, all) = (held(1_000), held(9_000));
    assert!(few > 0 && all <= 2 * few, "{few} bytes of pages for 1,000 rows, {all} for 9,000");
}

#[test]
fn ids_are_found_together_as_one_by_one() {
    let rows = random_rows(33, &[("a", 700), ("b", 60)]);
    for id_key in ID_KEYS {
        let part = write_part(&rows, Shape { id_key, ..SMALL }).part;
        for tenant in ["a", "b", "nobody"] {
            let ids: Vec<Uuid> = (0..900).rev().step_by(7).chain([3, 3]).map(id_of).collect();
            let together = part.find_all(&scope(tenant), &ids).unwrap();
            assert_eq!(together.len(), ids.len());
            for (id, found) in ids.iter().zip(together) {
                assert_eq!(found, part.find(&scope(tenant), *id).unwrap());
                let hash = rows
                    .iter()
                    .find(|r| r.tenant.as_str() == tenant && r.entry().id() == *id)
                    .map(|r| r.entry().hash());
                assert_eq!(found.first().map(|(_, hash)| *hash), hash);
            }
        }
    }
}

#[test]
fn rows_of_another_tenant_are_out_of_reach() {
    let rows = random_rows(5, &[("a", 100), ("b", 200), ("c", 100)]);
    let part = write_part(&rows, SMALL).part;
    let of = part.tenant(&scope("b")).unwrap();
    assert_eq!(of.rows, 100..300);
    let foreign = |result: Result<(), PartError>| matches!(result, Err(PartError::Rows(_)));
    for list in [vec![99], vec![99, 100], vec![100, 300], vec![0], vec![u32::MAX - 1]] {
        assert!(foreign(of.read(&list).map(drop)), "{list:?}");
        assert!(foreign(of.keys(&list).map(drop)));
        assert!(foreign(of.columns(&[StatColumn::Field(Field::UserId)], &list, &mut |_| Ok(()))));
    }
    assert!(foreign(of.keys(50..150).map(drop)));
    assert!(foreign(of.read(&[101, 101]).map(drop)), "rows ascend");
    let others = part.tenant(&scope("a")).unwrap().blocks().next().unwrap();
    assert!(foreign(of.select(&others, &Filter::default()).map(drop)));
    assert!(part.tenant(&scope("bb")).is_none() && part.tenant(&scope("0")).is_none());
    // The dictionary of a row group is shared by tenants; a statistic shows values of its rows only.
    let mut asked = 0;
    let only = of.columns(&[StatColumn::Field(Field::Action)], &[of.rows.start][..], &mut |batch| {
        batch.codes(0, &mut Vec::new(), |_| {
            asked += 1;
            0
        })
    });
    assert!(only.is_ok() && asked == 1);
    assert_eq!(of.read(&[]).unwrap().len() + of.keys(&Vec::new()).unwrap().len(), 0);
}

#[test]
fn rows_that_are_no_part_are_refused() {
    let rows = random_rows(6, &[("a", 3), ("b", 2)]);
    let dir = tempfile::tempdir().unwrap();
    let attempt = |order: &[usize]| {
        let mut iter = order.iter().map(|i| &rows[*i]).map(|row| RowIn {
            tenant: &row.tenant,
            sequence: row.sequence,
            received_at: row.received_at,
            actor: &row.actor,
            entry: row.entry(),
        });
        write(&RealFs, dir.path(), "p", (1, 1), &mut iter)
    };
    for bad in [&[][..], &[3, 0], &[1, 0], &[0, 3, 1]] {
        assert!(matches!(attempt(bad), Err(PartError::Rows(_))), "{bad:?}");
    }
    assert!(!dir.path().join("p.parquet").exists() && !dir.path().join("p.idx").exists());
    // What a refused attempt left does not stand in the way, nor does an older part of the name.
    assert_eq!(attempt(&[0, 1, 2]).unwrap().rows, 3);
    let meta = attempt(&[0, 1, 2, 3, 4]).unwrap();
    assert_eq!(meta.rows, 5);
    Part::open(&RealFs, dir.path(), meta).unwrap().verify().unwrap();
}

#[test]
fn damage_anywhere_in_the_data_is_an_error_or_of_no_consequence() {
    let rows = random_rows(7, &[("a", 400), ("b", 50)]);
    let fixture = write_part(&rows, SMALL);
    let path = fixture.dir.path().join("p.parquet");
    let good = fs::read(&path).unwrap();
    let expected = read_all(&fixture.part, &["a", "b"]).unwrap();
    let mut dice = Dice(8);
    let step = good.len() / 250;
    let mut noticed = 0;
    for at in (0..good.len()).step_by(step).chain(good.len() - 40..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 1 << dice.below(8);
        // A new file: the old one is mapped.
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bad).unwrap();
        match reopen(&fixture) {
            Err(e) => assert!(matches!(e, PartError::Damaged { .. }), "{e}"),
            Ok(part) => {
                assert!(matches!(part.verify(), Err(PartError::Damaged { .. })), "byte {at}");
                match read_all(&part, &["a", "b"]) {
                    Ok(all) => assert!(all == expected, "byte {at}"),
                    Err(PartError::Damaged { file, rows, .. }) => {
                        assert_eq!((file.as_str(), rows.is_some()), ("p.parquet", true));
                        noticed += 1;
                    }
                    Err(e) => panic!("{e}"),
                }
            }
        }
    }
    assert!(noticed > 100, "{noticed}");
    for cut in [0, 1, good.len() / 2, good.len() - 1] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, &good[..cut]).unwrap();
        assert!(matches!(reopen(&fixture), Err(PartError::Damaged { .. })), "cut at {cut}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(reopen(&fixture), Err(PartError::Io { .. })));
}

#[test]
fn damage_anywhere_in_the_sidecar_is_found_when_it_is_opened() {
    let rows = random_rows(9, &[("a", 100), ("b", 5)]);
    let fixture = write_part(&rows, SMALL);
    let path = fixture.dir.path().join("p.idx");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bad).unwrap();
        assert!(matches!(reopen(&fixture), Err(PartError::Damaged { .. })), "byte {at}");
    }
    // Another part's files, whole in themselves, are not taken for this one's.
    let other = write_part(&random_rows(10, &[("a", 100), ("b", 5)]), SMALL);
    fs::copy(other.dir.path().join("p.idx"), &path).unwrap();
    assert!(matches!(reopen(&fixture), Err(PartError::Damaged { .. })));
    fs::write(&path, &good).unwrap();
    fs::copy(other.dir.path().join("p.parquet"), fixture.dir.path().join("p.parquet")).unwrap();
    let noticed = match reopen(&fixture) {
        Ok(part) => part.verify().is_err() && read_all(&part, &["a", "b"]).is_err(),
        Err(_) => true,
    };
    assert!(noticed);
}

#[test]
fn thousands_of_small_tenants_stay_cheap() {
    let names: Vec<String> = (0..5_000).map(|i| format!("tenant-{i}")).collect();
    let tenants: Vec<(&str, u64)> = names.iter().map(|n| (n.as_str(), 10)).collect();
    let part = write_part(&random_rows(11, &tenants), Shape::DEFAULT).part;
    assert_eq!(part.tenants(), 5_000);
    let per_row = part.meta().sidecar_bytes as f64 / part.meta().rows as f64;
    assert!(per_row < 30.0, "{per_row} bytes of sidecar a row");
    let of = part.tenant(&scope("tenant-4711")).expect("rows");
    assert_eq!((of.rows.len(), of.blocks().len()), (10, 1));
    assert_eq!(of.read(&of.rows.clone().collect::<Vec<_>>()).unwrap().len(), 10);
}

#[test]
fn other_readers_see_plain_types() {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let fixture = write_part(&random_rows(12, &[("a", 10)]), Shape::DEFAULT);
    let file = fs::File::open(fixture.dir.path().join("p.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let types: Vec<String> = reader.schema().fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    assert_eq!(types[..3], ["tenant Utf8", "timestamp Timestamp(ms, \"UTC\")", "sequence UInt64"]);
    assert_eq!(types.len(), 23);
    assert!(types[8..].iter().all(|t| t.ends_with(" Utf8")), "{types:?}");
}

#[test]
fn rows_clip_and_count() {
    let list = [3, 4, 9];
    let rows = Rows::from(&list[..]);
    assert_eq!((rows.len(), rows.get(2), rows.is_empty()), (3, 9, false));
    assert!(Rows::from(5..5).is_empty());
}
