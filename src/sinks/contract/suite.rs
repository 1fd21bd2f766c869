//! The stories of the contract. Each wants a subject without a row.

use super::*;
use crate::{
    model::tenant::TenantId,
    seal::{
        erasure::ErasureKind::{self, Cleanup, Retention},
        state::SealState,
    },
    sinks::Stats,
};

/// Whatever is asked, the answer is that of a plain list of rows.
pub(crate) fn answers(subject: &dyn Subject, seed: u64, seals: usize, questions: usize) {
    let (mut sequencer, mut dice) = (Sequencer::new(seed), Dice::new(seed ^ 99));
    for round in 0..2 {
        for at in 0..seals {
            let seal = if at == seals / 2 {
                sequencer.gap(&["hot", "cold"])
            } else {
                sequencer.seal(&["hot", "hot", "hot", "hot", "warm"], 60)
            };
            subject.take(&seal);
        }
        subject.take(&sequencer.seal(&["cold"], 3));
        compare(
            subject,
            &sequencer.log,
            &mut dice,
            questions,
            &format!("seed {seed}, round {round}"),
            &|_, _, _, _, _| (),
        );
    }
    check(subject, &sequencer.log, "in the end");
}

/// A page may be cut into as many pieces as one likes.
pub(crate) fn pages(subject: &dyn Subject, seed: u64) {
    let mut sequencer = Sequencer::new(seed);
    for _ in 0..4 {
        subject.take(&sequencer.seal(&["a"], 40));
    }
    let model = &Model::of(&sequencer.log)[&tenant("a")];
    let upto = model.head;
    let filters = [
        Filter::default(),
        Filter {
            user_agent: vec![vec!["linux".into(), "curl".into()]],
            ..Filter::default()
        },
    ];
    for filter in filters {
        for sort in [Sort::TimestampDesc, Sort::TimestampAsc, Sort::SequenceDesc, Sort::SequenceAsc] {
            let mut query = ListQuery {
                filter: filter.clone(),
                sort,
                limit: 7,
                upto: Some(upto),
                may_pause: true,
                ..ListQuery::default()
            };
            let mut found = Vec::new();
            loop {
                let page = subject.ask(subject.authority().list(&scope("a"), query.clone())).expect("lists");
                let last = page.entries.last().map(|e| Place {
                    timestamp: e.entry().timestamp(),
                    sequence: e.sequence.expect("numbered"),
                });
                found.extend(page.entries);
                query.after = page.reached.or(last);
                if !page.more {
                    break;
                }
                // What is written meanwhile does not show.
                if found.len() < 30 {
                    subject.take(&sequencer.seal(&["a"], 2));
                }
            }
            let everything = ListQuery {
                limit: usize::MAX,
                after: None,
                ..query
            };
            assert!(plain(&found) == plain(&model.list(&everything).0), "{sort:?}");
        }
    }
}

/// No answer holds a row of another tenant, and nobody learns that there is one.
pub(crate) fn isolation(subject: &dyn Subject) {
    let mut sequencer = Sequencer::new(5);
    for _ in 0..4 {
        subject.take(&sequencer.seal(&["a", "a-b", "b"], 12));
    }
    // The same ids in every tenant: one's row is no duplicate of another's.
    for name in ["a", "a-b", "b"] {
        sequencer.next_id = 1_000_000;
        sequencer.salt += 1;
        let pack = sequencer.pack(&tenant(name), 3);
        subject.take(&sequencer.seal_of(vec![pack], |_, _| false));
    }
    let models = Model::of(&sequencer.log);
    for (name, model) in &models {
        let scope = TenantScope::new(name.clone());
        let mine = |id: Uuid| model.rows.iter().filter(|row| row.entry().id() == id).count() as u64;
        let mut keys = Vec::new();
        for row in models
            .values()
            .flat_map(|other| other.rows.iter().step_by(5).chain(other.rows.iter().rev().take(3)))
        {
            let id = row.entry().id();
            let found = subject.ask(subject.authority().get(&scope, id)).expect("gets");
            assert_eq!(u64::from(found.is_some()), mine(id), "{id} asked by {name}");
            let filter = Filter {
                ids: vec![id],
                ..Filter::default()
            };
            let query = StatsQuery {
                filter,
                ..StatsQuery::default()
            };
            let stats = subject.ask(subject.authority().stats(&scope, query)).expect("counts");
            assert_eq!(stats.total, mine(id), "{id} counted by {name}");
            keys.push((name.clone(), id));
        }
        let hashes = subject.follower().lookup(&keys).expect("looks up");
        for ((_, id), hash) in keys.iter().zip(hashes) {
            let row = model.rows.iter().find(|row| row.entry().id() == *id);
            assert_eq!(hash, row.map(|row| row.entry().hash()), "{id} looked up by {name}");
        }
    }
    // All of them in one question, mixed.
    let keys: Vec<(TenantId, Uuid)> = models
        .keys()
        .flat_map(|name| (1_000_000..1_000_003).map(|id| (name.clone(), Uuid::from_u128(id))))
        .collect();
    let expected: Vec<_> = keys
        .iter()
        .map(|(name, id)| models[name].rows.iter().find(|row| row.entry().id() == *id).map(|row| row.entry().hash()))
        .collect();
    assert_eq!(subject.follower().lookup(&keys).expect("looks up"), expected);
    check(subject, &sequencer.log, "three tenants");
    let stranger = scope("c");
    let page = ListQuery {
        limit: 10,
        count: Count::Exact,
        ..ListQuery::default()
    };
    let page = subject.ask(subject.authority().list(&stranger, page)).expect("lists");
    assert_eq!((page.entries.len(), page.total, page.as_of), (0, Some(0), 0));
    let stats = subject.ask(subject.authority().stats(&stranger, StatsQuery::default())).expect("counts");
    assert_eq!(stats, Stats::default());
}

/// Applying seals again, one by one or all of them, changes nothing.
pub(crate) fn replays(subject: &dyn Subject) {
    let mut sequencer = Sequencer::new(2);
    for _ in 0..4 {
        let seal = sequencer.seal(&["a", "b"], 20);
        subject.take(&seal);
        subject.follower().apply(&seal).expect("applies");
    }
    subject.take(&sequencer.erase("a", Cleanup, BASE + 1_500));
    for seal in &sequencer.log {
        subject.follower().apply(seal).expect("applies");
    }
    check(subject, &sequencer.log, "applied again");
}

/// The erasure of the tenant that is settled next, as the seals say.
fn pending(log: &[Arc<DecidedSeal>], name: &str) -> Option<Uuid> {
    let mut state = SealState::default();
    log.iter().for_each(|sealed| state.fold(&sealed.seal, sealed.crc));
    state
        .erasures
        .get(&tenant(name))
        .and_then(|all| all.pending().first())
        .map(|erasure| erasure.job)
}

/// Erases after a dry run, and says which job that is.
fn erase(subject: &dyn Subject, sequencer: &mut Sequencer, name: &str, kind: ErasureKind, cutoff: i64, context: &str) -> Uuid {
    let expected = subject.ask(subject.authority().count_would_erase(&scope(name), kind, cutoff)).expect("counts");
    let seal = sequencer.erase(name, kind, cutoff);
    subject.take(&seal);
    let job = seal.seal.erasures[0].erasure.job;
    let removed = Model::of(&sequencer.log)[&tenant(name)].removed.last().copied();
    assert_eq!(removed, Some((job, expected)), "{context}: the dry run");
    job
}

/// Counts what the tenant's first pending erasure removed, and seals that.
fn settle(subject: &dyn Subject, sequencer: &mut Sequencer, name: &str, context: &str) {
    let Some(job) = pending(&sequencer.log, name) else { return };
    let rows = subject.ask(subject.authority().count_erased(&scope(name), job)).expect("counts");
    let model = &Model::of(&sequencer.log)[&tenant(name)];
    assert!(model.removed.contains(&(job, rows)), "{context}: {rows} of {:?}", model.removed);
    subject.take(&sequencer.settle(name, job, rows));
    let again = subject.ask(subject.authority().count_erased(&scope(name), job)).expect("counts");
    assert_eq!(again, 0, "{context}: not pending any more");
}

/// Ids of erased rows that nothing has now are sent again with other contents.
fn use_ids_again(subject: &dyn Subject, sequencer: &mut Sequencer, dice: &mut Dice, name: &str) {
    let model = &Model::of(&sequencer.log)[&tenant(name)];
    let free = |row: &&StoredEntry| !model.rows.iter().any(|r| r.entry().id() == row.entry().id());
    let erased: Vec<u128> = model.erased.iter().filter(free).map(|row| row.entry().id().as_u128()).collect();
    let Some(id) = erased.get(dice.below(erased.len() as u64 + 1) as usize) else {
        return;
    };
    let next = std::mem::replace(&mut sequencer.next_id, *id);
    sequencer.salt += 1;
    let pack = sequencer.pack(&tenant(name), 1);
    sequencer.next_id = next;
    subject.take(&sequencer.seal_of(vec![pack], |_, _| false));
}

/// What is erased is in no answer and unknown to the ledger, everything else is there, each erased row is counted once, and ids are
/// free again, through random erasures of both kinds that overlap.
pub(crate) fn erasures(subject: &dyn Subject, seed: u64, steps: u64) {
    let (mut sequencer, mut dice) = (Sequencer::new(seed), Dice::new(seed ^ 77));
    let names = TENANTS;
    for name in names {
        let pack = sequencer.pack(&tenant(name), 5);
        subject.take(&sequencer.seal_of(vec![pack], |_, _| false));
    }
    for step in 0..steps {
        let name = names[dice.below(3) as usize];
        let context = format!("seed {seed}, step {step}");
        let now = BASE + sequencer.log.len() as i64 * 1_000;
        match dice.below(9) {
            0..=3 => subject.take(&sequencer.seal(&names, 25)),
            4 => use_ids_again(subject, &mut sequencer, &mut dice, name),
            5..=6 => {
                let kind = if dice.chance(50) { Cleanup } else { Retention };
                let back = dice.below(60_000) as i64;
                erase(subject, &mut sequencer, name, kind, now - back, &context);
            }
            _ => settle(subject, &mut sequencer, name, &context),
        }
        if step % 6 == 5 {
            check(subject, &sequencer.log, &context);
        }
    }
    compare(subject, &sequencer.log, &mut dice, 4, &format!("seed {seed}, in the end"), &|_, _, _, _, _| ());
}

/// Erasures whose cutoffs go down do not swallow each other: many of them are a long staircase.
pub(crate) fn staircase(subject: &dyn Subject, steps: i64) {
    let mut sequencer = Sequencer::new(9);
    for step in 0..steps {
        let pack = sequencer.pack(&tenant("a"), 2);
        subject.take(&sequencer.seal_of(vec![pack], |_, _| false));
        let kind = if step % 2 == 0 { Cleanup } else { Retention };
        subject.take(&sequencer.erase("a", kind, BASE + (steps - step) * 500));
    }
    check(subject, &sequencer.log, "a long staircase");
    let old = sequencer.pack(&tenant("a"), 3);
    subject.take(&sequencer.seal_of(vec![old], |_, _| false));
    subject.take(&sequencer.erase("a", Cleanup, i64::MAX));
    check(subject, &sequencer.log, "all is gone");
}
