//! `sluice check-config`: what is in force, or all that is wrong.

use crate::{
    config::Settings,
    error::{AppError, Exit},
};

/// Prints the settings, which were checked when they were read.
pub fn run(settings: &Settings) -> Result<Exit, AppError> {
    super::print(&settings.to_toml())?;
    Ok(Exit::Done)
}
