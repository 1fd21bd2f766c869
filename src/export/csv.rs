//! One line of CSV (RFC 4180): the fields in the order of the JSON object. A field that is absent is empty without quotes;
//! an empty text is `""`, so that readers that care can tell them apart.

use crate::model::{
    entry::{Field, StoredEntry},
    mask::MASKED,
    tenant::TenantId,
    time::write_rfc3339,
};
use std::io::Write;

/// The line of names.
pub(super) fn header(out: &mut Vec<u8>) {
    out.extend_from_slice(b"id,tenant_id,timestamp,received_at");
    for field in Field::ALL {
        // The severity stands between the user agent and the message, as in JSON.
        if field == Field::Message {
            out.extend_from_slice(b",severity");
        }
        out.push(b',');
        out.extend_from_slice(field.name().as_bytes());
    }
    out.extend_from_slice(b",actor,sequence\r\n");
}

/// One entry. With `safe` a text that a spreadsheet would take for a formula gets a leading `'`.
pub(super) fn line(out: &mut Vec<u8>, tenant: &TenantId, entry: &StoredEntry, safe: bool) {
    let record = entry.entry();
    out.reserve(record.as_bytes().len() + entry.actor.len() + 256);
    out.extend_from_slice(record.id().hyphenated().encode_lower(&mut [0; 36]).as_bytes());
    out.push(b',');
    // A tenant's name has letters, digits, `-` and `_`, and begins with none of the latter.
    out.extend_from_slice(tenant.owner_name().as_bytes());
    out.push(b',');
    write_rfc3339(record.timestamp(), out);
    out.push(b',');
    write_rfc3339(entry.received_at, out);
    let texts = record.texts();
    for field in Field::ALL {
        if field == Field::Message {
            out.push(b',');
            out.extend_from_slice(record.severity().as_str().as_bytes());
        }
        out.push(b',');
        match (texts[field as usize], record.ip()) {
            (Some(text), _) => write_text(out, text, safe),
            (None, Some(ip)) if field == Field::IpAddress => write!(out, "{ip}").expect("a vector takes every byte"),
            (None, None) if field == Field::IpAddress && record.hides_ip() => write_text(out, MASKED, safe),
            (None, _) => (),
        }
    }
    out.push(b',');
    write_text(out, &entry.actor, safe);
    out.push(b',');
    if let Some(n) = entry.sequence {
        write!(out, "{n}").expect("a vector takes every byte");
    }
    out.extend_from_slice(b"\r\n");
}

fn write_text(out: &mut Vec<u8>, text: &str, safe: bool) {
    let bytes = text.as_bytes();
    let formula = safe && matches!(bytes.first(), Some(b'=' | b'+' | b'-' | b'@' | b'\t' | b'\r'));
    let plain = !bytes.is_empty() && memchr::memchr3(b',', b'"', b'\n', bytes).is_none() && memchr::memchr(b'\r', bytes).is_none();
    if plain {
        if formula {
            out.push(b'\'');
        }
        out.extend_from_slice(bytes);
        return;
    }
    out.push(b'"');
    if formula {
        out.push(b'\'');
    }
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(b'"', rest) {
        out.extend_from_slice(&rest[..=at]);
        out.push(b'"');
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
