//! What a reader asks for, as queries of the engine.
//!
//! [`Filter::matches`] is the definition; this is the fast way to it. Every condition becomes [`Bounds`] on the fields of
//! [`super::document`], by an allow-list: nothing of what a reader typed becomes the name of a field, a pattern or a piece of a
//! query language. Where the engine cannot know, it is told so and the rows are looked at:
//!
//! - leaves of an entry that has more than are indexed, and texts longer than are indexed (`x_more`);
//! - conditions through a mask, which are about the masked text. The words of a masked text are among those of the text, and a
//!   value without `***` is met only by a text that the mask left alone ([`crate::model::mask`]), so that the rows that may match are
//!   still found by their words and values;
//! - more conditions than the engine takes in one query ([`MOST_CLAUSES`]).

use super::{
    document::{self, EXACT_BYTES, F},
    query::{Bounds, Query},
};
use crate::{
    model::{
        entry::{Field, Severity},
        filter::{Filter, IpRange, LeafFilter},
        mask::MASKED,
    },
    search::{Named, Needle, Scope, Search, Start},
};
use serde_json::Value;

/// Conditions of one query, at most; the engine takes 1,024.
pub const MOST_CLAUSES: usize = 800;

/// The rows that the filter may mean, among all rows of the tenant.
pub fn filter(filter: &Filter) -> Bounds {
    let mut compiler = Compiler {
        left: MOST_CLAUSES,
        masked: filter.mask.is_some(),
    };
    compiler.filter(filter)
}

/// `sequence` and times as the engine has them: signed.
pub fn number(n: u64) -> Value {
    i64::try_from(n).unwrap_or(i64::MAX).into()
}

struct Compiler {
    /// Conditions that there is still room for.
    left: usize,
    masked: bool,
}

impl Compiler {
    /// Makes room for some conditions; without room, nothing is known of what they say.
    fn within(&mut self, clauses: usize, make: impl FnOnce(&mut Self) -> Bounds) -> Bounds {
        match self.left.checked_sub(clauses) {
            Some(left) => {
                self.left = left;
                make(self)
            }
            None => Bounds::unknown(),
        }
    }

    fn filter(&mut self, filter: &Filter) -> Bounds {
        let bounds = self.in_bounds(filter);
        bounds.and(self.in_text(filter))
    }

    /// The conditions on what no mask hides.
    fn in_bounds(&mut self, filter: &Filter) -> Bounds {
        let mut all = Vec::new();
        for (field, name, value) in [
            (F::TIMESTAMP, "gte", filter.from.map(Value::from)),
            (F::TIMESTAMP, "lt", filter.to.map(Value::from)),
            (F::SEQUENCE, "gte", filter.min_sequence.map(number)),
            (F::SEQUENCE, "lte", filter.max_sequence.map(number)),
        ] {
            if let Some(value) = value {
                all.push(self.within(1, |_| Bounds::exact(Query::range(field, [(name, value)]))));
            }
        }
        if !filter.timestamps.is_empty() {
            all.push(self.within(filter.timestamps.len(), |_| {
                let range = |(from, to): &(i64, i64)| Bounds::exact(Query::range(F::TIMESTAMP, [("gte", (*from).into()), ("lt", (*to).into())]));
                Bounds::any(filter.timestamps.iter().map(range))
            }));
        }
        if !filter.severity.is_empty() {
            let names = filter.severity.iter().map(|s: &Severity| s.as_str().to_owned()).collect();
            all.push(self.within(1, |_| Bounds::exact(Query::terms(F::SEVERITY, names))));
        }
        if !filter.ids.is_empty() {
            let ids = filter.ids.iter().map(|id| id.hyphenated().to_string()).collect();
            all.push(self.within(1, |_| Bounds::exact(Query::terms(F::ID, ids))));
        }
        Bounds::all(all)
    }

    fn in_text(&mut self, filter: &Filter) -> Bounds {
        let mut all = Vec::new();
        for (field, values) in [
            (F::of(Field::UserId), &filter.user_id),
            (F::of(Field::Email), &filter.email),
            (F::of(Field::SessionId), &filter.session_id),
            (F::of(Field::ResourceId), &filter.resource_id),
            (F::of(Field::RequestId), &filter.request_id),
            (F::ACTOR, &filter.actor),
            (F::LOWER_ACTION, &filter.action),
            (F::LOWER_TYPE, &filter.resource_type),
        ] {
            if !values.is_empty() {
                all.push(self.within(2, |c| c.one_of(field, values)));
            }
        }
        if !filter.ip_address.is_empty() {
            all.push(self.within(filter.ip_address.len(), |c| {
                let bounds = Bounds::any(filter.ip_address.iter().map(|range| Bounds::exact(addresses(range))));
                c.seen(bounds)
            }));
        }
        if !filter.user_agent.is_empty() {
            let clauses = filter.user_agent.iter().map(Vec::len).sum();
            all.push(self.within(clauses, |c| {
                let words = |words: &Vec<String>| Bounds::all(words.iter().map(|w| Bounds::exact(Query::term(F::AGENT_WORDS, w.as_str()))));
                let bounds = Bounds::any(filter.user_agent.iter().map(words));
                c.seen(bounds)
            }));
        }
        for leaf in &filter.metadata {
            all.push(self.within(3, |c| c.leaf(leaf)));
        }
        if let Some(search) = &filter.search {
            all.push(self.search(search));
        }
        Bounds::all(all)
    }

    /// What holds of the text itself holds of what the mask shows only perhaps; but a match is among them.
    fn seen(&self, bounds: Bounds) -> Bounds {
        if self.masked { Bounds::among(bounds.upper) } else { bounds }
    }

    /// One of these is the text.
    fn one_of(&self, field: &str, values: &[String]) -> Bounds {
        if self.masked && values.iter().any(|value| value.contains(MASKED)) {
            return Bounds::unknown();
        }
        let (short, long): (Vec<&String>, Vec<&String>) = values.iter().partition(|value| value.len() <= EXACT_BYTES);
        let known = Bounds::exact(Query::terms(field, short.into_iter().cloned().collect()));
        let unknown = if long.is_empty() { Query::None } else { Query::term(F::MORE, true) };
        self.seen(known.or(Bounds::among(unknown)))
    }

    fn leaf(&self, leaf: &LeafFilter) -> Bounds {
        let hidden = |text: &String| self.masked && text.contains(MASKED);
        if leaf.path.iter().any(hidden) || leaf.values.iter().any(hidden) {
            return Bounds::unknown();
        }
        let tokens = leaf.values.iter().filter_map(|value| document::leaf_token(&leaf.path, value)).collect();
        let known = Bounds::exact(Query::terms(F::LEAVES, tokens));
        self.seen(known.or(Bounds::among(Query::term(F::MORE, true))))
    }

    fn search(&mut self, search: &Search) -> Bounds {
        match search {
            Search::All(list) => list.iter().fold(Bounds::exact(Query::All), |all, one| all.and(self.search(one))),
            Search::Any(list) => list.iter().fold(Bounds::exact(Query::None), |any, one| any.or(self.search(one))),
            Search::Not(of) => self.search(of).negated(),
            Search::Text(scope, needle) => self.within(needle.words().len(), |c| c.text(*scope, needle)),
            Search::Is(filter) => self.filter(filter),
            Search::Starts(start) => self.within(2, |c| c.starts(start)),
        }
    }

    fn text(&self, scope: Scope, needle: &Needle) -> Bounds {
        let field = match scope {
            Scope::Everywhere => F::WORDS,
            Scope::Within(field) => match F::words_of(field) {
                Some(field) => field,
                None => return Bounds::unknown(),
            },
        };
        match needle.words() {
            [start] if needle.is_prefix() => self.seen(Bounds::exact(Query::prefix(field, start))),
            // What stands between two words may be hidden, so that they follow each other only then.
            words if self.masked => Bounds::among(words.iter().fold(Query::All, |all, word| all.and(Query::term(field, word.as_str())))),
            words => Bounds::exact(Query::phrase(field, words)),
        }
    }

    fn starts(&self, start: &Start) -> Bounds {
        // A text that is hidden from the middle on still begins as it did; only `***` may come from the mask.
        let hides = |text: &str| self.masked && text.contains('*');
        if hides(&start.with) || start.with.len() > EXACT_BYTES {
            return Bounds::unknown();
        }
        let bounds = match &start.of {
            Named::Id => Bounds::exact(Query::prefix(F::ID, &start.with)),
            Named::Actor => self.begins(F::ACTOR, &start.with),
            Named::Field(Field::Action) => self.begins(F::LOWER_ACTION, &start.with),
            Named::Field(Field::ResourceType) => self.begins(F::LOWER_TYPE, &start.with),
            Named::Field(field) if document::is_exact(*field) => self.begins(F::of(*field), &start.with),
            Named::Field(_) => Bounds::unknown(),
            Named::Leaf(path) if path.iter().any(|key| hides(key)) => Bounds::unknown(),
            Named::Leaf(path) => {
                let known = document::leaf_token(path, &start.with).map_or(Query::None, |token| Query::prefix(F::LEAVES, &token));
                Bounds::exact(known).or(Bounds::among(Query::term(F::MORE, true)))
            }
        };
        self.seen(bounds)
    }

    /// The text begins so; one that is too long to be indexed may.
    fn begins(&self, field: &str, with: &str) -> Bounds {
        Bounds::exact(Query::prefix(field, with)).or(Bounds::among(Query::term(F::MORE, true)))
    }
}

/// The addresses of a range.
fn addresses(range: &IpRange) -> Query {
    let (first, last) = document::address_bounds(range);
    match first == last {
        true => Query::term(F::ADDRESS, first),
        false => Query::range(F::ADDRESS, [("gte", first.into()), ("lte", last.into())]),
    }
}
