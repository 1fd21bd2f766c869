//! `sluice ingest`.

use super::IngestArgs;
use crate::{
    config::Settings,
    error::{AppError, Exit},
};

/// Runs the command. Blocks.
pub fn run(_args: IngestArgs, _settings: Settings) -> Result<Exit, AppError> {
    Err(AppError::failed("`ingest` is not in this build"))
}
