//! Core.
mod clock;
mod decimal;
mod error;
mod event;
mod gold;
mod partition;
mod plan;
mod record;
mod rows;
mod rules;
mod sink;
mod source;
mod store;
mod time;
mod validate;

pub use clock::{Clock, SystemClock};
pub use decimal::{Money, Price, Units};
pub use error::{Error, ErrorKind, Result};
pub use event::ApiUsageEvent;
pub use gold::{AlertRow, AlertType, EndpointRow, Severity, UsageRow};
pub use partition::murmur2_partition;
pub use plan::{Catalog, Terms};
pub use record::{Header, MAX_PAYLOAD_BYTES, Record, RecordBatch, RecordBatchBuilder, TOO_LARGE_KEPT_BYTES, Text};
pub use rows::{Admitted, Counts, DeadLetter, EventBatch, EventBatchBuilder, EventRow, HttpMethod, Quarantined};
pub use rules::{AlertRules, BillingRules, Rules};
pub use sink::{AlertSink, Delivery, Sink};
pub use source::{Source, SourceEvent, SourceIdentity, SourceProgress};
pub use store::{
    AcceptedId, Commit, Committed, Counter, GoldRows, IdLookup, PartitionState, RangeId, RangeKey, RangeRef,
    RangeWrite, Settings, Table, TableCommit, TablePosition, TableSpan, TableStore,
};
pub use time::{Timestamp, WindowKind};
pub use validate::{Invalid, Judged};
