//! The emitter: nothing accepted is lost, a tenant's events stay in order, whatever happens to the broker or the process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use subscription_core::testkit::{conformance, samples};
use subscription_core::{ErrorKind, EventEmitter, Judged, SpoolConfig, Timestamp, judge, murmur2_partition};
use subscription_kafka::{EmitterConfig, KafkaConfig, KafkaEmitter};

use crate::broker::Broker;
use crate::support::{client, runtime, shared, topic};

const LONG: Duration = Duration::from_secs(60);

/// A record of the topic.
struct Got {
    partition: u32,
    key: Option<Vec<u8>>,
    payload: Vec<u8>,
    timestamp: Option<i64>,
}

/// All records of the topic, by partition in their order.
fn all(config: &KafkaConfig, partitions: u32) -> Vec<Got> {
    let mut client = client(config);
    let consumer: BaseConsumer = client.set("group.id", "test").set("enable.auto.commit", "false").create().unwrap();
    let mut got = Vec::new();
    for partition in 0..partitions as i32 {
        let (mut at, end) =
            consumer.fetch_watermarks(config.topic(), partition, LONG).expect("the ends of a partition");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(config.topic(), partition, Offset::Offset(at)).unwrap();
        consumer.assign(&list).unwrap();
        while at < end {
            let message = consumer.poll(LONG).expect("a record within a minute").expect("a record");
            at = message.offset() + 1;
            got.push(Got {
                partition: partition as u32,
                key: message.key().map(<[u8]>::to_vec),
                payload: message.payload().unwrap_or_default().to_vec(),
                timestamp: message.timestamp().to_millis(),
            });
        }
    }
    got
}

/// What arrived of each emitter: its numbers, each once, those of a tenant in their order.
fn check_arrived(records: &[Got], partitions: u32) -> BTreeMap<String, Vec<i64>> {
    let mut numbers: BTreeMap<String, HashMap<i64, String>> = BTreeMap::new();
    let mut last: HashMap<(String, String), i64> = HashMap::new();
    for record in records {
        let Judged::Valid(event) = judge(&record.payload) else { panic!("no event") };
        assert_eq!(record.key.as_deref(), Some(event.tenant_id.as_bytes()));
        assert_eq!(record.partition, murmur2_partition(event.tenant_id.as_bytes(), partitions));
        let (emitter, number) = (event.emitter_id.unwrap().into_owned(), event.emitter_sequence.unwrap());
        let id = event.event_id.to_string();
        if let Some(before) = numbers.entry(emitter.clone()).or_default().insert(number, id.clone()) {
            assert_eq!(before, id, "a copy has the ids of the first");
            continue;
        }
        let before = last.insert((emitter, event.tenant_id.to_string()), number);
        assert!(before < Some(number), "{number} of {} came after {before:?}", event.tenant_id);
    }
    let sorted = |numbers: HashMap<i64, String>| {
        let mut numbers: Vec<_> = numbers.into_keys().collect();
        numbers.sort_unstable();
        numbers
    };
    numbers.into_iter().map(|(emitter, numbers)| (emitter, sorted(numbers))).collect()
}

fn tenant(n: u64) -> String {
    format!("tenant-{}", n * 7 % 13)
}

/// A broker's address where nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The ways to keep what cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Memory,
    Spool,
    WriteAhead,
}

fn config(kafka: &KafkaConfig, kept: Kept, folder: &Path) -> EmitterConfig {
    let config = EmitterConfig::new(kafka.clone()).with_name("test");
    match kept {
        Kept::Memory => config,
        Kept::Spool => config.with_spool(SpoolConfig::new(folder)),
        Kept::WriteAhead => config.with_write_ahead(SpoolConfig::new(folder)),
    }
}

/// Opens an emitter. A test beside that starts a process lends it all locks for a moment, between fork and exec.
fn open(config: EmitterConfig) -> KafkaEmitter {
    loop {
        match KafkaEmitter::open(config.clone()) {
            Err(error) if error.kind() == ErrorKind::Fenced => std::thread::yield_now(),
            opened => return opened.expect("an emitter"),
        }
    }
}

#[test]
fn keeps_the_contract() {
    let Some(broker) = shared() else { return };
    for kept in [Kept::Memory, Kept::Spool, Kept::WriteAhead] {
        let kafka = runtime().block_on(topic(&broker.address(), "contract", 3));
        let folder = tempfile::tempdir().unwrap();
        let count = std::cell::Cell::new(0);
        conformance::emitter(
            || {
                count.set(count.get() + 1);
                open(config(&kafka, kept, &folder.path().join(count.get().to_string())))
            },
            |emitter| {
                let records = all(&kafka, 3).into_iter().map(|got| got.payload);
                let id = emitter.id().as_bytes();
                records.filter(|payload| payload.windows(id.len()).any(|window| window == id)).collect()
            },
        );
        check_arrived(&all(&kafka, 3), 3);
    }
}

#[test]
fn what_is_forwarded_arrives_as_it_is() {
    let Some(broker) = shared() else { return };
    let kafka = runtime().block_on(topic(&broker.address(), "forwarded", 1));
    let emitter = KafkaEmitter::open(EmitterConfig::new(kafka.clone())).unwrap();
    let time = Timestamp::from_millis(1_767_225_600_000);
    emitter.forward(Some(b"acme"), b"no JSON", Some(time)).unwrap();
    emitter.forward(None, b"", None).unwrap();
    emitter.close(LONG).unwrap();
    let got = all(&kafka, 1);
    assert_eq!((got[0].key.as_deref(), &*got[0].payload), (Some(&b"acme"[..]), &b"no JSON"[..]));
    assert_eq!(got[0].timestamp, Some(time.millis()));
    assert_eq!((got[1].key.as_deref(), &*got[1].payload), (None, &b""[..]));
    assert_eq!((got.len(), emitter.counts().delivered), (2, 2));
}

/// A broker that is away, killed as by a power cut, while events go on. `EMITTER_OUTAGE` is for how many seconds, 5 by default.
#[test]
fn a_broker_that_goes_and_comes_back() {
    const RATE: u64 = 2_000;
    let outage: u64 = std::env::var("EMITTER_OUTAGE").map_or(5, |seconds| seconds.parse().expect("seconds"));
    let Some(broker) = Broker::start(1, &[]) else { return };
    for kept in [Kept::Spool, Kept::WriteAhead] {
        let kafka = runtime().block_on(topic(&broker.address(), "outage", 4));
        let folder = tempfile::tempdir().unwrap();
        // A buffer of half a second, so that the spool is needed.
        let small = kafka.clone().with_property("queue.buffering.max.kbytes", "600").unwrap();
        let emitter = open(config(&small, kept, folder.path()));
        let memory = resident();
        let (mut sent, mut greatest) = (0, 0);
        let mut emit = |seconds: u64| {
            for _ in 0..seconds * 20 {
                for _ in 0..RATE / 20 {
                    let tenant = tenant(sent);
                    emitter
                        .emit(&samples::usage_event(sent, &tenant))
                        .expect("an event is taken whatever the broker does");
                    sent += 1;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            greatest = greatest.max(resident());
        };
        emit(1);
        broker.kill(1);
        emit(outage);
        let spooled = emitter.spool_bytes().unwrap();
        broker.restart(1);
        emit(2);
        emitter.flush(LONG).expect("all is delivered");
        while emitter.spool_bytes().unwrap() > 17 << 20 {
            // What is acknowledged is removed before long.
            std::thread::yield_now();
        }
        emitter.close(LONG).expect("all is delivered");
        let counts = emitter.counts();
        assert_eq!((counts.accepted, counts.delivered, counts.lost), (sent, sent, 0), "{counts:?}");
        let arrived = check_arrived(&all(&kafka, 4), 4);
        assert_eq!(arrived.into_values().collect::<Vec<_>>(), [(0..sent as i64).collect::<Vec<_>>()], "{kept:?}");
        assert!(spooled > (outage * RATE - 1_500) * 500, "{spooled} bytes in the spool");
        println!(
            "{kept:?}: {sent} events, {outage} s away, {spooled} bytes spooled, {} KiB more memory",
            (greatest.saturating_sub(memory)) >> 10
        );
        if outage >= 30 {
            assert!(greatest < memory + (64 << 20), "memory grew from {memory} to {greatest} bytes");
        }
    }
}

/// Bytes of memory that this process has; 0 where that cannot be told.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

/// The child of the test below: emits until it is killed, and says what was accepted.
#[test]
fn child_that_is_killed() {
    let Ok(folder) = std::env::var("EMITTER_FOLDER") else { return };
    let kafka =
        KafkaConfig::new(std::env::var("EMITTER_BROKERS").unwrap(), std::env::var("EMITTER_TOPIC").unwrap()).unwrap();
    let emitter = open(config(&kafka, Kept::WriteAhead, folder.as_ref()));
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nid {}", emitter.id()).unwrap();
    for n in 0.. {
        emitter.emit(&samples::usage_event(n, &tenant(n))).unwrap();
        writeln!(out, "accepted {n}").unwrap();
    }
}

/// kill -9 with the broker there and with none there: the next start sends what is left, under the ids it had.
#[test]
fn kill_9_and_the_next_start() {
    let Some(broker) = shared() else { return };
    let kafka = runtime().block_on(topic(&broker.address(), "killed", 3));
    let folder = tempfile::tempdir().unwrap();
    let mut accepted: HashMap<String, i64> = HashMap::new();
    for brokers in [nobody(), broker.address(), nobody(), broker.address(), broker.address()] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["emitter::child_that_is_killed", "--exact", "--nocapture"])
            .env("EMITTER_FOLDER", folder.path())
            .env("EMITTER_BROKERS", brokers)
            .env("EMITTER_TOPIC", kafka.topic())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let id = lines.by_ref().find_map(|line| Some(line.strip_prefix("id ")?.to_owned())).expect("an id");
        let number = |line: String| line.strip_prefix("accepted ")?.parse::<i64>().ok();
        let mut last = lines.by_ref().filter_map(number).nth(3_000).expect("events");
        child.kill().unwrap();
        child.wait().unwrap();
        last = lines.filter_map(number).last().unwrap_or(last);
        accepted.insert(id, last);
    }

    let emitter = open(config(&kafka, Kept::WriteAhead, folder.path()));
    let recovered = emitter.counts().recovered;
    assert!(recovered > 0, "the last one was killed with something on its way, or the test proves nothing");
    emitter.emit(&samples::usage_event(0, "acme")).unwrap();
    emitter.close(LONG).unwrap();
    assert_eq!((emitter.counts().delivered, emitter.counts().lost), (recovered + 1, 0));
    accepted.insert(emitter.id().to_owned(), 0);

    let records = all(&kafka, 3);
    let arrived = check_arrived(&records, 3);
    assert_eq!(arrived.keys().collect::<HashSet<_>>(), accepted.keys().collect::<HashSet<_>>());
    for (id, last) in accepted {
        let numbers = &arrived[&id];
        let count = numbers.len() as i64;
        assert!(numbers.iter().copied().eq(0..count), "the numbers of {id} have a gap");
        assert!(count > last, "{last} of {id} was accepted, {count} arrived");
    }

    let again = open(config(&kafka, Kept::WriteAhead, folder.path()));
    assert_eq!(again.counts().recovered, 0, "nothing is sent twice after a close");
}

/// What is in memory when the emitter is closed goes to the spool, where there is one.
#[test]
fn closed_without_a_broker() {
    let Some(broker) = shared() else { return };
    let kafka = runtime().block_on(topic(&broker.address(), "closed", 2));
    let away = KafkaConfig::new(nobody(), kafka.topic()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let emit = |kept| {
        let emitter = open(config(&away, kept, folder.path()));
        (0..100).for_each(|n| emitter.emit(&samples::usage_event(n, &tenant(n))).unwrap());
        let error = emitter.close(Duration::from_millis(50)).expect_err("nobody takes them");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        (emitter.counts(), error.help().unwrap().to_owned())
    };
    let (counts, help) = emit(Kept::Memory);
    assert!(counts.lost == 100 && help.contains("spool"), "{counts:?} {help}");
    for kept in [Kept::Spool, Kept::WriteAhead] {
        let (counts, help) = emit(kept);
        assert!(counts.lost == 0 && counts.pending() == 100 && help.contains("next start"), "{counts:?} {help}");
        let next = open(config(&kafka, kept, folder.path()));
        assert_eq!(next.counts().recovered, 100);
        next.close(LONG).unwrap();
    }
    let arrived = check_arrived(&all(&kafka, 2), 2);
    assert_eq!(arrived.into_values().collect::<Vec<_>>(), vec![(0..100).collect::<Vec<_>>(); 2]);
}

#[test]
fn what_is_full_refuses_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let away = KafkaConfig::new(nobody(), "usage").unwrap().with_property("queue.buffering.max.kbytes", "100").unwrap();
    let spool = SpoolConfig { max_bytes: 200_000, ..SpoolConfig::new(folder.path()) };
    let memory = EmitterConfig::new(away.clone());
    for (config, least, says) in [
        (memory.clone(), 100, "buffer"),
        (memory.clone().with_spool(spool.clone()), 350, "bound"),
        (memory.with_write_ahead(spool), 250, "bound"),
    ] {
        let emitter = open(config);
        let mut taken = 0;
        let error = loop {
            match emitter.emit(&samples::usage_event(taken, "acme")) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert!(error.kind() == ErrorKind::StorageFull && error.is_retryable(), "{error:?}");
        assert!(error.to_string().contains(says) && error.help().is_some(), "{error}");
        assert!(taken > least, "{says}: {taken} taken");
        assert_eq!((emitter.counts().accepted, emitter.counts().refused), (taken, 1));
        drop(emitter);
        let _ = std::fs::remove_dir_all(folder.path());
    }
}

#[test]
fn an_event_that_is_too_large_harms_no_other() {
    let Some(broker) = shared() else { return };
    let kafka = runtime().block_on(topic(&broker.address(), "large", 1));
    let folder = tempfile::tempdir().unwrap();
    for kept in [Kept::Memory, Kept::WriteAhead] {
        let emitter = open(config(&kafka, kept, folder.path()));
        let mut event = samples::usage_event(1, "acme");
        event.user_agent = Some("x".repeat(1_100_000).into());
        let error = emitter.emit(&event).expect_err("above message.max.bytes");
        assert!(!error.is_retryable() && error.help().unwrap().contains("message.max.bytes"), "{error:?}");
        emitter.emit(&samples::usage_event(2, "acme")).unwrap();
        emitter.close(LONG).unwrap();
        let next = open(config(&kafka, kept, folder.path()));
        assert_eq!(next.counts().recovered, 0, "{kept:?}");
    }
    assert_eq!(all(&kafka, 1).len(), 2);
}

/// Events for a topic that is not there wait for it, in order, and somebody is told.
#[test]
fn a_topic_that_comes_later() {
    let Some(broker) = shared() else { return };
    for kept in [Kept::Spool, Kept::WriteAhead] {
        let name = crate::support::unique("later");
        let kafka = KafkaConfig::new(broker.address(), &name).unwrap();
        let kafka = kafka.with_property("topic.metadata.propagation.max.ms", "500").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let problems = Arc::new(Mutex::new(Vec::new()));
        let told = problems.clone();
        let config = config(&kafka, kept, folder.path()).on_problem(move |error| {
            told.lock().unwrap().push(format!("{error:?} {}", error.help().unwrap_or_default()));
        });
        let emitter = open(config);
        let emit =
            |from: u64| (from..from + 100).for_each(|n| emitter.emit(&samples::usage_event(n, &tenant(n))).unwrap());
        emit(0);
        while problems.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        emit(100);
        let spec = subscription_kafka::TopicSpec {
            partitions: 2,
            ..subscription_kafka::TopicSpec::default().with_replication(1)
        };
        runtime().block_on(subscription_kafka::TopicAdmin::new(kafka.clone()).unwrap().create(&spec)).unwrap();
        emit(200);
        emitter.close(LONG).unwrap();
        let arrived = check_arrived(&all(&kafka, 2), 2);
        assert_eq!(arrived.into_values().collect::<Vec<_>>(), [(0..300).collect::<Vec<_>>()], "{kept:?}");
        let problems = problems.lock().unwrap();
        assert!(problems.iter().any(|problem| problem.contains("pipeline topic create")), "{problems:?}");
        assert!(problems.len() < 50, "told once a try, not once an event: {}", problems.len());
    }
}

/// A producer that fails for good, with messages on their way and messages that wait, is replaced by a new one: what the broker
/// would not take is all that is missing, and each tenant's events are in their order.
///
/// An idempotent producer fails for good where the broker refuses one of its messages and no gap may be left.
#[test]
fn a_producer_that_fails_for_good_is_replaced() {
    const EVENTS: u64 = 4_000;
    let Some(broker) = shared() else { return };
    for kept in [Kept::Memory, Kept::Spool, Kept::WriteAhead] {
        let name = crate::support::unique("fatal");
        let mut kafka = KafkaConfig::new(broker.address(), &name).unwrap();
        let mut spec = subscription_kafka::TopicSpec {
            partitions: 4,
            ..subscription_kafka::TopicSpec::default().with_replication(1)
        };
        spec.config.insert("max.message.bytes".to_owned(), "5000".to_owned());
        runtime().block_on(subscription_kafka::TopicAdmin::new(kafka.clone()).unwrap().create(&spec)).unwrap();
        // A message a request, so that no other is refused with it.
        for (property, value) in
            [("enable.gapless.guarantee", "true"), ("compression.type", "none"), ("batch.num.messages", "1")]
        {
            kafka = kafka.with_property(property, value).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let problems = Arc::new(Mutex::new(Vec::new()));
        let told = problems.clone();
        let config = config(&kafka, kept, folder.path());
        let emitter = open(config.on_problem(move |error| told.lock().unwrap().push(error.to_string())));
        let is_large = |n: u64| n % 1_000 == 500;
        // Each call takes a number, whether or not it is accepted: with no place but memory an event is refused while there is no producer.
        let (mut calls, mut accepted) = (0, Vec::new());
        for n in 0..EVENTS {
            let tenant = tenant(n);
            let mut event = samples::usage_event(n, &tenant);
            if is_large(n) {
                event.user_agent = Some("x".repeat(6_000).into());
            }
            loop {
                let emitted = emitter.emit(&event);
                calls += 1;
                match emitted {
                    Ok(()) => break,
                    Err(error) => assert!(kept == Kept::Memory && error.is_retryable(), "{kept:?}: {n}: {error:?}"),
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            if !is_large(n) {
                accepted.push(calls - 1);
            }
            // Slow enough for some to have been delivered before the next failure.
            if n % 10 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        emitter.flush(LONG).unwrap_or_else(|error| panic!("{kept:?}: {error:?} {:?}", problems.lock().unwrap()));
        let counts = emitter.counts();
        emitter.close(LONG).unwrap();
        let delivered = accepted.len() as u64;
        assert_eq!(
            (counts.accepted, counts.delivered, counts.lost),
            (EVENTS, delivered, EVENTS - delivered),
            "{kept:?}"
        );
        let arrived = check_arrived(&all(&kafka, 4), 4);
        assert_eq!(arrived.into_values().collect::<Vec<_>>(), [accepted], "{kept:?}");
        let problems = problems.lock().unwrap();
        let fatal = problems.iter().filter(|problem| problem.to_lowercase().contains("gap-less")).count();
        println!("{kept:?}: {fatal} producers failed for good");
        assert!(fatal > 0, "no producer failed, so this shows nothing: {problems:?}");
    }
}
