//! Writing many rows in one request, of which every single answer is read.
//!
//! Rows are `create`d under `_id = tenant:sequence`, so that a 409 can only mean this very row: it is there. What becomes of the
//! others is decided by the table in [`crate::sinks::retry`]: an item that is asked for again is sent again alone, a request that is
//! too large or that does not parse is halved down to the row that spoils it, and a row that the engine will never take is
//! *refused*: given back to be written down as an index dead letter. Anything else is an error, after which everything may be
//! written again.
//!
//! Before a row is called refused the mapping of its index is looked at: where somebody has changed that, all rows would be.

use super::{
    client::{Body, Client, Fault},
    document::{self, Around},
    schema::Schema,
};
use crate::{
    model::{entry::EntryRef, tenant::TenantId},
    sinks::retry::{Backoff, BackoffSettings, Remedy, Symptom},
};
use bytes::Bytes;
use opensearch::http::Method;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use std::{borrow::Cow, fmt, io::Write as _, ops::Range, sync::Arc, time::Duration};
use tokio::time::sleep;

/// How often a request or an item is sent again here, before it is left to whoever follows the seals.
const ATTEMPTS: u32 = 4;
/// The pauses between: whoever follows the seals is more patient.
const PAUSES: BackoffSettings = BackoffSettings {
    first: Duration::from_millis(50),
    busy: Duration::from_millis(250),
    longest: Duration::from_secs(2),
};
/// What of the answers is read: of thousands of items nothing else is worth the way.
const ANSWERED: &str = "items.*.status,items.*.error.type";

/// What is to be written.
#[derive(Clone)]
struct Item {
    /// Its lines in the chunk.
    lines: Range<usize>,
    /// The row; `None` for a note about the store itself, which replaces what was there.
    row: Option<Row>,
}

/// A row by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Whose log.
    pub tenant: TenantId,
    /// Its number.
    pub sequence: u64,
    /// Where it goes.
    pub index: Arc<str>,
}

/// A row that the engine will never take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub row: Row,
    /// The engine's word for why.
    pub kind: String,
}

/// How a row is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// If it is not there.
    Create,
    /// Whatever is there: a rebuild.
    Replace,
}

/// Lines of one request.
pub struct Chunk {
    how: How,
    lines: Vec<u8>,
    items: Vec<Item>,
}

impl Chunk {
    /// An empty one.
    pub fn new(how: How) -> Self {
        Self::with_room(how, 0)
    }

    /// An empty one that will hold about `bytes`.
    pub fn with_room(how: How, bytes: usize) -> Self {
        Self {
            how,
            lines: Vec::with_capacity(bytes),
            items: Vec::new(),
        }
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds a row.
    pub fn row(&mut self, index: &Arc<str>, around: Around<'_>, entry: &EntryRef<'_>) {
        let (start, tenant) = (self.lines.len(), around.tenant);
        let how = match self.how {
            How::Create => "create",
            How::Replace => "index",
        };
        // Names of indices, tenants and numbers need no escapes; a vector takes everything.
        let _ = writeln!(
            self.lines,
            "{{\"{how}\":{{\"_index\":\"{index}\",\"_id\":\"{tenant}:{}\",\"routing\":\"{tenant}\"}}}}",
            around.sequence
        );
        document::write(&mut self.lines, around, entry);
        self.lines.push(b'\n');
        self.items.push(Item {
            lines: start..self.lines.len(),
            row: Some(Row {
                tenant: tenant.clone(),
                sequence: around.sequence,
                index: index.clone(),
            }),
        });
    }

    /// Adds a note about the store itself.
    pub fn note(&mut self, index: &str, id: &str, source: &serde_json::Value) {
        let start = self.lines.len();
        let _ = writeln!(self.lines, "{{\"index\":{{\"_index\":\"{index}\",\"_id\":\"{id}\"}}}}\n{source}");
        self.items.push(Item {
            lines: start..self.lines.len(),
            row: None,
        });
    }

    /// Writes all of it, and gives back what was refused.
    pub async fn write(self, client: &Client, schema: &Schema) -> Result<Vec<Refusal>, Fault> {
        let mut refused = Vec::new();
        let mut backoff = Backoff::new(PAUSES);
        let lines = Bytes::from(self.lines);
        let mut groups = vec![self.items];
        while let Some(group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            let body = body(&lines, &group);
            let answer = client.send(Method::Post, "/_bulk", &[("filter_path", ANSWERED)], Body::Lines(body), None).await;
            let again = match answer.and_then(|answer| outcomes(&answer, group.len())) {
                Ok(outcomes) => sort(group, outcomes, schema, &mut refused)?,
                Err(fault) if fault.remedy == Remedy::Isolate && group.len() > 1 => {
                    let mut first = group;
                    let second = first.split_off(first.len() / 2);
                    groups.push(second);
                    groups.push(first);
                    continue;
                }
                Err(fault) if fault.remedy == Remedy::Isolate => {
                    refuse(group, &fault, &mut refused)?;
                    continue;
                }
                Err(fault) => Again {
                    items: group,
                    fault: Some(fault),
                },
            };
            let Some(fault) = again.fault else {
                backoff.reset();
                continue;
            };
            if backoff.attempts() >= ATTEMPTS || fault.remedy == Remedy::Hold {
                return Err(fault);
            }
            sleep(backoff.pause(fault.remedy)).await;
            groups.push(again.items);
        }
        let mut looked_at: Option<&Arc<str>> = None;
        for Refusal { row, .. } in &refused {
            if looked_at.is_none_or(|index| *index != row.index) {
                schema.check_mapping(client, &row.index).await?;
                looked_at = Some(&row.index);
            }
        }
        Ok(refused)
    }
}

/// What is to be sent again, and why.
struct Again {
    items: Vec<Item>,
    fault: Option<Fault>,
}

fn body(lines: &Bytes, group: &[Item]) -> Bytes {
    let (first, last) = (group.first().map_or(0, |i| i.lines.start), group.last().map_or(0, |i| i.lines.end));
    let bytes: usize = group.iter().map(|item| item.lines.len()).sum();
    if last.saturating_sub(first) == bytes {
        return lines.slice(first..last); // they follow each other: nothing is copied
    }
    let mut body = Vec::with_capacity(bytes);
    group.iter().for_each(|item| body.extend_from_slice(&lines[item.lines.clone()]));
    body.into()
}

/// Sorts what was sent by the answers.
fn sort(group: Vec<Item>, outcomes: Vec<Outcome>, schema: &Schema, refused: &mut Vec<Refusal>) -> Result<Again, Fault> {
    let mut again = Again {
        items: Vec::new(),
        fault: None,
    };
    for (item, Outcome { status, kind }) in group.into_iter().zip(outcomes) {
        if matches!(status, 200 | 201) || (status == 409 && item.row.is_some()) {
            continue;
        }
        let symptom = Symptom::Item { status, kind: &kind };
        let fault = Fault::new(symptom, format!("an item of a bulk was answered {status} ({kind})"));
        match fault.remedy {
            // The index went away under us: it is laid out again before the next attempt.
            _ if kind == "index_not_found_exception" => {
                schema.forget();
                return Err(Fault {
                    remedy: Remedy::Again,
                    ..fault
                });
            }
            Remedy::Hold => return Err(fault),
            Remedy::Refuse | Remedy::Isolate => refuse(vec![item], &fault, refused)?,
            Remedy::Again | Remedy::Slower => {
                again.items.push(item);
                again.fault = Some(fault);
            }
        }
    }
    Ok(again)
}

/// Notes are ours alone: that one is refused means that something is wrong with the store.
fn refuse(items: Vec<Item>, fault: &Fault, refused: &mut Vec<Refusal>) -> Result<(), Fault> {
    for item in items {
        let row = item.row.ok_or_else(|| Fault::hold(fault.what.clone()))?;
        let kind = if fault.kind.is_empty() {
            fault.status.to_string()
        } else {
            fault.kind.clone()
        };
        refused.push(Refusal { row, kind });
    }
    Ok(())
}

/// The answer to one item.
struct Outcome {
    status: u16,
    kind: String,
}

#[derive(Deserialize)]
struct Answer {
    items: Vec<Outcome>,
}

#[derive(Deserialize)]
struct ItemAnswer<'a> {
    status: u16,
    #[serde(borrow, default)]
    error: Option<ItemError<'a>>,
}

#[derive(Deserialize)]
struct ItemError<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Cow<'a, str>,
}

/// An item is an object with one member, named by what was asked.
impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Outcome;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item of a bulk answer")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outcome, A::Error> {
                let mut found = None;
                while map.next_key::<IgnoredAny>()?.is_some() {
                    let answer: ItemAnswer<'de> = map.next_value()?;
                    let kind = answer.error.map(|error| error.kind.into_owned()).unwrap_or_default();
                    found = Some(Outcome { status: answer.status, kind });
                }
                found.ok_or_else(|| serde::de::Error::custom("an empty item"))
            }
        }
        from.deserialize_map(One)
    }
}

/// One for each item, or it is not the answer to what was asked.
fn outcomes(answer: &[u8], expected: usize) -> Result<Vec<Outcome>, Fault> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| Fault::unreadable("a bulk"))?;
    match answer.items.len() == expected {
        true => Ok(answer.items),
        false => Err(Fault::unreadable("a bulk")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_of_an_answer_is_read() {
        let answer = br#"{"took":1,"errors":true,"items":[{"create":{"_id":"a","status":201}},
            {"index":{"status":429,"error":{"type":"rejected_execution_exception","reason":"x"}}},{"create":{"status":409,"error":{"type":"version_conflict_engine_exception"}}}]}"#;
        let read = outcomes(answer, 3).expect("three");
        let pairs: Vec<_> = read.iter().map(|o| (o.status, o.kind.as_str())).collect();
        assert_eq!(
            pairs,
            [(201, ""), (429, "rejected_execution_exception"), (409, "version_conflict_engine_exception")]
        );
        for (answer, expected) in [
            (&answer[..], 2),
            (b"{}", 1),
            (b"", 1),
            (br#"{"items":[{}]}"#, 1),
            (br#"{"items":[{"create":{}}]}"#, 1),
        ] {
            assert_eq!(outcomes(answer, expected).err().map(|f| f.remedy), Some(Remedy::Again));
        }
    }
}
