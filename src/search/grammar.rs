//! Reads the search language by recursive descent. Every error names the character where it was noticed, from 1.

use super::{
    needle::Needle,
    tree::{Named, Scope, Search, Start},
};
use crate::model::{
    conditions,
    entry::{Field, Severity},
    filter::Filter,
    names::nearest,
    words::for_each_word,
};

/// Longest text, bytes.
pub const MAX_BYTES: usize = 4 << 10;
/// Most terms; each word of a phrase is one.
pub const MAX_TERMS: usize = 256;
/// Most parentheses and negations inside each other.
pub const MAX_DEPTH: usize = 32;
/// A shorter beginning of a word fits too much to be looked for alone.
const SHORTEST_PREFIX: usize = 3;

/// Why a text is no search. It never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {message}")]
pub struct SearchError {
    /// The character where it was noticed, from 1.
    pub at: usize,
    /// `invalid_search`, or `too_broad` where the text is well formed but would find too much.
    pub code: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Fields that are compared whole, as their filters do.
const EXACT: [&str; 17] = [
    "from",
    "to",
    "timestamp",
    "id",
    "user_id",
    "email",
    "session_id",
    "action",
    "resource_type",
    "resource_id",
    "severity",
    "ip_address",
    "request_id",
    "actor",
    "min_sequence",
    "max_sequence",
    "metadata.KEY",
];
/// Fields that are searched by their words.
const WORDS: [Field; 5] = [Field::UserAgent, Field::Message, Field::Metadata, Field::BeforeState, Field::AfterState];
const METADATA: &str = "metadata.";

/// Reads a search.
pub fn parse(text: &str) -> Result<Search, SearchError> {
    let mut parser = Parser {
        text,
        at: 0,
        terms: 0,
        depth: 0,
        broad: Vec::new(),
    };
    if text.len() > MAX_BYTES {
        return parser.fail(text.floor_char_boundary(MAX_BYTES), format!("a search has at most {MAX_BYTES} bytes"));
    }
    let found = parser.any()?;
    parser.skip_space();
    if parser.peek().is_some() {
        return parser.fail(parser.at, "this `)` closes nothing; put it in double quotes or leave it out");
    }
    match found {
        Some((search, _)) => match parser.broad.first() {
            None => Ok(search),
            Some(at) => Err(SearchError {
                code: "too_broad",
                ..parser.error(*at, "the beginning of a word needs three characters, or another term that holds besides")
            }),
        },
        None => parser.fail(0, "there is no word to search for; a word is letters or digits"),
    }
}

/// A tree, and whether it narrows what is found by a term that must hold.
type Found = (Search, bool);

struct Parser<'a> {
    text: &'a str,
    /// In bytes.
    at: usize,
    terms: usize,
    depth: usize,
    /// Where short prefixes stand that nothing has narrowed yet.
    broad: Vec<usize>,
}

/// One lexical item.
enum Item {
    Or,
    And,
    Not,
    Open,
    Close,
    End,
    Term,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn error(&self, at: usize, message: impl Into<String>) -> SearchError {
        SearchError {
            at: self.text[..at].chars().count() + 1,
            code: "invalid_search",
            message: message.into(),
        }
    }

    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T, SearchError> {
        Err(self.error(at, message))
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// The next item, and how many bytes of it to go over.
    fn next(&mut self) -> (Item, usize) {
        self.skip_space();
        let rest = self.rest();
        let word = |name: &str| rest.strip_prefix(name).is_some_and(|after| after.is_empty() || after.starts_with(ends_token));
        match rest.chars().next() {
            None => (Item::End, 0),
            Some('(') => (Item::Open, 1),
            Some(')') => (Item::Close, 1),
            Some('-') => (Item::Not, 1),
            _ if word("OR") => (Item::Or, 2),
            _ if word("AND") => (Item::And, 3),
            _ if word("NOT") => (Item::Not, 3),
            _ => (Item::Term, 0),
        }
    }

    /// Alternatives. `None`: there is no word.
    fn any(&mut self) -> Result<Option<Found>, SearchError> {
        let (mut list, mut narrow, mut or_at) = (Vec::new(), true, None);
        loop {
            match (self.all()?, or_at) {
                (Some((search, narrows)), _) => {
                    narrow &= narrows;
                    list.push(search);
                }
                (None, Some(at)) => return self.fail(at, "`OR` needs a word on its right; to search for the word, put it in double quotes"),
                (None, None) => (),
            }
            let (Item::Or, len) = self.next() else { break };
            if list.is_empty() {
                return self.fail(self.at, "`OR` needs a word on its left; to search for the word, put it in double quotes");
            }
            or_at = Some(self.at);
            self.at += len;
        }
        Ok((!list.is_empty()).then(|| (Search::any(list), narrow)))
    }

    /// Items that must all hold.
    fn all(&mut self) -> Result<Option<Found>, SearchError> {
        let (mut list, mut narrow) = (Vec::new(), false);
        let before = self.broad.len();
        let mut own: Vec<(bool, std::ops::Range<usize>)> = Vec::new();
        let mut and_at = None;
        loop {
            match self.next() {
                (Item::And, len) => {
                    if list.is_empty() || and_at.is_some() {
                        return self.fail(self.at, "`AND` needs a word on its left; to search for the word, put it in double quotes");
                    }
                    and_at = Some(self.at);
                    self.at += len;
                }
                (Item::Or | Item::Close | Item::End, _) => match and_at {
                    Some(at) => return self.fail(at, "`AND` needs a word on its right; to search for the word, put it in double quotes"),
                    None => break,
                },
                _ => {
                    let marks = self.broad.len();
                    if let Some((search, narrows)) = self.item()? {
                        own.push((narrows, marks..self.broad.len()));
                        narrow |= narrows;
                        list.push(search);
                        and_at = None;
                    }
                }
            }
        }
        // A short prefix is no trouble beside another item that narrows.
        let narrowing = own.iter().filter(|(narrows, _)| *narrows).count();
        let kept: Vec<usize> = own
            .iter()
            .filter(|(narrows, _)| narrowing == usize::from(*narrows))
            .flat_map(|(_, marks)| self.broad[marks.clone()].iter().copied())
            .collect();
        self.broad.truncate(before);
        self.broad.extend(kept);
        Ok((!list.is_empty()).then(|| (Search::all(list), narrow)))
    }

    /// A negation, a group or a term. `None`: a token without a word, which separates like a space.
    fn item(&mut self) -> Result<Option<Found>, SearchError> {
        match self.next() {
            (Item::Not, len) => {
                let start = self.at;
                self.at += len;
                self.deeper(start)?;
                let dash = len == 1;
                let apart = dash && self.peek().is_none_or(char::is_whitespace);
                let none = "what is negated must follow, and have a word; to search for the text, put it in double quotes";
                let (Item::Term | Item::Not | Item::Open, false) = (self.next().0, apart) else {
                    return self.fail(start, none);
                };
                let Some((search, _)) = self.item()? else { return self.fail(start, none) };
                self.depth -= 1;
                Ok(Some((Search::Not(Box::new(search)), false)))
            }
            (Item::Open, len) => {
                let start = self.at;
                self.at += len;
                self.deeper(start)?;
                let found = self.any()?;
                let (Item::Close, len) = self.next() else {
                    return self.fail(start, "this `(` is not closed; put it in double quotes or close it");
                };
                self.at += len;
                self.depth -= 1;
                match found {
                    Some(found) => Ok(Some(found)),
                    None => self.fail(start, "there is no word in these parentheses"),
                }
            }
            _ => self.term(),
        }
    }

    fn deeper(&mut self, at: usize) -> Result<(), SearchError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(at, format!("parentheses and negations go at most {MAX_DEPTH} deep"));
        }
        Ok(())
    }

    fn term(&mut self) -> Result<Option<Found>, SearchError> {
        let start = self.at;
        if self.peek() == Some('"') {
            let text = self.quoted()?;
            return self.phrase(start, Scope::Everywhere, &text).map(Some);
        }
        let token = self.token();
        match token.split_once(':') {
            Some((name, value)) if is_name(name) => {
                let (name, value) = (name.to_owned(), value.to_owned());
                self.field(start, &name, &value).map(Some)
            }
            _ => {
                let token = token.to_owned();
                self.words(start, Scope::Everywhere, &token)
            }
        }
    }

    /// Goes over an unquoted token.
    fn token(&mut self) -> &str {
        let start = self.at;
        let rest = self.rest();
        self.at += rest.find(ends_token).unwrap_or(rest.len());
        &self.text[start..self.at]
    }

    /// Goes over a phrase whose opening quote is next, and gives its text.
    fn quoted(&mut self) -> Result<String, SearchError> {
        let (mut text, mut chars) = (String::new(), self.rest().char_indices().skip(1).peekable());
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += at + 1;
                    return Ok(text);
                }
                '\\' => text.push(chars.next_if(|(_, next)| matches!(next, '"' | '\\')).map_or('\\', |(_, next)| next)),
                c => text.push(c),
            }
        }
        self.fail(self.at, "this quote is not closed; close it, or leave it out")
    }

    /// `name:value`, of which `value` is what the token has; a phrase may follow instead.
    fn field(&mut self, start: usize, name: &str, value: &str) -> Result<Found, SearchError> {
        let words_of = WORDS.into_iter().find(|field| field.name() == name);
        let leaf = name.strip_prefix(METADATA).filter(|key| !key.is_empty());
        if words_of.is_none() && leaf.is_none() && !EXACT.contains(&name) {
            let known = EXACT.into_iter().chain(WORDS.map(Field::name));
            let nearest = nearest(name, known).unwrap_or_default();
            let message = format!("no field has this name; the nearest is `{nearest}`; to search for text with a colon, put it in double quotes");
            return self.fail(start, message);
        }
        let quoted = value.is_empty() && self.peek() == Some('"');
        if value.is_empty() && !quoted {
            return self.fail(
                start,
                "a value must follow the colon directly; one with spaces or parentheses needs double quotes",
            );
        }
        let value = if quoted { self.quoted()? } else { value.to_owned() };
        match words_of {
            // The filter of that name takes words in any order, so they have no order here either.
            Some(field) if quoted && field != Field::UserAgent => self.phrase(start, Scope::Within(field), &value),
            Some(field) if quoted => self.plain_words(start, Scope::Within(field), &value)?.ok_or_else(|| self.error(start, NO_WORD)),
            Some(field) => self.words(start, Scope::Within(field), &value)?.ok_or_else(|| self.error(start, NO_WORD)),
            None => match value.strip_suffix('*').filter(|_| !quoted) {
                Some(with) => self.start(start, name, leaf, with),
                None => self.exact(start, name, &value),
            },
        }
    }

    /// The same as the filter of the name.
    fn exact(&mut self, at: usize, name: &str, value: &str) -> Result<Found, SearchError> {
        let mut filter = Filter::default();
        match conditions::add(&mut filter, name, value) {
            Ok(_) => self.leaf(at, Search::Is(Box::new(filter)), 1).map(|search| (search, true)),
            Err((_, message)) => self.fail(at, message),
        }
    }

    /// The beginning of the text of a field.
    fn start(&mut self, at: usize, name: &str, leaf: Option<&str>, with: &str) -> Result<Found, SearchError> {
        let search = match (name, leaf) {
            ("from" | "to" | "timestamp" | "min_sequence" | "max_sequence", _) => {
                return self.fail(at, "`*` has no meaning in times and numbers");
            }
            ("severity", _) => {
                let upper = with.to_uppercase();
                let severity: Vec<Severity> = Severity::ALL.into_iter().filter(|s| s.as_str().starts_with(&upper)).collect();
                if severity.is_empty() {
                    return self.fail(at, "`severity` is one of INFO, WARNING, ERROR, CRITICAL");
                }
                Search::Is(Box::new(Filter { severity, ..Filter::default() }))
            }
            (_, Some(key)) => begins(Named::Leaf(conditions::path(key)), with.to_owned()),
            ("id", _) => begins(Named::Id, with.to_lowercase()),
            ("actor", _) => begins(Named::Actor, with.to_owned()),
            _ => {
                let field = Field::ALL.into_iter().find(|field| field.name() == name);
                let field = field.ok_or_else(|| self.error(at, "`*` has no meaning in this field"))?;
                let any_case = matches!(field, Field::Action | Field::ResourceType);
                begins(Named::Field(field), if any_case { with.to_lowercase() } else { with.to_owned() })
            }
        };
        let narrow = self.prefix(at, with);
        self.leaf(at, search, 1).map(|search| (search, narrow))
    }

    /// The words of an unquoted token, of which the last may be the beginning of one. `None`: it has none.
    fn words(&mut self, start: usize, scope: Scope, token: &str) -> Result<Option<Found>, SearchError> {
        let Some(star) = token.find('*') else {
            return self.plain_words(start, scope, token);
        };
        let head = &token[..star];
        if star + 1 < token.len() || !head.ends_with(char::is_alphanumeric) {
            return self.fail(
                start,
                "`*` stands only at the end of a word; to search for text with it, put it in double quotes",
            );
        }
        let cut = head.rfind(|c: char| !c.is_alphanumeric());
        let cut = cut.map_or(0, |at| at + head[at..].chars().next().map_or(0, char::len_utf8));
        let before = self.plain_words(start, scope, &head[..cut])?;
        let mut last = words_of(&head[cut..]);
        let Some(word) = last.pop() else { return Ok(before) };
        let marks = self.broad.len();
        let narrow = self.prefix(start, &word);
        let prefix = self.leaf(start, Search::Text(scope, Needle::prefix(word)), 1)?;
        Ok(Some(match before {
            Some((search, _)) => {
                self.broad.truncate(marks);
                (Search::all(vec![search, prefix]), true)
            }
            None => (prefix, narrow),
        }))
    }

    fn plain_words(&mut self, start: usize, scope: Scope, text: &str) -> Result<Option<Found>, SearchError> {
        let mut list = Vec::new();
        for word in words_of(text) {
            list.push(self.leaf(start, Search::Text(scope, Needle::phrase(vec![word])), 1)?);
        }
        Ok((!list.is_empty()).then(|| (Search::all(list), true)))
    }

    fn phrase(&mut self, start: usize, scope: Scope, text: &str) -> Result<Found, SearchError> {
        let words = words_of(text);
        if words.is_empty() {
            return self.fail(start, NO_WORD);
        }
        let count = words.len();
        self.leaf(start, Search::Text(scope, Needle::phrase(words)), count).map(|search| (search, true))
    }

    /// Notes the beginning of a word or text; whether it is long enough to stand alone.
    fn prefix(&mut self, at: usize, with: &str) -> bool {
        let narrow = with.chars().nth(SHORTEST_PREFIX - 1).is_some();
        if !narrow {
            self.broad.push(at);
        }
        narrow
    }

    fn leaf(&mut self, at: usize, search: Search, terms: usize) -> Result<Search, SearchError> {
        self.terms += terms;
        if self.terms > MAX_TERMS {
            return self.fail(at, format!("a search has at most {MAX_TERMS} terms"));
        }
        Ok(search)
    }
}

const NO_WORD: &str = "there is no word in it; a word is letters or digits";

fn begins(of: Named, with: String) -> Search {
    Search::Starts(Start { of, with })
}

fn ends_token(c: char) -> bool {
    c.is_whitespace() || matches!(c, '(' | ')' | '"')
}

/// Whether what stands before a colon is meant as the name of a field: `12:30` and `::1` are words.
fn is_name(name: &str) -> bool {
    name.starts_with(METADATA) || name.starts_with(|c: char| c.is_alphabetic() || c == '_') && name.chars().all(|c| c.is_alphanumeric() || "_.-".contains(c))
}

fn words_of(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for_each_word(text, &mut |word| words.push(word.to_owned()));
    words
}
