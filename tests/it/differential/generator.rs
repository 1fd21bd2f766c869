//! Random entries and random requests over small vocabularies, so that conditions meet matches.

use super::model::{Condition, Entry, SEVERITIES, Search, words};
use rand::{Rng, RngExt, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use uuid::Uuid;

const ACTIONS: [&str; 6] = ["LOGIN", "Login failed", "delete", "CREATE", "Über-Prüfung", "iam.AssumeRole"];
const TYPES: [&str; 4] = ["user", "Invoice", "s3.bucket", "role"];
const USERS: [&str; 9] = ["ann", "bob", "Zoë", "svc-backup", "eve@corp", "u 1", "dan", "it's", "\"q\""];
const AGENTS: [&str; 4] = ["Mozilla/5.0 (X11; Linux x86_64) Firefox/130", "curl/8.1", "aws-cli/2.15 Python/3.11", ""];
const VOCABULARY: [&str; 28] = [
    "alpha", "beta", "gamma", "delta", "Token", "denied", "ERROR", "straße", "日本", "naïve", "root", "10", "42", "x86", "user", "login", "assume", "role",
    "policy", "Bucket", "timeout", "retry", "königin", "id7", "true", "null", "admin", "office",
];
const GLUE: [&str; 8] = [" ", " ", ", ", ".", "-", "_", "/", " – "];
const NETWORKS: [[u8; 2]; 4] = [[10, 1], [10, 2], [192, 168], [172, 16]];
/// 2024-03-01T00:00:00Z.
pub const EPOCH: i64 = 1_709_251_200_000;
/// Entries lie within so many days after it.
pub const DAYS: i64 = 40;
pub const DAY: i64 = 86_400_000;

pub struct Generator(pub StdRng);

impl Generator {
    fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.0).expect("not empty")
    }

    fn some<T: Copy>(&mut self, of: &[T], most: usize) -> Vec<T> {
        (0..self.0.random_range(1..=most)).map(|_| self.one(of)).collect()
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    fn sentence(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..self.below(7) {
            text += self.one(&VOCABULARY);
            text += self.one(&GLUE);
        }
        text
    }

    fn value(&mut self, depth: u32) -> Value {
        match self.below(if depth > 2 { 5 } else { 8 }) {
            0 => json!(self.one(&VOCABULARY)),
            1 => json!(self.sentence()),
            2 => json!(self.0.random_range(-3..9)),
            3 => json!(self.chance(50)),
            4 => Value::Null,
            5 => Value::from((0..self.below(3)).map(|_| self.value(depth + 1)).collect::<Vec<_>>()),
            _ => self.object(depth + 1),
        }
    }

    fn object(&mut self, depth: u32) -> Value {
        let keys = ["k", "a.b", "deep", "list", "Ключ"];
        let n = self.below(4);
        Value::Object((0..n).map(|_| (self.one(&keys).to_owned(), self.value(depth))).collect())
    }

    fn moment(&mut self) -> i64 {
        // Many entries share a millisecond, and some stand on the edge of a day.
        match self.below(10) {
            0 => EPOCH + self.0.random_range(0..DAYS) * DAY,
            1 => EPOCH + self.0.random_range(1..DAYS) * DAY - 1,
            2..5 => EPOCH + self.0.random_range(0..50) * 60_000,
            _ => EPOCH + self.0.random_range(0..DAYS * DAY),
        }
    }

    /// A whole entry with every field of the contract but `received_at`, `actor` and `sequence`.
    pub fn entry(&mut self, tenant: &str) -> (Value, i64) {
        let at = self.moment();
        let time = chrono::DateTime::from_timestamp_millis(at)
            .expect("in range")
            .to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let address = self.one(&NETWORKS);
        let object = |this: &mut Self, percent: u32| if this.chance(percent) { this.object(0) } else { Value::Null };
        let (metadata, before, after) = (object(self, 80), object(self, 30), object(self, 30));
        let text = |this: &mut Self, percent: u32, value: String| if this.chance(percent) { json!(value) } else { Value::Null };
        let (session, request) = (format!("s-{}", self.below(30)), Uuid::from_u128(self.0.random()).to_string());
        let (user, agent, message) = (self.one(&USERS).to_owned(), self.one(&AGENTS).to_owned(), self.sentence());
        let entry = json!({
            "id": Uuid::from_u128(self.0.random()).to_string(), "tenant_id": tenant, "timestamp": time, "action": self.one(&ACTIONS), "resource_type": self.one(&TYPES),
            "resource_id": format!("r-{}", self.below(40)), "user_id": user, "session_id": text(self, 70, session), "request_id": text(self, 70, request),
            "email": if self.chance(50) { json!(format!("{}@Example.com", self.one(&["ann", "bob.b", "c+d"]))) } else { Value::Null },
            "ip_address": if self.chance(80) { json!(format!("{}.{}.{}.{}", address[0], address[1], self.below(3), self.below(5))) } else { Value::Null },
            "user_agent": text(self, 70, agent), "severity": self.one(&SEVERITIES), "message": text(self, 80, message),
            "before_state": before, "after_state": after, "metadata": metadata, "actor": "tester",
        });
        (entry, at)
    }

    /// A few conditions and the parameters that say them.
    pub fn filter(&mut self, entries: &[Entry]) -> (Vec<Condition>, Vec<(String, String)>) {
        let (mut conditions, mut params) = (Vec::new(), Vec::new());
        for _ in 0..[0, 1, 1, 1, 2, 2, 3][self.below(7)] {
            let (condition, said) = self.condition(entries);
            // A name given twice is OR: the model says AND, so each name is used once.
            if said.iter().all(|(name, _)| params.iter().all(|(known, _): &(String, String)| known != name)) {
                conditions.push(condition);
                params.extend(said);
            }
        }
        (conditions, params)
    }

    fn condition(&mut self, entries: &[Entry]) -> (Condition, Vec<(String, String)>) {
        let say = |name: &str, value: &dyn ToString| vec![(name.to_owned(), value.to_string())];
        let time = |at: i64| {
            chrono::DateTime::from_timestamp_millis(at)
                .expect("in range")
                .to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
        };
        match self.below(16) {
            0 => {
                let at = self.moment();
                (Condition::From(at), say("from", &time(at)))
            }
            1 => {
                let at = self.moment();
                (Condition::To(at), say("to", &time(at)))
            }
            2 => {
                let day = EPOCH + self.0.random_range(0..DAYS) * DAY;
                let date = time(day)[..10].to_owned();
                (Condition::Within(vec![(day, day + DAY)]), say("timestamp", &date))
            }
            3 => {
                let n = self.0.random_range(1..=entries.len().max(1) as u64);
                if self.chance(50) {
                    (Condition::MinSequence(n), say("min_sequence", &n))
                } else {
                    (Condition::MaxSequence(n), say("max_sequence", &n))
                }
            }
            4 => {
                let values = self.some(&SEVERITIES, 2);
                let typed = values.iter().map(|v| v.to_lowercase()).collect::<Vec<_>>().join(",");
                (Condition::AnyCase("severity", owned(&values)), say("severity", &typed))
            }
            5 => {
                let values = self.some(&ACTIONS, 2);
                (
                    Condition::AnyCase("action", owned(&values)),
                    values.iter().flat_map(|v| say("action", &v.to_uppercase())).collect(),
                )
            }
            6 => {
                let values = self.some(&TYPES, 2);
                (
                    Condition::AnyCase("resource_type", owned(&values)),
                    say("resource_type", &values.join(",").to_lowercase()),
                )
            }
            7 => {
                let values = self.some(&USERS, 2);
                (
                    Condition::Exact("user_id", owned(&values)),
                    values.iter().flat_map(|v| say("user_id", v)).collect(),
                )
            }
            8 | 9 => {
                // A needle: what one of the entries has, or what none has.
                let field = self.one(&["request_id", "id", "session_id", "resource_id", "email"]);
                let none = if field == "id" { Uuid::nil().to_string() } else { "none".to_owned() };
                let value = entries.choose(&mut self.0).and_then(|e| e.text(field)).map_or(none, str::to_owned);
                (Condition::Exact(field, vec![value.clone()]), say(field, &value))
            }
            10 => {
                let [a, b] = self.one(&NETWORKS);
                let bits = self.one(&[8, 12, 16, 24, 31, 32]);
                let address = u32::from_be_bytes([a, b, self.below(3) as u8, self.below(5) as u8]);
                let typed = format!("{}/{bits}", std::net::Ipv4Addr::from_bits(address));
                (Condition::Network(address, bits), say("ip_address", &typed))
            }
            11 => {
                let word = self.one(&["firefox", "linux", "curl", "aws", "python", "8", "nothing"]);
                (Condition::Agent(words(word)), say("user_agent", &word))
            }
            12 => {
                let (path, values) = self.leaf();
                (
                    Condition::Leaf(path.1, values.clone()),
                    values.iter().flat_map(|v| say(&format!("metadata.{}", path.0), v)).collect(),
                )
            }
            _ => {
                let search = self.search(0);
                let typed = search.typed();
                (Condition::Search(search), say("search", &typed))
            }
        }
    }

    fn leaf(&mut self) -> ((&'static str, Vec<&'static str>), Vec<String>) {
        let path = match self.below(5) {
            0 => ("k", vec!["k"]),
            1 => (r"a\.b", vec!["a.b"]),
            2 => ("deep.k", vec!["deep", "k"]),
            3 => ("list", vec!["list"]),
            _ => ("Ключ", vec!["Ключ"]),
        };
        let value = match self.below(4) {
            0 => self.0.random_range(-3..9).to_string(),
            1 => self.one(&["true", "false", "null"]).to_owned(),
            _ => self.one(&VOCABULARY).to_owned(),
        };
        (path, vec![value])
    }

    fn word(&mut self) -> String {
        let known = [&VOCABULARY[..], &["failed", "invoice", "s3", "example", "com", "firefox", "absent", "r", "s"]].concat();
        words(self.one(&known))[0].clone()
    }

    fn search(&mut self, depth: u32) -> Search {
        match self.below(if depth > 2 { 6 } else { 10 }) {
            0 | 1 => Search::Word(self.word()),
            2 => Search::Phrase((0..self.0.random_range(1..=3)).map(|_| self.word()).collect()),
            3 => {
                let word = self.word();
                match word.char_indices().nth(3) {
                    Some(_) => Search::Prefix(word.chars().take(self.0.random_range(3..=4)).collect()),
                    None => Search::Word(word),
                }
            }
            4 => self.field(),
            5 => Search::Not(Box::new(Search::Word(self.word()))),
            6 => Search::Not(Box::new(self.search(depth + 1))),
            7 => Search::Or((0..self.0.random_range(2..=3)).map(|_| self.search(depth + 1)).collect()),
            _ => Search::And((0..self.0.random_range(2..=3)).map(|_| self.search(depth + 1)).collect()),
        }
    }

    fn field(&mut self) -> Search {
        let quoted = |value: &str| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
        match self.below(4) {
            0 => {
                let action = self.one(&ACTIONS);
                Search::Field(
                    Box::new(Condition::AnyCase("action", vec![action.to_owned()])),
                    format!("action:{}", quoted(&action.to_lowercase())),
                )
            }
            1 => {
                let severity = self.one(&SEVERITIES);
                Search::Field(
                    Box::new(Condition::AnyCase("severity", vec![severity.to_owned()])),
                    format!("severity:{severity}"),
                )
            }
            2 => {
                let user = self.one(&["ann", "bob", "Zoë", "dan"]);
                Search::Field(Box::new(Condition::Exact("user_id", vec![user.to_owned()])), format!("user_id:{user}"))
            }
            _ => {
                let word = self.one(&VOCABULARY);
                Search::Field(
                    Box::new(Condition::Leaf(vec!["k"], vec![word.to_owned()])),
                    format!("metadata.k:{}", quoted(word)),
                )
            }
        }
    }
}

fn owned(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| (*v).to_owned()).collect()
}

/// As a query string.
pub fn query_string(params: &[(String, String)]) -> String {
    let encode = |text: &str| -> String {
        text.bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect()
    };
    // Names keep their dots and backslashes readable; everything else is escaped.
    let name = |text: &str| text.split('.').map(encode).map(|t| t.replace("%5F", "_")).collect::<Vec<_>>().join(".");
    params.iter().map(|(n, v)| format!("&{}={}", name(n), encode(v))).collect()
}

/// A seeded generator.
pub fn seeded(seed: u64) -> Generator {
    use rand::SeedableRng;
    Generator(StdRng::seed_from_u64(seed))
}

/// A fresh seed.
pub fn fresh_seed() -> u64 {
    rand::rng().next_u64()
}
