//! Export streams: whole, and broken off.

use super::{
    server::{Served, read_until},
    *,
};
use tokio::io::AsyncWriteExt;

/// Texts that CSV and spreadsheets stumble over.
const TEXTS: [&str; 9] = ["plain", "a,b", "say \"x\"", "two\r\nlines", "=1+1", "+x", "-1", "@sum", "\ttab"];

async fn fill(bench: &Bench, n: usize) {
    let one = |i: usize| {
        let mut one = entry(i);
        one["message"] = json!(TEXTS[i % TEXTS.len()]);
        one["session_id"] = if i.is_multiple_of(2) { json!("") } else { Value::Null };
        one["ip_address"] = json!("2001:db8::1");
        one["after_state"] = json!({"k": [i, "é,\""]});
        one["timestamp"] = json!(format!("2024-01-01T00:{:02}:{:02}Z", i / 60 % 60, i % 60));
        one["user_id"] = json!(format!("u{}", i % 2));
        one
    };
    assert_eq!(bench.post("/logs/bulk", &json!((0..n).map(one).collect::<Vec<_>>())).await.status, 201);
}

/// Entries of 30 KiB, so that an export takes some portions: 139 each.
async fn fill_large(bench: &Bench, n: usize) {
    let one = |i: usize| {
        let mut one = entry(i);
        one["message"] = json!("x".repeat(30_000));
        one
    };
    assert_eq!(bench.post("/logs/bulk", &json!((0..n).map(one).collect::<Vec<_>>())).await.status, 201);
}

/// What the list says of the same filters.
async fn listed(bench: &Bench, filter: &str) -> Vec<Value> {
    bench.get(&format!("/logs?page_size=1000&{filter}")).await.json()["data"]
        .as_array()
        .expect("data")
        .clone()
}

#[tokio::test]
async fn every_format_holds_every_match_in_order() {
    let bench = Bench::new().await;
    fill(&bench, 300).await;
    for filter in [
        "",
        "user_id=u1&sort=sequence:asc",
        "action=nothing",
        "to=2024-01-01T00:01:00Z&sort=timestamp:asc",
    ] {
        let want = listed(&bench, filter).await;
        let got = bench.get(&format!("/logs/export?format=json&{filter}")).await;
        assert_eq!(got.headers["content-type"], "application/json");
        assert_eq!(got.json(), json!(want), "{filter}");
        assert_eq!(bench.get(&format!("/logs/export?{filter}")).await.bytes, got.bytes, "the default");
        assert_eq!(bench.get(&format!("/logs/export/json/?{filter}")).await.bytes, got.bytes);

        let got = bench.get(&format!("/logs/export?format=ndjson&{filter}")).await;
        assert_eq!(got.headers["content-type"], "application/x-ndjson");
        let text = String::from_utf8(got.bytes).expect("UTF-8");
        assert!(text.is_empty() || text.ends_with('\n'));
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines, want, "{filter}");

        let got = bench.get(&format!("/logs/export?format=csv&{filter}")).await;
        assert_eq!(got.headers["content-type"], "text/csv; charset=utf-8; header=present");
        assert_eq!(bench.get(&format!("/logs/export/csv?{filter}")).await.bytes, got.bytes);
        let mut reader = csv::Reader::from_reader(&got.bytes[..]);
        let names: Vec<String> = reader.headers().expect("a header").iter().map(str::to_owned).collect();
        let rows: Vec<Value> = reader.records().map(|row| from_csv(&names, &row.expect("as long as the header"))).collect();
        let want: Vec<Value> = want.iter().map(without_empty).collect();
        assert_eq!(rows, want, "{filter}");
    }
}

/// An entry out of a line, as its JSON object without what is absent or empty.
fn from_csv(names: &[String], row: &csv::StringRecord) -> Value {
    let one = |(name, text): (&String, &str)| {
        let value = match name.as_str() {
            "before_state" | "after_state" | "metadata" | "sequence" => serde_json::from_str(text).expect("JSON"),
            _ => json!(text),
        };
        (name.clone(), value)
    };
    names.iter().zip(row).filter(|(_, text)| !text.is_empty()).map(one).collect()
}

fn without_empty(entry: &Value) -> Value {
    let fields = entry.as_object().expect("an object").iter();
    fields
        .filter(|(_, value)| !value.is_null() && **value != json!(""))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[tokio::test]
async fn csv_tells_empty_from_absent_and_disarms_formulas_when_asked() {
    let bench = Bench::new().await;
    fill(&bench, TEXTS.len()).await;
    let lines = |got: Got| {
        let text = String::from_utf8(got.bytes).expect("UTF-8");
        assert!(text.ends_with("\r\n"));
        text
    };
    let plain = lines(bench.get("/logs/export/csv?sort=sequence:asc").await);
    let header = "id,tenant_id,timestamp,received_at,action,resource_type,resource_id,user_id,session_id,request_id,email,ip_address,user_agent,severity,\
                  message,before_state,after_state,metadata,actor,sequence\r\n";
    assert!(plain.starts_with(header), "{plain}");
    assert!(
        plain.contains(",LOGIN,session,r-0,u0,\"\",,,2001:db8::1,,INFO,plain,,\"{\"\"k\"\":[0,\"\"é,\\\"\"\"\"]}\",,ann,1\r\n"),
        "{plain}"
    );
    assert!(plain.contains(",r-1,u1,,,,2001:db8::1,,INFO,\"a,b\",,"), "{plain}");
    assert!(
        plain.contains(",\"say \"\"x\"\"\",") && plain.contains(",\"two\r\nlines\",") && plain.contains(",=1+1,"),
        "{plain}"
    );
    let safe = lines(bench.get("/logs/export/csv?sort=sequence:asc&csv_safe=true").await);
    for text in [",'=1+1,", ",'+x,", ",'-1,", ",'@sum,", ",'\ttab,"] {
        assert!(safe.contains(text), "{text}: {safe}");
    }
    assert_eq!(lines(bench.get("/logs/export/csv?sort=sequence:asc&csv_safe=false").await), plain);
}

#[tokio::test]
async fn the_name_of_the_file_and_who_may_have_it() {
    let bench = Bench::new().await;
    fill(&bench, 3).await;
    for (path, ending) in [
        ("?format=json", "json"),
        ("?format=ndjson", "ndjson"),
        ("?format=csv", "csv"),
        ("/csv", "csv"),
        ("", "json"),
    ] {
        let got = bench.get(&format!("/logs/export{path}")).await;
        let name = got.headers["content-disposition"].to_str().expect("text").to_owned();
        let date = chrono::Utc::now().format("%Y-%m-%d");
        assert_eq!(name, format!("attachment; filename=\"audit_logs_acme_{date}.{ending}\""));
    }
    for (role, status) in [("auditor", 200), ("admin", 200), ("viewer", 403), ("writer", 403), ("platform_admin", 403)] {
        let got = bench.call("GET", "/api/v1/logs/export", &token(Some("acme"), role), "").await;
        assert_eq!(got.status, status, "{role}");
    }
    let other = bench.call("GET", "/api/v1/logs/export", &token(Some("globex"), "admin"), "").await;
    assert_eq!(other.json(), json!([]));
    for bad in [
        "format=xml",
        "csv_safe=maybe",
        "sort=relevance",
        "severity=LOUD",
        "page=1",
        "formt=csv",
        "cursor=x",
    ] {
        bench.get(&format!("/logs/export?{bad}")).await.problem(422, "invalid_parameter");
    }
    bench.get("/logs/export/csv?format=csv").await.problem(422, "invalid_parameter");
    bench.shelf.with(|state| state.sick = Some(StoreError::Busy));
    bench.get("/logs/export").await.problem(503, "unavailable");
    assert_eq!(bench.exports(), 0);
}

#[tokio::test]
async fn an_export_is_as_of_one_number_whatever_comes_meanwhile() {
    let bench = Bench::new().await;
    fill_large(&bench, 500).await;
    let request = request("GET", "/api/v1/logs/export?format=ndjson", &token(Some("acme"), "auditor")).header("te", "trailers");
    let response = bench
        .router
        .clone()
        .oneshot(request.body(Body::empty()).expect("a request"))
        .await
        .expect("never fails");
    fill(&bench, 50).await;
    let whole = response.into_body().collect().await.expect("whole");
    assert_eq!(whole.trailers().expect("trailers")["x-export-rows"], "500");
    let text = whole.to_bytes();
    let numbers: std::collections::BTreeSet<u64> = std::str::from_utf8(&text)
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["sequence"].as_u64().expect("numbered"))
        .collect();
    assert_eq!((numbers.len(), numbers.last()), (500, Some(&500)));
}

#[tokio::test]
async fn a_store_that_fails_on_the_way_breaks_the_stream_off() {
    let served = Served::new().await;
    fill_large(&served.bench, 500).await;
    served.bench.shelf.with(|state| state.lists_left = Some(2));
    let mut stream = served.connect().await;
    stream.write_all(get("/logs/export", "").as_bytes()).await.expect("open");
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"sequence\":"), "it began");
    assert!(!answer.ends_with("0\r\n\r\n"), "and has no last chunk");
    served.bench.shelf.with(|state| state.lists_left = None);
    let whole = format!(
        "{}\r\n",
        get("/logs/export?format=ndjson", "te: trailers\r\nconnection: close, te\r\n").trim_end()
    );
    let mut stream = served.connect().await;
    stream.write_all(format!("{whole}\r\n").as_bytes()).await.expect("open");
    let answer = read_to_end(&mut stream).await;
    assert!(answer.ends_with("0\r\nx-export-rows: 500\r\n\r\n"), "{}", &answer[answer.len() - 60..]);
    assert_eq!(served.bench.exports(), 0);
    served.stop().await;
}

fn get(path: &str, headers: &str) -> String {
    let token = token(Some("acme"), "auditor");
    format!("GET /api/v1{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{headers}\r\n")
}

async fn read_to_end(stream: &mut tokio::net::TcpStream) -> String {
    use tokio::io::AsyncReadExt;
    let mut all = Vec::new();
    // A connection that is cut may end in a reset.
    while matches!(stream.read_buf(&mut all).await, Ok(n) if n > 0) {}
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_and_leaves_nothing() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = HttpSettings {
        write_stall: Duration::from_millis(200),
        ..HttpSettings::default()
    };
    let served = Served::with(settings).await;
    fill_large(&served.bench, 500).await;
    // Left to itself the kernel would take all of it for a client that reads nothing.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("set");
    let mut stream = socket.connect(served.address).await.expect("it listens");
    stream.write_all(get("/logs/export", "").as_bytes()).await.expect("open");
    read_until(&mut stream, "\"sequence\":").await;
    assert_eq!(served.bench.exports(), 1);
    served.bench.exports_end().await;
    let seen = read_to_end(&mut stream).await;
    assert!(!seen.ends_with("0\r\n\r\n"), "it was broken off");

    // Over HTTP/2 the connection lives on; the stream ends.
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let url = format!("http://{}/api/v1", served.address);
    let ask = |path: &str| client.get(format!("{url}{path}")).bearer_auth(token(Some("acme"), "auditor")).send();
    let answer = ask("/logs/export").await.expect("an answer");
    assert_eq!(answer.status(), 200);
    served.bench.exports_end().await;
    assert_eq!(ask("/logs?page_size=1").await.expect("the connection works").status(), 200);
    assert!(answer.bytes().await.is_err(), "it was broken off");
    served.stop().await;
}

#[tokio::test]
async fn exports_at_once_are_bounded_and_a_dropped_one_frees_its_place() {
    let settings = HttpSettings {
        exports: 3,
        exports_of_tenant: 2,
        ..HttpSettings::default()
    };
    let bench = Bench::with(settings).await;
    fill_large(&bench, 500).await;
    let start = |tenant: &'static str| {
        let request = request("GET", "/api/v1/logs/export", &token(Some(tenant), "auditor"));
        bench.router.clone().oneshot(request.body(Body::empty()).expect("a request"))
    };
    let (first, second) = (start("acme").await.expect("never fails"), start("acme").await.expect("never fails"));
    assert_eq!((first.status().as_u16(), second.status().as_u16(), bench.exports()), (200, 200, 2));
    bench.get("/logs/export").await.problem(429, "overloaded");
    assert_eq!(start("globex").await.expect("never fails").status(), 200, "another tenant has a place");
    drop(first);
    bench.exports_are(1).await;
    assert_eq!(bench.get("/logs/export").await.status, 200);
    drop(second);
    bench.exports_end().await;
}

#[tokio::test]
async fn an_export_ends_soon_after_the_process_was_told_to_stop() {
    let served = Served::new().await;
    fill_large(&served.bench, 500).await;
    let mut stream = served.connect().await;
    stream.write_all(get("/logs/export", "").as_bytes()).await.expect("open");
    read_until(&mut stream, "\"sequence\":").await;
    tokio::time::pause(); // sleeps pass as soon as nobody has work
    served.stop().await;
    let seen = read_to_end(&mut stream).await;
    assert!(!seen.ends_with("0\r\n\r\n"), "it was broken off");
}

#[tokio::test]
async fn a_compressed_export_is_the_same_export() {
    let bench = Bench::new().await;
    fill(&bench, 2_000).await;
    let plain = bench.get("/logs/export/csv").await;
    let request = request("GET", "/api/v1/logs/export/csv", &token(Some("acme"), "auditor")).header("accept-encoding", "gzip");
    let got = bench.send(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(got.headers["content-encoding"], "gzip");
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&got.bytes[..]), &mut text).expect("gzip");
    assert_eq!(text, plain.bytes);
}
