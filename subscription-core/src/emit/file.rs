//! Events written to a file, one a line.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{EmitterCounts, EmitterStamp, EventEmitter};
use crate::error::{Error, Result};
use crate::event::ApiUsageEvent;

/// An emitter that appends to a file of JSON lines, as a pipeline reads them.
///
/// One write to the page cache an event, so that what was accepted outlives the process; [`EventEmitter::flush`] makes it
/// outlive a power cut. The file grows without bound: rotating it is somebody else's work, by opening another emitter. Several
/// processes may append to one file.
#[derive(Debug)]
pub struct FileEmitter {
    stamp: EmitterStamp,
    path: PathBuf,
    open: Mutex<Open>,
    accepted: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug)]
struct Open {
    /// `None` once it is closed.
    file: Option<File>,
    next: u64,
    /// The file ends within a line, after a failed write or a crash: a line end has to come first.
    torn: bool,
}

impl FileEmitter {
    /// Appends to the file at `path`, which is made where there is none. `name` tells this emitter from others, see
    /// [`EmitterStamp::new`].
    ///
    /// # Errors
    /// Where the file cannot be opened; those of [`EmitterStamp::new`].
    pub fn open(path: impl Into<PathBuf>, name: &str) -> Result<Self> {
        let (path, stamp) = (path.into(), EmitterStamp::new(name)?);
        let open = || -> io::Result<(File, bool)> {
            let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
            let mut last = [b'\n'];
            if file.seek(SeekFrom::End(0))? > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            Ok((file, last != *b"\n"))
        };
        let (file, torn) = open().map_err(|error| failed("open", &path, error))?;
        let open = Mutex::new(Open { file: Some(file), next: 0, torn });
        Ok(Self { stamp, path, open, accepted: AtomicU64::new(0), refused: AtomicU64::new(0) })
    }

    fn write(&self, event: &ApiUsageEvent<'_>) -> Result<()> {
        let draft = self.stamp.draft(event);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = draft.numbered(open.next);
        open.next += 1;
        line.push('\n');
        if open.torn {
            line.insert(0, '\n');
        }
        let Some(file) = &mut open.file else { return Err(super::closed()) };
        let written = file.write_all(line.as_bytes());
        open.torn = written.is_err();
        written.map_err(|error| failed("append to", &self.path, error))
    }
}

impl EventEmitter for FileEmitter {
    fn id(&self) -> &str {
        self.stamp.id()
    }

    fn emit(&self, event: &ApiUsageEvent<'_>) -> Result<()> {
        let written = self.write(event);
        let count = if written.is_ok() { &self.accepted } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
        written
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn flush(&self, _: Duration) -> Result<()> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let synced = open.file.as_ref().map_or(Ok(()), File::sync_data);
        synced.map_err(|error| failed("sync", &self.path, error))
    }

    fn close(&self, deadline: Duration) -> Result<()> {
        self.flush(deadline)?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).file = None;
        Ok(())
    }

    fn counts(&self) -> EmitterCounts {
        let accepted = self.accepted.load(Ordering::Relaxed);
        let refused = self.refused.load(Ordering::Relaxed);
        EmitterCounts { accepted, delivered: accepted, refused, ..EmitterCounts::default() }
    }
}

fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    Error::io(format!("cannot {what} the file of usage events"), error).with("file", path.display())
}
