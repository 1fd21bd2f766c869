//! Where settings come from, laid over each other: the compiled-in defaults, a file, the environment, flags.

use super::Problem;
use std::{collections::BTreeMap, ffi::OsString, fmt, fs, path::PathBuf};
use toml::{Table, Value};

/// The documented defaults.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");
/// How a variable of ours begins. Two underscores stand for a dot.
const PREFIX: &str = "SLUICE__";

/// What a process was given to configure it.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file of `--config`.
    pub file: Option<PathBuf>,
    /// The environment's variables, ours and others.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags that stand for a setting: (flag, key, value).
    pub flags: Vec<(&'static str, &'static str, String)>,
}

impl Sources {
    /// No file and no flags, and the environment of this process.
    pub fn of_process() -> Self {
        Self {
            environment: std::env::vars_os().collect(),
            ..Self::default()
        }
    }
}

/// Which source a value is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `config/default.toml`.
    Default,
    /// The file of `--config`.
    File(String),
    /// A variable.
    Environment(String),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File(path) => write!(f, "file `{path}`"),
            Self::Environment(name) => write!(f, "environment `{name}`"),
            Self::Flag(name) => write!(f, "flag `{name}`"),
        }
    }
}

/// A value and where it is from.
#[derive(Debug, Clone)]
pub struct Given {
    /// The value as it was written; text when it is from the environment or a flag.
    pub value: Value,
    /// Where it is from.
    pub origin: Origin,
}

/// All settings by dotted key. A later source replaces single values, not sections.
pub type Layers = BTreeMap<String, Given>;

/// Reads all sources. What cannot be read is a problem; the rest is taken all the same, so that all problems show at once.
pub fn read(sources: &Sources, problems: &mut Vec<Problem>) -> Layers {
    let mut layers = Layers::new();
    lay(&mut layers, "", DEFAULTS.parse().expect("a test reads the default file"), &Origin::Default);
    if let Some(path) = &sources.file {
        let name = path.display().to_string();
        match fs::read_to_string(path) {
            Err(e) => problems.push(Problem::new("--config", format!("`{name}` cannot be read: {e}"))),
            Ok(text) => match text.parse::<Table>() {
                Err(e) => problems.push(Problem::new("--config", format!("`{name}` is not TOML: {}", one_line(&e, &text)))),
                Ok(table) => lay(&mut layers, "", table, &Origin::File(name)),
            },
        }
    }
    let mut ours: Vec<_> = sources.environment.iter().filter_map(|(name, value)| Some((name.to_str()?, value))).collect();
    ours.retain(|(name, _)| name.starts_with(PREFIX));
    ours.sort_unstable(); // a section as a whole (`SLUICE__WAL={…}`) before its keys
    for (name, value) in ours {
        let (key, origin) = (
            name[PREFIX.len()..].to_ascii_lowercase().replace("__", "."),
            Origin::Environment(name.to_owned()),
        );
        match value.to_str() {
            None => problems.push(Problem::new(key, format!("{origin} is not UTF-8"))),
            Some(text) => match section(text) {
                Some(table) => lay(&mut layers, &key, table, &origin),
                None => {
                    layers.insert(
                        key,
                        Given {
                            value: Value::String(text.to_owned()),
                            origin,
                        },
                    );
                }
            },
        }
    }
    for (flag, key, value) in &sources.flags {
        let given = Given {
            value: Value::String(value.clone()),
            origin: Origin::Flag(flag),
        };
        layers.insert((*key).to_owned(), given);
    }
    layers
}

fn lay(layers: &mut Layers, prefix: &str, table: Table, origin: &Origin) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(table) => lay(layers, &key, table, origin),
            value => {
                layers.insert(key, Given { value, origin: origin.clone() });
            }
        }
    }
}

/// A variable may hold a whole section as a JSON object.
fn section(text: &str) -> Option<Table> {
    serde_json::from_str(text.trim()).ok().filter(|_| text.trim_start().starts_with('{'))
}

/// What is wrong and where. The parser's own text spans lines and quotes the file, which may hold secrets.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    format!("line {line}: {}", error.message().replace('\n', " "))
}
