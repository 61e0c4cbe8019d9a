//! A batch parsed and validated: all that can be said of its records without knowing those before.

use std::borrow::Cow;

use bytes::Bytes;

use super::EngineConfig;
use crate::dedup::BatchIds;
use crate::event::ApiUsageEvent;
use crate::record::{Record, RecordBatch, Text};
use crate::rows::{DeadLetter, EventBatch, EventRow, Quarantined};
use crate::time::Timestamp;
use crate::validate::{ContentMode, Invalid, Judged, check_business};

/// A batch that [`AdmitEngine::prepare`](crate::AdmitEngine::prepare) made ready to be applied.
#[derive(Debug)]
pub struct Prepared {
    pub(super) records: RecordBatch,
    pub(super) dead: Vec<DeadLetter>,
    pub(super) quarantined: Vec<Quarantined>,
    /// The valid events, of which the duplicates are still to be taken out.
    pub(super) rows: EventBatch,
    /// The key and time of each row.
    pub(super) ids: BatchIds,
    /// The greatest record timestamp.
    pub(super) ingestion_time: Option<Timestamp>,
    /// The rows that the lake is asked about, by rising index, and the engine's position when that was found out.
    pub(super) asked: Vec<u32>,
    pub(super) asked_at: Option<u64>,
}

impl Prepared {
    pub(super) fn new(config: &EngineConfig, records: RecordBatch) -> Self {
        let (mut dead, mut quarantined) = (Vec::new(), Vec::new());
        let mut ids = BatchIds::with_capacity(records.len());
        let mut rows = RowsBuilder::new(&records);
        let routing = config.routing.filter(|r| r.partitions > 0).map(|r| (records.partition(), r));
        let mut ingestion_time = None;
        for (index, record) in records.iter().enumerate() {
            let index = index as u32;
            ingestion_time = ingestion_time.max(Some(record.timestamp()));
            match record.judge() {
                Judged::Dead { code, error } => dead.push(DeadLetter { index, code, error }),
                Judged::Invalid(Invalid { event_id, tenant_id, errors }) => {
                    quarantined.push(Quarantined { index, event_id, tenant_id, errors });
                }
                Judged::Valid(event) => {
                    let errors = check_business(&event, record.timestamp(), &config.rules, &config.catalog, routing);
                    if errors.is_empty() {
                        ids.push(&event.tenant_id, event.event_id, event.event_timestamp);
                        rows.push(&record, &event, config.rules.lateness_ms);
                    } else {
                        let event_id = given_event_id(&record, &event);
                        let tenant_id = Some(event.tenant_id.into_owned());
                        quarantined.push(Quarantined { index, event_id: Some(event_id), tenant_id, errors });
                    }
                }
            }
        }
        let rows = rows.finish();
        Self { records, dead, quarantined, rows, ids, ingestion_time, asked: Vec::new(), asked_at: None }
    }

    /// The records.
    pub fn records(&self) -> &RecordBatch {
        &self.records
    }

    /// The memory that the batch holds, in bytes, without that of its records.
    pub fn memory(&self) -> usize {
        self.rows.memory() + self.ids.bytes()
    }
}

/// The id as the payload spells it, which may be in capitals.
fn given_event_id(record: &Record<'_>, event: &ApiUsageEvent<'_>) -> String {
    record
        .payload()
        .and_then(|payload| serde_json::from_slice::<serde_json::Value>(payload).ok())
        .and_then(|value| match record.content_mode() {
            ContentMode::Binary => Some(value.get("event_id")?.as_str()?.to_owned()),
            ContentMode::Structured => Some(value.get("data")?.get("event_id")?.as_str()?.to_owned()),
        })
        .unwrap_or_else(|| event.event_id.to_string())
}

/// Makes rows whose texts point into the records' bytes where the events' do.
struct RowsBuilder {
    base: Bytes,
    extra: Vec<u8>,
    rows: Vec<EventRow>,
    labels: Vec<(Text, Text)>,
}

impl RowsBuilder {
    fn new(records: &RecordBatch) -> Self {
        Self {
            base: records.data().clone(),
            extra: Vec::new(),
            rows: Vec::with_capacity(records.len()),
            labels: Vec::new(),
        }
    }

    fn finish(self) -> EventBatch {
        EventBatch { base: self.base, extra: self.extra.into(), rows: self.rows, labels: self.labels }
    }

    fn push(&mut self, record: &Record<'_>, event: &ApiUsageEvent<'_>, lateness_ms: i64) {
        let ingestion = record.timestamp();
        let age = ingestion.millis().saturating_sub(event.event_timestamp.millis());
        let row = EventRow {
            offset: record.offset(),
            ingestion_timestamp: ingestion,
            event_timestamp: event.event_timestamp,
            is_late: age > lateness_ms,
            event_id: event.event_id,
            schema_version: self.opt_text(&event.schema_version),
            tenant_id: self.text(&event.tenant_id),
            api_key_id: self.text(&event.api_key_id),
            user_id: self.opt_text(&event.user_id),
            endpoint: self.text(&event.endpoint),
            http_method: event.http_method,
            api_version: self.opt_text(&event.api_version),
            response_status_code: event.response_status_code,
            response_time_ms: event.response_time_ms,
            subscription_plan: self.text(&event.subscription_plan),
            risk_score: event.risk_score,
            velocity_last_1min: event.velocity_last_1min,
            velocity_last_5min: event.velocity_last_5min,
            velocity_last_1hour: event.velocity_last_1hour,
            ip_address: self.opt_text(&event.ip_address),
            country_code: self.opt_text(&event.country_code),
            region: self.opt_text(&event.region),
            user_agent: self.opt_text(&event.user_agent),
            sdk_version: self.opt_text(&event.sdk_version),
            request_size_bytes: event.request_size_bytes,
            response_size_bytes: event.response_size_bytes,
            request_id: self.opt_text(&event.request_id),
            trace_id: self.opt_text(&event.trace_id),
            emitter_id: self.opt_text(&event.emitter_id),
            emitter_sequence: event.emitter_sequence,
            billable_units: event.billable_units,
            quota_cost: event.quota_cost,
            labels: event.labels.as_deref().map(|labels| self.labels(labels)),
        };
        self.rows.push(row);
    }

    fn text(&mut self, text: &str) -> Text {
        if let Some(text) = self.borrowed(text) {
            return text;
        }
        let kept = Text::new(self.base.len() + self.extra.len(), text.len());
        self.extra.extend_from_slice(text.as_bytes());
        kept
    }

    /// The place of a text that lies in the records' bytes.
    fn borrowed(&self, text: &str) -> Option<Text> {
        let start = (text.as_ptr() as usize).checked_sub(self.base.as_ptr() as usize)?;
        (start + text.len() <= self.base.len()).then(|| Text::new(start, text.len()))
    }

    fn opt_text(&mut self, text: &Option<Cow<'_, str>>) -> Option<Text> {
        text.as_deref().map(|text| self.text(text))
    }

    fn labels(&mut self, labels: &[(Cow<'_, str>, Cow<'_, str>)]) -> Text {
        let start = self.labels.len();
        for (name, value) in labels {
            let label = (self.text(name), self.text(value));
            self.labels.push(label);
        }
        Text::new(start, labels.len())
    }
}
