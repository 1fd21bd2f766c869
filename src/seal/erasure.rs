//! Erasures: which rows of a tenant are gone. A row is never taken out by a command to a store; an [`Erasure`] in a seal says
//! what is hidden from then on, every read obeys it for ever, and deleting the bytes is housekeeping that may come at any time
//! or never.
//!
//! One tenant's erasures are [`Erasures`]: per kind a *staircase* of (cutoff, head), in which a wider erasure swallows the
//! older ones, and apart from it those erasures whose number of removed rows has not come back yet. A pending erasure hides
//! rows like any other, but its rows keep their bytes ([`Erasures::settled_covers`]), so that they can be counted exactly, once,
//! through any crash: [`Erasures::counted_by`] gives every erased row to exactly one erasure. That holds because erasures
//! are settled in the order in which they were sealed.
//!
//! Plain data: neither time nor storage is known here.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use uuid::Uuid;

/// What an erasure compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum ErasureKind {
    /// Rows whose event time (`timestamp`) is before the cutoff: asked for by somebody.
    Cleanup = 1,
    /// Rows whose `received_at` is before the cutoff: the tenant's retention.
    Retention = 2,
}

impl ErasureKind {
    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Cleanup, Self::Retention].into_iter().find(|kind| *kind as u8 == number)
    }

    /// The time that this kind compares.
    fn time(self, timestamp: i64, received_at: i64) -> i64 {
        match self {
            Self::Cleanup => timestamp,
            Self::Retention => received_at,
        }
    }
}

/// One erasure, as a seal holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    /// Its name, by which its result comes back.
    pub job: Uuid,
    /// What is compared.
    pub kind: ErasureKind,
    /// Rows before this time are erased, milliseconds since 1970.
    pub cutoff: i64,
    /// Rows up to this number are erased, the tenant's head when it was sealed: what comes later is never touched.
    pub head: u64,
}

impl Erasure {
    /// Whether it hides the row.
    pub fn covers(&self, timestamp: i64, received_at: i64, sequence: u64) -> bool {
        self.step().covers(self.kind.time(timestamp, received_at), sequence)
    }

    /// What [`Erasure::covers`] says about rows within these bounds (inclusive).
    fn may_cover(&self, timestamps: (i64, i64), received: (i64, i64), sequences: (u64, u64)) -> Cover {
        cover(|t, r, s| self.covers(t, r, s), timestamps, received, sequences)
    }

    fn step(&self) -> Step {
        Step(self.cutoff, self.head)
    }
}

/// What something that erases whatever is older does to the rows within these bounds (inclusive).
fn cover(covers: impl Fn(i64, i64, u64) -> bool, timestamps: (i64, i64), received: (i64, i64), sequences: (u64, u64)) -> Cover {
    // The oldest corner is taken first, and the newest last.
    if covers(timestamps.1, received.1, sequences.1) {
        Cover::All
    } else if covers(timestamps.0, received.0, sequences.0) {
        Cover::Some
    } else {
        Cover::None
    }
}

/// What erasures do to a block of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    /// No row of it is erased.
    None,
    /// Some may be: each row has to be looked at.
    Some,
    /// All are.
    All,
}

/// The rows that one erasure removes: those that it covers and that nothing before it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    erasure: Erasure,
    before: Erasures,
}

impl Removal {
    /// Whether the row is one of them.
    pub fn takes(&self, timestamp: i64, received_at: i64, sequence: u64) -> bool {
        self.erasure.covers(timestamp, received_at, sequence) && !self.before.covers(timestamp, received_at, sequence)
    }

    /// The erasure, and everything that was erased before it.
    pub fn parts(&self) -> (&Erasure, &Erasures) {
        (&self.erasure, &self.before)
    }

    /// What [`Removal::takes`] says about rows within these bounds (inclusive).
    pub fn may_take(&self, timestamps: (i64, i64), received: (i64, i64), sequences: (u64, u64)) -> Cover {
        let before = self.before.may_cover(timestamps, received, sequences);
        match (self.erasure.may_cover(timestamps, received, sequences), before) {
            (Cover::None, _) | (_, Cover::All) => Cover::None,
            (Cover::All, Cover::None) => Cover::All,
            _ => Cover::Some,
        }
    }
}

/// A cutoff and a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Step(i64, u64);

impl Step {
    fn covers(self, time: i64, sequence: u64) -> bool {
        time < self.0 && sequence <= self.1
    }

    fn swallows(self, other: Self) -> bool {
        other.0 <= self.0 && other.1 <= self.1
    }
}

/// Erasures of one kind: cutoffs ascend, heads descend, none swallows another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Step>", into = "Vec<Step>")]
struct Staircase(SmallVec<[Step; 1]>);

impl Staircase {
    fn add(&mut self, step: Step) {
        if !self.0.iter().any(|s| s.swallows(step)) {
            self.0.retain(|s| !step.swallows(*s));
            let at = self.0.partition_point(|s| s.0 < step.0);
            self.0.insert(at, step);
        }
    }

    /// The largest head.
    fn reach(&self) -> u64 {
        self.0.first().map_or(0, |step| step.1)
    }

    /// The first step whose cutoff is late enough has the largest head of all such steps.
    fn covers(&self, time: i64, sequence: u64) -> bool {
        let at = self.0.partition_point(|s| s.0 <= time);
        self.0.get(at).is_some_and(|s| sequence <= s.1)
    }
}

impl From<Vec<Step>> for Staircase {
    fn from(steps: Vec<Step>) -> Self {
        let mut stairs = Self::default();
        steps.into_iter().for_each(|step| stairs.add(step));
        stairs
    }
}

impl From<Staircase> for Vec<Step> {
    fn from(stairs: Staircase) -> Self {
        stairs.0.into_vec()
    }
}

/// One tenant's erasures as of a seal. The default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Erasures {
    #[serde(skip_serializing_if = "Staircase::is_flat")]
    cleanup: Staircase,
    #[serde(skip_serializing_if = "Staircase::is_flat")]
    retention: Staircase,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pending: Vec<Erasure>,
}

impl Staircase {
    fn is_flat(&self) -> bool {
        self.0.is_empty()
    }
}

impl Erasures {
    /// Whether nothing was ever erased.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.cleanup.is_flat() && self.retention.is_flat()
    }

    /// Whether the row is erased. Every read asks this, for ever; pending erasures count.
    pub fn covers(&self, timestamp: i64, received_at: i64, sequence: u64) -> bool {
        self.settled_covers(timestamp, received_at, sequence) || self.pending.iter().any(|e| e.covers(timestamp, received_at, sequence))
    }

    /// Whether the row is erased and has been counted: only then may its bytes go (flush, compaction).
    pub fn settled_covers(&self, timestamp: i64, received_at: i64, sequence: u64) -> bool {
        self.cleanup.covers(timestamp, sequence) || self.retention.covers(received_at, sequence)
    }

    /// What [`Erasures::covers`] says about rows within these bounds (inclusive).
    pub fn may_cover(&self, timestamps: (i64, i64), received: (i64, i64), sequences: (u64, u64)) -> Cover {
        cover(|t, r, s| self.covers(t, r, s), timestamps, received, sequences)
    }

    /// What [`Erasures::settled_covers`] says about rows within these bounds (inclusive).
    pub fn settled_may_cover(&self, timestamps: (i64, i64), received: (i64, i64), sequences: (u64, u64)) -> Cover {
        cover(|t, r, s| self.settled_covers(t, r, s), timestamps, received, sequences)
    }

    /// The steps of which one hides every erased row and none of them another: kind, cutoff and head, the pending ones too. For
    /// stores that evaluate them elsewhere.
    pub fn steps(&self) -> impl Iterator<Item = (ErasureKind, i64, u64)> + '_ {
        let stairs = [(ErasureKind::Cleanup, &self.cleanup), (ErasureKind::Retention, &self.retention)];
        let settled = stairs
            .into_iter()
            .flat_map(|(kind, stairs)| stairs.0.iter().map(move |step| (kind, step.0, step.1)));
        settled.chain(self.pending.iter().map(|e| (e.kind, e.cutoff, e.head)))
    }

    /// Erasures whose number of rows has not come back, in the order of their seals.
    pub fn pending(&self) -> &[Erasure] {
        &self.pending
    }

    /// Whether the row is one that the pending erasure `job` removed: covered by it, and by nothing that came before it.
    pub fn counted_by(&self, job: Uuid, timestamp: i64, received_at: i64, sequence: u64) -> bool {
        let first = self.pending.iter().find(|e| e.covers(timestamp, received_at, sequence));
        first.is_some_and(|e| e.job == job) && !self.settled_covers(timestamp, received_at, sequence)
    }

    /// What the pending erasure `job` removes, so the rows of [`Erasures::counted_by`]; `None` when it is not pending.
    pub fn removal(&self, job: Uuid) -> Option<Removal> {
        let at = self.pending.iter().position(|e| e.job == job)?;
        let mut before = self.clone();
        before.pending.truncate(at);
        Some(Removal {
            erasure: self.pending[at],
            before,
        })
    }

    /// What `erasure` would remove if it came next.
    pub fn removal_of(&self, erasure: Erasure) -> Removal {
        Removal { erasure, before: self.clone() }
    }

    /// Numbers above this one are not touched by any erasure.
    pub fn reach(&self) -> u64 {
        let pending = self.pending.iter().map(|e| e.head).max().unwrap_or(0);
        pending.max(self.cleanup.reach()).max(self.retention.reach())
    }

    /// Adds an erasure that a seal made. One that is pending already changes nothing.
    pub fn add(&mut self, erasure: &Erasure) {
        if !self.pending.iter().any(|e| e.job == erasure.job) {
            self.pending.push(*erasure);
        }
    }

    /// The number of rows that `job` removed has come back in a seal. False, and nothing is changed, unless it is the first
    /// that is pending: the order of settling is the order of the seals, otherwise an earlier one could not be counted any more.
    pub fn settle(&mut self, job: Uuid) -> bool {
        if self.pending.first().is_none_or(|e| e.job != job) {
            return false;
        }
        let erasure = self.pending.remove(0);
        match erasure.kind {
            ErasureKind::Cleanup => self.cleanup.add(erasure.step()),
            ErasureKind::Retention => self.retention.add(erasure.step()),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn erasure(job: u128, kind: ErasureKind, cutoff: i64, head: u64) -> Erasure {
        Erasure {
            job: Uuid::from_u128(job),
            kind,
            cutoff,
            head,
        }
    }

    fn settled(erasures: &[Erasure]) -> Erasures {
        let mut all = Erasures::default();
        for e in erasures {
            all.add(e);
            assert!(all.settle(e.job));
        }
        all
    }

    #[test]
    fn a_wider_erasure_swallows_older_ones() {
        use ErasureKind::{Cleanup, Retention};
        let all = settled(&[
            erasure(1, Cleanup, 10, 5),
            erasure(2, Cleanup, 30, 7),
            erasure(3, Cleanup, 20, 7),
            erasure(4, Cleanup, 20, 9),
            erasure(5, Retention, 5, 9),
        ]);
        assert_eq!(all.cleanup.0.as_slice(), [Step(20, 9), Step(30, 7)]);
        assert_eq!(all.retention.0.as_slice(), [Step(5, 9)]);
        assert!(all.covers(19, 99, 9) && all.covers(29, 99, 7) && all.covers(99, 4, 9));
        assert!(!all.covers(20, 99, 8) && !all.covers(30, 99, 1) && !all.covers(19, 99, 10) && !all.covers(99, 5, 1));
    }

    #[test]
    fn a_pending_erasure_hides_rows_and_keeps_their_bytes() {
        let (mut all, e) = (Erasures::default(), erasure(1, ErasureKind::Cleanup, 10, 5));
        assert!(all.is_empty());
        all.add(&e);
        all.add(&e);
        assert_eq!(all.pending(), [e]);
        assert!(!all.is_empty() && all.covers(9, 9, 5) && !all.settled_covers(9, 9, 5) && all.counted_by(e.job, 9, 9, 5));
        assert!(!all.counted_by(e.job, 10, 9, 5) && !all.counted_by(Uuid::nil(), 9, 9, 5));
        assert!(all.settle(e.job) && !all.settle(e.job), "its result comes once");
        assert!(all.pending().is_empty() && all.covers(9, 9, 5) && all.settled_covers(9, 9, 5) && !all.counted_by(e.job, 9, 9, 5));
    }

    #[test]
    fn erasures_are_settled_in_their_order() {
        let mut all = Erasures::default();
        let (one, two) = (erasure(1, ErasureKind::Cleanup, 10, 5), erasure(2, ErasureKind::Retention, 10, 5));
        all.add(&one);
        all.add(&two);
        assert!(all.counted_by(one.job, 1, 1, 1) && !all.counted_by(two.job, 1, 1, 1) && all.counted_by(two.job, 10, 1, 1));
        assert!(!all.settle(two.job));
        assert!(all.settle(one.job) && all.settle(two.job));
    }

    #[test]
    fn the_written_form_is_short_and_checks_itself() {
        let mut all = settled(&[erasure(1, ErasureKind::Cleanup, 10, 5), erasure(2, ErasureKind::Cleanup, 5, 6)]);
        all.add(&erasure(3, ErasureKind::Retention, -4, 6));
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(
            text,
            r#"{"cleanup":[[5,6],[10,5]],"pending":[{"job":"00000000-0000-0000-0000-000000000003","kind":"retention","cutoff":-4,"head":6}]}"#
        );
        assert_eq!(serde_json::from_str::<Erasures>(&text).unwrap(), all);
        assert_eq!(serde_json::to_string(&Erasures::default()).unwrap(), "{}");
        let unordered: Erasures = serde_json::from_str(r#"{"cleanup":[[10,5],[5,6],[5,4]]}"#).unwrap();
        assert_eq!(unordered.cleanup, all.cleanup, "what is read is a staircase again");
    }

    prop_compose! {
        fn any_erasure()(kind in prop::bool::ANY, cutoff in 0i64..8) -> (ErasureKind, i64) {
            (if kind { ErasureKind::Cleanup } else { ErasureKind::Retention }, cutoff)
        }
    }

    proptest! {
        /// Against the plain list of everything that was ever erased: what is hidden, what may be dropped, and that every
        /// erased row is counted by exactly one erasure.
        #[test]
        fn the_staircase_says_what_the_list_of_all_erasures_says(steps in prop::collection::vec((any_erasure(), 0u64..3, 0usize..3), 0..12)) {
            let (mut all, mut list, mut head) = (Erasures::default(), Vec::<Erasure>::new(), 0);
            let mut counted = std::collections::HashMap::<(i64, i64, u64), usize>::new();
            let rows = || (0..8i64).flat_map(|t| (0..8i64).flat_map(move |r| (1..=20u64).map(move |s| (t, r, s))));
            for (job, ((kind, cutoff), more, settle)) in steps.into_iter().enumerate() {
                head += more;
                let e = erasure(job as u128, kind, cutoff, head);
                all.add(&e);
                list.push(e);
                for _ in 0..settle {
                    let Some(first) = all.pending().first().copied() else { break };
                    for (t, r, s) in rows().filter(|(t, r, s)| all.counted_by(first.job, *t, *r, *s)) {
                        *counted.entry((t, r, s)).or_default() += 1;
                    }
                    prop_assert!(all.settle(first.job));
                }
                let done = list.len() - all.pending().len();
                for (t, r, s) in rows() {
                    prop_assert_eq!(all.covers(t, r, s), list.iter().any(|e| e.covers(t, r, s)));
                    prop_assert_eq!(all.settled_covers(t, r, s), list[..done].iter().any(|e| e.covers(t, r, s)));
                    prop_assert_eq!(counted.get(&(t, r, s)).copied().unwrap_or(0), usize::from(all.settled_covers(t, r, s)));
                }
                let back: Erasures = serde_json::from_str(&serde_json::to_string(&all).unwrap()).unwrap();
                prop_assert_eq!(&back, &all);
            }
            for stairs in [&all.cleanup, &all.retention] {
                prop_assert!(stairs.0.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 > w[1].1));
            }
        }

        /// A block's answer is never wrong about any row in it.
        #[test]
        fn a_block_is_judged_by_its_bounds(
            steps in prop::collection::vec((any_erasure(), 0u64..4, prop::bool::ANY), 0..8),
            rows in prop::collection::vec((0i64..8, 0i64..8, 1u64..20), 1..5),
        ) {
            let (mut all, mut head) = (Erasures::default(), 0);
            for (job, ((kind, cutoff), more, settle)) in steps.into_iter().enumerate() {
                head += more;
                all.add(&erasure(job as u128, kind, cutoff, head));
                if settle {
                    let first = all.pending()[0].job;
                    prop_assert!(all.settle(first));
                }
            }
            let span = |of: fn(&(i64, i64, u64)) -> i64| (rows.iter().map(of).min().unwrap(), rows.iter().map(of).max().unwrap());
            let (t, r, s) = (span(|row| row.0), span(|row| row.1), span(|row| row.2 as i64));
            let s = (s.0 as u64, s.1 as u64);
            let fits = |cover: Cover, hidden: &[bool]| match cover {
                Cover::None => !hidden.contains(&true),
                Cover::Some => true,
                Cover::All => !hidden.contains(&false),
            };
            let hidden: Vec<bool> = rows.iter().map(|(t, r, s)| all.covers(*t, *r, *s)).collect();
            prop_assert!(fits(all.may_cover(t, r, s), &hidden));
            let gone: Vec<bool> = rows.iter().map(|(t, r, s)| all.settled_covers(*t, *r, *s)).collect();
            prop_assert!(fits(all.settled_may_cover(t, r, s), &gone));
            prop_assert!(rows.iter().all(|(t, r, s)| *s <= all.reach() || !all.covers(*t, *r, *s)));
            for pending in all.pending() {
                let removal = all.removal(pending.job).expect("it is pending");
                let counted: Vec<bool> = rows.iter().map(|(t, r, s)| all.counted_by(pending.job, *t, *r, *s)).collect();
                let taken: Vec<bool> = rows.iter().map(|(t, r, s)| removal.takes(*t, *r, *s)).collect();
                prop_assert_eq!(&taken, &counted);
                prop_assert!(fits(removal.may_take(t, r, s), &taken));
            }
            if rows.len() == 1 {
                let one = if hidden[0] { Cover::All } else { Cover::None };
                prop_assert_eq!(all.may_cover(t, r, s), one, "bounds of one row are that row");
            }
        }
    }
}
