//! Statistics against a plain count over a list of rows, with bounds so small that everything that can be cut is cut.

use super::*;
use crate::sinks::contract::{filter, mask, question};
use crate::{
    model::calendar::{Interval, Zone},
    sinks::{Bucket, GroupBy, GroupKey},
};
use query::stats::{Bounds, stats_within};

/// Bounds in which nothing fits that need not.
fn tiny() -> Bounds {
    Bounds {
        user_bytes: 250, // three or four users
        tally_bytes: 1_000,
        ..Bounds::default()
    }
}

fn control(seconds: u64) -> Control {
    Control {
        deadline: Instant::now() + Duration::from_secs(seconds),
        abandoned: Arc::default(),
    }
}

#[test]
fn however_it_is_cut_the_counts_are_those_of_a_plain_list() {
    for seed in [21, 22] {
        println!("seed {seed}");
        let (mut sequencer, mut dice) = (Sequencer::new(seed), Dice::new(seed ^ 7));
        let bench = Bench::recover(SimFs::new(), quiet(), &[]);
        for part in 0..4 {
            for _ in 0..15 {
                bench.store.apply(&sequencer.seal(&["a", "a", "b"], 150)).expect("applies");
            }
            if part < 3 {
                bench.store.flush().expect("flushes");
            }
        }
        let models = Model::of(&sequencer.log);
        let (scope, model) = (scope("a"), &models[&tenant("a")]);
        let view = bench.store.0.inner.tenant(&scope);
        for round in 0..60 {
            let filter = if dice.chance(40) { Filter::default() } else { filter(&mut dice, model) };
            let mask = dice.chance(40).then(|| mask(&mut dice));
            let masked = mask.as_ref().map(|mask| model.seen_through(mask));
            let (query, model) = (question(&mut dice, filter.through(mask)), masked.as_ref().unwrap_or(model));
            let (bounds, helpers) = ([Bounds::default(), tiny()][round % 2], round % 3);
            let answer = stats_within(&view, &query, &control(600), |_| Helpers::exactly(helpers), bounds).expect("counts");
            assert_eq!(
                answer,
                model.stats(&query),
                "seed {seed}, question {round}, {helpers} helpers, {bounds:?}, {query:?}"
            );
        }
    }
}

/// A tenant with `n` users, resources and sessions; every other entry is of user 0.
fn many(bench: &Bench, sequencer: &mut Sequencer, n: usize) {
    let name = tenant("many");
    for first in (0..n).step_by(2_000) {
        let mut builder = PackBuilder::default();
        for i in first..(first + 2_000).min(n) {
            for user in [0, i] {
                let (user, action) = (format!("user-{user}"), format!("a{}", i % 3));
                let mut fields = [None; Field::COUNT];
                fields[Field::Action as usize] = Some(action.as_bytes());
                fields[Field::ResourceType as usize] = Some(&b"doc"[..]);
                fields[Field::UserId as usize] = Some(user.as_bytes());
                let texts = [Field::ResourceId, Field::SessionId];
                texts.iter().for_each(|field| fields[*field as usize] = Some(user.as_bytes()));
                builder.push(&NewEntry {
                    id: Uuid::from_u128(sequencer.next_id),
                    client_id: true,
                    hash: sequencer.next_id,
                    timestamp: BASE + i as i64,
                    severity: Severity::Info,
                    fields,
                });
                sequencer.next_id += 1;
            }
        }
        let header = PackHeader {
            pack_id: Uuid::from_u128(sequencer.next_id << 64),
            tenant: name.clone(),
            actor: "ann".into(),
            request_id: "r".into(),
            received_at: BASE,
            part: (0, 1),
        };
        let pack = Arc::new(builder.finish(header).expect("entries"));
        bench.store.apply(&sequencer.seal_of(vec![pack], |_, _| false)).expect("applies");
    }
}

fn by(keys: &[GroupKey], limit: usize) -> StatsQuery {
    StatsQuery {
        groups: Some(GroupBy { keys: keys.to_vec(), limit }),
        ..StatsQuery::default()
    }
}

#[test]
fn more_users_than_fit_are_counted_all_the_same_and_more_groups_than_fit_are_refused() {
    let (n, mut sequencer) = (20_000, Sequencer::new(1));
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    many(&bench, &mut sequencer, n);
    bench.store.flush().expect("flushes");
    let view = bench.store.0.inner.tenant(&scope("many"));
    let bounds = Bounds {
        user_bytes: 300_000,
        group_bytes: 100_000,
        tally_bytes: 500_000,
        keys: n,
        ..Bounds::default()
    };
    let ask = |query: &StatsQuery, bounds: Bounds| stats_within(&view, query, &control(600), |_| Helpers::none(), bounds);
    let stats = ask(&by(&[GroupKey::Field(Field::Action)], 10), bounds).expect("users never fail");
    assert_eq!((stats.total, stats.unique_users), (2 * n as u64, n as u64));
    assert_eq!(stats.top_users[0], ("user-0".into(), n as u64 + 1));
    let ties: Vec<&str> = stats.top_users[1..4].iter().map(|(user, _)| user.as_str()).collect();
    assert_eq!(ties, ["user-1", "user-10", "user-100"], "ties by id");
    let groups: Vec<(u64, u64)> = stats.groups.expect("asked for").iter().map(|g| (g.count, g.unique_users)).collect();
    let third = |rest: usize| ((n + 2 - rest) / 3) as u64;
    let expected: Vec<(u64, u64)> = (0..3).map(|k| (2 * third(k), third(k) + u64::from(k > 0))).collect();
    assert_eq!(groups, expected);
    for (width, in_each) in [("1s", 2_000), ("5s", 10_000), ("1h", 40_000)] {
        let series = StatsQuery {
            series: Interval::parse(width, Zone::default()),
            ..StatsQuery::default()
        };
        let series = ask(&series, Bounds::default()).expect("fits").series.expect("asked for");
        assert!(series.iter().all(|b| b.by_severity == [in_each, 0, 0, 0]), "{width}: {series:?}");
        assert_eq!(series.len(), 40_000 / in_each as usize, "{width}");
    }
    for key in [Field::UserId, Field::ResourceId, Field::SessionId].map(GroupKey::Field) {
        let groups = ask(&by(std::slice::from_ref(&key), 10_000), bounds)
            .expect("so many fit")
            .groups
            .expect("asked for");
        assert_eq!((groups.len(), groups[0].count, groups[0].unique_users), (10_000, n as u64 + 1, 1), "{key:?}");
        let fewer = Bounds { keys: n - 1, ..bounds };
        assert!(matches!(ask(&by(&[key], 1), fewer), Err(StoreError::TooManyGroups)));
    }
}

#[test]
fn a_series_that_would_be_too_long_is_refused_before_and_after_counting() {
    let mut sequencer = Sequencer::new(3);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    many(&bench, &mut sequencer, 100);
    let ask = |from: Option<i64>, to: Option<i64>| {
        let filter = Filter { from, to, ..Filter::default() };
        let query = StatsQuery {
            filter,
            series: Interval::parse("1s", Zone::default()),
            groups: None,
        };
        bench
            .ask(bench.store.stats(&scope("many"), query))
            .map(|stats| stats.series.expect("asked for"))
    };
    let second = 1_000;
    assert_eq!(ask(Some(BASE), Some(BASE + 10_000 * second)).expect("fits").len(), 10_000);
    let refused = |series: Result<Vec<Bucket>, StoreError>| matches!(series, Err(StoreError::TooManyBuckets { span }) if span >= 10_000 * second);
    assert!(refused(ask(Some(BASE), Some(BASE + 10_000 * second + 1))));
    assert!(refused(ask(Some(BASE - 10_000 * second), None)));
    assert!(refused(ask(Some(i64::MIN), Some(i64::MAX))));
    let only = ask(None, None).expect("fits");
    assert_eq!((only.len(), only[0].start, only[0].by_severity), (1, BASE, [200, 0, 0, 0]));
}

#[test]
fn counting_ends_at_its_deadline_and_when_nobody_waits() {
    let mut sequencer = Sequencer::new(4);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    many(&bench, &mut sequencer, 3_000);
    bench.store.flush().expect("flushes");
    let view = bench.store.0.inner.tenant(&scope("many"));
    let abandoned = control(600);
    abandoned.abandoned.store(true, Ordering::Relaxed);
    for control in [control(0), abandoned] {
        for helpers in [0, 2] {
            let answer = stats_within(&view, &StatsQuery::default(), &control, |_| Helpers::exactly(helpers), Bounds::default());
            assert!(matches!(answer, Err(StoreError::Deadline)), "{helpers} helpers");
        }
    }
}
