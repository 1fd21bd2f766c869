//! Counts by combinations of values. A combination is a number made level by level: the number of its first values and the
//! code of the next one make the next number. So a row costs one look-up of a pair of numbers for each further key.

use super::{
    frame::{Frame, Key, USER},
    texts::{ABSENT, OUTSIDE, SEVERAL},
};
use hashbrown::HashTable;
use smallvec::SmallVec;

/// Combinations that always fit, unless their texts are extremely long.
pub const GROUPS: usize = 100_000;
/// What one entry with arrays may count for; more would be more groups than fit.
const COMBINATIONS: usize = GROUPS;
/// Groups whose users are kept as one bit in a mask per user.
const MASKED: u32 = u64::BITS;

/// What is known about one combination.
#[derive(Clone, Copy)]
pub struct Cell {
    /// Entries.
    pub count: u64,
    /// Smallest event time.
    pub first: i64,
    /// Largest event time.
    pub last: i64,
    /// Distinct users seen.
    pub users: u64,
}

impl Cell {
    const EMPTY: Cell = Cell {
        count: 0,
        first: i64::MAX,
        last: i64::MIN,
        users: 0,
    };
}

/// Numbers for pairs of numbers.
#[derive(Default)]
struct Pairs {
    table: HashTable<u32>,
    pairs: Vec<(u32, u32)>,
}

impl Pairs {
    fn number(&mut self, pair: (u32, u32)) -> u32 {
        let pairs = &mut self.pairs;
        if let Some(known) = self.table.find(mix(pair), |at| pairs[*at as usize] == pair) {
            return *known;
        }
        let number = pairs.len() as u32;
        pairs.push(pair);
        self.table.insert_unique(mix(pair), number, |at| mix(pairs[*at as usize]));
        number
    }
}

fn mix((a, b): (u32, u32)) -> u64 {
    (u64::from(a) << 32 | u64::from(b)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// The code of a value as a part of a combination: 0 is absent.
fn part(code: u32) -> u32 {
    debug_assert_ne!(code, SEVERAL);
    code.wrapping_add(1)
}

/// The groups so far.
pub struct Groups {
    keys: Vec<Key>,
    /// One for each key but the first.
    levels: Vec<Pairs>,
    /// By the number of the combination.
    cells: Vec<Cell>,
    /// Whether users are counted per group.
    counts_users: bool,
    /// Of each user by its code: which of the first groups it is in.
    masks: Vec<u64>,
    /// Other groups and their users.
    members: HashTable<(u32, u32)>,
    /// A row has more combinations than can be.
    burst: bool,
}

impl Groups {
    /// None yet. With `counts_users` each knows the number of its users.
    pub fn new(keys: &[Key], counts_users: bool) -> Self {
        Self {
            keys: keys.to_vec(),
            levels: (1..keys.len()).map(|_| Pairs::default()).collect(),
            cells: Vec::new(),
            counts_users,
            masks: Vec::new(),
            members: HashTable::new(),
            burst: false,
        }
    }

    /// At most how many there are.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Bytes, but for their texts and what is known of users.
    pub fn memory(&self) -> usize {
        // Vectors and tables may have just doubled.
        let pairs: usize = self.levels.iter().map(|level| level.pairs.len()).sum();
        2 * (size_of::<Cell>() * self.cells.len() + 13 * pairs)
    }

    /// Bytes of what is known of users.
    pub fn memory_of_users(&self) -> usize {
        8 * self.masks.len() + 18 * self.members.len()
    }

    /// Whether a row had more combinations than groups fit: then it is not counted.
    pub fn burst(&self) -> bool {
        self.burst
    }

    /// Adds the rows of a frame that has times and the codes of all keys and users.
    pub fn add(&mut self, frame: &Frame) {
        let keys = std::mem::take(&mut self.keys);
        if keys.iter().all(|key| frame.several(*key).is_empty()) {
            let mut numbers: Vec<u32> = frame.codes(keys[0]).iter().map(|code| part(*code)).collect();
            for (key, level) in keys[1..].iter().zip(&mut self.levels) {
                let codes = frame.codes(*key);
                numbers
                    .iter_mut()
                    .zip(codes)
                    .for_each(|(number, code)| *number = level.number((*number, part(*code))));
            }
            for (row, number) in numbers.into_iter().enumerate() {
                self.count(number, frame, row);
            }
        } else {
            let mut numbers = Vec::new();
            for row in 0..frame.len() {
                self.combine(&keys, frame, row, &mut numbers);
                numbers.iter().for_each(|number| self.count(*number, frame, row));
            }
        }
        self.keys = keys;
    }

    /// The combinations of a row that has several values of a key.
    fn combine(&mut self, keys: &[Key], frame: &Frame, row: usize, numbers: &mut Vec<u32>) {
        numbers.clear();
        numbers.extend(frame.values(keys[0], row).map(part));
        for (i, key) in keys.iter().enumerate().skip(1) {
            let values: SmallVec<[u32; 8]> = frame.values(*key, row).map(part).collect();
            if numbers.len().saturating_mul(values.len()) > COMBINATIONS {
                self.burst = true;
                return numbers.clear();
            }
            let pairs: Vec<(u32, u32)> = numbers.iter().flat_map(|n| values.iter().map(move |v| (*n, *v))).collect();
            numbers.clear();
            numbers.extend(pairs.into_iter().map(|pair| self.levels[i - 1].number(pair)));
        }
    }

    fn count(&mut self, number: u32, frame: &Frame, row: usize) {
        let cell = self.cell(number);
        cell.count += 1;
        let at = frame.times()[row];
        (cell.first, cell.last) = (cell.first.min(at), cell.last.max(at));
        if self.counts_users {
            self.join(number, frame.users()[row]);
        }
    }

    fn cell(&mut self, number: u32) -> &mut Cell {
        let at = number as usize;
        if at >= self.cells.len() {
            self.cells.resize(at + 1, Cell::EMPTY);
        }
        &mut self.cells[at]
    }

    /// Counts a user of a group once.
    fn join(&mut self, number: u32, user: u32) {
        if user == ABSENT || user == OUTSIDE {
            return;
        }
        let new = if number < MASKED {
            let at = user as usize;
            if at >= self.masks.len() {
                self.masks.resize(at + 1, 0);
            }
            let bit = 1 << number;
            let known = self.masks[at] & bit != 0;
            self.masks[at] |= bit;
            !known
        } else {
            let member = (number, user);
            let known = self.members.find(mix(member), |m| *m == member).is_some();
            if !known {
                self.members.insert_unique(mix(member), member, |m| mix(*m));
            }
            !known
        };
        self.cell(number).users += u64::from(new);
    }

    /// Adds another's. `codes` gives for each column the codes here of the codes there.
    pub fn merge(&mut self, other: &Groups, codes: &[Vec<u32>]) {
        self.burst |= other.burst;
        let mut numbers = vec![0; other.cells.len()];
        for (there, cell) in other.cells().filter(|(_, cell)| cell.count > 0) {
            let here = self.number_of(other.values(there).zip(&other.keys).map(|(value, key)| match (value, key) {
                (Some(code), Key::Column(column)) => codes[*column][code as usize],
                (value, _) => value.unwrap_or(ABSENT),
            }));
            numbers[there as usize] = here;
            let mine = self.cell(here);
            mine.count += cell.count;
            (mine.first, mine.last) = (mine.first.min(cell.first), mine.last.max(cell.last));
        }
        for (user, mask) in other.masks.iter().enumerate().filter(|(_, mask)| **mask != 0) {
            let user = codes[USER][user];
            for number in (0..MASKED).filter(|number| mask >> number & 1 == 1) {
                self.join(numbers[number as usize], user);
            }
        }
        for (number, user) in &other.members {
            self.join(numbers[*number as usize], codes[USER][*user as usize]);
        }
    }

    /// All combinations, among them some without entries.
    pub fn cells(&self) -> impl Iterator<Item = (u32, &Cell)> {
        self.cells.iter().enumerate().map(|(number, cell)| (number as u32, cell))
    }

    /// What is known about a combination.
    pub fn get(&self, number: u32) -> Cell {
        self.cells.get(number as usize).copied().unwrap_or(Cell::EMPTY)
    }

    /// The codes of a combination, in the order of the keys; `None` is absent.
    pub fn values(&self, number: u32) -> impl DoubleEndedIterator<Item = Option<u32>> + use<> {
        let (mut number, mut values) = (number, SmallVec::<[Option<u32>; 8]>::new());
        for level in self.levels.iter().rev() {
            let (before, value) = level.pairs[number as usize];
            values.push(value.checked_sub(1));
            number = before;
        }
        values.push(number.checked_sub(1));
        values.reverse();
        values.into_iter()
    }

    /// The number of the combination of these codes.
    pub fn number_of(&mut self, codes: impl Iterator<Item = u32>) -> u32 {
        let mut parts = codes.map(part);
        let first = parts.next().unwrap_or(0);
        parts.zip(&mut self.levels).fold(first, |number, (part, level)| level.number((number, part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups with the codes 0 to `n - 1` of one key and a user each that all of them have, and one of its own.
    fn groups(n: u32) -> (Groups, Vec<u32>) {
        let mut groups = Groups::new(&[Key::Column(0)], true);
        let numbers: Vec<u32> = (0..n).map(|code| groups.number_of([code].into_iter())).collect();
        for (code, number) in numbers.iter().enumerate() {
            groups.cell(*number).count += 1;
            for user in [0, 0, code as u32 + 1] {
                groups.join(*number, user);
            }
        }
        (groups, numbers)
    }

    #[test]
    fn the_last_group_with_a_bit_and_the_first_without_one_count_their_own_users() {
        for n in [MASKED - 2, MASKED - 1, MASKED, MASKED + 1, 3 * MASKED] {
            let (one, numbers) = groups(n);
            assert!(numbers.iter().all(|number| one.get(*number).users == 2), "{n} groups");
            // A second frame of the same knows nobody new, and one of its own numbers finds them all again.
            let codes = vec![(0..n).collect(), Vec::new(), (0..=n).collect::<Vec<u32>>()];
            let mut all = Groups::new(&[Key::Column(0)], true);
            all.merge(&one, &codes);
            all.merge(&groups(n).0, &codes);
            assert!(
                numbers.iter().all(|number| all.get(*number).users == 2 && all.get(*number).count == 2),
                "{n} groups"
            );
            assert_eq!(
                one.memory_of_users() > 8 * (n as usize + 1),
                n >= MASKED,
                "a bit each as long as there are bits"
            );
        }
    }
}
