//! `POST /deadletters/{id}/replay`: the entry of a dead letter is accepted once more, as it was or corrected.
//!
//! It is a new acceptance by the caller: checked as the body of a `POST /logs`, numbered anew, with the caller as its actor. It
//! keeps its time, and its id where that was not what was wrong with it. The letter is removed when the new pack is durable, and
//! only then; the work goes on when the client goes away. A process that dies between the two leaves the letter, and replaying it
//! again makes the same id ([`DeadLetter::replay_id`]), which is found to be stored.
//!
//! [`DeadLetter::replay_id`]: crate::sinks::dead_letter::DeadLetter::replay_id

use super::{
    access,
    dispatch::Call,
    error::{Answer, Code, FieldError, Problem},
    ingest::{self, Job},
    layers::internal,
    letters::InHand,
    reads, recording,
    state::App,
};
use crate::{
    lifecycle::access_log::Event,
    model::{
        entry::StoredEntry,
        parse::{BodyError, BodyFormat, ParseContext, Parsed, Resent, parse_body},
        tenant::TenantScope,
        time::parse_rfc3339,
    },
    sinks::dead_letter::{Found, Reason},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;

/// The endpoint.
pub async fn replay(call: Call) -> Answer {
    let (principal, action) = call.caller()?;
    let (scope, tenant) = access::own_tenant(&call.app, principal, action)?;
    let wait = ingest::wait_stored(&call.query)?;
    let in_hand = InHand::take(&call.app, &scope, &call.id)?;
    let found = call
        .app
        .services
        .dead_letters
        .find(&scope, in_hand.id())
        .await?
        .ok_or_else(Problem::not_found)?;
    let found = Arc::new(found);
    let job = Job::new(&call, principal, &tenant, true)?.replaying(found.clone());
    let (app, who) = (call.app.clone(), call.who()?);
    let taken = ingest::take(&app, &scope, job, &call.parts.headers, call.body).await?;
    let ids = taken.ids.clone();
    let (pack, room, entry) = taken.single()?;
    let id = entry.entry().id();
    refuse_conflict(&app, &scope, &entry).await?;
    let work = {
        let (app, scope) = (app.clone(), scope.clone());
        async move {
            let decided = ingest::accept(&app, pack, &ids, wait).await?;
            drop(room);
            app.services.dead_letters.remove_in_the_end(&scope, Found::clone(&found)).await;
            let event = Event::change("sluice.deadletter.replay", "deadletter", in_hand.id().to_string());
            recording::changed(&app, &scope, &who, event.text("entry_id", &id.to_string())).await;
            Ok::<_, Problem>(decided)
        }
    };
    let decided = tokio::spawn(work).await.map_err(|error| {
        tracing::error!(%error, "replaying a dead letter failed");
        internal()
    })??;
    Ok(ingest::created(&app, &scope, entry, wait, decided).await)
}

/// An entry whose id belongs to another one would only become a dead letter again, so it is not taken.
async fn refuse_conflict(app: &App, scope: &TenantScope, entry: &StoredEntry) -> Result<(), Problem> {
    let (id, hash) = (entry.entry().id(), entry.entry().hash());
    // If it cannot be read now, the sequencer decides.
    let Ok(Some(there)) = reads::find(app, scope, id).await else { return Ok(()) };
    if there.entry().hash() == hash {
        return Ok(());
    }
    let message = "an entry with this id and another content is stored already; correct the entry and give it another `id`";
    Err(Problem::new(Code::InvalidEntry, message).with_errors(vec![FieldError::new("id", "id_conflict", message)]))
}

/// What an entry shows that only the server sets.
#[derive(Deserialize)]
struct Shown<'a> {
    timestamp: &'a str,
    #[serde(borrow)]
    received_at: &'a RawValue,
    #[serde(borrow)]
    actor: &'a RawValue,
    #[serde(borrow)]
    sequence: &'a RawValue,
}

/// What the replay of a letter keeps of it.
fn resent<'a>(found: &'a Found, context: &ParseContext<'_>) -> Resent<'a> {
    let letter = &found.letter;
    let shown = serde_json::from_str::<Shown<'a>>(letter.entry.get()).ok();
    let raw = |value: fn(&Shown<'a>) -> &'a RawValue| shown.as_ref().map_or("", |shown| value(shown).get());
    Resent {
        id: letter.replay_id(context.tenant),
        timestamp: shown.as_ref().and_then(|shown| parse_rfc3339(shown.timestamp)).unwrap_or(context.now_ms),
        unchanged: None,
        shown: [
            ("received_at", raw(|s| s.received_at)),
            ("actor", raw(|s| s.actor)),
            ("sequence", raw(|s| s.sequence)),
        ],
    }
}

/// The entry as it was accepted.
pub fn original(found: &Found, context: &ParseContext<'_>) -> Result<Parsed, BodyError> {
    if found.letter.reason == Reason::Undecodable {
        // It was never accepted: what was wrong with it is looked at again.
        return corrected(found, found.letter.entry.get().as_bytes(), context);
    }
    let context = ParseContext {
        resent: Some(Resent {
            unchanged: Some(found.hash),
            ..resent(found, context)
        }),
        subject: "",                 // who had no user keeps none
        max_entry_bytes: usize::MAX, // it was small enough as it was sent
        ..*context
    };
    parse_body(found.letter.entry.get().as_bytes(), BodyFormat::Single, &context)
}

/// The entry of the body, bare or as the only field `entry` of an object.
pub fn corrected(found: &Found, body: &[u8], context: &ParseContext<'_>) -> Result<Parsed, BodyError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wrapped<'a> {
        #[serde(borrow)]
        entry: &'a RawValue,
    }
    let wrapped = serde_json::from_slice::<Wrapped<'_>>(body);
    let entry = wrapped.as_ref().map_or(body, |wrapped| wrapped.entry.get().as_bytes());
    let context = ParseContext {
        resent: Some(resent(found, context)),
        ..*context
    };
    parse_body(entry, BodyFormat::Single, &context)
}
