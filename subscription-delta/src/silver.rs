//! Rows of `silver_api_usage` and `quarantine_silver`.

use deltalake::arrow::array::{
    BinaryBuilder, BooleanBuilder, Decimal128Builder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use deltalake::parquet::errors::ParquetError;
use subscription_core::{EventBatch, EventRow, Record, Timestamp};
use uuid::Uuid;

use crate::append::{ByDate, Input, Origin};
use crate::columns::{Pairs, Texts, rows};
use crate::file::Encoded;

rows!(Silver {
    topic: BinaryBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    record_timestamp: TimestampMicrosecondBuilder,
    ingestion_timestamp: TimestampMicrosecondBuilder,
    event_timestamp: TimestampMicrosecondBuilder,
    is_late: BooleanBuilder,
    event_id: BinaryBuilder,
    schema_version: BinaryBuilder,
    tenant_id: BinaryBuilder,
    api_key_id: BinaryBuilder,
    user_id: BinaryBuilder,
    endpoint: BinaryBuilder,
    http_method: BinaryBuilder,
    api_version: BinaryBuilder,
    response_status_code: Int32Builder,
    response_time_ms: Float64Builder,
    subscription_plan: BinaryBuilder,
    risk_score: Float64Builder,
    velocity_last_1min: Int64Builder,
    velocity_last_5min: Int64Builder,
    velocity_last_1hour: Int64Builder,
    ip_address: BinaryBuilder,
    country_code: BinaryBuilder,
    region: BinaryBuilder,
    user_agent: BinaryBuilder,
    sdk_version: BinaryBuilder,
    request_size_bytes: Int64Builder,
    response_size_bytes: Int64Builder,
    request_id: BinaryBuilder,
    trace_id: BinaryBuilder,
    emitter_id: BinaryBuilder,
    emitter_sequence: Int64Builder,
    billable_units: Decimal128Builder,
    quota_cost: Int64Builder,
    labels: Pairs,
});

rows!(Quarantine {
    topic: StringBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    record_timestamp: TimestampMicrosecondBuilder,
    payload: StringBuilder,
    event_id: StringBuilder,
    tenant_id: StringBuilder,
    quality_check_errors: Texts,
    quarantine_timestamp: TimestampMicrosecondBuilder,
    reprocessed: BooleanBuilder,
});

/// The files of Silver. Rows behind the watermark are in files of their own, so that the others have narrow ranges
/// of event time: readers that ask for a time skip nearly all files.
pub(crate) fn silver(input: &Input<'_>) -> Result<Vec<Encoded>, ParquetError> {
    let mut dates = ByDate::new();
    for (batch, (from, to)) in input.batches() {
        let partition = batch.records.partition();
        let watermark = batch.watermark.unwrap_or(Timestamp::MIN);
        for event in batch.accepted.rows().iter().filter(|event| (from..to).contains(&event.offset)) {
            let behind = event.is_late || event.event_timestamp < watermark;
            dates.push(event.event_timestamp, behind, (partition, event, &batch.accepted));
        }
    }
    let origin = |(partition, event, batch): &(u32, &EventRow, &EventBatch)| Origin {
        partition: *partition,
        offset: event.offset,
        time: event.event_timestamp,
        bytes: batch.text_bytes(event),
    };
    dates.files(input, origin, |columns: &mut Silver, (partition, event, batch)| {
        columns.append(input.topic, *partition, event, batch);
        Ok(())
    })
}

impl Silver {
    fn append(&mut self, topic: &str, partition: u32, event: &EventRow, batch: &EventBatch) {
        let text = |text| batch.bytes(text);
        let opt = |text: Option<subscription_core::Text>| text.map(|text| batch.bytes(text));
        self.topic.append_value(topic);
        self.partition.append_value(partition as i32);
        self.offset.append_value(event.offset as i64);
        self.record_timestamp.append_value(event.ingestion_timestamp.micros());
        self.ingestion_timestamp.append_value(event.ingestion_timestamp.micros());
        self.event_timestamp.append_value(event.event_timestamp.micros());
        self.is_late.append_value(event.is_late);
        self.event_id.append_value(event.event_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        self.schema_version.append_option(opt(event.schema_version));
        self.tenant_id.append_value(text(event.tenant_id));
        self.api_key_id.append_value(text(event.api_key_id));
        self.user_id.append_option(opt(event.user_id));
        self.endpoint.append_value(text(event.endpoint));
        self.http_method.append_value(event.http_method.as_str());
        self.api_version.append_option(opt(event.api_version));
        self.response_status_code.append_value(i32::from(event.response_status_code));
        self.response_time_ms.append_value(event.response_time_ms);
        self.subscription_plan.append_value(text(event.subscription_plan));
        self.risk_score.append_option(event.risk_score);
        self.velocity_last_1min.append_option(event.velocity_last_1min);
        self.velocity_last_5min.append_option(event.velocity_last_5min);
        self.velocity_last_1hour.append_option(event.velocity_last_1hour);
        self.ip_address.append_option(opt(event.ip_address));
        self.country_code.append_option(opt(event.country_code));
        self.region.append_option(opt(event.region));
        self.user_agent.append_option(opt(event.user_agent));
        self.sdk_version.append_option(opt(event.sdk_version));
        self.request_size_bytes.append_option(event.request_size_bytes);
        self.response_size_bytes.append_option(event.response_size_bytes);
        self.request_id.append_option(opt(event.request_id));
        self.trace_id.append_option(opt(event.trace_id));
        self.emitter_id.append_option(opt(event.emitter_id));
        self.emitter_sequence.append_option(event.emitter_sequence);
        self.billable_units.append_option(event.billable_units.map(|units| units.raw()));
        self.quota_cost.append_option(event.quota_cost);
        self.labels.append(batch.labels(event));
    }
}

/// The files of `quarantine_silver`.
pub(crate) fn quarantine(input: &Input<'_>) -> Result<Vec<Encoded>, ParquetError> {
    let mut dates = ByDate::new();
    for (batch, (from, to)) in input.batches() {
        for rejected in &batch.quarantined {
            let record = batch.records.get(rejected.index as usize);
            if (from..to).contains(&record.offset()) {
                dates.push(record.timestamp(), false, (batch.records.partition(), record, rejected));
            }
        }
    }
    let origin = |(partition, record, _): &(u32, Record<'_>, _)| {
        let bytes = record.payload().map_or(0, <[u8]>::len);
        Origin { partition: *partition, offset: record.offset(), time: record.timestamp(), bytes }
    };
    dates.files(input, origin, |columns: &mut Quarantine, (partition, record, rejected)| {
        let payload = std::str::from_utf8(record.payload().unwrap_or_default())
            .map_err(|error| ParquetError::General(format!("record {}: {error}", record.offset())))?;
        columns.topic.append_value(input.topic);
        columns.partition.append_value(*partition as i32);
        columns.offset.append_value(record.offset() as i64);
        columns.record_timestamp.append_value(record.timestamp().micros());
        columns.payload.append_value(payload);
        columns.event_id.append_option(rejected.event_id.as_deref());
        columns.tenant_id.append_option(rejected.tenant_id.as_deref());
        columns.quality_check_errors.append(rejected.errors.iter().map(String::as_str));
        columns.quarantine_timestamp.append_value(record.timestamp().micros());
        columns.reprocessed.append_value(false);
        Ok(())
    })
}
