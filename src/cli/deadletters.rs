//! `sluice deadletters`: what could not be stored, and what to do with it.
//!
//! Letters and entries go to stdout, counts and remarks to stderr.

use super::{
    DeadLettersArgs, LetterCommand,
    client::{Client, path_with, problem, unreachable},
    entries::{harmless, harmless_json},
    query::{Pairs, ReadArgs},
};
use crate::{
    config::Settings,
    error::{AppError, Exit},
};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{
    fmt::Write as _,
    fs,
    io::{ErrorKind, Read, Write as _, stdin, stdout},
    path::Path,
    time::Duration,
};
use uuid::Uuid;

/// The API's largest page.
const LARGEST_PAGE: u64 = 1000;
/// How often one letter is tried.
const TRIES: u32 = 20;
const LONGEST_WAIT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    meta: Meta,
}

#[derive(Deserialize)]
struct Meta {
    total: u64,
}

/// What a line shows of a letter.
#[derive(Deserialize)]
struct Letter {
    id: Uuid,
    reason: String,
    entry_id: Uuid,
    actor: String,
    sealed_at: String,
    entry: Entry,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    action: String,
    resource_type: String,
    resource_id: String,
}

/// Runs the command. Blocks.
pub fn run(args: DeadLettersArgs, settings: &Settings) -> Result<Exit, AppError> {
    let command = args.command.unwrap_or(LetterCommand::List(args.list));
    let connect = |read: &ReadArgs| read.connect_as(settings, "admin");
    let runtime = super::runtime()?;
    match command {
        LetterCommand::List(list) => {
            let client = connect(&list.read)?;
            runtime.block_on(self::list(&client, list.which.pairs(), list.limit, list.json))
        }
        LetterCommand::Show { id, read } => runtime.block_on(show(&connect(&read)?, id)),
        LetterCommand::Replay {
            id, entry, which, json, read, ..
        } => {
            let filters = which.pairs();
            let Some(id) = id else {
                return runtime.block_on(replay_all(&connect(&read)?, filters, json));
            };
            if !filters.is_empty() {
                return Err(AppError::usage("filters go with `--all`; a dead letter is named by its id alone"));
            }
            let entry = entry.as_deref().map(corrected).transpose()?;
            runtime.block_on(replay_one(&connect(&read)?, id, entry, json))
        }
        LetterCommand::Delete { id, read } => runtime.block_on(delete(&connect(&read)?, id)),
    }
}

/// Calls `each` with the letters of one page after the other until it has seen `limit` of them or says `false`. Gives how many there are.
async fn pages(client: &Client, filters: &Pairs, limit: u64, mut each: impl FnMut(&[&RawValue]) -> Result<bool, AppError>) -> Result<(u64, u64), AppError> {
    let (mut page, mut shown) = (1, 0);
    let size = limit.min(LARGEST_PAGE);
    loop {
        let mut pairs = filters.clone();
        pairs.extend([("page".into(), page.to_string()), ("page_size".into(), size.to_string())]);
        let request = client.request(Method::GET, &path_with("/deadletters", &pairs));
        let answer = request.send().await.map_err(|e| unreachable(&e))?;
        if !answer.status().is_success() {
            return Err(problem("the dead letters cannot be listed", answer).await);
        }
        let body = answer.bytes().await.map_err(|e| unreachable(&e))?;
        let Page { data, meta } = serde_json::from_slice(&body).map_err(not_understood)?;
        let wanted = usize::try_from(limit - shown).unwrap_or(usize::MAX).min(data.len());
        let goes_on = each(&data[..wanted])?;
        shown += wanted as u64;
        page += 1;
        if !goes_on || shown == limit || (data.len() as u64) < size {
            return Ok((shown, meta.total));
        }
    }
}

async fn list(client: &Client, filters: Pairs, limit: u64, json: bool) -> Result<Exit, AppError> {
    let (mut any, mut piped) = (false, true);
    let (shown, total) = pages(client, &filters, limit, |letters| {
        let mut text = String::new();
        for raw in letters {
            let first = !std::mem::replace(&mut any, true);
            if json {
                text.extend([if first { "[\n" } else { ",\n" }, &harmless_json(raw.get())]);
            } else {
                let letter: Letter = serde_json::from_str(raw.get()).map_err(not_understood)?;
                if first {
                    row(&mut text, ["ID", "REASON", "DECIDED (UTC)", "ENTRY", "ACTOR", "WHAT"]);
                }
                letter.row(&mut text);
            }
        }
        piped = print(&text)?;
        Ok(piped)
    })
    .await?;
    if !piped {
        return Ok(Exit::Done);
    }
    if json && !print(if any { "\n]\n" } else { "[]\n" })? {
        return Ok(Exit::Done);
    }
    eprintln!("{shown} of {total} dead {}", if total == 1 { "letter" } else { "letters" });
    Ok(Exit::Done)
}

async fn show(client: &Client, id: Uuid) -> Result<Exit, AppError> {
    let answer = client
        .request(Method::GET, &format!("/deadletters/{id}"))
        .send()
        .await
        .map_err(|e| unreachable(&e))?;
    if !answer.status().is_success() {
        return Err(problem(&format!("the dead letter {id} cannot be read"), answer).await);
    }
    let body = answer.text().await.map_err(|e| unreachable(&e))?;
    let letter: Box<RawValue> = serde_json::from_str(&body).map_err(not_understood)?;
    print(&format!("{}\n", harmless_json(letter.get())))?;
    Ok(Exit::Done)
}

/// What became of one letter, as a line of JSON.
#[derive(Serialize)]
struct Outcome<'a> {
    id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

async fn replay_one(client: &Client, id: Uuid, entry: Option<String>, json: bool) -> Result<Exit, AppError> {
    match replay(client, id, entry).await? {
        Ok(accepted) => said(id, Ok(&accepted), json)?,
        Err((_, error)) => return Err(error),
    }
    Ok(Exit::Done)
}

/// Every letter that is there at the beginning, one after the other; what is refused stays, is named, and makes the exit code 2.
async fn replay_all(client: &Client, filters: Pairs, json: bool) -> Result<Exit, AppError> {
    #[derive(Deserialize)]
    struct Id {
        id: Uuid,
    }
    let mut ids = Vec::new();
    pages(client, &filters, u64::MAX, |letters| {
        for raw in letters {
            ids.push(serde_json::from_str::<Id>(raw.get()).map_err(not_understood)?.id);
        }
        Ok(true)
    })
    .await?;
    let (mut replayed, mut refused) = (0, 0);
    for id in ids {
        match replay(client, id, None).await {
            Ok(Ok(accepted)) => {
                said(id, Ok(&accepted), json)?;
                replayed += 1;
            }
            // Somebody else replayed or deleted it meanwhile.
            Ok(Err((StatusCode::NOT_FOUND | StatusCode::CONFLICT, error))) => eprintln!("sluice: {error}"),
            Ok(Err((StatusCode::UNPROCESSABLE_ENTITY, error))) => {
                said(id, Err(&error.to_string()), json)?;
                refused += 1;
            }
            // The next one would fare no better.
            Ok(Err((_, error))) | Err(error) => {
                eprintln!("replayed={replayed} refused={refused}");
                return Err(error);
            }
        }
    }
    eprintln!("replayed={replayed} refused={refused}");
    Ok(if refused == 0 { Exit::Done } else { Exit::SomeRejected })
}

/// The entry as it was accepted, or the status and words of the refusal. Waits and tries again while the server has no room, or
/// does not know what became of it: a second replay of one letter stores nothing twice.
async fn replay(client: &Client, id: Uuid, entry: Option<String>) -> Result<Result<Box<RawValue>, (StatusCode, AppError)>, AppError> {
    let mut wait = Duration::from_millis(200);
    let mut tries = TRIES;
    loop {
        let mut request = client.request(Method::POST, &format!("/deadletters/{id}/replay"));
        if let Some(entry) = &entry {
            request = request.header("content-type", "application/json").body(entry.clone());
        }
        let answer = request.send().await.map_err(|e| unreachable(&e))?;
        let status = answer.status();
        if status.is_success() {
            let body = answer.text().await.map_err(|e| unreachable(&e))?;
            return serde_json::from_str(&body).map(Ok).map_err(not_understood);
        }
        tries -= 1;
        if tries == 0 || !matches!(status.as_u16(), 429 | 503 | 504) {
            return Ok(Err((status, problem(&format!("the dead letter {id} was not replayed"), answer).await)));
        }
        let asked = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
        tokio::time::sleep(asked.map_or(wait, Duration::from_secs).min(LONGEST_WAIT)).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

fn said(id: Uuid, outcome: Result<&RawValue, &str>, json: bool) -> Result<(), AppError> {
    #[derive(Deserialize)]
    struct Accepted {
        id: Uuid,
    }
    let line = if json {
        let (entry, error) = (outcome.ok(), outcome.err());
        let line = serde_json::to_string(&Outcome { id, entry, error }).map_err(not_understood)?;
        harmless_json(&line).into_owned()
    } else {
        match outcome {
            Ok(entry) => {
                let entry: Accepted = serde_json::from_str(entry.get()).map_err(not_understood)?;
                format!("{id} was accepted as entry {}", entry.id)
            }
            Err(error) => {
                eprintln!("sluice: {error}");
                return Ok(());
            }
        }
    };
    print(&format!("{line}\n")).map(drop)
}

async fn delete(client: &Client, id: Uuid) -> Result<Exit, AppError> {
    let request = client.request(Method::DELETE, &format!("/deadletters/{id}"));
    let answer = request.send().await.map_err(|e| unreachable(&e))?;
    if !answer.status().is_success() {
        return Err(problem(&format!("the dead letter {id} was not deleted"), answer).await);
    }
    print(&format!("{id} was deleted\n"))?;
    Ok(Exit::Done)
}

/// The text of a corrected entry; `-` is standard input.
fn corrected(path: &Path) -> Result<String, AppError> {
    let mut text = String::new();
    let read = match path.to_str() {
        Some("-") => stdin().read_to_string(&mut text).map(drop),
        _ => fs::read_to_string(path).map(|read| text = read),
    };
    read.map_err(|e| AppError::usage(format!("`--entry`: {} cannot be read: {e}", path.display())))?;
    // Without a body the entry would be taken as it was, which is not what was asked for.
    if text.trim().is_empty() {
        return Err(AppError::usage(format!("`--entry`: {} is empty", path.display())));
    }
    Ok(text)
}

impl Letter {
    fn row(&self, out: &mut String) {
        let time = self.sealed_at.replacen('T', " ", 1);
        let Entry {
            action,
            resource_type,
            resource_id,
        } = &self.entry;
        let (id, entry_id) = (self.id.to_string(), self.entry_id.to_string());
        let what = format!("{action} {resource_type} {resource_id}");
        row(out, [&id, &self.reason, time.trim_end_matches('Z'), &entry_id, &self.actor, &what]);
    }
}

/// A line of the table: ids, reasons and times have their widths, and the rest is last.
fn row(out: &mut String, [id, reason, time, entry, actor, what]: [&str; 6]) {
    let [reason, time, actor, what] = [reason, time, actor, what].map(harmless);
    // A String takes everything.
    let _ = writeln!(out, "{id:36}  {reason:14}  {time:23}  {entry:36}  {actor:16}  {what}");
}

/// Writes to stdout; `false` when nobody reads any more.
fn print(text: &str) -> Result<bool, AppError> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(AppError::failed(format!("stdout cannot be written: {e}"))),
    }
}

fn not_understood(error: serde_json::Error) -> AppError {
    AppError::failed(format!("the server's answer is not understood: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_what_helps_and_nothing_that_a_terminal_obeys() {
        let letter: Letter = serde_json::from_value(serde_json::json!({
            "id": Uuid::nil(), "reason": "id_conflict", "entry_id": Uuid::max(), "actor": "svc\u{1b}[2J", "received_at": "x",
            "sealed_at": "2026-01-02T03:04:05.678Z", "entry": {"action": "LOGIN", "resource_type": "session", "resource_id": "s\n1", "more": 1},
        }))
        .expect("a letter");
        let mut out = String::new();
        letter.row(&mut out);
        assert_eq!(
            out,
            "00000000-0000-0000-0000-000000000000  id_conflict     2026-01-02 03:04:05.678  ffffffff-ffff-ffff-ffff-ffffffffffff  svc␛[2J           LOGIN session s␊1\n"
        );
    }
}
