//! Which files a spool has, and what is in them: what its two ends share.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::segment::{self, Parsed};
use super::{SpoolConfig, failed};
use crate::error::Result;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) folder: PathBuf,
    index: Mutex<Index>,
    /// The file that is being written.
    writing: Mutex<Option<Arc<File>>>,
    /// Bytes at the end of the last file that were no whole record when the spool was opened.
    pub(super) torn_bytes: u64,
    /// Whether they are more than the beginning of a record.
    pub(super) end_is_damaged: bool,
    /// Held until both ends are gone.
    _lock: File,
}

#[derive(Debug)]
struct Index {
    /// By rising number; the last one is being written.
    segments: Vec<Segment>,
    /// The number of the next record.
    end: u64,
    /// Bytes of all files.
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// The number of its first record.
    pub(super) first: u64,
    /// Bytes of its header and whole records.
    pub(super) bytes: u64,
    pub(super) damaged: bool,
}

/// What the reader needs to know to go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    pub(super) segment: Segment,
    /// The number behind its last record, as of now.
    pub(super) end: u64,
    /// Whether more may be appended to it.
    pub(super) is_last: bool,
}

impl Shared {
    /// Takes up what is in the folder, and begins a new file behind it.
    pub(super) fn open(config: &SpoolConfig, lock: File, acknowledged: u64) -> Result<(Self, File)> {
        let folder = &config.folder;
        let mut segments = Vec::new();
        let (mut end, mut torn_bytes, mut end_is_damaged) = (acknowledged, 0, false);
        let firsts = segment::list(folder)?;
        for (i, &first) in firsts.iter().enumerate() {
            let path = segment::path(folder, first);
            let length = std::fs::metadata(&path).map_err(|error| failed("read", folder, error))?.len();
            let mut segment = Segment { first, bytes: length, damaged: false };
            if i + 1 == firsts.len() {
                let scanned = scan(&path, first).map_err(|error| failed("read", folder, error))?;
                end = end.max(first + scanned.records);
                segment = Segment { bytes: scanned.bytes, damaged: scanned.damaged, ..segment };
                (torn_bytes, end_is_damaged) = (length - scanned.bytes, scanned.damaged);
                if torn_bytes > 0 && !scanned.damaged {
                    let cut = || File::options().write(true).open(&path)?.set_len(scanned.bytes);
                    cut().map_err(|error| failed("mend", folder, error))?;
                }
                if scanned.records == 0 {
                    // A start that died before it appended anything; or bytes of which nothing can be read.
                    let gone = if scanned.damaged {
                        std::fs::rename(&path, path.with_extension("damaged"))
                    } else {
                        std::fs::remove_file(&path)
                    };
                    gone.map_err(|error| failed("clear", folder, error))?;
                    continue;
                }
            }
            segments.push(segment);
        }
        let file = segment::create(folder, end)?;
        segments.push(Segment { first: end, bytes: segment::HEADER, damaged: false });
        let bytes = segments.iter().map(|segment| segment.bytes).sum();
        let index = Mutex::new(Index { segments, end, bytes });
        let (folder, writing) = (folder.clone(), Mutex::new(None));
        Ok((Self { folder, index, writing, torn_bytes, end_is_damaged, _lock: lock }, file))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // Every change of it is one that cannot panic half-way.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next record, the bytes of the last file, and those of all.
    pub(super) fn end(&self) -> (u64, u64, u64) {
        let index = self.index();
        (index.end, index.segments.last().map_or(0, |segment| segment.bytes), index.bytes)
    }

    pub(super) fn appended(&self, bytes: u64) {
        let mut index = self.index();
        index.end += 1;
        index.bytes += bytes;
        if let Some(last) = index.segments.last_mut() {
            last.bytes += bytes;
        }
    }

    pub(super) fn add_segment(&self, first: u64) {
        let mut index = self.index();
        index.bytes += segment::HEADER;
        index.segments.push(Segment { first, bytes: segment::HEADER, damaged: false });
    }

    pub(super) fn set_writing(&self, file: &Arc<File>) {
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = Some(file.clone());
    }

    pub(super) fn sync(&self) -> Result<()> {
        let file = self.writing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        file.map_or(Ok(()), |file| file.sync_data()).map_err(|error| failed("sync", &self.folder, error))
    }

    /// The file with record `number`, or the first one behind it; `None` where all records are before it.
    pub(super) fn ahead(&self, number: u64) -> Option<Ahead> {
        let index = self.index();
        if number >= index.end {
            return None;
        }
        let behind = index.segments.partition_point(|segment| segment.first <= number);
        let at = behind.saturating_sub(1);
        let next = index.segments.get(at + 1);
        Some(Ahead {
            segment: *index.segments.get(at)?,
            end: next.map_or(index.end, |next| next.first),
            is_last: next.is_none(),
        })
    }

    pub(super) fn mark_damaged(&self, first: u64) {
        if let Some(segment) = self.index().segments.iter_mut().find(|segment| segment.first == first) {
            segment.damaged = true;
        }
    }

    /// Removes the files all of whose records are before `number`, but for the one that is being written.
    pub(super) fn remove_before(&self, number: u64) -> Result<()> {
        let mut index = self.index();
        let gone = index.segments.windows(2).take_while(|pair| pair[1].first <= number).count();
        for _ in 0..gone {
            let segment = index.segments[0];
            let path = segment::path(&self.folder, segment.first);
            let removed = if segment.damaged {
                std::fs::rename(&path, path.with_extension("damaged"))
            } else {
                std::fs::remove_file(&path)
            };
            // What fails is tried again with the next call, as the segment stays in the index.
            match removed {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(|error| failed("remove a file from", &self.folder, error))?,
            }
            index.bytes -= segment.bytes;
            index.segments.remove(0);
        }
        Ok(())
    }
}

/// What a file holds.
struct Scanned {
    /// Whole records from its beginning.
    records: u64,
    /// Bytes up to their end.
    bytes: u64,
    /// Whether something else than the beginning of a record follows.
    damaged: bool,
}

fn scan(path: &std::path::Path, first: u64) -> std::io::Result<Scanned> {
    let mut file = File::open(path)?;
    if !segment::has_header(&mut file, first)? {
        let damaged = file.metadata()?.len() >= segment::HEADER;
        return Ok(Scanned { records: 0, bytes: 0, damaged });
    }
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut scanned = Scanned { records: 0, bytes: segment::HEADER, damaged: false };
    let mut bytes = Vec::new();
    loop {
        match segment::parse(&bytes, first + scanned.records) {
            Parsed::Whole(_) => {
                scanned.records += 1;
                scanned.bytes += bytes.len() as u64;
                bytes.clear();
            }
            Parsed::Damaged => return Ok(Scanned { damaged: true, ..scanned }),
            Parsed::Needs(needed) => {
                let missing = (needed - bytes.len()) as u64;
                if ((&mut file).take(missing).read_to_end(&mut bytes)? as u64) < missing {
                    return Ok(scanned);
                }
            }
        }
    }
}
