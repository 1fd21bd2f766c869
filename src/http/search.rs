//! `POST /logs/search`: a search as a JSON object. It becomes the parameters that `GET /logs` has, by the same names, and
//! from there on the two are one.
//!
//! A value is a text, a number (as it is written), a boolean, or a list of these, which repeats the parameter. `filters`
//! may hold any of them; `query` is `search`; `metadata` may be an object of leaves, nested as it is in the entry.

use super::{
    body::{self, Media},
    dispatch::Call,
    error::{Code, FieldError, Problem},
    query::{Query, shown},
};
use crate::model::tenant::TenantScope;
use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use std::fmt;

/// As large as the head of a request may be, so that a search has the same bounds either way.
const LARGEST: usize = 64 << 10;
/// Deeper than entries may be.
const DEEPEST: usize = 64;

/// The parameters of the body, together with those of the query string; their names are checked.
pub async fn parameters(call: Call, scope: &TenantScope) -> Result<Query, Problem> {
    let (media, encoding) = body::describe(&call.parts.headers)?;
    let mut settings = call.app.services.settings.clone();
    settings.max_body_bytes = settings.max_body_bytes.min(LARGEST);
    let mut held = call.app.memory.hold(scope.tenant().clone());
    let bytes = body::receive(&call.parts.headers, call.body, &settings, &mut held).await?;
    let bytes = body::decode(bytes, encoding, &settings, &mut held)?;
    let mut query = call.query;
    if !bytes.trim_ascii().is_empty() {
        let (Media::Json | Media::Form) = body::settle_form(media, &bytes)? else {
            return Err(Problem::new(Code::UnsupportedMediaType, "send one object as application/json"));
        };
        add(&mut query, &bytes)?;
    }
    query.check(call.endpoint)?;
    Ok(query)
}

fn add(query: &mut Query, body: &[u8]) -> Result<(), Problem> {
    let members: Members<'_> = serde_json::from_slice(body).map_err(|e| {
        let place = format!("line {}, column {}", e.line(), e.column());
        Problem::body("malformed_json", format!("the body is no JSON object ({place})"))
    })?;
    let mut found = Found::default();
    for (name, value) in members.0 {
        match (name.as_str(), Kind::of(value)) {
            ("filters", Kind::Object) => {
                for (name, value) in found.members("filters", value) {
                    found.parameter(name, value);
                }
            }
            ("filters", _) => found.wrong("filters", "wrong_type", "is an object of filters by their names"),
            _ => found.parameter(name, value),
        }
    }
    if !found.errors.is_empty() {
        return Err(Problem::parameters(found.errors));
    }
    found.pairs.into_iter().try_for_each(|(name, value)| query.add(name, value))
}

/// What a body holds.
#[derive(Default)]
struct Found {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl Found {
    fn wrong(&mut self, name: &str, code: &'static str, what: &str) {
        let name = shown(name);
        self.errors.push(FieldError::new(name, code, format!("`{name}` {what}")));
    }

    /// The members of an object.
    fn members<'v>(&mut self, name: &str, object: &'v RawValue) -> Vec<(String, &'v RawValue)> {
        match serde_json::from_str::<Members<'v>>(object.get()) {
            Ok(members) => members.0,
            Err(_) => {
                self.wrong(name, "invalid_unicode", "has a name with half of a surrogate pair");
                Vec::new()
            }
        }
    }

    /// One member: a parameter, or the leaves of `metadata`.
    fn parameter(&mut self, name: String, value: &RawValue) {
        match name.as_str() {
            "metadata" if Kind::of(value) == Kind::Object => self.leaves(&name, value, 1),
            "metadata" => self.wrong(&name, "wrong_type", "is an object of leaves; or write a leaf as `metadata.KEY`"),
            "query" => self.values("search", value, false),
            _ => self.values(&name, value, name.starts_with("metadata.")),
        }
    }

    fn leaves(&mut self, path: &str, value: &RawValue, depth: usize) {
        for (key, value) in self.members(path, value) {
            let path = format!("{path}.{}", key.replace('.', "\\."));
            match Kind::of(value) {
                Kind::Object if depth >= DEEPEST => self.wrong(&path, "too_deep", "is deeper than an entry can be"),
                Kind::Object if key.ends_with('\\') => self.wrong(&path, "invalid_path", "ends with a backslash, which only the last key of a path may"),
                Kind::Object => self.leaves(&path, value, depth + 1),
                _ => self.values(&path, value, true),
            }
        }
    }

    fn values(&mut self, name: &str, value: &RawValue, null_is_text: bool) {
        let list: Vec<&RawValue> = match Kind::of(value) {
            Kind::List => serde_json::from_str(value.get()).expect("a list of well-formed values is one"),
            _ => vec![value],
        };
        if list.is_empty() {
            self.wrong(name, "empty", "is an empty list, which nothing matches; leave it out");
        }
        for value in list {
            match Kind::of(value) {
                Kind::Text => match serde_json::from_str::<String>(value.get()) {
                    Ok(text) => self.pairs.push((name.to_owned(), text)),
                    Err(_) => self.wrong(name, "invalid_unicode", "has half of a surrogate pair"),
                },
                Kind::Plain => self.pairs.push((name.to_owned(), value.get().to_owned())),
                Kind::Null if null_is_text => self.pairs.push((name.to_owned(), "null".to_owned())),
                Kind::Null | Kind::List | Kind::Object => self.wrong(
                    name,
                    "wrong_type",
                    "is a text, a number, a boolean, or a list of these; leave it out where there is none",
                ),
            }
        }
    }
}

/// What a JSON value is, by its first character: it is known to be well formed.
#[derive(PartialEq, Eq)]
enum Kind {
    Text,
    /// A number or a boolean.
    Plain,
    Null,
    List,
    Object,
}

impl Kind {
    fn of(value: &RawValue) -> Self {
        match value.get().as_bytes().first() {
            Some(b'"') => Self::Text,
            Some(b'[') => Self::List,
            Some(b'{') => Self::Object,
            Some(b'n') => Self::Null,
            _ => Self::Plain,
        }
    }
}

/// The members of an object in their order, repeated names too.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(body: &str) -> Result<Vec<(String, String)>, Problem> {
        let mut query = Query::default();
        add(&mut query, body.as_bytes())?;
        Ok(query.pairs().map(|(n, v)| (n.to_owned(), v.to_owned())).collect())
    }

    #[test]
    fn members_are_parameters_and_lists_repeat_them() {
        let body = r#"{"query": "a b", "page": 2, "total": false, "filters": {"action": ["X", "y"], "user_id": "ü\n", "severity": "ERROR"},
            "metadata.a.b": 1.50, "metadata": {"c": {"d.e": [true, null, "t"]}, "f": -0.0}, "action": "z"}"#;
        let want = [
            ("search", "a b"),
            ("page", "2"),
            ("total", "false"),
            ("action", "X"),
            ("action", "y"),
            ("user_id", "ü\n"),
            ("severity", "ERROR"),
            ("metadata.a.b", "1.50"),
            ("metadata.c.d\\.e", "true"),
            ("metadata.c.d\\.e", "null"),
            ("metadata.c.d\\.e", "t"),
            ("metadata.f", "-0.0"),
            ("action", "z"),
        ];
        let got = pairs(body).unwrap_or_else(|p| panic!("{}", p.detail()));
        assert_eq!(got, want.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(pairs("{}").expect("nothing"), []);
    }

    #[test]
    fn what_is_no_value_is_422_and_named() {
        let deep = format!("{{\"metadata\": {}1{}}}", "{\"a\":".repeat(80), "}".repeat(80));
        for (body, field) in [
            (r#"{"action": null}"#, "action"),
            (r#"{"action": {}}"#, "action"),
            (r#"{"action": []}"#, "action"),
            (r#"{"action": [["x"]]}"#, "action"),
            (r#"{"filters": []}"#, "filters"),
            (r#"{"filters": {"filters": {}}}"#, "filters"),
            (r#"{"filters": {"user_id": [1, {}]}}"#, "user_id"),
            (r#"{"metadata": "x"}"#, "metadata"),
            (r#"{"metadata": {"a": []}}"#, "metadata.a"),
            (r#"{"metadata": {"a\\": {"b": 1}}}"#, "metadata.a\\"),
            (r#"{"user_id": "\ud800"}"#, "user_id"),
            (r#"{"filters": {"\ud800": 1}}"#, "filters"),
            (r#"{"metadata": {"a": {"\ud800": 1}}}"#, "metadata.a"),
        ] {
            let problem = pairs(body).expect_err(body);
            assert_eq!(problem.code(), Code::InvalidParameter, "{body}");
            let json: serde_json::Value = serde_json::from_slice(&problem.render("")).expect("JSON");
            assert_eq!(json["errors"][0]["field"], field, "{body}");
        }
        assert!(pairs(&deep).is_err());
        for body in ["[]", "1", "{", "{\"a\":1}x", "\u{1}", "{\"a\": nul}", "{\"\\ud800\": 1}"] {
            assert_eq!(pairs(body).expect_err(body).code(), Code::InvalidBody, "{body}");
        }
    }
}
