//! `sluice serve`: the server, until SIGTERM or Ctrl-C.

use crate::{
    app,
    config::Settings,
    error::{AppError, Exit},
    telemetry,
};

/// Runs the server. Blocks.
pub fn run(settings: Settings) -> Result<Exit, AppError> {
    telemetry::start_logging(&settings.log);
    super::runtime()?.block_on(app::run(settings))?;
    Ok(Exit::Done)
}
