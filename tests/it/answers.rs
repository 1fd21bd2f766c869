//! Lists, gets and statistics agree with a plain count over what was sent, in memory and after flush and restart.

use crate::harness::{
    Server,
    stage::{Stage, told_to_both},
};
use serde_json::{Value, json};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
};
use uuid::Uuid;

const ACTIONS: [&str; 3] = ["CREATE", "delete", "Login"];
const SEVERITIES: [&str; 4] = ["INFO", "WARNING", "ERROR", "CRITICAL"];

fn made(i: usize) -> Value {
    json!({
        "id": Uuid::from_u128(i as u128 + 1).to_string(),
        "timestamp": format!("2024-03-{:02}T{:02}:00:00.{:03}Z", i % 28 + 1, i % 24, i % 1000),
        "action": ACTIONS[i % 3], "resource_type": format!("type-{}", i % 5), "resource_id": format!("r-{}", i % 50), "user_id": format!("u-{}", i % 17),
        "severity": SEVERITIES[i % 4], "ip_address": format!("10.{}.0.{}", i % 3, i % 200 + 1), "user_agent": if i.is_multiple_of(2) { "Mozilla/5.0 Firefox" } else { "curl/8.1" },
        "request_id": format!("req-{i}"), "metadata": {"n": i % 7, "deep": {"a.b": format!("x{}", i % 4)}, "list": ["p", i % 3]}, "message": format!("message {i} {}", "pad ".repeat(60)),
    })
}

/// A series by day, and groups by two fields, of which one is a leaf with two values per entry.
async fn series_and_groups(server: &Server, token: &str, query: &str, sent: &[Value], expected: &[usize]) {
    let asked = format!("/logs/stats?interval=1d&group_by=severity,metadata.list&limit=3&{query}");
    let (status, stats) = server.get(token, &asked).await;
    assert_eq!(status, 200, "{asked}: {stats}");
    let day = |i: &usize| sent[*i]["timestamp"].as_str().expect("text")[..10].to_owned();
    let mut days: BTreeMap<String, u64> = BTreeMap::new();
    expected.iter().for_each(|i| *days.entry(day(i)).or_default() += 1);
    let series = stats["series"].as_array().expect("a list");
    let mut counted = BTreeMap::new();
    for (at, bucket) in series.iter().enumerate() {
        let start = bucket["start"].as_str().expect("text");
        assert_eq!(&start[10..], "T00:00:00.000Z", "{asked}");
        assert!(at == 0 || *start > *series[at - 1]["start"].as_str().expect("text"), "{asked}");
        let severities: u64 = SEVERITIES.iter().map(|s| bucket["by_severity"][s].as_u64().expect("a count")).sum();
        assert_eq!(bucket["count"], severities, "{asked}");
        counted.insert(start[..10].to_owned(), severities);
    }
    counted.retain(|_, n| *n > 0);
    assert_eq!(counted, days, "{asked}");
    let mut groups: BTreeMap<(&str, String), Vec<usize>> = BTreeMap::new();
    for i in expected {
        for value in ["p".to_owned(), (i % 3).to_string()] {
            groups.entry((SEVERITIES[i % 4], value)).or_default().push(*i);
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, entries)| Reverse(entries.len())); // stable: ties by key
    groups.truncate(3);
    let want: Vec<Value> = groups
        .into_iter()
        .map(|((severity, value), entries)| {
            let users: HashSet<usize> = entries.iter().map(|i| i % 17).collect();
            let times = || entries.iter().map(|i| sent[*i]["timestamp"].clone().to_string());
            let time = |text: Option<String>| serde_json::from_str::<Value>(&text.expect("some")).expect("text");
            json!({"key": {"severity": severity, "metadata.list": value}, "count": entries.len(), "unique_users": users.len(),
                "first": time(times().min()), "last": time(times().max())})
        })
        .collect();
    assert_eq!(stats["groups"], Value::from(want), "{asked}");
}

async fn check(server: &Server, token: &str, sent: &[Value]) {
    type Predicate<'a> = &'a dyn Fn(usize) -> bool;
    let cases: [(&str, Predicate<'_>); 20] = [
        ("", &|_| true),
        ("action=create", &|i| i % 3 == 0),
        ("action=CREATE,DELETE", &|i| i % 3 < 2),
        ("severity=error&severity=info", &|i| i % 4 == 2 || i % 4 == 0),
        ("resource_type=TYPE-3", &|i| i % 5 == 3),
        ("resource_id=r-7", &|i| i % 50 == 7),
        ("resource_id=R-7", &|_| false),
        ("user_id=u-1&user_id=u-2", &|i| i % 17 == 1 || i % 17 == 2),
        ("ip_address=10.1.0.0/16", &|i| i % 3 == 1),
        ("ip_address=10.0.0.1", &|i| i % 3 == 0 && i % 200 == 0),
        ("user_agent=firefox", &|i| i % 2 == 0),
        ("request_id=req-77", &|i| i == 77),
        ("metadata.n=3", &|i| i % 7 == 3),
        (r"metadata.deep.a\.b=x2", &|i| i % 4 == 2),
        ("metadata.list=2", &|i| i % 3 == 2),
        ("from=2024-03-10&to=2024-03-12", &|i| (9..11).contains(&(i % 28))),
        ("timestamp=2024-03-05", &|i| i % 28 == 4),
        ("min_sequence=11&max_sequence=20", &|i| (10..20).contains(&i)),
        ("actor=tester&action=login&severity=CRITICAL", &|i| i % 3 == 2 && i % 4 == 3),
        ("actor=nobody", &|_| false),
    ];
    for (query, matches) in cases {
        let expected: Vec<usize> = (0..sent.len()).filter(|i| matches(*i)).collect();
        let (status, page) = server.get(token, &format!("/logs?page_size=20&{query}")).await;
        assert_eq!(status, 200, "{query}: {page}");
        assert_eq!(
            (page["meta"]["total"].as_u64(), &page["meta"]["total_is_exact"]),
            (Some(expected.len() as u64), &json!(true)),
            "{query}"
        );
        let mut newest = expected.clone();
        newest.sort_by_key(|i| std::cmp::Reverse((sent[*i]["timestamp"].as_str().expect("text").to_owned(), *i)));
        let ids = |list: &[usize]| list.iter().map(|i| sent[*i]["id"].clone()).collect::<Vec<_>>();
        let got: Vec<Value> = page["data"].as_array().expect("a list").iter().map(|e| e["id"].clone()).collect();
        assert_eq!(got, ids(&newest[..newest.len().min(20)]), "{query}");
        let (_, second) = server.get(token, &format!("/logs?page=2&page_size=20&sort=timestamp:asc&{query}")).await;
        newest.reverse();
        let got: Vec<Value> = second["data"].as_array().expect("a list").iter().map(|e| e["id"].clone()).collect();
        assert_eq!(got, ids(newest.get(20..).map_or(&[], |rest| &rest[..rest.len().min(20)])), "page 2 of {query}");
        let (status, stats) = server.get(token, &format!("/logs/stats?{query}")).await;
        assert_eq!((status, stats["total"].as_u64()), (200, Some(expected.len() as u64)), "{query}: {stats}");
        for (k, severity) in SEVERITIES.iter().enumerate() {
            assert_eq!(
                stats["by_severity"][severity].as_u64(),
                Some(expected.iter().filter(|i| *i % 4 == k).count() as u64),
                "{query}"
            );
        }
        series_and_groups(server, token, query, sent, &expected).await;
        let users: HashSet<usize> = expected.iter().map(|i| i % 17).collect();
        assert_eq!(stats["unique_users"].as_u64(), Some(users.len() as u64), "{query}");
    }
    for i in [0, 5, sent.len() - 1] {
        let (status, entry) = server.get(token, &format!("/logs/{}", sent[i]["id"].as_str().expect("text"))).await;
        assert_eq!(
            (status, &entry["metadata"], &entry["timestamp"], &entry["sequence"]),
            (200, &sent[i]["metadata"], &sent[i]["timestamp"], &json!(i + 1))
        );
    }
    assert_eq!(server.get(token, &format!("/logs/{}", Uuid::new_v4())).await.0, 404);
    assert_eq!(server.get(token, "/logs/not-an-id").await.0, 404);
}

async fn lists_and_statistics_agree_with_a_plain_count(stage: Stage) {
    let server = stage.start().await;
    let token = server.tenant("acme").await;
    let sent: Vec<Value> = (0..stage.sized(3_000, 1_000)).map(made).collect();
    for chunk in sent.chunks(500) {
        assert_eq!(
            server.post(&token, "/logs/bulk?wait=stored", Value::from(chunk.to_vec()).to_string()).await.0,
            201
        );
    }
    check(&server, &token, &sent).await;
    assert_eq!(server.stop(), Some(0));
    let server = stage.start().await;
    server.ready().await;
    check(&server, &token, &sent).await;
}

async fn what_is_not_understood_is_named_and_never_ignored(stage: Stage) {
    let server = stage.start().await;
    let token = server.tenant("acme").await;
    server.ready().await;
    for (query, status, word) in [
        ("severty=INFO", 422, "severity"),
        ("severity=LOUD", 422, "severity"),
        ("from=yesterday", 422, "from"),
        ("ip_address=300.1.1.1", 422, "ip_address"),
        ("page=0", 422, "page"),
        ("page_size=1001", 422, "page_size"),
        ("page=11&page_size=1000", 422, "cursor"),
        ("sort=colour", 422, "sort"),
        ("id=17", 422, "id"),
        ("search=x%20OR", 422, "at character 3"),
        ("search=x*", 422, "too_broad"),
        ("cursor=abc", 422, "invalid_cursor"),
    ] {
        let (got, problem) = server.get(&token, &format!("/logs?{query}")).await;
        assert_eq!(got, status, "{query}: {problem}");
        assert!(problem.to_string().contains(word), "{query}: {problem}");
        assert!(problem["code"].is_string() && problem["request_id"].is_string(), "{problem}");
    }
    for (query, code, word) in [
        ("group_by=acton", "invalid_parameter", "`action`"),
        ("interval=1x", "invalid_parameter", "interval"),
        ("interval=1s&from=2024-01-01&to=2024-02-01", "too_many_buckets", "interval=5m"),
    ] {
        let (got, problem) = server.get(&token, &format!("/logs/stats?{query}")).await;
        assert_eq!((got, problem["code"].as_str()), (422, Some(code)), "{query}: {problem}");
        assert!(problem["detail"].to_string().contains(word), "{query}: {problem}");
    }
    assert_eq!(server.get(&token, "/nothing/here").await.0, 404);
    let answer = server
        .client
        .delete(server.url("/logs/stats"))
        .bearer_auth(&token)
        .send()
        .await
        .expect("it answers");
    assert_eq!(answer.status(), 405);
    assert!(answer.headers().contains_key("allow"));
}

told_to_both!(lists_and_statistics_agree_with_a_plain_count, what_is_not_understood_is_named_and_never_ignored);
