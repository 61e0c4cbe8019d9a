//! Where records come from.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::partition::Partitioner;
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

    /// What is to be learnt of the source before the first record of a new lake, and kept there. Asked again as long
    /// as [`Survey::placement`] is not known; never once it is. Default: nothing.
    async fn survey(&mut self) -> Result<Survey> {
        Ok(Survey { placement: Some(Placement::Unchecked), starts: Vec::new() })
    }

    /// The offsets that a partition holds now; `None` where the source forgets nothing. Default: `None`.
    async fn offsets(&mut self, _partition: u32) -> Result<Option<OffsetRange>> {
        Ok(None)
    }

    /// Where each partition was to end, of a source that ends there and whose partitions are shared with other processes:
    /// the run then ends when the lake has all of that, by whichever process. Default: `None`, the run ends with
    /// [`SourceEvent::End`].
    fn ends(&self) -> Option<Vec<u64>> {
        None
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

    /// How many offsets each of this process's partitions holds beyond what was delivered, as far as that is known.
    fn lag(&self) -> Vec<(u32, u64)> {
        Vec::new()
    }
}

/// What of a source must stay the same for a lake to make sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceIdentity {
    /// The number of partitions.
    pub partitions: u32,
    /// Settings that change which record is where or what is in it, as sorted name and value.
    pub settings: Vec<(String, String)>,
    /// How records are placed, where that is set or known beforehand; `None` where a survey has to find it out.
    pub placement: Option<Placement>,
}

/// How a source places records in partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// By nothing that could be checked, or by an own partitioner that is trusted.
    Unchecked,
    /// By a hash of the key, which is the tenant's id: a record elsewhere is misrouted.
    ByKey(Partitioner),
}

impl Placement {
    /// Its name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unchecked => "trust",
            Self::ByKey(partitioner) => partitioner.name(),
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "trust" { Some(Self::Unchecked) } else { Partitioner::from_name(name).map(Self::ByKey) }
    }
}

/// What is learnt of a source when a lake is first filled from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// How records are placed; `None` as long as there is no record to tell by.
    pub placement: Option<Placement>,
    /// The first offset of each partition that no longer begins at 0: what was before never belonged to the lake, so it
    /// is no gap.
    pub starts: Vec<(u32, u64)>,
}

/// The offsets that a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// The first one.
    pub first: u64,
    /// The one after the last that may be read now.
    pub end: u64,
}
