//! The rules of the log entry: from the given fields to a record, or to what is wrong with them.

use super::{
    ItemCode, ParseContext,
    entry::{Given, Name, is_out_only, keys_of},
    errors::{Errors, excerpt},
    hash::{Sent, content_hash},
    ids::{IdMaker, idempotent_id, parse_uuid},
};
use crate::model::{
    entry::{ContentHash, Field, NewEntry, Severity},
    json::{Kind, Value},
    pack::PackBuilder,
    time::{DAY_MS, parse_rfc3339},
};
use std::{borrow::Cow, collections::HashSet, net::IpAddr};
use uuid::Uuid;

/// The most levels of an object field, itself counted.
const MAX_DEPTH: u32 = 64;
/// What fits a short field of the record.
const MAX_SUBJECT_BYTES: usize = u16::MAX as usize;

/// How long a text may be.
#[derive(Clone, Copy)]
enum Limit {
    Chars(usize),
    Bytes(usize),
}

/// The limit of each text field. The record's 16-bit lengths hold four bytes for each character.
fn limit_of(field: Field) -> Limit {
    match field {
        Field::Action | Field::ResourceType => Limit::Chars(128),
        Field::ResourceId => Limit::Chars(512),
        Field::UserAgent => Limit::Chars(1024),
        Field::Message => Limit::Bytes(32 << 10),
        _ => Limit::Chars(256),
    }
}

fn is_required(field: Field) -> bool {
    matches!(field, Field::Action | Field::ResourceType | Field::ResourceId)
}

/// What one entry became.
pub(super) struct Made {
    pub(super) id: Uuid,
    /// The id is the client's own, so it may be given again in this body.
    pub(super) given_id: bool,
    pub(super) hash: ContentHash,
}

/// Checks entries and writes the good ones as records.
pub(super) struct Checker<'a> {
    context: ParseContext<'a>,
    ids: IdMaker,
    scratch: Vec<u8>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(context: ParseContext<'a>) -> Self {
        Self {
            context,
            ids: IdMaker::new(context.now_ms),
            scratch: Vec::new(),
        }
    }

    /// Appends the record of entry `index`, or says in `errors` (which stands at that entry) why there is none.
    pub(super) fn entry(&mut self, index: usize, given: &Given<'_>, builder: &mut PackBuilder, errors: &mut Errors) -> Option<Made> {
        if given.len > self.context.max_entry_bytes {
            let message = format!("the entry has {} bytes as JSON, at most {} are taken", given.len, self.context.max_entry_bytes);
            errors.add("", ItemCode::TooLarge, message);
            return None;
        }
        report_repeats(given, errors);
        let id = self.id(given, errors);
        self.tenant(given, errors);
        let timestamp = self.timestamp(given, errors);
        let severity = self.severity(given, errors);
        let ip = address(given, errors);
        let mut fields = texts(given, errors);
        self.unknown_fields(given, &mut fields, errors);
        if errors.any() {
            return None;
        }

        let mut sent = Sent {
            fields: std::array::from_fn(|i| fields[i].as_deref().map(str::as_bytes)),
            severity,
            timestamp,
        };
        let (v4, v6);
        sent.fields[Field::IpAddress as usize] = match ip {
            Some(IpAddr::V4(ip)) => {
                v4 = ip.octets();
                Some(&v4)
            }
            Some(IpAddr::V6(ip)) => {
                v6 = ip.octets();
                Some(&v6)
            }
            None => None,
        };
        let resent = self.context.resent;
        let hash = resent
            .and_then(|resent| resent.unchanged)
            .unwrap_or_else(|| content_hash(&sent, &mut self.scratch));
        let mut fields = sent.fields;
        let subject = self.context.subject;
        if !subject.is_empty() && subject.len() <= MAX_SUBJECT_BYTES {
            fields[Field::UserId as usize].get_or_insert(subject.as_bytes());
        }
        let id = match resent {
            Some(resent) if resent.unchanged.is_some() => Some(resent.id),
            Some(resent) => id.or(Some(resent.id)),
            None => id.or(self.context.ids.get(index).copied()),
        };
        let given_id = id.is_some();
        let id = id.unwrap_or_else(|| match self.context.idempotency_key {
            Some(key) => idempotent_id(self.context.tenant, key, index, hash),
            None => self.ids.next(),
        });
        builder.push(&NewEntry {
            id,
            client_id: given_id || self.context.idempotency_key.is_some(),
            hash,
            timestamp: timestamp.or(resent.map(|resent| resent.timestamp)).unwrap_or(self.context.now_ms),
            severity: severity.unwrap_or_default(),
            fields,
        });
        Some(Made { id, given_id, hash })
    }

    fn id(&self, given: &Given<'_>, errors: &mut Errors) -> Option<Uuid> {
        let text = string(given, Name::Id, errors)?;
        let id = parse_uuid(&text);
        if id.is_none() {
            let message = format!("`{}` is no UUID like `01890a5d-ac96-774b-bcce-b302099a8057`", excerpt(&text));
            errors.add("id", ItemCode::InvalidId, message);
        }
        id
    }

    fn tenant(&self, given: &Given<'_>, errors: &mut Errors) {
        if let Some(text) = string(given, Name::TenantId, errors)
            && text != self.context.tenant.as_str()
        {
            let message = "the tenant comes from the credential, which is for another one; leave the field out";
            errors.add("tenant_id", ItemCode::TenantMismatch, message);
        }
    }

    fn timestamp(&self, given: &Given<'_>, errors: &mut Errors) -> Option<i64> {
        let text = string(given, Name::Timestamp, errors)?;
        let Some(ms) = parse_rfc3339(&text) else {
            let message = format!("`{}` is no RFC 3339 time with a zone like `2024-01-31T12:00:00.000Z`", excerpt(&text));
            errors.add("timestamp", ItemCode::InvalidTime, message);
            return None;
        };
        if !(0..=self.context.now_ms.saturating_add(DAY_MS)).contains(&ms) {
            let message = format!("`{}` is not between 1970 and 24 hours from now", excerpt(&text));
            errors.add("timestamp", ItemCode::TimeOutOfRange, message);
            return None;
        }
        Some(ms)
    }

    /// The severity, if one was given; the one that holds must be one that the tenant takes.
    fn severity(&self, given: &Given<'_>, errors: &mut Errors) -> Option<Severity> {
        let before = errors.count();
        if given.is_repeated(Name::Severity) {
            return None;
        }
        let text = string(given, Name::Severity, errors);
        let severity = text.as_deref().and_then(Severity::parse);
        if let (Some(text), None) = (&text, severity) {
            let message = format!("`{}` is not one of INFO, WARNING, ERROR, CRITICAL", excerpt(text));
            errors.add("severity", ItemCode::InvalidSeverity, message);
        }
        let holds = severity.unwrap_or_default();
        if errors.count() == before && !self.context.log_levels[holds as usize] {
            let message = format!("the tenant's setting `log_levels` does not take {}", holds.as_str());
            errors.add("severity", ItemCode::SeverityNotAccepted, message);
        }
        severity
    }

    /// Moves unknown fields into `metadata`, or says that they are unknown.
    fn unknown_fields<'b>(&self, given: &Given<'b>, fields: &mut [Option<Cow<'b, str>>; Field::COUNT], errors: &mut Errors) {
        let shown = |key: &Value<'_>, value: &Value<'_>| {
            let fields = self.context.resent.iter().flat_map(|resent| resent.shown);
            fields.into_iter().any(|(name, text)| key.string() == name && value.raw == text)
        };
        let unknown: Vec<_> = given.unknown.iter().filter(|(key, value)| !shown(key, value)).collect();
        if unknown.is_empty() {
            return;
        }
        if !self.context.keep_unknown_fields {
            for (key, _) in unknown {
                let key = key.string();
                let message = if is_out_only(&key) {
                    "the server sets this field; leave it out"
                } else {
                    "an entry has no such field; what is your own goes into `metadata`"
                };
                errors.add(&key, ItemCode::UnknownField, message);
            }
            return;
        }
        let metadata = &mut fields[Field::Metadata as usize];
        let mut merged = String::from(metadata.as_deref().unwrap_or("{}"));
        merged.pop(); // the closing brace, until all are in
        // A key that is there already is an error: one of the two values would hide the other.
        let mut keys: HashSet<Cow<'_, str>> = metadata.as_deref().map(keys_of).unwrap_or_default().into_iter().collect();
        for (key, value) in unknown {
            let name = key.string();
            if !key.sound || !value.sound {
                errors.add(&name, ItemCode::InvalidUnicode, UNSOUND);
            }
            // It gets one level deeper.
            if value.depth >= MAX_DEPTH {
                errors.add(&name, ItemCode::TooDeep, too_deep(MAX_DEPTH - 1));
            }
            if keys.contains(&name) {
                let message = "the field is unknown and moves into `metadata`, where this name is given already";
                errors.add(&name, ItemCode::DuplicateField, message);
                continue;
            }
            if merged.len() > 1 {
                merged.push(',');
            }
            merged.push_str(key.raw);
            merged.push(':');
            merged.push_str(&value.minified());
            keys.insert(name);
        }
        merged.push('}');
        drop(keys);
        *metadata = Some(Cow::Owned(merged));
    }
}

const UNSOUND: &str = "an escape stands for U+0000 or for half of a surrogate pair, which no text may hold";

fn too_deep(levels: u32) -> String {
    format!("it is nested deeper than {levels} levels")
}

fn report_repeats(given: &Given<'_>, errors: &mut Errors) {
    for name in Name::all().filter(|name| given.is_repeated(*name)) {
        let message = match name.alias() {
            Some(alias) => format!("the field is given more than once (`{alias}` is another name of it)"),
            None => "the field is given more than once".to_owned(),
        };
        errors.add(name.text(), ItemCode::DuplicateField, message);
    }
}

/// The value of a field that was given once and is not null.
fn value<'a>(given: &Given<'a>, name: Name) -> Option<Value<'a>> {
    given.get(name).filter(|v| v.kind != Kind::Null && !given.is_repeated(name))
}

/// The text of a field that must be a string.
fn string<'a>(given: &Given<'a>, name: Name, errors: &mut Errors) -> Option<Cow<'a, str>> {
    let value = value(given, name)?;
    if value.kind != Kind::String {
        errors.add(name.text(), ItemCode::WrongType, format!("it is {}, a string is wanted", value.kind.noun()));
        return None;
    }
    if !value.sound {
        errors.add(name.text(), ItemCode::InvalidUnicode, UNSOUND);
        return None;
    }
    Some(value.string())
}

/// The text of a field that must be an object, without whitespace between its tokens.
fn object<'a>(given: &Given<'a>, name: Name, errors: &mut Errors) -> Option<Cow<'a, str>> {
    let value = value(given, name)?;
    if value.kind != Kind::Object {
        errors.add(name.text(), ItemCode::WrongType, format!("it is {}, an object is wanted", value.kind.noun()));
    } else if value.depth > MAX_DEPTH {
        errors.add(name.text(), ItemCode::TooDeep, too_deep(MAX_DEPTH));
    } else if !value.sound {
        errors.add(name.text(), ItemCode::InvalidUnicode, UNSOUND);
    } else {
        return Some(value.minified());
    }
    None
}

/// The fields of the record that are texts or objects.
fn texts<'a>(given: &Given<'a>, errors: &mut Errors) -> [Option<Cow<'a, str>>; Field::COUNT] {
    let mut fields = [const { None }; Field::COUNT];
    for field in Field::ALL {
        let name = Name::Field(field);
        fields[field as usize] = match field {
            Field::IpAddress => None,
            _ if field.is_object() => object(given, name, errors),
            _ => {
                if is_required(field) && !given.is_repeated(name) && value(given, name).is_none() {
                    errors.add(field.name(), ItemCode::Required, "every entry has this field");
                }
                string(given, name, errors).filter(|text| fits(field, text, errors))
            }
        };
    }
    fields
}

/// Whether a text is neither too long nor, if it is required, empty.
fn fits(field: Field, text: &str, errors: &mut Errors) -> bool {
    if is_required(field) && text.is_empty() {
        errors.add(field.name(), ItemCode::Empty, "the field may not be empty");
        return false;
    }
    let (len, limit, unit) = match limit_of(field) {
        // No text has more characters than bytes: counting is for the few that might be too long.
        Limit::Chars(limit) if text.len() <= limit => return true,
        Limit::Chars(limit) => (text.chars().count(), limit, "characters"),
        Limit::Bytes(limit) => (text.len(), limit, "bytes"),
    };
    if len > limit {
        errors.add(field.name(), ItemCode::TooLong, format!("it has {len} {unit}, at most {limit} are taken"));
    }
    len <= limit
}

/// The address in canonical form; `""` is none.
fn address(given: &Given<'_>, errors: &mut Errors) -> Option<IpAddr> {
    let text = string(given, Name::Field(Field::IpAddress), errors).filter(|text| !text.is_empty())?;
    let ip = text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    if ip.is_none() {
        let message = format!("`{}` is no IPv4 or IPv6 address", excerpt(&text));
        errors.add("ip_address", ItemCode::InvalidIp, message);
    }
    ip
}
