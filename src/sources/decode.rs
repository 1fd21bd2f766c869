//! From a message of a foreign queue to packs, and to what is wrong with the rest. Pure, and a function of the message, the source's
//! configuration and the tenants' settings alone: no clock, no chance. So a message that comes again makes the same packs.
//!
//! A message is one entry, a JSON array of entries, an object whose only field `logs` is such an array, or one entry per line. The tenant of an entry is
//! its `tenant_id`, else what the message's attribute says, else the only tenant of the source. The entries of one tenant make one
//! pack; their time is that of the message where they have none; `received_at` of the pack is that time too, because it tells a
//! sequencer whether its memory reaches back far enough to know the pack (see docs/adr/0025).

use super::{allowed::AllowedTenants, names};
use crate::{
    catalog::Tenant,
    model::{
        pack::{Pack, PackHeader},
        parse::{BodyFormat, ItemError, ParseContext, parse_body},
        tenant::TenantId,
    },
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{collections::HashMap, sync::Arc};
use uuid::Uuid;

/// Entries of one message at most, as of one request.
const MAX_ENTRIES: usize = 10_000;
/// An entry as JSON has at most so many bytes, as everywhere.
const MAX_ENTRY_BYTES: usize = 256 << 10;

/// What a source says about all its messages.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// The queue in ids: see [`names`].
    pub(super) queue: Arc<str>,
    /// Who wrote the entries.
    pub(super) actor: Arc<str>,
    /// For whom it may speak.
    pub(super) allowed: AllowedTenants,
}

/// A message as it came.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// The queue's name for it: see [`names`].
    pub(super) key: Arc<str>,
    pub(super) body: Bytes,
    /// The tenant that its attribute names.
    pub(super) tenant: Option<String>,
    /// When the queue took it, milliseconds since 1970.
    pub(super) sent_at: i64,
}

/// What a message came to.
#[derive(Debug)]
pub(super) struct Decoded {
    /// The message in ids.
    pub(super) id: Uuid,
    pub(super) packs: Vec<Pack>,
    pub(super) refused: Vec<Refused>,
    /// A tenant that the source may speak for is not known; it may have been made a moment ago.
    pub(super) unknown_tenant: bool,
}

/// A part of a message that is no entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// Whose dead letter it is; `None` when nobody can be told.
    pub(super) tenant: Option<TenantId>,
    /// Its place in the message.
    pub(super) index: usize,
    pub(super) original: Vec<u8>,
    /// What is wrong with it.
    pub(super) detail: String,
}

/// Decodes a message. `tenant` gives what is known of a tenant.
pub(super) fn decode(message: &Message, rules: &Rules, tenant: &dyn Fn(&TenantId) -> Option<Arc<Tenant>>) -> Decoded {
    let mut decoding = Decoding {
        message,
        rules,
        tenant,
        groups: HashMap::new(),
        out: Decoded {
            id: names::message(&rules.queue, &message.key),
            packs: Vec::new(),
            refused: Vec::new(),
            unknown_tenant: false,
        },
    };
    match items(&message.body) {
        Ok(items) => items.into_iter().enumerate().for_each(|(index, item)| decoding.item(index, item)),
        Err(detail) => {
            let tenant = decoding.named(None).ok().map(|tenant| tenant.tenant_id.clone());
            decoding.refuse(tenant, 0, &message.body, detail);
        }
    }
    decoding.finish()
}

/// One element or line: JSON, or what is wrong with the text.
type Item<'a> = Result<&'a str, (&'a str, String)>;

fn items(body: &[u8]) -> Result<Vec<Item<'_>>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Logs<'a> {
        #[serde(borrow)]
        logs: Vec<&'a RawValue>,
    }
    let text = std::str::from_utf8(body).map_err(|_| "the bytes are not UTF-8")?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_ascii();
    fn raw(all: Vec<&RawValue>) -> Vec<Item<'_>> {
        all.into_iter().map(|one| Ok(one.get())).collect()
    }
    let all = if text.starts_with('[') {
        raw(serde_json::from_str(text).map_err(|error| format!("no JSON array: {error}"))?)
    } else if let Ok(Logs { logs }) = serde_json::from_str(text) {
        raw(logs)
    } else if let Ok(one) = serde_json::from_str::<&RawValue>(text) {
        raw(vec![one])
    } else {
        let lines = text.lines().map(str::trim_ascii).filter(|line| !line.is_empty());
        let line = |line| match serde_json::from_str::<&RawValue>(line) {
            Ok(one) => Ok(one.get()),
            Err(error) => Err((line, format!("no JSON: {error}"))),
        };
        lines.take(MAX_ENTRIES + 1).map(line).collect()
    };
    match all.len() {
        0 => Err("there is no entry in the message".to_owned()),
        1..=MAX_ENTRIES => Ok(all),
        _ => Err(format!("there are more than {MAX_ENTRIES} entries in the message")),
    }
}

struct Decoding<'a> {
    message: &'a Message,
    rules: &'a Rules,
    tenant: &'a dyn Fn(&TenantId) -> Option<Arc<Tenant>>,
    groups: HashMap<TenantId, Group<'a>>,
    out: Decoded,
}

/// The entries of one tenant, with their places in the message.
struct Group<'a> {
    tenant: Arc<Tenant>,
    items: Vec<(usize, &'a str)>,
}

impl<'a> Decoding<'a> {
    fn item(&mut self, index: usize, item: Item<'a>) {
        #[derive(Deserialize)]
        struct Named {
            #[serde(default)]
            tenant_id: Option<String>,
        }
        let (text, named) = match item {
            Ok(text) if text.starts_with('{') => (text, serde_json::from_str::<Named>(text).map_err(|error| error.to_string())),
            Ok(text) => (text, Err("an entry is a JSON object".to_owned())),
            Err((text, detail)) => (text, Err(detail)),
        };
        match named.map(|named| self.named(named.tenant_id.as_deref())) {
            Ok(Ok(tenant)) => {
                let group = self
                    .groups
                    .entry(tenant.tenant_id.clone())
                    .or_insert_with(|| Group { tenant, items: Vec::new() });
                group.items.push((index, text));
            }
            Ok(Err(detail)) => self.refuse(None, index, text.as_bytes(), detail),
            Err(detail) => {
                let tenant = self.named(None).ok().map(|tenant| tenant.tenant_id.clone());
                self.refuse(tenant, index, text.as_bytes(), detail);
            }
        }
    }

    /// The tenant of an entry that names this one, or none.
    fn named(&mut self, name: Option<&str>) -> Result<Arc<Tenant>, String> {
        let only = self.rules.allowed.only().map(TenantId::as_str);
        let name = name.or(self.message.tenant.as_deref()).or(only);
        let name = name.ok_or("no tenant is named, neither in the entry nor by the attribute `tenant_id`")?;
        let shown: String = name.chars().take(80).collect();
        let id = TenantId::parse(name).map_err(|error| format!("`{shown}` is no tenant: {error}"))?;
        if !self.rules.allowed.permits(&id) {
            return Err(format!("the source may not speak for the tenant `{id}`"));
        }
        let tenant = (self.tenant)(&id);
        self.out.unknown_tenant |= tenant.is_none();
        tenant.ok_or_else(|| format!("there is no tenant `{id}`"))
    }

    fn refuse(&mut self, tenant: Option<TenantId>, index: usize, original: &[u8], detail: String) {
        let original = original.to_vec();
        self.out.refused.push(Refused {
            tenant,
            index,
            original,
            detail,
        });
    }

    fn finish(mut self) -> Decoded {
        let mut groups: Vec<_> = std::mem::take(&mut self.groups).into_values().collect();
        groups.sort_unstable_by_key(|group| group.items[0].0);
        for group in groups {
            self.pack(&group);
        }
        self.out
    }

    fn pack(&mut self, group: &Group<'_>) {
        let (message, id) = (self.message, &group.tenant.tenant_id);
        let ids: Vec<Uuid> = group.items.iter().map(|(index, _)| names::entry(self.out.id, *index)).collect();
        let context = ParseContext {
            tenant: id,
            subject: &self.rules.actor,
            now_ms: message.sent_at,
            log_levels: group.tenant.settings.log_levels.0,
            keep_unknown_fields: group.tenant.settings.keep_unknown_fields,
            idempotency_key: None,
            ids: &ids,
            max_entries: MAX_ENTRIES,
            max_entry_bytes: MAX_ENTRY_BYTES,
            resent: None,
        };
        let texts: Vec<&str> = group.items.iter().map(|(_, text)| *text).collect();
        let body = ["[", &texts.join(","), "]"].concat();
        let parsed = match parse_body(body.as_bytes(), BodyFormat::Bulk, &context) {
            Ok(parsed) => parsed,
            Err(error) => {
                for (index, text) in &group.items {
                    self.refuse(Some(id.clone()), *index, text.as_bytes(), error.to_string());
                }
                return;
            }
        };
        for wrong in parsed.errors.chunk_by(|a, b| a.index == b.index) {
            let (index, text) = group.items[wrong[0].index];
            let detail: Vec<String> = wrong.iter().map(describe).collect();
            self.refuse(Some(id.clone()), index, text.as_bytes(), detail.join("; "));
        }
        let header = PackHeader {
            pack_id: names::pack(self.out.id, id),
            tenant: id.clone(),
            actor: self.rules.actor.clone(),
            request_id: message.key.clone(),
            received_at: message.sent_at,
            part: (0, 1),
        };
        self.out.packs.extend(parsed.builder.finish(header));
    }
}

fn describe(error: &ItemError) -> String {
    let field = if error.field.is_empty() { "entry" } else { &error.field };
    format!("{field}: {}: {}", error.code, error.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::TenantSettings;

    const SENT_AT: i64 = 1_700_000_000_123;

    fn known(id: &TenantId) -> Option<Arc<Tenant>> {
        let known = ["acme", "globex", "x-1"].contains(&id.as_str());
        known.then(|| {
            Arc::new(Tenant {
                tenant_id: id.clone(),
                name: id.to_string(),
                settings: TenantSettings::default(),
                created_at: String::new(),
                updated_at: String::new(),
            })
        })
    }

    fn message(body: &str, tenant: Option<&str>) -> Message {
        Message {
            key: "m-1".into(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            tenant: tenant.map(str::to_owned),
            sent_at: SENT_AT,
        }
    }

    fn rules(tenants: &[&str]) -> Rules {
        Rules {
            queue: "sqs:/1/q".into(),
            actor: "billing".into(),
            allowed: AllowedTenants::parse(tenants).expect("good"),
        }
    }

    fn decoded(body: &str, attribute: Option<&str>, tenants: &[&str]) -> Decoded {
        decode(&message(body, attribute), &rules(tenants), &known)
    }

    fn entry(more: &str) -> String {
        format!(r#"{{"action":"PAY","resource_type":"invoice","resource_id":"7"{more}}}"#)
    }

    #[test]
    fn one_entry_an_array_an_object_with_logs_and_lines_are_the_same() {
        let (a, b) = (entry(r#","message":"a\nb""#), entry(r#", "metadata" : {"n" : 1.50}"#));
        let pretty = format!("[\n  {a},\n  {}\n]", b.replace(',', ",\n"));
        let bodies = [
            format!("[{a},{b}]"),
            pretty,
            format!(r#"{{"logs":[{a},{b}]}}"#),
            format!("{a}\n{b}"),
            format!("\u{feff}{a}\r\n\r\n{b}\n"),
        ];
        let mut all = bodies.iter().map(|body| decoded(body, None, &["acme"]));
        let first = all.next().expect("one").packs.remove(0);
        assert_eq!(first.len(), 2);
        for (i, other) in all.enumerate() {
            assert!(other.refused.is_empty(), "{i}: {:?}", other.refused);
            assert_eq!(other.packs[0].bytes(), first.bytes(), "{i}");
        }
        let single = decoded(&a, None, &["acme"]);
        assert_eq!((single.packs[0].len(), single.packs[0].record(0)), (1, first.record(0)));
    }

    #[test]
    fn a_message_makes_the_same_packs_whenever_it_comes() {
        let body = format!("[{},{}]", entry(""), entry(r#","id":"0190a3b4-0000-7000-8000-000000000001""#));
        let [one, two] = [0, 1].map(|_| decoded(&body, None, &["acme"]));
        assert_eq!(one.packs[0].bytes(), two.packs[0].bytes());
        let pack = &one.packs[0];
        assert_eq!(pack.id(), names::pack(names::message("sqs:/1/q", "m-1"), pack.tenant()));
        assert_eq!((pack.header().received_at, &*pack.header().actor), (SENT_AT, "billing"));
        let made = pack.entry(0);
        assert_eq!((made.id(), made.client_id(), made.timestamp()), (names::entry(one.id, 0), true, SENT_AT));
        assert_eq!(pack.entry(1).id().to_string(), "0190a3b4-0000-7000-8000-000000000001");
        let other = Message {
            key: "m-2".into(),
            ..message(&body, None)
        };
        let other = decode(&other, &rules(&["acme"]), &known);
        assert_ne!((other.packs[0].id(), other.packs[0].entry(0).id()), (pack.id(), made.id()));
    }

    #[test]
    fn each_tenant_gets_its_own_pack_and_ids_go_by_the_place_in_the_message() {
        let body = [
            entry(r#","tenant_id":"globex""#),
            entry(""),
            entry(r#","tenant_id":"globex""#),
            entry(r#","tenant_id":"x-1""#),
        ]
        .join("\n");
        let all = decoded(&body, Some("acme"), &["acme", "globex", "x-*"]);
        assert!(all.refused.is_empty(), "{:?}", all.refused);
        let packs: Vec<_> = all
            .packs
            .iter()
            .map(|pack| (pack.tenant().as_str(), pack.entries().map(|e| e.id()).collect::<Vec<_>>()))
            .collect();
        let id = |index| names::entry(all.id, index);
        assert_eq!(packs, [("globex", vec![id(0), id(2)]), ("acme", vec![id(1)]), ("x-1", vec![id(3)])]);
    }

    #[test]
    fn what_is_wrong_is_refused_alone_with_words_and_to_whom_it_belongs() {
        let body = [
            entry(""),
            "{oops".to_owned(),
            entry(r#","tenant_id":"globex""#),
            entry(r#","tenant_id":"nobody""#),
            entry(r#","tenant_id":7"#),
            entry(r#","severity":"LOUD""#),
            "7".to_owned(),
            entry(r#","tenant_id":"Not a tenant""#),
        ]
        .join("\n");
        let all = decoded(&body, Some("acme"), &["acme", "nobody"]);
        assert_eq!((all.packs.len(), all.packs[0].len(), all.unknown_tenant), (1, 1, true));
        let mut refused: Vec<_> = all
            .refused
            .iter()
            .map(|r| (r.index, r.tenant.as_ref().map(TenantId::as_str), r.detail.as_str()))
            .collect();
        refused.sort_unstable();
        for ((index, tenant, says), found) in [
            (1, Some("acme"), "no JSON"),
            (2, None, "may not speak for the tenant `globex`"),
            (3, None, "there is no tenant `nobody`"),
            (4, Some("acme"), "invalid type"),
            (5, Some("acme"), "severity: invalid_severity"),
            (6, Some("acme"), "an entry is a JSON object"),
            (7, None, "is no tenant"),
        ]
        .into_iter()
        .zip(&refused)
        {
            assert!(found.0 == index && found.1 == tenant && found.2.contains(says), "{index}: {found:?}");
        }
        assert_eq!(refused.len(), 7);
        assert_eq!(all.refused.iter().find(|r| r.index == 1).map(|r| r.original.as_slice()), Some(&b"{oops"[..]));
    }

    #[test]
    fn a_message_that_is_nothing_at_all_is_one_refusal() {
        let many = format!("[{}]", vec!["1"; MAX_ENTRIES + 1].join(","));
        for (body, says) in [
            ("", "no entry"),
            ("[]", "no entry"),
            (r#"{"logs":[]}"#, "no entry"),
            ("[{},", "no JSON array"),
            ("hello", "no JSON"),
            (many.as_str(), "more than 10000"),
        ] {
            let all = decoded(body, None, &["acme"]);
            assert_eq!((all.packs.len(), all.refused.len()), (0, 1), "{says}");
            assert!(
                all.refused[0].detail.contains(says) && all.refused[0].tenant.is_some(),
                "{:?}",
                all.refused[0].detail
            );
            assert_eq!(decoded(body, None, &["*"]).refused[0].tenant, None);
        }
        let bytes = Message {
            body: Bytes::from_static(b"\xff\xfe"),
            ..message("", None)
        };
        assert!(decode(&bytes, &rules(&["*"]), &known).refused[0].detail.contains("UTF-8"));
    }
}
