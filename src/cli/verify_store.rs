//! `sluice verify-store`: reads the whole store of a data folder that no server uses, and says whether all of it is there.

use crate::{
    app::folder,
    config::Settings,
    error::{AppError, Exit},
    fs::real::RealFs,
    sinks::embedded::verify::verify,
};
use std::io::Write;

/// Prints a report; exit 0 if nothing is wrong, 1 otherwise, 73 if the folder is in use. Changes nothing. Blocks.
pub fn run(settings: &Settings) -> Result<Exit, AppError> {
    let dir = &settings.data_dir;
    if !dir.join("manifest").is_dir() {
        return Err(AppError::failed(format!("`{}` holds no store", dir.display())));
    }
    let _lock = folder::lock(dir)?;
    let mut progress = |at: usize, of: usize| {
        let _ = writeln!(std::io::stderr(), "part {} of {of}", at + 1); // with stderr gone there is nobody to tell
    };
    let found = verify(&RealFs, dir, &mut progress).map_err(AppError::failed)?;
    let per_row = found.bytes as f64 / (found.rows.max(1)) as f64;
    super::print(&format!(
        "manifest {} covers the seals up to {}\n{} parts, {} rows ({} erased and not yet removed), {} bytes, {per_row:.1} per row\n{} tenants, {} of them deleted\n",
        found.manifest, found.flushed, found.parts, found.rows, found.erased_rows, found.bytes, found.tenants, found.deleted
    ))?;
    if found.faults.is_empty() {
        super::print("everything is there\n")?;
        return Ok(Exit::Done);
    }
    super::print(&format!("{} faults:\n", found.faults.len()))?;
    for fault in &found.faults {
        super::print(&format!("  {fault}\n"))?;
    }
    Ok(Exit::Failed)
}
