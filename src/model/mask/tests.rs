//! Tables of what is hidden and what is not, and properties over random texts and objects.

use super::{MASKED, MASKED_JSON, Mask, object, text};
use crate::{
    model::{
        entry::{EntryRef, Field, NewEntry, Severity, StoredEntry},
        leaves::for_each_leaf,
        words::for_each_word,
    },
    search,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

const EVERY_PATTERN: [&str; 5] = ["pattern:email", "pattern:phone", "pattern:card", "pattern:iban", "pattern:secret_keys"];

fn mask(paths: &[&str]) -> Mask {
    Mask::compile(&paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{paths:?}: {e}"))
}

fn shown(mask: &Mask, text: &str) -> String {
    mask.text(Field::Message, text).into_owned()
}

#[track_caller]
fn table(pattern: &str, hidden: &[(&str, &str)], kept: &[&str]) {
    let (one, all) = (mask(&[pattern]), mask(&EVERY_PATTERN));
    for (text, want) in hidden {
        assert_eq!(shown(&one, text), *want, "{text}");
        assert!(!shown(&all, text).contains(text.trim_matches(|c: char| !c.is_alphanumeric())), "{text}");
    }
    for text in kept {
        assert_eq!(shown(&one, text), *text, "{text}");
    }
}

#[test]
fn addresses_of_people() {
    table(
        "pattern:email",
        &[
            ("ann@example.com", "***"),
            ("by ann.o-hara+x_1%y@mail.example.co.uk.", "by ***."),
            ("<ann@example.com>, bob@b.de", "<***>, ***"),
            ("mailto:O'Brien@example.com?x", "mailto:***?x"),
            ("éva@exämple.org and 李@例子.公司 x", "*** and *** x"),
            ("ann@example.com2", "***"),
            ("a@b@example.com", "a@***"),
            ("ann@example.com.5", "***.5"),
            ("user=ann@example.com;", "user=***;"),
            ("ann@a_b.example.com-", "***-"),
            ("12345@qq.com", "***"),
        ],
        &[
            "ann@localhost",
            "@ann",
            "ann@",
            "react@18.2.0",
            "root@10.0.0.1",
            "a @ b.com",
            "x@.com",
            "''@b.com",
            "***@***.***",
            "mail@x.y",
        ],
    );
}

#[test]
fn phone_numbers() {
    table(
        "pattern:phone",
        &[
            ("+15551234567", "***"),
            ("call +1 (555) 123-4567 now", "call *** now"),
            ("+49 151 12345678", "***"),
            ("+49 (0)30/123456-78", "***"),
            ("+43.664.1234567,", "***,"),
            ("(555) 123-4567", "***"),
            ("555-123-4567", "***"),
            ("555.123.4567", "***"),
            ("1-800-555-0199", "***"),
            ("tel:555 123 4567;", "tel:***;"),
            ("0049 151 12345678", "***"),
            ("00 49 151 12345678", "***"),
            ("0664 1234567", "***"),
            ("0151/12345678", "***"),
            ("(030) 123456-78", "***"),
            ("01 23 45 67 89", "***"),
            ("020 7946 0958", "***"),
            ("+49\u{a0}151\u{a0}12345678", "***"),
        ],
        &[
            "2024-01-31",
            "2024-01-31 12:30:45",
            "31.01.2024",
            "01-31-2024 10:20:30",
            "2024-02-29T11:07:07.123Z +02:00",
            "192.168.100.200",
            "10.0.0.1:8080",
            "order 12345678",
            "1763739243123",
            "b6f0c3d2-41a4-4f5b-9d00-000042555123",
            "00000000-0000-0000-0000-000000000001",
            "555-1234",
            "12-555-123-4567",
            "555-123-4567-89",
            "v1.22.333.4444",
            "1,000,000,000",
            "x555-123-4567",
            "inv-00000042",
            "+1234567",
            "a+b",
            "Chrome/122.0.6261.111 Safari/537.36",
            "123-45-6789",
        ],
    );
}

#[test]
fn payment_cards() {
    table(
        "pattern:card",
        &[
            ("4111111111111111", "***"),
            ("4111 1111 1111 1111", "***"),
            ("paid 5500-0000-0000-0004!", "paid ***!"),
            ("3782 822463 10005", "***"),
            ("6011000990139424", "***"),
            ("30569309025904", "***"),
            ("4222222222222", "***"),
            ("4222 2222 2222 2", "***"),
            ("2221000000000009", "***"),
            ("6304000000000000000", "***"),
            ("card_4111111111111111.pdf", "card_***.pdf"),
            ("42 4111 1111 1111 1111 12", "42 *** 12"),
            ("4111\u{a0}1111\u{a0}1111\u{a0}1111", "***"),
        ],
        &[
            "4111111111111112",
            "4111 1111 1111 1112",
            "411111111111",
            "41111111111111111111111",
            "1763739243125",
            "0000000000000000",
            "00000000-0000-0000-0000-000000000000",
            "x4111111111111111",
            "4111111111111111x",
            "4111.1111.1111.1111",
            "4111  1111  1111  1111",
            "b6f0c3d2e41a4f5b9d4111111111111111",
            "3.14159265358979",
        ],
    );
}

#[test]
fn bank_accounts() {
    table(
        "pattern:iban",
        &[
            ("DE89370400440532013000", "***"),
            ("de89 3704 0044 0532 0130 00", "***"),
            ("to DE89 3704 0044 0532 0130 00 today", "to *** today"),
            ("AT611904300234573201 and more", "*** and more"),
            ("AT61 1904 3002 3457 3201 from Ann", "*** from Ann"),
            ("GB29NWBK60161331926819.", "***."),
            ("NO9386011117947", "***"),
            ("MT84MALT011000012345MTLCAST001S", "***"),
            ("IBAN:GB29-NWBK-6016-1331-9268-19", "IBAN:***"),
        ],
        &[
            "DE89370400440532013001",
            "XDE89370400440532013000",
            "DE89370400440532013000X",
            "DE89 370 4004 4053 2013 000",
            "DE8937040044",
            "AB12 some words here",
            "89370400440532013000",
            "id42 is the invoice number of Ann",
        ],
    );
}

#[test]
fn secrets_inside_a_text() {
    table(
        "pattern:secret_keys",
        &[
            ("password=hunter2", "password=***"),
            ("login?user=ann&token=abc.def-1&x=2", "login?user=ann&token=***&x=2"),
            ("Authorization: Bearer eyJ.a.b", "Authorization: ***"),
            ("x-api-key: k1, y", "x-api-key: ***, y"),
            (r#"{"client_secret":"a b","x":1}"#, r#"{"client_secret":"***","x":1}"#),
            ("Cookie: a=1; b=2\nnext", "Cookie: ***\nnext"),
            ("pwd = 'a b' x", "pwd = '***' x"),
            ("token: Bearer abc x", "token: *** x"),
            ("secret=é1", "secret=***"),
        ],
        &[
            "https://example.com",
            "12:30:45",
            "a=b",
            "password",
            "token ",
            "key=value",
            "the secretary: Ann",
            "tokenizer=x",
            "password=***",
            "password=",
            "password=,",
            "=:@",
        ],
    );
}

#[test]
fn secret_keys_hide_values_of_every_type() {
    let mask = mask(&["pattern:secret_keys"]);
    for key in [
        "password",
        "Password",
        "PASSWORD",
        "user_password",
        "userPassword",
        "passwd",
        "pwd",
        "passphrase",
        "passwordHash",
        "secret",
        "client-secret",
        "clientSecret",
        "token",
        "access_token",
        "accessToken",
        "ACCESS-TOKEN",
        "sessionToken",
        "session_token",
        "authorization",
        "Proxy-Authorization",
        "api_key",
        "apiKey",
        "APIKey",
        "X-Api-Key",
        "apikey",
        "private_key",
        "privateKey",
        "aws_secret_access_key",
        "access.key",
        "cookie",
        "Set-Cookie",
        "credentials",
        "jwt",
        "token2",
        "ToKeN",
        "pass\\u0077ord",
        "secret key",
    ] {
        for value in ["\"x\"", "1", "null", "true", "[1,[2]]", r#"{"a":{"b":"]}"}}"#, r#""a\"b""#] {
            let json = format!(r#"{{"a":1,"{key}":{value},"z":[{{"{key}":{value}}}]}}"#);
            let want = format!(r#"{{"a":1,"{key}":"***","z":[{{"{key}":"***"}}]}}"#);
            assert_eq!(mask.text(Field::Metadata, &json), want, "{key}");
        }
    }
    for key in [
        "secretary",
        "tokenizer",
        "author",
        "keyboard",
        "monkey",
        "pass",
        "key",
        "authorized",
        "broken",
        "cook",
        "id",
        "",
        "résumé",
        "public_key",
    ] {
        let json = format!(r#"{{"{key}":"x"}}"#);
        assert_eq!(mask.text(Field::AfterState, &json), json);
    }
}

#[test]
fn paths_hide_what_they_name() {
    let json = r#"{"card":{"n":1},"list":[{"ssn":"1","x":2},{"SSN":[3,4]}],"a.b":"c","*":5,"deep":{"a":{"ssn":6},"b":{"ssn":null}},"e":[],"f":{}}"#;
    for (path, want) in [
        (
            "metadata.card",
            r#"{"card":"***","list":[{"ssn":"1","x":2},{"SSN":[3,4]}],"a.b":"c","*":5,"deep":{"a":{"ssn":6},"b":{"ssn":null}},"e":[],"f":{}}"#,
        ),
        (
            "metadata.card.n",
            r#"{"card":{"n":"***"},"list":[{"ssn":"1","x":2},{"SSN":[3,4]}],"a.b":"c","*":5,"deep":{"a":{"ssn":6},"b":{"ssn":null}},"e":[],"f":{}}"#,
        ),
        (
            "metadata.list.*.ssn",
            r#"{"card":{"n":1},"list":[{"ssn":"***","x":2},{"SSN":"***"}],"a.b":"c","*":5,"deep":{"a":{"ssn":6},"b":{"ssn":null}},"e":[],"f":{}}"#,
        ),
        (
            "metadata.list.ssn",
            r#"{"card":{"n":1},"list":[{"ssn":"***","x":2},{"SSN":"***"}],"a.b":"c","*":5,"deep":{"a":{"ssn":6},"b":{"ssn":null}},"e":[],"f":{}}"#,
        ),
        (
            "metadata.list.*",
            r#"{"card":{"n":1},"list":["***","***"],"a.b":"c","*":5,"deep":{"a":{"ssn":6},"b":{"ssn":null}},"e":[],"f":{}}"#,
        ),
        (
            "metadata.deep.*.ssn",
            r#"{"card":{"n":1},"list":[{"ssn":"1","x":2},{"SSN":[3,4]}],"a.b":"c","*":5,"deep":{"a":{"ssn":"***"},"b":{"ssn":"***"}},"e":[],"f":{}}"#,
        ),
        (
            "metadata.a\\.b",
            r#"{"card":{"n":1},"list":[{"ssn":"1","x":2},{"SSN":[3,4]}],"a.b":"***","*":5,"deep":{"a":{"ssn":6},"b":{"ssn":null}},"e":[],"f":{}}"#,
        ),
        (
            "metadata.\\*",
            r#"{"card":{"n":1},"list":[{"ssn":"1","x":2},{"SSN":[3,4]}],"a.b":"c","*":"***","deep":{"a":{"ssn":6},"b":{"ssn":null}},"e":[],"f":{}}"#,
        ),
        (
            "metadata.*",
            r#"{"card":"***","list":"***","a.b":"***","*":"***","deep":"***","e":"***","f":"***"}"#,
        ),
        ("metadata", r#""***""#),
        (
            "metadata.CARD.N",
            r#"{"card":{"n":"***"},"list":[{"ssn":"1","x":2},{"SSN":[3,4]}],"a.b":"c","*":5,"deep":{"a":{"ssn":6},"b":{"ssn":null}},"e":[],"f":{}}"#,
        ),
        ("before_state.card", json),
        ("metadata.nothing", json),
    ] {
        let one = mask(&[path]);
        assert_eq!(one.text(Field::Metadata, json), want, "{path}");
        assert_eq!(one.text(Field::Metadata, want), want, "{path}: once more");
    }
    let nested = mask(&["metadata.a"])
        .text(Field::Metadata, r#"{"b":[[1,{"a":2}]],"a":[3],"c":{"a":4}}"#)
        .into_owned();
    assert_eq!(nested, r#"{"b":[[1,{"a":2}]],"a":"***","c":{"a":4}}"#);
    let arrays = mask(&["metadata.b.*.a"])
        .text(Field::Metadata, r#"{"b":[[1,{"a":2}],{"a":3}],"a":4}"#)
        .into_owned();
    assert_eq!(arrays, r#"{"b":[[1,{"a":"***"}],{"a":"***"}],"a":4}"#);
}

#[test]
fn objects_are_read_with_their_escapes_and_keys_are_looked_at() {
    let all = mask(&EVERY_PATTERN);
    for (json, want) in [
        (r#"{"a":"x ann\u0040example.com\n\"y\""}"#, r#"{"a":"x ***\n\"y\""}"#),
        (r#"{"a":"\u0061nn@example.com"}"#, r#"{"a":"***"}"#),
        (r#"{"ann@example.com":1,"b":{"\u002b15551234567":2}}"#, r#"{"***":1,"b":{"***":2}}"#),
        (
            r#"{"n":4111111111111111,"m":4111111111111112,"o":[4111111111111111.0,-4111111111111111]}"#,
            r#"{"n":"***","m":4111111111111112,"o":[4111111111111111.0,-4111111111111111]}"#,
        ),
        (r#"{"a":"\u00e9","b":1.50}"#, r#"{"a":"\u00e9","b":1.50}"#),
        (r#"{"a":"{\"password\":\"x y\"}"}"#, r#"{"a":"{\"password\":\"***\"}"}"#),
        ("{}", "{}"),
    ] {
        assert_eq!(all.text(Field::BeforeState, json), want);
    }
}

#[test]
fn what_is_no_path_is_refused_and_says_what_would_be_right() {
    for (path, says) in [
        ("", "1 to 256 bytes"),
        ("id", "never hidden"),
        ("tenant_id", "never hidden"),
        ("timestamp", "never hidden"),
        ("received_at", "never hidden"),
        ("severity", "never hidden"),
        ("sequence", "never hidden"),
        ("emial", "`email`"),
        ("Email", "`email`"),
        ("before", "`before_state`"),
        ("log_metadata.x", "`metadata`"),
        ("*", "the nearest one"),
        ("email.x", "no keys"),
        ("actor.x", "no keys"),
        ("message.*", "no keys"),
        ("metadata.", "empty key"),
        ("metadata..a", "empty key"),
        (".metadata", "empty key"),
        ("pattern:mail", "`pattern:email`"),
        ("pattern:", "the nearest one"),
        ("pattern:Email", "`pattern:email`"),
        (" email", "`email`"),
    ] {
        let error = Mask::compile(&["message".to_owned(), path.to_owned()]).expect_err(path);
        assert!(error.at == 1 && error.message.contains(says), "{path}: {error}");
    }
    let long = format!("metadata.{}", "a".repeat(256));
    let deep = format!("metadata{}", ".a".repeat(32));
    for path in [long, deep] {
        assert!(Mask::compile(&[path]).is_err());
    }
    let many = |n: usize| Mask::compile(&(0..n).map(|i| format!("metadata.{i}")).collect::<Vec<_>>());
    assert!(many(64).is_ok() && many(65).is_err());
    let all: Vec<String> = Field::ALL.iter().map(|f| f.name().to_owned()).chain(["actor".to_owned()]).collect();
    let mask = Mask::compile(&[all.clone(), all.clone()].concat()).expect("good");
    assert_eq!(mask.paths(), all, "repeats are left out");
}

fn stored(fields: [Option<&[u8]>; Field::COUNT], actor: &str) -> StoredEntry {
    let mut record = Vec::new();
    NewEntry {
        id: Uuid::from_u128(7),
        client_id: true,
        hash: 99,
        timestamp: 5,
        severity: Severity::Error,
        fields,
    }
    .encode(&mut record);
    StoredEntry {
        record: record.into(),
        received_at: 6,
        actor: actor.into(),
        sequence: Some(3),
    }
}

#[test]
fn a_record_is_masked_whole_and_only_where_something_is_hidden() {
    let mut fields: [Option<&[u8]>; Field::COUNT] = [None; Field::COUNT];
    fields[Field::Action as usize] = Some(b"LOGIN");
    fields[Field::UserId as usize] = Some(b"ann@example.com");
    fields[Field::Email as usize] = Some(b"");
    fields[Field::IpAddress as usize] = Some(&[10, 0, 0, 1]);
    fields[Field::Metadata as usize] = Some(br#"{"a":1}"#);
    let entry = stored(fields, "ann@example.com");
    let hidden = mask(&["email", "ip_address", "pattern:email", "metadata", "session_id"]).entry(&entry);
    let record = hidden.entry();
    assert_eq!(
        (record.id(), record.timestamp(), record.severity(), record.hash()),
        (Uuid::from_u128(7), 5, Severity::Error, 0)
    );
    assert_eq!(
        (record.text(Field::Action), record.text(Field::UserId), record.text(Field::Email)),
        (Some("LOGIN"), Some(MASKED), Some(MASKED))
    );
    assert_eq!((record.ip(), record.hides_ip(), record.text(Field::SessionId)), (None, true, None));
    assert_eq!((record.text(Field::Metadata), &*hidden.actor), (Some(MASKED_JSON), MASKED));
    let again = mask(&["email", "ip_address", "pattern:email", "metadata"]).record(&record);
    assert!(again.is_none(), "masking what is masked changes nothing");
    assert!(
        mask(&["message", "metadata.b", "pattern:iban"]).record(&entry.entry()).is_none(),
        "nothing of this is there"
    );
    assert_eq!(&*mask(&["actor"]).entry(&entry).actor, MASKED);
}

#[test]
fn conditions_on_what_is_hidden_are_named() {
    let mask = mask(&[
        "user_id",
        "actor",
        "ip_address",
        "metadata.card",
        "metadata.list.*.ssn",
        "before_state",
        "pattern:secret_keys",
        "user_agent",
    ]);
    let mut filter = crate::model::filter::Filter::default();
    assert_eq!(mask.refuses(&filter), None);
    for (name, value, refused) in [
        ("user_id", "x", true),
        ("actor", "x", true),
        ("ip_address", "10.0.0.0/8", true),
        ("user_agent", "x", true),
        ("email", "x", false),
        ("action", "x", false),
        ("id", "0190a3b4-0000-7000-8000-000000000001", false),
        ("metadata.card", "x", true),
        ("metadata.Card", "x", true),
        ("metadata.card.number", "x", true),
        ("metadata.cards", "x", false),
        ("metadata.list.ssn", "x", true),
        ("metadata.list.0.ssn", "x", true),
        ("metadata.list.x", "x", false),
        ("metadata.user.password", "x", true),
        ("metadata.apiKey", "x", true),
    ] {
        filter = Default::default();
        assert_eq!(crate::model::conditions::add(&mut filter, name, value), Ok(true));
        let found = mask.refuses(&filter);
        assert_eq!(found.is_some(), refused, "{name}: {found:?}");
        assert!(found.is_none_or(|found| found == name));
        // The same inside of a search, however deep.
        let quoted = search::parse(&format!("a OR (b -{}:\"{value}\")", name));
        if let Ok(search) = quoted {
            filter = crate::model::filter::Filter {
                search: Some(search),
                ..Default::default()
            };
            assert_eq!(mask.refuses(&filter).is_some(), refused, "{name}");
        }
    }
    for (text, refused) in [
        ("before_state:x", true),
        ("after_state:x", false),
        ("message:x", false),
        ("user_id:abc*", true),
        ("metadata.card:abc*", true),
        ("word -\"a phrase\"", false),
        ("ip_address:10.0*", true),
        ("actor:xyz*", true),
    ] {
        filter.search = Some(search::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")));
        assert_eq!(mask.refuses(&filter).is_some(), refused, "{text}");
    }
}

/// Whether `text[start..end]` is a card, an address or an account, said in the plainest way.
fn is_hidden(pattern: &str, text: &str, start: usize, end: usize) -> bool {
    let part = &text[start..end];
    let ascii = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let bound = ascii(text[..start].chars().next_back()) || ascii(text[end..].chars().next());
    match pattern {
        "pattern:card" => {
            let groups: Vec<&str> = part.split([' ', '-']).collect();
            let digits: Vec<u32> = part.chars().filter_map(|c| c.to_digit(10)).collect();
            let sum: u32 = digits
                .iter()
                .rev()
                .enumerate()
                .map(|(i, d)| if i % 2 == 1 { d * 2 / 10 + d * 2 % 10 } else { *d })
                .sum();
            let good = |(i, g): (usize, &&str)| g.bytes().all(|b| b.is_ascii_digit()) && !g.is_empty() && (g.len() >= 3 || i + 1 == groups.len());
            !bound && groups.iter().enumerate().all(good) && (13..=19).contains(&digits.len()) && digits[0] > 1 && sum.is_multiple_of(10)
        }
        _ => {
            let groups: Vec<&str> = part.split([' ', '-']).collect();
            let plain: String = groups.concat();
            let shaped = groups.len() == 1 || groups[..groups.len() - 1].iter().all(|g| g.len() == 4) && (1..=4).contains(&groups[groups.len() - 1].len());
            let bytes = plain.as_bytes();
            let good = (15..=34).contains(&plain.len())
                && bytes.iter().all(u8::is_ascii_alphanumeric)
                && bytes[..2].iter().all(u8::is_ascii_alphabetic)
                && bytes[2..4].iter().all(u8::is_ascii_digit);
            let number = || {
                format!("{}{}", &plain[4..], &plain[..4])
                    .chars()
                    .map(|c| c.to_digit(36).map_or(String::new(), |d| d.to_string()))
                    .collect::<String>()
            };
            !bound && shaped && good && number().chars().fold(0, |n, c| (n * 10 + c.to_digit(10).unwrap_or(0)) % 97) == 1
        }
    }
}

/// The text with every part hidden that the plain definition hides.
fn plainly(pattern: &str, text: &str) -> String {
    let edges: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut hidden = vec![false; text.len()];
    for (i, start) in edges.iter().enumerate() {
        for end in edges[i + 1..].iter().take(60) {
            if is_hidden(pattern, text, *start, *end) {
                hidden[*start..*end].fill(true);
            }
        }
    }
    let mut out = String::new();
    for (at, c) in text.char_indices() {
        match (hidden[at], at > 0 && hidden[at - 1]) {
            (false, _) => out.push(c),
            (true, false) => out.push_str(MASKED),
            (true, true) => {}
        }
    }
    out
}

const CARDS: &str = "([0-9]{1,3}[ -]|4111[ -]?1111[ -]?1111[ -]?1111|5500000000000004|[a-zé_. -]|42222[0-9]{8}){0,8}";
const ACCOUNTS: &str =
    "(DE89[ -]?3704[ -]?0044[ -]?0532[ -]?0130[ -]?00|AT611904300234573201|NO93 8601 1117 947|[a-z]{2}[0-9]{2} ?|[A-Z0-9]{1,5}[ -]|[é. -]){0,6}";
/// Pieces of everything that is looked for, so that they meet.
const PIECES: &str = "(ann@example\\.com|@|\\.|b@c\\.de|\\+49 151 1234567|555-123-4567|0049 |4111111111111111|[0-9]{1,5}|DE89370400440532013000|password=|token: |Cookie: |Bearer |\"|'|é|\u{212a}|日|\\*{1,4}| |,|-|/|\\(|\\)|x|AB12|=|:|\n|\u{a0}){0,14}";

fn json() -> impl Strategy<Value = Value> {
    let key = prop_oneof!["[ab*]", Just("password".to_owned()), Just("a.b".to_owned()), PIECES];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        Just(json!(4_111_111_111_111_111_u64)),
        PIECES.prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// What a mask does to an object, on a tree of values: `at` are the paths that lead here, as far as they are left.
fn plain_object(value: &Value, at: &[Vec<String>], mask: &Mask) -> Value {
    if at.iter().any(Vec::is_empty) {
        return json!(MASKED);
    }
    match value {
        Value::String(text) => json!(shown(mask, text)),
        Value::Number(n) if mask.patterns.card && is_hidden("pattern:card", &n.to_string(), 0, n.to_string().len()) => json!(MASKED),
        Value::Array(list) => {
            let through = at.iter().filter(|path| path[0] == "*").map(|path| path[1..].to_vec());
            let at: Vec<_> = at.iter().cloned().chain(through).collect();
            list.iter().map(|item| plain_object(item, &at, mask)).collect()
        }
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| {
                let at: Vec<_> = at
                    .iter()
                    .filter(|path| path[0] == "*" || path[0].eq_ignore_ascii_case(key))
                    .map(|path| path[1..].to_vec())
                    .collect();
                let secret = mask.patterns.secrets && super::secrets::is_secret(key);
                (shown(mask, key), if secret { json!(MASKED) } else { plain_object(value, &at, mask) })
            };
            Value::Object(members.iter().map(member).collect())
        }
        other => other.clone(),
    }
}

/// Writes a value with some characters as escapes.
fn written(value: &Value, escaped: bool) -> String {
    if !escaped {
        return value.to_string();
    }
    match value {
        Value::String(text) => format!("\"{}\"", text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>()),
        Value::Array(list) => format!("[{}]", list.iter().map(|v| written(v, true)).collect::<Vec<_>>().join(" , ")),
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| format!("{} : {}", written(&json!(key), true), written(value, true));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for_each_word(text, &mut |word| words.push(word.to_owned()));
    words
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_masked_text_has_words_of_the_text_only_and_is_masked_for_good(text in PIECES, which in 1usize..32) {
        let chosen: Vec<&str> = EVERY_PATTERN.iter().enumerate().filter(|(i, _)| which >> i & 1 == 1).map(|(_, p)| *p).collect();
        let mask = mask(&chosen);
        let once = shown(&mask, &text);
        prop_assert_eq!(&shown(&mask, &once), &once);
        let had = words(&text);
        prop_assert!(words(&once).iter().all(|word| had.contains(word)), "{} {}", text, once);
    }

    #[test]
    fn what_is_planted_is_gone(before in "[ ,;(\n]{1,3}", after in "[ ,;)\n]{1,3}", noise in "[a-z ]{0,20}") {
        for secret in ["ann.lee@example.com", "+49 151 98765432", "4012 8888 8888 1881", "378282246310005", "GB29 NWBK 6016 1331 9268 19", "token=s3cr3t"] {
            let got = shown(&mask(&EVERY_PATTERN), &format!("{noise}{before}{secret}{after}{noise}"));
            prop_assert_eq!(got, format!("{noise}{before}{}{after}{noise}", if secret.starts_with("token") { "token=***" } else { MASKED }));
        }
    }

    #[test]
    fn objects_are_masked_as_trees_of_values_are(value in json(), escaped in any::<bool>(), which in 0usize..64) {
        let members = json!({"a": value, "b": [value]});
        let all = ["metadata.a.*.b", "metadata.b", "metadata.*.a", "metadata.a\\.b", "pattern:card", "pattern:secret_keys"];
        let chosen: Vec<&str> = all.iter().enumerate().filter(|(i, _)| which >> i & 1 == 1).map(|(_, p)| *p).collect();
        let mask = mask(&chosen);
        let paths: Vec<Vec<String>> = chosen.iter().filter(|p| p.starts_with("metadata"))
            .map(|p| crate::model::conditions::path(p)[1..].to_vec()).collect();
        let want = plain_object(&members, &paths, &mask);
        let text = written(&members, escaped);
        let got = mask.text(Field::Metadata, &text);
        prop_assert_eq!(serde_json::from_str::<Value>(&got).expect("JSON"), want, "{} {:?}", &text, chosen);
        prop_assert_eq!(mask.text(Field::Metadata, &got), got.clone());
        let had = { let mut had = Vec::new(); for_each_leaf(&text, &mut |_, leaf| had.extend(words(&leaf))); had };
        for_each_leaf(&got, &mut |_, leaf| assert!(words(&leaf).iter().all(|word| had.contains(word))));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), pieces in PIECES) {
        let text = String::from_utf8_lossy(&bytes);
        let mask = mask(&[&EVERY_PATTERN[..], &["metadata.a.*", "metadata.*.b"]].concat());
        for text in [&*text, &pieces] {
            shown(&mask, text);
            for json in [text.to_owned(), format!("{{\"a\":{text}"), format!("{{\"{text}\":[{text}"), format!("[{text}]"), format!("{{\"password\":{text}")] {
                mask.text(Field::Metadata, &json);
            }
        }
    }
}

proptest! {
    // The plain definition looks at every part of a text.
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn cards_and_accounts_are_those_of_the_plain_definition(cards in CARDS, accounts in ACCOUNTS) {
        for (pattern, text) in [("pattern:card", &cards), ("pattern:iban", &accounts)] {
            let mut want = plainly(pattern, text);
            // Until nothing is found any more.
            for _ in 0..3 {
                want = plainly(pattern, &want);
            }
            prop_assert_eq!(shown(&mask(&[pattern]), text), want, "{} {}", pattern, text);
        }
    }
}

#[test]
fn time_is_linear_in_the_text_whatever_it_is() {
    let mask = mask(&EVERY_PATTERN);
    for piece in [
        "+4915112345678",
        "1 ",
        "111 ",
        "@",
        "a@",
        "a@b.",
        "pwd=",
        "Cookie: ",
        "pwd=\"",
        "DE89 3704 ",
        "é1",
        "0049 ",
        "555-123-4567-",
        "4111 1111 1111 1111 ",
        "x@y.com+4915112345678",
        "token: Bearer ",
        "((((",
        "\u{a0}1",
    ] {
        let text = piece.repeat(400_000 / piece.len());
        let once = shown(&mask, &text);
        assert_eq!(shown(&mask, &once), once, "{piece}");
        let json = format!("{{\"a\":\"{}\"}}", text.replace('"', "\\\""));
        mask.text(Field::Metadata, &json);
    }
    mask.text(Field::Metadata, &"[".repeat(400_000));
    mask.text(Field::Metadata, &"{\"a\":".repeat(100_000));
    mask.text(Field::Metadata, &"{\"password\":".repeat(100_000));
}

#[test]
fn the_parts_agree_on_what_nothing_is() {
    let none = Mask::default();
    assert!(
        none.is_empty() && text::masked("ann@example.com", none.patterns).is_none() && object::masked("{\"a\":1}", &none.trees[2], none.patterns).is_none()
    );
    let entry = stored([None; Field::COUNT], "ann");
    assert!(none.record(&EntryRef::first_of(&entry.record)).is_none());
}
