//! Where records come from.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::record::RecordBatch;

/// What a source has to say.
#[derive(Debug)]
#[non_exhaustive]
pub enum SourceEvent {
    /// These partitions are now this process's. No record of them comes before [`Source::start`] is called for them.
    Assigned(Vec<u32>),
    /// These partitions go to another process. The caller commits what is pending and calls [`Source::release`] within
    /// the deadline; records of them that come later are dropped by the source.
    Revoked {
        /// The partitions.
        partitions: Vec<u32>,
        /// How long the caller may take.
        deadline: Duration,
    },
    /// These partitions went to another process already: the caller drops what is pending and commits nothing.
    Lost(Vec<u32>),
    /// Records of a started partition. Spans of one partition follow each other without overlap: each begins where
    /// the one before it ended (the first: at the offset given to [`Source::start`]).
    Records(RecordBatch),
    /// The input has an end, and it is here: every assigned partition was started and has had its records up to the
    /// end.
    End,
}

/// How far a source is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct SourceProgress {
    /// Units (bytes of files, records of a topic) delivered, those skipped at the start included.
    pub done: u64,
    /// Units there are in all, where that is known.
    pub total: Option<u64>,
}

/// A topic: records in partitions, each record at an offset.
///
/// # Contract
/// * The same offset of a partition is the same record for ever: a source is read again after a crash, from an
///   offset that the lake names.
/// * `next` is called by one task at a time, and MUST be safe to cancel: nothing is lost when its future is dropped.
/// * After `Assigned` the caller calls `start` once for each of the partitions, then `next` again.
/// * An error that `is_retryable` may pass by itself; the source is asked again. Any other ends the run.
#[async_trait]
pub trait Source: Send {
    /// The topic's name, as the lake knows it.
    fn topic(&self) -> &str;

    /// How many partitions the topic has, and what else of the source decides which record is where: a JSON object
    /// that is kept in the lake and compared at each start.
    async fn identity(&mut self) -> Result<SourceIdentity>;

    /// Waits for what comes next.
    async fn next(&mut self) -> Result<SourceEvent>;

    /// Begins, or goes on, to deliver a partition from offset `from` on.
    async fn start(&mut self, partition: u32, from: u64) -> Result<()>;

    /// Tells that everything before `position` is durable in the lake. May be dropped; only information for others.
    async fn acknowledge(&mut self, positions: &[(u32, u64)]) -> Result<()>;

    /// Tells that the caller is done with revoked partitions.
    async fn release(&mut self, partitions: &[u32]) -> Result<()>;

    /// Whether a record's partition is that of its tenant by Kafka's default partitioner, so that a record elsewhere is
    /// misrouted. Default: not claimed, so not checked.
    fn routed_by_key(&self) -> bool {
        false
    }

    /// Another process has moved a position of this one's partitions. A source whose partitions move between processes
    /// gives up all of them, will announce with `Assigned` what it gets next, and answers true. Default: false, which
    /// ends the run.
    async fn rejoin(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// How far it is.
    fn progress(&self) -> SourceProgress {
        SourceProgress::default()
    }
}

/// What of a source must stay the same for a lake to make sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceIdentity {
    /// The number of partitions.
    pub partitions: u32,
    /// Settings that change which record is where or what is in it, as sorted name and value.
    pub settings: Vec<(String, String)>,
}
