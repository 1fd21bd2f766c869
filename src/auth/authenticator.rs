//! Checks credentials: tokens, API keys, gateways.
//!
//! The one place where a credential becomes a [`Principal`]. A token that was found good is remembered, and at each use what it
//! rests on is looked at again in memory: its expiry, the key that signed it, its user. An API key is looked up at each use.
//! So what is revoked in this process is refused from the next request on, and elsewhere as soon as the catalog hears of it.

use super::{
    AuthError, Credential, Origin, Presented, Principal,
    cache::{Cache, TokenHash},
    gateway::Gateway,
    issuer::{Issuer, Known, LEEWAY, Refused},
    keys::{Keys, NotSigned},
    provider,
    token::Token,
};
use crate::{
    catalog::{ApiKey, Catalog, User},
    model::tenant::TenantId,
};
use std::sync::Arc;

/// Checks credentials. Share it; no method blocks, and only [`Authenticator::authenticate`] ever waits.
pub struct Authenticator {
    /// The local one first.
    issuers: Vec<Issuer>,
    gateway: Option<Gateway>,
    catalog: Option<Catalog>,
    cache: Cache,
}

/// How the fetching of issuers' keys goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetching {
    /// Issuers whose keys are fetched.
    pub issuers: usize,
    /// Those of them whose last fetch failed.
    pub failing: usize,
    /// Those of them that have no keys at all yet.
    pub without: usize,
}

impl Authenticator {
    /// Accepts tokens signed with `secret`, the text of the data folder's secret file, and nothing else.
    pub fn local(secret: &[u8]) -> Self {
        Self::new(secret, Vec::new(), None, None)
    }

    /// Accepts tokens of the local issuer and of these, the gateway, and the catalog's keys and users.
    pub fn new(secret: &[u8], issuers: Vec<Issuer>, gateway: Option<Gateway>, catalog: Option<Catalog>) -> Self {
        provider::install();
        Self {
            issuers: std::iter::once(Issuer::local(secret)).chain(issuers).collect(),
            gateway,
            catalog,
            cache: Cache::default(),
        }
    }

    /// Whether gateways' headers are a credential here.
    pub fn takes_gateways(&self) -> bool {
        self.gateway.is_some()
    }

    /// Who the credential speaks for. Waits only where an issuer's keys must be fetched first; cancel-safe.
    pub async fn authenticate(&self, presented: &Presented<'_>) -> Result<Principal, AuthError> {
        match self.attempt(presented, now()) {
            Ok(principal) => Ok(principal),
            Err(Refused::FetchFirst { issuer, kid, seen, error }) => {
                let Keys::Fetched(fetched) = &self.issuers[issuer].keys else {
                    return Err(error);
                };
                fetched.look_for(kid.as_deref(), seen).await;
                self.attempt(presented, now()).map_err(Refused::error)
            }
            Err(refused) => Err(refused.error()),
        }
    }

    /// Who the credential speaks for, if no signature has to be checked to know it: tokens that were found good a short while ago,
    /// API keys, gateways. Costs look-ups and one SHA-256, and gives the same answer as [`Authenticator::authenticate`]; `None`
    /// if that might refuse it.
    pub fn recall(&self, presented: &Presented<'_>) -> Option<Principal> {
        match presented.credential {
            Credential::Bearer(text) if !is_key(text) => {
                let known = self.remembered(TokenHash::of(text), now()).filter(|_| self.is_fresh())?;
                self.speaks_for(&known, presented.tenant).ok()
            }
            _ => self.attempt(presented, now()).ok(),
        }
    }

    /// As [`Authenticator::authenticate`], without waiting for anything: a token whose key would have to be fetched is refused.
    pub fn authenticate_now(&self, presented: &Presented<'_>) -> Result<Principal, AuthError> {
        self.authenticate_at(presented, now())
    }

    pub(super) fn authenticate_at(&self, presented: &Presented<'_>, now: i64) -> Result<Principal, AuthError> {
        self.attempt(presented, now).map_err(Refused::error)
    }

    /// Whether somebody who was authenticated earlier still may go on: not expired, not revoked, with the same roles. Cheap, and
    /// without I/O.
    pub fn still_good(&self, principal: &Principal) -> bool {
        self.still_good_at(principal, now())
    }

    pub(super) fn still_good_at(&self, principal: &Principal, now: i64) -> bool {
        let tenant_is_there = |tenant: &TenantId| self.catalog.as_ref().is_none_or(|catalog| catalog.get(tenant).is_some());
        let ended = principal.expires_at.is_some_and(|at| now >= at.saturating_add(LEEWAY));
        if ended || !self.is_fresh() || !principal.tenant.as_ref().is_none_or(tenant_is_there) {
            return false;
        }
        match &principal.origin {
            Origin::Key { key_id, .. } => self.key(key_id).is_some_and(|key| !key.is_over(now)),
            Origin::User { tenant, user_id } => self.user(tenant, user_id).is_some_and(|user| *user.roles == *principal.roles),
            origin => self.still_stands(origin),
        }
    }

    /// How the fetching of issuers' keys goes.
    pub fn fetching(&self) -> Fetching {
        let mut fetching = Fetching::default();
        for issuer in &self.issuers {
            if let Keys::Fetched(fetched) = &issuer.keys {
                fetching.issuers += 1;
                fetching.failing += usize::from(fetched.is_failing());
                fetching.without += usize::from(fetched.keys().is_none());
            }
        }
        fetching
    }

    fn attempt(&self, presented: &Presented<'_>, now: i64) -> Result<Principal, Refused> {
        if !self.is_fresh() {
            return Err(AuthError::Unavailable.into());
        }
        Ok(match presented.credential {
            Credential::Bearer(text) if is_key(text) => self.api_key(text, presented.tenant, now)?,
            Credential::Bearer(text) => self.token(text, presented.tenant, now)?,
            Credential::ApiKey(text) => self.api_key(text, presented.tenant, now)?,
            Credential::Gateway(headers) => match &self.gateway {
                Some(gateway) => gateway.authenticate(&headers, presented.tenant)?,
                None => return Err(AuthError::Gateway.into()),
            },
        })
    }

    fn token(&self, text: &str, wanted: Option<&str>, now: i64) -> Result<Principal, Refused> {
        let hash = TokenHash::of(text);
        let known = match self.remembered(hash, now) {
            Some(known) => known,
            None => {
                let known = Arc::new(self.check(text, now)?);
                self.cache.put(hash, known.clone());
                known
            }
        };
        self.speaks_for(&known, wanted).map_err(Refused::from)
    }

    /// A token that was found good a short while ago, if what it rests on is still there.
    fn remembered(&self, hash: TokenHash, now: i64) -> Option<Arc<Known>> {
        let known = self.cache.get(hash, now)?;
        if self.still_stands(&known.origin) {
            return Some(known);
        }
        self.cache.forget(hash);
        None
    }

    fn speaks_for(&self, known: &Known, wanted: Option<&str>) -> Result<Principal, AuthError> {
        let mut principal = known.principal(wanted)?;
        if let Origin::User { tenant, user_id } = &principal.origin {
            // What somebody may do is what the catalog says now, not what it said at the login.
            principal.roles = self.user(tenant, user_id).ok_or(AuthError::Login)?.roles.to_vec();
        }
        Ok(principal)
    }

    fn check(&self, text: &str, now: i64) -> Result<Known, Refused> {
        let token = Token::parse(text)?;
        let mut error = AuthError::UnknownIssuer;
        for (place, issuer) in self.issuers.iter().enumerate().filter(|(_, issuer)| issuer.is_named(&token)) {
            if !issuer.is_addressed(&token) {
                error = AuthError::Audience;
                continue;
            }
            return issuer.check(&token, now).map_err(|refused| match refused {
                NotSigned::Final(error) => Refused::Final(error),
                NotSigned::FetchFirst { error, seen } => Refused::FetchFirst {
                    issuer: place,
                    kid: token.kid,
                    seen,
                    error,
                },
            });
        }
        Err(error.into())
    }

    /// Whether what a token rests on is still there, other than its user.
    fn still_stands(&self, origin: &Origin) -> bool {
        match origin {
            Origin::Issuer { name, key } => {
                let issuer = self.issuers.iter().find(|issuer| issuer.rules.name == *name);
                issuer.is_some_and(|issuer| issuer.keys.still_has(*key))
            }
            Origin::Local | Origin::User { .. } | Origin::Key { .. } | Origin::Gateway => true,
        }
    }

    fn api_key(&self, text: &str, wanted: Option<&str>, now: i64) -> Result<Principal, AuthError> {
        let id = ApiKey::id_in(text).ok_or(AuthError::Key)?;
        let key = self.key(id).filter(|key| key.verify(text)).ok_or(AuthError::Key)?;
        if key.is_over(now) {
            return Err(AuthError::Expired);
        }
        if wanted.is_some_and(|wanted| wanted != key.tenant.as_str()) {
            return Err(AuthError::NotCovered);
        }
        Ok(Principal {
            subject: key.subject().into(),
            tenant: Some(key.tenant.clone()),
            roles: vec![key.role],
            expires_at: key.expires_at,
            origin: Origin::Key {
                tenant: key.tenant.clone(),
                key_id: key.key_id.clone(),
            },
        })
    }

    /// A key of a tenant that there is.
    fn key(&self, id: &str) -> Option<Arc<ApiKey>> {
        let catalog = self.catalog.as_ref()?;
        catalog.key(id).filter(|key| catalog.get(&key.tenant).is_some())
    }

    /// A user of a tenant that there is.
    fn user(&self, tenant: &TenantId, user_id: &str) -> Option<Arc<User>> {
        let catalog = self.catalog.as_ref()?;
        catalog.get(tenant).and_then(|_| catalog.user(tenant, user_id))
    }

    fn is_fresh(&self) -> bool {
        self.catalog.as_ref().is_none_or(Catalog::fresh)
    }
}

fn is_key(text: &str) -> bool {
    text.starts_with(crate::catalog::KEY_PREFIX)
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}
