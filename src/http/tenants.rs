//! Tenants: list, create, get, update, usage.

use super::{
    access,
    body::{self, Media},
    dispatch::{Call, json_of},
    error::{Answer, Code, FieldError, Problem},
    query::{nearest, shown},
    routes::BASE,
};
use crate::{
    auth::Role,
    catalog::{NewTenant, SettingsPatch, Tenant},
    model::tenant::TenantId,
};
use axum::http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use std::sync::Arc;

/// A list with its length, as every short list of the contract.
#[derive(Serialize)]
pub struct Listing<T> {
    /// The items.
    pub data: Vec<T>,
    /// How many there are.
    pub meta: Total,
}

/// The length of a list.
#[derive(Serialize)]
pub struct Total {
    /// How many there are.
    pub total: u64,
}

/// `GET /tenants`: all for a platform admin, else the one of the credential.
pub fn list(call: &Call) -> Answer {
    let (caller, _) = call.caller()?;
    let catalog = &call.app.services.catalog;
    let data: Vec<Arc<Tenant>> = if caller.roles.contains(&Role::PlatformAdmin) {
        catalog.list()
    } else {
        caller.tenant.as_ref().and_then(|id| catalog.get(id)).into_iter().collect()
    };
    let meta = Total { total: data.len() as u64 };
    Ok(json_of(&Listing { data, meta }))
}

/// `GET /tenants/{id}`.
pub fn get(call: &Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (_, tenant) = access::named_tenant(&call.app, caller, action, &call.id)?;
    Ok(json_of(&*tenant))
}

/// `POST /tenants`.
pub async fn create(call: Call) -> Answer {
    let catalog = call.app.services.catalog.clone();
    let mut fields = object(call, &["tenant_id", "key", "name", "settings"]).await?;
    let id = match (fields.remove("tenant_id"), fields.remove("key")) {
        (Some(_), Some(_)) => return Err(invalid("key", "conflict", "give `tenant_id` or `key`, not both")),
        (Some(id), None) | (None, Some(id)) => id,
        (None, None) => return Err(invalid("tenant_id", "required", "`tenant_id` is required")),
    };
    let id = id.as_str().ok_or_else(|| invalid("tenant_id", "wrong_type", "`tenant_id` is a string"))?;
    let tenant_id = TenantId::parse(id).map_err(|e| invalid("tenant_id", "invalid_id", e.to_string()))?;
    let (name, settings) = name_and_settings(fields)?;
    let tenant = catalog.create(NewTenant { tenant_id, name, settings }).await?;
    let mut response = json_of(&*tenant);
    *response.status_mut() = StatusCode::CREATED;
    let location = HeaderValue::from_str(&format!("{BASE}/tenants/{}", tenant.tenant_id)).expect("a tenant id is visible ASCII");
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// `PUT /tenants/{id}`: what is given replaces, what is left out stays.
pub async fn update(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::named_tenant(&call.app, caller, action, &call.id)?;
    let catalog = call.app.services.catalog.clone();
    let (name, settings) = name_and_settings(object(call, &["name", "settings"]).await?)?;
    Ok(json_of(&*catalog.update(scope.tenant(), name, settings).await?))
}

/// `GET /tenants/{id}/usage`.
pub fn usage(call: &Call) -> Answer {
    #[derive(Serialize)]
    struct Usage {
        accepted: u64,
        stored: u64,
        duplicate: u64,
        dead_lettered: u64,
        pending: u64,
        erased: u64,
        rejected: u64,
        bytes: u64,
        quota: Option<u64>,
    }
    let (caller, action) = call.caller()?;
    let (scope, _) = access::named_tenant(&call.app, caller, action, &call.id)?;
    let counters = call.app.services.producer.counters(&scope);
    Ok(json_of(&Usage {
        accepted: counters.accepted,
        stored: counters.stored,
        duplicate: counters.duplicate,
        dead_lettered: counters.dead_lettered,
        pending: counters.pending,
        erased: counters.erased,
        rejected: call.app.rejected(scope.tenant()),
        bytes: counters.bytes,
        quota: None,
    }))
}

fn invalid(field: &str, code: &'static str, message: impl Into<String>) -> Problem {
    let message = message.into();
    Problem::new(Code::InvalidBody, message.clone()).with_errors(vec![FieldError::new(field, code, message)])
}

/// A small JSON object from the body, with no field outside of `known`.
async fn object(call: Call, known: &[&str]) -> Result<Map<String, Value>, Problem> {
    /// More than any honest tenant object has.
    const LARGEST: usize = 64 << 10;
    let (media, encoding) = body::describe(&call.parts.headers)?;
    let mut settings = call.app.services.settings.clone();
    settings.max_body_bytes = settings.max_body_bytes.min(LARGEST);
    let name = call.caller.as_ref().and_then(|caller| caller.tenant.clone());
    // A platform admin without a tenant charges a share of its own; a tenant of that name would merely share it.
    let mut held = call.app.memory.hold(name.unwrap_or_else(|| TenantId::parse("platform").expect("a slug")));
    let bytes = body::receive(&call.parts.headers, call.body, &settings, &mut held).await?;
    let bytes = body::decode(bytes, encoding, &settings, &mut held)?;
    let (Media::Json | Media::Form) = body::settle_form(media, &bytes)? else {
        return Err(Problem::new(Code::UnsupportedMediaType, "send one object as application/json"));
    };
    let fields: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|e| {
        let place = format!("line {}, column {}", e.line(), e.column());
        Problem::body("malformed_json", format!("the body is no JSON object ({place}); nothing was changed"))
    })?;
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => {
            let name = shown(name);
            let nearest = nearest(name, known.iter().copied()).unwrap_or_default();
            let message = format!("`{name}` is no field here; the nearest known name is `{nearest}`");
            Err(invalid(name, "unknown_field", message))
        }
        None => Ok(fields),
    }
}

fn name_and_settings(mut fields: Map<String, Value>) -> Result<(Option<String>, SettingsPatch), Problem> {
    let name = match fields.remove("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name),
        Some(_) => return Err(invalid("name", "wrong_type", "`name` is a string")),
    };
    let settings = match fields.remove("settings") {
        None | Some(Value::Null) => SettingsPatch::default(),
        Some(Value::Object(settings)) => SettingsPatch::parse(&settings)?,
        Some(_) => return Err(invalid("settings", "wrong_type", "`settings` is an object")),
    };
    Ok((name, settings))
}
