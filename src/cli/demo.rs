//! `sluice demo`.

use super::DemoArgs;
use crate::{
    config::Settings,
    error::{AppError, Exit},
};

/// Runs the command. Blocks.
pub fn run(_args: DemoArgs, _settings: Settings) -> Result<Exit, AppError> {
    Err(AppError::failed("`demo` is not in this build"))
}
