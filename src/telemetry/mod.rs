//! What the process tells about itself: logs on stderr, and [`metrics`].

pub mod metrics;

use crate::config::{LogFormat, LogSettings};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging to stderr. A second call in one process changes nothing (tests start several servers).
pub fn start_logging(settings: &LogSettings) {
    // The level was checked when the configuration was read.
    let filter = EnvFilter::try_new(&settings.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match settings.format {
        LogFormat::Text => base.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => base.json().flatten_event(true).try_init(),
    };
}
