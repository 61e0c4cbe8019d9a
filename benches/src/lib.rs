//! The parts of an event's way, each alone: shared by the criterion benchmark `parts` and the harness `end_to_end`, which
//! compares a whole run with their sum.

mod process;
mod times;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use subscription_core::testkit::traffic::{Framing, Traffic, TrafficConfig};
use subscription_core::{
    AdmitEngine, AdmitStart, Admitted, AggregateEngine, Catalog, Commit, EngineConfig, PartitionState, Prepared,
    RecordBatch, Result, Rules, Table, TableCommit, TableSpan, TableStore as _, peek,
};
use subscription_delta::{DeltaConfig, DeltaStore};

pub use process::{Usage, gateway, heading, pipeline, touch_memory, usage};
pub use times::Times;

/// The records of one partition of eight, and what the engine makes of them.
pub struct Parts {
    config: Arc<EngineConfig>,
    records: Vec<RecordBatch>,
    admitted: Vec<Arc<Admitted>>,
}

impl Parts {
    /// Of 400,000 events of 10,000 tenants: enough for memory to be as cold as it is in a long run.
    pub fn new() -> Self {
        let traffic = Traffic::new(TrafficConfig { events: 400_000, ..TrafficConfig::steady(1) });
        let records: Vec<_> =
            traffic.to_batches(8, Framing::File, 2_000).into_iter().filter(|batch| batch.partition() == 0).collect();
        let mut parts = Self { config: Arc::default(), records, admitted: Vec::new() };
        let mut engine = parts.admit_engine();
        parts.admitted = parts.parse().into_iter().map(|prepared| Arc::new(accept(&mut engine, prepared))).collect();
        parts
    }

    /// How many events a pass over any part is of.
    pub fn events(&self) -> u64 {
        self.records.iter().map(|batch| batch.len() as u64).sum()
    }

    /// What a file source does besides copying: finds key and time of each line.
    pub fn read(&self) {
        let records = self.records.iter().flat_map(RecordBatch::iter);
        records.for_each(|record| drop(black_box(peek(record.payload().unwrap_or_default()))));
    }

    /// Parses and validates.
    pub fn parse(&self) -> Vec<Prepared> {
        self.records.iter().map(|batch| AdmitEngine::prepare(&self.config, batch.clone())).collect()
    }

    /// An engine for [`Parts::deduplicate`].
    pub fn admit_engine(&self) -> AdmitEngine {
        AdmitEngine::new(self.config.clone(), self.records[0].topic().clone(), 0, AdmitStart::default())
    }

    /// Deduplicates what [`Parts::parse`] made.
    pub fn deduplicate(&self, engine: &mut AdmitEngine, prepared: Vec<Prepared>) {
        prepared.into_iter().for_each(|prepared| drop(black_box(accept(engine, prepared))));
    }

    /// An engine for [`Parts::windows`].
    ///
    /// # Errors
    /// Never, for tables that are empty.
    pub fn aggregate_engine(&self) -> Result<AggregateEngine> {
        AggregateEngine::new(Arc::new(Rules::default()), Arc::new(Catalog::default()), 0, &PartitionState::default())
    }

    /// Counts the accepted events in all their windows.
    ///
    /// # Errors
    /// Never, for events in order.
    pub fn windows(&self, engine: &mut AggregateEngine) -> Result<()> {
        for admitted in &self.admitted {
            drop(black_box(engine.apply(&admitted.accepted, admitted.records.to())?));
        }
        Ok(())
    }

    /// Encodes the rows of `table` and commits them to an empty lake.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn commit(&self, store: &DeltaStore, table: Table) -> Result<()> {
        let to = self.records.last().map_or(0, RecordBatch::to);
        let span = TableSpan { partition: 0, from: 0, to, counters: Vec::new() };
        let commit = Commit {
            topic: self.records[0].topic().clone(),
            tables: vec![TableCommit { table, spans: vec![span] }],
            admitted: self.admitted.clone(),
            ranges: Vec::new(),
        };
        store.commit(Arc::new(commit)).await.map(drop)
    }
}

impl Default for Parts {
    fn default() -> Self {
        Self::new()
    }
}

fn accept(engine: &mut AdmitEngine, mut prepared: Prepared) -> Admitted {
    let asked = engine.lookups(&mut prepared).len();
    engine.apply(prepared, &vec![Vec::new(); asked]).expect("records in order")
}

/// A lake in an empty folder.
///
/// # Errors
/// Those of the store.
pub async fn lake(folder: &Path) -> Result<DeltaStore> {
    DeltaStore::open(DeltaConfig::new(&folder.to_string_lossy())?).await
}
