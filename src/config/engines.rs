//! What the process does and with which engines: role, queue, stores, objects, sources, and the rules about which of them go together.
//!
//! | `queue.kind` | `stores.analytics` / `stores.search` | `objects.url` | `role` |
//! |---|---|---|---|
//! | wal | embedded/embedded, embedded/opensearch, clickhouse/opensearch | any | all |
//! | sqs, kinesis | clickhouse/opensearch | a folder | all |
//! | sqs, kinesis | clickhouse/opensearch | s3 | all, api, consumer |
//!
//! Anything else is refused, naming keys, values and rule; so is an engine whose Cargo feature this binary was built without.

use super::{
    DAY, GIB, HOUR, KIB, MIB, MINUTE, MS, SECOND,
    fields::{Fields, list_of, tables},
    read::{Choice, Reader},
    source::Given,
    units,
};
use crate::auth::{
    claims::{TenantBounds, is_subject},
    settings::{Hidden, Secret},
};
use reqwest::Url;
use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};
use toml::{Table, Value};

/// More are a mistake: each is polled by itself, and each consumer may own all of them.
const MOST_PARTITIONS: usize = 256;
const MOST_SOURCES: usize = 1000;
const URLS: &str = "queue.sqs.urls";
const DEAD_LETTER_URLS: &str = "queue.sqs.dead_letter_urls";
const STREAMS: &str = "queue.kinesis.streams";
const SOURCES: &str = "sources";
const URL_RULE: &str = "must be an http or https URL with a host, without a user, a password or a query in it";
const STREAM_RULE: &str = "the name of a Kinesis stream, or its ARN";

/// What the process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    All,
    /// Takes entries and answers reads; decides nothing.
    Api,
    /// Decides and stores; answers nothing but health and metrics.
    Consumer,
}

impl Role {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Consumer => "consumer",
        }
    }

    /// Whether it takes requests.
    pub fn serves(self) -> bool {
        self != Self::Consumer
    }

    /// Whether it decides and stores.
    pub fn consumes(self) -> bool {
        self != Self::Api
    }
}

/// The engines, each with what it needs.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // one text for each key, and it is in config/default.toml
pub struct EngineSettings {
    pub queue: QueueChoice,
    pub analytics: AnalyticsChoice,
    pub search: SearchChoice,
    pub objects: ObjectsChoice,
    pub sources: Vec<SourceSettings>,
}

impl EngineSettings {
    /// Everything in the data folder, and nothing that others write.
    pub fn embedded(data_dir: &Path) -> Self {
        Self {
            queue: QueueChoice::Wal,
            analytics: AnalyticsChoice::Embedded,
            search: SearchChoice::Embedded,
            objects: ObjectsChoice::Folder(data_dir.join("objects")),
            sources: Vec::new(),
        }
    }
}

/// `queue.kind`
#[derive(Debug, Clone)]
pub enum QueueChoice {
    /// The log in the data folder.
    Wal,
    /// Amazon SQS, or what speaks like it.
    Sqs(SqsSettings),
    /// Amazon Kinesis, or what speaks like it.
    Kinesis(KinesisSettings),
}

impl QueueChoice {
    /// Whether processes share it.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::Wal)
    }

    /// As it is written.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Sqs(_) => "sqs",
            Self::Kinesis(_) => "kinesis",
        }
    }
}

/// `[queue.sqs]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct SqsSettings {
    /// One queue for each partition.
    pub urls: Vec<String>,
    /// In the order of `urls`; `None` where a queue has none.
    pub dead_letter_urls: Vec<Option<String>>,
    pub linger: Duration,
    pub wait: Duration,
    pub visibility: Duration,
    pub min_retention: Duration,
    pub receivers: usize,
    pub credit: usize,
}

/// `[queue.kinesis]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct KinesisSettings {
    /// Names or ARNs: one stream for each partition.
    pub streams: Vec<String>,
    pub linger: Duration,
    pub poll: Duration,
    pub credit: usize,
}

/// `stores.analytics`
#[derive(Debug, Clone)]
pub enum AnalyticsChoice {
    /// The store in the data folder.
    Embedded,
    /// ClickHouse.
    ClickHouse(ClickHouseSettings),
}

/// `stores.search`
#[derive(Debug, Clone)]
pub enum SearchChoice {
    /// The store in the data folder.
    Embedded,
    /// OpenSearch.
    OpenSearch(OpenSearchSettings),
}

/// `[clickhouse]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ClickHouseSettings {
    pub url: Url,
    pub user: String,
    pub password: Option<Secret>,
    pub database: String,
    pub timeout: Duration,
}

/// `[opensearch]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct OpenSearchSettings {
    pub url: Url,
    pub user: String,
    pub password: Option<Secret>,
    pub index_prefix: String,
    pub index_strategy: IndexStrategy,
    pub timeout: Duration,
}

/// How tenants are spread over indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexStrategy {
    /// Many tenants in one index.
    Shared,
    /// Each tenant has its own.
    PerTenant,
}

/// `objects.url`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectsChoice {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket, and the folder in it, without slashes at its ends.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix.
        prefix: String,
    },
}

/// One of `[[sources]]`.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// The queue.
    pub from: SourceChoice,
    /// Which tenants it may write for.
    pub tenants: TenantBounds,
    /// Whom its entries name as their actor.
    pub actor: String,
}

/// A queue that others write.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SourceChoice {
    /// The URL of an SQS queue.
    Sqs(String),
    /// The name or the ARN of a Kinesis stream.
    Kinesis(String),
}

/// Whether the engine of this name can be used: the feature that has its name is compiled in.
fn is_built(name: &str) -> bool {
    match name {
        "sqs" => cfg!(feature = "sqs"),
        "kinesis" => cfg!(feature = "kinesis"),
        "clickhouse" => cfg!(feature = "clickhouse"),
        "opensearch" => cfg!(feature = "opensearch"),
        "s3" => cfg!(feature = "s3"),
        _ => true,
    }
}

/// Reads what the process does.
pub fn role(r: &mut Reader) -> Role {
    let roles = [Role::All, Role::Api, Role::Consumer].map(|role| Choice {
        name: role.name(),
        meaning: Some(role),
    });
    r.choice("role", &roles).unwrap_or(Role::All)
}

/// Reads the engines and checks that they go together.
pub fn engines(r: &mut Reader, role: Role, data_dir: &Path) -> EngineSettings {
    let kind = pick(r, "queue.kind", ["wal", "sqs", "kinesis"]);
    let (sqs, kinesis) = (sqs(r), self::kinesis(r));
    let analytics = pick(r, "stores.analytics", ["embedded", "clickhouse"]);
    let search = pick(r, "stores.search", ["embedded", "opensearch"]);
    let (clickhouse, opensearch) = (clickhouse(r), opensearch(r));
    let engines = EngineSettings {
        objects: objects(r, data_dir),
        sources: sources(r, &sqs, &kinesis),
        queue: match kind {
            "sqs" => QueueChoice::Sqs(sqs),
            "kinesis" => QueueChoice::Kinesis(kinesis),
            _ => QueueChoice::Wal,
        },
        analytics: match (analytics, clickhouse) {
            ("clickhouse", Some(clickhouse)) => AnalyticsChoice::ClickHouse(clickhouse),
            ("clickhouse", None) => {
                r.problem_unless_told(
                    "clickhouse.url",
                    "is empty, but `stores.analytics` is `clickhouse`: say where ClickHouse answers HTTP",
                );
                AnalyticsChoice::Embedded
            }
            _ => AnalyticsChoice::Embedded,
        },
        search: match (search, opensearch) {
            ("opensearch", Some(opensearch)) => SearchChoice::OpenSearch(opensearch),
            ("opensearch", None) => {
                r.problem_unless_told(
                    "opensearch.url",
                    "is empty, but `stores.search` is `opensearch`: say where OpenSearch answers HTTP",
                );
                SearchChoice::Embedded
            }
            _ => SearchChoice::Embedded,
        },
    };
    check_together(r, role, [kind, analytics, search], &engines);
    engines
}

/// One of some names, refused when its engine is not in this binary.
fn pick<const N: usize>(r: &mut Reader, key: &'static str, names: [&'static str; N]) -> &'static str {
    let choices = names.map(|name| Choice {
        name,
        meaning: is_built(name).then_some(name),
    });
    r.choice(key, &choices).unwrap_or(names[0])
}

fn check_together(r: &mut Reader, role: Role, [kind, analytics, search]: [&'static str; 3], engines: &EngineSettings) {
    let shared = kind != "wal";
    r.require(["role", "queue.kind"], shared || role == Role::All, || {
        format!(
            "is `{}`, but `queue.kind` is `wal`, which no other process can reach: with `wal` it must be `all`; `api` and `consumer` need `sqs` or `kinesis`",
            role.name()
        )
    });
    r.require(["stores.analytics", "queue.kind"], !shared || analytics == "clickhouse", || {
        format!("is `{analytics}`, but `queue.kind` is `{kind}`, whose processes share their stores: it must be `clickhouse`")
    });
    r.require(["stores.search", "queue.kind"], !shared || search == "opensearch", || {
        format!("is `{search}`, but `queue.kind` is `{kind}`, whose processes share their stores: it must be `opensearch`")
    });
    r.require(
        ["stores.search", "stores.analytics"],
        shared || analytics == "embedded" || search == "opensearch",
        || format!("is `{search}`, but `stores.analytics` is `{analytics}`: the embedded store searches only what it stores itself; it must be `opensearch`"),
    );
    let here = matches!(engines.objects, ObjectsChoice::Folder(_));
    r.require(["objects.url", "role"], !shared || !here || role == Role::All, || {
        format!(
            "is a folder of this machine, but `role` is `{}`: processes that are apart need `s3://BUCKET/PREFIX`; a folder is for `all`",
            role.name()
        )
    });
    if let QueueChoice::Sqs(sqs) = &engines.queue {
        r.require([URLS, "queue.kind"], !sqs.urls.is_empty(), || {
            "is empty, but `queue.kind` is `sqs`: it needs the URL of a queue".to_owned()
        });
        let (queues, redrive) = (sqs.urls.len(), sqs.dead_letter_urls.len());
        r.require([DEAD_LETTER_URLS, URLS], redrive == 0 || redrive == queues, || {
            format!(
                "has {redrive} queues, but `{URLS}` has {queues}: name the dead-letter queue of each in the same order, \"\" where one has none, or none at all"
            )
        });
    }
    if let QueueChoice::Kinesis(kinesis) = &engines.queue {
        r.require([STREAMS, "queue.kind"], !kinesis.streams.is_empty(), || {
            "is empty, but `queue.kind` is `kinesis`: it needs the name of a stream".to_owned()
        });
    }
}

fn sqs(r: &mut Reader) -> SqsSettings {
    let rule = "must be a list of URLs of SQS queues, each once";
    let urls = r.list(URLS, rule, |text| queue_url(text).then(|| text.to_owned()));
    let some = |text: &str| (text.is_empty() || queue_url(text)).then(|| (!text.is_empty()).then(|| text.to_owned()));
    let dead_letter_urls = r.list(DEAD_LETTER_URLS, rule, some);
    each_once(r, URLS, urls.iter().chain(dead_letter_urls.iter().flatten()));
    SqsSettings {
        urls,
        dead_letter_urls,
        linger: r.span("queue.sqs.linger", Duration::ZERO..=SECOND),
        wait: r.span("queue.sqs.wait", Duration::ZERO..=20 * SECOND),
        visibility: r.span("queue.sqs.visibility", 10 * SECOND..=12 * HOUR),
        min_retention: r.span("queue.sqs.min_retention", HOUR..=14 * DAY),
        receivers: r.count("queue.sqs.receivers", 1..=64),
        credit: r.size("queue.sqs.credit", 4 * MIB..=16 * GIB) as usize,
    }
}

fn kinesis(r: &mut Reader) -> KinesisSettings {
    let rule = format!("must be a list, each {STREAM_RULE}, and each once");
    let streams = r.list(STREAMS, &rule, |text| is_stream(text).then(|| text.to_owned()));
    each_once(r, STREAMS, streams.iter());
    KinesisSettings {
        streams,
        linger: r.span("queue.kinesis.linger", Duration::ZERO..=SECOND),
        poll: r.span("queue.kinesis.poll", 10 * MS..=MINUTE),
        credit: r.size("queue.kinesis.credit", 4 * MIB..=16 * GIB) as usize,
    }
}

/// The place in the list is the partition: a queue that stood there twice would be two partitions with the same packs.
fn each_once<'a>(r: &mut Reader, key: &'static str, all: impl Iterator<Item = &'a String>) {
    let all: Vec<_> = all.collect();
    let mut seen = HashSet::new();
    if let Some(twice) = all.iter().find(|one| !seen.insert(one.as_str())) {
        r.problem(key, format!("names `{twice}` twice"));
    } else if all.len() > 2 * MOST_PARTITIONS {
        r.problem(key, format!("has more than {MOST_PARTITIONS}"));
    }
}

fn clickhouse(r: &mut Reader) -> Option<ClickHouseSettings> {
    let url = url(r, "clickhouse.url");
    let user = user(r, "clickhouse.user");
    let password = secret(r, "clickhouse.password", "clickhouse.password_file");
    let rule = "must be a name of letters, digits and `_` that begins with none of the digits, at most 64 characters";
    let database = r.text("clickhouse.database", rule, |text| {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let first = text.chars().next().is_some_and(|c| !c.is_ascii_digit());
        (first && text.len() <= 64 && text.chars().all(good)).then(|| text.to_owned())
    });
    let timeout = r.span("clickhouse.timeout", 100 * MS..=HOUR);
    Some(ClickHouseSettings {
        url: url?,
        user,
        password,
        database: database.unwrap_or_default(),
        timeout,
    })
}

fn opensearch(r: &mut Reader) -> Option<OpenSearchSettings> {
    let url = url(r, "opensearch.url");
    let user = user(r, "opensearch.user");
    let password = secret(r, "opensearch.password", "opensearch.password_file");
    let rule = "must be a name of lower-case letters, digits, `-` and `_` that begins with a letter, at most 40 characters";
    let index_prefix = r.text("opensearch.index_prefix", rule, |text| {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        let first = text.chars().next().is_some_and(|c| c.is_ascii_lowercase());
        (first && text.len() <= 40 && text.chars().all(good)).then(|| text.to_owned())
    });
    let strategies = [("shared", IndexStrategy::Shared), ("per_tenant", IndexStrategy::PerTenant)];
    let strategies = strategies.map(|(name, strategy)| Choice { name, meaning: Some(strategy) });
    let index_strategy = r.choice("opensearch.index_strategy", &strategies);
    let timeout = r.span("opensearch.timeout", 100 * MS..=HOUR);
    Some(OpenSearchSettings {
        url: url?,
        user,
        password,
        index_prefix: index_prefix.unwrap_or_default(),
        index_strategy: index_strategy.unwrap_or(IndexStrategy::Shared),
        timeout,
    })
}

fn objects(r: &mut Reader, data_dir: &Path) -> ObjectsChoice {
    let rule = "must be \"\", file:///AN/ABSOLUTE/PATH or s3://BUCKET/PREFIX (a prefix of lower-case letters, digits, `-`, `_` and `/`)";
    let objects = r.text("objects.url", rule, |url| match url.split_once("://") {
        None => url.is_empty().then(|| ObjectsChoice::Folder(data_dir.join("objects"))),
        Some(("file", path)) => path.starts_with('/').then(|| ObjectsChoice::Folder(PathBuf::from(path))),
        Some(("s3", place)) => bucket(place),
        Some(_) => None,
    });
    if matches!(objects, Some(ObjectsChoice::S3 { .. })) && !is_built("s3") {
        r.problem("objects.url", super::read::not_built("s3"));
    }
    objects.unwrap_or_else(|| ObjectsChoice::Folder(PathBuf::new()))
}

fn bucket(place: &str) -> Option<ObjectsChoice> {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let is_bucket = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let is_folder = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let folder = |name: &str| !name.is_empty() && name.bytes().all(is_folder);
    let good_prefix = prefix.is_empty() || (prefix.len() <= 200 && prefix.split('/').all(folder));
    let good = (3..=63).contains(&bucket.len()) && bucket.bytes().all(is_bucket) && good_prefix;
    good.then(|| ObjectsChoice::S3 {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    })
}

/// `None`: not set, or wrong. What is wrong is not shown: people put passwords into URLs.
fn url(r: &mut Reader, key: &'static str) -> Option<Url> {
    let Some(Given { value, origin }) = r.raw(key) else {
        r.keep(key, None);
        r.problem(key, format!("is missing: it {URL_RULE}"));
        return None;
    };
    let text = value.as_str().map(str::trim);
    if text == Some("") {
        r.keep(key, Some(Value::from("")));
        return None;
    }
    let good = |url: &Url| {
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && plain
    };
    let url = text.and_then(|text| Url::parse(text).ok()).filter(good);
    match &url {
        Some(url) => r.keep(key, Some(Value::from(url.as_str()))),
        None => {
            r.keep(key, None);
            r.problem(key, format!("({origin}): {URL_RULE}"));
        }
    }
    url
}

fn user(r: &mut Reader, key: &'static str) -> String {
    let rule = "must be a name without control characters, or \"\"";
    let user = r.text(key, rule, |text| {
        (text.len() <= 256 && !text.chars().any(char::is_control)).then(|| text.to_owned())
    });
    user.unwrap_or_default()
}

fn secret(r: &mut Reader, key: &'static str, file_key: &'static str) -> Option<Secret> {
    let given = r.hidden(key);
    if given.as_deref() == Some("…") {
        r.problem(key, "is `…`, as `check-config` shows a password: set the password itself".to_owned());
    }
    let given = given.and_then(|text| Hidden::new(&text)).map(Secret::Given);
    let file = r.text(file_key, "must be a path", |text| (!text.contains('\0')).then(|| PathBuf::from(text)));
    let file = file.filter(|path| !path.as_os_str().is_empty()).map(Secret::File);
    if given.is_some() && file.is_some() {
        r.problem(file_key, format!("is set beside `{key}`; set one of them"));
    }
    given.or(file)
}

fn queue_url(text: &str) -> bool {
    let is_queue = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.path().len() > 1 && url.query().is_none();
    Url::parse(text)
        .ok()
        .filter(is_queue)
        .is_some_and(|url| url.username().is_empty() && url.password().is_none())
}

fn is_stream(text: &str) -> bool {
    let name = match text.strip_prefix("arn:") {
        Some(rest) => match rest.split_once(":stream/") {
            Some((of, name)) if of.contains(":kinesis:") => name,
            _ => return false,
        },
        None => text,
    };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=128).contains(&name.len()) && name.chars().all(good)
}

fn sources(r: &mut Reader, sqs: &SqsSettings, kinesis: &KinesisSettings) -> Vec<SourceSettings> {
    const RULE: &str = "must be a list of queues: `[[sources]]` in a file, a JSON list of objects in the environment";
    let Some(tables) = tables(r, SOURCES, MOST_SOURCES, RULE) else {
        return Vec::new();
    };
    let mut sources: Vec<SourceSettings> = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let at = format!("{SOURCES}[{index}]");
        let Some(source) = source(Fields::new(r, at.clone(), table)) else { continue };
        let (name, own) = match &source.from {
            SourceChoice::Sqs(url) => ("url", sqs.urls.contains(url) || sqs.dead_letter_urls.iter().flatten().any(|own| own == url)),
            SourceChoice::Kinesis(stream) => ("stream", kinesis.streams.contains(stream)),
        };
        if own {
            let rule = "is one of this server's own queues: its messages are no entries of others";
            r.problem(&format!("{at}.{name}"), rule.to_owned());
        }
        if sources.iter().any(|other| other.from == source.from) {
            r.problem(
                &format!("{at}.{name}"),
                "is in another of the sources too: each entry would be taken twice".to_owned(),
            );
        }
        sources.push(source);
    }
    r.keep(SOURCES, Some(list_of(sources.iter().map(in_force))));
    sources
}

fn source(mut f: Fields<'_>) -> Option<SourceSettings> {
    let kind = f.needed("kind", "must be `sqs` or `kinesis`", |text| {
        ["sqs", "kinesis"].into_iter().find(|kind| *kind == text)
    });
    let from = match kind {
        Some("sqs") => {
            let rule = "must be the URL of an SQS queue";
            let url = f.needed("url", rule, |text| queue_url(text).then(|| text.to_owned()));
            url.map(SourceChoice::Sqs)
        }
        Some(_) => {
            let stream = f.needed("stream", &format!("must be {STREAM_RULE}"), |text| is_stream(text).then(|| text.to_owned()));
            stream.map(SourceChoice::Kinesis)
        }
        None => {
            let _ = (f.take("url"), f.take("stream"));
            None
        }
    };
    if let Some(kind) = kind.filter(|kind| !is_built(kind)) {
        f.wrong("kind", super::read::not_built(kind));
    }
    let rule = "must be a list of tenant ids, prefixes such as \"globex-*\", or \"*\"; the source may write for these only";
    let tenants = f.needed_list("tenants", rule, |text| TenantBounds::parse([text].into_iter()).is_ok().then(|| text.to_owned()));
    if tenants.as_ref().is_some_and(Vec::is_empty) {
        f.wrong("tenants", format!("is empty: it {rule}"));
    }
    let tenants = TenantBounds::parse(tenants.iter().flatten().map(String::as_str)).ok();
    let actor = f.text("actor", "must be a text of 1 to 256 bytes without control characters", |text| {
        is_subject(text).then(|| text.to_owned())
    });
    if !f.end() {
        return None;
    }
    let from = from?;
    let actor = actor.unwrap_or_else(|| {
        let (kind, place) = match &from {
            SourceChoice::Sqs(url) => ("sqs", url),
            SourceChoice::Kinesis(stream) => ("kinesis", stream),
        };
        format!("{kind}:{}", place.rsplit('/').next().unwrap_or(place))
    });
    Some(SourceSettings {
        from,
        tenants: tenants?,
        actor,
    })
}

fn in_force(source: &SourceSettings) -> Value {
    let (kind, name, place) = match &source.from {
        SourceChoice::Sqs(url) => ("sqs", "url", url),
        SourceChoice::Kinesis(stream) => ("kinesis", "stream", stream),
    };
    let fields: BTreeMap<&str, Value> = BTreeMap::from([
        ("kind", kind.into()),
        (name, place.as_str().into()),
        ("tenants", list_of(source.tenants.texts())),
        ("actor", source.actor.as_str().into()),
    ]);
    Value::Table(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Table>())
}

/// `[seal]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct SealSettings {
    /// The least time from one seal to the next; the file's `auto` is resolved.
    pub interval: Duration,
    pub target_bytes: usize,
    pub window_bytes: usize,
    pub max_backlog: u64,
    pub lease: Duration,
    pub clock_skew: Duration,
}

/// Where a seal is an object or a block of inserts fewer are better; in the log and the store of the data folder one costs next to nothing.
const SHARED_INTERVAL: Duration = SECOND;

/// Reads `[seal]`.
pub fn seal(r: &mut Reader, engines: &EngineSettings) -> SealSettings {
    let elsewhere = engines.queue.is_shared() || matches!(engines.analytics, AnalyticsChoice::ClickHouse(_));
    let auto = if elsewhere { SHARED_INTERVAL } else { Duration::ZERO };
    let settings = SealSettings {
        interval: r.span_or_auto("seal.interval", Duration::ZERO..=10 * SECOND).unwrap_or(auto),
        target_bytes: r.size("seal.target_bytes", 64 * KIB..=64 * MIB) as usize,
        window_bytes: r.size("seal.window_bytes", MIB..=16 * GIB) as usize,
        max_backlog: r.size("seal.max_backlog", MIB..=1024 * GIB),
        lease: r.span("seal.lease", 500 * MS..=10 * MINUTE),
        clock_skew: r.span("seal.clock_skew", Duration::ZERO..=DAY),
    };
    let wait = 2 * settings.interval;
    r.require(["seal.lease", "seal.interval"], settings.lease > wait, || {
        format!(
            "is {}, but must be more than 2 × `seal.interval` ({})",
            units::span(settings.lease),
            units::span(wait)
        )
    });
    settings
}
