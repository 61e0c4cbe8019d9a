//! Whole pipelines in memory, held to the reference model.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use subscription_core::testkit::faults::{
    ANY, Fault, Faults, FaultyDeadLetterSink, FaultySink, FaultySource, FaultyStore,
};
use subscription_core::testkit::reference::{Comparison, DeadLetterRow, QuarantineRow, RecordRow, Reference, Snapshot};
use subscription_core::testkit::traffic::{Framing, Traffic, TrafficConfig};
use subscription_core::{
    Catalog, ErrorKind, MemoryDeadLetters, MemorySink, MemorySource, MemoryStore, RecordBatch, Rules, Table, TableStore,
};
use subscription_pipeline::{Pipeline, PipelineConfig, PipelineEvent, RetryPolicy};

const PARTITIONS: u32 = 3;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The records of a seed, one batch a partition.
fn records(seed: u64, events: u64) -> Vec<RecordBatch> {
    let config = TrafficConfig { events, ..TrafficConfig::trouble(seed) };
    let mut batches = Traffic::new(config).to_batches(PARTITIONS, Framing::Topic { gaps: 0.01 }, usize::MAX);
    batches.sort_by_key(RecordBatch::partition);
    batches
}

/// All tables of a lake in memory.
async fn snapshot(store: &MemoryStore, topic: &str) -> Snapshot {
    let partitions: Vec<u32> = (0..PARTITIONS).collect();
    let mut snapshot = Snapshot::read(store, topic, &partitions).await.unwrap();
    let tables = store.tables(topic);
    let row = |record: &subscription_core::StoredRecord| RecordRow {
        topic: topic.into(),
        partition: record.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key.clone().map(Into::into),
        payload: record.payload.clone().map(Into::into),
        headers: record.headers.clone(),
    };
    snapshot.dead_letter = Some(
        tables
            .dead_letter
            .iter()
            .map(|dead| DeadLetterRow {
                record: row(&dead.record),
                payload_len: dead.record.payload_len,
                code: dead.code.to_owned(),
                error: dead.error.clone(),
            })
            .collect(),
    );
    snapshot.quarantine = Some(
        tables
            .quarantine
            .iter()
            .map(|rejected| QuarantineRow {
                partition: rejected.record.partition,
                offset: rejected.record.offset,
                timestamp: rejected.record.timestamp,
                payload: rejected.record.payload.clone().unwrap_or_default().into(),
                event_id: rejected.event_id.clone(),
                tenant_id: rejected.tenant_id.clone(),
                errors: rejected.errors.clone(),
            })
            .collect(),
    );
    snapshot
}

/// A pipeline's configuration as proptest chooses it: how often it commits, and every limit, tiny ones too.
fn configs() -> impl Strategy<Value = PipelineConfig> {
    (1u64..20, (1u64..60, 1u32..4), 1usize..4, 12u32..24, 0u32..24, 4u32..16, 6u32..16).prop_map(
        |(commit, (gold, longest), workers, uncommitted, gold_bytes, ids, filters)| {
            let mut config = PipelineConfig::default();
            config.commit_interval = Duration::from_millis(commit);
            config.gold_interval = Duration::from_millis(gold);
            config.max_gold_interval = config.gold_interval * longest;
            config.workers = workers;
            config.max_uncommitted_bytes = 1 << uncommitted;
            config.max_gold_bytes = 1 << gold_bytes;
            config.max_dedup_ids = 1 << ids;
            config.max_dedup_filter_bytes = 1 << filters;
            config.retry = RetryPolicy {
                first: Duration::from_millis(1),
                longest: Duration::from_millis(2),
                give_up: Duration::from_secs(60),
            };
            config
        },
    )
}

/// What goes wrong in one run: at which call the process dies, and how many of a thousand calls fail for once.
fn faults() -> impl Strategy<Value = (u64, u64, u32)> {
    (1u64..200, any::<u64>(), prop_oneof![Just(0u32), Just(20), Just(100)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Any cut into batches, any limits, any faults and crashes: the tables are the reference's.
    #[test]
    fn any_run_gives_the_reference_tables(
        seed: u64,
        length in 1usize..400,
        runs in prop::collection::vec((configs(), faults()), 0..8),
        last in configs(),
    ) {
        let records = records(seed, 2_000);
        let topic = records[0].topic().clone();
        let expected = Reference::of(&records, &Rules::default(), &Catalog::default(), None);
        let store = MemoryStore::new();
        let (sink, letters) = (MemorySink::new(), MemoryDeadLetters::new());
        let source = || MemorySource::new(topic.clone(), records.clone()).with_cuts(move || length);
        runtime().block_on(async {
            for (config, (crash, seed, chance)) in runs {
                let faults = Faults::new().by_chance(seed, chance).crash(ANY, crash, Fault::After);
                let pipeline = Pipeline::builder()
                    .source(FaultySource::new(source(), faults.clone()))
                    .store(Arc::new(FaultyStore::new(store.handle(), faults.clone())))
                    .sink(Arc::new(FaultySink::new(sink.clone(), faults.clone())))
                    .dead_letter_sink(Arc::new(FaultyDeadLetterSink::new(letters.clone(), faults)))
                    .config(config)
                    .build()
                    .unwrap();
                // It dies, or it comes to the end before.
                let _ = pipeline.run(std::future::pending()).await;
            }
            let pipeline = Pipeline::builder()
                .source(source())
                .store(Arc::new(store.handle()))
                .sink(Arc::new(sink.clone()))
                .dead_letter_sink(Arc::new(letters.clone()))
                .config(last)
                .build()
                .unwrap();
            let report = pipeline.run(std::future::pending()).await.unwrap();
            prop_assert!(report.ended);
            prop_assert!(report.progress.counts.balanced());
            let got = snapshot(&store, &topic).await;
            if let Err(differences) = Comparison::with_reference().compare(&got, &expected.tables) {
                return Err(TestCaseError::fail(differences.to_string()));
            }
            // The sink has every accepted event once.
            prop_assert_eq!(sink.events(&topic).len(), store.tables(&topic).silver.len());
            prop_assert_eq!(letters.letters(&topic), store.tables(&topic).dead_letter);
            Ok(())
        })?;
    }
}

/// How many partitions there are changes coordinates and `final`, and nothing else, where retries carry their own event
/// time.
#[test]
fn any_number_of_partitions_gives_the_same_rows() {
    let traffic = |partitions| {
        let config = TrafficConfig { events: 5_000, restamped_share: 0.0, ..TrafficConfig::trouble(5) };
        let mut batches = Traffic::new(config).to_batches(partitions, Framing::File, usize::MAX);
        batches.sort_by_key(RecordBatch::partition);
        batches
    };
    let tables = |partitions: u32| {
        let store = MemoryStore::new();
        let pipeline = Pipeline::builder()
            .source(MemorySource::new("file", traffic(partitions)))
            .store(Arc::new(store.handle()))
            .build()
            .unwrap();
        runtime().block_on(async {
            pipeline.run(std::future::pending()).await.unwrap();
            let partitions: Vec<u32> = (0..partitions).collect();
            Snapshot::read(&store, "file", &partitions).await.unwrap()
        })
    };
    let one = tables(1);
    assert!(one.minute.len() > 100 && !one.alerts.is_empty());
    for partitions in [3, 8] {
        let comparison = Comparison::exact().ignoring_coordinates();
        comparison.compare(&tables(partitions), &one).unwrap_or_else(|e| panic!("{partitions} partitions: {e}"));
    }
}

/// A second process on the same lake is refused, and nothing is lost or doubled by it.
#[test]
fn a_second_process_is_fenced() {
    let records = records(7, 3_000);
    let topic = records[0].topic().clone();
    let expected = Reference::of(&records, &Rules::default(), &Catalog::default(), None);
    let store = MemoryStore::new();
    runtime().block_on(async {
        let pipeline = || {
            let mut config = PipelineConfig::default();
            config.commit_interval = Duration::from_millis(1);
            config.max_uncommitted_bytes = 100_000;
            Pipeline::builder()
                .source(MemorySource::new(topic.clone(), records.clone()).with_cuts(|| 10))
                .store(Arc::new(store.handle()))
                .config(config)
                .build()
                .unwrap()
        };
        let (one, two) = tokio::join!(pipeline().run(std::future::pending()), pipeline().run(std::future::pending()));
        for result in [one, two] {
            if let Err(error) = result {
                assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
            }
        }
        pipeline().run(std::future::pending()).await.unwrap();
        let got = snapshot(&store, &topic).await;
        Comparison::with_reference().compare(&got, &expected.tables).unwrap_or_else(|e| panic!("{e}"));
    });
}

/// A worker catches up no further while its share of Gold's memory is full of rows that are not committed, and that
/// commit may not wait for its time: here it would for an hour.
#[test]
fn a_worker_whose_share_of_gold_is_full_is_not_kept_waiting() {
    let records = records(7, 2_000);
    let topic = records[0].topic().clone();
    let store = MemoryStore::new();
    let pipeline = |faults: Faults| {
        let mut config = PipelineConfig::default();
        config.gold_interval = Duration::from_secs(3_600);
        config.max_gold_interval = config.gold_interval;
        config.workers = 256;
        config.max_gold_bytes = 16 << 20;
        let source = MemorySource::new(topic.clone(), records.clone());
        let store = Arc::new(FaultyStore::new(store.handle(), faults));
        Pipeline::builder().source(source).store(store).config(config).build().unwrap()
    };
    runtime().block_on(async {
        // The first commit is of rows, of one partition at least.
        let first = pipeline(Faults::new().crash("commit", 1, Fault::Before));
        first.run(std::future::pending()).await.unwrap_err();
        let states = store.state(&topic, &[0, 1, 2]).await.unwrap();
        assert!(states.iter().any(|state| state.position(Table::Silver) > 0));
        assert!(states.iter().all(|state| state.position(Table::UsageMinute) == 0));

        let second = pipeline(Faults::new());
        let run = tokio::time::timeout(Duration::from_secs(60), second.run(std::future::pending()));
        assert!(run.await.expect("no waiting for the hour").unwrap().ended);
    });
}

/// A run that is asked to stop commits what it has read; the next one goes on there.
#[test]
fn a_stopped_run_keeps_what_it_read() {
    let records = records(11, 3_000);
    let topic = records[0].topic().clone();
    let store = MemoryStore::new();
    runtime().block_on(async {
        let pipeline = Pipeline::builder()
            .source(MemorySource::new(topic.clone(), records.clone()).with_cuts(|| 1))
            .store(Arc::new(store.handle()))
            .build()
            .unwrap();
        let mut events = pipeline.events();
        let report = pipeline
            .run(async move {
                while let Some(event) = events.next().await {
                    if matches!(event, PipelineEvent::CaughtUp { .. }) {
                        break;
                    }
                }
            })
            .await
            .unwrap();
        for (partition, position) in report.positions {
            let state = &store.state(&topic, &[partition]).await.unwrap()[0];
            assert!(Table::ALL.iter().all(|table| state.position(*table) == position), "{state:?}");
        }
    });
}

/// Other inputs, another catalog and other rules are told from those that the lake was filled with.
#[test]
fn what_does_not_fit_the_lake_is_refused() {
    let first = records(1, 500);
    let topic = first[0].topic().clone();
    let store = MemoryStore::new();
    let run = |records: Vec<RecordBatch>, rules: Rules, catalog: Catalog| {
        let pipeline = Pipeline::builder()
            .source(MemorySource::new(topic.clone(), records))
            .store(Arc::new(store.handle()))
            .rules(rules)
            .catalog(Arc::new(catalog))
            .build()
            .unwrap();
        runtime().block_on(pipeline.run(std::future::pending()))
    };
    run(first.clone(), Rules::default(), Catalog::default()).unwrap();
    let before = store.tables(&topic);

    let error = run(records(2, 500), Rules::default(), Catalog::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("other inputs"), "{error}");

    let rules = Rules { lateness_ms: 1, ..Rules::default() };
    let error = run(first.clone(), rules, Catalog::default()).unwrap_err();
    assert!(error.to_string().contains("rules.lateness_ms"), "{error}");

    let error = run(first[..2].to_vec(), Rules::default(), Catalog::default()).unwrap_err();
    assert!(error.to_string().contains("partitions"), "{error}");

    let shorter = first.iter().map(|batch| {
        let mut builder = RecordBatch::builder(topic.clone(), batch.partition(), 0);
        batch.iter().take(10).for_each(|r| builder.push(r.offset(), r.timestamp(), r.key(), r.payload()));
        let to = batch.get(9).offset() + 1;
        builder.finish(to)
    });
    let error = run(shorter.collect(), Rules::default(), Catalog::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");

    assert_eq!(store.tables(&topic), before, "a refused run changes nothing");
    run(first, Rules::default(), Catalog::default()).unwrap();
    assert_eq!(store.tables(&topic), before, "a second run adds nothing");
}
