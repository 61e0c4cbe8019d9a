//! Routing is checked, not believed.

use std::process::Stdio;

use subscription_core::Partitioner;

use super::super::Ledger;
use super::Kafka;

const PARTITIONS: u32 = 16;

fn place(by: Partitioner) -> impl Fn(&str) -> u32 {
    move |tenant| by.partition(tenant.as_bytes(), PARTITIONS)
}

#[test]
fn the_partitioner_is_found_out_and_kept() {
    for by in Partitioner::ALL {
        let Some(kafka) = Kafka::shared(PARTITIONS) else { return };
        kafka.produce_events(0..200, place(by));
        kafka.run("lake", "").ok();
        assert_eq!(kafka.bench.ledger(), Ledger::of(200), "{}", by.name());
        // Another producer comes: its records are where their tenants are not.
        let other = Partitioner::ALL[(by as usize + 1) % 3];
        let astray = (0..17).filter(|n| {
            let tenant = format!("tenant-{n}");
            place(by)(&tenant) != place(other)(&tenant)
        });
        let astray = astray.count() as u64;
        kafka.produce_events(204..221, place(other));
        let ran = kafka.run("lake", "").ok();
        assert!(ran.err.contains("misrouted") && ran.err.contains(by.name()), "{}", ran.err);
        assert_eq!(kafka.bench.ledger().quarantined, astray);
        // To say another than the lake knows is refused; to say the same is none.
        kafka.run("lake", &format!("--partitioner {}", by.name())).ok();
        kafka.run("lake", &format!("--partitioner {}", other.name())).fails(5, &["placement", by.name(), other.name()]);
    }
}

#[test]
fn where_none_fits_the_start_is_refused_unless_trusted() {
    let Some(kafka) = Kafka::shared(PARTITIONS) else { return };
    let own = |tenant: &str| tenant.len() as u32 % 3 + tenant.as_bytes()[7] as u32 % 5;
    kafka.produce_events(0..200, own);
    kafka.run("lake", "").fails(5, &["different keys: 17", "murmur2", "crc32", "fnv1a", "--partitioner trust"]);
    kafka.run("lake", "--partitioner trust").ok();
    assert_eq!(kafka.bench.ledger(), Ledger::of(200));
    // Kept: a later start need not say so.
    kafka.produce_events(200..210, own);
    kafka.run("lake", "").ok();
    assert_eq!(kafka.bench.ledger(), Ledger::of(210));
}

/// The topic is empty when the pipeline starts, and its producers use the default of another client.
#[test]
fn an_empty_topic_tells_when_records_come() {
    let Some(kafka) = Kafka::shared(PARTITIONS) else { return };
    kafka.run("lake", "").ok();
    let mut running = kafka.bench.command(&kafka.line("lake", "--commit-interval 100ms --json"));
    let running = running.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
    kafka.produce_events(0..300, place(Partitioner::Crc32));
    let read = || kafka.bench.pipeline("tables --lake lake --json").ok().json()["ledger"]["accepted"].as_u64();
    while read() != Some(300) {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    super::group::signal(&running, "TERM");
    let ran: crate::Ran = running.wait_with_output().expect("an end").into();
    assert_eq!(ran.code, Some(143), "{}", ran.err);
    assert_eq!(kafka.bench.ledger(), Ledger::of(300));
}
