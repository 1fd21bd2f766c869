//! Who calls, and for which tenant: from headers to a [`Principal`] and a [`TenantScope`].

use super::{
    error::{Code, Problem},
    query::Query,
    recording,
    routes::{Endpoint, Operation, Verb},
    server::Peer,
    state::App,
};
use crate::{
    auth::{
        Credential, GatewayHeaders, Origin, Presented, Principal, Role,
        policy::{self, Action},
    },
    catalog::Tenant,
    model::tenant::{Log, TenantId, TenantScope},
};
use axum::http::{HeaderMap, HeaderValue, request::Parts};
use std::sync::Arc;

/// The one credential of a request. `token` is the one of the query string, where the endpoint takes it. Gateways' headers are a
/// credential only where a gateway is configured, and begin with its secret; elsewhere they are not looked at.
pub fn credential<'a>(parts: &'a Parts, token: Option<&'a str>, gateways: bool) -> Result<Option<Credential<'a>>, Problem> {
    let headers = &parts.headers;
    let bearer = single(headers, "authorization")?;
    let key = single(headers, "x-api-key")?;
    let gateway = if gateways { single(headers, "x-gateway-secret")? } else { None };
    let kinds = [bearer.is_some(), key.is_some(), gateway.is_some(), token.is_some()];
    if kinds.iter().filter(|there| **there).count() > 1 {
        return Err(ambiguous());
    }
    if let Some(key) = key {
        let key = key.to_str().map_err(|_| Problem::new(Code::InvalidCredential, "`X-API-Key` is no API key"))?;
        return Ok(Some(Credential::ApiKey(key)));
    }
    if let Some(secret) = gateway {
        return gateway_headers(parts, secret).map(|headers| Some(Credential::Gateway(headers)));
    }
    let Some(value) = bearer else { return Ok(token.map(Credential::Bearer)) };
    let bearer = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    match bearer {
        Some(token) if !token.is_empty() => Ok(Some(Credential::Bearer(token))),
        _ => Err(Problem::new(
            Code::InvalidCredential,
            "the Authorization header is not of the form `Bearer TOKEN`",
        )),
    }
}

fn gateway_headers<'a>(parts: &'a Parts, secret: &'a HeaderValue) -> Result<GatewayHeaders<'a>, Problem> {
    // A caller's own header beside the gateway's would leave open which of them is believed.
    let text = |name| -> Result<Option<&str>, Problem> { Ok(single(&parts.headers, name)?.and_then(|value| value.to_str().ok())) };
    Ok(GatewayHeaders {
        peer: Peer::of(&parts.extensions).0.ip(),
        secret: secret.as_bytes(),
        user_id: text("x-user-id")?,
        user_name: text("x-user-name")?,
        user_role: text("x-user-role")?,
    })
}

fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(ambiguous()),
        (one, None) => Ok(one),
    }
}

fn ambiguous() -> Problem {
    Problem::new(
        Code::AmbiguousCredential,
        "the request has more than one credential; send one `Authorization: Bearer …` or one `X-API-Key`",
    )
}

/// A request that was refused before a credential was found in it: it counts as a failure of its address, which may be over its
/// limit.
pub fn counted(app: &App, parts: &Parts, refused: Problem) -> Problem {
    app.limits.credential(Peer::of(&parts.extensions)).err().unwrap_or(refused)
}

/// 401 for want of a credential.
pub fn missing() -> Problem {
    Problem::new(Code::MissingCredential, "send `Authorization: Bearer …` with a token, or an API key")
}

/// Who the credential speaks for, and for which tenant: `X-Tenant-ID` may only choose among those of the credential. One that is
/// not known yet is looked at only so often for each address: 429 before anything is computed.
pub async fn authenticate(app: &App, credential: Credential<'_>, parts: &Parts) -> Result<Principal, Problem> {
    let mut wanted = parts.headers.get_all("x-tenant-id").iter().map(|value| value.to_str().unwrap_or_default());
    let tenant = wanted.next();
    if wanted.any(|other| Some(other) != tenant) {
        return Err(not_covered());
    }
    let presented = Presented { credential, tenant };
    if let Some(principal) = app.services.auth.recall(&presented) {
        return Ok(principal);
    }
    let attempt = app.limits.credential(Peer::of(&parts.extensions))?;
    let known = app.services.auth.authenticate(&presented).await;
    if let Some(attempt) = attempt.filter(|_| known.as_ref().err().is_none_or(|error| !error.is_a_guess())) {
        attempt.good();
    }
    Ok(known?)
}

/// A credential that comes by itself, as a gateway's does, is for the pages of this host and of configured origins, wherever a
/// request changes something or opens a feed: 403 for another page's. A page that only asks cannot read the answer.
pub fn not_borrowed(app: &App, caller: &Principal, endpoint: &Endpoint, parts: &Parts) -> Result<(), Problem> {
    let matters = endpoint.verb != Verb::Get || endpoint.operation == Operation::Stream;
    match caller.origin == Origin::Gateway && matters {
        true => app.services.settings.origins.check_ambient(&parts.uri, &parts.headers),
        false => Ok(()),
    }
}

/// 403 for a tenant that the credential does not cover, in the same words whether it exists or not.
pub fn not_covered() -> Problem {
    Problem::new(Code::Forbidden, "the credential does not cover this tenant")
}

/// 403 for want of a role.
pub fn denied() -> Problem {
    Problem::new(Code::Forbidden, "none of the credential's roles allows this")
}

/// 403 for the credential of a tenant that does not exist, or no more.
pub fn unknown_tenant() -> Problem {
    Problem::new(Code::UnknownTenant, "the tenant of the credential does not exist; a platform admin creates it")
}

/// The tenant whose entries the caller reads or writes: the one of its credential. 403 when it may not, or does not exist.
pub fn own_tenant(app: &App, principal: &Principal, action: Action) -> Result<(TenantScope, Arc<Tenant>), Problem> {
    let id = principal.tenant.as_ref().ok_or_else(denied)?;
    if !policy::allowed_on(principal, action, id) {
        return Err(denied());
    }
    let tenant = app.services.catalog.get(id);
    let tenant = tenant.ok_or_else(unknown_tenant)?;
    Ok((TenantScope::new(id.clone()), tenant))
}

/// A read of the caller's tenant: what it may see of which log.
pub struct Reading {
    /// The restriction of every read to the tenant's log.
    pub scope: TenantScope,
    /// Which of the tenant's logs is read.
    pub log: Log,
}

/// What the caller may read: as [`own_tenant`]. Every endpoint that shows entries begins here. It is the audit log, until
/// [`Reading::of_log`] has looked at the parameters.
pub fn reading(app: &App, principal: &Principal, action: Action) -> Result<Reading, Problem> {
    let (scope, _) = own_tenant(app, principal, action)?;
    Ok(Reading { scope, log: Log::Audit })
}

impl Reading {
    /// The log that the parameters ask for: 422 when there is no such log, 403 when the caller may not read it. Waits a moment
    /// until what was recorded in an access log before this call is there to be read.
    pub async fn of_log(self, app: &App, principal: &Principal, query: &Query) -> Result<Self, Problem> {
        match query.get("log").map(Log::parse) {
            None | Some(Some(Log::Audit)) => Ok(self),
            Some(None) => Err(Problem::parameter("log", "invalid_value", "`log` is `audit` or `access`")),
            Some(Some(Log::Access)) => {
                let tenant = self.scope.tenant();
                if !policy::allowed_on(principal, Action::ReadAccessLog, tenant) {
                    return Err(denied());
                }
                let scope = TenantScope::new(tenant.access_log());
                recording::caught_up(app, &scope).await;
                Ok(Self { scope, log: Log::Access })
            }
        }
    }
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

    #[test]
    fn two_credentials_at_once_are_ambiguous_whatever_their_kinds() {
        let parts = |pairs: &[(&'static str, &'static str)]| {
            let mut request = axum::http::Request::new(());
            for (name, value) in pairs {
                request.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            request.into_parts().0
        };
        let (bearer, key, gateway) = (("authorization", "Bearer a"), ("x-api-key", "slk_1"), ("x-gateway-secret", "s"));
        let user = ("x-user-id", "ann");
        for (pairs, token, want) in [
            (vec![], None, Ok("")),
            (vec![bearer], None, Ok("bearer a")),
            (vec![("authorization", "bearer  a ")], None, Ok("bearer a")),
            (vec![], Some("t"), Ok("bearer t")),
            (vec![key], None, Ok("key slk_1")),
            (vec![bearer], Some("t"), Err(Code::AmbiguousCredential)),
            (vec![bearer, key], None, Err(Code::AmbiguousCredential)),
            (vec![bearer, bearer], None, Err(Code::AmbiguousCredential)),
            (vec![key, key], None, Err(Code::AmbiguousCredential)),
            (vec![key], Some("t"), Err(Code::AmbiguousCredential)),
            (vec![gateway, user], None, Ok("gateway")),
            (vec![user], None, Ok("")),
            (vec![gateway, bearer], None, Err(Code::AmbiguousCredential)),
            (vec![gateway, key], None, Err(Code::AmbiguousCredential)),
            (vec![gateway, gateway], None, Err(Code::AmbiguousCredential)),
            (vec![gateway, user, user], None, Err(Code::AmbiguousCredential)),
            (vec![("authorization", "Basic a")], None, Err(Code::InvalidCredential)),
            (vec![("authorization", "Bearer ")], None, Err(Code::InvalidCredential)),
            (vec![("authorization", "Bearer")], None, Err(Code::InvalidCredential)),
        ] {
            let parts = parts(&pairs);
            let got = credential(&parts, token, true).map_err(|p| p.code()).map(|found| match found {
                None => String::new(),
                Some(Credential::Bearer(token)) => format!("bearer {token}"),
                Some(Credential::ApiKey(key)) => format!("key {key}"),
                Some(Credential::Gateway(_)) => "gateway".to_owned(),
            });
            assert_eq!(got, want.map(str::to_owned), "{pairs:?} {token:?}");
        }
        let parts = parts(&[gateway, bearer, user]);
        assert!(
            matches!(credential(&parts, None, false), Ok(Some(Credential::Bearer("a")))),
            "without a gateway its headers mean nothing"
        );
    }
}
