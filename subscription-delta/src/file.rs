//! Data files: how they are written, and what the log tells of them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use deltalake::arrow::array::RecordBatch;
use deltalake::arrow::datatypes::DataType;
use deltalake::kernel::{Add, Remove};
use deltalake::logstore::object_store::path::Path;
use deltalake::parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves,
};
use deltalake::parquet::basic::{Compression as Codec, Encoding, ZstdLevel};
use deltalake::parquet::errors::ParquetError;
use deltalake::parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use deltalake::parquet::file::writer::SerializedFileWriter;
use deltalake::parquet::schema::types::ColumnPath;
use serde_json::{Map, Value, json};
use subscription_core::{RangeKey, Table, Timestamp};
use uuid::Uuid;

use crate::columns::Rows;
use crate::config::Compression;
use crate::schema::Layout;

/// Most rows of a row group: the unit of reading.
pub(crate) const ROW_GROUP_ROWS: usize = 32_768;
/// Rows that are worth a row group of their own, so that another thread encodes them.
const ROW_GROUP_LEAST: usize = 8_192;
/// Bytes of texts after which another row group is begun: long payloads shall not make a huge one, and Arrow's offsets hold
/// 2^31.
pub(crate) const ROW_GROUP_BYTES: usize = 32 << 20;
/// Rows that are built in memory before they are handed to the Parquet writer: few, so that they are still in the
/// processor's cache.
const BATCH_ROWS: usize = 2_048;
/// Bytes of a page before it is compressed: small, so that it is still in the processor's cache then, and grows with few copies.
const PAGE_BYTES: usize = 256 << 10;

const TOPIC: &str = "subscription.topic";
const SPANS: &str = "subscription.spans";
const PARTITION: &str = "subscription.partition";
const FIRST: &str = "subscription.first";
const LAST: &str = "subscription.last";

/// The rows of one partition in a file of appended rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) partition: u32,
    /// The least offset.
    pub(crate) first: u64,
    /// The greatest offset.
    pub(crate) last: u64,
    pub(crate) rows: u64,
}

/// The range of a Gold table that a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) partition: u32,
    pub(crate) first: RangeKey,
    pub(crate) last: RangeKey,
}

/// What is in a file, as its add says. Another tool that rewrites files drops this; then it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Rows of a topic, by partition.
    Spans(Arc<str>, Box<[Span]>),
    /// A range of Gold rows of a topic.
    Range(Arc<str>, Box<Range>),
    /// Anything.
    Unknown,
}

/// An active data file of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataFile {
    /// Its path below the table's folder, as in the log.
    pub(crate) path: Arc<str>,
    pub(crate) size: u64,
    pub(crate) rows: u64,
    pub(crate) partition_value: Option<Arc<str>>,
    pub(crate) content: Content,
    /// The least and the greatest value of the table's time column.
    pub(crate) times: Option<(Timestamp, Timestamp)>,
}

impl DataFile {
    /// What an add says.
    pub(crate) fn from_add(table: Table, add: Add) -> Self {
        let layout = Layout::of(table);
        let stats: Value = add.stats.as_deref().and_then(|stats| serde_json::from_str(stats).ok()).unwrap_or_default();
        let time = |values: &str| {
            let text = stats.get(values)?.get(layout.time)?.as_str()?;
            DateTime::parse_from_rfc3339(text).ok().map(|time| Timestamp::from_millis(time.timestamp_millis()))
        };
        Self {
            size: u64::try_from(add.size).unwrap_or_default(),
            rows: stats.get("numRecords").and_then(Value::as_u64).unwrap_or_default(),
            partition_value: add.partition_values.get(table.partition_column()).cloned().flatten().map(Arc::from),
            content: add.tags.as_ref().and_then(content).unwrap_or(Content::Unknown),
            times: time("minValues").zip(time("maxValues")),
            path: add.path.into(),
        }
    }

    /// The remove that takes it out of the table, and its rows with it where `data_change`.
    pub(crate) fn remove(&self, table: Table, now: Timestamp, data_change: bool) -> Remove {
        let value = self.partition_value.as_deref().map(str::to_owned);
        Remove {
            path: self.path.to_string(),
            data_change,
            deletion_timestamp: Some(now.millis()),
            extended_file_metadata: Some(true),
            partition_values: Some(HashMap::from([(table.partition_column().to_owned(), value)])),
            size: i64::try_from(self.size).ok(),
            ..Remove::default()
        }
    }

    /// Where it is below the table's folder.
    pub(crate) fn location(&self) -> Path {
        Path::parse(&*self.path).unwrap_or_else(|_| Path::from(&*self.path))
    }

    /// The least and the greatest offset that it can have of a partition; `None` where it has none.
    pub(crate) fn offsets(&self, topic: &str, partition: u32) -> Option<(u64, u64)> {
        match &self.content {
            Content::Spans(of, spans) if **of == *topic => {
                spans.iter().find(|span| span.partition == partition).map(|span| (span.first, span.last))
            }
            Content::Spans(..) | Content::Range(..) => None,
            Content::Unknown => Some((0, u64::MAX)),
        }
    }

    /// Whether a row's time can lie in `from..=to`.
    pub(crate) fn overlaps(&self, from: Timestamp, to: Timestamp) -> bool {
        self.times.is_none_or(|(first, last)| first <= to && last >= from)
    }
}

fn content(tags: &HashMap<String, Option<String>>) -> Option<Content> {
    let tag = |name: &str| tags.get(name)?.as_deref();
    let topic: Arc<str> = tag(TOPIC)?.into();
    if let Some(spans) = tag(SPANS) {
        let spans = spans.split(' ').map(parse_span).collect::<Option<_>>()?;
        return Some(Content::Spans(topic, spans));
    }
    let range = Range {
        partition: tag(PARTITION)?.parse().ok()?,
        first: parse_key(tag(FIRST)?)?,
        last: parse_key(tag(LAST)?)?,
    };
    Some(Content::Range(topic, range.into()))
}

/// `partition:first-last:rows`
fn parse_span(text: &str) -> Option<Span> {
    let (partition, rest) = text.split_once(':')?;
    let (offsets, rows) = rest.split_once(':')?;
    let (first, last) = offsets.split_once('-')?;
    Some(Span {
        partition: partition.parse().ok()?,
        first: first.parse().ok()?,
        last: last.parse().ok()?,
        rows: rows.parse().ok()?,
    })
}

/// `{window start in milliseconds}/{tenant}`
fn parse_key(text: &str) -> Option<RangeKey> {
    let (start, tenant) = text.split_once('/')?;
    Some(RangeKey { window_start: Timestamp::from_millis(start.parse().ok()?), tenant_id: tenant.into() })
}

/// A file's tags on its add.
fn tags(content: &Content) -> HashMap<String, Option<String>> {
    let pairs = match content {
        Content::Spans(topic, spans) => {
            let spans: Vec<String> = spans
                .iter()
                .map(|span| format!("{}:{}-{}:{}", span.partition, span.first, span.last, span.rows))
                .collect();
            vec![(TOPIC, topic.to_string()), (SPANS, spans.join(" "))]
        }
        Content::Range(topic, range) => {
            let key = |key: &RangeKey| format!("{}/{}", key.window_start.millis(), key.tenant_id);
            vec![
                (TOPIC, topic.to_string()),
                (PARTITION, range.partition.to_string()),
                (FIRST, key(&range.first)),
                (LAST, key(&range.last)),
            ]
        }
        Content::Unknown => Vec::new(),
    };
    pairs.into_iter().map(|(name, value)| (name.to_owned(), Some(value))).collect()
}

/// The least and the greatest value of the columns that readers prune by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bounds {
    least: Map<String, Value>,
    greatest: Map<String, Value>,
}

impl Bounds {
    /// Of a column of numbers.
    pub(crate) fn number(&mut self, column: &str, least: impl Into<Value>, greatest: impl Into<Value>) {
        self.least.insert(column.to_owned(), least.into());
        self.greatest.insert(column.to_owned(), greatest.into());
    }

    /// Of a column of texts.
    pub(crate) fn text(&mut self, column: &str, least: &str, greatest: &str) {
        self.number(column, least, greatest);
    }

    /// Of a column of times; left out where a calendar cannot name them.
    pub(crate) fn time(&mut self, column: &str, least: Timestamp, greatest: Timestamp) {
        let known = |time: Timestamp| (0..=9999).contains(&chrono::Datelike::year(&DateTime::<Utc>::from(time)));
        if known(least) && known(greatest) {
            self.number(column, least.to_string(), greatest.to_string());
        }
    }
}

/// A data file, ready to be put.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) path: Path,
    pub(crate) bytes: Bytes,
    pub(crate) add: Add,
}

/// Rows of each row group of a file of so many, so that the threads of Rayon's pool have the same to do.
pub(crate) fn row_group_rows(rows: usize) -> usize {
    let groups = rows.div_ceil(ROW_GROUP_ROWS).next_multiple_of(rayon::current_num_threads());
    rows.div_ceil(groups.min(rows / ROW_GROUP_LEAST).max(1))
}

/// A row group that is encoded: its columns.
pub(crate) type RowGroup = Vec<ArrowColumnChunk>;

/// Writes a data file in memory.
pub(crate) struct FileWriter {
    table: Table,
    partition_value: String,
    codec: Compression,
    properties: WriterPropertiesPtr,
    columns: ArrowRowGroupWriterFactory,
}

impl FileWriter {
    /// A file of about `rows` rows under a value of the table's partition column.
    pub(crate) fn new(
        table: Table,
        partition_value: String,
        rows: usize,
        codec: Compression,
    ) -> Result<Self, ParquetError> {
        let layout = Layout::of(table);
        let properties = Arc::new(properties(table, rows, codec));
        // Only to learn how columns are written: what is written to is made once its size is known.
        let nowhere = SerializedFileWriter::new(std::io::sink(), layout.parquet.root_schema_ptr(), properties.clone())?;
        let columns = ArrowRowGroupWriterFactory::new(&nowhere, layout.file.clone());
        Ok(Self { table, partition_value, codec, properties, columns })
    }

    /// Encodes rows as the row group with this number. Those of a file can be encoded side by side.
    pub(crate) fn row_group<R, C: Rows>(
        &self,
        index: usize,
        rows: &[R],
        append: impl Fn(&mut C, &R) -> Result<(), ParquetError>,
    ) -> Result<RowGroup, ParquetError> {
        let mut columns = C::new(self.table);
        let batches = rows.chunks(BATCH_ROWS).map(|rows| {
            rows.iter().try_for_each(|row| append(&mut columns, row))?;
            Ok(RecordBatch::try_new(Layout::of(self.table).file.clone(), columns.take())?)
        });
        self.row_group_of(index, batches)
    }

    /// Encodes rows that are in Arrow's form, with the table's columns, as the row group with this number.
    pub(crate) fn row_group_of(
        &self,
        index: usize,
        batches: impl IntoIterator<Item = Result<RecordBatch, ParquetError>>,
    ) -> Result<RowGroup, ParquetError> {
        let mut writers = self.columns.create_column_writers(index)?;
        for batch in batches {
            let batch = batch?;
            let mut writers = writers.iter_mut();
            for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                let leaves = compute_leaves(field, column)?;
                // The leaf first: `zip` asks its left side, and takes nothing from the right where that has ended.
                leaves.iter().zip(writers.by_ref()).try_for_each(|(leaf, writer)| writer.write(leaf))?;
            }
        }
        writers.into_iter().map(ArrowColumnWriter::close).collect()
    }

    /// The file and its add.
    pub(crate) fn finish(
        self,
        groups: Vec<RowGroup>,
        content: &Content,
        bounds: &Bounds,
        now: Timestamp,
    ) -> Result<Encoded, ParquetError> {
        let closed = || groups.iter().flatten().map(ArrowColumnChunk::close);
        let bytes: u64 = closed().map(|column| column.bytes_written).sum();
        let rows: u64 = groups.iter().filter_map(|group| group.first()).map(|column| column.close().rows_written).sum();
        // With room for Bloom filters and the footer, so that nothing is copied to grow.
        let out = Vec::with_capacity((bytes + 4 * rows + 8_192) as usize);
        let schema = Layout::of(self.table).parquet.root_schema_ptr();
        let mut writer = SerializedFileWriter::new(out, schema, self.properties)?;
        for group in groups {
            let mut columns = writer.next_row_group()?;
            group.into_iter().try_for_each(|column| column.append_to_row_group(&mut columns))?;
            columns.close()?;
        }
        let bytes = Bytes::from(writer.into_inner()?);
        let column = self.table.partition_column();
        let extension = match self.codec {
            Compression::None | Compression::Balanced => "",
            Compression::Snappy => ".snappy",
            Compression::Lz4 => ".lz4raw",
            Compression::Zstd => ".zstd",
        };
        let path = format!("{column}={}/part-{}{extension}.parquet", self.partition_value, Uuid::new_v4());
        let nulls: Map<String, Value> = bounds.least.keys().map(|column| (column.clone(), json!(0))).collect();
        let stats = json!({
            "numRecords": rows,
            "minValues": bounds.least,
            "maxValues": bounds.greatest,
            "nullCount": nulls,
        });
        let add = Add {
            path: path.clone(),
            partition_values: HashMap::from([(column.to_owned(), Some(self.partition_value))]),
            size: bytes.len() as i64,
            modification_time: now.millis(),
            data_change: true,
            stats: Some(stats.to_string()),
            tags: Some(tags(content)),
            ..Add::default()
        };
        Ok(Encoded { path: Path::from(path), bytes, add })
    }
}

/// Columns without a dictionary, which would be work for nothing: their values hardly ever repeat, or lie so close to each
/// other that their differences take less.
const NO_DICTIONARY: [&str; 22] = [
    "partition",
    "offset",
    "record_timestamp",
    "ingestion_timestamp",
    "event_timestamp",
    "quarantine_timestamp",
    "payload",
    "event_id",
    "alert_id",
    "request_id",
    "trace_id",
    "emitter_sequence",
    "user_id",
    "response_time_ms",
    "risk_score",
    "velocity_last_1min",
    "velocity_last_5min",
    "velocity_last_1hour",
    "request_size_bytes",
    "response_size_bytes",
    "quota_cost",
    "state",
];

fn properties(table: Table, rows: usize, codec: Compression) -> WriterProperties {
    let layout = Layout::of(table);
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("subscription-delta ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(match codec {
            Compression::None => Codec::UNCOMPRESSED,
            Compression::Snappy | Compression::Balanced => Codec::SNAPPY,
            Compression::Lz4 => Codec::LZ4_RAW,
            Compression::Zstd => Codec::ZSTD(ZstdLevel::default()),
        })
        .set_data_page_size_limit(PAGE_BYTES)
        .set_column_data_page_size_limit(ColumnPath::from("payload"), 2 * PAGE_BYTES)
        .set_statistics_enabled(EnabledStatistics::None)
        // Pages have no statistics, so nobody would look at their places.
        .set_offset_index_disabled(true);
    for column in layout.statistics {
        properties = properties.set_column_statistics_enabled(ColumnPath::from(*column), EnabledStatistics::Chunk);
    }
    for field in layout.file.fields() {
        if NO_DICTIONARY.contains(&field.name().as_str()) {
            let column = ColumnPath::from(field.name().as_str());
            properties = properties.set_column_dictionary_enabled(column.clone(), false);
            // Whole numbers, as their differences.
            if matches!(field.data_type(), DataType::Int32 | DataType::Int64 | DataType::Timestamp(..)) {
                properties = properties.set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
            }
        }
    }
    if codec == Compression::Balanced {
        let payload = ColumnPath::from("payload");
        properties = properties.set_column_compression(payload, Codec::ZSTD(ZstdLevel::default()));
        // Nothing in them repeats.
        for id in ["event_id", "request_id", "trace_id"] {
            properties = properties.set_column_compression(ColumnPath::from(id), Codec::UNCOMPRESSED);
        }
    }
    if table == Table::Silver {
        let id = ColumnPath::from("event_id");
        properties = properties
            .set_column_bloom_filter_enabled(id.clone(), true)
            .set_column_bloom_filter_fpp(id.clone(), 0.01)
            .set_column_bloom_filter_max_ndv(id, rows.clamp(1, ROW_GROUP_ROWS) as u64);
    }
    properties.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_holds_survives_the_log() {
        let spans = Content::Spans(
            "usage".into(),
            vec![
                Span { partition: 0, first: 7, last: 900, rows: 12 },
                Span { partition: 31, first: 0, last: 0, rows: 1 },
            ]
            .into(),
        );
        let key =
            |millis, tenant: &str| RangeKey { window_start: Timestamp::from_millis(millis), tenant_id: tenant.into() };
        let range = Content::Range(
            "usage".into(),
            Range { partition: 3, first: key(-60_000, "a/b-1:2"), last: key(60_000, "z") }.into(),
        );
        for given in [spans, range] {
            assert_eq!(content(&tags(&given)), Some(given));
        }
        assert_eq!(content(&HashMap::new()), None);
    }
}
