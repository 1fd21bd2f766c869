//! Who calls, and for which tenant: from headers to a [`Principal`] and a [`TenantScope`].

use super::{
    error::{Code, Problem},
    state::App,
};
use crate::{
    auth::{
        Principal, Role,
        policy::{self, Action},
    },
    catalog::Tenant,
    model::tenant::{TenantId, TenantScope},
};
use axum::http::{HeaderMap, header};
use std::sync::Arc;

/// The one credential of a request. `token` is the one of the query string, where the endpoint takes it.
pub fn credential<'a>(headers: &'a HeaderMap, token: Option<&'a str>) -> Result<Option<&'a str>, Problem> {
    let bearers: Vec<_> = headers.get_all(header::AUTHORIZATION).iter().collect();
    let keys = headers.get_all("x-api-key").iter().count();
    if bearers.len() + keys + usize::from(token.is_some()) > 1 {
        return Err(Problem::new(
            Code::AmbiguousCredential,
            "the request has more than one credential; send one `Authorization: Bearer …`",
        ));
    }
    if keys > 0 {
        return Err(Problem::new(
            Code::InvalidCredential,
            "this version has no API keys; send `Authorization: Bearer …` with a token",
        ));
    }
    let Some(value) = bearers.first() else { return Ok(token) };
    let bearer = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    match bearer {
        Some(token) if !token.is_empty() => Ok(Some(token)),
        _ => Err(Problem::new(
            Code::InvalidCredential,
            "the Authorization header is not of the form `Bearer TOKEN`",
        )),
    }
}

/// 401 for want of a credential.
pub fn missing() -> Problem {
    Problem::new(Code::MissingCredential, "send `Authorization: Bearer …` with a token")
}

/// Who the token speaks for. `X-Tenant-ID` may only name a tenant of the token.
pub fn authenticate(app: &App, token: &str, headers: &HeaderMap) -> Result<Principal, Problem> {
    let principal = app.services.auth.authenticate(token)?;
    let mut wanted = headers.get_all("x-tenant-id").iter().peekable();
    if let (Some(own), Some(_)) = (&principal.tenant, wanted.peek())
        && !wanted.all(|value| value.as_bytes() == own.as_str().as_bytes())
    {
        return Err(not_covered());
    }
    Ok(principal)
}

/// 403 for a tenant that the credential does not cover, in the same words whether it exists or not.
pub fn not_covered() -> Problem {
    Problem::new(Code::Forbidden, "the credential does not cover this tenant")
}

/// 403 for want of a role.
pub fn denied() -> Problem {
    Problem::new(Code::Forbidden, "none of the credential's roles allows this")
}

/// The tenant whose entries the caller reads or writes: the one of its credential. 403 when it may not, or does not exist.
pub fn own_tenant(app: &App, principal: &Principal, action: Action) -> Result<(TenantScope, Arc<Tenant>), Problem> {
    let id = principal.tenant.as_ref().ok_or_else(denied)?;
    if !policy::allowed_on(principal, action, id) {
        return Err(denied());
    }
    let tenant = app.services.catalog.get(id);
    let tenant = tenant.ok_or_else(|| Problem::new(Code::UnknownTenant, "the tenant of the credential does not exist; a platform admin creates it"))?;
    Ok((TenantScope::new(id.clone()), tenant))
}

/// A read of the caller's tenant: what it may see of which log.
pub struct Reading {
    /// The restriction of every read to the tenant.
    pub scope: TenantScope,
}

/// What the caller may read: as [`own_tenant`]. Every endpoint that shows entries begins here.
pub fn reading(app: &App, principal: &Principal, action: Action) -> Result<Reading, Problem> {
    let (scope, _) = own_tenant(app, principal, action)?;
    Ok(Reading { scope })
}

/// Whether the credential covers the tenant named in a path, whatever is asked for there: 403 when it does not, existing or
/// not; a platform admin, who covers all, gets 404 when there is none.
pub fn reaches(app: &App, principal: &Principal, name: &str) -> Result<TenantId, Problem> {
    let platform = principal.roles.contains(&Role::PlatformAdmin);
    match TenantId::parse(name) {
        Ok(id) if platform && app.services.catalog.get(&id).is_none() => Err(Problem::not_found()),
        Ok(id) if policy::covers(principal, &id) => Ok(id),
        _ if platform => Err(Problem::not_found()),
        _ => Err(not_covered()),
    }
}

/// The tenant named in a path, for a caller that may do this to it: errors of [`reaches`], then 403 for want of a role, then
/// 404 when there is none.
pub fn named_tenant(app: &App, principal: &Principal, action: Action, name: &str) -> Result<(TenantScope, Arc<Tenant>), Problem> {
    let id = reaches(app, principal, name)?;
    if !policy::allowed_on(principal, action, &id) {
        return Err(denied());
    }
    let tenant = app.services.catalog.get(&id).ok_or_else(Problem::not_found)?;
    Ok((TenantScope::new(id), tenant))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn two_credentials_at_once_are_ambiguous_whatever_their_kinds() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            headers
        };
        let (bearer, key) = (("authorization", "Bearer a"), ("x-api-key", "slk_1"));
        for (pairs, token, want) in [
            (vec![], None, Ok(None)),
            (vec![bearer], None, Ok(Some("a"))),
            (vec![("authorization", "bearer  a ")], None, Ok(Some("a"))),
            (vec![], Some("t"), Ok(Some("t"))),
            (vec![bearer], Some("t"), Err(Code::AmbiguousCredential)),
            (vec![bearer, key], None, Err(Code::AmbiguousCredential)),
            (vec![bearer, bearer], None, Err(Code::AmbiguousCredential)),
            (vec![key], Some("t"), Err(Code::AmbiguousCredential)),
            (vec![key], None, Err(Code::InvalidCredential)),
            (vec![("authorization", "Basic a")], None, Err(Code::InvalidCredential)),
            (vec![("authorization", "Bearer ")], None, Err(Code::InvalidCredential)),
            (vec![("authorization", "Bearer")], None, Err(Code::InvalidCredential)),
        ] {
            let headers = headers(&pairs);
            assert_eq!(credential(&headers, token).map_err(|p| p.code()), want, "{pairs:?} {token:?}");
        }
    }
}
