//! The command line: arguments in, an exit code out. One file per command that a person types.
//!
//! Results go to stdout, logs and errors to stderr. An error is one clear line (a wrong configuration one per problem).

pub mod check_config;
pub mod client;
pub mod deadletters;
pub mod demo;
pub mod entries;
pub mod ingest;
pub mod migrate;
pub mod query;
pub mod rebuild;
pub mod search;
pub mod serve;
pub mod tail;
pub mod token;
pub mod verify_store;

use crate::{
    auth::jwt::roles_named,
    config::{Settings, Sources, parse_span},
    error::{AppError, Exit},
    model::tenant::TenantId,
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{io::Write, path::PathBuf, time::Duration};
use uuid::Uuid;

/// The audit log that never loses, never leaks, never lies.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// A configuration file (TOML) over the defaults; the environment (SLUICE__SECTION__KEY) and flags go over it
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder, instead of the configured one
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Show the whole thing at work on this machine, with made-up entries
    Demo(DemoArgs),
    /// Send the audit entries of files
    Ingest(IngestArgs),
    /// Find entries
    Search(SearchArgs),
    /// Print entries as they come
    Tail(TailArgs),
    /// Look at what could not be stored, replay or delete it
    #[command(name = "deadletters", visible_alias = "dead-letters")]
    DeadLetters(DeadLettersArgs),
    /// Print a token signed with the local secret
    Token(TokenArgs),
    /// Check the configuration and print what is in force
    CheckConfig,
    /// Fill a store again from the log of record
    Rebuild(RebuildArgs),
    /// Lay out ClickHouse and OpenSearch for this version
    Migrate,
    /// Read the whole store of a server that is not running, and say whether everything is there
    VerifyStore,
}

/// Arguments of `sluice serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen, instead of http.listen
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where to serve health and metrics, instead of admin.listen
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin_listen: Option<String>,
    /// What to do: all, api or consumer
    #[arg(long)]
    role: Option<String>,
}

/// Arguments of `sluice demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End after this many seconds (else with Ctrl-C)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// Entries per second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Number of tenants
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub tenants: u32,
}

/// Arguments of `sluice ingest`.
#[derive(Debug, Args)]
pub struct IngestArgs {
    /// Files of entries, plain, gzip or zstd
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The tenant that they belong to
    #[arg(long, value_parser = tenant_id)]
    pub tenant: TenantId,
    /// Make the tenant if there is none
    #[arg(long)]
    pub create_tenant: bool,
    /// What the files hold
    #[arg(long, value_enum, default_value_t = IngestFormat::Auto)]
    pub format: IngestFormat,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What a file of entries holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IngestFormat {
    /// Find out by name and contents
    Auto,
    /// One JSON object per line
    Ndjson,
    /// A JSON array of objects
    Json,
    /// A header of field names, then one entry per record
    Csv,
    /// Records of AWS CloudTrail
    Cloudtrail,
}

/// Arguments of `sluice search`.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// Which entries.
    #[command(flatten)]
    pub filters: query::FilterArgs,
    /// Only entries of the last 30m, 2h, 7d, …
    #[arg(long, value_name = "SPAN", value_parser = query::span, conflicts_with = "from")]
    pub since: Option<Duration>,
    /// Only entries from this time on (RFC 3339 with a zone, or a date)
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Only entries before this time
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// How many entries at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// timestamp:desc (default), timestamp:asc, sequence:desc or sequence:asc
    #[arg(long, value_name = "ORDER")]
    pub sort: Option<String>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = search::Output::Table)]
    pub output: search::Output,
    /// The same as --output json
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
    /// The server, and whose log.
    #[command(flatten)]
    pub read: query::ReadArgs,
}

/// Arguments of `sluice tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// Which entries.
    #[command(flatten)]
    pub filters: query::FilterArgs,
    /// Begin with the first entry of the last 10m, 2h, …, not with what comes from now on
    #[arg(long, value_name = "SPAN", value_parser = query::span, conflicts_with = "after")]
    pub since: Option<Duration>,
    /// Begin after this sequence; 0 is the beginning
    #[arg(long, value_name = "N")]
    pub after: Option<u64>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = TailOutput::Table)]
    pub output: TailOutput,
    /// The same as --output ndjson
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
    /// The server, and whose log.
    #[command(flatten)]
    pub read: query::ReadArgs,
}

/// How entries are printed that have no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TailOutput {
    /// One line each, fitted to the terminal
    Table,
    /// One object per line
    #[value(alias = "json")]
    Ndjson,
}

impl From<TailOutput> for search::Output {
    fn from(output: TailOutput) -> Self {
        match output {
            TailOutput::Table => Self::Table,
            TailOutput::Ndjson => Self::Ndjson,
        }
    }
}

/// Arguments of `sluice deadletters`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DeadLettersArgs {
    /// What to do; to list them if nothing is said.
    #[command(subcommand)]
    pub command: Option<LetterCommand>,
    /// What to list.
    #[command(flatten)]
    pub list: LetterListArgs,
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub enum LetterCommand {
    /// List them, oldest first
    List(LetterListArgs),
    /// Print one as JSON, with the entry as it was accepted
    Show {
        /// The id of the dead letter
        id: Uuid,
        /// The server, and whose dead letters.
        #[command(flatten)]
        read: query::ReadArgs,
    },
    /// Accept the entry once more; the dead letter goes when that is durable
    ///
    /// With --all, dead letters whose entry is refused stay and are named, and the exit code is 2. Entries that were refused because
    /// another entry has their id get a new one.
    Replay {
        /// The id of the dead letter
        #[arg(required_unless_present = "all")]
        id: Option<Uuid>,
        /// A file with the corrected entry as JSON; - is standard input
        #[arg(long, value_name = "FILE", conflicts_with = "all")]
        entry: Option<PathBuf>,
        /// Every dead letter that matches, as it was accepted
        #[arg(long, conflicts_with = "id")]
        all: bool,
        /// Which ones, with --all.
        #[command(flatten)]
        which: LetterFilterArgs,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
        /// The server, and whose dead letters.
        #[command(flatten)]
        read: query::ReadArgs,
    },
    /// Remove one for good
    Delete {
        /// The id of the dead letter
        id: Uuid,
        /// The server, and whose dead letters.
        #[command(flatten)]
        read: query::ReadArgs,
    },
}

/// What to list.
#[derive(Debug, Args)]
pub struct LetterListArgs {
    /// Which ones.
    #[command(flatten)]
    pub which: LetterFilterArgs,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// As a JSON array
    #[arg(long)]
    pub json: bool,
    /// The server, and whose dead letters.
    #[command(flatten)]
    pub read: query::ReadArgs,
}

/// Which dead letters.
#[derive(Debug, Args)]
pub struct LetterFilterArgs {
    /// id_conflict, tenant_deleted, poison or undecodable; may be repeated
    #[arg(long)]
    pub reason: Vec<String>,
    /// The id of the entry; may be repeated
    #[arg(long, value_name = "ID")]
    pub entry_id: Vec<Uuid>,
    /// Only those decided at this time or later (RFC 3339 with a zone, or a date)
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Only those decided before this time
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
}

impl LetterFilterArgs {
    /// As parameters of the API.
    pub fn pairs(&self) -> query::Pairs {
        let reasons = self.reason.iter().map(|reason| ("reason", reason.clone()));
        let entries = self.entry_id.iter().map(|id| ("entry_id", id.to_string()));
        let times = [("from", &self.from), ("to", &self.to)];
        let times = times.into_iter().filter_map(|(name, time)| Some((name, time.clone()?)));
        reasons.chain(entries).chain(times).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Arguments of `sluice rebuild`.
#[derive(Debug, Args)]
pub struct RebuildArgs {
    /// Which store
    #[arg(long, value_enum)]
    pub store: RebuiltStore,
    /// Only this tenant's logs; may be repeated. Otherwise those of every tenant
    #[arg(long, value_parser = tenant_id)]
    pub tenant: Vec<TenantId>,
    /// Where the server is
    #[command(flatten)]
    pub client: ClientArgs,
}

/// A store that can be filled again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RebuiltStore {
    /// The search store
    Opensearch,
}

/// Where the server is, and who asks.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// The server
    #[arg(long, env = "SLUICE_URL", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub url: String,
    /// The credential; without one a token is made from the local secret, if it is readable
    #[arg(long, env = "SLUICE_TOKEN", hide_env_values = true, value_name = "JWT")]
    pub token: Option<String>,
    /// Trust the certificates in this file (PEM) in place of the system's, for https:// with an authority of your own
    #[arg(long, env = "SLUICE_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// Arguments of `sluice token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The tenant that the token is for; it need not exist
    #[arg(long, value_parser = tenant_id)]
    pub tenant: Option<TenantId>,
    /// A role: writer, viewer, auditor, admin, user (writer and viewer) or platform_admin; may be repeated
    #[arg(long, required = true, value_parser = role)]
    pub role: Vec<String>,
    /// Whom the token names
    #[arg(long, default_value = "cli", value_parser = subject)]
    pub sub: String,
    /// How long it is good, such as 30m, 1h or 7d
    #[arg(long, default_value = "1h", value_parser = ttl)]
    pub ttl: Duration,
}

/// Runs the command line of this process and says how it ended.
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            let _ = error.print(); // with stdout or stderr gone there is nobody to tell
            return exit;
        }
    };
    run(cli).unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "sluice: {error}"); // as above
        error.exit
    })
}

fn run(cli: Cli) -> Result<Exit, AppError> {
    // Before any client is made.
    crate::auth::provider::install();
    let settings = |mut sources: Sources| {
        sources.file = cli.common.config;
        if let Some(data_dir) = cli.common.data_dir {
            sources.flags.push(("--data-dir", "data_dir", data_dir));
        }
        Settings::load(&sources).map_err(AppError::usage)
    };
    match cli.command {
        Command::Serve(args) => serve::run(settings(args.sources())?),
        Command::Demo(args) => demo::run(args, settings(Sources::of_process())?),
        Command::Ingest(args) => ingest::run(args, settings(Sources::of_process())?),
        Command::Search(args) => search::run(&args, &settings(Sources::of_process())?),
        Command::Tail(args) => tail::run(&args, &settings(Sources::of_process())?),
        Command::DeadLetters(args) => deadletters::run(args, &settings(Sources::of_process())?),
        Command::Token(args) => token::run(args, &settings(Sources::of_process())?),
        Command::Rebuild(args) => rebuild::run(&args, &settings(Sources::of_process())?),
        Command::Migrate => migrate::run(&settings(Sources::of_process())?),
        Command::VerifyStore => verify_store::run(&settings(Sources::of_process())?),
        Command::CheckConfig => check_config::run(&settings(Sources::of_process())?),
    }
}

impl ServeArgs {
    fn sources(self) -> Sources {
        let flags = [
            ("--listen", "http.listen", self.listen),
            ("--admin-listen", "admin.listen", self.admin_listen),
            ("--role", "role", self.role),
        ];
        let given = flags.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value?)));
        Sources {
            flags: given.collect(),
            ..Sources::of_process()
        }
    }
}

/// The runtime of a command: as many threads as there are processors.
pub fn runtime() -> Result<tokio::runtime::Runtime, AppError> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("sluice").build();
    built.map_err(|e| AppError::failed(format!("threads cannot be started: {e}")))
}

/// Writes a result to stdout; a closed pipe is a failure, not a panic.
pub fn print(text: &str) -> Result<(), AppError> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| AppError::failed(format!("stdout cannot be written: {e}")))
}

fn tenant_id(text: &str) -> Result<TenantId, String> {
    TenantId::parse(text).map_err(|e| e.to_string())
}

fn role(text: &str) -> Result<String, String> {
    let known = roles_named(text).map(|_| text.to_owned());
    known.ok_or_else(|| "the roles are writer, viewer, auditor, admin, user and platform_admin".to_owned())
}

fn subject(text: &str) -> Result<String, String> {
    let good = (1..=256).contains(&text.len()) && !text.chars().any(char::is_control);
    good.then(|| text.to_owned())
        .ok_or_else(|| "a subject has 1 to 256 bytes and no control characters".to_owned())
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse_span(text).filter(|ttl| ttl.as_secs() > 0);
    ttl.ok_or_else(|| "a time of at least a second, such as 30m, 1h or 7d".to_owned())
}
