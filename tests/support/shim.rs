//! What a program does to its files, written down or made to fail: see `power/shim.c`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the shim; nothing where that is not possible.
pub fn shim(directory: &Path) -> Option<PathBuf> {
    let library = directory.join("shim.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/shim.c");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(source).status();
    compiled.is_ok_and(|status| status.success()).then_some(library)
}
