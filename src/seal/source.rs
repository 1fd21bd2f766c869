//! How far the seals have decided what sources without acks deliver (Kinesis): the checkpoint that a restart begins at.
//!
//! A source reports of each shard the last record before which nothing is undecided ([`SourceProgress`]); the next seal carries
//! what has changed, [`SealState`](super::state::SealState) adds it up. A report is made only of records whose packs stand in
//! durable seals, so a checkpoint is never ahead of the decisions; that it may lag behind is harmless, because a pack that is
//! delivered again is known.

use serde::{Deserialize, Serialize};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, btree_map},
    sync::Arc,
};

/// A shard of a source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardName {
    /// The source's name in the configuration (a stream).
    pub source: Arc<str>,
    /// The shard's id.
    pub shard: Arc<str>,
}

/// Where a shard is to be read on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardAt {
    /// After this sequence number (decimal, any length): everything up to it is decided.
    After(Arc<str>),
    /// Nowhere: it was closed by a split or merge, and everything in it is decided. Its children may be read.
    End,
}

impl ShardAt {
    /// Orders the places of one shard. Sequence numbers are decimal numbers without leading zeros, too long for an integer.
    fn cmp_place(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::End, Self::End) => Ordering::Equal,
            (Self::End, Self::After(_)) => Ordering::Greater,
            (Self::After(_), Self::End) => Ordering::Less,
            (Self::After(a), Self::After(b)) => compare_numbers(a, b),
        }
    }
}

/// Compares two decimal numbers without leading zeros, of any length.
pub fn compare_numbers(a: &str, b: &str) -> Ordering {
    (a.len(), a).cmp(&(b.len(), b))
}

/// What a seal says about one shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SealSource {
    /// Which shard.
    pub name: ShardName,
    /// Where it stands; `None`: the source has no such shard any more, it is forgotten.
    pub at: Option<ShardAt>,
}

/// Where all shards stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(ShardName, ShardAt)>", into = "Vec<(ShardName, ShardAt)>")]
pub struct SourceCheckpoints(BTreeMap<ShardName, ShardAt>);

impl SourceCheckpoints {
    /// Whether no shard stands anywhere.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where a shard stands; `None`: at its beginning.
    pub fn get(&self, name: &ShardName) -> Option<&ShardAt> {
        self.0.get(name)
    }

    /// Every shard that stands somewhere, by name.
    pub fn iter(&self) -> btree_map::Iter<'_, ShardName, ShardAt> {
        self.0.iter()
    }

    /// Takes what a seal says. A shard never goes back.
    pub fn fold(&mut self, change: &SealSource) {
        match &change.at {
            None => {
                self.0.remove(&change.name);
            }
            Some(at) => {
                let held = self.0.entry(change.name.clone()).or_insert_with(|| at.clone());
                if held.cmp_place(at) == Ordering::Less {
                    *held = at.clone();
                }
            }
        }
    }

    /// What a seal must say so that these checkpoints reach `now`, by name: where shards have gone on, and which of the reported
    /// sources' shards are no longer among `now`.
    pub fn changes(&self, now: &[SourceReport]) -> Vec<SealSource> {
        let mut changes = BTreeMap::new();
        for report in now {
            let named: BTreeSet<&str> = report.shards.iter().map(|(shard, _)| &**shard).collect();
            let gone = self.0.keys().filter(|held| held.source == report.source && !named.contains(&*held.shard));
            changes.extend(gone.map(|name| (name.clone(), None)));
            for (shard, at) in &report.shards {
                let (source, shard) = (report.source.clone(), shard.clone());
                let name = ShardName { source, shard };
                let Some(at) = at else { continue };
                if self.0.get(&name).is_none_or(|held| held.cmp_place(at) == Ordering::Less) {
                    changes.insert(name, Some(at.clone()));
                }
            }
        }
        changes.into_iter().map(|(name, at)| SealSource { name, at }).collect()
    }
}

impl From<Vec<(ShardName, ShardAt)>> for SourceCheckpoints {
    fn from(list: Vec<(ShardName, ShardAt)>) -> Self {
        Self(list.into_iter().collect())
    }
}

impl From<SourceCheckpoints> for Vec<(ShardName, ShardAt)> {
    fn from(all: SourceCheckpoints) -> Self {
        all.0.into_iter().collect()
    }
}

/// Where the shards of one source stand: all that it has, and those that it had and of which something is undecided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceReport {
    /// The source's name.
    pub source: Arc<str>,
    /// Each shard once; `None`: nothing of it is decided yet. A shard that is missing is forgotten.
    pub shards: Vec<(Arc<str>, Option<ShardAt>)>,
}

/// A source without acks, as the sequencer sees it.
pub trait SourceProgress: Send + Sync + 'static {
    /// Where the sources stand now; a source that does not know its shards yet is left out. Only what durable seals decide
    /// counts. Cheap: called for every seal, on the sequencer's thread.
    fn report(&self) -> Vec<SourceReport>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(shard: &str) -> ShardName {
        ShardName {
            source: "s".into(),
            shard: shard.into(),
        }
    }

    fn after(number: &str) -> ShardAt {
        ShardAt::After(number.into())
    }

    fn report(shards: &[(&str, Option<ShardAt>)]) -> [SourceReport; 1] {
        [SourceReport {
            source: "s".into(),
            shards: shards.iter().map(|(shard, at)| (Arc::from(*shard), at.clone())).collect(),
        }]
    }

    fn apply(all: &mut SourceCheckpoints, now: &[SourceReport]) -> usize {
        let changes = all.changes(now);
        changes.iter().for_each(|change| all.fold(change));
        changes.len()
    }

    #[test]
    fn numbers_longer_than_any_integer_are_compared_as_numbers() {
        let long = "49590338271490256608559692538361571095921575989136588898";
        for (small, large) in [("9", "10"), ("0", "1"), ("99", "100"), ("12345678901234567890", long)] {
            assert_eq!(compare_numbers(small, large), Ordering::Less);
        }
        assert_eq!(compare_numbers(long, long), Ordering::Equal);
    }

    #[test]
    fn a_seal_says_what_has_changed_and_nothing_else() {
        let mut all = SourceCheckpoints::default();
        assert_eq!(apply(&mut all, &report(&[("a", None), ("b", Some(after("9")))])), 1);
        assert_eq!((all.get(&name("a")), all.get(&name("b"))), (None, Some(&after("9"))));
        assert_eq!(apply(&mut all, &report(&[("a", None), ("b", Some(after("9")))])), 0);
        assert_eq!(apply(&mut all, &report(&[("a", Some(after("3"))), ("b", Some(after("10")))])), 2);
        assert_eq!(apply(&mut all, &report(&[("a", Some(ShardAt::End)), ("b", Some(after("10")))])), 1);
        assert_eq!(apply(&mut all, &report(&[("b", Some(after("10")))])), 1, "`a` is gone");
        assert_eq!(all.iter().count(), 1);
        assert_eq!(apply(&mut all, &[]), 0, "a source that says nothing keeps what it had");
    }

    #[test]
    fn a_shard_never_goes_back() {
        let mut all = SourceCheckpoints::default();
        let at = |at| SealSource { name: name("a"), at: Some(at) };
        for (next, then) in [
            (after("100"), after("100")),
            (after("99"), after("100")),
            (ShardAt::End, ShardAt::End),
            (after("200"), ShardAt::End),
        ] {
            all.fold(&at(next));
            assert_eq!(all.get(&name("a")), Some(&then));
        }
        assert_eq!(all.changes(&report(&[("a", Some(after("300")))])), []);
    }

    #[test]
    fn checkpoints_read_back_from_json() {
        let mut all = SourceCheckpoints::default();
        apply(&mut all, &report(&[("a", Some(ShardAt::End)), ("b", Some(after("7")))]));
        let text = serde_json::to_string(&all).expect("plain data");
        assert_eq!(serde_json::from_str::<SourceCheckpoints>(&text).expect("the same"), all, "{text}");
    }
}
