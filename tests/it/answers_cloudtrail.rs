//! Questions about the real CloudTrail file, against counts made here from the file itself, in plain words of API.md and with
//! nothing of `src/`; and its exports, read by other people's programs.

use crate::harness::{Server, Site, data};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
};

/// The records of the file.
fn records(path: &Path) -> Vec<Value> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).expect("it exists"))
        .read_to_string(&mut text)
        .expect("gzip");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Every scalar of a record, as text.
fn leaves(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.values().for_each(|v| leaves(v, found)),
        Value::Array(items) => items.iter().for_each(|v| leaves(v, found)),
        Value::String(text) => found.push(text.clone()),
        other => found.push(other.to_string()),
    }
}

/// Runs of letters and digits, in lower case.
fn words(text: &str) -> Vec<String> {
    let runs = text.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty());
    runs.map(str::to_lowercase).collect()
}

/// The words of each text of a record.
struct Texts(Vec<Vec<String>>);

impl Texts {
    fn of(record: &Value) -> Self {
        let mut found = Vec::new();
        leaves(record, &mut found);
        Self(found.iter().map(|text| words(text)).collect())
    }

    fn any(&self, like: impl Fn(&str) -> bool) -> bool {
        self.0.iter().flatten().any(|word| like(word))
    }

    fn has(&self, word: &str) -> bool {
        self.any(|w| w == word)
    }

    fn has_phrase(&self, phrase: &[&str]) -> bool {
        self.0.iter().any(|text| text.windows(phrase.len()).any(|run| run == phrase))
    }
}

/// A server with the file in it, and the token of an auditor.
async fn loaded(site: &Site, path: &Path) -> (Server, String) {
    let server = site.start();
    let url = format!("http://{}", server.http);
    let path = path.to_str().expect("text");
    let args = ["ingest", "--url", &url, "--create-tenant", "--format", "cloudtrail", "--tenant", "acme", path];
    let output = site.command(&args).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let token = server.token(Some("acme"), &["auditor"]);
    (server, token)
}

async fn total(server: &Server, token: &str, query: &str) -> u64 {
    let (status, page) = server.get(token, &format!("/logs?page_size=1&total=exact&{query}")).await;
    assert_eq!(status, 200, "{query}: {page}");
    page["meta"]["total"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_over_the_real_file_find_what_a_plain_count_finds() {
    let Some(path) = data::cloudtrail() else { return };
    let (server, token) = loaded(&Site::small(), &path).await;
    let texts: Vec<Texts> = records(&path).iter().map(Texts::of).collect();
    let count = |matches: &dyn Fn(&Texts) -> bool| texts.iter().filter(|t| matches(t)).count() as u64;
    // What the mapping says in words of its own ("… called … on … in …") is in none of these.
    type Question<'a> = (&'a str, &'a dyn Fn(&Texts) -> bool);
    let questions: [Question<'_>; 9] = [
        ("AssumeRole", &|t| t.has("assumerole")),
        ("%22AWS%20Internal%22", &|t| t.has_phrase(&["aws", "internal"])),
        ("benjamin%20-s3", &|t| t.has("benjamin") && !t.has("s3")),
        ("benjamin%20NOT%20s3", &|t| t.has("benjamin") && !t.has("s3")),
        ("assumer*", &|t| t.any(|w| w.starts_with("assumer"))),
        ("AccessDenied%20OR%20decrypt", &|t| t.has("accessdenied") || t.has("decrypt")),
        ("kms%20(Decrypt%20OR%20GenerateDataKey)", &|t| {
            t.has("kms") && (t.has("decrypt") || t.has("generatedatakey"))
        }),
        ("nobodyhasthisword", &|t| t.has("nobodyhasthisword")),
        ("sts.amazonaws.com", &|t| t.has("sts") && t.has("amazonaws") && t.has("com")),
    ];
    for (query, matches) in questions {
        let want = count(matches);
        assert!(want > 0 || query.starts_with("nobody"), "`{query}` asks nothing");
        assert!(want < texts.len() as u64, "`{query}` asks nothing");
        assert_eq!(total(&server, &token, &format!("search={query}")).await, want, "{query}");
    }
}

/// The UTC time of a record in whole seconds, as text: `2023-07-10T11:42:36`.
fn time(record: &Value) -> &str {
    let text = record["eventTime"].as_str().or(record["@timestamp"].as_str()).expect("a time");
    assert!(text.ends_with('Z'), "{text}");
    &text[..19]
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_series_over_the_real_file_are_those_of_a_plain_count() {
    let Some(path) = data::cloudtrail() else { return };
    let (server, token) = loaded(&Site::small(), &path).await;
    let records = records(&path);

    let mut by_action = BTreeMap::<&str, u64>::new();
    records
        .iter()
        .for_each(|r| *by_action.entry(r["eventName"].as_str().expect("a name")).or_default() += 1);
    let (status, stats) = server.get(&token, "/logs/stats?group_by=action&limit=10000").await;
    assert_eq!(status, 200, "{stats}");
    let groups = stats["groups"].as_array().expect("groups");
    let got: BTreeMap<&str, u64> = groups
        .iter()
        .map(|g| (g["key"]["action"].as_str().expect("an action"), g["count"].as_u64().expect("a count")))
        .collect();
    assert_eq!((groups.len(), &got), (by_action.len(), &by_action));
    assert!(
        groups.windows(2).all(|pair| pair[0]["count"].as_u64() >= pair[1]["count"].as_u64()),
        "largest first"
    );

    // The busiest day, hour by hour.
    let mut days = BTreeMap::<&str, u64>::new();
    records.iter().for_each(|r| *days.entry(&time(r)[..10]).or_default() += 1);
    let (day, of_day) = days.into_iter().max_by_key(|(_, n)| *n).expect("records");
    let path = format!("/logs/stats?timestamp={day}&interval=1h&from={day}T00:00:00Z&to={day}T23:59:59.999Z");
    let (status, stats) = server.get(&token, &path).await;
    assert_eq!((status, &stats["total"]), (200, &of_day.into()), "{stats}");
    let series = stats["series"].as_array().expect("a series");
    assert_eq!(series.len(), 24, "{series:?}");
    for (hour, bucket) in series.iter().enumerate() {
        let start = format!("{day}T{hour:02}:00:00");
        assert!(bucket["start"].as_str().is_some_and(|s| s.starts_with(&start)), "{bucket}");
        let want = records.iter().filter(|r| time(r)[..13] == start[..13]).count();
        assert_eq!(bucket["count"], want, "{start}");
    }
}

/// Whether a program can be run; an error where `CI` is set, else a loud word.
fn have(program: &str, args: &[&str]) -> bool {
    let there = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = there.is_ok_and(|status| status.success());
    assert!(there || std::env::var_os("CI").is_none(), "`{program}` is missing");
    if !there {
        eprintln!("LEFT OUT: `{program}` is missing");
    }
    there
}

/// What a program makes of some bytes.
fn through(program: &str, args: &[&str], input: Vec<u8>) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it ends");
    feeding.join().expect("no panic").expect("it reads all");
    assert!(output.status.success(), "{program} failed");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// Rows, rows whose columns are as many as the names, distinct ids, and the sum of the lengths of `metadata` that parse.
const PYTHON_CSV: &str = "
import csv, io, json, sys
text = io.TextIOWrapper(sys.stdin.buffer, encoding='utf-8', newline='')
csv.field_size_limit(1 << 30)
rows = list(csv.DictReader(text, strict=True))
assert all(None not in r and None not in r.values() for r in rows)
ids = {json.loads(r['metadata'])['eventID'] for r in rows if 'eventID' in json.loads(r['metadata'])}
print(len(rows), len({r['id'] for r in rows}), len(ids))
";
const PYTHON_JSON: &str = "
import json, sys
rows = json.load(sys.stdin.buffer)
print(len(rows), len({r['id'] for r in rows}), len({r['metadata']['eventID'] for r in rows if 'eventID' in r['metadata']}))
";
const PYTHON_NDJSON: &str = "
import json, sys
rows = [json.loads(line) for line in sys.stdin.buffer]
print(len(rows), len({r['id'] for r in rows}), len({r['metadata']['eventID'] for r in rows if 'eventID' in r['metadata']}))
";

#[tokio::test(flavor = "multi_thread")]
async fn all_three_exports_have_every_record_and_other_programs_read_them() {
    let Some(path) = data::cloudtrail() else { return };
    let (server, token) = loaded(&Site::small(), &path).await;
    let records = records(&path);
    let mut ids: Vec<&str> = records.iter().filter_map(|r| r["eventID"].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    let want = format!("{} {} {}", records.len(), records.len(), ids.len());
    assert_eq!(records.len(), 3003);
    let (python, jq) = (have("python3", &["--version"]), have("jq", &["--version"]));
    for (format, script, filter) in [
        ("csv", PYTHON_CSV, None),
        ("json", PYTHON_JSON, Some("length")),
        ("ndjson", PYTHON_NDJSON, Some("[inputs] | length + 1")),
    ] {
        let answer = server.client.get(server.url(&format!("/logs/export?format={format}"))).bearer_auth(&token);
        let answer = answer.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let bytes = answer.bytes().await.expect("whole").to_vec();
        if python {
            assert_eq!(through("python3", &["-c", script], bytes.clone()), want, "{format} by Python");
        }
        if let Some(filter) = filter.filter(|_| jq) {
            assert_eq!(through("jq", &[filter], bytes), "3003", "{format} by jq");
        }
    }
}
