//! The rows of every table, taken from wherever they are.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::gold::{AlertRow, EndpointRow, UsageRow};
use crate::record::{Record, RecordBatch};
use crate::rows::{Admitted, EventBatch};
use crate::store::{GoldRows, Table, TableStore};
use crate::time::Timestamp;

/// All rows of all tables, in any order.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// `bronze_api_usage`
    pub bronze: Vec<RecordRow>,
    /// `dead_letter`; `None` where it is not known.
    pub dead_letter: Option<Vec<DeadLetterRow>>,
    /// `silver_api_usage`
    pub silver: Vec<SilverRows>,
    /// `quarantine_silver`; `None` where it is not known.
    pub quarantine: Option<Vec<QuarantineRow>>,
    /// `tenant_usage_1min`
    pub minute: Vec<UsageRow>,
    /// `tenant_usage_hourly`
    pub hour: Vec<UsageRow>,
    /// `endpoint_usage_hourly`
    pub endpoint: Vec<EndpointRow>,
    /// `tenant_usage_monthly`
    pub month: Vec<UsageRow>,
    /// `enforcement_alerts`
    pub alerts: Vec<AlertRow>,
}

/// A record: a row of `bronze_api_usage`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RecordRow {
    pub topic: Arc<str>,
    pub partition: u32,
    pub offset: u64,
    pub timestamp: Timestamp,
    pub key: Option<Bytes>,
    pub payload: Option<Bytes>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A row of `dead_letter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterRow {
    /// The record; of a payload that is too large the beginning.
    pub record: RecordRow,
    /// How long the payload was, in bytes.
    pub payload_len: u64,
    /// `empty_payload`, `too_large`, `invalid_utf8`, `not_json` or `not_an_object`.
    pub code: String,
    /// What was wrong. Not compared for `too_large`.
    pub error: String,
}

/// A row of `quarantine_silver`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct QuarantineRow {
    pub partition: u32,
    pub offset: u64,
    /// The record timestamp, which is the ingestion time.
    pub timestamp: Timestamp,
    pub payload: Bytes,
    pub event_id: Option<String>,
    pub tenant_id: Option<String>,
    /// `quality_check_errors`
    pub errors: Vec<String>,
}

/// Rows of `silver_api_usage` of one partition.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct SilverRows {
    pub partition: u32,
    pub events: EventBatch,
}

impl RecordRow {
    /// A record of a batch, whose payloads the row shares.
    pub fn new(batch: &RecordBatch, record: Record<'_>) -> Self {
        Self {
            topic: batch.topic().clone(),
            partition: batch.partition(),
            offset: record.offset(),
            timestamp: record.timestamp(),
            key: record.key().map(Bytes::copy_from_slice),
            payload: record.payload().map(|payload| batch.data().slice_ref(payload)),
            headers: record.headers().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect(),
        }
    }
}

impl Snapshot {
    /// All that a store has of a topic. What it cannot read back (`dead_letter` and quarantine) stays `None`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn read(store: &dyn TableStore, topic: &str, partitions: &[u32]) -> Result<Self> {
        const BATCH_BYTES: usize = 8 << 20;
        const BATCH_ROWS: usize = 10_000;
        let mut tables = Self::default();
        for (partition, state) in partitions.iter().copied().zip(store.state(topic, partitions).await?) {
            let mut from = 0;
            while let Some(batch) = store.read_bronze(topic, partition, from, BATCH_BYTES).await? {
                tables.bronze.extend(batch.iter().map(|record| RecordRow::new(&batch, record)));
                from = batch.to();
            }
            let (mut from, to) = (0, state.position(Table::Silver));
            loop {
                let events = store.read_silver(topic, partition, from, to, BATCH_ROWS).await?;
                let Some(last) = events.rows().last() else { break };
                from = last.offset + 1;
                tables.silver.push(SilverRows { partition, events });
            }
            for (range, rows) in state.ranges.iter().zip(store.load(topic, &state.ranges).await?) {
                tables.add_gold(range.table, rows);
            }
        }
        Ok(tables)
    }

    /// Adds rows of a Gold table.
    ///
    /// # Panics
    /// If the rows are not of that table's kind.
    pub fn add_gold(&mut self, table: Table, rows: GoldRows) {
        match (table, rows) {
            (Table::UsageMinute, GoldRows::Usage(rows)) => self.minute.extend(rows),
            (Table::UsageHour, GoldRows::Usage(rows)) => self.hour.extend(rows),
            (Table::UsageMonth, GoldRows::Usage(rows)) => self.month.extend(rows),
            (Table::EndpointHour, GoldRows::Endpoint(rows)) => self.endpoint.extend(rows),
            (Table::Alerts, GoldRows::Alerts(rows)) => self.alerts.extend(rows),
            (table, _) => panic!("{} cannot hold rows of that kind", table.name()),
        }
    }

    /// Adds what the admit engine made of a batch of records.
    pub fn add_admitted(&mut self, admitted: &Admitted) {
        let batch = &admitted.records;
        let mut dead = admitted.dead.iter().peekable();
        for (index, record) in batch.iter().enumerate() {
            let row = RecordRow::new(batch, record);
            match dead.next_if(|dead| dead.index as usize == index) {
                None => self.bronze.push(row),
                Some(dead) => self.dead_letter.get_or_insert_default().push(DeadLetterRow {
                    record: row,
                    payload_len: record.payload_len(),
                    code: dead.code.to_owned(),
                    error: dead.error.clone(),
                }),
            }
        }
        self.dead_letter.get_or_insert_default();
        self.quarantine.get_or_insert_default().extend(admitted.quarantined.iter().map(|quarantined| {
            let record = batch.get(quarantined.index as usize);
            QuarantineRow {
                partition: batch.partition(),
                offset: record.offset(),
                timestamp: record.timestamp(),
                payload: record.payload().map(|payload| batch.data().slice_ref(payload)).unwrap_or_default(),
                event_id: quarantined.event_id.clone(),
                tenant_id: quarantined.tenant_id.clone(),
                errors: quarantined.errors.clone(),
            }
        }));
        if !admitted.accepted.is_empty() {
            self.silver.push(SilverRows { partition: batch.partition(), events: admitted.accepted.clone() });
        }
    }
}
