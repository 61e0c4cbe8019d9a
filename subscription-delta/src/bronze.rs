//! Rows of `bronze_api_usage` and `dead_letter`.

use deltalake::arrow::array::{BinaryBuilder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use deltalake::parquet::errors::ParquetError;
use subscription_core::{Record, RecordBatch};

use crate::append::{ByDate, Input, Origin};
use crate::columns::{Headers, Payloads, rows};
use crate::file::Encoded;

rows!(Bronze {
    topic: StringBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    record_timestamp: TimestampMicrosecondBuilder,
    key: BinaryBuilder,
    headers: Headers,
    payload: Payloads,
});

rows!(Dead {
    topic: StringBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    record_timestamp: TimestampMicrosecondBuilder,
    key: BinaryBuilder,
    headers: Headers,
    payload: BinaryBuilder,
    payload_length: Int64Builder,
    error_code: StringBuilder,
    error: StringBuilder,
});

/// The files of Bronze: every record that is no dead letter.
pub(crate) fn bronze(input: &Input<'_>) -> Result<Vec<Encoded>, ParquetError> {
    let mut dates = ByDate::new();
    for (batch, (from, to)) in input.batches() {
        let mut dead = batch.dead.iter().map(|dead| dead.index as usize).peekable();
        for (index, record) in batch.records.iter().enumerate() {
            if dead.next_if_eq(&index).is_none() && (from..to).contains(&record.offset()) {
                dates.push(record.timestamp(), false, (&batch.records, record));
            }
        }
    }
    dates.files(input, origin, |columns: &mut Bronze, (batch, record)| {
        columns.topic.append_value(input.topic);
        columns.partition.append_value(batch.partition() as i32);
        columns.offset.append_value(record.offset() as i64);
        columns.record_timestamp.append_value(record.timestamp().micros());
        columns.key.append_option(record.key());
        columns.headers.append(record.headers());
        let appended = columns.payload.append(batch, record);
        appended.map_err(|error| ParquetError::General(format!("record {}: {error}", record.offset())))
    })
}

/// The files of `dead_letter`.
pub(crate) fn dead_letter(input: &Input<'_>) -> Result<Vec<Encoded>, ParquetError> {
    let mut dates = ByDate::new();
    for (batch, (from, to)) in input.batches() {
        for dead in &batch.dead {
            let record = batch.records.get(dead.index as usize);
            if (from..to).contains(&record.offset()) {
                dates.push(record.timestamp(), false, (&batch.records, record, dead));
            }
        }
    }
    let origin = |(batch, record, _): &(_, _, _)| origin(&(*batch, *record));
    dates.files(input, origin, |columns: &mut Dead, (batch, record, dead)| {
        columns.topic.append_value(input.topic);
        columns.partition.append_value(batch.partition() as i32);
        columns.offset.append_value(record.offset() as i64);
        columns.record_timestamp.append_value(record.timestamp().micros());
        columns.key.append_option(record.key());
        columns.headers.append(record.headers());
        columns.payload.append_option(record.payload());
        columns.payload_length.append_value(record.payload_len() as i64);
        columns.error_code.append_value(dead.code);
        columns.error.append_value(&dead.error);
        Ok(())
    })
}

fn origin((batch, record): &(&RecordBatch, Record<'_>)) -> Origin {
    let bytes = record.payload().map_or(0, <[u8]>::len) + record.key().map_or(0, <[u8]>::len);
    Origin { partition: batch.partition(), offset: record.offset(), time: record.timestamp(), bytes }
}
