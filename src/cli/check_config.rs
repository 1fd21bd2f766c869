//! `sluice check-config`: what is in force, or all that is wrong.

use crate::{
    config::Settings,
    error::{AppError, Exit},
};

/// Prints the settings, which were checked when they were read.
pub fn run(settings: &Settings) -> Result<Exit, AppError> {
    // A certificate that cannot be used would keep the server from starting.
    settings.http.tls.as_ref().map(crate::app::open_tls).transpose()?;
    super::print(&settings.to_toml())?;
    Ok(Exit::Done)
}
