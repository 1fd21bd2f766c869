//! `sluice token`: a token of the local issuer. It takes no lock, so it works beside a running server and before the first start.

use super::TokenArgs;
use crate::{
    auth::{
        Role, jwt,
        secret::{self, SecretError},
    },
    config::Settings,
    error::{AppError, Exit},
};

/// Prints a token, and makes the secret if there is none.
pub fn run(args: TokenArgs, settings: &Settings) -> Result<Exit, AppError> {
    let roles = || args.role.iter().filter_map(|name| jwt::roles_named(name)).flatten();
    if args.tenant.is_none() && roles().any(|role| *role != Role::PlatformAdmin) {
        return Err(AppError::usage("`--tenant` is needed: only platform_admin stands above the tenants"));
    }
    let secret = secret::read_or_create(&settings.data_dir).map_err(secret_error)?;
    let ttl = i64::try_from(args.ttl.as_secs()).unwrap_or(i64::MAX);
    let token = jwt::NewToken {
        sub: &args.sub,
        tenant: args.tenant.as_ref(),
        role: &args.role,
        exp: chrono::Utc::now().timestamp().saturating_add(ttl),
    };
    super::print(&format!("{}\n", jwt::mint(secret.key(), &token)))?;
    Ok(Exit::Done)
}

/// How a command ends that has no secret.
pub fn secret_error(error: SecretError) -> AppError {
    match error {
        SecretError::Io { .. } => AppError::cannot_start(format!("the local secret cannot be had: {error}")),
        SecretError::TooShort { .. } => AppError::usage(error),
    }
}
