//! Random requests: what the contract knows, over small vocabularies, and then damaged.

use super::NEEDLE;
use rand::{Rng, RngExt, rngs::StdRng, seq::IndexedRandom};
use std::fmt::Write as _;

const FILTERS: [&str; 24] = [
    "from",
    "to",
    "start_time",
    "start_date",
    "end_time",
    "end_date",
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
    "user_agent",
    "min_sequence",
    "max_sequence",
    "metadata.a.b",
    "metadata.a.c\\.d",
    "search",
];
const PAGING: [&str; 9] = ["sort", "page", "page_size", "size", "limit", "skip", "total", "cursor", "cursor"];
const EXPORT: [&str; 3] = ["sort", "csv_safe", "format"];
const STATS: [&str; 4] = ["interval", "zone", "group_by", "limit"];
const FEED: [&str; 2] = ["after", "on_slow"];
const STRANGE: [&str; 6] = ["metadata.text", "metadata.", "metadata", "query", "filters", "confirm"];
const CLEANUP: [&str; 4] = ["days", "before", "dry_run", "confirm"];
const VALUES: [&str; 64] = [
    "",
    "0",
    "1",
    "-1",
    "+1",
    "50",
    "1000",
    "1001",
    "9999999999",
    "18446744073709551615",
    "18446744073709551616",
    "1e9",
    "0x10",
    " 5",
    "NaN",
    "2023-11-14",
    "2023-11-15T00:00:00Z",
    "2023-11-20T00:00:00+05:30",
    "9999-12-31T23:59:59.999Z",
    "0000-01-01",
    "-0001-01-01",
    "2023-02-30",
    "2023-11-15T00:00:00",
    "+262142-12-31T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "10.0.0.0/8",
    "10.0.1.7",
    "::/0",
    "::ffff:10.0.0.1",
    "10.0.0.0/33",
    "fe80::1%eth0",
    "1.2.3",
    "LOGIN",
    "login,delete",
    "Über",
    ",,,",
    "INFO",
    "info,ERROR",
    "LOUD",
    "u1",
    "r-3",
    "invoice",
    "true",
    "false",
    "exact",
    "timestamp:asc",
    "sequence:desc",
    "relevance",
    "json",
    "ndjson",
    "csv",
    "xml",
    "1m",
    "1s",
    "1d",
    "1M",
    "999999999999d",
    "Europe/Vienna",
    "+14:00",
    "action,severity",
    "metadata.a.b,user_id",
    "metadata.text",
    "catch_up",
    "close",
];
const WORDS: [&str; 30] = [
    "alpha",
    "beta",
    "gamma",
    "al*",
    "alp*",
    "*",
    "a*b",
    "-beta",
    "-",
    "NOT",
    "OR",
    "AND",
    "(",
    ")",
    "\"",
    "\"alpha beta\"",
    "\"beta alpha\"",
    "user_id:u1",
    "message:alpha",
    "action:log*",
    "severity:error",
    "metadata.a.b:3",
    "ip_address:10.0.0.0/8",
    "from:2023",
    "nofield:x",
    ":",
    "\\",
    "\u{202e}",
    "日本",
    "-(alpha OR -gamma)",
];
const BROKEN: [&str; 14] = [
    "%",
    "%zz",
    "%F",
    "%FF",
    "%00",
    "%C3%28",
    "%ED%A0%80",
    "%F0%9F%92%A9",
    "&&",
    "=",
    "==",
    "%26",
    "%0d%0aX-Evil:%201",
    "%2e%2e%2f",
];
const PATHS: [(&str, &str); 15] = [
    ("GET", "/logs"),
    ("GET", "/logs"),
    ("GET", "/logs"),
    ("GET", "/logs/stats"),
    ("GET", "/logs/stats"),
    ("GET", "/logs/export"),
    ("GET", "/logs/export/json"),
    ("GET", "/logs/export/csv"),
    ("GET", "/logs/stream"),
    ("POST", "/logs/search"),
    ("POST", "/logs/search"),
    ("POST", "/logs/search"),
    ("POST", "/logs/export"),
    ("DELETE", "/logs/cleanup"),
    ("DELETE", "/logs"),
];
const RANGES: [&str; 12] = [
    "bytes=0-0",
    "bytes=5-",
    "bytes=-7",
    "bytes=9-2",
    "bytes=99999999999999999999-",
    "bytes=0-1,3-4",
    "rows=0-1",
    "bytes",
    "bytes=",
    "bytes=--1",
    "bytes=18446744073709551615-18446744073709551615",
    "bytes=a-b",
];

/// A request and what is known about it.
pub struct Asked {
    pub method: &'static str,
    /// Path and query, as sent.
    pub target: Vec<u8>,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Its answer has no body.
    pub head: bool,
    /// It is no HTTP, or no whole one: hanging up is an answer.
    pub broken: bool,
    /// Its body ends before its length.
    pub cut_short: bool,
    /// It asks for something of the contract that is not built.
    pub unbuilt: bool,
    /// It asks for a live feed.
    pub endless: bool,
}

impl Asked {
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{} ", self.method).into_bytes();
        out.extend_from_slice(&self.target);
        out.extend_from_slice(b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !self.body.is_empty() || self.method == "POST" {
            let length = self.body.len() + if self.cut_short { 10 } else { 0 };
            out.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }

    /// For a message: without the credential, and not endless.
    pub fn shown(&self) -> String {
        let cut = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(2_000)]).escape_debug().to_string();
        let headers: Vec<_> = self.headers.iter().filter(|(name, _)| *name != "authorization").collect();
        format!("{} {} {headers:?} {}", self.method, cut(&self.target), cut(&self.body))
    }
}

pub struct Generator {
    rng: StdRng,
    /// Of the tenant that is read.
    tokens: Vec<String>,
    /// Of the tenant whose entries may go.
    sweep: String,
    /// Ids and cursors, of this tenant and of another.
    known: std::sync::Arc<[String]>,
}

impl Generator {
    pub fn new(rng: StdRng, tokens: Vec<String>, sweep: String, known: std::sync::Arc<[String]>) -> Self {
        Self { rng, tokens, sweep, known }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn below(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n)
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.rng).expect("not empty")
    }

    /// Mostly one that the path has.
    fn name(&mut self, path: &str) -> &'static str {
        let own: &[&'static str] = match path {
            _ if self.chance(6) => &STRANGE,
            _ if path.contains("export") => &EXPORT,
            _ if path.contains("stats") => &STATS,
            _ if path.contains("stream") => &FEED,
            _ => &PAGING,
        };
        if self.chance(60) { self.one(&FILTERS) } else { self.one(own) }
    }

    fn known(&mut self) -> String {
        let at = self.below(self.known.len());
        self.known[at].clone()
    }

    pub fn request(&mut self) -> Asked {
        let (method, path) = self.one(&PATHS);
        let mut asked = Asked {
            method,
            target: format!("/api/v1{path}").into_bytes(),
            headers: Vec::new(),
            body: Vec::new(),
            head: false,
            broken: false,
            cut_short: false,
            unbuilt: false,
            endless: path == "/logs/stream",
        };
        let erases = method == "DELETE";
        if !erases && self.chance(8) {
            self.address(&mut asked);
        } else {
            if method != "POST" || self.chance(10) {
                self.query(&mut asked, path, erases);
            }
            if method == "POST" || self.chance(2) {
                self.body(&mut asked, path);
            }
            if self.chance(10) {
                // With a slash at the end.
                let at = asked.target.iter().position(|b| *b == b'?').unwrap_or(asked.target.len());
                asked.target.insert(at, b'/');
            }
        }
        self.headers(&mut asked, erases);
        asked
    }

    /// Something by its id.
    fn address(&mut self, asked: &mut Asked) {
        let kind = self.one(&["/logs/", "/logs/export/", "/logs/export/", "/deadletters/"]);
        let id = match self.below(6) {
            // The last one of each tenant is an export job.
            0..3 if kind == "/logs/export/" => {
                let tenants = self.one(&[1, 2]);
                self.known[self.known.len() / tenants - 1].clone()
            }
            0..3 => self.known(),
            3 => self.one(&VALUES).replace([' ', '"', '*'], "%20"),
            4 => "a".repeat(self.below(9_000)),
            _ => self.one(&BROKEN).to_owned(),
        };
        let end = if kind == "/logs/export/" {
            self.one(&["", "/download", "/download"])
        } else {
            ""
        };
        asked.method = self.one(&["GET", "GET", "GET", "HEAD"]);
        asked.head = asked.method == "HEAD";
        asked.endless = false;
        let id: String = id.chars().flat_map(char::escape_default).filter(|c| *c != '{' && *c != '}').collect();
        asked.target = format!("/api/v1{kind}{id}{end}").into_bytes();
        if self.chance(60) {
            let range = self.one(&RANGES).to_owned();
            asked.headers.push(("range", range));
        }
    }

    fn value(&mut self, name: &str) -> String {
        if self.chance(55) && !["cursor", "id", "confirm"].contains(&name) {
            return self.fitting(name);
        }
        match (name, self.below(12)) {
            ("search" | "query", 0..9) => self.search(),
            ("cursor", 0..9) | ("id", 0..6) => {
                let known = self.known();
                self.damaged(known)
            }
            ("confirm", 0..6) => "sweep".into(),
            (_, 10) => {
                let length = self.below(3_000);
                self.one(&["9", "a", "é", ",", ".", "\"", "(", "-", "a "]).repeat(length)
            }
            (_, 9) => format!("{NEEDLE}{}", self.one(&VALUES)),
            (_, 8) => self.one(&WORDS).to_owned(),
            _ => self.one(&VALUES).to_owned(),
        }
    }

    /// A value that the name takes.
    fn fitting(&mut self, name: &str) -> String {
        let known: &[&str] = match name {
            "from" | "start_time" | "start_date" => &["2023-11-15", "2023-11-14T22:13:20Z", "1970-01-01T00:00:00Z"],
            "to" | "end_time" | "end_date" | "timestamp" | "before" => &["2023-11-20", "2023-11-20T00:00:00+05:30", "2023-11-16"],
            "user_id" | "actor" => &["u1", "u3", "tester"],
            "action" => &["LOGIN", "login,delete", "über"],
            "resource_type" => &["invoice", "INVOICE,x"],
            "resource_id" => &["r-3"],
            "severity" => &["info", "INFO,error"],
            "ip_address" => &["10.0.1.0/24", "10.0.0.0/8", "::ffff:10.0.0.3"],
            "min_sequence" | "after" => &["0", "7", "390"],
            "max_sequence" => &["50", "18446744073709551615"],
            "metadata.a.b" => &["3", "0"],
            "metadata.a.c\\.d" => &["true", "null", "x"],
            "sort" => &["timestamp:asc", "timestamp:desc", "sequence:asc", "sequence:desc"],
            "page" | "skip" => &["1", "2", "10"],
            "page_size" | "size" | "limit" => &["1", "7", "1000"],
            "total" => &["true", "false", "exact"],
            "format" => &["json", "ndjson", "csv"],
            "csv_safe" | "dry_run" => &["true", "false"],
            "interval" => &["1h", "1d", "5m", "1w", "1M"],
            "group_by" => &["action", "user_id,severity", "metadata.a.b", "ip_address"],
            "on_slow" => &["catch_up", "gap", "close"],
            "days" => &["0", "30", "36500"],
            "search" | "query" => &["alpha", "\"alpha beta\" -12", "gam* OR 7", "message:beta action:LOG*"],
            _ => &["x"],
        };
        self.one(known).to_owned()
    }

    fn search(&mut self) -> String {
        if self.chance(4) {
            let n = self.below(2_000);
            return format!("{}alpha{}", self.one(&["(", "-", "NOT ", "-(", "\"a\" OR "]).repeat(n), ")".repeat(n));
        }
        let n = self.below(6);
        let mut text = if self.chance(50) { "alpha ".to_owned() } else { String::new() };
        for _ in 0..n {
            text += self.one(&WORDS);
            text += self.one(&[" ", " ", " ", "", " OR ", ":"]);
        }
        if self.chance(8) {
            text += NEEDLE;
            text += self.one(&[":x", "*", "\"", " )", ""]);
        }
        text
    }

    /// A bit flipped, a part cut, or as it is.
    fn damaged(&mut self, text: String) -> String {
        let mut bytes = text.into_bytes();
        match self.below(4) {
            0 if !bytes.is_empty() => {
                let at = self.below(bytes.len());
                bytes[at] ^= 1 << self.below(7);
            }
            1 => bytes.truncate(self.below(120)),
            2 => bytes.extend_from_within(..),
            _ => (),
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn query(&mut self, asked: &mut Asked, path: &str, erases: bool) {
        let n = match self.below(40) {
            0 => 1_100,
            1 => 60,
            _ => self.below(5),
        };
        let mut query = String::new();
        for _ in 0..n {
            let mut name = if erases { self.one(&CLEANUP) } else { self.name(path) }.to_owned();
            match self.below(40) {
                0 => name.push_str(self.one(&["x", "%00", ".a", "é", "[]"])),
                1 if !erases => {
                    name = "log".into();
                    asked.unbuilt = true;
                }
                2 => name = self.one(&BROKEN).into(),
                _ => (),
            }
            let value = if self.chance(4) {
                self.one(&BROKEN).to_owned()
            } else {
                escaped(&self.value(&name))
            };
            let _ = write!(query, "{}{name}={value}", if query.is_empty() { "" } else { "&" });
        }
        asked.target.push(b'?');
        asked.target.extend_from_slice(query.as_bytes());
        if self.chance(3) {
            // Bytes that have no place there.
            for _ in 0..=self.below(4) {
                let at = self.rng.random_range(8..=asked.target.len());
                asked.target.insert(at, self.rng.random());
            }
            asked.broken = true;
        }
    }

    fn body(&mut self, asked: &mut Asked, path: &str) {
        let mut text = String::new();
        match self.below(14) {
            0 => {
                text = self
                    .one(&["", "[]", "1", "null", "\"x\"", "{", "{}x", "{\"a\":1,}", "{'a':1}", "[[[[", "\u{feff}{}", "nul"])
                    .to_owned()
            }
            1 => {
                let (open, shut) = self.one(&[("{\"filters\":", "}"), ("{\"metadata\":", "}"), ("[", "]"), ("{\"metadata\":{\"a\":[", "]}}")]);
                let deep = self.below(4_000);
                text = format!("{}1{}", open.repeat(deep), shut.repeat(deep));
            }
            _ => self.object(&mut text, path, 0),
        }
        asked.body = text.into_bytes();
        match self.below(24) {
            0 if !asked.body.is_empty() => {
                let at = self.below(asked.body.len());
                asked.body[at] = self.one(&[0, 0x80, 0xFF, 0xC3, b'"', b'\\', b'{']);
            }
            1 => {
                let most = self.below(asked.body.len() + 1);
                asked.body.truncate(most);
            }
            2 => {
                let mut noise = vec![0; self.below(5_000)];
                self.rng.fill_bytes(&mut noise);
                asked.body = noise;
            }
            3 => asked.body.extend(std::iter::repeat_n(b' ', 3 << 20)),
            4 => {
                asked.cut_short = true;
                asked.broken = true;
            }
            _ => (),
        }
        // The rest of a body that nobody reads meets a closed connection.
        asked.broken |= asked.body.len() > 256 << 10;
    }

    fn object(&mut self, text: &mut String, path: &str, depth: usize) {
        text.push('{');
        for i in 0..self.below(4) {
            let name = match self.below(50) {
                0..5 => "filters",
                5..9 => "metadata",
                9 => "\\ud800",
                10 => "\\u0000",
                11 => "tags",
                _ => self.name(path),
            };
            let name = name.replace("\\.", "\\\\.");
            let _ = write!(text, "{}\"{name}\":", if i > 0 { "," } else { "" });
            self.json(text, path, &name, depth);
        }
        text.push('}');
    }

    fn json(&mut self, text: &mut String, path: &str, name: &str, depth: usize) {
        let inner = name == "filters" || name == "metadata";
        match self.below(if depth < 4 { 40 } else { 11 }) {
            _ if inner && depth < 3 => self.object(text, path, depth + 1),
            0 => *text += self.one(&["null", "true", "1e999", "-0", "1.5", "123456789012345678901234567890", "1E+2", "-1"]),
            1 => *text += self.one(&["\"\\ud800\"", "\"\\u0000\"", "\"\\x\"", "\"a\nb\"", "\"\\ud83d\\ude00\""]),
            2 => *text += self.one(&["0", "1", "7", "50", "100000", "false"]),
            11..13 => {
                text.push('[');
                for i in 0..self.below(4) {
                    *text += if i > 0 { "," } else { "" };
                    self.json(text, path, name, depth + 1);
                }
                text.push(']');
            }
            13 => self.object(text, path, depth + 1),
            _ => {
                let value = self.value(name);
                *text += &serde_json::to_string(&value).expect("a text");
            }
        }
    }

    fn headers(&mut self, asked: &mut Asked, erases: bool) {
        let mut token = if erases { self.sweep.clone() } else { self.one_token() };
        match self.below(60) {
            0 => token = self.damaged(token),
            1 => token.clear(),
            _ => (),
        }
        asked
            .headers
            .push(("authorization", format!("Bearer {}", token.replace(|c: char| !c.is_ascii_graphic(), "x"))));
        if asked.endless {
            asked
                .headers
                .push(("accept", self.one(&["text/event-stream", "text/event-stream", "*/*"]).into()));
            if self.chance(20) {
                let id = self.one(&["0", "3", "99999999", "x", "-1", ""]).to_owned();
                asked.headers.push(("last-event-id", id));
            }
        }
        if self.chance(10) {
            // Nothing that would compress its answer, which is looked into.
            asked.headers.push(("accept-encoding", self.one(&["br;q=1", ";;", "gzip;q=0", ""]).into()));
        }
        if self.chance(10) {
            asked.headers.push(("te", self.one(&["trailers", "trailers, deflate;q=0.5", ","]).into()));
        }
        if !asked.body.is_empty() {
            let kind = self.one(&[
                "application/json",
                "application/json",
                "application/json",
                "application/x-www-form-urlencoded",
                "text/plain",
                "x",
                "application/json; charset=latin1",
            ]);
            asked.headers.push(("content-type", kind.into()));
            if self.chance(6) {
                asked
                    .headers
                    .push(("content-encoding", self.one(&["gzip", "zstd", "br", "identity", "gzip, gzip"]).into()));
            }
        }
    }

    fn one_token(&mut self) -> String {
        let at = self.below(self.tokens.len());
        self.tokens[at].clone()
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' | b',' | b'*' | b'/' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}
