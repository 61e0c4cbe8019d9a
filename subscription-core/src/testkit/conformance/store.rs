//! The contract of [`TableStore`].

use std::sync::Arc;

use super::super::samples::{self, SAMPLE_SPAN, SAMPLE_TIME, admitted};
use crate::error::ErrorKind;
use crate::memory::{StoredEvent, StoredRecord};
use crate::record::RecordBatch;
use crate::rows::{Admitted, DeadLetters, EventBatch};
use crate::store::{
    AcceptedId, Commit, Committed, Counter, GoldRows, IdLookup, PartitionState, RangeRef, RangeWrite, Settings, Table,
    TableCommit, TablePosition, TableSpan, TableStore,
};
use crate::time::{DAY, MINUTE, Timestamp};

const TOPIC: &str = "usage";
/// The tables of records, in commit order.
const RECORDS: [Table; 4] = [Table::DeadLetter, Table::Bronze, Table::Quarantine, Table::Silver];

/// Runs all checks of a [`TableStore`].
///
/// `fresh` makes an empty lake and answers how to open it. What is opened twice must act as two processes that share
/// the lake, and not know of each other but through it.
///
/// # Panics
/// If the store breaks the contract.
pub async fn table_store<O, S>(fresh: impl AsyncFn() -> O)
where
    O: AsyncFn() -> S,
    S: TableStore,
{
    let open = fresh().await;
    an_empty_lake_has_nothing(&open().await).await;
    let open = fresh().await;
    records_are_read_back(&open().await, &open().await).await;
    let open = fresh().await;
    reads_are_cut_where_asked(&open().await).await;
    let open = fresh().await;
    dead_letters_are_read_back(&open().await, &open().await).await;
    let open = fresh().await;
    spans_cut_rows(&open().await).await;
    let open = fresh().await;
    partitions_and_topics_are_apart(&open().await).await;
    let open = fresh().await;
    stale_writers_are_fenced(&open().await, &open().await).await;
    let open = fresh().await;
    a_commit_may_be_made_again(&open().await, &open().await).await;
    let open = fresh().await;
    counters_are_kept(&open().await).await;
    let open = fresh().await;
    ids_are_found(&open().await).await;
    let open = fresh().await;
    ranges_are_read_back(&open().await, &open().await).await;
    let open = fresh().await;
    ranges_are_replaced(&open().await, &open().await).await;
    let open = fresh().await;
    settings_are_compared_and_set(&open().await, &open().await).await;
}

fn span(partition: u32, from: u64, to: u64) -> TableSpan {
    TableSpan { partition, from, to, counters: Vec::new() }
}

fn commit(tables: &[Table], spans: &[TableSpan], rows: &[&Arc<Admitted>]) -> Commit {
    Commit {
        topic: TOPIC.into(),
        tables: tables.iter().map(|table| TableCommit { table: *table, spans: spans.to_vec() }).collect(),
        admitted: rows.iter().map(|rows| Arc::clone(rows)).collect(),
        ranges: Vec::new(),
    }
}

/// A commit that moves the tables of the ranges.
fn gold(spans: &[TableSpan], ranges: Vec<RangeWrite>) -> Commit {
    let mut tables: Vec<Table> = ranges.iter().map(|range| range.table).collect();
    tables.sort_unstable();
    tables.dedup();
    Commit { ranges, ..commit(&tables, spans, &[]) }
}

async fn made<S: TableStore>(store: &S, commit: Commit) -> Committed {
    let wanted = commit.ranges.len();
    let committed = store.commit(commit.into()).await.expect("a commit that fits");
    assert_eq!(committed.ranges.len(), wanted, "a name for every range written");
    committed
}

async fn fenced<S: TableStore>(store: &S, commit: Commit, why: &str) {
    match store.commit(commit.into()).await {
        Ok(_) => panic!("not fenced: {why}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced, "{why}: {error}"),
    }
}

async fn state<S: TableStore>(store: &S, partition: u32) -> PartitionState {
    let states = store.state(TOPIC, &[partition]).await.expect("a state");
    assert_eq!(states.len(), 1, "a state for each partition asked for");
    states.into_iter().next().unwrap_or_default()
}

async fn positions<S: TableStore>(store: &S, partition: u32) -> [u64; 4] {
    let state = state(store, partition).await;
    RECORDS.map(|table| state.position(table))
}

/// All rows of Bronze at or after `from`, read in parts.
async fn bronze<S: TableStore>(store: &S, partition: u32, from: u64, max_bytes: usize) -> Vec<StoredRecord> {
    let (mut rows, mut position) = (Vec::new(), from);
    while let Some(batch) = store.read_bronze(TOPIC, partition, position, max_bytes).await.expect("rows of Bronze") {
        assert!(!batch.is_empty(), "a batch without records instead of none");
        assert_eq!((&**batch.topic(), batch.partition()), (TOPIC, partition));
        assert_eq!(batch.from(), position, "the span begins where it was asked for");
        assert_eq!(Some(batch.to()), batch.iter().last().map(|record| record.offset() + 1), "and ends with its rows");
        rows.extend(batch.iter().map(|record| StoredRecord::new(partition, &record)));
        position = batch.to();
    }
    rows
}

fn events(partition: u32, batch: &EventBatch) -> Vec<StoredEvent> {
    batch.rows().iter().map(|row| StoredEvent::new(partition, batch, row)).collect()
}

/// All rows of Silver with `from ≤ offset < to`, read in parts.
async fn silver<S: TableStore>(store: &S, partition: u32, from: u64, to: u64, max_rows: usize) -> Vec<StoredEvent> {
    let (mut rows, mut position) = (Vec::new(), from);
    loop {
        let batch = store.read_silver(TOPIC, partition, position, to, max_rows).await.expect("rows of Silver");
        assert!(batch.rows().len() <= max_rows, "{} rows instead of {max_rows}", batch.rows().len());
        let Some(last) = batch.rows().last() else { return rows };
        position = last.offset + 1;
        rows.extend(events(partition, &batch));
    }
}

/// What Bronze must hold of rows.
fn bronze_rows(rows: &Admitted) -> Vec<StoredRecord> {
    let dead: Vec<u32> = rows.dead.iter().map(|dead| dead.index).collect();
    let records = rows.records.iter().enumerate().filter(|(index, _)| !dead.contains(&(*index as u32)));
    records.map(|(_, record)| StoredRecord::new(rows.records.partition(), &record)).collect()
}

fn silver_rows(rows: &Admitted) -> Vec<StoredEvent> {
    events(rows.records.partition(), &rows.accepted)
}

async fn an_empty_lake_has_nothing<S: TableStore>(store: &S) {
    assert_eq!(store.state(TOPIC, &[0, 7]).await.expect("a state"), vec![PartitionState::default(); 2]);
    assert_eq!(store.state(TOPIC, &[]).await.expect("a state"), []);
    assert_eq!(store.partitions(TOPIC).await.expect("partitions"), Vec::<u32>::new());
    assert_eq!(bronze(store, 0, 0, 1_000).await, []);
    assert!(store.last_record(TOPIC, 0, u64::MAX).await.expect("no record").is_none());
    assert_eq!(silver(store, 0, 0, u64::MAX, 10).await, []);
    assert_eq!(store.read_ids(TOPIC, &[(0, Timestamp::MIN)]).await.expect("ids"), [vec![]]);
    assert_eq!(store.read_ids(TOPIC, &[]).await.expect("ids of nobody"), Vec::<Vec<_>>::new());
    let question = IdLookup {
        partition: 0,
        tenant_id: "t".into(),
        event_id: samples::event_id(0),
        from: Timestamp::MIN,
        to: Timestamp::MAX,
    };
    assert_eq!(store.lookup(TOPIC, &[question]).await.expect("answers"), [vec![]]);
    assert_eq!(store.lookup(TOPIC, &[]).await.expect("answers"), Vec::<Vec<Timestamp>>::new());
    assert_eq!(store.load(TOPIC, &[]).await.expect("rows"), []);
    assert_eq!(store.settings().await.expect("settings"), None);
}

async fn records_are_read_back<S: TableStore>(store: &S, other: &S) {
    let first = Arc::new(admitted(TOPIC, 2, 0));
    let second = Arc::new(admitted(TOPIC, 2, SAMPLE_SPAN));
    made(store, commit(&RECORDS, &[span(2, 0, SAMPLE_SPAN)], &[&first])).await;
    let to = 2 * SAMPLE_SPAN;
    made(store, commit(&RECORDS, &[span(2, SAMPLE_SPAN, to)], &[&second])).await;
    let wanted_bronze = [bronze_rows(&first), bronze_rows(&second)].concat();
    let wanted_silver = [silver_rows(&first), silver_rows(&second)].concat();
    for store in [store, other] {
        assert_eq!(positions(store, 2).await, [to; 4]);
        assert_eq!(store.partitions(TOPIC).await.expect("partitions"), [2]);
        assert_eq!(bronze(store, 2, 0, usize::MAX).await, wanted_bronze);
        assert_eq!(silver(store, 2, 0, to, usize::MAX).await, wanted_silver);
        last_records_are_those_before(store, &[&first, &second]).await;
    }
    // A position that moves on without rows.
    made(store, commit(&RECORDS, &[span(2, to, 1_000)], &[])).await;
    assert_eq!(positions(other, 2).await, [1_000; 4]);
    assert_eq!(bronze(other, 2, 0, usize::MAX).await, wanted_bronze);
}

/// A dead letter is read back too, with or without a payload.
async fn last_records_are_those_before<S: TableStore>(store: &S, rows: &[&Arc<Admitted>]) {
    let records = rows.iter().flat_map(|rows| rows.records.iter());
    let records: Vec<StoredRecord> = records.map(|record| StoredRecord::new(2, &record)).collect();
    for before in 0..=2 * SAMPLE_SPAN {
        let found = store.last_record(TOPIC, 2, before).await.expect("a record");
        if let Some(batch) = &found {
            let offset = batch.get(0).offset();
            assert_eq!((batch.len(), batch.from(), batch.to()), (1, offset, offset + 1), "the batch of a record alone");
        }
        let found = found.map(|batch| StoredRecord::new(2, &batch.get(0)));
        let wanted = records.iter().rev().find(|record| record.offset < before);
        assert_eq!(found.as_ref(), wanted, "the last record before {before}");
    }
}

/// Every row of `dead_letter` from `from` on, read so many at a time.
async fn dead_letters<S: TableStore>(store: &S, partition: u32, from: u64, to: u64, max_rows: usize) -> Vec<Letter> {
    let (mut rows, mut position) = (Vec::new(), from);
    loop {
        let read = store.read_dead_letters(TOPIC, partition, position, to, max_rows).await.expect("dead letters");
        assert!(read.letters.len() <= max_rows, "{} rows instead of {max_rows}", read.letters.len());
        assert_eq!((read.records.from(), read.records.partition()), (position, partition));
        assert_eq!(read.records.len(), read.letters.len(), "a record for each letter");
        rows.extend(letters(&read));
        position = read.records.to();
        if position >= to {
            return rows;
        }
        assert_eq!(read.letters.len(), max_rows, "a span that ends before there are so many");
    }
}

type Letter = (StoredRecord, &'static str, String);

fn letters(read: &DeadLetters) -> Vec<Letter> {
    let partition = read.records.partition();
    let letter = |(record, dead): (crate::Record<'_>, &crate::DeadLetter)| {
        (StoredRecord::new(partition, &record), dead.code, dead.error.clone())
    };
    read.iter().map(letter).collect()
}

async fn dead_letters_are_read_back<S: TableStore>(store: &S, other: &S) {
    assert_eq!(dead_letters(store, 3, 0, 100, 5).await, [], "an empty lake");
    let rows = [0, 1].map(|n| Arc::new(admitted(TOPIC, 3, n * SAMPLE_SPAN)));
    made(store, commit(&RECORDS, &[span(3, 0, SAMPLE_SPAN)], &[&rows[0]])).await;
    made(store, commit(&RECORDS, &[span(3, SAMPLE_SPAN, 2 * SAMPLE_SPAN)], &[&rows[1]])).await;
    let all: Vec<Letter> = rows.iter().flat_map(|rows| letters(&DeadLetters::of(rows, rows.records.from()))).collect();
    assert_eq!(all.len(), 8, "four a sample");
    for store in [store, other] {
        for max_rows in [1, 2, 3, 1_000] {
            for (from, to) in [(0, 2 * SAMPLE_SPAN), (0, 1_000), (3, 25), (5, 5), (6, SAMPLE_SPAN + 2)] {
                let wanted: Vec<_> = all.iter().filter(|(row, ..)| (from..to).contains(&row.offset)).cloned().collect();
                let found = dead_letters(store, 3, from, to, max_rows).await;
                assert_eq!(found, wanted, "{from}..{to}, {max_rows} rows at a time");
            }
        }
        assert_eq!(dead_letters(store, 4, 0, 100, 5).await, [], "another partition");
    }
}

async fn reads_are_cut_where_asked<S: TableStore>(store: &S) {
    let rows = [0, 1, 2].map(|n| Arc::new(admitted(TOPIC, 0, n * SAMPLE_SPAN)));
    let to = 3 * SAMPLE_SPAN;
    made(store, commit(&RECORDS, &[span(0, 0, to)], &rows.each_ref())).await;
    let all_bronze: Vec<StoredRecord> = rows.iter().flat_map(|rows| bronze_rows(rows)).collect();
    let all_silver: Vec<StoredEvent> = rows.iter().flat_map(|rows| silver_rows(rows)).collect();
    for max_bytes in [0, 1, 100, 10_000] {
        assert_eq!(bronze(store, 0, 0, max_bytes).await, all_bronze, "{max_bytes} bytes at a time");
    }
    let read = |max_bytes| store.read_bronze(TOPIC, 0, 0, max_bytes);
    let one = read(1).await.expect("rows").map(|batch| batch.len());
    assert_eq!(one, Some(1), "records for a single byte");
    for from in 0..to + 2 {
        let wanted: Vec<_> = all_bronze.iter().filter(|row| row.offset >= from).cloned().collect();
        assert_eq!(bronze(store, 0, from, usize::MAX).await, wanted, "Bronze from {from}");
        let end = from + 15;
        let wanted: Vec<_> = all_silver.iter().filter(|row| (from..end).contains(&row.offset)).cloned().collect();
        assert_eq!(silver(store, 0, from, end, usize::MAX).await, wanted, "Silver from {from} to {end}");
    }
    for max_rows in [1, 2, 5, 100] {
        assert_eq!(silver(store, 0, 0, to, max_rows).await, all_silver, "{max_rows} rows at a time");
    }
}

async fn spans_cut_rows<S: TableStore>(store: &S) {
    let rows = Arc::new(admitted(TOPIC, 0, 0));
    let (all_bronze, all_silver) = (bronze_rows(&rows), silver_rows(&rows));
    // Bronze in two parts, Silver in three, from the same rows.
    for (tables, cuts) in [
        (&[Table::DeadLetter, Table::Bronze], &[0, 7, SAMPLE_SPAN][..]),
        (&[Table::Quarantine, Table::Silver], &[0, 1, 9, SAMPLE_SPAN][..]),
    ] {
        for (from, to) in cuts.iter().zip(&cuts[1..]) {
            made(store, commit(tables, &[span(0, *from, *to)], &[&rows])).await;
            let found = bronze(store, 0, 0, usize::MAX).await;
            let bronze_to = state(store, 0).await.position(Table::Bronze);
            assert!(
                found.iter().eq(all_bronze.iter().filter(|row| row.offset < bronze_to)),
                "Bronze cut at {bronze_to}"
            );
            let found = silver(store, 0, 0, u64::MAX, usize::MAX).await;
            let silver_to = state(store, 0).await.position(Table::Silver);
            assert!(
                found.iter().eq(all_silver.iter().filter(|row| row.offset < silver_to)),
                "Silver cut at {silver_to}"
            );
        }
    }
    assert_eq!(bronze(store, 0, 0, usize::MAX).await, all_bronze);
    assert_eq!(silver(store, 0, 0, u64::MAX, usize::MAX).await, all_silver);
    let last = store.last_record(TOPIC, 0, 6).await.expect("a record").map(|batch| batch.get(0).payload_len());
    assert_eq!(last, Some(rows.records.get(5).payload_len()), "dead letters of the first part");
}

async fn partitions_and_topics_are_apart<S: TableStore>(store: &S) {
    let rows = [0, 1, 5].map(|partition| Arc::new(admitted(TOPIC, partition, 0)));
    let elsewhere = Arc::new(admitted("elsewhere", 0, 0));
    // Rows of partition 1 are there, but no table moves there.
    made(store, commit(&RECORDS, &[span(0, 0, SAMPLE_SPAN), span(5, 0, 10)], &rows.each_ref())).await;
    let mut of_elsewhere = commit(&RECORDS, &[span(0, 0, 1)], &[&elsewhere]);
    of_elsewhere.topic = "elsewhere".into();
    made(store, of_elsewhere).await;
    let mut found = store.partitions(TOPIC).await.expect("partitions");
    found.sort_unstable();
    assert_eq!(found, [0, 5]);
    assert_eq!(store.partitions("elsewhere").await.expect("partitions"), [0]);
    let states = store.state(TOPIC, &[5, 1, 0]).await.expect("states");
    let silver_positions: Vec<u64> = states.iter().map(|state| state.position(Table::Silver)).collect();
    assert_eq!(silver_positions, [10, 0, SAMPLE_SPAN], "in the order asked for");
    assert_eq!(bronze(store, 0, 0, usize::MAX).await, bronze_rows(&rows[0]));
    assert_eq!(bronze(store, 1, 0, usize::MAX).await, []);
    assert_eq!(silver(store, 1, 0, u64::MAX, usize::MAX).await, []);
    let wanted: Vec<_> = silver_rows(&rows[2]).into_iter().filter(|row| row.offset < 10).collect();
    assert_eq!(silver(store, 5, 0, u64::MAX, usize::MAX).await, wanted);
    let found = store.read_ids("elsewhere", &[(7, Timestamp::MIN), (0, Timestamp::MIN)]).await.expect("ids");
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1], "ids of the other topic");
    let found: Option<RecordBatch> = store.last_record("elsewhere", 0, u64::MAX).await.expect("a record");
    assert_eq!(found.map(|batch| batch.to()), Some(1));
}

async fn stale_writers_are_fenced<S: TableStore>(store: &S, other: &S) {
    let rows = Arc::new(admitted(TOPIC, 0, 0));
    let next = Arc::new(admitted(TOPIC, 0, SAMPLE_SPAN));
    let whole = || commit(&RECORDS, &[span(0, 0, SAMPLE_SPAN)], &[&rows]);
    let (bronze_tables, silver_tables) = RECORDS.split_at(2);
    made(store, commit(bronze_tables, &[span(0, 0, SAMPLE_SPAN)], &[&rows])).await;
    fenced(other, whole(), "the position was moved by another process").await;
    assert_eq!(positions(other, 0).await, [SAMPLE_SPAN, SAMPLE_SPAN, 0, 0], "tables behind the fenced one stay");
    fenced(store, commit(silver_tables, &[span(0, 5, SAMPLE_SPAN)], &[&rows]), "a gap between position and span").await;
    assert_eq!(positions(store, 0).await, [SAMPLE_SPAN, SAMPLE_SPAN, 0, 0]);

    // The first tables of a commit are made, those from the fenced one on are not.
    let to = 2 * SAMPLE_SPAN;
    fenced(store, commit(&RECORDS, &[span(0, SAMPLE_SPAN, to)], &[&next]), "Silver stands before the span").await;
    assert_eq!(positions(store, 0).await, [to, to, 0, 0]);
    let wanted = [bronze_rows(&rows), bronze_rows(&next)].concat();
    assert_eq!(bronze(other, 0, 0, usize::MAX).await, wanted);
    assert_eq!(silver(other, 0, 0, u64::MAX, usize::MAX).await, []);

    // One partition that is fenced keeps the table as it was for all.
    let third = Arc::new(admitted(TOPIC, 1, 0));
    let spans = [span(1, 0, SAMPLE_SPAN), span(0, 1, to)];
    fenced(store, commit(silver_tables, &spans, &[&third]), "one of two partitions").await;
    assert_eq!(positions(store, 1).await, [0; 4]);
    assert_eq!(silver(store, 1, 0, u64::MAX, usize::MAX).await, []);

    // Whoever begins where the tables stand may write, whichever process it is.
    made(other, commit(silver_tables, &[span(0, 0, SAMPLE_SPAN)], &[&rows])).await;
    made(store, commit(silver_tables, &[span(0, SAMPLE_SPAN, to)], &[&next])).await;
    let wanted = [silver_rows(&rows), silver_rows(&next)].concat();
    assert_eq!(silver(other, 0, 0, u64::MAX, usize::MAX).await, wanted);
}

async fn a_commit_may_be_made_again<S: TableStore>(store: &S, other: &S) {
    let rows = Arc::new(admitted(TOPIC, 0, 0));
    let range = samples::range(Table::UsageHour, 0, SAMPLE_TIME, &["a", "b"], &[]);
    let whole = || {
        let spans = [span(0, 0, SAMPLE_SPAN)];
        let tables = [&RECORDS[..], &[Table::UsageHour]].concat();
        Commit { ranges: vec![range.clone()], ..commit(&tables, &spans, &[&rows]) }
    };
    // As after a failure that let the first two tables through.
    let begun = Commit { ranges: Vec::new(), tables: whole().tables[..2].to_vec(), ..whole() };
    made(store, begun).await;
    let first = made(store, whole()).await;
    let again = made(store, whole()).await;
    assert_eq!(again.ranges, first.ranges, "the same names when a commit is made again");
    for store in [store, other] {
        assert_eq!(positions(store, 0).await, [SAMPLE_SPAN; 4]);
        assert_eq!(bronze(store, 0, 0, usize::MAX).await, bronze_rows(&rows), "nothing is doubled");
        assert_eq!(silver(store, 0, 0, u64::MAX, usize::MAX).await, silver_rows(&rows), "nothing is doubled");
        let ranges = state(store, 0).await.ranges;
        assert_eq!(ranges.iter().map(|range| &range.id).collect::<Vec<_>>(), first.ranges.iter().collect::<Vec<_>>());
    }
    fenced(other, whole(), "another process's commit is not one's own").await;
}

async fn counters_are_kept<S: TableStore>(store: &S) {
    let with = |from, to, counters: &[(Counter, i64)]| {
        let spans = [TableSpan { counters: counters.to_vec(), ..span(0, from, to) }];
        commit(&[Table::Quarantine, Table::Silver], &spans, &[])
    };
    let all: Vec<(Counter, i64)> =
        Counter::ALL.iter().zip([-5, i64::MAX - 1, 0, 3, 4, 5, 6]).map(|(c, n)| (*c, n)).collect();
    made(store, with(0, 10, &all[2..])).await;
    let silver = state(store, 0).await.table(Table::Silver).clone();
    assert_eq!(silver, TablePosition { position: 10, counters: all[2..].to_vec() });
    assert_eq!(silver.counter(Counter::Watermark), None, "never kept");
    made(store, with(10, 20, &all)).await;
    let found = state(store, 0).await;
    assert_eq!(found.table(Table::Silver), &TablePosition { position: 20, counters: all.clone() });
    assert_eq!(found.table(Table::Quarantine).counters, all);
    assert_eq!(found.table(Table::Bronze), &TablePosition::default());
    let later: Vec<(Counter, i64)> = all.iter().map(|(counter, value)| (*counter, value + 1)).collect();
    made(store, with(20, 30, &later)).await;
    assert_eq!(state(store, 0).await.table(Table::Silver).counters, later);
}

async fn ids_are_found<S: TableStore>(store: &S) {
    // The same ids in two partitions; one tenant's times are 10 s apart.
    let rows = [0, 1].map(|partition| Arc::new(admitted(TOPIC, partition, 0)));
    let more = Arc::new(admitted(TOPIC, 0, SAMPLE_SPAN));
    made(store, commit(&RECORDS, &[span(0, 0, SAMPLE_SPAN), span(1, 0, 1)], &rows.each_ref())).await;
    made(store, commit(&RECORDS, &[span(0, SAMPLE_SPAN, 2 * SAMPLE_SPAN)], &[&more])).await;
    let accepted: Vec<AcceptedId> = [&rows[0], &more]
        .iter()
        .flat_map(|rows| rows.accepted.rows().iter().map(|row| (&rows.accepted, row)))
        .map(|(batch, row)| AcceptedId {
            tenant_id: batch.text(row.tenant_id).into(),
            event_id: row.event_id,
            event_timestamp: row.event_timestamp,
        })
        .collect();
    let mut times: Vec<Timestamp> = accepted.iter().map(|id| id.event_timestamp).collect();
    times.extend([Timestamp::MIN, Timestamp::MAX, SAMPLE_TIME.plus_millis(DAY)]);
    let sorted = |mut ids: Vec<AcceptedId>| {
        ids.sort_unstable_by_key(|id| (id.event_timestamp, id.event_id));
        ids
    };
    for since in &times {
        let wanted: Vec<_> = accepted.iter().filter(|id| id.event_timestamp >= *since).cloned().collect();
        let mut found = store.read_ids(TOPIC, &[(0, *since)]).await.expect("ids");
        assert_eq!(found.len(), 1, "one partition was asked for");
        assert_eq!(sorted(found.remove(0)), sorted(wanted), "ids since {since}");
    }
    let mut questions = Vec::new();
    let mut wanted = Vec::new();
    for id in &accepted {
        for partition in [0, 1, 9] {
            for tenant in ["tenant-a", "tenant-b", "nobody"] {
                for (from, to) in [(-1, 1), (0, 0), (1, 1), (-1, -1), (-DAY, 0), (0, DAY), (-400 * DAY, 400 * DAY)] {
                    let time = id.event_timestamp;
                    let question = IdLookup {
                        partition,
                        tenant_id: tenant.into(),
                        event_id: id.event_id,
                        from: time.plus_millis(from),
                        to: time.plus_millis(to),
                    };
                    let there = partition == 0 || (partition == 1 && id.event_id == samples::event_id(0));
                    let found = there && *tenant == *id.tenant_id && from <= 0 && to >= 0;
                    wanted.push(if found { vec![time] } else { Vec::new() });
                    questions.push(question);
                }
            }
        }
    }
    let found = store.lookup(TOPIC, &questions).await.expect("answers");
    assert_eq!(found.len(), questions.len(), "an answer for each question");
    for ((question, found), wanted) in questions.iter().zip(found).zip(wanted) {
        assert_eq!(found, wanted, "{question:?}");
    }
    let elsewhere = store.lookup("elsewhere", &questions[..1]).await.expect("answers");
    assert_eq!(elsewhere, [vec![]], "another topic");

    // An id that was accepted at several times.
    let mut twice = EventBatch::builder();
    for (offset, minutes) in [(40, 0), (41, 90), (42, -90)] {
        samples::event(&mut twice, offset, "again", SAMPLE_TIME.plus_millis(minutes * MINUTE), false);
    }
    let mut batch = RecordBatch::builder(TOPIC.into(), 0, 40);
    (40..43).for_each(|offset| batch.push(offset, SAMPLE_TIME, None, Some(b"{}")));
    let mut twice = twice.finish();
    twice.rows.iter_mut().for_each(|row| row.event_id = samples::event_id(40));
    let rows = Arc::new(Admitted {
        records: batch.finish(43),
        dead: vec![],
        quarantined: vec![],
        accepted: twice,
        ..(*more).clone()
    });
    made(store, commit(&RECORDS, &[span(0, 40, 43)], &[&rows])).await;
    let at = |minutes: i64| SAMPLE_TIME.plus_millis(minutes * MINUTE);
    let question = |from, to| IdLookup {
        partition: 0,
        tenant_id: "again".into(),
        event_id: samples::event_id(40),
        from: at(from),
        to: at(to),
    };
    let questions = [question(-90, 90), question(-89, 90), question(1, 89), question(0, 0)];
    let mut found = store.lookup(TOPIC, &questions).await.expect("answers");
    found.iter_mut().for_each(|times| times.sort_unstable());
    assert_eq!(found, [vec![at(-90), at(0), at(90)], vec![at(0), at(90)], vec![], vec![at(0)]]);
}

/// The references of a partition's ranges in a table, by key.
async fn ranges<S: TableStore>(store: &S, partition: u32, table: Table) -> Vec<RangeRef> {
    let mut ranges = state(store, partition).await.ranges;
    ranges.retain(|range| range.table == table);
    ranges.sort_unstable_by(|a, b| a.first.cmp(&b.first));
    ranges
}

/// Whether the table has exactly the rows of `wanted`, which are in the order of keys.
async fn assert_ranges<S: TableStore>(store: &S, partition: u32, wanted: &[&RangeWrite]) {
    let table = wanted[0].table;
    let found = ranges(store, partition, table).await;
    let places = found.iter().map(|range| (&range.first, &range.last, range.rows as usize, range.partition));
    let wanted_places = wanted.iter().map(|range| (&range.first, &range.last, range.rows.len(), partition));
    assert_eq!(places.collect::<Vec<_>>(), wanted_places.collect::<Vec<_>>(), "the ranges of {}", table.name());
    let rows = store.load(TOPIC, &found).await.expect("rows");
    let wanted_rows: Vec<GoldRows> = wanted.iter().map(|range| range.rows.clone()).collect();
    assert_eq!(rows, wanted_rows, "the rows of {}", table.name());
}

async fn ranges_are_read_back<S: TableStore>(store: &S, other: &S) {
    let tenants = ["a", "b", "ü", "\u{1f600}"];
    let mut all = Vec::new();
    for table in Table::GOLD {
        // Two months, so also two dates.
        all.push(samples::range(table, 3, SAMPLE_TIME, &tenants, &[]));
        all.push(samples::range(table, 3, SAMPLE_TIME.plus_millis(DAY), &["a"], &[]));
    }
    let committed = made(store, gold(&[span(3, 0, 100)], all.clone())).await;
    for store in [store, other] {
        let found = state(store, 3).await;
        for table in Table::ALL {
            assert_eq!(found.position(table), if table.is_gold() { 100 } else { 0 }, "{}", table.name());
        }
        assert_eq!(found.ranges.len(), all.len());
        for pair in all.chunks(2) {
            assert_ranges(store, 3, &[&pair[0], &pair[1]]).await;
        }
        // In the order asked for, and by the names that the commit gave.
        let mut references: Vec<RangeRef> = Vec::new();
        for id in committed.ranges.iter().rev() {
            references.extend(found.ranges.iter().find(|range| range.id == *id).cloned());
        }
        let rows = store.load(TOPIC, &references).await.expect("rows");
        let wanted: Vec<GoldRows> = all.iter().rev().map(|range| range.rows.clone()).collect();
        assert_eq!(rows, wanted, "in the order asked for");
    }
    assert_eq!(state(store, 4).await, PartitionState::default());
}

async fn ranges_are_replaced<S: TableStore>(store: &S, other: &S) {
    for table in Table::GOLD {
        let day = |n: i64, tenants: &[&str], replaces: &[crate::RangeId]| {
            samples::range(table, 0, SAMPLE_TIME.plus_millis(n * 40 * DAY), tenants, replaces)
        };
        let neighbour = RangeWrite { partition: 1, ..day(0, &["a", "z"], &[]) };
        let (whole, next) = (day(0, &["a", "b", "c", "d"], &[]), day(1, &["a"], &[]));
        let spans = [span(0, 0, 10), span(1, 0, 10)];
        let first = made(store, gold(&spans, vec![whole.clone(), neighbour.clone(), next.clone()])).await;
        assert_ranges(other, 0, &[&whole, &next]).await;

        // Split in two, with a new row and a changed one.
        let (low, high) = (day(0, &["a", "b", "bb"], &first.ranges[..1]), day(0, &["c", "d"], &first.ranges[..1]));
        let second = made(other, gold(&[span(0, 10, 20)], vec![high.clone(), low.clone()])).await;
        assert_ranges(store, 0, &[&low, &high, &next]).await;
        assert_ranges(store, 1, &[&neighbour]).await;

        // A stale writer changes nothing.
        let stale = day(0, &["a", "b", "c", "d", "e"], &first.ranges[..1]);
        fenced(store, gold(&[span(0, 10, 20)], vec![stale]), "a range written before").await;
        assert_ranges(store, 0, &[&low, &high, &next]).await;

        // Merged again; the same commit made again changes nothing.
        let merged = day(0, &["a", "b", "bb", "c", "d"], &second.ranges);
        let merge = gold(&[span(0, 20, 30)], vec![merged.clone()]);
        let third = made(store, merge.clone()).await;
        assert_eq!(made(store, merge).await.ranges, third.ranges);
        assert_ranges(other, 0, &[&merged, &next]).await;

        // A position alone.
        made(store, commit(&[table], &[span(0, 30, 40)], &[])).await;
        assert_eq!(state(other, 0).await.position(table), 40);
        assert_ranges(other, 0, &[&merged, &next]).await;
    }
}

async fn settings_are_compared_and_set<S: TableStore>(store: &S, other: &S) {
    let settings = |version, json: &str| Settings { version, json: json.to_owned() };
    let first = settings(1, r#"{"name": "ü \"1\""}"#);
    store.put_settings(first.clone()).await.expect("the first settings");
    assert_eq!(other.settings().await.expect("settings"), Some(first.clone()));
    for version in [0, 1] {
        let error = other.put_settings(settings(version, "{}")).await.expect_err("an old version");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    }
    assert_eq!(store.settings().await.expect("settings"), Some(first));
    let second = settings(2, "{}");
    other.put_settings(second.clone()).await.expect("the next settings");
    let error = store.put_settings(settings(2, "{\"late\": true}")).await.expect_err("the same version");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert_eq!(store.settings().await.expect("settings"), Some(second));
}
