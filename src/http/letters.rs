//! Dead letters: what could not be stored, with the reason and the original.

use super::{
    access,
    dispatch::{Call, json_of},
    error::{Answer, Code, FieldError, Problem},
    filter,
    layers::internal,
    query::Query,
    recording,
    state::App,
    tenants::{Listing, Total},
};
use crate::{
    lifecycle::access_log::Event,
    model::{
        conditions::{Refused, time},
        tenant::{TenantId, TenantScope},
    },
    sinks::dead_letter::{LetterFilter, Reason},
};
use axum::{
    body::Body,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use std::sync::Arc;
use uuid::Uuid;

/// `GET /deadletters`.
pub async fn list(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::own_tenant(&call.app, caller, action)?;
    let (wanted, page) = filter::both(letter_filter(&call.query), filter::page_of_any_depth(&call.query))?;
    let found = call.app.services.dead_letters.list(&scope, &wanted, page.skip as u64, page.page_size).await?;
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
    let found = call.app.services.dead_letters.find(&scope, id).await?.ok_or_else(Problem::not_found)?;
    let event = Event::read("sluice.deadletter.get", "deadletter", id.to_string()).number("rows", 1);
    recording::tell(&call.app, &scope, &*call.who()?, &event);
    Ok(json_of(&found.letter))
}

/// `DELETE /deadletters/{id}`. Once it has begun it goes on, and is written down, when the client goes away.
pub async fn delete(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::own_tenant(&call.app, caller, action)?;
    let in_hand = InHand::take(&call.app, &scope, &call.id)?;
    let (app, who) = (call.app.clone(), call.who()?);
    let work = async move {
        let letters = &app.services.dead_letters;
        let found = letters.find(&scope, in_hand.id()).await?.ok_or_else(Problem::not_found)?;
        if !letters.remove(&scope, &found).await? {
            return Err(Problem::not_found());
        }
        let event = Event::change("sluice.deadletter.delete", "deadletter", in_hand.id().to_string());
        recording::changed(&app, &scope, &who, event).await;
        Ok(())
    };
    tokio::spawn(work).await.map_err(|error| {
        tracing::error!(%error, "deleting a dead letter failed");
        internal()
    })??;
    Ok((StatusCode::NO_CONTENT, Body::empty()).into_response() as Response)
}

fn letter_filter(query: &Query) -> Result<LetterFilter, Problem> {
    let (mut filter, mut errors) = (LetterFilter::default(), Vec::new());
    for (name, value) in query.pairs() {
        if let Err((code, message)) = add(&mut filter, name, value) {
            errors.push(FieldError::new(name, code, message));
        }
    }
    if errors.is_empty() { Ok(filter) } else { Err(Problem::parameters(errors)) }
}

fn add(filter: &mut LetterFilter, name: &str, value: &str) -> Result<(), Refused> {
    match name {
        "reason" => {
            for part in value.split(',') {
                let reason = Reason::parse(part.trim());
                let reason = reason.ok_or_else(|| {
                    (
                        "invalid_value",
                        "`reason` is one of id_conflict, tenant_deleted, poison, undecodable".to_owned(),
                    )
                })?;
                filter.reasons.push(reason);
            }
        }
        "entry_id" => filter
            .entry_ids
            .push(Uuid::try_parse(value).map_err(|_| ("invalid_id", "`entry_id` is no UUID; write it like 0190a3b4-…".to_owned()))?),
        "from" => filter.from = Some(time(name, value)?),
        "to" => filter.to = Some(time(name, value)?),
        _ => {}
    }
    Ok(())
}

/// One letter that is being replayed or deleted; nobody else does either meanwhile.
pub struct InHand {
    app: Arc<App>,
    key: (TenantId, Uuid),
}

impl InHand {
    /// Takes the letter in hand, whether there is one or not; 404 for what is no id, 409 while somebody else has it.
    pub fn take(app: &Arc<App>, scope: &TenantScope, id: &str) -> Result<Self, Problem> {
        let id = Uuid::try_parse(id).map_err(|_| Problem::not_found())?;
        let key = (scope.tenant().clone(), id);
        if !app.letters_in_hand.insert(key.clone()) {
            return Err(Problem::new(
                Code::InProgress,
                "the dead letter is being replayed or deleted by another request",
            ));
        }
        Ok(Self { app: app.clone(), key })
    }

    /// The letter's id.
    pub fn id(&self) -> Uuid {
        self.key.1
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.app.letters_in_hand.remove(&self.key);
    }
}
