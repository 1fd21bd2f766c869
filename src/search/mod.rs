//! The search language: what a person types becomes a tree that every engine compiles.
//!
//! ```text
//! search  = any
//! any     = all { "OR" all }
//! all     = item { ["AND"] item }
//! item    = ("-" | "NOT") item | "(" any ")" | phrase | [field ":"] value
//! phrase  = '"' … '"'                      \" and \\ stand for themselves
//! value   = phrase | text ["*"]            up to a space, a parenthesis or a quote
//! ```
//!
//! Text is searched by its words ([`crate::model::words`]): an unquoted token means all of its words, in any place; a phrase
//! means its words one after the other in one field or one value; `word*` means any word that begins so. `field` is the name
//! of a filter and means the same as that filter; with `*` it is the beginning of the field's text. `message:`, `metadata:`,
//! `before_state:` and `after_state:` look for words in there alone. Decisions and their reasons: `docs/adr/0010`.
//!
//! Guarantees: whatever is given, [`parse`] ends in time linear in it, with a tree of bounded size and depth or with an error
//! that says where and why and never repeats what was given; [`Search::matches`] is the definition of what a tree means. Plain
//! data: nothing here reads a store.

mod grammar;
mod needle;
mod tree;

#[cfg(test)]
mod tests;

pub use grammar::{MAX_BYTES, MAX_DEPTH, MAX_TERMS, SearchError, parse};
pub use needle::Needle;
pub use tree::{Named, SEARCHED, Scope, Search, Start, in_field};
