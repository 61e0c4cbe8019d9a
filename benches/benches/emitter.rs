//! The Kafka emitter against a real broker on the same machine: events a second until the broker has confirmed the last, and
//! how long a call of `emit` takes.
//!
//! `EMITTER_EVENTS` (default 1,000,000) events of about 600 bytes; `EMITTER_PROPERTIES` are properties of the producer, as in
//! `linger.ms=50,compression.type=lz4`. Says so and ends where no broker can be had.

#[path = "../../subscription-kafka/tests/it/broker.rs"]
mod broker;

use std::time::Duration;

use broker::Broker;
use subscription_core::testkit::samples;
use subscription_core::{ApiUsageEvent, Clock, EmitterStamp, EventEmitter, Spool, SpoolConfig, SystemClock};
use subscription_kafka::{EmitterConfig, KafkaConfig, KafkaEmitter, TopicAdmin, TopicSpec};

const TENANTS: u64 = 10_000;

fn main() {
    let events: u64 = std::env::var("EMITTER_EVENTS").map_or(1_000_000, |n| n.parse().expect("a number"));
    let Some(broker) = Broker::start(1, &[]) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let tenants: Vec<String> = (0..TENANTS).map(|n| format!("tenant-{n:06}")).collect();
    let made: Vec<ApiUsageEvent<'_>> =
        (0..TENANTS).map(|n| samples::usage_event(n, &tenants[(n * 7_919 % TENANTS) as usize])).collect();
    println!(
        "{} bytes an event",
        EmitterStamp::new("bench").expect("a name").draft(&made[0]).numbered(1_000_000).len()
    );
    parts(&made, folder.path());

    for kept in ["memory", "spool", "write-ahead"] {
        let kafka = KafkaConfig::new(broker.address(), format!("bench-{kept}")).expect("a name");
        let properties = std::env::var("EMITTER_PROPERTIES").unwrap_or_default();
        let kafka = properties
            .split(',')
            .filter_map(|property| property.split_once('='))
            .fold(kafka, |kafka, property| kafka.with_property(property.0, property.1).expect("a property"));
        let spec = TopicSpec { partitions: 64, ..TopicSpec::default().with_replication(1) };
        runtime.block_on(TopicAdmin::new(kafka.clone()).expect("a client").create(&spec)).expect("a topic");
        let spool = SpoolConfig { max_bytes: 8 << 30, ..SpoolConfig::new(folder.path().join(kept)) };
        let config = EmitterConfig::new(kafka).with_name("bench").on_problem(|error| eprintln!("{error}"));
        let config = match kept {
            "memory" => config,
            "spool" => config.with_spool(spool),
            _ => config.with_write_ahead(spool),
        };
        let emitter = KafkaEmitter::open(config).expect("an emitter");
        // Connections and the topic's leaders are known before it counts, and the broker's code is compiled.
        for n in 0..events / 2 {
            while emitter.emit(&made[(n % TENANTS) as usize]).is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        emitter.flush(Duration::from_secs(60)).expect("a broker");

        let (clock, before) = (SystemClock::new(), cpu_seconds());
        let mut waits = 0u64;
        for n in 0..events {
            while emitter.emit(&made[(n % TENANTS) as usize]).is_err() {
                waits += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let emitted = seconds(&clock);
        emitter.flush(Duration::from_secs(600)).expect("delivered");
        let delivered = seconds(&clock);
        let cpu = (cpu_seconds() - before) * 1e6 / events as f64;
        println!(
            "{kept:>12}: {:>9.0} events/s delivered ({delivered:.2} s; the last was taken after {emitted:.2} s, {waits} waits; {cpu:.2} µs of CPU an event without the broker's)",
            events as f64 / delivered,
        );

        // At the pace of a busy gateway: 20,000 events a second.
        let clock = SystemClock::new();
        let mut took = Vec::new();
        for n in 0..40_000u64 {
            let event = &made[(n % TENANTS) as usize];
            while clock.monotonic_nanos() < n * 50_000 {
                std::hint::spin_loop();
            }
            let before = clock.monotonic_nanos();
            emitter.emit(event).expect("taken");
            took.push(clock.monotonic_nanos() - before);
        }
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize] as f64 / 1e3;
        println!(
            "{:>12}  emit at 20,000/s: p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs",
            "",
            at(0.5),
            at(0.99),
            at(0.999)
        );
        emitter.close(Duration::from_secs(60)).expect("delivered");
    }
}

/// What `emit` is made of.
fn parts(made: &[ApiUsageEvent<'_>], folder: &std::path::Path) {
    let stamp = EmitterStamp::new("bench").expect("a name");
    let clock = SystemClock::new();
    let mut bytes = 0;
    for (n, event) in made.iter().cycle().take(300_000).enumerate() {
        bytes += std::hint::black_box(stamp.draft(event).numbered(n as u64)).len();
    }
    println!("payload: {:.2} µs an event", seconds(&clock) / 0.3);
    let payload = vec![b'x'; bytes / 300_000];
    let (mut spool, _reader) = Spool::open(SpoolConfig::new(folder.join("parts"))).expect("a spool");
    let clock = SystemClock::new();
    for _ in 0..300_000 {
        spool.append(&payload).expect("room");
    }
    println!("append to the spool: {:.2} µs an event", seconds(&clock) / 0.3);
}

/// What this process has had of all cores; 0 where that cannot be told.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn seconds(clock: &SystemClock) -> f64 {
    clock.monotonic_nanos() as f64 * 1e-9
}
