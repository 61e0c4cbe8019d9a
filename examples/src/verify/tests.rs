use std::sync::LazyLock;

use futures::TryStreamExt;
use subscription_core::testkit::traffic::{Broken, Framing, Traffic, TrafficConfig};
use subscription_core::{MemorySource, RecordBatch as Records};
use subscription_delta::arrow::array::{Array, ArrayRef, Decimal128Array, Int64Array};
use subscription_delta::arrow::compute::concat_batches;
use subscription_delta::{DeltaConfig, DeltaStore, Scan};
use subscription_pipeline::Pipeline;

use super::verdict::EXAMPLES;
use super::*;

/// The rows and positions of a lake.
#[derive(Clone)]
struct Rows {
    standings: Vec<Standing>,
    tables: BTreeMap<Table, RecordBatch>,
}

/// A lake with every kind of trouble, filled by the pipeline.
static ROWS: LazyLock<Rows> = LazyLock::new(|| {
    let folder = tempfile::TempDir::new().expect("a folder");
    let runtime = subscription_pipeline::runtime().expect("a runtime");
    runtime.block_on(async {
        let config = DeltaConfig::new(&folder.path().display().to_string()).expect("a lake").durable(false);
        let store = Arc::new(DeltaStore::open(config).await.expect("a lake"));
        let mut traffic = TrafficConfig { events: 3_000, burst_share: 0.01, ..TrafficConfig::trouble(5) };
        // Routing is not checked here, so these would be accepted, and a tenant be in two partitions.
        traffic.broken.retain(|(broken, _)| *broken != Broken::Misrouted);
        let batches = Traffic::new(traffic).to_batches(3, Framing::Topic { gaps: 0.1 }, 4_000);
        let mut records: Vec<Records> = batches.into_iter().filter(|batch| batch.from() == 0).collect();
        records.sort_by_key(Records::partition);
        let source = MemorySource::new("usage", records);
        let pipeline = Pipeline::builder().source(source).store(store.clone()).build().expect("a pipeline");
        pipeline.run(std::future::pending()).await.expect("a run");
        let mut tables = BTreeMap::new();
        for table in Table::ALL {
            let batches: Vec<_> =
                store.scan(table, Scan::default()).await.expect("rows").try_collect().await.expect("rows");
            tables.insert(table, concat_batches(&DeltaStore::schema(table), &batches).expect("one schema"));
        }
        Rows { standings: crate::lake::standings(&store).await.expect("positions"), tables }
    })
});

impl Rows {
    fn verdict(&self) -> Verdict {
        let mut verifier = Verifier::new(self.standings.clone());
        for table in ORDER {
            // In two batches, as files come.
            let batch = &self.tables[&table];
            let half = batch.num_rows() / 2;
            verifier.add(table, &batch.slice(0, half)).expect("columns");
            verifier.add(table, &batch.slice(half, batch.num_rows() - half)).expect("columns");
        }
        if verifier.needs_payloads() {
            verifier.add_payloads(&self.tables[&Table::Bronze]).expect("columns");
            verifier.add_keys(&self.tables[&Table::Silver]).expect("columns");
        }
        verifier.finish()
    }

    /// The names of the checks that fail.
    fn broken(&self) -> Vec<&'static str> {
        let verdict = self.verdict();
        let broken: Vec<_> = verdict.checks.iter().filter(|check| check.broken > 0).map(|check| check.name).collect();
        assert_eq!(verdict.sound, broken.is_empty());
        assert_eq!(verdict.render().contains("BROKEN"), !verdict.sound);
        broken
    }

    fn with(&self, table: Table, change: impl FnOnce(&RecordBatch) -> RecordBatch) -> Self {
        let mut rows = self.clone();
        let changed = change(&rows.tables[&table]);
        rows.tables.insert(table, changed);
        rows
    }

    fn without_row(&self, table: Table, row: usize) -> Self {
        self.with(table, |batch| {
            let after = batch.slice(row + 1, batch.num_rows() - row - 1);
            concat_batches(&batch.schema(), [&batch.slice(0, row), &after]).expect("one schema")
        })
    }

    fn with_row_twice(&self, table: Table, row: usize) -> Self {
        self.with(table, |batch| concat_batches(&batch.schema(), [batch, &batch.slice(row, 1)]).expect("one schema"))
    }

    fn with_column(&self, table: Table, name: &str, column: impl FnOnce(&ArrayRef) -> ArrayRef) -> Self {
        self.with(table, |batch| {
            let at = batch.schema().index_of(name).expect("a column");
            let mut columns = batch.columns().to_vec();
            columns[at] = column(&columns[at]);
            RecordBatch::try_new(batch.schema(), columns).expect("the same type")
        })
    }

    /// One more in the first row.
    fn with_one_more(&self, table: Table, name: &str) -> Self {
        self.with_column(table, name, |column| {
            let column = column.as_any().downcast_ref::<Int64Array>().expect("a number");
            Arc::new(column.iter().enumerate().map(|(i, n)| n.map(|n| n + i64::from(i == 0))).collect::<Int64Array>())
        })
    }
}

const LEDGER: &str = "the ledger's counters agree with the rows";
const PLACE: &str = "each record is in its place once";
const ONCE: &str = "no event is accepted twice";
const DUPLICATE: &str = "each duplicate repeats an accepted event before it";
const GOLD: &str = "Gold counts each accepted event once";
const ALERT: &str = "each alert agrees with its window";
const COST: &str = "months cost what their endpoints do";

#[test]
fn a_lake_that_the_pipeline_filled_is_sound_and_was_looked_at() {
    let verdict = ROWS.verdict();
    assert!(verdict.sound, "{}", verdict.render());
    for check in &verdict.checks {
        assert!(check.checked > 0, "nothing to check: {}", check.name);
    }
}

#[test]
fn a_row_that_is_lost_is_missed() {
    assert_eq!(ROWS.without_row(Table::DeadLetter, 3).broken(), [LEDGER]);
    assert_eq!(ROWS.without_row(Table::Quarantine, 3).broken(), [LEDGER, DUPLICATE]);
    assert!(ROWS.without_row(Table::Bronze, 3).broken().contains(&LEDGER));
    let broken = ROWS.without_row(Table::Silver, 3).broken();
    assert!(broken.contains(&LEDGER) && broken.contains(&DUPLICATE) && broken.contains(&GOLD), "{broken:?}");
    for table in [Table::UsageMinute, Table::UsageHour, Table::EndpointHour, Table::UsageMonth] {
        assert!(ROWS.without_row(table, 0).broken().contains(&GOLD), "{}", table.name());
    }
}

#[test]
fn a_row_that_is_there_twice_is_found() {
    for table in [Table::DeadLetter, Table::Bronze, Table::Quarantine, Table::Silver] {
        let broken = ROWS.with_row_twice(table, 1).broken();
        assert!(broken.contains(&LEDGER) && broken.contains(&PLACE), "{}: {broken:?}", table.name());
    }
    assert!(ROWS.with_row_twice(Table::Silver, 1).broken().contains(&ONCE));
    for table in [Table::UsageMinute, Table::UsageHour, Table::EndpointHour, Table::UsageMonth] {
        assert!(ROWS.with_row_twice(table, 0).broken().contains(&GOLD), "{}", table.name());
    }
    assert_eq!(ROWS.with_row_twice(Table::Alerts, 0).broken(), [ALERT]);
}

#[test]
fn a_number_that_is_wrong_is_found() {
    for table in [Table::UsageMinute, Table::UsageHour, Table::UsageMonth] {
        assert!(ROWS.with_one_more(table, "total_requests").broken().contains(&GOLD), "{}", table.name());
    }
    assert_eq!(ROWS.with_one_more(Table::EndpointHour, "total_requests").broken(), [GOLD]);
    assert_eq!(ROWS.with_one_more(Table::Alerts, "total_requests").broken(), [ALERT]);
    let dearer = ROWS.with_column(Table::UsageMonth, "cost", |column| {
        let costs = column.as_any().downcast_ref::<Decimal128Array>().expect("a decimal");
        let dearer: Decimal128Array =
            costs.iter().enumerate().map(|(i, n)| n.map(|n| n + i128::from(i == 0))).collect();
        Arc::new(dearer.with_data_type(costs.data_type().clone()))
    });
    assert_eq!(dearer.broken(), [COST]);
    let mut rows = ROWS.clone();
    let silver = |standing: &&mut Standing| standing.table == Table::Silver;
    let standing = rows.standings.iter_mut().find(silver).expect("a position");
    for (counter, n) in &mut standing.counters {
        *n += i64::from(*counter == Counter::Duplicates);
    }
    assert_eq!(rows.broken(), [LEDGER]);
}

#[test]
fn a_record_beyond_the_position_is_found() {
    let mut rows = ROWS.clone();
    for standing in rows.standings.iter_mut().filter(|standing| standing.table == Table::Quarantine) {
        standing.position = 1;
    }
    assert!(rows.broken().contains(&PLACE));
}

/// As a crash may leave it: Gold stands where it did, and the rows of Silver behind that are not its fault.
#[test]
fn gold_may_be_behind() {
    let mut rows = ROWS.clone();
    for standing in rows.standings.iter_mut().filter(|standing| standing.table.is_gold()) {
        standing.position = 0;
        standing.counters.clear();
    }
    for table in Table::GOLD {
        rows = rows.with(table, |batch| batch.slice(0, 0));
    }
    assert_eq!(rows.broken(), [] as [&str; 0]);
    assert_eq!(Rows { standings: ROWS.standings.clone(), ..rows }.broken(), [GOLD]);
}

#[test]
fn examples_are_few_and_the_rest_is_counted() {
    let rows =
        ROWS.with(Table::UsageMinute, |batch| concat_batches(&batch.schema(), [batch, batch]).expect("one schema"));
    let verdict = rows.verdict();
    let check = verdict.checks.iter().find(|check| check.name == GOLD).expect("a check");
    assert_eq!(check.examples.len(), EXAMPLES);
    assert!(verdict.render().contains(" more\n"), "{}", verdict.render());
}
