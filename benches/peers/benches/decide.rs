//! A decision, in memory and through Redis, beside `limitador` and `governor` in the same run.
//!
//! What each does in a call:
//!
//! * `subscription`: checks a minute, an hour and a month of a tenant and counts all three, in one step; says what remains.
//! * `limitador`: the same three limits, by a variable of the request, in fixed windows that begin with a counter's first request.
//!   Its context is made for each request, as a proxy has to.
//! * `governor`: one rate a key (GCRA), yes or no. Less work: it is here as the bound.
//!
//! All find a key's state by its name among 10,000. Through Redis one decision is made after the other, and that is not the same work:
//!
//! * `subscription`: one script, which checks all three and counts, or counts nothing: one way to the server and back.
//! * `limitador` 0.6 (0.7 and 0.14 do not compile without RocksDB): asks for the three counters, decides, and adds to each by a script:
//!   four ways, and between them others may have been admitted, so that it admits more than its limits under load.

#[path = "../../../subscription-redis/tests/it/server.rs"]
mod server;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use governor::{DefaultKeyedRateLimiter, Quota};
use limitador::RateLimiter;
use limitador::limit::{Context, Limit, Namespace};
use limitador_redis::limit::Limit as RedisLimit;
use limitador_redis::storage::redis::AsyncRedisStorage;
use server::Servers;
use subscription_core::{Check, CounterStore as _, Limits, MemoryCounters, WindowAlgorithm};
use subscription_redis::{RedisConfig, RedisCounters};

const TENANTS: usize = 10_000;
const MOST: i64 = 1 << 40;

fn limits(window: WindowAlgorithm) -> Limits {
    Limits { per_minute: MOST, per_hour: MOST, per_month: MOST, window }
}

/// Names in an order that caches cannot guess; the same for all.
fn tenants() -> Vec<String> {
    (0..TENANTS).map(|n| format!("tenant-{:05}", n * 7_919 % TENANTS)).collect()
}

/// A minute, an hour and thirty days, for each tenant by itself.
fn limitador_limits() -> [Limit; 3] {
    [60, 3_600, 30 * 86_400].map(|seconds| {
        let tenant = "tenant".try_into().expect("a variable");
        Limit::new("bench", MOST as u64, seconds, [], [tenant])
    })
}

fn context(tenant: &str) -> Context<'static> {
    HashMap::from([("tenant".to_owned(), tenant.to_owned())]).into()
}

fn in_memory(c: &mut Criterion) {
    let mut group = c.benchmark_group("in memory, 10,000 keys");
    let tenants = tenants();
    for window in [WindowAlgorithm::Fixed, WindowAlgorithm::Sliding] {
        let (counters, limits) = (MemoryCounters::new(), limits(window));
        each(&mut group, &format!("subscription, {}", window.as_str()), &tenants, |tenant| {
            assert!(counters.decide(tenant, &limits, 1).allowed);
        });
    }
    let limiter = RateLimiter::new(10 * TENANTS as u64);
    limitador_limits().into_iter().for_each(|limit| assert!(limiter.add_limit(limit)));
    let namespace = Namespace::from("bench");
    each(&mut group, "limitador", &tenants, |tenant| {
        let checked = limiter.check_rate_limited_and_update(&namespace, &context(tenant), 1).expect("counters");
        assert!(!checked.limited && checked.counters.len() == 3);
    });
    let governor = DefaultKeyedRateLimiter::<String>::keyed(Quota::per_second(NonZeroU32::MAX));
    group.bench_function("governor", |b| {
        let mut next = tenants.iter().cycle();
        b.iter(|| assert!(governor.check_key(next.next().expect("a cycle")).is_ok()));
    });
    group.finish();
}

fn through_redis(c: &mut Criterion) {
    const DEADLINE: Duration = Duration::from_secs(1);
    let Some(servers) = Servers::up(&[]) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = c.benchmark_group("through Redis, one after the other, 10,000 keys");
    let tenants = tenants();
    let config = RedisConfig::new(servers.url()).expect("a URL");
    let counters = runtime.block_on(RedisCounters::connect(config)).expect("a server");
    for window in [WindowAlgorithm::Fixed, WindowAlgorithm::Sliding] {
        let limits = limits(window);
        each(&mut group, &format!("subscription, {}", window.as_str()), &tenants, |tenant| {
            let check = Check { tenant, limits, scopes: &[], cost: 1, at: None };
            assert!(runtime.block_on(counters.check_and_add(check, DEADLINE)).expect("a decision").allowed);
        });
    }
    let storage = runtime.block_on(AsyncRedisStorage::new(servers.url())).expect("a server");
    let limiter = limitador_redis::AsyncRateLimiter::new_with_storage(Box::new(storage));
    for seconds in [60, 3_600, 30 * 86_400] {
        let none: [&str; 0] = [];
        assert!(limiter.add_limit(RedisLimit::new("bench", MOST, seconds, none, ["tenant"])));
    }
    let namespace = "bench".into();
    each(&mut group, "limitador 0.6", &tenants, |tenant| {
        let values = HashMap::from([("tenant".to_owned(), tenant.to_owned())]);
        let check = limiter.check_rate_limited_and_update(&namespace, &values, 1, false);
        assert!(!runtime.block_on(check).expect("counters").limited);
    });
    group.finish();
}

fn each(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, tenants: &[String], mut decide: impl FnMut(&str)) {
    let mut next = tenants.iter().cycle();
    group.bench_function(name, |b| b.iter(|| decide(next.next().expect("a cycle"))));
}

criterion_group!(benches, in_memory, through_redis);
criterion_main!(benches);
