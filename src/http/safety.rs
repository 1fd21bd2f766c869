//! Headers that keep browsers from doing more with an answer than it is for. Every answer has them; pages bring their own
//! content policy, files their own caching.
//!
//! | header | keeps a browser from |
//! |---|---|
//! | `X-Content-Type-Options` | taking JSON or an export for a script or a page |
//! | `Content-Security-Policy` | loading, framing or sending anything on behalf of an answer that is opened as a page |
//! | `X-Frame-Options` | the same, for those that do not know `frame-ancestors` |
//! | `Cross-Origin-Resource-Policy` | handing an answer to a page of another origin as image, script or style |
//! | `Cross-Origin-Opener-Policy` | letting a page that opened ours hold on to its window |
//! | `Referrer-Policy` | telling others our addresses, which hold filters |
//! | `Cache-Control` | keeping an answer on disk |
//! | `Strict-Transport-Security` | going back to the clear (only over TLS) |

use super::{origin::Origins, settings::HttpSettings};
use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::Response,
};
use std::sync::Arc;

/// Nothing that an answer of the API might name is loaded.
const NOTHING: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every answer has, unless its handler says otherwise.
const ALWAYS: [(HeaderName, HeaderValue); 7] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(NOTHING)),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// What the configuration says about browsers.
#[derive(Debug, Clone, Default)]
pub struct Safety {
    /// Which pages of other origins may use the API.
    pub origins: Origins,
    /// Set over TLS only: in the clear, browsers ignore it.
    hsts: Option<HeaderValue>,
}

impl Safety {
    /// As the listener is set.
    pub fn of(settings: &HttpSettings) -> Self {
        let seconds = settings.hsts.as_secs();
        let hsts = (settings.tls.is_some() && seconds > 0).then(|| format!("max-age={seconds}"));
        Self {
            origins: settings.origins.clone(),
            hsts: hsts.map(|text| HeaderValue::from_str(&text).expect("letters and digits")),
        }
    }
}

/// Adds the headers.
pub async fn keep(State(safety): State<Arc<Safety>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.entry(name).or_insert(value);
    }
    if let Some(hsts) = &safety.hsts {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    response
}
