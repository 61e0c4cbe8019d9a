//! What the tables must hold, computed a second time by plain loops over the records.
//!
//! The model shares nothing with the engines but the parsed event ([`judge`](crate::judge)) and the plans'
//! terms ([`Catalog::terms`]): it keeps every accepted key, every response time and every API key, and recounts. It is slow and
//! large where the engines are clever, and obviously right where they have to be believed.
//!
//! ```
//! use subscription_core::testkit::reference::{Comparison, Reference};
//! use subscription_core::testkit::traffic::{Framing, Traffic, TrafficConfig};
//! use subscription_core::{Catalog, Rules};
//!
//! let config = TrafficConfig { events: 100, ..TrafficConfig::trouble(1) };
//! let records = Traffic::new(config).to_batches(3, Framing::File, 10);
//! let reference = Reference::of(&records, &Rules::default(), &Catalog::default(), None);
//! assert!(reference.partitions.values().all(|partition| partition.counts.balanced()));
//! // `got` would be `Snapshot::read` of a store, or filled from what an engine answered.
//! let got = reference.tables.clone();
//! Comparison::with_reference().compare(&got, &reference.tables).unwrap();
//! ```

mod admit;
mod alerts;
mod compare;
mod snapshot;
mod usage;

use std::collections::BTreeMap;

pub use compare::{Comparison, Difference, Differences};
pub use snapshot::{DeadLetterRow, QuarantineRow, RecordRow, SilverRows, Snapshot};

use crate::partition::Routing;
use crate::plan::Catalog;
use crate::record::{Record, RecordBatch};
use crate::rows::Counts;
use crate::rules::Rules;
use crate::time::Timestamp;

/// What the tables hold once all records went through.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    /// The rows of every table, those of Gold with an empty `state`.
    pub tables: Snapshot,
    /// Where each partition ends.
    pub partitions: BTreeMap<u32, PartitionEnd>,
}

/// A partition after its last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionEnd {
    /// The ledger.
    pub counts: Counts,
    /// The greatest event time accepted less the lateness; `None` where nothing was accepted.
    pub watermark: Option<Timestamp>,
    /// The greatest ingestion time; `None` where there is no record.
    pub ingestion_time: Option<Timestamp>,
}

impl Reference {
    /// The tables of these records, which may be cut into batches in any way and come in any order. `routing` is where
    /// the topic has which tenant, `None` where that is not checked.
    ///
    /// Takes about 7 µs and, beside the records, 1 KiB a record.
    ///
    /// # Panics
    /// If `routing` has no partitions.
    pub fn of(batches: &[RecordBatch], rules: &Rules, catalog: &Catalog, routing: Option<Routing>) -> Self {
        let mut partitions: BTreeMap<u32, Vec<(&RecordBatch, Record<'_>)>> = BTreeMap::new();
        for batch in batches {
            let records = partitions.entry(batch.partition()).or_default();
            records.extend(batch.iter().map(|record| (batch, record)));
        }
        let mut reference = Self::default();
        for (partition, mut records) in partitions {
            records.sort_by_key(|(_, record)| record.offset());
            let mut model = admit::Partition::new(partition, rules, catalog, routing);
            for (batch, record) in records {
                model.take(batch, record, &mut reference.tables);
            }
            let end = model.finish(&mut reference.tables);
            reference.partitions.insert(partition, end);
        }
        reference
    }
}
