//! The contract of [`Authority`] and [`SealFollower`] as one suite: every store that answers readers passes it, with the same
//! expectations. What they are is said by a plain list of rows ([`Model`]), for random logs and random questions.

mod log;
mod questions;
pub(crate) mod suite;

pub(crate) use self::{
    log::{BASE, Model, Sequencer, plain, scope, tenant},
    questions::{TENANTS, filter, mask, question},
};

use crate::{
    fs::sim::Dice,
    model::{entry::StoredEntry, filter::Filter, tenant::TenantScope},
    seal::DecidedSeal,
    sinks::{Authority, Count, ListQuery, Place, SealFollower, Sort, StatsQuery, StoreError},
};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// A store that is put to the test.
pub(crate) trait Subject {
    /// How readers see it.
    fn authority(&self) -> &dyn Authority;
    /// How the sequencer sees it.
    fn follower(&self) -> &dyn SealFollower;
    /// Applies a seal, so that readers see it when this returns.
    fn take(&self, seal: &Arc<DecidedSeal>);
    /// Where answers are waited for.
    fn runtime(&self) -> &tokio::runtime::Runtime;
}

impl dyn Subject + '_ {
    /// Waits for an answer.
    pub(crate) fn ask<T>(&self, answer: BoxFuture<'static, Result<T, StoreError>>) -> Result<T, StoreError> {
        self.runtime().block_on(answer)
    }
}

/// A further look at a question, for what only one store does.
pub(crate) type Also<'a> = dyn Fn(&TenantScope, &Model, &Filter, Sort, &str) + 'a;

/// Asks `questions` random questions of each tenant and compares the answers.
pub(crate) fn compare(subject: &dyn Subject, log: &[Arc<DecidedSeal>], dice: &mut Dice, questions: usize, context: &str, also: &Also<'_>) {
    let models = Model::of(log);
    for name in TENANTS {
        let (scope, model) = (scope(name), &models[&tenant(name)]);
        for round in 0..questions {
            // Under a mask the store answers as one whose rows are the masked ones.
            let mask = dice.chance(35).then(|| mask(dice));
            let masked = mask.as_ref().map(|mask| model.seen_through(mask));
            let (filter, model) = (filter(dice, model).through(mask), masked.as_ref().unwrap_or(model));
            let context = format!("{context}, {name}, question {round}, {filter:?}");
            let sort = [Sort::TimestampDesc, Sort::TimestampAsc, Sort::SequenceDesc, Sort::SequenceAsc][dice.below(4) as usize];
            let query = ListQuery {
                filter: filter.clone(),
                sort,
                skip: [0, 0, 7, 2_000][dice.below(4) as usize],
                limit: [1, 50, 1_000][dice.below(3) as usize],
                count: if dice.chance(50) { Count::Exact } else { Count::None },
                after: dice.chance(30).then(|| {
                    let row = &model.rows[dice.below(model.rows.len() as u64) as usize];
                    let (nudge, of) = ([-1, 0, 0, 0, 1][dice.below(5) as usize], row.sequence.expect("numbered"));
                    Place {
                        timestamp: row.entry().timestamp() + nudge,
                        sequence: of,
                    }
                }),
                upto: dice.chance(30).then(|| dice.below(model.head + 5)),
                may_pause: false,
                max_bytes: [usize::MAX, usize::MAX, 1, 5_000, 300_000][dice.below(5) as usize],
            };
            let page = subject.ask(subject.authority().list(&scope, query.clone())).expect("lists");
            let (entries, total, more) = model.list(&query);
            let context = format!("{context}: {query:?}");
            assert!(plain(&page.entries) == plain(&entries), "{context} of {total}");
            assert_eq!(page.more, more, "{context}");
            let counts = query.count == Count::Exact;
            assert_eq!((page.total, page.total_is_exact), (counts.then_some(total), counts), "{context}");
            assert_eq!(page.as_of, query.upto.unwrap_or(u64::MAX).min(model.head), "{context}");
            bounded(subject, &scope, &query, total, dice, &context);
            if round % 4 == 0 {
                also(&scope, model, &filter, sort, &context);
            }
            if round % 3 == 0 {
                let query = question(dice, filter.clone());
                let answer = subject.ask(subject.authority().stats(&scope, query.clone())).expect("counts");
                assert_eq!(answer, model.stats(&query), "{context}, {query:?}");
            }
            if round % 3 == 1 {
                walk(subject, &scope, model, &filter, dice, &context);
            }
        }
        gets(subject, &scope, model, dice, context);
    }
}

/// Counting that is bounded gives the same page, and no more than there is.
fn bounded(subject: &dyn Subject, scope: &TenantScope, query: &ListQuery, total: u64, dice: &mut Dice, context: &str) {
    let beyond = [0, 40, 3_000][dice.below(3) as usize];
    let hurry = dice.chance(30);
    let within = if hurry { Duration::ZERO } else { Duration::from_secs(600) };
    let query = ListQuery {
        count: Count::Bounded { beyond, within },
        max_bytes: usize::MAX,
        ..query.clone()
    };
    let page = subject.ask(subject.authority().list(scope, query.clone())).expect("lists");
    let known = page.total.expect("counted");
    assert!(known <= total && (known == total || !page.total_is_exact), "{context}: {known} of {total}");
    if query.after.is_none() {
        assert!(known >= total.min((query.skip + page.entries.len()) as u64), "{context}: {known} of {total}");
    }
    if !hurry {
        let least = (query.skip + query.limit) as u64 + beyond;
        assert!(
            known >= total.min(least) && (page.total_is_exact || known >= least),
            "{context}: {known} of {total}"
        );
    }
}

/// Follows the log from some number on to its end.
fn walk(subject: &dyn Subject, scope: &TenantScope, model: &Model, filter: &Filter, dice: &mut Dice, context: &str) {
    let start = dice.below(model.head.min(12_000) + 2);
    let limit = [3, 500, 9_000][dice.below(3) as usize];
    let (mut after, mut entries, mut voids) = (start, Vec::new(), Vec::new());
    for _ in 0..12 {
        let scan = subject.ask(subject.authority().scan(scope, filter.clone(), after, limit)).expect("scans");
        assert!(scan.entries.len() <= limit && scan.upto >= after, "{context}");
        assert!(
            scan.entries.iter().all(|e| e.sequence > Some(after) && e.sequence <= Some(scan.upto)),
            "{context}"
        );
        entries.extend(scan.entries);
        voids.extend(scan.voids);
        after = scan.upto;
        if after >= model.head {
            break;
        }
    }
    let complete = after >= model.head;
    let expected: Vec<StoredEntry> = model
        .matching(filter)
        .into_iter()
        .filter(|r| r.sequence > Some(start) && r.sequence <= Some(after))
        .cloned()
        .collect();
    assert!(plain(&entries) == plain(&expected), "{context}: walk from {start} by {limit} to {after}");
    let passed: u64 = voids.iter().map(|v| v.1 - v.0 + 1).sum();
    let there: u64 = model.voids.iter().map(|v| (v.1 + 1).saturating_sub(v.0.max(start + 1))).sum();
    assert!(!complete || passed == there, "{context}: voids {voids:?} from {start}");
    assert!(voids.is_sorted_by(|a, b| a.1 < b.0), "{context}: voids ascend");
    let is_void = |v: &(u64, u64)| model.voids.iter().any(|m| m.0 <= v.0 && v.1 <= m.1);
    assert!(voids.iter().all(is_void), "{context}: voids {voids:?}");
}

fn gets(subject: &dyn Subject, scope: &TenantScope, model: &Model, dice: &mut Dice, context: &str) {
    for _ in 0..10.min(model.rows.len()) {
        let row = &model.rows[dice.below(model.rows.len() as u64) as usize];
        let id = row.entry().id();
        let found = subject.ask(subject.authority().get(scope, id)).expect("gets").expect("is there");
        assert!(plain(&[found]) == plain(std::slice::from_ref(row)), "{context}: {id}");
        let key = (scope.tenant().clone(), id);
        assert_eq!(subject.follower().lookup(&[key]).expect("looks up"), [Some(row.entry().hash())], "{context}");
    }
    assert!(subject.ask(subject.authority().get(scope, Uuid::nil())).expect("gets").is_none(), "{context}");
}

/// Ids of a tenant that are asked for in each check, about.
const IDS_ASKED: usize = 40;

/// Asks about what is there, and that nobody knows what is not.
pub(crate) fn check(subject: &dyn Subject, log: &[Arc<DecidedSeal>], context: &str) {
    check_rows(subject, log, context);
    for (name, model) in Model::of(log) {
        let scope = TenantScope::new(name.clone());
        let expected = model.stats(&StatsQuery::default());
        assert_eq!(
            subject.ask(subject.authority().stats(&scope, StatsQuery::default())).expect("counts"),
            expected,
            "{context}: {name}"
        );
        let (mut entries, mut voids, mut after) = (Vec::new(), Vec::new(), 0);
        while after < model.head {
            let scan = subject.ask(subject.authority().scan(&scope, Filter::default(), after, 400)).expect("scans");
            assert!(scan.upto > after, "{context}: {name}: the scan gets on");
            entries.extend(scan.entries);
            voids.extend(scan.voids);
            after = scan.upto;
        }
        assert!(plain(&entries) == plain(&model.rows), "{context}: {name}: scanned rows");
        assert_eq!(joined(voids), model.voids, "{context}: {name}");
        let all: Vec<_> = model.rows.iter().chain(&model.erased).collect();
        for row in all.iter().step_by(1 + all.len() / IDS_ASKED) {
            let id = row.entry().id();
            let there = model.rows.iter().find(|r| r.entry().id() == id);
            let found = subject.ask(subject.authority().get(&scope, id)).expect("gets");
            assert_eq!(plain(found.as_slice()), plain(there.cloned().as_slice()), "{context}: {name}: {id}");
            let known = subject.follower().lookup(&[(name.clone(), id)]).expect("looks up");
            assert_eq!(known, [there.map(|r| r.entry().hash())], "{context}: {name}: {id}");
        }
    }
}

/// Ranges that ascend, joined where they touch: a scan that takes several calls may cut one.
fn joined(voids: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut model = Model { voids, ..Model::default() };
    model.join_voids();
    model.voids
}

/// Every row of every tenant by the simplest questions.
pub(crate) fn check_rows(subject: &dyn Subject, log: &[Arc<DecidedSeal>], context: &str) {
    for (name, model) in Model::of(log) {
        let scope = TenantScope::new(name.clone());
        let query = ListQuery {
            sort: Sort::SequenceAsc,
            limit: usize::MAX,
            count: Count::Exact,
            ..ListQuery::default()
        };
        let page = subject.ask(subject.authority().list(&scope, query.clone())).expect("lists");
        let expected = model.list(&query);
        assert_eq!(page.entries.len(), expected.0.len(), "{context}: rows of {name}");
        assert!(plain(&page.entries) == plain(&expected.0), "{context}: rows of {name} differ");
        assert_eq!((page.total, page.as_of), (Some(expected.1), model.head), "{context}: {name}");
        assert_eq!(subject.authority().visible_head(&scope).head, model.head, "{context}: {name}");
    }
}
