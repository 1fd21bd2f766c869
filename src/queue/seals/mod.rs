//! Seals as objects: the log of a partition whose packs travel in SQS or Kinesis, for one owner and any number of readers.
//!
//! ```text
//! sequencer ─append─▶ ObjectSealLog ─create if absent─▶ seal/<p>/<n> ◀─read─ Seals (followers, API processes)
//!                          │ keeper                     cursor/<p>/<store>.json ◀─ each store, when it has applied
//!                          └─▶ checkpoint/<p>.bin, floor/<p>.json, deletes ≤ floor
//! ```
//!
//! # Names (`<p>` is the index of the partition in the configured list)
//!
//! | object | holds | changed by |
//! |---|---|---|
//! | `seal/<p>/<n, 20 digits>.seal` | seal n with its packs, see [`object`] | created once, deleted once |
//! | `floor/<p>.json` | `{"n":12}`: seals up to 12 are trimmed | compare and swap, grows |
//! | `checkpoint/<p>.bin` | the state after a seal, see [`checkpoint`] | compare and swap, grows |
//! | `cursor/<p>/<store>.json` | `{"n":12}`: the store has every seal up to 12 | compare and swap, grows |
//! | `lease/<name>.json` | who should do something, see [`lease`] | compare and swap |
//!
//! # What holds
//!
//! - Seal n is created by one owner, after n − 1. Whoever finds that another one made it, or that n is not above the floor
//!   although it was just created, is a zombie and steps down ([`SealLogError::Fenced`](super::SealLogError::Fenced)); nothing was told to anybody by then.
//! - The floor is raised before anything at or below it is deleted, and read **after** each seal was created or read: a
//!   zombie can create an object of a trimmed name, and so an object at or below the floor says nothing.
//! - Nothing above the lowest of checkpoint, cursors and pins is trimmed, except that a store further behind than `max_backlog` is
//!   detached: it finds [`Found::Trimmed`](super::Found::Trimmed) and must be rebuilt from the authority.
//! - Nothing is listed, except once after a take-over, to remove what an owner left that died while it deleted.
//!
//! It does not decide who the owner is: a [`lease::Lease`] keeps two from trying at once, which saves work and no more.

pub mod checkpoint;
pub mod cursor;
mod keeper;
pub mod lease;
mod log;
mod number;
pub mod object;
mod reader;
#[cfg(test)]
mod simulation;
mod take;
#[cfg(test)]
pub(crate) mod tests;

pub use self::{
    checkpoint::Checkpoint,
    cursor::{CursorStore, ObjectCursors},
    lease::{Held, Lease},
    log::ObjectSealLog,
    object::SealHead,
    reader::{FoundHead, Seals},
    take::{TakeError, Taken},
};

use super::SealReadError;
use crate::objects::{Key, ObjectError};
use std::time::Duration;

/// The store that answers get and list: its cursor holds back trimming whatever it costs.
pub const ANALYTICS: &str = "analytics";
/// The dead letters: likewise.
pub const DEAD_LETTERS: &str = "dead_letters";
/// The search store: detached when it is too far behind.
pub const SEARCH: &str = "search";

/// Sizes and times of a seal log.
#[derive(Debug, Clone)]
pub struct SealsSettings {
    /// Stores besides analytics and dead letters whose cursors hold back trimming, as long as they are not further behind than
    /// `max_backlog`.
    pub followers: Vec<String>,
    /// A follower further behind than this is detached: bytes of the seal objects that it has not applied.
    pub max_backlog: u64,
    /// A checkpoint is written after so many seals,
    pub checkpoint_seals: u64,
    /// or after this time, if there is a seal that the last one does not cover.
    pub checkpoint_every: Duration,
    /// So many of the last seals are kept although nobody needs them, for API processes that are a little late.
    pub keep: u64,
    /// How much waits to be trimmed before the floor is raised.
    pub trim_seals: u64,
    /// Recent seals kept in memory for readers in this process, bytes.
    pub cache_bytes: usize,
    /// How long one try to create a seal may take.
    pub put_timeout: Duration,
    /// Between the clocks of two processes.
    pub clock_skew: Duration,
}

impl Default for SealsSettings {
    fn default() -> Self {
        Self {
            followers: vec![SEARCH.to_owned()],
            max_backlog: 10 << 30,
            checkpoint_seals: 64,
            checkpoint_every: Duration::from_secs(30),
            keep: 240,
            trim_seals: 16,
            cache_bytes: 32 << 20,
            put_timeout: Duration::from_secs(20),
            clock_skew: Duration::from_secs(60),
        }
    }
}

impl From<ObjectError> for SealReadError {
    fn from(error: ObjectError) -> Self {
        Self(error.to_string().into())
    }
}

fn key(text: String) -> Key {
    Key::parse(&text).expect("numbers and fixed words make a name")
}

/// The name of seal `n` of partition `p`.
pub fn seal_key(p: u32, n: u64) -> Key {
    key(format!("seal/{p}/{n:020}.seal"))
}

fn floor_key(p: u32) -> Key {
    key(format!("floor/{p}.json"))
}

fn checkpoint_key(p: u32) -> Key {
    key(format!("checkpoint/{p}.bin"))
}
