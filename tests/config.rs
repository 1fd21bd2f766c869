//! Configuration: layers, types, and all problems at once. The environment is handed in, so nothing here is process-global.

use sluice::config::{
    AnalyticsChoice, ConfigError, IndexStrategy, LogFormat, ObjectsChoice, QueueChoice, Role, SearchChoice, Settings, SourceChoice, Sources, TlsSettings,
};
use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt, path::PathBuf, time::Duration};

fn environment(variables: &[(&str, &str)]) -> Sources {
    Sources {
        environment: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        ..Sources::default()
    }
}

/// A folder with a configuration file of this text.
fn file(text: &str) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sluice.toml");
    fs::write(&path, text).expect("written");
    let sources = Sources {
        file: Some(path),
        ..Sources::default()
    };
    (dir, sources)
}

fn problems(sources: &Sources) -> Vec<(String, String)> {
    let ConfigError { problems } = Settings::load(sources).expect_err("wrong");
    problems.into_iter().map(|p| (p.key, p.message)).collect()
}

/// The one problem that there is.
fn problem(sources: &Sources) -> (String, String) {
    let mut all = problems(sources);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let settings = Settings::load(&Sources::default()).expect("good");
    assert_eq!(settings.data_dir, PathBuf::from("data"));
    assert_eq!(settings.engines.objects, ObjectsChoice::Folder("data/objects".into()));
    assert!(matches!(settings.engines.queue, QueueChoice::Wal) && settings.role == Role::All && settings.engines.sources.is_empty());
    assert_eq!(settings.seal.interval, Duration::ZERO, "the log needs no company");
    assert_eq!(settings.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.admin.listen.to_string(), "127.0.0.1:9090");
    assert_eq!((settings.http.max_body_bytes, settings.http.max_entries), (16 << 20, 10_000));
    assert_eq!((settings.store.memtable_bytes, settings.wal.segment_bytes), (128 << 20, 64 << 20));
    assert_eq!((settings.disk.reserve, settings.shutdown.deadline), (None, Duration::from_secs(30)));
    assert!(settings.actors.shards >= 1);
}

#[test]
fn every_file_that_is_shipped_is_good() {
    for name in ["default", "dev", "production.example"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("config/{name}.toml"));
        let sources = Sources {
            file: Some(path),
            ..Sources::default()
        };
        Settings::load(&sources).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn every_default_says_what_it_is_for() {
    let text = include_str!("../config/default.toml");
    let mut previous = "";
    for line in text.lines() {
        let is_key = line.contains(" = ") && !line.starts_with('#');
        assert!(!is_key || previous.starts_with('#'), "`{line}` has no comment");
        previous = line;
    }
}

#[test]
fn a_later_layer_replaces_single_values() {
    let (_dir, mut sources) =
        file("data_dir = \"from-file\"\n[http]\nlisten = \"127.0.0.1:1\"\nmax_entries = 5\n[wal]\nsegment_bytes = 1048576\ngroup_bytes = \"1 mib\"\n");
    sources.environment = environment(&[
        ("SLUICE__HTTP__LISTEN", "127.0.0.1:2"),
        ("SLUICE__HTTP__MAX_ENTRIES", "7"),
        ("SLUICE__LOG", r#"{"format": "json", "level": "debug"}"#),
        ("SLUICE__LOG__LEVEL", "warn"),
        ("SLUICE__DISK__RESERVE", "1GiB"),
        ("SLUICE_URL", "not ours"),
        ("HTTP__LISTEN", "not ours"),
    ])
    .environment;
    sources.environment.push((OsString::from_vec(vec![0xff]), "not ours".into()));
    sources.flags = vec![("--listen", "http.listen", "127.0.0.1:3".to_owned())];
    let settings = Settings::load(&sources).expect("good");
    assert_eq!(settings.data_dir, PathBuf::from("from-file"));
    assert_eq!(settings.http.listen.port(), 3, "a flag goes over all");
    assert_eq!(settings.http.max_entries, 7, "the environment over the file");
    assert_eq!((settings.wal.segment_bytes, settings.wal.group_bytes), (1 << 20, 1 << 20));
    assert_eq!((settings.log.format, settings.log.level.as_str()), (LogFormat::Json, "warn"));
    assert_eq!(settings.disk.reserve, Some(1 << 30));
    assert_eq!(settings.store.memtable_bytes, 128 << 20, "the rest are defaults");
}

#[test]
fn what_is_in_force_can_be_used_as_a_file() {
    let first = Settings::load(&environment(&[
        ("SLUICE__STORE__QUERY_TIMEOUT", "1500ms"),
        ("SLUICE__OBJECTS__URL", "file:///o"),
    ]))
    .expect("good");
    let text = first.to_toml();
    assert!(text.contains("query_timeout = \"1500ms\""), "{text}");
    let (_dir, sources) = file(&text);
    let again = Settings::load(&sources).expect("good");
    assert_eq!(again.to_toml(), text);
    assert_eq!(again.engines.objects, ObjectsChoice::Folder("/o".into()));
}

#[test]
fn tls_and_origins_come_from_a_file_and_from_the_environment() {
    let want = TlsSettings {
        cert_file: "c.pem".into(),
        key_file: "k.pem".into(),
    };
    let (_dir, of_file) = file(
        "[http]\ntls = { cert_file = \"c.pem\", key_file = \"k.pem\" }\ncors.origins = [\"https://app.example\", \"http://localhost:3000\", \"http://[::1]:3000\"]\n",
    );
    let of_environment = environment(&[
        ("SLUICE__HTTP__TLS", r#"{"cert_file": "c.pem", "key_file": "k.pem"}"#),
        (
            "SLUICE__HTTP__CORS__ORIGINS",
            r#"["https://app.example", "http://localhost:3000", "http://[::1]:3000"]"#,
        ),
    ]);
    for sources in [of_file, of_environment] {
        let settings = Settings::load(&sources).expect("good");
        assert_eq!(settings.http.tls.as_ref(), Some(&want));
        assert_eq!(
            settings.http.cors_origins,
            ["https://app.example", "http://localhost:3000", "http://[::1]:3000"]
        );
        let (_dir, again) = file(&settings.to_toml());
        assert_eq!(Settings::load(&again).expect("good").to_toml(), settings.to_toml());
    }
    let defaults = Settings::load(&Sources::default()).expect("good");
    assert!(defaults.http.tls.is_none() && defaults.http.cors_origins.is_empty());
}

#[test]
fn every_bad_value_is_named_with_its_rule() {
    let table = [
        ("SLUICE__DATA_DIR", "", "data_dir", "must be a path"),
        ("SLUICE__ROLE", "leader", "role", "`all`, `api`, `consumer`"),
        ("SLUICE__ROLE", "api", "role", "`queue.kind` is `wal`"),
        ("SLUICE__ROLE", "consumer", "role", "need `sqs` or `kinesis`"),
        ("SLUICE__OBJECTS__URL", "s3://x", "objects.url", "s3://BUCKET/PREFIX"),
        ("SLUICE__OBJECTS__URL", "s3://bucket/../x", "objects.url", "s3://BUCKET/PREFIX"),
        ("SLUICE__OBJECTS__URL", "gs://bucket/x", "objects.url", "s3://BUCKET/PREFIX"),
        ("SLUICE__SEAL__INTERVAL", "sometimes", "seal.interval", "\"auto\" or a time"),
        ("SLUICE__SEAL__LEASE", "100ms", "seal.lease", "must be a time from 500ms"),
        ("SLUICE__QUEUE__SQS__URLS", "http://q/1", "queue.sqs.urls", "must be a list of URLs"),
        ("SLUICE__QUEUE__SQS__URLS", r#"["q"]"#, "queue.sqs.urls", "must be a list of URLs"),
        ("SLUICE__QUEUE__SQS__URLS", r#"["http://q/1", "http://q/1"]"#, "queue.sqs.urls", "twice"),
        ("SLUICE__QUEUE__SQS__VISIBILITY", "1s", "queue.sqs.visibility", "must be a time from 10s"),
        (
            "SLUICE__QUEUE__SQS__MIN_RETENTION",
            "15d",
            "queue.sqs.min_retention",
            "must be a time from 1h to 14d",
        ),
        (
            "SLUICE__QUEUE__KINESIS__STREAMS",
            r#"["a stream"]"#,
            "queue.kinesis.streams",
            "name of a Kinesis stream",
        ),
        ("SLUICE__CLICKHOUSE__DATABASE", "1; DROP", "clickhouse.database", "letters, digits"),
        ("SLUICE__CLICKHOUSE__PASSWORD", "…", "clickhouse.password", "set the password itself"),
        ("SLUICE__OPENSEARCH__INDEX_PREFIX", "A,b*", "opensearch.index_prefix", "lower-case"),
        (
            "SLUICE__OPENSEARCH__INDEX_STRATEGY",
            "both",
            "opensearch.index_strategy",
            "`shared`, `per_tenant`",
        ),
        ("SLUICE__SOURCES", "sqs", "sources", "must be a list of queues"),
        ("SLUICE__HTTP__LISTEN", "8080", "http.listen", "ADDRESS:PORT"),
        ("SLUICE__HTTP__LISTEN", "localhost:8080", "http.listen", "IP address"),
        ("SLUICE__ADMIN__LISTEN", "127.0.0.1:70000", "admin.listen", "ADDRESS:PORT"),
        ("SLUICE__ADMIN__LISTEN", "127.0.0.1:8080", "admin.listen", "`http.listen` too"),
        ("SLUICE__QUEUE__KIND", "kafka", "queue.kind", "must be one of"),
        ("SLUICE__OBJECTS__URL", "file://relative", "objects.url", "ABSOLUTE"),
        ("SLUICE__WAL__SEGMENT_BYTES", "1KiB", "wal.segment_bytes", "from 1MiB to 1GiB"),
        ("SLUICE__WAL__SEGMENT_BYTES", "64MB", "wal.segment_bytes", "must be a size"),
        ("SLUICE__WAL__SEGMENT_BYTES", "", "wal.segment_bytes", "must be a size"),
        (
            "SLUICE__HTTP__MAX_BODY_BYTES",
            "17MiB",
            "http.body_memory_tenant_bytes",
            "3 × `http.max_body_bytes` (51MiB)",
        ),
        ("SLUICE__HTTP__MAX_ENTRIES", "0", "http.max_entries", "whole number from 1"),
        ("SLUICE__HTTP__MAX_ENTRIES", "-1", "http.max_entries", "whole number"),
        ("SLUICE__LIMITS__BURST", "5", "limits.burst", "neither `limits.entries_per_second`"),
        ("SLUICE__LIMITS__CEILING", "maybe", "limits.ceiling", "true or false"),
        ("SLUICE__LIMITS__BYTES_PER_SECOND", "1MB", "limits.bytes_per_second", "must be a size"),
        (
            "SLUICE__LIMITS__UNAUTHENTICATED_BURST",
            "0",
            "limits.unauthenticated_burst",
            "nobody without a known credential",
        ),
        ("SLUICE__STORE__QUERY_TIMEOUT", "30", "store.query_timeout", "such as \"250ms\""),
        ("SLUICE__SHUTDOWN__DRAIN", "30s", "shutdown.drain", "less than `shutdown.deadline` (30s)"),
        ("SLUICE__DISK__RESERVE", "5%", "disk.reserve", "\"auto\""),
        ("SLUICE__LOG__LEVEL", "loud=shout", "log.level", "must be a level"),
        ("SLUICE__HTTP__TLS", r#"{"cert_file": "c.pem"}"#, "http.tls.key_file", "TLS needs both"),
        ("SLUICE__HTTP__TLS__KEY_FILE", "k.pem", "http.tls.cert_file", "TLS needs both"),
        ("SLUICE__HTTP__TLS__CERT", "c.pem", "http.tls.cert", "no such setting"),
        ("SLUICE__HTTP__TLS", "c.pem", "http.tls", "no such setting"),
        ("SLUICE__HTTP__HSTS", "forever", "http.hsts", "must be a time"),
        ("SLUICE__HTTP__CORS__ORIGINS", "https://app.example", "http.cors.origins", "list of origins"),
        ("SLUICE__HTTP__CORS__ORIGINS", r#"["*"]"#, "http.cors.origins", "no `*`"),
        ("SLUICE__HTTP__CORS__ORIGINS", r#"["https://*.example"]"#, "http.cors.origins", "no `*`"),
        ("SLUICE__HTTP__CORS__ORIGINS", r#"["null"]"#, "http.cors.origins", "list of origins"),
        ("SLUICE__HTTP__CORS__ORIGINS", r#"["https://app.example/"]"#, "http.cors.origins", "no path"),
        ("SLUICE__HTTP__CORS__ORIGINS", r#"["https://App.example"]"#, "http.cors.origins", "lower case"),
        ("SLUICE__HTTP__CORS__ORIGINS", r#"["https://app.example:443"]"#, "http.cors.origins", "unless"),
        ("SLUICE__HTTP__CORS__ORIGINS", r#"["https://app.example:080"]"#, "http.cors.origins", "unless"),
        (
            "SLUICE__HTTP__CORS__ORIGINS",
            r#"["https://u@app.example"]"#,
            "http.cors.origins",
            "scheme and host",
        ),
        ("SLUICE__HTTP__CORS__ORIGINS", r#"["ftp://app.example"]"#, "http.cors.origins", "scheme"),
        ("SLUICE__HTTP__CORS__ORIGINS", r#"["https://[::1"]"#, "http.cors.origins", "scheme"),
        ("SLUICE__HTTP__CORS__ORIGINS", r#"["https://[0:0::1]"]"#, "http.cors.origins", "scheme"),
        ("SLUICE__HTTP__CORS__ORIGINS", r#"["https://"]"#, "http.cors.origins", "scheme"),
        ("SLUICE__HTTP__CORS__ORIGINS", "[1]", "http.cors.origins", "list of origins"),
        ("SLUICE__LOG__FORMAT", "xml", "log.format", "`text`, `json`"),
        ("SLUICE__WAL__SEGMENT_SIZE", "1MiB", "wal.segment_size", "did you mean `wal.segment_bytes`?"),
        ("SLUICE__DATADIR", "x", "datadir", "did you mean `data_dir`?"),
        ("SLUICE__WAL", "64MiB", "wal", "no such setting"),
        ("SLUICE__", "x", "", "no such setting"),
    ];
    for (name, value, key, rule) in table {
        let (found, message) = problem(&environment(&[(name, value)]));
        assert!(found == key && message.contains(rule), "{name}={value}: `{found}` {message}");
    }
}

/// Settings of a process on SQS, ClickHouse, OpenSearch and S3.
const SHARED: [(&str, &str); 7] = [
    ("SLUICE__QUEUE__KIND", "sqs"),
    ("SLUICE__QUEUE__SQS__URLS", r#"["http://q/1/a", "http://q/1/b"]"#),
    ("SLUICE__STORES__ANALYTICS", "clickhouse"),
    ("SLUICE__STORES__SEARCH", "opensearch"),
    ("SLUICE__CLICKHOUSE__URL", "http://ch:8123"),
    ("SLUICE__OPENSEARCH__URL", "https://os:9200"),
    ("SLUICE__OBJECTS__URL", "s3://bucket/a/b/"),
];

fn shared(and: &[(&str, &str)]) -> Sources {
    let kept = SHARED.iter().filter(|(name, _)| !and.iter().any(|(other, _)| other == name));
    environment(&kept.chain(and).copied().collect::<Vec<_>>())
}

#[cfg(all(feature = "sqs", feature = "kinesis", feature = "clickhouse", feature = "opensearch", feature = "s3"))]
mod engines {
    use super::*;

    #[test]
    fn engines_come_with_what_they_need() {
        let sources = shared(&[
            ("SLUICE__ROLE", "consumer"),
            ("SLUICE__QUEUE__SQS__DEAD_LETTER_URLS", r#"["http://q/1/a-dlq", ""]"#),
            ("SLUICE__CLICKHOUSE__PASSWORD", "hunter2"),
            ("SLUICE__OPENSEARCH__PASSWORD_FILE", "secrets/opensearch"),
            ("SLUICE__OPENSEARCH__INDEX_STRATEGY", "per_tenant"),
            (
                "SLUICE__SOURCES",
                r#"[{"kind": "sqs", "url": "http://q/1/theirs", "tenants": ["acme", "globex-*"]}]"#,
            ),
        ]);
        let settings = Settings::load(&sources).unwrap_or_else(|e| panic!("{e}"));
        let engines = &settings.engines;
        let QueueChoice::Sqs(sqs) = &engines.queue else { panic!("sqs") };
        assert_eq!(sqs.urls, ["http://q/1/a", "http://q/1/b"]);
        assert_eq!(sqs.dead_letter_urls, [Some("http://q/1/a-dlq".to_owned()), None]);
        assert!(matches!(&engines.analytics, AnalyticsChoice::ClickHouse(ch) if ch.password.is_some() && ch.url.as_str() == "http://ch:8123/"));
        assert!(matches!(&engines.search, SearchChoice::OpenSearch(os) if os.index_strategy == IndexStrategy::PerTenant));
        let s3 = ObjectsChoice::S3 {
            bucket: "bucket".to_owned(),
            prefix: "a/b".to_owned(),
        };
        assert_eq!((&engines.objects, settings.role), (&s3, Role::Consumer));
        let [source] = engines.sources.as_slice() else { panic!("one source") };
        assert_eq!(
            (&source.from, source.actor.as_str()),
            (&SourceChoice::Sqs("http://q/1/theirs".to_owned()), "sqs:theirs")
        );
        assert_eq!(settings.seal.interval, Duration::from_secs(1), "seals are objects");
        let text = settings.to_toml();
        assert!(
            !text.contains("hunter2") && text.contains("interval = \"auto\"") && text.contains("[[sources]]"),
            "{text}"
        );
        let (_dir, again) = file(&text.replace("password = \"…\"", "password = \"x\""));
        assert_eq!(Settings::load(&again).unwrap_or_else(|e| panic!("{e}")).to_toml(), text);
    }

    #[test]
    fn what_goes_together_and_what_does_not() {
        let good: [&[(&str, &str)]; 8] = [
            &[],
            &[("SLUICE__ROLE", "api")],
            &[
                ("SLUICE__QUEUE__KIND", "kinesis"),
                ("SLUICE__QUEUE__KINESIS__STREAMS", r#"["a", "arn:aws:kinesis:eu-west-1:1:stream/b"]"#),
            ],
            &[("SLUICE__OBJECTS__URL", "")],
            &[("SLUICE__OBJECTS__URL", "file:///o")],
            &[("SLUICE__QUEUE__KIND", "wal")],
            &[("SLUICE__QUEUE__KIND", "wal"), ("SLUICE__STORES__ANALYTICS", "embedded")],
            &[
                ("SLUICE__QUEUE__KIND", "wal"),
                ("SLUICE__STORES__ANALYTICS", "embedded"),
                ("SLUICE__STORES__SEARCH", "embedded"),
            ],
        ];
        for and in good {
            Settings::load(&shared(and)).unwrap_or_else(|e| panic!("{and:?}: {e}"));
        }
        let (kinesis, wal) = (("SLUICE__QUEUE__KIND", "kinesis"), ("SLUICE__QUEUE__KIND", "wal"));
        type Bad<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
        let bad: [Bad; 13] = [
            (&[("SLUICE__STORES__ANALYTICS", "embedded")], "stores.analytics", "`queue.kind` is `sqs`"),
            (&[("SLUICE__STORES__SEARCH", "embedded")], "stores.search", "it must be `opensearch`"),
            (
                &[wal, ("SLUICE__STORES__SEARCH", "embedded")],
                "stores.search",
                "`stores.analytics` is `clickhouse`",
            ),
            (&[wal, ("SLUICE__ROLE", "api")], "role", "`queue.kind` is `wal`"),
            (
                &[("SLUICE__OBJECTS__URL", ""), ("SLUICE__ROLE", "api")],
                "objects.url",
                "need `s3://BUCKET/PREFIX`",
            ),
            (
                &[("SLUICE__OBJECTS__URL", "file:///o"), ("SLUICE__ROLE", "consumer")],
                "objects.url",
                "`role` is `consumer`",
            ),
            (&[("SLUICE__QUEUE__SQS__URLS", "[]")], "queue.sqs.urls", "is empty"),
            (&[kinesis], "queue.kinesis.streams", "is empty"),
            (
                &[("SLUICE__QUEUE__SQS__DEAD_LETTER_URLS", r#"["http://q/1/d"]"#)],
                "queue.sqs.dead_letter_urls",
                "in the same order",
            ),
            (&[("SLUICE__CLICKHOUSE__URL", "")], "clickhouse.url", "where ClickHouse answers"),
            (&[("SLUICE__OPENSEARCH__URL", "")], "opensearch.url", "where OpenSearch answers"),
            (&[("SLUICE__SEAL__INTERVAL", "10s")], "seal.lease", "more than 2 × `seal.interval` (20s)"),
            (
                &[("SLUICE__CLICKHOUSE__PASSWORD", "a"), ("SLUICE__CLICKHOUSE__PASSWORD_FILE", "b")],
                "clickhouse.password_file",
                "set one of them",
            ),
        ];
        for (and, key, rule) in bad {
            let (found, message) = problem(&shared(and));
            assert!(found == key && message.contains(rule), "{and:?}: `{found}` {message}");
        }
    }

    #[test]
    fn a_source_is_named_with_its_rule_and_is_no_queue_of_ours() {
        let table = [
            (r#"[{"url": "http://q/x", "tenants": ["a"]}]"#, "sources[0].kind", "is missing"),
            (r#"[{"kind": "kafka", "tenants": ["a"]}]"#, "sources[0].kind", "`sqs` or `kinesis`"),
            (r#"[{"kind": "sqs", "tenants": ["a"]}]"#, "sources[0].url", "is missing"),
            (r#"[{"kind": "sqs", "url": "http://q/x"}]"#, "sources[0].tenants", "is missing"),
            (r#"[{"kind": "sqs", "url": "http://q/x", "tenants": []}]"#, "sources[0].tenants", "is empty"),
            (
                r#"[{"kind": "sqs", "url": "http://q/x", "tenants": ["A"]}]"#,
                "sources[0].tenants",
                "tenant ids",
            ),
            (
                r#"[{"kind": "sqs", "url": "http://q/x", "tenants": ["a"], "actors": "x"}]"#,
                "sources[0].actors",
                "did you mean `actor`?",
            ),
            (
                r#"[{"kind": "kinesis", "url": "http://q/x", "stream": "s", "tenants": ["a"]}]"#,
                "sources[0].url",
                "no such setting",
            ),
            (r#"[{"kind": "sqs", "url": "http://q/1/a", "tenants": ["a"]}]"#, "sources[0].url", "own queues"),
            (
                r#"[{"kind": "kinesis", "stream": "s", "tenants": ["a"]}, {"kind": "kinesis", "stream": "s", "tenants": ["b"]}]"#,
                "sources[1].stream",
                "taken twice",
            ),
        ];
        for (json, key, rule) in table {
            let (found, message) = problem(&shared(&[("SLUICE__SOURCES", json)]));
            assert!(found == key && message.contains(rule), "{json}: `{found}` {message}");
        }
    }

    #[test]
    fn a_url_with_a_password_is_refused_unshown() {
        for (name, key) in [("SLUICE__CLICKHOUSE__URL", "clickhouse.url"), ("SLUICE__OPENSEARCH__URL", "opensearch.url")] {
            let (found, message) = problem(&shared(&[(name, "https://ann:hunter2@host")]));
            assert!(found == key && message.contains("without a user") && !message.contains("hunter2"), "{message}");
        }
    }
}

#[test]
fn an_engine_that_is_not_built_is_refused_by_its_feature() {
    let features = [
        ("sqs", "queue.kind", cfg!(feature = "sqs")),
        ("clickhouse", "stores.analytics", cfg!(feature = "clickhouse")),
        ("opensearch", "stores.search", cfg!(feature = "opensearch")),
        ("s3", "objects.url", cfg!(feature = "s3")),
    ];
    let found = match Settings::load(&shared(&[])) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems,
    };
    for (feature, key, built) in features {
        let said = found.iter().any(|p| p.key == key && p.message.contains(&format!("Cargo feature `{feature}`")));
        assert_eq!(said, !built, "{feature}: {found:?}");
    }
}

#[test]
fn all_problems_are_told_at_once_one_line_each() {
    let (_dir, mut sources) = file("[http]\nlisten = 5\nmax_entries = \"many\"\n[walrus]\ntusks = 2\n");
    sources.environment = environment(&[("SLUICE__WAL__GROUP_BYTES", "1B"), ("SLUICE__STORE__QUERIES", "none\nat all")]).environment;
    let error = Settings::load(&sources).expect_err("wrong");
    let keys: Vec<_> = error.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(keys, ["http.listen", "http.max_entries", "wal.group_bytes", "store.queries", "walrus.tusks"]);
    let text = error.to_string();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.contains("`http.max_entries` is `many` (file `"), "{text}");
    assert!(text.contains("(environment `SLUICE__WAL__GROUP_BYTES`)"), "{text}");
}

#[test]
fn a_file_that_cannot_be_read_is_one_problem_among_others() {
    let mut sources = environment(&[("SLUICE__ROLE", "x")]);
    sources.file = Some("no/such/file.toml".into());
    let all = problems(&sources);
    assert!(all[0].0 == "--config" && all[0].1.contains("`no/such/file.toml` cannot be read"), "{all:?}");
    assert_eq!(all[1].0, "role");
    let (_dir, sources) = file("data_dir = \"a\"\npassword = hunter2\n");
    let (key, message) = problem(&sources);
    assert!(key == "--config" && message.contains("line 2") && !message.contains("hunter2"), "{message}");
    let latin = Sources {
        environment: vec![("SLUICE__DATA_DIR".into(), OsString::from_vec(vec![b'/', 0xe4]))],
        ..Sources::default()
    };
    assert_eq!(problem(&latin).0, "data_dir");
}

/// The contract's example, word for word.
const ISSUER: &str = r#"
[[auth.issuers]]
name = "partner-idp"
issuer = "https://idp.example"           # iss
audience = ["sluice"]                    # one of them must be in aud; [] = not checked, warned
algorithms = ["RS256"]
require_exp = true
claims = { tenant = "org", role = "roles", subject = "sub" }   # a dotted path works; tenant and role may be strings or lists
roles = { Admin = ["admin"], Operator = ["writer", "viewer"] } # instead of the default map
tenants = ["acme", "globex-*"]           # which tenants it may speak for; ["*"] = all
max_role = "admin"                       # never platform_admin unless allow_platform = true
[auth.issuers.keys]                      # one of: secret, secret_file, tenant_secrets = { acme = "…" }, pem_file, jwks_url, jwks_file
jwks_url = "https://idp.example/jwks.json"

[auth.gateway]
enabled = false
cidrs = ["10.0.0.0/8"]
secret_file = "gateway.secret"
"#;

#[test]
fn issuers_are_read_from_a_file_and_from_the_environment_and_shown_without_secrets() {
    let (_dir, sources) = file(ISSUER);
    let settings = Settings::load(&sources).unwrap_or_else(|e| panic!("{e}"));
    let [issuer] = settings.auth.issuers.as_slice() else { panic!("one issuer") };
    assert_eq!(
        (&*issuer.rules.name, issuer.rules.issuer.as_deref()),
        ("partner-idp", Some("https://idp.example"))
    );
    assert!(settings.auth.gateway.is_none() && issuer.rules.require_exp && !issuer.rules.allow_platform);
    let text = settings.to_toml();
    assert!(
        text.contains("[[auth.issuers]]") && text.contains("jwks_url = \"https://idp.example/jwks.json\""),
        "{text}"
    );
    let (_dir, again) = file(&text);
    assert_eq!(
        Settings::load(&again).unwrap_or_else(|e| panic!("{e}")).to_toml(),
        text,
        "what is in force can be used as a file"
    );

    let json = r#"[{"issuer": "a", "audience": [], "tenants": null, "keys": {"secret": "hunter2"}},
                   {"issuer": "b", "audience": "x", "keys": {"tenant_secrets": {"acme": "hunter2", "globex": "hunter3"}}}]"#;
    let gateway = r#"{"enabled": true, "cidrs": ["10.0.0.0/8", "::1"], "secret": "hunter2"}"#;
    for variables in [
        vec![("SLUICE__AUTH__ISSUERS", json), ("SLUICE__AUTH__GATEWAY", gateway)],
        vec![
            ("SLUICE__AUTH__ISSUERS", json),
            ("SLUICE__AUTH__GATEWAY__ENABLED", "true"),
            ("SLUICE__AUTH__GATEWAY__CIDRS", r#"["10.0.0.0/8", "::1"]"#),
            ("SLUICE__AUTH__GATEWAY__SECRET", "hunter2"),
        ],
    ] {
        let settings = Settings::load(&environment(&variables)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((settings.auth.issuers.len(), settings.auth.gateway.is_some()), (2, true));
        assert!(
            !settings.to_toml().contains("hunter") && !format!("{settings:?}").contains("hunter"),
            "{settings:?}"
        );
    }
}

#[test]
fn every_mistake_of_an_issuer_is_named_with_its_rule_and_no_secret_is_shown() {
    let minimal = |changes: &str| format!("[[auth.issuers]]\nissuer = \"a\"\naudience = [\"x\"]\n{changes}");
    let secret = "keys = { secret = \"hunter2\" }";
    let with = |changes: &str| minimal(&format!("{secret}\n{changes}"));
    for (text, key, rule) in [
        ("[auth]\nissuers = 5".to_owned(), "auth.issuers", "must be a list of issuers"),
        ("[auth]\nissuers = [\"hunter2\"]".to_owned(), "auth.issuers", "must be a list of issuers"),
        (
            "[[auth.issuers]]\naudience = []\nkeys = { secret = \"hunter2\" }".to_owned(),
            "auth.issuers[0].issuer",
            "is missing",
        ),
        (
            format!("[[auth.issuers]]\nissuer = \"a\"\n{secret}"),
            "auth.issuers[0].audience",
            "[] does not check it",
        ),
        (minimal(""), "auth.issuers[0].keys", "is missing"),
        (minimal("keys = \"hunter2\""), "auth.issuers[0].keys", "must be a table"),
        (minimal("keys = {}"), "auth.issuers[0].keys", "must be one of secret, secret_file"),
        (
            minimal("keys = { secret = \"hunter2\", pem_file = \"x\" }"),
            "auth.issuers[0].keys",
            "there are several",
        ),
        (minimal("keys = { secret = \"\" }"), "auth.issuers[0].keys.secret", "not empty"),
        // As `check-config` prints it: everybody would know the secret.
        (minimal("keys = { secret = \"…\" }"), "auth.issuers[0].keys.secret", "not `…`"),
        (minimal("keys = { secret = [\"hunter2\"] }"), "auth.issuers[0].keys.secret", "must be a text"),
        (
            minimal("keys = { tenant_secrets = { Acme = \"hunter2\" } }"),
            "auth.issuers[0].keys.tenant_secrets",
            "a tenant id is",
        ),
        (
            minimal("keys = { tenant_secrets = { acme = 5 } }"),
            "auth.issuers[0].keys.tenant_secrets.acme",
            "must be a text",
        ),
        (
            minimal("keys = { tenant_secrets = {} }"),
            "auth.issuers[0].keys.tenant_secrets",
            "must be a table",
        ),
        (minimal("keys = { jwks_url = \"ftp://x/y\" }"), "auth.issuers[0].keys.jwks_url", "http or https"),
        (
            minimal("keys = { jwks_url = \"https://u:p@x/y\" }"),
            "auth.issuers[0].keys.jwks_url",
            "without a user",
        ),
        (
            minimal("keys = { jwks_uri = \"https://x/y\", pem_file = \"x\" }"),
            "auth.issuers[0].keys.jwks_uri",
            "did you mean `jwks_url`?",
        ),
        (with("algorithms = [\"HS257\"]"), "auth.issuers[0].algorithms", "HS256, HS384"),
        (with("algorithms = [\"none\"]"), "auth.issuers[0].algorithms", "HS256, HS384"),
        (with("algorithms = []"), "auth.issuers[0].algorithms", "is empty"),
        (
            with("algorithms = [\"HS256\", \"RS256\"]"),
            "auth.issuers[0].algorithms",
            "a secret checks HS256",
        ),
        (
            minimal("keys = { pem_file = \"x\" }\nalgorithms = [\"HS256\"]"),
            "auth.issuers[0].algorithms",
            "public keys check",
        ),
        (with("audiences = []"), "auth.issuers[0].audiences", "did you mean `audience`?"),
        (with("require_exp = \"no\""), "auth.issuers[0].require_exp", "true or false"),
        (with("claims = { tenant = \"\" }"), "auth.issuers[0].claims.tenant", "a claim's name"),
        (with("claims = { org = \"x\" }"), "auth.issuers[0].claims.org", "no such setting"),
        (with("roles = { Boss = [\"king\"] }"), "auth.issuers[0].roles.Boss", "writer, viewer, auditor"),
        (with("roles = { Boss = [] }"), "auth.issuers[0].roles.Boss", "writer, viewer, auditor"),
        (
            with("roles = { Boss = [\"admin\"], BOSS = [\"viewer\"] }"),
            "auth.issuers[0].roles",
            "differ in more than case",
        ),
        (with("tenants = []"), "auth.issuers[0].tenants", "is empty"),
        (with("tenants = [\"*-x\"]"), "auth.issuers[0].tenants", "prefixes such as"),
        (with("tenants = [\"Acme\"]"), "auth.issuers[0].tenants", "has `Acme`"),
        (with("max_role = \"king\""), "auth.issuers[0].max_role", "must be one of writer"),
        (with("max_role = \"platform_admin\""), "auth.issuers[0].max_role", "allow_platform"),
        (
            format!("{}\n{}", with(""), with("name = \"other\"")),
            "auth.issuers[1].issuer",
            "a token could be of either",
        ),
        (
            format!("{}\n{}", with("name = \"n\""), with("name = \"n\"").replace("\"a\"", "\"b\"")),
            "auth.issuers[1].name",
            "another issuer has too",
        ),
        (
            "[auth.gateway]\nenabled = true\nsecret = \"hunter2\"".to_owned(),
            "auth.gateway.cidrs",
            "needs the networks",
        ),
        (
            "[auth.gateway]\nenabled = true\ncidrs = [\"10.0.0.0/8\"]".to_owned(),
            "auth.gateway.secret_file",
            "needs one of them",
        ),
        (
            "[auth.gateway]\nenabled = true\ncidrs = [\"10.0.0.0/8\"]\nsecret = \"hunter2\"\nsecret_file = \"x\"".to_owned(),
            "auth.gateway.secret_file",
            "set one of them",
        ),
        ("[auth.gateway]\ncidrs = [\"10.0.0.0/99\"]".to_owned(), "auth.gateway.cidrs", "list of networks"),
        ("[auth.gateway]\nsecret = 5".to_owned(), "auth.gateway.secret", "must be a text"),
    ] {
        let (_dir, sources) = file(&text);
        let (found, message) = problem(&sources);
        assert!(
            found == key && message.contains(rule) && !message.contains("hunter2"),
            "{text}\n`{found}` {message}"
        );
    }
    let (found, message) = problem(&environment(&[("SLUICE__AUTH__ISSUERS", "[{\"keys\": {\"secret\": \"hunter2\"}")]));
    assert!(
        found == "auth.issuers" && message.contains("JSON list") && !message.contains("hunter2"),
        "{message}"
    );
}

#[test]
fn the_readmes_examples_are_good() {
    let readme = include_str!("../README.md");
    let section = readme
        .split("## Connect your identity provider")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .expect("the section");
    let examples: Vec<_> = section.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 5, "one for each kind");
    for example in examples.iter().copied().chain([examples.concat().as_str()]) {
        let (_dir, sources) = file(example);
        Settings::load(&sources).unwrap_or_else(|e| panic!("{e}\n{example}"));
    }
}
