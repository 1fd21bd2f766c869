//! A search as a tree of conditions; [`Search::matches`] is the definition that every engine's evaluation agrees with.

use super::needle::Needle;
use crate::model::{
    entry::{EntryRef, Field},
    filter::{Filter, Surroundings},
    leaves::for_each_leaf,
    mask::Mask,
};
use std::sync::Arc;

/// Which entries are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Search {
    /// Every one of these holds.
    All(Vec<Search>),
    /// One of these holds.
    Any(Vec<Search>),
    /// It does not hold.
    Not(Box<Search>),
    /// A text of the entry holds the words.
    Text(Scope, Needle),
    /// `field:value`: what the filter of that name says; it has that one condition.
    Is(Box<Filter>),
    /// `field:value*`: the text of a field begins so.
    Starts(Start),
}

/// Where words are looked for. In an object they are looked for in each value by itself, never in a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In every field of [`SEARCHED`], and in the id.
    Everywhere,
    /// In this one.
    Within(Field),
}

/// The fields that words are looked for in, those that are cheap to read first.
pub const SEARCHED: [Field; 12] = [
    Field::Action,
    Field::ResourceType,
    Field::ResourceId,
    Field::UserId,
    Field::SessionId,
    Field::RequestId,
    Field::Email,
    Field::UserAgent,
    Field::Message,
    Field::BeforeState,
    Field::AfterState,
    Field::Metadata,
];

/// The beginning of a field's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Whose text.
    pub of: Named,
    /// How it begins; in lower case where case does not count.
    pub with: String,
}

/// What has a text that can be compared with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// The id, with hyphens, in lower case.
    Id,
    /// The subject that wrote the entry.
    Actor,
    /// A field that is text or the address; `action` and `resource_type` in any case.
    Field(Field),
    /// A leaf of `metadata`.
    Leaf(Vec<String>),
}

/// An entry on its way through a tree: what is read of it is read once.
struct Subject<'a> {
    entry: EntryRef<'a>,
    around: Surroundings<'a>,
    texts: [Option<&'a str>; Field::COUNT],
    id: [u8; 36],
}

impl Search {
    /// One of `searches` holds; at least one.
    pub fn any(searches: Vec<Search>) -> Self {
        Self::join(searches, Self::Any, |search| match search {
            Self::Any(list) => Ok(list),
            other => Err(other),
        })
    }

    /// Every one of `searches` holds; at least one.
    pub fn all(searches: Vec<Search>) -> Self {
        Self::join(searches, Self::All, |search| match search {
            Self::All(list) => Ok(list),
            other => Err(other),
        })
    }

    /// Takes in those of the same sort, so that a tree is no deeper than it has to be.
    fn join(searches: Vec<Search>, make: fn(Vec<Search>) -> Self, open: fn(Search) -> Result<Vec<Search>, Search>) -> Self {
        let mut flat = Vec::with_capacity(searches.len());
        for search in searches {
            match open(search) {
                Ok(list) => flat.extend(list),
                Err(one) => flat.push(one),
            }
        }
        match flat.len() {
            1 => flat.remove(0),
            _ => make(flat),
        }
    }

    /// How many terms it has; each word of a phrase is one.
    pub fn terms(&self) -> usize {
        match self {
            Self::All(list) | Self::Any(list) => list.iter().map(Self::terms).sum(),
            Self::Not(of) => of.terms(),
            Self::Text(_, needle) => needle.words().len(),
            Self::Is(_) | Self::Starts(_) => 1,
        }
    }

    /// Its conditions on fields are about what this mask shows.
    pub(crate) fn see_through(&mut self, mask: Option<&Arc<Mask>>) {
        match self {
            Self::All(list) | Self::Any(list) => list.iter_mut().for_each(|search| search.see_through(mask)),
            Self::Not(of) => of.see_through(mask),
            Self::Is(filter) => filter.mask = mask.cloned(), // it has one condition, which is no search
            Self::Text(..) | Self::Starts(_) => {}
        }
    }

    /// Whether the entry is one of those looked for. It is taken as it is: [`Filter::matches`] masks it first where it has to be.
    pub fn matches(&self, entry: &EntryRef<'_>, around: Surroundings<'_>) -> bool {
        let mut id = [0; 36];
        entry.id().hyphenated().encode_lower(&mut id);
        self.holds(&Subject {
            entry: *entry,
            around,
            texts: entry.texts(),
            id,
        })
    }

    fn holds(&self, of: &Subject<'_>) -> bool {
        match self {
            Self::All(list) => list.iter().all(|search| search.holds(of)),
            Self::Any(list) => list.iter().any(|search| search.holds(of)),
            Self::Not(search) => !search.holds(of),
            Self::Text(Scope::Within(field), needle) => in_field(needle, *field, of.texts[*field as usize]),
            Self::Text(Scope::Everywhere, needle) => {
                SEARCHED.iter().any(|field| in_field(needle, *field, of.texts[*field as usize])) || needle.may_be_in_id() && needle.in_text(of.id())
            }
            // What the tree is evaluated on is masked already where it has to be.
            Self::Is(filter) => filter.matches_shown(&of.entry, of.around),
            Self::Starts(start) => match &start.of {
                Named::Id => start.fits(Some(of.id())),
                Named::Actor => start.fits(Some(of.around.actor)),
                Named::Field(Field::IpAddress) => of.entry.ip().is_some_and(|ip| start.fits(Some(&ip.to_string()))),
                Named::Field(field) => start.fits(of.texts[*field as usize]),
                Named::Leaf(_) => start.fits(of.texts[Field::Metadata as usize]),
            },
        }
    }
}

impl Subject<'_> {
    fn id(&self) -> &str {
        std::str::from_utf8(&self.id).unwrap_or_default()
    }
}

/// Whether the text of a field, an object's JSON, holds the words.
pub fn in_field(needle: &Needle, field: Field, text: Option<&str>) -> bool {
    text.is_some_and(|text| if field.is_object() { needle.in_object(text) } else { needle.in_text(text) })
}

impl Start {
    /// Whether the text of what it names begins so; for a leaf, that of one of the leaves of this JSON of `metadata`.
    pub fn fits(&self, text: Option<&str>) -> bool {
        let Some(text) = text else { return false };
        match &self.of {
            Named::Field(Field::Action | Field::ResourceType) if !text.is_ascii() => text.to_lowercase().starts_with(&self.with),
            Named::Field(Field::Action | Field::ResourceType) => text
                .as_bytes()
                .get(..self.with.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(self.with.as_bytes())),
            Named::Leaf(path) => {
                let mut found = false;
                for_each_leaf(text, &mut |at, leaf| found |= at == *path && leaf.starts_with(&self.with));
                found
            }
            _ => text.starts_with(&self.with),
        }
    }
}
