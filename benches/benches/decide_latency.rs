//! The latency of single decisions: every call timed by itself, percentiles over 10 million of them, and what they
//! allocated; `governor` in the same run. `cargo bench -p subscription-benches --bench decide_latency`

use std::hint::black_box;
use std::num::NonZeroU32;

use governor::{DefaultKeyedRateLimiter, Quota};
use subscription_core::{Clock, Limits, MemoryCounters, SystemClock, WindowAlgorithm};

const TENANTS: u64 = 10_000;

fn main() {
    // Without `--bench`, as under `cargo test --benches`, only whether it runs.
    let calls = if std::env::args().any(|arg| arg == "--bench") { 10_000_000 } else { 10_000 };
    let tenants: Vec<String> = (0..TENANTS).map(|i| format!("tenant-{:05}", (i * 7_919) % TENANTS)).collect();
    let limits = |window| Limits { per_minute: 1 << 40, per_hour: 1 << 40, per_month: 1 << 40, window };

    println!("{calls} calls of {TENANTS} tenants, each timed by itself; nanoseconds");
    println!("{:32} {:>7} {:>7} {:>7} {:>7} {:>9}  allocations", "ns a call", "p50", "p99", "p99.9", "p99.99", "max");
    row("the clock alone", &tenants, calls, |_| true);
    let counters = MemoryCounters::new();
    for window in [WindowAlgorithm::Fixed, WindowAlgorithm::Sliding] {
        let limits = limits(window);
        let name = format!("subscription, {}", window.as_str());
        row(&name, &tenants, calls, |tenant| counters.decide(tenant, &limits, 1).allowed);
    }
    let keyed = DefaultKeyedRateLimiter::<String>::keyed(Quota::per_second(NonZeroU32::MAX));
    row("governor, keyed", &tenants, calls, |tenant| keyed.check_key(tenant).is_ok());
}

fn row(name: &str, tenants: &[String], calls: usize, mut decide: impl FnMut(&String) -> bool) {
    let clock = SystemClock::new();
    // Every tenant is known, and every page of the result there, before the first call that counts.
    assert!(tenants.iter().all(&mut decide));
    let mut nanos = vec![u32::MAX; calls];
    let allocated = allocation_counter::measure(|| {
        for (slot, tenant) in nanos.iter_mut().zip(tenants.iter().cycle()) {
            let before = clock.monotonic_nanos();
            let allowed = black_box(decide(black_box(tenant)));
            let after = clock.monotonic_nanos();
            assert!(allowed);
            *slot = u32::try_from(after - before).unwrap_or(u32::MAX);
        }
    });
    nanos.sort_unstable();
    // Nearest rank.
    let percentile = |share: f64| nanos[((calls as f64 * share).ceil() as usize).clamp(1, calls) - 1];
    println!(
        "{name:32} {:>7} {:>7} {:>7} {:>7} {:>9}  {}",
        percentile(0.5),
        percentile(0.99),
        percentile(0.999),
        percentile(0.9999),
        percentile(1.0),
        allocated.count_total,
    );
}
