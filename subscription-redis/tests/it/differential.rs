//! The script decides as core does: the same calls to a server and to counters in memory have the same answers.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use subscription_core::testkit::ManualClock;
use subscription_core::{
    Addition, Check, Clock, CounterStore, Limits, MemoryCounters, Scope, Settled, Timestamp, WindowAlgorithm,
    WindowKind,
};
use subscription_redis::{RedisConfig, RedisCounters};

use crate::server::{DEADLINE, Servers, connect};

/// 2026-05-31T23:50:00Z: an hour and a month end soon.
const START: i64 = 1_780_271_400_000;

const TENANTS: [&str; 3] = ["acme", "a}{b", "🔑"];
const SCOPES: [&str; 2] = ["key:k1", "route:/v1/{id}"];

#[derive(Debug, Clone)]
enum Step {
    Request { tenant: usize, scopes: usize, cost: u32 },
    Settle { tenant: usize, kind: WindowKind, windows_ago: i64, used: i64 },
    Add { tenant: usize, scope: usize, ago: i64, cost: i64 },
    Wait { millis: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tenant = || 0..TENANTS.len();
    let kind = prop::sample::select(WindowKind::ALL.to_vec());
    let step = prop_oneof![
        6 => (tenant(), 0..=SCOPES.len(), 0..4u32)
            .prop_map(|(tenant, scopes, cost)| Step::Request { tenant, scopes, cost }),
        2 => (tenant(), kind, -1..3i64, 0..20i64)
            .prop_map(|(tenant, kind, windows_ago, used)| Step::Settle { tenant, kind, windows_ago, used }),
        1 => (tenant(), 0..=SCOPES.len(), 0..90_000i64, -2..5i64)
            .prop_map(|(tenant, scope, ago, cost)| Step::Add { tenant, scope, ago, cost }),
        2 => prop_oneof![0..5_000u64, 20_000..70_000u64, 200_000..4_000_000u64].prop_map(|millis| Step::Wait { millis }),
    ];
    prop::collection::vec(step, 1..80)
}

fn limits() -> impl Strategy<Value = Limits> {
    let window = prop::sample::select(vec![WindowAlgorithm::Fixed, WindowAlgorithm::Sliding]);
    (1..12i64, 1..40i64, 1..80i64, window).prop_map(|(per_minute, per_hour, per_month, window)| Limits {
        per_minute,
        per_hour,
        per_month,
        window,
    })
}

/// A unit of everything: the greatest makes counters of fifteen digits, which a double must still hold exactly.
fn scales() -> impl Strategy<Value = i64> {
    prop::sample::select(vec![1, 1_000, 59_999, 12_345_678_901_234])
}

fn times(limits: Limits, scale: i64) -> Limits {
    let Limits { per_minute, per_hour, per_month, window } = limits;
    Limits { per_minute: per_minute * scale, per_hour: per_hour * scale, per_month: per_month * scale, window }
}

#[test]
fn a_server_answers_as_memory_does() {
    let Some(servers) = Servers::up(&[]) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
    let config = RedisConfig::new(servers.url()).expect("a URL").clock(clock.clone());
    let redis = runtime.block_on(connect(config));
    let mut runner = TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() });
    let mut run = 0;
    let run = std::cell::RefCell::new(&mut run);
    runner
        .run(&(steps(), limits(), limits(), scales()), |(steps, own, narrow, scale)| {
            **run.borrow_mut() += 1;
            let memory = MemoryCounters::with_clock(clock.clone());
            let case = Case { redis: &redis, memory, clock: &clock, own, narrow, scale, run: **run.borrow() };
            runtime.block_on(case.compare(steps))
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

struct Case<'a> {
    redis: &'a RedisCounters,
    memory: MemoryCounters,
    clock: &'a ManualClock,
    own: Limits,
    narrow: Limits,
    scale: i64,
    /// So that each case has tenants of its own.
    run: u64,
}

impl Case<'_> {
    async fn compare(self, steps: Vec<Step>) -> Result<(), TestCaseError> {
        let Self { redis, memory, clock, run, scale, .. } = &self;
        clock.set(Timestamp::from_millis(START));
        let names = TENANTS.map(|tenant| format!("{run}{tenant}"));
        let narrow = SCOPES.map(|name| Scope { name, limits: times(self.narrow, *scale) });
        let unit = u32::try_from(*scale).unwrap_or(u32::MAX);
        for step in steps {
            match step {
                Step::Request { tenant, scopes, cost } => {
                    let check = Check {
                        tenant: &names[tenant],
                        limits: times(self.own, *scale),
                        scopes: &narrow[..scopes],
                        cost: unit.saturating_mul(cost),
                        at: None,
                    };
                    let expected = memory.check_and_add(check, DEADLINE).await.expect("memory answers");
                    let answer = redis.check_and_add(check, DEADLINE).await.expect("the server answers");
                    prop_assert_eq!(answer, expected);
                }
                Step::Settle { tenant, kind, windows_ago, used } => {
                    let length = if kind == WindowKind::Minute { 60_000 } else { 3_600_000 };
                    let window_start = kind.start(clock.now().plus_millis(-windows_ago * length));
                    let value = Settled { tenant: &names[tenant], kind, window_start, quota_used: used * scale };
                    memory.settle(&value);
                    redis.settle(&[value], DEADLINE).await.expect("the server answers");
                }
                Step::Add { tenant, scope, ago, cost } => {
                    let scope = if scope == 0 { "" } else { SCOPES[scope - 1] };
                    let at = clock.now().plus_millis(-ago);
                    let addition = Addition { tenant: &names[tenant], scope, at, cost: cost * scale };
                    memory.add(&addition);
                    redis.add(&[addition], DEADLINE).await.expect("the server answers");
                }
                Step::Wait { millis } => clock.advance_millis(millis),
            }
            for tenant in &names {
                let answer = redis.counters(tenant, DEADLINE).await.expect("the server answers");
                prop_assert_eq!(answer.usage(), memory.counters(tenant).usage());
            }
        }
        Ok(())
    }
}
