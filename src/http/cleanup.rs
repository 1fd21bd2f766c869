//! Cleanup: an admin erases the tenant's entries whose `timestamp` is older than a cutoff, or counts them first.
//!
//! What was acknowledged before the request is decided first, so that a cleanup right after a write reaches it. The answer
//! comes when the rows are gone for good and counted; when counting takes long, 202 without the number, which then is in the
//! tenant's usage later on.

use super::{
    access,
    dispatch::{Call, json_of},
    error::{Answer, Code, Problem},
    filter,
    query::Query,
    recording,
    state::App,
};
use crate::{
    lifecycle::{access_log::Event, erasure::EraseError},
    model::{
        conditions,
        tenant::{Log, TenantId, TenantScope},
        time::{DAY_MS, now_ms, rfc3339},
    },
    seal::erasure::ErasureKind,
    sinks::StoreError,
};
use axum::http::StatusCode;
use serde::Serialize;
use std::time::Duration;
use tokio::time::timeout;

/// How long a request waits for what was acknowledged before it to be decided.
const DECIDED_WITHIN: Duration = Duration::from_secs(5);
/// How long a request waits until its rows are hidden: a store that takes no seals holds erasures up too.
const HIDDEN_WITHIN: Duration = Duration::from_secs(20);
/// How long it then waits for their number.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);
/// How long a dry run counts.
const DRY_RUN_WITHIN: Duration = Duration::from_secs(25);
/// A hundred years, as for the tenant's retention.
const MOST_DAYS: u32 = 36_500;

#[derive(Serialize)]
struct Cleaned {
    deleted_count: Option<u64>,
    cutoff: String,
    dry_run: bool,
}

/// `DELETE /logs/cleanup` and `DELETE /logs`.
pub async fn cleanup(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, tenant) = access::own_tenant(&call.app, caller, action)?;
    if call.query.get("log").is_some_and(|log| log != Log::Audit.name()) {
        let message = "only retention removes from the access log; `log` is `audit` here";
        return Err(Problem::parameter("log", "invalid_value", message));
    }
    let who = call.who()?;
    let asked = Asked::read(&call.query, scope.tenant(), tenant.settings.retention_days, now_ms())?;
    recording::decided(&call.app, &scope, DECIDED_WITHIN).await;
    let deleted_count = if asked.dry_run {
        let counting = call.app.services.authority.count_would_erase(&scope, ErasureKind::Cleanup, asked.cutoff);
        Some(timeout(DRY_RUN_WITHIN, counting).await.unwrap_or(Err(StoreError::Deadline))?)
    } else {
        erase(&call.app, &scope, asked.cutoff).await?
    };
    let event = Event::change("sluice.cleanup", "log", Log::Audit.name())
        .text("log", Log::Audit.name())
        .flag("dry_run", asked.dry_run)
        .text("cutoff", &rfc3339(asked.cutoff))
        .filters(recording::filters(&call.query));
    // What is still being counted is in the tenant's usage later on.
    let event = deleted_count.into_iter().fold(event, |event, rows| event.number("rows", rows));
    recording::changed(&call.app, &scope, &who, event).await;
    let mut answer = json_of(&Cleaned {
        deleted_count,
        cutoff: rfc3339(asked.cutoff),
        dry_run: asked.dry_run,
    });
    if deleted_count.is_none() {
        *answer.status_mut() = StatusCode::ACCEPTED;
    }
    Ok(answer)
}

/// The number of rows, or `None` when they are hidden and still being counted.
async fn erase(app: &App, scope: &TenantScope, cutoff: i64) -> Result<Option<u64>, Problem> {
    let hidden = timeout(HIDDEN_WITHIN, app.services.eraser.erase(scope, ErasureKind::Cleanup, cutoff)).await;
    let counting = hidden.map_err(|_| unknown())?.map_err(refused)?;
    match timeout(COUNTED_WITHIN, counting.rows()).await {
        Ok(Ok(rows)) => Ok(Some(rows)),
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

fn refused(error: EraseError) -> Problem {
    match error {
        EraseError::Busy => Problem::new(Code::Overloaded, "too many cleanups of this tenant are under way; nothing was erased").retry_after(COUNTED_WITHIN),
        EraseError::Unavailable => Problem::new(Code::Unavailable, "the cleanup cannot be ordered now; nothing was erased").retry_after(COUNTED_WITHIN),
        EraseError::Stopping | EraseError::Unknown => unknown(),
    }
}

fn unknown() -> Problem {
    let detail = "the entries may or may not be erased; send the request again, which erases nothing that it should not";
    Problem::new(Code::UnknownOutcome, detail)
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    cutoff: i64,
    dry_run: bool,
}

impl Asked {
    fn read(query: &Query, tenant: &TenantId, retention_days: u32, now: i64) -> Result<Self, Problem> {
        let (cutoff, dry_run) = filter::both(cutoff(query, retention_days, now), dry_run(query))?;
        match query.get("confirm") {
            Some(name) if name != tenant.as_str() => {
                return Err(Problem::parameter("confirm", "invalid_value", "`confirm` is the id of the credential's tenant"));
            }
            None if cutoff >= now && !dry_run => {
                return Err(Problem::parameter(
                    "confirm",
                    "required",
                    "this erases every entry up to now; to do that, add `confirm` with the id of the tenant, or count first with `dry_run=true`",
                ));
            }
            Some(_) | None => (),
        }
        Ok(Self { cutoff, dry_run })
    }
}

fn cutoff(query: &Query, retention_days: u32, now: i64) -> Result<i64, Problem> {
    match (query.get("days"), query.get("before")) {
        (Some(_), Some(_)) => Err(Problem::parameter("before", "conflict", "give `days` or `before`, not both")),
        (None, None) => Ok(now - i64::from(retention_days) * DAY_MS),
        (None, Some(time)) => conditions::time("before", time).map_err(|(code, message)| Problem::parameter("before", code, message)),
        (Some(days), None) => {
            let plain = !days.is_empty() && days.bytes().all(|b| b.is_ascii_digit());
            let days = days.parse::<u32>().ok().filter(|days| plain && *days <= MOST_DAYS);
            let days = days.ok_or_else(|| Problem::parameter("days", "invalid_number", format!("`days` is a whole number from 0 to {MOST_DAYS}")))?;
            // Zero days are everything up to now, an entry of this very millisecond included.
            Ok(if days == 0 { now + 1 } else { now - i64::from(days) * DAY_MS })
        }
    }
}

fn dry_run(query: &Query) -> Result<bool, Problem> {
    match query.get("dry_run") {
        Some("true") => Ok(true),
        None | Some("false") => Ok(false),
        Some(_) => Err(Problem::parameter("dry_run", "invalid_value", "`dry_run` is true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn asked(raw: &str) -> Result<Asked, String> {
        let tenant = TenantId::parse("acme").expect("a tenant");
        let query = Query::parse(Some(raw)).expect("well formed");
        Asked::read(&query, &tenant, 90, NOW).map_err(|problem| problem.detail().to_owned())
    }

    #[test]
    fn the_cutoff_is_days_or_a_time_or_the_retention() {
        for (raw, cutoff, dry_run) in [
            ("", NOW - 90 * DAY_MS, false),
            ("days=7&dry_run=true", NOW - 7 * DAY_MS, true),
            ("days=36500", NOW - 36_500 * DAY_MS, false),
            ("days=0&confirm=acme", NOW + 1, false),
            ("days=0&dry_run=true", NOW + 1, true),
            ("before=2023-01-01", 1_672_531_200_000, false),
            ("before=2023-01-01T00:00:00%2B01:00&dry_run=false", 1_672_527_600_000, false),
            ("before=2030-01-01&confirm=acme", 1_893_456_000_000, false),
        ] {
            assert_eq!(asked(raw), Ok(Asked { cutoff, dry_run }), "{raw}");
        }
    }

    #[test]
    fn what_is_not_meant_like_that_is_refused() {
        for (raw, says) in [
            ("days=1&before=2023-01-01", "not both"),
            ("days=-1", "whole number"),
            ("days=%2B1", "whole number"),
            ("days=36501", "whole number"),
            ("days=", "whole number"),
            ("before=yesterday", "is no time"),
            ("dry_run=yes", "true or false"),
            ("days=0", "add `confirm`"),
            ("before=2030-01-01", "add `confirm`"),
            ("days=0&confirm=globex", "the credential's tenant"),
            ("days=30&confirm=globex", "the credential's tenant"),
        ] {
            assert!(asked(raw).expect_err(raw).contains(says), "{raw}");
        }
    }
}
