//! What a pipeline tells while it runs.

use std::time::Duration;

use subscription_core::{AlertRow, Counts, Partitioner, SourceProgress, Table};
use tokio::sync::broadcast;

/// Something that happened in a running pipeline.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PipelineEvent {
    /// These partitions are now this process's; catching up begins.
    Assigned {
        /// The partitions.
        partitions: Vec<u32>,
    },
    /// A partition's tables have caught up with Bronze; its records are read from the source from now on.
    CaughtUp {
        /// The partition.
        partition: u32,
        /// The offset at which reading goes on.
        position: u64,
    },
    /// These partitions are another process's now.
    Released {
        /// The partitions.
        partitions: Vec<u32>,
    },
    /// A commit was refused, as another process has moved a position: this one has dropped all that is not committed, and gets
    /// its partitions anew.
    Fenced {
        /// What was refused.
        error: String,
    },
    /// This process has committed its part up to the end, and waits until these partitions of others are too.
    WaitingForOthers {
        /// The partitions.
        partitions: Vec<u32>,
    },
    /// Rows are durable.
    Committed {
        /// The tables that moved.
        tables: Vec<Table>,
        /// The records whose rows in Silver or `dead_letter` became durable.
        records: u64,
        /// Bytes of data files written.
        bytes: u64,
        /// How long it took.
        took: Duration,
    },
    /// How far the run is; sent after every commit and at least once a second.
    Progress(Progress),
    /// Records were gone from the source and the pipeline goes on behind them. The ledger keeps how many offsets.
    Skipped {
        /// The partition.
        partition: u32,
        /// The first offset that is gone.
        from: u64,
        /// The first offset that is there.
        to: u64,
    },
    /// Records were quarantined because they are in another partition than their tenant's: a producer uses another
    /// partitioner or another key.
    Misrouted {
        /// The partition that they are in.
        partition: u32,
        /// How many since this was told last.
        records: u64,
        /// The tenant of the last of them.
        tenant_id: String,
        /// The partition of that tenant.
        belongs_to: u32,
        /// What the topic's producers choose the partition by, as the lake knows it.
        partitioner: Partitioner,
    },
    /// How many offsets each partition of this process holds beyond what was read, where the source knows that; sent
    /// after commits.
    Lag(Vec<(u32, u64)>),
    /// Alerts were raised. Their rows become durable with the next Gold commit.
    Alerts(Vec<AlertRow>),
    /// A call failed and will be made again.
    Retrying {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: String,
        /// How long until it is tried again.
        pause: Duration,
    },
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Records read by this run.
    pub read: u64,
    /// What became of the durable ones, from the beginning of the lake, summed over this process's partitions.
    pub counts: Counts,
    /// Records durable in Bronze or `dead_letter` by this run.
    pub durable: u64,
    /// How far the source is.
    pub source: SourceProgress,
    /// Payload bytes read and not yet committed.
    pub uncommitted_bytes: usize,
    /// Memory of the ids by which duplicates are known, in bytes: bounded by `max_dedup_ids` and `max_dedup_filter_bytes`.
    pub dedup_bytes: usize,
    /// Memory of Gold rows, in bytes: bounded by `max_gold_bytes`.
    pub gold_bytes: usize,
    /// Since the run began.
    pub elapsed: Duration,
}

/// The events of a pipeline, from the subscription on. A slow reader misses the oldest ones and no pipeline waits for it.
#[derive(Debug)]
pub struct EventStream(broadcast::Receiver<PipelineEvent>);

impl EventStream {
    /// The next event; `None` after the pipeline has gone.
    pub async fn next(&mut self) -> Option<PipelineEvent> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Events(broadcast::Sender<PipelineEvent>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::channel(1_024).0)
    }

    pub(crate) fn send(&self, event: PipelineEvent) {
        // Nobody listening is fine.
        let _ = self.0.send(event);
    }

    pub(crate) fn subscribe(&self) -> EventStream {
        EventStream(self.0.subscribe())
    }
}
