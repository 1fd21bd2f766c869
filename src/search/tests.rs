//! The language as tables, and the definition against the plainest reading of it.

use super::*;
use crate::model::{
    conditions,
    entry::{EntryRef, Field, NewEntry, Severity},
    filter::{Filter, Surroundings},
    leaves::for_each_leaf,
    words::for_each_word,
};
use proptest::prelude::*;
use uuid::Uuid;

fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for_each_word(text, &mut |word| found.push(word.to_owned()));
    found
}

/// Writes a tree so that its shape can be compared: `a b` for AND, `a|b` for OR, `!a`, `<phrase here>`, `pre*`, `field=…`.
fn shape(search: &Search) -> String {
    let join = |list: &[Search], by: &str| format!("({})", list.iter().map(shape).collect::<Vec<_>>().join(by));
    match search {
        Search::All(list) => join(list, " "),
        Search::Any(list) => join(list, "|"),
        Search::Not(of) => format!("!{}", shape(of)),
        Search::Text(scope, needle) => {
            let field = match scope {
                Scope::Everywhere => String::new(),
                Scope::Within(field) => format!("{}:", field.name()),
            };
            let text = match needle.words() {
                [one] if needle.is_prefix() => format!("{one}*"),
                [one] => one.clone(),
                several => format!("<{}>", several.join(" ")),
            };
            field + &text
        }
        Search::Is(_) => "=".to_owned(),
        Search::Starts(start) => format!("{:?}^{}", start.of, start.with),
    }
}

fn good(text: &str) -> Search {
    parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn words_phrases_negations_groups_and_alternatives() {
    for (text, expected) in [
        ("disk", "disk"),
        ("  Disk\tFULL\u{a0}now ", "(disk full now)"),
        ("a.b@C.com", "(a b c com)"),
        ("a b OR c d", "((a b)|(c d))"),
        ("a OR b OR c", "(a|b|c)"),
        ("a (b OR c) d", "(a (b|c) d)"),
        ("a(b)", "(a b)"),
        ("(a b) c", "(a b c)"),
        ("a AND b", "(a b)"),
        ("a AND b OR c AND NOT d", "((a b)|(c !d))"),
        ("-a", "!a"),
        ("-a b", "(!a b)"),
        ("NOT a b", "(!a b)"),
        ("NOT -a", "!!a"),
        ("-(a b) c", "(!(a b) c)"),
        ("-a.b", "!(a b)"),
        ("a-b", "(a b)"),
        ("\"disk full\" -\"x y z\"", "(<disk full> !<x y z>)"),
        ("\"one\"", "one"),
        ("a\"b c\"d", "(a <b c> d)"),
        ("\"a \\\" b \\\\ c \\d\"", "<a b c d>"),
        ("\"OR\" or and not AND \"NOT\"", "(or or and not not)"),
        ("ORDER ANDROID NOTE", "(order android note)"),
        ("disk*", "disk*"),
        ("no-dis*", "(no dis*)"),
        ("a & b ... c", "(a b c)"),
        ("12:30 ::1 10.0.0.1/8", "(12 30 1 10 0 0 1 8)"),
        ("日本語 STRAßE ΟΔΟΣ", "(日本語 straße οδος)"),
        ("message:disk", "message:disk"),
        ("message:disk-full", "(message:disk message:full)"),
        ("message:\"disk full\"", "message:<disk full>"),
        (
            "metadata:eu* after_state:closed before_state:1.5",
            "(metadata:eu* after_state:closed before_state:1 before_state:5)",
        ),
        ("user_agent:\"Mozilla Linux\"", "(user_agent:mozilla user_agent:linux)"),
        ("-severity:ERROR x", "(!= x)"),
        ("user_id:bo* x", "(Field(UserId)^bo x)"),
        ("action:LOG*", "Field(Action)^log"),
        ("id:0190A3*", "Id^0190a3"),
        ("metadata.a\\.b.c:Xyz*", "Leaf([\"a.b\", \"c\"])^Xyz"),
        ("ip_address:10.1.*", "Field(IpAddress)^10.1."),
    ] {
        assert_eq!(shape(&good(text)), expected, "{text}");
    }
}

#[test]
fn a_field_means_what_its_filter_means() {
    for (text, name, value) in [
        ("user_id:Bob", "user_id", "Bob"),
        ("user_id:\"Bob Smith (x) \\\"y\\\"\"", "user_id", "Bob Smith (x) \"y\""),
        ("user_id:\"\"", "user_id", ""),
        ("email:a.b@c.com", "email", "a.b@c.com"),
        ("action:LOGIN,logout", "action", "LOGIN,logout"),
        ("resource_type:\"a b\"", "resource_type", "a b"),
        ("resource_id:\"arn:aws:s3:::b/*\"", "resource_id", "arn:aws:s3:::b/*"),
        ("severity:error", "severity", "ERROR"),
        ("ip_address:10.0.0.0/8", "ip_address", "10.0.0.0/8"),
        ("ip_address:2001:db8::/32", "ip_address", "2001:db8::/32"),
        ("from:2024-01-01T00:00:00Z", "from", "2024-01-01T00:00:00Z"),
        ("timestamp:2024-01-01", "timestamp", "2024-01-01"),
        ("min_sequence:5", "min_sequence", "5"),
        ("actor:svc", "actor", "svc"),
        ("metadata.a.b:1.50", "metadata.a.b", "1.50"),
        ("id:0190A3B4-0000-7000-8000-000000000001", "id", "0190a3b4-0000-7000-8000-000000000001"),
    ] {
        let mut filter = Filter::default();
        conditions::add(&mut filter, name, value).expect(text);
        assert_eq!(good(text), Search::Is(Box::new(filter)), "{text}");
    }
}

#[test]
fn what_is_no_search_is_refused_with_its_place_and_never_repeated() {
    for (text, at, about) in [
        ("", 1, "no word"),
        (" \t", 1, "no word"),
        ("-- ", 2, "negated"),
        ("& ...", 1, "no word"),
        ("\"--\"", 1, "no word"),
        ("a \"", 3, "quote"),
        ("é \"b", 3, "quote"),
        ("\"a\\\"", 1, "quote"),
        ("(a", 1, "not closed"),
        ("a (b (c)", 3, "not closed"),
        ("a) b", 2, "closes nothing"),
        (")", 1, "closes nothing"),
        ("a ()", 3, "parentheses"),
        ("a (&)", 3, "parentheses"),
        ("a OR", 3, "right"),
        ("OR a", 1, "left"),
        ("a OR OR b", 3, "right"),
        ("(a OR) b", 4, "right"),
        ("a OR &", 3, "right"),
        ("a AND", 3, "right"),
        ("AND a", 1, "left"),
        ("a AND AND b", 7, "left"),
        ("a AND OR b", 3, "right"),
        ("a -", 3, "negated"),
        ("a - b", 3, "negated"),
        ("a -&", 3, "negated"),
        ("a NOT", 3, "negated"),
        ("NOT OR a", 1, "negated"),
        ("-) a", 1, "negated"),
        ("*", 1, "`*`"),
        ("a fo*o", 3, "`*`"),
        ("foo**", 1, "`*`"),
        ("foo.*", 1, "`*`"),
        ("\"foo\"*", 6, "`*`"),
        ("sevrity:ERROR", 1, "`severity`"),
        ("a METADATA:x", 3, "`metadata`"),
        ("https://example.org", 1, "double quotes"),
        ("metadata.:x", 1, "`metadata`"),
        ("user_id:", 1, "follow the colon"),
        ("user_id: bob", 1, "follow the colon"),
        ("user_id:(a OR b)", 1, "follow the colon"),
        ("message:--", 1, "no word"),
        ("message:\"--\"", 1, "no word"),
        ("x severity:LOUD", 3, "INFO, WARNING"),
        ("severity:X*", 1, "INFO, WARNING"),
        ("from:yesterday", 1, "RFC 3339"),
        ("from:2024*", 1, "times and numbers"),
        ("ip_address:300.1.1.1", 1, "IPv4"),
        ("id:17", 1, "UUID"),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!((error.at, error.code), (at, "invalid_search"), "{text}: {error}");
        assert!(error.to_string().starts_with(&format!("at character {at}: ")), "{text}: {error}");
        assert!(error.message.contains(about), "{text}: {error}");
    }
    for secret in [
        "zebra:x",
        "x (zebra",
        "severity:zebra",
        "zeb*ra",
        "\"zebra",
        "zebra OR",
        "id:zebra",
        "from:zebra",
        "ze*",
    ] {
        assert!(!parse(secret).expect_err(secret).to_string().contains("ze"), "{secret}");
    }
}

#[test]
fn a_short_beginning_needs_another_term_that_holds() {
    for (text, at) in [
        ("ab*", 1),
        ("日本*", 1),
        ("-ab*", 2),
        ("ab* cd*", 1),
        ("abc OR de*", 8),
        ("abc (x OR y*) OR (de* -x)", 19),
        ("ab* -foo", 1),
        ("(ab* OR foo) cde*", 0),
        ("user_id:*", 1),
        ("message:a*", 1),
        ("(a* OR b) (c* OR d)", 2),
        ("NOT (a* b) OR -c*", 16),
    ] {
        match (at, parse(text)) {
            (0, result) => assert!(result.is_ok(), "{text}"),
            (at, Err(e)) => assert_eq!((e.at, e.code), (at, "too_broad"), "{text}"),
            (_, Ok(_)) => panic!("{text}"),
        }
    }
    for text in [
        "abc*",
        "ab* foo",
        "foo -ab*",
        "x-a*",
        "a* (b OR c)",
        "a* severity:ERROR",
        "(a* OR b*) foo",
        "foo (a* OR -b*)",
        "日本語*",
    ] {
        good(text);
    }
}

#[test]
fn size_terms_and_depth_are_bounded() {
    let error = |text: &str| parse(text).expect_err("too much").message;
    good(&"x".repeat(MAX_BYTES));
    assert!(error(&"é".repeat(MAX_BYTES / 2 + 1)).contains("4096 bytes"));
    assert_eq!(good(&"a ".repeat(MAX_TERMS)).terms(), MAX_TERMS);
    assert!(error(&"a ".repeat(MAX_TERMS + 1)).contains("256 terms"));
    assert!(error(&format!("\"{}\"", "a ".repeat(MAX_TERMS + 1))).contains("256 terms"));
    assert!(error(&"user_id:a ".repeat(MAX_TERMS + 1)).contains("256 terms"));
    good(&format!("{}a{}", "(".repeat(MAX_DEPTH), ")".repeat(MAX_DEPTH)));
    good(&"(a) ".repeat(200));
    good(&format!("{}a", "-".repeat(MAX_DEPTH)));
    for (open, close) in [("(", ")"), ("-", ""), ("NOT (", ")")] {
        let text = format!("{}a{}", open.repeat(MAX_DEPTH + 1), close.repeat(MAX_DEPTH + 1));
        assert!(error(&text).contains("32 deep"), "{open}");
    }
    for deep in ["(".repeat(MAX_BYTES), "-".repeat(MAX_BYTES), "NOT ".repeat(1_000), "-(".repeat(2_000)] {
        assert!(error(&deep).contains("32 deep"));
    }
    let many = Search::any((0..1_000).map(|_| good("a")).fold(vec![good("b")], |list, one| vec![Search::any(list), one]));
    assert!(matches!(many, Search::Any(list) if list.len() == 1_001), "a tree of alternatives stays flat");
}

/// An entry of a few fields.
fn record(fields: &[(Field, &str)]) -> Vec<u8> {
    let (mut record, mut all) = (Vec::new(), [None; Field::COUNT]);
    for (field, text) in fields {
        all[*field as usize] = Some(text.as_bytes());
    }
    NewEntry {
        id: Uuid::from_u128(0x0190_a3b4_0000_7000_8000_0000_0000_face),
        client_id: true,
        hash: 0,
        timestamp: 1_000,
        severity: Severity::Error,
        fields: all,
    }
    .encode(&mut record);
    record
}

const AROUND: Surroundings<'_> = Surroundings { sequence: 7, actor: "svc-1" };

#[test]
fn an_entry_is_found_by_all_of_its_texts_and_by_nothing_else() {
    let record = record(&[
        (Field::Action, "User.LOGIN"),
        (Field::ResourceType, "document"),
        (Field::ResourceId, "doc-17"),
        (Field::UserId, "ann"),
        (Field::SessionId, "sess-1"),
        (Field::RequestId, "req-9"),
        (Field::Email, "ann@example.com"),
        (Field::IpAddress, "\u{a}\u{1}\u{2}\u{3}"),
        (Field::UserAgent, "Mozilla/5.0 (X11; Linux)"),
        (Field::Message, "Disk is FULL, again"),
        (Field::BeforeState, r#"{"status":"open","tags":["red","blue"]}"#),
        (Field::AfterState, r#"{"status":"closed"}"#),
        (Field::Metadata, r#"{"region":"eu-1","deep":{"list":[1.50,"new york"]},"ok":true}"#),
    ]);
    let entry = EntryRef::check(&record).expect("a record");
    let finds = |text: &str| good(text).matches(&entry, AROUND);
    for text in [
        "login",
        "user login disk",
        "document 17 ann",
        "sess req",
        "example.com",
        "mozilla linux",
        "\"disk is full\"",
        "-\"disk full\"",
        "open closed",
        "red blue",
        "-\"red blue\"",
        "\"new york\"",
        "50 true",
        "00000000face 0190a3b4",
        "\"8000 00000000face\" OR 00000000face",
        "dis* -diskette",
        "user_id:ann severity:ERROR,INFO action:user.login",
        "ip_address:10.0.0.0/8",
        "ip_address:10.1.*",
        "id:0190a3b4-0000-7000-8000-00000000face",
        "id:0190a*",
        "actor:svc-1",
        "actor:svc*",
        "min_sequence:7 max_sequence:7",
        "metadata.deep.list:1.50",
        "metadata.deep.list:\"new york\"",
        "metadata.region:eu-*",
        "metadata:york -message:york",
        "message:full -metadata:full",
        "before_state:open -after_state:open",
        "user_agent:linux -user_agent:windows",
        "resource_type:DOC*",
        "nothing OR login",
        "-(nothing OR logout)",
        "(login OR nothing) (document OR nothing)",
    ] {
        assert!(finds(text), "{text}");
    }
    for text in [
        "logi",
        "login nothing",
        "-login",
        "\"login disk\"",
        "\"full is disk\"",
        "status",
        "region",
        "severity",
        "error",
        "svc",
        "10",
        "\"10 1 2 3\"",
        "\"open closed\"",
        "user_id:Ann",
        "user_id:an",
        "user_id:AN* x",
        "action:logi*",
        "metadata.region:eu",
        "metadata.deep.list:eu-*",
        "metadata.deep:new*",
        "metadata.deep.list:1.5",
        "message:york",
        "message:\"is disk\"",
        "nothing OR -login",
    ] {
        assert!(!finds(text), "{text}");
    }
}

/// The plainest reading: lists of the words of each field and each value.
fn reads(search: &Search, entry: &EntryRef<'_>) -> bool {
    let mut texts: Vec<(Option<Field>, Vec<String>)> = vec![(None, words(&entry.id().to_string()))];
    for field in SEARCHED {
        let Some(text) = entry.text(field) else { continue };
        match field.is_object() {
            true => for_each_leaf(text, &mut |_, leaf| texts.push((Some(field), words(&leaf)))),
            false => texts.push((Some(field), words(text))),
        }
    }
    match search {
        Search::All(list) => list.iter().all(|s| reads(s, entry)),
        Search::Any(list) => list.iter().any(|s| reads(s, entry)),
        Search::Not(of) => !reads(of, entry),
        Search::Text(scope, needle) => texts.iter().any(|(field, words)| {
            let here = match scope {
                Scope::Everywhere => true,
                Scope::Within(wanted) => *field == Some(*wanted),
            };
            here && match needle.is_prefix() {
                true => words.iter().any(|w| w.starts_with(&needle.words()[0])),
                false => words.windows(needle.words().len()).any(|w| w == needle.words()),
            }
        }),
        other => other.matches(entry, AROUND),
    }
}

const PIECES: [&str; 26] = [
    "a",
    "ab",
    "disk",
    "full",
    "été",
    "ÉTÉ",
    "K\u{212a}",
    "日本",
    "\"",
    "(",
    ")",
    "-",
    "OR",
    "AND",
    "NOT",
    "*",
    ":",
    "message",
    "metadata",
    "user_id",
    "\\",
    ".",
    "severity",
    "ERROR",
    "12",
    " ",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_search_or_an_error_with_a_place_in_it(text in "\\PC{0,80}") {
        if let Err(e) = parse(&text) {
            prop_assert!((1..=text.chars().count() + 1).contains(&e.at));
        }
    }

    /// Pieces of the language in any order; what parses means what the plainest reading of its tree says.
    #[test]
    fn any_search_means_what_its_words_mean(
        pieces in prop::collection::vec((0..PIECES.len(), any::<bool>()), 1..14),
        message in prop::collection::vec(0..PIECES.len(), 0..8),
        values in prop::collection::vec((0..8usize, any::<bool>()), 0..5),
    ) {
        let text: String = pieces.iter().map(|(i, space)| format!("{}{}", PIECES[*i], if *space { " " } else { "" })).collect();
        let message = message.iter().map(|i| PIECES[*i]).collect::<Vec<_>>().join(" ");
        let value = |(i, escaped): &(usize, bool)| match escaped {
            true => PIECES[*i].encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>(),
            false => PIECES[*i].to_owned(),
        };
        let metadata = format!(r#"{{"disk":["{}"]}}"#, values.iter().map(value).collect::<Vec<_>>().join("\",\""));
        let record = record(&[(Field::Action, "full"), (Field::Message, &message), (Field::Metadata, &metadata)]);
        let entry = EntryRef::check(&record).expect("a record");
        match parse(&text) {
            Err(e) => prop_assert!((1..=text.chars().count() + 1).contains(&e.at), "{}", e),
            Ok(search) => {
                prop_assert!(search.terms() <= MAX_TERMS);
                prop_assert_eq!(search.matches(&entry, AROUND), reads(&search, &entry), "{} on {} {}", text, message, metadata);
            }
        }
    }
}
