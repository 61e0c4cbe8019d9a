//! An enforcer before a store that comes and goes: what may pass, by its published bounds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;
use subscription_core::testkit::{ManualClock, block_on};
use subscription_core::*;

/// 2026-05-31T23:50:00Z: an hour and a month end soon.
const START: i64 = 1_780_271_400_000;

/// Counters in memory that do not answer while they are told so.
struct Switched {
    counters: MemoryCounters,
    down: AtomicBool,
    asked: AtomicU64,
}

impl Switched {
    fn up(&self) -> Result<()> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.down.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::Unavailable, "it is down").retryable()),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl CounterStore for Switched {
    async fn check_and_add(&self, check: Check<'_>, deadline: Duration) -> Result<Decision> {
        if check.tenant == "broken" {
            return Err(Error::new(ErrorKind::Corrupt, "not a counter"));
        }
        self.up()?;
        self.counters.check_and_add(check, deadline).await
    }

    async fn add(&self, additions: &[Addition<'_>], deadline: Duration) -> Result<()> {
        self.up()?;
        CounterStore::add(&self.counters, additions, deadline).await
    }

    async fn settle(&self, values: &[Settled<'_>], deadline: Duration) -> Result<()> {
        CounterStore::settle(&self.counters, values, deadline).await
    }

    async fn counters(&self, tenant: &str, deadline: Duration) -> Result<TenantCounters> {
        self.up()?;
        CounterStore::counters(&self.counters, tenant, deadline).await
    }

    fn shard(&self, tenant: &str) -> usize {
        tenant.len()
    }
}

struct Gateways {
    clock: Arc<ManualClock>,
    store: Arc<Switched>,
    gateways: Vec<Enforcer>,
}

fn gateways(n: u32, near_cache: Option<NearCacheConfig>) -> Gateways {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
    let counters = MemoryCounters::with_clock(clock.clone());
    let store = Arc::new(Switched { counters, down: AtomicBool::new(false), asked: AtomicU64::new(0) });
    let mut config = EnforcerConfig::default();
    config.replicas = n;
    config.near_cache = near_cache;
    let gateways = (0..n).map(|_| Enforcer::new(store.clone(), clock.clone(), config).expect("an enforcer")).collect();
    Gateways { clock, store, gateways }
}

fn limits(per_minute: i64, window: WindowAlgorithm) -> Limits {
    Limits { per_minute, per_hour: 2_000, per_month: 5_000, window }
}

fn ask(gateway: &Enforcer, tenant: &str, limits: Limits, cost: u32, policy: FailurePolicy) -> Outcome {
    block_on(gateway.decide(Check { tenant, limits, scopes: &[], cost, at: None }, policy))
}

#[derive(Debug, Clone)]
enum Step {
    Requests { gateway: usize, count: u32, cost: u32 },
    Flush { gateway: usize },
    Down,
    Up,
    Wait { millis: u64 },
}

fn steps(failures: bool) -> impl Strategy<Value = Vec<Step>> {
    let gateway = || 0..4usize;
    let step = prop_oneof![
        8 => (gateway(), 1..40u32, 1..4u32)
            .prop_map(|(gateway, count, cost)| Step::Requests { gateway, count, cost }),
        2 => gateway().prop_map(|gateway| Step::Flush { gateway }),
        1 => if failures { Just(Step::Down).boxed() } else { gateway().prop_map(|gateway| Step::Flush { gateway }).boxed() },
        2 => Just(Step::Up),
        3 => prop_oneof![0..150u64, 0..5_000u64, 20_000..70_000u64].prop_map(|millis| Step::Wait { millis }),
    ];
    prop::collection::vec(step, 1..200)
}

/// Runs the steps with one tenant; answers what was admitted in each window, and by which gateway in each.
fn admitted(all: &Gateways, steps: &[Step], limits: Limits) -> HashMap<(WindowKind, Timestamp), Vec<i64>> {
    let mut admitted: HashMap<_, Vec<i64>> = HashMap::new();
    for step in steps {
        match step {
            Step::Requests { gateway, count, cost } => {
                for _ in 0..*count {
                    let outcome = ask(&all.gateways[*gateway], "acme", limits, *cost, FailurePolicy::Local);
                    assert_eq!(outcome.decision.at, all.clock.now());
                    if outcome.decision.allowed {
                        for kind in WindowKind::ALL {
                            let window = (kind, kind.start(outcome.decision.at));
                            admitted.entry(window).or_insert_with(|| vec![0; 4])[*gateway] += i64::from(*cost);
                        }
                    }
                }
            }
            Step::Flush { gateway } => block_on(all.gateways[*gateway].flush()),
            Step::Down => all.store.down.store(true, Ordering::Relaxed),
            Step::Up => all.store.down.store(false, Ordering::Relaxed),
            Step::Wait { millis } => all.clock.advance_millis(*millis),
        }
    }
    admitted
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn near_caches_admit_no_more_than_their_bound(steps in steps(false), share in 0.01..1.0f64, per_minute in 1..500i64) {
        let mut near = NearCacheConfig::default();
        near.share = share;
        let all = gateways(4, Some(near));
        let limits = limits(per_minute, WindowAlgorithm::Fixed);
        for ((kind, start), by_gateway) in admitted(&all, &steps, limits) {
            let (limit, sum) = (limits.of(kind), by_gateway.iter().sum::<i64>());
            let bound = limit + 4 * ((share * limit as f64 / 4.0) as i64);
            prop_assert!(sum <= bound, "{sum} in the {kind} of {start}, of {limit} and at most {bound}");
        }
        // Once told, the store has all that was admitted.
        let month = |kind: WindowKind| kind.start(all.clock.now());
        let sum: u64 = all.gateways.iter().map(|gateway| gateway.stats().allowed).sum();
        all.gateways.iter().for_each(|gateway| block_on(gateway.flush()));
        let counted = all.store.counters.counters("acme").month.live;
        prop_assert!(counted as u64 >= sum || month(WindowKind::Month) > Timestamp::from_millis(START));
        prop_assert_eq!(all.gateways.iter().map(|gateway| gateway.stats().maybe_lost).sum::<u64>(), 0);
    }

    #[test]
    fn local_shares_admit_no_more_than_their_bound(steps in steps(true), per_minute in 1..500i64) {
        let all = gateways(4, None);
        let limits = limits(per_minute, WindowAlgorithm::Fixed);
        for ((kind, start), by_gateway) in admitted(&all, &steps, limits) {
            let (limit, sum) = (limits.of(kind), by_gateway.iter().sum::<i64>());
            // The store admits L at most, and each gateway its share besides.
            let bound = limit + 4 * (limit / 4);
            prop_assert!(sum <= bound, "{sum} in the {kind} of {start}, of {limit} and at most {bound}");
            // One gateway knows what it has admitted, until what it told the store was lost on the way.
            for (admitted, gateway) in by_gateway.iter().zip(&all.gateways) {
                let lost = gateway.stats().maybe_lost as i64;
                prop_assert!(*admitted <= limit + lost, "{admitted} at one gateway, {lost} lost");
            }
        }
    }

    /// A single gateway's share is the whole: whenever the store fails, no limit is exceeded but by what was lost.
    #[test]
    fn one_gateway_never_admits_more_than_the_limit(steps in steps(true), per_minute in 1..500i64) {
        let all = gateways(4, None);
        let mut config = EnforcerConfig::default();
        config.replicas = 1;
        let one = Enforcer::new(all.store.clone(), all.clock.clone(), config).expect("an enforcer");
        let all = Gateways { gateways: vec![one], ..all };
        let steps: Vec<_> = steps.into_iter().map(|step| match step {
            Step::Requests { count, cost, .. } => Step::Requests { gateway: 0, count, cost },
            Step::Flush { .. } => Step::Flush { gateway: 0 },
            other => other,
        }).collect();
        let limits = limits(per_minute, WindowAlgorithm::Fixed);
        for ((kind, start), by_gateway) in admitted(&all, &steps, limits) {
            let (limit, sum) = (limits.of(kind), by_gateway[0]);
            let lost = all.gateways[0].stats().maybe_lost as i64;
            prop_assert!(sum <= limit + lost, "{sum} in the {kind} of {start}, of {limit}; {lost} lost");
        }
    }
}

#[test]
fn policies_decide_while_the_store_is_down_and_it_is_told_afterwards() {
    let all = gateways(3, None);
    let gateway = &all.gateways[0];
    let limits = limits(60, WindowAlgorithm::Sliding);
    all.store.down.store(true, Ordering::Relaxed);
    for (tenant, policy, passing) in
        [("open", FailurePolicy::Open, 100), ("closed", FailurePolicy::Closed, 0), ("local", FailurePolicy::Local, 20)]
    {
        let outcomes: Vec<_> = (0..100).map(|_| ask(gateway, tenant, limits, 1, policy)).collect();
        assert!(outcomes.iter().all(|outcome| outcome.by == DecidedBy::Policy(policy)));
        assert_eq!(outcomes.iter().filter(|outcome| outcome.decision.allowed).count(), passing, "{tenant}");
        assert_eq!(outcomes.iter().filter(|outcome| outcome.error.is_some()).count(), 5, "{tenant}: then none asks");
    }
    let denied = ask(gateway, "closed", limits, 1, FailurePolicy::Closed).decision;
    assert_eq!((denied.reason, denied.retry_after_seconds), (Reason::StoreUnavailable, Some(1)));
    assert!(gateway.is_degraded());
    assert_eq!((gateway.stats().unavailable, gateway.stats().open_breakers), (15, 3));

    // One request tries the store every 250 ms, and all wait for that one.
    let asked = || all.store.asked.load(Ordering::Relaxed);
    let before = asked();
    for _ in 0..4 {
        all.clock.advance_millis(250);
        (0..10).for_each(|_| drop(ask(gateway, "open", limits, 1, FailurePolicy::Open)));
    }
    assert_eq!(asked() - before, 4);
    block_on(gateway.flush());
    assert_eq!(asked() - before, 5, "what cannot be reached is not told, but asked where no request did");

    all.store.down.store(false, Ordering::Relaxed);
    all.clock.advance_millis(250);
    for tenant in ["open", "closed", "local"] {
        assert_eq!(ask(gateway, tenant, limits, 0, FailurePolicy::Local).by, DecidedBy::Store, "{tenant}");
    }
    assert!(!gateway.is_degraded());
    block_on(gateway.flush());
    let used = |tenant: &str| all.store.counters.counters(tenant).minute.live;
    assert_eq!((used("open"), used("closed"), used("local")), (140, 0, 20));
    assert_eq!((gateway.stats().added, gateway.stats().maybe_lost), (160, 0));
    block_on(gateway.flush());
    assert_eq!(gateway.stats().added, 160, "once");
}

/// Fewer requests than open a circuit breaker are no reason to send the store what it cannot take.
#[test]
fn what_is_owed_waits_for_a_store_that_answers() {
    let all = gateways(1, None);
    let gateway = &all.gateways[0];
    all.store.down.store(true, Ordering::Relaxed);
    for tenant in ["a", "b"] {
        let outcome = ask(gateway, tenant, limits(60, WindowAlgorithm::Fixed), 2, FailurePolicy::Local);
        assert!(outcome.decision.allowed && outcome.error.is_some() && !gateway.is_degraded());
        block_on(gateway.flush());
    }
    all.store.down.store(false, Ordering::Relaxed);
    all.clock.advance_millis(250);
    block_on(gateway.flush());
    assert!(["a", "b"].iter().all(|tenant| all.store.counters.counters(tenant).minute.live == 2));
    assert_eq!((gateway.stats().added, gateway.stats().maybe_lost), (4, 0));
}

#[test]
fn no_share_is_granted_by_an_answer_that_does_not_know_what_was_spent() {
    let mut near = NearCacheConfig::default();
    near.share = 0.5;
    let all = gateways(1, Some(near));
    let by = || ask(&all.gateways[0], "acme", limits(100, WindowAlgorithm::Fixed), 1, FailurePolicy::Local).by;
    assert_eq!((by(), by()), (DecidedBy::Store, DecidedBy::NearCache));
    all.clock.advance_millis(150);
    all.store.down.store(true, Ordering::Relaxed);
    assert_eq!(by(), DecidedBy::Policy(FailurePolicy::Local));
    block_on(all.gateways[0].flush());
    all.store.down.store(false, Ordering::Relaxed);
    assert_eq!((by(), by()), (DecidedBy::Store, DecidedBy::Store));
    block_on(all.gateways[0].flush());
    assert_eq!((by(), by()), (DecidedBy::Store, DecidedBy::NearCache));
}

/// A tenant at its limit by what the store was not told yet is denied without asking it. Where all tenants are, no request would
/// ever find out that the store is back.
#[test]
fn a_store_that_is_back_is_noticed_where_all_tenants_are_at_their_limit() {
    let all = gateways(1, None);
    let gateway = &all.gateways[0];
    let limits = limits(60, WindowAlgorithm::Fixed);
    all.store.down.store(true, Ordering::Relaxed);
    let ask = || ask(gateway, "local", limits, 1, FailurePolicy::Local);
    assert_eq!((0..100).filter(|_| ask().decision.allowed).count(), 60);
    all.clock.advance_millis(250);
    block_on(gateway.flush());
    assert!(gateway.is_degraded(), "it is asked, and still down");
    all.store.down.store(false, Ordering::Relaxed);
    all.clock.advance_millis(249);
    block_on(gateway.flush());
    assert!(gateway.is_degraded(), "not asked again so soon");
    all.clock.advance_millis(1);
    assert_eq!(ask().by, DecidedBy::Policy(FailurePolicy::Local), "requests do not ask");
    block_on(gateway.flush());
    assert!(!gateway.is_degraded());
    assert_eq!(all.store.counters.counters("local").minute.live, 60);
    assert_eq!((gateway.stats().added, gateway.stats().maybe_lost), (60, 0));
    let outcome = ask();
    assert_eq!((outcome.by, outcome.decision.allowed), (DecidedBy::Store, false));
}

#[test]
fn scopes_have_shares_and_debts_too() {
    let all = gateways(2, None);
    let gateway = &all.gateways[0];
    all.store.down.store(true, Ordering::Relaxed);
    let scopes = [Scope { name: "key:k1", limits: limits(10, WindowAlgorithm::Fixed) }];
    let check =
        Check { tenant: "acme", limits: limits(60, WindowAlgorithm::Fixed), scopes: &scopes, cost: 1, at: None };
    let outcomes: Vec<_> = (0..20).map(|_| block_on(gateway.decide(check, FailurePolicy::Local))).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.decision.allowed).count(), 5);
    assert_eq!(outcomes[19].decision.scope, Some(0));
    all.store.down.store(false, Ordering::Relaxed);
    all.clock.advance_millis(250);
    assert_eq!(block_on(gateway.decide(check, FailurePolicy::Local)).decision.remaining, 9);
    block_on(gateway.flush());
    assert_eq!(block_on(gateway.decide(check, FailurePolicy::Local)).decision.remaining, 3);
    assert_eq!((all.store.counters.counters("acme").minute.live, gateway.stats().added), (7, 5));
}

/// More than one gateway's share of a limit is not more than the limit: to come back later is no mistake.
#[test]
fn what_is_above_a_share_is_not_above_the_limit() {
    let all = gateways(10, None);
    all.store.down.store(true, Ordering::Relaxed);
    let limits = limits(60, WindowAlgorithm::Fixed);
    let denied = ask(&all.gateways[0], "acme", limits, 10, FailurePolicy::Local).decision;
    assert_eq!((denied.reason, denied.retry_after_seconds, denied.limit), (Reason::StoreUnavailable, Some(1), 60));
    let never = ask(&all.gateways[0], "acme", limits, 61, FailurePolicy::Local).decision;
    assert_eq!((never.allowed, never.reason, never.retry_after_seconds), (false, Reason::CostAboveLimit, None));
}

#[test]
fn one_tenants_broken_counters_are_no_failure_of_the_store() {
    let all = gateways(1, None);
    let gateway = &all.gateways[0];
    for _ in 0..20 {
        let outcome = ask(gateway, "broken", limits(60, WindowAlgorithm::Fixed), 1, FailurePolicy::Local);
        assert_eq!(outcome.error.map(|error| error.kind()), Some(ErrorKind::Corrupt));
    }
    assert!(!gateway.is_degraded());
    assert_eq!((gateway.stats().failed, gateway.stats().unavailable), (20, 0));
}

#[test]
fn tenants_far_below_their_limit_are_decided_in_process() {
    let all = gateways(1, Some(NearCacheConfig::default()));
    let gateway = &all.gateways[0];
    let limits = limits(1_000, WindowAlgorithm::Fixed);
    let by = || ask(gateway, "acme", limits, 1, FailurePolicy::Local);
    assert_eq!(by().by, DecidedBy::Store);
    for n in 0..99 {
        let outcome = by();
        assert_eq!((outcome.by, outcome.decision.remaining), (DecidedBy::NearCache, 998 - n));
    }
    assert_eq!(by().by, DecidedBy::Store, "a tenth of 999 is spent");
    assert_eq!(by().by, DecidedBy::Store, "and nothing is granted before the store knows");
    assert_eq!(all.store.counters.counters("acme").minute.live, 3);
    block_on(gateway.flush());
    assert_eq!(all.store.counters.counters("acme").minute.live, 102);
    assert_eq!(by().by, DecidedBy::Store);
    assert_eq!(by().by, DecidedBy::NearCache);
    all.clock.advance_millis(100);
    assert_eq!(by().by, DecidedBy::Store, "a share is for an interval");
    // A tenant that has used half of its limit is near enough to be asked about.
    assert!(ask(gateway, "acme", limits, 500, FailurePolicy::Local).decision.allowed);
    block_on(gateway.flush());
    assert_eq!([by().by, by().by], [DecidedBy::Store; 2]);
}

#[test]
fn senseless_settings_are_refused() {
    let all = gateways(1, None);
    let make = |change: fn(&mut EnforcerConfig)| {
        let mut config = EnforcerConfig::default();
        change(&mut config);
        Enforcer::new(all.store.clone(), all.clock.clone(), config).map_err(|error| error.kind())
    };
    assert!(make(|_| {}).is_ok());
    assert_eq!(make(|config| config.replicas = 0).unwrap_err(), ErrorKind::Configuration);
    assert_eq!(make(|config| config.breaker_failures = 0).unwrap_err(), ErrorKind::Configuration);
    let near = |share| {
        let mut near = NearCacheConfig::default();
        near.share = share;
        let mut config = EnforcerConfig::default();
        config.near_cache = Some(near);
        Enforcer::new(all.store.clone(), all.clock.clone(), config).is_err()
    };
    assert_eq!([0.0, 1.5, f64::NAN, 1.0].map(near), [true, true, true, false]);
}
