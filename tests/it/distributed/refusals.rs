//! What a start refuses, through the real binary: a word about what is wrong and where, exit code, no secret, and nothing left behind that
//! would refuse the corrected configuration.

use crate::harness::{
    Server, Site,
    engines::Engines,
    proxy::{Fault, Proxy},
    stage::{Cluster, Form},
};
use bytes::Bytes;
use serde_json::json;

/// Stands in every secret here.
const SECRET: &str = "zqsecret";

async fn cluster() -> Option<Cluster> {
    Cluster::here(Form::default()).await
}

/// A process that takes requests, with other settings.
fn site(cluster: &Cluster, settings: &[(&str, &str)]) -> Site {
    let mut site = Site::plain();
    site.settings.clone_from(&cluster.apis[0].settings);
    if settings.contains(&("QUEUE__KIND", "wal")) {
        site.settings.retain(|key, _| !key.starts_with("SLUICE__QUEUE") && key != "SLUICE__SOURCES");
    }
    for (key, value) in settings {
        if key.starts_with("AWS_") {
            site.settings.insert((*key).to_owned(), (*value).to_owned());
        } else {
            site.set(key, value);
        }
    }
    site
}

/// It ends with this code, says all of this on standard error, and nothing secret.
async fn refuses(site: &Site, code: i32, words: &[&str]) {
    let ended = tokio::task::block_in_place(|| site.try_start());
    let Err((ended, said)) = ended else {
        panic!("it starts, and should have said {words:?}")
    };
    let last = said.lines().find(|line| line.starts_with("sluice: ")).unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "no `{word}` in: {said}");
    }
    assert_eq!(ended, Some(code), "{said}");
    assert!(!said.contains(SECRET) && !said.contains("panicked"), "{said}");
}

fn starts(site: &Site) -> Server {
    tokio::task::block_in_place(|| site.start())
}

/// A server that answers every request so.
async fn answering(engines: &Engines, name: &str, status: u16, header: (&str, &str), body: String) -> Proxy {
    let proxy = Proxy::start(engines.address(name)).await;
    let answer = Fault::Answer(status, vec![(header.0.to_owned(), header.1.to_owned())], Bytes::from(body));
    proxy.script(move |_| answer.clone());
    proxy
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_named_and_may_be_corrected() {
    let Some(mut cluster) = cluster().await else { return };
    refuses(
        &site(&cluster, &[("OBJECTS__URL", "s3://there-is-no-such-bucket/x")]),
        1,
        &["`objects.url`", "`there-is-no-such-bucket`", "does not exist"],
    )
    .await;
    let missing = format!("{}-missing", cluster.queues[0]);
    let urls = json!([missing]).to_string();
    refuses(
        &site(&cluster, &[("QUEUE__SQS__URLS", &urls)]),
        1,
        &[&missing, "does not exist", "`queue.sqs.urls`"],
    )
    .await;
    // What was mistyped at the very first start is not kept: the corrected list is taken, and from then on no other.
    let corrected = site(&cluster, &[]);
    let server = starts(&corrected);
    let second = cluster.engines.make_queue(&format!("{}-second", cluster.name)).await;
    cluster.queues.push(second);
    let two = json!(cluster.queues).to_string();
    refuses(&site(&cluster, &[("QUEUE__SQS__URLS", &two)]), 64, &["`queue.sqs.urls`", "must stay as it is"]).await;
    // A folder that has a secret of its own would accept tokens that the others refuse.
    let other = site(&cluster, &[]);
    std::fs::create_dir_all(other.data()).expect("made");
    std::fs::write(other.data().join("secret"), format!("{SECRET}-{SECRET}-{SECRET}-{SECRET}")).expect("written");
    refuses(&other, 1, &["secret", "delete it"]).await;
    // A log of one folder does not go where a deployment is.
    let wal = site(&cluster, &[("QUEUE__KIND", "wal"), ("ROLE", "all")]);
    refuses(&wal, 64, &["`queue.kind`", "must stay as it is"]).await;
    assert_eq!(server.stop(), Some(0));
    // A database that does not exist is made.
    let made = format!("{}_made", cluster.name);
    let server = starts(&site(&cluster, &[("CLICKHOUSE__DATABASE", &made)]));
    server.ready().await;
    assert_eq!(server.stop(), Some(0));
    cluster.engines.clickhouse(&format!("DROP DATABASE {made}")).await.expect("dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_logs_do_not_share_a_prefix() {
    let Some(cluster) = cluster().await else { return };
    let own = format!("s3://sluice/{}-wal", cluster.name);
    let wal = [
        ("QUEUE__KIND", "wal"),
        ("ROLE", "all"),
        ("STORES__ANALYTICS", "embedded"),
        ("STORES__SEARCH", "embedded"),
        ("OBJECTS__URL", own.as_str()),
    ];
    let (one, two) = (site(&cluster, &wal), site(&cluster, &wal));
    for _ in 0..2 {
        let server = starts(&one);
        refuses(&two, 64, &["`objects.url`", "another data folder"]).await;
        assert_eq!(server.stop(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_said_without_them() {
    let Some(cluster) = cluster().await else { return };
    let engines = &cluster.engines;
    refuses(
        &site(&cluster, &[("AWS_SECRET_ACCESS_KEY", SECRET)]),
        1,
        &["`objects.url`", "access is denied", "credentials"],
    )
    .await;
    let denied = json!({"__type": "com.amazon.coral.service#InvalidClientTokenId", "message": "The security token included in the request is invalid."});
    let sqs = answering(engines, "SQS", 403, ("content-type", "application/x-amz-json-1.0"), denied.to_string()).await;
    refuses(
        &site(&cluster, &[("AWS_ENDPOINT_URL_SQS", &sqs.url())]),
        1,
        &[&cluster.queues[0], "InvalidClientTokenId"],
    )
    .await;
    let text = format!("Code: 516. DB::Exception: ada: Authentication failed: password is incorrect: {SECRET} (AUTHENTICATION_FAILED)");
    let clickhouse = answering(engines, "CLICKHOUSE", 403, ("X-ClickHouse-Exception-Code", "516"), text).await;
    refuses(
        &site(
            &cluster,
            &[
                ("CLICKHOUSE__URL", &clickhouse.url()),
                ("CLICKHOUSE__USER", "ada"),
                ("CLICKHOUSE__PASSWORD", SECRET),
            ],
        ),
        1,
        &[&clickhouse.url(), "516", "`clickhouse.password`"],
    )
    .await;
    let opensearch = answering(engines, "OPENSEARCH", 401, ("content-type", "text/plain"), format!("Unauthorized: {SECRET}")).await;
    refuses(
        &site(
            &cluster,
            &[
                ("OPENSEARCH__URL", &opensearch.url()),
                ("OPENSEARCH__USER", "ada"),
                ("OPENSEARCH__PASSWORD", SECRET),
            ],
        ),
        1,
        &[&opensearch.url(), "401", "`opensearch.password`"],
    )
    .await;
}
