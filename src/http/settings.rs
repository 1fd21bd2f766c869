//! Limits and times of the HTTP surface. Each has a default that fits one small machine; `config/default.toml` names the keys.

use super::{origin::Origins, tls::Tls};
use crate::limits::LimitSettings;
use std::time::Duration;

/// What the HTTP surface may use. Sizes in bytes.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Largest request body, received and decompressed alike. A larger one is 413.
    pub max_body_bytes: usize,
    /// Most entries of one bulk request. More are 413.
    pub max_entries: usize,
    /// Largest entry as JSON.
    pub max_entry_bytes: usize,
    /// Memory that all request bodies together may hold (received, decompressed and parsed forms). At the bound: 503.
    pub body_memory_bytes: usize,
    /// The part of `body_memory_bytes` that one tenant may hold. At the bound: 429.
    pub body_memory_tenant_bytes: usize,
    /// Longest silence of a client inside a request body.
    pub body_idle: Duration,
    /// Longest time that a whole request body may take.
    pub body_total: Duration,
    /// Bodies larger than this are decoded and parsed on the blocking pool, smaller ones on the reactor.
    pub inline_bytes: usize,
    /// Rates, quotas, and tries of addresses.
    pub limits: LimitSettings,
    /// Connections at once; further ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// A connection must have sent the head of its (next) request within this time.
    pub header_timeout: Duration,
    /// A client that takes no byte of its answer for this long is disconnected.
    pub write_stall: Duration,
    /// TLS of the listener; `None`: in the clear.
    pub tls: Option<Tls>,
    /// How long browsers shall use nothing but TLS for this host; zero: they are not told. Only sent over TLS.
    pub hsts: Duration,
    /// Which pages of other origins may use the API.
    pub origins: Origins,
    /// Export streams at once.
    pub exports: usize,
    /// Those of them that may be one tenant's.
    pub exports_of_tenant: usize,
    /// `?wait=stored` answers 202 after this time.
    pub wait_stored: Duration,
    /// A socket of the live feed without a credential must name one within this time.
    pub feed_token_wait: Duration,
    /// Sockets of the live feed that wait for their credential at once.
    pub feed_unauthenticated: usize,
    /// Time between protocol pings (WebSocket) or comments (Server-Sent Events).
    pub feed_ping: Duration,
    /// A socket whose reader answered no ping for this long is closed.
    pub feed_pong_timeout: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            max_body_bytes: 16 << 20,
            max_entries: 10_000,
            max_entry_bytes: 256 << 10,
            // Two of the largest bodies in all their forms (received, decompressed, parsed) at once.
            body_memory_bytes: 96 << 20,
            body_memory_tenant_bytes: 48 << 20,
            body_idle: Duration::from_secs(30),
            body_total: Duration::from_secs(300),
            inline_bytes: 256 << 10,
            limits: LimitSettings::default(),
            max_connections: 4096,
            header_timeout: Duration::from_secs(30),
            write_stall: Duration::from_secs(60),
            tls: None,
            hsts: Duration::ZERO,
            origins: Origins::default(),
            exports: 8,
            exports_of_tenant: 4,
            wait_stored: Duration::from_secs(10),
            feed_token_wait: Duration::from_secs(5),
            feed_unauthenticated: 64,
            feed_ping: Duration::from_secs(20),
            feed_pong_timeout: Duration::from_secs(60),
        }
    }
}
