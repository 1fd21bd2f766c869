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
//! `{"format": 1, "opened": {"MESSAGE": {"times": 1, "at": MILLISECONDS}}}`. Written by compare and swap, for two owners may be at work. What
//! is older than any queue keeps messages is forgotten.

use crate::{
    model::time::now_ms,
    objects::{Key, ObjectError, Objects, Precondition},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// So many processes ended with it in hand: it is opened alone.
pub const ALONE: u32 = 2;
/// So many: it is not opened any more.
pub const NEVER: u32 = 5;
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

#[derive(Debug, Default, Serialize, Deserialize)]
struct Book {
    format: u32,
    opened: BTreeMap<Arc<str>, Tried>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Tried {
    times: u32,
    at: i64,
}

impl Book {
    fn times(&self, message: &str) -> u32 {
        self.opened.get(message).map_or(0, |tried| tried.times)
    }

    /// Decides about messages that were received together, and notes those that may be opened. `open`: those of this process.
    fn begin(&mut self, messages: &[Arc<str>], open: &[Arc<str>], now: i64) -> Vec<Trial> {
        self.opened.retain(|_, tried| now - tried.at < KEPT);
        // What this process has in hand counts already.
        let mut alone = open.iter().any(|message| self.times(message) > ALONE);
        let mut others = !open.is_empty() || messages.iter().any(|message| self.times(message) < ALONE);
        let decide = |message: &Arc<str>| match self.times(message) {
            _ if open.contains(message) => Trial::Open, // it slipped away and came again: no process has ended
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
        let opened = |(message, trial): &(&Arc<str>, &Trial)| **trial == Trial::Open && !open.contains(message);
        for (message, _) in messages.iter().zip(&trials).filter(opened) {
            let times = self.times(message) + 1;
            self.opened.insert(message.clone(), Tried { times, at: now });
        }
        trials
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Trials {
    objects: Arc<dyn Objects>,
    partition: u32,
}

impl Trials {
    pub(super) fn new(objects: Arc<dyn Objects>, partition: u32) -> Self {
        Self { objects, partition }
    }

    /// Says which of these messages may be opened now, in their order; those that may are written down durably. `open` are those that this
    /// process has in hand.
    pub async fn begin(&self, messages: &[Arc<str>], open: &[Arc<str>]) -> Result<Vec<Trial>, ObjectError> {
        self.change(|book| book.begin(messages, open, now_ms())).await
    }

    /// They came to an end in order: nothing is held against them any more.
    pub async fn end(&self, messages: &[Arc<str>]) -> Result<(), ObjectError> {
        self.change(|book| book.opened.retain(|message, _| !messages.contains(message))).await
    }

    async fn change<T>(&self, change: impl Fn(&mut Book) -> T) -> Result<T, ObjectError> {
        let key = Key::parse(&format!("trials/{}.json", self.partition))?;
        loop {
            let (mut book, when) = match self.objects.get(&key).await? {
                None => (Book::default(), Precondition::Absent),
                Some((bytes, version)) => (read(&bytes), Precondition::Version(version)),
            };
            let outcome = change(&mut book);
            book.format = FORMAT;
            let bytes = serde_json::to_vec(&book).expect("plain data always encodes");
            match self.objects.put(&key, bytes.into(), when).await {
                Err(ObjectError::Conflict) => {} // another owner was faster, or an answer was lost: from what stands there
                outcome_of_put => return outcome_of_put.map(|_| outcome),
            }
        }
    }
}

/// A book that nobody can read is a new one: it only makes a start slower.
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

    /// Opened, and the process ends.
    fn ends_a_process(book: &mut Book, messages: &[&str]) -> Vec<Trial> {
        book.begin(&names(messages), &[], 0)
    }

    #[test]
    fn who_ended_two_processes_is_opened_alone_and_after_five_never_again() {
        use Trial::{Later, Never, Open};
        let mut book = Book::default();
        assert_eq!(ends_a_process(&mut book, &["bad", "good"]), [Open, Open]);
        assert_eq!(ends_a_process(&mut book, &["bad", "good"]), [Open, Open]);
        assert_eq!(
            ends_a_process(&mut book, &["bad", "good", "new"]),
            [Later, Later, Open],
            "first those that nothing is held against"
        );
        assert_eq!(ends_a_process(&mut book, &["good", "bad"]), [Open, Later], "one alone");
        let open = names(&["good"]);
        assert_eq!(book.begin(&names(&["new"]), &open, 0), [Later], "nobody beside one that is to be alone");
        book.opened.remove("good");
        for _ in ALONE..NEVER {
            assert_eq!(ends_a_process(&mut book, &["bad"]), [Open]);
        }
        assert_eq!(ends_a_process(&mut book, &["bad", "good"]), [Never, Open]);
        let good = names(&["good"]);
        for _ in 0..NEVER {
            assert_eq!(book.begin(&good, &good, 0), [Open], "the same process has it in hand already");
        }
        assert_eq!(book.times("good"), 1);
        book.begin(&[], &[], KEPT);
        assert!(book.opened.is_empty(), "what no queue keeps any more is forgotten");
    }

    #[tokio::test]
    async fn what_is_written_down_is_there_for_the_next_process_until_it_is_crossed_out() {
        let objects: Arc<dyn Objects> = Arc::new(MemoryObjects::default());
        let open = || Trials::new(objects.clone(), 3);
        for _ in 0..NEVER {
            assert_eq!(open().begin(&names(&["a"]), &[]).await.expect("kept"), [Trial::Open]);
        }
        assert_eq!(open().begin(&names(&["a"]), &[]).await.expect("kept"), [Trial::Never]);
        open().end(&names(&["a"])).await.expect("kept");
        assert_eq!(open().begin(&names(&["a"]), &[]).await.expect("kept"), [Trial::Open]);
        let key = Key::parse("trials/3.json").expect("a name");
        objects.put(&key, "{".into(), Precondition::Any).await.expect("put");
        assert_eq!(open().begin(&names(&["a"]), &[]).await.expect("kept"), [Trial::Open], "damage holds nobody up");
    }
}
