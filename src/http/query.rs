//! Query strings: decoded once, checked against the table, never ignored, never repeated in an answer or a log.

pub use crate::model::names::nearest;

use super::{
    error::{FieldError, Problem},
    routes::{Endpoint, Param},
};

/// Names longer than this are cut where an answer names them.
const SHOWN_NAME: usize = 64;
/// More parameters than any honest query has; the bound keeps the check linear in practice.
const MOST_PAIRS: usize = 1_000;

/// The pairs of a query string, decoded, in the order given.
#[derive(Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `application/x-www-form-urlencoded` text. 422 when it is no UTF-8 or has a broken escape.
    pub fn parse(raw: Option<&str>) -> Result<Self, Problem> {
        let mut query = Self::default();
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).ok_or_else(|| Problem::parameter("", "invalid_encoding", "a parameter name is not percent-encoded UTF-8"))?;
            let value = decode(value).ok_or_else(|| {
                Problem::parameter(
                    shown(&name),
                    "invalid_encoding",
                    format!("the value of `{}` is not percent-encoded UTF-8", shown(&name)),
                )
            })?;
            query.add(name, value)?;
        }
        Ok(query)
    }

    /// One more pair.
    pub fn add(&mut self, name: String, value: String) -> Result<(), Problem> {
        self.0.push((name, value));
        if self.0.len() > MOST_PAIRS {
            return Err(Problem::parameter("", "too_many", format!("a query has at most {MOST_PAIRS} parameters")));
        }
        Ok(())
    }

    /// Every pair.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The first value given under `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// The first pair whose name is one of `names`, in the order given.
    pub fn any_of<'a>(&'a self, names: &[&str]) -> Option<(&'a str, &'a str)> {
        self.pairs().find(|(n, _)| names.contains(n))
    }

    /// Checks every name against what the endpoint knows: 422 for unknown ones (with the nearest known name) and for
    /// repeats of what can be given once.
    pub fn check(&self, endpoint: &Endpoint) -> Result<(), Problem> {
        let Some(groups) = endpoint.params else { return Ok(()) };
        let known = || groups.iter().copied().flatten();
        let (mut errors, mut given) = (Vec::new(), Vec::<&'static str>::new());
        for (name, _) in self.pairs() {
            match known().find(|param| param.is_named(name)) {
                None => errors.push(unknown(name, endpoint, known())),
                Some(param) if !param.repeats && given.contains(&param.name) => errors.push(FieldError::new(
                    param.name,
                    "repeated",
                    format!("`{}` is given more than once; give it once", param.name),
                )),
                Some(param) => given.push(param.name),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Problem::parameters(errors)) }
    }
}

fn unknown<'a>(name: &str, endpoint: &Endpoint, known: impl Iterator<Item = &'a Param>) -> FieldError {
    let names = known.flat_map(|param| std::iter::once(param.name).chain(param.aliases.iter().copied()));
    let nearest = nearest(name, names);
    let (name, verb, path) = (shown(name), endpoint.verb.as_str(), endpoint.path);
    let message = match nearest {
        Some(nearest) => format!("`{name}` is no parameter of {verb} {path}; the nearest known name is `{nearest}`"),
        None => format!("`{name}` is no parameter of {verb} {path}, which has none"),
    };
    FieldError::new(name, "unknown_parameter", message)
}

/// As much of a name as an answer shows.
pub fn shown(name: &str) -> &str {
    &name[..name.floor_char_boundary(SHOWN_NAME)]
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::routes::{ENDPOINTS, Operation};

    fn endpoint(operation: Operation) -> &'static Endpoint {
        ENDPOINTS.iter().find(|e| e.operation == operation).expect("in the table")
    }

    fn check(operation: Operation, raw: &str) -> Result<(), (u16, String)> {
        let refused = |problem: Problem| (problem.code().row().0.as_u16(), problem.detail().to_owned());
        Query::parse(Some(raw)).map_err(refused)?.check(endpoint(operation)).map_err(refused)
    }

    #[test]
    fn an_unknown_parameter_is_422_with_the_nearest_known_name() {
        for (raw, nearest) in [
            ("sevrity=ERROR", "severity"),
            ("User_ID=x", "user_id"),
            ("pagesize=5", "page_size"),
            ("metadata=x", "metadata.KEY"),
            ("metadata.=x", "metadata.KEY"),
            ("form=2024-01-01", "from"),
            ("serch=x", "search"),
            ("cursr=x", "cursor"),
            ("start=2024-01-01", "sort"),
        ] {
            let (status, detail) = check(Operation::ListLogs, raw).expect_err(raw);
            assert_eq!(status, 422, "{raw}");
            assert!(detail.ends_with(&format!("`{nearest}`")), "{raw}: {detail}");
        }
        assert_eq!(check(Operation::ListTenants, "x=1").expect_err("unknown").0, 422);
    }

    #[test]
    fn filters_repeat_and_paging_does_not() {
        assert_eq!(check(Operation::ListLogs, "action=a&action=b&metadata.a.b=1&metadata.a.b=2"), Ok(()));
        assert_eq!(check(Operation::ListLogs, "page=1&page=2").expect_err("twice").0, 422);
        assert_eq!(check(Operation::ListLogs, "size=1&limit=2").expect_err("an alias").0, 422);
        assert_eq!(check(Operation::ListLogs, "log=access&log=audit").expect_err("twice").0, 422);
    }

    #[test]
    fn values_are_decoded_and_never_shown() {
        let query = Query::parse(Some("a=b+c%20d%C3%A9&&e")).expect("well formed");
        assert_eq!(query.pairs().collect::<Vec<_>>(), [("a", "b c dé"), ("e", "")]);
        for raw in ["a=%zz", "a=%F", "a=%FF", "%C3=1"] {
            assert_eq!(check(Operation::ListLogs, raw).expect_err(raw).0, 422, "{raw}");
        }
        let (_, detail) = check(Operation::ListLogs, "tokn=secret").expect_err("unknown");
        assert!(!detail.contains("secret"));
    }
}
