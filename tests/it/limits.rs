//! Limits of the real process: a tenant far over its rate hears 429 with a true `Retry-After` while another goes on as before,
//! heavy queries of one do not keep another from its list, quotas hold, and floods of bad credentials are refused unheard.

use crate::harness::{Server, Site, answer, assert_adds_up};
use futures_util::{StreamExt, future::join_all, stream};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

fn bulk(entries: usize) -> String {
    let entry = |i: usize| json!({"action": "CREATE", "resource_type": "t", "resource_id": format!("r-{i}"), "message": format!("number {i} of many words to look at")});
    Value::from((0..entries).map(entry).collect::<Vec<_>>()).to_string()
}

async fn set_rate(server: &Server, token: &str, tenant: &str, limit: Value) {
    let body = json!({"settings": {"rate_limit": limit}}).to_string();
    let request = server.client.put(server.url(&format!("/tenants/{tenant}"))).bearer_auth(token).body(body);
    let (status, tenant) = answer(request).await;
    assert_eq!(status, 200, "{tenant}");
}

/// A write: `None` if it was taken, else the seconds of the 429.
async fn write(server: &Server, token: &str, body: String) -> Option<u64> {
    let request = server.client.post(server.url("/logs/bulk?ids=false")).bearer_auth(token).body(body);
    let answer = request.send().await.expect("it answers");
    let (status, after) = (answer.status().as_u16(), answer.headers().get("retry-after").cloned());
    let problem: Value = serde_json::from_slice(&answer.bytes().await.expect("the body arrives")).expect("JSON");
    match status {
        201 => None,
        429 => {
            assert!(problem["code"] == "rate_limited" && problem["limit"] == "entries", "{problem}");
            Some(after.expect("Retry-After").to_str().expect("text").parse().expect("seconds"))
        }
        _ => panic!("{status} {problem}: {}", server.stderr()),
    }
}

/// The time that `share` of the calls took at most.
fn quantile(mut times: Vec<Duration>, share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_far_over_its_rate_is_told_the_truth_and_another_is_no_slower() {
    let site = Site::small();
    let server = site.start();
    let (flood, calm) = (server.tenant("flood").await, server.tenant("calm").await);
    set_rate(&server, &flood, "flood", json!({"entries_per_second": 200, "burst": 200})).await;
    // One after the other, as a quiet tenant writes; the same with and without the flood.
    let measure = async || {
        let mut times = Vec::new();
        for _ in 0..150 {
            let began = Instant::now();
            assert_eq!(write(&server, &calm, bulk(10)).await, None, "the calm one is never refused");
            times.push(began.elapsed());
        }
        times
    };
    let alone = quantile(measure().await, 0.5);
    let began = Instant::now();
    let (stop, taken, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let body = bulk(100);
    let flooder = async || {
        while !stop.load(Ordering::Relaxed) {
            match write(&server, &flood, body.clone()).await {
                None => taken.fetch_add(100, Ordering::Relaxed),
                Some(seconds) => {
                    assert!((1..=20).contains(&seconds), "at most as many requests at once as there are writers: {seconds}");
                    refused.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    };
    let calm_times = async {
        let times = measure().await;
        stop.store(true, Ordering::Relaxed);
        times
    };
    let (times, _) = tokio::join!(calm_times, join_all((0..4).map(|_| flooder())));
    let beside = quantile(times, 0.5);
    let (taken, refused) = (taken.into_inner(), refused.into_inner());
    let most = 200.0 + 200.0 * began.elapsed().as_secs_f64() + 4.0 * 100.0;
    assert!(taken as f64 <= most, "{taken} entries of at most {most}");
    assert!(refused > 100, "it was far over its limit: {refused} refused");
    // The flooder itself takes processor time of this machine, as the client and as requests; four writers of full bulks would take
    // many times that.
    assert!(beside <= alone * 4 + Duration::from_millis(5), "alone {alone:?}, beside a flood {beside:?}");
    let usage = server.settled_usage(&flood, "flood").await;
    assert_adds_up(&usage);
    assert_eq!(usage["accepted"].as_u64(), Some(taken), "what was refused was not kept");
    assert_eq!(usage["quota"]["rate"]["entries_per_second"], 200);
    assert_eq!(server.settled_usage(&calm, "calm").await["accepted"], 3_000);

    // The truth of what it tells, on the real clock: refused until then, admitted after.
    set_rate(&server, &flood, "flood", Value::Null).await;
    assert_eq!(write(&server, &flood, bulk(1)).await, None, "no limit any more");
    set_rate(&server, &flood, "flood", json!({"entries_per_second": 10, "burst": 10})).await;
    assert_eq!(write(&server, &flood, bulk(30)).await, None);
    let asked = Instant::now();
    let seconds = write(&server, &flood, bulk(1)).await.expect("over");
    assert!((2..=3).contains(&seconds), "20 are owed and one is needed: {seconds}");
    while asked.elapsed() < Duration::from_secs(seconds - 1) {
        let before = asked.elapsed();
        let told = write(&server, &flood, bulk(1)).await;
        assert!(
            told.is_some() || before >= Duration::from_secs(seconds - 1),
            "admitted after {before:?} of {seconds} s"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(seconds).saturating_sub(asked.elapsed())).await;
    assert_eq!(write(&server, &flood, bulk(1)).await, None, "who comes when told is admitted");
    assert_eq!(server.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_queries_of_one_tenant_do_not_keep_another_from_its_list() {
    let site = Site::small();
    let server = site.start();
    let (flood, calm) = (server.tenant("flood").await, server.tenant("calm").await);
    for token in [&flood, &flood, &flood, &calm] {
        let (status, body) = server.post(token, "/logs/bulk?wait=stored&ids=false", bulk(8_000)).await;
        assert_eq!(status, 201, "{body}: {}", server.stderr());
    }
    let heavy = "/logs?search=message:%22number%20of%22%20OR%20message:%22many%20words%20to%20look%20at%22&total=exact&page_size=1";
    assert_eq!(server.get(&flood, heavy).await.0, 200);
    let measure = async || {
        let mut times = Vec::new();
        for _ in 0..100 {
            let began = Instant::now();
            assert_eq!(server.get(&calm, "/logs?page_size=50").await.0, 200, "never refused for another's crowd");
            times.push(began.elapsed());
        }
        times
    };
    let alone = measure().await;
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let flooder = async || {
        while !stop.load(Ordering::Relaxed) {
            let (status, body) = server.get(&flood, heavy).await;
            assert!(matches!(status, 200 | 503), "{status} {body}");
            done.fetch_add(u64::from(status == 200), Ordering::Relaxed);
        }
    };
    let list = async {
        let times = measure().await;
        stop.store(true, Ordering::Relaxed);
        times
    };
    let (beside, _) = tokio::join!(list, join_all((0..40).map(|_| flooder())));
    let figures = [0.5, 0.9, 0.99].map(|share| (quantile(alone.clone(), share), quantile(beside.clone(), share)));
    eprintln!(
        "alone and beside 40 heavy readers, at 50, 90 and 99 %: {figures:?}, {} heavy ones",
        done.load(Ordering::Relaxed)
    );
    assert!(done.into_inner() > 10, "the flood was served too");
    // In its turn behind forty heavy queries a list would wait for many times its own time.
    let (alone, beside) = figures[0];
    assert!(beside <= alone * 6 + Duration::from_millis(20), "alone {alone:?}, beside a flood {beside:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_is_never_passed_however_many_write_at_once() {
    let mut site = Site::small();
    site.set("LIMITS__TENANT_MAX_ENTRIES", "1000");
    let server = site.start();
    let token = server.tenant("acme").await;
    let send = async |n: usize| server.post(&token, "/logs/bulk?ids=false", bulk(1 + n % 40)).await;
    let answers: Vec<(u16, Value)> = stream::iter(0..200).map(send).buffer_unordered(16).collect().await;
    for (status, body) in &answers {
        assert!(*status == 201 || *status == 429 && body["code"] == "quota_exceeded", "{status} {body}");
    }
    let taken: u64 = answers
        .iter()
        .filter_map(|(status, body)| (*status == 201).then(|| body["accepted"].as_u64()).flatten())
        .sum();
    let usage = server.settled_usage(&token, "acme").await;
    assert_adds_up(&usage);
    assert_eq!((usage["stored"].as_u64(), usage["quota"]["used"].as_u64()), (Some(taken), Some(taken)));
    assert!((961..=1_000).contains(&taken), "{taken}");
    // What is erased makes room.
    let erased = answer(server.client.delete(server.url("/logs/cleanup?days=0&confirm=acme")).bearer_auth(&token)).await;
    assert_eq!(erased.0, 200, "{}", erased.1);
    assert_eq!(server.post(&token, "/logs/bulk?ids=false", bulk(1_000)).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_credentials_is_refused_unheard_and_who_is_known_goes_on() {
    let mut site = Site::small();
    site.set("LIMITS__UNAUTHENTICATED_PER_MINUTE", "60").set("LIMITS__UNAUTHENTICATED_BURST", "50");
    let server = site.start();
    let token = server.tenant("acme").await;
    assert_eq!(server.get(&token, "/logs").await.0, 200);
    let forged = format!("{token}x");
    let flood: Vec<(u16, Value)> = stream::iter(0..300)
        .map(async |_| server.get(&forged, "/logs").await)
        .buffer_unordered(8)
        .collect()
        .await;
    let count = |status: u16| flood.iter().filter(|(s, _)| *s == status).count();
    assert!(
        (50..=120).contains(&count(401)) && count(401) + count(429) == 300,
        "{} heard, {} not",
        count(401),
        count(429)
    );
    assert_eq!(server.get(&token, "/logs").await.0, 200, "a known credential passes, from the same address");
    let metrics = server
        .client
        .get(format!("http://{}/metrics", server.admin))
        .send()
        .await
        .expect("metrics")
        .text()
        .await
        .expect("text");
    let line = metrics
        .lines()
        .find(|line| line.starts_with("sluice_http_limited_total{limit=\"unauthenticated\"}"))
        .expect("counted");
    assert!(line.ends_with(&format!(" {}", count(429))), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sluice_ingest_waits_as_it_is_told_and_sends_everything() {
    let site = Site::small();
    let server = site.start();
    let token = server.tenant("acme").await;
    set_rate(&server, &token, "acme", json!({"entries_per_second": 2_000, "burst": 500})).await;
    let file = site.folder.path().join("entries.ndjson");
    let lines: Vec<String> = (0..5_000)
        .map(|i| json!({"action": "A", "resource_type": "t", "resource_id": i.to_string()}).to_string())
        .collect();
    std::fs::write(&file, lines.join("\n")).expect("written");
    let url = format!("http://{}", server.http);
    let mut command = site.command(&["ingest", file.to_str().expect("text"), "--tenant", "acme", "--url", &url, "--token", &token]);
    let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("no panic");
    let last = String::from_utf8_lossy(&output.stdout).lines().last().map(str::to_owned).unwrap_or_default();
    assert!(output.status.success(), "{} {last}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(last, "read=5000 accepted=5000 stored=5000 duplicates=0 dead_lettered=0 rejected=0");
    let metrics = server
        .client
        .get(format!("http://{}/metrics", server.admin))
        .send()
        .await
        .expect("metrics")
        .text()
        .await
        .expect("text");
    let refused = metrics
        .lines()
        .find_map(|line| line.strip_prefix("sluice_http_limited_total{limit=\"entries\"} "))
        .expect("counted");
    assert!(refused.parse::<u64>().is_ok_and(|n| n > 0), "it was refused meanwhile: {refused}");
}
