//! The `doorbell` program: the library's command line with the handler that the configuration names.

use std::process::ExitCode;

/// Most of what is allocated for a notification is freed by another thread, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    doorbell::run_configured()
}
