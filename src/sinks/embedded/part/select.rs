//! Finds the rows of a block that match a filter: cheap columns first, and each later column only for the rows that are
//! left, so that pages without one are not even inflated.

use super::{
    Block, PartError, Rows, TenantRows,
    prune::{all_in_sequence, all_in_time, all_severities},
    read::{Texts, numbers, random, times},
    schema::Column,
    search,
};
use crate::model::{
    entry::{Field, Severity},
    filter::{Filter, any_case, has_words},
    mask::Mask,
};
use arrow_array::RecordBatch;
use hashbrown::HashSet;
use parquet::errors::ParquetError;
use std::{borrow::Cow, ops::Range};
use uuid::Uuid;

impl TenantRows<'_> {
    /// The rows of the block that match, ascending; agrees with [`Filter::matches`]. Decodes only the columns that the
    /// filter names, and nothing where the sidecar decides. A block whose rows have been narrowed gives those of them.
    pub fn select(&self, block: &Block, filter: &Filter) -> Result<Vec<u32>, PartError> {
        self.own(block.rows.clone().into())?;
        let mut left = Survivors::new(self, block.rows.clone());
        self.narrow(&mut left, block, filter)?;
        Ok(left.into_rows())
    }

    /// Those of `among`, rows of the block, that match.
    pub(super) fn select_among(&self, block: &Block, among: Vec<u32>, filter: &Filter) -> Result<Vec<u32>, PartError> {
        let mut left = Survivors::among(self, block.rows.clone(), among);
        self.narrow(&mut left, block, filter)?;
        Ok(left.into_rows())
    }

    fn narrow(&self, left: &mut Survivors<'_>, block: &Block, filter: &Filter) -> Result<(), PartError> {
        if !self.may_match(block, filter) {
            left.some = Some(Vec::new());
            return Ok(());
        }
        if !filter.ids.is_empty() {
            left.restrict(filter.ids.iter().flat_map(|id| self.part.candidates(&self.scope, id)));
            left.keep(Column::Id, |batch, mask| {
                let ids = random(batch, 0)?;
                mask.extend((0..batch.num_rows()).map(|i| filter.ids.iter().any(|id| id.as_bytes() == ids.value(i))));
                Ok(())
            })?;
        }
        if !all_in_time(block, filter) {
            left.keep(Column::Timestamp, |batch, mask| {
                mask.extend(times(batch, 0)?.values().iter().map(|t| in_time(*t, filter)));
                Ok(())
            })?;
        }
        if !all_in_sequence(block, filter) {
            let range = filter.min_sequence.unwrap_or(0)..=filter.max_sequence.unwrap_or(u64::MAX);
            left.keep(Column::Sequence, |batch, mask| {
                mask.extend(numbers(batch, 0)?.values().iter().map(|n| range.contains(n)));
                Ok(())
            })?;
        }
        if !all_severities(block, filter) {
            left.keep_text(Column::Severity, |text| {
                text.and_then(Severity::parse).is_some_and(|s| filter.severity.contains(&s))
            })?;
        }
        let mask = filter.mask.as_deref();
        if !filter.action.is_empty() {
            left.keep_text(Column::Action, |text| any_case(shown(mask, Field::Action, text).as_deref(), &filter.action))?;
        }
        if !filter.resource_type.is_empty() {
            left.keep_text(Column::ResourceType, |text| {
                any_case(shown(mask, Field::ResourceType, text).as_deref(), &filter.resource_type)
            })?;
        }
        if !filter.actor.is_empty() {
            left.keep_text(Column::Actor, |text| {
                shown_actor(mask, text).is_some_and(|text| filter.actor.iter().any(|wanted| *wanted == text))
            })?;
        }
        for (field, wanted) in [
            (Field::UserId, &filter.user_id),
            (Field::SessionId, &filter.session_id),
            (Field::ResourceId, &filter.resource_id),
            (Field::RequestId, &filter.request_id),
            (Field::Email, &filter.email),
        ] {
            if !wanted.is_empty() {
                let wanted: HashSet<&str> = wanted.iter().map(String::as_str).collect();
                left.keep_text(Column::of(field), |text| shown(mask, field, text).is_some_and(|text| wanted.contains(&*text)))?;
            }
        }
        // A hidden address is none.
        if !filter.ip_address.is_empty() {
            if mask.is_some_and(Mask::hides_address) {
                left.some = Some(Vec::new());
                return Ok(());
            }
            left.keep_text(Column::IpAddress, |text| {
                let addr = text.and_then(|t| t.parse().ok());
                addr.is_some_and(|addr| filter.ip_address.iter().any(|range| range.contains(addr)))
            })?;
        }
        if !filter.user_agent.is_empty() {
            left.keep_text(Column::UserAgent, |text| {
                has_words(shown(mask, Field::UserAgent, text).as_deref(), &filter.user_agent)
            })?;
        }
        if !filter.metadata.is_empty() {
            left.keep_text(Column::Metadata, |text| {
                let text = shown(mask, Field::Metadata, text);
                filter.metadata.iter().all(|leaf| leaf.matches(text.as_deref()))
            })?;
        }
        if let Some(search) = &filter.search {
            let found = search::find(self, block, search, mask, left.take_rows())?;
            left.some = Some(found);
        }
        Ok(())
    }

    /// Those of `among`, which ascend, whose id, written with hyphens, passes.
    pub(super) fn with_id(&self, among: Vec<u32>, test: impl Fn(&str) -> bool) -> Result<Vec<u32>, PartError> {
        let mut left = Survivors::among(self, 0..0, among);
        left.keep(Column::Id, |batch, mask| {
            let ids = random(batch, 0)?;
            let passes = |i| Uuid::from_slice(ids.value(i)).is_ok_and(|id| test(id.hyphenated().encode_lower(&mut [0; 36])));
            mask.extend((0..batch.num_rows()).map(passes));
            Ok(())
        })?;
        Ok(left.into_rows())
    }

    /// Those of `among`, which ascend, whose text in the column passes.
    pub(super) fn with_text(&self, among: Vec<u32>, column: Column, test: impl Fn(Option<&str>) -> bool) -> Result<Vec<u32>, PartError> {
        let mut left = Survivors::among(self, 0..0, among);
        left.keep_text(column, test)?;
        Ok(left.into_rows())
    }
}

/// The text of a field as the mask shows it.
pub(super) fn shown<'t>(mask: Option<&Mask>, field: Field, text: Option<&'t str>) -> Option<Cow<'t, str>> {
    text.map(|text| mask.map_or(Cow::Borrowed(text), |mask| mask.text(field, text)))
}

/// The actor as the mask shows it.
pub(super) fn shown_actor<'t>(mask: Option<&Mask>, text: Option<&'t str>) -> Option<Cow<'t, str>> {
    text.map(|text| mask.map_or(Cow::Borrowed(text), |mask| mask.actor(text)))
}

fn in_time(t: i64, filter: &Filter) -> bool {
    filter.from.is_none_or(|from| t >= from)
        && filter.to.is_none_or(|to| t < to)
        && (filter.timestamps.is_empty() || filter.timestamps.iter().any(|(from, to)| (*from..*to).contains(&t)))
}

/// The rows that have met every condition so far.
struct Survivors<'t> {
    of: &'t TenantRows<'t>,
    block: Range<u32>,
    /// `None`: all of `block`.
    some: Option<Vec<u32>>,
}

impl<'t> Survivors<'t> {
    fn new(of: &'t TenantRows<'t>, block: Range<u32>) -> Self {
        Self { of, block, some: None }
    }

    fn among(of: &'t TenantRows<'t>, block: Range<u32>, rows: Vec<u32>) -> Self {
        Self { of, block, some: Some(rows) }
    }

    fn into_rows(mut self) -> Vec<u32> {
        self.take_rows()
    }

    fn take_rows(&mut self) -> Vec<u32> {
        self.some.take().unwrap_or_else(|| self.block.clone().collect())
    }

    /// Only these can match.
    fn restrict(&mut self, candidates: impl Iterator<Item = u32>) {
        let left = |row: &u32| match &self.some {
            Some(rows) => rows.binary_search(row).is_ok(),
            None => self.block.contains(row),
        };
        let mut rows: Vec<u32> = candidates.filter(left).collect();
        rows.sort_unstable();
        rows.dedup();
        self.some = Some(rows);
    }

    /// Decodes a column for the rows that are left; `test` says of each row of a batch whether it stays.
    fn keep(&mut self, column: Column, mut test: impl FnMut(&RecordBatch, &mut Vec<bool>) -> Result<(), ParquetError>) -> Result<(), PartError> {
        let rows = match &self.some {
            Some(rows) => Rows::from(rows),
            None => Rows::from(self.block.clone()),
        };
        let (mut kept, mut mask, mut at) = (Vec::new(), Vec::new(), 0);
        self.of.part.fetch(&[column], rows, &mut |batch| {
            mask.clear();
            test(batch, &mut mask)?;
            kept.extend(mask.iter().enumerate().filter(|(_, keep)| **keep).map(|(i, _)| rows.get(at + i)));
            at += batch.num_rows();
            Ok(())
        })?;
        self.some = Some(kept);
        Ok(())
    }

    /// The same for text. A dictionary's values are tested once each.
    fn keep_text(&mut self, column: Column, test: impl Fn(Option<&str>) -> bool) -> Result<(), PartError> {
        self.keep(column, |batch, mask| {
            match Texts::of(batch, 0)? {
                Texts::Dictionary(keys, values) => {
                    let (absent, verdicts) = (test(None), values.iter().map(&test).collect::<Vec<_>>());
                    mask.extend((0..batch.num_rows()).map(|i| keys.key(i).map_or(absent, |key| verdicts[key])));
                }
                views @ Texts::Views(_) => mask.extend((0..batch.num_rows()).map(|i| test(views.get(i)))),
            }
            Ok(())
        })
    }
}
