//! What happens to every request and every answer, from the outside in:
//!
//! 1. **HEAD**: outermost, because every other layer may still write a body: the answer to GET without it (hyper takes it away
//!    for HTTP/1.1 only);
//! 2. **compression**: inside of HEAD; outside of the rest, so that it sees the final body;
//! 3. **slashes**: one trailing slash is taken off before routing, so that both forms are the same endpoint, without a redirect;
//! 4. **unread bodies** ([`leftover`]): outside of everything that may refuse a request before its body;
//! 5. **request id and problems**: inside of compression, because a problem's JSON is compressed too and names the id; outside
//!    of everything that can fail, so that every answer has an id and is counted;
//! 6. **browsers** ([`safety`], [`origin`]): headers that keep browsers from guessing and framing, and the configured origins;
//!    inside of 5, so that preflights have an id too; outside of 7 and 8, so that their answers have the headers;
//! 7. **heads** beyond 64 KiB are refused;
//! 8. **panics** become a 500 problem without internals: inside 5, which renders it; outside the handlers, which cause it.

use super::{
    error::{Code, Problem},
    leftover, origin,
    safety::{self, Safety},
};
use crate::telemetry::metrics::metrics;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header},
    middleware::{Next, from_fn, from_fn_with_state, map_request},
    response::{IntoResponse, Response},
};
use std::{any::Any, convert::Infallible, sync::Arc};
use tokio::time::Instant;
use tower::ServiceBuilder;
use tower_http::{
    CompressionLevel,
    catch_panic::CatchPanicLayer,
    compression::{
        CompressionLayer,
        predicate::{NotForContentType, Predicate, SizeAbove},
    },
};
use uuid::Uuid;

/// The header that names a request.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Shorter answers are not worth compressing.
const COMPRESS_ABOVE: u64 = 256;

/// Largest head of a request, bytes: a token and a long query fit.
const HEAD_BYTES: usize = 64 << 10;

/// The id of the request, in its extensions.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

/// Puts the layers around the routes.
pub fn around(routes: Router, safety: Safety) -> Router {
    // Middleware of axum runs after routing; as a service inside an empty router it runs before.
    let inner = ServiceBuilder::new()
        .layer(from_fn(head))
        .layer(map_request(only_known_encodings))
        .layer(
            CompressionLayer::new().no_br().no_deflate().quality(CompressionLevel::Fastest).compress_when(
                SizeAbove::new(COMPRESS_ABOVE)
                    .and(NotForContentType::SSE)
                    .and(NotForContentType::IMAGES)
                    .and(takes_no_ranges),
            ),
        )
        .layer(map_request(strip_slash))
        .layer(from_fn(leftover::clear))
        .layer(from_fn(identify))
        .layer(from_fn_with_state(safety.origins.clone(), origin::share))
        .layer(from_fn_with_state(Arc::new(safety), safety::keep))
        .layer(from_fn(small_head))
        .layer(CatchPanicLayer::custom(panicked))
        .service(routes);
    Router::new().fallback_service(inner)
}

/// Leaves of `Accept-Encoding` what we have. Of a client that forbids the rest, `identity` too, the compression layer would turn
/// the answer into 406, also the one of a write that was done: it gets the answer plain, as RFC 9110 allows.
async fn only_known_encodings(mut request: Request) -> Request {
    let given: Vec<_> = request
        .headers()
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .collect();
    let is_known = |part: &&str| {
        let name = part.split(';').next().unwrap_or_default().trim();
        ["gzip", "x-gzip", "zstd"].iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    let known: Vec<_> = given.iter().flat_map(|v| v.split(',')).filter(is_known).collect();
    let value = HeaderValue::from_str(&known.join(",")).ok().filter(|_| !known.is_empty());
    match value {
        Some(value) => drop(request.headers_mut().insert(header::ACCEPT_ENCODING, value)),
        None => drop(request.headers_mut().remove(header::ACCEPT_ENCODING)),
    }
    request
}

/// A range counts bytes as they are sent, so what ranges can be asked of is sent as it is.
fn takes_no_ranges(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    !headers.contains_key(header::ACCEPT_RANGES)
}

async fn strip_slash(mut request: Request) -> Request {
    let uri = request.uri();
    let Some(path) = uri.path().strip_suffix('/').filter(|path| !path.is_empty()) else {
        return request;
    };
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = path_and_query.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

async fn identify(mut request: Request, next: Next) -> Response {
    let id: Arc<str> = callers_id(request.headers()).map_or_else(|| Uuid::now_v7().to_string().into(), Into::into);
    request.extensions_mut().insert(RequestId(id.clone()));
    let since = Instant::now();
    let mut response = next.run(request).await;
    metrics().http(response.status().as_u16(), since.elapsed());
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let body = problem.render(&id);
        // The router has written the length of the body that was there before.
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = Body::from(body);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response
}

/// The caller's id if it is sane: 1 to 128 visible characters that need no quoting anywhere.
fn callers_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    let sane = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&b);
    (1..=128).contains(&id.len()).then_some(id).filter(|id| id.bytes().all(sane))
}

/// What is beyond our bound and within that of the HTTP library, which would answer without a word.
async fn small_head(request: Request, next: Next) -> Response {
    let (uri, headers) = (request.uri(), request.headers());
    let line = uri.path().len() + uri.query().map_or(0, str::len);
    let head = headers.iter().fold(line, |sum, (name, value)| sum + name.as_str().len() + value.len() + 4);
    if head > HEAD_BYTES {
        let detail = "request line and headers together may have 64 KiB";
        return Problem::new(Code::HeadTooLarge, detail).into_response();
    }
    next.run(request).await
}

fn panicked(_payload: Box<dyn Any + Send>) -> Response {
    // The panic hook has said what and where; the payload may quote data, so it is not repeated.
    tracing::error!("a request handler panicked");
    internal().into_response()
}

/// A 500 that says nothing about the inside.
pub fn internal() -> Problem {
    Problem::new(Code::Internal, "this is a mistake of the server; its log names the request id")
}

async fn head(request: Request, next: Next) -> Response {
    let is_head = request.method() == Method::HEAD;
    let mut response = next.run(request).await;
    if is_head {
        // The router has written the length where one is known. Of a stream it is not, and an empty body would claim 0.
        *response.body_mut() = match response.headers().contains_key(header::CONTENT_LENGTH) {
            true => Body::empty(),
            false => Body::from_stream(futures_util::stream::empty::<Result<Bytes, Infallible>>()),
        };
    }
    response
}
