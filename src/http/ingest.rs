//! Writing: `POST /logs` and `POST /logs/bulk`.
//!
//! A request becomes one pack, whole, and is answered when the pack is durable. Until [`Producer::accept`] is called nothing
//! has been kept, so a client that goes away earlier leaves no trace; after it, the pack is taken whole or not at all.
//!
//! The tenant's rates are asked before the body is read; its bytes are charged before it is parsed, its entries after. The quota
//! is asked before the body too, and decides when the number of entries is known.
//!
//! [`Producer::accept`]: crate::queue::Producer::accept

use super::{
    access,
    body::{self, Encoding, Media},
    dispatch::{Call, json},
    error::{Answer, Code, FieldError, Problem},
    layers::internal,
    memory::Held,
    query::Query,
    replay,
    routes::{BASE, Operation},
    settings::HttpSettings,
    state::App,
};
use crate::{
    auth::Principal,
    catalog::{RateLimit, Tenant},
    limits::{quota::Reservation, rates::Admission},
    model::{
        entry::StoredEntry,
        pack::{Pack, PackHeader},
        parse::{BodyFormat, ItemError, ParseContext, parse_body},
        render::write_entry,
        tenant::{TenantId, TenantScope},
        time::now_ms,
    },
    queue::{AcceptError, Decided},
    sinks::dead_letter::Found,
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;
use uuid::Uuid;

/// An `Idempotency-Key` is at most so long, bytes.
const KEY_BYTES: usize = 256;

/// What a body came to.
pub struct Taken {
    /// The accepted entries; `None` when there are none.
    pub pack: Option<Pack>,
    /// Room for it in the quota: keep it until the pack is durable.
    pub room: Reservation,
    /// The ids in input order.
    pub ids: Vec<Option<Uuid>>,
    errors: Vec<ItemError>,
    duplicates: usize,
}

/// Everything that decoding and parsing need, so that they can run on another thread. The tenant's settings are those of the
/// moment when the request came; the whole body is taken by them.
pub struct Job {
    single: bool,
    media: Media,
    encoding: Encoding,
    tenant: TenantId,
    subject: Arc<str>,
    request_id: Arc<str>,
    log_levels: [bool; 4],
    keep_unknown_fields: bool,
    idempotency_key: Option<String>,
    rate_limit: Option<RateLimit>,
    /// A dead letter that is replayed: the body corrects its entry, or is empty.
    replay: Option<Arc<Found>>,
    settings: HttpSettings,
}

/// Takes one entry or many.
pub async fn write(call: Call) -> Answer {
    let single = call.endpoint.operation == Operation::PostLog;
    let (principal, action) = call.caller()?;
    let (scope, tenant) = access::own_tenant(&call.app, principal, action)?;
    let (wait, with_ids) = (wait_stored(&call.query)?, with_ids(&call.query)?);
    let job = Job {
        idempotency_key: idempotency_key(&call.parts.headers)?,
        ..Job::new(&call, principal, &tenant, single)?
    };
    let app = call.app;
    let taken = take(&app, &scope, job, &call.parts.headers, call.body).await?;
    if single {
        one(&app, &scope, taken, wait).await
    } else {
        many(&app, taken, wait, with_ids).await
    }
}

/// Receives, decodes and parses a body.
pub async fn take(app: &App, scope: &TenantScope, job: Job, headers: &HeaderMap, body: Body) -> Result<Taken, Problem> {
    let room_for = |entries| app.limits.reserve(scope.tenant(), entries, || app.services.producer.counters(scope));
    app.services.producer.room(scope.tenant())?;
    drop(room_for(1)?);
    let announced = body::announced(headers).unwrap_or_default().min(job.settings.max_body_bytes);
    let mut admission = app.limits.admit(scope.tenant(), job.rate_limit.as_ref(), announced as u64)?;
    let mut held = app.memory.hold(scope.tenant().clone());
    let bytes = body::receive(headers, body, &app.services.settings, &mut held).await?;
    // If it cannot be decompressed, this is what it has cost.
    admission.bytes(bytes.len() as u64);
    let mut taken = run(app, job, admission, bytes, held).await?;
    if let Some(pack) = &taken.pack {
        taken.room = room_for(pack.len() as u64)?;
    }
    app.count_rejected(scope.tenant(), taken.ids.iter().filter(|id| id.is_none()).count());
    Ok(taken)
}

/// Whether the answer waits until every store has the entries.
pub fn wait_stored(query: &Query) -> Result<bool, Problem> {
    match query.get("wait") {
        None => Ok(false),
        Some("stored") => Ok(true),
        Some(_) => Err(Problem::parameter("wait", "invalid_value", "`wait` is `stored` here")),
    }
}

fn with_ids(query: &Query) -> Result<bool, Problem> {
    match query.get("ids") {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(Problem::parameter("ids", "invalid_value", "`ids` is true or false")),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let refused = || {
        let message = format!("`Idempotency-Key` is given once, as 1 to {KEY_BYTES} bytes of visible ASCII");
        Problem::parameter("Idempotency-Key", "invalid_value", message)
    };
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().map_err(|_| refused())?;
    if values.next().is_some() || key.is_empty() || key.len() > KEY_BYTES {
        return Err(refused());
    }
    Ok(Some(key.to_owned()))
}

/// Decodes, parses and packs: small bodies here, large ones and all that are compressed (a small one may become large) on the
/// blocking pool, as many at once as there are cores.
async fn run(app: &App, job: Job, admission: Admission, bytes: Bytes, held: Held) -> Result<Taken, Problem> {
    if job.encoding == Encoding::Identity && bytes.len() <= job.settings.inline_bytes {
        return job.run(admission, bytes, held);
    }
    let slot = app.parsing.clone().acquire_owned().await.map_err(|_closed| internal())?;
    let work = tokio::task::spawn_blocking(move || {
        let _slot = slot;
        job.run(admission, bytes, held)
    });
    work.await.unwrap_or_else(|error| {
        tracing::error!(%error, "parsing a body failed");
        Err(internal())
    })
}

impl Job {
    /// The work on the body of this call, for this caller's own tenant.
    pub fn new(call: &Call, principal: &Principal, tenant: &Tenant, single: bool) -> Result<Self, Problem> {
        let (media, encoding) = body::describe(&call.parts.headers)?;
        if single && media == Media::Ndjson {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "one entry is sent as application/json; NDJSON goes to /logs/bulk",
            ));
        }
        Ok(Self {
            single,
            media,
            encoding,
            tenant: tenant.tenant_id.clone(),
            subject: principal.subject.clone(),
            request_id: call.request_id.clone(),
            log_levels: tenant.settings.log_levels.0,
            keep_unknown_fields: tenant.settings.keep_unknown_fields,
            idempotency_key: None,
            rate_limit: tenant.settings.rate_limit,
            replay: None,
            settings: call.app.services.settings.clone(),
        })
    }

    /// The same for a dead letter that is replayed.
    pub fn replaying(self, letter: Arc<Found>) -> Self {
        Self { replay: Some(letter), ..self }
    }

    fn run(self, mut admission: Admission, bytes: Bytes, mut held: Held) -> Result<Taken, Problem> {
        let bytes = body::decode(bytes, self.encoding, &self.settings, &mut held)?;
        admission.bytes(bytes.len() as u64);
        let now = now_ms();
        let context = ParseContext {
            tenant: &self.tenant,
            subject: &self.subject,
            now_ms: now,
            log_levels: self.log_levels,
            keep_unknown_fields: self.keep_unknown_fields,
            idempotency_key: self.idempotency_key.as_deref(),
            ids: &[],
            max_entries: self.settings.max_entries,
            max_entry_bytes: self.settings.max_entry_bytes,
            resent: None,
        };
        // The records are about as large as their text.
        let parsed = match &self.replay {
            Some(found) if bytes.trim_ascii().is_empty() => {
                held.grow(2 * found.letter.entry.get().len())?;
                replay::original(found, &context)?
            }
            replayed => {
                let format = match body::settle_form(self.media, &bytes)? {
                    Media::Ndjson => BodyFormat::Ndjson,
                    Media::Json | Media::Form if self.single => BodyFormat::Single,
                    Media::Json | Media::Form => BodyFormat::Bulk,
                };
                held.grow(bytes.len())?;
                match replayed {
                    Some(found) => replay::corrected(found, &bytes, &context)?,
                    None => parse_body(&bytes, format, &context)?,
                }
            }
        };
        drop(bytes);
        admission.entries(parsed.ids.len() as u64);
        let header = PackHeader {
            pack_id: Uuid::now_v7(),
            tenant: self.tenant,
            actor: self.subject,
            request_id: self.request_id,
            received_at: now,
            part: (0, 1),
        };
        Ok(Taken {
            pack: parsed.builder.finish(header),
            room: Reservation::none(),
            ids: parsed.ids,
            errors: parsed.errors,
            duplicates: parsed.duplicates,
        })
    }
}

/// Makes the pack durable. `Ok(None)`: durable, but with `wait` not yet stored when the time ran out.
pub async fn accept(app: &App, pack: Pack, ids: &[Option<Uuid>], wait: bool) -> Result<Option<Decided>, Problem> {
    let wait = wait.then_some(app.services.settings.wait_stored);
    match app.services.producer.accept(pack, wait).await {
        Ok(accepted) => Ok(accepted.decided),
        Err(error @ AcceptError::Unknown) => Err(Problem::from(error).with("ids", ids_value(ids))),
        Err(error @ (AcceptError::TenantFull { .. } | AcceptError::Unavailable { .. })) => Err(error.into()),
    }
}

fn ids_value(ids: &[Option<Uuid>]) -> Value {
    ids.iter().map(|id| id.map_or(Value::Null, |id| id.to_string().into())).collect()
}

async fn one(app: &App, scope: &TenantScope, taken: Taken, wait: bool) -> Answer {
    let Taken { pack, ids, errors, .. } = taken;
    let Some(pack) = pack else { return Err(refused(errors)) };
    let entry = first(&pack);
    let decided = accept(app, pack, &ids, wait).await?;
    Ok(created(app, scope, entry, wait, decided).await)
}

impl Taken {
    /// The one entry of a body that holds one, with its room in the quota, or why it is not taken.
    pub fn single(self) -> Result<(Pack, Reservation, StoredEntry), Problem> {
        let Some(pack) = self.pack else { return Err(refused(self.errors)) };
        let entry = first(&pack);
        Ok((pack, self.room, entry))
    }
}

fn first(pack: &Pack) -> StoredEntry {
    StoredEntry {
        record: pack.record(0),
        received_at: pack.header().received_at,
        actor: pack.header().actor.clone(),
        sequence: None,
    }
}

fn refused(errors: Vec<ItemError>) -> Problem {
    let errors: Vec<_> = errors.into_iter().map(|e| FieldError::of_item(e, false)).collect();
    let detail = match errors.as_slice() {
        [one] => one.message.clone(),
        several => format!("the entry has {} mistakes; nothing was kept", several.len()),
    };
    Problem::new(Code::InvalidEntry, detail).with_errors(errors)
}

/// The answer to one entry that is durable.
pub async fn created(app: &App, scope: &TenantScope, mut entry: StoredEntry, wait: bool, decided: Option<Decided>) -> Response {
    let id = entry.entry().id();
    let mut out = Vec::with_capacity(entry.record.len() + 512);
    let status = match (wait, decided) {
        (true, None) => {
            tally(&mut out, 1, 0, 0);
            write_ids(&mut out, &[Some(id)]);
            out.extend_from_slice(b",\"errors\":[],\"decided\":null}");
            StatusCode::ACCEPTED
        }
        (true, Some(decided)) => {
            // Its number is known now, unless its id belongs to another entry.
            if decided.dead_lettered == 0
                && let Ok(Some(stored)) = app.services.authority.get(scope, id).await
            {
                entry = stored;
            }
            write_entry(&mut out, scope.tenant(), &entry);
            out.pop();
            write_decided(&mut out, decided);
            out.push(b'}');
            StatusCode::CREATED
        }
        (false, _) => {
            write_entry(&mut out, scope.tenant(), &entry);
            StatusCode::CREATED
        }
    };
    let mut response = answer(status, out);
    let location = HeaderValue::from_str(&format!("{BASE}/logs/{id}")).expect("a UUID is visible ASCII");
    response.headers_mut().insert(header::LOCATION, location);
    response
}

async fn many(app: &App, taken: Taken, wait: bool, with_ids: bool) -> Answer {
    let Taken {
        pack,
        ids,
        errors,
        duplicates,
        room: _room,
    } = taken;
    let accepted = ids.iter().flatten().count();
    let rejected = ids.len() - accepted;
    let Some(pack) = pack else {
        let errors = errors.into_iter().map(|e| FieldError::of_item(e, true)).collect();
        let problem = Problem::new(Code::AllRejected, format!("none of the {rejected} entries was accepted; `errors` says why"))
            .with_errors(errors)
            .with("accepted", 0)
            .with("rejected", rejected)
            .with("duplicates", 0);
        return Err(if with_ids { problem.with("ids", ids_value(&ids)) } else { problem });
    };
    let decided = accept(app, pack, &ids, wait).await?;
    let undecided = wait && decided.is_none();
    let mut out = Vec::with_capacity(128 + 40 * ids.len());
    tally(&mut out, accepted, rejected, duplicates);
    if with_ids || undecided {
        write_ids(&mut out, &ids);
    }
    out.extend_from_slice(b",\"errors\":");
    serde_json::to_writer(&mut out, &errors).expect("plain data always serialises");
    match decided {
        Some(decided) if wait => write_decided(&mut out, decided),
        _ if wait => out.extend_from_slice(b",\"decided\":null"),
        _ => {}
    }
    out.push(b'}');
    let status = match (undecided, rejected) {
        (true, _) => StatusCode::ACCEPTED,
        (false, 0) => StatusCode::CREATED,
        (false, _) => StatusCode::MULTI_STATUS,
    };
    Ok(answer(status, out))
}

fn answer(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = json(body);
    *response.status_mut() = status;
    response
}

fn tally(out: &mut Vec<u8>, accepted: usize, rejected: usize, duplicates: usize) {
    out.extend_from_slice(format!("{{\"accepted\":{accepted},\"rejected\":{rejected},\"duplicates\":{duplicates}").as_bytes());
}

fn write_ids(out: &mut Vec<u8>, ids: &[Option<Uuid>]) {
    out.extend_from_slice(b",\"ids\":[");
    for (i, id) in ids.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        match id {
            Some(id) => {
                out.push(b'"');
                out.extend_from_slice(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
                out.push(b'"');
            }
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b']');
}

fn write_decided(out: &mut Vec<u8>, decided: Decided) {
    let Decided {
        stored,
        duplicate,
        dead_lettered,
    } = decided;
    let text = format!(",\"decided\":{{\"stored\":{stored},\"duplicate\":{duplicate},\"dead_lettered\":{dead_lettered}}}");
    out.extend_from_slice(text.as_bytes());
}
