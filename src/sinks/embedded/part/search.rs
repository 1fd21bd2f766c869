//! Finds the rows of a block that a search asks for, on their original values or on what a mask shows of them.
//!
//! A row is looked at column by column, the cheap ones first, until what is known of it decides the tree: a row that is
//! decided needs no further column, and a page all of whose rows are decided is not even inflated. Each column is decoded
//! once, whatever the number of words; what the block's filter rules out is never looked for. Agrees with
//! [`Search::matches`].

use super::{
    Block, PartError, Rows, TenantRows,
    read::{Texts, random},
    schema::Column,
    select::{shown, shown_actor},
};
use crate::{
    model::{entry::Field, mask::Mask},
    search::{Named, Needle, SEARCHED, Scope, Search, Start, in_field},
};
use arrow_array::{Array, RecordBatch};
use parquet::errors::ParquetError;
use std::borrow::Cow;
use uuid::Uuid;

/// Where more than one row in so many is undecided, pages are read whole: that is less work than to pick rows.
const DENSE: usize = 8;

/// Those of `rows`, rows of the block, ascending, that the search asks for.
pub(super) fn find(of: &TenantRows<'_>, block: &Block, search: &Search, mask: Option<&Mask>, rows: Vec<u32>) -> Result<Vec<u32>, PartError> {
    let mut leaves = Vec::new();
    let tree = Tree::of(search, &mut leaves);
    let mut work = Work::new(of, mask, tree, leaves.len(), rows);
    for (i, leaf) in leaves.iter().enumerate() {
        if !of.may_find(block, leaf) {
            work.close(i);
        }
    }
    work.settle();
    for (i, leaf) in leaves.iter().enumerate() {
        if work.is_closed(i) || work.rows.is_empty() {
            continue;
        }
        let rows = match leaf {
            Search::Is(filter) => of.select_among(block, work.rows.clone(), filter)?,
            Search::Starts(start) => starting(of, start, mask, work.rows.clone())?,
            _ => continue,
        };
        work.found_in(i, &rows);
        work.close(i);
        work.settle();
    }
    let words = leaves.iter().enumerate().filter_map(|(i, leaf)| match leaf {
        Search::Text(scope, needle) if !work.is_closed(i) => Some(Words {
            leaf: i,
            scope: *scope,
            needle,
        }),
        _ => None,
    });
    let words: Vec<Words<'_>> = words.collect();
    work.look_for(&words)?;
    work.done.sort_unstable();
    Ok(work.done)
}

/// The rows whose text begins as it says.
fn starting(of: &TenantRows<'_>, start: &Start, mask: Option<&Mask>, rows: Vec<u32>) -> Result<Vec<u32>, PartError> {
    let field = match &start.of {
        Named::Id => return of.with_id(rows, |id| start.fits(Some(id))),
        Named::Actor => return of.with_text(rows, Column::Actor, |text| start.fits(shown_actor(mask, text).as_deref())),
        // An address that is empty or hidden is none.
        Named::Field(Field::IpAddress) => {
            let seen = |text: Option<&'_ str>| text.is_some_and(|text| !text.is_empty()) && !mask.is_some_and(Mask::hides_address);
            return of.with_text(rows, Column::IpAddress, |text| seen(text) && start.fits(text));
        }
        Named::Field(field) => *field,
        Named::Leaf(_) => Field::Metadata,
    };
    of.with_text(rows, Column::of(field), |text| start.fits(shown(mask, field, text).as_deref()))
}

/// A search whose leaves have numbers.
enum Tree {
    All(Vec<Tree>),
    Any(Vec<Tree>),
    Not(Box<Tree>),
    Leaf(usize),
}

impl Tree {
    fn of<'s>(search: &'s Search, leaves: &mut Vec<&'s Search>) -> Self {
        match search {
            Search::All(list) => Self::All(list.iter().map(|s| Self::of(s, leaves)).collect()),
            Search::Any(list) => Self::Any(list.iter().map(|s| Self::of(s, leaves)).collect()),
            Search::Not(search) => Self::Not(Box::new(Self::of(search, leaves))),
            leaf => {
                leaves.push(leaf);
                Self::Leaf(leaves.len() - 1)
            }
        }
    }

    /// What is known of the whole when that is known of its leaves.
    fn verdict(&self, leaf: &impl Fn(usize) -> Option<bool>) -> Option<bool> {
        let until = |list: &[Tree], end: bool| {
            let mut verdict = Some(!end);
            for tree in list {
                match tree.verdict(leaf) {
                    Some(found) if found == end => return Some(end),
                    Some(_) => {}
                    None => verdict = None,
                }
            }
            verdict
        };
        match self {
            Self::All(list) => until(list, false),
            Self::Any(list) => until(list, true),
            Self::Not(tree) => tree.verdict(leaf).map(|found| !found),
            Self::Leaf(i) => leaf(*i),
        }
    }
}

/// A leaf that looks for words.
struct Words<'s> {
    leaf: usize,
    scope: Scope,
    needle: &'s Needle,
}

/// Leaves by their numbers, as bits.
fn bit(leaf: usize) -> (usize, u64) {
    (leaf / 64, 1 << (leaf % 64))
}

/// The rows that are not decided, and what is known of them.
struct Work<'t> {
    of: &'t TenantRows<'t>,
    mask: Option<&'t Mask>,
    tree: Tree,
    rows: Vec<u32>,
    /// For each row the leaves that hold, `stride` words of bits.
    found: Vec<u64>,
    stride: usize,
    /// The rows of which something was found since they were last judged.
    touched: Vec<bool>,
    /// Leaves that do not hold where they were not found so far.
    closed: Vec<u64>,
    closed_any: bool,
    /// The rows that match, in no order.
    done: Vec<u32>,
}

impl<'t> Work<'t> {
    fn new(of: &'t TenantRows<'t>, mask: Option<&'t Mask>, tree: Tree, leaves: usize, rows: Vec<u32>) -> Self {
        let stride = leaves.div_ceil(64);
        Self {
            of,
            mask,
            tree,
            found: vec![0; stride * rows.len()],
            touched: vec![false; rows.len()],
            rows,
            stride,
            closed: vec![0; stride],
            closed_any: false,
            done: Vec::new(),
        }
    }

    fn is_closed(&self, leaf: usize) -> bool {
        let (word, bit) = bit(leaf);
        self.closed[word] & bit != 0
    }

    fn close(&mut self, leaf: usize) {
        let (word, bit) = bit(leaf);
        self.closed[word] |= bit;
        self.closed_any = true;
    }

    /// The leaf holds in these rows, which ascend.
    fn found_in(&mut self, leaf: usize, rows: &[u32]) {
        let (word, bit) = bit(leaf);
        let mut rows = rows.iter().peekable();
        for (i, row) in self.rows.iter().enumerate() {
            if rows.next_if_eq(&row).is_some() {
                self.found[i * self.stride + word] |= bit;
                self.touched[i] = true;
            }
        }
    }

    /// Judges the rows of which more is known, and lets go of those that are decided.
    fn settle(&mut self) {
        let (stride, all) = (self.stride, std::mem::take(&mut self.closed_any));
        let mut kept = 0;
        for i in 0..self.rows.len() {
            let here = i * stride..(i + 1) * stride;
            if all || self.touched[i] {
                let found = &self.found[here.clone()];
                let known = |leaf: usize| match bit(leaf) {
                    (word, bit) if found[word] & bit != 0 => Some(true),
                    (word, bit) if self.closed[word] & bit != 0 => Some(false),
                    _ => None,
                };
                match self.tree.verdict(&known) {
                    Some(true) => {
                        self.done.push(self.rows[i]);
                        continue;
                    }
                    Some(false) => continue,
                    None => {}
                }
            }
            self.rows[kept] = self.rows[i];
            self.found.copy_within(here, kept * stride);
            self.touched[kept] = false;
            kept += 1;
        }
        self.rows.truncate(kept);
        self.found.truncate(kept * stride);
        self.touched.truncate(kept);
    }

    /// Looks for all of these words, and decides every row that is left.
    fn look_for(&mut self, words: &[Words<'_>]) -> Result<(), PartError> {
        let in_ids: Vec<&Words<'_>> = words.iter().filter(|w| w.scope == Scope::Everywhere && w.needle.may_be_in_id()).collect();
        self.look_in(None, &in_ids)?;
        for field in SEARCHED {
            let here = |w: &&Words<'_>| w.scope == Scope::Everywhere || w.scope == Scope::Within(field);
            self.look_in(Some(field), &words.iter().filter(here).collect::<Vec<_>>())?;
            for words in words.iter().filter(|w| w.scope == Scope::Within(field)) {
                self.close(words.leaf);
            }
            self.settle();
        }
        words.iter().for_each(|words| self.close(words.leaf));
        self.settle();
        Ok(())
    }

    /// Looks for words in a field of the rows that are left; `None`: in their ids.
    fn look_in(&mut self, field: Option<Field>, words: &[&Words<'_>]) -> Result<(), PartError> {
        let (Some(first), Some(last)) = (self.rows.first().copied(), self.rows.last().copied()) else {
            return Ok(());
        };
        if words.is_empty() {
            return Ok(());
        }
        let mask = self.mask;
        let Self {
            rows, found, touched, stride, ..
        } = self;
        let dense = rows.len() * DENSE > (last - first) as usize;
        let fetched = if dense { Rows::Range(first, last + 1) } else { Rows::List(rows) };
        // Rows fetched before this batch, and the next undecided row.
        let (mut before, mut next) = (0, 0);
        self.of.part.fetch(&[field.map_or(Column::Id, Column::of)], fetched, &mut |batch| {
            let mut holds = reader(batch, field, mask)?;
            while let Some(row) = rows.get(next) {
                let at = if dense { (row - first) as usize } else { next } - before;
                if at >= batch.num_rows() {
                    break;
                }
                for (place, words) in words.iter().enumerate() {
                    let (word, bit) = bit(words.leaf);
                    let known = &mut found[next * *stride + word];
                    if *known & bit == 0 && holds(at, place, words.needle) {
                        *known |= bit;
                        touched[next] = true;
                    }
                }
                next += 1;
            }
            before += batch.num_rows();
            Ok(())
        })
    }
}

/// Tells of a row of the batch whether it holds a needle, the one at that place among those looked for.
type Holds<'b> = Box<dyn FnMut(usize, usize, &Needle) -> bool + 'b>;

fn reader<'b>(batch: &'b RecordBatch, field: Option<Field>, mask: Option<&'b Mask>) -> Result<Holds<'b>, ParquetError> {
    let Some(field) = field else {
        let ids = random(batch, 0)?;
        return Ok(Box::new(move |row, _, needle| {
            Uuid::from_slice(ids.value(row)).is_ok_and(|id| needle.in_text(id.hyphenated().encode_lower(&mut [0; 36])))
        }));
    };
    Ok(match Texts::of(batch, 0)? {
        Texts::Dictionary(keys, values) => {
            // A row group's values are few and are tested once for each needle.
            let mut verdicts: Vec<Vec<Option<bool>>> = Vec::new();
            Box::new(move |row, place, needle| {
                let Some(key) = keys.key(row) else { return false };
                if verdicts.len() <= place {
                    verdicts.resize_with(place + 1, || vec![None; values.len()]);
                }
                *verdicts[place][key].get_or_insert_with(|| {
                    let text = Some(values.value(key));
                    may_hold(needle, field, text) && in_field(needle, field, shown(mask, field, text).as_deref())
                })
            })
        }
        views @ Texts::Views(_) => match mask {
            None => Box::new(move |row, _, needle| in_field(needle, field, views.get(row))),
            Some(_) => {
                // All needles look at a row before any looks at the next.
                let mut last: Option<(usize, Option<Cow<'_, str>>)> = None;
                Box::new(move |row, _, needle| {
                    let text = views.get(row);
                    if !may_hold(needle, field, text) {
                        return false;
                    }
                    let seen = match &mut last {
                        Some((at, seen)) if *at == row => seen,
                        last => &mut last.insert((row, shown(mask, field, text))).1,
                    };
                    in_field(needle, field, seen.as_deref())
                })
            }
        },
    })
}

/// Whether the text can hold the needle once it is masked: its words are some of those that it has, though others may have
/// become neighbours.
fn may_hold(needle: &Needle, field: Field, text: Option<&str>) -> bool {
    needle.words().len() > 1 || in_field(needle, field, text)
}
