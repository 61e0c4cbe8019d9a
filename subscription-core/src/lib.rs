#![doc = include_str!("../README.md")]

mod admit;
mod aggregate;
mod alert;
mod clock;
mod counter;
mod decimal;
mod dedup;
mod distinct;
mod emit;
mod endpoint;
mod enforce;
mod error;
mod event;
mod gold;
mod intern;
mod json;
mod limit;
mod memory;
mod partition;
mod plan;
mod ranges;
mod record;
mod rows;
mod rules;
mod schema;
mod sink;
mod sketch;
mod source;
mod spool;
mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
mod time;
mod validate;
mod varint;
mod window;

pub use admit::{AdmitEngine, AdmitStart, Ahead, EngineConfig, Prepared};
pub use aggregate::{AggregateEngine, GoldCut};
pub use clock::{Clock, SystemClock};
pub use counter::{Addition, Check, CounterStore, MemoryCounters, Scope, Settled, TenantCounters, WindowCounter};
pub use decimal::{Money, Price, Units};
pub use dedup::AdmitLimits;
pub use distinct::DistinctCount;
pub use emit::{ChannelEmitter, Draft, Emitted, EmitterCounts, EmitterStamp, EventEmitter, FileEmitter};
pub use enforce::{DecidedBy, Enforcer, EnforcerConfig, EnforcerStats, NearCacheConfig, Outcome};
pub use error::{Error, ErrorKind, Result};
pub use event::{ApiUsageEvent, EventBuilder};
pub use gold::{AlertRow, AlertType, EndpointRow, Severity, UsageRow};
pub use limit::{Decision, Limits, Reason, Usage, decide};
pub use memory::{
    MemoryAlerts, MemoryDeadLetters, MemorySink, MemorySource, MemoryStore, MemoryTables, StoredDeadLetter,
    StoredEvent, StoredQuarantined, StoredRecord,
};
pub use partition::{Partitioner, Routing, murmur2_partition};
pub use plan::{
    Catalog, CatalogBuilder, Enforcement, FailurePolicy, MAX_LIMIT, MAX_PRICE, Overrides, Plan, Terms, Valid,
    WindowAlgorithm,
};
pub use record::{Header, MAX_PAYLOAD_BYTES, Record, RecordBatch, RecordBatchBuilder, TOO_LARGE_KEPT_BYTES, Text};
pub use rows::{
    Admitted, Counts, DeadLetter, DeadLetters, EventBatch, EventBatchBuilder, EventRow, HttpMethod, Quarantined,
};
pub use rules::{AlertRules, BillingRules, Rules};
pub use schema::EVENT_SCHEMA;
pub use sink::{AlertSink, DeadLetterSink, Delivery, Sink};
pub use sketch::LatencySketch;
pub use source::{OffsetRange, Placement, Source, SourceEvent, SourceIdentity, SourceProgress, Survey};
pub use spool::{Fsync, Spool, SpoolConfig, SpoolReader, Spooled};
pub use store::{
    AcceptedId, Commit, Committed, Counter, GoldRows, IdLookup, PartitionState, RangeId, RangeKey, RangeRef,
    RangeWrite, Settings, Table, TableCommit, TablePosition, TableSpan, TableStore,
};
pub use time::{Timestamp, WindowKind};
pub use validate::{
    ContentMode, EMPTY_PAYLOAD, INVALID_UTF8, Invalid, Judged, NOT_AN_OBJECT, NOT_JSON, Peeked, TOO_LARGE,
    check_business, judge, peek,
};
