//! Files into entries: what the file is, its records with their lines, and each as one JSON object with an id.

use super::{Format, Rejection, cloudtrail};
use crate::model::json::write_str;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};
use uuid::Uuid;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A whole file decompressed: its SHA-256, from which ids of records without one are made, and what it begins with.
pub struct Survey {
    /// SHA-256 of the decompressed bytes.
    pub sha256: [u8; 32],
    /// The first bytes, for recognising the format.
    pub start: Vec<u8>,
}

/// Opens a file, decompressing gzip and zstd by their first bytes. `wrap` sees the compressed bytes (for progress).
pub fn open<R: Read + 'static>(path: &Path, wrap: impl FnOnce(File) -> R) -> io::Result<Box<dyn BufRead>> {
    let mut raw = BufReader::with_capacity(1 << 18, wrap(File::open(path)?));
    let start = raw.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::with_capacity(1 << 18, flate2::bufread::MultiGzDecoder::new(raw)))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(BufReader::with_capacity(1 << 18, zstd::Decoder::with_buffer(raw)?))
    } else {
        Box::new(raw)
    })
}

/// Reads the file once, for its hash.
pub fn survey(path: &Path) -> io::Result<Survey> {
    const START: usize = 64 * 1024;
    let (mut file, mut hash, mut start) = (open(path, |f| f)?, Sha256::new(), Vec::new());
    loop {
        let chunk = file.fill_buf()?;
        if chunk.is_empty() {
            return Ok(Survey {
                sha256: hash.finalize().into(),
                start,
            });
        }
        hash.update(chunk);
        start.extend_from_slice(&chunk[..chunk.len().min(START.saturating_sub(start.len()))]);
        let n = chunk.len();
        file.consume(n);
    }
}

/// The id of a record that brings none: UUIDv8 from SHA-256 of (tenant, hash of the file, line).
pub fn id_of_line(tenant: &str, sha256: &[u8; 32], line: u64) -> String {
    let digest = Sha256::new()
        .chain_update(tenant)
        .chain_update([0])
        .chain_update(sha256)
        .chain_update(line.to_le_bytes())
        .finalize();
    Uuid::new_v8(digest[..16].try_into().expect("a SHA-256 has 32 bytes")).to_string()
}

/// What the file is, by its name and its first bytes.
pub fn recognise(path: &Path, start: &[u8]) -> Format {
    let name = path.to_string_lossy().to_lowercase();
    let name = name.trim_end_matches(".gz").trim_end_matches(".zst").trim_end_matches(".zstd");
    let text = start.trim_ascii_start();
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let looks_like_cloudtrail = [&b"\"eventVersion\""[..], b"\"eventSource\"", b"\"eventName\""]
        .iter()
        .all(|w| memchr::memmem::find(text, w).is_some());
    // An entry of ours may hold such a record as its metadata.
    let is_ours = memchr::memmem::find(text, b"\"resource_type\"").is_some();
    match text.first() {
        Some(b'[' | b'{') if looks_like_cloudtrail && !is_ours => Format::Cloudtrail,
        _ if name.ends_with(".csv") => Format::Csv,
        Some(b'[') => Format::Json,
        Some(_) if name.ends_with(".ndjson") || name.ends_with(".jsonl") => Format::Ndjson,
        Some(b'{') if is_document(text) => Format::Json,
        Some(b'{') | None => Format::Ndjson,
        Some(_) if name.ends_with("json") => Format::Ndjson,
        Some(_) => Format::Csv,
    }
}

/// Whether an object spans lines or is the `{"logs": […]}` of the API. A first line that is wrong is no sign of it, nor is one
/// whose end was not seen.
fn is_document(text: &[u8]) -> bool {
    let spans_lines = || {
        let end = memchr::memchr(b'\n', text)?;
        serde_json::from_slice::<IgnoredAny>(&text[..end]).err().filter(serde_json::Error::is_eof)
    };
    spans_lines().is_some() || memchr::memmem::find(&text[..text.len().min(32)], b"\"logs\"").is_some()
}

/// One record of a file: where it stands, and the entry to send or why there is none.
pub struct Item {
    /// Line in the decompressed file; for arrays the number of the element.
    pub line: u64,
    /// The entry as one line of JSON.
    pub entry: Result<Vec<u8>, Rejection>,
}

/// How records become entries.
pub struct Mapping<'a> {
    /// What the file holds.
    pub format: Format,
    /// Whose entries these become.
    pub tenant: &'a str,
    /// Hash of the file.
    pub sha256: [u8; 32],
}

impl Mapping<'_> {
    /// Calls `each` for every record in order. An error of `each` ends it; so does one of the file.
    pub fn read(&self, mut file: Box<dyn BufRead>, each: &mut dyn FnMut(Item) -> io::Result<()>) -> io::Result<()> {
        if file.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
            file.consume(BYTE_ORDER_MARK.len());
        }
        match self.format {
            Format::Csv => self.csv(file, each),
            Format::Json => self.array(file, each),
            Format::Cloudtrail => self.cloudtrail(file, each),
            Format::Ndjson | Format::Auto => self.lines(file, each),
        }
    }

    fn lines(&self, mut file: Box<dyn BufRead>, each: &mut dyn FnMut(Item) -> io::Result<()>) -> io::Result<()> {
        let (mut text, mut line) = (Vec::new(), 0);
        while {
            text.clear();
            file.read_until(b'\n', &mut text)?
        } > 0
        {
            line += 1;
            let record = text.trim_ascii();
            if !record.is_empty() {
                each(Item {
                    line,
                    entry: self.entry(record, line),
                })?;
            }
        }
        Ok(())
    }

    /// CloudTrail files are lines of records, or one document `{"Records": […]}`, or an array.
    fn cloudtrail(&self, mut file: Box<dyn BufRead>, each: &mut dyn FnMut(Item) -> io::Result<()>) -> io::Result<()> {
        let start = file.fill_buf()?.trim_ascii_start();
        let document = start.starts_with(b"[") || memchr::memmem::find(&start[..start.len().min(64)], b"\"Records\"").is_some();
        if document { self.array(file, each) } else { self.lines(file, each) }
    }

    fn array(&self, file: Box<dyn BufRead>, each: &mut dyn FnMut(Item) -> io::Result<()>) -> io::Result<()> {
        let mut number = 0;
        let mut failure = None;
        let mut step = |raw: &RawValue| {
            number += 1;
            // Line breaks between tokens would break the line that it is sent as.
            let text: Vec<u8> = raw.get().bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }).collect();
            each(Item {
                line: number,
                entry: self.entry(&text, number),
            })
            .map_err(|e| failure = Some(e))
            .is_ok()
        };
        let mut deserializer = serde_json::Deserializer::from_reader(file);
        let outcome = Elements(&mut step).deserialize(&mut deserializer).and_then(|()| deserializer.end());
        match (failure, outcome) {
            (Some(failure), _) => Err(failure),
            (None, Err(e)) if e.is_io() => Err(e.into()),
            (None, Err(e)) => each(Item {
                line: e.line() as u64,
                entry: Err(Rejection::new(
                    "",
                    "malformed_json",
                    format!("the file is cut off or no JSON from here on: {e}"),
                )),
            }),
            (None, Ok(())) => Ok(()),
        }
    }

    fn csv(&self, file: Box<dyn BufRead>, each: &mut dyn FnMut(Item) -> io::Result<()>) -> io::Result<()> {
        let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(file);
        let header = reader.headers().map_err(io::Error::other)?.clone();
        let mut record = csv::StringRecord::new();
        loop {
            let line = reader.position().line();
            match reader.read_record(&mut record) {
                Ok(false) => return Ok(()),
                Ok(true) => {
                    let line = record.position().map_or(line, csv::Position::line);
                    let entry = csv_entry(&header, &record).and_then(|json| self.entry(&json, line));
                    each(Item { line, entry })?;
                }
                Err(e) if e.is_io_error() => return Err(io::Error::other(e)),
                Err(e) => each(Item {
                    line,
                    entry: Err(Rejection::new("", "malformed_csv", e.to_string())),
                })?,
            }
        }
    }

    fn entry(&self, record: &[u8], line: u64) -> Result<Vec<u8>, Rejection> {
        let id = || id_of_line(self.tenant, &self.sha256, line);
        let text = std::str::from_utf8(record).map_err(|e| Rejection::new("", "invalid_unicode", e.to_string()))?;
        if self.format == Format::Cloudtrail {
            return cloudtrail::entry(text, &id);
        }
        with_id(text, &id)
    }
}

/// The object with an id in front, if it brings none. What it holds otherwise is the server's to judge.
fn with_id(text: &str, id: &dyn Fn() -> String) -> Result<Vec<u8>, Rejection> {
    #[derive(Deserialize)]
    struct Has {
        id: Option<IgnoredAny>,
    }
    if !text.starts_with('{') {
        return match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Err(Rejection::new("", "wrong_type", "an entry is a JSON object".into())),
            Err(e) => Err(Rejection::new("", "malformed_json", e.to_string())),
        };
    }
    match serde_json::from_str::<Has>(text) {
        Ok(Has { id: Some(_) }) => Ok(text.as_bytes().to_vec()),
        Ok(Has { id: None }) if text.contains("\"id\"") && has_null_id(text) => Ok(replace_null_id(text, &id())),
        Ok(Has { id: None }) => {
            let rest = text[1..].trim_start();
            let comma = if rest.starts_with('}') { "" } else { "," };
            Ok(format!("{{\"id\":\"{}\"{comma}{rest}", id()).into_bytes())
        }
        // A field given twice is a rule of the contract, which the server tells better.
        Err(e) if e.is_data() => Ok(text.as_bytes().to_vec()),
        Err(e) => Err(Rejection::new("", "malformed_json", e.to_string())),
    }
}

fn fields(text: &str) -> Vec<(String, &RawValue)> {
    struct Fields;
    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(field) = map.next_entry()? {
                all.push(field);
            }
            Ok(all)
        }
    }
    serde_json::Deserializer::from_str(text).deserialize_map(Fields).unwrap_or_default()
}

fn has_null_id(text: &str) -> bool {
    fields(text).iter().any(|(name, value)| name == "id" && value.get() == "null")
}

fn replace_null_id(text: &str, id: &str) -> Vec<u8> {
    let mut out = format!("{{\"id\":\"{id}\"").into_bytes();
    for (name, value) in fields(text).into_iter().filter(|(name, _)| name != "id") {
        out.push(b',');
        write_str(&mut out, &name);
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    out.push(b'}');
    out
}

/// A CSV record as an object: an empty cell is absent, object columns hold JSON.
fn csv_entry(header: &csv::StringRecord, record: &csv::StringRecord) -> Result<Vec<u8>, Rejection> {
    let mut out = vec![b'{'];
    for (name, value) in header.iter().zip(record).filter(|(_, value)| !value.is_empty()) {
        if out.len() > 1 {
            out.push(b',');
        }
        write_str(&mut out, name.trim());
        out.push(b':');
        if matches!(name.trim(), "before_state" | "after_state" | "metadata" | "before" | "after" | "log_metadata") {
            let raw: &RawValue = serde_json::from_str(value).map_err(|e| Rejection::new(name, "wrong_type", format!("the column holds a JSON object: {e}")))?;
            out.extend(raw.get().bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }));
        } else {
            write_str(&mut out, value);
        }
    }
    out.push(b'}');
    Ok(out)
}

/// The elements of an array, or of the array in `{"logs": […]}` or `{"Records": […]}`, one at a time.
struct Elements<'s>(&'s mut dyn FnMut(&RawValue) -> bool);

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of entries, or an object with `logs` or `Records`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(element) = seq.next_element::<Box<RawValue>>()? {
            if !(self.0)(&element) {
                return Err(serde::de::Error::custom("stopped"));
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(name) = map.next_key::<String>()? {
            if matches!(name.as_str(), "logs" | "Records") {
                map.next_value_seed(Elements(self.0))?;
                found = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        found.then_some(()).ok_or_else(|| {
            let message = "the object has neither `logs` nor `Records`; a single entry stands on one line, or in an array";
            serde::de::Error::custom(message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: Format, text: &str) -> Vec<(u64, Result<serde_json::Value, String>)> {
        let mapping = Mapping {
            format,
            tenant: "acme",
            sha256: [1; 32],
        };
        let mut all = Vec::new();
        let file = Box::new(io::Cursor::new(text.as_bytes().to_vec()));
        mapping
            .read(file, &mut |item| {
                all.push((item.line, item.entry.map(|e| serde_json::from_slice(&e).expect("JSON")).map_err(|r| r.code)));
                Ok(())
            })
            .expect("memory");
        all
    }

    #[test]
    fn ids_are_kept_made_or_put_in_place_of_null() {
        let all = read(Format::Ndjson, "{\"id\":\"x\",\"a\":1}\n\n{\"a\":1}\n{}\n{\"a\":{\"id\":2},\"id\":null}\n");
        let id = |line| serde_json::Value::from(id_of_line("acme", &[1; 32], line));
        let entries: Vec<_> = all.iter().map(|(_, e)| e.clone().expect("an entry")).collect();
        assert_eq!(all.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 3, 4, 5]);
        assert_eq!(entries[0]["id"], "x");
        assert_eq!((&entries[1]["id"], &entries[2]["id"], &entries[3]["id"]), (&id(3), &id(4), &id(5)));
        assert_eq!(entries[3]["a"]["id"], 2);
        assert_ne!(id_of_line("acme", &[1; 32], 3), id_of_line("globex", &[1; 32], 3), "ids of tenants differ");
    }

    #[test]
    fn what_is_no_entry_is_told() {
        let codes: Vec<_> = read(Format::Ndjson, "nonsense\n[1]\n{\"a\":\n")
            .into_iter()
            .map(|(_, e)| e.unwrap_err())
            .collect();
        assert_eq!(codes, ["malformed_json", "wrong_type", "malformed_json"]);
        let lone = read(Format::Json, "{\n\"action\": \"A\"\n}");
        assert_eq!(lone.len(), 1, "an object that is no list of entries is not passed over");
        assert_eq!(lone[0].1.as_ref().unwrap_err(), "malformed_json");
        let cut = read(Format::Json, "[{\"a\":1},\n{\"b\"");
        assert_eq!((cut.len(), cut[1].1.as_ref().unwrap_err().as_str()), (2, "malformed_json"));
    }

    #[test]
    fn arrays_documents_and_csv() {
        for text in [
            "[{\"a\":1},{\"a\":2}]",
            "{\"logs\":[{\"a\":1},\n{\"a\":2}]}",
            "{\"Records\":[{\"a\":1},{\"a\":2}]}",
            "\u{feff}[{\"a\":1},{\"a\":2}]",
        ] {
            assert_eq!(
                read(Format::Json, text)
                    .iter()
                    .map(|(n, e)| (*n, e.as_ref().unwrap()["a"].as_u64().unwrap()))
                    .collect::<Vec<_>>(),
                [(1, 1), (2, 2)]
            );
        }
        let all = read(Format::Csv, "action,message,metadata\nA,\"two\nlines\",\"{\"\"k\"\":1}\"\nB,,\nC,x,{bad\n");
        assert_eq!(all[0].1.as_ref().unwrap()["metadata"]["k"], 1);
        assert_eq!(all[0].1.as_ref().unwrap()["message"], "two\nlines");
        assert_eq!((all[1].0, all[1].1.as_ref().unwrap().get("message")), (4, None));
        assert_eq!(all[2].1.as_ref().unwrap_err(), "wrong_type");
    }

    #[test]
    fn formats_are_recognised() {
        for (name, start, format) in [
            ("a.ndjson.gz", "{\"a\":1}\n{\"a\":2}", Format::Ndjson),
            ("a.json", "[{\"a\":1}]", Format::Json),
            ("a.json", "{\"logs\":[]}", Format::Json),
            ("a.json", "{\n  \"logs\": []}", Format::Json),
            ("a.json", "{bad\n{\"a\":1}", Format::Ndjson),
            ("a.json", "{\"a\":\"a line that does not end in wh", Format::Ndjson),
            ("a.ndjson", "bad\n{\"a\":1}", Format::Ndjson),
            ("a.ndjson.zst", "{\n{\"a\":1}", Format::Ndjson),
            (
                "a",
                "{\"resource_type\":1,\"metadata\":{\"eventVersion\":1,\"eventSource\":2,\"eventName\":3}}",
                Format::Ndjson,
            ),
            ("a.csv", "action,x", Format::Csv),
            ("a", "action,x", Format::Csv),
            (
                "trail.json.gz",
                "{\"Records\":[{\"eventVersion\":1,\"eventSource\":2,\"eventName\":3}]}",
                Format::Cloudtrail,
            ),
        ] {
            assert_eq!(recognise(Path::new(name), start.as_bytes()), format, "{name} {start}");
        }
    }
}
