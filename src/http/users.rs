//! People with a password: list, make, remove.

use super::{
    access,
    dispatch::{Call, json_of},
    error::{Answer, Problem},
    fields::{invalid, object},
    keys::no_content,
    login::text,
    recording,
    tenants::{Listing, Total},
};
use crate::{
    auth::{Role, jwt::roles_named, password::Password},
    catalog::{CatalogError, NewUser, User},
    lifecycle::access_log::Event,
    model::time::rfc3339,
};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};

#[derive(Serialize)]
struct Shown<'a> {
    user_id: &'a str,
    email: &'a str,
    name: Option<&'a str>,
    roles: &'a [Role],
    created_at: String,
}

fn shown(user: &User) -> Shown<'_> {
    Shown {
        user_id: &user.user_id,
        email: &user.email,
        name: user.name.as_deref(),
        roles: &user.roles,
        created_at: rfc3339(user.created_at),
    }
}

/// `GET /tenants/{id}/users`: by id, which is by age.
pub async fn list(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::named_tenant(&call.app, caller, action, &call.id)?;
    let users = call.app.services.catalog.users(scope.tenant()).await?;
    let data: Vec<_> = users.iter().map(|user| shown(user)).collect();
    let meta = Total { total: data.len() as u64 };
    Ok(json_of(&Listing { data, meta }))
}

/// `POST /tenants/{id}/users`.
pub async fn create(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::named_tenant(&call.app, caller, action, &call.id)?;
    let (app, who) = (call.app.clone(), call.who()?);
    let mut fields = object(call, &["email", "password", "name", "role", "roles"]).await?;
    let email = text(&mut fields, "email")?;
    let password = Password::new(text(&mut fields, "password")?);
    if !password.is_acceptable() {
        return Err(invalid(
            "password",
            "invalid_value",
            "`password` has at least 12 characters and at most 1024 bytes",
        ));
    }
    let name = match fields.remove("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name),
        Some(_) => return Err(invalid("name", "wrong_type", "`name` is a string")),
    };
    let roles = roles(&mut fields)?;
    let new = NewUser { email, name, roles }.checked()?;
    if app.services.catalog.accounts(&new.email).iter().any(|user| user.tenant == *scope.tenant()) {
        return Err(CatalogError::UserExists.into()); // found out before a hash is spent on it
    }
    let hash = app.services.logins.hash_for(&new.email, &password).await?;
    let user = app.services.catalog.create_user(scope.tenant(), new, hash).await?;
    let event = Event::change("sluice.user.create", "user", &*user.user_id).after(&shown(&user));
    recording::changed(&app, &scope, &who, event).await;
    let mut response = json_of(&shown(&user));
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

/// `DELETE /tenants/{id}/users/{user}`: by id or by e-mail address.
pub async fn remove(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::named_tenant(&call.app, caller, action, &call.id)?;
    let user = call.app.services.catalog.remove_user(scope.tenant(), &call.item).await?;
    let event = Event::change("sluice.user.remove", "user", &*user.user_id).before(&shown(&user));
    recording::changed(&call.app, &scope, &*call.who()?, event).await;
    Ok(no_content())
}

/// `role`, a name, or `roles`, a list of names; `user` stands for writer and viewer.
fn roles(fields: &mut Map<String, Value>) -> Result<Vec<Role>, Problem> {
    let (field, names) = match (fields.remove("role"), fields.remove("roles")) {
        (Some(_), Some(_)) => return Err(invalid("roles", "conflict", "give `role` or `roles`, not both")),
        (None | Some(Value::Null), None | Some(Value::Null)) => return Err(invalid("role", "required", "`role` is required")),
        (Some(name), None) => ("role", vec![name]),
        (None, Some(Value::Array(names))) => ("roles", names),
        (None, Some(name)) => ("roles", vec![name]),
    };
    let mut roles = Vec::new();
    for name in names {
        let known = name.as_str().and_then(roles_named).filter(|roles| !roles.contains(&Role::PlatformAdmin));
        let wrong = || {
            invalid(
                field,
                "invalid_value",
                format!("`{field}` is made of `writer`, `viewer`, `auditor`, `admin` and `user`"),
            )
        };
        roles.extend_from_slice(known.ok_or_else(wrong)?);
    }
    Ok(roles)
}
