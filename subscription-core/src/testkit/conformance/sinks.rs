//! The contracts of [`Sink`] and [`AlertSink`].

use super::super::samples::{self, SAMPLE_SPAN, SAMPLE_TIME};
use crate::record::RecordBatch;
use crate::rows::DeadLetters;
use crate::sink::{AlertSink, DeadLetterSink, Delivery, Sink};
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

/// Runs all checks of a [`DeadLetterSink`], as [`sink`] does. `count` says how many dead letters of a topic the target holds.
///
/// # Panics
/// If the sink breaks the contract.
pub async fn dead_letter_sink<O, S>(fresh: impl AsyncFn() -> O, count: impl Fn(&S, &str) -> Option<usize>)
where
    O: AsyncFn() -> S,
    S: DeadLetterSink,
{
    let letters = |topic: &str, partition, from| DeadLetters::of(&samples::admitted(topic, partition, from), from);
    let empty = |from, to| DeadLetters {
        records: RecordBatch::builder("usage".into(), 0, from).finish(to),
        letters: Vec::new(),
    };
    let at = async |sink: &S, topic: &str, partition| sink.position(topic, partition).await.expect("a position");
    let open = fresh().await;
    let sink = open().await;
    let holds = |sink: &S, topic: &str, wanted: usize, why: &str| {
        assert_eq!(count(sink, topic).unwrap_or(wanted), wanted, "{why}");
    };
    assert!(!sink.name().is_empty(), "a name for logs");
    assert_eq!(at(&sink, "usage", 0).await, None, "never written to");

    sink.write(&letters("usage", 0, 0)).await.expect("the first dead letters");
    assert_eq!(at(&sink, "usage", 0).await, Some(SAMPLE_SPAN));
    holds(&sink, "usage", 4, "after the first dead letters");
    sink.write(&letters("usage", 0, 0)).await.expect("the same ones again");
    holds(&sink, "usage", 4, "a write made again has no effect");
    assert!(sink.write(&letters("usage", 0, 2 * SAMPLE_SPAN)).await.is_err(), "a gap is an error");
    assert_eq!(at(&sink, "usage", 0).await, Some(SAMPLE_SPAN), "and moves nothing");
    holds(&sink, "usage", 4, "and writes nothing");

    sink.write(&empty(SAMPLE_SPAN, 2 * SAMPLE_SPAN)).await.expect("a span without dead letters");
    assert_eq!(at(&sink, "usage", 0).await, Some(2 * SAMPLE_SPAN), "a position moves on without dead letters");
    sink.write(&letters("usage", 3, SAMPLE_SPAN)).await.expect("another partition, from the middle");
    sink.write(&letters("other", 0, 0)).await.expect("another topic");
    assert_eq!(at(&sink, "usage", 3).await, Some(2 * SAMPLE_SPAN), "partitions and topics are apart");
    assert_eq!(at(&sink, "other", 0).await, Some(SAMPLE_SPAN));
    assert_eq!(at(&sink, "other", 3).await, None);
    holds(&sink, "usage", 8, "after two partitions");
    drop(sink);

    let sink = open().await;
    let position = at(&sink, "usage", 0).await.expect("positions outlive the process");
    assert!((SAMPLE_SPAN..=2 * SAMPLE_SPAN).contains(&position), "{position}");
    sink.write(&letters("usage", 3, SAMPLE_SPAN)).await.expect("dead letters from before");
    holds(&sink, "usage", 8, "what is from before the restart has no effect");
    sink.write(&empty(position, 2 * SAMPLE_SPAN + 5)).await.expect("a span without dead letters");
    // A part of it was written before.
    let overlapping = DeadLetters::of(&samples::admitted("usage", 3, SAMPLE_SPAN), SAMPLE_SPAN + 3);
    sink.write(&overlapping).await.expect("the end of a span again");
    holds(&sink, "usage", 8, "nor has a part of it");
    sink.write(&letters("usage", 3, 2 * SAMPLE_SPAN)).await.expect("the next ones");
    assert_eq!(at(&sink, "usage", 3).await, Some(3 * SAMPLE_SPAN));
    holds(&sink, "usage", 12, "after the restart");
    holds(&sink, "other", 4, "of the other topic");

    // Two at once: the later one has the partition, the other must notice.
    let later = open().await;
    let position = at(&later, "usage", 3).await.expect("a position");
    later.write(&letters("usage", 3, position)).await.expect("the next ones, by its new owner");
    let _ = sink.write(&letters("usage", 3, position)).await;
    holds(&later, "usage", 16, "a former owner writes nothing a second time");
    assert_eq!(at(&open().await, "usage", 3).await, Some(position + SAMPLE_SPAN));
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
