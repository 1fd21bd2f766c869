//! Queries as an algebra: what a condition becomes, and how well the engine knows it.
//!
//! A [`Query`] is a query of the engine. [`Bounds`] are two of them around the truth: every row of `lower` matches, every row that
//! matches is in `upper`. Where both are the same the engine decides alone; where not, the rows between them are read and
//! looked at ([`crate::model::filter::Filter::matches`] decides). Negation turns the bounds round, so nothing is lost by it.

use serde_json::{Value, json};

/// A query of the engine, simplified as it is made.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// Every row.
    All,
    /// No row.
    None,
    /// One condition.
    Is(Value),
    /// All of them hold; at least two.
    And(Vec<Query>),
    /// One of them holds; at least two.
    Or(Vec<Query>),
    /// It does not hold.
    Not(Box<Query>),
}

impl Query {
    /// A term of a field.
    pub fn term(field: &str, value: impl Into<Value>) -> Self {
        let value: Value = value.into();
        Self::Is(json!({ "term": { field: { "value": value } } }))
    }

    /// One of some terms.
    pub fn terms(field: &str, values: Vec<String>) -> Self {
        match values.len() {
            0 => Self::None,
            _ => Self::Is(json!({ "terms": { field: values } })),
        }
    }

    /// A term that begins so.
    pub fn prefix(field: &str, start: &str) -> Self {
        Self::Is(json!({ "prefix": { field: { "value": start } } }))
    }

    /// Words one after the other in one value.
    pub fn phrase(field: &str, words: &[String]) -> Self {
        match words {
            [one] => Self::term(field, one.as_str()),
            _ => Self::Is(json!({ "match_phrase": { field: { "query": words.join(" ") } } })),
        }
    }

    /// Numbers within bounds: `gte`, `gt`, `lte`, `lt`.
    pub fn range<const N: usize>(field: &str, bounds: [(&str, Value); N]) -> Self {
        let bounds: serde_json::Map<String, Value> = bounds.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self::Is(json!({ "range": { field: bounds } }))
    }

    /// Both hold.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, _) | (_, Self::None) => Self::None,
            (Self::All, one) | (one, Self::All) => one,
            (Self::And(mut list), Self::And(more)) => {
                list.extend(more);
                Self::And(list)
            }
            (Self::And(mut list), one) | (one, Self::And(mut list)) => {
                list.push(one);
                Self::And(list)
            }
            (one, other) => Self::And(vec![one, other]),
        }
    }

    /// One of both holds.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::None, one) | (one, Self::None) => one,
            (Self::Or(mut list), Self::Or(more)) => {
                list.extend(more);
                Self::Or(list)
            }
            (Self::Or(mut list), one) | (one, Self::Or(mut list)) => {
                list.push(one);
                Self::Or(list)
            }
            (one, other) => Self::Or(vec![one, other]),
        }
    }

    /// It does not hold.
    pub fn negated(self) -> Self {
        match self {
            Self::All => Self::None,
            Self::None => Self::All,
            Self::Not(of) => *of,
            other => Self::Not(Box::new(other)),
        }
    }

    /// As the engine takes it; nothing is scored.
    pub fn to_json(&self) -> Value {
        let list = |of: &[Query]| of.iter().map(Query::to_json).collect::<Vec<_>>();
        match self {
            Self::All => json!({ "match_all": {} }),
            Self::None => json!({ "match_none": {} }),
            Self::Is(value) => value.clone(),
            Self::And(of) => {
                let (not, is): (Vec<&Query>, Vec<&Query>) = of.iter().partition(|query| matches!(query, Self::Not(_)));
                let is: Vec<Value> = is.into_iter().map(Query::to_json).collect();
                let not: Vec<Value> = not.into_iter().map(|query| query.clone().negated().to_json()).collect();
                json!({ "bool": { "filter": is, "must_not": not } })
            }
            Self::Or(of) => json!({ "bool": { "should": list(of), "minimum_should_match": 1 } }),
            Self::Not(of) => json!({ "bool": { "must_not": [of.to_json()] } }),
        }
    }
}

/// Two queries around what is meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// Every row of it matches.
    pub lower: Query,
    /// Every row that matches is in it.
    pub upper: Query,
}

impl Bounds {
    /// The engine knows it.
    pub fn exact(query: Query) -> Self {
        Self {
            lower: query.clone(),
            upper: query,
        }
    }

    /// All that the engine knows is that a match is among these.
    pub fn among(upper: Query) -> Self {
        Self { lower: Query::None, upper }
    }

    /// The engine knows nothing of it.
    pub fn unknown() -> Self {
        Self::among(Query::All)
    }

    /// Whether the engine decides alone.
    pub fn is_exact(&self) -> bool {
        self.lower == self.upper
    }

    /// Both hold.
    pub fn and(self, other: Self) -> Self {
        Self {
            lower: self.lower.and(other.lower),
            upper: self.upper.and(other.upper),
        }
    }

    /// One of both holds.
    pub fn or(self, other: Self) -> Self {
        Self {
            lower: self.lower.or(other.lower),
            upper: self.upper.or(other.upper),
        }
    }

    /// It does not hold.
    pub fn negated(self) -> Self {
        Self {
            lower: self.upper.negated(),
            upper: self.lower.negated(),
        }
    }

    /// One of them holds; with none of them, none does.
    pub fn any(list: impl IntoIterator<Item = Self>) -> Self {
        list.into_iter().fold(Self::exact(Query::None), Self::or)
    }

    /// All of them hold; with none of them, everything does.
    pub fn all(list: impl IntoIterator<Item = Self>) -> Self {
        list.into_iter().fold(Self::exact(Query::All), Self::and)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(name: &str) -> Query {
        Query::term(name, 1)
    }

    #[test]
    fn nothing_and_everything_are_taken_out() {
        assert_eq!(Query::All.and(is("a")), is("a"));
        assert_eq!(Query::None.and(is("a")), Query::None);
        assert_eq!(Query::None.or(is("a")), is("a"));
        assert_eq!(Query::All.or(is("a")), Query::All);
        assert_eq!(is("a").negated().negated(), is("a"));
        assert_eq!(is("a").and(is("b")).and(is("c")), Query::And(vec![is("a"), is("b"), is("c")]));
    }

    #[test]
    fn negation_turns_the_bounds_round() {
        let bounds = Bounds::among(is("a")).negated();
        assert_eq!((bounds.lower, bounds.upper), (is("a").negated(), Query::All));
        let both = Bounds::exact(is("b")).and(Bounds::among(is("a")));
        assert_eq!((both.lower.clone(), both.is_exact()), (Query::None, false));
        assert!(Bounds::exact(is("b")).or(Bounds::exact(is("c"))).negated().is_exact());
    }

    #[test]
    fn what_must_not_hold_is_said_so() {
        let query = is("a").and(is("b").negated()).to_json();
        assert_eq!(query["bool"]["filter"].as_array().map(Vec::len), Some(1));
        assert_eq!(query["bool"]["must_not"].as_array().map(Vec::len), Some(1));
        assert_eq!(Query::phrase("f", &["one".into()]), Query::term("f", "one"));
    }
}
