//! Pages of other origins: which may use the API (CORS), and which may use a credential that the browser adds by itself.
//!
//! **CORS** is off: without `http.cors.origins` no answer has a header of it, and a preflight is a 405 as any other `OPTIONS`. A page
//! of a configured origin may call every endpoint with a credential that it holds itself. Origins are compared byte by byte;
//! there is no `*`, and `null` (a sandboxed frame, a local file) is nobody.
//!
//! **Ambient credentials.** What a gateway adds to every request, whoever caused it, must not be used by a page of somebody
//! else: a request that changes something or opens a feed with such a credential must come from a page of this host or of
//! a configured origin ([`Origins::check_ambient`]). What the page had to know itself (a header, `?token=`, the first frame of a
//! socket) is not ambient: whoever holds a token may use it from anywhere, as with any other HTTP client.

use super::error::{Code, Problem};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::Response,
};
use std::sync::Arc;

/// What a page may send.
const METHODS: &str = "GET, HEAD, POST, PUT, DELETE";
const HEADERS: &str = "Authorization, X-API-Key, X-Tenant-ID, X-Request-Id, Idempotency-Key, Content-Type, Content-Encoding, Accept, Range, \
                       If-Range, Last-Event-ID";
/// What a page may read besides the body.
const EXPOSED: &str = "X-Request-Id, Retry-After, Location, Allow, Content-Disposition, Content-Range, Accept-Ranges, ETag, WWW-Authenticate";
/// Seconds for which a browser may remember a preflight; none remembers longer.
const MAX_AGE: &str = "7200";
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The configured origins. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    known: Arc<[String]>,
    ambient: bool,
}

impl Origins {
    /// These origins, each as browsers write it. None: CORS is off.
    pub fn new(known: Vec<String>) -> Self {
        Self {
            known: known.into(),
            ambient: false,
        }
    }

    /// Says that credentials may come with requests by themselves (a gateway): pages of the origins may send them.
    pub fn with_ambient(mut self, ambient: bool) -> Self {
        self.ambient = ambient;
        self
    }

    /// The one `Origin` of a request, if it is a configured one.
    fn known<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = only(headers, &header::ORIGIN)?;
        self.known.iter().any(|known| known.as_bytes() == origin.as_bytes()).then_some(origin)
    }

    /// Whether a request with an ambient credential may change something or open a feed: its page is of this host or of a
    /// configured origin, or it comes from no page. 403 otherwise. Browsers say `Origin` with every such request, and
    /// `Sec-Fetch-Site` as they see it, before a proxy changes the host.
    pub fn check_ambient(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        if self.known(headers).is_some() {
            return Ok(());
        }
        let good = match (headers.get(FETCH_SITE), headers.contains_key(header::ORIGIN)) {
            (Some(site), _) => ["same-origin", "none"].iter().any(|good| site.as_bytes() == good.as_bytes()),
            (None, false) => true,
            (None, true) => only(headers, &header::ORIGIN).is_some_and(|origin| is_own(origin, uri, headers)),
        };
        good.then_some(()).ok_or_else(|| {
            let detail = "a page of this origin may not use the gateway's credential; `http.cors.origins` names those that may";
            Problem::new(Code::OriginDenied, detail)
        })
    }
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut all = headers.get_all(name).iter();
    all.next().filter(|_| all.next().is_none())
}

/// Whether the origin's host and port are the request's own. The scheme is left out: a proxy may have taken TLS off.
fn is_own(origin: &HeaderValue, uri: &Uri, headers: &HeaderMap) -> bool {
    let host = uri.authority().map(|a| a.as_str()).or_else(|| only(headers, &header::HOST)?.to_str().ok());
    let page = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let (Some(host), Some((scheme, page))) = (host, page) else { return false };
    let port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return false,
    };
    let bare = |place: &str| place.strip_suffix(port).unwrap_or(place).to_ascii_lowercase();
    bare(host) == bare(page)
}

/// Answers preflights, and lets pages of the configured origins read answers.
pub async fn share(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    if origins.known.is_empty() {
        return next.run(request).await;
    }
    let known = origins.known(request.headers()).cloned();
    let preflight = request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match preflight && known.is_some() {
        true => allowed(),
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    // Also where the origin is unknown: a cache must not hand that answer to one that is known.
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = known {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        if origins.ambient {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
    response
}

/// The answer to a preflight: the same for every path, so that it tells nothing.
fn allowed() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        (header::VARY, "access-control-request-method, access-control-request-headers"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ambient_credential_is_for_pages_of_this_host_and_of_configured_origins() {
        let origins = Origins::new(vec!["https://app.example".into(), "http://localhost:3000".into()]);
        let own = ("host", "logs.example");
        for (pairs, good) in [
            (&[own][..], true),
            (&[own, ("origin", "https://logs.example")], true),
            (&[own, ("origin", "http://logs.example")], true),
            (&[("host", "Logs.Example:443"), ("origin", "https://logs.example")], true),
            (&[("host", "logs.example:8443"), ("origin", "https://logs.example:8443")], true),
            (&[own, ("origin", "https://app.example")], true),
            (&[own, ("origin", "http://localhost:3000")], true),
            // A proxy has changed the host; the browser saw its own.
            (
                &[("host", "10.0.0.1:8080"), ("origin", "https://logs.example"), ("sec-fetch-site", "same-origin")],
                true,
            ),
            (&[own, ("sec-fetch-site", "none")], true),
            (&[own, ("origin", "https://evil.example")], false),
            (&[own, ("origin", "https://logs.example.evil.example")], false),
            (&[own, ("origin", "https://logs.example:8443")], false),
            (&[own, ("origin", "http://logs.example:443")], false),
            (&[own, ("origin", "http://app.example")], false),
            (&[own, ("origin", "https://app.example.evil.example")], false),
            (&[own, ("origin", "https://app.example/")], false),
            (&[own, ("origin", "null")], false),
            (&[own, ("origin", "")], false),
            (&[own, ("origin", "\u{e9}://logs.example")], false),
            (&[own, ("origin", "https://logs.example"), ("origin", "https://evil.example")], false),
            (&[own, ("origin", "https://app.example"), ("origin", "https://evil.example")], false),
            (&[own, ("origin", "https://logs.example"), ("sec-fetch-site", "same-site")], false),
            (&[own, ("sec-fetch-site", "cross-site")], false),
            (&[("origin", "https://logs.example")], false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
            }
            let answer = origins.check_ambient(&Uri::from_static("/api/v1/logs"), &headers);
            assert_eq!(answer.map_err(|p| p.code()), if good { Ok(()) } else { Err(Code::OriginDenied) }, "{pairs:?}");
        }
        // HTTP/2 says the host in the URI.
        let uri = Uri::from_static("https://logs.example/api/v1/logs");
        let page = |origin| HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))]);
        assert!(origins.check_ambient(&uri, &page("https://logs.example")).is_ok());
        assert!(origins.check_ambient(&uri, &page("https://evil.example")).is_err());
    }
}
