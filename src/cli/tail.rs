//! `sluice tail`: the live feed of a tenant, line by line, for as long as somebody watches.
//!
//! It reads Server-Sent Events and remembers the last number it was told of. After a lost connection, a restart of the server or an
//! expired token it connects again with `after` that number, so that what it prints has neither gap nor repeat. Where it begins is
//! fixed before the first connection for the same reason. Numbers that have no entry (refused, erased) and gaps are told on stderr.
//! Ctrl-C and SIGTERM end it with 0; an answer that trying again does not mend (401, 403, 422) ends it with 1 or 64.

use super::{
    TailArgs,
    client::{Client, path_with, problem, unreachable},
    entries::Look,
    query::{Pairs, moment_before_now},
    search::{Output, Printer},
};
use crate::{
    config::Settings,
    error::{AppError, Exit},
};
use futures_util::StreamExt;
use reqwest::{Method, Response};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{ops::ControlFlow, time::Duration};
use tokio::time::{sleep, timeout};

/// The server says something every 20 s; a connection that is silent for this long is dead.
const SILENCE: Duration = Duration::from_secs(60);
/// Waits between connections grow from the first to the last.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// The feed has no end; the client's limit for answers does not hold for it.
const WITHOUT_END: Duration = Duration::from_secs(365 * 24 * 3600);
/// No event is longer: an entry has at most 256 KiB, and a little is around it.
const LONGEST_EVENT: usize = 4 << 20;

/// Runs the command. Blocks.
pub fn run(args: &TailArgs, settings: &Settings) -> Result<Exit, AppError> {
    let client = args.read.connect(settings)?;
    super::runtime()?.block_on(async {
        let interrupted = crate::shutdown::requested()?;
        tokio::select! {
            ended = follow(args, &client) => ended,
            () = interrupted => Ok(Exit::Done),
        }
    })
}

async fn follow(args: &TailArgs, client: &Client) -> Result<Exit, AppError> {
    let filters = args.filters.pairs();
    let mut tail = Tail {
        after: beginning(args, &filters, client).await?,
        printer: Printer::new(if args.json { Output::Ndjson } else { args.output.into() }, Look::of_stdout()).with_usual_columns(),
        heard: false,
    };
    let mut wait = WAITS.0;
    loop {
        let mut pairs = filters.clone();
        pairs.push(("after".into(), tail.after.to_string()));
        let request = client
            .request(Method::GET, &path_with("/logs/stream", &pairs))
            .header("accept", "text/event-stream")
            .timeout(WITHOUT_END);
        let why = match request.send().await {
            Ok(answer) if answer.status().is_success() => match tail.read(answer).await? {
                ControlFlow::Break(()) => return Ok(Exit::Done),
                ControlFlow::Continue(why) => why,
            },
            Ok(answer) if matches!(answer.status().as_u16(), 429 | 500..) => format!("the server answered {}", answer.status()),
            Ok(answer) => return Err(problem("the feed was refused", answer).await),
            Err(_) => "the server cannot be reached".to_owned(),
        };
        if std::mem::take(&mut tail.heard) {
            wait = WAITS.0;
        }
        eprintln!("-- {why}; again in {} ms, after {}", wait.as_millis(), tail.after);
        sleep(wait).await;
        wait = (wait * 2).min(WAITS.1);
    }
}

/// The number after which to begin.
async fn beginning(args: &TailArgs, filters: &Pairs, client: &Client) -> Result<u64, AppError> {
    #[derive(Deserialize)]
    struct Page {
        data: Vec<Numbered>,
        meta: AsOf,
    }
    #[derive(Deserialize)]
    struct Numbered {
        sequence: u64,
    }
    #[derive(Deserialize)]
    struct AsOf {
        as_of: u64,
    }
    if let Some(after) = args.after {
        return Ok(after);
    }
    let mut pairs: Pairs = [("page_size", "1"), ("total", "false")].map(|(name, value)| (name.into(), value.into())).into();
    if let Some(since) = args.since {
        pairs.extend(filters.iter().cloned());
        pairs.extend([("from".into(), moment_before_now(since)), ("sort".into(), "sequence:asc".into())]);
    }
    let answer = client
        .request(Method::GET, &path_with("/logs", &pairs))
        .send()
        .await
        .map_err(|e| unreachable(&e))?;
    if !answer.status().is_success() {
        return Err(problem("the feed was refused", answer).await);
    }
    let body = answer.bytes().await.map_err(|e| unreachable(&e))?;
    let page: Page = serde_json::from_slice(&body).map_err(|e| AppError::failed(format!("the server's answer is not understood: {e}")))?;
    Ok(match page.data.first().filter(|_| args.since.is_some()) {
        Some(first) => first.sequence.saturating_sub(1),
        None => page.meta.as_of,
    })
}

struct Tail {
    after: u64,
    printer: Printer,
    /// Whether the connection has brought anything, so that the next one is tried soon.
    heard: bool,
}

impl Tail {
    /// Reads one connection to its end. `Break` when nobody reads our output, else why it ended.
    async fn read(&mut self, answer: Response) -> Result<ControlFlow<(), String>, AppError> {
        let (mut stream, mut events) = (answer.bytes_stream(), Events::default());
        loop {
            let chunk = match timeout(SILENCE, stream.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(None) => return Ok(ControlFlow::Continue("the server has ended the feed".into())),
                Ok(Some(Err(_))) => return Ok(ControlFlow::Continue("the connection was lost".into())),
                Err(_) => return Ok(ControlFlow::Continue("the connection is silent".into())),
            };
            if !events.feed(&chunk) {
                return Ok(ControlFlow::Continue("an event has no end".into()));
            }
            while let Some(event) = events.next() {
                if event.name == "closed" {
                    return Ok(ControlFlow::Continue(
                        "the server has closed the feed (the credential expired, or we were too slow)".into(),
                    ));
                }
                if !event.data.is_empty() && !self.show(&event)? {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }

    /// Prints an event. Whether anybody still reads.
    fn show(&mut self, event: &Event) -> Result<bool, AppError> {
        #[derive(Deserialize)]
        struct Frame {
            #[serde(rename = "type")]
            kind: Option<String>,
            #[serde(default)]
            from: u64,
            #[serde(default)]
            to: u64,
            sequence: Option<u64>,
        }
        let not_understood = |e| AppError::failed(format!("the feed is not understood: {e}"));
        let frame: Frame = serde_json::from_str(&event.data).map_err(not_understood)?;
        self.heard = true;
        match frame.kind.as_deref() {
            None => {
                let raw: &RawValue = serde_json::from_str(&event.data).map_err(not_understood)?;
                let read = self.printer.page(&[raw])?;
                self.after = self.after.max(frame.sequence.unwrap_or(0));
                return Ok(read);
            }
            Some("void") => eprintln!("-- {} to {}: no entry has these numbers", frame.from, frame.to),
            Some("gap") => eprintln!("-- {} to {}: left out, we were too slow", frame.from, frame.to),
            // Something of a later version.
            Some(_) => {}
        }
        self.after = self.after.max(frame.to);
        Ok(true)
    }
}

/// One Server-Sent Event.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    name: String,
    data: String,
}

/// Bytes become events, however they are cut.
#[derive(Default)]
struct Events {
    bytes: Vec<u8>,
    /// Where the first line that was not read begins.
    at: usize,
    event: Event,
}

impl Events {
    /// Takes bytes; false when an event is longer than any can be.
    fn feed(&mut self, bytes: &[u8]) -> bool {
        self.bytes.drain(..std::mem::take(&mut self.at));
        self.bytes.extend_from_slice(bytes);
        self.bytes.len() + self.event.data.len() <= LONGEST_EVENT
    }

    /// The next whole event.
    fn next(&mut self) -> Option<Event> {
        loop {
            let rest = &self.bytes[self.at..];
            let length = rest.iter().position(|byte| *byte == b'\n')?;
            let line = String::from_utf8_lossy(&rest[..length]);
            let line = line.trim_end_matches('\r');
            let ended = line.is_empty();
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.event.name),
                "data" => {
                    if !self.event.data.is_empty() {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                }
                _ => {}
            }
            self.at += length + 1;
            if ended {
                return Some(std::mem::take(&mut self.event));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let text = b": open\n\nid: 7\ndata: {\"a\":1}\n\n: ping\n\nevent: closed\r\ndata:x\r\ndata: y\r\n\r\ndata: half";
        let read = |size: usize| {
            let (mut events, mut seen) = (Events::default(), Vec::new());
            for chunk in text.chunks(size) {
                assert!(events.feed(chunk));
                seen.extend(std::iter::from_fn(|| events.next()).filter(|event| *event != Event::default()));
            }
            seen
        };
        let event = |name: &str, data: &str| Event {
            name: name.into(),
            data: data.into(),
        };
        let want = vec![event("", "{\"a\":1}"), event("closed", "x\ny")];
        for size in 1..=text.len() {
            assert_eq!(read(size), want, "{size}");
        }
        let mut endless = Events::default();
        assert!(!(0..100).all(|_| endless.feed(&[b'x'; 64 << 10])));
    }
}
