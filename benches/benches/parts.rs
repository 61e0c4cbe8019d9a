//! The parts of an event's way, each alone: microseconds an event are the reported time ÷ the batch's events.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use subscription_core::testkit::traffic::{Framing, Traffic, TrafficConfig};
use subscription_core::{
    AdmitEngine, AdmitStart, AggregateEngine, Catalog, Commit, EngineConfig, PartitionState, RecordBatch, Rules, Table,
    TableCommit, TableSpan, TableStore, peek,
};
use subscription_delta::{DeltaConfig, DeltaStore};

/// Events of one partition of eight, a million of traffic in all: long enough for memory to be as cold as it is.
fn records() -> Vec<RecordBatch> {
    let traffic = Traffic::new(TrafficConfig { events: 400_000, tenants: 10_000, ..TrafficConfig::steady(1) });
    traffic.to_batches(8, Framing::File, 2_000).into_iter().filter(|batch| batch.partition() == 0).collect()
}

fn parts(c: &mut Criterion) {
    let records = records();
    let events: u64 = records.iter().map(|batch| batch.len() as u64).sum();
    let config = Arc::new(EngineConfig::default());
    let admit = || AdmitEngine::new(config.clone(), records[0].topic().clone(), 0, AdmitStart::default());
    let aggregate = || {
        let (rules, catalog) = (Arc::new(Rules::default()), Arc::new(Catalog::default()));
        AggregateEngine::new(rules, catalog, 0, &PartitionState::default()).expect("an engine")
    };
    let mut engine = admit();
    let admitted: Vec<_> = records
        .iter()
        .map(|batch| {
            let mut prepared = AdmitEngine::prepare(&config, batch.clone());
            let asked = engine.lookups(&mut prepared).len();
            Arc::new(engine.apply(prepared, &vec![Vec::new(); asked]).expect("records in order"))
        })
        .collect();

    let mut group = c.benchmark_group("parts");
    group.sample_size(10).throughput(Throughput::Elements(events));
    group.bench_function("read: find key and time", |b| {
        b.iter(|| {
            records
                .iter()
                .flat_map(RecordBatch::iter)
                .for_each(|r| drop(black_box(peek(r.payload().unwrap_or_default()))))
        });
    });
    group.bench_function("parse and validate", |b| {
        b.iter(|| records.iter().for_each(|batch| drop(black_box(AdmitEngine::prepare(&config, batch.clone())))));
    });
    group.bench_function("deduplicate", |b| {
        let prepare =
            || (admit(), records.iter().map(|r| AdmitEngine::prepare(&config, r.clone())).collect::<Vec<_>>());
        b.iter_batched(
            prepare,
            |(mut engine, prepared)| {
                for mut prepared in prepared {
                    let asked = engine.lookups(&mut prepared).len();
                    drop(black_box(engine.apply(prepared, &vec![Vec::new(); asked])));
                }
                engine
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("windows", |b| {
        b.iter_batched(
            aggregate,
            |mut engine| {
                for admitted in &admitted {
                    drop(black_box(engine.apply(&admitted.accepted, admitted.records.to())));
                }
                engine
            },
            BatchSize::PerIteration,
        );
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for table in [Table::Bronze, Table::Silver] {
        group.bench_function(format!("encode and commit {}", table.name()), |b| {
            b.iter_batched(
                || {
                    let folder = tempfile::tempdir().expect("a folder");
                    let config = DeltaConfig::new(&folder.path().to_string_lossy()).expect("a path");
                    (runtime.block_on(DeltaStore::open(config)).expect("a lake"), folder)
                },
                |(store, folder)| {
                    let to = records.last().map_or(0, RecordBatch::to);
                    let span = TableSpan { partition: 0, from: 0, to, counters: Vec::new() };
                    let commit = Commit {
                        topic: records[0].topic().clone(),
                        tables: vec![TableCommit { table, spans: vec![span] }],
                        admitted: admitted.clone(),
                        ranges: Vec::new(),
                    };
                    runtime.block_on(store.commit(Arc::new(commit))).expect("a commit");
                    (store, folder)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, parts);
criterion_main!(benches);
