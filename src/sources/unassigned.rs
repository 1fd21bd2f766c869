//! The shelf of the installation: what foreign queues brought and what belongs to no tenant that could be told. Only who may read the
//! objects sees it, which is whoever runs the installation: no tenant may see what is perhaps another's.
//!
//! # Object `deadletters/_sources/<t>-<id>.json`, format 1
//!
//! t: when the queue took the message, milliseconds, 15 digits; id: the message's id, 32 hexadecimal digits. JSON: `{"format": 1, "queue", "message", "tenant",
//! "sent_at", "actor", "parts": [{"index", "detail", "original"}]}`; `original` is the text as it came (what is not UTF-8 replaced),
//! `tenant` what the message's attribute says. Written once; nothing deletes it: a lifecycle rule of the bucket may.

use super::decode::{Message, Rules};
use crate::{
    model::time::rfc3339,
    objects::{Key, ObjectError, Objects, Precondition},
};
use serde::Serialize;
use std::sync::Arc;
use uuid::Uuid;

const FOLDER: &str = "deadletters/_sources";
const FORMAT: u32 = 1;

/// One part of a message.
#[derive(Debug, Serialize)]
pub(super) struct UnassignedPart {
    pub(super) index: usize,
    pub(super) detail: String,
    pub(super) original: String,
}

#[derive(Serialize)]
struct Stored<'a> {
    format: u32,
    queue: &'a str,
    message: &'a str,
    tenant: Option<&'a str>,
    sent_at: String,
    actor: &'a str,
    parts: Vec<UnassignedPart>,
}

/// See the module.
pub(super) struct Unassigned(pub(super) Arc<dyn Objects>);

impl Unassigned {
    /// Writes the parts of a message; durable when it returns. Written again, nothing happens.
    pub(super) async fn write(&self, rules: &Rules, message: &Message, id: Uuid, parts: Vec<UnassignedPart>) -> Result<(), ObjectError> {
        let stored = Stored {
            format: FORMAT,
            queue: &rules.queue,
            message: &message.key,
            tenant: message.tenant.as_deref(),
            sent_at: rfc3339(message.sent_at),
            actor: &rules.actor,
            parts,
        };
        let name = format!("{FOLDER}/{:015}-{}.json", message.sent_at.max(0), id.simple());
        let bytes = serde_json::to_vec(&stored).expect("plain data always encodes");
        match self.0.put(&Key::parse(&name)?, bytes.into(), Precondition::Absent).await {
            Ok(_) | Err(ObjectError::Conflict) => {
                tracing::warn!(object = %name, "a foreign message names no tenant that it may speak for; it lies here");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
