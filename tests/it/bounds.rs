//! Time and memory of queries: one past its deadline ends with 504 and leaves nothing behind, and a crowd is told 503.

use crate::harness::{Server, Site};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

/// No debug build looks at so many messages in ten milliseconds.
const ENTRIES: usize = 30_000;
/// Asks that read every row, each in another way: the filters know all of their words.
const HEAVY: [&str; 2] = [
    "/logs?search=message:%22text%20to%22&total=exact",
    "/logs/stats?search=text&group_by=metadata.n,user_id&interval=1d",
];

async fn filled(server: &Server) -> String {
    let token = server.tenant("acme").await;
    for from in (0..ENTRIES).step_by(5_000) {
        let entry = |i: usize| {
            json!({"action": "CREATE", "resource_type": "t", "resource_id": "r", "user_id": format!("u{}", i % 900),
                "message": format!("nowhere found {i} to text"), "metadata": {"n": i}})
        };
        let body = Value::from((from..from + 5_000).map(entry).collect::<Vec<_>>()).to_string();
        assert_eq!(server.post(&token, "/logs/bulk?wait=stored&ids=false", body).await.0, 201);
    }
    token
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_past_its_deadline_is_a_504_and_the_next_one_runs() {
    let mut site = Site::small();
    site.set("STORE__QUERIES", "1");
    let server = site.start();
    let token = filled(&server).await;
    for path in HEAVY {
        assert_eq!(server.get(&token, path).await.0, 200, "{path}: a good question, given the time");
    }
    assert_eq!(server.stop(), Some(0));
    site.set("STORE__QUERY_TIMEOUT", "10ms");
    let server = site.start();
    server.ready().await;
    for path in HEAVY {
        for _ in 0..3 {
            let (status, problem) = server.get(&token, path).await;
            assert_eq!((status, &problem["code"]), (504, &json!("query_timeout")), "{path}: {problem}");
            // With one place for queries, what is kept of the last one is kept from this.
            let light = || async { server.get(&token, "/logs?page_size=1&total=false").await.0 == 200 };
            server.until(light, "a query after one that was ended").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_heavy_queries_is_told_to_come_back() {
    let mut site = Site::small();
    site.set("STORE__QUERIES", "1");
    let server = site.start();
    let token = filled(&server).await;
    let ask = async |i: usize| {
        let request = server.client.get(server.url(HEAVY[i % 2])).bearer_auth(&token);
        let answer = request.send().await.expect("it answers");
        let waits = answer.headers().contains_key("retry-after");
        let status = answer.status().as_u16();
        let body = answer.bytes().await.expect("the body arrives");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert!(status == 200 || status == 503 && waits && body["code"] == "unavailable", "{status} {body}");
        status
    };
    let all: Vec<u16> = stream::iter(0..100).map(ask).buffer_unordered(100).collect().await;
    let refused = all.iter().filter(|status| **status == 503).count();
    // One runs and 32 wait; a few more find a place that has become free meanwhile.
    assert!((1..=67).contains(&refused), "{refused} of 100 refused");
    assert_eq!(server.get(&token, HEAVY[0]).await.0, 200, "the next one is answered");
}
