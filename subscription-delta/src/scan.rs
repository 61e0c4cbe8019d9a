//! What people ask of a lake: what is in it, and the rows themselves, as Arrow batches.

use std::sync::Arc;

use deltalake::arrow::array::{
    ArrayRef, AsArray as _, BooleanArray, Date32Array, RecordBatch, Scalar, StringArray,
};
use deltalake::arrow::compute::filter_record_batch;
use deltalake::arrow::compute::kernels::cmp::eq;
use deltalake::arrow::datatypes::{DataType, SchemaRef};
use deltalake::logstore::parquet_reader::ParquetObjectReader;
use deltalake::parquet::arrow::ProjectionMask;
use deltalake::parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use subscription_core::{Counter, Error, ErrorKind, Result, Table};

use crate::file::{Content, DataFile};
use crate::read::Reader;
use crate::schema::Layout;
use crate::store::DeltaStore;

/// What a scan is to answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// The columns, in the table's order; all if none is given.
    pub columns: Option<Vec<String>>,
    /// Rows of this tenant only.
    pub tenant: Option<String>,
    /// So many rows at most.
    pub limit: Option<usize>,
}

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInfo {
    /// The table.
    pub table: Table,
    /// Its version: the number of its last commit.
    pub version: u64,
    /// Its rows.
    pub rows: u64,
    /// Its data files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where it stands, by topic and partition.
    pub positions: Vec<PositionInfo>,
}

/// Where a table stands in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionInfo {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The next offset.
    pub position: u64,
    /// The numbers kept beside it.
    pub counters: Vec<(Counter, i64)>,
}

impl DeltaStore {
    /// What each table holds, by [`Table::ALL`].
    ///
    /// # Errors
    /// What the storage says.
    pub async fn info(&self) -> Result<Vec<TableInfo>> {
        let mut infos = Vec::new();
        for log in &self.logs {
            let current = log.current().await?;
            let prefix = format!("{}/", self.config.pipeline);
            let mut positions: Vec<PositionInfo> = current
                .txns
                .iter()
                .filter_map(|(app, txn)| {
                    let (topic, partition) = app.strip_prefix(&prefix)?.rsplit_once('/')?;
                    let counters = Counter::ALL.into_iter().filter_map(|counter| {
                        Some((counter, current.value(&format!("{app}/{}", counter.name()))?))
                    });
                    Some(PositionInfo {
                        topic: topic.to_owned(),
                        partition: partition.parse().ok()?,
                        position: txn.value as u64,
                        counters: counters.collect(),
                    })
                })
                .collect();
            positions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
            infos.push(TableInfo {
                table: log.table,
                version: current.version,
                rows: current.files.values().map(|file| file.rows).sum(),
                files: current.files.len() as u64,
                bytes: current.files.values().map(|file| file.size).sum(),
                positions,
            });
        }
        Ok(infos)
    }

    /// The columns of a table.
    pub fn schema(table: Table) -> SchemaRef {
        Layout::of(table).arrow.clone()
    }

    /// The rows of a table, as of now, by the value of its partition column and, within, in the order of its files.
    ///
    /// # Errors
    /// `Configuration` for a column that the table does not have; what the storage says.
    pub async fn scan(&self, table: Table, scan: Scan) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let layout = Layout::of(table);
        let all = &layout.arrow;
        let known = |name: &String| {
            all.index_of(name).map_err(|_| {
                Error::new(ErrorKind::Configuration, format!("the table has no column `{name}`"))
                    .with("table", table.name())
                    .with_help(format!(
                        "its columns are {}",
                        all.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
                    ))
            })
        };
        let wanted: Vec<usize> = match &scan.columns {
            Some(columns) => columns.iter().map(known).collect::<Result<_>>()?,
            None => (0..all.fields().len()).collect(),
        };
        if scan.tenant.is_some() {
            known(&"tenant_id".to_owned())?;
        }
        let mut files: Vec<Arc<DataFile>> = self.log(table).current().await?.files.values().cloned().collect();
        files.sort_by(|a, b| order(a).cmp(&order(b)));
        let reader = self.reader(table);
        let left = scan.limit.unwrap_or(usize::MAX);
        let plan = Arc::new(Plan { table, wanted, tenant: scan.tenant });
        let batches = futures::stream::iter(files)
            .then(move |file| {
                let (reader, plan) = (reader.clone(), plan.clone());
                async move { plan.open(&reader, &file).await }
            })
            .try_flatten();
        // As many rows as were asked for, and no file opened beyond.
        let limited = futures::stream::try_unfold((batches.boxed(), left), |(mut batches, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let Some(batch) = batches.try_next().await? else { return Ok(None) };
            let batch = if batch.num_rows() > left { batch.slice(0, left) } else { batch };
            let left = left - batch.num_rows();
            Ok(Some((batch, (batches, left))))
        });
        Ok(limited.try_filter(|batch| std::future::ready(batch.num_rows() > 0)).boxed())
    }
}

/// The order in which files are shown.
fn order(file: &DataFile) -> (Option<&str>, Option<subscription_core::Timestamp>, u64, &str) {
    let first = match &file.content {
        Content::Spans(_, spans) => spans.iter().map(|span| span.first).min().unwrap_or_default(),
        Content::Range(..) | Content::Unknown => 0,
    };
    (file.partition_value.as_deref(), file.times.map(|(first, _)| first), first, &file.path)
}

struct Plan {
    table: Table,
    wanted: Vec<usize>,
    tenant: Option<String>,
}

impl Plan {
    async fn open(&self, reader: &Reader, file: &DataFile) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let all = Layout::of(self.table).arrow.clone();
        let path = reader.path(file);
        let footer = reader.footer(file).await?;
        let input: ParquetObjectReader = reader.input(file);
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(input, footer);
        let names: Vec<&str> = self.wanted.iter().map(|&at| all.field(at).name().as_str()).collect();
        let tenant = self.tenant.as_ref().map(|_| "tenant_id");
        let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied().chain(tenant));
        let stream = builder
            .with_projection(mask)
            .with_batch_size(8_192)
            .build()
            .map_err(|error| reader.doing(&path).parquet(error))?;
        let (reader, wanted, tenant) = (reader.clone(), self.wanted.clone(), self.tenant.clone());
        let (column, value) = (self.table.partition_column(), file.partition_value.clone());
        Ok(stream
            .map(move |batch| {
                let doing = reader.doing(&path);
                let batch = batch.map_err(|error| doing.parquet(error))?;
                let batch = match &tenant {
                    Some(tenant) => {
                        let tenants = batch
                            .column_by_name("tenant_id")
                            .and_then(|tenants| tenants.as_string_opt::<i32>())
                            .ok_or_else(|| doing.corrupt("it has no column `tenant_id` of the table's type"))?;
                        let keep = eq(tenants, &Scalar::new(StringArray::from(vec![tenant.as_str()])));
                        let keep = keep.map_err(|error| doing.arrow(error))?;
                        filter(&batch, &keep).map_err(|error| doing.arrow(error))?
                    }
                    None => batch,
                };
                let columns = wanted.iter().map(|&at| {
                    let field = all.field(at);
                    if field.name() == column {
                        return Ok(constant(field.data_type(), value.as_deref(), batch.num_rows()));
                    }
                    batch
                        .column_by_name(field.name())
                        .cloned()
                        .ok_or_else(|| doing.corrupt(format_args!("it has no column `{}`", field.name())))
                });
                let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
                let schema = all.project(&wanted).map_err(|error| doing.arrow(error))?;
                let options = deltalake::arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                RecordBatch::try_new_with_options(schema.into(), columns, &options)
                    .map_err(|error| doing.arrow(error))
            })
            .boxed())
    }
}

fn filter(
    batch: &RecordBatch,
    keep: &BooleanArray,
) -> std::result::Result<RecordBatch, deltalake::arrow::error::ArrowError> {
    filter_record_batch(batch, keep)
}

/// A column of one value: the partition column, which is in the log and not in the file.
fn constant(data_type: &DataType, value: Option<&str>, rows: usize) -> ArrayRef {
    match data_type {
        DataType::Date32 => {
            let date = value.and_then(|value| value.parse::<chrono::NaiveDate>().ok());
            let days = date.map(|date| date.signed_duration_since(chrono::NaiveDate::default()).num_days() as i32);
            Arc::new(Date32Array::from(vec![days; rows]))
        }
        _ => Arc::new(StringArray::from(vec![value; rows])),
    }
}
