//! The list that a mask is made from: fields, paths into objects, names of patterns.

use super::Mask;
use crate::model::{entry::Field, names::nearest};
use smallvec::SmallVec;

/// Longest path, bytes.
const MAX_PATH_BYTES: usize = 256;
/// Most keys of a path.
const MAX_KEYS: usize = 32;
/// What is never hidden: without these an entry could be neither named nor ordered, and they hold nothing of a client's.
const NEVER: [&str; 6] = ["id", "tenant_id", "timestamp", "received_at", "severity", "sequence"];
/// Names that fields have on the way in only.
const ALIASES: [(&str, &str); 3] = [("before", "before_state"), ("after", "after_state"), ("log_metadata", "metadata")];
const ACTOR: &str = "actor";
const PATTERN: &str = "pattern:";
const PATTERNS: [&str; 5] = ["email", "phone", "card", "iban", "secret_keys"];

/// Why a list is no mask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("item {at} {message}")]
pub struct MaskError {
    /// Which of the list, from 0.
    pub at: usize,
    /// What is wrong with it and what would be right; it goes on a sentence that names the item.
    pub message: String,
}

/// Adds a path or a pattern.
pub(super) fn add(mask: &mut Mask, path: &str) -> Result<(), String> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES {
        return Err(format!("is a path or pattern of 1 to {MAX_PATH_BYTES} bytes"));
    }
    if let Some(name) = path.strip_prefix(PATTERN) {
        return pattern(mask, name);
    }
    let segments = split(path);
    if segments.len() > MAX_KEYS {
        return Err(format!("has at most {MAX_KEYS} keys"));
    }
    if segments.iter().any(|segment| matches!(segment, Segment::Key(key) if key.is_empty())) {
        return Err("has an empty key: it begins or ends with a dot, or has two in a row; a dot that belongs to a key is `\\.`".to_owned());
    }
    let (root, rest) = (path.split('.').next().unwrap_or_default(), &segments[1..]);
    if NEVER.contains(&root) {
        return Err(format!("names `{root}`, which is never hidden"));
    }
    if root == ACTOR && rest.is_empty() {
        mask.actor = true;
        return Ok(());
    }
    let Some(field) = Field::ALL.into_iter().find(|field| field.name() == root) else {
        if root == ACTOR {
            return Err("goes into `actor`, which is a text and has no keys".to_owned());
        }
        let known = Field::ALL.iter().map(|field| field.name()).chain([ACTOR]);
        let alias = ALIASES.iter().find(|(alias, _)| *alias == root).map(|(_, name)| *name);
        let near = alias.or_else(|| nearest(root, known)).unwrap_or("metadata");
        return Err(format!("begins with no field of an entry; the nearest one is `{near}`"));
    };
    match (field.is_object(), rest.is_empty()) {
        (_, true) => mask.whole[field as usize] = true,
        (true, false) => mask.trees[field as usize - Field::BeforeState as usize].add(rest),
        (false, false) => return Err(format!("goes into `{root}`, which is a text and has no keys")),
    }
    Ok(())
}

fn pattern(mask: &mut Mask, name: &str) -> Result<(), String> {
    let on = match name {
        "email" => &mut mask.patterns.email,
        "phone" => &mut mask.patterns.phone,
        "card" => &mut mask.patterns.card,
        "iban" => &mut mask.patterns.iban,
        "secret_keys" => &mut mask.patterns.secrets,
        _ => {
            let near = nearest(name, PATTERNS).unwrap_or(PATTERNS[0]);
            return Err(format!("is no known pattern; the nearest one is `{PATTERN}{near}`"));
        }
    };
    *on = true;
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Key(String),
    Any,
}

fn split(path: &str) -> Vec<Segment> {
    let (mut segments, mut key, mut chars) = (Vec::new(), String::new(), path.chars().peekable());
    let mut close = |key: &mut String| {
        segments.push(match key.as_str() {
            "*" => Segment::Any,
            "\\*" => Segment::Key("*".to_owned()),
            _ => Segment::Key(std::mem::take(key)),
        });
        key.clear();
    };
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.next_if_eq(&'.').is_some() => key.push('.'),
            '.' => close(&mut key),
            c => key.push(c),
        }
    }
    close(&mut key);
    segments
}

/// Where a walk through an object stands in a [`Tree`]: nodes, each once.
pub(super) type States = SmallVec<[u16; 8]>;

/// Paths into one object, as one tree. Node 0 is the object itself; no nodes: no paths.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    keys: Vec<(String, u16)>,
    any: Option<u16>,
    /// What stands here is hidden.
    hidden: bool,
}

impl Tree {
    /// Whether it holds no path.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn add(&mut self, path: &[Segment]) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        for segment in path {
            let node = &self.nodes[at];
            let known = match segment {
                Segment::Any => node.any,
                Segment::Key(key) => node.keys.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, to)| *to),
            };
            at = usize::from(known.unwrap_or_else(|| {
                let new = self.nodes.len() as u16; // at most 64 paths of 32 keys
                self.nodes.push(Node::default());
                match segment {
                    Segment::Any => self.nodes[at].any = Some(new),
                    Segment::Key(key) => self.nodes[at].keys.push((key.clone(), new)),
                }
                new
            }));
        }
        self.nodes[at].hidden = true;
    }

    /// Where a walk begins.
    pub fn start(&self) -> States {
        if self.nodes.is_empty() { States::new() } else { States::from_slice(&[0]) }
    }

    /// Where a key leads, and whether its value is hidden.
    pub fn key(&self, from: &[u16], key: &str) -> (States, bool) {
        let mut to = States::new();
        for node in from.iter().map(|at| &self.nodes[usize::from(*at)]) {
            node.any.into_iter().for_each(|next| insert(&mut to, next));
            let named = node.keys.iter().find(|(k, _)| k.eq_ignore_ascii_case(key));
            named.into_iter().for_each(|(_, next)| insert(&mut to, *next));
        }
        let hidden = self.hides(&to);
        (to, hidden)
    }

    /// Where the elements of an array stand, and whether they are hidden: an array may take a `*`, and takes none.
    pub fn element(&self, from: &[u16]) -> (States, bool) {
        let mut to = States::from_slice(from);
        for node in from.iter().map(|at| &self.nodes[usize::from(*at)]) {
            node.any.into_iter().for_each(|next| insert(&mut to, next));
        }
        let hidden = self.hides(&to);
        (to, hidden)
    }

    /// Whether a value that these keys lead to is, or could be in some entry, hidden.
    pub fn may_hide(&self, path: &[String]) -> bool {
        let mut at = self.start();
        for key in path {
            let (mut to, mut hidden) = self.key(&at, key);
            // Arrays may lie in between, any number of them.
            while !hidden {
                let (more, hides) = self.element(&to);
                let grown = more.len() > to.len();
                (to, hidden) = (more, hides);
                if !grown {
                    break;
                }
            }
            if hidden {
                return true;
            }
            at = to;
        }
        false
    }

    fn hides(&self, states: &[u16]) -> bool {
        states.iter().any(|at| self.nodes[usize::from(*at)].hidden)
    }
}

fn insert(states: &mut States, state: u16) {
    if !states.contains(&state) {
        states.push(state);
    }
}
