//! The contracts of [`Sink`] and [`AlertSink`].

use super::super::samples::{self, SAMPLE_SPAN, SAMPLE_TIME};
use crate::sink::{AlertSink, Delivery, Sink};
use crate::time::{MINUTE, WindowKind};

/// Runs all checks of a [`Sink`].
///
/// `fresh` makes an empty target and answers how to open it: what is opened again must go on from what was made
/// durable. `count` says how many events of a topic the target holds, `None` where that cannot be told.
///
/// # Panics
/// If the sink breaks the contract.
pub async fn sink<O, S>(fresh: impl AsyncFn() -> O, count: impl Fn(&S, &str) -> Option<usize>)
where
    O: AsyncFn() -> S,
    S: Sink,
{
    let open = fresh().await;
    let sink = open().await;
    let holds = |sink: &S, wanted: usize, why: &str| {
        assert_eq!(count(sink, "usage").unwrap_or(wanted), wanted, "{why}");
    };
    assert!(!sink.name().is_empty(), "a name for logs");
    assert_eq!(at(&sink, "usage", 0).await, None, "never written to");

    sink.write(&delivery("usage", 0, 0)).await.expect("the first delivery");
    assert_eq!(at(&sink, "usage", 0).await, Some(SAMPLE_SPAN));
    holds(&sink, 4, "after the first delivery");

    sink.write(&delivery("usage", 0, 0)).await.expect("the same delivery again");
    assert_eq!(at(&sink, "usage", 0).await, Some(SAMPLE_SPAN));
    holds(&sink, 4, "a delivery made again has no effect");

    assert!(sink.write(&delivery("usage", 0, 2 * SAMPLE_SPAN)).await.is_err(), "a gap between deliveries is an error");
    assert_eq!(at(&sink, "usage", 0).await, Some(SAMPLE_SPAN), "and moves nothing");
    holds(&sink, 4, "and writes nothing");

    let empty = Delivery { to: SAMPLE_SPAN + 5, events: Default::default(), ..delivery("usage", 0, SAMPLE_SPAN) };
    sink.write(&empty).await.expect("a delivery without events");
    assert_eq!(at(&sink, "usage", 0).await, Some(SAMPLE_SPAN + 5), "a position moves on without events");

    sink.write(&delivery("usage", 3, SAMPLE_SPAN)).await.expect("another partition, from the middle");
    sink.write(&delivery("other", 0, 0)).await.expect("another topic");
    assert_eq!(at(&sink, "usage", 0).await, Some(SAMPLE_SPAN + 5), "partitions and topics are apart");
    assert_eq!(at(&sink, "usage", 3).await, Some(2 * SAMPLE_SPAN));
    assert_eq!(at(&sink, "other", 0).await, Some(SAMPLE_SPAN));
    assert_eq!(at(&sink, "other", 3).await, None);
    holds(&sink, 8, "after two partitions");
    drop(sink);

    let sink = open().await;
    assert_eq!(at(&sink, "usage", 0).await, Some(SAMPLE_SPAN + 5), "positions outlive the process");
    assert_eq!(at(&sink, "usage", 3).await, Some(2 * SAMPLE_SPAN), "positions outlive the process");
    sink.write(&delivery("usage", 3, SAMPLE_SPAN)).await.expect("a delivery from before");
    holds(&sink, 8, "a delivery from before the restart has no effect");
    sink.write(&delivery("usage", 3, 2 * SAMPLE_SPAN)).await.expect("the next delivery");
    assert_eq!(at(&sink, "usage", 3).await, Some(3 * SAMPLE_SPAN));
    holds(&sink, 12, "after the restart");
}

async fn at<S: Sink>(sink: &S, topic: &str, partition: u32) -> Option<u64> {
    sink.position(topic, partition).await.expect("a position")
}

/// Four events in a span of [`SAMPLE_SPAN`].
fn delivery(topic: &str, partition: u32, from: u64) -> Delivery {
    let events = samples::admitted(topic, partition, from).accepted;
    Delivery { topic: topic.into(), partition, from, to: from + SAMPLE_SPAN, events }
}

/// Runs all checks of an [`AlertSink`]. `count` says how many alerts it passed on, each `alert_id` once; `None` where
/// that cannot be told.
///
/// # Panics
/// If the sink breaks the contract.
pub async fn alert_sink<S: AlertSink>(fresh: impl AsyncFn() -> S, count: impl Fn(&S) -> Option<usize>) {
    let sink = fresh().await;
    assert!(!sink.name().is_empty(), "a name for logs");
    let start = WindowKind::Minute.start(SAMPLE_TIME);
    let alert = |n: i64| samples::alert_row(WindowKind::Minute, "acme", start.plus_millis(n * MINUTE), n % 2 == 0);
    sink.notify(&[]).await.expect("no alerts");
    sink.notify(&[alert(0), alert(1)]).await.expect("two alerts");
    sink.notify(&[alert(1), alert(2)]).await.expect("an alert again, as after a crash");
    assert_eq!(count(&sink).unwrap_or(3), 3, "alerts by their id");
}
