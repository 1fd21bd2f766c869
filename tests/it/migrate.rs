//! `sluice migrate` with the real binary and the real engines: what it says, and that a schema of a newer binary is left alone.

use crate::harness::{Site, engines::Engines};
use serde_json::{Value, json};
use uuid::Uuid;

/// A site on ClickHouse and OpenSearch under a name that nobody else has.
fn site(engines: &Engines, name: &str) -> Site {
    let mut site = Site::plain();
    site.set("STORES__ANALYTICS", "clickhouse").set("STORES__SEARCH", "opensearch");
    site.set("CLICKHOUSE__URL", engines.address("CLICKHOUSE")).set("CLICKHOUSE__DATABASE", name);
    site.set("OPENSEARCH__URL", engines.address("OPENSEARCH")).set("OPENSEARCH__INDEX_PREFIX", name);
    site
}

/// Exit code, standard output, standard error.
fn migrate(site: &Site) -> (Option<i32>, String, String) {
    let output = site.command(&["migrate"]).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_made_once_and_a_newer_one_is_refused_in_clear_words() {
    let Some(engines) = Engines::here(&["CLICKHOUSE", "OPENSEARCH"]) else {
        return;
    };
    let name = format!("t{}", &Uuid::new_v4().simple().to_string()[..12]);
    let site = site(&engines, &name);
    for expected in ["was made, version 1", "has version 1 already"] {
        let (code, told, problem) = migrate(&site);
        assert_eq!(code, Some(0), "{problem}");
        assert!(told.contains(&format!("clickhouse: the schema of `{name}` {expected}\n")), "{told}");
        assert!(
            told.contains(&format!("opensearch: templates and aliases of `{name}` are in force\n")),
            "{told}"
        );
    }

    // A newer ClickHouse schema: neither a migration nor a server touches it.
    let newer = format!("INSERT INTO {name}.schema_version SELECT 1000, now64(3), 'a newer sluice'");
    engines.clickhouse(&newer).await.expect("inserts");
    let refused = |(code, told, problem): (Option<i32>, String, String), words: &[&str]| {
        assert_ne!(code, Some(0), "{told}");
        for word in words {
            assert!(problem.contains(word), "`{word}` is not in: {problem}");
        }
        assert!(!problem.contains("panicked"), "{problem}");
    };
    refused(migrate(&site), &["ClickHouse", "version 1000", "newer Sluice"]);
    let (code, problem) = site.try_start().err().expect("it does not start");
    refused((code, String::new(), problem), &["ClickHouse", "version 1000", "newer Sluice"]);
    let versions = engines
        .clickhouse(&format!("SELECT version FROM {name}.schema_version ORDER BY version"))
        .await
        .expect("reads");
    assert_eq!(versions, [json!({"version": 1}), json!({"version": 1000})]);
    let back = format!("ALTER TABLE {name}.schema_version DELETE WHERE version = 1000 SETTINGS mutations_sync = 2");
    engines.clickhouse(&back).await.expect("deletes");

    // A newer layout in OpenSearch.
    let layout = json!({"version": 1000, "strategy": "shared"});
    let path = format!("/{name}-meta/_doc/schema?refresh=true");
    engines.opensearch(reqwest::Method::PUT, &path, Some(layout.clone())).await.expect("writes");
    refused(migrate(&site), &["search store", "version 1000", "newer binary"]);
    let (code, problem) = site.try_start().err().expect("it does not start");
    refused((code, String::new(), problem), &["search store", "version 1000", "newer binary"]);
    let kept: Value = engines
        .opensearch(reqwest::Method::GET, &format!("/{name}-meta/_doc/schema"), None)
        .await
        .expect("reads");
    assert_eq!(kept["_source"], layout);

    engines.clickhouse(&format!("DROP DATABASE {name}")).await.expect("drops");
    for path in [format!("/{name}-meta"), format!("/_index_template/{name}-logs")] {
        engines.opensearch(reqwest::Method::DELETE, &path, None).await.expect("deletes");
    }
}
