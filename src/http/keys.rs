//! API keys of a tenant: list, make, revoke. The text of a key is in one answer only, the one that made it.

use super::{
    access,
    dispatch::{Call, json_of},
    error::{Answer, Problem},
    fields::{invalid, object},
    login::text,
    recording,
    tenants::{Listing, Total},
};
use crate::{
    auth::{Role, jwt::roles_named},
    catalog::{ApiKey, NewKey},
    lifecycle::access_log::Event,
    model::time::{parse_rfc3339, rfc3339},
};
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Serialize;
use serde_json::Value;

#[derive(Serialize)]
struct Shown<'a> {
    key_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    name: &'a str,
    role: Role,
    created_at: String,
    expires_at: Option<String>,
}

fn shown<'a>(key: &'a ApiKey, text: Option<&'a str>) -> Shown<'a> {
    Shown {
        key_id: &key.key_id,
        key: text,
        name: &key.name,
        role: key.role,
        created_at: rfc3339(key.created_at),
        expires_at: key.expires_at.map(|at| rfc3339(at * 1000)),
    }
}

/// `GET /tenants/{id}/keys`: by id.
pub async fn list(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::named_tenant(&call.app, caller, action, &call.id)?;
    let keys = call.app.services.catalog.keys(scope.tenant()).await?;
    let data: Vec<_> = keys.iter().map(|key| shown(key, None)).collect();
    let meta = Total { total: data.len() as u64 };
    Ok(json_of(&Listing { data, meta }))
}

/// `POST /tenants/{id}/keys`.
pub async fn create(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::named_tenant(&call.app, caller, action, &call.id)?;
    let (app, who) = (call.app.clone(), call.who()?);
    let mut fields = object(call, &["name", "role", "expires_at"]).await?;
    let name = text(&mut fields, "name")?;
    let role = role_of(&text(&mut fields, "role")?)?;
    let expires_at = match fields.remove("expires_at") {
        None | Some(Value::Null) => None,
        Some(Value::String(time)) => {
            let wrong = || invalid("expires_at", "invalid_time", "`expires_at` is an RFC 3339 time with a zone, in the future");
            Some(parse_rfc3339(&time).ok_or_else(wrong)?.div_euclid(1000))
        }
        Some(_) => return Err(invalid("expires_at", "wrong_type", "`expires_at` is a string")),
    };
    let (key, text) = app.services.catalog.create_key(scope.tenant(), NewKey { name, role, expires_at }).await?;
    let event = Event::change("sluice.key.create", "key", &*key.key_id).after(&shown(&key, None));
    recording::changed(&app, &scope, &who, event).await;
    let mut response = json_of(&shown(&key, Some(text.reveal())));
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `DELETE /tenants/{id}/keys/{key_id}`.
pub async fn revoke(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::named_tenant(&call.app, caller, action, &call.id)?;
    let key = call.app.services.catalog.revoke_key(scope.tenant(), &call.item).await?;
    let event = Event::change("sluice.key.revoke", "key", &*key.key_id).before(&shown(&key, None));
    recording::changed(&call.app, &scope, &*call.who()?, event).await;
    Ok(no_content())
}

/// A 204.
pub fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// The one role of a name. Whoever may make keys has all the rights that one can have, so there is no more to ask.
fn role_of(name: &str) -> Result<Role, Problem> {
    match roles_named(name) {
        Some([role]) if *role != Role::PlatformAdmin => Ok(*role),
        _ => Err(invalid("role", "invalid_value", "`role` is `writer`, `viewer`, `auditor` or `admin`")),
    }
}
