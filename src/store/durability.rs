//! What makes a write of sled's survive loss of power.
//!
//! sled 0.34's `flush` calls `sync_file_range`, which syncs neither file metadata nor the device's cache. The
//! kernel's synchronous-write attributes on the data directory (`chattr +SD`) make every write of sled's a
//! durable one, and files made inside inherit them. Where a file system has no such attributes, the log file
//! is synced after each flush, which holds less; `doorbell check` and a warning at start say so.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

/// How far an acknowledged write is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Every write is synchronous: safe against loss of power.
    Synchronous,
    /// The log is synced after each flush: safe against a crash of the machine where the disk keeps the order
    /// of writes.
    SyncedLog,
    /// Lost with the process.
    Memory,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Synchronous => "synchronous writes",
            Self::SyncedLog => "log synced after each write (the file system has no synchronous-write attributes)",
            Self::Memory => "none: events live as long as the process",
        })
    }
}

/// Sets the synchronous-write attributes on `directory` and everything in it.
///
/// Files that exist already do not inherit them, so each is set by itself.
pub(super) fn make_synchronous(directory: &Path) -> io::Result<Durability> {
    if !set_attributes(directory)? {
        return Ok(Durability::SyncedLog);
    }
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let is_covered = if entry.file_type()?.is_dir() {
            make_synchronous(&entry.path())? == Durability::Synchronous
        } else {
            set_attributes(&entry.path())?
        };
        if !is_covered {
            return Ok(Durability::SyncedLog);
        }
    }
    Ok(Durability::Synchronous)
}

/// Returns whether the file system took the attributes.
#[cfg(target_os = "linux")]
fn set_attributes(path: &Path) -> io::Result<bool> {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let wanted = IFlags::SYNC | IFlags::DIRSYNC;
    let file = File::open(path)?;
    let wanted = if file.metadata()?.is_dir() { wanted } else { IFlags::SYNC };
    let Ok(present) = ioctl_getflags(&file) else { return Ok(false) };
    if present.contains(wanted) {
        return Ok(true);
    }
    if ioctl_setflags(&file, present | wanted).is_err() {
        return Ok(false);
    }
    // Some file systems accept attributes they do not keep.
    Ok(ioctl_getflags(&file).is_ok_and(|kept| kept.contains(wanted)))
}

#[cfg(not(target_os = "linux"))]
fn set_attributes(path: &Path) -> io::Result<bool> {
    File::open(path).map(|_| false)
}

/// Makes the entries of `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
