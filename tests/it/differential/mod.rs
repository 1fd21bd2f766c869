//! Tens of thousands of random requests against the real binary and a plain model of the contract ([`model`]) give the same
//! answers: in memory, after flush, compaction, erasure, restart and `kill -9`.
//!
//! `SLUICE_SEED` repeats a run, `SLUICE_REQUESTS` sets the number of requests.

mod generator;
mod model;

use crate::harness::{Server, Site, stage::Stage};
use generator::{DAY, DAYS, EPOCH, Generator, fresh_seed, query_string, seeded};
use model::{Condition, Entry, SEVERITIES};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

const TENANTS: [&str; 2] = ["acme", "globex"];
const SORTS: [&str; 4] = ["timestamp:desc", "timestamp:asc", "sequence:desc", "sequence:asc"];
/// Requests at once.
const TASKS: u64 = 8;

/// One tenant: what the server should have, and its token.
struct Side {
    tenant: &'static str,
    token: String,
    entries: Arc<Vec<Entry>>,
    /// Numbers given out, those of erased entries too.
    head: u64,
    is_embedded: bool,
}

struct Story {
    seed: u64,
    requests: u64,
    phase: u64,
    is_embedded: bool,
    sides: Vec<Side>,
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("`{name}` is a whole number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_equal_those_of_a_plain_model() {
    let (seed, requests) = (setting("SLUICE_SEED").unwrap_or_else(fresh_seed), setting("SLUICE_REQUESTS").unwrap_or(21_000));
    println!("SLUICE_SEED={seed} SLUICE_REQUESTS={requests}");
    let mut site = Site::small();
    site.set("STORE__MEMTABLE_BYTES", "1MiB");
    let mut server = site.start();
    let mut story = Story::begin(&server, seed, requests / 7, true).await;
    story.send(&server, 150).await;
    story.check(&server, "in memory").await;
    story.send(&server, 1_000).await;
    story.check(&server, "in memory and parts").await;
    assert_eq!(server.stop(), Some(0));
    site.set("STORE__FLUSH_AFTER", "1s"); // from here on parts come quickly
    server = story.reopened(&site).await;
    story.check(&server, "in parts").await;
    assert!(metric(&server, "sluice_parts").await >= 2);
    let compacted = || async { metric(&server, "sluice_store_compactions_total").await > 0 };
    while !compacted().await {
        let parts = metric(&server, "sluice_parts").await;
        story.send(&server, 20).await;
        let flushed = || async { metric(&server, "sluice_parts").await != parts || compacted().await };
        server.until(flushed, "one more part").await;
    }
    story.check(&server, "compacted").await;
    story.erase(&server).await;
    story.check(&server, "erased").await;
    server.kill();
    server = story.reopened(&site).await;
    story.check(&server, "erased, killed and reopened").await;
    story.send(&server, 400).await;
    server.kill();
    server = story.reopened(&site).await;
    story.check(&server, "more, killed and reopened").await;
}

/// The same of several processes on the real engines: smaller, because these are.
#[tokio::test(flavor = "multi_thread")]
async fn distributed_answers_equal_those_of_a_plain_model() {
    let (seed, requests) = (setting("SLUICE_SEED").unwrap_or_else(fresh_seed), setting("SLUICE_REQUESTS").unwrap_or(1_200));
    println!("SLUICE_SEED={seed} SLUICE_REQUESTS={requests}");
    let Some(stage) = Stage::distributed().await else { return };
    let mut server = stage.start().await;
    let mut story = Story::begin(&server, seed, requests / 4, false).await;
    story.send(&server, 500).await;
    story.check(&server, "stored").await;
    story.erase(&server).await;
    story.check(&server, "erased").await;
    server.kill();
    server = stage.start().await;
    story.sign_in(&server);
    story.check(&server, "erased, killed and started again").await;
    story.send(&server, 250).await;
    story.check(&server, "more").await;
}

async fn metric(server: &Server, name: &str) -> u64 {
    let answer = server.client.get(format!("http://{}/metrics", server.admin)).send().await.expect("it answers");
    let text = answer.text().await.expect("text");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|v| v.parse::<f64>().ok()).unwrap_or_else(|| panic!("`{name}` is missing")) as u64
}

impl Story {
    async fn begin(server: &Server, seed: u64, requests: u64, is_embedded: bool) -> Self {
        let mut sides = Vec::new();
        for tenant in TENANTS {
            sides.push(Side {
                tenant,
                token: server.tenant(tenant).await,
                entries: Arc::default(),
                head: 0,
                is_embedded,
            });
        }
        Self {
            seed,
            requests,
            phase: 0,
            is_embedded,
            sides,
        }
    }

    async fn reopened(&mut self, site: &Site) -> Server {
        let server = site.start();
        server.ready().await;
        self.sign_in(&server);
        server
    }

    fn sign_in(&mut self, server: &Server) {
        for side in &mut self.sides {
            side.token = server.token(Some(side.tenant), &["admin"]);
        }
    }

    /// New entries of both tenants, in turns, and the same into the model.
    async fn send(&mut self, server: &Server, each: usize) {
        let mut random = seeded(self.seed ^ self.sides[0].head << 20);
        for side in &mut self.sides {
            let entries = Arc::make_mut(&mut side.entries);
            for _ in 0..each.div_ceil(250) {
                let made: Vec<(Value, i64)> = (0..each.min(250)).map(|_| random.entry(side.tenant)).collect();
                let mut sent: Vec<Value> = made.iter().map(|(json, _)| json.clone()).collect();
                sent.iter_mut()
                    .for_each(|entry| drop(entry.as_object_mut().expect("an object").remove("actor")));
                let (status, answer) = server.post(&side.token, "/logs/bulk?wait=stored", Value::from(sent).to_string()).await;
                assert_eq!((status, &answer["decided"]["stored"]), (201, &json!(made.len())), "{answer}");
                for (mut json, timestamp) in made {
                    side.head += 1;
                    json["sequence"] = side.head.into();
                    entries.push(Entry::new(json, timestamp, side.head));
                }
            }
        }
    }

    /// Erases the older half of the first tenant, and checks what the server says about it.
    async fn erase(&mut self, server: &Server) {
        let side = &mut self.sides[0];
        let cutoff = EPOCH + DAYS / 2 * DAY + 1;
        let time = chrono::DateTime::from_timestamp_millis(cutoff)
            .expect("in range")
            .to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let entries = Arc::make_mut(&mut side.entries);
        let before = entries.len();
        entries.retain(|e| e.timestamp >= cutoff);
        for dry_run in [true, false] {
            let url = server.url(&format!("/logs/cleanup?before={}&dry_run={dry_run}", time.replace(':', "%3A")));
            let (status, answer) = crate::harness::answer(server.client.delete(url).bearer_auth(&side.token)).await;
            assert_eq!(
                (status, &answer["deleted_count"], &answer["dry_run"]),
                (200, &json!(before - entries.len()), &json!(dry_run)),
                "{answer}"
            );
        }
        let usage = server.settled_usage(&side.token, side.tenant).await;
        assert_eq!(
            (&usage["stored"], &usage["erased"]),
            (&json!(side.head), &json!(side.head as usize - entries.len())),
            "{usage}"
        );
    }

    /// Random requests of both tenants; panics with what differs and with the seed.
    async fn check(&mut self, server: &Server, phase: &str) {
        self.phase += 1;
        let (began, story) = (std::time::Instant::now(), &*self);
        let tasks = (0..TASKS).map(|task| async move {
            let mut random = seeded(story.seed.wrapping_add(story.phase << 32 | task));
            for _ in 0..story.requests.div_ceil(TASKS) {
                let side = &story.sides[random.below(story.sides.len())];
                ask(server, side, &mut random).await;
            }
        });
        futures_util::future::join_all(tasks).await;
        let parts = if self.is_embedded { metric(server, "sluice_parts").await } else { 0 };
        println!("{phase}: {} requests agree, {} parts, {:?}", self.requests, parts, began.elapsed());
    }
}

async fn ask(server: &Server, side: &Side, random: &mut Generator) {
    let (conditions, params) = random.filter(&side.entries);
    let query = query_string(&params);
    match random.below(12) {
        0..4 => page(server, side, random, &conditions, &query).await,
        4..6 => walk(server, side, random, &conditions, &query).await,
        6..8 => statistics(server, side, &conditions, &query).await,
        8 => series(server, side, random, &conditions, &query).await,
        9 | 10 => groups(server, side, random, &conditions, &query).await,
        _ => export(server, side, &conditions, &query).await,
    }
}

/// Everything of the answer but what the server alone knows.
fn known(entry: &Value) -> Value {
    let mut entry = entry.clone();
    let object = entry.as_object_mut().expect("an object");
    assert!(object.remove("received_at").is_some_and(|t| t.is_string()), "`received_at` is missing");
    entry
}

fn assert_entries(got: &Value, expected: &[&Entry], what: &str) {
    let got: Vec<Value> = got.as_array().unwrap_or_else(|| panic!("{what}: no list: {got}")).iter().map(known).collect();
    let numbers = |list: &[Value]| list.iter().map(|e| e["sequence"].as_u64().unwrap_or(0)).collect::<Vec<_>>();
    let wanted: Vec<Value> = expected.iter().map(|e| e.json.clone()).collect();
    assert_eq!(numbers(&got), numbers(&wanted), "{what}");
    assert_eq!(got, wanted, "{what}");
}

async fn page(server: &Server, side: &Side, random: &mut Generator, conditions: &[Condition], query: &str) {
    let sort = SORTS[random.below(4)];
    let expected = model::list(&side.entries, conditions, sort);
    let size = [1, 7, 50, 200, 1000][random.below(5)];
    let page = 1 + random.below(expected.len().div_ceil(size).clamp(1, 10_000 / size) + 1).min(10_000 / size - 1);
    let total = ["", "&total=false", "&total=exact"][random.below(3)];
    let path = format!("/logs?sort={sort}&page={page}&page_size={size}{total}{query}");
    let (status, answer) = server.get(&side.token, &path).await;
    assert_eq!(status, 200, "{path}: {answer}");
    let shown: Vec<&Entry> = expected.iter().skip((page - 1) * size).take(size).copied().collect();
    assert_entries(&answer["data"], &shown, &path);
    let meta = &answer["meta"];
    assert_eq!(
        (&meta["page"], &meta["page_size"], &meta["as_of"]),
        (&json!(page), &json!(size), &json!(side.head)),
        "{path}"
    );
    // A store on its own may be late for other logs than this one; this one's head is told by `as_of`.
    assert!(!side.is_embedded || meta.get("degraded").is_none(), "{path}: {meta}");
    match total {
        "&total=false" => assert_eq!((&meta["total"], &meta["pages"]), (&Value::Null, &Value::Null), "{path}"),
        // The bound of counting is time or 10,000 matches, of which there are fewer.
        "" if meta["total_is_exact"] == false => assert!(
            meta["total"].as_u64() <= Some(expected.len() as u64) && meta["pages"].is_null(),
            "{path}: {meta}"
        ),
        _ => {
            assert_eq!((&meta["total"], &meta["total_is_exact"]), (&json!(expected.len()), &json!(true)), "{path}");
            assert_eq!(meta["pages"], json!(expected.len().div_ceil(size)), "{path}");
        }
    }
    assert_eq!(meta["next_cursor"].is_string(), expected.len() > page * size, "{path}: {meta}");
}

async fn walk(server: &Server, side: &Side, random: &mut Generator, conditions: &[Condition], query: &str) {
    let sort = SORTS[random.below(4)];
    let expected = model::list(&side.entries, conditions, sort);
    let least = expected.len() / 6 + 1; // at most some seven pages
    let (mut seen, mut cursor) = (0, String::new());
    loop {
        let size = (least + random.below(least)).min(1000);
        let path = format!("/logs?sort={sort}&page_size={size}{cursor}{query}");
        let (status, answer) = server.get(&side.token, &path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        let shown = &expected[seen..(seen + size).min(expected.len())];
        assert_entries(&answer["data"], shown, &path);
        seen += shown.len();
        match answer["meta"]["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, expected.len(), "{query}");
}

/// The counts of a map of the answer; `other` is allowed only beyond a hundred keys, which there are not.
fn counts(map: &Value) -> BTreeMap<String, u64> {
    map.as_object()
        .expect("a map")
        .iter()
        .map(|(k, v)| (k.clone(), v.as_u64().expect("a count")))
        .collect()
}

async fn statistics(server: &Server, side: &Side, conditions: &[Condition], query: &str) {
    let found = model::list(&side.entries, conditions, "timestamp:asc");
    let path = format!("/logs/stats?{}", query.trim_start_matches('&'));
    let (status, answer) = server.get(&side.token, &path).await;
    assert_eq!(status, 200, "{path}: {answer}");
    let users = model::count_by(&found, "user_id");
    let mut by_severity = model::count_by(&found, "severity");
    for severity in SEVERITIES {
        by_severity.entry(severity.to_owned()).or_default();
    }
    assert_eq!(
        (&answer["total"], &answer["unique_users"]),
        (&json!(found.len()), &json!(users.len())),
        "{path}"
    );
    assert_eq!(counts(&answer["by_severity"]), by_severity, "{path}");
    assert_eq!(counts(&answer["by_action"]), model::count_by(&found, "action"), "{path}");
    assert_eq!(counts(&answer["by_resource_type"]), model::count_by(&found, "resource_type"), "{path}");
    let mut top: Vec<(String, u64)> = users.into_iter().collect();
    top.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let top: Vec<Value> = top.iter().take(10).map(|(user, count)| json!({"user_id": user, "count": count})).collect();
    assert_eq!(answer["top_users"], Value::from(top), "{path}");
    let edge = |entry: Option<&&Entry>| entry.map_or(Value::Null, |e| e.json["timestamp"].clone());
    assert_eq!((&answer["first"], &answer["last"]), (&edge(found.first()), &edge(found.last())), "{path}");
}

async fn series(server: &Server, side: &Side, random: &mut Generator, conditions: &[Condition], query: &str) {
    let found = model::list(&side.entries, conditions, "timestamp:asc");
    let (interval, width) = [("1h", 3_600_000), ("1d", DAY), ("6h", 6 * 3_600_000), ("15m", 900_000)][random.below(4)];
    let path = format!("/logs/stats?interval={interval}{query}");
    let (status, answer) = server.get(&side.token, &path).await;
    assert_eq!(status, 200, "{path}: {answer}");
    let mut expected: BTreeMap<i64, BTreeMap<&str, u64>> = BTreeMap::new();
    for entry in &found {
        let bucket = expected.entry(entry.timestamp.div_euclid(width) * width).or_default();
        *bucket.entry(entry.text("severity").expect("always")).or_default() += 1;
    }
    let buckets = answer["series"].as_array().unwrap_or_else(|| panic!("{path}: no series"));
    let start = |bucket: &Value| {
        chrono::DateTime::parse_from_rfc3339(bucket["start"].as_str().expect("text"))
            .expect("a time")
            .timestamp_millis()
    };
    for pair in buckets.windows(2) {
        assert_eq!(start(&pair[1]) - start(&pair[0]), width, "{path}: a bucket is missing or double");
    }
    let got: BTreeMap<i64, BTreeMap<&str, u64>> = buckets
        .iter()
        .map(|bucket| {
            let severities: BTreeMap<&str, u64> = SEVERITIES
                .iter()
                .map(|s| (*s, bucket["by_severity"][s].as_u64().expect("a count")))
                .filter(|s| s.1 > 0)
                .collect();
            assert_eq!(bucket["count"].as_u64(), Some(severities.values().sum()), "{path}");
            (start(bucket), severities)
        })
        .filter(|bucket| !bucket.1.is_empty())
        .collect();
    assert_eq!(got, expected, "{path}");
}

async fn groups(server: &Server, side: &Side, random: &mut Generator, conditions: &[Condition], query: &str) {
    const KEYS: [&str; 9] = [
        "action",
        "resource_type",
        "severity",
        "user_id",
        "ip_address",
        "session_id",
        "resource_id",
        "metadata.k",
        "metadata.deep.k",
    ];
    let found = model::list(&side.entries, conditions, "timestamp:asc");
    let mut keys = vec![KEYS[random.below(9)].to_owned()];
    if random.below(2) == 0 {
        keys.push(KEYS[random.below(9)].to_owned());
        keys.dedup();
    }
    let limit = [3, 10_000][random.below(2)];
    let path = format!("/logs/stats?group_by={}&limit={limit}{query}", keys.join(","));
    let (status, answer) = server.get(&side.token, &path).await;
    assert_eq!(status, 200, "{path}: {answer}");
    let mut expected = model::groups(&found, &keys);
    let got = answer["groups"].as_array().unwrap_or_else(|| panic!("{path}: no groups"));
    assert_eq!(got.len(), expected.len().min(limit), "{path}");
    let mut before = u64::MAX;
    for group in got {
        let key: Vec<Option<String>> = keys.iter().map(|k| group["key"][k].as_str().map(str::to_owned)).collect();
        let wanted = expected.remove(&key).unwrap_or_else(|| panic!("{path}: {group} is not there, or twice"));
        let time = |ms| {
            chrono::DateTime::from_timestamp_millis(ms)
                .expect("in range")
                .to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
        };
        let all =
            json!({"key": group["key"], "count": wanted.count, "unique_users": wanted.users.len(), "first": time(wanted.first), "last": time(wanted.last)});
        assert_eq!(group, &all, "{path}");
        assert!(wanted.count <= before, "{path}: not largest first");
        before = wanted.count;
    }
    assert!(expected.values().all(|left| left.count <= before), "{path}: a larger group was left out");
}

async fn export(server: &Server, side: &Side, conditions: &[Condition], query: &str) {
    let mut expected = model::list(&side.entries, conditions, "sequence:asc");
    let path = format!("/logs/export?format=ndjson{query}");
    let answer = server.client.get(server.url(&path)).bearer_auth(&side.token).send().await.expect("it answers");
    let (status, text) = (answer.status(), answer.text().await.expect("the whole body"));
    assert_eq!(status, 200, "{path}: {text} {}", server.stderr());
    let mut got: Vec<Value> = text.lines().map(|line| known(&serde_json::from_str(line).expect("a line is JSON"))).collect();
    got.sort_by_key(|e| e["sequence"].as_u64());
    expected.sort_by_key(|e| e.sequence);
    assert_eq!(got, expected.iter().map(|e| e.json.clone()).collect::<Vec<_>>(), "{path}");
}
