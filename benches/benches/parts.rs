//! The parts of an event's way, each alone: microseconds an event are the reported time ÷ the batch's events.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use subscription_benches::{Parts, lake};
use subscription_core::Table;

fn parts(c: &mut Criterion) {
    let parts = Parts::new();
    let mut group = c.benchmark_group("parts");
    group.sample_size(10).throughput(Throughput::Elements(parts.events()));
    group.bench_function("read: find key and time", |b| b.iter(|| parts.read()));
    group.bench_function("parse and validate", |b| b.iter_with_large_drop(|| parts.parse()));
    group.bench_function("deduplicate", |b| {
        b.iter_batched(
            || (parts.admit_engine(), parts.parse()),
            |(mut engine, prepared)| {
                parts.deduplicate(&mut engine, prepared);
                engine
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("windows", |b| {
        b.iter_batched(
            || parts.aggregate_engine().expect("an engine"),
            |mut engine| {
                parts.windows(&mut engine).expect("events in order");
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
                    (runtime.block_on(lake(folder.path())).expect("a lake"), folder)
                },
                |(store, folder)| {
                    runtime.block_on(parts.commit(&store, table)).expect("a commit");
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
