//! In work: the names that `http` uses.
use crate::{
    model::{
        feed::{FeedItem, OnSlow},
        filter::Filter,
        tenant::TenantScope,
    },
    sinks::Authority,
};
use std::sync::Arc;

/// In work.
#[derive(Debug, Clone, Default)]
pub struct FeedSettings {}
/// In work.
#[derive(Clone)]
pub struct FeedHandle(Arc<dyn Authority>);
/// In work.
pub struct Session {}
/// In work.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// In work.
    #[error("beyond the head `{head}`")]
    BeyondHead {
        /// In work.
        head: u64,
    },
    /// In work.
    #[error("too many sessions")]
    TooMany,
    /// In work.
    #[error("stopping")]
    Stopping,
}
impl FeedHandle {
    /// In work.
    pub fn new(authority: Arc<dyn Authority>, _settings: FeedSettings) -> Self {
        Self(authority)
    }
    /// In work.
    pub async fn subscribe(&self, _scope: TenantScope, _filter: Filter, _after: Option<u64>, _on_slow: OnSlow) -> Result<Session, SubscribeError> {
        Ok(Session {})
    }
    /// In work.
    pub fn sessions(&self) -> usize {
        0
    }
    /// In work.
    pub fn close(&self) {}
}
impl Session {
    /// In work.
    pub async fn next(&mut self) -> FeedItem {
        std::future::pending().await
    }
}
