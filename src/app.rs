//! In work.

use crate::{config::Settings, error::AppError};

/// Runs the server.
pub async fn run(_settings: Settings) -> Result<(), AppError> {
    Err(AppError::failed("`serve` is not in this build"))
}
