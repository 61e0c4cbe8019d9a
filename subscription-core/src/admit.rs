//! The admit engine: records in offset order become rows of Bronze and Silver.

mod prepared;

use std::collections::HashMap;
use std::sync::Arc;

use crate::dedup::{AdmitLimits, BatchIds, IdMemory};
use crate::error::{Error, ErrorKind, Result};
use crate::partition::Routing;
use crate::plan::Catalog;
use crate::rows::{Admitted, Counts, EventBatch};
use crate::rules::Rules;
use crate::store::{AcceptedId, IdLookup};
use crate::time::Timestamp;
pub use prepared::Prepared;

/// How many keys are made at a time: enough to wait for memory together, few enough to stay in the nearest cache.
const KEYS_AT_ONCE: usize = 256;

/// What the engines of all partitions share.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The numbers that decide which rows come out.
    pub rules: Rules,
    /// The plans.
    pub catalog: Arc<Catalog>,
    /// How the source distributes records over partitions by `tenant_id`; `None` where it does not, or where no record
    /// can be in another partition.
    pub routing: Option<Routing>,
    /// How much is remembered of accepted ids, by the engines of all partitions together.
    pub limits: AdmitLimits,
}

/// Where a partition stands, as its Silver table tells: see [`Counter`](crate::Counter).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdmitStart {
    /// The next offset.
    pub position: u64,
    /// The counts of the records before it.
    pub counts: Counts,
    /// The watermark; `None` before the first accepted event.
    pub watermark: Option<Timestamp>,
    /// The greatest record timestamp read; `None` before the first record.
    pub ingestion_time: Option<Timestamp>,
}

/// What [`AdmitEngine::ahead`] has seen of the batches that wait. Begins empty, and is to be emptied when none waits.
#[derive(Debug, Clone, Default)]
pub struct Ahead {
    /// The greatest time at which each id that was seen is, or may be, accepted.
    ids: HashMap<(u64, [u64; 2]), Option<Timestamp>>,
    watermark: Option<Timestamp>,
}

/// One partition's state machine from records to accepted, duplicate, quarantined and dead ones.
///
/// It does no I/O and reads no clock. A batch goes through it in three steps:
/// [`AdmitEngine::prepare`] parses and validates, on any thread and ahead of time; [`AdmitEngine::lookups`] says what
/// has to be asked of the lake; [`AdmitEngine::apply`] decides. The rows are a function of the configuration and the
/// records alone: neither the cut into batches nor a restart nor a memory limit changes any.
///
/// ```
/// use std::sync::Arc;
/// use subscription_core::{AdmitEngine, AdmitStart, EngineConfig, RecordBatch, Timestamp};
///
/// # fn main() -> subscription_core::Result<()> {
/// let config = Arc::new(EngineConfig::default());
/// let mut engine = AdmitEngine::new(config.clone(), "usage".into(), 0, AdmitStart::default());
/// let mut records = RecordBatch::builder("usage".into(), 0, 0);
/// records.push(0, Timestamp::from_millis(1_700_000_000_000), None, Some(b"no JSON"));
/// let mut prepared = AdmitEngine::prepare(&config, records.finish(1));
/// assert!(engine.lookups(&mut prepared).is_empty(), "nothing to ask of the lake");
/// let admitted = engine.apply(prepared, &[])?;
/// assert_eq!(admitted.dead[0].code, "not_json");
/// assert_eq!(engine.position(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AdmitEngine {
    config: Arc<EngineConfig>,
    topic: Arc<str>,
    partition: u32,
    position: u64,
    counts: Counts,
    watermark: Option<Timestamp>,
    ingestion_time: Option<Timestamp>,
    ids: IdMemory,
}

impl Default for EngineConfig {
    /// The default rules, catalog and limits, for a source that does not distribute by tenant.
    fn default() -> Self {
        Self { rules: Rules::default(), catalog: Arc::default(), routing: None, limits: AdmitLimits::default() }
    }
}

impl AdmitEngine {
    /// An engine that goes on at `start`. Where that is not the beginning of the partition,
    /// [`AdmitEngine::remember`] has to follow.
    pub fn new(config: Arc<EngineConfig>, topic: Arc<str>, partition: u32, start: AdmitStart) -> Self {
        let AdmitStart { position, counts, watermark, ingestion_time } = start;
        let ids = IdMemory::new(config.limits.clone(), config.rules.lateness_ms, watermark);
        Self { config, topic, partition, position, counts, watermark, ingestion_time, ids }
    }

    /// Takes the ids of all Silver rows below the position with an event time not before the watermark; others do no
    /// harm. May be called for parts of them, before the first batch.
    pub fn remember(&mut self, ids: &[AcceptedId]) {
        let mut batch = BatchIds::with_capacity(ids.len());
        ids.iter().for_each(|id| batch.push(&id.tenant_id, id.event_id, id.event_timestamp));
        self.ids.remember(&batch);
        self.ids.end_batch(self.position, self.watermark);
    }

    /// Parses and validates a batch: the expensive part, which needs no engine and may run on any thread.
    ///
    /// # Panics
    /// If the batch and the texts that had to be unescaped are more than 4 GiB together.
    pub fn prepare(config: &EngineConfig, batch: crate::RecordBatch) -> Prepared {
        Prepared::new(config, batch)
    }

    /// What has to be asked of the lake before the batch can be applied: of which events only Silver can say whether
    /// they are duplicates. Usually nothing.
    ///
    /// To be called when all batches before this one were applied. The answers MUST be read after the call, and cover
    /// all rows below the position last told to [`AdmitEngine::visible`].
    pub fn lookups(&self, prepared: &mut Prepared) -> Vec<IdLookup> {
        prepared.asked.clear();
        prepared.asked_at = Some(self.position);
        let (Some(base), Some(watermark)) = (self.ids.base(), self.watermark) else {
            return Vec::new();
        };
        // Exact memory knows all about times from here on, unless the limit made it begin after the watermark.
        let known_from = if base <= watermark { base } else { Timestamp::MAX };
        let mut questions = Vec::new();
        for (index, time) in prepared.ids.times().enumerate().filter(|(_, time)| *time < known_from) {
            let key = self.ids.key(&prepared.ids, index);
            if let Some((from, to)) = self.ids.unknown(&key, time, self.watermark) {
                let row = &prepared.rows.rows()[index];
                let tenant_id = prepared.rows.text(row.tenant_id).into();
                prepared.asked.push(index as u32);
                questions.push(IdLookup { partition: self.partition, tenant_id, event_id: row.event_id, from, to });
            }
        }
        questions
    }

    /// The events of a batch that will be accepted whatever the lake says, before it can be applied: answers that it, or
    /// one before it, needs are still missing. An event that is not late never depends on one that is, so those that are
    /// left out are late ones, and the few others of which memory does not know all.
    ///
    /// To be called once for each batch, in their order, from the first that was not applied on. Changes nothing.
    pub fn ahead(&self, prepared: &Prepared, ahead: &mut Ahead) -> EventBatch {
        let lateness = self.config.rules.lateness_ms;
        let mut watermark = self.watermark.max(ahead.watermark);
        let mut rows = Vec::new();
        for (index, time) in prepared.ids.times().enumerate() {
            let least = watermark.unwrap_or(Timestamp::MIN);
            let key = self.ids.key(&prepared.ids, index);
            let latest = ahead.ids.entry(prepared.ids.identity(index)).or_default();
            if time < least || latest.is_some_and(|latest| latest >= least) || self.ids.has_since(&key, least) {
                continue;
            }
            *latest = (*latest).max(Some(time));
            if self.ids.unknown(&key, time, watermark).is_none() {
                rows.push(prepared.rows.rows[index]);
                watermark = watermark.max(Some(time.plus_millis(-lateness)));
            }
        }
        ahead.watermark = watermark;
        prepared.rows.with_rows(rows)
    }

    /// Decides on the records of a batch, one after the other. `answers` are the lake's, in the order of
    /// [`AdmitEngine::lookups`].
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Invariant`] where the batch is another partition's or overlaps those before it, where the
    /// answers are not those that were asked for, and where the ledger does not hold afterwards. The engine is not to
    /// be used after that.
    pub fn apply(&mut self, prepared: Prepared, answers: &[Vec<Timestamp>]) -> Result<Admitted> {
        self.check(&prepared, answers)?;
        let Prepared { records, dead, quarantined, mut rows, ids, asked, ingestion_time, .. } = prepared;
        let lateness = self.config.rules.lateness_ms;
        let mut asked = asked.iter().zip(answers).peekable();
        let mut keys = Vec::with_capacity(KEYS_AT_ONCE);
        let mut kept = 0;
        for (index, time) in ids.times().enumerate() {
            if index % KEYS_AT_ONCE == 0 {
                self.ids.keys(&ids, index..ids.len().min(index + KEYS_AT_ONCE), &mut keys);
            }
            let mut key = keys[index % KEYS_AT_ONCE];
            if key.is_unseen() {
                key = self.ids.key(&ids, index);
            }
            let answer: &[Timestamp] = asked.next_if(|(at, _)| **at as usize == index).map_or(&[], |(_, times)| times);
            let known = match self.watermark {
                Some(watermark) if time < watermark => self.ids.has_at(&key, time) || answer.contains(&time),
                watermark => {
                    let watermark = watermark.unwrap_or(Timestamp::MIN);
                    self.ids.has_since(&key, watermark) || answer.iter().any(|at| *at >= watermark)
                }
            };
            if known {
                continue;
            }
            let watermark = self.watermark.unwrap_or(Timestamp::MIN).max(time.plus_millis(-lateness));
            self.watermark = Some(watermark);
            self.ids.accept(&ids, index, key, watermark);
            if kept != index {
                rows.rows[kept] = rows.rows[index];
            }
            kept += 1;
        }
        rows.rows.truncate(kept);
        self.counts += Counts {
            read: records.len() as u64,
            dead_lettered: dead.len() as u64,
            accepted: kept as u64,
            duplicates: (ids.len() - kept) as u64,
            quarantined: quarantined.len() as u64,
        };
        if !self.counts.balanced() {
            return Err(self.invariant("the ledger does not hold").with("counts", format!("{:?}", self.counts)));
        }
        self.position = records.to();
        self.ingestion_time = self.ingestion_time.max(ingestion_time);
        self.ids.end_batch(self.position, self.watermark);
        Ok(Admitted { records, dead, quarantined, accepted: rows, counts: self.counts, watermark: self.watermark })
    }

    fn check(&self, prepared: &Prepared, answers: &[Vec<Timestamp>]) -> Result<()> {
        let records = &prepared.records;
        if records.topic() != &self.topic || records.partition() != self.partition {
            return Err(self
                .invariant("a batch of another partition")
                .with("batch", format!("{}/{}", records.topic(), records.partition())));
        }
        if records.from() < self.position {
            return Err(self.invariant("a batch overlaps those before it").with("from", records.from()));
        }
        if prepared.asked_at != Some(self.position) {
            return Err(self.invariant("a batch without lookups at this position"));
        }
        if prepared.asked.len() != answers.len() {
            let (asked, answers) = (prepared.asked.len(), answers.len());
            return Err(self.invariant("answers do not fit lookups").with("lookups", asked).with("answers", answers));
        }
        Ok(())
    }

    fn invariant(&self, message: &str) -> Error {
        Error::new(ErrorKind::Invariant, message)
            .with("topic", &self.topic)
            .with("partition", self.partition)
            .with("position", self.position)
    }

    /// Tells that the rows below `position` are durable and that reads of Silver which begin from now on show them.
    /// Until then their ids are held in memory.
    pub fn visible(&mut self, position: u64) {
        self.ids.visible(position);
    }

    /// Corrects what was read and how much of it were dead letters, after an engine that was fed from Bronze, where dead
    /// letters leave no row, has caught up with it.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Invariant`] where the ledger does not hold with these counts.
    pub fn set_source_counts(&mut self, read: u64, dead_lettered: u64) -> Result<()> {
        let counts = Counts { read, dead_lettered, ..self.counts };
        if !counts.balanced() {
            return Err(self
                .invariant("the ledger does not hold: bronze and silver disagree")
                .with("bronze rows", read.saturating_sub(dead_lettered))
                .with("records accounted for by silver", self.counts.bronze())
                .with_help("run `verify` on the lake; a table was changed by something else than a pipeline"));
        }
        self.counts = counts;
        Ok(())
    }

    /// Goes on with another configuration: a catalog that was loaded again. Limits stay as they were at the start.
    pub fn set_config(&mut self, config: Arc<EngineConfig>) {
        self.config = config;
    }

    /// The next offset.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How the records before the position were judged.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The greatest event time accepted, less the lateness; `None` before the first accepted event.
    pub fn watermark(&self) -> Option<Timestamp> {
        self.watermark
    }

    /// The greatest record timestamp read; `None` before the first record.
    pub fn ingestion_time(&self) -> Option<Timestamp> {
        self.ingestion_time
    }

    /// The memory that remembered ids take, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.ids.bytes()
    }
}
