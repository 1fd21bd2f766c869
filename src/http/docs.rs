//! The pages, compiled in: the console and the API documentation. They work offline and load nothing from elsewhere.
//!
//! Their `Content-Security-Policy` allows scripts and styles only from this server and nothing inline: what an entry or the
//! document holds can be shown, never run. The console is stricter still: its scripts cannot make markup from text at all (Trusted
//! Types). ReDoc makes two style elements from its script, which never change; they are allowed by their hashes.
//! `console/test/` looks at all pages in a browser and fails on any breach that is reported.

use super::{
    error::{Answer, Problem},
    routes::BASE,
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use std::sync::LazyLock;

/// The console.
const CONSOLE: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
                       form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/// Swagger UI: its pictures are in its style sheet.
const SWAGGER: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; \
                       base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// ReDoc: the first hash is that of an empty element, which its script fills with rules one by one, the second its scroll bar's.
const REDOC: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' \
                     'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; \
                     worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Pages use no device. The console copies an entry when asked.
const PERMISSIONS: &str = "accelerometer=(), autoplay=(), camera=(), clipboard-read=(), clipboard-write=(self), display-capture=(), encrypted-media=(), \
                           fullscreen=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), payment=(), \
                           publickey-credentials-get=(), screen-wake-lock=(), usb=()";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const SWAGGER_INIT: &[u8] = br##"window.addEventListener("load", () => {
  SwaggerUIBundle({ url: "/api/v1/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
});
"##;

/// ReDoc as it is published, but for a picture that it would fetch from its maker's servers: an empty one stands in for it.
static REDOC_SCRIPT: LazyLock<Bytes> = LazyLock::new(|| {
    const EMPTY: &str = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==";
    let script = include_str!("../../console/vendor/redoc/redoc.standalone.js");
    script.replace("https://cdn.redoc.ly/redoc/logo-mini.svg", EMPTY).into()
});

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
];

/// `/logs/board` and `/`: the console. It holds no data; the browser asks for that with a token.
pub fn board() -> Response {
    page(include_str!("../../console/board.html").to_owned(), CONSOLE)
}

/// `/docs`.
pub fn swagger_ui() -> Response {
    page(
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sluice API</title>\
         <link rel=\"icon\" href=\"data:,\"><link rel=\"stylesheet\" href=\"{BASE}/docs/assets/swagger-ui.css\"></head><body><div id=\"swagger-ui\"></div>\
         <script src=\"{BASE}/docs/assets/swagger-ui-bundle.js\"></script><script src=\"{BASE}/docs/assets/swagger-init.js\"></script></body></html>"
        ),
        SWAGGER,
    )
}

/// `/redoc`.
pub fn redoc() -> Response {
    page(
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sluice API</title><link rel=\"icon\" href=\"data:,\"></head><body>\
         <redoc spec-url=\"{BASE}/openapi.json\"></redoc><script src=\"{BASE}/docs/assets/redoc.standalone.js\"></script></body></html>"
        ),
        REDOC,
    )
}

/// Media type and contents of a file.
fn file(name: &str) -> Option<(&'static str, Bytes)> {
    if name == "redoc.standalone.js" {
        return Some((SCRIPT, REDOC_SCRIPT.clone()));
    }
    let (_, media, contents) = ASSETS.iter().find(|(known, ..)| *known == name)?;
    Some((media, Bytes::from_static(contents)))
}

/// One of the scripts and styles. Their tag is made from what is in them, so that no browser mixes files of two versions.
pub fn asset(name: &str, headers: &HeaderMap) -> Answer {
    let (media, contents) = file(name).ok_or_else(Problem::not_found)?;
    let tag = format!("\"{:016x}\"", xxhash_rust::xxh3::xxh3_64(&contents));
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|given| given.as_bytes() == tag.as_bytes());
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(Body::from(contents))
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::ETAG, HeaderValue::from_str(&tag).expect("hexadecimal digits in quotes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn page(html: String, policy: &'static str) -> Response {
    let mut response = Response::new(Body::from(html));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(HTML));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(HeaderName::from_static("permissions-policy"), HeaderValue::from_static(PERMISSIONS));
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
        let policy = |response: Response| response.headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("ASCII").to_owned();
        for policy in [policy(board()), policy(swagger_ui()), policy(redoc())] {
            assert!(
                !policy.contains("unsafe") && !policy.contains("http") && policy.starts_with("default-src 'none'"),
                "{policy}"
            );
        }
        assert!(policy(board()).contains("require-trusted-types-for 'script'"));
        assert!(!REDOC_SCRIPT.windows(11).any(|part| part == b"https://cdn"), "nothing is loaded from elsewhere");
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
