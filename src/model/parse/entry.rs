//! The fields of one entry as they stand in the text, found in one pass; nothing is judged here but the syntax.

use crate::model::{
    entry::Field,
    json::{Scanner, SyntaxError, Value},
};
use std::borrow::Cow;

/// The fields that an entry may be given, by the name of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// One of the record's fields.
    Field(Field),
    Id,
    TenantId,
    Timestamp,
    Severity,
}

impl Name {
    pub(super) const COUNT: usize = Field::COUNT + 4;

    /// Place among the slots of [`Given`].
    pub(super) fn slot(self) -> usize {
        match self {
            Self::Field(field) => field as usize,
            Self::Id => Field::COUNT,
            Self::TenantId => Field::COUNT + 1,
            Self::Timestamp => Field::COUNT + 2,
            Self::Severity => Field::COUNT + 3,
        }
    }

    /// The name in the contract.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Field(field) => field.name(),
            Self::Id => "id",
            Self::TenantId => "tenant_id",
            Self::Timestamp => "timestamp",
            Self::Severity => "severity",
        }
    }

    /// The other name under which the field may be given.
    pub(super) fn alias(self) -> Option<&'static str> {
        match self {
            Self::Field(Field::BeforeState) => Some("before"),
            Self::Field(Field::AfterState) => Some("after"),
            Self::Field(Field::Metadata) => Some("log_metadata"),
            _ => None,
        }
    }

    /// All of them, in slot order.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let rest = [Self::Id, Self::TenantId, Self::Timestamp, Self::Severity];
        Field::ALL.into_iter().map(Self::Field).chain(rest)
    }

    /// The field of a key: by its length first, so that few texts are compared.
    fn of(key: &str) -> Option<Self> {
        let candidates: &[(&str, Self)] = match key.len() {
            2 => &[("id", Self::Id)],
            5 => &[("email", Self::Field(Field::Email)), ("after", Self::Field(Field::AfterState))],
            6 => &[("action", Self::Field(Field::Action)), ("before", Self::Field(Field::BeforeState))],
            7 => &[("message", Self::Field(Field::Message)), ("user_id", Self::Field(Field::UserId))],
            8 => &[("metadata", Self::Field(Field::Metadata)), ("severity", Self::Severity)],
            9 => &[("timestamp", Self::Timestamp), ("tenant_id", Self::TenantId)],
            10 => &[
                ("session_id", Self::Field(Field::SessionId)),
                ("request_id", Self::Field(Field::RequestId)),
                ("ip_address", Self::Field(Field::IpAddress)),
                ("user_agent", Self::Field(Field::UserAgent)),
            ],
            11 => &[("resource_id", Self::Field(Field::ResourceId)), ("after_state", Self::Field(Field::AfterState))],
            12 => &[
                ("before_state", Self::Field(Field::BeforeState)),
                ("log_metadata", Self::Field(Field::Metadata)),
            ],
            13 => &[("resource_type", Self::Field(Field::ResourceType))],
            _ => &[],
        };
        candidates.iter().find(|(name, _)| *name == key).map(|(_, field)| *field)
    }
}

/// Whether a field is one that only the server sets.
pub(super) fn is_out_only(name: &str) -> bool {
    matches!(name, "received_at" | "actor" | "sequence")
}

/// What one entry was given.
#[derive(Debug)]
pub(super) struct Given<'a> {
    /// The value of each known field by [`Name::slot`]; the first one, where it is given more than once.
    slots: [Option<Value<'a>>; Name::COUNT],
    /// Bit `slot`: given more than once, or under both its names.
    repeated: u32,
    /// Keys and values of unknown fields, in order.
    pub(super) unknown: Vec<(Value<'a>, Value<'a>)>,
    /// Length of the entry as JSON in bytes, as sent.
    pub(super) len: usize,
}

impl<'a> Given<'a> {
    /// Room for one entry after the other.
    pub(super) fn new() -> Self {
        Self {
            slots: [None; Name::COUNT],
            repeated: 0,
            unknown: Vec::new(),
            len: 0,
        }
    }

    /// Reads the object that starts at the scanner, in place of what was here.
    pub(super) fn read(&mut self, scanner: &mut Scanner<'a>) -> Result<(), SyntaxError> {
        self.slots = [None; Name::COUNT];
        self.repeated = 0;
        self.unknown.clear();
        let start = scanner.at();
        if !scanner.eat(b'{') {
            return scanner.fail("an object was expected");
        }
        scanner.skip_space();
        if !scanner.eat(b'}') {
            loop {
                let key = scanner.string()?;
                scanner.colon()?;
                let value = scanner.value()?;
                self.take(key, value);
                scanner.skip_space();
                if scanner.eat(b'}') {
                    break;
                }
                if !scanner.eat(b',') {
                    return scanner.fail("`,` or `}` was expected");
                }
                scanner.skip_space();
            }
        }
        self.len = scanner.at() - start;
        Ok(())
    }

    fn take(&mut self, key: Value<'a>, value: Value<'a>) {
        let text = key.string();
        let Some(name) = Name::of(&text) else {
            self.unknown.push((key, value));
            return;
        };
        let slot = &mut self.slots[name.slot()];
        if slot.is_some() {
            self.repeated |= 1 << name.slot();
        } else {
            *slot = Some(value);
        }
    }

    /// The value of a field, if it was given.
    pub(super) fn get(&self, name: Name) -> Option<Value<'a>> {
        self.slots[name.slot()]
    }

    /// Whether a field was given more than once.
    pub(super) fn is_repeated(&self, name: Name) -> bool {
        self.repeated >> name.slot() & 1 == 1
    }
}

/// The keys of an object, unescaped, in order. `object` is well formed and has no whitespace between its tokens.
pub(super) fn keys_of(object: &str) -> Vec<Cow<'_, str>> {
    let mut scanner = Scanner::new(object, 0);
    let mut keys = Vec::new();
    scanner.eat(b'{');
    while let Ok(key) = scanner.string() {
        keys.push(key.string());
        if scanner.colon().is_err() || scanner.value().is_err() || !scanner.eat(b',') {
            break;
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_alias_is_known_and_nothing_else() {
        for name in Name::all() {
            assert_eq!(Name::of(name.text()), Some(name));
            if let Some(alias) = name.alias() {
                assert_eq!(Name::of(alias), Some(name));
            }
        }
        for other in ["", "i", "ID", "received_at", "sequence", "actor", "resource_name", "emails"] {
            assert_eq!(Name::of(other), None, "{other}");
        }
    }
}
