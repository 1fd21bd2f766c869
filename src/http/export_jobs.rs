//! `POST /logs/export` and what follows from it: export jobs of the caller's tenant, their state, their file.
//!
//! The file of a job never changes, so it has a strong entity tag, ranges of it can be asked for, and a download that broke
//! off can be taken up again. It is sent as it is, never compressed: a range counts the bytes that are sent.

use super::{
    access,
    dispatch::{Call, json_of},
    error::{Answer, Code, Problem},
    export::{self, Form},
    filter,
    query::Query,
    ranges::{Wanted, wanted},
    recording,
    routes::BASE,
    search,
};
use crate::{
    auth::policy::{self, Action},
    lifecycle::{
        access_log::Event,
        export::{Ended, ExportError, Exports, Job, Kind, ReadError, Request, Status},
    },
    model::{
        filter::Filter,
        tenant::{Log, TenantScope},
        time::rfc3339,
    },
    sinks::{Count, ListQuery, Sort},
};
use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::TryStreamExt;
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// How soon a client should look at an unfinished job again, seconds.
const LOOK_AGAIN: u64 = 1;

/// A job as the contract shows it.
#[derive(Serialize)]
struct Shown {
    id: Uuid,
    /// The same, under the name that pipelines know.
    pipeline_id: Uuid,
    status: Status,
    kind: Kind,
    /// None for a job without a file.
    format: Option<&'static str>,
    rows: u64,
    bytes: u64,
    progress: Option<f64>,
    as_of: u64,
    created_at: String,
    expires_at: Option<String>,
    download_url: Option<String>,
    error: Option<String>,
    /// Entries may be missing, because the store could not read all that it has.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    degraded: bool,
}

impl Shown {
    fn of(job: &Job) -> Self {
        Self {
            id: job.id,
            pipeline_id: job.id,
            status: job.status,
            kind: job.kind,
            format: (job.kind == Kind::Export).then(|| job.request.format.name()),
            rows: job.rows,
            bytes: job.bytes(),
            progress: job.progress(),
            as_of: job.as_of,
            created_at: rfc3339(job.created_at),
            expires_at: job.expires_at.map(rfc3339),
            download_url: (job.status == Status::Done && job.kind == Kind::Export).then(|| format!("{}/download", address(job.id))),
            error: job.error.clone(),
            degraded: job.degraded,
        }
    }
}

fn address(id: Uuid) -> String {
    format!("{BASE}/logs/export/{id}")
}

/// Reads the filters and the order of a stored request again: what `Compile` of the jobs is.
pub fn compile(words: &[(String, String)]) -> Result<(Filter, Sort), String> {
    let refused = |problem: Problem| problem.detail().to_owned();
    let mut query = Query::default();
    for (name, value) in words {
        query.add(name.clone(), value.clone()).map_err(refused)?;
    }
    let sort = filter::sort(&query).map_err(|error| error.message)?;
    Ok((filter::filter(&query).map_err(refused)?, sort))
}

/// The file of a job shows entries as they are. The table of roles lets nobody make or take one who sees them masked; should it
/// ever do, it is refused here.
fn unmasked(reading: access::Reading) -> Result<access::Reading, Problem> {
    if reading.mask.is_some() { Err(access::denied()) } else { Ok(reading) }
}

/// `POST /logs/export`.
pub async fn create(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let reading = unmasked(access::reading(&call.app, caller, action)?)?;
    let (app, operation, caller, who) = (call.app.clone(), call.endpoint.operation, caller.clone(), call.who()?);
    let scope = reading.scope.clone();
    let query = search::parameters(call, &scope).await?;
    let reading = reading.of_log(&app, &caller, &query).await?;
    let (_, form) = filter::both(filter::filter(&query), Form::of(operation, &query))?;
    // The number as of which it is; and the store says now if it cannot answer.
    let newest = ListQuery {
        filter: Filter {
            max_sequence: Some(0),
            ..Filter::default()
        },
        limit: 1,
        count: Count::None,
        ..ListQuery::default()
    };
    let as_of = app.services.authority.list(&reading.scope, newest).await?.as_of;
    let words = query.pairs().filter(|(name, _)| !["format", "csv_safe"].contains(name));
    let request = Request {
        format: form.format,
        csv_safe: form.csv_safe,
        query: words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    };
    let job = app.services.export_jobs.create(&scope, request, as_of).await?;
    let event = Event::change("sluice.export.create", "export", job.id.to_string()).text("log", reading.log.name());
    let event = event.text("format", form.format.name()).filters(recording::filters(&query));
    recording::changed(&app, &scope, &who, event).await;
    Ok(accepted(&job))
}

/// `POST /logs/index/bulk`.
pub async fn rebuild(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let scope = unmasked(access::reading(&call.app, caller, action)?)?.scope;
    let job = call.app.services.export_jobs.rebuild(&scope).await?;
    let event = Event::change("sluice.search.rebuild", "export", job.id.to_string());
    recording::changed(&call.app, &scope, &*call.who()?, event).await;
    Ok(accepted(&job))
}

fn accepted(job: &Job) -> Response {
    let mut response = shown(job);
    *response.status_mut() = StatusCode::ACCEPTED;
    let location = HeaderValue::from_str(&address(job.id)).expect("a UUID is visible ASCII");
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// `GET /logs/export/{id}`.
pub async fn get(call: Call) -> Answer {
    let (_, job) = Named::of(&call)?.find(&call.app.services.export_jobs).await?;
    Ok(shown(&job))
}

/// `DELETE /logs/export/{id}`: 200 with the job if that has cancelled it, 204 if it was over and is deleted.
pub async fn end(call: Call) -> Answer {
    let (scope, job) = Named::of(&call)?.find(&call.app.services.export_jobs).await?;
    let ended = call.app.services.export_jobs.end(&scope, job.id).await?.ok_or_else(Problem::not_found)?;
    let event = Event::change("sluice.export.delete", "export", job.id.to_string());
    let event = event
        .text("log", job.request.log().name())
        .flag("cancelled", matches!(ended, Ended::Cancelled(_)));
    recording::changed(&call.app, &scope, &*call.who()?, event).await;
    Ok(match ended {
        Ended::Cancelled(job) => shown(&job),
        Ended::Deleted => StatusCode::NO_CONTENT.into_response(),
    })
}

/// `GET /logs/export/{id}/download`.
pub async fn download(call: Call) -> Answer {
    let (scope, job) = Named::of(&call)?.find(&call.app.services.export_jobs).await?;
    if job.kind == Kind::Rebuild {
        return Err(Problem::not_found()); // it has no file
    }
    match job.status {
        Status::Done => {}
        Status::Queued | Status::Running => {
            return Err(Problem::new(Code::NotReady, "the export is not finished; its `status` says `done` when it is"));
        }
        Status::Failed | Status::Cancelled => {
            return Err(Problem::new(
                Code::NotReady,
                "the export has failed or was cancelled, so there is nothing to download; ask for a new one",
            ));
        }
    }
    let len = job.bytes();
    let tag = HeaderValue::from_str(&format!("\"{}-{len}\"", job.id)).expect("a UUID and digits are visible ASCII");
    // RFC 9110 defines ranges for GET alone.
    let is_get = call.parts.method == Method::GET;
    let (status, range) = match wanted(&call.parts.headers, len, &tag) {
        Wanted::Part(range) if is_get => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Nothing if is_get => {
            let value = HeaderValue::from_str(&format!("bytes */{len}")).expect("visible ASCII");
            return Err(
                Problem::new(Code::RangeNotSatisfiable, format!("the export has {len} bytes, and none of the range")).with_header(header::CONTENT_RANGE, value),
            );
        }
        Wanted::Known => (StatusCode::NOT_MODIFIED, 0..0),
        _ => (StatusCode::OK, 0..len),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if status == StatusCode::NOT_MODIFIED {
        return Ok(response);
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(job.request.format.media_type()));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    headers.insert(
        header::CONTENT_DISPOSITION,
        export::disposition(&job.request.log().of(scope.tenant()), job.request.format, job.created_at),
    );
    if status == StatusCode::PARTIAL_CONTENT {
        let value = format!("bytes {}-{}/{len}", range.start, range.end - 1);
        headers.insert(header::CONTENT_RANGE, HeaderValue::from_str(&value).expect("visible ASCII"));
    }
    if is_get {
        let slot = call.app.exports.enter(scope.tenant())?;
        let event = Event::read("sluice.export.download", "export", job.id.to_string()).text("log", job.request.log().name());
        let event = event
            .number("rows", job.rows)
            .number("bytes", range.end - range.start)
            .flag("whole", range.end - range.start == len);
        recording::tell(&call.app, &scope, &*call.who()?, &event);
        let id = job.id;
        let blocks = call.app.services.export_jobs.read(Arc::new(job), range).inspect_err(move |error| {
            let _counted_as_long_as_this_lives = &slot;
            match error {
                ReadError::Gone => tracing::debug!(job = %id, "a download breaks off: the export was deleted"),
                error => tracing::error!(job = %id, %error, "a download breaks off"),
            }
        });
        *response.body_mut() = Body::from_stream(blocks);
    }
    Ok(response)
}

/// A job that a path names.
struct Named {
    scope: TenantScope,
    id: Uuid,
    /// Whether the caller may read the access log.
    reads_access: bool,
}

impl Named {
    fn of(call: &Call) -> Result<Self, Problem> {
        let (caller, action) = call.caller()?;
        let access::Reading { scope, .. } = unmasked(access::reading(&call.app, caller, action)?)?;
        Ok(Self {
            id: Uuid::try_parse(&call.id).map_err(|_| Problem::not_found())?,
            reads_access: policy::allowed_on(caller, Action::ReadAccessLog, scope.tenant()),
            scope,
        })
    }

    /// The job: 404 when there is none, and for one of a log that the caller may not read.
    async fn find(self, jobs: &Exports) -> Result<(TenantScope, Job), Problem> {
        let job = jobs.get(&self.scope, self.id).await?;
        let job = job.filter(|job| job.request.log() == Log::Audit || self.reads_access);
        Ok((self.scope, job.ok_or_else(Problem::not_found)?))
    }
}

fn shown(job: &Job) -> Response {
    let mut response = json_of(&Shown::of(job));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !job.status.is_over() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(LOOK_AGAIN));
    }
    response
}

impl From<ExportError> for Problem {
    fn from(error: ExportError) -> Self {
        let refused = |code, detail: &'static str, seconds| Self::new(code, detail).retry_after(Duration::from_secs(seconds));
        match error {
            ExportError::TooMany => refused(
                Code::Overloaded,
                "the tenant has as many export jobs as it may have, finished ones included; delete some, or wait until they expire",
                60,
            ),
            ExportError::Busy => refused(Code::Unavailable, "too many export jobs wait; nothing was kept, come back later", 10),
            ExportError::NoRoom => refused(
                Code::Unavailable,
                "the volume is too full for exports, which stop before entries are refused; nothing was kept",
                60,
            ),
            ExportError::Closed => super::access::unknown_tenant(),
            ExportError::Objects(error) => error.into(),
            ExportError::Damaged(_) => {
                tracing::error!(%error, "an export job cannot be read");
                super::layers::internal()
            }
        }
    }
}
