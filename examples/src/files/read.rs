//! Reading and decompressing inputs, on a thread of its own.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;
use subscription_core::{Error, ErrorKind, Result};
use zstd::stream::read::Decoder as ZstdDecoder;

use super::Input;

/// How much is read at once.
const BLOCK_BYTES: usize = 1 << 20;

/// How many blocks are read ahead.
const BLOCKS_AHEAD: usize = 4;

/// A read shorter than this comes from a slow pipe: the next one waits, so that many writes of a line become few blocks.
const SHORT_READ_BYTES: usize = 4 << 10;

/// How long it waits.
const SHORT_READ_PAUSE: Duration = Duration::from_millis(1);

/// What the reading thread has to say.
pub(super) enum Block {
    /// Bytes of an input, decompressed.
    Data(Vec<u8>),
    /// An input is at its end.
    EndOfInput,
    /// All inputs are at their end; it is the last block.
    End,
    /// An input cannot be read, or not on; it is the last block.
    Failed(Error),
}

/// Blocks, and how many bytes of the inputs were read for them.
pub(super) struct Blocks {
    read: Receiver<(Block, u64)>,
    used: Sender<Vec<u8>>,
}

impl Blocks {
    /// The next block, once it is there; `None` where reading has ended.
    pub(super) fn next(&self) -> Option<(Block, u64)> {
        self.read.recv().ok()
    }

    /// The next block, if it is there.
    pub(super) fn try_next(&self) -> Option<(Block, u64)> {
        self.read.try_recv().ok()
    }

    /// Gives back the memory of a block. The next one is read into it: memory that is in the processor's cache is filled several
    /// times as fast as other memory.
    pub(super) fn give_back(&self, used: Vec<u8>) {
        // Nobody reads on after the end.
        let _ = self.used.send(used);
    }
}

/// Begins to read.
pub(super) fn spawn(inputs: Vec<Input>) -> Result<Blocks> {
    let (sender, read) = sync_channel(BLOCKS_AHEAD);
    let (used, free) = channel();
    let work = move || {
        // An error here means that nobody wants blocks any more.
        let _ = read_all(&inputs, &sender, &free);
    };
    std::thread::Builder::new().name("read".to_owned()).spawn(work).map_err(|error| {
        Error::new(ErrorKind::Unavailable, "cannot start a thread to read the inputs").with_source(error)
    })?;
    Ok(Blocks { read, used })
}

/// Nobody receives blocks any more.
struct Unwanted;

fn read_all(inputs: &[Input], sender: &SyncSender<(Block, u64)>, free: &Receiver<Vec<u8>>) -> Result<(), Unwanted> {
    let done = Arc::new(AtomicU64::new(0));
    let send = |block| sender.send((block, done.load(Ordering::Relaxed))).map_err(|_| Unwanted);
    for input in inputs {
        let mut reader = match open(input, &done) {
            Ok(reader) => reader,
            Err(error) => return send(Block::Failed(error)),
        };
        loop {
            let mut block = free.try_recv().unwrap_or_default();
            block.resize(BLOCK_BYTES, 0);
            match reader.read(&mut block) {
                Ok(0) => break,
                Ok(len) => {
                    block.truncate(len);
                    send(Block::Data(block))?;
                    if len < SHORT_READ_BYTES {
                        std::thread::sleep(SHORT_READ_PAUSE);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return send(Block::Failed(broken(input, error))),
            }
        }
        send(Block::EndOfInput)?;
    }
    send(Block::End)
}

/// The size of an input that can be read; `None` where that is not known before.
pub(super) fn check(input: &Input) -> Result<Option<u64>> {
    let Input::File(path) = input else { return Ok(None) };
    let metadata = std::fs::metadata(path).map_err(|error| not_opened(input, error))?;
    if metadata.is_dir() {
        return Err(Error::new(ErrorKind::Other, "input is a folder")
            .with("input", input)
            .with_help(format!("name the files in it: --input {}", path.join("*").display())));
    }
    // Opening a pipe would take its first bytes, or wait for a writer.
    if !metadata.is_file() {
        return Ok(None);
    }
    open_regular(path).map_err(|error| not_opened(input, error))?;
    Ok(Some(metadata.len()))
}

fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

fn not_opened(input: &Input, error: io::Error) -> Error {
    let (kind, message, help) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, "there is no such input", "correct the path after --input"),
        io::ErrorKind::PermissionDenied => (
            ErrorKind::PermissionDenied,
            "input may not be read",
            "give the user who runs this the right to read it (chmod, or run as its owner)",
        ),
        _ => (ErrorKind::Other, "input cannot be opened", "see the cause"),
    };
    Error::new(kind, message).with("input", input).with_help(help).with_source(error)
}

/// An error in the middle of an input.
fn broken(input: &Input, error: io::Error) -> Error {
    let (kind, message, help) = match error.kind() {
        io::ErrorKind::UnexpectedEof => (
            ErrorKind::Corrupt,
            "input is truncated: its compressed data ends early",
            "copy or compress it again, then run the same command: it goes on behind what is committed",
        ),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => (
            ErrorKind::Corrupt,
            "input is corrupt: it cannot be decompressed",
            "test it (gzip -t, zstd -t), mend it, then run the same command: it goes on behind what is committed",
        ),
        _ => (
            ErrorKind::Other,
            "input cannot be read on",
            "remove the cause, then run the same command: it goes on behind what is committed",
        ),
    };
    Error::new(kind, message).with("input", input).with_help(help).with_source(error)
}

fn open(input: &Input, done: &Arc<AtomicU64>) -> Result<Box<dyn Read>> {
    match input {
        Input::Stdin => decompress(input, io::stdin().lock(), done),
        Input::File(path) => {
            let file = File::open(path).map_err(|error| not_opened(input, error))?;
            decompress(input, file, done)
        }
    }
}

/// Reads an input as what its first bytes say it is.
fn decompress(input: &Input, mut raw: impl Read + 'static, done: &Arc<AtomicU64>) -> Result<Box<dyn Read>> {
    let mut magic = Vec::with_capacity(6);
    // A pipe may give its first bytes one by one.
    raw.by_ref().take(6).read_to_end(&mut magic).map_err(|error| broken(input, error))?;
    let other = [(&b"BZh"[..], "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"PK\x03\x04", "zip")];
    if let Some((_, name)) = other.into_iter().find(|(start, _)| magic.starts_with(start)) {
        return Err(Error::new(ErrorKind::Other, format!("input is compressed with {name}, which is not read here"))
            .with("input", input)
            .with_help("decompress it first, or pipe it in: ... | pipeline run --input -"));
    }
    let gzip = magic.starts_with(b"\x1f\x8b");
    // Frames that hold no data, as pzstd writes them, may come first.
    let zstd = magic.starts_with(b"\x28\xb5\x2f\xfd")
        || magic.len() >= 4 && magic[0] & 0xf0 == 0x50 && magic[1..4] == *b"\x2a\x4d\x18";
    let raw = Counting { inner: Cursor::new(magic).chain(raw), done: done.clone() };
    if gzip {
        Ok(Box::new(MultiGzDecoder::new(BufReader::with_capacity(BLOCK_BYTES / 4, raw))))
    } else if zstd {
        let mut decoder = ZstdDecoder::new(raw).map_err(|error| broken(input, error))?;
        // `zstd --long=31`.
        decoder.window_log_max(31).map_err(|error| broken(input, error))?;
        Ok(Box::new(decoder))
    } else {
        Ok(Box::new(raw))
    }
}

struct Counting<R> {
    inner: R,
    done: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.done.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}
