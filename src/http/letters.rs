//! Dead letters: what could not be stored, with the reason and the original.

use super::{
    access,
    dispatch::{Call, json_of},
    error::{Answer, Problem},
    filter, recording,
    tenants::{Listing, Total},
};
use crate::lifecycle::access_log::Event;
use uuid::Uuid;

/// `GET /deadletters`.
pub async fn list(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::own_tenant(&call.app, caller, action)?;
    let page = filter::page(&call.query)?;
    let found = call.app.services.dead_letters.list(&scope, page.skip as u64, page.page_size).await?;
    let event = Event::read("sluice.deadletter.search", "log", "deadletters");
    let event = event.filters(recording::filters(&call.query)).number("rows", found.data.len() as u64);
    recording::tell(&call.app, &scope, &*call.who()?, &event);
    let meta = Total { total: found.total };
    Ok(json_of(&Listing { data: found.data, meta }))
}

/// `GET /deadletters/{id}`.
pub async fn get(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::own_tenant(&call.app, caller, action)?;
    let id = Uuid::try_parse(&call.id).map_err(|_| Problem::not_found())?;
    let letter = call.app.services.dead_letters.get(&scope, id).await?.ok_or_else(Problem::not_found)?;
    let event = Event::read("sluice.deadletter.get", "deadletter", id.to_string()).number("rows", 1);
    recording::tell(&call.app, &scope, &*call.who()?, &event);
    Ok(json_of(&letter))
}
