//! Reading: pages, counts, and streams of all matches.
//!
//! Every read is pinned to the tenant's head in the seals that this store has applied: `sequence <= upto`. Rows never change, so that a
//! pinned read is as stable as a point in time, costs the engine nothing between two pages, and cannot expire. The tenant, the pin and
//! the erasures are conditions of every query, added in [`Plan::new`], which cannot be had without a [`TenantScope`].
//!
//! What the engine finds is looked at once more: each row is checked against the tenant, the erasures and the filter itself
//! ([`Filter::matches`]), so that where a query is only a superset ([`Bounds`]) the answer is exact all the same. Counts are the engine's
//! where it knows, plus those of the rows between the bounds. An answer of which a shard is missing, or that ran out of time, is an error.

use super::{
    Inner,
    client::{Body, Fault},
    compile,
    document::{F, Source},
    query::{Bounds, Query},
};
use crate::{
    model::{
        entry::StoredEntry,
        filter::{Filter, Surroundings},
        tenant::TenantScope,
    },
    seal::erasure::{ErasureKind, Erasures},
    sinks::{Count, ListPage, ListQuery, Place, Scan, Sort, StoreError, retry::Remedy},
};
use opensearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::sync::Arc;
use tokio::time::Instant;

/// Rows of the first request, and the most of any.
const FIRST_ROWS: usize = 64;
const MOST_ROWS: usize = 1_000;
/// What one answer should be at most, bytes.
const ANSWER_BYTES: usize = 8 << 20;
/// Steps of a staircase that become conditions; with more, erased rows are left out as they come.
const MOST_STEPS: usize = 64;
/// Numbers whose absence is looked for in one scan.
const SPAN: u64 = 1 << 16;
/// Rows that the engine passes over by itself; it has a window of twice as many.
const MOST_SKIPPED: usize = 10_000;
/// Names of rows in one answer.
const MOST_NAMES: usize = 10_000;

/// A read of one log as of one number.
pub struct Plan {
    scope: TenantScope,
    path: String,
    filter: Filter,
    erasures: Option<Arc<Erasures>>,
    /// Up to which number.
    pub upto: u64,
    /// What is asked.
    pub bounds: Bounds,
}

impl Plan {
    /// Reads what matches, up to a number at most.
    pub fn new(inner: &Inner, scope: &TenantScope, filter: Filter, upto: Option<u64>) -> Self {
        let tenant = scope.tenant();
        let head = inner.view.head(tenant);
        let upto = upto.map_or(head, |upto| upto.min(head));
        let erasures = inner.view.erasures(tenant).filter(|all| !all.is_empty());
        let bounds = Bounds::exact(Query::term(F::TENANT, tenant.as_str()))
            .and(Bounds::exact(Query::range(F::SEQUENCE, [("lte", compile::number(upto))])))
            .and(erasures.as_ref().map_or(Bounds::exact(Query::All), |all| erased(all).negated()))
            .and(compile::filter(&filter));
        Self {
            path: format!("/{}/_search", inner.schema.alias(tenant)),
            scope: scope.clone(),
            filter,
            erasures,
            upto,
            bounds,
        }
    }

    /// Reads every row there is up to a number, whatever the view says: erased ones too, for housekeeping.
    pub fn of_everything(inner: &Inner, scope: &TenantScope, filter: Filter, upto: u64) -> Self {
        let tenant = scope.tenant();
        let bounds = Bounds::exact(Query::term(F::TENANT, tenant.as_str()))
            .and(Bounds::exact(Query::range(F::SEQUENCE, [("lte", compile::number(upto))])))
            .and(compile::filter(&filter));
        Self {
            path: format!("/{}/_search", inner.schema.alias(tenant)),
            scope: scope.clone(),
            filter,
            erasures: None,
            upto,
            bounds,
        }
    }

    /// Whether nothing can match.
    fn is_empty(&self) -> bool {
        self.upto == 0 || self.bounds.upper == Query::None
    }

    /// The row, if it is one that is asked for.
    fn kept(&self, entry: &StoredEntry) -> bool {
        let (record, sequence) = (entry.entry(), entry.sequence.unwrap_or(u64::MAX));
        let around = Surroundings { sequence, actor: &entry.actor };
        sequence <= self.upto && !self.is_erased(entry) && self.filter.matches(&record, around)
    }

    fn is_erased(&self, entry: &StoredEntry) -> bool {
        let sequence = entry.sequence.unwrap_or(u64::MAX);
        let covers = |all: &Arc<Erasures>| all.covers(entry.entry().timestamp(), entry.received_at, sequence);
        self.erasures.as_ref().is_some_and(covers)
    }

    /// As it is shown to who asks.
    fn shown(&self, entry: StoredEntry) -> StoredEntry {
        match &self.filter.mask {
            Some(mask) => mask.entry(&entry),
            None => entry,
        }
    }
}

/// The rows that erasures hide.
pub fn erased(all: &Erasures) -> Bounds {
    if all.steps().count() > MOST_STEPS {
        return Bounds::unknown();
    }
    Bounds::any(all.steps().map(|(kind, cutoff, head)| {
        let time = match kind {
            ErasureKind::Cleanup => F::TIMESTAMP,
            ErasureKind::Retention => F::RECEIVED,
        };
        let before = Query::range(time, [("lt", cutoff.into())]);
        Bounds::exact(before.and(Query::range(F::SEQUENCE, [("lte", compile::number(head))])))
    }))
}

/// What the engine answers to a search.
#[derive(Deserialize)]
struct Answer<'a> {
    timed_out: bool,
    #[serde(rename = "_shards")]
    shards: Shards,
    #[serde(borrow)]
    hits: Hits<'a>,
}

#[derive(Deserialize)]
struct Shards {
    failed: u64,
}

#[derive(Deserialize)]
struct Hits<'a> {
    #[serde(default)]
    total: Option<Total>,
    #[serde(borrow, default)]
    hits: Vec<Hit<'a>>,
}

#[derive(Deserialize)]
struct Total {
    value: u64,
    relation: String,
}

/// One row found.
#[derive(Deserialize)]
pub struct Hit<'a> {
    #[serde(borrow, rename = "_index")]
    pub index: std::borrow::Cow<'a, str>,
    #[serde(borrow, rename = "_id")]
    pub id: std::borrow::Cow<'a, str>,
    #[serde(borrow, rename = "_source", default)]
    source: Option<&'a RawValue>,
    #[serde(default)]
    pub sort: Vec<i64>,
}

impl Inner {
    /// One search, whole or an error; once more, if the network broke and there is budget for it.
    async fn search<T>(&self, plan: &Plan, body: Value, deadline: Instant, read: impl Fn(Answer2<'_>) -> Result<T, Fault>) -> Result<T, StoreError> {
        let routing = plan.scope.tenant().as_str();
        let query = [("routing", routing), ("allow_partial_search_results", "false"), ("ignore_unavailable", "true")];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Deadline);
            }
            if !self.breaker.admits() {
                return Err(Fault::new(crate::sinks::retry::Symptom::Unreachable, "the search store does not answer").into());
            }
            let sent = self.client.send(Method::Post, &plan.path, &query, Body::Json(body.clone()), Some(left)).await;
            let fault = match sent {
                Ok(bytes) => {
                    self.breaker.worked();
                    match answer(&bytes).and_then(|answer| read(Answer2 { bytes: bytes.len(), answer })) {
                        Ok(found) => {
                            self.budget.earn();
                            return Ok(found);
                        }
                        Err(fault) => fault,
                    }
                }
                Err(fault) => {
                    if matches!(fault.remedy, Remedy::Again | Remedy::Slower) {
                        self.breaker.failed();
                    }
                    fault
                }
            };
            if Instant::now() >= deadline {
                return Err(StoreError::Deadline);
            }
            if fault.remedy != Remedy::Again || !self.budget.spend() {
                return Err(fault.into());
            }
        }
    }

    /// How many rows there are in a query, at most `most` if that is given; and whether that is all of them.
    async fn count(&self, plan: &Plan, query: &Query, most: Option<u64>, deadline: Instant) -> Result<(u64, bool), StoreError> {
        if *query == Query::None || plan.upto == 0 {
            return Ok((0, true));
        }
        let track = most.map_or(Value::Bool(true), |most| Value::from(most.clamp(1, i32::MAX as u64)));
        let body = json!({ "size": 0, "query": query.to_json(), "track_total_hits": track });
        self.search(plan, body, deadline, |found| {
            let total = found.answer.hits.total.ok_or_else(|| Fault::unreadable("a count"))?;
            Ok((total.value, total.relation == "eq"))
        })
        .await
    }
}

/// An answer with its size.
struct Answer2<'a> {
    bytes: usize,
    answer: Answer<'a>,
}

fn answer(bytes: &[u8]) -> Result<Answer<'_>, Fault> {
    let answer: Answer<'_> = serde_json::from_slice(bytes).map_err(|_| Fault::unreadable("a search"))?;
    // A failed shard is an answer with a 200 and too few rows in it.
    let missing = |what: &str| Fault::new(crate::sinks::retry::Symptom::Http { status: 503, kind: "" }, what);
    if answer.shards.failed > 0 {
        return Err(missing("a shard of the search store did not answer"));
    }
    if answer.timed_out {
        return Err(missing("a search ran out of time in the search store"));
    }
    Ok(answer)
}

/// All rows of a query in an order, portion by portion.
pub struct Stream<'a> {
    inner: &'a Inner,
    plan: &'a Plan,
    query: Value,
    sort: Sort,
    after: Option<Place>,
    from: usize,
    rows: usize,
    deadline: Instant,
    done: bool,
    last: Option<u64>,
}

impl<'a> Stream<'a> {
    /// The rows of `query` behind `after`; the first request asks for so many.
    pub fn new(inner: &'a Inner, plan: &'a Plan, query: &Query, sort: Sort, after: Option<Place>, deadline: Instant) -> Self {
        Self {
            done: *query == Query::None || plan.upto == 0,
            inner,
            plan,
            query: query.to_json(),
            sort,
            after,
            from: 0,
            rows: FIRST_ROWS,
            deadline,
            last: None,
        }
    }

    /// Passes over the first rows.
    fn skipping(mut self, rows: usize) -> Self {
        self.from = rows;
        self
    }

    /// How many are wanted at first.
    fn wanting(mut self, rows: usize) -> Self {
        self.rows = rows.clamp(1, FIRST_ROWS);
        self
    }

    /// The next rows, whether they match or not; none, when there are no more.
    pub async fn next(&mut self) -> Result<Vec<StoredEntry>, StoreError> {
        if self.done {
            return Ok(Vec::new());
        }
        let mut body = json!({
            "size": self.rows, "query": self.query, "sort": order(self.sort), "track_total_hits": false,
        });
        match self.after {
            Some(place) => body["search_after"] = search_after(self.sort, place),
            None if self.from > 0 => body["from"] = self.from.into(),
            None => (),
        }
        let tenant = self.plan.scope.tenant();
        let (bytes, entries) = self
            .inner
            .search(self.plan, body, self.deadline, |found| {
                let entry = |hit: &Hit<'_>| {
                    let source = hit.source.and_then(|source| serde_json::from_str::<Source<'_>>(source.get()).ok());
                    source.and_then(|source| source.entry(tenant)).ok_or_else(|| Fault::unreadable("a search"))
                };
                let entries: Result<Vec<StoredEntry>, Fault> = found.answer.hits.hits.iter().map(entry).collect();
                Ok((found.bytes, entries?))
            })
            .await?;
        self.done = entries.len() < self.rows;
        if let Some(last) = entries.last() {
            self.after = Some(place_of(last));
            let fit = ANSWER_BYTES / (bytes / entries.len()).max(1);
            self.rows = (self.rows * 4).min(fit).clamp(1, MOST_ROWS);
        }
        // A row that was written twice, to two indices, is one row.
        let mut fresh = Vec::with_capacity(entries.len());
        for entry in entries {
            if self.last.replace(entry.sequence.unwrap_or(0)) != entry.sequence {
                fresh.push(entry);
            }
        }
        if fresh.is_empty() && !self.done {
            return Box::pin(self.next()).await;
        }
        Ok(fresh)
    }
}

fn place_of(entry: &StoredEntry) -> Place {
    Place {
        timestamp: entry.entry().timestamp(),
        sequence: entry.sequence.unwrap_or(0),
    }
}

fn order(sort: Sort) -> Value {
    match sort {
        Sort::TimestampDesc => json!([{ F::TIMESTAMP: "desc" }, { F::SEQUENCE: "desc" }]),
        Sort::TimestampAsc => json!([{ F::TIMESTAMP: "asc" }, { F::SEQUENCE: "asc" }]),
        Sort::SequenceDesc => json!([{ F::SEQUENCE: "desc" }]),
        Sort::SequenceAsc => json!([{ F::SEQUENCE: "asc" }]),
    }
}

fn search_after(sort: Sort, place: Place) -> Value {
    let sequence = compile::number(place.sequence);
    match sort {
        Sort::TimestampDesc | Sort::TimestampAsc => json!([place.timestamp, sequence]),
        Sort::SequenceDesc | Sort::SequenceAsc => json!([sequence]),
    }
}

/// One page, see [`ListQuery`].
pub async fn list(inner: &Inner, scope: &TenantScope, query: ListQuery, deadline: Instant, pause_at: Instant) -> Result<ListPage, StoreError> {
    let began = Instant::now();
    let plan = Plan::new(inner, scope, query.filter, query.upto);
    let exact = plan.bounds.is_exact();
    // Where the engine knows what matches, it also passes over what is skipped.
    let mut skip = if exact && query.after.is_none() && query.skip <= MOST_SKIPPED {
        0
    } else {
        query.skip
    };
    let from = query.skip - skip;
    let wanted = query.limit.saturating_add(1);
    let mut stream = Stream::new(inner, &plan, &plan.bounds.upper, query.sort, query.after, deadline)
        .skipping(from)
        .wanting(if exact { wanted } else { FIRST_ROWS });
    let (mut entries, mut bytes, mut more, mut reached, mut paused) = (Vec::new(), 0usize, false, None, None);
    'page: while !plan.is_empty() {
        let rows = stream.next().await?;
        if rows.is_empty() {
            break;
        }
        for entry in rows {
            let place = place_of(&entry);
            if plan.kept(&entry) {
                if skip > 0 {
                    skip -= 1;
                } else if entries.len() == query.limit {
                    more = true;
                    break 'page;
                } else {
                    let entry = plan.shown(entry);
                    bytes = bytes.saturating_add(entry.record.len());
                    if bytes > query.max_bytes && !entries.is_empty() {
                        more = true;
                        break 'page;
                    }
                    entries.push(entry);
                }
            }
            reached = Some(place);
        }
        if query.may_pause && Instant::now() >= pause_at && !stream.done {
            paused = reached;
            more = true;
            break;
        }
    }
    let total = total(inner, &plan, query.count, query.skip.saturating_add(query.limit), began, deadline).await?;
    // What was seen is known, whatever counting had time for.
    let seen = if query.after.is_none() && !entries.is_empty() {
        query.skip + entries.len() + usize::from(more)
    } else {
        0
    };
    let total = total.map(|(total, exact)| (total.max(seen as u64), exact));
    Ok(ListPage {
        entries,
        total: total.map(|(total, _)| total),
        total_is_exact: total.is_some_and(|(_, exact)| exact),
        as_of: plan.upto,
        more,
        reached: paused,
    })
}

/// All matches, as far as is asked for.
async fn total(inner: &Inner, plan: &Plan, count: Count, shown: usize, began: Instant, deadline: Instant) -> Result<Option<(u64, bool)>, StoreError> {
    let (most, until) = match count {
        Count::None => return Ok(None),
        Count::Exact => (None, None),
        Count::Bounded { beyond, within } => (Some(beyond.saturating_add(shown as u64)), began.checked_add(within)),
    };
    let (mut total, known) = inner.count(plan, &plan.bounds.lower, most, deadline).await?;
    if plan.bounds.is_exact() || !known {
        return Ok(Some((total, known)));
    }
    let doubtful = plan.bounds.upper.clone().and(plan.bounds.lower.clone().negated());
    let mut stream = Stream::new(inner, plan, &doubtful, Sort::SequenceAsc, None, deadline);
    loop {
        if most.is_some_and(|most| total >= most) || until.is_some_and(|until| Instant::now() >= until) {
            return Ok(Some((total, stream.done)));
        }
        let rows = stream.next().await?;
        if rows.is_empty() {
            return Ok(Some((total, true)));
        }
        total += rows.iter().filter(|entry| plan.kept(entry)).count() as u64;
    }
}

/// Calls `take` with every match, in the order of numbers.
pub async fn for_each(inner: &Inner, plan: &Plan, deadline: Instant, mut take: impl FnMut(&StoredEntry) -> Result<(), StoreError>) -> Result<(), StoreError> {
    if plan.is_empty() {
        return Ok(());
    }
    let mut stream = Stream::new(inner, plan, &plan.bounds.upper, Sort::SequenceAsc, None, deadline);
    loop {
        let rows = stream.next().await?;
        if rows.is_empty() {
            return Ok(());
        }
        for entry in rows.iter().filter(|entry| plan.kept(entry)) {
            take(entry)?;
        }
        tokio::task::yield_now().await;
    }
}

/// Matches after a number and the numbers that have no row, see [`crate::sinks::Authority::scan`].
pub async fn scan(
    inner: &Inner,
    scope: &TenantScope,
    filter: Filter,
    after: u64,
    limit: usize,
    deadline: Instant,
    pause_at: Instant,
) -> Result<Scan, StoreError> {
    let head = inner.view.head(scope.tenant());
    if limit == 0 || after >= head {
        return Ok(Scan {
            upto: after,
            ..Scan::default()
        });
    }
    let mut upto = head.min(after.saturating_add(SPAN));
    let after_it = Filter {
        min_sequence: Some(filter.min_sequence.unwrap_or(0).max(after + 1)),
        ..filter
    };
    let plan = Plan::new(inner, scope, after_it, Some(upto));
    let mut entries = Vec::new();
    let mut stream = Stream::new(inner, &plan, &plan.bounds.upper, Sort::SequenceAsc, None, deadline).wanting(limit);
    'rows: while !plan.is_empty() {
        let rows = stream.next().await?;
        let Some(last) = rows.last().and_then(|entry| entry.sequence) else { break };
        for entry in rows {
            if plan.kept(&entry) {
                let number = entry.sequence.unwrap_or(after);
                entries.push(plan.shown(entry));
                if entries.len() == limit {
                    upto = number;
                    break 'rows;
                }
            }
        }
        if Instant::now() >= pause_at && !stream.done {
            upto = last;
            break;
        }
    }
    let voids = voids(inner, scope, after, upto, deadline).await?;
    Ok(Scan { entries, voids, upto })
}

/// The numbers of a span that have no row, whatever is asked for.
async fn voids(inner: &Inner, scope: &TenantScope, after: u64, upto: u64, deadline: Instant) -> Result<Vec<(u64, u64)>, StoreError> {
    let span = Filter {
        min_sequence: Some(after + 1),
        ..Filter::default()
    };
    let plan = Plan::new(inner, scope, span, Some(upto));
    if plan.bounds.is_exact() && inner.count(&plan, &plan.bounds.upper, None, deadline).await? == (upto - after, true) {
        return Ok(Vec::new());
    }
    let (mut voids, mut next) = (Vec::new(), after + 1);
    let mut see = |number: u64| {
        if number > next {
            voids.push((next, number - 1));
        }
        next = next.max(number.saturating_add(1));
    };
    if plan.bounds.is_exact() {
        for number in numbers(inner, &plan, after, deadline).await? {
            see(number);
        }
    } else {
        for_each(inner, &plan, deadline, |entry| {
            see(entry.sequence.unwrap_or(0));
            Ok(())
        })
        .await?;
    }
    see(upto.saturating_add(1));
    Ok(voids)
}

/// The numbers of the rows of a plan, ascending.
async fn numbers(inner: &Inner, plan: &Plan, after: u64, deadline: Instant) -> Result<Vec<u64>, StoreError> {
    Ok(named(inner, plan, after, deadline).await?.into_iter().map(|name| name.sequence).collect())
}

/// Where a row is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub sequence: u64,
    /// Its index.
    pub index: String,
    /// Its name there.
    pub id: String,
}

/// Where the rows of a plan are, in the order of their numbers; of the engine's word alone.
pub async fn named(inner: &Inner, plan: &Plan, after: u64, deadline: Instant) -> Result<Vec<Kept>, StoreError> {
    let (mut found, mut place) = (Vec::new(), after);
    if plan.is_empty() {
        return Ok(found);
    }
    loop {
        let body = json!({
            "size": MOST_NAMES, "query": plan.bounds.upper.to_json(), "sort": order(Sort::SequenceAsc), "track_total_hits": false,
            "_source": false, "search_after": [compile::number(place)],
        });
        let rows = inner
            .search(plan, body, deadline, |answered| {
                let kept = |hit: &Hit<'_>| Kept {
                    sequence: hit.sort.first().and_then(|n| u64::try_from(*n).ok()).unwrap_or(0),
                    index: hit.index.to_string(),
                    id: hit.id.to_string(),
                };
                Ok(answered.answer.hits.hits.iter().map(kept).collect::<Vec<_>>())
            })
            .await?;
        let full = rows.len() == MOST_NAMES;
        place = rows.last().map_or(place, |last| last.sequence);
        found.extend(rows);
        if !full {
            return Ok(found);
        }
    }
}
