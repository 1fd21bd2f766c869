//! Real data in, exactly it back: the CloudTrail file through `sluice ingest`, compared with an independent count.

use crate::harness::{Server, Site, data};
use serde_json::Value;
use std::{collections::HashMap, io::Read, path::Path, process::Output};

fn records(path: &Path) -> Vec<String> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).expect("it exists"))
        .read_to_string(&mut text)
        .expect("gzip");
    text.lines().map(String::from).collect()
}

fn ingest(site: &Site, server: &Server, path: &Path) -> Output {
    let url = format!("http://{}", server.http);
    site.command(&[
        "ingest",
        "--url",
        &url,
        "--create-tenant",
        "--format",
        "cloudtrail",
        "--tenant",
        "acme",
        path.to_str().expect("text"),
    ])
    .output()
    .expect("it runs")
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_file_is_stored_once_and_comes_back_whole() {
    let Some(path) = data::cloudtrail() else { return };
    let site = Site::small();
    let server = site.start();
    let first = ingest(&site, &server, &path);
    assert_eq!(first.status.code(), Some(0), "{}", String::from_utf8_lossy(&first.stderr));
    assert_eq!(last_line(&first), "read=3003 accepted=3003 stored=3003 duplicates=0 dead_lettered=0 rejected=0");
    let second = ingest(&site, &server, &path);
    assert_eq!(
        last_line(&second),
        "read=3003 accepted=3003 stored=0 duplicates=3003 dead_lettered=0 rejected=0"
    );

    let token = server.token(Some("acme"), &["auditor"]);
    assert_eq!(server.get(&token, "/logs/stats").await.1["total"], 3003);

    // Every record's metadata is the record, to the byte of its values.
    let originals: Vec<Value> = records(&path).iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let by_id: HashMap<&str, &Value> = originals.iter().map(|r| (r["eventID"].as_str().expect("an id"), r)).collect();
    let entries = server.everything(&token).await;
    assert_eq!(entries.len(), originals.len());
    for entry in &entries {
        let original = by_id[entry["id"].as_str().expect("an id")];
        assert_eq!(&entry["metadata"], original);
        assert_eq!(entry["action"], original["eventName"]);
        assert_eq!(entry["resource_type"], original["eventSource"]);
    }

    // Counts by three filters, against a plain count over the file.
    let count = |f: &dyn Fn(&Value) -> bool| originals.iter().filter(|r| f(r)).count() as u64;
    let total = async |query: &str| server.get(&token, &format!("/logs?page_size=1&{query}")).await.1["meta"]["total"].as_u64();
    let network = count(&|r| {
        r["sourceIPAddress"]
            .as_str()
            .is_some_and(|ip| ip.starts_with("10.248.") && ip.parse::<std::net::IpAddr>().is_ok())
    });
    assert!(network > 0);
    assert_eq!(total("ip_address=10.248.0.0/16").await, Some(network));
    for source in ["s3.amazonaws.com", "iam.amazonaws.com", "nothing.amazonaws.com"] {
        assert_eq!(
            total(&format!("metadata.eventSource={source}")).await,
            Some(count(&|r| r["eventSource"] == source)),
            "{source}"
        );
    }
    for action in ["GetBucketPublicAccessBlock", "AssumeRole", "DescribeInstances"] {
        let expected = count(&|r| r["eventName"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(action)));
        assert_eq!(total(&format!("action={action}")).await, Some(expected), "{action}");
        assert_eq!(
            total(&format!("action={}", action.to_uppercase())).await,
            Some(expected),
            "{action} in any case"
        );
    }
}

/// The words of each text and each value of an entry, cut by this test alone.
fn texts(entry: &Value) -> Vec<Vec<String>> {
    fn words(text: &str) -> Vec<String> {
        let runs = text.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty());
        runs.map(str::to_lowercase).collect()
    }
    fn leaves(value: &Value, into: &mut Vec<Vec<String>>) {
        match value {
            Value::Object(map) => map.values().for_each(|value| leaves(value, into)),
            Value::Array(list) => list.iter().for_each(|value| leaves(value, into)),
            Value::String(text) => into.push(words(text)),
            other => into.push(words(&other.to_string())),
        }
    }
    let mut all = Vec::new();
    let searched = "id action resource_type resource_id user_id session_id request_id email user_agent message before_state after_state metadata";
    searched
        .split(' ')
        .map(|name| &entry[name])
        .filter(|value| !value.is_null())
        .for_each(|value| leaves(value, &mut all));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_of_the_real_file_count_what_a_plain_reading_counts() {
    let Some(path) = data::cloudtrail() else { return };
    let site = Site::small();
    let server = site.start();
    assert_eq!(ingest(&site, &server, &path).status.code(), Some(0));
    let entries: Vec<Vec<Vec<String>>> = server.everything(&server.token(Some("acme"), &["auditor"])).await.iter().map(texts).collect();
    let has = |entry: &Vec<Vec<String>>, phrase: &[&str]| entry.iter().any(|text| text.windows(phrase.len()).any(|run| run == phrase));
    let begins = |entry: &Vec<Vec<String>>, with: &str| entry.iter().flatten().any(|word| word.starts_with(with));
    let count = |f: &dyn Fn(&Vec<Vec<String>>) -> bool| entries.iter().filter(|entry| f(entry)).count() as u64;
    let expected = [
        ("AssumeRole", count(&|e| has(e, &["assumerole"]))),
        ("assumerole root", count(&|e| has(e, &["assumerole"]) && has(e, &["root"]))),
        ("\"iam amazonaws com\"", count(&|e| has(e, &["iam", "amazonaws", "com"]))),
        ("\"amazonaws iam\"", count(&|e| has(e, &["amazonaws", "iam"]))),
        ("-AssumeRole", count(&|e| !has(e, &["assumerole"]))),
        ("iam -\"us east 1\"", count(&|e| has(e, &["iam"]) && !has(e, &["us", "east", "1"]))),
        ("Describe*", count(&|e| begins(e, "describe"))),
        (
            "Describe* OR (AssumeRole -root)",
            count(&|e| begins(e, "describe") || has(e, &["assumerole"]) && !has(e, &["root"])),
        ),
        ("true", count(&|e| has(e, &["true"]))),
        ("AccessDenied", count(&|e| has(e, &["accessdenied"]))),
        ("nowhere", 0),
    ];
    assert!(expected.iter().filter(|(_, n)| (1..3003).contains(n)).count() >= 7, "{expected:?}");
    let check = async |server: &Server, when: &str| {
        let token = server.token(Some("acme"), &["auditor"]);
        for (text, expected) in expected {
            let query = [("search", text), ("page_size", "1"), ("total", "exact")];
            let url = server.url(&format!("/logs?{}", form(&query)));
            let answer = server.client.get(url).bearer_auth(&token).send().await.expect("it answers");
            let page: Value = serde_json::from_slice(&answer.bytes().await.expect("whole")).expect("JSON");
            assert_eq!(page["meta"]["total"], expected, "{text} {when}: {page}");
        }
    };
    check(&server, "in memory").await;
    assert_eq!(server.stop(), Some(0));
    let server = site.start();
    server.ready().await;
    check(&server, "in a part").await;
}

fn form(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| text.bytes().map(|b| format!("%{b:02X}")).collect::<String>();
    pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", escape(value)))
        .collect::<Vec<_>>()
        .join("&")
}

#[tokio::test(flavor = "multi_thread")]
async fn other_formats_and_bad_lines_are_told_by_file_and_line() {
    let site = Site::small();
    let server = site.start();
    let url = format!("http://{}", server.http);
    let file = |name: &str, text: &str| {
        let path = site.folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let good = r#"{"action":"A","resource_type":"t","resource_id":"1"}"#;
    let ndjson = file("a.ndjson", &format!("{good}\n\n{{\"action\":\"\"}}\nnot json\n{good}\n"));
    let json = file("b.json", &format!("[{good},\n {good}]"));
    let csv = file("c.csv", "action,resource_type,resource_id,metadata\nB,t,\"2,5\",\"{\"\"k\"\":1}\"\n");

    let unknown = site.command(&["ingest", "--url", &url, "--tenant", "acme", &ndjson]).output().expect("it runs");
    assert_eq!(unknown.status.code(), Some(1), "an unknown tenant is not made by itself");

    let run = |path: &str| {
        site.command(&["ingest", "--url", &url, "--create-tenant", "--tenant", "acme", path])
            .output()
            .expect("it runs")
    };
    let output = run(&ndjson);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(last_line(&output), "read=4 accepted=2 stored=2 duplicates=0 dead_lettered=0 rejected=2");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("a.ndjson:3: action: empty: "), "{errors}");
    assert!(errors.contains("a.ndjson:4: ") && errors.contains("malformed_json"), "{errors}");
    assert_eq!(
        last_line(&run(&ndjson)),
        "read=4 accepted=2 stored=0 duplicates=2 dead_lettered=0 rejected=2",
        "a rerun doubles nothing"
    );
    assert_eq!(last_line(&run(&json)), "read=2 accepted=2 stored=2 duplicates=0 dead_lettered=0 rejected=0");
    assert_eq!(last_line(&run(&csv)), "read=1 accepted=1 stored=1 duplicates=0 dead_lettered=0 rejected=0");

    let token = server.token(Some("acme"), &["viewer"]);
    let (_, page) = server.get(&token, "/logs?action=b").await;
    assert_eq!(
        (&page["data"][0]["resource_id"], &page["data"][0]["metadata"]["k"]),
        (&"2,5".into(), &1.into()),
        "{page}"
    );
}
