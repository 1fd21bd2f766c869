//! Request bodies: received, decompressed and recognised, inside limits on both sizes and inside the memory budget.

use super::{
    error::{Code, Problem},
    memory::Held,
    settings::HttpSettings,
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use std::io::{ErrorKind, Read};

/// A zstd frame may ask for a window as large as this (2^24 bytes, the largest body); more would be memory for nothing.
const ZSTD_WINDOW_LOG: u32 = 24;
const DECODE_STEP: usize = 64 << 10;

/// What a body is, by its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// JSON.
    Json,
    /// One JSON value on each line.
    Ndjson,
    /// curl's default: JSON if it begins as JSON does.
    Form,
}

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not.
    Identity,
    /// RFC 1952, members may follow each other.
    Gzip,
    /// RFC 8878, frames may follow each other.
    Zstd,
}

/// What the headers say about the body; 415 when it is nothing that we read.
pub fn describe(headers: &HeaderMap) -> Result<(Media, Encoding), Problem> {
    Ok((media(headers)?, encoding(headers)?))
}

fn media(headers: &HeaderMap) -> Result<Media, Problem> {
    let refused = || {
        Problem::new(
            Code::UnsupportedMediaType,
            "the media type is not known; send application/json or application/x-ndjson, in UTF-8",
        )
    };
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let Some(value) = values.next() else { return Ok(Media::Json) };
    if values.next().is_some() {
        return Err(refused());
    }
    let text = value.to_str().map_err(|_| refused())?;
    let mut parts = text.split(';');
    let essence = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    for parameter in parts {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let utf8 = ["utf-8", "utf8", "us-ascii"]
            .iter()
            .any(|n| value.trim().trim_matches('"').eq_ignore_ascii_case(n));
        if name.trim().eq_ignore_ascii_case("charset") && !utf8 {
            return Err(refused());
        }
    }
    match essence.as_str() {
        "" | "application/json" => Ok(Media::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Media::Ndjson),
        "application/x-www-form-urlencoded" => Ok(Media::Form),
        json if json.starts_with("application/") && json.ends_with("+json") => Ok(Media::Json),
        _ => Err(refused()),
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let mut found = Encoding::Identity;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        for name in value.to_str().unwrap_or("?").split(',').map(str::trim).filter(|n| !n.is_empty()) {
            let next = match name.to_ascii_lowercase().as_str() {
                "identity" => continue,
                "gzip" | "x-gzip" => Some(Encoding::Gzip),
                "zstd" => Some(Encoding::Zstd),
                _ => None,
            };
            match next {
                Some(next) if found == Encoding::Identity => found = next,
                _ => {
                    return Err(Problem::new(
                        Code::UnsupportedEncoding,
                        "the content encoding is not known; send the body plain, or as one of gzip and zstd",
                    )
                    .with_header(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd")));
                }
            }
        }
    }
    Ok(found)
}

fn too_large(settings: &HttpSettings) -> Problem {
    Problem::new(
        Code::TooLarge,
        format!(
            "the body is larger than {} bytes, received or decompressed; send less at once",
            settings.max_body_bytes
        ),
    )
}

/// The length that the client announces.
pub fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Receives a body. An announced length that is too large, or finds no room now, is refused before anything is read.
pub async fn receive(headers: &HeaderMap, body: Body, settings: &HttpSettings, held: &mut Held) -> Result<Bytes, Problem> {
    let announced = announced(headers);
    if announced.is_some_and(|len| len > settings.max_body_bytes) {
        return Err(too_large(settings));
    }
    held.check(announced.unwrap_or_default())?;
    let all = tokio::time::timeout(settings.body_total, collect(body, announced, settings, held)).await;
    all.unwrap_or_else(|_late| Err(timed_out()))
}

fn timed_out() -> Problem {
    Problem::new(Code::BodyTimeout, "the body did not arrive in time; nothing was kept")
}

async fn collect(mut body: Body, announced: Option<usize>, settings: &HttpSettings, held: &mut Held) -> Result<Bytes, Problem> {
    // Most bodies arrive in one piece and are never copied.
    let (mut first, mut rest) = (Bytes::new(), Vec::new());
    loop {
        let frame = tokio::time::timeout(settings.body_idle, body.frame()).await.map_err(|_late| timed_out())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| Problem::new(Code::BodyCutOff, "the connection ended inside the body; nothing was kept"))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        let so_far = first.len().max(rest.len());
        if so_far + data.len() > settings.max_body_bytes {
            return Err(too_large(settings));
        }
        held.grow(data.len())?;
        if so_far == 0 {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(announced.unwrap_or_default().max(2 * first.len()));
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.into() })
}

/// Decompresses. Stops at the size limit: a bomb costs no more than the largest honest body. Works without waiting, for
/// milliseconds: not for the reactor.
pub fn decode(bytes: Bytes, encoding: Encoding, settings: &HttpSettings, held: &mut Held) -> Result<Bytes, Problem> {
    let broken = |name: &str| Problem::body("broken_encoding", format!("the body is no whole {name} stream; nothing was kept"));
    match encoding {
        Encoding::Identity => Ok(bytes),
        Encoding::Gzip => read_all(flate2::bufread::MultiGzDecoder::new(&bytes[..]), settings, held, &|| broken("gzip")),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&bytes[..]).map_err(|_| broken("zstd"))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|_| broken("zstd"))?;
            read_all(decoder, settings, held, &|| broken("zstd"))
        }
    }
}

fn read_all(mut from: impl Read, settings: &HttpSettings, held: &mut Held, broken: &dyn Fn() -> Problem) -> Result<Bytes, Problem> {
    let mut out = Vec::new();
    let mut step = vec![0; DECODE_STEP];
    loop {
        match from.read(&mut step) {
            Ok(0) => return Ok(out.into()),
            Ok(n) if out.len() + n > settings.max_body_bytes => return Err(too_large(settings)),
            Ok(n) => {
                held.grow(n)?;
                out.extend_from_slice(&step[..n]);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(broken()),
        }
    }
}

/// Takes curl's default form type as JSON if the body begins as JSON does, else 415.
pub fn settle_form(media: Media, body: &[u8]) -> Result<Media, Problem> {
    let begins_as_json = || matches!(body.iter().find(|b| !b.is_ascii_whitespace()), Some(b'{' | b'['));
    match media {
        Media::Form if begins_as_json() => Ok(Media::Json),
        Media::Form => Err(Problem::new(
            Code::UnsupportedMediaType,
            "a form is not known here; send JSON with content type application/json",
        )),
        media => Ok(media),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{http::memory::BodyMemory, model::tenant::TenantId};
    use std::{io::Write, sync::Arc};

    fn held(memory: &Arc<BodyMemory>) -> Held {
        memory.hold(TenantId::parse("acme").expect("a tenant"))
    }

    fn gzip(data: &[u8]) -> Bytes {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).expect("memory");
        encoder.finish().expect("memory").into()
    }

    fn zstd(data: &[u8]) -> Bytes {
        zstd::encode_all(data, 1).expect("memory").into()
    }

    fn status<T>(result: Result<T, Problem>) -> u16 {
        result.map_or_else(|p| p.code().row().0.as_u16(), |_| 200)
    }

    #[test]
    fn media_types_follow_the_contract() {
        for (value, want) in [
            (None, Ok(Media::Json)),
            (Some("application/json"), Ok(Media::Json)),
            (Some("Application/JSON; charset=UTF-8"), Ok(Media::Json)),
            (Some("application/cloudevents+json"), Ok(Media::Json)),
            (Some("application/x-ndjson"), Ok(Media::Ndjson)),
            (Some("application/x-www-form-urlencoded"), Ok(Media::Form)),
            (Some("text/plain"), Err(415)),
            (Some("application/json; charset=latin1"), Err(415)),
            (Some("application/xml"), Err(415)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            }
            assert_eq!(media(&headers).map_err(|p| p.code().row().0.as_u16()), want, "{value:?}");
        }
        assert_eq!(settle_form(Media::Form, b" \n[1]").map_err(|_| ()), Ok(Media::Json));
        assert_eq!(status(settle_form(Media::Form, b"a=b")), 415);
        assert_eq!(status(settle_form(Media::Form, b"")), 415);
    }

    #[test]
    fn encodings_follow_the_contract() {
        for (value, want) in [
            ("gzip", Ok(Encoding::Gzip)),
            ("ZSTD", Ok(Encoding::Zstd)),
            ("identity", Ok(Encoding::Identity)),
            ("", Ok(Encoding::Identity)),
            ("br", Err(415)),
            ("gzip, zstd", Err(415)),
            ("deflate", Err(415)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(encoding(&headers).map_err(|p| p.code().row().0.as_u16()), want, "{value}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit_and_a_cut_stream_is_422() {
        let settings = HttpSettings::default();
        let memory = BodyMemory::new(settings.body_memory_bytes, settings.body_memory_tenant_bytes);
        let data = vec![b' '; 2 * settings.max_body_bytes];
        for (encoding, packed) in [(Encoding::Gzip, gzip(&data)), (Encoding::Zstd, zstd(&data))] {
            assert!(packed.len() < 200_000);
            assert_eq!(status(decode(packed.clone(), encoding, &settings, &mut held(&memory))), 413);
            assert_eq!(status(decode(packed.slice(..packed.len() - 5), encoding, &settings, &mut held(&memory))), 413);
        }
        for (encoding, packed) in [(Encoding::Gzip, gzip(b"[1,2,3]")), (Encoding::Zstd, zstd(b"[1,2,3]"))] {
            assert_eq!(
                decode(packed.clone(), encoding, &settings, &mut held(&memory)).map_err(|_| ()),
                Ok(Bytes::from_static(b"[1,2,3]"))
            );
            assert_eq!(status(decode(packed.slice(..packed.len() - 2), encoding, &settings, &mut held(&memory))), 422);
            assert_eq!(status(decode(Bytes::from_static(b"[1,2,3]"), encoding, &settings, &mut held(&memory))), 422);
            let twice = Bytes::from([&packed[..], &packed[..]].concat());
            assert_eq!(
                decode(twice, encoding, &settings, &mut held(&memory)).map_or(0, |b| b.len()),
                14,
                "streams may follow each other"
            );
        }
        let small = BodyMemory::new(1 << 20, 1 << 20);
        assert_eq!(status(decode(gzip(&data[..2 << 20]), Encoding::Gzip, &settings, &mut held(&small))), 429);
    }

    #[tokio::test]
    async fn received_bytes_have_the_limit_too_announced_or_not() {
        let settings = HttpSettings {
            max_body_bytes: 10,
            ..HttpSettings::default()
        };
        let memory = BodyMemory::new(1000, 1000);
        let mut announced = HeaderMap::new();
        announced.insert(header::CONTENT_LENGTH, HeaderValue::from_static("11"));
        assert_eq!(status(receive(&announced, Body::empty(), &settings, &mut held(&memory)).await), 413);
        let pieces = |n: usize| {
            let stream = futures_util::stream::iter((0..n).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"abc"))));
            Body::from_stream(stream)
        };
        assert_eq!(status(receive(&HeaderMap::new(), pieces(4), &settings, &mut held(&memory)).await), 413);
        let all = receive(&HeaderMap::new(), pieces(3), &settings, &mut held(&memory)).await;
        assert_eq!(all.map_err(|_| ()), Ok(Bytes::from_static(b"abcabcabc")));
        let broken = Body::from_stream(futures_util::stream::iter([Ok(Bytes::from_static(b"a")), Err(std::io::Error::other("gone"))]));
        assert_eq!(status(receive(&HeaderMap::new(), broken, &settings, &mut held(&memory)).await), 400);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_given_up() {
        let memory = BodyMemory::new(1000, 1000);
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(
            status(receive(&HeaderMap::new(), never, &HttpSettings::default(), &mut held(&memory)).await),
            408
        );
    }
}
