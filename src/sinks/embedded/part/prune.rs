//! What can be said about a block without reading it: no row can match, or every row meets a condition.

use super::{
    Block, TenantRows,
    fuse::{self, Width},
    keys,
};
use crate::model::{
    entry::{Field, Severity},
    filter::Filter,
};

impl TenantRows<'_> {
    /// Whether a row of the block can match. `false` is certain; `true` is not. Reads the sidecar only.
    pub fn may_match(&self, block: &Block, filter: &Filter) -> bool {
        may_time(block, filter)
            && may_sequence(block, filter)
            && (filter.severity.is_empty() || filter.severity.iter().any(|s| block.severities[*s as usize] > 0))
            && (filter.ids.is_empty() || self.has_candidate(block, filter))
            && may_values(self.part.sidecar().filter(block), block, filter)
    }

    fn has_candidate(&self, block: &Block, filter: &Filter) -> bool {
        let mut rows = filter.ids.iter().flat_map(|id| self.part.candidates(&self.scope, id));
        rows.any(|row| block.rows.contains(&row))
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

/// Asks the block's filter for every condition that it knows.
fn may_values(bytes: &[u8], block: &Block, filter: &Filter) -> bool {
    if bytes.is_empty() {
        return true;
    }
    let has = |key| fuse::may_contain(bytes, Width::Eight, key);
    let any = |field, wanted: &[String]| wanted.is_empty() || wanted.iter().any(|text| has(keys::value(field, text)));
    let any_case = |field, wanted: &[String]| wanted.is_empty() || wanted.iter().any(|text| has(keys::value(field, &keys::lower(text))));
    let mut scratch = Vec::new();
    any(Field::UserId, &filter.user_id)
        && any(Field::Email, &filter.email)
        && any(Field::SessionId, &filter.session_id)
        && any(Field::ResourceId, &filter.resource_id)
        && any(Field::RequestId, &filter.request_id)
        && any_case(Field::Action, &filter.action)
        && any_case(Field::ResourceType, &filter.resource_type)
        && (filter.actor.is_empty() || filter.actor.iter().any(|text| has(keys::actor(text))))
        && (filter.ip_address.is_empty() || filter.ip_address.iter().any(|range| keys::range(range).is_none_or(has)))
        && (filter.user_agent.is_empty() || filter.user_agent.iter().any(|words| words.iter().all(|word| has(keys::word(word)))))
        && (block.overflow
            || filter
                .metadata
                .iter()
                .all(|leaf| leaf.values.iter().any(|text| has(keys::leaf(&leaf.path, text, &mut scratch)))))
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
