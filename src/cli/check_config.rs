//! `sluice check-config`: what is in force, or all that is wrong. Files that settings name are read too.

use crate::{
    app,
    config::Settings,
    error::{AppError, Exit},
};
use std::io::Write;

/// Prints the settings, which were checked when they were read, and on stderr what works but is unwise.
pub fn run(settings: &Settings) -> Result<Exit, AppError> {
    let (credentials, passwords) = app::read_files(settings)?;
    for warning in credentials.warnings.iter().chain(&passwords.warnings) {
        let _ = writeln!(std::io::stderr(), "sluice: warning: {warning}"); // with stderr gone there is nobody to tell
    }
    // A certificate that cannot be used would keep the server from starting.
    settings.http.tls.as_ref().map(app::open_tls).transpose()?;
    super::print(&settings.to_toml())?;
    Ok(Exit::Done)
}
