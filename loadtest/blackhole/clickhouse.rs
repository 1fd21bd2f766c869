//! ClickHouse as far as inserts of seals and the questions of their follower go: every block is unpacked and read row by row, a repeated token stores
//! nothing, and a ledger look-up is answered from what was inserted.
//!
//! The scenarios never repeat an id, and nothing is delivered twice, so a look-up finds nothing; one that would is refused with
//! an error, which ends the run. So is a row of the ledger without its row in `logs`.

use super::{Gate, kept::Kept};
use anyhow::Context;
use axum::{
    http::request::Parts,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard},
};

/// Before the LZ4 block of a frame: checksum, method, length with these nine bytes, length unpacked.
const FRAME_HEAD: usize = 16 + 9;
const LZ4: u8 = 0x82;

#[derive(Default)]
pub struct ClickHouse(Mutex<State>);

#[derive(Default)]
pub struct State {
    /// By the rows of `logs`.
    pub kept: Kept,
    ledger: HashSet<u128>,
    /// Rows by table and token.
    tokens: HashMap<(String, String), u64>,
    /// Inserts by table.
    tables: HashMap<String, u64>,
    asked: u64,
}

impl ClickHouse {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("whole")
    }

    pub fn seen(&self) -> Value {
        let state = self.state();
        json!({"tables": state.tables, "ledger": state.ledger.len(), "asked": state.asked})
    }

    pub async fn answer(&self, gate: &Gate, parts: &Parts, body: Bytes) -> anyhow::Result<Response> {
        let url = reqwest::Url::parse(&format!("http://x/?{}", parts.uri.query().unwrap_or_default()))?;
        let of = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        if let Some(insert) = of("query").and_then(|statement| Some(statement.strip_prefix("INSERT INTO ")?.to_owned())) {
            let table = insert.split(' ').next().context("a table")?.to_owned();
            let token = of("insert_deduplication_token").context("an insert has a token")?;
            gate.inserted(body.len());
            self.insert(table, token, &body)?;
            return Ok(().into_response());
        }
        let fields = fields(&body);
        let field = |name: &str| fields.get(name).copied().unwrap_or_default();
        let sql = field("query");
        if sql.starts_with("SELECT count() FROM ") && sql.contains(" AND seal = ") {
            let table = sql["SELECT count() FROM ".len()..].split(' ').next().context("a table")?.to_owned();
            let token = format!("{}/{}", field("param_p0"), field("param_p1"));
            let rows = self.state().tokens.get(&(table, token)).copied().unwrap_or(0);
            return Ok(table_of(&[("count()", "UInt64")], &rows.to_le_bytes()));
        }
        if sql.starts_with("SELECT max(seal) FROM (") {
            let seals = self
                .state()
                .tokens
                .keys()
                .filter_map(|(_, token)| token.split_once('/')?.1.parse::<u64>().ok())
                .max();
            return Ok(table_of(&[("max(seal)", "UInt64")], &seals.unwrap_or(0).to_le_bytes()));
        }
        if sql.starts_with("SELECT DISTINCT pack_id FROM packs") {
            return Ok(table_of(&[("pack_id", "UUID")], &[]));
        }
        if sql.contains(" FROM entry_ids WHERE tenant_id IN ") {
            let ids = fields
                .values()
                .find(|value| value.starts_with("['") && value.len() > 37 && value.as_bytes()[10] == b'-')
                .context("ids")?;
            self.look_up(ids)?;
            let columns = [
                ("at", "UInt32"),
                ("id", "UUID"),
                ("content_hash", "UInt128"),
                ("time", "Int64"),
                ("received", "Int64"),
                ("sequence", "UInt64"),
            ];
            return Ok(table_of(&columns, &[]));
        }
        gate.through(parts, body).await
    }

    fn look_up(&self, ids: &str) -> anyhow::Result<()> {
        let mut state = self.state();
        for id in ids.split('\'').skip(1).step_by(2) {
            state.asked += 1;
            let id: uuid::Uuid = id.parse()?;
            anyhow::ensure!(!state.ledger.contains(&id.as_u128()), "{id} is decided a second time");
        }
        Ok(())
    }

    fn insert(&self, table: String, token: String, body: &[u8]) -> anyhow::Result<()> {
        let plain = unpack(body)?;
        let mut from = Rows(&plain);
        let state = &mut *self.state();
        *state.tables.entry(table.clone()).or_default() += 1;
        let again = state.tokens.contains_key(&(table.clone(), token.clone()));
        let mut rows = 0;
        while !from.0.is_empty() {
            match table.as_str() {
                "logs" => {
                    let (log, sequence, id) = from.log()?;
                    if !again {
                        state.kept.put(log, sequence, id)?;
                    }
                }
                "entry_ids" => {
                    let (log, sequence, id) = from.entry_id()?;
                    anyhow::ensure!(state.kept.has(log, sequence, id), "the ledger names a row that `{log}` has not");
                    anyhow::ensure!(state.ledger.insert(id) || again, "an id twice in the ledger");
                }
                "packs" => from.pack()?,
                _ => anyhow::bail!("nothing is erased here"),
            }
            rows += 1;
        }
        let known = *state.tokens.entry((table, token)).or_insert(rows);
        anyhow::ensure!(known == rows, "another block under the same token");
        Ok(())
    }
}

/// The fields of a form in parts.
fn fields(body: &[u8]) -> HashMap<&str, &str> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let parts = text.split("Content-Disposition: form-data; name=\"").skip(1);
    let mut fields: HashMap<_, _> = parts
        .filter_map(|field| {
            let (name, rest) = field.split_once("\"\r\n\r\n")?;
            Some((name, &rest[..rest.rfind("\r\n--")?]))
        })
        .collect();
    if fields.is_empty() {
        fields.insert("query", text);
    }
    fields
}

/// An answer in `RowBinaryWithNamesAndTypes`.
fn table_of(columns: &[(&str, &str)], rows: &[u8]) -> Response {
    let mut out = vec![columns.len() as u8];
    let mut text = |text: &str| {
        out.push(text.len() as u8);
        out.extend_from_slice(text.as_bytes());
    };
    columns.iter().for_each(|(name, _)| text(name));
    columns.iter().for_each(|(_, kind)| text(kind));
    out.extend_from_slice(rows);
    out.into_response()
}

/// The bytes of all frames.
fn unpack(mut frames: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut plain = Vec::new();
    while !frames.is_empty() {
        let head = frames.get(..FRAME_HEAD).context("a frame begins")?;
        let length = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes")) as usize;
        anyhow::ensure!(head[16] == LZ4, "a frame is LZ4");
        let (end, start) = (16 + length(17), plain.len());
        plain.resize(start + length(21), 0);
        let written = lz4_flex::block::decompress_into(frames.get(FRAME_HEAD..end).context("a whole frame")?, &mut plain[start..])?;
        anyhow::ensure!(start + written == plain.len(), "a frame is as long as it says");
        frames = &frames[end..];
    }
    Ok(plain)
}

/// Rows in RowBinary.
struct Rows<'a>(&'a [u8]);

impl<'a> Rows<'a> {
    fn take(&mut self, n: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n).context("a row ends")?;
        self.0 = rest;
        Ok(taken)
    }

    fn text(&mut self) -> anyhow::Result<&'a str> {
        let (mut len, mut shift) = (0, 0);
        loop {
            let byte = self.take(1)?[0];
            len |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return Ok(std::str::from_utf8(self.take(len)?)?);
            }
        }
    }

    fn optional(&mut self) -> anyhow::Result<()> {
        match self.take(1)?[0] {
            0 => self.text().map(drop),
            1 => Ok(()),
            _ => anyhow::bail!("a flag is 0 or 1"),
        }
    }

    fn number(&mut self) -> anyhow::Result<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("8 bytes")))
    }

    fn id(&mut self) -> anyhow::Result<u128> {
        Ok(u128::from(self.number()?) << 64 | u128::from(self.number()?))
    }

    /// Partition, seal, time of sealing.
    fn mark(&mut self) -> anyhow::Result<()> {
        self.take(4 + 8 + 8).map(drop)
    }

    /// Tenant, number and id of a row of `logs`.
    fn log(&mut self) -> anyhow::Result<(&'a str, u64, u128)> {
        let (log, sequence) = (self.text()?, self.number()?);
        self.take(8 + 8)?;
        let id = self.id()?;
        self.take(1 + 16 + 1)?;
        for _ in 0..6 {
            self.text()?; // actor, action, resource type, each of those in lower case, resource id
        }
        for _ in 0..10 {
            self.optional()?;
        }
        self.mark()?;
        Ok((log, sequence, id))
    }

    fn entry_id(&mut self) -> anyhow::Result<(&'a str, u64, u128)> {
        let (log, id) = (self.text()?, self.id()?);
        self.take(16 + 8 + 8)?;
        let sequence = self.number()?;
        self.mark()?;
        Ok((log, sequence, id))
    }

    fn pack(&mut self) -> anyhow::Result<()> {
        self.id()?;
        self.text()?;
        self.mark()
    }
}
