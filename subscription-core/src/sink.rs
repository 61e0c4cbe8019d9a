//! Whatever else wants rows.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::gold::AlertRow;
use crate::rows::{DeadLetters, EventBatch};

/// The accepted events of a span of one partition.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// The first offset of the span.
    pub from: u64,
    /// The offset after the span.
    pub to: u64,
    /// All accepted events with `from ≤ offset < to`, in offset order; may be none.
    pub events: EventBatch,
}

/// A sink gets every accepted event once it is durable in the lake.
///
/// # Contract
/// * The sink keeps its own position a partition. The pipeline asks for it at the start, catches the sink up from
///   Silver, and from then on delivers spans that follow each other: `from` is where the last one ended.
/// * `write` MUST make rows and position `to` durable in one step for exactly-once; one that cannot gets a span again
///   after a crash and should use (tenant, event id) as idempotency key.
/// * A write with `to` not above the sink's position MUST have no effect; one with `from` above it is an error.
/// * Calls for one partition come one at a time; those of different partitions may overlap.
/// * An error that `is_retryable` is tried again with the same delivery; any other ends the run.
/// * A cancelled `write` leaves the position either at `from` or at `to`.
#[async_trait]
pub trait Sink: Send + Sync {
    /// A name for logs and metrics.
    fn name(&self) -> &str;

    /// The next offset that the sink wants; `None` for one that was never written to.
    async fn position(&self, topic: &str, partition: u32) -> Result<Option<u64>>;

    /// Takes a delivery.
    async fn write(&self, delivery: &Delivery) -> Result<()>;
}

/// A sink of dead letters gets every record that is no JSON object once its row of `dead_letter` is durable: a topic where
/// somebody mends and sends them again.
///
/// # Contract
/// * As with [`Sink`], the sink keeps its own position a partition, is caught up from `dead_letter`, and gets spans that
///   follow each other; a write with a span that ends at or before the position MUST have no effect; one that begins above it is
///   an error; calls for one partition come one at a time.
/// * `write` MUST make the dead letters and the position behind them durable in one step for exactly-once. A span without
///   dead letters MAY move the position in memory only: nothing is sent twice by that.
/// * One that cannot MUST pass on topic, partition and offset, by which a copy is recognised.
/// * A cancelled `write` leaves the position either at its beginning or at its end.
#[async_trait]
pub trait DeadLetterSink: Send + Sync {
    /// A name for logs and metrics.
    fn name(&self) -> &str;

    /// The next offset that the sink wants; `None` for one that was never written to.
    async fn position(&self, topic: &str, partition: u32) -> Result<Option<u64>>;

    /// Takes the dead letters of a span, which is that of their records.
    async fn write(&self, letters: &DeadLetters) -> Result<()>;
}

/// Where alerts go besides `enforcement_alerts`: a pager, a chat, a topic.
///
/// # Contract
/// * Called before the alert's row is committed, so that none is lost: after a crash it may be called again with the
///   same alert, which is recognised by its `alert_id`.
/// * An error that `is_retryable` is tried again; any other ends the run.
#[async_trait]
pub trait AlertSink: Send + Sync {
    /// A name for logs and metrics.
    fn name(&self) -> &str;

    /// Takes alerts as they were when they were raised, in any order.
    async fn notify(&self, alerts: &[AlertRow]) -> Result<()>;
}
