//! Side doors: conditions on what is hidden, by which a masked role could find out what it does not see.
//!
//! A condition on a hidden field or path is refused by name, so that nobody takes its empty answer for the truth. Conditions
//! on what a pattern may hide are not refused: they are evaluated on the masked record, where a value that the mask hides
//! cannot be met.

use super::{Mask, secrets};
use crate::{
    model::{entry::Field, filter::Filter},
    search::{Named, Scope, Search},
};

impl Mask {
    /// The name of a condition on something that is hidden.
    pub fn refuses(&self, filter: &Filter) -> Option<String> {
        let conditions = [
            (Field::UserId, !filter.user_id.is_empty()),
            (Field::Email, !filter.email.is_empty()),
            (Field::SessionId, !filter.session_id.is_empty()),
            (Field::ResourceId, !filter.resource_id.is_empty()),
            (Field::RequestId, !filter.request_id.is_empty()),
            (Field::Action, !filter.action.is_empty()),
            (Field::ResourceType, !filter.resource_type.is_empty()),
            (Field::IpAddress, !filter.ip_address.is_empty()),
            (Field::UserAgent, !filter.user_agent.is_empty()),
        ];
        let field = conditions.into_iter().find(|(field, asked)| *asked && self.hides_field(*field));
        field
            .map(|(field, _)| field.name().to_owned())
            .or_else(|| (self.actor && !filter.actor.is_empty()).then(|| "actor".to_owned()))
            .or_else(|| {
                filter
                    .metadata
                    .iter()
                    .find(|leaf| self.hides_leaf(&leaf.path))
                    .map(|leaf| leaf_name(&leaf.path))
            })
            .or_else(|| filter.search.as_ref().and_then(|search| self.refuses_search(search)))
    }

    /// Whether the whole field is hidden.
    pub fn hides_field(&self, field: Field) -> bool {
        self.whole[field as usize]
    }

    /// Whether a leaf of `metadata` at this path is, or could be in some entry, hidden by a path or by its key.
    pub fn hides_leaf(&self, path: &[String]) -> bool {
        self.hides_field(Field::Metadata)
            || self.tree(Field::Metadata).may_hide(path)
            || self.patterns.secrets && path.iter().any(|key| secrets::is_secret(key))
    }

    fn refuses_search(&self, search: &Search) -> Option<String> {
        match search {
            Search::All(list) | Search::Any(list) => list.iter().find_map(|search| self.refuses_search(search)),
            Search::Not(search) => self.refuses_search(search),
            Search::Text(Scope::Everywhere, _) => None,
            Search::Text(Scope::Within(field), _) => self.refuses_field(*field),
            Search::Is(filter) => self.refuses(filter),
            Search::Starts(start) => match &start.of {
                Named::Id => None,
                Named::Actor => self.actor.then(|| "actor".to_owned()),
                Named::Field(field) => self.refuses_field(*field),
                Named::Leaf(path) => self.hides_leaf(path).then(|| leaf_name(path)),
            },
        }
    }

    fn refuses_field(&self, field: Field) -> Option<String> {
        self.hides_field(field).then(|| field.name().to_owned())
    }
}

/// A path as a parameter has it.
pub fn leaf_name(path: &[String]) -> String {
    let keys: Vec<String> = path.iter().map(|key| key.replace('.', "\\.")).collect();
    format!("metadata.{}", keys.join("."))
}
