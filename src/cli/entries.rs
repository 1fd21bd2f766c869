//! Entries on a terminal: a table that fits its width, colours by severity, and nothing in them that the terminal would obey.
//!
//! An entry is written by whoever can write entries. Its text is shown, never sent: control characters become visible signs (`␛`),
//! and the characters that turn the direction of text around become `�`. JSON that we print has the same characters as `\u` escapes, so it
//! is the same value and as harmless.

use rustix::termios::tcgetwinsize;
use serde::Deserialize;
use std::{
    borrow::Cow,
    io::{IsTerminal, stdout},
};
use unicode_width::UnicodeWidthChar;

/// What the output can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Cells of a line; `None` when it is no terminal and lines may be long.
    pub width: Option<usize>,
    /// Whether escape codes for colours may be written.
    pub colour: bool,
}

impl Look {
    /// Of standard output. Colours only on a terminal, and not with `NO_COLOR` (set to anything) or `TERM=dumb`.
    pub fn of_stdout() -> Self {
        if !stdout().is_terminal() {
            return Self { width: None, colour: false };
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let width = tcgetwinsize(stdout()).map_or(0, |size| usize::from(size.ws_col));
        Self {
            width: Some(if width == 0 { 80 } else { width }),
            colour: set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
        }
    }
}

/// What a line shows of an entry.
#[derive(Debug, Deserialize)]
pub struct Entry<'a> {
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    severity: Cow<'a, str>,
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow)]
    resource_type: Cow<'a, str>,
    #[serde(borrow)]
    resource_id: Cow<'a, str>,
    #[serde(borrow)]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    /// Its number.
    pub sequence: Option<u64>,
}

const COLUMNS: usize = 6;
const HEADER: [&str; COLUMNS] = ["TIME (UTC)", "SEVERITY", "ACTION", "USER", "RESOURCE", "MESSAGE"];
/// Narrower is not readable; time and severity are not cut at all.
const NARROWEST: [usize; COLUMNS] = [23, 8, 8, 8, 10, 12];
/// Wider columns would leave nothing for the message.
const WIDEST: [usize; COLUMNS] = [23, 8, 28, 24, 44, usize::MAX];
/// Where nothing is known of the entries that will come.
const USUAL: [usize; COLUMNS] = [23, 8, 16, 18, 30, usize::MAX];
const GAP: &str = "  ";

impl Entry<'_> {
    /// The cells, harmless.
    fn cells(&self) -> [String; COLUMNS] {
        let time = self.timestamp.replacen('T', " ", 1);
        [
            harmless(time.trim_end_matches('Z')),
            harmless(&self.severity),
            harmless(&self.action),
            harmless(self.user_id.as_deref().unwrap_or("–")),
            harmless(&format!("{} {}", self.resource_type, self.resource_id)),
            harmless(self.message.as_deref().unwrap_or("")),
        ]
    }
}

/// The columns of a table.
#[derive(Debug)]
pub struct Table {
    widths: [usize; COLUMNS],
    look: Look,
}

impl Table {
    /// Columns as wide as these entries need, as far as the line allows.
    pub fn fitting(entries: &[Entry<'_>], look: Look) -> Self {
        let mut widths = HEADER.map(cells_of);
        for entry in entries {
            for (width, cell) in widths.iter_mut().zip(entry.cells()) {
                *width = (*width).max(cells_of(&cell));
            }
        }
        Self::new(widths, look)
    }

    /// Columns for entries that are not there yet.
    pub fn usual(look: Look) -> Self {
        Self::new(USUAL, look)
    }

    fn new(mut widths: [usize; COLUMNS], look: Look) -> Self {
        for (width, (narrowest, widest)) in widths.iter_mut().zip(NARROWEST.into_iter().zip(WIDEST)) {
            *width = (*width).clamp(narrowest, widest);
        }
        if let Some(line) = look.width {
            let room = line.saturating_sub(GAP.len() * (COLUMNS - 1));
            let message = COLUMNS - 1;
            widths[message] = widths[message].min(room).max(NARROWEST[message]);
            // The widest gives way first, so that no column is starved for another; the message may have twice as much.
            let size = |widths: &[usize; COLUMNS], i: usize| if i == message { widths[i].div_ceil(2) } else { widths[i] };
            while widths.iter().sum::<usize>() > room {
                let widest = (0..COLUMNS).filter(|i| widths[*i] > NARROWEST[*i]).max_by_key(|i| size(&widths, *i));
                let Some(widest) = widest else { break };
                widths[widest] -= 1;
            }
        }
        Self { widths, look }
    }

    /// The line above the entries.
    pub fn header(&self, out: &mut String) {
        self.line(out, HEADER.map(str::to_owned), Some("2"), None);
    }

    /// One entry, one line.
    pub fn row(&self, out: &mut String, entry: &Entry<'_>) {
        let colour = match &*entry.severity {
            "INFO" => "36",
            "WARNING" => "33",
            "ERROR" => "31",
            "CRITICAL" => "1;35",
            _ => "0",
        };
        self.line(out, entry.cells(), None, Some(colour));
    }

    fn line(&self, out: &mut String, cells: [String; COLUMNS], whole: Option<&str>, severity: Option<&str>) {
        let start = out.len();
        let (mut used, last) = (0, COLUMNS - 1);
        for (i, (cell, width)) in cells.iter().zip(self.widths).enumerate() {
            // On a terminal that is too narrow for everything, what does not fit is left out: a line stays one line.
            let room = self.look.width.map_or(usize::MAX, |line| line.saturating_sub(used));
            let text = if self.look.width.is_some() {
                cut(cell, width.min(room))
            } else {
                Cow::from(cell)
            };
            let style = if i == 1 { severity.or(whole) } else { whole };
            match style.filter(|_| self.look.colour) {
                Some(code) => out.extend(["\x1b[", code, "m", &text, "\x1b[0m"]),
                None => out.push_str(&text),
            }
            if i < last {
                let cells = cells_of(&text);
                let padding = (width + GAP.len()).saturating_sub(cells).max(GAP.len()).min(room - cells);
                out.extend(std::iter::repeat_n(' ', padding));
                used += cells + padding;
            }
        }
        out.truncate(start + out[start..].trim_end_matches(' ').len());
        out.push('\n');
    }
}

/// How many cells a text takes.
fn cells_of(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The text in so many cells, with `…` where something is missing.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if cells_of(text) <= width {
        return text.into();
    }
    let (mut short, mut used) = (String::new(), 1);
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        short.push(c);
    }
    if width > 0 {
        short.push('…');
    }
    short.into()
}

/// Whether a terminal could obey the character, or show something else than what is there.
fn is_harmful(c: char) -> bool {
    // Controls (C0, DEL, C1); marks that turn the direction of text; line and paragraph separators; invisible signs.
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// The text with visible signs in place of what a terminal would obey.
pub fn harmless(text: &str) -> String {
    let sign = |c: char| match c {
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('�'),
        '\x7f' => '␡',
        c if is_harmful(c) => '�',
        c => c,
    };
    text.chars().map(sign).collect()
}

/// The same JSON value, with what a terminal would obey as `\u` escapes. Between values JSON has only blanks and line ends, which
/// stay; inside of strings C0 is escaped already.
pub fn harmless_json(json: &str) -> Cow<'_, str> {
    let stays = |c: char| !is_harmful(c) || matches!(c, '\n' | '\r' | '\t');
    if json.chars().all(stays) {
        return json.into();
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if stays(c) {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn entry(message: &str) -> String {
        json!({"timestamp": "2026-01-02T03:04:05.678Z", "severity": "ERROR", "action": "LOGIN", "resource_type": "session",
            "resource_id": "s-1", "user_id": null, "message": message, "sequence": 7, "more": {}})
        .to_string()
    }

    fn drawn(text: &str, width: Option<usize>, colour: bool) -> String {
        let entry: Entry<'_> = serde_json::from_str(text).expect("an entry");
        let table = Table::fitting(std::slice::from_ref(&entry), Look { width, colour });
        let mut out = String::new();
        table.header(&mut out);
        table.row(&mut out, &entry);
        out
    }

    #[test]
    fn a_line_is_never_wider_than_the_terminal() {
        let text = entry(&"日本語 and more ".repeat(50));
        for width in [0, 1, 5, 23, 40, 60, 80, 81, 120, 300] {
            for colour in [false, true] {
                let out = drawn(&text, Some(width), colour);
                assert_eq!(out.lines().count(), 2, "{out}");
                for line in out.lines() {
                    let plain = ["\x1b[2m", "\x1b[31m", "\x1b[0m"]
                        .iter()
                        .fold(line.to_owned(), |line, code| line.replace(code, ""));
                    assert!(cells_of(&plain) <= width && !plain.contains('\x1b'), "{width}: {plain}");
                }
            }
        }
        let out = drawn(&text, Some(120), false);
        assert!(
            out.contains("2026-01-02 03:04:05.678  ERROR     LOGIN") && out.trim_end().ends_with('…'),
            "{out}"
        );
        let out = drawn(&text, None, false);
        assert!(out.contains("日本語 and more ".repeat(50).trim_end()), "a pipe gets everything: {out}");
    }

    #[test]
    fn nothing_of_an_entry_is_obeyed_by_the_terminal() {
        let evil = "a\x1b[31mred\x07\r\nnext\u{9b}2J\u{202e}back\u{7f}\u{200b}";
        let out = drawn(&entry(evil), None, false);
        assert_eq!(out.lines().count(), 2);
        assert!(out.chars().all(|c| c == '\n' || !is_harmful(c)), "{out:?}");
        assert!(out.contains("a␛[31mred␇␍␊next�2J�back␡�"), "{out}");

        let text = entry(evil);
        let safe = harmless_json(&text);
        assert!(safe.chars().all(|c| !is_harmful(c)), "{safe}");
        let values: [Value; 2] = [&*safe, &*text].map(|t| serde_json::from_str(t).expect("JSON"));
        assert_eq!(values[0], values[1]);
        assert!(matches!(harmless_json("{\"a\":\n\"ü\"}"), Cow::Borrowed(_)));
    }

    #[test]
    fn the_message_gets_what_the_others_leave() {
        let table = |width| {
            Table::new(
                [23, 8, 40, 40, 90, 900],
                Look {
                    width: Some(width),
                    colour: false,
                },
            )
            .widths
        };
        assert_eq!(table(200), [23, 8, 28, 24, 36, 71]);
        assert_eq!(table(80).iter().sum::<usize>() + 10, 80);
        assert_eq!(table(20), NARROWEST);
    }
}
