//! Rows read back: of a span in offset order, of a range, or all.
//!
//! What a read may skip it skips: files by the spans in their tags and by time, row groups by the statistics in
//! their footers. Footers and decoded row groups are kept for a while, so that calls that follow each other do not
//! read the same file again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use deltalake::arrow::array::{Array as _, RecordBatch};
use deltalake::logstore::object_store::{ObjectStore, ObjectStoreExt as _};
use deltalake::logstore::parquet_reader::ParquetObjectReader;
use deltalake::parquet::arrow::ProjectionMask;
use deltalake::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use deltalake::parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use deltalake::parquet::bloom_filter::Sbbf;
use deltalake::parquet::errors::ParquetError;
use deltalake::parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use deltalake::parquet::file::statistics::Statistics;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use subscription_core::{
    DeadLetter, DeadLetters, Error, ErrorKind, EventBatch, EventBatchBuilder, EventRow, HttpMethod,
    RecordBatch as Records, Result, Table, Timestamp, Units,
};
use uuid::Uuid;

use crate::cache::Cache;
use crate::error::Doing;
use crate::file::{Content, DataFile, ROW_GROUP_ROWS};
use crate::log::TableLog;
use crate::values::Values;

/// The columns that a read decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Columns {
    /// All of them.
    All,
    /// What deduplication compares: partition, tenant, id and time of an event.
    Keys,
}

const KEYS: [&str; 5] = ["topic", "partition", "event_timestamp", "event_id", "tenant_id"];

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    Footer,
    Group(usize, Columns),
    Bloom(usize),
}

#[derive(Clone)]
enum Kept {
    Footer(ArrowReaderMetadata),
    Group(RecordBatch),
    Bloom(Option<Arc<Sbbf>>),
}

/// Reads parts of data files.
#[derive(Clone)]
pub(crate) struct Reader {
    table: Table,
    folder: Arc<str>,
    objects: Arc<dyn ObjectStore>,
    cache: Arc<PartCache>,
}

/// Parts of data files of all tables; a file's path has a random part, so that it is unique among them.
pub(crate) struct PartCache(Cache<(Arc<str>, Part), Kept>);

impl PartCache {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Cache::new(bytes))
    }
}

impl Reader {
    pub(crate) fn new(log: &TableLog, cache: &Arc<PartCache>) -> Self {
        Self { table: log.table, folder: log.path.as_str().into(), objects: log.objects.clone(), cache: cache.clone() }
    }

    pub(crate) fn path(&self, file: &DataFile) -> String {
        format!("{}/{}", self.folder, file.path)
    }

    pub(crate) fn doing<'a>(&self, path: &'a str) -> Doing<'a> {
        Doing { what: "read the data file", table: self.table.name(), path }
    }

    pub(crate) fn input(&self, file: &DataFile) -> ParquetObjectReader {
        ParquetObjectReader::new(self.objects.clone(), file.location())
            .with_file_size(file.size)
            .with_footer_size_hint(32 << 10)
    }

    /// Why a file could not be read. A store calls a file that was cut short out of reach; it is corrupt.
    async fn failed(&self, file: &DataFile, error: ParquetError) -> Error {
        let path = self.path(file);
        let error = self.doing(&path).parquet(error);
        match self.objects.head(&file.location()).await {
            Ok(found) if error.kind() == ErrorKind::Unavailable && found.size != file.size => self
                .doing(&path)
                .corrupt(format_args!("it has {} bytes, and was written with {}", found.size, file.size)),
            _ => error,
        }
    }

    /// A file's footer.
    pub(crate) async fn footer(&self, file: &DataFile) -> Result<ArrowReaderMetadata> {
        let key = (file.path.clone(), Part::Footer);
        if let Some(Kept::Footer(footer)) = self.cache.0.get(&key) {
            return Ok(footer);
        }
        let footer = match ArrowReaderMetadata::load_async(&mut self.input(file), ArrowReaderOptions::new()).await {
            Ok(footer) => footer,
            Err(error) => return Err(self.failed(file, error).await),
        };
        let bytes = footer.metadata().memory_size();
        self.cache.0.put(key, Kept::Footer(footer.clone()), bytes);
        Ok(footer)
    }

    /// A row group, decoded.
    pub(crate) async fn group(
        &self,
        file: &DataFile,
        footer: &ArrowReaderMetadata,
        group: usize,
        columns: Columns,
    ) -> Result<RecordBatch> {
        let key = (file.path.clone(), Part::Group(group, columns));
        if let Some(Kept::Group(batch)) = self.cache.0.get(&key) {
            return Ok(batch);
        }
        let path = self.path(file);
        let doing = self.doing(&path);
        let rows = usize::try_from(footer.metadata().row_group(group).num_rows()).unwrap_or_default();
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(self.input(file), footer.clone())
            .with_row_groups(vec![group])
            .with_batch_size(rows.max(1));
        if columns == Columns::Keys {
            let mask = ProjectionMask::columns(builder.parquet_schema(), KEYS);
            builder = builder.with_projection(mask);
        }
        let stream = builder.build().map_err(|error| doing.parquet(error))?;
        let batches: Vec<RecordBatch> = match stream.try_collect().await {
            Ok(batches) => batches,
            Err(error) => return Err(self.failed(file, error).await),
        };
        let batch = match <[RecordBatch; 1]>::try_from(batches) {
            Ok([batch]) => batch,
            // A file of another writer may come in more than one.
            Err(batches) => {
                let schema = batches.first().ok_or_else(|| doing.corrupt("a row group is empty"))?.schema();
                deltalake::arrow::compute::concat_batches(&schema, &batches).map_err(|error| doing.arrow(error))?
            }
        };
        self.cache.0.put(key, Kept::Group(batch.clone()), batch.get_array_memory_size());
        Ok(batch)
    }

    /// The Bloom filter of a row group's `event_id`, where it has one.
    pub(crate) async fn bloom(
        &self,
        file: &DataFile,
        footer: &ArrowReaderMetadata,
        group: usize,
    ) -> Result<Option<Arc<Sbbf>>> {
        let key = (file.path.clone(), Part::Bloom(group));
        if let Some(Kept::Bloom(bloom)) = self.cache.0.get(&key) {
            return Ok(bloom);
        }
        let Some(column) = column_index(footer.metadata(), "event_id") else { return Ok(None) };
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(self.input(file), footer.clone());
        let bloom = match builder.get_row_group_column_bloom_filter(group, column).await {
            Ok(bloom) => bloom.map(Arc::new),
            Err(error) => return Err(self.failed(file, error).await),
        };
        let bytes = bloom.as_ref().map_or(0, |bloom| bloom.num_blocks() * 32);
        self.cache.0.put(key, Kept::Bloom(bloom.clone()), bytes + 64);
        Ok(bloom)
    }

    /// All of a file.
    pub(crate) async fn file(&self, file: Arc<DataFile>) -> Result<Vec<RecordBatch>> {
        self.clone().batches(file, ROW_GROUP_ROWS).await?.try_collect().await
    }

    /// All of a file, so many rows at a time.
    pub(crate) async fn batches(
        self,
        file: Arc<DataFile>,
        rows: usize,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let path = self.path(&file);
        // Nothing of it is kept: who has read all of a file does not read it again.
        let builder = match ParquetRecordBatchStreamBuilder::new(self.input(&file)).await {
            Ok(builder) => builder,
            Err(error) => return Err(self.failed(&file, error).await),
        };
        let stream = builder.with_batch_size(rows).build().map_err(|error| self.doing(&path).parquet(error))?;
        let failed = move |error| {
            let (reader, file) = (self.clone(), file.clone());
            async move { Err(reader.failed(&file, error).await) }
        };
        Ok(stream.or_else(failed).boxed())
    }
}

fn column_index(metadata: &ParquetMetaData, name: &str) -> Option<usize> {
    metadata.file_metadata().schema_descr().columns().iter().position(|column| column.path().string() == name)
}

/// The bounds of a row group's column of whole numbers or times, where they are known.
pub(crate) fn group_bounds(metadata: &ParquetMetaData, group: &RowGroupMetaData, name: &str) -> Option<(i64, i64)> {
    match group.column(column_index(metadata, name)?).statistics()? {
        Statistics::Int64(values) => Some((*values.min_opt()?, *values.max_opt()?)),
        Statistics::Int32(values) => Some((i64::from(*values.min_opt()?), i64::from(*values.max_opt()?))),
        _ => None,
    }
}

/// What comes next in a walk through a partition: a file or a row group, by the least offset that it can hold.
struct Ahead {
    first: u64,
    file: usize,
    group: Option<usize>,
}

impl PartialEq for Ahead {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Ahead {}
impl PartialOrd for Ahead {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Ahead {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.first, self.group, self.file).cmp(&(other.first, other.group, other.file))
    }
}

/// A row found: its offset, its batch and its place in it.
pub(crate) type Found = (u64, usize, usize);

/// What a walk counts against its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weigh {
    Rows,
    PayloadBytes,
}

/// A partition's rows with `from ≤ offset < to`, by offset: the first ones, as many as it takes to reach `limit`.
pub(crate) async fn walk(
    reader: &Reader,
    files: &[Arc<DataFile>],
    topic: &str,
    partition: u32,
    (from, to): (u64, u64),
    limit: usize,
    weigh: Weigh,
) -> Result<(Vec<RecordBatch>, Vec<Found>)> {
    let mut ahead: BinaryHeap<Reverse<Ahead>> = files
        .iter()
        .enumerate()
        .filter_map(|(file, data)| {
            let (first, last) = data.offsets(topic, partition)?;
            (first < to && last >= from).then_some(Reverse(Ahead { first: first.max(from), file, group: None }))
        })
        .collect();
    let mut footers: Vec<Option<ArrowReaderMetadata>> = vec![None; files.len()];
    let (mut batches, mut found) = (Vec::new(), Vec::<(Found, usize)>::new());
    while let Some(Reverse(next)) = ahead.pop() {
        // Rows below the next offset that may come are complete.
        let weight: usize =
            found.iter().filter(|((offset, ..), _)| *offset < next.first).map(|(_, weight)| weight).sum();
        if weight >= limit {
            break;
        }
        let file = &files[next.file];
        let Some(group) = next.group else {
            let footer = reader.footer(file).await?;
            let metadata = footer.metadata();
            for (index, group) in metadata.row_groups().iter().enumerate() {
                let within = |name, least: i64, greatest: i64| {
                    group_bounds(metadata, group, name).is_none_or(|(min, max)| min <= greatest && max >= least)
                };
                let (least, greatest) = (offset_value(from), offset_value(to.saturating_sub(1)));
                if within("partition", i64::from(partition), i64::from(partition)) && within("offset", least, greatest)
                {
                    let offset = group_bounds(metadata, group, "offset").map_or(0, |(min, _)| min.max(0) as u64);
                    let first = next.first.max(offset);
                    ahead.push(Reverse(Ahead { first, file: next.file, group: Some(index) }));
                }
            }
            footers[next.file] = Some(footer);
            continue;
        };
        let Some(footer) = &footers[next.file] else { continue };
        let batch = reader.group(file, footer, group, Columns::All).await?;
        let path = reader.path(file);
        let values = Values::new(&batch, reader.doing(&path));
        let (partitions, offsets) = (values.integers("partition")?, values.longs("offset")?);
        let topics = if file.content == Content::Unknown { Some(values.texts("topic")?) } else { None };
        let payloads = if weigh == Weigh::PayloadBytes { Some(values.texts("payload")?) } else { None };
        for row in 0..batch.num_rows() {
            let offset = offsets.value(row) as u64;
            if partitions.value(row) == partition as i32
                && (from..to).contains(&offset)
                && topics.is_none_or(|topics| topics.value(row) == topic)
            {
                let weight = payloads.map_or(1, |payloads| payloads.value_length(row) as usize);
                found.push(((offset, batches.len(), row), weight));
            }
        }
        batches.push(batch);
    }
    // Without the ones that something still ahead may precede.
    let complete = ahead.peek().map_or(u64::MAX, |next| next.0.first);
    found.retain(|((offset, ..), _)| *offset < complete);
    found.sort_unstable_by_key(|(found, _)| *found);
    let mut weight = 0;
    let taken = found.iter().take_while(|(_, own)| {
        let more = weight < limit;
        weight += own;
        more
    });
    let taken = taken.map(|(found, _)| *found).collect();
    Ok((batches, taken))
}

fn offset_value(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

/// The records of rows of Bronze or `dead_letter`, with their span; `None` where there are none.
pub(crate) fn records(
    reader: &Reader,
    topic: &str,
    partition: u32,
    from: u64,
    batches: &[RecordBatch],
    found: &[Found],
) -> Result<Option<Records>> {
    let Some((last, ..)) = found.last() else { return Ok(None) };
    records_of_span(reader, topic, partition, (from, last + 1), batches, found).map(Some)
}

/// The records of rows of `dead_letter`, with what was wrong with them.
pub(crate) fn dead_letters(
    reader: &Reader,
    topic: &str,
    partition: u32,
    span: (u64, u64),
    batches: &[RecordBatch],
    found: &[Found],
) -> Result<DeadLetters> {
    let doing = reader.doing(&reader.folder);
    let columns = batches.iter().map(|batch| Values::new(batch, doing));
    let columns = columns.map(|values| Ok((values.texts("error_code")?, values.texts("error")?)));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let letters = found.iter().enumerate().map(|(index, &(_, batch, row))| {
        let (codes, errors) = columns[batch];
        let code = DeadLetter::code_named(codes.value(row));
        let code =
            code.ok_or_else(|| doing.corrupt(format_args!("no dead letter has the code {}", codes.value(row))))?;
        Ok(DeadLetter { index: index as u32, code, error: errors.value(row).to_owned() })
    });
    let letters = letters.collect::<Result<_>>()?;
    Ok(DeadLetters { records: records_of_span(reader, topic, partition, span, batches, found)?, letters })
}

fn records_of_span(
    reader: &Reader,
    topic: &str,
    partition: u32,
    (from, to): (u64, u64),
    batches: &[RecordBatch],
    found: &[Found],
) -> Result<Records> {
    let doing = reader.doing(&reader.folder);
    let columns = batches.iter().map(|batch| RecordColumns::new(batch, doing)).collect::<Result<Vec<_>>>()?;
    let mut builder = Records::builder(topic.into(), partition, from);
    let mut next = from;
    for &(offset, batch, row) in found {
        if offset < next {
            return Err(doing.corrupt(format_args!("offset {offset} of partition {partition} is there twice")));
        }
        next = offset + 1;
        columns[batch].push(&mut builder, offset, row, doing)?;
    }
    Ok(builder.finish(to.max(from)))
}

struct RecordColumns<'a> {
    timestamps: crate::values::Times<'a>,
    keys: &'a deltalake::arrow::array::BinaryArray,
    headers: &'a deltalake::arrow::array::ListArray,
    payload: Payload<'a>,
}

enum Payload<'a> {
    Text(&'a deltalake::arrow::array::StringArray),
    Bytes(&'a deltalake::arrow::array::BinaryArray, &'a deltalake::arrow::array::Int64Array),
}

impl<'a> RecordColumns<'a> {
    fn new(batch: &'a RecordBatch, doing: Doing<'a>) -> Result<Self> {
        let values = Values::new(batch, doing);
        Ok(Self {
            timestamps: values.times("record_timestamp")?,
            keys: values.bytes("key")?,
            headers: values.lists("headers")?,
            payload: if batch.column_by_name("payload_length").is_some() {
                Payload::Bytes(values.bytes("payload")?, values.longs("payload_length")?)
            } else {
                Payload::Text(values.texts("payload")?)
            },
        })
    }

    fn push(
        &self,
        builder: &mut subscription_core::RecordBatchBuilder,
        offset: u64,
        row: usize,
        doing: Doing<'_>,
    ) -> Result<()> {
        use deltalake::arrow::array::AsArray as _;
        let time = self.timestamps.at(row);
        let key = self.keys.is_valid(row).then(|| self.keys.value(row));
        match self.payload {
            Payload::Text(payloads) => builder.push(offset, time, key, Some(payloads.value(row).as_bytes())),
            Payload::Bytes(payloads, lengths) => {
                let payload = payloads.is_valid(row).then(|| payloads.value(row));
                builder.push_truncated(offset, time, key, payload, lengths.value(row) as u64);
            }
        }
        let headers = self.headers.value(row);
        if !headers.is_empty() {
            let headers = headers.as_struct_opt().filter(|headers| headers.num_columns() == 2);
            let parts = headers.and_then(|headers| {
                Some((headers.column(0).as_string_opt::<i32>()?, headers.column(1).as_binary_opt::<i32>()?))
            });
            let (names, values) = parts.ok_or_else(|| doing.corrupt("`headers` holds no names and values"))?;
            for header in 0..names.len() {
                builder.push_header(names.value(header), values.is_valid(header).then(|| values.value(header)));
            }
        }
        Ok(())
    }
}

/// The events of rows of Silver.
pub(crate) fn events(reader: &Reader, batches: &[RecordBatch], found: &[Found]) -> Result<EventBatch> {
    let doing = reader.doing(&reader.folder);
    let columns = batches.iter().map(|batch| EventColumns::new(batch, doing)).collect::<Result<Vec<_>>>()?;
    let mut builder = EventBatch::builder();
    for &(offset, batch, row) in found {
        columns[batch].push(&mut builder, offset, row, doing)?;
    }
    Ok(builder.finish())
}

macro_rules! event_columns {
    (texts: $($text:ident),*; optional texts: $($opt:ident),*; longs: $($long:ident),*) => {
        struct EventColumns<'a> {
            ingestion_timestamp: crate::values::Times<'a>,
            event_timestamp: crate::values::Times<'a>,
            is_late: &'a deltalake::arrow::array::BooleanArray,
            event_id: &'a deltalake::arrow::array::StringArray,
            http_method: &'a deltalake::arrow::array::StringArray,
            response_status_code: &'a deltalake::arrow::array::Int32Array,
            response_time_ms: &'a deltalake::arrow::array::Float64Array,
            risk_score: &'a deltalake::arrow::array::Float64Array,
            billable_units: &'a deltalake::arrow::array::Decimal128Array,
            labels: &'a deltalake::arrow::array::MapArray,
            $($text: &'a deltalake::arrow::array::StringArray,)*
            $($opt: &'a deltalake::arrow::array::StringArray,)*
            $($long: &'a deltalake::arrow::array::Int64Array,)*
        }

        impl<'a> EventColumns<'a> {
            fn new(batch: &'a RecordBatch, doing: Doing<'a>) -> Result<Self> {
                let values = Values::new(batch, doing);
                Ok(Self {
                    ingestion_timestamp: values.times("ingestion_timestamp")?,
                    event_timestamp: values.times("event_timestamp")?,
                    is_late: values.booleans("is_late")?,
                    event_id: values.texts("event_id")?,
                    http_method: values.texts("http_method")?,
                    response_status_code: values.integers("response_status_code")?,
                    response_time_ms: values.doubles("response_time_ms")?,
                    risk_score: values.doubles("risk_score")?,
                    billable_units: values.decimals("billable_units")?,
                    labels: values.maps("labels")?,
                    $($text: values.texts(stringify!($text))?,)*
                    $($opt: values.texts(stringify!($opt))?,)*
                    $($long: values.longs(stringify!($long))?,)*
                })
            }

            fn push(&self, builder: &mut EventBatchBuilder, offset: u64, row: usize, doing: Doing<'_>) -> Result<()> {
                let event = EventRow {
                    offset,
                    ingestion_timestamp: self.ingestion_timestamp.at(row),
                    event_timestamp: self.event_timestamp.at(row),
                    is_late: self.is_late.value(row),
                    event_id: event_id(self.event_id.value(row), doing)?,
                    http_method: HttpMethod::from_name(self.http_method.value(row))
                        .ok_or_else(|| doing.corrupt("an HTTP method is not known here"))?,
                    response_status_code: u16::try_from(self.response_status_code.value(row))
                        .map_err(|_| doing.corrupt("a status code is out of range"))?,
                    response_time_ms: self.response_time_ms.value(row),
                    risk_score: self.risk_score.is_valid(row).then(|| self.risk_score.value(row)),
                    billable_units: self
                        .billable_units
                        .is_valid(row)
                        .then(|| Units::from_raw(self.billable_units.value(row))),
                    labels: labels(self.labels, row, builder, doing)?,
                    $($text: builder.text(self.$text.value(row)),)*
                    $($opt: self.$opt.is_valid(row).then(|| builder.text(self.$opt.value(row))),)*
                    $($long: self.$long.is_valid(row).then(|| self.$long.value(row)),)*
                };
                builder.push(event);
                Ok(())
            }
        }
    };
}
event_columns!(
    texts: tenant_id, api_key_id, endpoint, subscription_plan;
    optional texts: schema_version, user_id, api_version, ip_address, country_code, region, user_agent, sdk_version,
        request_id, trace_id, emitter_id;
    longs: velocity_last_1min, velocity_last_5min, velocity_last_1hour, request_size_bytes, response_size_bytes,
        emitter_sequence, quota_cost
);

pub(crate) fn event_id(text: &str, doing: Doing<'_>) -> Result<Uuid> {
    Uuid::try_parse(text).map_err(|error| doing.corrupt(format_args!("an event id is none: {error}")))
}

fn labels(
    column: &deltalake::arrow::array::MapArray,
    row: usize,
    builder: &mut EventBatchBuilder,
    doing: Doing<'_>,
) -> Result<Option<subscription_core::Text>> {
    use deltalake::arrow::array::AsArray as _;
    if column.is_null(row) {
        return Ok(None);
    }
    let entries = column.value(row);
    let texts = |index: usize| entries.column(index).as_string_opt::<i32>();
    let (names, values) = texts(0).zip(texts(1)).ok_or_else(|| doing.corrupt("`labels` holds no texts"))?;
    Ok(Some(builder.labels((0..names.len()).map(|label| (names.value(label), values.value(label))))))
}

/// Whether a row group can hold a time in `from..=to`.
pub(crate) fn group_overlaps(
    metadata: &ParquetMetaData,
    group: &RowGroupMetaData,
    column: &str,
    from: Timestamp,
    to: Timestamp,
) -> bool {
    group_bounds(metadata, group, column).is_none_or(|(min, max)| min <= to.micros() && max >= from.micros())
}
