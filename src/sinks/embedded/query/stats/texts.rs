//! Distinct texts by number: each is kept once, end to end in one buffer, so that a row costs a hash and a look-up and no
//! allocation.

use hashbrown::HashTable;
use std::ops::RangeInclusive;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The row does not have the field.
pub const ABSENT: u32 = u32::MAX;
/// The row has several values; they are in [`super::frame::Frame::several`].
pub const SEVERAL: u32 = u32::MAX - 1;
/// The text is not among those that are looked at ([`Texts::slice`]).
pub const OUTSIDE: u32 = u32::MAX - 2;

/// What a text takes besides its bytes: its end (8, in a vector that may have just doubled), its place in the table (9, in
/// one that may have just doubled), and a counter and a mask of whoever counts by it.
const OVERHEAD: usize = 64;

/// Texts and their numbers, from 0 without gaps. Only texts whose hash lies in the slice are taken.
pub struct Texts {
    /// Texts are the clients' choice; a hidden seed keeps them from choosing collisions. One for a whole query: slices of
    /// different tables must agree.
    seed: u64,
    slice: RangeInclusive<u64>,
    /// 32 bits of the hash, and the number.
    table: HashTable<(u32, u32)>,
    ends: Vec<usize>,
    text: String,
}

impl Texts {
    /// None yet. Of all texts those will be taken whose hash is in `slice`.
    pub fn new(seed: u64, slice: RangeInclusive<u64>) -> Self {
        Self {
            seed,
            slice,
            table: HashTable::new(),
            ends: Vec::new(),
            text: String::new(),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes that they take, counters by number included.
    pub fn memory(&self) -> usize {
        self.text.len() + OVERHEAD * self.ends.len()
    }

    /// The text of a number.
    pub fn get(&self, code: u32) -> &str {
        let at = code as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[start..self.ends[at]]
    }

    /// All of them, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|code| self.get(code as u32))
    }

    /// The number of a text, a new one if it was not there, or [`OUTSIDE`].
    pub fn code(&mut self, text: &str) -> u32 {
        let hash = xxh3_64_with_seed(text.as_bytes(), self.seed);
        if !self.slice.contains(&hash) {
            return OUTSIDE;
        }
        let short = hash as u32;
        if let Some((_, code)) = self.table.find(spread(short), |(h, code)| *h == short && self.get(*code) == text) {
            return *code;
        }
        let code = self.ends.len() as u32;
        self.text.push_str(text);
        self.ends.push(self.text.len());
        self.table.insert_unique(spread(short), (short, code), |(short, _)| spread(*short));
        code
    }

    /// The same for what may be absent.
    pub fn code_of(&mut self, text: Option<&str>) -> u32 {
        text.map_or(ABSENT, |text| self.code(text))
    }

    /// The numbers here of all texts of another.
    pub fn codes_of(&mut self, other: &Texts) -> Vec<u32> {
        other.iter().map(|text| self.code(text)).collect()
    }
}

/// The table takes the low bits for the bucket and the top seven for the tag: both come from all 32.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_one_number_and_are_kept_once() {
        let mut texts = Texts::new(1, 0..=u64::MAX);
        let words: Vec<String> = (0..5_000).map(|i| format!("{}", i % 1_000)).collect();
        let codes: Vec<u32> = words.iter().map(|w| texts.code(w)).collect();
        assert_eq!(texts.len(), 1_000);
        assert!(codes.iter().enumerate().all(|(i, code)| *code == (i % 1_000) as u32));
        assert!(words.iter().zip(&codes).all(|(word, code)| texts.get(*code) == word));
        assert_eq!((texts.code(""), texts.code("ä"), texts.code("")), (1_000, 1_001, 1_000), "empty is a text");
        assert_eq!(texts.code_of(None), ABSENT);
    }

    #[test]
    fn slices_part_the_texts() {
        let middle = u64::MAX / 3;
        let (mut low, mut high) = (Texts::new(9, 0..=middle), Texts::new(9, middle + 1..=u64::MAX));
        for i in 0..1_000 {
            let text = i.to_string();
            let (a, b) = (low.code(&text), high.code(&text));
            assert_eq!((a == OUTSIDE) as u8 + (b == OUTSIDE) as u8, 1, "{text}");
        }
        assert!((250..420).contains(&low.len()) && low.len() + high.len() == 1_000, "{}", low.len());
    }
}
