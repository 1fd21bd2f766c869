//! The one map from what can go wrong to what a client is told (RFC 9457 `application/problem+json`).
//!
//! A handler returns a [`Problem`]; it becomes JSON at the edge ([`super::layers`]), where the request's id is known. A
//! problem never carries internals, credentials or values of the query string: it names the parameter and says what is
//! right. 503 promises that nothing happened; 504 says that it is unknown and names the ids.

use super::leftover::Unwanted;
use crate::{
    actors::broadcast::SubscribeError,
    auth::AuthError,
    catalog::CatalogError,
    model::{
        calendar::Interval,
        parse::{BodyError, ItemError},
    },
    objects::ObjectError,
    queue::AcceptError,
    sinks::{MOST_BUCKETS, StoreError},
};
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};
use std::{borrow::Cow, time::Duration};

/// What is wrong, as a program reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // `row` says what each means
pub enum Code {
    BodyCutOff,
    BodyTimeout,
    HeadTooLarge,
    TlsRequired,
    OriginDenied,
    MissingCredential,
    InvalidCredential,
    ExpiredCredential,
    InvalidTenantClaim,
    AmbiguousCredential,
    InvalidLogin,
    TenantRequired,
    TooManyAttempts,
    AmbiguousTenant,
    UnknownRole,
    Forbidden,
    UnknownTenant,
    FieldMasked,
    NotFound,
    MethodNotAllowed,
    Conflict,
    NotReady,
    InProgress,
    TooLarge,
    TooManyEntries,
    UnsupportedMediaType,
    UnsupportedEncoding,
    InvalidParameter,
    InvalidCursor,
    InvalidSearch,
    TooBroad,
    InvalidBody,
    InvalidEntry,
    AllRejected,
    UpgradeRequired,
    Overloaded,
    RateLimited,
    QuotaExceeded,
    NotImplemented,
    Unavailable,
    Internal,
    UnknownOutcome,
    RangeNotSatisfiable,
    QueryTimeout,
    TooManyGroups,
    TooManyBuckets,
}

impl Code {
    /// Status, code and title.
    pub fn row(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BodyCutOff => (StatusCode::BAD_REQUEST, "body_cut_off", "The request ended inside its body"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout", "The request body did not arrive in time"),
            Self::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head_too_large",
                "The head of the request is too large",
            ),
            Self::TlsRequired => (StatusCode::BAD_REQUEST, "tls_required", "The port speaks TLS"),
            Self::OriginDenied => (StatusCode::FORBIDDEN, "origin_denied", "The page's origin may not do this"),
            Self::MissingCredential => (StatusCode::UNAUTHORIZED, "missing_credential", "A credential is needed"),
            Self::InvalidCredential => (StatusCode::UNAUTHORIZED, "invalid_credential", "The credential is not valid"),
            Self::ExpiredCredential => (StatusCode::UNAUTHORIZED, "expired_credential", "The credential has expired"),
            Self::InvalidTenantClaim => (StatusCode::UNAUTHORIZED, "invalid_tenant_claim", "The credential names no tenant"),
            Self::UnknownRole => (StatusCode::FORBIDDEN, "unknown_role", "The credential names no known role"),
            Self::AmbiguousTenant => (StatusCode::UNAUTHORIZED, "ambiguous_tenant", "The credential names several tenants"),
            Self::AmbiguousCredential => (StatusCode::UNAUTHORIZED, "ambiguous_credential", "More than one credential"),
            Self::InvalidLogin => (StatusCode::UNAUTHORIZED, "invalid_login", "The login is not valid"),
            Self::TenantRequired => (StatusCode::UNPROCESSABLE_ENTITY, "tenant_required", "A tenant must be chosen"),
            Self::TooManyAttempts => (StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", "Too many attempts"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "The credential does not allow this"),
            Self::UnknownTenant => (StatusCode::FORBIDDEN, "unknown_tenant", "The tenant does not exist"),
            Self::FieldMasked => (StatusCode::FORBIDDEN, "field_masked", "The field is hidden from this role"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "There is nothing here"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "The path does not know this method"),
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "It exists already"),
            Self::NotReady => (StatusCode::CONFLICT, "not_ready", "It is not there yet"),
            Self::InProgress => (StatusCode::CONFLICT, "in_progress", "Somebody else is at it"),
            Self::RangeNotSatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", "There is nothing in this range"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The request is too large"),
            Self::TooManyEntries => (StatusCode::PAYLOAD_TOO_LARGE, "too_many_entries", "Too many entries in one request"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "Unknown media type"),
            Self::UnsupportedEncoding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", "Unknown content encoding"),
            Self::InvalidParameter => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_parameter", "A parameter is not valid"),
            Self::InvalidCursor => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_cursor", "The cursor is not valid"),
            Self::InvalidSearch => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_search", "The search cannot be understood"),
            Self::TooBroad => (StatusCode::UNPROCESSABLE_ENTITY, "too_broad", "The search would find too much"),
            Self::InvalidBody => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", "The body is not valid"),
            Self::InvalidEntry => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_entry", "The entry is not valid"),
            Self::AllRejected => (StatusCode::UNPROCESSABLE_ENTITY, "all_rejected", "No entry was accepted"),
            Self::UpgradeRequired => (StatusCode::UPGRADE_REQUIRED, "upgrade_required", "This is a live feed"),
            Self::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "overloaded", "Too much at once"),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too much in too short a time"),
            Self::QuotaExceeded => (StatusCode::TOO_MANY_REQUESTS, "quota_exceeded", "There is no room left in the quota"),
            Self::NotImplemented => (StatusCode::NOT_IMPLEMENTED, "not_implemented", "This version does not have it yet"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not possible at the moment"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong here"),
            Self::UnknownOutcome => (
                StatusCode::GATEWAY_TIMEOUT,
                "unknown_outcome",
                "It is not known whether the entries were stored",
            ),
            Self::QueryTimeout => (StatusCode::GATEWAY_TIMEOUT, "query_timeout", "The query took too long"),
            Self::TooManyBuckets => (StatusCode::UNPROCESSABLE_ENTITY, "too_many_buckets", "The series would be too long"),
            Self::TooManyGroups => (StatusCode::UNPROCESSABLE_ENTITY, "too_many_groups", "There are too many groups to count"),
        }
    }
}

/// One thing that is wrong: a parameter, or a field of an entry.
#[derive(Debug, Clone, Serialize)]
pub struct FieldError {
    /// The entry of a bulk request, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Its name.
    pub field: String,
    /// What is wrong, for programs.
    pub code: Cow<'static, str>,
    /// What is wrong and what would be right, for people.
    pub message: String,
}

impl FieldError {
    /// An error of a parameter or body field outside of entries.
    pub fn new(field: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            index: None,
            field: field.into(),
            code: code.into(),
            message: message.into(),
        }
    }
}

/// An error answer. [`IntoResponse`] puts it into the response's extensions; the outermost layer writes its JSON.
#[derive(Debug, Clone)]
pub struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    code: Code,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    extra: Map<String, Value>,
    retry_after: Option<Duration>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
    leaves_body: bool,
}

/// What handlers return.
pub type Answer = Result<Response, Problem>;

impl Problem {
    /// A problem and its explanation: what is wrong and what would be right.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            extra: Map::new(),
            retry_after: None,
            headers: Vec::new(),
            leaves_body: false,
        }))
    }

    /// 404 in the same words for what does not exist and for what belongs to somebody else.
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "there is nothing at this address that this credential may see")
    }

    /// 422 for parameters; at least one error.
    pub fn parameters(errors: Vec<FieldError>) -> Self {
        let code = match errors.as_slice() {
            [one] if one.code == "invalid_search" => Code::InvalidSearch,
            [one] if one.code == "too_broad" => Code::TooBroad,
            _ => Code::InvalidParameter,
        };
        let detail = match errors.as_slice() {
            [one] => one.message.clone(),
            several => format!("{} parameters are not valid", several.len()),
        };
        Self::new(code, detail).with_errors(errors)
    }

    /// 422 for one parameter.
    pub fn parameter(field: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self::parameters(vec![FieldError::new(field, code, message)])
    }

    /// 422 for a body as a whole.
    pub fn body(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(Code::InvalidBody, message.clone()).with_errors(vec![FieldError::new("body", code, message)])
    }

    /// With the single errors.
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }

    /// With the errors of another one of the same kind.
    pub fn and(self, other: Self) -> Self {
        Self::parameters(self.0.errors.into_iter().chain(other.0.errors).collect())
    }

    /// With a further member.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.extra.insert(name.to_owned(), value.into());
        self
    }

    /// With `Retry-After`.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// What is still to come of the request is not worth reading, even if its client never sees this.
    pub fn leaving_the_body(mut self) -> Self {
        self.0.leaves_body = true;
        self
    }

    /// With a further header.
    pub fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The explanation.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The JSON text.
    pub fn render(&self, request_id: &str) -> Vec<u8> {
        #[derive(Serialize)]
        struct Json<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
            code: &'a str,
            request_id: &'a str,
            errors: &'a [FieldError],
            #[serde(flatten)]
            extra: &'a Map<String, Value>,
        }
        let (status, code, title) = self.0.code.row();
        serde_json::to_vec(&Json {
            r#type: format!("urn:sluice:problem:{code}"),
            title,
            status: status.as_u16(),
            detail: &self.0.detail,
            code,
            request_id,
            errors: &self.0.errors,
            extra: &self.0.extra,
        })
        .expect("plain data always serialises")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        let (status, ..) = self.0.code.row();
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.0.retry_after {
            // Rounded up: a client that comes back at that second is not too early.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 6750: a request without any credential is not told of an error.
            let challenge = match self.0.code {
                Code::MissingCredential => "Bearer",
                _ => "Bearer error=\"invalid_token\"",
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        for (name, value) in &self.0.headers {
            headers.insert(name.clone(), value.clone());
        }
        if self.0.leaves_body {
            response.extensions_mut().insert(Unwanted);
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<AcceptError> for Problem {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::TenantFull { retry_after } => {
                Self::new(Code::Overloaded, "the tenant has too many undecided entries; nothing was kept, come back later").retry_after(retry_after)
            }
            AcceptError::Unavailable { reason, retry_after } => {
                Self::new(Code::Unavailable, format!("durability cannot be promised now: {reason}; nothing was kept")).retry_after(retry_after)
            }
            AcceptError::Unknown => Self::new(
                Code::UnknownOutcome,
                "the entries may or may not be durable; send them again with these ids, which stores nothing twice",
            ),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let unavailable = |detail: &'static str, seconds| Self::new(Code::Unavailable, detail).retry_after(Duration::from_secs(seconds));
        match error {
            StoreError::Starting => unavailable("the store is still being rebuilt from the log; reads are not possible yet", 1),
            StoreError::Behind => unavailable("this process cannot tell at the moment what was erased lately; see `/health`", 1),
            StoreError::Busy => unavailable("too many queries at once", 1),
            StoreError::Deadline => Self::new(Code::QueryTimeout, "the query ran past its deadline; narrow it by time or by further filters"),
            StoreError::TooManyGroups => {
                let detail = "there are too many distinct actions, resource types or groups to count; narrow the query by time or by further filters";
                Self::new(Code::TooManyGroups, detail).with_errors(vec![FieldError::new("group_by", "too_many_groups", detail)])
            }
            StoreError::TooManyBuckets { span } => {
                let width = Interval::that_fits(span, MOST_BUCKETS as i64);
                let detail = format!("a series has at most {MOST_BUCKETS} buckets; `interval={width}` fits this time, or narrow it with `from` and `to`");
                Self::new(Code::TooManyBuckets, detail.clone()).with_errors(vec![FieldError::new("interval", "too_many_buckets", detail)])
            }
            StoreError::Unavailable { .. } => {
                tracing::warn!(%error, "a read failed");
                unavailable("a store does not answer; see `/health`", 5)
            }
            StoreError::Damaged(_) | StoreError::BadPart { .. } | StoreError::Io(_) => {
                tracing::error!(%error, "a read failed");
                unavailable("the store cannot read its data; see `/health`", 30)
            }
        }
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        use AuthError::*;
        let code = match &error {
            Malformed | UnknownIssuer | Audience | Signature | NoExpiry | NotYet | Subject | Key | Login | Gateway => Code::InvalidCredential,
            Expired => Code::ExpiredCredential,
            Tenant => Code::InvalidTenantClaim,
            AmbiguousTenant => Code::AmbiguousTenant,
            UnknownRole => Code::UnknownRole,
            OutOfBounds | NotCovered => Code::Forbidden,
            Unavailable => return Self::new(Code::Unavailable, error.to_string()).retry_after(Duration::from_secs(5)),
        };
        Self::new(code, error.to_string())
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Exists => Self::new(Code::Conflict, "a tenant of this id exists already, or existed once; choose another id"),
            CatalogError::UserExists => Self::new(Code::Conflict, "the tenant has a user of this e-mail address already; remove it first"),
            CatalogError::Full { what, most } => Self::new(Code::Conflict, format!("the tenant has {most} {what}, which is the most; remove some first")),
            CatalogError::Random(_) => {
                tracing::error!(%error, "no key can be made");
                Self::new(Code::Unavailable, "no secrets can be made at the moment; nothing was kept").retry_after(Duration::from_secs(5))
            }
            CatalogError::NotFound => Self::not_found(),
            CatalogError::Invalid { field, message } => {
                let detail = format!("`{field}`: {message}");
                Self::new(Code::InvalidBody, detail).with_errors(vec![FieldError::new(field, "invalid_value", message)])
            }
            CatalogError::Unavailable(error) => error.into(),
            CatalogError::Damaged(_) => {
                tracing::error!(%error, "a tenant cannot be read");
                super::layers::internal()
            }
        }
    }
}

impl From<ObjectError> for Problem {
    fn from(error: ObjectError) -> Self {
        tracing::error!(%error, "the object store failed");
        Self::new(Code::Unavailable, "the object store cannot be used at the moment").retry_after(Duration::from_secs(5))
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let detail = format!("{error}; nothing was kept");
        match error {
            BodyError::Malformed { .. } => Self::body("malformed_json", detail),
            BodyError::Empty => Self::body("empty", detail),
            BodyError::TooMany { .. } => Self::new(Code::TooManyEntries, detail),
            BodyError::TooLarge => Self::new(Code::TooLarge, detail),
        }
    }
}

impl From<SubscribeError> for Problem {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::BeyondHead { head } => Self::parameter(
                "after",
                "beyond_head",
                format!("`after` is beyond the tenant's last entry, which is number {head}"),
            ),
            SubscribeError::TooMany => Self::new(Code::Unavailable, "too many live feeds at once").retry_after(Duration::from_secs(5)),
            SubscribeError::Stopping => Self::new(Code::Unavailable, "the process is stopping").retry_after(Duration::from_secs(5)),
        }
    }
}

impl FieldError {
    /// An error of an entry; `numbered` when the request may hold several.
    pub fn of_item(error: ItemError, numbered: bool) -> Self {
        Self {
            index: numbered.then_some(error.index),
            field: error.field,
            code: error.code.as_str().into(),
            message: error.message,
        }
    }
}
