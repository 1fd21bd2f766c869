//! Every rule of the contract about bodies and entries, as tables; then properties; then real data.

use super::*;
use crate::model::{
    entry::{EntryRef, Field, Severity, StoredEntry},
    render::write_entry,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::io::Read;

/// 2024-02-29T12:00:00.123Z
const NOW: i64 = 1_709_208_000_123;
const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn tenant() -> TenantId {
    TenantId::parse("acme").expect("a tenant")
}

fn context(tenant: &TenantId) -> ParseContext<'_> {
    ParseContext {
        tenant,
        subject: "svc",
        now_ms: NOW,
        log_levels: [true; 4],
        keep_unknown_fields: false,
        idempotency_key: None,
        ids: &[],
        max_entries: 10_000,
        max_entry_bytes: 256 << 10,
        resent: None,
    }
}

fn parse_with(body: impl AsRef<[u8]>, format: BodyFormat, change: impl FnOnce(&mut ParseContext<'_>)) -> Result<Parsed, BodyError> {
    let tenant = tenant();
    let mut context = context(&tenant);
    change(&mut context);
    let parsed = parse_body(body.as_ref(), format, &context);
    if let Ok(parsed) = &parsed {
        // What holds of every body that is taken.
        let accepted = parsed.ids.iter().flatten().count();
        assert_eq!(accepted, parsed.builder.len());
        for (i, id) in parsed.ids.iter().enumerate() {
            assert_eq!(
                id.is_none(),
                parsed.errors.iter().any(|e| e.index == i),
                "entry {i} is a record or has an error"
            );
        }
        for (i, id) in parsed.ids.iter().flatten().enumerate() {
            let entry = parsed.builder.entry(i);
            assert!(EntryRef::check(entry.as_bytes()).is_some() && entry.id() == *id);
        }
        assert!(parsed.errors.is_sorted_by_key(|e| e.index));
    }
    parsed
}

fn parse(body: impl AsRef<[u8]>, format: BodyFormat) -> Result<Parsed, BodyError> {
    parse_with(body, format, |_| {})
}

/// An entry with the required fields and `more` members.
fn entry(more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(r#"{{"action":"A","resource_type":"T","resource_id":"R"{comma}{more}}}"#)
}

/// The record of a good single entry with `more` members.
fn good_with(more: &str, change: impl FnOnce(&mut ParseContext<'_>)) -> PackBuilder {
    let parsed = parse_with(entry(more), BodyFormat::Single, change).expect("a body");
    assert_eq!(parsed.errors, [], "{more}");
    parsed.builder
}

fn good(more: &str) -> PackBuilder {
    good_with(more, |_| {})
}

/// `field: code` of each error of a single entry.
fn faults_of(body: &str, change: impl FnOnce(&mut ParseContext<'_>)) -> Vec<String> {
    let parsed = parse_with(body, BodyFormat::Single, change).expect("a body");
    parsed.errors.iter().map(|e| format!("{}: {}", e.field, e.code)).collect()
}

fn faults(more: &str) -> Vec<String> {
    faults_of(&entry(more), |_| {})
}

#[test]
fn the_smallest_entry_gets_what_the_server_fills_in() {
    let builder = good("");
    let entry = builder.entry(0);
    assert_eq!((entry.timestamp(), entry.severity(), entry.client_id()), (NOW, Severity::Info, false));
    assert_eq!(entry.id().get_version_num(), 7);
    assert_eq!(entry.text(Field::UserId), Some("svc"));
    let present: Vec<_> = Field::ALL.into_iter().filter(|f| entry.raw(*f).is_some()).collect();
    assert_eq!(present, [Field::Action, Field::ResourceType, Field::ResourceId, Field::UserId]);
}

#[test]
fn every_field_is_taken_as_it_was_meant() {
    let builder = good(concat!(
        r#""id":"01890A5DAC96774BBCCEB302099A8057","tenant_id":"acme","timestamp":"2024-01-31T13:00:00.9999+01:00","#,
        r#""user_id":"u\u00e9","session_id":"","request_id":"q","email":"a@b","ip_address":"::ffff:10.0.0.1","user_agent":"x\ty","#,
        r#""severity":"warning","message":"m\ud83d\ude00","before":{ "z" : 1.50 , "a":[ ] },"after_state":{},"log_metadata":{"k":"\u00e9 "}"#
    ));
    let entry = builder.entry(0);
    assert_eq!((entry.id().to_string().as_str(), entry.client_id()), (ID, true));
    assert_eq!((entry.timestamp(), entry.severity()), (1_706_702_400_999, Severity::Warning));
    for (field, text) in [
        (Field::UserId, "ué"),
        (Field::SessionId, ""),
        (Field::RequestId, "q"),
        (Field::Email, "a@b"),
        (Field::UserAgent, "x\ty"),
        (Field::Message, "m😀"),
        (Field::BeforeState, r#"{"z":1.50,"a":[]}"#),
        (Field::AfterState, "{}"),
        (Field::Metadata, r#"{"k":"\u00e9 "}"#),
    ] {
        assert_eq!(entry.text(field), Some(text), "{}", field.name());
    }
    assert_eq!(entry.ip(), Some("10.0.0.1".parse().unwrap()));
}

#[test]
fn null_is_absent_and_empty_text_is_kept_but_for_addresses() {
    let optional = [
        "id",
        "tenant_id",
        "timestamp",
        "user_id",
        "session_id",
        "request_id",
        "email",
        "ip_address",
        "user_agent",
        "severity",
        "message",
        "before_state",
        "after_state",
        "metadata",
    ];
    let nulls: Vec<String> = optional.iter().map(|name| format!("\"{name}\":null")).collect();
    let (with, without) = (good(&nulls.join(",")), good(""));
    assert_eq!(with.entry(0).hash(), without.entry(0).hash());
    let (with, without) = (with.entry(0).as_bytes().to_vec(), without.entry(0).as_bytes().to_vec());
    assert_eq!(with[36..], without[36..], "the records differ in the id only");
    for (field, name) in [
        (Field::UserId, "user_id"),
        (Field::SessionId, "session_id"),
        (Field::RequestId, "request_id"),
        (Field::Email, "email"),
        (Field::UserAgent, "user_agent"),
        (Field::Message, "message"),
    ] {
        assert_eq!(good(&format!("\"{name}\":\"\"")).entry(0).text(field), Some(""), "{name}");
    }
    assert_eq!(good("\"ip_address\":\"\"").entry(0).raw(Field::IpAddress), None);
}

#[test]
fn each_mistake_has_its_code() {
    let long = |field: &str, n: usize| format!("\"{field}\":\"{}\"", "é".repeat(n));
    let nested = |levels: usize| format!("\"metadata\":{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    for (more, expected) in [
        ("\"id\":\"x\"".to_owned(), "id: invalid_id"),
        ("\"id\":\"\"".into(), "id: invalid_id"),
        (format!("\"id\":\"{{{ID}}}\""), "id: invalid_id"),
        (format!("\"id\":\"urn:uuid:{ID}\""), "id: invalid_id"),
        ("\"id\":7".into(), "id: wrong_type"),
        ("\"tenant_id\":\"other\"".into(), "tenant_id: tenant_mismatch"),
        ("\"tenant_id\":\"\"".into(), "tenant_id: tenant_mismatch"),
        ("\"tenant_id\":[]".into(), "tenant_id: wrong_type"),
        ("\"timestamp\":\"\"".into(), "timestamp: invalid_time"),
        ("\"timestamp\":\"2024-01-31\"".into(), "timestamp: invalid_time"),
        ("\"timestamp\":\"2024-01-31T00:00:00\"".into(), "timestamp: invalid_time"),
        ("\"timestamp\":1709208000".into(), "timestamp: wrong_type"),
        ("\"timestamp\":\"1969-12-31T23:59:59.999Z\"".into(), "timestamp: time_out_of_range"),
        ("\"timestamp\":\"2024-03-01T12:00:00.124Z\"".into(), "timestamp: time_out_of_range"),
        ("\"severity\":\"DEBUG\"".into(), "severity: invalid_severity"),
        ("\"severity\":\"\"".into(), "severity: invalid_severity"),
        ("\"severity\":1".into(), "severity: wrong_type"),
        ("\"ip_address\":\"10.0.0\"".into(), "ip_address: invalid_ip"),
        ("\"ip_address\":\"10.0.0.1/8\"".into(), "ip_address: invalid_ip"),
        ("\"ip_address\":\" \"".into(), "ip_address: invalid_ip"),
        ("\"ip_address\":\"fe80::1%eth0\"".into(), "ip_address: invalid_ip"),
        ("\"ip_address\":1".into(), "ip_address: wrong_type"),
        ("\"message\":{}".into(), "message: wrong_type"),
        ("\"email\":false".into(), "email: wrong_type"),
        ("\"metadata\":[]".into(), "metadata: wrong_type"),
        ("\"metadata\":\"{}\"".into(), "metadata: wrong_type"),
        ("\"before\":1".into(), "before_state: wrong_type"),
        ("\"after_state\":true".into(), "after_state: wrong_type"),
        (long("user_id", 257), "user_id: too_long"),
        (long("session_id", 257), "session_id: too_long"),
        (long("request_id", 257), "request_id: too_long"),
        (long("email", 257), "email: too_long"),
        (long("user_agent", 1025), "user_agent: too_long"),
        (long("message", (16 << 10) + 1), "message: too_long"),
        ("\"colour\":1".into(), "colour: unknown_field"),
        ("\"Action\":\"x\"".into(), "Action: unknown_field"),
        ("\"sequence\":null".into(), "sequence: unknown_field"),
        ("\"received_at\":\"2024-01-31T00:00:00Z\"".into(), "received_at: unknown_field"),
        ("\"actor\":\"me\"".into(), "actor: unknown_field"),
        ("\"action\":\"B\"".into(), "action: duplicate_field"),
        ("\"email\":null,\"email\":\"a\"".into(), "email: duplicate_field"),
        ("\"\\u0061ction\":\"B\"".into(), "action: duplicate_field"),
        ("\"before\":{},\"before_state\":{}".into(), "before_state: duplicate_field"),
        ("\"after_state\":{},\"after\":null".into(), "after_state: duplicate_field"),
        ("\"metadata\":{},\"log_metadata\":{}".into(), "metadata: duplicate_field"),
        ("\"message\":\"\\ud800\"".into(), "message: invalid_unicode"),
        ("\"message\":\"a\\u0000\"".into(), "message: invalid_unicode"),
        ("\"id\":\"\\u0000\"".into(), "id: invalid_unicode"),
        ("\"metadata\":{\"a\":[\"\\udc00\"]}".into(), "metadata: invalid_unicode"),
        ("\"after\":{\"a\\u0000\":1}".into(), "after_state: invalid_unicode"),
        (nested(65), "metadata: too_deep"),
        (nested(20_000), "metadata: too_deep"),
    ] {
        assert_eq!(faults(&more), [expected], "{}", errors::excerpt(&more));
    }
    for (body, expected) in [
        ("{}", &["action: required", "resource_type: required", "resource_id: required"][..]),
        (r#"{"action":"A","resource_type":"T"}"#, &["resource_id: required"]),
        (r#"{"action":"A","resource_type":null,"resource_id":"R"}"#, &["resource_type: required"]),
        (
            r#"{"action":"","resource_type":"T","resource_id":""}"#,
            &["action: empty", "resource_id: empty"],
        ),
        (
            r#"{"action":1,"resource_type":"T","resource_id":{}}"#,
            &["action: wrong_type", "resource_id: wrong_type"],
        ),
    ] {
        assert_eq!(faults_of(body, |_| {}), expected, "{body}");
    }
    for (name, limit) in [("action", 128), ("resource_type", 128), ("resource_id", 512)] {
        let body = |n: usize| {
            let mut fields = json!({"action": "A", "resource_type": "T", "resource_id": "R"});
            fields[name] = "日".repeat(n).into();
            fields.to_string()
        };
        assert_eq!(faults_of(&body(limit), |_| {}), [""; 0], "{name}");
        assert_eq!(faults_of(&body(limit + 1), |_| {}), [format!("{name}: too_long")]);
    }
}

#[test]
fn what_is_just_within_a_limit_is_taken() {
    for (field, limit) in [("user_id", 256), ("session_id", 256), ("request_id", 256), ("email", 256), ("user_agent", 1024)] {
        good(&format!("\"{field}\":\"{}\"", "😀".repeat(limit)));
    }
    good(&format!("\"message\":\"{}\"", "é".repeat(16 << 10)));
    good(&format!("\"metadata\":{}{}", "{\"a\":".repeat(63) + "{", "}".repeat(64)));
    good(&format!("\"metadata\":{{\"a\":{}{}}}", "[".repeat(63), "]".repeat(63)));
    for (time, ms) in [("1970-01-01T00:00:00Z", 0), ("2024-03-01T12:00:00.123999Z", NOW + 86_400_000)] {
        assert_eq!(good(&format!("\"timestamp\":\"{time}\"")).entry(0).timestamp(), ms);
    }
}

#[test]
fn all_mistakes_of_an_entry_are_told_up_to_a_bound() {
    let body = r#"{"id":"x","action":"","resource_type":7,"severity":"LOUD","ip_address":"x","nope":1,"message":"\u0000"}"#;
    let expected = [
        "id: invalid_id",
        "severity: invalid_severity",
        "ip_address: invalid_ip",
        "action: empty",
        "resource_type: wrong_type",
        "resource_id: required",
        "message: invalid_unicode",
        "nope: unknown_field",
    ];
    let mut found = faults_of(body, |_| {});
    found.sort_unstable();
    let mut expected: Vec<String> = expected.map(str::to_owned).into();
    expected.sort_unstable();
    assert_eq!(found, expected);

    let many: Vec<String> = (0..1_000).map(|i| format!("\"f{i}\":1")).collect();
    assert_eq!(faults(&many.join(",")).len(), 16);

    // Many entries of many mistakes: the text stays bounded, and still each of them has its reason.
    let one = format!("{{{}}}", many[..20].join(","));
    let body = format!("[{}]", vec![one; 10_000].join(","));
    let parsed = parse(body, BodyFormat::Bulk).expect("a body");
    let text: usize = parsed.errors.iter().map(|e| e.field.len() + e.message.len()).sum();
    assert!(text < 3 << 20, "{text} bytes");
    assert_eq!(parsed.errors.last().map(|e| e.index), Some(9_999));
}

#[test]
fn messages_are_of_use_and_repeat_only_the_beginning_of_a_value() {
    let long = "x".repeat(5_000);
    for more in [
        format!("\"id\":\"{long}\""),
        format!("\"timestamp\":\"{long}\""),
        format!("\"severity\":\"{long}\""),
        format!("\"ip_address\":\"{long}\""),
        format!("\"{long}\":1"),
        format!("\"email\":\"{long}\""),
    ] {
        let parsed = parse(entry(&more), BodyFormat::Single).expect("a body");
        let error = &parsed.errors[0];
        assert!(
            error.message.len() < 200 && error.field.chars().count() <= 65 && !error.message.is_empty(),
            "{error:?}"
        );
    }
    let parsed = parse(entry(r#""severity":"LOUD""#), BodyFormat::Single).expect("a body");
    assert_eq!(
        serde_json::to_value(&parsed.errors[0]).unwrap(),
        json!({"index": 0, "field": "severity", "code": "invalid_severity", "message": "`LOUD` is not one of INFO, WARNING, ERROR, CRITICAL"})
    );
    let code = |code: ItemCode| serde_json::to_value(code).unwrap();
    for c in [
        ItemCode::TimeOutOfRange,
        ItemCode::InvalidIp,
        ItemCode::MalformedJson,
        ItemCode::SeverityNotAccepted,
    ] {
        assert_eq!(code(c), c.as_str());
    }
}

#[test]
fn severities_that_the_tenant_does_not_take_are_refused_the_default_too() {
    let only_error = |c: &mut ParseContext<'_>| c.log_levels = [false, false, true, false];
    assert_eq!(good_with(r#""severity":"error""#, only_error).len(), 1);
    for more in ["", r#""severity":"INFO""#, r#""severity":"CRITICAL""#, r#""severity":null"#] {
        assert_eq!(faults_of(&entry(more), only_error), ["severity: severity_not_accepted"], "{more}");
    }
    assert_eq!(faults_of(&entry(r#""severity":"x""#), only_error), ["severity: invalid_severity"]);
}

#[test]
fn unknown_fields_move_into_metadata_where_the_tenant_wants_that() {
    let keep = |c: &mut ParseContext<'_>| c.keep_unknown_fields = true;
    for (more, metadata) in [
        (r#""x":1.50"#, r#"{"x":1.50}"#),
        (r#""metadata":{},"x":{ "y" : null }"#, r#"{"x":{"y":null}}"#),
        (r#""x":1,"metadata":null,"\u0079":"\u00e9""#, r#"{"x":1,"\u0079":"\u00e9"}"#),
        (r#""b":[1, 2],"log_metadata":{ "a": 0 },"c":null"#, r#"{"a":0,"b":[1,2],"c":null}"#),
        (r#""sequence":7,"actor":"me""#, r#"{"sequence":7,"actor":"me"}"#),
        (r#""metadata":{"a":{"x":1}},"x":2"#, r#"{"a":{"x":1},"x":2}"#),
    ] {
        assert_eq!(good_with(more, keep).entry(0).text(Field::Metadata), Some(metadata), "{more}");
    }
    let deep = |levels: usize| format!("\"x\":{}{}", "[".repeat(levels), "]".repeat(levels));
    good_with(&deep(63), keep);
    for (more, expected) in [
        (r#""metadata":{"x":1},"x":2"#.to_owned(), "x: duplicate_field"),
        (r#""metadata":{"a":[{}],"\u0078":1},"x":2"#.into(), "x: duplicate_field"),
        (r#""x":1,"x":1"#.into(), "x: duplicate_field"),
        (r#""x":1,"\u0078":1"#.into(), "x: duplicate_field"),
        (r#""metadata":[],"x":1"#.into(), "metadata: wrong_type"),
        (r#""x":"\ud800""#.into(), "x: invalid_unicode"),
        (r#""\u0000":1"#.into(), "\0: invalid_unicode"),
        (deep(64), "x: too_deep"),
    ] {
        assert_eq!(faults_of(&entry(&more), keep), [expected], "{}", errors::excerpt(&more));
    }
}

#[test]
fn a_too_large_entry_is_its_own_error_and_of_a_single_post_that_of_the_body() {
    let limit = |c: &mut ParseContext<'_>| c.max_entry_bytes = entry("").len();
    let larger = entry("").replace("\"A\"", "\"AA\"");
    let body = format!("[ {} , {larger} ]", entry(""));
    let parsed = parse_with(&body, BodyFormat::Bulk, limit).expect("a body");
    assert_eq!((parsed.ids[0].is_some(), parsed.ids[1]), (true, None));
    assert_eq!((parsed.errors.len(), parsed.errors[0].code, parsed.errors[0].index), (1, ItemCode::TooLarge, 1));
    assert_eq!(
        parse_with(format!("  {}\n", entry("")), BodyFormat::Single, limit)
            .expect("a body")
            .builder
            .len(),
        1
    );
    assert_eq!(parse_with(&larger, BodyFormat::Single, limit).unwrap_err(), BodyError::TooLarge);
}

#[test]
fn a_single_body_is_one_object_and_nothing_else() {
    for body in [entry(""), format!("\u{feff} \r\n{}\t ", entry(""))] {
        assert_eq!(parse(body, BodyFormat::Single).expect("a body").ids.len(), 1);
    }
    for (body, at) in [
        ("", 0),
        ("  ", 2),
        ("[]", 0),
        (" \"x\"", 1),
        ("null", 0),
        ("{", 1),
        ("{} {}", 3),
        ("{\"a\":1", 6),
        ("{\"a\":01}", 6),
        ("{'a':1}", 1),
        ("\u{feff}{,}", 4),
    ] {
        match parse(body, BodyFormat::Single) {
            Err(BodyError::Malformed { at: found, message }) => assert!(found == at && !message.is_empty(), "{body:?}: {found} {message}"),
            other => panic!("{body:?}: {other:?}"),
        }
    }
    for (body, at) in [(&b"{\"a\":\"\xff\"}"[..], 6), (b"\xff", 0), (b"{}\xc3", 2)] {
        assert!(
            matches!(parse(body, BodyFormat::Single), Err(BodyError::Malformed { at: found, .. }) if found == at),
            "{body:?}"
        );
        assert!(matches!(parse(body, BodyFormat::Bulk), Err(BodyError::Malformed { .. })), "{body:?}");
    }
}

#[test]
fn a_bulk_body_is_an_array_or_an_object_of_logs() {
    let one = entry("");
    for body in [
        format!("[{one},{one}]"),
        format!(" {{ \"logs\" : [ {one} , {one} ] }} "),
        format!("\u{feff}[\r\n{one},\r\n{one}\r\n]\r\n"),
        format!("{{\"\\u006cogs\":[{one},{one}]}}"),
    ] {
        assert_eq!(parse(&body, BodyFormat::Bulk).expect(&body).builder.len(), 2);
    }
    for body in ["[]", " [ ] ", "{\"logs\":[]}", "{ \"logs\" : [ ] }"] {
        assert_eq!(parse(body, BodyFormat::Bulk).unwrap_err(), BodyError::Empty, "{body}");
    }
    for (body, at) in [
        (String::new(), 0),
        (" ".into(), 1),
        ("7".into(), 0),
        ("\"[]\"".into(), 0),
        ("{}".into(), 1),
        (one.clone(), 1),
        ("{\"logs\":{}}".into(), 8),
        ("{\"logs\":null}".into(), 8),
        ("{\"entries\":[]}".into(), 1),
        (format!("{{\"logs\":[{one}],\"more\":1}}"), 9 + one.len() + 1),
        (format!("{{\"logs\":[{one}],\"logs\":[]}}"), 9 + one.len() + 1),
        (format!("[{one}"), one.len() + 1),
        (format!("[{one},"), one.len() + 2),
        (format!("[{one},]"), one.len() + 2),
        (format!("[{one}]]"), one.len() + 2),
        (format!("[{one} {one}]"), one.len() + 2),
        (format!("[{one},{{\"a\":tru}}]"), one.len() + 10),
        (format!("{{\"logs\":[{one}]"), one.len() + 10),
    ] {
        match parse(&body, BodyFormat::Bulk) {
            Err(BodyError::Malformed { at: found, .. }) => assert_eq!(found, at, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn a_wrong_item_of_an_array_is_an_error_of_that_item() {
    let one = entry("");
    let body = format!("[{one},7,[{{}}],null,\"x\",{{}},{one}]");
    let parsed = parse(body, BodyFormat::Bulk).expect("a body");
    let accepted: Vec<bool> = parsed.ids.iter().map(Option::is_some).collect();
    assert_eq!(accepted, [true, false, false, false, false, false, true]);
    let wrong: Vec<_> = parsed
        .errors
        .iter()
        .filter(|e| e.code == ItemCode::WrongType)
        .map(|e| (e.index, e.field.as_str()))
        .collect();
    assert_eq!(wrong, [(1, ""), (2, ""), (3, ""), (4, "")]);
}

#[test]
fn each_line_of_ndjson_stands_for_itself() {
    let one = entry("");
    let body = [
        format!("\u{feff}{one}\r\n").into_bytes(),
        b"\n  \t\r\n".to_vec(),
        b"{\"action\":\n".to_vec(),
        b"[1]\n\"x\" y\n".to_vec(),
        b"{\"action\":\"\xff\"}\n".to_vec(),
        format!("  {one}  \n{one} {one}\n").into_bytes(),
        one.clone().into_bytes(),
    ]
    .concat();
    let parsed = parse(&body, BodyFormat::Ndjson).expect("a body");
    let accepted: Vec<bool> = parsed.ids.iter().map(Option::is_some).collect();
    assert_eq!(accepted, [true, false, false, false, false, true, false, true]);
    let errors: Vec<_> = parsed.errors.iter().map(|e| (e.index, e.code, e.field.as_str())).collect();
    assert_eq!(
        errors,
        [
            (1, ItemCode::MalformedJson, ""),
            (2, ItemCode::WrongType, ""),
            (3, ItemCode::MalformedJson, ""),
            (4, ItemCode::MalformedJson, ""),
            (6, ItemCode::MalformedJson, ""),
        ]
    );
    for empty in ["", "\n", " \r\n\t\n", "\u{feff}", "\u{feff}\n"] {
        assert_eq!(parse(empty, BodyFormat::Ndjson).unwrap_err(), BodyError::Empty, "{empty:?}");
    }
}

#[test]
fn more_entries_than_allowed_are_refused_as_a_whole() {
    let two = |c: &mut ParseContext<'_>| c.max_entries = 2;
    let one = entry("");
    for (body, format) in [
        (format!("[{one},{one},{one}]"), BodyFormat::Bulk),
        (format!("[{one},1,{one}]"), BodyFormat::Bulk),
        (format!("{{\"logs\":[{one},{one},{one}]}}"), BodyFormat::Bulk),
        (format!("{one}\nx\n\n{one}\n"), BodyFormat::Ndjson),
    ] {
        assert_eq!(parse_with(body, format, two).unwrap_err(), BodyError::TooMany { limit: 2 });
    }
    assert_eq!(parse_with(format!("[{one},{one}]"), BodyFormat::Bulk, two).expect("a body").builder.len(), 2);
    assert_eq!(
        parse_with(format!("{one}\n\n{one}\n\n"), BodyFormat::Ndjson, two)
            .expect("a body")
            .builder
            .len(),
        2
    );
}

#[test]
fn the_hash_covers_what_the_client_sent_in_canonical_form() {
    let hash = |more: &str| good(more).entry(0).hash();
    let plain = hash("");
    // The same content, said otherwise.
    for (a, b) in [
        ("", format!("\"id\":\"{ID}\"")),
        ("", "\"tenant_id\":\"acme\",\"ip_address\":\"\",\"email\":null".into()),
        ("\"before\":{\"a\":1}", "\"before_state\":{ \"a\" :\n1 }".into()),
        ("\"metadata\":{}", "\"log_metadata\":{}".into()),
        ("\"severity\":\"error\"", "\"severity\":\"ERROR\"".into()),
        (
            "\"timestamp\":\"2024-01-31T00:00:00Z\"",
            "\"timestamp\":\"2024-01-31T01:00:00.0009+01:00\"".into(),
        ),
        ("\"ip_address\":\"::ffff:1.2.3.4\"", "\"ip_address\":\"1.2.3.4\"".into()),
        ("\"ip_address\":\"2001:DB8:0::1\"", "\"ip_address\":\"2001:db8::1\"".into()),
        ("\"message\":\"é\"", "\"message\":\"\\u00e9\"".into()),
        ("\"email\":\"a\",\"message\":\"b\"", "\"message\":\"b\",\"email\":\"a\"".into()),
    ] {
        assert_eq!(hash(a), hash(&b), "{a} and {b}");
    }
    // Other content, the defaults included when they are said.
    let different = [
        "",
        "\"severity\":\"INFO\"",
        "\"severity\":\"WARNING\"",
        "\"user_id\":\"svc\"",
        "\"user_id\":\"\"",
        "\"session_id\":\"\"",
        "\"timestamp\":\"2024-02-29T12:00:00.123Z\"",
        "\"timestamp\":\"2024-02-29T12:00:00.124Z\"",
        "\"metadata\":{}",
        "\"metadata\":{\"a\":1.0}",
        "\"metadata\":{\"a\":1.00}",
        "\"metadata\":{\"a\":\"\\u00e9\"}",
        "\"metadata\":{\"a\":\"é\"}",
        "\"before\":{}",
        "\"after\":{}",
        "\"ip_address\":\"1.2.3.4\"",
    ];
    let hashes: std::collections::HashSet<_> = different.iter().map(|more| hash(more)).collect();
    assert_eq!(hashes.len(), different.len());
    // What the server fills in is no part of it.
    let later = good_with("", |c| (c.now_ms, c.subject) = (NOW + 5, "somebody"));
    assert_eq!(later.entry(0).hash(), plain);
    // A value that the record was given once must hash the same for ever: made by an independent script.
    assert_eq!(format!("{plain:032x}"), "450140e9833e7e9ad995980a5746a28b");
}

#[test]
fn ids_are_the_clients_or_made_from_the_key_or_by_the_server() {
    let one = entry("");
    let with_id = entry(&format!("\"id\":\"{ID}\""));
    let body = format!("[{one},7,{one},{with_id}]");
    let keyed = |c: &mut ParseContext<'_>| c.idempotency_key = Some("k");
    let (a, b) = (parse_with(&body, BodyFormat::Bulk, keyed), parse_with(&body, BodyFormat::Bulk, keyed));
    let (a, b) = (a.expect("a body"), b.expect("a body"));
    assert_eq!(a.ids, b.ids, "a resend makes the same ids");
    assert_ne!(a.ids[0], a.ids[2], "the place in the request counts");
    assert_eq!(a.ids[0].map(|id| id.get_version_num()), Some(8));
    assert_eq!(a.ids[3].map(|id| id.to_string()), Some(ID.into()));
    assert!((0..3).all(|i| a.builder.entry(i).client_id()));
    let hash = a.builder.entry(1).hash();
    assert_eq!(a.ids[2], Some(ids::idempotent_id(&tenant(), "k", 2, hash)), "the index is that of the input");
    let other = parse_with(&body, BodyFormat::Bulk, |c| c.idempotency_key = Some("other")).expect("a body");
    assert_ne!(a.ids[0], other.ids[0]);

    let c = parse(&body, BodyFormat::Bulk).expect("a body");
    assert_ne!(c.ids[0], parse(&body, BodyFormat::Bulk).expect("a body").ids[0]);
    assert!(c.ids[0] < c.ids[2]);
    let client: Vec<bool> = (0..3).map(|i| c.builder.entry(i).client_id()).collect();
    assert_eq!(client, [false, false, true]);
}

#[test]
fn repeats_inside_a_body_are_accepted_and_counted() {
    let with = |id: &str, more: &str| entry(&format!("\"id\":\"{id}\",\"message\":\"{more}\""));
    let (a, b) = (ID, "01890a5d-ac96-774b-bcce-b302099a8058");
    for (items, duplicates) in [
        (vec![with(a, "x"), with(b, "x")], 0),
        (vec![with(a, "x"), with(a, "x")], 1),
        (vec![with(a, "x"), with(b, "y"), with(&a.to_uppercase(), "x"), with(a, "x"), with(b, "y")], 3),
        // Other content under one id is a conflict, which the sequencer decides; the first one is what counts.
        (vec![with(a, "x"), with(a, "y")], 0),
        (vec![with(a, "x"), with(a, "y"), with(a, "y"), with(a, "x")], 1),
        (vec![entry(""), entry("")], 0),
        // A rejected entry is no first one.
        (vec![with(a, "x").replace("\"A\"", "\"\""), with(a, "x")], 0),
    ] {
        let parsed = parse(format!("[{}]", items.join(",")), BodyFormat::Bulk).expect("a body");
        assert_eq!((parsed.duplicates, parsed.ids.len()), (duplicates, items.len()), "{items:?}");
        assert_eq!(parsed.builder.len() + parsed.errors.len(), items.len());
    }
}

#[test]
fn a_subject_that_no_record_could_hold_is_none() {
    let long = "s".repeat(1 << 16);
    let user = |subject: &str| {
        let tenant = tenant();
        let context = ParseContext { subject, ..context(&tenant) };
        let parsed = parse_body(entry("").as_bytes(), BodyFormat::Single, &context).expect("a body");
        parsed.builder.entry(0).text(Field::UserId).map(str::to_owned)
    };
    assert_eq!(user("x"), Some("x".into()));
    assert_eq!((user(""), user(&long)), (None, None));
    assert_eq!(user(&long[1..]), Some(long[1..].into()));
}

/// The entry as it comes out again.
fn rendered(builder: &PackBuilder, i: usize) -> String {
    let entry = StoredEntry {
        record: builder.entry(i).as_bytes().to_vec().into(),
        received_at: NOW,
        actor: "svc".into(),
        sequence: Some(1),
    };
    let mut out = Vec::new();
    write_entry(&mut out, &tenant(), &entry);
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn digits_order_and_escapes_of_objects_come_back() {
    let object = r#"{"z":1.50,"a":1e400,"n":12345678901234567890,"m":-0.0,"e":1E+2,"\u00e9":"\u00e9\/é","z":[],"":{"":null}}"#;
    for name in ["before_state", "after_state", "metadata"] {
        let text = rendered(&good(&format!("\"{name}\":{object}")), 0);
        assert!(text.contains(&format!("\"{name}\":{object}")), "{text}");
    }
}

/// Entries as a client might make them: each optional field absent or of some value.
fn entries() -> impl Strategy<Value = Vec<Map<String, Value>>> {
    let text = "[a-zA-Z0-9 é日😀\"\\\\/\n\t]{0,20}";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    let value = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z.é\"]{0,4}", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    });
    let object = prop::collection::btree_map("[a-z.é\"]{0,4}", value, 0..4).prop_map(|m| Value::Object(m.into_iter().collect()));
    let member = prop_oneof![
        ("user_id|session_id|request_id|email|user_agent|message", text).prop_map(|(k, v)| (k, Value::from(v))),
        ("before_state|after_state|metadata", object).prop_map(|(k, v)| (k, v)),
        ("INFO|WARNING|ERROR|CRITICAL").prop_map(|v| ("severity".to_owned(), v.into())),
        any::<[u8; 4]>().prop_map(|v| ("ip_address".to_owned(), std::net::IpAddr::from(v).to_string().into())),
        any::<u128>().prop_map(|v| ("id".to_owned(), Uuid::from_u128(v).to_string().into())),
        (0..NOW).prop_map(|v| ("timestamp".to_owned(), crate::model::time::rfc3339(v).into())),
    ];
    let entry = ("[a-zé]{1,9}", "[a-z日]{1,9}", "[a-z\"😀]{1,9}", prop::collection::vec(member, 0..8)).prop_map(|(action, kind, id, members)| {
        let required = [("action", action), ("resource_type", kind), ("resource_id", id)].map(|(k, v)| (k.to_owned(), Value::from(v)));
        required.into_iter().chain(members).collect()
    });
    prop::collection::vec(entry, 1..5)
}

/// The records without what differs by design: ids that the server made.
fn comparable(parsed: &Parsed) -> Vec<Vec<u8>> {
    (0..parsed.builder.len())
        .map(|i| {
            let entry = parsed.builder.entry(i);
            let skip = if entry.client_id() { 0 } else { 20 };
            entry.as_bytes()[skip..].to_vec()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out(entries in entries(), pretty in any::<bool>()) {
        let body = if pretty { serde_json::to_string_pretty(&entries) } else { serde_json::to_string(&entries) }.expect("JSON");
        let parsed = parse(&body, BodyFormat::Bulk).expect("a body");
        prop_assert_eq!(&parsed.errors, &[]);
        for (i, sent) in entries.iter().enumerate() {
            let text = rendered(&parsed.builder, i);
            let out: Map<String, Value> = serde_json::from_str(&text).expect("JSON");
            prop_assert_eq!(out.len(), 20);
            for (name, value) in &out {
                let expected = match (name.as_str(), sent.get(name)) {
                    (_, Some(sent)) => sent.clone(),
                    ("id", _) => parsed.ids[i].expect("accepted").to_string().into(),
                    ("tenant_id", _) => "acme".into(),
                    ("timestamp" | "received_at", _) => "2024-02-29T12:00:00.123Z".into(),
                    ("user_id" | "actor", _) => "svc".into(),
                    ("severity", _) => "INFO".into(),
                    ("sequence", _) => 1.into(),
                    _ => Value::Null,
                };
                prop_assert_eq!(value, &expected, "{}", name);
            }
        }
    }

    #[test]
    fn an_array_and_lines_give_the_same_records(entries in entries()) {
        let lines: Vec<String> = entries.iter().map(|e| serde_json::to_string(e).expect("JSON")).collect();
        let array = parse(format!("[{}]", lines.join(",")), BodyFormat::Bulk).expect("a body");
        let ndjson = parse(lines.join("\r\n"), BodyFormat::Ndjson).expect("a body");
        prop_assert_eq!(comparable(&array), comparable(&ndjson));
        prop_assert_eq!(array.duplicates, ndjson.duplicates);
        if lines.len() == 1 {
            let single = parse(&lines[0], BodyFormat::Single).expect("a body");
            prop_assert_eq!(comparable(&array), comparable(&single));
        }
    }

    #[test]
    fn no_body_makes_it_panic(entries in entries(), changes in prop::collection::vec(any::<(usize, u8, u8)>(), 1..6), keep in any::<bool>()) {
        let mut body = serde_json::to_vec(&entries).expect("JSON");
        for (at, how, byte) in changes {
            let at = at % (body.len() + 1);
            match how % 4 {
                0 => body.truncate(at),
                1 => body.insert(at, b"{}[]\",:\\u0\n"[usize::from(byte) % 11]),
                2 => body.insert(at, byte),
                _ => drop(body.splice(at.min(body.len().saturating_sub(9))..at, *b"\\ud800")),
            }
        }
        for format in [BodyFormat::Single, BodyFormat::Bulk, BodyFormat::Ndjson] {
            let parsed = parse_with(&body, format, |c| c.keep_unknown_fields = keep);
            if format == BodyFormat::Bulk && serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err() {
                prop_assert!(parsed.is_err(), "nothing of a malformed body is taken");
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
        for format in [BodyFormat::Single, BodyFormat::Bulk, BodyFormat::Ndjson] {
            let _ = parse(&body, format);
        }
    }
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "where test data lies is no setting of the product, so it is no business of `config`"
)]
fn real_records_come_back_to_the_byte() {
    let folder = std::env::var("SLUICE_TEST_DATA").unwrap_or_else(|_| "../shared/data".into());
    let path = std::path::Path::new(&folder).join("cloudtrail.ndjson.gz");
    let Ok(file) = std::fs::File::open(&path) else {
        assert!(std::env::var_os("CI").is_none(), "no test data at `{}`; set SLUICE_TEST_DATA", path.display());
        eprintln!("!!! NOT TESTED: no test data at `{}`; set SLUICE_TEST_DATA", path.display());
        return;
    };
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).expect("gzip of UTF-8");
    let records: Vec<&str> = text.lines().collect();
    assert_eq!(records.len(), 3_003);
    let wrapped = |record: &&str| entry(&format!("\"metadata\":{record}"));
    let body = records.iter().map(wrapped).collect::<Vec<_>>().join("\n");
    let parsed = parse(body, BodyFormat::Ndjson).expect("a body");
    assert_eq!((parsed.builder.len(), parsed.errors.len()), (3_003, 0));
    for (i, record) in records.iter().enumerate() {
        let out: Map<String, Value> = serde_json::from_str(&rendered(&parsed.builder, i)).expect("JSON");
        assert_eq!(out["metadata"], serde_json::from_str::<Value>(record).expect("JSON"), "record {i}");
        let stored = parsed.builder.entry(i).text(Field::Metadata).expect("there").to_owned();
        assert_eq!(stored, crate::model::json::minify(record), "record {i}");
    }
}
