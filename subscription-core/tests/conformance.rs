//! The plug-ins in memory pass the suites, and the wrappers fail when they are told to.

use std::sync::Arc;

use subscription_core::testkit::conformance;
use subscription_core::testkit::faults::{ANY, Fault, Faults, FaultyAlertSink, FaultySink, FaultySource, FaultyStore};
use subscription_core::testkit::{block_on, samples};
use subscription_core::*;

#[test]
fn memory_store() {
    block_on(conformance::table_store(async || {
        let lake = MemoryStore::new();
        async move || lake.handle()
    }));
}

#[test]
fn memory_source() {
    let records = conformance::source_records("usage", 3, 50);
    for size in [1, 7, 1_000] {
        let open = async || MemorySource::new("usage", records.clone()).with_cuts(move || size);
        block_on(conformance::source(open, &records));
    }
}

#[test]
fn memory_sinks() {
    let fresh = async || {
        let sink = MemorySink::new();
        async move || sink.clone()
    };
    block_on(conformance::sink(fresh, |sink, topic| Some(sink.events(topic).len())));
    block_on(conformance::alert_sink(async || MemoryAlerts::new(), |sink| Some(sink.alerts().len())));
    let fresh = async || {
        let sink = MemoryDeadLetters::new();
        async move || sink.clone()
    };
    block_on(conformance::dead_letter_sink(fresh, |sink, topic| Some(sink.letters(topic).len())));
}

#[test]
fn channel_emitter() {
    let receivers = std::sync::Mutex::new(std::collections::HashMap::new());
    let fresh = || {
        let (emitter, receiver) = ChannelEmitter::new("test", 2_000).unwrap();
        receivers.lock().unwrap().insert(emitter.id().to_owned(), (receiver, Vec::new()));
        emitter
    };
    conformance::emitter(fresh, |emitter| {
        let mut receivers = receivers.lock().unwrap();
        let (receiver, taken) = receivers.get_mut(emitter.id()).unwrap();
        taken.extend(receiver.try_iter().map(|emitted| emitted.payload.into_bytes()));
        taken.clone()
    });

    let (emitter, receiver) = ChannelEmitter::new("test", 2).unwrap();
    let event = samples::usage_event(1, "acme");
    emitter.emit(&event).unwrap();
    emitter.emit(&event).unwrap();
    let error = emitter.emit(&event).unwrap_err();
    assert!(error.kind() == ErrorKind::StorageFull && error.is_retryable(), "{error:?}");
    receiver.recv().unwrap();
    emitter.emit(&event).unwrap();
    let numbers: Vec<_> = receiver.try_iter().map(|emitted| emitted.payload).collect();
    assert!(numbers[1].ends_with("\"emitter_sequence\":3}"), "what is missing shows: {numbers:?}");
    drop(receiver);
    assert!(!emitter.emit(&event).unwrap_err().is_retryable());
    assert_eq!((emitter.counts().accepted, emitter.counts().refused), (3, 2));
}

#[test]
fn file_emitter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    conformance::emitter(
        || FileEmitter::open(&path, "test").unwrap(),
        |emitter| {
            let lines = std::fs::read_to_string(&path).unwrap();
            lines.lines().filter(|line| line.contains(emitter.id())).map(|line| line.as_bytes().to_vec()).collect()
        },
    );

    // A line that a crash has torn spoils no other.
    std::fs::write(&path, "{\"event_id\":").unwrap();
    for _ in 0..2 {
        let emitter = FileEmitter::open(&path, "test").unwrap();
        assert!(emitter.is_durable());
        emitter.emit(&samples::usage_event(1, "acme")).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let valid: Vec<_> = text.lines().map(|line| matches!(judge(line.as_bytes()), Judged::Valid(_))).collect();
    assert_eq!(valid, [false, true, true], "{text}");

    let error = FileEmitter::open(folder.path().join("none/events"), "test").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("none/events"), "{error}");
}

#[test]
fn names_of_emitters() {
    for name in ["", &"x".repeat(92)] {
        let error = EmitterStamp::new(name).unwrap_err();
        assert!(error.kind() == ErrorKind::Configuration && error.help().is_some());
    }
    let name = "\"quoted\"\n".repeat(9) + "x";
    let stamp = EmitterStamp::new(&name).unwrap();
    let payload = stamp.draft(&samples::usage_event(1, "acme")).numbered(u64::MAX / 2);
    let Judged::Valid(event) = judge(payload.as_bytes()) else { panic!("{payload}") };
    assert_eq!(event.emitter_id.as_deref(), Some(stamp.id()));
    assert!(stamp.id().starts_with(&name));
}

#[test]
fn memory_counters() {
    let counters = MemoryCounters::new();
    block_on(conformance::counter_store(&counters, "once"));
    block_on(conformance::counter_store(&counters, "twice"));
}

/// Wrappers without faults change nothing.
#[test]
fn wrappers() {
    block_on(conformance::table_store(async || {
        let lake = MemoryStore::new();
        async move || FaultyStore::new(lake.handle(), Faults::new())
    }));
    let records = conformance::source_records("usage", 2, 20);
    let open = async || FaultySource::new(MemorySource::new("usage", records.clone()), Faults::new());
    block_on(conformance::source(open, &records));
    let fresh = async || {
        let sink = MemorySink::new();
        async move || FaultySink::new(sink.clone(), Faults::new())
    };
    block_on(conformance::sink(fresh, |sink, topic| Some(sink.inner().events(topic).len())));
    let open = async || FaultyAlertSink::new(MemoryAlerts::new(), Faults::new());
    block_on(conformance::alert_sink(open, |sink| Some(sink.inner().alerts().len())));
}

fn commit() -> Commit {
    let rows = samples::admitted("usage", 0, 0);
    let tables = [Table::DeadLetter, Table::Bronze, Table::Quarantine, Table::Silver];
    let spans = vec![TableSpan { partition: 0, from: 0, to: rows.records.to(), counters: Vec::new() }];
    let tables = tables.map(|table| TableCommit { table, spans: spans.clone() }).to_vec();
    Commit { topic: "usage".into(), tables, admitted: vec![rows.into()], ranges: Vec::new() }
}

#[test]
fn faults_before_within_and_after() {
    for (fault, bronze, silver) in [(Fault::Before, 0, 0), (Fault::Within, 7, 0), (Fault::After, 7, 4)] {
        let store = FaultyStore::new(MemoryStore::new(), Faults::new().fail("commit", 0, fault));
        let error = block_on(store.commit(commit().into())).unwrap_err();
        assert!(error.is_retryable(), "{error}");
        let tables = store.inner().tables("usage");
        assert_eq!((tables.bronze.len(), tables.silver.len()), (bronze, silver), "{fault:?}");
        block_on(store.commit(commit().into())).unwrap();
        let tables = store.inner().tables("usage");
        assert_eq!((tables.bronze.len(), tables.silver.len()), (7, 4), "{fault:?} and again");
    }
}

#[test]
fn a_crash_is_for_good() {
    let faults = Faults::new().crash(ANY, 1, Fault::After);
    let store = FaultyStore::new(MemoryStore::new(), faults.clone());
    assert!(block_on(store.settings()).is_ok());
    assert!(!faults.is_down());
    assert!(!block_on(store.commit(commit().into())).unwrap_err().is_retryable());
    assert!(faults.is_down());
    assert_eq!(store.inner().tables("usage").silver.len(), 4);
    for _ in 0..3 {
        assert!(block_on(store.settings()).is_err());
    }
    assert_eq!(faults.calls(), ["settings", "commit", "settings", "settings", "settings"]);
}

#[test]
fn chance_is_the_seed_s() {
    let failures = |seed: u64| -> Vec<bool> {
        let store = FaultyStore::new(MemoryStore::new(), Faults::new().by_chance(seed, 200));
        (0..1_000).map(|_| block_on(store.settings()).is_err()).collect()
    };
    let count = failures(1).into_iter().filter(|failed| *failed).count();
    assert!((120..280).contains(&count), "{count} of 1,000");
    assert_eq!(failures(1), failures(1));
    assert_ne!(failures(1), failures(2));
}

/// Whatever fails, a source that is asked again delivers every record once.
#[test]
fn a_source_that_fails_loses_nothing() {
    let records = conformance::source_records("usage", 2, 100);
    for seed in 0..20 {
        let inner = MemorySource::new("usage", records.clone()).with_cuts(|| 3);
        let mut source = FaultySource::new(inner, Faults::new().by_chance(seed, 300));
        let mut delivered = [0, 0];
        loop {
            match block_on(source.next()) {
                Ok(SourceEvent::Assigned(partitions)) => {
                    for partition in partitions {
                        while block_on(source.start(partition, 0)).is_err() {}
                    }
                }
                Ok(SourceEvent::Records(batch)) => {
                    let position = &mut delivered[batch.partition() as usize];
                    assert_eq!(batch.from(), *position);
                    *position = batch.to();
                }
                Ok(SourceEvent::End) => break,
                Ok(event) => panic!("{event:?}"),
                Err(error) => assert!(error.is_retryable()),
            }
        }
        assert_eq!(delivered, [100, 100]);
    }
}

/// What breaks the caller's side of the contract is refused, and changes nothing.
#[test]
fn memory_store_is_strict() {
    let table = Table::UsageHour;
    let range =
        |tenants: &[&str], replaces: &[RangeId]| samples::range(table, 0, samples::SAMPLE_TIME, tenants, replaces);
    let commit = |from: u64, to: u64, counters: &[(Counter, i64)], ranges: &[RangeWrite]| {
        let spans = vec![TableSpan { partition: 0, from, to, counters: counters.to_vec() }];
        let tables = vec![TableCommit { table, spans }];
        Arc::new(Commit { topic: "usage".into(), tables, admitted: Vec::new(), ranges: ranges.to_vec() })
    };
    let store = MemoryStore::new();
    let first = commit(0, 10, &[(Counter::Read, 5)], &[range(&["b", "d"], &[])]);
    let ids = block_on(store.commit(first)).unwrap().ranges;
    let before = block_on(store.state("usage", &[0])).unwrap();
    let good = range(&["b", "c"], &ids);
    let unsorted = match (&range(&["b", "c"], &ids).rows, range(&["b", "c"], &ids)) {
        (GoldRows::Usage(rows), write) => {
            let rows = vec![rows[0].clone(), rows[1].clone(), rows[0].clone(), rows[1].clone()];
            RangeWrite { rows: GoldRows::Usage(rows), ..write }
        }
        _ => unreachable!("usage rows"),
    };
    let second_day = samples::range(table, 0, samples::SAMPLE_TIME.plus_millis(86_400_000), &["b"], &ids);
    let two_days = match (good.rows.clone(), second_day.rows.clone()) {
        (GoldRows::Usage(first), GoldRows::Usage(second)) => RangeWrite {
            rows: GoldRows::Usage([first, second].concat()),
            last: second_day.last.clone(),
            ..good.clone()
        },
        _ => unreachable!("usage rows"),
    };
    let no_rows = RangeWrite { rows: GoldRows::Usage(Vec::new()), ..good.clone() };
    let other_rows = RangeWrite { rows: GoldRows::Alerts(Vec::new()), ..good.clone() };
    let elsewhere = RangeWrite { partition: 1, ..good.clone() };
    let unknown = range(&["b", "c"], &[RangeId("nowhere".into())]);
    for (why, broken) in [
        ("overlap", commit(10, 20, &[], &[range(&["a", "c"], &[])])),
        ("unsorted", commit(10, 20, &[], &[unsorted])),
        ("two dates", commit(10, 20, &[], &[two_days])),
        ("no rows", commit(10, 20, &[], &[no_rows])),
        ("rows of alerts", commit(10, 20, &[], &[other_rows])),
        ("a partition that is not moved", commit(10, 20, &[], &[elsewhere])),
        ("an unknown range replaced", commit(10, 20, &[], &[unknown])),
        ("a counter that goes back", commit(10, 20, &[(Counter::Read, 4)], &[])),
        ("a span backwards", commit(10, 9, &[], &[])),
    ] {
        let error = block_on(store.commit(broken)).expect_err(why);
        assert_eq!(error.kind(), ErrorKind::Invariant, "{why}: {error}");
        assert_eq!(block_on(store.state("usage", &[0])).unwrap(), before, "{why}");
    }
    block_on(store.commit(commit(10, 20, &[(Counter::Read, 5)], &[good]))).unwrap();
}

/// A fork begins as the lake is, and goes its own way.
#[test]
fn forks_are_apart() {
    let store = MemoryStore::new();
    block_on(store.commit(commit().into())).unwrap();
    let fork = store.fork();
    assert_eq!(fork.tables("usage"), store.tables("usage"));
    let settings = Settings { version: 1, json: "{}".into() };
    block_on(fork.put_settings(settings)).unwrap();
    assert_eq!(block_on(store.settings()).unwrap(), None);
}
