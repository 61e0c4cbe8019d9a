//! One partition: which records are dead letters, in quarantine, duplicates or accepted.

use std::collections::{BTreeMap, HashMap};

use serde_json::value::RawValue;
use uuid::Uuid;

use super::PartitionEnd;
use super::snapshot::{DeadLetterRow, QuarantineRow, RecordRow, SilverRows, Snapshot};
use super::usage::Tenant;
use crate::event::ApiUsageEvent;
use crate::partition::Routing;
use crate::plan::Catalog;
use crate::record::{MAX_PAYLOAD_BYTES, Record, RecordBatch};
use crate::rows::{EventBatch, EventBatchBuilder, EventRow};
use crate::rules::Rules;
use crate::time::Timestamp;
use crate::validate::{Invalid, Judged, judge};

/// Rows of Silver in one [`EventBatch`], which holds at most 4 GiB of text.
const SILVER_ROWS: u64 = 100_000;

pub(super) struct Partition<'a> {
    number: u32,
    rules: &'a Rules,
    catalog: &'a Catalog,
    routing: Option<Routing>,
    end: PartitionEnd,
    /// The event times of all accepted events of a tenant and event id.
    accepted: HashMap<String, HashMap<Uuid, Vec<Timestamp>>>,
    silver: EventBatchBuilder,
    tenants: HashMap<String, Tenant<'a>>,
}

impl<'a> Partition<'a> {
    pub(super) fn new(number: u32, rules: &'a Rules, catalog: &'a Catalog, routing: Option<Routing>) -> Self {
        Self {
            number,
            rules,
            catalog,
            routing,
            end: PartitionEnd::default(),
            accepted: HashMap::new(),
            silver: EventBatch::builder(),
            tenants: HashMap::new(),
        }
    }

    pub(super) fn take(&mut self, batch: &RecordBatch, record: Record<'_>, tables: &mut Snapshot) {
        let row = RecordRow::new(batch, record);
        self.end.counts.read += 1;
        self.end.ingestion_time = self.end.ingestion_time.max(Some(record.timestamp()));
        let mut payload = record.payload().unwrap_or_default();
        let mut judged = if record.payload_len() > MAX_PAYLOAD_BYTES {
            Judged::Dead { code: "too_large", error: String::new() }
        } else {
            judge(payload)
        };
        let envelope;
        if is_cloud_event(&record) && !matches!(judged, Judged::Dead { .. }) {
            envelope = serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(payload).unwrap_or_default();
            judged = match envelope.get("data").map(|data| data.get()) {
                Some(data) if data.starts_with('{') => {
                    payload = data.as_bytes();
                    judge(payload)
                }
                data => {
                    let code = match data {
                        None => "missing_field:data",
                        Some("null") => "null_field:data",
                        Some(_) => "wrong_type:data",
                    };
                    Judged::Invalid(Invalid { errors: vec![code.to_owned()], ..Invalid::default() })
                }
            };
        }
        let event = match judged {
            Judged::Dead { code, error } => {
                self.end.counts.dead_lettered += 1;
                let (payload_len, code) = (record.payload_len(), code.to_owned());
                let row = DeadLetterRow { record: row, payload_len, code, error };
                return tables.dead_letter.get_or_insert_default().push(row);
            }
            Judged::Invalid(invalid) => {
                tables.bronze.push(row.clone());
                return self.quarantine(row, invalid.event_id, invalid.tenant_id, invalid.errors, tables);
            }
            Judged::Valid(event) => event,
        };
        tables.bronze.push(row.clone());
        let errors = self.business_errors(&event, record.timestamp());
        if !errors.is_empty() {
            let event_id = event_id_as_given(payload);
            return self.quarantine(row, event_id, Some(event.tenant_id.to_string()), errors, tables);
        }
        if self.is_duplicate(&event) {
            self.end.counts.duplicates += 1;
            return;
        }
        self.accept(&event, record, tables);
    }

    fn quarantine(
        &mut self,
        row: RecordRow,
        event_id: Option<String>,
        tenant_id: Option<String>,
        errors: Vec<String>,
        tables: &mut Snapshot,
    ) {
        self.end.counts.quarantined += 1;
        tables.quarantine.get_or_insert_default().push(QuarantineRow {
            partition: row.partition,
            offset: row.offset,
            timestamp: row.timestamp,
            payload: row.payload.unwrap_or_default(),
            event_id,
            tenant_id,
            errors,
        });
    }

    fn business_errors(&self, event: &ApiUsageEvent<'_>, ingestion: Timestamp) -> Vec<String> {
        let mut errors = Vec::new();
        let ahead = i128::from(event.event_timestamp.millis()) - i128::from(ingestion.millis());
        if ahead > i128::from(self.rules.clock_skew_ms) {
            errors.push("event_after_ingestion:event_timestamp");
        }
        if -ahead > i128::from(self.rules.max_age_ms) {
            errors.push("event_too_old:event_timestamp");
        }
        if self.catalog.terms(&event.tenant_id, &event.subscription_plan, event.event_timestamp).is_none() {
            errors.push("unknown_plan:subscription_plan");
        }
        let (minute, five, hour) = (event.velocity_last_1min, event.velocity_last_5min, event.velocity_last_1hour);
        let implausible = |velocity: Option<i64>, next: Option<i64>| match (velocity, next) {
            (Some(velocity), _) if velocity > self.rules.max_velocity => true,
            (Some(velocity), Some(next)) => velocity > next,
            _ => false,
        };
        if implausible(minute, five) {
            errors.push("implausible_velocity:velocity_last_1min");
        } else if implausible(five, hour) {
            errors.push("implausible_velocity:velocity_last_5min");
        } else if implausible(hour, None) {
            errors.push("implausible_velocity:velocity_last_1hour");
        }
        if self.routing.is_some_and(|routing| routing.partition(&event.tenant_id) != self.number) {
            errors.push("misrouted:tenant_id");
        }
        errors.sort_unstable();
        errors.into_iter().map(str::to_owned).collect()
    }

    /// An event not before the watermark is a duplicate of any accepted one not before it, a later one of those of its very
    /// event time.
    fn is_duplicate(&self, event: &ApiUsageEvent<'_>) -> bool {
        let Some(watermark) = self.end.watermark else { return false };
        let before = self.accepted.get(&*event.tenant_id).and_then(|ids| ids.get(&event.event_id));
        before.is_some_and(|times| {
            times.iter().any(|time| {
                if event.event_timestamp >= watermark { *time >= watermark } else { *time == event.event_timestamp }
            })
        })
    }

    fn accept(&mut self, event: &ApiUsageEvent<'_>, record: Record<'_>, tables: &mut Snapshot) {
        self.end.counts.accepted += 1;
        let time = event.event_timestamp;
        if !self.accepted.contains_key(&*event.tenant_id) {
            self.accepted.insert(event.tenant_id.to_string(), HashMap::new());
            self.tenants.insert(event.tenant_id.to_string(), Tenant::new(&event.tenant_id, self.rules, self.catalog));
        }
        if let Some(ids) = self.accepted.get_mut(&*event.tenant_id) {
            ids.entry(event.event_id).or_default().push(time);
        }
        self.end.watermark = self.end.watermark.max(Some(time.plus_millis(-self.rules.lateness_ms)));

        let is_late = record.timestamp().millis() - time.millis() > self.rules.lateness_ms;
        self.push_silver(event, record, is_late);
        if self.end.counts.accepted.is_multiple_of(SILVER_ROWS) {
            self.flush_silver(tables);
        }
        if let Some(tenant) = self.tenants.get_mut(&*event.tenant_id) {
            tenant.take(event, record.offset(), is_late);
        }
    }

    fn push_silver(&mut self, event: &ApiUsageEvent<'_>, record: Record<'_>, is_late: bool) {
        let texts = &mut self.silver;
        let row = EventRow {
            offset: record.offset(),
            ingestion_timestamp: record.timestamp(),
            event_timestamp: event.event_timestamp,
            is_late,
            event_id: event.event_id,
            schema_version: texts.opt_text(event.schema_version.as_deref()),
            tenant_id: texts.text(&event.tenant_id),
            api_key_id: texts.text(&event.api_key_id),
            user_id: texts.opt_text(event.user_id.as_deref()),
            endpoint: texts.text(&event.endpoint),
            http_method: event.http_method,
            api_version: texts.opt_text(event.api_version.as_deref()),
            response_status_code: event.response_status_code,
            response_time_ms: event.response_time_ms,
            subscription_plan: texts.text(&event.subscription_plan),
            risk_score: event.risk_score,
            velocity_last_1min: event.velocity_last_1min,
            velocity_last_5min: event.velocity_last_5min,
            velocity_last_1hour: event.velocity_last_1hour,
            ip_address: texts.opt_text(event.ip_address.as_deref()),
            country_code: texts.opt_text(event.country_code.as_deref()),
            region: texts.opt_text(event.region.as_deref()),
            user_agent: texts.opt_text(event.user_agent.as_deref()),
            sdk_version: texts.opt_text(event.sdk_version.as_deref()),
            request_size_bytes: event.request_size_bytes,
            response_size_bytes: event.response_size_bytes,
            request_id: texts.opt_text(event.request_id.as_deref()),
            trace_id: texts.opt_text(event.trace_id.as_deref()),
            emitter_id: texts.opt_text(event.emitter_id.as_deref()),
            emitter_sequence: event.emitter_sequence,
            billable_units: event.billable_units,
            quota_cost: event.quota_cost,
            labels: event
                .labels
                .as_ref()
                .map(|labels| texts.labels(labels.iter().map(|(name, value)| (&**name, &**value)))),
        };
        texts.push(row);
    }

    fn flush_silver(&mut self, tables: &mut Snapshot) {
        let events = std::mem::take(&mut self.silver).finish();
        if !events.is_empty() {
            tables.silver.push(SilverRows { partition: self.number, events });
        }
    }

    pub(super) fn finish(mut self, tables: &mut Snapshot) -> PartitionEnd {
        tables.dead_letter.get_or_insert_default();
        tables.quarantine.get_or_insert_default();
        self.flush_silver(tables);
        for tenant in self.tenants.values() {
            tenant.rows(self.end.watermark, tables);
        }
        self.end
    }
}

/// Whether the headers say that the payload is a CloudEvent in structured mode.
fn is_cloud_event(record: &Record<'_>) -> bool {
    let types = record.headers().filter(|(name, _)| name.to_lowercase() == "content-type");
    let last = types.last().and_then(|(_, value)| value).unwrap_or_default();
    String::from_utf8_lossy(last).trim_start().to_lowercase().starts_with("application/cloudevents")
}

/// The text of `event_id` in a payload that is a valid event.
fn event_id_as_given(payload: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
    Some(value.get("event_id")?.as_str()?.to_owned())
}
