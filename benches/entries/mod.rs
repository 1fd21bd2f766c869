//! Entries as clients send them, and packs of them, for the benches: about 800 bytes of JSON, an update with both states and metadata.

use sluice::model::{
    pack::{Pack, PackHeader},
    parse::{BodyFormat, ParseContext, Parsed, parse_body},
    tenant::TenantId,
};
use uuid::Uuid;

/// The time of the benches, milliseconds since 1970.
const NOW: i64 = 1_709_208_000_123;

/// The JSON of entry `i`; `who` stands in two of its fields.
pub fn entry(i: u64, who: &str) -> String {
    let id = Uuid::from_u128(0x018d_f4a3_9dcb_774b_bcce_b302_099a_8057 + u128::from(i));
    let minute = i % 60;
    let out = format!(
        concat!(
            r#"{{"id":"{id}","timestamp":"2024-02-29T11:{minute:02}:07.123Z","action":"UPDATE","resource_type":"invoice","#,
            r#""resource_id":"inv-{i:08}","user_id":"user-{minute}","session_id":"b6f0c3d2e41a4f5b9d{i:08}","request_id":"req-{i:012}","#,
            r#""email":"{who}","ip_address":"10.20.30.{minute}","#,
            r#""user_agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/122.0.0.0 Safari/537.36","#,
            r#""severity":"WARNING","message":"Invoice inv-{i:08} changed from draft to sent by {who}","#,
            r#""before_state":{{"status":"draft","total":129.50,"lines":3}},"after_state":{{"status":"sent","total":129.50,"lines":3}},"#,
            r#""metadata":{{"region":"eu-central-1","service":"billing","trace":"{id}","retries":0,"tags":["finance","q1"]}}}}"#
        ),
        id = id,
        minute = minute,
        i = i,
        who = who,
    );
    assert!((700..=900).contains(&out.len()), "an entry of {} bytes", out.len());
    out
}

/// What a request does with a body, up to the records.
pub fn parse(body: &str, format: BodyFormat, tenant: &TenantId) -> Parsed {
    let context = ParseContext {
        tenant,
        subject: "bench",
        now_ms: NOW,
        log_levels: [true; 4],
        keep_unknown_fields: false,
        idempotency_key: None,
        ids: &[],
        max_entries: 10_000,
        max_entry_bytes: 256 << 10,
        resent: None,
    };
    let parsed = parse_body(body.as_bytes(), format, &context).expect("a body");
    assert_eq!(parsed.errors, []);
    parsed
}

/// The pack of a parsed body.
pub fn pack(parsed: Parsed, tenant: &TenantId) -> Pack {
    let header = PackHeader {
        pack_id: Uuid::now_v7(),
        tenant: tenant.clone(),
        actor: "bench".into(),
        request_id: "r".into(),
        received_at: NOW,
        part: (0, 1),
    };
    parsed.builder.finish(header).expect("entries")
}
