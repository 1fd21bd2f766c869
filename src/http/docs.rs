//! The pages, compiled in: the console and the API documentation. They work offline and load nothing from elsewhere.
//!
//! Their `Content-Security-Policy` allows scripts only from this server, none inline. Inline styles are for the documentation tools
//! alone, which set them from their scripts.

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

/// The console's own: nothing inline at all.
const STRICT: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

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
    ("api.js", SCRIPT, include_bytes!("../../console/api.js")),
    ("chart.js", SCRIPT, include_bytes!("../../console/chart.js")),
    ("dom.js", SCRIPT, include_bytes!("../../console/dom.js")),
    ("entry.js", SCRIPT, include_bytes!("../../console/entry.js")),
    ("view.js", SCRIPT, include_bytes!("../../console/view.js")),
    ("board.css", STYLE, include_bytes!("../../console/board.css")),
    ("favicon.svg", "image/svg+xml", include_bytes!("../../console/favicon.svg")),
    ("redoc.standalone.js", SCRIPT, include_bytes!("../../console/vendor/redoc/redoc.standalone.js")),
];

/// `/logs/board` and `/`: the console. It holds no data; the browser asks for that with a token.
pub fn board() -> Response {
    page(include_str!("../../console/board.html").to_owned(), STRICT)
}

/// `/docs`.
pub fn swagger_ui() -> Response {
    page(
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sluice API</title>\
         <link rel=\"icon\" href=\"data:,\"><link rel=\"stylesheet\" href=\"{BASE}/docs/assets/swagger-ui.css\"></head><body><div id=\"swagger-ui\"></div>\
         <script src=\"{BASE}/docs/assets/swagger-ui-bundle.js\"></script><script src=\"{BASE}/docs/assets/swagger-init.js\"></script></body></html>"
        ),
        POLICY,
    )
}

/// `/redoc`.
pub fn redoc() -> Response {
    page(
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sluice API</title><link rel=\"icon\" href=\"data:,\"></head><body>\
         <redoc spec-url=\"{BASE}/openapi.json\"></redoc><script src=\"{BASE}/docs/assets/redoc.standalone.js\"></script></body></html>"
        ),
        POLICY,
    )
}

/// One of the scripts and styles. Their tag is made from what is in them, so that no browser mixes files of two versions.
pub fn asset(file: &str, headers: &HeaderMap) -> Answer {
    let (_, media, contents) = ASSETS.iter().find(|(name, ..)| *name == file).ok_or_else(Problem::not_found)?;
    let tag = format!("\"{:016x}\"", xxhash_rust::xxh3::xxh3_64(contents));
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|given| given.as_bytes() == tag.as_bytes());
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
    headers.insert(header::ETAG, HeaderValue::from_str(&tag).expect("hexadecimal digits in quotes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn page(html: String, policy: &'static str) -> Response {
    let mut response = Response::new(Body::from(html));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(HTML));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_has_all_its_files_and_nothing_inline() {
        let page = include_str!("../../console/board.html");
        let mut names: Vec<&str> = page
            .split("/docs/assets/")
            .skip(1)
            .map(|rest| rest.split('"').next().expect("a name"))
            .collect();
        assert_eq!(names.len(), 3);
        let scripts = ASSETS
            .iter()
            .filter(|(name, media, _)| *media == SCRIPT && !name.contains("swagger") && !name.contains("redoc"));
        for (_, _, contents) in scripts {
            let text = std::str::from_utf8(contents).expect("UTF-8");
            names.extend(text.split("from \"./").skip(1).map(|rest| rest.split('"').next().expect("a name")));
            // Text goes in as text: there is no other way for what entries hold to become markup or code.
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "localStorage",
                "sessionStorage",
            ] {
                assert!(!text.contains(way), "{way}");
            }
        }
        for name in names {
            assert!(asset(name, &HeaderMap::new()).is_ok(), "{name}");
        }
        let inline = |word: &str| word.contains('=') && (word.starts_with("on") || word.starts_with("style"));
        assert!(
            !page.split_whitespace().any(inline) && !page.contains("<style"),
            "the policy refuses what is inline"
        );
        let policy = board().headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("ASCII").to_owned();
        assert!(!policy.contains("unsafe") && policy.starts_with("default-src 'none'"), "{policy}");
    }

    #[test]
    fn an_asset_is_not_sent_again_until_it_changes() {
        let first = asset("board.js", &HeaderMap::new()).expect("there");
        let tag = first.headers()[header::ETAG].clone();
        let with = |tag: HeaderValue| HeaderMap::from_iter([(header::IF_NONE_MATCH, tag)]);
        assert_eq!(asset("board.js", &with(tag.clone())).expect("there").status(), StatusCode::NOT_MODIFIED);
        assert_eq!(asset("api.js", &with(tag)).expect("there").status(), StatusCode::OK);
        assert!(asset("../Cargo.toml", &HeaderMap::new()).is_err());
    }
}
