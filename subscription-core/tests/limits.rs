//! Decisions and counters, against the definitions written as plain loops.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;
use subscription_core::{
    Addition, Catalog, Check, Clock, CounterStore, Decision, Limits, MemoryCounters, Reason, Settled, Timestamp, Usage,
    WindowAlgorithm, WindowKind, decide,
};

/// 2026-05-31T23:50:00Z: an hour and a month end soon.
const START: i64 = 1_780_271_400_000;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

#[derive(Default)]
struct ManualClock(AtomicI64);

impl ManualClock {
    fn set(&self, millis: i64) {
        self.0.store(millis, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        at(self.0.load(Ordering::Relaxed))
    }

    fn monotonic_nanos(&self) -> u64 {
        self.0.load(Ordering::Relaxed) as u64 * 1_000_000
    }
}

fn counters_at(millis: i64) -> (Arc<ManualClock>, MemoryCounters) {
    let clock = Arc::new(ManualClock(AtomicI64::new(millis)));
    (clock.clone(), MemoryCounters::with_clock(clock))
}

fn free(window: WindowAlgorithm) -> Limits {
    Limits { window, ..Catalog::default().plan("acme", "free", Timestamp::EPOCH).unwrap().into() }
}

/// The worked example: fixed window, plan free.
#[test]
fn the_sixty_first_request_of_a_minute_is_denied() {
    let (clock, counters) = counters_at(START + 30_000);
    let limits = free(WindowAlgorithm::Fixed);
    for request in 1..=60 {
        let decision = counters.decide("acme", &limits, 1);
        assert!(decision.allowed, "request {request}");
        assert_eq!((decision.limit, decision.remaining), (60, 60 - request));
        assert_eq!((decision.binding, decision.reason), (WindowKind::Minute, Reason::WithinLimits));
        assert_eq!((decision.reset_seconds, decision.retry_after_seconds), (30, Some(0)));
    }
    let denied = counters.decide("acme", &limits, 1);
    let expected = Decision {
        allowed: false,
        limit: 60,
        remaining: 0,
        reset_seconds: 30,
        retry_after_seconds: Some(30),
        binding: WindowKind::Minute,
        scope: None,
        reason: Reason::LimitReached,
        at: at(START + 30_000),
    };
    assert_eq!(denied, expected);
    assert_eq!(counters.counters("acme").minute.live, 60);

    clock.set(START + 60_000);
    assert!(counters.decide("acme", &limits, 1).allowed);
    assert_eq!(counters.counters("acme").minute.live, 1);
    assert_eq!(counters.counters("acme").hour.live, 61);
}

/// The definition, with nothing clever: what is used of a limit at a time when no request came since `now`.
fn used_later(kind: WindowKind, window: WindowAlgorithm, usage: &Usage, now: i64, later: i64) -> i64 {
    let same = |kind: WindowKind| kind.start(at(now)) == kind.start(at(later));
    match (kind, window) {
        (WindowKind::Month, _) => {
            if same(kind) {
                usage.month
            } else {
                0
            }
        }
        (WindowKind::Hour, _) => {
            if same(kind) {
                usage.hour
            } else {
                0
            }
        }
        (WindowKind::Minute, WindowAlgorithm::Fixed) => {
            if same(kind) {
                usage.minute
            } else {
                0
            }
        }
        (WindowKind::Minute, WindowAlgorithm::Sliding) => {
            let (current, previous) = match later.div_euclid(60_000) - now.div_euclid(60_000) {
                0 => (usage.minute, usage.previous_minute),
                1 => (0, usage.minute),
                _ => (0, 0),
            };
            let elapsed = later.rem_euclid(60_000);
            current + (i128::from(previous) * i128::from(60_000 - elapsed) / 60_000) as i64
        }
    }
}

fn fits_later(limits: &Limits, usage: &Usage, cost: u32, now: i64, later: i64) -> bool {
    WindowKind::ALL
        .into_iter()
        .all(|kind| used_later(kind, limits.window, usage, now, later) + i64::from(cost) <= limits.of(kind))
}

fn windows() -> impl Strategy<Value = WindowAlgorithm> {
    prop::sample::select(vec![WindowAlgorithm::Fixed, WindowAlgorithm::Sliding])
}

/// Limits and usage near each other, so that every limit binds at times; small and large ones.
fn cases() -> impl Strategy<Value = (Limits, Usage, u32)> {
    let scale = prop::sample::select(vec![1i64, 7, 1_000, 70_000, 1_000_000_000_000]);
    let near = || (0..12i64, 0..3i64);
    (windows(), scale, [near(), near(), near()], [near(), near(), near(), near()], 0..6u32).prop_map(
        |(window, scale, limits, used, cost)| {
            let [per_minute, per_hour, per_month] = limits.map(|(a, b)| a * scale + b);
            let [minute, previous_minute, hour, month] = used.map(|(a, b)| a * scale + b);
            let usage = Usage { minute, previous_minute, hour: hour / 2, month: month / 3 };
            (Limits { per_minute, per_hour, per_month, window }, usage, cost)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The month ends within the 12 minutes that are tried second by second, and with it hour and minute.
    #[test]
    fn decisions_are_the_definition((limits, usage, cost) in cases(), now in START - 60_000..START + 600_000) {
        let decision = decide(&limits, &usage, cost, at(now));
        prop_assert_eq!(decision.allowed, fits_later(&limits, &usage, cost, now, now));
        prop_assert_eq!(decision.limit, limits.of(decision.binding));
        prop_assert_eq!(decision.at, at(now));
        let end = decision.binding.end(decision.binding.start(at(now))).millis();
        prop_assert_eq!(decision.reset_seconds as i64, (end - now + 999) / 1_000);

        let used = |kind| used_later(kind, limits.window, &usage, now, now);
        let taken = if decision.allowed { i64::from(cost) } else { 0 };
        prop_assert_eq!(decision.remaining, (decision.limit - used(decision.binding) - taken).max(0));
        if decision.allowed {
            let least = WindowKind::ALL.into_iter().map(|kind| limits.of(kind) - used(kind) - taken).min();
            prop_assert_eq!(Some(decision.remaining), least);
        } else {
            prop_assert!(used(decision.binding) + i64::from(cost) > decision.limit);
        }

        let by_second = (0..=780).find(|second| fits_later(&limits, &usage, cost, now, now + second * 1_000));
        prop_assert_eq!(decision.retry_after_seconds.map(|seconds| seconds as i64), by_second);
        let never = WindowKind::ALL.into_iter().any(|kind| i64::from(cost) > limits.of(kind));
        prop_assert_eq!(by_second.is_none(), never);
        prop_assert_eq!(decision.reason == Reason::CostAboveLimit, never);
    }

    /// Extreme counters and times give an answer, not a panic.
    #[test]
    fn nothing_overflows(
        limits in prop::array::uniform3(any::<i64>()),
        used in prop::array::uniform4(any::<i64>()),
        cost: u32,
        now: i64,
        window in windows(),
    ) {
        let [per_minute, per_hour, per_month] = limits;
        let [minute, previous_minute, hour, month] = used;
        let limits = Limits { per_minute, per_hour, per_month, window };
        let decision = decide(&limits, &Usage { minute, previous_minute, hour, month }, cost, at(now));
        prop_assert!(decision.remaining >= 0 || decision.limit < 0);
        prop_assert_eq!(decision.retry_after().is_some(), !decision.allowed && decision.reason == Reason::LimitReached);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Request { tenant: u8, cost: u32 },
    Settle { tenant: u8, kind: WindowKind, windows_ago: i64, used: i64 },
    Add { tenant: u8, ago: i64, cost: i64 },
    Wait { millis: i64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tenant = || 0..3u8;
    let kind = prop::sample::select(WindowKind::ALL.to_vec());
    let step = prop_oneof![
        6 => (tenant(), 0..4u32).prop_map(|(tenant, cost)| Step::Request { tenant, cost }),
        2 => (tenant(), kind, -1..4i64, 0..20i64)
            .prop_map(|(tenant, kind, windows_ago, used)| Step::Settle { tenant, kind, windows_ago, used }),
        1 => (tenant(), -30_000..150_000i64, 0..5i64).prop_map(|(tenant, ago, cost)| Step::Add { tenant, ago, cost }),
        2 => prop_oneof![0..5_000i64, 20_000..70_000i64, 200_000..4_000_000i64].prop_map(|millis| Step::Wait { millis }),
    ];
    prop::collection::vec(step, 1..120)
}

/// Counters kept for ever, a pair for each tenant and window.
#[derive(Default)]
struct Model(HashMap<(u8, WindowKind, Timestamp), (i64, i64)>);

impl Model {
    fn used(&self, tenant: u8, kind: WindowKind, start: Timestamp) -> i64 {
        self.0.get(&(tenant, kind, start)).map_or(0, |(live, settled)| *live.max(settled))
    }

    fn usage(&self, tenant: u8, now: Timestamp) -> Usage {
        let used = |kind: WindowKind| self.used(tenant, kind, kind.start(now));
        Usage {
            minute: used(WindowKind::Minute),
            previous_minute: self.used(tenant, WindowKind::Minute, WindowKind::Minute.start(now.plus_millis(-60_000))),
            hour: used(WindowKind::Hour),
            month: used(WindowKind::Month),
        }
    }

    fn add(&mut self, tenant: u8, at: Timestamp, cost: i64) {
        for kind in WindowKind::ALL {
            let (live, settled) = self.0.entry((tenant, kind, kind.start(at))).or_default();
            *live = (*live).max(*settled) + cost;
        }
    }
}

proptest! {
    #[test]
    fn counters_are_those_of_a_store_that_forgets_nothing(steps in steps(), window in windows()) {
        let limits = Limits { per_minute: 8, per_hour: 30, per_month: 60, window };
        let mut now = START;
        let (clock, counters) = counters_at(now);
        let mut model = Model::default();
        let name = |tenant: u8| format!("tenant-{tenant}");
        for step in steps {
            match step {
                Step::Request { tenant, cost } => {
                    let expected = decide(&limits, &model.usage(tenant, at(now)), cost, at(now));
                    prop_assert_eq!(counters.decide(&name(tenant), &limits, cost), expected);
                    if expected.allowed {
                        model.add(tenant, at(now), i64::from(cost));
                    }
                }
                Step::Settle { tenant, kind, windows_ago, used } => {
                    let length = if kind == WindowKind::Minute { 60_000 } else { 3_600_000 };
                    let start = kind.start(at(now - windows_ago * length));
                    let tenant_name = name(tenant);
                    let settled = Settled { tenant: &tenant_name, kind, window_start: start, quota_used: used };
                    counters.settle(&settled);
                    let (_, settled) = model.0.entry((tenant, kind, start)).or_default();
                    *settled = (*settled).max(used);
                }
                Step::Add { tenant, ago, cost } => {
                    counters.add(&Addition { tenant: &name(tenant), scope: "", at: at(now - ago), cost });
                    model.add(tenant, at(now - ago), cost);
                }
                Step::Wait { millis } => {
                    now += millis;
                    clock.set(now);
                }
            }
            for tenant in 0..3 {
                prop_assert_eq!(counters.counters(&name(tenant)).usage(), model.usage(tenant, at(now)));
            }
        }
    }
}

#[test]
fn threads_never_admit_more_than_the_limit() {
    const THREADS: usize = 8;
    let (_, counters) = counters_at(START);
    let limits = Limits { per_minute: 5_000, per_hour: 1 << 40, per_month: 1 << 40, window: WindowAlgorithm::Fixed };
    let tenants = ["a", "b", "c"];
    let start = std::sync::Barrier::new(THREADS);
    let admitted: Vec<[i64; 3]> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let mut admitted = [0; 3];
                    for request in 0..6_000 {
                        let tenant = request % 3;
                        admitted[tenant] += i64::from(counters.decide(tenants[tenant], &limits, 1).allowed);
                    }
                    admitted
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (index, tenant) in tenants.into_iter().enumerate() {
        assert_eq!(admitted.iter().map(|thread| thread[index]).sum::<i64>(), 5_000, "{tenant}");
        assert_eq!(counters.counters(tenant).minute.live, 5_000);
    }
}

#[test]
fn settled_is_a_floor_that_never_goes_down() {
    let (_, counters) = counters_at(START);
    let limits = free(WindowAlgorithm::Fixed);
    let settle = |quota_used| {
        counters.settle(&Settled { tenant: "acme", kind: WindowKind::Minute, window_start: at(START), quota_used });
    };
    settle(59);
    settle(10);
    assert!(counters.decide("acme", &limits, 1).allowed);
    assert!(!counters.decide("acme", &limits, 1).allowed);
    let minute = counters.counters("acme").minute;
    assert_eq!((minute.live, minute.settled), (60, 59));
    settle(70); // another gateway let more pass
    assert_eq!(counters.counters("acme").minute.used(), 70);
}

#[test]
fn memory_is_that_of_the_tenants_of_a_month() {
    let (clock, counters) = counters_at(START);
    let limits = free(WindowAlgorithm::Sliding);
    for tenant in 0..10_000 {
        assert!(counters.decide(&format!("may-{tenant}"), &limits, 1).allowed);
        assert!(!counters.decide(&format!("denied-{tenant}"), &limits, 1_000).allowed);
    }
    assert_eq!(counters.len(), 10_000);
    // Two minutes after the month the tenants of May make room for those of June.
    clock.set(START + 720_000);
    for tenant in 0..10_000 {
        assert!(counters.decide(&format!("june-{tenant}"), &limits, 1).allowed);
    }
    assert!(counters.len() < 20_000, "{}", counters.len());
    counters.evict_expired();
    assert_eq!(counters.len(), 10_000);
    assert_eq!(counters.counters("june-77").month.live, 1);
}

#[test]
fn the_trait_answers_as_the_type() {
    let (_, counters) = counters_at(START);
    let store: &dyn CounterStore = &counters;
    let limits = free(WindowAlgorithm::Fixed);
    let deadline = Duration::from_millis(5);
    let check = Check { tenant: "acme", limits, scopes: &[], cost: 1, at: None };
    assert_eq!(run(store.check_and_add(check, deadline)).unwrap().remaining, 59);
    run(store.add(&[Addition { tenant: "acme", scope: "", at: at(START), cost: 4 }], deadline)).unwrap();
    let settled = Settled { tenant: "acme", kind: WindowKind::Hour, window_start: at(START), quota_used: 7 };
    run(store.settle(&[settled], deadline)).unwrap();
    let later = Check { at: Some(at(START + 60_000)), ..check };
    assert_eq!(run(store.check_and_add(later, deadline)).unwrap().at, at(START + 60_000));
    let read = run(store.counters("acme", deadline)).unwrap();
    assert_eq!((read.minute.live, read.hour.live, read.hour.settled, read.month.live), (5, 8, 7, 6));
}

/// The result of a future that waits for nothing.
fn run<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("counters in memory wait for nothing"),
    }
}

#[test]
fn header_fields_say_what_the_decision_says() {
    let limits = Limits { per_minute: 60, per_hour: 1_000, per_month: 10_000, window: WindowAlgorithm::Sliding };
    let february = at(1_769_904_000_000); // 2026-02-01T00:00:00Z
    let policy = "\"minute\";q=60;w=60, \"hour\";q=1000;w=3600, \"month\";q=10000;w=2419200";
    assert_eq!(limits.rate_limit_policy(february), policy);

    let allowed = decide(&limits, &Usage::default(), 1, february);
    assert_eq!(allowed.rate_limit(), "\"minute\";r=59;t=60");
    assert_eq!((allowed.retry_after(), allowed.problem_json()), (None, None));

    // A sliding window has room before it ends: `t` is not after `Retry-After`.
    let usage = Usage { previous_minute: 60, minute: 10, hour: 10, month: 10 };
    let denied = decide(&limits, &usage, 1, february);
    assert_eq!((denied.reset_seconds, denied.retry_after_seconds), (60, Some(11)));
    assert_eq!(denied.rate_limit(), "\"minute\";r=0;t=11");
    assert_eq!(denied.retry_after().as_deref(), Some("11"));

    let over_quota = decide(&limits, &Usage { hour: 1_000, month: 2_000, ..Usage::default() }, 1, february);
    let problem: serde_json::Value = serde_json::from_str(&over_quota.problem_json().unwrap()).unwrap();
    assert_eq!(problem["status"], 429);
    assert_eq!(problem["violated-policies"], serde_json::json!(["hour"]));
    assert_eq!(problem["detail"], "the limit of 1000 an hour is reached; try again in 3600 s");

    let never = decide(&limits, &Usage::default(), 61, february);
    assert_eq!((never.retry_after(), never.rate_limit()), (None, "\"minute\";r=60;t=60".to_owned()));
    let problem: serde_json::Value = serde_json::from_str(&never.problem_json().unwrap()).unwrap();
    assert_eq!(problem["detail"], "the request costs more than the limit of 60 a minute");
}
