//! Lines become records in partitions, on a thread of its own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use subscription_core::{
    Error, ErrorKind, RecordBatch, RecordBatchBuilder, Result, Timestamp, murmur2_partition, peek,
};
use tokio::sync::mpsc;

use super::read::{self, Block, Blocks};
use super::{FileOptions, Format, Input, TOPIC};
use crate::access_log::{self, Translator};
use crate::lines::{Lines, Splitter, is_blank, lines_backwards, lines_of};

/// A delivery is made at the latest when it has this many bytes. The more events of a tenant are in a batch, the fewer times
/// its windows are fetched from memory.
const DELIVERY_BYTES: usize = 16 << 20;

/// The first delivery is no larger, and each may be twice as large as the one before, so that the engines have something to do soon.
const FIRST_DELIVERY_BYTES: usize = 1 << 20;

/// Deliveries made ahead of the caller.
const DELIVERIES_AHEAD: usize = 1;

/// A partition without records in a delivery is told of its new position once it is this many lines behind.
const QUIET_LINES: u64 = 1_024;

/// Batches of several partitions, and how many bytes of the inputs are done once they are taken.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) batches: Vec<RecordBatch>,
    pub(super) done: u64,
    /// Whether nothing comes after it.
    pub(super) last: bool,
}

/// Begins to read, and to deliver each partition from its offset in `starts` on. What comes last is
/// either marked so or an error.
pub(super) fn spawn(
    inputs: Vec<Input>,
    options: Arc<FileOptions>,
    starts: BTreeMap<u32, u64>,
) -> Result<mpsc::Receiver<Result<Delivery>>> {
    let blocks = read::spawn(inputs)?;
    let (sender, receiver) = mpsc::channel(DELIVERIES_AHEAD);
    let work = move || {
        let _ = deliver(&blocks, Cutter::new(options, starts), &sender);
    };
    std::thread::Builder::new()
        .name("cut".to_owned())
        .spawn(work)
        .map_err(|error| Error::new(ErrorKind::Unavailable, "cannot start a thread to cut lines").with_source(error))?;
    Ok(receiver)
}

/// Nobody receives deliveries any more.
struct Unwanted;

fn deliver(
    blocks: &Blocks,
    mut cutter: Cutter,
    sender: &mpsc::Sender<Result<Delivery>>,
) -> std::result::Result<(), Unwanted> {
    let send = |delivery| sender.blocking_send(delivery).map_err(|_| Unwanted);
    let mut splitter = Splitter::default();
    let mut most = FIRST_DELIVERY_BYTES;
    while let Some(first) = blocks.next() {
        let (mut next, mut done) = (Some(first), 0);
        // All that is there goes into one delivery; what is not there yet is not waited for.
        while let Some((block, read)) = next {
            done = read;
            match block {
                Block::Data(bytes) => {
                    splitter.push(&bytes, &mut cutter);
                    blocks.give_back(bytes);
                }
                Block::EndOfInput => {
                    splitter.end(&mut cutter);
                    cutter.next_input();
                }
                Block::End => {
                    return match cutter.missing() {
                        Some(error) => send(Err(error)),
                        None => send(Ok(Delivery { batches: cutter.take(0), done, last: true })),
                    };
                }
                Block::Failed(error) => {
                    splitter.discard();
                    send(Ok(Delivery { batches: cutter.take(0), done, last: false }))?;
                    return send(Err(error.with("lines read", cutter.line)));
                }
            }
            next = if cutter.bytes < most { blocks.try_next() } else { None };
        }
        most = (2 * most).min(DELIVERY_BYTES);
        let batches = cutter.take(QUIET_LINES);
        if !batches.is_empty() {
            send(Ok(Delivery { batches, done, last: false }))?;
        }
    }
    Ok(())
}

struct Cutter {
    options: Arc<FileOptions>,
    topic: Arc<str>,
    /// The number of the next line.
    line: u64,
    /// The timestamp of the line before.
    time: Timestamp,
    input: Reading,
    partitions: Vec<Option<Partition>>,
    /// No partition wants a line before this one.
    least: u64,
    /// Bytes of records not taken yet.
    bytes: usize,
}

struct Partition {
    /// The first line that is wanted and not taken yet.
    position: u64,
    batch: RecordBatchBuilder,
}

/// The lines of the input at hand as payloads.
struct Reading {
    format: Format,
    translator: Translator,
}

struct Payload<'a> {
    bytes: &'a [u8],
    tenant: Option<Cow<'a, str>>,
    time: Option<Timestamp>,
}

impl Cutter {
    fn new(options: Arc<FileOptions>, starts: BTreeMap<u32, u64>) -> Self {
        let topic: Arc<str> = TOPIC.into();
        let partitions = (0..options.partitions).map(|partition| {
            let &position = starts.get(&partition)?;
            Some(Partition { position, batch: RecordBatch::builder(topic.clone(), partition, position) })
        });
        Self {
            partitions: partitions.collect(),
            topic: topic.clone(),
            line: 0,
            time: Timestamp::EPOCH,
            input: Reading::new(&options),
            least: starts.values().copied().min().unwrap_or(u64::MAX),
            bytes: 0,
            options,
        }
    }

    fn next_input(&mut self) {
        self.input = Reading::new(&self.options);
    }

    /// Passes over the lines that no partition wants; what is left of the chunk.
    fn pass_over<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let mut end = 0;
        while self.line < self.least && end < chunk.len() {
            end = memchr::memchr(b'\n', &chunk[end..]).map_or(chunk.len(), |at| end + at + 1);
            self.line += 1;
        }
        let (skipped, rest) = chunk.split_at(end);
        if self.input.format != Format::Events {
            for line in lines_of(skipped).filter(|line| !is_blank(line)) {
                self.input.skip(line);
            }
        }
        // Nearly always the last line has a time, so that little is parsed.
        if let Some(time) = lines_backwards(skipped).find_map(|line| self.input.time(line)) {
            self.time = time;
        }
        rest
    }

    /// Takes the batches of what was read, and of partitions that had no records for `quiet` lines.
    fn take(&mut self, quiet: u64) -> Vec<RecordBatch> {
        self.bytes = 0;
        let mut batches = Vec::new();
        for (partition, slot) in (0..).zip(&mut self.partitions) {
            let Some(Partition { position, batch }) = slot else { continue };
            if self.line > *position && (!batch.is_empty() || self.line - *position >= quiet) {
                let mut next = RecordBatch::builder(self.topic.clone(), partition, self.line);
                // About as much will come again: growing step by step would copy it several times.
                next.reserve(batch.len() + batch.len() / 8, batch.bytes() + batch.bytes() / 8);
                batches.push(std::mem::replace(batch, next).finish(self.line));
                *position = self.line;
            }
        }
        batches
    }

    /// An error where the inputs end before a position that was asked for.
    fn missing(&self) -> Option<Error> {
        let position = self.partitions.iter().flatten().map(|partition| partition.position).max()?;
        (position > self.line).then(|| {
            Error::new(ErrorKind::Mismatch, "the inputs are shorter than what the lake holds of them")
                .with("lines", self.line)
                .with("position in the lake", position)
                .with_help("give the inputs that the lake was filled from, in the same order, or name another --lake")
        })
    }
}

impl Lines for Cutter {
    fn lines(&mut self, chunk: &[u8]) {
        let chunk = if self.line < self.least { self.pass_over(chunk) } else { chunk };
        for line in lines_of(chunk) {
            let offset = self.line;
            self.line += 1;
            if is_blank(line) {
                continue;
            }
            let payload = self.input.payload(line);
            self.time = payload.time.unwrap_or(self.time);
            let key = payload.tenant.as_deref().map(str::as_bytes);
            let partition = key.map_or(0, |key| murmur2_partition(key, self.options.partitions));
            if let Some(Partition { position, batch }) = &mut self.partitions[partition as usize]
                && offset >= *position
            {
                batch.push(offset, self.time, key, Some(payload.bytes));
                self.bytes += payload.bytes.len();
            }
        }
    }

    fn long_line(&mut self, head: &[u8], len: u64) {
        let offset = self.line;
        self.line += 1;
        if let Some(Partition { position, batch }) = &mut self.partitions[0]
            && offset >= *position
        {
            batch.push_truncated(offset, self.time, None, Some(head), len);
            self.bytes += head.len();
        }
    }
}

impl Reading {
    fn new(options: &FileOptions) -> Self {
        Self { format: options.format, translator: Translator::new(Arc::new(options.log.clone())) }
    }

    fn payload<'a>(&'a mut self, line: &'a [u8]) -> Payload<'a> {
        let Self { format, translator } = self;
        // While the format is unknown, no line was one of a log, so that translating begins with the line that tells.
        if *format != Format::Events
            && let Some(event) = translator.translate(line)
        {
            *format = Format::AccessLog;
            return Payload { bytes: event.json, tenant: event.tenant.map(Cow::Borrowed), time: Some(event.time) };
        }
        let peeked = peek(line);
        let time = peeked.record_timestamp();
        if *format == Format::Auto && (time.is_some() || peeked.tenant_id.is_some()) {
            *format = Format::Events;
        }
        Payload { bytes: line, tenant: peeked.tenant_id, time }
    }

    /// Passes over a line that is not blank.
    fn skip(&mut self, line: &[u8]) {
        match self.format {
            Format::Auto => {
                self.payload(line);
            }
            Format::AccessLog => self.translator.skip(line),
            Format::Events => {}
        }
    }

    /// The time that a line has of its own.
    fn time(&self, line: &[u8]) -> Option<Timestamp> {
        let logged = if self.format == Format::Events { None } else { access_log::time_of(line) };
        logged.or_else(|| peek(line).record_timestamp())
    }
}
