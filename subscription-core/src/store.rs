//! The lake: where rows and positions are kept together.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::error::Result;
use crate::gold::{AlertRow, EndpointRow, UsageRow};
use crate::record::RecordBatch;
use crate::rows::{Admitted, DeadLetters, EventBatch};
use crate::time::Timestamp;

/// The tables of the lake, in the order in which a span reaches them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `dead_letter`
    DeadLetter,
    /// `bronze_api_usage`
    Bronze,
    /// `quarantine_silver`
    Quarantine,
    /// `silver_api_usage`
    Silver,
    /// `tenant_usage_1min`
    UsageMinute,
    /// `tenant_usage_hourly`
    UsageHour,
    /// `endpoint_usage_hourly`
    EndpointHour,
    /// `tenant_usage_monthly`
    UsageMonth,
    /// `enforcement_alerts`
    Alerts,
}

impl Table {
    /// Every table, in commit order.
    pub const ALL: [Self; 9] = [
        Self::DeadLetter,
        Self::Bronze,
        Self::Quarantine,
        Self::Silver,
        Self::UsageMinute,
        Self::UsageHour,
        Self::EndpointHour,
        Self::UsageMonth,
        Self::Alerts,
    ];

    /// The tables whose rows are replaced, in commit order.
    pub const GOLD: [Self; 5] =
        [Self::UsageMinute, Self::UsageHour, Self::EndpointHour, Self::UsageMonth, Self::Alerts];

    /// The table's name in the lake.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeadLetter => "dead_letter",
            Self::Bronze => "bronze_api_usage",
            Self::Quarantine => "quarantine_silver",
            Self::Silver => "silver_api_usage",
            Self::UsageMinute => "tenant_usage_1min",
            Self::UsageHour => "tenant_usage_hourly",
            Self::EndpointHour => "endpoint_usage_hourly",
            Self::UsageMonth => "tenant_usage_monthly",
            Self::Alerts => "enforcement_alerts",
        }
    }

    /// The table of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// The column that the table is partitioned by.
    pub const fn partition_column(self) -> &'static str {
        match self {
            Self::DeadLetter | Self::Bronze => "ingestion_date",
            Self::Quarantine => "quarantine_date",
            Self::Silver => "event_date",
            Self::UsageMonth => "month",
            Self::UsageMinute | Self::UsageHour | Self::EndpointHour | Self::Alerts => "window_date",
        }
    }

    /// Whether its rows are replaced rather than appended.
    pub const fn is_gold(self) -> bool {
        matches!(self, Self::UsageMinute | Self::UsageHour | Self::EndpointHour | Self::UsageMonth | Self::Alerts)
    }
}

/// A number that a commit keeps beside the position and that only grows; as of that position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// The watermark, in milliseconds since the epoch. Absent before the first accepted event.
    Watermark,
    /// The greatest ingestion time read, in milliseconds since the epoch.
    IngestionTime,
    /// Records read.
    Read,
    /// Records that are no JSON object.
    DeadLettered,
    /// Records that have a Silver row.
    Accepted,
    /// Valid records whose key was accepted before.
    Duplicates,
    /// Records that failed validation.
    Quarantined,
    /// Offsets that were skipped because the source no longer had their records.
    Skipped,
}

impl Counter {
    /// Every counter.
    pub const ALL: [Self; 8] = [
        Self::Watermark,
        Self::IngestionTime,
        Self::Read,
        Self::DeadLettered,
        Self::Accepted,
        Self::Duplicates,
        Self::Quarantined,
        Self::Skipped,
    ];

    /// The counter's name, as the lake stores it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Watermark => "watermark",
            Self::IngestionTime => "ingestion_time",
            Self::Read => "read",
            Self::DeadLettered => "dead_lettered",
            Self::Accepted => "accepted",
            Self::Duplicates => "duplicates",
            Self::Quarantined => "quarantined",
            Self::Skipped => "skipped",
        }
    }
}

/// The part of a table's commit that concerns one partition: `[from, to)` and the counters as of `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpan {
    /// The partition.
    pub partition: u32,
    /// The table's position before the commit. The store MUST refuse (kind `Fenced`) where its own differs.
    pub from: u64,
    /// The table's position after it.
    pub to: u64,
    /// Numbers to keep beside the position.
    pub counters: Vec<(Counter, i64)>,
}

/// One table's part of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableCommit {
    /// The table.
    pub table: Table,
    /// The partitions it moves. Rows of other partitions, or outside their span, are not written.
    pub spans: Vec<TableSpan>,
}

/// The place of a row in a Gold table: a file holds one contiguous range of these.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeKey {
    /// The start of the window.
    pub window_start: Timestamp,
    /// The tenant.
    pub tenant_id: Arc<str>,
}

/// The store's name for a stored range (for Delta: the file's path).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeId(pub Arc<str>);

/// A stored range of a Gold table: all rows of one partition with `first ≤ key ≤ last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeRef {
    /// The table.
    pub table: Table,
    /// The partition.
    pub partition: u32,
    /// The store's name for it.
    pub id: RangeId,
    /// The least key in it.
    pub first: RangeKey,
    /// The greatest key in it.
    pub last: RangeKey,
    /// How many rows it has.
    pub rows: u32,
}

/// Rows of a Gold table, sorted by key.
#[derive(Debug, Clone, PartialEq)]
pub enum GoldRows {
    /// Of `tenant_usage_1min`, `tenant_usage_hourly` or `tenant_usage_monthly`.
    Usage(Vec<UsageRow>),
    /// Of `endpoint_usage_hourly`.
    Endpoint(Vec<EndpointRow>),
    /// Of `enforcement_alerts`.
    Alerts(Vec<AlertRow>),
}

impl GoldRows {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Usage(rows) => rows.len(),
            Self::Endpoint(rows) => rows.len(),
            Self::Alerts(rows) => rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A range of a Gold table to write in place of others.
#[derive(Debug, Clone, PartialEq)]
pub struct RangeWrite {
    /// The table.
    pub table: Table,
    /// The partition.
    pub partition: u32,
    /// The stored ranges whose rows these replace; removed by the same commit. Several writes of one commit may name
    /// the same range (it was split); it is removed once.
    pub replaces: Vec<RangeId>,
    /// The least key of `rows`.
    pub first: RangeKey,
    /// The greatest key of `rows`.
    pub last: RangeKey,
    /// Never empty, sorted by key; all windows start on one UTC date (for months: in one month).
    pub rows: GoldRows,
}

/// What is committed together: the tables of a stage, in order, and the rows from which they take theirs.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The topic.
    pub topic: Arc<str>,
    /// The tables, in the order in which they MUST become visible.
    pub tables: Vec<TableCommit>,
    /// The rows of Bronze, `dead_letter`, Silver and quarantine: per partition in offset order and without overlap.
    /// The spans of the tables may begin within one.
    pub admitted: Vec<Arc<Admitted>>,
    /// The rows of Gold.
    pub ranges: Vec<RangeWrite>,
}

/// What a commit did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The names of the written ranges, in the order of [`Commit::ranges`].
    pub ranges: Vec<RangeId>,
    /// Bytes of data files written.
    pub bytes: u64,
    /// Data files written.
    pub files: u64,
}

/// Where one table stands in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TablePosition {
    /// The next offset; 0 where nothing was committed yet.
    pub position: u64,
    /// The numbers kept beside it, by rising counter.
    pub counters: Vec<(Counter, i64)>,
}

impl TablePosition {
    /// The value of a counter, where it was ever kept.
    pub fn counter(&self, counter: Counter) -> Option<i64> {
        self.counters.iter().find(|(c, _)| *c == counter).map(|(_, value)| *value)
    }
}

/// Where all tables stand in one partition, and the ranges that Gold has there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartitionState {
    /// By [`Table`] in the order of [`Table::ALL`].
    pub tables: [TablePosition; Table::ALL.len()],
    /// The stored ranges of all Gold tables, in any order.
    pub ranges: Vec<RangeRef>,
}

impl PartitionState {
    /// Where `table` stands.
    pub fn table(&self, table: Table) -> &TablePosition {
        &self.tables[table as usize]
    }

    /// The next offset of `table`.
    pub fn position(&self, table: Table) -> u64 {
        self.table(table).position
    }
}

/// The key of an accepted event: what deduplication compares.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AcceptedId {
    /// The tenant.
    pub tenant_id: Arc<str>,
    /// The event's id.
    pub event_id: Uuid,
    /// The event's time.
    pub event_timestamp: Timestamp,
}

/// A question to Silver: at which event times was this key accepted?
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdLookup {
    /// The partition.
    pub partition: u32,
    /// The tenant.
    pub tenant_id: Arc<str>,
    /// The event's id.
    pub event_id: Uuid,
    /// The first event time of interest.
    pub from: Timestamp,
    /// The last event time of interest, inclusive.
    pub to: Timestamp,
}

/// The lake.
///
/// # Contract
/// * A commit writes, for each of its tables in turn, the rows of its spans **and** the positions in one atomic step.
///   After a failure or a crash a prefix of the tables has the commit, never a part of a table.
/// * It MUST refuse with [`ErrorKind::Fenced`](crate::ErrorKind::Fenced) where a table's position is not `from`, and
///   then leaves that table and those after it as they were; checked atomically with the write, whatever other
///   processes do. A commit whose answer was lost may be made again: a table that already stands at `to` with this
///   process's write is taken as done.
/// * When it returns, the rows survive a power cut and every read that begins later sees them.
/// * The caller makes one commit a table at a time; reads run beside it.
/// * A cancelled call leaves each table either as it was or with the commit.
#[async_trait]
pub trait TableStore: Send + Sync {
    /// Where the tables stand for each of `partitions`, in that order. Also forgets whatever was cached of them: what
    /// is answered is as of now.
    async fn state(&self, topic: &str, partitions: &[u32]) -> Result<Vec<PartitionState>>;

    /// The partitions for which any table has a position.
    async fn partitions(&self, topic: &str) -> Result<Vec<u32>>;

    /// Makes the rows and positions of a stage durable.
    async fn commit(&self, commit: Arc<Commit>) -> Result<Committed>;

    /// Rows of Bronze of a partition at or after `from`, in offset order, as the records they were: about
    /// `max_bytes` of them, at least one; `None` where there are none. The batch's span is `[from, last offset + 1)`.
    async fn read_bronze(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        max_bytes: usize,
    ) -> Result<Option<RecordBatch>>;

    /// The row of Bronze or `dead_letter` with the greatest offset below `before`, as the record it was.
    async fn last_record(&self, topic: &str, partition: u32, before: u64) -> Result<Option<RecordBatch>>;

    /// Rows of `dead_letter` of a partition with `from ≤ offset < to`, as the records they were: at most `max_rows` of
    /// them. The span of the records is `[from, to)` where these are all, else it ends behind the last one.
    async fn read_dead_letters(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        to: u64,
        max_rows: usize,
    ) -> Result<DeadLetters>;

    /// Rows of Silver of a partition with `from ≤ offset < to`, in offset order: at most `max_rows` of them; empty
    /// where there are none.
    async fn read_silver(&self, topic: &str, partition: u32, from: u64, to: u64, max_rows: usize)
    -> Result<EventBatch>;

    /// For each partition the keys of its Silver rows with an event time not before the one given, in the order asked
    /// for. Many are asked for at once, as their rows may lie in the same files; no partition twice.
    async fn read_ids(&self, topic: &str, since: &[(u32, Timestamp)]) -> Result<Vec<Vec<AcceptedId>>>;

    /// For each question the event times in its range at which Silver has the key, in any order.
    async fn lookup(&self, topic: &str, questions: &[IdLookup]) -> Result<Vec<Vec<Timestamp>>>;

    /// The rows of stored ranges of Gold, in the order asked for.
    async fn load(&self, topic: &str, ranges: &[RangeRef]) -> Result<Vec<GoldRows>>;

    /// What the lake keeps of how it was filled, newest version first; see [`TableStore::put_settings`].
    async fn settings(&self) -> Result<Option<Settings>>;

    /// Keeps settings. MUST refuse with `Fenced` where a version not below `settings.version` is there.
    async fn put_settings(&self, settings: Settings) -> Result<()>;
}

/// How a lake is filled: what must not change under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Counts up from 1.
    pub version: u64,
    /// A JSON object; its meaning is the pipeline's.
    pub json: String,
}
