//! The data directory: locked by one process, synchronously written where the file system can, and never taken for
//! new when it is damaged.

use std::fs::{File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sled::Db;
use thiserror::Error;

use super::durability::{Log, create_directory, make_synchronous, read_afresh, sync_directory, sync_tree};
use super::error::failed;
use super::layout::{LAYOUT, LAYOUT_KEY};
use crate::store::durability::Durability;
use crate::store::error::StoreError;

/// Bytes of sled's page cache: enough for the working set, little enough for a small container.
const CACHE: u64 = 12 << 20;
/// Milliseconds between the times at which sled's own thread reclaims space in its log, which it does nowhere else.
const RECLAIM_EVERY: u64 = 100;
/// Lies beside the database and says that it is not new, since a damaged one can open silently empty.
pub(super) const MARKER: &str = "doorbell-store";
/// sled's own directory within the data directory.
pub(super) const DATABASE: &str = "sled";
/// sled's log within that.
const LOG: &str = "db";
/// Locked by the one process that has the data directory open.
const LOCK: &str = "lock";
/// How long sled's own threads may take to let go of a database that this process has closed.
const RELEASE: Duration = Duration::from_secs(10);

/// Why a data directory could not be opened. Each says what to do.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It cannot be made, read or written.
    #[error("the data directory {directory:?} cannot be used: {source}; create it, or make it writable for this user")]
    Directory {
        /// The data directory.
        directory: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error(
        "the data directory {directory:?} is in use by another doorbell; stop that one, or set store.url to another directory"
    )]
    Locked {
        /// The data directory.
        directory: PathBuf,
    },
    /// The database in it is damaged.
    #[error(
        "the event store in {directory:?} is damaged: {reason}; move the directory away, and take your last \
         backup into a new one with `doorbell events import FILE`"
    )]
    Damaged {
        /// The data directory.
        directory: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Another version of this program laid it out.
    #[error(
        "the event store in {directory:?} has layout {found}, and this doorbell reads layout {known}; write a copy with the \
         doorbell that made it (`doorbell events export --offline --to FILE`), and take that into a new directory with \
         `doorbell events import FILE`"
    )]
    Layout {
        /// The data directory.
        directory: PathBuf,
        /// Its layout.
        found: String,
        /// The layout that is read.
        known: String,
    },
    /// `store.require_durable` is set, and it is not known to hold here.
    #[error(
        "store.require_durable is set, and {directory:?} has {found}; put store.url on ext4, xfs or btrfs, as a \
         directory that belongs to the user doorbell runs as, or set store.require_durable = false"
    )]
    NotDurable {
        /// The data directory.
        directory: PathBuf,
        /// What makes writes durable there, as far as they are.
        found: Durability,
    },
}

/// An open data directory.
pub(super) struct DataDirectory {
    pub(super) db: Db,
    pub(super) log: Log,
    /// Held for as long as the directory is open.
    pub(super) lock: File,
}

impl DataDirectory {
    /// Opens `directory`, making it if need be.
    pub(super) fn open(directory: &Path, require_durable: bool) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Directory { directory: directory.to_owned(), source };
        let damaged = |reason: String| OpenError::Damaged { directory: directory.to_owned(), reason };

        let database = directory.join(DATABASE);
        create_directory(&database).map_err(unusable)?;
        let lock = take_lock(directory)?;
        remove_torn_snapshots(&database).map_err(unusable)?;
        make_synchronous(directory).map_err(unusable)?;
        read_afresh(&database).map_err(unusable)?;

        let marker = directory.join(MARKER);
        let db = match open_database(&database, directory) {
            Err(OpenError::Damaged { reason, .. }) if !marker.exists() => {
                // Power was lost while it was being made; nothing was acknowledged in it.
                let aside = set_aside(&database).map_err(unusable)?;
                tracing::warn!(
                    directory = %directory.display(),
                    aside = %aside.display(),
                    reason,
                    "a store that was never finished is made anew, and what there was is kept aside"
                );
                make_synchronous(directory).map_err(unusable)?;
                open_database(&database, directory)?
            }
            opened => opened?,
        };
        // sled has made, renamed and removed files by now, and it makes none that matter later on.
        let log = Log::hold(&database.join(LOG)).map_err(unusable)?;
        if require_durable && !log.durability().is_proven() {
            return Err(OpenError::NotDurable { directory: directory.to_owned(), found: log.durability() });
        }
        make_synchronous(&database).map_err(unusable)?;
        sync_tree(&database).map_err(unusable)?;
        sync_directory(directory).map_err(unusable)?;

        let layout = db.get(LAYOUT_KEY).map_err(|error| damaged(error.to_string()))?;
        match layout.as_deref() {
            Some(LAYOUT) => {}
            Some(other) => {
                let found = String::from_utf8_lossy(other).into_owned();
                let known = String::from_utf8_lossy(LAYOUT).into_owned();
                return Err(OpenError::Layout { directory: directory.to_owned(), found, known });
            }
            None if marker.exists() => {
                return Err(damaged("it held events before and is empty now".to_owned()));
            }
            None => {
                db.insert(LAYOUT_KEY, LAYOUT).map_err(|error| damaged(error.to_string()))?;
                flush(&db, Some(&log)).map_err(|error| damaged(error.to_string()))?;
            }
        }
        if !marker.exists() {
            let text = "This directory holds a doorbell event store. Keep this file beside it.\n";
            std::fs::write(&marker, text).map_err(unusable)?;
            File::open(&marker).and_then(|file| file.sync_all()).map_err(unusable)?;
            sync_directory(directory).map_err(unusable)?;
        }
        Ok(Self { db, log, lock })
    }
}

pub(super) fn flush(db: &Db, log: Option<&Log>) -> Result<(), StoreError> {
    db.flush().map_err(failed)?;
    log.map_or(Ok(()), Log::sync).map_err(|error| StoreError::Unavailable(error.to_string()))
}

/// Keeps a database that cannot be opened beside the one that takes its place, and says where.
fn set_aside(database: &Path) -> std::io::Result<PathBuf> {
    let first = database.with_extension("unfinished");
    let numbered = (2_u32..).map(|number| database.with_extension(format!("unfinished-{number}")));
    let aside = std::iter::once(first).chain(numbered).find(|aside| !aside.exists());
    let aside = aside.ok_or(std::io::ErrorKind::AlreadyExists)?;
    std::fs::rename(database, &aside)?;
    create_directory(database)?;
    Ok(aside)
}

/// A snapshot that was being written at a crash makes sled refuse to open; the log still holds everything.
///
/// Only ever the unfinished ones: without a finished snapshot sled opens silently empty.
fn remove_torn_snapshots(database: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(database)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Takes the data directory for this process.
///
/// A lock of our own beside sled's: sled's threads hold theirs for a moment after a database is dropped, so its
/// lock cannot tell another process from a store this one has just closed.
fn take_lock(directory: &Path) -> Result<File, OpenError> {
    let unusable = |source| OpenError::Directory { directory: directory.to_owned(), source };
    let lock = File::options().create(true).append(true).open(directory.join(LOCK)).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { directory: directory.to_owned() }),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

fn open_database(database: &Path, directory: &Path) -> Result<Db, OpenError> {
    let config = sled::Config::new().path(database).cache_capacity(CACHE).flush_every_ms(Some(RECLAIM_EVERY));
    let started = std::time::Instant::now();
    loop {
        // sled panics on some kinds of damage.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let is_held = |error: &std::io::Error| error.to_string().contains("could not acquire lock");
        return match opened {
            Ok(Ok(db)) => Ok(db),
            // Nobody else has the directory, so these are sled's own threads on their way out.
            Ok(Err(sled::Error::Io(error))) if is_held(&error) && started.elapsed() < RELEASE => {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            Ok(Err(sled::Error::Io(source))) => Err(OpenError::Directory { directory: directory.to_owned(), source }),
            Ok(Err(error)) => Err(OpenError::Damaged { directory: directory.to_owned(), reason: error.to_string() }),
            Err(_) => Err(OpenError::Damaged {
                directory: directory.to_owned(),
                reason: "it could not be read at all".to_owned(),
            }),
        };
    }
}
