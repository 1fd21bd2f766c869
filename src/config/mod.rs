//! Configuration: `config/default.toml` < file < environment < flags, read into [`Settings`].
//!
//! Everything is checked before anything starts, and all problems are told at once. An unknown key is a problem, and so is
//! an engine that this binary was built without, and engines that do not go together. Nothing downstream parses, and there are no globals: sections
//! are handed down. This module is the only one that reads the environment.

mod auth;
mod engines;
mod fields;
mod read;
mod source;
mod units;

pub use engines::{
    AnalyticsChoice, ClickHouseSettings, EngineSettings, IndexStrategy, KinesisSettings, ObjectsChoice, OpenSearchSettings, QueueChoice, Role, SealSettings,
    SearchChoice, SourceChoice, SourceSettings, SqsSettings,
};
pub use read::nearest;
pub use source::Sources;
pub use units::{parse_size, parse_span};

use crate::auth::settings::AuthSettings;
use read::{Choice, Reader};
use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};
use toml::{Table, Value};
use tracing_subscriber::EnvFilter;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Everything that is set, checked. Sizes are in bytes; `config/default.toml` says what each is for.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // one text for each key, and it is in config/default.toml
pub struct Settings {
    pub data_dir: PathBuf,
    pub role: Role,
    pub engines: EngineSettings,
    pub http: HttpSettings,
    pub admin: AdminSettings,
    /// How long the token of a login is good.
    pub login_ttl: Duration,
    pub disk: DiskSettings,
    pub wal: WalSettings,
    pub store: StoreSettings,
    pub limits: LimitSettings,
    pub actors: ActorSettings,
    pub seal: SealSettings,
    pub retention: RetentionSettings,
    pub feed: FeedSettings,
    pub exports: ExportSettings,
    pub access_log: AccessLogSettings,
    pub shutdown: ShutdownSettings,
    pub log: LogSettings,
    pub auth: AuthSettings,
    /// What is in force, as `sluice check-config` prints it: key and value in the order of reading.
    effective: Vec<(&'static str, Value)>,
}

/// `[http]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct HttpSettings {
    pub listen: SocketAddr,
    pub max_body_bytes: usize,
    pub max_entries: usize,
    pub body_memory_bytes: usize,
    pub body_memory_tenant_bytes: usize,
    pub body_idle: Duration,
    pub max_connections: usize,
    pub header_timeout: Duration,
    pub write_stall: Duration,
    pub tls: Option<TlsSettings>,
    pub hsts: Duration,
    /// Each as browsers write it: scheme, host, port unless it is the scheme's own.
    pub cors_origins: Vec<String>,
}

/// `[http.tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TlsSettings {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// `[admin]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct AdminSettings {
    pub listen: SocketAddr,
}

/// `[disk]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct DiskSettings {
    /// `None`: by the default rule.
    pub reserve: Option<u64>,
}

/// `[wal]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct WalSettings {
    pub segment_bytes: u64,
    pub group_bytes: usize,
    pub undecided_bytes: usize,
    pub undecided_tenant_bytes: usize,
}

/// `[store]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct StoreSettings {
    pub memtable_bytes: usize,
    pub flush_after: Duration,
    pub queries: usize,
    /// At least 1; the file's 0 is resolved.
    pub queries_of_tenant: usize,
    pub query_timeout: Duration,
}

/// `[limits]`; 0 is no limit.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct LimitSettings {
    pub entries_per_second: u64,
    pub bytes_per_second: u64,
    pub burst: u64,
    pub ceiling: bool,
    pub tenant_max_entries: u64,
    pub unauthenticated_per_minute: u64,
    pub unauthenticated_burst: u64,
    pub logins_per_minute: u64,
}

/// `[actors]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ActorSettings {
    /// At least 1; the file's 0 is resolved.
    pub shards: usize,
    pub idle_after: Duration,
    pub memory_bytes: usize,
    pub tenant_bytes: usize,
    pub batch_bytes: usize,
    pub batch_linger: Duration,
}

/// `[retention]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct RetentionSettings {
    pub interval: Duration,
}

/// `[feed]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct FeedSettings {
    pub sessions: usize,
    pub session_bytes: usize,
}

/// `[exports]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ExportSettings {
    pub jobs: usize,
    pub queue: usize,
    pub per_tenant: usize,
    pub keep: Duration,
}

/// `[access_log]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct AccessLogSettings {
    pub memory_bytes: usize,
    pub linger: Duration,
}

/// `[shutdown]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ShutdownSettings {
    pub deadline: Duration,
    pub drain: Duration,
}

/// `[log]`
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct LogSettings {
    /// A filter that has been checked.
    pub level: String,
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Something that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which setting.
    pub key: String,
    /// What it is, and what it should be.
    pub message: String,
}

impl Problem {
    fn new(key: impl Into<String>, message: String) -> Self {
        Self { key: key.into(), message }
    }
}

/// All that is wrong, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let line_end = if i == 0 { "" } else { "\n" };
            write!(f, "{line_end}configuration: `{}` {}", problem.key, problem.message)?;
        }
        Ok(())
    }
}

impl ConfigError {
    /// What was found wrong where the settings were put to use: keys, and what is wrong with each.
    pub fn found(wrong: Vec<(String, String)>) -> Self {
        let problems = wrong.into_iter().map(|(key, message)| Problem { key, message });
        Self { problems: problems.collect() }
    }
}

impl Settings {
    /// Reads and checks all sources. Blocks to read the file.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let layers = source::read(sources, &mut problems);
        let mut reader = Reader::new(layers, problems);
        let mut settings = Self::read(&mut reader);
        settings.effective = reader.finish().map_err(|problems| ConfigError { problems })?;
        Ok(settings)
    }

    fn read(r: &mut Reader) -> Self {
        let data_dir = r.path("data_dir");
        let role = engines::role(r);
        let engines = engines::engines(r, role, &data_dir);
        let settings = Self {
            seal: engines::seal(r, &engines),
            role,
            engines,
            http: http(r),
            admin: AdminSettings {
                listen: r.address("admin.listen"),
            },
            data_dir,
            login_ttl: r.span("auth.login_ttl", MINUTE..=7 * DAY),
            disk: DiskSettings {
                reserve: r.size_or_auto("disk.reserve"),
            },
            wal: wal(r),
            store: store(r),
            limits: limits(r),
            actors: actors(r),
            retention: RetentionSettings {
                interval: r.span("retention.interval", SECOND..=7 * DAY),
            },
            feed: FeedSettings {
                sessions: r.count("feed.sessions", 1..=100_000),
                session_bytes: r.size("feed.session_bytes", 16 * KIB..=64 * MIB) as usize,
            },
            exports: ExportSettings {
                jobs: r.count("exports.jobs", 1..=64),
                queue: r.count("exports.queue", 1..=100_000),
                per_tenant: r.count("exports.per_tenant", 1..=10_000),
                keep: r.span("exports.keep", SECOND..=365 * DAY),
            },
            access_log: AccessLogSettings {
                memory_bytes: r.size("access_log.memory_bytes", 8 * MIB..=GIB) as usize,
                linger: r.span("access_log.linger", Duration::from_millis(1)..=Duration::from_secs(10)),
            },
            shutdown: ShutdownSettings {
                deadline: r.span("shutdown.deadline", SECOND..=HOUR),
                drain: r.span("shutdown.drain", Duration::ZERO..=HOUR),
            },
            log: log(r),
            auth: auth::auth(r),
            effective: Vec::new(),
        };
        settings.check_together(r);
        settings
    }

    fn check_together(&self, r: &mut Reader) {
        let limits = &self.limits;
        let anything = limits.entries_per_second > 0 || limits.bytes_per_second > 0;
        r.require(["limits.burst", "limits.entries_per_second"], limits.burst == 0 || anything, || {
            format!(
                "is {}, but there is neither `limits.entries_per_second` nor `limits.bytes_per_second`",
                limits.burst
            )
        });
        r.require(
            ["limits.unauthenticated_burst", "limits.unauthenticated_per_minute"],
            limits.unauthenticated_per_minute == 0 || limits.unauthenticated_burst > 0,
            || "is 0, so that nobody without a known credential could come in; `limits.unauthenticated_per_minute = 0` is no limit".to_owned(),
        );
        let http = &self.http;
        let same_port = http.listen.port() != 0 && http.listen == self.admin.listen;
        r.require(["admin.listen", "http.listen"], !same_port, || {
            format!("is {}, which is `http.listen` too", self.admin.listen)
        });
        // A compressed body is there as received, decompressed and parsed, and the whole is only admitted if it fits.
        r.require(
            ["http.body_memory_tenant_bytes", "http.max_body_bytes"],
            http.body_memory_tenant_bytes / 3 >= http.max_body_bytes,
            || {
                let (is, least) = (units::size(http.body_memory_tenant_bytes as u64), units::size(3 * http.max_body_bytes as u64));
                format!("is {is}, but must be at least 3 × `http.max_body_bytes` ({least}): a body is there as received, decompressed and parsed")
            },
        );
        at_most(
            r,
            ["http.body_memory_tenant_bytes", "http.body_memory_bytes"],
            http.body_memory_tenant_bytes,
            http.body_memory_bytes,
        );
        // Other pairs need no rule, so that a script may set one of them alone: the smaller bound is reached first, and a
        // group or a tenant's memory is cut to its share of the whole.
        let (drain, deadline) = (self.shutdown.drain, self.shutdown.deadline);
        r.require(["shutdown.drain", "shutdown.deadline"], drain < deadline, || {
            format!(
                "is {}, but must be less than `shutdown.deadline` ({})",
                units::span(drain),
                units::span(deadline)
            )
        });
    }

    /// What is in force, as TOML. Secrets are shown as `"…"`.
    pub fn to_toml(&self) -> String {
        let mut table = Table::new();
        for (key, value) in &self.effective {
            let (sections, name) = key.rsplit_once('.').map_or((None, *key), |(sections, name)| (Some(sections), name));
            let mut place = &mut table;
            for section in sections.into_iter().flat_map(|sections| sections.split('.')) {
                let inner = place.entry(section).or_insert_with(|| Value::Table(Table::new()));
                place = inner.as_table_mut().expect("no key is the beginning of another");
            }
            place.insert(name.to_owned(), value.clone());
        }
        toml::to_string(&table).expect("plain values always encode")
    }
}

fn http(r: &mut Reader) -> HttpSettings {
    HttpSettings {
        listen: r.address("http.listen"),
        max_body_bytes: r.size("http.max_body_bytes", KIB..=256 * MIB) as usize,
        max_entries: r.count("http.max_entries", 1..=1_000_000),
        body_memory_bytes: r.size("http.body_memory_bytes", MIB..=64 * GIB) as usize,
        body_memory_tenant_bytes: r.size("http.body_memory_tenant_bytes", MIB..=64 * GIB) as usize,
        body_idle: r.span("http.body_idle", 100 * MS..=HOUR),
        max_connections: r.count("http.max_connections", 1..=1_000_000),
        header_timeout: r.span("http.header_timeout", 100 * MS..=HOUR),
        write_stall: r.span("http.write_stall", 100 * MS..=HOUR),
        tls: tls(r),
        hsts: r.span("http.hsts", Duration::ZERO..=3650 * DAY),
        cors_origins: r.list("http.cors.origins", ORIGIN_RULE, |text| is_origin(text).then(|| text.to_owned())),
    }
}

const ORIGIN_RULE: &str = "must be a list of origins as browsers write them, such as [\"https://app.example\"]: scheme and host in lower case, \
                           a port unless it is the scheme's own, no path, no `*`";

/// `scheme://host[:port]`, exactly as a browser writes it into `Origin`; anything else would never match.
fn is_origin(text: &str) -> bool {
    let Some((scheme @ ("http" | "https"), place)) = text.split_once("://") else {
        return false;
    };
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => match address.parse::<std::net::Ipv6Addr>() {
            Ok(parsed) if parsed.to_string() == address => ("h", rest.strip_prefix(':').or((!rest.is_empty()).then_some("?"))),
            _ => return false,
        },
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    let own = if scheme == "https" { 443 } else { 80 };
    let port_is_good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|n| n != 0 && n != own && n.to_string() == port));
    (1..=253).contains(&host.len()) && host.bytes().all(known) && port_is_good
}

fn tls(r: &mut Reader) -> Option<TlsSettings> {
    const KEYS: [&str; 2] = ["http.tls.cert_file", "http.tls.key_file"];
    let [cert_file, key_file] = KEYS.map(|key| {
        let path = r.text(key, "must be the path of a PEM file, or \"\"", |text| {
            (!text.contains('\0')).then(|| PathBuf::from(text))
        });
        path.filter(|path| !path.as_os_str().is_empty())
    });
    for (key, other, alone) in [
        (KEYS[0], KEYS[1], cert_file.is_none() && key_file.is_some()),
        (KEYS[1], KEYS[0], cert_file.is_some() && key_file.is_none()),
    ] {
        r.require([key, other], !alone, || format!("is missing, but `{other}` is set: TLS needs both"));
    }
    Some(TlsSettings {
        cert_file: cert_file?,
        key_file: key_file?,
    })
}

fn wal(r: &mut Reader) -> WalSettings {
    WalSettings {
        // Offsets in a segment have 32 bits.
        segment_bytes: r.size("wal.segment_bytes", MIB..=GIB),
        group_bytes: r.size("wal.group_bytes", 64 * KIB..=64 * MIB) as usize,
        undecided_bytes: r.size("wal.undecided_bytes", 64 * KIB..=16 * GIB) as usize,
        undecided_tenant_bytes: r.size("wal.undecided_tenant_bytes", 64 * KIB..=16 * GIB) as usize,
    }
}

fn store(r: &mut Reader) -> StoreSettings {
    let queries = r.count("store.queries", 1..=1024);
    // More queries of one tenant at once than processors make none of them faster, and those of others slower.
    let processors = || std::thread::available_parallelism().map_or(2, |n| n.get().max(2));
    StoreSettings {
        memtable_bytes: r.size("store.memtable_bytes", MIB..=16 * GIB) as usize,
        flush_after: r.span("store.flush_after", SECOND..=30 * DAY),
        queries,
        queries_of_tenant: match r.count("store.queries_of_tenant", 0..=1024) {
            0 => processors().min(queries / 2).max(1),
            share => share,
        },
        query_timeout: r.span("store.query_timeout", 10 * MS..=HOUR),
    }
}

fn actors(r: &mut Reader) -> ActorSettings {
    let processors = || std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    ActorSettings {
        shards: match r.count("actors.shards", 0..=256) {
            0 => processors(),
            shards => shards,
        },
        idle_after: r.span("actors.idle_after", 10 * MS..=DAY),
        memory_bytes: r.size("actors.memory_bytes", MIB..=16 * GIB) as usize,
        tenant_bytes: r.size("actors.tenant_bytes", 64 * KIB..=2 * GIB) as usize,
        batch_bytes: r.size("actors.batch_bytes", KIB..=64 * MIB) as usize,
        batch_linger: r.span("actors.batch_linger", Duration::ZERO..=SECOND),
    }
}

fn limits(r: &mut Reader) -> LimitSettings {
    // As far as a JSON number keeps its digits; nothing overflows beyond it either.
    const MOST: usize = 1 << 53;
    let mut count = |key| r.count(key, 0..=MOST) as u64;
    LimitSettings {
        entries_per_second: count("limits.entries_per_second"),
        burst: count("limits.burst"),
        tenant_max_entries: count("limits.tenant_max_entries"),
        unauthenticated_per_minute: count("limits.unauthenticated_per_minute"),
        unauthenticated_burst: count("limits.unauthenticated_burst"),
        logins_per_minute: count("limits.logins_per_minute"),
        bytes_per_second: r.size("limits.bytes_per_second", 0..=1 << 50),
        ceiling: r.flag("limits.ceiling"),
    }
}

fn log(r: &mut Reader) -> LogSettings {
    let rule = "must be a level (`error`, `warn`, `info`, `debug`, `trace`) or levels by module, such as \"info,sluice::http=debug\"";
    let level = r.text("log.level", rule, |text| {
        (!text.trim().is_empty() && EnvFilter::builder().parse(text).is_ok()).then(|| text.to_owned())
    });
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)].map(|(name, format)| Choice { name, meaning: Some(format) });
    LogSettings {
        level: level.unwrap_or_default(),
        format: r.choice("log.format", &formats).unwrap_or(LogFormat::Text),
    }
}

fn at_most(r: &mut Reader, keys: [&'static str; 2], part: usize, whole: usize) {
    r.require(keys, part <= whole, || {
        let (is, most) = (units::size(part as u64), units::size(whole as u64));
        format!("is {is}, but must be at most `{}` ({most})", keys[1])
    });
}
