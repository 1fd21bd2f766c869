//! What the names of a tenant's objects say. A list of names is enough to count letters, also by reason, to page, and to find
//! a letter by its id; the letters of a page alone are read.
//!
//! | name | what |
//! |---|---|
//! | `<t>-<n>-<conflict>-<deleted>-<poison>-<prints>.json` | the letters of tenant and seal: how many for each [`Reason`], then four hexadecimal digits for each letter in their order (16 bits of XXH3 of its `entry_id`), or `x` when there are more than [`MOST_PRINTS`] |
//! | `<t>-<n>-<conflict>-<deleted>-<poison>-<undecodable>-<prints>.json` | the same, where there are undecodable ones: n names a message of a foreign queue ([`FOREIGN`]) |
//! | `<t>-<n>-<i>-<r>.gone` | the letter at place i of them, whose reason is number r, was removed (empty) |
//! | `<t>-<n>.gone` | all of them were removed (empty) |
//!
//! t: `sealed_at` in milliseconds, 15 digits; n: number of the seal, 20 digits; all else decimal without padding.
//!
//! A removal is a name of its own, and not a change of the letters, because the letters may be written again: until the log
//! is trimmed, a start submits their seal once more. Whatever is written then, and in whatever order, a name that says
//! `gone` holds.

use super::letter::{DeadLetter, Reason};
use crate::{model::tenant::TenantId, objects::Key};
use std::{collections::BTreeMap, fmt};
use uuid::Uuid;

pub(super) const FOLDER: &str = "deadletters";
/// Numbers from here on are no seals: they name messages of foreign queues. None of them is ever submitted again by a start.
pub(super) const FOREIGN: u64 = 1 << 63;
/// Names stay far below the 200 bytes of a key.
const MOST_PRINTS: usize = 24;

/// Which letters: those of one seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Milliseconds since 1970.
    pub(super) sealed_at: u64,
    pub(super) n: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:015}-{:020}", self.sealed_at, self.n)
    }
}

/// What letters are asked for. The default asks for all.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
    /// One of these, unless empty.
    pub reasons: Vec<Reason>,
    /// One of these entries, unless empty.
    pub entry_ids: Vec<Uuid>,
    /// Decided at this time or later, milliseconds since 1970.
    pub from: Option<i64>,
    /// Decided before this time.
    pub to: Option<i64>,
}

impl LetterFilter {
    fn wants(&self, reason: Reason) -> bool {
        self.reasons.is_empty() || self.reasons.contains(&reason)
    }

    /// Whether a letter that was decided in time is asked for.
    pub(super) fn matches(&self, letter: &DeadLetter) -> bool {
        self.wants(letter.reason) && (self.entry_ids.is_empty() || self.entry_ids.contains(&letter.entry_id))
    }

    pub(super) fn reaches(&self, place: Place) -> bool {
        let at = i64::try_from(place.sealed_at).unwrap_or(i64::MAX);
        self.from.is_none_or(|from| from <= at) && self.to.is_none_or(|to| at < to)
    }
}

/// The objects of one seal and tenant.
#[derive(Debug, Clone)]
pub(super) struct Bundle {
    pub(super) place: Place,
    /// The object with the letters.
    pub(super) letters: Option<Letters>,
    /// Places of removed letters, and their reasons.
    pub(super) gone: BTreeMap<usize, Reason>,
    /// All are removed.
    pub(super) all_gone: bool,
}

/// What the name of an object with letters says.
#[derive(Debug, Clone)]
pub(super) struct Letters {
    pub(super) key: Key,
    counts: [u64; Reason::ALL.len()],
    prints: Option<Vec<u16>>,
}

impl Letters {
    pub(super) fn count(&self) -> usize {
        self.counts.iter().sum::<u64>() as usize
    }
}

/// What becomes of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Take,
}

impl Bundle {
    /// One name more or less. Names that say nothing are passed over.
    pub(super) fn change(bundles: &mut BTreeMap<Place, Self>, key: Key, change: Change) {
        let Some((place, what)) = parse(&key) else { return };
        let bundle = bundles.entry(place).or_insert_with(|| Self {
            place,
            letters: None,
            gone: BTreeMap::new(),
            all_gone: false,
        });
        match (what, change) {
            (What::Letters { counts, prints }, Change::Add) => bundle.letters = Some(Letters { key, counts, prints }),
            (What::Letters { .. }, Change::Take) => bundle.letters = None,
            (What::Gone(index, reason), Change::Add) => {
                bundle.gone.insert(index, reason);
            }
            (What::Gone(index, _), Change::Take) => {
                bundle.gone.remove(&index);
            }
            (What::AllGone, change) => bundle.all_gone = change == Change::Add,
        }
        if bundle.letters.is_none() && bundle.gone.is_empty() && !bundle.all_gone {
            bundles.remove(&place);
        }
    }

    /// Whether a letter is left.
    pub(super) fn is_live(&self) -> bool {
        !self.all_gone && self.letters.as_ref().is_some_and(|letters| letters.count() > self.gone.len())
    }

    /// How many letters match, if the names tell.
    pub(super) fn matching(&self, filter: &LetterFilter) -> Option<u64> {
        let Some(letters) = self.letters.as_ref().filter(|_| self.is_live()) else {
            return Some(0);
        };
        if filter.entry_ids.is_empty() {
            let wanted = Reason::ALL.into_iter().filter(|reason| filter.wants(*reason));
            let all: u64 = wanted.map(|reason| letters.counts[reason as usize]).sum();
            let gone = self.gone.values().filter(|reason| filter.wants(**reason)).count() as u64;
            return Some(all.saturating_sub(gone));
        }
        let wanted: Vec<u16> = filter.entry_ids.iter().map(print_of).collect();
        let left = letters.prints.as_ref()?.iter().enumerate().filter(|(index, _)| !self.gone.contains_key(index));
        let possible = left.filter(|(_, print)| wanted.contains(print)).count();
        (possible == 0).then_some(0)
    }
}

enum What {
    Letters {
        counts: [u64; Reason::ALL.len()],
        prints: Option<Vec<u16>>,
    },
    Gone(usize, Reason),
    AllGone,
}

/// The name of the object with these letters, sorted by id.
pub(super) fn letters(tenant: &TenantId, place: Place, letters: &[DeadLetter]) -> Key {
    let [conflict, deleted, poison, undecodable] = Reason::ALL.map(|reason| letters.iter().filter(|letter| letter.reason == reason).count());
    let prints = if letters.len() > MOST_PRINTS {
        "x".to_owned()
    } else {
        letters.iter().map(|letter| format!("{:04x}", print_of(&letter.entry_id))).collect()
    };
    if undecodable > 0 {
        return key(tenant, format_args!("{place}-{conflict}-{deleted}-{poison}-{undecodable}-{prints}.json"));
    }
    key(tenant, format_args!("{place}-{conflict}-{deleted}-{poison}-{prints}.json"))
}

/// The name that says that one letter is gone.
pub(super) fn gone(tenant: &TenantId, place: Place, index: usize, reason: Reason) -> Key {
    key(tenant, format_args!("{place}-{index}-{}.gone", reason as usize))
}

/// The name that says that all letters are gone.
pub(super) fn all_gone(tenant: &TenantId, place: Place) -> Key {
    key(tenant, format_args!("{place}.gone"))
}

fn key(tenant: &TenantId, name: fmt::Arguments<'_>) -> Key {
    Key::parse(&format!("{FOLDER}/{}/{name}", tenant.folder())).expect("a tenant id, digits and dashes make a key")
}

fn print_of(entry_id: &Uuid) -> u16 {
    xxhash_rust::xxh3::xxh3_64(entry_id.as_bytes()) as u16
}

fn parse(key: &Key) -> Option<(Place, What)> {
    let (stem, ending) = key.file_name().rsplit_once('.')?;
    let mut parts = stem.split('-');
    let place = Place {
        sealed_at: parts.next()?.parse().ok()?,
        n: parts.next()?.parse().ok()?,
    };
    let rest: Vec<&str> = parts.collect();
    let what = match (ending, rest.as_slice()) {
        ("json", [conflict, deleted, poison, prints]) => What::Letters {
            counts: [conflict.parse().ok()?, deleted.parse().ok()?, poison.parse().ok()?, 0],
            prints: read_prints(prints),
        },
        ("json", [conflict, deleted, poison, undecodable, prints]) => What::Letters {
            counts: [conflict.parse().ok()?, deleted.parse().ok()?, poison.parse().ok()?, undecodable.parse().ok()?],
            prints: read_prints(prints),
        },
        ("gone", []) => What::AllGone,
        ("gone", [index, reason]) => What::Gone(index.parse().ok()?, *Reason::ALL.get(reason.parse::<usize>().ok()?)?),
        _ => return None,
    };
    Some((place, what))
}

fn read_prints(text: &str) -> Option<Vec<u16>> {
    let digits = text.as_bytes().chunks(4).map(|digits| std::str::from_utf8(digits).ok());
    digits.map(|digits| u16::from_str_radix(digits.filter(|d| d.len() == 4)?, 16).ok()).collect()
}
