//! A lake in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use uuid::Uuid;

use super::rows::MemoryTables;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Record, RecordBatch};
use crate::rows::{Admitted, DeadLetter, DeadLetters, EventBatch, EventRow};
use crate::store::{
    AcceptedId, Commit, Committed, Counter, GoldRows, IdLookup, PartitionState, RangeId, RangeKey, RangeRef,
    RangeWrite, Settings, Table, TableCommit, TablePosition, TableSpan, TableStore,
};
use crate::time::{Timestamp, WindowKind};

/// A [`TableStore`] in memory, strict about what it is given: a commit that breaks the caller's side of the contract is
/// an error of kind [`ErrorKind::Invariant`].
///
/// A process that dies is a handle that is dropped; the one that takes over has [`MemoryStore::handle`]. A test that
/// wants to try several futures of one lake takes a [`MemoryStore::fork`] for each.
#[derive(Debug)]
pub struct MemoryStore {
    lake: Arc<Mutex<Lake>>,
    writer: u64,
}

/// What all handles share. Rows are held as the commits brought them, so that a copy is cheap.
#[derive(Debug, Clone, Default)]
struct Lake {
    partitions: BTreeMap<(Arc<str>, u32), Partition>,
    settings: Option<Settings>,
    ranges_named: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Partition {
    tables: [TablePosition; Table::ALL.len()],
    /// By table the last write: its writer, its `from`, and the ranges it made.
    writes: [Option<(u64, u64, Vec<RangeId>)>; Table::ALL.len()],
    /// By table that is no Gold table, in offset order.
    pieces: [Vec<Piece>; 4],
    pub(super) ranges: BTreeMap<RangeId, StoredRange>,
}

/// The rows of a commit with `from ≤ offset < to`.
#[derive(Debug, Clone)]
struct Piece {
    admitted: Arc<Admitted>,
    from: u64,
    to: u64,
}

#[derive(Debug, Clone)]
pub(super) struct StoredRange {
    pub(super) table: Table,
    first: RangeKey,
    last: RangeKey,
    pub(super) rows: Arc<GoldRows>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

fn next_writer() -> u64 {
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    WRITERS.fetch_add(1, Ordering::Relaxed)
}

impl MemoryStore {
    /// An empty lake.
    pub fn new() -> Self {
        Self { lake: Arc::default(), writer: next_writer() }
    }

    /// The same lake, as another process sees it.
    pub fn handle(&self) -> Self {
        Self { lake: self.lake.clone(), writer: next_writer() }
    }

    /// A lake of its own that begins as this one is now.
    pub fn fork(&self) -> Self {
        Self { lake: Arc::new(Mutex::new(self.lock().clone())), writer: next_writer() }
    }

    /// All rows of a topic, each table sorted.
    pub fn tables(&self, topic: &str) -> MemoryTables {
        let lake = self.lock();
        let mut tables = MemoryTables::default();
        for ((_, partition), rows) in lake.partitions.iter().filter(|((t, _), _)| &**t == topic) {
            tables.add(*partition, rows);
        }
        tables.sort();
        tables
    }

    fn lock(&self) -> MutexGuard<'_, Lake> {
        // Nothing is changed before all is checked: a panic leaves the lake whole.
        self.lake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `read` on a partition, which is an empty one if nothing was ever written there.
    fn read<T>(&self, topic: &str, partition: u32, read: impl FnOnce(&Partition) -> T) -> T {
        match self.lock().partitions.get(&(Arc::from(topic), partition)) {
            Some(found) => read(found),
            None => read(&Partition::default()),
        }
    }
}

impl Piece {
    fn covers(&self, offset: u64) -> bool {
        (self.from..self.to).contains(&offset)
    }

    /// Its records of Bronze (or, with `dead`, of `dead_letter`), each with its index.
    fn records(&self, dead: bool) -> impl DoubleEndedIterator<Item = (u32, Record<'_>)> {
        self.admitted
            .records
            .iter()
            .enumerate()
            .map(|(index, record)| (index as u32, record))
            .filter(move |(_, record)| self.covers(record.offset()))
            .filter(move |(index, _)| self.admitted.dead.binary_search_by_key(index, |d| d.index).is_ok() == dead)
    }

    fn events(&self) -> impl Iterator<Item = (&EventBatch, &EventRow)> {
        let rows = self.admitted.accepted.rows().iter().filter(|row| self.covers(row.offset));
        rows.map(|row| (&self.admitted.accepted, row))
    }
}

impl Partition {
    fn pieces(&self, table: Table) -> &[Piece] {
        &self.pieces[table as usize]
    }

    /// The pieces that may have rows at or after `from`.
    fn pieces_from(&self, table: Table, from: u64) -> &[Piece] {
        let pieces = self.pieces(table);
        &pieces[pieces.partition_point(|piece| piece.to <= from)..]
    }

    pub(super) fn bronze(&self) -> impl Iterator<Item = Record<'_>> {
        self.pieces(Table::Bronze).iter().flat_map(|piece| piece.records(false)).map(|(_, record)| record)
    }

    pub(super) fn dead_letters(&self) -> impl Iterator<Item = (Record<'_>, &crate::DeadLetter)> {
        self.pieces(Table::DeadLetter).iter().flat_map(|piece| {
            let dead = piece.admitted.dead.iter();
            dead.map(|dead| (piece.admitted.records.get(dead.index as usize), dead))
                .filter(|(record, _)| piece.covers(record.offset()))
        })
    }

    pub(super) fn quarantined(&self) -> impl Iterator<Item = (Record<'_>, &crate::Quarantined)> {
        self.pieces(Table::Quarantine).iter().flat_map(|piece| {
            let rows = piece.admitted.quarantined.iter();
            rows.map(|row| (piece.admitted.records.get(row.index as usize), row))
                .filter(|(record, _)| piece.covers(record.offset()))
        })
    }

    pub(super) fn silver(&self) -> impl Iterator<Item = (&EventBatch, &EventRow)> {
        self.pieces(Table::Silver).iter().flat_map(Piece::events)
    }

    /// Whether the span can be written (`Some(false)`), was written by `writer` already (`Some(true)`), or neither.
    fn done(&self, table: Table, span: &TableSpan, writer: u64) -> Option<bool> {
        let position = self.tables[table as usize].position;
        let write = self.writes[table as usize].as_ref();
        if position == span.from {
            Some(false)
        } else if position == span.to && write.is_some_and(|(by, from, _)| *by == writer && *from == span.from) {
            Some(true)
        } else {
            None
        }
    }

    /// Puts `writes` in place of what they replace, or says what is wrong with them.
    fn replace(&mut self, writes: &[(RangeId, &RangeWrite)]) -> Result<(), String> {
        for (_, write) in writes {
            let known = |id: &&RangeId| self.ranges.get(*id).is_some_and(|range| range.table == write.table);
            if let Some(id) = write.replaces.iter().find(|id| !known(id)) {
                return Err(format!("no range {} to replace", id.0));
            }
        }
        for id in writes.iter().flat_map(|(_, write)| &write.replaces) {
            self.ranges.remove(id);
        }
        for (id, write) in writes {
            check_range(write)?;
            let (table, first, last) = (write.table, &write.first, &write.last);
            let mut others = self.ranges.iter().filter(|(_, range)| range.table == table);
            if let Some((other, _)) = others.find(|(_, range)| range.first <= *last && *first <= range.last) {
                return Err(format!("range from {first:?} to {last:?} overlaps {}", other.0));
            }
            let rows = Arc::new(write.rows.clone());
            self.ranges.insert(id.clone(), StoredRange { table, first: first.clone(), last: last.clone(), rows });
        }
        Ok(())
    }
}

/// What is wrong with a range by itself.
fn check_range(write: &RangeWrite) -> Result<(), String> {
    let keys: Vec<RangeKey> = match (&write.rows, write.table) {
        (GoldRows::Usage(rows), Table::UsageMinute | Table::UsageHour | Table::UsageMonth) => {
            rows.iter().map(|row| row.range_key()).collect()
        }
        (GoldRows::Endpoint(rows), Table::EndpointHour) => rows.iter().map(|row| row.range_key()).collect(),
        (GoldRows::Alerts(rows), Table::Alerts) => rows.iter().map(|row| row.range_key()).collect(),
        _ => return Err("rows of another table".to_owned()),
    };
    if keys.first() != Some(&write.first) || keys.last() != Some(&write.last) {
        return Err("a range that does not begin and end with its rows, or has none".to_owned());
    }
    if !keys.is_sorted() {
        return Err("rows that are not sorted by key".to_owned());
    }
    let together = |key: &RangeKey| match write.table {
        Table::UsageMonth => {
            WindowKind::Month.start(key.window_start) == WindowKind::Month.start(write.first.window_start)
        }
        _ => key.window_start.days() == write.first.window_start.days(),
    };
    if !keys.iter().all(together) {
        return Err(format!("rows of several values of {}", write.table.partition_column()));
    }
    Ok(())
}

fn invariant(message: impl Into<String>, table: Table, partition: u32) -> Error {
    Error::new(ErrorKind::Invariant, message).with("table", table.name()).with("partition", partition)
}

impl Lake {
    /// Makes one table's part of a commit, whole or not at all.
    fn commit_table(&mut self, commit: &Commit, part: &TableCommit, writer: u64) -> Result<Vec<RangeId>> {
        let table = part.table;
        let key = |span: &TableSpan| (commit.topic.clone(), span.partition);
        let mut done = None;
        for span in &part.spans {
            let found = self.partitions.entry(key(span)).or_default();
            let this = found.done(table, span, writer);
            // A commit is atomic: one of which some partitions are done is not the one made before.
            if this.is_none() || done.is_some() && done != this {
                return Err(Error::new(ErrorKind::Fenced, "another process has written to the table")
                    .with("table", table.name())
                    .with("partition", span.partition)
                    .with("position", found.tables[table as usize].position)
                    .with("expected", span.from)
                    .with_help("stop the other process, or drop what is not committed and go on from its position"));
            }
            done = this;
        }
        let mut ids = vec![None; commit.ranges.len()];
        let mut changed = Vec::new();
        for span in &part.spans {
            let writes = commit.ranges.iter().enumerate();
            let writes: Vec<(usize, &RangeWrite)> =
                writes.filter(|(_, write)| (write.table, write.partition) == (table, span.partition)).collect();
            let found = &self.partitions[&key(span)];
            if done == Some(true) {
                let made = found.writes[table as usize].iter().flat_map(|(_, _, made)| made);
                writes.iter().zip(made).for_each(|((at, _), id)| ids[*at] = Some(id.clone()));
                continue;
            }
            let mut found = found.clone();
            let mut named = Vec::new();
            for (at, write) in writes {
                let id = RangeId(format!("range-{}", self.ranges_named).into());
                self.ranges_named += 1;
                ids[at] = Some(id.clone());
                named.push((id, write));
            }
            found.write(commit, table, span, &named, writer)?;
            changed.push((key(span), found));
        }
        self.partitions.extend(changed);
        Ok(ids.into_iter().flatten().collect())
    }
}

impl Partition {
    fn write(
        &mut self,
        commit: &Commit,
        table: Table,
        span: &TableSpan,
        ranges: &[(RangeId, &RangeWrite)],
        writer: u64,
    ) -> Result<()> {
        let partition = span.partition;
        if span.to < span.from {
            return Err(invariant("a span that ends before it begins", table, partition));
        }
        if table.is_gold() {
            self.replace(ranges).map_err(|message| invariant(message, table, partition))?;
        } else {
            let mut position = 0;
            for admitted in commit.admitted.iter().filter(|admitted| admitted.records.partition() == partition) {
                let records = &admitted.records;
                if records.topic() != &commit.topic || records.from() < position {
                    return Err(invariant("rows of another topic, or out of order", table, partition));
                }
                position = records.to();
                let (from, to) = (span.from.max(records.from()), span.to.min(records.to()));
                if from < to {
                    self.pieces[table as usize].push(Piece { admitted: admitted.clone(), from, to });
                }
            }
        }
        let made = ranges.iter().map(|(id, _)| id.clone()).collect();
        self.writes[table as usize] = Some((writer, span.from, made));
        let stored = &mut self.tables[table as usize];
        stored.position = span.to;
        for (counter, value) in &span.counters {
            match stored.counters.iter_mut().find(|(kept, _)| kept == counter) {
                Some((_, kept)) if *value < *kept => {
                    return Err(invariant(format!("counter {} goes back", counter.name()), table, partition));
                }
                Some((_, kept)) => *kept = *value,
                None => stored.counters.push((*counter, *value)),
            }
        }
        stored.counters.sort_unstable_by_key(|(counter, _): &(Counter, i64)| *counter);
        Ok(())
    }
}

#[async_trait]
impl TableStore for MemoryStore {
    async fn state(&self, topic: &str, partitions: &[u32]) -> Result<Vec<PartitionState>> {
        let state = |partition: &Partition, number: u32| PartitionState {
            tables: partition.tables.clone(),
            ranges: partition
                .ranges
                .iter()
                .map(|(id, range)| RangeRef {
                    table: range.table,
                    partition: number,
                    id: id.clone(),
                    first: range.first.clone(),
                    last: range.last.clone(),
                    rows: range.rows.len() as u32,
                })
                .collect(),
        };
        Ok(partitions.iter().map(|number| self.read(topic, *number, |partition| state(partition, *number))).collect())
    }

    async fn partitions(&self, topic: &str) -> Result<Vec<u32>> {
        let lake = self.lock();
        let written = |partition: &Partition| partition.writes.iter().any(Option::is_some);
        let found = lake.partitions.iter().filter(|((t, _), partition)| &**t == topic && written(partition));
        Ok(found.map(|((_, partition), _)| *partition).collect())
    }

    async fn commit(&self, commit: Arc<Commit>) -> Result<Committed> {
        let mut lake = self.lock();
        for write in &commit.ranges {
            let span = |part: &TableCommit| part.spans.iter().any(|span| span.partition == write.partition);
            if !commit.tables.iter().any(|part| part.table == write.table && span(part)) {
                return Err(invariant(
                    "a range of a table that the commit does not move",
                    write.table,
                    write.partition,
                ));
            }
        }
        let mut by_table = HashMap::new();
        for part in &commit.tables {
            by_table.insert(part.table, lake.commit_table(&commit, part, self.writer)?.into_iter());
        }
        let ranges = commit.ranges.iter().filter_map(|write| by_table.get_mut(&write.table)?.next()).collect();
        Ok(Committed { ranges, ..Committed::default() })
    }

    async fn read_bronze(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        max_bytes: usize,
    ) -> Result<Option<RecordBatch>> {
        Ok(self.read(topic, partition, |rows| {
            let mut batch = RecordBatch::builder(topic.into(), partition, from);
            let pieces = rows.pieces_from(Table::Bronze, from).iter();
            for (_, record) in pieces.flat_map(|piece| piece.records(false)).filter(|(_, r)| r.offset() >= from) {
                if !batch.is_empty() && batch.bytes() >= max_bytes {
                    break;
                }
                batch.push_record(&record);
            }
            let to = batch.position();
            (!batch.is_empty()).then(|| batch.finish(to))
        }))
    }

    async fn last_record(&self, topic: &str, partition: u32, before: u64) -> Result<Option<RecordBatch>> {
        Ok(self.read(topic, partition, |rows| {
            let last = |table: Table| {
                let pieces = rows.pieces(table).iter().rev();
                pieces
                    .flat_map(|piece| piece.records(table == Table::DeadLetter).rev())
                    .map(|(_, record)| record)
                    .find(|record| record.offset() < before)
            };
            let found = [last(Table::Bronze), last(Table::DeadLetter)];
            found.into_iter().flatten().max_by_key(Record::offset).map(|record| {
                let mut batch = RecordBatch::builder(topic.into(), partition, record.offset());
                batch.push_record(&record);
                batch.finish(record.offset() + 1)
            })
        }))
    }

    async fn read_dead_letters(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        to: u64,
        max_rows: usize,
    ) -> Result<DeadLetters> {
        Ok(self.read(topic, partition, |rows| {
            let mut builder = RecordBatch::builder(topic.into(), partition, from);
            let mut letters: Vec<DeadLetter> = Vec::new();
            for (record, dead) in rows.dead_letters().filter(|(record, _)| (from..to).contains(&record.offset())) {
                if letters.len() == max_rows {
                    let to = builder.position();
                    return DeadLetters { records: builder.finish(to), letters };
                }
                builder.push_record(&record);
                letters.push(DeadLetter { index: letters.len() as u32, ..dead.clone() });
            }
            DeadLetters { records: builder.finish(to.max(from)), letters }
        }))
    }

    async fn read_silver(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        to: u64,
        max_rows: usize,
    ) -> Result<EventBatch> {
        Ok(self.read(topic, partition, |rows| {
            let mut batch = EventBatch::builder();
            let events = rows.pieces_from(Table::Silver, from).iter().flat_map(Piece::events);
            for (events, row) in events.filter(|(_, row)| (from..to).contains(&row.offset)).take(max_rows) {
                batch.push_copy(events, row);
            }
            batch.finish()
        }))
    }

    async fn read_ids(&self, topic: &str, since: &[(u32, Timestamp)]) -> Result<Vec<Vec<AcceptedId>>> {
        let of_partition = |(partition, since): &(u32, Timestamp)| {
            self.read(topic, *partition, |rows| {
                let wanted = rows.silver().filter(|(_, row)| row.event_timestamp >= *since);
                wanted
                    .map(|(events, row)| AcceptedId {
                        tenant_id: events.text(row.tenant_id).into(),
                        event_id: row.event_id,
                        event_timestamp: row.event_timestamp,
                    })
                    .collect()
            })
        };
        Ok(since.iter().map(of_partition).collect())
    }

    async fn lookup(&self, topic: &str, questions: &[IdLookup]) -> Result<Vec<Vec<Timestamp>>> {
        let mut answers = vec![Vec::new(); questions.len()];
        let mut asked: HashMap<u32, HashMap<(&str, Uuid), Vec<usize>>> = HashMap::new();
        for (index, question) in questions.iter().enumerate() {
            let of_partition = asked.entry(question.partition).or_default();
            of_partition.entry((&question.tenant_id, question.event_id)).or_default().push(index);
        }
        for (partition, asked) in asked {
            self.read(topic, partition, |rows| {
                for (events, row) in rows.silver() {
                    for index in asked.get(&(events.text(row.tenant_id), row.event_id)).into_iter().flatten() {
                        if (questions[*index].from..=questions[*index].to).contains(&row.event_timestamp) {
                            answers[*index].push(row.event_timestamp);
                        }
                    }
                }
            });
        }
        Ok(answers)
    }

    async fn load(&self, topic: &str, ranges: &[RangeRef]) -> Result<Vec<GoldRows>> {
        let load = |range: &RangeRef| {
            self.read(topic, range.partition, |rows| {
                let stored = rows.ranges.get(&range.id).filter(|stored| stored.table == range.table);
                stored.map(|stored| (*stored.rows).clone()).ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, "no such range")
                        .with("table", range.table.name())
                        .with("range", &range.id.0)
                })
            })
        };
        ranges.iter().map(load).collect()
    }

    async fn settings(&self) -> Result<Option<Settings>> {
        Ok(self.lock().settings.clone())
    }

    async fn put_settings(&self, settings: Settings) -> Result<()> {
        let mut lake = self.lock();
        if let Some(kept) = lake.settings.as_ref().filter(|kept| kept.version >= settings.version) {
            return Err(Error::new(ErrorKind::Fenced, "another process has changed the settings")
                .with("version", kept.version)
                .with_help("read the settings again and decide anew"));
        }
        lake.settings = Some(settings);
        Ok(())
    }
}
