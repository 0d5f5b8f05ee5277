//! What makes a write of sled's survive loss of power.
//!
//! sled 0.34's `flush` calls `sync_file_range`, which syncs neither file metadata nor the device's cache. Where the log
//! file carries the kernel's synchronous-write attribute (`chattr +S`), every write of sled's is durable when it
//! returns. Nothing is taken for granted about who inherits the attribute: on btrfs new files do not, and xfs takes it
//! for files and refuses its sibling for directories. So it is set on each file and directory as far as that takes it,
//! and what counts are the flags of the open log file, read back. Where they are not there the log is synced after
//! each flush, through a descriptor that is held open.
//!
//! What is made, renamed or removed is made durable by syncing the directory, whatever its attributes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::store::durability::{Durability, FileSystem};

/// The file system of `directory`.
#[cfg(target_os = "linux")]
pub(super) fn file_system(directory: &Path) -> io::Result<FileSystem> {
    let magic = rustix::fs::statfs(directory)?.f_type;
    #[expect(clippy::cast_sign_loss, reason = "a number of 32 bits, signed on some machines")]
    let file_system = FileSystem::of_magic(magic as u64 & 0xffff_ffff);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let place = directory.canonicalize()?;
    Ok(match mount_of(&place, &mounts) {
        Some((kind, options)) => file_system.as_mounted(kind, options),
        None => file_system,
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn file_system(directory: &Path) -> io::Result<FileSystem> {
    File::open(directory).map(|_| FileSystem::Other(std::env::consts::OS))
}

/// The kind and the options of the mount that `place` lies in, by the text of `/proc/self/mountinfo`.
fn mount_of<'a>(place: &Path, mounts: &'a str) -> Option<(&'a str, &'a str)> {
    let mut deepest: Option<(usize, &str, &str)> = None;
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(point) = before.split(' ').nth(4) else { continue };
        let point = PathBuf::from(point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"));
        let mut after = after.split(' ');
        let (Some(kind), Some(options)) = (after.next(), after.nth(1)) else { continue };
        let depth = point.components().count();
        // Of two mounts in one place the later hides the earlier.
        if place.starts_with(&point) && deepest.is_none_or(|(known, _, _)| depth >= known) {
            deepest = Some((depth, kind, options));
        }
    }
    deepest.map(|(_, kind, options)| (kind, options))
}

/// Sets the synchronous-write attributes on `directory` and all that lies in it, as far as each takes them.
///
/// What was made before they were set, or where they are not inherited, does not have them.
pub(super) fn make_synchronous(directory: &Path) -> io::Result<()> {
    set_attributes(&File::open(directory)?)?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_synchronous(&entry.path())?;
        } else {
            set_attributes(&File::open(entry.path())?)?;
        }
    }
    Ok(())
}

/// Sets what `file` takes of the attributes, and returns whether writes to it are synchronous from now on.
#[cfg(target_os = "linux")]
fn set_attributes(file: &File) -> io::Result<bool> {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let Ok(present) = ioctl_getflags(file) else { return Ok(false) };
    let wanted: &[IFlags] = if file.metadata()?.is_dir() {
        // xfs refuses the second together with the first and alone.
        &[IFlags::SYNC.union(IFlags::DIRSYNC), IFlags::SYNC]
    } else {
        &[IFlags::SYNC]
    };
    let is_set = |wanted: &IFlags| present.contains(*wanted) || ioctl_setflags(file, present | *wanted).is_ok();
    if !wanted.iter().any(is_set) {
        return Ok(false);
    }
    // Some file systems accept attributes they do not keep.
    Ok(ioctl_getflags(file).is_ok_and(|kept| kept.contains(IFlags::SYNC)))
}

#[cfg(not(target_os = "linux"))]
fn set_attributes(_: &File) -> io::Result<bool> {
    Ok(false)
}

/// sled's log, held open so that syncing it never depends on a free descriptor.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    durability: Durability,
}

impl Log {
    /// Takes hold of the log that sled has just opened at `path`, and makes what it has written so far durable.
    pub(super) fn hold(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let file_system = file_system(path)?;
        let durability = if set_attributes(&file)? {
            Durability::Synchronous(file_system)
        } else {
            Durability::SyncedLog(file_system)
        };
        file.sync_all()?;
        Ok(Self { file, durability })
    }

    pub(super) const fn durability(&self) -> Durability {
        self.durability
    }

    /// Makes durable what sled has flushed.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self.durability {
            Durability::Synchronous(_) | Durability::Memory => Ok(()),
            Durability::SyncedLog(_) => self.file.sync_data(),
        }
    }
}

/// Makes `directory` and whatever leads there, durably, and for this user only: it holds signing keys and persons.
pub(super) fn create_directory(directory: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory)?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_directory(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Makes the entries of `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes all that lies in `directory` durable, and has it read from the disk from now on.
///
/// After a failed write or sync Linux marks the pages of its cache clean and keeps them, though the disk does not have
/// what they say, and a process that was killed leaves pages that have not been written yet. Either would be taken for
/// durable by whoever reads them. So what can still be written is written, and then every page is given up.
pub(super) fn read_afresh(directory: &Path) -> io::Result<()> {
    sync_tree(directory)?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            give_up_cached(&File::open(entry.path())?)?;
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn give_up_cached(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

#[cfg(not(target_os = "linux"))]
fn give_up_cached(_: &File) -> io::Result<()> {
    Ok(())
}

/// Makes all that lies in `directory` durable: files, directories and their entries.
pub(super) fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
23 22 0:5 / /dev rw shared:2 - devtmpfs dev rw
30 22 254:1 / /srv rw - ext4 /dev/vdb rw,nobarrier
31 22 254:2 / /srv/two\\040words rw - btrfs /dev/vdc rw,nobarrier,space_cache=v2
32 22 254:3 / /old rw - ext3 /dev/vdd rw
33 30 254:4 / /srv/over rw - xfs /dev/vde rw
34 30 254:5 / /srv/over rw master:1 - ext4 /dev/vdf rw,barrier=0
torn line
";

    #[test]
    fn a_file_system_is_known_by_the_mount_it_lies_in_and_how_that_was_made() {
        for (place, magic, file_system) in [
            ("/data", 0xef53, FileSystem::Ext4),
            ("/srvdata", 0xef53, FileSystem::Ext4),
            ("/srv/data", 0xef53, FileSystem::Other("ext4 without write barriers")),
            ("/srv/two words/data", 0x9123_683e, FileSystem::Other("btrfs without write barriers")),
            ("/old", 0xef53, FileSystem::Other("ext3")),
            ("/srv/over/data", 0xef53, FileSystem::Other("ext4 without write barriers")),
            ("/data", 0x5846_5342, FileSystem::Xfs),
            ("/data", 0x0102_1994, FileSystem::Other("tmpfs")),
            ("/data", 0x1234, FileSystem::Unknown(0x1234)),
        ] {
            let (kind, options) = mount_of(Path::new(place), MOUNTS).expect("a mount");
            assert_eq!(FileSystem::of_magic(magic).as_mounted(kind, options), file_system, "{place}");
        }
        assert_eq!(mount_of(Path::new("/data"), ""), None);
    }

    #[test]
    fn only_what_was_tested_counts_as_proven_and_the_rest_says_so() {
        for file_system in [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs] {
            assert!(Durability::Synchronous(file_system).is_proven());
            assert_eq!(
                Durability::Synchronous(file_system).to_string(),
                format!("synchronous writes on {file_system}")
            );
            assert!(!Durability::SyncedLog(file_system).is_proven());
        }
        let other = Durability::Synchronous(FileSystem::Other("f2fs"));
        assert!(!other.is_proven());
        assert_eq!(other.to_string(), "synchronous writes on f2fs, which was not tested against loss of power");
        let unknown = Durability::SyncedLog(FileSystem::Unknown(0x1234)).to_string();
        assert!(unknown.contains("a file system of unknown kind (0x1234)"), "{unknown}");
    }
}
