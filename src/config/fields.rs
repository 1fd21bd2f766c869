//! Settings that are lists of tables (`[[auth.issuers]]`, `[[sources]]`): each table's fields are taken one by one, and what nobody
//! asked for is told.

use super::{
    read::{Reader, nearest, shown},
    source::Given,
};
use toml::{Table, Value};

/// The tables of a list, as a file or (JSON) the environment gives them. `None` after a problem; its values are not shown, since they may
/// be secrets.
pub fn tables(r: &mut Reader, key: &'static str, most: usize, rule: &str) -> Option<Vec<Table>> {
    let Some(Given { value, origin }) = r.raw(key) else {
        r.keep(key, None);
        r.problem(key, format!("is missing: it {rule}"));
        return None;
    };
    let tables = match value {
        Value::Array(list) => Some(list),
        Value::String(json) => serde_json::from_str::<Vec<serde_json::Value>>(&json)
            .ok()
            .map(|list| list.into_iter().map(of_json).collect()),
        _ => None,
    };
    let tables: Option<Vec<Table>> = tables.and_then(|list| list.into_iter().map(|value| value.try_into().ok()).collect());
    let tables = tables.filter(|tables| tables.len() <= most);
    if tables.is_none() {
        r.keep(key, None);
        r.problem(key, format!("({origin}): {rule}"));
    }
    tables
}

/// JSON as TOML has it; fields that are `null` are left out.
fn of_json(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::String(String::new()),
        serde_json::Value::Bool(on) => on.into(),
        serde_json::Value::Number(n) => n.as_i64().map_or_else(|| n.as_f64().unwrap_or_default().into(), Value::Integer),
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(list) => list_of(list.into_iter().map(of_json)),
        serde_json::Value::Object(fields) => {
            let given = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Table(given.map(|(name, value)| (name, of_json(value))).collect())
        }
    }
}

/// A list of texts, or one text.
pub fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        value => value.clone().try_into().ok(),
    }
}

/// A table whose fields are taken one by one.
pub struct Fields<'r> {
    /// Where problems are told.
    pub reader: &'r mut Reader,
    /// The key of the table.
    pub at: String,
    table: Table,
    known: Vec<&'static str>,
    /// Nothing was wrong yet.
    pub good: bool,
}

impl<'r> Fields<'r> {
    /// The fields of `table`, which stands at the key `at`.
    pub fn new(reader: &'r mut Reader, at: String, table: Table) -> Self {
        Self {
            reader,
            at,
            table,
            known: Vec::new(),
            good: true,
        }
    }

    /// A field, as it was given; it is known from here on.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.table.remove(name)
    }

    /// Notes what is wrong with a field.
    pub fn wrong(&mut self, name: &str, message: String) {
        self.good = false;
        self.reader.problem(&format!("{}.{name}", self.at), message);
    }

    /// A text that `good` accepts.
    pub fn text<T>(&mut self, name: &'static str, rule: &str, good: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.take(name)?;
        let found = value.as_str().and_then(good);
        if found.is_none() {
            self.wrong(name, format!("is `{}`: it {rule}", shown(&value)));
        }
        found
    }

    /// A text that must be there.
    pub fn needed<T>(&mut self, name: &'static str, rule: &str, good: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        if !self.table.contains_key(name) {
            self.wrong(name, format!("is missing: it {rule}"));
        }
        self.text(name, rule, good)
    }

    /// A list of texts, or one text.
    pub fn list<T>(&mut self, name: &'static str, rule: &str, good: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let value = self.take(name)?;
        let found: Option<Vec<T>> = texts(&value).and_then(|texts| texts.iter().map(|text| good(text)).collect());
        if found.is_none() {
            self.wrong(name, format!("is `{}`: it {rule}", shown(&value)));
        }
        found
    }

    /// A list that must be there.
    pub fn needed_list<T>(&mut self, name: &'static str, rule: &str, good: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        if !self.table.contains_key(name) {
            self.wrong(name, format!("is missing: it {rule}"));
        }
        self.list(name, rule, good)
    }

    /// Whether something is on.
    pub fn flag(&mut self, name: &'static str, default: bool) -> bool {
        let Some(value) = self.take(name) else { return default };
        value.as_bool().unwrap_or_else(|| {
            self.wrong(name, format!("is `{}`: it must be true or false", shown(&value)));
            default
        })
    }

    /// The fields of a table in this one, which must be there.
    pub fn needed_section(&mut self, name: &'static str, why: &str) -> Option<Fields<'_>> {
        if !self.table.contains_key(name) {
            self.wrong(name, format!("is missing: {why}"));
        }
        self.section(name)
    }

    /// The fields of a table in this one.
    pub fn section(&mut self, name: &'static str) -> Option<Fields<'_>> {
        match self.take(name) {
            None => {}
            Some(Value::Table(table)) => return Some(Fields::new(self.reader, format!("{}.{name}", self.at), table)),
            // Not shown: it may be a secret in the wrong place.
            Some(_) => self.wrong(name, "must be a table".to_owned()),
        }
        None
    }

    /// Tells what nobody asked for. Whether everything in this table was good.
    pub fn end(mut self) -> bool {
        for name in std::mem::take(&mut self.table).keys() {
            let near = nearest(name, self.known.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
            self.wrong(name, format!("there is no such setting{}", near.unwrap_or_default()));
        }
        self.good
    }
}

/// A list, as TOML has it.
pub fn list_of<T: Into<Value>>(items: impl Iterator<Item = T>) -> Value {
    Value::Array(items.map(Into::into).collect())
}
