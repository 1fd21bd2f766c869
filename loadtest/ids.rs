//! What became of every id that was sent, and the comparison with what is stored: 16 bytes an id.

use anyhow::ensure;
use uuid::Uuid;

/// The ids of one tenant by what was said to them.
#[derive(Default)]
pub struct Sent {
    /// 201: each must be there, once.
    acked: Vec<u128>,
    /// 429, 503, which promise that nothing was kept: none may be there.
    refused: Vec<u128>,
    /// No answer, or 504: it may be there or not, but not twice.
    unanswered: Vec<u128>,
}

/// What was said to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Acked,
    Refused,
    Unanswered,
}

impl Answer {
    /// Of a status; `None` for one that no request of ours may get.
    pub fn of(status: u16) -> Option<Self> {
        match status {
            201 => Some(Self::Acked),
            429 | 503 => Some(Self::Refused),
            504 => Some(Self::Unanswered),
            _ => None,
        }
    }
}

/// What a comparison found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// Acknowledged and there, which is all of them.
    pub acked: u64,
    /// Refused, and not there.
    pub refused: u64,
    /// Without an answer, and there.
    pub unanswered_there: u64,
    /// Without an answer, and not there.
    pub unanswered_absent: u64,
}

impl std::ops::AddAssign for Compared {
    fn add_assign(&mut self, other: Self) {
        self.acked += other.acked;
        self.refused += other.refused;
        self.unanswered_there += other.unanswered_there;
        self.unanswered_absent += other.unanswered_absent;
    }
}

impl Sent {
    /// Notes what was said to these.
    pub fn note(&mut self, answer: Answer, ids: impl IntoIterator<Item = Uuid>) {
        let to = match answer {
            Answer::Acked => &mut self.acked,
            Answer::Refused => &mut self.refused,
            Answer::Unanswered => &mut self.unanswered,
        };
        to.extend(ids.into_iter().map(|id| id.as_u128()));
    }

    /// How many were acknowledged.
    pub fn acked(&self) -> usize {
        self.acked.len()
    }

    /// Begins a comparison with what is stored.
    pub fn compare(&mut self) -> anyhow::Result<Comparison<'_>> {
        for ids in [&mut self.acked, &mut self.refused, &mut self.unanswered] {
            ids.sort_unstable();
            ensure!(ids.windows(2).all(|two| two[0] != two[1]), "the generator sent an id twice");
        }
        Ok(Comparison {
            acked: Seen::new(&self.acked),
            unanswered: Seen::new(&self.unanswered),
            refused: &self.refused,
        })
    }
}

/// Sorted ids and which of them were seen.
struct Seen<'a> {
    ids: &'a [u128],
    seen: Vec<u64>,
    count: u64,
}

impl<'a> Seen<'a> {
    fn new(ids: &'a [u128]) -> Self {
        Self {
            ids,
            seen: vec![0; ids.len().div_ceil(64)],
            count: 0,
        }
    }

    /// Whether it is one of these; an error if it was seen before.
    fn see(&mut self, id: u128) -> anyhow::Result<bool> {
        let Ok(at) = self.ids.binary_search(&id) else { return Ok(false) };
        let (word, bit) = (&mut self.seen[at / 64], 1 << (at % 64));
        ensure!(*word & bit == 0, "{} is there twice", Uuid::from_u128(id));
        *word |= bit;
        self.count += 1;
        Ok(true)
    }

    fn missing(&self) -> impl Iterator<Item = u128> {
        self.ids
            .iter()
            .enumerate()
            .filter(|(at, _)| self.seen[at / 64] & (1 << (at % 64)) == 0)
            .map(|(_, id)| *id)
    }
}

/// Takes the stored ids in any order, one by one.
pub struct Comparison<'a> {
    acked: Seen<'a>,
    unanswered: Seen<'a>,
    refused: &'a [u128],
}

impl Comparison<'_> {
    /// An id that is stored.
    ///
    /// # Errors
    /// It is there twice, was refused, or was never sent.
    pub fn stored(&mut self, id: Uuid) -> anyhow::Result<()> {
        let number = id.as_u128();
        if !self.acked.see(number)? && !self.unanswered.see(number)? {
            ensure!(self.refused.binary_search(&number).is_err(), "{id} is there, although it was refused");
            anyhow::bail!("{id} is there, and was never sent");
        }
        Ok(())
    }

    /// That was all.
    ///
    /// # Errors
    /// Something acknowledged was not among them.
    pub fn finish(self) -> anyhow::Result<Compared> {
        if let Some(lost) = self.acked.missing().next() {
            let (all, there) = (self.acked.ids.len(), self.acked.count);
            anyhow::bail!("{all} acknowledged and {there} of them stored: {}, for one, is lost", Uuid::from_u128(lost));
        }
        Ok(Compared {
            acked: self.acked.count,
            refused: self.refused.len() as u64,
            unanswered_there: self.unanswered.count,
            unanswered_absent: self.unanswered.ids.len() as u64 - self.unanswered.count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: impl IntoIterator<Item = u128>) -> impl Iterator<Item = Uuid> {
        numbers.into_iter().map(Uuid::from_u128)
    }

    fn sent() -> Sent {
        let mut sent = Sent::default();
        sent.note(Answer::Acked, ids((0..200).rev()));
        sent.note(Answer::Refused, ids(300..310));
        sent.note(Answer::Unanswered, ids(400..410));
        sent
    }

    fn compare(stored: impl IntoIterator<Item = u128>) -> Result<Compared, String> {
        let mut sent = sent();
        let mut comparison = sent.compare().expect("each once");
        let done = ids(stored).try_for_each(|id| comparison.stored(id)).and_then(|()| comparison.finish());
        done.map_err(|error| error.to_string())
    }

    #[test]
    fn everything_acknowledged_is_there_once_and_what_had_no_answer_may_be() {
        let all = Compared {
            acked: 200,
            refused: 10,
            unanswered_there: 3,
            unanswered_absent: 7,
        };
        assert_eq!(compare((0..200).chain(404..407)), Ok(all));
        let none = Compared {
            unanswered_there: 0,
            unanswered_absent: 10,
            ..all
        };
        assert_eq!(compare((0..200).rev()), Ok(none));
    }

    #[test]
    fn a_lost_a_doubled_a_refused_and_a_foreign_id_are_found() {
        let of = |stored: Vec<u128>| compare(stored).expect_err("it is wrong");
        assert!(of((0..200).filter(|id| *id != 77).collect()).contains("199 of them stored"));
        assert!(of((0..200).chain([5]).collect()).contains("is there twice"));
        assert!(of((0..200).chain([404, 404]).collect()).contains("is there twice"));
        assert!(of((0..200).chain([305]).collect()).contains("although it was refused"));
        assert!(of((0..200).chain([999]).collect()).contains("never sent"));
    }

    #[test]
    fn an_id_that_the_generator_repeats_is_its_own_mistake() {
        let mut sent = sent();
        sent.note(Answer::Acked, ids([3]));
        assert!(sent.compare().is_err());
    }

    #[test]
    fn answers_that_no_request_may_get_are_none() {
        assert_eq!(Answer::of(201), Some(Answer::Acked));
        assert_eq!(Answer::of(504), Some(Answer::Unanswered));
        assert_eq!((Answer::of(429), Answer::of(503)), (Some(Answer::Refused), Some(Answer::Refused)));
        assert_eq!((Answer::of(207), Answer::of(500), Answer::of(422)), (None, None, None));
    }
}
