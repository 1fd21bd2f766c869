//! Pages of entries: the best rows of the best units, and a stop as soon as no other unit can hold a better one.

use super::{super::view::TenantView, Best, Control, Reader};
use crate::sinks::{ListPage, ListQuery, StoreError};

/// One page. Holds `skip + limit` keys in memory, and `limit` rows.
pub fn list(view: &TenantView, query: &ListQuery, control: &Control) -> Result<ListPage, StoreError> {
    let mut reader = Reader::new(view, &query.filter, control);
    reader.order(query.sort);
    let mut best = Best::new(query.skip.saturating_add(query.limit));
    let mut total = 0;
    for (at, unit) in reader.units.iter().enumerate() {
        if best.wants(unit.best(query.sort)) {
            total += reader.offer(at, query.sort, &mut best)?;
        } else if query.count {
            total += reader.count(unit)?;
        } else {
            break; // the units are in order: none of the rest can do better
        }
    }
    let hits = best.into_hits();
    let page = hits.get(query.skip..).unwrap_or_default();
    Ok(ListPage {
        entries: reader.read(page)?,
        total: query.count.then_some(total),
        as_of: view.head,
    })
}
