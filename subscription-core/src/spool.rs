//! A queue of records on disk, for what cannot be sent yet.

mod index;
mod read;
mod segment;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use index::Shared;
pub use read::{SpoolReader, Spooled};

/// When what was appended is made to survive a power cut. It survives the death of the process in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// When the operating system thinks fit: usually within half a minute. One write to the page cache a record.
    #[default]
    Never,
    /// About this often, on the reader's thread: see [`SpoolReader::tidy`].
    Every(Duration),
    /// With every record, before the append returns: milliseconds on most disks.
    Always,
}

/// Where a spool is and how large it may grow.
///
/// ```
/// use subscription_core::SpoolConfig;
/// let config = SpoolConfig { max_bytes: 8 << 30, ..SpoolConfig::new("/var/spool/gateway") };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// A folder of its own; made where it is missing. One process at a time has it.
    pub folder: PathBuf,
    /// The most bytes on disk; an append beyond is refused. Default 1 GiB: three minutes of 10,000 events a second.
    pub max_bytes: u64,
    /// About how long a file grows; also what is freed at a time. Default 16 MiB.
    pub segment_bytes: u64,
    /// When to sync. Default: [`Fsync::Never`].
    pub fsync: Fsync,
}

impl SpoolConfig {
    /// A spool in `folder`, with the defaults.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), max_bytes: 1 << 30, segment_bytes: 16 << 20, fsync: Fsync::default() }
    }
}

/// The end of a queue on disk at which records are appended; [`SpoolReader`] is the other.
///
/// Records are numbered in the order they are appended, from 0, through all starts. The reader takes them in this order
/// and acknowledges a prefix when it is done with it; what is not acknowledged is there for the next start, so a record
/// may be read again after a crash.
///
/// # Files
/// * `{number of the first record, 20 digits}.spool`: `USPOOL01` and that number, then records: length (u32, little
///   endian), the low half of the XXH3 of the bytes seeded with the record's number, the bytes. Nothing is ever changed in
///   place. A file all of whose records are acknowledged is removed.
/// * `acknowledged`: the number of the first record that is not, and its XXH3.
/// * `lock`: locked by the process that has the spool.
///
/// A process that dies within an append leaves a torn record at the end of a file: it was never appended, and is passed
/// over. Damage anywhere else costs the records behind it in the same file; it is told, and the file is kept as
/// `*.damaged`.
///
/// ```
/// use subscription_core::{Spool, SpoolConfig};
///
/// # fn main() -> subscription_core::Result<()> {
/// # let folder = std::env::temp_dir().join(format!("spool-{}", std::process::id()));
/// let (mut spool, mut reader) = Spool::open(SpoolConfig::new(&folder))?;
/// spool.append(b"first")?;
/// spool.append(b"second")?;
/// let first = reader.next()?.unwrap();
/// assert_eq!((first.number, first.record), (0, &b"first"[..]));
/// reader.acknowledge(1);
/// reader.tidy()?;
/// drop((spool, reader));
///
/// let (_spool, mut reader) = Spool::open(SpoolConfig::new(&folder))?;
/// assert_eq!(reader.next()?.unwrap().record, b"second");
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    config: SpoolConfig,
    file: Arc<File>,
    /// Bytes behind the last whole record, after a write that failed.
    torn: bool,
    frame: Vec<u8>,
}

impl Spool {
    /// Opens the spool, or makes a new one.
    ///
    /// # Errors
    /// `Fenced`, where another process has it; else what the file system says.
    pub fn open(config: SpoolConfig) -> Result<(Self, SpoolReader)> {
        fs::create_dir_all(&config.folder).map_err(|error| failed("create the folder", &config.folder, error))?;
        let lock = lock(&config.folder)?;
        let acknowledged = read::Acknowledged::open(&config.folder)?;
        let (shared, file) = Shared::open(&config, lock, acknowledged.number())?;
        if config.fsync != Fsync::Never {
            sync_folder(&config.folder)?;
            // Which names the folder, if it is new. Where it may not be read, somebody else made the folder.
            let _ = config.folder.parent().map(sync_folder);
        }
        let (shared, file) = (Arc::new(shared), Arc::new(file));
        shared.set_writing(&file);
        let reader = SpoolReader::new(shared.clone(), acknowledged, config.fsync);
        Ok((Self { shared, config, file, torn: false, frame: Vec::new() }, reader))
    }

    /// Appends a record and answers its number. When this returns, the record outlives the process.
    ///
    /// # Errors
    /// `StorageFull`, retryable, where the spool has grown to its bound or the disk is full; else what the file system
    /// says. The record is then not in the spool.
    pub fn append(&mut self, record: &[u8]) -> Result<u64> {
        let (number, file_bytes, all_bytes) = self.shared.end();
        let frame_bytes = (segment::FRAME + record.len()) as u64;
        let rotates = file_bytes >= self.config.segment_bytes;
        let added = frame_bytes + if rotates { segment::HEADER } else { 0 };
        if all_bytes + added > self.config.max_bytes {
            return Err(Error::new(ErrorKind::StorageFull, "the spool of usage events has grown to its bound")
                .with("folder", self.config.folder.display())
                .with("max_bytes", self.config.max_bytes)
                .with_help("it empties itself when the receiver is back; give it more room for longer outages")
                .retryable());
        }
        let at = if rotates {
            self.rotate(number)?;
            segment::HEADER
        } else {
            file_bytes
        };
        if self.torn {
            self.file.set_len(at).map_err(|error| self.failed("mend", error))?;
            self.torn = false;
        }
        segment::frame(&mut self.frame, number, record)?;
        if let Err(error) = (&*self.file).write_all(&self.frame) {
            self.torn = true;
            return Err(self.failed("append to", error));
        }
        if self.config.fsync == Fsync::Always
            && let Err(error) = self.file.sync_data()
        {
            // It may be on the disk or not: as far as the caller goes, it is not.
            self.torn = true;
            return Err(self.failed("sync", error));
        }
        self.shared.appended(frame_bytes);
        Ok(number)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.shared.end().2
    }

    fn rotate(&mut self, first: u64) -> Result<()> {
        let file = segment::create(&self.config.folder, first)?;
        if self.config.fsync != Fsync::Never {
            self.file.sync_data().map_err(|error| self.failed("sync", error))?;
            sync_folder(&self.config.folder)?;
        }
        self.file = Arc::new(file);
        self.torn = false;
        self.shared.add_segment(first);
        self.shared.set_writing(&self.file);
        Ok(())
    }

    fn failed(&self, what: &str, error: std::io::Error) -> Error {
        failed(what, &self.config.folder, error)
    }
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| failed("open", folder, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(Error::new(ErrorKind::Fenced, "another process has the spool of usage events")
                .with("folder", folder.display())
                .with_help("give each process a folder of its own"))
        }
        Err(fs::TryLockError::Error(error)) => Err(failed("lock", folder, error)),
    }
}

/// Makes names in the folder survive a power cut.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| failed("sync", folder, error))
}

fn failed(what: &str, folder: &Path, error: std::io::Error) -> Error {
    Error::io(format!("cannot {what} the spool of usage events"), error).with("folder", folder.display())
}
