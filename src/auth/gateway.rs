//! A gateway in front of us that has checked who calls, and says so in headers.
//!
//! It is believed when the socket's peer is in one of its networks **and** it knows the secret: a network alone can be entered,
//! and a secret alone can leak. It gives the roles of a tenant, never `platform_admin`.

use super::{
    AuthError, GatewayHeaders, Origin, Principal,
    claims::{self, RoleMap},
};
use crate::model::{filter::IpRange, tenant::TenantId};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The gateways that are believed.
pub struct Gateway {
    cidrs: Vec<IpRange>,
    /// Hashed, so that secrets of all lengths compare in the same time.
    secret: [u8; 32],
    roles: RoleMap,
}

impl Gateway {
    /// Gateways in these networks that know this secret.
    pub fn new(cidrs: Vec<IpRange>, secret: &[u8]) -> Self {
        Self {
            cidrs,
            secret: Sha256::digest(secret).into(),
            roles: RoleMap::standard(false),
        }
    }

    /// Whom the headers name; `tenant` is `X-Tenant-Id`.
    pub fn authenticate(&self, headers: &GatewayHeaders<'_>, tenant: Option<&str>) -> Result<Principal, AuthError> {
        let presented: [u8; 32] = Sha256::digest(headers.secret).into();
        let knows_secret: bool = presented.ct_eq(&self.secret).into();
        let peer = headers.peer.to_canonical();
        if !(self.cidrs.iter().any(|cidr| cidr.contains(peer)) && knows_secret) {
            return Err(AuthError::Gateway);
        }
        let subject = headers.user_id.or(headers.user_name).filter(|text| claims::is_subject(text));
        let subject = subject.ok_or(AuthError::Subject)?.into();
        let tenant = tenant.and_then(|text| TenantId::parse(text).ok()).ok_or(AuthError::Tenant)?;
        let names = headers.user_role.ok_or(AuthError::UnknownRole)?;
        Ok(Principal {
            subject,
            tenant: Some(tenant),
            roles: self.roles.of_names(names.split(',').map(|name| Some(name.trim())))?,
            expires_at: None,
            origin: Origin::Gateway,
        })
    }
}
