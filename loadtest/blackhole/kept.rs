//! The ids that a stand-in was sent, under log and number.

use std::collections::HashMap;

/// 16 bytes for each row; a number that was not sent holds zeros.
#[derive(Default)]
pub struct Kept {
    logs: HashMap<Box<str>, Vec<u128>>,
    /// Rows of audit logs; those of access logs are kept, too, but not counted.
    pub rows: u64,
    /// Rows under a number that had one already.
    pub twice: u64,
}

impl Kept {
    /// A row comes; whether it is the first under this number.
    pub fn put(&mut self, log: &str, sequence: u64, id: u128) -> anyhow::Result<bool> {
        anyhow::ensure!(sequence > 0 && sequence < 1 << 32 && id != 0, "`{log}` has no row {sequence}");
        if !self.logs.contains_key(log) {
            self.logs.insert(log.into(), Vec::new());
        }
        let ids = self.logs.get_mut(log).expect("it is there");
        let at = sequence as usize - 1;
        if ids.len() <= at {
            ids.resize(at + 1, 0);
        }
        let first = std::mem::replace(&mut ids[at], id) == 0;
        self.twice += u64::from(!first);
        self.rows += u64::from(first && !log.ends_with(".access"));
        Ok(first)
    }

    /// Whether this row is there.
    pub fn has(&self, log: &str, sequence: u64, id: u128) -> bool {
        self.logs.get(log).is_some_and(|ids| ids.get(sequence as usize - 1) == Some(&id))
    }

    /// The ids of a log, big-endian, in the order of their numbers.
    pub fn ids(&self, log: &str) -> Vec<u8> {
        self.logs.get(log).into_iter().flatten().flat_map(|id| id.to_be_bytes()).collect()
    }
}
