//! The rows of the lake in memory, in a form that tests can compare and print.

use std::borrow::Cow;

use uuid::Uuid;

use super::store::Partition;
use crate::event::ApiUsageEvent;
use crate::gold::{AlertRow, EndpointRow, UsageRow};
use crate::record::Record;
use crate::rows::{EventBatch, EventRow};
use crate::store::{GoldRows, Table};
use crate::time::Timestamp;

/// A record as a table holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StoredRecord {
    pub partition: u32,
    pub offset: u64,
    pub timestamp: Timestamp,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub payload_len: u64,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A row of `dead_letter`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StoredDeadLetter {
    pub record: StoredRecord,
    pub code: &'static str,
    pub error: String,
}

/// A row of `quarantine_silver`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StoredQuarantined {
    pub record: StoredRecord,
    pub event_id: Option<String>,
    pub tenant_id: Option<String>,
    pub errors: Vec<String>,
}

/// A row of `silver_api_usage`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct StoredEvent {
    pub partition: u32,
    pub offset: u64,
    /// The record timestamp.
    pub ingestion_timestamp: Timestamp,
    pub is_late: bool,
    /// Without the ingestion timestamp of the payload, which Silver does not keep.
    pub event: ApiUsageEvent<'static>,
}

/// All rows of a topic: of the records' tables by partition and offset, of Gold by window, tenant and what else makes
/// up the key.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct MemoryTables {
    pub bronze: Vec<StoredRecord>,
    pub dead_letter: Vec<StoredDeadLetter>,
    pub quarantine: Vec<StoredQuarantined>,
    pub silver: Vec<StoredEvent>,
    pub usage_minute: Vec<UsageRow>,
    pub usage_hour: Vec<UsageRow>,
    pub usage_month: Vec<UsageRow>,
    pub endpoint_hour: Vec<EndpointRow>,
    pub alerts: Vec<AlertRow>,
}

impl StoredRecord {
    pub(crate) fn new(partition: u32, record: &Record<'_>) -> Self {
        let header = |(name, value): (&str, Option<&[u8]>)| (name.to_owned(), value.map(<[u8]>::to_vec));
        Self {
            partition,
            offset: record.offset(),
            timestamp: record.timestamp(),
            key: record.key().map(<[u8]>::to_vec),
            payload: record.payload().map(<[u8]>::to_vec),
            payload_len: record.payload_len(),
            headers: record.headers().map(header).collect(),
        }
    }
}

impl StoredEvent {
    pub(crate) fn new(partition: u32, events: &EventBatch, row: &EventRow) -> Self {
        let text = |text| Cow::Owned(events.text(text).to_owned());
        let opt = |field: Option<_>| field.map(text);
        let label = |(name, value): (&str, &str)| (Cow::Owned(name.to_owned()), Cow::Owned(value.to_owned()));
        let event = ApiUsageEvent {
            event_id: row.event_id,
            schema_version: opt(row.schema_version),
            event_timestamp: row.event_timestamp,
            ingestion_timestamp: None,
            tenant_id: text(row.tenant_id),
            api_key_id: text(row.api_key_id),
            user_id: opt(row.user_id),
            endpoint: text(row.endpoint),
            http_method: row.http_method,
            api_version: opt(row.api_version),
            response_status_code: row.response_status_code,
            response_time_ms: row.response_time_ms,
            subscription_plan: text(row.subscription_plan),
            risk_score: row.risk_score,
            velocity_last_1min: row.velocity_last_1min,
            velocity_last_5min: row.velocity_last_5min,
            velocity_last_1hour: row.velocity_last_1hour,
            ip_address: opt(row.ip_address),
            country_code: opt(row.country_code),
            region: opt(row.region),
            user_agent: opt(row.user_agent),
            sdk_version: opt(row.sdk_version),
            request_size_bytes: row.request_size_bytes,
            response_size_bytes: row.response_size_bytes,
            request_id: opt(row.request_id),
            trace_id: opt(row.trace_id),
            emitter_id: opt(row.emitter_id),
            emitter_sequence: row.emitter_sequence,
            billable_units: row.billable_units,
            quota_cost: row.quota_cost,
            labels: events.labels(row).map(|labels| labels.map(label).collect()),
        };
        let EventRow { offset, ingestion_timestamp, is_late, .. } = *row;
        Self { partition, offset, ingestion_timestamp, is_late, event }
    }
}

impl MemoryTables {
    pub(super) fn add(&mut self, partition: u32, rows: &Partition) {
        let stored = |record: &Record<'_>| StoredRecord::new(partition, record);
        self.bronze.extend(rows.bronze().map(|record| stored(&record)));
        self.dead_letter.extend(rows.dead_letters().map(|(record, dead)| StoredDeadLetter {
            record: stored(&record),
            code: dead.code,
            error: dead.error.clone(),
        }));
        self.quarantine.extend(rows.quarantined().map(|(record, row)| StoredQuarantined {
            record: stored(&record),
            event_id: row.event_id.clone(),
            tenant_id: row.tenant_id.clone(),
            errors: row.errors.clone(),
        }));
        self.silver.extend(rows.silver().map(|(events, row)| StoredEvent::new(partition, events, row)));
        for range in rows.ranges.values() {
            match (&*range.rows, range.table) {
                (GoldRows::Usage(rows), Table::UsageMinute) => self.usage_minute.extend_from_slice(rows),
                (GoldRows::Usage(rows), Table::UsageHour) => self.usage_hour.extend_from_slice(rows),
                (GoldRows::Usage(rows), _) => self.usage_month.extend_from_slice(rows),
                (GoldRows::Endpoint(rows), _) => self.endpoint_hour.extend_from_slice(rows),
                (GoldRows::Alerts(rows), _) => self.alerts.extend_from_slice(rows),
            }
        }
    }

    pub(super) fn sort(&mut self) {
        for rows in [&mut self.usage_minute, &mut self.usage_hour, &mut self.usage_month] {
            rows.sort_by_cached_key(UsageRow::range_key);
        }
        self.endpoint_hour.sort_by_cached_key(|row| {
            (row.range_key(), row.endpoint.clone(), row.http_method, row.subscription_plan.clone())
        });
        self.alerts.sort_by_cached_key(|row| (row.range_key(), row.window_kind, row.alert_type, row.alert_id));
    }

    /// The (tenant, id) of every accepted event, in the order of [`MemoryTables::silver`].
    pub fn accepted_ids(&self) -> impl Iterator<Item = (&str, Uuid)> {
        self.silver.iter().map(|row| (&*row.event.tenant_id, row.event.event_id))
    }
}
