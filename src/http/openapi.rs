//! The OpenAPI 3.1 document, made once from the table of endpoints. What this version does not have is not in it.

use super::routes::{Access, BASE, ENDPOINTS, Endpoint, Form, Operation as Op, Param};
use crate::auth::{
    Principal, Role,
    policy::{self, Action},
};
use serde_json::{Map, Value, json};
use std::sync::OnceLock;

/// The document as JSON text.
pub fn document() -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    TEXT.get_or_init(|| serde_json::to_vec(&build()).expect("plain data always serialises"))
}

fn build() -> Value {
    let mut paths = Map::new();
    for endpoint in ENDPOINTS.iter().filter(|e| e.operation != Op::Asset) {
        let methods = paths.entry(format!("{BASE}{}", endpoint.path)).or_insert_with(|| json!({}));
        methods[endpoint.verb.as_str().to_lowercase()] = operation(endpoint);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "The audit log that never loses, never leaks, never lies.",
            "description": "Writes answer when the entries are durable. Errors are RFC 9457 problem documents; 503 means that nothing was kept, 504 that \
                            the outcome is unknown and the ids in the answer make a resend harmless. Every path answers with and without a trailing slash.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"api_key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A token, or an API key."},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "`slk_…`"},
            },
            "schemas": schemas(),
            "responses": {"Problem": {
                "description": "RFC 9457 problem document",
                "content": {"application/problem+json": {"schema": schema("Problem")}},
            }},
        },
    })
}

fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut out = json!({
        "operationId": operation_id(endpoint),
        "summary": endpoint.summary,
        "tags": [tag(endpoint)],
        "parameters": parameters(endpoint),
        "responses": responses(endpoint),
    });
    match endpoint.access {
        Access::Open => out["security"] = json!([]),
        Access::May(action) => out["x-roles"] = json!(roles(action)),
    }
    if let Some(body) = request_body(endpoint.operation) {
        out["requestBody"] = body;
    }
    out
}

fn operation_id(endpoint: &Endpoint) -> String {
    let words = endpoint.path.split(['/', '{', '}', '.']).filter(|w| !w.is_empty());
    words.fold(endpoint.verb.as_str().to_lowercase(), |id, word| format!("{id}_{word}"))
}

fn tag(endpoint: &Endpoint) -> &'static str {
    match endpoint.operation {
        Op::PostLog | Op::PostBulk | Op::Cleanup => "write",
        Op::ListLogs | Op::SearchLogs | Op::GetLog | Op::Stats | Op::Stream => "read",
        Op::Export | Op::ExportJson | Op::ExportCsv | Op::CreateExport | Op::GetExport | Op::EndExport | Op::DownloadExport | Op::RebuildSearch => "export",
        Op::ListTenants | Op::CreateTenant | Op::GetTenant | Op::UpdateTenant | Op::DeleteTenant | Op::Usage => "tenants",
        Op::ListKeys | Op::CreateKey | Op::RevokeKey | Op::ListUsers | Op::CreateUser | Op::RemoveUser | Op::Login => "credentials",
        Op::ListDeadLetters | Op::GetDeadLetter | Op::DeleteDeadLetter | Op::ReplayDeadLetter => "dead letters",
        Op::HealthReport | Op::HealthLive | Op::HealthReady => "health",
        Op::OpenApi | Op::Board | Op::SwaggerUi | Op::ReDoc | Op::Asset => "documentation",
    }
}

/// The names of the roles that the policy table allows the action: asked of the policy itself.
fn roles(action: Action) -> Vec<&'static str> {
    [
        (Role::Writer, "writer"),
        (Role::Viewer, "viewer"),
        (Role::Auditor, "auditor"),
        (Role::Admin, "admin"),
        (Role::PlatformAdmin, "platform_admin"),
    ]
    .into_iter()
    .filter(|(role, _)| {
        let somebody = Principal {
            subject: "".into(),
            tenant: None,
            roles: vec![*role],
            expires_at: None,
            origin: crate::auth::Origin::Local,
        };
        policy::allowed(&somebody, action)
    })
    .map(|(_, name)| name)
    .collect()
}

fn parameters(endpoint: &Endpoint) -> Vec<Value> {
    let in_path = endpoint
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let form = if name == "id" { Form::Uuid } else { Form::Text };
            json!({"name": name, "in": "path", "required": true, "schema": form_schema(form)})
        });
    let groups = endpoint.params.unwrap_or_default();
    let in_query = groups.iter().copied().flatten().map(query_parameter);
    in_path.chain(in_query).chain(headers(endpoint.operation)).collect()
}

fn query_parameter(param: &Param) -> Value {
    let one = form_schema(param.form);
    let schema = if param.repeats { json!({"type": "array", "items": one}) } else { one };
    let mut out = json!({"name": param.name, "in": "query", "description": param.summary, "schema": schema});
    if param.repeats {
        out["explode"] = json!(true);
    }
    if !param.aliases.is_empty() {
        out["x-aliases"] = json!(param.aliases);
    }
    out
}

fn form_schema(form: Form) -> Value {
    match form {
        // A time may be a date alone, so no `format`.
        Form::Text | Form::Time => json!({"type": "string"}),
        Form::Uuid => json!({"type": "string", "format": "uuid"}),
        Form::Integer => json!({"type": "integer", "minimum": 0}),
        Form::Flag => json!({"type": "boolean"}),
        Form::OneOf(values) => json!({"type": "string", "enum": values}),
    }
}

fn headers(operation: Op) -> Vec<Value> {
    let header = |name: &str, description: &str| json!({"name": name, "in": "header", "description": description, "schema": {"type": "string"}});
    match operation {
        Op::PostLog | Op::PostBulk => vec![
            header("Idempotency-Key", "Makes the ids of entries that have none, so that a resend is harmless"),
            header("Content-Encoding", "gzip or zstd"),
        ],
        Op::Export | Op::ExportJson | Op::ExportCsv => vec![header("TE", "`trailers`: the number of rows comes as the trailer `X-Export-Rows`")],
        Op::DownloadExport => vec![
            header("Range", "One range in bytes, such as `bytes=1000-`"),
            header("If-Range", "The `ETag` that the range is of; of another file, all of it is sent"),
            header("If-None-Match", "`ETag`s of what the client has"),
        ],
        Op::Stream => vec![header("Last-Event-ID", "Resumes Server-Sent Events after this sequence")],
        _ => Vec::new(),
    }
}

fn request_body(operation: Op) -> Option<Value> {
    let body = |content: Value| Some(json!({"required": true, "content": content}));
    match operation {
        Op::PostLog => body(json!({"application/json": {"schema": schema("NewLogEntry")}})),
        Op::PostBulk => {
            let list = json!({"type": "array", "items": schema("NewLogEntry"), "minItems": 1, "maxItems": 10_000});
            let wrapped = json!({"type": "object", "required": ["logs"], "properties": {"logs": list}});
            body(json!({
                "application/json": {"schema": {"oneOf": [list, wrapped]}},
                "application/x-ndjson": {"schema": {"type": "string", "description": "One entry on each line; blank lines are skipped"}},
            }))
        }
        Op::ReplayDeadLetter => Some(json!({
            "required": false, "description": "The corrected entry; without a body the entry is taken as it was",
            "content": {"application/json": {"schema": schema("NewLogEntry")}},
        })),
        Op::CreateExport => Some(json!({"required": false, "content": {"application/json": {"schema": schema("NewExport")}}})),
        Op::SearchLogs => Some(json!({"required": false, "content": {"application/json": {"schema": schema("Search")}}})),
        Op::CreateTenant => body(json!({"application/json": {"schema": schema("NewTenant")}})),
        Op::UpdateTenant => body(json!({"application/json": {"schema": schema("TenantChange")}})),
        Op::CreateKey => body(json!({"application/json": {"schema": schema("NewKey")}})),
        Op::CreateUser => body(json!({"application/json": {"schema": schema("NewUser")}})),
        Op::Login => body(json!({"application/json": {"schema": schema("Login")}})),
        _ => None,
    }
}

fn responses(endpoint: &Endpoint) -> Value {
    let of = |description: &str, name: &str| json!({"description": description, "content": {"application/json": {"schema": schema(name)}}});
    let problem = || json!({"$ref": "#/components/responses/Problem"});
    let mut out = match endpoint.operation {
        Op::PostLog => json!({"201": of("The entry as taken", "LogEntry"), "202": of("Durable, not yet stored", "BulkResult")}),
        Op::PostBulk => json!({
            "201": of("All accepted", "BulkResult"), "202": of("Durable, not yet stored", "BulkResult"), "207": of("Some accepted", "BulkResult"),
        }),
        Op::Export | Op::ExportJson | Op::ExportCsv => json!({"200": export(endpoint.operation)}),
        Op::CreateExport | Op::RebuildSearch => json!({"202": of("The job; `Location` is its address", "Export")}),
        Op::GetExport => json!({"200": of("The job", "Export"), "404": problem()}),
        Op::EndExport => json!({"200": of("It is cancelled", "Export"), "204": {"description": "It was over and is deleted"}, "404": problem()}),
        Op::DownloadExport => {
            let file = |description: &str| {
                json!({"description": description, "content": {
                    "application/json": {}, "application/x-ndjson": {}, "text/csv": {},
                }})
            };
            json!({
                "200": file("The file; it has a strong `ETag`, takes ranges, and is never compressed"), "206": file("The range of it"),
                "304": {"description": "The client has it"}, "404": problem(), "409": problem(), "416": problem(),
            })
        }
        Op::ListLogs | Op::SearchLogs => json!({"200": of("A page", "LogPage")}),
        Op::GetLog => json!({"200": of("The entry", "LogEntry")}),
        Op::Stats => json!({"200": of("The counts", "Stats")}),
        Op::Stream => json!({
            "101": {"description": "WebSocket: one text frame for each entry"},
            "200": {"description": "Server-Sent Events", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
            "426": problem(),
        }),
        Op::Cleanup => json!({
            "200": of("The entries are gone, or counted", "Cleanup"),
            "202": of("The entries are gone and still being counted: `deleted_count` is null, `erased` in the tenant's usage will have it", "Cleanup"),
        }),
        Op::ListTenants => json!({"200": of("The tenants", "TenantList")}),
        Op::CreateTenant => json!({"201": of("The tenant", "Tenant"), "409": problem()}),
        Op::GetTenant | Op::UpdateTenant => json!({"200": of("The tenant", "Tenant")}),
        Op::DeleteTenant => json!({"202": of("It is deleted, and what it had goes in the background", "Deletion"), "404": problem()}),
        Op::Usage => json!({"200": of("The counters", "Usage")}),
        Op::ListKeys => json!({"200": of("The keys", "KeyList")}),
        Op::CreateKey => json!({"201": of("The key; `key` is shown here and never again", "Key"), "409": problem()}),
        Op::ListUsers => json!({"200": of("The people", "UserList")}),
        Op::CreateUser => json!({"201": of("The person", "User"), "409": problem()}),
        Op::RevokeKey | Op::RemoveUser => json!({"204": {"description": "It is gone, and ends at once here, within 10 s everywhere"}, "404": problem()}),
        Op::Login => json!({"200": of("A token", "Token")}),
        Op::ListDeadLetters => json!({"200": of("The dead letters", "DeadLetterList")}),
        Op::GetDeadLetter => json!({"200": of("The dead letter", "DeadLetter")}),
        Op::DeleteDeadLetter => json!({"204": {"description": "It is gone"}}),
        Op::ReplayDeadLetter => json!({
            "201": of("The entry as taken; `Location` is its address", "LogEntry"), "202": of("Durable, not yet stored", "BulkResult"),
        }),
        Op::HealthReport | Op::HealthLive | Op::HealthReady => json!({"200": of("It works", "Health"), "503": of("It does not", "Health")}),
        Op::OpenApi => json!({"200": {"description": "OpenAPI 3.1", "content": {"application/json": {}}}}),
        Op::Board | Op::SwaggerUi | Op::ReDoc | Op::Asset => json!({"200": {"description": "A page", "content": {"text/html": {}}}}),
    };
    let also: &[&str] = match endpoint.operation {
        Op::PostLog | Op::PostBulk => &["401", "403", "413", "415", "422", "429", "503", "504"],
        Op::ListLogs | Op::Stats => &["401", "403", "422", "501", "503", "504"],
        Op::SearchLogs => &["401", "403", "413", "415", "422", "429", "501", "503", "504"],
        Op::CreateExport => &["401", "403", "413", "415", "422", "429", "501", "503", "504"],
        Op::RebuildSearch => &["401", "403", "422", "429", "503"],
        Op::GetExport | Op::EndExport => &["401", "403", "422", "503"],
        Op::DownloadExport => &["401", "403", "422", "429", "503"],
        Op::Export | Op::ExportJson | Op::ExportCsv => &["401", "403", "422", "429", "501", "503", "504"],
        Op::ReplayDeadLetter => &["401", "403", "404", "409", "413", "415", "422", "429", "503", "504"],
        Op::DeleteDeadLetter => &["401", "403", "404", "409", "422", "503"],
        Op::GetLog | Op::GetDeadLetter => &["401", "403", "404", "422", "503"],
        Op::Stream | Op::ListDeadLetters => &["401", "403", "422", "503"],
        Op::Cleanup => &["401", "403", "422", "429", "503", "504"],
        Op::ListKeys | Op::ListUsers => &["401", "403", "404", "422", "503"],
        Op::RevokeKey | Op::RemoveUser => &["401", "403", "422", "503"],
        Op::CreateKey => &["401", "403", "404", "413", "415", "422", "503"],
        Op::CreateUser => &["401", "403", "404", "413", "415", "422", "429", "503"],
        Op::Login => &["401", "413", "415", "422", "429", "503"],
        Op::ListTenants => &["401", "403", "422"],
        Op::CreateTenant => &["401", "403", "413", "415", "422", "501", "503"],
        Op::GetTenant | Op::Usage => &["401", "403", "404", "422"],
        Op::UpdateTenant => &["401", "403", "404", "413", "415", "422", "501", "503"],
        _ => &[],
    };
    for status in also {
        out[*status] = problem();
    }
    if also.contains(&"401") {
        // An address that fails too often is not even told that.
        out["429"] = problem();
    }
    out
}

fn export(operation: Op) -> Value {
    let (entries, text) = (json!({"type": "array", "items": schema("LogEntry")}), json!({"type": "string"}));
    let mut content = json!({});
    if operation != Op::ExportCsv {
        content["application/json"] = json!({"schema": entries});
    }
    if operation == Op::Export {
        content["application/x-ndjson"] = json!({"schema": text});
    }
    if operation != Op::ExportJson {
        content["text/csv"] = json!({"schema": text});
    }
    json!({
        "description": "Every match. A stream that lacks its last chunk (or END_STREAM) broke off and is not whole",
        "headers": {
            "Content-Disposition": {"description": "Names `audit_logs_TENANT_DATE`", "schema": text},
            "X-Export-Degraded": {"description": "`true`: a damaged part of the store was left out", "schema": {"type": "boolean"}},
            "X-Export-Rows": {"description": "Trailer, to `TE: trailers`: the number of rows", "schema": {"type": "integer"}},
        },
        "content": content,
    })
}

fn schemas() -> Value {
    let text = |max: u32| json!({"type": "string", "maxLength": max});
    let maybe = |max: u32| json!({"type": ["string", "null"], "maxLength": max});
    let time = || json!({"type": "string", "format": "date-time"});
    let maybe_time = || json!({"type": ["string", "null"], "format": "date-time"});
    let uuid = || json!({"type": "string", "format": "uuid"});
    let maybe_positive = || json!({"type": ["integer", "null"], "minimum": 1});
    let count = || json!({"type": "integer", "minimum": 0});
    let counts = || json!({"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}});
    let object = || json!({"type": ["object", "null"], "additionalProperties": true});
    let shown = || json!({"type": ["object", "string", "null"], "additionalProperties": true, "description": "A string, `***`, if the whole of it is masked"});
    let severity = || json!({"type": "string", "enum": ["INFO", "WARNING", "ERROR", "CRITICAL"]});
    let list = |name: &str| {
        json!({"type": "object", "required": ["data", "meta"], "properties": {
            "data": {"type": "array", "items": schema(name)},
            "meta": {"type": "object", "properties": {"total": {"type": "integer"}}},
        }})
    };
    let new_entry = json!({
        "id": {"type": ["string", "null"], "format": "uuid", "description": "The client's idempotency key; made by the server when absent"},
        "timestamp": {"type": ["string", "null"], "format": "date-time", "description": "Event time, from 1970 to 24 h in the future"},
        "action": {"type": "string", "minLength": 1, "maxLength": 128},
        "resource_type": {"type": "string", "minLength": 1, "maxLength": 128},
        "resource_id": {"type": "string", "minLength": 1, "maxLength": 512},
        "user_id": maybe(256), "session_id": maybe(256), "request_id": maybe(256), "email": maybe(256),
        "ip_address": {"type": ["string", "null"], "description": "IPv4 or IPv6"},
        "user_agent": maybe(1024),
        "severity": {"type": ["string", "null"], "description": "INFO (default), WARNING, ERROR or CRITICAL, in any case"},
        "message": {"type": ["string", "null"], "maxLength": 32_768},
        "before_state": object(), "after_state": object(), "metadata": object(),
        "tenant_id": {"type": ["string", "null"], "description": "Never trusted; another tenant than the credential's is an error"},
    });
    let mut all = json!({
        "NewLogEntry": {
            "type": "object", "required": ["action", "resource_type", "resource_id"], "properties": new_entry,
        },
        "LogEntry": {
            "type": "object",
            "description": "What the tenant masks reads `***` to roles that see it masked: a part of a text, a whole text, address or value, or a whole object",
            "required": ["id", "tenant_id", "timestamp", "received_at", "action", "resource_type", "resource_id", "severity", "actor", "sequence"],
            "properties": {
                "id": uuid(), "tenant_id": text(63), "timestamp": time(), "received_at": time(), "action": text(128), "resource_type": text(128),
                "resource_id": text(512), "user_id": maybe(256), "session_id": maybe(256), "request_id": maybe(256), "email": maybe(256),
                "ip_address": {"type": ["string", "null"]}, "user_agent": maybe(1024), "severity": severity(),
                "message": {"type": ["string", "null"]}, "before_state": shown(), "after_state": shown(), "metadata": shown(),
                "actor": {"type": "string"},
                "sequence": {"type": ["integer", "null"], "description": "Position in the tenant's log; null until it is numbered"},
            },
        },
        "BulkResult": {"type": "object", "required": ["accepted", "rejected", "duplicates", "errors"], "properties": {
            "accepted": count(), "rejected": count(), "duplicates": count(),
            "ids": {"type": "array", "items": {"type": ["string", "null"], "format": "uuid"}},
            "errors": {"type": "array", "items": schema("ItemError")},
            "decided": {"type": ["object", "null"], "properties": {"stored": count(), "duplicate": count(), "dead_lettered": count()}},
        }},
        "ItemError": {"type": "object", "required": ["field", "code", "message"], "properties": {
            "index": count(), "field": {"type": "string"}, "code": {"type": "string"}, "message": {"type": "string"},
        }},
        "LogPage": {"type": "object", "required": ["data", "meta"], "properties": {
            "data": {"type": "array", "items": schema("LogEntry")},
            "meta": {"type": "object", "properties": {
                "total": {"type": ["integer", "null"]}, "total_is_exact": {"type": "boolean"}, "page": count(), "page_size": count(),
                "pages": {"type": ["integer", "null"]}, "next_cursor": {"type": ["string", "null"]}, "as_of": count(), "degraded": {"type": "boolean"},
            }},
        }},
        "Search": {
            "type": "object",
            "description": "The parameters of GET /logs by their names; a list repeats a parameter; `query` is `search`",
            "properties": {
                "filters": {"type": "object", "description": "May hold any of them"},
                "metadata": {"type": "object", "description": "Leaves, nested as in the entry"},
            },
            "additionalProperties": {"type": ["string", "number", "boolean", "array"]},
        },
        "NewExport": {
            "type": "object", "description": "All optional. Filters and `search` may stand beside `filters` too.", "additionalProperties": true, "properties": {
                "format": {"type": "string", "enum": ["json", "ndjson", "csv"], "default": "json"},
                "csv_safe": {"type": "boolean", "default": false, "description": "In CSV, a leading ' keeps spreadsheets from taking a text for a formula"},
                "sort": {"type": "string", "enum": ["timestamp:desc", "timestamp:asc", "sequence:desc", "sequence:asc"], "default": "timestamp:desc"},
                "search": {"type": "string"},
                "filters": {"type": "object", "additionalProperties": true, "description": "By the names of GET /logs; a list is OR"},
            },
        },
        "Export": {"type": "object", "required": ["id", "pipeline_id", "status", "format", "rows", "bytes", "as_of", "created_at"], "properties": {
            "id": uuid(), "pipeline_id": uuid(), "status": {"type": "string", "enum": ["queued", "running", "done", "failed", "cancelled"]},
            "kind": {"type": "string", "enum": ["export", "rebuild"], "description": "What the job does: `rebuild` copies to the search store, and has no file"},
            "format": {"type": ["string", "null"], "enum": ["json", "ndjson", "csv", null]}, "rows": count(), "bytes": count(),
            "progress": {"type": ["number", "null"], "minimum": 0, "maximum": 1, "description": "The part that is done; null while that is not known"},
            "as_of": {"type": "integer", "minimum": 0, "description": "Only entries up to this sequence are in it"}, "created_at": time(),
            "expires_at": {"type": ["string", "null"], "format": "date-time", "description": "When it is deleted; null until it is over"},
            "download_url": {"type": ["string", "null"], "description": "Null until it is done"}, "error": {"type": ["string", "null"]},
            "degraded": {"type": "boolean", "description": "True if entries may be missing, because the store could not read all that it has"},
        }},
        "Stats": {"type": "object", "properties": {
            "total": count(), "from": maybe_time(), "to": maybe_time(), "by_severity": counts(), "by_action": counts(), "by_resource_type": counts(),
            "top_users": {"type": "array", "items": {"type": "object", "properties": {"user_id": {"type": "string"}, "count": count()}}},
            "unique_users": count(), "approximate": {"type": "boolean"}, "first": maybe_time(), "last": maybe_time(),
            "series": {"type": "array", "items": {"type": "object", "properties": {"start": time(), "count": count(), "by_severity": counts()}}},
            "groups": {"type": "array", "items": {"type": "object", "properties": {
                "key": {"type": "object", "additionalProperties": {"type": ["string", "null"]}}, "count": count(), "unique_users": count(),
                "first": time(), "last": time(),
            }}},
            "degraded": {"type": "boolean"},
        }},
        "TenantSettings": {"type": "object", "properties": {
            "retention_days": count(), "log_levels": {"type": "array", "items": severity()}, "masking": {
                "type": "array", "maxItems": 64, "items": {"type": "string", "minLength": 1, "maxLength": 256},
                "description": "What viewers do not see: fields (`email`), paths into the three objects (`metadata.card`, `before_state.*.ssn`; `*` is any key or element, `\\.` a dot in a key), and \
                    `pattern:email`, `pattern:phone`, `pattern:card`, `pattern:iban`, `pattern:secret_keys` over all text. A condition on a masked field or path is 403 `field_masked`",
            },
            "rate_limit": {"type": ["object", "null"], "additionalProperties": false, "properties": {
                "entries_per_second": maybe_positive(), "bytes_per_second": maybe_positive(), "burst": maybe_positive(),
            }}, "keep_unknown_fields": {"type": "boolean"}, "audit_reads": {"type": "boolean"},
            "access_retention_days": count(),
        }},
        "NewTenant": {"type": "object", "required": ["tenant_id"], "properties": {
            "tenant_id": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"}, "name": maybe(256), "settings": schema("TenantSettings"),
        }},
        "TenantChange": {"type": "object", "properties": {"name": maybe(256), "settings": schema("TenantSettings")}},
        "Tenant": {"type": "object", "required": ["tenant_id", "name", "settings", "created_at", "updated_at"], "properties": {
            "tenant_id": text(63), "name": text(256), "settings": schema("TenantSettings"), "created_at": time(), "updated_at": time(),
        }},
        "Cleanup": {"type": "object", "required": ["deleted_count", "cutoff", "dry_run"], "properties": {
            "deleted_count": {"type": ["integer", "null"], "minimum": 0}, "cutoff": time(), "dry_run": {"type": "boolean"},
        }},
        "TenantList": list("Tenant"),
        "Usage": {"type": "object", "properties": {
            "accepted": count(), "stored": count(), "duplicate": count(), "dead_lettered": count(), "pending": {"type": ["integer", "null"]},
            "erased": count(), "rejected": count(), "bytes": count(), "quota": {"type": ["object", "null"], "properties": {
                "limit": {"type": ["integer", "null"]}, "used": count(), "rate": {"type": ["object", "null"], "properties": {
                    "entries_per_second": maybe_positive(), "entries_burst": maybe_positive(),
                    "bytes_per_second": maybe_positive(), "bytes_burst": maybe_positive(),
                }},
            }},
        }},
        "NewKey": {"type": "object", "required": ["name", "role"], "properties": {
            "name": text(200), "role": {"type": "string", "enum": ["writer", "viewer", "auditor", "admin"]}, "expires_at": maybe_time(),
        }},
        "Key": {"type": "object", "required": ["key_id", "name", "role", "created_at", "expires_at"], "properties": {
            "key_id": {"type": "string"}, "key": {"type": "string", "description": "`slk_…`, in the answer to POST alone"}, "name": text(200),
            "role": {"type": "string"}, "created_at": time(), "expires_at": maybe_time(),
        }},
        "KeyList": list("Key"),
        "NewUser": {
            "type": "object", "required": ["email", "password"], "description": "With `role` or `roles`; `user` stands for writer and viewer",
            "properties": {
                "email": {"type": "string", "format": "email", "maxLength": 254},
                "password": {"type": "string", "format": "password", "minLength": 12, "maxLength": 1024}, "name": maybe(256),
                "role": {"type": "string", "enum": ["writer", "viewer", "auditor", "admin", "user"]}, "roles": {"type": "array", "items": {"type": "string"}},
            },
        },
        "User": {"type": "object", "required": ["user_id", "email", "name", "roles", "created_at"], "properties": {
            "user_id": uuid(), "email": {"type": "string"}, "name": maybe(256), "roles": {"type": "array", "items": {"type": "string"}}, "created_at": time(),
        }},
        "UserList": list("User"),
        "Login": {"type": "object", "required": ["email", "password"], "properties": {
            "email": {"type": "string"}, "password": {"type": "string", "format": "password"},
            "tenant_id": {"type": ["string", "null"], "description": "Which account, for somebody with one password in several tenants"},
        }},
        "Token": {"type": "object", "required": ["access_token", "token_type", "expires_in", "tenant_id"], "properties": {
            "access_token": {"type": "string"}, "token_type": {"type": "string", "enum": ["Bearer"]},
            "expires_in": {"type": "integer", "description": "Seconds"}, "tenant_id": text(63),
        }},
        "DeadLetter": {"type": "object", "required": ["id", "reason", "entry_id", "entry"], "properties": {
            "id": uuid(), "reason": {"type": "string", "enum": ["id_conflict", "tenant_deleted", "poison", "undecodable"]}, "entry_id": uuid(),
            "entry": {"description": "The entry; of what was undecodable, what was sent, as JSON or as a text", "anyOf": [schema("LogEntry"), {"type": "object"}, {"type": "string"}]},
            "detail": {"type": "string", "description": "What is wrong with it, where the reason does not say it"},
            "actor": {"type": "string"}, "received_at": time(), "sealed_at": time(),
        }},
        "DeadLetterList": list("DeadLetter"),
        "Health": {"type": "object", "required": ["status"], "properties": {
            "status": {"type": "string", "enum": ["starting", "ready", "draining", "broken"]}, "version": {"type": "string"},
            "dependencies": {"type": "object"}, "damage": {"type": "array", "items": {"type": "object"}}, "damage_total": count(),
            "degraded_tenants": count(),
        }},
        "Problem": {"type": "object", "required": ["type", "title", "status", "detail", "code", "request_id", "errors"], "properties": {
            "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"},
            "code": {"type": "string"}, "request_id": {"type": "string"}, "errors": {"type": "array", "items": schema("ItemError")},
        }},
    });
    all["Deletion"] = json!({"type": "object", "required": ["id", "tenant_id", "status", "requested_at"], "properties": {
        "id": uuid(), "tenant_id": text(63), "status": {"type": "string", "enum": ["running"]}, "requested_at": time(),
    }});
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_ref<'a>(value: &'a Value, visit: &mut dyn FnMut(&'a str)) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(to)) => visit(to),
                _ => every_ref(value, visit),
            }),
            Value::Array(items) => items.iter().for_each(|item| every_ref(item, visit)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_ids_are_unique() {
        let document = build();
        every_ref(&document, &mut |to| {
            assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
        });
        let mut ids = std::collections::HashSet::new();
        for methods in document["paths"].as_object().expect("paths").values() {
            for operation in methods.as_object().expect("methods").values() {
                assert!(ids.insert(operation["operationId"].as_str().expect("an id")), "{operation}");
            }
        }
    }

    #[test]
    fn roles_are_those_of_the_policy() {
        let document = build();
        for (path, method, want) in [
            ("/logs", "post", vec!["writer", "admin"]),
            ("/logs", "get", vec!["viewer", "auditor", "admin"]),
            ("/logs/stream", "get", vec!["viewer", "auditor", "admin"]),
            ("/tenants", "post", vec!["platform_admin"]),
            ("/deadletters", "get", vec!["admin"]),
            ("/logs/cleanup", "delete", vec!["admin"]),
        ] {
            assert_eq!(document["paths"][format!("/api/v1{path}")][method]["x-roles"], json!(want), "{method} {path}");
        }
        assert_eq!(document["paths"]["/api/v1/health"]["get"]["security"], json!([]));
    }
}
