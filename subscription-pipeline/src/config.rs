//! What an operator can set without changing a row.

use std::time::Duration;

/// How a pipeline runs. None of these changes a row of any table, only when it appears and what it costs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PipelineConfig {
    /// How long a record may wait for its Bronze and Silver rows. Default 1 s.
    pub commit_interval: Duration,
    /// How long an event may wait for its Gold rows; for that of its endpoint three times as long. Default 10 s; never shorter
    /// than `commit_interval`. It stretches by itself to twenty times what a Gold commit takes, up to `max_gold_interval`.
    pub gold_interval: Duration,
    /// The longest that an event waits for a Gold row. Default 15 min.
    pub max_gold_interval: Duration,
    /// Threads that run the engines. Default: one a core.
    pub workers: usize,
    /// Payload bytes read and not yet committed; reading waits at this. Default 96 MiB. A commit is made early
    /// when half of it is reached.
    pub max_uncommitted_bytes: usize,
    /// Memory of Gold rows kept in the process; near it rows are packed, past it stored ones are dropped, and those that
    /// changed are committed early. Default 256 MiB. While a Gold commit is made, about a sixth more.
    pub max_gold_bytes: usize,
    /// Ids of accepted events held exactly, by all partitions together, at about 40 bytes each: those of the last hour of event
    /// time, or as many of them. Older ones go into filters. Default 24 million: an hour of 5,000 a second,
    /// and an eighth more, as the oldest are sorted out that often.
    pub max_dedup_ids: usize,
    /// Memory of those filters, at about 10 bits an id, for all partitions together; ids beyond are looked up in Silver.
    /// Default 128 MiB.
    pub max_dedup_filter_bytes: usize,
    /// What to do where the source no longer has records that come next. Default: end with an error.
    pub on_gap: OnGap,
    /// How calls that failed are tried again.
    pub retry: RetryPolicy,
}

/// What to do where records that come next are gone from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnGap {
    /// End with an error that says how many and from where.
    #[default]
    Fail,
    /// Go on where the source begins, and count the offsets in between in the ledger as skipped.
    Skip,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            commit_interval: Duration::from_secs(1),
            gold_interval: Duration::from_secs(10),
            max_gold_interval: Duration::from_secs(15 * 60),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            max_uncommitted_bytes: 96 << 20,
            max_gold_bytes: 256 << 20,
            max_dedup_ids: 24_000_000,
            max_dedup_filter_bytes: 128 << 20,
            on_gap: OnGap::default(),
            retry: RetryPolicy::default(),
        }
    }
}

/// How calls are tried again that failed with a retryable error: after a pause that doubles, with full jitter
/// (Brooker, "Exponential Backoff And Jitter", 2015).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The longest first pause. Default 100 ms.
    pub first: Duration,
    /// The longest pause. Default 10 s.
    pub longest: Duration,
    /// When to give up, counted from the first failure. Default 5 min.
    pub give_up: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(10),
            give_up: Duration::from_secs(5 * 60),
        }
    }
}
