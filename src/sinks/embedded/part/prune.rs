//! What can be said about a block without reading it: no row can match, or every row meets a condition.

use super::{
    Block, TenantRows, fuse,
    keys::{self, KeySet},
};
use crate::{
    model::{
        entry::{EntryRef, Field, Severity},
        filter::Filter,
        mask::MASKED,
    },
    search::Search,
};

impl TenantRows<'_> {
    /// Whether a row of the block can match. `false` is certain; `true` is not. Reads the sidecar only.
    pub fn may_match(&self, block: &Block, filter: &Filter) -> bool {
        may_time(block, filter)
            && may_sequence(block, filter)
            && (filter.severity.is_empty() || filter.severity.iter().any(|s| block.severities[*s as usize] > 0))
            && (filter.ids.is_empty() || self.has_candidate(block, filter))
            && may_values(self.filter_of(block), filter)
            && filter.search.as_ref().is_none_or(|search| self.may_find(block, search))
    }

    /// The same for a search.
    pub(super) fn may_find(&self, block: &Block, search: &Search) -> bool {
        may_find(self.filter_of(block), search, &|filter| self.may_match(block, filter))
    }

    fn filter_of(&self, block: &Block) -> Keys<'_> {
        Keys {
            bytes: self.part.sidecar().filter(block),
            overflow: block.overflow,
        }
    }

    fn has_candidate(&self, block: &Block, filter: &Filter) -> bool {
        let mut rows = filter.ids.iter().flat_map(|id| self.part.candidates(&self.scope, id));
        rows.any(|row| block.rows.contains(&row))
    }
}

/// The filter of rows that are in memory: the same keys as a block of a part has.
#[derive(Debug)]
pub struct MemoryFilter {
    bytes: Box<[u8]>,
    overflow: bool,
}

impl MemoryFilter {
    /// Over the rows, given with their actors. If it would take more than `max_bytes` it stays empty, and rules out nothing.
    pub fn build<'a>(rows: impl Iterator<Item = (&'a str, EntryRef<'a>)>, max_bytes: usize) -> Self {
        let (mut set, mut bytes) = (KeySet::default(), Vec::new());
        for (actor, entry) in rows {
            set.add(actor, &entry, &entry.texts());
            // A key takes more than a byte.
            if set.len() > max_bytes {
                return Self::empty();
            }
        }
        let overflow = set.overflow();
        if let Some(keys) = set.finish() {
            fuse::build(keys, &mut bytes);
        }
        if bytes.len() > max_bytes {
            return Self::empty();
        }
        Self { bytes: bytes.into(), overflow }
    }

    fn empty() -> Self {
        Self {
            bytes: Box::default(),
            overflow: false,
        }
    }

    /// Whether a filter could rule out anything for this query.
    pub fn helps(filter: &Filter) -> bool {
        let Filter {
            from: _,
            to: _,
            timestamps: _,
            ids: _,
            severity: _,
            min_sequence: _,
            max_sequence: _,
            user_id,
            email,
            session_id,
            resource_id,
            request_id,
            actor,
            action,
            resource_type,
            ip_address,
            user_agent,
            metadata,
            search,
            mask: _,
        } = filter;
        let texts = [user_id, email, session_id, resource_id, request_id, actor, action, resource_type];
        texts.into_iter().any(|list| !list.is_empty())
            || !(ip_address.is_empty() && user_agent.is_empty() && metadata.is_empty())
            || search.as_ref().is_some_and(helps_find)
    }

    /// Whether a row can match, as far as the filter knows. `false` is certain.
    pub fn may_match(&self, filter: &Filter) -> bool {
        let keys = Keys {
            bytes: &self.bytes,
            overflow: self.overflow,
        };
        may_values(keys, filter)
            && filter
                .search
                .as_ref()
                .is_none_or(|search| may_find(keys, search, &|filter| self.may_match(filter)))
    }
}

fn helps_find(search: &Search) -> bool {
    match search {
        Search::All(list) => list.iter().any(helps_find),
        Search::Any(list) => list.iter().all(helps_find),
        Search::Text(_, needle) => !needle.is_prefix(),
        Search::Is(filter) => MemoryFilter::helps(filter),
        Search::Not(_) | Search::Starts(_) => false,
    }
}

fn may_time(block: &Block, filter: &Filter) -> bool {
    let (first, last) = block.timestamps;
    filter.from.is_none_or(|from| last >= from)
        && filter.to.is_none_or(|to| first < to)
        && (filter.timestamps.is_empty() || filter.timestamps.iter().any(|(from, to)| last >= *from && first < *to))
}

fn may_sequence(block: &Block, filter: &Filter) -> bool {
    filter.min_sequence.is_none_or(|min| block.sequences.1 >= min) && filter.max_sequence.is_none_or(|max| block.sequences.0 <= max)
}

/// A block's filter.
#[derive(Clone, Copy)]
struct Keys<'a> {
    /// Empty: there is none, and everything may be there.
    bytes: &'a [u8],
    /// Not all leaves are in it.
    overflow: bool,
}

impl Keys<'_> {
    fn may_have_word(&self, word: &str) -> bool {
        keys::asked_word(word).is_none_or(|key| self.has(key))
    }

    fn has(&self, key: u64) -> bool {
        fuse::may_contain(self.bytes, key)
    }
}

/// Asks for every condition that a filter knows.
fn may_values(block: Keys<'_>, filter: &Filter) -> bool {
    if block.bytes.is_empty() {
        return true;
    }
    let has = |key| block.has(key);
    // The filter knows the texts as they are. A text that a mask changed has a `***`; its words, and every other value, are as
    // they are.
    let unknown = |text: &str| filter.mask.is_some() && text.contains(MASKED);
    let any = |field, wanted: &[String]| wanted.is_empty() || wanted.iter().any(|text| unknown(text) || keys::needle(field, text, has));
    let any_case = |field, wanted: &[String]| wanted.is_empty() || wanted.iter().any(|text| unknown(text) || has(keys::value(field, &keys::lower(text))));
    let mut scratch = Vec::new();
    any(Field::UserId, &filter.user_id)
        && any(Field::Email, &filter.email)
        && any(Field::SessionId, &filter.session_id)
        && any(Field::ResourceId, &filter.resource_id)
        && any(Field::RequestId, &filter.request_id)
        && any_case(Field::Action, &filter.action)
        && any_case(Field::ResourceType, &filter.resource_type)
        && (filter.actor.is_empty() || filter.actor.iter().any(|text| unknown(text) || has(keys::actor(text))))
        && (filter.ip_address.is_empty() || filter.ip_address.iter().any(|range| keys::range(range).is_none_or(has)))
        && (filter.user_agent.is_empty() || filter.user_agent.iter().any(|words| words.iter().all(|word| block.may_have_word(word))))
        && (block.overflow
            || filter.metadata.iter().all(|leaf| {
                leaf.path.iter().any(|key| unknown(key))
                    || leaf
                        .values
                        .iter()
                        .any(|text| unknown(text) || keys::leaf_needle(&leaf.path, text, &mut scratch, has))
            }))
}

/// Whether a row can be what is searched for; `may_be` answers for `field:value`. What must not hold rules out nothing: the
/// filter says what a block has, never that all of its rows have it.
fn may_find(block: Keys<'_>, search: &Search, may_be: &dyn Fn(&Filter) -> bool) -> bool {
    match search {
        Search::All(list) => list.iter().all(|search| may_find(block, search, may_be)),
        Search::Any(list) => list.iter().any(|search| may_find(block, search, may_be)),
        Search::Text(_, needle) => needle.is_prefix() || needle.words().iter().all(|word| block.may_have_word(word)),
        Search::Is(filter) => may_be(filter),
        Search::Not(_) | Search::Starts(_) => true,
    }
}

/// Whether every row of the block meets the conditions on time.
pub(super) fn all_in_time(block: &Block, filter: &Filter) -> bool {
    let (first, last) = block.timestamps;
    filter.from.is_none_or(|from| first >= from)
        && filter.to.is_none_or(|to| last < to)
        && (filter.timestamps.is_empty() || filter.timestamps.iter().any(|(from, to)| first >= *from && last < *to))
}

/// Whether every row of the block meets the conditions on sequence.
pub(super) fn all_in_sequence(block: &Block, filter: &Filter) -> bool {
    filter.min_sequence.is_none_or(|min| block.sequences.0 >= min) && filter.max_sequence.is_none_or(|max| block.sequences.1 <= max)
}

/// Whether every row of the block has one of the severities.
pub(super) fn all_severities(block: &Block, filter: &Filter) -> bool {
    filter.severity.is_empty()
        || Severity::ALL
            .into_iter()
            .all(|s| block.severities[s as usize] == 0 || filter.severity.contains(&s))
}
