//! In work by `wal`: signatures only.

use super::Position;
use crate::fs::Fs;
use bytes::Bytes;
use std::{
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RecordKind {
    Pack,
    Seal,
}

#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct WalSettings {
    pub segment_bytes: u64,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{self:?}")]
#[allow(missing_docs)]
pub enum WalError {
    Full,
    Closed,
    Unknown,
}

#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct RecoveryReport {
    pub seal_may_be_lost: bool,
    pub largest_seal_named: u64,
}

#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct SegmentInfo {
    pub ordinal: u64,
    pub bytes: u64,
    pub is_active: bool,
}

#[derive(Clone)]
#[allow(missing_docs)]
pub struct Wal;

#[allow(missing_docs)]
impl Wal {
    pub fn open(_: Arc<dyn Fs>, _: PathBuf, _: WalSettings, _: &mut dyn FnMut(Position, RecordKind, Bytes)) -> Result<(Self, RecoveryReport), WalError> {
        Err(WalError::Closed)
    }
    pub fn append(&self, _: RecordKind, _: u64, _: Option<u64>, _: Bytes) -> Append {
        Append
    }
    pub fn read(&self, _: Position) -> Result<(RecordKind, Bytes), WalError> {
        Err(WalError::Closed)
    }
    pub fn check_room(&self) -> Result<(), WalError> {
        Ok(())
    }
    pub fn segments(&self) -> Vec<SegmentInfo> {
        Vec::new()
    }
    pub fn trim(&self, _: u64) -> Result<u64, WalError> {
        Ok(0)
    }
    pub fn close(&self) {}
}

#[allow(missing_docs)]
pub struct Append;

#[allow(missing_docs)]
impl Append {
    pub fn wait(self) -> Result<Position, WalError> {
        Err(WalError::Closed)
    }
}

impl Future for Append {
    type Output = Result<Position, WalError>;
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Err(WalError::Closed))
    }
}
