//! A disk with a volatile cache that writes down what reaches it, below any file system of the kernel.
//!
//! It is one file of a FUSE file system that this process serves. A loop device on it makes a block device, on which the
//! kernel mounts a real ext4, xfs or btrfs: each write the file system sends to its device arrives here as a write, and
//! each flush of the device's cache as an fsync.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use super::Chance;

const BLOCK: usize = 4096;
/// xfs is the one that wants most.
const SIZE: u64 = 320 << 20;
const NAME: &str = "disk";
const DISK: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_hours(1);

/// What a disk holds: blocks that are not there are zeros.
pub(super) type Blocks = HashMap<u64, Box<[u8; BLOCK]>>;

/// A file system of the kernel, and how one is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    make: &'static [&'static str],
    /// What the file system takes for granted that a disk writes in one piece or not at all.
    sector: usize,
}

pub(super) const EXT4: Kind = Kind { name: "ext4", make: &["mkfs.ext4", "-q", "-F"], sector: 512 };
pub(super) const XFS: Kind = Kind { name: "xfs", make: &["mkfs.xfs", "-q", "-f"], sector: 512 };
/// Its superblock is one block, with no journal of its own.
pub(super) const BTRFS: Kind = Kind { name: "btrfs", make: &["mkfs.btrfs", "-q", "-f"], sector: BLOCK };

enum Deed {
    Write { offset: u64, data: Vec<u8> },
    Flush,
}

#[derive(Default)]
struct Disk {
    blocks: Blocks,
    deeds: Vec<Deed>,
}

/// The disk as it was when a file system had just been made on it, and all that has reached it since.
#[derive(Clone)]
pub(super) struct RecordedDisk {
    first: Arc<Blocks>,
    disk: Arc<Mutex<Disk>>,
    kind: Kind,
}

impl RecordedDisk {
    /// Makes a file system in a plain file, for what it writes there. Says why if that cannot be mounted here.
    pub(super) fn new(kind: Kind, directory: &Path) -> Result<Self, String> {
        let (image, place) = (directory.join("image"), directory.join("probe"));
        File::create(&image).and_then(|image| image.set_len(SIZE)).map_err(|error| error.to_string())?;
        run(Command::new(kind.make[0]).args(&kind.make[1..]).arg(&image))?;
        let first = read(&image);
        drop(Mounted::new(kind, &image, &place)?);
        std::fs::remove_file(&image).map_err(|error| error.to_string())?;
        let disk = Disk { blocks: first.clone(), deeds: Vec::new() };
        Ok(Self { first: Arc::new(first), disk: Arc::new(Mutex::new(disk)), kind })
    }

    /// Serves it at `place`, and returns where the disk is.
    pub(super) fn serve(&self, place: &Path) -> Result<(BackgroundSession, PathBuf), String> {
        std::fs::create_dir(place).map_err(|error| error.to_string())?;
        let mut config = fuser::Config::default();
        config.mount_options = vec![MountOption::FSName("doorbell-test-disk".to_owned())];
        let session = fuser::spawn_mount(self.clone(), place, &config).map_err(|error| format!("FUSE: {error}"))?;
        Ok((session, place.join(NAME)))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("not poisoned")
    }

    /// How much has reached the disk.
    pub(super) fn length(&self) -> usize {
        self.disk().deeds.len()
    }

    /// Changes what lies on the disk behind the back of everything above it, wherever `found` lies.
    pub(super) fn replace(&self, found: &[u8], by: &[u8]) -> usize {
        assert_eq!(found.len(), by.len());
        let mut replaced = 0;
        for block in self.disk().blocks.values_mut() {
            while let Some(at) = block.windows(found.len()).position(|window| window == found) {
                block[at..at + by.len()].copy_from_slice(by);
                replaced += 1;
            }
        }
        replaced
    }

    /// Writes to `image` what the disk may hold if power is lost before the deed at `moment`: all that was flushed, and
    /// of the rest whatever a cache that reorders and tears happened to have written.
    pub(super) fn lose_power(&self, moment: usize, image: &Path, chance: &mut Chance) {
        let disk = self.disk();
        let deeds = &disk.deeds[..moment];
        let flushed = deeds.iter().rposition(|deed| matches!(deed, Deed::Flush)).unwrap_or(0);
        let mut blocks = Blocks::clone(&self.first);
        // A cache that had written nothing, one that had written all, and those between.
        let temper = chance.below(4);
        for (number, deed) in deeds.iter().enumerate() {
            let Deed::Write { offset, data } = deed else { continue };
            let (whole, torn) = if number < flushed {
                (true, false)
            } else {
                match temper {
                    0 => (false, false),
                    1 => (true, false),
                    _ => (chance.is_met(), chance.is_met()),
                }
            };
            for (sector, bytes) in data.chunks(self.kind.sector).enumerate() {
                if (torn && chance.is_met()) || (!torn && whole) {
                    write(&mut blocks, offset + (sector * self.kind.sector) as u64, bytes);
                }
            }
        }
        drop(disk);
        let file = File::create(image).expect("an image");
        file.set_len(SIZE).expect("sized");
        for (number, block) in blocks {
            file.write_all_at(&block[..], number * BLOCK as u64).expect("written");
        }
    }
}

/// What differs from zeros in the file `image`.
fn read(image: &Path) -> Blocks {
    let mut file = File::open(image).expect("an image");
    let (mut blocks, mut block) = (Blocks::new(), [0; BLOCK]);
    for number in 0..SIZE / BLOCK as u64 {
        file.read_exact(&mut block).expect("read");
        if block != [0; BLOCK] {
            blocks.insert(number, Box::new(block));
        }
    }
    blocks
}

fn write(blocks: &mut Blocks, offset: u64, mut data: &[u8]) {
    let mut offset = usize::try_from(offset).expect("fits");
    while !data.is_empty() {
        let start = offset % BLOCK;
        let (now, rest) = data.split_at(data.len().min(BLOCK - start));
        let block = blocks.entry((offset / BLOCK) as u64).or_insert_with(|| Box::new([0; BLOCK]));
        block[start..start + now.len()].copy_from_slice(now);
        (offset, data) = (offset + now.len(), rest);
    }
}

impl Filesystem for RecordedDisk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME { reply.entry(&TTL, &attributes(DISK), Generation(0)) } else { reply.error(Errno::ENOENT) }
    }

    fn getattr(&self, _: &Request, file: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attributes(file));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing is to be cached above the disk.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (mut at, mut data) = (usize::try_from(offset).expect("fits"), Vec::new());
        let end = (at + size as usize).min(usize::try_from(SIZE).expect("fits"));
        let disk = self.disk();
        while at < end {
            let (start, length) = (at % BLOCK, (BLOCK - at % BLOCK).min(end - at));
            match disk.blocks.get(&((at / BLOCK) as u64)) {
                Some(block) => data.extend_from_slice(&block[start..start + length]),
                None => data.resize(data.len() + length, 0),
            }
            at += length;
        }
        reply.data(&data);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut disk = self.disk();
        write(&mut disk.blocks, offset, data);
        disk.deeds.push(Deed::Write { offset, data: data.to_vec() });
        drop(disk);
        reply.written(u32::try_from(data.len()).expect("fits"));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.disk().deeds.push(Deed::Flush);
        reply.ok();
    }
}

fn attributes(file: INodeNo) -> FileAttr {
    let (kind, perm, size) =
        if file == DISK { (FileType::RegularFile, 0o600, SIZE) } else { (FileType::Directory, 0o700, 0) };
    let (time, uid, gid, nlink, rdev, flags) = (UNIX_EPOCH, 0, 0, 1, 0, 0);
    let (ino, blocks, blksize) = (file, size / 512, 4096);
    FileAttr {
        ino,
        size,
        blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink,
        uid,
        gid,
        rdev,
        blksize,
        flags,
    }
}

/// A file system that is mounted from a file.
pub(super) struct Mounted(PathBuf);

impl Mounted {
    pub(super) fn new(kind: Kind, image: &Path, place: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(place).map_err(|error| error.to_string())?;
        if kind.name == BTRFS.name {
            // It remembers every disk by its number, and refuses one that looks older than it was.
            let _ = run(Command::new("btrfs").args(["device", "scan", "--forget"]));
        }
        run(Command::new("mount").args(["-t", kind.name, "-o", "loop"]).arg(image).arg(place))?;
        Ok(Self(place.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(&self.0)) {
            eprintln!("{error}");
            let _ = run(Command::new("umount").arg("-l").arg(&self.0));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
