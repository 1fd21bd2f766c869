//! From an e-mail address and a password to a token.
//!
//! A stranger learns nothing: an address that nobody has costs the same one hash and gets the same answer as a wrong password,
//! and both are slowed down alike ([`super::attempts`]). All accounts of one address share a salt, drawn for the first of them,
//! so that one hash tells which of them the password opens, however many there are. (Who reads the stored hashes sees where a
//! person uses one password twice; that is what it costs.)
//!
//! A token names the account by its id, so that it ends with the account.

use super::{
    attempts::Attempts,
    password::{HashError, Hasher, Password, PasswordHash, Recipe},
};
use crate::{
    catalog::{Catalog, User, normal_email},
    model::tenant::TenantId,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use std::{net::IpAddr, sync::Arc, time::Duration};

/// Recipes of one address that are tried. More than one there is only if two processes made accounts at the same moment, or the
/// costs were raised.
const MOST_RECIPES: usize = 4;
/// What others wrote in the last second may be missed rather than keep somebody waiting for longer.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Lets people in. Share it.
pub struct Logins {
    catalog: Catalog,
    key: EncodingKey,
    ttl: Duration,
    hasher: Hasher,
    attempts: Attempts,
}

/// Who wants in.
#[derive(Debug)]
pub struct Login<'a> {
    /// The address as typed.
    pub email: &'a str,
    /// The password as typed.
    pub password: Password,
    /// Which tenant, for somebody who is in several; as typed.
    pub tenant: Option<&'a str>,
    /// From where.
    pub from: IpAddr,
}

/// Somebody who is in.
pub struct LoggedIn {
    /// The token.
    pub token: String,
    /// How long it is good.
    pub ttl: Duration,
    /// The account.
    pub user: Arc<User>,
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// There is no such account, or this is not its password. These accounts were tried: not for the caller to know.
    #[error("wrong e-mail address or password")]
    Wrong(Vec<Arc<User>>),
    /// The password is right for the accounts in these tenants, and none was chosen.
    #[error("the account is not certain")]
    Several(Vec<TenantId>),
    /// Too many failures: come back after this time.
    #[error("too many attempts")]
    Wait(Duration),
    /// Too many logins at once.
    #[error("too many logins at once")]
    Busy,
    /// Passwords cannot be checked now.
    #[error("logins are not possible now")]
    Unavailable,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    tenant: &'a TenantId,
    role: &'a [super::Role],
    uid: &'a str,
    exp: i64,
}

impl Logins {
    /// Tokens are signed with `secret`, the text of the data folder's secret file, and are good for `ttl`.
    pub fn new(catalog: Catalog, secret: &[u8], ttl: Duration) -> Self {
        Self {
            catalog,
            key: EncodingKey::from_secret(secret),
            ttl,
            hasher: Hasher::default(),
            attempts: Attempts::default(),
        }
    }

    /// Hashes the password of an account that is about to be made.
    pub async fn hash_for(&self, email: &str, password: &Password) -> Result<PasswordHash, HashError> {
        let shared = self.catalog.accounts(email).iter().map(|user| user.password.recipe()).find(Recipe::is_current);
        let recipe = match shared {
            Some(recipe) => recipe,
            None => Recipe::fresh().map_err(|_| HashError::Failed)?,
        };
        self.hasher.hash(password, recipe).await
    }

    /// Lets somebody in. Takes some 20 ms of a core, of which few are given at once. Dropping it counts as a failure.
    pub async fn login(&self, login: Login<'_>) -> Result<LoggedIn, LoginError> {
        let email = normal_email(login.email).unwrap_or_else(|| login.email.to_lowercase());
        let attempt = self.attempts.begin(&email, login.from).map_err(LoginError::Wait)?;
        // Whether it was seen just now or cannot be seen is the same for all addresses, so it tells nothing.
        let _ = tokio::time::timeout(CATCH_UP, self.catalog.catch_up()).await;
        if !self.catalog.fresh() {
            self.attempts.withdrawn(attempt);
            return Err(LoginError::Unavailable);
        }
        let mut accounts = self.catalog.accounts(&email);
        accounts.retain(|user| self.catalog.get(&user.tenant).is_some() && login.tenant.is_none_or(|wanted| wanted == user.tenant.as_str()));
        match self.opened(&accounts, &login.password).await {
            Err(error) => {
                self.attempts.withdrawn(attempt);
                Err(match error {
                    HashError::Busy => LoginError::Busy,
                    HashError::Failed => LoginError::Unavailable,
                })
            }
            Ok(opened) if opened.is_empty() => Err(LoginError::Wrong(accounts.into_vec())),
            Ok(opened) => {
                self.attempts.succeeded(attempt);
                match opened.as_slice() {
                    [user] => Ok(self.token(user.clone())),
                    several => Err(LoginError::Several(several.iter().map(|user| user.tenant.clone()).collect())),
                }
            }
        }
    }

    /// Those of the accounts that the password opens, by tenant.
    async fn opened(&self, accounts: &[Arc<User>], password: &Password) -> Result<Vec<Arc<User>>, HashError> {
        let mut recipes = Vec::new();
        for user in accounts {
            let recipe = user.password.recipe();
            if !recipes.contains(&recipe) && recipes.len() < MOST_RECIPES {
                recipes.push(recipe);
            }
        }
        if recipes.is_empty() {
            recipes.push(Recipe::of_nobody());
        }
        let mut opened = Vec::new();
        for recipe in recipes {
            let hash = self.hasher.hash(password, recipe).await?;
            opened.extend(accounts.iter().filter(|user| user.password == hash).cloned());
        }
        opened.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        Ok(opened)
    }

    fn token(&self, user: Arc<User>) -> LoggedIn {
        let seconds = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let claims = Claims {
            sub: &user.email,
            tenant: &user.tenant,
            role: &user.roles,
            uid: &user.user_id,
            exp: chrono::Utc::now().timestamp().saturating_add(seconds),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key);
        LoggedIn {
            token: token.expect("plain claims and an HMAC key always encode"),
            ttl: self.ttl,
            user,
        }
    }
}
