//! `sluice migrate`: lays out the stores of their own that the configuration names, so that this binary can use them. A server does the same at
//! its start; this is for those who do it before, with other rights. Harmless when there is nothing to do.

use crate::{
    app,
    config::Settings,
    error::{AppError, Exit},
};

/// Prints a line for each store. Blocks.
pub fn run(settings: &Settings) -> Result<Exit, AppError> {
    let (_, passwords) = app::read_files(settings)?;
    let done = super::runtime()?.block_on(app::migrate(settings, &passwords))?;
    for line in done {
        super::print(&format!("{line}\n"))?;
    }
    Ok(Exit::Done)
}
