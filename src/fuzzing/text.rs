//! What clients and their files say: bodies, queries, searches, cursors, credentials, imported files, foreign messages.

use crate::model::tenant::TenantId;

fn tenant() -> TenantId {
    TenantId::parse("acme").expect("a tenant")
}

fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The first byte chooses, the rest is the text.
fn chosen(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

const ENTRY: &str = r#"{"id":"0190163d-8694-739b-aea5-966c26f8ad91","action":"LOGIN","resource_type":"user","resource_id":"u-1","timestamp":"2024-02-29T23:59:59.999+05:30","severity":"WARNING","user_id":"u","email":"a@b.example","ip_address":"2001:db8::1","message":"\u00e9\ud83d\ude00 \"x\"","metadata":{"a":[1,-2.5e300,null,true,{"b":"c"}]},"before_state":{},"tags":["x"]}"#;

/// Bodies of `POST /logs` and `/logs/bulk`.
pub mod entries {
    use super::*;
    use crate::model::{
        pack::{Pack, PackHeader},
        parse::{BodyFormat, ParseContext, parse_body},
    };
    use uuid::Uuid;

    /// The first byte says how the entries are arranged and whether unknown fields are kept.
    pub fn run(data: &[u8]) {
        let (how, body) = chosen(data);
        let (tenant, ids) = (tenant(), [Uuid::from_u128(7)]);
        let context = ParseContext {
            tenant: &tenant,
            subject: "x",
            now_ms: 1_700_000_000_000,
            log_levels: [true; 4],
            keep_unknown_fields: how & 4 != 0,
            idempotency_key: (how & 8 != 0).then_some("key"),
            ids: &ids[..usize::from(how >> 4 & 1)],
            max_entries: 50,
            max_entry_bytes: 64 << 10,
            resent: None,
        };
        let format = [BodyFormat::Single, BodyFormat::Bulk, BodyFormat::Ndjson][usize::from(how & 3) % 3];
        let Ok(parsed) = parse_body(body, format, &context) else { return };
        let taken = parsed.ids.iter().flatten().count();
        assert_eq!(taken, parsed.builder.len(), "an id for each entry that was taken");
        assert!(
            taken == parsed.ids.len() || !parsed.errors.is_empty(),
            "an entry is refused, and nobody says why"
        );
        let header = PackHeader {
            pack_id: Uuid::from_u128(1),
            tenant: tenant.clone(),
            actor: "x".into(),
            request_id: "r".into(),
            received_at: 1_700_000_000_000,
            part: (0, 1),
        };
        let Some(pack) = parsed.builder.finish(header) else { return };
        let again = Pack::decode(pack.bytes().clone()).expect("what is written can be read");
        for (entry, id) in again.entries().zip(parsed.ids.iter().flatten()) {
            assert_eq!(entry.id(), *id);
            super::super::formats::look_at(entry);
        }
    }

    pub fn examples() -> Vec<Vec<u8>> {
        let bulk = format!("\u{1}[{ENTRY},{ENTRY}]");
        let logs = format!("\u{1}{{\"logs\":[{ENTRY}]}}");
        let lines = format!("\u{6}{ENTRY}\n\n{ENTRY}\r\n{{\"action\":1}}\n");
        bytes(&[
            &format!("\0{ENTRY}"),
            &bulk,
            &logs,
            &lines,
            "\u{1d}[{\"action\":\"a\",\"resource_type\":\"b\",\"resource_id\":\"c\",\"more\":1}]",
        ])
    }
}

/// Query strings of lists: escapes, names, filters, pages.
pub mod query {
    use super::*;
    use crate::http::{filter, query::Query};

    pub fn run(data: &[u8]) {
        let Ok(text) = std::str::from_utf8(data) else { return };
        let Ok(query) = Query::parse(Some(text)) else { return };
        let once = filter::filter(&query).ok();
        assert_eq!(once, filter::filter(&query).ok(), "the same query is the same filter");
        let _ = filter::page(&query);
        let _ = filter::sort(&query);
    }

    pub fn examples() -> Vec<Vec<u8>> {
        bytes(&[
            "from=2023-11-14&to=2023-11-20T00:00:00%2B05:30&action=LOGIN,delete&page=2&page_size=7&sort=timestamp:asc",
            "ip_address=10.0.0.0/8&severity=info,ERROR&metadata.a.b=3&metadata.a%2Ec=x&search=alpha+%22beta+gamma%22+-x&total=exact",
            "id=0190163d-8694-739b-aea5-966c26f8ad91&min_sequence=1&max_sequence=18446744073709551615&skip=5&limit=1000",
        ])
    }
}

/// The search language.
pub mod search {
    use super::*;
    use crate::search::{self, MAX_BYTES, MAX_TERMS};

    pub fn run(data: &[u8]) {
        let Ok(text) = std::str::from_utf8(data) else { return };
        let Ok(search) = search::parse(text) else { return };
        assert!(text.len() <= MAX_BYTES && search.terms() <= MAX_TERMS, "a search beyond the bounds is refused");
        assert_eq!(search, search::parse(text).expect("it was good"), "the same text is the same search");
        let _ = format!("{search:?}");
    }

    pub fn examples() -> Vec<Vec<u8>> {
        bytes(&[
            "alpha \"beta gamma\" -(delta OR NOT eps*) user_id:u1 metadata.a.b:3",
            "message:\"a \\\" b\" action:log* (a AND b) OR -c",
            "ip_address:10.0.0.0/8 severity:error Über 日本",
        ])
    }
}

/// Cursors of lists.
pub mod cursor {
    use super::*;
    use crate::{
        http::cursor::{Cursor, CursorKey, Purpose},
        model::filter::Filter,
        sinks::{Place, Sort},
    };

    fn sealed(data: &[u8]) -> (CursorKey, Cursor, Filter) {
        let mut payload = [0; 40];
        payload.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        let word = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("8 bytes"));
        let cursor = Cursor {
            upto: word(0),
            place: Place {
                timestamp: word(8) as i64,
                sequence: word(16),
            },
            shown: word(24),
            page: word(32),
        };
        (CursorKey::derive(b"secret"), cursor, Filter::default())
    }

    /// As it stands it opens for nobody; sealed it comes back, and not for another tenant.
    pub fn run(data: &[u8]) {
        let (key, cursor, filter) = sealed(data);
        let (tenant, other) = (tenant(), TenantId::parse("other").expect("a tenant"));
        let sort = Sort::SequenceAsc;
        let own = Purpose {
            tenant: &tenant,
            filter: &filter,
            sort,
        };
        let text = key.seal(&cursor, own);
        assert_eq!(key.open(&text, own).ok(), Some(cursor));
        let foreign = Purpose { tenant: &other, ..own };
        assert!(key.open(&text, foreign).is_err(), "a cursor of another tenant opens");
        if let Ok(forged) = std::str::from_utf8(data) {
            assert!(key.open(forged, own).is_err(), "a forged cursor opens");
        }
    }

    pub fn examples() -> Vec<Vec<u8>> {
        bytes(&["0102030405060708", &"0f".repeat(56), &"zz".repeat(56)])
    }
}

/// Tokens: taken apart, and not one of them believed.
pub mod token {
    use super::*;
    use crate::auth::{Presented, jwt, jwt::Authenticator, token::Token};
    use std::sync::LazyLock;

    static LOCAL: LazyLock<Authenticator> = LazyLock::new(|| Authenticator::local(b"secret"));

    pub fn run(data: &[u8]) {
        let Ok(text) = std::str::from_utf8(data) else { return };
        if let Ok(token) = Token::parse(text) {
            assert!(text.as_bytes().starts_with(token.message), "what is checked is what was sent");
        }
        // Header and claims as plain JSON, put into the form of a token.
        if let Some((header, claims)) = text.split_once('\n') {
            use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
            let made = format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            let _ = Token::parse(&made);
            let _ = jwt::roles_named(claims);
            assert!(
                LOCAL.authenticate_now(&Presented::bearer(&made)).is_err(),
                "a token that nobody signed is believed"
            );
        }
    }

    pub fn examples() -> Vec<Vec<u8>> {
        bytes(&[
            "{\"alg\":\"HS256\",\"typ\":\"JWT\"}\n{\"sub\":\"u\",\"tenant\":\"acme\",\"role\":[\"admin\"],\"exp\":4102444800}",
            "{\"alg\":\"RS256\",\"kid\":\"k\",\"crit\":[]}\n{\"iss\":\"x\",\"exp\":1e9}",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1In0.c2ln",
        ])
    }
}

/// Key sets of issuers and files of keys.
pub mod keys {
    use super::*;
    use crate::auth::keys::{jwks, pem};

    pub fn run(data: &[u8]) {
        let _ = jwks::parse(data);
        if let Ok(text) = std::str::from_utf8(data) {
            let _ = pem::parse(text);
        }
    }

    pub fn examples() -> Vec<Vec<u8>> {
        bytes(&[
            r#"{"keys":[{"kty":"RSA","kid":"a","use":"sig","alg":"RS256","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"OKP","crv":"Ed25519","x":"AA"}]}"#,
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
        ])
    }
}

/// Files of `sluice ingest`: CSV, CloudTrail, JSON, NDJSON.
pub mod import {
    use super::*;
    use crate::cli::{
        IngestFormat as Format,
        ingest::formats::{Mapping, recognise},
    };
    use std::{io::Cursor, path::Path};

    /// The first byte names the format.
    pub fn run(data: &[u8]) {
        let (how, text) = chosen(data);
        let guessed = recognise(Path::new(["a.csv", "a.json", "a.ndjson.gz", "a"][usize::from(how >> 4 & 3)]), text);
        let format = [Format::Csv, Format::Cloudtrail, Format::Json, Format::Ndjson, guessed][usize::from(how & 15) % 5];
        let mapping = Mapping {
            format,
            tenant: "acme",
            sha256: [7; 32],
        };
        let _ = mapping.read(Box::new(Cursor::new(text.to_vec())), &mut |item| {
            if let Ok(entry) = item.entry {
                assert!(!entry.contains(&b'\n'), "an entry is one line");
                // What stands in its texts is the server's to judge.
                serde_json::from_slice::<&serde_json::value::RawValue>(&entry).expect("an entry is JSON");
            }
            Ok(())
        });
    }

    pub fn examples() -> Vec<Vec<u8>> {
        let trail = r#"{"eventVersion":"1.08","eventTime":"2023-07-10T18:00:00Z","eventSource":"s3.amazonaws.com","eventName":"PutObject","eventID":"0190163d-8694-439b-aea5-966c26f8ad91","userIdentity":{"type":"IAMUser","userName":"u"},"sourceIPAddress":"10.0.0.1","requestParameters":{"bucketName":"b"},"errorCode":"AccessDenied"}"#;
        bytes(&[
            "\0action,resource_type,resource_id,metadata\nLOGIN,user,u1,\"{\"\"a\"\":1}\"\n\"a\nb\",c,d,\n",
            &format!("\u{1}{trail}\n{trail}\n"),
            &format!("\u{1}{{\"Records\":[{trail}]}}"),
            &format!("\u{2}[{ENTRY}]"),
            &format!("\u{3}{ENTRY}\n"),
        ])
    }
}

/// Messages of foreign queues.
pub mod foreign {
    use super::*;
    use crate::{
        catalog::{Tenant, TenantSettings},
        sources::decode_message,
    };
    use std::sync::Arc;

    /// The first byte says whether an attribute names the tenant.
    pub fn run(data: &[u8]) {
        let (how, body) = chosen(data);
        let known = Arc::new(Tenant {
            tenant_id: tenant(),
            name: "acme".into(),
            settings: TenantSettings::default(),
            created_at: "2024-01-01T00:00:00.000Z".into(),
            updated_at: "2024-01-01T00:00:00.000Z".into(),
        });
        let look_up = |id: &TenantId| (*id == known.tenant_id).then(|| known.clone());
        let attribute = [None, Some("acme"), Some("other"), Some("A b")][usize::from(how & 3)];
        let (packs, refused) = decode_message(body, attribute, &look_up);
        let (again, _) = decode_message(body, attribute, &look_up);
        assert_eq!(packs.len() + refused, again.len() + refused, "the same message is the same packs");
        for (pack, same) in packs.iter().zip(&again) {
            assert_eq!(pack.bytes(), same.bytes(), "the same message is the same packs");
            assert_eq!(*pack.tenant(), known.tenant_id, "a source speaks for the tenants that it may speak for");
            pack.entries().for_each(super::super::formats::look_at);
        }
    }

    pub fn examples() -> Vec<Vec<u8>> {
        let own = ENTRY.replacen('{', "{\"tenant_id\":\"acme\",", 1);
        bytes(&[
            &format!("\u{1}{ENTRY}"),
            &format!("\0[{own},{own}]"),
            &format!("\0{{\"logs\":[{own}]}}"),
            &format!("\u{1}{ENTRY}\n{own}\nx\n"),
        ])
    }
}
