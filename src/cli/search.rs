//! `sluice search`: entries of a tenant as a table or as JSON, page by page with the cursor, so that any number of them is one
//! consistent answer: what was there when the first page was read.
//!
//! Entries go to stdout, the count and remarks to stderr.

use super::{
    SearchArgs,
    client::{Client, path_with, problem, unreachable},
    entries::{Entry, Look, Table, harmless_json},
    query::{Pairs, moment_before_now},
};
use crate::{
    config::Settings,
    error::{AppError, Exit},
};
use clap::ValueEnum;
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::{BufWriter, ErrorKind, StdoutLock, Write};

/// The API's largest page.
const LARGEST_PAGE: u64 = 1000;

/// How entries are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// One line each, fitted to the terminal
    Table,
    /// One array
    Json,
    /// One object per line
    Ndjson,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    meta: Meta,
}

#[derive(Deserialize)]
struct Meta {
    total: Option<u64>,
    #[serde(default)]
    total_is_exact: bool,
    next_cursor: Option<String>,
    as_of: u64,
    #[serde(default)]
    degraded: bool,
}

/// Runs the command. Blocks.
pub fn run(args: &SearchArgs, settings: &Settings) -> Result<Exit, AppError> {
    let client = args.read.connect(settings)?;
    super::runtime()?.block_on(search(args, &client))
}

async fn search(args: &SearchArgs, client: &Client) -> Result<Exit, AppError> {
    let output = if args.json { Output::Json } else { args.output };
    let mut printer = Printer::new(output, Look::of_stdout());
    let filters = parameters(args);
    let (mut left, mut shown, mut cursor, mut first) = (args.limit, 0, None::<String>, None::<Meta>);
    loop {
        let mut pairs = filters.clone();
        pairs.push(("page_size".into(), left.min(LARGEST_PAGE).to_string()));
        if let Some(cursor) = cursor.take() {
            // The first page has counted.
            pairs.extend([("cursor".into(), cursor), ("total".into(), "false".into())]);
        }
        let request = client.request(Method::GET, &path_with("/logs", &pairs));
        let answer = request.send().await.map_err(|e| unreachable(&e))?;
        if !answer.status().is_success() {
            return Err(problem("the search was refused", answer).await);
        }
        let body = answer.bytes().await.map_err(|e| unreachable(&e))?;
        let page: Page<'_> = serde_json::from_slice(&body).map_err(not_understood)?;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(page.data.len());
        if !printer.page(&page.data[..wanted])? {
            return Ok(Exit::Done);
        }
        shown += wanted as u64;
        left -= wanted as u64;
        cursor = page.meta.next_cursor.clone();
        first.get_or_insert(page.meta);
        if left == 0 || cursor.is_none() {
            break;
        }
    }
    if printer.end()? {
        eprintln!("{}", footer(shown, &first.expect("a page was read")));
    }
    Ok(Exit::Done)
}

fn parameters(args: &SearchArgs) -> Pairs {
    let mut pairs = args.filters.pairs();
    let from = args.from.clone().or_else(|| args.since.map(moment_before_now));
    let more = [("from", from), ("to", args.to.clone()), ("sort", args.sort.clone())];
    pairs.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    pairs
}

fn footer(shown: u64, first: &Meta) -> String {
    let of = match (first.total, first.total_is_exact) {
        (Some(total), true) => format!(" of {}", grouped(total)),
        (Some(total), false) => format!(" of at least {}", grouped(total)),
        (None, _) => String::new(),
    };
    let degraded = if first.degraded {
        "; the store lags or is damaged, so newer entries may be missing"
    } else {
        ""
    };
    let noun = if first.total.unwrap_or(shown) == 1 { "entry" } else { "entries" };
    format!("{}{of} {noun}, as of sequence {}{degraded}", grouped(shown), grouped(first.as_of))
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn not_understood(error: serde_json::Error) -> AppError {
    AppError::failed(format!("the server's answer is not understood: {error}"))
}

/// Writes entries to stdout. Its methods give `false` when nobody reads any more.
pub struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    output: Output,
    look: Look,
    table: Option<Table>,
    any: bool,
}

impl Printer {
    /// Nothing is written yet.
    pub fn new(output: Output, look: Look) -> Self {
        Self {
            out: BufWriter::new(std::io::stdout().lock()),
            output,
            look,
            table: None,
            any: false,
        }
    }

    /// Columns that do not wait for entries, without a header: for entries that come one by one.
    pub fn with_usual_columns(mut self) -> Self {
        self.table = Some(Table::usual(self.look));
        self
    }

    /// Writes entries and flushes.
    pub fn page(&mut self, entries: &[&RawValue]) -> Result<bool, AppError> {
        let mut text = String::new();
        match self.output {
            Output::Table => {
                let rows: Result<Vec<Entry<'_>>, _> = entries.iter().map(|raw| serde_json::from_str(raw.get())).collect();
                let rows = rows.map_err(not_understood)?;
                if self.table.is_none() && !rows.is_empty() {
                    let table = Table::fitting(&rows, self.look);
                    table.header(&mut text);
                    self.table = Some(table);
                }
                if let Some(table) = &self.table {
                    rows.iter().for_each(|row| table.row(&mut text, row));
                }
            }
            Output::Ndjson => entries.iter().for_each(|raw| text.extend([&*harmless_json(raw.get()), "\n"])),
            Output::Json => {
                for raw in entries {
                    let comma = if std::mem::replace(&mut self.any, true) { ",\n" } else { "[\n" };
                    text.extend([comma, &harmless_json(raw.get())]);
                }
            }
        }
        self.write(&text)
    }

    /// Writes what ends the output.
    pub fn end(&mut self) -> Result<bool, AppError> {
        match (self.output, self.any) {
            (Output::Json, true) => self.write("\n]\n"),
            (Output::Json, false) => self.write("[]\n"),
            _ => Ok(true),
        }
    }

    fn write(&mut self, text: &str) -> Result<bool, AppError> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => Ok(true),
            // `| head` has seen enough: that is no failure.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(AppError::failed(format!("stdout cannot be written: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_footer_says_how_sure_it_is() {
        let meta = |total, total_is_exact, degraded| Meta {
            total,
            total_is_exact,
            next_cursor: None,
            as_of: 1234,
            degraded,
        };
        assert_eq!(
            footer(50, &meta(Some(12_345_678), true, false)),
            "50 of 12,345,678 entries, as of sequence 1,234"
        );
        assert_eq!(footer(1, &meta(Some(1), true, false)), "1 of 1 entry, as of sequence 1,234");
        assert!(footer(50, &meta(Some(10_050), false, false)).contains("50 of at least 10,050 entries"));
        assert!(footer(5, &meta(None, false, true)).contains("may be missing"));
        assert_eq!([0, 999, 1000, 100_000].map(grouped), ["0", "999", "1,000", "100,000"]);
    }
}
