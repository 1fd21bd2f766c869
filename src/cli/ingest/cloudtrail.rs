//! AWS CloudTrail records as entries. The whole record stays in `metadata`, so nothing is lost by the mapping.
//!
//! | entry | record |
//! |---|---|
//! | `id` | `eventID` |
//! | `timestamp` | `eventTime`, else `@timestamp`; a record with neither is rejected |
//! | `action`, `resource_type` | `eventName`, `eventSource` |
//! | `resource_id` | the first of `resources` with an `ARN`, else the first non-empty string of `requestParameters` (document order, ≤ 512 bytes), else `eventSource` |
//! | `user_id` | the identity's `arn`, `principalId`, `userName`, `invokedBy` or `type`, in this order |
//! | `ip_address` | `sourceIPAddress`, if it is an address |
//! | `severity` | ERROR where `errorCode` contains AccessDenied, Unauthorized or Forbidden, WARNING with any other `errorCode` |

use super::Rejection;
use crate::model::json::write_str;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{fmt, net::IpAddr};

const MAX_RESOURCE_ID: usize = 512;
const MAX_USER_ID: usize = 256;
const MAX_AGENT: usize = 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    #[serde(rename = "eventID")]
    event_id: Option<String>,
    event_time: Option<String>,
    #[serde(rename = "@timestamp")]
    at_timestamp: Option<String>,
    event_name: Option<String>,
    event_source: Option<String>,
    #[serde(rename = "sourceIPAddress")]
    source_ip_address: Option<String>,
    user_agent: Option<String>,
    error_code: Option<String>,
    error_message: Option<String>,
    aws_region: Option<String>,
    user_identity: Option<Identity>,
    resources: Option<Vec<Resource>>,
    #[serde(borrow)]
    request_parameters: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    arn: Option<String>,
    principal_id: Option<String>,
    user_name: Option<String>,
    invoked_by: Option<String>,
    r#type: Option<String>,
}

impl Identity {
    fn user_id(self) -> Option<String> {
        [self.arn, self.principal_id, self.user_name, self.invoked_by, self.r#type]
            .into_iter()
            .flatten()
            .find(|t| !t.is_empty() && t.chars().count() <= MAX_USER_ID)
    }
}

#[derive(Deserialize)]
struct Resource {
    #[serde(rename = "ARN")]
    arn: Option<String>,
}

/// The entry for one record, as JSON; `id` is used when the record has no `eventID`.
pub fn entry(record: &str, id: &dyn Fn() -> String) -> Result<Vec<u8>, Rejection> {
    let parsed: Record<'_> = serde_json::from_str(record).map_err(|e| Rejection::new("", "malformed_json", format!("this is no CloudTrail record: {e}")))?;
    let Some(timestamp) = parsed.event_time.or(parsed.at_timestamp) else {
        return Err(Rejection::new(
            "timestamp",
            "required",
            "the record has neither `eventTime` nor `@timestamp`".into(),
        ));
    };
    let from_resources = parsed
        .resources
        .into_iter()
        .flatten()
        .filter_map(|r| r.arn)
        .find(|arn| !arn.is_empty() && arn.len() <= MAX_RESOURCE_ID);
    let resource_id = from_resources
        .or_else(|| first_string(parsed.request_parameters?.get()))
        .or_else(|| parsed.event_source.clone());
    let user_id = parsed.user_identity.and_then(Identity::user_id);
    let severity = parsed.error_code.as_deref().map(|code| {
        if ["AccessDenied", "Unauthorized", "Forbidden"].iter().any(|w| code.contains(w)) {
            "ERROR"
        } else {
            "WARNING"
        }
    });
    let message = sentence(
        user_id.as_deref(),
        parsed.event_name.as_deref(),
        parsed.event_source.as_deref(),
        parsed.aws_region.as_deref(),
        parsed.error_code.as_deref(),
        parsed.error_message.as_deref(),
    );
    let ip_address = parsed.source_ip_address.filter(|text| text.parse::<IpAddr>().is_ok());
    let user_agent = parsed.user_agent.map(|text| text.chars().take(MAX_AGENT).collect::<String>());

    let mut out = Vec::with_capacity(record.len() + 700);
    out.push(b'{');
    let fields = [
        ("id", Some(parsed.event_id.unwrap_or_else(id))),
        ("timestamp", Some(timestamp)),
        ("action", parsed.event_name),
        ("resource_type", parsed.event_source),
        ("resource_id", resource_id),
        ("user_id", user_id),
        ("ip_address", ip_address),
        ("user_agent", user_agent),
        ("severity", severity.map(String::from)),
        ("message", Some(message)),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            write_str(&mut out, name);
            out.push(b':');
            write_str(&mut out, &value);
            out.push(b',');
        }
    }
    out.extend_from_slice(b"\"metadata\":");
    // Inside a line there must be no line break; between tokens one means nothing.
    out.extend(record.bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }));
    out.push(b'}');
    Ok(out)
}

fn sentence(who: Option<&str>, what: Option<&str>, service: Option<&str>, region: Option<&str>, code: Option<&str>, why: Option<&str>) -> String {
    let mut text = format!("{} called {}", who.unwrap_or("somebody"), what.unwrap_or("something"));
    for (word, value) in [(" on ", service), (" in ", region), (", refused: ", code), (": ", why)] {
        if let Some(value) = value {
            text.push_str(word);
            text.extend(value.chars().take(4000));
        }
    }
    text
}

/// The first non-empty string of at most 512 bytes in document order.
fn first_string(json: &str) -> Option<String> {
    let mut found = None;
    let mut deserializer = serde_json::Deserializer::from_str(json);
    // What cannot be walked (nested too deep) has no string for us; the record itself was checked before.
    FirstString(&mut found).deserialize(&mut deserializer).ok()?;
    found
}

struct FirstString<'s>(&'s mut Option<String>);

impl<'de> DeserializeSeed<'de> for FirstString<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FirstString<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if self.0.is_none() && !text.is_empty() && text.len() <= MAX_RESOURCE_ID {
            *self.0 = Some(text.to_owned());
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(FirstString(self.0))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(FirstString(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn mapped(record: &Value) -> Value {
        serde_json::from_slice(&entry(&record.to_string(), &|| "made".into()).unwrap_or_else(|_| panic!("{record} was rejected"))).expect("JSON")
    }

    #[test]
    fn every_rule_of_the_mapping() {
        let base = json!({"eventID": "e", "eventTime": "2023-07-10T11:42:36Z", "eventName": "N", "eventSource": "s.amazonaws.com"});
        let with = |more: Value| {
            let mut record = base.clone();
            record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            mapped(&record)
        };
        let plain = with(json!({}));
        assert_eq!(
            (&plain["id"], &plain["timestamp"], &plain["action"], &plain["resource_type"]),
            (&json!("e"), &json!("2023-07-10T11:42:36Z"), &json!("N"), &json!("s.amazonaws.com"))
        );
        assert_eq!(
            (&plain["resource_id"], &plain["severity"], &plain["user_id"]),
            (&json!("s.amazonaws.com"), &Value::Null, &Value::Null)
        );
        assert_eq!(plain["metadata"], base);
        assert_eq!(with(json!({"resources": [{"accountId": "1"}, {"ARN": "arn:1"}]}))["resource_id"], "arn:1");
        assert_eq!(
            with(json!({"requestParameters": {"a": 1, "b": "", "c": [{"d": "first"}], "e": "second"}}))["resource_id"],
            "first"
        );
        assert_eq!(
            with(json!({"requestParameters": {"long": "x".repeat(513), "ok": "short"}}))["resource_id"],
            "short"
        );
        assert_eq!(with(json!({"userIdentity": {"type": "Root", "userName": "u"}}))["user_id"], "u");
        assert_eq!(with(json!({"sourceIPAddress": "AWS Internal"}))["ip_address"], Value::Null);
        assert_eq!(with(json!({"sourceIPAddress": "1.2.3.4"}))["ip_address"], "1.2.3.4");
        assert_eq!(with(json!({"errorCode": "Client.UnauthorizedOperation"}))["severity"], "ERROR");
        assert_eq!(with(json!({"errorCode": "NoSuchBucket"}))["severity"], "WARNING");
        assert_eq!(mapped(&json!({"@timestamp": "2020-01-01T00:00:00Z"}))["id"], "made");
        assert!(entry(r#"{"eventID":"e"}"#, &String::new).is_err(), "no time");
    }

    #[test]
    fn the_first_string_is_first_in_the_document_and_not_by_name() {
        assert_eq!(first_string(r#"{"z":"one","a":"two"}"#).as_deref(), Some("one"));
        assert_eq!(first_string("null"), None);
    }
}
