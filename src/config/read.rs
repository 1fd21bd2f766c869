//! Takes settings out of the layers one by one, checks each, and collects what is wrong instead of stopping at the first.

use super::{
    Problem,
    source::{Given, Layers, Origin},
    units,
};
use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};
use toml::Value;

/// One of the names that a setting may have.
pub struct Choice<T> {
    /// As it is written.
    pub name: &'static str,
    /// What it means; `None`: it needs the Cargo feature of its name, and this binary was built without.
    pub meaning: Option<T>,
}

/// Reads settings. After a problem it gives a stand-in and goes on; [`Reader::finish`] tells.
pub struct Reader {
    layers: Layers,
    problems: Vec<Problem>,
    /// What was read, as it is in force.
    effective: Vec<(&'static str, Value)>,
}

impl Reader {
    /// Reads from `layers`; `problems` are those found before.
    pub fn new(layers: Layers, problems: Vec<Problem>) -> Self {
        Self {
            layers,
            problems,
            effective: Vec::new(),
        }
    }

    /// A size in bytes.
    pub fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> u64 {
        let rule = format!(
            "must be a size from {} to {}, such as \"64MiB\"",
            units::size(*range.start()),
            units::size(*range.end())
        );
        let bytes = self.value(key, &rule, |value| {
            whole(value)
                .or_else(|| units::parse_size(value.as_str()?))
                .filter(|bytes| range.contains(bytes))
        });
        self.keep(key, bytes.map(|b| Value::String(units::size(b))));
        bytes.unwrap_or(*range.start())
    }

    /// A size in bytes, or `auto`.
    pub fn size_or_auto(&mut self, key: &'static str) -> Option<u64> {
        let bytes = self.value(key, "must be \"auto\" or a size such as \"2GiB\"", |value| match value.as_str() {
            Some("auto") => Some(None),
            _ => whole(value).or_else(|| units::parse_size(value.as_str()?)).map(Some),
        });
        self.keep(key, bytes.map(|b| Value::String(b.map_or("auto".to_owned(), units::size))));
        bytes.flatten()
    }

    /// A span of time.
    pub fn span(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Duration {
        let rule = format!(
            "must be a time from {} to {}, such as \"250ms\"",
            units::span(*range.start()),
            units::span(*range.end())
        );
        let span = self.value(key, &rule, |value| units::parse_span(value.as_str()?).filter(|span| range.contains(span)));
        self.keep(key, span.map(|s| Value::String(units::span(s))));
        span.unwrap_or(*range.start())
    }

    /// A span of time, or `auto`.
    pub fn span_or_auto(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let rule = format!(
            "must be \"auto\" or a time from {} to {}",
            units::span(*range.start()),
            units::span(*range.end())
        );
        let span = self.value(key, &rule, |value| match value.as_str()? {
            "auto" => Some(None),
            text => units::parse_span(text).filter(|span| range.contains(span)).map(Some),
        });
        self.keep(key, span.map(|s| Value::String(s.map_or("auto".to_owned(), units::span))));
        span.flatten()
    }

    /// A whole number.
    pub fn count(&mut self, key: &'static str, range: RangeInclusive<usize>) -> usize {
        let rule = format!("must be a whole number from {} to {}", range.start(), range.end());
        let count = self.value(key, &rule, |value| {
            let count = whole(value).or_else(|| value.as_str()?.trim().parse().ok())?;
            usize::try_from(count).ok().filter(|count| range.contains(count))
        });
        self.keep(key, count.map(|c| Value::Integer(c as i64)));
        count.unwrap_or(*range.start())
    }

    /// Whether something is on.
    pub fn flag(&mut self, key: &'static str) -> bool {
        let on = self.value(key, "must be true or false", |value| {
            value.as_bool().or_else(|| value.as_str()?.trim().parse().ok())
        });
        self.keep(key, on.map(Value::Boolean));
        on.unwrap_or_default()
    }

    /// Where to listen.
    pub fn address(&mut self, key: &'static str) -> SocketAddr {
        let rule = "must be ADDRESS:PORT with an IP address, such as \"127.0.0.1:8080\" or \"[::]:8080\"";
        let address = self.value(key, rule, |value| value.as_str()?.trim().parse::<SocketAddr>().ok());
        self.keep(key, address.map(|a| Value::String(a.to_string())));
        address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// A path that is not empty.
    pub fn path(&mut self, key: &'static str) -> PathBuf {
        let path = self.value(key, "must be a path", |value| {
            value.as_str().filter(|text| !text.is_empty() && !text.contains('\0')).map(str::to_owned)
        });
        self.keep(key, path.clone().map(Value::String));
        PathBuf::from(path.unwrap_or_default())
    }

    /// Text that `good` accepts.
    pub fn text<T>(&mut self, key: &'static str, rule: &str, good: impl Fn(&str) -> Option<T>) -> Option<T> {
        let both = self.value(key, rule, |value| value.as_str().and_then(|text| Some((text.to_owned(), good(text)?))));
        let (text, meaning) = both.unzip();
        self.keep(key, text.map(Value::String));
        meaning
    }

    /// A list of texts that `good` accepts, each once; from the environment as JSON.
    pub fn list<T>(&mut self, key: &'static str, rule: &str, good: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let both = self.value(key, rule, |value| {
            let texts: Vec<String> = match value {
                Value::String(json) => serde_json::from_str(json).ok()?,
                value => value.clone().try_into().ok()?,
            };
            let meanings = texts.iter().map(|text| good(text)).collect::<Option<Vec<T>>>()?;
            Some((Value::from(texts), meanings))
        });
        let (texts, meanings) = both.unzip();
        self.keep(key, texts);
        meanings.unwrap_or_default()
    }

    /// One of several names.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[Choice<T>]) -> Option<T> {
        let names: Vec<_> = choices.iter().map(|c| format!("`{}`", c.name)).collect();
        let rule = format!("must be one of {}", names.join(", "));
        let at = self.value(key, &rule, |value| {
            choices.iter().position(|c| value.as_str().is_some_and(|text| c.name == text))
        })?;
        if choices[at].meaning.is_none() {
            self.problem(key, not_built(choices[at].name));
        }
        self.keep(key, Some(Value::String(choices[at].name.to_owned())));
        choices[at].meaning
    }

    /// Checks a rule over several settings; told only if each of them is good by itself.
    pub fn require(&mut self, keys: [&'static str; 2], holds: bool, rule: impl FnOnce() -> String) {
        let good = |key: &str| !self.problems.iter().any(|p| p.key == key);
        if !holds && keys.iter().all(|key| good(key)) {
            self.problem(keys[0], rule());
        }
    }

    /// What is wrong (what was given and never asked for, too), or everything that was read.
    pub fn finish(mut self) -> Result<Vec<(&'static str, Value)>, Vec<Problem>> {
        let known: Vec<_> = self.effective.iter().map(|(key, _)| *key).collect();
        for (key, given) in std::mem::take(&mut self.layers) {
            // Values stay out of these messages: they may be secrets under a name that is misspelt.
            let near = nearest(&key, known.iter().copied())
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_default();
            let message = format!("there is no such setting ({}){near}", given.origin);
            self.problems.push(Problem::new(key, message));
        }
        if self.problems.is_empty() { Ok(self.effective) } else { Err(self.problems) }
    }

    /// What was given for a setting of its own form; whoever takes it checks it, and calls [`Reader::keep`].
    pub fn raw(&mut self, key: &'static str) -> Option<Given> {
        self.layers.remove(key)
    }

    /// Text that is never shown; `None` for the empty one.
    pub fn hidden(&mut self, key: &'static str) -> Option<String> {
        let text = self.raw(key).map(|given| given.value.as_str().map(str::to_owned));
        if !matches!(text, Some(Some(_))) {
            self.problem(key, "must be a text".to_owned());
        }
        let text = text.flatten().filter(|text| !text.is_empty());
        self.keep(key, Some(Value::from(text.as_ref().map_or("", |_| "…"))));
        text
    }

    fn value<T>(&mut self, key: &'static str, rule: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let given = self.layers.remove(key);
        let Some(Given { value, origin }) = given else {
            self.problem(key, format!("is missing: {rule}"));
            return None;
        };
        let good = read(&value);
        if good.is_none() {
            let from = if origin == Origin::Default { String::new() } else { format!(" ({origin})") };
            self.problem(key, format!("is `{}`{from}: {rule}", shown(&value)));
        }
        good
    }

    /// Notes what is in force. A setting that is wrong is known all the same.
    pub fn keep(&mut self, key: &'static str, value: Option<Value>) {
        self.effective.push((key, value.unwrap_or(Value::Boolean(false))));
    }

    /// Notes what is wrong with a setting, unless something is noted already.
    pub fn problem_unless_told(&mut self, key: &str, message: &str) {
        if !self.problems.iter().any(|p| p.key == key) {
            self.problem(key, message.to_owned());
        }
    }

    /// Notes what is wrong with a setting.
    pub fn problem(&mut self, key: &str, message: String) {
        self.problems.push(Problem::new(key, message));
    }
}

/// What is wrong with an engine that this binary does not have; its Cargo feature has its name.
pub fn not_built(name: &str) -> String {
    format!("names `{name}`, which this binary was built without: build it with the Cargo feature `{name}`")
}

fn whole(value: &Value) -> Option<u64> {
    value.as_integer().and_then(|n| u64::try_from(n).ok())
}

/// A value as a message shows it.
pub fn shown(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned).replace(char::is_control, " ");
    text.chars().take(80).collect()
}

/// The name that is most like `name`, if one is like it.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let closest = known.map(|candidate| (distance(name, candidate), candidate)).min()?;
    (closest.0 <= name.len().div_ceil(3)).then_some(closest.1)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
