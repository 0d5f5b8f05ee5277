//! How far an acknowledged write is safe, and on what that depends.

use std::fmt;

/// How far an acknowledged write is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Every write to the log is synchronous.
    Synchronous(FileSystem),
    /// The log is synced after each flush.
    SyncedLog(FileSystem),
    /// Lost with the process.
    Memory,
}

impl Durability {
    /// Whether loss of power was tried on this file system, with this mechanism, and lost nothing: see `tests/power.rs`.
    pub const fn is_proven(self) -> bool {
        match self {
            Self::Synchronous(FileSystem::Ext4 | FileSystem::Xfs | FileSystem::Btrfs) => true,
            Self::Synchronous(FileSystem::Other(_) | FileSystem::Unknown(_)) | Self::SyncedLog(_) | Self::Memory => {
                false
            }
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let untested = if self.is_proven() { "" } else { ", which was not tested against loss of power" };
        match self {
            Self::Synchronous(file_system) => write!(f, "synchronous writes on {file_system}{untested}"),
            Self::SyncedLog(file_system) => write!(f, "log synced after each write on {file_system}{untested}"),
            Self::Memory => f.write_str("none: events live as long as the process"),
        }
    }
}

/// The file system that a store lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 with its journal and write barriers.
    Ext4,
    /// xfs.
    Xfs,
    /// btrfs with write barriers.
    Btrfs,
    /// One that is known by name only.
    Other(&'static str),
    /// One that is known by its number in `statfs` only.
    Unknown(u64),
}

impl FileSystem {
    /// By the number that `statfs` gives.
    pub(super) const fn of_magic(magic: u64) -> Self {
        match magic {
            0xef53 => Self::Ext4,
            0x5846_5342 => Self::Xfs,
            0x9123_683e => Self::Btrfs,
            0x0102_1994 => Self::Other("tmpfs"),
            0x794c_7630 => Self::Other("overlayfs"),
            0x6969 => Self::Other("nfs"),
            0x6573_5546 => Self::Other("fuse"),
            0x2fc1_2fc1 => Self::Other("zfs"),
            0xf2f5_2010 => Self::Other("f2fs"),
            0xca45_1a4e => Self::Other("bcachefs"),
            0xff53_4d42 => Self::Other("cifs"),
            0xfe53_4d42 => Self::Other("smb2"),
            0x0102_1997 => Self::Other("9p"),
            0x00c3_6400 => Self::Other("ceph"),
            0x8584_58f6 => Self::Other("ramfs"),
            magic => Self::Unknown(magic),
        }
    }

    /// As it is mounted: ext2, ext3 and ext4 share a number, and barriers can be switched off.
    pub(super) fn as_mounted(self, kind: &str, options: &str) -> Self {
        let has = |unwanted: &str| options.split(',').any(|option| option == unwanted);
        let is_without_barriers = has("nobarrier") || has("barrier=0");
        match self {
            Self::Ext4 if kind == "ext2" => Self::Other("ext2"),
            Self::Ext4 if kind == "ext3" => Self::Other("ext3"),
            Self::Ext4 if is_without_barriers => Self::Other("ext4 without write barriers"),
            Self::Btrfs if is_without_barriers => Self::Other("btrfs without write barriers"),
            other => other,
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ext4 => f.write_str("ext4"),
            Self::Xfs => f.write_str("xfs"),
            Self::Btrfs => f.write_str("btrfs"),
            Self::Other(name) => f.write_str(name),
            Self::Unknown(magic) => write!(f, "a file system of unknown kind ({magic:#x})"),
        }
    }
}
