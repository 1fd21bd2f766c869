//! Conditions: what a read may see at all ([`Snapshot`]), and a filter as far as SQL says exactly the same.
//!
//! What is left to [`Filter::matches`] on the rows themselves ([`is_residual`]): searches, words of the user agent, leaves of
//! metadata (SQL narrows them down by their texts), and every condition on a field that the filter's mask may change.

use super::sql::Sql;
use crate::{
    model::{
        entry::{Field, Severity},
        filter::{Filter, IpRange},
        tenant::TenantScope,
    },
    seal::erasure::{Erasure, ErasureKind, Erasures, Removal},
    sinks::{Place, Sort},
};
use std::{net::IpAddr, sync::Arc};
use uuid::Uuid;

/// Steps of erasures that are written out one by one; more go as arrays, so that the text stays short.
const STEPS_WRITTEN: usize = 16;
/// Longer needles are not looked for beforehand.
const LONGEST_NEEDLE: usize = 4096;

/// What of the tables a read may see: one tenant, up to a number, less what is erased. It does not change while a read runs, so all
/// queries of it see the same rows. (Rows that it shows are deleted from the tables long after it only.)
#[derive(Clone)]
pub(super) struct Snapshot {
    scope: TenantScope,
    /// The tenant's largest visible number.
    pub head: u64,
    erasures: Option<Arc<Erasures>>,
}

impl Snapshot {
    /// Of one tenant, as a view shows it.
    pub fn new(scope: &TenantScope, head: u64, erasures: Option<Arc<Erasures>>) -> Self {
        Self {
            scope: scope.clone(),
            head,
            erasures,
        }
    }

    /// What is erased of the tenant.
    pub fn erasures(&self) -> Option<&Erasures> {
        self.erasures.as_deref()
    }

    /// What an erasure would take if it were made now.
    pub fn removal_of(&self, kind: ErasureKind, cutoff: i64) -> Removal {
        let before = self.erasures().cloned().unwrap_or_default();
        before.removal_of(Erasure {
            job: Uuid::nil(),
            kind,
            cutoff,
            head: self.head,
        })
    }

    /// `SELECT … FROM …` of the tenant's visible rows; further conditions may be appended.
    pub fn select(&self, columns: &str, table: &str) -> Sql {
        self.select_with(&Sql::new(columns), table)
    }

    /// The same with columns that have parameters.
    pub fn select_with(&self, columns: &Sql, table: &str) -> Sql {
        let mut sql = self.all_of(columns, table);
        if let Some(erasures) = self.erasures().filter(|all| !all.is_empty()) {
            not_erased(&mut sql, erasures);
        }
        sql
    }

    /// The same with erased rows, for counting them.
    pub fn select_all(&self, columns: &str, table: &str) -> Sql {
        self.all_of(&Sql::new(columns), table)
    }

    fn all_of(&self, columns: &Sql, table: &str) -> Sql {
        let mut sql = columns.clone().within("SELECT ");
        sql.push(" FROM ").push(table).push(" WHERE ");
        self.bound(&mut sql);
        sql
    }

    /// The tenant and the head.
    fn bound(&self, sql: &mut Sql) {
        sql.push("tenant_id = ").text(self.scope.tenant().as_str());
        sql.push(" AND sequence <= ").number(self.head);
    }

    /// Appends that the row is one of those with these ids, as the ledger knows their places.
    pub fn has_id(&self, sql: &mut Sql, ids: &[Uuid]) {
        sql.push(" AND id IN ").uuids(ids);
        sql.push(" AND (timestamp, sequence) IN (SELECT timestamp, sequence FROM entry_ids WHERE ");
        self.bound(sql);
        sql.push(" AND id IN ").uuids(ids).push(")");
    }

    /// Appends the part of the filter that SQL says exactly, and what narrows down the rest.
    pub fn narrow(&self, sql: &mut Sql, filter: &Filter) {
        bounds(sql, filter);
        if !filter.ids.is_empty() {
            self.has_id(sql, &filter.ids);
        }
        texts(sql, filter);
        addresses(sql, filter);
        leaves(sql, filter);
    }
}

/// Appends that no erasure covers the row.
pub(super) fn not_erased(sql: &mut Sql, erasures: &Erasures) {
    let steps: Vec<_> = erasures.steps().collect();
    if steps.len() <= STEPS_WRITTEN {
        for (kind, cutoff, head) in steps {
            sql.push(" AND NOT (");
            step(sql, kind, cutoff, head);
            sql.push(")");
        }
        return;
    }
    for kind in [ErasureKind::Cleanup, ErasureKind::Retention] {
        let (cutoffs, heads): (Vec<i64>, Vec<u64>) = steps.iter().filter(|s| s.0 == kind).map(|s| (s.1, s.2)).unzip();
        if cutoffs.is_empty() {
            continue;
        }
        sql.push(" AND NOT arrayExists((c, h) -> toUnixTimestamp64Milli(")
            .push(column(kind))
            .push(") < c AND sequence <= h, ");
        sql.ints(&cutoffs).push(", ").numbers(&heads).push(")");
    }
}

/// Appends that one erasure covers the row.
pub(super) fn step(sql: &mut Sql, kind: ErasureKind, cutoff: i64, head: u64) {
    sql.before(column(kind), cutoff).push(" AND sequence <= ").number(head);
}

fn column(kind: ErasureKind) -> &'static str {
    match kind {
        ErasureKind::Cleanup => "timestamp",
        ErasureKind::Retention => "received_at",
    }
}

/// Appends what comes behind a place.
pub(super) fn behind(sql: &mut Sql, sort: Sort, place: Place) {
    let Place { timestamp, sequence } = place;
    match sort {
        Sort::TimestampDesc => {
            sql.push(" AND ")
                .before("timestamp", timestamp.saturating_add(1))
                .push(" AND (")
                .before("timestamp", timestamp);
            sql.push(" OR sequence < ").number(sequence).push(")");
        }
        Sort::TimestampAsc => {
            sql.push(" AND ")
                .since("timestamp", timestamp)
                .push(" AND (")
                .since("timestamp", timestamp.saturating_add(1));
            sql.push(" OR sequence > ").number(sequence).push(")");
        }
        Sort::SequenceDesc => {
            sql.push(" AND sequence < ").number(sequence);
        }
        Sort::SequenceAsc => {
            sql.push(" AND sequence > ").number(sequence);
        }
    }
}

/// Whether rows that SQL finds still have to be asked [`Filter::matches`].
pub(super) fn is_residual(filter: &Filter) -> bool {
    let Filter {
        search, metadata, user_agent, ..
    } = filter;
    let hidden = |field: Field, list: &[String]| !list.is_empty() && hides(filter, field);
    search.is_some()
        || !metadata.is_empty()
        || !user_agent.is_empty()
        || EXACT.iter().any(|(field, _, list)| hidden(*field, list(filter)))
        || (!filter.ip_address.is_empty() && hides(filter, Field::IpAddress))
        || (!filter.actor.is_empty() && hides_actor(filter))
}

/// The fields that a residual filter looks at, so that the others need not be read to count.
pub(super) fn looks_at(filter: &Filter, field: Field) -> bool {
    filter.search.is_some()
        || EXACT.iter().any(|(exact, _, list)| *exact == field && !list(filter).is_empty())
        || match field {
            Field::Metadata => !filter.metadata.is_empty(),
            Field::UserAgent => !filter.user_agent.is_empty(),
            Field::IpAddress => !filter.ip_address.is_empty(),
            _ => false,
        }
}

type ListOf = fn(&Filter) -> &[String];

/// Field, column and values of the conditions that compare one text. Columns of what is compared in lower case are so.
const EXACT: [(Field, &str, ListOf); 7] = [
    (Field::UserId, "user_id", |f| &f.user_id),
    (Field::Email, "email", |f| &f.email),
    (Field::SessionId, "session_id", |f| &f.session_id),
    (Field::ResourceId, "resource_id", |f| &f.resource_id),
    (Field::RequestId, "request_id", |f| &f.request_id),
    (Field::Action, "action_lower", |f| &f.action),
    (Field::ResourceType, "resource_type_lower", |f| &f.resource_type),
];

fn hides(filter: &Filter, field: Field) -> bool {
    filter.mask.as_ref().is_some_and(|mask| mask.may_change(field))
}

fn hides_actor(filter: &Filter) -> bool {
    filter.mask.as_ref().is_some_and(|mask| mask.may_change_actor())
}

/// Times, numbers and severities: no mask hides them.
fn bounds(sql: &mut Sql, filter: &Filter) {
    if let Some(from) = filter.from {
        sql.push(" AND ").since("timestamp", from);
    }
    if let Some(to) = filter.to {
        sql.push(" AND ").before("timestamp", to);
    }
    if !filter.timestamps.is_empty() {
        sql.push(" AND (").list(" OR ", &filter.timestamps, |sql, (from, to)| {
            sql.push("(").since("timestamp", *from).push(" AND ").before("timestamp", *to).push(")");
        });
        sql.push(")");
    }
    if let Some(min) = filter.min_sequence {
        sql.push(" AND sequence >= ").number(min);
    }
    if let Some(max) = filter.max_sequence {
        sql.push(" AND sequence <= ").number(max);
    }
    if !filter.severity.is_empty() {
        sql.push(" AND severity IN (").list(", ", &filter.severity, |sql, severity: &Severity| {
            sql.text(severity.as_str());
        });
        sql.push(")");
    }
}

fn texts(sql: &mut Sql, filter: &Filter) {
    for (field, column, list) in EXACT {
        let values = list(filter);
        if !values.is_empty() && !hides(filter, field) {
            // An empty required text is an absent one, and absent is equal to nothing.
            let absent = matches!(field, Field::Action | Field::ResourceType | Field::ResourceId);
            one_of(sql, column, values, absent);
        }
    }
    if !filter.actor.is_empty() && !hides_actor(filter) {
        one_of(sql, "actor", &filter.actor, false);
    }
}

fn one_of(sql: &mut Sql, column: &str, values: &[String], never_empty: bool) {
    // No stored text holds U+0000, and the server cannot take every text that does.
    let good: Vec<&String> = values.iter().filter(|v| !(v.contains('\0') || never_empty && v.is_empty())).collect();
    if good.is_empty() {
        sql.push(" AND 0");
        return;
    }
    sql.push(" AND ").push(column).push(" IN (").list(", ", good, |sql, value| {
        sql.text(value);
    });
    sql.push(")");
}

fn addresses(sql: &mut Sql, filter: &Filter) {
    if filter.ip_address.is_empty() || hides(filter, Field::IpAddress) {
        return;
    }
    // IPv4 is compared as the IPv6 that it maps to; an IPv6 range that holds all of these holds none of them.
    let ip = "toIPv6OrNull(ip_address)";
    sql.push(" AND (").list(" OR ", &filter.ip_address, |sql, range: &IpRange| {
        let range = range.canonical();
        let (base, prefix) = match range.addr {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), range.prefix.min(32) + 96),
            IpAddr::V6(v6) => (v6.to_bits(), range.prefix.min(128)),
        };
        let rest = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let (first, last) = (std::net::Ipv6Addr::from_bits(base & !rest), std::net::Ipv6Addr::from_bits(base | rest));
        sql.push("(").push(ip).push(" >= toIPv6(").text(&first.to_string()).push(") AND ");
        sql.push(ip).push(" <= toIPv6(").text(&last.to_string()).push(")");
        if range.addr.is_ipv6() {
            sql.push(" AND position(ip_address, ':') > 0");
        }
        sql.push(")");
    });
    sql.push(")");
}

/// A leaf's text stands in the object as it is, unless the object escapes something.
fn leaves(sql: &mut Sql, filter: &Filter) {
    if hides(filter, Field::Metadata) {
        return;
    }
    for leaf in &filter.metadata {
        let keys: Vec<&str> = leaf.path.iter().map(String::as_str).filter(|key| is_needle(key)).collect();
        let values: Vec<&String> = leaf.values.iter().collect();
        sql.push(" AND metadata IS NOT NULL");
        let all_values = !values.is_empty() && values.iter().all(|value| is_needle(value));
        if keys.is_empty() && !all_values {
            continue;
        }
        sql.push(" AND (position(metadata, '\\\\') > 0 OR (1");
        for key in keys {
            sql.push(" AND position(metadata, ").text(key).push(") > 0");
        }
        if all_values {
            sql.push(" AND (").list(" OR ", values, |sql, value| {
                sql.push("position(metadata, ").text(value).push(") > 0");
            });
            sql.push(")");
        }
        sql.push("))");
    }
}

fn is_needle(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST_NEEDLE && !text.contains('\0')
}
