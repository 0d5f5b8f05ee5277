//! What the program says of itself.

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Sends log lines to standard error, as configured. The first call in a process counts.
pub(crate) fn start(log: &Log) {
    // A plain level is meant for Doorbell; actix's own word at it is that its threads start.
    let directives =
        if log.level.contains(['=', ',']) { log.level.clone() } else { format!("{},actix_server=warn", log.level) };
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    // A closed standard error is no reason to panic, which is what reporting a failed write to it would do.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    // A test may have set a subscriber of its own.
    let _ = match log.format {
        LogFormat::Text => lines.with_target(false).with_ansi(use_colour()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}

fn use_colour() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
