//! Records that are gone, and topics that are not what they were.

use rdkafka::admin::{AdminOptions, NewPartitions};
use subscription_core::murmur2_partition;

use super::{Kafka, runtime};

fn skipped(kafka: &Kafka, lake: &str) -> u64 {
    kafka.bench.pipeline(&format!("verify --lake {lake}")).ok();
    let page = kafka.bench.pipeline(&format!("tables --lake {lake} --json")).ok().json();
    assert_eq!(page["ledger"]["balanced"], true);
    page["ledger"]["skipped"].as_u64().expect("a number")
}

#[test]
fn a_gap_is_an_error_and_a_skipped_one_is_in_the_ledger() {
    let Some(kafka) = Kafka::shared(1) else { return };
    kafka.produce_events(0..100, |_| 0);
    kafka.run("lake", "").ok();
    kafka.produce_events(100..150, |_| 0);
    kafka.forget(0, 120);
    let failed = kafka.run("lake", "");
    failed.fails(6, &["20 records are gone", "bronze_api_usage", "position: 100", "begins at: 120", "--on-gap skip"]);
    let ran = kafka.run("lake", "--on-gap skip").ok();
    assert!(ran.err.contains("skipped 20 offsets of partition 0"), "{}", ran.err);
    assert_eq!(skipped(&kafka, "lake"), 20);
    assert!(kafka.bench.pipeline("tables --lake lake").ok().out.contains("20 offsets were skipped"));
    // It is passed, so it is no error any more, and is not counted again.
    kafka.produce_events(150..160, |_| 0);
    kafka.run("lake", "").ok();
    assert_eq!(skipped(&kafka, "lake"), 20);
    let (topic, brokers) = (&kafka.topic, &kafka.brokers);
    let lag = kafka.bench.pipeline(&format!("lag --kafka {brokers} --topic {topic} --lake lake --json")).ok().json();
    assert_eq!((&lag["total"], &lag["partitions"][0]["end"]), (&0.into(), &160.into()));
}

#[test]
fn what_was_gone_before_the_lake_began_is_no_gap() {
    let Some(kafka) = Kafka::shared(2) else { return };
    // Tenants of even numbers are in partition 0, the others in 1.
    let tenants = |odd: u64| (0..).filter(move |n| n % 17 % 2 == odd);
    kafka.produce_events(tenants(0).take(40), |_| 0);
    kafka.forget(0, 30);
    kafka.run("lake", "--partitioner trust").ok();
    assert_eq!(skipped(&kafka, "lake"), 0);
    // What is gone after that is one, though the partition had no record when the lake began.
    kafka.produce_events(tenants(1).take(20), |_| 1);
    kafka.forget(1, 5);
    kafka.run("lake", "").fails(6, &["5 records are gone", "partition: 1", "position: 0"]);
    kafka.run("lake", "--on-gap skip").ok();
    assert_eq!(skipped(&kafka, "lake"), 5);
}

#[test]
fn a_topic_that_was_quiet_for_longer_than_its_retention_goes_on() {
    let Some(kafka) = Kafka::shared(1) else { return };
    kafka.produce_events(0..40, |_| 0);
    kafka.run("lake", "").ok();
    // All that was read is gone, also the record that would be compared.
    kafka.forget(0, 40);
    kafka.run("lake", "").ok();
    kafka.produce_events(40..50, |_| 0);
    kafka.run("lake", "").ok();
    assert_eq!(kafka.bench.ledger(), super::super::Ledger::of(50));
}

#[test]
fn a_topic_made_again_is_noticed() {
    let Some(kafka) = Kafka::shared(1) else { return };
    kafka.produce_events(0..50, |_| 0);
    kafka.run("lake", "").ok();
    let before = kafka.bench.ledger();
    kafka.delete();
    kafka.create(1, 1);
    for (events, says) in
        [(100..100, "ends before"), (100..120, "ends before"), (120..300, "record before its position")]
    {
        kafka.produce_events(events, |_| 0);
        kafka.run("lake", "").fails(5, &[says, "made again", "another lake"]);
        assert_eq!(kafka.bench.ledger(), before, "nothing was touched");
    }
    // As many partitions are not enough either way.
    kafka.delete();
    kafka.create(3, 1);
    kafka.run("lake", "").fails(5, &["partitions were added", "lake: 1", "now: 3"]);
}

#[test]
fn another_number_of_partitions_is_refused() {
    let Some(kafka) = Kafka::shared(4) else { return };
    kafka.produce_events(0..50, |tenant| murmur2_partition(tenant.as_bytes(), 4));
    kafka.run("lake", "").ok();
    let more = NewPartitions::new(&kafka.topic, 6);
    runtime().block_on(kafka.admin().create_partitions([&more], &AdminOptions::new())).expect("partitions");
    kafka.run("lake", "").fails(5, &["partitions were added", "would be in two", "lake: 4", "now: 6", "new topic"]);
    kafka.delete();
    kafka.create(2, 1);
    kafka.run("lake", "").fails(5, &["fewer partitions", "lake: 4", "now: 2"]);
}
