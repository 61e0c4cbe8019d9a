//! One file of a spool.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::failed;
use crate::error::{Error, ErrorKind, Result};

const MAGIC: &[u8; 8] = b"USPOOL01";

/// Bytes of a file before its first record.
pub(super) const HEADER: u64 = 16;

/// Bytes of a record before its own.
pub(super) const FRAME: usize = 8;

/// The longest record, so that a damaged length is known for one.
const MAX_RECORD: usize = 64 << 20;

pub(super) fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.spool"))
}

/// A new file whose first record will be `first`.
pub(super) fn create(folder: &Path, first: u64) -> Result<File> {
    let path = path(folder, first);
    let create = || {
        // One that is there already is of a start that died before it appended anything.
        let mut file = File::options().create(true).write(true).truncate(true).open(&path)?;
        file.write_all(&[&MAGIC[..], &first.to_le_bytes()].concat())?;
        drop(file);
        File::options().append(true).open(&path)
    };
    create().map_err(|error| failed("add a file to", folder, error))
}

/// The first numbers of the files in the folder, rising.
pub(super) fn list(folder: &Path) -> Result<Vec<u64>> {
    let list = || -> io::Result<Vec<u64>> {
        let mut firsts = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".spool")?.parse::<u64>().ok());
            firsts.extend(number);
        }
        firsts.sort_unstable();
        Ok(firsts)
    };
    list().map_err(|error| failed("read", folder, error))
}

/// Whether the file begins as one of a spool with this first record.
pub(super) fn has_header(file: &mut File, first: u64) -> io::Result<bool> {
    let mut header = [0; HEADER as usize];
    match file.read_exact(&mut header) {
        Ok(()) => Ok(header[..8] == *MAGIC && header[8..] == first.to_le_bytes()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn check(number: u64, record: &[u8]) -> u32 {
    xxh3_64_with_seed(record, number) as u32
}

/// Makes `frame` the record as it is written.
pub(super) fn frame(frame: &mut Vec<u8>, number: u64, record: &[u8]) -> Result<()> {
    if record.len() > MAX_RECORD {
        return Err(Error::new(ErrorKind::Other, "a record is too long for a spool")
            .with("bytes", record.len())
            .with("max_bytes", MAX_RECORD));
    }
    frame.clear();
    frame.extend_from_slice(&(record.len() as u32).to_le_bytes());
    frame.extend_from_slice(&check(number, record).to_le_bytes());
    frame.extend_from_slice(record);
    Ok(())
}

/// What bytes begin with.
pub(super) enum Parsed {
    /// A record of so many bytes, behind [`FRAME`] others.
    Whole(usize),
    /// Nothing whole; with this many bytes it may be more.
    Needs(usize),
    /// No record.
    Damaged,
}

pub(super) fn parse(bytes: &[u8], number: u64) -> Parsed {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME>() else { return Parsed::Needs(FRAME) };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len > MAX_RECORD {
        return Parsed::Damaged;
    }
    match rest.get(..len) {
        None => Parsed::Needs(FRAME + len),
        Some(record) if check(number, record) == u32::from_le_bytes([c0, c1, c2, c3]) => Parsed::Whole(len),
        Some(_) => Parsed::Damaged,
    }
}
