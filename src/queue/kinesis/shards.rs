//! Which shard of a stream is to be read when, and how far each is decided. Pure: no clock of its own, no I/O.
//!
//! ```text
//! listed ─▶ waits for its parents ─▶ due ─▶ fetching ─▶ buffer ─▶ taken ─▶ done ─▶ decided (contiguous) ─▶ End, when read to its end
//!                                     ▲         │ throttled: later; expired: a new iterator after the last record read
//!                                     └─────────┘
//! ```
//!
//! Bounds: a shard is read on only when its buffer is empty and fewer than [`MOST_OPEN`] of its records are not decided; nothing is
//! read while [`MOST_BUFFERED`] bytes wait in all.

use crate::seal::source::{ShardAt, ShardName, SourceCheckpoints, compare_numbers};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Records of one shard that are read and not contiguously decided.
pub(crate) const MOST_OPEN: usize = 20_000;
/// Records that are read and not taken, bytes, before anything more is read.
pub(crate) const MOST_BUFFERED: usize = 16 << 20;
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A shard as the stream lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub shard: Arc<str>,
    /// What it was split or merged from; they need not exist any more.
    pub parents: Vec<Arc<str>>,
    /// It takes records: it was neither split nor merged.
    pub open: bool,
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record that is kept.
    Oldest,
    /// After this record.
    After(Arc<str>),
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number.
    pub number: Arc<str>,
    /// When the stream took it, milliseconds since 1970.
    pub sent_at: i64,
    /// What it holds.
    pub data: Bytes,
}

/// A fetch that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    index: u32,
    /// Counts fetches: one that was overtaken by [`Shards::give_back`] is no longer wanted.
    number: u64,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Read this shard: [`Shards::fetched`] or [`Shards::failed`] ends it.
    Fetch {
        /// Names the fetch.
        fetch: Fetch,
        /// Its id.
        shard: Arc<str>,
        /// Where to get an iterator, if there is none.
        start: Start,
        /// The iterator.
        iterator: Option<String>,
    },
    /// Nothing before this time, unless something is done; `None`: nothing at all.
    Wait(Option<Instant>),
}

/// Why a shard could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The iterator is too old: a new one is got at once.
    Expired,
    /// The place is none of this stream's (it was made anew under its name): from the oldest on.
    NoSuchPlace,
    /// Not now: a growing pause.
    Refused,
}

/// See the module.
#[derive(Debug)]
pub struct Shards {
    source: Arc<str>,
    poll: Duration,
    shards: BTreeMap<Arc<str>, Shard>,
    by_index: HashMap<u32, Arc<str>>,
    next_index: u32,
    fetches: u64,
    checkpoints: SourceCheckpoints,
    listed: bool,
    buffered: usize,
    /// The shard that records were taken from last: the next one has its turn.
    turn: Option<Arc<str>>,
}

#[derive(Debug)]
struct Shard {
    index: u32,
    parents: Vec<Arc<str>>,
    decided: Option<ShardAt>,
    /// The last record read.
    read: Option<Arc<str>>,
    iterator: Option<String>,
    buffer: VecDeque<Record>,
    /// Records read and not contiguously decided, in order.
    open: VecDeque<Open>,
    read_to_end: bool,
    fetching: Option<u64>,
    due: Instant,
    failures: u32,
    behind_ms: u64,
}

#[derive(Debug)]
struct Open {
    number: Arc<str>,
    sent_at: i64,
    done: bool,
}

impl Shard {
    fn start(&self) -> Start {
        match (&self.read, &self.decided) {
            (Some(read), _) => Start::After(read.clone()),
            (None, Some(ShardAt::After(decided))) => Start::After(decided.clone()),
            (None, None | Some(ShardAt::End)) => Start::Oldest,
        }
    }

    /// Moves over what is done.
    fn advance(&mut self) {
        while let Some(done) = self.open.pop_front_if(|open| open.done) {
            self.decided = Some(ShardAt::After(done.number));
        }
        if self.read_to_end && self.open.is_empty() {
            self.decided = Some(ShardAt::End);
        }
    }

    fn is_ended(&self) -> bool {
        self.decided == Some(ShardAt::End)
    }
}

impl Shards {
    /// The shards of `source`, to be read on from `checkpoints`, each at most once in `poll`. None is known before they are
    /// [`Shards::listed`].
    pub fn new(source: Arc<str>, checkpoints: SourceCheckpoints, poll: Duration) -> Self {
        Self {
            source,
            poll,
            shards: BTreeMap::new(),
            by_index: HashMap::new(),
            next_index: 0,
            fetches: 0,
            checkpoints,
            listed: false,
            buffered: 0,
            turn: None,
        }
    }

    /// These are all shards that the stream has. One that is missing has lost its last record, and is forgotten.
    pub fn listed(&mut self, all: Vec<Listed>, now: Instant) {
        let there: HashSet<Arc<str>> = all.iter().map(|listed| listed.shard.clone()).collect();
        let gone: Vec<_> = self.shards.keys().filter(|shard| !there.contains(*shard)).cloned().collect();
        for shard in gone {
            if let Some(shard) = self.shards.remove(&shard) {
                self.by_index.remove(&shard.index);
                self.buffered -= shard.buffer.iter().map(|record| record.data.len()).sum::<usize>();
            }
        }
        for Listed { shard, parents, open } in all {
            if self.shards.contains_key(&shard) {
                continue;
            }
            let name = ShardName {
                source: self.source.clone(),
                shard: shard.clone(),
            };
            // A shard that takes records is not at its end: the checkpoint is of a stream that had this name before.
            let decided = self.checkpoints.get(&name).filter(|at| !(open && **at == ShardAt::End)).cloned();
            self.by_index.insert(self.next_index, shard.clone());
            let new = Shard {
                index: self.next_index,
                parents,
                decided,
                read: None,
                iterator: None,
                buffer: VecDeque::new(),
                open: VecDeque::new(),
                read_to_end: false,
                fetching: None,
                due: now,
                failures: 0,
                behind_ms: 0,
            };
            self.next_index += 1;
            self.shards.insert(shard, new);
        }
        self.listed = true;
    }

    /// What to do at `now`: the shard that is due longest.
    pub fn due(&mut self, now: Instant) -> Next {
        if self.buffered >= MOST_BUFFERED {
            return Next::Wait(None);
        }
        let ready = |shard: &&Shard| {
            let blocked = shard
                .parents
                .iter()
                .any(|parent| self.shards.get(parent).is_some_and(|parent| !parent.is_ended()));
            let idle = shard.fetching.is_none() && shard.buffer.is_empty() && !shard.read_to_end && !shard.is_ended();
            idle && !blocked && shard.open.len() < MOST_OPEN
        };
        let Some((due, index)) = self.shards.values().filter(ready).map(|shard| (shard.due, shard.index)).min() else {
            return Next::Wait(None);
        };
        if due > now {
            return Next::Wait(Some(due));
        }
        self.fetches += 1;
        let number = self.fetches;
        let (id, shard) = self.shard(index).expect("it was just found");
        shard.fetching = Some(number);
        Next::Fetch {
            fetch: Fetch { index, number },
            shard: id,
            start: shard.start(),
            iterator: shard.iterator.clone(),
        }
    }

    /// What came of reading a shard. `next`: the iterator to go on with; none when the shard is closed and read to its end.
    pub fn fetched(&mut self, fetch: Fetch, records: Vec<Record>, next: Option<String>, behind_ms: u64, now: Instant) {
        let (poll, bytes) = (self.poll, records.iter().map(|record| record.data.len()).sum::<usize>());
        let Some(shard) = self.ended(fetch) else { return };
        (shard.failures, shard.behind_ms) = (0, behind_ms);
        shard.due = now + poll;
        shard.read_to_end = next.is_none();
        shard.iterator = next;
        if let Some(last) = records.last() {
            shard.read = Some(last.number.clone());
        }
        shard.open.extend(records.iter().map(|record| Open {
            number: record.number.clone(),
            sent_at: record.sent_at,
            done: false,
        }));
        shard.buffer.extend(records);
        shard.advance();
        self.buffered += bytes;
    }

    /// A shard could not be read, or reading it was given up.
    pub fn failed(&mut self, fetch: Fetch, trouble: Trouble, now: Instant) {
        let poll = self.poll.max(Duration::from_millis(50));
        let Some(shard) = self.ended(fetch) else { return };
        match trouble {
            // Once at once; a stream that expires everything is not asked in a circle.
            Trouble::Expired if shard.iterator.take().is_some() => shard.due = now,
            Trouble::NoSuchPlace if shard.start() != Start::Oldest => {
                (shard.read, shard.decided, shard.iterator) = (None, None, None);
                shard.open.clear();
                shard.due = now;
            }
            Trouble::Expired | Trouble::NoSuchPlace | Trouble::Refused => {
                shard.due = now + (poll * (1 << shard.failures.min(10))).min(LONGEST_PAUSE);
                shard.failures += 1;
            }
        }
    }

    /// Reading was given up before it had an outcome.
    pub fn abandoned(&mut self, fetch: Fetch) {
        let _ = self.ended(fetch);
    }

    /// The shard whose fetch this was; `None` when it is not wanted any more.
    fn ended(&mut self, fetch: Fetch) -> Option<&mut Shard> {
        let (_, shard) = self.shard(fetch.index)?;
        shard.fetching.take_if(|number| *number == fetch.number)?;
        Some(shard)
    }

    /// Up to `max` records of one shard with its index and id, in order. The shards take turns.
    pub fn take(&mut self, max: usize) -> Option<(u32, Arc<str>, Vec<Record>)> {
        let waiting = |(id, shard): (&Arc<str>, &Shard)| (!shard.buffer.is_empty()).then(|| id.clone());
        let after = self
            .turn
            .iter()
            .flat_map(|turn| self.shards.range::<Arc<str>, _>((std::ops::Bound::Excluded(turn), std::ops::Bound::Unbounded)));
        let id = after.chain(&self.shards).find_map(waiting)?;
        let shard = self.shards.get_mut(&id)?;
        let taken: Vec<_> = shard.buffer.drain(..max.min(shard.buffer.len())).collect();
        let index = shard.index;
        self.buffered -= taken.iter().map(|record| record.data.len()).sum::<usize>();
        self.turn = Some(id.clone());
        Some((index, id, taken))
    }

    /// Everything in this record is decided. `true` when that ends its shard, so that children may be there.
    pub fn done(&mut self, index: u32, number: &str) -> bool {
        let Some((_, shard)) = self.shard(index) else { return false };
        let (a, b) = shard.open.as_slices();
        let find = |part: &[Open]| part.binary_search_by(|open| compare_numbers(&open.number, number));
        let at = find(a).or_else(|_| find(b).map(|at| a.len() + at));
        let Ok(at) = at else { return false };
        shard.open[at].done = true;
        shard.advance();
        shard.is_ended()
    }

    /// Records of this shard that were taken will not be worked on: it is read again from where it is decided.
    pub fn give_back(&mut self, index: u32) {
        let Some((_, shard)) = self.shard(index) else { return };
        let bytes: usize = shard.buffer.drain(..).map(|record| record.data.len()).sum();
        shard.open.clear();
        (shard.read, shard.iterator) = (None, None);
        // A fetch that is under way must not add what follows.
        shard.fetching = None;
        shard.read_to_end = shard.is_ended();
        self.buffered -= bytes;
    }

    /// Where every shard stands; `None` before they were listed.
    pub fn places(&self) -> Option<Vec<(Arc<str>, Option<ShardAt>)>> {
        let places = self.shards.iter().map(|(id, shard)| (id.clone(), shard.decided.clone()));
        self.listed.then(|| places.collect())
    }

    /// How far behind the newest record the decisions are, milliseconds: the age of the oldest record that is read and not decided,
    /// or what the stream says of those not read.
    pub fn lag_ms(&self, now_ms: i64) -> u64 {
        let of = |shard: &Shard| {
            let oldest = shard.open.front().map_or(0, |open| now_ms.saturating_sub(open.sent_at).max(0) as u64);
            oldest.max(shard.behind_ms)
        };
        self.shards.values().filter(|shard| !shard.is_ended()).map(of).max().unwrap_or(0)
    }

    /// Whether a shard is ended and a child of it could be missing here.
    pub fn wants_list(&self) -> bool {
        let parents: HashSet<&Arc<str>> = self.shards.values().flat_map(|shard| &shard.parents).collect();
        !self.listed
            || self
                .shards
                .iter()
                .any(|(id, shard)| (shard.read_to_end || shard.is_ended()) && !parents.contains(id))
    }

    fn shard(&mut self, index: u32) -> Option<(Arc<str>, &mut Shard)> {
        let id = self.by_index.get(&index)?;
        Some((id.clone(), self.shards.get_mut(id)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::source::{SealSource, SourceReport};

    const POLL: Duration = Duration::from_millis(200);

    fn shards(checkpoints: &[(&str, ShardAt)]) -> Shards {
        let mut all = SourceCheckpoints::default();
        for (shard, at) in checkpoints {
            all.fold(&SealSource {
                name: ShardName {
                    source: "s".into(),
                    shard: Arc::from(*shard),
                },
                at: Some(at.clone()),
            });
        }
        Shards::new("s".into(), all, POLL)
    }

    fn listed(shard: &str, parents: &[&str]) -> Listed {
        Listed {
            shard: shard.into(),
            parents: parents.iter().map(|parent| Arc::from(*parent)).collect(),
            open: false,
        }
    }

    fn records(numbers: impl IntoIterator<Item = u64>) -> Vec<Record> {
        let record = |number: u64| Record {
            number: number.to_string().into(),
            sent_at: number as i64,
            data: Bytes::from_static(b"12345678"),
        };
        numbers.into_iter().map(record).collect()
    }

    fn after(number: u64) -> Option<ShardAt> {
        Some(ShardAt::After(number.to_string().into()))
    }

    /// The shard that is due, and where it is to begin.
    fn due(shards: &mut Shards, now: Instant) -> Option<(Fetch, String, Start)> {
        match shards.due(now) {
            Next::Fetch { fetch, shard, start, .. } => Some((fetch, shard.to_string(), start)),
            Next::Wait(_) => None,
        }
    }

    fn read(shards: &mut Shards, now: Instant, numbers: impl IntoIterator<Item = u64>, next: Option<&str>) -> String {
        let (fetch, shard, _) = due(shards, now).expect("a shard is due");
        shards.fetched(fetch, records(numbers), next.map(str::to_owned), 0, now);
        shard
    }

    fn place(shards: &Shards, shard: &str) -> Option<ShardAt> {
        let places = shards.places().expect("listed");
        places.into_iter().find(|(id, _)| &**id == shard).expect("it is there").1
    }

    #[test]
    fn progress_is_the_run_of_records_that_are_all_done_whatever_the_order() {
        let (mut shards, now) = (shards(&[]), Instant::now());
        assert!(shards.places().is_none(), "nothing is known");
        shards.listed(vec![listed("a", &[])], now);
        read(&mut shards, now, 8..13, Some("i"));
        let (index, _, taken) = shards.take(100).expect("records");
        assert_eq!(taken.len(), 5);
        for (done, decided) in [
            ("9", None),
            ("11", None),
            ("8", after(9)),
            ("8", after(9)),
            ("10", after(11)),
            ("12", after(12)),
        ] {
            assert!(!shards.done(index, done));
            assert_eq!(place(&shards, "a"), decided, "{done}");
        }
        assert!(!shards.done(index, "99"), "one that is not there");
    }

    #[test]
    fn children_wait_until_everything_in_their_parents_is_decided() {
        let (mut shards, now) = (shards(&[]), Instant::now());
        shards.listed(vec![listed("a", &[]), listed("b", &["gone"])], now);
        assert_eq!(read(&mut shards, now, [1], None), "a", "closed by a merge");
        assert_eq!(
            read(&mut shards, now, [2], Some("i")),
            "b",
            "a parent that is not kept any more holds nobody up"
        );
        assert!(shards.wants_list(), "`a` ended and has no child yet");
        shards.listed(
            vec![listed("a", &[]), listed("b", &["gone"]), listed("c", &["a", "b"]), listed("d", &["c"])],
            now,
        );
        assert!(!shards.wants_list());
        let (a, _, _) = shards.take(9).expect("records of a");
        let (b, _, _) = shards.take(9).expect("records of b");
        assert!(shards.done(a, "1"), "ended");
        let later = now + POLL;
        assert_eq!(read(&mut shards, later, [], None), "b");
        assert!(due(&mut shards, later).is_none(), "b is read to its end and not decided");
        assert!(shards.done(b, "2"));
        assert_eq!(
            (place(&shards, "a"), place(&shards, "b"), place(&shards, "c")),
            (Some(ShardAt::End), Some(ShardAt::End), None)
        );
        let (fetch, shard, start) = due(&mut shards, later).expect("the child");
        assert_eq!((shard.as_str(), start), ("c", Start::Oldest));
        shards.fetched(fetch, Vec::new(), Some("i".into()), 0, later);
        assert!(due(&mut shards, later + POLL).is_some_and(|(_, shard, _)| shard == "c"), "not the grandchild");
    }

    #[test]
    fn a_restart_goes_on_at_the_checkpoints() {
        let at = |n: &str| ShardAt::After(n.into());
        let (mut shards, now) = (shards(&[("a", ShardAt::End), ("b", at("77")), ("old", at("5"))]), Instant::now());
        shards.listed(vec![listed("a", &[]), listed("b", &["a"]), listed("c", &["a"])], now);
        let (_, shard, start) = due(&mut shards, now).expect("b");
        assert_eq!((shard.as_str(), start), ("b", Start::After("77".into())));
        let (_, shard, start) = due(&mut shards, now).expect("c");
        assert_eq!((shard.as_str(), start), ("c", Start::Oldest));
        assert!(due(&mut shards, now).is_none(), "what is ended is not read");
        let shards = SourceReport {
            source: "s".into(),
            shards: shards.places().expect("listed"),
        };
        let mut sealed = SourceCheckpoints::default();
        let old = ShardName {
            source: "s".into(),
            shard: "old".into(),
        };
        sealed.fold(&SealSource { name: old, at: Some(at("5")) });
        assert!(
            sealed
                .changes(&[shards])
                .iter()
                .any(|change| &*change.name.shard == "old" && change.at.is_none()),
            "it is forgotten"
        );
    }

    #[test]
    fn a_stream_that_was_made_anew_under_its_name_is_read_although_the_old_one_ended() {
        let (mut shards, now) = (shards(&[("a", ShardAt::End)]), Instant::now());
        let open = Listed {
            open: true,
            ..listed("a", &[])
        };
        shards.listed(vec![open], now);
        assert!(due(&mut shards, now).is_some_and(|(_, _, start)| start == Start::Oldest));
    }

    #[test]
    fn an_expired_iterator_is_made_anew_after_the_last_record_read() {
        let (mut shards, now) = (shards(&[]), Instant::now());
        shards.listed(vec![listed("a", &[])], now);
        read(&mut shards, now, [3, 4], Some("i"));
        shards.take(9).expect("records");
        let later = now + POLL;
        let Next::Fetch { fetch, iterator, .. } = shards.due(later) else {
            panic!("due")
        };
        assert_eq!(iterator.as_deref(), Some("i"));
        shards.failed(fetch, Trouble::Expired, later);
        let Next::Fetch { fetch, iterator, start, .. } = shards.due(later) else {
            panic!("at once")
        };
        assert_eq!((iterator, start), (None, Start::After("4".into())), "although nothing of it is decided");
        shards.failed(fetch, Trouble::Expired, later);
        assert!(matches!(shards.due(later), Next::Wait(Some(at)) if at > later), "not in a circle");
    }

    #[test]
    fn a_place_that_the_stream_does_not_know_is_no_reason_to_lose_anything() {
        let (mut shards, now) = (shards(&[("a", ShardAt::After("9".into()))]), Instant::now());
        shards.listed(vec![listed("a", &[])], now);
        let (fetch, _, start) = due(&mut shards, now).expect("due");
        assert_eq!(start, Start::After("9".into()));
        shards.failed(fetch, Trouble::NoSuchPlace, now);
        let (fetch, _, start) = due(&mut shards, now).expect("at once");
        assert_eq!(start, Start::Oldest);
        shards.failed(fetch, Trouble::NoSuchPlace, now);
        assert!(due(&mut shards, now).is_none(), "then it is a failure like others");
    }

    #[test]
    fn a_refused_shard_is_asked_less_and_less_often_and_the_others_go_on() {
        let (mut shards, start) = (shards(&[]), Instant::now());
        shards.listed(vec![listed("a", &[]), listed("b", &[])], start);
        let (mut now, mut pauses) = (start, Vec::new());
        for _ in 0..8 {
            let (fetch, shard, _) = due(&mut shards, now).expect("a");
            assert_eq!(shard, "a");
            shards.failed(fetch, Trouble::Refused, now);
            assert_eq!(read(&mut shards, now, [], Some("i")), "b");
            let Some(b) = shards.shards.get_mut("b") else { panic!("b") };
            b.due = now + Duration::from_secs(3600);
            let Next::Wait(Some(at)) = shards.due(now) else { panic!("a pause") };
            pauses.push(at - now);
            let Some(b) = shards.shards.get_mut("b") else { panic!("b") };
            b.due = at;
            now = at;
        }
        assert_eq!(pauses[0], POLL);
        assert!(pauses.is_sorted() && pauses.last() == Some(&LONGEST_PAUSE), "{pauses:?}");
    }

    #[test]
    fn nothing_is_read_beyond_the_bounds() {
        let (mut shards, now) = (shards(&[]), Instant::now());
        shards.listed(vec![listed("a", &[]), listed("b", &[])], now);
        read(&mut shards, now, 0..MOST_OPEN as u64, Some("i"));
        assert!(due(&mut shards, now).is_some_and(|(_, shard, _)| shard == "b"));
        assert!(due(&mut shards, now + POLL).is_none(), "the buffer is full");
        let (a, _, taken) = shards.take(usize::MAX).expect("records");
        assert_eq!((taken.len(), shards.buffered), (MOST_OPEN, 0));
        assert!(due(&mut shards, now + POLL).is_none(), "too much is undecided");
        shards.done(a, "0");
        assert!(due(&mut shards, now + POLL).is_some_and(|(_, shard, _)| shard == "a"));
    }

    #[test]
    fn what_is_given_back_is_read_again_and_a_late_fetch_adds_nothing() {
        let (mut shards, now) = (shards(&[]), Instant::now());
        shards.listed(vec![listed("a", &[])], now);
        read(&mut shards, now, 1..6, Some("i"));
        let (index, _, _) = shards.take(3).expect("records");
        shards.done(index, "1");
        shards.give_back(index);
        let later = now + POLL;
        let (late, _, start) = due(&mut shards, later).expect("due");
        assert_eq!((start, shards.buffered), (Start::After("1".into()), 0));
        shards.give_back(index);
        let (fetch, _, _) = due(&mut shards, later).expect("due");
        shards.fetched(late, records(2..6), Some("i".into()), 0, later);
        assert!(shards.take(9).is_none(), "overtaken");
        shards.fetched(fetch, records(2..4), Some("i".into()), 0, later);
        assert_eq!(shards.take(9).map(|(_, _, taken)| taken.len()), Some(2));
        assert!(!shards.done(index, "2") && !shards.done(index, "3"));
        assert_eq!(place(&shards, "a"), after(3));
    }

    #[test]
    fn shards_take_turns_and_the_lag_is_that_of_the_oldest_undecided_record() {
        let (mut shards, now) = (shards(&[]), Instant::now());
        shards.listed(vec![listed("a", &[]), listed("b", &[])], now);
        read(&mut shards, now, 10..14, Some("i"));
        read(&mut shards, now, 20..24, Some("i"));
        let turns: Vec<_> = std::iter::from_fn(|| shards.take(2)).map(|(_, shard, _)| shard.to_string()).collect();
        assert_eq!(turns, ["a", "b", "a", "b"]);
        assert_eq!(shards.lag_ms(100), 90);
        for n in 10..14u64 {
            shards.done(0, &n.to_string());
        }
        assert_eq!(shards.lag_ms(100), 80);
    }
}
