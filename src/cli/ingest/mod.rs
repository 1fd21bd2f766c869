//! `sluice ingest`: files into a tenant, through the API like any other client.
//!
//! Every record has an id before it is sent: its own, or one made from tenant, file contents and line. So a rerun, after a
//! crash or by mistake, stores nothing twice, and 429, 503, 504 and lost connections are simply tried again.

mod cloudtrail;
pub(crate) mod formats;
mod send;

use crate::{
    cli::{IngestArgs, IngestFormat as Format, print},
    config::Settings,
    error::{AppError, Exit},
    telemetry,
};
use formats::{Item, Mapping};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use send::{Sender, Totals};
use std::{
    io,
    path::{Path, PathBuf},
};
use tokio::sync::mpsc;

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Which field; empty for the whole record.
    pub field: String,
    /// One of the contract's codes.
    pub code: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Rejection {
    fn new(field: &str, code: &str, message: String) -> Self {
        Self {
            field: field.into(),
            code: code.into(),
            message,
        }
    }
}

/// Entries a request at most, and their bytes: small enough that a retry costs little, large enough that requests do not.
const BULK_ENTRIES: usize = 1000;
const BULK_BYTES: usize = 4 << 20;

/// A bulk of lines, ready to be sent.
struct Bulk {
    body: Vec<u8>,
    lines: Vec<u64>,
}

impl Bulk {
    fn new() -> Self {
        Self {
            body: Vec::new(),
            lines: Vec::new(),
        }
    }
}

/// Runs the command. Blocks.
pub fn run(args: IngestArgs, settings: Settings) -> Result<Exit, AppError> {
    telemetry::start_logging(&settings.log);
    super::runtime()?.block_on(ingest(args, settings))
}

async fn ingest(args: IngestArgs, settings: Settings) -> Result<Exit, AppError> {
    let sender = Sender::new(&args, &settings)?;
    for path in &args.files {
        // Before anything is sent: a misspelt name is no half-done import.
        let what = std::fs::metadata(path).map_err(|e| AppError::failed(format!("cannot read `{}`: {e}", path.display())))?;
        if !what.is_file() {
            let message = format!("cannot read `{}`: it is no regular file, and a file is read twice", path.display());
            return Err(AppError::failed(message));
        }
    }
    sender.ensure_tenant(args.create_tenant).await?;
    let mut totals = Totals::default();
    for path in &args.files {
        totals.add(&ingest_file(path.clone(), &args, &sender).await?);
    }
    print(&format!(
        "read={} accepted={} stored={} duplicates={} dead_lettered={} rejected={}\n",
        totals.read, totals.accepted, totals.stored, totals.duplicates, totals.dead_lettered, totals.rejected
    ))?;
    Ok(if totals.rejected > 0 { Exit::SomeRejected } else { Exit::Done })
}

async fn ingest_file(path: PathBuf, args: &IngestArgs, sender: &Sender) -> Result<Totals, AppError> {
    let unreadable = |e: io::Error| AppError::failed(format!("cannot read `{}`: {e}", path.display()));
    let bar = progress(&path).map_err(unreadable)?;
    let (bulks, received) = mpsc::channel(2);
    let reader = {
        let (path, tenant, format, bar) = (path.clone(), args.tenant.clone(), args.format, bar.clone());
        tokio::task::spawn_blocking(move || read_file(&path, tenant.as_str(), format, &bar, &bulks))
    };
    let sent = sender.send_all(&path, received, &bar).await;
    let read = reader.await.map_err(AppError::failed)?;
    bar.finish_and_clear();
    let mut totals = sent?;
    let (count, rejected) = read.map_err(unreadable)?;
    totals.read = count;
    totals.rejected += rejected;
    Ok(totals)
}

/// Blocks: reads the file twice (hash, records) and hands bulks over. Gives the records read and rejected here.
fn read_file(path: &Path, tenant: &str, format: Format, bar: &ProgressBar, bulks: &mpsc::Sender<Bulk>) -> io::Result<(u64, u64)> {
    let survey = formats::survey(path)?;
    let format = if format == Format::Auto {
        formats::recognise(path, &survey.start)
    } else {
        format
    };
    let mapping = Mapping {
        format,
        tenant,
        sha256: survey.sha256,
    };
    let (mut read, mut rejected, mut bulk) = (0, 0, Bulk::new());
    let hand_over = |bulk: Bulk| bulks.blocking_send(bulk).map_err(|_| io::Error::other("sending has stopped"));
    let file = formats::open(path, |f| bar.wrap_read(f))?;
    mapping.read(file, &mut |Item { line, entry }| {
        read += 1;
        let too_large = || Rejection::new("", "too_large", "the record is far larger than an entry may be".into());
        match entry.and_then(|entry| if entry.len() > BULK_BYTES { Err(too_large()) } else { Ok(entry) }) {
            Ok(entry) => {
                if bulk.lines.len() == BULK_ENTRIES || bulk.body.len() + entry.len() > BULK_BYTES {
                    let full = std::mem::replace(&mut bulk, Bulk::new());
                    if !full.lines.is_empty() {
                        hand_over(full)?;
                    }
                }
                bulk.body.extend_from_slice(&entry);
                bulk.body.push(b'\n');
                bulk.lines.push(line);
            }
            Err(rejection) => {
                rejected += 1;
                report(bar, path, line, &rejection);
            }
        }
        Ok(())
    })?;
    if !bulk.lines.is_empty() {
        hand_over(bulk)?;
    }
    Ok((read, rejected))
}

/// `FILE:LINE: FIELD: CODE: message`, above the progress bar. One line, whatever the file's names hold.
fn report(bar: &ProgressBar, path: &Path, line: u64, rejection: &Rejection) {
    let Rejection { field, code, message } = rejection;
    let text = format!("{}:{line}: {field}: {code}: {message}", path.display()).replace(char::is_control, " ");
    bar.suspend(|| eprintln!("{text}"));
}

fn progress(path: &Path) -> io::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}").expect("the template is well formed");
    // Drawn only where standard error is a terminal.
    let bar = ProgressBar::with_draw_target(Some(std::fs::metadata(path)?.len()), ProgressDrawTarget::stderr());
    Ok(bar
        .with_style(style)
        .with_message(path.file_name().unwrap_or_default().to_string_lossy().into_owned()))
}
