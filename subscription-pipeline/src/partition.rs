//! One partition: its two engines, and how they catch up with what the lake holds.

use std::sync::Arc;

use subscription_core::{
    AcceptedId, AdmitEngine, AdmitStart, Admitted, AggregateEngine, Ahead, AlertRow, Counter, Counts, EngineConfig,
    Error, ErrorKind, EventBatch, GoldCut, PartitionState, Prepared, RecordBatch, Result, Table, TableStore, Timestamp,
};
use tokio::runtime::Handle;

use crate::counters::{Floors, ToldAhead};
use crate::pipeline::WorkerStart;
use crate::retry::Retry;
use crate::worker::Meanwhile;

/// Rows of Silver read at a time while Gold catches up, and bytes of Bronze while Silver does.
const CATCH_UP_ROWS: usize = 32_768;
const CATCH_UP_BYTES: usize = 8 << 20;

/// What the engines of all partitions share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) topic: Arc<str>,
    pub(crate) store: Arc<dyn TableStore>,
    pub(crate) retry: Retry,
    pub(crate) handle: Handle,
    /// To be told what tenants have used.
    pub(crate) floors: Option<Floors>,
    pub(crate) worker_start: Option<WorkerStart>,
}

/// What a partition is doing. Each phase ends where the table before it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Gold takes the rows of Silver from `at` on.
    Gold { at: u64 },
    /// Silver takes the rows of Bronze.
    Silver,
    /// Everything takes the records of the source.
    Live,
}

pub(crate) struct Partition {
    number: u32,
    shared: Shared,
    config: Arc<EngineConfig>,
    admit: AdmitEngine,
    aggregate: AggregateEngine,
    phase: Phase,
    /// Where Silver and Bronze stood at the start.
    silver: u64,
    bronze: u64,
    /// Records read and dead letters among them, as of `bronze`.
    bronze_counts: Counts,
    /// Offsets skipped so far because the source had lost their records.
    skipped: u64,
    misrouted: Option<Misrouted>,
    pending: Vec<Arc<Admitted>>,
    alerts: Vec<AlertRow>,
    ahead: LookedAhead,
}

/// What the counters were told of records that could not be applied yet.
#[derive(Default)]
struct LookedAhead {
    /// Of records up to here.
    to: u64,
    ids: Ahead,
    told: ToldAhead,
}

/// Records that are in another partition than their tenant's, since the last cut.
#[derive(Debug, Clone)]
pub(crate) struct Misrouted {
    pub(crate) records: u64,
    /// Of the last of them.
    pub(crate) tenant_id: String,
}

/// What a partition has for a commit.
pub(crate) struct PartitionCut {
    pub(crate) partition: u32,
    /// The position that Bronze and Silver reach with it.
    pub(crate) to: u64,
    pub(crate) counts: Counts,
    pub(crate) skipped: u64,
    pub(crate) misrouted: Option<Misrouted>,
    pub(crate) watermark: Option<Timestamp>,
    pub(crate) ingestion_time: Option<Timestamp>,
    pub(crate) admitted: Vec<Arc<Admitted>>,
    pub(crate) gold: Option<GoldCut>,
    /// Raised since the last Gold cut.
    pub(crate) alerts: Vec<AlertRow>,
}

impl Partition {
    /// A partition as the lake has it: an empty cache and the positions.
    pub(crate) fn new(
        shared: Shared,
        config: Arc<EngineConfig>,
        number: u32,
        state: &PartitionState,
        ids: &[AcceptedId],
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<Self> {
        let silver = state.table(Table::Silver);
        let bronze = state.table(Table::Bronze);
        let count = |position: &subscription_core::TablePosition, counter| {
            position.counter(counter).map_or(0, |value| value.max(0) as u64)
        };
        // Silver is fed from Bronze until it has caught up: dead letters are not seen, so not counted, before that.
        let mut counts = Counts {
            accepted: count(silver, Counter::Accepted),
            duplicates: count(silver, Counter::Duplicates),
            quarantined: count(silver, Counter::Quarantined),
            ..Counts::default()
        };
        counts.read = counts.accepted + counts.duplicates + counts.quarantined;
        let watermark = silver.counter(Counter::Watermark).map(Timestamp::from_millis);
        let start = AdmitStart {
            position: silver.position,
            counts,
            watermark,
            ingestion_time: silver.counter(Counter::IngestionTime).map(Timestamp::from_millis),
        };
        let mut admit = AdmitEngine::new(config.clone(), shared.topic.clone(), number, start);
        admit.remember(ids);
        let mut aggregate =
            AggregateEngine::new(Arc::new(config.rules.clone()), config.catalog.clone(), number, state)?;
        if let Some(floors) = &shared.floors {
            let ranges = floors.open_ranges(state);
            let read = || shared.store.load(&shared.topic, &ranges);
            let rows = meanwhile.wait(None, shared.retry.run("load open windows", read))?;
            for (range, rows) in ranges.iter().zip(rows) {
                floors.note_rows(range.table, &rows);
                aggregate.load(range, rows)?;
            }
        }
        Ok(Self {
            number,
            phase: Phase::Gold { at: aggregate.least_position() },
            silver: silver.position,
            bronze: bronze.position,
            bronze_counts: Counts {
                read: count(bronze, Counter::Read),
                dead_lettered: count(bronze, Counter::DeadLettered),
                ..Counts::default()
            },
            skipped: count(bronze, Counter::Skipped),
            misrouted: None,
            shared,
            config,
            admit,
            aggregate,
            pending: Vec::new(),
            alerts: Vec::new(),
            ahead: LookedAhead::default(),
        })
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Where the source is to begin.
    pub(crate) fn bronze_position(&self) -> u64 {
        self.bronze
    }

    /// Bytes of Gold rows that these tables do not have yet.
    pub(crate) fn dirty_bytes(&self, tables: &[Table]) -> usize {
        self.aggregate.dirty_bytes(tables)
    }

    pub(crate) fn dedup_bytes(&self) -> usize {
        self.admit.memory_bytes()
    }

    pub(crate) fn gold_bytes(&self) -> usize {
        self.aggregate.memory_bytes()
    }

    /// Payload bytes that wait for a commit.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.iter().map(|admitted| admitted.records.memory()).sum()
    }

    /// One step of catching up; answers the bytes that now wait for a commit besides.
    pub(crate) fn catch_up(&mut self, meanwhile: &mut Meanwhile<'_>) -> Result<usize> {
        match self.phase {
            Phase::Gold { at } if at < self.silver => {
                let shared = self.shared.clone();
                let (number, to) = (self.number, self.silver);
                let read = || shared.store.read_silver(&shared.topic, number, at, to, CATCH_UP_ROWS);
                let rows = meanwhile.wait(Some(self), shared.retry.run("read silver", read))?;
                let to = match rows.rows().last() {
                    Some(last) if rows.rows().len() >= CATCH_UP_ROWS => last.offset + 1,
                    _ => self.silver,
                };
                self.take_rows(&rows, to, meanwhile)?;
                self.phase = Phase::Gold { at: to };
                Ok(0)
            }
            Phase::Gold { .. } => {
                self.phase = Phase::Silver;
                Ok(0)
            }
            Phase::Silver => {
                let at = self.admit.position();
                if at < self.bronze {
                    let shared = self.shared.clone();
                    let number = self.number;
                    let read = || shared.store.read_bronze(&shared.topic, number, at, CATCH_UP_BYTES);
                    let batch = meanwhile.wait(Some(self), shared.retry.run("read bronze", read))?;
                    let batch = match batch {
                        Some(batch) if batch.to() > self.bronze => {
                            return Err(Error::new(
                                ErrorKind::Fenced,
                                "another process writes this partition of the lake",
                            )
                            .with("table", Table::Bronze.name())
                            .with("partition", self.number));
                        }
                        Some(batch) => batch,
                        // Bronze may end in dead letters, which leave no row there.
                        None => RecordBatch::builder(shared.topic.clone(), self.number, at).finish(self.bronze),
                    };
                    return self.take_records(AdmitEngine::prepare(&self.config, batch), meanwhile);
                }
                self.admit.set_source_counts(self.bronze_counts.read, self.bronze_counts.dead_lettered)?;
                self.phase = Phase::Live;
                Ok(0)
            }
            Phase::Live => Ok(0),
        }
    }

    /// Runs records through both engines; answers the bytes that now wait for a commit besides.
    pub(crate) fn take_records(&mut self, mut prepared: Prepared, meanwhile: &mut Meanwhile<'_>) -> Result<usize> {
        let bytes = prepared.records().memory();
        let questions = self.admit.lookups(&mut prepared);
        let answers = if questions.is_empty() {
            Vec::new()
        } else {
            self.look_ahead(&prepared);
            let shared = self.shared.clone();
            let read = || shared.store.lookup(&shared.topic, &questions);
            meanwhile.wait(Some(self), shared.retry.run("look up ids", read))?
        };
        let admitted = self.admit.apply(prepared, &answers)?;
        self.take_rows(&admitted.accepted, admitted.records.to(), meanwhile)?;
        self.note_misrouted(&admitted);
        self.pending.push(Arc::new(admitted));
        Ok(bytes)
    }

    /// Tells the counters of records that cannot be applied yet, as far as it is sure what becomes of them.
    pub(crate) fn look_ahead(&mut self, prepared: &Prepared) {
        let Some(floors) = &self.shared.floors else { return };
        let to = prepared.records().to();
        if to > self.ahead.to {
            let sure = self.admit.ahead(prepared, &mut self.ahead.ids);
            floors.note_ahead(&sure, &self.aggregate, &mut self.ahead.told);
            self.ahead.to = to;
        }
    }

    /// Goes on at `to`: the records before it are gone from the source.
    pub(crate) fn skip(&mut self, to: u64, counted: u64, meanwhile: &mut Meanwhile<'_>) -> Result<()> {
        let at = self.admit.position();
        if at < to {
            let none = RecordBatch::builder(self.shared.topic.clone(), self.number, at).finish(to);
            self.take_records(AdmitEngine::prepare(&self.config, none), meanwhile)?;
            self.skipped += counted;
        }
        Ok(())
    }

    fn note_misrouted(&mut self, admitted: &Admitted) {
        let is_misrouted = |errors: &[String]| errors.iter().any(|error| error == "misrouted:tenant_id");
        for row in admitted.quarantined.iter().filter(|row| is_misrouted(&row.errors)) {
            let tenant_id = row.tenant_id.clone().unwrap_or_default();
            let records = self.misrouted.as_ref().map_or(0, |misrouted| misrouted.records) + 1;
            self.misrouted = Some(Misrouted { records, tenant_id });
        }
    }

    fn take_rows(&mut self, rows: &EventBatch, to: u64, meanwhile: &mut Meanwhile<'_>) -> Result<()> {
        let ranges = self.aggregate.lookups(rows);
        // While Gold catches up, some of its tables have counted the rows already.
        let counted = matches!(self.phase, Phase::Gold { .. });
        if let Some(floors) = self.shared.floors.as_ref().filter(|_| !ranges.is_empty() && !counted)
            && to > self.ahead.to
        {
            floors.note_ahead(rows, &self.aggregate, &mut self.ahead.told);
            self.ahead.to = to;
        }
        self.load(&ranges, meanwhile)?;
        let raised = self.aggregate.apply(rows, to)?;
        if to >= self.ahead.to {
            self.ahead = LookedAhead::default();
        }
        if let Some(floors) = &self.shared.floors {
            floors.note(rows, &self.aggregate);
        }
        self.alerts.extend(raised);
        Ok(())
    }

    fn load(&mut self, ranges: &[subscription_core::RangeRef], meanwhile: &mut Meanwhile<'_>) -> Result<()> {
        if ranges.is_empty() {
            return Ok(());
        }
        let shared = self.shared.clone();
        let read = || shared.store.load(&shared.topic, ranges);
        let loaded = meanwhile.wait(Some(self), shared.retry.run("load windows", read))?;
        for (range, rows) in ranges.iter().zip(loaded) {
            self.aggregate.load(range, rows)?;
        }
        Ok(())
    }

    /// What is to be committed: all records that were taken so far, and what these tables of Gold do not have yet.
    pub(crate) fn cut(&mut self, gold: Option<&[Table]>, meanwhile: &mut Meanwhile<'_>) -> Result<PartitionCut> {
        let (gold, alerts) = if let Some(tables) = gold {
            let ranges = self.aggregate.cut_lookups(tables);
            self.load(&ranges, meanwhile)?;
            (Some(self.aggregate.cut(tables)?), std::mem::take(&mut self.alerts))
        } else {
            (None, Vec::new())
        };
        Ok(PartitionCut {
            partition: self.number,
            to: self.admit.position(),
            counts: self.admit.counts(),
            skipped: self.skipped,
            misrouted: self.misrouted.take(),
            watermark: self.admit.watermark(),
            ingestion_time: self.admit.ingestion_time(),
            admitted: std::mem::take(&mut self.pending),
            gold,
            alerts,
        })
    }

    /// Silver's rows below `position` are durable and visible.
    pub(crate) fn silver_visible(&mut self, position: u64) {
        self.admit.visible(position);
    }

    /// The Gold cut is durable, under these names.
    pub(crate) fn gold_committed(&mut self, ranges: &[subscription_core::RangeId]) -> Result<()> {
        self.aggregate.committed(ranges)
    }

    /// Drops what is clean above `max_bytes` of Gold rows.
    pub(crate) fn evict(&mut self, max_bytes: usize) {
        self.aggregate.evict(max_bytes);
    }
}
