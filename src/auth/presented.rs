//! What a request shows of its caller, before anything of it is believed.

use std::net::IpAddr;

/// The one credential of a request.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// `Authorization: Bearer …` (or `?token=`, or the first frame of a feed): a token, or an API key.
    Bearer(&'a str),
    /// `X-API-Key`.
    ApiKey(&'a str),
    /// The headers of a gateway.
    Gateway(GatewayHeaders<'a>),
}

/// What a gateway says about the caller. A header that is no text is as one that is missing.
#[derive(Clone, Copy)]
pub struct GatewayHeaders<'a> {
    /// The socket's peer.
    pub peer: IpAddr,
    /// `X-Gateway-Secret`.
    pub secret: &'a [u8],
    /// `X-User-Id`.
    pub user_id: Option<&'a str>,
    /// `X-User-Name`.
    pub user_name: Option<&'a str>,
    /// `X-User-Role`.
    pub user_role: Option<&'a str>,
}

/// A credential, and the tenant that the request is for. It has no `Debug`: it must not end in a log.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// The credential.
    pub credential: Credential<'a>,
    /// `X-Tenant-ID`, as it was sent.
    pub tenant: Option<&'a str>,
}

impl<'a> Presented<'a> {
    /// A bearer token without `X-Tenant-ID`.
    pub fn bearer(token: &'a str) -> Self {
        Self {
            credential: Credential::Bearer(token),
            tenant: None,
        }
    }
}
