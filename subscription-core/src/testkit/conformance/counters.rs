//! The contract of [`CounterStore`].

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crate::counter::{Addition, Check, CounterStore, Scope, Settled, TenantCounters};
use crate::limit::{Decision, Limits, Reason, Usage, decide};
use crate::plan::WindowAlgorithm;
use crate::time::{MINUTE, Timestamp, WindowKind};

/// Far longer than any call takes: the suite is about answers, not about time.
const DEADLINE: Duration = Duration::from_secs(10);

/// Tenants that a store may take for each other where it builds names of them.
const NAMES: [&str; 14] =
    ["a", "A", "a}", "{a}", "a{b}", "}{", "a:b", "a:m", "a\nb", "a b", "a%7D", "", "ключ", "\u{1f511}\u{0}"];

/// Runs all checks of a [`CounterStore`]. `store` may hold counters of other tests; tenants are named apart by `run`.
///
/// # Panics
/// If the store breaks the contract.
pub async fn counter_store<S: CounterStore + ?Sized>(store: &S, run: &str) {
    let suite = Suite { store, run };
    suite.decisions().await;
    suite.costs().await;
    suite.floors().await;
    suite.additions().await;
    suite.tenants_are_apart().await;
    suite.scopes().await;
    suite.callers_time().await;
    suite.concurrency().await;
}

struct Suite<'a, S: ?Sized> {
    store: &'a S,
    run: &'a str,
}

fn limits(per_minute: i64, per_hour: i64, per_month: i64) -> Limits {
    Limits { per_minute, per_hour, per_month, window: WindowAlgorithm::Fixed }
}

impl<S: CounterStore + ?Sized> Suite<'_, S> {
    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.run)
    }

    async fn check(&self, tenant: &str, limits: Limits, cost: u32, at: Option<Timestamp>) -> Decision {
        let check = Check { tenant, limits, scopes: &[], cost, at };
        self.store.check_and_add(check, DEADLINE).await.expect("a decision")
    }

    async fn counters(&self, tenant: &str) -> TenantCounters {
        self.store.counters(tenant, DEADLINE).await.expect("counters")
    }

    async fn settle(&self, tenant: &str, kind: WindowKind, at: Timestamp, quota_used: i64) {
        let value = Settled { tenant, kind, window_start: kind.start(at), quota_used };
        self.store.settle(&[value], DEADLINE).await.expect("to settle");
    }

    /// Runs a case again, with another tenant, until the clock stood in one minute all through it.
    async fn within_a_minute(&self, what: &str, case: impl AsyncFn(&str, Timestamp)) {
        for attempt in 0.. {
            let tenant = self.name(&format!("{what}-{attempt}"));
            let before = self.counters(&tenant).await.at;
            // Near the end of a minute a failure may be the clock's: wait for the next one.
            if before.millis().rem_euclid(MINUTE) > MINUTE - 5_000 && attempt < 1_000_000 {
                continue;
            }
            case(&tenant, before).await;
            return;
        }
    }

    async fn decisions(&self) {
        self.within_a_minute("decisions", async |tenant, _| {
            let limits = limits(5, 100, 100);
            let start = self.counters(tenant).await;
            assert_eq!(start.usage(), Usage::default(), "a tenant never seen has used nothing");
            for used in 0..5 {
                let decision = self.check(tenant, limits, 1, None).await;
                let usage = Usage { minute: used, previous_minute: 0, hour: used, month: used };
                assert_eq!(decision, decide(&limits, &usage, 1, decision.at), "request {}", used + 1);
                assert!(decision.allowed && decision.at >= start.at);
            }
            for _ in 0..3 {
                let decision = self.check(tenant, limits, 1, None).await;
                let usage = Usage { minute: 5, previous_minute: 0, hour: 5, month: 5 };
                assert_eq!(decision, decide(&limits, &usage, 1, decision.at), "the limit is reached");
                assert!(!decision.allowed);
            }
            let counters = self.counters(tenant).await;
            assert_eq!(
                [counters.minute.live, counters.hour.live, counters.month.live],
                [5; 3],
                "denied ones add nothing"
            );
        })
        .await;
    }

    async fn costs(&self) {
        self.within_a_minute("costs", async |tenant, _| {
            let limits = limits(10, 12, 100);
            assert!(self.check(tenant, limits, 7, None).await.allowed);
            assert!(!self.check(tenant, limits, 4, None).await.allowed, "7 and 4 are more than 10");
            assert!(self.check(tenant, limits, 0, None).await.allowed, "nothing always fits where there is room");
            let never = self.check(tenant, limits, 13, None).await;
            assert_eq!((never.reason, never.retry_after_seconds), (Reason::CostAboveLimit, None));
            assert!(self.check(tenant, limits, 3, None).await.allowed, "7 and 3 are 10");
            let counters = self.counters(tenant).await;
            assert_eq!(counters.usage(), Usage { minute: 10, previous_minute: 0, hour: 10, month: 10 });
            let wider = Limits { per_minute: 1_000, ..limits };
            let denied = self.check(tenant, wider, 3, None).await;
            assert_eq!((denied.allowed, denied.binding), (false, WindowKind::Hour), "10 and 3 are more than 12");
        })
        .await;
    }

    async fn floors(&self) {
        self.within_a_minute("floors", async |tenant, at| {
            let limits = limits(50, 100, 100);
            assert!(self.check(tenant, limits, 2, None).await.allowed);
            for value in [9, 9, 3, -1] {
                self.settle(tenant, WindowKind::Minute, at, value).await;
                let minute = self.counters(tenant).await.minute;
                assert_eq!(minute.settled, 9, "settled never goes down");
            }
            self.settle(tenant, WindowKind::Hour, at, 98).await;
            self.settle(tenant, WindowKind::Month, at, 1).await;
            let used = self.counters(tenant).await.usage();
            assert_eq!(used, Usage { minute: 9, previous_minute: 0, hour: 98, month: 2 }, "the greater one counts");
            assert!(self.check(tenant, limits, 2, None).await.allowed);
            let counters = self.counters(tenant).await;
            let live = [counters.minute.live, counters.hour.live, counters.month.live];
            assert_eq!(live, [11, 100, 4], "live is raised to settled before it is added to");
            let denied = self.check(tenant, limits, 1, None).await;
            assert_eq!((denied.allowed, denied.binding), (false, WindowKind::Hour));

            // Many in one call, each by itself; windows long over are no error.
            let others: Vec<String> = (0..100).map(|n| format!("{tenant}-{n}")).collect();
            let value = |n: usize, kind: WindowKind, at| Settled {
                tenant: &others[n],
                kind,
                window_start: kind.start(at),
                quota_used: n as i64,
            };
            let mut values: Vec<_> = (0..100).map(|n| value(n, WindowKind::Minute, at)).collect();
            values.extend((0..100).map(|n| value(n, WindowKind::Month, at)));
            values.push(value(1, WindowKind::Minute, Timestamp::EPOCH));
            self.store.settle(&values, DEADLINE).await.expect("many values");
            self.store.settle(&[], DEADLINE).await.expect("no values");
            for n in [0, 1, 50, 99] {
                let counters = self.counters(&others[n]).await;
                assert_eq!(
                    [counters.minute.settled, counters.hour.settled, counters.month.settled],
                    [n as i64, 0, n as i64]
                );
            }
        })
        .await;
    }

    async fn additions(&self) {
        self.within_a_minute("additions", async |tenant, at| {
            let (own, scope) =
                (Addition { tenant, scope: "", at, cost: 70 }, Addition { tenant, scope: "key:k", at, cost: 3 });
            self.store.add(&[own, own, scope], DEADLINE).await.expect("additions");
            self.store.add(&[], DEADLINE).await.expect("no additions");
            let counters = self.counters(tenant).await;
            assert_eq!(counters.usage(), Usage { minute: 140, previous_minute: 0, hour: 140, month: 140 });
            let before = Addition { at: at.plus_millis(-MINUTE), cost: 5, ..own };
            self.store.add(&[before], DEADLINE).await.expect("an addition to the minute before");
            let counters = self.counters(tenant).await;
            assert_eq!((counters.previous_minute.live, counters.minute.live), (5, 140));
            let scopes = [Scope { name: "key:k", limits: limits(3, 1_000, 1_000) }];
            let check = Check { tenant, limits: limits(1_000, 1_000, 1_000), scopes: &scopes, cost: 1, at: None };
            let denied = self.store.check_and_add(check, DEADLINE).await.expect("a decision");
            assert_eq!(
                (denied.allowed, denied.scope, denied.limit),
                (false, Some(0), 3),
                "scopes are added to as well"
            );
        })
        .await;
    }

    async fn tenants_are_apart(&self) {
        self.within_a_minute("apart", async |prefix, at| {
            let wide = limits(1_000, 1_000, 1_000);
            let long = "x".repeat(5_000);
            let names: Vec<String> =
                NAMES.iter().copied().chain([&*long]).map(|name| format!("{prefix}{name}")).collect();
            for (n, name) in names.iter().enumerate() {
                assert!(self.check(name, wide, n as u32 + 1, None).await.allowed);
                self.settle(name, WindowKind::Hour, at, 100 + n as i64).await;
            }
            for (n, name) in names.iter().enumerate() {
                let counters = self.counters(name).await;
                let n = n as i64;
                assert_eq!([counters.minute.live, counters.hour.settled], [n + 1, 100 + n], "tenant {name:?}");
            }
        })
        .await;
    }

    async fn scopes(&self) {
        self.within_a_minute("scopes", async |tenant, _| {
            let (own, key) = (limits(10, 1_000, 1_000), limits(2, 1_000, 1_000));
            let check = async |name: &str, cost| {
                let scopes = [Scope { name, limits: key }, Scope { name: "route:/v1", limits: limits(9, 9, 9) }];
                let check = Check { tenant, limits: own, scopes: &scopes, cost, at: None };
                self.store.check_and_add(check, DEADLINE).await.expect("a decision")
            };
            let first = check("key:1", 1).await;
            assert_eq!((first.allowed, first.scope, first.remaining), (true, Some(0), 1), "the tightest is named");
            assert!(check("key:1", 1).await.allowed);
            let denied = check("key:1", 1).await;
            assert_eq!((denied.allowed, denied.scope, denied.limit), (false, Some(0), 2));
            assert_eq!(self.counters(tenant).await.usage().minute, 2, "a request that a scope denies adds to none");
            assert!(check("key:2", 1).await.allowed, "scopes are apart");
            let other = self.name("scopes-of-another");
            let scopes = [Scope { name: "key:1", limits: key }];
            let elsewhere = Check { tenant: &other, limits: own, scopes: &scopes, cost: 1, at: None };
            assert!(
                self.store.check_and_add(elsewhere, DEADLINE).await.expect("a decision").allowed,
                "and so are tenants'"
            );
            // What the tenant's own limit denies adds to no scope.
            assert!(self.check(tenant, own, 7, None).await.allowed);
            assert_eq!(check("key:3", 1).await.scope, None);
            let raised = Check {
                tenant,
                limits: limits(100, 1_000, 1_000),
                scopes: &[Scope { name: "key:3", limits: limits(1, 1, 1) }],
                cost: 1,
                at: None,
            };
            assert!(self.store.check_and_add(raised, DEADLINE).await.expect("a decision").allowed);
        })
        .await;
    }

    async fn callers_time(&self) {
        self.within_a_minute("time", async |tenant, now| {
            let start = WindowKind::Minute.start(now);
            let at = |millis| Some(start.plus_millis(millis));
            let fixed = limits(2, 1_000, 1_000);
            let sliding = Limits { window: WindowAlgorithm::Sliding, ..fixed };
            for millis in [59_998, 59_999] {
                let decision = self.check(tenant, fixed, 1, at(millis)).await;
                assert_eq!((decision.allowed, decision.at), (true, start.plus_millis(millis)));
            }
            assert!(!self.check(tenant, fixed, 1, at(59_999)).await.allowed);
            // 2 × 60,000 ÷ 60,000 = 2; ⌊2 × 30,000 ÷ 60,000⌋ = 1; ⌊2 × 29,999 ÷ 60,000⌋ = 0.
            assert!(!self.check(tenant, sliding, 1, at(60_000)).await.allowed);
            assert!(!self.check(tenant, sliding, 2, at(90_000)).await.allowed);
            assert!(self.check(tenant, sliding, 2, at(90_001)).await.allowed);
            assert!(!self.check(tenant, fixed, 1, at(90_002)).await.allowed, "2 of 2 in the next minute");
        })
        .await;
    }

    async fn concurrency(&self) {
        self.within_a_minute("concurrency", async |tenant, _| {
            let limits = limits(100, 1_000, 1_000);
            let calls = (0..250).map(|_| self.check(tenant, limits, 1, None));
            let decisions = together(calls).await;
            let mut remaining: Vec<_> = decisions.iter().filter(|d| d.allowed).map(|d| d.remaining).collect();
            remaining.sort_unstable();
            assert_eq!(remaining, Vec::from_iter(0..100), "as if one came after the other");
            assert_eq!(self.counters(tenant).await.minute.live, 100);
        })
        .await;
    }
}

/// The outputs of futures that run at the same time.
async fn together<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<Pin<Box<F>>> = futures.map(Box::pin).collect();
    let mut outputs = Vec::new();
    poll_fn(|context| {
        running.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Ready(output) => {
                outputs.push(output);
                false
            }
            Poll::Pending => true,
        });
        if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs
}
