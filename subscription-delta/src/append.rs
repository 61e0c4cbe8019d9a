//! Appended rows, as files by the table's date.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use deltalake::parquet::errors::ParquetError;
use rayon::prelude::*;
use subscription_core::{Admitted, Table, TableCommit, Timestamp};

use crate::columns::Rows;
use crate::config::Compression;
use crate::file::{Bounds, Content, Encoded, FileWriter, ROW_GROUP_BYTES, Span, row_group_rows};
use crate::schema::Layout;

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

/// Rows by the UTC date that their table is partitioned by, each as its place in the input, in the input's order: they are
/// fetched from memory in the order in which they lie there, where rows sorted by event time would be fetched at random.
pub(crate) struct ByDate<T>(BTreeMap<(i32, bool), (Timestamp, Vec<T>)>);

impl<T> ByDate<T> {
    pub(crate) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds a row; rows that are `apart` are in files of their own.
    pub(crate) fn push(&mut self, time: Timestamp, apart: bool, row: T) {
        self.0.entry((time.days(), apart)).or_insert_with(|| (time, Vec::new())).1.push(row);
    }

    /// The files of all dates; see [`files`].
    pub(crate) fn files<C: Rows>(
        self,
        input: &Input<'_>,
        origin: impl Fn(&T) -> Origin + Sync,
        append: impl Fn(&mut C, &T) -> Result<(), ParquetError> + Sync,
    ) -> Result<Vec<Encoded>, ParquetError>
    where
        T: Sync,
    {
        let dates: Vec<_> = self.0.into_values().collect();
        let of_date = |(time, rows): &(Timestamp, Vec<T>)| files(input, &time.date(), rows, &origin, &append);
        let files = dates.par_iter().map(of_date).collect::<Result<Vec<_>, _>>()?;
        Ok(files.into_iter().flatten().collect())
    }
}

/// Bytes of texts, about, after which another file is begun.
const FILE_BYTES: usize = 1 << 30;

/// Where a row comes from, and how long its texts are.
pub(crate) struct Origin {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    /// What the table has as its time.
    pub(crate) time: Timestamp,
    pub(crate) bytes: usize,
}

/// The files of rows of one date; `append` adds a row to the columns. Row groups are encoded side by side, on as many
/// threads as Rayon's pool has.
fn files<R: Sync, C: Rows>(
    input: &Input<'_>,
    date: &str,
    rows: &[R],
    origin: impl Fn(&R) -> Origin,
    append: impl Fn(&mut C, &R) -> Result<(), ParquetError> + Sync,
) -> Result<Vec<Encoded>, ParquetError> {
    let (mut files, mut left) = (Vec::new(), rows);
    while !left.is_empty() {
        let mut outline = Outline { group_rows: row_group_rows(left.len()), ..Outline::default() };
        for row in left {
            outline.add(origin(row));
            if outline.bytes >= FILE_BYTES {
                break;
            }
        }
        let (rows, rest) = left.split_at(outline.rows());
        left = rest;
        let writer = FileWriter::new(input.table, date.to_owned(), rows.len(), input.codec)?;
        let groups: Vec<&[R]> = outline.groups.iter().map(|group| &rows[group.clone()]).collect();
        let encode = |(index, rows): (usize, &&[R])| writer.row_group(index, rows, &append);
        let groups = groups.par_iter().enumerate().map(encode).collect::<Result<_, _>>()?;
        let (content, bounds) = self::outline(input.table, input.topic, outline.spans, outline.times);
        files.push(writer.finish(groups, &content, &bounds, input.now)?);
    }
    Ok(files)
}

/// What is known of a file before it is encoded.
#[derive(Default)]
struct Outline {
    /// Most rows of a row group.
    group_rows: usize,
    /// Its row groups, as places of rows.
    groups: Vec<Range<usize>>,
    group_bytes: usize,
    bytes: usize,
    spans: Vec<Span>,
    /// Where a partition's span is.
    places: HashMap<u32, usize>,
    times: Option<(Timestamp, Timestamp)>,
}

impl Outline {
    fn rows(&self) -> usize {
        self.groups.last().map_or(0, |group| group.end)
    }

    fn add(&mut self, Origin { partition, offset, time, bytes }: Origin) {
        let rows = self.rows();
        match self.groups.last_mut() {
            Some(group) if group.len() < self.group_rows && self.group_bytes < ROW_GROUP_BYTES => group.end += 1,
            _ => {
                self.groups.push(rows..rows + 1);
                self.group_bytes = 0;
            }
        }
        self.group_bytes += bytes;
        self.bytes += bytes;
        let spans = &mut self.spans;
        let place = match spans.last() {
            Some(last) if last.partition == partition => spans.len() - 1,
            _ => *self.places.entry(partition).or_insert_with(|| {
                spans.push(Span { partition, first: offset, last: offset, rows: 0 });
                spans.len() - 1
            }),
        };
        let span = &mut spans[place];
        (span.first, span.last, span.rows) = (span.first.min(offset), span.last.max(offset), span.rows + 1);
        self.times = Some(self.times.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
    }
}

/// What the log is told of a file with these rows.
pub(crate) fn outline(
    table: Table,
    topic: &Arc<str>,
    mut spans: Vec<Span>,
    times: Option<(Timestamp, Timestamp)>,
) -> (Content, Bounds) {
    spans.sort_by_key(|span| span.partition);
    let mut bounds = Bounds::default();
    if let (Some(first), Some(last)) = (spans.first(), spans.last()) {
        let offsets = (spans.iter().map(|span| span.first).min(), spans.iter().map(|span| span.last).max());
        bounds.number("partition", first.partition, last.partition);
        bounds.number("offset", offsets.0, offsets.1);
    }
    if let Some((from, to)) = times {
        bounds.time(Layout::of(table).time, from, to);
    }
    (Content::Spans(topic.clone(), spans.into()), bounds)
}
