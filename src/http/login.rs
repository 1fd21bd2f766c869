//! `POST /login`: an e-mail address and a password for a token.

use super::{
    dispatch::{Call, json_of},
    error::{Answer, Code, Problem},
    fields::{invalid, object},
    server::Peer,
    state::App,
};
use crate::{
    auth::{
        Origin, Principal,
        login::{Login, LoginError},
        password::{HashError, Password},
    },
    catalog::User,
    lifecycle::access_log::{Event, Who},
    model::entry::Severity,
};
use axum::http::{HeaderValue, header};
use serde::Serialize;
use serde_json::{Map, Value};
use std::{sync::Arc, time::Duration};

/// `POST /login`.
pub async fn login(call: Call) -> Answer {
    #[derive(Serialize)]
    struct Token<'a> {
        access_token: &'a str,
        token_type: &'static str,
        expires_in: u64,
        tenant_id: &'a str,
    }
    let door = Door::of(&call);
    let attempt = door.app.limits.login(door.peer)?;
    let mut fields = object(call, &["email", "password", "tenant_id"]).await?;
    let email = text(&mut fields, "email")?;
    let password = Password::new(text(&mut fields, "password")?);
    let tenant = match fields.remove("tenant_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(tenant)) => Some(tenant),
        Some(_) => return Err(invalid("tenant_id", "wrong_type", "`tenant_id` is a string")),
    };
    let login = Login {
        email: &email,
        password,
        tenant: tenant.as_deref(),
        from: door.peer.0.ip(),
    };
    let done = door.app.services.logins.login(login).await;
    if let Err(LoginError::Wrong(tried)) = &done {
        tried.iter().for_each(|user| door.tell(user, "sluice.login.failed", Severity::Warning));
    } else if let Some(attempt) = attempt {
        attempt.good();
    }
    let done = done?;
    door.tell(&done.user, "sluice.login", Severity::Info);
    let mut response = json_of(&Token {
        access_token: &done.token,
        token_type: "Bearer",
        expires_in: done.ttl.as_secs(),
        tenant_id: done.user.tenant.as_str(),
    });
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Where somebody stands who wants in, for the access log of the accounts' tenants.
struct Door {
    app: Arc<App>,
    peer: Peer,
    user_agent: Option<String>,
    request_id: Arc<str>,
}

impl Door {
    fn of(call: &Call) -> Self {
        let agent = call.parts.headers.get(header::USER_AGENT);
        Self {
            app: call.app.clone(),
            peer: Peer::of(&call.parts.extensions),
            user_agent: agent.map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned()),
            request_id: call.request_id.clone(),
        }
    }

    /// Costs no more than a place in a queue, so that an address that somebody has is not slower than one that nobody has.
    fn tell(&self, user: &User, action: &'static str, severity: Severity) {
        let somebody = Principal {
            subject: user.email.clone(),
            tenant: Some(user.tenant.clone()),
            roles: user.roles.to_vec(),
            expires_at: None,
            origin: Origin::User {
                tenant: user.tenant.clone(),
                user_id: (&*user.user_id).into(),
            },
        };
        let who = Who::new(&somebody, self.peer.0, self.user_agent.as_deref(), self.request_id.clone());
        let event = Event::change(action, "user", &*user.user_id).severity(severity);
        self.app.services.access_log.record(&user.tenant, &who, &event);
    }
}

/// A string that must be there.
pub fn text(fields: &mut Map<String, Value>, name: &'static str) -> Result<String, Problem> {
    match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(invalid(name, "required", format!("`{name}` is required"))),
        Some(_) => Err(invalid(name, "wrong_type", format!("`{name}` is a string"))),
    }
}

impl From<LoginError> for Problem {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Wrong(_) => Self::new(Code::InvalidLogin, "the e-mail address or the password is wrong"),
            LoginError::Several(tenants) => {
                let detail = "the password is right for several tenants; send the `tenant_id` of one of them too";
                let tenants: Vec<_> = tenants.iter().map(|tenant| Value::from(tenant.as_str())).collect();
                Self::new(Code::TenantRequired, detail).with("tenants", tenants)
            }
            LoginError::Wait(left) => Self::new(Code::TooManyAttempts, "too many attempts for this account; wait before the next one").retry_after(left),
            LoginError::Busy => HashError::Busy.into(),
            LoginError::Unavailable => HashError::Failed.into(),
        }
    }
}

impl From<HashError> for Problem {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Busy => Self::new(Code::Overloaded, "too many passwords are being checked at once; try again").retry_after(Duration::from_secs(1)),
            HashError::Failed => Self::new(Code::Unavailable, "passwords cannot be checked at the moment").retry_after(Duration::from_secs(5)),
        }
    }
}
