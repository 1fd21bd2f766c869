//! What the access log says about one access: who, from where, what, of which log, with which filters, how many rows.
//!
//! An [`Event`] becomes an ordinary entry:
//!
//! | field | what |
//! |---|---|
//! | `action` | `sluice.search`, `sluice.export`, `sluice.tenant.update`, … |
//! | `resource_type`, `resource_id` | what it was done to: `log`/`audit`, `entry`/its id, `tenant`/its id, `key`/its id, … |
//! | `user_id` | the caller's subject |
//! | `ip_address` | the socket's peer; headers that name another one are not believed |
//! | `user_agent`, `request_id` | as the request says, cut to their bounds |
//! | `before_state`, `after_state` | of changes, without secrets |
//! | `metadata` | `roles`, `origin` (with `issuer`, `key_id` or `login`), `log`, `rows`, `status`, `duration_ms`, `filters`, and what else there is to say |
//! | `actor` | `sluice`: it is the server that wrote it, whoever caused it |

use crate::{
    auth::{Origin, Principal, Role},
    model::{
        entry::{Field, NewEntry, Severity},
        json::write_str,
        parse::{Sent, content_hash},
        time::rfc3339,
    },
};
use serde::Serialize;
use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::time::Instant;
use uuid::Uuid;

/// Bounds of the contract's fields, characters; longer texts are cut.
const MOST_SUBJECT: usize = 256;
const MOST_AGENT: usize = 1024;
const MOST_RESOURCE: usize = 512;
/// Filters that take more bytes than this as JSON are told as far as they fit. An entry has 256 KiB at most.
const MOST_FILTERS: usize = 128 << 10;

/// Who does something, and from where; made when a request begins.
#[derive(Debug, Clone)]
pub struct Who {
    subject: Arc<str>,
    roles: Vec<Role>,
    origin: Origin,
    address: Option<IpAddr>,
    user_agent: Option<String>,
    request_id: Arc<str>,
    since: Instant,
}

impl Who {
    /// The caller of a request that came over the socket of `peer`.
    pub fn new(principal: &Principal, peer: SocketAddr, user_agent: Option<&str>, request_id: Arc<str>) -> Self {
        let address = Some(peer.ip().to_canonical()).filter(|ip| *ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Self {
            subject: principal.subject.clone(),
            roles: principal.roles.clone(),
            origin: principal.origin.clone(),
            address,
            user_agent: user_agent.map(|text| cut(text, MOST_AGENT).to_owned()),
            request_id,
            since: Instant::now(),
        }
    }
}

/// Something that is to be told in the access log.
#[derive(Debug, Clone)]
pub struct Event {
    action: &'static str,
    resource_type: &'static str,
    resource_id: String,
    pub(super) is_read: bool,
    severity: Severity,
    message: Option<String>,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    /// Members of `metadata`, each with a comma in front.
    details: Vec<u8>,
}

impl Event {
    /// A plain read: left out where the tenant does not want reads recorded.
    pub fn read(action: &'static str, resource_type: &'static str, resource_id: impl Into<String>) -> Self {
        Self {
            is_read: true,
            ..Self::change(action, resource_type, resource_id)
        }
    }

    /// A change, or what else is recorded in any case.
    pub fn change(action: &'static str, resource_type: &'static str, resource_id: impl Into<String>) -> Self {
        Self {
            action,
            resource_type,
            resource_id: resource_id.into(),
            is_read: false,
            severity: Severity::Info,
            message: None,
            before: None,
            after: None,
            details: Vec::new(),
        }
    }

    /// More grave than `INFO`.
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// A sentence for people.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// What it was before: a value that serialises to a JSON object. Without secrets.
    pub fn before(mut self, state: &impl Serialize) -> Self {
        self.before = Some(serde_json::to_vec(state).expect("plain data always serialises"));
        self
    }

    /// What it is now, likewise.
    pub fn after(mut self, state: &impl Serialize) -> Self {
        self.after = Some(serde_json::to_vec(state).expect("plain data always serialises"));
        self
    }

    /// A member of `metadata` that is a text.
    pub fn text(mut self, name: &str, value: &str) -> Self {
        member(&mut self.details, name);
        write_str(&mut self.details, value);
        self
    }

    /// A member of `metadata` that is a number.
    pub fn number(mut self, name: &str, value: u64) -> Self {
        member(&mut self.details, name);
        write_number(&mut self.details, value);
        self
    }

    /// A member of `metadata` that is true or false.
    pub fn flag(mut self, name: &str, value: bool) -> Self {
        member(&mut self.details, name);
        self.details.extend_from_slice(if value { b"true" } else { b"false" });
        self
    }

    /// `metadata.filters`: the parameters of a query as they were given, by name; repeated ones as a list.
    pub fn filters<'a>(mut self, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut pairs: Vec<_> = pairs.collect();
        if pairs.is_empty() {
            return self;
        }
        pairs.sort_by_key(|(name, _)| *name); // stable: the values stay in their order
        let (mut all, mut out) = (true, Vec::new());
        for same in pairs.chunk_by(|a, b| a.0 == b.0) {
            let start = out.len();
            out.push(if start == 0 { b'{' } else { b',' });
            write_str(&mut out, same[0].0);
            out.push(b':');
            if let [(_, one)] = same {
                write_str(&mut out, one);
            } else {
                for (i, (_, value)) in same.iter().enumerate() {
                    out.push(if i == 0 { b'[' } else { b',' });
                    write_str(&mut out, value);
                }
                out.push(b']');
            }
            if out.len() > MOST_FILTERS {
                all = false;
                out.truncate(start);
            }
        }
        if out.is_empty() {
            out.push(b'{');
        }
        out.push(b'}');
        member(&mut self.details, "filters");
        self.details.append(&mut out);
        if all { self } else { self.flag("filters_cut", true) }
    }

    /// Hands the entry that this is to `take`, with `now` as its time.
    pub(super) fn encode<T>(&self, who: Option<&Who>, now: i64, take: impl FnOnce(&NewEntry<'_>) -> T) -> T {
        let metadata = self.metadata(who);
        let address = who.and_then(|who| who.address).map(octets);
        let mut fields = [None; Field::COUNT];
        fields[Field::Action as usize] = Some(self.action.as_bytes());
        fields[Field::ResourceType as usize] = Some(self.resource_type.as_bytes());
        let resource = cut(&self.resource_id, MOST_RESOURCE);
        fields[Field::ResourceId as usize] = Some(if resource.is_empty() { b"-" } else { resource.as_bytes() });
        fields[Field::Message as usize] = self.message.as_ref().map(String::as_bytes);
        fields[Field::BeforeState as usize] = self.before.as_deref();
        fields[Field::AfterState as usize] = self.after.as_deref();
        fields[Field::Metadata as usize] = Some(&metadata);
        fields[Field::UserId as usize] = Some(who.map_or(super::ACTOR, |who| cut(&who.subject, MOST_SUBJECT)).as_bytes());
        fields[Field::IpAddress as usize] = address.as_ref().map(|(bytes, len)| &bytes[..*len]);
        if let Some(who) = who {
            fields[Field::RequestId as usize] = Some(who.request_id.as_bytes()).filter(|id| !id.is_empty());
            fields[Field::UserAgent as usize] = who.user_agent.as_ref().map(String::as_bytes);
        }
        let sent = Sent {
            fields,
            severity: Some(self.severity),
            timestamp: Some(now),
        };
        take(&NewEntry {
            id: Uuid::now_v7(),
            client_id: false,
            hash: content_hash(&sent, &mut Vec::with_capacity(metadata.len() + 512)),
            timestamp: now,
            severity: self.severity,
            fields,
        })
    }

    fn metadata(&self, who: Option<&Who>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.details.len() + 160);
        if let Some(who) = who {
            member(&mut out, "roles");
            for (i, role) in who.roles.iter().enumerate() {
                out.push(if i == 0 { b'[' } else { b',' });
                write_str(&mut out, role.name());
            }
            out.push(b']');
            let (kind, more) = match &who.origin {
                Origin::Local => ("local", None),
                Origin::Issuer { name, .. } => ("issuer", Some(("issuer", name))),
                Origin::Key { key_id, .. } => ("key", Some(("key_id", key_id))),
                Origin::User { user_id, .. } => ("user", Some(("login", user_id))),
                Origin::Gateway => ("gateway", None),
            };
            member(&mut out, "origin");
            write_str(&mut out, kind);
            if let Some((name, value)) = more {
                member(&mut out, name);
                write_str(&mut out, value);
            }
            member(&mut out, "duration_ms");
            write_number(&mut out, u64::try_from(who.since.elapsed().as_millis()).unwrap_or(u64::MAX));
        }
        out.extend_from_slice(&self.details);
        match out.first_mut() {
            Some(comma) => *comma = b'{',
            None => out.push(b'{'),
        }
        out.push(b'}');
        out
    }

    /// What is told when `count` events could not be kept, the first at `from` and the last at `to`.
    pub(super) fn dropped(tenant: &str, count: u64, from: i64, to: i64) -> Self {
        Self::change("sluice.dropped", "access_log", tenant)
            .severity(Severity::Warning)
            .message("accesses that could not be written down: there was no room to keep them, or no room on the volume")
            .number("count", count)
            .text("from", &rfc3339(from))
            .text("to", &rfc3339(to))
    }
}

fn member(out: &mut Vec<u8>, name: &str) {
    out.push(b',');
    write_str(out, name);
    out.push(b':');
}

fn write_number(out: &mut Vec<u8>, value: u64) {
    write!(out, "{value}").expect("a vector takes every byte");
}

fn octets(ip: IpAddr) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(ip) => {
            bytes[..4].copy_from_slice(&ip.octets());
            (bytes, 4)
        }
        IpAddr::V6(ip) => (ip.octets(), 16),
    }
}

/// The first `most` characters.
fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    text.char_indices().nth(most).map_or(text, |(at, _)| &text[..at])
}
