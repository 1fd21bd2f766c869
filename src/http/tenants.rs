//! Tenants: list, create, get, update, delete, usage.

use super::{
    access,
    dispatch::{Call, json_of},
    error::{Answer, Problem},
    fields::{invalid, object},
    limited::Quota,
    recording,
    routes::BASE,
};
use crate::{
    auth::Role,
    catalog::{NewTenant, SettingsPatch, Tenant, TenantSettings},
    lifecycle::access_log::Event,
    model::tenant::{TenantId, TenantScope},
};
use axum::http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

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
    let (app, who) = (call.app.clone(), call.who()?);
    let mut fields = object(call, &["tenant_id", "key", "name", "settings"]).await?;
    let id = match (fields.remove("tenant_id"), fields.remove("key")) {
        (Some(_), Some(_)) => return Err(invalid("key", "conflict", "give `tenant_id` or `key`, not both")),
        (Some(id), None) | (None, Some(id)) => id,
        (None, None) => return Err(invalid("tenant_id", "required", "`tenant_id` is required")),
    };
    let id = id.as_str().ok_or_else(|| invalid("tenant_id", "wrong_type", "`tenant_id` is a string"))?;
    let tenant_id = TenantId::parse(id).map_err(|e| invalid("tenant_id", "invalid_id", e.to_string()))?;
    let (name, settings) = name_and_settings(fields)?;
    let tenant = app.services.catalog.create(NewTenant { tenant_id, name, settings }).await?;
    let event = Event::change("sluice.tenant.create", "tenant", tenant.tenant_id.as_str()).after(&Shown::of(&tenant));
    recording::changed(&app, &TenantScope::new(tenant.tenant_id.clone()), &who, event).await;
    let mut response = json_of(&*tenant);
    *response.status_mut() = StatusCode::CREATED;
    let location = HeaderValue::from_str(&format!("{BASE}/tenants/{}", tenant.tenant_id)).expect("a tenant id is visible ASCII");
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// `PUT /tenants/{id}`: what is given replaces, what is left out stays.
pub async fn update(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, before) = access::named_tenant(&call.app, caller, action, &call.id)?;
    let (app, who) = (call.app.clone(), call.who()?);
    let (name, settings) = name_and_settings(object(call, &["name", "settings"]).await?)?;
    let after = app.services.catalog.update(scope.tenant(), name, settings).await?;
    let event = Event::change("sluice.tenant.update", "tenant", scope.tenant().as_str());
    let event = event.before(&Shown::of(&before)).after(&Shown::of(&after));
    recording::changed(&app, &scope, &who, event).await;
    Ok(json_of(&*after))
}

/// What a change of a tenant can change: it holds no secrets.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    settings: &'a TenantSettings,
}

impl<'a> Shown<'a> {
    fn of(tenant: &'a Tenant) -> Self {
        Self {
            name: &tenant.name,
            settings: &tenant.settings,
        }
    }
}

/// `DELETE /tenants/{id}`: 202 with the job. The tenant is unknown from then on; what it had goes in the background.
pub async fn delete(call: Call) -> Answer {
    #[derive(Serialize)]
    struct Deletion {
        id: Uuid,
        tenant_id: TenantId,
        status: &'static str,
        requested_at: String,
    }
    let (caller, action) = call.caller()?;
    let (scope, _) = access::named_tenant(&call.app, caller, action, &call.id)?;
    if call.query.get("confirm") != Some(scope.tenant().as_str()) {
        let (code, message) = match call.query.get("confirm") {
            None => (
                "required",
                "this deletes everything that the tenant has, for ever; to do that, add `confirm` with its id",
            ),
            Some(_) => ("invalid_value", "`confirm` is the id of the tenant that is to be deleted"),
        };
        return Err(Problem::parameter("confirm", code, message));
    }
    let retired = call.app.services.deletions.delete(scope.tenant()).await?;
    call.app.forget(scope.tenant());
    let mut response = json_of(&Deletion {
        id: retired.job,
        tenant_id: retired.tenant_id,
        status: "running",
        requested_at: retired.requested_at,
    });
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

/// How long the counters may wait for what this process has acknowledged, where it alone knows that.
const COUNTED_WITHIN: Duration = Duration::from_secs(1);

/// `GET /tenants/{id}/usage`.
pub async fn usage(call: Call) -> Answer {
    #[derive(Serialize)]
    struct Usage {
        accepted: u64,
        stored: u64,
        duplicate: u64,
        dead_lettered: u64,
        /// With roles split nobody knows it.
        pending: Option<u64>,
        erased: u64,
        rejected: u64,
        bytes: u64,
        quota: Option<Quota>,
    }
    let (caller, action) = call.caller()?;
    let (scope, tenant) = access::named_tenant(&call.app, caller, action, &call.id)?;
    let producer = &call.app.services.producer;
    producer.until_decided(&scope, COUNTED_WITHIN).await;
    let counters = producer.counters(&scope);
    Ok(json_of(&Usage {
        accepted: counters.accepted,
        stored: counters.stored,
        duplicate: counters.duplicate,
        dead_lettered: counters.dead_lettered,
        pending: producer.knows_pending().then_some(counters.pending),
        erased: counters.erased,
        rejected: call.app.rejected(scope.tenant()),
        bytes: counters.bytes,
        quota: call.app.limits.quota(&tenant, &counters),
    }))
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
