//! The one table of endpoints: it feeds the router, the policy check and the OpenAPI document, so that they cannot drift.
//!
//! Everything of the contract is here. What is not here is 404; a known path with another method is 405 with `Allow`.

use crate::auth::policy::Action;
use Access::{May, Open};
use Operation as Op;
use Verb::{Delete, Get, Post, Put};

/// Where the API begins.
pub const BASE: &str = "/api/v1";
/// The live board.
pub const BOARD: &str = "/logs/board";
/// How the paths of one tenant begin.
pub const TENANT: &str = "/tenants/{tenant}";

/// A method. `HEAD` is answered as `GET` without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Verb {
    Get,
    Post,
    Put,
    Delete,
}

impl Verb {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Get => "GET",
            Post => "POST",
            Put => "PUT",
            Delete => "DELETE",
        }
    }
}

/// Who may call.
#[derive(Debug, Clone, Copy)]
pub enum Access {
    /// Everybody.
    Open,
    /// Whom the policy table allows the action.
    May(Action),
}

/// What an endpoint does; [`super::dispatch`] has one arm for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the table says it
pub enum Operation {
    PostLog,
    PostBulk,
    ListLogs,
    SearchLogs,
    Export,
    ExportJson,
    ExportCsv,
    CreateExport,
    GetExport,
    EndExport,
    DownloadExport,
    RebuildSearch,
    GetLog,
    Stats,
    Stream,
    Cleanup,
    ListTenants,
    CreateTenant,
    GetTenant,
    UpdateTenant,
    DeleteTenant,
    Usage,
    ListKeys,
    CreateKey,
    RevokeKey,
    ListUsers,
    CreateUser,
    RemoveUser,
    Login,
    ListDeadLetters,
    GetDeadLetter,
    DeleteDeadLetter,
    ReplayDeadLetter,
    HealthReport,
    HealthLive,
    HealthReady,
    OpenApi,
    Board,
    SwaggerUi,
    ReDoc,
    Asset,
}

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// Its method.
    pub verb: Verb,
    /// Its path below the base (`{name}` is one segment).
    pub path: &'static str,
    /// Whether it answers at the root too.
    pub at_root: bool,
    /// Who may call.
    pub access: Access,
    /// What it does.
    pub operation: Operation,
    /// The query parameters it knows. `None`: any are ignored (probes and pages).
    pub params: Option<&'static [&'static [Param]]>,
    /// One sentence.
    pub summary: &'static str,
}

/// What a parameter's value looks like (for OpenAPI).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Form {
    Text,
    Time,
    Uuid,
    Integer,
    Flag,
    OneOf(&'static [&'static str]),
}

/// One query parameter.
#[derive(Debug)]
pub struct Param {
    /// Its name. `metadata.KEY` stands for every name that begins with `metadata.`.
    pub name: &'static str,
    /// Other names of the same.
    pub aliases: &'static [&'static str],
    /// Its values.
    pub form: Form,
    /// Whether it may be given several times (OR).
    pub repeats: bool,
    /// One sentence.
    pub summary: &'static str,
}

impl Param {
    /// Whether `name` means this parameter.
    pub fn is_named(&self, name: &str) -> bool {
        name == self.name || self.aliases.contains(&name) || (self.name == METADATA && name.strip_prefix("metadata.").is_some_and(|key| !key.is_empty()))
    }
}

/// The pattern of the leaf filters.
pub const METADATA: &str = "metadata.KEY";

const fn filter(name: &'static str, form: Form, summary: &'static str) -> Param {
    Param {
        name,
        aliases: &[],
        form,
        repeats: true,
        summary,
    }
}

const fn once(name: &'static str, form: Form, summary: &'static str) -> Param {
    Param {
        repeats: false,
        ..filter(name, form, summary)
    }
}

const SEVERITIES: Form = Form::OneOf(&["INFO", "WARNING", "ERROR", "CRITICAL"]);

/// Which entries: shared by list, statistics and live feed.
pub const FILTERS: &[Param] = &[
    Param {
        aliases: &["start_time", "start_date"],
        ..filter("from", Form::Time, "Event time, inclusive: RFC 3339 with a zone, or a date (midnight UTC)")
    },
    Param {
        aliases: &["end_time", "end_date"],
        ..filter("to", Form::Time, "Event time, exclusive: RFC 3339 with a zone, or a date (midnight UTC)")
    },
    filter("timestamp", Form::Time, "Event time: an instant, or a date (that UTC day)"),
    filter("id", Form::Uuid, "The entry's id"),
    filter("user_id", Form::Text, "Exact"),
    filter("email", Form::Text, "Exact"),
    filter("session_id", Form::Text, "Exact"),
    filter("action", Form::Text, "Any case; a comma is OR"),
    filter("resource_type", Form::Text, "Any case; a comma is OR"),
    filter("resource_id", Form::Text, "Exact"),
    filter("severity", SEVERITIES, "Any case; a comma is OR"),
    filter("ip_address", Form::Text, "An address or a CIDR range; IPv4-mapped means IPv4"),
    filter("request_id", Form::Text, "Exact"),
    filter("actor", Form::Text, "Exact: the authenticated subject that wrote the entry"),
    filter("user_agent", Form::Text, "All of its words are in the entry's user agent"),
    filter("min_sequence", Form::Integer, "Smallest sequence, inclusive"),
    filter("max_sequence", Form::Integer, "Largest sequence, inclusive"),
    filter(
        METADATA,
        Form::Text,
        "A leaf of `metadata` by its dotted path (`\\.` is a literal dot), by its exact text of at most 512 bytes",
    ),
    filter(
        "search",
        Form::Text,
        "Words (all of them, in any field), `\"a phrase\"`, `-not`, `pre*`, `field:value`, `message:word`, `OR`, parentheses",
    ),
    LOG,
];

const LOG: Param = once(
    "log",
    Form::OneOf(&["audit", "access"]),
    "`access`: the tenant's access log, who read and changed what (roles auditor and admin); default `audit`",
);

const SORT: Param = once(
    "sort",
    Form::OneOf(&["timestamp:desc", "timestamp:asc", "sequence:desc", "sequence:asc", "relevance"]),
    "Order; ties break by sequence in the same direction",
);

const PAGING: &[Param] = &[
    SORT,
    once("page", Form::Integer, "From 1; page × page_size is at most 10,000"),
    Param {
        aliases: &["size", "limit"],
        ..once("page_size", Form::Integer, "1 to 1000, default 50")
    },
    once("skip", Form::Integer, "How many to pass over, instead of `page`"),
    once(
        "total",
        Form::OneOf(&["true", "false", "exact"]),
        "`false` skips the count; with `search` the count ends early unless it is `exact`",
    ),
    once(
        "cursor",
        Form::Text,
        "`next_cursor` of the last answer, with the same filters and `sort`; instead of `page`",
    ),
];

const EXPORT: &[Param] = &[
    SORT,
    once(
        "csv_safe",
        Form::Flag,
        "In CSV, a leading ' keeps spreadsheets from taking a text for a formula",
    ),
];

const FORMAT: &[Param] = &[once("format", Form::OneOf(&["json", "ndjson", "csv"]), "Default json")];

const GROUPING: &[Param] = &[
    once(
        "interval",
        Form::Text,
        "Width of the buckets of a series: 30s, 5m, 1h, 1d, 1w, 1M; at most 10,000 buckets",
    ),
    once("zone", Form::Text, "Whose clock the buckets follow: an IANA name or ±HH:MM; default UTC"),
    Param {
        repeats: true,
        ..once(
            "group_by",
            Form::Text,
            "Fields to group by, also with commas: action, resource_type, severity, user_id, ip_address, session_id, resource_id, metadata.KEY",
        )
    },
    once("limit", Form::Integer, "How many groups, largest first: 1 to 10,000, default 100"),
];

const WAIT_STORED: &[Param] = &[once(
    "wait",
    Form::OneOf(&["stored"]),
    "Answer when every store has committed the entries; 202 past 10 s",
)];

const CLEANUP: &[Param] = &[
    once(
        "days",
        Form::Integer,
        "Entries older than so many days; 0 is everything up to now and needs `confirm`",
    ),
    once(
        "before",
        Form::Time,
        "Entries before this time, instead of `days`: RFC 3339 with a zone, or a date (midnight UTC)",
    ),
    once("dry_run", Form::Flag, "`true` only counts"),
    once("confirm", Form::Text, "The id of the tenant; needed when the cutoff is not in the past"),
    once(
        "log",
        Form::OneOf(&["audit"]),
        "Only `audit`: nothing but retention removes from the access log",
    ),
];

const CONFIRM: &[Param] = &[once("confirm", Form::Text, "The id of the tenant; needed")];

const IDS: &[Param] = &[once("ids", Form::Flag, "`false` leaves the ids out of the answer")];

const FEED: &[Param] = &[
    once("after", Form::Integer, "Resume after this sequence"),
    once(
        "on_slow",
        Form::OneOf(&["catch_up", "gap", "close"]),
        "What to do with a reader that is too slow: catch it up from the store (default), skip and say so, or close",
    ),
    once("token", Form::Text, "The credential, where no header can be set"),
];

const WAIT_SECONDS: &[Param] = &[once("wait", Form::Integer, "Wait up to so many seconds (at most 10) for the entry to appear")];

const LETTERS: &[Param] = &[
    Param {
        repeats: true,
        ..once(
            "reason",
            Form::OneOf(&["id_conflict", "tenant_deleted", "poison"]),
            "Why it was not stored; also several with commas",
        )
    },
    Param {
        repeats: true,
        ..once("entry_id", Form::Uuid, "Id of the entry")
    },
    once(
        "from",
        Form::Time,
        "Letters whose `sealed_at` is this time or later: RFC 3339 with a zone, or a date (midnight UTC)",
    ),
    once("to", Form::Time, "Letters whose `sealed_at` is before this time"),
    once("page", Form::Integer, "From 1"),
    Param {
        aliases: &["size", "limit"],
        ..once("page_size", Form::Integer, "1 to 1000, default 50")
    },
];

const fn end(verb: Verb, path: &'static str, access: Access, operation: Op, params: &'static [&'static [Param]], summary: &'static str) -> Endpoint {
    Endpoint {
        verb,
        path,
        at_root: false,
        access,
        operation,
        params: Some(params),
        summary,
    }
}

const fn public(path: &'static str, operation: Op, summary: &'static str) -> Endpoint {
    Endpoint {
        verb: Get,
        path,
        at_root: true,
        access: Open,
        operation,
        params: None,
        summary,
    }
}

/// The table.
pub const ENDPOINTS: &[Endpoint] = &[
    end(Post, "/logs", May(Action::WriteEntries), Op::PostLog, &[WAIT_STORED], "Write one entry"),
    end(
        Post,
        "/logs/bulk",
        May(Action::WriteEntries),
        Op::PostBulk,
        &[WAIT_STORED, IDS],
        "Write many entries: a JSON array, {\"logs\": […]}, or NDJSON",
    ),
    end(Get, "/logs", May(Action::ReadEntries), Op::ListLogs, &[FILTERS, PAGING], "Find entries"),
    end(
        Post,
        "/logs/search",
        May(Action::ReadEntries),
        Op::SearchLogs,
        &[FILTERS, PAGING],
        "Find entries, with the parameters in a JSON object",
    ),
    end(
        Get,
        "/logs/export",
        May(Action::Export),
        Op::Export,
        &[FILTERS, EXPORT, FORMAT],
        "Every match as one stream, as of one sequence",
    ),
    end(
        Get,
        "/logs/export/json",
        May(Action::Export),
        Op::ExportJson,
        &[FILTERS, EXPORT],
        "Every match as one JSON array",
    ),
    end(
        Get,
        "/logs/export/csv",
        May(Action::Export),
        Op::ExportCsv,
        &[FILTERS, EXPORT],
        "Every match as CSV",
    ),
    end(
        Post,
        "/logs/export",
        May(Action::Export),
        Op::CreateExport,
        &[FILTERS, EXPORT, FORMAT],
        "Every match as a file, made in the background; the parameters may stand in a JSON object",
    ),
    end(
        Post,
        "/logs/index/bulk",
        May(Action::Erase),
        Op::RebuildSearch,
        &[],
        "Copy the tenant's logs from the log of record to the search store, in the background; the job is one of /logs/export/{id}",
    ),
    end(Get, "/logs/export/{id}", May(Action::Export), Op::GetExport, &[], "Where an export job stands"),
    end(
        Delete,
        "/logs/export/{id}",
        May(Action::Export),
        Op::EndExport,
        &[],
        "Cancel an export job; one that is over is deleted",
    ),
    end(
        Get,
        "/logs/export/{id}/download",
        May(Action::Export),
        Op::DownloadExport,
        &[],
        "The file of an export job that is done, or a range of it",
    ),
    end(Get, "/logs/stats", May(Action::ReadEntries), Op::Stats, &[FILTERS, GROUPING], "Count entries"),
    end(
        Get,
        "/logs/stream",
        May(Action::Stream),
        Op::Stream,
        &[FILTERS, FEED],
        "Live feed: WebSocket, or Server-Sent Events by Accept",
    ),
    end(
        Get,
        "/logs/{id}",
        May(Action::ReadEntries),
        Op::GetLog,
        &[WAIT_SECONDS, &[LOG]],
        "Get one entry",
    ),
    end(
        Delete,
        "/logs/cleanup",
        May(Action::Erase),
        Op::Cleanup,
        &[CLEANUP],
        "Erase the entries whose timestamp is before a cutoff, by default the tenant's retention",
    ),
    end(Delete, "/logs", May(Action::Erase), Op::Cleanup, &[CLEANUP], "The same as /logs/cleanup"),
    end(
        Get,
        "/tenants",
        May(Action::ListTenants),
        Op::ListTenants,
        &[],
        "List the tenants that the credential covers",
    ),
    end(Post, "/tenants", May(Action::CreateTenant), Op::CreateTenant, &[], "Create a tenant"),
    end(Get, "/tenants/{tenant}", May(Action::ReadTenant), Op::GetTenant, &[], "Get a tenant"),
    end(
        Put,
        "/tenants/{tenant}",
        May(Action::UpdateTenant),
        Op::UpdateTenant,
        &[],
        "Change a tenant's name and settings",
    ),
    end(
        Delete,
        "/tenants/{tenant}",
        May(Action::DeleteTenant),
        Op::DeleteTenant,
        &[CONFIRM],
        "Delete a tenant with everything that it has; nobody gets its id again",
    ),
    end(
        Get,
        "/tenants/{tenant}/usage",
        May(Action::ReadUsage),
        Op::Usage,
        &[],
        "The tenant's counters: accepted = stored + duplicate + dead_lettered + pending",
    ),
    end(
        Get,
        "/tenants/{tenant}/keys",
        May(Action::ManageKeys),
        Op::ListKeys,
        &[],
        "List the tenant's API keys, without their secrets",
    ),
    end(
        Post,
        "/tenants/{tenant}/keys",
        May(Action::ManageKeys),
        Op::CreateKey,
        &[],
        "Make an API key; the answer alone shows it",
    ),
    end(
        Delete,
        "/tenants/{tenant}/keys/{item}",
        May(Action::ManageKeys),
        Op::RevokeKey,
        &[],
        "Revoke an API key",
    ),
    end(
        Get,
        "/tenants/{tenant}/users",
        May(Action::ManageUsers),
        Op::ListUsers,
        &[],
        "List the tenant's people with a password",
    ),
    end(
        Post,
        "/tenants/{tenant}/users",
        May(Action::ManageUsers),
        Op::CreateUser,
        &[],
        "Add somebody with a password",
    ),
    end(
        Delete,
        "/tenants/{tenant}/users/{item}",
        May(Action::ManageUsers),
        Op::RemoveUser,
        &[],
        "Remove somebody, by id or e-mail address; their tokens end",
    ),
    end(Post, "/login", Open, Op::Login, &[], "A token for an e-mail address and a password"),
    end(
        Get,
        "/deadletters",
        May(Action::ReadDeadLetters),
        Op::ListDeadLetters,
        &[LETTERS],
        "What could not be stored, with the reason and the original",
    ),
    end(
        Get,
        "/deadletters/{id}",
        May(Action::ReadDeadLetters),
        Op::GetDeadLetter,
        &[],
        "One of what could not be stored",
    ),
    end(
        Post,
        "/deadletters/{id}/replay",
        May(Action::ChangeDeadLetters),
        Op::ReplayDeadLetter,
        &[WAIT_STORED],
        "Accept the entry of a dead letter once more, as it was or as the body corrects it; the letter is removed when that is durable",
    ),
    end(
        Delete,
        "/deadletters/{id}",
        May(Action::ChangeDeadLetters),
        Op::DeleteDeadLetter,
        &[],
        "Remove a dead letter for good",
    ),
    public("/health", Op::HealthReport, "How the process is"),
    public("/healthz", Op::HealthReport, "How the process is"),
    public("/health/live", Op::HealthLive, "Whether the process answers"),
    public("/health/ready", Op::HealthReady, "Whether the process should get requests"),
    public("/openapi.json", Op::OpenApi, "This document"),
    public(BOARD, Op::Board, "The live board"),
    public("/docs", Op::SwaggerUi, "Swagger UI"),
    public("/redoc", Op::ReDoc, "ReDoc"),
    public("/docs/assets/{file}", Op::Asset, "Scripts and styles of the documentation pages"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_endpoint_and_no_parameter_name_is_there_twice() {
        let mut seen = HashSet::new();
        for endpoint in ENDPOINTS {
            assert!(
                seen.insert((endpoint.verb.as_str(), endpoint.path)),
                "{} {}",
                endpoint.verb.as_str(),
                endpoint.path
            );
            let mut names = HashSet::new();
            for param in endpoint.params.unwrap_or_default().iter().copied().flatten() {
                for name in std::iter::once(&param.name).chain(param.aliases) {
                    assert!(names.insert(*name), "{name} of {}", endpoint.path);
                }
            }
        }
    }
}
