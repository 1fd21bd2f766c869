//! The pages, compiled in: the live board and the API documentation. They work offline and load nothing from elsewhere.
//!
//! Their `Content-Security-Policy` allows scripts only from this server, none inline. Styles may be inline: the documentation tools
//! set them from their scripts.

use super::{
    error::{Answer, Problem},
    routes::BASE,
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; \
                      connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const SWAGGER_INIT: &[u8] = br##"window.addEventListener("load", () => {
  SwaggerUIBundle({ url: "/api/v1/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
});
"##;

/// File name, media type, contents.
const ASSETS: &[(&str, &str, &[u8])] = &[
    ("swagger-init.js", SCRIPT, SWAGGER_INIT),
    (
        "swagger-ui-bundle.js",
        SCRIPT,
        include_bytes!("../../console/vendor/swagger-ui/swagger-ui-bundle.js"),
    ),
    ("swagger-ui.css", STYLE, include_bytes!("../../console/vendor/swagger-ui/swagger-ui.css")),
    ("board.js", SCRIPT, include_bytes!("../../console/board.js")),
    ("board.css", STYLE, include_bytes!("../../console/board.css")),
    ("favicon.svg", "image/svg+xml", include_bytes!("../../console/favicon.svg")),
    ("redoc.standalone.js", SCRIPT, include_bytes!("../../console/vendor/redoc/redoc.standalone.js")),
];

/// `/logs/board` and `/`: the live board. It holds no data; the browser asks for that with a token.
pub fn board() -> Response {
    page(include_str!("../../console/board.html").to_owned())
}

/// `/docs`.
pub fn swagger_ui() -> Response {
    page(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sluice API</title>\
         <link rel=\"icon\" href=\"data:,\"><link rel=\"stylesheet\" href=\"{BASE}/docs/assets/swagger-ui.css\"></head><body><div id=\"swagger-ui\"></div>\
         <script src=\"{BASE}/docs/assets/swagger-ui-bundle.js\"></script><script src=\"{BASE}/docs/assets/swagger-init.js\"></script></body></html>"
    ))
}

/// `/redoc`.
pub fn redoc() -> Response {
    page(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sluice API</title><link rel=\"icon\" href=\"data:,\"></head><body>\
         <redoc spec-url=\"{BASE}/openapi.json\"></redoc><script src=\"{BASE}/docs/assets/redoc.standalone.js\"></script></body></html>"
    ))
}

/// One of the scripts and styles. They change only with the binary, whose version is their tag.
pub fn asset(file: &str, headers: &HeaderMap) -> Answer {
    const TAG: &str = concat!("\"", env!("CARGO_PKG_VERSION"), "\"");
    let (_, media, contents) = ASSETS.iter().find(|(name, ..)| *name == file).ok_or_else(Problem::not_found)?;
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == TAG.as_bytes());
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(Body::from(Bytes::from_static(contents)))
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::ETAG, HeaderValue::from_static(TAG));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn page(html: String) -> Response {
    let mut response = Response::new(Body::from(html));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(HTML));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
