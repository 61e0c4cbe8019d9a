//! Files as a source: the inputs, in the order given, are one topic.
//!
//! A record's offset is its line number in that whole, from 0. A line ends at LF or CRLF, and at the end of an input; blank lines
//! (spaces and tabs at most) are counted and skipped. Its key is the payload's `tenant_id`; it is in the partition that
//! Kafka's default partitioner gives the key, a record without a readable key in partition 0. Its timestamp is the
//! payload's `ingestion_timestamp`, else its `event_timestamp`, else that of the line before (the epoch for the first).
//! Lines of an access log are translated first; see [`crate::access_log`].
//!
//! Two threads work ahead of the caller by a few megabytes: one reads and decompresses, one cuts lines, translates
//! and sorts records into partitions. What is there is delivered at once where the caller waits, and in large
//! batches where it does not, so a slow pipe has no delay and a fast file no overhead.
//!
//! A source that starts in the middle reads from the first line and passes over what is not wanted. That is
//! little more than looking for line ends: the timestamp of a line that has none of its own is found by looking back,
//! and of a log's lines only a hash is taken, for their ids.

mod cut;
mod read;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use subscription_core::{
    Error, ErrorKind, Placement, RecordBatch, Result, Source, SourceEvent, SourceIdentity, SourceProgress,
};
use tokio::sync::mpsc;

use crate::access_log::LogOptions;

/// Where lines come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Standard input.
    Stdin,
    /// A file: plain, gzip or zstd, told by how it begins.
    File(PathBuf),
}

impl From<PathBuf> for Input {
    /// `-` is standard input.
    fn from(path: PathBuf) -> Self {
        if path.as_os_str() == "-" { Self::Stdin } else { Self::File(path) }
    }
}

impl std::fmt::Display for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What the lines of the inputs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Told for each input by its first line that is recognised.
    #[default]
    Auto,
    /// Events, one JSON object a line.
    Events,
    /// Access logs.
    AccessLog,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Events, Self::AccessLog];

    /// The format's name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Events => "events",
            Self::AccessLog => "access-log",
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| "expected auto, events or access-log".to_owned())
    }
}

/// How inputs become records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOptions {
    /// How many partitions the topic has, at least 1.
    pub partitions: u32,
    /// What the lines are.
    pub format: Format,
    /// How lines of access logs become events.
    pub log: LogOptions,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { partitions: 8, format: Format::Auto, log: LogOptions::default() }
    }
}

/// The topic that files are.
pub const TOPIC: &str = "file";

/// A [`Source`] of files.
#[derive(Debug)]
pub struct FileSource {
    inputs: Vec<Input>,
    options: Arc<FileOptions>,
    total: Option<u64>,
    state: State,
    ready: VecDeque<RecordBatch>,
    /// Bytes of the inputs that are delivered once `ready` is empty.
    ready_done: u64,
    progress: SourceProgress,
    failed: Arc<AtomicBool>,
}

#[derive(Debug)]
enum State {
    New,
    Assigned(BTreeMap<u32, u64>),
    Reading(mpsc::Receiver<Result<cut::Delivery>>),
    Ended,
    Failed,
}

impl FileSource {
    /// Looks at the inputs, and reads none yet.
    ///
    /// # Errors
    /// Where an input is missing, a folder or not readable, and where `-` is given twice or there are no partitions.
    pub fn open(inputs: Vec<Input>, options: FileOptions) -> Result<Self> {
        let wrong = |message: &str, help: &str| Err(Error::new(ErrorKind::Configuration, message).with_help(help));
        if options.partitions == 0 {
            return wrong("a topic has at least one partition", "give a number from 1 on, such as 8");
        }
        if inputs.is_empty() {
            return wrong("there is no input", "name at least one file, or - for standard input");
        }
        if inputs.iter().filter(|input| **input == Input::Stdin).count() > 1 {
            return wrong("standard input can be read once only", "give - once");
        }
        let sizes = inputs.iter().map(read::check).collect::<Result<Vec<_>>>()?;
        let total = sizes.into_iter().sum();
        Ok(Self {
            inputs,
            options: options.into(),
            total,
            state: State::New,
            ready: VecDeque::new(),
            ready_done: 0,
            progress: SourceProgress::default(),
            failed: Arc::default(),
        })
    }

    /// Becomes true when the source fails: tells an error of the input from one of the lake.
    pub fn failed(&self) -> Arc<AtomicBool> {
        self.failed.clone()
    }

    fn fail(&mut self, error: Error) -> Error {
        self.failed.store(true, Ordering::Relaxed);
        self.state = State::Failed;
        error
    }
}

fn progress(done: u64, total: Option<u64>) -> SourceProgress {
    let mut progress = SourceProgress::default();
    (progress.done, progress.total) = (done, total);
    progress
}

#[async_trait]
impl Source for FileSource {
    fn topic(&self) -> &str {
        TOPIC
    }

    async fn identity(&mut self) -> Result<SourceIdentity> {
        let log = &self.options.log;
        let mut settings = vec![
            ("format".to_owned(), self.options.format.as_str().to_owned()),
            ("partitioner".to_owned(), "murmur2".to_owned()),
        ];
        if self.options.format != Format::Events {
            settings.push(("log_plans".to_owned(), log.plans.fingerprint()));
            settings.push(("log_tenant_by".to_owned(), log.tenant_by.to_string()));
            settings.extend(log.default_tenant.iter().map(|t| ("log_default_tenant".to_owned(), t.clone())));
        }
        settings.sort_unstable();
        Ok(SourceIdentity { partitions: self.options.partitions, settings, placement: Some(Placement::Unchecked) })
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                if self.ready.is_empty() {
                    self.progress = progress(self.ready_done, self.total);
                }
                return Ok(SourceEvent::Records(batch));
            }
            match &mut self.state {
                State::New => {
                    self.state = State::Assigned(BTreeMap::new());
                    return Ok(SourceEvent::Assigned((0..self.options.partitions).collect()));
                }
                // The inputs are read once, for all partitions; each start ends this wait, as the caller then asks again.
                State::Assigned(starts) if starts.len() < self.options.partitions as usize => {
                    return std::future::pending().await;
                }
                State::Assigned(starts) => {
                    let starts = std::mem::take(starts);
                    self.state = State::Reading(cut::spawn(self.inputs.clone(), self.options.clone(), starts)?);
                }
                // Nothing is lost where this future is dropped: receiving is safe to cancel, and what was received is kept.
                State::Reading(deliveries) => match deliveries.recv().await {
                    Some(Ok(delivery)) => {
                        self.ready.extend(delivery.batches);
                        self.ready_done = delivery.done;
                        if delivery.last {
                            self.state = State::Ended;
                        }
                    }
                    Some(Err(error)) => return Err(self.fail(error)),
                    None => {
                        return Err(self.fail(Error::new(ErrorKind::Invariant, "a thread that reads the inputs died")));
                    }
                },
                State::Ended => {
                    self.progress = progress(self.total.unwrap_or(self.ready_done), self.total);
                    return Ok(SourceEvent::End);
                }
                State::Failed => return Err(Error::new(ErrorKind::Other, "the input could not be read to its end")),
            }
        }
    }

    async fn start(&mut self, partition: u32, from: u64) -> Result<()> {
        match &mut self.state {
            State::Assigned(starts) if partition < self.options.partitions && !starts.contains_key(&partition) => {
                starts.insert(partition, from);
                Ok(())
            }
            _ => Err(Error::new(ErrorKind::Invariant, "partition was started that is not assigned, or twice")
                .with("partition", partition)),
        }
    }

    async fn acknowledge(&mut self, _positions: &[(u32, u64)]) -> Result<()> {
        Ok(())
    }

    async fn release(&mut self, _partitions: &[u32]) -> Result<()> {
        Ok(())
    }

    fn progress(&self) -> SourceProgress {
        self.progress
    }
}

#[cfg(test)]
mod tests;
