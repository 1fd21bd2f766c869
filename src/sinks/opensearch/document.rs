//! An entry as a document of the search store, version 1.
//!
//! `_id` is `tenant:sequence`, `_routing` the tenant. Kept in `_source`, so that people can read it in a dashboard, and that the
//! record can be made again from it:
//!
//! | field | type | holds |
//! |---|---|---|
//! | `tenant_id` | keyword | the log: the tenant, or its access log |
//! | `sequence` | long | |
//! | `timestamp`, `received_at` | date | milliseconds since 1970 |
//! | `id`, `severity`, `actor`, `action`, `resource_type`, `resource_id`, `user_id`, `session_id`, `request_id`, `email`, `ip_address` | keyword | the text, absent where there is none |
//! | `user_agent`, `message` | not indexed | the text |
//! | `before_state`, `after_state`, `metadata` | not indexed | the JSON **as a text**, so that digits and the order of keys stay |
//! | `hash`, `client_id` | not indexed | the content hash in hexadecimal digits; whether the client chose the id |
//!
//! Only indexed, not kept:
//!
//! | field | type | holds |
//! |---|---|---|
//! | `x_words` | text, whitespace | the words ([`crate::model::words`]) of everything that is searched, one value for each field and each leaf, so that no phrase goes over an edge; the engine copies those of the next five here |
//! | `x_agent`, `x_message`, `x_before`, `x_after`, `x_metadata` | text, whitespace | the words of that field |
//! | `x_leaves` | keyword | leaves of `metadata`: the keys of the path joined by `.`, `=`, the text; `\`, `.` and `=` in keys have a `\` before them |
//! | `x_action`, `x_type` | keyword | in lower case |
//! | `x_ip` | keyword | `4` or `6` and the address in hexadecimal digits, so that ranges are ranges of texts |
//! | `x_more` | boolean | true where a text is too long to be indexed as a keyword, or there are more than 256 leaves |

use crate::{
    model::{
        entry::{EntryRef, Field, NewEntry, Severity, StoredEntry},
        filter::IpRange,
        json::write_str,
        leaves::for_each_leaf,
        tenant::TenantId,
        words::append_words,
    },
    seal::DecidedEntry,
};
use serde::Deserialize;
use std::{
    borrow::Cow,
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use uuid::Uuid;

/// Leaves that are indexed.
pub const MOST_LEAVES: usize = 256;
/// Longest text that is surely indexed as a keyword, bytes.
pub const EXACT_BYTES: usize = 8_000;
/// Longest leaf that is indexed, path and escapes included, bytes.
const LEAF_BYTES: usize = 1_024;

/// Names of fields that are asked about.
pub struct F;

impl F {
    pub const TENANT: &str = "tenant_id";
    pub const SEQUENCE: &str = "sequence";
    pub const TIMESTAMP: &str = "timestamp";
    pub const RECEIVED: &str = "received_at";
    pub const ID: &str = "id";
    pub const SEVERITY: &str = "severity";
    pub const ACTOR: &str = "actor";
    pub const LOWER_ACTION: &str = "x_action";
    pub const LOWER_TYPE: &str = "x_type";
    pub const ADDRESS: &str = "x_ip";
    pub const WORDS: &str = "x_words";
    pub const AGENT_WORDS: &str = "x_agent";
    pub const LEAVES: &str = "x_leaves";
    pub const MORE: &str = "x_more";

    /// The field as it is kept.
    pub fn of(field: Field) -> &'static str {
        field.name()
    }

    /// The words of a field that can be searched by itself.
    pub fn words_of(field: Field) -> Option<&'static str> {
        match field {
            Field::UserAgent => Some(Self::AGENT_WORDS),
            Field::Message => Some("x_message"),
            Field::BeforeState => Some("x_before"),
            Field::AfterState => Some("x_after"),
            Field::Metadata => Some("x_metadata"),
            _ => None,
        }
    }
}

/// Whether the field is indexed as it is.
pub fn is_exact(field: Field) -> bool {
    !field.is_object() && !matches!(field, Field::UserAgent | Field::Message)
}

/// What of a document is not in the record.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// Whose log.
    pub tenant: &'a TenantId,
    /// Its number.
    pub sequence: u64,
    /// When it was taken.
    pub received_at: i64,
    /// Who wrote it.
    pub actor: &'a str,
}

impl<'a> Around<'a> {
    /// Of an entry that a seal numbered; `None` if it has no number.
    pub fn of(decided: &DecidedEntry<'a>) -> Option<Self> {
        let header = decided.pack.header();
        Some(Self {
            tenant: &header.tenant,
            sequence: decided.sequence?,
            received_at: header.received_at,
            actor: &header.actor,
        })
    }
}

/// The name of the document.
pub fn name(tenant: &TenantId, sequence: u64) -> String {
    format!("{tenant}:{sequence}")
}

/// Appends the document, without a line end.
pub fn write(out: &mut Vec<u8>, around: Around<'_>, entry: &EntryRef<'_>) {
    let texts = entry.texts();
    let mut more = around.actor.len() > EXACT_BYTES;
    out.extend_from_slice(b"{\"tenant_id\":\"");
    out.extend_from_slice(around.tenant.as_str().as_bytes());
    let (mut id, mut hash) = ([0; 36], [0; 32]);
    let id = &*entry.id().hyphenated().encode_lower(&mut id);
    let _ = write!(
        out,
        "\",\"sequence\":{},\"id\":\"{id}\",\"timestamp\":{},\"received_at\":{},\"severity\":\"{}\",\"hash\":\"{}\",\"client_id\":{}",
        around.sequence,
        entry.timestamp(),
        around.received_at,
        entry.severity().as_str(),
        Uuid::from_u128(entry.hash()).simple().encode_lower(&mut hash),
        entry.client_id(),
    ); // a vector takes everything
    member(out, F::ACTOR, around.actor);
    for field in Field::ALL {
        if let Some(text) = texts[field as usize] {
            more |= is_exact(field) && text.len() > EXACT_BYTES;
            member(out, field.name(), text);
        }
    }
    if let Some(ip) = entry.ip() {
        member(out, Field::IpAddress.name(), &ip.to_string());
        member(out, F::ADDRESS, &address(ip));
    }
    for (name, field) in [(F::LOWER_ACTION, Field::Action), (F::LOWER_TYPE, Field::ResourceType)] {
        if let Some(text) = texts[field as usize] {
            member(out, name, &lower(text));
        }
    }
    let mut leaves = Leaves::default();
    let mut values = Values::begin(out, F::WORDS);
    values.words(out, id);
    for field in Field::ALL {
        if let (true, Some(text)) = (is_exact(field) && field != Field::IpAddress, texts[field as usize]) {
            values.words(out, text);
        }
    }
    out.push(b']');
    for field in Field::ALL {
        let (Some(name), Some(text)) = (F::words_of(field), texts[field as usize]) else {
            continue;
        };
        let mut values = Values::begin(out, name);
        match field {
            Field::Metadata => for_each_leaf(text, &mut |path, leaf| {
                values.words(out, &leaf);
                more |= !leaves.push(path, &leaf);
            }),
            _ if field.is_object() => for_each_leaf(text, &mut |_, leaf| values.words(out, &leaf)),
            _ => values.words(out, text),
        }
        out.push(b']');
    }
    if leaves.count > 0 {
        key(out, F::LEAVES);
        out.extend_from_slice(&leaves.json);
        out.push(b']');
    }
    if more {
        out.extend_from_slice(b",\"x_more\":true");
    }
    out.push(b'}');
}

/// A list of texts of words, as it is written.
struct Values {
    any: bool,
}

impl Values {
    fn begin(out: &mut Vec<u8>, name: &str) -> Self {
        key(out, name);
        out.push(b'[');
        Self { any: false }
    }

    /// One more value: the words of a text, if it has any. Words are letters and digits, so that nothing needs an escape.
    fn words(&mut self, out: &mut Vec<u8>, text: &str) {
        let start = out.len();
        out.extend_from_slice(if self.any { b",\"" } else { b"\"" });
        if append_words(text, out) {
            out.push(b'"');
            self.any = true;
        } else {
            out.truncate(start);
        }
    }
}

/// The leaves that are indexed, as the list that is written.
#[derive(Default)]
struct Leaves {
    json: Vec<u8>,
    count: usize,
    token: String,
}

impl Leaves {
    /// One more; false where it is too long, or there are too many.
    fn push(&mut self, path: &[Cow<'_, str>], text: &str) -> bool {
        if self.count == MOST_LEAVES || !write_leaf(&mut self.token, path, text) {
            return false;
        }
        self.json.push(if self.count == 0 { b'[' } else { b',' });
        write_str(&mut self.json, &self.token);
        self.count += 1;
        true
    }
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn member(out: &mut Vec<u8>, name: &str, text: &str) {
    key(out, name);
    write_str(out, text);
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase() || !b.is_ascii()) {
        text.to_lowercase().into()
    } else {
        text.into()
    }
}

/// A leaf as it is indexed; `None` where it is too long for it.
pub fn leaf_token<K: AsRef<str>>(path: &[K], text: &str) -> Option<String> {
    let mut token = String::new();
    write_leaf(&mut token, path, text).then_some(token)
}

/// The same into `token`, in place of what was there; whether it is short enough.
fn write_leaf<K: AsRef<str>>(token: &mut String, path: &[K], text: &str) -> bool {
    token.clear();
    for (i, key) in path.iter().enumerate() {
        if i > 0 {
            token.push('.');
        }
        let mut rest = key.as_ref();
        while let Some(at) = rest.find(['\\', '.', '=']) {
            token.push_str(&rest[..at]);
            token.push('\\');
            token.push_str(&rest[at..at + 1]);
            rest = &rest[at + 1..];
        }
        token.push_str(rest);
        if token.len() > LEAF_BYTES {
            return false;
        }
    }
    token.push('=');
    token.push_str(text);
    token.len() <= LEAF_BYTES
}

/// An address as it is indexed.
fn address(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("4{:08x}", ip.to_bits()),
        IpAddr::V6(ip) => format!("6{:032x}", ip.to_bits()),
    }
}

/// The first and the last address of a range, as they are indexed.
pub fn address_bounds(range: &IpRange) -> (String, String) {
    let range = range.canonical();
    match range.addr {
        IpAddr::V4(ip) => {
            let rest = u32::MAX.checked_shr(u32::from(range.prefix)).unwrap_or(0);
            let first = ip.to_bits() & !rest;
            (address(Ipv4Addr::from_bits(first).into()), address(Ipv4Addr::from_bits(first | rest).into()))
        }
        IpAddr::V6(ip) => {
            let rest = u128::MAX.checked_shr(u32::from(range.prefix)).unwrap_or(0);
            let first = ip.to_bits() & !rest;
            (address(Ipv6Addr::from_bits(first).into()), address(Ipv6Addr::from_bits(first | rest).into()))
        }
    }
}

/// A document as it comes back.
#[derive(Debug, Deserialize)]
pub struct Source<'a> {
    #[serde(borrow)]
    tenant_id: Cow<'a, str>,
    /// Its number.
    pub sequence: u64,
    /// When it was taken.
    pub received_at: i64,
    timestamp: i64,
    id: Uuid,
    #[serde(borrow)]
    severity: Cow<'a, str>,
    #[serde(borrow)]
    hash: Cow<'a, str>,
    client_id: bool,
    #[serde(borrow)]
    actor: Cow<'a, str>,
    #[serde(borrow, default)]
    action: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    resource_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    resource_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    session_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    email: Option<Cow<'a, str>>,
    #[serde(default)]
    ip_address: Option<IpAddr>,
    #[serde(borrow, default)]
    user_agent: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    before_state: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    after_state: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    metadata: Option<Cow<'a, str>>,
}

impl Source<'_> {
    /// The entry, if the document is one of this tenant; a document that is not what we wrote is none.
    pub fn entry(&self, tenant: &TenantId) -> Option<StoredEntry> {
        if self.tenant_id != tenant.as_str() {
            return None;
        }
        let ip: Option<Vec<u8>> = self.ip_address.map(|ip| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        });
        let text = |text: &'_ Option<Cow<'_, str>>| text.as_deref().map(|text| text.as_bytes().to_vec());
        let fields: [Option<Vec<u8>>; Field::COUNT] = [
            text(&self.action),
            text(&self.resource_type),
            text(&self.resource_id),
            text(&self.user_id),
            text(&self.session_id),
            text(&self.request_id),
            text(&self.email),
            ip,
            text(&self.user_agent),
            text(&self.message),
            text(&self.before_state),
            text(&self.after_state),
            text(&self.metadata),
        ];
        let fits = |i: usize| {
            fields[i]
                .as_ref()
                .is_none_or(|bytes| Field::ALL[i].is_object() || bytes.len() <= usize::from(u16::MAX))
        };
        if !(0..Field::COUNT).all(fits) {
            return None;
        }
        let new = NewEntry {
            id: self.id,
            client_id: self.client_id,
            hash: u128::from_str_radix(&self.hash, 16).ok()?,
            timestamp: self.timestamp,
            severity: Severity::parse(&self.severity)?,
            fields: std::array::from_fn(|i| fields[i].as_deref()),
        };
        let mut record = Vec::with_capacity(new.encoded_len());
        new.encode(&mut record);
        Some(StoredEntry {
            record: record.into(),
            received_at: self.received_at,
            actor: self.actor.as_ref().into(),
            sequence: Some(self.sequence),
        })
    }
}

/// The month of a time, `2026.11`; what is outside of the calendar is of the first or the last year there is.
pub fn month(ms: i64) -> String {
    let mut text = crate::model::time::rfc3339(ms.clamp(0, 253_402_300_799_999));
    text.truncate(7);
    let mut month = String::with_capacity(7);
    let _ = write!(month, "{}", text.replace('-', "."));
    month
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(metadata: &str) -> Vec<u8> {
        let mut fields = [None; Field::COUNT];
        for (field, bytes) in [
            (Field::Action, &b"User.LOGIN"[..]),
            (Field::ResourceType, "Stra\u{df}e".as_bytes()),
            (Field::ResourceId, b"r-1"),
            (Field::SessionId, b""),
            (Field::IpAddress, &[10, 0, 0, 9]),
            (Field::UserAgent, b"curl/8.1 \"x\""),
            (Field::Message, "a\"b\\c\n\u{1}\u{e9}".as_bytes()),
            (Field::AfterState, br#"{"n":1.50,"list":["Old Value",{"x":"new"}]}"#),
            (Field::Metadata, metadata.as_bytes()),
        ] {
            fields[field as usize] = Some(bytes);
        }
        let new = NewEntry {
            id: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            client_id: true,
            hash: u128::MAX - 5,
            timestamp: -7,
            severity: Severity::Critical,
            fields,
        };
        let mut record = Vec::new();
        new.encode(&mut record);
        record
    }

    fn document(record: &[u8]) -> (Vec<u8>, TenantId) {
        let (tenant, mut out) = (TenantId::parse("acme").expect("a name").access_log(), Vec::new());
        let around = Around {
            tenant: &tenant,
            sequence: 12,
            received_at: 99,
            actor: "svc \"x\"",
        };
        write(&mut out, around, &EntryRef::first_of(record));
        (out, tenant)
    }

    #[test]
    fn the_record_can_be_made_again_from_the_document() {
        let record = sample(r#"{"a":{"b":[1.50,"xA",null]},"k.d":true,"n":12345678901234567890}"#);
        let (text, tenant) = document(&record);
        let source: Source<'_> = serde_json::from_slice(&text).expect("JSON");
        let entry = source.entry(&tenant).expect("an entry");
        assert_eq!(entry.record[..], record[..]);
        assert_eq!((entry.received_at, &*entry.actor, entry.sequence), (99, "svc \"x\"", Some(12)));
        assert!(
            source.entry(&TenantId::parse("acme").expect("a name")).is_none(),
            "another log's document is none of ours"
        );
    }

    #[test]
    fn words_are_one_value_for_each_field_and_leaf() {
        let (text, _) = document(&sample(r#"{"a.b":"One two","c":["Three"],"d":""}"#));
        let json: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let words = serde_json::json!(["01234567 89ab cdef 0123 456789abcdef", "user login", "straße", "r 1"]);
        assert_eq!(json["x_words"], words);
        assert_eq!(json["x_after"], serde_json::json!(["1 50", "old value", "new"]));
        assert_eq!(json["x_metadata"], serde_json::json!(["one two", "three"]));
        assert_eq!(json["x_leaves"], serde_json::json!(["a\\.b=One two", "c=Three", "d="]));
        assert_eq!(
            (&json["x_action"], &json["x_ip"], &json["x_more"]),
            (&"user.login".into(), &"40a000009".into(), &serde_json::Value::Null)
        );
    }

    #[test]
    fn what_is_too_much_to_be_indexed_is_marked() {
        let many = format!("{{{}}}", (0..257).map(|i| format!("\"k{i}\":{i}")).collect::<Vec<_>>().join(","));
        let long = format!("{{\"k\":\"{}\"}}", "x".repeat(2_000));
        for (metadata, leaves) in [(many, 256), (long, 0)] {
            let (text, _) = document(&sample(&metadata));
            let json: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
            assert_eq!((&json["x_more"], json["x_leaves"].as_array().map_or(0, Vec::len)), (&true.into(), leaves));
        }
    }

    #[test]
    fn ranges_of_addresses_are_ranges_of_texts() {
        for (range, first, last) in [
            ("10.1.2.3", "40a010203", "40a010203"),
            ("10.9.9.9/8", "40a000000", "40affffff"),
            ("0.0.0.0/0", "400000000", "4ffffffff"),
            ("::ffff:10.0.0.0/104", "40a000000", "40affffff"),
        ] {
            let range = IpRange::parse(range).expect("a range");
            assert_eq!(address_bounds(&range), (first.to_owned(), last.to_owned()));
        }
        let v6 = address_bounds(&IpRange::parse("::/0").expect("a range"));
        assert_eq!(v6, (format!("6{}", "0".repeat(32)), format!("6{}", "f".repeat(32))));
    }

    #[test]
    fn months_are_of_the_calendar_whatever_the_clock_said() {
        assert_eq!(month(1_700_000_000_000), "2023.11");
        assert_eq!((month(i64::MIN), month(i64::MAX)), ("1970.01".to_owned(), "9999.12".to_owned()));
    }
}
