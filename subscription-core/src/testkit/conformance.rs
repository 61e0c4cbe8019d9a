//! What every plug-in must do, as suites that its author runs in one line. They panic with what is wrong.
//!
//! ```
//! use subscription_core::testkit::{block_on, conformance};
//! use subscription_core::{MemoryCounters, MemorySink, MemoryStore};
//!
//! block_on(conformance::table_store(async || {
//!     let lake = MemoryStore::new();
//!     async move || lake.handle()
//! }));
//! block_on(conformance::sink(
//!     async || {
//!         let sink = MemorySink::new();
//!         async move || sink.clone()
//!     },
//!     |sink, topic| Some(sink.events(topic).len()),
//! ));
//! block_on(conformance::counter_store(&MemoryCounters::new(), "run-1"));
//! ```

mod counters;
mod emitter;
mod sinks;
mod source;
mod store;

pub use counters::counter_store;
pub use emitter::emitter;
pub use sinks::{alert_sink, dead_letter_sink, sink};
pub use source::{source, source_records};
pub use store::table_store;
