//! The `doorbell` program: the library's command line with the handler that the configuration names.

use std::process::ExitCode;

fn main() -> ExitCode {
    doorbell::run_configured()
}
