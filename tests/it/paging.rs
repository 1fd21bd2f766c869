//! Cursors and exports while others write, the store flushes, entries are erased and the server starts again.

use crate::harness::{
    Server,
    stage::{Stage, told_to_both},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

const ENTRIES: usize = 20_000;
/// What must be paged over in any case (the acceptance of the statistics and cursors).
const MANY: usize = 100_000;
const BATCH: usize = 5_000;

/// Times go back and forth over a year, with many equal ones.
fn made(i: usize) -> Value {
    let day = i * 7919 % 360;
    let action = ["CREATE", "delete"][i % 2];
    json!({
        "timestamp": format!("2024-{:02}-{:02}T00:00:0{}Z", day / 30 + 1, day % 28 + 1, i % 3),
        "action": action, "resource_type": "t", "resource_id": format!("r-{i}"), "message": format!("message {i}"),
    })
}

async fn write(server: &Server, token: &str, from: usize, n: usize) {
    let body = Value::from((from..from + n).map(made).collect::<Vec<_>>()).to_string();
    let (status, answer) = server.post(token, "/logs/bulk?wait=stored", body).await;
    assert_eq!(status, 201, "{answer}");
}

fn sequence(entry: &Value) -> u64 {
    entry["sequence"].as_u64().expect("numbered")
}

/// The next page by its cursor.
async fn turn(server: &Server, token: &str, query: &str, page: &Value) -> Option<Value> {
    let cursor = page["meta"]["next_cursor"].as_str()?;
    let (status, next) = server.get(token, &format!("/logs?{query}&total=false&page_size=1000&cursor={cursor}")).await;
    assert_eq!(status, 200, "{next}");
    assert_eq!(next["meta"]["as_of"], page["meta"]["as_of"]);
    Some(next)
}

fn assert_ordered(all: &[Value], sort: &str) {
    let key = |e: &Value| match sort.starts_with("timestamp") {
        true => (e["timestamp"].as_str().expect("a time").to_owned(), sequence(e)),
        false => (String::new(), sequence(e)),
    };
    let ordered = all.windows(2).all(|pair| match sort.ends_with("asc") {
        true => key(&pair[0]) < key(&pair[1]),
        false => key(&pair[0]) > key(&pair[1]),
    });
    assert!(ordered, "{sort}: in order and without a repeat");
}

/// Which of [`made`] it is, and what orders it. All that is kept of 100,000 entries.
fn place(entry: &Value) -> (usize, String, u64) {
    let message = entry["message"].as_str().expect("a message");
    let i = message.strip_prefix("message ").and_then(|i| i.parse().ok()).expect("a number");
    (i, entry["timestamp"].as_str().expect("a time").to_owned(), sequence(entry))
}

async fn cursors_show_all_of_it_once_while_others_write(stage: Stage) {
    let (server, many) = (stage.start().await, stage.sized(MANY, 3_000));
    let token = server.tenant("acme").await;
    for from in (0..many).step_by(BATCH.min(many)) {
        write(&server, &token, from, BATCH.min(many)).await;
    }
    let mut written = many;
    for (sort, filter) in [
        ("timestamp:desc", ""),
        ("timestamp:asc", "action=Create"),
        ("sequence:desc", "from=2024-02-01&to=2024-05-01"),
        ("sequence:asc", ""),
    ] {
        let query = format!("sort={sort}&{filter}");
        let (status, first) = server.get(&token, &format!("/logs?{query}&page_size=1000")).await;
        assert_eq!(status, 200, "{first}");
        let meta = &first["meta"];
        let (as_of, total) = (meta["as_of"].as_u64().expect("a number"), meta["total"].as_u64().expect("exact"));
        assert_eq!(as_of, written as u64, "all that was acknowledged, and nothing else yet");
        let (mut all, mut page) = (Vec::new(), Some(first));
        while let Some(this) = page {
            all.extend(this["data"].as_array().expect("data").iter().map(place));
            // Somebody writes while the next page is read, with times all over the year.
            (page, _) = tokio::join!(turn(&server, &token, &query, &this), write(&server, &token, written, 10));
            written += 10;
        }
        assert_eq!(all.len() as u64, total, "{query}");
        let key = |(_, time, n): &(usize, String, u64)| (sort.starts_with("timestamp").then(|| time.clone()), *n);
        let ordered = all.windows(2).all(|pair| match sort.ends_with("asc") {
            true => key(&pair[0]) < key(&pair[1]),
            false => key(&pair[0]) > key(&pair[1]),
        });
        assert!(ordered, "{sort}: in order and without a repeat");
        let seen: BTreeSet<usize> = all.iter().map(|(i, ..)| *i).collect();
        let matches = |i: &usize| match filter {
            "" => true,
            "action=Create" => i.is_multiple_of(2),
            _ => ("2024-02".."2024-05").contains(&&made(*i)["timestamp"].as_str().expect("a time")[..7]),
        };
        assert!(
            seen.into_iter().eq((0..as_of as usize).filter(matches)),
            "{query}: other entries than those that match"
        );
    }
}

async fn a_cursor_outlives_a_restart_and_shows_nothing_that_was_erased(stage: Stage) {
    let (server, many) = (stage.start().await, stage.sized(MANY, 3_000));
    let token = server.tenant("acme").await;
    for from in (0..many).step_by(BATCH.min(many)) {
        write(&server, &token, from, BATCH.min(many)).await;
    }
    let query = "sort=timestamp:desc";
    let (_, first) = server.get(&token, &format!("/logs?{query}&page_size=1000")).await;
    let everything = server.everything(&token).await;
    let second = turn(&server, &token, query, &first).await.expect("more");
    assert_eq!(server.stop(), Some(0));
    let server = stage.start().await;
    server.ready().await;
    let third = turn(&server, &token, query, &second).await.expect("the cursor is good after a restart");
    let erased = server
        .client
        .delete(server.url("/logs/cleanup?before=2024-06-01T00:00:00Z"))
        .bearer_auth(&token)
        .send()
        .await
        .expect("it answers");
    assert_eq!(erased.status(), 200);
    let mut all: Vec<Value> = [&first, &second, &third]
        .iter()
        .flat_map(|p| p["data"].as_array().expect("data").clone())
        .collect();
    let (before, mut page) = (all.len(), Some(third));
    while let Some(this) = page {
        page = turn(&server, &token, query, &this).await;
        all.extend(page.iter().flat_map(|p| p["data"].as_array().expect("data").clone()));
    }
    let is_left = |e: &Value| e["timestamp"].as_str().expect("a time") >= "2024-06-01";
    assert!(all[before..].iter().all(is_left), "what was erased is not shown");
    assert_ordered(&all, "timestamp:desc");
    let seen: BTreeSet<u64> = all.iter().map(sequence).collect();
    assert!(everything.iter().filter(|e| is_left(e)).all(|e| seen.contains(&sequence(e))), "what is left is");
}

async fn every_export_holds_what_the_list_holds_while_others_write(stage: Stage) {
    let (server, entries) = (stage.start().await, stage.sized(ENTRIES, 2_000));
    let token = server.tenant("acme").await;
    for from in (0..entries).step_by(BATCH.min(entries)) {
        write(&server, &token, from, BATCH.min(entries)).await;
    }
    let done = AtomicBool::new(false);
    let writer = async {
        let mut at = entries;
        while !done.load(Ordering::Relaxed) {
            write(&server, &token, at, 100).await;
            at += 100;
        }
    };
    let reader = async {
        let text = async |path: &str| {
            let answer = server.client.get(server.url(path)).bearer_auth(&token).send().await.expect("it answers");
            assert_eq!(answer.status(), 200, "{path}");
            answer.text().await.expect("whole")
        };
        for sort in ["timestamp:desc", "sequence:asc"] {
            let all: Vec<Value> = text(&format!("/logs/export?format=ndjson&sort={sort}"))
                .await
                .lines()
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect();
            assert_ordered(&all, sort);
            let numbers: BTreeSet<u64> = all.iter().map(sequence).collect();
            assert_eq!(numbers.last().map(|last| *last as usize), Some(numbers.len()), "every number up to one");
            assert!(numbers.len() >= entries);
            let filter = format!("sort={sort}&max_sequence={}&action=CREATE", entries);
            let wanted: Vec<&Value> = all.iter().filter(|e| sequence(e) <= entries as u64 && e["action"] == "CREATE").collect();
            let json: Vec<Value> = serde_json::from_str(&text(&format!("/logs/export/json?{filter}")).await).expect("JSON");
            assert!(json.iter().eq(wanted.iter().copied()), "{sort}");
            let csv = text(&format!("/logs/export/csv?{filter}")).await;
            let mut reader = csv::Reader::from_reader(csv.as_bytes());
            let at = reader
                .headers()
                .expect("a header")
                .iter()
                .position(|name| name == "sequence")
                .expect("a column");
            let numbers: Vec<u64> = reader.records().map(|row| row.expect("whole")[at].parse().expect("a number")).collect();
            assert!(numbers.into_iter().eq(wanted.iter().map(|e| sequence(e))), "{sort}");
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(writer, reader);
}

told_to_both!(
    cursors_show_all_of_it_once_while_others_write,
    a_cursor_outlives_a_restart_and_shows_nothing_that_was_erased,
    every_export_holds_what_the_list_holds_while_others_write
);
