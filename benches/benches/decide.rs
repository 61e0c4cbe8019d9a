//! What a decision costs, beside `governor` in the same run.
//!
//! They do not do the same work. `governor` keeps one rate a key (GCRA, one 64-bit cell) and says yes or no; a decision
//! here checks a minute, an hour and a month, counts all three, and says what remains. Both are on their default
//! clocks, and both find the key's state by its name in a sharded map.

use std::hint::black_box;
use std::num::NonZeroU32;

use criterion::{Criterion, criterion_group, criterion_main};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota};
use subscription_core::{Catalog, Limits, MemoryCounters, Timestamp, Usage, WindowAlgorithm, decide};

const TENANTS: usize = 10_000;

fn limits(window: WindowAlgorithm) -> Limits {
    Limits { per_minute: 1 << 40, per_hour: 1 << 40, per_month: 1 << 40, window }
}

/// Names in an order that caches cannot guess; the same for all.
fn tenants() -> Vec<String> {
    (0..TENANTS as u64).map(|i| format!("tenant-{:05}", (i * 7_919) % TENANTS as u64)).collect()
}

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    let tenants = tenants();
    let quota = Quota::per_second(NonZeroU32::MAX);

    for window in [WindowAlgorithm::Fixed, WindowAlgorithm::Sliding] {
        let limits = limits(window);
        let counters = MemoryCounters::new();
        group.bench_function(format!("subscription, {}, 1 tenant", window.as_str()), |b| {
            b.iter(|| counters.decide(black_box("tenant-00001"), &limits, 1));
        });
        let mut next = tenants.iter().cycle();
        group.bench_function(format!("subscription, {}, 10,000 tenants", window.as_str()), |b| {
            b.iter(|| counters.decide(next.next().expect("a cycle"), &limits, 1));
        });
    }
    let none = Limits { per_minute: 0, ..limits(WindowAlgorithm::Sliding) };
    let counters = MemoryCounters::new();
    counters.decide("tenant-00001", &limits(WindowAlgorithm::Sliding), 1);
    group.bench_function("subscription, denied", |b| {
        b.iter(|| counters.decide(black_box("tenant-00001"), &none, 1));
    });

    let direct = DefaultDirectRateLimiter::direct(quota);
    group.bench_function("governor, no key", |b| b.iter(|| direct.check().is_ok()));
    let keyed = DefaultKeyedRateLimiter::<String>::keyed(quota);
    let one = "tenant-00001".to_owned();
    group.bench_function("governor, 1 key", |b| b.iter(|| keyed.check_key(black_box(&one)).is_ok()));
    let mut next = tenants.iter().cycle();
    group.bench_function("governor, 10,000 keys", |b| {
        b.iter(|| keyed.check_key(next.next().expect("a cycle")).is_ok());
    });
    group.finish();
}

fn parts(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide, parts");
    let now = Timestamp::from_millis(1_780_271_430_123);
    let usage = Usage { minute: 30, previous_minute: 50, hour: 500, month: 5_000 };
    let catalog = Catalog::default();
    let free = Limits::from(catalog.plan("acme", "free", now).expect("a plan of the catalog"));
    group.bench_function("arithmetic, allowed", |b| {
        b.iter(|| decide(black_box(&free), black_box(&usage), 1, black_box(now)));
    });
    group.bench_function("arithmetic, denied", |b| {
        b.iter(|| decide(black_box(&free), black_box(&usage), 50, black_box(now)));
    });
    group.bench_function("catalog, terms", |b| {
        b.iter(|| catalog.terms(black_box("acme"), black_box("enterprise"), black_box(now)));
    });
    group.finish();
}

criterion_group!(benches, decisions, parts);
criterion_main!(benches);
