//! `GET /logs/export`: every match as one stream, as of one number.
//!
//! A task of its own reads, encodes and hands over piece by piece, reading the next portion while the client takes the one
//! before. What goes wrong before the first byte is a problem document. After it, the stream breaks off: its last chunk (or
//! END_STREAM) never comes, so nobody takes a part for the whole. To `TE: trailers` the number of rows is the trailer
//! `X-Export-Rows`.
//!
//! Bounds: exports at once, in all and of one tenant; two portions and two pieces of memory each; a client that takes nothing
//! for `write_stall` is cut, also where its HTTP/2 connection lives on. A dropped stream ends the task and frees everything.
//! When the process stops, an export gets a short time to end and then breaks off.

use super::{
    access,
    dispatch::Call,
    error::{Answer, Code, FieldError, Problem},
    filter,
    query::Query,
    recording,
    routes::Operation as Op,
    server::Drain,
    settings::HttpSettings,
};
use crate::{
    export::{Encoder, Format, Source},
    lifecycle::access_log::{AccessLog, Event, Who},
    model::{
        entry::StoredEntry,
        tenant::TenantId,
        time::{now_ms, write_rfc3339},
    },
    sinks::{Sort, StoreError},
};
use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};
use hyper::body::Frame;
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{sync::mpsc, task::AbortHandle};

/// Bytes that are handed over at a time.
const PIECE: usize = 256 << 10;
/// How long an export may go on after the process was told to stop.
const LAST_SECONDS: Duration = Duration::from_secs(5);
/// How many rows a whole export has.
const X_EXPORT_ROWS: HeaderName = HeaderName::from_static("x-export-rows");
/// Rows are missing: a part of the store is damaged and was left out. What `meta.degraded` is to a list.
const X_EXPORT_DEGRADED: HeaderName = HeaderName::from_static("x-export-degraded");

/// `GET /logs/export`, `/logs/export/json`, `/logs/export/csv`.
pub async fn stream(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let access::Reading { scope, log } = access::reading(&call.app, caller, action)?.of_log(&call.app, caller, &call.query).await?;
    let who = call.who()?;
    let (filter, form) = filter::both(filter::filter(&call.query), Form::of(call.endpoint.operation, &call.query))?;
    let services = &call.app.services;
    let slot = call.app.exports.enter(&scope.tenant().owner())?;
    let mut source = Source::new(services.authority.clone(), scope.clone(), filter, form.sort);
    let first = source.next().await?;
    let degraded = source.degraded();
    let (pieces, body) = mpsc::channel(1);
    let told = Told {
        access_log: services.access_log.clone(),
        tenant: scope.tenant().owner(),
        who,
        event: Some(recording::read("sluice.export", log, &call.query).text("format", form.format.name())),
        rows: 0,
    };
    let writer = Writer {
        told,
        encoder: Encoder::new(form.format, scope.tenant().clone(), form.csv_safe),
        pieces,
        out: Vec::with_capacity(PIECE),
        stall: services.settings.write_stall,
    };
    let drain = services.drain.clone();
    let task = tokio::spawn(async move {
        let _slot = slot;
        writer.run(source, first, drain).await;
    });
    let trailers = takes_trailers(&call.parts.headers);
    let mut response = Response::new(Body::new(ExportBody {
        pieces: body,
        task: task.abort_handle(),
        trailers,
        ended: false,
    }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.format.media_type()));
    headers.insert(header::CONTENT_DISPOSITION, disposition(scope.tenant(), form.format, now_ms()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if degraded {
        headers.insert(X_EXPORT_DEGRADED, HeaderValue::from_static("true"));
    }
    if trailers {
        headers.insert(header::TRAILER, HeaderValue::from_name(X_EXPORT_ROWS));
    }
    Ok(response)
}

/// What the parameters say about the text.
pub struct Form {
    /// In which format.
    pub format: Format,
    /// Whether text that a spreadsheet would take for a formula is guarded.
    pub csv_safe: bool,
    /// In which order.
    pub sort: Sort,
}

impl Form {
    /// Reads them from a query whose names were checked.
    pub fn of(operation: Op, query: &Query) -> Result<Self, Problem> {
        let mut errors = Vec::new();
        let format = match operation {
            Op::ExportJson => Format::Json,
            Op::ExportCsv => Format::Csv,
            _ => query.get("format").map_or(Some(Format::Json), Format::parse).unwrap_or_else(|| {
                errors.push(FieldError::new("format", "invalid_value", "`format` is one of json, ndjson, csv"));
                Format::Json
            }),
        };
        let csv_safe = flag(query, "csv_safe").unwrap_or_else(|error| {
            errors.push(error);
            false
        });
        let sort = filter::sort(query).unwrap_or_else(|error| {
            errors.push(error);
            Sort::default()
        });
        if errors.is_empty() {
            Ok(Self { format, csv_safe, sort })
        } else {
            Err(Problem::parameters(errors))
        }
    }
}

fn flag(query: &Query, name: &'static str) -> Result<bool, FieldError> {
    match query.get(name) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(FieldError::new(name, "invalid_value", format!("`{name}` is true or false"))),
    }
}

/// `audit_logs_TENANT_DATE`, or `access_logs_…`, as a file to be kept; `at` is milliseconds since 1970.
pub fn disposition(tenant: &TenantId, format: Format, at: i64) -> HeaderValue {
    let kind = if tenant.is_access_log() { "access" } else { "audit" };
    let mut name = format!("attachment; filename=\"{kind}_logs_{}_", tenant.owner_name()).into_bytes();
    let date = name.len() + "2024-01-31".len();
    write_rfc3339(at, &mut name);
    name.truncate(date);
    name.extend_from_slice(format!(".{}\"", format.name()).as_bytes());
    HeaderValue::from_bytes(&name).expect("a tenant's name, a date and a format are visible ASCII")
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    let mut codings = values.flat_map(|value| value.split(','));
    codings.any(|coding| coding.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("trailers"))
}

/// What the task hands to the body.
enum Piece {
    Bytes(Bytes),
    /// Nothing is missing: so many rows.
    End(u64),
}

/// Why a stream breaks off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the client is gone")]
    Gone,
    #[error("the client takes nothing")]
    Stalled,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the access log is told when the export ends, however it does.
struct Told {
    access_log: AccessLog,
    tenant: TenantId,
    who: Arc<Who>,
    event: Option<Event>,
    rows: u64,
}

impl Told {
    fn end(&mut self, whole: bool) {
        let Some(event) = self.event.take() else { return };
        let event = event.number("rows", self.rows).flag("complete", whole);
        self.access_log.record(&self.tenant, &self.who, &event);
    }
}

impl Drop for Told {
    /// The export broke off: the client went away, or took nothing any more, or the store failed.
    fn drop(&mut self) {
        self.end(false);
    }
}

/// The task's end of a stream.
struct Writer {
    told: Told,
    encoder: Encoder,
    pieces: mpsc::Sender<Piece>,
    out: Vec<u8>,
    stall: Duration,
}

impl Writer {
    async fn run(mut self, source: Source, first: Option<Vec<StoredEntry>>, drain: Drain) {
        let stopped = async {
            drain.stopping().await;
            tokio::time::sleep(LAST_SECONDS).await;
        };
        tokio::select! {
            done = self.write(source, first) => if let Err(error) = done {
                tracing::warn!(%error, "an export broke off");
            },
            () = stopped => tracing::warn!("an export broke off, since the process stops"),
        }
    }

    async fn write(&mut self, mut source: Source, first: Option<Vec<StoredEntry>>) -> Result<(), Broken> {
        self.encoder.start(&mut self.out);
        let mut batch = first;
        while let Some(entries) = batch {
            let read = async { Ok(source.next().await?) };
            // In this order: the read is under way before the first piece is encoded.
            let (next, ()) = tokio::try_join!(biased; read, self.entries(entries))?;
            batch = next;
        }
        self.encoder.end(&mut self.out);
        let rest = std::mem::take(&mut self.out);
        if !rest.is_empty() {
            self.send(Piece::Bytes(rest.into())).await?;
        }
        // Before the end, so that who has read the whole export finds it in the access log.
        self.told.end(true);
        self.send(Piece::End(self.encoder.rows())).await
    }

    async fn entries(&mut self, entries: Vec<StoredEntry>) -> Result<(), Broken> {
        for entry in entries {
            self.encoder.entry(&mut self.out, &entry);
            self.told.rows = self.encoder.rows();
            if self.out.len() >= PIECE {
                let piece = std::mem::replace(&mut self.out, Vec::with_capacity(PIECE + PIECE / 8));
                self.send(Piece::Bytes(piece.into())).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, piece: Piece) -> Result<(), Broken> {
        match tokio::time::timeout(self.stall, self.pieces.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Broken::Gone),
            Err(_) => Err(Broken::Stalled),
        }
    }
}

/// The connection's end of a stream.
struct ExportBody {
    pieces: mpsc::Receiver<Piece>,
    task: AbortHandle,
    trailers: bool,
    ended: bool,
}

impl HttpBody for ExportBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.pieces.poll_recv(context)) {
            Some(Piece::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End(rows)) => {
                self.ended = true;
                let trailers = HeaderMap::from_iter([(X_EXPORT_ROWS, HeaderValue::from(rows))]);
                self.trailers.then(|| Ok(Frame::trailers(trailers)))
            }
            // The task is gone and has not said that this is all.
            None => Some(Err(axum::Error::new(std::io::Error::other("the export broke off")))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl Drop for ExportBody {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts the exports under way.
pub struct Exports {
    most: usize,
    most_of_tenant: usize,
    /// Only tenants that have some.
    running: Mutex<HashMap<TenantId, usize>>,
}

impl Exports {
    /// None under way.
    pub fn new(settings: &HttpSettings) -> Arc<Self> {
        Arc::new(Self {
            most: settings.exports,
            most_of_tenant: settings.exports_of_tenant,
            running: Mutex::default(),
        })
    }

    /// A place for one more: 429 when the tenant has its share already, 503 when there is none left.
    pub fn enter(self: &Arc<Self>, tenant: &TenantId) -> Result<Slot, Problem> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = |code, detail| Err(Problem::new(code, detail).retry_after(Duration::from_secs(5)));
        if running.get(tenant).is_some_and(|own| *own >= self.most_of_tenant) {
            return refused(Code::Overloaded, "the tenant has as many exports under way as it may; wait until one has ended");
        }
        if running.values().sum::<usize>() >= self.most {
            return refused(Code::Unavailable, "too many exports at once; come back later");
        }
        *running.entry(tenant.clone()).or_default() += 1;
        Ok(Slot {
            exports: self.clone(),
            tenant: tenant.clone(),
        })
    }

    /// How many are under way.
    #[cfg(test)]
    pub fn running(&self) -> usize {
        self.running.lock().expect("no test panics here").values().sum()
    }
}

/// A place among the exports, until it is dropped.
pub struct Slot {
    exports: Arc<Exports>,
    tenant: TenantId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut running = self.exports.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = running.get_mut(&self.tenant) {
            *own -= 1;
            if *own == 0 {
                running.remove(&self.tenant);
            }
        }
    }
}
