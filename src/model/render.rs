//! An entry as the JSON object of the HTTP contract.

use super::{
    entry::{Field, Severity, StoredEntry},
    json::write_str,
    mask::MASKED,
    tenant::TenantId,
    time::write_rfc3339,
};
use std::io::Write;

/// Appends the entry's JSON object: every field of the contract is there, in the order of its table, `null` where there
/// is none; objects are as stored. `tenant` is the one whose log the entry is in; an
/// access log shows its owner.
pub fn write_entry(out: &mut Vec<u8>, tenant: &TenantId, entry: &StoredEntry) {
    let record = entry.entry();
    // Names, quotes and commas take about 350 bytes.
    out.reserve(record.as_bytes().len() + entry.actor.len() + 400);
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(record.id().hyphenated().encode_lower(&mut [0; 36]).as_bytes());
    out.extend_from_slice(b"\",\"tenant_id\":");
    write_str(out, tenant.owner_name());
    out.extend_from_slice(b",\"timestamp\":\"");
    write_rfc3339(record.timestamp(), out);
    out.extend_from_slice(b"\",\"received_at\":\"");
    write_rfc3339(entry.received_at, out);
    out.push(b'"');
    for field in Field::ALL {
        // The severity stands between the user agent and the message.
        if field == Field::Message {
            write_severity(out, record.severity());
        }
        out.extend_from_slice(b",\"");
        out.extend_from_slice(field.name().as_bytes());
        out.extend_from_slice(b"\":");
        match (field, record.text(field)) {
            (Field::IpAddress, _) => match record.ip() {
                Some(ip) => write!(out, "\"{ip}\"").expect("a vector takes every byte"),
                None if record.hides_ip() => write_str(out, MASKED),
                None => out.extend_from_slice(b"null"),
            },
            (_, None) => out.extend_from_slice(b"null"),
            (field, Some(json)) if field.is_object() => out.extend_from_slice(json.as_bytes()),
            (_, Some(text)) => write_str(out, text),
        }
    }
    out.extend_from_slice(b",\"actor\":");
    write_str(out, &entry.actor);
    match entry.sequence {
        Some(n) => write!(out, ",\"sequence\":{n}}}").expect("a vector takes every byte"),
        None => out.extend_from_slice(b",\"sequence\":null}"),
    }
}

fn write_severity(out: &mut Vec<u8>, severity: Severity) {
    out.extend_from_slice(b",\"severity\":\"");
    out.extend_from_slice(severity.as_str().as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::NewEntry;
    use uuid::Uuid;

    fn rendered(fields: [Option<&[u8]>; Field::COUNT], sequence: Option<u64>) -> String {
        let mut record = Vec::new();
        NewEntry {
            id: Uuid::from_u128(0xabcd),
            client_id: true,
            hash: 1,
            timestamp: 1_709_208_000_123,
            severity: Severity::Critical,
            fields,
        }
        .encode(&mut record);
        let entry = StoredEntry {
            record: record.into(),
            received_at: 1_709_208_000_999,
            actor: "svc \"x\"".into(),
            sequence,
        };
        let mut out = Vec::new();
        write_entry(&mut out, &TenantId::parse("acme").unwrap(), &entry);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_field_is_there_in_the_order_of_the_contract() {
        let mut fields = [None; Field::COUNT];
        fields[Field::Action as usize] = Some(&b"CREATE"[..]);
        fields[Field::ResourceType as usize] = Some(b"doc");
        fields[Field::ResourceId as usize] = Some(b"1");
        assert_eq!(
            rendered(fields, None),
            concat!(
                r#"{"id":"00000000-0000-0000-0000-00000000abcd","tenant_id":"acme","timestamp":"2024-02-29T12:00:00.123Z","#,
                r#""received_at":"2024-02-29T12:00:00.999Z","action":"CREATE","resource_type":"doc","resource_id":"1","user_id":null,"#,
                r#""session_id":null,"request_id":null,"email":null,"ip_address":null,"user_agent":null,"severity":"CRITICAL","message":null,"#,
                r#""before_state":null,"after_state":null,"metadata":null,"actor":"svc \"x\"","sequence":null}"#
            )
        );
    }

    #[test]
    fn objects_come_back_as_they_are_stored_and_texts_as_they_were_meant() {
        let mut fields = [None; Field::COUNT];
        fields[Field::Message as usize] = Some("a\"b\\c\n\u{1}\u{7f}é😀".as_bytes());
        fields[Field::SessionId as usize] = Some(b"");
        fields[Field::IpAddress as usize] = Some(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        fields[Field::AfterState as usize] = Some(b"{}");
        fields[Field::Metadata as usize] = Some(br#"{"b":1.50,"a":"\u00e9"}"#);
        let text = rendered(fields, Some(u64::MAX));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["message"], "a\"b\\c\n\u{1}\u{7f}é😀");
        assert_eq!((&value["session_id"], &value["ip_address"]), (&"".into(), &"2001:db8::1".into()));
        assert!(text.contains(r#""after_state":{},"metadata":{"b":1.50,"a":"\u00e9"},"#), "{text}");
        assert!(text.ends_with(r#""sequence":18446744073709551615}"#), "{text}");
    }
}
