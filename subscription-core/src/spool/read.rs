//! The end of a spool from which records are taken.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::index::{Ahead, Shared};
use super::segment::{self, FRAME, HEADER, Parsed};
use super::{Fsync, failed};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// A record of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spooled<'a> {
    /// Its number.
    pub number: u64,
    /// Its bytes.
    pub record: &'a [u8],
}

/// Takes the records of a [`Spool`](super::Spool) in their order, those of earlier starts first. May be on another
/// thread.
#[derive(Debug)]
pub struct SpoolReader {
    shared: Arc<Shared>,
    acknowledged: Acknowledged,
    /// The number of the next record to answer.
    next: u64,
    file: Option<Reading>,
    damaged: u64,
    fsync: Fsync,
    clock: SystemClock,
    synced: u64,
}

/// The file that is being read.
#[derive(Debug)]
struct Reading {
    first: u64,
    file: File,
    /// How far the file was read.
    at: u64,
    /// What was read and not yet answered: `bytes[start..]`.
    bytes: Vec<u8>,
    start: usize,
    /// The number of the record that `bytes[start..]` begins with.
    number: u64,
}

impl SpoolReader {
    pub(super) fn new(shared: Arc<Shared>, acknowledged: Acknowledged, fsync: Fsync) -> Self {
        let next = acknowledged.number();
        let clock = SystemClock::new();
        Self { shared, acknowledged, next, file: None, damaged: 0, fsync, clock, synced: 0 }
    }

    /// The next record; `None` where all were taken, until more are appended.
    ///
    /// # Errors
    /// `Corrupt`, where a file is damaged: the records that were behind that place in it are passed over and counted by
    /// [`SpoolReader::damaged`], and the next call goes on behind them. Else what the file system says; the next call
    /// tries again.
    // Not an iterator: what it answers is borrowed from it.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Spooled<'_>>> {
        loop {
            if let Some(reading) = &mut self.file {
                match segment::parse(&reading.bytes[reading.start..], reading.number) {
                    Parsed::Whole(len) => {
                        let (number, start) = (reading.number, reading.start + FRAME);
                        reading.number += 1;
                        reading.start = start + len;
                        if number < self.next {
                            continue;
                        }
                        self.next = number + 1;
                        let record = self.file.as_ref().map_or(&[][..], |file| &file.bytes[start..start + len]);
                        return Ok(Some(Spooled { number, record }));
                    }
                    Parsed::Needs(needed) => {
                        let Some(ahead) = self.shared.ahead(self.next) else { return Ok(None) };
                        if ahead.segment.first == reading.first {
                            let more = reading.fill(needed, ahead.segment.bytes);
                            match more.map_err(|error| failed("read", &self.shared.folder, error))? {
                                true => continue,
                                false => return Err(self.pass_over(ahead)),
                            }
                        }
                        self.open(ahead)?;
                    }
                    Parsed::Damaged => match self.shared.ahead(self.next) {
                        Some(ahead) if ahead.segment.first == reading.first => return Err(self.pass_over(ahead)),
                        Some(ahead) => self.open(ahead)?,
                        // Torn bytes behind the last whole record, which were never appended.
                        None => return Ok(None),
                    },
                }
            } else {
                let Some(ahead) = self.shared.ahead(self.next) else { return Ok(None) };
                self.open(ahead)?;
            }
        }
    }

    fn open(&mut self, ahead: Ahead) -> Result<()> {
        let first = ahead.segment.first;
        let open = || {
            let mut file = File::open(segment::path(&self.shared.folder, first))?;
            let sound = segment::has_header(&mut file, first)?;
            Ok((file, sound))
        };
        let (file, sound) = open().map_err(|error| failed("read", &self.shared.folder, error))?;
        // Files may have been taken away by hand.
        self.next = self.next.max(first);
        self.file = Some(Reading { first, file, at: HEADER, bytes: Vec::new(), start: 0, number: first });
        if sound { Ok(()) } else { Err(self.pass_over(ahead)) }
    }

    /// Goes on behind the records that the file is known to have had.
    fn pass_over(&mut self, ahead: Ahead) -> Error {
        let lost = ahead.end - self.next;
        self.damaged += lost;
        self.next = ahead.end;
        self.shared.mark_damaged(ahead.segment.first);
        match &mut self.file {
            Some(reading) if ahead.is_last => {
                (reading.at, reading.number) = (ahead.segment.bytes, ahead.end);
                reading.bytes.clear();
                reading.start = 0;
            }
            _ => self.file = None,
        }
        Error::new(ErrorKind::Corrupt, "a file of the spool of usage events is damaged")
            .with("file", segment::path(&self.shared.folder, ahead.segment.first).display())
            .with("records lost", lost)
            .with_help("it is kept with the ending `.damaged`; check the disk")
    }

    /// Records that were passed over because their file was damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Bytes that were found behind the last whole record when the spool was opened: an append that a crash cut short, unless
    /// [`SpoolReader::end_is_damaged`].
    pub fn torn_bytes(&self) -> u64 {
        self.shared.torn_bytes
    }

    /// Whether those bytes are no mere beginning of a record: there were records in them, or the disk made them up.
    pub fn end_is_damaged(&self) -> bool {
        self.shared.end_is_damaged
    }

    /// Passes over the records before `number`, which were sent without being read here.
    pub fn skip_to(&mut self, number: u64) {
        self.next = self.next.max(number);
    }

    /// The number of the next record.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// How many records there are from the next one on.
    pub fn remaining(&self) -> u64 {
        self.shared.end().0.saturating_sub(self.next)
    }

    /// Says that nobody needs the records before `number` any longer. Has its effect on disk with
    /// [`SpoolReader::tidy`]; a lower number than before has none.
    pub fn acknowledge(&mut self, number: u64) {
        self.acknowledged.set(number.min(self.next));
    }

    /// Keeps on disk what was acknowledged, removes files that hold nothing else, and syncs where
    /// [`Fsync::Every`] says so. Cheap where there is nothing to do.
    ///
    /// # Errors
    /// What the file system says; the next call tries again.
    pub fn tidy(&mut self) -> Result<()> {
        let folder = &self.shared.folder;
        self.acknowledged.keep().map_err(|error| failed("acknowledge records of", folder, error))?;
        self.shared.remove_before(self.acknowledged.number())?;
        if let Fsync::Every(interval) = self.fsync {
            let now = self.clock.monotonic_nanos();
            if u128::from(now - self.synced) >= interval.as_nanos() {
                self.synced = now;
                self.shared.sync()?;
            }
        }
        Ok(())
    }
}

impl Reading {
    /// Reads on until there are `needed` bytes; false where the file has not that many before `limit`.
    fn fill(&mut self, needed: usize, limit: u64) -> std::io::Result<bool> {
        let missing = needed - (self.bytes.len() - self.start);
        if self.at + missing as u64 > limit {
            return Ok(false);
        }
        self.bytes.drain(..self.start);
        self.start = 0;
        let wanted = (limit - self.at).min(missing.max(CHUNK) as u64);
        self.file.seek(SeekFrom::Start(self.at))?;
        let read = (&mut self.file).take(wanted).read_to_end(&mut self.bytes)?;
        self.at += read as u64;
        Ok(read >= missing)
    }
}

/// How far records are acknowledged, and the file that says so.
#[derive(Debug)]
pub(super) struct Acknowledged {
    file: File,
    number: u64,
    kept: u64,
}

impl Acknowledged {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let open = || {
            let path = folder.join("acknowledged");
            let mut file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(|error| failed("open", folder, error))?;
        // Where it cannot be read, all that is still there is sent again.
        let number = match bytes.split_first_chunk::<8>() {
            Some((number, check)) if check == xxh3_64(number).to_le_bytes() => u64::from_le_bytes(*number),
            _ => 0,
        };
        Ok(Self { file, number, kept: number })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn set(&mut self, number: u64) {
        self.number = self.number.max(number);
    }

    fn keep(&mut self) -> std::io::Result<()> {
        if self.kept == self.number {
            return Ok(());
        }
        let number = self.number.to_le_bytes();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&[number, xxh3_64(&number).to_le_bytes()].concat())?;
        self.kept = self.number;
        Ok(())
    }
}
