#![doc = include_str!("../README.md")]

mod append;
mod bronze;
mod cache;
mod columns;
mod config;
mod error;
mod failpoint;
mod file;
mod fsync;
mod gold;
mod group;
mod log;
mod lookup;
mod maintain;
mod read;
mod scan;
mod schema;
mod settings;
mod silver;
#[cfg(feature = "sql")]
mod sql;
mod store;
mod values;

pub use config::{Compression, DeltaConfig};
/// The Arrow of the batches that [`DeltaStore::scan`] returns.
pub use deltalake::arrow;
/// The crate of [`DeltaConfig::object_store`].
pub use deltalake::logstore::object_store;
pub use failpoint::FAILPOINTS;
pub use maintain::{Compacted, Vacuumed};
pub use scan::{PositionInfo, Scan, TableInfo};
pub use store::DeltaStore;
