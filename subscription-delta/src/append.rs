//! Appended rows, as files by the table's date.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use deltalake::arrow::array::RecordBatch;
use deltalake::parquet::errors::ParquetError;
use subscription_core::{Admitted, Table, TableCommit, Timestamp};

use crate::config::Compression;
use crate::file::{BATCH_ROWS, Bounds, Content, Encoded, FILE_BYTES, FileWriter, Span};

/// Bytes of texts that are built in memory before they are handed to the Parquet writer; Arrow's offsets hold 2^31.
const BATCH_BYTES: usize = 32 << 20;

/// What a table takes of the rows of a commit.
pub(crate) struct Input<'a> {
    pub(crate) table: Table,
    pub(crate) topic: &'a Arc<str>,
    pub(crate) codec: Compression,
    pub(crate) now: Timestamp,
    /// By partition and offset.
    batches: Vec<&'a Admitted>,
    spans: HashMap<u32, (u64, u64)>,
}

impl<'a> Input<'a> {
    pub(crate) fn new(
        topic: &'a Arc<str>,
        commit: &TableCommit,
        admitted: &'a [Arc<Admitted>],
        codec: Compression,
        now: Timestamp,
    ) -> Self {
        let spans = commit.spans.iter().map(|span| (span.partition, (span.from, span.to))).collect();
        let mut batches: Vec<&Admitted> = admitted.iter().map(|batch| &**batch).collect();
        batches.sort_by_key(|batch| (batch.records.partition(), batch.records.from()));
        Self { table: commit.table, topic, codec, now, batches, spans }
    }

    /// The batches, each with its span of offsets that the table takes.
    pub(crate) fn batches(&self) -> impl Iterator<Item = (&'a Admitted, (u64, u64))> {
        self.batches.iter().filter_map(|batch| {
            let (from, to) = *self.spans.get(&batch.records.partition())?;
            (batch.records.from() < to && batch.records.to() > from).then_some((*batch, (from, to)))
        })
    }
}

/// Rows by the UTC date that their table is partitioned by, each as its place in the input, in the input's order.
pub(crate) struct ByDate<T>(BTreeMap<i32, (Timestamp, Vec<T>)>);

impl<T> ByDate<T> {
    pub(crate) fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(crate) fn push(&mut self, time: Timestamp, row: T) {
        self.0.entry(time.days()).or_insert_with(|| (time, Vec::new())).1.push(row);
    }

    /// Each date with its rows.
    pub(crate) fn dates(self) -> impl Iterator<Item = (String, Vec<T>)> {
        self.0.into_values().map(|(time, rows)| (time.date(), rows))
    }
}

/// Writes the files of one date.
pub(crate) struct Appender<'a> {
    input: &'a Input<'a>,
    date: String,
    time_column: &'static str,
    left: usize,
    writer: Option<FileWriter>,
    spans: Vec<Span>,
    place: HashMap<u32, usize>,
    times: Option<(Timestamp, Timestamp)>,
    offsets: (u64, u64),
    batch: (usize, usize),
    bytes: usize,
    files: Vec<Encoded>,
}

impl<'a> Appender<'a> {
    /// For `rows` rows, whose times are in `time_column`.
    pub(crate) fn new(input: &'a Input<'a>, date: String, time_column: &'static str, rows: usize) -> Self {
        Self {
            input,
            date,
            time_column,
            left: rows,
            writer: None,
            spans: Vec::new(),
            place: HashMap::new(),
            times: None,
            offsets: (u64::MAX, 0),
            batch: (0, 0),
            bytes: 0,
            files: Vec::new(),
        }
    }

    /// Tells of a row that was appended to the columns; answers whether it is time to [`Appender::write`] them.
    pub(crate) fn row(&mut self, partition: u32, offset: u64, time: Timestamp, bytes: usize) -> bool {
        let spans = &mut self.spans;
        let place = match spans.last() {
            Some(last) if last.partition == partition => spans.len() - 1,
            _ => *self.place.entry(partition).or_insert_with(|| {
                spans.push(Span { partition, first: offset, last: offset, rows: 0 });
                spans.len() - 1
            }),
        };
        let span = &mut spans[place];
        (span.first, span.last, span.rows) = (span.first.min(offset), span.last.max(offset), span.rows + 1);
        self.times = Some(self.times.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
        self.offsets = (self.offsets.0.min(offset), self.offsets.1.max(offset));
        self.batch = (self.batch.0 + 1, self.batch.1 + bytes);
        self.batch.0 >= BATCH_ROWS || self.batch.1 >= BATCH_BYTES
    }

    /// Writes the columns of the rows told of since the last time.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(FileWriter::new(self.input.table, self.date.clone(), self.left, self.input.codec)?),
        };
        writer.write(batch)?;
        self.left = self.left.saturating_sub(batch.num_rows());
        self.bytes += self.batch.1;
        self.batch = (0, 0);
        if self.bytes >= FILE_BYTES { self.close() } else { Ok(()) }
    }

    /// The files.
    pub(crate) fn finish(mut self) -> Result<Vec<Encoded>, ParquetError> {
        self.close()?;
        Ok(self.files)
    }

    fn close(&mut self) -> Result<(), ParquetError> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let mut spans = std::mem::take(&mut self.spans);
        spans.sort_by_key(|span| span.partition);
        let mut bounds = Bounds::default();
        if let (Some(first), Some(last), Some((from, to))) = (spans.first(), spans.last(), self.times.take()) {
            bounds.number("partition", first.partition, last.partition);
            bounds.number("offset", self.offsets.0, self.offsets.1);
            bounds.time(self.time_column, from, to);
        }
        let content = Content::Spans(self.input.topic.clone(), spans.into());
        self.files.push(writer.finish(&content, &bounds, self.input.now)?);
        self.place.clear();
        self.offsets = (u64::MAX, 0);
        self.bytes = 0;
        Ok(())
    }
}
