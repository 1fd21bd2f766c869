//! Masking: what a masked role sees of an entry.
//!
//! **A masked role sees the masked record and nothing else.** Everything that such a role is shown, and everything that decides
//! what it is shown (filters, words, groups, counts), is taken from [`Mask::record`]. Two logs that differ only in what is
//! masked give the same answers.
//!
//! A mask is a list of *paths* and *patterns*, the tenant setting `masking`:
//!
//! | written | hides |
//! |---|---|
//! | `email`, `user_id`, `ip_address`, `message`, `actor`, … | the whole field |
//! | `metadata.card`, `before_state.*.ssn`, `metadata.*` | what stands at a path of an object; `*` is any one key or any element of an array, `\.` a dot in a key, `\*` a key that is a star |
//! | `before_state`, `after_state`, `metadata` | the whole object |
//! | `pattern:email`, `pattern:phone`, `pattern:card`, `pattern:iban` | such things wherever they stand: in every text field, `actor` included, in every string and key of the objects, and, for cards, in whole numbers |
//! | `pattern:secret_keys` | the whole value, of any type, of keys like `password`, `access_token` or `X-Api-Key`, and what follows `password=` or `Authorization:` inside a text |
//!
//! Names of fields are exact, in lower case. Keys in paths match in any case of ASCII letters: what is to be hidden must not
//! show because a client wrote it in capitals. Arrays on the way need no segment, as in filters, and may have one (`*`).
//! Something that is hidden reads `***`; of a text in which a pattern matches, only the match does. Absent fields stay
//! absent, and empty texts are hidden like others.
//!
//! A match is widened to whole words ([`crate::model::words`]). So the words of a masked text are among those of the text, and
//! what rules out blocks of rows by the words of their entries holds for masked entries too.
//!
//! Guarantees: any text is masked without a panic, in time linear in it; masking what is masked changes nothing; only what is
//! hidden changes (other bytes of the objects stay as sent). It does not understand: text that is encoded once more (base64,
//! percent signs), cards in groups of fewer than three digits, numbers written in words.

mod doors;
mod numbers;
mod object;
mod paths;
mod secrets;
#[cfg(test)]
mod tests;
mod text;

pub use paths::MaskError;

use self::{paths::Tree, text::Patterns};
use super::entry::{EntryRef, Field, NewEntry, StoredEntry};
use std::{borrow::Cow, fmt};

/// What stands for something that is hidden.
pub const MASKED: &str = "***";
/// The same as the text of a JSON value.
const MASKED_JSON: &str = "\"***\"";
/// Most paths and patterns of a mask.
pub const MAX_PATHS: usize = 64;

/// A compiled mask. Two masks are equal if they were made from the same list.
#[derive(Clone, Default)]
pub struct Mask {
    list: Vec<String>,
    whole: [bool; Field::COUNT],
    actor: bool,
    /// Paths into the three objects.
    trees: [Tree; 3],
    patterns: Patterns,
}

impl Mask {
    /// Compiles the setting; repeats are left out.
    pub fn compile(paths: &[String]) -> Result<Self, MaskError> {
        if paths.len() > MAX_PATHS {
            return Err(MaskError {
                at: MAX_PATHS,
                message: format!("has at most {MAX_PATHS} paths and patterns"),
            });
        }
        let mut mask = Self::default();
        for (at, path) in paths.iter().enumerate() {
            paths::add(&mut mask, path).map_err(|message| MaskError { at, message })?;
            if !mask.list.contains(path) {
                mask.list.push(path.clone());
            }
        }
        Ok(mask)
    }

    /// The paths and patterns as they were given.
    pub fn paths(&self) -> &[String] {
        &self.list
    }

    /// Whether it hides nothing.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The text of a field, of an object its JSON, as a masked role sees it. Not for `ip_address`.
    pub fn text<'t>(&self, field: Field, text: &'t str) -> Cow<'t, str> {
        self.changed(field, text).map_or(Cow::Borrowed(text), Cow::Owned)
    }

    /// The subject that wrote an entry, likewise.
    pub fn actor<'t>(&self, actor: &'t str) -> Cow<'t, str> {
        if self.actor {
            return Cow::Borrowed(MASKED);
        }
        text::masked(actor, self.patterns).map_or(Cow::Borrowed(actor), Cow::Owned)
    }

    /// Whether the field may look otherwise through it, in some entry.
    pub fn may_change(&self, field: Field) -> bool {
        let patterns = self.patterns.any() && field != Field::IpAddress;
        self.whole[field as usize] || patterns || (field.is_object() && !self.tree(field).is_empty())
    }

    /// The same of the subject that wrote an entry.
    pub fn may_change_actor(&self) -> bool {
        self.actor || self.patterns.any()
    }

    /// Whether addresses are hidden.
    pub fn hides_address(&self) -> bool {
        self.whole[Field::IpAddress as usize]
    }

    /// The record of the entry as a masked role sees it; `None` if that is the entry as it is. A hidden address has the bytes
    /// of [`MASKED`] ([`EntryRef::hides_ip`]), and the content hash, which would tell two hidden texts apart, is 0.
    pub fn record(&self, entry: &EntryRef<'_>) -> Option<Vec<u8>> {
        let texts = entry.texts();
        let mut changed: [Option<String>; Field::COUNT] = Default::default();
        for field in Field::ALL {
            changed[field as usize] = match texts[field as usize] {
                Some(text) => self.changed(field, text),
                None if field == Field::IpAddress && self.hides_address() && entry.raw(field).is_some_and(|raw| raw != MASKED.as_bytes()) => {
                    Some(MASKED.to_owned())
                }
                None => None,
            };
        }
        if changed.iter().all(Option::is_none) {
            return None;
        }
        let field = |i: usize| match &changed[i] {
            Some(text) => Some(text.as_bytes()),
            None => match texts[i] {
                Some(text) => Some(text.as_bytes()),
                None => entry.raw(Field::ALL[i]),
            },
        };
        let masked = NewEntry {
            id: entry.id(),
            client_id: entry.client_id(),
            hash: 0,
            timestamp: entry.timestamp(),
            severity: entry.severity(),
            fields: std::array::from_fn(field),
        };
        let mut record = Vec::with_capacity(masked.encoded_len());
        masked.encode(&mut record);
        Some(record)
    }

    /// The entry as a masked role sees it; it shares what is not hidden.
    pub fn entry(&self, entry: &StoredEntry) -> StoredEntry {
        StoredEntry {
            record: self.record(&entry.entry()).map_or_else(|| entry.record.clone(), Into::into),
            received_at: entry.received_at,
            actor: match self.actor(&entry.actor) {
                Cow::Borrowed(same) if same == &*entry.actor => entry.actor.clone(),
                changed => changed.into(),
            },
            sequence: entry.sequence,
        }
    }

    fn changed(&self, field: Field, text: &str) -> Option<String> {
        match field {
            _ if self.whole[field as usize] => {
                let shown = if field.is_object() { MASKED_JSON } else { MASKED };
                (text != shown).then(|| shown.to_owned())
            }
            Field::BeforeState | Field::AfterState | Field::Metadata => object::masked(text, self.tree(field), self.patterns),
            _ => text::masked(text, self.patterns),
        }
    }

    fn tree(&self, field: Field) -> &Tree {
        &self.trees[field as usize - Field::BeforeState as usize]
    }
}

impl PartialEq for Mask {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Mask {}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mask").field(&self.list).finish()
    }
}
