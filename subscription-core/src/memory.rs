//! Plug-ins in memory: for tests, examples and whoever wants to look at rows without a lake.

mod rows;
mod sink;
mod source;
mod store;

pub use rows::{MemoryTables, StoredDeadLetter, StoredEvent, StoredQuarantined, StoredRecord};
pub use sink::{MemoryAlerts, MemoryDeadLetters, MemorySink};
pub use source::MemorySource;
pub use store::MemoryStore;
