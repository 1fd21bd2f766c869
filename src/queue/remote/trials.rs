//! Messages that end whatever process opens them.
//!
//! A queue moves a message that was received too often into its dead-letter queue, which is consumed too: what lies there is nearly always
//! good, and came there by outages and restarts. But a message that ends every process that opens it would go round there for ever. So
//! whoever opens one of a dead-letter queue writes that down first, and crosses it out when everything in it is sealed or it was given
//! back in order. What is left counts the processes that ended with it in hand: after [`ALONE`] of them it is opened only while no other one
//! is, so that its neighbours are not suspected too; after [`NEVER`] it is not opened any more, and goes to the quarantine as it is.
//!
//! # Object `trials/<partition>.json`
//!
//! `{"format": 1, "opened": {"MESSAGE": {"by": ["UUID of a consumer", …], "at": MILLISECONDS}}}`. Written by compare and swap, for two owners
//! may be at work; each consumer has a name of its own, so that an answer that is lost counts nothing twice. What is older than any queue
//! keeps messages is forgotten.

use crate::{
    model::time::now_ms,
    objects::{Key, ObjectError, Objects, Precondition},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;

/// So many consumers ended with it in hand: it is opened alone.
pub const ALONE: usize = 2;
/// So many: it is not opened any more.
pub const NEVER: usize = 5;
/// No queue keeps a message for longer, milliseconds: 15 days.
const KEPT: i64 = 15 * 24 * 3600 * 1000;
const FORMAT: u32 = 1;

/// What may be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// It may be opened; that is written down.
    Open,
    /// Not now: it, or one that is open, is to be alone. It comes again.
    Later,
    /// It has ended too many processes.
    Never,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Book {
    format: u32,
    opened: BTreeMap<Arc<str>, Opened>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Opened {
    by: BTreeSet<Uuid>,
    at: i64,
}

impl Book {
    /// How many others ended with the message in hand.
    fn ended(&self, me: Uuid, message: &str) -> usize {
        self.opened.get(message).map_or(0, |opened| opened.by.iter().filter(|by| **by != me).count())
    }

    /// Decides about messages that were received together, and notes those that may be opened. `open`: those that `me` has in hand.
    fn begin(&mut self, me: Uuid, messages: &[Arc<str>], open: &[Arc<str>], now: i64) -> Vec<Trial> {
        self.opened.retain(|_, opened| now - opened.at < KEPT);
        let is_suspect = |message: &Arc<str>| self.ended(me, message) >= ALONE;
        let mut alone = open.iter().any(is_suspect);
        let mut others = !open.is_empty() || !messages.iter().all(is_suspect);
        let decide = |message: &Arc<str>| match self.ended(me, message) {
            _ if open.contains(message) => Trial::Open, // it slipped away and came again
            NEVER.. => Trial::Never,
            ALONE.. if alone || others => Trial::Later,
            ALONE.. => {
                (alone, others) = (true, true);
                Trial::Open
            }
            _ if alone => Trial::Later,
            _ => Trial::Open,
        };
        let trials: Vec<_> = messages.iter().map(decide).collect();
        for (message, _) in messages.iter().zip(&trials).filter(|(_, trial)| **trial == Trial::Open) {
            let opened = self.opened.entry(message.clone()).or_default();
            opened.by.insert(me);
            opened.at = now;
        }
        trials
    }

    /// `me` ends in order.
    fn leave(&mut self, me: Uuid) {
        self.opened.retain(|_, opened| {
            opened.by.remove(&me);
            !opened.by.is_empty()
        });
    }
}

/// See the module: as one consumer sees it.
pub struct Trials {
    objects: Arc<dyn Objects>,
    partition: u32,
    me: Uuid,
}

impl Trials {
    pub(super) fn new(objects: Arc<dyn Objects>, partition: u32) -> Self {
        let me = Uuid::new_v4();
        Self { objects, partition, me }
    }

    /// Says which of these messages may be opened now, in their order; those that may are written down durably. `open` are those that this
    /// consumer has in hand. After an error it may be written down that it opened them, which [`Trials::leave`] takes back.
    pub async fn begin(&self, messages: &[Arc<str>], open: &[Arc<str>]) -> Result<Vec<Trial>, ObjectError> {
        self.change(|book| book.begin(self.me, messages, open, now_ms())).await
    }

    /// Everything in these messages is decided: nothing is held against them any more.
    pub async fn end(&self, messages: &[Arc<str>]) -> Result<(), ObjectError> {
        self.change(|book| book.opened.retain(|message, _| !messages.contains(message))).await
    }

    /// The consumer ends, and not by what it has in hand.
    pub async fn leave(&self) -> Result<(), ObjectError> {
        self.change(|book| book.leave(self.me)).await
    }

    async fn change<T>(&self, change: impl Fn(&mut Book) -> T) -> Result<T, ObjectError> {
        let key = Key::parse(&format!("trials/{}.json", self.partition))?;
        loop {
            let (before, when) = match self.objects.get(&key).await? {
                None => (Book::default(), Precondition::Absent),
                Some((bytes, version)) => (read(&bytes), Precondition::Version(version)),
            };
            let mut book = before.clone();
            let outcome = change(&mut book);
            if book == before {
                return Ok(outcome);
            }
            book.format = FORMAT;
            let bytes = serde_json::to_vec(&book).expect("plain data always encodes");
            match self.objects.put(&key, bytes.into(), when).await {
                Err(ObjectError::Conflict) => {} // another owner was faster, or an answer was lost: from what stands there
                put => return put.map(|_| outcome),
            }
        }
    }
}

/// A book that nobody can read is a new one: then a few more processes may end.
fn read(bytes: &[u8]) -> Book {
    serde_json::from_slice(bytes)
        .ok()
        .filter(|book: &Book| book.format == FORMAT)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::memory::MemoryObjects;

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    /// Received by a consumer that ends with what it may open in hand.
    fn ends(book: &mut Book, messages: &[&str]) -> Vec<Trial> {
        book.begin(Uuid::new_v4(), &names(messages), &[], 0)
    }

    #[test]
    fn who_ended_two_processes_is_opened_alone_and_after_five_never_again() {
        use Trial::{Later, Never, Open};
        let mut book = Book::default();
        assert_eq!(ends(&mut book, &["bad", "good"]), [Open, Open]);
        assert_eq!(ends(&mut book, &["bad", "good"]), [Open, Open]);
        assert_eq!(
            ends(&mut book, &["bad", "good", "new"]),
            [Later, Later, Open],
            "first those that nothing is held against"
        );
        let me = Uuid::new_v4();
        assert_eq!(book.begin(me, &names(&["good", "bad"]), &[], 0), [Open, Later], "one alone");
        assert_eq!(
            book.begin(me, &names(&["new"]), &names(&["good"]), 0),
            [Later],
            "nobody beside one that is to be alone"
        );
        book.opened.remove("good");
        for _ in ALONE..NEVER {
            assert_eq!(ends(&mut book, &["bad"]), [Open]);
        }
        assert_eq!(ends(&mut book, &["bad", "good"]), [Never, Open]);
        book.begin(me, &[], &[], KEPT);
        assert!(book.opened.is_empty(), "what no queue keeps any more is forgotten");
    }

    #[test]
    fn a_consumer_counts_once_however_often_it_opens_a_message_and_not_at_all_when_it_leaves() {
        let (mut book, good) = (Book::default(), names(&["good"]));
        for open in [&[][..], &good] {
            let me = Uuid::new_v4();
            for _ in 0..3 * NEVER {
                assert_eq!(book.begin(me, &good, open, 0), [Trial::Open], "it slipped away, or an answer was lost");
            }
            assert_eq!(book.ended(Uuid::new_v4(), "good"), 1);
            book.leave(me);
            assert!(book.opened.is_empty());
        }
    }

    #[tokio::test]
    async fn what_is_written_down_is_there_for_the_next_process_until_it_is_crossed_out() {
        let objects: Arc<dyn Objects> = Arc::new(MemoryObjects::default());
        let open = || Trials::new(objects.clone(), 3);
        for _ in 0..NEVER {
            assert_eq!(open().begin(&names(&["a"]), &[]).await.expect("kept"), [Trial::Open]);
            let orderly = open();
            orderly.begin(&names(&["b"]), &[]).await.expect("kept");
            orderly.leave().await.expect("kept");
        }
        assert_eq!(open().begin(&names(&["a", "b"]), &[]).await.expect("kept"), [Trial::Never, Trial::Open]);
        open().end(&names(&["a"])).await.expect("kept");
        assert_eq!(open().begin(&names(&["a"]), &[]).await.expect("kept"), [Trial::Open]);
        let key = Key::parse("trials/3.json").expect("a name");
        objects.put(&key, "{".into(), Precondition::Any).await.expect("put");
        assert_eq!(open().begin(&names(&["a"]), &[]).await.expect("kept"), [Trial::Open], "damage holds nobody up");
    }
}
