//! The same records give the same rows, whether they come from a file or from a topic.

use subscription_core::RecordBatch;
use subscription_core::testkit::reference::Comparison;
use subscription_core::testkit::traffic::{Framing, Traffic, TrafficConfig};

use super::{Kafka, snapshot};

const FILE_PARTITIONS: u32 = 8;

#[test]
fn a_topic_of_1_or_64_partitions_gives_the_rows_of_a_file() {
    for partitions in [1, 64] {
        let Some(kafka) = Kafka::shared(partitions) else { return };
        let seed = 20_260_105;
        println!("seed {seed}");
        let traffic = || Traffic::new(TrafficConfig { events: 10_000, tenants: 300, ..TrafficConfig::trouble(seed) });
        let mut file = Vec::new();
        traffic().write_ndjson(&mut file).expect("memory");
        kafka.bench.write("in", &file);
        kafka.bench.pipeline("run --input in --lake file").ok();

        // A blank line is no record of a file, and an empty payload is one of a topic: the framing of a file has none.
        let mut records = traffic().to_batches(partitions, Framing::File, usize::MAX);
        records.sort_by_key(RecordBatch::partition);
        kafka.produce(&records);
        kafka.run("topic", "").ok();
        kafka.assert_is_reference("topic", &format!("{partitions} partitions"));

        let file = snapshot(&kafka.bench.path("file"), "file", FILE_PARTITIONS);
        let topic = snapshot(&kafka.bench.path("topic"), &kafka.topic, partitions);
        Comparison::exact()
            .ignoring_coordinates()
            .compare(&topic, &file)
            .unwrap_or_else(|differences| panic!("{partitions} partitions: {differences}"));
    }
}

/// Tombstones, headers, misrouted records, records of 16 MiB and more: what only a topic has.
#[test]
fn what_only_a_topic_has_is_as_the_reference_says() {
    let Some(kafka) = Kafka::shared(5) else { return };
    let traffic = Traffic::new(TrafficConfig { events: 10_000, ..TrafficConfig::trouble(7) });
    kafka.produce(&traffic.to_batches(5, Framing::Topic { gaps: 0.0 }, 100));
    let ran = kafka.run("lake", "").ok();
    assert!(ran.err.contains("quarantined as misrouted"), "{}", ran.err);
    kafka.assert_is_reference("lake", "one run");
    // In many small runs, each with a group of its own to join.
    for end in [1, 2] {
        let traffic = Traffic::new(TrafficConfig { events: 500, ..TrafficConfig::trouble(7 + end) });
        kafka.produce(&traffic.to_batches(5, Framing::Topic { gaps: 0.0 }, 100));
        kafka.run("lake", "--commit-interval 20ms").ok();
    }
    kafka.assert_is_reference("lake", "three runs");
}
