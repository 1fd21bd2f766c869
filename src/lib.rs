//! Sluice: the audit log that never loses, never leaks, never lies.
//!
//! `ARCHITECTURE.md` follows an entry from the socket to the store and names the module of each step.

#![recursion_limit = "256"] // the mappings of OpenSearch are one JSON text

pub mod actors;
pub mod app;
pub mod auth;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod error;
pub mod export;
pub mod fs;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod http;
pub mod lifecycle;
pub mod limits;
pub mod model;
pub mod objects;
pub mod queue;
pub mod seal;
pub mod search;
pub mod shutdown;
pub mod sinks;
pub mod sources;
pub mod tail;
pub mod telemetry;
#[cfg(test)]
pub mod testing;
